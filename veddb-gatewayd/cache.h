/* veddb-gatewayd/cache.h — results of hot reads by _id, kept in the gateway: a hit costs no hop.
 *
 * Duty:    keeps replies that storage said may be kept, with what they depend on, and gives one out
 *          only while that is so (proto/versions.md): the slot of its document and the epoch of
 *          everything have the values that the reply came with. Decides nothing about who may read:
 *          the caller has asked gate_access_check, for every request.
 * Owner:   a loop thread; one for each. NULL: switched off, and every function takes it.
 * Limits:  bytes_max for entries and their bookkeeping; the least used go first (second chance),
 *          and only for a key that was asked for before. While less than a third of the look-ups
 *          hit, only a sixteenth of the keys is kept and looked for, until that is better. A reply
 *          above GATE_CACHE_REPLY_MAX_BYTES is not kept. Sessions: GATE_CACHE_SESSIONS are
 *          remembered. */
#pragma once
#include "proto/operation.h"
#include "veddb-gatewayd/cache_key.h"

#define GATE_CACHE_REPLY_MAX_BYTES (64 * 1024)
#define GATE_CACHE_SESSIONS        4096

typedef struct gate_cache gate_cache_t;

typedef struct {
    const char *versions_path; /* of the table that storage writes */
    uint64_t bytes_max;
    /* A session is told to storage at least so often by a request that is let through: it would
     * expire there else. */
    uint64_t session_refresh_ms;
} gate_cache_options_t;

/* Written by the cache's thread, read by any. */
typedef struct {
    _Atomic uint64_t hits, misses, invalidations, evictions, entries, bytes;
} gate_cache_stats_t;

typedef struct {
    const gate_cache_key_t *key;
    uint64_t auth_epoch; /* as of which the user's privileges were looked at */
    uint64_t newest;     /* storage has said that it is so far */
    const uint8_t *lsid; /* 16 bytes, or NULL */
    uint64_t now_ms;
} gate_cache_question_t;

gate_cache_t *gate_cache_create(const gate_cache_options_t *options);
void gate_cache_destroy(gate_cache_t **cache_p);
/* Storage says who it is: maps its table, when it is another one than before. Without a table
 * nothing is kept and nothing found. */
void gate_cache_attach(gate_cache_t *cache, const uint8_t boot_id[16]);
/* The reply as it was stored, or an empty slice. Its times are those of `operation_time` then; the
 * caller puts newer ones in. Valid until the next call. */
vd_slice_t gate_cache_find(gate_cache_t *cache, const gate_cache_question_t *question);
/* Whether it is of use to ask storage what the reply depends on. */
bool gate_cache_wants(const gate_cache_t *cache);
/* Keeps the reply, unless what it depends on has changed meanwhile. */
void gate_cache_put(gate_cache_t *cache, const gate_cache_key_t *key,
                    const vdp_operation_reply_t *reply, vd_slice_t document);
const gate_cache_stats_t *gate_cache_stats(const gate_cache_t *cache);
