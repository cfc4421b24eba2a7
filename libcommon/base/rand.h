/* libcommon/base/rand.h — chance. vd_rand_* is seeded, repeatable and not secret (xoshiro256**);
 * vd_rand_secret is the kernel's.
 *
 * Threads: a vd_rand_t belongs to one; vd_rand_secret: any. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t s[4];
} vd_rand_t;

void vd_rand_seed(vd_rand_t *rand, uint64_t seed);
uint64_t vd_rand_u64(vd_rand_t *rand);
/* Uniform in [0, bound), bound > 0. */
uint64_t vd_rand_below(vd_rand_t *rand, uint64_t bound);
double vd_rand_double(vd_rand_t *rand); /* [0, 1) */
/* getrandom(2); ends the process when the kernel can't give any. */
void vd_rand_secret(void *out, size_t len);
