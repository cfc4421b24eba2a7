/* veddb-storaged/catalog/rows.h — the rows of the table "catalog": keys and BSON, nothing else.
 *
 * Each call works in the session's open transaction, or in one of its own. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

#define STOR_CATALOG_TABLE "catalog"

typedef struct {
    int64_t documents, bytes;
    uint64_t hash;
} stor_counters_row_t;

VD_MUST_CHECK int stor_rows_collection_put(stor_session_t *session,
                                           const stor_collection_t *collection, vd_error_t *err);
/* With its indexes. */
VD_MUST_CHECK int stor_rows_collection_remove(stor_session_t *session, uint64_t id,
                                              vd_error_t *err);
VD_MUST_CHECK int stor_rows_collection_exists(stor_session_t *session, uint64_t id,
                                              bool *ret_exists, vd_error_t *err);
/* Visits the collections' rows in order of id. */
VD_MUST_CHECK int stor_rows_collections(stor_session_t *session,
                                        int (*visit)(vd_bson_t row, void *context, vd_error_t *err),
                                        void *context, vd_error_t *err);
/* VD_ERR_NOT_FOUND: nothing was folded yet. */
VD_MUST_CHECK int stor_rows_counters_get(stor_session_t *session, uint64_t id,
                                         stor_counters_row_t *ret_row, vd_error_t *err);
VD_MUST_CHECK int stor_rows_counters_put(stor_session_t *session, uint64_t id,
                                         const stor_counters_row_t *row, vd_error_t *err);

/* ---- indexes: key "x" + collection u64 BE + id u64 BE -> {id, collection, table, spec} ----
 * and icu: the version of ICU's that makes the keys now, of one with a collation; and building
 * (index_private.h): NONE, and missing in the row, when it is ready. */
VD_MUST_CHECK int stor_rows_index_put(stor_session_t *session, uint64_t collection_id, uint64_t id,
                                      uint64_t table, vd_bson_t spec, vd_bson_t building,
                                      vd_error_t *err);
/* With what is kept beside it. */
VD_MUST_CHECK int stor_rows_index_remove(stor_session_t *session, uint64_t collection_id,
                                         uint64_t id, vd_error_t *err);
/* Visits all, or those of one collection (0 = all), in order of ids. */
VD_MUST_CHECK int stor_rows_indexes(stor_session_t *session, uint64_t collection_id,
                                    int (*visit)(vd_bson_t row, void *context, vd_error_t *err),
                                    void *context, vd_error_t *err);
/* "k" + id: fields that went through arrays, and the number of entries when it was last told.
 * get: zeroes when there is no row. */
VD_MUST_CHECK int stor_rows_index_state_get(stor_session_t *session, uint64_t id,
                                            uint32_t *ret_multikey, int64_t *ret_entries,
                                            vd_error_t *err);
VD_MUST_CHECK int stor_rows_index_state_put(stor_session_t *session, uint64_t id, uint32_t multikey,
                                            int64_t entries, vd_error_t *err);
