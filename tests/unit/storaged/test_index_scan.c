/* tests/unit/storaged/test_index_scan.c — the scan of an index, against a plain walk: ranges,
 * directions, resuming, seeking, pushing back; and TTL, which reads by it. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/index_support.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/ttl.h"

#define OK(reads, command)                                                                         \
    cr_assert_eq(reads_run((reads), "db", (command)), VD_OK, "%s: %s", (command), reads_text(reads))

#define DOCUMENTS 600

/* {_id: i, a: i % 20, b: i}, and some with arrays. */
static reads_t *filled(const char *index)
{
    reads_t *reads = reads_open();
    size_t len = 0, room = DOCUMENTS * 80;
    char *text = malloc(room);
    len += (size_t)snprintf(text, room, "{'insert': 'c', 'documents': [");
    for (int i = 0; i < DOCUMENTS; i++)
        len += (size_t)snprintf(text + len, room - len,
                                i % 50 == 0 ? "%s{'_id': %d, 'a': [%d, 5], 'b': %d}"
                                            : "%s{'_id': %d, 'a': %d, 'b': %d}",
                                i == 0 ? "" : ", ", i, i % 20, i);
    (void)snprintf(text + len, room - len, "]}");
    OK(reads, text);
    free(text);
    OK(reads, vd_arena_printf(reads->texts, "{'createIndexes': 'c', 'indexes': [%s]}", index));
    return reads;
}

static vd_slice_t code(vd_arena_t *arena, int a, bool descending)
{
    vd_buf_t buf;
    bool exact;
    vd_buf_init(&buf, 100);
    cr_assert_eq(stor_keycode_append(&buf, vd_value_from_int32(arena, a), descending, &exact, NULL),
                 VD_OK);
    vd_slice_t copy = vd_arena_copy_slice(arena, vd_buf_slice(&buf));
    vd_buf_done(&buf);
    return copy;
}

typedef struct {
    vd_slice_t *keys;
    vd_slice_t *fields;
    uint32_t count;
} walked_t;

/* Every entry, by a bare cursor. */
static walked_t walk_all(reads_t *reads, vd_arena_t *arena, const stor_index_t *index)
{
    walked_t all = {VD_ARENA_ARRAY(arena, vd_slice_t, 4000),
                    VD_ARENA_ARRAY(arena, vd_slice_t, 4000), 0};
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, index->table, &cursor, &err), &err);
    while (stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK) {
        stor_index_entry_t entry;
        all.keys[all.count] = vd_arena_copy_slice(arena, key);
        reads_ok(stor_index_entry_read(index->def, all.keys[all.count], value, &entry, &err), &err);
        all.fields[all.count++] = entry.fields;
    }
    stor_txn_rollback(reads->session);
    return all;
}

static bool inside(const stor_range_t *range, vd_slice_t fields)
{
    int low = range->low.len == 0 ? 1 : vd_slice_compare(fields, range->low);
    int high = range->high.len == 0 ? -1 : vd_slice_compare(fields, range->high);
    return (low > 0 || (low == 0 && !range->low_exclusive)) &&
           (high < 0 || (high == 0 && !range->high_exclusive));
}

/* Random ranges, both directions, released, resumed and pushed back at random. */
static void compare_random(reads_t *reads, vd_arena_t *arena, const stor_index_t *index,
                           uint64_t collection_id, vd_rand_t *rand)
{
    bool descending = index->def->fields[0].order == STOR_INDEX_DESCENDING;
    walked_t all = walk_all(reads, arena, index);
    stor_bounds_t bounds = {.ranges = VD_ARENA_ARRAY(arena, stor_range_t, 8)};
    int at = -1;
    while (bounds.count < 4 && at < 20) {
        int low = at + 1 + (int)vd_rand_below(rand, 5), high = low + (int)vd_rand_below(rand, 6);
        stor_range_t *range = &bounds.ranges[bounds.count++];
        bool first = descending;
        range->low = code(arena, first ? 30 - low : low, descending);
        range->high = code(arena, first ? 30 - high : high, descending);
        range->low_exclusive = vd_rand_below(rand, 3) == 0;
        range->high_exclusive = vd_rand_below(rand, 3) == 0;
        at = high;
    }
    if (vd_rand_below(rand, 3) == 0)
        bounds.ranges[0].low = VD_SLICE_NULL;
    if (vd_rand_below(rand, 3) == 0)
        bounds.ranges[bounds.count - 1].high = VD_SLICE_NULL;
    bool backward = vd_rand_below(rand, 2) == 0, whole = vd_rand_below(rand, 8) == 0;
    stor_index_scan_options_t options = {.collection_id = collection_id,
                                         .index_id = index->id,
                                         .bounds = whole ? NULL : &bounds,
                                         .backward = backward};
    stor_index_scan_t *scan;
    stor_index_entry_t entry;
    stor_record_t record;
    vd_error_t err = VD_ERROR_INIT;
    stor_request_t *request = &reads->request;
    reads_ok(stor_index_scan_open(arena, &options, &scan, &err), &err);
    for (uint32_t n = 0; n < all.count; n++) {
        uint32_t i = backward ? all.count - 1 - n : n;
        bool wanted = whole;
        for (uint32_t r = 0; r < bounds.count; r++)
            wanted |= inside(&bounds.ranges[r], all.fields[i]);
        if (!wanted)
            continue;
        for (uint64_t again = vd_rand_below(rand, 8) == 0 ? 2 : 1; again > 0; again--) {
            reads_ok(stor_index_scan_next(scan, request, &entry, &err), &err);
            cr_assert(vd_slice_equal(entry.fields, all.fields[i]));
            cr_assert(vd_slice_equal(stor_index_scan_position(scan), all.keys[i]));
            reads_ok(stor_index_scan_fetch(scan, request, &record, &err), &err);
            cr_assert(vd_slice_equal(record.key, entry.id_key));
            if (again == 2)
                stor_index_scan_push_back(scan);
            if (vd_rand_below(rand, 4) == 0)
                stor_index_scan_release(scan);
        }
        if (vd_rand_below(rand, 40) == 0) { /* another scan goes on there */
            options.resume_after = vd_arena_copy_slice(arena, stor_index_scan_position(scan));
            stor_index_scan_close(&scan);
            reads_ok(stor_index_scan_open(arena, &options, &scan, &err), &err);
        }
    }
    cr_assert_eq(stor_index_scan_next(scan, request, &entry, &err), VD_ERR_NOT_FOUND);
    stor_index_scan_close(&scan);
}

Test(index_scan, agrees_with_a_walk, .timeout = 300)
{
    static const char *const indexes[] = {"{'key': {'a': 1}, 'name': 'x'}",
                                          "{'key': {'a': -1}, 'name': 'x'}",
                                          "{'key': {'b': 1}, 'name': 'x', 'unique': true}"};
    for (size_t i = 0; i < VD_COUNT_OF(indexes); i++) {
        vd_rand_t rand;
        reads_t *reads = filled(indexes[i]);
        vd_rand_seed(&rand, 99 + i);
        vd_arena_t *arena = vd_arena_create();
        for (int round = 0; round < 150; round++) {
            stor_collection_t *collection = index_hold(reads, "db", "c");
            stor_index_t *index = stor_index_by_name(collection, VD_SLICE_LIT("x"));
            cr_assert_not_null(index);
            compare_random(reads, arena, index, collection->id, &rand);
            stor_catalog_release_all(&reads->request);
            vd_arena_reset(arena);
        }
        vd_arena_destroy(&arena);
        reads_close(reads);
    }
}

Test(index_scan, seeks)
{
    reads_t *reads = filled("{'key': {'a': 1, 'b': 1}, 'name': 'x'}");
    stor_collection_t *collection = index_hold(reads, "db", "c");
    stor_index_t *index = stor_index_by_name(collection, VD_SLICE_LIT("x"));
    vd_arena_t *arena = vd_arena_create();
    walked_t all = walk_all(reads, arena, index);
    for (int backward = 0; backward < 2; backward++) {
        stor_index_scan_options_t options = {
            .collection_id = collection->id, .index_id = index->id, .backward = backward != 0};
        stor_index_scan_t *scan;
        stor_index_entry_t entry;
        vd_error_t err = VD_ERROR_INIT;
        reads_ok(stor_index_scan_open(arena, &options, &scan, &err), &err);
        for (uint32_t n = 10; n < all.count; n += 37) {
            uint32_t i = backward ? all.count - 1 - n : n;
            reads_ok(stor_index_scan_seek(scan, all.fields[i], &err), &err);
            if (n % 2 == 0)
                stor_index_scan_release(scan);
            reads_ok(stor_index_scan_next(scan, &reads->request, &entry, &err), &err);
            cr_assert(vd_slice_equal(entry.fields, all.fields[i]), "%u", n);
        }
        stor_index_scan_close(&scan);
    }
    stor_catalog_release_all(&reads->request);
    vd_arena_destroy(&arena);
    reads_close(reads);
}

/* Between two batches the index is dropped. */
Test(index_scan, ends_with_its_index)
{
    reads_t *reads = filled("{'key': {'a': 1}, 'name': 'x'}");
    stor_collection_t *collection = index_hold(reads, "db", "c");
    stor_index_t *index = stor_index_by_name(collection, VD_SLICE_LIT("x"));
    stor_index_scan_options_t options = {.collection_id = collection->id, .index_id = index->id};
    stor_index_scan_t *scan;
    stor_index_entry_t entry;
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    reads_ok(stor_index_scan_open(arena, &options, &scan, &err), &err);
    reads_ok(stor_index_scan_next(scan, &reads->request, &entry, &err), &err);
    stor_index_scan_release(scan);
    stor_catalog_release_all(&reads->request);
    OK(reads, "{'dropIndexes': 'c', 'index': 'x'}");
    (void)index_hold(reads, "db", "c");
    cr_assert_eq(stor_index_scan_next(scan, &reads->request, &entry, &err),
                 VD_ERR_QUERY_PLAN_KILLED);
    stor_index_scan_close(&scan);
    stor_catalog_release_all(&reads->request);
    vd_arena_destroy(&arena);
    reads_close(reads);
}

/* ---- TTL ---- */

static int64_t count_all(reads_t *reads)
{
    OK(reads, "{'count': 'c'}");
    return vd_value_int32(reads_at(reads, "n"));
}

static void expire(reads_t *reads)
{
    bool more = true;
    vd_error_t err = VD_ERROR_INIT;
    while (more)
        reads_ok(stor_ttl_pass(&reads->storage, reads->session, NULL, &more, &err), &err);
}

Test(ttl, deletes_what_has_expired, .timeout = 300)
{
    static const char *const indexes[] = {
        "{'key': {'d': 1}, 'name': 'd', 'expireAfterSeconds': 3600}",
        "{'key': {'d': -1}, 'name': 'd', 'expireAfterSeconds': 3600, 'hidden': true}"};
    for (size_t i = 0; i < VD_COUNT_OF(indexes); i++) {
        reads_t *reads = reads_open();
        long long now = (long long)vd_wall_ms(), old = now - 3700 * 1000, new = now - 3000 * 1000;
        OK(reads,
           vd_arena_printf(reads->texts, "{'createIndexes': 'c', 'indexes': [%s]}", indexes[i]));
#define DATE(ms) vd_arena_printf(reads->texts, "{'$date': {'$numberLong': '%lld'}}", (ms))
        OK(reads,
           vd_arena_printf(reads->texts,
                           "{'insert': 'c', 'documents': [{'_id': 1, 'd': %s}, {'_id': 2, 'd': "
                           "%s}, {'_id': 3, 'd': [%s, %s]}, {'_id': 4, 'd': [%s, 1]}, {'_id': 5, "
                           "'d': 5}, {'_id': 6}, {'_id': 7, 'd': 'x'}, {'_id': 8, 'd': {'$date': "
                           "{'$numberLong': '-5'}}}]}",
                           DATE(old), DATE(new), DATE(new), DATE(old), DATE(new)));
        for (int n = 0; n < 250; n++)
            OK(reads, vd_arena_printf(reads->texts, "{'insert': 'c', 'documents': [{'d': %s}]}",
                                      DATE(old)));
        expire(reads);
        cr_assert_eq(count_all(reads), 5);
        cr_assert_eq(atomic_load(&reads->storage.ttl.deleted), 253);
        cr_assert_geq(atomic_load(&reads->storage.ttl.passes), 1);
        OK(reads, "{'validate': 'c'}");
        reads_expect(reads, "validate", "{'valid': true}");
        OK(reads, "{'collMod': 'c', 'index': {'name': 'd', 'expireAfterSeconds': 60}}");
        reads_expect(reads, "collMod",
                     "{'expireAfterSeconds_old': 3600, 'expireAfterSeconds_new': 60}");
        expire(reads);
        cr_assert_eq(count_all(reads), 3);
        reads_crash(reads);
        OK(reads, "{'listIndexes': 'c'}");
        reads_expect(reads, "listIndexes", "{'cursor.firstBatch.1.expireAfterSeconds': 60}");
        reads_close(reads);
    }
}

Test(ttl, coll_mod_hides)
{
    reads_t *reads = reads_open();
    static const reads_step_t steps[] = {
        {"db",
         "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}, {'key': {'a': 1, "
         "'b': 1}, 'name': 'ab'}]}",
         NULL, 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'keyPattern': {'a': 1}, 'hidden': true}}",
         "{'hidden_old': false, 'hidden_new': true}", 0, NULL},
        {"db", "{'listIndexes': 'c'}", "{'cursor.firstBatch.1.hidden': true}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'hidden': true}}", "{'hidden_old': null}",
         0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'hidden': false}}",
         "{'hidden_old': true, 'hidden_new': false}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'ab', 'expireAfterSeconds': 1}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a', 'unique': true}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'aggregate': 'c', 'pipeline': [{'$indexStats': {}}], 'cursor': {}}",
         "{'cursor.firstBatch.1.name': 'a', 'cursor.firstBatch.1.accesses.ops': 0}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'a': 1}]}", NULL, 0, NULL},
        {"db", "{'dbStats': 1}", "{'indexes': 3}", 0, NULL},
        {"db", "{'drop': 'c'}", "{'nIndexesWas': 3}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}
