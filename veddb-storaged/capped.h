/* veddb-storaged/capped.h — capped collections: the order of insertion, and their bounds.
 *
 * Duty:    a capped collection is clustered by _id as every other. Beside it the table "o-<id>"
 *          holds its documents' places: key = place u64 BE, value = {epoch u8} + the record's
 *          key. A place is the timestamp of the transaction that inserted the document, which
 *          inserts no other into the collection: so it is the same on every member, ascends in
 *          the order in which commits become visible, and stands in no journal entry of its own.
 *          Updates keep it (envelope.h).
 * Bounds:  the transaction that inserts removes the oldest documents that are too many or too
 *          large, by ordinary changes of the journal. Writers of one collection do that one after
 *          another (stor_collection.capped.lock, held from begin to commit), so the bounds hold.
 * Owner:   the order is kept by write.c and replication/apply.c, each in the document's own
 *          transaction.
 * Threads: any.
 * Limits:  STOR_CAPPED_EVICTED_MAX documents go with one insert; after a bound was lowered the
 *          following inserts go on. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/envelope.h"

#define STOR_CAPPED_SIZE_MAX    1125899906842624 /* bytes; 1 PB, as MongoDB has it */
#define STOR_CAPPED_EVICTED_MAX 10000
#define STOR_PLACE_BYTES        8

/* Into or out of the order, in the session's open transaction. */
VD_MUST_CHECK int stor_capped_put(stor_session_t *session, const stor_collection_t *collection,
                                  uint64_t place, vd_slice_t key, vd_error_t *err);
VD_MUST_CHECK int stor_capped_remove(stor_session_t *session, const stor_collection_t *collection,
                                     uint64_t place, vd_error_t *err);
/* The first place from `from` on and its record's key, which is copied into the arena.
 * VD_ERR_NOT_FOUND (quiet): there is none. */
VD_MUST_CHECK int stor_capped_first(stor_session_t *session, const stor_collection_t *collection,
                                    uint64_t from, vd_arena_t *arena, uint64_t *ret_place,
                                    vd_slice_t *ret_key, vd_error_t *err);
/* A row of the order. VD_ERR_CORRUPT: it is malformed. */
VD_MUST_CHECK int stor_capped_row(vd_slice_t key, vd_slice_t value, uint64_t *ret_place,
                                  vd_slice_t *ret_record, vd_error_t *err);
void stor_capped_key(uint64_t place, uint8_t ret_key[STOR_PLACE_BYTES]);
/* The order of a collection that was loaded, made of its documents; in transactions of its own. May
 * be called again. Nobody writes. */
VD_MUST_CHECK int stor_capped_fill(stor_request_t *request, const stor_collection_t *collection,
                                   vd_error_t *err);

/* `size` and `max` as create and collMod take them. VD_ERR_BAD_VALUE and MongoDB's others. */
VD_MUST_CHECK int stor_capped_size_check(vd_value_t given, const char *field, int64_t *ret_size,
                                         vd_error_t *err);
VD_MUST_CHECK int stor_capped_max_check(vd_value_t given, const char *field, int64_t *ret_max,
                                        vd_error_t *err);
