/* libcommon/base/arena.h — memory that lives as long as one request or batch, reset in one step.
 *
 * Duty:    bump allocation, 8-byte (16 for sizes >= 16) aligned, NOT zeroed unless said. Alloc
 *          never returns NULL: small requests end the process when memory is gone; sizes that a
 *          client chooses are bounded by the caller first, and long loops compare vd_arena_used()
 *          with their budget.
 * Owner:   create/destroy by one owner.
 * Threads: one at a time. */
#pragma once
#include "libcommon/base/assert.h"
#include "libcommon/base/slice.h"

typedef struct vd_arena vd_arena_t;

vd_arena_t *vd_arena_create(void);
void vd_arena_destroy(vd_arena_t **arena_p);
/* Runs the clean-up hooks (last added first), frees all but the first chunk. */
void vd_arena_reset(vd_arena_t *arena);
void *vd_arena_alloc(vd_arena_t *arena, size_t size);
void *vd_arena_zalloc(vd_arena_t *arena, size_t size);
void *vd_arena_copy(vd_arena_t *arena, const void *data, size_t len);
vd_slice_t vd_arena_copy_slice(vd_arena_t *arena, vd_slice_t s);
char *vd_arena_strdup(vd_arena_t *arena, const char *s);
char *vd_arena_strndup(vd_arena_t *arena, const void *s, size_t len);
char *vd_arena_printf(vd_arena_t *arena, const char *format, ...) VD_PRINTF(2, 3);
/* hook(arg) runs at reset or destroy; for what an arena can't hold (a compiled regex). */
void vd_arena_on_reset(vd_arena_t *arena, void (*hook)(void *arg), void *arg);
/* Bytes handed out since the last reset. */
size_t vd_arena_used(const vd_arena_t *arena);

/* Marks: what was allocated after vd_arena_mark() is given back by vd_arena_rewind(); hooks added
 * since then run. For loops that work document by document. */
typedef struct {
    void *chunk;
    size_t used, total, large;
    void *hooks;
} vd_arena_mark_t;
vd_arena_mark_t vd_arena_mark(vd_arena_t *arena);
void vd_arena_rewind(vd_arena_t *arena, vd_arena_mark_t mark);

#define VD_ARENA_NEW(arena, type) ((type *)vd_arena_zalloc((arena), sizeof(type)))
#define VD_ARENA_ARRAY(arena, type, count)                                                         \
    ((type *)vd_arena_zalloc((arena), sizeof(type) * (size_t)(count)))
