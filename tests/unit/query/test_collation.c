/* tests/unit/query/test_collation.c — collations: documents that are refused, the order of strings,
 * hashes that agree with it, what is kept. */
#include "libcommon/base/arena.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/filter.h"
#include "veddb-storaged/query/match.h"

#include <pthread.h>

Test(collation, documents)
{
    static const struct {
        const char *json;
        int code;
    } cases[] = {
        {"{}", 0},
        {"{'locale': 'simple'}", 0},
        {"{'locale': 'en'}", 0},
        {"{'locale': 'en_US'}", 0},
        {"{'locale': 'de@collation=phonebook'}", 0},
        {"{'locale': 'fr', 'strength': 2, 'caseLevel': true, 'caseFirst': 'upper', "
         "'numericOrdering': true, 'alternate': 'shifted', 'maxVariable': 'space', "
         "'normalization': true, 'backwards': true}",
         0},
        {"{'locale': 'en', 'strength': 1.0, 'version': '57.1'}",
         VD_ERR_INCOMPATIBLE_COLLATION_VERSION},
        {"{'locale': 'en', 'version': 5}", VD_ERR_TYPE_MISMATCH},
        {"{'locale': ''}", VD_ERR_BAD_VALUE},
        {"{'locale': 'xx_never'}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en-US'}", VD_ERR_BAD_VALUE},
        {"{'locale': 5}", VD_ERR_TYPE_MISMATCH},
        {"{'strength': 2}", VD_ERR_LOCATION(40414)},
        {"{'locale': 'en', 'strength': 0}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'strength': 6}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'strength': 'x'}", VD_ERR_TYPE_MISMATCH},
        {"{'locale': 'en', 'caseFirst': 'x'}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'alternate': 'x'}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'maxVariable': 'x'}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'caseLevel': 'x'}", VD_ERR_TYPE_MISMATCH},
        {"{'locale': 'en', 'foo': 1}", VD_ERR_LOCATION(40415)},
        {"{'locale': 'simple', 'strength': 1}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'strength': 1, 'backwards': true}", VD_ERR_BAD_VALUE},
        {"{'locale': 'en', 'strength': 2, 'caseFirst': 'upper'}", VD_ERR_BAD_VALUE},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        int rc = stor_collation_use(query_json(arena, cases[i].json), &err);
        cr_assert_eq(rc, cases[i].code, "%s: %d %s", cases[i].json, rc, err.message);
        cr_assert(rc == VD_OK || vd_collation_get() == NULL, "%s", cases[i].json);
    }
    stor_collation_end();
    vd_arena_destroy(&arena);
}

Test(collation, whole_document)
{
    vd_arena_t *arena = vd_arena_create();
    cr_assert_eq(stor_collation_use(query_json(arena, "{'locale': 'en', 'strength': 2}"), NULL), 0);
    vd_bson_t spec = stor_collation_spec();
    cr_assert(vd_slice_is(vd_value_string(vd_bson_get(spec, "locale")), "en"));
    cr_assert_eq(vd_value_int32(vd_bson_get(spec, "strength")), 2);
    cr_assert(vd_slice_is(vd_value_string(vd_bson_get(spec, "maxVariable")), "punct"));
    cr_assert_eq(vd_bson_get(spec, "version").type, VD_BSON_STRING);
    const vd_collation_t *before = vd_collation_get();
    spec = (vd_bson_t){vd_arena_copy(arena, spec.data, spec.len), spec.len};
    stor_collation_end();
    cr_assert_eq(vd_collation_get(), NULL);
    cr_assert_eq(stor_collation_use(spec, NULL), VD_OK);
    cr_assert_eq(vd_collation_get(), before, "the same one is kept");
    stor_collation_end();
    cr_assert_eq(stor_collation_spec().data, NULL);
    vd_arena_destroy(&arena);
}

Test(collation, order)
{
    static const struct {
        const char *collation, *a, *b;
        int order;
    } cases[] = {
        {"{}", "a", "B", 1},
        {"{'locale': 'en'}", "a", "B", -1},
        {"{'locale': 'en'}", "a", "A", -1},
        {"{'locale': 'en', 'caseFirst': 'upper'}", "a", "A", 1},
        {"{'locale': 'en', 'strength': 2}", "a", "A", 0},
        {"{'locale': 'en', 'strength': 2}", "cafe", "caf\u00e9", -1},
        {"{'locale': 'en', 'strength': 1}", "cafe", "CAF\u00c9", 0},
        {"{'locale': 'en', 'strength': 1, 'caseLevel': true}", "cafe", "CAF\u00c9", -1},
        {"{'locale': 'en'}", "10", "9", -1},
        {"{'locale': 'en', 'numericOrdering': true}", "10", "9", 1},
        {"{'locale': 'en', 'alternate': 'shifted', 'strength': 3}", "black bird", "blackbird", 0},
        {"{'locale': 'de@collation=phonebook'}", "\u00c4rzte", "Af", -1},
        {"{'locale': 'de'}", "\u00c4rzte", "Af", 1},
        {"{'locale': 'sv'}", "\u00e5", "z", 1},
        {"{'locale': 'fr_CA'}", "cot\u00e9", "c\u00f4te", 1},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_value_t a = vd_value_from_string(arena, vd_slice_str(cases[i].a));
        vd_value_t b = vd_value_from_string(arena, vd_slice_str(cases[i].b));
        vd_error_t err = VD_ERROR_INIT;
        cr_assert_eq(stor_collation_use(query_json(arena, cases[i].collation), &err), VD_OK, "%s",
                     err.message);
        int order = vd_value_compare(a, b);
        cr_assert_eq((order > 0) - (order < 0), cases[i].order, "%s: %s, %s", cases[i].collation,
                     cases[i].a, cases[i].b);
        order = vd_value_compare(b, a);
        cr_assert_eq((order > 0) - (order < 0), -cases[i].order, "%s: %s, %s", cases[i].collation,
                     cases[i].b, cases[i].a);
        cr_assert_eq(vd_value_hash(a) == vd_value_hash(b), cases[i].order == 0, "%s: %s, %s",
                     cases[i].collation, cases[i].a, cases[i].b);
    }
    stor_collation_end();
    vd_arena_destroy(&arena);
}

/* Strings longer than what stands on the stack, and bytes that are no UTF-8. */
Test(collation, any_bytes)
{
    vd_arena_t *arena = vd_arena_create();
    char *low = vd_arena_zalloc(arena, 5001), *high = vd_arena_zalloc(arena, 5001);
    cr_assert_eq(stor_collation_use(query_json(arena, "{'locale': 'en', 'strength': 2}"), NULL), 0);
    memset(low, 'a', 5000);
    memset(high, 'A', 5000);
    vd_value_t a = vd_value_from_string(arena, vd_slice(low, 5000));
    vd_value_t b = vd_value_from_string(arena, vd_slice(high, 5000));
    cr_assert_eq(vd_value_compare(a, b), 0);
    cr_assert_eq(vd_value_hash(a), vd_value_hash(b));
    b = vd_value_from_string(arena, vd_slice(high, 4999));
    cr_assert_gt(vd_value_compare(a, b), 0);
    cr_assert_neq(vd_value_hash(a), vd_value_hash(b));
    a = vd_value_from_string(arena, vd_slice("\xff\xc0\0x", 4));
    cr_assert_eq(vd_value_compare(a, a), 0);
    cr_assert_eq(vd_value_hash(a), vd_value_hash(a));
    a = vd_value_from_string(arena, VD_SLICE_LIT(""));
    cr_assert_eq(vd_value_compare(a, a), 0);
    (void)vd_value_hash(a);
    stor_collation_end();
    vd_arena_destroy(&arena);
}

Test(collation, filters)
{
    static const struct {
        const char *filter, *document;
        bool matches;
    } cases[] = {
        {"{'a': 'ABC'}", "{'a': 'abc'}", true},
        {"{'a': 'ABC'}", "{'a': ['x', 'Abc']}", true},
        {"{'a': {'b': 'X'}}", "{'a': {'b': 'x'}}", true},
        {"{'a': {'b': 'X'}}", "{'a': {'B': 'x'}}", false},
        {"{'a': {'$in': ['B', 'c', 'A']}}", "{'a': 'b'}", true},
        {"{'a': {'$in': ['B', 'b']}}", "{'a': 'a'}", false},
        {"{'a': {'$ne': 'B'}}", "{'a': 'b'}", false},
        {"{'a': {'$gt': 'A'}}", "{'a': 'b'}", true},
        {"{'a': {'$gt': 'b'}}", "{'a': 'B'}", false},
        {"{'a': {'%regex': '^A'}}", "{'a': 'a'}", false},
        {"{'a': {'$all': ['A', 'B']}}", "{'a': ['b', 'a']}", true},
        {"{'$expr': {'$eq': ['$a', 'A']}}", "{'a': 'a'}", true},
        {"{'$expr': {'$in': ['$a', ['B', 'A']]}}", "{'a': 'a'}", true},
    };
    vd_arena_t *arena = vd_arena_create();
    cr_assert_eq(stor_collation_use(query_json(arena, "{'locale': 'en', 'strength': 2}"), NULL), 0);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_filter_t *filter;
        stor_match_t match = {.arena = arena};
        bool matches = !cases[i].matches;
        cr_assert_eq(
            stor_filter_parse(arena, query_json(arena, cases[i].filter), NULL, &filter, NULL), 0);
        cr_assert_eq(stor_match_document(filter, query_json(arena, cases[i].document), &match,
                                         &matches, NULL),
                     0);
        cr_assert_eq(matches, cases[i].matches, "%s on %s", cases[i].filter, cases[i].document);
    }
    stor_collation_end();
    vd_arena_destroy(&arena);
}

/* More than are kept, by several threads at once. */
static void *use_many(void *context)
{
    vd_arena_t *arena = vd_arena_create();
    for (int i = 0; i < 400; i++) {
        char json[250];
        int which = (i * 7 + *(const int *)context) % 128;
        (void)snprintf(json, sizeof json,
                       "{'locale': 'en', 'strength': %d, 'caseLevel': %s, 'numericOrdering': %s, "
                       "'normalization': %s, 'backwards': %s, 'alternate': '%s', 'maxVariable': "
                       "'%s', 'caseFirst': '%s'}",
                       which % 2 + 2, which % 4 < 2 ? "true" : "false",
                       which % 8 < 4 ? "true" : "false", which % 16 < 8 ? "true" : "false",
                       which % 32 < 16 ? "true" : "false",
                       which % 64 < 32 ? "shifted" : "non-ignorable",
                       which % 128 < 64 ? "space" : "punct", which < 128 ? "off" : "lower");
        if (stor_collation_use(query_json(arena, json), NULL) != VD_OK ||
            (vd_value_compare(vd_value_from_string(arena, VD_SLICE_LIT("a")),
                              vd_value_from_string(arena, VD_SLICE_LIT("A"))) == 0) !=
                (which % 2 == 0 && which % 4 >= 2))
            return context;
    }
    stor_collation_end();
    vd_arena_destroy(&arena);
    return NULL;
}

Test(collation, kept)
{
    pthread_t threads[4];
    int numbers[4] = {0, 31, 62, 93};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, use_many, &numbers[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        cr_assert_eq(pthread_join(threads[i], &failed), 0);
        cr_assert_eq(failed, NULL);
    }
}

/* ---- those of collections and indexes ---- */

static void key_put(void *context, const void *data, size_t len)
{
    cr_assert_eq(vd_buf_append(context, data, len), VD_OK);
}

/* Sort keys say what comparing says; without NUL; also of what is no UTF-8, is empty, is long. */
Test(collation, sort_keys)
{
    static const char *const specs[] = {
        "{'locale': 'en', 'strength': 1}",
        "{'locale': 'en', 'strength': 2}",
        "{'locale': 'de@collation=phonebook'}",
        "{'locale': 'sv', 'strength': 4, 'alternate': 'shifted'}",
        "{'locale': 'en', 'numericOrdering': true}",
        "{'locale': 'fr_CA', 'backwards': true}",
        "{'locale': 'ja', 'strength': 5}",
        "{'locale': 'en', 'strength': 1, 'caseLevel': true}",
    };
    static const char alphabet[] = "aAbB -_1290\303\244\303\237e\314\201\001";
    vd_arena_t *arena = vd_arena_create();
    uint32_t seed = 12345;
    for (size_t s = 0; s < VD_COUNT_OF(specs); s++) {
        const vd_collation_t *collation;
        cr_assert_eq(stor_collation_hold(arena, query_json(arena, specs[s]), &collation, NULL), 0);
        vd_slice_t words[60];
        vd_buf_t keys[60];
        for (size_t i = 0; i < 60; i++) {
            size_t len = i == 59 ? 5000 : i % 7;
            uint8_t *text = vd_arena_alloc(arena, len + 1);
            for (size_t k = 0; k < len; k++) {
                seed = seed * 1664525u + 1013904223u;
                text[k] = (uint8_t)alphabet[(seed >> 16) % (sizeof alphabet - 1)];
            }
            words[i] = vd_slice(text, len);
            vd_buf_init(&keys[i], 1 << 20);
            cr_assert_eq(collation->sort_key(collation, words[i], key_put, &keys[i]), VD_OK);
            vd_slice_t key = vd_buf_slice(&keys[i]);
            cr_assert(key.len == 0 || memchr(key.data, 0, key.len) == NULL);
        }
        for (size_t i = 0; i < 60; i++)
            for (size_t k = 0; k < 60; k++) {
                int asked = collation->compare(collation, words[i], words[k]);
                int told = vd_slice_compare(vd_buf_slice(&keys[i]), vd_buf_slice(&keys[k]));
                cr_assert_eq((asked > 0) - (asked < 0), (told > 0) - (told < 0), "%s: %zu %zu",
                             specs[s], i, k);
            }
        for (size_t i = 0; i < 60; i++)
            vd_buf_done(&keys[i]);
    }
    vd_arena_destroy(&arena);
}

Test(collation, held)
{
    vd_arena_t *arena = vd_arena_create(), *other = vd_arena_create();
    const vd_collation_t *a, *b, *c, *none;
    vd_bson_t whole;
    vd_bson_t en = query_json(arena, "{'locale': 'en', 'strength': 2}");
    cr_assert_eq(stor_collation_hold(arena, en, &a, NULL), VD_OK);
    cr_assert_eq(stor_collation_whole(arena, en, &whole, NULL), VD_OK);
    cr_assert_eq(stor_collation_hold(other, whole, &b, NULL), VD_OK);
    cr_assert_eq(stor_collation_hold(arena, query_json(arena, "{'locale': 'en'}"), &c, NULL), 0);
    cr_assert_eq(stor_collation_hold(arena, query_json(arena, "{'locale': 'simple'}"), &none, NULL),
                 VD_OK);
    cr_assert_eq(none, NULL);
    cr_assert(stor_collation_same(a, b) && !stor_collation_same(a, c));
    cr_assert(!stor_collation_same(a, NULL) && stor_collation_same(NULL, NULL));
    /* of an older ICU: the one that there is; who stores it tells them apart */
    vd_bson_t old = query_json(arena, "{'locale': 'en', 'strength': 2, 'version': '57.1'}");
    const vd_collation_t *now;
    cr_assert_eq(stor_collation_hold(arena, old, &now, NULL), VD_OK);
    cr_assert(stor_collation_same(a, now));
    cr_assert_eq(stor_collation_whole(arena, old, &whole, NULL),
                 VD_ERR_INCOMPATIBLE_COLLATION_VERSION);
    cr_assert_eq(stor_collation_use(en, NULL), VD_OK);
    cr_assert(stor_collation_is(stor_collation_of(a)) && !stor_collation_is(VD_BSON_NONE));
    stor_collation_end();
    cr_assert(stor_collation_is(VD_BSON_NONE) && !stor_collation_is(stor_collation_of(a)));
    vd_arena_destroy(&other);
    vd_arena_destroy(&arena);
}
