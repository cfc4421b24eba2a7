/* veddb-storaged/commands/indexes.c — createIndexes, dropIndexes, listIndexes: of the index on _id,
 * which every collection has; others are checked as MongoDB checks them, and refused. */
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/index_spec.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/transactions.h"

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

/* With one member every quorum that can be met is met. */
static int quorum_check(vd_value_t v, vd_error_t *err)
{
    if (v.type == VD_BSON_MISSING || v.type == VD_BSON_NULL)
        return VD_OK;
    if (v.type == VD_BSON_STRING) {
        vd_slice_t mode = vd_value_string(v);
        return vd_slice_is(mode, "votingMembers") || vd_slice_is(mode, "majority")
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_UNKNOWN_REPL_WRITE_CONCERN,
                                  "No write concern mode named '%.*s' found in replica set "
                                  "configuration",
                                  VD_SLICE_FMT(mode));
    }
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "commitQuorum has to be a number or a string");
    double members = vd_value_as_double(v);
    if (!(members >= 0 && members <= 50))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "commitQuorum has to be a non-negative number and not greater than 50");
    return members <= 1 ? VD_OK
                        : vd_error_set(err, VD_ERR_LOCATION(278),
                                       "Commit quorum cannot be satisfied with the current replica "
                                       "set configuration");
}

static int specs_check(stor_request_t *request, const create_args_t *args, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_t unbuilt = VD_BSON_NONE;
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
        bool is_id;
        vd_bson_t spec = vd_value_document(iter.value);
        rc = stor_index_spec_check(request, spec, args->ignore_unknown, &is_id, err);
        if (rc == VD_OK && !is_id && unbuilt.data == NULL)
            unbuilt = spec;
    }
    /* Those that are wrong are told first. */
    if (rc == VD_OK && unbuilt.data != NULL)
        rc = vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                          "index %.*s on %.*s: indexes other than the one on _id are not built yet",
                          VD_SLICE_FMT(vd_value_string(vd_bson_get(unbuilt, "name"))),
                          VD_SLICE_FMT(request->ns));
    return rc;
}

static void reply_created(stor_request_t *request, const create_args_t *args, bool created)
{
    vd_bb_t *bb = &request->reply;
    vd_bb_int32(bb, "numIndexesBefore", 1);
    vd_bb_int32(bb, "numIndexesAfter", 1);
    if (created)
        vd_bb_bool(bb, "createdCollectionAutomatically", true);
    if (vd_value_is_nullish(args->commit_quorum))
        vd_bb_cstr(bb, "commitQuorum", "votingMembers");
    else
        vd_bb_value(bb, VD_SLICE_LIT("commitQuorum"), args->commit_quorum);
    vd_bb_cstr(bb, "note", "all indexes already exist");
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
    if (rc == VD_OK)
        rc = quorum_check(args.commit_quorum, err);
    if (rc == VD_OK)
        rc = stor_transaction_schema(request, name, err);
    if (rc != VD_OK)
        return rc;
    bool there = stor_catalog_acquire(request, request->db, name, &collection, NULL) == VD_OK;
    if (!there)
        rc = stor_catalog_acquire_or_create(request, request->db, name, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    reply_created(request, &args, !there);
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

static int names_check(vd_bson_t names, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, names);
    while (vd_bson_iter_next(&iter))
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "BSON field 'dropIndexes.index.%.*s' is the wrong type '%s', "
                                "expected type 'string'",
                                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type));
    return VD_OK;
}

static int drop_names(stor_request_t *request, vd_bson_t names, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = names_check(names, err);
    vd_bson_iter_init(&iter, names);
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = drop_name(request, vd_value_string(iter.value), false, err);
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
        if (stor_index_is_id_key(vd_value_document(args.index)))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "cannot drop _id index");
        return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND, "can't find index with key: %s",
                            vd_bson_to_json(request->arena, vd_value_document(args.index), 300));
    default:
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'dropIndexes.index' is the wrong type '%s', expected types "
                            "'[string, array, object]'",
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
