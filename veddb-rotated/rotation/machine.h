/* veddb-rotated/rotation/machine.h — pure: what a rotation of keys does next. Events in, actions
 * out; no clock, no disk, no sockets, no keys: the simulator runs it against a model of storage.
 *
 * States:  IDLE -> REENCRYPTING <-> PAUSED -> VERIFYING -> RETIRING -> COMPLETED; CANCELLED and
 *          FAILED out of the first three. CHECKING is `keys verify` alone: it ends where it began,
 * has a record of its own and leaves that of the newest rotation as it is. Durable: step() changes
 * a copy. An action SAVE stands first and says what of the keyring is to change with it, in one
 * durable step; only when that is done does the copy replace the machine and are the other actions
 * done. If it fails all is as it was before the event. What is in `kept` is what SAVE writes; the
 * rest is found again after a start. Proof:   RETIRING is entered from VERIFYING alone, by a report
 * of this very rotation that counted the blocks of every version and found none of an old one, when
 * the audit log's keys are wrapped under the new key and no retained copy needs an old one
 * (VERIFYING waits for that, proven, until the copies are gone or an operator forces it). Storage
 * never writes with an old key once it has the new one, so such a count stays true. COMPLETED is
 * entered from RETIRING alone, in the step that destroys the keys, when storage has forgotten them.
 * Threads: one. Deterministic: same events, same actions. Times: milliseconds, wall clock. */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

#define ROT_HISTORY_MAX   32
#define ROT_VERSIONS_MAX  256
#define ROT_ACTIONS_MAX   16
#define ROT_RETURNS_MAX   20    /* proofs that found blocks, before an operator is asked */
#define ROT_RESEND_MS     10000 /* an order is sent again */
#define ROT_KEEP_MS       30000 /* counters are saved */
#define ROT_KEEP_BUSY_MS  5000  /* those of a rotation; at once when storage is gone */
#define ROT_TEXT_BYTES    200
#define ROT_CURRENT_BYTES 256

typedef enum {
    ROT_IDLE,
    ROT_REENCRYPTING,
    ROT_PAUSED,
    ROT_VERIFYING,
    ROT_RETIRING,
    ROT_COMPLETED,
    ROT_CANCELLED,
    ROT_FAILED,
    ROT_CHECKING,
} rot_state_t;

typedef enum { ROT_BY_OPERATOR, ROT_BY_AGE, ROT_BY_BLOCKS } rot_reason_t;
typedef enum { ROT_KIND_ROTATION, ROT_KIND_CHECK, ROT_KIND_REWRAP } rot_kind_t;

/* Of what has ended. */
typedef struct {
    rot_kind_t kind;
    uint64_t number;
    rot_state_t outcome; /* COMPLETED, CANCELLED; of a check COMPLETED (nothing left) or FAILED */
    rot_reason_t reason;
    uint32_t old_version, target;
    int64_t started_ms, ended_ms;
    uint64_t bytes, documents, blocks; /* of a check: blocks that old keys still have */
} rot_past_t;

/* The newest verify alone. */
typedef struct {
    uint64_t number;     /* 0: there was none */
    rot_state_t outcome; /* CHECKING: under way; COMPLETED (nothing left), FAILED */
    uint32_t target, old_version;
    int64_t started_ms, ended_ms;
    uint64_t blocks; /* that old keys have; UINT64_MAX: it could not be counted */
} rot_check_t;

/* All that is written down. */
typedef struct {
    uint64_t number; /* of the newest rotation */
    rot_state_t state;
    rot_state_t before; /* CHECKING: to which it goes back */
    rot_reason_t reason;
    uint32_t target;      /* the key that is to encrypt all */
    uint32_t old_version; /* every key up to here that is not active goes */
    uint64_t rate_max_bytes;
    uint32_t latency_rise_max;
    uint32_t returns; /* proofs that found blocks */
    bool force;       /* retained copies may lose their key */
    int64_t started_ms, changed_ms;
    uint64_t bytes, documents, blocks; /* over all starts of storage */
    char note[ROT_TEXT_BYTES];         /* FAILED: why */
    /* of the active key, for the schedule */
    uint32_t counted_version;
    uint64_t encrypted_blocks;
    uint64_t failures; /* how often FAILED was entered */
    uint64_t order;    /* of the newest rotation or verify, as storage knows it; never used twice */
    uint64_t rewraps;
    rot_check_t check;
    uint32_t past_count;
    rot_past_t past[ROT_HISTORY_MAX]; /* oldest first */
    /* Of which start of storage, and how far, its count is in encrypted_blocks: so none is counted
     * twice when only the key holder starts again. */
    uint8_t told_boot[16];
    uint64_t told_encrypted;
    uint64_t schedule_from; /* of encrypted_blocks: as the newest rotation ended; what it moved
                               itself is not counted for the next one */
} rot_kept_t;

/* What the keyring and the configuration say; with every event. */
typedef struct {
    int64_t now_ms;
    uint32_t active_version, highest_version; /* 0: no key yet */
    bool old_keys;                            /* some that are not active are not destroyed */
    bool full;                                /* no key can be added */
    int64_t active_since_ms;
    bool copies_known;        /* storage has said which backups are kept */
    uint32_t retained_copies; /* of these: that need a key up to old_version */
    const char *copies_names; /* borrowed; some of their names, or NULL */
    /* configuration */
    uint64_t rotate_after_ms, rotate_blocks, rate_default;
    uint32_t latency_rise_default;
} rot_facts_t;

/* Blocks that a key still has. */
typedef struct {
    uint32_t version;
    uint64_t blocks;
} rot_left_t;

typedef enum {
    ROT_EVENT_START, /* the machine has been loaded */
    ROT_EVENT_TICK,  /* each second */
    ROT_EVENT_ATTACH,
    ROT_EVENT_DETACH,
    ROT_EVENT_REPORT,
    ROT_EVENT_WRAPPED, /* the audit log needs no key but `version` any more */
    /* operators'; each is answered */
    ROT_EVENT_ROTATE,
    ROT_EVENT_PAUSE,
    ROT_EVENT_RESUME,
    ROT_EVENT_CANCEL,
    ROT_EVENT_THROTTLE,
    ROT_EVENT_CHECK,
    ROT_EVENT_REWRAP, /* the key-encryption key changes with the save */
} rot_event_kind_t;

typedef struct {
    rot_event_kind_t kind;
    rot_facts_t facts;
    uint64_t ticket;     /* of who asked */
    uint8_t boot_id[16]; /* ATTACH */
    uint32_t version;    /* ATTACH: storage's highest key; WRAPPED */
    uint64_t rotation;   /* ATTACH: which it knows of; REPORT */
    bool has_rate, has_rise, force;
    uint64_t rate;
    uint32_t rise;
    /* REPORT */
    uint32_t step, pass, versions; /* versions: how many are in left */
    bool done, failed;
    uint64_t bytes_done, bytes_total, documents_done, blocks_rewritten, rate_now, blocks_encrypted;
    char current[ROT_CURRENT_BYTES], note[ROT_TEXT_BYTES];
    const rot_left_t *left; /* borrowed */
    bool left_estimated;
} rot_event_t;

typedef enum {
    ROT_ACTION_SAVE,   /* kept; and the keyring: add, retire_upto, destroy_upto, rewrap */
    ROT_ACTION_ORDER,  /* to storage, if it is there: rot_machine_order() */
    ROT_ACTION_WRAP,   /* the audit log takes the keyring as it is: answered by WRAPPED */
    ROT_ACTION_NOTE,   /* into the audit log: name, text */
    ROT_ACTION_ANSWER, /* ticket: code, text */
    ROT_ACTION_FATAL,  /* code, text: the process ends, an operator must act */
} rot_action_kind_t;

typedef struct {
    rot_action_kind_t kind;
    bool add, rewrap;
    uint32_t retire_upto, destroy_upto;
    uint64_t ticket;
    int code;
    const char *name; /* static */
    char text[ROT_TEXT_BYTES + 100];
} rot_action_t;

typedef struct {
    rot_action_t list[ROT_ACTIONS_MAX];
    size_t count;
} rot_actions_t;

/* What storage is told (proto/rotation.h's order). */
typedef struct {
    uint64_t rotation /* kept.order */, rate_max_bytes, wraps;
    uint32_t step, active_version, old_version, latency_rise_max;
} rot_order_t;

/* Plain data; machine.c alone changes it. */
typedef struct {
    rot_kept_t kept;
    /* found again after a start */
    bool attached, proved, waits_for_copies;
    bool unsaved; /* what the rotation has counted */
    uint32_t wrapped_version;
    int64_t sent_ms, saved_ms, heard_ms;
    /* the newest report */
    uint32_t step, pass, versions;
    uint64_t bytes_done, bytes_total, documents_done, blocks_rewritten, rate_now;
    char current[ROT_CURRENT_BYTES], note[ROT_TEXT_BYTES];
    rot_left_t left[ROT_VERSIONS_MAX];
    bool left_estimated; /* no pass of this rotation has counted yet */
} rot_machine_t;

/* Changes *machine, which must be a copy while ret_actions may begin with SAVE. */
void rot_machine_step(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *ret_actions);
rot_order_t rot_machine_order(const rot_machine_t *machine, uint32_t active_version);
/* A rotation is under way: no other may begin. */
bool rot_state_is_busy(rot_state_t state);
const char *rot_state_name(rot_state_t state);
const char *rot_reason_name(rot_reason_t reason);
const char *rot_kind_name(rot_kind_t kind);
