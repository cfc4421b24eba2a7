/* veddb-gatewayd/keys.h — the keys that sign $clusterTime, so that a client can carry a time from
 * one member to another but can't make one up.
 *
 * Duty:    loads admin.system.keys, which is replicated like any data: all members share the keys
 *          and they outlive restarts; the gateway of a primary makes one when there is none that
 *          lasts. Signs and verifies as MongoDB does: HMAC-SHA-1 over the time with its low 16
 *          bits set, as 8 bytes little endian; so one proof serves 65536 times and is rarely
 *          computed.
 * Form:    {_id: int64, purpose: "HMAC", key: 20 bytes, expiresAt: Timestamp}.
 * Owner:   the gateway.
 * Threads: sign and verify any (one lock, and a proof kept per thread); load and ensure block and
 *          run on the administration worker.
 * Errors:  VD_ERR_KEY_NOT_FOUND, VD_ERR_TIME_PROOF_MISMATCH. */
#pragma once
#include "libcommon/bson/view.h"

#include <stdatomic.h>

#define GATE_KEY_BYTES   20
#define GATE_PROOF_BYTES 20
#define GATE_KEYS_MAX    64                   /* those that last longest */
#define GATE_KEY_LIFE_S  (90u * 24 * 60 * 60) /* of a new one */
/* So long before the last one ends there is a new one. */
#define GATE_KEY_EARLY_S (30u * 24 * 60 * 60)

typedef struct gate gate_t;
typedef struct gate_keys gate_keys_t;

typedef struct {
    int64_t id;
    uint64_t expires; /* signs times below */
    uint8_t key[GATE_KEY_BYTES];
} gate_key_t;

/* The last proof that a thread made. */
typedef struct {
    uint64_t generation; /* of the keys; 0 = none made yet */
    uint64_t range;      /* the time with its low bits set */
    int64_t key_id;
    uint8_t hash[GATE_PROOF_BYTES];
} gate_proof_t;

gate_keys_t *gate_keys_create(void);
void gate_keys_destroy(gate_keys_t **keys_p);
/* What stands in the collection takes the place of what was known. Documents of another form are
 * stepped over. */
void gate_keys_set(gate_keys_t *keys, const vd_bson_t *documents, uint32_t count);
/* From storage. */
VD_MUST_CHECK int gate_keys_load(gate_t *gate, vd_error_t *err);
/* On a primary: a key that lasts long enough beyond `time` is there, or is made. */
VD_MUST_CHECK int gate_keys_ensure(gate_t *gate, uint64_t time, vd_error_t *err);
/* How often they were loaded. */
uint64_t gate_keys_loads(const gate_keys_t *keys);
/* False while there is none: nothing can be signed or verified. */
bool gate_keys_known(gate_keys_t *keys);
/* A key is there that lasts GATE_KEY_EARLY_S beyond `time`. */
bool gate_keys_last(gate_keys_t *keys, uint64_t time);

/* What shapes the salts of names that nobody has: drawn from the oldest key, so that all members
 * give a name the same one, as they do for a user, and always will. `otherwise` while there is no
 * key. */
void gate_keys_salts(gate_keys_t *keys, const uint8_t otherwise[32], uint8_t ret_secret[32]);
/* False when there is no key for this time; then the proof is not touched. */
bool gate_keys_sign(gate_keys_t *keys, uint64_t time, gate_proof_t *proof);
VD_MUST_CHECK int gate_keys_verify(gate_keys_t *keys, uint64_t time, vd_slice_t hash,
                                   int64_t key_id, vd_error_t *err);
/* Pure. */
void gate_key_proof(const uint8_t key[GATE_KEY_BYTES], uint64_t time,
                    uint8_t ret_hash[GATE_PROOF_BYTES]);
