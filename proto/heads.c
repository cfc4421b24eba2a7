/* proto/heads.c — field tables of heads.h. Fields are only ever added at the end. */
#include "proto/heads.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

static const vdp_field_t head_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_audit_head_t, head, VDP_AUDIT_HEAD_BYTES),
    VDP_FIELD(VDP_BOOL, vdp_audit_head_t, alarm, 0),
    VDP_FIELD(VDP_BYTES, vdp_audit_head_t, checked, VDP_AUDIT_CHECKED_MAX *VDP_AUDIT_CHECKED_BYTES),
};
static const vdp_field_t peer_held_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_audit_peer_held_t, head, VDP_AUDIT_HEAD_BYTES),
    VDP_FIELD(VDP_BOOL, vdp_audit_peer_held_t, frozen, 0),
    VDP_FIELD(VDP_BYTES, vdp_audit_peer_held_t, other, VDP_AUDIT_HEAD_BYTES),
};
static const vdp_field_t keep_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_audit_keep_t, node, VDP_NODE_NAME_MAX),
    VDP_FIELD(VDP_BYTES, vdp_audit_keep_t, head, VDP_AUDIT_HEAD_BYTES),
    VDP_FIELD(VDP_BOOL, vdp_audit_keep_t, alarm, 0),
    VDP_FIELD(VDP_BYTES, vdp_audit_keep_t, checked, VDP_AUDIT_CHECKED_MAX *VDP_AUDIT_CHECKED_BYTES),
};
static const vdp_field_t held_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_audit_held_t, node, VDP_NODE_NAME_MAX),
    VDP_FIELD(VDP_BYTES, vdp_audit_held_t, head, VDP_AUDIT_HEAD_BYTES),
    VDP_FIELD(VDP_BOOL, vdp_audit_held_t, frozen, 0),
    VDP_FIELD(VDP_BYTES, vdp_audit_held_t, other, VDP_AUDIT_HEAD_BYTES),
};

#define MESSAGE(NAME, lower, type, table)                                                          \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME, sizeof(type), table, COUNT(table), 0}

MESSAGE(AUDIT_HELD, audit_held, vdp_audit_held_t, held_fields);
MESSAGE(REPLICATION_AUDIT_HEAD, replication_audit_head, vdp_audit_head_t, head_fields);
MESSAGE(REPLICATION_AUDIT_KEEP, replication_audit_keep, vdp_audit_keep_t, keep_fields);
MESSAGE(REPLICATION_AUDIT_KEPT, replication_audit_kept, vdp_audit_peer_held_t, peer_held_fields);
MESSAGE(REPLICATION_AUDIT_HELD, replication_audit_held, vdp_audit_held_t, held_fields);
MESSAGE(PEER_AUDIT_HEAD, peer_audit_head, vdp_audit_head_t, head_fields);
MESSAGE(PEER_AUDIT_HELD, peer_audit_held, vdp_audit_peer_held_t, peer_held_fields);
