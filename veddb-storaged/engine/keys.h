/* veddb-storaged/engine/keys.h — the data keys that storaged holds in memory, and the block format
 * they are used in.
 *
 * Duty:    block = magic "VDB1" 4 B, format version u8, 3 B zero, key id 16 B, boot id 16 B,
 *          counter u64, 4 random bytes (counter and these are the 12-byte nonce), tag 16 B,
 *          ciphertext. Everything before the tag is AAD. The key per boot id is HKDF-SHA256(data
 *          key, salt = boot id, info = "veddb block"); derived keys are cached in an LRU. A new
 *          boot id is drawn at create and at 2^31 blocks, so a nonce never repeats. The same format
 *          serves WiredTiger blocks, spill files, backups, audit segments.
 * Owner:   create/destroy. Key bytes live in locked, non-dumpable memory and are wiped.
 * Threads: any (seal and open are lock-free on the hot path: thread-local cipher contexts).
 * Errors:  VD_ERR_KEY_MISSING, VD_ERR_KEY_WRONG (tag fails for every block of that key),
 *          VD_ERR_KEY_DESTROYED, VD_ERR_CORRUPT, VD_ERR_NOT_ENCRYPTED. */
#pragma once
#include "libcommon/base/error.h"

#define STOR_KEY_BYTES        32
#define STOR_KEY_ID_BYTES     16
#define STOR_KEYS_MAX         256
#define STOR_KEY_ID_TEXT_SIZE (2 * STOR_KEY_ID_BYTES + 1)
/* Magic 4, version 1, zero 3, key id 16, boot id 16, counter 8, random 4, tag 16. */
#define STOR_BLOCK_OVERHEAD_BYTES 68

typedef enum {
    STOR_KEY_ACTIVE,
    STOR_KEY_DECRYPT_ONLY,
    STOR_KEY_RETIRING,
    STOR_KEY_DESTROYED
} stor_key_state_t;
typedef struct stor_keys stor_keys_t;

stor_keys_t *stor_keys_create(void);
void stor_keys_destroy(stor_keys_t **keys_p);
/* Adds or updates a key; at most one is ACTIVE (the one before becomes DECRYPT_ONLY). The caller's
 * copy is the caller's to wipe. */
VD_MUST_CHECK int stor_keys_put(stor_keys_t *keys, const uint8_t id[STOR_KEY_ID_BYTES],
                                const uint8_t key[STOR_KEY_BYTES], stor_key_state_t state,
                                vd_error_t *err);
/* The same, with the version that the keyring knows it by (stor_keys_put: 0). One that was
 * destroyed here stays so. */
VD_MUST_CHECK int stor_keys_put_version(stor_keys_t *keys, const uint8_t id[STOR_KEY_ID_BYTES],
                                        const uint8_t key[STOR_KEY_BYTES], stor_key_state_t state,
                                        uint32_t version, vd_error_t *err);
/* All keys, also destroyed ones, in the order in which they came; a key's place never changes. */
typedef struct {
    uint8_t id[STOR_KEY_ID_BYTES];
    uint32_t version;
    stor_key_state_t state;
} stor_key_info_t;
uint32_t stor_keys_list(const stor_keys_t *keys, stor_key_info_t ret_infos[STOR_KEYS_MAX]);
/* Wipes a key: what it has sealed can't be read any more. Other threads' derived block keys go
 * with the next block that they seal or open. VD_ERR_ILLEGAL_OPERATION: it is the active one;
 * VD_ERR_KEY_MISSING: there is no such key; done before: VD_OK. */
VD_MUST_CHECK int stor_keys_retire(stor_keys_t *keys, const uint8_t id[STOR_KEY_ID_BYTES],
                                   vd_error_t *err);
/* The id of the active key; VD_ERR_KEY_MISSING when there is none. */
VD_MUST_CHECK int stor_keys_active(const stor_keys_t *keys, uint8_t ret_id[STOR_KEY_ID_BYTES],
                                   vd_error_t *err);
/* out has room for len + STOR_BLOCK_OVERHEAD_BYTES. */
VD_MUST_CHECK int stor_keys_seal(stor_keys_t *keys, vd_slice_t plain, uint8_t *out, size_t *ret_len,
                                 vd_error_t *err);
/* out has room for block.len - STOR_BLOCK_OVERHEAD_BYTES. */
VD_MUST_CHECK int stor_keys_open(stor_keys_t *keys, vd_slice_t block, uint8_t *out, size_t *ret_len,
                                 vd_error_t *err);
/* Blocks opened under a key that is not active, by this thread, since it last asked (for rotation's
 * proof). */
uint64_t stor_keys_thread_old_blocks(void);
/* Their plain bytes, since the thread last asked for those. */
uint64_t stor_keys_thread_old_bytes(void);
/* The same by key: adds to counts[place in stor_keys_list]; what was counted before the thread's
 * first call is not in it. */
void stor_keys_thread_old_by_key(uint64_t counts[STOR_KEYS_MAX]);
/* Grows when another key becomes the active one. */
uint64_t stor_keys_generation(const stor_keys_t *keys);
/* Counters for metrics: blocks and bytes sealed and opened. */
typedef struct {
    uint64_t sealed_blocks, sealed_bytes, opened_blocks, opened_bytes, failed;
    uint64_t sealed_active; /* blocks, under the key that is active */
} stor_keys_counts_t;
void stor_keys_counts(const stor_keys_t *keys, stor_keys_counts_t *ret_counts);
/* False when the kernel refused to lock the memory (RLIMIT_MEMLOCK): keys could reach a swap
 * device; say so at start. */
bool stor_keys_memory_locked(const stor_keys_t *keys);
/* The id of the key that a block needs, read from its head. VD_ERR_NOT_ENCRYPTED,
 * VD_ERR_UNSUPPORTED_FORMAT, VD_ERR_CORRUPT (too short). */
VD_MUST_CHECK int stor_keys_block_key(vd_slice_t block, uint8_t ret_id[STOR_KEY_ID_BYTES],
                                      vd_error_t *err);
/* The id as hexadecimal digits. Returns buf. */
const char *stor_keys_id_print(const uint8_t id[STOR_KEY_ID_BYTES],
                               char buf[STOR_KEY_ID_TEXT_SIZE]);
/* Moves the block counter on, for tests of the change of boot id. */
void stor_keys_counter_skip(stor_keys_t *keys, uint64_t blocks);
