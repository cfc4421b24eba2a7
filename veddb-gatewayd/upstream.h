/* veddb-gatewayd/upstream.h — requests in flight to storage: id, deadline, who waits, what may be
 * sent again; matches answers.
 *
 * Duty:    one link per loop thread. While storage is away, or not ready, requests wait, bounded
 *          in time; when it died, what may be sent again is sent again as soon as it is back, in
 *          order, and the rest is answered with an error. Each flight ends exactly once: done(),
 *          or gate_upstream_cancel(). An answer that can't be read ends its flight too.
 * Owner:   the loop thread. A flight is embedded in its owner's struct; the command's slices and
 *          the body must stay valid until it ends.
 * Limits:  GATE_FLIGHTS_MAX in flight. One flight is sent at most GATE_SENDS_MAX times, and waits
 *          in all at most so long as it may, counted from its first wait. */
#pragma once
#include "libcommon/base/list.h"
#include "libcommon/runtime/link.h"
#include "proto/operation.h"

#define GATE_FLIGHTS_MAX (1u << 20)
#define GATE_SENDS_MAX   4 /* storage died each time: it may be the request that kills it */

typedef struct gate_thread gate_thread_t;
typedef struct gate_upstream gate_upstream_t;

typedef struct {
    int rc;                             /* VD_OK: reply and body are set */
    const vdp_operation_reply_t *reply; /* borrowed during the call, as body is */
    vd_slice_t body;
    const vd_error_t *err;
} gate_answer_t;

typedef struct gate_flight {
    vd_node_t node; /* among those that wait to be sent */
    uint64_t id;    /* 0: not in flight */
    bool sent;
    bool resend;          /* may be sent again after storage died */
    bool elsewhere;       /* with resend: by the client to another member as well */
    uint32_t losses;      /* how often storage died before it answered */
    uint64_t deadline_ms; /* of waiting; monotonic, 0 = it hasn't waited yet */
    uint64_t wait_ms;     /* how long it may wait, 0 = gateway.storage_wait */
    vdp_operation_command_t command;
    vd_slice_t body;
    void (*done)(void *context, const gate_answer_t *answer);
    void *context;
} gate_flight_t;

typedef struct {
    bool attached; /* false: storage is away; the rest is what it said last */
    bool ready, writable, has_users, known;
    uint8_t boot_id[16], set_id[12];
    uint64_t auth_epoch, term, newest, durable;
    uint64_t majority; /* of a node alone: the durable one */
    int64_t last_write_ms;
    uint64_t fresh_ms; /* vdp_operation_state_t */
    uint64_t heard_ms; /* when it said so; of the loop's clock */
    uint32_t role;     /* VDP_ROLE_* */
    uint8_t *topology; /* BSON, own copy; NULL: a node alone */
    uint32_t topology_len;
} gate_storage_state_t;

VD_MUST_CHECK int gate_upstream_create(gate_thread_t *thread, const char *path, uint64_t wait_ms,
                                       gate_upstream_t **ret_upstream, vd_error_t *err);
void gate_upstream_destroy(gate_upstream_t **upstream_p);
/* Takes off, or waits; losses and deadline_ms go on from an earlier flight of the same request, or
 * are 0. An error: nothing was started, done() does not come. */
VD_MUST_CHECK int gate_upstream_send(gate_upstream_t *upstream, gate_flight_t *flight,
                                     vd_error_t *err);
/* Nobody waits any more; storage is told. Fine when it is not in flight. */
void gate_upstream_cancel(gate_upstream_t *upstream, gate_flight_t *flight);
void gate_upstream_connection_closed(gate_upstream_t *upstream, uint64_t connection_id);
/* Every quarter of a second: deadlines, and what could not be sent. */
void gate_upstream_tick(gate_upstream_t *upstream, uint64_t now_ms);
