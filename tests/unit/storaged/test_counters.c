/* tests/unit/storaged/test_counters.c — documents, bytes and hash of collections: exact after a
 * reopening, over folds of any size, and after the process is killed in the middle of writes. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/scrub.h"

#include <signal.h>
#include <sys/wait.h>

static vd_bson_t numbered(vd_arena_t *arena, int first, int count, size_t pad)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t list;
    uint8_t *bytes = vd_arena_alloc(arena, pad + 1);
    memset(bytes, 'x', pad + 1);
    vd_bb_init_arena(bb, arena, (pad + 100) * (size_t)count + 100);
    for (int i = 0; i < count; i++) {
        char name[12];
        vd_bb_open_document(bb, vd_array_name((uint32_t)i, name));
        vd_bb_int32(bb, "_id", first + i);
        vd_bb_binary(bb, "pad", 0, vd_slice(bytes, pad));
        vd_bb_close(bb);
    }
    cr_assert_eq(vd_bb_finish(bb, &list, NULL), VD_OK);
    return list;
}

/* Every collection: what is kept in memory, what rows and journal say, what a scan finds. */
static void check_exact(reads_t *reads)
{
    uint64_t id = 0;
    for (stor_collection_t *c; (c = stor_catalog_next(reads->storage.catalog, id)) != NULL;) {
        stor_scrub_result_t result;
        vd_error_t err = VD_ERROR_INIT;
        id = c->id;
        reads_ok(stor_scrub_collection(&reads->storage, reads->session, id, 0, NULL, &result, &err),
                 &err);
        cr_assert(result.equal, "%s: %lld documents, %lld kept", c->ns, (long long)result.documents,
                  (long long)result.documents_kept);
        cr_assert_eq(atomic_load(&c->documents), result.documents, "%s", c->ns);
        cr_assert_eq(atomic_load(&c->bytes), result.bytes, "%s", c->ns);
        cr_assert_eq(atomic_load(&c->hash), result.hash, "%s", c->ns);
        stor_catalog_unreference(&c);
    }
}

static bool fold(reads_t *reads, uint32_t max)
{
    bool more = false;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_counters_fold(&reads->storage, reads->session, max, &more, &err), &err);
    return more;
}

Test(counters, exact_after_reopening)
{
    reads_t *reads = reads_open();
    for (int i = 0; i < 12; i++) {
        reads_insert(reads, "d", i % 2 ? "odd" : "even",
                     numbered(reads->texts, i * 10, 10, (size_t)i * 7));
        if (i % 3 == 0)
            (void)fold(reads, 2);
    }
    for (int i = 0; i < 3; i++) {
        check_exact(reads);
        reads_stop(reads);
        reads_start(reads, false);
        check_exact(reads);
        while (fold(reads, 1)) /* one entry at a time */
            check_exact(reads);
        check_exact(reads);
    }
    reads_close(reads);
}

/* One insert into the table and into an entry of its own, in the session's transaction. */
static void part_write(reads_t *reads, const stor_collection_t *c, uint64_t timestamp,
                       uint32_t part)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = reads->texts;
    vd_slice_t key;
    vd_buf_t buf;
    stor_cursor_t *cursor;
    vd_bson_t document = vd_value_document(vd_bson_get(numbered(arena, (int)part, 1, 20), "0"));
    uint8_t *value = vd_arena_alloc(arena, STOR_ENVELOPE_BYTES + document.len);
    stor_change_t change = {.kind = STOR_CHANGE_INSERT,
                            .collection_id = c->id,
                            .bytes_delta = document.len,
                            .hash_delta = stor_record_hash(timestamp, document),
                            .body = document};
    stor_envelope_write(value, timestamp, document);
    reads_ok(stor_id_key(arena, vd_bson_get(document, "_id"), &key, &err), &err);
    reads_ok(stor_cursor_open(reads->session, c->table, &cursor, &err), &err);
    reads_ok(
        stor_cursor_insert(cursor, key, vd_slice(value, STOR_ENVELOPE_BYTES + document.len), &err),
        &err);
    vd_buf_init(&buf, 4096);
    reads_ok(stor_journal_begin(&buf, &reads->request, 1, &err), &err);
    reads_ok(stor_journal_add(&buf, &change, &err), &err);
    reads_ok(stor_journal_append(reads->storage.journal, reads->session, timestamp, part,
                                 vd_buf_slice(&buf), &err),
             &err);
    vd_buf_done(&buf);
}

/* The position never comes to stand inside of a transaction: what follows would be lost. */
Test(counters, parts_of_a_transaction_are_folded_together)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    reads_insert(reads, "d", "c", numbered(reads->texts, 100, 1, 10));
    stor_collection_t *c = stor_catalog_next(reads->storage.catalog, 0);
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    uint64_t timestamp = stor_txn_timestamp(reads->session);
    for (uint32_t part = 0; part < 4; part++)
        part_write(reads, c, timestamp, part);
    reads_ok(stor_txn_commit(reads->session, &err), &err);
    stor_catalog_unreference(&c);
    reads_insert(reads, "d", "c", numbered(reads->texts, 101, 1, 10));
    bool stood_behind_it = false;
    reads_crash(reads); /* takes the counters from the journal, as nobody counted the parts */
    check_exact(reads);
    while (fold(reads, 2)) {
        stood_behind_it |= stor_counters_position(&reads->storage) == timestamp;
        reads_crash(reads);
        check_exact(reads);
    }
    cr_assert(stood_behind_it);
    reads_close(reads);
}

Test(counters, of_dropped_and_renamed_collections)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    reads_insert(reads, "d", "a", numbered(reads->texts, 0, 10, 3));
    reads_insert(reads, "d", "b", numbered(reads->texts, 0, 10, 4));
    (void)fold(reads, 100);
    reads_insert(reads, "d", "a", numbered(reads->texts, 10, 10, 3));
    reads_insert(reads, "d", "b", numbered(reads->texts, 10, 10, 4));
    reads_begin(reads, "d");
    reads_ok(stor_catalog_drop(&reads->request, VD_SLICE_LIT("d"), VD_SLICE_LIT("a"), &err), &err);
    reads_begin(reads, "d");
    reads_ok(stor_catalog_rename(&reads->request, VD_SLICE_LIT("d"), VD_SLICE_LIT("b"),
                                 VD_SLICE_LIT("e"), VD_SLICE_LIT("x"), false, &err),
             &err);
    reads_insert(reads, "d", "a", numbered(reads->texts, 0, 3, 5)); /* a new one */
    check_exact(reads);
    reads_crash(reads);
    check_exact(reads);
    while (fold(reads, 1))
        check_exact(reads);
    reads_crash(reads);
    check_exact(reads);
    reads_close(reads);
}

/* ---- killed ---- */

static void write_some(reads_t *reads, vd_rand_t *rand, int *next)
{
    static const char *const names[] = {"a", "b", "c"};
    int count = 1 + (int)vd_rand_below(rand, 5);
    vd_arena_reset(reads->texts);
    reads_insert(reads, "d", names[vd_rand_below(rand, 3)],
                 numbered(reads->texts, *next, count, (size_t)vd_rand_below(rand, 300)));
    *next += count;
}

/* Writes, folds, and says now and then how much is on disk, until it is killed. */
_Noreturn static void child_run(int out, uint64_t seed)
{
    reads_t *reads = reads_open();
    vd_rand_t rand;
    int next = 0;
    vd_rand_seed(&rand, seed);
    if (write(out, reads->folder, sizeof reads->folder) != (ssize_t)sizeof reads->folder)
        _exit(1);
    for (;;) {
        for (int i = 0; i < 20; i++)
            write_some(reads, &rand, &next);
        uint64_t newest = stor_engine_newest(reads->storage.engine);
        if (vd_rand_below(&rand, 3) == 0)
            (void)fold(reads, 1 + (uint32_t)vd_rand_below(&rand, 50));
        while (stor_engine_durable(reads->storage.engine) < newest)
            usleep(100);
        if (write(out, &next, sizeof next) != sizeof next)
            _exit(1);
    }
}

Test(counters, exact_after_a_kill, .timeout = 300)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        int ends[2], acknowledged = 0, seen = 0;
        cr_assert_eq(pipe(ends), 0);
        pid_t child = fork();
        if (child == 0)
            child_run(ends[1], seed);
        close(ends[1]);
        char folder[sizeof((reads_t *)NULL)->folder];
        cr_assert_eq(read(ends[0], folder, sizeof folder), (ssize_t)sizeof folder);
        for (uint64_t i = 0; i < seed * 8; i++)
            cr_assert_eq(read(ends[0], &acknowledged, sizeof acknowledged),
                         (ssize_t)sizeof acknowledged);
        cr_assert_eq(kill(child, SIGKILL), 0);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        while (read(ends[0], &acknowledged, sizeof acknowledged) == (ssize_t)sizeof acknowledged)
            continue;
        close(ends[0]);

        reads_t *reads = reads_open(); /* for its frame: goes on in the child's folder */
        char own[256];
        snprintf(own, sizeof own, "%s", reads->folder);
        reads_stop(reads);
        (void)nftw(own, reads_unlink, 8, FTW_DEPTH | FTW_PHYS);
        memcpy(reads->folder, folder, sizeof folder);
        reads_start(reads, false);
        check_exact(reads);
        uint64_t id = 0;
        for (stor_collection_t *c; (c = stor_catalog_next(reads->storage.catalog, id)) != NULL;) {
            id = c->id;
            seen += (int)atomic_load(&c->documents);
            stor_catalog_unreference(&c);
        }
        cr_assert_geq(seen, acknowledged);
        while (fold(reads, 7))
            continue;
        check_exact(reads);
        reads_close(reads);
    }
}
