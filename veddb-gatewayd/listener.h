/* veddb-gatewayd/listener.h — accepts MongoDB clients and deals them to the loop threads; limits in
 * total and per address.
 *
 * Owner:   the gateway; lives on the loop of thread 0.
 * Limits:  when one is reached, connections are accepted and closed, so that clients learn at
 *          once. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

/* fd >= 0: passed down and listening. Else opens its own; *ret_port is what it got. */
VD_MUST_CHECK int gate_listen_socket(const char *host, uint16_t port, int *ret_fd,
                                     uint16_t *ret_port, vd_error_t *err);
/* Port of a listening socket, 0 when it can't be told. */
uint16_t gate_listen_port(int fd);
/* A connection more from there, already counted in stats.connections_current or https_current: is
 * it within the limits? Each true needs a gate_limits_leave. Refusals are noted. Any thread. */
bool gate_listener_enter(gate_t *gate, const gate_address_t *address);
VD_MUST_CHECK int gate_listener_open(gate_t *gate, vd_loop_t *loop, int fd,
                                     gate_listener_t **ret_listener, vd_error_t *err);
/* Accepts nobody any more. */
void gate_listener_close(gate_listener_t **listener_p);
