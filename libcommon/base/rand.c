/* libcommon/base/rand.c — chance; see rand.h. */
#include "libcommon/base/rand.h"

#include "libcommon/base/assert.h"

#include <errno.h>
#include <sys/random.h>

static uint64_t split_mix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static uint64_t rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

void vd_rand_seed(vd_rand_t *rand, uint64_t seed)
{
    VD_ASSERT(rand != NULL);
    for (int i = 0; i < 4; i++)
        rand->s[i] = split_mix(&seed);
}

/* xoshiro256** */
uint64_t vd_rand_u64(vd_rand_t *rand)
{
    uint64_t *s = rand->s;
    uint64_t result = rotate(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

uint64_t vd_rand_below(vd_rand_t *rand, uint64_t bound)
{
    VD_ASSERT(bound > 0);
    /* Numbers below 2^64 mod bound are drawn again, so that no rest is favoured. */
    uint64_t reject = -bound % bound;
    uint64_t x;
    do {
        x = vd_rand_u64(rand);
    } while (x < reject);
    return x % bound;
}

double vd_rand_double(vd_rand_t *rand)
{
    return (double)(vd_rand_u64(rand) >> 11) * 0x1p-53;
}

void vd_rand_secret(void *out, size_t len)
{
    uint8_t *p = out;
    while (len != 0) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        VD_ASSERT(n > 0);
        p += n;
        len -= (size_t)n;
    }
}
