/* veddb-gatewayd/cache_key.h — which requests may be answered from the cache of results, and under
 * which key. Pure.
 *
 * Duty:    a find for one document by its _id, of fields that are all known here; anything else is
 *          not for the cache. The key is the database and the command's bytes without what differs
 *          from one client to the next and changes nothing in the answer: lsid, $clusterTime,
 *          maxTimeMS, and the time of readConcern.
 * Limits:  a key of at most GATE_CACHE_KEY_MAX_BYTES. */
#pragma once
#include "libcommon/bson/view.h"

#define GATE_CACHE_KEY_MAX_BYTES 512

typedef struct {
    uint32_t len;
    uint64_t after_cluster_time; /* of readConcern; 0 = none */
    uint8_t bytes[GATE_CACHE_KEY_MAX_BYTES];
} gate_cache_key_t;

/* body: the command document, checked to be BSON at its top level. False: not for the cache. */
bool gate_cache_key(vd_bson_t body, gate_cache_key_t *ret_key);
