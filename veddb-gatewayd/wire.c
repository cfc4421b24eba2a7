/* veddb-gatewayd/wire.c — see wire.h. Every length is compared with what is left before it is used.
 */
#include "veddb-gatewayd/wire.h"

#include "veddb-gatewayd/compress.h"

#include <pthread.h>

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_make(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = (c & 1) != 0 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        crc_table[i] = c;
    }
}

uint32_t gate_wire_crc32c(uint32_t crc, vd_slice_t bytes)
{
    (void)pthread_once(&crc_once, crc_make); /* can't fail for a static once */
    crc = ~crc;
    for (size_t i = 0; i < bytes.len; i++)
        crc = crc_table[(crc ^ bytes.data[i]) & 0xFF] ^ crc >> 8;
    return ~crc;
}

static void header_put(uint8_t out[GATE_WIRE_HEADER_BYTES], const gate_wire_header_t *header)
{
    vd_put_u32(out, header->length);
    vd_put_u32(out + 4, (uint32_t)header->request_id);
    vd_put_u32(out + 8, (uint32_t)header->response_to);
    vd_put_u32(out + 12, (uint32_t)header->op);
}

int gate_wire_header(vd_slice_t bytes, uint32_t max_bytes, gate_wire_header_t *ret_header,
                     vd_error_t *err)
{
    VD_ASSERT(ret_header != NULL);
    if (bytes.len < GATE_WIRE_HEADER_BYTES)
        return vd_error_set(err, VD_ERR_PROTOCOL, "message header is cut");
    uint32_t length = vd_get_u32(bytes.data);
    if (length < GATE_WIRE_HEADER_BYTES || length > max_bytes)
        return vd_error_set(err, VD_ERR_PROTOCOL, "message length %u is not within 16..%u", length,
                            max_bytes);
    ret_header->length = length;
    ret_header->request_id = (int32_t)vd_get_u32(bytes.data + 4);
    ret_header->response_to = (int32_t)vd_get_u32(bytes.data + 8);
    ret_header->op = (int32_t)vd_get_u32(bytes.data + 12);
    return VD_OK;
}

static int checksum_check(const gate_wire_header_t *header, vd_slice_t *payload, vd_error_t *err)
{
    if (payload->len < 8)
        return vd_error_set(err, VD_ERR_PROTOCOL, "message is too short for its checksum");
    uint8_t head[GATE_WIRE_HEADER_BYTES];
    header_put(head, header);
    payload->len -= 4;
    uint32_t crc = gate_wire_crc32c(gate_wire_crc32c(0, vd_slice(head, sizeof head)), *payload);
    if (crc != vd_get_u32(payload->data + payload->len))
        return vd_error_set(err, VD_ERR_PROTOCOL, "message checksum does not match");
    return VD_OK;
}

static int msg_parse(const gate_wire_header_t *header, vd_slice_t payload,
                     gate_wire_message_t *message, vd_error_t *err)
{
    if (payload.len < 4)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_MSG without flags");
    message->flags = vd_get_u32(payload.data);
    if ((message->flags & 0xFFFFu &
         ~(uint32_t)(GATE_MSG_CHECKSUM_PRESENT | GATE_MSG_MORE_TO_COME)) != 0)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_MSG has unknown required flags 0x%x",
                            message->flags);
    if ((message->flags & GATE_MSG_CHECKSUM_PRESENT) != 0) {
        int rc = checksum_check(header, &payload, err);
        if (rc != VD_OK)
            return rc;
    }
    message->section_bytes = vd_slice(payload.data + 4, payload.len - 4);
    if (vdp_sections_parse(message->section_bytes, &message->sections, err) != VD_OK)
        return VD_ERR_PROTOCOL;
    return VD_OK;
}

static int query_parse(vd_slice_t payload, gate_wire_message_t *message, vd_error_t *err)
{
    if (payload.len < 4 + 1 + 8 + 5)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_QUERY is cut");
    const uint8_t *name = payload.data + 4;
    const uint8_t *end = memchr(name, 0, payload.len - 4);
    if (end == NULL || end - name > VD_NAMESPACE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_QUERY without a namespace");
    vd_slice_t ns = vd_slice(name, (size_t)(end - name));
    static const char tail[] = ".$cmd";
    size_t tail_len = sizeof tail - 1;
    if (ns.len <= tail_len || memcmp(ns.data + ns.len - tail_len, tail, tail_len) != 0)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_QUERY on something that is not a command");
    message->db = vd_slice(ns.data, ns.len - tail_len);
    size_t used = 4 + ns.len + 1 + 8; /* flags, name, skip and return counts */
    if (payload.len < used + 5)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_QUERY is cut");
    vd_slice_t rest = vd_slice(payload.data + used, payload.len - used);
    vd_bson_t query;
    if (vd_bson_peek(rest, &query, err) != VD_OK)
        return VD_ERR_PROTOCOL;
    if (query.len != rest.len) { /* a field selector may follow, and nothing else */
        vd_bson_t fields;
        rest = vd_slice(rest.data + query.len, rest.len - query.len);
        if (vd_bson_peek(rest, &fields, err) != VD_OK)
            return VD_ERR_PROTOCOL;
        if (fields.len != rest.len)
            return vd_error_set(err, VD_ERR_PROTOCOL, "OP_QUERY has bytes behind its end");
    }
    message->sections.body = query;
    return VD_OK;
}

int gate_wire_parse(const gate_wire_header_t *header, vd_slice_t payload,
                    gate_wire_message_t *ret_message, vd_error_t *err)
{
    VD_ASSERT(header != NULL);
    VD_ASSERT(ret_message != NULL);
    memset(ret_message, 0, sizeof *ret_message);
    ret_message->op = header->op;
    switch (header->op) {
    case GATE_OP_MSG:
        return msg_parse(header, payload, ret_message, err);
    case GATE_OP_QUERY:
        return query_parse(payload, ret_message, err);
    default:
        return vd_error_set(err, VD_ERR_PROTOCOL, "operation code %d is not served", header->op);
    }
}

int gate_wire_compressed(vd_slice_t payload, uint32_t max_bytes,
                         gate_wire_compressed_t *ret_compressed, vd_error_t *err)
{
    VD_ASSERT(ret_compressed != NULL);
    if (payload.len < 9)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_COMPRESSED is cut");
    ret_compressed->original_op = (int32_t)vd_get_u32(payload.data);
    ret_compressed->uncompressed_bytes = vd_get_u32(payload.data + 4);
    ret_compressed->compressor = payload.data[8];
    ret_compressed->data = vd_slice(payload.data + 9, payload.len - 9);
    if (ret_compressed->original_op == GATE_OP_COMPRESSED)
        return vd_error_set(err, VD_ERR_PROTOCOL, "OP_COMPRESSED inside OP_COMPRESSED");
    if (max_bytes < GATE_WIRE_HEADER_BYTES ||
        ret_compressed->uncompressed_bytes > max_bytes - GATE_WIRE_HEADER_BYTES)
        return vd_error_set(err, VD_ERR_PROTOCOL, "uncompressed size %u is over the limit",
                            ret_compressed->uncompressed_bytes);
    return VD_OK;
}

/* Room for header + head bytes + document; the caller fills the head and commits. */
static int message_space(vd_buf_t *out, const gate_wire_header_t *header, uint8_t **ret_space)
{
    int rc = vd_buf_reserve(out, header->length, ret_space);
    if (rc == VD_OK)
        header_put(*ret_space, header);
    return rc;
}

int gate_wire_write_msg(vd_buf_t *out, int32_t request_id, int32_t response_to, uint32_t flags,
                        vd_slice_t document)
{
    gate_wire_header_t header = {(uint32_t)(GATE_WIRE_HEADER_BYTES + 5 + document.len), request_id,
                                 response_to, GATE_OP_MSG};
    uint8_t *space;
    int rc = message_space(out, &header, &space);
    if (rc != VD_OK)
        return rc;
    vd_put_u32(space + 16, flags);
    space[20] = 0;
    memcpy(space + 21, document.data, document.len);
    vd_buf_commit(out, header.length);
    return VD_OK;
}

int gate_wire_write_reply(vd_buf_t *out, int32_t request_id, int32_t response_to,
                          vd_slice_t document)
{
    gate_wire_header_t header = {(uint32_t)(GATE_WIRE_HEADER_BYTES + 20 + document.len), request_id,
                                 response_to, GATE_OP_REPLY};
    uint8_t *space;
    int rc = message_space(out, &header, &space);
    if (rc != VD_OK)
        return rc;
    vd_put_u32(space + 16, 8); /* AwaitCapable, as every server since 1.6 says */
    vd_put_u64(space + 20, 0);
    vd_put_u32(space + 28, 0);
    vd_put_u32(space + 32, 1);
    memcpy(space + 36, document.data, document.len);
    vd_buf_commit(out, header.length);
    return VD_OK;
}

int gate_wire_write_compressed(vd_buf_t *out, int32_t request_id, int32_t response_to,
                               uint32_t flags, vd_slice_t document, uint8_t compressor,
                               vd_error_t *err)
{
    vd_buf_t plain, packed;
    vd_buf_init(&plain, VD_WIRE_MESSAGE_MAX_BYTES);
    vd_buf_init(&packed, 2ul * VD_WIRE_MESSAGE_MAX_BYTES);
    int rc = gate_wire_write_msg(&plain, request_id, response_to, flags, document);
    if (rc != VD_OK)
        goto cleanup;
    vd_slice_t body = vd_slice(vd_buf_at(&plain, GATE_WIRE_HEADER_BYTES),
                               vd_buf_len(&plain) - GATE_WIRE_HEADER_BYTES);
    rc = gate_compress(compressor, body, &packed, err);
    if (rc != VD_OK)
        goto cleanup;
    gate_wire_header_t header = {(uint32_t)(GATE_WIRE_HEADER_BYTES + 9 + vd_buf_len(&packed)),
                                 request_id, response_to, GATE_OP_COMPRESSED};
    uint8_t *space;
    rc = message_space(out, &header, &space);
    if (rc != VD_OK)
        goto cleanup;
    vd_put_u32(space + 16, GATE_OP_MSG);
    vd_put_u32(space + 20, (uint32_t)body.len);
    space[24] = compressor;
    memcpy(space + 25, vd_buf_slice(&packed).data, vd_buf_len(&packed));
    vd_buf_commit(out, header.length);
cleanup:
    vd_buf_done(&plain);
    vd_buf_done(&packed);
    return rc;
}
