/* veddb-storaged/commands/coll_mod.c — collMod: validators, cas, images; the rest of MongoDB's
 * changes is of things that are not built. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/collection_options.h"
#include "veddb-storaged/commands/index_spec.h"
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
    STOR_ARG("cas", STOR_ARG_STRING, coll_mod_args_t, options.cas, 0),
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

static int kind_check(const stor_request_t *request, coll_mod_args_t *args, vd_error_t *err)
{
    const struct {
        vd_value_t value;
        const char *message;
    } options[] = {
        {args->capped_size, "Collection must be capped."},
        {args->capped_max, "Collection must be capped."},
        {args->pipeline, "option only supported on a view: pipeline"},
        {args->view_on, "option only supported on a view: viewOn"},
        {args->expire, "collMod: the option 'expireAfterSeconds' is for a collection that is "
                       "time-series or clustered with an expiry"},
        {args->timeseries, "option only supported on a time-series collection: timeseries"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(options); i++)
        if (!vd_value_is_nullish(options[i].value))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "%s", options[i].message);
    if (args->dry_run)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "collMod: 'dryRun' is for the conversion of an index to unique");
    return stor_collection_images_check(request, args->images, &args->options, "collMod", err);
}

/* ---- index: there is the one on _id only, and nothing of it can be changed ---- */

typedef struct {
    vd_slice_t name;
    vd_bson_t pattern;
    vd_value_t expire, hidden, unique, prepare_unique;
} index_args_t;

static const stor_arg_t index_table[] = {
    STOR_ARG("name", STOR_ARG_STRING, index_args_t, name, 0),
    STOR_ARG("keyPattern", STOR_ARG_DOCUMENT, index_args_t, pattern, 0),
    STOR_ARG("expireAfterSeconds", STOR_ARG_VALUE, index_args_t, expire, 0),
    STOR_ARG("hidden", STOR_ARG_VALUE, index_args_t, hidden, 0),
    STOR_ARG("unique", STOR_ARG_VALUE, index_args_t, unique, 0),
    STOR_ARG("prepareUnique", STOR_ARG_VALUE, index_args_t, prepare_unique, 0),
};

static int index_find(const stor_request_t *request, const index_args_t *args, vd_error_t *err)
{
    bool by_name = args->name.data != NULL;
    if (by_name ? vd_slice_is(args->name, "_id_") : stor_index_is_id_key(args->pattern))
        return VD_OK;
    return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "cannot find index %s for ns %.*s",
                        by_name ? vd_arena_strndup(request->arena, args->name.data, args->name.len)
                                : vd_bson_to_json(request->arena, args->pattern, 200),
                        VD_SLICE_FMT(request->ns));
}

/* MongoDB's words for what its index on _id can't be either. */
static int index_change_check(const index_args_t *args, vd_error_t *err)
{
    if (!vd_value_is_nullish(args->expire))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "the _id field does not support TTL indexes");
    if (!vd_value_is_nullish(args->unique))
        return vd_value_as_flag(args->unique)
                   ? vd_error_set(
                         err, VD_ERR_INVALID_OPTIONS,
                         "Cannot make index unique with 'prepareUnique=false'. Run collMod "
                         "to set it first.")
                   : vd_error_set(err, VD_ERR_BAD_VALUE, "Cannot make index non-unique");
    if (!vd_value_is_nullish(args->hidden))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "can't hide _id index");
    return vd_value_as_flag(args->prepare_unique)
               ? vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                              "collMod: 'prepareUnique' is not built yet")
               : VD_OK;
}

static int index_check(const stor_request_t *request, vd_bson_t index, vd_error_t *err)
{
    index_args_t args = {0};
    if (index.data == NULL)
        return VD_OK;
    int rc = stor_args_parse(index, "collMod.index", false, index_table, VD_COUNT_OF(index_table),
                             &args, err);
    if (rc != VD_OK)
        return rc;
    if (args.name.data != NULL && args.pattern.data != NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot specify both key pattern and name.");
    if (args.name.data == NULL && args.pattern.data == NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Must specify either index name or key pattern.");
    if (vd_value_is_nullish(args.expire) && vd_value_is_nullish(args.hidden) &&
        vd_value_is_nullish(args.unique) && vd_value_is_nullish(args.prepare_unique))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "no expireAfterSeconds, hidden, unique, or prepareUnique field");
    rc = index_find(request, &args, err);
    return rc == VD_OK ? index_change_check(&args, err) : rc;
}

/* ---- the command ---- */

/* It is there now; whether it still is when the change is made, the catalog tells. */
static int is_there(stor_request_t *request, vd_slice_t name, vd_error_t *err)
{
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_catalog_acquire(request, request->db, name, &collection, &step);
    if (rc == VD_OK) {
        stor_catalog_release(request, collection);
        return VD_OK;
    }
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND)
        return vd_error_set(err, rc, "ns does not exist");
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

typedef struct {
    stor_request_t *request;
    const stor_collection_options_t *options;
} merge_t;

static int merge(void *context, vd_bson_t old, vd_bson_t *ret_options, vd_error_t *err)
{
    const merge_t *m = context;
    const stor_collection_options_t *options = m->options;
    bool validation =
        options->has_validator || options->level.data != NULL || options->action.data != NULL;
    return stor_collection_options_merge(m->request->arena, old, options, validation, ret_options,
                                         err);
}

int stor_command_coll_mod(stor_request_t *request, vd_error_t *err)
{
    coll_mod_args_t args = {0};
    vd_slice_t name;
    int rc = stor_args_parse(request->body, "collMod", true, coll_mod_table,
                             VD_COUNT_OF(coll_mod_table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = is_there(request, name, err);
    if (rc == VD_OK)
        rc = kind_check(request, &args, err);
    if (rc == VD_OK)
        rc = index_check(request, args.index, err);
    if (rc == VD_OK)
        rc = stor_collection_options_check(request, name, args.validator, &args.options, "collMod",
                                           err);
    if (rc != VD_OK || (!args.options.has_validator && args.options.level.data == NULL &&
                        args.options.action.data == NULL && args.options.cas.data == NULL &&
                        !args.options.has_images))
        return rc;
    merge_t m = {request, &args.options};
    return stor_catalog_modify(request, request->db, name, merge, &m, err);
}
