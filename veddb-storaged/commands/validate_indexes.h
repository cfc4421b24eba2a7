/* veddb-storaged/commands/validate_indexes.h — does every entry of an index have its document, and
 * every key of a document its entry?
 *
 * Duty:    both ways, each document and its entries in one snapshot, so that writers may go on.
 * Owner:   results live in the request's arena.
 * Threads: the worker's. */
#pragma once
#include "veddb-storaged/index/index.h"
#include "veddb-storaged/request.h"

#define STOR_VALIDATE_SHOWN_MAX 20 /* entries shown of each kind */

typedef struct {
    const stor_index_t *index;
    uint64_t id;
    vd_slice_t name;
    bool valid;
    int64_t entries, missing, extra;
    const char *error; /* what ended the look at it, or NULL */
} stor_validate_index_t;

typedef struct {
    uint32_t count;
    stor_validate_index_t *items;
    uint32_t missing_count, extra_count; /* shown */
    vd_bson_t missing[STOR_VALIDATE_SHOWN_MAX], extra[STOR_VALIDATE_SHOWN_MAX];
} stor_validate_indexes_t;

/* The collection is held by the request. */
VD_MUST_CHECK int stor_validate_indexes(stor_request_t *request,
                                        const stor_collection_t *collection,
                                        stor_validate_indexes_t *ret, vd_error_t *err);
