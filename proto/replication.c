/* proto/replication.c — field tables of replication.h. Fields are only ever added at the end. */
#include "proto/replication.h"
#include "proto/snapshot_fields.h"

#define COUNT(table) (uint32_t)(sizeof(table) / sizeof((table)[0]))

#define FIND_MAX_BYTES (64 * 8)

static const vdp_field_t replication_attach_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_replication_attach_t, instance, 16),
    VDP_FIELD(VDP_STRING, vdp_replication_attach_t, node, VDP_NODE_NAME_MAX),
};
static const vdp_field_t replication_state_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_replication_state_t, boot_id, 16),
    VDP_FIELD(VDP_BOOL, vdp_replication_state_t, ready, 0),
    VDP_FIELD(VDP_U32, vdp_replication_state_t, role, 0),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, newest, 0),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, durable, 0),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, oldest, 0),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, majority, 0),
    VDP_FIELD(VDP_BYTES, vdp_replication_state_t, set_id, 12),
    VDP_FIELD(VDP_BOOL, vdp_replication_state_t, empty, 0),
    VDP_FIELD(VDP_BOOL, vdp_replication_state_t, loading, 0),
    VDP_FIELD(VDP_STRING, vdp_replication_state_t, leader, VDP_NODE_NAME_MAX),
    VDP_FIELD(VDP_BYTES, vdp_replication_state_t, load_snapshot, 16),
    VDP_FIELD(VDP_STRING, vdp_replication_state_t, load_source, VDP_NODE_NAME_MAX),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, floor, 0),
    VDP_FIELD(VDP_BYTES, vdp_replication_state_t, builds, 8 * VDP_BUILDS_MAX),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, made_ms, 0),
    VDP_FIELD(VDP_U64, vdp_replication_state_t, auth_position, 0),
};
static const vdp_field_t replication_role_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_role_t, term, 0),
    VDP_FIELD(VDP_U32, vdp_replication_role_t, role, 0),
    VDP_FIELD(VDP_STRING, vdp_replication_role_t, leader, VDP_NODE_NAME_MAX),
};
static const vdp_field_t replication_role_set_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_role_set_t, term, 0),
    VDP_FIELD(VDP_U32, vdp_replication_role_set_t, role, 0),
    VDP_FIELD(VDP_U64, vdp_replication_role_set_t, newest, 0),
};
static const vdp_field_t replication_topology_fields[] = {
    VDP_FIELD(VDP_I64, vdp_replication_topology_t, version, 0),
};
static const vdp_field_t replication_tail_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_tail_t, after, 0),
    VDP_FIELD(VDP_U32, vdp_replication_tail_t, bytes_max, 0),
    VDP_FIELD(VDP_U32, vdp_replication_tail_t, wait_ms, 0),
    VDP_FIELD(VDP_U32, vdp_replication_tail_t, reader, 0),
    VDP_FIELD(VDP_U32, vdp_replication_tail_t, after_part, 0),
};
static const vdp_field_t replication_batch_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_batch_t, after, 0),
    VDP_FIELD(VDP_U64, vdp_replication_batch_t, last, 0),
    VDP_FIELD(VDP_U32, vdp_replication_batch_t, count, 0),
    VDP_FIELD(VDP_U64, vdp_replication_batch_t, newest, 0),
    VDP_FIELD(VDP_BOOL, vdp_replication_batch_t, partial, 0),
    VDP_FIELD(VDP_U32, vdp_replication_batch_t, last_part, 0),
};
static const vdp_field_t replication_apply_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_apply_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_replication_apply_t, after, 0),
    VDP_FIELD(VDP_U64, vdp_replication_apply_t, last, 0),
    VDP_FIELD(VDP_U32, vdp_replication_apply_t, count, 0),
    VDP_FIELD(VDP_BOOL, vdp_replication_apply_t, partial, 0),
    VDP_FIELD(VDP_I64, vdp_replication_apply_t, delay_ms, 0),
};
static const vdp_field_t replication_applied_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_applied_t, applied, 0),
    VDP_FIELD(VDP_U64, vdp_replication_applied_t, durable, 0),
};
static const vdp_field_t replication_positions_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_positions_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_replication_positions_t, majority, 0),
    VDP_FIELD(VDP_U64, vdp_replication_positions_t, lease_until_ms, 0),
    VDP_FIELD(VDP_BYTES, vdp_replication_positions_t, builds, 64 * VDP_MEMBER_BUILDS_MAX),
    VDP_FIELD(VDP_U64, vdp_replication_positions_t, fresh_ms, 0),
};
static const vdp_field_t replication_config_fields[] = {
    VDP_FIELD(VDP_I64, vdp_replication_config_t, version, 0),
};
static const vdp_field_t replication_config_set_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_config_set_t, timestamp, 0),
};
static const vdp_field_t replication_status_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_status_t, unused, 0),
};
static const vdp_field_t replication_ask_fields[] = {
    VDP_FIELD(VDP_STRING, vdp_replication_ask_t, verb, 64),
    VDP_FIELD(VDP_STRING, vdp_replication_ask_t, argument, 4096),
    VDP_FIELD(VDP_STRING, vdp_replication_ask_t, argument2, 4096),
};
static const vdp_field_t replication_answer_fields[] = {
    VDP_FIELD(VDP_I64, vdp_replication_answer_t, code, 0),
    VDP_FIELD(VDP_STRING, vdp_replication_answer_t, message, 4096),
};
static const vdp_field_t replication_find_fields[] = {
    VDP_FIELD(VDP_BOOL, vdp_replication_find_t, sample, 0),
};
static const vdp_field_t replication_found_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_found_t, timestamp, 0),
};
static const vdp_field_t replication_count_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_count_t, unused, 0),
};
static const vdp_field_t replication_counted_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_counted_t, newest, 0),
};
static const vdp_field_t replication_rollback_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_rollback_t, to, 0),
};
static const vdp_field_t replication_rolled_back_fields[] = {
    VDP_FIELD(VDP_U64, vdp_replication_rolled_back_t, documents, 0),
    VDP_FIELD(VDP_STRING, vdp_replication_rolled_back_t, folder, 4096),
};
static const vdp_field_t load_begin_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_load_begin_t, snapshot, 16),
    VDP_FIELD(VDP_U64, vdp_load_begin_t, position, 0),
    VDP_FIELD(VDP_U64, vdp_load_begin_t, term, 0),
    VDP_FIELD(VDP_BYTES, vdp_load_begin_t, set_id, 12),
    VDP_FIELD(VDP_STRING, vdp_load_begin_t, source, VDP_NODE_NAME_MAX),
};
static const vdp_field_t load_state_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_load_state_t, snapshot, 16),
    VDP_FIELD(VDP_U64, vdp_load_state_t, collection, 0),
    VDP_FIELD(VDP_BOOL, vdp_load_state_t, all, 0),
};
static const vdp_field_t load_chunk_done_fields[] = {
    VDP_FIELD(VDP_U64, vdp_load_chunk_done_t, collection, 0),
    VDP_FIELD(VDP_U64, vdp_load_chunk_done_t, documents, 0),
};
static const vdp_field_t load_end_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_load_end_t, snapshot, 16),
};
static const vdp_field_t load_ended_fields[] = {
    VDP_FIELD(VDP_U64, vdp_load_ended_t, position, 0),
};

#define MESSAGE(NAME, lower, type, table, body_max)                                                \
    const vdp_message_t vdp_##lower = {VDP_##NAME, #NAME,        sizeof(type),                     \
                                       table,      COUNT(table), body_max}

MESSAGE(REPLICATION_ATTACH, replication_attach, vdp_replication_attach_t, replication_attach_fields,
        0);
MESSAGE(REPLICATION_ATTACHED, replication_attached, vdp_replication_state_t,
        replication_state_fields, VDP_SET_CONFIG_MAX);
MESSAGE(REPLICATION_STATE, replication_state, vdp_replication_state_t, replication_state_fields,
        VDP_SET_CONFIG_MAX);
MESSAGE(REPLICATION_ROLE, replication_role, vdp_replication_role_t, replication_role_fields, 0);
MESSAGE(REPLICATION_ROLE_SET, replication_role_set, vdp_replication_role_set_t,
        replication_role_set_fields, 0);
MESSAGE(REPLICATION_TOPOLOGY, replication_topology, vdp_replication_topology_t,
        replication_topology_fields, VDP_TOPOLOGY_MAX);
MESSAGE(REPLICATION_TAIL, replication_tail, vdp_replication_tail_t, replication_tail_fields, 0);
MESSAGE(REPLICATION_BATCH, replication_batch, vdp_replication_batch_t, replication_batch_fields,
        VDP_ENTRIES_MAX);
MESSAGE(REPLICATION_APPLY, replication_apply, vdp_replication_apply_t, replication_apply_fields,
        VDP_ENTRIES_MAX);
MESSAGE(REPLICATION_APPLIED, replication_applied, vdp_replication_applied_t,
        replication_applied_fields, 0);
MESSAGE(REPLICATION_POSITIONS, replication_positions, vdp_replication_positions_t,
        replication_positions_fields, 64 * VDP_POSITION_BYTES);
MESSAGE(REPLICATION_CONFIG, replication_config, vdp_replication_config_t, replication_config_fields,
        VDP_SET_CONFIG_MAX);
MESSAGE(REPLICATION_CONFIG_SET, replication_config_set, vdp_replication_config_set_t,
        replication_config_set_fields, 0);
MESSAGE(REPLICATION_STATUS, replication_status, vdp_replication_status_t, replication_status_fields,
        VDP_SET_STATUS_MAX);
MESSAGE(REPLICATION_ASK, replication_ask, vdp_replication_ask_t, replication_ask_fields,
        VDP_SET_CONFIG_MAX);
MESSAGE(REPLICATION_ANSWER, replication_answer, vdp_replication_answer_t, replication_answer_fields,
        VDP_SET_STATUS_MAX);
MESSAGE(REPLICATION_FIND, replication_find, vdp_replication_find_t, replication_find_fields,
        FIND_MAX_BYTES);
MESSAGE(REPLICATION_FOUND, replication_found, vdp_replication_found_t, replication_found_fields,
        FIND_MAX_BYTES);
MESSAGE(REPLICATION_COUNT, replication_count, vdp_replication_count_t, replication_count_fields,
        8 * VDP_COUNTS_MAX);
MESSAGE(REPLICATION_COUNTED, replication_counted, vdp_replication_counted_t,
        replication_counted_fields, 8 * VDP_COUNTS_MAX);
MESSAGE(REPLICATION_ROLLBACK, replication_rollback, vdp_replication_rollback_t,
        replication_rollback_fields, 0);
MESSAGE(REPLICATION_ROLLED_BACK, replication_rolled_back, vdp_replication_rolled_back_t,
        replication_rolled_back_fields, 0);
MESSAGE(SNAPSHOT_OPEN, snapshot_open, vdp_snapshot_open_t, snapshot_open_fields, 0);
MESSAGE(SNAPSHOT_OPENED, snapshot_opened, vdp_snapshot_opened_t, snapshot_opened_fields,
        VDP_COPY_MANIFEST_MAX_BYTES);
MESSAGE(SNAPSHOT_READ, snapshot_read, vdp_snapshot_read_t, snapshot_read_fields,
        VDP_COPY_KEY_MAX_BYTES);
MESSAGE(SNAPSHOT_CHUNK, snapshot_chunk, vdp_snapshot_chunk_t, snapshot_chunk_fields, VDP_CHUNK_MAX);
MESSAGE(SNAPSHOT_CLOSE, snapshot_close, vdp_snapshot_close_t, snapshot_close_fields, 0);
MESSAGE(LOAD_BEGIN, load_begin, vdp_load_begin_t, load_begin_fields, VDP_COPY_MANIFEST_MAX_BYTES);
MESSAGE(LOAD_STATE, load_state, vdp_load_state_t, load_state_fields, VDP_COPY_KEY_MAX_BYTES);
MESSAGE(LOAD_CHUNK, load_chunk, vdp_snapshot_chunk_t, snapshot_chunk_fields, VDP_CHUNK_MAX);
MESSAGE(LOAD_CHUNK_DONE, load_chunk_done, vdp_load_chunk_done_t, load_chunk_done_fields, 0);
MESSAGE(LOAD_END, load_end, vdp_load_end_t, load_end_fields, 0);
MESSAGE(LOAD_ENDED, load_ended, vdp_load_ended_t, load_ended_fields, 0);

/* u32 member, u8 up, 3 zero bytes, u64 received, flushed, applied; little-endian. */
void vdp_position_write(uint8_t out[VDP_POSITION_BYTES], const vdp_position_t *position)
{
    memset(out, 0, VDP_POSITION_BYTES);
    vd_put_u32(out, position->member);
    out[4] = position->up;
    vd_put_u64(out + 8, position->received);
    vd_put_u64(out + 16, position->flushed);
    vd_put_u64(out + 24, position->applied);
}

void vdp_position_read(const uint8_t in[VDP_POSITION_BYTES], vdp_position_t *ret_position)
{
    *ret_position = (vdp_position_t){.member = vd_get_u32(in),
                                     .up = in[4] != 0,
                                     .received = vd_get_u64(in + 8),
                                     .flushed = vd_get_u64(in + 16),
                                     .applied = vd_get_u64(in + 24)};
}
