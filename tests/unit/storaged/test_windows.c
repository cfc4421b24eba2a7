/* tests/unit/storaged/test_windows.c — $setWindowFields, $fill, $densify, $bucketAuto: results and
 * refusals by tables, and windows against a model, in memory and on disk. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/pipeline_bench.h"

#include <math.h>

typedef struct {
    const char *documents, *stages, *expected;
} run_t;

typedef struct {
    const char *documents, *stages;
    int code;
} refusal_t;

static void check_run(const run_t *run, size_t budget)
{
    spill_t *spill = spill_open(budget, 0);
    vd_arena_t *arena = vd_arena_create();
    bench_t bench;
    vd_bson_t document;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_iter_t iter;
    int rc;
    bench_open(&bench, spill,
               query_value(arena, vd_arena_printf(arena, "[{'$documents': [%s]}, %s]",
                                                  run->documents, run->stages)),
               false);
    vd_bson_iter_init(&iter, vd_value_document(query_value(arena, run->expected)));
    while ((rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err)) == VD_OK) {
        cr_assert(vd_bson_iter_next(&iter), "%s: more than expected: %s", run->stages,
                  vd_bson_to_json(arena, document, 500));
        cr_assert(vd_value_identical(vd_value_from_document(document), iter.value),
                  "%s: %s, not %s", run->stages, vd_bson_to_json(arena, document, 500),
                  vd_value_to_json(arena, iter.value, 500));
        stor_pipeline_release(bench.pipeline);
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s: %d %s", run->stages, -rc, err.message);
    cr_assert_not(vd_bson_iter_next(&iter), "%s: fewer than expected", run->stages);
    rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err);
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s: the end stays the end", run->stages);
    bench_close(&bench);
    vd_arena_destroy(&arena);
    spill_close(spill);
}

static void check_refusal(const refusal_t *refusal)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t document;
    bench_t bench;
    const char *stages =
        vd_arena_printf(arena, "[{'$documents': [%s]}, %s]",
                        refusal->documents == NULL ? "" : refusal->documents, refusal->stages);
    int rc = bench_refused(stages, &err);
    if (refusal->documents != NULL) { /* while it runs */
        cr_assert_eq(rc, VD_OK, "%s: %s", stages, err.message);
        bench_open(&bench, NULL, query_value(arena, stages), false);
        while ((rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err)) == VD_OK)
            ;
        bench_close(&bench);
    }
    cr_assert_eq(rc, refusal->code, "%s: %d %s", stages, -rc, err.message);
    vd_arena_destroy(&arena);
}

#define SALES                                                                                      \
    "{'_id': 1, 'p': 'a', 't': 1, 'x': 10}, {'_id': 2, 'p': 'b', 't': 1, 'x': 5}, {'_id': 3, "     \
    "'p': 'a', 't': 3, 'x': 30}, {'_id': 4, 'p': 'a', 't': 2, 'x': 20}, {'_id': 5, 'p': 'b', "     \
    "'t': 4, 'x': 7}"
#define WINDOW(output)                                                                             \
    "{'$setWindowFields': {'partitionBy': '$p', 'sortBy': {'t': 1}, 'output': {'r': " output "}}}" \
    ", {'$project': {'r': 1}}"
#define ONE(output)                                                                                \
    "{'$setWindowFields': {'sortBy': {'t': 1}, 'output': {'r': " output "}}}, {'$project': {'r': " \
    "1}}"
#define DATE(n) "{'$date': {'$numberLong': '" n "'}}"
#define LONG(n) "{'$numberLong': '" n "'}"

static const run_t window_runs[] = {
    {SALES, WINDOW("{'$sum': '$x', 'window': {'documents': ['unbounded', 'current']}}"),
     "[{'_id': 1, 'r': 10}, {'_id': 4, 'r': 30}, {'_id': 3, 'r': 60}, {'_id': 2, 'r': 5}, {'_id': "
     "5, 'r': 12}]"},
    {SALES, WINDOW("{'$sum': '$x'}"),
     "[{'_id': 1, 'r': 60}, {'_id': 4, 'r': 60}, {'_id': 3, 'r': 60}, {'_id': 2, 'r': 12}, {'_id': "
     "5, 'r': 12}]"},
    {SALES, WINDOW("{'$avg': '$x', 'window': {'documents': [-1, 1]}}"),
     "[{'_id': 1, 'r': 15.0}, {'_id': 4, 'r': 20.0}, {'_id': 3, 'r': 25.0}, {'_id': 2, 'r': 6.0}, "
     "{'_id': 5, 'r': 6.0}]"},
    {SALES, WINDOW("{'$push': '$x', 'window': {'documents': [1, 2]}}"),
     "[{'_id': 1, 'r': [20, 30]}, {'_id': 4, 'r': [30]}, {'_id': 3, 'r': []}, {'_id': 2, 'r': "
     "[7]}, {'_id': 5, 'r': []}]"},
    {SALES, WINDOW("{'$min': '$x', 'window': {'documents': [-2, -1]}}"),
     "[{'_id': 1, 'r': null}, {'_id': 4, 'r': 10}, {'_id': 3, 'r': 10}, {'_id': 2, 'r': null}, "
     "{'_id': 5, 'r': 5}]"},
    {SALES, WINDOW("{'$max': '$x', 'window': {'documents': [-1, 'current']}}"),
     "[{'_id': 1, 'r': 10}, {'_id': 4, 'r': 20}, {'_id': 3, 'r': 30}, {'_id': 2, 'r': 5}, {'_id': "
     "5, 'r': 7}]"},
    {SALES, WINDOW("{'$count': {}, 'window': {'range': [-1, 1]}}"),
     "[{'_id': 1, 'r': 2}, {'_id': 4, 'r': 3}, {'_id': 3, 'r': 2}, {'_id': 2, 'r': 1}, {'_id': 5, "
     "'r': 1}]"},
    {SALES, WINDOW("{'$sum': '$x', 'window': {'range': ['unbounded', -1]}}"),
     "[{'_id': 1, 'r': 0}, {'_id': 4, 'r': 10}, {'_id': 3, 'r': 30}, {'_id': 2, 'r': 0}, {'_id': "
     "5, 'r': 5}]"},
    {SALES, WINDOW("{'$first': '$x', 'window': {'documents': [-1, 1]}}"),
     "[{'_id': 1, 'r': 10}, {'_id': 4, 'r': 10}, {'_id': 3, 'r': 20}, {'_id': 2, 'r': 5}, {'_id': "
     "5, 'r': 5}]"},
    {SALES, WINDOW("{'$last': '$x'}"),
     "[{'_id': 1, 'r': 30}, {'_id': 4, 'r': 30}, {'_id': 3, 'r': 30}, {'_id': 2, 'r': 7}, {'_id': "
     "5, 'r': 7}]"},
    {SALES, WINDOW("{'$shift': {'output': '$x', 'by': 1, 'default': 'end'}}"),
     "[{'_id': 1, 'r': 20}, {'_id': 4, 'r': 30}, {'_id': 3, 'r': 'end'}, {'_id': 2, 'r': 7}, "
     "{'_id': 5, 'r': 'end'}]"},
    {SALES, WINDOW("{'$shift': {'output': '$x', 'by': -1}}"),
     "[{'_id': 1, 'r': null}, {'_id': 4, 'r': 10}, {'_id': 3, 'r': 20}, {'_id': 2, 'r': null}, "
     "{'_id': 5, 'r': 5}]"},
    {SALES, WINDOW("{'$documentNumber': {}}"),
     "[{'_id': 1, 'r': 1}, {'_id': 4, 'r': 2}, {'_id': 3, 'r': 3}, {'_id': 2, 'r': 1}, {'_id': 5, "
     "'r': 2}]"},
    {"{'_id': 1, 't': 1}, {'_id': 2, 't': 1}, {'_id': 3, 't': 2}, {'_id': 4}, {'_id': 5, 't': "
     "null}",
     ONE("{'$rank': {}}"),
     "[{'_id': 4, 'r': 1}, {'_id': 5, 'r': 1}, {'_id': 1, 'r': 3}, {'_id': 2, 'r': 3}, {'_id': 3, "
     "'r': 5}]"},
    {"{'_id': 1, 't': 1}, {'_id': 2, 't': 1.0}, {'_id': 3, 't': 2}, {'_id': 4}",
     ONE("{'$denseRank': {}}"),
     "[{'_id': 4, 'r': 1}, {'_id': 1, 'r': 2}, {'_id': 2, 'r': 2}, {'_id': 3, 'r': 3}]"},
    {SALES,
     WINDOW("{'$topN': {'n': 2, 'sortBy': {'x': -1}, 'output': '$x'}, 'window': "
            "{'documents': ['unbounded', 'current']}}"),
     "[{'_id': 1, 'r': [10]}, {'_id': 4, 'r': [20, 10]}, {'_id': 3, 'r': [30, 20]}, {'_id': 2, "
     "'r': [5]}, {'_id': 5, 'r': [7, 5]}]"},
    {SALES, WINDOW("{'$bottom': {'sortBy': {'x': -1}, 'output': '$_id'}}"),
     "[{'_id': 1, 'r': 1}, {'_id': 4, 'r': 1}, {'_id': 3, 'r': 1}, {'_id': 2, 'r': 2}, {'_id': 5, "
     "'r': 2}]"},
    {SALES, WINDOW("{'$minN': {'n': 2, 'input': '$x'}, 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': [10]}, {'_id': 4, 'r': [10, 20]}, {'_id': 3, 'r': [20, 30]}, {'_id': 2, "
     "'r': [5]}, {'_id': 5, 'r': [5, 7]}]"},
    {SALES, WINDOW("{'$lastN': {'n': 2, 'input': '$x'}}"),
     "[{'_id': 1, 'r': [20, 30]}, {'_id': 4, 'r': [20, 30]}, {'_id': 3, 'r': [20, 30]}, {'_id': 2, "
     "'r': [5, 7]}, {'_id': 5, 'r': [5, 7]}]"},
    {SALES, WINDOW("{'$addToSet': '$p', 'window': {'documents': [-1, 1]}}"),
     "[{'_id': 1, 'r': ['a']}, {'_id': 4, 'r': ['a']}, {'_id': 3, 'r': ['a']}, {'_id': 2, 'r': "
     "['b']}, {'_id': 5, 'r': ['b']}]"},
    {SALES,
     WINDOW("{'$median': {'input': '$x', 'method': 'approximate'}, 'window': {'documents': "
            "['unbounded', 'current']}}"),
     "[{'_id': 1, 'r': 10.0}, {'_id': 4, 'r': 10.0}, {'_id': 3, 'r': 20.0}, {'_id': 2, 'r': 5.0}, "
     "{'_id': 5, 'r': 5.0}]"},
    {SALES, WINDOW("{'$percentile': {'input': '$x', 'p': [0.5, 1], 'method': 'approximate'}}"),
     "[{'_id': 1, 'r': [20.0, 30.0]}, {'_id': 4, 'r': [20.0, 30.0]}, {'_id': 3, 'r': [20.0, "
     "30.0]}, {'_id': 2, 'r': [5.0, 7.0]}, {'_id': 5, 'r': [5.0, 7.0]}]"},
    {SALES, WINDOW("{'$stdDevPop': '$x', 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': 0.0}, {'_id': 4, 'r': 5.0}, {'_id': 3, 'r': 5.0}, {'_id': 2, 'r': 0.0}, "
     "{'_id': 5, 'r': 1.0}]"},
    {SALES, WINDOW("{'$stdDevSamp': '$x', 'window': {'documents': [0, 0]}}"),
     "[{'_id': 1, 'r': null}, {'_id': 4, 'r': null}, {'_id': 3, 'r': null}, {'_id': 2, 'r': null}, "
     "{'_id': 5, 'r': null}]"},
    {SALES,
     WINDOW("{'$covariancePop': ['$t', '$x'], 'window': {'documents': ['unbounded', "
            "'current']}}"),
     "[{'_id': 1, 'r': 0.0}, {'_id': 4, 'r': 2.5}, {'_id': 3, 'r': 6.666666666666667}, {'_id': 2, "
     "'r': 0.0}, {'_id': 5, 'r': 1.5}]"},
    {SALES, WINDOW("{'$covarianceSamp': ['$t', '$x'], 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': null}, {'_id': 4, 'r': 5.0}, {'_id': 3, 'r': 5.0}, {'_id': 2, 'r': null}, "
     "{'_id': 5, 'r': 3.0}]"},
    {SALES,
     WINDOW("{'$integral': {'input': '$x'}, 'window': {'documents': ['unbounded', "
            "'current']}}"),
     "[{'_id': 1, 'r': 0}, {'_id': 4, 'r': 15.0}, {'_id': 3, 'r': 40.0}, {'_id': 2, 'r': 0}, "
     "{'_id': 5, 'r': 18.0}]"},
    {SALES, WINDOW("{'$integral': {'input': '$x'}, 'window': {'documents': [-1, 'current']}}"),
     "[{'_id': 1, 'r': 0}, {'_id': 4, 'r': 15.0}, {'_id': 3, 'r': 25.0}, {'_id': 2, 'r': 0}, "
     "{'_id': 5, 'r': 18.0}]"},
    {SALES, WINDOW("{'$derivative': {'input': '$x'}, 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': null}, {'_id': 4, 'r': 10.0}, {'_id': 3, 'r': 10.0}, {'_id': 2, 'r': null}, "
     "{'_id': 5, 'r': 0.6666666666666666}]"},
    {"{'_id': 1, 't': " DATE("0") ", 'x': 1}, {'_id': 2, 't': " DATE("3600000") ", 'x': 3}",
     ONE("{'$derivative': {'input': '$x', 'unit': 'hour'}, 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': null}, {'_id': 2, 'r': 1.9999999999999998}]"},
    {"{'_id': 1, 't': " DATE("0") ", 'x': 1}, {'_id': 2, 't': " DATE("3600000") ", 'x': 3}",
     ONE("{'$integral': {'input': '$x', 'unit': 'hour'}}"),
     "[{'_id': 1, 'r': 2.0}, {'_id': 2, 'r': 2.0}]"},
    {SALES, WINDOW("{'$expMovingAvg': {'input': '$x', 'alpha': 0.5}}"),
     "[{'_id': 1, 'r': 10.0}, {'_id': 4, 'r': 15.0}, {'_id': 3, 'r': 22.5}, {'_id': 2, 'r': 5.0}, "
     "{'_id': 5, 'r': 6.0}]"},
    {SALES, WINDOW("{'$expMovingAvg': {'input': '$x', 'N': 3}}"),
     "[{'_id': 1, 'r': 10.0}, {'_id': 4, 'r': 15.0}, {'_id': 3, 'r': 22.5}, {'_id': 2, 'r': 5.0}, "
     "{'_id': 5, 'r': 6.0}]"},
    {"{'_id': 1, 't': 1}, {'_id': 2, 't': 2, 'x': 2}, {'_id': 3, 't': 3, 'x': null}, {'_id': 4, "
     "'t': 4}, {'_id': 5, 't': 5, 'x': 8}, {'_id': 6, 't': 6}",
     ONE("{'$linearFill': '$x'}"),
     "[{'_id': 1, 'r': null}, {'_id': 2, 'r': 2}, {'_id': 3, 'r': 4.0}, {'_id': 4, 'r': 6.0}, "
     "{'_id': 5, 'r': 8}, {'_id': 6, 'r': null}]"},
    {"{'_id': 1, 't': 1}, {'_id': 2, 't': 2, 'x': 'u'}, {'_id': 3, 't': 3, 'x': null}, {'_id': 4, "
     "'t': 4}, {'_id': 5, 't': 5, 'x': 8}",
     ONE("{'$locf': '$x'}"),
     "[{'_id': 1, 'r': null}, {'_id': 2, 'r': 'u'}, {'_id': 3, 'r': 'u'}, {'_id': 4, 'r': 'u'}, "
     "{'_id': 5, 'r': 8}]"},
    {"{'_id': 1, 't': " DATE("0") "}, {'_id': 2, 't': " DATE("86400000") "}, {'_id': 3, 't': " DATE(
         "2678400000") "}",
     ONE("{'$count': {}, 'window': {'range': [-1, 0], 'unit': 'month'}}"),
     "[{'_id': 1, 'r': 1}, {'_id': 2, 'r': 2}, {'_id': 3, 'r': 3}]"},
    /* what a window that has moved on holds is of the types that are in it */
    {"{'_id': 1, 't': 1, 'x': 1.5}, {'_id': 2, 't': 2, 'x': 1}, {'_id': 3, 't': 3, 'x': " LONG(
         "2") "}, {'_id': 4, 't': 4, 'x': 'no'}, {'_id': 5, 't': 5, 'x': 4}",
     ONE("{'$sum': '$x', 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': 1.5}, {'_id': 2, 'r': 2.5}, {'_id': 3, 'r': " LONG(
         "3") "}, {'_id': 4, 'r': " LONG("2") "}, {'_id': 5, 'r': 4}]"},
    {"{'_id': 1, 't': 1, 'x': {'$numberDouble': 'Infinity'}}, {'_id': 2, 't': 2, 'x': 1}, {'_id': "
     "3, 't': 3, 'x': 2}",
     ONE("{'$sum': '$x', 'window': {'documents': [-1, 0]}}"),
     "[{'_id': 1, 'r': {'$numberDouble': 'Infinity'}}, {'_id': 2, 'r': {'$numberDouble': "
     "'Infinity'}}, {'_id': 3, 'r': 3}]"},
    /* no order, no partition: as they come; several outputs, nested */
    {"{'_id': 2, 'x': 1}, {'_id': 1, 'x': 2, 'o': {'k': 1}}",
     "{'$setWindowFields': {'output': {'o.s': {'$sum': '$x'}, 'n': {'$count': {}}}}}",
     "[{'_id': 2, 'x': 1, 'o': {'s': 3}, 'n': 2}, {'_id': 1, 'x': 2, 'o': {'k': 1, 's': 3}, 'n': "
     "2}]"},
    {SALES,
     "{'$setWindowFields': {'partitionBy': {'$gt': ['$x', 8]}, 'sortBy': {'_id': -1}, "
     "'output': {'r': {'$sum': '$x', 'window': {'documents': ['unbounded', 'current']}}}}}, "
     "{'$project': {'r': 1}}",
     "[{'_id': 5, 'r': 7}, {'_id': 2, 'r': 12}, {'_id': 4, 'r': 20}, {'_id': 3, 'r': 50}, {'_id': "
     "1, 'r': 60}]"},
    {"{'_id': 1, 'p': null}, {'_id': 2}, {'_id': 3, 'p': 1}",
     "{'$setWindowFields': {'partitionBy': '$p', 'output': {'n': {'$count': {}}}}}",
     "[{'_id': 1, 'p': null, 'n': 2}, {'_id': 2, 'n': 2}, {'_id': 3, 'p': 1, 'n': 1}]"},
    {"", "{'$setWindowFields': {'sortBy': {'t': 1}, 'output': {'n': {'$count': {}}}}}", "[]"},
};

static const run_t fill_runs[] = {
    {"{'_id': 1, 't': 1, 'x': 1}, {'_id': 2, 't': 2}, {'_id': 3, 't': 3, 'x': 3}, {'_id': 4, 't': "
     "4, 'x': null}",
     "{'$fill': {'sortBy': {'t': 1}, 'output': {'x': {'method': 'linear'}}}}",
     "[{'_id': 1, 't': 1, 'x': 1}, {'_id': 2, 't': 2, 'x': 2.0}, {'_id': 3, 't': 3, 'x': 3}, "
     "{'_id': 4, 't': 4, 'x': null}]"},
    {"{'_id': 1, 'p': 1, 't': 2}, {'_id': 2, 'p': 1, 't': 1, 'x': 'a'}, {'_id': 3, 'p': 2, 't': 3}",
     "{'$fill': {'partitionByFields': ['p'], 'sortBy': {'t': 1}, 'output': {'x': {'method': "
     "'locf'}, 'y': {'value': {'$add': ['$t', 1]}}}}}",
     "[{'_id': 2, 'p': 1, 't': 1, 'x': 'a', 'y': 2}, {'_id': 1, 'p': 1, 't': 2, 'x': 'a', 'y': 3}, "
     "{'_id': 3, 'p': 2, 't': 3, 'x': null, 'y': 4}]"},
    {"{'_id': 1}, {'_id': 2, 'x': 5}", "{'$fill': {'output': {'x': {'value': 0}}}}",
     "[{'_id': 1, 'x': 0}, {'_id': 2, 'x': 5}]"},
};

static const run_t densify_runs[] = {
    {"{'t': 1}, {'t': 4}, {'t': 4.5}, {'t': 6}",
     "{'$densify': {'field': 't', 'range': {'step': 1, 'bounds': 'full'}}}",
     "[{'t': 1}, {'t': 2}, {'t': 3}, {'t': 4}, {'t': 4.5}, {'t': 5}, {'t': 6}]"},
    {"{'t': 2}, {'t': null}, {'a': 1}, {'t': 9}",
     "{'$densify': {'field': 't', 'range': {'step': 2, 'bounds': [0, 7]}}}",
     "[{'a': 1}, {'t': null}, {'t': 0}, {'t': 2}, {'t': 4}, {'t': 6}, {'t': 9}]"},
    {"", "{'$densify': {'field': 't', 'range': {'step': 2, 'bounds': [0, 5]}}}",
     "[{'t': 0}, {'t': 2}, {'t': 4}]"},
    {"{'p': 'a', 't': 1}, {'p': 'b', 't': 2}, {'p': 'a', 't': 3}, {'p': 'b', 't': 4}",
     "{'$densify': {'field': 't', 'partitionByFields': ['p'], 'range': {'step': 1, 'bounds': "
     "'partition'}}}",
     "[{'p': 'a', 't': 1}, {'p': 'a', 't': 2}, {'p': 'a', 't': 3}, {'p': 'b', 't': 2}, {'p': 'b', "
     "'t': 3}, {'p': 'b', 't': 4}]"},
    {"{'p': 'a', 't': 1}, {'p': 'b', 't': 2}, {'p': 'a', 't': 3}",
     "{'$densify': {'field': 't', 'partitionByFields': ['p'], 'range': {'step': 1, 'bounds': "
     "'full'}}}",
     "[{'p': 'a', 't': 1}, {'p': 'a', 't': 2}, {'p': 'a', 't': 3}, {'p': 'b', 't': 1}, {'p': 'b', "
     "'t': 2}, {'p': 'b', 't': 3}]"},
    {"{'p': {'q': 1}, 't': {'u': 1}}",
     "{'$densify': {'field': 't.u', 'partitionByFields': ['p.q'], 'range': {'step': 1, 'bounds': "
     "[0, 3]}}}",
     "[{'p': {'q': 1}, 't': {'u': 0}}, {'p': {'q': 1}, 't': {'u': 1}}, {'p': {'q': 1}, 't': {'u': "
     "2}}]"},
    {"{'t': " DATE("0") "}, {'t': " DATE("7200000") "}",
     "{'$densify': {'field': 't', 'range': {'step': 1, 'unit': 'hour', 'bounds': 'full'}}}",
     "[{'t': " DATE("0") "}, {'t': " DATE("3600000") "}, {'t': " DATE("7200000") "}]"},
    /* months are of different lengths */
    {"{'t': " DATE("0") "}, {'t': " DATE("5097600000") "}",
     "{'$densify': {'field': 't', 'range': {'step': 1, 'unit': 'month', 'bounds': 'full'}}}",
     "[{'t': " DATE("0") "}, {'t': " DATE("2678400000") "}, {'t': " DATE("5097600000") "}]"},
};

static const run_t bucket_runs[] = {
    {"{'x': 4}, {'x': 1}, {'x': 3}, {'x': 2}, {'x': 5}",
     "{'$bucketAuto': {'groupBy': '$x', 'buckets': 2}}",
     "[{'_id': {'min': 1, 'max': 4}, 'count': 3}, {'_id': {'min': 4, 'max': 5}, 'count': 2}]"},
    {"{'x': 1}, {'x': 1}, {'x': 1}, {'x': 2}",
     "{'$bucketAuto': {'groupBy': '$x', 'buckets': 4, 'output': {'n': {'$sum': 1}, 'v': {'$push': "
     "'$x'}}}}",
     "[{'_id': {'min': 1, 'max': 2}, 'n': 3, 'v': [1, 1, 1]}, {'_id': {'min': 2, 'max': 2}, 'n': "
     "1, 'v': [2]}]"},
    {"{'x': 1}, {}, {'x': 'a'}", "{'$bucketAuto': {'groupBy': '$x', 'buckets': 3}}",
     "[{'_id': {'min': null, 'max': 1}, 'count': 1}, {'_id': {'min': 1, 'max': 'a'}, 'count': 1}, "
     "{'_id': {'min': 'a', 'max': 'a'}, 'count': 1}]"},
    {"", "{'$bucketAuto': {'groupBy': '$x', 'buckets': 3}}", "[]"},
    {"{'x': 7}, {'x': 18}, {'x': 30}, {'x': 65}",
     "{'$bucketAuto': {'groupBy': '$x', 'buckets': 2, 'granularity': 'R5'}}",
     "[{'_id': {'min': 6.300000000000001, 'max': 25.0}, 'count': 2}, {'_id': {'min': 25.0, 'max': "
     "100.0}, "
     "'count': 2}]"},
    {"{'x': 0}, {'x': 0}, {'x': 5}, {'x': 9}",
     "{'$bucketAuto': {'groupBy': '$x', 'buckets': 2, 'granularity': 'POWERSOF2'}}",
     "[{'_id': {'min': 0, 'max': 4}, 'count': 2}, {'_id': {'min': 4, 'max': 16}, 'count': 2}]"},
    {"{'x': 0.8}, {'x': 11}, {'x': 99}",
     "{'$bucketAuto': {'groupBy': '$x', 'buckets': 3, 'granularity': 'E6'}}",
     "[{'_id': {'min': 0.68, 'max': 1.0}, 'count': 1}, {'_id': {'min': 1.0, 'max': "
     "15.0}, 'count': 1}, {'_id': {'min': 15.0, 'max': 100.0}, 'count': 1}]"},
};

static void check_runs(const run_t *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check_run(&runs[i], 1 << 20);
        check_run(&runs[i], 4096); /* everything goes to disk */
    }
}

Test(windows, set_window_fields)
{
    check_runs(window_runs, VD_COUNT_OF(window_runs));
}

Test(windows, fill)
{
    check_runs(fill_runs, VD_COUNT_OF(fill_runs));
}

Test(windows, densify)
{
    check_runs(densify_runs, VD_COUNT_OF(densify_runs));
}

Test(windows, bucket_auto)
{
    check_runs(bucket_runs, VD_COUNT_OF(bucket_runs));
}

/* ---- refusals ---- */

#define OUT(output) "{'$setWindowFields': {'sortBy': {'t': 1}, 'output': {'r': " output "}}}"

static const refusal_t refusals[] = {
    {NULL, "{'$setWindowFields': 1}", VD_ERR_FAILED_TO_PARSE},
    {NULL, "{'$setWindowFields': {}}", VD_ERR_LOCATION(40414)},
    {NULL, "{'$setWindowFields': {'output': {}, 'x': 1}}", VD_ERR_LOCATION(40415)},
    {NULL, "{'$setWindowFields': {'output': 1}}", VD_ERR_TYPE_MISMATCH},
    {NULL, "{'$setWindowFields': {'output': {}, 'sortBy': 1}}", VD_ERR_TYPE_MISMATCH},
    {NULL, "{'$setWindowFields': {'output': {}, 'partitionBy': [1]}}", VD_ERR_TYPE_MISMATCH},
    {NULL, "{'$setWindowFields': {'output': {'a': {'$count': {}}, 'a.b': {'$count': {}}}}}",
     VD_ERR_LOCATION(6307900)},
    {NULL, OUT("1"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'sum': 1}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$summ': 1}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, '$avg': 1}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'x': 1}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$mergeObjects': '$x'}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': 1}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'x': 1}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': [1]}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': [1.5, 2]}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': ['all', 2]}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': ['$x', 2]}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': [1, 2], 'range': [1, 2]}}"),
     VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': [1, 2], 'unit': 'day'}}"),
     VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'range': [1, 2], 'unit': 'eon'}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'range': [0.5, 2], 'unit': 'day'}}"),
     VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'range': ['x', 2]}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$sum': 1, 'window': {'documents': [2, 1]}}"), VD_ERR_LOCATION(5339900)},
    {NULL, OUT("{'$sum': 1, 'window': {'range': ['current', -1]}}"), VD_ERR_LOCATION(5339900)},
    {NULL, "{'$setWindowFields': {'output': {'r': {'$sum': 1, 'window': {'documents': [0, 1]}}}}}",
     VD_ERR_LOCATION(5339901)},
    {NULL, "{'$setWindowFields': {'output': {'r': {'$sum': 1, 'window': {'range': [0, 1]}}}}}",
     VD_ERR_LOCATION(5339902)},
    {NULL,
     "{'$setWindowFields': {'sortBy': {'t': -1}, 'output': {'r': {'$sum': 1, 'window': {'range': "
     "[0, 1]}}}}}",
     VD_ERR_LOCATION(5339902)},
    {NULL, OUT("{'$rank': 1}"), VD_ERR_LOCATION(5371603)},
    {NULL, OUT("{'$rank': {}, 'window': {}}"), VD_ERR_LOCATION(5371601)},
    {NULL, "{'$setWindowFields': {'output': {'r': {'$rank': {}}}}}", VD_ERR_LOCATION(5371602)},
    {NULL, OUT("{'$shift': {'output': 1}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$shift': {'output': 1, 'by': 1.5}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$shift': {'output': 1, 'by': 1, 'default': '$x'}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, "{'$setWindowFields': {'output': {'r': {'$shift': {'output': 1, 'by': 1}}}}}",
     VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$expMovingAvg': {'input': '$x', 'N': 0}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$expMovingAvg': {'input': '$x', 'alpha': 1}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$expMovingAvg': {'input': '$x'}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$derivative': {'input': '$x'}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$derivative': {'input': '$x', 'unit': 'year'}, 'window': {}}"),
     VD_ERR_LOCATION(5490710)},
    {NULL, OUT("{'$integral': {'unit': 'day'}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, OUT("{'$locf': '$x', 'window': {}}"), VD_ERR_FAILED_TO_PARSE},
    {NULL, "{'$setWindowFields': {'output': {'r': {'$linearFill': '$x'}}}}",
     VD_ERR_LOCATION(605001)},
    {NULL, OUT("{'$topN': {'n': 1, 'output': 1}}"), VD_ERR_LOCATION(5788005)},
    {NULL, OUT("{'$percentile': {'input': 1, 'p': [2], 'method': 'approximate'}}"),
     VD_ERR_LOCATION(7750303)},
    {NULL, OUT("{'$percentile': {'input': 1, 'p': '$x', 'method': 'approximate'}}"),
     VD_ERR_LOCATION(7750300)},
    {NULL, OUT("{'$median': {'input': 1, 'method': 'exact'}}"), VD_ERR_BAD_VALUE},
    {"{'p': [1]}", "{'$setWindowFields': {'partitionBy': '$p', 'output': {}}}",
     VD_ERR_TYPE_MISMATCH},
    {"{'t': 'x'}", OUT("{'$sum': 1, 'window': {'range': [0, 1]}}"), VD_ERR_LOCATION(5429414)},
    {"{'t': " DATE("0") "}", OUT("{'$sum': 1, 'window': {'range': [0, 1]}}"),
     VD_ERR_LOCATION(5429413)},
    {"{'t': 1}", OUT("{'$sum': 1, 'window': {'range': [0, 1], 'unit': 'day'}}"),
     VD_ERR_LOCATION(5429513)},
    {"{'t': " DATE("0") "}", OUT("{'$derivative': {'input': 1}, 'window': {}}"),
     VD_ERR_LOCATION(5624901)},
    {"{'t': 1}", OUT("{'$derivative': {'input': 1, 'unit': 'day'}, 'window': {}}"),
     VD_ERR_LOCATION(5624900)},
    {"{'t': 'x'}", OUT("{'$derivative': {'input': 1}, 'window': {}}"), VD_ERR_LOCATION(5624902)},
    {"{'t': 1, 'x': 1}, {'t': 2}", OUT("{'$derivative': {'input': '$x'}, 'window': {}}"),
     VD_ERR_LOCATION(5624903)},
    {"{'t': 1}", OUT("{'$integral': {'input': '$x'}}"), VD_ERR_LOCATION(5423900)},
    {"{'t': 1, 'x': 'a'}", OUT("{'$linearFill': '$x'}"), VD_ERR_TYPE_MISMATCH},
    {"{'t': 1}, {'t': 1}", OUT("{'$linearFill': '$x'}"), VD_ERR_LOCATION(6050106)},
    {NULL, "{'$fill': 1}", VD_ERR_FAILED_TO_PARSE},
    {NULL, "{'$fill': {}}", VD_ERR_LOCATION(40414)},
    {NULL, "{'$fill': {'output': {}}}", VD_ERR_LOCATION(6050203)},
    {NULL, "{'$fill': {'output': {'x': 1}}}", VD_ERR_LOCATION(6050200)},
    {NULL, "{'$fill': {'output': {'x': {'method': 'locf', 'value': 1}}}}",
     VD_ERR_LOCATION(6050201)},
    {NULL, "{'$fill': {'output': {'x': {'method': 'spline'}}}}", VD_ERR_LOCATION(6050202)},
    {NULL, "{'$fill': {'output': {'x': {'method': 'linear'}}}}", VD_ERR_LOCATION(605001)},
    {NULL,
     "{'$fill': {'partitionBy': '$a', 'partitionByFields': ['a'], 'output': {'x': {'value': "
     "1}}}}",
     VD_ERR_LOCATION(6050204)},
    {NULL, "{'$densify': 1}", VD_ERR_FAILED_TO_PARSE},
    {NULL, "{'$densify': {'field': 'a'}}", VD_ERR_LOCATION(40414)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 0, 'bounds': 'full'}}}",
     VD_ERR_LOCATION(5733401)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': 'partition'}}}",
     VD_ERR_LOCATION(5733408)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': 'all'}}}",
     VD_ERR_LOCATION(5946802)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': [1]}}}",
     VD_ERR_LOCATION(5733403)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': [2, 1]}}}",
     VD_ERR_LOCATION(5733402)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': [1, 2.5]}}}",
     VD_ERR_LOCATION(5876900)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'unit': 'day', 'bounds': [1, 2]}}}",
     VD_ERR_LOCATION(5733409)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1.5, 'unit': 'day', 'bounds': 'full'}}}",
     VD_ERR_LOCATION(6586400)},
    {NULL, "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': ['a', 'b']}}}",
     VD_ERR_LOCATION(5946800)},
    {NULL, "{'$densify': {'field': '$a', 'range': {'step': 1, 'bounds': 'full'}}}",
     VD_ERR_LOCATION(16410)},
    {"{'a': 'x'}", "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': 'full'}}}",
     VD_ERR_LOCATION(5733201)},
    {"{'a': 1}",
     "{'$densify': {'field': 'a', 'range': {'step': 1, 'unit': 'day', 'bounds': 'full'}}}",
     VD_ERR_LOCATION(6053600)},
    {"{'a': 0}, {'a': 1000000}",
     "{'$densify': {'field': 'a', 'range': {'step': 1, 'bounds': 'full'}}}",
     VD_ERR_LOCATION(5897900)},
    {NULL, "{'$bucketAuto': 1}", VD_ERR_LOCATION(40240)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x'}}", VD_ERR_LOCATION(40246)},
    {NULL, "{'$bucketAuto': {'groupBy': 'x', 'buckets': 1}}", VD_ERR_LOCATION(40239)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 'a'}}", VD_ERR_LOCATION(40241)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1.5}}", VD_ERR_LOCATION(40242)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 0}}", VD_ERR_LOCATION(40243)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1, 'output': 1}}", VD_ERR_LOCATION(40244)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1, 'x': 1}}", VD_ERR_LOCATION(40245)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1, 'granularity': 1}}",
     VD_ERR_LOCATION(40261)},
    {NULL, "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1, 'granularity': 'R7'}}",
     VD_ERR_LOCATION(40257)},
    {"{'x': 'a'}", "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1, 'granularity': 'R5'}}",
     VD_ERR_LOCATION(40258)},
    {"{'x': -1}", "{'$bucketAuto': {'groupBy': '$x', 'buckets': 1, 'granularity': 'R5'}}",
     VD_ERR_LOCATION(40260)},
};

Test(windows, refusals)
{
    for (size_t i = 0; i < VD_COUNT_OF(refusals); i++)
        check_refusal(&refusals[i]);
}

/* ---- windows against a model ---- */

typedef struct {
    int p, t, x, id;
} row_t;

static int by_partition(const void *a, const void *b)
{
    const row_t *x = a, *y = b;
    if (x->p != y->p)
        return x->p < y->p ? -1 : 1;
    if (x->t != y->t)
        return x->t < y->t ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

typedef struct {
    bool range, low_open, high_open;
    int low, high;
} frame_t;

static bool inside(const row_t *rows, int first, int last, int current, int i, const frame_t *f)
{
    (void)first, (void)last;
    int low = f->range ? rows[i].t - rows[current].t : i - current;
    return (f->low_open || low >= f->low) && (f->high_open || low <= f->high);
}

static vd_value_t field(vd_bson_t document, const char *name)
{
    return vd_bson_get(document, name);
}

static void check_row(const row_t *rows, int first, int last, int current, const frame_t *frame,
                      vd_bson_t document, vd_arena_t *arena)
{
    long sum = 0, count = 0, min = 0, max = 0, begin = 0, end = 0;
    double mean = 0, squares = 0;
    vd_bson_iter_t pushed;
    cr_assert_eq(vd_value_int32(field(document, "id")), rows[current].id);
    vd_bson_iter_init(&pushed, vd_value_document(field(document, "push")));
    for (int i = first; i <= last; i++) {
        if (!inside(rows, first, last, current, i, frame))
            continue;
        long x = rows[i].x;
        begin = count == 0 ? x : begin;
        end = x;
        min = count == 0 || x < min ? x : min;
        max = count == 0 || x > max ? x : max;
        sum += x;
        count++;
        cr_assert(vd_bson_iter_next(&pushed) && vd_value_int32(pushed.value) == x);
    }
    cr_assert_not(vd_bson_iter_next(&pushed));
    mean = count == 0 ? 0 : (double)sum / (double)count;
    for (int i = first; i <= last; i++)
        if (inside(rows, first, last, current, i, frame))
            squares += (rows[i].x - mean) * (rows[i].x - mean);
    const char *text = vd_bson_to_json(arena, document, 500);
    cr_assert_eq(vd_value_int32(field(document, "sum")), sum, "%s", text);
    cr_assert_eq(vd_value_int32(field(document, "count")), count, "%s", text);
    static const char *const others[] = {"min", "max", "first", "last", "avg", "std", "topx"};
    for (size_t i = 0; count == 0 && i < VD_COUNT_OF(others); i++)
        cr_assert_eq(field(document, others[i]).type, VD_BSON_NULL, "%s of nothing: %s", others[i],
                     text);
    if (count == 0)
        return;
    cr_assert_eq(vd_value_int32(field(document, "min")), min, "%s", text);
    cr_assert_eq(vd_value_int32(field(document, "max")), max, "%s", text);
    cr_assert_eq(vd_value_int32(field(document, "topx")), max, "%s", text);
    cr_assert_eq(vd_value_int32(field(document, "first")), begin, "%s", text);
    cr_assert_eq(vd_value_int32(field(document, "last")), end, "%s", text);
    cr_assert_eq(vd_value_double(field(document, "avg")), mean, "%s", text);
    double std = vd_value_double(field(document, "std"));
    cr_assert(fabs(std * std - squares / (double)count) < 1e-6, "%s", text);
}

#define ROWS 300

static void check_model(uint64_t seed, size_t budget)
{
    vd_rand_t rand;
    row_t rows[ROWS];
    vd_arena_t *arena = vd_arena_create();
    spill_t *spill = spill_open(budget, 0);
    bench_t bench;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_seed(&rand, seed);
    frame_t frame = {.range = vd_rand_below(&rand, 2) == 0,
                     .low_open = vd_rand_below(&rand, 3) == 0,
                     .high_open = vd_rand_below(&rand, 3) == 0,
                     .low = (int)vd_rand_below(&rand, 30) - 15};
    frame.high = frame.low + (int)vd_rand_below(&rand, 15);
    size_t size = ROWS * 120, at = 0;
    char *documents = vd_arena_alloc(arena, size);
    for (int i = 0; i < ROWS; i++) {
        rows[i] = (row_t){.p = (int)vd_rand_below(&rand, 4),
                          .t = (int)vd_rand_below(&rand, 100),
                          .x = (int)vd_rand_below(&rand, 50) - 25,
                          .id = i};
        at += (size_t)snprintf(documents + at, size - at, "%s{'id': %d, 'p': %d, 't': %d, 'x': %d}",
                               i == 0 ? "" : ", ", i, rows[i].p, rows[i].t, rows[i].x);
    }
    qsort(rows, ROWS, sizeof *rows, by_partition);
    const char *low = frame.low_open ? "'unbounded'" : vd_arena_printf(arena, "%d", frame.low);
    const char *high = frame.high_open ? "'unbounded'" : vd_arena_printf(arena, "%d", frame.high);
    const char *w = vd_arena_printf(arena, "'window': {'%s': [%s, %s]}",
                                    frame.range ? "range" : "documents", low, high);
    const char *stages = vd_arena_printf(
        arena,
        "[{'$documents': [%s]}, {'$setWindowFields': {'partitionBy': '$p', 'sortBy': {'t': 1}, "
        "'output': {'sum': {'$sum': '$x', %s}, 'count': {'$count': {}, %s}, 'min': {'$min': '$x', "
        "%s}, 'max': {'$max': '$x', %s}, 'push': {'$push': '$x', %s}, 'first': {'$first': '$x', "
        "%s}, 'last': {'$last': '$x', %s}, 'avg': {'$avg': '$x', %s}, 'std': {'$stdDevPop': '$x', "
        "%s}, 'topx': {'$top': {'sortBy': {'x': -1}, 'output': '$x'}, %s}}}}]",
        documents, w, w, w, w, w, w, w, w, w, w);
    bench_open(&bench, spill, query_value(arena, stages), false);
    for (int first = 0, last = 0; first < ROWS; first = last + 1) {
        for (last = first; last + 1 < ROWS && rows[last + 1].p == rows[first].p;)
            last++;
        for (int i = first; i <= last; i++) {
            vd_bson_t document;
            int rc = stor_pipeline_next(bench.pipeline, &bench.request, &document, &err);
            cr_assert_eq(rc, VD_OK, "seed %llu: %s", (unsigned long long)seed, err.message);
            check_row(rows, first, last, i, &frame, document, arena);
        }
    }
    cr_assert_eq(bench.request.used_disk, budget < 1 << 20);
    bench_close(&bench);
    vd_arena_destroy(&arena);
    spill_close(spill);
}

Test(windows, against_a_model, .timeout = 300)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        check_model(seed, 64 << 20);
        check_model(seed, 8 * 1024);
    }
}
