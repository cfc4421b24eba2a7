/* veddb-storaged/catalog/indexes.h — which indexes a collection has: begun, committed, given up,
 * dropped, modified.
 *
 * Duty:    an index that is built is an object in the collection's set, a row that says so, and two
 *          tables; an entry in the journal says that it was begun, another one that it is there, or
 *          that it was given up. Who builds, and when: index/builds.h.
 * Locks:   as catalog.h: no share is held, no transaction is open.
 * Threads: any. */
#pragma once
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/index/index.h"

#define STOR_INDEXES_MAX 64 /* of a collection, with the one on _id */

/* Ids, tables, rows, objects in the set behind the fence; and a build that is on its way
 * (*ret_build, for stor_builds_wait; NULL: the collection was empty, so they are ready).
 * quorum: of the command, or MISSING. VD_ERR_AGAIN: one of that name came meanwhile, or too many
 * are being built: look anew, after a while. VD_ERR_CANNOT_CREATE_INDEX: too many. */
VD_MUST_CHECK int stor_catalog_indexes_begin(stor_request_t *request, uint64_t collection_id,
                                             const vd_bson_t *specs, uint32_t count,
                                             vd_value_t quorum, stor_build_t **ret_build,
                                             vd_error_t *err);
/* `last` is called behind the fence, when nobody writes; then rows and journal entry in one
 * transaction, then they are ready. On an error they stay as they are. */
VD_MUST_CHECK int stor_catalog_indexes_commit(stor_request_t *request, uint64_t collection_id,
                                              stor_index_t *const *indexes, uint32_t count,
                                              int (*last)(void *context, vd_error_t *err),
                                              void *context, vd_error_t *err);
/* Given up by a primary: out of the set, rows and tables go, and an entry says so. VD_OK also when
 * they are gone already. */
VD_MUST_CHECK int stor_catalog_indexes_abort(stor_request_t *request, uint64_t collection_id,
                                             stor_index_t *const *indexes, uint32_t count,
                                             vd_error_t *err);
/* Those of these ids that are there and ready. */
VD_MUST_CHECK int stor_catalog_indexes_drop(stor_request_t *request, uint64_t collection_id,
                                            const uint64_t *ids, uint32_t count, vd_error_t *err);
/* Another specification (hidden, expireAfterSeconds, prepareUnique ...). One that becomes unique is
 * filled anew meanwhile, behind the fence: VD_ERR_DUPLICATE_KEY when it can't be. */
VD_MUST_CHECK int stor_catalog_index_modify(stor_request_t *request, uint64_t collection_id,
                                            uint64_t id, vd_bson_t spec, vd_error_t *err);
/* A load: of those, the ones that are not here are filled from what the collection has, and are
 * ready; without an entry in the journal. Those that are being built at the source (building: not
 * NONE; may be NULL) are begun here, too. Nobody writes. request: carries session, storage, arena.
 */
VD_MUST_CHECK int stor_catalog_indexes_adopt(stor_request_t *request, uint64_t collection_id,
                                             const uint64_t *ids, const vd_bson_t *specs,
                                             const vd_bson_t *building, uint32_t count,
                                             vd_error_t *err);
/* Numbers of entries that have moved on much are written down, for the next start (keeper). */
void stor_catalog_indexes_note(stor_catalog_t *catalog, stor_session_t *session);
/* Filled anew, from the documents (validate's repair): the fence stays closed meanwhile. */
VD_MUST_CHECK int stor_catalog_index_refill(stor_request_t *request, uint64_t collection_id,
                                            uint64_t id, vd_error_t *err);
