/* veddb-storaged/index/entry_sort.h — entries of an index that is built, put in order: in memory,
 * and beyond a budget in tables of their own ("r-..."), which are encrypted as all tables are.
 *
 * Duty:    takes entries in any order, gives them back ascending by fields, then key of the _id.
 * Owner:   the build.
 * Threads: one.
 * Limits:  budget_bytes in memory, STOR_SORT_RUNS_MAX tables. */
#pragma once
#include "veddb-storaged/engine/session.h"
#include "veddb-storaged/index/keys.h"

#define STOR_SORT_RUNS_MAX 1000

typedef struct stor_sort stor_entry_sort_t;

typedef struct {
    vd_slice_t fields, id_key, type_bits;
    bool exact;
} stor_sorted_entry_t;

/* name: of the tables, "r-7": a number follows. */
stor_entry_sort_t *stor_entry_sort_create(stor_engine_t *engine, const char *name,
                                          size_t budget_bytes);
/* Drops its tables. */
void stor_entry_sort_destroy(stor_entry_sort_t **sort_p);
VD_MUST_CHECK int stor_entry_sort_add(stor_entry_sort_t *sort, const stor_index_key_t *key,
                                      vd_slice_t id_key, vd_error_t *err);
uint64_t stor_entry_sort_count(const stor_entry_sort_t *sort);
/* Nothing is added any more. */
VD_MUST_CHECK int stor_entry_sort_finish(stor_entry_sort_t *sort, vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. Valid until the next call. */
VD_MUST_CHECK int stor_entry_sort_next(stor_entry_sort_t *sort, stor_sorted_entry_t *ret_entry,
                                       vd_error_t *err);
