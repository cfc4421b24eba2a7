/* proto/codec.h — one packer and one unpacker for all messages.
 *
 * Duty:    an item on a link = msgpack array [version, id, request_id, generation, deadline_ms,
 *          [fields...]] followed, to the item's end, by an opaque body (BSON or wire sections;
 *          never unpacked here). A message is a C struct with a table of its fields. New fields go
 *          to the end, optional; a reader skips fields it doesn't know and leaves absent ones at
 *          their zero value. Pure: no sockets, no threads, no globals.
 * Owner:   decoded slices point into the item.
 * Errors:  VD_ERR_PROTOCOL for anything malformed; counts are checked in the headers before
 *          anything is walked. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

#define VDP_VERSION 1

enum {
#define VDP_ID(name, number) VDP_##name = (number),
#include "proto/ids.def"
#undef VDP_ID
};

typedef enum {
    VDP_U64,    /* uint64_t */
    VDP_I64,    /* int64_t */
    VDP_U32,    /* uint32_t */
    VDP_BOOL,   /* bool */
    VDP_STRING, /* vd_slice_t, UTF-8 */
    VDP_BYTES,  /* vd_slice_t */
} vdp_type_t;

typedef struct {
    const char *name;
    vdp_type_t type;
    uint16_t offset;
    uint32_t max_bytes; /* STRING, BYTES */
} vdp_field_t;

#define VDP_FIELD(type, struct_type, member, max)                                                  \
    {                                                                                              \
#member, (type), offsetof(struct_type, member), (max)                                      \
    }

typedef struct {
    uint32_t id;
    const char *name;
    size_t size; /* of the struct */
    const vdp_field_t *fields;
    uint32_t field_count;
    uint32_t body_max_bytes; /* 0 = no body allowed */
} vdp_message_t;

typedef struct {
    uint32_t id;
    uint64_t request_id;  /* chosen by the asker; an answer repeats it; 0 = notice */
    uint64_t generation;  /* of the sender's start */
    uint64_t deadline_ms; /* how long the asker still waits; 0 = for ever */
} vdp_envelope_t;

/* Appends one item (without a length in front: link.h frames items). */
VD_MUST_CHECK int vdp_encode(vd_buf_t *out, const vdp_envelope_t *envelope,
                             const vdp_message_t *message, const void *fields, vd_slice_t body,
                             vd_error_t *err);
/* Reads the head; *ret_rest is what vdp_decode needs. */
VD_MUST_CHECK int vdp_decode_envelope(vd_slice_t item, vdp_envelope_t *ret_envelope,
                                      vd_slice_t *ret_rest, vd_error_t *err);
VD_MUST_CHECK int vdp_decode(const vdp_message_t *message, vd_slice_t rest, void *ret_fields,
                             vd_slice_t *ret_body, vd_error_t *err);
/* "OPERATION_COMMAND", or "unknown". */
const char *vdp_id_name(uint32_t id);
/* A message that a conversation's table does not have. VD_ERR_PROTOCOL: its number is of another
 * conversation or direction, and whoever sends it is cut off (link.h). VD_ERR_COMMAND_NOT_FOUND:
 * ids.def does not have it, the sender may be of a newer release: it is refused, nothing else. */
VD_MUST_CHECK int vdp_foreign(uint32_t id, const char *receiver, vd_error_t *err);
