/* veddb-storaged/catalog/own.h — collections that an open transaction has made: nobody else sees
 * them before it commits, and nothing of them stays when it does not.
 *
 * Duty:    the object and its tables are made at once, outside of the maps, the rows and the
 *          journal; the transaction's statements find them first (stor_transaction_own). At commit
 *          their rows go into the transaction's own engine transaction, their CREATE and
 *          CREATE_INDEXES to the head of its own journal entry, and they are entered into the maps
 *          in the step that commits it: so all of it is there or nothing, after a crash and on
 *          every member. Tables that no row names are swept at the next start.
 * Owner:   the transaction, one reference; the applier of another node's entry likewise.
 * Threads: the statement's. From stor_catalog_own_begin to stor_catalog_own_end nobody else changes
 *          the schema.
 * Limits:  STOR_OWN_MAX in one transaction; STOR_OWN_BYTES_MAX of their changes. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/journal.h"

#define STOR_OWN_MAX       100
#define STOR_OWN_BYTES_MAX (STOR_JOURNAL_PART_MAX / 2) /* they stand in the entry's first part */

/* VD_ERR_NAMESPACE_EXISTS as the catalog has it now; VD_ERR_LOCK_TIMEOUT. */
VD_MUST_CHECK int stor_catalog_own_make(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                        const stor_create_options_t *options,
                                        stor_collection_t **ret_collection, vd_error_t *err);
/* Ready indexes; it has no documents yet. */
VD_MUST_CHECK int stor_catalog_own_index(stor_request_t *request, stor_collection_t *collection,
                                         const vd_bson_t *specs, uint32_t count, vd_error_t *err);

/* ---- commit ---- */
/* Before the timestamp is drawn; after VD_OK comes stor_catalog_own_end. plain: a session in no
 * transaction. VD_ERR_WRITE_CONFLICT: somebody has made one of that name. VD_ERR_LOCK_TIMEOUT. */
VD_MUST_CHECK int stor_catalog_own_begin(stor_request_t *request, stor_session_t *plain,
                                         stor_collection_t *const *own, uint32_t count,
                                         vd_error_t *err);
/* What the entry begins with, in the request's arena. VD_ERR_TRANSACTION_TOO_LARGE. */
VD_MUST_CHECK int stor_catalog_own_changes(stor_request_t *request, stor_collection_t *const *own,
                                           uint32_t count, stor_change_t **ret_changes,
                                           uint32_t *ret_count, vd_error_t *err);
/* Their rows, in the session's open transaction. */
VD_MUST_CHECK int stor_catalog_own_put(stor_session_t *session, stor_collection_t *const *own,
                                       uint32_t count, vd_error_t *err);
/* Commits the session's transaction. Who looks a collection up sees all of it or nothing. The
 * catalog takes references of its own. */
VD_MUST_CHECK int stor_catalog_own_commit(stor_catalog_t *catalog, stor_session_t *session,
                                          stor_collection_t *const *own, uint32_t count,
                                          vd_error_t *err);
void stor_catalog_own_end(stor_catalog_t *catalog);
/* Lets go. entered false: its tables go, too. */
void stor_catalog_own_done(stor_catalog_t *catalog, stor_collection_t **collection_p, bool entered);

/* ---- another node's ---- */
/* In place of stor_catalog_own_begin. */
void stor_catalog_own_begin_applied(stor_catalog_t *catalog);
/* A CREATE: one more in own; or a CREATE_INDEXES of one of them. VD_ERR_DIVERGED, VD_ERR_CORRUPT.
 */
VD_MUST_CHECK int stor_catalog_own_applied(stor_request_t *request, const stor_change_t *change,
                                           stor_collection_t **own, uint32_t *count,
                                           vd_error_t *err);
/* As stor_catalog_own_put, and the ids that are taken. */
VD_MUST_CHECK int stor_catalog_own_put_applied(stor_catalog_t *catalog, stor_session_t *session,
                                               stor_collection_t *const *own, uint32_t count,
                                               vd_error_t *err);
