/* veddb-storaged/engine/backup.c — see backup.h. */
#include "veddb-storaged/engine/backup.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/engine/log_scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct stor_engine_backup {
    stor_engine_t *engine;
    WT_SESSION *session;
    WT_CURSOR *cursor;
    char **names;
    size_t count;
    uint32_t last_log;
};

bool stor_engine_backup_is_log(const char *name)
{
    return strncmp(name, STOR_LOG_FILE_PREFIX, sizeof STOR_LOG_FILE_PREFIX - 1) == 0;
}

static int by_kind(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    int log = (int)stor_engine_backup_is_log(x) - (int)stor_engine_backup_is_log(y);
    return log != 0 ? log : strcmp(x, y);
}

static int names_take(stor_engine_backup_t *backup)
{
    int ret;
    while ((ret = backup->cursor->next(backup->cursor)) == 0) {
        const char *name = NULL;
        ret = backup->cursor->get_key(backup->cursor, &name);
        if (ret != 0)
            return ret;
        backup->names = vd_xrealloc(backup->names, (backup->count + 1) * sizeof *backup->names);
        backup->names[backup->count++] = vd_xstrdup(name);
    }
    if (ret == WT_NOTFOUND && backup->count > 0)
        qsort(backup->names, backup->count, sizeof *backup->names, by_kind);
    return ret == WT_NOTFOUND ? 0 : ret;
}

int stor_engine_backup_open(stor_engine_t *engine, stor_engine_backup_t **ret_backup,
                            vd_error_t *err)
{
    stor_engine_backup_t *backup = vd_xalloc(sizeof *backup);
    backup->engine = engine;
    stor_wt_message_clear();
    int ret = engine->conn->open_session(engine->conn, NULL, NULL, &backup->session);
    if (ret == 0) /* so that the copy has little log to go through */
        ret = backup->session->checkpoint(backup->session, NULL);
    if (ret == 0)
        ret = backup->session->open_cursor(backup->session, "backup:", NULL, NULL, &backup->cursor);
    if (ret == 0)
        ret = names_take(backup);
    int rc = ret == 0        ? VD_OK
             : ret == EINVAL ? vd_error_set(err, VD_ERR_OBJECT_IS_BUSY, "a backup can't begin: %s",
                                            stor_wt_message())
                             : stor_wt_error(ret, err, "beginning a backup");
    for (size_t i = 0; rc == VD_OK && i < backup->count; i++)
        if (stor_engine_backup_is_log(backup->names[i]))
            backup->last_log =
                (uint32_t)strtoul(backup->names[i] + sizeof STOR_LOG_FILE_PREFIX - 1, NULL, 10);
    if (rc == VD_OK && backup->last_log == 0)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the engine names no log file for the backup");
    if (rc != VD_OK)
        stor_engine_backup_close(&backup);
    else
        *ret_backup = backup;
    return rc;
}

void stor_engine_backup_close(stor_engine_backup_t **backup_p)
{
    stor_engine_backup_t *backup = *backup_p;
    if (backup == NULL)
        return;
    if (backup->cursor != NULL)
        (void)backup->cursor->close(backup->cursor); /* the session's end does it as well */
    if (backup->session != NULL)
        (void)backup->session->close(backup->session, NULL); /* it holds nothing */
    for (size_t i = 0; i < backup->count; i++)
        vd_free(backup->names[i]);
    vd_free(backup->names);
    vd_free(backup);
    *backup_p = NULL;
}

size_t stor_engine_backup_count(const stor_engine_backup_t *backup)
{
    return backup->count;
}

const char *stor_engine_backup_name(const stor_engine_backup_t *backup, size_t i)
{
    VD_ASSERT(i < backup->count);
    return backup->names[i];
}

/* Records are written to a file in any order; a sync waits for all that are under way. Those of the
 * files that are named began before the log went on in a new one. */
int stor_engine_backup_log(stor_engine_backup_t *backup, vd_error_t *err)
{
    stor_wt_message_clear();
    int ret = backup->session->log_flush(backup->session, "sync=on");
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "syncing the log");
}

int stor_engine_backup_keys(stor_engine_backup_t *backup, uint32_t proven, vd_buf_t *out,
                            uint32_t *ret_versions, uint32_t *ret_count, vd_error_t *err)
{
    return stor_guard_keys_copy(backup->engine->guard, proven, out, ret_versions, ret_count, err);
}

int stor_engine_backup_log_note(stor_engine_backup_t *backup, vd_buf_t *out)
{
    return stor_guard_log_copy(backup->last_log, out);
}
