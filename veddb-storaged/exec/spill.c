/* veddb-storaged/exec/spill.c — see spill.h.
 *
 * A file is a row of blocks: length of the sealed block u32, the sealed block. Inside, a row of
 * records: length u32, bytes. A record never crosses blocks; a long one makes a long block. */
#include "veddb-storaged/exec/spill.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_BYTES     ((size_t)64 * 1024)
#define BLOCK_MAX_BYTES ((size_t)1 << 30)

#define GENERATIONS 16

struct stor_spill {
    char *folder;
    stor_keys_t *keys;
    stor_engine_t *engine;
    uint64_t disk_max, memory_max;
    size_t query_max;
    atomic_uint_fast64_t disk, memory, runs, spilled;
    /* Runs that are there, by the keys' generation when they were made: a rotation waits for old
     * ones, so they are never so many generations old that they would be taken for new. */
    atomic_uint_fast64_t by_generation[GENERATIONS];
};

struct stor_run {
    stor_spill_t *spill;
    uint64_t generation;
    stor_work_t *work;
    int fd;
    uint64_t size; /* of the file */
    uint64_t at;   /* read so far */
    size_t block_max;
    uint8_t *plain, *sealed;
    size_t plain_cap, plain_len, sealed_cap;
    vd_slice_t left; /* records of the block in work that were not given yet */
};

/* ---- the node's part ---- */

static int sweep(const char *folder, vd_error_t *err)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return vd_error_set_errno(err, "open %s", folder);
    int rc = VD_OK;
    for (struct dirent *entry; rc == VD_OK && (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.' && unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            rc = vd_error_set_errno(err, "remove %s/%s", folder, entry->d_name);
    (void)closedir(dir); /* it was only read */
    return rc;
}

int stor_spill_open(const stor_spill_options_t *options, stor_spill_t **ret_spill, vd_error_t *err)
{
    VD_ASSERT(options->folder != NULL && options->keys != NULL && ret_spill != NULL);

    stor_spill_t *spill = vd_xalloc(sizeof *spill);
    size_t size = strlen(options->folder) + sizeof "/" STOR_SPILL_FOLDER;
    spill->folder = vd_xalloc(size);
    (void)snprintf(spill->folder, size, "%s/" STOR_SPILL_FOLDER, options->folder);
    spill->keys = options->keys;
    spill->engine = options->engine;
    spill->disk_max = options->disk_max_bytes == 0 ? VD_SPILL_MAX_BYTES : options->disk_max_bytes;
    spill->query_max =
        options->query_max_bytes == 0 ? VD_QUERY_MEMORY_MAX_BYTES : options->query_max_bytes;
    spill->memory_max =
        options->memory_max_bytes == 0 ? VD_QUERIES_MEMORY_MIN_BYTES : options->memory_max_bytes;
    int rc = mkdir(spill->folder, 0700) == 0 || errno == EEXIST
                 ? sweep(spill->folder, err)
                 : vd_error_set_errno(err, "make %s", spill->folder);
    if (rc == VD_OK)
        *ret_spill = spill;
    else
        stor_spill_close(&spill);
    return rc;
}

void stor_spill_close(stor_spill_t **spill_p)
{
    stor_spill_t *spill = *spill_p;
    if (spill == NULL)
        return;
    VD_ASSERT(atomic_load(&spill->disk) == 0);
    vd_free(spill->folder);
    vd_free(spill);
    *spill_p = NULL;
}

size_t stor_spill_query_max(const stor_spill_t *spill)
{
    return spill->query_max;
}

bool stor_spill_memory_move(stor_spill_t *spill, size_t before, size_t now)
{
    uint64_t change = (uint64_t)now - (uint64_t)before; /* wraps when it falls */
    uint64_t sum = atomic_fetch_add_explicit(&spill->memory, change, memory_order_relaxed) + change;
    return now > before && sum > spill->memory_max;
}

uint64_t stor_spill_old_runs(const stor_spill_t *spill)
{
    uint64_t old = 0;
    if (spill == NULL)
        return 0;
    uint64_t now = stor_keys_generation(spill->keys) % GENERATIONS;
    for (uint64_t i = 0; i < GENERATIONS; i++)
        old += i == now ? 0 : atomic_load(&spill->by_generation[i]);
    return old;
}

void stor_spill_stats(const stor_spill_t *spill, stor_spill_stats_t *ret_stats)
{
    *ret_stats = (stor_spill_stats_t){0};
    if (spill == NULL)
        return;
    *ret_stats = (stor_spill_stats_t){.memory_bytes = atomic_load(&spill->memory),
                                      .memory_max_bytes = spill->memory_max,
                                      .disk_bytes = atomic_load(&spill->disk),
                                      .disk_max_bytes = spill->disk_max,
                                      .runs = atomic_load(&spill->runs),
                                      .spilled_bytes = atomic_load(&spill->spilled)};
}

/* ---- files ---- */

/* A file without a name. Some file systems can't make one: then it has a name for a moment. */
static int open_nameless(const stor_spill_t *spill, int *ret_fd, vd_error_t *err)
{
    char path[4096];
    int fd = open(spill->folder, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        (void)snprintf(path, sizeof path, "%s/run-XXXXXX", spill->folder);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0 && VD_FAULT("spill.before_unlink", NULL) == VD_OK && unlink(path) != 0) {
            int rc = vd_error_set_errno(err, "remove the name of %s", path);
            (void)close(fd); /* the first error is told */
            return rc;
        }
    }
    if (fd < 0)
        return errno == ENOSPC || errno == EDQUOT
                   ? vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE, "no space for a spill file")
                   : vd_error_set_errno(err, "make a spill file in %s", spill->folder);
    *ret_fd = fd;
    return VD_OK;
}

int stor_run_create(stor_work_t *work, stor_run_t **ret_run, vd_error_t *err)
{
    VD_ASSERT(work->node != NULL);
    int fd;
    int rc = open_nameless(work->node, &fd, err);
    if (rc != VD_OK)
        return rc;
    stor_run_t *run = vd_xalloc(sizeof *run);
    run->spill = work->node;
    run->work = work;
    run->fd = fd;
    work->spilled.spills++;
    atomic_fetch_add(&run->spill->runs, 1);
    run->generation = stor_keys_generation(run->spill->keys);
    atomic_fetch_add(&run->spill->by_generation[run->generation % GENERATIONS], 1);
    *ret_run = run;
    return VD_OK;
}

void stor_run_destroy(stor_run_t **run_p)
{
    stor_run_t *run = *run_p;
    if (run == NULL)
        return;
    (void)close(run->fd); /* it has no name: nothing of it stays */
    atomic_fetch_sub(&run->spill->disk, run->size);
    atomic_fetch_sub(&run->spill->by_generation[run->generation % GENERATIONS], 1);
    vd_free(run->plain);
    vd_free(run->sealed);
    vd_free(run);
    *run_p = NULL;
}

static int grow(uint8_t **buf, size_t *cap, size_t need, vd_error_t *err)
{
    if (need <= *cap)
        return VD_OK;
    size_t size = *cap < BLOCK_BYTES ? BLOCK_BYTES + STOR_BLOCK_OVERHEAD_BYTES + 4 : *cap;
    while (size < need)
        size *= 2;
    uint8_t *larger = need > BLOCK_MAX_BYTES ? NULL : vd_try_alloc(size);
    if (larger == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory for a block of %zu bytes", need);
    if (*buf != NULL)
        memcpy(larger, *buf, *cap);
    vd_free(*buf);
    *buf = larger;
    *cap = size;
    return VD_OK;
}

static int write_all(stor_run_t *run, size_t len, vd_error_t *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(run->fd, run->sealed + done, len - done, (off_t)(run->size + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 && (n == 0 || errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
            return vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE,
                                "the disk is full: a query could not spill to it");
        if (n < 0)
            return vd_error_set_errno(err, "write a spill file");
        done += (size_t)n;
    }
    return VD_OK;
}

/* Asks for the room before it writes, so that two queries do not go over the budget together. */
static int take_disk(stor_run_t *run, uint64_t len, vd_error_t *err)
{
    stor_spill_t *spill = run->spill;
    int rc = VD_FAULT("spill.full", NULL) != VD_OK
                 ? vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE, "spill: the disk is full")
             : spill->engine == NULL ? VD_OK
                                     : stor_engine_write_allowed(spill->engine, err);
    if (rc != VD_OK)
        return rc;
    uint64_t sum = atomic_fetch_add(&spill->disk, len) + len;
    if (sum <= spill->disk_max)
        return VD_OK;
    atomic_fetch_sub(&spill->disk, len);
    return vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE,
                        "all queries together would write more than %llu MB to disk",
                        (unsigned long long)(spill->disk_max >> 20));
}

int stor_run_flush(stor_run_t *run, uint64_t *ret_offset, vd_error_t *err)
{
    if (run->plain_len > 0) {
        size_t sealed_len = 0;
        int rc = grow(&run->sealed, &run->sealed_cap,
                      run->plain_len + STOR_BLOCK_OVERHEAD_BYTES + 4, err);
        if (rc == VD_OK)
            rc = stor_keys_seal(run->spill->keys, vd_slice(run->plain, run->plain_len),
                                run->sealed + 4, &sealed_len, err);
        if (rc == VD_OK)
            rc = take_disk(run, sealed_len + 4, err);
        if (rc != VD_OK)
            return rc;
        vd_put_u32(run->sealed, (uint32_t)sealed_len);
        rc = write_all(run, sealed_len + 4, err);
        if (rc != VD_OK) {
            atomic_fetch_sub(&run->spill->disk, sealed_len + 4);
            return rc;
        }
        run->size += sealed_len + 4;
        run->work->spilled.bytes += sealed_len + 4;
        atomic_fetch_add(&run->spill->spilled, sealed_len + 4);
        if (run->plain_len > run->block_max)
            run->block_max = run->plain_len;
        run->plain_len = 0;
    }
    if (ret_offset != NULL)
        *ret_offset = run->size;
    return VD_OK;
}

int stor_run_put(stor_run_t *run, const vd_slice_t *parts, uint32_t count, vd_error_t *err)
{
    size_t len = 0;
    for (uint32_t i = 0; i < count; i++)
        len += parts[i].len;
    if (run->plain_len > 0 && run->plain_len + 4 + len > BLOCK_BYTES) {
        int rc = stor_run_flush(run, NULL, err);
        if (rc != VD_OK)
            return rc;
    }
    int rc = grow(&run->plain, &run->plain_cap, run->plain_len + 4 + len, err);
    if (rc != VD_OK)
        return rc;
    uint8_t *to = run->plain + run->plain_len;
    vd_put_u32(to, (uint32_t)len);
    to += 4;
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i].len > 0)
            memcpy(to, parts[i].data, parts[i].len);
        to += parts[i].len;
    }
    run->plain_len += 4 + len;
    run->work->spilled.records++;
    return VD_OK;
}

/* ---- reading ---- */

static int read_all(int fd, uint8_t *to, size_t len, uint64_t offset, vd_error_t *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, to + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vd_error_set_errno(err, "read a spill file");
        if (n == 0)
            return vd_error_set(err, VD_ERR_CORRUPT, "a spill file is shorter than was written");
        done += (size_t)n;
    }
    return VD_OK;
}

int stor_run_block(stor_run_t *run, uint64_t offset, uint8_t **buf, size_t *cap,
                   vd_slice_t *ret_records, vd_error_t *err)
{
    uint8_t head[4];
    size_t plain_len = 0;
    int rc = read_all(run->fd, head, sizeof head, offset, err);
    if (rc != VD_OK)
        return rc;
    uint32_t sealed_len = vd_get_u32(head);
    if (sealed_len < STOR_BLOCK_OVERHEAD_BYTES || sealed_len > run->size)
        return vd_error_set(err, VD_ERR_CORRUPT, "a block of a spill file has a wrong length");
    rc = grow(&run->sealed, &run->sealed_cap, (size_t)sealed_len + 4, err);
    if (rc == VD_OK)
        rc = grow(buf, cap, sealed_len - STOR_BLOCK_OVERHEAD_BYTES + 1, err);
    if (rc == VD_OK)
        rc = read_all(run->fd, run->sealed, sealed_len, offset + 4, err);
    if (rc == VD_OK)
        rc = stor_keys_open(run->spill->keys, vd_slice(run->sealed, sealed_len), *buf, &plain_len,
                            err);
    if (rc == VD_OK)
        *ret_records = vd_slice(*buf, plain_len);
    return rc;
}

bool stor_run_cut(vd_slice_t *records, vd_slice_t *ret_record)
{
    if (records->len < 4)
        return false;
    uint32_t len = vd_get_u32(records->data);
    VD_ASSERT(len <= records->len - 4); /* sealed by us: it can't have changed */
    *ret_record = vd_slice(records->data + 4, len);
    records->data += 4 + (size_t)len;
    records->len -= 4 + (size_t)len;
    return true;
}

int stor_run_next(stor_run_t *run, vd_slice_t *ret_record, vd_error_t *err)
{
    VD_ASSERT(run->plain_len == 0);
    if (stor_run_cut(&run->left, ret_record))
        return VD_OK;
    if (run->at >= run->size)
        return VD_ERR_NOT_FOUND;
    int rc = stor_run_block(run, run->at, &run->plain, &run->plain_cap, &run->left, err);
    if (rc != VD_OK)
        return rc;
    run->at += run->left.len + STOR_BLOCK_OVERHEAD_BYTES + 4;
    return stor_run_cut(&run->left, ret_record)
               ? VD_OK
               : vd_error_set(err, VD_ERR_CORRUPT, "a spill file has an empty block");
}

size_t stor_run_block_max(const stor_run_t *run)
{
    return run->block_max;
}

uint64_t stor_run_bytes(const stor_run_t *run)
{
    return run->size;
}

int stor_run_fd(const stor_run_t *run)
{
    return run->fd;
}
