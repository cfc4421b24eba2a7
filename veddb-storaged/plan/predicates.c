/* veddb-storaged/plan/predicates.c — see predicates.h. */
#include "veddb-storaged/plan/predicates.h"

#include "libcommon/bson/compare.h"
#include "veddb-storaged/plan/interval.h"
#include "veddb-storaged/query/collation.h"

typedef struct {
    vd_arena_t *arena;
    stor_predicates_t *all;
    uint32_t room, next_context;
    uint32_t context_count;
    stor_predicate_context_t contexts[STOR_PREDICATE_CONTEXTS_MAX];
    vd_slice_t prefix; /* of the $elemMatch around */
    uint32_t conjunct;
} taker_t;

static uint32_t part_count(vd_slice_t path)
{
    uint32_t count = 1;
    for (size_t i = 0; i < path.len; i++)
        count += path.data[i] == '.';
    return count;
}

uint32_t stor_path_common_parts(vd_slice_t a, vd_slice_t b)
{
    uint32_t parts = 0;
    size_t i = 0, most = a.len < b.len ? a.len : b.len;
    for (; i < most && a.data[i] == b.data[i]; i++)
        parts += a.data[i] == '.';
    bool a_ends = i == a.len || a.data[i] == '.', b_ends = i == b.len || b.data[i] == '.';
    return parts + (i == most && a_ends && b_ends);
}

bool stor_path_has_position(vd_slice_t path)
{
    size_t start = 0;
    for (size_t i = 0; i <= path.len; i++) {
        if (i < path.len && path.data[i] != '.')
            continue;
        bool digits = i > start;
        for (size_t k = start; k < i; k++)
            digits &= path.data[k] >= '0' && path.data[k] <= '9';
        if (digits)
            return true;
        start = i + 1;
    }
    return false;
}

static vd_slice_t joined(taker_t *taker, vd_slice_t path)
{
    if (taker->prefix.len == 0)
        return path;
    const char *text =
        vd_arena_printf(taker->arena, "%.*s.%.*s", VD_SLICE_FMT(taker->prefix), VD_SLICE_FMT(path));
    return vd_slice(text, taker->prefix.len + 1 + path.len);
}

static void add(taker_t *taker, const stor_filter_t *leaf, const stor_path_t *path)
{
    stor_predicates_t *all = taker->all;
    if (all->count == taker->room) {
        uint32_t room = taker->room * 2 + 8;
        stor_predicate_t *items = VD_ARENA_ARRAY(taker->arena, stor_predicate_t, room);
        if (all->count > 0)
            memcpy(items, all->items, all->count * sizeof *items);
        all->items = items;
        taker->room = room;
    }
    stor_predicate_t *item = &all->items[all->count++];
    item->path = joined(taker, path->text);
    item->leaf = leaf;
    item->conjunct = taker->conjunct;
    item->direct = taker->context_count == 0;
    item->context_count = taker->context_count;
    memcpy(item->contexts, taker->contexts, sizeof item->contexts);
}

static void take(taker_t *taker, const stor_filter_t *filter);

static void take_elements(taker_t *taker, const stor_filter_t *filter)
{
    vd_slice_t before = taker->prefix, path = joined(taker, filter->path.text);
    if (taker->context_count == STOR_PREDICATE_CONTEXTS_MAX || filter->child_count != 1 ||
        path.len == 0)
        return;
    taker->contexts[taker->context_count++] =
        (stor_predicate_context_t){++taker->next_context, part_count(path)};
    taker->prefix = path;
    take(taker, filter->children[0]);
    taker->prefix = before;
    taker->context_count--;
}

static void take(taker_t *taker, const stor_filter_t *filter)
{
    switch (filter->kind) {
    case STOR_FILTER_AND: /* at the top its children are conjuncts already */
        for (uint32_t i = 0; i < filter->child_count; i++)
            take(taker, filter->children[i]);
        break;
    case STOR_FILTER_NOT:
    case STOR_FILTER_NOR:
        if (filter->child_count == 1 && filter->children[0]->path.count > 0 &&
            filter->children[0]->kind != STOR_FILTER_ELEM_MATCH_OBJECT)
            add(taker, filter, &filter->children[0]->path);
        break;
    case STOR_FILTER_ELEM_MATCH_OBJECT:
        take_elements(taker, filter);
        break;
    case STOR_FILTER_OR:
    case STOR_FILTER_EXPR:
    case STOR_FILTER_JSON_SCHEMA:
    case STOR_FILTER_TRUE:
    case STOR_FILTER_FALSE:
        break;
    default:
        if (filter->path.count > 0)
            add(taker, filter, &filter->path);
    }
}

/* {$nor: [a, b]} is {$nor: [a]} and {$nor: [b]}. */
static uint32_t split(vd_arena_t *arena, const stor_filter_t *filter, const stor_filter_t **into)
{
    uint32_t count = 0;
    if (filter->kind == STOR_FILTER_TRUE)
        return 0;
    if (filter->kind == STOR_FILTER_AND) {
        for (uint32_t i = 0; i < filter->child_count; i++)
            count += split(arena, filter->children[i], into == NULL ? NULL : into + count);
        return count;
    }
    if (filter->kind != STOR_FILTER_NOR || filter->child_count < 2) {
        if (into != NULL)
            into[0] = filter;
        return 1;
    }
    for (uint32_t i = 0; i < filter->child_count && into != NULL; i++) {
        stor_filter_t *one = VD_ARENA_NEW(arena, stor_filter_t);
        one->kind = STOR_FILTER_NOR;
        one->children = &filter->children[i];
        one->child_count = 1;
        into[i] = one;
    }
    return filter->child_count;
}

void stor_predicates_of(vd_arena_t *arena, const stor_filter_t *filter, stor_predicates_t *ret)
{
    taker_t taker = {.arena = arena, .all = ret};
    *ret = (stor_predicates_t){.conjunct_count = split(arena, filter, NULL)};
    ret->conjuncts = VD_ARENA_ARRAY(arena, const stor_filter_t *, ret->conjunct_count + 1);
    (void)split(arena, filter, ret->conjuncts);
    for (taker.conjunct = 0; taker.conjunct < ret->conjunct_count; taker.conjunct++)
        take(&taker, ret->conjuncts[taker.conjunct]);
}

bool stor_filter_paths(const stor_filter_t *filter, bool (*visit)(vd_slice_t path, void *context),
                       void *context)
{
    switch (filter->kind) {
    case STOR_FILTER_EXPR:
    case STOR_FILTER_JSON_SCHEMA:
    case STOR_FILTER_VERSION:
    case STOR_FILTER_ELEM_MATCH_OBJECT:
    case STOR_FILTER_ELEM_MATCH_VALUE:
        return false;
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
    case STOR_FILTER_NOR:
    case STOR_FILTER_NOT:
        for (uint32_t i = 0; i < filter->child_count; i++)
            if (!stor_filter_paths(filter->children[i], visit, context))
                return false;
        return true;
    case STOR_FILTER_TRUE:
    case STOR_FILTER_FALSE:
        return true;
    default:
        return visit(filter->path.text, context);
    }
}

/* ---- does one filter imply another? ---- */

static bool filter_same(const stor_filter_t *a, const stor_filter_t *b)
{
    if (a->kind != b->kind || a->child_count != b->child_count || a->regex_count > 0 ||
        b->regex_count > 0 || a->kind == STOR_FILTER_EXPR || a->kind == STOR_FILTER_JSON_SCHEMA ||
        a->kind == STOR_FILTER_BITS || a->value_count != b->value_count ||
        a->type_mask != b->type_mask || a->number != b->number || a->divisor != b->divisor ||
        a->remainder != b->remainder || !vd_slice_equal(a->path.text, b->path.text) ||
        !vd_value_equal(a->value, b->value))
        return false;
    for (uint32_t i = 0; i < a->value_count; i++)
        if (!vd_value_equal(a->values[i], b->values[i]))
            return false;
    for (uint32_t i = 0; i < a->child_count; i++)
        if (!filter_same(a->children[i], b->children[i]))
            return false;
    return true;
}

/* The leaf says that there is a value, and of which types it is. */
static uint32_t types_of(const stor_filter_t *leaf)
{
    switch (leaf->kind) {
    case STOR_FILTER_TYPE:
        return leaf->type_mask;
    case STOR_FILTER_EQ:
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
        if (vd_value_is_number(leaf->value))
            return STOR_TYPE_BITS_NUMBER;
        return leaf->value.type == VD_BSON_STRING
                   ? stor_type_bit(VD_BSON_STRING) | stor_type_bit(VD_BSON_SYMBOL)
               : leaf->value.type == VD_BSON_NULL || leaf->value.type == VD_BSON_ARRAY
                   ? UINT32_MAX
                   : stor_type_bit(leaf->value.type);
    default:
        return UINT32_MAX;
    }
}

static bool has_strings(const stor_filter_t *leaf)
{
    bool strings = vd_value_is_collatable(leaf->value);
    for (uint32_t i = 0; i < leaf->value_count; i++)
        strings |= vd_value_is_collatable(leaf->values[i]);
    for (uint32_t i = 0; i < leaf->child_count; i++)
        strings |= has_strings(leaf->children[i]);
    return strings;
}

static int leaf_implies(vd_arena_t *arena, const vd_collation_t *collation,
                        const stor_filter_t *leaf, const stor_filter_t *other, bool *ret_implies,
                        vd_error_t *err)
{
    stor_intervals_t a, b;
    bool found_a, found_b = true;
    *ret_implies = filter_same(leaf, other) &&
                   (stor_collation_same(collation, vd_collation_get()) || !has_strings(other));
    if (*ret_implies || leaf->kind == STOR_FILTER_NOT || leaf->kind == STOR_FILTER_NOR ||
        leaf->kind == STOR_FILTER_SIZE || !vd_slice_equal(leaf->path.text, other->path.text))
        return VD_OK;
    if (other->kind == STOR_FILTER_TYPE) {
        *ret_implies = (types_of(leaf) & ~other->type_mask) == 0;
        return VD_OK;
    }
    int rc = stor_intervals_of_leaf(arena, collation, leaf, true, &a, &found_a, err);
    if (rc != VD_OK || !found_a)
        return rc;
    if (other->kind == STOR_FILTER_EXISTS) {
        *ret_implies = !a.missing;
        return VD_OK;
    }
    if (other->kind == STOR_FILTER_NOT || other->kind == STOR_FILTER_NOR ||
        leaf->kind == STOR_FILTER_ELEM_MATCH_VALUE)
        return VD_OK;
    rc = stor_intervals_of_leaf(arena, collation, other, true, &b, &found_b, err);
    if (rc == VD_OK && found_b)
        *ret_implies = a.exact && b.exact && stor_intervals_within(&a, &b);
    return rc;
}

int stor_filter_implies(vd_arena_t *arena, const vd_collation_t *collation,
                        const stor_filter_t *filter, const stor_filter_t *other, bool *ret_implies,
                        vd_error_t *err)
{
    int rc = VD_OK;
    *ret_implies = other->kind == STOR_FILTER_TRUE || filter->kind == STOR_FILTER_FALSE;
    if (*ret_implies)
        return VD_OK;
    if (other->kind == STOR_FILTER_AND) {
        *ret_implies = true;
        for (uint32_t i = 0; i < other->child_count && rc == VD_OK && *ret_implies; i++)
            rc =
                stor_filter_implies(arena, collation, filter, other->children[i], ret_implies, err);
        return rc;
    }
    if (filter->kind == STOR_FILTER_OR) {
        *ret_implies = true;
        for (uint32_t i = 0; i < filter->child_count && rc == VD_OK && *ret_implies; i++)
            rc =
                stor_filter_implies(arena, collation, filter->children[i], other, ret_implies, err);
        return rc;
    }
    if (filter->kind == STOR_FILTER_AND) {
        for (uint32_t i = 0; i < filter->child_count && rc == VD_OK && !*ret_implies; i++)
            rc =
                stor_filter_implies(arena, collation, filter->children[i], other, ret_implies, err);
        return rc;
    }
    if (other->kind == STOR_FILTER_OR) {
        for (uint32_t i = 0; i < other->child_count && rc == VD_OK && !*ret_implies; i++)
            rc =
                stor_filter_implies(arena, collation, filter, other->children[i], ret_implies, err);
        return rc;
    }
    return leaf_implies(arena, collation, filter, other, ret_implies, err);
}
