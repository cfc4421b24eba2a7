/* veddb-storaged/audit/audit.h — what is audited: events that are written here, writes that the
 * journal has, and how far both are sealed.
 *
 * Duty:    the table "audit" of events (logins, refusals, administration, starts: written, on
 *          disk, before the reply), the filter, the records that rotated pulls, the positions it
 *          has sealed, and the bound: when too much waits to be sealed, audited writes are
 *          refused (VD_ERR_AUDIT_FULL) or, if so configured, go unaudited, counted, and a record
 *          of atype auditGap says so.
 * Table:   key u64 BE number; value a BSON document. Rows go once they are sealed. The meta row
 *          "audit" keeps the sealed positions.
 * Owner:   open/close by storaged.c; NULL where audit.enabled is false. The thread: link.c.
 * Threads: stor_audit_event any, with a session of its own; batch, sealed: the link's; the rest
 *          any.
 * Limits:  STOR_AUDIT_EVENTS_MAX events wait; an event STOR_AUDIT_EVENT_MAX_BYTES. */
#pragma once
#include "proto/audit.h"
#include "veddb-storaged/journal.h"

#define STOR_AUDIT_EVENTS_MAX      200000
#define STOR_AUDIT_EVENT_MAX_BYTES (64 * 1024)

typedef struct {
    const char *filter; /* JSON; empty: all */
    bool reads, shed;
    uint64_t backlog_max_bytes;
} stor_audit_options_t;

typedef struct stor_audit stor_audit_t;
/* VD_ERR_CONFIG: the filter is none. */
VD_MUST_CHECK int stor_audit_open(stor_storage_t *storage, const stor_audit_options_t *options,
                                  stor_audit_t **ret_audit, vd_error_t *err);
void stor_audit_close(stor_audit_t **audit_p);

/* ---- events ---- */
/* Writes it, if the filter takes it; committed when it returns VD_OK, on disk when a flush that
 * begins later has ended (request->flush_all). The session has no open transaction. */
VD_MUST_CHECK int stor_audit_event(stor_audit_t *audit, stor_session_t *session, vd_bson_t event,
                                   vd_error_t *err);
/* Begins an event: atype, ts, users, remote; the caller adds param and result. */
void stor_audit_begin(vd_bb_t *bb, const char *atype, int64_t wall_ms, vd_slice_t user,
                      vd_slice_t client);
/* A read has ended: its event, where reads are audited. */
VD_MUST_CHECK int stor_audit_read(stor_request_t *request, int status, vd_error_t *err);
/* Whether what is to be audited may be done: VD_OK or VD_ERR_AUDIT_FULL. Cheap. NULL is fine. */
VD_MUST_CHECK int stor_audit_allowed(stor_audit_t *audit, vd_error_t *err);
/* Which kinds of events the configured filter takes: one JSON object. */
VD_MUST_CHECK int stor_audit_explain(stor_audit_t *audit, vd_buf_t *out, vd_error_t *err);

/* ---- the reader `must` ---- */
/* What comes behind the asked positions, as far as it is on disk. Empty: nothing yet. */
VD_MUST_CHECK int stor_audit_batch(stor_audit_t *audit, stor_session_t *session,
                                   const vdp_audit_pull_t *pull, vd_buf_t *body,
                                   vdp_audit_batch_t *ret_batch, vd_error_t *err);
VD_MUST_CHECK int stor_audit_sealed(stor_audit_t *audit, stor_session_t *session,
                                    const vdp_audit_sealed_t *sealed, vd_error_t *err);
/* A copy of another member takes the place of our data: the journal begins anew at `position`. An
 * event of atype journalRestart, before that happens: the reader goes on there, also if it has been
 * further. NULL is fine. */
VD_MUST_CHECK int stor_audit_restarted(stor_audit_t *audit, stor_session_t *session,
                                       uint64_t position, vd_error_t *err);
/* Writes above `to` are taken back; they stay in the log, and an event of atype rollback says so.
 * NULL is fine. */
VD_MUST_CHECK int stor_audit_rolled_back(stor_audit_t *audit, stor_session_t *session, uint64_t to,
                                         uint64_t documents, vd_slice_t folder, vd_error_t *err);
/* Storage has cut a link because of what a program said on it: an event linkCut, within a second,
 * with how many there were since the last. Any thread, never blocks. NULL is fine. */
void stor_audit_cut(stor_audit_t *audit, const char *program, const char *why);
/* A backup was made, checked, removed, or not (error). NULL is fine. */
VD_MUST_CHECK int stor_audit_backup(stor_audit_t *audit, stor_session_t *session, const char *atype,
                                    vd_slice_t name, vd_slice_t error, vd_error_t *err);
/* The journal may not lose what is above. NULL: UINT64_MAX. */
uint64_t stor_audit_keep_above(const stor_audit_t *audit);
/* By the keeper: the bound, its alarm. */
void stor_audit_look(stor_audit_t *audit);

typedef struct {
    uint64_t events, records, sealed_journal, sealed_events, pending_events, backlog_bytes, head;
    uint64_t refused, shed, gaps, filtered;
    int64_t sealed_wall_ms; /* when rotated last said so */
    bool refusing, attached, rolled_back;
} stor_audit_stats_t;
void stor_audit_stats(const stor_audit_t *audit, stor_audit_stats_t *ret_stats);
void stor_audit_attached(stor_audit_t *audit, bool attached);

/* ---- heads.c: heads of audit logs, ours to the others and theirs here (proto/heads.md) ---- */
#define STOR_AUDIT_LOGS_MAX 8  /* of one node */
#define STOR_AUDIT_HELD_MAX 64 /* answers that wait for rotated */
/* The newest head of our log and what goes with it, when it is not the one of *serial; its slices
 * lie in `room`. false: nothing new. Any thread. */
typedef struct {
    uint8_t head[VDP_AUDIT_HEAD_BYTES];
    uint8_t checked[VDP_AUDIT_CHECKED_MAX * VDP_AUDIT_CHECKED_BYTES];
} stor_audit_head_room_t;
bool stor_audit_own_head(stor_audit_t *audit, uint64_t *serial, stor_audit_head_room_t *room,
                         vdp_audit_head_t *ret_head);
/* Keeps another node's head, also where audit.enabled is false; the answer's slices lie in `text`.
 * VD_ERR_BAD_VALUE: it is none; VD_ERR_FULL: too many logs of that node. */
VD_MUST_CHECK int stor_audit_keep(stor_storage_t *storage, stor_session_t *session,
                                  const vdp_audit_keep_t *keep, vd_buf_t *text,
                                  vdp_audit_peer_held_t *ret_held, vd_error_t *err);
/* What another node holds of our log: for rotated. Any thread. NULL is fine. */
void stor_audit_held(stor_audit_t *audit, const vdp_audit_held_t *held);

/* ---- link.c: the thread that speaks with rotated ---- */
typedef struct stor_audit_link stor_audit_link_t;
struct vd_daemon;
VD_MUST_CHECK int stor_audit_link_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                        const char *socket_path, stor_audit_link_t **ret_link,
                                        vd_error_t *err);
void stor_audit_link_stop(stor_audit_link_t **link_p);
