/* veddb-storaged/write_fault.c — see write_fault.h. */
#include "veddb-storaged/write_fault.h"

#include "libcommon/base/mem.h"
#include "libcommon/bson/fail_mode.h"
#include "veddb-storaged/storaged.h"

#include <pthread.h>

struct stor_write_fault {
    pthread_mutex_t lock;
    vd_fail_mode_t mode;
    bool closes;
    int code; /* VD_OK: the statement is committed */
};

stor_write_fault_t *stor_write_fault_create(const stor_settings_t *settings)
{
    if (!settings->test_faults)
        return NULL;
    stor_write_fault_t *fault = vd_xalloc(sizeof *fault);
    (void)pthread_mutex_init(&fault->lock, NULL); /* can't fail with default attributes */
    return fault;
}

void stor_write_fault_destroy(stor_write_fault_t **fault_p)
{
    if (*fault_p == NULL)
        return;
    (void)pthread_mutex_destroy(&(*fault_p)->lock);
    vd_free(*fault_p);
    *fault_p = NULL;
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

int stor_write_fault_configure(stor_write_fault_t *fault, vd_bson_t body, uint64_t *ret_hits,
                               vd_error_t *err)
{
    vd_fail_mode_t mode;
    bool closes;
    int code;
    int rc = vd_fail_mode_parse(vd_bson_get(body, "mode"), &mode, err);
    if (rc == VD_OK)
        rc = read_data(vd_bson_get(body, "data"), &closes, &code, err);
    if (rc != VD_OK)
        return rc;
    (void)pthread_mutex_lock(&fault->lock);
    *ret_hits = fault->mode.hits;
    fault->mode = mode;
    fault->closes = closes;
    fault->code = code;
    (void)pthread_mutex_unlock(&fault->lock);
    return VD_OK;
}

int stor_write_fault_hit(stor_request_t *request, vd_error_t *err)
{
    stor_write_fault_t *fault = request->storage->write_fault;
    if (VD_LIKELY(fault == NULL))
        return VD_OK;
    (void)pthread_mutex_lock(&fault->lock);
    bool acts = vd_fail_mode_hit(&fault->mode);
    bool closes = fault->closes;
    int code = fault->code;
    (void)pthread_mutex_unlock(&fault->lock);
    if (!acts)
        return VD_OK;
    if (closes)
        request->reply_flags |= VDP_REPLY_CLOSE;
    return code == VD_OK ? VD_OK
                         : vd_error_set(err, code,
                                        "Failing write due to failpoint. The write must "
                                        "not be reflected.");
}
