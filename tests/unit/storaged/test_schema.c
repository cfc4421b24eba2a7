/* tests/unit/storaged/test_schema.c — create, drop, dropDatabase, renameCollection, collMod and the
 * commands about indexes, on a real engine: scripts of commands with what each reply must show. */
#include "tests/unit/storaged/reads_support.h"

static void script(const reads_step_t *steps, size_t count)
{
    reads_t *reads = reads_open();
    reads_script(reads, steps, count);
    reads_close(reads);
}
#define SCRIPT(steps) script((steps), VD_COUNT_OF(steps))
#define LIST          "{'listCollections': 1}"
#define NAMES         "{'listCollections': 1, 'nameOnly': true}"

/* ---- create ---- */

Test(schema, create)
{
    static const reads_step_t steps[] = {
        {"db", "{'create': 'c'}", "{'ok': 1, 'note': null}", 0, NULL},
        {"db", LIST,
         "{'cursor.firstBatch.0.name': 'c', 'cursor.firstBatch.0.type': 'collection', "
         "'cursor.firstBatch.0.options': {}, 'cursor.firstBatch.0.idIndex': {'v': 2, 'key': "
         "{'_id': 1}, 'name': '_id_'}, 'cursor.firstBatch.1': null}",
         0, NULL},
        /* the same again is as good as made; another form is not */
        {"db", "{'create': 'c'}", "{'ok': 1}", 0, NULL},
        {"db", "{'create': 'c', 'validator': {}}", "{'ok': 1}", 0, NULL},
        {"db", "{'create': 'c', 'validator': {'a': 1}}",
         "{'code': 48, 'codeName': 'NamespaceExists'}", VD_ERR_NAMESPACE_EXISTS, NULL},
        {"db",
         "{'create': 'v', 'validator': {'a': 1}, 'validationLevel': 'moderate', "
         "'validationAction': 'warn', 'comment': 'x'}",
         NULL, 0, NULL},
        {"db",
         "{'create': 'v', 'validator': {'a': 1}, 'validationLevel': 'moderate', "
         "'validationAction': 'warn'}",
         NULL, 0, NULL},
        {"db", "{'create': 'v', 'validator': {'a': 1}, 'validationLevel': 'moderate'}", NULL,
         VD_ERR_NAMESPACE_EXISTS, NULL},
        {"db", "{'listCollections': 1, 'filter': {'name': 'v'}}",
         "{'cursor.firstBatch.0.options': {'validator': {'a': 1}, 'validationLevel': 'moderate', "
         "'validationAction': 'warn'}}",
         0, NULL},
        /* what means the default is taken, and shown as nothing */
        {"db",
         "{'create': 'd', 'capped': false, 'autoIndexId': null, 'temp': false, 'storageEngine': "
         "{}, 'indexOptionDefaults': {}, 'collation': {'locale': 'simple'}, 'idIndex': {'key': "
         "{'_id': 1}, 'name': '_id_', 'v': 2}, 'changeStreamPreAndPostImages': {'enabled': false}, "
         "'size': null, 'viewOn': null, 'writeConcern': {'w': 1}}",
         "{'ok': 1, 'note': null}", 0, NULL},
        {"db", "{'listCollections': 1, 'filter': {'name': 'd'}}",
         "{'cursor.firstBatch.0.options': {}}", 0, NULL},
        {"db", "{'create': 'e', 'autoIndexId': true}",
         "{'note': 'The autoIndexId option is deprecated and will be removed in a future release'}",
         0, NULL},
        {"DB", "{'create': 'c'}", NULL, VD_ERR_LOCATION(13297),
         "db already exists with different case already have: [db] trying to create [DB]"},
    };
    SCRIPT(steps);
}

Test(schema, create_tells_what_is_there)
{
    reads_t *reads = reads_open();
    cr_assert_eq(reads_run(reads, "db", "{'create': 'c', 'validationLevel': 'off'}"), VD_OK);
    cr_assert_eq(reads_run(reads, "db", "{'create': 'c'}"), VD_ERR_NAMESPACE_EXISTS);
    const char *message = (const char *)vd_value_string(reads_at(reads, "errmsg")).data;
    static const char head[] =
        "namespace db.c already exists, but with different options: { uuid: UUID(\"";
    cr_assert_eq(strncmp(message, head, strlen(head)), 0, "%s", message);
    cr_assert_str_eq(message + strlen(head) + 36, "\"), validationLevel: \"off\" }");
    reads_close(reads);
}

Test(schema, create_names)
{
    static const reads_step_t steps[] = {
        {"db", "{'create': 1}", NULL, VD_ERR_INVALID_NAMESPACE,
         "collection name has invalid type int"},
        {"db", "{'create': ''}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'create': '.a'}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'create': 'a.'}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'create': '$a'}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'create': 'a$b'}", NULL, VD_ERR_INVALID_NAMESPACE, "Invalid collection name: a$b"},
        {"db", "{'create': 'system.mine'}", NULL, VD_ERR_INVALID_NAMESPACE,
         "Invalid system namespace: db.system.mine"},
        {"admin", "{'create': 'system.users'}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"local", "{'create': 'c'}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"a.b", "{'create': 'c'}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'create': 'system.js'}", NULL, 0, NULL},
        {"db", "{'create': 'a.b c-ä'}", NULL, 0, NULL},
        {"db", NAMES, "{'cursor.firstBatch.0.name': 'a.b c-ä', 'cursor.firstBatch.2': null}", 0,
         NULL},
    };
    reads_t *reads = reads_open();
    READS_SCRIPT(reads, steps);
    char command[600], name[300];
    memset(name, 'n', sizeof name);
    for (int len = VD_NAMESPACE_MAX_BYTES - 3; len <= VD_NAMESPACE_MAX_BYTES - 2; len++) {
        snprintf(command, sizeof command, "{'create': '%.*s'}", len, name);
        cr_assert_eq(reads_run(reads, "db", command),
                     len + 3 <= VD_NAMESPACE_MAX_BYTES ? VD_OK : VD_ERR_INVALID_NAMESPACE);
    }
    reads->flags |= VDP_COMMAND_INTERNAL; /* the gateway makes its own collections */
    cr_assert_eq(reads_run(reads, "admin", "{'create': 'system.users'}"), VD_OK);
    reads_close(reads);
}

Test(schema, create_refuses_by_name)
{
    static const reads_step_t steps[] = {
        {"db", "{'create': 'c', 'capped': true, 'size': 0}", NULL, VD_ERR_LOCATION(51024), NULL},
        {"db", "{'create': 'c', 'capped': true, 'size': 'x'}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'create': 'c', 'capped': true, 'size': 9, 'max': 2147483648}", NULL,
         VD_ERR_LOCATION(51024), NULL},
        {"db", "{'create': 'c', 'capped': true}", NULL, VD_ERR_INVALID_OPTIONS,
         "the 'size' field is required when 'capped' is true"},
        {"db", "{'create': 'c', 'size': 4096}", NULL, VD_ERR_INVALID_OPTIONS,
         "the 'capped' field needs to be true when either the 'size' or 'max' fields are present"},
        {"db", "{'create': 'c', 'max': 1}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'c', 'timeseries': {'timeField': 't', 'metaField': 't'}}", NULL,
         VD_ERR_INVALID_OPTIONS, "'metaField' cannot be the same as 'timeField'"},
        {"db", "{'create': 'c', 'timeseries': {'timeField': 't'}, 'cas': 'off'}", NULL,
         VD_ERR_INVALID_OPTIONS, "db.c: 'timeseries' is not allowed with 'cas'"},
        {"db", "{'create': 'c', 'pipeline': []}", NULL, VD_ERR_INVALID_OPTIONS,
         "'pipeline' requires 'viewOn' to also be specified"},
        {"db", "{'create': 'c', 'clusteredIndex': {'key': {'_id': 1}, 'unique': true}}", NULL,
         VD_ERR_NOT_IMPLEMENTED, NULL},
        {"db", "{'create': 'c', 'expireAfterSeconds': 3}", NULL, VD_ERR_INVALID_OPTIONS,
         "'expireAfterSeconds' is only supported on time-series collections or when the "
         "'clusteredIndex' option is specified"},
        {"admin", "{'create': 'c', 'changeStreamPreAndPostImages': {'enabled': true}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'c', 'changeStreamPreAndPostImages': {}}", NULL, VD_ERR_LOCATION(40414),
         NULL},
        {"db", "{'create': 'c', 'encryptedFields': {'fields': []}}", NULL, VD_ERR_NOT_IMPLEMENTED,
         "the option 'create.encryptedFields' is not built yet"},
        {"db", "{'create': 'c', 'collation': {'locale': 'nowhere'}}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'create': 'c', 'collation': {'locale': 'de', 'version': '1'}}", NULL,
         VD_ERR_INCOMPATIBLE_COLLATION_VERSION, NULL},
        {"db", "{'create': 'c', 'collation': {'strength': 1}}", NULL, VD_ERR_LOCATION(40414), NULL},
        {"db", "{'create': 'c', 'storageEngine': {'wiredTiger': {'configString': 'x'}}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'c', 'indexOptionDefaults': {'storageEngine': {'x': 1}}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'c', 'temp': true}", NULL, VD_ERR_INVALID_OPTIONS,
         "the 'temp' field is an invalid option"},
        {"db", "{'create': 'c', 'autoIndexId': false}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db",
         "{'create': 'c', 'autoIndexId': true, 'idIndex': {'key': {'_id': 1}, 'name': '_id_'}}",
         NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'c', 'idIndex': {'key': {'a': 1}, 'name': 'a_1'}}", NULL,
         VD_ERR_BAD_VALUE, NULL},
        {"db", "{'create': 'c', 'idIndex': {'key': {'_id': 1}, 'name': '_id_', 'sparse': true}}",
         NULL, VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION, NULL},
        {"db", "{'create': 'c', 'idIndex': {'key': {'_id': 1}, 'name': '_id_', 'x': 1}}", NULL,
         VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION, NULL},
        {"db", "{'create': 'c', 'validator': 1}", NULL, VD_ERR_TYPE_MISMATCH,
         "BSON field 'create.validator' is the wrong type 'int', expected type 'object'"},
        {"db", "{'create': 'c', 'validationLevel': 'never'}", NULL, VD_ERR_BAD_VALUE,
         "Enumeration value 'never' for field 'create.validationLevel' is not a valid value."},
        {"db", "{'create': 'c', 'validationAction': 'log'}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'create': 'c', 'validationAction': 1}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'create': 'c', 'foo': 1}", NULL, VD_ERR_LOCATION(40415),
         "BSON field 'create.foo' is an unknown field."},
        {"db", "{'create': 'c', 'capped': false, 'capped': false}", NULL, VD_ERR_LOCATION(40413),
         NULL},
        /* validators that can't be */
        {"db", "{'create': 'c', 'validator': {'$bad': 1}}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'create': 'c', 'validator': {'a': {'$bad': 1}}}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"admin", "{'create': 'c', 'validator': {'a': 1}}", NULL, VD_ERR_INVALID_OPTIONS,
         "Document validators are not allowed on collection admin.c in the admin internal "
         "database"},
        {"config", "{'create': 'c', 'validator': {'a': 1}}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'create': 'system.js', 'validator': {'a': 1}}", NULL, VD_ERR_INVALID_OPTIONS,
         "Document validators not allowed on system collection db.system.js"},
        {"db", LIST, "{'cursor.firstBatch': []}", 0, NULL},
    };
    SCRIPT(steps);
}

Test(schema, create_refuses_validators_that_no_write_can_run)
{
    static const char *const validators[] = {
        "{'$where': 'true'}",
        "{'$text': {'$search': 'x'}}",
        "{'a': {'$near': [1, 1]}}",
        "{'a': {'$nearSphere': [1, 1]}}",
        "{'$and': [{'a': 1}, {'$where': 'true'}]}",
        "{'$expr': {'$function': {'body': 'x', 'args': [], 'lang': 'js'}}}",
        "{'$jsonSchema': {'bsonType': 'nonsense'}}",
        "{'a': {'$in': 1}}",
    };
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(validators); i++) {
        const char *command =
            vd_arena_printf(reads->texts, "{'create': 'c', 'validator': %s}", validators[i]);
        cr_assert_neq(reads_run(reads, "db", command), VD_OK, "%s", command);
        cr_assert_eq(reads_run(reads, "db", LIST), VD_OK);
        reads_expect(reads, command, "{'cursor.firstBatch': []}");
    }
    reads_close(reads);
}

Test(schema, a_validator_works)
{
    static const reads_step_t steps[] = {
        {"db",
         "{'create': 'c', 'validator': {'$expr': {'$and': [{'$gt': ['$n', 3]}, {'$lt': ['$d', "
         "'$$NOW']}]}}}",
         NULL, 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 1, 'n': 4, 'd': {'$date': 0}}]}",
         "{'n': 1, 'writeErrors': null}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 2, 'n': 3, 'd': {'$date': 0}}]}",
         "{'n': 0, 'writeErrors.0.code': 121}", 0, NULL},
        {"db",
         "{'insert': 'c', 'documents': [{'_id': 2, 'n': 4, 'd': {'$date': {'$numberLong': "
         "'9999999999999'}}}]}",
         "{'n': 0, 'writeErrors.0.code': 121}", 0, NULL},
        {"db", "{'collMod': 'c', 'validator': {'n': 3}}", NULL, 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 2, 'n': 3}]}", "{'n': 1}", 0, NULL},
        {"db", "{'insert': 'c', 'documents': [{'_id': 3, 'n': 4}]}", "{'n': 0}", 0, NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.d'}", NULL, 0, NULL},
        {"db", "{'insert': 'd', 'documents': [{'_id': 3, 'n': 4}]}", "{'n': 0}", 0, NULL},
        {"db", "{'collMod': 'd', 'validationLevel': 'off'}", NULL, 0, NULL},
        {"db", "{'insert': 'd', 'documents': [{'_id': 3, 'n': 4}]}", "{'n': 1}", 0, NULL},
    };
    SCRIPT(steps);
}

/* ---- drop, dropDatabase ---- */

static int64_t open_cursor(reads_t *reads, const char *name)
{
    const char *find = vd_arena_printf(reads->texts, "{'find': '%s', 'batchSize': 1}", name);
    cr_assert_eq(reads_run(reads, "db", find), VD_OK);
    int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
    cr_assert_neq(id, 0);
    return id;
}

static int more(reads_t *reads, int64_t id, const char *name)
{
    return reads_run(reads, "db",
                     vd_arena_printf(reads->texts,
                                     "{'getMore': {'$numberLong': '%lld'}, 'collection': '%s'}",
                                     (long long)id, name));
}

#define THREE "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}, {'_id': 3}]}"

Test(schema, drop)
{
    static const reads_step_t steps[] = {
        {"db", "{'drop': 'c'}", "{'ok': 1, 'nIndexesWas': null, 'ns': null}", 0, NULL},
        {"db", THREE, NULL, 0, NULL},
        {"db", "{'drop': 'c', 'comment': 1, 'writeConcern': {'w': 'majority'}}",
         "{'nIndexesWas': 1, 'ns': 'db.c', 'ok': 1}", 0, NULL},
        {"db", LIST, "{'cursor.firstBatch': []}", 0, NULL},
        {"db", "{'find': 'c'}", "{'cursor.firstBatch': []}", 0, NULL},
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'count': 'c'}", "{'n': 0}", 0, NULL},
        {"db", "{'drop': ''}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'drop': 1}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'drop': 'c', 'foo': 1}", NULL, VD_ERR_LOCATION(40415), NULL},
        {"db", "{'drop': 'c', 'collectionUUID': 1}", NULL, VD_ERR_NOT_IMPLEMENTED, NULL},
        {"admin", "{'drop': 'system.users'}", "{'code': 20, 'codeName': 'IllegalOperation'}",
         VD_ERR_ILLEGAL_OPERATION, "can't drop system collection admin.system.users"},
        {"admin", "{'drop': 'system.roles'}", NULL, VD_ERR_ILLEGAL_OPERATION, NULL},
        {"db", "{'drop': 'system.js'}", NULL, 0, NULL},
    };
    SCRIPT(steps);
}

Test(schema, cursors_end_with_their_collection)
{
    reads_t *reads = reads_open();
    cr_assert_eq(reads_run(reads, "db", THREE), VD_OK);
    int64_t id = open_cursor(reads, "c");
    cr_assert_eq(reads_run(reads, "db", "{'drop': 'c'}"), VD_OK);
    cr_assert_eq(more(reads, id, "c"), VD_ERR_QUERY_PLAN_KILLED);
    cr_assert_eq(more(reads, id, "c"), VD_ERR_CURSOR_NOT_FOUND, "told once");

    cr_assert_eq(reads_run(reads, "db", THREE), VD_OK);
    id = open_cursor(reads, "c");
    cr_assert_eq(reads_run(reads, "db", "{'collMod': 'c', 'validationLevel': 'off'}"), VD_OK);
    cr_assert_eq(more(reads, id, "c"), VD_OK, "options changed: the cursor goes on");
    reads_expect(reads, "getMore", "{'cursor.nextBatch': [{'_id': 2}, {'_id': 3}]}");

    /* who may read the old name need not be allowed to read the new one */
    id = open_cursor(reads, "c");
    cr_assert_eq(reads_run(reads, "admin", "{'renameCollection': 'db.c', 'to': 'db.d'}"), VD_OK);
    cr_assert_eq(more(reads, id, "c"), VD_ERR_QUERY_PLAN_KILLED);
    cr_assert_eq(more(reads, id, "c"), VD_ERR_CURSOR_NOT_FOUND, "told once");
    id = open_cursor(reads, "d");
    cr_assert_eq(reads_run(reads, "db", "{'dropDatabase': 1}"), VD_OK);
    cr_assert_eq(more(reads, id, "d"), VD_ERR_QUERY_PLAN_KILLED);
    reads_close(reads);
}

Test(schema, drop_database)
{
    static const reads_step_t steps[] = {
        {"db", "{'dropDatabase': 1}", "{'ok': 1, 'dropped': null}", 0, NULL},
        {"db", THREE, NULL, 0, NULL},
        {"db", "{'create': 'd'}", NULL, 0, NULL},
        {"dbx", "{'create': 'd'}", NULL, 0, NULL},
        {"db", "{'dropDatabase': 2}", NULL, VD_ERR_LOCATION(5255100), NULL},
        {"db", "{'dropDatabase': 1, 'foo': 1}", NULL, VD_ERR_LOCATION(40415), NULL},
        {"db", "{'dropDatabase': 1}", "{'ok': 1, 'dropped': 'db'}", 0, NULL},
        {"admin", "{'listDatabases': 1, 'nameOnly': true}", "{'databases': [{'name': 'dbx'}]}", 0,
         NULL},
        {"db", "{'find': 'c'}", "{'cursor.firstBatch': []}", 0, NULL},
        {"admin", "{'dropDatabase': 1}", "{'code': 20, 'codeName': 'IllegalOperation'}",
         VD_ERR_ILLEGAL_OPERATION, "Dropping the 'admin' database is prohibited."},
        {"local", "{'dropDatabase': 1}", NULL, VD_ERR_ILLEGAL_OPERATION,
         "Cannot drop 'local' database while replication is active"},
        {"a b", "{'dropDatabase': 1}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"DB", "{'create': 'now the other case is free'}", NULL, 0, NULL},
    };
    SCRIPT(steps);
}

/* ---- renameCollection ---- */

Test(schema, rename)
{
    static const reads_step_t steps[] = {
        {"db", THREE, NULL, 0, NULL},
        {"db", "{'insert': 'target', 'documents': [{'_id': 'old'}]}", NULL, 0, NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.target'}",
         "{'code': 48, 'codeName': 'NamespaceExists'}", VD_ERR_NAMESPACE_EXISTS,
         "target namespace exists"},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.target', 'dropTarget': true}", NULL, 0,
         NULL},
        {"db", "{'count': 'target'}", "{'n': 3}", 0, NULL},
        {"db", "{'count': 'c'}", "{'n': 0}", 0, NULL},
        {"db", NAMES, "{'cursor.firstBatch.0.name': 'target', 'cursor.firstBatch.1': null}", 0,
         NULL},
        {"admin", "{'renameCollection': 'db.target', 'to': 'other.x.y', 'stayTemp': false}", NULL,
         0, NULL},
        {"other", "{'find': 'x.y'}", "{'cursor.firstBatch': [{'_id': 1}, {'_id': 2}, {'_id': 3}]}",
         0, NULL},
        {"other", "{'insert': 'x.y', 'documents': [{'_id': 4}]}", "{'n': 1}", 0, NULL},
        {"db", LIST, "{'cursor.firstBatch': []}", 0, NULL},
    };
    SCRIPT(steps);
}

Test(schema, rename_refusals)
{
    static const reads_step_t steps[] = {
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'renameCollection': 'db.c', 'to': 'db.d'}", NULL, VD_ERR_UNAUTHORIZED,
         "renameCollection may only be run against the admin database."},
        {"admin", "{'renameCollection': 'db.none', 'to': 'db.d'}", NULL, VD_ERR_NAMESPACE_NOT_FOUND,
         "Source collection db.none does not exist"},
        {"admin", "{'renameCollection': 'db.none', 'to': 'db.c', 'dropTarget': true}", NULL,
         VD_ERR_NAMESPACE_NOT_FOUND, NULL},
        {"db", NAMES, "{'cursor.firstBatch.0.name': 'c'}", 0, NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.c'}", NULL, VD_ERR_ILLEGAL_OPERATION,
         "Can't rename a collection to itself"},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.c', 'dropTarget': true}", NULL,
         VD_ERR_ILLEGAL_OPERATION, NULL},
        {"admin", "{'renameCollection': 'db', 'to': 'db.d'}", NULL, VD_ERR_INVALID_NAMESPACE,
         "Invalid source namespace: db"},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.'}", NULL, VD_ERR_INVALID_NAMESPACE,
         "Invalid target namespace: db."},
        {"admin", "{'renameCollection': 'db.c', 'to': 'a b.c'}", NULL, VD_ERR_INVALID_NAMESPACE,
         NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.x$y'}", NULL, VD_ERR_INVALID_NAMESPACE,
         NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'admin.system.users'}", NULL,
         VD_ERR_ILLEGAL_OPERATION,
         "error with target namespace: Invalid system namespace: admin.system.users"},
        {"admin", "{'renameCollection': 'admin.system.users', 'to': 'db.d'}", NULL,
         VD_ERR_ILLEGAL_OPERATION,
         "error with source namespace: Invalid system namespace: admin.system.users"},
        {"admin", "{'renameCollection': 'db.c', 'to': 'local.c'}", NULL, VD_ERR_ILLEGAL_OPERATION,
         NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'Db.c'}", NULL, VD_ERR_LOCATION(13297), NULL},
        {"admin", "{'renameCollection': 5, 'to': 'db.d'}", NULL, VD_ERR_TYPE_MISMATCH,
         "BSON field 'renameCollection.renameCollection' is the wrong type 'int', expected type "
         "'string'"},
        {"admin", "{'renameCollection': 'db.c'}", NULL, VD_ERR_LOCATION(40414), NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 1}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.d', 'dropTarget': 'x'}", NULL,
         VD_ERR_TYPE_MISMATCH, NULL},
        {"admin", "{'renameCollection': 'db.c', 'to': 'db.d', 'foo': 1}", NULL,
         VD_ERR_LOCATION(40415), NULL},
        {"db", NAMES, "{'cursor.firstBatch.0.name': 'c', 'cursor.firstBatch.1': null}", 0, NULL},
    };
    SCRIPT(steps);
}

/* ---- collMod ---- */

Test(schema, coll_mod)
{
    static const reads_step_t steps[] = {
        {"db", "{'collMod': 'c'}", "{'code': 26}", VD_ERR_NAMESPACE_NOT_FOUND, "ns does not exist"},
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'collMod': 'c'}", "{'ok': 1}", 0, NULL},
        {"db", LIST, "{'cursor.firstBatch.0.options': {}}", 0, NULL},
        /* MongoDB then names both also when they are the defaults */
        {"db", "{'collMod': 'c', 'validator': {'a': 1}}", "{'ok': 1}", 0, NULL},
        {"db", LIST,
         "{'cursor.firstBatch.0.options': {'validator': {'a': 1}, 'validationLevel': 'strict', "
         "'validationAction': 'error'}}",
         0, NULL},
        {"db", "{'collMod': 'c', 'validationAction': 'warn'}", NULL, 0, NULL},
        {"db", "{'collMod': 'c', 'validationLevel': 'moderate'}", NULL, 0, NULL},
        {"db", LIST,
         "{'cursor.firstBatch.0.options': {'validator': {'a': 1}, 'validationLevel': 'moderate', "
         "'validationAction': 'warn'}}",
         0, NULL},
        {"db", "{'collMod': 'c', 'validator': {}}", NULL, 0, NULL},
        {"db", LIST,
         "{'cursor.firstBatch.0.options': {'validationLevel': 'moderate', 'validationAction': "
         "'warn'}}",
         0, NULL},
        /* nothing of these is a change */
        {"db",
         "{'collMod': 'c', 'changeStreamPreAndPostImages': {'enabled': false}, 'index': null, "
         "'dryRun': false}",
         "{'ok': 1}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_', 'prepareUnique': false}}", "{'ok': 1}",
         0, NULL},
        /* a refused change changes nothing */
        {"db", "{'collMod': 'c', 'validationLevel': 'off', 'validator': {'$bad': 1}}", NULL,
         VD_ERR_BAD_VALUE, NULL},
        {"db", LIST,
         "{'cursor.firstBatch.0.options': {'validationLevel': 'moderate', 'validationAction': "
         "'warn'}}",
         0, NULL},
    };
    SCRIPT(steps);
}

Test(schema, coll_mod_refusals)
{
    static const reads_step_t steps[] = {
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': 'a_1', 'hidden': true}}", NULL,
         VD_ERR_INDEX_NOT_FOUND, "cannot find index a_1 for ns db.c"},
        {"db", "{'collMod': 'c', 'index': {'keyPattern': {'a': 1}, 'hidden': true}}", NULL,
         VD_ERR_INDEX_NOT_FOUND, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_', 'hidden': true}}", NULL,
         VD_ERR_BAD_VALUE, "can't hide _id index"},
        {"db", "{'collMod': 'c', 'index': {'keyPattern': {'_id': 1}, 'expireAfterSeconds': 5}}",
         NULL, VD_ERR_INVALID_OPTIONS, "the _id field does not support TTL indexes"},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_', 'unique': false}}", NULL,
         VD_ERR_BAD_VALUE, "Cannot make index non-unique"},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_', 'unique': true}}", NULL,
         VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_', 'prepareUnique': true}}",
         "{'prepareUnique_new': null}", 0, NULL},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_'}}", NULL, VD_ERR_INVALID_OPTIONS,
         "no expireAfterSeconds, hidden, unique, or prepareUnique field"},
        {"db", "{'collMod': 'c', 'index': {'hidden': true}}", NULL, VD_ERR_INVALID_OPTIONS,
         "Must specify either index name or key pattern."},
        {"db",
         "{'collMod': 'c', 'index': {'name': '_id_', 'keyPattern': {'_id': 1}, 'hidden': true}}",
         NULL, VD_ERR_INVALID_OPTIONS, "Cannot specify both key pattern and name."},
        {"db", "{'collMod': 'c', 'index': {'name': '_id_', 'foo': true}}", NULL,
         VD_ERR_LOCATION(40415), "BSON field 'collMod.index.foo' is an unknown field."},
        {"db", "{'collMod': 'c', 'index': 'a_1'}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'collMod': 'c', 'expireAfterSeconds': 5}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'viewOn': 'x'}", NULL, VD_ERR_INVALID_OPTIONS,
         "option only supported on a view: viewOn"},
        {"db", "{'collMod': 'c', 'pipeline': []}", NULL, VD_ERR_INVALID_OPTIONS,
         "option only supported on a view: pipeline"},
        {"db", "{'collMod': 'c', 'cappedSize': 5}", NULL, VD_ERR_INVALID_OPTIONS,
         "Collection must be capped."},
        {"db", "{'collMod': 'c', 'cappedMax': 5}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'timeseries': {}}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'dryRun': true}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'collMod': 'c', 'validationLevel': 'x'}", NULL, VD_ERR_BAD_VALUE,
         "Enumeration value 'x' for field 'collMod.validationLevel' is not a valid value."},
        {"db", "{'collMod': 'c', 'validator': 3}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'collMod': 'c', 'validator': {'$where': '1'}}", NULL, VD_ERR_BAD_VALUE, NULL},
        {"db", "{'collMod': 'c', 'foo': 1}", NULL, VD_ERR_LOCATION(40415), NULL},
        {"db", LIST, "{'cursor.firstBatch.0.options': {}}", 0, NULL},
    };
    SCRIPT(steps);
}

/* ---- indexes ---- */

#define CREATE_INDEX(spec) "{'createIndexes': 'c', 'indexes': [" spec "]}"

Test(schema, create_indexes)
{
    static const reads_step_t steps[] = {
        /* the one on _id makes the collection too */
        {"db", CREATE_INDEX("{'key': {'_id': 1}, 'name': '_id_'}"),
         "{'numIndexesBefore': 1, 'numIndexesAfter': 1, 'createdCollectionAutomatically': true, "
         "'commitQuorum': 'votingMembers', 'note': 'all indexes already exist', 'ok': 1}",
         0, NULL},
        {"db",
         "{'createIndexes': 'c', 'commitQuorum': 1, 'indexes': [{'key': {'_id': 1}, 'name': 'my "
         "id', 'v': 2, 'ns': 'db.c', 'background': true, 'collation': {'locale': 'simple'}}]}",
         "{'numIndexesBefore': 1, 'numIndexesAfter': 1, 'createdCollectionAutomatically': null, "
         "'commitQuorum': 1, 'note': 'all indexes already exist', 'ok': 1}",
         0, NULL},
        {"db",
         "{'createIndexes': 'c', 'ignoreUnknownIndexOptions': true, 'indexes': [{'key': {'_id': "
         "1}, 'name': '_id_', 'bogus': 1}]}",
         "{'ok': 1}", 0, NULL},
        {"db", NAMES, "{'cursor.firstBatch.0.name': 'c', 'cursor.firstBatch.1': null}", 0, NULL},
        {"db", "{'createIndexes': 'c', 'indexes': []}", NULL, VD_ERR_BAD_VALUE,
         "Must specify at least one index to create"},
        {"db", "{'createIndexes': 'c'}", NULL, VD_ERR_LOCATION(40414), NULL},
        {"db", "{'createIndexes': 'c', 'indexes': {}}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", CREATE_INDEX("1"), NULL, VD_ERR_TYPE_MISMATCH,
         "BSON field 'createIndexes.indexes.0' is the wrong type 'int', expected type 'object'"},
        {"db", "{'createIndexes': 'c', 'indexes': [{}], 'foo': 1}", NULL, VD_ERR_LOCATION(40415),
         NULL},
        {"db",
         "{'createIndexes': 'c', 'commitQuorum': 2, 'indexes': [{'key': {'_id': 1}, 'name': "
         "'x'}]}",
         NULL, VD_ERR_LOCATION(278), NULL},
        {"db",
         "{'createIndexes': 'c', 'commitQuorum': 'x', 'indexes': [{'key': {'_id': 1}, 'name': "
         "'x'}]}",
         NULL, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN, NULL},
        {"db",
         "{'createIndexes': 'c', 'commitQuorum': -1, 'indexes': [{'key': {'_id': 1}, 'name': "
         "'x'}]}",
         NULL, VD_ERR_FAILED_TO_PARSE, NULL},
        {"admin",
         "{'createIndexes': 'system.users', 'indexes': [{'key': {'_id': 1}, 'name': '_id_'}]}",
         NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'createIndexes': 5, 'indexes': []}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
    };
    SCRIPT(steps);
}

/* What is wrong in MongoDB is wrong here with its code, and makes no collection. */
Test(schema, index_specifications)
{
    static const struct {
        const char *spec;
        int code;
        const char *cause; /* of "Error in specification ...", or NULL */
    } cases[] = {
        {"{'key': {'a': 1}, 'name': 'a_1'}", VD_OK, NULL},
        {"{'key': {'a': -1, 'b.c': 1}, 'name': 'x', 'unique': true, 'sparse': 1, 'v': 1}", VD_OK,
         NULL},
        {"{'key': {'a': 'text'}, 'name': 'x', 'weights': {'a': 2}}", VD_ERR_NOT_IMPLEMENTED, NULL},
        {"{'key': {'a': '2dsphere', 'b': 1}, 'name': 'x'}", VD_ERR_NOT_IMPLEMENTED, NULL},
        {"{'key': {'_id': 'hashed'}, 'name': 'x'}", VD_OK, NULL},
        {"{'key': {'_id': 1, 'a': 1}, 'name': 'x'}", VD_OK, NULL},
        {"{'key': {'$**': 1}, 'name': 'x'}", VD_OK, NULL},
        {"{'key': {'a.$**': 1}, 'name': 'x'}", VD_OK, NULL},
        {"{'key': {'r.%id': 1}, 'name': 'x'}", VD_OK, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'expireAfterSeconds': 60, 'hidden': true}", VD_OK, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'partialFilterExpression': {'a': {'$gt': 1}}}", VD_OK,
         NULL},
        {"{'name': 'x'}", VD_ERR_FAILED_TO_PARSE,
         "The 'key' field is a required property of an index specification"},
        {"{'key': {'a': 1}}", VD_ERR_FAILED_TO_PARSE,
         "The 'name' field is a required property of an index specification"},
        {"{'key': {}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Index keys cannot be an empty object."},
        {"{'key': 1, 'name': 'x'}", VD_ERR_TYPE_MISMATCH,
         "The field 'key' must be an object, but got int"},
        {"{'key': {'a': 1}, 'name': 1}", VD_ERR_TYPE_MISMATCH,
         "The field 'name' must be a string, but got int"},
        {"{'key': {'a': 1}, 'name': ''}", VD_ERR_CANNOT_CREATE_INDEX, "index name cannot be empty"},
        {"{'key': {'a': 0}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Values in the index key pattern cannot be 0."},
        {"{'key': {'a': {'$numberDouble': 'NaN'}}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Values in the index key pattern cannot be NaN."},
        {"{'key': {'a': true}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Values in v:2 index key pattern cannot be of type bool. Only numbers > 0, numbers < 0, "
         "and strings are allowed."},
        {"{'key': {'a': 'nonsense'}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Unknown index plugin 'nonsense'"},
        {"{'key': {'a': 'text', 'b': '2d'}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Can't use more than one index plugin for a single index."},
        {"{'key': {'': 1}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Index keys cannot be an empty field."},
        {"{'key': {'a..b': 1}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Index keys cannot contain an empty field."},
        {"{'key': {'a.': 1}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Index keys cannot contain an empty field."},
        {"{'key': {'$x': 1}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Index key contains an illegal field name: field name starts with '$'."},
        {"{'key': {'$**.a': 1}, 'name': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         "Index key contains an illegal field name: field name starts with '$'."},
        {"{'key': {'a': 1}, 'name': 'x', 'v': 3}", VD_ERR_CANNOT_CREATE_INDEX, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'v': '2'}", VD_ERR_TYPE_MISMATCH,
         "The field 'v' must be a number, but got string"},
        {"{'key': {'a': 1}, 'name': 'x', 'unique': 'yes'}", VD_ERR_TYPE_MISMATCH, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'hidden': 1}", VD_ERR_TYPE_MISMATCH, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'collation': 'de'}", VD_ERR_TYPE_MISMATCH, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'expireAfterSeconds': -1}", VD_ERR_CANNOT_CREATE_INDEX,
         "TTL index 'expireAfterSeconds' option cannot be less than 0"},
        {"{'key': {'a': 1}, 'name': 'x', 'expireAfterSeconds': 'x'}", VD_ERR_CANNOT_CREATE_INDEX,
         NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'expireAfterSeconds': {'$numberLong': '2147483648'}}",
         VD_ERR_CANNOT_CREATE_INDEX, NULL},
        {"{'key': {'a': 1, 'b': 1}, 'name': 'x', 'expireAfterSeconds': 1}",
         VD_ERR_CANNOT_CREATE_INDEX, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'sparse': true, 'partialFilterExpression': {'a': 1}}",
         VD_ERR_CANNOT_CREATE_INDEX,
         "cannot mix \"partialFilterExpression\" and \"sparse\" options"},
        {"{'key': {'a': 1}, 'name': 'x', 'partialFilterExpression': {'a': {'$bad': 1}}}",
         VD_ERR_BAD_VALUE, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'bogus': true}", VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION,
         NULL},
        {"{'key': {'a': 1}, 'name': '*'}", VD_ERR_BAD_VALUE, NULL},
        {"{'key': {'a': 1}, 'name': '_id_'}", VD_ERR_BAD_VALUE, NULL},
        {"{'key': {'_id': -1}, 'name': 'x'}", VD_ERR_BAD_VALUE, NULL},
        {"{'key': {'_id': 1}, 'name': 'x', 'unique': false}",
         VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION, NULL},
        {"{'key': {'_id': 1}, 'name': 'x', 'sparse': true}",
         VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION, NULL},
        {"{'key': {'_id': 1}, 'name': 'x', 'expireAfterSeconds': 1}",
         VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION, NULL},
        {"{'key': {'_id': 1}, 'name': 'x', 'collation': {'locale': 'de'}}", VD_ERR_BAD_VALUE, NULL},
        {"{'key': {'a': 1}, 'name': 'x', 'collation': {'locale': 'nowhere'}}", VD_ERR_BAD_VALUE,
         NULL},
        /* a good one does not hide a bad one behind it */
        {"{'key': {'_id': 1}, 'name': '_id_'}, {'key': {'a': 1}, 'name': 'a_1'}", VD_OK, NULL},
        {"{'key': {'a': 1}, 'name': 'a_1'}, {'key': {'a': 0}, 'name': 'x'}",
         VD_ERR_CANNOT_CREATE_INDEX, NULL},
    };
    reads_t *reads = reads_open();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        const char *command =
            vd_arena_printf(reads->texts, "{'createIndexes': 'c', 'indexes': [%s]}", cases[i].spec);
        cr_assert_eq(reads_run(reads, "db", command), cases[i].code, "%s: %s", command,
                     reads_text(reads));
        if (cases[i].cause != NULL) {
            const char *message = (const char *)vd_value_string(reads_at(reads, "errmsg")).data;
            const char *cause = strstr(message, " :: caused by :: ");
            cr_assert_eq(strncmp(message, "Error in specification {", 24), 0, "%s", message);
            cr_assert_not_null(cause, "%s", message);
            cr_assert_str_eq(cause + 17, cases[i].cause);
        }
        cr_assert_eq(reads_run(reads, "db", LIST), VD_OK);
        if (cases[i].code != VD_OK)
            reads_expect(reads, command, "{'cursor.firstBatch': []}");
        else
            cr_assert_eq(reads_run(reads, "db", "{'drop': 'c'}"), VD_OK);
    }
    cr_assert_eq(reads_run(reads, "db", CREATE_INDEX("{'key': {'a': 'text'}, 'name': 't'}")),
                 VD_ERR_NOT_IMPLEMENTED);
    cr_assert(vd_slice_is(vd_value_string(reads_at(reads, "errmsg")),
                          "index t on db.c: 'text' indexes are not built yet"));
    reads_close(reads);
}

Test(schema, drop_indexes)
{
    static const reads_step_t steps[] = {
        {"db", "{'dropIndexes': 'c', 'index': '*'}", "{'code': 26}", VD_ERR_NAMESPACE_NOT_FOUND,
         "ns not found db.c"},
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': '*'}",
         "{'nIndexesWas': 1, 'msg': 'non-_id indexes dropped for collection', 'ok': 1}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': []}", "{'nIndexesWas': 1, 'msg': null}", 0, NULL},
        {"db", "{'dropIndexes': 'c', 'index': '_id_'}", "{'code': 72}", VD_ERR_INVALID_OPTIONS,
         "cannot drop _id index"},
        {"db", "{'dropIndexes': 'c', 'index': {'_id': 1}}", NULL, VD_ERR_INVALID_OPTIONS,
         "cannot drop _id index"},
        {"db", "{'dropIndexes': 'c', 'index': ['_id_']}", NULL, VD_ERR_INVALID_OPTIONS, NULL},
        {"db", "{'dropIndexes': 'c', 'index': 'a_1'}", "{'code': 27}", VD_ERR_INDEX_NOT_FOUND,
         "index not found with name [a_1]"},
        {"db", "{'dropIndexes': 'c', 'index': {'a': 1}}", NULL, VD_ERR_INDEX_NOT_FOUND, NULL},
        {"db", "{'dropIndexes': 'c', 'index': {'_id': -1}}", NULL, VD_ERR_INDEX_NOT_FOUND, NULL},
        {"db", "{'dropIndexes': 'c', 'index': ['a_1', '_id_']}", NULL, VD_ERR_INDEX_NOT_FOUND,
         NULL},
        {"db", "{'dropIndexes': 'c', 'index': ['_id_', 'a_1']}", NULL, VD_ERR_INVALID_OPTIONS,
         NULL},
        {"db", "{'dropIndexes': 'c', 'index': ['a_1', 5]}", NULL, VD_ERR_TYPE_MISMATCH,
         "BSON field 'dropIndexes.index.1' is the wrong type 'int', expected type 'string'"},
        {"db", "{'dropIndexes': 'c', 'index': 5}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'dropIndexes': 'c'}", NULL, VD_ERR_LOCATION(40414),
         "BSON field 'dropIndexes.index' is missing but a required field"},
        {"db", "{'dropIndexes': 'c', 'index': '*', 'foo': 1}", NULL, VD_ERR_LOCATION(40415), NULL},
    };
    SCRIPT(steps);
}

Test(schema, list_indexes)
{
    static const reads_step_t steps[] = {
        {"db", "{'listIndexes': 'c'}", "{'code': 26}", VD_ERR_NAMESPACE_NOT_FOUND,
         "ns does not exist: db.c"},
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'listIndexes': 'c', 'cursor': {}}",
         "{'cursor': {'firstBatch': [{'v': 2, 'key': {'_id': 1}, 'name': '_id_'}], 'id': 0, 'ns': "
         "'db.c'}}",
         0, NULL},
        {"db", "{'listIndexes': 'c', 'cursor': {'batchSize': 5}, 'includeBuildUUIDs': true}",
         "{'cursor.firstBatch.0.name': '_id_', 'cursor.id': 0}", 0, NULL},
        {"db", "{'listIndexes': 'c', 'cursor': {'batchSize': -1}}", NULL, VD_ERR_LOCATION(51024),
         NULL},
        {"db", "{'listIndexes': 'c', 'cursor': 1}", NULL, VD_ERR_TYPE_MISMATCH, NULL},
        {"db", "{'listIndexes': ''}", NULL, VD_ERR_INVALID_NAMESPACE, NULL},
        {"db", "{'listIndexes': 'c', 'foo': 1}", NULL, VD_ERR_LOCATION(40415), NULL},
    };
    reads_t *reads = reads_open();
    READS_SCRIPT(reads, steps);
    cr_assert_eq(reads_run(reads, "db", "{'listIndexes': 'c', 'cursor': {'batchSize': 0}}"), VD_OK);
    reads_expect(reads, "listIndexes", "{'cursor.firstBatch': []}");
    int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
    cr_assert_neq(id, 0);
    cr_assert_eq(more(reads, id, "c"), VD_OK, "%s", reads_text(reads));
    reads_expect(reads, "getMore", "{'cursor.nextBatch.0.name': '_id_', 'cursor.id': 0}");
    reads_close(reads);
}

/* ---- all of it ---- */

/* Each change names when it happened, and is there after a crash. */
Test(schema, changes_are_durable)
{
    static const reads_step_t changes[] = {
        {"db", "{'create': 'a', 'validator': {'n': 1}}", NULL, 0, NULL},
        {"db", "{'create': 'b'}", NULL, 0, NULL},
        {"db", "{'insert': 'b', 'documents': [{'_id': 1}, {'_id': 2}]}", NULL, 0, NULL},
        {"db", "{'create': 'c'}", NULL, 0, NULL},
        {"db", "{'drop': 'c'}", NULL, 0, NULL},
        {"db", "{'collMod': 'a', 'validationLevel': 'off'}", NULL, 0, NULL},
        {"admin", "{'renameCollection': 'db.b', 'to': 'db2.b'}", NULL, 0, NULL},
        {"db3", "{'createIndexes': 'x', 'indexes': [{'key': {'_id': 1}, 'name': '_id_'}]}", NULL, 0,
         NULL},
    };
    static const reads_step_t after[] = {
        {"db", LIST,
         "{'cursor.firstBatch.0.name': 'a', 'cursor.firstBatch.0.options': {'validator': {'n': 1}, "
         "'validationLevel': 'off', 'validationAction': 'error'}, 'cursor.firstBatch.1': null}",
         0, NULL},
        {"db2", NAMES, "{'cursor.firstBatch.0.name': 'b', 'cursor.firstBatch.1': null}", 0, NULL},
        {"db2", "{'find': 'b'}", "{'cursor.firstBatch': [{'_id': 1}, {'_id': 2}]}", 0, NULL},
        {"db2", "{'count': 'b'}", "{'n': 2}", 0, NULL},
        {"db3", NAMES, "{'cursor.firstBatch.0.name': 'x'}", 0, NULL},
        {"db", "{'insert': 'a', 'documents': [{'n': 2}]}", "{'n': 1}", 0, NULL},
    };
    reads_t *reads = reads_open();
    uint64_t last = 0;
    for (size_t i = 0; i < VD_COUNT_OF(changes); i++) {
        reads_script(reads, &changes[i], 1);
        cr_assert_gt(reads->request.depends_on, last, "%s", changes[i].command);
        cr_assert_eq(reads->request.operation_time, reads->request.depends_on);
        last = reads->request.depends_on;
    }
    for (int i = 0; i < 2; i++) {
        reads_crash(reads);
        READS_SCRIPT(reads, after);
    }
    reads_close(reads);
}
