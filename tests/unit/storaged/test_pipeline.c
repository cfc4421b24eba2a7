/* tests/unit/storaged/test_pipeline.c — stages over documents that $documents makes, and what
 * parsing refuses: no storage is needed. */
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/pipeline/pipeline.h"

typedef struct {
    vd_arena_t *arena;
    stor_storage_t storage;
    stor_request_t request;
    stor_variables_t variables;
    stor_pipeline_t *pipeline;
} bench_t;

static bench_t *bench_open(void)
{
    bench_t *bench = calloc(1, sizeof *bench);
    bench->arena = vd_arena_create();
    bench->request.storage = &bench->storage;
    bench->request.arena = bench->arena;
    return bench;
}

static void bench_close(bench_t *bench)
{
    stor_pipeline_close(&bench->pipeline);
    vd_arena_destroy(&bench->arena);
    free(bench);
}

static int bench_parse(bench_t *bench, const char *db, const char *collection, const char *stages,
                       vd_error_t *err)
{
    vd_value_t array = query_value(bench->arena, stages);
    stor_pipeline_context_t context = {.arena = bench->arena,
                                       .variables = &bench->variables,
                                       .db = vd_slice_str(db),
                                       .collection = vd_slice_str(collection)};
    return stor_pipeline_parse(&context, vd_value_document(array), &bench->pipeline, err);
}

/* ---- results ---- */

#define CITIES                                                                                     \
    "{'%documents': [{'_id': 1, 'c': 'de', 'n': 5, 't': ['x', 'y']}, {'_id': 2, 'c': 'fr', 'n': "  \
    "3, 't': []}, {'_id': 3, 'c': 'de', 'n': 1}, {'_id': 4, 'c': 'it', 'n': 9, 't': 'z'}]}"

static const struct {
    const char *stages, *expected;
} runs[] = {
    {"", "[{'_id': 1, 'c': 'de', 'n': 5, 't': ['x', 'y']}, {'_id': 2, 'c': 'fr', 'n': 3, 't': []}, "
         "{'_id': 3, 'c': 'de', 'n': 1}, {'_id': 4, 'c': 'it', 'n': 9, 't': 'z'}]"},
    {", {'$match': {'c': 'de'}}, {'$project': {'n': 1}}",
     "[{'_id': 1, 'n': 5}, {'_id': 3, 'n': 1}]"},
    {", {'$match': {'n': {'$gt': 100}}}", "[]"},
    {", {'$sort': {'n': 1}}, {'$project': {'_id': 1}}",
     "[{'_id': 3}, {'_id': 2}, {'_id': 1}, {'_id': 4}]"},
    {", {'$sort': {'c': 1, 'n': -1}}, {'$project': {'_id': 1}}",
     "[{'_id': 1}, {'_id': 3}, {'_id': 2}, {'_id': 4}]"},
    {", {'$sort': {'n': -1}}, {'$skip': 1}, {'$limit': 2}, {'$project': {'_id': 1}}",
     "[{'_id': 1}, {'_id': 2}]"},
    {", {'$skip': 4}", "[]"},
    {", {'$skip': 0}, {'$limit': 1}, {'$project': {'_id': 1}}", "[{'_id': 1}]"},
    {", {'$limit': 2}, {'$skip': 1}, {'$project': {'_id': 1}}", "[{'_id': 2}]"},
    {", {'$count': 'all'}", "[{'all': 4}]"},
    {", {'$match': {'c': 'xx'}}, {'$count': 'all'}", "[]"},
    {", {'$group': {'_id': '$c', 'n': {'$sum': '$n'}}}, {'$sort': {'_id': 1}}",
     "[{'_id': 'de', 'n': 6}, {'_id': 'fr', 'n': 3}, {'_id': 'it', 'n': 9}]"},
    {", {'$group': {'_id': 1, 'n': {'$sum': 1}}}", "[{'_id': 1, 'n': 4}]"},
    {", {'$match': {'c': 'xx'}}, {'$group': {'_id': 1, 'n': {'$sum': 1}}}", "[]"},
    {", {'$group': {'_id': '$nothing', 'ids': {'$push': '$_id'}}}",
     "[{'_id': null, 'ids': [1, 2, 3, 4]}]"},
    {", {'$group': {'_id': {'c': '$c'}, 'm': {'$max': '$n'}, 'a': {'$avg': '$n'}}}, "
     "{'$sort': {'_id': 1}}, {'$limit': 1}",
     "[{'_id': {'c': 'de'}, 'm': 5, 'a': 3.0}]"},
    {", {'$sortByCount': '$c'}, {'$limit': 1}", "[{'_id': 'de', 'count': 2}]"},
    {", {'$unwind': '$t'}, {'$project': {'t': 1}}",
     "[{'_id': 1, 't': 'x'}, {'_id': 1, 't': 'y'}, {'_id': 4, 't': 'z'}]"},
    {", {'$unwind': {'path': '$t', 'includeArrayIndex': 'i'}}, {'$project': {'t': 1, 'i': 1}}",
     "[{'_id': 1, 't': 'x', 'i': {'$numberLong': '0'}}, {'_id': 1, 't': 'y', 'i': {'$numberLong': "
     "'1'}}, {'_id': 4, 't': 'z', 'i': null}]"},
    {", {'$unwind': {'path': '$t', 'preserveNullAndEmptyArrays': true}}, {'$project': {'t': 1}}",
     "[{'_id': 1, 't': 'x'}, {'_id': 1, 't': 'y'}, {'_id': 2}, {'_id': 3}, {'_id': 4, 't': 'z'}]"},
    {", {'$addFields': {'d': {'$add': ['$n', 1]}}}, {'$match': {'d': {'$gte': 6}}}, "
     "{'$project': {'d': 1}}",
     "[{'_id': 1, 'd': 6}, {'_id': 4, 'd': 10}]"},
    {", {'$set': {'c': '$$REMOVE'}}, {'$unset': ['n', 't']}",
     "[{'_id': 1}, {'_id': 2}, {'_id': 3}, {'_id': 4}]"},
    {", {'$limit': 1}, {'$replaceRoot': {'newRoot': {'k': '$c'}}}", "[{'k': 'de'}]"},
    {", {'$limit': 1}, {'$replaceWith': {'k': '$n'}}", "[{'k': 5}]"},
};

static void check_run(const char *stages, const char *expected, bool in_pieces)
{
    bench_t *bench = bench_open();
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_iter_t iter;
    vd_bson_t document;
    char *text = vd_arena_printf(bench->arena, "[%s%s]", CITIES, stages);
    int rc = bench_parse(bench, "db", "", text, &err);
    cr_assert_eq(rc, VD_OK, "%s: %s", stages, err.message);
    vd_bson_iter_init(&iter, vd_value_document(query_value(bench->arena, expected)));
    while ((rc = stor_pipeline_next(bench->pipeline, &bench->request, &document, &err)) == VD_OK) {
        if (in_pieces) { /* as if the batch were full at every document */
            stor_pipeline_push_back(bench->pipeline);
            stor_pipeline_release(bench->pipeline);
            rc = stor_pipeline_next(bench->pipeline, &bench->request, &document, &err);
            cr_assert_eq(rc, VD_OK);
        }
        cr_assert(vd_bson_iter_next(&iter), "%s: more than expected: %s", stages,
                  vd_bson_to_json(bench->arena, document, 500));
        cr_assert(vd_value_identical(vd_value_from_document(document), iter.value),
                  "%s: %s, not %s", stages, vd_bson_to_json(bench->arena, document, 500),
                  vd_value_to_json(bench->arena, iter.value, 500));
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s: %s", stages, err.message);
    cr_assert_not(vd_bson_iter_next(&iter), "%s: fewer than expected", stages);
    rc = stor_pipeline_next(bench->pipeline, &bench->request, &document, &err);
    cr_assert_eq(rc, VD_ERR_NOT_FOUND, "%s: the end stays the end", stages);
    bench_close(bench);
}

Test(pipeline, runs)
{
    for (size_t i = 0; i < VD_COUNT_OF(runs); i++) {
        check_run(runs[i].stages, runs[i].expected, false);
        check_run(runs[i].stages, runs[i].expected, true);
    }
}

/* ---- refusals ---- */

static const struct {
    const char *db, *collection, *stages;
    int code;
} refusals[] = {
    {"db", "c", "[1]", VD_ERR_TYPE_MISMATCH},
    {"db", "c", "[{}]", VD_ERR_LOCATION(40323)},
    {"db", "c", "[{'$match': {}, '$limit': 1}]", VD_ERR_LOCATION(40323)},
    {"db", "c", "[{'$foo': 1}]", VD_ERR_LOCATION(40324)},
    {"db", "c", "[{'match': {}}]", VD_ERR_LOCATION(40324)},
    {"db", "c", "[{'$geoNear': {}}]", VD_ERR_NOT_IMPLEMENTED},
    {"db", "c", "[{'$match': 1}]", VD_ERR_LOCATION(15959)},
    {"db", "c", "[{'$match': {'a': {'$bad': 1}}}]", VD_ERR_BAD_VALUE},
    {"db", "c", "[{'$limit': 0}]", VD_ERR_LOCATION(15958)},
    {"db", "c", "[{'$limit': -1}]", VD_ERR_LOCATION(5107201)},
    {"db", "c", "[{'$limit': 'x'}]", VD_ERR_LOCATION(5107201)},
    {"db", "c", "[{'$skip': -1}]", VD_ERR_LOCATION(5107200)},
    {"db", "c", "[{'$skip': 1.5}]", VD_ERR_LOCATION(5107200)},
    {"db", "c", "[{'$sort': 1}]", VD_ERR_LOCATION(15973)},
    {"db", "c", "[{'$sort': {}}]", VD_ERR_LOCATION(15976)},
    {"db", "c", "[{'$sort': {'$natural': 1}}]", VD_ERR_BAD_VALUE},
    {"db", "c", "[{'$group': 1}]", VD_ERR_LOCATION(15947)},
    {"db", "c", "[{'$group': {}}]", VD_ERR_LOCATION(15955)},
    {"db", "c", "[{'$group': {'_id': 1, 'a': 1}}]", VD_ERR_LOCATION(40234)},
    {"db", "c", "[{'$group': {'_id': 1, 'a.b': {'$sum': 1}}}]", VD_ERR_LOCATION(40235)},
    {"db", "c", "[{'$group': {'_id': 1, '$a': {'$sum': 1}}}]", VD_ERR_LOCATION(40236)},
    {"db", "c", "[{'$group': {'_id': 1, 'a': {}}}]", VD_ERR_LOCATION(40238)},
    {"db", "c", "[{'$group': {'_id': 1, 'a': {'$foo': 1}}}]", VD_ERR_LOCATION(15952)},
    {"db", "c", "[{'$count': 1}]", VD_ERR_LOCATION(40156)},
    {"db", "c", "[{'$count': ''}]", VD_ERR_LOCATION(40157)},
    {"db", "c", "[{'$count': '$a'}]", VD_ERR_LOCATION(40158)},
    {"db", "c", "[{'$count': 'a.b'}]", VD_ERR_LOCATION(40160)},
    {"db", "c", "[{'$sortByCount': {'a': 1}}]", VD_ERR_LOCATION(40147)},
    {"db", "c", "[{'$sortByCount': 'a'}]", VD_ERR_LOCATION(40148)},
    {"db", "c", "[{'$sortByCount': 1}]", VD_ERR_LOCATION(40149)},
    {"db", "c", "[{'$unwind': 1}]", VD_ERR_LOCATION(15981)},
    {"db", "c", "[{'$unwind': 'a'}]", VD_ERR_LOCATION(28818)},
    {"db", "c", "[{'$unwind': {}}]", VD_ERR_LOCATION(28812)},
    {"db", "c", "[{'$unwind': {'path': '$a', 'x': 1}}]", VD_ERR_LOCATION(28811)},
    {"db", "c", "[{'$replaceRoot': 1}]", VD_ERR_LOCATION(40229)},
    {"db", "c", "[{'$replaceRoot': {}}]", VD_ERR_LOCATION(40414)},
    {"db", "c", "[{'$replaceRoot': {'newRoot': '$a', 'x': 1}}]", VD_ERR_LOCATION(40415)},
    {"db", "c", "[{'%documents': []}]", VD_ERR_INVALID_NAMESPACE},
    {"db", "", "[]", VD_ERR_INVALID_NAMESPACE},
    {"db", "", "[{'$match': {}}]", VD_ERR_INVALID_NAMESPACE},
    {"db", "", "[{'%documents': []}, {'%documents': []}]", VD_ERR_LOCATION(40602)},
    {"db", "c", "[{'$match': {}}, {'$collStats': {}}]", VD_ERR_LOCATION(40602)},
    {"db", "c", "[{'$collStats': 1}]", VD_ERR_LOCATION(5447000)},
    {"db", "c", "[{'$collStats': {'foo': {}}}]", VD_ERR_LOCATION(40415)},
    {"db", "c", "[{'$collStats': {'count': 1}}]", VD_ERR_TYPE_MISMATCH},
    {"db", "c", "[{'$collStats': {'storageStats': {'scale': 0}}}]", VD_ERR_LOCATION(51024)},
    {"db", "c", "[{'$collStats': {'latencyStats': {'histograms': true}}}]", VD_ERR_NOT_IMPLEMENTED},
    {"db", "c", "[{'$indexStats': {'a': 1}}]", VD_ERR_LOCATION(28803)},
    {"db", "", "[{'$currentOp': {}}]", VD_ERR_INVALID_NAMESPACE},
    {"admin", "c", "[{'$currentOp': {}}]", VD_ERR_INVALID_NAMESPACE},
    {"admin", "", "[{'$currentOp': 1}]", VD_ERR_FAILED_TO_PARSE},
    {"admin", "", "[{'$currentOp': {'foo': true}}]", VD_ERR_FAILED_TO_PARSE},
    {"admin", "", "[{'$currentOp': {'allUsers': 1}}]", VD_ERR_FAILED_TO_PARSE},
    {"admin", "", "[{'$currentOp': {'backtrace': true}}]", VD_ERR_NOT_IMPLEMENTED},
};

Test(pipeline, refusals)
{
    for (size_t i = 0; i < VD_COUNT_OF(refusals); i++) {
        bench_t *bench = bench_open();
        vd_error_t err = VD_ERROR_INIT;
        int rc =
            bench_parse(bench, refusals[i].db, refusals[i].collection, refusals[i].stages, &err);
        cr_assert_eq(rc, refusals[i].code, "%s: %d %s", refusals[i].stages, -rc, err.message);
        cr_assert_neq(err.message[0], 0, "%s: no message", refusals[i].stages);
        bench_close(bench);
    }
}

Test(pipeline, too_long)
{
    for (uint32_t count = STOR_PIPELINE_STAGES_MAX; count <= STOR_PIPELINE_STAGES_MAX + 1;
         count++) {
        bench_t *bench = bench_open();
        char *text = vd_arena_alloc(bench->arena, count * 20 + 3), *at = text;
        *at++ = '[';
        for (uint32_t i = 0; i < count; i++)
            at += sprintf(at, "%s{'$skip': 0}", i == 0 ? "" : ",");
        strcpy(at, "]");
        cr_assert_eq(bench_parse(bench, "db", "c", text, NULL),
                     count <= STOR_PIPELINE_STAGES_MAX ? VD_OK : VD_ERR_LOCATION(7749501));
        bench_close(bench);
    }
}

/* Errors of a stage that only come with documents. */
Test(pipeline, errors_at_run)
{
    static const struct {
        const char *stages;
        int code;
    } cases[] = {
        {"[{'%documents': 1}]", VD_ERR_LOCATION(5858203)},
        {"[{'%documents': [1]}]", VD_ERR_LOCATION(40228)},
        {"[{'%documents': [{'a': 1}]}, {'$replaceRoot': {'newRoot': '$a'}}]",
         VD_ERR_LOCATION(40228)},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        bench_t *bench = bench_open();
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t document;
        int rc = bench_parse(bench, "db", "", cases[i].stages, &err);
        if (rc == VD_OK)
            rc = stor_pipeline_next(bench->pipeline, &bench->request, &document, &err);
        cr_assert_eq(rc, cases[i].code, "%s: %d %s", cases[i].stages, -rc, err.message);
        bench_close(bench);
    }
}

Test(pipeline, killed)
{
    bench_t *bench = bench_open();
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t document;
    cr_assert_eq(bench_parse(bench, "db", "", "[{'%documents': [{'a': 1}]}]", &err), VD_OK);
    atomic_store(&bench->request.killed, VD_ERR_INTERRUPTED);
    cr_assert_eq(stor_pipeline_next(bench->pipeline, &bench->request, &document, &err),
                 VD_ERR_INTERRUPTED);
    bench_close(bench);
}

/* What the head takes over is not a stage any more. */
Test(pipeline, head)
{
    static const struct {
        const char *stages;
        uint32_t left;
        bool sorts;
        int64_t skip, limit;
    } cases[] = {
        {"[]", 0, false, 0, 0},
        {"[{'$match': {'a': 1}}, {'$match': {'b': 1}}]", 0, false, 0, 0},
        {"[{'$match': {}}, {'$sort': {'a': 1}}, {'$skip': 2}, {'$limit': 3}]", 0, true, 2, 3},
        {"[{'$limit': 3}, {'$skip': 2}]", 1, false, 0, 3},
        {"[{'$sort': {'a': 1}}, {'$match': {'a': 1}}]", 0, true, 0, 0},
        {"[{'$project': {'a': 1}}, {'$match': {'a': 1}}]", 1, false, 0, 0},
        {"[{'$project': {'b': 1}}, {'$match': {'a': 1}}]", 2, false, 0, 0},
        {"[{'$skip': 5}, {'$limit': {'$numberLong': '9223372036854775807'}}]", 1, false, 5, 0},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        bench_t *bench = bench_open();
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t document;
        cr_assert_eq(bench_parse(bench, "db", "c", cases[i].stages, &err), VD_OK, "%s",
                     err.message);
        const stor_query_t *query = stor_pipeline_query(bench->pipeline);
        cr_assert_not_null(query);
        cr_assert_eq(stor_pipeline_stage_count(bench->pipeline), cases[i].left, "%s",
                     cases[i].stages);
        cr_assert_eq(stor_query_spec(query)->sort != NULL, cases[i].sorts, "%s", cases[i].stages);
        cr_assert_eq(stor_query_spec(query)->skip, cases[i].skip, "%s", cases[i].stages);
        cr_assert_eq(stor_query_spec(query)->limit, cases[i].limit, "%s", cases[i].stages);
        /* The collection does not exist: nothing is found. */
        cr_assert_eq(stor_pipeline_next(bench->pipeline, &bench->request, &document, &err),
                     VD_ERR_NOT_FOUND);
        stor_pipeline_release(bench->pipeline);
        bench_close(bench);
    }
}
