/* veddb-replicad/elect.h — etcd: a lease with {term, leader} under it, by compare-and-swap.
 *
 * Duty:    key /veddb/<set>/leader = {"term": T, "leader": id, "name": ...} attached to a lease of
 *          the primary; watched by all members. Speaks etcd 3's JSON gateway (v3/kv/txn,
 *          v3/lease/grant, keepalive, revoke, v3/watch) by libcurl with TLS, in a thread of its
 * own; delivers events for role.h on the loop's thread. Decides nothing. Claim:   transaction: if
 * the key's create revision is 0 (nobody holds it) and the term key /veddb/<set>/term is < T, put
 * both. The term key outlives the lease. Times:   sent_ms of an event is vd_monotonic_ms() before
 * the request left. Threads: create, claim, release, destroy: the loop's. */
#pragma once
#include "libcommon/runtime/loop.h"
#include "veddb-replicad/role.h"

typedef struct repl_elect repl_elect_t;

typedef struct {
    const char *endpoints; /* URLs with commas: asked in turn */
    const char *ca_file, *certificate_file, *key_file;
    const char *set_name, *node_name;
    uint32_t self;
    uint64_t lease_ms;
    void (*event)(void *context, const repl_event_t *event);
    void *context;
} repl_elect_options_t;

VD_MUST_CHECK int repl_elect_create(vd_loop_t *loop, const repl_elect_options_t *options,
                                    repl_elect_t **ret_elect, vd_error_t *err);
void repl_elect_destroy(repl_elect_t **elect_p);
void repl_elect_claim(repl_elect_t *elect, uint64_t term);
/* Once: keeps nothing alive by itself. */
void repl_elect_renew(repl_elect_t *elect);
void repl_elect_release(repl_elect_t *elect);
/* One JSON object for the status. */
VD_MUST_CHECK int repl_elect_status(repl_elect_t *elect, vd_buf_t *out);
