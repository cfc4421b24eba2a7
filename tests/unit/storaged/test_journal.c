/* tests/unit/storaged/test_journal.c — entries and what is damaged of them; parts, segment cuts
 * under writers, readers that stay open over cuts, history that was dropped. */
#include "libcommon/base/rand.h"
#include "tests/support/ahead_clock.h"
#include "tests/support/random_value.h"
#include "tests/unit/storaged/reads_support.h"

#include <pthread.h>

#define MB (1024 * 1024)

/* ---- entries ---- */

static const uint8_t key_7_2[12] = {0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2};

static vd_bson_t document_of(vd_arena_t *arena, vd_value_t id, size_t pad)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t document;
    uint8_t *bytes = vd_arena_alloc(arena, pad + 1);
    memset(bytes, 'x', pad + 1);
    vd_bb_init_arena(bb, arena, pad + 200000);
    vd_bb_value(bb, VD_SLICE_LIT("_id"), id);
    vd_bb_binary(bb, "pad", 0, vd_slice(bytes, pad));
    cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
    return document;
}

static vd_value_t random_id(vd_rand_t *rand, vd_arena_t *arena)
{
    for (;;) {
        vd_value_t id = random_value(rand, arena);
        if (id.type != VD_BSON_ARRAY && id.type != VD_BSON_REGEX && id.type != VD_BSON_UNDEFINED)
            return id;
    }
}

static stor_change_t random_change(vd_rand_t *rand, vd_arena_t *arena)
{
    static const stor_change_kind_t kinds[] = {
        STOR_CHANGE_INSERT,       STOR_CHANGE_REPLACE,      STOR_CHANGE_DELTA,
        STOR_CHANGE_DELETE,       STOR_CHANGE_CREATE,       STOR_CHANGE_DROP,
        STOR_CHANGE_RENAME,       STOR_CHANGE_MODIFY,       STOR_CHANGE_CONFIG,
        STOR_CHANGE_RESULT,       STOR_CHANGE_NOOP,         STOR_CHANGE_CREATE_INDEXES,
        STOR_CHANGE_DROP_INDEXES, STOR_CHANGE_MODIFY_INDEX, STOR_CHANGE_START_INDEXES,
        STOR_CHANGE_ABORT_INDEXES};
    stor_change_t change = {
        .kind = kinds[vd_rand_below(rand, VD_COUNT_OF(kinds))],
        .statement = (int32_t)vd_rand_below(rand, 3) - 1,
        .collection_id = vd_rand_u64(rand),
        .previous_version = vd_rand_u64(rand),
        .bytes_delta = (int64_t)vd_rand_u64(rand),
        .hash_delta = vd_rand_u64(rand),
    };
    vd_value_t id = random_id(rand, arena);
    if (change.kind == STOR_CHANGE_DELTA || change.kind == STOR_CHANGE_DELETE)
        change.id = id;
    if (change.kind != STOR_CHANGE_DELETE)
        change.body = document_of(arena, id, (size_t)vd_rand_below(rand, 50));
    return change;
}

static void check_same(const stor_change_t *is, const stor_change_t *want)
{
    cr_assert_eq(is->kind, want->kind);
    cr_assert_eq(is->statement, want->statement);
    cr_assert_eq(is->collection_id, want->collection_id);
    cr_assert_eq(is->previous_version, want->previous_version);
    cr_assert_eq(is->bytes_delta, want->bytes_delta);
    cr_assert_eq(is->hash_delta, want->hash_delta);
    cr_assert_eq(is->documents_delta, want->kind == STOR_CHANGE_INSERT   ? 1
                                      : want->kind == STOR_CHANGE_DELETE ? -1
                                                                         : 0);
    cr_assert_eq(is->body.len, want->body.len);
    cr_assert(is->body.len == 0 || memcmp(is->body.data, want->body.data, is->body.len) == 0);
    if (want->kind >= STOR_CHANGE_CREATE)
        return;
    vd_value_t id = want->id.type != 0 ? want->id : vd_bson_get(want->body, "_id");
    cr_assert_eq(is->id.type, id.type);
    cr_assert_eq(is->id.len, id.len);
    cr_assert(id.len == 0 || memcmp(is->id.data, id.data, id.len) == 0);
}

static void begin(vd_buf_t *buf, bool session, const char *user)
{
    static const uint8_t bytes[48] = {1, 2, 3};
    stor_request_t *request = calloc(1, sizeof *request);
    vd_error_t err = VD_ERROR_INIT;
    request->txn_number = session ? 99 : -1;
    if (session) {
        request->command.lsid = vd_slice(bytes, 16);
        request->command.lsid_user = vd_slice(bytes + 16, 32);
    }
    request->command.user = vd_slice_str(user);
    reads_ok(stor_journal_begin(buf, request, 1234567, &err), &err);
    free(request);
}

Test(journal, entries_come_back)
{
    vd_rand_t rand;
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t buf;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&buf, MB);
    vd_rand_seed(&rand, 11);
    for (int round = 0; round < 500; round++) {
        stor_change_t changes[8], change;
        stor_journal_entry_t entry;
        uint32_t count = (uint32_t)vd_rand_below(&rand, VD_COUNT_OF(changes) + 1);
        bool session = round % 2 == 0, user = round % 3 == 0;
        vd_arena_reset(arena);
        vd_buf_clear(&buf);
        begin(&buf, session, user ? "ann@admin" : "");
        for (uint32_t i = 0; i < count; i++) {
            changes[i] = random_change(&rand, arena);
            reads_ok(stor_journal_add(&buf, &changes[i], &err), &err);
        }
        reads_ok(stor_journal_decode(vd_slice(key_7_2, 12), vd_buf_slice(&buf), &entry, &err),
                 &err);
        cr_assert_eq(entry.timestamp, 7);
        cr_assert_eq(entry.part, 2);
        cr_assert_eq(entry.wall_ms, 1234567);
        cr_assert_eq(entry.change_count, count);
        cr_assert_eq(entry.txn_number, session ? 99 : -1);
        cr_assert_eq(entry.lsid.len, session ? 16 : 0);
        cr_assert_eq(entry.lsid_user.len, session ? 32 : 0);
        cr_assert(vd_slice_is(entry.user, user ? "ann@admin" : ""));
        for (uint32_t i = 0; i < count; i++) {
            reads_ok(stor_journal_change_next(&entry.changes, &change, &err), &err);
            check_same(&change, &changes[i]);
        }
        cr_assert_eq(stor_journal_change_next(&entry.changes, &change, NULL), VD_ERR_NOT_FOUND);
    }
    vd_buf_done(&buf);
    vd_arena_destroy(&arena);
}

Test(journal, entries_at_the_limit)
{
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t buf;
    vd_error_t err = VD_ERROR_INIT;
    stor_journal_entry_t entry;
    stor_change_t change;
    char user[400];
    memset(user, 'u', sizeof user);
    user[sizeof user - 1] = 0;
    vd_buf_init(&buf, 200000);
    /* Around the length that does not fit into 16 bits. */
    for (size_t len = 0xfffe - 6; len <= 0xffff + 2; len++) {
        char *text = vd_arena_alloc(arena, len);
        memset(text, 't', len);
        stor_change_t delete = {.kind = STOR_CHANGE_DELETE,
                                .id = vd_value_from_string(arena, vd_slice(text, len))};
        vd_buf_clear(&buf);
        begin(&buf, false, user);
        reads_ok(stor_journal_add(&buf, &delete, &err), &err);
        reads_ok(stor_journal_decode(vd_slice(key_7_2, 12), vd_buf_slice(&buf), &entry, &err),
                 &err);
        cr_assert_eq(entry.user.len, 255);
        reads_ok(stor_journal_change_next(&entry.changes, &change, &err), &err);
        check_same(&change, &delete);
    }
    stor_change_t large = {.kind = STOR_CHANGE_INSERT,
                           .body = document_of(arena, vd_value_from_null(), 190000)};
    vd_buf_clear(&buf);
    begin(&buf, false, "");
    reads_ok(stor_journal_add(&buf, &large, &err), &err);
    size_t before = vd_buf_len(&buf);
    cr_assert_eq(stor_journal_add(&buf, &large, NULL), VD_ERR_FULL);
    cr_assert_eq(vd_buf_len(&buf), before);
    vd_buf_done(&buf);
    vd_buf_init(&buf, 8);
    stor_request_t *request = calloc(1, sizeof *request);
    request->txn_number = -1;
    cr_assert_eq(stor_journal_begin(&buf, request, 1, NULL), VD_ERR_FULL);
    free(request);
    vd_buf_done(&buf);
    vd_arena_destroy(&arena);
}

/* VD_OK or VD_ERR_CORRUPT; in memory of exactly this size, so that a sanitizer sees each read
 * behind the end. What came through has ids that can be made to keys. */
static int decode_all(vd_slice_t bytes)
{
    uint8_t *exact = malloc(bytes.len + (bytes.len == 0));
    vd_arena_t *arena = vd_arena_create();
    stor_journal_entry_t entry;
    stor_change_t change;
    vd_slice_t key;
    if (bytes.len > 0)
        memcpy(exact, bytes.data, bytes.len);
    int rc = stor_journal_decode(vd_slice(key_7_2, 12), vd_slice(exact, bytes.len), &entry, NULL);
    uint32_t count = 0;
    while (rc == VD_OK && (rc = stor_journal_change_next(&entry.changes, &change, NULL)) == VD_OK) {
        count++;
        if (change.kind < STOR_CHANGE_CREATE) {
            int made = stor_id_key(arena, change.id, &key, NULL);
            cr_assert(made == VD_OK || made == VD_ERR_INVALID_ID_FIELD, "%d", made);
        }
    }
    if (rc == VD_ERR_NOT_FOUND) {
        cr_assert_eq(count, entry.change_count);
        rc = VD_OK;
    }
    vd_arena_destroy(&arena);
    free(exact);
    return rc;
}

static void entry_make(vd_buf_t *buf, vd_arena_t *arena)
{
    static const stor_change_kind_t kinds[] = {
        STOR_CHANGE_INSERT, STOR_CHANGE_REPLACE, STOR_CHANGE_DELTA,  STOR_CHANGE_DELETE,
        STOR_CHANGE_CREATE, STOR_CHANGE_CONFIG,  STOR_CHANGE_RESULT, STOR_CHANGE_NOOP};
    vd_value_t id = vd_value_from_string(arena, VD_SLICE_LIT("abc"));
    vd_error_t err = VD_ERROR_INIT;
    begin(buf, true, "ann@admin");
    for (size_t i = 0; i < VD_COUNT_OF(kinds); i++) {
        stor_change_t change = {.kind = kinds[i], .statement = (int32_t)i, .collection_id = 5};
        if (kinds[i] == STOR_CHANGE_DELTA || kinds[i] == STOR_CHANGE_DELETE)
            change.id = id;
        if (kinds[i] != STOR_CHANGE_DELETE)
            change.body = document_of(arena, id, 3);
        reads_ok(stor_journal_add(buf, &change, &err), &err);
    }
}

/* Flipped payload (clocks, deltas, what stands in a document) is not the decoder's to find: blocks
 * on disk are sealed. What gives the entry its shape is. */
Test(journal, damage_is_found)
{
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t buf;
    vd_buf_init(&buf, MB);
    entry_make(&buf, arena);
    vd_slice_t whole = vd_buf_slice(&buf);
    cr_assert_eq(decode_all(whole), VD_OK);
    for (size_t len = 0; len < whole.len; len++)
        cr_assert_eq(decode_all(vd_slice(whole.data, len)), VD_ERR_CORRUPT, "%zu bytes", len);
    for (size_t at = 0; at < whole.len; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            uint8_t *byte = vd_buf_at(&buf, at);
            *byte ^= (uint8_t)(1u << bit);
            int rc = decode_all(whole);
            cr_assert(rc == VD_OK || rc == VD_ERR_CORRUPT, "byte %zu: %d", at, rc);
            /* format, zeros, count; but for the bit that a rotation of keys changes */
            if (at < 8 && at != 1 && !(at == STOR_JOURNAL_SPARE_AT && bit == 0))
                cr_assert_eq(rc, VD_ERR_CORRUPT, "byte %zu bit %u", at, bit);
            *byte ^= (uint8_t)(1u << bit);
        }
    cr_assert_eq(vd_buf_append_u8(&buf, 0), VD_OK);
    cr_assert_eq(decode_all(vd_buf_slice(&buf)), VD_ERR_CORRUPT);
    stor_journal_entry_t entry;
    for (size_t len = 0; len < 12; len++)
        cr_assert_eq(stor_journal_decode(vd_slice(key_7_2, len), whole, &entry, NULL),
                     VD_ERR_CORRUPT);
    vd_buf_done(&buf);
    vd_arena_destroy(&arena);
}

Test(journal, hostile_changes)
{
    static const struct {
        uint8_t kind, type;
        uint8_t id[16];
        uint8_t id_len;
        bool body;
    } cases[] = {
        {STOR_CHANGE_DELETE, VD_BSON_OBJECTID, {1}, 3, false},
        {STOR_CHANGE_DELETE, VD_BSON_INT64, {1}, 4, false},
        {STOR_CHANGE_DELETE, VD_BSON_STRING, {200, 0, 0, 0, 0}, 5, false},
        {STOR_CHANGE_DELETE, VD_BSON_STRING, {1, 0, 0, 0, 'x'}, 5, false},
        {STOR_CHANGE_DELETE, VD_BSON_BINARY, {9, 0, 0, 0, 0}, 5, false},
        {STOR_CHANGE_DELETE, VD_BSON_OBJECT, {6, 0, 0, 0, 0}, 5, false},
        {STOR_CHANGE_DELETE, VD_BSON_ARRAY, {5, 0, 0, 0, 0}, 5, false},
        {STOR_CHANGE_DELETE,
         VD_BSON_CODE_WITH_SCOPE,
         {14, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
         14,
         false},
        {STOR_CHANGE_DELETE, VD_BSON_DBPOINTER, {1}, 12, false},
        {STOR_CHANGE_DELETE, VD_BSON_NULL, {1}, 1, false},
        {STOR_CHANGE_DELETE, VD_BSON_MISSING, {0}, 0, false},
        {STOR_CHANGE_DELETE, VD_BSON_INT32, {1}, 4, true},
        {STOR_CHANGE_DELTA, VD_BSON_INT32, {1}, 4, false},
        {STOR_CHANGE_DELTA, VD_BSON_INT32, {1}, 3, true},
        {5, VD_BSON_INT32, {1}, 4, true},
        {0, VD_BSON_INT32, {1}, 4, true},
    };
    static const uint8_t empty[5] = {5};
    vd_buf_t buf;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&buf, MB);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_change_t change = {
            .kind = (stor_change_kind_t)cases[i].kind,
            .id = {cases[i].id, cases[i].id_len, cases[i].type},
            .body = cases[i].body ? (vd_bson_t){empty, 5} : VD_BSON_NONE,
        };
        vd_buf_clear(&buf);
        begin(&buf, false, "");
        reads_ok(stor_journal_add(&buf, &change, &err), &err);
        cr_assert_eq(decode_all(vd_buf_slice(&buf)), VD_ERR_CORRUPT, "case %zu", i);
    }
    stor_change_t no_id = {.kind = STOR_CHANGE_INSERT, .body = {empty, 5}};
    vd_buf_clear(&buf);
    begin(&buf, false, "");
    reads_ok(stor_journal_add(&buf, &no_id, &err), &err);
    cr_assert_eq(decode_all(vd_buf_slice(&buf)), VD_ERR_CORRUPT);
    vd_buf_done(&buf);
}

/* ---- the journal ---- */

/* Segments are cut seconds apart. */
TestSuite(segments, .init = ahead_clock_use, .fini = ahead_clock_back, .timeout = 300);

/* One entry with one insert; commit false: still open when this returns. */
static uint64_t put_open(reads_t *reads, stor_session_t *session, int32_t id, size_t pad)
{
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t buf;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&buf, pad + 4096);
    begin(&buf, false, "");
    stor_change_t change = {.kind = STOR_CHANGE_INSERT,
                            .body = document_of(arena, vd_value_from_int32(arena, id), pad)};
    reads_ok(stor_journal_add(&buf, &change, &err), &err);
    reads_ok(stor_txn_begin(session, &err), &err);
    uint64_t timestamp = stor_txn_timestamp(session);
    reads_ok(stor_journal_append(reads->storage.journal, session, timestamp, 0, vd_buf_slice(&buf),
                                 &err),
             &err);
    vd_buf_done(&buf);
    vd_arena_destroy(&arena);
    return timestamp;
}

static uint64_t put(reads_t *reads, int32_t id, size_t pad)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t timestamp = put_open(reads, reads->session, id, pad);
    reads_ok(stor_txn_commit(reads->session, &err), &err);
    return timestamp;
}

static uint64_t segments(reads_t *reads)
{
    stor_journal_stats_t stats;
    stor_journal_stats(reads->storage.journal, &stats);
    return stats.newest_segment;
}

static void maintain(reads_t *reads, uint64_t keep_above)
{
    vd_error_t err = VD_ERROR_INIT;
    atomic_fetch_add(&ahead_ms, 6000);
    reads_ok(stor_journal_maintain(reads->storage.journal, reads->session, keep_above, &err), &err);
}

/* Fills the current segment and cuts it. */
static void cut(reads_t *reads, uint64_t keep_above)
{
    uint64_t before = segments(reads);
    for (int i = 0; i < 9; i++)
        (void)put(reads, -1, MB);
    maintain(reads, keep_above);
    for (int i = 0; i < 1000 && segments(reads) == before; i++) {
        (void)put(reads, -1, 10); /* the clock has moved: this one is above all that was drawn */
        maintain(reads, keep_above);
    }
    cr_assert_eq(segments(reads), before + 1);
}

static int next(stor_journal_reader_t *reader, uint64_t upto, stor_journal_entry_t *ret_entry)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_journal_reader_next(reader, upto, ret_entry, &err);
    cr_assert(rc == VD_OK || rc == VD_ERR_NOT_FOUND || rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST,
              "%s", err.message);
    return rc;
}

/* Timestamp of the next entry that is not filling; 0 at the end. */
static uint64_t next_telling(stor_journal_reader_t *reader, uint64_t upto)
{
    stor_journal_entry_t entry;
    stor_change_t change;
    while (next(reader, upto, &entry) == VD_OK) {
        cr_assert_eq(stor_journal_change_next(&entry.changes, &change, NULL), VD_OK);
        if (vd_value_int32(change.id) >= 0)
            return entry.timestamp;
    }
    return 0;
}

/* The transaction below does not fit into the small cache of other tests. */
static void cache_enlarge(reads_t *reads)
{
    stor_storage_t *storage = &reads->storage;
    vd_error_t err = VD_ERROR_INIT;
    stor_engine_options_t options = {.folder = reads->folder,
                                     .cache_bytes = 512 * MB,
                                     .eviction_threads_max = 2,
                                     .sessions_max = 32,
                                     .keys = storage->keys,
                                     .reserve_min_bytes = MB};
    reads_stop(reads);
    reads_ok(stor_engine_open(&options, &storage->engine, &err), &err);
    reads_ok(stor_catalog_open(storage, &storage->catalog, &err), &err);
    reads_ok(stor_journal_open(storage, &storage->journal, &err), &err);
    reads_ok(stor_sessions_open(storage, &storage->sessions, &err), &err);
    reads_ok(stor_cursors_open(storage, &storage->cursors, &err), &err);
    reads_ok(stor_session_open(storage->engine, &reads->session, &err), &err);
    reads_ok(stor_counters_load(storage, reads->session, &err), &err);
}

Test(segments, large_transactions_have_parts)
{
    reads_t *reads = reads_open();
    cache_enlarge(reads);
    vd_arena_t *arena = vd_arena_create();
    stor_collection_t *collection;
    stor_write_t write;
    vd_error_t err = VD_ERROR_INIT;
    reads_begin(reads, "d");
    stor_request_t *request = &reads->request;
    reads_ok(stor_catalog_acquire_or_create(request, VD_SLICE_LIT("d"), VD_SLICE_LIT("c"),
                                            &collection, &err),
             &err);
    uint64_t before = stor_engine_visible(reads->storage.engine);
    stor_write_init(&write, request, collection);
    reads_ok(stor_write_begin(&write, &err), &err);
    for (int i = 0; i < 7; i++) {
        vd_slice_t key;
        vd_arena_reset(arena);
        vd_value_t id = vd_value_from_int32(arena, i);
        reads_ok(stor_id_key(arena, id, &key, &err), &err);
        reads_ok(stor_write_insert(&write, key, document_of(arena, id, 7 * MB), i, &err), &err);
    }
    reads_ok(stor_write_commit(&write, &err), &err);
    uint64_t timestamp = write.timestamp;
    stor_write_done(&write);
    stor_catalog_release_all(request);
    uint64_t after = put(reads, 0, 1);

    reads_ok(stor_txn_begin(reads->session, &err), &err);
    stor_journal_reader_t *reader =
        stor_journal_reader_open(reads->storage.journal, reads->session, before);
    stor_journal_entry_t entry;
    stor_change_t change;
    uint32_t parts = 0;
    int statement = 0;
    stor_journal_reader_begin(reader);
    for (; next(reader, after, &entry) == VD_OK && entry.timestamp == timestamp; parts++) {
        cr_assert_eq(entry.part, parts);
        while (stor_journal_change_next(&entry.changes, &change, NULL) == VD_OK)
            cr_assert_eq(change.statement, statement++);
    }
    cr_assert_eq(statement, 7);
    cr_assert_eq(parts, 3); /* 7 * 7 MB, each part ends behind the one that passes 15 MB */
    cr_assert_eq(entry.timestamp, after);
    stor_journal_reader_close(&reader);
    stor_txn_rollback(reads->session);
    vd_arena_destroy(&arena);
    reads_close(reads);
}

/* What was in flight when the reader's snapshot was taken stands in the first segment, and two cuts
 * have come since: the reader must not leave that segment. */
Test(segments, a_reader_stays_open_over_cuts)
{
    reads_t *reads = reads_open();
    stor_session_t *writer = NULL, *reading = NULL;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_session_open(reads->storage.engine, &writer, &err), &err);
    reads_ok(stor_session_open(reads->storage.engine, &reading, &err), &err);
    uint64_t a = put(reads, 1, 10);
    uint64_t b = put_open(reads, writer, 2, 10);
    stor_journal_reader_t *reader = stor_journal_reader_open(reads->storage.journal, reading, 0);
    uint64_t upto = stor_engine_visible(reads->storage.engine);
    cr_assert(a <= upto && upto < b);
    reads_ok(stor_txn_begin(reading, &err), &err);
    reads_ok(stor_txn_commit(writer, &err), &err);
    uint64_t c = put(reads, 3, 10);
    cut(reads, 0);
    cut(reads, 0);
    uint64_t d = put(reads, 4, 10);
    stor_journal_reader_begin(reader);
    cr_assert_eq(next_telling(reader, upto), a);
    cr_assert_eq(next_telling(reader, upto), 0);
    cr_assert_eq(next_telling(reader, upto), 0);
    stor_txn_rollback(reading);

    upto = stor_engine_visible(reads->storage.engine);
    reads_ok(stor_txn_begin(reading, &err), &err);
    stor_journal_reader_begin(reader);
    cr_assert_eq(next_telling(reader, upto), b);
    cr_assert_eq(next_telling(reader, upto), c);
    cr_assert_eq(next_telling(reader, upto), d);
    cr_assert_eq(next_telling(reader, upto), 0);
    stor_txn_rollback(reading);
    stor_journal_reader_close(&reader);
    stor_session_close(&writer);
    stor_session_close(&reading);
    reads_close(reads);
}

/* Near a cut: an entry stands in the older segment above one that its slower neighbour puts into
 * the newer one; and the reader is still a segment further back. */
Test(segments, neighbours_across_a_cut_come_in_order)
{
    reads_t *reads = reads_open();
    stor_session_t *slow = NULL;
    stor_journal_t *journal = reads->storage.journal;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t buf;
    stor_change_t change = {
        .kind = STOR_CHANGE_INSERT,
        .body = document_of(reads->texts, vd_value_from_int32(reads->texts, 2), 10)};
    vd_buf_init(&buf, 4096);
    begin(&buf, false, "");
    reads_ok(stor_journal_add(&buf, &change, &err), &err);
    reads_ok(stor_session_open(reads->storage.engine, &slow, &err), &err);
    uint64_t a = put(reads, 1, 10);
    cut(reads, 0);
    for (int i = 0; i < 9; i++)
        (void)put(reads, -1, MB);
    atomic_fetch_add(&ahead_ms, 6000);
    (void)put(reads, -1, 10);
    reads_ok(stor_txn_begin(slow, &err), &err);
    uint64_t b = stor_txn_timestamp(slow);
    uint64_t c = put(reads, 3, 10);
    maintain(reads, 0);
    cr_assert_eq(segments(reads), 3);
    reads_ok(stor_journal_append(journal, slow, b, 0, vd_buf_slice(&buf), &err), &err);
    reads_ok(stor_txn_commit(slow, &err), &err);
    uint64_t d = put(reads, 4, 10);
    for (int all = 0; all < 2; all++) { /* in one transaction; and each entry in one of its own */
        stor_journal_reader_t *reader = stor_journal_reader_open(journal, reads->session, 0);
        const uint64_t wanted[] = {a, b, c, d, 0};
        uint64_t upto = stor_engine_visible(reads->storage.engine);
        for (size_t i = 0; i < VD_COUNT_OF(wanted); i++) {
            if (all == 0 || i == 0) {
                reads_ok(stor_txn_begin(reads->session, &err), &err);
                stor_journal_reader_begin(reader);
            }
            cr_assert_eq(next_telling(reader, upto), wanted[i], "entry %zu", i);
            if (all == 0)
                stor_txn_rollback(reads->session);
        }
        if (all == 1)
            stor_txn_rollback(reads->session);
        stor_journal_reader_close(&reader);
    }
    stor_session_close(&slow);
    vd_buf_done(&buf);
    reads_close(reads);
}

#define WRITERS 3

typedef struct {
    reads_t *reads;
    atomic_bool *stop;
    int32_t number;
    atomic_int committed; /* entries numbered 0.. */
} writer_t;

/* Every third transaction is rolled back, every fourth has two parts. */
static void *writer_run(void *context)
{
    writer_t *writer = context;
    stor_session_t *session = NULL;
    stor_journal_t *journal = writer->reads->storage.journal;
    vd_buf_t buf;
    vd_arena_t *arena = vd_arena_create();
    vd_buf_init(&buf, MB);
    cr_assert_eq(stor_session_open(writer->reads->storage.engine, &session, NULL), VD_OK);
    for (int n = 0; !atomic_load(writer->stop); n++) {
        int done = atomic_load(&writer->committed);
        vd_value_t id = vd_value_from_int32(arena, writer->number * 1000000 + done);
        stor_change_t change = {.kind = STOR_CHANGE_INSERT, .body = document_of(arena, id, 60000)};
        vd_buf_clear(&buf);
        begin(&buf, false, "");
        cr_assert_eq(stor_journal_add(&buf, &change, NULL), VD_OK);
        cr_assert_eq(stor_txn_begin(session, NULL), VD_OK);
        uint64_t timestamp = stor_txn_timestamp(session);
        for (uint32_t part = 0; part < 1 + (uint32_t)(n % 4 == 0); part++)
            cr_assert_eq(
                stor_journal_append(journal, session, timestamp, part, vd_buf_slice(&buf), NULL),
                VD_OK);
        if (n % 3 == 0)
            stor_txn_rollback(session);
        else if (stor_txn_commit(session, NULL) == VD_OK)
            atomic_store(&writer->committed, done + 1);
        vd_arena_reset(arena);
    }
    stor_session_close(&session);
    vd_buf_done(&buf);
    vd_arena_destroy(&arena);
    return NULL;
}

typedef struct {
    int next[WRITERS]; /* number of the entry that must come next */
    uint64_t timestamp;
    uint32_t part;
    int32_t id;
} seen_t;

static void see(seen_t *seen, stor_journal_entry_t *entry)
{
    stor_change_t change;
    cr_assert_eq(stor_journal_change_next(&entry->changes, &change, NULL), VD_OK);
    int32_t id = vd_value_int32(change.id);
    if (id < 0)
        return;
    if (entry->part > 0) {
        cr_assert_eq(entry->timestamp, seen->timestamp);
        cr_assert_eq(entry->part, seen->part + 1);
        cr_assert_eq(id, seen->id);
    } else {
        cr_assert_gt(entry->timestamp, seen->timestamp);
        cr_assert_eq(id % 1000000, seen->next[id / 1000000]++);
    }
    seen->timestamp = entry->timestamp, seen->part = entry->part, seen->id = id;
}

/* All that is visible, in one transaction. */
static void catch_up(reads_t *reads, stor_journal_reader_t *reader, stor_session_t *session,
                     seen_t *seen)
{
    stor_journal_entry_t entry;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t upto = stor_engine_visible(reads->storage.engine);
    reads_ok(stor_txn_begin(session, &err), &err);
    stor_journal_reader_begin(reader);
    while (next(reader, upto, &entry) == VD_OK) {
        cr_assert_leq(entry.timestamp, upto);
        see(seen, &entry);
    }
    stor_txn_rollback(session);
}

/* By a new reader from the start, in one go: as far as the given one has come. */
static void check_again(reads_t *reads, const seen_t *seen)
{
    seen_t again = {0};
    stor_journal_reader_t *reader =
        stor_journal_reader_open(reads->storage.journal, reads->session, 0);
    catch_up(reads, reader, reads->session, &again);
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(again.next[i], seen->next[i]);
    stor_journal_reader_close(&reader);
}

Test(segments, every_entry_once_and_in_order_while_writers_and_cuts_go_on)
{
    reads_t *reads = reads_open();
    atomic_bool stop = false;
    writer_t writers[WRITERS];
    pthread_t threads[WRITERS];
    stor_session_t *session = NULL;
    seen_t seen = {0};
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
    stor_journal_reader_t *reader = stor_journal_reader_open(reads->storage.journal, session, 0);
    for (int32_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer_t){.reads = reads, .stop = &stop, .number = i};
        cr_assert_eq(pthread_create(&threads[i], NULL, writer_run, &writers[i]), 0);
    }
    while (segments(reads) < 6) {
        stor_journal_stats_t stats;
        catch_up(reads, reader, session, &seen);
        stor_journal_stats(reads->storage.journal, &stats);
        if (stats.bytes >= stats.segments * 9 * MB)
            maintain(reads, 0);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    catch_up(reads, reader, session, &seen);
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(seen.next[i], atomic_load(&writers[i].committed), "writer %d", i);
    check_again(reads, &seen);
    stor_journal_reader_close(&reader);
    stor_session_close(&session);

    reads_stop(reads);
    reads_start(reads, false);
    cr_assert_eq(segments(reads), 6);
    check_again(reads, &seen);
    reads_close(reads);
}

static int first_after(reads_t *reads, uint64_t after)
{
    stor_journal_entry_t entry;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t upto = stor_engine_visible(reads->storage.engine);
    stor_journal_reader_t *reader =
        stor_journal_reader_open(reads->storage.journal, reads->session, after);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    stor_journal_reader_begin(reader);
    int rc = next(reader, upto, &entry);
    stor_txn_rollback(reads->session);
    stor_journal_reader_close(&reader);
    return rc;
}

Test(segments, what_was_dropped_is_lost_and_said_so)
{
    reads_t *reads = reads_open();
    stor_journal_stats_t stats;
    reads->storage.settings.journal_max_bytes = 1;
    uint64_t early = put(reads, 1, 10);
    for (int i = 0; i < 4; i++)
        cut(reads, 0);
    uint64_t late = put(reads, 2, 10);
    /* Somebody needs it: nothing goes. */
    maintain(reads, early);
    stor_journal_stats(reads->storage.journal, &stats);
    cr_assert_eq(stats.segments, 5);
    cr_assert_eq(stats.oldest, 0);
    cr_assert_eq(first_after(reads, 0), VD_OK);
    bool more;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_counters_fold(&reads->storage, reads->session, 1000, &more, &err), &err);
    cr_assert_eq(stor_counters_position(&reads->storage), late);
    maintain(reads, late);
    stor_journal_stats(reads->storage.journal, &stats);
    cr_assert_eq(stats.segments, 3);
    for (int reopened = 0; reopened < 2; reopened++) {
        stor_journal_stats(reads->storage.journal, &stats);
        cr_assert_gt(stats.oldest, early);
        cr_assert_lt(stats.oldest, late);
        cr_assert_eq(first_after(reads, 0), VD_ERR_CHANGE_STREAM_HISTORY_LOST);
        cr_assert_eq(first_after(reads, stats.oldest - 1), VD_ERR_CHANGE_STREAM_HISTORY_LOST);
        cr_assert_eq(first_after(reads, stats.oldest), VD_OK);
        cr_assert_eq(first_after(reads, late), VD_ERR_NOT_FOUND);
        /* Files go when nobody has them open. */
        stor_catalog_remove_dropped(reads->storage.catalog, reads->session);
        uint64_t bytes, free_bytes;
        cr_assert_neq(
            stor_engine_table_size(reads->storage.engine, "j-1", &bytes, &free_bytes, NULL), VD_OK);
        if (reopened == 0) {
            reads_stop(reads);
            reads_start(reads, false);
        }
    }
    reads_close(reads);
}
