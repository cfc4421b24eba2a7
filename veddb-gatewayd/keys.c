/* veddb-gatewayd/keys.c — see keys.h. */
#include "veddb-gatewayd/keys.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-gatewayd/commands/user_document.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdlib.h>

#define COLLECTION   "system.keys"
#define RANGE_MASK   0xFFFFull
#define LOAD_WAIT_MS 10000

struct gate_keys {
    pthread_mutex_t lock;
    gate_key_t list[GATE_KEYS_MAX]; /* by expires, ascending */
    uint32_t count;
    bool has_first;
    uint8_t first[GATE_KEY_BYTES]; /* of the oldest, which nobody deletes */
    uint64_t generation;           /* 1 at the first load: 0 is a proof that was never made */
    _Atomic uint64_t loads;
};

gate_keys_t *gate_keys_create(void)
{
    gate_keys_t *keys = vd_xalloc(sizeof *keys);
    (void)pthread_mutex_init(&keys->lock, NULL); /* can't fail with default attributes */
    return keys;
}

void gate_keys_destroy(gate_keys_t **keys_p)
{
    gate_keys_t *keys = *keys_p;
    if (keys == NULL)
        return;
    (void)pthread_mutex_destroy(&keys->lock);
    vd_wipe(keys->list, sizeof keys->list);
    vd_wipe(keys->first, sizeof keys->first);
    vd_free(keys);
    *keys_p = NULL;
}

/* ---- the keys ---- */

static bool key_parse(vd_bson_t document, gate_key_t *ret_key)
{
    vd_value_t id = vd_bson_get(document, "_id"), purpose = vd_bson_get(document, "purpose"),
               key = vd_bson_get(document, "key"), expires = vd_bson_get(document, "expiresAt");
    if (id.type != VD_BSON_INT64 || key.type != VD_BSON_BINARY ||
        expires.type != VD_BSON_TIMESTAMP || purpose.type != VD_BSON_STRING ||
        !vd_slice_is(vd_value_string(purpose), "HMAC"))
        return false;
    vd_slice_t bytes = vd_value_binary(key, NULL);
    if (bytes.len != GATE_KEY_BYTES || vd_value_int64(id) == 0) /* 0 says unsigned */
        return false;
    ret_key->id = vd_value_int64(id);
    ret_key->expires = vd_value_timestamp(expires);
    memcpy(ret_key->key, bytes.data, GATE_KEY_BYTES);
    return true;
}

static int compare_keys(const void *a_p, const void *b_p)
{
    const gate_key_t *a = a_p, *b = b_p;
    if (a->expires != b->expires)
        return a->expires < b->expires ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

void gate_keys_set(gate_keys_t *keys, const vd_bson_t *documents, uint32_t count)
{
    gate_key_t *all = vd_xalloc((count + 1ul) * sizeof *all);
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++)
        n += key_parse(documents[i], &all[n]);
    qsort(all, n, sizeof *all, compare_keys);
    uint32_t skip = n > GATE_KEYS_MAX ? n - GATE_KEYS_MAX : 0;
    (void)pthread_mutex_lock(&keys->lock);
    bool same = keys->generation != 0 && keys->count == n - skip;
    for (uint32_t i = 0; same && i < keys->count; i++)
        same = compare_keys(&keys->list[i], &all[skip + i]) == 0 &&
               memcmp(keys->list[i].key, all[skip + i].key, GATE_KEY_BYTES) == 0;
    keys->generation += !same;
    keys->count = n - skip;
    if (keys->count != 0)
        memcpy(keys->list, all + skip, keys->count * sizeof *all);
    keys->has_first = n != 0;
    if (n != 0)
        memcpy(keys->first, all[0].key, sizeof keys->first);
    (void)pthread_mutex_unlock(&keys->lock);
    atomic_fetch_add(&keys->loads, 1);
    vd_wipe(all, n * sizeof *all);
    vd_free(all);
}

int gate_keys_load(gate_t *gate, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t *documents = NULL;
    uint32_t count = 0;
    int rc = gate_internal_find_within(gate, COLLECTION, VD_BSON_NONE, LOAD_WAIT_MS, arena,
                                       &documents, &count, err);
    if (rc == VD_OK)
        gate_keys_set(gate->keys, documents, count);
    vd_arena_destroy(&arena);
    return rc;
}

static int key_insert(gate_t *gate, uint64_t time, vd_error_t *err)
{
    uint8_t key[GATE_KEY_BYTES], low[2];
    uint64_t wall = (uint64_t)(vd_wall_ms() / 1000) << 32, from = time > wall ? time : wall;
    vd_buf_t reply;
    vd_bb_t bb;
    vd_bson_t command;
    vd_rand_secret(key, sizeof key);
    vd_rand_secret(low, sizeof low);
    vd_buf_init(&reply, 64 * 1024);
    vd_bb_init(&bb, 4096);
    vd_bb_cstr(&bb, "insert", COLLECTION);
    vd_bb_begin_array(&bb, "documents");
    vd_bb_begin_document(&bb, "0");
    /* A time as the name of a key, which another primary would not choose. */
    vd_bb_int64(&bb, "_id", (int64_t)((from & ~RANGE_MASK) | (uint64_t)low[0] << 8 | low[1]));
    vd_bb_cstr(&bb, "purpose", "HMAC");
    vd_bb_binary(&bb, "key", 0, vd_slice(key, sizeof key));
    vd_bb_timestamp(&bb, "expiresAt", from + ((uint64_t)GATE_KEY_LIFE_S << 32));
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_cstr(&bb, "$db", "admin");
    int rc = vd_bb_finish(&bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_write(gate, GATE_CALL_ONCE, command, &reply, err);
    if (rc == VD_OK)
        vd_log(VD_LOG_INFO, "a key for cluster times was made", "set=%s",
               gate->settings.replica_set);
    vd_wipe(key, sizeof key);
    vd_bb_done(&bb);
    vd_buf_done(&reply);
    return rc;
}

int gate_keys_ensure(gate_t *gate, uint64_t time, vd_error_t *err)
{
    if (gate_keys_last(gate->keys, time))
        return VD_OK;
    int rc = key_insert(gate, time, err);
    return rc == VD_OK ? gate_keys_load(gate, err) : rc;
}

uint64_t gate_keys_loads(const gate_keys_t *keys)
{
    return atomic_load(&keys->loads);
}

bool gate_keys_known(gate_keys_t *keys)
{
    (void)pthread_mutex_lock(&keys->lock);
    bool known = keys->count != 0;
    (void)pthread_mutex_unlock(&keys->lock);
    return known;
}

bool gate_keys_last(gate_keys_t *keys, uint64_t time)
{
    uint64_t needed = time + ((uint64_t)GATE_KEY_EARLY_S << 32);
    (void)pthread_mutex_lock(&keys->lock);
    bool last = keys->count != 0 && keys->list[keys->count - 1].expires > needed;
    (void)pthread_mutex_unlock(&keys->lock);
    return last;
}

void gate_keys_salts(gate_keys_t *keys, const uint8_t otherwise[32], uint8_t ret_secret[32])
{
    static const char label[] = "veddb salts of nobody";
    unsigned len = 32;
    (void)pthread_mutex_lock(&keys->lock);
    if (keys->has_first)
        VD_ASSERT(HMAC(EVP_sha256(), keys->first, GATE_KEY_BYTES, (const uint8_t *)label,
                       sizeof label, ret_secret, &len) != NULL &&
                  len == 32);
    else
        memcpy(ret_secret, otherwise, 32);
    (void)pthread_mutex_unlock(&keys->lock);
}

/* ---- proofs ---- */

void gate_key_proof(const uint8_t key[GATE_KEY_BYTES], uint64_t time,
                    uint8_t ret_hash[GATE_PROOF_BYTES])
{
    uint8_t bytes[8];
    unsigned len = GATE_PROOF_BYTES;
    uint64_t range = time | RANGE_MASK;
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(range >> (8 * i));
    VD_ASSERT(HMAC(EVP_sha1(), key, GATE_KEY_BYTES, bytes, sizeof bytes, ret_hash, &len) != NULL &&
              len == GATE_PROOF_BYTES);
}

/* The first that is good for this time. */
static const gate_key_t *key_for(const gate_keys_t *keys, uint64_t time)
{
    for (uint32_t i = 0; i < keys->count; i++) {
        if (keys->list[i].expires > time)
            return &keys->list[i];
    }
    return NULL;
}

bool gate_keys_sign(gate_keys_t *keys, uint64_t time, gate_proof_t *proof)
{
    (void)pthread_mutex_lock(&keys->lock);
    const gate_key_t *key = key_for(keys, time);
    bool again = key != NULL && proof->generation == keys->generation &&
                 proof->range == (time | RANGE_MASK) && proof->key_id == key->id;
    if (key != NULL && !again) {
        gate_key_proof(key->key, time, proof->hash);
        proof->generation = keys->generation;
        proof->range = time | RANGE_MASK;
        proof->key_id = key->id;
    }
    (void)pthread_mutex_unlock(&keys->lock);
    return key != NULL;
}

static bool find_key(gate_keys_t *keys, int64_t id, uint64_t time, gate_key_t *ret_key)
{
    bool found = false;
    (void)pthread_mutex_lock(&keys->lock);
    for (uint32_t i = 0; i < keys->count && !found; i++) {
        found = keys->list[i].id == id && keys->list[i].expires > time;
        if (found)
            *ret_key = keys->list[i];
    }
    (void)pthread_mutex_unlock(&keys->lock);
    return found;
}

int gate_keys_verify(gate_keys_t *keys, uint64_t time, vd_slice_t hash, int64_t key_id,
                     vd_error_t *err)
{
    gate_key_t key;
    uint8_t expected[GATE_PROOF_BYTES];
    if (!find_key(keys, key_id, time, &key))
        return vd_error_set(err, VD_ERR_KEY_NOT_FOUND,
                            "No keys found for HMAC that is valid for time: { ts: Timestamp(%u, "
                            "%u) } with id: %lld",
                            (unsigned)(time >> 32), (unsigned)time, (long long)key_id);
    gate_key_proof(key.key, time, expected);
    vd_wipe(&key, sizeof key);
    if (hash.len != sizeof expected ||
        !vd_equal_constant_time(hash.data, expected, sizeof expected))
        return vd_error_set(err, VD_ERR_TIME_PROOF_MISMATCH,
                            "Proof does not match the cluster time");
    return VD_OK;
}
