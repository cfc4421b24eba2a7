/* veddb-storaged/engine/fs_faults.h — a file system for WiredTiger that loses what was not synced;
 * for tests only.
 *
 * Duty:    writes and truncations stay in memory until their file is synced; creates, renames and
 *          removes may be undone until a directory sync (or a durable operation). At a power loss a
 *          seeded part of what was not synced reaches the disk, in no order, torn within writes,
 *          and the process ends at once with STOR_EXIT_POWER_LOSS. SIGKILL never tests fsync; this
 *          does.
 * Owner:   configured by the engine before WiredTiger opens; one per process.
 * Threads: any (one lock).
 * Limits:  file contents are held in memory: small databases only. */
#pragma once
#include "libcommon/base/error.h"

#define STOR_FS_FAULTS_EXTENSION "local={entry=stor_fs_faults_entry,early_load=true}"
#define STOR_EXIT_POWER_LOSS     121

/* spec: "seed=N[,after_writes=N][,after_syncs=N]": loses power by itself at the N-th write or sync.
 * Clears an earlier configuration. */
VD_MUST_CHECK int stor_fs_faults_configure(const char *folder, const char *spec, vd_error_t *err);
/* Loses power now. */
_Noreturn void stor_fs_faults_power_loss(void);
