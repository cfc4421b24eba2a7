/* veddb-storaged/plan/bounds.c — see bounds.h. */
#include "veddb-storaged/plan/bounds.h"
#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/engine/keycode.h"
#include "veddb-storaged/timeseries.h"

#include <stdlib.h>

/* One side of what the filter says; wide open at first. */
typedef struct {
    vd_arena_t *arena;
    vd_slice_t path;
    bool found;
    stor_range_t whole; /* from comparisons */
    bool has_points;    /* from equalities and $in */
    uint32_t point_count;
    vd_slice_t *points;
} bounds_build_t;

static int key_of(vd_arena_t *arena, vd_value_t v, vd_slice_t *ret_key, bool *ret_exact,
                  vd_error_t *err)
{
    vd_buf_t buf;
    vd_buf_init(&buf, 4 * VD_KEYCODE_MAX_BYTES);
    int rc = stor_keycode_append(&buf, v, false, ret_exact, err);
    if (rc == VD_OK)
        *ret_key = vd_arena_copy_slice(arena, vd_buf_slice(&buf));
    vd_buf_done(&buf);
    return rc;
}

/* Null also finds what is missing or undefined; an array or regex is never an _id: no bound. */
static bool is_key_type(uint8_t type)
{
    return type != VD_BSON_NULL && type != VD_BSON_UNDEFINED && type != VD_BSON_ARRAY &&
           type != VD_BSON_REGEX && type != VD_BSON_MISSING;
}

static void low_raise(bounds_build_t *build, vd_slice_t key, bool exclusive)
{
    stor_range_t *whole = &build->whole;
    int c = vd_slice_compare(key, whole->low);
    if (whole->low.len == 0 || c > 0 || (c == 0 && exclusive)) {
        whole->low = key;
        whole->low_exclusive = exclusive;
    }
    build->found = true;
}

static void high_lower(bounds_build_t *build, vd_slice_t key, bool exclusive)
{
    stor_range_t *whole = &build->whole;
    int c = whole->high.len == 0 ? -1 : vd_slice_compare(key, whole->high);
    if (c < 0 || (c == 0 && exclusive)) {
        whole->high = key;
        whole->high_exclusive = exclusive;
    }
    build->found = true;
}

static int key_compare(const void *a, const void *b)
{
    return vd_slice_compare(*(const vd_slice_t *)a, *(const vd_slice_t *)b);
}

static void points_unique(bounds_build_t *build)
{
    qsort(build->points, build->point_count, sizeof *build->points, key_compare);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < build->point_count; i++)
        if (kept == 0 || !vd_slice_equal(build->points[kept - 1], build->points[i]))
            build->points[kept++] = build->points[i];
    build->point_count = kept;
}

/* A second set of points is left to the filter: the first alone is wide enough. */
static int points_take(bounds_build_t *build, const vd_value_t *values, uint32_t count,
                       vd_error_t *err)
{
    if (build->has_points || count > STOR_BOUNDS_RANGES_MAX)
        return VD_OK;
    for (uint32_t i = 0; i < count; i++)
        if (!is_key_type(values[i].type) || vd_collation_matters(values[i]))
            return VD_OK;
    vd_slice_t *points = VD_ARENA_ARRAY(build->arena, vd_slice_t, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        bool exact;
        int rc = key_of(build->arena, values[i], &points[i], &exact, err);
        if (rc != VD_OK)
            return rc;
    }
    build->points = points;
    build->point_count = count;
    build->has_points = build->found = true;
    points_unique(build);
    return VD_OK;
}

static int compare_take(bounds_build_t *build, const stor_filter_t *filter, vd_error_t *err)
{
    /* Only numbers, strings, ObjectIds, dates and the like, which compare within their own type by
     * key order. */
    static const uint8_t types[] = {VD_BSON_DOUBLE,     VD_BSON_INT32,    VD_BSON_INT64,
                                    VD_BSON_DECIMAL128, VD_BSON_STRING,   VD_BSON_OBJECTID,
                                    VD_BSON_DATE,       VD_BSON_TIMESTAMP};
    if (memchr(types, filter->value.type, sizeof types) == NULL ||
        vd_collation_matters(filter->value))
        return VD_OK;
    vd_slice_t key;
    bool exact;
    int rc = key_of(build->arena, filter->value, &key, &exact, err);
    if (rc != VD_OK || !exact)
        return rc; /* a cut key does not sort as its value does */
    switch (filter->kind) {
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
        low_raise(build, key, filter->kind == STOR_FILTER_GT);
        break;
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
        high_lower(build, key, filter->kind == STOR_FILTER_LT);
        break;
    default:
        VD_UNREACHABLE();
    }
    return VD_OK;
}

static int take(bounds_build_t *build, const stor_filter_t *filter, vd_error_t *err)
{
    int rc = VD_OK;
    if (filter->kind == STOR_FILTER_AND) {
        for (uint32_t i = 0; i < filter->child_count && rc == VD_OK; i++)
            rc = take(build, filter->children[i], err);
        return rc;
    }
    if (filter->kind == STOR_FILTER_FALSE) {
        build->has_points = build->found = true;
        build->point_count = 0;
        return VD_OK;
    }
    if (filter->path.count != 1 || !vd_slice_equal(filter->path.text, build->path))
        return VD_OK;
    switch (filter->kind) {
    case STOR_FILTER_EQ:
        return points_take(build, &filter->value, 1, err);
    case STOR_FILTER_IN:
        return filter->regex_count > 0 || filter->has_null
                   ? VD_OK
                   : points_take(build, filter->values, filter->value_count, err);
    case STOR_FILTER_GT:
    case STOR_FILTER_GTE:
    case STOR_FILTER_LT:
    case STOR_FILTER_LTE:
        return compare_take(build, filter, err);
    default:
        return VD_OK;
    }
}

static bool inside(const stor_range_t *whole, vd_slice_t key)
{
    int low = vd_slice_compare(key, whole->low);
    int high = whole->high.len == 0 ? -1 : vd_slice_compare(key, whole->high);
    return !(low < 0 || (low == 0 && whole->low_exclusive && whole->low.len > 0)) &&
           !(high > 0 || (high == 0 && whole->high_exclusive));
}

static void points_to_ranges(const bounds_build_t *build, stor_bounds_t *bounds)
{
    bounds->ranges = VD_ARENA_ARRAY(build->arena, stor_range_t, build->point_count + 1);
    bounds->all_points = true;
    for (uint32_t i = 0; i < build->point_count; i++)
        if (inside(&build->whole, build->points[i]))
            bounds->ranges[bounds->count++] =
                (stor_range_t){build->points[i], build->points[i], false, false, true};
}

static int path_bounds(vd_arena_t *arena, const stor_filter_t *filter, vd_slice_t path,
                       stor_bounds_t **ret_bounds, vd_error_t *err)
{
    bounds_build_t build = {.arena = arena, .path = path};
    int rc = take(&build, filter, err);
    if (rc != VD_OK)
        return rc;
    *ret_bounds = NULL;
    if (!build.found)
        return VD_OK;
    stor_bounds_t *bounds = VD_ARENA_NEW(arena, stor_bounds_t);
    if (build.has_points) {
        points_to_ranges(&build, bounds);
    } else {
        const stor_range_t *whole = &build.whole;
        int c = whole->high.len == 0 ? -1 : vd_slice_compare(whole->low, whole->high);
        bounds->ranges = VD_ARENA_NEW(arena, stor_range_t);
        bounds->ranges[0] = *whole;
        bounds->count =
            c > 0 || (c == 0 && (whole->low_exclusive || whole->high_exclusive)) ? 0 : 1;
        bounds->all_points = bounds->count == 0;
    }
    *ret_bounds = bounds;
    return VD_OK;
}

int stor_bounds_of_filter(vd_arena_t *arena, const stor_filter_t *filter,
                          stor_bounds_t **ret_bounds, vd_error_t *err)
{
    return path_bounds(arena, filter, VD_SLICE_LIT("_id"), ret_bounds, err);
}

/* ---- places by time ---- */

static int place_of(vd_arena_t *arena, int64_t time_ms, bool last, vd_slice_t *ret_key,
                    vd_error_t *err)
{
    uint8_t *place = vd_arena_alloc(arena, 12);
    bool exact;
    stor_timeseries_place(time_ms, last ? UINT32_MAX : 0, place);
    return key_of(arena, (vd_value_t){place, 12, VD_BSON_OBJECTID}, ret_key, &exact, err);
}

/* The date that a key stands for. *ret_side < 0: the key sorts before all dates, > 0 behind. */
static int date_of(vd_arena_t *arena, vd_slice_t key, int64_t *ret_ms, int *ret_side,
                   vd_error_t *err)
{
    vd_slice_t least, most, bits = VD_SLICE_NULL;
    vd_value_t date;
    bool exact;
    int rc = key_of(arena, vd_value_from_date(arena, INT64_MIN), &least, &exact, err);
    if (rc == VD_OK)
        rc = key_of(arena, vd_value_from_date(arena, INT64_MAX), &most, &exact, err);
    if (rc != VD_OK)
        return rc;
    *ret_side = vd_slice_compare(key, least) < 0 ? -1 : vd_slice_compare(key, most) > 0 ? 1 : 0;
    if (*ret_side != 0)
        return VD_OK;
    rc = stor_keycode_decode(arena, &key, &bits, false, &date, err);
    if (rc == VD_OK)
        *ret_ms = vd_value_int64(date);
    return rc;
}

/* *ret_some false: no date lies in the range. */
static int range_of_times(vd_arena_t *arena, stor_range_t *range, bool *ret_some, vd_error_t *err)
{
    stor_range_t times = {.low_exclusive = range->low_exclusive,
                          .high_exclusive = range->high_exclusive};
    int64_t ms = 0;
    int low_side = -1, high_side = 1;
    int rc = VD_OK;
    if (range->low.len > 0)
        rc = date_of(arena, range->low, &ms, &low_side, err);
    if (rc == VD_OK && low_side == 0)
        rc = place_of(arena, ms, range->low_exclusive, &times.low, err);
    if (rc == VD_OK && range->high.len > 0)
        rc = date_of(arena, range->high, &ms, &high_side, err);
    if (rc == VD_OK && high_side == 0)
        rc = place_of(arena, ms, !range->high_exclusive, &times.high, err);
    times.low_exclusive &= low_side == 0;
    times.high_exclusive &= high_side == 0;
    *ret_some = low_side <= 0 && high_side >= 0;
    *range = times;
    return rc;
}

int stor_bounds_of_times(vd_arena_t *arena, const stor_filter_t *filter, vd_slice_t path,
                         stor_bounds_t **ret_bounds, vd_error_t *err)
{
    int rc = path_bounds(arena, filter, path, ret_bounds, err);
    stor_bounds_t *bounds = *ret_bounds;
    if (rc != VD_OK || bounds == NULL)
        return rc;
    uint32_t kept = 0;
    for (uint32_t i = 0; rc == VD_OK && i < bounds->count; i++) {
        stor_range_t range = bounds->ranges[i];
        bool some;
        rc = range_of_times(arena, &range, &some, err);
        if (rc == VD_OK && some)
            bounds->ranges[kept++] = range;
    }
    bounds->count = kept;
    bounds->all_points = kept == 0;
    return rc;
}
