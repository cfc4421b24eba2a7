/* tests/unit/query/test_update_model.c — random $set, $unset, $inc and $push against a model that
 * does the obvious on a tree of nodes, one operator after the other. */
#include "libcommon/base/rand.h"
#include "tests/unit/query/update_cases.h"

#include <stdlib.h>

#define KIDS_MAX 24
#define OPS_MAX  6

typedef struct node {
    char name[16];
    char kind; /* i: int32, s: string, o: object, a: array, n: null */
    int32_t number;
    uint32_t count;
    struct node *kids[KIDS_MAX];
} node_t;

typedef struct {
    char op;        /* s, u, i, p */
    uint32_t count; /* parts */
    char parts[3][4];
    char path[16];
    node_t *operand; /* a value */
} op_t;

static node_t *node_new(vd_arena_t *arena, char kind, const char *name)
{
    node_t *node = VD_ARENA_NEW(arena, node_t);
    node->kind = kind;
    (void)snprintf(node->name, sizeof node->name, "%s", name);
    return node;
}

static void node_name(node_t *node, const char *name)
{
    (void)snprintf(node->name, sizeof node->name, "%s", name);
}

static node_t *node_copy(vd_arena_t *arena, const node_t *from)
{
    node_t *node = vd_arena_copy(arena, from, sizeof *from);
    for (uint32_t i = 0; i < node->count; i++)
        node->kids[i] = node_copy(arena, from->kids[i]);
    return node;
}

static bool node_same(const node_t *a, const node_t *b)
{
    if (a->kind != b->kind || a->number != b->number || a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (strcmp(a->kids[i]->name, b->kids[i]->name) != 0 || !node_same(a->kids[i], b->kids[i]))
            return false;
    return true;
}

static node_t *node_random(vd_arena_t *arena, vd_rand_t *rand, int depth, const char *name)
{
    static const char kinds[] = "iisoanoa";
    char kind = kinds[vd_rand_below(rand, depth > 0 ? 8 : 3)];
    node_t *node = node_new(arena, kind, name);
    if (kind == 'i' || kind == 's')
        node->number = (int32_t)vd_rand_below(rand, 3);
    if (kind != 'o' && kind != 'a')
        return node;
    uint32_t kids = (uint32_t)vd_rand_below(rand, 4);
    for (uint32_t i = 0; i < kids; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "%u", i);
        if (kind == 'o')
            (void)snprintf(text, sizeof text, "%c", "ab01"[(i + node->count) % 4]);
        node_t *kid = node_random(arena, rand, depth - 1, text);
        bool twice = false;
        for (uint32_t k = 0; k < node->count; k++)
            twice |= strcmp(node->kids[k]->name, text) == 0;
        if (!twice)
            node->kids[node->count++] = kid;
    }
    return node;
}

static void node_write(vd_bb_t *bb, const node_t *node)
{
    switch (node->kind) {
    case 'i':
        vd_bb_int32(bb, node->name, node->number);
        break;
    case 's':
        vd_bb_cstr(bb, node->name,
                   node->number == 0   ? ""
                   : node->number == 1 ? "x"
                                       : "a longer text");
        break;
    case 'n':
        vd_bb_null(bb, node->name);
        break;
    default:
        if (node->kind == 'o')
            vd_bb_begin_document(bb, node->name);
        else
            vd_bb_begin_array(bb, node->name);
        for (uint32_t i = 0; i < node->count; i++)
            node_write(bb, node->kids[i]);
        vd_bb_close(bb);
        break;
    }
}

static vd_bson_t tree_bson(vd_arena_t *arena, const node_t *root)
{
    vd_bb_t bb;
    vd_bson_t document = VD_BSON_NONE;
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    for (uint32_t i = 0; i < root->count; i++)
        node_write(&bb, root->kids[i]);
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    return document;
}

static bool is_number(const char *part)
{
    return part[0] >= '0' && part[0] <= '9';
}

static node_t **kid_slot(node_t *parent, const char *part)
{
    if (parent->kind == 'a') {
        uint32_t at = is_number(part) ? (uint32_t)atoi(part) : UINT32_MAX;
        return at < parent->count ? &parent->kids[at] : NULL;
    }
    for (uint32_t i = 0; i < parent->count; i++)
        if (strcmp(parent->kids[i]->name, part) == 0)
            return &parent->kids[i];
    return NULL;
}

/* 0, or MongoDB's error number. */
static int model_apply(vd_arena_t *arena, node_t *root, const op_t *op, bool *changed)
{
    node_t *at = root;
    uint32_t part = 0;
    for (; part + 1 < op->count; part++) {
        node_t **slot = at->kind == 'o' || at->kind == 'a' ? kid_slot(at, op->parts[part]) : NULL;
        if (slot == NULL)
            break;
        at = *slot;
    }
    node_t **slot = NULL;
    if (part + 1 == op->count && (at->kind == 'o' || at->kind == 'a'))
        slot = kid_slot(at, op->parts[part]);
    if (slot == NULL) {
        if (op->op == 'u')
            return 0;
        if ((at->kind != 'o' && at->kind != 'a') ||
            (at->kind == 'a' && !is_number(op->parts[part])))
            return 28;
        for (;; part++) {
            if (at->kind == 'a') {
                uint32_t position = (uint32_t)atoi(op->parts[part]);
                while (at->count < position) {
                    char text[16];
                    (void)snprintf(text, sizeof text, "%u", at->count);
                    at->kids[at->count++] = node_new(arena, 'n', text);
                }
            }
            cr_assert(at->count < KIDS_MAX);
            slot = &at->kids[at->count++];
            if (part + 1 == op->count)
                break;
            at = *slot = node_new(arena, 'o', op->parts[part]);
        }
        *changed = true;
        if (op->op == 'p') {
            *slot = node_new(arena, 'a', op->parts[part]);
            node_t *kid = node_copy(arena, op->operand);
            node_name(kid, "0");
            (*slot)->kids[(*slot)->count++] = kid;
        } else {
            *slot = node_copy(arena, op->operand);
            node_name(*slot, op->parts[part]);
        }
        return 0;
    }
    node_t *old = *slot;
    switch (op->op) {
    case 's':
        if (node_same(old, op->operand))
            return 0;
        *slot = node_copy(arena, op->operand);
        node_name(*slot, op->parts[part]);
        break;
    case 'u':
        if (at->kind == 'a') {
            *slot = node_new(arena, 'n', op->parts[part]);
        } else {
            uint32_t position = (uint32_t)(slot - at->kids);
            memmove(slot, slot + 1, sizeof *slot * (at->count - position - 1));
            at->count--;
        }
        break;
    case 'i':
        if (old->kind != 'i')
            return 14;
        if (op->operand->number == 0)
            return 0;
        old->number += op->operand->number;
        break;
    default: {
        if (old->kind != 'a')
            return 2;
        char text[16];
        (void)snprintf(text, sizeof text, "%u", old->count);
        cr_assert(old->count < KIDS_MAX);
        node_t *kid = node_copy(arena, op->operand);
        node_name(kid, text);
        old->kids[old->count++] = kid;
        break;
    }
    }
    *changed = true;
    return 0;
}

static int compare_ops(const void *a, const void *b)
{
    const op_t *x = a, *y = b;
    for (uint32_t i = 0; i < x->count && i < y->count; i++) {
        int order = is_number(x->parts[i]) && is_number(y->parts[i])
                        ? atoi(x->parts[i]) - atoi(y->parts[i])
                        : strcmp(x->parts[i], y->parts[i]);
        if (order != 0)
            return order;
    }
    return 0;
}

static bool conflicts(const op_t *a, const op_t *b)
{
    for (uint32_t i = 0; i < a->count && i < b->count; i++)
        if (strcmp(a->parts[i], b->parts[i]) != 0)
            return false;
    return true;
}

static void op_random(vd_arena_t *arena, vd_rand_t *rand, op_t *op)
{
    static const char *const names[] = {"a", "b", "c", "0", "1", "2", "10"};
    op->op = "suipsp"[vd_rand_below(rand, 6)];
    op->count = 1 + (uint32_t)vd_rand_below(rand, 3);
    size_t len = 0;
    for (uint32_t i = 0; i < op->count; i++) {
        const char *name = names[vd_rand_below(rand, VD_COUNT_OF(names))];
        (void)snprintf(op->parts[i], sizeof op->parts[i], "%s", name);
        len +=
            (size_t)snprintf(op->path + len, sizeof op->path - len, "%s%s", i > 0 ? "." : "", name);
    }
    op->operand = op->op == 'i' ? node_new(arena, 'i', "") : node_random(arena, rand, 1, "");
    if (op->op == 'i')
        op->operand->number = (int32_t)vd_rand_below(rand, 3);
}

static vd_bson_t ops_bson(vd_arena_t *arena, op_t *ops, uint32_t count)
{
    static const struct {
        char op;
        const char *name;
    } kinds[] = {{'s', "$set"}, {'u', "$unset"}, {'i', "$inc"}, {'p', "$push"}};
    vd_bb_t bb;
    vd_bson_t spec = VD_BSON_NONE;
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    for (size_t k = 0; k < VD_COUNT_OF(kinds); k++) {
        vd_bb_begin_document(&bb, kinds[k].name);
        for (uint32_t i = 0; i < count; i++) {
            if (ops[i].op != kinds[k].op)
                continue;
            node_t *value = node_copy(arena, ops[i].operand);
            vd_slice_t path = vd_slice_str(ops[i].path);
            /* names of nodes are short: written under an empty name, then copied under the path */
            vd_bb_t one;
            vd_bson_t wrapped = VD_BSON_NONE;
            node_name(value, "");
            vd_bb_init_arena(&one, arena, VD_BSON_DOCUMENT_MAX_BYTES);
            node_write(&one, value);
            cr_assert_eq(vd_bb_finish(&one, &wrapped, NULL), VD_OK);
            vd_bb_value(&bb, path, vd_bson_get(wrapped, ""));
        }
        vd_bb_close(&bb);
    }
    cr_assert_eq(vd_bb_finish(&bb, &spec, NULL), VD_OK);
    return spec;
}

Test(update_model, random)
{
    enum { ROUNDS = 60000 };
    vd_rand_t rand;
    vd_rand_seed(&rand, 20240607);
    vd_arena_t *arena = vd_arena_create();
    uint32_t applied = 0, refused = 0, unchanged = 0;
    for (int round = 0; round < ROUNDS; round++) {
        vd_arena_reset(arena);
        node_t *root = node_new(arena, 'o', "");
        node_t *id = node_new(arena, 'i', "_id");
        id->number = round;
        root->kids[root->count++] = id;
        static const char *const top[] = {"b", "a", "c", "1"};
        for (size_t i = 0; i < VD_COUNT_OF(top); i++)
            if (vd_rand_below(&rand, 4) > 0)
                root->kids[root->count++] = node_random(arena, &rand, 3, top[i]);
        vd_bson_t document = tree_bson(arena, root);

        op_t ops[OPS_MAX] = {0};
        uint32_t count = 0, wanted = 1 + (uint32_t)vd_rand_below(&rand, OPS_MAX);
        for (uint32_t i = 0; i < wanted; i++) {
            op_random(arena, &rand, &ops[count]);
            bool conflict = false;
            for (uint32_t k = 0; k < count; k++)
                conflict |= conflicts(&ops[k], &ops[count]);
            count += !conflict;
        }
        vd_bson_t spec = ops_bson(arena, ops, count);
        const char *document_text = vd_bson_to_json(arena, document, 1000),
                   *spec_text = vd_bson_to_json(arena, spec, 1000);

        qsort(ops, count, sizeof *ops, compare_ops);
        bool model_changed = false;
        int model_code = 0;
        for (uint32_t i = 0; i < count && model_code == 0; i++)
            model_code = model_apply(arena, root, &ops[i], &model_changed);

        stor_update_options_t options = {.update = vd_value_from_document(spec),
                                         .variables = &case_variables};
        stor_update_t *update = NULL;
        vd_bson_t result = VD_BSON_NONE;
        bool changed = false;
        vd_error_t err = VD_ERROR_INIT;
        int rc = stor_update_parse(arena, &options, &update, &err);
        cr_assert_eq(rc, VD_OK, "%s: %s", spec_text, err.message);
        rc = stor_update_apply(update, arena, document, NULL, &result, &changed, &err);
        if (model_code != 0) {
            refused++;
            cr_assert_neq(rc, VD_OK, "%s with %s: the model refuses with %d", document_text,
                          spec_text, model_code);
            if (count == 1)
                cr_assert_eq(-rc, model_code, "%s with %s: %s", document_text, spec_text,
                             err.message);
            continue;
        }
        cr_assert_eq(rc, VD_OK, "%s with %s: %s", document_text, spec_text, err.message);
        cr_assert_eq(changed, model_changed, "%s with %s", document_text, spec_text);
        vd_bson_t expected = tree_bson(arena, root);
        cr_assert(case_bytes_equal(result, expected), "%s with %s:\n  %s\ninstead of\n  %s",
                  document_text, spec_text, vd_bson_to_json(arena, result, 1000),
                  vd_bson_to_json(arena, expected, 1000));
        applied++;
        unchanged += !changed;
    }
    cr_expect(applied > ROUNDS / 10 && refused > ROUNDS / 10 && unchanged > 100,
              "%u applied, %u refused, %u unchanged", applied, refused, unchanged);
    vd_arena_destroy(&arena);
}

/* Any operator, any path, any operand: an error or a valid document with its _id, never anything
 * else. */
Test(update_model, any_operator)
{
    enum { ROUNDS = 40000 };
    static const char *const operators[] = {
        "$set",  "$unset",       "$inc",  "$mul",      "$min", "$max",     "$setOnInsert", "$bit",
        "$push", "$currentDate", "$pull", "$addToSet", "$pop", "$pullAll", "$rename"};
    static const char *const parts[] = {"a",    "b",   "0",  "1", "$", "$[]",
                                        "$[i]", "_id", "$x", "a", "b"};
    static const char *const operands[] = {
        "1",
        "-1",
        "{'$numberLong': '9223372036854775807'}",
        "1.5",
        "{'$numberDecimal': '1E+6000'}",
        "{'$numberDouble': 'NaN'}",
        "'b'",
        "'c.d'",
        "null",
        "true",
        "[1, 'x', {'a': 1}]",
        "[]",
        "{}",
        "{'a': 1}",
        "{'$gte': 1}",
        "{'$each': [3, 1, 2, {'b': 1}]}",
        "{'$each': [2, 2.0, 9], '$slice': -2, '$sort': 1, '$position': 1}",
        "{'$each': [{'b': 2}, {'b': 1}], '$sort': {'b': -1}, '$slice': 3}",
        "{'and': 1, 'xor': {'$numberLong': '4'}}",
        "{'~type': 'timestamp'}",
    };
    static const char *const documents[] = {
        "{'_id': 1, 'a': [1, 2, 3], 'b': {'a': [{'b': 1}, {'b': [1, 2]}], 'b': 5}}",
        "{'_id': {'a': 1}, 'b': [[1, 2], [3, [4]], {'a': 1}], 'a': {'0': 1, '1': [2]}}",
        "{'_id': 'x', 'a': [], 'b': null, '$x': 1}",
        "{'_id': 1, 'a': 2147483647, 'b': [{'a': 1, 'b': 2}, {'a': 2}, 7]}",
    };
    vd_rand_t rand;
    vd_rand_seed(&rand, 77);
    vd_arena_t *arena = vd_arena_create();
    uint32_t applied = 0;
    for (int round = 0; round < ROUNDS; round++) {
        vd_arena_reset(arena);
        vd_bson_t document =
                      case_json(arena, documents[vd_rand_below(&rand, VD_COUNT_OF(documents))]),
                  spec, result;
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
        bool filtered = false;
        for (uint64_t ops = 1 + vd_rand_below(&rand, 3); ops > 0; ops--) {
            vd_bb_begin_document(&bb, operators[vd_rand_below(&rand, VD_COUNT_OF(operators))]);
            for (uint64_t paths = 1 + vd_rand_below(&rand, 2); paths > 0; paths--) {
                char path[64];
                size_t len = 0;
                for (uint64_t i = 1 + vd_rand_below(&rand, 3), first = i; i > 0; i--) {
                    const char *part = parts[vd_rand_below(&rand, VD_COUNT_OF(parts))];
                    filtered |= strcmp(part, "$[i]") == 0;
                    len += (size_t)snprintf(path + len, sizeof path - len, "%s%s",
                                            i < first ? "." : "", part);
                }
                const char *operand = operands[vd_rand_below(&rand, VD_COUNT_OF(operands))];
                vd_bson_t wrapped = case_json(arena, vd_arena_printf(arena, "{'v': %s}", operand));
                vd_bb_value(&bb, vd_slice_str(path), vd_bson_get(wrapped, "v"));
            }
            vd_bb_close(&bb);
        }
        cr_assert_eq(vd_bb_finish(&bb, &spec, NULL), VD_OK);
        stor_update_options_t options = {.update = vd_value_from_document(spec),
                                         .variables = &case_variables};
        if (filtered)
            options.array_filters = case_array(arena, "[{'i': {'$gte': 1}}]");
        stor_update_t *update = NULL;
        bool changed = false;
        vd_error_t err = VD_ERROR_INIT;
        stor_match_t match = {.arena = arena,
                              .array_position = (int64_t)vd_rand_below(&rand, 3) - 1};
        int rc = stor_update_parse(arena, &options, &update, &err);
        if (rc == VD_OK)
            rc = stor_update_apply(update, arena, document, &match, &result, &changed, &err);
        if (rc != VD_OK) {
            cr_assert(rc < 0 && err.code == rc && err.message[0] != '\0',
                      "an error without words: %d", rc);
            continue;
        }
        applied++;
        const char *text = vd_bson_to_json(arena, spec, 1000);
        cr_assert_eq(vd_bson_validate(vd_slice(result.data, result.len), VD_BSON_CHECK_UTF8,
                                      VD_BSON_DEPTH_MAX, &err),
                     VD_OK, "%s: %s", text, err.message);
        cr_assert(vd_value_identical(vd_bson_get(result, "_id"), vd_bson_get(document, "_id")),
                  "%s: _id changed", text);
        cr_assert(changed || result.data == document.data, "%s: no change, but another document",
                  text);
    }
    cr_expect(applied > ROUNDS / 20, "only %u applied", applied);
    vd_arena_destroy(&arena);
}
