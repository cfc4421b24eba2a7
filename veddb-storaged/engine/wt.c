/* veddb-storaged/engine/wt.c — see the header. */
#include "veddb-storaged/engine/wt.h"

#include <errno.h>
#include <stdio.h>

static _Thread_local char last_message[VD_ERROR_MESSAGE_SIZE];

void stor_wt_message_note(const char *message)
{
    (void)snprintf(last_message, sizeof last_message, "%s", message);
}

const char *stor_wt_message(void)
{
    return last_message;
}

void stor_wt_message_clear(void)
{
    last_message[0] = '\0';
}

static int code_of(int ret)
{
    switch (ret) {
    case WT_ROLLBACK:
    case WT_PREPARE_CONFLICT:
        return VD_ERR_WRITE_CONFLICT;
    case WT_NOTFOUND:
    case ENOENT:
        return VD_ERR_NOT_FOUND;
    case WT_DUPLICATE_KEY:
        return VD_ERR_DUPLICATE_KEY;
    case WT_CACHE_FULL:
        return VD_ERR_TEMPORARILY_UNAVAILABLE;
    case EBUSY:
        return VD_ERR_OBJECT_IS_BUSY;
    case EEXIST:
        return VD_ERR_EXISTS;
    case ENOSPC:
        return VD_ERR_OUT_OF_DISK_SPACE;
    case ENOMEM:
        return VD_ERR_NO_MEMORY;
    case EINVAL:
        return VD_ERR_INVALID;
    case WT_PANIC:
    case WT_TRY_SALVAGE:
        return VD_ERR_CORRUPT;
    default:
        return VD_ERR_IO;
    }
}

int stor_wt_error(int ret, vd_error_t *err, const char *what)
{
    int code = code_of(ret);
    switch (code) {
    case VD_ERR_WRITE_CONFLICT: /* frequent and without news: no formatting of what nobody reads */
        return vd_error_set(err, code, "another transaction changed the same record");
    case VD_ERR_NOT_FOUND:
        return vd_error_set(err, code, "%s: not there", what);
    case VD_ERR_DUPLICATE_KEY:
        return vd_error_set(err, code, "the key exists already");
    default:
        return vd_error_set(err, code, "%s: %s%s%s", what, wiredtiger_strerror(ret),
                            last_message[0] != '\0' ? ": " : "", last_message);
    }
}
