/* veddb-storaged/commands/aggregate_out.c — $out and $merge: writes what a pipeline gives.
 *
 * Reading and writing take turns: some documents are taken, everything that was read from is let
 * go, then they are written in one transaction. So no collection is held while another is waited
 * for, and no snapshot is open while something is written. */
#include "veddb-storaged/commands/aggregate_out.h"
#include "libcommon/base/log.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/commands/write_common.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/timeseries.h"

#include <ctype.h>

#define ROUND_DOCUMENTS_MAX 500
#define ROUND_BYTES_MAX     STOR_WRITE_GROUP_MAX_BYTES
#define TEMPORARY           "tmp.agg_out."

typedef struct {
    stor_request_t *request;
    stor_sources_t *sources;
    stor_pipeline_t *pipeline;
    const stor_output_t *output;
    bool bypass;
    vd_slice_t target; /* collection that is written: $out's is a temporary one */
    stor_writes_t writes;
    /* a round */
    vd_bson_t documents[ROUND_DOCUMENTS_MAX];
    uint32_t count;
    bool done;
    const stor_index_t *on; /* $merge: whose fields find documents; NULL: _id. While it is held */
} job_t;

static const stor_writes_class_t out_class = {.kind = STOR_WRITES_INSERT, .name = "aggregate"};

/* ---- reading ---- */

static void let_go(job_t *job)
{
    stor_pipeline_release(job->pipeline);
    stor_catalog_release_all(job->request);
}

static int take_round(job_t *job, vd_error_t *err)
{
    stor_request_t *request = job->request;
    size_t bytes = 0;
    int rc = stor_sources_acquire(job->sources, request, err);
    job->count = 0;
    while (rc == VD_OK && job->count < ROUND_DOCUMENTS_MAX && bytes < ROUND_BYTES_MAX) {
        vd_bson_t document;
        rc = stor_pipeline_next(job->pipeline, request, &document, err);
        if (rc != VD_OK)
            break;
        job->documents[job->count++] =
            (vd_bson_t){vd_arena_copy(request->arena, document.data, document.len), document.len};
        bytes += document.len;
    }
    job->done = rc == VD_ERR_NOT_FOUND;
    let_go(job);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* ---- writing ---- */

/* Writes one document in the open transaction. */
typedef int write_one_t(job_t *job, vd_bson_t document, vd_error_t *err);

static int hold_target(job_t *job, bool create, vd_error_t *err)
{
    stor_request_t *request = job->request;
    stor_collection_t *collection = NULL;
    int rc = create ? stor_catalog_acquire_or_create(request, job->output->db, job->target,
                                                     &collection, err)
                    : stor_catalog_acquire(request, job->output->db, job->target, &collection, err);
    job->writes.collection = job->writes.write.collection = collection;
    return rc;
}

static void let_target_go(job_t *job)
{
    stor_writes_yield(&job->writes);
}

/* Documents from *at on, at most `most`, in one transaction. On an error *at is the one that
 * failed. */
static int write_some(job_t *job, uint32_t most, uint32_t *at, write_one_t *write, vd_error_t *err)
{
    stor_writes_t *writes = &job->writes;
    uint32_t i = *at;
    int rc = stor_write_begin(&writes->write, err);
    for (uint32_t n = 0; rc == VD_OK && n < most && i < job->count; n++, i++) {
        rc = stor_request_check(job->request, err);
        if (rc == VD_OK)
            rc = write(job, job->documents[i], err);
        if (rc != VD_OK)
            break;
    }
    if (rc == VD_OK) {
        rc = stor_writes_commit(writes, err);
        if (rc == VD_OK)
            *at = i;
        return rc;
    }
    stor_writes_undo(writes);
    if (rc != VD_ERR_WRITE_CONFLICT)
        *at = i;
    return rc;
}

/* Those before one that fails are written. */
static int write_round(job_t *job, write_one_t *write, vd_error_t *err)
{
    vd_arena_t *arena = job->request->arena;
    const stor_collection_t *target = job->writes.collection;
    uint32_t at = 0, most = target != NULL && target->capped.is ? 1 : job->count;
    int rc = VD_OK;
    job->writes.write.attempts = 0;
    while (rc == VD_OK && at < job->count) {
        vd_error_t step = VD_ERROR_INIT;
        uint32_t first = at;
        vd_arena_mark_t mark = vd_arena_mark(arena);
        rc = write_some(job, most, &at, write, &step);
        if (rc == VD_ERR_WRITE_CONFLICT) {
            vd_arena_rewind(arena, mark);
            rc = stor_writes_again(&job->writes, rc, &step);
            most = 1; /* two large transactions could meet for ever */
        } else if (rc != VD_OK && !stor_writes_is_fatal(rc) && at > first) {
            most = at - first; /* those before it go in, then it is tried alone */
            at = first;
            rc = VD_OK;
        } else if (rc == VD_OK) {
            most = most < job->count && at < job->count ? 1 : most;
            vd_arena_rewind(arena, mark);
        }
        if (rc != VD_OK)
            vd_error_copy(&step, err);
    }
    return rc;
}

static int prepare(job_t *job, vd_bson_t document, vd_bson_t *ret_document, vd_slice_t *ret_key,
                   vd_error_t *err)
{
    stor_request_t *request = job->request;
    uint64_t now = (uint64_t)(request->variables.now_ms / 1000) << 32 | (uint32_t)request->number;
    int rc = stor_document_prepare(request->arena, document, now, ret_document, err);
    return rc == VD_OK
               ? stor_id_key(request->arena, vd_bson_get(*ret_document, "_id"), ret_key, err)
               : rc;
}

static int insert_one(job_t *job, vd_bson_t document, vd_error_t *err)
{
    stor_write_t *write = &job->writes.write;
    vd_slice_t key;
    int rc = prepare(job, document, &document, &key, err);
    if (rc == VD_OK)
        rc = stor_write_validate(write, document, NULL, job->bypass, err);
    if (rc == VD_OK && write->collection->timeseries.is)
        return stor_timeseries_insert(write, document, -1, err);
    return rc == VD_OK ? stor_write_insert(write, key, document, -1, err) : rc;
}

/* ---- $merge ---- */

static int update_with_pipeline(job_t *job, vd_bson_t document, const stor_record_t *old,
                                vd_bson_t *ret_document, bool *ret_changed, vd_error_t *err)
{
    const stor_output_t *output = job->output;
    vd_arena_t *arena = job->request->arena;
    stor_match_t match = {.arena = arena, .variables = output->variables, .array_position = -1};
    stor_expr_env_t env;
    stor_expr_env_init(&env, arena, output->variables);
    stor_expr_env_document(&env, document);
    int rc = stor_variables_bind(output->variables, VD_SLICE_LIT("new"),
                                 vd_value_from_document(document), err);
    for (uint32_t i = 0; rc == VD_OK && i < output->let_count; i++) {
        vd_value_t value;
        rc = stor_expr_eval(output->let_exprs[i], &env, &value, err);
        if (rc == VD_OK)
            rc = stor_variables_bind(output->variables, output->let_names[i], value, err);
    }
    return rc == VD_OK ? stor_update_apply(output->update, arena, old->document, &match,
                                           ret_document, ret_changed, err)
                       : rc;
}

static int update_with_fields(job_t *job, vd_bson_t document, const stor_record_t *old,
                              vd_bson_t *ret_document, bool *ret_changed, vd_error_t *err)
{
    vd_arena_t *arena = job->request->arena;
    stor_match_t match = {.arena = arena, .array_position = -1};
    stor_update_t *update;
    vd_bb_t bb;
    vd_bson_t set;
    vd_bb_init_arena(&bb, arena, 2 * VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_document(&bb, "$set", document);
    int rc = vd_bb_finish(&bb, &set, err);
    stor_update_options_t options = {.update = vd_value_from_document(set),
                                     .variables = &job->request->variables};
    if (rc == VD_OK)
        rc = stor_update_parse(arena, &options, &update, err);
    return rc == VD_OK ? stor_update_apply(update, arena, old->document, &match, ret_document,
                                           ret_changed, err)
                       : rc;
}

static int merge_duplicate(job_t *job, const stor_record_t *old, vd_error_t *err)
{
    vd_slice_t name = job->on == NULL ? VD_SLICE_LIT("_id_") : job->on->def->name;
    vd_bb_t bb;
    vd_bson_t key;
    vd_bb_init_arena(&bb, job->request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    for (uint32_t i = 0; i < job->output->on_count; i++)
        vd_bb_value(&bb, job->output->on[i].text,
                    vd_bson_get_path(old->document, job->output->on[i].text));
    int rc = vd_bb_finish(&bb, &key, err);
    return rc == VD_OK
               ? vd_error_set(err, VD_ERR_DUPLICATE_KEY,
                              "E11000 duplicate key error collection: %s index: %.*s dup key: %s",
                              job->writes.collection->ns, VD_SLICE_FMT(name),
                              vd_bson_to_json(job->request->arena, key, 200))
               : rc;
}

static int merge_matched(job_t *job, vd_bson_t document, const stor_record_t *old, vd_error_t *err)
{
    stor_write_t *write = &job->writes.write;
    vd_bson_t before = old->document, after = document;
    bool changed = true;
    int rc = VD_OK;
    switch (job->output->matched) {
    case STOR_MATCHED_KEEP:
        return VD_OK;
    case STOR_MATCHED_FAIL:
        return merge_duplicate(job, old, err);
    case STOR_MATCHED_REPLACE:
        break;
    case STOR_MATCHED_MERGE:
        rc = update_with_fields(job, document, old, &after, &changed, err);
        break;
    case STOR_MATCHED_PIPELINE:
        rc = update_with_pipeline(job, document, old, &after, &changed, err);
        break;
    }
    if (rc != VD_OK || !changed)
        return rc;
    if (job->writes.collection->cas == STOR_CAS_REQUIRED)
        return vd_error_set(err, VD_ERR_VERSION_REQUIRED,
                            "%s takes no update without the version that it is of: $merge may only "
                            "insert there (cas: \"required\")",
                            job->writes.collection->ns);
    rc = stor_write_validate(write, after, &before, job->bypass, err);
    return rc == VD_OK ? stor_write_replace(write, old, after, -1, err) : rc;
}

static int on_check(job_t *job, vd_bson_t document, vd_error_t *err)
{
    const stor_output_t *output = job->output;
    for (uint32_t i = 0; i < output->on_count; i++) {
        vd_value_t value = vd_bson_get_path(document, output->on[i].text);
        if (value.type == VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(51185),
                                "$merge write error: 'on' field '%.*s' cannot be an array",
                                VD_SLICE_FMT(output->on[i].text));
        bool id = vd_slice_is(output->on[i].text, "_id");
        if (vd_value_is_nullish(value) && !(id && vd_value_is_missing(value)))
            return vd_error_set(err, VD_ERR_LOCATION(51132),
                                "$merge write error: 'on' field '%.*s' cannot be missing, null or "
                                "undefined",
                                VD_SLICE_FMT(output->on[i].text));
    }
    return VD_OK;
}

/* The record that the fields of a unique index name, in this transaction. VD_ERR_NOT_FOUND. */
static int find_by_index(job_t *job, vd_bson_t document, stor_record_t *ret_record, vd_error_t *err)
{
    const stor_index_t *on = job->on;
    vd_arena_t *arena = job->request->arena;
    stor_index_keys_t keys;
    stor_cursor_t *cursor;
    stor_index_entry_t entry;
    vd_slice_t value;
    int rc = stor_index_keys_make(on->def, arena, document, &keys, err);
    if (rc == VD_OK && keys.count != 1)
        return VD_ERR_NOT_FOUND;
    if (rc == VD_OK)
        rc = stor_cursor_open(job->request->session, on->table, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, keys.keys[0].key, &value, err);
    if (rc == VD_OK)
        rc = stor_index_entry_read(on->def, keys.keys[0].key, value, &entry, err);
    if (rc == VD_OK)
        rc = stor_write_read(&job->writes.write, vd_arena_copy_slice(arena, entry.id_key),
                             ret_record, err);
    return rc;
}

/* A document that was found otherwise keeps the _id that it has. */
static int with_id_of(job_t *job, const stor_record_t *old, vd_bson_t *document, vd_error_t *err)
{
    vd_value_t is = vd_bson_get(old->document, "_id"), given = vd_bson_get(*document, "_id");
    vd_bb_t *bb = vd_arena_alloc(job->request->arena, sizeof *bb);
    if (!vd_value_is_missing(given) &&
        (is.type != given.type || is.len != given.len || memcmp(is.data, given.data, is.len) != 0))
        return vd_error_set(
            err, VD_ERR_IMMUTABLE_FIELD,
            "$merge failed to update the matching document, did you attempt to "
            "modify the _id or the shard key? :: caused by :: the (immutable) field "
            "'_id' was found to have been altered to _id: %s",
            vd_value_to_json(job->request->arena, given, 100));
    if (!vd_value_is_missing(given))
        return VD_OK;
    vd_bb_init_arena(bb, job->request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_value(bb, VD_SLICE_LIT("_id"), is);
    vd_bb_concat(bb, *document);
    return vd_bb_finish(bb, document, err);
}

/* The record that the document goes to; *ret_document is ready to be written. VD_ERR_NOT_FOUND:
 * none; *ret_key is that of the new one. */
static int merge_find(job_t *job, vd_bson_t document, vd_bson_t *ret_document, vd_slice_t *ret_key,
                      stor_record_t *ret_old, vd_error_t *err)
{
    int rc = VD_ERR_NOT_FOUND;
    if (job->on != NULL)
        rc = find_by_index(job, document, ret_old, err);
    if (rc == VD_OK) {
        *ret_old = stor_record_copy(job->request->arena, *ret_old);
        *ret_document = document;
        return with_id_of(job, ret_old, ret_document, err);
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    rc = prepare(job, document, ret_document, ret_key, err);
    if (rc != VD_OK || job->on != NULL)
        return rc == VD_OK ? VD_ERR_NOT_FOUND : rc;
    rc = stor_write_read(&job->writes.write, *ret_key, ret_old, err);
    if (rc == VD_OK)
        *ret_old = stor_record_copy(job->request->arena, *ret_old);
    return rc;
}

static int merge_one(job_t *job, vd_bson_t document, vd_error_t *err)
{
    stor_write_t *write = &job->writes.write;
    vd_slice_t key = VD_SLICE_NULL;
    stor_record_t old;
    vd_error_t step = VD_ERROR_INIT;
    int rc = on_check(job, document, err);
    if (rc != VD_OK)
        return rc;
    rc = merge_find(job, document, &document, &key, &old, &step);
    if (rc == VD_OK)
        return merge_matched(job, document, &old, err);
    if (rc != VD_ERR_NOT_FOUND) {
        vd_error_copy(&step, err);
        return rc;
    }
    if (job->output->missed == STOR_MISSED_DISCARD)
        return VD_OK;
    if (job->output->missed == STOR_MISSED_FAIL)
        return vd_error_set(err, VD_ERR_LOCATION(13113),
                            "$merge could not find a matching document in the target collection "
                            "for at least one document in the source collection");
    rc = stor_write_validate(write, document, NULL, job->bypass, err);
    return rc == VD_OK ? stor_write_insert(write, key, document, -1, err) : rc;
}

static bool on_matches(const stor_output_t *output, const stor_index_def_t *def)
{
    if (!def->unique || def->partial != NULL || def->field_count != output->on_count ||
        !stor_collation_same(def->collation, vd_collation_get()))
        return false;
    for (uint32_t i = 0; i < def->field_count; i++) {
        uint32_t k = 0;
        while (k < output->on_count && !vd_slice_equal(def->fields[i].path, output->on[k].text))
            k++;
        if (k == output->on_count)
            return false;
    }
    return true;
}

/* Documents are found by the fields of _id or of another unique index, which the target must have
 * each time that it is held. */
static int on_find(job_t *job, vd_error_t *err)
{
    const stor_output_t *output = job->output;
    const stor_collection_t *collection = job->writes.collection;
    job->on = NULL;
    if (collection != NULL && collection->timeseries.is)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                            "Namespace %s is a timeseries collection: $merge can't write to it",
                            collection->ns);
    if (output->on_count == 1 && vd_slice_is(output->on[0].text, "_id"))
        return VD_OK;
    const stor_index_set_t *set = collection == NULL ? NULL : collection->indexes;
    for (uint32_t i = 0; set != NULL && i < set->count; i++) {
        const stor_index_t *index = set->items[i];
        if (atomic_load(&index->state) == STOR_INDEX_READY && on_matches(output, index->def)) {
            job->on = index;
            return VD_OK;
        }
    }
    return vd_error_set(err, VD_ERR_LOCATION(51183),
                        "Cannot find index to verify that join fields will be unique");
}

/* Before anything is read. */
static int on_check_target(job_t *job, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = hold_target(job, false, &step);
    if (rc == VD_OK || rc == VD_ERR_NAMESPACE_NOT_FOUND) {
        vd_error_clear(&step);
        rc = on_find(job, &step);
    }
    let_target_go(job);
    if (rc != VD_OK)
        vd_error_copy(&step, err);
    return rc;
}

/* ---- rounds ---- */

static int rounds(job_t *job, bool create, write_one_t *write, vd_error_t *err)
{
    vd_arena_t *arena = job->request->arena;
    int rc = VD_OK;
    while (rc == VD_OK && !job->done) {
        vd_arena_mark_t mark = vd_arena_mark(arena);
        rc = take_round(job, err);
        if (rc == VD_OK && job->count > 0)
            rc = stor_request_space(job->request, err);
        if (rc == VD_OK && job->count > 0)
            rc = hold_target(job, create, err);
        if (rc == VD_OK && job->count > 0 && job->output->merge)
            rc = on_find(job, err);
        if (rc == VD_OK && job->count > 0)
            rc = write_round(job, write, err);
        let_target_go(job);
        if (rc == VD_OK) /* else details of the error stand there */
            vd_arena_rewind(arena, mark);
    }
    return rc;
}

/* ---- $out ---- */

static vd_bson_t bson_copy(job_t *job, vd_bson_t document)
{
    return (vd_bson_t){vd_arena_copy(job->request->arena, document.data, document.len),
                       document.len};
}

/* What of the target stays: options (NONE: it does not exist) and indexes. */
typedef struct {
    vd_bson_t options;
    uint32_t count;
    vd_bson_t specs[STOR_INDEXES_MAX];
} target_t;

/* What the new collection is made with: the target's own, or what $out says of a time-series
 * collection. */
static int options_choose(job_t *job, const target_t *target, vd_bson_t *ret_options,
                          vd_error_t *err)
{
    vd_bson_t wanted;
    *ret_options = target->options;
    if (job->output->timeseries.len == 0)
        return VD_OK;
    int rc = stor_timeseries_options(job->request, job->output->timeseries, &wanted, err);
    if (rc != VD_OK)
        return rc;
    vd_value_t is = vd_bson_get(target->options, "timeseries");
    if (target->options.len > 0 && is.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(7268700),
                            "Cannot create a time-series collection from a non time-series "
                            "collection.");
    if (target->options.len > 0 &&
        (vd_value_document(is).len != wanted.len ||
         memcmp(vd_value_document(is).data, wanted.data, wanted.len) != 0))
        return vd_error_set(err, VD_ERR_LOCATION(7406103),
                            "Time-series options inputted must match the existing time-series "
                            "collection.");
    if (target->options.len > 0)
        return VD_OK;
    vd_bb_t *bb = vd_arena_alloc(job->request->arena, sizeof *bb);
    vd_bb_init_arena(bb, job->request->arena, 64 * 1024);
    vd_bb_document(bb, "timeseries", wanted);
    return vd_bb_finish(bb, ret_options, err);
}

static int target_look(job_t *job, target_t *ret_target, vd_error_t *err)
{
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_catalog_acquire(job->request, job->output->db, job->output->collection,
                                  &collection, &step);
    *ret_target = (target_t){.options = VD_BSON_NONE};
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND)
        return VD_OK;
    if (rc != VD_OK) {
        vd_error_copy(&step, err);
        return rc;
    }
    if (collection->capped.is)
        rc = vd_error_set(err, VD_ERR_LOCATION(17152),
                          "namespace '%s' is capped so it can't be used for $out", collection->ns);
    ret_target->options = bson_copy(job, collection->options);
    for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++)
        if (atomic_load(&collection->indexes->items[i]->state) == STOR_INDEX_READY &&
            !stor_index_is_of_id(collection->indexes->items[i]->def)) /* create makes it */
            ret_target->specs[ret_target->count++] =
                bson_copy(job, collection->indexes->items[i]->def->spec);
    stor_catalog_release(job->request, collection);
    return rc;
}

static bool same_bytes(vd_bson_t a, vd_bson_t b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static bool same_indexes(const target_t *a, const target_t *b)
{
    bool same = a->count == b->count;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = same_bytes(a->specs[i], b->specs[i]);
    return same;
}

static int target_swap(job_t *job, const target_t *target, vd_error_t *err)
{
    target_t *now = VD_ARENA_NEW(job->request->arena, target_t);
    int rc = target_look(job, now, err);
    if (rc == VD_OK && !same_indexes(now, target))
        rc = vd_error_set(err, VD_ERR_LOCATION(28769),
                          "indexes of target collection %.*s.%.*s changed while processing $out",
                          VD_SLICE_FMT(job->output->db), VD_SLICE_FMT(job->output->collection));
    if (rc == VD_OK && !same_bytes(now->options, target->options))
        rc = vd_error_set(err, VD_ERR_LOCATION(125),
                          "collection options of target collection %.*s.%.*s changed while "
                          "processing $out",
                          VD_SLICE_FMT(job->output->db), VD_SLICE_FMT(job->output->collection));
    return rc == VD_OK ? stor_catalog_rename(job->request, job->output->db, job->target,
                                             job->output->db, job->output->collection, true, err)
                       : rc;
}

/* "tmp.agg_out." + start of this process + "." + number, both of 16 digits: so one that a crash or
 * a lost primary has left is known by its name. */
static const char *temporary_name(stor_request_t *request)
{
    uint64_t start, number;
    memcpy(&start, request->storage->boot_id, sizeof start);
    vd_rand_secret(&number, sizeof number);
    return vd_arena_printf(request->arena, TEMPORARY "%016llx.%016llx", (unsigned long long)start,
                           (unsigned long long)number);
}

static bool is_left(vd_slice_t name, const char *own)
{
    size_t prefix = strlen(TEMPORARY);
    if (name.len != strlen(own) || memcmp(name.data, TEMPORARY, prefix) != 0 ||
        memcmp(name.data + prefix, own + prefix, 16) == 0)
        return false;
    for (size_t i = prefix; i < name.len; i++)
        if (i == prefix + 16 ? name.data[i] != '.' : !isxdigit(name.data[i]))
            return false;
    return true;
}

/* What an earlier start has left in the database. */
static int sweep(job_t *job, const char *own, vd_error_t *err)
{
    stor_request_t *request = job->request;
    stor_collection_info_t *infos;
    uint32_t count;
    int rc = stor_catalog_list(request->storage->catalog, request->arena, job->output->db, false,
                               &infos, &count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        vd_error_t step = VD_ERROR_INIT;
        if (!is_left(infos[i].name, own))
            continue;
        rc = stor_catalog_drop(request, infos[i].db, infos[i].name, &step);
        if (rc == VD_ERR_NAMESPACE_NOT_FOUND) /* another $out was faster */
            rc = VD_OK;
        else if (rc != VD_OK)
            vd_error_copy(&step, err);
    }
    return rc;
}

/* The new collection, which is empty, gets the indexes that the target has. */
static int indexes_make(job_t *job, const target_t *target, vd_error_t *err)
{
    stor_request_t *request = job->request;
    stor_collection_t *collection;
    stor_build_t *build = NULL;
    if (target->count == 0)
        return VD_OK;
    int rc = stor_catalog_acquire(request, job->output->db, job->target, &collection, err);
    if (rc != VD_OK)
        return rc;
    uint64_t id = collection->id;
    target_t *wanted = VD_ARENA_NEW(request->arena, target_t);
    for (uint32_t i = 0; i < target->count; i++) {
        vd_slice_t index = vd_value_string(vd_bson_get(target->specs[i], "name"));
        if (stor_index_set_named(collection->indexes, index) == NULL) /* else made with it */
            wanted->specs[wanted->count++] = target->specs[i];
    }
    stor_catalog_release(request, collection);
    if (wanted->count == 0)
        return VD_OK;
    rc = stor_catalog_indexes_begin(request, id, wanted->specs, wanted->count, VD_VALUE_MISSING,
                                    &build, err);
    /* Somebody else has written to it. */
    bool parked;
    return rc == VD_OK && build != NULL ? stor_builds_wait(request, &build, NULL, &parked, err)
                                        : rc;
}

static int run_out(job_t *job, vd_error_t *err)
{
    stor_request_t *request = job->request;
    target_t *target = VD_ARENA_NEW(request->arena, target_t);
    const char *name = temporary_name(request);
    int rc = target_look(job, target, err);
    if (rc == VD_OK)
        rc = sweep(job, name, err);
    job->target = vd_slice_str(name);
    stor_create_options_t create = {target->options, NULL};
    if (rc == VD_OK)
        rc = options_choose(job, target, &create.options, err);
    if (rc == VD_OK)
        rc = stor_catalog_create(request, job->output->db, job->target, &create, err);
    if (rc != VD_OK)
        return rc;
    rc = indexes_make(job, target, err);
    if (rc == VD_OK)
        rc = rounds(job, false, insert_one, err);
    if (rc == VD_OK)
        rc = target_swap(job, target, err);
    if (rc != VD_OK) { /* the target is as it was */
        vd_error_t step = VD_ERROR_INIT;
        int drop_rc = stor_catalog_drop(request, job->output->db, job->target, &step);
        if (drop_rc != VD_OK)
            vd_log(VD_LOG_WARN, "a temporary collection of $out stays", "code=%d error=%s",
                   -drop_rc, step.message);
    }
    return rc;
}

/* Drivers may send it to a secondary; why that one does not write: docs/decisions/0020. */
static int primary_only(const stor_request_t *request, vd_error_t *err)
{
    const stor_storage_t *storage = request->storage;
    if (VD_LIKELY(stor_replication_alone(storage) ||
                  stor_replication_role(storage) == VDP_ROLE_PRIMARY))
        return VD_OK;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                        "$out and $merge run on the primary alone: use read preference primary");
}

int stor_aggregate_output(stor_request_t *request, stor_sources_t *sources,
                          stor_pipeline_t *pipeline, bool bypass, vd_error_t *err)
{
    job_t *job = VD_ARENA_NEW(request->arena, job_t);
    job->request = request;
    job->sources = sources;
    job->pipeline = pipeline;
    job->output = stor_pipeline_output(pipeline);
    job->bypass = bypass;
    job->target = job->output->collection;
    stor_writes_init(&job->writes, request, &out_class);
    let_go(job);
    int rc = request->read_elsewhere ? primary_only(request, err) : VD_OK;
    if (rc == VD_OK)
        rc = stor_request_space(request, err);
    if (rc == VD_OK && job->output->merge)
        rc = on_check_target(job, err);
    if (rc == VD_OK)
        rc = job->output->merge ? rounds(job, true, merge_one, err) : run_out(job, err);
    stor_writes_done(&job->writes);
    return rc;
}
