/* veddb-gatewayd/auth/lockout.h — guessing of passwords: who is locked out, from where.
 *
 * Duty:    counts failed logins of a user from an address, in a row: at so many the pair is
 *          locked for a while. Nobody is locked out anywhere else: an attacker can't shut an
 *          administrator out. Failures of one user from many addresses slow that user's logins
 *          down, but never from an address that had a good login before, and never so that one is
 *          refused. Names that nobody has are counted like others. The bucket per address is
 *          limits.h's.
 * Threads: any (one lock).
 * Limits:  GATE_LOCKOUT_PAIRS_MAX pairs and GATE_LOCKOUT_USERS_MAX users are remembered; when
 *          full, those that matter least go first: quiet ones, then the oldest that are not
 *          locked. */
#pragma once
#include "libcommon/base/slice.h"
#include "veddb-gatewayd/limits.h"

#define GATE_LOCKOUT_PAIRS_MAX 65536
#define GATE_LOCKOUT_USERS_MAX 16384
#define GATE_LOCKOUT_SLOW_MS   1500 /* what a user's logins from new addresses wait at most */

typedef struct gate_lockout gate_lockout_t;

typedef struct {
    vd_slice_t user, db;
    gate_address_t address;
} gate_lockout_who_t;

gate_lockout_t *gate_lockout_create(uint32_t failures, uint64_t lock_ms);
void gate_lockout_destroy(gate_lockout_t **lockout_p);
/* How long a login must wait first; -1: it is locked out. now_ms: monotonic. */
int64_t gate_lockout_wait_ms(gate_lockout_t *lockout, const gate_lockout_who_t *who,
                             uint64_t now_ms);
/* True: that locked it. */
bool gate_lockout_failed(gate_lockout_t *lockout, const gate_lockout_who_t *who, uint64_t now_ms);
void gate_lockout_good(gate_lockout_t *lockout, const gate_lockout_who_t *who, uint64_t now_ms);
/* How many pairs are remembered. */
size_t gate_lockout_pairs(gate_lockout_t *lockout);
