/* proto/audit.c — field tables of audit.h. Fields are only ever added at the end. */
#include "proto/audit.h"

#include "proto/heads.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

static const vdp_field_t attach_fields[] = {VDP_FIELD(VDP_BYTES, vdp_audit_attach_t, boot_id, 16)};
static const vdp_field_t pull_fields[] = {
    VDP_FIELD(VDP_U64, vdp_audit_pull_t, journal, 0),
    VDP_FIELD(VDP_U32, vdp_audit_pull_t, journal_part, 0),
    VDP_FIELD(VDP_U64, vdp_audit_pull_t, events, 0),
    VDP_FIELD(VDP_U64, vdp_audit_pull_t, credit_bytes, 0),
    VDP_FIELD(VDP_U64, vdp_audit_pull_t, wait_ms, 0),
};
static const vdp_field_t batch_fields[] = {
    VDP_FIELD(VDP_U64, vdp_audit_batch_t, journal, 0),
    VDP_FIELD(VDP_U32, vdp_audit_batch_t, journal_part, 0),
    VDP_FIELD(VDP_U64, vdp_audit_batch_t, events, 0),
    VDP_FIELD(VDP_BOOL, vdp_audit_batch_t, more, 0),
};
static const vdp_field_t sealed_fields[] = {
    VDP_FIELD(VDP_U64, vdp_audit_sealed_t, journal, 0),
    VDP_FIELD(VDP_U32, vdp_audit_sealed_t, journal_part, 0),
    VDP_FIELD(VDP_U64, vdp_audit_sealed_t, events, 0),
    VDP_FIELD(VDP_U64, vdp_audit_sealed_t, head, 0),
    VDP_FIELD(VDP_BYTES, vdp_audit_sealed_t, signed_head, VDP_AUDIT_HEAD_BYTES),
    VDP_FIELD(VDP_BOOL, vdp_audit_sealed_t, alarm, 0),
    VDP_FIELD(VDP_BYTES, vdp_audit_sealed_t, checked,
              VDP_AUDIT_CHECKED_MAX *VDP_AUDIT_CHECKED_BYTES),
};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(AUDIT_ATTACH, audit_attach, vdp_audit_attach_t, attach_fields, 0);
MESSAGE(AUDIT_PULL, audit_pull, vdp_audit_pull_t, pull_fields, 0);
MESSAGE(AUDIT_BATCH, audit_batch, vdp_audit_batch_t, batch_fields, VDP_AUDIT_BODY_MAX_BYTES);
MESSAGE(AUDIT_SEALED, audit_sealed, vdp_audit_sealed_t, sealed_fields, 0);
