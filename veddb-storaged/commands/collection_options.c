/* veddb-storaged/commands/collection_options.c — see collection_options.h. */
#include "veddb-storaged/commands/collection_options.h"

#include "libcommon/bson/build.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/query/filter.h"

#include <stdio.h>

static int one_of(vd_slice_t value, const char *const *words, size_t count, const char *command,
                  const char *field, vd_error_t *err)
{
    if (value.data == NULL)
        return VD_OK;
    for (size_t i = 0; i < count; i++)
        if (vd_slice_is(value, words[i]))
            return VD_OK;
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "Enumeration value '%.*s' for field '%s.%s' is not a valid value.",
                        VD_SLICE_FMT(value), command, field);
}

static int validator_check(stor_request_t *request, vd_slice_t collection, vd_value_t validator,
                           stor_collection_options_t *options, const char *command, vd_error_t *err)
{
    stor_filter_t *filter;
    if (validator.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.validator' is the wrong type '%s', expected type "
                            "'object'",
                            command, vd_bson_type_name(validator.type));
    options->validator = vd_value_document(validator);
    options->has_validator = true;
    if (vd_bson_is_empty(options->validator))
        return VD_OK;
    static const char *const closed[] = {"admin", "local", "config"};
    for (size_t i = 0; i < VD_COUNT_OF(closed); i++)
        if (vd_slice_is(request->db, closed[i]))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Document validators are not allowed on collection %.*s.%.*s in "
                                "the %s internal database",
                                VD_SLICE_FMT(request->db), VD_SLICE_FMT(collection), closed[i]);
    if (vd_slice_starts_with(collection, VD_SLICE_LIT("system.")))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Document validators not allowed on system collection %.*s.%.*s",
                            VD_SLICE_FMT(request->db), VD_SLICE_FMT(collection));
    int rc = stor_filter_parse(request->arena, options->validator, NULL, &filter, err);
    if (rc == VD_OK && stor_filter_version(filter) != 0)
        rc = vd_error_set(err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                          "$version is not allowed in collection validators");
    return rc;
}

int stor_collection_options_check(stor_request_t *request, vd_slice_t collection,
                                  vd_value_t validator, stor_collection_options_t *options,
                                  const char *command, vd_error_t *err)
{
    static const char *const levels[] = {"off", "strict", "moderate"};
    static const char *const actions[] = {"error", "warn"};
    static const char *const cas[] = {"off", "optional", "required"};
    int rc = one_of(options->level, levels, VD_COUNT_OF(levels), command, "validationLevel", err);
    if (rc == VD_OK)
        rc = one_of(options->action, actions, VD_COUNT_OF(actions), command, "validationAction",
                    err);
    if (rc == VD_OK)
        rc = one_of(options->cas, cas, VD_COUNT_OF(cas), command, "cas", err);
    if (rc == VD_OK && validator.type != VD_BSON_MISSING && validator.type != VD_BSON_NULL)
        rc = validator_check(request, collection, validator, options, command, err);
    return rc;
}

int stor_collection_images_check(const stor_request_t *request, vd_bson_t images,
                                 stor_collection_options_t *options, const char *command,
                                 vd_error_t *err)
{
    static const stor_arg_t table[] = {{"enabled", STOR_ARG_BOOL, 0, STOR_ARG_REQUIRED}};
    static const char *const closed[] = {"admin", "local", "config"};
    char prefix[80];
    if (images.data == NULL)
        return VD_OK;
    (void)snprintf(prefix, sizeof prefix, "%s.changeStreamPreAndPostImages", command);
    int rc =
        stor_args_parse(images, prefix, false, table, VD_COUNT_OF(table), &options->images, err);
    if (rc != VD_OK)
        return rc;
    options->has_images = true;
    for (size_t i = 0; i < VD_COUNT_OF(closed); i++)
        if (options->images && vd_slice_is(request->db, closed[i]))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "'changeStreamPreAndPostImages' is not supported on the '%s' "
                                "internal database",
                                closed[i]);
    return VD_OK;
}

static void images_put(vd_bb_t *bb, const stor_collection_options_t *options, vd_bson_t old)
{
    vd_value_t before = vd_bson_get(old, "changeStreamPreAndPostImages");
    if (!options->has_images) {
        vd_bb_value(bb, VD_SLICE_LIT("changeStreamPreAndPostImages"), before);
    } else if (options->images) {
        vd_bb_begin_document(bb, "changeStreamPreAndPostImages");
        vd_bb_bool(bb, "enabled", true);
        vd_bb_close(bb);
    }
}

static void word_put(vd_bb_t *bb, const char *name, vd_slice_t given, vd_bson_t old,
                     const char *otherwise)
{
    vd_value_t before = vd_bson_get(old, name);
    if (given.data != NULL)
        vd_bb_string(bb, name, given);
    else if (before.type == VD_BSON_STRING)
        vd_bb_value(bb, vd_slice_str(name), before);
    else if (otherwise != NULL)
        vd_bb_cstr(bb, name, otherwise);
}

static void capped_put(vd_bb_t *bb, const stor_collection_options_t *options, vd_bson_t old)
{
    int64_t size = options->size, max = options->max;
    if (!options->capped && !vd_value_as_flag(vd_bson_get(old, "capped")))
        return;
    if (size == 0)
        (void)vd_value_as_int64(vd_bson_get(old, "size"), &size);
    if (max == 0)
        (void)vd_value_as_int64(vd_bson_get(old, "max"), &max);
    vd_bb_bool(bb, "capped", true);
    stor_facts_number(bb, "size", size);
    if (max != 0)
        stor_facts_number(bb, "max", max);
}

static void series_put(vd_bb_t *bb, const stor_collection_options_t *options, vd_bson_t old)
{
    if (options->timeseries.len > 0)
        vd_bb_document(bb, "timeseries", options->timeseries);
    else
        vd_bb_value(bb, VD_SLICE_LIT("timeseries"), vd_bson_get(old, "timeseries"));
    if (!options->has_expire)
        vd_bb_value(bb, VD_SLICE_LIT("expireAfterSeconds"), vd_bson_get(old, "expireAfterSeconds"));
    else if (options->expire_after_seconds >= 0)
        vd_bb_int64(bb, "expireAfterSeconds", options->expire_after_seconds);
}

int stor_collection_options_merge(vd_arena_t *arena, vd_bson_t old,
                                  const stor_collection_options_t *options, bool whole,
                                  vd_bson_t *ret_options, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t validator = options->validator;
    if (!options->has_validator) {
        vd_value_t before = vd_bson_get(old, "validator");
        validator = before.type == VD_BSON_OBJECT ? vd_value_document(before) : VD_BSON_NONE;
    }
    vd_bb_init_arena(bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    capped_put(bb, options, old);
    if (!vd_bson_is_empty(validator))
        vd_bb_document(bb, "validator", validator);
    vd_value_t collation = vd_bson_get(old, "collation");
    if (options->collation.len > 0)
        collation = vd_value_from_document(options->collation);
    if (collation.type == VD_BSON_OBJECT)
        vd_bb_value(bb, VD_SLICE_LIT("collation"), collation);
    series_put(bb, options, old);
    images_put(bb, options, old);
    word_put(bb, "validationLevel", options->level, old, whole ? "strict" : NULL);
    word_put(bb, "validationAction", options->action, old, whole ? "error" : NULL);
    word_put(bb, "cas", options->cas, old, NULL);
    return vd_bb_finish(bb, ret_options, err);
}
