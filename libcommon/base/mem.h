/* libcommon/base/mem.h — allocation. Small start-up and fixed-size allocations end the process when
 * memory is gone; whatever a client sizes is bounded first and uses vd_try_alloc, which may fail.
 *
 * Threads: any. Memory is always zeroed. */
#pragma once
#include "libcommon/base/assert.h"
#include "libcommon/base/slice.h"

void *vd_xalloc(size_t size);              /* never NULL; free with vd_free */
void *vd_xrealloc(void *old, size_t size); /* never NULL; new bytes are not zeroed */
char *vd_xstrdup(const char *s);
char *vd_xstrndup(const void *s, size_t len);  /* copies len bytes and a NUL */
VD_MUST_CHECK void *vd_try_alloc(size_t size); /* NULL when memory is gone */
void vd_free(void *p);
/* Overwrites before freeing; for keys and passwords. */
void vd_free_secret(void *p, size_t size);
void vd_wipe(void *p, size_t size);
/* Equal in time that depends on len alone. */
bool vd_equal_constant_time(const void *a, const void *b, size_t len);
