/* veddb-replicad/elect.h — etcd: a lease with {term, leader} under it, by compare-and-swap.
 *
 * Duty:    key /veddb/<set>/leader = {"term": T, "leader": id, "name": ...} attached to a lease
 *          of the primary; watched by all members, and read anew from time to time whether the
 *          watch speaks or not. Speaks etcd 3's JSON gateway (etcd.h) in a thread of its own;
 *          delivers events for role.h on the loop's thread. Decides nothing.
 * Claim:   transaction: if the term key /veddb/<set>/term is < T, or is T and was ours, put both.
 *          The leader key of an older term is replaced: who claims has fenced a majority and
 *          waited. The term key outlives the lease. Release: ends our lease, or the one that the
 *          leader key names for us (of the process before us). Of a claim whose answer was lost
 *          the keys are read: they say who has it. Times: sent_ms of an event is
 *          vd_monotonic_ms() before the request left; of CLAIMED before the lease was asked for.
 *          A lease lives lease_ms rounded up to seconds, or longer: etcd has a least time of its
 *          own. A request ends after a third of lease_ms.
 * Limits:  REPL_ELECT_QUEUE_MAX orders that are not done yet; a renewal that waits is not asked
 *          twice.
 * Threads: create, claim, renew, release, destroy: the loop's. status: any. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/runtime/loop.h"
#include "veddb-replicad/role.h"

#define REPL_ELECT_QUEUE_MAX 16

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
