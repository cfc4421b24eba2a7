/* libcommon/base/error.c — the first error wins; see error.h. */
#include "libcommon/base/error.h"
#include "libcommon/base/paths.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int number;
    const char *name;
} codes[] = {
#define VD_ERROR_CODE(name, number, code_name, meaning) {number, code_name},
#include "libcommon/base/error_codes.def"
#undef VD_ERROR_CODE
};

int vd_error_setv(vd_error_t *err, int code, const char *format, va_list args)
{
    VD_ASSERT(code < 0);
    if (err == NULL || err->code != VD_OK)
        return code;
    err->code = code;
    (void)vsnprintf(err->message, sizeof err->message, format, args);
    vd_paths_tell(err->message, sizeof err->message);
    return code;
}

int vd_error_set(vd_error_t *err, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int rc = vd_error_setv(err, code, format, args);
    va_end(args);
    return rc;
}

static int code_of_errno(int number)
{
    switch (number) {
    case ENOMEM:
        return VD_ERR_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
        return VD_ERR_OUT_OF_DISK_SPACE;
    case ENOENT:
        return VD_ERR_NOT_FOUND;
    case EEXIST:
        return VD_ERR_EXISTS;
    case EAGAIN:
        return VD_ERR_AGAIN;
    case EPIPE:
    case ECONNRESET:
        return VD_ERR_CLOSED;
    case ETIMEDOUT:
        return VD_ERR_NETWORK_TIMEOUT;
    default:
        return VD_ERR_IO;
    }
}

int vd_error_set_errno(vd_error_t *err, const char *format, ...)
{
    int number = errno;
    char text[VD_ERROR_MESSAGE_SIZE / 2];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char reason[128];
    return vd_error_set(err, code_of_errno(number), "%s: %s", text,
                        strerror_r(number, reason, sizeof reason));
}

int vd_error_prefix(vd_error_t *err, const char *format, ...)
{
    if (err == NULL)
        return VD_ERR_UNKNOWN;
    char text[VD_ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n;
    if (len + 2 < sizeof text) /* else the prefix alone fills the message */
        (void)snprintf(text + len, sizeof text - len, ": %.*s", (int)(sizeof text - len - 3),
                       err->message);
    vd_paths_tell(text, sizeof text);
    memcpy(err->message, text, sizeof text);
    return err->code;
}

void vd_error_clear(vd_error_t *err)
{
    if (err == NULL)
        return;
    err->code = VD_OK;
    err->message[0] = '\0';
    err->details = VD_SLICE_NULL;
}

void vd_error_copy(const vd_error_t *from, vd_error_t *to)
{
    VD_ASSERT(from != NULL);
    if (to != NULL && to != from)
        *to = *from;
}

const char *vd_error_code_name(int code, char buf[32])
{
    for (size_t i = 0; i < VD_COUNT_OF(codes); i++)
        if (codes[i].number == -code)
            return codes[i].name;
    (void)snprintf(buf, 32, "Location%ld", -(long)code);
    return buf;
}

int vd_error_code_by_name(vd_slice_t name)
{
    for (size_t i = 0; i < VD_COUNT_OF(codes); i++)
        if (vd_slice_is(name, codes[i].name))
            return -codes[i].number;
    return 0;
}

const char *vd_error_print(const vd_error_t *err, char *buf, size_t size)
{
    char name[32];
    if (err->code == VD_OK)
        (void)snprintf(buf, size, "OK");
    else
        (void)snprintf(buf, size, "%s (%ld): %s", vd_error_code_name(err->code, name),
                       -(long)err->code, err->message);
    return buf;
}
