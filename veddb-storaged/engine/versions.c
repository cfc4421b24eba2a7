/* veddb-storaged/engine/versions.c — see versions.h. */
#include "veddb-storaged/engine/versions.h"

#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "proto/versions.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct stor_versions {
    vdp_versions_t *table;
    pthread_mutex_t lock; /* of `serving` */
    bool serving;
};

/* All of it at once, so that a full file system is an error here and no signal later. The file
 * never shrinks: others have it mapped. */
static int file_open(const char *path, int *ret_fd, vd_error_t *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return vd_error_set_errno(err, "can't open %s", path);
    int why = fchmod(fd, 0640) == 0 ? 0 : errno;
    if (why == 0)
        why = posix_fallocate(fd, 0, sizeof(vdp_versions_t));
    if (why == 0) {
        *ret_fd = fd;
        return VD_OK;
    }
    (void)close(fd);
    errno = why;
    return vd_error_set_errno(err, "can't make %s", path);
}

/* Nothing of an earlier start may be believed from the first step on; and its epoch is gone on
 * from, so that no value comes again. */
static void take_over(vdp_versions_t *table, const uint8_t boot_id[16])
{
    uint64_t epoch = 0;
    if (table->magic == VDP_VERSIONS_MAGIC)
        epoch = vdp_version_read(&table->epoch) & ~VDP_VERSIONS_PENDING;
    __atomic_store_n((uint64_t *)&table->epoch, epoch + VDP_VERSIONS_ENDED + 1, __ATOMIC_SEQ_CST);
    memcpy(table->boot_id, boot_id, sizeof table->boot_id);
    table->auth_epoch = UINT64_MAX; /* nobody's */
    for (uint32_t i = 0; i < VDP_VERSIONS_SLOTS; i++)
        if (vdp_version_read(&table->slots[i]) != 0) /* pages that nobody used stay untouched */
            table->slots[i] = 0;
    table->magic = VDP_VERSIONS_MAGIC;
}

int stor_versions_open(const char *path, const uint8_t boot_id[16], stor_versions_t **ret_versions,
                       vd_error_t *err)
{
    int fd = -1;
    int rc = file_open(path, &fd, err);
    if (rc != VD_OK)
        return rc;
    void *table = mmap(NULL, sizeof(vdp_versions_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int why = errno;
    (void)close(fd); /* the mapping stays */
    if (table == MAP_FAILED) {
        errno = why;
        return vd_error_set_errno(err, "can't map %s", path);
    }
    stor_versions_t *versions = vd_xalloc(sizeof *versions);
    versions->table = table;
    (void)pthread_mutex_init(&versions->lock, NULL);
    take_over(versions->table, boot_id);
    *ret_versions = versions;
    return VD_OK;
}

void stor_versions_close(stor_versions_t **versions_p)
{
    stor_versions_t *versions = *versions_p;
    if (versions == NULL)
        return;
    stor_versions_serve(versions, false);
    (void)munmap(versions->table, sizeof *versions->table);
    (void)pthread_mutex_destroy(&versions->lock);
    vd_free(versions);
    *versions_p = NULL;
}

void stor_versions_serve(stor_versions_t *versions, bool on)
{
    if (versions == NULL)
        return;
    (void)pthread_mutex_lock(&versions->lock);
    if (on && !versions->serving)
        stor_versions_all_end(versions);
    else if (!on && versions->serving)
        stor_versions_all_begin(versions);
    versions->serving = on;
    (void)pthread_mutex_unlock(&versions->lock);
}

void stor_versions_all_begin(stor_versions_t *versions)
{
    if (versions != NULL)
        vdp_version_begin(&versions->table->epoch);
}

void stor_versions_all_end(stor_versions_t *versions)
{
    if (versions != NULL)
        vdp_version_end(&versions->table->epoch);
}

void stor_versions_auth_epoch(stor_versions_t *versions, uint64_t epoch)
{
    if (versions != NULL)
        versions->table->auth_epoch = epoch;
}

uint64_t stor_versions_epoch(const stor_versions_t *versions)
{
    if (versions == NULL)
        return 0;
    uint64_t epoch = vdp_version_read(&versions->table->epoch);
    return vdp_version_is_pending(epoch) ? 0 : epoch;
}

void stor_versions_see(const stor_versions_t *versions, const char *table, vd_slice_t key,
                       stor_version_seen_t *seen)
{
    seen->slot = 0;
    if (versions == NULL || seen->epoch == 0 || !stor_versions_has(table))
        return;
    uint32_t slot = stor_versions_slot(table, key);
    seen->version = vdp_version_read(&versions->table->slots[slot]);
    if (!vdp_version_is_pending(seen->version))
        seen->slot = slot + 1;
}

bool stor_versions_has(const char *table)
{
    return table[0] == 'c' && table[1] == '-';
}

/* Seeded per process: nobody outside can choose what falls together. */
uint32_t stor_versions_slot(const char *table, vd_slice_t key)
{
    uint64_t hash = vd_hash(key);
    for (const char *c = table; *c != 0; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    return (uint32_t)((hash ^ hash >> 32) % VDP_VERSIONS_SLOTS);
}

void stor_versions_begin(stor_versions_t *versions, uint32_t slot)
{
    vdp_version_begin(&versions->table->slots[slot]);
}

void stor_versions_end(stor_versions_t *versions, uint32_t slot)
{
    vdp_version_end(&versions->table->slots[slot]);
}
