/* veddb-gatewayd/wire.h — bytes <-> messages of MongoDB's wire protocol.
 *
 * Duty:    OP_MSG (document sequences, checksum, flags), OP_QUERY for the legacy handshake,
 *          OP_COMPRESSED's head, OP_REPLY out. Pure: no sockets, no allocation beyond the output
 *          buffer. What a parser returns borrows the message.
 * Limits:  the caller says how long a message may be; every length is checked before it is used.
 *          Malformed: VD_ERR_PROTOCOL, and the connection is closed. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/limits.h"
#include "proto/sections.h"

#define GATE_WIRE_HEADER_BYTES 16

enum { GATE_OP_REPLY = 1, GATE_OP_QUERY = 2004, GATE_OP_COMPRESSED = 2012, GATE_OP_MSG = 2013 };
enum {
    GATE_MSG_CHECKSUM_PRESENT = 1u << 0,
    GATE_MSG_MORE_TO_COME = 1u << 1,
    GATE_MSG_EXHAUST_ALLOWED = 1u << 16,
};

typedef struct {
    uint32_t length; /* of the whole message */
    int32_t request_id, response_to, op;
} gate_wire_header_t;

typedef struct {
    int32_t op;               /* GATE_OP_MSG or GATE_OP_QUERY */
    uint32_t flags;           /* OP_MSG's */
    vd_slice_t section_bytes; /* OP_MSG: what travels on to storage */
    vdp_sections_t sections;  /* OP_QUERY: body is the query, no sequences */
    vd_slice_t db;            /* OP_QUERY: in front of ".$cmd" */
} gate_wire_message_t;

typedef struct {
    int32_t original_op;
    uint32_t uncompressed_bytes;
    uint8_t compressor;
    vd_slice_t data;
} gate_wire_compressed_t;

/* Reads the 16 bytes of a header; refuses lengths outside 16..max_bytes. */
VD_MUST_CHECK int gate_wire_header(vd_slice_t bytes, uint32_t max_bytes,
                                   gate_wire_header_t *ret_header, vd_error_t *err);
/* Reads the payload (everything behind the header) of an OP_MSG or OP_QUERY; header->op says which.
 */
VD_MUST_CHECK int gate_wire_parse(const gate_wire_header_t *header, vd_slice_t payload,
                                  gate_wire_message_t *ret_message, vd_error_t *err);
/* Reads OP_COMPRESSED's head; refuses an uncompressed size above max_bytes and nested compression.
 */
VD_MUST_CHECK int gate_wire_compressed(vd_slice_t payload, uint32_t max_bytes,
                                       gate_wire_compressed_t *ret_compressed, vd_error_t *err);

VD_MUST_CHECK int gate_wire_write_msg(vd_buf_t *out, int32_t request_id, int32_t response_to,
                                      uint32_t flags, vd_slice_t document);
VD_MUST_CHECK int gate_wire_write_reply(vd_buf_t *out, int32_t request_id, int32_t response_to,
                                        vd_slice_t document);
/* An OP_MSG inside OP_COMPRESSED. */
VD_MUST_CHECK int gate_wire_write_compressed(vd_buf_t *out, int32_t request_id, int32_t response_to,
                                             uint32_t flags, vd_slice_t document,
                                             uint8_t compressor, vd_error_t *err);

/* CRC-32C (Castagnoli) as OP_MSG's checksum uses it; start with 0. */
uint32_t gate_wire_crc32c(uint32_t crc, vd_slice_t bytes);
