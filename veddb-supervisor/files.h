/* veddb-supervisor/files.h — opens for a worker the files that its configuration names, for the
 * gateway storage's table of versions, and no others (libcommon/runtime/files.h): they may be
 * root's, the worker is not. */
#pragma once
#include "veddb-supervisor/system.h"

/* Makes the pair; *ret_theirs is for the child, and the caller closes it. */
VD_MUST_CHECK int sup_files_open(sup_worker_t *worker, int *ret_theirs, vd_error_t *err);
void sup_files_close(sup_worker_t *worker);
/* Whether a program with that letter may read that file. */
bool sup_files_may(const vd_config_t *config, char letter, const char *path);
