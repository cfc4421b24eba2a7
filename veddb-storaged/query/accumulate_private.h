/* veddb-storaged/query/accumulate_private.h — what the files of the accumulators share: the spec,
 * the state, how values are kept. */
#pragma once
#include "veddb-storaged/query/accumulate.h"
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/percentile.h"
#include "veddb-storaged/query/sort.h"
#include "veddb-storaged/query/total.h"

typedef enum {
    ACC_SUM,
    ACC_AVG,
    ACC_MIN,
    ACC_MAX,
    ACC_FIRST,
    ACC_LAST,
    ACC_PUSH,
    ACC_ADD_TO_SET,
    ACC_COUNT,
    ACC_MERGE,
    ACC_STD_POP,
    ACC_STD_SAMP,
    ACC_TOP,
    ACC_BOTTOM,
    ACC_FIRST_N,
    ACC_LAST_N,
    ACC_MIN_N,
    ACC_MAX_N,
    ACC_MEDIAN,
    ACC_PERCENTILE,
} stor_accumulator_kind_t;

struct stor_accumulator {
    stor_accumulator_kind_t kind;
    const char *name;
    stor_expr_t *argument;        /* or `input`, `output` */
    stor_expr_t *n;               /* NULL: one, and the result is no array */
    stor_sort_t *sort;            /* ACC_TOP, ACC_BOTTOM */
    stor_percentile_t percentile; /* ACC_MEDIAN, ACC_PERCENTILE */
};

/* A value kept in memory of its own. */
typedef struct {
    vd_value_t value;
    uint8_t *memory;
    uint32_t cap;
} stor_kept_t;

/* One of the N that are kept: the value and, for top and bottom, its sort key. */
typedef struct {
    stor_kept_t value, keys;
    uint64_t order; /* of arrival: equal keys keep it */
} stor_entry_t;

struct stor_accumulator_state {
    const stor_accumulator_t *accumulator;
    vd_arena_t *arena;
    size_t bytes;
    stor_total_t total;
    stor_spread_t spread;
    stor_kept_t kept;
    bool any;
    uint64_t seen;
    int64_t n;          /* 0: not read yet */
    vd_value_t *values; /* PUSH, ADD_TO_SET */
    uint32_t count, cap;
    uint32_t *table; /* ADD_TO_SET: position + 1 by hash */
    uint32_t table_mask;
    double *numbers;        /* MEDIAN, PERCENTILE: count of them */
    stor_entry_t **entries; /* the N kinds, in order */
};

/* One entry more of the N kinds: its value and, for top and bottom, its keys as an array. */
void stor_accumulator_add_entry(stor_accumulator_state_t *state, vd_value_t value, vd_value_t keys);
/* Numbers more of the percentiles. */
void stor_accumulator_add_numbers(stor_accumulator_state_t *state, const uint8_t *doubles,
                                  uint32_t count);
