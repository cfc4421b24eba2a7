/* veddb-gatewayd/quota/quota.h — who may have how much: the limits in force, and what users,
 * addresses and all together have used.
 *
 * Duty:    an entry per user, per address and for the total has a bucket per kind of rate. A loop
 *          thread takes from an entry by an account of its own, which holds a small part of the
 *          bucket in advance (1/64 of a second), so that most requests touch no lock.
 * Owner:   the gateway has the quota; a thread its accounts; a connection references to them.
 * Threads: quota any (one lock; what is read per request is atomic); accounts their thread's.
 * Limits:  GATE_ENTRIES_MAX per scope. When full, those that nobody uses and that owe nothing are
 *          forgotten, a bounded number per newcomer; who finds no place shares one entry with all
 *          such newcomers. Nobody can push out another's debt, nor lose his own by being
 *          forgotten. */
#pragma once
#include "veddb-gatewayd/quota/bucket.h"
#include "veddb-gatewayd/quota/settings.h"

#include <stdatomic.h>

#define GATE_ENTRIES_MAX 65536

typedef struct gate_quota gate_quota_t;
typedef struct gate_entry gate_entry_t;
typedef struct gate_accounts gate_accounts_t;

enum { /* what is limited at all */
       GATE_ON_USER = 1u << GATE_SCOPE_USER,
       GATE_ON_ADDRESS = 1u << GATE_SCOPE_ADDRESS,
       GATE_ON_TOTAL = 1u << GATE_SCOPE_TOTAL,
       GATE_ON_USER_BOUNDS = 1u << GATE_SCOPES, /* connections, cursors, ... of users */
};

/* One entry as a thread sees it. */
typedef struct {
    gate_entry_t *entry;
    gate_scope_t scope;
    uint32_t references;
    uint64_t generation; /* of the values below */
    gate_limit_values_t limits;
    gate_bucket_rate_t rates[GATE_RATES]; /* per_second 0: not limited */
    double credit[GATE_RATES];            /* taken in advance */
} gate_account_t;

gate_quota_t *gate_quota_create(const gate_limit_values_t *values);
void gate_quota_destroy(gate_quota_t **quota_p);

/* ---- settings; user empty: for everybody. Checked by the caller (settings.h). ---- */
/* VD_ERR_FULL: GATE_OVERRIDES_MAX users' values. A user's value 0: no limit for him. */
VD_MUST_CHECK int gate_quota_set(gate_quota_t *quota, vd_slice_t user, gate_limit_t limit,
                                 uint64_t value, vd_error_t *err);
/* As in the configuration; of a user: his overrides go. */
void gate_quota_reset(gate_quota_t *quota, vd_slice_t user);
void gate_quota_values(gate_quota_t *quota, gate_limit_values_t *ret_now,
                       gate_limit_values_t *ret_configured);
/* Copies of up to max overrides; returns how many. */
uint32_t gate_quota_overrides(gate_quota_t *quota, gate_override_t *out, uint32_t max);
/* For the hot path: GATE_ON_*, and a value for everybody. */
unsigned gate_quota_on(const gate_quota_t *quota);
uint64_t gate_quota_value(const gate_quota_t *quota, gate_limit_t limit);

/* A new connection from there; false: one too many in this time. *ret_scope: by which limit. */
bool gate_quota_handshake(gate_quota_t *quota, vd_slice_t address, uint64_t now_us,
                          gate_scope_t *ret_scope);

/* ---- accounts ---- */
gate_accounts_t *gate_accounts_create(gate_quota_t *quota);
/* All accounts must have been closed. */
void gate_accounts_destroy(gate_accounts_t **accounts_p);
/* With a reference. key: "name@db", the bytes of an address, or empty for the total. */
gate_account_t *gate_accounts_open(gate_accounts_t *accounts, gate_scope_t scope, vd_slice_t key);
void gate_accounts_close(gate_accounts_t *accounts, gate_account_t **account_p);
/* A value for this account's user (or for all). */
uint64_t gate_account_limit(gate_accounts_t *accounts, gate_account_t *account, gate_limit_t limit);
/* A connection more of a user; false: he has as many as he may. Each true needs a leave. */
bool gate_account_enter(gate_accounts_t *accounts, gate_account_t *account);
void gate_account_leave(gate_accounts_t *accounts, gate_account_t *account);
/* Takes cost[] of each kind that is limited; how long to wait first, or -1: nothing was taken, it
 * would have to wait for longer than wait_max_us. Then, and when it must wait, *ret_rate says for
 * what, and *ret_wait_us how long. */
int64_t gate_account_take(gate_accounts_t *accounts, gate_account_t *account, uint64_t now_us,
                          const double cost[GATE_RATES], uint64_t wait_max_us,
                          gate_rate_t *ret_rate, uint64_t *ret_wait_us);
/* What was taken is given back. */
void gate_account_give(gate_account_t *account, const double cost[GATE_RATES]);
/* What it turned out to cost. */
void gate_account_charge(gate_accounts_t *accounts, gate_account_t *account, uint64_t now_us,
                         gate_rate_t rate, double amount);
