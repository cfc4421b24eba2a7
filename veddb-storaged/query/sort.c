/* veddb-storaged/query/sort.c — sort patterns and sort keys.
 *
 * A document's key for a path is the smallest (ascending) or largest (descending) of the values
 * that the path leads to; nothing is null, an empty array is undefined, which sorts below null. */
#include "veddb-storaged/query/sort.h"

#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/match.h"

static const vd_value_t value_undefined = {NULL, 0, VD_BSON_UNDEFINED};

/* ---- parse ---- */

static int parse_direction(vd_arena_t *arena, vd_slice_t name, vd_value_t v, int8_t *ret_direction,
                           vd_error_t *err)
{
    if (v.type == VD_BSON_OBJECT) {
        vd_slice_t op;
        vd_value_t argument;
        if (!vd_bson_first(vd_value_document(v), &op, &argument) || !vd_slice_is(op, "$meta"))
            return vd_error_set(err, VD_ERR_LOCATION(17312),
                                "$meta is the only expression supported by $sort right now");
        if (vd_bson_count(vd_value_document(v)) != 1)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "Cannot have additional keys in a $meta sort specification");
        return vd_error_set(err, VD_ERR_LOCATION(31138), "Illegal $meta sort: %s",
                            vd_value_to_json(arena, v, 200));
    }
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_LOCATION(15974),
                            "Illegal key in $sort specification: %.*s: %s", VD_SLICE_FMT(name),
                            vd_value_to_json(arena, v, 200));
    double d = vd_value_as_double(v); /* cut towards zero, as MongoDB reads it: 1.9 is 1 */
    if (!((d >= 1 && d < 2) || (d <= -1 && d > -2)))
        return vd_error_set(err, VD_ERR_LOCATION(15975),
                            "$sort key ordering must be 1 (for ascending) or -1 (for descending)");
    *ret_direction = d > 0 ? 1 : -1;
    return VD_OK;
}

static int parse_natural(vd_bson_t spec, vd_value_t v, stor_sort_t *sort, vd_error_t *err)
{
    if (vd_bson_count(spec) != 1)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "$natural sort cannot be set to a value other than -1 or 1.");
    int64_t d;
    if (!vd_value_is_number(v) || !vd_value_as_int64(v, &d) || (d != 1 && d != -1))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "$natural sort cannot be set to a value other than -1 or 1.");
    sort->natural = (int8_t)d;
    return VD_OK;
}

static int parse_key(vd_arena_t *arena, stor_sort_t *sort, vd_slice_t name, vd_value_t v,
                     vd_error_t *err)
{
    int8_t direction = 1;
    int rc = parse_direction(arena, name, v, &direction, err);
    const vd_slice_t *parts;
    uint32_t count;
    if (rc == VD_OK)
        rc = stor_field_path_split(arena, name, &parts, &count, err);
    if (rc != VD_OK)
        return rc;
    for (uint32_t i = 0; i < sort->count; i++)
        if (vd_slice_equal(sort->paths[i].text, name))
            return vd_error_set(err, VD_ERR_LOCATION(7472500),
                                "$sort key must not contain duplicate keys (duplicate: '%.*s')",
                                VD_SLICE_FMT(name));
    if (sort->count == STOR_SORT_KEYS_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(13103),
                            "too many compound keys: at most %d are sorted by", STOR_SORT_KEYS_MAX);
    stor_path_split(arena, name, &sort->paths[sort->count]);
    sort->directions[sort->count++] = direction;
    return VD_OK;
}

int stor_sort_parse(vd_arena_t *arena, vd_bson_t spec, stor_sort_t **ret_sort, vd_error_t *err)
{
    VD_ASSERT(ret_sort != NULL);
    stor_sort_t *sort = VD_ARENA_NEW(arena, stor_sort_t);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        int rc = vd_slice_is(iter.name, "$natural")
                     ? parse_natural(spec, iter.value, sort, err)
                     : parse_key(arena, sort, iter.name, iter.value, err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_sort = sort;
    return VD_OK;
}

/* ---- keys ---- */

typedef struct {
    vd_value_t best;
    bool any;
    int8_t direction;
    const uint8_t *array; /* the array whose elements were compared */
} pick_t;

static void pick(pick_t *p, vd_value_t v)
{
    if (vd_value_is_missing(v))
        v = vd_value_from_null();
    int c = p->any ? vd_value_compare(v, p->best) : 0;
    if (!p->any || (p->direction > 0 ? c < 0 : c > 0))
        p->best = v;
    p->any = true;
}

static void note_array(pick_t *p, vd_value_t array)
{
    if (p->array == NULL)
        p->array = array.data;
}

/* Walks as index keys do: arrays fan out, a number names a position of an array too. */
static void pick_path(pick_t *p, const stor_path_t *path, uint32_t at, vd_value_t value)
{
    vd_bson_iter_t iter;
    for (; at < path->count; at++) {
        if (value.type == VD_BSON_ARRAY)
            break;
        value = value.type == VD_BSON_OBJECT
                    ? vd_bson_get_slice(vd_value_document(value), path->parts[at])
                    : VD_VALUE_MISSING;
    }
    if (value.type != VD_BSON_ARRAY) {
        pick(p, value);
        return;
    }
    vd_bson_t array = vd_value_document(value);
    if (at < path->count && path->positions[at] >= 0) {
        vd_value_t element = vd_bson_get_slice(array, path->parts[at]);
        if (!vd_value_is_missing(element)) {
            pick_path(p, path, at + 1, element);
            return;
        }
    }
    note_array(p, value);
    bool empty = true;
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter)) {
        empty = false;
        if (at == path->count)
            pick(p, iter.value); /* elements that are arrays are compared whole */
        else if (iter.value.type == VD_BSON_OBJECT)
            pick_path(p, path, at, iter.value);
        else
            pick(p, VD_VALUE_MISSING);
    }
    if (empty)
        pick(p, at == path->count ? value_undefined : VD_VALUE_MISSING);
}

int stor_sort_key(const stor_sort_t *sort, vd_arena_t *arena, vd_bson_t document,
                  vd_value_t *ret_values, vd_error_t *err)
{
    (void)arena; /* every value borrows the document */
    const uint8_t *array = NULL;
    for (uint32_t i = 0; i < sort->count; i++) {
        pick_t p = {.direction = sort->directions[i], .best = vd_value_from_null()};
        pick_path(&p, &sort->paths[i], 0, vd_value_from_document(document));
        if (p.array != NULL && array != NULL && p.array != array)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "cannot sort with keys that are parallel arrays");
        if (p.array != NULL)
            array = p.array;
        ret_values[i] = p.best;
    }
    return VD_OK;
}

int stor_sort_compare(const stor_sort_t *sort, const vd_value_t *a, const vd_value_t *b)
{
    for (uint32_t i = 0; i < sort->count; i++) {
        int c = vd_value_compare(a[i], b[i]);
        if (c != 0)
            return sort->directions[i] > 0 ? c : -c;
    }
    return 0;
}

bool stor_sort_is_id(const stor_sort_t *sort, int *ret_direction)
{
    if (sort->count != 1 || !vd_slice_is(sort->paths[0].text, "_id"))
        return false;
    *ret_direction = sort->directions[0];
    return true;
}
