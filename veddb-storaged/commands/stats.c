/* veddb-storaged/commands/stats.c — collStats, dbStats, dataSize. */
#include "libcommon/base/clock.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/local/local.h"

#include <sys/statvfs.h>

typedef struct {
    int64_t scale;
    bool free_storage;
} stats_args_t;

/* ---- collStats ---- */

int stor_run_coll_stats(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("scale", STOR_ARG_POSITIVE, stats_args_t, scale, 0),
        {"waitForLock", STOR_ARG_IGNORED, 0, 0}, /* nothing here locks a collection */
    };
    stats_args_t args = {.scale = 1};
    stor_collection_t *collection = NULL;
    uint64_t id;
    vd_slice_t name;
    int rc =
        stor_args_parse(request->body, "collStats", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_source(request, name, &id, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    vd_bb_string(&request->reply, "ns", request->ns);
    if (stor_local_is(id))
        stor_local_stats(&request->reply, request->storage, id, args.scale);
    else
        stor_facts_storage(&request->reply, request->storage, collection, args.scale);
    return VD_OK;
}

/* ---- dbStats ---- */

typedef struct {
    int64_t collections, views, documents, bytes, file_bytes, free_bytes, indexes, index_bytes,
        index_free_bytes;
} totals_t;

static totals_t add_up(const stor_collection_info_t *infos, uint32_t count)
{
    totals_t totals = {.collections = count};
    for (uint32_t i = 0; i < count; i++) {
        if (infos[i].view) { /* its table is empty */
            totals.views++;
            totals.collections--;
            continue;
        }
        totals.documents += infos[i].documents;
        totals.bytes += infos[i].bytes;
        /* The one on _id is among them where there is a collation. */
        totals.indexes += infos[i].index_count +
                          (vd_bson_get(infos[i].options, "collation").type != VD_BSON_OBJECT &&
                           vd_bson_get(infos[i].options, "timeseries").type != VD_BSON_OBJECT);
        totals.index_bytes += infos[i].index_bytes;
        totals.index_free_bytes += infos[i].index_free_bytes;
        if (infos[i].file_bytes > 0)
            totals.file_bytes += infos[i].file_bytes;
        if (infos[i].free_bytes > 0)
            totals.free_bytes += infos[i].free_bytes;
    }
    return totals;
}

static void append_file_system(stor_request_t *request, bool exists, double scale)
{
    struct statvfs fs;
    const char *folder = request->storage->settings.data_folder;
    double used = 0, total = 0;
    if (exists && folder != NULL && statvfs(folder, &fs) == 0) {
        total = (double)fs.f_blocks * (double)fs.f_frsize;
        used = total - (double)fs.f_bavail * (double)fs.f_frsize;
    }
    vd_bb_double(&request->reply, "fsUsedSize", used / scale);
    vd_bb_double(&request->reply, "fsTotalSize", total / scale);
}

int stor_run_db_stats(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("scale", STOR_ARG_POSITIVE, stats_args_t, scale, 0),
        STOR_ARG("freeStorage", STOR_ARG_BOOL, stats_args_t, free_storage, 0),
    };
    stats_args_t args = {.scale = 1};
    stor_collection_info_t *infos;
    uint32_t count;
    int rc = stor_args_parse(request->body, "dbStats", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_catalog_list(request->storage->catalog, request->arena, request->db, true, &infos,
                               &count, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    totals_t totals = add_up(infos, count);
    double scale = (double)args.scale;
    vd_bb_t *bb = &request->reply;
    vd_bb_string(bb, "db", request->db);
    vd_bb_int64(bb, "collections", totals.collections);
    vd_bb_int64(bb, "views", totals.views);
    vd_bb_int64(bb, "objects", totals.documents);
    vd_bb_double(bb, "avgObjSize",
                 totals.documents == 0 ? 0 : (double)totals.bytes / (double)totals.documents);
    vd_bb_double(bb, "dataSize", (double)totals.bytes / scale);
    vd_bb_double(bb, "storageSize", (double)totals.file_bytes / scale);
    if (args.free_storage)
        vd_bb_double(bb, "freeStorageSize", (double)totals.free_bytes / scale);
    vd_bb_int64(bb, "indexes", totals.indexes);
    /* the index on _id is the table itself */
    vd_bb_double(bb, "indexSize", (double)totals.index_bytes / scale);
    if (args.free_storage)
        vd_bb_double(bb, "indexFreeStorageSize", (double)totals.index_free_bytes / scale);
    vd_bb_double(bb, "totalSize", (double)(totals.file_bytes + totals.index_bytes) / scale);
    if (args.free_storage)
        vd_bb_double(bb, "totalFreeStorageSize",
                     (double)(totals.free_bytes + totals.index_free_bytes) / scale);
    vd_bb_int64(bb, "scaleFactor", args.scale);
    append_file_system(request, count > 0, scale);
    return VD_OK;
}

/* ---- dataSize: sizes are kept, so that nothing is scanned, estimate or not ---- */

typedef struct {
    bool estimate;
} size_args_t;

int stor_run_data_size(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("estimate", STOR_ARG_BOOL, size_args_t, estimate, 0),
        {"keyPattern", STOR_ARG_REFUSED, 0, 0}, /* ranges of keys speak of shards */
        {"min", STOR_ARG_REFUSED, 0, 0},
        {"max", STOR_ARG_REFUSED, 0, 0},
    };
    size_args_t args = {false};
    stor_collection_t *collection = NULL;
    vd_slice_t name, db, collection_name;
    vd_value_t ns;
    uint64_t id, started = vd_monotonic_ms();
    int rc =
        stor_args_parse(request->body, "dataSize", true, table, VD_COUNT_OF(table), &args, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_bson_first(request->body, &name, &ns) || ns.type != VD_BSON_STRING ||
        !stor_name_split(vd_value_string(ns), &db, &collection_name))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "Invalid namespace specified for dataSize");
    if (!vd_slice_equal(db, request->db))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "dataSize must name a collection of the database it is run against");
    rc = stor_read_collection(request, collection_name, &id, &collection, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    vd_bb_t *bb = &request->reply;
    vd_bb_bool(bb, "estimate", args.estimate);
    vd_bb_int64(bb, "size", collection == NULL ? 0 : atomic_load(&collection->bytes));
    vd_bb_int64(bb, "numObjects", collection == NULL ? 0 : atomic_load(&collection->documents));
    vd_bb_int64(bb, "millis", (int64_t)(vd_monotonic_ms() - started));
    return VD_OK;
}
