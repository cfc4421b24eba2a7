/* veddb-storaged/engine/tables.c — making, dropping, listing and checking tables.
 *
 * A table is one WiredTiger file, "file:<name>.wt": no wrapping table and column group, so one
 * metadata row and one lookup per open. */
#include "libcommon/base/log.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/engine/rewrite.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Overflow keys would keep blocks of an old data key alive for ever, so keys up to 8 KB stay in the
 * page. */
#define TABLE_CONFIG                                                                               \
    "key_format=u,value_format=u,leaf_value_max=64MB,internal_page_max=64KB,"                      \
    "internal_key_max=8KB,leaf_key_max=8KB"

int stor_table_uri(const char *name, char uri[STOR_TABLE_NAME_MAX_BYTES + 16], vd_error_t *err)
{
    size_t len = strlen(name);
    bool ok = len > 0 && len <= STOR_TABLE_NAME_MAX_BYTES;
    for (size_t i = 0; i < len && ok; i++)
        ok = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
             name[i] == '-';
    if (!ok || strcmp(name, STOR_OWN_TABLE) == 0)
        return vd_error_set(err, VD_ERR_INVALID, "a table name has 1 to %d of a-z, 0-9, -",
                            STOR_TABLE_NAME_MAX_BYTES);
    (void)snprintf(uri, STOR_TABLE_NAME_MAX_BYTES + 16, "file:%s.wt", name);
    return VD_OK;
}

int stor_engine_table_create(stor_engine_t *engine, const char *name, bool snappy, vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    int rc = stor_table_uri(name, uri, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    int ret = engine->admin->create(engine->admin, uri,
                                    snappy ? TABLE_CONFIG ",exclusive=true,block_compressor=snappy"
                                           : TABLE_CONFIG ",exclusive=true");
    pthread_mutex_unlock(&engine->admin_lock);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, name);
}

int stor_engine_table_log(stor_engine_t *engine, const char *name, bool logged, vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    int rc = stor_table_uri(name, uri, err);
    if (rc != VD_OK)
        return rc;
    stor_rewrite_keep_out(engine, name);
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    int ret = engine->admin->alter(engine->admin, uri,
                                   logged ? "log=(enabled=true)" : "log=(enabled=false)");
    pthread_mutex_unlock(&engine->admin_lock);
    stor_rewrite_let_in(engine, name);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, name);
}

void stor_engine_table_retire(stor_engine_t *engine, const char *name)
{
    stor_sessions_notify(engine, name, STOR_LET_GO_RETIRE);
}

int stor_engine_table_drop(stor_engine_t *engine, const char *name, vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    int rc = stor_table_uri(name, uri, err);
    if (rc != VD_OK)
        return rc;
    stor_rewrite_keep_out(engine, name);
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    int ret = engine->admin->drop(engine->admin, uri, NULL);
    pthread_mutex_unlock(&engine->admin_lock);
    stor_rewrite_let_in(engine, name);
    if (ret != 0)
        return stor_wt_error(ret, err, name);
    stor_sessions_notify(engine, name, STOR_LET_GO_FORGET);
    return VD_OK;
}

/* "c-30.wt.1" */
static bool is_moved_aside(const char *name)
{
    const char *end = strstr(name, ".wt.");
    return end != NULL && strncmp(name, "WiredTiger", 10) != 0 && end[4] != '\0' &&
           strspn(end + 4, "0123456789") == strlen(end + 4);
}

void stor_tables_moved_remove(const char *folder)
{
    char path[4096];
    uint32_t removed = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        removed += is_moved_aside(entry->d_name) && unlink(path) == 0;
    }
    if (dir != NULL)
        (void)closedir(dir); /* was only read */
    if (removed > 0)
        vd_log(VD_LOG_INFO, "files of tables that were never made are removed", "count=%u",
               removed);
}

/* "file:c-12.wt" -> "c-12", for tables of ours; NULL for the rest. */
static char *name_of_uri(const char *uri)
{
    size_t len = strlen(uri);
    if (strncmp(uri, "file:", 5) != 0 || len < 9 || strcmp(uri + len - 3, ".wt") != 0)
        return NULL;
    char *name = strndup(uri + 5, len - 8);
    if (name != NULL &&
        (strcmp(name, STOR_OWN_TABLE) == 0 || strncmp(name, "WiredTiger", 10) == 0)) {
        free(name);
        return NULL;
    }
    return name;
}

static int tables_collect(stor_engine_t *engine, char ***ret_names, size_t *ret_count,
                          vd_error_t *err)
{
    WT_CURSOR *cursor = NULL;
    char **names = NULL;
    size_t count = 0;
    int ret = engine->admin->open_cursor(engine->admin, "metadata:", NULL, NULL, &cursor);
    while (ret == 0 && (ret = cursor->next(cursor)) == 0) {
        const char *uri = NULL;
        ret = cursor->get_key(cursor, &uri);
        char *name = ret == 0 ? name_of_uri(uri) : NULL;
        if (name == NULL)
            continue;
        char **grown = realloc(names, (count + 1) * sizeof *names);
        VD_ASSERT(grown != NULL);
        names = grown;
        names[count++] = name;
    }
    if (cursor != NULL)
        (void)cursor->close(cursor); /* a reading cursor */
    *ret_names = names;
    *ret_count = count;
    return ret == WT_NOTFOUND ? VD_OK : stor_wt_error(ret, err, "listing tables");
}

int stor_engine_tables(stor_engine_t *engine, int (*visit)(const char *name, void *context),
                       void *context, vd_error_t *err)
{
    char **names = NULL;
    size_t count = 0;
    pthread_mutex_lock(&engine->admin_lock);
    int rc = tables_collect(engine, &names, &count, err);
    pthread_mutex_unlock(&engine->admin_lock);
    /* Visited without the lock, so that a visit may drop. */
    for (size_t i = 0; i < count; i++) {
        if (rc == VD_OK)
            rc = visit(names[i], context);
        free(names[i]);
    }
    free(names);
    return rc;
}

static int size_read(stor_engine_t *engine, const char *uri, uint64_t *ret_file, uint64_t *ret_free)
{
    char stat_uri[STOR_TABLE_NAME_MAX_BYTES + 32];
    (void)snprintf(stat_uri, sizeof stat_uri, "statistics:%s", uri);
    WT_CURSOR *cursor = NULL;
    int ret =
        engine->admin->open_cursor(engine->admin, stat_uri, NULL, "statistics=(fast)", &cursor);
    const int which[2] = {WT_STAT_DSRC_BLOCK_SIZE, WT_STAT_DSRC_BLOCK_REUSE_BYTES};
    uint64_t *out[2] = {ret_file, ret_free};
    for (int i = 0; i < 2 && ret == 0; i++) {
        const char *description = NULL, *text = NULL;
        int64_t value = 0;
        cursor->set_key(cursor, which[i]);
        ret = cursor->search(cursor);
        if (ret == 0)
            ret = cursor->get_value(cursor, &description, &text, &value);
        if (ret == 0)
            *out[i] = value < 0 ? 0 : (uint64_t)value;
    }
    if (cursor != NULL)
        (void)cursor->close(cursor); /* statistics only */
    return ret;
}

int stor_engine_table_size(stor_engine_t *engine, const char *name, uint64_t *ret_file_bytes,
                           uint64_t *ret_free_bytes, vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    uint64_t file_bytes = 0, free_bytes = 0;
    int rc = stor_table_uri(name, uri, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&engine->admin_lock);
    int ret = size_read(engine, uri, &file_bytes, &free_bytes);
    pthread_mutex_unlock(&engine->admin_lock);
    if (ret != 0)
        return stor_wt_error(ret, err, name);
    *ret_file_bytes = file_bytes;
    *ret_free_bytes = free_bytes;
    return VD_OK;
}

int stor_engine_table_verify(stor_engine_t *engine, const char *name, vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    int rc = stor_table_uri(name, uri, err);
    if (rc != VD_OK)
        return rc;
    stor_rewrite_keep_out(engine, name);
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    int ret = engine->admin->verify(engine->admin, uri, NULL);
    pthread_mutex_unlock(&engine->admin_lock);
    stor_rewrite_let_in(engine, name);
    if (ret == 0)
        return VD_OK;
    if (ret == EBUSY || ret == ENOENT || ret == ENOMEM)
        return stor_wt_error(ret, err, name);
    return vd_error_set(err, VD_ERR_CORRUPT, "table %s is damaged: %s: %s", name,
                        wiredtiger_strerror(ret), stor_wt_message());
}

int stor_engine_checkpoint(stor_engine_t *engine, vd_error_t *err)
{
    pthread_mutex_lock(&engine->admin_lock);
    stor_wt_message_clear();
    int ret = engine->admin->checkpoint(engine->admin, NULL);
    pthread_mutex_unlock(&engine->admin_lock);
    return ret == 0 ? VD_OK : stor_wt_error(ret, err, "checkpoint");
}
