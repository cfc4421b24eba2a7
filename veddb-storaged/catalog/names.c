/* veddb-storaged/catalog/names.c — see names.h. */
#include "veddb-storaged/catalog/names.h"

#include "libcommon/base/limits.h"

static int name_bad(vd_error_t *err, vd_slice_t name)
{
    return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid namespace specified '%.*s'",
                        VD_SLICE_FMT(name));
}

int stor_name_check_database(vd_slice_t db, vd_error_t *err)
{
    if (db.len == 0 || db.len > VD_DATABASE_NAME_MAX_BYTES)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid database name: '%.*s'",
                            VD_SLICE_FMT(db));
    for (size_t i = 0; i < db.len; i++) {
        uint8_t c = db.data[i];
        if (c == 0 || c == '/' || c == '\\' || c == '.' || c == ' ' || c == '"' || c == '$')
            return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid database name: '%.*s'",
                                VD_SLICE_FMT(db));
    }
    return VD_OK;
}

int stor_name_check_collection(vd_slice_t db, vd_slice_t collection, vd_error_t *err)
{
    if (collection.len == 0)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid namespace specified '%.*s.'",
                            VD_SLICE_FMT(db));
    if (collection.data[0] == '.' || collection.data[collection.len - 1] == '.')
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "Collection names cannot start or end with '.': %.*s",
                            VD_SLICE_FMT(collection));
    for (size_t i = 0; i < collection.len; i++)
        if (collection.data[i] == 0)
            return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                                "namespaces cannot have embedded null characters");
    if (collection.data[0] == '$')
        return name_bad(err, collection);
    return VD_OK;
}

static bool system_allowed(vd_slice_t db, vd_slice_t collection, bool internal)
{
    if (vd_slice_is(collection, "system.js"))
        return true;
    if (vd_slice_is(db, "admin") &&
        (vd_slice_is(collection, "system.users") || vd_slice_is(collection, "system.roles") ||
         vd_slice_is(collection, "system.version") || vd_slice_is(collection, "system.keys") ||
         vd_slice_is(collection, "system.tokens") ||
         vd_slice_is(collection, "system.refresh_tokens")))
        return internal;
    return false;
}

int stor_name_check_writable(vd_slice_t db, vd_slice_t collection, bool internal, vd_error_t *err)
{
    int rc = stor_name_check_database(db, err);
    if (rc == VD_OK)
        rc = stor_name_check_collection(db, collection, err);
    if (rc != VD_OK)
        return rc;
    if (db.len + 1 + collection.len > VD_NAMESPACE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "Fully qualified namespace is too long. Namespace: %.*s.%.*s Max: %d",
                            VD_SLICE_FMT(db), VD_SLICE_FMT(collection), VD_NAMESPACE_MAX_BYTES);
    for (size_t i = 0; i < collection.len; i++)
        if (collection.data[i] == '$')
            return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid collection name: %.*s",
                                VD_SLICE_FMT(collection));
    if (vd_slice_starts_with(collection, VD_SLICE_LIT("system.")) &&
        !system_allowed(db, collection, internal))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid system namespace: %.*s.%.*s",
                            VD_SLICE_FMT(db), VD_SLICE_FMT(collection));
    if (vd_slice_is(db, "local") && !internal)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "the database 'local' takes no writes: it is kept by the node itself");
    return VD_OK;
}

bool stor_name_is_auth(vd_slice_t db, vd_slice_t collection)
{
    return vd_slice_is(db, "admin") &&
           (vd_slice_is(collection, "system.users") || vd_slice_is(collection, "system.roles") ||
            vd_slice_is(collection, "system.tokens"));
}

bool stor_name_split(vd_slice_t ns, vd_slice_t *ret_db, vd_slice_t *ret_collection)
{
    const uint8_t *dot = ns.len == 0 ? NULL : memchr(ns.data, '.', ns.len);
    if (dot == NULL || dot == ns.data || dot + 1 == ns.data + ns.len)
        return false;
    *ret_db = vd_slice(ns.data, (size_t)(dot - ns.data));
    *ret_collection = vd_slice(dot + 1, ns.len - ret_db->len - 1);
    return true;
}
