/* proto/rotation.h — storage <-> rotated: what a rotation of keys asks of storage, and how far it
 * has come. See rotation.md.
 *
 * No key bytes travel here: storage fetches them by KEYS_OPEN. */
#pragma once
#include "proto/codec.h"

#define VDP_ROTATION_VERSION_BYTES  12 /* in the body of a report: u32 version, u64 blocks left */
#define VDP_ROTATION_VERSIONS_MAX   256
#define VDP_ROTATION_JSON_MAX_BYTES (128 * 1024)
/* In the body of ROTATION_BACKUPS: u32 oldest key version that it needs, name (zeros behind it). */
#define VDP_ROTATION_BACKUPS_MAX       256
#define VDP_ROTATION_BACKUP_NAME_BYTES 64
#define VDP_ROTATION_BACKUP_BYTES      (4 + VDP_ROTATION_BACKUP_NAME_BYTES)
#define VDP_ROTATION_BACKUP_NAME_CHARACTERS                                                        \
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

typedef enum {
    VDP_ROTATION_NONE,
    VDP_ROTATION_REENCRYPT, /* move every block to the active key; done: a pass found none */
    VDP_ROTATION_PAUSED,    /* keep what is done, do nothing */
    VDP_ROTATION_VERIFY,    /* the proof: count anew over everything; done: counted */
    VDP_ROTATION_RETIRE,    /* forget those keys in memory; done: forgotten */
} vdp_rotation_step_t;

/* Storage -> rotated, a notice, first on a link. */
typedef struct {
    vd_slice_t boot_id;           /* 16 bytes, new at each start of storage */
    uint32_t highest_key_version; /* that it has */
    uint64_t rotation;            /* of the last order that it knows; 0: none */
} vdp_rotation_attach_t;
/* Rotated -> storage, a notice, upon attach and at each change: whole and idempotent. */
typedef struct {
    uint64_t rotation; /* its number, never used twice; 0 with VDP_ROTATION_NONE */
    uint32_t step;     /* vdp_rotation_step_t */
    uint32_t active_version;
    uint32_t old_version;      /* every key up to here that isn't active has to go */
    uint64_t rate_max_bytes;   /* per second; 0 = without limit */
    uint32_t latency_rise_max; /* percent that the foreground's p99 may rise; 0 = off */
    uint64_t wraps;            /* how often the key-encryption key has changed */
} vdp_rotation_order_t;
/* Storage -> rotated, a notice: at each change, each second while there is a step, else each ten
 * seconds. Body: per key version u32 version, u64 blocks left. */
typedef struct {
    uint64_t rotation; /* of the order that this is about */
    uint32_t step;     /* of that order */
    bool done, failed; /* with what the step asks; failed: note says why */
    uint32_t pass;
    uint64_t bytes_done, bytes_total, documents_done, blocks_rewritten;
    uint64_t rate; /* bytes per second */
    vd_slice_t current;
    vd_slice_t note;           /* why it is slow, or what failed */
    uint64_t blocks_encrypted; /* under the active key, since this start of storage */
    bool left_estimated;       /* no pass has counted yet: blocks left come from the bytes */
} vdp_rotation_report_t;
/* Storage -> rotated, a notice, behind the attach and at each change: every backup that is kept. */
typedef struct {
    uint32_t count; /* as the body has */
} vdp_rotation_backups_t;
/* Storage -> rotated: an operator's order that came over the wire protocol. */
typedef struct {
    vd_slice_t verb;
    vd_slice_t argument; /* JSON object, or empty */
} vdp_rotation_ask_t;
typedef struct {
    int64_t code; /* VD_OK or a negative code */
    vd_slice_t message;
} vdp_rotation_answer_t;

extern const vdp_message_t vdp_rotation_attach, vdp_rotation_order, vdp_rotation_report,
    vdp_rotation_backups /* body: backups */, vdp_rotation_ask,
    vdp_rotation_answer /* body: JSON */;
