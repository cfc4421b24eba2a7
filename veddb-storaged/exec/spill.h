/* veddb-storaged/exec/spill.h — what queries write to disk because it does not fit into memory:
 * files of sealed blocks.
 *
 * Duty:    the node's part (stor_spill_t): the folder, the budgets of memory and disk of all
 *          queries together. A run (stor_run_t): records written one behind the other, then read
 *          back. Every block is sealed with stor_keys, as WiredTiger's are: no plain byte of a
 *          document reaches the disk. A file has no name from the moment it is open, so it is gone
 *          with the process, however that ends; what a crash between the two left is swept at open.
 * Owner:   the node's part: storaged.c. A run: who makes it; it gives its disk space back at
 *          destroy.
 * Threads: the node's part any; a run one at a time.
 * Limits:  VD_SPILL_MAX_BYTES of all runs, and the free-space reserve: 14031 (OutOfDiskSpace).
 *          A run's keys are those of its time: after their destruction reading ends with
 *          KeyDestroyed. */
#pragma once
#include "libcommon/base/slice.h"
#include "veddb-storaged/engine/engine.h"
#include "veddb-storaged/exec/work.h"

#define STOR_SPILL_FOLDER "spill" /* in the data folder */

typedef struct stor_spill stor_spill_t;
typedef struct stor_run stor_run_t;

typedef struct {
    const char *folder;        /* data folder */
    stor_keys_t *keys;         /* borrowed; outlives it */
    stor_engine_t *engine;     /* asked for free space; NULL in unit tests */
    uint64_t disk_max_bytes;   /* 0 = VD_SPILL_MAX_BYTES */
    uint64_t memory_max_bytes; /* of all queries; 0 = VD_QUERIES_MEMORY_MIN_BYTES */
    size_t query_max_bytes;    /* of one query; 0 = VD_QUERY_MEMORY_MAX_BYTES */
} stor_spill_options_t;

/* Makes the folder (0700) and removes what stands in it. */
VD_MUST_CHECK int stor_spill_open(const stor_spill_options_t *options, stor_spill_t **ret_spill,
                                  vd_error_t *err);
/* Every run is destroyed before. */
void stor_spill_close(stor_spill_t **spill_p);
size_t stor_spill_query_max(const stor_spill_t *spill);
/* A query's share changes; true when all together are over the budget and it grew. */
bool stor_spill_memory_move(stor_spill_t *spill, size_t before, size_t now);
/* Runs that were made before the present key became active: they may need an older one. spill NULL:
 * none. */
uint64_t stor_spill_old_runs(const stor_spill_t *spill);
typedef struct {
    uint64_t memory_bytes, memory_max_bytes, disk_bytes, disk_max_bytes; /* now */
    uint64_t runs, spilled_bytes;                                        /* since the start */
} stor_spill_stats_t;
/* spill NULL: all zero. */
void stor_spill_stats(const stor_spill_t *spill, stor_spill_stats_t *ret_stats);

/* ---- runs ---- */
/* work->node must be there. */
VD_MUST_CHECK int stor_run_create(stor_work_t *work, stor_run_t **ret_run, vd_error_t *err);
void stor_run_destroy(stor_run_t **run_p);
/* One record: the parts joined. */
VD_MUST_CHECK int stor_run_put(stor_run_t *run, const vd_slice_t *parts, uint32_t count,
                               vd_error_t *err);
/* After the last record (or, for records by block, to end the block): *ret_offset gets where the
 * next block will stand. NULL: nobody wants to know. */
VD_MUST_CHECK int stor_run_flush(stor_run_t *run, uint64_t *ret_offset, vd_error_t *err);
/* The next record, from the first on; VD_ERR_NOT_FOUND at the end. Valid until the next call. Only
 * after stor_run_flush. */
VD_MUST_CHECK int stor_run_next(stor_run_t *run, vd_slice_t *ret_record, vd_error_t *err);
/* The block that stands at offset: its records go into *buf (grown as needed, freed by the caller
 * with vd_free). For whoever keeps offsets. */
VD_MUST_CHECK int stor_run_block(stor_run_t *run, uint64_t offset, uint8_t **buf, size_t *cap,
                                 vd_slice_t *ret_records, vd_error_t *err);
/* Cuts the first record off; false at the end. */
bool stor_run_cut(vd_slice_t *records, vd_slice_t *ret_record);
/* The largest block so far: what reading it needs. */
size_t stor_run_block_max(const stor_run_t *run);
uint64_t stor_run_bytes(const stor_run_t *run);
/* For tests: the file. */
int stor_run_fd(const stor_run_t *run);
