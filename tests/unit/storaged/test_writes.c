/* tests/unit/storaged/test_writes.c — insert, update, delete and findAndModify on a real engine:
 * scripts of commands, each with what its reply must show. */
#include "libcommon/base/rand.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/exec/scan.h"

typedef struct {
    const char *command, *expected; /* every path of `expected` has that value; null: is missing */
    int code;
} step_t;

static void run_script(reads_t *reads, const step_t *steps, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int rc = reads_run(reads, "db", steps[i].command);
        cr_assert_eq(rc, steps[i].code, "%s: %d in %s", steps[i].command, -rc, reads_text(reads));
        if (steps[i].expected != NULL)
            reads_expect(reads, steps[i].command, steps[i].expected);
    }
}
#define RUN(reads, steps) run_script((reads), (steps), VD_COUNT_OF(steps))
#define ALL               "{'find': 'c', 'sort': {'_id': 1}}"

static void script(const step_t *steps, size_t count)
{
    reads_t *reads = reads_open();
    run_script(reads, steps, count);
    reads_close(reads);
}
#define SCRIPT(steps) script((steps), VD_COUNT_OF(steps))

/* ---- insert ---- */

Test(writes, insert)
{
    static const step_t steps[] = {
        {"{'insert': 'c', 'documents': [{'a': 1, '_id': 1}, {'_id': 2}]}",
         "{'n': 2, 'ok': 1, 'writeErrors': null, 'nModified': null}", 0},
        {ALL, "{'cursor.firstBatch': [{'_id': 1, 'a': 1}, {'_id': 2}]}", 0},
        {"{'insert': 'c', 'documents': [{'_id': 3}, {'_id': 1}, {'_id': 4}]}",
         "{'n': 1, 'writeErrors.1': null, 'writeErrors.0': {'index': 1, 'code': 11000, 'errmsg': "
         "'E11000 duplicate key error collection: db.c index: _id_ dup key: { _id: 1 }', "
         "'keyPattern': {'_id': 1}, 'keyValue': {'_id': 1}}}",
         0},
        {"{'insert': 'c', 'ordered': false, 'documents': [{'_id': 3}, {'_id': 5}, {'_id': 5}, "
         "{'_id': 6}, {'_id': [1]}, {'_id': 7}]}",
         "{'n': 3, 'writeErrors.0.index': 0, 'writeErrors.1.index': 2, 'writeErrors.2.index': 4, "
         "'writeErrors.2.code': 2, 'writeErrors.2.keyPattern': null, 'writeErrors.3': null}",
         0},
        {"{'count': 'c'}", "{'n': 6}", 0},
        {"{'insert': 'c', 'documents': []}", NULL, VD_ERR_INVALID_LENGTH},
        {"{'insert': 'c'}",
         "{'errmsg': 'BSON field \\u0027insert.documents\\u0027 is missing but a required field'}",
         VD_ERR_LOCATION(40414)},
        {"{'insert': 'c', 'documents': [{}, 1]}",
         "{'errmsg': 'BSON field \\u0027insert.documents.1\\u0027 is the wrong type "
         "\\u0027int\\u0027, expected type "
         "\\u0027object\\u0027'}",
         VD_ERR_TYPE_MISMATCH},
        {"{'insert': 'c', 'documents': {}}", NULL, VD_ERR_TYPE_MISMATCH},
        {"{'insert': 'c', 'documents': [{}], 'foo': 1}",
         "{'errmsg': 'BSON field \\u0027insert.foo\\u0027 is an unknown field.'}",
         VD_ERR_LOCATION(40415)},
        {"{'insert': 'c', 'documents': [{}], 'stmtIds': [1, 2]}", NULL, VD_ERR_INVALID_LENGTH},
        {"{'insert': 'c', 'documents': [{}], 'stmtIds': [1], 'stmtId': 2}", NULL,
         VD_ERR_INVALID_OPTIONS},
        {"{'insert': 'system.x', 'documents': [{}]}", NULL, VD_ERR_INVALID_NAMESPACE},
        {"{'insert': 'a$b', 'documents': [{}]}", NULL, VD_ERR_INVALID_NAMESPACE},
        {"{'insert': 1, 'documents': [{}]}", NULL, VD_ERR_INVALID_NAMESPACE},
        {"{'insert': 'd', 'documents': [{'x': 1}]}", "{'n': 1}", 0},
        {"{'find': 'd', 'filter': {'_id': {'%type': 'objectId'}, 'x': 1}}",
         "{'cursor.firstBatch.0.x': 1}", 0},
    };
    reads_t *reads = reads_open();
    RUN(reads, steps);
    cr_assert_eq(reads->storage.counters.documents_inserted, 7);
    cr_assert_eq(reads->storage.counters.insert, 2 + 2 + 6 + 1);
    reads_close(reads);
}

/* A sequence of documents {_id: first ..}, each with a filler of some bytes; those with an _id
 * divisible by `every` come twice. */
static vdp_sequence_t many(reads_t *reads, int first, int count, int every, size_t filler,
                           int *ret_doubles)
{
    vd_buf_t buf;
    vd_bb_t bb;
    vdp_sequence_t sequence = {.name = VD_SLICE_LIT("documents")};
    uint8_t *bytes = vd_arena_zalloc(reads->texts, filler + 1);
    vd_buf_init(&buf, 128 << 20);
    vd_bb_init(&bb, 32 << 20);
    *ret_doubles = 0;
    for (int i = first; i < first + count; i++) {
        bool twice = every > 0 && i % every == 0;
        vd_bson_t document;
        vd_bb_reset(&bb);
        vd_bb_int32(&bb, "_id", i);
        vd_bb_binary(&bb, "b", 0, vd_slice(bytes, filler));
        cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
        for (int n = 0; n <= twice; n++) {
            cr_assert_eq(vd_buf_append(&buf, document.data, document.len), VD_OK);
            sequence.count++;
        }
        *ret_doubles += twice;
    }
    sequence.documents =
        vd_slice(vd_arena_copy(reads->texts, buf.data, vd_buf_len(&buf)), vd_buf_len(&buf));
    vd_bb_done(&bb);
    vd_buf_done(&buf);
    return sequence;
}

static int64_t number(reads_t *reads, const char *path)
{
    int64_t n = -1;
    (void)vd_value_as_int64(reads_at(reads, path), &n);
    return n;
}

static int64_t count_all(reads_t *reads)
{
    cr_assert_eq(reads_run(reads, "db",
                           "{'aggregate': 'c', 'pipeline': [{'$match': {'_id': "
                           "{'$exists': true}}}, {'$count': 'n'}], 'cursor': {}}"),
                 VD_OK);
    int64_t scanned = number(reads, "cursor.firstBatch.0.n");
    cr_assert_eq(reads_run(reads, "db", "{'count': 'c'}"), VD_OK);
    cr_assert_eq(number(reads, "n"), scanned < 0 ? 0 : scanned);
    return number(reads, "n");
}

Test(writes, insert_groups, .timeout = 300)
{
    static const struct {
        int count, every;
        size_t filler;
        bool ordered;
    } cases[] = {
        {1, 0, 0, true},     {499, 0, 0, true},     {500, 0, 0, true},      {501, 0, 0, true},
        {5000, 7, 0, false}, {5000, 1, 0, false},   {5000, 601, 10, false}, {5000, 601, 10, true},
        {5000, 1, 0, true},  {40, 0, 300000, true}, {40, 3, 300000, false},
    };
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        int doubles, expected = cases[i].count;
        reads->sequence =
            many(reads, 601 * 601 + 1, cases[i].count, cases[i].every, cases[i].filler, &doubles);
        if (cases[i].ordered && doubles > 0)
            expected = cases[i].every - (601 * 601 + 1) % cases[i].every + 1;
        if (cases[i].ordered && cases[i].every == 1)
            expected = 1;
        cr_assert_eq(
            reads_run(reads, "db",
                      cases[i].ordered ? "{'insert': 'c'}" : "{'insert': 'c', 'ordered': false}"),
            VD_OK, "%s", reads_text(reads));
        cr_assert_eq(number(reads, "n"), expected, "case %zu: %s", i, reads_text(reads));
        vd_value_t errors = reads_at(reads, "writeErrors");
        int told = errors.type == VD_BSON_ARRAY ? (int)vd_bson_count(vd_value_document(errors)) : 0;
        cr_assert_eq(told, cases[i].ordered ? doubles > 0 : doubles, "case %zu", i);
        cr_assert_eq(count_all(reads), expected);
        cr_assert_eq(reads_run(reads, "db", "{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0}]}"),
                     VD_OK);
        cr_assert_eq(number(reads, "n"), expected);
        cr_assert_eq(count_all(reads), 0);
        vd_arena_reset(reads->texts);
    }
    reads_close(reads);
}

Test(writes, insert_limits, .timeout = 300)
{
    reads_t *reads = reads_open();
    int doubles;
    reads->sequence = many(reads, 0, VD_WRITE_BATCH_MAX, 0, 0, &doubles);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_OK);
    cr_assert_eq(number(reads, "n"), VD_WRITE_BATCH_MAX);
    /* The same again: an error for each, and the reply still fits. */
    reads->sequence = many(reads, 0, VD_WRITE_BATCH_MAX, 0, 0, &doubles);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c', 'ordered': false}"), VD_OK, "%s",
                 reads_text(reads));
    cr_assert_eq(number(reads, "n"), 0);
    cr_assert_eq(vd_bson_count(vd_value_document(reads_at(reads, "writeErrors"))),
                 VD_WRITE_BATCH_MAX);
    cr_assert_eq(vd_value_string(reads_at(reads, "writeErrors.99999.errmsg")).len, 0);
    reads->sequence = many(reads, 0, VD_WRITE_BATCH_MAX + 1, 0, 0, &doubles);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_ERR_INVALID_LENGTH);
    vd_arena_reset(reads->texts);
    /* Sizes: 21 bytes are the document's own. */
    reads->sequence = many(reads, 200000, 1, 0, VD_BSON_DOCUMENT_MAX_BYTES - 22, &doubles);
    cr_assert_eq(reads->sequence.documents.len, VD_BSON_DOCUMENT_MAX_BYTES);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_OK);
    cr_assert_eq(number(reads, "n"), 1);
    reads->sequence = many(reads, 200001, 1, 0, VD_BSON_DOCUMENT_MAX_BYTES - 21, &doubles);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_OK);
    cr_assert_eq(number(reads, "writeErrors.0.code"), 2);
    reads->sequence = many(reads, 200001, 1, 0, VD_BSON_INTERNAL_MAX_BYTES, &doubles);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_ERR_BSON_OBJECT_TOO_LARGE);
    reads->sequence = many(reads, 200001, 1, 0, 1, &doubles);
    reads->sequence.name = VD_SLICE_LIT("updates");
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_ERR_LOCATION(40415));
    reads_close(reads);
}

/* ---- validators ---- */

static void create(reads_t *reads, const char *name, const char *options)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_begin(reads, "db");
    stor_create_options_t create = {query_json(reads->texts, options), NULL};
    reads_ok(
        stor_catalog_create(&reads->request, VD_SLICE_LIT("db"), vd_slice_str(name), &create, &err),
        &err);
}

Test(writes, validators)
{
    static const step_t steps[] = {
        {"{'insert': 'c', 'documents': [{'_id': 1, 'a': 5}, {'_id': 2, 'a': -1}, {'_id': 3, 'a': "
         "1}]}",
         "{'n': 1, 'writeErrors.0.index': 1, 'writeErrors.0.code': 121, 'writeErrors.0.errmsg': "
         "'Document failed validation', 'writeErrors.0.errInfo.failingDocumentId': 2}",
         0},
        {"{'insert': 'c', 'ordered': false, 'documents': [{'_id': 2, 'a': -1}, {'_id': 3, 'a': "
         "1}]}",
         "{'n': 1, 'writeErrors.0.index': 0}", 0},
        {"{'insert': 'c', 'bypassDocumentValidation': true, 'documents': [{'_id': 9, 'a': -1}]}",
         "{'n': 1}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': -9}}}]}",
         "{'n': 0, 'nModified': 0, 'writeErrors.0.code': 121}", 0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'a': -2}}, 'multi': true}]}",
         "{'n': 0, 'nModified': 0, 'writeErrors.0.errInfo.failingDocumentId': 3}", 0},
        {ALL,
         "{'cursor.firstBatch': [{'_id': 1, 'a': 3}, {'_id': 3, 'a': 1}, {'_id': 9, 'a': -1}]}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 4}, 'u': {'a': -2}, 'upsert': true}]}",
         "{'n': 0, 'upserted': null, 'writeErrors.0.code': 121}", 0},
        {"{'update': 'c', 'bypassDocumentValidation': true, 'updates': [{'q': {'_id': 1}, 'u': "
         "{'a': -2}}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'findAndModify': 'c', 'query': {'_id': 3}, 'update': {'a': -7}}",
         "{'code': 121, 'errInfo.failingDocumentId': 3}", VD_ERR_DOCUMENT_VALIDATION_FAILURE},
    };
    reads_t *reads = reads_open();
    create(reads, "c", "{'validator': {'a': {'$gte': 0}}}");
    RUN(reads, steps);
    reads_close(reads);
}

/* ---- update ---- */

Test(writes, update)
{
    static const step_t steps[] = {
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 1}}}]}",
         "{'n': 0, 'nModified': 0, 'upserted': null}", 0},
        {"{'insert': 'c', 'documents': [{'_id': 1, 'a': 1, 'l': [1, 5, 9]}, {'_id': 2, 'a': 1}, "
         "{'_id': 3, 'a': 2}]}",
         "{'n': 3}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'a': 1}}}, {'q': {'a': 2}, "
         "'u': {'$set': {'b': 1}}, 'multi': true}, {'q': {'_id': 2}, 'u': {'$set': {'a': 1}}}]}",
         "{'n': 4, 'nModified': 3}", 0},
        {ALL,
         "{'cursor.firstBatch': [{'_id': 1, 'a': 2, 'l': [1, 5, 9], 'b': 1}, {'_id': 2, 'a': "
         "1}, {'_id': 3, 'a': 2, 'b': 1}]}",
         0},
        {"{'update': 'c', 'updates': [{'q': {'l': {'$gt': 4}}, 'u': {'$set': {'l.$': 50}}}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1, 'l': 9}, 'u': {'$inc': {'l.$': 1}}}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'l.$[x]': 0}}, "
         "'arrayFilters': [{'x': {'$gt': 20}}]}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'find': 'c', 'filter': {'_id': 1}}", "{'cursor.firstBatch.0.l': [1, 0, 10]}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 2}, 'u': {'z': 1}}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'update': 'c', 'let': {'k': 7}, 'updates': [{'q': {'$expr': {'$eq': ['$z', 1]}}, 'u': "
         "[{'$set': {'z': {'$add': ['$z', '$$k', '$$m']}}}], 'c': {'m': 100}}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'find': 'c', 'filter': {'_id': 2}}", "{'cursor.firstBatch': [{'_id': 2, 'z': 108}]}", 0},
        /* upserts */
        {"{'update': 'c', 'updates': [{'q': {'_id': 8, 'k': 'x'}, 'u': {'$inc': {'n': 1}}, "
         "'upsert': true}, {'q': {'_id': 9}, 'u': {'r': 1}, 'upsert': true}, {'q': {'_id': 9}, "
         "'u': {'$set': {'r': 2}}, 'upsert': true}]}",
         "{'n': 3, 'nModified': 1, 'upserted': [{'index': 0, '_id': 8}, {'index': 1, '_id': 9}]}",
         0},
        {"{'find': 'c', 'filter': {'_id': {'$gte': 8}}}",
         "{'cursor.firstBatch': [{'_id': 8, 'k': 'x', 'n': 1}, {'_id': 9, 'r': 2}]}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 8, 'k': 'y'}, 'u': {'$inc': {'n': 1}}, "
         "'upsert': true}]}",
         "{'n': 0, 'writeErrors.0.code': 11000, 'writeErrors.0.keyValue': {'_id': 8}}", 0},
        {"{'update': 'e', 'updates': [{'q': {'x': 5}, 'u': {'$set': {'y': 1}}, 'upsert': true, "
         "'multi': true}]}",
         "{'n': 1, 'nModified': 0, 'upserted.0.index': 0}", 0},
        {"{'update': 'e', 'updates': [{'q': {'x': 5}, 'u': {'$set': {'y': 2}}, 'upsert': true, "
         "'multi': true}]}",
         "{'n': 1, 'nModified': 1, 'upserted': null}", 0},
    };
    SCRIPT(steps);
}

/* An _id whose key is cut and hashed; nested ones; numbers that are equal. */
Test(writes, odd_ids)
{
    reads_t *reads = reads_open();
    char *text = vd_arena_alloc(reads->texts, 10001);
    memset(text, 'k', 10000);
    text[10000] = 0;
    const char *const ids[] = {vd_arena_printf(reads->texts, "'%s'", text),
                               "{'a': [1, {'b': 2}]}",
                               "null",
                               "1.5",
                               "{'$numberLong': '7'}",
                               "{'$minKey': 1}",
                               "''"};
    for (size_t i = 0; i < VD_COUNT_OF(ids); i++) {
        const step_t steps[] = {
            {vd_arena_printf(reads->texts, "{'insert': 'c', 'documents': [{'_id': %s}]}", ids[i]),
             "{'n': 1}", 0},
            {vd_arena_printf(reads->texts, "{'insert': 'c', 'documents': [{'_id': %s}]}", ids[i]),
             "{'n': 0, 'writeErrors.0.code': 11000}", 0},
            {vd_arena_printf(reads->texts,
                             "{'update': 'c', 'updates': [{'q': {'_id': %s}, 'u': {'$inc': {'a': "
                             "1}}, 'upsert': true}]}",
                             ids[i]),
             "{'n': 1, 'nModified': 1, 'upserted': null}", 0},
            {vd_arena_printf(reads->texts,
                             "{'findAndModify': 'c', 'query': {'_id': %s}, 'remove': true, "
                             "'fields': {'_id': 0}}",
                             ids[i]),
             "{'value': {'a': 1}}", 0},
            {vd_arena_printf(reads->texts,
                             "{'delete': 'c', 'deletes': [{'q': {'_id': %s}, 'limit': 1}]}",
                             ids[i]),
             "{'n': 0}", 0},
        };
        RUN(reads, steps);
    }
    static const step_t equal[] = {
        {"{'insert': 'c', 'documents': [{'_id': 5}]}", "{'n': 1}", 0},
        {"{'insert': 'c', 'documents': [{'_id': 5.0}]}", "{'writeErrors.0.code': 11000}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': {'$numberLong': '5'}}, 'u': {'a': 1}}]}",
         "{'n': 1, 'nModified': 1}", 0},
        {"{'delete': 'c', 'deletes': [{'q': {'_id': 5.0}, 'limit': 0}]}", "{'n': 1}", 0},
    };
    RUN(reads, equal);
    reads_close(reads);
}

Test(writes, update_errors)
{
    static const step_t steps[] = {
        {"{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 'x'}, {'_id': 3, 'a': "
         "1}]}",
         "{'n': 3}", 0},
        /* a document that fails ends a multi update; those before it stay changed */
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'a': 1}}, 'multi': true}]}",
         "{'n': 0, 'nModified': 0, 'writeErrors.0.code': 14, 'writeErrors.0.index': 0}", 0},
        {ALL,
         "{'cursor.firstBatch': [{'_id': 1, 'a': 2}, {'_id': 2, 'a': 'x'}, {'_id': 3, 'a': 1}]}",
         0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$bad': {'a': 1}}}, {'q': {'_id': "
         "1}, 'u': {'$set': {'a': 5}}}]}",
         "{'n': 0, 'writeErrors.0.code': 9, 'writeErrors.1': null}", 0},
        {"{'update': 'c', 'ordered': false, 'updates': [{'q': {'_id': 1}, 'u': {'$bad': {'a': "
         "1}}}, {'q': {'$bad': 1}, 'u': {}}, {'q': {'_id': 1}, 'u': {'$set': {'a': 5}}}, {'q': "
         "{'_id': 1}, 'u': {'$set': {'_id': 5}}}]}",
         "{'n': 1, 'nModified': 1, 'writeErrors.0.index': 0, 'writeErrors.1.index': 1, "
         "'writeErrors.1.code': 2, 'writeErrors.2.index': 3, 'writeErrors.2.code': 66, "
         "'writeErrors.3': null}",
         0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'a': 1}, 'multi': true}]}",
         "{'writeErrors.0.code': 9}", 0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'a': 1}}, 'c': {'x': 1}}]}",
         "{'writeErrors.0.code': 51198}", 0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'a': 1}}, 'hint': 'other'}]}",
         "{'writeErrors.0.code': 2}", 0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'a': 1}}, 'collation': {'locale': "
         "'nowhere'}}]}",
         "{'writeErrors.0.code': 2}", 0},
        {"{'update': 'c', 'let': {'x': '$a'}, 'ordered': false, 'updates': [{'q': {}, 'u': "
         "{'$set': "
         "{'a': 1}}}, {'q': {}, 'u': {'$set': {'a': 1}}}]}",
         "{'n': 0, 'writeErrors.0.code': 4890500, 'writeErrors.1.index': 1}", 0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'a': 1}}, 'foo': 1}]}",
         "{'errmsg': 'BSON field \\u0027update.updates.foo\\u0027 is an unknown field.'}",
         VD_ERR_LOCATION(40415)},
        {"{'update': 'c', 'updates': [{'u': {'$set': {'a': 1}}}]}",
         "{'errmsg': 'BSON field \\u0027update.updates.q\\u0027 is missing but a required field'}",
         VD_ERR_LOCATION(40414)},
        {"{'update': 'c', 'updates': [{'q': {}}]}", NULL, VD_ERR_LOCATION(40414)},
        {"{'update': 'c', 'updates': [{'q': 1, 'u': {}}]}", NULL, VD_ERR_TYPE_MISMATCH},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': 1}]}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {}, 'hint': 1}]}", NULL,
         VD_ERR_FAILED_TO_PARSE},
        {"{'update': 'c', 'updates': []}", NULL, VD_ERR_INVALID_LENGTH},
        {"{'update': 'system.users', 'updates': [{'q': {}, 'u': {}}]}", NULL,
         VD_ERR_INVALID_NAMESPACE},
    };
    SCRIPT(steps);
}

/* ---- delete ---- */

Test(writes, delete)
{
    static const step_t steps[] = {
        {"{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0}]}", "{'n': 0}", 0},
        {"{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}, {'_id': 2, 'a': 1}, {'_id': 3, 'a': "
         "1}, {'_id': {'x': 1}, 'a': 2}, {'_id': 5, 'a': 3}]}",
         "{'n': 5}", 0},
        {"{'delete': 'c', 'deletes': [{'q': {'a': 1}, 'limit': 1}, {'q': {'_id': {'x': 1}}, "
         "'limit': 1}, {'q': {'_id': 99}, 'limit': 1}]}",
         "{'n': 2, 'nModified': null}", 0},
        {ALL, "{'cursor.firstBatch': [{'_id': 2, 'a': 1}, {'_id': 3, 'a': 1}, {'_id': 5, 'a': 3}]}",
         0},
        {"{'delete': 'c', 'let': {'k': 1}, 'deletes': [{'q': {'$expr': {'$eq': ['$a', '$$k']}}, "
         "'limit': 0, 'hint': {'_id': 1}}]}",
         "{'n': 2}", 0},
        {"{'delete': 'c', 'ordered': false, 'deletes': [{'q': {'$bad': 1}, 'limit': 0}, {'q': "
         "{'_id': 5}, 'limit': 1}, {'q': {}, 'limit': 0, 'hint': 'none'}]}",
         "{'n': 1, 'writeErrors.0.index': 0, 'writeErrors.1.index': 2}", 0},
        {"{'delete': 'c', 'deletes': [{'q': {}, 'limit': 2}]}",
         "{'errmsg': 'The limit field in delete objects must be 0 or 1. Got 2'}",
         VD_ERR_FAILED_TO_PARSE},
        {"{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0.5}]}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"{'delete': 'c', 'deletes': [{'q': {}, 'limit': 'x'}]}", NULL, VD_ERR_TYPE_MISMATCH},
        {"{'delete': 'c', 'deletes': [{'q': {}}]}",
         "{'errmsg': 'BSON field \\u0027delete.deletes.limit\\u0027 is missing but a required "
         "field'}",
         VD_ERR_LOCATION(40414)},
        {"{'delete': 'c', 'deletes': [{'limit': 1}]}", NULL, VD_ERR_LOCATION(40414)},
        {"{'delete': 'c', 'deletes': [{'q': {}, 'limit': 1, 'x': 1}]}", NULL,
         VD_ERR_LOCATION(40415)},
        {"{'count': 'c'}", "{'n': 0}", 0},
    };
    reads_t *reads = reads_open();
    RUN(reads, steps);
    cr_assert_eq(reads->storage.counters.documents_deleted, 5);
    cr_assert_eq(reads->storage.counters.remove, 1 + 3 + 1 + 3);
    reads_close(reads);
}

/* ---- findAndModify ---- */

Test(writes, find_and_modify)
{
    static const step_t steps[] = {
        {"{'findAndModify': 'c', 'query': {'_id': 1}, 'update': {'$set': {'a': 1}}}",
         "{'lastErrorObject': {'n': 0, 'updatedExisting': false}, 'value': null}", 0},
        {"{'findAndModify': 'c', 'query': {'_id': 1}, 'remove': true}",
         "{'lastErrorObject': {'n': 0}, 'value': null}", 0},
        {"{'findAndModify': 'c', 'query': {'_id': 1}, 'update': {'$set': {'a': 1}}, 'upsert': "
         "true}",
         "{'lastErrorObject': {'n': 1, 'updatedExisting': false, 'upserted': 1}, 'value': null}",
         0},
        {"{'findAndModify': 'c', 'query': {'_id': 2}, 'update': {'$set': {'a': 2, 'b': 1}}, "
         "'upsert': true, 'new': true, 'fields': {'b': 0}}",
         "{'lastErrorObject.upserted': 2, 'value': {'_id': 2, 'a': 2}}", 0},
        {"{'findAndModify': 'c', 'query': {'_id': 1}, 'update': {'$inc': {'a': 5}}}",
         "{'lastErrorObject': {'n': 1, 'updatedExisting': true}, 'value': {'_id': 1, 'a': 1}}", 0},
        {"{'findAndModify': 'c', 'query': {}, 'sort': {'a': -1}, 'update': {'$inc': {'a': 5}}, "
         "'new': true}",
         "{'value': {'_id': 1, 'a': 11}}", 0},
        {"{'findAndModify': 'c', 'query': {}, 'sort': {'_id': -1}, 'update': [{'$set': {'a': "
         "{'$add': ['$a', 1]}}}], 'new': true}",
         "{'value': {'_id': 2, 'a': 3, 'b': 1}}", 0},
        {"{'findAndModify': 'c', 'query': {}, 'sort': {'a': 1}, 'remove': true, 'fields': {'_id': "
         "0, 'a': 1}}",
         "{'lastErrorObject': {'n': 1}, 'value': {'a': 3}}", 0},
        {"{'findAndModify': 'c', 'query': {'_id': 1, 'a': 0}, 'update': {'a': 1}, 'upsert': true}",
         "{'code': 11000, 'keyValue': {'_id': 1}}", VD_ERR_DUPLICATE_KEY},
        {"{'insert': 'c', 'documents': [{'_id': 7, 'l': [{'k': 1}, {'k': 2}]}]}", "{'n': 1}", 0},
        {"{'findAndModify': 'c', 'query': {'l.k': 2}, 'update': {'$set': {'l.$.k': 3}}, 'fields': "
         "{'_id': 0, 'l.$': 1}}",
         "{'value': {'l': [{'k': 2}]}}", 0},
        {"{'findAndModify': 'c', 'query': {'_id': 7}, 'update': {'$set': {'x': 1}}, 'fields': "
         "{'a': "
         "{'$bad': 1}}}",
         NULL, VD_ERR_LOCATION(31325)},
        {"{'findAndModify': 'c', 'query': {'_id': 7, 'x': 1}, 'remove': true}", "{'value': null}",
         0},
        {"{'findAndModify': 'c', 'query': {}}",
         "{'errmsg': 'Either an update or remove=true must be specified'}", VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'remove': true, 'update': {}}",
         "{'errmsg': 'Cannot specify both an update and remove=true'}", VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'remove': true, 'upsert': true}",
         "{'errmsg': 'Cannot specify both upsert=true and remove=true '}", VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'remove': true, 'new': true}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'remove': true, 'arrayFilters': []}",
         "{'errmsg': 'Cannot specify arrayFilters and remove=true'}", VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'update': [], 'arrayFilters': []}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'update': 1}", NULL, VD_ERR_FAILED_TO_PARSE},
        {"{'findAndModify': 'c', 'update': {}, 'bar': 1}",
         "{'errmsg': 'BSON field \\u0027findAndModify.bar\\u0027 is an unknown field.'}",
         VD_ERR_LOCATION(40415)},
        {"{'findAndModify': 'c', 'update': {'$bad': 1}}", NULL, VD_ERR_FAILED_TO_PARSE},
    };
    SCRIPT(steps);
}

/* ---- long statements ---- */

Test(writes, multi_in_bounded_transactions, .timeout = 300)
{
    reads_t *reads = reads_open();
    int doubles;
    reads->sequence = many(reads, 0, 20000, 0, 100, &doubles);
    cr_assert_eq(reads_run(reads, "db", "{'insert': 'c'}"), VD_OK);
    cr_assert_eq(reads_run(reads, "db",
                           "{'update': 'c', 'updates': [{'q': {'_id': {'$gte': 10}}, "
                           "'u': {'$inc': {'n': 1}}, 'multi': true}]}"),
                 VD_OK);
    cr_assert_eq(number(reads, "n"), 19990);
    cr_assert_eq(number(reads, "nModified"), 19990);
    cr_assert_lt(vd_arena_used(reads->arena), 1 << 20, "the request's memory grew");
    cr_assert_eq(reads_run(reads, "db", "{'count': 'c', 'query': {'n': 1}}"), VD_OK);
    cr_assert_eq(number(reads, "n"), 19990);
    cr_assert_eq(reads_run(reads, "db",
                           "{'delete': 'c', 'deletes': [{'q': {'n': 1}, 'limit': "
                           "0}]}"),
                 VD_OK);
    cr_assert_eq(number(reads, "n"), 19990);
    cr_assert_lt(vd_arena_used(reads->arena), 1 << 20);
    cr_assert_eq(count_all(reads), 10);
    reads_close(reads);
}

/* ---- who may, and where it runs ---- */

Test(writes, system_collections_are_the_gateways)
{
    static const char command[] = "{'insert': 'system.users', 'documents': [{'_id': 'a.b'}]}";
    reads_t *reads = reads_open();
    cr_assert_eq(reads_run(reads, "admin", command), VD_ERR_INVALID_NAMESPACE);
    reads->flags |= VDP_COMMAND_INTERNAL | VDP_COMMAND_NO_REPLY;
    cr_assert_eq(reads_run(reads, "admin", command), VD_OK, "%s", reads_text(reads));
    cr_assert(reads->request.announce);
    cr_assert_eq(reads->storage.auth_epoch, reads->request.depends_on);
    cr_assert_eq(reads_run(reads, "db", command), VD_ERR_INVALID_NAMESPACE);
    reads_close(reads);
}

/* What a reply waits for: its own commit, or what its miss, duplicate or no-op was decided by. */
Test(writes, depends)
{
    static const char *const commands[] = {
        "{'insert': 'c', 'documents': [{'_id': 1}]}",
        "{'update': 'c', 'updates': [{'q': {'_id': 2}, 'u': {'a': 1}}]}",
        "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {}}]}",
        "{'update': 'c', 'updates': [{'q': {'x': 1}, 'u': {'a': 1}}]}",
        "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'_id': 1}}}]}",
        "{'delete': 'c', 'deletes': [{'q': {'_id': 2}, 'limit': 1}]}",
        "{'delete': 'none', 'deletes': [{'q': {'x': 2}, 'limit': 0}]}",
        "{'findAndModify': 'c', 'query': {'x': 1}, 'remove': true}",
        "{'findAndModify': 'c', 'query': {'x': 1}, 'sort': {'y': 1}, 'remove': true}",
    };
    reads_t *reads = reads_open();
    cr_assert_eq(reads_run(reads, "db", commands[0]), VD_OK);
    uint64_t committed = reads->request.depends_on;
    cr_assert_eq(reads->request.operation_time, committed);
    cr_assert_eq(stor_engine_newest(reads->storage.engine), committed);
    for (size_t i = 0; i < VD_COUNT_OF(commands); i++) {
        cr_assert_eq(reads_run(reads, "db", commands[i]), VD_OK);
        cr_assert_geq(reads->request.depends_on, committed, "%s", commands[i]);
    }
    reads_close(reads);
}

Test(writes, version)
{
    reads_t *reads = reads_open();
    static const step_t before[] = {
        {"{'create': 'c', 'cas': 'required'}", "{'ok': 1}", 0},
        {"{'insert': 'c', 'documents': [{'_id': 1, 'n': 0}]}", "{'n': 1}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$inc': {'n': 1}}}]}",
         "{'n': 0, 'writeErrors.0.code': 90019}", 0},
        {"{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'n': 1}}, 'multi': true}, {'q': "
         "{'_id': 2}, 'u': {'$set': {'n': 1}}, 'upsert': true}], 'ordered': false}",
         "{'n': 1, 'writeErrors.0.code': 90019, 'writeErrors.1': null, 'upserted.0.index': 1}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1, '$version': 5}, 'u': {'n': 9}}]}",
         "{'n': 0, 'writeErrors.0.code': 90001, 'writeErrors.0.errInfo.expected': {'$numberLong': "
         "'5'}}",
         0},
        {"{'delete': 'c', 'deletes': [{'q': {'n': 0, '$version': 5}, 'limit': 0}]}",
         "{'n': 0, 'writeErrors.0.code': 90001}", 0},
        {"{'update': 'c', 'updates': [{'q': {'_id': 3, '$version': 5}, 'u': {'n': 9}}]}",
         "{'n': 0, 'writeErrors': null}", 0},
        {"{'findAndModify': 'c', 'query': {'n': 0, '$version': 5}, 'sort': {'n': 1}, 'update': "
         "{'n': "
         "9}}",
         "{'code': 90001}", VD_ERR_STALE_VERSION},
        {"{'find': 'c', 'filter': {'_id': 1}}", "{'cursor.firstBatch': [{'_id': 1, 'n': 0}]}", 0},
        {"{'find': 'c', 'filter': {'_id': 1}, 'projection': {'v': {'$meta': 'version'}}}", NULL, 0},
    };
    RUN(reads, before);
    vd_value_t v = vd_bson_get_path(reads->reply, VD_SLICE_LIT("cursor.firstBatch.0.v"));
    cr_assert_eq(v.type, VD_BSON_INT64);
    int64_t found = vd_value_int64(v);
    const char *command =
        vd_arena_printf(reads->texts,
                        "{'findAndModify': 'c', 'query': {'_id': 1, '$version': {'$numberLong': "
                        "'%lld'}}, 'update': "
                        "{'$inc': {'n': 1}}, 'new': true, 'fields': {'v': {'$meta': 'version'}}}",
                        (long long)found);
    cr_assert_eq(reads_run(reads, "db", command), VD_OK, "%s", reads_text(reads));
    vd_value_t made = vd_bson_get_path(reads->reply, VD_SLICE_LIT("value.v"));
    cr_assert_eq(made.type, VD_BSON_INT64);
    int64_t version = vd_value_int64(made);
    cr_assert_gt(version, found);
    cr_assert_eq(reads_run(reads, "db", command), VD_ERR_STALE_VERSION, "%s", reads_text(reads));
    vd_value_t told = vd_bson_get_path(reads->reply, VD_SLICE_LIT("errInfo.version"));
    cr_assert_eq(told.type, VD_BSON_INT64);
    cr_assert_eq(vd_value_int64(told), version);
    reads_close(reads);
}

Test(writes, point)
{
    static const struct {
        const char *command;
        bool point;
    } cases[] = {
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {}}, {'q': {'_id': {'$eq': 2}}}]}",
         true},
        {"{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {}}, {'q': {'a': 1}}]}", false},
        {"{'update': 'c', 'updates': [{'q': {'_id': {'$gt': 1}}, 'u': {}}]}", false},
        {"{'update': 'c', 'updates': [1]}", false},
        {"{'delete': 'c', 'deletes': [{'q': {'_id': 1, 'b': 2}, 'limit': 0}]}", true},
        {"{'delete': 'c', 'deletes': [{'q': {}, 'limit': 0}]}", false},
        {"{'findAndModify': 'c', 'query': {'_id': 'x'}, 'remove': true}", true},
        {"{'findAndModify': 'c', 'remove': true}", false},
    };
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_slice_t name;
        vd_value_t value;
        reads_begin(reads, "db");
        reads->request.sections.body = query_json(reads->texts, cases[i].command);
        cr_assert(vd_bson_first(reads->request.sections.body, &name, &value));
        cr_assert_eq(stor_command_find(name)->point(&reads->request), cases[i].point, "%s",
                     cases[i].command);
    }
    reads_close(reads);
}

/* ---- a model in memory does the same ---- */

#define MODEL_IDS 40

typedef struct {
    reads_t *reads;
    vd_rand_t random;
    bool there[MODEL_IDS];
    int a[MODEL_IDS];
} model_t;

static uint32_t pick(model_t *model, uint32_t below)
{
    return (uint32_t)vd_rand_below(&model->random, below);
}

static void expect(model_t *model, const char *command, int n, int modified)
{
    reads_t *reads = model->reads;
    cr_assert_eq(reads_run(reads, "db", command), VD_OK, "%s: %s", command, reads_text(reads));
    cr_assert_eq(number(reads, "n"), n, "%s: %s", command, reads_text(reads));
    if (modified >= 0)
        cr_assert_eq(number(reads, "nModified"), modified, "%s: %s", command, reads_text(reads));
}

static void model_insert(model_t *model)
{
    vd_arena_t *texts = model->reads->texts;
    bool ordered = pick(model, 2) == 0, stopped = false;
    const char *list = "";
    int n = 0;
    for (uint32_t i = pick(model, 6) + 1; i > 0; i--) {
        uint32_t id = pick(model, MODEL_IDS);
        list = vd_arena_printf(texts, "%s%s{'_id': %u, 'k': %u, 'a': 0}", list,
                               *list == 0 ? "" : ", ", id, id % 5);
        if (stopped)
            continue;
        if (model->there[id]) {
            stopped = ordered;
        } else {
            model->there[id] = true;
            model->a[id] = 0;
            n++;
        }
    }
    expect(model,
           vd_arena_printf(texts, "{'insert': 'c', 'ordered': %s, 'documents': [%s]}",
                           ordered ? "true" : "false", list),
           n, -1);
}

static void model_update_one(model_t *model)
{
    uint32_t id = pick(model, MODEL_IDS), by = pick(model, 3);
    bool upsert = pick(model, 3) == 0, there = model->there[id];
    expect(model,
           vd_arena_printf(model->reads->texts,
                           "{'update': 'c', 'updates': [{'q': {'_id': %u, 'k': %u}, 'u': {'$inc': "
                           "{'a': %u}}, 'upsert': %s}]}",
                           id, id % 5, by, upsert ? "true" : "false"),
           there || upsert, there && by > 0);
    if (!there)
        model->a[id] = 0;
    model->there[id] |= upsert;
    if (model->there[id])
        model->a[id] += (int)by;
}

static void model_update_many(model_t *model)
{
    uint32_t k = pick(model, 5), most = pick(model, 6);
    int n = 0;
    for (uint32_t id = k; id < MODEL_IDS; id += 5) {
        if (model->there[id] && model->a[id] <= (int)most) {
            model->a[id] += 2;
            n++;
        }
    }
    expect(model,
           vd_arena_printf(model->reads->texts,
                           "{'update': 'c', 'updates': [{'q': {'k': %u, 'a': {'$lte': %u}}, 'u': "
                           "{'$inc': {'a': 2}}, 'multi': true}]}",
                           k, most),
           n, n);
}

static void model_delete(model_t *model)
{
    uint32_t low = pick(model, MODEL_IDS), high = low + pick(model, 4), n = 0;
    bool one = pick(model, 2) == 0;
    for (uint32_t id = low; id < high && id < MODEL_IDS && !(one && n > 0); id++) {
        n += model->there[id];
        model->there[id] = false;
    }
    expect(model,
           vd_arena_printf(model->reads->texts,
                           "{'delete': 'c', 'deletes': [{'q': {'_id': {'$gte': %u, '$lt': %u}}, "
                           "'limit': %d}]}",
                           low, high, one),
           (int)n, -1);
}

/* The largest `a`, of those the largest _id. */
static void model_modify(model_t *model)
{
    reads_t *reads = model->reads;
    int best = -1;
    for (int id = 0; id < MODEL_IDS; id++)
        if (model->there[id] && (best < 0 || model->a[id] >= model->a[best]))
            best = id;
    cr_assert_eq(reads_run(reads, "db",
                           "{'findAndModify': 'c', 'sort': {'a': -1, '_id': -1}, "
                           "'update': {'$set': {'a': 0}}}"),
                 VD_OK);
    cr_assert_eq(number(reads, "value._id"), best);
    if (best < 0)
        return;
    cr_assert_eq(number(reads, "value.a"), model->a[best]);
    model->a[best] = 0;
}

/* All documents, and what the collection says of itself. */
static void model_compare(model_t *model)
{
    stor_request_t *request = &model->reads->request;
    vd_error_t err = VD_ERROR_INIT;
    stor_collection_t *collection;
    stor_scan_t *scan;
    stor_record_t record;
    uint64_t hash = 0;
    int64_t count = 0, bytes = 0;
    int rc;
    reads_begin(model->reads, "db");
    reads_ok(stor_catalog_acquire(request, request->db, VD_SLICE_LIT("c"), &collection, &err),
             &err);
    stor_scan_options_t options = {.collection_id = collection->id};
    reads_ok(stor_scan_open(request->arena, &options, &scan, &err), &err);
    while ((rc = stor_scan_next(scan, request, &record, &err)) == VD_OK) {
        int64_t id = vd_value_int32(vd_bson_get(record.document, "_id"));
        cr_assert(model->there[id]);
        cr_assert_eq(vd_value_int32(vd_bson_get(record.document, "a")), model->a[id]);
        hash += stor_record_hash(record.version, record.document);
        bytes += record.document.len;
        count++;
    }
    cr_assert_eq(rc, VD_ERR_NOT_FOUND);
    stor_scan_close(&scan);
    for (int id = 0; id < MODEL_IDS; id++)
        count -= model->there[id];
    cr_assert_eq(count, 0);
    cr_assert_eq(collection->bytes, bytes);
    cr_assert_eq(collection->hash, hash);
    stor_catalog_release_all(request);
}

Test(writes, model, .timeout = 300)
{
    static void (*const operations[])(model_t *) = {model_insert, model_update_one,
                                                    model_update_many, model_delete, model_modify};
    model_t model = {.reads = reads_open()};
    vd_rand_seed(&model.random, 20260711);
    for (int i = 0; i < 3000; i++) {
        operations[pick(&model, VD_COUNT_OF(operations))](&model);
        if (i % 100 == 0)
            vd_arena_reset(model.reads->texts);
        if (i % 1000 == 500) {
            model_compare(&model);
            reads_crash(model.reads);
        }
    }
    model_compare(&model);
    reads_close(model.reads);
}
