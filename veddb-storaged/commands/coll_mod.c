/* veddb-storaged/commands/coll_mod.c — collMod: validators, cas, images, indexes; the rest of
 * MongoDB's changes is of things that are not built; granularity and expiry of time-series
 * collections. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/capped.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/commands/collection_options.h"
#include "veddb-storaged/commands/index_spec.h"
#include "veddb-storaged/commands/index_unique.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/view.h"
#include "veddb-storaged/timeseries.h"

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

static int capped_check(coll_mod_args_t *args, bool capped, vd_error_t *err)
{
    bool size = !vd_value_is_nullish(args->capped_size),
         max = !vd_value_is_nullish(args->capped_max);
    if ((size || max) && !capped)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "Collection must be capped.");
    int rc = size ? stor_capped_size_check(args->capped_size, "collMod.cappedSize",
                                           &args->options.size, err)
                  : VD_OK;
    return rc == VD_OK && max ? stor_capped_max_check(args->capped_max, "collMod.cappedMax",
                                                      &args->options.max, err)
                              : rc;
}

static int no_dry_run(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                        "dry run mode is only supported for the conversion of an index to unique, "
                        "and for nothing else beside it");
}

/* What stays of collMod on a time-series collection. */
static int series_check(stor_request_t *request, coll_mod_args_t *args, vd_bson_t series,
                        bool *ret_changed, vd_error_t *err)
{
    static const char *const others[] = {
        "validator",  "validationLevel", "validationAction",
        "cas",        "viewOn",          "pipeline",
        "cappedSize", "cappedMax",       "changeStreamPreAndPostImages"};
    int rc = VD_OK;
    for (size_t i = 0; i < VD_COUNT_OF(others); i++)
        if (!vd_value_is_missing(vd_bson_get(request->body, others[i])))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "option not supported on a time-series collection: %s", others[i]);
    if (args->dry_run)
        return no_dry_run(err);
    args->options.has_expire = !vd_value_is_nullish(args->expire);
    if (args->options.has_expire)
        rc = stor_timeseries_expire(args->expire, "collMod", true,
                                    &args->options.expire_after_seconds, err);
    if (rc != VD_OK || vd_value_is_nullish(args->timeseries))
        return rc;
    if (args->timeseries.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'collMod.timeseries' is the wrong type '%s', expected type "
                            "'object'",
                            vd_bson_type_name(args->timeseries.type));
    return stor_timeseries_modify(request->arena, series, vd_value_document(args->timeseries),
                                  &args->options.timeseries, ret_changed, err);
}

static int kind_check(const stor_request_t *request, coll_mod_args_t *args, bool capped,
                      vd_error_t *err)
{
    const struct {
        vd_value_t value;
        const char *message;
    } options[] = {
        {args->pipeline, "option only supported on a view: pipeline"},
        {args->view_on, "option only supported on a view: viewOn"},
        {args->expire, "collMod: the option 'expireAfterSeconds' is for a collection that is "
                       "time-series or clustered with an expiry"},
        {args->timeseries, "option only supported on a time-series collection: timeseries"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(options); i++)
        if (!vd_value_is_nullish(options[i].value))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "%s", options[i].message);
    if (args->dry_run &&
        (args->index.data == NULL || !vd_value_is_nullish(args->validator) ||
         !vd_value_is_nullish(args->capped_size) || !vd_value_is_nullish(args->capped_max) ||
         args->options.level.data != NULL || args->options.action.data != NULL ||
         args->options.cas.data != NULL || args->images.data != NULL))
        return no_dry_run(err);
    int rc = capped_check(args, capped, err);
    return rc == VD_OK
               ? stor_collection_images_check(request, args->images, &args->options, "collMod", err)
               : rc;
}

/* ---- index: hidden, expireAfterSeconds, prepareUnique, unique ---- */

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

/* An index on _id can't be changed: MongoDB's words for what its own can't be either. */
static int id_change_check(const index_args_t *args, vd_error_t *err)
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
    return VD_OK; /* it is unique: there is nothing to be prepared */
}

static int flag_check(vd_value_t v, const char *name, vd_error_t *err)
{
    if (vd_value_is_nullish(v) || v.type == VD_BSON_BOOL || vd_value_is_number(v))
        return VD_OK;
    return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                        "BSON field 'collMod.index.%s' is the wrong type '%s', expected types "
                        "'[bool, long, int, decimal, double]'",
                        name, vd_bson_type_name(v.type));
}

static int expire_check(const index_args_t *args, const stor_index_def_t *def, vd_error_t *err)
{
    if (vd_value_is_nullish(args->expire))
        return VD_OK;
    if (!vd_value_is_number(args->expire))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'collMod.index.expireAfterSeconds' is the wrong type '%s', "
                            "expected types '[long, int, decimal, double]'",
                            vd_bson_type_name(args->expire.type));
    double seconds = vd_value_as_double(args->expire);
    if (!(seconds >= 0 && seconds <= INT32_MAX))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "TTL index 'expireAfterSeconds' option must be within an acceptable "
                            "range, try a different value");
    if (def->field_count != 1)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "TTL indexes are single-field indexes, compound indexes do not support "
                            "TTL");
    if (def->has_wildcard)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "a wildcard index can't be a TTL index");
    return VD_OK;
}

static int unique_check(const index_args_t *args, const stor_index_def_t *def, vd_error_t *err)
{
    if (!vd_value_is_nullish(args->unique) && !vd_value_as_flag(args->unique))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Cannot make index non-unique");
    if (vd_value_as_flag(args->unique) && !def->unique && !def->prepare_unique)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot make index unique with 'prepareUnique=false'. Run collMod to "
                            "set it first.");
    if (!vd_value_as_flag(args->prepare_unique))
        return VD_OK;
    for (uint32_t i = 0; i < def->field_count; i++)
        if (def->fields[i].order == STOR_INDEX_HASHED || def->has_wildcard)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "an index with a hashed or wildcard field can't become unique");
    return VD_OK;
}

/* What is asked for, and what it changes. */
typedef struct {
    index_args_t args;
    bool found; /* there is something to be changed */
    uint64_t collection_id, index_id;
    bool expires, was_expiring, hides, prepares, converts;
    int64_t expire_old, expire_new;
    bool hidden_new, prepare_new;
    vd_bson_t spec;
} index_change_t;

static int spec_change(stor_request_t *request, const stor_index_def_t *def, index_change_t *change,
                       vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bson_iter_t iter;
    vd_bb_init_arena(bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bson_iter_init(&iter, def->spec);
    while (vd_bson_iter_next(&iter))
        if (!(change->expires && vd_slice_is(iter.name, "expireAfterSeconds")) &&
            !(change->hides && vd_slice_is(iter.name, "hidden")) &&
            !((change->prepares || change->converts) && vd_slice_is(iter.name, "prepareUnique")))
            vd_bb_value(bb, iter.name, iter.value);
    if (change->expires)
        vd_bb_int32(bb, "expireAfterSeconds", (int32_t)change->expire_new);
    if (change->hides && change->hidden_new)
        vd_bb_bool(bb, "hidden", true);
    if (change->prepares && change->prepare_new && !change->converts)
        vd_bb_bool(bb, "prepareUnique", true);
    if (change->converts)
        vd_bb_bool(bb, "unique", true);
    return vd_bb_finish(bb, &change->spec, err);
}

static int index_look(stor_request_t *request, const stor_index_def_t *def, index_change_t *change,
                      vd_error_t *err)
{
    const index_args_t *args = &change->args;
    int rc = expire_check(args, def, err);
    if (rc == VD_OK)
        rc = flag_check(args->hidden, "hidden", err);
    if (rc == VD_OK)
        rc = flag_check(args->unique, "unique", err);
    if (rc == VD_OK)
        rc = flag_check(args->prepare_unique, "prepareUnique", err);
    if (rc == VD_OK)
        rc = unique_check(args, def, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_value_is_nullish(args->expire)) {
        change->was_expiring = def->expire_after_seconds >= 0;
        change->expire_old = def->expire_after_seconds;
        change->expire_new = (int64_t)vd_value_as_double(args->expire);
        change->expires = change->expire_new != change->expire_old;
    }
    if (!vd_value_is_nullish(args->hidden)) {
        change->hidden_new = vd_value_as_flag(args->hidden);
        change->hides = change->hidden_new != def->hidden;
    }
    if (!vd_value_is_nullish(args->prepare_unique) && !def->unique) {
        change->prepare_new = vd_value_as_flag(args->prepare_unique);
        change->prepares = change->prepare_new != def->prepare_unique;
    }
    change->converts = vd_value_as_flag(args->unique) && !def->unique;
    change->found = change->expires || change->hides || change->prepares || change->converts;
    return change->found ? spec_change(request, def, change, err) : VD_OK;
}

static int index_find(stor_request_t *request, vd_slice_t collection_name, index_change_t *change,
                      vd_error_t *err)
{
    const index_args_t *args = &change->args;
    bool by_name = args->name.data != NULL;
    stor_collection_t *collection;
    if (by_name ? vd_slice_is(args->name, "_id_") : stor_index_is_id_key(args->pattern))
        return id_change_check(args, err);
    int rc = stor_catalog_acquire(request, request->db, collection_name, &collection, err);
    if (rc != VD_OK)
        return rc;
    const stor_index_t *index = by_name ? stor_index_by_name(collection, args->name)
                                        : stor_index_by_key(collection, args->pattern);
    if (index == NULL) {
        rc =
            vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "cannot find index %s for ns %.*s",
                         by_name ? vd_arena_strndup(request->arena, args->name.data, args->name.len)
                                 : vd_bson_to_json(request->arena, args->pattern, 200),
                         VD_SLICE_FMT(request->ns));
    } else {
        change->collection_id = collection->id;
        change->index_id = index->id;
        if (collection->capped.is && !vd_value_is_nullish(args->expire))
            rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                              "TTL indexes are not supported for capped collections.");
        else if (collection->timeseries.is &&
                 (vd_value_as_flag(args->unique) || vd_value_as_flag(args->prepare_unique)))
            rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                              "Unique indexes are not supported on time-series collections");
        else
            rc = index_look(request, index->def, change, err);
        if (rc == VD_OK && collection->timeseries.is && change->found)
            rc = stor_timeseries_index_check(request->arena, &collection->timeseries, change->spec,
                                             err);
    }
    stor_catalog_release(request, collection);
    return rc;
}

static int index_check(stor_request_t *request, vd_slice_t name, vd_bson_t index,
                       index_change_t *change, vd_error_t *err)
{
    index_args_t *args = &change->args;
    if (index.data == NULL)
        return VD_OK;
    int rc = stor_args_parse(index, "collMod.index", false, index_table, VD_COUNT_OF(index_table),
                             args, err);
    if (rc != VD_OK)
        return rc;
    if (args->name.data != NULL && args->pattern.data != NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Cannot specify both key pattern and name.");
    if (args->name.data == NULL && args->pattern.data == NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Must specify either index name or key pattern.");
    if (vd_value_is_nullish(args->expire) && vd_value_is_nullish(args->hidden) &&
        vd_value_is_nullish(args->unique) && vd_value_is_nullish(args->prepare_unique))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "no expireAfterSeconds, hidden, unique, or prepareUnique field");
    return index_find(request, name, change, err);
}

static void index_reply(stor_request_t *request, const index_change_t *change)
{
    vd_bb_t *bb = &request->reply;
    if (change->expires) {
        if (change->was_expiring)
            vd_bb_int64(bb, "expireAfterSeconds_old", change->expire_old);
        vd_bb_int64(bb, "expireAfterSeconds_new", change->expire_new);
    }
    if (change->hides) {
        vd_bb_bool(bb, "hidden_old", !change->hidden_new);
        vd_bb_bool(bb, "hidden_new", change->hidden_new);
    }
    if (change->prepares) {
        vd_bb_bool(bb, "prepareUnique_old", !change->prepare_new);
        vd_bb_bool(bb, "prepareUnique_new", change->prepare_new);
    }
    if (change->converts)
        vd_bb_bool(bb, "unique_new", true);
}

/* Nobody gains a key that another document has since it was prepared: so one look is enough. */
static int convert_check(stor_request_t *request, const coll_mod_args_t *args,
                         index_change_t *change, vd_error_t *err)
{
    const index_args_t *index = &change->args;
    if (args->dry_run &&
        (vd_value_is_nullish(index->unique) || !vd_value_is_nullish(index->expire) ||
         !vd_value_is_nullish(index->hidden) || !vd_value_is_nullish(index->prepare_unique)))
        return no_dry_run(err);
    int rc = change->converts
                 ? stor_index_unique_check(request, change->collection_id, change->index_id, err)
                 : VD_OK;
    change->found &= !args->dry_run;
    return rc;
}

/* ---- views ---- */

typedef struct {
    stor_request_t *request;
    vd_slice_t name;
    const coll_mod_args_t *args;
} view_t;

static int view_change(void *context, vd_bson_t old, vd_bson_t *ret_options, vd_error_t *err)
{
    const view_t *view = context;
    vd_value_t on = view->args->view_on, stages = view->args->pipeline;
    if (vd_value_is_nullish(on))
        on = vd_bson_get(old, "viewOn");
    if (vd_value_is_nullish(stages))
        stages = vd_bson_get(old, "pipeline");
    if (on.type != VD_BSON_STRING) /* it was made anew as a collection */
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "option only supported on a view: viewOn");
    vd_value_t collation = vd_bson_get(old, "collation");
    return stor_view_options(
        view->request, view->name, vd_value_string(on),
        stages.type == VD_BSON_ARRAY ? vd_value_document(stages) : VD_BSON_NONE,
        collation.type == VD_BSON_OBJECT ? vd_value_document(collation) : VD_BSON_NONE, ret_options,
        err);
}

static int view_modify(stor_request_t *request, vd_slice_t name, const coll_mod_args_t *args,
                       vd_error_t *err)
{
    if (!vd_value_is_nullish(args->validator) || args->options.level.data != NULL ||
        args->options.action.data != NULL || args->index.data != NULL || args->images.data != NULL)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "option not supported on a view");
    if (!vd_value_is_nullish(args->view_on) && args->view_on.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'collMod.viewOn' is the wrong type '%s', expected type "
                            "'string'",
                            vd_bson_type_name(args->view_on.type));
    if (!vd_value_is_nullish(args->pipeline) && args->pipeline.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'collMod.pipeline' is the wrong type '%s', expected type "
                            "'array'",
                            vd_bson_type_name(args->pipeline.type));
    if (vd_value_is_nullish(args->view_on) != vd_value_is_nullish(args->pipeline))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Must specify both 'viewOn' and 'pipeline' when modifying a view");
    if (vd_value_is_nullish(args->view_on))
        return VD_OK;
    view_t view = {request, name, args};
    return stor_catalog_modify(request, request->db, name, view_change, &view, err);
}

/* ---- the command ---- */

/* It is there now; whether it still is when the change is made, the catalog tells. *ret_series:
 * the options of a time-series collection, in the arena; else NONE. */
static int is_there(stor_request_t *request, vd_slice_t name, bool *ret_capped,
                    vd_bson_t *ret_series, vd_error_t *err)
{
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_catalog_acquire(request, request->db, name, &collection, &step);
    if (rc == VD_OK) {
        *ret_capped = collection->capped.is;
        vd_value_t series = vd_bson_get(collection->options, "timeseries");
        if (series.type == VD_BSON_OBJECT)
            *ret_series = vd_value_document(vd_value_copy(request->arena, series));
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
    vd_bson_t series; /* what a time-series collection's options were; NONE: it is none */
} merge_t;

static int merge(void *context, vd_bson_t old, vd_bson_t *ret_options, vd_error_t *err)
{
    const merge_t *m = context;
    const stor_collection_options_t *options = m->options;
    vd_value_t series = vd_bson_get(old, "timeseries");
    vd_bson_t now = series.type == VD_BSON_OBJECT ? vd_value_document(series) : VD_BSON_NONE;
    if (now.len != m->series.len || (now.len > 0 && memcmp(now.data, m->series.data, now.len) != 0))
        return vd_error_set(err, VD_ERR_LOCATION(117), /* ConflictingOperationInProgress */
                            "the collection is changed by somebody else at the same time");
    bool validation =
        options->has_validator || options->level.data != NULL || options->action.data != NULL;
    return stor_collection_options_merge(m->request->arena, old, options, validation, ret_options,
                                         err);
}

int stor_command_coll_mod(stor_request_t *request, vd_error_t *err)
{
    coll_mod_args_t args = {0};
    index_change_t change = {.found = false};
    vd_slice_t name;
    bool capped = false, series_changed = false;
    vd_bson_t series = VD_BSON_NONE;
    int rc = stor_args_parse(request->body, "collMod", true, coll_mod_table,
                             VD_COUNT_OF(coll_mod_table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK && stor_view_is(request, name))
        return view_modify(request, name, &args, err);
    if (rc == VD_OK)
        rc = is_there(request, name, &capped, &series, err);
    if (rc == VD_OK)
        rc = series.len > 0 ? series_check(request, &args, series, &series_changed, err)
                            : kind_check(request, &args, capped, err);
    if (rc == VD_OK)
        rc = index_check(request, name, args.index, &change, err);
    if (rc == VD_OK)
        rc = stor_collection_options_check(request, name, args.validator, &args.options, "collMod",
                                           err);
    if (rc == VD_OK)
        rc = convert_check(request, &args, &change, err);
    if (rc == VD_OK && change.found) {
        rc = stor_catalog_index_modify(request, change.collection_id, change.index_id, change.spec,
                                       err);
        if (rc == VD_OK)
            index_reply(request, &change);
    }
    if (rc != VD_OK || (!args.options.has_validator && args.options.level.data == NULL &&
                        args.options.action.data == NULL && args.options.cas.data == NULL &&
                        !args.options.has_images && args.options.size == 0 &&
                        args.options.max == 0 && !series_changed && !args.options.has_expire))
        return rc;
    merge_t m = {request, &args.options, series};
    return stor_catalog_modify(request, request->db, name, merge, &m, err);
}
