/* veddb-storaged/commands/write_targets.c — see write_common.h: the records that a statement is
 * about, found in short reading stretches, then changed one by one in write transactions. */
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/timeseries.h"

typedef struct {
    stor_writes_t *writes;
    const stor_targets_spec_t *spec;
    stor_target_change_t *change;
    void *context;
    const stor_plan_t *plan;
    stor_source_t *source; /* NULL: one key is all there is */
    vd_arena_t *arena;     /* of plan and source: the request's is rewound on the way */
    vd_arena_t *scratch;   /* of the source's matching */
    vd_arena_mark_t fresh;
    bool done, began; /* began: something may have been changed */
    uint32_t count;
    vd_slice_t keys[STOR_TARGETS_MAX];
} targets_t;

void stor_targets_filter(stor_targets_spec_t *spec, vd_arena_t *arena, const stor_filter_t *filter)
{
    spec->filter = filter;
    spec->version = stor_filter_version(filter);
    spec->rest = stor_filter_without_version(arena, filter);
}

static int version_required(const stor_writes_t *writes, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_VERSION_REQUIRED,
                        "%s takes no update without the version that it is of: add {$version: n} "
                        "to the filter (cas: \"required\")",
                        writes->collection->ns);
}

/* An update that may insert is asked when it has found something to change. */
int stor_writes_cas(const stor_writes_t *writes, const stor_targets_spec_t *spec, vd_error_t *err)
{
    stor_cas_t cas = writes->collection->cas;
    if (cas == STOR_CAS_OFF && spec->version != 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "%s does not check versions: $version is not allowed (cas: \"off\")",
                            writes->collection->ns);
    return cas == STOR_CAS_REQUIRED && spec->updates && spec->version == 0 && !spec->upsert
               ? version_required(writes, err)
               : VD_OK;
}

/* Whether the record is meant. One that is, but for its version, is remembered. */
static int record_matches(const targets_t *targets, vd_bson_t document, uint64_t version,
                          stor_match_t *match, bool *ret_matches, vd_error_t *err)
{
    stor_writes_t *writes = targets->writes;
    const stor_targets_spec_t *spec = targets->spec;
    bool stale = false;
    match->version = version;
    int rc = stor_match_document(spec->filter, document, match, ret_matches, err);
    if (rc != VD_OK || *ret_matches || spec->version == 0 || spec->version == version)
        return rc;
    rc = stor_match_document(spec->rest, document, match, &stale, err);
    if (rc == VD_OK && stale) {
        writes->stale_version = version;
        stor_request_depends(writes->request, version);
    }
    return rc;
}

static int stale_error(stor_writes_t *writes, const stor_targets_spec_t *spec, vd_error_t *err)
{
    vd_arena_t *arena = writes->request->arena;
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t details;
    vd_error_set(err, VD_ERR_STALE_VERSION,
                 "the document is of version %llu now, not %llu: read it again",
                 (unsigned long long)writes->stale_version, (unsigned long long)spec->version);
    vd_bb_init_arena(bb, arena, 256);
    vd_bb_begin_document(bb, "errInfo");
    vd_bb_int64(bb, "version", (int64_t)writes->stale_version);
    vd_bb_int64(bb, "expected", (int64_t)spec->version);
    vd_bb_close(bb);
    if (vd_bb_finish(bb, &details, NULL) == VD_OK && err != NULL)
        err->details = vd_slice(details.data, details.len);
    return VD_ERR_STALE_VERSION;
}

static void query_spec(const targets_t *targets, stor_query_spec_t *ret)
{
    const stor_targets_spec_t *spec = targets->spec;
    *ret = (stor_query_spec_t){.collection_id = targets->writes->collection->id,
                               .filter = spec->filter,
                               .variables = spec->variables,
                               .natural = spec->natural,
                               .hint = spec->hint,
                               .limit = spec->multi ? 0 : 1,
                               .writes = true};
}

static int targets_open(targets_t *targets, bool fresh, vd_error_t *err)
{
    stor_request_t *request = targets->writes->request;
    stor_query_spec_t spec;
    uint64_t budget; /* not kept to: what was changed can't be found anew */
    query_spec(targets, &spec);
    if (targets->arena == NULL) {
        targets->arena = vd_arena_create();
        targets->scratch = vd_arena_create();
        targets->fresh = vd_arena_mark(targets->scratch);
    }
    int rc = stor_planner_plan(targets->arena, request, &spec,
                               fresh ? STOR_PLANNER_FRESH : STOR_PLANNER_CACHED, &targets->plan,
                               &budget, NULL, err);
    if (rc != VD_OK)
        return rc;
    stor_read_plan_summary(request, stor_plan_kind_name(targets->plan->access->kind));
    stor_source_options_t options = {.collection_id = spec.collection_id,
                                     .plan = targets->plan,
                                     .variables = spec.variables,
                                     .writes = true,
                                     .once = targets->spec->multi};
    return stor_source_open(targets->arena, &options, &targets->source, err);
}

static void targets_close(targets_t *targets)
{
    stor_source_close(&targets->source);
    vd_arena_destroy(&targets->arena);
    vd_arena_destroy(&targets->scratch);
}

/* An index is gone or has met its first array: planned anew while nothing was changed. */
static int targets_again(targets_t *targets, vd_error_t *step, vd_error_t *err)
{
    if (!targets->began) {
        targets->began = true; /* once */
        stor_source_close(&targets->source);
        return targets_open(targets, true, err);
    }
    if (strstr(step->message, "became multikey") != NULL) {
        stor_source_go_on(targets->source);
        return VD_OK;
    }
    vd_error_copy(step, err);
    return VD_ERR_QUERY_PLAN_KILLED;
}

/* Keys of the next records that match: not more than one transaction changes, nor more than one
 * stretch gave, so that they are fresh. */
static int targets_find(targets_t *targets, vd_error_t *err)
{
    stor_request_t *request = targets->writes->request;
    const stor_targets_spec_t *spec = targets->spec;
    stor_match_t match = {.arena = targets->scratch, .variables = spec->variables};
    uint32_t most = spec->multi ? STOR_TARGETS_MAX : 1;
    uint64_t yields = 0;
    int rc = VD_OK;
    targets->count = 0;
    while (targets->count < most && (targets->count == 0 || request->yields == yields)) {
        stor_found_t found;
        bool matches = false;
        vd_error_t step = VD_ERROR_INIT;
        vd_arena_rewind(targets->scratch, targets->fresh);
        rc = stor_source_next(targets->source, request, targets->scratch, &found, &step);
        if (rc == VD_ERR_QUERY_PLAN_KILLED) {
            targets->began |= targets->count > 0;
            rc = targets_again(targets, &step, err);
            if (rc != VD_OK)
                break;
            continue;
        }
        if (rc == VD_OK)
            rc = record_matches(targets, found.document, found.version, &match, &matches, &step);
        if (rc != VD_OK) {
            if (rc != VD_ERR_NOT_FOUND && err != NULL)
                vd_error_copy(&step, err);
            break;
        }
        if (!matches)
            continue;
        if (targets->count == 0)
            yields = request->yields;
        targets->keys[targets->count++] = vd_arena_copy_slice(request->arena, found.key);
    }
    stor_source_release(targets->source);
    targets->done = rc == VD_ERR_NOT_FOUND;
    targets->began |= targets->count > 0;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int change_one(targets_t *targets, vd_slice_t key, size_t *bytes, stor_tally_t *tally,
                      vd_error_t *err)
{
    stor_request_t *request = targets->writes->request;
    const stor_targets_spec_t *spec = targets->spec;
    stor_match_t match = {.arena = request->arena, .variables = spec->variables};
    vd_arena_mark_t mark = vd_arena_mark(request->arena);
    vd_error_t step = VD_ERROR_INIT;
    stor_record_t record;
    bool matches = false;
    int rc = stor_request_check(request, &step);
    if (rc == VD_OK)
        rc = stor_write_read(&targets->writes->write, key, &record, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK; /* gone, meanwhile or always */
    vd_bson_t shown = VD_BSON_NONE;
    if (rc == VD_OK && targets->writes->collection->timeseries.is)
        rc = stor_timeseries_shown(request->arena, record.document, &shown, &step);
    else if (rc == VD_OK)
        shown = record.document;
    if (rc == VD_OK)
        rc = record_matches(targets, shown, record.version, &match, &matches, &step);
    if (rc == VD_OK && matches && spec->updates && spec->version == 0 &&
        targets->writes->collection->cas == STOR_CAS_REQUIRED)
        rc = version_required(targets->writes, &step);
    if (rc == VD_OK && matches) {
        *bytes += record.document.len;
        rc = targets->change(targets->context, &record, &match, tally, &step);
    }
    if (rc != VD_OK)
        vd_error_copy(&step, err);
    else if (spec->multi || !matches) /* else results may stand there */
        vd_arena_rewind(request->arena, mark);
    return rc;
}

/* One transaction: at most `most` keys from *at, which is moved behind what is committed. */
static int change_some(targets_t *targets, uint32_t most, uint32_t *at, stor_tally_t *tally,
                       vd_error_t *err)
{
    stor_writes_t *writes = targets->writes;
    size_t bytes = 0;
    uint32_t next = *at;
    int rc = stor_write_begin(&writes->write, err);
    while (rc == VD_OK && next < targets->count && next - *at < most &&
           bytes < STOR_WRITE_GROUP_MAX_BYTES &&
           writes->write.bytes_delta < STOR_WRITE_GROUP_MAX_BYTES) {
        rc = change_one(targets, targets->keys[next], &bytes, tally, err);
        next += rc == VD_OK;
    }
    bool keep = targets->spec->multi && writes->write.changes > 0 && rc != VD_ERR_WRITE_CONFLICT &&
                !stor_writes_is_fatal(rc);
    if (rc != VD_OK && !keep) {
        stor_writes_undo(writes);
        return rc;
    }
    /* The records before one that fails stay changed. */
    vd_error_t step = VD_ERROR_INIT;
    int commit_rc = stor_writes_commit(writes, &step);
    if (commit_rc != VD_OK) {
        vd_error_copy(&step, err);
        return commit_rc;
    }
    *at = next;
    return rc;
}

static int targets_change(targets_t *targets, stor_tally_t *tally, vd_error_t *err)
{
    stor_writes_t *writes = targets->writes;
    vd_arena_t *arena = writes->request->arena;
    uint32_t most = targets->count;
    for (uint32_t at = 0; at < targets->count;) {
        stor_tally_t before = *tally;
        vd_arena_mark_t mark = vd_arena_mark(arena);
        vd_error_t step = VD_ERROR_INIT;
        int rc = change_some(targets, most, &at, tally, &step);
        if (rc == VD_OK)
            continue;
        *tally = before;
        if (rc == VD_ERR_WRITE_CONFLICT)
            vd_arena_rewind(arena, mark);
        rc = stor_writes_again(writes, rc, &step);
        if (rc != VD_OK) {
            vd_error_copy(&step, err);
            return rc;
        }
        most = 1;
    }
    return VD_OK;
}

/* Between transactions of a long statement. It goes on in the same collection or not at all. */
static int let_others(stor_writes_t *writes, vd_error_t *err)
{
    uint64_t id = writes->collection->id;
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    if (writes->request->transaction != NULL)
        return VD_OK;
    stor_writes_yield(writes);
    int rc = stor_catalog_acquire_id(writes->request, id, &collection, &step);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND)
        return vd_error_set(err, VD_ERR_LOCATION(175),
                            "collection dropped. UUID lookup failed"); /* QueryPlanKilled */
    if (rc == VD_OK)
        writes->collection = writes->write.collection = collection;
    else
        vd_error_copy(&step, err);
    return rc;
}

int stor_writes_point_key(vd_arena_t *arena, const stor_filter_t *filter, vd_slice_t *ret_key,
                          vd_error_t *err)
{
    vd_value_t id = stor_filter_id_equality(filter);
    *ret_key = VD_SLICE_NULL;
    if (vd_value_is_missing(id) || id.type == VD_BSON_OBJECT || id.type == VD_BSON_ARRAY ||
        id.type == VD_BSON_REGEX || id.type == VD_BSON_UNDEFINED)
        return VD_OK;
    return stor_id_key(arena, id, ret_key, err);
}

int stor_writes_key(stor_writes_t *writes, const stor_targets_spec_t *spec, vd_slice_t key,
                    stor_target_change_t *change, void *context, stor_tally_t *ret_tally,
                    vd_error_t *err)
{
    targets_t targets;
    stor_tally_t tally = {0, 0};
    targets.writes = writes;
    targets.spec = spec;
    targets.change = change;
    targets.context = context;
    targets.count = 1;
    targets.keys[0] = key;
    int rc = targets_change(&targets, &tally, err);
    writes->request->documents_examined += tally.n > 0;
    *ret_tally = tally;
    return rc;
}

static int each(stor_writes_t *writes, const stor_targets_spec_t *spec,
                stor_target_change_t *change, void *context, stor_tally_t *ret_tally,
                vd_error_t *err)
{
    vd_arena_t *arena = writes->request->arena;
    vd_slice_t key;
    int rc = stor_writes_point_key(arena, spec->filter, &key, err);
    if (rc != VD_OK)
        return rc;
    bool series = writes->collection != NULL && writes->collection->timeseries.is;
    if (key.len > 0 && !series && !stor_read_hints_index(spec->hint)) {
        stor_read_plan_summary(writes->request, stor_plan_kind_name(STOR_PLAN_IDHACK));
        if (writes->collection != NULL)
            atomic_fetch_add_explicit(&writes->collection->id_accesses, 1, memory_order_relaxed);
        return stor_writes_key(writes, spec, key, change, context, ret_tally, err);
    }
    targets_t targets = {.writes = writes, .spec = spec, .change = change, .context = context};
    stor_tally_t tally = {0, 0};
    rc = targets_open(&targets, false, err);
    while (rc == VD_OK && !targets.done) {
        vd_arena_mark_t mark = vd_arena_mark(arena);
        rc = targets_find(&targets, err);
        if (rc == VD_OK)
            rc = targets_change(&targets, &tally, err);
        if (rc != VD_OK || (!spec->multi && tally.n > 0))
            break; /* details of the error, or results, stand in the arena */
        vd_arena_rewind(arena, mark);
        if (!targets.done)
            rc = let_others(writes, err);
    }
    targets_close(&targets);
    *ret_tally = tally;
    return rc;
}

int stor_writes_each(stor_writes_t *writes, const stor_targets_spec_t *spec,
                     stor_target_change_t *change, void *context, stor_tally_t *ret_tally,
                     vd_error_t *err)
{
    writes->stale_version = 0;
    int rc = stor_writes_cas(writes, spec, err);
    if (rc == VD_OK)
        rc = each(writes, spec, change, context, ret_tally, err);
    if (rc == VD_OK && ret_tally->n == 0 && writes->stale_version != 0)
        rc = stale_error(writes, spec, err);
    return rc;
}

static int change_nothing(void *context, const stor_record_t *record, const stor_match_t *match,
                          stor_tally_t *tally, vd_error_t *err)
{
    (void)context, (void)record, (void)match, (void)tally, (void)err;
    return VD_OK;
}

int stor_writes_stale(stor_writes_t *writes, const stor_targets_spec_t *spec, vd_error_t *err)
{
    stor_tally_t tally = {0, 0};
    return spec->version == 0 ? VD_OK
                              : stor_writes_each(writes, spec, change_nothing, NULL, &tally, err);
}
