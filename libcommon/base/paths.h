/* libcommon/base/paths.h — how a folder is told that this process reaches under another name.
 *
 * Duty:    a worker may reach node.folder as "/proc/self/fd/7" only (vd_daemon_folder); a person
 *          must read its real name in errors and log lines. vd_error_* and vd_log tell; who hands a
 *          path out in another way calls vd_paths_tell.
 * Threads: vd_paths_told at start, before the first thread is made; the rest any.
 * Limits:  VD_PATHS_MAX folders. */
#pragma once
#include <stddef.h>

#define VD_PATHS_MAX 4

/* From now on `used`, where it stands in a text, is told as `told`. Both live for ever. */
void vd_paths_told(const char *used, const char *told);
/* In place; what no longer fits is cut off at the end. */
void vd_paths_tell(char *text, size_t size);
