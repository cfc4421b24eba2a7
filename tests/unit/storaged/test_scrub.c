/* tests/unit/storaged/test_scrub.c — the background check while writers go on, with planted damage,
 * drops and cuts of the journal in the middle, and transactions that stay in flight. */
#include "libcommon/base/rand.h"
#include "tests/support/ahead_clock.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/keeper.h"
#include "veddb-storaged/scrub.h"

#include <pthread.h>

#define KEYS    3000
#define WRITERS 3

typedef struct {
    reads_t *reads;
    atomic_bool *stop;
    uint64_t seed;
    atomic_uint_fast64_t *writes; /* of all writers */
} writer_t;

static vd_bson_t document_make(vd_arena_t *arena, int32_t id, vd_rand_t *rand)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t document;
    char pad[200];
    size_t len = (size_t)vd_rand_below(rand, sizeof pad);
    memset(pad, 'x', sizeof pad);
    vd_bb_init_arena(bb, arena, 4096);
    vd_bb_int32(bb, "_id", id);
    vd_bb_int64(bb, "r", (int64_t)vd_rand_u64(rand));
    vd_bb_string(bb, "pad", vd_slice(pad, len));
    cr_assert_eq(vd_bb_finish(bb, &document, NULL), VD_OK);
    return document;
}

/* One random change of one random key, in a transaction of its own. */
static int change(stor_write_t *write, vd_rand_t *rand)
{
    vd_arena_t *arena = write->request->arena;
    int32_t id = (int32_t)vd_rand_below(rand, KEYS);
    vd_bson_t document = document_make(arena, id, rand);
    vd_slice_t key;
    stor_record_t old;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(stor_id_key(arena, vd_bson_get(document, "_id"), &key, NULL), VD_OK);
    int rc = stor_write_begin(write, &err);
    if (rc != VD_OK)
        return rc;
    rc = stor_write_read(write, key, &old, &err);
    if (rc == VD_ERR_NOT_FOUND) {
        vd_error_clear(&err);
        rc = stor_write_insert(write, key, document, -1, &err);
    } else if (rc == VD_OK) {
        old = stor_record_copy(arena, old);
        old.key = key;
        rc = vd_rand_below(rand, 3) == 0 ? stor_write_remove(write, &old, -1, &err)
                                         : stor_write_replace(write, &old, document, -1, &err);
    }
    if (rc == VD_OK)
        return stor_write_commit(write, &err);
    stor_write_rollback(write);
    return rc;
}

static void *writer_run(void *context)
{
    writer_t *writer = context;
    stor_storage_t *storage = &writer->reads->storage;
    stor_session_t *session = NULL;
    stor_request_t *request = calloc(1, sizeof *request);
    stor_collection_t *collection;
    stor_write_t write;
    vd_rand_t rand;
    vd_arena_t *arena = vd_arena_create();
    vd_rand_seed(&rand, writer->seed);
    cr_assert_eq(stor_session_open(storage->engine, &session, NULL), VD_OK);
    stor_request_init(request, storage, arena);
    request->session = session;
    request->command.db = request->db = VD_SLICE_LIT("d");
    cr_assert_eq(
        stor_catalog_acquire(request, VD_SLICE_LIT("d"), VD_SLICE_LIT("c"), &collection, NULL),
        VD_OK);
    stor_write_init(&write, request, collection);
    while (!atomic_load(writer->stop)) {
        vd_arena_mark_t mark = vd_arena_mark(arena);
        int rc = change(&write, &rand);
        cr_assert(rc == VD_OK || rc == VD_ERR_WRITE_CONFLICT || rc == VD_ERR_DUPLICATE_KEY, "%d",
                  rc);
        atomic_fetch_add(writer->writes, rc == VD_OK);
        vd_arena_rewind(arena, mark);
    }
    stor_write_done(&write);
    stor_catalog_release_all(request);
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    free(request);
    return NULL;
}

static uint64_t collection_id(reads_t *reads)
{
    stor_collection_info_t *infos;
    uint32_t count;
    cr_assert_eq(stor_catalog_list(reads->storage.catalog, reads->texts, VD_SLICE_LIT("d"), false,
                                   &infos, &count, NULL),
                 VD_OK);
    cr_assert_eq(count, 1);
    return infos[0].id;
}

static stor_scrub_result_t scrub(reads_t *reads, uint64_t id, uint32_t pause_us)
{
    stor_scrub_result_t result = {0};
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(
        stor_scrub_collection(&reads->storage, reads->session, id, pause_us, NULL, &result, &err),
        &err);
    return result;
}

Test(scrub, equal_while_writers_go_on, .timeout = 300)
{
    reads_t *reads = reads_open();
    atomic_bool stop = false;
    atomic_uint_fast64_t writes = 0;
    writer_t writers[WRITERS];
    pthread_t threads[WRITERS];
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': -1}}"));
    uint64_t id = collection_id(reads);
    for (int i = 0; i < WRITERS; i++) {
        writers[i] =
            (writer_t){.reads = reads, .stop = &stop, .seed = (uint64_t)i + 7, .writes = &writes};
        cr_assert_eq(pthread_create(&threads[i], NULL, writer_run, &writers[i]), 0);
    }
    for (int i = 0; i < 40 || atomic_load(&writes) < 5000; i++) {
        stor_scrub_result_t result = scrub(reads, id, i % 2 == 0 ? 0 : 300);
        cr_assert_not(result.inconclusive);
        cr_assert(result.equal, "round %d: %lld documents, %lld kept; %lld bytes, %lld kept", i,
                  (long long)result.documents, (long long)result.documents_kept,
                  (long long)result.bytes, (long long)result.bytes_kept);
        if (i % 5 == 0)
            stor_keeper_pass(&reads->storage, reads->session);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    cr_assert(scrub(reads, id, 0).equal);
    reads_close(reads);
}

Test(scrub, planted_damage_is_found)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    char table[32];
    reads_insert(reads, "d", "c",
                 query_json(reads->texts, "{'0': {'_id': 1, 'a': 5}, '1': {'_id': 2, 'a': 6}}"));
    uint64_t id = collection_id(reads);
    cr_assert(scrub(reads, id, 0).equal);
    snprintf(table, sizeof table, "c-%llu", (unsigned long long)id);
    /* A byte of a value changes behind everybody's back. */
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, table, &cursor, &err), &err);
    reads_ok(stor_cursor_next(cursor, true, &key, &value, &err), &err);
    uint8_t *copy = vd_arena_copy(reads->texts, value.data, value.len);
    copy[value.len - 2] ^= 1;
    key = vd_arena_copy_slice(reads->texts, key);
    reads_ok(stor_cursor_update(cursor, key, vd_slice(copy, value.len), &err), &err);
    reads_ok(stor_txn_commit(reads->session, &err), &err);
    stor_scrub_result_t result = scrub(reads, id, 0);
    cr_assert_not(result.equal);
    cr_assert_eq(result.documents, 2);
    cr_assert_eq(result.documents_kept, 2);
    cr_assert_neq(result.hash, result.hash_kept);
    /* A record is gone. */
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, table, &cursor, &err), &err);
    reads_ok(stor_cursor_remove(cursor, key, &err), &err);
    reads_ok(stor_txn_commit(reads->session, &err), &err);
    result = scrub(reads, id, 0);
    cr_assert_not(result.equal);
    cr_assert_eq(result.documents, 1);
    cr_assert_eq(result.documents_kept, 2);
    reads_close(reads);
}

Test(scrub, what_is_dropped_is_inconclusive)
{
    reads_t *reads = reads_open();
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 1}}"));
    uint64_t id = collection_id(reads);
    reads_begin(reads, "d");
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_catalog_drop(&reads->request, VD_SLICE_LIT("d"), VD_SLICE_LIT("c"), &err), &err);
    cr_assert(scrub(reads, id, 0).inconclusive);
    reads_close(reads);
}

Test(scrub, counters_are_exact_over_a_crash_and_a_fold)
{
    reads_t *reads = reads_open();
    bool more;
    vd_error_t err = VD_ERROR_INIT;
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 1}, '1': {'_id': 2}}"));
    uint64_t id = collection_id(reads);
    reads_ok(stor_counters_fold(&reads->storage, reads->session, 100, &more, &err), &err);
    uint64_t position = stor_counters_position(&reads->storage);
    cr_assert_gt(position, 0);
    reads_insert(reads, "d", "c", query_json(reads->texts, "{'0': {'_id': 3}}"));
    cr_assert_eq(scrub(reads, id, 0).documents_kept, 3);
    reads_crash(reads);
    cr_assert_eq(stor_counters_position(&reads->storage), position);
    stor_scrub_result_t result = scrub(reads, id, 0);
    cr_assert(result.equal);
    cr_assert_eq(result.documents, 3);
    stor_keeper_pass(&reads->storage, reads->session);
    cr_assert_gt(stor_counters_position(&reads->storage), position);
    cr_assert(scrub(reads, id, 0).equal);
    reads_close(reads);
}

/* ---- in several steps ---- */

static vd_bson_t many(vd_arena_t *arena, int first, int count)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t list;
    vd_bb_init_arena(bb, arena, 1 << 20);
    for (int i = 0; i < count; i++) {
        char name[12];
        vd_bb_open_document(bb, vd_array_name((uint32_t)i, name));
        vd_bb_int32(bb, "_id", first + i);
        vd_bb_close(bb);
    }
    cr_assert_eq(vd_bb_finish(bb, &list, NULL), VD_OK);
    return list;
}

typedef struct {
    reads_t *reads;
    stor_session_t *session;
    uint64_t id;
    uint32_t pause_us;
    stor_scrub_result_t result;
    atomic_bool done;
    pthread_t thread;
} running_t;

static void *running_run(void *context)
{
    running_t *running = context;
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_scrub_collection(&running->reads->storage, running->session, running->id,
                                   running->pause_us, NULL, &running->result, &err);
    cr_assert_eq(rc, VD_OK, "%s", err.message);
    atomic_store(&running->done, true);
    return NULL;
}

static void running_start(running_t *running, reads_t *reads, uint64_t id, uint32_t pause_us)
{
    *running = (running_t){.reads = reads, .id = id, .pause_us = pause_us};
    cr_assert_eq(stor_session_open(reads->storage.engine, &running->session, NULL), VD_OK);
    cr_assert_eq(pthread_create(&running->thread, NULL, running_run, running), 0);
}

static stor_scrub_result_t running_end(running_t *running)
{
    cr_assert_eq(pthread_join(running->thread, NULL), 0);
    stor_session_close(&running->session);
    return running->result;
}

Test(scrub, stops_when_told)
{
    reads_t *reads = reads_open();
    atomic_bool stop = true;
    stor_scrub_result_t result;
    reads_insert(reads, "d", "c", many(reads->texts, 0, 2500));
    cr_assert_eq(stor_scrub_collection(&reads->storage, reads->session, collection_id(reads), 0,
                                       &stop, &result, NULL),
                 VD_ERR_INTERRUPTED);
    cr_assert_not(stor_txn_active(reads->session));
    reads_close(reads);
}

/* A transaction that has drawn its timestamp and not committed holds the visible point back, while
 * others commit above it: the scrub waits for it, and counts it on the right side. */
Test(scrub, waits_for_what_is_in_flight, .timeout = 300)
{
    for (int commits = 0; commits < 2; commits++) {
        reads_t *reads = reads_open();
        stor_collection_t *collection;
        stor_session_t *session = NULL;
        stor_write_t write;
        running_t running;
        vd_error_t err = VD_ERROR_INIT;
        vd_slice_t key;
        reads_insert(reads, "d", "c", many(reads->texts, 0, 2500));
        uint64_t id = collection_id(reads);
        stor_request_t *request = calloc(1, sizeof *request);
        stor_request_init(request, &reads->storage, reads->texts);
        reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
        request->session = session;
        request->command.db = request->db = VD_SLICE_LIT("d");
        reads_ok(
            stor_catalog_acquire(request, VD_SLICE_LIT("d"), VD_SLICE_LIT("c"), &collection, &err),
            &err);
        stor_write_init(&write, request, collection);
        reads_ok(stor_write_begin(&write, &err), &err);
        vd_bson_t document = query_json(reads->texts, "{'_id': -5}");
        reads_ok(stor_id_key(reads->texts, vd_bson_get(document, "_id"), &key, &err), &err);
        reads_ok(stor_write_insert(&write, key, document, -1, &err), &err);
        reads_insert(reads, "d", "c", many(reads->texts, 5000, 10));
        running_start(&running, reads, id, 0);
        usleep(20000); /* it may be waiting by now, or not begun: right in both cases */
        cr_assert_not(atomic_load(&running.done));
        reads_insert(reads, "d", "c", many(reads->texts, 6000, 10));
        if (commits)
            reads_ok(stor_write_commit(&write, &err), &err);
        else
            stor_write_rollback(&write);
        stor_scrub_result_t result = running_end(&running);
        cr_assert(result.equal);
        cr_assert_geq(result.documents, 2510 + commits);
        stor_write_done(&write);
        stor_catalog_release_all(request);
        stor_session_close(&session);
        free(request);
        reads_close(reads);
    }
}

/* Never a false alarm, whenever the drop comes; and inconclusive in the end. */
Test(scrub, dropped_in_the_middle, .timeout = 300)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    for (int i = 0; i < 25; i++) {
        running_t running;
        vd_arena_reset(reads->texts);
        reads_insert(reads, "d", "c", many(reads->texts, 0, 2500));
        uint64_t id = collection_id(reads);
        running_start(&running, reads, id, (uint32_t)(i % 5) * 200);
        usleep((useconds_t)(i * 100));
        reads_begin(reads, "d");
        reads_ok(stor_catalog_drop(&reads->request, VD_SLICE_LIT("d"), VD_SLICE_LIT("c"), &err),
                 &err);
        stor_scrub_result_t result = running_end(&running);
        cr_assert(result.equal || result.inconclusive, "round %d: %lld documents, %lld kept", i,
                  (long long)result.documents, (long long)result.documents_kept);
        cr_assert(scrub(reads, id, 0).inconclusive);
        stor_catalog_remove_dropped(reads->storage.catalog, reads->session);
    }
    reads_close(reads);
}

/* ---- the journal is cut below the scrub ---- */

/* Makes the current segment count as full, by appends that are rolled back, and cuts it. */
static void cut(reads_t *reads)
{
    stor_journal_t *journal = reads->storage.journal;
    stor_journal_stats_t before, after;
    vd_error_t err = VD_ERROR_INIT;
    uint8_t *junk = calloc(1, 9 << 20);
    stor_journal_stats(journal, &before);
    do {
        reads_ok(stor_txn_begin(reads->session, &err), &err);
        uint64_t timestamp = stor_txn_timestamp(reads->session);
        reads_ok(stor_journal_append(journal, reads->session, timestamp, 0, vd_slice(junk, 9 << 20),
                                     &err),
                 &err);
        stor_txn_rollback(reads->session);
        atomic_fetch_add(&ahead_ms, 6000);
        reads_ok(stor_journal_maintain(journal, reads->session, 0, &err), &err);
        stor_journal_stats(journal, &after);
    } while (after.newest_segment == before.newest_segment);
    free(junk);
}

static uint64_t rollbacks(reads_t *reads)
{
    stor_engine_stats_t stats;
    stor_engine_stats(reads->storage.engine, &stats);
    return stats.txn_rollbacks;
}

Test(scrub, a_cut_journal_is_inconclusive, .timeout = 300)
{
    reads_t *reads = reads_open();
    stor_scrub_result_t result = {0};
    ahead_clock_use();
    reads->storage.settings.journal_max_bytes = 1;
    reads_insert(reads, "d", "c", many(reads->texts, 0, 1500)); /* two steps */
    uint64_t id = collection_id(reads);
    for (int i = 0; i < 3; i++)
        cut(reads);
    cr_assert(scrub(reads, id, 0).equal);
    /* On a machine that is too slow for the pause the result is equal: again with a longer one. */
    for (int i = 0; i < 8 && !result.inconclusive; i++) {
        running_t running;
        uint64_t before = rollbacks(reads);
        running_start(&running, reads, id, 200000u << i);
        while (rollbacks(reads) == before) /* the first step has ended */
            usleep(100);
        reads_insert(reads, "d", "c", many(reads->texts, 10000 + 20 * i, 10));
        cut(reads);
        cut(reads);
        reads_insert(reads, "d", "c", many(reads->texts, 10010 + 20 * i, 10));
        stor_keeper_pass(&reads->storage, reads->session); /* folds and drops */
        result = running_end(&running);
        cr_assert(result.equal || result.inconclusive);
    }
    cr_assert(result.inconclusive);
    cr_assert(scrub(reads, id, 0).equal); /* the next one is none the worse for it */
    ahead_clock_back();
    reads_close(reads);
}
