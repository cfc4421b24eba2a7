/* proto/snapshot_fields.h — fields and bounds of the messages that carry a copy of the data: the
 * same between nodes (peer.c) and between replicad and its storage (replication.c).
 *
 * Duty:    tables alone; the structs stand in replication.h. Fields are only ever added at the end.
 */
#pragma once
#include "proto/replication.h"

#define VDP_COPY_KEY_MAX_BYTES      (16 * 1024)
#define VDP_COPY_MANIFEST_MAX_BYTES (16 * 1024 * 1024)

static const vdp_field_t snapshot_open_fields[] = {
    VDP_FIELD(VDP_U64, vdp_snapshot_open_t, unused, 0),
    VDP_FIELD(VDP_BYTES, vdp_snapshot_open_t, snapshot, 16),
};
static const vdp_field_t snapshot_opened_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_snapshot_opened_t, snapshot, 16),
    VDP_FIELD(VDP_U64, vdp_snapshot_opened_t, position, 0),
    VDP_FIELD(VDP_U64, vdp_snapshot_opened_t, term, 0),
    VDP_FIELD(VDP_U64, vdp_snapshot_opened_t, bytes, 0),
    VDP_FIELD(VDP_U64, vdp_snapshot_opened_t, documents, 0),
    VDP_FIELD(VDP_BYTES, vdp_snapshot_opened_t, signature, VDP_SIGNATURE_MAX),
};
static const vdp_field_t snapshot_read_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_snapshot_read_t, snapshot, 16),
    VDP_FIELD(VDP_U64, vdp_snapshot_read_t, collection, 0),
    VDP_FIELD(VDP_BOOL, vdp_snapshot_read_t, next, 0),
};
static const vdp_field_t snapshot_chunk_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_snapshot_chunk_t, snapshot, 16),
    VDP_FIELD(VDP_U64, vdp_snapshot_chunk_t, collection, 0),
    VDP_FIELD(VDP_U32, vdp_snapshot_chunk_t, count, 0),
    VDP_FIELD(VDP_BOOL, vdp_snapshot_chunk_t, last, 0),
    VDP_FIELD(VDP_BYTES, vdp_snapshot_chunk_t, sha256, 32),
    VDP_FIELD(VDP_BYTES, vdp_snapshot_chunk_t, after, VDP_COPY_KEY_MAX_BYTES),
};
static const vdp_field_t snapshot_close_fields[] = {
    VDP_FIELD(VDP_BYTES, vdp_snapshot_close_t, snapshot, 16),
};
