/* veddb-storaged/commands/capped.c — convertToCapped, cloneCollectionAsCapped.
 *
 * The documents are copied in their natural order into a new collection, which keeps the newest. It
 * takes the place of the old one, unless that was written meanwhile: then all starts over. Indexes
 * are not kept, as in MongoDB. */
#include "veddb-storaged/capped.h"
#include "libcommon/base/log.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/view.h"
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/write.h"

#define ROUND_DOCUMENTS_MAX 200
#define ROUND_BYTES_MAX     (2 * 1024 * 1024)
#define TRIES_MAX           5 /* of a conversion that writers come between */

typedef struct {
    vd_value_t size;
    vd_slice_t to; /* cloneCollectionAsCapped */
} capped_args_t;

typedef struct {
    stor_request_t *request;
    vd_slice_t from, to; /* names */
    uint64_t from_id;
    int64_t size;
    stor_catalog_state_t state; /* of the source, when the copy began */
    vd_buf_t place;             /* of the last document taken */
    bool done;
    uint32_t count;
    vd_bson_t documents[ROUND_DOCUMENTS_MAX];
} job_t;

static int options_make(const job_t *job, vd_bson_t *ret_options, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(job->request->arena, sizeof *bb);
    vd_bb_init_arena(bb, job->request->arena, 256);
    vd_bb_bool(bb, "capped", true);
    stor_facts_number(bb, "size", job->size);
    return vd_bb_finish(bb, ret_options, err);
}

/* ---- copying ---- */

static int take(job_t *job, stor_scan_t *scan, vd_error_t *err)
{
    stor_request_t *request = job->request;
    size_t bytes = 0;
    while (job->count < ROUND_DOCUMENTS_MAX && bytes < ROUND_BYTES_MAX) {
        stor_record_t record;
        int rc = stor_scan_next(scan, request, &record, err);
        if (rc != VD_OK)
            return rc;
        bytes += record.document.len;
        job->documents[job->count++] = stor_record_copy(request->arena, record).document;
    }
    vd_buf_clear(&job->place);
    return vd_buf_append_slice(&job->place, stor_scan_position(scan));
}

static int take_round(job_t *job, vd_error_t *err)
{
    stor_scan_t *scan = NULL;
    stor_collection_t *collection;
    stor_scan_options_t options = {.collection_id = job->from_id,
                                   .natural = true,
                                   .tolerant = true,
                                   .resume_after = vd_buf_slice(&job->place)};
    job->count = 0;
    int rc = stor_catalog_acquire_id(job->request, job->from_id, &collection, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_scan_open(job->request->arena, &options, &scan, err);
    if (rc == VD_OK)
        rc = take(job, scan, err);
    stor_scan_close(&scan);
    stor_catalog_release(job->request, collection);
    job->done = rc == VD_ERR_NOT_FOUND;
    return job->done ? VD_OK : rc;
}

static int write_try(stor_write_t *write, vd_slice_t key, vd_bson_t document, vd_error_t *err)
{
    int rc = stor_write_begin(write, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_write_insert(write, key, document, -1, err);
    if (rc == VD_OK)
        return stor_write_commit(write, err);
    stor_write_rollback(write);
    return rc;
}

static int write_one(job_t *job, stor_write_t *write, vd_bson_t document, vd_error_t *err)
{
    vd_slice_t key;
    if (document.len > job->size)
        return VD_OK; /* it has no room */
    int rc = stor_id_key(job->request->arena, vd_bson_get(document, "_id"), &key, err);
    write->attempts = 0;
    while (rc == VD_OK) {
        vd_error_t step = VD_ERROR_INIT;
        rc = write_try(write, key, document, &step);
        if (rc == VD_OK)
            return VD_OK;
        if (rc == VD_ERR_WRITE_CONFLICT) {
            rc = stor_write_backoff(write, err);
            continue;
        }
        vd_error_copy(&step, err);
    }
    return rc;
}

static int write_round(job_t *job, vd_error_t *err)
{
    stor_request_t *request = job->request;
    stor_collection_t *target;
    stor_write_t write;
    int rc = stor_catalog_acquire(request, request->db, job->to, &target, err);
    if (rc != VD_OK)
        return rc;
    stor_write_init(&write, request, target);
    for (uint32_t i = 0; rc == VD_OK && i < job->count; i++)
        rc = write_one(job, &write, job->documents[i], err);
    stor_write_done(&write);
    stor_catalog_release(request, target);
    return rc;
}

static int copy_all(job_t *job, vd_error_t *err)
{
    vd_arena_t *arena = job->request->arena;
    int rc = VD_OK;
    vd_buf_clear(&job->place);
    job->done = false;
    while (rc == VD_OK && !job->done) {
        vd_arena_mark_t mark = vd_arena_mark(arena);
        rc = take_round(job, err);
        if (rc == VD_OK)
            rc = write_round(job, err);
        if (rc == VD_OK)
            vd_arena_rewind(arena, mark);
    }
    return rc;
}

/* ---- the commands ---- */

static int source_look(job_t *job, vd_error_t *err)
{
    stor_request_t *request = job->request;
    stor_collection_t *collection;
    vd_error_t step = VD_ERROR_INIT;
    if (stor_view_is(request, job->from))
        return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                            "cloneCollectionAsCapped not supported for views: %.*s.%.*s",
                            VD_SLICE_FMT(request->db), VD_SLICE_FMT(job->from));
    int rc = stor_catalog_acquire(request, request->db, job->from, &collection, &step);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND) {
        stor_request_depends_newest(request);
        return vd_error_set(err, rc, "source collection %.*s.%.*s does not exist",
                            VD_SLICE_FMT(request->db), VD_SLICE_FMT(job->from));
    }
    if (rc != VD_OK) {
        vd_error_copy(&step, err);
        return rc;
    }
    job->from_id = collection->id;
    job->state = stor_catalog_state(collection);
    if (collection->timeseries.is)
        rc = vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                          "convertToCapped not supported for time-series collections: %s",
                          collection->ns);
    stor_catalog_release(request, collection);
    return rc;
}

/* What was copied halfway goes again. */
static void target_drop(job_t *job)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_catalog_drop(job->request, job->request->db, job->to, &step);
    if (rc != VD_OK && rc != VD_ERR_NAMESPACE_NOT_FOUND)
        vd_log(VD_LOG_WARN, "a capped copy that failed stays", "code=%d", -rc);
}

static int copy_make(job_t *job, vd_error_t *err)
{
    stor_create_options_t create = {0};
    int rc = source_look(job, err);
    if (rc == VD_OK)
        rc = options_make(job, &create.options, err);
    if (rc == VD_OK)
        rc = stor_catalog_create(job->request, job->request->db, job->to, &create, err);
    if (rc != VD_OK)
        return rc;
    rc = copy_all(job, err);
    if (rc != VD_OK)
        target_drop(job);
    return rc;
}

static void job_init(job_t *job, stor_request_t *request)
{
    memset(job, 0, sizeof *job);
    job->request = request;
    vd_buf_init(&job->place, VD_KEYCODE_MAX_BYTES);
}

static int convert(job_t *job, vd_error_t *err)
{
    stor_request_t *request = job->request;
    int rc = VD_ERR_AGAIN;
    for (int i = 0; rc == VD_ERR_AGAIN && i < TRIES_MAX; i++) {
        vd_error_clear(err);
        rc = copy_make(job, err);
        if (rc != VD_OK)
            return rc;
        rc = stor_catalog_rename_over(request, request->db, job->to, job->from, job->from_id,
                                      &job->state, err);
        if (rc != VD_OK)
            target_drop(job);
    }
    if (rc != VD_ERR_AGAIN)
        return rc;
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_LOCATION(117), /* ConflictingOperationInProgress */
                        "the collection is written while it is converted");
}

int stor_command_convert_to_capped(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("size", STOR_ARG_VALUE, capped_args_t, size, STOR_ARG_REQUIRED)};
    capped_args_t args = {.size = VD_VALUE_MISSING};
    job_t *job = VD_ARENA_NEW(request->arena, job_t);
    uint64_t number;
    job_init(job, request);
    int rc = stor_args_parse(request->body, "convertToCapped", true, table, VD_COUNT_OF(table),
                             &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &job->from, err);
    if (rc == VD_OK)
        rc = stor_capped_size_check(args.size, "convertToCapped.size", &job->size, err);
    vd_rand_secret(&number, sizeof number);
    job->to = vd_slice_str(
        vd_arena_printf(request->arena, "tmp%016llx.convertToCapped", (unsigned long long)number));
    if (rc == VD_OK)
        rc = convert(job, err);
    vd_buf_done(&job->place);
    return rc;
}

static int copy_beside(job_t *job, vd_error_t *err)
{
    vd_error_t step = VD_ERROR_INIT;
    int rc = copy_make(job, &step);
    if (rc == VD_ERR_NAMESPACE_EXISTS) {
        vd_slice_t db = job->request->db;
        vd_error_clear(&step);
        return vd_error_set(err, rc,
                            "cloneCollectionAsCapped failed - destination collection %.*s.%.*s "
                            "already exists. source collection: %.*s.%.*s",
                            VD_SLICE_FMT(db), VD_SLICE_FMT(job->to), VD_SLICE_FMT(db),
                            VD_SLICE_FMT(job->from));
    }
    if (rc != VD_OK)
        vd_error_copy(&step, err);
    return rc;
}

int stor_command_clone_as_capped(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("size", STOR_ARG_VALUE, capped_args_t, size, STOR_ARG_REQUIRED),
        STOR_ARG("toCollection", STOR_ARG_STRING, capped_args_t, to, STOR_ARG_REQUIRED)};
    capped_args_t args = {.size = VD_VALUE_MISSING};
    job_t *job = VD_ARENA_NEW(request->arena, job_t);
    job_init(job, request);
    int rc = stor_args_parse(request->body, "cloneCollectionAsCapped", true, table,
                             VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &job->from, err);
    if (rc == VD_OK)
        rc = stor_capped_size_check(args.size, "cloneCollectionAsCapped.size", &job->size, err);
    job->to = args.to;
    if (rc == VD_OK)
        rc = copy_beside(job, err);
    vd_buf_done(&job->place);
    return rc;
}
