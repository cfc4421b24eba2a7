/* veddb-storaged/index/entry_sort.c — see sort.h.
 *
 * An entry in memory: u32 length of the fields, u32 length of the key of the _id, u32 length of the
 * rest, the three. In a run: key = fields, key of the _id; value = u32 length of the fields, rest.
 * The rest: exact u8, type bits. */
#include "veddb-storaged/index/entry_sort.h"

#include "libcommon/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HEAD        12
#define BLOCK_BYTES (1u << 20)
#define FETCH_MAX   256          /* entries of a run that are read in one transaction */
#define FETCH_BYTES (256 * 1024) /* as many bytes at least */
#define NAME_ROOM   48

typedef struct block {
    struct block *next;
    size_t used, size;
    uint8_t bytes[];
} block_t;

typedef struct {
    uint64_t prefix; /* first bytes of the key, big-endian: decides nearly always */
    const uint8_t *entry;
} ref_t;

/* A table that was filled; read in pieces. */
typedef struct {
    char table[NAME_ROOM];
    vd_arena_t *arena;
    vd_slice_t *keys, *values;
    uint32_t at, count;
    vd_slice_t last;
    uint8_t *last_bytes;
    size_t last_room;
    bool ended;
} run_t;

struct stor_sort {
    stor_engine_t *engine;
    char name[32];
    size_t budget, used;
    block_t *blocks;
    ref_t *refs;
    size_t ref_count, ref_cap, ref_at;
    uint64_t count;
    run_t *runs[STOR_SORT_RUNS_MAX];
    uint32_t run_count;
    uint32_t *heap; /* runs by their next key */
    uint32_t heap_count;
    stor_session_t *session;
};

/* ---- memory ---- */

static vd_slice_t entry_key(const uint8_t *entry)
{
    return vd_slice(entry + HEAD, (size_t)vd_get_u32(entry) + vd_get_u32(entry + 4));
}

static uint64_t prefix_of(vd_slice_t key)
{
    uint8_t bytes[8] = {0};
    memcpy(bytes, key.data, key.len < 8 ? key.len : 8);
    return vd_get_u64_be(bytes);
}

static int ref_compare(const void *a, const void *b)
{
    const ref_t *x = a, *y = b;
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix ? -1 : 1;
    return vd_slice_compare(entry_key(x->entry), entry_key(y->entry));
}

static void refs_sort(stor_entry_sort_t *sort)
{
    if (sort->ref_count > 1)
        qsort(sort->refs, sort->ref_count, sizeof *sort->refs, ref_compare);
}

static uint8_t *room(stor_entry_sort_t *sort, size_t len)
{
    block_t *block = sort->blocks;
    if (block == NULL || block->size - block->used < len) {
        size_t size = len > BLOCK_BYTES ? len : BLOCK_BYTES;
        block = vd_xalloc(sizeof *block + size);
        block->size = size;
        block->next = sort->blocks;
        sort->blocks = block;
    }
    uint8_t *at = block->bytes + block->used;
    block->used += len;
    return at;
}

static void memory_clear(stor_entry_sort_t *sort)
{
    while (sort->blocks != NULL) {
        block_t *block = sort->blocks;
        sort->blocks = block->next;
        vd_free(block);
    }
    sort->ref_count = 0;
    sort->used = 0;
}

/* ---- life ---- */

stor_entry_sort_t *stor_entry_sort_create(stor_engine_t *engine, const char *name,
                                          size_t budget_bytes)
{
    stor_entry_sort_t *sort = vd_xalloc(sizeof *sort);
    sort->engine = engine;
    sort->budget = budget_bytes;
    (void)snprintf(sort->name, sizeof sort->name, "%s", name);
    return sort;
}

static void run_destroy(stor_entry_sort_t *sort, run_t *run)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_engine_table_retire(sort->engine, run->table);
    /* One that is busy (a checkpoint has it) goes at the next start. */
    for (int i = 0;
         i < 100 && stor_engine_table_drop(sort->engine, run->table, &err) == VD_ERR_OBJECT_IS_BUSY;
         i++) {
        struct timespec pause = {.tv_nsec = 5000000};
        (void)nanosleep(&pause, NULL); /* waking early is fine */
        vd_error_clear(&err);
    }
    vd_arena_destroy(&run->arena);
    vd_free(run->last_bytes);
    vd_free(run);
}

void stor_entry_sort_destroy(stor_entry_sort_t **sort_p)
{
    stor_entry_sort_t *sort = *sort_p;
    if (sort == NULL)
        return;
    memory_clear(sort);
    stor_session_close(&sort->session);
    for (uint32_t i = 0; i < sort->run_count; i++)
        run_destroy(sort, sort->runs[i]);
    vd_free(sort->refs);
    vd_free(sort->heap);
    vd_free(sort);
    *sort_p = NULL;
}

/* ---- runs ---- */

static int run_add(stor_bulk_t *bulk, const uint8_t *entry, vd_buf_t *value, vd_error_t *err)
{
    vd_slice_t key = entry_key(entry);
    vd_buf_clear(value);
    int rc = vd_buf_append(value, entry, 4); /* length of the fields */
    if (rc == VD_OK)
        rc = vd_buf_append(value, key.data + key.len, vd_get_u32(entry + 8));
    if (rc != VD_OK)
        return vd_error_set(err, rc, "an entry of an index is too long");
    return stor_bulk_add(bulk, key, vd_buf_slice(value), err);
}

/* What is in memory becomes a run. */
static int run_write(stor_entry_sort_t *sort, vd_error_t *err)
{
    stor_bulk_t *bulk = NULL;
    vd_buf_t value;
    if (sort->run_count == STOR_SORT_RUNS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "an index is too large to be sorted");
    run_t *run = vd_xalloc(sizeof *run);
    (void)snprintf(run->table, sizeof run->table, "%s-%u", sort->name, sort->run_count);
    run->arena = vd_arena_create();
    int rc = stor_engine_table_create(sort->engine, run->table, false, err);
    if (rc != VD_OK) {
        vd_arena_destroy(&run->arena);
        vd_free(run);
        return rc;
    }
    sort->runs[sort->run_count++] = run;
    vd_buf_init(&value, 64 << 20);
    refs_sort(sort);
    rc = stor_bulk_open(sort->engine, run->table, &bulk, err);
    for (size_t i = 0; rc == VD_OK && i < sort->ref_count; i++)
        rc = run_add(bulk, sort->refs[i].entry, &value, err);
    int closed = stor_bulk_close(&bulk, rc == VD_OK ? err : NULL);
    vd_buf_done(&value);
    memory_clear(sort);
    return rc == VD_OK ? closed : rc;
}

static void fetched(run_t *run, vd_slice_t key, vd_slice_t value)
{
    run->keys[run->count] = vd_arena_copy_slice(run->arena, key);
    run->values[run->count++] = vd_arena_copy_slice(run->arena, value);
}

static void last_keep(run_t *run, vd_slice_t key)
{
    if (key.len > run->last_room) {
        vd_free(run->last_bytes);
        run->last_room = key.len + 64;
        run->last_bytes = vd_xalloc(run->last_room);
    }
    memcpy(run->last_bytes, key.data, key.len);
    run->last = vd_slice(run->last_bytes, key.len);
}

/* Some more entries of it, in a transaction of their own. */
static int run_fetch(stor_entry_sort_t *sort, run_t *run, vd_error_t *err)
{
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    vd_error_t step = VD_ERROR_INIT;
    if (run->count > 0)
        last_keep(run, run->keys[run->count - 1]);
    vd_arena_reset(run->arena);
    run->at = run->count = 0;
    run->keys = VD_ARENA_ARRAY(run->arena, vd_slice_t, FETCH_MAX);
    run->values = VD_ARENA_ARRAY(run->arena, vd_slice_t, FETCH_MAX);
    if (run->ended)
        return VD_OK;
    int rc = stor_txn_begin(sort->session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(sort->session, run->table, &cursor, &step);
    if (rc == VD_OK)
        rc = run->last.len == 0 ? stor_cursor_next(cursor, true, &key, &value, &step)
                                : stor_cursor_seek(cursor, run->last, true, &key, &value, &step);
    if (rc == VD_OK && run->last.len > 0)
        rc = stor_cursor_next(cursor, true, &key, &value, &step); /* behind the last one */
    while (rc == VD_OK) {
        fetched(run, key, value);
        if (run->count == FETCH_MAX || vd_arena_used(run->arena) > FETCH_BYTES)
            break;
        rc = stor_cursor_next(cursor, true, &key, &value, &step);
    }
    stor_txn_rollback(sort->session); /* it only read */
    run->ended = rc == VD_ERR_NOT_FOUND;
    if (rc == VD_OK || run->ended)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static bool before(const stor_entry_sort_t *sort, uint32_t a, uint32_t b)
{
    const run_t *x = sort->runs[a], *y = sort->runs[b];
    return vd_slice_compare(x->keys[x->at], y->keys[y->at]) < 0;
}

static void heap_sink(stor_entry_sort_t *sort, uint32_t at)
{
    for (;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < sort->heap_count && before(sort, sort->heap[child], sort->heap[least]))
                least = child;
        if (least == at)
            return;
        uint32_t swap = sort->heap[at];
        sort->heap[at] = sort->heap[least];
        sort->heap[least] = swap;
        at = least;
    }
}

/* ---- in and out ---- */

int stor_entry_sort_add(stor_entry_sort_t *sort, const stor_index_key_t *key, vd_slice_t id_key,
                        vd_error_t *err)
{
    size_t rest = 1 + key->type_bits.len, len = HEAD + key->key.len + id_key.len + rest;
    if (sort->used + len + sizeof(ref_t) > sort->budget && sort->ref_count > 0) {
        int rc = run_write(sort, err);
        if (rc != VD_OK)
            return rc;
    }
    if (sort->ref_count == sort->ref_cap) {
        size_t cap = sort->ref_cap == 0 ? 1024 : sort->ref_cap * 2;
        ref_t *grown = vd_xalloc(cap * sizeof *grown);
        if (sort->ref_count > 0)
            memcpy(grown, sort->refs, sort->ref_count * sizeof *grown);
        vd_free(sort->refs);
        sort->refs = grown;
        sort->ref_cap = cap;
    }
    uint8_t *entry = room(sort, len), *at = entry + HEAD;
    vd_put_u32(entry, (uint32_t)key->key.len);
    vd_put_u32(entry + 4, (uint32_t)id_key.len);
    vd_put_u32(entry + 8, (uint32_t)rest);
    memcpy(at, key->key.data, key->key.len);
    at += key->key.len;
    memcpy(at, id_key.data, id_key.len);
    at += id_key.len;
    *at = key->exact;
    if (key->type_bits.len > 0)
        memcpy(at + 1, key->type_bits.data, key->type_bits.len);
    sort->refs[sort->ref_count++] = (ref_t){prefix_of(entry_key(entry)), entry};
    sort->used += len + sizeof(ref_t);
    sort->count++;
    return VD_OK;
}

uint64_t stor_entry_sort_count(const stor_entry_sort_t *sort)
{
    return sort->count;
}

int stor_entry_sort_finish(stor_entry_sort_t *sort, vd_error_t *err)
{
    int rc = VD_OK;
    if (sort->run_count == 0) {
        refs_sort(sort);
        return VD_OK;
    }
    if (sort->ref_count > 0)
        rc = run_write(sort, err);
    if (rc == VD_OK)
        rc = stor_session_open(sort->engine, &sort->session, err);
    sort->heap = vd_xalloc(sort->run_count * sizeof *sort->heap);
    for (uint32_t i = 0; rc == VD_OK && i < sort->run_count; i++) {
        rc = run_fetch(sort, sort->runs[i], err);
        if (rc == VD_OK && sort->runs[i]->count > 0)
            sort->heap[sort->heap_count++] = i;
    }
    for (uint32_t i = sort->heap_count; rc == VD_OK && i-- > 0;)
        heap_sink(sort, i);
    return rc;
}

static int run_next(stor_entry_sort_t *sort, stor_sorted_entry_t *ret_entry, vd_error_t *err)
{
    /* The one given last is passed over only now: it is borrowed until this call. */
    if (sort->ref_at > 0 && sort->heap_count > 0) {
        run_t *run = sort->runs[sort->heap[0]];
        int rc = VD_OK;
        if (++run->at == run->count)
            rc = run_fetch(sort, run, err);
        if (rc != VD_OK)
            return rc;
        if (run->count == 0)
            sort->heap[0] = sort->heap[--sort->heap_count];
        heap_sink(sort, 0);
    }
    if (sort->heap_count == 0)
        return VD_ERR_NOT_FOUND;
    sort->ref_at = 1;
    const run_t *run = sort->runs[sort->heap[0]];
    vd_slice_t key = run->keys[run->at], value = run->values[run->at];
    size_t fields = value.len < 5 ? SIZE_MAX : vd_get_u32(value.data);
    if (fields > key.len)
        return vd_error_set(err, VD_ERR_CORRUPT, "an entry of a run is malformed");
    *ret_entry = (stor_sorted_entry_t){vd_slice(key.data, fields),
                                       vd_slice(key.data + fields, key.len - fields),
                                       vd_slice(value.data + 5, value.len - 5), value.data[4] != 0};
    return VD_OK;
}

int stor_entry_sort_next(stor_entry_sort_t *sort, stor_sorted_entry_t *ret_entry, vd_error_t *err)
{
    if (sort->run_count > 0)
        return run_next(sort, ret_entry, err);
    if (sort->ref_at == sort->ref_count)
        return VD_ERR_NOT_FOUND;
    const uint8_t *entry = sort->refs[sort->ref_at++].entry;
    size_t fields = vd_get_u32(entry), id = vd_get_u32(entry + 4), rest = vd_get_u32(entry + 8);
    const uint8_t *at = entry + HEAD;
    *ret_entry =
        (stor_sorted_entry_t){vd_slice(at, fields), vd_slice(at + fields, id),
                              vd_slice(at + fields + id + 1, rest - 1), at[fields + id] != 0};
    return VD_OK;
}
