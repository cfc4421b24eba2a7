/* veddb-gatewayd/cache.c — see cache.h. */
#include "veddb-gatewayd/cache.h"

#include "libcommon/base/list.h"
#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"
#include "proto/versions.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUCKETS_MIN     1024
#define PER_ENTRY_BYTES 48 /* of the allocator and the buckets */
#define ASKED_PLACES    (1u << 16)
#define WINDOW          2048u /* look-ups between two judgements */
#define WORTH_PART      3     /* less than one hit in so many is not worth it */

typedef struct entry {
    vd_node_t node; /* oldest first */
    struct entry *next;
    uint64_t hash, epoch, version;
    uint32_t slot, key_len, len;
    bool used;       /* since it was last passed over */
    uint8_t bytes[]; /* key, then the reply */
} entry_t;

typedef struct {
    uint8_t lsid[16];
    uint64_t told_ms; /* 0: nobody's */
} session_t;

struct gate_cache {
    gate_cache_options_t options;
    gate_cache_stats_t stats;
    const vdp_versions_t *versions; /* NULL: there is none */
    uint8_t boot_id[16];
    entry_t **buckets;
    size_t bucket_count, count;
    uint64_t bytes;
    vd_list_t entries;
    session_t *sessions;
    uint16_t *asked; /* marks of keys that were asked for and not kept */
    uint32_t window_asked, window_hits;
    bool resting; /* too few hits: only a sample of the keys is kept and looked for */
};

static void add(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

static void figures(gate_cache_t *cache)
{
    atomic_store_explicit(&cache->stats.entries, cache->count, memory_order_relaxed);
    atomic_store_explicit(&cache->stats.bytes, cache->bytes, memory_order_relaxed);
}

/* ---- the table of versions ---- */

static void unmap(gate_cache_t *cache)
{
    if (cache->versions != NULL)
        (void)munmap((void *)(uintptr_t)cache->versions, sizeof *cache->versions);
    cache->versions = NULL;
}

static const vdp_versions_t *map(const char *path, const uint8_t boot_id[16])
{
    struct stat st;
    void *mapped = MAP_FAILED;
    int fd = vd_files_open(path);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= (off_t)sizeof(vdp_versions_t))
        mapped = mmap(NULL, sizeof(vdp_versions_t), PROT_READ, MAP_SHARED, fd, 0);
    (void)close(fd); /* the mapping stays */
    if (mapped == MAP_FAILED)
        return NULL;
    const vdp_versions_t *versions = mapped;
    if (vdp_version_read(&versions->magic) == VDP_VERSIONS_MAGIC &&
        memcmp(versions->boot_id, boot_id, 16) == 0)
        return versions;
    (void)munmap(mapped, sizeof(vdp_versions_t));
    return NULL;
}

/* What a reply depends on is as it was. */
static bool is_true(const gate_cache_t *cache, uint64_t epoch, uint32_t slot, uint64_t version)
{
    return cache->versions != NULL && vdp_version_read(&cache->versions->epoch) == epoch &&
           vdp_version_read(&cache->versions->slots[slot]) == version &&
           !vdp_version_is_pending(epoch) && !vdp_version_is_pending(version);
}

/* ---- entries ---- */

static uint64_t size_of(const entry_t *entry)
{
    return sizeof *entry + entry->key_len + entry->len + PER_ENTRY_BYTES;
}

static entry_t **place_of(gate_cache_t *cache, uint64_t hash, const gate_cache_key_t *key)
{
    entry_t **p = &cache->buckets[hash & (cache->bucket_count - 1)];
    while (*p != NULL && ((*p)->hash != hash || (*p)->key_len != key->len ||
                          memcmp((*p)->bytes, key->bytes, key->len) != 0))
        p = &(*p)->next;
    return p;
}

static void drop(gate_cache_t *cache, entry_t **place)
{
    entry_t *entry = *place;
    *place = entry->next;
    vd_list_remove(&entry->node);
    cache->bytes -= size_of(entry);
    cache->count--;
    vd_free(entry);
}

static void drop_entry(gate_cache_t *cache, entry_t *entry)
{
    entry_t **p = &cache->buckets[entry->hash & (cache->bucket_count - 1)];
    while (*p != entry)
        p = &(*p)->next;
    drop(cache, p);
}

static void drop_all(gate_cache_t *cache)
{
    while (!vd_list_empty(&cache->entries))
        drop_entry(cache, VD_CONTAINER_OF(vd_list_first(&cache->entries), entry_t, node));
    figures(cache);
}

/* The one that was not used for longest, and what is worth nothing any more on the way. */
static void evict(gate_cache_t *cache, uint64_t bytes)
{
    while (cache->bytes + bytes > cache->options.bytes_max && !vd_list_empty(&cache->entries)) {
        entry_t *entry = VD_CONTAINER_OF(vd_list_first(&cache->entries), entry_t, node);
        if (entry->used && is_true(cache, entry->epoch, entry->slot, entry->version)) {
            entry->used = false;
            vd_list_remove(&entry->node);
            vd_list_push_back(&cache->entries, &entry->node);
            continue;
        }
        drop_entry(cache, entry);
        add(&cache->stats.evictions);
    }
}

static void grow(gate_cache_t *cache)
{
    size_t count = cache->bucket_count * 2;
    entry_t **buckets = vd_xalloc(count * sizeof *buckets);
    for (size_t i = 0; i < cache->bucket_count; i++) {
        entry_t *next;
        for (entry_t *entry = cache->buckets[i]; entry != NULL; entry = next) {
            entry_t **head = &buckets[entry->hash & (count - 1)];
            next = entry->next;
            entry->next = *head;
            *head = entry;
        }
    }
    vd_free(cache->buckets);
    cache->buckets = buckets;
    cache->bucket_count = count;
}

/* Who takes another's room has been asked for before, not long ago: what is read once, or in no
 * pattern, costs nothing then. */
static bool is_asked_again(gate_cache_t *cache, uint64_t hash)
{
    uint16_t mark = (uint16_t)(hash >> 48 | 1),
             *place = &cache->asked[hash >> 16 & (ASKED_PLACES - 1)];
    bool again = *place == mark;
    *place = mark;
    return again;
}

/* Reads that seldom hit cost more by the smaller batches to storage than they save: the cache rests
 * then, and watches one key in sixteen for better times. */
static bool is_left_out(const gate_cache_t *cache, uint64_t hash)
{
    return cache->resting && hash >> 60 != 0;
}

static void judge(gate_cache_t *cache, bool hit)
{
    cache->window_asked++;
    cache->window_hits += hit;
    if (cache->window_asked < WINDOW)
        return;
    cache->resting = cache->window_hits * WORTH_PART < cache->window_asked;
    cache->window_asked = cache->window_hits = 0;
}

/* ---- sessions ---- */

/* False: storage must hear of this session, and will by the request that is let through now. */
static bool session_is_told(gate_cache_t *cache, const uint8_t lsid[16], uint64_t now_ms)
{
    session_t *session = &cache->sessions[vd_hash(vd_slice(lsid, 16)) & (GATE_CACHE_SESSIONS - 1)];
    if (session->told_ms != 0 && memcmp(session->lsid, lsid, 16) == 0 &&
        now_ms - session->told_ms < cache->options.session_refresh_ms)
        return true;
    memcpy(session->lsid, lsid, 16);
    session->told_ms = now_ms;
    return false;
}

/* ---- what others call ---- */

gate_cache_t *gate_cache_create(const gate_cache_options_t *options)
{
    if (options->bytes_max == 0)
        return NULL;
    gate_cache_t *cache = vd_xalloc(sizeof *cache);
    cache->options = *options;
    cache->bucket_count = BUCKETS_MIN;
    cache->buckets = vd_xalloc(cache->bucket_count * sizeof *cache->buckets);
    cache->sessions = vd_xalloc(GATE_CACHE_SESSIONS * sizeof *cache->sessions);
    cache->asked = vd_xalloc(ASKED_PLACES * sizeof *cache->asked);
    vd_list_init(&cache->entries);
    return cache;
}

void gate_cache_destroy(gate_cache_t **cache_p)
{
    gate_cache_t *cache = *cache_p;
    if (cache == NULL)
        return;
    drop_all(cache);
    unmap(cache);
    vd_free(cache->buckets);
    vd_free(cache->sessions);
    vd_free(cache->asked);
    vd_free(cache);
    *cache_p = NULL;
}

void gate_cache_attach(gate_cache_t *cache, const uint8_t boot_id[16])
{
    if (cache == NULL ||
        (cache->versions != NULL && memcmp(cache->boot_id, boot_id, sizeof cache->boot_id) == 0))
        return;
    drop_all(cache);
    unmap(cache);
    memset(cache->sessions, 0, GATE_CACHE_SESSIONS * sizeof *cache->sessions);
    memcpy(cache->boot_id, boot_id, sizeof cache->boot_id);
    cache->versions = map(cache->options.versions_path, boot_id);
}

vd_slice_t gate_cache_find(gate_cache_t *cache, const gate_cache_question_t *question)
{
    if (cache == NULL || cache->versions == NULL || cache->count == 0)
        goto miss;
    /* Its privileges are as storage knows them; its session is known there; and we know that
     * storage is as far as it wants to see. */
    if (question->auth_epoch != vdp_version_read(&cache->versions->auth_epoch) ||
        question->key->after_cluster_time > question->newest)
        goto miss;
    uint64_t hash = vd_hash(vd_slice(question->key->bytes, question->key->len));
    if (is_left_out(cache, hash))
        goto miss;
    entry_t **place = place_of(cache, hash, question->key), *entry = *place;
    judge(cache, entry != NULL);
    if (entry == NULL)
        goto miss;
    if (!is_true(cache, entry->epoch, entry->slot, entry->version)) {
        drop(cache, place);
        figures(cache);
        add(&cache->stats.invalidations);
        goto miss;
    }
    if (question->lsid != NULL && !session_is_told(cache, question->lsid, question->now_ms))
        goto miss;
    entry->used = true;
    add(&cache->stats.hits);
    return vd_slice(entry->bytes + entry->key_len, entry->len);
miss:
    if (cache != NULL)
        add(&cache->stats.misses);
    return VD_SLICE_NULL;
}

bool gate_cache_wants(const gate_cache_t *cache)
{
    return cache != NULL && cache->versions != NULL;
}

void gate_cache_put(gate_cache_t *cache, const gate_cache_key_t *key,
                    const vdp_operation_reply_t *reply, vd_slice_t document)
{
    uint32_t slot = reply->version_slot - 1; /* 0 wraps: refused */
    if (cache == NULL || slot >= VDP_VERSIONS_SLOTS || document.len > GATE_CACHE_REPLY_MAX_BYTES ||
        !is_true(cache, reply->version_epoch, slot, reply->version))
        return;
    uint64_t bytes = sizeof(entry_t) + key->len + document.len + PER_ENTRY_BYTES;
    if (bytes > cache->options.bytes_max)
        return;
    uint64_t hash = vd_hash(vd_slice(key->bytes, key->len));
    if (is_left_out(cache, hash))
        return;
    entry_t **place = place_of(cache, hash, key);
    if (*place != NULL)
        drop(cache, place);
    if (cache->bytes + bytes > cache->options.bytes_max && !is_asked_again(cache, hash))
        return;
    evict(cache, bytes);
    if (cache->count >= cache->bucket_count)
        grow(cache);
    entry_t *entry = vd_try_alloc(sizeof *entry + key->len + document.len);
    if (entry == NULL)
        return;
    *entry = (entry_t){.hash = hash,
                       .epoch = reply->version_epoch,
                       .version = reply->version,
                       .slot = slot,
                       .key_len = key->len,
                       .len = (uint32_t)document.len};
    memcpy(entry->bytes, key->bytes, key->len);
    memcpy(entry->bytes + key->len, document.data, document.len);
    place = &cache->buckets[hash & (cache->bucket_count - 1)];
    entry->next = *place;
    *place = entry;
    vd_list_push_back(&cache->entries, &entry->node);
    cache->bytes += size_of(entry);
    cache->count++;
    figures(cache);
}

const gate_cache_stats_t *gate_cache_stats(const gate_cache_t *cache)
{
    return &cache->stats;
}
