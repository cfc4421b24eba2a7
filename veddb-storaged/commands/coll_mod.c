/* veddb-storaged/commands/coll_mod.c — collMod: validators; the rest of MongoDB's changes is of
 * things that are not built. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/collection_options.h"
#include "veddb-storaged/commands/table.h"

typedef struct {
    stor_collection_options_t options;
    vd_value_t validator, expire, view_on, pipeline, capped_size, capped_max, timeseries;
    vd_bson_t index, images;
    bool dry_run;
} coll_mod_args_t;

static const stor_arg_t coll_mod_table[] = {
    STOR_ARG("validator", STOR_ARG_VALUE, coll_mod_args_t, validator, 0),
    STOR_ARG("validationLevel", STOR_ARG_STRING, coll_mod_args_t, options.level, 0),
    STOR_ARG("validationAction", STOR_ARG_STRING, coll_mod_args_t, options.action, 0),
    STOR_ARG("index", STOR_ARG_DOCUMENT, coll_mod_args_t, index, 0),
    STOR_ARG("expireAfterSeconds", STOR_ARG_VALUE, coll_mod_args_t, expire, 0),
    STOR_ARG("viewOn", STOR_ARG_VALUE, coll_mod_args_t, view_on, 0),
    STOR_ARG("pipeline", STOR_ARG_VALUE, coll_mod_args_t, pipeline, 0),
    STOR_ARG("cappedSize", STOR_ARG_VALUE, coll_mod_args_t, capped_size, 0),
    STOR_ARG("cappedMax", STOR_ARG_VALUE, coll_mod_args_t, capped_max, 0),
    STOR_ARG("timeseries", STOR_ARG_VALUE, coll_mod_args_t, timeseries, 0),
    STOR_ARG("changeStreamPreAndPostImages", STOR_ARG_DOCUMENT, coll_mod_args_t, images, 0),
    STOR_ARG("dryRun", STOR_ARG_BOOL, coll_mod_args_t, dry_run, 0),
    {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
};

static int kind_check(const coll_mod_args_t *args, vd_error_t *err)
{
    const struct {
        const char *name;
        vd_value_t value;
        const char *kind;
    } options[] = {
        {"expireAfterSeconds", args->expire, "time-series or clustered with an expiry"},
        {"viewOn", args->view_on, "a view"},
        {"pipeline", args->pipeline, "a view"},
        {"cappedSize", args->capped_size, "capped"},
        {"cappedMax", args->capped_max, "capped"},
        {"timeseries", args->timeseries, "time-series"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(options); i++)
        if (options[i].value.type != VD_BSON_MISSING && options[i].value.type != VD_BSON_NULL)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "collMod: the option '%s' is for a collection that is %s",
                                options[i].name, options[i].kind);
    if (vd_value_as_flag(vd_bson_get(args->images, "enabled")))
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "collMod: change stream images are not built yet");
    if (args->dry_run)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "collMod: 'dryRun' is for the conversion of an index to unique");
    return VD_OK;
}

/* There is the index on _id only, and nothing of it can be changed. */
static int index_check(const stor_request_t *request, vd_bson_t index, vd_error_t *err)
{
    if (index.data == NULL)
        return VD_OK;
    vd_value_t name = vd_bson_get(index, "name"), pattern = vd_bson_get(index, "keyPattern");
    bool by_name = name.type == VD_BSON_STRING, by_pattern = pattern.type == VD_BSON_OBJECT;
    if (by_name == by_pattern)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "must specify either index name or key pattern");
    vd_bson_t key = by_pattern ? vd_value_document(pattern) : VD_BSON_NONE;
    if ((by_name && vd_slice_is(vd_value_string(name), "_id_")) ||
        (by_pattern && vd_bson_count(key) == 1 && vd_value_is_number(vd_bson_get(key, "_id"))))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "can't modify the _id index");
    return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "cannot find index %s for ns %.*s",
                        by_name ? vd_arena_strndup(request->arena, vd_value_string(name).data,
                                                   vd_value_string(name).len)
                                : vd_bson_to_json(request->arena, key, 200),
                        VD_SLICE_FMT(request->ns));
}

typedef struct {
    stor_request_t *request;
    const stor_collection_options_t *options;
} merge_t;

static int merge(void *context, vd_bson_t old, vd_bson_t *ret_options, vd_error_t *err)
{
    const merge_t *m = context;
    return stor_collection_options_merge(m->request->arena, old, m->options, ret_options, err);
}

int stor_command_coll_mod(stor_request_t *request, vd_error_t *err)
{
    coll_mod_args_t args = {0};
    vd_slice_t name;
    stor_collection_t *collection;
    int rc = stor_args_parse(request->body, "collMod", true, coll_mod_table,
                             VD_COUNT_OF(coll_mod_table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_catalog_acquire(request, request->db, name, &collection, NULL);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND)
        return vd_error_set(err, rc, "ns does not exist: %.*s", VD_SLICE_FMT(request->ns));
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%.*s can't be used now", VD_SLICE_FMT(request->ns));
    stor_catalog_release(request, collection);
    rc = kind_check(&args, err);
    if (rc == VD_OK)
        rc = index_check(request, args.index, err);
    if (rc == VD_OK)
        rc = stor_collection_options_check(request, name, args.validator, &args.options, "collMod",
                                           err);
    if (rc != VD_OK || (!args.options.has_validator && args.options.level.data == NULL &&
                        args.options.action.data == NULL))
        return rc;
    merge_t m = {request, &args.options};
    return stor_catalog_modify(request, request->db, name, merge, &m, err);
}
