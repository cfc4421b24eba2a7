/* veddb-storaged/catalog/indexes.h — which indexes a collection has: begun, committed, given up,
 * dropped, modified.
 *
 * Duty:    an index that is built is an object in the collection's set and two tables, and nothing
 *          on disk names it: a crash, or a change of role, leaves orphans that the next start
 *          sweeps. It is there (a row, and an entry in the journal) from the commit on.
 * Locks:   as catalog.h: no share is held, no transaction is open.
 * Threads: any. */
#pragma once
#include "veddb-storaged/index/index.h"

#define STOR_INDEXES_MAX 64 /* of a collection, with the one on _id */

/* Ids, tables and objects (each referenced for the caller), in the set behind the fence.
 * *ret_ready: the collection was empty, so they are committed already. VD_ERR_AGAIN: one of that
 * name came meanwhile: look anew. VD_ERR_CANNOT_CREATE_INDEX: too many. */
VD_MUST_CHECK int stor_catalog_indexes_begin(stor_request_t *request, uint64_t collection_id,
                                             const vd_bson_t *specs, uint32_t count,
                                             stor_index_t **ret_indexes, bool *ret_ready,
                                             vd_error_t *err);
/* `last` is called behind the fence, when nobody writes; then rows and journal entry in one
 * transaction, then they are ready. On an error they stay as they are: give them up. */
VD_MUST_CHECK int stor_catalog_indexes_commit(stor_request_t *request, uint64_t collection_id,
                                              stor_index_t *const *indexes, uint32_t count,
                                              int (*last)(void *context, vd_error_t *err),
                                              void *context, vd_error_t *err);
/* Out of the set, and their tables go. Gives up waiting for users only after minutes. */
void stor_catalog_indexes_abort(stor_catalog_t *catalog, uint64_t collection_id,
                                stor_index_t *const *indexes, uint32_t count);
/* Those of these ids that are there and ready. */
VD_MUST_CHECK int stor_catalog_indexes_drop(stor_request_t *request, uint64_t collection_id,
                                            const uint64_t *ids, uint32_t count, vd_error_t *err);
/* Another specification for the same entries (hidden, expireAfterSeconds ...). */
VD_MUST_CHECK int stor_catalog_index_modify(stor_request_t *request, uint64_t collection_id,
                                            uint64_t id, vd_bson_t spec, vd_error_t *err);
/* A load: of those, the ones that are not here are filled from what the collection has, and are
 * ready; without an entry in the journal. Nobody writes. request: carries session, storage, arena.
 */
VD_MUST_CHECK int stor_catalog_indexes_adopt(stor_request_t *request, uint64_t collection_id,
                                             const uint64_t *ids, const vd_bson_t *specs,
                                             uint32_t count, vd_error_t *err);
/* Numbers of entries that have moved on much are written down, for the next start (keeper). */
void stor_catalog_indexes_note(stor_catalog_t *catalog, stor_session_t *session);
/* Filled anew, from the documents (validate's repair): the fence stays closed meanwhile. */
VD_MUST_CHECK int stor_catalog_index_refill(stor_request_t *request, uint64_t collection_id,
                                            uint64_t id, vd_error_t *err);
