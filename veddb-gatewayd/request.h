/* veddb-gatewayd/request.h — one command on its way: read, checked, run here or sent to storage,
 * answered.
 *
 * The way: begin -> fields -> row of the table -> fail points -> login and privileges -> handler,
 *          worker or storage -> finish. One way down, one way up.
 * Owner:   the loop thread; pooled. A request on the worker belongs to the worker until it is
 *          posted back; one whose client has left has conn == NULL and only ends.
 * Limits:  one per connection. */
#pragma once
#include "veddb-gatewayd/conn.h"
#include "veddb-gatewayd/wire.h"

typedef struct {
    bool active;
    bool close, block, has_error, has_labels;
    bool after_checkout;                        /* of a getMore: its cursor was looked at before */
    void (*then)(struct gate_request *request); /* what goes on when it does not fail */
    uint32_t block_ms;
    int error_code;
    vd_bson_t labels;              /* array, in the request's arena */
    vd_bson_t write_concern_error; /* document, or empty */
} gate_fault_t;

typedef struct gate_audit gate_audit_t; /* audit.h */
typedef struct gate_recheck_held gate_recheck_held_t;

struct gate_request {
    vd_node_t node; /* pool, or watchers of the topology */
    gate_thread_t *thread;
    gate_conn_t *conn;
    const gate_command_t *command;
    gate_wire_message_t message;
    int32_t reply_to;
    bool legacy, no_reply, exhaust, compressed, on_worker, waiting_user, restarted;
    uint8_t compressor;
    vd_slice_t name, db;     /* as the client wrote them */
    vd_value_t first;        /* the first field's value */
    vd_value_t cluster_time; /* as the client sent it */
    bool keys_waited;        /* for the keys to be loaded once more: */
    uint64_t keys_loads, keys_until_ms;
    uint64_t lease_until_ms; /* it waits for what is acknowledged to be known; 0: it does not */
    uint8_t lsid[16];
    bool admitted;       /* by the limits */
    uint32_t wire_bytes; /* of the message, as it came */
    bool has_lsid, has_txn, in_transaction, api_strict;
    int64_t txn_number;
    uint32_t max_time_ms;
    unsigned facts; /* GATE_REPLY_* */
    vd_arena_t *arena;
    vd_bb_t reply;
    gate_access_grant_t grant;
    gate_flight_t flight;
    /* A handler that wants storage's answer before the client; NULL: it is passed on. */
    void (*answered)(gate_request_t *request, const gate_answer_t *answer);
    vd_source_t *timer;
    void (*timer_fired)(gate_request_t *request);
    void *state;                 /* a handler's own, in the arena */
    gate_cache_key_t *cache_key; /* in the arena: the reply may be kept; NULL: may not */
    int worker_rc;
    vd_error_t worker_error;
    gate_fault_t fault;
    struct gate_audit *audit; /* audit.h; NULL: nothing noted */
    vd_buf_t taken; /* the client's bytes, when the connection went before the worker was done */
    uint64_t held;  /* of the thread's held_bytes, by `taken` and `unpacked` */
    uint8_t *unpacked;
    uint64_t begun_us;
    uint32_t tries;
    bool cursor_allowed;        /* what opened the cursor of this getMore is */
    uint64_t closed_connection; /* to be told to storage at the end; 0 = none */
    uint64_t watch_ms;
    /* recheck.h: users have changed while storage works for it */
    bool recheck_waits, recheck_ended;
    uint64_t recheck_epoch; /* as of which its user may still do it; 0: as of the user's */
    gate_recheck_held_t *recheck_held;
};

/* A whole message has arrived. Answers it, now or later; closes the connection when it is
 * malformed. */
void gate_request_begin(gate_conn_t *conn, const gate_wire_header_t *header, vd_slice_t payload);
/* request_fields.c: database, session, transaction, maxTimeMS and API version, from the message's
 * body. MongoDB's codes for what is malformed. */
VD_MUST_CHECK int gate_request_read_fields(gate_request_t *request, vd_error_t *err);
/* The client has left. True: the request goes on without it (a write that wants no answer), and
 * tells storage of the connection's end when it is done. */
bool gate_request_abandon(gate_request_t *request);
/* The end of a GATE_LATER: rc VD_OK sends request->reply (ok is added), else err. */
void gate_request_finish(gate_request_t *request, int rc, const vd_error_t *err);
/* Under test.faults: what a fail point asks for is done, and `then` comes later, or never. False:
 * none is set for this request. */
VD_MUST_CHECK bool gate_request_meets_fault(gate_request_t *request,
                                            void (*then)(gate_request_t *request));
/* Sends a document that is complete. */
void gate_request_finish_raw(gate_request_t *request, vd_slice_t document);
/* Sends one reply with moreToCome and keeps the request, with an empty arena; false: the connection
 * broke and the request is gone. */
VD_MUST_CHECK bool gate_request_stream(gate_request_t *request);
/* Sends the request to storage as it came. */
VD_MUST_CHECK int gate_request_forward(gate_request_t *request, vd_error_t *err);
/* The same as the end of a handler: GATE_LATER, or the error. */
VD_MUST_CHECK int gate_request_pass_on(gate_request_t *request, vd_error_t *err);
VD_MUST_CHECK int gate_request_park(gate_request_t *request, uint64_t ms,
                                    void (*fired)(gate_request_t *request), vd_error_t *err);
static inline vd_bson_t gate_request_body(const gate_request_t *request)
{
    return request->message.sections.body;
}
void gate_request_pool_done(gate_thread_t *thread);
