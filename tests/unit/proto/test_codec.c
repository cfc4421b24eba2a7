/* tests/unit/proto/test_codec.c — every message: its golden bytes, both ways; and what a hostile
 * or newer writer may send. */
#include "proto/audit.h"
#include "proto/codec.h"
#include "proto/control.h"
#include "proto/failure.h"
#include "proto/keys.h"
#include "proto/operation.h"
#include "proto/peer.h"
#include "proto/replication.h"
#include "proto/rotation.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static const vdp_message_t *const all[] = {
    &vdp_control_hello,
    &vdp_control_welcome,
    &vdp_control_ready,
    &vdp_control_heartbeat,
    &vdp_control_heartbeat_seen,
    &vdp_control_drain,
    &vdp_control_drained,
    &vdp_control_stop,
    &vdp_control_status,
    &vdp_control_status_reply,
    &vdp_control_log_level,
    &vdp_control_log_level_set,
    &vdp_control_fatal,
    &vdp_control_ask,
    &vdp_control_answer,
    &vdp_control_keep,
    &vdp_control_kept,
    &vdp_operator_request,
    &vdp_operator_reply,
    &vdp_operation_attach,
    &vdp_operation_attached,
    &vdp_operation_command,
    &vdp_operation_reply,
    &vdp_operation_cancel,
    &vdp_operation_connection_closed,
    &vdp_operation_state,
    &vdp_operation_ping,
    &vdp_operation_pong,
    &vdp_keys_open,
    &vdp_keys_opened,
    &vdp_keys_status,
    &vdp_keys_status_reply,
    &vdp_replication_attach,
    &vdp_replication_attached,
    &vdp_replication_state,
    &vdp_replication_role,
    &vdp_replication_role_set,
    &vdp_replication_topology,
    &vdp_replication_tail,
    &vdp_replication_batch,
    &vdp_replication_apply,
    &vdp_replication_applied,
    &vdp_replication_positions,
    &vdp_replication_config,
    &vdp_replication_config_set,
    &vdp_replication_status,
    &vdp_replication_ask,
    &vdp_replication_answer,
    &vdp_replication_find,
    &vdp_replication_found,
    &vdp_replication_rollback,
    &vdp_replication_rolled_back,
    &vdp_replication_count,
    &vdp_replication_counted,
    &vdp_snapshot_open,
    &vdp_snapshot_opened,
    &vdp_snapshot_read,
    &vdp_snapshot_chunk,
    &vdp_snapshot_close,
    &vdp_load_begin,
    &vdp_load_state,
    &vdp_load_chunk,
    &vdp_load_chunk_done,
    &vdp_load_end,
    &vdp_load_ended,
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
    &vdp_audit_attach,
    &vdp_audit_pull,
    &vdp_audit_batch,
    &vdp_audit_sealed,
    &vdp_audit_held,
    &vdp_replication_audit_head,
    &vdp_replication_audit_keep,
    &vdp_replication_audit_kept,
    &vdp_replication_audit_held,
    &vdp_peer_audit_head,
    &vdp_peer_audit_held,
    &vdp_rotation_attach,
    &vdp_rotation_order,
    &vdp_rotation_report,
    &vdp_rotation_backups,
    &vdp_rotation_ask,
    &vdp_rotation_answer,
    &vdp_failure,
};

static const struct {
    const char *name;
    uint32_t number;
} ids[] = {
#define VDP_ID(name, number) {#name, (number)},
#include "proto/ids.def"
#undef VDP_ID
};

typedef union {
    uint64_t align;
    uint8_t bytes[512];
} fields_t;

static const uint8_t pattern[64] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x10, 0x20, 0x30};

/* Values that follow from the field's place alone, so that golden bytes need no table of their own.
 */
static void fill(const vdp_message_t *message, fields_t *fields)
{
    memset(fields, 0, sizeof *fields);
    cr_assert_leq(message->size, sizeof fields->bytes);
    for (uint32_t i = 0; i < message->field_count; i++) {
        const vdp_field_t *field = &message->fields[i];
        uint8_t *at = fields->bytes + field->offset;
        uint64_t u = 0x0102030405060708ull + i;
        int64_t s = -(int64_t)(1000 + i);
        uint32_t n = 70000 + i;
        bool b = i % 2 == 0;
        vd_slice_t text = vd_slice_str(field->name);
        vd_slice_t bytes = vd_slice(pattern, field->max_bytes < 12 ? field->max_bytes : 12);
        const void *from = field->type == VDP_U64      ? (const void *)&u
                           : field->type == VDP_I64    ? (const void *)&s
                           : field->type == VDP_U32    ? (const void *)&n
                           : field->type == VDP_BOOL   ? (const void *)&b
                           : field->type == VDP_STRING ? (const void *)&text
                                                       : (const void *)&bytes;
        size_t size = field->type == VDP_U32                                  ? 4
                      : field->type == VDP_BOOL                               ? sizeof(bool)
                      : field->type == VDP_STRING || field->type == VDP_BYTES ? sizeof(vd_slice_t)
                                                                              : 8;
        memcpy(at, from, size);
    }
}

static bool same(const vdp_message_t *message, const fields_t *a, const fields_t *b)
{
    for (uint32_t i = 0; i < message->field_count; i++) {
        const vdp_field_t *field = &message->fields[i];
        const uint8_t *x = a->bytes + field->offset, *y = b->bytes + field->offset;
        if (field->type == VDP_STRING || field->type == VDP_BYTES) {
            vd_slice_t sx, sy;
            memcpy(&sx, x, sizeof sx);
            memcpy(&sy, y, sizeof sy);
            if (!vd_slice_equal(sx, sy))
                return false;
        } else if (memcmp(x, y,
                          field->type == VDP_BOOL  ? sizeof(bool)
                          : field->type == VDP_U32 ? 4
                                                   : 8) != 0) {
            return false;
        }
    }
    return true;
}

static const vdp_envelope_t sample_envelope = {
    .request_id = 0xa1b2c3d4e5f60718ull, .generation = 7, .deadline_ms = 30000};

static void encode_sample(const vdp_message_t *message, vd_buf_t *out)
{
    fields_t fields;
    vd_error_t err = VD_ERROR_INIT;
    fill(message, &fields);
    vd_slice_t body = message->body_max_bytes > 0 ? vd_slice_str(message->name) : VD_SLICE_NULL;
    int rc = vdp_encode(out, &sample_envelope, message, fields.bytes, body, &err);
    cr_assert_eq(rc, VD_OK, "%s: %s", message->name, err.message);
}

static void golden_path(const char *name, char *path, size_t size)
{
    (void)snprintf(path, size, "tests/golden/proto/%s.hex", name);
}

static size_t golden_read(const char *name, uint8_t *out, size_t max)
{
    char path[128];
    golden_path(name, path, sizeof path);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s: no golden bytes (%s)", name, path);
    size_t len = 0;
    unsigned byte;
    while (len < max && fscanf(file, "%2x", &byte) == 1)
        out[len++] = (uint8_t)byte;
    (void)fclose(file);
    return len;
}

/* Only for a new message: GOLDEN_WRITE=1 makes the file that isn't there yet. Files are never
 * changed. */
static void golden_write(const char *name, vd_slice_t bytes)
{
    char path[128];
    golden_path(name, path, sizeof path);
    FILE *file = fopen(path, "wx");
    if (file == NULL)
        return;
    for (size_t i = 0; i < bytes.len; i++)
        (void)fprintf(file, "%02x%s", bytes.data[i],
                      i % 32 == 31 || i + 1 == bytes.len ? "\n" : " ");
    (void)fclose(file);
}

Test(codec, golden_bytes_both_ways)
{
    for (size_t i = 0; i < VD_COUNT_OF(all); i++) {
        const vdp_message_t *message = all[i];
        uint8_t golden[4096];
        vd_buf_t item;
        fields_t expected, fields;
        vdp_envelope_t envelope;
        vd_slice_t rest, body;
        vd_error_t err = VD_ERROR_INIT;
        vd_buf_init(&item, 1 << 20);
        encode_sample(message, &item);
        if (getenv("GOLDEN_WRITE") != NULL)
            golden_write(message->name, vd_buf_slice(&item));
        size_t len = golden_read(message->name, golden, sizeof golden);
        cr_assert(vd_slice_equal(vd_slice(golden, len), vd_buf_slice(&item)),
                  "%s is written otherwise than it was", message->name);

        cr_assert_eq(vdp_decode_envelope(vd_slice(golden, len), &envelope, &rest, &err), VD_OK);
        cr_assert_eq(envelope.id, message->id);
        cr_assert_eq(envelope.request_id, sample_envelope.request_id);
        cr_assert_eq(envelope.generation, sample_envelope.generation);
        cr_assert_eq(envelope.deadline_ms, sample_envelope.deadline_ms);
        memset(&fields, 0x5a, sizeof fields);
        cr_assert_eq(vdp_decode(message, rest, fields.bytes, &body, &err), VD_OK, "%s: %s",
                     message->name, err.message);
        fill(message, &expected);
        cr_assert(same(message, &expected, &fields), "%s", message->name);
        cr_assert(message->body_max_bytes == 0 ? body.len == 0 : vd_slice_is(body, message->name));
        vd_buf_done(&item);
    }
}

Test(codec, ids_are_unique_and_have_messages)
{
    for (size_t i = 0; i < VD_COUNT_OF(ids); i++) {
        const vdp_message_t *message = NULL;
        for (size_t j = 0; j < VD_COUNT_OF(ids); j++)
            cr_assert(i == j || ids[i].number != ids[j].number, "%s and %s", ids[i].name,
                      ids[j].name);
        for (size_t j = 0; j < VD_COUNT_OF(all); j++)
            if (all[j]->id == ids[i].number)
                message = all[j];
        cr_assert_not_null(message, "%s has no message in this test", ids[i].name);
        cr_assert_str_eq(message->name, ids[i].name);
        cr_assert_str_eq(vdp_id_name(ids[i].number), ids[i].name);
        uint8_t golden[4096];
        cr_assert_gt(golden_read(ids[i].name, golden, sizeof golden), 0);
    }
    cr_assert_eq(VD_COUNT_OF(ids), VD_COUNT_OF(all));
    cr_assert_str_eq(vdp_id_name(999999), "unknown");
}

/* A prefix of an item may decode only when what is cut off is body alone. The bytes stand at the
 * end of a heap block, so that ASan sees any step too far. */
Test(codec, every_truncation_is_refused)
{
    for (size_t i = 0; i < VD_COUNT_OF(all); i++) {
        vd_buf_t item;
        vd_buf_init(&item, 1 << 20);
        encode_sample(all[i], &item);
        size_t body_len = all[i]->body_max_bytes > 0 ? strlen(all[i]->name) : 0;
        for (size_t len = 0; len < vd_buf_len(&item); len++) {
            uint8_t *copy = malloc(len == 0 ? 1 : len);
            memcpy(copy, vd_buf_at(&item, 0), len);
            vdp_envelope_t envelope;
            vd_slice_t rest, body;
            fields_t fields;
            int rc = vdp_decode_envelope(vd_slice(copy, len), &envelope, &rest, NULL);
            if (rc == VD_OK)
                rc = vdp_decode(all[i], rest, fields.bytes, &body, NULL);
            bool only_body = len + body_len >= vd_buf_len(&item);
            cr_assert_eq(rc, only_body ? VD_OK : VD_ERR_PROTOCOL, "%s cut at %zu", all[i]->name,
                         len);
            free(copy);
        }
        vd_buf_done(&item);
    }
}

static int decode_hex(const vdp_message_t *message, const uint8_t *bytes, size_t len, void *fields,
                      vd_slice_t *body)
{
    vdp_envelope_t envelope;
    vd_slice_t rest;
    int rc = vdp_decode_envelope(vd_slice(bytes, len), &envelope, &rest, NULL);
    return rc == VD_OK ? vdp_decode(message, rest, fields, body, NULL) : rc;
}

#define HEAD 0x96, 0x01, 0x06, 0x00, 0x00, 0x00

Test(codec, hostile_items)
{
    static const struct {
        const char *what;
        uint8_t bytes[40];
        size_t len;
        int rc;
    } cases[] = {
        {"good heartbeat", {HEAD, 0x93, 0x05, 0xa1, 'x', 0x07}, 11, VD_OK},
        {"wide numbers and str8 are read too",
         {HEAD, 0x93, 0xcd, 0x00, 0x05, 0xd9, 0x01, 'x', 0x07},
         14,
         VD_OK},
        {"old writer: two fields", {HEAD, 0x92, 0x05, 0xa1, 'x'}, 10, VD_OK},
        {"old writer: none", {HEAD, 0x90}, 7, VD_OK},
        {"newer writer: more fields",
         {HEAD, 0x97, 0x05, 0xa1, 'x', 0x07, 0xc0, 0xc3, 0xa2, 'h', 'i', 0xd0, 0x80},
         18,
         VD_OK},
        {"newer field is a map",
         {HEAD, 0x94, 0x05, 0xa1, 'x', 0x07, 0x81, 0x01, 0x02},
         14,
         VD_ERR_PROTOCOL},
        {"empty", {0}, 0, VD_ERR_PROTOCOL},
        {"a map", {0x86, 0x01}, 2, VD_ERR_PROTOCOL},
        {"another version", {0x96, 0x02, 0x06, 0x00, 0x00, 0x00, 0x90}, 7, VD_ERR_PROTOCOL},
        {"five in the head", {0x95, 0x01, 0x06, 0x00, 0x00, 0x90}, 6, VD_ERR_PROTOCOL},
        {"id beyond 32 bits",
         {0x96, 0x01, 0xcf, 0, 0, 0, 1, 0, 0, 0, 0, 0x00, 0x00, 0x00, 0x90},
         15,
         VD_ERR_PROTOCOL},
        {"negative id", {0x96, 0x01, 0xff, 0x00, 0x00, 0x00, 0x90}, 7, VD_ERR_PROTOCOL},
        {"2^32 fields claimed", {HEAD, 0xdd, 0xff, 0xff, 0xff, 0xff}, 11, VD_ERR_PROTOCOL},
        {"60000 fields claimed", {HEAD, 0xdc, 0xea, 0x60, 0x05}, 10, VD_ERR_PROTOCOL},
        {"more fields than bytes", {HEAD, 0x9f, 0x05, 0xa1, 'x'}, 10, VD_ERR_PROTOCOL},
        {"string of 4 GiB",
         {HEAD, 0x93, 0x05, 0xdb, 0xff, 0xff, 0xff, 0xff, 'x'},
         14,
         VD_ERR_PROTOCOL},
        {"bytes for a string", {HEAD, 0x93, 0x05, 0xc4, 0x01, 'x', 0x07}, 13, VD_ERR_PROTOCOL},
        {"bad UTF-8", {HEAD, 0x93, 0x05, 0xa1, 0xff, 0x07}, 11, VD_ERR_PROTOCOL},
        {"negative for unsigned", {HEAD, 0x93, 0xff, 0xa1, 'x', 0x07}, 11, VD_ERR_PROTOCOL},
        {"float for a number",
         {HEAD, 0x93, 0xca, 0, 0, 0, 0, 0xa1, 'x', 0x07},
         15,
         VD_ERR_PROTOCOL},
        {"a body where none may be", {HEAD, 0x93, 0x05, 0xa1, 'x', 0x07, 'b'}, 12, VD_ERR_PROTOCOL},
        {"string over its limit",
         {HEAD, 0x93, 0x05, 0xd9, 33,  'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x',
          'x',  'x',  'x',  'x',  'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x'},
         40,
         VD_ERR_PROTOCOL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vdp_control_heartbeat_t beat;
        vd_slice_t body;
        uint8_t *copy = malloc(cases[i].len == 0 ? 1 : cases[i].len);
        memcpy(copy, cases[i].bytes, cases[i].len);
        int rc = decode_hex(&vdp_control_heartbeat, copy, cases[i].len, &beat, &body);
        cr_assert_eq(rc, cases[i].rc, "%s: %d", cases[i].what, rc);
        free(copy);
    }
}

Test(codec, absent_fields_are_zero)
{
    static const uint8_t bytes[] = {HEAD, 0x91, 0x05};
    vdp_control_heartbeat_t beat = {9, VD_SLICE_LIT("old"), 9};
    cr_assert_eq(decode_hex(&vdp_control_heartbeat, bytes, sizeof bytes, &beat, NULL), VD_OK);
    cr_assert_eq(beat.sequence, 5);
    cr_assert_eq(beat.state.len, 0);
    cr_assert_eq(beat.busy_ms_max, 0);
}

Test(codec, integers_at_their_limits)
{
    static const int64_t values[] = {0,      -1,        -32,       -33,       127,
                                     128,    -128,      -129,      255,       65535,
                                     -32768, INT32_MIN, INT32_MAX, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < VD_COUNT_OF(values); i++) {
        vdp_operation_reply_t reply = {.status = values[i],
                                       .flags = (uint32_t)values[i],
                                       .operation_time = (uint64_t)values[i],
                                       .cursor_id = values[i]};
        vdp_operation_reply_t back;
        vdp_envelope_t envelope = {.request_id = (uint64_t)values[i]};
        vd_slice_t rest;
        vd_buf_t item;
        vd_buf_init(&item, 4096);
        cr_assert_eq(
            vdp_encode(&item, &envelope, &vdp_operation_reply, &reply, VD_SLICE_NULL, NULL), VD_OK);
        cr_assert_eq(vdp_decode_envelope(vd_buf_slice(&item), &envelope, &rest, NULL), VD_OK);
        cr_assert_eq(envelope.request_id, (uint64_t)values[i]);
        cr_assert_eq(vdp_decode(&vdp_operation_reply, rest, &back, NULL, NULL), VD_OK);
        cr_assert_eq(back.status, values[i]);
        cr_assert_eq(back.flags, (uint32_t)values[i]);
        cr_assert_eq(back.operation_time, (uint64_t)values[i]);
        cr_assert_eq(back.cursor_id, values[i]);
        vd_buf_done(&item);
    }
}

Test(codec, the_writer_refuses_too)
{
    vd_buf_t item;
    vd_buf_init(&item, 1 << 20);
    vdp_envelope_t envelope = {0};
    char text[65];
    memset(text, 'x', sizeof text);
    vdp_control_hello_t hello = {.program = vd_slice(text, 64)};
    cr_assert_eq(vdp_encode(&item, &envelope, &vdp_control_hello, &hello, VD_SLICE_NULL, NULL),
                 VD_OK);
    size_t before = vd_buf_len(&item);
    hello.program = vd_slice(text, 65);
    cr_assert_eq(vdp_encode(&item, &envelope, &vdp_control_hello, &hello, VD_SLICE_NULL, NULL),
                 VD_ERR_INVALID_LENGTH);
    hello.program = VD_SLICE_LIT("abcdefgh\xc3");
    cr_assert_eq(vdp_encode(&item, &envelope, &vdp_control_hello, &hello, VD_SLICE_NULL, NULL),
                 VD_ERR_BAD_VALUE);
    hello.program = VD_SLICE_LIT("caf\xc3\xa9");
    cr_assert_eq(vdp_encode(&item, &envelope, &vdp_control_hello, &hello, VD_SLICE_LIT("b"), NULL),
                 VD_ERR_INVALID_LENGTH);
    cr_assert_eq(vd_buf_len(&item), before, "a refused item leaves nothing behind");
    vd_buf_done(&item);
    vd_buf_init(&item, 16);
    cr_assert_eq(vdp_encode(&item, &envelope, &vdp_control_hello, &hello, VD_SLICE_NULL, NULL),
                 VD_ERR_FULL);
    vd_buf_done(&item);
}

Test(codec, failure_travels)
{
    vd_error_t err = VD_ERROR_INIT, back = VD_ERROR_INIT;
    (void)vd_error_set(&err, VD_ERR_KEY_WRONG, "the key does not open this");
    vdp_failure_t failure = vdp_failure_from(&err);
    cr_assert_eq(vdp_failure_to(&failure, &back), VD_ERR_KEY_WRONG);
    cr_assert_str_eq(back.message, err.message);
    static const int64_t absurd[] = {0, 5, INT64_MIN};
    for (size_t i = 0; i < VD_COUNT_OF(absurd); i++) {
        vd_error_t refused = VD_ERROR_INIT;
        failure.code = absurd[i];
        cr_assert_eq(vdp_failure_to(&failure, &refused), VD_ERR_PROTOCOL);
    }
}
