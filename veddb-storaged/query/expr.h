/* veddb-storaged/query/expr.h — aggregation expressions: parse once, fold constants, evaluate per
 * document.
 *
 * Duty:    the core and common expressions, with MongoDB 7.0's results, types and
 *          error codes; others are refused with "Unrecognized expression '$x'"
 *          (InvalidPipelineOperator 168). Pure.
 * Owner:   the tree lives in the parse arena and borrows the spec's bytes. Results live in the
 *          evaluation arena or borrow the document.
 * Threads: immutable after parse.
 * Limits:  depth VD_QUERY_DEPTH_MAX. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/bson/view.h"
#include "veddb-storaged/query/variables.h"

typedef struct stor_expr stor_expr_t;

typedef struct {
    vd_arena_t *arena;                 /* results and temporaries */
    const stor_variables_t *variables; /* $$NOW, let */
    vd_bson_t root;                    /* $$ROOT */
    vd_value_t current;                /* $$CURRENT; normally the root as a value */
    uint64_t version;                  /* {$meta: "version"}: the document's version, 0 = unknown */
    vd_bson_t index_key; /* {$meta: "indexKey"}: of the entry that found it, or NONE */
    /* vd_arena_used when the document came: what one document may use is bounded */
    size_t arena_start;
    /* internal slots of $map, $filter, $reduce, $let are kept by expr.c behind this: */
    vd_value_t slots[STOR_VARIABLES_MAX];
} stor_expr_env_t;

void stor_expr_env_init(stor_expr_env_t *env, vd_arena_t *arena, const stor_variables_t *variables);
/* Points the environment at the next document; version and index key stay as the caller set them.
 */
void stor_expr_env_document(stor_expr_env_t *env, vd_bson_t document);

VD_MUST_CHECK int stor_expr_parse(vd_arena_t *arena, vd_value_t spec,
                                  const stor_variables_t *variables, stor_expr_t **ret_expr,
                                  vd_error_t *err);
/* *ret_value is MISSING when the expression has no value ($$REMOVE, an absent field). */
VD_MUST_CHECK int stor_expr_eval(const stor_expr_t *expr, stor_expr_env_t *env,
                                 vd_value_t *ret_value, vd_error_t *err);
/* True when {$meta: word} stands somewhere in it: then the caller must find it out. */
bool stor_expr_asks_meta(vd_value_t spec, const char *word);
/* True when the expression is a constant (after folding); *ret_value gets it. */
bool stor_expr_constant(const stor_expr_t *expr, vd_value_t *ret_value);
/* True when it is a plain "$a.b" of the current document: *ret_path gets "a.b". */
bool stor_expr_field_path(const stor_expr_t *expr, vd_slice_t *ret_path);
/* Visits each {$eq: ["$field", constant or variable]} that must hold for the expression to be true
 * (itself, or under $and), with the value that it has now, when that is neither null nor an array:
 * then a document can only satisfy it that a filter {field: value} finds. */
VD_MUST_CHECK int stor_expr_equalities(const stor_expr_t *expr, stor_expr_env_t *env,
                                       void (*visit)(vd_slice_t path, vd_value_t value,
                                                     void *context),
                                       void *context, vd_error_t *err);
/* True when the value depends on the document ($$ROOT, $$CURRENT, a field). */
bool stor_expr_reads_document(const stor_expr_t *expr);
