/* veddb-storaged/pipeline/window_store.c — see window_store.h.
 *
 * Documents stand in chunks, in the form of a spill block. When the budget is reached, the chunks
 * that are in memory go to one file, each as a block; the last few that were read back are kept. */
#include "veddb-storaged/pipeline/window_store.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/mem.h"

#define CHUNK_BYTES     ((size_t)32 * 1024) /* or one document: always one block of a run */
#define CHUNK_DOCUMENTS 256
#define SLOTS           6

typedef struct {
    uint64_t first;
    uint32_t count;
    uint32_t len, cap;
    uint8_t *bytes; /* NULL: on disk */
    uint64_t offset;
} chunk_t;

/* A chunk that was read back. */
typedef struct {
    uint64_t first; /* of the chunk; UINT64_MAX: empty */
    uint64_t used;
    uint8_t *bytes;
    size_t cap;
    vd_slice_t records;
} slot_t;

/* Where the last look into a chunk ended: reading goes forward mostly. */
typedef struct {
    uint64_t first, position;
    uint32_t at;
} finger_t;

struct stor_store {
    stor_work_t *work;
    chunk_t *chunks;
    uint32_t start, count, cap; /* of chunks: those before start are dropped */
    uint64_t end;
    size_t bytes, held;
    stor_run_t *run;
    slot_t slots[SLOTS];
    finger_t fingers[SLOTS];
    uint64_t clock;
    stor_spilled_t written;
};

stor_store_t *stor_store_create(stor_work_t *work)
{
    stor_store_t *store = vd_xalloc(sizeof *store);
    store->work = work;
    stor_store_reset(store);
    return store;
}

void stor_store_reset(stor_store_t *store)
{
    for (uint32_t i = store->start; i < store->count; i++)
        vd_free(store->chunks[i].bytes);
    store->start = store->count = 0;
    store->end = 0;
    store->bytes = 0;
    stor_run_destroy(&store->run);
    for (int i = 0; i < SLOTS; i++) {
        store->slots[i].first = UINT64_MAX;
        store->fingers[i].first = UINT64_MAX;
    }
    stor_work_release(store->work, &store->held);
}

void stor_store_destroy(stor_store_t **store_p)
{
    stor_store_t *store = *store_p;
    if (store == NULL)
        return;
    stor_store_reset(store);
    for (int i = 0; i < SLOTS; i++)
        vd_free(store->slots[i].bytes);
    vd_free(store->chunks);
    vd_free(store);
    *store_p = NULL;
}

/* ---- to disk ---- */

static int write_chunks(stor_store_t *store, stor_request_t *request, vd_error_t *err)
{
    if (store->work->before_disk != NULL)
        store->work->before_disk(store->work->before_disk_context);
    int rc = store->run != NULL ? VD_OK : stor_run_create(store->work, &store->run, err);
    for (uint32_t i = store->start; rc == VD_OK && i < store->count; i++) {
        chunk_t *chunk = &store->chunks[i];
        vd_slice_t records = vd_slice(chunk->bytes, chunk->len), record;
        if (chunk->bytes == NULL)
            continue;
        rc = stor_run_flush(store->run, &chunk->offset, err);
        while (rc == VD_OK && stor_run_cut(&records, &record))
            rc = stor_run_put(store->run, &record, 1, err);
        if (rc == VD_OK)
            rc = stor_run_flush(store->run, NULL, err);
        if (rc == VD_OK) {
            vd_free(chunk->bytes);
            chunk->bytes = NULL;
        }
    }
    if (rc != VD_OK)
        return rc;
    store->bytes = 0;
    stor_work_release(store->work, &store->held);
    request->used_disk = true;
    return VD_OK;
}

static int spill(stor_store_t *store, stor_request_t *request, vd_error_t *err)
{
    stor_spilled_t before = store->work->spilled;
    int rc = write_chunks(store, request, err);
    stor_spilled_add(&store->written, store->work, before);
    return rc;
}

static chunk_t *chunk_for(stor_store_t *store, uint32_t len)
{
    chunk_t *last = store->count > store->start ? &store->chunks[store->count - 1] : NULL;
    if (last != NULL && last->bytes != NULL && last->count < CHUNK_DOCUMENTS &&
        last->len + len <= last->cap)
        return last;
    if (store->count == store->cap && store->start > store->cap / 2) {
        store->count -= store->start;
        memmove(store->chunks, store->chunks + store->start, store->count * sizeof(chunk_t));
        store->start = 0;
    }
    if (store->count == store->cap) {
        store->cap = store->cap == 0 ? 16 : store->cap * 2;
        store->chunks = vd_xrealloc(store->chunks, store->cap * sizeof(chunk_t));
    }
    uint32_t cap = len > CHUNK_BYTES ? len : (uint32_t)CHUNK_BYTES;
    uint8_t *bytes = vd_try_alloc(cap);
    if (bytes == NULL)
        return NULL;
    last = &store->chunks[store->count++];
    *last = (chunk_t){.first = store->end, .cap = cap, .bytes = bytes};
    store->bytes += cap;
    return last;
}

int stor_store_append(stor_store_t *store, stor_request_t *request, vd_bson_t document,
                      vd_error_t *err)
{
    chunk_t *chunk = chunk_for(store, document.len + 4);
    if (chunk == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory for a window");
    vd_put_u32(chunk->bytes + chunk->len, document.len);
    memcpy(chunk->bytes + chunk->len + 4, document.data, document.len);
    chunk->len += 4 + document.len;
    chunk->count++;
    store->end++;
    int rc = stor_work_charge(store->work, &store->held, store->bytes, "$setWindowFields", err);
    return rc == VD_ERR_AGAIN ? spill(store, request, err) : rc;
}

/* ---- reading ---- */

static chunk_t *chunk_of(stor_store_t *store, uint64_t position)
{
    uint32_t low = store->start, high = store->count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (store->chunks[middle].first <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return &store->chunks[low];
}

static int read_back(stor_store_t *store, const chunk_t *chunk, slot_t **ret_slot, vd_error_t *err)
{
    slot_t *oldest = &store->slots[0];
    for (int i = 0; i < SLOTS; i++) {
        slot_t *slot = &store->slots[i];
        if (slot->first == chunk->first) {
            slot->used = ++store->clock;
            *ret_slot = slot;
            return VD_OK;
        }
        if (slot->first == UINT64_MAX ? oldest->first != UINT64_MAX
                                      : oldest->first != UINT64_MAX && slot->used < oldest->used)
            oldest = slot;
    }
    oldest->first = UINT64_MAX;
    int rc = stor_run_block(store->run, chunk->offset, &oldest->bytes, &oldest->cap,
                            &oldest->records, err);
    if (rc != VD_OK)
        return rc;
    oldest->first = chunk->first;
    oldest->used = ++store->clock;
    *ret_slot = oldest;
    return VD_OK;
}

int stor_store_get(stor_store_t *store, uint64_t position, vd_bson_t *ret_document, vd_error_t *err)
{
    VD_ASSERT(position < store->end && store->count > store->start);
    const chunk_t *chunk = chunk_of(store, position);
    const uint8_t *bytes = chunk->bytes;
    VD_ASSERT(position >= chunk->first && position < chunk->first + chunk->count);
    if (bytes == NULL) {
        slot_t *slot;
        int rc = read_back(store, chunk, &slot, err);
        if (rc != VD_OK)
            return rc;
        bytes = slot->records.data;
    }
    finger_t *finger = &store->fingers[chunk->first / 7 % SLOTS];
    if (finger->first != chunk->first || finger->position > position)
        *finger = (finger_t){.first = chunk->first, .position = chunk->first};
    while (finger->position < position) {
        finger->at += 4 + vd_get_u32(bytes + finger->at);
        finger->position++;
    }
    *ret_document = (vd_bson_t){bytes + finger->at + 4, vd_get_u32(bytes + finger->at)};
    return VD_OK;
}

void stor_store_drop_before(stor_store_t *store, uint64_t position)
{
    while (store->start < store->count) {
        chunk_t *chunk = &store->chunks[store->start];
        if (chunk->first + chunk->count > position || store->start + 1 == store->count)
            break; /* the last one is written to */
        if (chunk->bytes != NULL)
            store->bytes -= chunk->cap;
        vd_free(chunk->bytes);
        store->start++;
    }
    /* falling is never refused */
    (void)!stor_work_charge(store->work, &store->held, store->bytes, "$setWindowFields", NULL);
}

uint64_t stor_store_count(const stor_store_t *store)
{
    return store->end;
}

stor_spilled_t stor_store_spilled(const stor_store_t *store)
{
    return store->written;
}
