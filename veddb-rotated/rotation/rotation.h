/* veddb-rotated/rotation/rotation.h — the rotation of keys at work: the machine around the keyring,
 * the audit log and the link to storage.
 *
 * Duty:    feeds machine.h with what happens, does what it says, in its order: the keyring first,
 *          durable. Answers operators (vedctl by the supervisor, the wire protocol by storage).
 *          Takes the keyring over to another key-encryption key.
 * Owner:   create/destroy by rotated.c; borrows keyring and audit.
 * Threads: the main loop's, which waits for the keyring's sync (docs/decisions/0014).
 * Errors:  of an ask: VD_ERR_ROTATION_IN_PROGRESS, VD_ERR_NO_ROTATION, VD_ERR_ILLEGAL_OPERATION,
 *          VD_ERR_BAD_VALUE (the argument), VD_ERR_COMMAND_NOT_FOUND, VD_ERR_IO. */
#pragma once
#include "libcommon/runtime/daemon.h"
#include "veddb-rotated/audit/audit.h"
#include "veddb-rotated/kek.h"
#include "veddb-rotated/keyring.h"
#include "veddb-rotated/rotation/machine.h"

typedef struct {
    vd_daemon_t *daemon;
    rot_keyring_t *keyring;
    rot_audit_t *audit; /* or NULL */
    rot_kek_source_t source;
    const uint8_t *next_kek; /* locked; as it was when the process began; NULL: there was none */
} rot_rotation_options_t;

typedef struct rot_rotation rot_rotation_t;
/* Takes up what the keyring says. VD_ERR_CORRUPT, VD_ERR_KEYRING_OLD: an operator must act. */
VD_MUST_CHECK int rot_rotation_create(const rot_rotation_options_t *options,
                                      rot_rotation_t **ret_rotation, vd_error_t *err);
void rot_rotation_destroy(rot_rotation_t **rotation_p);
/* Answers the ticket by vd_daemon_answer. verb: as in proto/rotation.md. */
void rot_rotation_ask(rot_rotation_t *rotation, uint64_t ticket, vd_slice_t verb,
                      vd_slice_t argument);
/* Appends one JSON object; history: with what has ended. */
VD_MUST_CHECK int rot_rotation_status(const rot_rotation_t *rotation, bool history, vd_buf_t *out);
