/* veddb-storaged/exec/seen.c — see seen.h: open addressing over keys that lie one behind another.
 */
#include "veddb-storaged/exec/seen.h"

#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"

typedef struct {
    uint32_t hash, len;
    uint64_t at; /* in bytes; len 0: empty */
} slot_t;

struct stor_seen {
    slot_t *slots;
    size_t slot_count, count;
    uint8_t *bytes;
    size_t len, cap;
};

stor_seen_t *stor_seen_create(void)
{
    stor_seen_t *seen = vd_xalloc(sizeof *seen);
    seen->slot_count = 64;
    seen->slots = vd_xalloc(seen->slot_count * sizeof *seen->slots);
    return seen;
}

void stor_seen_destroy(stor_seen_t **seen_p)
{
    stor_seen_t *seen = *seen_p;
    if (seen == NULL)
        return;
    vd_free(seen->slots);
    vd_free(seen->bytes);
    vd_free(seen);
    *seen_p = NULL;
}

static uint32_t hash_of(vd_slice_t key)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < key.len; i++)
        hash = (hash ^ key.data[i]) * 0x100000001b3ull;
    return (uint32_t)(hash ^ hash >> 32);
}

static void grow(stor_seen_t *seen)
{
    size_t count = seen->slot_count * 2;
    slot_t *slots = vd_xalloc(count * sizeof *slots);
    for (size_t i = 0; i < seen->slot_count; i++) {
        if (seen->slots[i].len == 0)
            continue;
        size_t at = seen->slots[i].hash & (count - 1);
        while (slots[at].len != 0)
            at = (at + 1) & (count - 1);
        slots[at] = seen->slots[i];
    }
    vd_free(seen->slots);
    seen->slots = slots;
    seen->slot_count = count;
}

int stor_seen_add(stor_seen_t *seen, vd_slice_t key, bool *ret_new, vd_error_t *err)
{
    VD_ASSERT(key.len > 0 && key.len <= UINT32_MAX);
    uint32_t hash = hash_of(key);
    size_t at = hash & (seen->slot_count - 1);
    for (; seen->slots[at].len != 0; at = (at + 1) & (seen->slot_count - 1)) {
        const slot_t *slot = &seen->slots[at];
        if (slot->hash == hash && slot->len == key.len &&
            memcmp(seen->bytes + slot->at, key.data, key.len) == 0) {
            *ret_new = false;
            return VD_OK;
        }
    }
    if (seen->len + key.len + seen->slot_count * sizeof *seen->slots > VD_QUERY_MEMORY_MAX_BYTES)
        return vd_error_set(err, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE,
                            "the query has seen more documents than it may remember (%d bytes)",
                            VD_QUERY_MEMORY_MAX_BYTES);
    if (seen->len + key.len > seen->cap) {
        seen->cap = (seen->len + key.len) * 2;
        seen->bytes = vd_xrealloc(seen->bytes, seen->cap);
    }
    memcpy(seen->bytes + seen->len, key.data, key.len);
    seen->slots[at] = (slot_t){hash, (uint32_t)key.len, seen->len};
    seen->len += key.len;
    seen->count++;
    if (seen->count * 2 > seen->slot_count)
        grow(seen);
    *ret_new = true;
    return VD_OK;
}
