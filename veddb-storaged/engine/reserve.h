/* veddb-storaged/engine/reserve.h — the free space that must stay, so that WiredTiger never meets a
 * full disk (it would panic).
 *
 * Duty:    answers "may a write begin" from a sample of the file system's free space that is at
 *          most SAMPLE_MAX_MS old, or newer when much was written since. Writes are refused below
 *          the reserve and allowed again when a tenth more than the reserve is free (or all that
 *          was asked for). What gives space back is allowed below it too, as far down as a restart
 *          stays possible.
 * Owner:   embedded in the engine.
 * Threads: any. */
#pragma once
#include "libcommon/base/error.h"

#include <stdatomic.h>

typedef struct {
    const char *folder; /* borrowed */
    uint64_t reserve_bytes;
    atomic_uint_fast64_t free_bytes, sampled_us, written_bytes;
    atomic_bool reached;
} stor_reserve_t;

/* The reserve for a cache and log file size on a disk of disk_bytes. */
uint64_t stor_reserve_compute(uint64_t cache_bytes, uint64_t log_file_bytes, uint64_t disk_bytes);
/* reserve_min_bytes 0 = computed. Refuses (VD_ERR_OUT_OF_DISK_SPACE) when less is free than
 * recovery and a first checkpoint may need. */
VD_MUST_CHECK int stor_reserve_init(stor_reserve_t *reserve, const char *folder,
                                    uint64_t cache_bytes, uint64_t log_file_bytes,
                                    uint64_t reserve_min_bytes, vd_error_t *err);
/* frees: the write gives back more than it takes. */
VD_MUST_CHECK int stor_reserve_check(stor_reserve_t *reserve, bool frees, vd_error_t *err);
/* Bytes that a commit has handed to the engine. */
void stor_reserve_written(stor_reserve_t *reserve, uint64_t bytes);
