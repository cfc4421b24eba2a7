/* tests/unit/storaged/test_collations.c — collections and indexes with a collation, over an engine:
 * what they hold after writes, a crash, a build, and under another version of ICU. */
#include "tests/unit/storaged/index_support.h"
#include "veddb-storaged/catalog/renew.h"
#include "veddb-storaged/catalog/rows.h"

#include <pthread.h>

#define CI "{'locale': 'en', 'strength': 2}"

static void fill(reads_t *reads)
{
    static const reads_step_t steps[] = {
        {"db", "{'create': 'c', 'collation': " CI "}", NULL, 0, NULL},
        {"db", "{'create': 'c', 'collation': " CI "}", NULL, 0, NULL}, /* the same */
        {"db", "{'create': 'c'}", NULL, VD_ERR_NAMESPACE_EXISTS, NULL},
        {"db",
         "{'insert': 'c', 'documents': [{'_id': 'a', 'w': 'One'}, {'_id': 'b', 'w': ['two', 'TWO', "
         "{'x': 'Y'}]}, {'_id': 3, 'w': 'tWo'}, {'_id': 4}]}",
         "{'n': 4}", 0, NULL},
        {"db",
         "{'createIndexes': 'c', 'indexes': [{'key': {'w': 1}, 'name': 'w'}, {'key': {'w': "
         "'hashed'}, 'name': 'h', 'collation': {'locale': 'simple'}, 'partialFilterExpression': "
         "{'w': {'$type': 'int'}}}, {'key': {'w': -1, '_id': 1}, 'name': 'u', 'unique': true, "
         "'collation': {'locale': 'de'}}]}",
         "{'numIndexesBefore': 1, 'numIndexesAfter': 4}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 'A'}]}",
         "{'n': 0, 'writeErrors.0.code': 11000, 'writeErrors.0.keyPattern': {'_id': 1}, "
         "'writeErrors.0.collation.strength': 2}",
         0, NULL},
        {"db", "{'update': 'c', 'updates': [{'q': {'_id': 'B'}, 'u': {'$set': {'n': 1}}}]}",
         "{'n': 1}", 0, NULL},
        {"db", "{'count': 'c', 'query': {'w': 'TWO'}}", "{'n': 2}", 0, NULL},
        {"db", "{'delete': 'c', 'deletes': [{'q': {'w': 'ONE'}, 'limit': 0}]}", "{'n': 1}", 0,
         NULL},
        {"db", "{'dropIndexes': 'c', 'index': '_id_'}", NULL, VD_ERR_INVALID_OPTIONS,
         "cannot drop _id index"},
    };
    READS_SCRIPT(reads, steps);
}

static void sound(reads_t *reads)
{
    cr_assert_eq(index_sound(reads, "db", "c", "_id_"), 3);
    cr_assert_eq(index_sound(reads, "db", "c", "w"), 4, "two, {x: 'Y'}; tWo; null");
    cr_assert_eq(index_sound(reads, "db", "c", "u"), 5, "'two' and 'TWO' differ there");
}

Test(collations, kept_over_writes_and_a_crash, .timeout = 300)
{
    reads_t *reads = reads_open();
    fill(reads);
    sound(reads);
    reads_crash(reads);
    sound(reads);
    static const reads_step_t steps[] = {
        {"db", "{'insert': 'c', 'documents': [{'_id': 'B'}]}", "{'n': 0}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {'_id': 'B'}}", "{'cursor.firstBatch.0.n': 1}", 0, NULL},
        {"db", "{'find': 'c', 'filter': {'_id': 'B'}, 'collation': {'locale': 'simple'}}",
         "{'cursor.firstBatch.0': null}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': '*'}", "{'nIndexesWas': 4}", 0, NULL},
        {"db", "{'listIndexes': 'c'}",
         "{'cursor.firstBatch.0.name': '_id_', 'cursor.firstBatch.0.collation.locale': 'en', "
         "'cursor.firstBatch.1': null}",
         0, NULL},
        {"db", "{'drop': 'c'}", "{'nIndexesWas': 1}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    reads_close(reads);
}

/* ---- another version of ICU ---- */

typedef struct {
    uint32_t count;
    vd_slice_t keys[8], values[8];
    vd_arena_t *arena;
} rows_t;

/* The row as it was written with an older one. */
static int age(vd_bson_t row, void *context, vd_error_t *err)
{
    rows_t *rows = context;
    vd_bb_t *bb = vd_arena_alloc(rows->arena, sizeof *bb);
    vd_bson_iter_t iter;
    vd_bson_t older;
    uint8_t *key = vd_arena_alloc(rows->arena, 17);
    vd_bb_init_arena(bb, rows->arena, 100000);
    vd_bson_iter_init(&iter, row);
    while (vd_bson_iter_next(&iter))
        if (vd_slice_is(iter.name, "icu"))
            vd_bb_cstr(bb, "icu", "57.1");
        else
            vd_bb_value(bb, iter.name, iter.value);
    int rc = vd_bb_finish(bb, &older, err);
    key[0] = 'x';
    vd_put_u64_be(key + 1, (uint64_t)vd_value_int64(vd_bson_get(row, "collection")));
    vd_put_u64_be(key + 9, (uint64_t)vd_value_int64(vd_bson_get(row, "id")));
    rows->keys[rows->count] = vd_slice(key, 17);
    rows->values[rows->count++] = vd_slice(older.data, older.len);
    return rc;
}

static void put(reads_t *reads, const char *table, const rows_t *rows)
{
    stor_cursor_t *cursor;
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    reads_ok(stor_cursor_open(reads->session, table, &cursor, &err), &err);
    for (uint32_t i = 0; i < rows->count; i++)
        reads_ok(stor_cursor_put(cursor, rows->keys[i], rows->values[i], &err), &err);
    reads_ok(stor_txn_commit(reads->session, &err), &err);
}

Test(collations, keys_of_another_icu_are_made_anew, .timeout = 300)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    fill(reads);
    rows_t rows = {.arena = vd_arena_create()};
    reads_ok(stor_rows_indexes(reads->session, 0, age, &rows, &err), &err);
    cr_assert_eq(rows.count, 4);
    put(reads, STOR_CATALOG_TABLE, &rows);
    /* and a key that this one would never make */
    stor_collection_t *collection = index_hold(reads, "db", "c");
    uint64_t tables[2];
    char table[32];
    snprintf(table, sizeof table, "%s", stor_index_by_name(collection, VD_SLICE_LIT("w"))->table);
    tables[0] = stor_index_by_name(collection, VD_SLICE_LIT("w"))->table_number;
    tables[1] = stor_index_by_name(collection, VD_SLICE_LIT("h"))->table_number;
    stor_catalog_release_all(&reads->request);
    rows_t planted = {1,
                      {VD_SLICE_LIT("\x3C\x01\x01\x00\x00\x2D\x06")},
                      {vd_slice((const uint8_t *)"\0\0", 2)},
                      rows.arena};
    put(reads, table, &planted);
    reads_stop(reads);
    reads_start(reads, false);
    reads_ok(stor_catalog_renew(&reads->storage, reads->session, &err), &err);
    sound(reads);
    collection = index_hold(reads, "db", "c");
    cr_assert_neq(stor_index_by_name(collection, VD_SLICE_LIT("w"))->table_number, tables[0]);
    cr_assert_eq(stor_index_by_name(collection, VD_SLICE_LIT("h"))->table_number, tables[1],
                 "it has no collation");
    stor_catalog_release_all(&reads->request);
    reads_stop(reads);
    reads_start(reads, false);
    collection = index_hold(reads, "db", "c");
    for (uint32_t i = 0; i < collection->indexes->count; i++)
        cr_assert_not(collection->indexes->items[i]->old_keys, "once is enough");
    stor_catalog_release_all(&reads->request);
    sound(reads);
    vd_arena_destroy(&rows.arena);
    reads_close(reads);
}

/* What the older one told apart, and this one does not: the start says so. */
Test(collations, a_unique_index_that_can_not_be_made_anew, .timeout = 300)
{
    reads_t *reads = reads_open();
    vd_error_t err = VD_ERROR_INIT;
    static const reads_step_t steps[] = {
        {"db",
         "{'createIndexes': 'c', 'indexes': [{'key': {'w': 1}, 'name': 'w', 'unique': true, "
         "'collation': " CI "}]}",
         NULL, 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 1, 'w': 'a'}, {'_id': 2, 'w': 'b'}]}",
         "{'n': 2}", 0, NULL},
    };
    READS_SCRIPT(reads, steps);
    rows_t rows = {.arena = vd_arena_create()};
    reads_ok(stor_rows_indexes(reads->session, 0, age, &rows, &err), &err);
    put(reads, STOR_CATALOG_TABLE, &rows);
    stor_collection_t *collection = index_hold(reads, "db", "c");
    vd_bson_t twin = query_json(rows.arena, "{'_id': 3, 'w': 'A'}");
    uint8_t *value = vd_arena_alloc(rows.arena, STOR_ENVELOPE_BYTES + twin.len);
    stor_envelope_write(value, 1, twin);
    rows_t planted = {.count = 1, .arena = rows.arena};
    reads_ok(stor_id_key(rows.arena, vd_bson_get(twin, "_id"), &planted.keys[0], &err), &err);
    planted.values[0] = vd_slice(value, STOR_ENVELOPE_BYTES + twin.len);
    char table[32];
    snprintf(table, sizeof table, "%s", collection->table);
    stor_catalog_release_all(&reads->request);
    put(reads, table, &planted);
    reads_stop(reads);
    reads_start(reads, false);
    int rc = stor_catalog_renew(&reads->storage, reads->session, &err);
    cr_assert_eq(rc, VD_ERR_DUPLICATE_KEY, "%d", -rc);
    cr_assert_not_null(strstr(err.message, "index w of db.c can't be filled anew"), "%s",
                       err.message);
    vd_arena_destroy(&rows.arena);
    reads_close(reads);
}

/* ---- a default that changes while it is used ---- */

typedef struct {
    reads_t *reads;
    pthread_t thread;
    atomic_bool stop;
    atomic_uint folded, plain, overtaken, wrong;
    int code; /* an error that is none of these */
} asker_t;

/* The answer must be all of one collation: that of the collection whose document it shows. */
static void answer_look(asker_t *asker, const stor_request_t *request)
{
    vd_bson_t cursor = vd_value_document(vd_bson_get(request->reply_document, "cursor"));
    vd_bson_t batch = vd_value_document(vd_bson_get(cursor, "firstBatch"));
    vd_value_t first = vd_bson_get(batch, "0");
    if (first.type != VD_BSON_OBJECT)
        return; /* it was not there, or was empty */
    bool folds = vd_value_as_flag(vd_bson_get(vd_value_document(first), "folds"));
    bool equal = vd_value_as_flag(vd_bson_get(vd_value_document(first), "equal"));
    asker->wrong += folds != equal;
    asker->folded += folds;
    asker->plain += !folds;
}

static void *asker_run(void *context)
{
    static const char *const json =
        "{'aggregate': 'r', 'pipeline': [{'$match': {'w': {'$in': ['a', 'A']}}}, {'$project': "
        "{'folds': 1, 'equal': {'$eq': ['$w', 'a']}}}], 'cursor': {}}";
    asker_t *asker = context;
    vd_error_t err = VD_ERROR_INIT;
    stor_session_t *session = NULL;
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = calloc(1, sizeof *request);
    asker->wrong += stor_session_open(asker->reads->storage.engine, &session, &err) != VD_OK;
    while (!atomic_load(&asker->stop) && asker->wrong == 0) {
        vd_arena_reset(arena);
        stor_request_init(request, &asker->reads->storage, arena);
        request->command.db = request->db = VD_SLICE_LIT("db");
        request->command.user = vd_slice_str(asker->reads->user);
        request->command.name = VD_SLICE_LIT("aggregate");
        request->sections.body = query_json(arena, json);
        stor_request_run(request, session);
        if (request->status == VD_OK)
            answer_look(asker, request);
        else if (request->status == -175)
            asker->overtaken++;
        else {
            asker->code = (int)request->status;
            asker->wrong++;
        }
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    free(request);
    return NULL;
}

/* Dropped and made anew, with and without a default collation, under queries that take it: none is
 * answered by one half with the one and by the other half with the other. */
Test(collations, a_default_that_changes_under_queries, .timeout = 300)
{
    reads_t *reads = reads_open();
    asker_t askers[2] = {{.reads = reads}, {.reads = reads}};
    for (size_t i = 0; i < VD_COUNT_OF(askers); i++)
        cr_assert_eq(pthread_create(&askers[i].thread, NULL, asker_run, &askers[i]), 0);
    uint32_t folded = 0, plain = 0;
    for (int round = 0; round < 30; round++) {
        bool folds = round % 2 == 0;
        reads_step_t steps[] = {
            {"db", folds ? "{'create': 'r', 'collation': " CI "}" : "{'create': 'r'}", NULL, 0,
             NULL},
            {"db",
             folds ? "{'insert': 'r', 'documents': [{'_id': 1, 'w': 'A', 'folds': true}]}"
                   : "{'insert': 'r', 'documents': [{'_id': 1, 'w': 'A', 'folds': false}]}",
             "{'n': 1}", 0, NULL},
        };
        READS_SCRIPT(reads, steps);
        uint32_t seen = askers[0].folded + askers[0].plain;
        for (int i = 0; i < 1000 && askers[0].folded + askers[0].plain == seen; i++)
            usleep(100);
        reads_step_t drop = {"db", "{'drop': 'r'}", NULL, 0, NULL};
        reads_script(reads, &drop, 1);
    }
    for (size_t i = 0; i < VD_COUNT_OF(askers); i++) {
        atomic_store(&askers[i].stop, true);
        (void)pthread_join(askers[i].thread, NULL);
        cr_assert_eq(askers[i].wrong, 0, "code %d", askers[i].code);
        folded += askers[i].folded;
        plain += askers[i].plain;
    }
    cr_assert_gt(folded, 0);
    cr_assert_gt(plain, 0);
    reads_close(reads);
}
