/* veddb-storaged/commands/rename.c — renameCollection, also into another database: only names
 * change. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/table.h"

typedef struct {
    vd_slice_t to;
    vd_value_t drop_target;
} rename_args_t;

static const stor_arg_t rename_table[] = {
    STOR_ARG("to", STOR_ARG_STRING, rename_args_t, to, STOR_ARG_REQUIRED),
    STOR_ARG("dropTarget", STOR_ARG_VALUE, rename_args_t, drop_target, 0),
    {"stayTemp", STOR_ARG_IGNORED, 0, 0}, /* no collection is temporary */
    {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
};

static int namespace_split(vd_slice_t ns, const char *what, vd_slice_t *ret_db,
                           vd_slice_t *ret_name, vd_error_t *err)
{
    if (stor_name_split(ns, ret_db, ret_name))
        return VD_OK;
    return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid %s namespace: %.*s", what,
                        VD_SLICE_FMT(ns));
}

static int drop_target_read(vd_value_t v, bool *ret_drop, vd_error_t *err)
{
    *ret_drop = false;
    if (v.type == VD_BSON_BINARY)
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "the option 'renameCollection.dropTarget' as a UUID is not built yet");
    if (v.type != VD_BSON_MISSING && v.type != VD_BSON_NULL && v.type != VD_BSON_BOOL &&
        !vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'renameCollection.dropTarget' is the wrong type '%s', "
                            "expected types '[bool, binData]'",
                            vd_bson_type_name(v.type));
    *ret_drop = vd_value_as_flag(v);
    return VD_OK;
}

/* Names that are malformed: 73; those that belong to the server: 20. */
static int name_check(const stor_request_t *request, vd_slice_t db, vd_slice_t name,
                      const char *what, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_name_check_database(db, err);
    if (rc == VD_OK)
        rc = stor_name_check_collection(db, name, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_name_check_writable(db, name, stor_request_internal(request), &step);
    if (rc == VD_OK)
        return VD_OK;
    bool reserved = vd_slice_is(db, "local") || vd_slice_starts_with(name, VD_SLICE_LIT("system."));
    return reserved ? vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "error with %s namespace: %s",
                                   what, step.message)
                    : vd_error_set(err, rc, "%s", step.message);
}

/* Neither end may be a time-series collection. */
static int kind_check(stor_request_t *request, vd_slice_t db, vd_slice_t name, vd_error_t *err)
{
    stor_collection_t *collection;
    if (stor_catalog_acquire(request, db, name, &collection, NULL) != VD_OK)
        return VD_OK; /* the rename itself tells */
    bool series = collection->timeseries.is;
    stor_catalog_release(request, collection);
    return series ? vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                                 "Renaming from or to a time-series collection is not allowed: "
                                 "%.*s.%.*s",
                                 VD_SLICE_FMT(db), VD_SLICE_FMT(name))
                  : VD_OK;
}

int stor_command_rename_collection(stor_request_t *request, vd_error_t *err)
{
    rename_args_t args = {0};
    vd_slice_t field, from_db, from_name, to_db, to_name;
    vd_value_t from;
    bool drop_target;
    int rc = stor_args_parse(request->body, "renameCollection", true, rename_table,
                             VD_COUNT_OF(rename_table), &args, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(request->body, &field, &from) || from.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'renameCollection.renameCollection' is the wrong type "
                            "'%s', expected type 'string'",
                            vd_bson_type_name(from.type));
    rc = namespace_split(vd_value_string(from), "source", &from_db, &from_name, err);
    if (rc == VD_OK)
        rc = namespace_split(args.to, "target", &to_db, &to_name, err);
    if (rc == VD_OK)
        rc = drop_target_read(args.drop_target, &drop_target, err);
    if (rc == VD_OK)
        rc = name_check(request, from_db, from_name, "source", err);
    if (rc == VD_OK)
        rc = name_check(request, to_db, to_name, "target", err);
    if (rc == VD_OK)
        rc = kind_check(request, from_db, from_name, err);
    if (rc == VD_OK)
        rc = kind_check(request, to_db, to_name, err);
    return rc == VD_OK
               ? stor_catalog_rename(request, from_db, from_name, to_db, to_name, drop_target, err)
               : rc;
}
