/* veddb-storaged/catalog/indexes_private.h — the steps of a change of a collection's indexes, which
 * an operation (indexes.c) and another node's entry (indexes_applied.c) take alike.
 *
 * Duty:    a set with or without some, tables, rows, the commit, the place of the old object.
 * Locks:   the caller holds change_lock (indexes.h).
 * Threads: any. */
#pragma once
#include "veddb-storaged/catalog/catalog_private.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/index/index_private.h"

typedef struct {
    stor_catalog_t *catalog;
    uint64_t collection_id;
    stor_index_t *const *indexes;
    uint32_t count;
    vd_bson_t building; /* NONE: they are ready */
} stor_index_rows_t;

/* Borrowed; NULL: it was dropped. */
stor_collection_t *stor_indexes_collection(stor_catalog_t *catalog, uint64_t id);
VD_MUST_CHECK int stor_indexes_not_there(vd_error_t *err);
/* The collection with another set. Takes the set. */
VD_MUST_CHECK int stor_indexes_with_set(stor_collection_t *from, stor_index_set_t *set,
                                        stor_collection_t **ret, vd_error_t *err);
/* Behind the fence, which opens: `to` in place of `from`. */
void stor_indexes_take_place(stor_catalog_t *catalog, stor_collection_t *from,
                             stor_collection_t *to);

/* Whether they may be added. */
VD_MUST_CHECK int stor_indexes_begin_check(const stor_collection_t *collection,
                                           const vd_bson_t *specs, uint32_t count, vd_error_t *err);
/* Objects and tables; on an error there is nothing. */
VD_MUST_CHECK int stor_indexes_make(stor_catalog_t *catalog, const vd_bson_t *specs,
                                    const uint64_t *ids, uint32_t count, vd_bson_t building,
                                    stor_index_t **ret_indexes, vd_error_t *err);
void stor_indexes_let_go(stor_index_t **indexes, uint32_t count);
/* They are not added after all: what was made for it goes, and the fence, where it is closed,
 * opens.
 */
void stor_indexes_give_up(stor_catalog_t *catalog, stor_collection_t *from,
                          stor_collection_t **to_p, bool fenced, stor_index_t *const *indexes,
                          uint32_t count);
void stor_indexes_tables_drop(stor_catalog_t *catalog, stor_index_t *const *indexes,
                              uint32_t count);
void stor_indexes_logs_drop(stor_catalog_t *catalog, stor_index_t *const *indexes, uint32_t count);
/* A build of them begins; where it can not now, the keeper looks again. */
void stor_indexes_build_begin(stor_request_t *request, uint64_t collection_id,
                              stor_index_t *const *indexes, uint32_t count,
                              stor_build_t **ret_build);
/* Of a collection that only its transaction knows: nothing has to be caught up with, they are ready
 * at once. */
VD_MUST_CHECK int stor_indexes_own_add(stor_request_t *request, stor_collection_t *collection,
                                       const vd_bson_t *specs, const uint64_t *ids, uint32_t count,
                                       vd_error_t *err);

/* Only rows, in a transaction of their own; the keeper may hold one. */
VD_MUST_CHECK int stor_indexes_rows_commit(stor_session_t *session, stor_index_rows_t *rows,
                                           vd_error_t *err);
/* They become ready. journaled: an entry goes with it, another node's (given) or our own. */
VD_MUST_CHECK int stor_indexes_ready_commit(stor_request_t *request, stor_collection_t *collection,
                                            stor_index_t *const *indexes, uint32_t count,
                                            bool journaled, const stor_given_t *given,
                                            vd_error_t *err);
/* Behind the fence: rows that say that they are built, and an entry, another node's (given) or our
 * own. */
VD_MUST_CHECK int stor_indexes_start_commit(stor_request_t *request, stor_collection_t *collection,
                                            stor_index_t *const *indexes, uint32_t count,
                                            vd_bson_t building, const stor_given_t *given,
                                            vd_error_t *err);

/* The operations, under the lock. given: another node's entry, or NULL. */
VD_MUST_CHECK int stor_indexes_commit_locked(stor_request_t *request, stor_collection_t *from,
                                             stor_index_t *const *indexes, uint32_t count,
                                             int (*last)(void *context, vd_error_t *err),
                                             void *context, const stor_given_t *given,
                                             vd_error_t *err);
VD_MUST_CHECK int stor_indexes_abort_locked(stor_request_t *request, stor_collection_t *from,
                                            stor_index_t *const *indexes, uint32_t count,
                                            const stor_given_t *given, vd_error_t *err);
VD_MUST_CHECK int stor_indexes_drop_locked(stor_request_t *request, stor_collection_t *from,
                                           stor_index_t *const *indexes, uint32_t count,
                                           const stor_given_t *given, vd_error_t *err);
VD_MUST_CHECK int stor_indexes_modify_locked(stor_request_t *request, stor_collection_t *from,
                                             stor_index_t *old, vd_bson_t spec,
                                             const stor_given_t *given, vd_error_t *err);
