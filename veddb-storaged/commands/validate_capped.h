/* veddb-storaged/commands/validate_capped.h — does the order of a capped collection (capped.h) name
 * every document, and nothing else?
 *
 * Duty:    looks from each place to its document and from each document to its place, in short
 *          transactions, while writers go on.
 * Threads: the worker's. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

typedef struct {
    int64_t places;
    int64_t empty;   /* places without the document that they name */
    int64_t missing; /* documents that the order does not have in their place */
} stor_validate_capped_t;

/* The collection is held by the request. */
VD_MUST_CHECK int stor_validate_capped(stor_request_t *request, const stor_collection_t *collection,
                                       stor_validate_capped_t *ret, vd_error_t *err);
