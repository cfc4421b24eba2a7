/* proto/heads.h — heads of the audit log on their way to the other nodes, and what those hold. See
 * heads.md. */
#pragma once
#include "proto/replication.h"

#define VDP_AUDIT_HEAD_BYTES    304 /* a signed head, docs/audit-format.md */
#define VDP_AUDIT_CHECKED_BYTES 32  /* SHA-256 of a head */
#define VDP_AUDIT_CHECKED_MAX   64  /* heads */

/* HEAD (storage -> replicad, a notice) and PEER_HEAD (replicad -> replicad): the newest head of the
 * sender's own log. */
typedef struct {
    vd_slice_t head;
    bool alarm;         /* others hold heads that the sender's log does not have */
    vd_slice_t checked; /* digests, joined: of what others hold, its rotated has found these good */
} vdp_audit_head_t;
/* PEER_HELD, the answer: what was held before. */
typedef struct {
    vd_slice_t head;  /* highest of that log; empty: none */
    bool frozen;      /* an alarm was told: it is not replaced any more */
    vd_slice_t other; /* newest of another log of the same node; empty: none */
} vdp_audit_peer_held_t;

/* KEEP, replicad -> storage: a head of another node. KEPT: the same as PEER_HELD. */
typedef struct {
    vd_slice_t node;
    vd_slice_t head;
    bool alarm;
    vd_slice_t checked;
} vdp_audit_keep_t;

/* HELD, a notice, replicad -> storage -> rotated: what that node holds of our log. */
typedef struct {
    vd_slice_t node;
    vd_slice_t head;
    bool frozen;
    vd_slice_t other;
} vdp_audit_held_t;

extern const vdp_message_t vdp_audit_held, vdp_replication_audit_head, vdp_replication_audit_keep,
    vdp_replication_audit_kept, vdp_replication_audit_held, vdp_peer_audit_head,
    vdp_peer_audit_held;
