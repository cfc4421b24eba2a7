/* veddb-storaged/plan/needs.c — see needs.h. */
#include "veddb-storaged/plan/needs.h"

#define DEPTH_MAX 100

static void of_expression(vd_arena_t *arena, vd_value_t v, uint32_t depth, stor_needs_t *needs)
{
    vd_bson_iter_t iter;
    if (v.type == VD_BSON_STRING) {
        vd_slice_t text = vd_value_string(v);
        if (text.len < 2 || text.data[0] != '$')
            return;
        if (text.data[1] != '$')
            stor_needs_add(arena, needs, vd_slice(text.data + 1, text.len - 1));
        else if (vd_slice_starts_with(text, VD_SLICE_LIT("$$ROOT")) ||
                 vd_slice_starts_with(text, VD_SLICE_LIT("$$CURRENT")))
            needs->all = true;
        return;
    }
    if (v.type != VD_BSON_OBJECT && v.type != VD_BSON_ARRAY)
        return;
    if (depth == DEPTH_MAX) {
        needs->all = true;
        return;
    }
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        /* They read fields by names that are values, or what no field has. */
        if (vd_slice_is(iter.name, "$getField") || vd_slice_is(iter.name, "$setField") ||
            vd_slice_is(iter.name, "$meta") || vd_slice_is(iter.name, "$function") ||
            vd_slice_is(iter.name, "$accumulator") || vd_slice_is(iter.name, "sortBy"))
            needs->all = true;
        of_expression(arena, iter.value, depth + 1, needs);
    }
}

/* Plain inclusions; whatever else stands in a projection reads everything. */
void stor_needs_of_projection(vd_arena_t *arena, vd_bson_t projection, stor_needs_t *ret)
{
    vd_bson_iter_t iter;
    bool id = true, included = false;
    *ret = (stor_needs_t){0};
    vd_bson_iter_init(&iter, projection);
    while (vd_bson_iter_next(&iter) && !ret->all) {
        bool flag = iter.value.type == VD_BSON_BOOL || vd_value_is_number(iter.value);
        bool on = flag && vd_value_truthy(iter.value);
        if (vd_slice_is(iter.name, "_id") && flag) {
            id = on;
            included |= on;
        } else if (!flag || !on || memchr(iter.name.data, '$', iter.name.len) != NULL) {
            ret->all = true;
        } else {
            stor_needs_add(arena, ret, iter.name);
            included = true;
        }
    }
    if (id)
        stor_needs_add(arena, ret, VD_SLICE_LIT("_id"));
    ret->all |= !included;
}

/* $project of plain inclusions and expressions at the top. */
static void of_project(vd_arena_t *arena, vd_bson_t spec, stor_needs_t *needs)
{
    vd_bson_iter_t iter;
    bool id = true, makes = false;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        bool flag = iter.value.type == VD_BSON_BOOL || vd_value_is_number(iter.value);
        bool on = flag && vd_value_truthy(iter.value);
        if (vd_slice_is(iter.name, "_id") && flag && !on) {
            id = false;
            continue;
        }
        id &= !vd_slice_is(iter.name, "_id") || flag;
        needs->all |= flag && !on; /* an exclusion */
        makes |= !flag || on;
        if (on) {
            stor_needs_add(arena, needs, iter.name);
        } else if (iter.value.type == VD_BSON_OBJECT) {
            vd_slice_t name = VD_SLICE_NULL;
            vd_value_t first;
            (void)vd_bson_first(vd_value_document(iter.value), &name, &first);
            if (name.len == 0 || name.data[0] != '$')
                needs->all = true; /* a projection of sub-fields */
            of_expression(arena, iter.value, 0, needs);
        } else {
            of_expression(arena, iter.value, 0, needs);
        }
    }
    if (id)
        stor_needs_add(arena, needs, VD_SLICE_LIT("_id"));
    needs->all |= !makes;
}

void stor_needs_of_stages(vd_arena_t *arena, vd_bson_t stages, uint32_t from, stor_needs_t *ret)
{
    vd_bson_iter_t iter;
    uint32_t at = 0;
    *ret = (stor_needs_t){.all = true};
    vd_bson_iter_init(&iter, stages);
    while (vd_bson_iter_next(&iter)) {
        vd_slice_t name;
        vd_value_t spec;
        if (at++ < from)
            continue;
        if (iter.value.type != VD_BSON_OBJECT ||
            !vd_bson_first(vd_value_document(iter.value), &name, &spec))
            return;
        if (vd_slice_is(name, "$limit") || vd_slice_is(name, "$skip"))
            continue; /* read nothing, change nothing */
        ret->all = false;
        if (vd_slice_is(name, "$count"))
            return;
        if (vd_slice_is(name, "$group") || vd_slice_is(name, "$sortByCount"))
            of_expression(arena, spec, 0, ret);
        else if (vd_slice_is(name, "$project") && spec.type == VD_BSON_OBJECT)
            of_project(arena, vd_value_document(spec), ret);
        else
            ret->all = true;
        return;
    }
}
