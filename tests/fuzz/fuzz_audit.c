/* tests/fuzz/fuzz_audit.c — a segment of the audit log. Input: items {u8 how, u16 length, bytes},
 * each one frame: how & 7 is its type; & 8: the bytes are the payload as it is, otherwise what is
 * secret or computed is added here (a block is sealed, records get their hashes, a head its place
 * and signature), so that a change gets past the chain. & 16: the frame's chain is left wrong.
 *
 * What is accepted agrees with what was given; what is unpacked is packed to the same. */
#include "tests/fuzz/fuzz.h"
#include "veddb-rotated/audit/walk.h"

#include <stdio.h>

enum { HOW_TYPE = 7, HOW_RAW = 8, HOW_BROKEN = 16 };

static uint8_t private_key[32], frame[ROT_FRAME_MAX_BYTES];
static const rot_data_key_t data_key = {"an id, 16 bytes", "a key of thirty-two bytes in all"};
static rot_public_t entry = {.log_id = "the log's own id", .first_head = 1};
static const rot_publics_t publics = {.entries = &entry, .count = 1};
static rot_sealer_t sealer;

static void set_up(void)
{
    static bool done;
    if (done)
        return;
    int rc = rot_keypair(private_key, entry.key, NULL);
    VD_ASSERT(rc == VD_OK);
    rc = rot_sealer_init(&sealer, &data_key, NULL);
    VD_ASSERT(rc == VD_OK);
    done = true;
}

typedef struct {
    rot_walk_t walk;
    uint64_t records;
} state_t;

static int record_take(void *context, const rot_record_t *record, vd_error_t *err)
{
    state_t *state = context;
    (void)err;
    VD_ASSERT(record->number == state->walk.now.records);
    VD_ASSERT(record->bytes.len == ROT_RECORD_HEAD_BYTES + record->document.len);
    VD_ASSERT(record->document.len >= 5 &&
              vd_get_u32(record->document.data) == record->document.len);
    state->records++;
    return VD_OK;
}

/* ---- payloads ---- */

/* {u16 length, document} ... -> records that follow on the last one. */
static size_t records_make(const rot_point_t *now, vd_slice_t in, uint8_t *plain)
{
    rot_hash_t last = now->last_record;
    size_t len = 0;
    for (uint64_t number = now->records + 1; in.len >= 2; number++) {
        size_t document = (size_t)in.data[0] | (size_t)in.data[1] << 8;
        document = document < in.len - 2 ? document : in.len - 2;
        uint8_t *at = plain + len;
        size_t all = ROT_RECORD_HEAD_BYTES + document;
        vd_put_u32(at, (uint32_t)all);
        memcpy(at + 4, &last, ROT_HASH_BYTES);
        vd_put_u64(at + 36, number);
        vd_put_u32(at + 44, ROT_SOURCE_EVENTS);
        vd_put_u32(at + 48, 0);
        vd_put_u64(at + 52, number);
        memcpy(at + ROT_RECORD_HEAD_BYTES, in.data + 2, document);
        rot_tree_leaf(vd_slice(at, all), &last);
        len += all;
        in = vd_slice(in.data + 2 + document, in.len - 2 - document);
    }
    return len;
}

static size_t block_make(const rot_point_t *now, vd_slice_t in, uint8_t *payload)
{
    static uint8_t plain[ROT_FRAME_MAX_BYTES];
    size_t len = records_make(now, in, plain);
    int rc = rot_seal(&sealer, vd_slice(plain, len), payload, NULL);
    VD_ASSERT(rc == VD_OK);
    return len + ROT_BLOCK_EXTRA_BYTES;
}

/* What follows from the walk; of the input the flags, and the difference of a number. */
static size_t head_make(const rot_point_t *now, vd_slice_t in, uint8_t *payload)
{
    rot_head_t head = {.number = now->head.number + 1,
                       .segment = now->segment,
                       .offset = now->offset,
                       .records = now->records,
                       .segment_records = now->tree.count,
                       .chain = now->chain,
                       .last_record = now->last_record,
                       .before = now->head_hash,
                       .flags = in.len > 0 ? in.data[0] & 1u : 0};
    memcpy(head.log_id, entry.log_id, sizeof head.log_id);
    rot_tree_root(&now->tree, &head.root);
    if (in.len > 1)
        head.number += in.data[1];
    if (in.len > 2)
        head.records += in.data[2];
    int rc = rot_head_pack(&head, private_key, payload, NULL);
    VD_ASSERT(rc == VD_OK);
    return ROT_HEAD_BYTES;
}

static size_t start_make(const rot_point_t *now, uint8_t *payload)
{
    rot_start_t start = {.segment = now->segment,
                         .records = now->records,
                         .head = now->head.number,
                         .chain = now->chain,
                         .last_record = now->last_record,
                         .head_hash = now->head_hash};
    memcpy(start.log_id, entry.log_id, sizeof start.log_id);
    memcpy(start.key_id, data_key.id, sizeof start.key_id);
    rot_start_pack(&start, payload);
    return ROT_START_BYTES;
}

static size_t tombstone_make(const rot_point_t *now, vd_slice_t in, uint8_t *payload)
{
    rot_tombstone_t tombstone = {.segment = in.len > 0 ? in.data[0] : now->segment - 1,
                                 .chain = now->chain};
    memcpy(tombstone.log_id, entry.log_id, sizeof tombstone.log_id);
    int rc = rot_tombstone_pack(&tombstone, private_key, payload, NULL);
    VD_ASSERT(rc == VD_OK);
    return ROT_TOMBSTONE_BYTES;
}

static size_t payload_make(const rot_point_t *now, uint8_t how, vd_slice_t in, uint8_t *payload)
{
    if ((how & HOW_RAW) != 0) {
        memcpy(payload, in.data, in.len);
        return in.len;
    }
    switch (how & HOW_TYPE) {
    case ROT_FRAME_START:
        return start_make(now, payload);
    case ROT_FRAME_RECORDS:
        return block_make(now, in, payload);
    case ROT_FRAME_HEAD:
        return head_make(now, in, payload);
    case ROT_FRAME_TOMBSTONE:
        return tombstone_make(now, in, payload);
    default:
        return 0;
    }
}

/* ---- the pure forms ---- */

static void check_forms(vd_slice_t in)
{
    uint8_t out[ROT_HEAD_BYTES];
    rot_head_t head, head_again;
    rot_start_t start, start_again;
    if (in.len == ROT_HEAD_BYTES && rot_head_unpack(in.data, &head)) {
        memset(&head_again, 0, sizeof head_again);
        int rc = rot_head_pack(&head, private_key, out, NULL);
        VD_ASSERT(rc == VD_OK && rot_head_unpack(out, &head_again));
        VD_ASSERT(head.number == head_again.number && head.epoch == head_again.epoch);
        VD_ASSERT(memcmp(out, in.data, 240) == 0);
        VD_ASSERT(rot_signed(out, sizeof out, entry.key));
    }
    if (in.len == ROT_START_BYTES && rot_start_unpack(in.data, &start)) {
        rot_start_pack(&start, out);
        VD_ASSERT(memcmp(out, in.data, ROT_START_BYTES) == 0);
        VD_ASSERT(rot_start_unpack(out, &start_again) && start_again.segment == start.segment);
    }
}

static int one_frame(state_t *state, uint8_t how, vd_slice_t in)
{
    rot_walk_t *walk = &state->walk;
    rot_point_t before = walk->now;
    rot_hash_t chain;
    size_t body =
        ROT_FRAME_HEAD_BYTES + payload_make(&before, how, in, frame + ROT_FRAME_HEAD_BYTES);
    size_t len = body + ROT_HASH_BYTES;
    vd_put_u32(frame, (uint32_t)len);
    vd_put_u32(frame + 4, how & HOW_TYPE);
    rot_hash(&chain, vd_slice(&before.chain, sizeof before.chain), vd_slice(frame, body));
    memcpy(frame + body, &chain, sizeof chain);
    if ((how & HOW_BROKEN) != 0)
        frame[body] ^= 1;
    uint64_t records = state->records;
    int rc = rot_walk_frame(walk, vd_slice(frame, len), NULL);
    if (rc != VD_OK)
        return rc;
    VD_ASSERT((how & HOW_BROKEN) == 0 && !before.closed);
    VD_ASSERT(walk->now.offset == before.offset + len);
    VD_ASSERT(walk->now.records - before.records == state->records - records ||
              (how & HOW_TYPE) == ROT_FRAME_START);
    if ((how & HOW_TYPE) == ROT_FRAME_HEAD)
        VD_ASSERT(walk->now.head.number == before.head.number + 1 &&
                  walk->sealed.records == walk->now.records);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    state_t state = {0};
    vd_slice_t rest = vd_slice(data, size);
    if (size > 65536)
        return 0;
    set_up();
    check_forms(rest);
    int rc = rot_walk_init(&state.walk, NULL, &publics, (rot_data_keys_t){&data_key, 1}, NULL);
    VD_ASSERT(rc == VD_OK);
    *state.walk.data_key = data_key;
    state.walk.record = record_take;
    state.walk.context = &state;
    rot_walk_begin(&state.walk, 1);
    while (rc == VD_OK && rest.len >= 3) {
        uint8_t how = rest.data[0];
        size_t len = (size_t)rest.data[1] | (size_t)rest.data[2] << 8;
        len = len < rest.len - 3 ? len : rest.len - 3;
        vd_slice_t in = vd_slice(rest.data + 3, len);
        check_forms(in);
        if (state.walk.now.closed)
            rot_walk_begin(&state.walk, state.walk.now.segment + 1);
        rc = one_frame(&state, how, in);
        rest = vd_slice(in.data + len, rest.len - 3 - len);
    }
    rot_walk_done(&state.walk);
    return 0;
}
