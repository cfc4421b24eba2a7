/* veddb-storaged/exec/scan.c — see scan.h. */
#include "veddb-storaged/exec/scan.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/capped.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/local/local.h"

#include <stdio.h>

#define CLOCK_EVERY 64 /* records between looks at the clock */

struct stor_scan {
    stor_scan_options_t options;
    vd_arena_t *arena;
    char table[32];
    uint32_t range;  /* the one in work; ranges are walked from the last one when backward */
    bool positioned; /* the engine cursor stands on the last record, in this stretch */
    bool own;        /* the transaction is the scan's */
    bool done;
    uint32_t since_clock;
    uint64_t stretch_ends_us;
    stor_request_t *request; /* of the stretch */
    stor_cursor_t *cursor;
    stor_cursor_t *records;   /* of the documents, where `cursor` walks the order of a capped one */
    bool looked, capped;      /* looked: whether it is a capped one to be walked in its order */
    stor_local_scan_t *local; /* of the database `local`: no table */
    uint8_t *last;            /* key of the last record given */
    uint32_t last_len;
};

int stor_scan_open(vd_arena_t *arena, const stor_scan_options_t *options, stor_scan_t **ret_scan,
                   vd_error_t *err)
{
    if (options->resume_after.len > VD_KEYCODE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "the resume key is too long");
    stor_scan_t *scan = VD_ARENA_NEW(arena, stor_scan_t);
    scan->options = *options;
    scan->arena = arena;
    *ret_scan = scan;
    if (stor_local_is(options->collection_id)) {
        scan->local = stor_local_scan_open(options->collection_id, options->backward);
        return VD_OK;
    }
    (void)snprintf(scan->table, sizeof scan->table, "c-%llu",
                   (unsigned long long)options->collection_id);
    scan->last = vd_arena_alloc(arena, VD_KEYCODE_MAX_BYTES);
    scan->last_len = (uint32_t)options->resume_after.len;
    if (scan->last_len > 0)
        memcpy(scan->last, options->resume_after.data, scan->last_len);
    return VD_OK;
}

void stor_scan_release(stor_scan_t *scan)
{
    if (scan != NULL && scan->local != NULL)
        stor_local_scan_release(scan->local);
    if (scan == NULL || scan->request == NULL)
        return;
    stor_request_t *request = scan->request;
    if (scan->records != NULL && scan->own)
        stor_cursor_reset(scan->records);
    else if (scan->records != NULL)
        stor_cursor_release(&scan->records);
    scan->records = NULL;
    if (scan->cursor != NULL) {
        if (scan->own && stor_txn_active(request->session))
            stor_request_depends(request, stor_txn_snapshot_newest(request->session));
        if (scan->own)
            stor_cursor_reset(scan->cursor);
        else
            stor_cursor_release(&scan->cursor);
        scan->cursor = NULL;
    }
    if (scan->own && stor_txn_active(request->session))
        stor_txn_rollback(request->session); /* it only read */
    scan->own = false;
    scan->positioned = false;
    scan->request = NULL;
}

void stor_scan_close(stor_scan_t **scan_p)
{
    stor_scan_release(*scan_p);
    if (*scan_p != NULL)
        stor_local_scan_close(&(*scan_p)->local);
    *scan_p = NULL;
}

/* Whether the order is another than the table's: told by the collection that the request holds. */
static void order_look(stor_scan_t *scan, const stor_request_t *request)
{
    for (uint32_t i = 0; !scan->looked && i < request->held_count; i++)
        if (request->held[i]->id == scan->options.collection_id) {
            scan->looked = true;
            scan->capped = scan->options.natural && scan->options.bounds == NULL &&
                           request->held[i]->capped.is;
        }
}

static int cursor_for(const stor_scan_t *scan, const char *table, stor_cursor_t **ret_cursor,
                      vd_error_t *err)
{
    stor_session_t *session = scan->request->session;
    /* In its own transaction nobody else uses the session's cursor meanwhile; in a caller's he may.
     */
    return scan->own ? stor_cursor_open(session, table, ret_cursor, err)
                     : stor_cursor_acquire(session, table, ret_cursor, err);
}

static int cursors_open(stor_scan_t *scan, vd_error_t *err)
{
    char order[32];
    if (!scan->capped)
        return cursor_for(scan, scan->table, &scan->cursor, err);
    (void)snprintf(order, sizeof order, "o-%llu", (unsigned long long)scan->options.collection_id);
    int rc = cursor_for(scan, order, &scan->cursor, err);
    return rc == VD_OK ? cursor_for(scan, scan->table, &scan->records, err) : rc;
}

static int stretch_begin(stor_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    order_look(scan, request);
    scan->request = request;
    scan->own = !stor_txn_active(request->session);
    scan->positioned = false;
    scan->since_clock = 0;
    if (scan->own) {
        int rc = stor_txn_begin(request->session, err);
        if (rc != VD_OK) {
            scan->request = NULL;
            return rc;
        }
        scan->stretch_ends_us = vd_monotonic_us() + STOR_SCAN_STRETCH_MS * 1000;
    }
    int rc = cursors_open(scan, err);
    if (rc != VD_OK)
        stor_scan_release(scan);
    return rc;
}

static const stor_range_t *range_of(const stor_scan_t *scan)
{
    const stor_bounds_t *bounds = scan->options.bounds;
    return &bounds->ranges[scan->options.backward ? bounds->count - 1 - scan->range : scan->range];
}

/* < 0: the key lies before the range in walking order, 0 inside, > 0 behind. */
static int range_place(const stor_scan_t *scan, const stor_range_t *range, vd_slice_t key)
{
    int low = vd_slice_compare(key, range->low);
    bool below = low < 0 || (low == 0 && range->low_exclusive);
    int high = range->high.len == 0 ? -1 : vd_slice_compare(key, range->high);
    bool above = high > 0 || (high == 0 && range->high_exclusive);
    int place = below ? -1 : above ? 1 : 0;
    return scan->options.backward ? -place : place;
}

/* To the first record of the present range that was not yet consumed. */
static int seek(stor_scan_t *scan, vd_slice_t *key, vd_slice_t *value, vd_error_t *err)
{
    bool forward = !scan->options.backward;
    vd_slice_t last = vd_slice(scan->last, scan->last_len), from = VD_SLICE_NULL;
    bool skip_equal = false;
    if (scan->options.bounds != NULL) {
        const stor_range_t *range = range_of(scan);
        from = forward ? range->low : range->high;
        skip_equal = forward ? range->low_exclusive : range->high_exclusive;
    }
    if (last.len > 0) {
        int c = from.len == 0 ? 1 : vd_slice_compare(last, from);
        if (from.len == 0 || (forward ? c >= 0 : c <= 0)) {
            from = last;
            skip_equal = true;
        }
    }
    int rc;
    stor_cursor_reset(scan->cursor);
    if (from.len == 0)
        return stor_cursor_next(scan->cursor, forward, key, value, err);
    rc = stor_cursor_seek(scan->cursor, from, forward, key, value, err);
    bool there = rc == VD_OK && vd_slice_equal(*key, from);
    if (scan->capped && !there && !scan->options.tolerant &&
        (rc == VD_OK || rc == VD_ERR_NOT_FOUND)) {
        vd_error_clear(err);
        return vd_error_set(err, VD_ERR_CAPPED_POSITION_LOST,
                            "CollectionScan died due to position in capped collection being "
                            "deleted.");
    }
    if (there && skip_equal)
        rc = stor_cursor_next(scan->cursor, forward, key, value, err);
    return rc;
}

static int advance(stor_scan_t *scan, vd_slice_t *key, vd_slice_t *value, vd_error_t *err)
{
    const stor_bounds_t *bounds = scan->options.bounds;
    for (;;) {
        if (bounds != NULL && scan->range >= bounds->count)
            return VD_ERR_NOT_FOUND;
        vd_error_t step = VD_ERROR_INIT;
        int rc = scan->positioned
                     ? stor_cursor_next(scan->cursor, !scan->options.backward, key, value, &step)
                     : seek(scan, key, value, &step);
        if (rc != VD_OK) {
            if (rc != VD_ERR_NOT_FOUND && err != NULL)
                vd_error_copy(&step, err);
            return rc; /* behind the last record nothing of any range can follow */
        }
        scan->positioned = true;
        if (bounds == NULL)
            return VD_OK;
        int place = range_place(scan, range_of(scan), *key);
        if (place == 0)
            return VD_OK;
        VD_ASSERT(place > 0); /* seek went to the range's start */
        /* On to the range that this key may lie in; from its start if it lies before it. */
        while (scan->range < bounds->count && range_place(scan, range_of(scan), *key) > 0)
            scan->range++;
        if (scan->range < bounds->count && range_place(scan, range_of(scan), *key) == 0)
            return VD_OK;
        scan->positioned = false;
    }
}

static int stretch_check(stor_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    int rc = stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (scan->cursor != NULL && scan->own && ++scan->since_clock >= CLOCK_EVERY) {
        scan->since_clock = 0;
        if (vd_monotonic_us() >= scan->stretch_ends_us) {
            request->yields++;
            stor_scan_release(scan);
        }
    }
    return scan->cursor == NULL ? stretch_begin(scan, request, err) : VD_OK;
}

static int local_next(stor_scan_t *scan, stor_request_t *request, stor_record_t *ret_record,
                      vd_error_t *err)
{
    vd_bson_t document;
    int rc = stor_local_scan_next(scan->local, request, &document, err);
    if (rc == VD_OK)
        *ret_record = (stor_record_t){.document = document};
    return rc;
}

/* From a place to the document that stands there. */
static int place_follow(stor_scan_t *scan, vd_slice_t key, vd_slice_t *value, uint64_t *ret_place,
                        vd_slice_t *ret_key, vd_error_t *err)
{
    vd_slice_t record;
    int rc = stor_capped_row(key, *value, ret_place, &record, err);
    if (rc != VD_OK)
        return rc;
    if (scan->options.places_end != 0 && *ret_place > scan->options.places_end)
        return VD_ERR_NOT_FOUND;
    rc = stor_cursor_search(scan->records, record, value, err);
    *ret_key = record; /* the other cursor's, which stays where it is */
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_CORRUPT, "a place of a capped collection is empty");
}

int stor_scan_next(stor_scan_t *scan, stor_request_t *request, stor_record_t *ret_record,
                   vd_error_t *err)
{
    if (scan->local != NULL)
        return local_next(scan, request, ret_record, err);
    if (scan->done)
        return VD_ERR_NOT_FOUND;
    int rc = stretch_check(scan, request, err);
    if (rc != VD_OK)
        return rc;
    vd_slice_t key, value, record = VD_SLICE_NULL;
    uint64_t place = 0;
    rc = advance(scan, &key, &value, err);
    if (rc == VD_OK && scan->capped)
        rc = place_follow(scan, key, &value, &place, &record, err);
    if (rc == VD_ERR_NOT_FOUND) {
        scan->done = true;
        stor_scan_release(scan);
        return rc;
    }
    if (rc != VD_OK)
        return rc;
    if (key.len > VD_KEYCODE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_CORRUPT, "a stored key is too long");
    memcpy(scan->last, key.data, key.len);
    scan->last_len = (uint32_t)key.len;
    request->documents_examined++;
    ret_record->key = scan->capped ? record : vd_slice(scan->last, scan->last_len);
    ret_record->place = place;
    return stor_envelope_read(value, &ret_record->document, &ret_record->version, err);
}

vd_slice_t stor_scan_position(const stor_scan_t *scan)
{
    return vd_slice(scan->last, scan->last_len);
}

int stor_fetch(stor_request_t *request, const stor_collection_t *collection, vd_slice_t key,
               stor_record_t *ret_record, vd_error_t *err)
{
    stor_session_t *session = request->session;
    bool own = !stor_txn_active(session);
    stor_cursor_t *cursor;
    vd_slice_t value;
    int rc = own ? stor_txn_begin(session, err) : VD_OK;
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(session, collection->table, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, key, &value, err);
    if (rc == VD_OK) {
        stor_record_t record = {.key = key};
        rc = stor_envelope_read(value, &record.document, &record.version, err);
        if (rc == VD_OK) {
            *ret_record = stor_record_copy(request->arena, record);
            stor_request_depends(request, record.version);
            request->documents_examined++;
        }
    } else if (rc == VD_ERR_NOT_FOUND) {
        stor_request_depends(request, stor_txn_snapshot_newest(session));
    }
    if (own)
        stor_txn_rollback(session); /* it only read */
    return rc;
}
