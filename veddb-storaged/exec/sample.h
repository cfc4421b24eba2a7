/* veddb-storaged/exec/sample.h — some records of a collection, taken from random places.
 *
 * Duty:    asks the engine for records at random, in short transactions, and gives each record
 *          once. Cheap when few of many are wanted; random as the engine's tree is (pages of
 *          fewer records are met as often as others).
 * Owner:   nothing is kept.
 * Threads: the worker's. */
#pragma once
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/request.h"

/* `count` different records; the collection is held, and no transaction is open. The record is
 * valid during the visit only. VD_ERR_NOT_FOUND: there seem not to be so many; what was visited
 * until then counts for nothing. */
VD_MUST_CHECK int
stor_sample(stor_request_t *request, const stor_collection_t *collection, uint32_t count,
            int (*visit)(const stor_record_t *record, void *context, vd_error_t *err),
            void *context, vd_error_t *err);
