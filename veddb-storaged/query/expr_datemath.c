/* veddb-storaged/query/expr_datemath.c — $dateAdd, $dateSubtract, $dateDiff, $dateTrunc. Days and
 * longer units follow the zone's calendar, hours and shorter ones are plain durations. */
#include "veddb-storaged/query/date.h"
#include "veddb-storaged/query/expr_date_private.h"

typedef enum {
    UNIT_MS,
    UNIT_SECOND,
    UNIT_MINUTE,
    UNIT_HOUR,
    UNIT_DAY,
    UNIT_WEEK,
    UNIT_MONTH,
    UNIT_QUARTER,
    UNIT_YEAR
} unit_t;

static const struct {
    const char *name;
    int64_t size; /* milliseconds, days or months */
} units[] = {
    {"millisecond", 1}, {"second", 1000}, {"minute", 60000}, {"hour", 3600000}, {"day", 1},
    {"week", 7},        {"month", 1},     {"quarter", 3},    {"year", 12},
};

static bool unit_by_name(vd_slice_t name, unit_t *ret)
{
    for (size_t i = 0; i < VD_COUNT_OF(units); i++)
        if (vd_slice_is(name, units[i].name)) {
            *ret = (unit_t)i;
            return true;
        }
    return false;
}

/* $dateDiff and $dateTrunc name the fault; $dateAdd is plain FailedToParse. */
static int read_unit(const stor_expr_t *expr, vd_value_t v, unit_t *ret, vd_error_t *err)
{
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(5439013),
                            "%s requires 'unit' to be a string, but got %s", expr->op->name,
                            stor_expr_type(v));
    if (!unit_by_name(vd_value_string(v), ret))
        return vd_error_set(err, VD_ERR_LOCATION(5439014),
                            "%s parameter 'unit' value cannot be recognized as a time unit: %.*s",
                            expr->op->name, VD_SLICE_FMT(vd_value_string(v)));
    return VD_OK;
}

/* "mon", "Monday" ... -> 0 = Sunday */
static int read_week_day(const stor_expr_t *expr, vd_value_t v, int *ret, vd_error_t *err)
{
    static const char *const names[] = {"sunday",   "monday", "tuesday", "wednesday",
                                        "thursday", "friday", "saturday"};
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(5439015),
                            "%s requires 'startOfWeek' to be a string, but got %s", expr->op->name,
                            stor_expr_type(v));
    vd_slice_t name = vd_value_string(v);
    for (int i = 0; i < 7; i++) {
        size_t len = strlen(names[i]), same = 0;
        while (same < name.len && same < len && (name.data[same] | 32) == names[i][same])
            same++;
        if (same == name.len && (name.len == 3 || name.len == len)) {
            *ret = i;
            return VD_OK;
        }
    }
    return vd_error_set(err, VD_ERR_LOCATION(5439016),
                        "%s parameter 'startOfWeek' value cannot be recognized as a day of a week: "
                        "%.*s",
                        expr->op->name, VD_SLICE_FMT(name));
}

/* ---- $dateAdd, $dateSubtract: args startDate, unit, amount, timezone ---- */

static int parse_add(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                     stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {
        {"startDate", 5166402}, {"unit", 5166402}, {"amount", 5166402}, {"timezone", 0}};
    static const stor_expr_named_t named = {5166400, 5166401, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

static bool add_months(const stor_zone_t *zone, int64_t ms, int64_t months, int64_t *ret)
{
    stor_date_parts_t p;
    stor_date_split(stor_zone_to_local(zone, ms), &p);
    int64_t all = p.year * 12 + p.month - 1, local;
    if (__builtin_add_overflow(all, months, &all))
        return false;
    p.year = stor_floor_div(all, 12);
    p.month = (int)(all - p.year * 12) + 1;
    if (p.year > 300000000 || p.year < -300000000)
        return false;
    int last = stor_days_in_month(p.year, p.month);
    if (p.day > last)
        p.day = last;
    if (!stor_date_join(&p, &local))
        return false;
    *ret = stor_zone_to_utc(zone, local);
    return true;
}

static bool date_add(const stor_zone_t *zone, int64_t ms, unit_t unit, int64_t amount, int64_t *ret)
{
    int64_t change;
    if (__builtin_mul_overflow(amount, units[unit].size, &change))
        return false;
    if (unit <= UNIT_HOUR)
        return !__builtin_add_overflow(ms, change, ret);
    if (unit >= UNIT_MONTH)
        return add_months(zone, ms, change, ret);
    int64_t local = stor_zone_to_local(zone, ms);
    if (__builtin_mul_overflow(change, STOR_DAY_MS, &change) ||
        __builtin_add_overflow(local, change, &local))
        return false;
    *ret = stor_zone_to_utc(zone, local);
    return true;
}

bool stor_date_unit_find(vd_slice_t name, int *ret_unit)
{
    unit_t unit;
    if (!unit_by_name(name, &unit))
        return false;
    *ret_unit = (int)unit;
    return true;
}

bool stor_date_unit_add(int unit, int64_t ms, int64_t amount, int64_t *ret)
{
    stor_zone_t utc = STOR_ZONE_UTC;
    return date_add(&utc, ms, (unit_t)unit, amount, ret);
}

int64_t stor_date_unit_ms(int unit)
{
    if (unit >= UNIT_MONTH)
        return 0;
    return units[unit].size * (unit >= UNIT_DAY ? STOR_DAY_MS : 1);
}

/* variant: 1 or -1. */
static int eval_add(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    vd_value_t v[3];
    stor_zone_t zone;
    bool null;
    int64_t ms, amount;
    unit_t unit;
    stor_expr_set_null(ret);
    for (uint32_t i = 0; i < 3; i++) {
        int rc = stor_expr_arg(expr, i, env, &v[i], err);
        if (rc != VD_OK || vd_value_is_nullish(v[i]))
            return rc;
    }
    int rc = stor_expr_zone(expr->args[3], env, 40517, &zone, &null, err);
    if (rc != VD_OK || null)
        return rc;
    if (!stor_expr_is_datelike(v[0]))
        return vd_error_set(err, VD_ERR_LOCATION(5166403),
                            "%s requires startDate to be convertible to a date", expr->op->name);
    if (v[1].type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(5166404),
                            "%s expects string defining the time unit", expr->op->name);
    if (!unit_by_name(vd_value_string(v[1]), &unit))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "unknown time unit value: %.*s",
                            VD_SLICE_FMT(vd_value_string(v[1])));
    if (!vd_value_is_number(v[2]) || !vd_value_as_int64(v[2], &amount))
        return vd_error_set(err, VD_ERR_LOCATION(5166405),
                            "%s expects integer amount of time units", expr->op->name);
    if (expr->op->variant < 0 && amount == INT64_MIN)
        return vd_error_set(err, VD_ERR_LOCATION(6045000),
                            "invalid $dateSubtract 'amount' parameter value: %lld",
                            (long long)amount);
    rc = stor_expr_to_date(v[0], &ms, err);
    if (rc != VD_OK)
        return rc;
    if (!date_add(&zone, ms, unit, amount * expr->op->variant, &ms))
        return vd_error_set(err, VD_ERR_LOCATION(5166406),
                            "invalid %s 'amount' parameter value: %lld %s", expr->op->name,
                            (long long)amount, units[unit].name);
    *ret = vd_value_from_date(env->arena, ms);
    return VD_OK;
}

/* ---- $dateDiff: args startDate, endDate, unit, timezone, startOfWeek ---- */

static int parse_diff(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {{"startDate", 5166303},
                                               {"endDate", 5166304},
                                               {"unit", 5166305},
                                               {"timezone", 0},
                                               {"startOfWeek", 0}};
    static const stor_expr_named_t named = {5166301, 5166302, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

/* Number of the unit that the moment lies in; differences of these count the borders crossed. */
static int64_t unit_number(const stor_zone_t *zone, int64_t ms, unit_t unit, int week_start)
{
    int64_t local = stor_zone_to_local(zone, ms), days = stor_floor_div(local, STOR_DAY_MS);
    stor_date_parts_t p;
    if (unit == UNIT_DAY)
        return days;
    if (unit == UNIT_WEEK) /* day 0 was a Thursday */
        return stor_floor_div(days + 4 - week_start, 7);
    if (unit >= UNIT_MONTH) {
        stor_date_split(local, &p);
        return stor_floor_div(p.year * 12 + p.month - 1, units[unit].size);
    }
    /* Whole hours of the offset do not move the borders of hours, half hours do. */
    int64_t shift =
        unit == UNIT_MS ? 0 : stor_zone_offset(zone, ms) * INT64_C(1000) % units[unit].size;
    return stor_floor_div(ms + shift, units[unit].size);
}

/* The optional startOfWeek, read only when the unit is a week. */
static int week_start_arg(const stor_expr_t *expr, uint32_t i, vd_value_t unit,
                          stor_expr_env_t *env, vd_value_t *ret, bool *ret_null, vd_error_t *err)
{
    *ret = VD_VALUE_MISSING;
    *ret_null = false;
    if (expr->args[i] == NULL || unit.type != VD_BSON_STRING ||
        !vd_slice_is(vd_value_string(unit), "week"))
        return VD_OK;
    int rc = stor_expr_arg(expr, i, env, ret, err);
    if (rc == VD_OK)
        *ret_null = vd_value_is_nullish(*ret);
    return rc;
}

static int zone_with_prefix(const stor_expr_t *expr, uint32_t i, stor_expr_env_t *env,
                            stor_zone_t *ret_zone, bool *ret_null, vd_error_t *err)
{
    int rc = stor_expr_zone(expr->args[i], env, 40517, ret_zone, ret_null, err);
    if (rc != VD_OK)
        (void)vd_error_prefix(
            err, "%s parameter 'timezone' value parsing failed :: caused by :", expr->op->name);
    return rc;
}

static int eval_diff(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    static const char *const names[] = {"startDate", "endDate"};
    vd_value_t v[3], week_value;
    stor_zone_t zone;
    bool null;
    int week_start = 0;
    int64_t ms[2], result;
    unit_t unit;
    stor_expr_set_null(ret);
    for (uint32_t i = 0; i < 3; i++) {
        int rc = stor_expr_arg(expr, i, env, &v[i], err);
        if (rc != VD_OK || vd_value_is_nullish(v[i]))
            return rc;
    }
    int rc = week_start_arg(expr, 4, v[2], env, &week_value, &null, err);
    if (rc != VD_OK || null)
        return rc;
    rc = zone_with_prefix(expr, 3, env, &zone, &null, err);
    if (rc != VD_OK || null)
        return rc;
    for (int i = 0; i < 2; i++) {
        if (!stor_expr_is_datelike(v[i]))
            return vd_error_set(err, VD_ERR_LOCATION(5166307),
                                "$dateDiff requires '%s' to be a date, but got %s", names[i],
                                stor_expr_type(v[i]));
        rc = stor_expr_to_date(v[i], &ms[i], err);
        if (rc != VD_OK)
            return rc;
    }
    rc = read_unit(expr, v[2], &unit, err);
    if (rc == VD_OK && !vd_value_is_missing(week_value))
        rc = read_week_day(expr, week_value, &week_start, err);
    if (rc != VD_OK)
        return rc;
    if (__builtin_sub_overflow(unit_number(&zone, ms[1], unit, week_start),
                               unit_number(&zone, ms[0], unit, week_start), &result))
        return vd_error_set(err, VD_ERR_LOCATION(5166308), "dateDiff overflowed");
    *ret = vd_value_from_int64(env->arena, result);
    return VD_OK;
}

/* ---- $dateTrunc: args date, unit, binSize, timezone, startOfWeek ---- */

static int parse_trunc(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                       stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {
        {"date", 5439009}, {"unit", 5439010}, {"binSize", 0}, {"timezone", 0}, {"startOfWeek", 0}};
    static const stor_expr_named_t named = {5439007, 5439008, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

#define REFERENCE_DAY  INT64_C(10957) /* 2000-01-01, a Saturday: bins are counted from here */
#define REFERENCE_YEAR 2000

static bool date_trunc(const stor_zone_t *zone, int64_t ms, unit_t unit, int64_t bin,
                       int week_start, int64_t *ret)
{
    int64_t local = stor_zone_to_local(zone, ms), size;
    if (__builtin_mul_overflow(bin, units[unit].size, &size))
        return false;
    if (unit <= UNIT_HOUR) {
        int64_t from = REFERENCE_DAY * STOR_DAY_MS, distance;
        if (__builtin_sub_overflow(local, from, &distance))
            return false;
        int64_t rest = distance - stor_floor_div(distance, size) * size;
        return !__builtin_sub_overflow(ms, rest, ret);
    }
    int64_t days = stor_floor_div(local, STOR_DAY_MS);
    if (unit < UNIT_MONTH) {
        int64_t from = REFERENCE_DAY;
        if (unit == UNIT_WEEK)
            from += (week_start - stor_day_of_week(from) + 7) % 7;
        days = from + stor_floor_div(days - from, size) * size;
    } else {
        stor_date_parts_t p;
        stor_date_split(local, &p);
        int64_t months = (p.year - REFERENCE_YEAR) * 12 + p.month - 1;
        months = stor_floor_div(months, size) * size;
        int64_t year = stor_floor_div(months, 12);
        if (year > 200000000 || year < -200000000)
            return false;
        days = stor_days_from_civil(REFERENCE_YEAR + year, (int)(months - year * 12) + 1, 1);
    }
    if (__builtin_mul_overflow(days, STOR_DAY_MS, &local))
        return false;
    *ret = stor_zone_to_utc(zone, local);
    return true;
}

static int eval_trunc(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_value_t v[3], week_value;
    stor_zone_t zone;
    bool null;
    int week_start = 0;
    int64_t ms, bin = 1;
    unit_t unit;
    stor_expr_set_null(ret);
    for (uint32_t i = 0; i < 3; i++) {
        if (expr->args[i] == NULL)
            continue;
        int rc = stor_expr_arg(expr, i, env, &v[i], err);
        if (rc != VD_OK || vd_value_is_nullish(v[i]))
            return rc;
    }
    int rc = week_start_arg(expr, 4, v[1], env, &week_value, &null, err);
    if (rc != VD_OK || null)
        return rc;
    rc = zone_with_prefix(expr, 3, env, &zone, &null, err);
    if (rc != VD_OK || null)
        return rc;
    if (!stor_expr_is_datelike(v[0]))
        return vd_error_set(err, VD_ERR_LOCATION(5439012),
                            "$dateTrunc requires 'date' to be a date, but got %s",
                            stor_expr_type(v[0]));
    rc = stor_expr_to_date(v[0], &ms, err);
    if (rc == VD_OK)
        rc = read_unit(expr, v[1], &unit, err);
    if (rc != VD_OK)
        return rc;
    if (expr->args[2] != NULL) {
        if (!vd_value_is_number(v[2]) || !vd_value_as_int64(v[2], &bin))
            return vd_error_set(err, VD_ERR_LOCATION(5439017),
                                "$dateTrunc requires 'binSize' to be a 64-bit integer, but got a "
                                "value of type %s",
                                stor_expr_type(v[2]));
        if (bin <= 0)
            return vd_error_set(err, VD_ERR_LOCATION(5439018),
                                "$dateTrunc requires 'binSize' to be greater than 0, but got value "
                                "%lld",
                                (long long)bin);
    }
    if (!vd_value_is_missing(week_value))
        rc = read_week_day(expr, week_value, &week_start, err);
    if (rc != VD_OK)
        return rc;
    if (!date_trunc(&zone, ms, unit, bin, week_start, &ms))
        return vd_error_set(err, VD_ERR_LOCATION(5439005), "dateTrunc overflowed with binSize %lld",
                            (long long)bin);
    *ret = vd_value_from_date(env->arena, ms);
    return VD_OK;
}

static const stor_expr_op_t datemath_ops[] = {
    STOR_EXPR_OP_PARSED("$dateAdd", 0, 1, eval_add, parse_add),
    STOR_EXPR_OP_PARSED("$dateSubtract", 0, -1, eval_add, parse_add),
    STOR_EXPR_OP_PARSED("$dateDiff", 0, 0, eval_diff, parse_diff),
    STOR_EXPR_OP_PARSED("$dateTrunc", 0, 0, eval_trunc, parse_trunc),
};
const stor_expr_family_t stor_expr_family_datemath = {datemath_ops, VD_COUNT_OF(datemath_ops)};
