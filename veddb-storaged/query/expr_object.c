/* veddb-storaged/query/expr_object.c — objects: $mergeObjects, $getField, $setField, $unsetField;
 * and what a value is: $type, $isNumber, $bsonSize, timestamps. */
#include "libcommon/base/map.h"
#include "veddb-storaged/query/expr_private.h"

/* ---- fields by name: a set keeps the place of the first ---- */

#define FIELDS_TABLE_FROM 9 /* fields; fewer are searched one by one */

void stor_expr_fields_init(stor_expr_fields_t *fields, vd_arena_t *arena, uint32_t count_max)
{
    memset(fields, 0, sizeof *fields);
    fields->arena = arena;
    fields->cap = count_max > 0 ? count_max : 1;
    fields->names = vd_arena_alloc(arena, sizeof *fields->names * fields->cap);
    fields->values = vd_arena_alloc(arena, sizeof *fields->values * fields->cap);
    if (fields->cap < FIELDS_TABLE_FROM)
        return;
    uint32_t size = 16;
    while (size < fields->cap * 2)
        size *= 2;
    fields->table = VD_ARENA_ARRAY(arena, uint32_t, size);
    fields->table_mask = size - 1;
}

void stor_expr_fields_set(stor_expr_fields_t *fields, vd_slice_t name, vd_value_t value)
{
    uint32_t *entry = NULL;
    if (fields->table != NULL) {
        uint64_t h = vd_hash(name);
        for (entry = &fields->table[h & fields->table_mask]; *entry != 0;
             entry = &fields->table[++h & fields->table_mask])
            if (vd_slice_equal(fields->names[*entry - 1], name)) {
                fields->values[*entry - 1] = value;
                return;
            }
    } else {
        for (uint32_t i = 0; i < fields->count; i++)
            if (vd_slice_equal(fields->names[i], name)) {
                fields->values[i] = value;
                return;
            }
    }
    VD_ASSERT(fields->count < fields->cap);
    fields->names[fields->count] = name;
    fields->values[fields->count++] = value;
    if (entry != NULL)
        *entry = fields->count;
}

int stor_expr_fields_end(stor_expr_fields_t *fields, vd_value_t *ret, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, fields->arena, STOR_EXPR_VALUE_MAX_BYTES);
    for (uint32_t i = 0; i < fields->count; i++)
        vd_bb_value(&bb, fields->names[i], fields->values[i]);
    int rc = vd_bb_finish(&bb, &doc, err);
    if (rc == VD_OK)
        *ret = vd_value_from_document(doc);
    return rc;
}

/* ---- $mergeObjects ---- */

static int check_merge(vd_value_t v, vd_error_t *err)
{
    if (v.type == VD_BSON_OBJECT || vd_value_is_nullish(v))
        return VD_OK;
    return vd_error_set(err, VD_ERR_LOCATION(40400),
                        "$mergeObjects requires object inputs, but input is of type %s",
                        stor_expr_type(v));
}

int stor_expr_merge(vd_arena_t *arena, const vd_value_t *values, uint32_t count, vd_value_t *ret,
                    vd_error_t *err)
{
    uint64_t fields_max = 0;
    vd_bson_iter_t iter;
    for (uint32_t i = 0; i < count; i++) {
        int rc = check_merge(values[i], err);
        if (rc != VD_OK)
            return rc;
        if (values[i].type == VD_BSON_OBJECT)
            fields_max += vd_bson_count(vd_value_document(values[i]));
    }
    if (fields_max > VD_QUERY_MEMORY_MAX_BYTES / 64)
        return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT, "$mergeObjects has too many fields");
    stor_expr_fields_t fields;
    stor_expr_fields_init(&fields, arena, (uint32_t)fields_max);
    for (uint32_t i = 0; i < count; i++) {
        if (values[i].type != VD_BSON_OBJECT)
            continue;
        vd_bson_iter_init(&iter, vd_value_document(values[i]));
        while (vd_bson_iter_next(&iter))
            stor_expr_fields_set(&fields, iter.name, iter.value);
    }
    return stor_expr_fields_end(&fields, ret, err);
}

static int eval_merge_objects(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                              vd_error_t *err)
{
    vd_value_t *values = vd_arena_alloc(env->arena, sizeof *values * ((size_t)expr->count + 1));
    uint32_t count = expr->count;
    for (uint32_t i = 0; i < expr->count; i++) {
        int rc = stor_expr_arg(expr, i, env, &values[i], err);
        if (rc != VD_OK)
            return rc;
    }
    if (count == 1 && values[0].type == VD_BSON_ARRAY)
        values = stor_expr_elements(env->arena, values[0], &count);
    return stor_expr_merge(env->arena, values, count, ret, err);
}

/* ---- $getField: args input (NULL: $$CURRENT); path is the name ---- */

static int constant_name(const stor_expr_op_t *op, const stor_expr_t *field, const int codes[3],
                         vd_slice_t *ret_name, vd_error_t *err)
{
    vd_value_t v;
    if (field->kind == STOR_EXPR_FIELD || field->kind == STOR_EXPR_VARIABLE)
        return vd_error_set(err, VD_ERR_LOCATION(codes[0]),
                            "%s's 'field' is a field path reference which is not allowed in this "
                            "context. Did you mean {$literal: ...}?",
                            op->name);
    if (!stor_expr_constant(field, &v))
        return vd_error_set(err, VD_ERR_LOCATION(codes[1]),
                            "%s requires 'field' to evaluate to a constant, but got a non-constant "
                            "argument",
                            op->name);
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(codes[2]),
                            "%s requires 'field' to evaluate to type String, but got %s", op->name,
                            stor_expr_type(v));
    *ret_name = vd_value_string(v);
    return VD_OK;
}

static int parse_get_field(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                           stor_expr_t **ret_expr, vd_error_t *err)
{
    static const int codes[3] = {5654600, 5654601, 5654602};
    stor_expr_t *expr = stor_expr_new(parser, op, 1), *field = NULL;
    vd_slice_t first = VD_SLICE_NULL;
    vd_value_t ignored;
    bool named =
        spec.type == VD_BSON_OBJECT && !(vd_bson_first(vd_value_document(spec), &first, &ignored) &&
                                         first.len > 0 && first.data[0] == '$');
    int rc = VD_OK;
    if (!named) {
        rc = stor_expr_parse_operand(parser, spec, &field, err);
    } else {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(spec));
        while (rc == VD_OK && vd_bson_iter_next(&iter))
            if (vd_slice_is(iter.name, "field"))
                rc = stor_expr_parse_operand(parser, iter.value, &field, err);
            else if (vd_slice_is(iter.name, "input"))
                rc = stor_expr_parse_operand(parser, iter.value, &expr->args[0], err);
            else
                rc = vd_error_set(err, VD_ERR_LOCATION(3041701),
                                  "$getField found an unknown argument: %.*s",
                                  VD_SLICE_FMT(iter.name));
    }
    if (rc == VD_OK && field == NULL)
        rc = vd_error_set(err, VD_ERR_LOCATION(3041702),
                          "$getField requires 'field' to be specified");
    if (rc == VD_OK && expr->args[0] == NULL) {
        static const uint8_t current[] = {10,  0,   0,   0,   '$', '$', 'C',
                                          'U', 'R', 'R', 'E', 'N', 'T', 0};
        if (named)
            return vd_error_set(err, VD_ERR_LOCATION(3041703),
                                "$getField requires 'input' to be specified");
        rc = stor_expr_parse_operand(parser, (vd_value_t){current, sizeof current, VD_BSON_STRING},
                                     &expr->args[0], err);
    }
    if (rc == VD_OK)
        rc = constant_name(op, field, codes, &expr->path, err);
    *ret_expr = expr;
    return rc;
}

static int eval_get_field(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (v.type == VD_BSON_OBJECT)
        *ret = vd_bson_get_slice(vd_value_document(v), expr->path);
    else
        *ret = v.type == VD_BSON_NULL || v.type == VD_BSON_UNDEFINED ? vd_value_from_null()
                                                                     : VD_VALUE_MISSING;
    return VD_OK;
}

/* ---- $setField (variant 0), $unsetField (1): args input, value ---- */

static int parse_set_field(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                           stor_expr_t **ret_expr, vd_error_t *err)
{
    static const int codes[3] = {4161108, 4161106, 4161107};
    bool unset = op->variant == 1;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(4161100),
                            "%s only supports an object as its argument", op->name);
    stor_expr_t *expr = stor_expr_new(parser, op, 2), *field = NULL;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        stor_expr_t **target = vd_slice_is(iter.name, "field")             ? &field
                               : vd_slice_is(iter.name, "input")           ? &expr->args[0]
                               : !unset && vd_slice_is(iter.name, "value") ? &expr->args[1]
                                                                           : NULL;
        if (target == NULL)
            return vd_error_set(err, VD_ERR_LOCATION(4161101), "%s found an unknown argument: %.*s",
                                op->name, VD_SLICE_FMT(iter.name));
        int rc = stor_expr_parse_operand(parser, iter.value, target, err);
        if (rc != VD_OK)
            return rc;
    }
    if (field == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(4161102), "%s requires 'field' to be specified",
                            op->name);
    if (!unset && expr->args[1] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(4161103), "%s requires 'value' to be specified",
                            op->name);
    if (expr->args[0] == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(4161109), "%s requires 'input' to be specified",
                            op->name);
    *ret_expr = expr;
    int rc = constant_name(op, field, codes, &expr->path, err);
    if (rc == VD_OK && memchr(expr->path.data, 0, expr->path.len) != NULL)
        rc = vd_error_set(err, VD_ERR_LOCATION(16411),
                          "FieldPath field names may not contain '\\0'.");
    return rc;
}

static int eval_set_field(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    vd_value_t input, value = VD_VALUE_MISSING;
    int rc = stor_expr_arg(expr, 0, env, &input, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(input)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (input.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(4161105),
                            "%s requires 'input' to evaluate to type Object", expr->op->name);
    if (expr->args[1] != NULL)
        rc = stor_expr_arg(expr, 1, env, &value, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, env->arena, STOR_EXPR_VALUE_MAX_BYTES);
    bool seen = false;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(input));
    while (vd_bson_iter_next(&iter)) {
        bool hit = vd_slice_equal(iter.name, expr->path);
        vd_bb_value(&bb, iter.name, hit ? value : iter.value);
        seen |= hit;
    }
    if (!seen)
        vd_bb_value(&bb, expr->path, value);
    vd_bson_t doc;
    rc = vd_bb_finish(&bb, &doc, err);
    if (rc == VD_OK)
        *ret = vd_value_from_document(doc);
    return rc;
}

/* ---- what a value is ---- */

static int eval_type(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        *ret = vd_value_from_string(env->arena, vd_slice_str(stor_expr_type(v)));
    return rc;
}

static int eval_is_number(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc == VD_OK)
        *ret = vd_value_from_bool(vd_value_is_number(v));
    return rc;
}

static int eval_bson_size(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(31393),
                            "$bsonSize requires a document input, found: %s", stor_expr_type(v));
    *ret = vd_value_from_int32(env->arena, (int32_t)v.len);
    return VD_OK;
}

/* variant 0: $tsSecond, 1: $tsIncrement. */
static int eval_timestamp(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                          vd_error_t *err)
{
    vd_value_t v;
    int rc = stor_expr_arg(expr, 0, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_nullish(v)) {
        stor_expr_set_null(ret);
        return VD_OK;
    }
    bool increment = expr->op->variant == 1;
    if (v.type != VD_BSON_TIMESTAMP)
        return vd_error_set(err, VD_ERR_LOCATION(increment ? 5687302 : 5687301),
                            "Argument to %s must be a timestamp, but is %s", expr->op->name,
                            stor_expr_type(v));
    uint64_t ts = vd_value_timestamp(v);
    *ret = vd_value_from_int64(env->arena, (int64_t)(increment ? ts & UINT32_MAX : ts >> 32));
    return VD_OK;
}

static const stor_expr_op_t object_ops[] = {
    STOR_EXPR_OP("$mergeObjects", 0, STOR_EXPR_ARGS_ANY, 0, eval_merge_objects),
    STOR_EXPR_OP_PARSED("$getField", 0, 0, eval_get_field, parse_get_field),
    STOR_EXPR_OP_PARSED("$setField", 0, 0, eval_set_field, parse_set_field),
    STOR_EXPR_OP_PARSED("$unsetField", 0, 1, eval_set_field, parse_set_field),
    STOR_EXPR_OP("$type", 1, 1, 0, eval_type),
    STOR_EXPR_OP("$isNumber", 1, 1, 0, eval_is_number),
    STOR_EXPR_OP("$bsonSize", 1, 1, 0, eval_bson_size),
    STOR_EXPR_OP("$tsSecond", 1, 1, 0, eval_timestamp),
    STOR_EXPR_OP("$tsIncrement", 1, 1, 1, eval_timestamp),
};
const stor_expr_family_t stor_expr_family_object = {object_ops, VD_COUNT_OF(object_ops)};
