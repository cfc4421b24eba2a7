/* veddb-storaged/exec/runs.c — see runs.h. */
#include "veddb-storaged/exec/runs.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/request.h"

#define FAN_MAX 16
#define FAN_MIN 4

void stor_runs_init(stor_runs_t *runs, stor_work_t *work, const stor_runs_class_t *class)
{
    *runs = (stor_runs_t){.work = work, .class = *class};
}

void stor_runs_done(stor_runs_t *runs)
{
    for (uint32_t i = 0; i < runs->count; i++)
        stor_run_destroy(&runs->slots[i].run);
    vd_free(runs->slots);
    vd_free(runs->heads);
    vd_free(runs->heap);
    runs->slots = NULL;
    runs->heads = NULL;
    runs->heap = NULL;
    runs->count = runs->cap = runs->heap_count = 0;
}

static void *head_of(stor_runs_t *runs, uint32_t slot)
{
    return runs->heads + slot * runs->class.head_bytes;
}

static bool before(stor_runs_t *runs, uint32_t a, uint32_t b)
{
    int c = runs->class.compare(runs->class.context, head_of(runs, a), head_of(runs, b));
    return c != 0 ? c < 0 : a < b;
}

static void sift_down(stor_runs_t *runs, uint32_t at)
{
    uint32_t *heap = runs->heap;
    for (;;) {
        uint32_t least = at, left = 2 * at + 1;
        for (uint32_t child = left; child < left + 2 && child < runs->heap_count; child++)
            if (before(runs, heap[child], heap[least]))
                least = child;
        if (least == at)
            return;
        uint32_t swap = heap[at];
        heap[at] = heap[least];
        heap[least] = swap;
        at = least;
    }
}

static int read_slot(stor_runs_t *runs, uint32_t slot, vd_error_t *err)
{
    int rc = stor_run_next(runs->slots[slot].run, &runs->slots[slot].record, err);
    if (rc == VD_OK)
        rc = runs->class.load(runs->class.context, runs->slots[slot].record, head_of(runs, slot),
                              err);
    return rc;
}

/* Over the runs from `first` on. */
static int merge_begin(stor_runs_t *runs, uint32_t first, vd_error_t *err)
{
    vd_free(runs->heads);
    vd_free(runs->heap);
    runs->heads = vd_xalloc((runs->count + 1) * runs->class.head_bytes);
    runs->heap = vd_xalloc((runs->count + 1) * sizeof *runs->heap);
    runs->heap_count = 0;
    runs->given = false;
    for (uint32_t i = first; i < runs->count; i++) {
        int rc = read_slot(runs, i, err);
        if (rc == VD_OK)
            runs->heap[runs->heap_count++] = i;
        else if (rc != VD_ERR_NOT_FOUND)
            return rc;
    }
    for (uint32_t i = runs->heap_count / 2; i-- > 0;)
        sift_down(runs, i);
    return VD_OK;
}

int stor_runs_begin(stor_runs_t *runs, vd_error_t *err)
{
    return merge_begin(runs, 0, err);
}

int stor_runs_next(stor_runs_t *runs, stor_request_t *request, vd_slice_t *ret_record,
                   const void **ret_head, vd_error_t *err)
{
    int rc = request == NULL ? VD_OK : stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (runs->given) {
        runs->given = false;
        rc = read_slot(runs, runs->heap[0], err);
        if (rc == VD_ERR_NOT_FOUND) {
            stor_run_destroy(&runs->slots[runs->heap[0]].run); /* its space is free at once */
            runs->heap[0] = runs->heap[--runs->heap_count];
        } else if (rc != VD_OK) {
            return rc;
        }
        sift_down(runs, 0);
    }
    if (runs->heap_count == 0)
        return VD_ERR_NOT_FOUND;
    runs->given = true;
    *ret_record = runs->slots[runs->heap[0]].record;
    *ret_head = head_of(runs, runs->heap[0]);
    return VD_OK;
}

/* The runs from `first` on become one. */
static int merge_tail(stor_runs_t *runs, uint32_t first, stor_request_t *request, vd_error_t *err)
{
    stor_run_t *into = NULL;
    vd_slice_t record;
    const void *head;
    int rc = merge_begin(runs, first, err);
    if (rc == VD_OK)
        rc = stor_run_create(runs->work, &into, err);
    while (rc == VD_OK && (rc = stor_runs_next(runs, request, &record, &head, err)) == VD_OK)
        rc = stor_run_put(into, &record, 1, err);
    if (rc == VD_ERR_NOT_FOUND)
        rc = stor_run_flush(into, NULL, err);
    if (rc != VD_OK) {
        stor_run_destroy(&into);
        return rc;
    }
    for (uint32_t i = first; i < runs->count; i++)
        stor_run_destroy(&runs->slots[i].run);
    runs->slots[first].run = into;
    runs->slots[first].level++;
    runs->count = first + 1;
    return VD_OK;
}

/* Each run that is merged keeps a block in memory. */
static uint32_t fan(const stor_runs_t *runs)
{
    size_t block = 1;
    for (uint32_t i = 0; i < runs->count; i++)
        if (stor_run_block_max(runs->slots[i].run) > block)
            block = stor_run_block_max(runs->slots[i].run);
    size_t fit = runs->work->bytes_max / 2 / block;
    return fit > FAN_MAX ? FAN_MAX : fit < FAN_MIN ? FAN_MIN : (uint32_t)fit;
}

int stor_runs_add(stor_runs_t *runs, stor_run_t **run_p, stor_request_t *request, vd_error_t *err)
{
    if (runs->count == runs->cap) {
        runs->cap = runs->cap == 0 ? FAN_MAX : runs->cap * 2;
        runs->slots = vd_xrealloc(runs->slots, runs->cap * sizeof *runs->slots);
    }
    runs->slots[runs->count++] = (stor_runs_slot_t){.run = *run_p};
    *run_p = NULL;
    if (request != NULL)
        request->used_disk = true;
    for (;;) {
        uint32_t first = runs->count, level = runs->slots[runs->count - 1].level;
        while (first > 0 && runs->slots[first - 1].level == level)
            first--;
        if (runs->count - first < fan(runs))
            return VD_OK;
        int rc = merge_tail(runs, first, request, err);
        if (rc != VD_OK)
            return rc;
    }
}
