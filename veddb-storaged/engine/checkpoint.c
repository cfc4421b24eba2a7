/* veddb-storaged/engine/checkpoint.c — see checkpoint.h. Each call has a session of its own, so
 * that nobody who makes a table meanwhile waits for our lock. */
#include "veddb-storaged/engine/checkpoint.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/engine_private.h"

#include <stdio.h>

bool stor_checkpoint_name_ok(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len <= STOR_TABLE_NAME_MAX_BYTES &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static int session_open(stor_engine_t *engine, WT_SESSION **ret_session, vd_error_t *err)
{
    stor_wt_message_clear();
    int ret =
        engine->conn->open_session(engine->conn, NULL, "isolation=read-uncommitted", ret_session);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "opening a session");
}

static int checkpoint(stor_engine_t *engine, const char *config, vd_error_t *err)
{
    WT_SESSION *session = NULL;
    int rc = session_open(engine, &session, err);
    if (rc != VD_OK)
        return rc;
    int ret = session->checkpoint(session, config);
    if (ret != 0)
        rc = stor_wt_error(ret, err, config);
    (void)session->close(session, NULL); /* it holds nothing */
    return rc;
}

int stor_checkpoint_make(stor_engine_t *engine, const char *name, vd_error_t *err)
{
    char config[STOR_TABLE_NAME_MAX_BYTES + 16];
    VD_ASSERT(stor_checkpoint_name_ok(name));
    (void)snprintf(config, sizeof config, "name=%s", name);
    return checkpoint(engine, config, err);
}

int stor_checkpoint_drop(stor_engine_t *engine, const char *name, vd_error_t *err)
{
    char config[STOR_TABLE_NAME_MAX_BYTES + 16];
    VD_ASSERT(stor_checkpoint_name_ok(name));
    (void)snprintf(config, sizeof config, "drop=(%s)", name);
    return checkpoint(engine, config, err);
}

/* The names in "...,checkpoint=(NAME=(addr=...,write_gen=1),NAME.3=(...)),...". */
static int names_visit(const char *metadata, int (*visit)(const char *name, void *context),
                       void *context)
{
    const char *at = strstr(metadata, "checkpoint=(");
    if (at == NULL)
        return VD_OK;
    int depth = 1, rc = VD_OK;
    bool quoted = false;
    for (at += strlen("checkpoint=("); rc == VD_OK && *at != '\0' && depth > 0;) {
        if (depth == 1 && !quoted && *at != ',' && *at != ')') {
            char name[STOR_TABLE_NAME_MAX_BYTES + 1];
            size_t len = strcspn(at, "=,)");
            if (len < sizeof name) {
                memcpy(name, at, len);
                name[len] = '\0';
                if (stor_checkpoint_name_ok(name)) /* WiredTiger's own are not */
                    rc = visit(name, context);
            }
            at += len;
            if (*at == '=')
                at++;
            if (*at != '(')
                continue;
        }
        quoted ^= *at == '"';
        depth += quoted ? 0 : *at == '(' ? 1 : *at == ')' ? -1 : 0;
        at++;
    }
    return rc;
}

int stor_checkpoint_names(stor_engine_t *engine, const char *table,
                          int (*visit)(const char *name, void *context), void *context,
                          vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    const char *value = NULL;
    char *metadata = NULL;
    WT_CURSOR *cursor = NULL;
    int rc = stor_table_uri(table, uri, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&engine->admin_lock);
    int ret = engine->admin->open_cursor(engine->admin, "metadata:", NULL, NULL, &cursor);
    if (ret == 0) {
        cursor->set_key(cursor, uri);
        ret = cursor->search(cursor);
    }
    if (ret == 0)
        ret = cursor->get_value(cursor, &value);
    if (ret == 0)
        metadata = vd_xstrdup(value);
    if (cursor != NULL)
        (void)cursor->close(cursor); /* a reading cursor */
    pthread_mutex_unlock(&engine->admin_lock);
    if (ret != 0)
        return stor_wt_error(ret, err, table);
    rc = names_visit(metadata, visit, context);
    vd_free(metadata);
    return rc;
}

int stor_engine_log_sync(stor_engine_t *engine, vd_error_t *err)
{
    WT_SESSION *session = NULL;
    int rc = session_open(engine, &session, err);
    if (rc != VD_OK)
        return rc;
    int ret = session->log_flush(session, "sync=on");
    if (ret != 0)
        rc = stor_wt_error(ret, err, "syncing the log");
    (void)session->close(session, NULL); /* it holds nothing */
    return rc;
}
