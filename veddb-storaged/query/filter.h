/* veddb-storaged/query/filter.h — MongoDB's filter language as an immutable tree.
 *
 * Duty:    parses and checks everything about a filter once ($and/$or/$nor/$not, comparison, $in,
 *          $elemMatch, $all, $size, $type, $exists, $regex, $mod, $bits*, $expr, $jsonSchema,
 *          $comment, $alwaysTrue/False, $where/$text/geo refused by name). Pure: knows nothing of
 *          storage. match.h runs it; plan/bounds.c reads it. $sampleRate becomes $expr. The tree is
 *          normalised: no AND in AND, no OR in OR, no AND/OR of one; $in of one value is EQ, $in of
 *          none FALSE.
 *          VedDB's own: {$version: n}, at the top level or under $and: the document is of that
 *          version ({$meta: "version"} tells it). Who matches gives the version in stor_match_t.
 * Owner:   the arena given at parse. The tree borrows the filter's bytes: they must live as long.
 * Threads: immutable after parse, so any; compiled regexes are shared, match data comes from the
 *          caller's scratch.
 * Limits:  depth VD_QUERY_DEPTH_MAX.
 * Errors:  code and message as MongoDB 7.0 (BadValue 2, TypeMismatch 14, FailedToParse 9 ...). */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/bson/view.h"
#include "veddb-storaged/query/variables.h"

typedef enum {
    STOR_FILTER_AND, /* children */
    STOR_FILTER_OR,
    STOR_FILTER_NOR,
    STOR_FILTER_NOT, /* one child; negates the whole child */
    STOR_FILTER_EQ,  /* path, value */
    STOR_FILTER_LT,
    STOR_FILTER_LTE,
    STOR_FILTER_GT,
    STOR_FILTER_GTE,
    STOR_FILTER_IN, /* path, values (sorted, unique), regexes */
    STOR_FILTER_REGEX,
    STOR_FILTER_EXISTS, /* path; {$exists:false} is NOT(EXISTS) */
    STOR_FILTER_TYPE,   /* path, type_mask */
    STOR_FILTER_SIZE,
    STOR_FILTER_MOD,
    STOR_FILTER_BITS,
    STOR_FILTER_ELEM_MATCH_OBJECT, /* path, one child applied to each element that is an object or
                                      array */
    STOR_FILTER_ELEM_MATCH_VALUE,  /* path, children applied to each element itself (their path is
                                      empty) */
    STOR_FILTER_EXPR,
    STOR_FILTER_JSON_SCHEMA,
    STOR_FILTER_VERSION, /* number: the version that the server keeps with the document */
    STOR_FILTER_TRUE,
    STOR_FILTER_FALSE,
} stor_filter_kind_t;

typedef enum {
    STOR_BITS_ALL_SET,
    STOR_BITS_ALL_CLEAR,
    STOR_BITS_ANY_SET,
    STOR_BITS_ANY_CLEAR,
} stor_bits_kind_t;

typedef struct stor_filter stor_filter_t;
typedef struct stor_regex stor_regex_t;             /* regex.h */
typedef struct stor_expr stor_expr_t;               /* expr.h */
typedef struct stor_json_schema stor_json_schema_t; /* json_schema.h */

/* A dotted path, split once. */
typedef struct {
    vd_slice_t text; /* "a.b.0" */
    uint32_t count;
    const vd_slice_t *parts;
    const int64_t *positions; /* parts[i] as an array position ("0", "17"), or -1 when it isn't one
                                 ("a", "01", "") */
} stor_path_t;

struct stor_filter {
    stor_filter_kind_t kind;
    bool whole_value; /* root of stor_filter_parse_value's operators: paths are empty, the value
                         itself is tested */
    stor_path_t path;
    uint32_t child_count;
    stor_filter_t **children;
    vd_value_t value;     /* EQ..GTE; EXPR, JSON_SCHEMA: the specification */
    uint32_t value_count; /* IN */
    vd_value_t *values;
    bool has_null;        /* IN: null is among the values, so missing and undefined match too */
    uint32_t regex_count; /* REGEX (1), IN */
    stor_regex_t **regexes;
    uint32_t type_mask; /* TYPE: stor_type_bit() of each type asked for */
    int64_t number;     /* SIZE, VERSION */
    int64_t divisor, remainder;
    stor_bits_kind_t
        bits_kind; /* BITS: the mask is bytes (least significant first) or a list of positions */
    vd_slice_t bits_mask;
    uint32_t bit_count;
    uint32_t *bit_positions;
    stor_expr_t *expr;
    stor_json_schema_t *schema;
};

/* An empty filter gives STOR_FILTER_TRUE. variables: names that $expr may use ($$NOW, let ...); may
 * be NULL. */
VD_MUST_CHECK int stor_filter_parse(vd_arena_t *arena, vd_bson_t filter,
                                    const stor_variables_t *variables, stor_filter_t **ret_filter,
                                    vd_error_t *err);
/* A predicate on one value, as $pull takes it: {$gte: 3} has an empty path and tests the value
 * itself (an array also by its elements); {b: 1} or {$or: [...]} tests the fields of a value that
 * is an object. $expr and $jsonSchema are refused (224). */
VD_MUST_CHECK int stor_filter_parse_value(vd_arena_t *arena, vd_bson_t predicate,
                                          const stor_variables_t *variables,
                                          stor_filter_t **ret_filter, vd_error_t *err);
/* Splits a path; the parts borrow `text`. "" is one part, the field with the empty name. */
void stor_path_split(vd_arena_t *arena, vd_slice_t text, stor_path_t *ret_path);

/* The bit of a BSON type in type_mask; 0 for MISSING and what is no type. */
uint32_t stor_type_bit(uint8_t type);
#define STOR_TYPE_BITS_NUMBER                                                                      \
    (1u << VD_BSON_DOUBLE | 1u << VD_BSON_INT32 | 1u << VD_BSON_INT64 | 1u << VD_BSON_DECIMAL128)

/* The value that the filter pins _id to (top-level or under $and, EQ on "_id", not a regex nor
 * what a collation compares otherwise), or MISSING. */
vd_value_t stor_filter_id_equality(const stor_filter_t *filter);
/* The version that the filter asks for, 0 = none. */
uint64_t stor_filter_version(const stor_filter_t *filter);
/* The same filter without its $version. */
const stor_filter_t *stor_filter_without_version(vd_arena_t *arena, const stor_filter_t *filter);
/* Calls visit for each equality that must hold (top level, $and, $all/$in of one), as upserts fill
 * new documents from. */
VD_MUST_CHECK int stor_filter_equalities(const stor_filter_t *filter,
                                         int (*visit)(const stor_path_t *path, vd_value_t value,
                                                      void *context),
                                         void *context);
/* The normalised filter as BSON, as explain's parsedQuery shows it. */
vd_bson_t stor_filter_to_bson(vd_arena_t *arena, const stor_filter_t *filter);
