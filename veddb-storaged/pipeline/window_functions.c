/* veddb-storaged/pipeline/window_functions.c — the functions of $setWindowFields, run over a
 * partition document by document.
 *
 * Windows only move forward, so most functions keep what is inside and add and take what the move
 * asks for. What can't be taken out of ($push, $topN ...) is built anew, unless the window only
 * grows. */
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/pipeline/window.h"
#include "veddb-storaged/pipeline/window_sums.h"
#include "veddb-storaged/query/date.h"

#include <math.h>

/* A value in memory of its own. */
typedef struct {
    vd_value_t value;
    uint8_t *memory;
    size_t cap;
} kept_t;

/* A candidate of $min or $max: nothing behind it in the window is better. */
typedef struct {
    uint64_t position;
    kept_t kept;
} candidate_t;

struct stor_function_state {
    const stor_function_t *f;
    stor_partition_t *p;
    bool filled;
    uint64_t lo, hi; /* what is inside, when filled */
    uint64_t hint_lo, hint_hi;
    union {
        stor_moving_sum_t sum; /* also of INTEGRAL */
        stor_moving_spread_t spread;
        stor_moving_covariance_t covariance;
    } in;
    uint64_t nan; /* INTEGRAL */
    vd_arena_t *arena;
    stor_accumulator_state_t *accumulator;
    size_t held;
    candidate_t *candidates; /* a ring */
    uint32_t candidate_first, candidate_count, candidate_cap;
    vd_decimal_t average; /* EXP_MOVING_AVG */
    bool has_average, decimal;
    kept_t first; /* FIRST, LOCF: the value; RANK: the sort key before */
    bool has_first;
    int64_t rank, same;
    kept_t x1, y1, x2, y2, x; /* LINEAR_FILL: points, and the sort value before */
    bool has_1, has_2, has_x, no_more;
};

static void keep(kept_t *kept, vd_value_t v)
{
    if (v.len > kept->cap || kept->memory == NULL) {
        vd_free(kept->memory);
        kept->cap = v.len < 16 ? 16 : v.len;
        kept->memory = vd_xalloc(kept->cap);
    }
    if (v.len > 0)
        memcpy(kept->memory, v.data, v.len);
    kept->value = (vd_value_t){kept->memory, v.len, v.type};
}

stor_function_state_t *stor_function_open(const stor_function_t *function,
                                          stor_partition_t *partition)
{
    stor_function_state_t *s = vd_xalloc(sizeof *s);
    s->f = function;
    s->p = partition;
    stor_function_reset(s);
    return s;
}

void stor_function_close(stor_function_state_t **state_p)
{
    stor_function_state_t *s = *state_p;
    if (s == NULL)
        return;
    kept_t *const all[] = {&s->first, &s->x1, &s->y1, &s->x2, &s->y2, &s->x};
    for (size_t i = 0; i < VD_COUNT_OF(all); i++)
        vd_free(all[i]->memory);
    for (uint32_t i = 0; i < s->candidate_cap; i++)
        vd_free(s->candidates[i].kept.memory);
    vd_free(s->candidates);
    stor_work_release(s->p->work, &s->held);
    vd_arena_destroy(&s->arena);
    vd_free(s);
    *state_p = NULL;
}

/* Nothing is inside. */
static void empty(stor_function_state_t *s)
{
    s->filled = false;
    memset(&s->in, 0, sizeof s->in);
    s->nan = 0;
    s->candidate_first = s->candidate_count = 0;
    if (s->f->kind == STOR_FUNCTION_ACCUMULATOR) {
        if (s->arena == NULL)
            s->arena = vd_arena_create();
        vd_arena_reset(s->arena);
        s->accumulator = stor_accumulator_begin(s->f->accumulator, s->arena);
    }
}

void stor_function_reset(stor_function_state_t *s)
{
    empty(s);
    s->hint_lo = s->hint_hi = 0;
    s->has_average = s->decimal = s->has_first = false;
    s->rank = 0;
    s->same = 1;
    s->has_1 = s->has_2 = s->has_x = s->no_more = false;
}

/* ---- documents ---- */

static int document_at(stor_function_state_t *s, uint64_t position, vd_error_t *err)
{
    vd_bson_t document;
    int rc = s->p->at(s->p->context, position, &document, err);
    if (rc == VD_OK)
        stor_expr_env_document(s->p->env, document);
    return rc;
}

/* The input's value; valid until the next document. */
static int input_at(stor_function_state_t *s, uint64_t position, vd_value_t *ret, vd_error_t *err)
{
    int rc = document_at(s, position, err);
    return rc == VD_OK ? stor_expr_eval(s->f->input, s->p->env, ret, err) : rc;
}

static int sort_value_at(stor_function_state_t *s, uint64_t position, vd_value_t *ret,
                         vd_error_t *err)
{
    int rc = document_at(s, position, err);
    return rc == VD_OK ? stor_expr_eval(s->p->sort_by, s->p->env, ret, err) : rc;
}

static int ready(stor_function_state_t *s, stor_request_t *request, uint64_t position,
                 uint64_t *ret_count, vd_error_t *err)
{
    return s->p->pull(s->p->context, request, position, ret_count, err);
}

/* ---- where the window lies ---- */

static int documents_window(stor_function_state_t *s, stor_request_t *request, bool *ret_any,
                            uint64_t *ret_lo, uint64_t *ret_hi, vd_error_t *err)
{
    const stor_window_t *w = &s->f->window;
    int64_t current = (int64_t)s->p->current, lo = 0, hi = INT64_MAX;
    uint64_t count;
    if (w->lower.kind != STOR_BOUND_UNBOUNDED)
        lo = current + (w->lower.kind == STOR_BOUND_VALUE ? w->lower.offset : 0);
    if (w->upper.kind != STOR_BOUND_UNBOUNDED)
        hi = current + (w->upper.kind == STOR_BOUND_VALUE ? w->upper.offset : 0);
    int rc = ready(s, request, (uint64_t)(hi < current ? current : hi), &count, err);
    if (rc != VD_OK)
        return rc;
    int64_t last = (int64_t)count - 1;
    *ret_any = lo <= last && hi >= 0;
    *ret_lo = (uint64_t)(lo < 0 ? 0 : lo);
    *ret_hi = (uint64_t)(hi > last ? last : hi);
    return VD_OK;
}

static bool of_range(const stor_window_t *w, vd_value_t v)
{
    return w->unit >= 0 ? v.type == VD_BSON_DATE : vd_value_is_number(v);
}

static int check_base(const stor_window_t *w, vd_value_t base, vd_error_t *err)
{
    if (w->unit >= 0 && base.type != VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_LOCATION(5429513),
                            "Invalid range: Expected the sortBy field to be a Date, but it was %s",
                            vd_bson_type_name(base.type));
    if (w->unit < 0 && base.type == VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_LOCATION(5429413),
                            "Invalid range: For windows that involve date or time ranges, a unit "
                            "must be provided.");
    if (w->unit < 0 && !vd_value_is_number(base))
        return vd_error_set(err, VD_ERR_LOCATION(5429414),
                            "Invalid range: Expected the sortBy field to be a number, but it was "
                            "%s",
                            vd_bson_type_name(base.type));
    return VD_OK;
}

static int threshold(stor_function_state_t *s, vd_value_t base, const stor_bound_t *bound,
                     vd_value_t *ret, vd_error_t *err)
{
    vd_arena_t *arena = s->p->scratch;
    int64_t ms, a, b;
    if (s->f->window.unit >= 0) {
        if (!stor_date_unit_add(s->f->window.unit, vd_value_int64(base), bound->offset, &ms))
            return vd_error_set(err, VD_ERR_LOCATION(5166406), "a bound of the range overflows");
        *ret = vd_value_from_date(arena, ms);
    } else if ((base.type == VD_BSON_INT32 || base.type == VD_BSON_INT64) &&
               vd_value_as_int64(base, &a) && vd_value_as_int64(bound->value, &b) &&
               !__builtin_add_overflow(a, b, &a)) {
        *ret = vd_value_from_int64(arena, a);
    } else {
        *ret = vd_value_from_decimal(
            arena, vd_decimal_add(vd_value_as_decimal(base), vd_value_as_decimal(bound->value)));
    }
    return VD_OK;
}

/* From `position` on, the first document whose sort value is not below (or, beyond: is above) the
 * limit. *ret_v MISSING: the partition has ended. limit MISSING: the first of the range's type
 * (beyond: not of it). */
static int search(stor_function_state_t *s, stor_request_t *request, uint64_t *position,
                  vd_value_t limit, bool beyond, vd_value_t *ret_v, vd_error_t *err)
{
    const stor_window_t *w = &s->f->window;
    vd_arena_mark_t mark = vd_arena_mark(s->p->scratch);
    for (;; ++*position) {
        uint64_t count;
        int rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = ready(s, request, *position, &count, err);
        if (rc != VD_OK)
            return rc;
        *ret_v = VD_VALUE_MISSING;
        if (*position >= count)
            return VD_OK;
        vd_arena_rewind(s->p->scratch, mark);
        rc = sort_value_at(s, *position, ret_v, err);
        if (rc != VD_OK)
            return rc;
        bool found;
        if (vd_value_is_missing(limit))
            found = of_range(w, *ret_v) != beyond;
        else
            found =
                beyond ? vd_value_compare(*ret_v, limit) > 0 : vd_value_compare(*ret_v, limit) >= 0;
        if (vd_value_is_missing(*ret_v))
            *ret_v = vd_value_from_null();
        if (found)
            return VD_OK;
    }
}

static int range_window(stor_function_state_t *s, stor_request_t *request, bool *ret_any,
                        uint64_t *ret_lo, uint64_t *ret_hi, vd_error_t *err)
{
    const stor_window_t *w = &s->f->window;
    vd_value_t base, limit = VD_VALUE_MISSING, v;
    *ret_any = false;
    int rc = sort_value_at(s, s->p->current, &base, err);
    if (rc == VD_OK)
        rc = check_base(w, base, err);
    if (rc != VD_OK)
        return rc;
    base = vd_value_copy(s->p->scratch, base);
    if (w->lower.kind == STOR_BOUND_CURRENT) {
        s->hint_lo = s->p->current;
    } else {
        if (w->lower.kind == STOR_BOUND_VALUE)
            rc = threshold(s, base, &w->lower, &limit, err);
        if (rc == VD_OK)
            rc = search(s, request, &s->hint_lo, limit, false, &v, err);
        if (rc != VD_OK || !of_range(w, v))
            return rc;
    }
    *ret_lo = s->hint_lo;
    if (w->upper.kind == STOR_BOUND_CURRENT) {
        *ret_hi = s->p->current;
        *ret_any = *ret_lo <= *ret_hi;
        return VD_OK;
    }
    limit = VD_VALUE_MISSING;
    if (s->hint_hi < s->hint_lo)
        s->hint_hi = s->hint_lo;
    uint64_t from = s->hint_hi;
    if (w->upper.kind == STOR_BOUND_VALUE)
        rc = threshold(s, base, &w->upper, &limit, err);
    if (rc == VD_OK)
        rc = search(s, request, &s->hint_hi, limit, true, &v, err);
    if (rc != VD_OK)
        return rc;
    if (s->hint_hi == 0 || s->hint_hi - 1 < *ret_lo)
        return VD_OK;
    *ret_hi = s->hint_hi - 1;
    *ret_any = true;
    /* The next search starts at the last one inside: it stays inside. */
    if (s->hint_hi > from)
        s->hint_hi--;
    return VD_OK;
}

static int window_of(stor_function_state_t *s, stor_request_t *request, bool *ret_any,
                     uint64_t *ret_lo, uint64_t *ret_hi, vd_error_t *err)
{
    return s->f->window.range ? range_window(s, request, ret_any, ret_lo, ret_hi, err)
                              : documents_window(s, request, ret_any, ret_lo, ret_hi, err);
}

/* ---- $min, $max ---- */

static candidate_t *candidate(stor_function_state_t *s, uint32_t i)
{
    return &s->candidates[(s->candidate_first + i) % s->candidate_cap];
}

static void candidate_add(stor_function_state_t *s, uint64_t position, vd_value_t v)
{
    if (vd_value_is_nullish(v))
        return;
    int sign = s->f->kind == STOR_FUNCTION_MIN ? 1 : -1;
    while (s->candidate_count > 0 &&
           sign * vd_value_compare(v, candidate(s, s->candidate_count - 1)->kept.value) < 0)
        s->candidate_count--;
    if (s->candidate_count == s->candidate_cap) {
        uint32_t cap = s->candidate_cap == 0 ? 16 : s->candidate_cap * 2;
        candidate_t *larger = vd_xalloc(cap * sizeof *larger);
        for (uint32_t i = 0; i < s->candidate_count; i++)
            larger[i] = *candidate(s, i);
        vd_free(s->candidates);
        s->candidates = larger;
        s->candidate_cap = cap;
        s->candidate_first = 0;
    }
    candidate_t *last = candidate(s, s->candidate_count++);
    last->position = position;
    keep(&last->kept, v);
}

/* ---- $integral ---- */

static int point_at(stor_function_state_t *s, uint64_t position, vd_value_t ret[2], vd_error_t *err)
{
    int rc = sort_value_at(s, position, &ret[0], err);
    if (rc == VD_OK)
        rc = stor_expr_eval(s->f->input, s->p->env, &ret[1], err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_number(ret[1]) || (!vd_value_is_number(ret[0]) && ret[0].type != VD_BSON_DATE))
        return vd_error_set(err, VD_ERR_LOCATION(5423900),
                            "The input value of $integral window function must be a vector of 2 "
                            "value, the first value must be numeric or date type and the second "
                            "must be numeric.");
    if (s->f->unit_ms != 0 && ret[0].type != VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_LOCATION(5423901),
                            "$integral with 'unit' expects the sortBy field to be a Date");
    if (s->f->unit_ms == 0 && ret[0].type == VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_LOCATION(5423902),
                            "$integral (with no 'unit') expects the sortBy field to be numeric");
    for (int i = 0; i < 2; i++)
        ret[i] = vd_value_copy(s->p->scratch, ret[i]);
    return VD_OK;
}

static bool is_nan(vd_value_t v)
{
    return vd_value_is_number(v) && isnan(vd_value_as_double(v));
}

/* The area between two neighbours. */
static int area(stor_function_state_t *s, const vd_value_t a[2], const vd_value_t b[2],
                vd_value_t *ret, vd_error_t *err)
{
    vd_arena_t *arena = s->p->scratch;
    vd_value_t width, height;
    *ret = vd_value_from_int32(arena, 0);
    if (is_nan(a[0]) || is_nan(a[1]) || is_nan(b[0]) || is_nan(b[1]))
        return VD_OK;
    if ((a[0].type == VD_BSON_DATE) != (b[0].type == VD_BSON_DATE))
        return VD_OK;
    int rc = stor_calc_run(s->p->calc, arena, STOR_CALC_SUB, b[0], a[0], &width, err);
    if (rc == VD_OK)
        rc = stor_calc_run(s->p->calc, arena, STOR_CALC_ADD, b[1], a[1], &height, err);
    if (rc == VD_OK)
        rc = stor_calc_run(s->p->calc, arena, STOR_CALC_MUL, height, width, ret, err);
    if (rc == VD_OK)
        rc = stor_calc_run(s->p->calc, arena, STOR_CALC_DIV, *ret, vd_value_from_double(arena, 2),
                           ret, err);
    return rc;
}

static int integral_move(stor_function_state_t *s, uint64_t position, bool take, vd_error_t *err)
{
    vd_value_t point[2], other[2], part;
    int rc = point_at(s, position, point, err);
    if (rc != VD_OK)
        return rc;
    if (is_nan(point[0]) || is_nan(point[1]))
        s->nan += take ? UINT64_MAX : 1;
    bool neighbour = take ? position < s->hi : s->filled;
    if (!neighbour)
        return VD_OK;
    rc = point_at(s, take ? position + 1 : position - 1, other, err);
    if (rc == VD_OK)
        rc = take ? area(s, point, other, &part, err) : area(s, other, point, &part, err);
    if (rc == VD_OK && take)
        stor_moving_sum_take(&s->in.sum, part);
    else if (rc == VD_OK)
        stor_moving_sum_add(&s->in.sum, part);
    return rc;
}

/* ---- moving ---- */

static int move_one(stor_function_state_t *s, stor_request_t *request, uint64_t position, bool take,
                    vd_error_t *err)
{
    vd_value_t v = VD_VALUE_MISSING;
    int rc = stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (s->f->kind == STOR_FUNCTION_INTEGRAL)
        return integral_move(s, position, take, err);
    if (s->f->kind == STOR_FUNCTION_ACCUMULATOR) {
        rc = document_at(s, position, err);
        if (rc == VD_OK)
            rc = stor_accumulator_add(s->accumulator, s->p->env, err);
        if (rc == VD_OK)
            rc = stor_work_pin(s->p->work, &s->held, vd_arena_used(s->arena), s->f->name, err);
        return rc;
    }
    if (take && (s->f->kind == STOR_FUNCTION_MIN || s->f->kind == STOR_FUNCTION_MAX)) {
        while (s->candidate_count > 0 && candidate(s, 0)->position <= position) {
            s->candidate_first = (s->candidate_first + 1) % s->candidate_cap;
            s->candidate_count--;
        }
        return VD_OK;
    }
    rc = input_at(s, position, &v, err);
    if (rc != VD_OK)
        return rc;
    switch (s->f->kind) {
    case STOR_FUNCTION_SUM:
    case STOR_FUNCTION_AVG:
        if (take)
            stor_moving_sum_take(&s->in.sum, v);
        else
            stor_moving_sum_add(&s->in.sum, v);
        return VD_OK;
    case STOR_FUNCTION_STD_POP:
    case STOR_FUNCTION_STD_SAMP:
        stor_moving_spread_add(&s->in.spread, v, take);
        return VD_OK;
    case STOR_FUNCTION_COVARIANCE_POP:
    case STOR_FUNCTION_COVARIANCE_SAMP:
        stor_moving_covariance_add(&s->in.covariance, v, take);
        return VD_OK;
    default:
        candidate_add(s, position, v);
        return stor_work_pin(s->p->work, &s->held, s->candidate_cap * (sizeof(candidate_t) + 32),
                             s->f->name, err);
    }
}

static int move(stor_function_state_t *s, stor_request_t *request, bool any, uint64_t lo,
                uint64_t hi, vd_error_t *err)
{
    if (!any) {
        if (s->filled)
            empty(s);
        return VD_OK;
    }
    bool anew = s->filled && (lo < s->lo || lo > s->hi || hi < s->hi ||
                              (lo > s->lo && s->f->kind == STOR_FUNCTION_ACCUMULATOR));
    if (anew)
        empty(s);
    vd_arena_mark_t mark = vd_arena_mark(s->p->scratch);
    int rc = VD_OK;
    while (rc == VD_OK && s->filled && s->lo < lo) {
        rc = move_one(s, request, s->lo++, true, err);
        vd_arena_rewind(s->p->scratch, mark);
    }
    for (uint64_t i = s->filled ? s->hi + 1 : lo; rc == VD_OK && i <= hi; i++) {
        rc = move_one(s, request, i, false, err);
        vd_arena_rewind(s->p->scratch, mark);
        if (!s->filled)
            s->lo = lo;
        s->filled = true;
        s->hi = i;
    }
    return rc;
}

/* ---- values ---- */

static int integral_value(stor_function_state_t *s, vd_value_t *ret, vd_error_t *err)
{
    vd_arena_t *arena = s->p->scratch;
    if (!s->filled) {
        *ret = vd_value_from_null();
        return VD_OK;
    }
    if (s->nan > 0) {
        *ret = vd_value_from_double(arena, (double)NAN);
        return VD_OK;
    }
    *ret = stor_moving_sum_value(&s->in.sum, arena);
    if (s->f->unit_ms == 0)
        return VD_OK;
    return stor_calc_run(s->p->calc, arena, STOR_CALC_DIV, *ret,
                         vd_value_from_int64(arena, s->f->unit_ms), ret, err);
}

static int moved_value(stor_function_state_t *s, vd_value_t *ret, vd_error_t *err)
{
    vd_arena_t *arena = s->p->scratch;
    switch (s->f->kind) {
    case STOR_FUNCTION_SUM:
        *ret = stor_moving_sum_value(&s->in.sum, arena);
        return VD_OK;
    case STOR_FUNCTION_AVG:
        *ret = stor_moving_sum_average(&s->in.sum, arena);
        return VD_OK;
    case STOR_FUNCTION_STD_POP:
    case STOR_FUNCTION_STD_SAMP:
        *ret = stor_moving_spread_value(&s->in.spread, s->f->kind == STOR_FUNCTION_STD_SAMP, arena);
        return VD_OK;
    case STOR_FUNCTION_COVARIANCE_POP:
    case STOR_FUNCTION_COVARIANCE_SAMP:
        *ret = stor_moving_covariance_value(&s->in.covariance,
                                            s->f->kind == STOR_FUNCTION_COVARIANCE_SAMP, arena);
        return VD_OK;
    case STOR_FUNCTION_MIN:
    case STOR_FUNCTION_MAX:
        *ret = s->candidate_count == 0 ? vd_value_from_null()
                                       : vd_value_copy(arena, candidate(s, 0)->kept.value);
        return VD_OK;
    case STOR_FUNCTION_INTEGRAL:
        return integral_value(s, ret, err);
    default:
        return stor_accumulator_finish(s->accumulator, arena, ret, err);
    }
}

static int derivative(stor_function_state_t *s, uint64_t lo, uint64_t hi, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_arena_t *arena = s->p->scratch;
    vd_value_t ends[2][2], run, rise;
    int rc = VD_OK;
    for (int i = 0; rc == VD_OK && i < 2; i++) {
        rc = sort_value_at(s, i == 0 ? lo : hi, &ends[i][0], err);
        if (rc == VD_OK)
            rc = stor_expr_eval(s->f->input, s->p->env, &ends[i][1], err);
        for (int k = 0; rc == VD_OK && k < 2; k++)
            ends[i][k] = vd_value_copy(arena, ends[i][k]);
    }
    if (rc != VD_OK)
        return rc;
    bool dates[2] = {ends[0][0].type == VD_BSON_DATE, ends[1][0].type == VD_BSON_DATE};
    if (s->f->unit_ms != 0 && !(dates[0] && dates[1]))
        return vd_error_set(err, VD_ERR_LOCATION(5624900),
                            "$derivative with 'unit' expects the sortBy field to be a Date");
    if (s->f->unit_ms == 0 && (dates[0] || dates[1]))
        return vd_error_set(err, VD_ERR_LOCATION(5624901),
                            "$derivative where the sortBy is a Date requires an 'unit'");
    if (s->f->unit_ms == 0 && !(vd_value_is_number(ends[0][0]) && vd_value_is_number(ends[1][0])))
        return vd_error_set(err, VD_ERR_LOCATION(5624902),
                            "$derivative (with no 'unit') expects the sortBy field to be numeric");
    rc = stor_calc_run(s->p->calc, arena, STOR_CALC_SUB, ends[1][0], ends[0][0], &run, err);
    if (rc == VD_OK)
        rc = stor_calc_run(s->p->calc, arena, STOR_CALC_SUB, ends[1][1], ends[0][1], &rise, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(rise))
        return vd_error_set(err, VD_ERR_LOCATION(5624903),
                            "$derivative input must not be null or missing");
    *ret = vd_value_from_null();
    if (vd_value_is_number(run) && vd_value_as_double(run) == 0)
        return VD_OK; /* the first of a partition, for example */
    rc = stor_calc_run(s->p->calc, arena, STOR_CALC_DIV, rise, run, ret, err);
    if (rc == VD_OK && s->f->unit_ms != 0)
        rc = stor_calc_run(s->p->calc, arena, STOR_CALC_MUL, *ret,
                           vd_value_from_int64(arena, s->f->unit_ms), ret, err);
    return rc;
}

/* The first of a window that begins at the partition's start stays the same: it is kept. */
static int edge(stor_function_state_t *s, uint64_t position, vd_value_t *ret, vd_error_t *err)
{
    bool fixed = s->f->kind == STOR_FUNCTION_FIRST && position == 0;
    int rc = VD_OK;
    if (!fixed || !s->has_first)
        rc = input_at(s, position, ret, err);
    if (rc == VD_OK && fixed && !s->has_first) {
        keep(&s->first, *ret);
        s->has_first = true;
    }
    if (rc == VD_OK)
        *ret = vd_value_copy(s->p->scratch, fixed ? s->first.value : *ret);
    if (rc == VD_OK && vd_value_is_missing(*ret))
        *ret = vd_value_from_null();
    return rc;
}

static int windowed(stor_function_state_t *s, stor_request_t *request, vd_value_t *ret,
                    vd_error_t *err)
{
    bool any;
    uint64_t lo = 0, hi = 0;
    int rc = window_of(s, request, &any, &lo, &hi, err);
    if (rc != VD_OK)
        return rc;
    *ret = vd_value_from_null();
    switch (s->f->kind) {
    case STOR_FUNCTION_COUNT:
        *ret = vd_value_from_int64(s->p->scratch, any ? (int64_t)(hi - lo + 1) : 0);
        if (hi - lo < INT32_MAX || !any)
            *ret = vd_value_from_int32(s->p->scratch, any ? (int32_t)(hi - lo + 1) : 0);
        s->filled = any;
        s->lo = lo, s->hi = hi;
        return VD_OK;
    case STOR_FUNCTION_FIRST:
    case STOR_FUNCTION_LAST:
    case STOR_FUNCTION_DERIVATIVE:
        s->filled = any;
        s->lo = lo, s->hi = hi;
        if (!any)
            return VD_OK;
        return s->f->kind == STOR_FUNCTION_DERIVATIVE
                   ? derivative(s, lo, hi, ret, err)
                   : edge(s, s->f->kind == STOR_FUNCTION_FIRST ? lo : hi, ret, err);
    default:
        rc = move(s, request, any, lo, hi, err);
        return rc == VD_OK ? moved_value(s, ret, err) : rc;
    }
}

static uint64_t windowed_needs(const stor_function_state_t *s)
{
    const stor_window_t *w = &s->f->window;
    uint64_t current = s->p->current, needed = current + 1;
    if (s->f->kind == STOR_FUNCTION_COUNT && !w->range)
        return needed;
    if (w->lower.kind == STOR_BOUND_UNBOUNDED) {
        if (s->f->kind == STOR_FUNCTION_DERIVATIVE)
            return w->range ? s->hint_lo : 0;
        if (s->f->kind == STOR_FUNCTION_FIRST && !s->has_first)
            return s->hint_lo;
        if (s->filled && s->hi + 1 < needed)
            needed = s->hi + (s->f->kind != STOR_FUNCTION_INTEGRAL);
        else if (s->filled && s->f->kind == STOR_FUNCTION_INTEGRAL && s->hi < needed)
            needed = s->hi;
        else if (!s->filled)
            needed = 0;
    } else {
        if (s->filled && s->lo < needed)
            needed = s->lo;
        if (!w->range && w->lower.kind == STOR_BOUND_VALUE && w->lower.offset < 0) {
            uint64_t back = (uint64_t)-w->lower.offset;
            uint64_t first = current + 1 > back ? current + 1 - back : 0;
            needed = first < needed ? first : needed;
        }
    }
    if (w->range && s->hint_lo < needed)
        needed = s->hint_lo;
    if (w->range && w->upper.kind != STOR_BOUND_CURRENT && s->hint_hi < needed)
        needed = s->hint_hi;
    return needed;
}

/* ---- without a window ---- */

static int shift(stor_function_state_t *s, stor_request_t *request, vd_value_t *ret,
                 uint64_t *ret_needed, vd_error_t *err)
{
    int64_t position = (int64_t)s->p->current + s->f->by;
    uint64_t count = 0;
    int rc = position < 0 ? VD_OK : ready(s, request, (uint64_t)position, &count, err);
    *ret = s->f->fallback;
    if (rc == VD_OK && position >= 0 && (uint64_t)position < count) {
        rc = input_at(s, (uint64_t)position, ret, err);
        if (rc == VD_OK)
            *ret = vd_value_copy(s->p->scratch, *ret);
        if (rc == VD_OK && vd_value_is_missing(*ret))
            *ret = vd_value_from_null();
    }
    if (s->f->by < 0)
        *ret_needed = position + 1 < 0 ? 0 : (uint64_t)(position + 1);
    return rc;
}

static int moving_average(stor_function_state_t *s, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v;
    int rc = input_at(s, s->p->current, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_number(v)) {
        vd_decimal_t d = vd_value_as_decimal(v);
        s->decimal |= v.type == VD_BSON_DECIMAL128;
        if (s->has_average) {
            vd_decimal_t rest = vd_decimal_sub(vd_decimal_from_int64(1), s->f->alpha);
            d = vd_decimal_add(vd_decimal_mul(d, s->f->alpha), vd_decimal_mul(s->average, rest));
        }
        s->average = d;
        s->has_average = true;
    }
    if (!s->has_average)
        *ret = vd_value_from_null();
    else if (s->decimal)
        *ret = vd_value_from_decimal(s->p->scratch, s->average);
    else
        *ret = vd_value_from_double(s->p->scratch, vd_decimal_to_double(s->average));
    return VD_OK;
}

static int carry(stor_function_state_t *s, vd_value_t *ret, vd_error_t *err)
{
    int rc = input_at(s, s->p->current, ret, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_nullish(*ret)) {
        keep(&s->first, *ret);
        s->has_first = true;
    }
    *ret = s->has_first ? vd_value_copy(s->p->scratch, s->first.value) : vd_value_from_null();
    return VD_OK;
}

static int rank(stor_function_state_t *s, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t keys[STOR_SORT_KEYS_MAX];
    int rc = document_at(s, s->p->current, err);
    if (rc == VD_OK)
        rc = stor_sort_key(s->p->sort, s->p->scratch, s->p->env->root, keys, err);
    if (rc != VD_OK)
        return rc;
    bool fresh = !s->has_first || vd_value_compare(keys[0], s->first.value) != 0;
    if (s->f->kind == STOR_FUNCTION_DOCUMENT_NUMBER) {
        s->rank++;
    } else if (s->f->kind == STOR_FUNCTION_DENSE_RANK) {
        s->rank += fresh;
    } else if (fresh) {
        s->rank += s->same;
        s->same = 1;
    } else {
        s->same++;
    }
    if (fresh)
        keep(&s->first, keys[0]);
    s->has_first = true;
    *ret = s->rank > INT32_MAX ? vd_value_from_int64(s->p->scratch, s->rank)
                               : vd_value_from_int32(s->p->scratch, (int32_t)s->rank);
    return VD_OK;
}

/* ---- $linearFill ---- */

static bool dateable(vd_value_t v)
{
    return v.type == VD_BSON_DATE || v.type == VD_BSON_TIMESTAMP || v.type == VD_BSON_OBJECTID;
}

static int check_fill(stor_function_state_t *s, vd_value_t x, vd_value_t y, vd_error_t *err)
{
    if (!vd_value_is_number(y) && !vd_value_is_nullish(y))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "Value to be filled must be numeric or nullish, but found %s",
                            vd_bson_type_name(y.type));
    if (!vd_value_is_number(x) && !dateable(x))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "Value of the sortBy field must be numeric or a date, but found %s",
                            vd_bson_type_name(x.type));
    if (s->has_x && vd_value_compare(x, s->x.value) == 0)
        return vd_error_set(err, VD_ERR_LOCATION(6050106),
                            "There can be no repeated values in the sort field");
    if (s->has_x && vd_value_is_number(x) != vd_value_is_number(s->x.value))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "Conflicting sort value types, previously received type %s, but found "
                            "%s",
                            vd_bson_type_name(s->x.value.type), vd_bson_type_name(x.type));
    keep(&s->x, x);
    s->has_x = true;
    return VD_OK;
}

/* The next document that has both. */
static int find_second(stor_function_state_t *s, stor_request_t *request, vd_error_t *err)
{
    vd_arena_mark_t mark = vd_arena_mark(s->p->scratch);
    for (uint64_t i = s->p->current + 1;; i++) {
        uint64_t count;
        vd_value_t x, y;
        vd_arena_rewind(s->p->scratch, mark);
        int rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = ready(s, request, i, &count, err);
        if (rc != VD_OK)
            return rc;
        if (i >= count) {
            s->no_more = true;
            return VD_OK;
        }
        rc = input_at(s, i, &y, err);
        if (rc == VD_OK)
            rc = stor_expr_eval(s->p->sort_by, s->p->env, &x, err);
        if (rc != VD_OK)
            return rc;
        if (vd_value_is_nullish(x) || vd_value_is_nullish(y))
            continue;
        keep(&s->x2, x);
        keep(&s->y2, y);
        s->has_2 = true;
        return VD_OK;
    }
}

static int interpolate(stor_function_state_t *s, vd_value_t x, vd_value_t *ret, vd_error_t *err)
{
    vd_arena_t *arena = s->p->scratch;
    stor_calc_t *calc = s->p->calc;
    vd_value_t dx, dy, width;
    int rc = stor_calc_run(calc, arena, STOR_CALC_SUB, s->x2.value, s->x1.value, &width, err);
    if (rc == VD_OK)
        rc = stor_calc_run(calc, arena, STOR_CALC_SUB, s->y2.value, s->y1.value, &dy, err);
    if (rc == VD_OK)
        rc = stor_calc_run(calc, arena, STOR_CALC_DIV, dy, width, &dy, err);
    if (rc == VD_OK)
        rc = stor_calc_run(calc, arena, STOR_CALC_SUB, x, s->x1.value, &dx, err);
    if (rc == VD_OK)
        rc = stor_calc_run(calc, arena, STOR_CALC_MUL, dx, dy, &dy, err);
    if (rc == VD_OK)
        rc = stor_calc_run(calc, arena, STOR_CALC_ADD, s->y1.value, dy, ret, err);
    return rc;
}

static int linear_fill(stor_function_state_t *s, stor_request_t *request, vd_value_t *ret,
                       vd_error_t *err)
{
    vd_value_t x, y;
    int rc = input_at(s, s->p->current, &y, err);
    if (rc == VD_OK)
        rc = stor_expr_eval(s->p->sort_by, s->p->env, &x, err);
    if (rc == VD_OK)
        rc = check_fill(s, x, y, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_nullish(y)) {
        keep(&s->x1, x);
        keep(&s->y1, y);
        s->has_1 = true;
        s->has_2 = false;
        *ret = vd_value_copy(s->p->scratch, y);
        return VD_OK;
    }
    *ret = vd_value_from_null();
    if (!s->has_1)
        return VD_OK;
    x = vd_value_copy(s->p->scratch, x);
    if (!s->has_2 && !s->no_more)
        rc = find_second(s, request, err);
    return rc == VD_OK && s->has_2 ? interpolate(s, x, ret, err) : rc;
}

int stor_function_next(stor_function_state_t *s, stor_request_t *request, vd_value_t *ret_value,
                       uint64_t *ret_needed, vd_error_t *err)
{
    *ret_needed = s->p->current + 1;
    switch (s->f->kind) {
    case STOR_FUNCTION_SHIFT:
        return shift(s, request, ret_value, ret_needed, err);
    case STOR_FUNCTION_EXP_MOVING_AVG:
        return moving_average(s, ret_value, err);
    case STOR_FUNCTION_LINEAR_FILL:
        return linear_fill(s, request, ret_value, err);
    case STOR_FUNCTION_LOCF:
        return carry(s, ret_value, err);
    case STOR_FUNCTION_RANK:
    case STOR_FUNCTION_DENSE_RANK:
    case STOR_FUNCTION_DOCUMENT_NUMBER:
        return rank(s, ret_value, err);
    default: {
        int rc = windowed(s, request, ret_value, err);
        *ret_needed = windowed_needs(s);
        return rc;
    }
    }
}
