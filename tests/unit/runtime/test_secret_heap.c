/* tests/unit/runtime/test_secret_heap.c — memory for OpenSSL's keys: what it gives out, that it is
 * cleared. Each test is a process of its own. That keys of running programs stand nowhere else is
 * looked for by tests/integration/jail.test.mjs. */
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/sandbox.h"
#include "libcommon/runtime/secret_heap.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCKS      400
#define ROUNDS      20000
#define WRONG(text) ((void *)(uintptr_t)(text))

typedef struct {
    uint8_t *at;
    size_t size;
    uint8_t fill;
} block_t;

/* The heap is there also where OpenSSL has begun without it, as in the runner of these tests. */
static void start(void)
{
    int rc = vd_secret_heap_start(true, NULL);
    if (rc != VD_OK && rc != VD_ERR_INTERNAL)
        abort();
}

static bool holds(const block_t *block)
{
    for (size_t i = 0; i < block->size; i++)
        if (block->at[i] != block->fill)
            return false;
    return true;
}

static size_t random_size(vd_rand_t *rand)
{
    switch (vd_rand_below(rand, 8)) {
    case 0:
        return 1 + vd_rand_below(rand, 16);
    case 1:
        return 1 + vd_rand_below(rand, 100000);
    case 2:
        return 8185 + vd_rand_below(rand, 16);
    default:
        return 1 + vd_rand_below(rand, 3000);
    }
}

/* Random allocations, changes of size and frees: what was written stays until it is freed. */
static void *hammer(void *seed)
{
    static _Thread_local block_t blocks[BLOCKS];
    vd_rand_t rand;
    vd_rand_seed(&rand, (uint64_t)(uintptr_t)seed);
    for (int round = 0; round < ROUNDS; round++) {
        block_t *block = &blocks[vd_rand_below(&rand, BLOCKS)];
        if (!holds(block))
            return WRONG("a block has changed");
        size_t size = random_size(&rand);
        if (block->at == NULL || vd_rand_below(&rand, 3) == 0) {
            size_t kept = block->size < size ? block->size : size;
            uint8_t *at = vd_secret_heap_resize(block->at, size);
            if (at == NULL || (uintptr_t)at % 16 != 0 || !vd_secret_heap_has(at))
                return WRONG("no block, or none of ours");
            *block = (block_t){at, kept, block->fill};
            if (!holds(block))
                return WRONG("what was in a block did not go with it");
            *block = (block_t){at, size, (uint8_t)(1 + vd_rand_below(&rand, 255))};
            memset(at, block->fill, size);
        } else {
            vd_secret_heap_free(block->at);
            *block = (block_t){NULL, 0, 0};
        }
    }
    for (int i = 0; i < BLOCKS; i++)
        vd_secret_heap_free(blocks[i].at);
    return NULL;
}

Test(secret_heap, many_threads_many_sizes)
{
    pthread_t threads[4];
    vd_secret_heap_stats_t stats;
    start();
    vd_secret_heap_stats(&stats);
    uint64_t before = stats.used_bytes;
    for (uintptr_t i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, hammer, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong = NULL;
        cr_assert_eq(pthread_join(threads[i], &wrong), 0);
        cr_expect_null(wrong, "%s", (const char *)wrong);
    }
    vd_secret_heap_stats(&stats);
    cr_expect_eq(stats.used_bytes, before, "all is given back");
    cr_expect_leq(stats.used_bytes, stats.held_bytes);
}

Test(secret_heap, what_is_freed_is_cleared)
{
    static const size_t sizes[] = {1, 32, 33, 1000, 8192, 8193, 70000};
    start();
    for (size_t i = 0; i < VD_COUNT_OF(sizes); i++) {
        uint8_t *p = vd_secret_heap_alloc(sizes[i]);
        memset(p, 0xa5, sizes[i]);
        vd_secret_heap_free(p);
        for (size_t k = 0; k < sizes[i]; k++) /* it is still mapped, and ours */
            cr_assert_eq(((volatile uint8_t *)p)[k], 0, "%zu bytes, byte %zu", sizes[i], k);
    }
    uint8_t *moved = vd_secret_heap_alloc(64);
    memset(moved, 0xa5, 64);
    uint8_t *to = vd_secret_heap_resize(moved, 4000);
    cr_assert_eq(to[63], 0xa5);
    cr_assert_eq(((volatile uint8_t *)moved)[0], 0, "the old place, too");
    cr_assert_null(vd_secret_heap_resize(to, 0));
    cr_assert_null(vd_secret_heap_alloc(0));
    cr_assert_null(vd_secret_heap_alloc(VD_SECRET_HEAP_MAX_BYTES + 1));
    vd_secret_heap_free(NULL);
}

static bool dies(void (*what)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(STDERR_FILENO); /* what it says at its end is of no interest */
        start();
        what();
        _exit(0);
    }
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0; /* a sanitizer ends it by itself */
}

static void free_twice(void)
{
    void *p = vd_secret_heap_alloc(40), *other = vd_secret_heap_alloc(40);
    vd_secret_heap_free(p);
    vd_secret_heap_free(p);
    vd_secret_heap_free(other);
}

static void free_large_twice(void)
{
    void *p = vd_secret_heap_alloc(40000);
    vd_secret_heap_free(p);
    vd_secret_heap_free(p);
}

static void free_inside(void)
{
    vd_secret_heap_free((uint8_t *)vd_secret_heap_alloc(40) + 16);
}

static void free_foreign(void)
{
    vd_secret_heap_free(malloc(40));
}

static void use_beyond(void)
{
    vd_secret_heap_stats_t stats;
    vd_secret_heap_stats(&stats);
    volatile uint8_t *p =
        vd_secret_heap_alloc(stats.held_bytes); /* its end is the heap's, by now */
    vd_secret_heap_stats(&stats);
    p[stats.held_bytes] = 1;
}

static void nothing_wrong(void)
{
    vd_secret_heap_free(vd_secret_heap_alloc(40));
}

Test(secret_heap, misuse_ends_the_process)
{
    cr_expect(dies(free_twice));
    cr_expect(dies(free_large_twice));
    cr_expect(dies(free_inside));
    cr_expect(dies(free_foreign));
    if (!VD_SANITIZED) /* who would report it as a fault of the test */
        cr_expect(dies(use_beyond));
    cr_expect_not(dies(nothing_wrong));
}

Test(secret_heap, too_late, .disabled = VD_SANITIZED)
{
    vd_error_t err = VD_ERROR_INIT;
    EVP_MD_CTX_free(EVP_MD_CTX_new());
    cr_expect_eq(vd_secret_heap_start(true, &err), VD_ERR_INTERNAL);
    cr_expect_not_null(strstr(err.message, "before its memory was locked"));
}

/* Sanitizers do nothing for mlock, and say that it is done. */
Test(secret_heap, memory_that_is_not_locked_is_counted, .disabled = VD_SANITIZED)
{
    struct rlimit none = {0, 0};
    vd_secret_heap_stats_t stats;
    if (geteuid() == 0)
        cr_assert_eq(setresuid(65534, 65534, 65534), 0); /* root locks whatever the limit says */
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    start();
    vd_secret_heap_stats(&stats);
    cr_expect_eq(stats.unlocked_bytes, stats.held_bytes);
    nothing_wrong();
}
