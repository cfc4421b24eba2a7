/* veddb-storaged/counts.c — see counts.h. */
#include "veddb-storaged/counts.h"

#include "libcommon/base/limits.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"

#include <pthread.h>

typedef struct {
    uint64_t count;
} user_t;

struct stor_counts {
    pthread_mutex_t lock;
    vd_map_t *by_user;
};

stor_counts_t *stor_counts_create(void)
{
    stor_counts_t *counts = vd_xalloc(sizeof *counts);
    (void)pthread_mutex_init(&counts->lock, NULL); /* can't fail with default attributes */
    counts->by_user = vd_map_create(VD_SESSIONS_MAX + VD_CURSORS_OPEN_MAX);
    return counts;
}

void stor_counts_destroy(stor_counts_t **counts_p)
{
    stor_counts_t *counts = *counts_p;
    if (counts == NULL)
        return;
    size_t position = 0;
    void *user;
    while (vd_map_next(counts->by_user, &position, &(vd_slice_t){0}, &user))
        vd_free(user);
    vd_map_destroy(&counts->by_user);
    (void)pthread_mutex_destroy(&counts->lock);
    vd_free(counts);
    *counts_p = NULL;
}

bool stor_counts_add(stor_counts_t *counts, vd_slice_t name, uint64_t max)
{
    (void)pthread_mutex_lock(&counts->lock);
    user_t *user = vd_map_get(counts->by_user, name);
    bool good = max == 0 || user == NULL || user->count < max;
    if (good && user == NULL) {
        user = vd_xalloc(sizeof *user);
        int rc = vd_map_put(counts->by_user, name, user, NULL);
        VD_ASSERT(rc == VD_OK); /* no more users than sessions, or cursors */
    }
    if (good)
        user->count++;
    (void)pthread_mutex_unlock(&counts->lock);
    return good;
}

void stor_counts_remove(stor_counts_t *counts, vd_slice_t name)
{
    (void)pthread_mutex_lock(&counts->lock);
    user_t *user = vd_map_get(counts->by_user, name);
    VD_ASSERT(user != NULL && user->count > 0);
    if (--user->count == 0) {
        (void)vd_map_remove(counts->by_user, name);
        vd_free(user);
    }
    (void)pthread_mutex_unlock(&counts->lock);
}

uint64_t stor_counts_get(stor_counts_t *counts, vd_slice_t name)
{
    (void)pthread_mutex_lock(&counts->lock);
    const user_t *user = vd_map_get(counts->by_user, name);
    uint64_t count = user == NULL ? 0 : user->count;
    (void)pthread_mutex_unlock(&counts->lock);
    return count;
}
