/* veddb-storaged/catalog/renew.h — indexes whose keys another version of ICU made.
 *
 * Duty:    the sort keys of one version of ICU do not sort among those of another: at a start,
 *          before anybody reads, such indexes are filled anew from the documents. One that can't
 *          be (a unique index whose documents are equal now) refuses the start and says which it
 *          is.
 * Threads: the one that opens the storage. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

VD_MUST_CHECK int stor_catalog_renew(stor_storage_t *storage, stor_session_t *session,
                                     vd_error_t *err);
