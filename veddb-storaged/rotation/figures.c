/* veddb-storaged/rotation/figures.c — see figures.h. */
#include "veddb-storaged/rotation/figures.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/view.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *kept;
static size_t kept_len;
static uint64_t kept_ms;

void stor_figures_take(void *context, int code, vd_slice_t message, vd_slice_t body)
{
    (void)context, (void)message; /* what is refused is asked again */
    if (code != VD_OK || body.len == 0 ||
        vd_bson_validate(body, 0, VD_BSON_DEPTH_MAX, NULL) != VD_OK)
        return;
    vd_value_t text = vd_bson_get((vd_bson_t){body.data, (uint32_t)body.len}, "text");
    if (text.type != VD_BSON_STRING || vd_value_string(text).len > STOR_FIGURES_MAX_BYTES)
        return;
    vd_slice_t value = vd_value_string(text);
    (void)pthread_mutex_lock(&lock);
    vd_free(kept);
    kept = vd_xstrndup(value.data, value.len);
    kept_len = value.len;
    kept_ms = vd_monotonic_ms();
    (void)pthread_mutex_unlock(&lock);
}

int stor_figures_print(vd_buf_t *out)
{
    (void)pthread_mutex_lock(&lock);
    uint64_t age_ms = kept == NULL ? UINT64_MAX : vd_monotonic_ms() - kept_ms;
    int rc = vd_buf_printf(out,
                           "# HELP veddb_keys_rotation_storage_attached 1: the key holder answers "
                           "storage\n"
                           "# TYPE veddb_keys_rotation_storage_attached gauge\n"
                           "veddb_keys_rotation_storage_attached %d\n",
                           age_ms < STOR_FIGURES_LATE_MS);
    if (rc == VD_OK && age_ms < STOR_FIGURES_OLD_MS)
        rc = vd_buf_append(out, kept, kept_len);
    (void)pthread_mutex_unlock(&lock);
    return rc;
}
