/* veddb-rotated/audit/seal.h — the private sealing key, its hand-over to the next one, and what was
 * sealed last.
 *
 * Duty:    keeps <folder>/seal (two slots, each encrypted under a key of the keyring, written in
 *          turn) and appends to <folder>/keys. Hand-over: the next key is durable in `seal` ->
 *          its entry, signed by the present one, is durable in `keys` -> both slots are
 *          overwritten without the present one. A crash at any instant is finished at the next
 *          open.
 * Owner:   open/close; stands in locked memory.
 * Threads: one.
 * Errors:  VD_ERR_KEY_MISSING (`seal` is gone while `keys` is there), VD_ERR_CORRUPT, VD_ERR_IO,
 *          VD_ERR_OUT_OF_DISK_SPACE. After an error of a write: close and open again. */
#pragma once
#include "veddb-rotated/audit/walk.h"

typedef struct {
    uint8_t private_key[32], public_key[32];
    uint64_t first_head;
} rot_seal_key_t;

typedef struct {
    uint64_t serial; /* of the newest slot */
    uint8_t log_id[ROT_LOG_ID_BYTES];
    uint32_t epoch;
    rot_seal_key_t key, next; /* next.first_head 0: none */
    uint64_t head;            /* sealed last; 0: none */
    rot_hash_t head_hash;
    uint64_t tombstone; /* segments up to here were dropped */
} rot_seal_state_t;

typedef struct rot_seal rot_seal_t;
/* A folder without a log gets a new one: id, first key. publics: as loaded afterwards. */
VD_MUST_CHECK int rot_seal_open(const char *folder, const rot_data_key_t *active,
                                rot_data_keys_t keys, rot_seal_t **ret_seal, vd_error_t *err);
void rot_seal_close(rot_seal_t **seal_p);
const rot_seal_state_t *rot_seal_state(const rot_seal_t *seal);
VD_MUST_CHECK int rot_seal_head(rot_seal_t *seal, uint64_t number, const rot_hash_t *hash,
                                vd_error_t *err);
VD_MUST_CHECK int rot_seal_tombstone(rot_seal_t *seal, uint64_t segment, vd_error_t *err);
/* Both slots go over to another key of the keyring. */
VD_MUST_CHECK int rot_seal_rekey(rot_seal_t *seal, const rot_data_key_t *active, vd_error_t *err);
VD_MUST_CHECK int rot_seal_hand_over(rot_seal_t *seal, vd_error_t *err);

/* What others here need of files, too: all bytes at an offset; a new file, whole and durable. */
VD_MUST_CHECK int rot_file_write(int fd, const void *bytes, size_t len, uint64_t offset,
                                 const char *what, vd_error_t *err);
VD_MUST_CHECK int rot_file_put(const char *folder, const char *name, const void *bytes, size_t len,
                               vd_error_t *err);
VD_MUST_CHECK int rot_folder_sync(const char *folder, vd_error_t *err);
