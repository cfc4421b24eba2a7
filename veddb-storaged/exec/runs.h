/* veddb-storaged/exec/runs.h — sorted runs on disk, merged into one order.
 *
 * Duty:    takes runs whose records are sorted, in the order in which they were made, and gives
 *          their records back in order; of equal ones those of the earlier run first. When sixteen
 *          runs of one size have come together they are merged into one, so that the last merge
 *          reads from few files.
 * Owner:   embedded; init/done. The owner's class says how a record is read and compared.
 * Threads: one. Every record asks stor_request_check. */
#pragma once
#include "veddb-storaged/exec/spill.h"

struct stor_request;

typedef struct {
    size_t head_bytes; /* what load fills: what compare needs; it may borrow the record */
    int (*load)(void *context, vd_slice_t record, void *ret_head, vd_error_t *err);
    int (*compare)(void *context, const void *a, const void *b);
    void *context;
} stor_runs_class_t;

typedef struct {
    stor_run_t *run;
    uint32_t level;
    vd_slice_t record; /* the present one */
} stor_runs_slot_t;

typedef struct {
    stor_work_t *work;
    stor_runs_class_t class;
    stor_runs_slot_t *slots;
    uint32_t count, cap;
    uint8_t *heads; /* one for each slot while merging */
    uint32_t *heap; /* slots that have a record, the least on top */
    uint32_t heap_count;
    bool given; /* the record on top was given: it goes at the next call */
} stor_runs_t;

void stor_runs_init(stor_runs_t *runs, stor_work_t *work, const stor_runs_class_t *class);
void stor_runs_done(stor_runs_t *runs);
/* Takes the run, flushed, when it returns VD_OK or not. */
VD_MUST_CHECK int stor_runs_add(stor_runs_t *runs, stor_run_t **run_p, struct stor_request *request,
                                vd_error_t *err);
/* After the last run. */
VD_MUST_CHECK int stor_runs_begin(stor_runs_t *runs, vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. *ret_head: what load made of it. Both valid until the next call. */
VD_MUST_CHECK int stor_runs_next(stor_runs_t *runs, struct stor_request *request,
                                 vd_slice_t *ret_record, const void **ret_head, vd_error_t *err);
