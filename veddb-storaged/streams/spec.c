/* veddb-storaged/streams/spec.c — the options of $changeStream, and where it may be opened. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/streams/stream.h"

typedef struct {
    vd_slice_t after, before;
    vd_bson_t resume_after, start_after;
    vd_value_t start_time;
    bool all, expanded;
} args_t;

static const stor_arg_t table[] = {
    STOR_ARG("fullDocument", STOR_ARG_STRING, args_t, after, 0),
    STOR_ARG("fullDocumentBeforeChange", STOR_ARG_STRING, args_t, before, 0),
    STOR_ARG("resumeAfter", STOR_ARG_DOCUMENT, args_t, resume_after, 0),
    STOR_ARG("startAfter", STOR_ARG_DOCUMENT, args_t, start_after, 0),
    STOR_ARG("startAtOperationTime", STOR_ARG_VALUE, args_t, start_time, 0),
    STOR_ARG("allChangesForCluster", STOR_ARG_BOOL, args_t, all, 0),
    STOR_ARG("showExpandedEvents", STOR_ARG_BOOL, args_t, expanded, 0),
    {"showMigrationEvents", STOR_ARG_REFUSED, 0, 0},
    {"showSystemEvents", STOR_ARG_REFUSED, 0, 0},
    {"showRawUpdateDescription", STOR_ARG_REFUSED, 0, 0},
    {"allowToRunOnConfigDB", STOR_ARG_REFUSED, 0, 0},
};

static int word(vd_slice_t given, const char *const names[4], const char *field, stor_image_t *ret,
                vd_error_t *err)
{
    if (given.data == NULL)
        return VD_OK;
    for (int i = 0; i < 4; i++)
        if (names[i] != NULL && vd_slice_is(given, names[i])) {
            *ret = (stor_image_t)i;
            return VD_OK;
        }
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "Enumeration value '%.*s' for field '$changeStream.%s' is not a valid "
                        "value.",
                        VD_SLICE_FMT(given), field);
}

static int place_check(const stor_stream_spec_t *spec, bool all, vd_error_t *err)
{
    if (all && (!vd_slice_is(spec->db, "admin") || spec->collection.len > 0))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "A $changeStream with 'allChangesForCluster:true' may only be opened "
                            "on the 'admin' database, and with no collection name; found %.*s.%.*s",
                            VD_SLICE_FMT(spec->db), VD_SLICE_FMT(spec->collection));
    if (all)
        return VD_OK;
    static const char *const internal[] = {"admin", "local", "config"};
    for (size_t i = 0; i < VD_COUNT_OF(internal); i++)
        if (vd_slice_is(spec->db, internal[i]))
            return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                                "$changeStream may not be opened on the internal %s database",
                                internal[i]);
    if (vd_slice_starts_with(spec->collection, VD_SLICE_LIT("system.")))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "$changeStream may not be opened on the internal %.*s.%.*s collection",
                            VD_SLICE_FMT(spec->db), VD_SLICE_FMT(spec->collection));
    return VD_OK;
}

static int resume_check(const args_t *args, stor_stream_spec_t *spec, vd_error_t *err)
{
    bool after = args->resume_after.data != NULL, start = args->start_after.data != NULL;
    bool time = !vd_value_is_nullish(args->start_time);
    if (after && start)
        return vd_error_set(err, VD_ERR_LOCATION(50865),
                            "Do not specify both 'resumeAfter' and 'startAfter' in a "
                            "$changeStream stage");
    if ((after || start) && time)
        return vd_error_set(err, VD_ERR_LOCATION(40674),
                            "Only one type of resume option is allowed, but multiple were found.");
    if (time && args->start_time.type != VD_BSON_TIMESTAMP)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '$changeStream.startAtOperationTime' is the wrong type "
                            "'%s', expected type 'timestamp'",
                            vd_bson_type_name(args->start_time.type));
    if (time) {
        spec->start_time = vd_value_timestamp(args->start_time);
        spec->start_time += spec->start_time == 0;
    }
    if (!after && !start)
        return VD_OK;
    spec->has_token = true;
    spec->start_after = start;
    int rc = stor_token_read(after ? args->resume_after : args->start_after, &spec->token, err);
    if (rc == VD_OK && after && spec->token.invalidate)
        return vd_error_set(err, VD_ERR_INVALID_RESUME_TOKEN,
                            "Attempting to resume a change stream using 'resumeAfter' is not "
                            "allowed from an invalidate notification.");
    return rc;
}

int stor_stream_parse(vd_value_t options, vd_slice_t db, vd_slice_t collection,
                      stor_stream_spec_t *ret_spec, vd_error_t *err)
{
    static const char *const after[4] = {"default", "updateLookup", "whenAvailable", "required"};
    static const char *const before[4] = {"off", NULL, "whenAvailable", "required"};
    args_t args = {0};
    stor_stream_spec_t spec = {.db = db, .collection = collection};
    if (options.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(50808),
                            "$changeStream stage expects a document as argument");
    int rc = stor_args_parse(vd_value_document(options), "$changeStream", false, table,
                             VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = word(args.after, after, "fullDocument", &spec.after, err);
    if (rc == VD_OK)
        rc = word(args.before, before, "fullDocumentBeforeChange", &spec.before, err);
    if (rc == VD_OK)
        rc = place_check(&spec, args.all, err);
    if (rc == VD_OK)
        rc = resume_check(&args, &spec, err);
    spec.kind = args.all              ? STOR_STREAM_CLUSTER
                : collection.len == 0 ? STOR_STREAM_DATABASE
                                      : STOR_STREAM_COLLECTION;
    spec.expanded = args.expanded;
    if (rc == VD_OK)
        *ret_spec = spec;
    return rc;
}
