/* veddb-storaged/exec/index_scan.c — see index_scan.h.
 *
 * Keys of the _id begin with a byte below FF, and no key of fields begins another: so what has the
 * fields F stands between F and F FF. */
#include "veddb-storaged/exec/index_scan.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/index/index_private.h"

#define CLOCK_EVERY 64 /* entries between looks at the clock */
#define KEY_ROOM    512

/* A key of any length, in the arena. */
typedef struct {
    uint8_t *bytes;
    size_t len, room;
} scan_key_t;

struct stor_index_scan {
    stor_index_scan_options_t options;
    vd_arena_t *arena;
    uint32_t range;   /* the one in work; ranges are walked from the last one when backward */
    bool positioned;  /* the engine cursor stands on the last entry, in this stretch */
    bool own;         /* the transaction is the scan's */
    bool pushed_back; /* the last entry comes again */
    bool sought;      /* to `target`, before anything else */
    bool done;
    uint32_t since_clock;
    uint64_t stretch_ends_us;
    stor_request_t *request; /* of the stretch */
    const stor_index_t *index;
    const stor_collection_t *collection;
    stor_cursor_t *cursor, *documents;
    scan_key_t last, before; /* of the last entry given, and of the one consumed before it */
    scan_key_t target, from;
    stor_index_entry_t entry;
};

static void key_set(stor_index_scan_t *scan, scan_key_t *key, vd_slice_t bytes)
{
    if (bytes.len + 1 > key->room) {
        key->room = 2 * bytes.len + KEY_ROOM;
        key->bytes = vd_arena_alloc(scan->arena, key->room);
    }
    if (bytes.len > 0)
        memcpy(key->bytes, bytes.data, bytes.len);
    key->len = bytes.len;
}

/* There is room for one byte more. */
static void key_extend(scan_key_t *key, uint8_t byte)
{
    key->bytes[key->len++] = byte;
}

static vd_slice_t key_slice(const scan_key_t *key)
{
    return vd_slice(key->bytes, key->len);
}

int stor_index_scan_open(vd_arena_t *arena, const stor_index_scan_options_t *options,
                         stor_index_scan_t **ret_scan, vd_error_t *err)
{
    (void)err; /* nothing of it can fail */
    stor_index_scan_t *scan = VD_ARENA_NEW(arena, stor_index_scan_t);
    scan->options = *options;
    scan->arena = arena;
    key_set(scan, &scan->last, options->resume_after);
    *ret_scan = scan;
    return VD_OK;
}

static void cursor_end(stor_index_scan_t *scan, stor_cursor_t **cursor)
{
    if (*cursor == NULL)
        return;
    if (scan->own)
        stor_cursor_reset(*cursor);
    else
        stor_cursor_release(cursor);
    *cursor = NULL;
}

void stor_index_scan_release(stor_index_scan_t *scan)
{
    if (scan == NULL || scan->request == NULL)
        return;
    stor_request_t *request = scan->request;
    if (scan->own && stor_txn_active(request->session))
        stor_request_depends(request, stor_txn_snapshot_newest(request->session));
    cursor_end(scan, &scan->cursor);
    cursor_end(scan, &scan->documents);
    if (scan->own && stor_txn_active(request->session))
        stor_txn_rollback(request->session); /* it only read */
    scan->own = false;
    scan->positioned = false;
    scan->request = NULL;
    scan->index = NULL;
    scan->collection = NULL;
}

void stor_index_scan_close(stor_index_scan_t **scan_p)
{
    stor_index_scan_release(*scan_p);
    *scan_p = NULL;
}

/* The index, as the collection that the request holds has it. */
static int index_find(stor_index_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    for (uint32_t i = 0; i < request->held_count; i++) {
        if (request->held[i]->id != scan->options.collection_id)
            continue;
        const stor_index_t *index =
            stor_index_set_find(request->held[i]->indexes, scan->options.index_id);
        if (index == NULL || atomic_load(&index->state) != STOR_INDEX_READY)
            break;
        scan->collection = request->held[i];
        scan->index = index;
        return VD_OK;
    }
    return vd_error_set(err, VD_ERR_QUERY_PLAN_KILLED, "query plan killed :: index was dropped");
}

static int cursor_take(stor_index_scan_t *scan, const char *table, stor_cursor_t **ret,
                       vd_error_t *err)
{
    /* In its own transaction nobody else uses the session's cursor meanwhile; in a caller's he may.
     */
    return scan->own ? stor_cursor_open(scan->request->session, table, ret, err)
                     : stor_cursor_acquire(scan->request->session, table, ret, err);
}

static int stretch_begin(stor_index_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    int rc = index_find(scan, request, err);
    if (rc != VD_OK)
        return rc;
    scan->own = !stor_txn_active(request->session);
    scan->positioned = false;
    scan->since_clock = 0;
    if (scan->own) {
        rc = stor_txn_begin(request->session, err);
        if (rc != VD_OK)
            return rc;
        scan->stretch_ends_us = vd_monotonic_us() + STOR_SCAN_STRETCH_MS * 1000;
    }
    scan->request = request;
    rc = cursor_take(scan, scan->index->table, &scan->cursor, err);
    if (rc != VD_OK)
        stor_index_scan_release(scan);
    return rc;
}

static int stretch_check(stor_index_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    int rc = stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (scan->cursor != NULL && scan->own && ++scan->since_clock >= CLOCK_EVERY) {
        scan->since_clock = 0;
        if (vd_monotonic_us() >= scan->stretch_ends_us) {
            request->yields++;
            stor_index_scan_release(scan);
        }
    }
    return scan->cursor == NULL ? stretch_begin(scan, request, err) : VD_OK;
}

/* ---- where to go ---- */

static vd_slice_t consumed(const stor_index_scan_t *scan)
{
    return key_slice(scan->pushed_back ? &scan->before : &scan->last);
}

static const stor_range_t *range_of(const stor_index_scan_t *scan)
{
    const stor_bounds_t *bounds = scan->options.bounds;
    return &bounds->ranges[scan->options.backward ? bounds->count - 1 - scan->range : scan->range];
}

/* -1: the fields stand before the range in scan order, 1: behind it. */
static int range_place(const stor_index_scan_t *scan, const stor_range_t *range, vd_slice_t fields)
{
    int low = range->low.len == 0 ? 1 : vd_slice_compare(fields, range->low);
    bool below = low < 0 || (low == 0 && range->low_exclusive);
    int high = range->high.len == 0 ? -1 : vd_slice_compare(fields, range->high);
    bool above = high > 0 || (high == 0 && range->high_exclusive);
    int place = below ? -1 : above ? 1 : 0;
    return scan->options.backward ? -place : place;
}

/* The furthest of: start of the range, behind what was consumed, what was sought. `strict`: not at
 * this very key. False: from the very start. */
static bool start_of(stor_index_scan_t *scan, bool *ret_strict)
{
    const stor_range_t *range = scan->options.bounds == NULL ? NULL : range_of(scan);
    bool backward = scan->options.backward, some = false;
    vd_slice_t last = consumed(scan), edge = VD_SLICE_NULL;
    bool over = false; /* behind (in order of bytes) all that has these fields */
    *ret_strict = false;
    if (range != NULL)
        edge = backward ? range->high : range->low;
    if (edge.len > 0) {
        over = backward ? !range->high_exclusive : range->low_exclusive;
        *ret_strict = backward && range->high_exclusive;
        key_set(scan, &scan->from, edge);
        if (over)
            key_extend(&scan->from, 0xFF);
        some = true;
    }
    if (scan->sought) {
        scan_key_t *target = &scan->target; /* has its FF already when backward */
        int c = some ? vd_slice_compare(key_slice(target), key_slice(&scan->from)) : 0;
        if (!some || (backward ? c < 0 : c > 0)) {
            key_set(scan, &scan->from, key_slice(target));
            *ret_strict = false;
            some = true;
        }
    }
    if (last.len > 0) {
        int c = some ? vd_slice_compare(last, key_slice(&scan->from)) : 0;
        if (!some || (backward ? c <= 0 : c >= 0)) {
            key_set(scan, &scan->from, last);
            *ret_strict = true;
            some = true;
        }
    }
    return some;
}

static int seek(stor_index_scan_t *scan, vd_slice_t *key, vd_slice_t *value, vd_error_t *err)
{
    bool forward = !scan->options.backward, strict;
    stor_cursor_reset(scan->cursor);
    if (!start_of(scan, &strict))
        return stor_cursor_next(scan->cursor, forward, key, value, err);
    vd_slice_t from = key_slice(&scan->from);
    int rc = stor_cursor_seek(scan->cursor, from, forward, key, value, err);
    if (rc == VD_OK && strict && vd_slice_equal(*key, from))
        rc = stor_cursor_next(scan->cursor, forward, key, value, err);
    return rc;
}

static int step_on(stor_index_scan_t *scan, vd_slice_t *key, vd_error_t *err)
{
    vd_slice_t value;
    vd_error_t step = VD_ERROR_INIT;
    int rc = scan->positioned
                 ? stor_cursor_next(scan->cursor, !scan->options.backward, key, &value, &step)
                 : seek(scan, key, &value, &step);
    if (rc == VD_OK)
        rc = stor_index_entry_read(scan->index->def, *key, value, &scan->entry, &step);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND && err != NULL)
        vd_error_copy(&step, err);
    scan->positioned = rc == VD_OK;
    return rc;
}

static int advance(stor_index_scan_t *scan, vd_slice_t *key, vd_error_t *err)
{
    const stor_bounds_t *bounds = scan->options.bounds;
    for (;;) {
        if (bounds != NULL && scan->range >= bounds->count)
            return VD_ERR_NOT_FOUND;
        int rc = step_on(scan, key, err);
        if (rc != VD_OK || bounds == NULL)
            return rc; /* behind the last entry nothing of any range can follow */
        int place = range_place(scan, range_of(scan), scan->entry.fields);
        if (place == 0)
            return VD_OK;
        if (place < 0)
            continue; /* what the range leaves out stands at its start */
        /* On to the range that this entry may lie in; from its start if it lies before it. */
        while (scan->range < bounds->count &&
               range_place(scan, range_of(scan), scan->entry.fields) > 0)
            scan->range++;
        if (scan->range < bounds->count &&
            range_place(scan, range_of(scan), scan->entry.fields) == 0)
            return VD_OK;
        scan->positioned = false;
    }
}

int stor_index_scan_next(stor_index_scan_t *scan, stor_request_t *request,
                         stor_index_entry_t *ret_entry, vd_error_t *err)
{
    if (scan->done)
        return VD_ERR_NOT_FOUND;
    int rc = stretch_check(scan, request, err);
    if (rc != VD_OK)
        return rc;
    if (scan->pushed_back)
        scan->positioned = false;
    vd_slice_t key;
    rc = advance(scan, &key, err);
    if (rc == VD_ERR_NOT_FOUND) {
        scan->done = true;
        stor_index_scan_release(scan);
        return rc;
    }
    if (rc != VD_OK)
        return rc;
    if (!scan->pushed_back) {
        scan_key_t swap = scan->before;
        scan->before = scan->last;
        scan->last = swap;
    }
    scan->pushed_back = false;
    scan->sought = false;
    key_set(scan, &scan->last, key);
    request->keys_examined++;
    *ret_entry = scan->entry;
    return VD_OK;
}

int stor_index_scan_fetch(stor_index_scan_t *scan, stor_request_t *request,
                          stor_record_t *ret_record, vd_error_t *err)
{
    VD_ASSERT(scan->request == request && scan->positioned);
    vd_slice_t value;
    vd_error_t step = VD_ERROR_INIT;
    int rc = VD_OK;
    if (scan->documents == NULL)
        rc = cursor_take(scan, scan->collection->table, &scan->documents, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_search(scan->documents, scan->entry.id_key, &value, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "index %llu has an entry without a document; run validate",
                            (unsigned long long)scan->options.index_id);
    if (rc == VD_OK)
        rc = stor_envelope_read(value, &ret_record->document, &ret_record->version, &step);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", step.message);
    ret_record->key = scan->entry.id_key;
    request->documents_examined++;
    return VD_OK;
}

int stor_index_scan_seek(stor_index_scan_t *scan, vd_slice_t fields, vd_error_t *err)
{
    (void)err; /* nothing of it can fail */
    key_set(scan, &scan->target, fields);
    if (scan->options.backward)
        key_extend(&scan->target, 0xFF);
    scan->sought = true;
    scan->positioned = false;
    return VD_OK;
}

void stor_index_scan_push_back(stor_index_scan_t *scan)
{
    VD_ASSERT(!scan->pushed_back);
    scan->pushed_back = true;
}

vd_slice_t stor_index_scan_position(const stor_index_scan_t *scan)
{
    return consumed(scan);
}
