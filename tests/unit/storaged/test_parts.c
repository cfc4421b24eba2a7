/* tests/unit/storaged/test_parts.c — small pure parts by tables of good and bad: names, arguments,
 * the envelope of stored documents. */
#include "libcommon/base/limits.h"
#include "libcommon/base/rand.h"
#include "tests/support/random_value.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/envelope.h"

static vd_slice_t repeat(char c, size_t len)
{
    static char text[1000];
    cr_assert_lt(len, sizeof text);
    memset(text, c, len);
    return vd_slice(text, len);
}

/* ---- names ---- */

Test(parts, database_names)
{
    static const char *const good[] = {"a",     "admin", "local",  "config", "A-b_c", "ä",
                                       "\x01x", "a:b",   "sys*em", "<a>",    "a\tb"};
    static const char *const bad[] = {"", ".", "a.b", " ", "a b", "a/b", "a\\b", "\"", "$", "a$b"};
    for (size_t i = 0; i < VD_COUNT_OF(good); i++)
        cr_assert_eq(stor_name_check_database(vd_slice_str(good[i]), NULL), VD_OK, "%s", good[i]);
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++) {
        vd_error_t err = VD_ERROR_INIT;
        cr_assert_eq(stor_name_check_database(vd_slice_str(bad[i]), &err), VD_ERR_INVALID_NAMESPACE,
                     "%s", bad[i]);
        cr_assert_not_null(strstr(err.message, bad[i]));
    }
    cr_assert_eq(stor_name_check_database(vd_slice("a\0b", 3), NULL), VD_ERR_INVALID_NAMESPACE);
    cr_assert_eq(stor_name_check_database(VD_SLICE_NULL, NULL), VD_ERR_INVALID_NAMESPACE);
    cr_assert_eq(stor_name_check_database(repeat('d', VD_DATABASE_NAME_MAX_BYTES), NULL), VD_OK);
    cr_assert_eq(stor_name_check_database(repeat('d', VD_DATABASE_NAME_MAX_BYTES + 1), NULL),
                 VD_ERR_INVALID_NAMESPACE);
}

Test(parts, collection_names)
{
    /* read: may stand in a find; write: may be made; internal: by the gateway itself. */
    static const struct {
        const char *db, *name;
        bool read, write, internal;
    } cases[] = {
        {"d", "c", true, true, true},
        {"d", "a.b.c", true, true, true},
        {"d", "with space", true, true, true},
        {"d", "a..b", true, true, true},
        {"d", "ü", true, true, true},
        {"d", "systems", true, true, true},
        {"d", "system", true, true, true},
        {"d", "x.system.users", true, true, true},
        {"d", "a$b", true, false, false},
        {"d", "", false, false, false},
        {"d", ".", false, false, false},
        {"d", ".a", false, false, false},
        {"d", "a.", false, false, false},
        {"d", "$cmd", false, false, false},
        {"d", "$", false, false, false},
        {"d", "system.js", true, true, true},
        {"d", "system.views", true, false, false},
        {"d", "system.users", true, false, false},
        {"admin", "system.users", true, false, true},
        {"admin", "system.roles", true, false, true},
        {"admin", "system.version", true, false, true},
        {"admin", "system.tokens", true, false, true},
        {"admin", "system.refresh_tokens", true, false, true},
        {"d", "system.tokens", true, false, false},
        {"admin", "system.usersx", true, false, false},
        {"admin", "c", true, true, true},
        {"local", "c", true, false, true},
        {"local", "system.js", true, false, true},
        {"config", "c", true, true, true},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_slice_t db = vd_slice_str(cases[i].db), name = vd_slice_str(cases[i].name);
        cr_assert_eq(stor_name_check_collection(db, name, NULL),
                     cases[i].read ? VD_OK : VD_ERR_INVALID_NAMESPACE, "%s", cases[i].name);
        cr_assert_eq(stor_name_check_writable(db, name, false, NULL),
                     cases[i].write ? VD_OK : VD_ERR_INVALID_NAMESPACE, "%s.%s", cases[i].db,
                     cases[i].name);
        cr_assert_eq(stor_name_check_writable(db, name, true, NULL),
                     cases[i].internal ? VD_OK : VD_ERR_INVALID_NAMESPACE, "%s.%s", cases[i].db,
                     cases[i].name);
    }
    vd_slice_t d = VD_SLICE_LIT("d");
    cr_assert_eq(stor_name_check_collection(d, vd_slice("a\0b", 3), NULL),
                 VD_ERR_INVALID_NAMESPACE);
    cr_assert_eq(stor_name_check_writable(VD_SLICE_LIT("a.b"), d, true, NULL),
                 VD_ERR_INVALID_NAMESPACE);
    cr_assert_eq(stor_name_check_writable(d, repeat('c', VD_NAMESPACE_MAX_BYTES - 2), false, NULL),
                 VD_OK);
    cr_assert_eq(stor_name_check_writable(d, repeat('c', VD_NAMESPACE_MAX_BYTES - 1), false, NULL),
                 VD_ERR_INVALID_NAMESPACE);
}

Test(parts, names_of_users_and_roles)
{
    static const struct {
        const char *db, *name;
        bool is_auth;
    } cases[] = {
        {"admin", "system.users", true},
        {"admin", "system.roles", true},
        {"admin", "system.tokens", true},
        {"admin", "system.refresh_tokens", false},
        {"admin", "system.version", false},
        {"admin", "system.user", false},
        {"Admin", "system.users", false},
        {"d", "system.users", false},
        {"admin", "", false},
        {"", "", false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_assert_eq(stor_name_is_auth(vd_slice_str(cases[i].db), vd_slice_str(cases[i].name)),
                     cases[i].is_auth, "%s.%s", cases[i].db, cases[i].name);
}

Test(parts, namespaces_are_split)
{
    static const struct {
        const char *ns, *db, *name; /* NULL: it is none */
    } cases[] = {
        {"d.c", "d", "c"},       {"d.a.b", "d", "a.b"}, {"d..", "d", "."},
        {"d.$cmd", "d", "$cmd"}, {"d", NULL, NULL},     {"d.", NULL, NULL},
        {".c", NULL, NULL},      {".", NULL, NULL},     {"", NULL, NULL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_slice_t db, name;
        bool good = stor_name_split(vd_slice_str(cases[i].ns), &db, &name);
        cr_assert_eq(good, cases[i].db != NULL, "%s", cases[i].ns);
        if (good)
            cr_assert(vd_slice_is(db, cases[i].db) && vd_slice_is(name, cases[i].name), "%s",
                      cases[i].ns);
    }
    vd_slice_t db, name;
    cr_assert_not(stor_name_split(VD_SLICE_NULL, &db, &name));
}

/* ---- arguments ---- */

typedef struct {
    vd_value_t any;
    vd_bson_t document, array;
    vd_slice_t text;
    bool flag;
    int64_t number, count, positive;
} args_t;

static const stor_arg_t table[] = {
    STOR_ARG("any", STOR_ARG_VALUE, args_t, any, 0),
    STOR_ARG("document", STOR_ARG_DOCUMENT, args_t, document, 0),
    STOR_ARG("array", STOR_ARG_ARRAY, args_t, array, STOR_ARG_NULL_IS_ERROR),
    STOR_ARG("text", STOR_ARG_STRING, args_t, text, STOR_ARG_REQUIRED),
    STOR_ARG("flag", STOR_ARG_BOOL, args_t, flag, 0),
    STOR_ARG("number", STOR_ARG_INT, args_t, number, 0),
    STOR_ARG("count", STOR_ARG_COUNT, args_t, count, 0),
    STOR_ARG("positive", STOR_ARG_POSITIVE, args_t, positive, 0),
    {"ignored", STOR_ARG_IGNORED, 0, 0},
    {"refused", STOR_ARG_REFUSED, 0, 0},
};

static int parse(vd_arena_t *arena, const char *json, bool top, args_t *args, vd_error_t *err)
{
    *args = (args_t){.number = -77};
    return stor_args_parse(query_json(arena, json), "cmd", top, table, VD_COUNT_OF(table), args,
                           err);
}

Test(parts, arguments)
{
    static const struct {
        const char *json;
        bool top;
        int code;
        const char *message;
    } cases[] = {
        {"{'cmd': 1, 'text': 'x'}", true, 0, NULL},
        {"{'text': 'x', 'text': 'y'}", true, 0, NULL}, /* the first names the command */
        {"{'cmd': 1}", true, VD_ERR_LOCATION(40414),
         "BSON field 'cmd.text' is missing but a required field"},
        {"{}", true, VD_ERR_LOCATION(40414), NULL},
        {"{'text': 'x'}", true, VD_ERR_LOCATION(40414), NULL},
        {"{'text': 'x'}", false, 0, NULL},
        {"{'cmd': 1, 'text': 'x'}", false, VD_ERR_LOCATION(40415),
         "BSON field 'cmd.cmd' is an unknown field."},
        {"{'cmd': 1, 'text': 'x', 'Text': 'x'}", true, VD_ERR_LOCATION(40415), "cmd.Text"},
        {"{'cmd': 1, 'text': 'x', 'text': 'x'}", true, VD_ERR_LOCATION(40413),
         "BSON field 'cmd.text' is a duplicate field"},
        {"{'cmd': 1, 'text': 'x', 'ignored': 1, 'ignored': 1}", true, VD_ERR_LOCATION(40413), NULL},
        {"{'cmd': 1, 'text': 'x', '$db': 'd', 'lsid': 1, 'comment': 1, 'maxTimeMS': 'x'}", true, 0,
         NULL},
        {"{'text': 'x', 'lsid': 1}", false, VD_ERR_LOCATION(40415), "cmd.lsid"},
        {"{'cmd': 1, 'text': null}", true, VD_ERR_TYPE_MISMATCH,
         "BSON field 'cmd.text' is the wrong type 'null', expected type 'string'"},
        {"{'cmd': 1, 'text': 5}", true, VD_ERR_TYPE_MISMATCH, "'int', expected type 'string'"},
        {"{'cmd': 1, 'text': 'x', 'array': null}", true, VD_ERR_TYPE_MISMATCH, "'array'"},
        {"{'cmd': 1, 'text': 'x', 'array': {}}", true, VD_ERR_TYPE_MISMATCH, "'object'"},
        {"{'cmd': 1, 'text': 'x', 'document': []}", true, VD_ERR_TYPE_MISMATCH,
         "'array', expected type 'object'"},
        {"{'cmd': 1, 'text': 'x', 'flag': 'true'}", true, VD_ERR_TYPE_MISMATCH,
         "'[bool, long, int, decimal, double]'"},
        {"{'cmd': 1, 'text': 'x', 'number': true}", true, VD_ERR_TYPE_MISMATCH,
         "'[long, int, decimal, double]'"},
        {"{'cmd': 1, 'text': 'x', 'count': -1}", true, VD_ERR_LOCATION(51024),
         "BSON field 'count' value must be >= 0, actual value '-1'"},
        {"{'cmd': 1, 'text': 'x', 'count': -0.9}", true, 0, NULL},
        {"{'cmd': 1, 'text': 'x', 'positive': 0}", true, VD_ERR_LOCATION(51024), ">= 1"},
        {"{'cmd': 1, 'text': 'x', 'positive': 0.9}", true, VD_ERR_LOCATION(51024), NULL},
        {"{'cmd': 1, 'text': 'x', 'positive': 1.9}", true, 0, NULL},
        {"{'cmd': 1, 'text': 'x', 'ignored': {'any': 'thing'}}", true, 0, NULL},
        {"{'cmd': 1, 'text': 'x', 'refused': 1}", true, VD_ERR_NOT_IMPLEMENTED,
         "the option 'cmd.refused' is not built yet"},
        {"{'cmd': 1, 'text': 'x', 'refused': null, 'flag': null, 'number': null}", true, 0, NULL},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        args_t args;
        vd_error_t err = VD_ERROR_INIT;
        int rc = parse(arena, cases[i].json, cases[i].top, &args, &err);
        cr_assert_eq(rc, cases[i].code, "%s: %d %s", cases[i].json, rc, err.message);
        if (rc != VD_OK)
            cr_assert_eq(err.code, rc);
        if (cases[i].message != NULL)
            cr_assert_not_null(strstr(err.message, cases[i].message), "%s: %s", cases[i].json,
                               err.message);
        cr_assert_eq(args.number, -77); /* what is absent stays as it was */
    }
    vd_arena_destroy(&arena);
}

Test(parts, argument_values)
{
    static const struct {
        const char *value;
        int64_t number;
        bool flag;
    } numbers[] = {
        {"1", 1, true},
        {"0", 0, false},
        {"-5", -5, true},
        {"2.9", 2, true},
        {"-2.9", -2, true},
        {"0.5", 0, true},
        {"{'$numberLong': '9223372036854775807'}", INT64_MAX, true},
        {"1e300", INT64_MAX, true},
        {"-1e300", INT64_MIN, true},
        {"{'$numberDouble': 'Infinity'}", INT64_MAX, true},
        {"{'$numberDouble': '-Infinity'}", INT64_MIN, true},
        {"{'$numberDouble': 'NaN'}", 0, true},
        {"{'$numberDecimal': '7.5'}", 7, true},
        {"{'$numberDecimal': '0'}", 0, false},
        {"{'$numberDecimal': '1E+100'}", INT64_MAX, true},
    };
    vd_arena_t *arena = vd_arena_create();
    args_t args;
    for (size_t i = 0; i < VD_COUNT_OF(numbers); i++) {
        const char *v = numbers[i].value;
        vd_error_t err = VD_ERROR_INIT;
        int rc =
            parse(arena, vd_arena_printf(arena, "{'text': '', 'number': %s, 'flag': %s}", v, v),
                  false, &args, &err);
        cr_assert_eq(rc, VD_OK, "%s: %s", v, err.message);
        cr_assert_eq(args.number, numbers[i].number, "%s: %lld", v, (long long)args.number);
        cr_assert_eq(args.flag, numbers[i].flag, "%s", v);
    }
    cr_assert_eq(parse(arena,
                       "{'text': 'abc', 'document': {'a': 1}, 'array': [1, 2], 'any': null, "
                       "'flag': true, 'count': 3, 'positive': 4}",
                       false, &args, NULL),
                 VD_OK);
    cr_assert(vd_slice_is(args.text, "abc"));
    cr_assert_eq(vd_value_int32(vd_bson_get(args.document, "a")), 1);
    cr_assert_eq(vd_bson_count(args.array), 2);
    cr_assert_eq(args.any.type, VD_BSON_NULL);
    cr_assert(args.flag);
    cr_assert_eq(args.count, 3);
    cr_assert_eq(args.positive, 4);
    /* Cut bytes are told, not read. */
    vd_bson_t body = query_json(arena, "{'text': 'abc', 'number': 1}");
    uint8_t *cut = vd_arena_copy(arena, body.data, body.len - 6);
    vd_put_u32(cut, body.len - 6);
    cr_assert_eq(stor_args_parse((vd_bson_t){cut, body.len - 6}, "cmd", false, table,
                                 VD_COUNT_OF(table), &args, NULL),
                 VD_ERR_INVALID_BSON);
    vd_arena_destroy(&arena);
}

Test(parts, generic_arguments)
{
    static const char *const generic[] = {
        "$db",       "lsid",    "txnNumber",  "$clusterTime", "readConcern",    "writeConcern",
        "maxTimeMS", "comment", "apiVersion", "autocommit",   "$readPreference"};
    static const char *const own[] = {"", "db", "filter", "LSID", "lsid ", "$dbx"};
    for (size_t i = 0; i < VD_COUNT_OF(generic); i++)
        cr_assert(stor_args_is_generic(vd_slice_str(generic[i])), "%s", generic[i]);
    for (size_t i = 0; i < VD_COUNT_OF(own); i++)
        cr_assert_not(stor_args_is_generic(vd_slice_str(own[i])), "%s", own[i]);
}

/* ---- envelopes ---- */

Test(parts, envelopes)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t document = query_json(arena, "{'_id': 1, 'a': 'b'}"), back;
    uint8_t bytes[200];
    uint64_t version = 0;
    size_t len = STOR_ENVELOPE_BYTES + document.len;
    stor_envelope_write(bytes, 0x1122334455667788u, document);
    cr_assert_eq(stor_envelope_read(vd_slice(bytes, len), &back, &version, NULL), VD_OK);
    cr_assert_eq(version, 0x1122334455667788u);
    cr_assert_eq(back.len, document.len);
    cr_assert_eq(back.data, bytes + STOR_ENVELOPE_BYTES);
    cr_assert_eq(memcmp(back.data, document.data, document.len), 0);
    bytes[0] = 1; /* the epoch means nothing here */
    cr_assert_eq(stor_envelope_read(vd_slice(bytes, len), &back, &version, NULL), VD_OK);
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_eq(stor_envelope_read(vd_slice(bytes, cut), &back, &version, NULL),
                     VD_ERR_CORRUPT, "%zu", cut);
    cr_assert_eq(stor_envelope_read(vd_slice(bytes, len + 1), &back, &version, NULL),
                 VD_ERR_CORRUPT);
    static const size_t fixed[] = {1, STOR_ENVELOPE_BYTES, STOR_ENVELOPE_BYTES + 3};
    for (size_t i = 0; i < VD_COUNT_OF(fixed); i++) {
        bytes[fixed[i]] ^= 4;
        cr_assert_eq(stor_envelope_read(vd_slice(bytes, len), &back, &version, NULL),
                     VD_ERR_CORRUPT, "byte %zu", fixed[i]);
        bytes[fixed[i]] ^= 4;
    }
    bytes[len - 1] = 1;
    cr_assert_eq(stor_envelope_read(vd_slice(bytes, len), &back, &version, NULL), VD_ERR_CORRUPT);
    vd_arena_destroy(&arena);
}

/* It is stored in every journal entry: these values may never change. */
Test(parts, hashes)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t a = query_json(arena, "{}"),
              b = query_json(arena, "{'_id': 1, 'a': 'bcdefghijklmn'}");
    cr_assert_eq(stor_record_hash(1, a), stor_record_hash(1, query_json(arena, "{}")));
    cr_assert_neq(stor_record_hash(1, a), stor_record_hash(2, a));
    cr_assert_neq(stor_record_hash(1, a), stor_record_hash(1, b));
    uint64_t whole = stor_record_hash(7, b);
    uint8_t *bytes = vd_arena_copy(arena, b.data, b.len);
    for (uint32_t at = 0; at < b.len; at++)
        for (int bit = 0; bit < 8; bit++) {
            bytes[at] ^= (uint8_t)(1u << bit);
            cr_assert_neq(stor_record_hash(7, (vd_bson_t){bytes, b.len}), whole, "%u", at);
            bytes[at] ^= (uint8_t)(1u << bit);
        }
    cr_assert_eq(stor_record_hash(1, a), 0xc2cb9fb3ee810172u, "0x%llx",
                 (unsigned long long)stor_record_hash(1, a));
    cr_assert_eq(whole, 0x4afb4f9ee7a65a26u, "0x%llx", (unsigned long long)whole);
    vd_arena_destroy(&arena);
}

Test(parts, copies_of_records)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t document = query_json(arena, "{'_id': 1}");
    stor_record_t record = {document, 9, VD_SLICE_LIT("key"), 0};
    stor_record_t copy = stor_record_copy(arena, record);
    cr_assert_eq(copy.version, 9);
    cr_assert(vd_slice_is(copy.key, "key"));
    cr_assert_neq(copy.key.data, record.key.data);
    cr_assert_neq(copy.document.data, document.data);
    cr_assert_eq(copy.document.len, document.len);
    cr_assert_eq(memcmp(copy.document.data, document.data, document.len), 0);
    record.key = VD_SLICE_NULL;
    cr_assert_eq(stor_record_copy(arena, record).key.len, 0);
    vd_arena_destroy(&arena);
}

Test(parts, keys_of_ids)
{
    static const struct {
        const char *value;
        int code;
    } cases[] = {
        {"1", 0},
        {"'x'", 0},
        {"null", 0},
        {"{}", 0},
        {"{'a': [1, {'b': null}]}", 0},
        {"true", 0},
        {"{'$oid': '0123456789abcdef01234567'}", 0},
        {"{'$minKey': 1}", 0},
        {"{'$maxKey': 1}", 0},
        {"[]", VD_ERR_INVALID_ID_FIELD},
        {"[1]", VD_ERR_INVALID_ID_FIELD},
        {"{'$regularExpression': {'pattern': 'a', 'options': ''}}", VD_ERR_INVALID_ID_FIELD},
        {"{'$undefined': true}", VD_ERR_INVALID_ID_FIELD},
    };
    vd_arena_t *arena = vd_arena_create();
    vd_slice_t key, other;
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        int rc = stor_id_key(arena, query_value(arena, cases[i].value), &key, &err);
        cr_assert_eq(rc, cases[i].code, "%s: %d %s", cases[i].value, rc, err.message);
    }
    cr_assert_eq(stor_id_key(arena, VD_VALUE_MISSING, &key, NULL), VD_ERR_INVALID_ID_FIELD);
    /* Equal in value is equal in key. */
    cr_assert_eq(stor_id_key(arena, query_value(arena, "5"), &key, NULL), VD_OK);
    cr_assert_eq(stor_id_key(arena, query_value(arena, "5.0"), &other, NULL), VD_OK);
    cr_assert(vd_slice_equal(key, other));
    cr_assert_eq(stor_id_key(arena, query_value(arena, "5.5"), &other, NULL), VD_OK);
    cr_assert_lt(vd_slice_compare(key, other), 0);
    vd_arena_destroy(&arena);
}
