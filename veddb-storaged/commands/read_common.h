/* veddb-storaged/commands/read_common.h — what the reading commands share: collections that may be
 * missing, hints, parsing of a query's parts.
 *
 * Owner: trees live in the arena given. Threads: the worker's. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/exec/query.h"

/* The parts of a query as they stand in find, count, distinct and an aggregation's head. */
typedef struct {
    vd_bson_t filter, sort, projection, let;
    vd_value_t hint; /* MISSING = none */
    int64_t skip, limit;
} stor_query_parts_t;

/* The collection's id, 0 when it does not exist (held by the request when it does). *ret_collection
 * may be NULL. */
VD_MUST_CHECK int stor_read_collection(stor_request_t *request, vd_slice_t name, uint64_t *ret_id,
                                       stor_collection_t **ret_collection, vd_error_t *err);
/* Holds the collection again in a later batch; VD_ERR_OPERATION_FAILED class errors when it was
 * dropped. */
VD_MUST_CHECK int stor_read_again(stor_request_t *request, uint64_t id, vd_error_t *err);
/* Parses parts into a spec whose trees live in arena. projection_kind: STOR_PROJECT_FIND. variables
 * must live as long as arena. */
VD_MUST_CHECK int stor_read_parse(vd_arena_t *arena, const stor_query_parts_t *parts,
                                  stor_variables_t *variables, stor_query_spec_t *ret_spec,
                                  vd_error_t *err);
/* Only _id has an index: {_id: 1}, "_id_" and {$natural: ±1} are good hints. *ret_natural: the
 * direction, else 0. */
VD_MUST_CHECK int stor_read_hint(vd_value_t hint, int8_t *ret_natural, vd_error_t *err);
