/* veddb-replicad/seal.c — see seal.h. */
#include "veddb-replicad/seal.h"

#include "libcommon/base/assert.h"

#include <openssl/err.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>

/* So that no other signature of this key, a TLS handshake's for example, is ever one of these. */
static const char purpose[32] = "VedDB snapshot manifest, 1";

void repl_seal_text(const vdp_snapshot_opened_t *opened, vd_slice_t set_id, vd_slice_t manifest,
                    uint8_t ret_text[REPL_SEAL_BYTES])
{
    VD_ASSERT(opened->snapshot.len == 16 && set_id.len == 12);
    uint8_t *at = ret_text;
    memcpy(at, purpose, 32), at += 32;
    memcpy(at, set_id.data, 12), at += 12;
    memcpy(at, opened->snapshot.data, 16), at += 16;
    vd_put_u64(at, opened->position), at += 8;
    vd_put_u64(at, opened->term), at += 8;
    vd_put_u64(at, opened->bytes), at += 8;
    vd_put_u64(at, opened->documents), at += 8;
    (void)SHA256(manifest.len > 0 ? manifest.data : ret_text, manifest.len, at);
    VD_ASSERT(at + SHA256_DIGEST_LENGTH == ret_text + REPL_SEAL_BYTES);
}

/* Keys that sign a text as it is have no digest of ours. */
static const EVP_MD *digest_of(EVP_PKEY *key)
{
    int kind = EVP_PKEY_get_base_id(key);
    return kind == EVP_PKEY_ED25519 || kind == EVP_PKEY_ED448 ? NULL : EVP_sha256();
}

static bool padding_set(EVP_PKEY *key, EVP_PKEY_CTX *padding)
{
    return EVP_PKEY_get_base_id(key) != EVP_PKEY_RSA ||
           (EVP_PKEY_CTX_set_rsa_padding(padding, RSA_PKCS1_PSS_PADDING) == 1 &&
            EVP_PKEY_CTX_set_rsa_pss_saltlen(padding, RSA_PSS_SALTLEN_DIGEST) == 1);
}

int repl_seal_sign(EVP_PKEY *key, vd_slice_t text, vd_buf_t *out, vd_error_t *err)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *padding = NULL; /* borrowed */
    uint8_t signature[VDP_SIGNATURE_MAX];
    size_t len = sizeof signature;
    ERR_clear_error();
    bool done = context != NULL && key != NULL && EVP_PKEY_get_size(key) <= (int)sizeof signature &&
                EVP_DigestSignInit(context, &padding, digest_of(key), NULL, key) == 1 &&
                padding_set(key, padding) &&
                EVP_DigestSign(context, signature, &len, text.data, text.len) == 1;
    int rc = VD_OK;
    if (!done)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the node's key does not sign a manifest");
    else if (vd_buf_append(out, signature, len) != VD_OK)
        rc = vd_error_set(err, VD_ERR_FULL, "a signature of %zu bytes", len);
    EVP_MD_CTX_free(context);
    ERR_clear_error();
    return rc;
}

int repl_seal_verify(EVP_PKEY *key, vd_slice_t text, vd_slice_t signature, vd_error_t *err)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *padding = NULL; /* borrowed */
    ERR_clear_error();
    bool right = context != NULL && key != NULL && signature.len > 0 &&
                 EVP_DigestVerifyInit(context, &padding, digest_of(key), NULL, key) == 1 &&
                 padding_set(key, padding) &&
                 EVP_DigestVerify(context, signature.data, signature.len, text.data, text.len) == 1;
    EVP_MD_CTX_free(context);
    ERR_clear_error(); /* the next look at a connection's error must not see ours */
    return right ? VD_OK
                 : vd_error_set(err, VD_ERR_SNAPSHOT_SIGNATURE,
                                "the snapshot's manifest is not signed by the node that gives it");
}
