/* veddb-storaged/catalog/takeover.h — what exists becomes what exists on another node.
 *
 * Duty:    drops everything at once, without entries in the journal; makes collections under ids,
 *          uuids and options that another node gave; keeps the files of dropped tables while copies
 *          are read (a checkpoint does not outlive its file).
 * Threads: clear and adopt: one, while nobody writes (role recovering); hold: any. */
#pragma once
#include "veddb-storaged/catalog/rows.h"

/* Counted: +1, -1. Taken before a checkpoint is made, so whatever is in it keeps its file. */
void stor_catalog_files_hold(stor_catalog_t *catalog);
void stor_catalog_files_release(stor_catalog_t *catalog);

/* Every collection: nobody gets it any more, waits (bounded) for those who have it, its cursors
 * end, rows are removed, files are gone when this returns. VD_ERR_LOCK_TIMEOUT,
 * VD_ERR_OBJECT_IS_BUSY: somebody held on to one; what is dropped is dropped, and it may be called
 * again. */
VD_MUST_CHECK int stor_catalog_clear(stor_catalog_t *catalog, stor_session_t *session,
                                     vd_error_t *err);
/* Empties one table that is not a collection's (made anew). */
VD_MUST_CHECK int stor_catalog_table_renew(stor_catalog_t *catalog, stor_session_t *session,
                                           const char *table, vd_error_t *err);

typedef struct {
    uint64_t id;
    vd_slice_t db, name;
    const uint8_t *uuid; /* 16 */
    vd_bson_t options;
} stor_adopt_t;
/* Makes an empty collection: table, row, object. Ids that are drawn here later are larger. */
VD_MUST_CHECK int stor_catalog_adopt(stor_catalog_t *catalog, stor_session_t *session,
                                     const stor_adopt_t *adopt, vd_error_t *err);
/* No id below it is drawn here; in the session's open transaction, or in its own. */
VD_MUST_CHECK int stor_catalog_next_id_raise(stor_catalog_t *catalog, stor_session_t *session,
                                             uint64_t next_id, vd_error_t *err);
