/* veddb-gatewayd/auth/signer.c — see signer.h. */
#include "veddb-gatewayd/auth/signer.h"

#include "libcommon/base/mem.h"
#include "libcommon/runtime/sandbox.h"
#include "libcommon/runtime/secret_heap.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#define COORDINATE_LEN 32
#define DER_SIGNATURE  80

struct gate_signer {
    EVP_PKEY *key;
    char id[GATE_SIGNER_ID_MAX + 1];
    char jwks[512];
    uint8_t secret[32]; /* of the MACs */
};

size_t gate_base64url_encode(vd_slice_t bytes, char *out)
{
    int len = EVP_EncodeBlock((unsigned char *)out, bytes.data, (int)bytes.len);
    while (len > 0 && out[len - 1] == '=')
        len--;
    for (int i = 0; i < len; i++)
        out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
    out[len] = 0;
    return (size_t)len;
}

int gate_signer_make(uint8_t ret_der[GATE_SIGNER_DER_MAX], uint32_t *ret_len, vd_error_t *err)
{
    vd_secret_heap_enter();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    unsigned char *der = NULL;
    int len = key == NULL ? -1 : i2d_PrivateKey(key, &der);
    bool good = len > 0 && len <= GATE_SIGNER_DER_MAX;
    if (good)
        memcpy(ret_der, der, (size_t)len);
    EVP_PKEY_free(key);
    ERR_clear_error();
    OPENSSL_clear_free(der, len > 0 ? (size_t)len : 0);
    vd_secret_heap_leave();
    if (!good)
        return vd_error_set(err, VD_ERR_INTERNAL, "a signing key can't be made");
    *ret_len = (uint32_t)len;
    return VD_OK;
}

static bool coordinate(EVP_PKEY *key, const char *name, uint8_t out[COORDINATE_LEN])
{
    BIGNUM *number = NULL;
    bool good = EVP_PKEY_get_bn_param(key, name, &number) == 1 &&
                BN_bn2binpad(number, out, COORDINATE_LEN) == COORDINATE_LEN;
    BN_free(number);
    return good;
}

static bool describe(gate_signer_t *signer)
{
    uint8_t point[2 * COORDINATE_LEN], digest[SHA256_DIGEST_LENGTH];
    char curve[32], x[48], y[48];
    size_t len = 0;
    if (EVP_PKEY_get_group_name(signer->key, curve, sizeof curve, &len) != 1 ||
        strcmp(curve, "prime256v1") != 0 ||
        !coordinate(signer->key, OSSL_PKEY_PARAM_EC_PUB_X, point) ||
        !coordinate(signer->key, OSSL_PKEY_PARAM_EC_PUB_Y, point + COORDINATE_LEN))
        return false;
    (void)SHA256(point, sizeof point, digest);
    (void)gate_base64url_encode(vd_slice(digest, 16), signer->id);
    (void)gate_base64url_encode(vd_slice(point, COORDINATE_LEN), x);
    (void)gate_base64url_encode(vd_slice(point + COORDINATE_LEN, COORDINATE_LEN), y);
    (void)snprintf(signer->jwks, sizeof signer->jwks,
                   "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"%s\",\"y\":\"%s\","
                   "\"kid\":\"%s\",\"use\":\"sig\",\"alg\":\"ES256\"}]}",
                   x, y, signer->id);
    return true;
}

int gate_signer_create(vd_slice_t der, gate_signer_t **ret_signer, vd_error_t *err)
{
    void *secret = NULL;
    int rc = vd_secret_alloc(sizeof(gate_signer_t), &secret, err);
    if (rc != VD_OK)
        return rc;
    gate_signer_t *signer = secret;
    const unsigned char *at = der.data;
    vd_secret_heap_enter();
    signer->key = der.len == 0 || der.len > GATE_SIGNER_DER_MAX
                      ? NULL
                      : d2i_PrivateKey(EVP_PKEY_EC, NULL, &at, (long)der.len);
    bool good = signer->key != NULL && at == der.data + der.len && describe(signer);
    ERR_clear_error();
    vd_secret_heap_leave();
    if (!good) {
        gate_signer_destroy(&signer);
        return vd_error_set(err, VD_ERR_CORRUPT, "the stored signing key is none");
    }
    (void)SHA256(der.data, der.len, signer->secret);
    *ret_signer = signer;
    return VD_OK;
}

void gate_signer_destroy(gate_signer_t **signer_p)
{
    gate_signer_t *signer = *signer_p;
    *signer_p = NULL;
    if (signer == NULL)
        return;
    EVP_PKEY_free(signer->key);
    vd_secret_free(signer, sizeof *signer);
}

const char *gate_signer_id(const gate_signer_t *signer)
{
    return signer->id;
}

const char *gate_signer_jwks(const gate_signer_t *signer)
{
    return signer->jwks;
}

static int append_base64url(vd_buf_t *out, vd_slice_t bytes)
{
    uint8_t *space;
    int rc = vd_buf_reserve(out, 4 * ((bytes.len + 2) / 3) + 1, &space);
    if (rc == VD_OK)
        vd_buf_commit(out, gate_base64url_encode(bytes, (char *)space));
    return rc;
}

/* r and s, 32 bytes each: JOSE has no DER. */
static bool signature(const gate_signer_t *signer, vd_slice_t text, uint8_t out[64])
{
    uint8_t der[DER_SIGNATURE];
    const unsigned char *at = der;
    size_t len = sizeof der;
    vd_secret_heap_enter();
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = context != NULL &&
                EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, signer->key) == 1 &&
                EVP_DigestSign(context, der, &len, text.data, text.len) == 1;
    EVP_MD_CTX_free(context);
    ECDSA_SIG *pair = good ? d2i_ECDSA_SIG(NULL, &at, (long)len) : NULL;
    good = pair != NULL && BN_bn2binpad(ECDSA_SIG_get0_r(pair), out, 32) == 32 &&
           BN_bn2binpad(ECDSA_SIG_get0_s(pair), out + 32, 32) == 32;
    ECDSA_SIG_free(pair);
    ERR_clear_error();
    vd_secret_heap_leave();
    return good;
}

int gate_signer_sign(const gate_signer_t *signer, vd_slice_t claims, vd_buf_t *out, vd_error_t *err)
{
    char header[96];
    uint8_t raw[64];
    size_t from = vd_buf_len(out);
    int len = snprintf(header, sizeof header,
                       "{\"alg\":\"ES256\",\"typ\":\"at+jwt\",\"kid\":\"%s\"}", signer->id);
    int rc = append_base64url(out, vd_slice(header, (size_t)len));
    if (rc == VD_OK)
        rc = vd_buf_append(out, ".", 1);
    if (rc == VD_OK)
        rc = append_base64url(out, claims);
    if (rc == VD_OK &&
        !signature(signer, vd_slice(vd_buf_at(out, from), vd_buf_len(out) - from), raw))
        return vd_error_set(err, VD_ERR_INTERNAL, "a token can't be signed");
    if (rc == VD_OK)
        rc = vd_buf_append(out, ".", 1);
    if (rc == VD_OK)
        rc = append_base64url(out, vd_slice(raw, sizeof raw));
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "a token is too long");
}

void gate_signer_mac(const gate_signer_t *signer, const char *purpose, vd_slice_t bytes,
                     uint8_t ret_mac[GATE_SIGNER_MAC_BYTES])
{
    uint8_t key[GATE_SIGNER_MAC_BYTES];
    unsigned len = sizeof key;
    vd_secret_heap_enter();
    VD_ASSERT(HMAC(EVP_sha256(), signer->secret, sizeof signer->secret, (const uint8_t *)purpose,
                   strlen(purpose), key, &len) != NULL);
    VD_ASSERT(HMAC(EVP_sha256(), key, sizeof key, bytes.data, bytes.len, ret_mac, &len) != NULL &&
              len == GATE_SIGNER_MAC_BYTES);
    vd_secret_heap_leave();
    vd_wipe(key, sizeof key);
}
