/* tests/unit/engine/test_keys.c — blocks: what is sealed opens, every changed byte is noticed, each
 * fault has its own error, nonces never repeat. */
#include "libcommon/base/buf.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/keys.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

static stor_keys_t *keys_of(uint8_t id, uint8_t key, stor_key_state_t state)
{
    uint8_t ids[STOR_KEY_ID_BYTES] = {id}, bytes[STOR_KEY_BYTES] = {key};
    stor_keys_t *keys = stor_keys_create();
    cr_assert_eq(stor_keys_put(keys, ids, bytes, state, NULL), VD_OK);
    return keys;
}

static int put(stor_keys_t *keys, uint8_t id, uint8_t key, stor_key_state_t state)
{
    uint8_t ids[STOR_KEY_ID_BYTES] = {id}, bytes[STOR_KEY_BYTES] = {key};
    return stor_keys_put(keys, ids, bytes, state, NULL);
}

Test(keys, round_trip_at_all_sizes)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 127, 4096, 1 << 20};
    stor_keys_t *keys = keys_of(1, 1, STOR_KEY_ACTIVE), *again = keys_of(1, 1, STOR_KEY_ACTIVE);
    for (size_t i = 0; i < VD_COUNT_OF(sizes); i++) {
        uint8_t *plain = vd_xalloc(sizes[i] + 1);
        uint8_t *block = vd_xalloc(sizes[i] + STOR_BLOCK_OVERHEAD_BYTES);
        uint8_t *out = vd_xalloc(sizes[i] + 1);
        size_t len = 0, out_len = 0;
        memset(plain, 0x5a, sizes[i]);
        cr_assert_eq(stor_keys_seal(keys, vd_slice(plain, sizes[i]), block, &len, NULL), VD_OK);
        cr_assert_eq(len, sizes[i] + STOR_BLOCK_OVERHEAD_BYTES);
        cr_assert_eq(stor_keys_open(keys, vd_slice(block, len), out, &out_len, NULL), VD_OK);
        cr_assert_eq(out_len, sizes[i]);
        cr_assert_eq(memcmp(out, plain, out_len), 0);
        /* Another start with the same data key derives the same block key. */
        memset(out, 0, sizes[i]);
        cr_assert_eq(stor_keys_open(again, vd_slice(block, len), out, &out_len, NULL), VD_OK);
        cr_assert_eq(memcmp(out, plain, out_len), 0);
        vd_free(plain), vd_free(block), vd_free(out);
    }
    stor_keys_counts_t counts;
    stor_keys_counts(keys, &counts);
    cr_assert_eq(counts.sealed_blocks, VD_COUNT_OF(sizes));
    cr_assert_eq(counts.opened_blocks, VD_COUNT_OF(sizes));
    cr_assert_eq(counts.failed, 0);
    stor_keys_destroy(&keys);
    stor_keys_destroy(&again);
    stor_keys_destroy(&again); /* NULL is fine */
}

Test(keys, every_flipped_bit_is_noticed)
{
    stor_keys_t *keys = keys_of(1, 1, STOR_KEY_ACTIVE);
    uint8_t plain[40] = {7}, block[40 + STOR_BLOCK_OVERHEAD_BYTES], out[40];
    size_t len = 0, out_len = 0;
    cr_assert_eq(stor_keys_seal(keys, vd_slice(plain, 40), block, &len, NULL), VD_OK);
    for (size_t bit = 0; bit < len * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = stor_keys_open(keys, vd_slice(block, len), out, &out_len, NULL);
        size_t at = bit / 8;
        int expected = at < 4                ? VD_ERR_NOT_ENCRYPTED
                       : at == 4             ? VD_ERR_UNSUPPORTED_FORMAT
                       : at >= 8 && at < 24  ? VD_ERR_KEY_MISSING
                       : at >= 24 && at < 40 ? VD_ERR_KEY_WRONG /* a boot id never seen */
                                             : VD_ERR_CORRUPT;
        cr_assert_eq(rc, expected, "byte %zu: %d", at, rc);
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < STOR_BLOCK_OVERHEAD_BYTES; cut++)
        cr_assert_neq(stor_keys_open(keys, vd_slice(block, cut), out, &out_len, NULL), VD_OK);
    cr_assert_eq(stor_keys_open(keys, vd_slice("plain text, no block", 20), out, &out_len, NULL),
                 VD_ERR_NOT_ENCRYPTED);
    stor_keys_destroy(&keys);
}

Test(keys, each_fault_has_its_own_error)
{
    stor_keys_t *keys = stor_keys_create(), *maker = keys_of(1, 1, STOR_KEY_ACTIVE);
    uint8_t block[10 + STOR_BLOCK_OVERHEAD_BYTES], out[10], id[STOR_KEY_ID_BYTES];
    size_t len = 0, out_len = 0;
    vd_slice_t plain = VD_SLICE_LIT("0123456789");
    cr_assert_eq(stor_keys_active(keys, id, NULL), VD_ERR_KEY_MISSING);
    cr_assert_eq(stor_keys_seal(keys, plain, block, &len, NULL), VD_ERR_KEY_MISSING);
    cr_assert_eq(stor_keys_seal(maker, plain, block, &len, NULL), VD_OK);
    vd_slice_t sealed = vd_slice(block, len);
    cr_assert_eq(stor_keys_block_key(sealed, id, NULL), VD_OK);
    cr_assert_eq(id[0], 1);
    cr_assert_eq(stor_keys_open(keys, sealed, out, &out_len, NULL), VD_ERR_KEY_MISSING);
    cr_assert_eq(put(keys, 1, 2, STOR_KEY_ACTIVE), VD_OK);
    cr_assert_eq(stor_keys_open(keys, sealed, out, &out_len, NULL), VD_ERR_KEY_WRONG);
    cr_assert_eq(put(keys, 1, 1, STOR_KEY_ACTIVE), VD_OK);
    cr_assert_eq(stor_keys_open(keys, sealed, out, &out_len, NULL), VD_OK);
    block[len - 1] ^= 1;
    cr_assert_eq(stor_keys_open(keys, sealed, out, &out_len, NULL), VD_ERR_CORRUPT);
    cr_assert_eq(out[0], 0, "unauthentic bytes were handed on");
    block[len - 1] ^= 1;
    cr_assert_eq(stor_keys_put(keys, id, NULL, STOR_KEY_DESTROYED, NULL), VD_OK);
    cr_assert_eq(stor_keys_open(keys, sealed, out, &out_len, NULL), VD_ERR_KEY_DESTROYED);
    stor_keys_destroy(&keys);
    stor_keys_destroy(&maker);
}

Test(keys, rotation_counts_old_blocks)
{
    stor_keys_t *keys = keys_of(1, 1, STOR_KEY_ACTIVE);
    uint8_t block[10 + STOR_BLOCK_OVERHEAD_BYTES], out[10], id[STOR_KEY_ID_BYTES];
    size_t len = 0, out_len = 0;
    cr_assert_eq(stor_keys_seal(keys, VD_SLICE_LIT("old"), block, &len, NULL), VD_OK);
    cr_assert_eq(stor_keys_open(keys, vd_slice(block, len), out, &out_len, NULL), VD_OK);
    cr_assert_eq(stor_keys_thread_old_blocks(), 0);
    cr_assert_eq(put(keys, 2, 2, STOR_KEY_ACTIVE), VD_OK);
    cr_assert_eq(stor_keys_active(keys, id, NULL), VD_OK);
    cr_assert_eq(id[0], 2);
    cr_assert_eq(stor_keys_open(keys, vd_slice(block, len), out, &out_len, NULL), VD_OK);
    cr_assert_eq(stor_keys_thread_old_blocks(), 1);
    cr_assert_eq(stor_keys_thread_old_blocks(), 0);
    cr_assert_eq(stor_keys_seal(keys, VD_SLICE_LIT("new"), block, &len, NULL), VD_OK);
    cr_assert_eq(stor_keys_block_key(vd_slice(block, len), id, NULL), VD_OK);
    cr_assert_eq(id[0], 2);
    cr_assert_eq(stor_keys_open(keys, vd_slice(block, len), out, &out_len, NULL), VD_OK);
    cr_assert_eq(stor_keys_thread_old_blocks(), 0);
    stor_keys_destroy(&keys);
}

Test(keys, table_is_bounded)
{
    stor_keys_t *keys = stor_keys_create();
    for (int i = 0; i < STOR_KEYS_MAX; i++)
        cr_assert_eq(put(keys, (uint8_t)i, 1, STOR_KEY_DECRYPT_ONLY), VD_OK);
    uint8_t id[STOR_KEY_ID_BYTES] = {0, 1}, key[STOR_KEY_BYTES] = {0};
    cr_assert_eq(stor_keys_put(keys, id, key, STOR_KEY_DECRYPT_ONLY, NULL), VD_ERR_FULL);
    stor_keys_destroy(&keys);
}

/* At 2^31 blocks a new boot id is drawn, also under several threads; no {boot id, counter} comes
 * twice. */
enum { THREADS = 4, PER_THREAD = 3000 };
typedef struct {
    stor_keys_t *keys;
    uint8_t heads[PER_THREAD][24]; /* boot id, counter */
} sealer_t;

static void *sealer_run(void *arg)
{
    sealer_t *sealer = arg;
    uint8_t block[8 + STOR_BLOCK_OVERHEAD_BYTES];
    size_t len;
    for (int i = 0; i < PER_THREAD; i++) {
        if (stor_keys_seal(sealer->keys, VD_SLICE_LIT("12345678"), block, &len, NULL) != VD_OK)
            return sealer;
        memcpy(sealer->heads[i], block + 24, 24);
    }
    return NULL;
}

static int compare_heads(const void *a, const void *b)
{
    return memcmp(a, b, 24);
}

Test(keys, nonces_never_repeat)
{
    stor_keys_t *keys = keys_of(1, 1, STOR_KEY_ACTIVE);
    stor_keys_counter_skip(keys, (1ULL << 31) - THREADS * PER_THREAD / 2);
    sealer_t *sealers = calloc(THREADS, sizeof *sealers);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        sealers[i].keys = keys;
        cr_assert_eq(pthread_create(&threads[i], NULL, sealer_run, &sealers[i]), 0);
    }
    uint8_t(*all)[24] = malloc(THREADS * sizeof sealers->heads);
    for (int i = 0; i < THREADS; i++) {
        void *failed = NULL;
        cr_assert_eq(pthread_join(threads[i], &failed), 0);
        cr_assert_null(failed);
        memcpy(all + (size_t)i * PER_THREAD, sealers[i].heads, sizeof sealers->heads);
    }
    qsort(all, THREADS * PER_THREAD, 24, compare_heads);
    int boots = 1;
    for (int i = 1; i < THREADS * PER_THREAD; i++) {
        cr_assert_neq(memcmp(all[i - 1], all[i], 24), 0);
        boots += memcmp(all[i - 1], all[i], 16) != 0;
        cr_assert_leq(vd_get_u64(all[i] + 16), 1ULL << 31);
    }
    cr_assert_eq(boots, 2);
    free(all);
    free(sealers);
    stor_keys_destroy(&keys);
}
