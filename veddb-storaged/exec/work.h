/* veddb-storaged/exec/work.h — what one query may use of memory and disk while it runs.
 *
 * Duty:    adds up what its blocking steps (sorts, groups, windows) keep, against the query's own
 *          budget and the node's (all queries together), and says who must write to disk.
 *          A step that holds an eighth of the budget or more spills when the query is over it; a
 *          smaller one goes on until twice the budget, so that a step whose neighbour holds
 *          everything does not write file after file of a few documents.
 * Owner:   embedded in a query or a pipeline, which outlives the steps. Each step gives back what
 *          it was charged (stor_work_release) when it closes.
 * Threads: one at a time; the node's sum is atomic.
 * Errors:  292 when disk is not allowed; 146 when the node's budget or twice the query's is
 *          reached. */
#pragma once
#include "libcommon/base/error.h"

struct stor_spill; /* spill.h */

/* What was written to disk. */
typedef struct {
    uint64_t spills, bytes, records;
} stor_spilled_t;

typedef struct stor_work {
    struct stor_spill *node; /* NULL: nothing may be written, and nobody adds up */
    bool no_disk;            /* allowDiskUse: false */
    size_t bytes_max, bytes, grain;
    stor_spilled_t spilled; /* by all steps */
    /* Called before a step writes to disk, which takes long: gives back what the steps before it
     * hold of the engine. NULL: they hold nothing. */
    void (*before_disk)(void *context);
    void *before_disk_context;
} stor_work_t;

void stor_work_init(stor_work_t *work, struct stor_spill *node, bool no_disk);
/* The step `what` ("$group") holds `now` bytes; *held is what it was charged before. Returns VD_OK;
 * VD_ERR_AGAIN: it must spill, and charge anew; or an error. Cheap when little has changed. */
VD_MUST_CHECK int stor_work_charge(stor_work_t *work, size_t *held, size_t now, const char *what,
                                   vd_error_t *err);
/* What can't be spilled (one group of a merge, a window) holds `now` bytes: as above, but over the
 * budget it is 146. */
VD_MUST_CHECK int stor_work_pin(stor_work_t *work, size_t *held, size_t now, const char *what,
                                vd_error_t *err);
/* Gives back all that was charged. */
void stor_work_release(stor_work_t *work, size_t *held);
/* Adds to a step's own what was written since `before`, a copy of work->spilled. */
static inline void stor_spilled_add(stor_spilled_t *own, const stor_work_t *work,
                                    stor_spilled_t before)
{
    own->spills += work->spilled.spills - before.spills;
    own->bytes += work->spilled.bytes - before.bytes;
    own->records += work->spilled.records - before.records;
}
/* May the query write to disk at all. */
bool stor_work_may_spill(const stor_work_t *work);
