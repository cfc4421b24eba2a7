/* veddb-storaged/exec/sample.c — see sample.h. */
#include "veddb-storaged/exec/sample.h"

#include "veddb-storaged/catalog/catalog.h"

#define AT_ONCE     64 /* records of one transaction */
#define TRIES_TIMES 8  /* as many draws as records are wanted, times this */

typedef struct seen {
    struct seen *next;
    vd_slice_t key;
} seen_t;

typedef struct {
    stor_request_t *request;
    vd_arena_t *arena;
    seen_t **buckets;
    size_t bucket_count;
    uint32_t wanted, found;
    int (*visit)(const stor_record_t *record, void *context, vd_error_t *err);
    void *context;
    vd_error_t *err;
    int rc;
} sample_t;

static uint64_t hash_of(vd_slice_t key)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < key.len; i++)
        hash = (hash ^ key.data[i]) * 0x100000001b3ull;
    return hash ^ hash >> 32;
}

static bool is_new(sample_t *sample, vd_slice_t key)
{
    seen_t **bucket = &sample->buckets[hash_of(key) % sample->bucket_count];
    for (const seen_t *seen = *bucket; seen != NULL; seen = seen->next)
        if (vd_slice_equal(seen->key, key))
            return false;
    seen_t *seen = VD_ARENA_NEW(sample->arena, seen_t);
    seen->key = vd_arena_copy_slice(sample->arena, key);
    seen->next = *bucket;
    *bucket = seen;
    return true;
}

static int sample_visit(vd_slice_t key, vd_slice_t value, void *context)
{
    sample_t *sample = context;
    stor_record_t record = {.key = key};
    if (sample->found == sample->wanted || !is_new(sample, key))
        return VD_OK;
    sample->rc = stor_envelope_read(value, &record.document, &record.version, sample->err);
    if (sample->rc == VD_OK) {
        stor_request_depends(sample->request, record.version);
        sample->request->documents_examined++;
        sample->rc = sample->visit(&record, sample->context, sample->err);
    }
    sample->found += sample->rc == VD_OK;
    return sample->rc;
}

static int draw(sample_t *sample, const stor_collection_t *collection, vd_error_t *err)
{
    stor_session_t *session = sample->request->session;
    uint32_t left = sample->wanted - sample->found;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_random(session, collection->table, sample_visit, sample,
                            left < AT_ONCE ? left : AT_ONCE, err);
    stor_txn_rollback(session); /* it only read */
    return sample->rc != VD_OK ? sample->rc : rc;
}

int stor_sample(stor_request_t *request, const stor_collection_t *collection, uint32_t count,
                int (*visit)(const stor_record_t *record, void *context, vd_error_t *err),
                void *context, vd_error_t *err)
{
    sample_t sample = {.request = request,
                       .arena = vd_arena_create(),
                       .bucket_count = 2 * (size_t)count + 1,
                       .wanted = count,
                       .visit = visit,
                       .context = context,
                       .err = err};
    int rc = VD_OK;
    VD_ASSERT(!stor_txn_active(request->session));
    sample.buckets = VD_ARENA_ARRAY(sample.arena, seen_t *, sample.bucket_count);
    for (uint64_t drawn = 0; rc == VD_OK && sample.found < count; drawn += AT_ONCE) {
        rc = stor_request_check(request, err);
        if (rc == VD_OK && drawn > TRIES_TIMES * (uint64_t)count + TRIES_TIMES * AT_ONCE)
            rc = VD_ERR_NOT_FOUND;
        if (rc == VD_OK)
            rc = draw(&sample, collection, err);
    }
    vd_arena_destroy(&sample.arena);
    return rc;
}
