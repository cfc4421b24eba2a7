/* tests/unit/storaged/test_views.c — views as commands see them: made, changed, read, refused; and
 * collections that an aggregation joins and writes, over an engine. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"

static void script(const reads_step_t *steps, size_t count)
{
    reads_t *reads = reads_open();
    reads_script(reads, steps, count);
    reads_close(reads);
}
#define SCRIPT(steps) script((steps), VD_COUNT_OF(steps))

#define FILL                                                                                       \
    {                                                                                              \
        "db",                                                                                      \
            "{'insert': 'c', 'documents': [{'_id': 1, 'k': 1}, {'_id': 2, 'k': 2}, {'_id': 3, "    \
            "'k': 1}]}",                                                                           \
            "{'n': 3}", 0, NULL                                                                    \
    }
#define VIEW                    "{'create': 'v', 'viewOn': 'c', 'pipeline': [{'$match': {'k': 1}}]}"
#define AGGREGATE(name, stages) "{'aggregate': '" name "', 'pipeline': [" stages "], 'cursor': {}}"

Test(views, made_and_read)
{
    static const reads_step_t steps[] = {
        FILL,
        {"db", VIEW, NULL, 0, NULL},
        {"db", VIEW, NULL, 0, NULL}, /* again the same: as good as made */
        {"db", "{'create': 'v', 'viewOn': 'c'}", NULL, VD_ERR_NAMESPACE_EXISTS,
         "a view already exists. NS: db.v"},
        {"db", "{'create': 'v'}", NULL, VD_ERR_NAMESPACE_EXISTS, NULL},
        {"db", "{'create': 'c', 'viewOn': 'x'}", NULL, VD_ERR_NAMESPACE_EXISTS, NULL},
        {"db", "{'listCollections': 1, 'filter': {'type': 'view'}}",
         "{'cursor.firstBatch.0.name': 'v', 'cursor.firstBatch.0.options': {'viewOn': 'c', "
         "'pipeline': [{'$match': {'k': 1}}]}, 'cursor.firstBatch.0.info': {'readOnly': true}, "
         "'cursor.firstBatch.0.idIndex': null, 'cursor.firstBatch.1': null}",
         0, NULL},
        {"db", "{'find': 'v'}",
         "{'cursor.firstBatch': [{'_id': 1, 'k': 1}, {'_id': 3, 'k': 1}], 'cursor.ns': 'db.v'}", 0,
         NULL},
        {"db", "{'find': 'v', 'filter': {'_id': 2}}", "{'cursor.firstBatch': []}", 0, NULL},
        {"db",
         "{'find': 'v', 'filter': {'_id': {'$gt': 0}}, 'sort': {'_id': -1}, 'skip': 1, 'limit': 1, "
         "'projection': {'k': 1, '_id': 0}, 'let': {'a': 1}}",
         "{'cursor.firstBatch': [{'k': 1}]}", 0, NULL},
        {"db", "{'find': 'v', 'singleBatch': true}", NULL, VD_ERR_LOCATION(168), NULL},
        {"db", "{'count': 'v'}", "{'n': 2}", 0, NULL},
        {"db", "{'count': 'v', 'query': {'_id': 3}}", "{'n': 1}", 0, NULL},
        {"db", "{'count': 'v', 'skip': 1}", "{'n': 1}", 0, NULL},
        {"db", "{'distinct': 'v', 'key': '_id'}", "{'values': [1, 3]}", 0, NULL},
        {"db", AGGREGATE("v", "{'$count': 'n'}"), "{'cursor.firstBatch': [{'n': 2}]}", 0, NULL},
        {"db", AGGREGATE("v", "{'$match': {}}, {'$group': {'_id': 1, 'n': {'$sum': 1}}}"),
         "{'cursor.firstBatch': [{'_id': 1, 'n': 2}]}", 0, NULL},
        {"db", "{'collMod': 'v', 'viewOn': 'c', 'pipeline': [{'$match': {'k': 2}}]}", NULL, 0,
         NULL},
        {"db", "{'count': 'v'}", "{'n': 1}", 0, NULL},
        {"db", "{'drop': 'c'}", NULL, 0, NULL},
        {"db", "{'count': 'v'}", "{'n': 0}", 0, NULL},
        {"db", "{'drop': 'v'}", NULL, 0, NULL},
        {"db", "{'listCollections': 1}", "{'cursor.firstBatch': []}", 0, NULL},
    };
    SCRIPT(steps);
}

Test(views, refused)
{
    static const char *const commands[] = {
        "{'insert': 'v', 'documents': [{'_id': 1}]}",
        "{'update': 'v', 'updates': [{'q': {}, 'u': {'$set': {'a': 1}}, 'upsert': true}]}",
        "{'delete': 'v', 'deletes': [{'q': {}, 'limit': 0}]}",
        "{'findAndModify': 'v', 'query': {}, 'remove': true}",
        "{'listIndexes': 'v'}",
        "{'collStats': 'v'}",
        "{'validate': 'v'}",
        AGGREGATE("c", "{'$out': 'v'}"),
        AGGREGATE("c", "{'$merge': 'v'}"),
        AGGREGATE("v", "{'$changeStream': {}}"),
    };
    static const reads_step_t steps[] = {
        {"db", "{'create': 'w', 'viewOn': ''}", NULL, VD_ERR_BAD_VALUE, "'viewOn' cannot be empty"},
        {"db", "{'create': 'w', 'viewOn': 'w'}", NULL, VD_ERR_GRAPH_CONTAINS_CYCLE, NULL},
        {"db", "{'create': 'w', 'viewOn': 'c', 'pipeline': [{'$unionWith': 'w'}]}", NULL,
         VD_ERR_GRAPH_CONTAINS_CYCLE, NULL},
        {"db", "{'create': 'w', 'viewOn': 'c', 'pipeline': [{'$merge': 'x'}]}", NULL,
         VD_ERR_LOCATION(167), NULL},
        {"db",
         "{'create': 'w', 'viewOn': 'c', 'pipeline': [{'$lookup': {'from': 'x', 'as': 'r', "
         "'pipeline': [{'$out': 'y'}]}}]}",
         NULL, VD_ERR_LOCATION(51047), NULL},
        {"db", "{'create': 'w', 'viewOn': 'c', 'pipeline': [{'$foo': 1}]}", NULL,
         VD_ERR_LOCATION(40324), NULL},
        {"db", "{'create': 'w', 'viewOn': 'c', 'validator': {'a': 1}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'v', 'viewOn': 'c'}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'v', 'validator': {}}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'w', 'viewOn': 'v'}", NULL, 0, NULL},
        {"db", "{'collMod': 'v', 'viewOn': 'w', 'pipeline': []}", NULL, VD_ERR_GRAPH_CONTAINS_CYCLE,
         NULL},
        {"admin", "{'renameCollection': 'db.v', 'to': 'db.z'}", NULL,
         VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW, "cannot rename view: db.v"},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.v', 'dropTarget': true}", NULL,
         VD_ERR_NAMESPACE_EXISTS, NULL},
    };
    reads_t *reads = reads_open();
    static const reads_step_t first[] = {FILL, {"db", VIEW, NULL, 0, NULL}};
    READS_SCRIPT(reads, first);
    for (size_t i = 0; i < VD_COUNT_OF(commands); i++)
        cr_assert_eq(reads_run(reads, "db", commands[i]), VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                     "%s: %s", commands[i], reads_text(reads));
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* ---- aggregations over several collections ---- */

Test(views, joins)
{
    static const reads_step_t steps[] = {
        FILL,
        {"db", VIEW, NULL, 0, NULL},
        {"db", "{'insert': 'o', 'documents': [{'_id': 1}, {'_id': 9}]}", "{'n': 2}", 0, NULL},
        {"db",
         AGGREGATE("o", "{'$lookup': {'from': 'c', 'localField': '_id', 'foreignField': 'k', "
                        "'as': 'r'}}, {'$project': {'r': '$r._id'}}"),
         "{'cursor.firstBatch': [{'_id': 1, 'r': [1, 3]}, {'_id': 9, 'r': []}]}", 0, NULL},
        {"db",
         AGGREGATE("o", "{'$lookup': {'from': 'v', 'localField': '_id', 'foreignField': '_id', "
                        "'as': 'r'}}, {'$unwind': '$r'}, {'$project': {'r': '$r._id'}}"),
         "{'cursor.firstBatch': [{'_id': 1, 'r': 1}]}", 0, NULL},
        {"db",
         AGGREGATE("o", "{'$graphLookup': {'from': 'c', 'startWith': '$_id', 'connectFromField': "
                        "'k', 'connectToField': '_id', 'as': 'r', 'depthField': 'd'}}, {'$limit': "
                        "1}"),
         "{'cursor.firstBatch': [{'_id': 1, 'r': [{'_id': 1, 'k': 1, 'd': {'$numberLong': "
         "'0'}}]}]}",
         0, NULL},
        {"db", AGGREGATE("o", "{'$unionWith': 'v'}, {'$count': 'n'}"),
         "{'cursor.firstBatch': [{'n': 4}]}", 0, NULL},
        /* what a crash has left of an earlier $out goes; names that only look so stay */
        {"db", "{'create': 'tmp.agg_out.0123456789abcdef.0123456789abcdef'}", NULL, 0, NULL},
        {"db", "{'create': 'tmp.agg_out.mine'}", NULL, 0, NULL},
        {"db", AGGREGATE("c", "{'$match': {'k': 1}}, {'$out': 'new'}"),
         "{'cursor.firstBatch': [], 'cursor.ns': 'db.c'}", 0, NULL},
        {"db", "{'count': 'new'}", "{'n': 2}", 0, NULL},
        {"db", "{'listCollections': 1, 'filter': {'name': {'$regex': '^tmp'}}, 'nameOnly': true}",
         "{'cursor.firstBatch': [{'name': 'tmp.agg_out.mine', 'type': 'collection'}]}", 0, NULL},
        {"db", AGGREGATE("c", "{'$project': {'_id': 1}}, {'$out': 'c'}"), NULL, 0, NULL},
        {"db", "{'find': 'c'}", "{'cursor.firstBatch': [{'_id': 1}, {'_id': 2}, {'_id': 3}]}", 0,
         NULL},
        {"db", AGGREGATE("c", "{'$merge': {'into': 'new', 'whenMatched': 'replace'}}"), NULL, 0,
         NULL},
        {"db", "{'find': 'new'}", "{'cursor.firstBatch': [{'_id': 1}, {'_id': 2}, {'_id': 3}]}", 0,
         NULL},
        {"db", AGGREGATE("c", "{'$merge': {'into': 'new', 'on': 'k'}}"), NULL,
         VD_ERR_LOCATION(51183), NULL},
        {"db", AGGREGATE("c", "{'$set': {'_id': null}}, {'$merge': 'new'}"), NULL,
         VD_ERR_LOCATION(51132), NULL},
        {"db", AGGREGATE("c", "{'$set': {'_id': [1]}}, {'$merge': 'new'}"), NULL,
         VD_ERR_LOCATION(51185), NULL},
        {"db", "{'explain': {'aggregate': 'c', 'pipeline': [{'$out': 'x'}], 'cursor': {}}}", NULL,
         VD_ERR_LOCATION(51029), NULL},
        {"db", "{'aggregate': 'c', 'pipeline': [], 'cursor': {}, 'writeConcern': {'w': 2}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
    };
    SCRIPT(steps);
}

/* A value in more documents than a group of $lookup takes, and more than fit into its memory. */
Test(views, lookup_groups)
{
    reads_t *reads = reads_open();
    vd_bb_t bb;
    vd_bson_t list;
    char buf[12];
    static char pad[200001];
    memset(pad, 'x', sizeof pad - 1);
    vd_bb_init_arena(&bb, reads->texts, 64 << 20);
    for (uint32_t i = 0; i < 120; i++) {
        vd_bb_open_document(&bb, vd_array_name(i, buf));
        vd_bb_int32(&bb, "_id", (int32_t)i);
        vd_bb_int32(&bb, "k", (int32_t)(i % 3));
        vd_bb_cstr(&bb, "pad", pad);
        vd_bb_close(&bb);
    }
    cr_assert_eq(vd_bb_finish(&bb, &list, NULL), VD_OK);
    reads_insert(reads, "db", "big", list);
    vd_bb_init_arena(&bb, reads->texts, 1 << 20);
    for (uint32_t i = 0; i < 300; i++) {
        vd_bb_open_document(&bb, vd_array_name(i, buf));
        vd_bb_int32(&bb, "_id", (int32_t)i);
        vd_bb_int32(&bb, "k", (int32_t)(i % 3));
        vd_bb_close(&bb);
    }
    cr_assert_eq(vd_bb_finish(&bb, &list, NULL), VD_OK);
    reads_insert(reads, "db", "small", list);
    static const reads_step_t steps[] = {
        {"db",
         AGGREGATE("small", "{'$lookup': {'from': 'big', 'localField': 'k', 'foreignField': 'k', "
                            "'as': 'r'}}, {'$group': {'_id': {'$size': '$r'}, 'n': {'$sum': 1}, "
                            "'ok': {'$sum': {'$size': {'$filter': {'input': '$r', 'cond': {'$eq': "
                            "['$$this.k', '$k']}}}}}}}"),
         "{'cursor.firstBatch': [{'_id': 40, 'n': 300, 'ok': 12000}]}", 0, NULL},
        {"db",
         AGGREGATE("small", "{'$lookup': {'from': 'big', 'pipeline': [{'$match': {'_id': {'$lt': "
                            "3}}}, {'$project': {'k': 1}}], 'as': 'r'}}, {'$unwind': '$r'}, "
                            "{'$count': 'n'}"),
         "{'cursor.firstBatch': [{'n': 900}]}", 0, NULL},
        {"db", AGGREGATE("big", "{'$facet': {'a': [{'$count': 'n'}]}}"),
         "{'cursor.firstBatch': [{'a': [{'n': 120}]}]}", 0, NULL},
        /* more than a query may keep: run again, unless that would give something else */
        {"db",
         AGGREGATE("small", "{'$limit': 6}, {'$lookup': {'from': 'big', 'pipeline': [], 'as': "
                            "'r'}}, {'$unwind': '$r'}, {'$facet': {'a': [{'$count': 'n'}], 'b': "
                            "[{'$skip': 700}, {'$count': 'n'}]}}"),
         "{'cursor.firstBatch': [{'a': [{'n': 720}], 'b': [{'n': 20}]}]}", 0, NULL},
        {"db",
         AGGREGATE("small", "{'$sample': {'size': 6}}, {'$lookup': {'from': 'big', 'pipeline': [], "
                            "'as': 'r'}}, {'$unwind': '$r'}, {'$facet': {'a': [{'$count': 'n'}], "
                            "'b': []}}"),
         NULL, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE, NULL},
        {"db",
         AGGREGATE("small", "{'$sample': {'size': 6}}, {'$lookup': {'from': 'big', 'pipeline': [], "
                            "'as': 'r'}}, {'$unwind': '$r'}, {'$facet': {'a': [{'$count': "
                            "'n'}]}}"),
         "{'cursor.firstBatch': [{'a': [{'n': 720}]}]}", 0, NULL},
        {"db", AGGREGATE("big", "{'$sample': {'size': 7}}, {'$count': 'n'}"),
         "{'cursor.firstBatch': [{'n': 7}]}", 0, NULL},
        /* few of many: from random places, each once, also after another stage and for all */
        {"db",
         AGGREGATE("small", "{'$sample': {'size': 15}}, {'$group': {'_id': null, 'ids': "
                            "{'$addToSet': '$_id'}}}, {'$project': {'_id': 0, 'n': {'$size': "
                            "'$ids'}}}"),
         "{'cursor.firstBatch': [{'n': 15}]}", 0, NULL},
        {"db",
         AGGREGATE("small", "{'$match': {'k': 1}}, {'$sample': {'size': 5}}, {'$group': {'_id': "
                            "'$k', 'n': {'$sum': 1}}}"),
         "{'cursor.firstBatch': [{'_id': 1, 'n': 5}]}", 0, NULL},
        {"db", AGGREGATE("small", "{'$sample': {'size': 1000}}, {'$count': 'n'}"),
         "{'cursor.firstBatch': [{'n': 300}]}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* What is found for a group of documents at once is what is found for each alone. */
static const char *random_field(vd_arena_t *arena, vd_rand_t *rand, int depth)
{
    static const char *const scalars[] = {"1",
                                          "2",
                                          "{'$numberLong': '1'}",
                                          "1.0",
                                          "null",
                                          "'x'",
                                          "''",
                                          "{'y': 1}",
                                          "true",
                                          "[]",
                                          "'$x'",
                                          "[[1]]",
                                          "{'$undefined': true}"};
    uint64_t kind = vd_rand_below(rand, depth == 0 ? 2 : 6);
    if (kind < 2 || depth == 0)
        return scalars[vd_rand_below(rand, VD_COUNT_OF(scalars) - 1)];
    const char *a = random_field(arena, rand, depth - 1), *b = random_field(arena, rand, depth - 1);
    if (kind == 2)
        return vd_arena_printf(arena, "[%s, %s]", a, b);
    if (kind == 3)
        return vd_arena_printf(arena, "{'%s': %s}", vd_rand_below(rand, 3) == 0 ? "y" : "x", a);
    return vd_arena_printf(arena, "[{'x': %s}, {'%s': %s}]", a,
                           vd_rand_below(rand, 2) == 0 ? "x" : "z", b);
}

static void insert_random(reads_t *reads, vd_rand_t *rand, const char *name, int count)
{
    vd_arena_t *arena = vd_arena_create();
    for (int i = 0; i < count; i++) {
        const char *command =
            vd_rand_below(rand, 10) == 0
                ? vd_arena_printf(arena, "{'insert': '%s', 'documents': [{'_id': %d}]}", name, i)
                : vd_arena_printf(arena, "{'insert': '%s', 'documents': [{'_id': %d, 'f': %s}]}",
                                  name, i, random_field(arena, rand, 2));
        cr_assert_eq(reads_run(reads, "db", command), VD_OK, "%s", command);
    }
    vd_arena_destroy(&arena);
}

#define BOTH(path, other)                                                                          \
    {                                                                                              \
        "db",                                                                                      \
            AGGREGATE("a",                                                                         \
                      "{'$lookup': {'from': 'b', 'localField': '" path "', 'foreignField': '"      \
                      "" other "', 'as': 'r1'}}, {'$lookup': {'from': 'b', 'localField': '"        \
                      "" path "', 'foreignField': '" other "', 'pipeline': [], 'as': 'r2'}}, "     \
                      "{'$match': {'$expr': {'$ne': ['$r1', '$r2']}}}"),                           \
            "{'cursor.firstBatch': []}", 0, NULL                                                   \
    }

Test(views, lookup_groups_are_as_single_ones)
{
    static const reads_step_t steps[] = {
        BOTH("f", "f"),
        BOTH("f.x", "f"),
        BOTH("f", "f.x"),
        BOTH("f.x", "f.x"),
        BOTH("f.0", "f.x"),
        BOTH("f", "f.0.x"),
        {"db", /* and there is something to compare */
         AGGREGATE("a", "{'$lookup': {'from': 'b', 'localField': 'f', 'foreignField': 'f', 'as': "
                        "'r'}}, {'$match': {'r.3': {'$exists': true}}}, {'$limit': 1}, {'$count': "
                        "'n'}"),
         "{'cursor.firstBatch': [{'n': 1}]}", 0, NULL},
    };
    for (uint64_t seed = 1; seed <= 4; seed++) {
        vd_rand_t rand;
        vd_rand_seed(&rand, seed);
        reads_t *reads = reads_open();
        insert_random(reads, &rand, "a", 60);
        insert_random(reads, &rand, "b", 60);
        READS_SCRIPT(reads, steps);
        reads_close(reads);
    }
}
