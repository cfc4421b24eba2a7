/* tests/unit/storaged/test_timeseries.c — time-series collections: places, stored measurements,
 * bounds by time, what is refused, and the same over a crash. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/plan/bounds.h"
#include "veddb-storaged/timeseries.h"
#include "veddb-storaged/ttl.h"

static void run(reads_t *reads, const char *command, int code, const char *expected)
{
    reads_step_t step = {"db", command, expected, code, NULL};
    reads_script(reads, &step, 1);
}

Test(timeseries, places_sort_as_times)
{
    static const struct {
        int64_t ms;
        uint32_t number;
    } cases[] = {{INT64_MIN, 0},
                 {INT64_MIN, 1},
                 {-1, UINT32_MAX},
                 {0, 0},
                 {0, 1},
                 {0, 256},
                 {0, UINT32_MAX},
                 {1, 0},
                 {1700000000000, 7},
                 {INT64_MAX, 0},
                 {INT64_MAX, UINT32_MAX}};
    uint8_t before[12] = {0}, place[12];
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_timeseries_place(cases[i].ms, cases[i].number, place);
        if (i > 0)
            cr_assert_lt(memcmp(before, place, 12), 0, "case %zu", i);
        memcpy(before, place, 12);
    }
}

Test(timeseries, stored_and_shown)
{
    static const struct {
        const char *document, *shown; /* shown NULL: refused */
    } cases[] = {
        {"{'_id': 1, 't': {'$date': '2024-01-01T00:00:00Z'}}",
         "{'t': {'$date': '2024-01-01T00:00:00Z'}, '_id': 1}"},
        {"{'_id': 1, 'v': null, 'm': null, 'w': null, 't': {'$date': '1900-01-01T00:00:00Z'}}",
         "{'t': {'$date': '1900-01-01T00:00:00Z'}, 'm': null, '_id': 1, 'v': null, 'w': null}"},
        {"{'_id': {'a': [1]}, 'm': {'x': {'t': 1}}, 't': {'$date': '2024-01-01T00:00:00Z'}}",
         "{'t': {'$date': '2024-01-01T00:00:00Z'}, 'm': {'x': {'t': 1}}, '_id': {'a': [1]}}"},
        {"{'_id': 1, 'm': 1}", NULL},
        {"{'_id': 1, 't': null}", NULL},
        {"{'_id': 1, 't': 1704067200000}", NULL},
        {"{'_id': 1, 't': '2024-01-01'}", NULL},
        {"{'_id': 1, 't': [{'$date': '2024-01-01T00:00:00Z'}]}", NULL},
    };
    stor_collection_timeseries_t series = {
        .is = true, .time = VD_SLICE_LIT("t"), .meta = VD_SLICE_LIT("m")};
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_bson_t document = query_json(arena, cases[i].document), stored, shown;
        vd_error_t err = VD_ERROR_INIT;
        int rc = stor_timeseries_stored(arena, &series, document, 5, &stored, &err);
        if (cases[i].shown == NULL) {
            cr_assert_eq(rc, VD_ERR_BAD_VALUE, "case %zu", i);
            cr_assert_str_eq(err.message,
                             "'t' must be present and contain a valid BSON UTC datetime value");
            continue;
        }
        reads_ok(rc, &err);
        reads_ok(stor_timeseries_shown(arena, stored, &shown, &err), &err);
        vd_bson_t wanted = query_json(arena, cases[i].shown);
        cr_assert(shown.len == wanted.len && memcmp(shown.data, wanted.data, wanted.len) == 0,
                  "case %zu: %s", i, vd_bson_to_json(arena, shown, 500));
        cr_assert_eq(stor_timeseries_shown(arena, shown, &stored, NULL), VD_ERR_CORRUPT);
    }
    vd_arena_destroy(&arena);
}

/* Filters, and which of the times 0, 10, 20, 30 (ms) lie in the bounds. */
Test(timeseries, bounds_by_time)
{
#define MS(n) "{'$date': {'$numberLong': '" #n "'}}"
    static const struct {
        const char *filter;
        bool some;          /* the filter says something about the time */
        const char *inside; /* one letter for each time */
    } cases[] = {
        {"{'v': 5}", false, "yyyy"},
        {"{'t': " MS(10) "}", true, "nynn"},
        {"{'t': {'$gte': " MS(10) "}}", true, "nyyy"},
        {"{'t': {'$gt': " MS(10) "}}", true, "nnyy"},
        {"{'t': {'$lte': " MS(20) "}}", true, "yyyn"},
        {"{'t': {'$lt': " MS(20) "}}", true, "yynn"},
        {"{'t': {'$gt': " MS(0) ", '$lt': " MS(30) "}}", true, "nyyn"},
        {"{'t': {'$gte': " MS(25) ", '$lt': " MS(5) "}}", true, "nnnn"},
        {"{'t': {'$in': [" MS(30) ", " MS(0) ", 7, 'x']}}", true, "ynny"},
        {"{'$and': [{'t': {'$gt': " MS(0) "}}, {'t': {'$lte': " MS(10) "}}, {'v': 1}]}", true,
         "nynn"},
        {"{'t': 5}", true, "nnnn"},
        {"{'t': {'$lt': 5}}", true, "nnnn"},
        {"{'t': {'$gt': {'$timestamp': {'t': 1, 'i': 1}}}}", true, "nnnn"},
        {"{'t': {'$ne': " MS(10) "}}", false, "yyyy"},
        {"{'t.x': " MS(10) "}", false, "yyyy"},
        {"{'_id': 5}", false, "yyyy"},
        {"{'t': null}", false, "yyyy"},
    };
    vd_arena_t *arena = vd_arena_create();
    stor_variables_t variables = {0};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_filter_t *filter;
        stor_bounds_t *bounds = NULL;
        vd_error_t err = VD_ERROR_INIT;
        reads_ok(
            stor_filter_parse(arena, query_json(arena, cases[i].filter), &variables, &filter, &err),
            &err);
        reads_ok(stor_bounds_of_times(arena, filter, VD_SLICE_LIT("t"), &bounds, &err), &err);
        cr_assert_eq(bounds != NULL, cases[i].some, "%s", cases[i].filter);
        for (int k = 0; bounds != NULL && k < 4; k++) {
            for (int number = 0; number < 2; number++) {
                uint8_t place[12];
                vd_slice_t key;
                bool inside = false;
                stor_timeseries_place(k * 10, number == 0 ? 0 : UINT32_MAX, place);
                reads_ok(stor_id_key(arena, (vd_value_t){place, 12, VD_BSON_OBJECTID}, &key, &err),
                         &err);
                for (uint32_t r = 0; r < bounds->count; r++) {
                    const stor_range_t *range = &bounds->ranges[r];
                    int low = vd_slice_compare(key, range->low);
                    int high = range->high.len == 0 ? -1 : vd_slice_compare(key, range->high);
                    inside |= (low > 0 || (low == 0 && !range->low_exclusive)) &&
                              (high < 0 || (high == 0 && !range->high_exclusive));
                }
                cr_assert_eq(inside, cases[i].inside[k] == 'y', "%s at %d", cases[i].filter, k);
            }
        }
    }
    vd_arena_destroy(&arena);
}

Test(timeseries, kept_over_a_crash)
{
    static const char *const order = "{'cursor.firstBatch': [{'v': 0}, {'v': 1}, {'v': 2}]}";
    reads_t *reads = reads_open();
    run(reads, "{'create': 'c', 'timeseries': {'timeField': 't', 'metaField': 'm'}}", VD_OK, NULL);
    run(reads,
        "{'insert': 'c', 'documents': [{'_id': 7, 't': " MS(
            20) ", 'm': 1, 'v': 2}, {'_id': 7, "
                "'t': " MS(10) ", 'm': 1, 'v': 1}, {'_id': 7, 't': " MS(0) ", 'm': 2, 'v': 0}]}",
        VD_OK, "{'n': 3}");
    for (int i = 0; i < 2; i++) {
        run(reads, "{'find': 'c', 'projection': {'_id': 0, 'v': 1}}", VD_OK, order);
        run(reads,
            "{'find': 'c', 'filter': {'_id': 7, 'm': 1}, 'sort': {'t': -1}, 'projection': "
            "{'_id': 1, 'v': 1}}",
            VD_OK, "{'cursor.firstBatch': [{'_id': 7, 'v': 2}, {'_id': 7, 'v': 1}]}");
        run(reads, "{'count': 'c', 'query': {'t': {'$gt': " MS(5) "}}}", VD_OK, "{'n': 2}");
        run(reads, "{'validate': 'c', 'full': true}", VD_OK, "{'valid': true, 'nrecords': 3}");
        run(reads, "{'listIndexes': 'c'}", VD_OK,
            "{'cursor.firstBatch': [{'v': 2, 'key': {'m': 1, 't': 1}, 'name': 'm_1_t_1'}]}");
        if (i == 0)
            reads_crash(reads);
    }
    run(reads, "{'delete': 'c', 'deletes': [{'q': {'_id': 7, 'v': 1}, 'limit': 0}]}", VD_OK,
        "{'n': 1}");
    run(reads,
        "{'update': 'c', 'updates': [{'q': {'m': 1}, 'u': {'$set': {'m': 5}}, 'multi': "
        "true}]}",
        VD_OK, "{'n': 1, 'nModified': 1}");
    run(reads, "{'find': 'c', 'hint': 'm_1_t_1', 'projection': {'_id': 0, 'm': 1, 'v': 1}}", VD_OK,
        "{'cursor.firstBatch': [{'m': 2, 'v': 0}, {'m': 5, 'v': 2}]}");
    run(reads, "{'validate': 'c', 'full': true}", VD_OK, "{'valid': true, 'nrecords': 2}");
    run(reads, "{'drop': 'c'}", VD_OK, "{'nIndexesWas': 1}");
    reads_close(reads);
}

Test(timeseries, many_of_one_millisecond_after_a_restart)
{
    reads_t *reads = reads_open();
    run(reads, "{'create': 'c', 'timeseries': {'timeField': 't'}}", VD_OK, NULL);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 20; k++)
            run(reads, "{'insert': 'c', 'documents': [{'t': " MS(5) "}, {'t': " MS(5) "}]}", VD_OK,
                "{'n': 2}");
        if (i == 0)
            reads_crash(reads);
    }
    /* The next numbers are taken already: on from somewhere else. */
    stor_collection_t *collection = stor_catalog_next(reads->storage.catalog, 0);
    atomic_fetch_sub(&collection->timeseries.next, 30);
    run(reads, "{'insert': 'c', 'documents': [{'t': " MS(5) "}, {'t': " MS(5) "}]}", VD_OK,
        "{'n': 2}");
    stor_catalog_unreference(&collection);
    run(reads, "{'count': 'c'}", VD_OK, "{'n': 82}");
    run(reads, "{'validate': 'c'}", VD_OK, "{'valid': true, 'nrecords': 82}");
    reads_close(reads);
}

Test(timeseries, expires_by_time)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    bool more = true;
    run(reads, "{'create': 'c', 'timeseries': {'timeField': 't'}, 'expireAfterSeconds': 10}", VD_OK,
        NULL);
    for (int k = 0; k < 100; k++)
        run(reads, "{'insert': 'c', 'documents': [{'t': " MS(-5) "}, {'t': " MS(1000) "}]}", VD_OK,
            "{'n': 2}");
    run(reads, "{'insert': 'c', 'documents': [{'t': " MS(99999999999999) ", 'v': 1}]}", VD_OK,
        "{'n': 1}");
    while (more)
        reads_ok(stor_ttl_pass(&reads->storage, reads->session, NULL, &more, &err), &err);
    run(reads, "{'find': 'c', 'projection': {'_id': 0, 'v': 1}}", VD_OK,
        "{'cursor.firstBatch': [{'v': 1}]}");
    run(reads, "{'collMod': 'c', 'expireAfterSeconds': 'off'}", VD_OK, NULL);
    run(reads, "{'insert': 'c', 'documents': [{'t': " MS(1) "}]}", VD_OK, "{'n': 1}");
    reads_ok(stor_ttl_pass(&reads->storage, reads->session, NULL, &more, &err), &err);
    run(reads, "{'count': 'c'}", VD_OK, "{'n': 2}");
    reads_close(reads);
}
