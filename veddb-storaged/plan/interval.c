/* veddb-storaged/plan/interval.c — see interval.h. */
#include "veddb-storaged/plan/interval.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/engine/keycode.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/regex.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SORT_KEY_SHOWN 200 /* bytes, in explain */

static const vd_value_t min_key = {NULL, 0, VD_BSON_MINKEY}, max_key = {NULL, 0, VD_BSON_MAXKEY},
                        undefined = {NULL, 0, VD_BSON_UNDEFINED}, null = {NULL, 0, VD_BSON_NULL};

/* ---- keys ---- */

static int key_of(vd_arena_t *arena, const vd_collation_t *collation, vd_value_t v,
                  vd_slice_t *ret_key, bool *ret_exact, vd_error_t *err)
{
    vd_buf_t buf;
    vd_buf_init(&buf, 4 * VD_KEYCODE_MAX_BYTES);
    int rc = stor_keycode_append_collated(&buf, v, false, collation, ret_exact, err);
    if (rc == VD_OK)
        *ret_key = vd_arena_copy_slice(arena, vd_buf_slice(&buf));
    vd_buf_done(&buf);
    return rc;
}

/* Where an interval begins: an exclusive end lies behind its key. */
static int low_compare(const stor_interval_t *a, const stor_interval_t *b)
{
    int c = vd_slice_compare(a->low_key, b->low_key);
    return c != 0 ? c : (int)a->low_exclusive - (int)b->low_exclusive;
}

static int high_compare(const stor_interval_t *a, const stor_interval_t *b)
{
    if (a->high_key.len == 0 || b->high_key.len == 0)
        return (a->high_key.len == 0) - (b->high_key.len == 0);
    int c = vd_slice_compare(a->high_key, b->high_key);
    return c != 0 ? c : (int)b->high_exclusive - (int)a->high_exclusive;
}

/* a ends before b begins, and they don't touch. */
static bool ends_before(const stor_interval_t *a, const stor_interval_t *b, bool touching)
{
    if (a->high_key.len == 0 || b->low_key.len == 0)
        return false;
    int c = vd_slice_compare(a->high_key, b->low_key);
    if (c != 0)
        return c < 0;
    return touching ? a->high_exclusive && b->low_exclusive : a->high_exclusive || b->low_exclusive;
}

static bool is_empty(const stor_interval_t *i)
{
    if (i->high_key.len == 0)
        return false;
    int c = vd_slice_compare(i->low_key, i->high_key);
    return c > 0 || (c == 0 && (i->low_exclusive || i->high_exclusive));
}

static int interval_compare(const void *a, const void *b)
{
    return low_compare(a, b);
}

/* Sorted, and joined where they touch. */
static void normalize(stor_intervals_t *list)
{
    uint32_t kept = 0;
    if (list->count > 1)
        qsort(list->items, list->count, sizeof *list->items, interval_compare);
    for (uint32_t i = 0; i < list->count; i++) {
        stor_interval_t *item = &list->items[i];
        if (is_empty(item))
            continue;
        stor_interval_t *last = kept == 0 ? NULL : &list->items[kept - 1];
        if (last == NULL || ends_before(last, item, true)) {
            list->items[kept++] = *item;
        } else if (high_compare(item, last) > 0) {
            last->high = item->high;
            last->high_key = item->high_key;
            last->high_exclusive = item->high_exclusive;
        }
    }
    list->count = kept;
}

/* ---- and, or, not ---- */

void stor_intervals_all(vd_arena_t *arena, stor_intervals_t *ret)
{
    *ret = (stor_intervals_t){.count = 1, .exact = true, .missing = true};
    ret->items = VD_ARENA_NEW(arena, stor_interval_t);
    ret->items[0].low = min_key;
    ret->items[0].high = max_key;
}

static stor_interval_t common(const stor_interval_t *a, const stor_interval_t *b)
{
    const stor_interval_t *low = low_compare(a, b) >= 0 ? a : b;
    const stor_interval_t *high = high_compare(a, b) <= 0 ? a : b;
    return (stor_interval_t){low->low,       high->high,         low->low_key,
                             high->high_key, low->low_exclusive, high->high_exclusive};
}

void stor_intervals_and(vd_arena_t *arena, const stor_intervals_t *a, const stor_intervals_t *b,
                        stor_intervals_t *ret)
{
    stor_intervals_t list = {.exact = a->exact && b->exact, .missing = a->missing && b->missing};
    list.items = VD_ARENA_ARRAY(arena, stor_interval_t, a->count + b->count + 1);
    for (uint32_t i = 0, k = 0; i < a->count && k < b->count;) {
        stor_interval_t item = common(&a->items[i], &b->items[k]);
        if (!is_empty(&item))
            list.items[list.count++] = item;
        if (high_compare(&a->items[i], &b->items[k]) < 0)
            i++;
        else
            k++;
    }
    *ret = list;
}

void stor_intervals_or(vd_arena_t *arena, const stor_intervals_t *a, const stor_intervals_t *b,
                       stor_intervals_t *ret)
{
    stor_intervals_t list = {.count = a->count + b->count,
                             .exact = a->exact && b->exact,
                             .missing = a->missing || b->missing};
    list.items = VD_ARENA_ARRAY(arena, stor_interval_t, list.count + 1);
    for (uint32_t i = 0; i < list.count; i++)
        list.items[i] = i < a->count ? a->items[i] : b->items[i - a->count];
    normalize(&list);
    *ret = list;
}

void stor_intervals_not(vd_arena_t *arena, const stor_intervals_t *a, stor_intervals_t *ret)
{
    stor_intervals_t list = {.exact = a->exact, .missing = !a->missing};
    list.items = VD_ARENA_ARRAY(arena, stor_interval_t, a->count + 1);
    stor_interval_t gap = {.low = min_key};
    bool open = true; /* the gap goes on to the end */
    for (uint32_t i = 0; i < a->count; i++) {
        const stor_interval_t *item = &a->items[i];
        gap.high = item->low;
        gap.high_key = item->low_key;
        gap.high_exclusive = !item->low_exclusive;
        if (item->low_key.len > 0 && !is_empty(&gap))
            list.items[list.count++] = gap;
        gap = (stor_interval_t){
            .low = item->high, .low_key = item->high_key, .low_exclusive = !item->high_exclusive};
        open = item->high_key.len > 0;
    }
    gap.high = max_key;
    if (open)
        list.items[list.count++] = gap;
    *ret = list;
}

bool stor_interval_is_point(const stor_interval_t *i)
{
    return i->low_key.len > 0 && !i->low_exclusive && !i->high_exclusive &&
           vd_slice_equal(i->low_key, i->high_key);
}

bool stor_intervals_are_points(const stor_intervals_t *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (!stor_interval_is_point(&list->items[i]))
            return false;
    return true;
}

bool stor_intervals_are_all(const stor_intervals_t *list)
{
    return list->count == 1 && list->items[0].low_key.len == 0 && list->items[0].high_key.len == 0;
}

bool stor_intervals_within(const stor_intervals_t *a, const stor_intervals_t *b)
{
    for (uint32_t i = 0; i < a->count; i++) {
        bool found = false;
        for (uint32_t k = 0; k < b->count && !found; k++)
            found = low_compare(&b->items[k], &a->items[i]) <= 0 &&
                    high_compare(&b->items[k], &a->items[i]) >= 0;
        if (!found)
            return false;
    }
    return true;
}

/* ---- brackets of types: comparisons stay within one ---- */

typedef struct {
    vd_value_t low, high;
    bool high_exclusive;
} bracket_t;

#define EMPTY_DOCUMENT "\5\0\0\0\0"
static const uint8_t minus_infinity[8] = {0, 0, 0, 0, 0, 0, 0xF0, 0xFF},
                     plus_infinity[8] = {0, 0, 0, 0, 0, 0, 0xF0, 0x7F},
                     not_a_number[8] = {0, 0, 0, 0, 0, 0, 0xF8, 0x7F}, zeroes[12] = {0},
                     ones[12] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                                 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
                     date_min[8] = {0, 0, 0, 0, 0, 0, 0, 0x80},
                     date_max[8] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, yes[1] = {1},
                     empty_string[5] = {1, 0, 0, 0, 0};

#define VALUE(bytes, size, kind) ((vd_value_t){(const uint8_t *)(bytes), (size), (kind)})

static bool bracket_of(uint8_t type, bracket_t *ret)
{
    const vd_value_t object = VALUE(EMPTY_DOCUMENT, 5, VD_BSON_OBJECT),
                     array = VALUE(EMPTY_DOCUMENT, 5, VD_BSON_ARRAY),
                     binary = VALUE(zeroes, 5, VD_BSON_BINARY),
                     id = VALUE(zeroes, 12, VD_BSON_OBJECTID);
    switch (type) {
    case VD_BSON_DOUBLE:
    case VD_BSON_INT32:
    case VD_BSON_INT64:
    case VD_BSON_DECIMAL128:
        *ret = (bracket_t){VALUE(minus_infinity, 8, VD_BSON_DOUBLE),
                           VALUE(plus_infinity, 8, VD_BSON_DOUBLE), false};
        return true;
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
        *ret = (bracket_t){VALUE(empty_string, 5, VD_BSON_STRING), object, true};
        return true;
    case VD_BSON_OBJECT:
        *ret = (bracket_t){object, array, true};
        return true;
    case VD_BSON_BINARY:
        *ret = (bracket_t){binary, id, true};
        return true;
    case VD_BSON_OBJECTID:
        *ret = (bracket_t){id, VALUE(ones, 12, VD_BSON_OBJECTID), false};
        return true;
    case VD_BSON_BOOL:
        *ret = (bracket_t){VALUE(zeroes, 1, VD_BSON_BOOL), VALUE(yes, 1, VD_BSON_BOOL), false};
        return true;
    case VD_BSON_DATE:
        *ret =
            (bracket_t){VALUE(date_min, 8, VD_BSON_DATE), VALUE(date_max, 8, VD_BSON_DATE), false};
        return true;
    case VD_BSON_TIMESTAMP:
        *ret = (bracket_t){VALUE(zeroes, 8, VD_BSON_TIMESTAMP), VALUE(ones, 8, VD_BSON_TIMESTAMP),
                           false};
        return true;
    default:
        return false;
    }
}

static int add_between(vd_arena_t *arena, const vd_collation_t *collation, stor_intervals_t *list,
                       vd_value_t low, bool low_exclusive, vd_value_t high, bool high_exclusive,
                       vd_error_t *err)
{
    stor_interval_t item = {
        .low = low, .high = high, .low_exclusive = low_exclusive, .high_exclusive = high_exclusive};
    bool exact = true, also = true;
    int rc = key_of(arena, collation, low, &item.low_key, &exact, err);
    if (rc == VD_OK)
        rc = key_of(arena, collation, high, &item.high_key, &also, err);
    if (rc == VD_OK)
        list->items[list->count++] = item;
    return rc;
}

static int add_point(vd_arena_t *arena, const vd_collation_t *collation, stor_intervals_t *list,
                     vd_value_t value, vd_error_t *err)
{
    stor_interval_t item = {.low = value, .high = value};
    bool exact;
    int rc = key_of(arena, collation, value, &item.low_key, &exact, err);
    if (rc != VD_OK)
        return rc;
    list->exact &= exact;
    item.high_key = item.low_key;
    list->items[list->count++] = item;
    return VD_OK;
}

int stor_intervals_point(vd_arena_t *arena, vd_value_t value, stor_intervals_t *ret,
                         vd_error_t *err)
{
    *ret = (stor_intervals_t){.exact = true};
    ret->items = VD_ARENA_NEW(arena, stor_interval_t);
    return add_point(arena, NULL, ret, value, err);
}

/* ---- leaves ---- */

/* Null finds null, missing and undefined: an index has null or undefined for them. */
static int add_null(vd_arena_t *arena, stor_intervals_t *list, vd_error_t *err)
{
    list->exact = false;
    list->missing = true;
    return add_between(arena, NULL, list, undefined, false, null, false, err);
}

/* An array is found by itself inside an array, or by its first element (undefined when empty). */
static int add_equal(vd_arena_t *arena, const vd_collation_t *collation, stor_intervals_t *list,
                     vd_value_t value, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t first = undefined;
    if (value.type == VD_BSON_NULL)
        return add_null(arena, list, err);
    if (value.type != VD_BSON_ARRAY)
        return add_point(arena, collation, list, value, err);
    (void)vd_bson_first(vd_value_document(value), &name, &first);
    int rc = add_point(arena, collation, list, first, err);
    if (rc == VD_OK)
        rc = add_point(arena, collation, list, value, err);
    list->exact = false;
    return rc;
}

static bool is_nan(vd_value_t v)
{
    return vd_value_is_number(v) && isnan(vd_value_as_double(v));
}

static int compare_intervals(vd_arena_t *arena, const vd_collation_t *collation,
                             const stor_filter_t *leaf, stor_intervals_t *list, bool *ret_found,
                             vd_error_t *err)
{
    vd_value_t v = leaf->value;
    bool greater = leaf->kind == STOR_FILTER_GT || leaf->kind == STOR_FILTER_GTE;
    bool open = leaf->kind == STOR_FILTER_GT || leaf->kind == STOR_FILTER_LT;
    bracket_t bracket;
    vd_slice_t key;
    bool exact = false;
    if (v.type == VD_BSON_NULL)
        return add_null(arena, list, err);
    if (is_nan(v)) {
        list->exact = !open;
        return add_point(arena, collation, list, v, err);
    }
    *ret_found = bracket_of(v.type, &bracket);
    if (!*ret_found)
        return VD_OK;
    int rc = key_of(arena, collation, v, &key, &exact, err);
    if (rc != VD_OK)
        return rc;
    if (!exact) { /* a cut key does not sort as its value does */
        list->exact = false;
        return add_between(arena, collation, list, bracket.low, false, bracket.high,
                           bracket.high_exclusive, err);
    }
    return greater ? add_between(arena, collation, list, v, open, bracket.high,
                                 bracket.high_exclusive, err)
                   : add_between(arena, collation, list, bracket.low, false, v, open, err);
}

/* What every match begins with: the literal behind ^ of a pattern without alternatives. */
static vd_slice_t regex_prefix(vd_arena_t *arena, const stor_regex_t *regex, bool *ret_whole)
{
    vd_slice_t pattern = stor_regex_pattern(regex), options = stor_regex_options(regex);
    *ret_whole = false;
    if (pattern.len < 2 || pattern.data[0] != '^' ||
        memchr(pattern.data, '|', pattern.len) != NULL ||
        !(options.len == 0 || vd_slice_is(options, "s")))
        return VD_SLICE_NULL;
    uint8_t *text = vd_arena_alloc(arena, pattern.len);
    size_t len = 0, last = 0, i = 1;
    for (; i < pattern.len; i++) {
        uint8_t c = pattern.data[i];
        if (c == '\\' && i + 1 < pattern.len && pattern.data[i + 1] < 0x80 &&
            memchr("\\^$.[]|()?*+{}-/#\"'!@%&=:;,<>~` ", pattern.data[i + 1], 32) != NULL) {
            c = pattern.data[++i];
        } else if (c < 0x80 && memchr("\\^$.[]|()?*+{}", c, 14) != NULL) {
            break;
        }
        if ((c & 0xC0) != 0x80) /* first byte of a character */
            last = len;
        text[len++] = c;
    }
    *ret_whole = i == pattern.len;
    if (i < pattern.len && memchr("?*{", pattern.data[i], 3) != NULL)
        len = last; /* the last character may be absent */
    return vd_slice(text, len);
}

static int add_regex(vd_arena_t *arena, const vd_collation_t *collation, stor_intervals_t *list,
                     const stor_regex_t *regex, vd_error_t *err)
{
    bool whole;
    vd_slice_t prefix = regex_prefix(arena, regex, &whole);
    if (collation != NULL) /* a regex looks at bytes, and the keys don't have them */
        prefix = VD_SLICE_NULL;
    vd_slice_t pattern = stor_regex_pattern(regex), options = stor_regex_options(regex);
    const char *payload =
        vd_arena_printf(arena, "%.*s%c%.*s", VD_SLICE_FMT(pattern), 0, VD_SLICE_FMT(options));
    bracket_t bracket;
    (void)bracket_of(VD_BSON_STRING, &bracket);
    list->exact &= whole && prefix.len > 0;
    uint8_t *next = vd_arena_copy(arena, prefix.data, prefix.len);
    size_t len = prefix.len;
    while (len > 0 && next[len - 1] == 0xFF)
        len--;
    int rc;
    if (len == 0 || prefix.len > VD_KEYCODE_MAX_BYTES / 4) {
        list->exact = false;
        rc = add_between(arena, collation, list, bracket.low, false, bracket.high, true, err);
    } else {
        next[len - 1]++;
        vd_value_t low = vd_value_from_string(arena, prefix),
                   high = vd_value_from_string(arena, vd_slice(next, len));
        rc = add_between(arena, collation, list, low, false, high, true, err);
        if (!vd_utf8_valid(vd_slice(next, len))) /* it is shown to clients */
            list->items[list->count - 1].high = bracket.high;
    }
    if (rc == VD_OK) /* and the same regex, stored as a value */
        rc = add_point(arena, collation, list,
                       VALUE(payload, (uint32_t)(pattern.len + options.len + 2), VD_BSON_REGEX),
                       err);
    return rc;
}

static int in_intervals(vd_arena_t *arena, const vd_collation_t *collation,
                        const stor_filter_t *leaf, stor_intervals_t *list, bool *ret_found,
                        vd_error_t *err)
{
    uint64_t most = (uint64_t)leaf->value_count * 2 + (uint64_t)leaf->regex_count * 2 + 1;
    int rc = VD_OK;
    *ret_found = most <= STOR_BOUNDS_RANGES_MAX;
    if (!*ret_found)
        return VD_OK;
    list->items = VD_ARENA_ARRAY(arena, stor_interval_t, most);
    for (uint32_t i = 0; i < leaf->value_count && rc == VD_OK; i++)
        rc = add_equal(arena, collation, list, leaf->values[i], err);
    for (uint32_t i = 0; i < leaf->regex_count && rc == VD_OK; i++)
        rc = add_regex(arena, collation, list, leaf->regexes[i], err);
    if (rc == VD_OK && leaf->has_null)
        rc = add_null(arena, list, err);
    return rc;
}

/* Types whose values lie in a bracket of their own. */
static int type_intervals(vd_arena_t *arena, const stor_filter_t *leaf, stor_intervals_t *list,
                          bool *ret_found, vd_error_t *err)
{
    static const uint8_t types[] = {VD_BSON_DOUBLE, VD_BSON_STRING,   VD_BSON_OBJECT,
                                    VD_BSON_BINARY, VD_BSON_OBJECTID, VD_BSON_BOOL,
                                    VD_BSON_DATE,   VD_BSON_TIMESTAMP};
    uint32_t left = leaf->type_mask;
    int rc = VD_OK;
    list->items = VD_ARENA_ARRAY(arena, stor_interval_t, 2 * VD_COUNT_OF(types));
    list->exact = false;
    for (size_t i = 0; i < VD_COUNT_OF(types) && rc == VD_OK; i++) {
        bracket_t bracket;
        uint32_t mask = types[i] == VD_BSON_DOUBLE ? STOR_TYPE_BITS_NUMBER
                        : types[i] == VD_BSON_STRING
                            ? stor_type_bit(VD_BSON_STRING) | stor_type_bit(VD_BSON_SYMBOL)
                            : stor_type_bit(types[i]);
        if ((left & mask) == 0)
            continue;
        left &= ~mask;
        (void)bracket_of(types[i], &bracket);
        if (types[i] == VD_BSON_DOUBLE)
            bracket.low = VALUE(not_a_number, 8, VD_BSON_DOUBLE);
        rc = add_between(arena, NULL, list, bracket.low, false, bracket.high,
                         bracket.high_exclusive, err);
    }
    *ret_found = left == 0; /* arrays, null, code ...: left to the filter */
    return rc;
}

/* The operation compares strings otherwise than the keys do: they say nothing about those. */
static bool is_foreign(const vd_collation_t *collation, const stor_filter_t *leaf)
{
    if (stor_collation_same(collation, vd_collation_get()))
        return false;
    bool strings = vd_value_is_collatable(leaf->value);
    for (uint32_t i = 0; i < leaf->value_count && !strings; i++)
        strings = vd_value_is_collatable(leaf->values[i]);
    return strings;
}

static int plain_leaf(vd_arena_t *arena, const vd_collation_t *collation, const stor_filter_t *leaf,
                      stor_intervals_t *list, bool *ret_found, vd_error_t *err)
{
    bracket_t bracket;
    list->items = VD_ARENA_ARRAY(arena, stor_interval_t, 4);
    *ret_found = !is_foreign(collation, leaf);
    if (!*ret_found)
        return VD_OK;
    switch (leaf->kind) {
    case STOR_FILTER_EQ:
        *ret_found = leaf->value.type != VD_BSON_UNDEFINED;
        return *ret_found ? add_equal(arena, collation, list, leaf->value, err) : VD_OK;
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
        return compare_intervals(arena, collation, leaf, list, ret_found, err);
    case STOR_FILTER_IN:
        return in_intervals(arena, collation, leaf, list, ret_found, err);
    case STOR_FILTER_REGEX:
        return add_regex(arena, collation, list, leaf->regexes[0], err);
    case STOR_FILTER_EXISTS:
        stor_intervals_all(arena, list);
        list->exact = list->missing = false;
        return VD_OK;
    case STOR_FILTER_TYPE:
        return type_intervals(arena, leaf, list, ret_found, err);
    case STOR_FILTER_MOD:
    case STOR_FILTER_BITS:
        *ret_found = leaf->kind == STOR_FILTER_MOD; /* bits of numbers or of binaries */
        list->exact = false;
        (void)bracket_of(VD_BSON_DOUBLE, &bracket);
        return add_between(arena, collation, list, VALUE(not_a_number, 8, VD_BSON_DOUBLE), false,
                           bracket.high, false, err);
    default:
        *ret_found = false;
        return VD_OK;
    }
}

/* One element must satisfy all children. */
static int element_intervals(vd_arena_t *arena, const vd_collation_t *collation,
                             const stor_filter_t *leaf, stor_intervals_t *list, bool *ret_found,
                             vd_error_t *err)
{
    stor_intervals_all(arena, list);
    *ret_found = false;
    for (uint32_t i = 0; i < leaf->child_count; i++) {
        const stor_filter_t *child = leaf->children[i];
        stor_intervals_t one;
        bool found = false;
        int rc = VD_OK;
        if (child->kind == STOR_FILTER_EXISTS)
            continue;
        if (child->kind == STOR_FILTER_AND) {
            rc = element_intervals(arena, collation, child, &one, &found, err);
        } else if (child->kind != STOR_FILTER_OR && child->kind != STOR_FILTER_NOR) {
            rc = stor_intervals_of_leaf(arena, collation, child, true, &one, &found, err);
        }
        if (rc != VD_OK)
            return rc;
        if (!found)
            continue;
        stor_intervals_and(arena, list, &one, list);
        *ret_found = true;
    }
    list->exact = list->missing = false;
    return VD_OK;
}

/* A negation holds for keys outside only when a key inside is enough for what is negated. Of null
 * it holds without arrays only: a path that leads through an empty one is not null there. */
static int negated_leaf(vd_arena_t *arena, const vd_collation_t *collation,
                        const stor_filter_t *child, bool multikey, stor_intervals_t *list,
                        bool *ret_found, vd_error_t *err)
{
    stor_intervals_t inner = {.exact = true};
    int rc;
    *ret_found = false;
    if (child->kind == STOR_FILTER_EXISTS) {
        inner.items = VD_ARENA_ARRAY(arena, stor_interval_t, 1);
        rc = add_null(arena, &inner, err);
        *list = inner;
        *ret_found = rc == VD_OK;
        return rc;
    }
    if (child->kind == STOR_FILTER_EQ && child->value.type == VD_BSON_NULL) {
        if (multikey)
            return VD_OK;
        rc = stor_intervals_point(arena, null, &inner, err);
        if (rc == VD_OK)
            stor_intervals_not(arena, &inner, list);
        list->exact = list->missing = false;
        *ret_found = rc == VD_OK;
        return rc;
    }
    if (child->kind != STOR_FILTER_EQ && child->kind != STOR_FILTER_IN &&
        child->kind != STOR_FILTER_LT && child->kind != STOR_FILTER_LTE &&
        child->kind != STOR_FILTER_GT && child->kind != STOR_FILTER_GTE)
        return VD_OK;
    rc = plain_leaf(arena, collation, child, &inner, ret_found, err);
    if (rc != VD_OK || !*ret_found)
        return rc;
    normalize(&inner);
    if (!inner.exact) {
        *ret_found = false;
        return VD_OK;
    }
    stor_intervals_not(arena, &inner, list);
    list->missing = true;
    list->exact = !multikey;
    return VD_OK;
}

int stor_intervals_of_leaf(vd_arena_t *arena, const vd_collation_t *collation,
                           const stor_filter_t *leaf, bool multikey, stor_intervals_t *ret,
                           bool *ret_found, vd_error_t *err)
{
    stor_intervals_t list = {.exact = true};
    int rc;
    *ret_found = false;
    if (leaf->kind == STOR_FILTER_ELEM_MATCH_VALUE)
        rc = element_intervals(arena, collation, leaf, &list, ret_found, err);
    else if (leaf->kind == STOR_FILTER_NOT || leaf->kind == STOR_FILTER_NOR)
        rc = leaf->child_count == 1 ? negated_leaf(arena, collation, leaf->children[0], multikey,
                                                   &list, ret_found, err)
                                    : VD_OK;
    else
        rc = plain_leaf(arena, collation, leaf, &list, ret_found, err);
    if (rc == VD_OK && *ret_found) {
        normalize(&list);
        *ret = list;
    }
    return rc;
}

/* ---- text ---- */

static const char *number_text(vd_arena_t *arena, double d)
{
    char text[40];
    if (isnan(d))
        return "nan.0";
    if (isinf(d))
        return d < 0 ? "-inf.0" : "inf.0";
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, d);
        if (strtod(text, NULL) == d)
            break;
    }
    return vd_arena_printf(arena, strpbrk(text, ".e") == NULL ? "%s.0" : "%s", text);
}

static const char *value_text(vd_arena_t *arena, vd_value_t v)
{
    char hex[25];
    vd_slice_t pattern, options;
    switch (v.type) {
    case VD_BSON_MINKEY:
        return "MinKey";
    case VD_BSON_MAXKEY:
        return "MaxKey";
    case VD_BSON_UNDEFINED:
        return "undefined";
    case VD_BSON_DOUBLE:
        return number_text(arena, vd_value_double(v));
    case VD_BSON_INT64:
        return vd_arena_printf(arena, "%lld", (long long)vd_value_int64(v));
    case VD_BSON_DATE:
        return vd_arena_printf(arena, "new Date(%lld)", (long long)vd_value_int64(v));
    case VD_BSON_TIMESTAMP:
        return vd_arena_printf(arena, "Timestamp(%u, %u)", (unsigned)(vd_value_timestamp(v) >> 32),
                               (unsigned)vd_value_timestamp(v));
    case VD_BSON_OBJECTID:
        for (int i = 0; i < 12; i++)
            (void)snprintf(hex + 2 * i, 3, "%02x", v.data[i]);
        return vd_arena_printf(arena, "ObjectId('%s')", hex);
    case VD_BSON_REGEX:
        vd_value_regex(v, &pattern, &options);
        return vd_arena_printf(arena, "/%.*s/%.*s", VD_SLICE_FMT(pattern), VD_SLICE_FMT(options));
    case VD_BSON_BINARY:
        return vd_arena_printf(arena, "BinData(%u, %u bytes)", (unsigned)v.data[4], v.len - 5);
    default:
        return vd_value_to_json(arena, v, 400);
    }
}

/* The sort key between the type and the end of a keycode. */
static const char *sort_key_text(vd_arena_t *arena, vd_slice_t key)
{
    static const char digits[] = "0123456789abcdef";
    vd_slice_t bytes = key.len < 3 ? VD_SLICE_NULL : vd_slice(key.data + 1, key.len - 3);
    size_t shown = bytes.len < SORT_KEY_SHOWN ? bytes.len : SORT_KEY_SHOWN;
    char *hex = vd_arena_alloc(arena, 2 * shown + 1);
    for (size_t i = 0; i < shown; i++) {
        hex[2 * i] = digits[bytes.data[i] >> 4];
        hex[2 * i + 1] = digits[bytes.data[i] & 15];
    }
    hex[2 * shown] = 0;
    return vd_arena_printf(arena, "CollationKey(0x%s%s)", hex, shown < bytes.len ? "..." : "");
}

static const char *end_text(vd_arena_t *arena, vd_value_t v, vd_slice_t key, bool collated)
{
    return collated && v.type == VD_BSON_STRING && vd_value_string(v).len > 0
               ? sort_key_text(arena, key)
               : value_text(arena, v);
}

const char *stor_interval_text(vd_arena_t *arena, const stor_interval_t *i, bool collated,
                               bool turned)
{
    char low = i->low_exclusive ? '(' : '[', high = i->high_exclusive ? ')' : ']';
    const char *from = end_text(arena, i->low, i->low_key, collated),
               *to = end_text(arena, i->high, i->high_key, collated);
    if (!turned)
        return vd_arena_printf(arena, "%c%s, %s%c", low, from, to, high);
    return vd_arena_printf(arena, "%c%s, %s%c", i->high_exclusive ? '(' : '[', to, from,
                           i->low_exclusive ? ')' : ']');
}
