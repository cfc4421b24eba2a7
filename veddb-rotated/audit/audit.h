/* veddb-rotated/audit/audit.h — the audit log at work: its thread, the link to storage, what the
 * operator asks.
 *
 * Duty:    pulls from storage, appends, seals every ROT_SEAL_MS while there is something, tells
 *          storage what is sealed. A log that can't be written is opened again every second; one
 *          that was cut or changed ends the process (an operator must act). Notes what the
 *          supervisor tells (starts, ends, deaths of workers, operators' commands).
 * Owner:   create/destroy by rotated.c.
 * Threads: all calls from the main thread; one thread of its own, and one for a question at a
 *          time.
 * Limits:  ROT_NOTES_MAX notes wait. */
#pragma once
#include "libcommon/runtime/daemon.h"
#include "veddb-rotated/audit/log.h"
#include "veddb-rotated/keyring.h"

#define ROT_SEAL_MS   400
#define ROT_NOTES_MAX 64

typedef struct rot_audit rot_audit_t;
VD_MUST_CHECK int rot_audit_create(vd_daemon_t *daemon, rot_audit_t **ret_audit, vd_error_t *err);
/* Once the keyring has a key; does nothing when it has been started. */
VD_MUST_CHECK int rot_audit_start(rot_audit_t *audit, const rot_keyring_t *keyring,
                                  vd_error_t *err);
void rot_audit_destroy(rot_audit_t **audit_p);
/* Answers the ticket by vd_daemon_answer, now or later. */
void rot_audit_ask(rot_audit_t *audit, uint64_t ticket, vd_slice_t verb, vd_slice_t argument);
/* An event of rotated itself: sealed within a turn of the thread (100 ms), also when it is called
 * before the start. Any thread. NULL is fine. More than ROT_NOTES_MAX that wait are counted and
 * logged. */
void rot_audit_note(rot_audit_t *audit, const char *atype, const char *format, ...) VD_PRINTF(3, 4);
/* The keyring's keys have changed. The thread takes them, wraps everything under the active one and
 * forgets those that are gone; again and again until it has worked. */
void rot_audit_rekey(rot_audit_t *audit, const rot_keyring_t *keyring);
/* The version of the only key that the log needs; 0: not known to be so. */
uint32_t rot_audit_wrapped(rot_audit_t *audit);
/* Appends one JSON object. */
VD_MUST_CHECK int rot_audit_status(rot_audit_t *audit, vd_buf_t *out);
