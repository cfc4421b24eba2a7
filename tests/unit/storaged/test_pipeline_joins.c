/* tests/unit/storaged/test_pipeline_joins.c — stages that join, branch and shape over documents
 * that $documents makes; what parsing refuses; the order that stages are put in. */
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

static int bench_parse(bench_t *bench, const char *collection, const char *stages, vd_error_t *err)
{
    vd_value_t array = query_value(bench->arena, stages);
    stor_pipeline_context_t context = {.arena = bench->arena,
                                       .request = &bench->request,
                                       .variables = &bench->variables,
                                       .db = VD_SLICE_LIT("db"),
                                       .collection = vd_slice_str(collection)};
    return stor_pipeline_parse(&context, vd_value_document(array), &bench->pipeline, err);
}

/* ---- results ---- */

#define LOCAL                                                                                      \
    "{'%documents': [{'_id': 1, 'k': 1}, {'_id': 2, 'k': [2, 3]}, {'_id': 3}, {'_id': 4, 'k': "    \
    "null}, {'_id': 5, 'k': {'$numberLong': '1'}}, {'_id': 6, 'k': []}]}"
#define FOREIGN                                                                                    \
    "{'%documents': [{'_id': 10, 'f': 1}, {'_id': 11, 'f': [2, 1]}, {'_id': 12, 'f': 3.0}, "       \
    "{'_id': 13}, {'_id': 14, 'f': null}]}"
#define ID_ONLY "{'$project': {'_id': 1}}"

static const struct {
    const char *stages, *expected;
} runs[] = {
    /* $lookup: by fields, with the pipeline that makes the documents */
    {LOCAL ", {'$lookup': {'localField': 'k', 'foreignField': 'f', 'pipeline': [" FOREIGN
           ", " ID_ONLY "], 'as': 'r'}}, {'$project': {'r': '$r._id'}}",
     "[{'_id': 1, 'r': [10, 11]}, {'_id': 2, 'r': [11, 12]}, {'_id': 3, 'r': [13, 14]}, "
     "{'_id': 4, 'r': [13, 14]}, {'_id': 5, 'r': [10, 11]}, {'_id': 6, 'r': [13, 14]}]"},
    /* paths through arrays: null only when they lead to nothing at all */
    {"{'%documents': [{'_id': 1, 'a': [{'y': 2}, {'x': 1}]}, {'_id': 2, 'a': [{'y': 1}]}, {'_id': "
     "3, 'a': [{'x': null}, {'x': [1]}]}, {'_id': 4, 'a': [1]}, {'_id': 5, 'a': [[{'x': 1}]]}, "
     "{'_id': 6, 'a': {'x': [[], 3]}}, {'_id': 7, 'a': [{'x': []}, {'x': [[]]}]}, {'_id': 8, 'a': "
     "{'x': []}}, {'_id': 9, 'a': {'x': [[1, 2], 5]}}]}, {'$lookup': {'localField': 'a.x', "
     "'foreignField': 'b', 'pipeline': [{'%documents': [{'_id': 'n', 'b': null}, {'_id': 'one', "
     "'b': 1}, {'_id': 'e', 'b': []}, {'_id': 'p', 'b': [1, 2]}]}, {'$project': {'_id': 1}}], "
     "'as': 'r'}}, {'$project': {'r': '$r._id'}}",
     "[{'_id': 1, 'r': ['one', 'p']}, {'_id': 2, 'r': ['n']}, {'_id': 3, 'r': ['n', 'one', 'p']}, "
     "{'_id': 4, 'r': ['n']}, {'_id': 5, 'r': ['n']}, {'_id': 6, 'r': ['e']}, {'_id': 7, 'r': "
     "['e']}, {'_id': 8, 'r': ['n']}, {'_id': 9, 'r': ['p']}]"},
    /* by `let` */
    {LOCAL ", {'$limit': 2}, {'$lookup': {'let': {'k': '$k'}, 'pipeline': [" FOREIGN
           ", {'$match': {'$expr': {'$eq': ['$f', '$$k']}}}, " ID_ONLY "], 'as': 'r'}}",
     "[{'_id': 1, 'k': 1, 'r': [{'_id': 10}]}, {'_id': 2, 'k': [2, 3], 'r': []}]"},
    /* a `let` of an outer $lookup seen by an inner one, and hidden by it */
    {"{'%documents': [{'_id': 1}]}, {'$lookup': {'let': {'a': 7, 'b': 8}, 'pipeline': "
     "[{'%documents': [{'x': 1}]}, {'$lookup': {'let': {'b': 9}, 'pipeline': [{'%documents': "
     "[{'a': '$$a', 'b': '$$b'}]}], 'as': 'in'}}], 'as': 'out'}}",
     "[{'_id': 1, 'out': [{'x': 1, 'in': [{'a': 7, 'b': 9}]}]}]"},
    /* without any connection: the same for each */
    {LOCAL ", {'$match': {'_id': {'$lt': 3}}}, {'$lookup': {'pipeline': [{'%documents': [{'x': 1}, "
           "{'x': 2}]}], 'as': 'r.s'}}, {'$project': {'r': 1}}",
     "[{'_id': 1, 'r': {'s': [{'x': 1}, {'x': 2}]}}, {'_id': 2, 'r': {'s': [{'x': 1}, {'x': "
     "2}]}}]"},
    /* $unwind behind it */
    {LOCAL ", {'$match': {'_id': {'$lt': 3}}}, {'$lookup': {'localField': 'k', 'foreignField': "
           "'f', 'pipeline': [" FOREIGN ", " ID_ONLY "], 'as': 'r'}}, {'$unwind': {'path': '$r', "
           "'includeArrayIndex': 'i'}}, {'$project': {'r': '$r._id', 'i': 1}}",
     "[{'_id': 1, 'i': {'$numberLong': '0'}, 'r': 10}, {'_id': 1, 'i': {'$numberLong': '1'}, 'r': "
     "11}, {'_id': 2, 'i': {'$numberLong': '0'}, 'r': 11}, {'_id': 2, 'i': {'$numberLong': '1'}, "
     "'r': 12}]"},
    {"{'%documents': [{'_id': 1, 'k': 99}]}, {'$lookup': {'localField': 'k', 'foreignField': 'f', "
     "'pipeline': [" FOREIGN "], 'as': 'r'}}, {'$unwind': '$r'}",
     "[]"},
    {"{'%documents': [{'_id': 1, 'k': 99}]}, {'$lookup': {'localField': 'k', 'foreignField': 'f', "
     "'pipeline': [" FOREIGN "], 'as': 'r'}}, {'$unwind': {'path': '$r', "
     "'preserveNullAndEmptyArrays': true, 'includeArrayIndex': 'i'}}",
     "[{'_id': 1, 'k': 99, 'i': null}]"},
    /* a collection that does not exist */
    {"{'%documents': [{'_id': 1, 'r': 5}]}, {'$lookup': {'from': 'none', 'localField': 'k', "
     "'foreignField': 'f', 'as': 'r'}}",
     "[{'_id': 1, 'r': []}]"},
    {"{'%documents': [{'_id': 1}]}, {'$graphLookup': {'from': 'none', 'startWith': 1, "
     "'connectFromField': 'a', 'connectToField': 'b', 'as': 'r'}}",
     "[{'_id': 1, 'r': []}]"},
    /* $unionWith */
    {"{'%documents': [{'_id': 1}]}, {'$unionWith': {'pipeline': [{'%documents': [{'_id': 2}, "
     "{'_id': 3}]}, {'$skip': 1}]}}, {'$unionWith': 'none'}",
     "[{'_id': 1}, {'_id': 3}]"},
    /* $facet */
    {LOCAL
     ", {'$facet': {'n': [{'$count': 'n'}], 'none': [{'$match': {'_id': 0}}], 'all': [" ID_ONLY
     ", {'$limit': 2}], 'as_is': [{'$skip': 5}]}}",
     "[{'n': [{'n': 6}], 'none': [], 'all': [{'_id': 1}, {'_id': 2}], 'as_is': [{'_id': 6, 'k': "
     "[]}]}]"},
    {"{'%documents': []}, {'$facet': {'a': []}}", "[{'a': []}]"},
    {"{'%documents': [{'v': 1}]}, {'$facet': {'a': [{'$unionWith': {'pipeline': [{'%documents': "
     "[{'v': 2}]}]}}]}}",
     "[{'a': [{'v': 1}, {'v': 2}]}]"},
    /* $bucket */
    {"{'%documents': [{'p': 1}, {'p': 5}, {'p': 9}, {'p': 10}, {'p': 'x'}]}, {'$bucket': "
     "{'groupBy': '$p', 'boundaries': [0, 5, 10], 'default': 'other'}}",
     "[{'_id': 0, 'count': 1}, {'_id': 5, 'count': 2}, {'_id': 'other', 'count': 2}]"},
    {"{'%documents': [{'p': 1}, {'p': 5}]}, {'$bucket': {'groupBy': {'$add': ['$p', 1]}, "
     "'boundaries': [0, {'$add': [2, 3]}, 10], 'output': {'all': {'$push': '$p'}}}}",
     "[{'_id': 0, 'all': [1]}, {'_id': 5, 'all': [5]}]"},
    /* $sample */
    {"{'%documents': [{'a': 1}]}, {'$sample': {'size': 5}}", "[{'a': 1}]"},
    {LOCAL ", {'$sample': {'size': 3}}, {'$count': 'n'}", "[{'n': 3}]"},
    /* $redact */
    {"{'%documents': [{'l': 1, 'a': {'l': 5, 'x': 1}, 'b': [{'l': 1, 'y': 2}, {'l': 9}, 7, [{'l': "
     "9}]]}, {'l': 9}]}, {'$redact': {'$cond': [{'$gt': ['$l', 3]}, '$$PRUNE', '$$DESCEND']}}",
     "[{'l': 1, 'b': [{'l': 1, 'y': 2}, 7, []]}]"},
    {"{'%documents': [{'a': {'l': 5}}]}, {'$redact': '$$KEEP'}", "[{'a': {'l': 5}}]"},
    /* order of stages does not show */
    {"{'%documents': [{'a': 1, 'b': 2}, {'a': 2, 'b': 2}]}, {'$addFields': {'c': {'$add': ['$a', "
     "'$b']}}}, {'$match': {'c': 4, 'a': {'$gt': 0}}}",
     "[{'a': 2, 'b': 2, 'c': 4}]"},
    {"{'%documents': [{'a': [1, 2], 'b': 2}, {'a': [3], 'b': 1}]}, {'$unwind': '$a'}, {'$match': "
     "{'b': 2, 'a': 1}}",
     "[{'a': 1, 'b': 2}]"},
    {"{'%documents': [{'a': 1}, {'a': 2}, {'a': 3}, {'a': 4}]}, {'$skip': 1}, {'$skip': 1}, "
     "{'$limit': 5}, {'$limit': 1}",
     "[{'a': 3}]"},
};

static void check_run(const char *stages, const char *expected, bool in_pieces)
{
    bench_t *bench = bench_open();
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_iter_t iter;
    vd_bson_t document;
    int rc = bench_parse(bench, "", vd_arena_printf(bench->arena, "[%s]", stages), &err);
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

Test(pipeline_joins, runs)
{
    for (size_t i = 0; i < VD_COUNT_OF(runs); i++) {
        check_run(runs[i].stages, runs[i].expected, false);
        check_run(runs[i].stages, runs[i].expected, true);
    }
}

/* ---- refusals ---- */

static const struct {
    const char *stages;
    int code;
} refusals[] = {
    {"[{'$lookup': 1}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 1, 'as': 'r', 'localField': 'a', 'foreignField': 'b'}}]",
     VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': {'db': 'x', 'coll': 'y'}, 'as': 'r', 'pipeline': []}}]",
     VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'localField': 'a', 'foreignField': 'b'}}]",
     VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'localField': 'a'}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'localField': 'a', 'pipeline': []}}]",
     VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'localField': 'a', 'foreignField': 'b', 'let': {}}}]",
     VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 1, 'pipeline': []}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': [], 'x': 1}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': 1}}]", VD_ERR_TYPE_MISMATCH},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': [], 'let': 1}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': [], 'let': {'A': 1}}}]",
     VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'as': 'r', 'pipeline': [{'$match': {}}]}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$lookup': {'from': '', 'as': 'r', 'pipeline': []}}]", VD_ERR_INVALID_NAMESPACE},
    {"[{'$lookup': {'from': 'x', 'as': '$r', 'pipeline': []}}]", VD_ERR_LOCATION(16410)},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': [{'$out': 'y'}]}}]",
     VD_ERR_LOCATION(51047)},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': [{'$changeStream': {}}]}}]",
     VD_ERR_LOCATION(51047)},
    {"[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': [{'$foo': 1}]}}]", VD_ERR_LOCATION(40324)},
    {"[{'$graphLookup': 1}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$graphLookup': {}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$graphLookup': {'from': 'x'}}]", VD_ERR_LOCATION(40105)},
    {"[{'$graphLookup': {'from': 'x', 'maxDepth': 'a'}}]", VD_ERR_LOCATION(40100)},
    {"[{'$graphLookup': {'from': 'x', 'maxDepth': -1}}]", VD_ERR_LOCATION(40101)},
    {"[{'$graphLookup': {'from': 'x', 'maxDepth': 1.5}}]", VD_ERR_LOCATION(40102)},
    {"[{'$graphLookup': {'from': 'x', 'as': 1}}]", VD_ERR_LOCATION(40103)},
    {"[{'$graphLookup': {'from': 'x', 'y': 1}}]", VD_ERR_LOCATION(40104)},
    {"[{'$graphLookup': {'from': 'x', 'restrictSearchWithMatch': 1}}]", VD_ERR_LOCATION(40185)},
    {"[{'$unionWith': 1}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$unionWith': {}}]", VD_ERR_FAILED_TO_PARSE},
    {"[{'$unionWith': {'coll': 1}}]", VD_ERR_TYPE_MISMATCH},
    {"[{'$unionWith': {'coll': 'x', 'y': 1}}]", VD_ERR_LOCATION(40415)},
    {"[{'$unionWith': {'coll': 'x', 'pipeline': [{'$merge': 'y'}]}}]", VD_ERR_LOCATION(31441)},
    {"[{'$facet': {}}]", VD_ERR_LOCATION(40169)},
    {"[{'$facet': {'a': 1}}]", VD_ERR_LOCATION(40170)},
    {"[{'$facet': {'a': [1]}}]", VD_ERR_LOCATION(40171)},
    {"[{'$facet': {'a.b': []}}]", VD_ERR_LOCATION(16412)},
    {"[{'$facet': {'$a': []}}]", VD_ERR_LOCATION(16410)},
    {"[{'$facet': {'a': [{'$facet': {'b': []}}]}}]", VD_ERR_LOCATION(40600)},
    {"[{'$facet': {'a': [{'$out': 'x'}]}}]", VD_ERR_LOCATION(40600)},
    {"[{'$facet': {'a': [{'$indexStats': {}}]}}]", VD_ERR_LOCATION(40600)},
    {"[{'$facet': {'a': [{'$unionWith': {'coll': 'x', 'pipeline': [{'$foo': 1}]}}], 'b': []}}]",
     VD_ERR_LOCATION(40324)},
    {"[{'$bucket': 1}]", VD_ERR_LOCATION(40201)},
    {"[{'$bucket': {}}]", VD_ERR_LOCATION(40198)},
    {"[{'$bucket': {'groupBy': 'a', 'boundaries': [1, 2]}}]", VD_ERR_LOCATION(40202)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': 1}}]", VD_ERR_LOCATION(40200)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [1, '$b']}}]", VD_ERR_LOCATION(40191)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [1]}}]", VD_ERR_LOCATION(40192)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [1, 'x']}}]", VD_ERR_LOCATION(40193)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [2, 1]}}]", VD_ERR_LOCATION(40194)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [1, 2], 'default': '$x'}}]",
     VD_ERR_LOCATION(40195)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [1, 3], 'default': 2}}]",
     VD_ERR_LOCATION(40199)},
    {"[{'$bucket': {'groupBy': '$a', 'boundaries': [1, 2], 'output': 1}}]", VD_ERR_LOCATION(40196)},
    {"[{'$bucket': {'x': 1}}]", VD_ERR_LOCATION(40197)},
    {"[{'$sample': 1}]", VD_ERR_LOCATION(28745)},
    {"[{'$sample': {'size': 'x'}}]", VD_ERR_LOCATION(28746)},
    {"[{'$sample': {'size': 0}}]", VD_ERR_LOCATION(28747)},
    {"[{'$sample': {'size': -1}}]", VD_ERR_LOCATION(28747)},
    {"[{'$sample': {'x': 1}}]", VD_ERR_LOCATION(28748)},
    {"[{'$sample': {}}]", VD_ERR_LOCATION(28749)},
    {"[{'$redact': '$$NOTHING'}]", VD_ERR_LOCATION(17276)},
    /* what is said twice: the gateway has looked at one of them */
    {"[{'$lookup': {'from': 'x', 'from': 'y', 'as': 'r', 'localField': 'a', 'foreignField': 'b'}}]",
     VD_ERR_LOCATION(40413)},
    {"[{'$lookup': {'from': 'x', 'pipeline': [], 'pipeline': [{'$unionWith': 'y'}], 'as': 'r'}}]",
     VD_ERR_LOCATION(40413)},
    {"[{'$graphLookup': {'from': 'x', 'from': 'y', 'as': 'r'}}]", VD_ERR_LOCATION(40413)},
    {"[{'$graphLookup': {'from': '', 'from': 'y', 'as': 'r'}}]", VD_ERR_LOCATION(40413)},
    {"[{'$unionWith': {'coll': 'x', 'coll': 'y'}}]", VD_ERR_LOCATION(40413)},
    {"[{'$unionWith': {'coll': 'x', 'pipeline': [], 'pipeline': [{'$unionWith': 'y'}]}}]",
     VD_ERR_LOCATION(40413)},
    {"[{'$merge': {'into': 'x', 'into': 'y'}}]", VD_ERR_LOCATION(40413)},
    {"[{'$merge': {'into': {'db': 'a', 'coll': 'x', 'coll': 'y'}}}]", VD_ERR_LOCATION(40413)},
    {"[{'$merge': {'into': {'db': 'a', 'db': 'b', 'coll': 'x'}}}]", VD_ERR_LOCATION(40413)},
    {"[{'$merge': {'into': 'x', 'whenMatched': 'fail', 'whenMatched': 'replace'}}]",
     VD_ERR_LOCATION(40413)},
    {"[{'$merge': {'into': 'x', 'whenNotMatched': 'discard', 'whenNotMatched': 'insert'}}]",
     VD_ERR_LOCATION(40413)},
    {"[{'$merge': {'into': 'x', 'on': 'a', 'on': 'b'}}]", VD_ERR_LOCATION(40413)},
    {"[{'$out': {'db': 'a', 'coll': 'x', 'coll': 'y'}}]", VD_ERR_LOCATION(16994)},
    {"[{'$out': 1}]", VD_ERR_LOCATION(16990)},
    {"[{'$out': {'db': 'x'}}]", VD_ERR_LOCATION(16994)},
    {"[{'$out': 'system.x'}]", VD_ERR_LOCATION(17385)},
    {"[{'$out': {'db': 'admin', 'coll': 'x'}}]", VD_ERR_LOCATION(31321)},
    {"[{'$out': ''}]", VD_ERR_INVALID_NAMESPACE},
    {"[{'$out': 'x'}, {'$match': {}}]", VD_ERR_LOCATION(40601)},
    {"[{'$merge': 1}]", VD_ERR_TYPE_MISMATCH},
    {"[{'$merge': {}}]", VD_ERR_LOCATION(40414)},
    {"[{'$merge': {'into': 1}}]", VD_ERR_LOCATION(51178)},
    {"[{'$merge': {'into': 'x', 'y': 1}}]", VD_ERR_LOCATION(40415)},
    {"[{'$merge': {'into': 'x', 'on': 1}}]", VD_ERR_LOCATION(51186)},
    {"[{'$merge': {'into': 'x', 'on': []}}]", VD_ERR_LOCATION(51187)},
    {"[{'$merge': {'into': 'x', 'on': [1]}}]", VD_ERR_LOCATION(51134)},
    {"[{'$merge': {'into': 'x', 'on': ['a', 'a']}}]", VD_ERR_LOCATION(31465)},
    {"[{'$merge': {'into': 'x', 'whenMatched': 1}}]", VD_ERR_LOCATION(51191)},
    {"[{'$merge': {'into': 'x', 'whenMatched': 'x'}}]", VD_ERR_BAD_VALUE},
    {"[{'$merge': {'into': 'x', 'whenMatched': 'pipeline'}}]", VD_ERR_BAD_VALUE},
    {"[{'$merge': {'into': 'x', 'whenNotMatched': 'x'}}]", VD_ERR_BAD_VALUE},
    {"[{'$merge': {'into': 'x', 'whenMatched': 'fail', 'whenNotMatched': 'discard'}}]",
     VD_ERR_LOCATION(51181)},
    {"[{'$merge': {'into': 'x', 'let': {}}}]", VD_ERR_LOCATION(51199)},
    {"[{'$merge': {'into': 'x', 'whenMatched': [], 'let': {'new': 1}}}]", VD_ERR_LOCATION(51273)},
    {"[{'$merge': 'system.x'}]", VD_ERR_LOCATION(31319)},
    {"[{'$merge': {'into': {'db': 'local', 'coll': 'x'}}}]", VD_ERR_LOCATION(31320)},
    {"[{'$merge': 'x'}, {'$limit': 1}]", VD_ERR_LOCATION(40601)},
};

Test(pipeline_joins, refusals)
{
    for (size_t i = 0; i < VD_COUNT_OF(refusals); i++) {
        bench_t *bench = bench_open();
        vd_error_t err = VD_ERROR_INIT;
        int rc = bench_parse(bench, "c", refusals[i].stages, &err);
        cr_assert_eq(rc, refusals[i].code, "%s: %d %s", refusals[i].stages, -rc, err.message);
        cr_assert_neq(err.message[0], 0, "%s: no message", refusals[i].stages);
        bench_close(bench);
    }
}

/* Pipelines in each other: 20 may, 21 may not. */
Test(pipeline_joins, depth)
{
    for (int depth = 20; depth <= 21; depth++) {
        bench_t *bench = bench_open();
        const char *inner = "[]";
        vd_error_t err = VD_ERROR_INIT;
        for (int i = 0; i < depth; i++)
            inner = vd_arena_printf(
                bench->arena, "[{'$lookup': {'from': 'x', 'as': 'r', 'pipeline': %s}}]", inner);
        cr_assert_eq(bench_parse(bench, "c", inner, &err),
                     depth == 20 ? VD_OK : VD_ERR_MAX_SUB_PIPELINE_DEPTH_EXCEEDED, "%d: %s", depth,
                     err.message);
        bench_close(bench);
    }
}

/* ---- order of stages ---- */

#define LOOKUP "{'$lookup': {'from': 'x', 'localField': 'a', 'foreignField': 'b', 'as': 'r'}}"

static const struct {
    const char *stages, *filter; /* what the query at the head takes; as JSON */
    const char *left;            /* names of the others */
} orders[] = {
    {"[{'$addFields': {'x': 1}}, {'$match': {'a': 1}}]", "{'a': {'$eq': 1}}", "$addFields"},
    {"[{'$addFields': {'x': 1}}, {'$match': {'x': 1}}]", "{}", "$addFields $match"},
    {"[{'$addFields': {'x': 1}}, {'$match': {'x': 1, 'a': 2}}]", "{'a': {'$eq': 2}}",
     "$addFields $match"},
    {"[{'$addFields': {'a.x': 1}}, {'$match': {'a.y': 1}}]", "{}", "$addFields $match"},
    {"[{'$project': {'a': 1, 'x': '$b'}}, {'$match': {'a.b': 1}}]", "{'a.b': {'$eq': 1}}",
     "$project"},
    {"[{'$project': {'a': 0}}, {'$match': {'b': 1}}]", "{'b': {'$eq': 1}}", "$project"},
    {"[{'$project': {'a': 0}}, {'$match': {'a.x': 1}}]", "{}", "$project $match"},
    {"[{'$project': {'_id': 0, 'a': 1}}, {'$match': {'_id': 1}}]", "{}", "$project $match"},
    {"[{'$unset': 'a'}, {'$match': {'b': 1, 'a': null}}]", "{'b': {'$eq': 1}}", "$unset $match"},
    {"[{'$unwind': '$a'}, {'$match': {'a': 1, 'b': 1}}]", "{'b': {'$eq': 1}}", "$unwind $match"},
    {"[" LOOKUP ", {'$match': {'b': 1, 'r.c': 2}}]", "{'b': {'$eq': 1}}", "$lookup $match"},
    {"[" LOOKUP ", {'$unwind': '$r'}, {'$match': {'b': 1}}]", "{'b': {'$eq': 1}}", "$lookup"},
    {"[" LOOKUP ", {'$unwind': '$a'}]", "{}", "$lookup $unwind"},
    {"[{'$sort': {'a': 1}}, {'$match': {'$expr': {'$gt': ['$a', 1]}}}]", NULL, ""},
    {"[{'$addFields': {'x': 1}}, {'$match': {'$expr': {'$gt': ['$a', 1]}}}]", "{}",
     "$addFields $match"},
    {"[{'$match': {'$expr': {'$and': [{'$eq': ['$a', 5]}, {'$eq': [6, '$b.c']}, {'$eq': ['$d', "
     "null]}, {'$eq': ['$e', '$f']}, {'$eq': ['$g', {'$rand': {}}]}]}, 'h': 1}}]",
     NULL, ""},
    {"[{'$match': {'$expr': {'$eq': ['$a', 5]}}}]",
     "{'$and': [{'a': {'$eq': 5}}, {'$expr': {'$eq': ['$a', 5]}}]}", ""},
    {"[{'$match': {'$expr': {'$eq': ['$a', {'$literal': [1]}]}}}]",
     "{'$expr': {'$eq': ['$a', {'$literal': [1]}]}}", ""},
    {"[{'$match': {'$expr': {'$or': [{'$eq': ['$a', 5]}]}}}]",
     "{'$expr': {'$or': [{'$eq': ['$a', 5]}]}}", ""},
    {"[{'$group': {'_id': '$a'}}, {'$match': {'_id': 1}}]", "{}", "$group $match"},
    {"[{'$limit': 3}, {'$match': {'a': 1}}]", "{}", "$match"},
    {"[{'$unwind': '$a'}, {'$limit': 3}, {'$limit': 2}]", "{}", "$unwind $limit"},
    {"[{'$addFields': {'x': 1}}, {'$unwind': '$a'}, {'$match': {'b': 1}}]", "{'b': {'$eq': 1}}",
     "$addFields $unwind"},
};

Test(pipeline_joins, orders)
{
    for (size_t i = 0; i < VD_COUNT_OF(orders); i++) {
        bench_t *bench = bench_open();
        vd_error_t err = VD_ERROR_INIT;
        char left[200] = "";
        cr_assert_eq(bench_parse(bench, "c", orders[i].stages, &err), VD_OK, "%s: %s",
                     orders[i].stages, err.message);
        for (uint32_t k = 0; k < stor_pipeline_stage_count(bench->pipeline); k++) {
            const char *name = stor_pipeline_stage_name(bench->pipeline, k);
            snprintf(left + strlen(left), sizeof left - strlen(left), "%s%s", k == 0 ? "" : " ",
                     name);
            cr_assert(vd_value_is_missing(
                          vd_bson_get(stor_pipeline_stage_spec(bench->pipeline, k), name)) == false,
                      "%s", orders[i].stages);
        }
        cr_assert_str_eq(left, orders[i].left, "%s: %s", orders[i].stages, left);
        vd_bson_t filter = stor_filter_to_bson(
            bench->arena, stor_query_spec(stor_pipeline_query(bench->pipeline))->filter);
        if (orders[i].filter != NULL)
            cr_assert(vd_value_identical(vd_value_from_document(filter),
                                         query_value(bench->arena, orders[i].filter)),
                      "%s: %s", orders[i].stages, vd_bson_to_json(bench->arena, filter, 200));
        bench_close(bench);
    }
}
