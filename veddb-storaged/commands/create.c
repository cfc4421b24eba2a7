/* veddb-storaged/commands/create.c — create. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/capped.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/collection_options.h"
#include "veddb-storaged/commands/index_spec.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/view.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/timeseries.h"
#include "veddb-storaged/transactions.h"

typedef struct {
    stor_collection_options_t options;
    vd_value_t validator, size, max, timeseries, clustered, expire;
    vd_bson_t collation, storage_engine, index_defaults, id_index, images, pipeline;
    vd_slice_t view_on;
    bool capped, temp, auto_index, has_auto_index;
} create_args_t;

static const stor_arg_t create_table[] = {
    STOR_ARG("validator", STOR_ARG_VALUE, create_args_t, validator, 0),
    STOR_ARG("validationLevel", STOR_ARG_STRING, create_args_t, options.level, 0),
    STOR_ARG("validationAction", STOR_ARG_STRING, create_args_t, options.action, 0),
    STOR_ARG("cas", STOR_ARG_STRING, create_args_t, options.cas, 0),
    STOR_ARG("capped", STOR_ARG_BOOL, create_args_t, capped, 0),
    STOR_ARG("size", STOR_ARG_VALUE, create_args_t, size, 0),
    STOR_ARG("max", STOR_ARG_VALUE, create_args_t, max, 0),
    STOR_ARG("collation", STOR_ARG_DOCUMENT, create_args_t, collation, 0),
    STOR_ARG("storageEngine", STOR_ARG_DOCUMENT, create_args_t, storage_engine, 0),
    STOR_ARG("indexOptionDefaults", STOR_ARG_DOCUMENT, create_args_t, index_defaults, 0),
    STOR_ARG("idIndex", STOR_ARG_DOCUMENT, create_args_t, id_index, 0),
    STOR_ARG("autoIndexId", STOR_ARG_BOOL, create_args_t, auto_index, 0),
    STOR_ARG("timeseries", STOR_ARG_VALUE, create_args_t, timeseries, 0),
    STOR_ARG("clusteredIndex", STOR_ARG_VALUE, create_args_t, clustered, 0),
    STOR_ARG("expireAfterSeconds", STOR_ARG_VALUE, create_args_t, expire, 0),
    STOR_ARG("viewOn", STOR_ARG_STRING, create_args_t, view_on, 0),
    STOR_ARG("pipeline", STOR_ARG_ARRAY, create_args_t, pipeline, 0),
    STOR_ARG("changeStreamPreAndPostImages", STOR_ARG_DOCUMENT, create_args_t, images, 0),
    STOR_ARG("temp", STOR_ARG_BOOL, create_args_t, temp, 0),
    {"encryptedFields", STOR_ARG_REFUSED, 0, 0},
};

static int capped_check(create_args_t *args, vd_error_t *err)
{
    bool size = !vd_value_is_nullish(args->size), max = !vd_value_is_nullish(args->max);
    if (args->capped && !size)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "the 'size' field is required when 'capped' is true");
    if (!args->capped && (size || max))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "the 'capped' field needs to be true when either the 'size' or 'max' "
                            "fields are present");
    args->options.capped = args->capped;
    int rc = size ? stor_capped_size_check(args->size, "size", &args->options.size, err) : VD_OK;
    return rc == VD_OK && max ? stor_capped_max_check(args->max, "max", &args->options.max, err)
                              : rc;
}

/* A time-series collection: alone with its own options. */
static int series_check(stor_request_t *request, create_args_t *args, vd_error_t *err)
{
    static const char *const others[] = {"capped",
                                         "size",
                                         "max",
                                         "validator",
                                         "validationLevel",
                                         "validationAction",
                                         "cas",
                                         "idIndex",
                                         "autoIndexId",
                                         "viewOn",
                                         "pipeline",
                                         "changeStreamPreAndPostImages",
                                         "clusteredIndex"};
    if (request->transaction != NULL)
        return vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                            "Cannot create a time-series collection in a multi-document "
                            "transaction.");
    if (args->timeseries.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'create.timeseries' is the wrong type '%s', expected type "
                            "'object'",
                            vd_bson_type_name(args->timeseries.type));
    for (size_t i = 0; i < VD_COUNT_OF(others); i++)
        if (!vd_value_is_missing(vd_bson_get(request->body, others[i])))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "%.*s: 'timeseries' is not allowed with '%s'",
                                VD_SLICE_FMT(request->ns), others[i]);
    int rc = stor_timeseries_options(request, vd_value_document(args->timeseries),
                                     &args->options.timeseries, err);
    args->options.has_expire = !vd_value_is_nullish(args->expire);
    return rc == VD_OK && args->options.has_expire
               ? stor_timeseries_expire(args->expire, "create", false,
                                        &args->options.expire_after_seconds, err)
               : rc;
}

/* Kinds of collections. */
static int kinds_check(stor_request_t *request, create_args_t *args, vd_error_t *err)
{
    int rc = capped_check(args, err);
    if (rc != VD_OK)
        return rc;
    if (args->temp)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "the 'temp' field is an invalid option");
    if (args->pipeline.data != NULL && args->view_on.data == NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "'pipeline' requires 'viewOn' to also be specified");
    if (!vd_value_is_nullish(args->timeseries))
        return series_check(request, args, err);
    if (!vd_value_is_nullish(args->clustered))
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "create: the option 'clusteredIndex' is not built: every collection is "
                            "clustered by _id already");
    if (!vd_value_is_nullish(args->expire))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "'expireAfterSeconds' is only supported on time-series collections or "
                            "when the 'clusteredIndex' option is specified");
    return stor_collection_images_check(request, args->images, &args->options, "create", err);
}

static int id_index_check(stor_request_t *request, const create_args_t *args, vd_error_t *err)
{
    bool is_id = true, given = args->id_index.data != NULL;
    if (args->has_auto_index && given)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "'idIndex' is not allowed with 'autoIndexId': %s",
                            vd_bson_to_json(request->arena, args->id_index, 300));
    if (args->has_auto_index && !args->auto_index)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "autoIndexId: every collection has an index on _id");
    int rc = given ? stor_index_spec_check(request, args->id_index, false, args->options.collation,
                                           &is_id, err)
                   : VD_OK;
    if (rc == VD_OK && !is_id)
        rc = vd_error_set(
            err, VD_ERR_BAD_VALUE, "The field 'key' for an _id index must be {_id: 1}, but got %s",
            vd_bson_to_json(request->arena, vd_value_document(vd_bson_get(args->id_index, "key")),
                            300));
    return rc;
}

static int options_check(stor_request_t *request, vd_slice_t name, create_args_t *args,
                         vd_error_t *err)
{
    int rc = kinds_check(request, args, err);
    if (rc == VD_OK)
        rc = stor_collation_whole(request->arena, args->collation, &args->options.collation, err);
    if (rc == VD_OK)
        rc = id_index_check(request, args, err);
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

/* What a collection has and a view does not. */
static int view_check(const create_args_t *args, vd_error_t *err)
{
    const struct {
        bool given;
        const char *name;
    } options[] = {
        {!vd_value_is_nullish(args->validator), "validator"},
        {args->capped, "capped"},
        {args->options.level.data != NULL, "validationLevel"},
        {args->options.action.data != NULL, "validationAction"},
        {args->images.data != NULL, "changeStreamPreAndPostImages"},
        {args->id_index.data != NULL, "idIndex"},
        {args->has_auto_index, "autoIndexId"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(options); i++)
        if (options[i].given)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "the option '%s' is not supported on a view", options[i].name);
    return VD_OK;
}

static bool same_options(vd_bson_t a, vd_bson_t b)
{
    return (vd_bson_is_empty(a) && vd_bson_is_empty(b)) ||
           (a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
}

/* { uuid: UUID("..."), validationLevel: "off" } */
static const char *options_text(stor_request_t *request, const stor_collection_t *collection)
{
    const uint8_t *u = collection->uuid;
    const char *text = vd_arena_printf(
        request->arena,
        "uuid: UUID(\"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\")",
        u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
        u[14], u[15]);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, collection->options);
    while (vd_bson_iter_next(&iter))
        text = vd_arena_printf(request->arena, "%s, %.*s: %s", text, VD_SLICE_FMT(iter.name),
                               vd_value_to_json(request->arena, iter.value, 200));
    return vd_arena_printf(request->arena, "{ %s }", text);
}

/* What is there in the same form is as good as made. VD_ERR_NAMESPACE_NOT_FOUND: it has gone
 * meanwhile. */
static int exists(stor_request_t *request, vd_slice_t name, vd_bson_t options, vd_error_t *err)
{
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_catalog_acquire(request, request->db, name, &collection, &step);
    stor_request_depends_newest(request);
    if (rc == VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW)
        return stor_view_same(request, name, options)
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_NAMESPACE_EXISTS, "a view already exists. NS: %.*s",
                                  VD_SLICE_FMT(request->ns));
    if (rc != VD_OK) {
        vd_error_copy(&step, err);
        return rc;
    }
    if (same_options(collection->options, options))
        return VD_OK;
    return vd_error_set(err, VD_ERR_NAMESPACE_EXISTS,
                        "namespace %s already exists, but with different options: %s",
                        collection->ns, options_text(request, collection));
}

static int make(stor_request_t *request, vd_slice_t name, const stor_create_options_t *options,
                vd_error_t *err)
{
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = request->transaction != NULL
                     ? stor_transaction_create(request, request->db, name, options, &step)
                     : stor_catalog_create(request, request->db, name, options, &step);
        if (rc == VD_ERR_NAMESPACE_EXISTS) {
            vd_error_clear(&step);
            rc = exists(request, name, options->options, &step);
            if (rc == VD_ERR_NAMESPACE_NOT_FOUND)
                continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
}

int stor_command_create(stor_request_t *request, vd_error_t *err)
{
    create_args_t args = {0};
    stor_create_options_t create = {0};
    vd_slice_t name;
    int rc = stor_args_parse(request->body, "create", true, create_table, VD_COUNT_OF(create_table),
                             &args, err);
    args.has_auto_index = !vd_value_is_nullish(vd_bson_get(request->body, "autoIndexId"));
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = options_check(request, name, &args, err);
    if (rc == VD_OK && args.view_on.data != NULL && request->transaction != NULL)
        rc = vd_error_set(err, VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
                          "Cannot create a view in a multi-document transaction.");
    if (rc == VD_OK && args.view_on.data != NULL) {
        rc = view_check(&args, err);
        if (rc == VD_OK)
            rc = stor_view_options(request, name, args.view_on, args.pipeline,
                                   args.options.collation, &create.options, err);
        return rc == VD_OK ? make(request, name, &create, err) : rc;
    }
    if (rc == VD_OK)
        rc = stor_collection_options_merge(request->arena, VD_BSON_NONE, &args.options, false,
                                           &create.options, err);
    if (rc == VD_OK)
        rc = make(request, name, &create, err);
    if (rc == VD_OK && args.has_auto_index)
        vd_bb_cstr(&request->reply, "note",
                   "The autoIndexId option is deprecated and will be removed in a future release");
    return rc;
}
