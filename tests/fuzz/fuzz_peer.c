/* tests/fuzz/fuzz_peer.c — what another node sends: a stream of frames as it comes from the
 * connection (a zero, then bytes), or one item that is framed here, so that a changed one is not
 * stopped by its checksum (any other byte, then the item). What is decoded is written again and
 * decoded to the same; nothing that is borrowed lies outside of what came. */
#include "libcommon/base/buf.h"
#include "proto/failure.h"
#include "proto/heads.h"
#include "proto/peer.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-replicad/frames.h"

#define INPUT_MAX_BYTES 65536

static const vdp_message_t *const messages[] = {
    &vdp_peer_hello,
    &vdp_peer_welcome,
    &vdp_peer_heartbeat,
    &vdp_peer_status,
    &vdp_peer_pull,
    &vdp_peer_entries,
    &vdp_peer_ack,
    &vdp_peer_majority,
    &vdp_peer_fence,
    &vdp_peer_fenced,
    &vdp_peer_handover,
    &vdp_peer_ask,
    &vdp_peer_answer,
    &vdp_peer_find,
    &vdp_peer_found,
    &vdp_peer_snapshot_open,
    &vdp_peer_snapshot_opened,
    &vdp_peer_snapshot_read,
    &vdp_peer_snapshot_chunk,
    &vdp_peer_snapshot_close,
    &vdp_peer_audit_head,
    &vdp_peer_audit_held,
    &vdp_failure,
};

typedef union {
    uint64_t align;
    uint8_t bytes[512];
} fields_t;

static bool inside(vd_slice_t whole, vd_slice_t part)
{
    return part.len == 0 ||
           (part.data >= whole.data && part.data + part.len <= whole.data + whole.len);
}

static vd_slice_t slice_at(const fields_t *fields, const vdp_field_t *field)
{
    vd_slice_t slice;
    memcpy(&slice, fields->bytes + field->offset, sizeof slice);
    return slice;
}

static void check_fields(const vdp_message_t *message, vd_slice_t item, const fields_t *fields)
{
    for (uint32_t i = 0; i < message->field_count; i++) {
        const vdp_field_t *field = &message->fields[i];
        if (field->type != VDP_STRING && field->type != VDP_BYTES)
            continue;
        VD_ASSERT(slice_at(fields, field).len <= field->max_bytes);
        VD_ASSERT(inside(item, slice_at(fields, field)));
    }
}

static bool same(const vdp_message_t *message, const fields_t *a, const fields_t *b)
{
    for (uint32_t i = 0; i < message->field_count; i++) {
        const vdp_field_t *field = &message->fields[i];
        bool text = field->type == VDP_STRING || field->type == VDP_BYTES;
        size_t size = field->type == VDP_U32 ? 4 : field->type == VDP_BOOL ? sizeof(bool) : 8;
        if (text ? !vd_slice_equal(slice_at(a, field), slice_at(b, field))
                 : memcmp(a->bytes + field->offset, b->bytes + field->offset, size) != 0)
            return false;
    }
    return true;
}

static void check_again(const vdp_message_t *message, const vdp_envelope_t *envelope,
                        const fields_t *fields, vd_slice_t body)
{
    fields_t again;
    vdp_envelope_t head;
    vd_slice_t item, rest, body_again;
    size_t used;
    vd_buf_t out;
    vd_buf_init(&out, 8 * INPUT_MAX_BYTES);
    int rc = repl_frame_put(&out, envelope, message, fields->bytes, body, NULL);
    VD_ASSERT(rc == VD_OK);
    rc = repl_frame_take(vd_buf_slice(&out), REPL_FRAME_MAX_BYTES, &item, &used, NULL);
    VD_ASSERT(rc == VD_OK && used == vd_buf_len(&out));
    rc = vdp_decode_envelope(item, &head, &rest, NULL);
    VD_ASSERT(rc == VD_OK && head.id == message->id && head.request_id == envelope->request_id);
    memset(&again, 0, sizeof again);
    rc = vdp_decode(message, rest, again.bytes, &body_again, NULL);
    VD_ASSERT(rc == VD_OK && same(message, fields, &again) && vd_slice_equal(body, body_again));
    vd_buf_done(&out);
}

static void check_item(vd_slice_t item)
{
    vdp_envelope_t envelope;
    vd_slice_t rest, body = VD_SLICE_NULL;
    fields_t fields;
    if (vdp_decode_envelope(item, &envelope, &rest, NULL) != VD_OK)
        return;
    VD_ASSERT(inside(item, rest));
    for (size_t i = 0; i < VD_COUNT_OF(messages); i++) {
        const vdp_message_t *message = messages[i];
        if (message->id != envelope.id)
            continue;
        VD_ASSERT(message->size <= sizeof fields.bytes);
        memset(&fields, 0, sizeof fields);
        if (vdp_decode(message, rest, fields.bytes, &body, NULL) != VD_OK)
            return;
        VD_ASSERT(inside(item, body) && body.len <= message->body_max_bytes);
        check_fields(message, item, &fields);
        check_again(message, &envelope, &fields, body);
    }
}

/* As a connection does: HELLO's limit first, then that of all. */
static void check_stream(vd_slice_t bytes)
{
    size_t item_max = REPL_FRAME_HELLO_MAX, used;
    vd_slice_t item;
    for (;;) {
        int rc = repl_frame_take(bytes, item_max, &item, &used, NULL);
        if (rc == VD_ERR_AGAIN) {
            VD_ASSERT(used > bytes.len && used <= item_max + REPL_FRAME_HEAD_BYTES);
            return;
        }
        if (rc != VD_OK)
            return;
        VD_ASSERT(used <= bytes.len && inside(bytes, item) && item.len <= item_max);
        check_item(item);
        bytes = vd_slice(bytes.data + used, bytes.len - used);
        item_max = REPL_FRAME_MAX_BYTES;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > INPUT_MAX_BYTES)
        return 0;
    if (data[0] == 0)
        check_stream(vd_slice(data + 1, size - 1));
    else
        check_item(vd_slice(data + 1, size - 1));
    return 0;
}
