/* tests/integration/driver_c.c — what an application does through libmongoc: ordinary calls, their
 * results and their errors; one line per check, the first failure ends it. The connection string
 * comes in VD_TEST_URI: a URI holds a password, and arguments are public. */
#include <mongoc/mongoc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *part = "";
static int checks;
static bson_error_t error;

static void check(bool good, const char *what, int line)
{
    if (!good) {
        printf("FAILED  %s: %s (line %d): %s\n", part, what, line, error.message);
        exit(1);
    }
    printf("ok  %s: %s\n", part, what);
    checks++;
    memset(&error, 0, sizeof error);
}
#define CHECK(good, what) check(good, what, __LINE__)

static void check_json(const bson_t *got, const char *want, const char *what, int line)
{
    char *json = bson_as_canonical_extended_json(got, NULL);
    bson_t *expected = bson_new_from_json((const uint8_t *)want, -1, &error);
    bool same = expected != NULL && bson_equal(got, expected);
    if (!same)
        printf("got  %s\nwant %s\n", json, want);
    bson_free(json);
    bson_destroy(expected);
    check(same, what, line);
}
#define CHECK_JSON(got, want, what) check_json(got, want, what, __LINE__)

/* BSON from JSON; freed at the end of the program. */
static bson_t *json(const char *text)
{
    static bson_t *made[512];
    static size_t count;
    if (text == NULL) {
        while (count > 0)
            bson_destroy(made[--count]);
        return NULL;
    }
    bson_t *value = bson_new_from_json((const uint8_t *)text, -1, &error);
    if (value == NULL || count == sizeof made / sizeof made[0]) {
        printf("FAILED  the test's own JSON %s: %s\n", text, error.message);
        exit(1);
    }
    return made[count++] = value;
}

/* The number under a dotted path, -1 when there is none. */
static int64_t number(const bson_t *reply, const char *path)
{
    bson_iter_t iter, at;
    if (!bson_iter_init(&iter, reply) || !bson_iter_find_descendant(&iter, path, &at))
        return -1;
    return bson_iter_as_int64(&at);
}

static const char *text(const bson_t *reply, const char *path)
{
    bson_iter_t iter, at;
    if (!bson_iter_init(&iter, reply) || !bson_iter_find_descendant(&iter, path, &at) ||
        !BSON_ITER_HOLDS_UTF8(&at))
        return "";
    return bson_iter_utf8(&at, NULL);
}

/* Reads a cursor to its end; checks the _id's when ids is given. */
static int64_t drain(mongoc_cursor_t *cursor, const int *ids)
{
    const bson_t *doc;
    int64_t count = 0;
    while (mongoc_cursor_next(cursor, &doc)) {
        if (ids != NULL && number(doc, "_id") != ids[count]) {
            printf("document %d has _id %d\n", (int)count, (int)number(doc, "_id"));
            count = -1000000;
        }
        count++;
    }
    if (mongoc_cursor_error(cursor, &error))
        count = -1;
    mongoc_cursor_destroy(cursor);
    return count;
}

static bool one_is(mongoc_collection_t *c, const char *filter, const char *want)
{
    const bson_t *doc;
    mongoc_cursor_t *cursor =
        mongoc_collection_find_with_opts(c, json(filter), json("{\"limit\": 1}"), NULL);
    bool good = mongoc_cursor_next(cursor, &doc) && bson_equal(doc, json(want));
    (void)mongoc_cursor_error(cursor, &error);
    mongoc_cursor_destroy(cursor);
    return good;
}

static void fill(mongoc_collection_t *c, int count)
{
    bson_t **docs = calloc((size_t)count, sizeof *docs);
    for (int i = 0; i < count; i++)
        docs[i] = BCON_NEW("_id", BCON_INT32(i), "g", BCON_INT32(i % 3));
    bool good =
        mongoc_collection_insert_many(c, (const bson_t **)docs, (size_t)count, NULL, NULL, &error);
    for (int i = 0; i < count; i++)
        bson_destroy(docs[i]);
    free(docs);
    CHECK(good, "insert_many");
}

static void inserts(mongoc_collection_t *c)
{
    bson_t reply;
    part = "insert";
    CHECK(mongoc_collection_insert_one(c, json("{\"_id\": 1, \"a\": 1}"), NULL, &reply, &error),
          "insert_one");
    CHECK(number(&reply, "insertedCount") == 1, "insertedCount 1");
    bson_destroy(&reply);
    CHECK(!mongoc_collection_insert_one(c, json("{\"_id\": 1}"), NULL, &reply, &error),
          "a second _id 1 is refused");
    CHECK(number(&reply, "writeErrors.0.code") == MONGOC_ERROR_DUPLICATE_KEY &&
              number(&reply, "writeErrors.0.keyPattern._id") == 1 &&
              number(&reply, "writeErrors.0.keyValue._id") == 1,
          "writeErrors names code, keyPattern, keyValue");
    bson_destroy(&reply);
    (void)mongoc_collection_insert_one(c, json("{\"_id\": 1}"), NULL, NULL, &error);
    CHECK(error.domain == MONGOC_ERROR_SERVER && error.code == MONGOC_ERROR_DUPLICATE_KEY &&
              strstr(error.message, "E11000 duplicate key error collection: cdriver.plain index: "
                                    "_id_ dup key: { _id: 1 }") != NULL,
          "the error's domain, code and text");
    const bson_t *three[] = {json("{\"_id\": 2}"), json("{\"_id\": 1}"), json("{\"_id\": 3}")};
    CHECK(!mongoc_collection_insert_many(c, three, 3, json("{\"ordered\": false}"), &reply, &error),
          "insert_many, unordered, one duplicate");
    CHECK(number(&reply, "insertedCount") == 2 && number(&reply, "writeErrors.0.index") == 1,
          "two of three went in");
    bson_destroy(&reply);
    CHECK(mongoc_collection_count_documents(c, json("{}"), NULL, NULL, NULL, &error) == 3,
          "count_documents");
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

static void updates(mongoc_collection_t *c)
{
    bson_t reply;
    part = "update";
    fill(c, 9);
    CHECK(mongoc_collection_update_one(c, json("{\"_id\": 1}"), json("{\"$set\": {\"n\": 5}}"),
                                       NULL, &reply, &error),
          "update_one");
    CHECK(number(&reply, "matchedCount") == 1 && number(&reply, "modifiedCount") == 1,
          "matched 1, modified 1");
    bson_destroy(&reply);
    CHECK(mongoc_collection_update_many(c, json("{\"g\": 0}"), json("{\"$inc\": {\"g\": 10}}"),
                                        NULL, &reply, &error),
          "update_many");
    CHECK(number(&reply, "modifiedCount") == 3, "modified 3");
    bson_destroy(&reply);
    CHECK(mongoc_collection_replace_one(c, json("{\"_id\": 2}"), json("{\"only\": true}"), NULL,
                                        NULL, &error) &&
              one_is(c, "{\"_id\": 2}", "{\"_id\": 2, \"only\": true}"),
          "replace_one");
    CHECK(mongoc_collection_update_one(c, json("{\"_id\": 77}"), json("{\"$set\": {\"n\": 1}}"),
                                       json("{\"upsert\": true}"), &reply, &error),
          "upsert");
    CHECK(number(&reply, "upsertedCount") == 1 && number(&reply, "upsertedId") == 77,
          "upsertedId 77");
    bson_destroy(&reply);
    CHECK(mongoc_collection_update_one(c, json("{\"_id\": 77}"),
                                       json("{\"$set\": {\"a\": [1, 2, 3]}}"), NULL, NULL,
                                       &error) &&
              mongoc_collection_update_one(
                  c, json("{\"_id\": 77}"), json("{\"$set\": {\"a.$[x]\": 0}}"),
                  json("{\"arrayFilters\": [{\"x\": {\"$gte\": 2}}]}"), NULL, &error) &&
              one_is(c, "{\"_id\": 77}", "{\"_id\": 77, \"n\": 1, \"a\": [1, 0, 0]}"),
          "arrayFilters");
    (void)mongoc_collection_update_one(c, json("{\"_id\": 2}"), json("{\"$inc\": {\"only\": 1}}"),
                                       NULL, NULL, &error);
    CHECK(error.code == 14, "$inc of a bool: TypeMismatch");
    CHECK(mongoc_collection_delete_one(c, json("{\"_id\": 77}"), NULL, &reply, &error) &&
              number(&reply, "deletedCount") == 1,
          "delete_one");
    bson_destroy(&reply);
    CHECK(mongoc_collection_delete_many(c, json("{\"g\": {\"$gte\": 10}}"), NULL, &reply, &error) &&
              number(&reply, "deletedCount") == 3,
          "delete_many");
    bson_destroy(&reply);
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

static void bulk(mongoc_collection_t *c)
{
    bson_t reply;
    part = "bulk";
    mongoc_bulk_operation_t *b = mongoc_collection_create_bulk_operation_with_opts(c, NULL);
    mongoc_bulk_operation_insert(b, json("{\"_id\": 1}"));
    mongoc_bulk_operation_insert(b, json("{\"_id\": 2}"));
    mongoc_bulk_operation_update_one(b, json("{\"_id\": 1}"), json("{\"$set\": {\"a\": 1}}"),
                                     false);
    mongoc_bulk_operation_update(b, json("{}"), json("{\"$set\": {\"b\": 1}}"), false);
    mongoc_bulk_operation_replace_one(b, json("{\"_id\": 3}"), json("{\"c\": 1}"), true);
    mongoc_bulk_operation_remove_one(b, json("{\"_id\": 2}"));
    mongoc_bulk_operation_remove(b, json("{\"c\": 1}"));
    CHECK(mongoc_bulk_operation_execute(b, &reply, &error) != 0, "execute");
    CHECK(number(&reply, "nInserted") == 2 && number(&reply, "nMatched") == 3 &&
              number(&reply, "nModified") == 3 && number(&reply, "nUpserted") == 1 &&
              number(&reply, "nRemoved") == 2 && number(&reply, "upserted.0.index") == 4,
          "counts");
    bson_destroy(&reply);
    mongoc_bulk_operation_destroy(b);
    CHECK(one_is(c, "{}", "{\"_id\": 1, \"a\": 1, \"b\": 1}"), "what is left");
    b = mongoc_collection_create_bulk_operation_with_opts(c, json("{\"ordered\": false}"));
    mongoc_bulk_operation_insert(b, json("{\"_id\": 1}"));
    mongoc_bulk_operation_insert(b, json("{\"_id\": 5}"));
    CHECK(mongoc_bulk_operation_execute(b, &reply, &error) == 0 && error.code == 11000,
          "a duplicate is said");
    CHECK(number(&reply, "nInserted") == 1 && number(&reply, "writeErrors.0.index") == 0,
          "unordered goes on");
    bson_destroy(&reply);
    mongoc_bulk_operation_destroy(b);
    b = mongoc_collection_create_bulk_operation_with_opts(c, NULL);
    for (int i = 0; i < 5000; i++) {
        bson_t *doc = BCON_NEW("_id", BCON_INT32(1000 + i), "pad", BCON_UTF8("................"));
        mongoc_bulk_operation_insert(b, doc);
        bson_destroy(doc);
    }
    CHECK(mongoc_bulk_operation_execute(b, &reply, &error) != 0 &&
              number(&reply, "nInserted") == 5000,
          "5000 inserts");
    bson_destroy(&reply);
    mongoc_bulk_operation_destroy(b);
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

static void cursors(mongoc_collection_t *c)
{
    static const int down[] = {7, 6, 5, 4, 3}, grouped[] = {2, 5, 8, 1, 4, 7, 0, 3, 6};
    const bson_t *doc;
    part = "find";
    fill(c, 9);
    CHECK(drain(mongoc_collection_find_with_opts(
                    c, json("{}"),
                    json("{\"sort\": {\"_id\": -1}, \"skip\": 1, \"limit\": 5, \"batchSize\": 2}"),
                    NULL),
                down) == 5,
          "sort, skip, limit, batchSize");
    CHECK(drain(mongoc_collection_find_with_opts(c, json("{}"),
                                                 json("{\"sort\": {\"g\": -1, \"_id\": 1}}"), NULL),
                grouped) == 9,
          "sort by two fields");
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(
        c, json("{\"_id\": 4}"), json("{\"projection\": {\"_id\": 0, \"g\": 1}}"), NULL);
    CHECK(mongoc_cursor_next(cursor, &doc), "one document");
    CHECK_JSON(doc, "{\"g\": {\"$numberInt\": \"1\"}}", "projection");
    mongoc_cursor_destroy(cursor);
    CHECK(drain(mongoc_collection_find_with_opts(
                    c, json("{\"_id\": {\"$in\": [1, 3, 99]}, \"g\": {\"$lt\": 1}}"), NULL, NULL),
                NULL) == 1,
          "filter");
    CHECK(drain(mongoc_collection_find_with_opts(c, json("{\"a\": {\"$nope\": 1}}"), NULL, NULL),
                NULL) == -1 &&
              error.code == 2 && error.domain == MONGOC_ERROR_SERVER,
          "unknown operator: BadValue");
    cursor = mongoc_collection_find_with_opts(c, json("{}"), json("{\"batchSize\": 2}"), NULL);
    CHECK(mongoc_cursor_next(cursor, &doc) && mongoc_cursor_get_id(cursor) != 0, "open cursor");
    mongoc_cursor_t *copy = mongoc_cursor_clone(cursor);
    mongoc_cursor_destroy(cursor);
    CHECK(drain(copy, NULL) == 9, "its copy reads all");
    CHECK(drain(mongoc_collection_find_with_opts(
                    c, json("{}"), json("{\"maxTimeMS\": 5000, \"comment\": \"why\"}"), NULL),
                NULL) == 9,
          "maxTimeMS, comment");
    part = "count";
    CHECK(mongoc_collection_count_documents(c, json("{\"g\": 0}"), NULL, NULL, NULL, &error) == 3,
          "count_documents");
    CHECK(mongoc_collection_count_documents(c, json("{}"), json("{\"skip\": 2, \"limit\": 4}"),
                                            NULL, NULL, &error) == 4,
          "count_documents with skip and limit");
    CHECK(mongoc_collection_estimated_document_count(c, NULL, NULL, NULL, &error) == 9,
          "estimated_document_count");
    part = "aggregate";
    cursor = mongoc_collection_aggregate(
        c, MONGOC_QUERY_NONE,
        json("{\"pipeline\": [{\"$match\": {\"g\": {\"$ne\": 2}}}, {\"$count\": \"n\"}]}"), NULL,
        NULL);
    CHECK(mongoc_cursor_next(cursor, &doc), "$match, $count");
    CHECK_JSON(doc, "{\"n\": {\"$numberInt\": \"6\"}}", "n is 6");
    mongoc_cursor_destroy(cursor);
    CHECK(drain(mongoc_collection_aggregate(
                    c, MONGOC_QUERY_NONE,
                    json("{\"pipeline\": [{\"$sort\": {\"_id\": -1}}, {\"$skip\": 1}, {\"$limit\": "
                         "5}]}"),
                    json("{\"batchSize\": 2}"), NULL),
                down) == 5,
          "$sort, $skip, $limit in batches");
    part = "";
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

static void find_and_modify(mongoc_collection_t *c)
{
    bson_t reply;
    part = "find_and_modify";
    fill(c, 3);
    mongoc_find_and_modify_opts_t *opts = mongoc_find_and_modify_opts_new();
    CHECK(mongoc_find_and_modify_opts_set_update(opts, json("{\"$inc\": {\"n\": 1}}")) &&
              mongoc_find_and_modify_opts_set_flags(opts, MONGOC_FIND_AND_MODIFY_RETURN_NEW |
                                                              MONGOC_FIND_AND_MODIFY_UPSERT),
          "opts");
    CHECK(
        mongoc_collection_find_and_modify_with_opts(c, json("{\"_id\": 9}"), opts, &reply, &error),
        "upsert");
    CHECK(number(&reply, "value.n") == 1 && number(&reply, "lastErrorObject.upserted") == 9 &&
              number(&reply, "lastErrorObject.n") == 1,
          "the new document and lastErrorObject");
    bson_destroy(&reply);
    mongoc_find_and_modify_opts_destroy(opts);
    opts = mongoc_find_and_modify_opts_new();
    CHECK(mongoc_find_and_modify_opts_set_sort(opts, json("{\"_id\": 1}")) &&
              mongoc_find_and_modify_opts_set_fields(opts, json("{\"g\": 1, \"_id\": 0}")) &&
              mongoc_find_and_modify_opts_set_flags(opts, MONGOC_FIND_AND_MODIFY_REMOVE),
          "opts of a removal");
    CHECK(mongoc_collection_find_and_modify_with_opts(c, json("{\"g\": {\"$gt\": 0}}"), opts,
                                                      &reply, &error) &&
              number(&reply, "value.g") == 1 && number(&reply, "value._id") == -1,
          "remove with sort and fields");
    bson_destroy(&reply);
    mongoc_find_and_modify_opts_destroy(opts);
    CHECK(mongoc_collection_count_documents(c, json("{}"), NULL, NULL, NULL, &error) == 3,
          "three are left");
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

static bool command(mongoc_client_t *client, const char *db, const char *what, bson_t *reply)
{
    return mongoc_client_command_simple(client, db, json(what), NULL, reply, &error);
}

static void commands(mongoc_client_t *client, mongoc_database_t *db, mongoc_collection_t *c)
{
    bson_t reply;
    part = "command";
    fill(c, 9);
    CHECK(command(client, "admin", "{\"ping\": 1}", &reply) && number(&reply, "ok") == 1, "ping");
    bson_destroy(&reply);
    CHECK(command(client, "cdriver", "{\"distinct\": \"plain\", \"key\": \"g\"}", &reply) &&
              number(&reply, "values.0") == 0 && number(&reply, "values.2") == 2 &&
              number(&reply, "values.3") == -1,
          "distinct");
    bson_destroy(&reply);
    CHECK(command(client, "admin", "{\"buildInfo\": 1}", &reply) &&
              strncmp(text(&reply, "version"), "7.0.", 4) == 0,
          "buildInfo");
    bson_destroy(&reply);
    CHECK(!command(client, "admin", "{\"nonsense\": 1}", &reply) && error.code == 59 &&
              strcmp(text(&reply, "codeName"), "CommandNotFound") == 0,
          "an unknown command");
    bson_destroy(&reply);
    char **names = mongoc_database_get_collection_names_with_opts(db, NULL, &error);
    CHECK(names != NULL && names[0] != NULL && strcmp(names[0], "plain") == 0 && names[1] == NULL,
          "collection names");
    bson_strfreev(names);
    CHECK(drain(mongoc_database_find_collections_with_opts(db, NULL), NULL) == 1,
          "find_collections");
    CHECK(drain(mongoc_collection_find_indexes_with_opts(c, NULL), NULL) == 1, "find_indexes");
    names = mongoc_client_get_database_names_with_opts(client, NULL, &error);
    bool found = false;
    for (char **name = names; name != NULL && *name != NULL; name++)
        found = found || strcmp(*name, "cdriver") == 0;
    bson_strfreev(names);
    CHECK(found, "database names");
    CHECK(mongoc_database_has_collection(db, "plain", &error), "has_collection");
    CHECK(mongoc_collection_rename(c, "cdriver", "renamed", false, &error), "rename");
    CHECK(mongoc_collection_drop(c, &error), "drop");
    mongoc_collection_t *made = mongoc_database_create_collection(
        db, "checked", json("{\"validator\": {\"n\": {\"$type\": \"int\"}}}"), &error);
    CHECK(made != NULL, "create with a validator");
    (void)mongoc_collection_insert_one(made, json("{\"n\": \"text\"}"), NULL, NULL, &error);
    CHECK(error.code == 121 && strstr(error.message, "Document failed validation") != NULL,
          "it refuses");
    CHECK(mongoc_collection_insert_one(made, json("{\"n\": \"text\"}"),
                                       json("{\"bypassDocumentValidation\": true}"), NULL, &error),
          "bypassDocumentValidation");
    mongoc_collection_destroy(made);
    CHECK(mongoc_database_drop(db, &error), "drop of the database");
}

static void sessions(mongoc_client_t *client, mongoc_collection_t *c)
{
    bson_t opts = BSON_INITIALIZER;
    uint32_t stamp = 0, increment = 0, stamp_before, increment_before;
    part = "session";
    mongoc_session_opt_t *options = mongoc_session_opts_new();
    mongoc_session_opts_set_causal_consistency(options, true);
    mongoc_client_session_t *session = mongoc_client_start_session(client, options, &error);
    CHECK(session != NULL && mongoc_client_session_append(session, &opts, &error), "start");
    CHECK(mongoc_collection_insert_one(c, json("{\"_id\": 1}"), &opts, NULL, &error), "insert");
    mongoc_client_session_get_operation_time(session, &stamp_before, &increment_before);
    CHECK(stamp_before > 0 && mongoc_client_session_get_cluster_time(session) != NULL,
          "operationTime and $clusterTime");
    CHECK(drain(mongoc_collection_find_with_opts(c, json("{}"), &opts, NULL), NULL) == 1,
          "it reads its own write");
    CHECK(mongoc_collection_update_one(c, json("{}"), json("{\"$set\": {\"a\": 1}}"), &opts, NULL,
                                       &error),
          "update");
    mongoc_client_session_get_operation_time(session, &stamp, &increment);
    CHECK(stamp > stamp_before || (stamp == stamp_before && increment > increment_before),
          "operationTime goes up");
    mongoc_transaction_opt_t *txn = mongoc_transaction_opts_new();
    CHECK(mongoc_client_session_start_transaction(session, txn, &error), "start_transaction");
    bson_t in_txn = BSON_INITIALIZER;
    CHECK(mongoc_client_session_append(session, &in_txn, &error), "append");
    CHECK(mongoc_collection_insert_one(c, json("{\"_id\": 2}"), &in_txn, NULL, &error), "in one");
    CHECK(mongoc_client_session_abort_transaction(session, &error), "abort");
    CHECK(mongoc_client_session_start_transaction(session, txn, &error), "again");
    CHECK(mongoc_collection_delete_one(c, json("{\"_id\": 1}"), &in_txn, NULL, &error), "delete");
    CHECK(mongoc_collection_insert_one(c, json("{\"_id\": 3}"), &in_txn, NULL, &error), "insert");
    bson_t committed;
    CHECK(mongoc_client_session_commit_transaction(session, &committed, &error), "commit");
    bson_destroy(&committed);
    bson_destroy(&in_txn);
    mongoc_transaction_opts_destroy(txn);
    mongoc_client_session_destroy(session);
    mongoc_session_opts_destroy(options);
    bson_destroy(&opts);
    CHECK(mongoc_collection_count_documents(c, json("{}"), NULL, NULL, NULL, &error) == 1,
          "all of the one that was committed is there, and nothing of the other");
    bson_t reply;
    mongoc_change_stream_t *stream = mongoc_collection_watch(c, json("{}"), NULL);
    const bson_t *event;
    bson_iter_t field;
    CHECK(!mongoc_change_stream_next(stream, &event) &&
              !mongoc_change_stream_error_document(stream, &error, &event),
          "a change stream opens, and has nothing yet");
    CHECK(mongoc_collection_insert_one(c, json("{\"_id\": \"seen\"}"), NULL, NULL, &error),
          "insert");
    CHECK(mongoc_change_stream_next(stream, &event) &&
              bson_iter_init_find(&field, event, "operationType") &&
              strcmp(bson_iter_utf8(&field, NULL), "insert") == 0,
          "it sees the insert");
    mongoc_change_stream_destroy(stream);
    CHECK(command(client, "cdriver",
                  "{\"createIndexes\": \"plain\", \"indexes\": [{\"key\": {\"a\": 1}, \"name\": "
                  "\"a_1\"}]}",
                  &reply),
          "a secondary index is made");
    bson_destroy(&reply);
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

static void types(mongoc_collection_t *c)
{
    static const char every[] =
        "{\"_id\": 1, \"double\": {\"$numberDouble\": \"1.5\"}, \"nan\": {\"$numberDouble\": "
        "\"NaN\"}, \"str\": \"\\u017c\", \"doc\": {\"z\": {}, \"a\": []}, \"bin\": {\"$binary\": "
        "{\"base64\": \"AAEC\", \"subType\": \"80\"}}, \"undef\": {\"$undefined\": true}, \"oid\": "
        "{\"$oid\": \"0123456789abcdef01234567\"}, \"yes\": true, \"date\": {\"$date\": "
        "{\"$numberLong\": \"-1\"}}, \"null\": null, \"re\": {\"$regularExpression\": "
        "{\"pattern\": "
        "\"a\", \"options\": \"ix\"}}, \"code\": {\"$code\": \"f\"}, \"symbol\": {\"$symbol\": "
        "\"s\"}, \"scope\": {\"$code\": \"f\", \"$scope\": {\"x\": 1}}, \"i32\": {\"$numberInt\": "
        "\"-5\"}, \"ts\": {\"$timestamp\": {\"t\": 1, \"i\": 2}}, \"i64\": {\"$numberLong\": "
        "\"5\"}, \"dec\": {\"$numberDecimal\": \"1.10\"}, \"min\": {\"$minKey\": 1}, \"max\": "
        "{\"$maxKey\": 1}}";
    part = "types";
    CHECK(mongoc_collection_insert_one(c, json(every), NULL, NULL, &error), "insert");
    CHECK(one_is(c, "{\"_id\": 1}", every), "byte for byte");
    CHECK(mongoc_collection_drop(c, &error), "drop");
}

/* What the server counts on its sockets. */
static int64_t traffic(mongoc_client_t *client, const char *path)
{
    bson_t reply;
    CHECK(command(client, "admin", "{\"serverStatus\": 1}", &reply), "serverStatus");
    int64_t bytes = number(&reply, path);
    bson_destroy(&reply);
    CHECK(bytes > 0, path);
    return bytes;
}

/* The same few calls with messages compressed by one method; the server must have agreed to it. */
static void compressed(const char *uri, const char *method)
{
    bson_t reply;
    char whole[2048], *pad = malloc(200001);
    memset(pad, 'x', 200000);
    pad[200000] = 0;
    part = method;
    snprintf(whole, sizeof whole, "%s&compressors=%s", uri, method);
    mongoc_client_t *client = mongoc_client_new(whole);
    CHECK(client != NULL, "client");
    mongoc_collection_t *c = mongoc_client_get_collection(client, "cdriver", method);
    bson_t *doc = BCON_NEW("_id", BCON_INT32(1), "pad", BCON_UTF8(pad));
    int64_t in = traffic(client, "network.physicalBytesIn"),
            out = traffic(client, "network.physicalBytesOut");
    CHECK(mongoc_collection_insert_one(c, doc, NULL, NULL, &error), "insert of 200 kB");
    const bson_t *back;
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, json("{}"), NULL, NULL);
    CHECK(mongoc_cursor_next(cursor, &back) && bson_equal(back, doc), "the same comes back");
    mongoc_cursor_destroy(cursor);
    CHECK(traffic(client, "network.physicalBytesIn") - in < 100000, "it went in compressed");
    CHECK(traffic(client, "network.physicalBytesOut") - out < 100000, "it came back compressed");
    CHECK(
        mongoc_client_command_simple(client, "admin", json("{\"hello\": 1}"), NULL, &reply, &error),
        "hello");
    bson_destroy(&reply);
    bson_t *ask = BCON_NEW("hello", BCON_INT32(1), "compression", "[", BCON_UTF8(method), "]");
    CHECK(mongoc_client_command_simple(client, "admin", ask, NULL, &reply, &error) &&
              strcmp(text(&reply, "compression.0"), method) == 0,
          "the server agrees to it");
    bson_destroy(&reply);
    bson_destroy(ask);
    CHECK(mongoc_collection_delete_many(c, json("{}"), NULL, &reply, &error) &&
              number(&reply, "deletedCount") == 1,
          "delete");
    bson_destroy(&reply);
    CHECK(mongoc_collection_drop(c, &error), "drop");
    bson_destroy(doc);
    free(pad);
    mongoc_collection_destroy(c);
    mongoc_client_destroy(client);
}

int main(void)
{
    const char *uri = getenv("VD_TEST_URI");
    if (uri == NULL) {
        fprintf(stderr, "driver_c: VD_TEST_URI is not set\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    mongoc_init();
    mongoc_client_t *client = mongoc_client_new(uri);
    part = "client";
    CHECK(client != NULL && mongoc_client_set_error_api(client, MONGOC_ERROR_API_VERSION_2),
          "the connection string");
    mongoc_database_t *db = mongoc_client_get_database(client, "cdriver");
    mongoc_collection_t *c = mongoc_client_get_collection(client, "cdriver", "plain");
    (void)mongoc_database_drop(db, &error);
    memset(&error, 0, sizeof error);
    inserts(c);
    updates(c);
    bulk(c);
    cursors(c);
    find_and_modify(c);
    sessions(client, c);
    types(c);
    commands(client, db, c);
    mongoc_collection_destroy(c);
    mongoc_database_destroy(db);
    mongoc_client_destroy(client);
    compressed(uri, "zlib");
    compressed(uri, "snappy");
    compressed(uri, "zstd");
    (void)json(NULL);
    mongoc_cleanup();
    printf("%d checks passed\n", checks);
    return 0;
}
