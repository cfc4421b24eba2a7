/* tests/unit/storaged/test_replication_apply.c — what one storage wrote, applied to another: by
 * tail and apply, over the real engine, one after the other (one engine a process). */
#include "libcommon/base/fault.h"
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/index/index.h"
#include "veddb-storaged/replication/apply.h"
#include "veddb-storaged/replication/tail.h"

#include <stdarg.h>

#define BUF_MAX (512u << 20)

/* ---- two storages, one after the other ---- */

typedef struct {
    vd_buf_t frames;
    size_t *at; /* count + 1 offsets */
    uint32_t count;
} recorded_t;

static void start(reads_t *reads, int role)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_storage_t *storage = &reads->storage;
    storage->settings.replicated = true;
    storage->term = 1;
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    atomic_store(&storage->replication->role, role);
}

static void stop(reads_t *reads)
{
    stor_builds_stop(reads->storage.builds);
    stor_replication_close(&reads->storage.replication);
}

static void restart(reads_t *reads)
{
    stop(reads);
    reads_stop(reads);
    reads_start(reads, false);
    start(reads, VDP_ROLE_SECONDARY);
}

static void durable_wait(reads_t *reads)
{
    stor_engine_t *engine = reads->storage.engine;
    for (int i = 0; i < 10000 && stor_engine_durable(engine) < stor_engine_visible(engine); i++) {
        stor_engine_flush_soon(engine);
        usleep(1000);
    }
    cr_assert_geq(stor_engine_durable(engine), stor_engine_visible(engine));
}

static void frames_index(recorded_t *recorded, uint32_t count)
{
    size_t at = 0;
    recorded->count = count;
    recorded->at = calloc(count + 1, sizeof *recorded->at);
    for (uint32_t i = 0; i < count; i++) {
        recorded->at[i] = at;
        at += 16 + vd_get_u32(vd_buf_at(&recorded->frames, at + 12));
    }
    recorded->at[count] = at;
    cr_assert_eq(at, vd_buf_len(&recorded->frames));
}

/* All that is in the journal, in batches of random sizes; each ends at a whole timestamp. */
static recorded_t record(reads_t *reads, vd_rand_t *rand)
{
    recorded_t recorded;
    vd_error_t err = VD_ERROR_INIT;
    vdp_replication_batch_t batch;
    vd_buf_t out;
    uint32_t count = 0;
    vdp_replication_tail_t ask = {.after_part = UINT32_MAX, .reader = 3};
    vd_buf_init(&out, VDP_ENTRIES_MAX);
    vd_buf_init(&recorded.frames, BUF_MAX);
    durable_wait(reads);
    for (;;) {
        ask.bytes_max = (uint32_t)vd_rand_below(rand, 20000);
        int rc = stor_tail_read(reads->storage.replication->tail, reads->session, &ask, &out,
                                &batch, &err);
        if (rc == VD_ERR_NOT_FOUND)
            break;
        reads_ok(rc, &err);
        cr_assert_eq(batch.after, ask.after);
        cr_assert_gt(batch.count, 0);
        cr_assert_not(batch.partial);
        count += batch.count;
        cr_assert_eq(vd_buf_append_slice(&recorded.frames, vd_buf_slice(&out)), VD_OK);
        ask.after = batch.last;
    }
    vd_buf_done(&out);
    frames_index(&recorded, count);
    return recorded;
}

static void recorded_done(recorded_t *recorded)
{
    vd_buf_done(&recorded->frames);
    free(recorded->at);
}

static uint64_t timestamp_at(recorded_t *recorded, uint32_t i)
{
    return vd_get_u64_be(vd_buf_at(&recorded->frames, recorded->at[i]));
}

static uint32_t part_at(recorded_t *recorded, uint32_t i)
{
    return vd_buf_at(&recorded->frames, recorded->at[i])[11];
}

/* Entries [from, to) as one APPLY. */
static int apply_some(reads_t *reads, recorded_t *recorded, uint32_t from, uint32_t to,
                      uint64_t after, vd_error_t *err)
{
    uint64_t applied = 0;
    stor_apply_t *apply = reads->storage.replication->apply;
    vdp_replication_apply_t batch = {.term = 1,
                                     .after = after,
                                     .last = timestamp_at(recorded, to - 1),
                                     .count = to - from,
                                     .partial = to < recorded->count &&
                                                timestamp_at(recorded, to) ==
                                                    timestamp_at(recorded, to - 1)};
    vd_slice_t bytes = vd_slice(vd_buf_at(&recorded->frames, recorded->at[from]),
                                recorded->at[to] - recorded->at[from]);
    int rc;
    while ((rc = stor_apply_batch(apply, reads->session, &batch, bytes, &applied, err)) == VD_OK &&
           stor_apply_waits(apply))
        usleep(1000);
    if (rc == VD_OK && !batch.partial && batch.last > after)
        cr_assert_geq(applied, batch.last);
    cr_assert_not(stor_txn_active(reads->session));
    return rc;
}

static void apply_ok(reads_t *reads, recorded_t *recorded, uint32_t from, uint32_t to)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t after = from == 0 ? 0 : timestamp_at(recorded, from - 1);
    reads_ok(apply_some(reads, recorded, from, to, after, &err), &err);
}

/* ---- everything that must be equal, as text ---- */

static uint64_t sum_add(uint64_t sum, vd_slice_t bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        sum = (sum ^ bytes.data[i]) * 1099511628211u;
    return (sum ^ bytes.len) * 1099511628211u;
}

#define SUM_EMPTY 14695981039346656037u

static uint64_t table_sum(reads_t *reads, const char *table)
{
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t sum = SUM_EMPTY;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, table, &cursor, &err), &err);
    while (stor_cursor_next(cursor, true, &k, &v, NULL) == VD_OK)
        sum = sum_add(sum_add(sum, k), v);
    stor_txn_rollback(reads->session);
    return sum;
}

static uint64_t journal_sum(reads_t *reads, uint32_t *ret_count)
{
    stor_journal_entry_t entry;
    vd_slice_t key, value;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t sum = SUM_EMPTY;
    stor_journal_reader_t *reader =
        stor_journal_reader_open(reads->storage.journal, reads->session, 0);
    *ret_count = 0;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    stor_journal_reader_begin(reader);
    while (stor_journal_reader_next(reader, UINT64_MAX, &entry, NULL) == VD_OK) {
        stor_journal_reader_raw(reader, &key, &value);
        sum = sum_add(sum_add(sum, key), value);
        ++*ret_count;
    }
    stor_txn_rollback(reads->session);
    stor_journal_reader_close(&reader);
    return sum;
}

/* Specifications, in order, and every entry. */
static void indexes_print(reads_t *reads, uint64_t id, vd_buf_t *out, vd_arena_t *arena)
{
    stor_collection_t *collection = stor_catalog_reference(reads->storage.catalog, id);
    const stor_index_set_t *set = collection->indexes;
    for (uint32_t i = 0; set != NULL && i < set->count; i++)
        cr_assert_eq(vd_buf_printf(out, "  %s %s %llx\n", set->items[i]->table,
                                   vd_bson_to_json(arena, set->items[i]->def->spec, 2000),
                                   (unsigned long long)table_sum(reads, set->items[i]->table)),
                     VD_OK);
    stor_catalog_unreference(&collection);
}

static char *fingerprint(reads_t *reads)
{
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t out;
    stor_collection_info_t *infos;
    uint32_t count, entries;
    char table[32];
    vd_buf_init(&out, 1 << 20);
    reads_ok(stor_catalog_list(reads->storage.catalog, arena, VD_SLICE_NULL, false, &infos, &count,
                               NULL),
             &(vd_error_t)VD_ERROR_INIT);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(table, sizeof table, "c-%llu", (unsigned long long)infos[i].id);
        cr_assert_eq(vd_buf_printf(&out, "%s %.*s.%.*s %02x%02x n=%lld b=%lld h=%llx %s %llx\n",
                                   table, VD_SLICE_FMT(infos[i].db), VD_SLICE_FMT(infos[i].name),
                                   infos[i].uuid[0], infos[i].uuid[15],
                                   (long long)infos[i].documents, (long long)infos[i].bytes,
                                   (unsigned long long)infos[i].hash,
                                   vd_bson_to_json(arena, infos[i].options, 2000),
                                   (unsigned long long)table_sum(reads, table)),
                     VD_OK);
        indexes_print(reads, infos[i].id, &out, arena);
    }
    uint64_t journal = journal_sum(reads, &entries);
    cr_assert_eq(vd_buf_printf(&out, "sessions %llx\njournal %u %llx\nepoch %llu\n",
                               (unsigned long long)table_sum(reads, "sessions"), entries,
                               (unsigned long long)journal,
                               (unsigned long long)atomic_load(&reads->storage.auth_epoch)),
                 VD_OK);
    cr_assert_eq(vd_buf_append_u8(&out, 0), VD_OK);
    char *text = strdup((const char *)vd_buf_slice(&out).data);
    vd_buf_done(&out);
    vd_arena_destroy(&arena);
    return text;
}

/* ---- random commands ---- */

VD_PRINTF(4, 5)
static void run(reads_t *reads, int64_t txn_number, const char *db, const char *format, ...)
{
    char json[2000];
    va_list args;
    va_start(args, format);
    vsnprintf(json, sizeof json, format, args);
    va_end(args);
    reads->txn_number = txn_number;
    (void)reads_run(reads, db, json); /* many fail, as they do with clients */
    reads->txn_number = 0;
}

/* Several statements, on the same documents again and again; committed, or not. */
static void random_transaction(reads_t *reads, vd_rand_t *rand, int64_t number, const char *c,
                               const char *to)
{
    uint32_t statements = 1 + (uint32_t)vd_rand_below(rand, 8);
    const char *how = ", 'startTransaction': true, 'autocommit': false}";
    memset(reads->lsid, 9, sizeof reads->lsid);
    if (vd_rand_below(rand, 3) == 0) { /* fails where it exists */
        run(reads, number, "db",
            "{'createIndexes': '%s', 'indexes': [{'key': {'deep': 1}, 'name': 'deep'}, {'key': "
            "{'x': 1, 'l': 1}, 'name': 'u', 'unique': true}]%s",
            c, how);
        how = ", 'autocommit': false}";
    }
    for (uint32_t i = 0; i < statements; i++, how = ", 'autocommit': false}") {
        int id = (int)vd_rand_below(rand, 6), x = (int)vd_rand_below(rand, 1000);
        const char *in = x % 3 == 0 ? to : c;
        switch (vd_rand_below(rand, 4)) {
        case 0:
            run(reads, number, "db",
                "{'update': '%s', 'updates': [{'q': {'_id': %d}, 'u': {'x': %d}, 'upsert': "
                "true}]%s",
                in, id, x, how);
            break;
        case 1:
            run(reads, number, "db",
                "{'delete': '%s', 'deletes': [{'q': {'_id': %d}, 'limit': 0}]%s", in, id, how);
            break;
        default:
            run(reads, number, "db",
                "{'update': '%s', 'updates': [{'q': {'_id': {'$lt': %d}}, 'u': {'$inc': {'x': 1}, "
                "'$set': {'deep.%d': %d}}, 'multi': true}]%s",
                in, id, id, x, how);
        }
    }
    run(reads, number, "admin", "{'%s': 1, 'autocommit': false}",
        vd_rand_below(rand, 4) == 0 ? "abortTransaction" : "commitTransaction");
}

static void random_command(reads_t *reads, vd_rand_t *rand, int64_t number)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    const char *c = names[vd_rand_below(rand, 4)], *to = names[vd_rand_below(rand, 4)];
    int id = (int)vd_rand_below(rand, 40), x = (int)vd_rand_below(rand, 1000);
    int64_t txn = vd_rand_below(rand, 2) == 0 ? number : 0;
    memset(reads->lsid, (int)vd_rand_below(rand, 3) + 1, sizeof reads->lsid);
    switch (vd_rand_below(rand, 26)) {
    case 21:
        run(reads, 0, "db",
            "{'createIndexes': '%s', 'indexes': [{'key': {'l': 1, 'x': -1}, 'name': 'lx'}, {'key': "
            "{'%s': 1}, 'name': 'i%d', 'sparse': true}]}",
            c, x % 2 ? "x" : "s.t", x % 2);
        break;
    case 22:
        run(reads, 0, "db",
            "{'createIndexes': '%s', 'indexes': [{'key': {'_id': 1, 'x': 1}, 'name': 'u', "
            "'unique': true, 'partialFilterExpression': {'x': {'$gt': %d}}}, {'key': {'$**': 1}, "
            "'name': 'w'}]}",
            c, x);
        break;
    case 23:
        run(reads, 0, "db", "{'dropIndexes': '%s', 'index': '%s'}", c,
            x % 3 == 0   ? "*"
            : x % 3 == 1 ? "lx"
                         : "w");
        break;
    case 24:
        run(reads, 0, "db", "{'collMod': '%s', 'index': {'name': 'i%d', 'hidden': %s}}", c, x % 2,
            x % 4 < 2 ? "true" : "false");
        break;
    case 0:
    case 1:
    case 2:
    case 3:
        run(reads, txn, "db",
            "{'insert': '%s', 'ordered': false, 'documents': [{'_id': %d, 'x': %d, 'l': [1, 2], "
            "'long': "
            "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}, {'_id': "
            "'k%d'}, {'x': 1}]}",
            c, id, x, id);
        break;
    case 4:
    case 5:
    case 6:
        run(reads, txn, "db",
            "{'update': '%s', 'updates': [{'q': {'_id': %d}, 'u': {'$inc': {'x': %d}, '$set': "
            "{'s.t': "
            "%d}}, 'upsert': %s}, {'q': {'_id': 999}, 'u': {'$inc': {'x': 1}}}, {'q': {'_id': "
            "'k%d'}, "
            "'u': {'x': %d}}]}",
            c, id, x, x, x % 2 ? "true" : "false", id, x);
        break;
    case 7:
        run(reads, 0, "db",
            "{'update': '%s', 'updates': [{'q': {'x': {'$lt': %d}}, 'u': {'$push': {'l': %d}}, "
            "'multi': "
            "true}]}",
            c, x, x);
        break;
    case 8:
    case 9:
        run(reads, txn, "db", "{'delete': '%s', 'deletes': [{'q': {'_id': %d}, 'limit': 1}]}", c,
            id);
        break;
    case 10:
    case 11:
        run(reads, txn, "db",
            "{'findAndModify': '%s', 'query': {'_id': %d}, 'update': {'$set': {'f': %d}}, 'new': "
            "%s, "
            "'upsert': true}",
            c, id, x, x % 2 ? "true" : "false");
        break;
    case 12:
        run(reads, 0, "db", "{'create': '%s', 'validator': {'x': {'$ne': %d}}}", c, x);
        break;
    case 13:
        if (x % 4 == 0)
            run(reads, 0, "db", "{'drop': '%s'}", c);
        break;
    case 14:
        run(reads, 0, "admin", "{'renameCollection': 'db.%s', 'to': 'db.%s', 'dropTarget': %s}", c,
            to, x % 2 ? "true" : "false");
        break;
    case 15:
        run(reads, 0, "db", "{'collMod': '%s', 'validator': {'x': {'$ne': %d}}}", c, x);
        break;
    case 16:
        if (x % 10 == 0)
            run(reads, 0, "db", "{'dropDatabase': 1}");
        break;
    case 17:
        run(reads, 0, "admin",
            "{'update': 'system.users', 'updates': [{'q': {'_id': 'u%d'}, 'u': {'$set': {'x': "
            "%d}}, "
            "'upsert': true}]}",
            id, x);
        break;
    case 18: /* a view, now and then in the place of a collection */
        if (x % 3 == 0)
            run(reads, 0, "db", "{'collMod': 'v', 'viewOn': '%s', 'pipeline': [{'$skip': %d}]}", c,
                x);
        else if (x % 3 == 1)
            run(reads, 0, "db", "{'drop': 'v'}");
        else
            run(reads, 0, "db", "{'create': 'v', 'viewOn': '%s', 'pipeline': [{'$limit': %d}]}", c,
                x + 1);
        break;
    case 19:
        run(reads, 0, "db",
            "{'aggregate': '%s', 'pipeline': [{'$match': {'_id': {'$lt': %d}}}, {'$out': '%s'}], "
            "'cursor': {}}",
            c, id, to);
        break;
    case 20:
        run(reads, 0, "db",
            "{'aggregate': '%s', 'pipeline': [{'$set': {'x': %d}}, {'$merge': {'into': '%s', "
            "'whenMatched': '%s'}}], 'cursor': {}}",
            c, x, to, x % 2 ? "merge" : "replace");
        break;
    case 25:
        random_transaction(reads, rand, number, c, to);
        break;
    default:
        run(reads, 0, "other", "{'insert': 'log', 'documents': [{'n': %d}, {'n': 2}, {'n': 3}]}",
            x);
    }
}

static recorded_t history(uint64_t seed, int commands, char **ret_text)
{
    vd_rand_t rand;
    vd_rand_seed(&rand, seed);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_PRIMARY);
    reads->flags |= VDP_COMMAND_INTERNAL;
    reads_session(reads, "ann@admin", 1);
    for (int i = 1; i <= commands; i++)
        random_command(reads, &rand, i);
    recorded_t recorded = record(reads, &rand);
    *ret_text = fingerprint(reads);
    stop(reads);
    reads_close(reads);
    cr_assert_gt(recorded.count, (uint32_t)commands / 3);
    return recorded;
}

static void same(const char *is, const char *want)
{
    cr_assert_str_eq(is, want, "is:\n%s\nis not:\n%s", is, want);
}

/* ---- tests ---- */

/* Entries of transactions that make collections. */
static uint32_t making_count(recorded_t *recorded)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < recorded->count; i++) {
        const uint8_t *frame = vd_buf_at(&recorded->frames, recorded->at[i]);
        stor_journal_entry_t entry;
        vd_error_t err = VD_ERROR_INIT;
        reads_ok(stor_journal_decode(vd_slice(frame, STOR_JOURNAL_KEY_BYTES),
                                     vd_slice(frame + 16, vd_get_u32(frame + 12)), &entry, &err),
                 &err);
        count += entry.change_count > 1 && entry.changes.data[0] == STOR_CHANGE_CREATE;
    }
    return count;
}

Test(apply, random_histories, .timeout = 240)
{
    uint32_t making = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        char *want, *is;
        vd_rand_t rand;
        recorded_t recorded = history(seed, 300, &want);
        making += making_count(&recorded);
        reads_t *reads = reads_open();
        start(reads, VDP_ROLE_SECONDARY);
        vd_rand_seed(&rand, seed + 100);
        uint32_t at = 0, reopen = recorded.count / 2;
        while (at < recorded.count) {
            uint32_t back = (uint32_t)vd_rand_below(&rand, at < 5 ? at + 1 : 5);
            uint32_t to = at + 1 + (uint32_t)vd_rand_below(&rand, 40);
            to = to > recorded.count ? recorded.count : to;
            apply_ok(reads, &recorded, at - back, to); /* some come twice */
            cr_assert_eq(stor_apply_position(reads->storage.replication->apply),
                         timestamp_at(&recorded, to - 1));
            at = to;
            if (at >= reopen) {
                durable_wait(reads);
                restart(reads);
                cr_assert_eq(stor_apply_position(reads->storage.replication->apply),
                             timestamp_at(&recorded, at - 1));
                reopen = UINT32_MAX;
            }
        }
        is = fingerprint(reads);
        same(is, want);
        free(is);
        /* Counters from disk are the same as those that were kept. */
        bool more = true;
        vd_error_t err = VD_ERROR_INIT;
        while (more)
            reads_ok(stor_counters_fold(&reads->storage, reads->session, 100, &more, &err), &err);
        durable_wait(reads);
        restart(reads);
        is = fingerprint(reads);
        *strstr(is, "epoch") = *strstr(want, "epoch") = 0; /* storaged.c loads it */
        same(is, want);
        free(is), free(want);
        stop(reads);
        reads_close(reads);
        recorded_done(&recorded);
    }
    cr_assert_gt(making, 0);
}

/* Index of the first schema entry of that kind. */
static uint32_t kind_find(recorded_t *recorded, stor_change_kind_t kind)
{
    for (uint32_t i = 0; i < recorded->count; i++) {
        const uint8_t *frame = vd_buf_at(&recorded->frames, recorded->at[i]);
        size_t head = STOR_JOURNAL_KEY_BYTES + 4;
        stor_journal_entry_t entry;
        stor_change_t change;
        vd_error_t err = VD_ERROR_INIT;
        reads_ok(stor_journal_decode(
                     vd_slice(frame, STOR_JOURNAL_KEY_BYTES),
                     vd_slice(frame + head, recorded->at[i + 1] - recorded->at[i] - head), &entry,
                     &err),
                 &err);
        vd_slice_t changes = entry.changes;
        if (stor_journal_change_next(&changes, &change, &err) == VD_OK && change.kind == kind)
            return i;
    }
    cr_assert_fail("no entry of kind %d", (int)kind);
    return 0;
}

/* The end of a build waits until it is ready here, and nothing else does; so does one after a
 * restart; one that was given up is. */
Test(apply, indexes_are_built_beside, .timeout = 300)
{
    for (int restarted = 0; restarted < 2; restarted++) {
        vd_rand_t rand;
        vd_error_t err = VD_ERROR_INIT;
        vd_rand_seed(&rand, 1);
        reads_t *reads = reads_open();
        start(reads, VDP_ROLE_PRIMARY);
        reads->flags |= VDP_COMMAND_INTERNAL;
        for (int i = 0; i < 300; i++)
            run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': %d, 'a': %d}]}", i, i % 100);
        run(reads, 0, "db",
            "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}, {'key': {'b': 1, "
            "'a': -1}, 'name': 'ba'}]}");
        for (int i = 0; i < 50; i++)
            run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': %d, 'a': 5}]}", 1000 + i);
        run(reads, 0, "db",
            "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'u', 'unique': true}]}");
        run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': 'last', 'a': 5}]}");
        recorded_t recorded = record(reads, &rand);
        char *want = fingerprint(reads);
        stop(reads);
        reads_close(reads);

        uint32_t begun = kind_find(&recorded, STOR_CHANGE_START_INDEXES);
        uint32_t ended = kind_find(&recorded, STOR_CHANGE_CREATE_INDEXES);
        cr_assert_lt(begun, ended);
        (void)kind_find(&recorded, STOR_CHANGE_ABORT_INDEXES);
        reads = reads_open();
        start(reads, VDP_ROLE_SECONDARY);
        reads_ok(vd_fault_arm("index.scanned=wait", &err), &err);
        apply_ok(reads, &recorded, 0, ended);
        cr_assert_eq(stor_builds_count(reads->storage.builds), 1);
        stor_apply_t *apply = reads->storage.replication->apply;
        uint64_t applied = 0, before = timestamp_at(&recorded, ended - 1);
        vdp_replication_apply_t batch = {
            .term = 1, .after = before, .last = timestamp_at(&recorded, ended + 10), .count = 11};
        vd_slice_t bytes = vd_slice(vd_buf_at(&recorded.frames, recorded.at[ended]),
                                    recorded.at[ended + 11] - recorded.at[ended]);
        for (int i = 0; i < 3; i++) {
            reads_ok(stor_apply_batch(apply, reads->session, &batch, bytes, &applied, &err), &err);
            cr_assert(stor_apply_waits(apply));
            cr_assert_eq(applied, before);
        }
        if (restarted == 1) {
            durable_wait(reads);
            vd_fault_disarm(NULL);
            restart(reads);
            stor_builds_resume(reads->storage.builds);
        }
        vd_fault_disarm(NULL);
        apply_ok(reads, &recorded, ended, recorded.count);
        char *is = fingerprint(reads);
        same(is, want);
        free(is), free(want);
        stop(reads);
        reads_close(reads);
        recorded_done(&recorded);
    }
}

/* How many collections a reader finds of the two. */
static uint32_t made_count(reads_t *reads)
{
    uint32_t count = 0;
    uint64_t id = 0;
    for (stor_collection_t *c; (c = stor_catalog_next(reads->storage.catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        id = c->id;
        count += vd_slice_is(c->name, "a") || vd_slice_is(c->name, "b");
    }
    return count;
}

/* Collections, indexes and documents of one transaction: a member that dies while it takes them has
 * all of it or nothing, and goes on. */
Test(apply, what_a_transaction_makes_comes_whole)
{
    static const char *const how = ", 'autocommit': false}";
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_seed(&rand, 1);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_PRIMARY);
    reads_session(reads, "ann@admin", 1);
    run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': 1}]}");
    run(reads, 1, "db",
        "{'createIndexes': 'a', 'indexes': [{'key': {'x': 1}, 'name': 'x', 'unique': true}], "
        "'startTransaction': true%s",
        how);
    run(reads, 1, "db", "{'create': 'b', 'collation': {'locale': 'en'}%s", how);
    run(reads, 1, "db", "{'insert': 'a', 'documents': [{'_id': 1, 'x': [1, 2]}]%s", how);
    run(reads, 1, "db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'y': 2}}]%s", how);
    run(reads, 1, "admin", "{'commitTransaction': 1%s", how);
    cr_assert_eq(made_count(reads), 2);
    run(reads, 0, "db", "{'insert': 'a', 'documents': [{'_id': 2, 'x': 3}]}");
    recorded_t recorded = record(reads, &rand);
    cr_assert_eq(recorded.count, 4); /* create, insert, the transaction, insert */
    char *want = fingerprint(reads);
    stop(reads);
    reads_close(reads);

    for (int stays = 0; stays < 2; stays++) {
        reads = reads_open();
        start(reads, VDP_ROLE_SECONDARY);
        apply_ok(reads, &recorded, 0, 2);
        char *before = fingerprint(reads);
        static const char *const points[2][2] = {
            {"own.put=error:skip=1", "apply.before_commit=error"},
            {"apply.after_commit=error", NULL}};
        for (int i = 0; i < 2 && points[stays][i] != NULL; i++) {
            reads_ok(vd_fault_arm(points[stays][i], &err), &err);
            cr_assert_eq(apply_some(reads, &recorded, 2, 4, timestamp_at(&recorded, 1), NULL),
                         VD_ERR_FAULT_INJECTED);
            vd_fault_disarm(NULL);
            cr_assert_eq(made_count(reads), stays == 0 ? 0 : 2);
            char *is = fingerprint(reads);
            if (stays == 0)
                same(is, before);
            free(is);
            if (stays != 0)
                durable_wait(reads);
            restart(reads);
            cr_assert_eq(made_count(reads), stays == 0 ? 0 : 2);
        }
        apply_ok(reads, &recorded, stays == 0 ? 2 : 3, 4);
        char *is = fingerprint(reads);
        same(is, want);
        free(is), free(before);
        stop(reads);
        reads_close(reads);
    }

    /* A change of what exists behind those at its head. */
    reads = reads_open();
    start(reads, VDP_ROLE_SECONDARY);
    apply_ok(reads, &recorded, 0, 2);
    uint8_t *frame = vd_buf_at(&recorded.frames, recorded.at[2]);
    stor_journal_entry_t entry;
    reads_ok(stor_journal_decode(vd_slice(frame, STOR_JOURNAL_KEY_BYTES),
                                 vd_slice(frame + 16, vd_get_u32(frame + 12)), &entry, &err),
             &err);
    uint8_t *kind = (uint8_t *)(uintptr_t)entry.changes.data;
    cr_assert_eq(*kind, STOR_CHANGE_CREATE);
    static const stor_change_kind_t wrong[] = {STOR_CHANGE_CREATE_INDEXES, STOR_CHANGE_DROP,
                                               STOR_CHANGE_START_INDEXES};
    for (size_t i = 0; i < VD_COUNT_OF(wrong); i++) {
        *kind = (uint8_t)wrong[i];
        vd_error_clear(&err);
        cr_assert_eq(apply_some(reads, &recorded, 2, 3, timestamp_at(&recorded, 1), &err),
                     VD_ERR_CORRUPT, "%s", err.message);
        cr_assert_eq(made_count(reads), 0);
    }
    *kind = STOR_CHANGE_CREATE;
    apply_ok(reads, &recorded, 2, 4);
    char *is = fingerprint(reads);
    same(is, want);
    free(is), free(want);
    stop(reads);
    reads_close(reads);
    recorded_done(&recorded);
}

/* A retryable write is answered by the other member as by the one that did it. */
Test(apply, results_are_replayed)
{
    vd_rand_t rand;
    vd_rand_seed(&rand, 1);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_PRIMARY);
    reads_session(reads, "ann@admin", 1);
    run(reads, 7, "db", "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}]}");
    memset(reads->lsid, 2, sizeof reads->lsid);
    run(reads, 8, "db",
        "{'update': 'c', 'updates': [{'q': {'_id': 77}, 'u': {'$set': {'a': 1}}}, {'q': {'_id': "
        "1}, "
        "'u': {'$inc': {'a': 1}}}]}");
    memset(reads->lsid, 3, sizeof reads->lsid);
    run(reads, 9, "db",
        "{'insert': 'c', 'documents': [{'_id': 50}], 'startTransaction': true, 'autocommit': "
        "false}");
    run(reads, 9, "admin", "{'commitTransaction': 1, 'autocommit': false}");
    recorded_t recorded = record(reads, &rand);
    stop(reads);
    reads_close(reads);

    reads = reads_open();
    start(reads, VDP_ROLE_SECONDARY);
    reads_session(reads, "ann@admin", 1);
    memset(reads->lsid, 3, sizeof reads->lsid);
    run(reads, 8, "db", "{'find': 'c', 'startTransaction': true, 'autocommit': false}");
    reads_expect(reads, "find", "{'code': 10107}"); /* not on a secondary */
    apply_ok(reads, &recorded, 0, recorded.count);
    stor_engine_term_set(reads->storage.engine, 2);
    atomic_store(&reads->storage.replication->role, VDP_ROLE_PRIMARY);
    reads_session(reads, "ann@admin", 1);
    run(reads, 7, "db", "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}]}");
    reads_expect(reads, "insert", "{'n': 2, 'retriedStmtIds': [0, 1], 'writeErrors': null}");
    memset(reads->lsid, 2, sizeof reads->lsid);
    run(reads, 8, "db",
        "{'update': 'c', 'updates': [{'q': {'_id': 77}, 'u': {'$set': {'a': 1}}}, {'q': {'_id': "
        "1}, "
        "'u': {'$inc': {'a': 1}}}]}");
    reads_expect(reads, "update", "{'n': 1, 'retriedStmtIds': [0, 1]}");
    memset(reads->lsid, 3, sizeof reads->lsid);
    run(reads, 9, "admin", "{'commitTransaction': 1, 'autocommit': false}");
    reads_expect(reads, "commit", "{'ok': 1}");
    run(reads, 9, "db", "{'find': 'c', 'autocommit': false}");
    reads_expect(reads, "find", "{'code': 256}");
    run(reads, 8, "db", "{'find': 'c', 'startTransaction': true, 'autocommit': false}");
    reads_expect(reads, "find", "{'code': 225}");
    run(reads, 0, "db", "{'find': 'c', 'filter': {'_id': 1}}");
    reads_expect(reads, "find", "{'cursor.firstBatch': [{'_id': 1, 'a': 1}]}");
    /* Drawn under the new term: above everything applied, in a later second. */
    run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': 3}]}");
    uint64_t last = timestamp_at(&recorded, recorded.count - 1);
    uint64_t newest = stor_engine_newest(reads->storage.engine);
    cr_assert_gt(newest >> 32, last >> 32);
    cr_assert_eq((newest >> 24) & 0xff, 2);
    stop(reads);
    reads_close(reads);
    recorded_done(&recorded);
}

Test(apply, refused)
{
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_seed(&rand, 1);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_PRIMARY);
    for (int i = 0; i < 3; i++)
        run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': %d, 'a': 1}]}", i);
    run(reads, 0, "db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}]}");
    run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': 9}]}");
    recorded_t recorded = record(reads, &rand); /* create, 3 inserts, update, insert */
    cr_assert_eq(recorded.count, 6);
    stop(reads);
    reads_close(reads);

    reads = reads_open();
    start(reads, VDP_ROLE_SECONDARY);
    /* A hole before the batch; an older term; a primary. */
    cr_assert_eq(apply_some(reads, &recorded, 1, 2, timestamp_at(&recorded, 0), &err),
                 VD_ERR_BAD_VALUE);
    atomic_store(&reads->storage.replication->term, 2);
    vd_error_clear(&err);
    cr_assert_eq(apply_some(reads, &recorded, 0, 1, 0, &err), VD_ERR_STALE_TERM);
    atomic_store(&reads->storage.replication->term, 1);
    atomic_store(&reads->storage.replication->role, VDP_ROLE_PRIMARY);
    vd_error_clear(&err);
    cr_assert_eq(apply_some(reads, &recorded, 0, 1, 0, &err), VD_ERR_BAD_VALUE);
    atomic_store(&reads->storage.replication->role, VDP_ROLE_SECONDARY);
    apply_ok(reads, &recorded, 0, 2);
    char *before = fingerprint(reads), *after;
    /* The document is not here: insert of _id 1 left out. Nothing of the piece is kept. */
    vd_error_clear(&err);
    cr_assert_eq(apply_some(reads, &recorded, 3, 6, timestamp_at(&recorded, 1), &err),
                 VD_ERR_DIVERGED, "%s", err.message);
    after = fingerprint(reads);
    same(after, before);
    free(after);
    /* A flipped byte in a document: its hash is not the primary's. */
    size_t end = recorded.at[3];
    vd_buf_at(&recorded.frames, end - 2)[0] ^= 1;
    vd_error_clear(&err);
    cr_assert_eq(apply_some(reads, &recorded, 2, 3, timestamp_at(&recorded, 1), &err),
                 VD_ERR_DIVERGED);
    vd_buf_at(&recorded.frames, end - 2)[0] ^= 1;
    /* A commit that fails, and comes again. */
    cr_assert_eq(vd_fault_arm("apply.before_commit=error:times=1", &err), VD_OK);
    vd_error_clear(&err);
    cr_assert_eq(apply_some(reads, &recorded, 2, 6, timestamp_at(&recorded, 1), &err),
                 VD_ERR_FAULT_INJECTED);
    vd_fault_disarm(NULL);
    after = fingerprint(reads);
    same(after, before);
    free(after), free(before);
    apply_ok(reads, &recorded, 2, 6);
    /* Says that we have it, and we do not. */
    vd_buf_at(&recorded.frames, recorded.at[3])[7] ^= 0x80;
    vd_error_clear(&err);
    cr_assert_eq(apply_some(reads, &recorded, 3, 4, timestamp_at(&recorded, 2), &err),
                 VD_ERR_DIVERGED);
    /* Cut anywhere: never more than an error. */
    vdp_replication_apply_t batch = {.term = 1, .last = timestamp_at(&recorded, 1), .count = 2};
    uint64_t applied;
    for (size_t len = 1; len < recorded.at[2]; len++)
        if (len != recorded.at[1])
            cr_assert_eq(stor_apply_batch(reads->storage.replication->apply, reads->session, &batch,
                                          vd_slice(vd_buf_at(&recorded.frames, 0), len), &applied,
                                          NULL),
                         VD_ERR_CORRUPT, "%zu", len);
    stop(reads);
    reads_close(reads);
    recorded_done(&recorded);
}

/* One transaction of five parts, cut at every border. */
Test(apply, parts)
{
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_seed(&rand, 1);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_PRIMARY);
    run(reads, 0, "db", "{'create': 'c'}");
    run(reads, 0, "db",
        "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}, {'_id': 3}, {'_id': 4}, {'_id': "
        "5}]}");
    run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': 6}]}");
    recorded_t whole = record(reads, &rand), cut;
    cr_assert_eq(whole.count, 3);
    stop(reads);
    reads_close(reads);

    stor_journal_entry_t entry;
    stor_change_t change;
    uint8_t *frame = vd_buf_at(&whole.frames, whole.at[1]);
    reads_ok(stor_journal_decode(vd_slice(frame, 12), vd_slice(frame + 16, vd_get_u32(frame + 12)),
                                 &entry, &err),
             &err);
    vd_buf_init(&cut.frames, BUF_MAX);
    cr_assert_eq(vd_buf_append(&cut.frames, vd_buf_at(&whole.frames, 0), whole.at[1]), VD_OK);
    for (uint8_t part = 0; part < 5; part++) {
        vd_buf_t value;
        uint8_t key[12];
        vd_buf_init(&value, 1 << 20);
        memcpy(key, frame, 12);
        key[11] = part;
        reads_ok(stor_journal_change_next(&entry.changes, &change, &err), &err);
        reads_ok(stor_journal_begin(&value, NULL, entry.wall_ms, &err), &err);
        reads_ok(stor_journal_add(&value, &change, &err), &err);
        cr_assert_eq(vd_buf_append(&cut.frames, key, 12), VD_OK);
        cr_assert_eq(vd_buf_append_u32(&cut.frames, (uint32_t)vd_buf_len(&value)), VD_OK);
        cr_assert_eq(vd_buf_append_slice(&cut.frames, vd_buf_slice(&value)), VD_OK);
        vd_buf_done(&value);
    }
    cr_assert_eq(vd_buf_append(&cut.frames, vd_buf_at(&whole.frames, whole.at[2]),
                               whole.at[3] - whole.at[2]),
                 VD_OK);
    frames_index(&cut, 7);
    cr_assert_eq(part_at(&cut, 5), 4);

    char *first = NULL;
    for (uint32_t a = 1; a < 6; a++)
        for (uint32_t b = a + 1; b < 7; b = b < 6 ? 6 : 7) {
            reads = reads_open();
            start(reads, VDP_ROLE_SECONDARY);
            apply_ok(reads, &cut, 0, a);
            stor_collection_t *c = stor_catalog_reference(reads->storage.catalog, 1);
            cr_assert_eq(c->documents, 0);
            apply_ok(reads, &cut, a, b);
            cr_assert_eq(c->documents, b == 6 ? 5 : 0);
            /* Lost in a restart: it begins again at the whole transaction. */
            if (a == 3) {
                stor_catalog_unreference(&c);
                durable_wait(reads);
                restart(reads);
                vd_error_clear(&err);
                if (b < 6)
                    cr_assert_eq(apply_some(reads, &cut, b, 7, timestamp_at(&cut, b - 1), &err),
                                 VD_ERR_BAD_VALUE);
                apply_ok(reads, &cut, 1, 7);
            } else {
                stor_catalog_unreference(&c);
                apply_ok(reads, &cut, b, 7);
            }
            char *is = fingerprint(reads);
            if (first == NULL)
                first = strdup(is);
            same(is, first);
            free(is);
            /* And the tail gives it back in parts, as small as is asked for. */
            if (a == 1 && b == 2) {
                durable_wait(reads);
                vdp_replication_tail_t ask = {
                    .after = timestamp_at(&cut, 0), .bytes_max = 1, .after_part = UINT32_MAX};
                vdp_replication_batch_t batch;
                vd_buf_t out;
                vd_buf_init(&out, VDP_ENTRIES_MAX);
                for (uint32_t i = 1; i < 7; i++) {
                    reads_ok(stor_tail_read(reads->storage.replication->tail, reads->session, &ask,
                                            &out, &batch, &err),
                             &err);
                    cr_assert_eq(batch.count, 1);
                    cr_assert_eq(batch.partial, i < 5);
                    cr_assert(vd_slice_equal(
                        vd_buf_slice(&out),
                        vd_slice(vd_buf_at(&cut.frames, cut.at[i]), cut.at[i + 1] - cut.at[i])));
                    ask.after = batch.last;
                    ask.after_part = batch.partial ? batch.last_part : UINT32_MAX;
                }
                cr_assert_eq(stor_tail_read(reads->storage.replication->tail, reads->session, &ask,
                                            &out, &batch, &err),
                             VD_ERR_NOT_FOUND);
                vd_buf_done(&out);
            }
            stop(reads);
            reads_close(reads);
        }
    free(first);
    recorded_done(&whole);
    recorded_done(&cut);
}

Test(apply, delayed_members_wait)
{
    vd_rand_t rand;
    vd_error_t err = VD_ERROR_INIT;
    char *want;
    (void)rand;
    recorded_t recorded = history(9, 20, &want);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_SECONDARY);
    uint64_t applied = 1, last = timestamp_at(&recorded, recorded.count - 1);
    vdp_replication_apply_t batch = {
        .term = 1, .last = last, .count = recorded.count, .delay_ms = 3600000};
    stor_apply_t *apply = reads->storage.replication->apply;
    reads_ok(stor_apply_batch(apply, reads->session, &batch, vd_buf_slice(&recorded.frames),
                              &applied, &err),
             &err);
    cr_assert_eq(applied, 0);
    int64_t left_ms = stor_apply_due_ms(apply) - vd_wall_ms();
    cr_assert(left_ms > 3500000 && left_ms <= 3602000, "%lld", (long long)left_ms);
    batch.delay_ms = 0;
    reads_ok(stor_apply_batch(apply, reads->session, &batch, vd_buf_slice(&recorded.frames),
                              &applied, &err),
             &err);
    cr_assert_eq(applied, last);
    free(want);
    stop(reads);
    reads_close(reads);
    recorded_done(&recorded);
}

Test(tail, common_point)
{
    char *want;
    vd_error_t err = VD_ERROR_INIT;
    recorded_t recorded = history(5, 60, &want);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_SECONDARY);
    apply_ok(reads, &recorded, 0, recorded.count / 2);
    stor_tail_t *tail = reads->storage.replication->tail;
    uint64_t sample[64], found, have = timestamp_at(&recorded, recorded.count / 2 - 1);
    uint32_t count;
    reads_ok(stor_tail_sample(tail, reads->session, sample, 64, &count, &err), &err);
    cr_assert_geq(count, 8);
    cr_assert_eq(sample[0], have);
    for (uint32_t i = 1; i < count; i++)
        cr_assert_lt(sample[i], sample[i - 1]);
    uint64_t ask[] = {timestamp_at(&recorded, recorded.count - 1), have + 1, have, sample[1]};
    reads_ok(stor_tail_find(tail, reads->session, ask, 4, &found, &err), &err);
    cr_assert_eq(found, have);
    reads_ok(stor_tail_find(tail, reads->session, ask, 2, &found, &err), &err);
    cr_assert_eq(found, 0);
    free(want);
    stop(reads);
    reads_close(reads);
    recorded_done(&recorded);
}

/* Small entries a second; printed with VD_TEST_RATES=1. */
Test(apply, rate, .timeout = 300)
{
    const bool measure = getenv("VD_TEST_RATES") != NULL;
    const int entries = measure ? 40000 : 8000; /* several batches, each of several pieces */
    vd_rand_t rand;
    vd_rand_seed(&rand, 1);
    reads_t *reads = reads_open();
    start(reads, VDP_ROLE_PRIMARY);
    for (int i = 0; i < entries; i++)
        run(reads, 0, "db", "{'insert': 'c', 'documents': [{'_id': %d, 'a': 1, 'b': 'text'}]}", i);
    recorded_t recorded = record(reads, &rand);
    stop(reads);
    reads_close(reads);
    reads = reads_open();
    start(reads, VDP_ROLE_SECONDARY);
    uint64_t began_us = vd_monotonic_us();
    for (uint32_t at = 0; at < recorded.count; at += 5000)
        apply_ok(reads, &recorded, at, at + 5000 < recorded.count ? at + 5000 : recorded.count);
    durable_wait(reads);
    uint64_t took_us = vd_monotonic_us() - began_us;
    if (measure)
        fprintf(stderr, "applied and durable: %u entries, %.0f a second\n", recorded.count,
                recorded.count * 1e6 / (double)took_us);
    stor_collection_t *c = stor_catalog_reference(reads->storage.catalog, 1);
    cr_assert_eq(c->documents, entries);
    stor_catalog_unreference(&c);
    stop(reads);
    reads_close(reads);
    recorded_done(&recorded);
}
