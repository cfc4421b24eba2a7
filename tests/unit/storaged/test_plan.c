/* tests/unit/storaged/test_plan.c — the planner's pure parts by tables: bounds of indexes, ranges
 * and their check, covers, partial filters implied, choices. */
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/plan/needs.h"
#include "veddb-storaged/plan/plan.h"

static vd_arena_t *arena;

static const stor_index_def_t *def_of(const char *spec)
{
    const stor_index_def_t *def;
    vd_error_t err = VD_ERROR_INIT;
    const char *text = vd_arena_printf(arena, "{'v': 2, 'name': 'i', %s}", spec);
    cr_assert_eq(stor_index_def_parse(arena, query_json(arena, text), &def, &err), VD_OK, "%s: %s",
                 spec, err.message);
    return def;
}

static const stor_filter_t *filter_of(const char *text)
{
    stor_filter_t *filter;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(stor_filter_parse(arena, query_json(arena, text), NULL, &filter, &err), VD_OK,
                 "%s: %s", text, err.message);
    return filter;
}

/* "a: [1, 1] [3, 3]; b: [MinKey, MaxKey]" */
static const char *bounds_text(const stor_index_def_t *def, const stor_index_bounds_t *bounds)
{
    const char *text = "";
    for (uint32_t i = 0; i < bounds->code_count; i++) {
        text = vd_arena_printf(arena, "%s%s%.*s:", text, i == 0 ? "" : "; ",
                               VD_SLICE_FMT(def->fields[def->has_wildcard ? 0 : i].path));
        for (uint32_t k = 0; k < bounds->fields[i].count; k++)
            text = vd_arena_printf(
                arena, "%s %s", text,
                stor_interval_text(arena, &bounds->fields[i].items[k], false, false));
    }
    return text;
}

/* multikey: bits of the fields. exact: + when the bounds say the whole filter. */
static const struct {
    const char *key, *filter;
    uint32_t multikey;
    const char *bounds;
    bool exact;
} cases[] = {
    {"'a': 1", "{'a': 5}", 0, "a: [5, 5]", true},
    {"'a': 1", "{'a': {'$gt': 5}}", 0, "a: (5, inf.0]", true},
    {"'a': 1", "{'a': {'$lte': 5.5}}", 0, "a: [-inf.0, 5.5]", true},
    {"'a': 1", "{'a': {'$gte': 'x'}}", 0, "a: [\"x\", { })", true},
    {"'a': 1", "{'a': {'$gt': 1, '$lt': 9}}", 0, "a: (1, 9)", true},
    {"'a': 1", "{'a': {'$gt': 9, '$lt': 1}}", 0, "a:", true},
    {"'a': 1", "{'a': {'$gt': 1, '$lt': 9}}", 1, "a: (1, inf.0]", false},
    {"'a': 1", "{'a': {'$elemMatch': {'$gt': 1, '$lt': 9}}}", 1, "a: (1, 9)", false},
    {"'a': 1", "{'a': {'$in': [3, 1, 2, 1.0]}}", 1, "a: [1, 1] [2, 2] [3, 3]", true},
    {"'a': 1", "{'a': {'$in': [3, null]}}", 0, "a: [undefined, null] [3, 3]", false},
    {"'a': 1", "{'a': null}", 0, "a: [undefined, null]", false},
    {"'a': 1", "{'a': {'$exists': true}}", 0, "a: [MinKey, MaxKey]", false},
    {"'a': 1", "{'a': {'$exists': false}}", 0, "a: [undefined, null]", false},
    {"'a': 1", "{'a': {'$ne': 5}}", 0, "a: [MinKey, 5) (5, MaxKey]", true},
    {"'a': 1", "{'a': {'$ne': 5}}", 1, "a: [MinKey, 5) (5, MaxKey]", false},
    {"'a': 1", "{'a': {'$ne': null}}", 0, "a: [MinKey, null) (null, MaxKey]", false},
    {"'a': 1", "{'a': {'$ne': null}}", 1, "a: [MinKey, MaxKey]", false},
    {"'a': 1", "{'a': {'$not': {'$gt': 5}}}", 0, "a: [MinKey, 5] (inf.0, MaxKey]", true},
    {"'a': 1", "{'a': {'$nin': [1, 2]}}", 0, "a: [MinKey, 1) (1, 2) (2, MaxKey]", true},
    {"'a': 1", "{'a': {'$mod': [2, 0]}}", 0, "a: [nan.0, inf.0]", false},
    {"'a': 1", "{'a': {'%type': 'string'}}", 0, "a: [\"\", { })", false},
    {"'a': 1", "{'a': {'%type': 'array'}}", 1, "a: [MinKey, MaxKey]", false},
    {"'a': 1", "{'a': {'$size': 2}}", 1, "a: [MinKey, MaxKey]", false},
    {"'a': 1", "{'a': {'%regex': '^ab', '%options': ''}}", 0, "a: [\"ab\", \"ac\") [/^ab/, /^ab/]",
     true},
    {"'a': 1", "{'a': {'%regex': '^ab.*c', '%options': ''}}", 0,
     "a: [\"ab\", \"ac\") [/^ab.*c/, /^ab.*c/]", false},
    {"'a': 1", "{'a': {'%regex': '^abc?', '%options': ''}}", 0,
     "a: [\"ab\", \"ac\") [/^abc?/, /^abc?/]", false},
    {"'a': 1", "{'a': {'%regex': '^ab', '%options': 'i'}}", 0, "a: [\"\", { }) [/^ab/i, /^ab/i]",
     false},
    {"'a': 1", "{'a': {'%regex': '^a|b', '%options': ''}}", 0, "a: [\"\", { }) [/^a|b/, /^a|b/]",
     false},
    {"'a': 1", "{'a': [1, 2]}", 1, "a: [1, 1] [[ 1, 2 ], [ 1, 2 ]]", false},
    {"'a': 1", "{'a': []}", 1, "a: [undefined, undefined] [[ ], [ ]]", false},
    {"'a': 1", "{'a': {'$gt': [1]}}", 1, "a: [MinKey, MaxKey]", false},
    {"'a': 1", "{'a': {'$gte': null}}", 0, "a: [undefined, null]", false},
    {"'a': 1", "{'b': 5}", 0, "a: [MinKey, MaxKey]", false},
    {"'a': 1, 'b': 1", "{'a': 1, 'b': {'$lt': 3}}", 0, "a: [1, 1]; b: [-inf.0, 3)", true},
    {"'a': 1, 'b': 1", "{'b': 1}", 0, "a: [MinKey, MaxKey]; b: [1, 1]", true},
    {"'a': 1, 'b': 1", "{'a': 1, 'b': 2}", 1, "a: [1, 1]; b: [2, 2]", true},
    {"'a': 1, 'b': 1", "{'a': 1, 'b': 2}", 3, "a: [1, 1]; b: [2, 2]", true},
    {"'a.x': 1, 'a.y': 1", "{'a.x': 1, 'a.y': 2}", 0, "a.x: [1, 1]; a.y: [2, 2]", true},
    {"'a.x': 1, 'a.y': 1", "{'a.x': 1, 'a.y': 2}", 3, "a.x: [1, 1]; a.y: [MinKey, MaxKey]", false},
    {"'a.x': 1, 'a.y': 1", "{'a': {'$elemMatch': {'x': 1, 'y': 2}}}", 3, "a.x: [1, 1]; a.y: [2, 2]",
     false},
    {"'a.x': 1, 'a.y': 1", "{'a': {'$elemMatch': {'x': 1}}, 'a.y': 2}", 3,
     "a.x: [1, 1]; a.y: [MinKey, MaxKey]", false},
    {"'a.b.x': 1, 'a.b.y': 1", "{'a': {'$elemMatch': {'b.x': 1, 'b.y': 2}}}", 3,
     "a.b.x: [1, 1]; a.b.y: [MinKey, MaxKey]", false},
    {"'a.b.x': 1, 'a.b.y': 1", "{'a.b': {'$elemMatch': {'x': 1, 'y': {'$gt': 2}}}}", 3,
     "a.b.x: [1, 1]; a.b.y: (2, inf.0]", false},
    {"'a.x': 1, 'a.y': 1", "{'a': {'$not': {'$elemMatch': {'x': 1}}}}", 3,
     "a.x: [MinKey, MaxKey]; a.y: [MinKey, MaxKey]", false},
    {"'a': 1", "{'$nor': [{'a': 1}, {'a': {'$gt': 5}}]}", 0,
     "a: [MinKey, 1) (1, 5] (inf.0, MaxKey]", true},
    {"'a': 1", "{'$or': [{'a': 1}, {'a': 2}]}", 0, "a: [MinKey, MaxKey]", false},
    {"'a': 1", "{'$expr': {'$eq': ['$a', 1]}}", 0, "a: [MinKey, MaxKey]", false},
};

Test(plan, bounds_of_an_index)
{
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        stor_predicates_t predicates;
        stor_index_bounds_t bounds;
        stor_plan_index_t index = {.def =
                                       def_of(vd_arena_printf(arena, "'key': {%s}", cases[i].key)),
                                   .multikey = cases[i].multikey};
        stor_predicates_of(arena, filter_of(cases[i].filter), &predicates);
        cr_assert_eq(
            stor_index_bounds_make(arena, &index, &predicates, 0, VD_SLICE_NULL, &bounds, &err),
            VD_OK);
        cr_expect_str_eq(bounds_text(index.def, &bounds), cases[i].bounds, "%s of %s: %s",
                         cases[i].filter, cases[i].key, bounds_text(index.def, &bounds));
        cr_expect_eq(bounds.exact, cases[i].exact, "%s of %s", cases[i].filter, cases[i].key);
        vd_arena_destroy(&arena);
    }
}

/* ---- the check, walked over every key of a small index ---- */

static int slice_compare(const void *a, const void *b)
{
    return vd_slice_compare(*(const vd_slice_t *)a, *(const vd_slice_t *)b);
}

/* Follows the check's jumps over all keys in order; what it lands on must be all that is inside. */
static void walk(const stor_index_def_t *def, const stor_index_bounds_t *bounds, vd_slice_t *keys,
                 uint32_t count, bool backward, const char *what)
{
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
    uint32_t want = 0, got = 0;
    vd_buf_t seek;
    vd_buf_init(&seek, 100000);
    stor_index_descending(def, descending);
    for (uint32_t i = 0; i < count; i++)
        want += stor_index_bounds_check(bounds, keys[i], descending, backward, &seek) ==
                STOR_CHECK_INSIDE;
    for (uint32_t step = 0, at = 0; at < count;) {
        vd_slice_t key = keys[backward ? count - 1 - at : at];
        stor_check_t check = stor_index_bounds_check(bounds, key, descending, backward, &seek);
        cr_assert_neq(check, STOR_CHECK_CORRUPT);
        cr_assert_lt(step++, 10 * count, "%s: it goes round in circles", what);
        at++;
        if (check == STOR_CHECK_INSIDE) {
            got++;
            continue;
        }
        if (vd_buf_len(&seek) == 0)
            break;
        uint32_t before = at;
        while (at < count) {
            vd_slice_t next = keys[backward ? count - 1 - at : at], to = vd_buf_slice(&seek);
            int c = vd_slice_compare(next, to);
            if (backward ? c <= 0 || vd_slice_starts_with(next, to) : c >= 0)
                break;
            at++;
        }
        cr_assert_geq(at, before);
    }
    cr_assert_eq(got, want, "%s %s: %u of %u", what, backward ? "backward" : "forward", got, want);
    vd_buf_done(&seek);
}

Test(plan, jumps_over_gaps_lose_nothing)
{
    static const char *const keys_of[] = {"'key': {'a': 1, 'b': 1, 'c': 1}",
                                          "'key': {'a': -1, 'b': 1, 'c': -1}",
                                          "'key': {'a': 1, 'b': -1, 'c': 1}"};
    static const char *const filters[] = {
        "{'b': 2}",
        "{'b': {'$gt': 1}, 'c': {'$in': [0, 3]}}",
        "{'c': {'$lt': 2}}",
        "{'a': {'$gt': 0}, 'b': {'$in': [1, 3]}, 'c': {'$gte': 1, '$lt': 3}}",
        "{'b': {'$ne': 2}, 'c': 1}",
        "{'a': {'$gte': 1}, 'c': {'$gt': 7}}"};
    for (size_t k = 0; k < VD_COUNT_OF(keys_of); k++) {
        for (size_t f = 0; f < VD_COUNT_OF(filters); f++) {
            arena = vd_arena_create();
            stor_predicates_t predicates;
            stor_index_bounds_t bounds;
            stor_plan_index_t index = {.def = def_of(keys_of[k])};
            vd_slice_t keys[125];
            for (int i = 0; i < 125; i++) {
                stor_index_keys_t made;
                vd_bson_t document =
                    query_json(arena, vd_arena_printf(arena, "{'a': %d, 'b': %d, 'c': %d}", i / 25,
                                                      i / 5 % 5, i % 5));
                cr_assert_eq(stor_index_keys_make(index.def, arena, document, &made, NULL), VD_OK);
                keys[i] = made.keys[0].key;
            }
            qsort(keys, 125, sizeof keys[0], slice_compare);
            stor_predicates_of(arena, filter_of(filters[f]), &predicates);
            cr_assert_eq(
                stor_index_bounds_make(arena, &index, &predicates, 0, VD_SLICE_NULL, &bounds, NULL),
                VD_OK);
            bounds.checked_from = 0; /* as if the ranges said nothing */
            walk(index.def, &bounds, keys, 125, false, filters[f]);
            walk(index.def, &bounds, keys, 125, true, filters[f]);
            vd_arena_destroy(&arena);
        }
    }
}

/* ---- implication ---- */

Test(plan, a_partial_index_only_when_the_filter_implies_its_own)
{
    static const struct {
        const char *filter, *partial;
        bool implies;
    } list[] = {
        {"{'a': 5}", "{'a': {'$gt': 3}}", true},
        {"{'a': 2}", "{'a': {'$gt': 3}}", false},
        {"{'a': {'$gte': 4}}", "{'a': {'$gt': 3}}", true},
        {"{'a': {'$gte': 3}}", "{'a': {'$gt': 3}}", false},
        {"{'a': {'$in': [4, 5]}}", "{'a': {'$gt': 3}}", true},
        {"{'a': {'$in': [4, 1]}}", "{'a': {'$gt': 3}}", false},
        {"{'a': 5}", "{'a': {'$exists': true}}", true},
        {"{'a': null}", "{'a': {'$exists': true}}", false},
        {"{'a': {'$ne': 5}}", "{'a': {'$exists': true}}", false},
        {"{'a': {'$exists': true}}", "{'a': {'$exists': true}}", true},
        {"{'a': 'x'}", "{'a': {'%type': 'string'}}", false}, /* a symbol, too, equals it */
        {"{'a': 'x'}", "{'a': {'%type': ['string', 'symbol']}}", true},
        {"{'a': 5}", "{'a': {'%type': 'number'}}", true},
        {"{'a': 5}", "{'a': {'%type': 'int'}}", false},
        {"{'a': 5, 'b': 1}", "{'a': {'$gt': 3}, 'b': 1}", true},
        {"{'a': 5}", "{'a': {'$gt': 3}, 'b': 1}", false},
        {"{'$or': [{'a': 4}, {'a': 9}]}", "{'a': {'$gt': 3}}", true},
        {"{'$or': [{'a': 4}, {'b': 9}]}", "{'a': {'$gt': 3}}", false},
        {"{'a': 5}", "{'$or': [{'a': {'$gt': 3}}, {'b': 1}]}", true},
        {"{'c': 5}", "{'$or': [{'a': {'$gt': 3}}, {'b': 1}]}", false},
        {"{}", "{'a': {'$gt': 3}}", false},
        {"{'a': {'$not': {'$lte': 3}}}", "{'a': {'$gt': 3}}", false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(list); i++) {
        bool implies;
        arena = vd_arena_create();
        cr_assert_eq(stor_filter_implies(arena, NULL, filter_of(list[i].filter),
                                         filter_of(list[i].partial), &implies, NULL),
                     VD_OK);
        cr_expect_eq(implies, list[i].implies, "%s => %s", list[i].filter, list[i].partial);
        vd_arena_destroy(&arena);
    }
}

/* ---- orders ---- */

Test(plan, orders_that_an_index_gives)
{
    static const struct {
        const char *key, *filter, *sort;
        uint32_t multikey;
        int direction;
        uint32_t explode;
    } list[] = {
        {"'a': 1", "{}", "{'a': 1}", 0, 1, 0},
        {"'a': 1", "{}", "{'a': -1}", 0, -1, 0},
        {"'a': -1, 'b': 1", "{}", "{'a': 1, 'b': -1}", 0, -1, 0},
        {"'a': 1, 'b': 1", "{}", "{'a': 1, 'b': -1}", 0, 0, 0},
        {"'a': 1, 'b': 1", "{'a': 5}", "{'b': -1}", 0, -1, 0},
        {"'a': 1, 'b': 1", "{'a': {'$gt': 5}}", "{'b': 1}", 0, 0, 0},
        {"'a': 1, 'b': 1", "{'a': {'$in': [1, 2]}}", "{'b': 1}", 0, 1, 1},
        {"'a': 1, 'b': 1", "{'a': {'$in': [1, 2]}}", "{'a': 1, 'b': 1}", 0, 1, 0},
        {"'a': 1, 'b': 1, 'c': 1", "{'b': {'$in': [1, 2]}}", "{'a': 1, 'c': 1}", 0, 0, 0},
        {"'a': 1, 'b': 1", "{'b': 3}", "{'b': 1, 'a': 1}", 0, 1, 0},
        {"'a': 1, 'b': 1", "{'b': 3}", "{'b': 1, 'a': 1}", 2, 0, 0},
        {"'a': 1", "{}", "{'a': 1}", 1, 1, 0},
        {"'a': 1", "{'a': {'$gt': 3}}", "{'a': 1}", 1, 0, 0},
        {"'a': 1, 'b': 1", "{'a': 5}", "{'b': 1}", 1, 1, 0},
        {"'a.x': 1, 'a.y': 1", "{'a.x': 5}", "{'a.y': 1}", 3, 0, 0},
        {"'a': 'hashed'", "{}", "{'a': 1}", 0, 0, 0},
        {"'$**': 1", "{'a': 1}", "{'a': 1}", 0, 0, 0},
    };
    for (size_t i = 0; i < VD_COUNT_OF(list); i++) {
        arena = vd_arena_create();
        stor_predicates_t predicates;
        stor_index_bounds_t bounds;
        stor_sort_t *sort;
        uint32_t explode;
        stor_plan_index_t index = {.def =
                                       def_of(vd_arena_printf(arena, "'key': {%s}", list[i].key)),
                                   .multikey = list[i].multikey};
        stor_predicates_of(arena, filter_of(list[i].filter), &predicates);
        cr_assert_eq(
            stor_index_bounds_make(arena, &index, &predicates, 0, VD_SLICE_LIT("a"), &bounds, NULL),
            VD_OK);
        cr_assert_eq(stor_sort_parse(arena, query_json(arena, list[i].sort), &sort, NULL), VD_OK);
        int direction = stor_plan_order(&index, &bounds, sort, &explode);
        cr_expect_eq(direction, list[i].direction, "%s %s %s: %d", list[i].key, list[i].filter,
                     list[i].sort, direction);
        if (direction != 0)
            cr_expect_eq(explode, list[i].explode, "%s %s %s", list[i].key, list[i].filter,
                         list[i].sort);
        vd_arena_destroy(&arena);
    }
}

/* ---- covers and needs ---- */

Test(plan, documents_made_of_entries)
{
    static const struct {
        const char *key, *projection, *document, *made; /* made NULL: not told by the entry */
        bool covers;
    } list[] = {
        {"'a': 1, 'b': -1", "{'a': 1, 'b': 1, '_id': 0}", "{'_id': 1, 'a': 5.0, 'b': 'x'}",
         "{'a': 5.0, 'b': 'x'}", true},
        {"'a': 1, 'b': -1", "{'b': 1, '_id': 0}", "{'_id': 1, 'a': 5, 'b': {'$numberLong': '7'}}",
         NULL, true},
        {"'a.x': 1, 'b': 1, 'a.y': 1", "{'a.x': 1, 'a.y': 1, '_id': 0}",
         "{'_id': 1, 'a': {'x': 1, 'y': true}}", "{'a': {'x': 1, 'y': true}}", true},
        {"'a': 1", "{'a': 1, '_id': 0}", "{'_id': 1}", NULL, true},
        {"'a': 1", "{'a': 1, '_id': 0}", "{'_id': 1, 'a': null}", NULL, true},
        {"'a': 1", "{'a': 1}", "{'_id': 1, 'a': 2}", NULL, true}, /* which number is _id? */
        {"'a': 1, '_id': 1", "{'a': 1}", "{'_id': 1, 'a': 2}", "{'_id': 1, 'a': 2}", true},
        {"'a': 1", "{'b': 1, '_id': 0}", NULL, NULL, false},
        {"'a': 1", "{'a.x': 1, '_id': 0}", NULL, NULL, false},
        {"'a.x': 1", "{'a': 1, '_id': 0}", NULL, NULL, false},
        {"'a': 'hashed'", "{'a': 1, '_id': 0}", NULL, NULL, false},
        {"'a': 1", "{'a': 0}", NULL, NULL, false},
        {"'a': 1", "{'a': {'$slice': 1}}", NULL, NULL, false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(list); i++) {
        arena = vd_arena_create();
        const stor_index_def_t *def = def_of(vd_arena_printf(arena, "'key': {%s}", list[i].key));
        stor_needs_t needs;
        stor_index_keys_t keys;
        vd_bson_t made;
        bool told;
        stor_needs_of_projection(arena, query_json(arena, list[i].projection), &needs);
        const stor_cover_t *cover = stor_cover_make(arena, def, 0, &needs);
        cr_expect_eq(cover != NULL, list[i].covers, "%s %s", list[i].key, list[i].projection);
        cr_expect_null(stor_cover_make(arena, def, 1, &needs), "arrays are never covered");
        if (cover != NULL) {
            vd_bson_t document = query_json(arena, list[i].document);
            vd_buf_t id;
            bool exact;
            vd_buf_init(&id, 10000);
            cr_assert_eq(
                stor_keycode_append(&id, vd_bson_get(document, "_id"), false, &exact, NULL), VD_OK);
            cr_assert_eq(stor_index_keys_make(def, arena, document, &keys, NULL), VD_OK);
            cr_assert_eq(stor_cover_document(cover, arena, keys.keys[0].key, keys.keys[0].type_bits,
                                             vd_buf_slice(&id), &made, &told, NULL),
                         VD_OK);
            if (list[i].made != NULL) {
                vd_bson_t want = query_json(arena, list[i].made);
                cr_expect(told && made.len == want.len &&
                              memcmp(made.data, want.data, want.len) == 0,
                          "%s: %s", list[i].made, told ? vd_bson_to_json(arena, made, 200) : "");
            } else if (i != 1) {
                cr_expect_not(told, "%s", list[i].document);
            } else {
                cr_expect(told && vd_bson_get(made, "b").type == VD_BSON_INT64);
            }
            vd_buf_done(&id);
        }
        vd_arena_destroy(&arena);
    }
}

Test(plan, what_stages_read)
{
    static const struct {
        const char *stages, *needs; /* NULL: everything */
    } list[] = {
        {"[{'$group': {'_id': '$a', 'n': {'$sum': '$b.c'}}}]", "a b.c"},
        {"[{'$count': 'n'}]", ""},
        {"[{'$limit': 5}, {'$group': {'_id': null, 'n': {'$sum': 1}}}]", ""},
        {"[{'$sortByCount': '$x'}]", "x"},
        {"[{'$project': {'a': 1, '_id': 0}}]", "a"},
        {"[{'$project': {'a': 1, 'b': {'$add': ['$c', 1]}}}]", "a c _id"},
        {"[{'$project': {'a': 0}}]", NULL},
        {"[{'$project': {'a': {'b': 1}}}]", NULL},
        {"[{'$group': {'_id': 1, 'all': {'$push': '$$ROOT'}}}]", NULL},
        {"[{'$group': {'_id': 1, 'x': {'$first': {'$getField': 'a'}}}}]", NULL},
        {"[{'$group': {'_id': 1, 'x': {'$top': {'sortBy': {'a': 1}, 'output': '$b'}}}}]", NULL},
        {"[{'$unwind': '$a'}]", NULL},
        {"[]", NULL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(list); i++) {
        arena = vd_arena_create();
        stor_needs_t needs;
        const char *text = "";
        vd_bson_t stages = vd_value_document(query_value(arena, list[i].stages));
        stor_needs_of_stages(arena, stages, 0, &needs);
        for (uint32_t k = 0; k < needs.count; k++)
            text = vd_arena_printf(arena, "%s%s%.*s", text, k == 0 ? "" : " ",
                                   VD_SLICE_FMT(needs.paths[k]));
        cr_expect_eq(needs.all, list[i].needs == NULL, "%s", list[i].stages);
        if (!needs.all && list[i].needs != NULL)
            cr_expect_str_eq(text, list[i].needs, "%s: %s", list[i].stages, text);
        vd_arena_destroy(&arena);
    }
}
