/* veddb-storaged/pipeline/window.h — what $setWindowFields is made of: windows, functions over
 * them, and the partition whose documents they look at.
 *
 * Owner:   specs live in the pipeline's arena; states are opened and closed by the stage.
 * Threads: one. */
#pragma once
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/pipeline/pipeline.h"
#include "veddb-storaged/query/accumulate.h"
#include "veddb-storaged/query/sort.h"

/* ---- values calculated with the expressions' own arithmetic ---- */

typedef enum {
    STOR_CALC_ADD,
    STOR_CALC_SUB,
    STOR_CALC_MUL,
    STOR_CALC_DIV,
    STOR_CALC_MOD
} stor_op_t;
typedef struct {
    stor_variables_t variables;
    stor_expr_t *ops[STOR_CALC_MOD + 1];
} stor_calc_t;
VD_MUST_CHECK int stor_calc_init(stor_calc_t *calc, vd_arena_t *arena, vd_error_t *err);
VD_MUST_CHECK int stor_calc_run(stor_calc_t *calc, vd_arena_t *arena, stor_op_t op, vd_value_t a,
                                vd_value_t b, vd_value_t *ret, vd_error_t *err);

/* ---- windows ---- */

typedef enum { STOR_BOUND_UNBOUNDED, STOR_BOUND_CURRENT, STOR_BOUND_VALUE } stor_bound_kind_t;
typedef struct {
    stor_bound_kind_t kind;
    int64_t offset;   /* documents, or units of time */
    vd_value_t value; /* range: a number */
} stor_bound_t;
typedef struct {
    bool range;
    int unit; /* of a range over dates; -1 = none */
    stor_bound_t lower, upper;
} stor_window_t;

typedef enum {
    STOR_FUNCTION_ACCUMULATOR, /* any of $group's; added to, or built anew */
    STOR_FUNCTION_SUM,         /* from here to INTEGRAL: taken out of again when the window moves */
    STOR_FUNCTION_AVG,
    STOR_FUNCTION_COUNT,
    STOR_FUNCTION_MIN,
    STOR_FUNCTION_MAX,
    STOR_FUNCTION_STD_POP,
    STOR_FUNCTION_STD_SAMP,
    STOR_FUNCTION_COVARIANCE_POP,
    STOR_FUNCTION_COVARIANCE_SAMP,
    STOR_FUNCTION_INTEGRAL,
    STOR_FUNCTION_FIRST,
    STOR_FUNCTION_LAST,
    STOR_FUNCTION_DERIVATIVE,
    STOR_FUNCTION_SHIFT, /* from here on without a window */
    STOR_FUNCTION_EXP_MOVING_AVG,
    STOR_FUNCTION_LINEAR_FILL,
    STOR_FUNCTION_LOCF,
    STOR_FUNCTION_RANK,
    STOR_FUNCTION_DENSE_RANK,
    STOR_FUNCTION_DOCUMENT_NUMBER,
} stor_function_kind_t;

typedef struct {
    stor_function_kind_t kind;
    const char *name;
    vd_slice_t path; /* of the output */
    stor_window_t window;
    stor_expr_t *input; /* SHIFT: output */
    stor_accumulator_t *accumulator;
    int64_t by;          /* SHIFT */
    vd_value_t fallback; /* SHIFT: default */
    int64_t unit_ms;     /* DERIVATIVE, INTEGRAL; 0 = none */
    vd_decimal_t alpha;  /* EXP_MOVING_AVG */
} stor_function_t;

/* Reads {$sum: "$x", window: {...}}. sort_by: of the stage, or NULL. */
VD_MUST_CHECK int stor_function_parse(vd_arena_t *arena, vd_slice_t path, vd_value_t spec,
                                      const stor_sort_t *sort_by, const stor_variables_t *variables,
                                      stor_function_t *ret_function, vd_error_t *err);

/* ---- running ---- */

/* The partition as functions see it. */
typedef struct stor_partition {
    /* Makes documents up to the position ready, as far as there are any: *ret_count are. */
    int (*pull)(void *context, stor_request_t *request, uint64_t position, uint64_t *ret_count,
                vd_error_t *err);
    /* One that is ready. Valid until the next call of either. */
    int (*at)(void *context, uint64_t position, vd_bson_t *ret_document, vd_error_t *err);
    void *context;
    uint64_t current;
    vd_arena_t *scratch; /* reset for every document that goes out */
    stor_expr_env_t *env;
    stor_expr_t *sort_by;    /* "$t" of a sort by one field; NULL else */
    const stor_sort_t *sort; /* the whole pattern; NULL = none */
    stor_calc_t *calc;
    stor_work_t *work;
} stor_partition_t;

typedef struct stor_function_state stor_function_state_t;
stor_function_state_t *stor_function_open(const stor_function_t *function,
                                          stor_partition_t *partition);
void stor_function_close(stor_function_state_t **state_p);
/* A new partition begins. */
void stor_function_reset(stor_function_state_t *state);
/* The value for the document at partition->current; it lives in partition->scratch. *ret_needed:
 * the first position that the function may look at again. */
VD_MUST_CHECK int stor_function_next(stor_function_state_t *state, stor_request_t *request,
                                     vd_value_t *ret_value, uint64_t *ret_needed, vd_error_t *err);
