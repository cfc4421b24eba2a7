/* veddb-storaged/commands/drop.c — drop, dropDatabase. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/index/index.h"

static int droppable(const stor_request_t *request, vd_slice_t name, vd_error_t *err)
{
    static const char *const open[] = {"system.js", "system.profile", "system.views"};
    if (stor_request_internal(request) || !vd_slice_starts_with(name, VD_SLICE_LIT("system.")))
        return VD_OK;
    for (size_t i = 0; i < VD_COUNT_OF(open); i++)
        if (vd_slice_is(name, open[i]))
            return VD_OK;
    return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "can't drop system collection %.*s.%.*s",
                        VD_SLICE_FMT(request->db), VD_SLICE_FMT(name));
}

/* As of now; another may come before the drop. */
static int32_t indexes_count(stor_request_t *request, vd_slice_t name)
{
    stor_collection_t *collection;
    if (stor_catalog_acquire(request, request->db, name, &collection, NULL) != VD_OK)
        return 1;
    int32_t count = (stor_index_plain_id(collection) ? 1 : 0) +
                    (collection->indexes == NULL ? 0 : (int32_t)collection->indexes->count);
    stor_catalog_release(request, collection);
    return count;
}

int stor_command_drop(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {{"collectionUUID", STOR_ARG_REFUSED, 0, 0}};
    vd_slice_t name;
    char unused;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_args_parse(request->body, "drop", true, table, VD_COUNT_OF(table), &unused, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = droppable(request, name, err);
    if (rc != VD_OK)
        return rc;
    vd_slice_t ns = request->ns;
    int32_t indexes = indexes_count(request, name);
    rc = stor_catalog_drop(request, request->db, name, &step);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND)
        return VD_OK; /* it is not there: that was wanted */
    if (rc != VD_OK) {
        if (err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
    vd_bb_int32(&request->reply, "nIndexesWas", indexes);
    vd_bb_string(&request->reply, "ns", ns);
    return VD_OK;
}

int stor_command_drop_database(stor_request_t *request, vd_error_t *err)
{
    vd_slice_t field;
    vd_value_t first;
    uint32_t dropped;
    int rc = stor_args_parse(request->body, "dropDatabase", true, NULL, 0, NULL, err);
    if (rc == VD_OK)
        rc = stor_name_check_database(request->db, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(request->body, &field, &first) || !vd_value_is_number(first) ||
        vd_value_as_double(first) != 1)
        return vd_error_set(err, VD_ERR_LOCATION(5255100), "Have to pass 1 as 'db' parameter");
    if (vd_slice_is(request->db, "admin"))
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                            "Dropping the 'admin' database is prohibited.");
    if (vd_slice_is(request->db, "local"))
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                            "Cannot drop 'local' database while replication is active");
    rc = stor_catalog_drop_database(request, request->db, &dropped, err);
    if (rc == VD_OK && dropped > 0)
        vd_bb_string(&request->reply, "dropped", request->db);
    return rc;
}
