/* libcommon/base/assert.h — our own bugs end the process; nothing else does.
 *
 * Duty: VD_ASSERT is always on; VD_ASSERT_SLOW only in debug builds. Never used on input from
 *       outside. */
#pragma once

#define VD_MUST_CHECK                      __attribute__((warn_unused_result))
#define VD_PRINTF(f, a)                    __attribute__((format(printf, f, a)))
#define VD_LIKELY(x)                       __builtin_expect(!!(x), 1)
#define VD_UNLIKELY(x)                     __builtin_expect(!!(x), 0)
#define VD_COUNT_OF(a)                     (sizeof(a) / sizeof((a)[0]))
#define VD_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Prints where and what to standard error and aborts. */
_Noreturn void vd_assert_failed(const char *expression, const char *file, int line);

#define VD_ASSERT(expression)                                                                      \
    do {                                                                                           \
        if (VD_UNLIKELY(!(expression)))                                                            \
            vd_assert_failed(#expression, __FILE__, __LINE__);                                     \
    } while (0)

#if VEDDB_DEBUG
#define VD_ASSERT_SLOW(expression) VD_ASSERT(expression)
#else
#define VD_ASSERT_SLOW(expression) ((void)0)
#endif

#define VD_UNREACHABLE() vd_assert_failed("unreachable", __FILE__, __LINE__)
