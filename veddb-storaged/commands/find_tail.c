/* veddb-storaged/commands/find_tail.c — see find_tail.h. */
#include "veddb-storaged/commands/find_tail.h"

#include "veddb-storaged/capped.h"
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/query/match.h"

typedef struct {
    const stor_query_spec_t *spec;
    uint64_t collection_id;
    uint64_t place; /* of the last document that was looked at; 0 = none yet */
    uint64_t seen;  /* up to here it has looked */
    int64_t skipped, returned;
} tail_t;

int stor_tail_check(const stor_request_t *request, const stor_query_parts_t *parts,
                    bool single_batch, const stor_collection_t *collection, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t value;
    int64_t direction = 0;
    bool natural = vd_bson_first(parts->sort, &name, &value) && vd_slice_is(name, "$natural") &&
                   vd_bson_count(parts->sort) == 1 && vd_value_as_int64(value, &direction) &&
                   direction == 1;
    if (request->transaction_number >= 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "It is illegal to open a tailable cursor in a transaction");
    if (!vd_bson_is_empty(parts->sort) && !natural)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "cannot use tailable option with a sort other than {$natural: 1}");
    if (single_batch)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "cannot use tailable option with the 'singleBatch' option");
    if (collection != NULL && !collection->capped.is)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "error processing query: tailable cursor requested on non capped "
                            "collection");
    return VD_OK;
}

/* What the projection makes of a document that matches; NONE: it does not match. */
static int look(const tail_t *tail, vd_arena_t *arena, const stor_record_t *record,
                vd_bson_t *ret_document, vd_error_t *err)
{
    const stor_query_spec_t *spec = tail->spec;
    stor_match_t match = {.arena = arena, .variables = spec->variables, .version = record->version};
    bool matches = false;
    *ret_document = VD_BSON_NONE;
    int rc = stor_match_document(spec->filter, record->document, &match, &matches, err);
    if (rc != VD_OK || !matches)
        return rc;
    *ret_document = record->document;
    if (spec->project == NULL)
        return VD_OK;
    stor_expr_env_t env;
    stor_expr_env_init(&env, arena, spec->variables);
    stor_expr_env_document(&env, record->document);
    env.version = record->version;
    return stor_project_apply(spec->project, &env, record->document, match.array_position,
                              ret_document, err);
}

static bool is_over(const tail_t *tail)
{
    return tail->spec->limit > 0 && tail->returned >= (int64_t)tail->spec->limit;
}

/* VD_ERR_NOT_FOUND: there is no more now. scratch: the reply grows in the request's arena. */
static int tail_scan(tail_t *tail, stor_scan_t *scan, stor_request_t *request, stor_batch_t *batch,
                     vd_arena_t *scratch, vd_error_t *err)
{
    int rc = VD_OK;
    while (!stor_batch_full(batch) && !is_over(tail)) {
        stor_record_t record;
        vd_bson_t document;
        vd_arena_reset(scratch);
        rc = stor_scan_next(scan, request, &record, err);
        if (rc == VD_OK)
            rc = look(tail, scratch, &record, &document, err);
        if (rc != VD_OK)
            break;
        bool counts = document.data != NULL;
        if (counts && tail->skipped < (int64_t)tail->spec->skip) {
            tail->skipped++;
            counts = false;
        }
        if (counts && !stor_batch_add(batch, document))
            break; /* it comes again */
        tail->returned += counts;
        tail->place = record.place;
    }
    return rc;
}

static int tail_fill(void *state, stor_request_t *request, stor_batch_t *batch, bool *ret_done,
                     vd_error_t *err)
{
    tail_t *tail = state;
    uint8_t after[STOR_PLACE_BYTES];
    stor_scan_t *scan = NULL;
    int rc = stor_read_again(request, tail->collection_id, err);
    if (rc != VD_OK)
        return rc;
    /* Before the scan's snapshot: all of it can be seen there. */
    tail->seen = stor_engine_visible(request->storage->engine);
    stor_capped_key(tail->place, after);
    stor_scan_options_t options = {.collection_id = tail->collection_id,
                                   .natural = true,
                                   .places_end = tail->seen,
                                   .resume_after =
                                       vd_slice(after, tail->place == 0 ? 0 : sizeof after)};
    rc = stor_scan_open(request->arena, &options, &scan, err);
    vd_arena_t *scratch = vd_arena_create();
    if (rc == VD_OK)
        rc = tail_scan(tail, scan, request, batch, scratch, err);
    stor_scan_close(&scan);
    vd_arena_destroy(&scratch);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND)
        return rc;
    stor_read_plan_summary(request, "COLLSCAN");
    *ret_done = is_over(tail) || (rc == VD_ERR_NOT_FOUND && tail->place == 0);
    return VD_OK;
}

static uint64_t tail_awaits(void *state)
{
    return ((const tail_t *)state)->seen;
}

static const stor_cursor_class_t tail_class = {.fill = tail_fill, .tailable = true};
static const stor_cursor_class_t await_class = {
    .fill = tail_fill, .awaits_visible = tail_awaits, .tailable = true};

int stor_tail_open(stor_request_t *request, const stor_tail_options_t *options,
                   const stor_query_spec_t *spec, vd_bson_t body, vd_arena_t **arena_p,
                   vd_error_t *err)
{
    tail_t *tail = VD_ARENA_NEW(*arena_p, tail_t);
    tail->spec = vd_arena_copy(*arena_p, spec, sizeof *spec);
    tail->collection_id = options->collection_id;
    stor_client_cursor_options_t cursor = {
        .class = options->awaits ? &await_class : &tail_class,
        .ns = request->ns,
        .collection_id = options->collection_id,
        .no_timeout = options->no_timeout,
        .originating = body,
    };
    return stor_read_cursor(request, &cursor, arena_p, tail, options->batch_size,
                            VD_FIRST_BATCH_DOCUMENTS, false, err);
}
