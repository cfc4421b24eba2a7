/* veddb-gatewayd/auth/scram.c — see scram.h. */
#include "veddb-gatewayd/auth/scram.h"

#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include <stdio.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

uint32_t gate_base64_encode(vd_slice_t bytes, char *out)
{
    uint32_t n = 0;
    for (size_t i = 0; i < bytes.len; i += 3) {
        size_t left = bytes.len - i;
        uint32_t v = (uint32_t)bytes.data[i] << 16 |
                     (left > 1 ? (uint32_t)bytes.data[i + 1] << 8 : 0) |
                     (left > 2 ? bytes.data[i + 2] : 0u);
        out[n++] = alphabet[v >> 18 & 63];
        out[n++] = alphabet[v >> 12 & 63];
        out[n++] = left > 1 ? alphabet[v >> 6 & 63] : '=';
        out[n++] = left > 2 ? alphabet[v & 63] : '=';
    }
    return n;
}

bool gate_base64_decode(vd_slice_t text, uint8_t *out, uint32_t max, uint32_t *ret_len)
{
    if (text.len % 4 != 0)
        return false;
    uint32_t n = 0;
    for (size_t i = 0; i < text.len; i += 4) {
        uint32_t v = 0;
        unsigned pad = 0;
        for (size_t k = 0; k < 4; k++) {
            char c = (char)text.data[i + k];
            const char *at = c == 0 ? NULL : strchr(alphabet, c);
            if (at != NULL && pad == 0)
                v = v << 6 | (uint32_t)(at - alphabet);
            else if (c == '=' && k >= 2 && i + 4 == text.len)
                v <<= 6, pad++;
            else
                return false;
        }
        if ((v & ((1u << 8 * pad) - 1)) != 0) /* bits that stand for nothing: another's form */
            return false;
        if (n + 3 - pad > max)
            return false;
        out[n++] = (uint8_t)(v >> 16);
        if (pad < 2)
            out[n++] = (uint8_t)(v >> 8);
        if (pad < 1)
            out[n++] = (uint8_t)v;
    }
    *ret_len = n;
    return true;
}

static void hmac(const uint8_t *key, size_t key_len, vd_slice_t bytes,
                 uint8_t out[GATE_SCRAM_KEY_BYTES])
{
    unsigned len = GATE_SCRAM_KEY_BYTES;
    VD_ASSERT(HMAC(EVP_sha256(), key, (int)key_len, bytes.data, bytes.len, out, &len) != NULL);
}

int gate_scram_derive(vd_slice_t password, const uint8_t *salt, uint32_t salt_len,
                      uint32_t iterations, gate_scram_credentials_t *ret, vd_error_t *err)
{
    VD_ASSERT(salt_len <= sizeof ret->salt);
    uint8_t salted[GATE_SCRAM_KEY_BYTES], client_key[GATE_SCRAM_KEY_BYTES];
    if (PKCS5_PBKDF2_HMAC((const char *)password.data, (int)password.len, salt, (int)salt_len,
                          (int)iterations, EVP_sha256(), sizeof salted, salted) != 1)
        return vd_error_set(err, VD_ERR_INTERNAL, "key derivation failed");
    memset(ret, 0, sizeof *ret);
    ret->iterations = iterations, ret->salt_len = salt_len, ret->real = true;
    memcpy(ret->salt, salt, salt_len);
    hmac(salted, sizeof salted, VD_SLICE_LIT("Client Key"), client_key);
    (void)SHA256(client_key, sizeof client_key, ret->stored_key);
    hmac(salted, sizeof salted, VD_SLICE_LIT("Server Key"), ret->server_key);
    vd_wipe(salted, sizeof salted);
    vd_wipe(client_key, sizeof client_key);
    return VD_OK;
}

void gate_scram_fake(const uint8_t secret[32], vd_slice_t user, vd_slice_t db,
                     gate_scram_credentials_t *ret)
{
    char name[2 * GATE_SCRAM_NAME_MAX];
    int len = snprintf(name, sizeof name, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(user));
    vd_slice_t bytes = vd_slice(name, len < 0                     ? 0
                                      : (size_t)len < sizeof name ? (size_t)len
                                                                  : sizeof name - 1);
    uint8_t salt[GATE_SCRAM_KEY_BYTES];
    memset(ret, 0, sizeof *ret);
    hmac(secret, 32, bytes, salt);
    memcpy(ret->salt, salt, GATE_SCRAM_SALT_BYTES);
    ret->salt_len = GATE_SCRAM_SALT_BYTES, ret->iterations = GATE_SCRAM_ITERATIONS;
    vd_rand_secret(ret->stored_key, sizeof ret->stored_key);
    vd_rand_secret(ret->server_key, sizeof ret->server_key);
}

static int malformed(vd_error_t *err, const char *what)
{
    return vd_error_set(err, VD_ERR_BAD_VALUE, "Incorrect SCRAM client message: %s", what);
}

/* Cuts one "x=value" up to the next comma. */
static bool attribute(vd_slice_t *rest, char letter, vd_slice_t *ret_value)
{
    if (rest->len < 2 || rest->data[0] != (uint8_t)letter || rest->data[1] != '=')
        return false;
    const uint8_t *comma = memchr(rest->data, ',', rest->len);
    size_t len = comma == NULL ? rest->len : (size_t)(comma - rest->data);
    *ret_value = vd_slice(rest->data + 2, len - 2);
    size_t skip = comma == NULL ? len : len + 1;
    *rest = vd_slice(rest->data + skip, rest->len - skip);
    return true;
}

static bool name_decode(vd_slice_t text, char *out, uint32_t *ret_len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = (char)text.data[i];
        if (c == '=') {
            if (text.len - i < 3)
                return false;
            if (memcmp(text.data + i, "=2C", 3) == 0)
                c = ',';
            else if (memcmp(text.data + i, "=3D", 3) == 0)
                c = '=';
            else
                return false;
            i += 2;
        }
        if (c == 0 || n == GATE_SCRAM_NAME_MAX)
            return false;
        out[n++] = c;
    }
    *ret_len = n;
    return n != 0;
}

static void auth_append(gate_scram_t *scram, const void *bytes, size_t len)
{
    VD_ASSERT(scram->auth_len + len <= sizeof scram->auth_message);
    memcpy(scram->auth_message + scram->auth_len, bytes, len);
    scram->auth_len += (uint32_t)len;
}

int gate_scram_first(gate_scram_t *scram, vd_slice_t message, vd_error_t *err)
{
    memset(scram, 0, sizeof *scram);
    if (message.len < 4 || message.len > GATE_SCRAM_MESSAGE_MAX)
        return malformed(err, "length");
    if (message.data[0] == 'p')
        return malformed(err, "server does not support channel binding");
    if ((message.data[0] != 'n' && message.data[0] != 'y') || message.data[1] != ',')
        return malformed(err, "gs2 header");
    if (message.data[2] != ',')
        return malformed(err, "authorization as somebody else is not offered");
    memcpy(scram->gs2, message.data, 3);
    vd_slice_t bare = vd_slice(message.data + 3, message.len - 3), rest = bare, name, nonce;
    if (rest.data[0] == 'm')
        return malformed(err, "mandatory extensions are not known");
    if (!attribute(&rest, 'n', &name) || !name_decode(name, scram->user, &scram->user_len))
        return malformed(err, "user name");
    if (!attribute(&rest, 'r', &nonce) || nonce.len == 0 || nonce.len > sizeof scram->nonce - 64)
        return malformed(err, "nonce");
    for (size_t i = 0; i < nonce.len; i++) {
        if (nonce.data[i] < 0x21 || nonce.data[i] > 0x7E)
            return malformed(err, "nonce");
    }
    memcpy(scram->nonce, nonce.data, nonce.len);
    scram->nonce_len = (uint32_t)nonce.len;
    auth_append(scram, bare.data, bare.len);
    return VD_OK;
}

int gate_scram_challenge(gate_scram_t *scram, const gate_scram_credentials_t *credentials,
                         const char *server_nonce, char *out, uint32_t *ret_len, vd_error_t *err)
{
    char own[33], salt[96];
    if (server_nonce == NULL) {
        uint8_t random[24];
        vd_rand_secret(random, sizeof random);
        own[gate_base64_encode(vd_slice(random, sizeof random), own)] = 0;
        server_nonce = own;
    }
    scram->credentials = *credentials;
    size_t own_len = strlen(server_nonce);
    VD_ASSERT(scram->nonce_len + own_len <= sizeof scram->nonce);
    memcpy(scram->nonce + scram->nonce_len, server_nonce, own_len);
    scram->nonce_len += (uint32_t)own_len;
    salt[gate_base64_encode(vd_slice(credentials->salt, credentials->salt_len), salt)] = 0;
    int len = snprintf(out, GATE_SCRAM_MESSAGE_MAX, "r=%.*s,s=%s,i=%u", (int)scram->nonce_len,
                       scram->nonce, salt, credentials->iterations);
    if (len < 0 || len >= GATE_SCRAM_MESSAGE_MAX)
        return malformed(err, "length");
    auth_append(scram, ",", 1);
    auth_append(scram, out, (size_t)len);
    *ret_len = (uint32_t)len;
    return VD_OK;
}

static bool proof_matches(const gate_scram_t *scram, const uint8_t proof[GATE_SCRAM_KEY_BYTES])
{
    uint8_t signature[GATE_SCRAM_KEY_BYTES], key[GATE_SCRAM_KEY_BYTES],
        stored[GATE_SCRAM_KEY_BYTES];
    hmac(scram->credentials.stored_key, sizeof scram->credentials.stored_key,
         vd_slice(scram->auth_message, scram->auth_len), signature);
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = signature[i] ^ proof[i];
    (void)SHA256(key, sizeof key, stored);
    bool equal = vd_equal_constant_time(stored, scram->credentials.stored_key, sizeof stored);
    vd_wipe(key, sizeof key);
    return equal && scram->credentials.real;
}

int gate_scram_final(gate_scram_t *scram, vd_slice_t message, char *out, uint32_t *ret_len,
                     vd_error_t *err)
{
    if (message.len > GATE_SCRAM_MESSAGE_MAX)
        return malformed(err, "length");
    /* The proof stands last; what is in front of it is signed. */
    const char *mark = NULL;
    for (size_t i = 0; i + 3 <= message.len; i++) {
        if (memcmp(message.data + i, ",p=", 3) == 0)
            mark = (const char *)message.data + i;
    }
    if (mark == NULL)
        return malformed(err, "proof is missing");
    vd_slice_t bare = vd_slice(message.data, (size_t)(mark - (const char *)message.data)),
               rest = bare, channel, nonce;
    vd_slice_t proof_text = vd_slice(mark + 3, message.len - bare.len - 3);
    uint8_t proof[GATE_SCRAM_KEY_BYTES + 3];
    uint32_t proof_len = 0;
    if (!gate_base64_decode(proof_text, proof, sizeof proof, &proof_len) ||
        proof_len != GATE_SCRAM_KEY_BYTES)
        return malformed(err, "proof");
    char expected[16];
    uint32_t expected_len = gate_base64_encode(vd_slice(scram->gs2, 3), expected);
    if (!attribute(&rest, 'c', &channel) ||
        !vd_slice_equal(channel, vd_slice(expected, expected_len)))
        return malformed(err, "channel binding");
    if (!attribute(&rest, 'r', &nonce) ||
        !vd_slice_equal(nonce, vd_slice(scram->nonce, scram->nonce_len)))
        return malformed(err, "nonce");
    auth_append(scram, ",", 1);
    auth_append(scram, bare.data, bare.len);
    if (!proof_matches(scram, proof))
        return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "Authentication failed.");
    uint8_t signature[GATE_SCRAM_KEY_BYTES];
    hmac(scram->credentials.server_key, sizeof scram->credentials.server_key,
         vd_slice(scram->auth_message, scram->auth_len), signature);
    out[0] = 'v', out[1] = '=';
    *ret_len = 2 + gate_base64_encode(vd_slice(signature, sizeof signature), out + 2);
    return VD_OK;
}

void gate_scram_wipe(gate_scram_t *scram)
{
    vd_wipe(scram, sizeof *scram);
}
