/* veddb-storaged/query/expr.c — parse, fold and evaluate: constants, paths, variables, objects,
 * arrays; the lookup of operators.
 *
 * Order: parsing first, then leaves, then the public door. Names are resolved at parse: evaluation
 *        follows pointers only. */
#include "veddb-storaged/query/expr_private.h"

#include <stddef.h>

static const stor_expr_family_t *const families[] = {
    &stor_expr_family_core,   &stor_expr_family_arith,    &stor_expr_family_string,
    &stor_expr_family_array,  &stor_expr_family_map,      &stor_expr_family_set,
    &stor_expr_family_object, &stor_expr_family_convert,  &stor_expr_family_regex,
    &stor_expr_family_date,   &stor_expr_family_datemath, &stor_expr_family_group,
    &stor_expr_family_trig,
};

/* ---- names and paths ---- */

static const stor_expr_op_t *find_operator(vd_slice_t name)
{
    for (size_t f = 0; f < VD_COUNT_OF(families); f++)
        for (size_t i = 0; i < families[f]->count; i++) {
            const stor_expr_op_t *op = &families[f]->ops[i];
            if (op->name_len == name.len && memcmp(op->name, name.data, name.len) == 0)
                return op;
        }
    return NULL;
}

bool stor_expr_is_operator(vd_slice_t name)
{
    return find_operator(name) != NULL;
}

int stor_field_name_check(vd_slice_t name, vd_error_t *err)
{
    if (name.len == 0)
        return vd_error_set(err, VD_ERR_LOCATION(15998),
                            "FieldPath field names may not be empty strings.");
    if (name.data[0] == '$')
        return vd_error_set(err, VD_ERR_LOCATION(16410),
                            "FieldPath field names may not start with '$'. Consider using "
                            "$getField or $setField.");
    if (memchr(name.data, 0, name.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(16411),
                            "FieldPath field names may not contain '\\0'.");
    return VD_OK;
}

int stor_field_path_split(vd_arena_t *arena, vd_slice_t text, const vd_slice_t **ret_parts,
                          uint32_t *ret_count, vd_error_t *err)
{
    if (text.len == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40352),
                            "FieldPath cannot be constructed with empty string");
    if (text.data[text.len - 1] == '.')
        return vd_error_set(err, VD_ERR_LOCATION(40353), "FieldPath must not end with a '.'.");
    uint32_t count = 1;
    for (size_t i = 0; i < text.len; i++)
        count += text.data[i] == '.';
    if (count > STOR_EXPR_PATH_PARTS_MAX)
        return vd_error_set(err, VD_ERR_OVERFLOW, "FieldPath is too long");

    vd_slice_t *parts = VD_ARENA_ARRAY(arena, vd_slice_t, count);
    uint32_t n = 0;
    size_t start = 0;
    for (size_t i = 0; i <= text.len; i++) {
        if (i < text.len && text.data[i] != '.')
            continue;
        parts[n] = vd_slice(text.data + start, i - start);
        int rc = stor_field_name_check(parts[n], err);
        if (rc != VD_OK)
            return rc;
        n++;
        start = i + 1;
    }
    *ret_parts = parts;
    *ret_count = n;
    return VD_OK;
}

static bool is_name_char(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c >= 0x80;
}

static int check_variable_chars(vd_slice_t name, vd_error_t *err)
{
    for (size_t i = 0; i < name.len; i++)
        if (!is_name_char(name.data[i]))
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "'%.*s' contains an invalid character for a variable name",
                                VD_SLICE_FMT(name));
    return VD_OK;
}

int stor_expr_check_variable(vd_slice_t name, vd_error_t *err)
{
    if (name.len == 0)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "empty variable names are not allowed");
    if (vd_slice_is(name, "CURRENT"))
        return VD_OK;
    uint8_t c = name.data[0];
    if (!(c >= 'a' && c <= 'z') && c < 0x80)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "'%.*s' starts with an invalid character for a user variable name",
                            VD_SLICE_FMT(name));
    return check_variable_chars(name, err);
}

static int check_variable_read(vd_slice_t name, vd_error_t *err)
{
    if (name.len == 0)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "empty variable names are not allowed");
    uint8_t c = name.data[0];
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && c < 0x80)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "'%.*s' starts with an invalid character for a variable name",
                            VD_SLICE_FMT(name));
    return check_variable_chars(name, err);
}

/* ---- leaves ---- */

static int eval_constant(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                         vd_error_t *err)
{
    (void)env, (void)err;
    *ret = expr->value;
    return VD_OK;
}

static int walk_array(vd_arena_t *arena, vd_value_t array, const vd_slice_t *parts, uint32_t count,
                      vd_value_t *ret, vd_error_t *err)
{
    stor_expr_array_t out;
    stor_expr_array_begin(&out, arena);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            continue;
        vd_value_t nested;
        int rc = stor_expr_walk(arena, iter.value, parts, count, &nested, err);
        if (rc != VD_OK)
            return rc;
        if (!vd_value_is_missing(nested))
            stor_expr_array_push(&out, nested);
    }
    return stor_expr_array_end(&out, ret, err);
}

int stor_expr_walk(vd_arena_t *arena, vd_value_t value, const vd_slice_t *parts, uint32_t count,
                   vd_value_t *ret, vd_error_t *err)
{
    for (uint32_t i = 0; i < count; i++) {
        if (value.type == VD_BSON_ARRAY)
            return walk_array(arena, value, parts + i, count - i, ret, err);
        if (value.type != VD_BSON_OBJECT) {
            *ret = VD_VALUE_MISSING;
            return VD_OK;
        }
        value = vd_bson_get_slice(vd_value_document(value), parts[i]);
    }
    *ret = value;
    return VD_OK;
}

static int eval_field(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    return stor_expr_walk(env->arena, env->current, expr->names, expr->name_count, ret, err);
}

static int eval_root(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    return stor_expr_walk(env->arena, vd_value_from_document(env->root), expr->names,
                          expr->name_count, ret, err);
}

static int eval_slot(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                     vd_error_t *err)
{
    return stor_expr_walk(env->arena, env->slots[expr->slot], expr->names, expr->name_count, ret,
                          err);
}

static int eval_let_constant(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                             vd_error_t *err)
{
    if (env->variables == NULL || expr->slot >= env->variables->count)
        return vd_error_set(err, VD_ERR_LOCATION(17276), "Use of undefined variable");
    return stor_expr_walk(env->arena, env->variables->let[expr->slot].value, expr->names,
                          expr->name_count, ret, err);
}

static int eval_now(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret, vd_error_t *err)
{
    if (env->variables == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(51144),
                            "Builtin variable '$$NOW' is not available");
    return stor_expr_walk(env->arena, vd_value_from_date(env->arena, env->variables->now_ms),
                          expr->names, expr->name_count, ret, err);
}

static int eval_cluster_time(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                             vd_error_t *err)
{
    if (env->variables == NULL || env->variables->cluster_time == 0)
        return vd_error_set(err, VD_ERR_LOCATION(51144),
                            "Builtin variable '$$CLUSTER_TIME' is not available");
    return stor_expr_walk(env->arena,
                          vd_value_from_timestamp(env->arena, env->variables->cluster_time),
                          expr->names, expr->name_count, ret, err);
}

static int eval_user_roles(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                           vd_error_t *err)
{
    static const uint8_t none[5] = {5};
    vd_bson_t roles = env->variables == NULL ? VD_BSON_NONE : env->variables->user_roles;
    if (roles.len < sizeof none)
        roles = (vd_bson_t){none, sizeof none};
    return stor_expr_walk(env->arena, vd_value_from_array(roles), expr->names, expr->name_count,
                          ret, err);
}

stor_variables_t *stor_variables_copy(vd_arena_t *arena, const stor_variables_t *from)
{
    stor_variables_t *copy = vd_arena_copy(arena, from, sizeof *from);
    if (from->user_roles.len > 0)
        copy->user_roles.data = vd_arena_copy(arena, from->user_roles.data, from->user_roles.len);
    return copy;
}

int stor_expr_eval_into(const stor_expr_t *expr, stor_expr_env_t *env, vd_bb_t *bb, vd_slice_t name,
                        vd_error_t *err)
{
    int rc = VD_OK;
    if (expr->kind == STOR_EXPR_OBJECT) {
        vd_bb_open_document(bb, name);
        for (uint32_t i = 0; i < expr->count && rc == VD_OK; i++)
            rc = stor_expr_eval_into(expr->args[i], env, bb, expr->names[i], err);
        vd_bb_close(bb);
        return rc;
    }
    vd_value_t v;
    rc = stor_expr_run(expr, env, &v, err);
    if (rc == VD_OK)
        vd_bb_value(bb, name, v);
    return rc;
}

static int eval_object(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                       vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, env->arena, STOR_EXPR_VALUE_MAX_BYTES);
    for (uint32_t i = 0; i < expr->count; i++) {
        int rc = stor_expr_eval_into(expr->args[i], env, &bb, expr->names[i], err);
        if (rc != VD_OK)
            return rc;
    }
    vd_bson_t doc;
    int rc = vd_bb_finish(&bb, &doc, err);
    if (rc == VD_OK)
        *ret = vd_value_from_document(doc);
    return rc;
}

static int eval_array(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    for (uint32_t i = 0; i < expr->count; i++) {
        vd_value_t v;
        int rc = stor_expr_arg(expr, i, env, &v, err);
        if (rc != VD_OK)
            return rc;
        stor_expr_array_push(&out, v);
    }
    return stor_expr_array_end(&out, ret, err);
}

/* ---- parse ---- */

stor_expr_t *stor_expr_new(stor_expr_parser_t *parser, const stor_expr_op_t *op, uint32_t count)
{
    stor_expr_t *expr = VD_ARENA_NEW(parser->arena, stor_expr_t);
    expr->kind = STOR_EXPR_OPERATOR;
    expr->op = op;
    expr->eval = op == NULL ? NULL : op->eval;
    expr->count = count;
    if (count > 0)
        expr->args = VD_ARENA_ARRAY(parser->arena, stor_expr_t *, count);
    return expr;
}

static stor_expr_t *new_constant(vd_arena_t *arena, vd_value_t value)
{
    stor_expr_t *expr = VD_ARENA_NEW(arena, stor_expr_t);
    expr->kind = STOR_EXPR_CONSTANT;
    expr->eval = eval_constant;
    expr->value = value;
    return expr;
}

int stor_expr_parse_literal(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                            stor_expr_t **ret_expr, vd_error_t *err)
{
    (void)op, (void)err;
    *ret_expr = new_constant(parser->arena, spec);
    return VD_OK;
}

int stor_expr_take_slots(stor_expr_parser_t *parser, uint32_t count, uint32_t *ret_first,
                         vd_error_t *err)
{
    if (count > STOR_VARIABLES_MAX - parser->slots)
        return vd_error_set(err, VD_ERR_OVERFLOW,
                            "an expression may bind at most %d variables at a time",
                            STOR_VARIABLES_MAX);
    *ret_first = parser->slots;
    parser->slots += count;
    return VD_OK;
}

bool stor_expr_args_constant(const stor_expr_t *expr)
{
    for (uint32_t i = 0; i < expr->count; i++)
        if (expr->args[i] != NULL && expr->args[i]->kind != STOR_EXPR_CONSTANT)
            return false;
    return true;
}

/* Replaces an expression whose operands are all constant by its value. One that fails stays, so
 * that the error is raised only where the expression is really reached. */
static void fold(stor_expr_parser_t *parser, stor_expr_t **expr_p)
{
    const stor_expr_t *expr = *expr_p;
    if (expr->kind == STOR_EXPR_CONSTANT || !stor_expr_args_constant(expr))
        return;
    if (expr->op != NULL && (expr->op->flags & STOR_EXPR_VOLATILE) != 0)
        return;
    stor_expr_env_t env;
    stor_expr_env_init(&env, parser->arena, parser->variables);
    vd_value_t value;
    if (stor_expr_run(expr, &env, &value, NULL) == VD_OK)
        *expr_p = new_constant(parser->arena, value);
}

static const stor_expr_scope_t *find_scope(const stor_expr_parser_t *parser, vd_slice_t name)
{
    for (const stor_expr_scope_t *s = parser->scope; s != NULL; s = s->outer)
        if (vd_slice_equal(s->name, name))
            return s;
    return NULL;
}

static int resolve_variable(stor_expr_parser_t *parser, vd_slice_t name, stor_expr_t *expr,
                            vd_error_t *err)
{
    static const struct {
        const char *name;
        stor_expr_eval_t eval;
    } system[] = {
        {"CURRENT", eval_field}, {"ROOT", eval_root},
        {"NOW", eval_now},       {"CLUSTER_TIME", eval_cluster_time},
        {"REMOVE", NULL},        {"USER_ROLES", eval_user_roles},
        {"SEARCH_META", NULL}, /* there is no search: it never has a value */
    };
    expr->kind = STOR_EXPR_VARIABLE;
    const stor_expr_scope_t *scope = find_scope(parser, name);
    if (scope != NULL) {
        expr->slot = scope->slot;
        expr->eval = eval_slot;
        return VD_OK;
    }
    for (size_t i = 0; i < VD_COUNT_OF(system); i++)
        if (vd_slice_is(name, system[i].name)) {
            expr->eval = system[i].eval;
            if (expr->eval == NULL)
                expr->kind = STOR_EXPR_CONSTANT, expr->eval = eval_constant;
            return VD_OK;
        }
    for (uint32_t i = 0; parser->variables != NULL && i < parser->variables->count; i++)
        if (vd_slice_equal(parser->variables->let[i].name, name)) {
            expr->slot = i;
            expr->eval = eval_let_constant;
            return VD_OK;
        }
    return vd_error_set(err, VD_ERR_LOCATION(17276), "Use of undefined variable: %.*s",
                        VD_SLICE_FMT(name));
}

static int parse_variable(stor_expr_parser_t *parser, vd_slice_t text, stor_expr_t **ret_expr,
                          vd_error_t *err)
{
    const uint8_t *dot = text.len == 0 ? NULL : memchr(text.data, '.', text.len);
    vd_slice_t name = dot == NULL ? text : vd_slice(text.data, (size_t)(dot - text.data));
    int rc = check_variable_read(name, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_t *expr = VD_ARENA_NEW(parser->arena, stor_expr_t);
    rc = resolve_variable(parser, name, expr, err);
    if (rc == VD_OK && dot != NULL) {
        vd_slice_t rest = vd_slice(dot + 1, text.len - name.len - 1);
        if (rest.len == 0)
            return vd_error_set(err, VD_ERR_LOCATION(40353), "FieldPath must not end with a '.'.");
        rc = stor_field_path_split(parser->arena, rest, &expr->names, &expr->name_count, err);
        if (expr->eval == eval_field)
            expr->kind = STOR_EXPR_FIELD, expr->path = rest;
    }
    *ret_expr = expr;
    return rc;
}

static int parse_path(stor_expr_parser_t *parser, vd_slice_t text, stor_expr_t **ret_expr,
                      vd_error_t *err)
{
    if (text.len < 2)
        return vd_error_set(err, VD_ERR_LOCATION(16872), "'$' by itself is not a valid FieldPath");
    if (text.data[1] == '$')
        return parse_variable(parser, vd_slice(text.data + 2, text.len - 2), ret_expr, err);

    stor_expr_t *expr = VD_ARENA_NEW(parser->arena, stor_expr_t);
    expr->path = vd_slice(text.data + 1, text.len - 1);
    int rc = stor_field_path_split(parser->arena, expr->path, &expr->names, &expr->name_count, err);
    const stor_expr_scope_t *current = find_scope(parser, VD_SLICE_LIT("CURRENT"));
    expr->kind = current == NULL ? STOR_EXPR_FIELD : STOR_EXPR_VARIABLE;
    expr->eval = current == NULL ? eval_field : eval_slot;
    expr->slot = current == NULL ? 0 : current->slot;
    *ret_expr = expr;
    return rc;
}

static int check_arity(const stor_expr_op_t *op, uint32_t count, vd_error_t *err)
{
    if (count >= op->args_min && (op->args_max == STOR_EXPR_ARGS_ANY || count <= op->args_max))
        return VD_OK;
    if (op->args_min == op->args_max)
        return vd_error_set(err, VD_ERR_LOCATION(16020),
                            "Expression %s takes exactly %d arguments. %u were passed in.",
                            op->name, op->args_min, count);
    return vd_error_set(err, VD_ERR_LOCATION(28667),
                        "Expression %s takes at least %d arguments, and at most %d, but %u were "
                        "passed in.",
                        op->name, op->args_min, op->args_max, count);
}

int stor_expr_parse_positional(stor_expr_parser_t *parser, const stor_expr_op_t *op,
                               vd_value_t spec, stor_expr_t **ret_expr, vd_error_t *err)
{
    bool list = spec.type == VD_BSON_ARRAY;
    uint32_t count = list ? vd_bson_count(vd_value_document(spec)) : 1;
    int rc = check_arity(op, count, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_t *expr = stor_expr_new(parser, op, count);
    *ret_expr = expr;
    if (!list)
        return stor_expr_parse_operand(parser, spec, &expr->args[0], err);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    for (uint32_t i = 0; i < count && rc == VD_OK && vd_bson_iter_next(&iter); i++)
        rc = stor_expr_parse_operand(parser, iter.value, &expr->args[i], err);
    return rc;
}

int stor_expr_parse_named(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                          const stor_expr_named_t *named, stor_expr_t **ret_expr, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(named->not_object_code),
                            "%s only supports an object as an argument, found: %s", op->name,
                            stor_expr_type(spec));
    stor_expr_t *expr = stor_expr_new(parser, op, named->count);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        uint32_t i = 0;
        while (i < named->count && !vd_slice_is(iter.name, named->fields[i].name))
            i++;
        if (i == named->count)
            return vd_error_set(err, VD_ERR_LOCATION(named->unknown_code),
                                "Unrecognized argument to %s: %.*s", op->name,
                                VD_SLICE_FMT(iter.name));
        int rc = stor_expr_parse_operand(parser, iter.value, &expr->args[i], err);
        if (rc != VD_OK)
            return rc;
    }
    for (uint32_t i = 0; i < named->count; i++)
        if (expr->args[i] == NULL && named->fields[i].missing_code != 0)
            return vd_error_set(err, VD_ERR_LOCATION(named->fields[i].missing_code),
                                "Missing '%s' parameter to %s", named->fields[i].name, op->name);
    *ret_expr = expr;
    return VD_OK;
}

static int parse_operator(stor_expr_parser_t *parser, vd_bson_t spec, stor_expr_t **ret_expr,
                          vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t argument;
    if (vd_bson_count(spec) != 1 || !vd_bson_first(spec, &name, &argument))
        return vd_error_set(err, VD_ERR_LOCATION(15983),
                            "An object representing an expression must have exactly one field: %s",
                            vd_bson_to_json(parser->arena, spec, 200));
    const stor_expr_op_t *op = find_operator(name);
    if (op == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(168), "Unrecognized expression '%.*s'",
                            VD_SLICE_FMT(name));
    stor_expr_parse_t parse = op->parse != NULL ? op->parse : stor_expr_parse_positional;
    int rc = parse(parser, op, argument, ret_expr, err);
    if (rc == VD_OK)
        fold(parser, ret_expr);
    return rc;
}

static int parse_object(stor_expr_parser_t *parser, vd_bson_t spec, stor_expr_t **ret_expr,
                        vd_error_t *err)
{
    vd_slice_t first;
    vd_value_t ignored;
    if (vd_bson_first(spec, &first, &ignored) && first.len > 0 && first.data[0] == '$')
        return parse_operator(parser, spec, ret_expr, err);

    uint32_t count = vd_bson_count(spec);
    stor_expr_t *expr = stor_expr_new(parser, NULL, count);
    vd_slice_t *names = VD_ARENA_ARRAY(parser->arena, vd_slice_t, count + 1);
    expr->kind = STOR_EXPR_OBJECT;
    expr->eval = eval_object;
    expr->names = names;
    expr->name_count = count;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    for (uint32_t i = 0; i < count && vd_bson_iter_next(&iter); i++) {
        int rc = stor_field_name_check(iter.name, err);
        if (rc == VD_OK && memchr(iter.name.data, '.', iter.name.len) != NULL)
            rc = vd_error_set(err, VD_ERR_LOCATION(16412),
                              "FieldPath field names may not contain '.'. Consider using $getField "
                              "or $setField.");
        for (uint32_t j = 0; j < i && rc == VD_OK; j++)
            if (vd_slice_equal(names[j], iter.name))
                rc = vd_error_set(err, VD_ERR_LOCATION(16406),
                                  "duplicate field name specified in "
                                  "object literal: %.*s",
                                  VD_SLICE_FMT(iter.name));
        if (rc == VD_OK)
            rc = stor_expr_parse_operand(parser, iter.value, &expr->args[i], err);
        if (rc != VD_OK)
            return rc;
        names[i] = iter.name;
    }
    *ret_expr = expr;
    fold(parser, ret_expr);
    return VD_OK;
}

static int parse_array(stor_expr_parser_t *parser, vd_bson_t spec, stor_expr_t **ret_expr,
                       vd_error_t *err)
{
    uint32_t count = vd_bson_count(spec);
    stor_expr_t *expr = stor_expr_new(parser, NULL, count);
    expr->kind = STOR_EXPR_ARRAY;
    expr->eval = eval_array;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    for (uint32_t i = 0; i < count && vd_bson_iter_next(&iter); i++) {
        int rc = stor_expr_parse_operand(parser, iter.value, &expr->args[i], err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_expr = expr;
    fold(parser, ret_expr);
    return VD_OK;
}

int stor_expr_parse_operand(stor_expr_parser_t *parser, vd_value_t spec, stor_expr_t **ret_expr,
                            vd_error_t *err)
{
    if (parser->depth >= VD_QUERY_DEPTH_MAX)
        return vd_error_set(err, VD_ERR_OVERFLOW, "expressions may be nested at most %d deep",
                            VD_QUERY_DEPTH_MAX);
    int rc = VD_OK;
    parser->depth++;
    if (spec.type == VD_BSON_STRING && vd_value_string(spec).len > 0 &&
        vd_value_string(spec).data[0] == '$')
        rc = parse_path(parser, vd_value_string(spec), ret_expr, err);
    else if (spec.type == VD_BSON_OBJECT)
        rc = parse_object(parser, vd_value_document(spec), ret_expr, err);
    else if (spec.type == VD_BSON_ARRAY)
        rc = parse_array(parser, vd_value_document(spec), ret_expr, err);
    else
        *ret_expr = new_constant(parser->arena, spec);
    parser->depth--;
    return rc;
}

/* ---- what operators share ---- */

void stor_expr_array_begin(stor_expr_array_t *array, vd_arena_t *arena)
{
    vd_bb_init_arena(&array->bb, arena, STOR_EXPR_VALUE_MAX_BYTES);
    array->count = 0;
}

void stor_expr_array_push(stor_expr_array_t *array, vd_value_t v)
{
    char name[12];
    vd_bb_value(&array->bb, vd_array_name(array->count++, name),
                vd_value_is_missing(v) ? vd_value_from_null() : v);
}

int stor_expr_array_end(stor_expr_array_t *array, vd_value_t *ret, vd_error_t *err)
{
    vd_bson_t doc;
    int rc = vd_bb_finish(&array->bb, &doc, err);
    if (rc == VD_OK)
        *ret = vd_value_from_array(doc);
    return rc;
}

vd_value_t *stor_expr_elements(vd_arena_t *arena, vd_value_t array, uint32_t *ret_count)
{
    vd_bson_t doc = vd_value_document(array);
    uint32_t count = vd_bson_count(doc), i = 0;
    vd_value_t *values = vd_arena_alloc(arena, sizeof *values * ((size_t)count + 1));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    while (i < count && vd_bson_iter_next(&iter))
        values[i++] = iter.value;
    *ret_count = i;
    return values;
}

vd_value_t stor_expr_int_or_long(vd_arena_t *arena, int64_t v)
{
    return v >= INT32_MIN && v <= INT32_MAX ? vd_value_from_int32(arena, (int32_t)v)
                                            : vd_value_from_int64(arena, v);
}

bool stor_expr_as_int32(vd_value_t v, int32_t *ret)
{
    int64_t n;
    if (!vd_value_is_number(v) || !vd_value_as_int64(v, &n) || n < INT32_MIN || n > INT32_MAX)
        return false;
    *ret = (int32_t)n;
    return true;
}

int stor_expr_check_memory(const stor_expr_env_t *env, vd_error_t *err)
{
    size_t used = vd_arena_used(env->arena);
    if (used <= env->arena_start || used - env->arena_start <= VD_QUERY_MEMORY_MAX_BYTES)
        return VD_OK;
    return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT,
                        "an expression would use more than %d bytes for one document",
                        VD_QUERY_MEMORY_MAX_BYTES);
}

/* ---- the public door ---- */

void stor_expr_env_init(stor_expr_env_t *env, vd_arena_t *arena, const stor_variables_t *variables)
{
    memset(env, 0, offsetof(stor_expr_env_t, slots));
    env->arena = arena;
    env->variables = variables;
    stor_expr_env_document(env, VD_BSON_NONE);
}

void stor_expr_env_document(stor_expr_env_t *env, vd_bson_t document)
{
    static const uint8_t empty[5] = {5, 0, 0, 0, 0};
    if (document.data == NULL)
        document = (vd_bson_t){empty, sizeof empty};
    env->root = document;
    env->current = vd_value_from_document(document);
    env->arena_start = vd_arena_used(env->arena);
}

int stor_expr_parse(vd_arena_t *arena, vd_value_t spec, const stor_variables_t *variables,
                    stor_expr_t **ret_expr, vd_error_t *err)
{
    VD_ASSERT(ret_expr != NULL);
    stor_expr_parser_t parser = {.arena = arena, .variables = variables};
    stor_expr_t *expr = NULL;
    int rc = stor_expr_parse_operand(&parser, spec, &expr, err);
    if (rc == VD_OK)
        *ret_expr = expr;
    return rc;
}

int stor_expr_eval(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret_value,
                   vd_error_t *err)
{
    vd_value_t value = VD_VALUE_MISSING;
    int rc = stor_expr_run(expr, env, &value, err);
    if (rc == VD_OK)
        *ret_value = value;
    return rc;
}

bool stor_expr_constant(const stor_expr_t *expr, vd_value_t *ret_value)
{
    if (expr->kind != STOR_EXPR_CONSTANT)
        return false;
    *ret_value = expr->value;
    return true;
}

bool stor_expr_field_path(const stor_expr_t *expr, vd_slice_t *ret_path)
{
    if (expr->kind != STOR_EXPR_FIELD)
        return false;
    *ret_path = expr->path;
    return true;
}

static int equality_of(const stor_expr_t *field, const stor_expr_t *other, stor_expr_env_t *env,
                       void (*visit)(vd_slice_t path, vd_value_t value, void *context),
                       void *context, vd_error_t *err)
{
    vd_value_t value;
    if (field->kind != STOR_EXPR_FIELD || field->path.len == 0 ||
        (other->kind != STOR_EXPR_CONSTANT && other->kind != STOR_EXPR_VARIABLE) ||
        stor_expr_reads_document(other))
        return VD_OK;
    int rc = stor_expr_eval(other, env, &value, err);
    if (rc == VD_OK && !vd_value_is_nullish(value) && value.type != VD_BSON_ARRAY &&
        value.type != VD_BSON_REGEX)
        visit(field->path, value, context);
    return rc;
}

int stor_expr_equalities(const stor_expr_t *expr, stor_expr_env_t *env,
                         void (*visit)(vd_slice_t path, vd_value_t value, void *context),
                         void *context, vd_error_t *err)
{
    int rc = VD_OK;
    if (expr->kind != STOR_EXPR_OPERATOR)
        return VD_OK;
    if (strcmp(expr->op->name, "$and") == 0) {
        for (uint32_t i = 0; rc == VD_OK && i < expr->count; i++)
            rc = stor_expr_equalities(expr->args[i], env, visit, context, err);
    } else if (strcmp(expr->op->name, "$eq") == 0) {
        rc = equality_of(expr->args[0], expr->args[1], env, visit, context, err);
        if (rc == VD_OK)
            rc = equality_of(expr->args[1], expr->args[0], env, visit, context, err);
    }
    return rc;
}

int stor_variables_bind(stor_variables_t *variables, vd_slice_t name, vd_value_t value,
                        vd_error_t *err)
{
    uint32_t i = 0;
    int rc = stor_expr_check_variable(name, err);
    if (rc != VD_OK)
        return rc;
    while (i < variables->count && !vd_slice_equal(variables->let[i].name, name))
        i++;
    if (i == STOR_VARIABLES_MAX)
        return vd_error_set(err, VD_ERR_OVERFLOW, "let may have at most %d variables",
                            STOR_VARIABLES_MAX);
    if (i == variables->count) {
        variables->count++;
        variables->let[i].name = name;
    }
    variables->let[i].value = value;
    return VD_OK;
}

int stor_variables_parse_let(vd_arena_t *arena, vd_bson_t let, stor_variables_t *variables,
                             vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, let);
    while (vd_bson_iter_next(&iter)) {
        int rc = stor_expr_check_variable(iter.name, err);
        if (rc != VD_OK)
            return rc;
        if (variables->count == STOR_VARIABLES_MAX)
            return vd_error_set(err, VD_ERR_OVERFLOW, "let may have at most %d variables",
                                STOR_VARIABLES_MAX);
        stor_expr_t *expr;
        rc = stor_expr_parse(arena, iter.value, variables, &expr, err);
        stor_expr_env_t env;
        stor_expr_env_init(&env, arena, variables);
        vd_value_t value = VD_VALUE_MISSING;
        if (rc == VD_OK && stor_expr_reads_document(expr))
            rc = vd_error_set(err, VD_ERR_LOCATION(4890500),
                              "Command let Expression tried to access a field, but this is not "
                              "allowed because command let Expressions run before the query "
                              "examines any documents.");
        if (rc == VD_OK)
            rc = stor_expr_run(expr, &env, &value, err);
        if (rc != VD_OK)
            return rc;
        variables->let[variables->count].name = iter.name;
        variables->let[variables->count].value = value;
        variables->count++;
    }
    return VD_OK;
}

bool stor_expr_reads_document(const stor_expr_t *expr)
{
    if (expr->eval == eval_field || expr->eval == eval_root)
        return true;
    for (uint32_t i = 0; i < expr->count; i++)
        if (expr->args[i] != NULL && stor_expr_reads_document(expr->args[i]))
            return true;
    return false;
}
