/* veddb-storaged/engine/cursor.c — cursors on tables.
 *
 * A stor_cursor_t lives as long as its session (or until its table is dropped); the WT_CURSORs
 * beneath are opened when first needed and closed when too many are open or the table is retired.
 * Two WT_CURSORs per table at most: switching "overwrite" on one costs a configuration parse per
 * call. */
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/engine_private.h"

#include <errno.h>
#include <stdio.h>

#define OPEN_MAX 512 /* WT_CURSORs per session before unused ones are closed */

/* A miss is ordinary: no message is formatted for it. */
static int not_found(vd_error_t *err)
{
    if (err != NULL && err->code == VD_OK) {
        err->code = VD_ERR_NOT_FOUND;
        memcpy(err->message, "not found", sizeof "not found");
    }
    return VD_ERR_NOT_FOUND;
}

static void wt_close(stor_cursor_t *cursor)
{
    if (cursor->wt != NULL) {
        (void)cursor->wt->close(cursor->wt); /* a reset cursor: nothing is lost */
        cursor->session->open_count--;
    }
    if (cursor->wt_put != NULL) {
        (void)cursor->wt_put->close(cursor->wt_put);
        cursor->session->open_count--;
    }
    cursor->wt = cursor->wt_put = NULL;
}

void stor_cursor_free(stor_cursor_t *cursor)
{
    wt_close(cursor);
    vd_list_remove(&cursor->node);
    vd_free(cursor);
}

static void close_unused(stor_session_t *session)
{
    VD_LIST_EACH(&session->cursors, node)
    {
        stor_cursor_t *cursor = stor_cursor_of(node);
        if (!cursor->used && cursor->touched + OPEN_MAX < session->transactions)
            wt_close(cursor);
    }
}

static int wt_open(stor_cursor_t *cursor, bool put, vd_error_t *err)
{
    stor_session_t *session = cursor->session;
    if (session->open_count >= OPEN_MAX)
        close_unused(session);
    char config[STOR_TABLE_NAME_MAX_BYTES + 48];
    (void)snprintf(config, sizeof config, "overwrite=%s%s%s", put ? "true" : "false",
                   session->checkpoint[0] != '\0' ? ",checkpoint=" : "", session->checkpoint);
    stor_hold_open_begin(session->engine, cursor->name);
    int ret = session->wt->open_cursor(session->wt, cursor->uri, NULL, config,
                                       put ? &cursor->wt_put : &cursor->wt);
    stor_hold_open_end(session->engine);
    if (ret == ENOENT || ret == WT_NOTFOUND)
        return vd_error_set(err, VD_ERR_NOT_FOUND, "no table %s", cursor->name);
    if (ret != 0)
        return stor_wt_error(ret, err, cursor->name);
    session->open_count++;
    return VD_OK;
}

static int cursor_make(stor_session_t *session, const char *table, bool private_one,
                       stor_cursor_t **ret_cursor, vd_error_t *err)
{
    stor_cursor_t *cursor = vd_xalloc(sizeof *cursor);
    cursor->session = session;
    cursor->private_one = private_one;
    cursor->touched = session->transactions;
    int rc = stor_table_uri(table, cursor->uri, err);
    if (rc == VD_OK) {
        (void)snprintf(cursor->name, sizeof cursor->name, "%s", table);
        cursor->versioned = session->engine->options.versions != NULL && stor_versions_has(table);
        rc = wt_open(cursor, false, err);
    }
    if (rc != VD_OK) {
        vd_free(cursor);
        return rc;
    }
    vd_list_push_back(&session->cursors, &cursor->node);
    *ret_cursor = cursor;
    return VD_OK;
}

int stor_cursor_open(stor_session_t *session, const char *table, stor_cursor_t **ret_cursor,
                     vd_error_t *err)
{
    bool outside = !session->active;
    if (outside)
        stor_session_hold(session);
    stor_cursor_t *cursor = vd_map_get(session->by_table, vd_slice_str(table));
    int rc = VD_OK;
    if (cursor == NULL) {
        rc = cursor_make(session, table, false, &cursor, err);
        if (rc == VD_OK) {
            rc = vd_map_put(session->by_table, vd_slice_str(table), cursor, NULL);
            if (rc != VD_OK) {
                stor_cursor_free(cursor);
                (void)vd_error_set(err, rc, "too many tables in one session");
            }
        }
    } else if (cursor->retired) {
        rc = vd_error_set(err, VD_ERR_NOT_FOUND, "table %s is being dropped", table);
    }
    if (rc == VD_OK)
        *ret_cursor = cursor;
    if (outside)
        stor_session_let_go(session);
    return rc;
}

int stor_cursor_acquire(stor_session_t *session, const char *table, stor_cursor_t **ret_cursor,
                        vd_error_t *err)
{
    bool outside = !session->active;
    if (outside)
        stor_session_hold(session);
    int rc = cursor_make(session, table, true, ret_cursor, err);
    if (outside)
        stor_session_let_go(session);
    return rc;
}

static void used_remove(stor_session_t *session, stor_cursor_t *cursor)
{
    for (stor_cursor_t **p = &session->used; *p != NULL; p = &(*p)->next_used) {
        if (*p == cursor) {
            *p = cursor->next_used;
            return;
        }
    }
}

void stor_cursor_release(stor_cursor_t **cursor_p)
{
    stor_cursor_t *cursor = *cursor_p;
    if (cursor == NULL)
        return;
    VD_ASSERT(cursor->private_one);
    stor_session_t *session = cursor->session;
    bool outside = !session->active;
    if (outside)
        stor_session_hold(session);
    used_remove(session, cursor);
    stor_cursor_free(cursor);
    if (outside)
        stor_session_let_go(session);
    *cursor_p = NULL;
}

static void reset(stor_cursor_t *cursor)
{
    if (cursor->wt != NULL)
        (void)cursor->wt->reset(cursor->wt); /* can't fail but by panic, which ends the process */
    if (cursor->wt_put != NULL)
        (void)cursor->wt_put->reset(cursor->wt_put);
}

void stor_cursor_reset(stor_cursor_t *cursor)
{
    if (cursor->used)
        reset(cursor);
}

void stor_session_cursors_reset(stor_session_t *session)
{
    for (stor_cursor_t *cursor = session->used; cursor != NULL; cursor = cursor->next_used) {
        reset(cursor);
        cursor->used = false;
    }
    session->used = NULL;
}

void stor_session_table_retire(stor_session_t *session, const char *name)
{
    VD_LIST_EACH(&session->cursors, node)
    {
        stor_cursor_t *cursor = stor_cursor_of(node);
        if (strcmp(cursor->name, name) == 0) {
            wt_close(cursor);
            cursor->retired = true;
        }
    }
}

void stor_session_table_close(stor_session_t *session, const char *name)
{
    VD_LIST_EACH(&session->cursors, node)
    {
        stor_cursor_t *cursor = stor_cursor_of(node);
        if (strcmp(cursor->name, name) == 0)
            wt_close(cursor);
    }
}

void stor_session_table_forget(stor_session_t *session, const char *name)
{
    (void)vd_map_remove(session->by_table, vd_slice_str(name));
    VD_LIST_EACH(&session->cursors, node)
    {
        stor_cursor_t *cursor = stor_cursor_of(node);
        if (strcmp(cursor->name, name) == 0 && !cursor->private_one)
            stor_cursor_free(cursor);
    }
}

/* What every operation begins with: inside a live transaction, cursor open, noted for the reset at
 * its end. */
static int enter(stor_cursor_t *cursor, bool put, vd_error_t *err)
{
    stor_session_t *session = cursor->session;
    VD_ASSERT(session->active);
    if (VD_UNLIKELY(session->failed))
        return vd_error_set(err, VD_ERR_WRITE_CONFLICT, "the transaction has failed");
    if (VD_UNLIKELY(cursor->retired))
        return vd_error_set(err, VD_ERR_NOT_FOUND, "table %s is being dropped", cursor->name);
    if (VD_UNLIKELY((put ? cursor->wt_put : cursor->wt) == NULL)) {
        int rc = wt_open(cursor, put, err);
        if (rc != VD_OK)
            return rc;
    }
    if (!cursor->used) {
        cursor->used = true;
        cursor->touched = session->transactions;
        cursor->next_used = session->used;
        session->used = cursor;
    }
    return VD_OK;
}

/* Misses and duplicates are answers; everything else ends the transaction's life. */
static int leave(stor_cursor_t *cursor, int ret, vd_error_t *err)
{
    if (VD_LIKELY(ret == 0))
        return VD_OK;
    if (ret == WT_NOTFOUND)
        return not_found(err);
    if (ret != WT_DUPLICATE_KEY)
        cursor->session->failed = true;
    return stor_wt_error(ret, err, cursor->name);
}

static WT_ITEM item(vd_slice_t s)
{
    return (WT_ITEM){.data = s.data, .size = s.len};
}

static int value_get(WT_CURSOR *wt, vd_slice_t *ret_value)
{
    WT_ITEM value;
    int ret = wt->get_value(wt, &value);
    if (ret == 0)
        *ret_value = vd_slice(value.data, value.size);
    return ret;
}

static int record_get(WT_CURSOR *wt, vd_slice_t *ret_key, vd_slice_t *ret_value)
{
    WT_ITEM key;
    int ret = wt->get_key(wt, &key);
    if (ret != 0)
        return ret;
    if (ret_key != NULL)
        *ret_key = vd_slice(key.data, key.size);
    return ret_value == NULL ? 0 : value_get(wt, ret_value);
}

int stor_cursor_search(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t *ret_value,
                       vd_error_t *err)
{
    int rc = enter(cursor, false, err);
    if (rc != VD_OK)
        return rc;
    WT_CURSOR *wt = cursor->wt;
    WT_ITEM k = item(key);
    wt->set_key(wt, &k);
    int ret = wt->search(wt);
    if (ret == 0 && ret_value != NULL)
        ret = value_get(wt, ret_value);
    return leave(cursor, ret, err);
}

int stor_cursor_seek(stor_cursor_t *cursor, vd_slice_t key, bool forward, vd_slice_t *ret_key,
                     vd_slice_t *ret_value, vd_error_t *err)
{
    int rc = enter(cursor, false, err);
    if (rc != VD_OK)
        return rc;
    WT_CURSOR *wt = cursor->wt;
    WT_ITEM k = item(key);
    int exact = 0;
    wt->set_key(wt, &k);
    int ret = wt->search_near(wt, &exact);
    if (ret == 0 && forward && exact < 0)
        ret = wt->next(wt);
    else if (ret == 0 && !forward && exact > 0)
        ret = wt->prev(wt);
    if (ret == 0)
        ret = record_get(wt, ret_key, ret_value);
    return leave(cursor, ret, err);
}

int stor_cursor_next(stor_cursor_t *cursor, bool forward, vd_slice_t *ret_key,
                     vd_slice_t *ret_value, vd_error_t *err)
{
    int rc = enter(cursor, false, err);
    if (rc != VD_OK)
        return rc;
    WT_CURSOR *wt = cursor->wt;
    int ret = forward ? wt->next(wt) : wt->prev(wt);
    if (ret == 0)
        ret = record_get(wt, ret_key, ret_value);
    return leave(cursor, ret, err);
}

static int random_visit(stor_session_t *session, WT_CURSOR *wt, uint32_t count,
                        int (*visit)(vd_slice_t key, vd_slice_t value, void *context),
                        void *context, vd_error_t *err)
{
    for (uint32_t i = 0; i < count; i++) {
        vd_slice_t key, value;
        int ret = wt->next(wt);
        if (ret == WT_NOTFOUND)
            return VD_OK; /* empty */
        if (ret == 0)
            ret = record_get(wt, &key, &value);
        if (ret != 0) {
            session->failed = true;
            return stor_wt_error(ret, err, "a random record");
        }
        int rc = visit(key, value, context);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

int stor_cursor_random(stor_session_t *session, const char *table,
                       int (*visit)(vd_slice_t key, vd_slice_t value, void *context), void *context,
                       uint32_t count, vd_error_t *err)
{
    VD_ASSERT(session->active);
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    int rc = stor_table_uri(table, uri, err);
    if (rc != VD_OK)
        return rc;
    WT_CURSOR *wt = NULL;
    int ret = session->wt->open_cursor(session->wt, uri, NULL, "next_random=true", &wt);
    if (ret == ENOENT)
        return vd_error_set(err, VD_ERR_NOT_FOUND, "no table %s", table);
    if (ret != 0)
        return stor_wt_error(ret, err, table);
    rc = random_visit(session, wt, count, visit, context, err);
    (void)wt->close(wt); /* a reading cursor */
    return rc;
}

typedef enum { OP_INSERT, OP_PUT, OP_UPDATE, OP_REMOVE } op_t;

static int write_record(stor_cursor_t *cursor, op_t op, vd_slice_t key, vd_slice_t value,
                        vd_error_t *err)
{
    int rc = enter(cursor, op == OP_PUT, err);
    if (rc != VD_OK)
        return rc;
    stor_session_t *session = cursor->session;
    VD_ASSERT(session->checkpoint[0] == '\0'); /* what was can't be written */
    WT_CURSOR *wt = op == OP_PUT ? cursor->wt_put : cursor->wt;
    WT_ITEM k = item(key), v = item(value);
    wt->set_key(wt, &k);
    if (op != OP_REMOVE)
        wt->set_value(wt, &v);
    session->wrote = true;
    session->bytes_written += key.len + value.len;
    if (cursor->versioned)
        stor_session_mark(session, cursor, key);
    int ret = op == OP_REMOVE ? wt->remove(wt) : op == OP_UPDATE ? wt->update(wt) : wt->insert(wt);
    return leave(cursor, ret, err);
}

int stor_cursor_insert(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    return write_record(cursor, OP_INSERT, key, value, err);
}

int stor_cursor_put(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    return write_record(cursor, OP_PUT, key, value, err);
}

int stor_cursor_update(stor_cursor_t *cursor, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    return write_record(cursor, OP_UPDATE, key, value, err);
}

int stor_cursor_remove(stor_cursor_t *cursor, vd_slice_t key, vd_error_t *err)
{
    return write_record(cursor, OP_REMOVE, key, VD_SLICE_NULL, err);
}
