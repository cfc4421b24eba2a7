/* veddb-storaged/catalog/renew.c — see renew.h. */
#include "veddb-storaged/catalog/renew.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/indexes.h"

static int renew(stor_request_t *request, const stor_collection_t *collection,
                 const stor_index_t *index, vd_error_t *err)
{
    char text[VD_NAMESPACE_MAX_BYTES * 2 + 16];
    vd_log(VD_LOG_WARN, "an index is filled anew: another version of ICU made its keys",
           "ns=%s index=%llu", vd_log_quote(vd_slice_str(collection->ns), text, sizeof text),
           (unsigned long long)index->id);
    int rc = stor_catalog_index_refill(request, collection->id, index->id, err);
    return rc == VD_OK ? VD_OK
                       : vd_error_prefix(err,
                                         "index %.*s of %s can't be filled anew with this "
                                         "version of ICU",
                                         VD_SLICE_FMT(index->def->name), collection->ns);
}

int stor_catalog_renew(stor_storage_t *storage, stor_session_t *session, vd_error_t *err)
{
    uint64_t id = 0;
    int rc = VD_OK;
    stor_request_t *request = NULL;
    for (stor_collection_t *c; rc == VD_OK && (c = stor_catalog_next(storage->catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        id = c->id;
        /* Each one that is filled makes a new object of the collection; this one's set stays. */
        for (uint32_t i = 0; rc == VD_OK && c->indexes != NULL && i < c->indexes->count; i++) {
            if (!c->indexes->items[i]->old_keys)
                continue;
            if (request == NULL) {
                request = vd_xalloc(sizeof *request);
                stor_request_init(request, storage, vd_arena_create());
                request->session = session;
            }
            rc = renew(request, c, c->indexes->items[i], err);
        }
    }
    if (request != NULL) {
        vd_arena_destroy(&request->arena);
        vd_free(request);
    }
    return rc;
}
