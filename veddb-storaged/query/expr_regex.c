/* veddb-storaged/query/expr_regex.c — $regexMatch, $regexFind, $regexFindAll. A constant pattern is
 * compiled once, at parse. */
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/regex.h"

enum { REGEX_MATCH, REGEX_FIND, REGEX_FIND_ALL };

/* Compiles from the values of `regex` and `options`; *ret_regex NULL when the pattern is nullish.
 */
static int compile(const char *op, vd_arena_t *arena, vd_value_t pattern, vd_value_t options,
                   stor_regex_t **ret_regex, vd_error_t *err)
{
    vd_slice_t text = VD_SLICE_NULL, flags = VD_SLICE_LIT("");
    *ret_regex = NULL;
    if (!vd_value_is_nullish(pattern) && pattern.type != VD_BSON_STRING &&
        pattern.type != VD_BSON_REGEX)
        return vd_error_set(err, VD_ERR_LOCATION(51105),
                            "%s needs 'regex' to be of type string or regex", op);
    if (!vd_value_is_nullish(options) && options.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(51106), "%s needs 'options' to be of type string",
                            op);
    if (pattern.type == VD_BSON_REGEX) {
        vd_value_regex(pattern, &text, &flags);
        if (flags.len > 0 && !vd_value_is_nullish(options))
            return vd_error_set(err, VD_ERR_LOCATION(51107),
                                "%s: found regex option(s) specified in both 'regex' and 'option' "
                                "fields",
                                op);
    } else if (pattern.type == VD_BSON_STRING) {
        text = vd_value_string(pattern);
    }
    if (!vd_value_is_nullish(options))
        flags = vd_value_string(options);
    if (text.data != NULL && memchr(text.data, 0, text.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(51109),
                            "%s: regular expression cannot contain an embedded null byte", op);
    if (memchr(flags.data, 0, flags.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(51110),
                            "%s: regular expression options cannot contain an embedded null byte",
                            op);
    if (text.data == NULL)
        return VD_OK;
    vd_error_t inner = VD_ERROR_INIT;
    int rc = stor_regex_compile(arena, text, flags, ret_regex, &inner);
    if (rc == VD_OK)
        return VD_OK;
    if (rc == VD_ERR_LOCATION(51108))
        return vd_error_set(err, rc, "%s: %s", op, inner.message);
    return vd_error_set(err, VD_ERR_LOCATION(51111), "Invalid Regex in %s: %s", op, inner.message);
}

static int32_t code_points(const uint8_t *from, const uint8_t *to)
{
    int32_t n = 0;
    for (; from < to; from++)
        n += (*from & 0xC0) != 0x80;
    return n;
}

/* Appends {match, idx, captures} to the open document. */
static void write_match(vd_arena_t *arena, vd_bb_t *bb, vd_slice_t text, const size_t *offsets,
                        uint32_t groups, int32_t position)
{
    char name[12];
    vd_bb_string(bb, "match", vd_slice(text.data + offsets[0], offsets[1] - offsets[0]));
    vd_bb_int32(bb, "idx", position);
    vd_bb_begin_array(bb, "captures");
    for (uint32_t i = 1; i < groups; i++) {
        vd_value_t capture = vd_value_from_null();
        if (offsets[2 * i] != SIZE_MAX)
            capture = vd_value_from_string(
                arena, vd_slice(text.data + offsets[2 * i], offsets[2 * i + 1] - offsets[2 * i]));
        vd_bb_value(bb, vd_array_name(i - 1, name), capture);
    }
    vd_bb_close(bb);
}

static int find_one(const stor_regex_t *regex, stor_expr_env_t *env, vd_slice_t text,
                    vd_value_t *ret, vd_error_t *err)
{
    uint32_t groups = stor_regex_group_count(regex) + 1;
    size_t *offsets = vd_arena_alloc(env->arena, sizeof *offsets * 2 * groups);
    for (uint32_t i = 0; i < 2 * groups; i++)
        offsets[i] = SIZE_MAX;
    stor_expr_set_null(ret);
    if (stor_regex_find(regex, text, 0, offsets, groups) == 0)
        return VD_OK;
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init_arena(&bb, env->arena, STOR_EXPR_VALUE_MAX_BYTES);
    write_match(env->arena, &bb, text, offsets, groups,
                code_points(text.data, text.data + offsets[0]));
    int rc = vd_bb_finish(&bb, &doc, err);
    if (rc == VD_OK)
        *ret = vd_value_from_document(doc);
    return rc;
}

static size_t step(vd_slice_t text, size_t at)
{
    do
        at++;
    while (at < text.len && (text.data[at] & 0xC0) == 0x80);
    return at;
}

static int find_all(const stor_regex_t *regex, stor_expr_env_t *env, vd_slice_t text,
                    vd_value_t *ret, vd_error_t *err)
{
    uint32_t groups = stor_regex_group_count(regex) + 1;
    size_t *offsets = vd_arena_alloc(env->arena, sizeof *offsets * 2 * groups), at = 0, counted = 0;
    int32_t position = 0;
    char name[12];
    stor_expr_array_t out;
    stor_expr_array_begin(&out, env->arena);
    do {
        for (uint32_t i = 0; i < 2 * groups; i++)
            offsets[i] = SIZE_MAX;
        if (stor_regex_find(regex, text, at, offsets, groups) == 0)
            break;
        position += code_points(text.data + counted, text.data + offsets[0]);
        counted = offsets[0];
        vd_bb_open_document(&out.bb, vd_array_name(out.count++, name));
        write_match(env->arena, &out.bb, text, offsets, groups, position);
        vd_bb_close(&out.bb);
        int rc = stor_expr_check_memory(env, err);
        if (rc != VD_OK)
            return rc;
        if (out.bb.rc != VD_OK)
            return vd_error_set(err, VD_ERR_LOCATION(51151),
                                "$regexFindAll: the size of buffer to store output exceeded the "
                                "64MB limit");
        at = offsets[1] > offsets[0] ? offsets[1] : step(text, offsets[1]);
    } while (at < text.len);
    return stor_expr_array_end(&out, ret, err);
}

/* args: input, regex, options; extra: the compiled constant. */
static int eval_regex(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                      vd_error_t *err)
{
    vd_value_t input, pattern = VD_VALUE_MISSING, options = VD_VALUE_MISSING;
    stor_regex_t *regex = expr->extra;
    int rc = stor_expr_arg(expr, 0, env, &input, err);
    if (rc == VD_OK && regex == NULL) {
        rc = stor_expr_arg(expr, 1, env, &pattern, err);
        if (rc == VD_OK && expr->args[2] != NULL)
            rc = stor_expr_arg(expr, 2, env, &options, err);
    }
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_nullish(input) && input.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(51104), "%s needs 'input' to be of type string",
                            expr->op->name);
    if (regex == NULL)
        rc = compile(expr->op->name, env->arena, pattern, options, &regex, err);
    if (rc != VD_OK)
        return rc;
    bool null = regex == NULL || vd_value_is_nullish(input);
    switch (expr->op->variant) {
    case REGEX_MATCH:
        *ret = vd_value_from_bool(!null && stor_regex_matches(regex, vd_value_string(input)));
        return VD_OK;
    case REGEX_FIND:
        stor_expr_set_null(ret);
        return null ? VD_OK : find_one(regex, env, vd_value_string(input), ret, err);
    default:
        break;
    }
    if (!null)
        return find_all(regex, env, vd_value_string(input), ret, err);
    stor_expr_array_t none;
    stor_expr_array_begin(&none, env->arena);
    return stor_expr_array_end(&none, ret, err);
}

static int parse_regex(stor_expr_parser_t *parser, const stor_expr_op_t *op, vd_value_t spec,
                       stor_expr_t **ret_expr, vd_error_t *err)
{
    static const stor_expr_field_t fields[] = {{"input", 31022}, {"regex", 31023}, {"options", 0}};
    static const stor_expr_named_t named = {51103, 31024, fields, VD_COUNT_OF(fields)};
    int rc = stor_expr_parse_named(parser, op, spec, &named, ret_expr, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_t *expr = *ret_expr;
    vd_value_t pattern, options = VD_VALUE_MISSING;
    if (!stor_expr_constant(expr->args[1], &pattern) ||
        (expr->args[2] != NULL && !stor_expr_constant(expr->args[2], &options)))
        return VD_OK;
    stor_regex_t *regex = NULL;
    rc = compile(op->name, parser->arena, pattern, options, &regex, err);
    expr->extra = regex;
    return rc;
}

static const stor_expr_op_t regex_ops[] = {
    STOR_EXPR_OP_PARSED("$regexMatch", 0, REGEX_MATCH, eval_regex, parse_regex),
    STOR_EXPR_OP_PARSED("$regexFind", 0, REGEX_FIND, eval_regex, parse_regex),
    STOR_EXPR_OP_PARSED("$regexFindAll", 0, REGEX_FIND_ALL, eval_regex, parse_regex),
};
const stor_expr_family_t stor_expr_family_regex = {regex_ops, VD_COUNT_OF(regex_ops)};
