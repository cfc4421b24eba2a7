/* libcommon/runtime/secret_heap.c — see secret_heap.h.
 *
 * One range of addresses, made usable from its beginning on. It is cut into units of 16 KB: a unit
 * is free, holds slots of one size, or belongs to one larger allocation. What stands where is noted
 * outside of the range, in one bit per slot, so that nothing that is written past a slot can
 * mislead us, and a pointer freed twice is seen.
 *
 * Locks: one per size, then the one of the units. */
#include "libcommon/runtime/secret_heap.h"
#include "libcommon/base/assert.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define UNIT_BYTES  16384u
#define UNITS_MAX   (VD_SECRET_HEAP_MAX_BYTES / UNIT_BYTES)
#define GROW_UNITS  16u
#define SLOT_MIN    32u
#define SLOT_MAX    8192u
#define SLOT_WORDS  (UNIT_BYTES / SLOT_MIN / 64)
#define GRAIN       16u    /* sizes are multiples of it, and so aligned */
#define GUARD_BYTES 65536u /* whole pages, whatever their size */
#define NO_UNIT     UINT32_MAX

static const uint16_t slot_bytes[] = {32,  48,  64,   96,   128,  192,  256,  384,
                                      512, 768, 1024, 1360, 2048, 2720, 5456, SLOT_MAX};
#define SIZES VD_COUNT_OF(slot_bytes)

enum { UNIT_FREE, UNIT_LARGE, UNIT_LARGE_REST, UNIT_SLOTS /* + index into slot_bytes */ };

typedef struct {
    uint8_t kind;
    uint16_t used;           /* slots */
    uint32_t previous, next; /* of those of this size that have a free slot */
    uint32_t units;          /* of a large one, at its first */
    uint64_t taken[SLOT_WORDS];
} unit_t;

typedef struct {
    pthread_mutex_t lock;
    uint32_t first; /* with a free slot; NO_UNIT: none */
} size_class_t;

static struct {
    uint8_t *base; /* NULL: not started */
    bool all;
    pthread_mutex_t lock; /* kinds and units of units that are free or large; held */
    uint32_t held;        /* units that are usable */
    uint32_t free_hint;   /* none below is free */
    unit_t units[UNITS_MAX];
    size_class_t classes[SIZES];
    uint8_t class_of[SLOT_MAX / GRAIN + 1];
    atomic_uint_fast64_t used_bytes, held_bytes, unlocked_bytes;
} heap = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local unsigned scopes;

/* ---- units ---- */

/* Under the lock. */
static bool grow(uint32_t count)
{
    uint32_t more = (count + GROW_UNITS - 1) / GROW_UNITS * GROW_UNITS;
    if (more > UNITS_MAX - heap.held)
        return false;
    uint8_t *at = heap.base + (size_t)heap.held * UNIT_BYTES;
    size_t len = (size_t)more * UNIT_BYTES;
    if (mprotect(at, len, PROT_READ | PROT_WRITE) != 0)
        return false;
    if (mlock(at, len) != 0)
        atomic_fetch_add(&heap.unlocked_bytes, len);
    atomic_fetch_add(&heap.held_bytes, len);
    heap.held += more;
    return true;
}

/* Under the lock: the first of `count` free units in a row. */
static uint32_t find_free(uint32_t count)
{
    uint32_t run = 0;
    for (uint32_t i = heap.free_hint; i < heap.held; i++) {
        if (heap.units[i].kind != UNIT_FREE)
            run = 0;
        else if (++run == count)
            return i + 1 - count;
    }
    return NO_UNIT;
}

static uint32_t units_take(uint32_t count, uint8_t kind)
{
    (void)pthread_mutex_lock(&heap.lock);
    uint32_t first = find_free(count);
    if (first == NO_UNIT && grow(count))
        first = find_free(count);
    if (first != NO_UNIT) {
        for (uint32_t i = first; i < first + count; i++)
            heap.units[i].kind = i == first ? kind : UNIT_LARGE_REST;
        heap.units[first].units = count;
        if (first == heap.free_hint)
            heap.free_hint = first + count;
    }
    (void)pthread_mutex_unlock(&heap.lock);
    return first;
}

static void units_give(uint32_t first)
{
    (void)pthread_mutex_lock(&heap.lock);
    for (uint32_t i = first; i < first + heap.units[first].units; i++)
        heap.units[i].kind = UNIT_FREE;
    if (first < heap.free_hint)
        heap.free_hint = first;
    (void)pthread_mutex_unlock(&heap.lock);
}

/* ---- slots ---- */

static void class_add(size_class_t *class, uint32_t unit)
{
    heap.units[unit].previous = NO_UNIT;
    heap.units[unit].next = class->first;
    if (class->first != NO_UNIT)
        heap.units[class->first].previous = unit;
    class->first = unit;
}

static void class_remove(size_class_t *class, uint32_t unit)
{
    const unit_t *u = &heap.units[unit];
    if (u->previous != NO_UNIT)
        heap.units[u->previous].next = u->next;
    else
        class->first = u->next;
    if (u->next != NO_UNIT)
        heap.units[u->next].previous = u->previous;
}

static void *slot_take(uint8_t size_class)
{
    size_class_t *class = &heap.classes[size_class];
    uint32_t size = slot_bytes[size_class], slots = UNIT_BYTES / size, slot = 0;
    void *p = NULL;
    (void)pthread_mutex_lock(&class->lock);
    if (class->first == NO_UNIT) {
        uint32_t fresh = units_take(1, (uint8_t)(UNIT_SLOTS + size_class));
        if (fresh == NO_UNIT)
            goto cleanup;
        class_add(class, fresh);
    }
    uint32_t unit = class->first;
    unit_t *u = &heap.units[unit];
    uint32_t word = 0;
    while (u->taken[word] == UINT64_MAX)
        word++;
    slot = word * 64 + (uint32_t)__builtin_ctzll(~u->taken[word]);
    VD_ASSERT(slot < slots);
    u->taken[word] |= 1ull << slot % 64;
    if (++u->used == slots)
        class_remove(class, unit);
    p = heap.base + (size_t)unit * UNIT_BYTES + (size_t)slot * size;
    atomic_fetch_add_explicit(&heap.used_bytes, size, memory_order_relaxed);
cleanup:
    (void)pthread_mutex_unlock(&class->lock);
    return p;
}

static void slot_give(uint8_t *p, uint32_t unit)
{
    uint8_t size_class = (uint8_t)(heap.units[unit].kind - UNIT_SLOTS);
    VD_ASSERT(size_class < SIZES);
    size_class_t *class = &heap.classes[size_class];
    unit_t *u = &heap.units[unit];
    uint32_t size = slot_bytes[size_class], slots = UNIT_BYTES / size;
    uint32_t offset = (uint32_t)(p - heap.base) % UNIT_BYTES, slot = offset / size;
    uint64_t bit = 1ull << slot % 64;
    VD_ASSERT(offset % size == 0 && slot < slots);
    vd_wipe(p, size); /* while it is still its owner's */
    (void)pthread_mutex_lock(&class->lock);
    VD_ASSERT((u->taken[slot / 64] & bit) != 0);
    u->taken[slot / 64] &= ~bit;
    if (u->used-- == slots)
        class_add(class, unit);
    /* The last one stays: the next allocation is soon. */
    if (u->used == 0 && (class->first != unit || u->next != NO_UNIT)) {
        class_remove(class, unit);
        units_give(unit);
    }
    (void)pthread_mutex_unlock(&class->lock);
    atomic_fetch_sub_explicit(&heap.used_bytes, size, memory_order_relaxed);
}

/* ---- any size ---- */

bool vd_secret_heap_has(const void *p)
{
    return heap.base != NULL && (uintptr_t)p >= (uintptr_t)heap.base &&
           (uintptr_t)p < (uintptr_t)heap.base + VD_SECRET_HEAP_MAX_BYTES;
}

void *vd_secret_heap_alloc(size_t size)
{
    VD_ASSERT(heap.base != NULL);

    if (size == 0 || size > VD_SECRET_HEAP_MAX_BYTES)
        return NULL;
    if (size <= SLOT_MAX)
        return slot_take(heap.class_of[(size + GRAIN - 1) / GRAIN]);
    uint32_t count = (uint32_t)((size + UNIT_BYTES - 1) / UNIT_BYTES);
    uint32_t first = units_take(count, UNIT_LARGE);
    if (first == NO_UNIT)
        return NULL;
    atomic_fetch_add_explicit(&heap.used_bytes, (uint64_t)count * UNIT_BYTES, memory_order_relaxed);
    return heap.base + (size_t)first * UNIT_BYTES;
}

/* What stands there belongs to whoever holds p: nobody changes the unit's kind meanwhile. */
static uint32_t unit_of(const uint8_t *p, size_t *ret_size)
{
    uint32_t unit = (uint32_t)((size_t)(p - heap.base) / UNIT_BYTES);
    const unit_t *u = &heap.units[unit];
    VD_ASSERT(u->kind == UNIT_LARGE || u->kind >= UNIT_SLOTS);
    *ret_size =
        u->kind == UNIT_LARGE ? (size_t)u->units * UNIT_BYTES : slot_bytes[u->kind - UNIT_SLOTS];
    return unit;
}

void vd_secret_heap_free(void *p)
{
    if (p == NULL)
        return;
    VD_ASSERT(vd_secret_heap_has(p));
    size_t size;
    uint32_t unit = unit_of(p, &size);
    if (heap.units[unit].kind != UNIT_LARGE) {
        slot_give(p, unit);
        return;
    }
    VD_ASSERT((uint8_t *)p == heap.base + (size_t)unit * UNIT_BYTES);
    vd_wipe(p, size);
    units_give(unit);
    atomic_fetch_sub_explicit(&heap.used_bytes, size, memory_order_relaxed);
}

void *vd_secret_heap_resize(void *p, size_t size)
{
    size_t old_size;
    if (p == NULL)
        return vd_secret_heap_alloc(size);
    VD_ASSERT(vd_secret_heap_has(p));
    if (size == 0) {
        vd_secret_heap_free(p);
        return NULL;
    }
    (void)unit_of(p, &old_size);
    if (size <= old_size && size > old_size / 2)
        return p;
    void *fresh = vd_secret_heap_alloc(size);
    if (fresh == NULL)
        return size <= old_size ? p : NULL;
    memcpy(fresh, p, size < old_size ? size : old_size);
    vd_secret_heap_free(p);
    return fresh;
}

void vd_secret_heap_stats(vd_secret_heap_stats_t *ret_stats)
{
    *ret_stats = (vd_secret_heap_stats_t){.held_bytes = atomic_load(&heap.held_bytes),
                                          .unlocked_bytes = atomic_load(&heap.unlocked_bytes),
                                          .used_bytes = atomic_load(&heap.used_bytes)};
}

/* ---- as OpenSSL's ---- */

void vd_secret_heap_enter(void)
{
    scopes++;
}

void vd_secret_heap_leave(void)
{
    VD_ASSERT(scopes > 0);
    scopes--;
}

static void *openssl_malloc(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    if (size == 0)
        return NULL;
    return heap.all || scopes != 0 ? vd_secret_heap_alloc(size) : malloc(size);
}

static void openssl_free(void *p, const char *file, int line)
{
    (void)file, (void)line;
    if (vd_secret_heap_has(p))
        vd_secret_heap_free(p);
    else
        free(p);
}

/* Stays where it is, also when another thread makes it larger. */
static void *openssl_realloc(void *p, size_t size, const char *file, int line)
{
    if (p == NULL)
        return openssl_malloc(size, file, line);
    if (vd_secret_heap_has(p))
        return vd_secret_heap_resize(p, size);
    if (size != 0)
        return realloc(p, size);
    free(p);
    return NULL;
}

/* ---- the start ---- */

static int reserve(vd_error_t *err)
{
    size_t len = VD_SECRET_HEAP_MAX_BYTES + 2 * GUARD_BYTES;
    uint8_t *range = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return vd_error_set_errno(err, "memory for keys");
    if (madvise(range, len, MADV_DONTDUMP) != 0 || madvise(range, len, MADV_WIPEONFORK) != 0) {
        (void)vd_error_set_errno(err, "memory for keys that no dump has");
        (void)munmap(range, len);
        return VD_ERR_NO_MEMORY;
    }
    heap.base = range + GUARD_BYTES;
    return VD_OK;
}

int vd_secret_heap_start(bool all, vd_error_t *err)
{
    VD_ASSERT(heap.base == NULL);

    int rc = reserve(err);
    if (rc != VD_OK)
        return rc;
    heap.all = all;
    for (size_t size = 0, class = 0; size <= SLOT_MAX; size += GRAIN) {
        class += size > slot_bytes[class];
        heap.class_of[size / GRAIN] = (uint8_t) class;
    }
    for (size_t i = 0; i < SIZES; i++) {
        (void)pthread_mutex_init(&heap.classes[i].lock, NULL);
        heap.classes[i].first = NO_UNIT;
    }
    if (!grow(GROW_UNITS))
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory for keys");
    if (!VD_SANITIZED &&
        CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) != 1)
        return vd_error_set(err, VD_ERR_INTERNAL,
                            "OpenSSL has allocated before its memory was locked");
    return VD_OK;
}
