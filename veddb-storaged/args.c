/* veddb-storaged/args.c — see args.h. */
#include "veddb-storaged/args.h"

#include <math.h>

bool stor_args_is_generic(vd_slice_t name)
{
    static const char *const names[] = {
        "$db",
        "lsid",
        "txnNumber",
        "$clusterTime",
        "$readPreference",
        "readConcern",
        "writeConcern",
        "maxTimeMS",
        "comment",
        "apiVersion",
        "apiStrict",
        "apiDeprecationErrors",
        "startTransaction",
        "autocommit",
        "$audit",
        "$client",
        "$configServerState",
        "$queryOptions",
        "maxTimeMSOpOnly",
        "mayBypassWriteBlocking",
        "$configTime",
        "$topologyTime",
        "operationTime",
    };
    for (size_t i = 0; i < VD_COUNT_OF(names); i++)
        if (vd_slice_is(name, names[i]))
            return true;
    return false;
}

static int wrong_type(const char *prefix, const stor_arg_t *arg, vd_value_t v, const char *expected,
                      vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                        "BSON field '%s.%s' is the wrong type '%s', expected %s", prefix, arg->name,
                        vd_bson_type_name(v.type), expected);
}

/* Any number to int64 as MongoDB's safeInt does: fractions cut, out of range clamped, NaN 0. */
static int64_t safe_int(vd_value_t v)
{
    int64_t whole;
    if (vd_value_as_int64(v, &whole))
        return whole;
    double d = vd_value_as_double(v);
    if (isnan(d))
        return 0;
    if (d >= 9223372036854775807.0)
        return INT64_MAX;
    if (d <= -9223372036854775808.0)
        return INT64_MIN;
    return (int64_t)d;
}

static int arg_int(const char *prefix, const stor_arg_t *arg, vd_value_t v, int64_t *ret,
                   vd_error_t *err)
{
    if (!vd_value_is_number(v))
        return wrong_type(prefix, arg, v, "types '[long, int, decimal, double]'", err);
    int64_t n = safe_int(v);
    int64_t least = arg->type == STOR_ARG_POSITIVE ? 1
                    : arg->type == STOR_ARG_COUNT  ? 0
                                                   : INT64_MIN;
    if (n < least)
        return vd_error_set(err, VD_ERR_LOCATION(51024),
                            "BSON field '%s' value must be >= %lld, actual value '%lld'", arg->name,
                            (long long)least, (long long)n);
    *ret = n;
    return VD_OK;
}

static int arg_read(const char *prefix, const stor_arg_t *arg, vd_value_t v, void *at,
                    vd_error_t *err)
{
    switch (arg->type) {
    case STOR_ARG_VALUE:
        *(vd_value_t *)at = v;
        return VD_OK;
    case STOR_ARG_DOCUMENT:
        if (v.type != VD_BSON_OBJECT)
            return wrong_type(prefix, arg, v, "type 'object'", err);
        *(vd_bson_t *)at = vd_value_document(v);
        return VD_OK;
    case STOR_ARG_ARRAY:
        if (v.type != VD_BSON_ARRAY)
            return wrong_type(prefix, arg, v, "type 'array'", err);
        *(vd_bson_t *)at = vd_value_document(v);
        return VD_OK;
    case STOR_ARG_STRING:
        if (v.type != VD_BSON_STRING)
            return wrong_type(prefix, arg, v, "type 'string'", err);
        *(vd_slice_t *)at = vd_value_string(v);
        return VD_OK;
    case STOR_ARG_BOOL:
        if (v.type != VD_BSON_BOOL && !vd_value_is_number(v))
            return wrong_type(prefix, arg, v, "types '[bool, long, int, decimal, double]'", err);
        *(bool *)at = vd_value_as_flag(v);
        return VD_OK;
    case STOR_ARG_INT:
    case STOR_ARG_COUNT:
    case STOR_ARG_POSITIVE:
        return arg_int(prefix, arg, v, at, err);
    case STOR_ARG_IGNORED:
        return VD_OK;
    case STOR_ARG_REFUSED:
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "the option '%s.%s' is not built yet",
                            prefix, arg->name);
    }
    VD_UNREACHABLE();
}

static size_t arg_find(const stor_arg_t *args, size_t arg_count, vd_slice_t name)
{
    for (size_t i = 0; i < arg_count; i++)
        if (vd_slice_is(name, args[i].name))
            return i;
    return SIZE_MAX;
}

int stor_args_parse(vd_bson_t body, const char *prefix, bool top, const stor_arg_t *args,
                    size_t arg_count, void *ret_struct, vd_error_t *err)
{
    VD_ASSERT(arg_count <= STOR_ARGS_MAX);
    uint64_t seen = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, body);
    for (bool first = true; vd_bson_iter_next(&iter); first = false) {
        if (top && first)
            continue;
        size_t i = arg_find(args, arg_count, iter.name);
        if (i == SIZE_MAX) {
            if (top && stor_args_is_generic(iter.name))
                continue;
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '%s.%.*s' is an unknown field.", prefix,
                                VD_SLICE_FMT(iter.name));
        }
        if ((seen & 1ull << i) != 0)
            return vd_error_set(err, VD_ERR_LOCATION(40413),
                                "BSON field '%s.%s' is a duplicate field", prefix, args[i].name);
        seen |= 1ull << i;
        bool null = iter.value.type == VD_BSON_NULL || iter.value.type == VD_BSON_UNDEFINED;
        if (null && args[i].type != STOR_ARG_VALUE) {
            if ((args[i].flags & (STOR_ARG_REQUIRED | STOR_ARG_NULL_IS_ERROR)) == 0)
                continue;
        }
        int rc =
            arg_read(prefix, &args[i], iter.value, (uint8_t *)ret_struct + args[i].offset, err);
        if (rc != VD_OK)
            return rc;
    }
    if (iter.bad)
        return vd_error_set(err, VD_ERR_INVALID_BSON, "the command is not valid BSON");
    for (size_t i = 0; i < arg_count; i++)
        if ((args[i].flags & STOR_ARG_REQUIRED) != 0 && (seen & 1ull << i) == 0)
            return vd_error_set(err, VD_ERR_LOCATION(40414),
                                "BSON field '%s.%s' is missing but a required field", prefix,
                                args[i].name);
    return VD_OK;
}
