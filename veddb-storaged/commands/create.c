/* veddb-storaged/commands/create.c — create. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/collection_options.h"
#include "veddb-storaged/commands/table.h"

typedef struct {
    stor_collection_options_t options;
    vd_value_t validator, size, max, timeseries, clustered, expire;
    vd_bson_t collation, storage_engine, index_defaults, id_index, images, pipeline;
    vd_slice_t view_on;
    bool capped, temp;
    vd_value_t auto_index;
} create_args_t;

static const stor_arg_t create_table[] = {
    STOR_ARG("validator", STOR_ARG_VALUE, create_args_t, validator, 0),
    STOR_ARG("validationLevel", STOR_ARG_STRING, create_args_t, options.level, 0),
    STOR_ARG("validationAction", STOR_ARG_STRING, create_args_t, options.action, 0),
    STOR_ARG("capped", STOR_ARG_BOOL, create_args_t, capped, 0),
    STOR_ARG("size", STOR_ARG_VALUE, create_args_t, size, 0),
    STOR_ARG("max", STOR_ARG_VALUE, create_args_t, max, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, create_args_t, collation, 0),
    STOR_ARG("storageEngine", STOR_ARG_DOCUMENT, create_args_t, storage_engine, 0),
    STOR_ARG("indexOptionDefaults", STOR_ARG_DOCUMENT, create_args_t, index_defaults, 0),
    STOR_ARG("idIndex", STOR_ARG_DOCUMENT, create_args_t, id_index, 0),
    STOR_ARG("autoIndexId", STOR_ARG_VALUE, create_args_t, auto_index, 0),
    STOR_ARG("timeseries", STOR_ARG_VALUE, create_args_t, timeseries, 0),
    STOR_ARG("clusteredIndex", STOR_ARG_VALUE, create_args_t, clustered, 0),
    STOR_ARG("expireAfterSeconds", STOR_ARG_VALUE, create_args_t, expire, 0),
    STOR_ARG("viewOn", STOR_ARG_STRING, create_args_t, view_on, 0),
    STOR_ARG("pipeline", STOR_ARG_ARRAY, create_args_t, pipeline, 0),
    STOR_ARG("changeStreamPreAndPostImages", STOR_ARG_DOCUMENT, create_args_t, images, 0),
    STOR_ARG("temp", STOR_ARG_BOOL, create_args_t, temp, 0),
    {"encryptedFields", STOR_ARG_REFUSED, 0, 0},
};

static bool given(vd_value_t v)
{
    return v.type != VD_BSON_MISSING && v.type != VD_BSON_NULL && v.type != VD_BSON_UNDEFINED;
}

static int not_built(const char *what, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "create: %s are not built yet", what);
}

/* Kinds of collections that MongoDB has and this does not. */
static int kinds_check(const create_args_t *args, vd_error_t *err)
{
    if (args->capped)
        return not_built("capped collections", err);
    if (given(args->size) || given(args->max))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "the fields 'size' and 'max' need 'capped' to be true");
    if (given(args->timeseries))
        return not_built("time-series collections", err);
    if (args->view_on.data != NULL || args->pipeline.data != NULL)
        return not_built("views", err);
    if (given(args->clustered))
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "create: the option 'clusteredIndex' is not built: every collection is "
                            "clustered by _id already");
    if (given(args->expire))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "'expireAfterSeconds' is only supported on time-series collections or "
                            "when the 'clusteredIndex' option is specified");
    if (vd_value_as_flag(vd_bson_get(args->images, "enabled")))
        return not_built("change stream images", err);
    if (args->temp)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "the option 'temp' is for the server itself");
    return VD_OK;
}

static int id_index_check(const create_args_t *args, vd_error_t *err)
{
    vd_bson_iter_t iter;
    if (given(args->auto_index) && !vd_value_as_flag(args->auto_index))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "autoIndexId: every collection has an index on _id");
    vd_bson_iter_init(&iter, args->id_index);
    while (vd_bson_iter_next(&iter)) {
        vd_value_t first;
        vd_slice_t name;
        bool key = vd_slice_is(iter.name, "key");
        if (key && iter.value.type == VD_BSON_OBJECT &&
            vd_bson_count(vd_value_document(iter.value)) == 1 &&
            vd_bson_first(vd_value_document(iter.value), &name, &first) &&
            vd_slice_is(name, "_id") && vd_value_is_number(first) && vd_value_as_double(first) == 1)
            continue;
        if (key)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The field 'key' for an _id index must be {_id: 1}");
        if ((vd_slice_is(iter.name, "name") && iter.value.type == VD_BSON_STRING &&
             vd_slice_is(vd_value_string(iter.value), "_id_")) ||
            (vd_slice_is(iter.name, "v") && vd_value_is_number(iter.value) &&
             vd_value_as_double(iter.value) == 2))
            continue;
        return vd_error_set(err, VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION,
                            "The field '%.*s' with this value is not valid for an _id index "
                            "specification",
                            VD_SLICE_FMT(iter.name));
    }
    return VD_OK;
}

static int options_check(stor_request_t *request, vd_slice_t name, create_args_t *args,
                         vd_error_t *err)
{
    int rc = kinds_check(args, err);
    if (rc == VD_OK)
        rc = id_index_check(args, err);
    if (rc == VD_OK)
        rc = stor_args_collation(args->collation, err);
    if (rc == VD_OK && !vd_bson_is_empty(args->storage_engine))
        rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                          "storageEngine: this engine has no options of a collection");
    if (rc == VD_OK && !vd_bson_is_empty(args->index_defaults))
        rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                          "indexOptionDefaults: this engine has no options of an index");
    return rc == VD_OK ? stor_collection_options_check(request, name, args->validator,
                                                       &args->options, "create", err)
                       : rc;
}

static bool same_options(vd_bson_t a, vd_bson_t b)
{
    return (vd_bson_is_empty(a) && vd_bson_is_empty(b)) ||
           (a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
}

/* What is there in the same form is as good as made. */
static int exists(stor_request_t *request, vd_slice_t name, vd_bson_t options, vd_error_t *err)
{
    stor_collection_t *collection;
    int rc = stor_catalog_acquire(request, request->db, name, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    if (same_options(collection->options, options))
        return VD_OK;
    vd_bson_t have = collection->options;
    return vd_error_set(err, VD_ERR_NAMESPACE_EXISTS,
                        "namespace %.*s.%.*s already exists, but with different options: %s",
                        VD_SLICE_FMT(request->db), VD_SLICE_FMT(name),
                        vd_bson_is_empty(have) ? "{}" : vd_bson_to_json(request->arena, have, 500));
}

int stor_command_create(stor_request_t *request, vd_error_t *err)
{
    create_args_t args = {0};
    stor_create_options_t create = {0};
    vd_slice_t name;
    int rc = stor_args_parse(request->body, "create", true, create_table, VD_COUNT_OF(create_table),
                             &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = options_check(request, name, &args, err);
    if (rc == VD_OK)
        rc = stor_collection_options_merge(request->arena, VD_BSON_NONE, &args.options,
                                           &create.options, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t step = VD_ERROR_INIT;
    rc = stor_catalog_create(request, request->db, name, &create, &step);
    if (rc == VD_ERR_NAMESPACE_EXISTS)
        return exists(request, name, create.options, err);
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    return rc;
}
