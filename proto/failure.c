/* proto/failure.c — see failure.h. */
#include "proto/failure.h"

/* The message is bytes, not text: it may be cut in the middle of a letter, and must travel all the
 * same. */
static const vdp_field_t failure_fields[] = {
    VDP_FIELD(VDP_I64, vdp_failure_t, code, 0),
    VDP_FIELD(VDP_BYTES, vdp_failure_t, message, 1024),
};
const vdp_message_t vdp_failure = {VDP_FAILURE,    "FAILURE", sizeof(vdp_failure_t),
                                   failure_fields, 2,         0};

vdp_failure_t vdp_failure_from(const vd_error_t *err)
{
    VD_ASSERT(err != NULL && err->code < 0);

    return (vdp_failure_t){.code = err->code, .message = vd_slice_str(err->message)};
}

int vdp_failure_to(const vdp_failure_t *failure, vd_error_t *err)
{
    VD_ASSERT(failure != NULL);

    /* A peer that reports success as a failure, or an absurd code, is not believed. */
    int code =
        failure->code < 0 && failure->code >= INT32_MIN ? (int)failure->code : VD_ERR_PROTOCOL;
    return vd_error_set(err, code, "%.*s", VD_SLICE_FMT(failure->message));
}
