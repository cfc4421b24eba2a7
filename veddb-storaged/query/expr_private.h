/* veddb-storaged/query/expr_private.h — what the files of the expression family share: the node,
 * the parser, the table of operators.
 *
 * Duty:    expr.c parses and folds; each expr_<family>.c holds the functions of its operators and
 *          one table of them.
 * Owner:   nodes live in the parse arena.
 * Threads: immutable after parse. */
#pragma once
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/expr.h"

#define STOR_EXPR_VALUE_MAX_BYTES (64 * 1024 * 1024) /* one computed array or object */
#define STOR_EXPR_PATH_PARTS_MAX  200

typedef struct stor_expr_op stor_expr_op_t;
typedef struct stor_expr_parser stor_expr_parser_t;
typedef int (*stor_expr_eval_t)(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                                vd_error_t *err);
typedef int (*stor_expr_parse_t)(stor_expr_parser_t *parser, const stor_expr_op_t *op,
                                 vd_value_t spec, stor_expr_t **ret_expr, vd_error_t *err);

typedef enum {
    STOR_EXPR_CONSTANT,
    STOR_EXPR_FIELD,    /* $a.b of $$CURRENT */
    STOR_EXPR_VARIABLE, /* $$name.a.b */
    STOR_EXPR_OBJECT,
    STOR_EXPR_ARRAY,
    STOR_EXPR_OPERATOR,
} stor_expr_kind_t;

struct stor_expr {
    stor_expr_eval_t eval;
    const stor_expr_op_t *op; /* OPERATOR */
    stor_expr_t **args;       /* OPERATOR, OBJECT, ARRAY; NULL where a named argument is absent */
    const vd_slice_t *names;  /* OBJECT: field names; FIELD, VARIABLE: parts of the path */
    uint32_t count;           /* of args */
    uint32_t name_count;
    uint32_t slot; /* first slot of the variables that this operator binds; VARIABLE: where it is */
    uint8_t kind;
    vd_value_t value; /* CONSTANT */
    vd_slice_t path;  /* FIELD: whole text without the '$' */
    void *extra;      /* an operator's own: a compiled regex, a sort pattern */
};

enum {
    STOR_EXPR_VOLATILE = 1u << 0, /* never folded */
};

struct stor_expr_op {
    const char *name; /* with the $ */
    uint8_t name_len;
    uint8_t args_min, args_max; /* 255: no bound */
    uint8_t flags;
    int variant; /* tells operators apart that share a function */
    stor_expr_eval_t eval;
    stor_expr_parse_t parse; /* NULL: positional arguments */
};

#define STOR_EXPR_ARGS_ANY 255
#define STOR_EXPR_OP(name_, min_, max_, variant_, eval_)                                           \
    {                                                                                              \
        .name = (name_), .name_len = sizeof(name_) - 1, .args_min = (min_), .args_max = (max_),    \
        .variant = (variant_), .eval = (eval_)                                                     \
    }
#define STOR_EXPR_OP_PARSED(name_, flags_, variant_, eval_, parse_)                                \
    {                                                                                              \
        .name = (name_), .name_len = sizeof(name_) - 1, .args_max = STOR_EXPR_ARGS_ANY,            \
        .flags = (flags_), .variant = (variant_), .eval = (eval_), .parse = (parse_)               \
    }

typedef struct {
    const stor_expr_op_t *ops;
    size_t count;
} stor_expr_family_t;

extern const stor_expr_family_t stor_expr_family_core, stor_expr_family_arith,
    stor_expr_family_string, stor_expr_family_array, stor_expr_family_map, stor_expr_family_date,
    stor_expr_family_datemath, stor_expr_family_convert, stor_expr_family_set,
    stor_expr_family_object, stor_expr_family_trig, stor_expr_family_group, stor_expr_family_regex;

typedef struct stor_expr_scope {
    const struct stor_expr_scope *outer;
    vd_slice_t name;
    uint32_t slot;
} stor_expr_scope_t;

struct stor_expr_parser {
    vd_arena_t *arena;
    const stor_variables_t *variables;
    const stor_expr_scope_t *scope;
    uint32_t depth;
    uint32_t slots; /* next free slot */
};

/* Any operand: "$path", {$op: ...}, {a: ...}, [...], constant. */
VD_MUST_CHECK int stor_expr_parse_operand(stor_expr_parser_t *parser, vd_value_t spec,
                                          stor_expr_t **ret_expr, vd_error_t *err);
stor_expr_t *stor_expr_new(stor_expr_parser_t *parser, const stor_expr_op_t *op, uint32_t count);
/* Takes `count` slots for bound variables; *ret_first is the first. */
VD_MUST_CHECK int stor_expr_take_slots(stor_expr_parser_t *parser, uint32_t count,
                                       uint32_t *ret_first, vd_error_t *err);
/* Checks a name that a user binds (`as`, $let, the command's let). */
VD_MUST_CHECK int stor_expr_check_variable(vd_slice_t name, vd_error_t *err);
/* True for the name of an operator that exists. */
bool stor_expr_is_operator(vd_slice_t name);

/* Named arguments of {$op: {a: .., b: ..}}. A field with missing_code 0 is optional. */
typedef struct {
    const char *name;
    int missing_code;
} stor_expr_field_t;
typedef struct {
    int not_object_code;
    int unknown_code;
    const stor_expr_field_t *fields;
    uint32_t count;
} stor_expr_named_t;
/* The value as it stands, unread: $literal. */
VD_MUST_CHECK int stor_expr_parse_literal(stor_expr_parser_t *parser, const stor_expr_op_t *op,
                                          vd_value_t spec, stor_expr_t **ret_expr, vd_error_t *err);
VD_MUST_CHECK int stor_expr_parse_named(stor_expr_parser_t *parser, const stor_expr_op_t *op,
                                        vd_value_t spec, const stor_expr_named_t *named,
                                        stor_expr_t **ret_expr, vd_error_t *err);
/* Positional arguments: an array is the list, anything else the only one. Checks the count. */
VD_MUST_CHECK int stor_expr_parse_positional(stor_expr_parser_t *parser, const stor_expr_op_t *op,
                                             vd_value_t spec, stor_expr_t **ret_expr,
                                             vd_error_t *err);

/* Splits and checks "a.b.c" as MongoDB's FieldPath: 40352, 40353, 15998, 16410, 16411, Overflow. */
VD_MUST_CHECK int stor_field_path_split(vd_arena_t *arena, vd_slice_t text,
                                        const vd_slice_t **ret_parts, uint32_t *ret_count,
                                        vd_error_t *err);
/* As above for one name (dots allowed when allow_dots). */
VD_MUST_CHECK int stor_field_name_check(vd_slice_t name, vd_error_t *err);

/* ---- evaluation ---- */
static inline int stor_expr_run(const stor_expr_t *expr, stor_expr_env_t *env, vd_value_t *ret,
                                vd_error_t *err)
{
    return expr->eval(expr, env, ret, err);
}
static inline int stor_expr_arg(const stor_expr_t *expr, uint32_t i, stor_expr_env_t *env,
                                vd_value_t *ret, vd_error_t *err)
{
    return expr->args[i]->eval(expr->args[i], env, ret, err);
}
/* Evaluates and appends under `name`; objects and arrays are written in place. MISSING appends
 * nothing. */
VD_MUST_CHECK int stor_expr_eval_into(const stor_expr_t *expr, stor_expr_env_t *env, vd_bb_t *bb,
                                      vd_slice_t name, vd_error_t *err);
/* Every operand was a constant. */
bool stor_expr_args_constant(const stor_expr_t *expr);
/* EXCEEDED_MEMORY_LIMIT when the evaluation has used too much; asked in loops. */
VD_MUST_CHECK int stor_expr_check_memory(const stor_expr_env_t *env, vd_error_t *err);

/* Walks parts[i..] through objects, fanning out over arrays. */
VD_MUST_CHECK int stor_expr_walk(vd_arena_t *arena, vd_value_t value, const vd_slice_t *parts,
                                 uint32_t count, vd_value_t *ret, vd_error_t *err);

/* An array under construction; MISSING is pushed as null. */
typedef struct {
    vd_bb_t bb;
    uint32_t count;
} stor_expr_array_t;
void stor_expr_array_begin(stor_expr_array_t *array, vd_arena_t *arena);
void stor_expr_array_push(stor_expr_array_t *array, vd_value_t v);
VD_MUST_CHECK int stor_expr_array_end(stor_expr_array_t *array, vd_value_t *ret, vd_error_t *err);

/* The array's values side by side in the arena. */
vd_value_t *stor_expr_elements(vd_arena_t *arena, vd_value_t array, uint32_t *ret_count);

/* Stable merge sort in the arena. */
typedef int (*stor_expr_compare_t)(vd_value_t a, vd_value_t b, void *context);
void stor_expr_sort(vd_arena_t *arena, vd_value_t *values, uint32_t count,
                    stor_expr_compare_t compare, void *context);
/* As MongoDB coerces for $toUpper, $substr: numbers, dates and nothing are strings too. 16007 for
 * others. */
VD_MUST_CHECK int stor_expr_to_text(vd_arena_t *arena, vd_value_t v, vd_slice_t *ret,
                                    vd_error_t *err);
/* A string of len bytes that the caller fills at *ret_bytes; 10334 over the limit. */
VD_MUST_CHECK int stor_expr_new_string(stor_expr_env_t *env, size_t len, vd_value_t *ret,
                                       char **ret_bytes, vd_error_t *err);
/* A double as MongoDB prints it. */
void stor_expr_print_double(double d, char buf[32]);
/* Date, Timestamp or ObjectId as milliseconds; 16006 for others. */
VD_MUST_CHECK int stor_expr_to_date(vd_value_t v, int64_t *ret_ms, vd_error_t *err);
bool stor_expr_is_datelike(vd_value_t v);
/* A date from text as $dateFromString reads it without a format; ConversionFailure
 * (expr_date.c). */
VD_MUST_CHECK int stor_expr_parse_date(vd_slice_t text, int64_t *ret_ms, vd_error_t *err);

/* int when it fits, else long: MongoDB's createIntOrLong. */
vd_value_t stor_expr_int_or_long(vd_arena_t *arena, int64_t v);
static inline const char *stor_expr_type(vd_value_t v)
{
    return vd_bson_type_name(v.type);
}
/* A number that is whole and fits 32 bits. */
bool stor_expr_as_int32(vd_value_t v, int32_t *ret);
static inline void stor_expr_set_null(vd_value_t *ret)
{
    *ret = vd_value_from_null();
}

/* Fields by name, for building objects: setting a name again keeps its place. */
typedef struct {
    vd_arena_t *arena;
    vd_slice_t *names;
    vd_value_t *values;
    uint32_t *table; /* position + 1 */
    uint32_t count, cap, table_mask;
} stor_expr_fields_t;
void stor_expr_fields_init(stor_expr_fields_t *fields, vd_arena_t *arena, uint32_t count_max);
void stor_expr_fields_set(stor_expr_fields_t *fields, vd_slice_t name, vd_value_t value);
VD_MUST_CHECK int stor_expr_fields_end(stor_expr_fields_t *fields, vd_value_t *ret,
                                       vd_error_t *err);
/* $mergeObjects of the values; 40400 for what is neither object nor nullish. */
VD_MUST_CHECK int stor_expr_merge(vd_arena_t *arena, const vd_value_t *values, uint32_t count,
                                  vd_value_t *ret, vd_error_t *err);
/* The `n` of $firstN ...: a whole number above 0. */
VD_MUST_CHECK int stor_expr_read_n(vd_value_t v, const char *op, int64_t *ret_n, vd_error_t *err);

/* A double as a decimal with all its digits, without zeros behind them. */
vd_decimal_t stor_expr_decimal(double d);
