/* veddb-storaged/engine/reserve.c — see the header. The sample is taken by whoever asks first after
 * it has aged: no thread of its own, so that an idle node does nothing, and a node that had run
 * full recovers with the first write that is tried after space came back. */
#include "veddb-storaged/engine/reserve.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"

#include <inttypes.h>
#include <sys/statvfs.h>

#define SAMPLE_MAX_US      100000
#define SAMPLE_WRITTEN_MAX (4ULL * 1024 * 1024)
#define DIRTY_TRIGGER_PCT  30
#define SPILL_MAX_BYTES    (256ULL * 1024 * 1024)

static uint64_t at_most(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* 1.5 x what may be dirty in the cache (a checkpoint writes it beside the old blocks), four log
 * files, a share of the cache for the lookaside file; and, where a fifth of the disk is more than
 * these, a budget for spilling sorts. */
uint64_t stor_reserve_compute(uint64_t cache_bytes, uint64_t log_file_bytes, uint64_t disk_bytes)
{
    uint64_t dirty = cache_bytes / 100 * DIRTY_TRIGGER_PCT;
    uint64_t spill = at_most(cache_bytes / 4, SPILL_MAX_BYTES);
    uint64_t least = dirty + dirty / 2 + 4 * log_file_bytes + cache_bytes / 8;
    uint64_t share = disk_bytes / 5;
    return at_most(least + spill, share > least ? share : least);
}

static int sample(stor_reserve_t *reserve, uint64_t *ret_disk_bytes, vd_error_t *err)
{
    struct statvfs fs;
    if (statvfs(reserve->folder, &fs) != 0)
        return vd_error_set_errno(err, "free space of %s", reserve->folder);
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (VD_FAULT("reserve.full", NULL) != VD_OK)
        free_bytes = 0;
    atomic_store(&reserve->free_bytes, free_bytes);
    atomic_store(&reserve->written_bytes, 0);
    atomic_store(&reserve->sampled_us, vd_monotonic_us());
    if (free_bytes < reserve->reserve_bytes)
        atomic_store(&reserve->reached, true);
    else if (free_bytes >= reserve->reserve_bytes + reserve->reserve_bytes / 10)
        atomic_store(&reserve->reached, false);
    if (ret_disk_bytes != NULL)
        *ret_disk_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    return VD_OK;
}

int stor_reserve_init(stor_reserve_t *reserve, const char *folder, uint64_t cache_bytes,
                      uint64_t log_file_bytes, uint64_t reserve_min_bytes, vd_error_t *err)
{
    uint64_t disk_bytes = 0;
    reserve->folder = folder;
    reserve->reserve_bytes = 0;
    atomic_init(&reserve->reached, false);
    int rc = sample(reserve, &disk_bytes, err);
    if (rc != VD_OK)
        return rc;
    /* A log file is made at once in its whole length; dirty pages go to the disk in any case. */
    uint64_t floor_bytes = log_file_bytes + cache_bytes / 100 * DIRTY_TRIGGER_PCT;
    reserve->reserve_bytes = reserve_min_bytes == 0
                                 ? stor_reserve_compute(cache_bytes, log_file_bytes, disk_bytes)
                             : reserve_min_bytes > floor_bytes ? reserve_min_bytes
                                                               : floor_bytes;
    /* Less than the reserve itself: a node that has stopped writes at the reserve must be able to
     * start again, to be read and emptied. */
    uint64_t free_bytes = atomic_load(&reserve->free_bytes);
    uint64_t need = reserve->reserve_bytes / 2;
    if (free_bytes < need)
        return vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE,
                            "%s has %" PRIu64 " MB free; opening the database needs %" PRIu64 " MB",
                            folder, free_bytes >> 20, (need >> 20) + 1);
    return sample(reserve, NULL, err);
}

int stor_reserve_check(stor_reserve_t *reserve, bool frees, vd_error_t *err)
{
    uint64_t sampled_us = atomic_load_explicit(&reserve->sampled_us, memory_order_relaxed);
    /* What is committed goes to the log and again to the tables, some of it more than once. */
    uint64_t written_max = at_most(SAMPLE_WRITTEN_MAX, reserve->reserve_bytes / 16);
    if (vd_monotonic_us() - sampled_us > SAMPLE_MAX_US ||
        atomic_load_explicit(&reserve->written_bytes, memory_order_relaxed) > written_max) {
        int rc = sample(reserve, NULL, err);
        if (rc != VD_OK)
            return rc;
    }
    if (VD_LIKELY(!atomic_load_explicit(&reserve->reached, memory_order_relaxed)))
        return VD_OK;
    uint64_t free_bytes = atomic_load(&reserve->free_bytes);
    /* A deletion writes before it frees. Half is needed to open again: an eighth above it is left
     * for what the last deletions have not yet written back. */
    if (frees && free_bytes >= reserve->reserve_bytes / 8 * 5)
        return VD_OK;
    return vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE,
                        "the disk is nearly full (%" PRIu64 " MB free, %" PRIu64
                        " MB kept in reserve): %s are refused until space is freed; reads go on",
                        free_bytes >> 20, reserve->reserve_bytes >> 20,
                        frees ? "writes and even deletions" : "writes");
}

void stor_reserve_written(stor_reserve_t *reserve, uint64_t bytes)
{
    atomic_fetch_add_explicit(&reserve->written_bytes, bytes, memory_order_relaxed);
}
