/* tests/unit/storaged/index_support.h — what an index holds, compared with what the documents give:
 * by the scan of exec, both ways. */
#pragma once
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/exec/index_scan.h"
#include "veddb-storaged/index/index_private.h"

READS_SUPPORT stor_collection_t *index_hold(reads_t *reads, const char *db, const char *name)
{
    stor_collection_t *collection;
    vd_error_t err = VD_ERROR_INIT;
    reads_begin(reads, db);
    reads_ok(stor_catalog_acquire(&reads->request, vd_slice_str(db), vd_slice_str(name),
                                  &collection, &err),
             &err);
    return collection;
}

/* Every entry has its document, and every key of a document its entry; returns the number. */
READS_SUPPORT int64_t index_sound(reads_t *reads, const char *db, const char *name,
                                  const char *index_name)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_collection_t *collection = index_hold(reads, db, name);
    stor_request_t *request = &reads->request;
    stor_index_t *index = stor_index_by_name(collection, vd_slice_str(index_name));
    cr_assert_not_null(index, "%s", index_name);
    int64_t entries = 0, keys = 0;
    stor_index_scan_options_t options = {.collection_id = collection->id, .index_id = index->id};
    stor_index_scan_t *scan;
    stor_index_entry_t entry;
    stor_record_t record;
    reads_ok(stor_index_scan_open(request->arena, &options, &scan, &err), &err);
    int rc;
    while ((rc = stor_index_scan_next(scan, request, &entry, &err)) == VD_OK) {
        stor_index_keys_t made;
        bool found = false;
        entries++;
        reads_ok(stor_index_scan_fetch(scan, request, &record, &err), &err);
        reads_ok(stor_index_keys_make(index->def, request->arena, record.document, &made, &err),
                 &err);
        for (uint32_t i = 0; i < made.count; i++)
            found |= vd_slice_equal(made.keys[i].key, entry.fields) &&
                     vd_slice_equal(made.keys[i].type_bits, entry.type_bits) &&
                     made.keys[i].exact == entry.exact;
        cr_assert(found, "an entry that no document gives");
        cr_assert_eq(made.multikey & ~(uint32_t)atomic_load(&index->multikey), 0);
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s", err.message);
    stor_index_scan_close(&scan);
    stor_scan_options_t all = {.collection_id = collection->id};
    stor_scan_t *documents;
    vd_error_clear(&err);
    reads_ok(stor_scan_open(request->arena, &all, &documents, &err), &err);
    while ((rc = stor_scan_next(documents, request, &record, &err)) == VD_OK) {
        stor_index_keys_t made;
        reads_ok(stor_index_keys_make(index->def, request->arena, record.document, &made, &err),
                 &err);
        keys += made.count;
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s", err.message);
    stor_scan_close(&documents);
    stor_catalog_release_all(request);
    cr_assert_eq(entries, keys, "%lld entries, %lld keys", (long long)entries, (long long)keys);
    return entries;
}
