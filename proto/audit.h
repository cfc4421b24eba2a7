/* proto/audit.h — storage <-> rotated: what is to be sealed, and what has been. See audit.md. */
#pragma once
#include "proto/heads.h"

/* A batch: the records of one item at most. */
#define VDP_AUDIT_BODY_MAX_BYTES (24u << 20)
/* One record in the body: u8 source (1 journal, 2 events), 3 zero bytes, u32 part, u64 position,
 * then one BSON document. */
#define VDP_AUDIT_RECORD_HEAD_BYTES 16

/* Storage -> rotated, a notice, first on a link and whenever it begins anew. */
typedef struct {
    vd_slice_t boot_id; /* 16 bytes, new at each start of storage */
} vdp_audit_attach_t;
/* Rotated -> storage: give what comes behind these positions. */
typedef struct {
    uint64_t journal;
    uint32_t journal_part;
    uint64_t events;
    uint64_t credit_bytes; /* the body may have so much, or one journal entry */
    uint64_t wait_ms;      /* an empty answer after so long */
} vdp_audit_pull_t;
typedef struct {
    uint64_t journal; /* the records, and what a filter left out, reach up to here */
    uint32_t journal_part;
    uint64_t events;
    bool more; /* there is more at once */
} vdp_audit_batch_t;
/* Rotated -> storage, a notice: under a signed, durable head; storage may forget it. */
typedef struct {
    uint64_t journal;
    uint32_t journal_part;
    uint64_t events;
    uint64_t head;
    vd_slice_t signed_head; /* its bytes, for the other nodes (heads.md) */
    bool alarm;             /* others hold heads that this log does not have */
    vd_slice_t checked;     /* what others hold and is good (heads.md) */
} vdp_audit_sealed_t;

extern const vdp_message_t vdp_audit_attach, vdp_audit_pull, vdp_audit_batch, vdp_audit_sealed;
