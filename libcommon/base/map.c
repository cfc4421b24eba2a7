/* libcommon/base/map.c — open addressing with linear probing; see map.h.
 *
 * A removed entry leaves a tombstone, so that a walk may remove what it stands on; tombstones go at
 * the next growth. */
#include "libcommon/base/map.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct {
    void *value;
    size_t key_len;
    uint8_t key[];
} entry_t;

typedef struct {
    uint64_t hash;
    entry_t *entry; /* NULL: never used; &tombstone: removed */
} slot_t;

struct vd_map {
    slot_t *slots;
    size_t slots_count; /* a power of two, or 0 */
    size_t count;       /* live entries */
    size_t filled;      /* live entries and tombstones */
    size_t entries_max;
};

static entry_t tombstone;

static pthread_once_t seed_once = PTHREAD_ONCE_INIT;
static uint64_t seed[2];

static void seed_draw(void)
{
    vd_rand_secret(seed, sizeof seed);
}

#define ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIP_ROUND                                                                                  \
    do {                                                                                           \
        v0 += v1, v1 = ROTATE(v1, 13), v1 ^= v0, v0 = ROTATE(v0, 32);                              \
        v2 += v3, v3 = ROTATE(v3, 16), v3 ^= v2;                                                   \
        v0 += v3, v3 = ROTATE(v3, 21), v3 ^= v0;                                                   \
        v2 += v1, v1 = ROTATE(v1, 17), v1 ^= v2, v2 = ROTATE(v2, 32);                              \
    } while (0)

/* SipHash-1-3. */
uint64_t vd_hash(vd_slice_t key)
{
    (void)pthread_once(&seed_once, seed_draw); /* fails only on misuse */
    uint64_t v0 = seed[0] ^ 0x736f6d6570736575ULL, v1 = seed[1] ^ 0x646f72616e646f6dULL;
    uint64_t v2 = seed[0] ^ 0x6c7967656e657261ULL, v3 = seed[1] ^ 0x7465646279746573ULL;
    const uint8_t *p = key.data;
    size_t left = key.len;
    for (; left >= 8; p += 8, left -= 8) {
        uint64_t m = vd_get_u64(p);
        v3 ^= m;
        SIP_ROUND;
        v0 ^= m;
    }
    uint64_t last = (uint64_t)key.len << 56;
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v3 ^= last;
    SIP_ROUND;
    v0 ^= last;
    v2 ^= 0xff;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

vd_map_t *vd_map_create(size_t entries_max)
{
    vd_map_t *map = vd_xalloc(sizeof *map);
    map->entries_max = entries_max;
    return map;
}

static bool is_live(const slot_t *slot)
{
    return slot->entry != NULL && slot->entry != &tombstone;
}

void vd_map_destroy(vd_map_t **map_p)
{
    VD_ASSERT(map_p != NULL);
    vd_map_t *map = *map_p;
    if (map == NULL)
        return;
    for (size_t i = 0; i < map->slots_count; i++)
        if (is_live(&map->slots[i]))
            vd_free(map->slots[i].entry);
    vd_free(map->slots);
    vd_free(map);
    *map_p = NULL;
}

size_t vd_map_count(const vd_map_t *map)
{
    return map->count;
}

static slot_t *find(const vd_map_t *map, vd_slice_t key, uint64_t hash)
{
    if (map->slots_count == 0)
        return NULL;
    size_t mask = map->slots_count - 1;
    for (size_t i = hash & mask; map->slots[i].entry != NULL; i = (i + 1) & mask) {
        slot_t *slot = &map->slots[i];
        if (slot->hash == hash && slot->entry != &tombstone &&
            vd_slice_equal(vd_slice(slot->entry->key, slot->entry->key_len), key))
            return slot;
    }
    return NULL;
}

void *vd_map_get(const vd_map_t *map, vd_slice_t key)
{
    const slot_t *slot = map->count == 0 ? NULL : find(map, key, vd_hash(key));
    return slot == NULL ? NULL : slot->entry->value;
}

static int grow(vd_map_t *map)
{
    /* At most half full after it; also how tombstones leave. */
    size_t count = 16;
    while (count < (map->count + 1) * 2)
        count *= 2;
    slot_t *slots = vd_try_alloc(count * sizeof *slots);
    if (slots == NULL)
        return VD_ERR_NO_MEMORY;
    for (size_t i = 0; i < map->slots_count; i++) {
        if (!is_live(&map->slots[i]))
            continue;
        size_t at = map->slots[i].hash & (count - 1);
        while (slots[at].entry != NULL)
            at = (at + 1) & (count - 1);
        slots[at] = map->slots[i];
    }
    vd_free(map->slots);
    map->slots = slots;
    map->slots_count = count;
    map->filled = map->count;
    return VD_OK;
}

int vd_map_put(vd_map_t *map, vd_slice_t key, void *value, void **ret_old)
{
    uint64_t hash = vd_hash(key);
    slot_t *slot = find(map, key, hash);
    if (slot != NULL) {
        if (ret_old != NULL)
            *ret_old = slot->entry->value;
        slot->entry->value = value;
        return VD_OK;
    }
    if (map->count >= map->entries_max)
        return VD_ERR_FULL;
    if ((map->filled + 1) * 4 > map->slots_count * 3) {
        int rc = grow(map);
        if (rc != VD_OK)
            return rc;
    }
    entry_t *entry = malloc(sizeof *entry + key.len);
    if (entry == NULL)
        return VD_ERR_NO_MEMORY;
    entry->value = value;
    entry->key_len = key.len;
    if (key.len != 0)
        memcpy(entry->key, key.data, key.len);
    size_t mask = map->slots_count - 1, at = hash & mask;
    while (is_live(&map->slots[at]))
        at = (at + 1) & mask;
    if (map->slots[at].entry == NULL)
        map->filled++;
    map->slots[at] = (slot_t){hash, entry};
    map->count++;
    if (ret_old != NULL)
        *ret_old = NULL;
    return VD_OK;
}

void *vd_map_remove(vd_map_t *map, vd_slice_t key)
{
    slot_t *slot = find(map, key, vd_hash(key));
    if (slot == NULL)
        return NULL;
    void *value = slot->entry->value;
    vd_free(slot->entry);
    slot->entry = &tombstone;
    map->count--;
    return value;
}

bool vd_map_next(const vd_map_t *map, size_t *position, vd_slice_t *ret_key, void **ret_value)
{
    for (; *position < map->slots_count; (*position)++) {
        const slot_t *slot = &map->slots[*position];
        if (!is_live(slot))
            continue;
        (*position)++;
        if (ret_key != NULL)
            *ret_key = vd_slice(slot->entry->key, slot->entry->key_len);
        if (ret_value != NULL)
            *ret_value = slot->entry->value;
        return true;
    }
    return false;
}
