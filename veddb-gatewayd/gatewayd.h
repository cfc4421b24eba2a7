/* veddb-gatewayd/gatewayd.h — the gateway as a whole and each of its loop threads; wiring.
 *
 * Duty:    settings, threads, what they share: limits, the state that hello announces, the
 *          administration worker, fail points, counters.
 * Owner:   create/destroy by main (or a test).
 * Threads: what is shared says how it is locked; a gate_thread_t belongs to its thread. */
#pragma once
#include "libcommon/base/list.h"
#include "libcommon/runtime/loop.h"
#include "libcommon/runtime/metrics.h"
#include "libcommon/runtime/tls.h"
#include "libcommon/runtime/worker.h"
#include "veddb-gatewayd/auth/lockout.h"
#include "veddb-gatewayd/auth/oidc.h"
#include "veddb-gatewayd/auth/tokens.h"
#include "veddb-gatewayd/auth/users.h"
#include "veddb-gatewayd/cache.h"
#include "veddb-gatewayd/commands/table.h"
#include "veddb-gatewayd/keys.h"
#include "veddb-gatewayd/limits.h"
#include "veddb-gatewayd/member.h"
#include "veddb-gatewayd/quota/notes.h"
#include "veddb-gatewayd/quota/quota.h"
#include "veddb-gatewayd/reply.h"
#include "veddb-gatewayd/upstream.h"

#include <pthread.h>
#include <stdatomic.h>

#define GATE_VERSION          "7.0.14" /* of MongoDB, whose behaviour clients may expect */
#define GATE_MAX_WIRE_VERSION 21
#define GATE_SYSTEM_USER      "__system@local" /* whose our own commands are */
#define GATE_THREADS_MAX      64
#define GATE_SCRATCH_BYTES    (64 * 1024)
#define GATE_HELD_FREE_BYTES  (16 * 1024) /* messages and replies up to here need no room */
/* Messages wait at held_max_bytes, replies are given up at so many times of it. */
#define GATE_HELD_REPLIES_TIMES 4

typedef struct gate gate_t;
typedef struct gate_conn gate_conn_t;
typedef struct gate_faults gate_faults_t;
typedef struct gate_http gate_http_t;
typedef struct gate_listener gate_listener_t;

typedef struct {
    char node_name[64];
    char replica_set[64];
    char address[300]; /* host:port as clients reach this node; empty: listen:port */
    char listen[256];
    uint16_t port, http_port;
    int listen_fd, http_fd; /* passed down, or -1 */
    uint32_t threads;
    uint32_t connections_max, connections_per_address_max, login_rate;
    gate_limit_values_t limits; /* as configured */
    uint64_t handshake_timeout_ms, storage_wait_ms, held_max_bytes;
    uint64_t session_timeout_ms; /* storage's */
    uint64_t result_cache_bytes; /* of all threads together; 0 = off */
    uint8_t compressors[4];
    uint32_t compressor_count;
    bool test_faults, insecure_dev;
    bool audit; /* logins, refusals and administration are told to storage */
    gate_oidc_settings_t oidc;
    gate_token_settings_t tokens;
    uint64_t users_lease_ms; /* 0: not looked at */
    uint32_t lockout_failures;
    uint64_t lockout_ms;
    char bootstrap_file[4001];
    char storage_path[256], versions_path[256];
    char config_file_hint[256]; /* shown by getCmdLineOpts */
    vd_tls_options_t tls;
} gate_settings_t;

/* Told when the gateway serves, when a drain is done, and when it can't go on. Any thread; all may
 * be NULL. */
typedef struct {
    void (*ready)(void *context, const char *detail);
    void (*drained)(void *context);
    void (*beat)(void *context, uint32_t thread, bool busy);
    void (*cut_off)(void *context); /* storage has cut a link of ours (link.h) */
    /* To be had again at the next start (main thread). */
    void (*keep)(void *context, vd_slice_t bytes);
    void *context;
} gate_events_t;

enum {
    GATE_OPCOUNT_INSERT,
    GATE_OPCOUNT_QUERY,
    GATE_OPCOUNT_UPDATE,
    GATE_OPCOUNT_DELETE,
    GATE_OPCOUNT_GETMORE,
    GATE_OPCOUNT_COMMAND,
    GATE_OPCOUNTS
};

typedef struct {
    _Atomic uint64_t opcounters[GATE_OPCOUNTS];
    _Atomic uint64_t bytes_in, bytes_out, requests;
    _Atomic uint64_t asserts_user, asserts_msg;
    _Atomic uint64_t connections_current, connections_total, connections_rejected,
        connections_active, exhaust_hello, awaiting_hello, handshakes_failed;
    _Atomic uint64_t https_current, https_rejected;
    _Atomic uint64_t logins, logins_failed;
    _Atomic uint64_t tokens_refused_unsure, users_refused_unsure;
} gate_stats_t;

struct gate_thread {
    gate_t *gate;
    uint32_t index;
    vd_loop_t *loop;
    pthread_t pthread;
    bool own_loop, started;
    gate_upstream_t *upstream;
    gate_storage_state_t state;
    uint64_t cluster_time; /* newest that a client brought and that was verified; 0 = none */
    gate_proof_t proof;    /* of the last time that was signed */
    gate_users_t *users;
    gate_cache_t *cache;        /* NULL: switched off */
    gate_cache_key_t cache_key; /* of the request that is looked at */
    gate_accounts_t *accounts;  /* of users and addresses, as the limits see them */
    gate_account_t *total;      /* of all together */
    vd_list_t conns, dead, idle_requests;
    uint32_t token_conns; /* logged in with a token of ours */
    vd_list_t paused;     /* connections that wait for room to read a large message */
    uint32_t idle_request_count;
    uint64_t held_bytes; /* by messages and their unpacked form, and by replies not yet sent */
    uint64_t held_max_bytes;
    uint8_t *scratch;  /* GATE_SCRATCH_BYTES, for reads */
    vd_buf_t assembly; /* a reply being put together */
    int32_t next_message_id;
    int64_t seen_counter; /* of the topology */
    vd_list_t watchers;   /* hellos that wait for a change */
    vd_source_t *tick, *end_of_turn;
    uint32_t ticks;
    uint64_t audit_second, audit_suppressed;   /* audit.c */
    uint32_t audit_refusals, audit_handshakes; /* handshakes refused since the last event */
    char audit_handshake[256];                 /* the last of them */
    uint64_t audit_metadata_second;            /* audit.c */
    uint64_t audit_metadata_lost;              /* in which second one was lost, and said so */
    uint32_t audit_metadata;                   /* told in that second */
    uint32_t refusals_noted;                   /* handshakes, in this second */
    uint64_t recheck_epoch, recheck_pass;      /* recheck.h */
    bool recheck_busy, recheck_failed;
    bool room_made; /* memory was given back in this turn */
    bool stopping;
};

struct gate {
    gate_settings_t settings;
    gate_events_t events;
    int statm_fd; /* of /proc/self, opened while we may still open files; -1: none */
    vd_tls_t *tls;
    gate_oidc_t *oidc; /* NULL: no outside issuer */
    gate_limits_t *limits;
    gate_quota_t *quota; /* rates and bounds */
    gate_notes_t *notes; /* refusals by them */
    gate_lockout_t *lockout;
    gate_tokens_t *tokens;      /* our own */
    vd_worker_t *token_worker;  /* one thread: reads revocations, tidies up */
    pthread_mutex_t token_lock; /* token_store.c: epochs of users are made one after the other */
    _Atomic bool tokens_wanted; /* a look is queued */
    uint64_t tokens_clean_ms;   /* the token worker's */
    _Atomic int64_t tokens_data_key; /* of the rotation that tokens' key was last seen to follow */
    _Atomic uint64_t audit_second, audit_refusals; /* audit.c: of HTTPS */
    gate_topology_t topology;                      /* what hello announces: member.h */
    gate_keys_t *keys;                             /* that sign $clusterTime */
    vd_worker_t *worker; /* one thread: administration is done one after the other */
    _Atomic uint64_t certificate_warned_ms; /* monotonic; 0: not yet */
    _Atomic uint64_t staple_warned_ms;      /* the same for the OCSP response */
    gate_faults_t *faults;
    gate_listener_t *listener;
    gate_http_t *http;
    gate_thread_t *threads[GATE_THREADS_MAX];
    uint32_t thread_count;
    gate_stats_t stats;
    uint8_t fake_secret[32]; /* for gate_keys_salts, while there is no key */
    uint8_t instance[16];    /* of this start; also the session of our own writes */
    uint8_t system_digest[32];
    _Atomic int64_t last_txn_number; /* of that session */
    _Atomic uint64_t next_connection_id;
    _Atomic bool draining, ready_said;
    _Atomic uint64_t auth_epoch; /* as thread 0 knows it */
    _Atomic uint64_t fresh_ms;   /* the same; vdp_operation_state_t */
    pthread_mutex_t call_lock;   /* no internal call is posted once `stopping` is set under it */
    bool stopping;
    _Atomic uint32_t threads_drained;
    int64_t started_wall_ms;
    uint64_t started_ms;
    char hostname[256];
    /* 0 not tried, 1 under way, 2 done, 3 given up: an operator must act */
    _Atomic uint32_t bootstrap_state;
    _Atomic bool preparing;   /* keys or the first administrator are under way on the worker */
    _Atomic bool keys_failed; /* a key could not be made: again after a while */
    _Atomic bool keys_wanted; /* somebody waits for keys to be loaded again */
    uint32_t keys_role;       /* in which they were loaded; thread 0's, as the next */
    uint64_t keys_term, keys_due_ms;
    bool prepare_primary; /* for the worker and by it, while `preparing` */
    bool prepare_failed;
    uint64_t prepare_time;
};

/* Reads certificates, makes what is shared; opens nothing on the network yet. */
VD_MUST_CHECK int gate_create(const gate_settings_t *settings, const gate_events_t *events,
                              gate_t **ret_gate, vd_error_t *err);
/* Opens listeners and links and starts threads; thread 0 runs on `loop`, which the caller turns.
 * Called on that thread. */
VD_MUST_CHECK int gate_start(gate_t *gate, vd_loop_t *loop, vd_error_t *err);
/* Accepts nobody new; connections end as their requests do; events.drained() when all have gone. */
void gate_drain(gate_t *gate);
/* Ends everything; on the thread of `loop`, after it has stopped turning. */
void gate_destroy(gate_t **gate_p);
/* One JSON object. */
VD_MUST_CHECK int gate_status(gate_t *gate, vd_buf_t *out);

/* ---- for the rooms of the gateway ---- */
/* Storage said something new, or went away; on the thread that saw it. */
void gate_note_state(gate_thread_t *thread);
gate_reply_times_t gate_times(const gate_thread_t *thread);
/* Cached users of all threads are out of date. Any thread. */
void gate_users_forget_all(gate_t *gate);
/* Tokens may have been revoked: connections that were opened with them are looked at. Any thread.
 */
void gate_tokens_changed(gate_t *gate);
/* As clients are told it. */
int32_t gate_session_minutes(const gate_t *gate);
/* How an internal command bears to be sent again after storage died. */
typedef enum {
    GATE_CALL_IDEMPOTENT, /* a read, or a write that may be done twice */
    /* An insert, an update or a delete of one document: storage does it once and gives the same
     * answer again. From the administration worker alone, since a session does one write at a time.
     */
    GATE_CALL_ONCE,
    /* Never sent again: HostUnreachable says that it may have been done. timeout_ms bounds the
     * answer, too. */
    GATE_CALL_ONE_TRY,
} gate_call_t;
/* From any other thread, blocking: runs an internal command on storage and appends the reply
 * document to out. Not on a loop thread. */
VD_MUST_CHECK int gate_internal_call(gate_t *gate, gate_call_t kind, vd_slice_t db,
                                     vd_bson_t command, uint64_t timeout_ms, vd_buf_t *out,
                                     vd_error_t *err);
