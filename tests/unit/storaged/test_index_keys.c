/* tests/unit/storaged/test_index_keys.c — the keys that an index takes from a document: tables, and
 * random documents against a model that is slow and plain. */
#include "libcommon/base/rand.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/index/index_private.h"

static const stor_index_def_t *def_of(vd_arena_t *arena, const char *key, const char *options)
{
    const stor_index_def_t *def;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t spec =
        query_json(arena, vd_arena_printf(arena, "{'v': 2, 'key': %s, 'name': 'x'%s%s}", key,
                                          options[0] == 0 ? "" : ", ", options));
    int rc = stor_index_def_parse(arena, spec, &def, &err);
    cr_assert_eq(rc, VD_OK, "%s: %s", key, err.message);
    return def;
}

/* [{a: 1}, {a: 2}] as text: the keys read back, in their order. */
static const char *keys_text(vd_arena_t *arena, const stor_index_def_t *def,
                             const stor_index_keys_t *keys)
{
    const char *text = "";
    for (uint32_t i = 0; i < keys->count; i++) {
        vd_slice_t fields = keys->keys[i].key, bits = keys->keys[i].type_bits;
        const char *one = "";
        for (uint32_t f = 0; f < def->field_count; f++) {
            bool descending = def->fields[f].order == STOR_INDEX_DESCENDING;
            for (int n = def->fields[f].order == STOR_INDEX_WILDCARD ? 2 : 1; n > 0; n--) {
                vd_value_t value;
                int rc = stor_keycode_decode(arena, &fields, &bits, descending, &value, NULL);
                one = vd_arena_printf(arena, "%s%s%s", one, one[0] == 0 ? "" : ",",
                                      rc != VD_OK ? "cut"
                                      : value.type == VD_BSON_UNDEFINED
                                          ? "undefined"
                                          : vd_value_to_json(arena, value, 100));
            }
        }
        cr_assert_eq(fields.len, 0);
        text = vd_arena_printf(arena, "%s%s%s", text, text[0] == 0 ? "" : " ", one);
    }
    return text;
}

typedef struct {
    const char *key, *options, *document, *keys;
    uint32_t multikey;
    int code;
} case_t;

static const case_t cases[] = {
    /* plain */
    {"{'a': 1}", "", "{'a': 5}", "5", 0, 0},
    {"{'a': 1}", "", "{'a': 'x'}", "\"x\"", 0, 0},
    {"{'a': 1}", "", "{'b': 5}", "null", 0, 0},
    {"{'a': 1}", "", "{'a': null}", "null", 0, 0},
    {"{'a': 1}", "", "{'a': {}}", "{ }", 0, 0},
    {"{'a': -1}", "", "{'a': 5.5}", "5.5", 0, 0},
    {"{'a.b': 1}", "", "{'a': {'b': 1}}", "1", 0, 0},
    {"{'a.b': 1}", "", "{'a': 1}", "null", 0, 0},
    {"{'a.b': 1}", "", "{'a': {'c': 1}}", "null", 0, 0},
    {"{'a': 1, 'b': -1}", "", "{'b': 2, 'a': 1}", "1,2", 0, 0},
    {"{'a': 1, 'b': 1}", "", "{'a': 1}", "1,null", 0, 0},
    /* arrays */
    {"{'a': 1}", "", "{'a': [3, 1, 2, 1]}", "1 2 3", 1, 0},
    {"{'a': 1}", "", "{'a': [1, 1.0, {'$numberLong': '1'}]}", "1", 1, 0},
    {"{'a': 1}", "", "{'a': []}", "undefined", 1, 0},
    {"{'a': 1}", "", "{'a': [[]]}", "[ ]", 1, 0},
    {"{'a': 1}", "", "{'a': [[1, 2], 3]}", "3 [ 1, 2 ]", 1, 0},
    {"{'a': 1}", "", "{'a': [null, {}]}", "null { }", 1, 0},
    {"{'a.b': 1}", "", "{'a': [{'b': 1}, {'b': [2, 3]}, {'c': 1}, 4]}", "null 1 2 3", 1, 0},
    {"{'a.b': 1}", "", "{'a': []}", "null", 1, 0},
    {"{'a.b': 1}", "", "{'a': [[{'b': 1}]]}", "null", 1, 0},
    {"{'a.b': 1}", "", "{'a': {'b': []}}", "undefined", 1, 0},
    {"{'a': 1, 'b': 1}", "", "{'a': [1, 2], 'b': 3}", "1,3 2,3", 1, 0},
    {"{'a': 1, 'b': -1}", "", "{'a': 3, 'b': [1, 2]}", "3,2 3,1", 2, 0},
    {"{'a.b': 1, 'a.c': 1}", "", "{'a': [{'b': 1, 'c': 2}, {'b': 3}]}", "1,2 3,null", 3, 0},
    {"{'a': 1, 'a.b': 1}", "", "{'a': [{'b': 1}, 2]}", "2,null { \"b\": 1 },1", 3, 0},
    {"{'a': 1, 'b': 1}", "", "{'a': [1], 'b': [2]}", NULL, 0, -171},
    {"{'a.b': 1, 'a.c': 1}", "", "{'a': {'b': [1], 'c': []}}", NULL, 0, -171},
    {"{'a.b': 1, 'a.c': 1}", "", "{'a': [{'b': [1], 'c': [2]}]}", NULL, 0, -171},
    /* positions */
    {"{'a.0': 1}", "", "{'a': [5, 6]}", "5", 1, 0},
    {"{'a.0': 1}", "", "{'a': [[5, 6]]}", "[ 5, 6 ]", 1, 0},
    {"{'a.0': 1}", "", "{'a': {'0': 7}}", "7", 0, 0},
    {"{'a.1': 1}", "", "{'a': [5]}", "null", 1, 0},
    {"{'a.0.b': 1}", "", "{'a': [{'b': 1}, {'b': 2}]}", "1", 1, 0},
    {"{'a.0.b': 1}", "", "{'a': [{'b': [1, 2]}]}", "1 2", 1, 0},
    {"{'a.0.b': 1}", "", "{'a': [[{'b': 1}]]}", "1", 1, 0},
    {"{'a.0': 1, 'a.1': 1}", "", "{'a': [5, 6]}", "5,6", 3, 0},
    {"{'a.0': 1, 'a.b': 1}", "", "{'a': [{'b': 1}, {'b': 2}]}", "{ \"b\": 1 },1 { \"b\": 1 },2", 3,
     0},
    {"{'a.0': 1}", "", "{'a': [{'0': 1}]}", NULL, 0, -16746},
    /* sparse, partial */
    {"{'a': 1}", "'sparse': true", "{'b': 1}", "", 0, 0},
    {"{'a': 1}", "'sparse': true", "{'a': null}", "null", 0, 0},
    {"{'a': 1, 'b': 1}", "'sparse': true", "{'b': 1}", "null,1", 0, 0},
    {"{'a': 1, 'b': 1}", "'sparse': true", "{'c': 1}", "", 0, 0},
    {"{'a.b': 1}", "'sparse': true", "{'a': [1, {'b': 2}]}", "2", 1, 0},
    {"{'a': 1}", "'partialFilterExpression': {'b': {'$gt': 5}}", "{'a': 1, 'b': 5}", "", 0, 0},
    {"{'a': 1}", "'partialFilterExpression': {'b': {'$gt': 5}}", "{'a': 1, 'b': 6}", "1", 0, 0},
    {"{'a': 1}", "'partialFilterExpression': {'b': {'$gt': 5}}", "{'b': 6}", "null", 0, 0},
    /* hashed: numbers as whole ones; MongoDB's own values */
    {"{'a': 'hashed'}", "", "{'a': 1}", "5902408780260971510", 0, 0},
    {"{'a': 'hashed'}", "", "{'a': 1.9}", "5902408780260971510", 0, 0},
    {"{'a': 'hashed'}", "", "{}", "2338878944348059895", 0, 0},
    {"{'a': 'hashed'}", "", "{'a': null}", "2338878944348059895", 0, 0},
    {"{'a': 'hashed'}", "'sparse': true", "{}", "", 0, 0},
    {"{'b': 1, 'a': 'hashed'}", "", "{'b': 2, 'a': 1}", "2,5902408780260971510", 0, 0},
    {"{'a': 'hashed'}", "", "{'a': [1]}", NULL, 0, -16766},
    {"{'a.b': 'hashed'}", "", "{'a': [{'b': 1}]}", NULL, 0, -16766},
    /* wildcard */
    {"{'$**': 1}", "", "{'_id': 1, 'a': 1, 'b': {'c': 2, 'd': {}}}",
     "\"a\",1 \"b.c\",2 \"b.d\",{ }", 0, 0},
    {"{'$**': 1}", "", "{'a': [1, {'b': 2}, [3], []], 'c': []}",
     "\"a\",1 \"a\",[ ] \"a\",[ 3 ] \"a.b\",2 \"c\",undefined", 1, 0},
    {"{'$**': 1}", "", "{'_id': 1}", "", 0, 0},
    {"{'$**': 1}", "", "{'a.b': 1, 'c': null}", "\"c\",null", 0, 0},
    {"{'a.$**': 1}", "", "{'a': {'b': 1}, 'b': 1}", "\"a.b\",1", 0, 0},
    {"{'a.$**': 1}", "", "{'a': 5, 'ab': 1}", "\"a\",5", 0, 0},
    {"{'a.b.$**': 1}", "", "{'a': [{'b': {'c': 1}, 'd': 2}]}", "\"a.b.c\",1", 1, 0},
    {"{'$**': 1}", "'wildcardProjection': {'a': 1, 'b.c': 1}",
     "{'a': {'x': 1}, 'b': {'c': 2, 'd': 3}}", "\"a.x\",1 \"b.c\",2", 0, 0},
    {"{'$**': 1}", "'wildcardProjection': {'a': 0, '_id': 1}", "{'_id': 7, 'a': {'x': 1}, 'b': 2}",
     "\"_id\",7 \"b\",2", 0, 0},
    {"{'$**': 1}", "'wildcardProjection': {'a': 1}", "{'_id': 7, 'a': 1}", "\"a\",1", 0, 0},
    {"{'b': 1, '$**': 1}", "'wildcardProjection': {'a': 1}", "{'a': {'x': 1, 'y': 2}, 'b': 2}",
     "2,\"a.x\",1 2,\"a.y\",2", 0, 0},
    {"{'b': 1, '$**': 1}", "'wildcardProjection': {'a': 1}", "{'b': [1]}", NULL, 0, -7246301},
};

Test(index_keys, tables)
{
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        const case_t *c = &cases[i];
        vd_error_t err = VD_ERROR_INIT;
        const stor_index_def_t *def = def_of(arena, c->key, c->options);
        stor_index_keys_t keys;
        int rc = stor_index_keys_make(def, arena, query_json(arena, c->document), &keys, &err);
        cr_assert_eq(rc, c->code, "%s of %s: %d %s", c->key, c->document, rc, err.message);
        if (rc != VD_OK)
            continue;
        const char *text = keys_text(arena, def, &keys);
        cr_expect_str_eq(text, c->keys, "%s of %s: %s", c->key, c->document, text);
        cr_expect_eq(keys.multikey, c->multikey, "%s of %s: multikey %u", c->key, c->document,
                     keys.multikey);
        vd_arena_reset(arena);
    }
    vd_arena_destroy(&arena);
}

/* A key that was cut is told so, and its entry is read apart all the same. */
Test(index_keys, long_values)
{
    vd_arena_t *arena = vd_arena_create();
    char *text = vd_arena_alloc(arena, 5000);
    memset(text, 'x', 4000);
    text[4000] = 0;
    const stor_index_def_t *def = def_of(arena, "{'a': 1, 'b': -1}", "");
    stor_index_keys_t keys;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t document =
        query_json(arena, vd_arena_printf(arena, "{'a': '%s', 'b': '%s1'}", text, text));
    cr_assert_eq(stor_index_keys_make(def, arena, document, &keys, &err), VD_OK);
    cr_assert_eq(keys.count, 1);
    cr_assert_not(keys.keys[0].exact);
    vd_slice_t id = VD_SLICE_LIT("\x2d\x02");
    stor_index_entry_t entry;
    cr_assert_eq(stor_index_entry_read(def, stor_index_entry_key(arena, def, keys.keys[0].key, id),
                                       stor_index_entry_value(arena, def, &keys.keys[0], id),
                                       &entry, &err),
                 VD_OK);
    cr_assert(vd_slice_equal(entry.fields, keys.keys[0].key));
    cr_assert(vd_slice_equal(entry.id_key, id));
    cr_assert_not(entry.exact);
    vd_arena_destroy(&arena);
}

/* ---- the model: choose an element of every array on the way, in all ways ---- */

#define MODEL_FIELDS 3
#define MODEL_MAX    4096

typedef struct {
    const uint8_t *arrays[16];
    vd_value_t chosen[16]; /* MISSING: the array is empty */
    uint32_t count;
} choice_t;

typedef struct {
    vd_arena_t *arena;
    const stor_index_def_t *def;
    vd_bson_t document;
    vd_slice_t keys[MODEL_MAX];
    uint32_t count;
    bool parallel;
} model_t;

static const vd_value_t undefined_value = {NULL, 0, VD_BSON_UNDEFINED};

/* The value of a path under the choices; *ret_array: an array that nothing was chosen of yet. */
static vd_value_t model_walk(vd_value_t value, vd_slice_t path, const choice_t *choice,
                             vd_value_t *ret_array)
{
    bool chosen = false, empty = false; /* the value was chosen of an array just now */
    for (;;) {
        if (value.type == VD_BSON_ARRAY && !chosen) {
            uint32_t i = 0;
            while (i < choice->count && choice->arrays[i] != value.data)
                i++;
            if (i == choice->count) {
                *ret_array = value;
                return VD_VALUE_MISSING;
            }
            value = choice->chosen[i];
            chosen = true;
            empty = value.type == VD_BSON_MISSING;
        }
        if (path.len == 0)
            return empty ? undefined_value : value;
        if (value.type != VD_BSON_OBJECT)
            return VD_VALUE_MISSING;
        const uint8_t *dot = memchr(path.data, '.', path.len);
        size_t len = dot == NULL ? path.len : (size_t)(dot - path.data);
        value = vd_bson_get_slice(vd_value_document(value), vd_slice(path.data, len));
        path = dot == NULL ? VD_SLICE_NULL : vd_slice(dot + 1, path.len - len - 1);
        chosen = false;
        if (value.type == VD_BSON_MISSING)
            return value;
    }
}

static void model_emit(model_t *model, const vd_value_t *values)
{
    vd_buf_t key;
    bool exact, found = false;
    vd_buf_init(&key, 1 << 20);
    for (uint32_t f = 0; f < model->def->field_count; f++) {
        found |= values[f].type != VD_BSON_MISSING;
        vd_value_t value = values[f].type == VD_BSON_MISSING ? vd_value_from_null() : values[f];
        cr_assert_eq(stor_keycode_append(&key, value,
                                         model->def->fields[f].order == STOR_INDEX_DESCENDING,
                                         &exact, NULL),
                     VD_OK);
    }
    if (found || !model->def->sparse) {
        cr_assert_lt(model->count, MODEL_MAX);
        model->keys[model->count++] = vd_arena_copy_slice(model->arena, vd_buf_slice(&key));
    }
    vd_buf_done(&key);
}

static void model_run(model_t *model, const choice_t *choice)
{
    vd_value_t values[MODEL_FIELDS], array = VD_VALUE_MISSING;
    for (uint32_t f = 0; f < model->def->field_count; f++) {
        vd_value_t needed = VD_VALUE_MISSING;
        values[f] = model_walk(vd_value_from_document(model->document), model->def->fields[f].path,
                               choice, &needed);
        if (needed.type == VD_BSON_MISSING)
            continue;
        model->parallel |= array.type != VD_BSON_MISSING && array.data != needed.data;
        array = needed;
    }
    if (model->parallel)
        return;
    if (array.type == VD_BSON_MISSING) {
        model_emit(model, values);
        return;
    }
    choice_t next = *choice;
    cr_assert_lt(next.count, 16);
    next.arrays[next.count] = array.data;
    next.count++;
    if (vd_bson_is_empty(vd_value_document(array))) {
        next.chosen[next.count - 1] = VD_VALUE_MISSING;
        model_run(model, &next);
        return;
    }
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    while (!model->parallel && vd_bson_iter_next(&iter)) {
        next.chosen[next.count - 1] = iter.value;
        model_run(model, &next);
    }
}

static int slice_compare(const void *a, const void *b)
{
    return vd_slice_compare(*(const vd_slice_t *)a, *(const vd_slice_t *)b);
}

static uint32_t model_finish(model_t *model)
{
    uint32_t kept = 0;
    qsort(model->keys, model->count, sizeof *model->keys, slice_compare);
    for (uint32_t i = 0; i < model->count; i++)
        if (kept == 0 || !vd_slice_equal(model->keys[kept - 1], model->keys[i]))
            model->keys[kept++] = model->keys[i];
    return kept;
}

static void random_text(vd_rand_t *rand, vd_buf_t *out, int depth)
{
    static const char *const names[] = {"a", "b", "c"};
    uint64_t kind = vd_rand_below(rand, depth <= 0 ? 4 : 9);
    int rc = VD_OK;
    if (kind < 4) {
        static const char *const leaves[] = {"1", "2", "null", "'s'"};
        rc = vd_buf_printf(out, "%s", leaves[kind]);
    } else if (kind < 6) {
        rc = vd_buf_printf(out, "[");
        for (uint64_t i = 0, n = vd_rand_below(rand, 3); i < n; i++) {
            if (i > 0)
                rc = vd_buf_printf(out, ",");
            random_text(rand, out, depth - 1);
        }
        rc = vd_buf_printf(out, "]");
    } else {
        bool first = true;
        rc = vd_buf_printf(out, "{");
        for (int i = 0; i < 3; i++) {
            if (vd_rand_below(rand, 3) == 0)
                continue;
            rc = vd_buf_printf(out, "%s'%s':", first ? "" : ",", names[i]);
            random_text(rand, out, depth - 1);
            first = false;
        }
        rc = vd_buf_printf(out, "}");
    }
    cr_assert_eq(rc, VD_OK);
}

Test(index_keys, agree_with_the_model)
{
    static const char *const keys[] = {"{'a': 1}",
                                       "{'a.b': -1}",
                                       "{'a': 1, 'b': 1}",
                                       "{'a.b': 1, 'a.c': -1}",
                                       "{'a.b.c': 1}",
                                       "{'a': 1, 'a.b': 1}",
                                       "{'a.b': 1, 'b': -1, 'a.b.a': 1}",
                                       "{'b.a': 1, 'a.b.c': 1}"};
    vd_rand_t rand;
    vd_rand_seed(&rand, 4711);
    vd_arena_t *arena = vd_arena_create();
    uint32_t refused = 0, many = 0;
    for (int round = 0; round < 20000; round++) {
        vd_buf_t text;
        vd_error_t err = VD_ERROR_INIT;
        stor_index_keys_t made;
        vd_buf_init(&text, 1 << 20);
        cr_assert_eq(vd_buf_printf(&text, "{'v':{'a':"), VD_OK);
        random_text(&rand, &text, 4);
        cr_assert_eq(vd_buf_printf(&text, ",'b':"), VD_OK);
        random_text(&rand, &text, 3);
        cr_assert_eq(vd_buf_printf(&text, "}}"), VD_OK);
        const char *json = vd_arena_strndup(arena, vd_buf_slice(&text).data, vd_buf_len(&text));
        vd_buf_done(&text);
        vd_bson_t document = vd_value_document(vd_bson_get(query_json(arena, json), "v"));
        const char *key = keys[vd_rand_below(&rand, VD_COUNT_OF(keys))];
        model_t *model = VD_ARENA_NEW(arena, model_t);
        model->arena = arena;
        model->def = def_of(arena, key, vd_rand_below(&rand, 3) == 0 ? "'sparse': true" : "");
        model->document = document;
        choice_t none = {.count = 0};
        model_run(model, &none);
        int rc = stor_index_keys_make(model->def, arena, document, &made, &err);
        if (model->parallel) {
            cr_assert_eq(rc, VD_ERR_CANNOT_INDEX_PARALLEL_ARRAYS, "%s of %s", key, json);
            refused++;
        } else {
            cr_assert_eq(rc, VD_OK, "%s of %s: %s", key, json, err.message);
            uint32_t count = model_finish(model);
            cr_assert_eq(made.count, count, "%s of %s: %u keys, not %u: %s", key, json, made.count,
                         count, keys_text(arena, model->def, &made));
            for (uint32_t i = 0; i < count; i++)
                cr_assert(vd_slice_equal(made.keys[i].key, model->keys[i]), "%s of %s", key, json);
            many += count > 1;
        }
        vd_arena_reset(arena);
    }
    cr_assert_gt(refused, 100);
    cr_assert_gt(many, 100);
    vd_arena_destroy(&arena);
}
