/* proto/control.h — supervisor <-> every program. See control.md. */
#pragma once
#include "proto/codec.h"

typedef struct {
    vd_slice_t program; /* "veddb-storaged" */
    uint64_t pid;
    uint64_t protocol;  /* VDP_VERSION */
    vd_slice_t version; /* VEDDB_VERSION */
} vdp_control_hello_t;

typedef struct {
    uint64_t heartbeat_ms; /* how often the program must report */
} vdp_control_welcome_t;

typedef struct {
    vd_slice_t detail; /* one line for the operator */
} vdp_control_ready_t;

typedef struct {
    uint64_t sequence;
    vd_slice_t state;     /* "starting", "running", "draining", "drained" */
    uint64_t busy_ms_max; /* longest turn of any loop or worker since the last one */
} vdp_control_heartbeat_t;

typedef struct {
    uint64_t grace_ms; /* DRAIN: how long; STOP: before KILL */
    vd_slice_t reason;
} vdp_control_drain_t;

typedef struct {
    /* STATUS: which part, empty = all; its reply has JSON as body. LOG_LEVEL: the level to set,
     * empty = only ask; LOG_LEVEL_SET: the level in force. */
    vd_slice_t text;
} vdp_control_text_t;

typedef struct {
    bool structural; /* don't restart: an operator must act */
    vd_slice_t message;
} vdp_control_fatal_t;

/* An operator's question for one worker: what vedctl's verb of its kind asks ("replication", ...).
 */
typedef struct {
    vd_slice_t verb, argument, argument2;
} vdp_control_ask_t;
typedef struct {
    int64_t code;       /* VD_OK or a negative code */
    vd_slice_t message; /* for a person */
} vdp_control_answer_t;

/* KEEP: what the worker wants to have again at its next start; KEPT: that. Both: all in the body.
 */
typedef struct {
    uint64_t format; /* of the body, as the worker says */
} vdp_control_kept_t;

extern const vdp_message_t vdp_control_hello, vdp_control_welcome, vdp_control_ready,
    vdp_control_heartbeat, vdp_control_heartbeat_seen, vdp_control_drain, vdp_control_drained,
    vdp_control_stop, vdp_control_status, vdp_control_status_reply /* body: JSON */,
    vdp_control_log_level, vdp_control_log_level_set, vdp_control_fatal, vdp_control_ask,
    vdp_control_answer /* body: JSON */, vdp_control_keep, vdp_control_kept;

/* operator: vedctl <-> supervisor over its control socket. See operator.md. */
typedef struct {
    vd_slice_t verb;     /* "status", "stop", "restart", "drain", "log-level" */
    vd_slice_t argument; /* worker's name, level, ... */
    vd_slice_t argument2;
} vdp_operator_request_t;
typedef struct {
    int64_t code;       /* VD_OK or a negative code */
    vd_slice_t message; /* for a person */
} vdp_operator_reply_t;
extern const vdp_message_t vdp_operator_request, vdp_operator_reply /* body: JSON */;
