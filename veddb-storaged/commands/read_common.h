/* veddb-storaged/commands/read_common.h — what the reading commands share: collections that may be
 * missing, hints, parsing of a query's parts.
 *
 * Owner: trees live in the arena given. Threads: the worker's. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/exec/query.h"
#include "veddb-storaged/pipeline/sources.h"

/* The parts of a query as they stand in find, count, distinct and an aggregation's head. */
typedef struct {
    vd_bson_t filter, sort, projection, let;
    vd_value_t hint; /* MISSING = none */
    vd_bson_t min, max;
    bool return_key;
    int64_t skip, limit;
    bool no_disk_use; /* allowDiskUse: false */
} stor_query_parts_t;

/* The collection's id, 0 when it does not exist (held by the request when it does). *ret_collection
 * may be NULL. */
VD_MUST_CHECK int stor_read_collection(stor_request_t *request, vd_slice_t name, uint64_t *ret_id,
                                       stor_collection_t **ret_collection, vd_error_t *err);
/* The same, and the collections of the database `local`: *ret_id is then one of local/local.h, and
 * there is no collection. */
VD_MUST_CHECK int stor_read_source(stor_request_t *request, vd_slice_t name, uint64_t *ret_id,
                                   stor_collection_t **ret_collection, vd_error_t *err);
/* Holds the collection again in a later batch; VD_ERR_OPERATION_FAILED class errors when it was
 * dropped. */
VD_MUST_CHECK int stor_read_again(stor_request_t *request, uint64_t id, vd_error_t *err);
/* Parses parts into a spec whose trees live in arena. projection_kind: STOR_PROJECT_FIND. variables
 * must live as long as arena. */
VD_MUST_CHECK int stor_read_parse(vd_arena_t *arena, const stor_query_parts_t *parts,
                                  stor_variables_t *variables, stor_query_spec_t *ret_spec,
                                  vd_error_t *err);
/* The form of a hint; whether there is such an index the planner tells. *ret_natural: the direction
 * of {$natural: ±1}, else 0. */
VD_MUST_CHECK int stor_read_hint(vd_value_t hint, int8_t *ret_natural, vd_error_t *err);
/* The collation that a command names, or the default of the collection that is its first value. */
VD_MUST_CHECK int stor_read_collation(stor_request_t *request, vd_bson_t command, vd_bson_t given,
                                      vd_error_t *err);
/* The hint names an index other than that on _id. */
bool stor_read_hints_index(vd_value_t hint);

/* The arguments of a find, count or distinct as parts; explain reads them too. body borrows. */
VD_MUST_CHECK int stor_find_parts(stor_request_t *request, vd_bson_t body,
                                  stor_query_parts_t *ret_parts, vd_error_t *err);
VD_MUST_CHECK int stor_count_parts(stor_request_t *request, vd_bson_t body,
                                   stor_query_parts_t *ret_parts, vd_error_t *err);
VD_MUST_CHECK int stor_distinct_parts(stor_request_t *request, vd_bson_t body,
                                      stor_query_parts_t *ret_parts, vd_slice_t *ret_key,
                                      vd_error_t *err);
/* Makes the spec one for the distinct values of a path (which must live as long). */
void stor_distinct_spec(vd_arena_t *arena, const stor_path_t *path, stor_query_spec_t *spec);

/* The first batch of a cursor. batch_size < 0: default_size; 0: an empty batch, and the cursor is
 * made anyway. Takes the arena and the state in every case. */
VD_MUST_CHECK int stor_read_cursor(stor_request_t *request,
                                   const stor_client_cursor_options_t *options,
                                   vd_arena_t **arena_p, void *state, int64_t batch_size,
                                   uint32_t default_size, bool single_batch, vd_error_t *err);
/* A cursor over documents that are there already. Takes the arena in which they live. */
VD_MUST_CHECK int stor_read_documents(stor_request_t *request, vd_arena_t **arena_p,
                                      const vd_bson_t *documents, uint32_t count, vd_slice_t ns,
                                      int64_t batch_size, vd_error_t *err);
/* {batchSize: n} of commands with a `cursor` document; -1 when there is none. */
VD_MUST_CHECK int stor_read_cursor_option(vd_bson_t cursor, int64_t *ret_batch_size,
                                          vd_error_t *err);
/* For currentOp, which another thread may answer meanwhile. */
static inline void stor_read_plan_summary(stor_request_t *request, const char *summary)
{
    __atomic_store_n(&request->plan_summary, summary, __ATOMIC_RELAXED);
}

/* ---- aggregate and explain ---- */
typedef struct {
    vd_bson_t pipeline, let;
    vd_value_t hint;
    int64_t batch_size;       /* -1 = not given */
    vd_slice_t collection;    /* empty for aggregate: 1 */
    bool explain, in_explain; /* given in it; it is inside of the command explain */
    bool bypass;              /* bypassDocumentValidation */
    bool no_disk_use;         /* allowDiskUse: false */
} stor_aggregate_args_t;
/* request->body must be the command (for the collection's name). in_explain: `cursor` may lack. */
VD_MUST_CHECK int stor_aggregate_args(stor_request_t *request, vd_bson_t body, bool in_explain,
                                      stor_aggregate_args_t *ret_args, vd_error_t *err);
/* Finds and holds every collection that the pipeline touches, and parses it, the stages of a view
 * in front. On an error *ret_pipeline may be closed by stor_pipeline_close all the same. */
VD_MUST_CHECK int stor_aggregate_open(stor_request_t *request, vd_arena_t *arena,
                                      const stor_aggregate_args_t *args,
                                      stor_variables_t *variables, stor_sources_t **ret_sources,
                                      stor_pipeline_t **ret_pipeline, vd_error_t *err);
typedef enum { STOR_EXPLAIN_PLANNER, STOR_EXPLAIN_STATS, STOR_EXPLAIN_ALL_PLANS } stor_verbosity_t;
/* Explains a command into the reply. */
VD_MUST_CHECK int stor_explain(stor_request_t *request, vd_bson_t command,
                               stor_verbosity_t verbosity, vd_error_t *err);
