/* veddb-storaged/engine/backup.h — the files of the database, held as they are at one moment while
 * they are copied.
 *
 * Duty:    a checkpoint; then WiredTiger's backup cursor, which switches the log to a new file,
 *          names the files, and keeps every block of that checkpoint until it is closed. Writes,
 *          reads and further checkpoints go on; files grow by what is changed meanwhile, and
 *          tables are dropped behind it.
 * Crash:   leaves WiredTiger.backup in the data folder; guard.c removes it at the next start,
 *          before WiredTiger could take it for a database to go back to. Log: the files are whole
 *          when stor_engine_backup_log has been called: it is to be copied last. What was
 *          committed before the open is in them.
 * Owner:   open/close.
 * Threads: one at a time in a process.
 * Errors:  VD_ERR_OBJECT_IS_BUSY: there is one already. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-storaged/engine/session.h"

typedef struct stor_engine_backup stor_engine_backup_t;

VD_MUST_CHECK int stor_engine_backup_open(stor_engine_t *engine, stor_engine_backup_t **ret_backup,
                                          vd_error_t *err);
void stor_engine_backup_close(stor_engine_backup_t **backup_p);
/* Names of the files in the data folder; those of the log are the last. Borrowed. */
size_t stor_engine_backup_count(const stor_engine_backup_t *backup);
const char *stor_engine_backup_name(const stor_engine_backup_t *backup, size_t i);
bool stor_engine_backup_is_log(const char *name);
/* Before the log is copied. */
VD_MUST_CHECK int stor_engine_backup_log(stor_engine_backup_t *backup, vd_error_t *err);
/* VedDB.keys and VedDB.log for the copy. proven: no block needs a key up to that version that is
 * not active. ret_versions: STOR_KEYS_MAX, of the keys that the copy may need. */
VD_MUST_CHECK int stor_engine_backup_keys(stor_engine_backup_t *backup, uint32_t proven,
                                          vd_buf_t *out, uint32_t *ret_versions,
                                          uint32_t *ret_count, vd_error_t *err);
VD_MUST_CHECK int stor_engine_backup_log_note(stor_engine_backup_t *backup, vd_buf_t *out);
