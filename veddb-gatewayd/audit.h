/* veddb-gatewayd/audit.h — events that the gateway sees: logins, refusals, administration.
 *
 * Duty:    notes an event on the request it belongs to; the request's reply then waits until
 *          storage has the event on its disk. An event that can't be kept turns the reply into an
 *          error; a login is taken back then.
 * Owner:   the request's; an event under way outlives a client that leaves.
 * Threads: the loop's.
 * Limits:  GATE_AUDIT_EVENTS_MAX events per request. Refusals beyond GATE_AUDIT_REFUSALS_MAX in a
 *          second and thread are counted, and the next event of the thread says how many
 *          (`suppressed`): so an attack can't fill the disk. */
#pragma once
#include "veddb-gatewayd/request.h"

#define GATE_AUDIT_EVENTS_MAX   4
#define GATE_AUDIT_REFUSALS_MAX 50
#define GATE_AUDIT_METADATA_MAX 50

/* What was done elsewhere than on a connection: over HTTPS, by an operator, by itself. */
typedef struct {
    const char *atype;
    const gate_user_t *user;        /* who it was; NULL: nobody, or not known */
    vd_slice_t subject, subject_db; /* whom it is about; empty: nobody */
    const char *client;             /* address; NULL: this node */
    const char *param;              /* what was asked for */
    const char *detail;             /* no secret; NULL: nothing more */
    int result;
} gate_audit_note_t;
/* Waits until storage has it on its disk. Not on a loop thread. Refusals beyond
 * GATE_AUDIT_REFUSALS_MAX in a second are left out. */
int gate_audit_outside(gate_t *gate, const gate_audit_note_t *note, vd_error_t *err);

/* A client has said what it is. The event goes on its own (a hello waits for no disk), but for
 * GATE_AUDIT_METADATA_MAX in a second and thread: one beyond that goes with the first good login of
 * its connection, or not at all. So every connection that somebody logged in on has its event, and
 * those that nobody does can't fill the disk. One that storage did not take is logged. */
void gate_audit_metadata(gate_request_t *request, vd_bson_t client);
/* A login has ended: user as it was given. Does nothing where there is no audit, as the others. */
void gate_audit_login(gate_request_t *request, vd_slice_t user, vd_slice_t db, int result);
void gate_audit_logout(gate_request_t *request);
/* The command of the request has ended so: administration is noted, and what was not allowed. */
void gate_audit_command(gate_request_t *request, int result);
/* What belongs to no request: certificates. Any thread; nobody waits for it, what can't be kept is
 * logged. format: the event's param `detail`. */
void gate_audit_note(gate_t *gate, const char *atype, int result, const char *format, ...)
    VD_PRINTF(4, 5);
/* A client's TLS handshake was refused; once a second, for all of the thread since. */
void gate_audit_handshake(gate_thread_t *thread, const char *client, const char *why);
void gate_audit_tick(gate_thread_t *thread);
/* True: the reply is kept and gate_request_finish_raw comes again. */
bool gate_audit_hold(gate_request_t *request, vd_slice_t document);
/* What the limits have refused, summed up; nobody waits for it. */
void gate_audit_limits(gate_thread_t *thread, const gate_note_t *notes, uint32_t count);
/* The request goes, or its client does. */
void gate_audit_drop(gate_request_t *request);
