/* veddb-storaged/local/local.c — see local.h. */
#include "veddb-storaged/local/local.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/local/oplog.h"
#include "veddb-storaged/replication/replication.h"

#define STRETCH_MS  20
#define BEGIN_TRIES 3

/* ---- which there are ---- */

static const stor_local_info_t all[] = {
    {STOR_LOCAL_OPLOG, "oplog.rs", true},
    {STOR_LOCAL_REPLSET, "system.replset", false},
};

static bool is_there(stor_storage_t *storage, uint64_t id)
{
    if (id != STOR_LOCAL_REPLSET)
        return true;
    if (stor_replication_alone(storage))
        return false;
    vd_arena_t *arena = vd_arena_create();
    bool there = stor_replication_config(storage, arena).len > 0;
    vd_arena_destroy(&arena);
    return there;
}

bool stor_local_next(stor_storage_t *storage, uint32_t *position, stor_local_info_t *ret_info)
{
    while (*position < VD_COUNT_OF(all)) {
        *ret_info = all[(*position)++];
        if (is_there(storage, ret_info->id))
            return true;
    }
    return false;
}

uint64_t stor_local_find(stor_storage_t *storage, vd_slice_t db, vd_slice_t name)
{
    if (VD_LIKELY(!vd_slice_is(db, "local")))
        return 0;
    for (size_t i = 0; i < VD_COUNT_OF(all); i++)
        if (vd_slice_is(name, all[i].name) && is_there(storage, all[i].id))
            return all[i].id;
    return 0;
}

void stor_local_stats(vd_bb_t *bb, stor_storage_t *storage, uint64_t id, int64_t scale)
{
    stor_journal_stats_t stats;
    VD_ASSERT(scale >= 1);
    if (id != STOR_LOCAL_OPLOG) {
        vd_bb_bool(bb, "capped", false);
        vd_bb_int32(bb, "count", 1);
        vd_bb_int64(bb, "scaleFactor", scale);
        return;
    }
    /* How many entries there are is not kept; bytes and their limit are. */
    stor_journal_stats(storage->journal, &stats);
    vd_bb_int64(bb, "size", (int64_t)stats.bytes / scale);
    vd_bb_int64(bb, "storageSize", (int64_t)stats.bytes / scale);
    vd_bb_bool(bb, "capped", true);
    vd_bb_int64(bb, "max", -1);
    vd_bb_int64(bb, "maxSize", (int64_t)storage->settings.journal_max_bytes / scale);
    vd_bb_int32(bb, "nindexes", 0);
    vd_bb_int64(bb, "totalSize", (int64_t)stats.bytes / scale);
    vd_bb_int64(bb, "scaleFactor", scale);
}

/* ---- reading ---- */

struct stor_local_scan {
    uint64_t id;
    bool backward, done;
    vd_arena_t *document_arena, *entry_arena;
    stor_local_names_t *names;
    /* the entry in work: a copy */
    bool has_entry;
    stor_journal_entry_t entry;
    stor_oplog_cut_t cut;
    uint32_t pieces_given;
    /* where the journal is read */
    bool begun;
    uint64_t at;
    uint32_t at_part;
    /* while a stretch lasts */
    stor_request_t *request;
    bool own;
    uint64_t ends_us, upto;
    stor_journal_reader_t *reader;
};

stor_local_scan_t *stor_local_scan_open(uint64_t id, bool backward)
{
    stor_local_scan_t *scan = vd_xalloc(sizeof *scan);
    scan->id = id;
    scan->backward = backward;
    scan->document_arena = vd_arena_create();
    scan->entry_arena = vd_arena_create();
    scan->names = stor_local_names_create();
    return scan;
}

void stor_local_scan_close(stor_local_scan_t **scan_p)
{
    stor_local_scan_t *scan = *scan_p;
    if (scan == NULL)
        return;
    stor_local_scan_release(scan);
    stor_local_names_destroy(&scan->names);
    vd_arena_destroy(&scan->document_arena);
    vd_arena_destroy(&scan->entry_arena);
    vd_free(scan);
    *scan_p = NULL;
}

void stor_local_scan_release(stor_local_scan_t *scan)
{
    if (scan->request == NULL)
        return;
    stor_journal_reader_close(&scan->reader);
    if (scan->own && stor_txn_active(scan->request->session))
        stor_txn_rollback(scan->request->session); /* it only read */
    scan->own = false;
    scan->request = NULL;
}

/* What is visible, or on a majority, is sampled first: the snapshot then shows all below. */
static int stretch_begin(stor_local_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    if (scan->request != NULL && scan->own && vd_monotonic_us() >= scan->ends_us) {
        request->yields++;
        stor_local_scan_release(scan);
    }
    if (scan->request != NULL)
        return VD_OK;
    scan->upto = stor_engine_visible(request->storage->engine);
    if (request->read_level == STOR_READ_MAJORITY) {
        uint64_t majority = stor_replication_majority(request->storage);
        scan->upto = majority < scan->upto ? majority : scan->upto;
    }
    scan->own = !stor_txn_active(request->session);
    int rc = scan->own ? stor_txn_begin(request->session, err) : VD_OK;
    if (rc != VD_OK)
        return rc;
    scan->request = request;
    scan->ends_us = vd_monotonic_us() + STRETCH_MS * 1000;
    return VD_OK;
}

/* Takes a copy of the entry, and cuts it. */
static int entry_take(stor_local_scan_t *scan, const stor_journal_entry_t *entry, vd_error_t *err)
{
    vd_slice_t *const parts[] = {&scan->entry.user, &scan->entry.client, &scan->entry.lsid,
                                 &scan->entry.lsid_user, &scan->entry.changes};
    vd_arena_reset(scan->entry_arena);
    scan->entry = *entry;
    for (size_t i = 0; i < VD_COUNT_OF(parts); i++)
        *parts[i] = vd_arena_copy_slice(scan->entry_arena, *parts[i]);
    scan->begun = scan->has_entry = true;
    scan->at = entry->timestamp;
    scan->at_part = entry->part;
    scan->pieces_given = 0;
    return stor_oplog_cut(&scan->entry, &scan->cut, err);
}

static int position_lost(vd_error_t *err)
{
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_CAPPED_POSITION_LOST,
                        "CollectionScan died due to position in capped collection being deleted.");
}

/* The first entry behind the present one. Before the first: the oldest that is surely followed by
 * all others, which may be dropped between two looks. */
static int forward(stor_local_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    stor_journal_entry_t entry;
    int rc = VD_ERR_CHANGE_STREAM_HISTORY_LOST;
    for (int i = 0; i < (scan->begun ? 1 : BEGIN_TRIES); i++) {
        vd_error_t step = VD_ERROR_INIT;
        if (!scan->begun) {
            stor_journal_stats_t stats;
            stor_journal_stats(request->storage->journal, &stats);
            stor_journal_reader_close(&scan->reader);
            scan->at = stats.oldest;
            scan->at_part = UINT32_MAX;
        }
        if (scan->reader == NULL) {
            scan->reader = stor_journal_reader_open_part(request->storage->journal,
                                                         request->session, scan->at, scan->at_part);
            stor_journal_reader_begin(scan->reader);
        }
        rc = stor_journal_reader_next(scan->reader, scan->upto, &entry, &step);
        if (rc == VD_OK)
            return entry_take(scan, &entry, err);
        if (rc != VD_ERR_CHANGE_STREAM_HISTORY_LOST) {
            if (rc != VD_ERR_NOT_FOUND && err != NULL)
                vd_error_copy(&step, err);
            return rc;
        }
    }
    return position_lost(err);
}

/* The part `part` of the timestamp, or the last one (UINT32_MAX). */
static int part_read(stor_local_scan_t *scan, stor_request_t *request, uint64_t timestamp,
                     uint32_t part, vd_error_t *err)
{
    stor_journal_entry_t entry;
    bool last = part == UINT32_MAX, found = false;
    int rc;
    stor_journal_reader_close(&scan->reader);
    scan->reader =
        part == 0 || last
            ? stor_journal_reader_open(request->storage->journal, request->session, timestamp - 1)
            : stor_journal_reader_open_part(request->storage->journal, request->session, timestamp,
                                            part - 1);
    stor_journal_reader_begin(scan->reader);
    vd_error_t step = VD_ERROR_INIT;
    while ((rc = stor_journal_reader_next(scan->reader, timestamp, &entry, &step)) == VD_OK) {
        rc = entry_take(scan, &entry, err);
        found = true;
        if (rc != VD_OK || !last)
            return rc;
    }
    if (rc == VD_ERR_NOT_FOUND)
        return found ? VD_OK : VD_ERR_NOT_FOUND;
    if (rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST)
        return VD_ERR_NOT_FOUND; /* older ones were dropped: the end */
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int backward(stor_local_scan_t *scan, stor_request_t *request, vd_error_t *err)
{
    uint64_t before = 0;
    stor_journal_stats_t stats;
    if (scan->begun && scan->at_part > 0)
        return part_read(scan, request, scan->at, scan->at_part - 1, err);
    if (scan->begun && scan->at == 0)
        return VD_ERR_NOT_FOUND;
    int rc = stor_journal_before(request->storage->journal, request->session,
                                 scan->begun ? scan->at - 1 : scan->upto, &before, err);
    if (rc != VD_OK)
        return rc;
    stor_journal_stats(request->storage->journal, &stats);
    if (before == 0 || before <= stats.oldest)
        return VD_ERR_NOT_FOUND;
    return part_read(scan, request, before, UINT32_MAX, err);
}

typedef struct {
    stor_local_scan_t *scan;
    stor_request_t *request;
} asker_t;

static int name_of(void *context, uint64_t collection_id, const stor_local_name_t **ret_name,
                   vd_error_t *err)
{
    const asker_t *asker = context;
    bool searched = false;
    int rc = stor_local_name_of(asker->scan->names, asker->request, collection_id, asker->scan->at,
                                &searched, ret_name, err);
    if (searched && asker->scan->reader != NULL)
        stor_journal_reader_begin(asker->scan->reader);
    return rc;
}

/* Eight bits of the term stand in each timestamp; no entry is of a term above the present one. */
static uint64_t term_of(const stor_request_t *request, uint64_t timestamp)
{
    uint64_t now = stor_replication_term(request->storage), low = timestamp >> 24 & 0xff;
    uint64_t term = (now & ~(uint64_t)0xff) | low;
    return term > now && term > 0xff ? term - 0x100 : term;
}

static int piece_give(stor_local_scan_t *scan, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    uint32_t n = scan->pieces_given++;
    uint32_t piece = scan->backward ? scan->cut.count - 1 - n : n;
    asker_t asker = {scan, request};
    vd_arena_reset(scan->document_arena);
    stor_request_depends(request, scan->entry.timestamp);
    request->documents_examined++;
    return stor_oplog_entry(scan->document_arena, &scan->entry, &scan->cut, piece,
                            term_of(request, scan->entry.timestamp), name_of, &asker, ret_document,
                            err);
}

/* A drop that backward reading comes by names the collection of the entries before it. */
static int drops_note(stor_local_scan_t *scan, vd_error_t *err)
{
    vd_slice_t changes = scan->entry.changes;
    stor_change_t change;
    int rc;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK)
        stor_local_names_note(scan->names, &change);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int oplog_next(stor_local_scan_t *scan, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    for (;;) {
        int rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = stretch_begin(scan, request, err);
        if (rc != VD_OK)
            return rc;
        if (scan->has_entry && scan->pieces_given < scan->cut.count)
            return piece_give(scan, request, ret_document, err);
        rc = scan->backward ? backward(scan, request, err) : forward(scan, request, err);
        if (rc == VD_OK && scan->backward)
            rc = drops_note(scan, err);
        if (rc == VD_ERR_NOT_FOUND) {
            scan->done = true;
            stor_request_depends_newest(request);
            stor_local_scan_release(scan);
        }
        if (rc != VD_OK)
            return rc;
    }
}

static int replset_next(stor_local_scan_t *scan, stor_request_t *request, vd_bson_t *ret_document,
                        vd_error_t *err)
{
    vd_arena_t *arena = scan->document_arena;
    vd_bson_t config = stor_replication_config(request->storage, arena);
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    scan->done = true;
    if (config.len == 0)
        return VD_ERR_NOT_FOUND;
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    stor_local_config(bb, request->storage, config);
    return vd_bb_finish(bb, ret_document, err);
}

int stor_local_scan_next(stor_local_scan_t *scan, stor_request_t *request, vd_bson_t *ret_document,
                         vd_error_t *err)
{
    if (scan->done)
        return VD_ERR_NOT_FOUND;
    return scan->id == STOR_LOCAL_OPLOG ? oplog_next(scan, request, ret_document, err)
                                        : replset_next(scan, request, ret_document, err);
}
