/* veddb-storaged/timeseries.c — see timeseries.h. */
#include "veddb-storaged/timeseries.h"

#include "libcommon/base/limits.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/args.h"

#define TRIES_MAX   16 /* numbers that are taken already in the same millisecond */
#define PLACE_BYTES 17 /* type, "_id", 12 */
#define DAY_SECONDS (24 * 60 * 60)

/* ---- options ---- */

typedef struct {
    vd_slice_t time, meta, granularity;
    vd_value_t span, rounding;
} series_args_t;

static const struct {
    const char *name;
    int32_t span;
} granularities[] = {{"seconds", 60 * 60}, {"minutes", DAY_SECONDS}, {"hours", 30 * DAY_SECONDS}};

static int granularity_find(vd_slice_t name)
{
    for (int i = 0; i < (int)VD_COUNT_OF(granularities); i++)
        if (vd_slice_is(name, granularities[i].name))
            return i;
    return -1;
}

/* 0: not given. */
static int seconds_check(vd_value_t given, const char *command, const char *field,
                         int64_t *ret_seconds, vd_error_t *err)
{
    *ret_seconds = 0;
    if (vd_value_is_nullish(given))
        return VD_OK;
    if (!vd_value_is_number(given))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.timeseries.%s' is the wrong type '%s', expected types "
                            "'[long, int, decimal, double]'",
                            command, field, vd_bson_type_name(given.type));
    double seconds = vd_value_as_double(given);
    if (!(seconds >= 1))
        return vd_error_set(err, VD_ERR_LOCATION(51024),
                            "BSON field '%s' value must be >= 1, actual value '%.0f'", field,
                            seconds);
    if (seconds > STOR_TIMESERIES_SPAN_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(51024),
                            "BSON field '%s' value must be <= %d, actual value '%.0f'", field,
                            STOR_TIMESERIES_SPAN_MAX, seconds);
    *ret_seconds = (int64_t)seconds;
    return VD_OK;
}

static int granularity_check(vd_slice_t name, const char *command, vd_error_t *err)
{
    if (name.data == NULL || granularity_find(name) >= 0)
        return VD_OK;
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "Enumeration value '%.*s' for field '%s.timeseries.granularity' is not a "
                        "valid value.",
                        VD_SLICE_FMT(name), command);
}

static bool has_dot(vd_slice_t name)
{
    return memchr(name.data, '.', name.len) != NULL;
}

static int names_check(const stor_request_t *request, const series_args_t *args, vd_error_t *err)
{
    const char *dotted = has_dot(args->time) ? "timeField" : NULL;
    if (args->meta.data != NULL) {
        if (vd_slice_is(args->meta, "_id"))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "'metaField' cannot be \"_id\"");
        if (vd_slice_equal(args->meta, args->time))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "'metaField' cannot be the same as 'timeField'");
        if (dotted == NULL && has_dot(args->meta))
            dotted = "metaField";
    }
    if (dotted != NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "%.*s: '%s' must be a top-level field and not contain a '.'",
                            VD_SLICE_FMT(request->ns), dotted);
    if (args->time.len == 0 || vd_slice_is(args->time, "_id") || args->time.data[0] == '$' ||
        (args->meta.data != NULL && (args->meta.len == 0 || args->meta.data[0] == '$')))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "%.*s: 'timeField' and 'metaField' name fields of the measurements; "
                            "'timeField' cannot be \"_id\"",
                            VD_SLICE_FMT(request->ns));
    return VD_OK;
}

static int span_check(const series_args_t *args, int64_t span, int64_t rounding, vd_error_t *err)
{
    if (args->granularity.data == NULL)
        return span == rounding
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                  "Time-series 'bucketRoundingSeconds' must be equal to "
                                  "'bucketMaxSpanSeconds'");
    int32_t of = granularities[granularity_find(args->granularity)].span;
    if (span != 0 && span != of)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Time-series 'bucketMaxSpanSeconds' cannot be set to a value other "
                            "than the default of %d for the provided granularity",
                            (int)of);
    if (rounding != 0)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Time-series 'bucketRoundingSeconds' cannot be set alongside the "
                            "granularity parameter");
    return VD_OK;
}

static int options_write(vd_arena_t *arena, const series_args_t *args, int64_t span,
                         int64_t rounding, vd_bson_t *ret_options, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_slice_t granularity = args->granularity;
    if (granularity.data == NULL && span == 0)
        granularity = vd_slice_str(granularities[0].name);
    if (span == 0)
        span = granularities[granularity_find(granularity)].span;
    vd_bb_init_arena(bb, arena, 64 * 1024);
    vd_bb_string(bb, "timeField", args->time);
    if (args->meta.data != NULL)
        vd_bb_string(bb, "metaField", args->meta);
    if (granularity.data != NULL)
        vd_bb_string(bb, "granularity", granularity);
    vd_bb_int32(bb, "bucketMaxSpanSeconds", (int32_t)span);
    if (rounding != 0)
        vd_bb_int32(bb, "bucketRoundingSeconds", (int32_t)rounding);
    return vd_bb_finish(bb, ret_options, err);
}

int stor_timeseries_options(stor_request_t *request, vd_bson_t given, vd_bson_t *ret_options,
                            vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("timeField", STOR_ARG_STRING, series_args_t, time, STOR_ARG_REQUIRED),
        STOR_ARG("metaField", STOR_ARG_STRING, series_args_t, meta, 0),
        STOR_ARG("granularity", STOR_ARG_STRING, series_args_t, granularity, 0),
        STOR_ARG("bucketMaxSpanSeconds", STOR_ARG_VALUE, series_args_t, span, 0),
        STOR_ARG("bucketRoundingSeconds", STOR_ARG_VALUE, series_args_t, rounding, 0),
    };
    series_args_t args = {0};
    int64_t span, rounding;
    int rc =
        stor_args_parse(given, "create.timeseries", false, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = granularity_check(args.granularity, "create", err);
    if (rc == VD_OK)
        rc = seconds_check(args.span, "create", "bucketMaxSpanSeconds", &span, err);
    if (rc == VD_OK)
        rc = seconds_check(args.rounding, "create", "bucketRoundingSeconds", &rounding, err);
    if (rc == VD_OK)
        rc = names_check(request, &args, err);
    if (rc == VD_OK)
        rc = span_check(&args, span, rounding, err);
    return rc == VD_OK ? options_write(request->arena, &args, span, rounding, ret_options, err)
                       : rc;
}

static vd_slice_t string_of(vd_bson_t document, const char *name)
{
    vd_value_t v = vd_bson_get(document, name);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_NULL;
}

static int transition_check(const series_args_t *args, vd_bson_t old, int64_t span,
                            int64_t rounding, vd_error_t *err)
{
    vd_slice_t before = string_of(old, "granularity");
    int64_t old_span = 0, old_rounding = 0;
    (void)vd_value_as_int64(vd_bson_get(old, "bucketMaxSpanSeconds"), &old_span);
    (void)vd_value_as_int64(vd_bson_get(old, "bucketRoundingSeconds"), &old_rounding);
    if (args->granularity.data != NULL) {
        int target = granularity_find(args->granularity);
        if (span != 0 && span != granularities[target].span)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Timeseries 'bucketMaxSpanSeconds' is not configurable to a value "
                                "other than the default for the provided granularity");
        if (rounding != 0)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Timeseries 'bucketRoundingSeconds' is not configurable alongside "
                                "the granularity parameter");
        if (before.data != NULL && granularity_find(before) > target)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Invalid transition for timeseries.granularity. Can only "
                                "transition from 'seconds' to 'minutes' or 'minutes' to 'hours'.");
        span = granularities[target].span;
        rounding = old_rounding;
    } else if (span == 0 || rounding == 0) {
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Timeseries 'bucketMaxSpanSeconds' and 'bucketRoundingSeconds' need to "
                            "be set alongside each other");
    } else if (span != rounding) {
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Timeseries 'bucketRoundingSeconds' needs to be equal to "
                            "'bucketMaxSpanSeconds'");
    }
    if (old_span > span)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Timeseries 'bucketMaxSpanSeconds' needs to be equal or greater to "
                            "transition");
    if (old_rounding > rounding)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Timeseries 'bucketRoundingSeconds' needs to be equal or greater to "
                            "transition");
    return VD_OK;
}

int stor_timeseries_modify(vd_arena_t *arena, vd_bson_t old, vd_bson_t given,
                           vd_bson_t *ret_options, bool *ret_changed, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("granularity", STOR_ARG_STRING, series_args_t, granularity, 0),
        STOR_ARG("bucketMaxSpanSeconds", STOR_ARG_VALUE, series_args_t, span, 0),
        STOR_ARG("bucketRoundingSeconds", STOR_ARG_VALUE, series_args_t, rounding, 0),
    };
    series_args_t args = {.time = string_of(old, "timeField"), .meta = string_of(old, "metaField")};
    int64_t span = 0, rounding = 0;
    *ret_changed = false;
    int rc =
        stor_args_parse(given, "collMod.timeseries", false, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = granularity_check(args.granularity, "collMod", err);
    if (rc == VD_OK)
        rc = seconds_check(args.span, "collMod", "bucketMaxSpanSeconds", &span, err);
    if (rc == VD_OK)
        rc = seconds_check(args.rounding, "collMod", "bucketRoundingSeconds", &rounding, err);
    if (rc != VD_OK || (args.granularity.data == NULL && span == 0 && rounding == 0))
        return rc;
    rc = transition_check(&args, old, span, rounding, err);
    if (rc == VD_OK)
        rc = options_write(arena, &args, span, rounding, ret_options, err);
    *ret_changed = rc == VD_OK && (old.len != ret_options->len ||
                                   memcmp(old.data, ret_options->data, old.len) != 0);
    return rc;
}

int stor_timeseries_expire(vd_value_t given, const char *command, bool may_be_off,
                           int64_t *ret_seconds, vd_error_t *err)
{
    if (may_be_off && given.type == VD_BSON_STRING && vd_slice_is(vd_value_string(given), "off")) {
        *ret_seconds = -1;
        return VD_OK;
    }
    if (given.type == VD_BSON_STRING && may_be_off)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Invalid string value for the 'clusteredIndex::expireAfterSeconds' "
                            "option. Got: '%.*s'. Accepted value is 'off'",
                            VD_SLICE_FMT(vd_value_string(given)));
    if (!vd_value_is_number(given))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.expireAfterSeconds' is the wrong type '%s', expected "
                            "types '[long, int, decimal, double]'",
                            command, vd_bson_type_name(given.type));
    double seconds = vd_value_as_double(given);
    if (!(seconds >= 0) || seconds > 9.2e15 / 1000)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "TTL index 'expireAfterSeconds' option must be within an acceptable "
                            "range, try a %s number than %.0f",
                            seconds >= 0 ? "lower" : "larger", seconds);
    *ret_seconds = (int64_t)seconds;
    return VD_OK;
}

void stor_timeseries_read(vd_bson_t options, stor_collection_timeseries_t *ret)
{
    vd_value_t series = vd_bson_get(options, "timeseries");
    uint32_t start;
    ret->is = series.type == VD_BSON_OBJECT;
    ret->expire_after_seconds = -1;
    if (!ret->is)
        return;
    ret->time = string_of(vd_value_document(series), "timeField");
    ret->meta = string_of(vd_value_document(series), "metaField");
    (void)vd_value_as_int64(vd_bson_get(options, "expireAfterSeconds"), &ret->expire_after_seconds);
    vd_rand_secret(&start, sizeof start);
    atomic_store(&ret->next, start);
}

/* ---- measurements ---- */

void stor_timeseries_place(int64_t time_ms, uint32_t number, uint8_t ret_place[12])
{
    uint64_t time = (uint64_t)time_ms ^ 1ULL << 63; /* sorts as dates do */
    vd_put_u64_be(ret_place, time);
    for (int i = 0; i < 4; i++)
        ret_place[8 + i] = (uint8_t)(number >> (24 - 8 * i));
}

int stor_timeseries_stored(vd_arena_t *arena, const stor_collection_timeseries_t *series,
                           vd_bson_t document, uint32_t number, vd_bson_t *ret_stored,
                           vd_error_t *err)
{
    vd_value_t time = vd_bson_get_slice(document, series->time), meta = VD_VALUE_MISSING;
    uint8_t place[12];
    vd_bson_iter_t iter;
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    if (time.type != VD_BSON_DATE)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "'%.*s' must be present and contain a valid BSON UTC datetime value",
                            VD_SLICE_FMT(series->time));
    if (series->meta.data != NULL)
        meta = vd_bson_get_slice(document, series->meta);
    stor_timeseries_place(vd_value_int64(time), number, place);
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_objectid(bb, "_id", place);
    vd_bb_value(bb, series->time, time);
    if (!vd_value_is_missing(meta))
        vd_bb_value(bb, series->meta, meta);
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter))
        if (!vd_slice_equal(iter.name, series->time) &&
            (series->meta.data == NULL || !vd_slice_equal(iter.name, series->meta)))
            vd_bb_value(bb, iter.name, iter.value);
    return vd_bb_finish(bb, ret_stored, err);
}

int stor_timeseries_shown(vd_arena_t *arena, vd_bson_t stored, vd_bson_t *ret_shown,
                          vd_error_t *err)
{
    static const uint8_t head[] = {VD_BSON_OBJECTID, '_', 'i', 'd', 0};
    if (stored.len < 5 + PLACE_BYTES || memcmp(stored.data + 4, head, sizeof head) != 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "a stored measurement has no place");
    uint32_t len = stored.len - PLACE_BYTES;
    uint8_t *bytes = vd_arena_alloc(arena, len);
    vd_put_u32(bytes, len);
    memcpy(bytes + 4, stored.data + 4 + PLACE_BYTES, len - 4);
    *ret_shown = (vd_bson_t){bytes, len};
    return VD_OK;
}

int stor_timeseries_insert(stor_write_t *write, vd_bson_t document, int32_t statement,
                           vd_error_t *err)
{
    stor_request_t *request = write->request;
    stor_collection_timeseries_t *series = &write->collection->timeseries;
    for (int tries = 0;; tries++) {
        uint32_t number = (uint32_t)atomic_fetch_add(&series->next, 1);
        vd_bson_t stored;
        vd_slice_t key;
        vd_error_t step = VD_ERROR_INIT;
        if (tries > 0) { /* a number of an earlier start: on from somewhere else */
            vd_rand_secret(&number, sizeof number);
            atomic_store(&series->next, number + 1);
        }
        int rc = stor_timeseries_stored(request->arena, series, document, number, &stored, err);
        if (rc == VD_OK)
            rc = stor_id_key(request->arena, vd_bson_get(stored, "_id"), &key, err);
        if (rc != VD_OK)
            return rc;
        rc = stor_write_insert(write, key, stored, statement, &step);
        if (rc == VD_ERR_DUPLICATE_KEY && tries < TRIES_MAX)
            continue;
        if (rc != VD_OK)
            vd_error_copy(&step, err);
        return rc;
    }
}

/* ---- what is refused ---- */

int stor_timeseries_delete_check(const stor_request_t *request, bool multi, vd_error_t *err)
{
    if (request->transaction != NULL)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot perform a multi delete inside of a multi-document transaction "
                            "on a time-series collection");
    return multi ? VD_OK
                 : vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                                "Cannot perform a non-multi delete on a time-series collection");
}

/* The path is the field itself or lies in it. */
static bool is_within(vd_slice_t path, vd_slice_t field)
{
    return field.data != NULL && vd_slice_starts_with(path, field) &&
           (path.len == field.len || path.data[field.len] == '.');
}

static int query_check(vd_bson_t query, vd_slice_t meta, uint32_t depth, vd_error_t *err)
{
    vd_bson_iter_t iter, each;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, query);
    while (rc == VD_OK && depth < VD_BSON_DEPTH_MAX && vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "$expr") || vd_slice_is(iter.name, "$where"))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Cannot use %.*s when performing an update or delete on a "
                                "time-series collection",
                                VD_SLICE_FMT(iter.name));
        bool either = vd_slice_is(iter.name, "$and") || vd_slice_is(iter.name, "$or") ||
                      vd_slice_is(iter.name, "$nor");
        if (either && iter.value.type == VD_BSON_ARRAY) {
            vd_bson_iter_init(&each, vd_value_document(iter.value));
            while (rc == VD_OK && vd_bson_iter_next(&each))
                if (each.value.type == VD_BSON_OBJECT)
                    rc = query_check(vd_value_document(each.value), meta, depth + 1, err);
        } else if (!vd_slice_is(iter.name, "$comment") && !is_within(iter.name, meta)) {
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Cannot perform an update or delete on a time-series collection "
                                "when querying on a field that is not the metaField '%.*s'",
                                VD_SLICE_FMT(meta));
        }
    }
    return rc;
}

static int fields_check(vd_bson_t update, vd_slice_t meta, vd_error_t *err)
{
    vd_bson_iter_t iter, field;
    bool within = true;
    vd_bson_iter_init(&iter, update);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            continue; /* refused by the update's own parser */
        vd_bson_iter_init(&field, vd_value_document(iter.value));
        while (vd_bson_iter_next(&field)) {
            within &= is_within(field.name, meta);
            if (vd_slice_is(iter.name, "$rename"))
                within &= field.value.type == VD_BSON_STRING &&
                          is_within(vd_value_string(field.value), meta);
        }
    }
    return within ? VD_OK
                  : vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                 "Cannot perform an update on a time-series collection which "
                                 "updates a field that is not the metaField '%.*s'",
                                 VD_SLICE_FMT(meta));
}

int stor_timeseries_update_check(const stor_request_t *request,
                                 const stor_collection_timeseries_t *series, vd_bson_t query,
                                 vd_value_t update, bool multi, bool upsert, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t first;
    if (request->transaction != NULL)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot perform a multi update inside of a multi-document transaction "
                            "on a time-series collection");
    if (series->meta.data == NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot perform an update on a time-series collection that does not "
                            "have a metaField");
    if (!multi)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot perform a non-multi update on a time-series collection");
    if (upsert)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot perform an upsert on a time-series collection");
    int rc = query_check(query, series->meta, 0, err);
    if (rc != VD_OK)
        return rc;
    if (update.type == VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot perform an update on a time-series collection using a pipeline "
                            "update");
    if (!vd_bson_first(vd_value_document(update), &name, &first) || name.len == 0 ||
        name.data[0] != '$')
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot perform an update on a time-series collection using a "
                            "replacement document");
    return fields_check(vd_value_document(update), series->meta, err);
}

/* ---- indexes ---- */

static bool names_id(vd_bson_t filter, uint32_t depth)
{
    vd_bson_iter_t iter;
    bool found = false;
    vd_bson_iter_init(&iter, filter);
    while (!found && depth < VD_BSON_DEPTH_MAX && vd_bson_iter_next(&iter)) {
        found = is_within(iter.name, VD_SLICE_LIT("_id"));
        if (!found && (iter.value.type == VD_BSON_OBJECT || iter.value.type == VD_BSON_ARRAY))
            found = names_id(vd_value_document(iter.value), depth + 1);
    }
    return found;
}

/* Whether a filter names the metadata alone. */
static bool only_meta(vd_bson_t filter, vd_slice_t meta)
{
    return meta.data != NULL && query_check(filter, meta, 0, NULL) == VD_OK;
}

static int key_check(vd_arena_t *arena, const stor_collection_timeseries_t *series, vd_bson_t key,
                     bool *ret_measured, vd_error_t *err)
{
    vd_bson_iter_t iter;
    const char *why = NULL;
    *ret_measured = false;
    vd_bson_iter_init(&iter, key);
    while (why == NULL && vd_bson_iter_next(&iter)) {
        bool number = vd_value_is_number(iter.value), meta = is_within(iter.name, series->meta);
        bool time = vd_slice_equal(iter.name, series->time);
        *ret_measured |= !meta && !time;
        if (is_within(iter.name, VD_SLICE_LIT("_id")))
            why = "an index on _id is not built: measurements are not found by it";
        else if (vd_slice_is(iter.name, "$**"))
            why = "a wildcard index must lie in the metaField";
        else if (time && !number)
            why = "the time field must be ascending or descending (numbers only)";
        else if (!meta && !number)
            why = "a field of measurements must be ascending or descending (numbers only)";
    }
    return why == NULL ? VD_OK
                       : vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                      "Invalid index spec for time-series collection: %s. %s",
                                      vd_bson_to_json(arena, key, 300), why);
}

int stor_timeseries_index_check(vd_arena_t *arena, const stor_collection_timeseries_t *series,
                                vd_bson_t spec, vd_error_t *err)
{
    vd_value_t key = vd_bson_get(spec, "key"),
               partial = vd_bson_get(spec, "partialFilterExpression");
    bool measured;
    if (vd_value_as_flag(vd_bson_get(spec, "unique")) ||
        vd_value_as_flag(vd_bson_get(spec, "prepareUnique")))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Unique indexes are not supported on time-series collections");
    int rc = key_check(arena, series, vd_value_document(key), &measured, err);
    if (rc != VD_OK)
        return rc;
    if (measured && vd_value_as_flag(vd_bson_get(spec, "sparse")))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Sparse indexes are not supported on time-series measurements");
    bool filtered = partial.type == VD_BSON_OBJECT;
    if (filtered && names_id(vd_value_document(partial), 0))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "a partialFilterExpression on _id is not built for time-series "
                            "collections");
    if (vd_value_is_nullish(vd_bson_get(spec, "expireAfterSeconds")))
        return VD_OK;
    if (!filtered || !only_meta(vd_value_document(partial), series->meta))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "TTL indexes on time-series collections require a "
                            "partialFilterExpression on the metaField");
    vd_slice_t name;
    vd_value_t order;
    if (vd_bson_first(vd_value_document(key), &name, &order) && !vd_slice_equal(name, series->time))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "TTL indexes on non-time fields are not supported on time-series "
                            "collections");
    return VD_OK;
}
