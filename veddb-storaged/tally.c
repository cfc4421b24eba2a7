/* veddb-storaged/tally.c — see tally.h. */
#include "veddb-storaged/tally.h"

#include "libcommon/base/assert.h"
#include "libcommon/base/mem.h"

#include <pthread.h>
#include <string.h>

#define BITS  9
#define WORDS ((1u << BITS) / 64)

typedef struct {
    uint64_t key; /* timestamp >> BITS */
    uint64_t words[WORDS];
} block_t;

/* Sorted by key. */
typedef struct {
    block_t *blocks;
    size_t count, cap;
} run_t;

struct stor_tally {
    pthread_mutex_t lock;
    size_t blocks_max;
    uint64_t floor; /* everything above is in `known` */
    run_t known;
    /* being learnt: everything above `from` and up to `at` is in `older` */
    bool learning, too_much;
    uint64_t from, at, ceiling;
    run_t older;
};

stor_tally_t *stor_tally_create(uint64_t floor, size_t blocks_max)
{
    VD_ASSERT(blocks_max >= 4);
    stor_tally_t *tally = vd_xalloc(sizeof *tally);
    (void)pthread_mutex_init(&tally->lock, NULL);
    tally->floor = floor;
    tally->blocks_max = blocks_max;
    return tally;
}

static void run_free(run_t *run)
{
    vd_free(run->blocks);
    *run = (run_t){0};
}

void stor_tally_destroy(stor_tally_t **tally_p)
{
    stor_tally_t *tally = *tally_p;
    if (tally == NULL)
        return;
    run_free(&tally->known);
    run_free(&tally->older);
    (void)pthread_mutex_destroy(&tally->lock);
    vd_free(tally);
    *tally_p = NULL;
}

/* The place of the first block whose key is not below; nearly always the last or behind it. */
static size_t place_of(const run_t *run, uint64_t key)
{
    size_t low = 0, high = run->count;
    if (high > 0 && run->blocks[high - 1].key <= key)
        return run->blocks[high - 1].key == key ? high - 1 : high;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (run->blocks[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void run_grow(run_t *run, size_t count)
{
    if (count <= run->cap)
        return;
    size_t cap = run->cap < 64 ? 64 : 2 * run->cap;
    while (cap < count)
        cap *= 2;
    block_t *blocks = vd_xalloc(cap * sizeof *blocks);
    if (run->count > 0)
        memcpy(blocks, run->blocks, run->count * sizeof *blocks);
    vd_free(run->blocks);
    run->blocks = blocks;
    run->cap = cap;
}

static void run_put(run_t *run, uint64_t timestamp)
{
    uint64_t key = timestamp >> BITS, bit = timestamp & ((1u << BITS) - 1);
    size_t at = place_of(run, key);
    if (at == run->count || run->blocks[at].key != key) {
        run_grow(run, run->count + 1);
        memmove(run->blocks + at + 1, run->blocks + at, (run->count - at) * sizeof(block_t));
        run->blocks[at] = (block_t){.key = key};
        run->count++;
    }
    run->blocks[at].words[bit / 64] |= 1ull << (bit % 64);
}

/* The oldest eighth goes, so that this is rare. */
static void bound(stor_tally_t *tally)
{
    run_t *run = &tally->known;
    if (run->count <= tally->blocks_max)
        return;
    size_t gone = run->count - tally->blocks_max + tally->blocks_max / 8;
    tally->floor = (run->blocks[gone].key << BITS) - 1;
    run->count -= gone;
    memmove(run->blocks, run->blocks + gone, run->count * sizeof(block_t));
    tally->learning = false; /* it would not reach the new floor */
}

void stor_tally_note(stor_tally_t *tally, uint64_t timestamp)
{
    (void)pthread_mutex_lock(&tally->lock);
    if (timestamp > tally->floor) {
        run_put(&tally->known, timestamp);
        bound(tally);
    }
    (void)pthread_mutex_unlock(&tally->lock);
}

void stor_tally_restart(stor_tally_t *tally, uint64_t floor)
{
    (void)pthread_mutex_lock(&tally->lock);
    tally->floor = floor;
    tally->known.count = tally->older.count = 0;
    tally->learning = tally->too_much = false;
    (void)pthread_mutex_unlock(&tally->lock);
}

/* Bits of a block above `bit`; -1: all. */
static uint64_t block_count(const block_t *block, int bit)
{
    uint64_t count = 0;
    for (int w = (bit + 1) / 64; w < (int)WORDS; w++) {
        uint64_t word = block->words[w];
        if (w == (bit + 1) / 64)
            word &= ~0ull << ((bit + 1) % 64);
        count += (uint64_t)__builtin_popcountll(word);
    }
    return count;
}

bool stor_tally_above(stor_tally_t *tally, uint64_t timestamp, uint64_t *ret_entries)
{
    uint64_t key = timestamp >> BITS, count = 0;
    (void)pthread_mutex_lock(&tally->lock);
    const run_t *run = &tally->known;
    for (size_t at = place_of(run, key); at < run->count; at++)
        count +=
            block_count(&run->blocks[at],
                        run->blocks[at].key == key ? (int)(timestamp & ((1u << BITS) - 1)) : -1);
    bool exact = timestamp >= tally->floor;
    (void)pthread_mutex_unlock(&tally->lock);
    *ret_entries = count;
    return exact;
}

/* ---- learning ---- */

bool stor_tally_wants(stor_tally_t *tally, uint64_t timestamp, uint64_t *ret_after,
                      uint64_t *ret_upto)
{
    (void)pthread_mutex_lock(&tally->lock);
    bool wants = timestamp < tally->floor && (!tally->too_much || timestamp > tally->from);
    if (wants && (!tally->learning || tally->from > timestamp)) {
        tally->learning = true;
        tally->too_much = false;
        tally->from = tally->at = timestamp;
        tally->ceiling = tally->floor;
        tally->older.count = 0;
    }
    *ret_after = tally->at;
    *ret_upto = tally->ceiling;
    (void)pthread_mutex_unlock(&tally->lock);
    return wants;
}

void stor_tally_learn(stor_tally_t *tally, uint64_t timestamp)
{
    (void)pthread_mutex_lock(&tally->lock);
    if (tally->learning && timestamp > tally->at && timestamp <= tally->ceiling) {
        run_put(&tally->older, timestamp);
        tally->at = timestamp;
    }
    /* Half of the room is for what is to come. */
    if (tally->learning && tally->older.count + tally->known.count > tally->blocks_max / 2) {
        tally->learning = false;
        tally->too_much = true;
        run_free(&tally->older);
    }
    (void)pthread_mutex_unlock(&tally->lock);
}

void stor_tally_learnt(stor_tally_t *tally)
{
    (void)pthread_mutex_lock(&tally->lock);
    if (tally->learning) {
        run_t *older = &tally->older, *known = &tally->known;
        /* The border may lie within a block. */
        if (older->count > 0 && known->count > 0 &&
            older->blocks[older->count - 1].key == known->blocks[0].key) {
            for (size_t w = 0; w < WORDS; w++)
                known->blocks[0].words[w] |= older->blocks[older->count - 1].words[w];
            older->count--;
        }
        run_grow(older, older->count + known->count);
        if (known->count > 0)
            memcpy(older->blocks + older->count, known->blocks, known->count * sizeof(block_t));
        older->count += known->count;
        vd_free(known->blocks);
        *known = *older;
        *older = (run_t){0};
        tally->floor = tally->from;
        tally->learning = false;
    }
    (void)pthread_mutex_unlock(&tally->lock);
}
