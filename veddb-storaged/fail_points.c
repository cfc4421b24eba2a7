/* veddb-storaged/fail_points.c — see fail_points.h. */
#include "veddb-storaged/fail_points.h"

#include "libcommon/base/mem.h"
#include "libcommon/bson/fail_mode.h"
#include "veddb-storaged/storaged.h"

#include <pthread.h>

struct stor_fail_points {
    pthread_mutex_t lock;
    vd_fail_mode_t write, max_time;
    /* of `write` */
    bool closes;
    int code; /* VD_OK: the statement is committed */
};

stor_fail_points_t *stor_fail_points_create(const stor_settings_t *settings)
{
    if (!settings->test_faults)
        return NULL;
    stor_fail_points_t *points = vd_xalloc(sizeof *points);
    (void)pthread_mutex_init(&points->lock, NULL); /* can't fail with default attributes */
    return points;
}

void stor_fail_points_destroy(stor_fail_points_t **points_p)
{
    if (*points_p == NULL)
        return;
    (void)pthread_mutex_destroy(&(*points_p)->lock);
    vd_free(*points_p);
    *points_p = NULL;
}

static int read_data(vd_value_t data, bool *ret_closes, int *ret_code, vd_error_t *err)
{
    vd_bson_iter_t each;
    *ret_closes = true;
    *ret_code = VD_OK;
    if (data.type != VD_BSON_OBJECT)
        return VD_OK;
    vd_bson_iter_init(&each, vd_value_document(data));
    while (vd_bson_iter_next(&each)) {
        int64_t code;
        if (vd_slice_is(each.name, "closeConnection"))
            *ret_closes = vd_value_as_flag(each.value);
        else if (!vd_slice_is(each.name, "failBeforeCommitExceptionCode"))
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "onPrimaryTransactionalWrite does not know \"%.*s\"",
                                (int)(each.name.len < 64 ? each.name.len : 64), each.name.data);
        else if (!vd_value_as_int64(each.value, &code) || code <= 0 || code > INT32_MAX)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "failBeforeCommitExceptionCode must be the code of an error");
        else
            *ret_code = -(int)code;
    }
    return VD_OK;
}

int stor_fail_points_configure(stor_fail_points_t *points, vd_bson_t body, uint64_t *ret_hits,
                               vd_error_t *err)
{
    vd_slice_t field;
    vd_value_t name;
    vd_fail_mode_t mode;
    bool closes = false;
    int code = VD_OK;
    bool named = vd_bson_first(body, &field, &name) && name.type == VD_BSON_STRING;
    bool writes = named && vd_slice_is(vd_value_string(name), "onPrimaryTransactionalWrite");
    if (!writes && !(named && vd_slice_is(vd_value_string(name), "maxTimeAlwaysTimeOut")))
        return vd_error_set(err, VD_ERR_LOCATION(82), "there is no such fail point");
    int rc = vd_fail_mode_parse(vd_bson_get(body, "mode"), &mode, err);
    if (rc == VD_OK && writes)
        rc = read_data(vd_bson_get(body, "data"), &closes, &code, err);
    if (rc != VD_OK)
        return rc;
    vd_fail_mode_t *point = writes ? &points->write : &points->max_time;
    (void)pthread_mutex_lock(&points->lock);
    *ret_hits = point->hits;
    *point = mode;
    if (writes)
        points->closes = closes, points->code = code;
    (void)pthread_mutex_unlock(&points->lock);
    return VD_OK;
}

bool stor_fail_max_time(stor_request_t *request)
{
    stor_fail_points_t *points = request->storage->fail_points;
    if (points == NULL || !request->deadline_is_max_time || request->deadline_us == 0)
        return false;
    (void)pthread_mutex_lock(&points->lock);
    bool acts = vd_fail_mode_hit(&points->max_time);
    (void)pthread_mutex_unlock(&points->lock);
    return acts;
}

int stor_fail_write(stor_request_t *request, vd_error_t *err)
{
    stor_fail_points_t *points = request->storage->fail_points;
    if (VD_LIKELY(points == NULL))
        return VD_OK;
    (void)pthread_mutex_lock(&points->lock);
    bool acts = vd_fail_mode_hit(&points->write);
    bool closes = points->closes;
    int code = points->code;
    (void)pthread_mutex_unlock(&points->lock);
    if (!acts)
        return VD_OK;
    if (closes)
        request->reply_flags |= VDP_REPLY_CLOSE;
    return code == VD_OK ? VD_OK
                         : vd_error_set(err, code,
                                        "Failing write due to failpoint. The write must "
                                        "not be reflected.");
}
