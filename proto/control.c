/* proto/control.c — field tables of control.h. Fields are only ever added at the end. */
#include "proto/control.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

#define STATUS_JSON_MAX   (4 * 1024 * 1024) /* bytes; a storage with many collections */
#define KEPT_MAX          (512 * 1024)      /* bytes */
#define OPERATOR_JSON_MAX (180 * 1024)      /* bytes; must fit a packet of the local socket */

static const vdp_field_t hello_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_control_hello_t, program, 64),
    VDP_FIELD(VDP_U64, vdp_control_hello_t, pid, 0),
    VDP_FIELD(VDP_U64, vdp_control_hello_t, protocol, 0),
    VDP_FIELD(VDP_STRING, vdp_control_hello_t, version, 64),
};
static const vdp_field_t welcome_fields[] = {
    VDP_FIELD(VDP_U64, vdp_control_welcome_t, heartbeat_ms, 0),
};
static const vdp_field_t ready_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_control_ready_t, detail, 1024),
};
static const vdp_field_t heartbeat_fields[] = {
    VDP_FIELD(VDP_U64, vdp_control_heartbeat_t, sequence, 0),
    VDP_FIELD(VDP_STRING, vdp_control_heartbeat_t, state, 32),
    VDP_FIELD(VDP_U64, vdp_control_heartbeat_t, busy_ms_max, 0),
};
static const vdp_field_t drain_fields[] = {
    VDP_FIELD(VDP_U64, vdp_control_drain_t, grace_ms, 0),
    VDP_FIELD(VDP_BYTES, vdp_control_drain_t, reason, 512),
};
static const vdp_field_t text_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_control_text_t, text, 256),
};
static const vdp_field_t fatal_fields[] = {
    VDP_FIELD(VDP_BOOL, vdp_control_fatal_t, structural, 0),
    VDP_FIELD(VDP_BYTES, vdp_control_fatal_t, message, 1024),
};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(CONTROL_HELLO, control_hello, vdp_control_hello_t, hello_fields, 0);
MESSAGE(CONTROL_WELCOME, control_welcome, vdp_control_welcome_t, welcome_fields, 0);
MESSAGE(CONTROL_READY, control_ready, vdp_control_ready_t, ready_fields, 0);
MESSAGE(CONTROL_HEARTBEAT, control_heartbeat, vdp_control_heartbeat_t, heartbeat_fields, 0);
MESSAGE(CONTROL_HEARTBEAT_SEEN, control_heartbeat_seen, vdp_control_heartbeat_t, heartbeat_fields,
        0);
MESSAGE(CONTROL_DRAIN, control_drain, vdp_control_drain_t, drain_fields, 0);
MESSAGE(CONTROL_DRAINED, control_drained, vdp_control_drain_t, drain_fields, 0);
MESSAGE(CONTROL_STOP, control_stop, vdp_control_drain_t, drain_fields, 0);
MESSAGE(CONTROL_STATUS, control_status, vdp_control_text_t, text_fields, 0);
MESSAGE(CONTROL_STATUS_REPLY, control_status_reply, vdp_control_text_t, text_fields,
        STATUS_JSON_MAX);
MESSAGE(CONTROL_LOG_LEVEL, control_log_level, vdp_control_text_t, text_fields, 0);
MESSAGE(CONTROL_LOG_LEVEL_SET, control_log_level_set, vdp_control_text_t, text_fields, 0);
MESSAGE(CONTROL_FATAL, control_fatal, vdp_control_fatal_t, fatal_fields, 0);

static const vdp_field_t ask_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_control_ask_t, verb, 64),
    VDP_FIELD(VDP_STRING, vdp_control_ask_t, argument, 4096),
    VDP_FIELD(VDP_STRING, vdp_control_ask_t, argument2, 4096),
};
static const vdp_field_t answer_fields[] = {
    VDP_FIELD(VDP_I64, vdp_control_answer_t, code, 0),
    VDP_FIELD(VDP_BYTES, vdp_control_answer_t, message, 4096),
};
static const vdp_field_t request_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_operator_request_t, verb, 64),
    VDP_FIELD(VDP_STRING, vdp_operator_request_t, argument, 4096),
    VDP_FIELD(VDP_STRING, vdp_operator_request_t, argument2, 4096),
};
static const vdp_field_t reply_fields[] = {
    VDP_FIELD(VDP_I64, vdp_operator_reply_t, code, 0),
    VDP_FIELD(VDP_BYTES, vdp_operator_reply_t, message, 4096),
};
static const vdp_field_t kept_fields[] = {
    VDP_FIELD(VDP_U64, vdp_control_kept_t, format, 0),
};
MESSAGE(CONTROL_KEEP, control_keep, vdp_control_kept_t, kept_fields, KEPT_MAX);
MESSAGE(CONTROL_KEPT, control_kept, vdp_control_kept_t, kept_fields, KEPT_MAX);
MESSAGE(CONTROL_ASK, control_ask, vdp_control_ask_t, ask_fields, 0);
MESSAGE(CONTROL_ANSWER, control_answer, vdp_control_answer_t, answer_fields, OPERATOR_JSON_MAX);
MESSAGE(OPERATOR_REQUEST, operator_request, vdp_operator_request_t, request_fields, 0);
MESSAGE(OPERATOR_REPLY, operator_reply, vdp_operator_reply_t, reply_fields, OPERATOR_JSON_MAX);
