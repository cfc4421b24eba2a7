/* libcommon/runtime/files.h — the door to files that an operator names in the configuration:
 * certificates, private keys, key sets, the first administrator.
 *
 * Duty:    under a supervisor a worker opens none of them itself: it asks over a private pair of
 *          sockets, and gets the descriptor of exactly a file that its configuration names. So they
 *          may belong to root alone, may be replaced while the worker runs, and the worker's view
 *          of the file system need not hold them. Alone it opens them itself.
 * Threads: any; one question at a time. Blocks for as long as the supervisor takes to open it. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

#define VD_FILES_PATH_MAX 4096
#define VD_FILES_NEXT     ".new" /* the end of the name of what vd_files_adopt puts in place */

/* The worker's end of the pair; -1: there is nobody to ask. Once, at start. */
void vd_files_setup(int fd);
/* As open(path, O_RDONLY | O_CLOEXEC): -1 with errno. The caller closes it. */
int vd_files_open(const char *path);
/* Puts <path>.new in place of path, durably: the next key-encryption key has become the present
 * one. -1 with errno. */
int vd_files_adopt(const char *path);
/* Somebody else runs what the configuration names (vd_files_run): the worker itself may not. */
bool vd_files_can_run(void);
/* keys.kek_command is run for the present key-encryption key, or for the next one: what it prints
 * can be read from the descriptor, then VD_FILES_TRAILER bytes: 0 and its exit code (255: a
 * signal). -1 with errno. The caller closes it. */
#define VD_FILES_TRAILER 2
int vd_files_run(bool next);
/* Everything that is in it, at most what out takes. */
VD_MUST_CHECK int vd_files_read(const char *path, vd_buf_t *out, vd_error_t *err);

typedef enum {
    VD_FILES_NONE, /* no question */
    VD_FILES_OPEN,
    VD_FILES_ADOPT,
    VD_FILES_RUN /* path: "next", or "present" */
} vd_files_kind_t;
/* The supervisor's end: takes one question (*ret_path, of VD_FILES_PATH_MAX bytes); false: the
 * other end is gone, or nothing is there. */
VD_MUST_CHECK bool vd_files_take(int fd, char *ret_path, vd_files_kind_t *ret_kind, bool *ret_gone);
/* What vd_files_adopt does; -1 with errno. */
int vd_files_replace(const char *path);
/* Answers with a descriptor, which stays the caller's, or with an errno (0: done) when it is -1. */
void vd_files_answer(int fd, int file, int why);
