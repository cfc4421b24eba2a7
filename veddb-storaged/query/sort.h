/* veddb-storaged/query/sort.h — sort patterns on any paths: {a: 1, "b.c": -1}; arrays sort by their
 * smallest (1) or largest (-1) element.
 *
 * Pure.
 * Owner:   arena of parse.
 * Threads: immutable after parse.
 *
 * $meta:"textScore" is refused; {$natural: ±1} is told apart. */
#pragma once
#include "veddb-storaged/query/filter.h"

#define STOR_SORT_KEYS_MAX 32

typedef struct {
    uint32_t count;
    stor_path_t paths[STOR_SORT_KEYS_MAX];
    int8_t directions[STOR_SORT_KEYS_MAX]; /* 1, -1 */
    int8_t natural;                        /* {$natural: d}: d with count 0; else 0 */
} stor_sort_t;

VD_MUST_CHECK int stor_sort_parse(vd_arena_t *arena, vd_bson_t spec, stor_sort_t **ret_sort,
                                  vd_error_t *err);
/* The document's sort key: an array of sort->count values in arena (missing as null... compared
 * as MongoDB: missing = null < numbers). Two arrays on
 * parallel paths: BadValue "cannot sort with keys that are parallel arrays". Values borrow the
 * document. */
VD_MUST_CHECK int stor_sort_key(const stor_sort_t *sort, vd_arena_t *arena, vd_bson_t document,
                                vd_value_t *ret_values, vd_error_t *err);
int stor_sort_compare(const stor_sort_t *sort, const vd_value_t *a, const vd_value_t *b);
/* True when {_id: ±1} alone (clustered order serves it). */
bool stor_sort_is_id(const stor_sort_t *sort, int *ret_direction);
