/* veddb-storaged/catalog/own.h — collections that an open transaction has made: nobody else sees
 * them before it commits, and nothing of them stays when it does not.
 *
 * Duty:    the object and its tables are made at once, outside of the maps, the rows and the
 *          journal; the transaction's statements find them first (stor_transaction_own). At commit
 *          they are entered, each with its indexes, by changes of the schema in front of the
 *          transaction's own entry: a crash in between leaves them empty. The next start sweeps
 *          tables that no row names.
 * Owner:   the transaction, one reference. Threads: the statement's. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

/* VD_ERR_NAMESPACE_EXISTS as the catalog has it now; VD_ERR_LOCK_TIMEOUT. */
VD_MUST_CHECK int stor_catalog_own_make(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                        const stor_create_options_t *options,
                                        stor_collection_t **ret_collection, vd_error_t *err);
/* Ready indexes; it has no documents yet. */
VD_MUST_CHECK int stor_catalog_own_index(stor_request_t *request, stor_collection_t *collection,
                                         const vd_bson_t *specs, uint32_t count, vd_error_t *err);
/* Enters it; the catalog gets a reference of its own, and the caller a share: *ret_entered, also
 * when its indexes could not follow. request->session: not the transaction's.
 * VD_ERR_WRITE_CONFLICT: somebody has made one of that name. */
VD_MUST_CHECK int stor_catalog_own_enter(stor_request_t *request, stor_collection_t *collection,
                                         bool *ret_entered, vd_error_t *err);
/* The transaction could not be committed: one that was entered goes again, unless others have put
 * documents into it. No share is held. */
void stor_catalog_own_leave(stor_request_t *request, stor_collection_t *collection);
/* Lets go. entered false: its tables go, too. */
void stor_catalog_own_done(stor_catalog_t *catalog, stor_collection_t **collection_p, bool entered);
