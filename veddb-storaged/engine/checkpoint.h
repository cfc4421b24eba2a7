/* veddb-storaged/engine/checkpoint.h — named checkpoints: every table as of one moment, kept until
 * dropped.
 *
 * Duty:    makes, drops and lists them; they are read by stor_session_open_checkpoint. One
 *          checkpoint has whole transactions only, over all tables, and every one that had ended
 *          before it was asked for; of those that end while it is made it may have some and lack
 *          others that drew an older timestamp.
 * Cost:    as much as an ordinary checkpoint (what is dirty is written); while it stands, blocks
 *          that it needs are not used again, so files grow by what is changed.
 * Names:   a-z, 0-9, "-": they are plaintext on disk. */
#pragma once
#include "veddb-storaged/engine/session.h"

bool stor_checkpoint_name_ok(const char *name);
VD_MUST_CHECK int stor_checkpoint_make(stor_engine_t *engine, const char *name, vd_error_t *err);
/* VD_ERR_OBJECT_IS_BUSY while a session reads it. One that is not there: VD_OK. */
VD_MUST_CHECK int stor_checkpoint_drop(stor_engine_t *engine, const char *name, vd_error_t *err);
/* Visits the names of `table`'s checkpoints, WiredTiger's own left out. */
VD_MUST_CHECK int stor_checkpoint_names(stor_engine_t *engine, const char *table,
                                        int (*visit)(const char *name, void *context),
                                        void *context, vd_error_t *err);
/* What is committed is on disk when it returns: the log is synced, beside the flusher. For the few
 * steps whose order on disk matters, like a mark before files are removed. */
VD_MUST_CHECK int stor_engine_log_sync(stor_engine_t *engine, vd_error_t *err);
