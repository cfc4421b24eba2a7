/* proto/peer.c — field tables of peer.h. Fields are only ever added at the end. */
#include "proto/peer.h"
#include "proto/snapshot_fields.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

#define FIND_MAX_BYTES (64 * 8)

static const vdp_field_t hello_fields[] = {
    VDP_FIELD(VDP_U32, vdp_peer_hello_t, protocol, 0),
    VDP_FIELD(VDP_STRING, vdp_peer_hello_t, set, VDP_NODE_NAME_MAX),
    VDP_FIELD(VDP_BYTES, vdp_peer_hello_t, set_id, 12),
    VDP_FIELD(VDP_STRING, vdp_peer_hello_t, node, VDP_NODE_NAME_MAX),
    VDP_FIELD(VDP_STRING, vdp_peer_hello_t, peer, VDP_PEER_ADDRESS_MAX),
    VDP_FIELD(VDP_STRING, vdp_peer_hello_t, host, VDP_PEER_ADDRESS_MAX),
    VDP_FIELD(VDP_I64, vdp_peer_hello_t, config_version, 0),
    VDP_FIELD(VDP_I64, vdp_peer_hello_t, config_term, 0),
    VDP_FIELD(VDP_BYTES, vdp_peer_hello_t, instance, 16),
};
static const vdp_field_t status_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_status_t, sent_ms, 0),
    VDP_FIELD(VDP_U32, vdp_peer_status_t, state, 0),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, term, 0),
    VDP_FIELD(VDP_U32, vdp_peer_status_t, leader, 0),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, received, 0),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, flushed, 0),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, applied, 0),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, majority, 0),
    VDP_FIELD(VDP_I64, vdp_peer_status_t, config_version, 0),
    VDP_FIELD(VDP_I64, vdp_peer_status_t, config_term, 0),
    VDP_FIELD(VDP_U32, vdp_peer_status_t, sync_source, 0),
    VDP_FIELD(VDP_U32, vdp_peer_status_t, role, 0),
    VDP_FIELD(VDP_BOOL, vdp_peer_status_t, empty, 0),
    VDP_FIELD(VDP_STRING, vdp_peer_status_t, problem, VDP_PEER_PROBLEM_MAX),
    VDP_FIELD(VDP_BYTES, vdp_peer_status_t, builds, 8 * VDP_BUILDS_MAX),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, newest_age_ms, 0),
    VDP_FIELD(VDP_U64, vdp_peer_status_t, auth_position, 0),
};
static const vdp_field_t pull_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_pull_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_peer_pull_t, after, 0),
    VDP_FIELD(VDP_U64, vdp_peer_pull_t, credit, 0),
    VDP_FIELD(VDP_BOOL, vdp_peer_pull_t, loaded, 0),
    VDP_FIELD(VDP_U64, vdp_peer_pull_t, loaded_term, 0),
};
static const vdp_field_t entries_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_entries_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_peer_entries_t, after, 0),
    VDP_FIELD(VDP_U64, vdp_peer_entries_t, last, 0),
    VDP_FIELD(VDP_U32, vdp_peer_entries_t, count, 0),
    VDP_FIELD(VDP_U64, vdp_peer_entries_t, newest, 0),
    VDP_FIELD(VDP_BOOL, vdp_peer_entries_t, partial, 0),
    VDP_FIELD(VDP_U32, vdp_peer_entries_t, last_part, 0),
    VDP_FIELD(VDP_U64, vdp_peer_entries_t, majority, 0),
};
static const vdp_field_t ack_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_ack_t, stream, 0),   VDP_FIELD(VDP_U64, vdp_peer_ack_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_peer_ack_t, received, 0), VDP_FIELD(VDP_U64, vdp_peer_ack_t, flushed, 0),
    VDP_FIELD(VDP_U64, vdp_peer_ack_t, applied, 0),  VDP_FIELD(VDP_U64, vdp_peer_ack_t, credit, 0),
};
static const vdp_field_t majority_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_majority_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_peer_majority_t, majority, 0),
};
static const vdp_field_t fence_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_fence_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_peer_fence_t, position, 0),
};
static const vdp_field_t fenced_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_fenced_t, term, 0),
    VDP_FIELD(VDP_BOOL, vdp_peer_fenced_t, granted, 0),
    VDP_FIELD(VDP_U64, vdp_peer_fenced_t, position, 0),
    VDP_FIELD(VDP_U64, vdp_peer_fenced_t, heard_ms, 0),
};
static const vdp_field_t handover_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_handover_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_peer_handover_t, position, 0),
};
static const vdp_field_t ask_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_peer_ask_t, verb, 64),
    VDP_FIELD(VDP_STRING, vdp_peer_ask_t, argument, VDP_PEER_ASK_MAX),
    VDP_FIELD(VDP_STRING, vdp_peer_ask_t, argument2, VDP_PEER_ASK_MAX),
    VDP_FIELD(VDP_U32, vdp_peer_ask_t, hops, 0),
};
static const vdp_field_t answer_fields[] = {
    VDP_FIELD(VDP_I64, vdp_peer_answer_t, code, 0),
    VDP_FIELD(VDP_STRING, vdp_peer_answer_t, message, VDP_PEER_ASK_MAX),
};
static const vdp_field_t find_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_find_t, unused, 0),
};
static const vdp_field_t found_fields[] = {
    VDP_FIELD(VDP_U64, vdp_peer_found_t, timestamp, 0),
    VDP_FIELD(VDP_U64, vdp_peer_found_t, oldest, 0),
};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(PEER_HELLO, peer_hello, vdp_peer_hello_t, hello_fields, 0);
MESSAGE(PEER_WELCOME, peer_welcome, vdp_peer_hello_t, hello_fields, 0);
MESSAGE(PEER_HEARTBEAT, peer_heartbeat, vdp_peer_status_t, status_fields, VDP_SET_CONFIG_MAX);
MESSAGE(PEER_STATUS, peer_status, vdp_peer_status_t, status_fields, VDP_SET_CONFIG_MAX);
MESSAGE(PEER_PULL, peer_pull, vdp_peer_pull_t, pull_fields, 0);
MESSAGE(PEER_ENTRIES, peer_entries, vdp_peer_entries_t, entries_fields, VDP_ENTRIES_MAX);
MESSAGE(PEER_ACK, peer_ack, vdp_peer_ack_t, ack_fields, 0);
MESSAGE(PEER_MAJORITY, peer_majority, vdp_peer_majority_t, majority_fields, 0);
MESSAGE(PEER_FENCE, peer_fence, vdp_peer_fence_t, fence_fields, 0);
MESSAGE(PEER_FENCED, peer_fenced, vdp_peer_fenced_t, fenced_fields, 0);
MESSAGE(PEER_HANDOVER, peer_handover, vdp_peer_handover_t, handover_fields, 0);
MESSAGE(PEER_ASK, peer_ask, vdp_peer_ask_t, ask_fields, VDP_SET_CONFIG_MAX);
MESSAGE(PEER_ANSWER, peer_answer, vdp_peer_answer_t, answer_fields, VDP_SET_STATUS_MAX);
MESSAGE(PEER_FIND, peer_find, vdp_peer_find_t, find_fields, FIND_MAX_BYTES);
MESSAGE(PEER_FOUND, peer_found, vdp_peer_found_t, found_fields, 0);
MESSAGE(PEER_SNAPSHOT_OPEN, peer_snapshot_open, vdp_snapshot_open_t, snapshot_open_fields, 0);
MESSAGE(PEER_SNAPSHOT_OPENED, peer_snapshot_opened, vdp_snapshot_opened_t, snapshot_opened_fields,
        VDP_COPY_MANIFEST_MAX_BYTES);
MESSAGE(PEER_SNAPSHOT_READ, peer_snapshot_read, vdp_snapshot_read_t, snapshot_read_fields,
        VDP_COPY_KEY_MAX_BYTES);
MESSAGE(PEER_SNAPSHOT_CHUNK, peer_snapshot_chunk, vdp_snapshot_chunk_t, snapshot_chunk_fields,
        VDP_CHUNK_MAX);
MESSAGE(PEER_SNAPSHOT_CLOSE, peer_snapshot_close, vdp_snapshot_close_t, snapshot_close_fields, 0);
