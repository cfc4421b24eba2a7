/* veddb-gatewayd/auth/scram.h — the server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677).
 *
 * Duty:    credentials from a password; the two steps of a conversation. Pure: no sockets, no
 *          storage; the caller brings the credentials between the steps. Somebody who is not a user
 *          gets made-up credentials and the same steps: nothing tells the two apart.
 * Owner:   embedded; gate_scram_wipe when it ends.
 * Threads: one.
 * Limits:  messages <= GATE_SCRAM_MESSAGE_MAX bytes.
 *
 * Passwords are taken as they come: ASCII needs no SASLprep, other text must be in its prepared
 * form (NFKC) already, which is what drivers send. */
#pragma once
#include "libcommon/base/error.h"

#define GATE_SCRAM_ITERATIONS  15000
#define GATE_SCRAM_SALT_BYTES  28
#define GATE_SCRAM_KEY_BYTES   32
#define GATE_SCRAM_MESSAGE_MAX 1024
#define GATE_SCRAM_NAME_MAX    512

typedef struct {
    uint32_t iterations;
    uint32_t salt_len;
    uint8_t salt[64];
    uint8_t stored_key[GATE_SCRAM_KEY_BYTES];
    uint8_t server_key[GATE_SCRAM_KEY_BYTES];
    bool real; /* false: made up, the proof is refused whatever it is */
} gate_scram_credentials_t;

typedef struct {
    char user[GATE_SCRAM_NAME_MAX];
    uint32_t user_len;
    char auth_message[3 * GATE_SCRAM_MESSAGE_MAX]; /* grows with each message */
    uint32_t auth_len;
    char nonce[512]; /* client's and ours */
    uint32_t nonce_len;
    char gs2[8]; /* "n,," or "y,," */
    gate_scram_credentials_t credentials;
} gate_scram_t;

/* PBKDF2: blocks for milliseconds; on a worker only. salt: GATE_SCRAM_SALT_BYTES. */
VD_MUST_CHECK int gate_scram_derive(vd_slice_t password, const uint8_t *salt, uint32_t salt_len,
                                    uint32_t iterations, gate_scram_credentials_t *ret,
                                    vd_error_t *err);
/* The same salt every time for the same name. */
void gate_scram_fake(const uint8_t secret[32], vd_slice_t user, vd_slice_t db,
                     gate_scram_credentials_t *ret);

/* client-first-message: fills user. VD_ERR_AUTHENTICATION_FAILED or VD_ERR_BAD_VALUE. */
VD_MUST_CHECK int gate_scram_first(gate_scram_t *scram, vd_slice_t message, vd_error_t *err);
/* server-first-message into out (GATE_SCRAM_MESSAGE_MAX); our part of the nonce is given for tests,
 * NULL = random. */
VD_MUST_CHECK int gate_scram_challenge(gate_scram_t *scram,
                                       const gate_scram_credentials_t *credentials,
                                       const char *server_nonce, char *out, uint32_t *ret_len,
                                       vd_error_t *err);
/* client-final-message: checks the proof; server-final-message into out. */
VD_MUST_CHECK int gate_scram_final(gate_scram_t *scram, vd_slice_t message, char *out,
                                   uint32_t *ret_len, vd_error_t *err);
void gate_scram_wipe(gate_scram_t *scram);

/* Base64 with padding. Decoding is strict; returns false when it isn't base64 or doesn't fit. */
uint32_t gate_base64_encode(vd_slice_t bytes, char *out);
bool gate_base64_decode(vd_slice_t text, uint8_t *out, uint32_t max, uint32_t *ret_len);
