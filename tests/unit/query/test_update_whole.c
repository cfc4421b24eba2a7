/* tests/unit/query/test_update_whole.c — replacement, pipeline updates, upserts, and documents
 * before they are stored. */
#include "tests/unit/query/update_cases.h"

Test(update_whole, replacement)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 1}", "{'b': 2}", "{'_id': 1, 'b': 2}"},
        {"{'_id': 1, 'a': 1}", "{}", "{'_id': 1}"},
        {"{'_id': 1, 'a': 1}", "{'_id': 1, 'a': 1}", SAME},
        {"{'_id': 1, 'a': 1}", "{'_id': 1, 'b': 1}", "{'_id': 1, 'b': 1}"},
        {"{'_id': 1, 'a': 1}", "{'b': 1, '_id': 1, 'c': 2}", "{'_id': 1, 'b': 1, 'c': 2}"},
        {"{'_id': 1, 'a': 1}", "{'_id': 1.0, 'b': 1}", "{'_id': 1.0, 'b': 1}"},
        {"{'_id': 1, 'a': 1}", "{'b': {'$x': 1, 'y.z': 2}}",
         "{'_id': 1, 'b': {'$x': 1, 'y.z': 2}}"},
        {"{'_id': 1}", "{'a.b': 1}", "{'_id': 1, 'a.b': 1}"},
        {"{'_id': 1}",
         "{'t': {'$timestamp': {'t': 0, 'i': 0}}, 's': {'t': {'$timestamp': {'t': 0, 'i': 0}}}}",
         "{'_id': 1, 't': {'$timestamp': {'t': 1700000000, 'i': 7}}, 's': {'t': {'$timestamp': "
         "{'t': 0, 'i': 0}}}}"},
        {"{'_id': 1}", "{'_id': 2, 'a': 1}", NULL, 66,
         "After applying the update, the (immutable) field '_id' was found to have been altered to "
         "_id: 2"},
        {"{'_id': 1}", "{'a': 1, '$set': {'b': 1}}", NULL, 52,
         "The dollar ($) prefixed field '$set' in '$set' is not allowed in the context of an "
         "update's replacement document. Consider "
         "using an aggregation pipeline with $replaceWith."},
        {"{'_id': 1}", "{'_id': [1]}", NULL, 53, "The '_id' value cannot be of type array"},
        {"{'_id': 1}", "{'a': 1, '$id': 1}", NULL, 55,
         "Found $id field without a $ref before it, which is invalid."},
        {"{'_id': 1}", "{'a': 1}", NULL, 9, "arrayFilters may not be specified",
         .array_filters = "[{'i': 1}]"},
    };
    CASES_RUN(cases);
}

Test(update_whole, pipeline)
{
    static const update_case_t cases[] = {
        {"{'_id': 1, 'a': 1}", "[{'$set': {'b': {'$add': ['$a', 1]}}}]",
         "{'_id': 1, 'a': 1, 'b': 2}"},
        {"{'_id': 1, 'a': 1}", "[{'$set': {'a': 1}}]", SAME},
        {"{'_id': 1, 'a': 1}", "[]", SAME},
        {"{'_id': 1, 'a': 1, 'b': 2}", "[{'$unset': 'a'}, {'$addFields': {'c': '$b'}}]",
         "{'_id': 1, 'b': 2, 'c': 2}"},
        {"{'_id': 1, 'a': 1, 'b': 2}", "[{'$project': {'a': 1}}]", "{'_id': 1, 'a': 1}"},
        {"{'_id': 1, 'a': 1, 'b': 2}", "[{'$project': {'_id': 0, 'a': 1}}]", "{'_id': 1, 'a': 1}"},
        {"{'_id': 1, 'a': {'x': 1}}", "[{'$replaceWith': '$a'}]", "{'_id': 1, 'x': 1}"},
        {"{'_id': 1, 'a': {'x': 1}}",
         "[{'$replaceRoot': {'newRoot': {'$mergeObjects': ['$a', {'y': 2}]}}}]",
         "{'_id': 1, 'x': 1, 'y': 2}"},
        {"{'_id': 1}", "[{'$set': {'t': '$$NOW'}}]",
         "{'_id': 1, 't': {'$date': {'$numberLong': '1700000000123'}}}"},
        {"{'_id': 1}", "[{'$set': {'_id': 2}}]", NULL, 66,
         "was found to have been altered to _id: 2"},
        {"{'_id': 1}", "[{'$match': {'a': 1}}]", NULL, 72,
         "$match is not allowed to be used within an update"},
        {"{'_id': 1}", "[{'$foo': {'a': 1}}]", NULL, 40324,
         "Unrecognized pipeline stage name: '$foo'"},
        {"{'_id': 1}", "[1]", NULL, 14, "Each element of the 'pipeline' array must be an object"},
        {"{'_id': 1}", "[{}]", NULL, 40323, NULL},
        {"{'_id': 1}", "[{'$set': {'a': 1}, '$unset': 'b'}]", NULL, 40323, NULL},
        {"{'_id': 1}", "[{'$set': 1}]", NULL, 40272,
         "$set specification stage must be an object, got int"},
        {"{'_id': 1}", "[{'$unset': 1}]", NULL, 31002, NULL},
        {"{'_id': 1}", "[{'$replaceRoot': {'newRoot': {}, 'x': 1}}]", NULL, 40230, NULL},
        {"{'_id': 1}", "[{'$replaceRoot': {}}]", NULL, 40231, NULL},
    };
    CASES_RUN(cases);
}

typedef struct {
    const char *filter, *update;
    const char
        *expected; /* with _id, or without: then a new ObjectId stands first; NULL: an error */
    int code;
    const char *message;
} upsert_case_t;

Test(update_whole, upsert)
{
    static const upsert_case_t cases[] = {
        {"{'_id': 5}", "{'$set': {'a': 1}}", "{'_id': 5, 'a': 1}"},
        {"{}", "{'$set': {'a': 1}}", "{'a': 1}"},
        {"{'b': 2, 'a': 1}", "{'$set': {'c': 3}}", "{'a': 1, 'b': 2, 'c': 3}"},
        {"{'a.b': 1, 'a.c': 2}", "{'$set': {'a.d': 3}}", "{'a': {'b': 1, 'c': 2, 'd': 3}}"},
        {"{'a': 1}", "{'$inc': {'a': 2}}", "{'a': 3}"},
        {"{'a': {'$gt': 1}, 'b': {'$eq': 4}}", "{'$inc': {'n': 1}}", "{'b': 4, 'n': 1}"},
        {"{'$and': [{'a': 1}, {'b': 2}]}", "{'$setOnInsert': {'c': 3}}",
         "{'a': 1, 'b': 2, 'c': 3}"},
        {"{'$or': [{'a': 1}, {'b': 2}]}", "{'$setOnInsert': {'c': 3}}", "{'c': 3}"},
        {"{'a': {'$in': [7]}}", "{'$setOnInsert': {'c': 3}}", "{'a': 7, 'c': 3}"},
        {"{'a': {'$all': [7]}}", "{'$setOnInsert': {'c': 3}}", "{'a': 7, 'c': 3}"},
        {"{'a': {'$in': [7, 8]}}", "{'$setOnInsert': {'c': 3}}", "{'c': 3}"},
        {"{'a': [1, 2]}", "{'$push': {'a': 3}}", "{'a': [1, 2, 3]}"},
        {"{'a': null}", "{'$set': {'b': 3}}", "{'a': null, 'b': 3}"},
        {"{'a.0': 1}", "{'$set': {'b': 3}}", "{'a': {'0': 1}, 'b': 3}"},
        {"{'_id.x': 1}", "{'$set': {'b': 3}}", "{'_id': {'x': 1}, 'b': 3}"},
        {"{'a': 1}", "{'$set': {'_id': 9}}", "{'_id': 9, 'a': 1}"},
        {"{'a': 1}", "{'$unset': {'a': 1}}", "{}"},
        {"{'a': 1}", "{'$set': {}}", "{'a': 1}"},
        {"{'_id': 5, 'a': 1}", "{'b': 2}", "{'_id': 5, 'b': 2}"},
        {"{'a': 1}", "{'b': 2}", "{'b': 2}"},
        {"{'a': 1}", "{'b': 2, '_id': 3}", "{'_id': 3, 'b': 2}"},
        {"{'a': 1}", "{}", "{}"},
        {"{'_id': 5}", "[{'$set': {'a': {'$add': ['$_id', 1]}}}]", "{'_id': 5, 'a': 6}"},
        {"{'a': 5}", "[{'$set': {'b': '$a'}}]", "{'a': 5, 'b': 5}"},
        {"{'_id': 5}", "{'$set': {'_id': 6}}", NULL, 66, NULL},
        {"{'_id': 5}", "{'_id': 6}", NULL, 66, "was found to have been altered to _id: 6"},
        {"{'_id.x': 1}", "{'b': 2}", NULL, 111,
         "field at '_id' must be exactly specified, field at sub-path '_id.x'found"},
        {"{'a': 1, '$and': [{'a': 2}]}", "{'$set': {'b': 2}}", NULL, 54,
         "cannot infer query fields to set, path 'a' is matched twice"},
        {"{'a': {'$all': [1, 2]}}", "{'$set': {'b': 2}}", NULL, 54, "path 'a' is matched twice"},
        {"{'a': 1, 'a.b': 2}", "{'$set': {'b': 2}}", NULL, 54,
         "both paths 'a.b' and 'a' are matched"},
        {"{'a': 1}", "{'$set': {'a.b': 2}}", NULL, 28, "Cannot create field 'b' in element {a: 1}"},
        {"{'a': 1}", "{'$set': {'$x': 2}}", NULL, 52, NULL},
        {"{'a': 1}", "{'$set': {'_id': [1]}}", NULL, 53, "The '_id' value cannot be of type array"},
        {"{'a': 1}", "{'$set': {'_id': {'$x': 1}}}", NULL, 52,
         "_id fields may not contain '$'-prefixed fields: $x is not valid for storage."},
        {"{'a': 1}", "{'$set': {'b.$': 1}}", NULL, 2,
         "The positional operator did not find the match needed from the query."},
        {"{'a': 1}", "{'$set': {'b.$[]': 1}}", NULL, 2, "The path 'b' must exist in the document"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        const upsert_case_t *c = &cases[i];
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *filter = NULL;
        stor_update_t *update = NULL;
        vd_bson_t result = VD_BSON_NONE;
        stor_update_options_t options = {
            .update = case_update(arena, c->update), .upsert = true, .variables = &case_variables};
        int rc =
            stor_filter_parse(arena, case_json(arena, c->filter), &case_variables, &filter, &err);
        if (rc == VD_OK)
            rc = stor_update_parse(arena, &options, &update, &err);
        if (rc == VD_OK)
            rc = stor_update_upsert(update, arena, filter, &result, &err);
        if (c->expected == NULL) {
            case_expect_error(c->filter, c->update, rc, c->code, c->message, &err);
        } else if (rc != VD_OK) {
            cr_expect(false, "%s with %s: error %d %s", c->filter, c->update, -rc, err.message);
        } else {
            vd_bson_t expected = case_json(arena, c->expected);
            if (vd_value_is_missing(vd_bson_get(expected, "_id"))) {
                vd_slice_t name;
                vd_value_t id;
                cr_expect(vd_bson_first(result, &name, &id) && vd_slice_is(name, "_id") &&
                              id.type == VD_BSON_OBJECTID,
                          "%s with %s: no new _id", c->filter, c->update);
                vd_bb_t bb;
                vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
                vd_bb_value(&bb, VD_SLICE_LIT("_id"), id);
                vd_bb_concat(&bb, expected);
                cr_expect_eq(vd_bb_finish(&bb, &expected, NULL), VD_OK);
            }
            cr_expect(case_bytes_equal(result, expected), "%s with %s:\n  %s\ninstead of\n  %s",
                      c->filter, c->update, vd_bson_to_json(arena, result, 2000),
                      vd_bson_to_json(arena, expected, 2000));
        }
        vd_arena_destroy(&arena);
    }
}

Test(update_whole, document_prepare)
{
    static const struct {
        const char *document,
            *expected; /* expected without _id: a new one stands first; SAME: the very bytes */
        int code;
        const char *message;
    } cases[] = {
        {"{'_id': 1, 'a': 1}", SAME},
        {"{'a': 1}", "{'a': 1}"},
        {"{}", "{}"},
        {"{'a': 1, '_id': 2, 'b': 3}", "{'_id': 2, 'a': 1, 'b': 3}"},
        {"{'a': 1, '_id': null}", "{'_id': null, 'a': 1}"},
        {"{'$a': 1, '_id': 2, 'b': {'$c': 1}}", "{'_id': 2, '$a': 1, 'b': {'$c': 1}}"},
        {"{'t': {'$timestamp': {'t': 0, 'i': 0}}, '_id': 1, 's': {'t': {'$timestamp': {'t': 0, "
         "'i': 0}}}}",
         "{'_id': 1, 't': {'$timestamp': {'t': 9, 'i': 8}}, 's': {'t': {'$timestamp': {'t': 0, "
         "'i': 0}}}}"},
        {"{'_id': {'$timestamp': {'t': 0, 'i': 0}}, 't': {'$timestamp': {'t': 0, 'i': 0}}}",
         "{'_id': {'$timestamp': {'t': 0, 'i': 0}}, 't': {'$timestamp': {'t': 9, 'i': 8}}}"},
        {"{'_id': {'$timestamp': {'t': 0, 'i': 0}}}", SAME},
        {"{'_id': {'a': 1}}", SAME},
        {"{'_id': {'$ref': 'c', '$id': 1, '$db': 'd', 'x': 1}}", SAME},
        {"{'_id': [1]}", NULL, 2, "can't use an array for _id"},
        {"{'_id': {'$undefined': true}}", NULL, 2, "can't use a undefined for _id"},
        {"{'_id': {'$regularExpression': {'pattern': 'a', 'options': ''}}}", NULL, 2,
         "can't use a regex for _id"},
        {"{'_id': {'a': {'$b': 1}}}", NULL, 52, "$b is not valid for storage."},
        {"{'_id': 1, 'a': 1, '_id': 2}", NULL, 2, "can't have multiple _id fields in one document"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t document = case_json(arena, cases[i].document), result = VD_BSON_NONE;
        int rc = stor_document_prepare(arena, document, UINT64_C(9) << 32 | 8, &result, &err);
        if (cases[i].expected == NULL) {
            case_expect_error(cases[i].document, "insert", rc, cases[i].code, cases[i].message,
                              &err);
        } else if (strcmp(cases[i].expected, SAME) == 0) {
            cr_expect(rc == VD_OK && result.data == document.data, "%s: %s", cases[i].document,
                      err.message);
        } else {
            vd_bson_t expected = case_json(arena, cases[i].expected);
            cr_expect_eq(rc, VD_OK, "%s: %s", cases[i].document, err.message);
            vd_value_t id = vd_bson_get(result, "_id");
            if (vd_value_is_missing(vd_bson_get(expected, "_id"))) {
                cr_expect_eq(id.type, VD_BSON_OBJECTID);
                vd_bb_t bb;
                vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
                vd_bb_value(&bb, VD_SLICE_LIT("_id"), id);
                vd_bb_concat(&bb, expected);
                cr_expect_eq(vd_bb_finish(&bb, &expected, NULL), VD_OK);
            }
            cr_expect(case_bytes_equal(result, expected), "%s:\n  %s", cases[i].document,
                      vd_bson_to_json(arena, result, 2000));
        }
        vd_arena_destroy(&arena);
    }
}

/* 180 levels are stored, 181 are not; 16 MiB are, one byte more is not. */
Test(update_whole, document_prepare_limits)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t document, result;
    for (int levels = VD_BSON_DEPTH_MAX; levels <= VD_BSON_DEPTH_MAX + 1; levels++) {
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
        for (int i = 1; i < levels; i++)
            vd_bb_begin_document(&bb, "a");
        for (int i = 1; i < levels; i++)
            vd_bb_close(&bb);
        cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
        int rc = stor_document_prepare(arena, document, 1, &result, &err);
        cr_expect_eq(rc, levels <= VD_BSON_DEPTH_MAX ? VD_OK : VD_ERR_OVERFLOW);
    }
    cr_expect_str_eq(err.message,
                     "cannot insert document because it exceeds 180 levels of nesting");
    for (size_t extra = 0; extra < 2; extra++) {
        size_t len = VD_BSON_DOCUMENT_MAX_BYTES - (5 + 17 + 8) +
                     extra; /* _id: ObjectId of 17 bytes is added */
        char *text = vd_arena_alloc(arena, len);
        memset(text, 'x', len);
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
        vd_bb_string(&bb, "s", vd_slice(text, len));
        cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
        vd_error_clear(&err);
        int rc = stor_document_prepare(arena, document, 1, &result, &err);
        cr_expect_eq(rc, extra == 0 ? VD_OK : VD_ERR_BAD_VALUE, "%d %s", rc, err.message);
    }
    cr_expect(strstr(err.message,
                     "object to insert too large. size in bytes: 16777217, max size: 16777216") !=
                  NULL,
              "%s", err.message);
    vd_arena_destroy(&arena);
}
