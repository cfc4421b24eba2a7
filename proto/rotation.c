/* proto/rotation.c — field tables of rotation.h. Fields are only ever added at the end. */
#include "proto/rotation.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

static const vdp_field_t attach_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_rotation_attach_t, boot_id, 16),
    VDP_FIELD(VDP_U32, vdp_rotation_attach_t, highest_key_version, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_attach_t, rotation, 0),
};
static const vdp_field_t order_fields[] = {
    VDP_FIELD(VDP_U64, vdp_rotation_order_t, rotation, 0),
    VDP_FIELD(VDP_U32, vdp_rotation_order_t, step, 0),
    VDP_FIELD(VDP_U32, vdp_rotation_order_t, active_version, 0),
    VDP_FIELD(VDP_U32, vdp_rotation_order_t, old_version, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_order_t, rate_max_bytes, 0),
    VDP_FIELD(VDP_U32, vdp_rotation_order_t, latency_rise_max, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_order_t, wraps, 0),
};
static const vdp_field_t report_fields[] = {
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, rotation, 0),
    VDP_FIELD(VDP_U32, vdp_rotation_report_t, step, 0),
    VDP_FIELD(VDP_BOOL, vdp_rotation_report_t, done, 0),
    VDP_FIELD(VDP_BOOL, vdp_rotation_report_t, failed, 0),
    VDP_FIELD(VDP_U32, vdp_rotation_report_t, pass, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, bytes_done, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, bytes_total, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, documents_done, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, blocks_rewritten, 0),
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, rate, 0),
    VDP_FIELD(VDP_STRING, vdp_rotation_report_t, current, 256),
    VDP_FIELD(VDP_STRING, vdp_rotation_report_t, note, 512),
    VDP_FIELD(VDP_U64, vdp_rotation_report_t, blocks_encrypted, 0),
    VDP_FIELD(VDP_BOOL, vdp_rotation_report_t, left_estimated, 0),
};
static const vdp_field_t backups_fields[] = {
    VDP_FIELD(VDP_U32, vdp_rotation_backups_t, count, 0),
};
static const vdp_field_t ask_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_rotation_ask_t, verb, 64),
    VDP_FIELD(VDP_STRING, vdp_rotation_ask_t, argument, 4096),
};
static const vdp_field_t answer_fields[] = {
    VDP_FIELD(VDP_I64, vdp_rotation_answer_t, code, 0),
    VDP_FIELD(VDP_STRING, vdp_rotation_answer_t, message, 4096),
};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(ROTATION_ATTACH, rotation_attach, vdp_rotation_attach_t, attach_fields, 0);
MESSAGE(ROTATION_ORDER, rotation_order, vdp_rotation_order_t, order_fields, 0);
MESSAGE(ROTATION_REPORT, rotation_report, vdp_rotation_report_t, report_fields,
        VDP_ROTATION_VERSION_BYTES *VDP_ROTATION_VERSIONS_MAX);
MESSAGE(ROTATION_BACKUPS, rotation_backups, vdp_rotation_backups_t, backups_fields,
        VDP_ROTATION_BACKUP_BYTES *VDP_ROTATION_BACKUPS_MAX);
MESSAGE(ROTATION_ASK, rotation_ask, vdp_rotation_ask_t, ask_fields, 0);
MESSAGE(ROTATION_ANSWER, rotation_answer, vdp_rotation_answer_t, answer_fields,
        VDP_ROTATION_JSON_MAX_BYTES);
