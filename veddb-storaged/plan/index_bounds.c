/* veddb-storaged/plan/index_bounds.c — see index_bounds.h. */
#include "veddb-storaged/plan/index_bounds.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/collation.h"

/* One predicate on a field, with its intervals. */
typedef struct {
    const stor_predicate_t *predicate;
    stor_intervals_t intervals;
} usable_t;

typedef struct {
    vd_arena_t *arena;
    const stor_plan_index_t *index;
    const stor_predicates_t *predicates;
    stor_index_bounds_t *bounds;
    /* the predicate chosen for each field that leads through an array; NULL = none */
    const stor_predicate_t *chosen[STOR_INDEX_FIELDS_MAX];
} maker_t;

/* ---- fields of a wildcard index ---- */

static bool is_below(vd_slice_t path, vd_slice_t parent)
{
    return path.len > parent.len && vd_slice_starts_with(path, parent) &&
           path.data[parent.len] == '.';
}

bool stor_index_wildcard_has(const stor_index_def_t *def, vd_slice_t path)
{
    vd_slice_t prefix = def->fields[0].path, name;
    vd_value_t value;
    if (!def->has_wildcard || def->field_count != 1 || stor_path_has_position(path) ||
        (prefix.len > 0 && !is_below(path, prefix) && !vd_slice_equal(path, prefix)))
        return false;
    bool id = vd_slice_is(path, "_id") || vd_slice_starts_with(path, VD_SLICE_LIT("_id."));
    vd_bson_iter_t iter;
    if (def->wildcard_projection.len == 0 || vd_bson_is_empty(def->wildcard_projection))
        return !id;
    (void)vd_bson_first(def->wildcard_projection, &name, &value);
    bool including = false, found = false;
    vd_bson_iter_init(&iter, def->wildcard_projection);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type == VD_BSON_OBJECT)
            return false; /* nested: not looked into */
        bool flag = vd_value_truthy(iter.value);
        if (!vd_slice_is(iter.name, "_id"))
            including = flag;
        else if (id)
            return flag;
        bool same = vd_slice_equal(iter.name, path) || is_below(path, iter.name);
        found |= flag ? same : same || is_below(iter.name, path);
    }
    return !id && (including ? found : !found);
}

/* Values that a wildcard index holds under their own path: no objects, arrays, nulls. */
static bool wildcard_leaf(const stor_filter_t *leaf)
{
    switch (leaf->kind) {
    case STOR_FILTER_EQ:
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
        return leaf->value.type != VD_BSON_OBJECT && leaf->value.type != VD_BSON_ARRAY &&
               leaf->value.type != VD_BSON_NULL && leaf->value.type != VD_BSON_UNDEFINED;
    case STOR_FILTER_IN:
        for (uint32_t i = 0; i < leaf->value_count; i++)
            if (leaf->values[i].type == VD_BSON_OBJECT || leaf->values[i].type == VD_BSON_ARRAY)
                return false;
        return !leaf->has_null;
    case STOR_FILTER_REGEX:
    case STOR_FILTER_EXISTS:
    case STOR_FILTER_MOD:
        return true;
    default:
        return false;
    }
}

/* ---- which predicates bound a field ---- */

static bool field_is_multikey(const maker_t *maker, uint32_t field)
{
    return (maker->index->multikey >> field & 1) != 0;
}

/* The leaf of the same $elemMatch at the very array that both paths go through. */
static bool same_element(const stor_predicate_t *a, const stor_predicate_t *b, uint32_t parts)
{
    for (uint32_t i = 0; i < a->context_count; i++)
        for (uint32_t k = 0; k < b->context_count; k++)
            if (a->contexts[i].id == b->contexts[k].id && a->contexts[i].parts == parts)
                return true;
    return false;
}

/* Bounds on a field below an array may stand beside those chosen for the fields before it. */
static bool compatible(const maker_t *maker, uint32_t field, const stor_predicate_t *predicate)
{
    for (uint32_t i = 0; i < field; i++) {
        const stor_predicate_t *other = maker->chosen[i];
        if (other == NULL)
            continue;
        uint32_t parts = stor_path_common_parts(other->path, predicate->path);
        if (parts > 0 && !same_element(other, predicate, parts))
            return false;
    }
    return true;
}

/* Equalities have the number that an index holds for the value. */
static int hashed_intervals(maker_t *maker, const stor_filter_t *leaf, stor_intervals_t *ret,
                            bool *ret_found, vd_error_t *err)
{
    vd_arena_t *arena = maker->arena;
    const vd_value_t *values = leaf->kind == STOR_FILTER_IN ? leaf->values : &leaf->value;
    uint32_t count = leaf->kind == STOR_FILTER_IN ? leaf->value_count : 1;
    const vd_collation_t *collation = maker->index->def->collation;
    *ret_found = false;
    if ((leaf->kind != STOR_FILTER_EQ && leaf->kind != STOR_FILTER_IN) || leaf->regex_count > 0 ||
        leaf->has_null || count > STOR_INDEX_RANGES_MAX)
        return VD_OK;
    *ret = (stor_intervals_t){0};
    for (uint32_t i = 0; i < count; i++) {
        stor_intervals_t point;
        if (vd_value_is_nullish(values[i]) || values[i].type == VD_BSON_ARRAY ||
            (vd_value_is_collatable(values[i]) &&
             !stor_collation_same(collation, vd_collation_get())))
            return VD_OK;
        int64_t hash;
        int rc = stor_index_hash(values[i], collation, &hash, err);
        if (rc == VD_OK)
            rc = stor_intervals_point(arena, vd_value_from_int64(arena, hash), &point, err);
        if (rc != VD_OK)
            return rc;
        if (i == 0) {
            ret->items = VD_ARENA_ARRAY(arena, stor_interval_t, count);
        }
        ret->items[ret->count++] = point.items[0];
    }
    stor_intervals_t none = {0};
    stor_intervals_or(arena, ret, &none, ret);
    ret->exact = ret->missing = false;
    *ret_found = true;
    return VD_OK;
}

static int usable_of(maker_t *maker, uint32_t field, vd_slice_t path, usable_t **ret_list,
                     uint32_t *ret_count, vd_error_t *err)
{
    const stor_predicates_t *all = maker->predicates;
    stor_index_order_t order = maker->index->def->fields[field].order;
    usable_t *list = VD_ARENA_ARRAY(maker->arena, usable_t, all->count + 1);
    uint32_t count = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        const stor_predicate_t *p = &all->items[i];
        bool found = false;
        int rc = VD_OK;
        if (!vd_slice_equal(p->path, path) ||
            (p->context_count > 0 && stor_path_has_position(path)))
            continue;
        if (order == STOR_INDEX_WILDCARD && !wildcard_leaf(p->leaf))
            continue;
        if (order == STOR_INDEX_HASHED)
            rc = hashed_intervals(maker, p->leaf, &list[count].intervals, &found, err);
        else
            rc = stor_intervals_of_leaf(maker->arena, maker->index->def->collation, p->leaf,
                                        field_is_multikey(maker, field), &list[count].intervals,
                                        &found, err);
        if (rc != VD_OK)
            return rc;
        if (found)
            list[count++].predicate = p;
    }
    *ret_list = list;
    *ret_count = count;
    return VD_OK;
}

static void consume(const maker_t *maker, const usable_t *usable)
{
    if (usable->predicate->direct && usable->intervals.exact)
        maker->bounds->consumed[usable->predicate->conjunct] = true;
}

/* Few points before ranges before everything. */
static int rank(const stor_intervals_t *list)
{
    if (stor_intervals_are_all(list))
        return 3;
    if (stor_intervals_are_points(list))
        return list->count <= 1 ? 0 : 1;
    return 2;
}

static void bound_by_one(maker_t *maker, uint32_t field, const usable_t *list, uint32_t count,
                         uint32_t choice)
{
    const usable_t *best = NULL;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!compatible(maker, field, list[i].predicate))
            continue;
        if (field == 0 ? seen++ == choice
                       : best == NULL || rank(&list[i].intervals) < rank(&best->intervals))
            best = &list[i];
    }
    if (field == 0)
        maker->bounds->choices = seen;
    if (best == NULL)
        return;
    maker->chosen[field] = best->predicate;
    maker->bounds->fields[field] = best->intervals;
    maker->bounds->in_sparse |= !best->intervals.missing;
    maker->bounds->first_bounded |= field == 0;
    consume(maker, best);
}

static void bound_by_all(maker_t *maker, uint32_t field, const usable_t *list, uint32_t count)
{
    stor_intervals_t *into = &maker->bounds->fields[field];
    for (uint32_t i = 0; i < count; i++) {
        stor_intervals_and(maker->arena, into, &list[i].intervals, into);
        maker->bounds->in_sparse |= !list[i].intervals.missing;
        maker->bounds->first_bounded |= field == 0;
        consume(maker, &list[i]);
    }
}

/* ---- ranges of entry keys ---- */

void stor_index_descending(const stor_index_def_t *def, bool ret[STOR_INDEX_FIELDS_MAX + 1])
{
    memset(ret, 0, (STOR_INDEX_FIELDS_MAX + 1) * sizeof *ret);
    for (uint32_t i = 0; i < def->field_count; i++)
        ret[i] = def->fields[i].order == STOR_INDEX_DESCENDING;
}

static vd_slice_t turned(vd_arena_t *arena, vd_slice_t key)
{
    uint8_t *bytes = vd_arena_copy(arena, key.data, key.len);
    for (size_t i = 0; i < key.len; i++)
        bytes[i] = (uint8_t)~bytes[i];
    return vd_slice(bytes, key.len);
}

/* The intervals of one code as its bytes stand in entries. */
static stor_range_t *code_ranges(vd_arena_t *arena, const stor_intervals_t *list, bool descending)
{
    stor_range_t *ranges = VD_ARENA_ARRAY(arena, stor_range_t, list->count + 1);
    for (uint32_t i = 0; i < list->count; i++) {
        const stor_interval_t *in = &list->items[i];
        if (descending)
            ranges[list->count - 1 - i] =
                (stor_range_t){turned(arena, in->high_key), turned(arena, in->low_key),
                               in->high_exclusive, in->low_exclusive, false};
        else
            ranges[i] = (stor_range_t){in->low_key, in->high_key, in->low_exclusive,
                                       in->high_exclusive, false};
    }
    return ranges;
}

static vd_slice_t joined(vd_arena_t *arena, vd_slice_t a, vd_slice_t b)
{
    uint8_t *bytes = vd_arena_alloc(arena, a.len + b.len + 1);
    if (a.len > 0)
        memcpy(bytes, a.data, a.len);
    if (b.len > 0)
        memcpy(bytes + a.len, b.data, b.len);
    return vd_slice(bytes, a.len + b.len);
}

/* Smallest bytes behind all that start with the key; empty when there are none. */
static vd_slice_t behind(vd_arena_t *arena, vd_slice_t key)
{
    uint8_t *bytes = vd_arena_copy(arena, key.data, key.len);
    size_t len = key.len;
    while (len > 0 && bytes[len - 1] == 0xFF)
        len--;
    if (len > 0)
        bytes[len - 1]++;
    return vd_slice(bytes, len);
}

/* Entries that start with `prefix` and go on inside the range of the next code. */
static stor_range_t range_under(vd_arena_t *arena, vd_slice_t prefix, const stor_range_t *code)
{
    stor_range_t range = {.high_exclusive = true};
    if (code->low.len == 0)
        range.low = prefix;
    else if (code->low_exclusive)
        range.low = behind(arena, joined(arena, prefix, code->low));
    else
        range.low = joined(arena, prefix, code->low);
    if (code->high.len == 0)
        range.high = behind(arena, prefix);
    else if (code->high_exclusive)
        range.high = joined(arena, prefix, code->high);
    else
        range.high = behind(arena, joined(arena, prefix, code->high));
    return range;
}

static void compile(vd_arena_t *arena, const stor_index_def_t *def, stor_index_bounds_t *bounds)
{
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
    static const stor_range_t everything = {0};
    vd_slice_t *prefixes = VD_ARENA_ARRAY(arena, vd_slice_t, 1);
    uint32_t prefix_count = 1, code = 0;
    stor_index_descending(def, descending);
    bounds->checks = vd_arena_zalloc(arena, bounds->code_count * sizeof *bounds->checks);
    for (uint32_t i = 0; i < bounds->code_count; i++) {
        bounds->checks[i].count = bounds->fields[i].count;
        bounds->checks[i].items = code_ranges(arena, &bounds->fields[i], descending[i]);
    }
    for (; code < bounds->code_count; code++) {
        uint64_t product = (uint64_t)prefix_count * bounds->checks[code].count;
        if (!stor_intervals_are_points(&bounds->fields[code]) || product > STOR_INDEX_RANGES_MAX)
            break;
        vd_slice_t *longer = VD_ARENA_ARRAY(arena, vd_slice_t, product + 1);
        for (uint32_t i = 0; i < prefix_count; i++)
            for (uint32_t k = 0; k < bounds->checks[code].count; k++)
                longer[i * bounds->checks[code].count + k] =
                    joined(arena, prefixes[i], bounds->checks[code].items[k].low);
        prefixes = longer;
        prefix_count = (uint32_t)product;
    }
    const stor_range_t *under = &everything;
    uint32_t under_count = 1;
    if (code < bounds->code_count &&
        (uint64_t)prefix_count * bounds->checks[code].count <= STOR_INDEX_RANGES_MAX) {
        under = bounds->checks[code].items;
        under_count = bounds->checks[code].count;
        code++;
    }
    bounds->checked_from = code;
    for (; code < bounds->code_count; code++)
        bounds->checked |= !stor_intervals_are_all(&bounds->fields[code]);
    stor_bounds_t *ranges = &bounds->ranges;
    ranges->ranges = VD_ARENA_ARRAY(arena, stor_range_t, prefix_count * under_count + 1);
    for (uint32_t i = 0; i < prefix_count; i++)
        for (uint32_t k = 0; k < under_count; k++)
            ranges->ranges[ranges->count++] = range_under(arena, prefixes[i], &under[k]);
    for (uint32_t i = 0; i < bounds->code_count; i++) /* one field that nothing satisfies */
        if (bounds->fields[i].count == 0)
            ranges->count = 0;
    ranges->all_points = ranges->count == 0;
}

/* ---- the whole ---- */

static void init(maker_t *maker)
{
    stor_index_bounds_t *bounds = maker->bounds;
    const stor_index_def_t *def = maker->index->def;
    *bounds = (stor_index_bounds_t){.code_count = def->field_count + def->has_wildcard};
    bounds->fields = VD_ARENA_ARRAY(maker->arena, stor_intervals_t, bounds->code_count);
    for (uint32_t i = 0; i < bounds->code_count; i++)
        stor_intervals_all(maker->arena, &bounds->fields[i]);
}

/* The path, as the first code of the index's entries; with all that lies below it for $exists. */
static int wildcard_paths(maker_t *maker, vd_slice_t path, bool below, stor_intervals_t *ret,
                          vd_error_t *err)
{
    vd_arena_t *arena = maker->arena;
    stor_intervals_t from, to;
    int rc = stor_intervals_point(arena, vd_value_from_string(arena, path), ret, err);
    if (rc != VD_OK || !below)
        return rc;
    vd_slice_t low = joined(arena, path, VD_SLICE_LIT(".")),
               high = joined(arena, path, VD_SLICE_LIT("/"));
    rc = stor_intervals_point(arena, vd_value_from_string(arena, low), &from, err);
    if (rc == VD_OK)
        rc = stor_intervals_point(arena, vd_value_from_string(arena, high), &to, err);
    if (rc != VD_OK)
        return rc;
    from.items[0].high = to.items[0].low;
    from.items[0].high_key = to.items[0].low_key;
    from.items[0].high_exclusive = true;
    stor_intervals_or(arena, ret, &from, ret);
    return VD_OK;
}

static int wildcard_make(maker_t *maker, vd_slice_t path, uint32_t choice, vd_error_t *err)
{
    stor_index_bounds_t *bounds = maker->bounds;
    usable_t *list;
    uint32_t count;
    int rc = usable_of(maker, 0, path, &list, &count, err);
    if (rc != VD_OK || count == 0)
        return rc;
    bool below = true; /* only $exists: objects and arrays hold it, too */
    for (uint32_t i = 0; i < count; i++)
        below &= list[i].predicate->leaf->kind == STOR_FILTER_EXISTS;
    if (field_is_multikey(maker, 0) || below)
        bound_by_one(maker, 0, list, count, choice);
    else
        bound_by_all(maker, 0, list, count);
    bounds->fields[1] = bounds->fields[0];
    if (below)
        stor_intervals_all(maker->arena, &bounds->fields[1]);
    return wildcard_paths(maker, path, below, &bounds->fields[0], err);
}

int stor_index_bounds_make(vd_arena_t *arena, const stor_plan_index_t *index,
                           const stor_predicates_t *predicates, uint32_t choice,
                           vd_slice_t wildcard_path, stor_index_bounds_t *ret, vd_error_t *err)
{
    maker_t maker = {.arena = arena, .index = index, .predicates = predicates, .bounds = ret};
    const stor_index_def_t *def = index->def;
    int rc = VD_OK;
    init(&maker);
    ret->consumed = VD_ARENA_ARRAY(arena, bool, predicates->conjunct_count + 1);
    if (def->has_wildcard)
        rc = wildcard_make(&maker, wildcard_path, choice, err);
    for (uint32_t i = 0; i < def->field_count && rc == VD_OK && !def->has_wildcard; i++) {
        usable_t *list;
        uint32_t count;
        rc = usable_of(&maker, i, def->fields[i].path, &list, &count, err);
        if (rc == VD_OK && count > 0) {
            if (field_is_multikey(&maker, i))
                bound_by_one(&maker, i, list, count, choice);
            else
                bound_by_all(&maker, i, list, count);
        }
    }
    if (rc != VD_OK)
        return rc;
    ret->exact = true;
    for (uint32_t i = 0; i < predicates->conjunct_count; i++)
        ret->exact &= ret->consumed[i];
    compile(arena, def, ret);
    return VD_OK;
}

void stor_index_bounds_pin(vd_arena_t *arena, const stor_plan_index_t *index,
                           const stor_index_bounds_t *bounds, const uint32_t *positions,
                           uint32_t codes, stor_index_bounds_t *ret)
{
    *ret = *bounds;
    ret->fields = vd_arena_copy(arena, bounds->fields, bounds->code_count * sizeof *ret->fields);
    for (uint32_t i = 0; i < codes; i++) {
        ret->fields[i].items += positions[i];
        ret->fields[i].count = 1;
    }
    ret->ranges = (stor_bounds_t){0};
    ret->checked = false;
    compile(arena, index->def, ret);
}

/* The key of a document {a: .., b: ..} whose names are the index's, in its order. */
static int whole_key(vd_arena_t *arena, const stor_index_def_t *def, vd_bson_t document,
                     vd_slice_t *ret_key, vd_error_t *err)
{
    vd_buf_t buf;
    vd_bson_iter_t iter;
    bool exact;
    int rc = VD_OK;
    vd_buf_init(&buf, (def->field_count + 1) * 4 * VD_KEYCODE_MAX_BYTES);
    vd_bson_iter_init(&iter, document);
    for (uint32_t i = 0; i < def->field_count && rc == VD_OK && vd_bson_iter_next(&iter); i++)
        rc = stor_keycode_append_collated(&buf, iter.value,
                                          def->fields[i].order == STOR_INDEX_DESCENDING,
                                          def->collation, &exact, err);
    if (rc == VD_OK)
        *ret_key = vd_arena_copy_slice(arena, vd_buf_slice(&buf));
    vd_buf_done(&buf);
    return rc;
}

int stor_index_bounds_between(vd_arena_t *arena, const stor_plan_index_t *index, vd_bson_t min,
                              vd_bson_t max, stor_index_bounds_t *ret, vd_error_t *err)
{
    maker_t maker = {.arena = arena, .index = index, .bounds = ret};
    int rc = VD_OK;
    init(&maker);
    compile(arena, index->def, ret);
    stor_range_t *range = &ret->ranges.ranges[0];
    if (min.len > 0)
        rc = whole_key(arena, index->def, min, &range->low, err);
    if (rc == VD_OK && max.len > 0)
        rc = whole_key(arena, index->def, max, &range->high, err);
    range->high_exclusive = true;
    return rc;
}

/* ---- the check ---- */

static void seek_to(vd_buf_t *seek, vd_slice_t fields, size_t prefix, vd_slice_t code, bool past)
{
    vd_buf_clear(seek);
    if (vd_buf_append(seek, fields.data, prefix) != VD_OK ||
        vd_buf_append_slice(seek, code) != VD_OK || (past && !stor_keycode_successor(seek)))
        vd_buf_clear(seek); /* behind everything */
}

/* The code at [at, end) of the key lies in none of its ranges: where does the scan go on? */
static void seek_forward(vd_buf_t *seek, vd_slice_t fields, size_t at, const stor_range_t *ranges,
                         uint32_t count, vd_slice_t code)
{
    for (uint32_t i = 0; i < count; i++) {
        int c = vd_slice_compare(code, ranges[i].low);
        if (c < 0 || (c == 0 && ranges[i].low_exclusive)) {
            seek_to(seek, fields, at, ranges[i].low, ranges[i].low_exclusive);
            return;
        }
    }
    seek_to(seek, fields, at, VD_SLICE_NULL, true);
}

static void seek_backward(vd_buf_t *seek, vd_slice_t fields, size_t at, const stor_range_t *ranges,
                          uint32_t count, vd_slice_t code)
{
    for (uint32_t i = count; i-- > 0;) {
        int c = ranges[i].high.len == 0 ? -1 : vd_slice_compare(code, ranges[i].high);
        if (c > 0 || (c == 0 && ranges[i].high_exclusive)) {
            seek_to(seek, fields, at, ranges[i].high, !ranges[i].high_exclusive);
            return;
        }
    }
    seek_to(seek, fields, at, VD_SLICE_NULL, false);
}

static bool inside(const stor_range_t *ranges, uint32_t count, vd_slice_t code)
{
    uint32_t low = 0, high = count; /* the first range that does not end before the code */
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        int c = ranges[mid].high.len == 0 ? -1 : vd_slice_compare(code, ranges[mid].high);
        if (c > 0 || (c == 0 && ranges[mid].high_exclusive))
            low = mid + 1;
        else
            high = mid;
    }
    if (low == count)
        return false;
    int c = ranges[low].low.len == 0 ? 1 : vd_slice_compare(code, ranges[low].low);
    return c > 0 || (c == 0 && !ranges[low].low_exclusive);
}

stor_check_t stor_index_bounds_check(const stor_index_bounds_t *bounds, vd_slice_t fields,
                                     bool descending_codes[], bool backward, vd_buf_t *seek)
{
    vd_slice_t rest = fields;
    for (uint32_t i = 0; i < bounds->code_count; i++) {
        size_t at = fields.len - rest.len;
        if (stor_keycode_skip(&rest, descending_codes[i], NULL, NULL) != VD_OK)
            return STOR_CHECK_CORRUPT;
        if (i < bounds->checked_from)
            continue;
        vd_slice_t code = vd_slice(fields.data + at, fields.len - rest.len - at);
        const stor_range_t *ranges = bounds->checks[i].items;
        uint32_t count = bounds->checks[i].count;
        if (inside(ranges, count, code))
            continue;
        if (backward)
            seek_backward(seek, fields, at, ranges, count, code);
        else
            seek_forward(seek, fields, at, ranges, count, code);
        return STOR_CHECK_SEEK;
    }
    return STOR_CHECK_INSIDE;
}
