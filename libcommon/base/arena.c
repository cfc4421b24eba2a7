/* libcommon/base/arena.c — bump allocation in chunks; see arena.h.
 *
 * The first chunk stays over a reset. Allocations above LARGE_BYTES get a block of their own, so
 * that one big document does not waste a chunk. With VD_ARENA_SINGLE (on by itself under
 * AddressSanitizer) every allocation is such a block: overruns and uses after a rewind are then
 * seen. */
#include "libcommon/base/arena.h"

#include "libcommon/base/mem.h"

#include <stdarg.h>
#include <stdio.h>

#ifndef VD_ARENA_SINGLE
#if defined(__SANITIZE_ADDRESS__)
#define VD_ARENA_SINGLE 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VD_ARENA_SINGLE 1
#endif
#endif
#endif
#ifndef VD_ARENA_SINGLE
#define VD_ARENA_SINGLE 0
#endif

#define FIRST_CHUNK_BYTES (16 * 1024)
#define CHUNK_BYTES       (64 * 1024)
#define LARGE_BYTES       (32 * 1024)

typedef struct chunk {
    struct chunk *before; /* older chunk, NULL for the first */
    size_t cap;
    _Alignas(16) uint8_t data[];
} chunk_t;

typedef struct large {
    struct large *before;
    _Alignas(16) uint8_t data[];
} large_t;

typedef struct hook {
    struct hook *before;
    void (*run)(void *arg);
    void *arg;
} hook_t;

struct vd_arena {
    chunk_t *chunk; /* the newest: allocations are cut from it */
    size_t used;    /* bytes used in it */
    size_t total;   /* bytes handed out since the last reset */
    large_t *large; /* newest first */
    size_t large_count;
    hook_t *hooks;  /* newest first; the nodes live in the arena itself */
    chunk_t *spare; /* one chunk kept by rewind: a loop at a chunk's border must not allocate each
                       turn */
};

static chunk_t *chunk_create(size_t cap, chunk_t *before)
{
    /* not vd_xalloc: zeroing a chunk costs more than the allocation */
    chunk_t *chunk = vd_xrealloc(NULL, sizeof *chunk + cap);
    chunk->before = before;
    chunk->cap = cap;
    return chunk;
}

vd_arena_t *vd_arena_create(void)
{
    vd_arena_t *arena = vd_xalloc(sizeof *arena);
    arena->chunk = chunk_create(FIRST_CHUNK_BYTES, NULL);
    return arena;
}

static void rewind_to(vd_arena_t *arena, const chunk_t *chunk, size_t used, size_t large_count,
                      const hook_t *hooks)
{
    while (arena->hooks != hooks) {
        hook_t *hook = arena->hooks;
        VD_ASSERT(hook != NULL); /* the mark is of another arena or older than a reset */
        arena->hooks = hook->before;
        hook->run(hook->arg);
    }
    while (arena->large_count > large_count) {
        large_t *large = arena->large;
        arena->large = large->before;
        arena->large_count--;
        vd_free(large);
    }
    while (arena->chunk != chunk) {
        chunk_t *last = arena->chunk;
        arena->chunk = last->before;
        VD_ASSERT(arena->chunk != NULL);
        if (arena->spare == NULL && last->cap == CHUNK_BYTES)
            arena->spare = last;
        else
            vd_free(last);
    }
    arena->used = used;
}

static void rewind_all(vd_arena_t *arena)
{
    const chunk_t *first = arena->chunk;
    while (first->before != NULL)
        first = first->before;
    rewind_to(arena, first, 0, 0, NULL);
    vd_free(arena->spare);
    arena->spare = NULL;
    arena->total = 0;
}

void vd_arena_destroy(vd_arena_t **arena_p)
{
    VD_ASSERT(arena_p != NULL);
    vd_arena_t *arena = *arena_p;
    if (arena == NULL)
        return;
    rewind_all(arena);
    vd_free(arena->chunk);
    vd_free(arena);
    *arena_p = NULL;
}

void vd_arena_reset(vd_arena_t *arena)
{
    VD_ASSERT(arena != NULL);
    rewind_all(arena);
}

static void *alloc_large(vd_arena_t *arena, size_t size)
{
    large_t *large = vd_xrealloc(NULL, sizeof *large + size);
    large->before = arena->large;
    arena->large = large;
    arena->large_count++;
    return large->data;
}

void *vd_arena_alloc(vd_arena_t *arena, size_t size)
{
    VD_ASSERT_SLOW(arena != NULL);
    VD_ASSERT(size <= PTRDIFF_MAX / 2);
    arena->total += size;
    if (VD_ARENA_SINGLE || size > LARGE_BYTES)
        return alloc_large(arena, size);

    size_t align = size >= 16 ? 16 : 8;
    size_t at = (arena->used + align - 1) & ~(align - 1);
    if (VD_UNLIKELY(at + size > arena->chunk->cap)) {
        chunk_t *next = arena->spare;
        arena->spare = NULL;
        if (next == NULL)
            next = chunk_create(CHUNK_BYTES, NULL);
        next->before = arena->chunk;
        arena->chunk = next;
        at = 0;
    }
    arena->used = at + size;
    return arena->chunk->data + at;
}

void *vd_arena_zalloc(vd_arena_t *arena, size_t size)
{
    void *p = vd_arena_alloc(arena, size);
    memset(p, 0, size);
    return p;
}

void *vd_arena_copy(vd_arena_t *arena, const void *data, size_t len)
{
    void *p = vd_arena_alloc(arena, len);
    if (len != 0)
        memcpy(p, data, len);
    return p;
}

vd_slice_t vd_arena_copy_slice(vd_arena_t *arena, vd_slice_t s)
{
    return vd_slice(vd_arena_copy(arena, s.data, s.len), s.len);
}

char *vd_arena_strdup(vd_arena_t *arena, const char *s)
{
    return vd_arena_strndup(arena, s, strlen(s));
}

char *vd_arena_strndup(vd_arena_t *arena, const void *s, size_t len)
{
    char *copy = vd_arena_alloc(arena, len + 1);
    if (len != 0)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *vd_arena_printf(vd_arena_t *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    VD_ASSERT(n >= 0);
    char *text = vd_arena_alloc(arena, (size_t)n + 1);
    (void)vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

void vd_arena_on_reset(vd_arena_t *arena, void (*hook)(void *arg), void *arg)
{
    VD_ASSERT(hook != NULL);
    hook_t *node = vd_arena_alloc(arena, sizeof *node);
    *node = (hook_t){arena->hooks, hook, arg};
    arena->hooks = node;
}

size_t vd_arena_used(const vd_arena_t *arena)
{
    return arena->total;
}

vd_arena_mark_t vd_arena_mark(vd_arena_t *arena)
{
    return (vd_arena_mark_t){arena->chunk, arena->used, arena->total, arena->large_count,
                             arena->hooks};
}

void vd_arena_rewind(vd_arena_t *arena, vd_arena_mark_t mark)
{
    rewind_to(arena, mark.chunk, mark.used, mark.large, mark.hooks);
    arena->total = mark.total;
}
