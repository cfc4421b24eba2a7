/* veddb-storaged/plan/order.c — which orders a scan of an index gives; see plan.h.
 *
 * Fields that the bounds pin to one value don't count. A sort through an array goes by the least
 * (or greatest) element of the whole document, so an index gives it only when nothing bounds that
 * field or another below the same array; the first entry of each document then is the one that
 * counts. */
#include "libcommon/bson/compare.h"
#include "veddb-storaged/plan/plan.h"
#include "veddb-storaged/query/collation.h"

static bool is_multikey(const stor_plan_index_t *index, uint32_t field)
{
    return (index->multikey >> field & 1) != 0;
}

/* The sort key is the same in every document that the bounds let through. */
static bool is_constant(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                        vd_slice_t path)
{
    for (uint32_t i = 0; i < index->def->field_count; i++)
        if (vd_slice_equal(index->def->fields[i].path, path) &&
            index->def->fields[i].order != STOR_INDEX_HASHED && !is_multikey(index, i) &&
            bounds->fields[i].count == 1 && bounds->fields[i].exact &&
            stor_interval_is_point(&bounds->fields[i].items[0]))
            return true;
    return false;
}

static bool array_order_holds(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                              uint32_t field)
{
    const stor_index_def_t *def = index->def;
    if (!is_multikey(index, field))
        return true;
    if (!stor_intervals_are_all(&bounds->fields[field]) ||
        stor_path_has_position(def->fields[field].path))
        return false;
    for (uint32_t i = 0; i < def->field_count; i++)
        if (i != field && is_multikey(index, i) &&
            stor_path_common_parts(def->fields[i].path, def->fields[field].path) > 0)
            return false;
    return true;
}

int stor_plan_order(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                    const stor_sort_t *sort, uint32_t *ret_explode)
{
    const stor_index_def_t *def = index->def;
    uint32_t field = 0, key = 0;
    int direction = 0;
    bool ranged = false; /* a field before was not walked by points */
    *ret_explode = 0;
    if (def->has_wildcard || !stor_collation_same(def->collation, vd_collation_get()))
        return 0;
    while (key < sort->count) {
        if (is_constant(index, bounds, sort->paths[key].text)) {
            key++;
            continue;
        }
        if (field == def->field_count)
            return 0;
        const stor_index_field_t *at = &def->fields[field];
        if (at->order != STOR_INDEX_HASHED && vd_slice_equal(at->path, sort->paths[key].text)) {
            int here =
                at->order == STOR_INDEX_DESCENDING ? -sort->directions[key] : sort->directions[key];
            if ((direction != 0 && direction != here) || !array_order_holds(index, bounds, field))
                return 0;
            direction = here;
            key++;
        } else if (!stor_intervals_are_points(&bounds->fields[field])) {
            return 0;
        } else if (bounds->fields[field].count > 1) {
            if (ranged)
                return 0;
            *ret_explode = field + 1;
        }
        ranged |= !stor_intervals_are_points(&bounds->fields[field]);
        field++;
    }
    return direction == 0 ? 1 : direction;
}
