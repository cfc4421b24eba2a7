/* veddb-gatewayd/conn.h — one client: TLS, its states, buffers and timeouts.
 *
 * States:  HANDSHAKE -> OPEN -> CLOSING (flush, then end). Busy (request != NULL) is a fact beside
 *          the state: one request at a time, the next is read ahead, bounded.
 * Owner:   the loop thread that accepted it; freed at the end of the turn in which it closed.
 * Limits:  a message <= 64 KB before login, <= 48,000,000 bytes after; GATE_AHEAD_MAX bytes read
 *          ahead; nothing is read while a reply is not flushed. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-gatewayd/gatewayd.h"
#include "veddb-gatewayd/transport.h"

#define GATE_AHEAD_MAX    (64 * 1024)
#define GATE_APP_NAME_MAX 128
#define GATE_METADATA_MAX 512

typedef struct gate_sasl gate_sasl_t;

typedef enum {
    GATE_CONN_HANDSHAKE,
    GATE_CONN_OPEN,
    GATE_CONN_CLOSING,
    GATE_CONN_DEAD
} gate_conn_state_t;

struct gate_conn {
    vd_node_t node;        /* among the thread's connections, or its dead ones */
    vd_node_t paused_node; /* waits for room */
    gate_thread_t *thread;
    uint64_t id;
    int fd;
    gate_transport_t io;
    vd_source_t *source;
    gate_conn_state_t state;
    unsigned events; /* what the loop watches for */
    bool pumping;    /* pump is on the stack */
    bool forwarded;  /* storage knows this connection */
    bool wants_room; /* paused until memory for its message is free */
    bool said_hello, end_seen, read_wants_write, metadata_seen;
    uint64_t opened_ms, active_ms, message_ms,
        write_ms;                  /* write_ms: last progress while a reply waits */
    uint64_t certificate_until_ms; /* 0: it showed none, or one that does not end soon */
    uint64_t held, held_out;       /* of the thread's held_bytes: by the message, by `out` */
    gate_address_t address;
    gate_account_t *by_address, *by_user; /* of the limits; NULL: not needed yet */
    char client[64];                      /* "127.0.0.1:50000" */
    char server[64];
    vd_buf_t in, ahead, out;
    uint32_t need; /* length of the message in `in`, 0 = header not complete */
    gate_request_t *request;
    gate_user_t *user;       /* who is logged in */
    uint64_t login_until_ms; /* of a login by token; 0: it does not end by itself */
    bool login_ended;        /* what it had in flight was interrupted */
    gate_token_t *token;     /* of ours, that it was opened with; NULL: another login */
    bool token_revoked;
    uint64_t token_generation; /* as of which it was looked at last, for the user as of: */
    uint64_t token_epoch;
    bool oidc_begun;       /* it was told of the issuer; the token comes next */
    uint64_t recheck_pass; /* recheck.h: in which it was looked at last */
    gate_sasl_t *sasl;
    uint8_t *metadata; /* a document that is not in the audit log yet; NULL: it is, or none came */
    char app[GATE_APP_NAME_MAX + 1];
};

/* Takes the descriptor. */
void gate_conn_open(gate_thread_t *thread, int fd, const gate_address_t *address,
                    const char *client);
/* At once; a request under way is abandoned. */
void gate_conn_close(gate_conn_t *conn, const char *why);
/* After what is still to be sent. */
void gate_conn_close_softly(gate_conn_t *conn, const char *why);
/* Whether a reply of so many bytes may be written: clients leave others unread. */
bool gate_conn_has_room(const gate_conn_t *conn, uint64_t bytes);
/* Sends bytes, or keeps what the socket doesn't take. */
void gate_conn_write(gate_conn_t *conn, vd_slice_t bytes);
/* The request is over: take the next. */
void gate_conn_request_done(gate_conn_t *conn);
/* Once a second: timeouts; gives idle buffers back. */
void gate_conn_tick(gate_conn_t *conn, uint64_t now_ms);
/* Reads on after a pause. */
void gate_conn_resume(gate_conn_t *conn);
/* Certificates were read again: who would not be let in any more is closed. */
void gate_conn_check_certificate(gate_conn_t *conn);
/* The token of the login has expired: only a login is heard. */
static inline bool gate_conn_login_expired(const gate_conn_t *conn, uint64_t now_ms)
{
    return conn->login_until_ms != 0 && now_ms >= conn->login_until_ms;
}
/* The login is by this one (copied); NULL: by none of ours. */
void gate_conn_set_token(gate_conn_t *conn, const gate_token_t *token);
/* The token of its login was revoked: what it has in flight is interrupted, and only a login is
 * heard. */
void gate_conn_check_token(gate_conn_t *conn);
/* Ends the login; both are fine when there is none. */
void gate_conn_logout(gate_conn_t *conn);
