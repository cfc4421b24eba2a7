/* veddb-storaged/commands/indexes.c — createIndexes, dropIndexes, listIndexes: of the index on _id,
 * which every collection has; others are checked as MongoDB checks them, and refused. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/facts.h"

/* ---- createIndexes ---- */

typedef struct {
    vd_bson_t indexes;
    vd_value_t commit_quorum;
    bool ignore_unknown;
} create_args_t;

static const stor_arg_t create_table[] = {
    STOR_ARG("indexes", STOR_ARG_ARRAY, create_args_t, indexes, STOR_ARG_REQUIRED),
    STOR_ARG("commitQuorum", STOR_ARG_VALUE, create_args_t, commit_quorum, 0),
    STOR_ARG("ignoreUnknownIndexOptions", STOR_ARG_BOOL, create_args_t, ignore_unknown, 0),
    {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
};

static bool is_known(vd_slice_t option)
{
    static const char *const names[] = {"v",
                                        "key",
                                        "name",
                                        "ns",
                                        "unique",
                                        "sparse",
                                        "partialFilterExpression",
                                        "expireAfterSeconds",
                                        "background",
                                        "hidden",
                                        "collation",
                                        "storageEngine",
                                        "weights",
                                        "default_language",
                                        "language_override",
                                        "textIndexVersion",
                                        "2dsphereIndexVersion",
                                        "bits",
                                        "min",
                                        "max",
                                        "bucketSize",
                                        "wildcardProjection",
                                        "prepareUnique",
                                        "clustered",
                                        "dropDups"};
    for (size_t i = 0; i < VD_COUNT_OF(names); i++)
        if (vd_slice_is(option, names[i]))
            return true;
    return false;
}

static int key_check(vd_bson_t key, vd_error_t *err)
{
    static const char *const plugins[] = {"text", "2d", "2dsphere", "hashed"};
    vd_bson_iter_t iter;
    if (vd_bson_is_empty(key))
        return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                            "Index keys cannot be an empty object.");
    vd_bson_iter_init(&iter, key);
    while (vd_bson_iter_next(&iter)) {
        if (iter.name.len == 0)
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "Index keys cannot be an empty field.");
        bool good = false;
        if (iter.value.type == VD_BSON_STRING) {
            for (size_t i = 0; i < VD_COUNT_OF(plugins); i++)
                good |= vd_slice_is(vd_value_string(iter.value), plugins[i]);
            if (!good)
                return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX, "Unknown index plugin '%.*s'",
                                    VD_SLICE_FMT(vd_value_string(iter.value)));
            continue;
        }
        if (!vd_value_is_number(iter.value))
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "Values in v:2 index key pattern cannot be of type %s. Only "
                                "numbers > 0, numbers < 0, and strings are allowed.",
                                vd_bson_type_name(iter.value.type));
        double direction = vd_value_as_double(iter.value);
        if (!(direction < 0) && !(direction > 0))
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "Values in the index key pattern cannot be 0.");
    }
    return VD_OK;
}

static bool is_id_key(vd_bson_t key)
{
    vd_value_t id = vd_bson_get(key, "_id");
    return vd_bson_count(key) == 1 && vd_value_is_number(id) && vd_value_as_double(id) == 1;
}

/* What an _id index may say of itself. */
static int id_options_check(stor_request_t *request, vd_bson_t spec, vd_error_t *err)
{
    static const char *const allowed[] = {"v", "key", "name", "ns", "background"};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        bool good = vd_slice_is(iter.name, "collation") && iter.value.type == VD_BSON_OBJECT &&
                    stor_args_collation(vd_value_document(iter.value), NULL) == VD_OK;
        for (size_t i = 0; i < VD_COUNT_OF(allowed); i++)
            good |= vd_slice_is(iter.name, allowed[i]);
        if (!good)
            return vd_error_set(err, VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION,
                                "The field '%.*s' is not valid for an _id index specification. "
                                "Specification: %s",
                                VD_SLICE_FMT(iter.name),
                                vd_bson_to_json(request->arena, spec, 300));
    }
    return VD_OK;
}

static int spec_check(stor_request_t *request, vd_bson_t spec, bool ignore_unknown, vd_error_t *err)
{
    vd_value_t key = vd_bson_get(spec, "key"), name = vd_bson_get(spec, "name");
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (!ignore_unknown && vd_bson_iter_next(&iter))
        if (!is_known(iter.name))
            return vd_error_set(err, VD_ERR_INVALID_INDEX_SPECIFICATION_OPTION,
                                "The field '%.*s' is not valid for an index specification. "
                                "Specification: %s",
                                VD_SLICE_FMT(iter.name),
                                vd_bson_to_json(request->arena, spec, 300));
    if (vd_value_is_missing(key))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The 'key' field is a required property of an index specification");
    if (key.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "The field 'key' must be an object, but got %s",
                            vd_bson_type_name(key.type));
    if (vd_value_is_missing(name))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "The 'name' field is a required property of an index specification");
    if (name.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "The field 'name' must be a string, but got %s",
                            vd_bson_type_name(name.type));
    int rc = key_check(vd_value_document(key), err);
    if (rc != VD_OK)
        return rc;
    if (is_id_key(vd_value_document(key)))
        return id_options_check(request, spec, err);
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                        "index %.*s on %.*s: indexes other than the one on _id are not built yet",
                        VD_SLICE_FMT(vd_value_string(name)), VD_SLICE_FMT(request->ns));
}

static int specs_check(stor_request_t *request, const create_args_t *args, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (vd_bson_is_empty(args->indexes))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "Must specify at least one index to create");
    vd_bson_iter_init(&iter, args->indexes);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field 'createIndexes.indexes.%.*s' is the wrong type '%s', "
                                "expected type 'object'",
                                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type));
        rc = spec_check(request, vd_value_document(iter.value), args->ignore_unknown, err);
    }
    return rc;
}

int stor_command_create_indexes(stor_request_t *request, vd_error_t *err)
{
    create_args_t args = {0};
    vd_slice_t name;
    stor_collection_t *collection;
    int rc = stor_args_parse(request->body, "createIndexes", true, create_table,
                             VD_COUNT_OF(create_table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_name_check_writable(request->db, name, stor_request_internal(request), err);
    if (rc == VD_OK)
        rc = specs_check(request, &args, err);
    if (rc != VD_OK)
        return rc;
    bool there = stor_catalog_acquire(request, request->db, name, &collection, NULL) == VD_OK;
    if (!there)
        rc = stor_catalog_acquire_or_create(request, request->db, name, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    vd_bb_int32(&request->reply, "numIndexesBefore", 1);
    vd_bb_int32(&request->reply, "numIndexesAfter", 1);
    if (there)
        vd_bb_cstr(&request->reply, "note", "all indexes already exist");
    else
        vd_bb_bool(&request->reply, "createdCollectionAutomatically", true);
    return VD_OK;
}

/* ---- dropIndexes ---- */

typedef struct {
    vd_value_t index;
} drop_args_t;

static int drop_name(stor_request_t *request, vd_slice_t name, bool alone, vd_error_t *err)
{
    if (alone && vd_slice_is(name, "*")) {
        vd_bb_int32(&request->reply, "nIndexesWas", 1);
        vd_bb_cstr(&request->reply, "msg", "non-_id indexes dropped for collection");
        return VD_OK;
    }
    if (vd_slice_is(name, "_id_"))
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "cannot drop _id index");
    return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "index not found with name [%.*s]",
                        VD_SLICE_FMT(name));
}

static int drop_names(stor_request_t *request, vd_bson_t names, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, names);
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = iter.value.type == VD_BSON_STRING
                 ? drop_name(request, vd_value_string(iter.value), false, err)
                 : vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "dropIndexes \"index\" array must hold strings");
    if (rc == VD_OK)
        vd_bb_int32(&request->reply, "nIndexesWas", 1);
    return rc;
}

int stor_command_drop_indexes(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("index", STOR_ARG_VALUE, drop_args_t, index, STOR_ARG_REQUIRED),
        {"collectionUUID", STOR_ARG_REFUSED, 0, 0},
    };
    drop_args_t args = {.index = VD_VALUE_MISSING};
    vd_slice_t name;
    uint64_t id;
    int rc =
        stor_args_parse(request->body, "dropIndexes", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &id, NULL, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    if (id == 0)
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "ns not found %.*s",
                            VD_SLICE_FMT(request->ns));
    switch (args.index.type) {
    case VD_BSON_STRING:
        return drop_name(request, vd_value_string(args.index), true, err);
    case VD_BSON_ARRAY:
        return drop_names(request, vd_value_document(args.index), err);
    case VD_BSON_OBJECT:
        if (is_id_key(vd_value_document(args.index)))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "cannot drop _id index");
        return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "can't find index with key: %s",
                            vd_bson_to_json(request->arena, vd_value_document(args.index), 300));
    default:
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'dropIndexes.index' is the wrong type '%s', expected types "
                            "'[string, object]'",
                            vd_bson_type_name(args.index.type));
    }
}

/* ---- listIndexes ---- */

typedef struct {
    vd_bson_t cursor;
} list_args_t;

int stor_command_list_indexes(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("cursor", STOR_ARG_DOCUMENT, list_args_t, cursor, 0),
        {"includeBuildUUIDs", STOR_ARG_IGNORED, 0, 0}, /* no index is ever being built */
        {"includeIndexBuildInfo", STOR_ARG_REFUSED, 0, 0},
    };
    list_args_t args = {0};
    vd_slice_t name;
    uint64_t id;
    int64_t batch_size;
    int rc =
        stor_args_parse(request->body, "listIndexes", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_read_cursor_option(args.cursor, &batch_size, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &id, NULL, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    if (id == 0)
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "ns does not exist: %.*s",
                            VD_SLICE_FMT(request->ns));
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    vd_bson_t *document = VD_ARENA_NEW(arena, vd_bson_t);
    vd_bb_init_arena(&bb, arena, 1024);
    stor_facts_id_index(&bb);
    rc = vd_bb_finish(&bb, document, err);
    if (rc == VD_OK)
        return stor_read_documents(request, &arena, document, 1, request->ns, batch_size, err);
    vd_arena_destroy(&arena);
    return rc;
}
