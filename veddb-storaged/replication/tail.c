/* veddb-storaged/replication/tail.c — see tail.h. */
#include "veddb-storaged/replication/tail.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/journal.h"

#define SAMPLE_SINGLE  8  /* newest entries, one by one; then by seconds */
#define SAMPLE_SECONDS 32 /* up to here second by second: both journals may begin not long ago */

struct stor_tail {
    stor_storage_t *storage;
};

stor_tail_t *stor_tail_create(stor_storage_t *storage)
{
    stor_tail_t *tail = vd_xalloc(sizeof *tail);
    tail->storage = storage;
    return tail;
}

void stor_tail_destroy(stor_tail_t **tail_p)
{
    vd_free(*tail_p);
    *tail_p = NULL;
}

/* ---- batches ---- */

static int frame_append(vd_buf_t *out, vd_slice_t key, vd_slice_t value)
{
    uint8_t *at;
    size_t len = key.len + 4 + value.len;
    if (vd_buf_reserve(out, len, &at) != VD_OK)
        return VD_ERR_FULL;
    memcpy(at, key.data, key.len);
    vd_put_u32(at + key.len, (uint32_t)value.len);
    memcpy(at + key.len + 4, value.data, value.len);
    vd_buf_commit(out, len);
    return VD_OK;
}

typedef struct {
    vd_buf_t *out;
    size_t bytes_max;
    vdp_replication_batch_t batch;
    /* At the last border between timestamps. */
    size_t border_bytes;
    uint32_t border_count;
    uint64_t border_last;
} fill_t;

/* False: there is no room for this one. */
static bool fill_add(fill_t *fill, const stor_journal_entry_t *entry, vd_slice_t key,
                     vd_slice_t value)
{
    vdp_replication_batch_t *batch = &fill->batch;
    size_t len = key.len + 4 + value.len;
    if (batch->count > 0 && entry->timestamp != batch->last) {
        fill->border_bytes = vd_buf_len(fill->out);
        fill->border_count = batch->count;
        fill->border_last = batch->last;
    }
    if ((batch->count > 0 && vd_buf_len(fill->out) + len > fill->bytes_max) ||
        frame_append(fill->out, key, value) != VD_OK) {
        batch->partial = batch->count > 0 && entry->timestamp == batch->last;
        return false;
    }
    batch->last = entry->timestamp;
    batch->last_part = entry->part;
    batch->count++;
    return true;
}

/* A timestamp that is cut goes with the next batch, unless it is the only one. */
static void fill_round(fill_t *fill)
{
    if (!fill->batch.partial || fill->border_count == 0)
        return;
    vd_buf_truncate(fill->out, fill->border_bytes);
    fill->batch.count = fill->border_count;
    fill->batch.last = fill->border_last;
    fill->batch.partial = false;
    fill->batch.last_part = 0;
}

static int entries_read(stor_tail_t *tail, stor_session_t *session,
                        const vdp_replication_tail_t *ask, uint64_t upto, fill_t *fill,
                        vd_error_t *err)
{
    stor_journal_entry_t entry;
    vd_slice_t key, value;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    stor_journal_reader_t *reader =
        stor_journal_reader_open_part(tail->storage->journal, session, ask->after, ask->after_part);
    stor_journal_reader_begin(reader);
    while ((rc = stor_journal_reader_next(reader, upto, &entry, err)) == VD_OK) {
        stor_journal_reader_raw(reader, &key, &value);
        if (!fill_add(fill, &entry, key, value))
            break;
    }
    stor_journal_reader_close(&reader);
    stor_txn_rollback(session);
    if (rc == VD_OK && fill->batch.count == 0)
        return vd_error_set(err, VD_ERR_FULL, "an entry of %zu bytes does not fit into a message",
                            value.len);
    fill_round(fill);
    return rc == VD_ERR_NOT_FOUND && fill->batch.count > 0 ? VD_OK : rc;
}

int stor_tail_read(stor_tail_t *tail, stor_session_t *session, const vdp_replication_tail_t *ask,
                   vd_buf_t *out, vdp_replication_batch_t *ret_batch, vd_error_t *err)
{
    stor_engine_t *engine = tail->storage->engine;
    uint64_t visible = stor_engine_visible(engine), upto = stor_engine_durable(engine);
    stor_journal_stats_t stats;
    if (upto > visible)
        upto = visible;
    stor_journal_stats(tail->storage->journal, &stats);
    if (ask->after < stats.oldest)
        return vd_error_set(err, VD_ERR_CHANGE_STREAM_HISTORY_LOST,
                            "the journal no longer holds what comes next");
    bool open_part = ask->after_part != UINT32_MAX;
    if (ask->after > upto || (ask->after == upto && !open_part))
        return VD_ERR_NOT_FOUND;
    fill_t fill = {.out = out,
                   .bytes_max = ask->bytes_max,
                   .batch = {.after = ask->after, .last = ask->after, .newest = visible}};
    vd_buf_clear(out);
    int rc = entries_read(tail, session, ask, upto, &fill, err);
    if (rc == VD_OK)
        *ret_batch = fill.batch;
    return rc;
}

/* ---- the common point ---- */

static uint64_t loaded_position(stor_session_t *session)
{
    vd_arena_t *arena = vd_arena_create();
    vd_value_t value;
    uint64_t position = 0;
    if (stor_catalog_meta_get(session, "position", arena, &value, NULL) == VD_OK &&
        value.type == VD_BSON_INT64)
        position = (uint64_t)vd_value_int64(value);
    vd_arena_destroy(&arena);
    return position;
}

int stor_tail_find(stor_tail_t *tail, stor_session_t *session, const uint64_t *timestamps,
                   uint32_t count, uint64_t *ret_found, vd_error_t *err)
{
    stor_journal_stats_t stats;
    uint64_t loaded = loaded_position(session);
    stor_journal_stats(tail->storage->journal, &stats);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t found = 0, timestamp = timestamps[i];
        /* Below the oldest sure one an entry may be here, but what comes after it need not. */
        if (timestamp == 0 || (timestamp < stats.oldest && timestamp != loaded))
            continue;
        int rc = stor_journal_before(tail->storage->journal, session, timestamp, &found, err);
        if (rc != VD_OK)
            return rc;
        if (found == timestamp || timestamp == loaded) {
            *ret_found = timestamp;
            return VD_OK;
        }
    }
    *ret_found = 0;
    return VD_OK;
}

/* Where to look next: the entry before, eight times; then each second; then 1, 2, 4 ... seconds
 * back. */
static uint64_t step_back(uint64_t timestamp, uint32_t n)
{
    if (n < SAMPLE_SINGLE)
        return timestamp - 1;
    uint32_t doubled = n < SAMPLE_SECONDS ? 0 : n - SAMPLE_SECONDS;
    uint64_t back = 1ull << (doubled < 31 ? doubled : 31);
    uint64_t seconds = timestamp >> 32;
    return seconds <= back ? 0 : ((seconds - back) << 32 | UINT32_MAX);
}

int stor_tail_sample(stor_tail_t *tail, stor_session_t *session, uint64_t *ret, uint32_t max,
                     uint32_t *ret_count, vd_error_t *err)
{
    uint64_t at = UINT64_MAX, found = 0, loaded = loaded_position(session);
    stor_journal_stats_t stats;
    uint32_t count = 0;
    stor_journal_stats(tail->storage->journal, &stats);
    while (count + 1 < max && at > 0) {
        int rc = stor_journal_before(tail->storage->journal, session, at, &found, err);
        if (rc != VD_OK)
            return rc;
        if (found == 0 || found < stats.oldest || found <= loaded)
            break;
        ret[count++] = found;
        at = step_back(found, count);
    }
    if (loaded != 0 && loaded >= stats.oldest && count < max)
        ret[count++] = loaded;
    *ret_count = count;
    return VD_OK;
}
