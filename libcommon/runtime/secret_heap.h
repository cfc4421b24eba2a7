/* libcommon/runtime/secret_heap.h — memory for what OpenSSL knows of keys. Why so:
 * docs/decisions/0018-openssl-memory.md.
 *
 * Duty:    memory that is locked (no swap), in no dump, not inherited by a fork, cleared when it is
 *          freed. Once started, OpenSSL allocates from it: everything, or what a thread asks for
 *          between enter and leave. The rest of OpenSSL's is then malloc's.
 * Owner:   the process; never given back. A child of a fork finds it empty: it may exec, not go on.
 * Threads: any.
 * Limits:  VD_SECRET_HEAP_MAX_BYTES of address space; taken and locked by 256 KB. Where the kernel
 *          locks no more (RLIMIT_MEMLOCK) memory is given all the same, and counted.
 * Errors:  a pointer that is freed twice, or is none of ours, ends the process. */
#pragma once
#include "libcommon/base/error.h"

#define VD_SECRET_HEAP_MAX_BYTES (256u << 20)

/* Before OpenSSL's first allocation, once. all: every allocation of OpenSSL; else those between
 * enter and leave alone. In a build with sanitizers OpenSSL keeps malloc, so that they see it. */
VD_MUST_CHECK int vd_secret_heap_start(bool all, vd_error_t *err);

/* What this thread has OpenSSL allocate until leave stands here. They nest. */
void vd_secret_heap_enter(void);
void vd_secret_heap_leave(void);

/* Not zeroed. NULL: size is 0, or there is no more. */
void *vd_secret_heap_alloc(size_t size);
/* As realloc. p is the heap's, or NULL. */
void *vd_secret_heap_resize(void *p, size_t size);
/* p is the heap's, or NULL. */
void vd_secret_heap_free(void *p);
bool vd_secret_heap_has(const void *p);

typedef struct {
    uint64_t held_bytes;     /* taken from the kernel */
    uint64_t unlocked_bytes; /* of these: what the kernel would not lock */
    uint64_t used_bytes;     /* given out, as rounded up */
} vd_secret_heap_stats_t;
void vd_secret_heap_stats(vd_secret_heap_stats_t *ret_stats);
