/* veddb-rotated/keyring.h — the data keys with their versions and states, wrapped under the
 * key-encryption key.
 *
 * Duty:    loads, changes and saves <folder>/keyring. Every save writes keyring.new, syncs it,
 *          keeps the present file as keyring.previous (a hard link, so that `keyring` is never
 *          absent), renames and syncs the folder: two generations, both authenticated.
 * Format:  header 96 B = magic "VDBKRING", format u32, generation u64, salt 32 B, check 16 B
 *          (tells a wrong key from damage), payload length u32, count of keys u32, 4 B zero,
 *          first 16 B of SHA-256 over the header so far; then AES-256-GCM(HKDF-SHA256(kek, salt,
 *          "veddb keyring")) of the payload, zero nonce (the salt is new at every save, so the
 *          derived key is used once), the header as AAD, tag 16 B. Payload: 72 B per key, then
 *          the note (the state of rotation): so a new key, a state of it and what the rotation
 *          says of it are durable in one step. Format 1 had neither count nor note; it is read.
 * Owner:   create/destroy; key bytes stand in locked memory.
 * Threads: one.
 * Errors:  VD_ERR_CORRUPT (names the file), VD_ERR_KEY_WRONG (the key-encryption key),
 *          VD_ERR_KEY_MISSING (keyring gone while its previous generation is there),
 *          VD_ERR_UNSUPPORTED_FORMAT, VD_ERR_IO. A failed save leaves the keyring in memory as it
 *          was. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-rotated/kek.h"

#define ROT_KEYS_MAX         256
#define ROT_KEYRING_NOTE_MAX 16384
#define ROT_KEY_ID_BYTES     16

typedef enum {
    ROT_KEY_ACTIVE,
    ROT_KEY_DECRYPT_ONLY,
    ROT_KEY_RETIRING,
    ROT_KEY_DESTROYED
} rot_key_state_t;

typedef struct {
    uint8_t id[ROT_KEY_ID_BYTES];
    uint32_t version; /* 1, 2, ... in order of making */
    rot_key_state_t state;
    int64_t created_ms;         /* wall clock */
    int64_t changed_ms;         /* of the present state */
    uint8_t key[ROT_KEY_BYTES]; /* zero when destroyed */
} rot_key_t;

typedef struct rot_keyring rot_keyring_t;

/* An absent keyring is an empty one (rot_keyring_count 0) unless a previous generation is there.
 * kek is copied into locked memory. */
VD_MUST_CHECK int rot_keyring_open(const char *folder, const uint8_t kek[ROT_KEY_BYTES],
                                   rot_keyring_t **ret_keyring, vd_error_t *err);
/* From the bytes of a file, to look at: it has no folder and can't be changed. */
VD_MUST_CHECK int rot_keyring_read(const uint8_t *bytes, size_t len,
                                   const uint8_t kek[ROT_KEY_BYTES], rot_keyring_t **ret_keyring,
                                   vd_error_t *err);
void rot_keyring_close(rot_keyring_t **keyring_p);
uint32_t rot_keyring_count(const rot_keyring_t *keyring);
uint64_t rot_keyring_generation(const rot_keyring_t *keyring);
/* Borrowed until the next change. */
const rot_key_t *rot_keyring_at(const rot_keyring_t *keyring, uint32_t position);
const rot_key_t *rot_keyring_active(const rot_keyring_t *keyring); /* NULL: it is empty */
/* Appends the file as it stands on the disk: wrapped. VD_ERR_NOT_FOUND: there is none yet. */
VD_MUST_CHECK int rot_keyring_file(const rot_keyring_t *keyring, vd_buf_t *out, vd_error_t *err);
/* Borrowed until the next change. */
vd_slice_t rot_keyring_note(const rot_keyring_t *keyring);
/* No key can be added before one of the oldest is destroyed. */
bool rot_keyring_is_full(const rot_keyring_t *keyring);

/* What is done in one durable step. */
typedef struct {
    bool add; /* a new random key, active; the active one before becomes decrypt-only */
    uint32_t retire_upto, destroy_upto; /* keys up to these versions that are not active; 0: none.
                                           Destroyed: key bytes are wiped, and overwritten in both
                                           generations */
    vd_slice_t note;                    /* .data NULL: as it was */
} rot_keyring_change_t;
VD_MUST_CHECK int rot_keyring_change(rot_keyring_t *keyring, const rot_keyring_change_t *change,
                                     vd_error_t *err);
VD_MUST_CHECK int rot_keyring_add(rot_keyring_t *keyring, vd_error_t *err);
/* VD_ERR_ILLEGAL_OPERATION for a step back or for retiring the active key. */
VD_MUST_CHECK int rot_keyring_set_state(rot_keyring_t *keyring, uint32_t version,
                                        rot_key_state_t state, vd_error_t *err);
/* Both generations go over to another key-encryption key; no data key changes. A crash leaves one
 * of the two in force for `keyring`; the next open makes the generation before alike. */
VD_MUST_CHECK int rot_keyring_rewrap(rot_keyring_t *keyring, const uint8_t kek[ROT_KEY_BYTES],
                                     vd_slice_t note, vd_error_t *err);
const char *rot_key_state_name(rot_key_state_t state);
