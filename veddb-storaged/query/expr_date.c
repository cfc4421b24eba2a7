/* veddb-storaged/query/expr_date.c — parts of dates ($year ...), $dateToParts, $dateFromParts,
 * $dateToString, $dateFromString. */
#include "veddb-storaged/query/date.h"
#include "veddb-storaged/query/expr_date_private.h"

/* ---- shared ---- */

bool stor_expr_is_datelike(vd_value_t v)
{
    return v.type == VD_BSON_DATE || v.type == VD_BSON_TIMESTAMP || v.type == VD_BSON_OBJECTID;
}

int stor_expr_to_date(vd_value_t v, int64_t *ret_ms, vd_error_t *err)
{
    if (v.type == VD_BSON_DATE) {
        *ret_ms = vd_value_int64(v);
    } else if (v.type == VD_BSON_TIMESTAMP) {
        *ret_ms = (int64_t)(vd_value_timestamp(v) >> 32) * 1000;
    } else if (v.type == VD_BSON_OBJECTID) {
        const uint8_t *id = vd_value_objectid(v);
        uint32_t seconds =
            (uint32_t)id[0] << 24 | (uint32_t)id[1] << 16 | (uint32_t)id[2] << 8 | id[3];
        *ret_ms = (int64_t)seconds * 1000;
    } else {
        return vd_error_set(err, VD_ERR_LOCATION(16006), "can't convert from BSON type %s to Date",
                            stor_expr_type(v));
    }
    return VD_OK;
}

int stor_expr_parse_date(vd_slice_t text, int64_t *ret_ms, vd_error_t *err)
{
    return stor_date_read(text, &STOR_ZONE_UTC, false, ret_ms, err);
}

int stor_expr_zone(const stor_expr_t *zone_expr, stor_expr_env_t *env, int code,
                   stor_zone_t *ret_zone, bool *ret_null, vd_error_t *err)
{
    *ret_zone = STOR_ZONE_UTC;
    *ret_null = false;
    if (zone_expr == NULL)
        return VD_OK;
    vd_value_t v;
    int rc = stor_expr_run(zone_expr, env, &v, err);
    if (rc != VD_OK)
        return rc;
    *ret_null = vd_value_is_nullish(v);
    if (*ret_null)
        return VD_OK;
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(code),
                            "timezone must evaluate to a string, found %s", stor_expr_type(v));
    return stor_zone_find(vd_value_string(v), ret_zone, err);
}

/* ---- $year ...: args date, timezone ---- */

enum {
    PART_YEAR,
    PART_MONTH,
    PART_DAY,
    PART_HOUR,
    PART_MINUTE,
    PART_SECOND,
    PART_MS,
    PART_DAY_OF_WEEK,
    PART_DAY_OF_YEAR,
    PART_WEEK,
    PART_ISO_WEEK,
    PART_ISO_YEAR,
    PART_ISO_DAY
};

static int parse_part(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                      stor_expr_t **ret_expr, vd_error_t *err)
{
    stor_expr_t *expr = stor_expr_new(parser, op, 2);
    *ret_expr = expr;
    vd_slice_t first = VD_SLICE_NULL;
    vd_value_t value;
    if (spec.type == VD_BSON_ARRAY) {
        uint32_t count = vd_bson_count(vd_value_document(spec));
        if (count != 1 || !vd_bson_first(vd_value_document(spec), &first, &value))
            return vd_error_set(err, VD_ERR_LOCATION(40536),
                                "%s accepts exactly one argument if given an array, but was given "
                                "%u",
                                op->name, count);
        return stor_expr_parse_operand(parser, value, &expr->args[0], err);
    }
    if (spec.type != VD_BSON_OBJECT || (vd_bson_first(vd_value_document(spec), &first, &value) &&
                                        first.len > 0 && first.data[0] == '$'))
        return stor_expr_parse_operand(parser, spec, &expr->args[0], err);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        int which = vd_slice_is(iter.name, "date")       ? 0
                    : vd_slice_is(iter.name, "timezone") ? 1
                                                         : -1;
        if (which < 0)
            return vd_error_set(err, VD_ERR_LOCATION(40535), "unrecognized option to %s: \"%.*s\"",
                                op->name, VD_SLICE_FMT(iter.name));
        int rc = stor_expr_parse_operand(parser, iter.value, &expr->args[which], err);
        if (rc != VD_OK)
            return rc;
    }
    if (expr->args[0] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40539), "missing 'date' argument to %s", op->name);
    return VD_OK;
}

static int64_t part_of(int part, int64_t local_ms)
{
    stor_date_parts_t p;
    int64_t days = stor_floor_div(local_ms, STOR_DAY_MS), iso_year;
    int week;
    stor_date_split(local_ms, &p);
    switch (part) {
    case PART_YEAR:
        return p.year;
    case PART_MONTH:
        return p.month;
    case PART_DAY:
        return p.day;
    case PART_HOUR:
        return p.hour;
    case PART_MINUTE:
        return p.minute;
    case PART_SECOND:
        return p.second;
    case PART_MS:
        return p.ms;
    case PART_DAY_OF_WEEK:
        return stor_day_of_week(days) + 1;
    case PART_DAY_OF_YEAR:
        return stor_day_of_year(days);
    case PART_WEEK:
        return stor_week_of_year(days);
    case PART_ISO_DAY:
        return (stor_day_of_week(days) + 6) % 7 + 1;
    default:
        stor_iso_week(days, &iso_year, &week);
        return part == PART_ISO_WEEK ? week : iso_year;
    }
}

static int eval_part(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    vd_value_t v;
    int64_t ms;
    stor_zone_t zone;
    bool null;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_set_null(ret);
    if (vd_value_is_nullish(v))
        return VD_OK;
    rc = stor_expr_to_date(v, &ms, err);
    if (rc == VD_OK)
        rc = stor_expr_zone(expr->args[1], env, 40533, &zone, &null, err);
    if (rc != VD_OK || null)
        return rc;
    int64_t part = part_of(expr->op->variant, stor_zone_to_local(&zone, ms));
    *ret = expr->op->variant == PART_ISO_YEAR ? vd_value_from_int64(env->arena, part)
                                              : vd_value_from_int32(env->arena, (int32_t)part);
    return VD_OK;
}

/* ---- $dateToParts: args date, timezone, iso8601 ---- */

static int parse_to_parts(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                          stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {{"date", 40522}, {"timezone", 0}, {"iso8601", 0}};
    static const stor_expr_named_t named = {40524, 40520, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

static int eval_to_parts(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                         vd_error_t *err)
{
    vd_value_t v, iso = vd_value_from_bool(false);
    stor_zone_t zone;
    bool null;
    int64_t ms;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        rc = stor_expr_zone(expr->args[1], env, 40517, &zone, &null, err);
    stor_expr_set_null(ret);
    if (rc != VD_OK || null)
        return rc;
    if (expr->args[2] != NULL)
        rc = stor_expr_arg(expr, 2, env, &iso, err);
    if (rc != VD_OK || vd_value_is_nullish(iso))
        return rc;
    if (iso.type != VD_BSON_BOOL)
        return vd_error_set(err, VD_ERR_LOCATION(40521),
                            "iso8601 must evaluate to a bool, found %s", stor_expr_type(iso));
    if (vd_value_is_nullish(v))
        return VD_OK;
    rc = stor_expr_to_date(v, &ms, err);
    if (rc != VD_OK)
        return rc;
    static const char *const names[2][3] = {{"year", "month", "day"},
                                            {"isoWeekYear", "isoWeek", "isoDayOfWeek"}};
    static const int parts[2][3] = {{PART_YEAR, PART_MONTH, PART_DAY},
                                    {PART_ISO_YEAR, PART_ISO_WEEK, PART_ISO_DAY}};
    static const char *const time_names[4] = {"hour", "minute", "second", "millisecond"};
    int form = vd_value_bool(iso) ? 1 : 0;
    int64_t local = stor_zone_to_local(&zone, ms);
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, env->arena, STOR_EXPR_VALUE_MAX_BYTES);
    for (int i = 0; i < 3; i++)
        vd_bb_int32(&bb, names[form][i], (int32_t)part_of(parts[form][i], local));
    for (int i = 0; i < 4; i++)
        vd_bb_int32(&bb, time_names[i], (int32_t)part_of(PART_HOUR + i, local));
    rc = vd_bb_finish(&bb, &doc, err);
    if (rc == VD_OK)
        *ret = vd_value_from_document(doc);
    return rc;
}

/* ---- $dateFromParts ---- */

enum {
    FROM_YEAR,
    FROM_MONTH,
    FROM_DAY,
    FROM_HOUR,
    FROM_MINUTE,
    FROM_SECOND,
    FROM_MS,
    FROM_ISO_YEAR,
    FROM_ISO_WEEK,
    FROM_ISO_DAY,
    FROM_ZONE,
    FROM_COUNT
};

static const stor_expr_field_t from_fields[FROM_COUNT] = {
    {"year", 0},    {"month", 0},        {"day", 0},         {"hour", 0},
    {"minute", 0},  {"second", 0},       {"millisecond", 0}, {"isoWeekYear", 0},
    {"isoWeek", 0}, {"isoDayOfWeek", 0}, {"timezone", 0},
};

static int parse_from_parts(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                            stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_named_t named = {40519, 40518, from_fields, FROM_COUNT};
    int rc = stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_t **a = (*ret_expr)->args;
    if (a[FROM_YEAR] == NULL && a[FROM_ISO_YEAR] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40516),
                            "$dateFromParts requires either 'year' or 'isoWeekYear' to be present");
    if (a[FROM_YEAR] != NULL &&
        (a[FROM_ISO_YEAR] != NULL || a[FROM_ISO_WEEK] != NULL || a[FROM_ISO_DAY] != NULL))
        return vd_error_set(err, VD_ERR_LOCATION(40489),
                            "$dateFromParts does not allow mixing natural dates with ISO dates");
    if (a[FROM_ISO_YEAR] != NULL && (a[FROM_MONTH] != NULL || a[FROM_DAY] != NULL))
        return vd_error_set(err, VD_ERR_LOCATION(40525),
                            "$dateFromParts does not allow mixing ISO dates with natural dates");
    return VD_OK;
}

static int read_part(const stor_expr_t *expr, uint32_t i, int64_t fallback, bool bounded,
                     stor_expr_env_t *env, int64_t *ret, bool *ret_null, vd_error_t *err)
{
    *ret = fallback;
    if (expr->args[i] == NULL)
        return VD_OK;
    vd_value_t v;
    int rc = stor_expr_arg(expr, i, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v)) {
        *ret_null = true;
        return VD_OK;
    }
    if (!vd_value_is_number(v) || !vd_value_as_int64(v, ret))
        return vd_error_set(err, VD_ERR_LOCATION(40515),
                            "'%s' must evaluate to an integer, found %s", from_fields[i].name,
                            stor_expr_type(v));
    if (bounded && (*ret < INT16_MIN || *ret > INT16_MAX))
        return vd_error_set(err, VD_ERR_LOCATION(31034),
                            "'%s' must evaluate to a value in the range [%d, %d]; value %lld is "
                            "not in range",
                            from_fields[i].name, INT16_MIN, INT16_MAX, (long long)*ret);
    return VD_OK;
}

/* The day that the parts name; values outside their range carry over. */
static int64_t day_from_parts(const int64_t n[FROM_COUNT], bool iso)
{
    if (iso)
        return stor_iso_year_start(n[FROM_ISO_YEAR]) + (n[FROM_ISO_WEEK] - 1) * 7 +
               n[FROM_ISO_DAY] - 1;
    int64_t months = n[FROM_MONTH] - 1, carry = stor_floor_div(months, 12);
    return stor_days_from_civil(n[FROM_YEAR] + carry, (int)(months - carry * 12) + 1, 1) +
           n[FROM_DAY] - 1;
}

static int eval_from_parts(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    static const uint8_t order[] = {FROM_HOUR,     FROM_MINUTE, FROM_SECOND, FROM_MS,
                                    FROM_YEAR,     FROM_MONTH,  FROM_DAY,    FROM_ISO_YEAR,
                                    FROM_ISO_WEEK, FROM_ISO_DAY};
    bool iso = expr->args[FROM_YEAR] == NULL, null = false, zone_null;
    int64_t n[FROM_COUNT] = {0};
    stor_zone_t zone;
    int rc = VD_OK;
    stor_expr_set_null(ret);
    for (size_t i = 0; i < VD_COUNT_OF(order) && rc == VD_OK && !null; i++) {
        uint32_t part = order[i];
        bool free =
            part == FROM_SECOND || part == FROM_MS || part == FROM_YEAR || part == FROM_ISO_YEAR;
        int64_t fallback = part == FROM_YEAR || part == FROM_ISO_YEAR ? 1970
                           : part >= FROM_HOUR && part <= FROM_MS     ? 0
                                                                      : 1;
        rc = read_part(expr, part, fallback, !free, env, &n[part], &null, err);
    }
    if (rc == VD_OK)
        rc = stor_expr_zone(expr->args[FROM_ZONE], env, 40517, &zone, &zone_null, err);
    if (rc != VD_OK || null || zone_null)
        return rc;
    int64_t year = n[iso ? FROM_ISO_YEAR : FROM_YEAR];
    if (year < 1 || year > 9999)
        return vd_error_set(err, VD_ERR_LOCATION(iso ? 31095 : 40523),
                            "'%s' must evaluate to an integer in the range 1 to 9999, found %lld",
                            iso ? "isoWeekYear" : "year", (long long)year);
    int64_t ms = day_from_parts(n, iso) * STOR_DAY_MS + n[FROM_HOUR] * 3600000 +
                 n[FROM_MINUTE] * 60000,
            seconds_ms;
    if (__builtin_mul_overflow(n[FROM_SECOND], (int64_t)1000, &seconds_ms) ||
        __builtin_add_overflow(ms, seconds_ms, &ms) || __builtin_add_overflow(ms, n[FROM_MS], &ms))
        return vd_error_set(err, VD_ERR_OVERFLOW, "$dateFromParts: the date is out of range");
    *ret = vd_value_from_date(env->arena, stor_zone_to_utc(&zone, ms));
    return VD_OK;
}

/* ---- $dateToString: args date, format, timezone, onNull ---- */

static int parse_to_string(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                           stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {
        {"date", 18628}, {"format", 0}, {"timezone", 0}, {"onNull", 0}};
    static const stor_expr_named_t named = {18629, 18534, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

/* Reads and checks the format; *ret is MISSING when there is none, null when it is nullish. */
static int read_format(const stor_expr_t *expr, uint32_t i, bool scan, stor_expr_env_t *env,
                       vd_value_t *ret, vd_error_t *err)
{
    *ret = VD_VALUE_MISSING;
    if (expr->args[i] == NULL)
        return VD_OK;
    int rc = stor_expr_arg(expr, i, env, ret, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(*ret)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (ret->type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(scan ? 40684 : 18533),
                            "%s requires that 'format' be a string, found: %s", expr->op->name,
                            stor_expr_type(*ret));
    return stor_date_check_format(vd_value_string(*ret), scan, err);
}

static int eval_to_string(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    vd_value_t v, format;
    stor_zone_t zone;
    bool null;
    int64_t ms;
    vd_slice_t text;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        rc = read_format(expr, 1, false, env, &format, err);
    if (rc == VD_OK)
        rc = stor_expr_zone(expr->args[2], env, 40517, &zone, &null, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_set_null(ret);
    if (vd_value_is_nullish(v))
        return expr->args[3] == NULL ? VD_OK : stor_expr_arg(expr, 3, env, ret, err);
    if (null || format.type == VD_BSON_NULL)
        return VD_OK;
    bool utc = zone.rules == NULL && zone.offset_s == 0; /* another zone's time is not "Z" */
    vd_slice_t form = format.type == VD_BSON_STRING ? vd_value_string(format)
                      : utc                         ? VD_SLICE_LIT("%Y-%m-%dT%H:%M:%S.%LZ")
                                                    : VD_SLICE_LIT("%Y-%m-%dT%H:%M:%S.%L");
    rc = stor_expr_to_date(v, &ms, err);
    if (rc == VD_OK)
        rc = stor_date_format(env->arena, form, ms, &zone, &text, err);
    if (rc == VD_OK)
        *ret = vd_value_from_string(env->arena, text);
    return rc;
}

/* ---- $dateFromString: args dateString, format, timezone, onNull, onError ---- */

static int parse_from_string(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                             stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {
        {"dateString", 40542}, {"format", 0}, {"timezone", 0}, {"onNull", 0}, {"onError", 0}};
    static const stor_expr_named_t named = {40540, 40541, fields, VD_COUNT_OF(fields)};
    return stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
}

static int date_from_text(const stor_expr_t *expr, vd_value_t v, vd_value_t format,
                          const stor_zone_t *zone, int64_t *ret_ms, vd_error_t *err)
{
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_CONVERSION_FAILURE,
                            "$dateFromString requires that 'dateString' be a string, found: %s",
                            stor_expr_type(v));
    bool given = expr->args[2] != NULL;
    if (format.type == VD_BSON_STRING)
        return stor_date_scan(vd_value_string(v), vd_value_string(format), zone, given, ret_ms,
                              err);
    return stor_date_read(vd_value_string(v), zone, given, ret_ms, err);
}

static int eval_from_string(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                            vd_error_t *err)
{
    vd_value_t v, format;
    stor_zone_t zone;
    bool null;
    int64_t ms;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        rc = read_format(expr, 1, true, env, &format, err);
    if (rc == VD_OK)
        rc = stor_expr_zone(expr->args[2], env, 40517, &zone, &null, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_set_null(ret);
    if (vd_value_is_nullish(v))
        return expr->args[3] == NULL ? VD_OK : stor_expr_arg(expr, 3, env, ret, err);
    if (v.type == VD_BSON_STRING && (null || format.type == VD_BSON_NULL))
        return VD_OK;
    if (expr->args[4] == NULL) {
        rc = date_from_text(expr, v, format, &zone, &ms, err);
    } else {
        vd_error_t inner = VD_ERROR_INIT;
        rc = date_from_text(expr, v, format, &zone, &ms, &inner);
        if (rc == VD_ERR_CONVERSION_FAILURE)
            return stor_expr_arg(expr, 4, env, ret, err);
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&inner, err);
    }
    if (rc == VD_OK)
        *ret = vd_value_from_date(env->arena, ms);
    return rc;
}

#define PART_OP(name, part) STOR_EXPR_OP_PARSED(name, 0, part, eval_part, parse_part)
static const stor_expr_op_t date_ops[] = {
    PART_OP("$year", PART_YEAR),
    PART_OP("$month", PART_MONTH),
    PART_OP("$dayOfMonth", PART_DAY),
    PART_OP("$hour", PART_HOUR),
    PART_OP("$minute", PART_MINUTE),
    PART_OP("$second", PART_SECOND),
    PART_OP("$millisecond", PART_MS),
    PART_OP("$dayOfWeek", PART_DAY_OF_WEEK),
    PART_OP("$dayOfYear", PART_DAY_OF_YEAR),
    PART_OP("$week", PART_WEEK),
    PART_OP("$isoWeek", PART_ISO_WEEK),
    PART_OP("$isoWeekYear", PART_ISO_YEAR),
    PART_OP("$isoDayOfWeek", PART_ISO_DAY),
    STOR_EXPR_OP_PARSED("$dateToParts", 0, 0, eval_to_parts, parse_to_parts),
    STOR_EXPR_OP_PARSED("$dateFromParts", 0, 0, eval_from_parts, parse_from_parts),
    STOR_EXPR_OP_PARSED("$dateToString", 0, 0, eval_to_string, parse_to_string),
    STOR_EXPR_OP_PARSED("$dateFromString", 0, 0, eval_from_string, parse_from_string),
};
const stor_expr_family_t stor_expr_family_date = {date_ops, VD_COUNT_OF(date_ops)};
