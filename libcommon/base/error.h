/* libcommon/base/error.h — what went wrong: a code as MongoDB numbers it, a message for a person.
 *
 * Duty:    carries the first error from where it happened to where it is handled. Functions that
 *          can fail return 0 (VD_OK) or a negative code: -(MongoDB's error number). Own codes
 *          stand from 90001 in error_codes.def.
 * Owner:   the caller's stack (vd_error_t err = VD_ERROR_INIT); a NULL err is always allowed.
 * Threads: one. */
#pragma once
#include "libcommon/base/assert.h"
#include "libcommon/base/slice.h"

#include <stdarg.h>
#include <stdint.h>

#define VD_OK                 0
#define VD_ERROR_MESSAGE_SIZE 512 /* bytes, with the final NUL; longer messages are cut */

/* Labels of the table below; a command may add more when it knows them to be true. */
enum {
    VD_LABEL_RETRYABLE_WRITE = 1u << 0,
    VD_LABEL_TRANSIENT_TRANSACTION = 1u << 1,
    VD_LABEL_UNKNOWN_COMMIT = 1u << 2,
    VD_LABEL_RESUMABLE_CHANGE_STREAM = 1u << 3,
    VD_LABEL_SYSTEM_OVERLOADED = 1u << 4, /* back off before the next try */
    VD_LABEL_RETRYABLE = 1u << 5,         /* nothing was done */
    VD_LABEL_NON_RESUMABLE_CHANGE_STREAM = 1u << 6,
};

/* VD_ERR_<NAME> = -(number), from the one list of codes. */
enum {
#define VD_ERROR_CODE(name, number, code_name, meaning) VD_ERR_##name = -(number),
#include "libcommon/base/error_codes.def"
#undef VD_ERROR_CODE
};
/* MongoDB has thousands of "LocationNNNNN" codes, used once each: write them where they are raised.
 */
#define VD_ERR_LOCATION(number) (-(number))

typedef struct {
    int code;                            /* VD_OK or a negative code */
    char message[VD_ERROR_MESSAGE_SIZE]; /* whole sentence for the client or operator; no document
                                            content beyond names */
    vd_slice_t details; /* a BSON document whose fields join the error reply (keyPattern, errInfo),
                           or empty; borrowed from the request's arena */
} vd_error_t;

#define VD_ERROR_INIT                                                                              \
    {                                                                                              \
        0                                                                                          \
    }

/* Notes an error unless one is already there (the first wins). Returns code, so that
 * `return vd_error_set(err, VD_ERR_X, ...)` reads well. */
int vd_error_set(vd_error_t *err, int code, const char *format, ...) VD_PRINTF(3, 4);
int vd_error_setv(vd_error_t *err, int code, const char *format, va_list args) VD_PRINTF(3, 0);
/* As above with ": <strerror(errno)>" behind; code VD_ERR_IO unless errno says better. */
int vd_error_set_errno(vd_error_t *err, const char *format, ...) VD_PRINTF(2, 3);
/* Puts "prefix: " before the message. Returns err->code. */
int vd_error_prefix(vd_error_t *err, const char *format, ...) VD_PRINTF(2, 3);
void vd_error_clear(vd_error_t *err);
void vd_error_copy(const vd_error_t *from, vd_error_t *to);

/* "BadValue" for -2; "Location40353" for a code that has no name. buf is used for the latter. */
const char *vd_error_code_name(int code, char buf[32]);
/* The number behind a name ("NotWritablePrimary" -> -10107), or 0. */
int vd_error_code_by_name(vd_slice_t name);
/* One line: "BadValue (2): message". Returns buf. */
const char *vd_error_print(const vd_error_t *err, char *buf, size_t size);
