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
/* Everything that is in it, at most what out takes. */
VD_MUST_CHECK int vd_files_read(const char *path, vd_buf_t *out, vd_error_t *err);

/* The supervisor's end: takes one question (*ret_path, of VD_FILES_PATH_MAX bytes; *ret_adopt: it
 * is one of vd_files_adopt); false: the other end is gone, or nothing is there. */
VD_MUST_CHECK bool vd_files_take(int fd, char *ret_path, bool *ret_adopt, bool *ret_gone);
/* What vd_files_adopt does; -1 with errno. */
int vd_files_replace(const char *path);
/* Answers with a descriptor, which stays the caller's, or with an errno (0: done) when it is -1. */
void vd_files_answer(int fd, int file, int why);
