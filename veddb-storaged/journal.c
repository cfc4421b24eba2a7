/* veddb-storaged/journal.c — segments, readers. */
#include "veddb-storaged/journal.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/tally.h"

#include <stdio.h>

#define KEY_BYTES         STOR_JOURNAL_KEY_BYTES
#define NOTE_MAX_BYTES    (VD_BSON_INTERNAL_MAX_BYTES + 4096)
#define SEGMENTS_MAX      4096
#define SEGMENTS_WANTED   16 /* of journal_max */
#define SEGMENT_MIN_BYTES (8u << 20)
#define CUT_PAUSE_MS      5000
#define LEARN_ENTRIES     50000 /* read to be counted, at a time */
#define LEARN_BYTES       (32u << 20)

/* ---- segments ---- */

typedef struct segment {
    struct segment *next_dead;
    uint64_t number;
    char table[32];
    uint64_t first; /* no entry below; rows of older segments may be above, near the cut */
    atomic_uint_fast64_t bytes; /* appended since open, plus the file's size at open */
    atomic_uint_fast64_t entries;
} segment_t;

struct stor_journal {
    stor_storage_t *storage;
    atomic_uint_fast64_t appended; /* bytes: stats */
    pthread_rwlock_t lock;         /* the list; appenders look only at `current` */
    segment_t *segments[SEGMENTS_MAX];
    uint32_t count;
    _Atomic(segment_t *) current;
    pthread_mutex_t maintain_lock; /* cut, drop and restart: one at a time */
    uint64_t cut_at;               /* above every timestamp drawn before the current one was made */
    uint64_t cut_ms;
    uint64_t dropped_below; /* entries at or below may be gone */
    stor_tally_t *tally;
    segment_t *dead; /* dropped while open: the structs stay until close, as readers may look */
};

static void segment_names(uint64_t number, char table[32], char row[32])
{
    (void)snprintf(table, 32, "j-%llu", (unsigned long long)number);
    (void)snprintf(row, 32, "segment-%llu", (unsigned long long)number);
}

static int segment_make(stor_journal_t *journal, stor_session_t *session, uint64_t number,
                        uint64_t first, vd_error_t *err)
{
    segment_t *segment = vd_xalloc(sizeof *segment);
    char row[32];
    segment->number = number;
    segment->first = first;
    segment_names(number, segment->table, row);
    vd_arena_t *arena = vd_arena_create();
    int rc = stor_engine_table_create(journal->storage->engine, segment->table, false, err);
    if (rc == VD_OK)
        rc = stor_catalog_meta_put(session, row, vd_value_from_int64(arena, (int64_t)first), err);
    vd_arena_destroy(&arena);
    if (rc != VD_OK) {
        vd_free(segment);
        return rc;
    }
    pthread_rwlock_wrlock(&journal->lock);
    journal->segments[journal->count++] = segment;
    pthread_rwlock_unlock(&journal->lock);
    atomic_store(&journal->current, segment);
    return VD_OK;
}

static int segment_load(void *context, uint64_t number, uint64_t first)
{
    stor_journal_t *journal = context;
    if (journal->count >= SEGMENTS_MAX)
        return VD_ERR_FULL;
    segment_t *segment = vd_xalloc(sizeof *segment);
    char row[32];
    segment->number = number;
    segment->first = first;
    segment_names(number, segment->table, row);
    uint64_t bytes = 0, free_bytes = 0;
    if (stor_engine_table_size(journal->storage->engine, segment->table, &bytes, &free_bytes,
                               NULL) == VD_OK)
        atomic_store(&segment->bytes, bytes - free_bytes);
    /* Rows come in the order of their names, not of their numbers. */
    uint32_t at = journal->count++;
    for (; at > 0 && journal->segments[at - 1]->number > number; at--)
        journal->segments[at] = journal->segments[at - 1];
    journal->segments[at] = segment;
    return VD_OK;
}

/* Entries above this are all there: a dropped segment overlaps the one after it, not the second. */
static uint64_t oldest_sure(const stor_journal_t *journal)
{
    if (journal->segments[0]->number == 1)
        return 0;
    return journal->segments[journal->count > 1 ? 1 : 0]->first;
}

int stor_journal_open(stor_storage_t *storage, stor_journal_t **ret_journal, vd_error_t *err)
{
    stor_journal_t *journal = vd_xalloc(sizeof *journal);
    journal->storage = storage;
    pthread_rwlock_init(&journal->lock, NULL);
    pthread_mutex_init(&journal->maintain_lock, NULL);
    stor_session_t *session = NULL;
    int rc = stor_session_open(storage->engine, &session, err);
    if (rc == VD_OK)
        rc = stor_catalog_segments(session, segment_load, journal, err);
    if (rc == VD_OK && journal->count == 0)
        rc = segment_make(journal, session, 1, 0, err);
    else if (rc == VD_OK)
        atomic_store(&journal->current, journal->segments[journal->count - 1]);
    if (rc == VD_OK) {
        journal->dropped_below = oldest_sure(journal);
        journal->cut_ms = vd_monotonic_ms();
        uint64_t newest = 0;
        rc = stor_journal_before(journal, session, UINT64_MAX, &newest, err);
        journal->tally = stor_tally_create(newest, STOR_TALLY_BLOCKS);
    }
    stor_session_close(&session);
    if (rc != VD_OK)
        stor_journal_close(&journal);
    else
        *ret_journal = journal;
    return rc;
}

void stor_journal_close(stor_journal_t **journal_p)
{
    stor_journal_t *journal = *journal_p;
    if (journal == NULL)
        return;
    for (uint32_t i = 0; i < journal->count; i++)
        vd_free(journal->segments[i]);
    while (journal->dead != NULL) {
        segment_t *dead = journal->dead;
        journal->dead = dead->next_dead;
        vd_free(dead);
    }
    stor_tally_destroy(&journal->tally);
    pthread_rwlock_destroy(&journal->lock);
    pthread_mutex_destroy(&journal->maintain_lock);
    vd_free(journal);
    *journal_p = NULL;
}

static void entry_key(uint64_t timestamp, uint32_t part, uint8_t key[KEY_BYTES])
{
    vd_put_u64_be(key, timestamp);
    key[8] = (uint8_t)(part >> 24), key[9] = (uint8_t)(part >> 16);
    key[10] = (uint8_t)(part >> 8), key[11] = (uint8_t)part;
}

typedef struct {
    stor_tally_t *tally;
    uint64_t timestamp;
} noted_t;

static void append_ended(bool committed, void *context)
{
    const noted_t *noted = context;
    if (committed)
        stor_tally_note(noted->tally, noted->timestamp);
    vd_free(context);
}

int stor_journal_append_raw(stor_journal_t *journal, stor_session_t *session, vd_slice_t key,
                            vd_slice_t value, vd_error_t *err)
{
    VD_ASSERT(key.len == KEY_BYTES);
    segment_t *segment = atomic_load(&journal->current);
    stor_cursor_t *cursor;
    int rc = stor_cursor_open(session, segment->table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    /* put: the key is new (timestamps are unique), so no look-up is needed to know that. */
    rc = stor_cursor_put(cursor, key, value, err);
    if (rc == VD_OK) {
        atomic_fetch_add_explicit(&segment->bytes, value.len + KEY_BYTES + 8, memory_order_relaxed);
        atomic_fetch_add_explicit(&segment->entries, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&journal->appended, value.len + KEY_BYTES + 8,
                                  memory_order_relaxed);
        noted_t *noted = vd_xalloc(sizeof *noted);
        *noted = (noted_t){journal->tally, vd_get_u64_be(key.data)};
        stor_txn_on_end(session, append_ended, noted);
    }
    return rc;
}

int stor_journal_append(stor_journal_t *journal, stor_session_t *session, uint64_t timestamp,
                        uint32_t part, vd_slice_t entry, vd_error_t *err)
{
    uint8_t key[KEY_BYTES];
    entry_key(timestamp, part, key);
    return stor_journal_append_raw(journal, session, vd_slice(key, sizeof key), entry, err);
}

static int note_make(vd_buf_t *entry, stor_change_kind_t kind, vd_bson_t body, vd_error_t *err)
{
    stor_change_t change = {.kind = kind, .statement = -1, .body = body};
    int rc = stor_journal_begin(entry, NULL, vd_wall_ms(), err);
    return rc == VD_OK ? stor_journal_add(entry, &change, err) : rc;
}

int stor_journal_note(stor_storage_t *storage, stor_session_t *session, stor_change_kind_t kind,
                      vd_bson_t body,
                      int (*also)(stor_session_t *session, uint64_t timestamp, void *context,
                                  vd_error_t *err),
                      void *context, uint64_t *ret_timestamp, vd_error_t *err)
{
    uint64_t timestamp = 0;
    vd_buf_t entry;
    vd_buf_init(&entry, NOTE_MAX_BYTES);
    int rc = note_make(&entry, kind, body, err);
    if (rc == VD_OK)
        rc = stor_txn_begin(session, err);
    if (rc == VD_OK) {
        timestamp = stor_txn_timestamp(session);
        rc =
            stor_journal_append(storage->journal, session, timestamp, 0, vd_buf_slice(&entry), err);
        if (rc == VD_OK && also != NULL)
            rc = also(session, timestamp, context, err);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    vd_buf_done(&entry);
    if (rc == VD_OK)
        *ret_timestamp = timestamp;
    return rc;
}

static uint64_t segment_max_bytes(const stor_journal_t *journal)
{
    uint64_t max = journal->storage->settings.journal_max_bytes / SEGMENTS_WANTED;
    return max < SEGMENT_MIN_BYTES ? SEGMENT_MIN_BYTES : max;
}

static int drop_first(stor_journal_t *journal, stor_session_t *session, vd_error_t *err)
{
    segment_t *segment = journal->segments[0];
    char table[32], row[32];
    segment_names(segment->number, table, row);
    int rc = stor_catalog_meta_put(session, row, VD_VALUE_MISSING, err);
    if (rc != VD_OK)
        return rc;
    pthread_rwlock_wrlock(&journal->lock);
    journal->count--;
    memmove(journal->segments, journal->segments + 1, journal->count * sizeof journal->segments[0]);
    journal->dropped_below = oldest_sure(journal);
    segment->next_dead = journal->dead; /* a reader may still look at it: it goes at the close */
    journal->dead = segment;
    pthread_rwlock_unlock(&journal->lock);
    stor_catalog_table_dropped(journal->storage->catalog, table);
    return VD_OK;
}

/* Bytes in all segments. */
static uint64_t total_bytes(const stor_journal_t *journal)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < journal->count; i++)
        bytes += atomic_load_explicit(&journal->segments[i]->bytes, memory_order_relaxed);
    return bytes;
}

uint64_t stor_journal_bytes_above(stor_journal_t *journal, uint64_t timestamp)
{
    uint64_t bytes = 0;
    pthread_rwlock_rdlock(&journal->lock);
    for (uint32_t i = 0; i < journal->count; i++) /* the first two may reach into the third */
        if (i + 2 >= journal->count || journal->segments[i + 2]->first > timestamp)
            bytes += atomic_load_explicit(&journal->segments[i]->bytes, memory_order_relaxed);
    pthread_rwlock_unlock(&journal->lock);
    return bytes;
}

/* Seconds never run ahead of the clock by more than a full counter allows. */
static uint64_t above_all_drawn(const stor_journal_t *journal)
{
    uint64_t seconds = stor_engine_newest(journal->storage->engine) >> 32;
    uint64_t now = (uint64_t)vd_wall_ms() / 1000;
    return ((seconds > now ? seconds : now) + 2) << 32;
}

static int maintain(stor_journal_t *journal, stor_session_t *session, uint64_t keep_above,
                    vd_error_t *err)
{
    stor_engine_t *engine = journal->storage->engine;
    segment_t *current = atomic_load(&journal->current);
    uint64_t now_ms = vd_monotonic_ms();
    int rc = VD_OK;
    if (atomic_load(&current->bytes) >= segment_max_bytes(journal) &&
        journal->count < SEGMENTS_MAX && now_ms - journal->cut_ms >= CUT_PAUSE_MS &&
        stor_engine_visible(engine) >= journal->cut_at) {
        /* Who has drawn already may append to the old one or to the new one: so the new one begins
         * at what is visible, and the next cut waits until everything drawn before this one is
         * visible. */
        uint64_t first = stor_engine_visible(engine);
        rc = segment_make(journal, session, current->number + 1, first, err);
        journal->cut_at = above_all_drawn(journal);
        journal->cut_ms = now_ms;
        if (rc == VD_OK)
            vd_log(VD_LOG_INFO, "journal segment cut", "segment=%llu",
                   (unsigned long long)current->number + 1);
    }
    /* The first segment ends where the second begins, with a little overlap: the third's start is
     * surely behind it. */
    while (rc == VD_OK && journal->count > 3 &&
           total_bytes(journal) > journal->storage->settings.journal_max_bytes &&
           journal->segments[2]->first <= keep_above)
        rc = drop_first(journal, session, err);
    return rc;
}

int stor_journal_maintain(stor_journal_t *journal, stor_session_t *session, uint64_t keep_above,
                          vd_error_t *err)
{
    pthread_mutex_lock(&journal->maintain_lock);
    int rc = maintain(journal, session, keep_above, err);
    pthread_mutex_unlock(&journal->maintain_lock);
    return rc;
}

/* The new segment's row is there before the old ones go: a crash in between leaves more than one,
 * and the restart is made again. */
int stor_journal_restart(stor_journal_t *journal, stor_session_t *session, uint64_t position,
                         vd_error_t *err)
{
    pthread_mutex_lock(&journal->maintain_lock);
    int rc = VD_OK;
    if (journal->count >= SEGMENTS_MAX)
        rc = drop_first(journal, session, err);
    if (rc == VD_OK)
        rc = segment_make(journal, session, atomic_load(&journal->current)->number + 1, position,
                          err);
    while (rc == VD_OK && journal->count > 1)
        rc = drop_first(journal, session, err);
    journal->cut_at = 0;
    journal->cut_ms = vd_monotonic_ms();
    stor_tally_restart(journal->tally, position);
    pthread_mutex_unlock(&journal->maintain_lock);
    return rc;
}

void stor_journal_stats(stor_journal_t *journal, stor_journal_stats_t *ret_stats)
{
    memset(ret_stats, 0, sizeof *ret_stats);
    pthread_rwlock_rdlock(&journal->lock);
    ret_stats->segments = journal->count;
    ret_stats->bytes = total_bytes(journal);
    for (uint32_t i = 0; i < journal->count; i++)
        ret_stats->entries +=
            atomic_load_explicit(&journal->segments[i]->entries, memory_order_relaxed);
    ret_stats->appended = atomic_load_explicit(&journal->appended, memory_order_relaxed);
    ret_stats->oldest = journal->dropped_below;
    ret_stats->newest_segment = journal->segments[journal->count - 1]->number;
    pthread_rwlock_unlock(&journal->lock);
}

/* ---- single looks, by the rows of the segments: also on a checkpoint ---- */

typedef struct {
    uint64_t *numbers;
    uint32_t count, max;
} numbers_t;

static int number_add(void *context, uint64_t number, uint64_t first)
{
    numbers_t *numbers = context;
    (void)first;
    if (numbers->count == numbers->max)
        return VD_ERR_FULL;
    uint32_t at = numbers->count++;
    for (; at > 0 && numbers->numbers[at - 1] < number; at--)
        numbers->numbers[at] = numbers->numbers[at - 1];
    numbers->numbers[at] = number;
    return VD_OK;
}

/* Newest first; free with vd_free. */
static int numbers_read(stor_session_t *session, numbers_t *ret, vd_error_t *err)
{
    *ret = (numbers_t){vd_xalloc(SEGMENTS_MAX * sizeof(uint64_t)), 0, SEGMENTS_MAX};
    int rc = stor_catalog_segments(session, number_add, ret, err);
    if (rc != VD_OK)
        vd_free(ret->numbers);
    return rc;
}

static int segment_newest(stor_session_t *session, uint64_t number, uint64_t *ret_timestamp,
                          vd_error_t *err)
{
    char table[32], row[32];
    stor_cursor_t *cursor;
    vd_slice_t key;
    vd_error_t step = VD_ERROR_INIT;
    segment_names(number, table, row);
    int rc = stor_cursor_open(session, table, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_next(cursor, false, &key, NULL, &step);
    if (rc == VD_OK && key.len != KEY_BYTES)
        rc = stor_journal_malformed(&step);
    if (rc == VD_OK) {
        *ret_timestamp = vd_get_u64_be(key.data);
        stor_cursor_reset(cursor);
    } else if (rc != VD_ERR_NOT_FOUND && err != NULL) {
        vd_error_copy(&step, err);
    }
    return rc;
}

int stor_journal_newest(stor_session_t *session, uint64_t *ret_timestamp, vd_error_t *err)
{
    numbers_t numbers;
    uint64_t newest = 0;
    VD_ASSERT(stor_txn_active(session));
    int rc = numbers_read(session, &numbers, err);
    if (rc != VD_OK)
        return rc;
    /* Two that have entries: neighbours overlap near a cut. */
    uint32_t looked = 0;
    for (uint32_t i = 0; rc == VD_OK && looked < 2 && i < numbers.count; i++) {
        uint64_t timestamp = 0;
        rc = segment_newest(session, numbers.numbers[i], &timestamp, err);
        if (rc == VD_OK)
            looked++;
        else if (rc == VD_ERR_NOT_FOUND)
            rc = VD_OK;
        newest = timestamp > newest ? timestamp : newest;
    }
    vd_free(numbers.numbers);
    if (rc == VD_OK)
        *ret_timestamp = newest;
    return rc;
}

int stor_journal_holds(stor_session_t *session, uint64_t timestamp, bool *ret_holds,
                       vd_error_t *err)
{
    numbers_t numbers;
    VD_ASSERT(stor_txn_active(session));
    int rc = numbers_read(session, &numbers, err);
    if (rc != VD_OK)
        return rc;
    *ret_holds = false;
    uint8_t key[KEY_BYTES];
    entry_key(timestamp, 0, key);
    for (uint32_t i = 0; rc == VD_OK && !*ret_holds && i < numbers.count; i++) {
        char table[32], row[32];
        stor_cursor_t *cursor;
        vd_error_t step = VD_ERROR_INIT;
        segment_names(numbers.numbers[i], table, row);
        rc = stor_cursor_open(session, table, &cursor, &step);
        if (rc == VD_OK)
            rc = stor_cursor_search(cursor, vd_slice(key, sizeof key), NULL, &step);
        *ret_holds = rc == VD_OK;
        if (rc == VD_ERR_NOT_FOUND)
            rc = VD_OK;
        else if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
    }
    vd_free(numbers.numbers);
    return rc;
}

/* ---- readers ---- */

typedef struct {
    stor_cursor_t *cursor; /* NULL: nothing more in this table */
    vd_slice_t key, value;
} head_t;

struct stor_journal_reader {
    stor_journal_t *journal;
    stor_session_t *session;
    uint8_t after[KEY_BYTES]; /* key of the last entry given */
    uint64_t segment;         /* number of the older of the two segments that are merged */
    bool primed; /* heads stand at the first records above `after`, in this transaction */
    vd_slice_t given_key, given_value; /* of that entry */
    uint64_t third; /* where the segment behind the two begins; UINT64_MAX: there is none */
    head_t heads[2];
};

stor_journal_reader_t *stor_journal_reader_open_part(stor_journal_t *journal,
                                                     stor_session_t *session, uint64_t after,
                                                     uint32_t after_part)
{
    stor_journal_reader_t *reader = vd_xalloc(sizeof *reader);
    reader->journal = journal;
    reader->session = session;
    entry_key(after, after_part, reader->after);
    return reader;
}

stor_journal_reader_t *stor_journal_reader_open(stor_journal_t *journal, stor_session_t *session,
                                                uint64_t after)
{
    return stor_journal_reader_open_part(journal, session, after, UINT32_MAX);
}

void stor_journal_reader_raw(const stor_journal_reader_t *reader, vd_slice_t *ret_key,
                             vd_slice_t *ret_value)
{
    *ret_key = reader->given_key;
    *ret_value = reader->given_value;
}

void stor_journal_reader_close(stor_journal_reader_t **reader_p)
{
    vd_free(*reader_p);
    *reader_p = NULL;
}

void stor_journal_reader_begin(stor_journal_reader_t *reader)
{
    reader->primed = false;
}

/* The two segments to merge: the oldest one that may hold something above `after`, and the next. */
static uint32_t neighbours(stor_journal_reader_t *reader, char tables[2][32], bool *ret_lost)
{
    stor_journal_t *journal = reader->journal;
    uint64_t after = vd_get_u64_be(reader->after);
    pthread_rwlock_rdlock(&journal->lock);
    *ret_lost = after < journal->dropped_below;
    uint32_t i = 0;
    while (i + 1 < journal->count && journal->segments[i]->number < reader->segment)
        i++;
    /* Segment i can't hold anything new when segment i+2 begins at or below `after`. */
    while (i + 2 < journal->count && journal->segments[i + 2]->first <= after)
        i++;
    uint32_t n = 0;
    for (; n < 2 && i + n < journal->count; n++)
        memcpy(tables[n], journal->segments[i + n]->table, 32);
    reader->segment = journal->segments[i]->number;
    reader->third = i + 2 < journal->count ? journal->segments[i + 2]->first : UINT64_MAX;
    pthread_rwlock_unlock(&journal->lock);
    return n;
}

static int lost(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CHANGE_STREAM_HISTORY_LOST,
                        "the journal no longer holds what comes next");
}

/* First record above `after` in one table. */
static int head_seek(stor_journal_reader_t *reader, head_t *head, const char *table,
                     vd_error_t *err)
{
    vd_error_t miss = VD_ERROR_INIT;
    int rc = stor_cursor_open(reader->session, table, &head->cursor, &miss);
    if (rc == VD_ERR_NOT_FOUND) /* dropped since its name was read: not the end of the journal */
        return lost(err);
    if (rc != VD_OK) {
        if (err != NULL)
            vd_error_copy(&miss, err);
        return rc;
    }
    vd_slice_t after = vd_slice(reader->after, KEY_BYTES);
    rc = stor_cursor_seek(head->cursor, after, true, &head->key, &head->value, &miss);
    if (rc == VD_OK && vd_slice_equal(head->key, after))
        rc = stor_cursor_next(head->cursor, true, &head->key, &head->value, &miss);
    if (rc == VD_ERR_NOT_FOUND) {
        head->cursor = NULL;
        return VD_OK;
    }
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&miss, err);
    return rc;
}

static int reader_prime(stor_journal_reader_t *reader, vd_error_t *err)
{
    char tables[2][32];
    bool is_lost;
    uint32_t n = neighbours(reader, tables, &is_lost);
    if (is_lost)
        return lost(err);
    reader->heads[0].cursor = reader->heads[1].cursor = NULL;
    int rc = VD_OK;
    for (uint32_t i = 0; i < n && rc == VD_OK; i++)
        rc = head_seek(reader, &reader->heads[i], tables[i], err);
    reader->primed = rc == VD_OK;
    return rc;
}

/* The last entry given came from this head: on to the next. */
static int head_advance(stor_journal_reader_t *reader, vd_error_t *err)
{
    for (int i = 0; i < 2; i++) {
        head_t *head = &reader->heads[i];
        if (head->cursor == NULL || memcmp(head->key.data, reader->after, KEY_BYTES) != 0)
            continue;
        vd_error_t miss = VD_ERROR_INIT;
        int rc = stor_cursor_next(head->cursor, true, &head->key, &head->value, &miss);
        if (rc == VD_ERR_NOT_FOUND)
            head->cursor = NULL;
        else if (rc != VD_OK) {
            if (err != NULL)
                vd_error_copy(&miss, err);
            return rc;
        }
    }
    return VD_OK;
}

int stor_journal_reader_next(stor_journal_reader_t *reader, uint64_t upto,
                             stor_journal_entry_t *ret_entry, vd_error_t *err)
{
    for (;;) {
        int rc = reader->primed ? head_advance(reader, err) : reader_prime(reader, err);
        if (rc != VD_OK)
            return rc;
        head_t *a = &reader->heads[0], *b = &reader->heads[1];
        head_t *least = a->cursor == NULL                       ? b
                        : b->cursor == NULL                     ? a
                        : vd_slice_compare(a->key, b->key) <= 0 ? a
                                                                : b;
        if (least->cursor != NULL && least->key.len != KEY_BYTES)
            return stor_journal_malformed(err);
        uint64_t timestamp = least->cursor == NULL ? UINT64_MAX : vd_get_u64_be(least->key.data);
        if (reader->third >= timestamp || reader->third > upto) {
            if (least->cursor == NULL || timestamp > upto)
                return VD_ERR_NOT_FOUND;
            rc = stor_journal_decode(least->key, least->value, ret_entry, err);
            if (rc == VD_OK) {
                memcpy(reader->after, least->key.data, KEY_BYTES);
                reader->given_key = least->key;
                reader->given_value = least->value;
            }
            return rc;
        }
        /* What is left of the second may be above entries of the third, so these two are merged
         * from here on. The first has nothing above the third's beginning, and all below it was
         * given. Not before the third begins within `upto`: a cut may be younger than the snapshot,
         * and what was in flight then stands in the first, unseen. */
        reader->segment++;
        reader->primed = false;
    }
}

/* ---- looking back ---- */

/* The greatest timestamp <= upto in one table; 0 when there is none. */
static int last_in(stor_session_t *session, const char *table, uint64_t upto, uint64_t *ret,
                   vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    uint8_t key[KEY_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    *ret = 0;
    entry_key(upto, UINT32_MAX, key);
    int rc = stor_cursor_open(session, table, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(key, sizeof key), false, &k, &v, &step);
    if (rc == VD_OK && k.len != KEY_BYTES)
        return stor_journal_malformed(err);
    if (rc == VD_OK)
        *ret = vd_get_u64_be(k.data);
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND) /* empty, or dropped meanwhile */
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

/* The i-th newest segment of those that begin at or below `upto`. */
static bool segment_below(stor_journal_t *journal, uint64_t upto, uint32_t i, char table[32])
{
    bool found = false;
    pthread_rwlock_rdlock(&journal->lock);
    for (uint32_t n = journal->count; n-- > 0 && !found;) {
        if (journal->segments[n]->first > upto || i-- > 0)
            continue;
        memcpy(table, journal->segments[n]->table, 32);
        found = true;
    }
    pthread_rwlock_unlock(&journal->lock);
    return found;
}

int stor_journal_before(stor_journal_t *journal, stor_session_t *session, uint64_t upto,
                        uint64_t *ret_timestamp, vd_error_t *err)
{
    char table[32];
    uint64_t greatest = 0, last = 0;
    bool own = !stor_txn_active(session);
    int rc = own ? stor_txn_begin(session, err) : VD_OK;
    if (rc != VD_OK)
        return rc;
    /* Neighbours overlap, so one more is looked at behind that in which something was found. */
    bool more = true;
    for (uint32_t i = 0; rc == VD_OK && more && segment_below(journal, upto, i, table); i++) {
        more = greatest == 0;
        rc = last_in(session, table, upto, &last, err);
        if (last > greatest)
            greatest = last;
    }
    if (own)
        stor_txn_rollback(session);
    if (rc == VD_OK)
        *ret_timestamp = greatest;
    return rc;
}

/* ---- counting ---- */

/* Some of what the tally does not know is read, so that after a while it does. In a transaction. */
static int count_learn(stor_journal_t *journal, stor_session_t *session, uint64_t above,
                       vd_error_t *err)
{
    uint64_t after, upto, bytes = 0;
    stor_journal_entry_t entry;
    pthread_rwlock_rdlock(&journal->lock);
    uint64_t dropped_below = journal->dropped_below;
    pthread_rwlock_unlock(&journal->lock);
    if (above < dropped_below || !stor_tally_wants(journal->tally, above, &after, &upto))
        return VD_OK;
    stor_journal_reader_t *reader = stor_journal_reader_open(journal, session, after);
    stor_journal_reader_begin(reader);
    int rc = VD_OK;
    for (uint32_t n = 0; n < LEARN_ENTRIES && bytes < LEARN_BYTES; n++) {
        rc = stor_journal_reader_next(reader, upto, &entry, err);
        if (rc != VD_OK)
            break;
        bytes += entry.changes.len;
        stor_tally_learn(journal->tally, entry.timestamp);
    }
    stor_journal_reader_close(&reader);
    if (rc == VD_ERR_NOT_FOUND)
        stor_tally_learnt(journal->tally);
    return rc == VD_ERR_NOT_FOUND || rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST ? VD_OK : rc;
}

int stor_journal_count(stor_journal_t *journal, stor_session_t *session,
                       stor_journal_count_t *counts, uint32_t count, vd_error_t *err)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++)
        lowest = counts[i].above < lowest ? counts[i].above : lowest;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = count_learn(journal, session, lowest, err);
    stor_txn_rollback(session);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        counts[i].exact = stor_tally_above(journal->tally, counts[i].above, &counts[i].entries);
    return rc;
}
