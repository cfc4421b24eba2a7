/* veddb-gatewayd/limits.h — bounds per client address: open connections, failed logins.
 *
 * Duty:    counts; the callers act. A failed login takes a token; an address without tokens must
 *          wait before its next login is looked at, and is refused when it would wait too long.
 *          Other addresses never notice.
 * Threads: any (one lock).
 * Limits:  GATE_ADDRESSES_MAX addresses are remembered; when full, addresses without open
 *          connections and with full buckets are forgotten first. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define GATE_ADDRESSES_MAX     65536
#define GATE_LOGIN_WAIT_MAX_MS 3000

typedef struct {
    uint8_t bytes[16]; /* IPv6, IPv4 mapped */
} gate_address_t;

typedef struct gate_limits gate_limits_t;

gate_limits_t *gate_limits_create(uint32_t per_address_max, uint32_t logins_per_minute);
void gate_limits_destroy(gate_limits_t **limits_p);
gate_address_t gate_address_from(const struct sockaddr *address);
/* "10.0.0.1", "2001:db8::" (the /64). */
const char *gate_address_print(const gate_address_t *address, char out[64]);
void gate_limits_set_per_address(gate_limits_t *limits, uint32_t per_address_max);
/* False when the address has its share. Each true needs a leave. */
bool gate_limits_enter(gate_limits_t *limits, const gate_address_t *address);
void gate_limits_leave(gate_limits_t *limits, const gate_address_t *address);
/* How long a login from there must wait first; -1: refuse it now. */
int64_t gate_limits_login_wait_ms(gate_limits_t *limits, const gate_address_t *address);
void gate_limits_login_failed(gate_limits_t *limits, const gate_address_t *address);
