/* libcommon/base/mem.c — allocation; see mem.h. */
#include "libcommon/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void memory_gone(size_t size)
{
    (void)fprintf(stderr, "level=fatal msg=\"out of memory\" size_bytes=%zu\n", size);
    abort();
}

void *vd_xalloc(size_t size)
{
    void *p = calloc(1, size == 0 ? 1 : size);
    if (p == NULL)
        memory_gone(size);
    return p;
}

void *vd_xrealloc(void *old, size_t size)
{
    void *p = realloc(old, size == 0 ? 1 : size);
    if (p == NULL)
        memory_gone(size);
    return p;
}

char *vd_xstrdup(const char *s)
{
    VD_ASSERT(s != NULL);
    return vd_xstrndup(s, strlen(s));
}

char *vd_xstrndup(const void *s, size_t len)
{
    char *copy = vd_xalloc(len + 1);
    if (len != 0)
        memcpy(copy, s, len);
    return copy;
}

void *vd_try_alloc(size_t size)
{
    return calloc(1, size == 0 ? 1 : size);
}

void vd_free(void *p)
{
    free(p);
}

void vd_free_secret(void *p, size_t size)
{
    if (p == NULL)
        return;
    vd_wipe(p, size);
    free(p);
}

void vd_wipe(void *p, size_t size)
{
    if (size != 0)
        explicit_bzero(p, size);
}

bool vd_equal_constant_time(const void *a, const void *b, size_t len)
{
    const volatile uint8_t *x = a, *y = b;
    uint8_t difference = 0;
    for (size_t i = 0; i < len; i++)
        difference |= (uint8_t)(x[i] ^ y[i]);
    return difference == 0;
}
