/* tests/unit/replicad/test_frames.c — frames: bounds, checksum, every cut. */
#include "proto/peer.h"
#include "veddb-replicad/frames.h"

#include <criterion/criterion.h>

static void make(vd_buf_t *out, size_t body_len)
{
    static uint8_t body[100000];
    vdp_envelope_t envelope = {.request_id = 7};
    vdp_peer_entries_t entries = {.after = 1, .last = 2, .count = 1};
    vd_error_t err = VD_ERROR_INIT;
    memset(body, 0x5a, sizeof body);
    vd_buf_init(out, 1 << 20);
    cr_assert_eq(
        repl_frame_put(out, &envelope, &vdp_peer_entries, &entries, vd_slice(body, body_len), &err),
        VD_OK);
}

Test(frames, crc32c_is_castagnolis)
{
    cr_assert_eq(repl_crc32c(VD_SLICE_LIT("123456789")), 0xe3069283u);
    uint8_t zeros[32] = {0};
    cr_assert_eq(repl_crc32c(vd_slice(zeros, 32)), 0x8a9136aau);
}

Test(frames, there_and_back_and_each_cut)
{
    vd_buf_t out;
    make(&out, 300);
    vd_slice_t whole = vd_buf_slice(&out), item;
    size_t used;
    for (size_t len = 0; len < whole.len; len++)
        cr_assert_eq(repl_frame_take(vd_slice(whole.data, len), 4096, &item, &used, NULL),
                     VD_ERR_AGAIN);
    cr_assert_eq(repl_frame_take(whole, 4096, &item, &used, NULL), VD_OK);
    cr_assert_eq(used, whole.len);
    vdp_envelope_t envelope;
    vd_slice_t rest, body;
    vdp_peer_entries_t entries;
    cr_assert_eq(vdp_decode_envelope(item, &envelope, &rest, NULL), VD_OK);
    cr_assert_eq(envelope.id, VDP_PEER_ENTRIES);
    cr_assert_eq(vdp_decode(&vdp_peer_entries, rest, &entries, &body, NULL), VD_OK);
    cr_assert_eq(entries.last, 2);
    cr_assert_eq(body.len, 300);
    vd_buf_done(&out);
}

Test(frames, each_flipped_byte_is_found)
{
    vd_buf_t out;
    make(&out, 50);
    for (size_t i = 4; i < vd_buf_len(&out); i++) {
        vd_slice_t item;
        size_t used;
        *vd_buf_at(&out, i) ^= 0x10;
        cr_assert_eq(repl_frame_take(vd_buf_slice(&out), 4096, &item, &used, NULL), VD_ERR_CORRUPT,
                     "byte %zu", i);
        *vd_buf_at(&out, i) ^= 0x10;
    }
    vd_buf_done(&out);
}

Test(frames, lengths_are_bounded_before_they_are_believed)
{
    static const uint32_t lengths[] = {0, 1, 4, 4101, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < VD_COUNT_OF(lengths); i++) {
        uint8_t head[8] = {0};
        vd_slice_t item;
        size_t used;
        vd_put_u32(head, lengths[i]);
        cr_assert_eq(repl_frame_take(vd_slice(head, 8), 4096, &item, &used, NULL), VD_ERR_PROTOCOL,
                     "%u", lengths[i]);
    }
    vd_buf_t out;
    make(&out, 5000);
    vd_slice_t item;
    size_t used;
    cr_assert_eq(repl_frame_take(vd_buf_slice(&out), 4096, &item, &used, NULL), VD_ERR_PROTOCOL);
    cr_assert_eq(repl_frame_take(vd_buf_slice(&out), 8192, &item, &used, NULL), VD_OK);
    vd_buf_done(&out);
}

Test(frames, a_refused_frame_leaves_nothing)
{
    vd_buf_t out;
    vd_buf_init(&out, 64);
    vdp_envelope_t envelope = {0};
    vdp_peer_entries_t entries = {0};
    cr_assert_eq(vd_buf_append(&out, "abc", 3), VD_OK);
    uint8_t body[100] = {0};
    cr_assert_neq(
        repl_frame_put(&out, &envelope, &vdp_peer_entries, &entries, vd_slice(body, 100), NULL),
        VD_OK);
    cr_assert_eq(vd_buf_len(&out), 3);
    vd_buf_done(&out);
}
