/* veddb-replicad/etcd.h — a client of etcd 3's JSON gateway, for the two keys of an election.
 *
 * Duty:    /veddb/<set>/leader = {"term": T, "leader": id, "name": ".."}, attached to a lease,
 *          and /veddb/<set>/term = "<term, 16 hex digits>/<leader's id>", which outlives it; etcd
 *          compares values as strings, hence the fixed width. Requests over TLS with a client
 *          certificate, endpoints asked in turn; beside them a watch on both keys, which only
 *          says that it is worth reading them again.
 * Owner:   elect.c's thread makes all calls, and each blocks at most timeout_ms; stop and wake:
 *          any.
 * Limits:  answers of REPL_ETCD_ANSWER_MAX bytes.
 * Errors:  VD_ERR_HOST_UNREACHABLE no endpoint answered; VD_ERR_PROTOCOL one answered what can't
 *          be read; VD_ERR_OPERATION_FAILED etcd refused. Of none of them is known whether it was
 *          done. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

#define REPL_ETCD_ANSWER_MAX    (64 * 1024)
#define REPL_ETCD_ENDPOINTS_MAX 9
#define REPL_ETCD_URL_MAX       256
#define REPL_ETCD_NAME_MAX      128 /* of sets and nodes */

typedef struct repl_etcd repl_etcd_t;

typedef struct {
    const char *endpoints; /* https URLs with commas */
    const char *ca_file, *certificate_file, *key_file;
    const char *set_name;
    uint64_t timeout_ms; /* of one request, over all endpoints */
} repl_etcd_options_t;

typedef struct {
    uint64_t term;   /* 0: never claimed */
    uint32_t owner;  /* who had claimed it */
    uint32_t leader; /* whose lease it is; 0 = nobody holds it */
    uint64_t leader_term, lease;
} repl_etcd_record_t;

/* VD_ERR_CONFIG: no endpoint, or one that is not https. */
VD_MUST_CHECK int repl_etcd_create(const repl_etcd_options_t *options, repl_etcd_t **ret_etcd,
                                   vd_error_t *err);
void repl_etcd_destroy(repl_etcd_t **etcd_p);

VD_MUST_CHECK int repl_etcd_read(repl_etcd_t *etcd, repl_etcd_record_t *ret_record,
                                 vd_error_t *err);
/* A whole number of seconds; etcd may give more. */
VD_MUST_CHECK int repl_etcd_grant(repl_etcd_t *etcd, uint64_t seconds, uint64_t *ret_lease,
                                  vd_error_t *err);
/* *ret_left_s 0: the lease is gone. */
VD_MUST_CHECK int repl_etcd_keep_alive(repl_etcd_t *etcd, uint64_t lease, uint64_t *ret_left_s,
                                       vd_error_t *err);
VD_MUST_CHECK int repl_etcd_time_left(repl_etcd_t *etcd, uint64_t lease, uint64_t *ret_left_s,
                                      vd_error_t *err);
VD_MUST_CHECK int repl_etcd_revoke(repl_etcd_t *etcd, uint64_t lease, vd_error_t *err);
/* Compare-and-swap of both keys: nobody holds the lease, and the term there is older, or is this
 * one and was ours (`before`: what was read). */
VD_MUST_CHECK int repl_etcd_claim(repl_etcd_t *etcd, const repl_etcd_record_t *before,
                                  uint64_t term, uint32_t self, const char *name, uint64_t lease,
                                  bool *ret_granted, vd_error_t *err);

/* Waits until the watch has news (true), its time is over, or somebody wakes it. A watch that broke
 * is begun anew at the next call. */
bool repl_etcd_wait(repl_etcd_t *etcd, uint64_t timeout_ms);
bool repl_etcd_is_watching(const repl_etcd_t *etcd);
/* Of whom it is asking at present; borrowed until the next request. */
const char *repl_etcd_endpoint(const repl_etcd_t *etcd);
/* Any thread: ends a wait. */
void repl_etcd_wake(repl_etcd_t *etcd);
/* Any thread: what runs and what comes fails at once. */
void repl_etcd_stop(repl_etcd_t *etcd);
