/* veddb-storaged/ttl.c — see ttl.h. */
#include "veddb-storaged/ttl.h"
#include "veddb-storaged/audit/audit.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/exec/index_scan.h"
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/timeseries.h"
#include "veddb-storaged/write.h"

typedef struct {
    stor_storage_t *storage;
    stor_request_t *request;
    vd_arena_t *arena;
    const atomic_bool *stop;
    uint64_t collection_id, index_id; /* index 0: a time-series collection, by its own order */
    int64_t cutoff_ms;
} ttl_t;

static bool is_over(const ttl_t *ttl)
{
    return (ttl->stop != NULL && atomic_load(ttl->stop)) ||
           (!stor_replication_alone(ttl->storage) &&
            stor_replication_role(ttl->storage) != VDP_ROLE_PRIMARY);
}

static bool expires(const stor_index_t *index)
{
    const stor_index_def_t *def = index->def;
    return atomic_load(&index->state) == STOR_INDEX_READY && def->expire_after_seconds >= 0 &&
           def->field_count == 1 && !vd_slice_is(def->fields[0].path, "_id") &&
           (def->fields[0].order == STOR_INDEX_ASCENDING ||
            def->fields[0].order == STOR_INDEX_DESCENDING);
}

/* All dates up to the cutoff. */
static int bounds_make(const ttl_t *ttl, bool descending, stor_bounds_t *ret, vd_error_t *err)
{
    vd_buf_t least, most;
    bool exact;
    vd_buf_init(&least, 64);
    vd_buf_init(&most, 64);
    int rc = stor_keycode_append(&least, vd_value_from_date(ttl->arena, INT64_MIN), descending,
                                 &exact, err);
    if (rc == VD_OK)
        rc = stor_keycode_append(&most, vd_value_from_date(ttl->arena, ttl->cutoff_ms), descending,
                                 &exact, err);
    if (rc == VD_OK) {
        stor_range_t *range = VD_ARENA_NEW(ttl->arena, stor_range_t);
        range->low = vd_arena_copy_slice(ttl->arena, vd_buf_slice(descending ? &most : &least));
        range->high = vd_arena_copy_slice(ttl->arena, vd_buf_slice(descending ? &least : &most));
        *ret = (stor_bounds_t){.count = 1, .ranges = range};
    }
    vd_buf_done(&least);
    vd_buf_done(&most);
    return rc;
}

/* The earliest ones first; each document once. */
static int collect(ttl_t *ttl, const stor_index_t *index, stor_record_t *records, uint32_t *count,
                   vd_error_t *err)
{
    bool descending = index->def->fields[0].order == STOR_INDEX_DESCENDING;
    stor_bounds_t bounds;
    stor_index_scan_t *scan = NULL;
    stor_index_entry_t entry;
    vd_error_t step = VD_ERROR_INIT;
    int rc = bounds_make(ttl, descending, &bounds, err);
    if (rc != VD_OK)
        return rc;
    stor_index_scan_options_t options = {.collection_id = ttl->collection_id,
                                         .index_id = index->id,
                                         .bounds = &bounds,
                                         .backward = descending};
    rc = stor_index_scan_open(ttl->arena, &options, &scan, err);
    while (rc == VD_OK && *count < STOR_TTL_BATCH &&
           (rc = stor_index_scan_next(scan, ttl->request, &entry, &step)) == VD_OK) {
        bool twice = false;
        stor_record_t record;
        for (uint32_t i = 0; i < *count; i++)
            twice |= vd_slice_equal(records[i].key, entry.id_key);
        if (twice)
            continue;
        rc = stor_index_scan_fetch(scan, ttl->request, &record, &step);
        if (rc == VD_OK)
            records[(*count)++] = stor_record_copy(ttl->arena, record);
    }
    stor_index_scan_close(&scan);
    return rc == VD_OK || rc == VD_ERR_NOT_FOUND ? VD_OK
                                                 : vd_error_set(err, rc, "%s", step.message);
}

/* Measurements up to the cutoff, from the earliest. */
static int collect_series(ttl_t *ttl, stor_record_t *records, uint32_t *count, vd_error_t *err)
{
    uint8_t *place = vd_arena_alloc(ttl->arena, 12);
    stor_range_t *range = VD_ARENA_NEW(ttl->arena, stor_range_t);
    stor_bounds_t bounds = {.count = 1, .ranges = range};
    stor_scan_options_t options = {
        .collection_id = ttl->collection_id, .bounds = &bounds, .tolerant = true};
    stor_scan_t *scan = NULL;
    vd_error_t step = VD_ERROR_INIT;
    stor_timeseries_place(ttl->cutoff_ms, UINT32_MAX, place);
    int rc = stor_id_key(ttl->arena, (vd_value_t){place, 12, VD_BSON_OBJECTID}, &range->high, err);
    if (rc == VD_OK)
        rc = stor_scan_open(ttl->arena, &options, &scan, err);
    while (rc == VD_OK && *count < STOR_TTL_BATCH) {
        stor_record_t record;
        rc = stor_scan_next(scan, ttl->request, &record, &step);
        if (rc == VD_OK)
            records[(*count)++] = stor_record_copy(ttl->arena, record);
    }
    stor_scan_close(&scan);
    return rc == VD_OK || rc == VD_ERR_NOT_FOUND ? VD_OK
                                                 : vd_error_set(err, rc, "%s", step.message);
}

static int batch_try(ttl_t *ttl, const stor_index_t *index, stor_write_t *write,
                     uint32_t *ret_deleted, vd_error_t *err)
{
    stor_record_t records[STOR_TTL_BATCH];
    uint32_t count = 0;
    int rc = stor_write_begin(write, err);
    if (rc != VD_OK)
        return rc;
    rc = index == NULL ? collect_series(ttl, records, &count, err)
                       : collect(ttl, index, records, &count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        rc = stor_write_remove(write, &records[i], -1, err);
    if (rc != VD_OK) {
        stor_write_rollback(write);
        return rc;
    }
    *ret_deleted = count;
    return stor_write_commit(write, err);
}

/* Fewer than STOR_TTL_BATCH: there is no more for now. */
static int batch(ttl_t *ttl, uint32_t *ret_deleted, vd_error_t *err)
{
    stor_collection_t *collection;
    stor_write_t write;
    *ret_deleted = 0;
    vd_arena_reset(ttl->arena);
    stor_session_t *session = ttl->request->session;
    stor_request_init(ttl->request, ttl->storage, ttl->arena);
    ttl->request->session = session;
    ttl->request->entry = stor_command_find(VD_SLICE_LIT("delete")); /* it gives space back */
    ttl->request->variables.now_ms = vd_wall_ms();
    int rc = stor_catalog_acquire_id(ttl->request, ttl->collection_id, &collection, err);
    if (rc != VD_OK)
        return rc;
    const stor_index_t *index = stor_index_set_find(collection->indexes, ttl->index_id);
    stor_write_init(&write, ttl->request, collection);
    rc = VD_ERR_WRITE_CONFLICT;
    bool there = index != NULL || (ttl->index_id == 0 && collection->timeseries.is);
    while (there && rc == VD_ERR_WRITE_CONFLICT && !is_over(ttl)) {
        vd_error_t step = VD_ERROR_INIT;
        rc = batch_try(ttl, index, &write, ret_deleted, &step);
        if (rc == VD_ERR_WRITE_CONFLICT && stor_write_backoff(&write, &step) == VD_OK)
            continue;
        if (rc != VD_OK)
            (void)vd_error_set(err, rc, "%s", step.message);
    }
    stor_write_done(&write);
    stor_catalog_release_all(ttl->request);
    return !there || rc == VD_ERR_WRITE_CONFLICT ? VD_OK : rc;
}

/* Of an index, or of a time-series collection. */
static int index_expire(ttl_t *ttl, bool *ret_more, vd_error_t *err)
{
    stor_ttl_counters_t *counters = &ttl->storage->ttl;
    uint32_t deleted = STOR_TTL_BATCH, all = 0;
    int rc = VD_OK;
    while (rc == VD_OK && deleted == STOR_TTL_BATCH && all < STOR_TTL_PASS_MAX && !is_over(ttl)) {
        rc = batch(ttl, &deleted, err);
        all += deleted;
        atomic_fetch_add_explicit(&counters->deleted, deleted, memory_order_relaxed);
        atomic_fetch_add_explicit(&ttl->storage->counters.documents_deleted, deleted,
                                  memory_order_relaxed);
    }
    *ret_more |= rc == VD_OK && deleted == STOR_TTL_BATCH && !is_over(ttl);
    return rc;
}

static int collection_expire(ttl_t *ttl, const stor_collection_t *collection, bool *ret_more,
                             vd_error_t *err)
{
    const stor_index_set_t *set = collection->indexes;
    uint32_t count = set == NULL ? 0 : set->count;
    int64_t series = collection->timeseries.is ? collection->timeseries.expire_after_seconds : -1;
    int rc = VD_OK;
    /* Behind the indexes the collection itself. */
    for (uint32_t i = 0; rc == VD_OK && i <= count && !is_over(ttl); i++) {
        const stor_index_t *index = i < count ? set->items[i] : NULL;
        vd_error_t step = VD_ERROR_INIT;
        if (index == NULL ? series < 0 : !expires(index))
            continue;
        ttl->index_id = index == NULL ? 0 : index->id;
        ttl->collection_id = collection->id;
        ttl->cutoff_ms =
            vd_wall_ms() - (index == NULL ? series : index->def->expire_after_seconds) * 1000;
        rc = index_expire(ttl, ret_more, &step);
        if (rc == VD_ERR_NAMESPACE_NOT_FOUND || rc == VD_ERR_QUERY_PLAN_KILLED ||
            rc == VD_ERR_NOT_WRITABLE_PRIMARY)
            rc = VD_OK; /* gone, or no longer ours to do */
        else if (rc != VD_OK)
            (void)vd_error_set(err, rc, "%s", step.message);
    }
    return rc;
}

int stor_ttl_pass(stor_storage_t *storage, stor_session_t *session, const atomic_bool *stop,
                  bool *ret_more, vd_error_t *err)
{
    ttl_t ttl = {.storage = storage, .stop = stop};
    uint64_t id = 0;
    int rc = VD_OK;
    *ret_more = false;
    if (is_over(&ttl) || stor_audit_allowed(storage->audit, NULL) != VD_OK)
        return VD_OK;
    ttl.arena = vd_arena_create();
    ttl.request = vd_xalloc(sizeof *ttl.request);
    stor_request_init(ttl.request, storage, ttl.arena);
    ttl.request->session = session;
    atomic_fetch_add_explicit(&storage->ttl.sub_passes, 1, memory_order_relaxed);
    for (stor_collection_t *c;
         !is_over(&ttl) && (c = stor_catalog_next(storage->catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        vd_error_t step = VD_ERROR_INIT;
        id = c->id;
        int one = collection_expire(&ttl, c, ret_more, &step);
        if (one != VD_OK && rc == VD_OK)
            rc = vd_error_set(err, one, "%s", step.message); /* the others are tried, too */
    }
    if (!*ret_more)
        atomic_fetch_add_explicit(&storage->ttl.passes, 1, memory_order_relaxed);
    vd_free(ttl.request);
    vd_arena_destroy(&ttl.arena);
    return rc;
}
