/* veddb-replicad/greeting.h — what a node says of itself before anything else. Pure.
 *
 * Duty:    HELLO or WELCOME checked and copied: it speaks our protocol, has a name that may stand
 *          in a log line (no blanks, quotes or control characters) and an address. Whether its
 *          certificate says the same is for peers.c, whether it may be spoken with for its user.
 * Threads: any.
 * Limits:  those of proto/peer.h.
 * Errors:  VD_ERR_PROTOCOL. */
#pragma once
#include "proto/peer.h"

/* Own copies. */
typedef struct {
    char node[VDP_NODE_NAME_MAX + 1], set[VDP_NODE_NAME_MAX + 1];
    char peer[VDP_PEER_ADDRESS_MAX + 1], host[VDP_PEER_ADDRESS_MAX + 1];
    uint8_t set_id[12];
    bool has_set_id;
    int64_t config_version, config_term;
} repl_greeting_t;

/* Also when it is refused the greeting may be logged: a name that may not is empty then. ret_host:
 * of its address. */
VD_MUST_CHECK int repl_greeting_read(const vdp_peer_hello_t *hello, repl_greeting_t *ret_greeting,
                                     char ret_host[VDP_PEER_ADDRESS_MAX + 1], vd_error_t *err);

/* "host:port" or "[v6]:port" taken apart; false: it isn't one. */
bool repl_address_parse(const char *address, char *host, size_t host_size, uint16_t *ret_port);
