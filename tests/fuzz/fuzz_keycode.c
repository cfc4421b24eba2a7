/* tests/fuzz/fuzz_keycode.c — bytes that may be a key. First byte: 1 = descending; second: bytes of
 * type bits. */
#include "libcommon/bson/compare.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/engine/keycode.h"

static void check_again(vd_arena_t *arena, vd_value_t v)
{
    vd_buf_t key, bits;
    vd_buf_init(&key, 1 << 20);
    vd_buf_init(&bits, 1 << 20);
    bool exact;
    if (stor_keycode_append(&key, v, false, &exact, NULL) == VD_OK && exact &&
        stor_keycode_append_type_bits(&bits, v, NULL) == VD_OK) {
        vd_slice_t k = vd_buf_slice(&key), b = vd_buf_slice(&bits);
        vd_value_t back;
        int rc = stor_keycode_decode(arena, &k, &b, false, &back, NULL);
        VD_ASSERT(rc == VD_OK && vd_value_identical(v, back) && k.len == 0 && b.len == 0);
    }
    vd_buf_done(&key);
    vd_buf_done(&bits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    bool descending = data[0] & 1, exact = false;
    size_t bits_len = data[1] < size - 2 ? data[1] : size - 2;
    vd_slice_t bits = vd_slice(data + 2, bits_len);
    vd_slice_t key = vd_slice(data + 2 + bits_len, size - 2 - bits_len), skipped = key;
    vd_arena_t *arena = vd_arena_create();
    vd_value_t v;
    int rc = stor_keycode_decode(arena, &key, &bits, descending, &v, NULL);
    int skip_rc = stor_keycode_skip(&skipped, descending, &exact, NULL);
    if (rc == VD_OK) {
        VD_ASSERT(skip_rc == VD_OK && exact && skipped.len == key.len);
        check_again(arena, v);
    }
    VD_ASSERT(rc != VD_ERR_INVALID || (skip_rc == VD_OK && !exact));
    vd_arena_destroy(&arena);
    return 0;
}
