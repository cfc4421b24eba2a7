/* proto/operation.c — field tables of operation.h. Fields are only ever added at the end. */
#include "proto/operation.h"
#include "proto/replication.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

#define USER_MAX_BYTES    1024
#define VISIBLE_MAX_BYTES (1024 * 1024)
#define RESUME_MAX_BYTES  (32 * 1024)

static const vdp_field_t attach_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_operation_attach_t, instance, 16),
    VDP_FIELD(VDP_U64, vdp_operation_attach_t, thread, 0),
};
static const vdp_field_t state_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_operation_state_t, boot_id, 16),
    VDP_FIELD(VDP_BOOL, vdp_operation_state_t, ready, 0),
    VDP_FIELD(VDP_BOOL, vdp_operation_state_t, writable, 0),
    VDP_FIELD(VDP_U64, vdp_operation_state_t, auth_epoch, 0),
    VDP_FIELD(VDP_U64, vdp_operation_state_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_operation_state_t, newest, 0),
    VDP_FIELD(VDP_U64, vdp_operation_state_t, durable, 0),
    VDP_FIELD(VDP_I64, vdp_operation_state_t, last_write_ms, 0),
    VDP_FIELD(VDP_BOOL, vdp_operation_state_t, has_users, 0),
    VDP_FIELD(VDP_BYTES, vdp_operation_state_t, set_id, 12),
    VDP_FIELD(VDP_U32, vdp_operation_state_t, role, 0),
    VDP_FIELD(VDP_U64, vdp_operation_state_t, majority, 0),
    VDP_FIELD(VDP_BYTES, vdp_operation_state_t, topology, VDP_TOPOLOGY_MAX),
    VDP_FIELD(VDP_U64, vdp_operation_state_t, fresh_ms, 0),
};
static const vdp_field_t command_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_operation_command_t, name, 64),
    VDP_FIELD(VDP_STRING, vdp_operation_command_t, db, VD_NAMESPACE_MAX_BYTES),
    VDP_FIELD(VDP_U32, vdp_operation_command_t, flags, 0),
    VDP_FIELD(VDP_STRING, vdp_operation_command_t, user, USER_MAX_BYTES),
    VDP_FIELD(VDP_STRING, vdp_operation_command_t, client, 128),
    VDP_FIELD(VDP_STRING, vdp_operation_command_t, app, 128),
    VDP_FIELD(VDP_U64, vdp_operation_command_t, connection_id, 0),
    VDP_FIELD(VDP_U64, vdp_operation_command_t, auth_epoch, 0),
    VDP_FIELD(VDP_BYTES, vdp_operation_command_t, lsid, 16),
    VDP_FIELD(VDP_BYTES, vdp_operation_command_t, lsid_user, 32),
    VDP_FIELD(VDP_I64, vdp_operation_command_t, txn_number, 0),
    VDP_FIELD(VDP_U32, vdp_operation_command_t, max_time_ms, 0),
    VDP_FIELD(VDP_BYTES, vdp_operation_command_t, visible, VISIBLE_MAX_BYTES),
    VDP_FIELD(VDP_U64, vdp_operation_command_t, cluster_time, 0),
    VDP_FIELD(VDP_U32, vdp_operation_command_t, cursors_max, 0),
    VDP_FIELD(VDP_U32, vdp_operation_command_t, sessions_max, 0),
    VDP_FIELD(VDP_U32, vdp_operation_command_t, batch_max, 0),
    VDP_FIELD(VDP_U64, vdp_operation_command_t, result_max, 0),
    VDP_FIELD(VDP_U32, vdp_operation_command_t, queue_wait_ms, 0),
    VDP_FIELD(VDP_BYTES, vdp_operation_command_t, roles, VISIBLE_MAX_BYTES),
};
static const vdp_field_t reply_fields[] = {
    VDP_FIELD(VDP_I64, vdp_operation_reply_t, status, 0),
    VDP_FIELD(VDP_U32, vdp_operation_reply_t, flags, 0),
    VDP_FIELD(VDP_U64, vdp_operation_reply_t, operation_time, 0),
    VDP_FIELD(VDP_I64, vdp_operation_reply_t, cursor_id, 0),
    VDP_FIELD(VDP_STRING, vdp_operation_reply_t, cursor_ns, 2 * VD_NAMESPACE_MAX_BYTES),
    VDP_FIELD(VDP_BYTES, vdp_operation_reply_t, resume, RESUME_MAX_BYTES),
    VDP_FIELD(VDP_U32, vdp_operation_reply_t, version_slot, 0),
    VDP_FIELD(VDP_U64, vdp_operation_reply_t, version_epoch, 0),
    VDP_FIELD(VDP_U64, vdp_operation_reply_t, version, 0),
    VDP_FIELD(VDP_U64, vdp_operation_reply_t, examined, 0),
};
static const vdp_field_t cancel_fields[] = {
    VDP_FIELD(VDP_U64, vdp_operation_cancel_t, target_request_id, 0),
};
static const vdp_field_t closed_fields[] = {
    VDP_FIELD(VDP_U64, vdp_operation_connection_closed_t, connection_id, 0),
};
static const vdp_field_t ping_fields[] = {
    VDP_FIELD(VDP_U64, vdp_operation_ping_t, unused, 0),
};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(OPERATION_ATTACH, operation_attach, vdp_operation_attach_t, attach_fields, 0);
MESSAGE(OPERATION_ATTACHED, operation_attached, vdp_operation_state_t, state_fields, 0);
MESSAGE(OPERATION_COMMAND, operation_command, vdp_operation_command_t, command_fields,
        VD_WIRE_MESSAGE_MAX_BYTES);
MESSAGE(OPERATION_REPLY, operation_reply, vdp_operation_reply_t, reply_fields,
        VD_WIRE_MESSAGE_MAX_BYTES);
MESSAGE(OPERATION_CANCEL, operation_cancel, vdp_operation_cancel_t, cancel_fields, 0);
MESSAGE(OPERATION_CONNECTION_CLOSED, operation_connection_closed, vdp_operation_connection_closed_t,
        closed_fields, 0);
MESSAGE(OPERATION_STATE, operation_state, vdp_operation_state_t, state_fields, 0);
MESSAGE(OPERATION_PING, operation_ping, vdp_operation_ping_t, ping_fields, 0);
MESSAGE(OPERATION_PONG, operation_pong, vdp_operation_ping_t, ping_fields, 0);
