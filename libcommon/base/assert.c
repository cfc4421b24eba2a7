/* libcommon/base/assert.c — the end of the process on a bug of ours. */
#include "libcommon/base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void vd_assert_failed(const char *expression, const char *file, int line)
{
    /* One write, no locks: other threads may be anywhere. */
    char text[512];
    int n =
        snprintf(text, sizeof text, "level=fatal msg=\"assertion failed\" at=%s:%d what=\"%s\"\n",
                 file, line, expression);
    if (n > 0) {
        size_t len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        (void)!write(STDERR_FILENO, text, len); /* nothing can be done when it fails */
    }
    abort();
}
