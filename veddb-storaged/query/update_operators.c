/* veddb-storaged/query/update_operators.c — operators on one value: checked once, then applied to
 * what a document holds. */
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/update_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* ---- parse ---- */

int stor_parse_integer(vd_slice_t field, vd_value_t value, int64_t *ret, vd_error_t *err)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    if (!vd_value_is_number(value))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "Expected a number in: %s",
                            stor_print_element(field, value, print, sizeof print));
    if (vd_value_as_int64(value, ret))
        return VD_OK;
    double d = vd_value_as_double(value);
    const char *what = isnan(d)                    ? "Expected an integer, but found NaN in"
                       : isinf(d) || d == floor(d) ? "Cannot represent as a 64-bit integer"
                                                   : "Expected an integer";
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "%s: %s", what,
                        stor_print_element(field, value, print, sizeof print));
}

static int parse_current_date(vd_arena_t *arena, const stor_update_t *update, stor_operator_t *op,
                              vd_value_t value, vd_error_t *err)
{
    bool date = value.type == VD_BSON_BOOL, found = date;
    if (value.type == VD_BSON_OBJECT) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(value));
        while (vd_bson_iter_next(&iter)) {
            if (!vd_slice_is(iter.name, "$type"))
                return vd_error_set(err, VD_ERR_BAD_VALUE, "Unrecognized $currentDate option: %.*s",
                                    VD_SLICE_FMT(iter.name));
            if (iter.value.type != VD_BSON_STRING)
                continue;
            vd_slice_t type = vd_value_string(iter.value);
            if (vd_slice_is(type, "date") || vd_slice_is(type, "timestamp")) {
                date = vd_slice_is(type, "date");
                found = true;
            }
        }
        if (!found)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The '$type' string field is required to be 'date' or 'timestamp': "
                                "{$currentDate: {field : {$type: "
                                "'date'}}}");
    } else if (!found) {
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "%s is not valid type for $currentDate. Please use a boolean ('true') "
                            "or a $type expression ({$type: "
                            "'timestamp/date'}).",
                            vd_bson_type_name(value.type));
    }
    op->value = date ? vd_value_from_date(arena, update->now_ms)
                     : vd_value_from_timestamp(arena, update->now_ts);
    return VD_OK;
}

static int parse_bit(vd_arena_t *arena, stor_operator_t *op, vd_value_t value, vd_error_t *err)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The $bit modifier is not compatible with a %s. You must pass in an "
                            "embedded document: {$bit: {field: "
                            "{and/or/xor: #}}",
                            vd_bson_type_name(value.type));
    vd_bson_t spec = vd_value_document(value);
    stor_bit_t *bits = VD_ARENA_ARRAY(arena, stor_bit_t, vd_bson_count(spec));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        stor_bit_t *bit = &bits[op->bit_count++];
        if (vd_slice_is(iter.name, "and"))
            bit->kind = STOR_BIT_AND;
        else if (vd_slice_is(iter.name, "or"))
            bit->kind = STOR_BIT_OR;
        else if (vd_slice_is(iter.name, "xor"))
            bit->kind = STOR_BIT_XOR;
        else
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The $bit modifier only supports 'and', 'or', and 'xor', not "
                                "'%.*s' which is an unknown operator: "
                                "{%s}",
                                VD_SLICE_FMT(iter.name),
                                stor_print_element(iter.name, iter.value, print, sizeof print));
        if (iter.value.type != VD_BSON_INT32 && iter.value.type != VD_BSON_INT64)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The $bit modifier field must be an Integer(32/64 bit); a '%s' is "
                                "not supported here: {%s}",
                                vd_bson_type_name(iter.value.type),
                                stor_print_element(iter.name, iter.value, print, sizeof print));
        bit->wide = iter.value.type == VD_BSON_INT64;
        bit->operand = bit->wide ? vd_value_int64(iter.value) : vd_value_int32(iter.value);
    }
    if (op->bit_count == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "You must pass in at least one bitwise operation. The format is: "
                            "{$bit: {field: {and/or/xor: #}}");
    op->bits = bits;
    return VD_OK;
}

int stor_operator_parse(vd_arena_t *arena, stor_update_t *update, stor_operator_kind_t kind,
                        vd_slice_t field, vd_value_t value, stor_operator_t **ret_op,
                        vd_error_t *err)
{
    stor_operator_t *op = VD_ARENA_NEW(arena, stor_operator_t);
    op->kind = kind;
    op->value = value;
    op->rename = update->rename_count;
    *ret_op = op;
    char print[STOR_UPDATE_PRINT_SIZE];
    switch (kind) {
    case STOR_OP_SET:
    case STOR_OP_SET_ON_INSERT:
    case STOR_OP_UNSET:
    case STOR_OP_MIN:
    case STOR_OP_MAX:
    case STOR_OP_RENAME:
    case STOR_OP_RENAME_SOURCE:
        return VD_OK;
    case STOR_OP_INC:
    case STOR_OP_MUL:
        if (!vd_value_is_number(value))
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "Cannot %s with non-numeric argument: {%s}",
                                kind == STOR_OP_INC ? "increment" : "multiply",
                                stor_print_element(field, value, print, sizeof print));
        return VD_OK;
    case STOR_OP_CURRENT_DATE:
        return parse_current_date(arena, update, op, value, err);
    case STOR_OP_BIT:
        return parse_bit(arena, op, value, err);
    case STOR_OP_PUSH:
    case STOR_OP_ADD_TO_SET:
    case STOR_OP_PULL:
    case STOR_OP_PULL_ALL:
    case STOR_OP_POP:
        return stor_array_operator_parse(arena, op, field, value, err);
    }
    VD_UNREACHABLE();
}

/* ---- arithmetic ---- */

static int64_t as_int64(vd_value_t v)
{
    return v.type == VD_BSON_INT32 ? vd_value_int32(v) : vd_value_int64(v);
}

/* MISSING when whole numbers overflow. */
static vd_value_t calculate(vd_arena_t *arena, stor_operator_kind_t kind, vd_value_t a,
                            vd_value_t b)
{
    bool add = kind == STOR_OP_INC;
    if (a.type == VD_BSON_DECIMAL128 || b.type == VD_BSON_DECIMAL128) {
        vd_decimal_t x = vd_value_as_decimal(a), y = vd_value_as_decimal(b);
        return vd_value_from_decimal(arena, add ? vd_decimal_add(x, y) : vd_decimal_mul(x, y));
    }
    if (a.type == VD_BSON_DOUBLE || b.type == VD_BSON_DOUBLE) {
        double x = vd_value_as_double(a), y = vd_value_as_double(b);
        return vd_value_from_double(arena, add ? x + y : x * y);
    }
    int64_t result;
    bool overflow = add ? __builtin_add_overflow(as_int64(a), as_int64(b), &result)
                        : __builtin_mul_overflow(as_int64(a), as_int64(b), &result);
    if (overflow)
        return VD_VALUE_MISSING;
    if (a.type == VD_BSON_INT32 && b.type == VD_BSON_INT32 && result >= INT32_MIN &&
        result <= INT32_MAX)
        return vd_value_from_int32(arena, (int32_t)result);
    return vd_value_from_int64(arena, result);
}

/* Same type and same number. */
static bool same_number(vd_value_t a, vd_value_t b)
{
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case VD_BSON_DOUBLE:
        return vd_value_double(a) == vd_value_double(b);
    case VD_BSON_DECIMAL128: {
        vd_decimal_t x = vd_value_decimal(a), y = vd_value_decimal(b);
        return !vd_decimal_is_nan(x) && !vd_decimal_is_nan(y) && vd_decimal_compare(x, y) == 0;
    }
    default:
        return as_int64(a) == as_int64(b);
    }
}

static void print_number(vd_value_t v, char *buf, size_t size)
{
    char text[64];
    switch (v.type) {
    case VD_BSON_INT32:
        (void)snprintf(buf, size, "(NumberInt)%" PRId32, vd_value_int32(v));
        break;
    case VD_BSON_INT64:
        (void)snprintf(buf, size, "(NumberLong)%" PRId64, vd_value_int64(v));
        break;
    case VD_BSON_DOUBLE:
        (void)snprintf(buf, size, "(NumberDouble)%g", vd_value_double(v));
        break;
    default:
        vd_decimal_to_string(vd_value_decimal(v), text);
        (void)snprintf(buf, size, "(NumberDecimal)%s", text);
        break;
    }
}

static int apply_arithmetic(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name,
                            vd_value_t old, stor_operator_result_t *ret_result,
                            vd_value_t *ret_value)
{
    char print[STOR_UPDATE_PRINT_SIZE], number[96];
    const char *op_name = op->kind == STOR_OP_INC ? "$inc" : "$mul";
    if (!vd_value_is_number(old))
        return vd_error_set(run->err, VD_ERR_TYPE_MISMATCH,
                            "Cannot apply %s to a value of non-numeric type. {%s} has the field "
                            "'%.*s' of non-numeric type %s",
                            op_name, stor_print_id(run->document, print, sizeof print),
                            VD_SLICE_FMT(name), vd_bson_type_name(old.type));
    vd_value_t value = calculate(run->arena, op->kind, old, op->value);
    if (vd_value_is_missing(value)) {
        print_number(old, number, sizeof number);
        return vd_error_set(run->err, VD_ERR_BAD_VALUE,
                            "Failed to apply %s operations to current value (%s) for document {%s}",
                            op_name, number, stor_print_id(run->document, print, sizeof print));
    }
    *ret_result = same_number(old, value) ? STOR_RESULT_KEEP : STOR_RESULT_VALUE;
    *ret_value = value;
    return VD_OK;
}

static vd_value_t calculate_bits(vd_arena_t *arena, const stor_operator_t *op, bool wide,
                                 int64_t value)
{
    for (uint32_t i = 0; i < op->bit_count; i++) {
        const stor_bit_t *bit = &op->bits[i];
        wide |= bit->wide;
        switch (bit->kind) {
        case STOR_BIT_AND:
            value &= bit->operand;
            break;
        case STOR_BIT_OR:
            value |= bit->operand;
            break;
        case STOR_BIT_XOR:
            value ^= bit->operand;
            break;
        }
    }
    return wide ? vd_value_from_int64(arena, value) : vd_value_from_int32(arena, (int32_t)value);
}

static int apply_bit(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name,
                     vd_value_t old, stor_operator_result_t *ret_result, vd_value_t *ret_value)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    if (old.type != VD_BSON_INT32 && old.type != VD_BSON_INT64)
        return vd_error_set(run->err, VD_ERR_BAD_VALUE,
                            "Cannot apply $bit to a value of non-integral type.%s has the field "
                            "%.*s of non-integer type %s",
                            stor_print_id(run->document, print, sizeof print), VD_SLICE_FMT(name),
                            vd_bson_type_name(old.type));
    vd_value_t value = calculate_bits(run->arena, op, old.type == VD_BSON_INT64, as_int64(old));
    *ret_result = same_number(old, value) ? STOR_RESULT_KEEP : STOR_RESULT_VALUE;
    *ret_value = value;
    return VD_OK;
}

/* ---- apply ---- */

int stor_operator_apply(stor_update_run_t *run, const stor_operator_t *op,
                        const stor_update_path_t *path, vd_slice_t name, vd_value_t old,
                        bool in_array, stor_operator_result_t *ret_result, vd_value_t *ret_value)
{
    *ret_result = STOR_RESULT_KEEP;
    switch (op->kind) {
    case STOR_OP_SET_ON_INSERT:
    case STOR_OP_SET:
        if (op->kind == STOR_OP_SET_ON_INSERT && !run->insert)
            return VD_OK;
        *ret_value = op->value;
        *ret_result = vd_value_identical(old, op->value) ? STOR_RESULT_KEEP : STOR_RESULT_VALUE;
        return VD_OK;
    case STOR_OP_UNSET:
        *ret_value = vd_value_from_null();
        *ret_result = in_array ? STOR_RESULT_VALUE : STOR_RESULT_REMOVE;
        return VD_OK;
    case STOR_OP_INC:
    case STOR_OP_MUL:
        return apply_arithmetic(run, op, name, old, ret_result, ret_value);
    case STOR_OP_MIN:
    case STOR_OP_MAX: {
        int order = vd_value_compare(op->value, old);
        *ret_value = op->value;
        *ret_result = (op->kind == STOR_OP_MIN ? order < 0 : order > 0) ? STOR_RESULT_VALUE
                                                                        : STOR_RESULT_KEEP;
        return VD_OK;
    }
    case STOR_OP_CURRENT_DATE:
        *ret_value = op->value;
        *ret_result = STOR_RESULT_VALUE;
        return VD_OK;
    case STOR_OP_RENAME:
        *ret_value = run->renamed[op->rename];
        *ret_result = vd_value_is_missing(*ret_value) ? STOR_RESULT_KEEP : STOR_RESULT_VALUE;
        return VD_OK;
    case STOR_OP_RENAME_SOURCE:
        *ret_result =
            vd_value_is_missing(run->renamed[op->rename]) ? STOR_RESULT_KEEP : STOR_RESULT_REMOVE;
        return VD_OK;
    case STOR_OP_BIT:
        return apply_bit(run, op, name, old, ret_result, ret_value);
    case STOR_OP_PUSH:
    case STOR_OP_ADD_TO_SET:
    case STOR_OP_PULL:
    case STOR_OP_PULL_ALL:
    case STOR_OP_POP:
        return stor_array_operator_apply(run, op, path, name, old, ret_result);
    }
    VD_UNREACHABLE();
}

bool stor_operator_creates(const stor_update_run_t *run, const stor_operator_t *op)
{
    switch (op->kind) {
    case STOR_OP_SET:
    case STOR_OP_INC:
    case STOR_OP_MUL:
    case STOR_OP_MIN:
    case STOR_OP_MAX:
    case STOR_OP_CURRENT_DATE:
    case STOR_OP_BIT:
    case STOR_OP_PUSH:
    case STOR_OP_ADD_TO_SET:
        return true;
    case STOR_OP_SET_ON_INSERT:
        return run->insert;
    case STOR_OP_RENAME:
        return !vd_value_is_missing(run->renamed[op->rename]);
    default:
        return false;
    }
}

void stor_operator_create(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name)
{
    vd_value_t value = op->value;
    switch (op->kind) {
    case STOR_OP_MUL:
        value = calculate(run->arena, STOR_OP_MUL, op->value, vd_value_from_int32(run->arena, 0));
        break;
    case STOR_OP_BIT:
        value = calculate_bits(run->arena, op, false, 0);
        break;
    case STOR_OP_RENAME:
        value = run->renamed[op->rename];
        break;
    case STOR_OP_PUSH:
    case STOR_OP_ADD_TO_SET:
        stor_array_operator_create(run, op, name);
        return;
    default:
        break;
    }
    vd_bb_value(run->bb, name, value);
}
