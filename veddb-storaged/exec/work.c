/* veddb-storaged/exec/work.c — see work.h. */
#include "veddb-storaged/exec/work.h"

#include "libcommon/base/limits.h"
#include "veddb-storaged/exec/spill.h"

#define GRAIN_MAX   ((size_t)64 * 1024) /* changes below this are not looked at */
#define FLOOR_SHARE 8

void stor_work_init(stor_work_t *work, struct stor_spill *node, bool no_disk)
{
    *work = (stor_work_t){.node = node, .no_disk = no_disk};
    work->bytes_max = node == NULL ? VD_QUERY_MEMORY_MAX_BYTES : stor_spill_query_max(node);
    work->grain = work->bytes_max / 64 < GRAIN_MAX ? work->bytes_max / 64 : GRAIN_MAX;
}

bool stor_work_may_spill(const stor_work_t *work)
{
    return work->node != NULL && !work->no_disk;
}

/* True when the node's budget is used up. */
static bool move(stor_work_t *work, size_t *held, size_t now)
{
    bool over = false;
    if (work->node != NULL)
        over = stor_spill_memory_move(work->node, *held, now);
    work->bytes += now - *held;
    *held = now;
    return over;
}

static int refuse(const stor_work_t *work, bool node_over, const char *what, vd_error_t *err)
{
    if (node_over)
        return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT,
                            "%s: all queries together use more than the memory that they may",
                            what);
    return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT,
                        "%s used too much memory and cannot spill to disk. Memory limit: %zu bytes",
                        what, work->bytes_max);
}

int stor_work_charge(stor_work_t *work, size_t *held, size_t now, const char *what, vd_error_t *err)
{
    if (now > *held ? now - *held < work->grain : *held - now < work->grain)
        return VD_OK;
    bool grows = now > *held, node_over = move(work, held, now);
    if (!grows || (work->bytes <= work->bytes_max && !node_over))
        return VD_OK;
    if (stor_work_may_spill(work)) {
        if (now >= work->bytes_max / FLOOR_SHARE)
            return VD_ERR_AGAIN;
        if (work->bytes / 2 <= work->bytes_max && !node_over)
            return VD_OK;
        return refuse(work, node_over, what, err);
    }
    if (node_over)
        return refuse(work, true, what, err);
    return vd_error_set(err, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE,
                        "%s exceeded memory limit of %zu bytes, but did not opt in to external "
                        "sorting. Pass allowDiskUse:true to opt in.",
                        what, work->bytes_max);
}

int stor_work_pin(stor_work_t *work, size_t *held, size_t now, const char *what, vd_error_t *err)
{
    if (now > *held ? now - *held < work->grain : *held - now < work->grain)
        return VD_OK;
    bool grows = now > *held, node_over = move(work, held, now);
    if (!grows || (work->bytes / 2 <= work->bytes_max && now <= work->bytes_max && !node_over))
        return VD_OK;
    return refuse(work, node_over, what, err);
}

void stor_work_release(stor_work_t *work, size_t *held)
{
    (void)move(work, held, 0);
}
