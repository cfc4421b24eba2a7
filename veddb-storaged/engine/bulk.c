/* veddb-storaged/engine/bulk.c — tables filled in one go; see session.h.
 *
 * A bulk cursor has its file alone and writes whole pages, without the log. It has a WT_SESSION of
 * its own, so that its user's transactions go on beside it. */
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/engine/rewrite.h"

#include <errno.h>

struct stor_bulk {
    stor_bulk_mark_t mark; /* its pages are sealed from here on: rewrite.h */
    stor_engine_t *engine;
    WT_SESSION *session;
    WT_CURSOR *cursor;
    char name[STOR_TABLE_NAME_MAX_BYTES + 1];
};

static void mark(stor_bulk_t *bulk)
{
    stor_exclusion_t *exclusion = &bulk->engine->exclusion;
    pthread_mutex_lock(&exclusion->lock);
    bulk->mark.generation = stor_keys_generation(bulk->engine->options.keys);
    vd_list_push_back(&exclusion->bulks, &bulk->mark.node);
    pthread_mutex_unlock(&exclusion->lock);
}

static void unmark(stor_bulk_t *bulk)
{
    pthread_mutex_lock(&bulk->engine->exclusion.lock);
    vd_list_remove(&bulk->mark.node);
    pthread_mutex_unlock(&bulk->engine->exclusion.lock);
}

int stor_bulk_open(stor_engine_t *engine, const char *table, stor_bulk_t **ret_bulk,
                   vd_error_t *err)
{
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    int rc = stor_table_uri(table, uri, err);
    if (rc != VD_OK)
        return rc;
    stor_bulk_t *bulk = vd_xalloc(sizeof *bulk);
    memcpy(bulk->name, table, strlen(table) + 1);
    bulk->engine = engine;
    mark(bulk);
    stor_rewrite_keep_out(engine, table);
    int ret = engine->conn->open_session(engine->conn, NULL, "cache_cursors=false", &bulk->session);
    if (ret == 0)
        ret = bulk->session->open_cursor(bulk->session, uri, NULL, "bulk", &bulk->cursor);
    stor_rewrite_let_in(engine, table);
    if (ret == 0) {
        *ret_bulk = bulk;
        return VD_OK;
    }
    rc = ret == ENOENT ? vd_error_set(err, VD_ERR_NOT_FOUND, "no table %s", table)
                       : stor_wt_error(ret, err, table);
    if (bulk->session != NULL)
        (void)bulk->session->close(bulk->session, NULL); /* nothing was done in it */
    unmark(bulk);
    vd_free(bulk);
    return rc;
}

int stor_bulk_add(stor_bulk_t *bulk, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    WT_CURSOR *wt = bulk->cursor;
    WT_ITEM k = {.data = key.data, .size = key.len}, v = {.data = value.data, .size = value.len};
    wt->set_key(wt, &k);
    wt->set_value(wt, &v);
    int ret = wt->insert(wt);
    if (VD_LIKELY(ret == 0))
        return VD_OK;
    return ret == EINVAL ? vd_error_set(err, VD_ERR_INVALID, "keys of a bulk load do not ascend")
                         : stor_wt_error(ret, err, bulk->name);
}

int stor_bulk_close(stor_bulk_t **bulk_p, vd_error_t *err)
{
    stor_bulk_t *bulk = *bulk_p;
    if (bulk == NULL)
        return VD_OK;
    int ret = bulk->cursor->close(bulk->cursor);
    int rc = ret == 0 ? VD_OK : stor_wt_error(ret, err, bulk->name);
    (void)bulk->session->close(bulk->session, NULL); /* the cursor was all */
    unmark(bulk);
    vd_free(bulk);
    *bulk_p = NULL;
    return rc;
}
