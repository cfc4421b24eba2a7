/* proto/keys.c — field tables of keys.h. Fields are only ever added at the end. */
#include "proto/keys.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

#define KEYS_BODY_MAX                                                                              \
    (128 * 1024) /* bytes; over two thousand keys; fits a packet of the local socket */

static const vdp_field_t open_fields[] = {
    VDP_FIELD(VDP_BOOL, vdp_keys_open_t, bootstrap, 0),
    VDP_FIELD(VDP_U32, vdp_keys_open_t, highest_version, 0),
};
static const vdp_field_t opened_fields[] = {VDP_FIELD(VDP_U32, vdp_keys_opened_t, count, 0)};
static const vdp_field_t status_fields[] = {VDP_FIELD(VDP_U32, vdp_keys_status_t, unused, 0)};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(KEYS_OPEN, keys_open, vdp_keys_open_t, open_fields, 0);
MESSAGE(KEYS_OPENED, keys_opened, vdp_keys_opened_t, opened_fields, KEYS_BODY_MAX);
MESSAGE(KEYS_STATUS, keys_status, vdp_keys_status_t, status_fields, 0);
MESSAGE(KEYS_STATUS_REPLY, keys_status_reply, vdp_keys_status_t, status_fields, KEYS_BODY_MAX);
