/* veddb-storaged/commands/list.c — listCollections, listDatabases: what exists, as far as the asker
 * may see it. */
#include "libcommon/base/limits.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/query/match.h"

#define LOCAL_MAX 8

typedef struct {
    vd_bson_t filter, cursor;
    bool name_only, authorized;
} list_args_t;

/* ---- what the gateway says that this user may see ---- */

typedef struct {
    bool all;
    vd_bson_t databases, collections;
} visible_t;

/* What can't be read hides everything. */
static visible_t visible_of(const stor_request_t *request)
{
    vd_slice_t bytes = request->command.visible;
    visible_t visible = {.all = bytes.len == 0};
    vd_bson_t document;
    if (visible.all || vd_bson_peek(bytes, &document, NULL) != VD_OK)
        return visible;
    vd_value_t databases = vd_bson_get(document, "databases");
    vd_value_t collections = vd_bson_get(document, "collections");
    visible.all = vd_value_as_flag(vd_bson_get(document, "all"));
    if (databases.type == VD_BSON_ARRAY)
        visible.databases = vd_value_document(databases);
    if (collections.type == VD_BSON_ARRAY)
        visible.collections = vd_value_document(collections);
    return visible;
}

static bool names_database(const visible_t *visible, vd_slice_t db)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, visible->databases);
    while (vd_bson_iter_next(&iter))
        if (iter.value.type == VD_BSON_STRING && vd_slice_equal(vd_value_string(iter.value), db))
            return true;
    return false;
}

/* name empty: any collection of the database. */
static bool names_collection(const visible_t *visible, vd_slice_t db, vd_slice_t name)
{
    vd_bson_iter_t iter;
    vd_slice_t db_part, name_part;
    vd_bson_iter_init(&iter, visible->collections);
    while (vd_bson_iter_next(&iter))
        if (iter.value.type == VD_BSON_STRING &&
            stor_name_split(vd_value_string(iter.value), &db_part, &name_part) &&
            vd_slice_equal(db_part, db) && (name.len == 0 || vd_slice_equal(name_part, name)))
            return true;
    return false;
}

/* ---- filters over the documents of a list ---- */

typedef struct {
    stor_request_t *request;
    vd_arena_t *arena;
    stor_filter_t *filter;
    vd_bson_t *documents;
    uint32_t count;
} listing_t;

static int listing_add(listing_t *listing, vd_bb_t *bb, bool *ret_kept, vd_error_t *err)
{
    stor_match_t match = {.arena = listing->arena, .variables = &listing->request->variables};
    bool matches = false;
    vd_bson_t document;
    int rc = vd_bb_finish(bb, &document, err);
    if (rc == VD_OK)
        rc = stor_match_document(listing->filter, document, &match, &matches, err);
    if (rc == VD_OK && matches)
        listing->documents[listing->count++] = document;
    *ret_kept = matches;
    return rc;
}

/* ---- listCollections ---- */

static const stor_arg_t collections_table[] = {
    STOR_ARG("filter", STOR_ARG_DOCUMENT, list_args_t, filter, 0),
    STOR_ARG("cursor", STOR_ARG_DOCUMENT, list_args_t, cursor, 0),
    STOR_ARG("nameOnly", STOR_ARG_BOOL, list_args_t, name_only, 0),
    STOR_ARG("authorizedCollections", STOR_ARG_BOOL, list_args_t, authorized, 0),
    {"includePendingDrops", STOR_ARG_IGNORED, 0, 0}, /* a dropped collection is gone at once */
};

static void append_collection(vd_bb_t *bb, const stor_collection_info_t *info, bool name_only)
{
    vd_bb_string(bb, "name", info->name);
    bool series = vd_bson_get(info->options, "timeseries").type == VD_BSON_OBJECT;
    vd_bb_cstr(bb, "type", info->view ? "view" : series ? "timeseries" : "collection");
    if (name_only)
        return;
    vd_bb_begin_document(bb, "options");
    vd_bb_concat(bb, info->options);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "info");
    vd_bb_bool(bb, "readOnly", info->view);
    if (info->view || series) { /* no uuid that clients know, and no index on _id */
        vd_bb_close(bb);
        return;
    }
    vd_bb_binary(bb, "uuid", 4, vd_slice(info->uuid, 16));
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "idIndex");
    vd_value_t collation = vd_bson_get(info->options, "collation");
    stor_facts_id_index(bb, collation.type == VD_BSON_OBJECT ? vd_value_document(collation)
                                                             : VD_BSON_NONE);
    vd_bb_close(bb);
}

/* Nobody made them, and nobody can write them. */
static int list_local(listing_t *listing, const visible_t *visible, bool whole, bool name_only,
                      vd_error_t *err)
{
    stor_storage_t *storage = listing->request->storage;
    stor_local_info_t info;
    uint32_t position = 0;
    int rc = VD_OK;
    while (rc == VD_OK && stor_local_next(storage, &position, &info)) {
        vd_bb_t bb;
        bool kept;
        VD_ASSERT(position <= LOCAL_MAX);
        if (!whole && !names_collection(visible, VD_SLICE_LIT("local"), vd_slice_str(info.name)))
            continue;
        vd_bb_init_arena(&bb, listing->arena, 4096);
        vd_bb_cstr(&bb, "name", info.name);
        vd_bb_cstr(&bb, "type", "collection");
        if (!name_only) {
            vd_bb_begin_document(&bb, "options");
            if (info.capped) {
                vd_bb_bool(&bb, "capped", true);
                vd_bb_int64(&bb, "size", (int64_t)storage->settings.journal_max_bytes);
            }
            vd_bb_close(&bb);
            vd_bb_begin_document(&bb, "info");
            vd_bb_bool(&bb, "readOnly", true);
            vd_bb_close(&bb);
        }
        rc = listing_add(listing, &bb, &kept, err);
    }
    return rc;
}

static int list_collections(listing_t *listing, const list_args_t *args, vd_error_t *err)
{
    stor_request_t *request = listing->request;
    stor_collection_info_t *infos;
    uint32_t count;
    bool kept;
    visible_t visible = visible_of(request);
    bool whole = visible.all || names_database(&visible, request->db);
    int rc = stor_catalog_list(request->storage->catalog, request->arena, request->db, false,
                               &infos, &count, err);
    stor_request_depends_newest(request);
    if (rc == VD_OK)
        rc = stor_filter_parse(request->arena, args->filter, &request->variables, &listing->filter,
                               err);
    if (rc != VD_OK)
        return rc;
    listing->documents = VD_ARENA_ARRAY(listing->arena, vd_bson_t, count + 1 + LOCAL_MAX);
    if (vd_slice_is(request->db, "local"))
        rc = list_local(listing, &visible, whole, args->name_only, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        vd_bb_t bb;
        if (!whole && !names_collection(&visible, infos[i].db, infos[i].name))
            continue;
        vd_bb_init_arena(&bb, listing->arena, VD_BSON_INTERNAL_MAX_BYTES);
        append_collection(&bb, &infos[i], args->name_only);
        rc = listing_add(listing, &bb, &kept, err);
    }
    return rc;
}

int stor_run_list_collections(stor_request_t *request, vd_error_t *err)
{
    list_args_t args = {0};
    int64_t batch_size = -1;
    int rc = stor_args_parse(request->body, "listCollections", true, collections_table,
                             VD_COUNT_OF(collections_table), &args, err);
    if (rc == VD_OK)
        rc = stor_read_cursor_option(args.cursor, &batch_size, err);
    if (rc != VD_OK)
        return rc;
    listing_t listing = {.request = request, .arena = vd_arena_create()};
    rc = list_collections(&listing, &args, err);
    if (rc != VD_OK) {
        vd_arena_destroy(&listing.arena);
        return rc;
    }
    vd_slice_t ns = stor_request_namespace(request, VD_SLICE_LIT("$cmd.listCollections"));
    return stor_read_documents(request, &listing.arena, listing.documents, listing.count, ns,
                               batch_size, err);
}

/* ---- listDatabases ---- */

static const stor_arg_t databases_table[] = {
    STOR_ARG("filter", STOR_ARG_DOCUMENT, list_args_t, filter, 0),
    STOR_ARG("nameOnly", STOR_ARG_BOOL, list_args_t, name_only, 0),
    STOR_ARG("authorizedDatabases", STOR_ARG_BOOL, list_args_t, authorized, 0),
};

/* The collections come sorted by database: each run of them is one. */
static int list_databases(listing_t *listing, const list_args_t *args,
                          const stor_collection_info_t *infos, uint32_t count, int64_t *ret_total,
                          vd_error_t *err)
{
    visible_t visible = visible_of(listing->request);
    int64_t total = 0;
    for (uint32_t i = 0, next; i < count; i = next) {
        vd_slice_t db = infos[i].db;
        int64_t bytes = 0;
        bool kept;
        for (next = i; next < count && vd_slice_equal(infos[next].db, db); next++)
            bytes +=
                (infos[next].file_bytes > 0 ? infos[next].file_bytes : 0) + infos[next].index_bytes;
        if (!visible.all && !names_database(&visible, db) &&
            !names_collection(&visible, db, VD_SLICE_NULL))
            continue;
        vd_bb_t bb;
        vd_bb_init_arena(&bb, listing->arena, 4096);
        vd_bb_string(&bb, "name", db);
        if (!args->name_only) {
            vd_bb_int64(&bb, "sizeOnDisk", bytes);
            vd_bb_bool(&bb, "empty", false); /* a database is there as long as it has collections */
        }
        int rc = listing_add(listing, &bb, &kept, err);
        if (rc != VD_OK)
            return rc;
        total += kept ? bytes : 0;
    }
    *ret_total = total;
    return VD_OK;
}

int stor_run_list_databases(stor_request_t *request, vd_error_t *err)
{
    list_args_t args = {0};
    listing_t listing = {.request = request, .arena = request->arena};
    stor_collection_info_t *infos;
    uint32_t count;
    int64_t total = 0;
    char buf[12];
    int rc = stor_args_parse(request->body, "listDatabases", true, databases_table,
                             VD_COUNT_OF(databases_table), &args, err);
    if (rc == VD_OK)
        rc = stor_filter_parse(request->arena, args.filter, &request->variables, &listing.filter,
                               err);
    if (rc == VD_OK)
        rc = stor_catalog_list(request->storage->catalog, request->arena, VD_SLICE_NULL,
                               !args.name_only, &infos, &count, err);
    stor_request_depends_newest(request);
    if (rc != VD_OK)
        return rc;
    listing.documents = VD_ARENA_ARRAY(request->arena, vd_bson_t, count + 1);
    rc = list_databases(&listing, &args, infos, count, &total, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_begin_array(&request->reply, "databases");
    for (uint32_t i = 0; i < listing.count; i++)
        vd_bb_value(&request->reply, vd_array_name(i, buf),
                    vd_value_from_document(listing.documents[i]));
    vd_bb_close(&request->reply);
    if (!args.name_only) {
        vd_bb_int64(&request->reply, "totalSize", total);
        vd_bb_int64(&request->reply, "totalSizeMb", total / (1024 * 1024));
    }
    return VD_OK;
}
