/* libcommon/base/log.h — one logfmt (or JSON) line per event to standard error.
 *
 * Duty:    levels, the process's fields (prog, pid, gen), escaping. Never keys, passwords or
 *          document content. libcommon returns errors and does not log, except debug. A ring of
 *          the last lines is kept for getLog ("global").
 * Limits:  lines are cut at VD_LOG_LINE_MAX.
 * Threads: any; a line is one write(2). */
#pragma once
#include "libcommon/base/assert.h"
#include "libcommon/base/slice.h"

#define VD_LOG_LINE_MAX   2048
#define VD_LOG_RING_LINES 1024

typedef enum { VD_LOG_DEBUG, VD_LOG_INFO, VD_LOG_WARN, VD_LOG_ERROR, VD_LOG_FATAL } vd_log_level_t;
typedef enum { VD_LOG_LOGFMT, VD_LOG_JSON } vd_log_format_t;

void vd_log_setup(const char *program, vd_log_level_t level, vd_log_format_t format);
void vd_log_set_generation(uint64_t generation);
void vd_log_set_level(vd_log_level_t level);
vd_log_level_t vd_log_level(void);
VD_MUST_CHECK int vd_log_level_parse(vd_slice_t name,
                                     vd_log_level_t *ret_level); /* VD_ERR_BAD_VALUE */
const char *vd_log_level_name(vd_log_level_t level);

/* msg is a literal sentence; fields is a printf format of `key=%s` pairs; vd_log_quote() makes a
 * value safe: vd_log(VD_LOG_INFO, "worker ready", "worker=%s took_ms=%llu", name, ms); */
void vd_log(vd_log_level_t level, const char *msg, const char *fields, ...) VD_PRINTF(3, 4);
/* Quotes and escapes a value that may hold blanks or control bytes into buf (cut if long). Returns
 * buf. */
const char *vd_log_quote(vd_slice_t value, char *buf, size_t size);

/* Calls read(line, context) for the last lines, oldest first. */
void vd_log_ring_read(void (*read)(vd_slice_t line, void *context), void *context);

#define VD_DEBUG(msg, ...)                                                                         \
    do {                                                                                           \
        if (VD_UNLIKELY(vd_log_level() <= VD_LOG_DEBUG))                                           \
            vd_log(VD_LOG_DEBUG, msg, __VA_ARGS__);                                                \
    } while (0)
