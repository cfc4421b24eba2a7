/* veddb-gatewayd/auth/jwt.c — see jwt.h. */
#include "veddb-gatewayd/auth/jwt.h"

#include "libcommon/base/mem.h"

#include <bson/bson.h>
#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_ID_MAX     GATE_JWT_KEY_ID_MAX
#define RSA_BITS_MIN   2048
#define COORDINATE_LEN 32
#define HEADER_MAX     2048
#define NUMBER_MAX     1024 /* bytes of a modulus: RSA of 8,192 bits */

typedef enum { ALG_NONE, ALG_ES256, ALG_RS256 } alg_t;

typedef struct {
    char id[KEY_ID_MAX + 1];
    alg_t alg;
    EVP_PKEY *key;
} jwk_t;

struct gate_jwks {
    jwk_t keys[GATE_JWKS_MAX];
    uint32_t count;
};

/* ---- base64url, RFC 7515 appendix C: without padding, strict ---- */

static int digit_of(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool gate_base64url_decode(vd_slice_t text, uint8_t *out, size_t max, size_t *ret_len)
{
    uint32_t bits = 0;
    unsigned have = 0;
    size_t n = 0;
    if (text.len % 4 == 1)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        int digit = digit_of(text.data[i]);
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
        have += 6;
        if (have < 8)
            continue;
        have -= 8;
        if (n == max)
            return false;
        out[n++] = (uint8_t)(bits >> have);
    }
    *ret_len = n;
    return (bits & ((1u << have) - 1)) == 0;
}

/* ---- JSON, by libbson ---- */

/* Two fields of one name: RFC 7515 and 7519 (section 4 of each) let us refuse them, and nobody can
 * say which of the two the issuer meant. What is nested is not looked at: we read nothing of it. */
static bool says_twice(const bson_t *doc)
{
    bson_iter_t one, other;
    if (!bson_iter_init(&one, doc))
        return true;
    while (bson_iter_next(&one)) {
        other = one;
        while (bson_iter_next(&other))
            if (strcmp(bson_iter_key(&one), bson_iter_key(&other)) == 0)
                return true;
    }
    return false;
}

static const char *text_of(const bson_t *doc, const char *name, uint32_t *ret_len)
{
    bson_iter_t at;
    if (!bson_iter_init_find(&at, doc, name) || !BSON_ITER_HOLDS_UTF8(&at))
        return NULL;
    return bson_iter_utf8(&at, ret_len);
}

static bool text_is(const bson_t *doc, const char *name, const char *expected)
{
    uint32_t len;
    const char *text = text_of(doc, name, &len);
    return text != NULL && strlen(expected) == len && memcmp(text, expected, len) == 0;
}

static bool has(const bson_t *doc, const char *name)
{
    bson_iter_t at;
    return bson_iter_init_find(&at, doc, name);
}

static bool number_of(const bson_t *doc, const char *name, int64_t *ret)
{
    bson_iter_t at;
    if (!bson_iter_init_find(&at, doc, name))
        return false;
    if (BSON_ITER_HOLDS_DOUBLE(&at)) {
        double value = bson_iter_double(&at);
        if (!(value >= 0 && value < 9e15))
            return false;
        *ret = (int64_t)value;
        return true;
    }
    if (!BSON_ITER_HOLDS_INT32(&at) && !BSON_ITER_HOLDS_INT64(&at))
        return false;
    *ret = bson_iter_as_int64(&at);
    return true;
}

/* ---- keys ---- */

static bool field_bytes(const bson_t *jwk, const char *name, uint8_t *out, size_t max,
                        size_t *ret_len)
{
    uint32_t len;
    const char *text = text_of(jwk, name, &len);
    return text != NULL && gate_base64url_decode(vd_slice(text, len), out, max, ret_len) &&
           *ret_len != 0;
}

static EVP_PKEY *key_from(const char *type, OSSL_PARAM_BLD *build)
{
    EVP_PKEY *key = NULL;
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    if (params == NULL || context == NULL || EVP_PKEY_fromdata_init(context) != 1 ||
        EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_free(params);
    return key;
}

static EVP_PKEY *read_ec(const bson_t *jwk)
{
    uint8_t point[1 + 2 * COORDINATE_LEN] = {4}; /* uncompressed */
    size_t x_len, y_len;
    if (!text_is(jwk, "crv", "P-256") ||
        !field_bytes(jwk, "x", point + 1, COORDINATE_LEN, &x_len) ||
        !field_bytes(jwk, "y", point + 1 + COORDINATE_LEN, COORDINATE_LEN, &y_len) ||
        x_len != COORDINATE_LEN || y_len != COORDINATE_LEN)
        return NULL;
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;
    if (build != NULL &&
        OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point) == 1)
        key = key_from("EC", build); /* a point beside the curve is refused */
    OSSL_PARAM_BLD_free(build);
    return key;
}

static EVP_PKEY *read_rsa(const bson_t *jwk)
{
    uint8_t n[NUMBER_MAX], e[NUMBER_MAX];
    size_t n_len, e_len;
    if (!field_bytes(jwk, "n", n, sizeof n, &n_len) || !field_bytes(jwk, "e", e, sizeof e, &e_len))
        return NULL;
    BIGNUM *modulus = BN_bin2bn(n, (int)n_len, NULL), *exponent = BN_bin2bn(e, (int)e_len, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;
    if (build != NULL && modulus != NULL && exponent != NULL &&
        BN_num_bits(modulus) >= RSA_BITS_MIN &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
        key = key_from("RSA", build);
    OSSL_PARAM_BLD_free(build);
    BN_free(modulus);
    BN_free(exponent);
    return key;
}

/* False: a key that is not for us. */
static bool read_key(const bson_t *jwk, jwk_t *ret)
{
    uint32_t len = 0;
    const char *id = text_of(jwk, "kid", &len);
    bool ec = text_is(jwk, "kty", "EC"), rsa = text_is(jwk, "kty", "RSA");
    if ((!ec && !rsa) || (has(jwk, "use") && !text_is(jwk, "use", "sig")) ||
        (has(jwk, "alg") && !text_is(jwk, "alg", ec ? "ES256" : "RS256")) || len > KEY_ID_MAX)
        return false;
    EVP_PKEY *key = ec ? read_ec(jwk) : read_rsa(jwk);
    ERR_clear_error();
    if (key == NULL)
        return false;
    (void)snprintf(ret->id, sizeof ret->id, "%s", id == NULL ? "" : id);
    ret->alg = ec ? ALG_ES256 : ALG_RS256;
    ret->key = key;
    return true;
}

int gate_jwks_parse(vd_slice_t json, gate_jwks_t **ret_keys, vd_error_t *err)
{
    bson_error_t why;
    bson_iter_t list, each;
    bson_t *doc = bson_new_from_json(json.data, (ssize_t)json.len, &why);
    if (doc == NULL)
        return vd_error_set(err, VD_ERR_CONFIG, "the set of keys is not JSON: %s", why.message);
    gate_jwks_t *keys = vd_xalloc(sizeof *keys);
    if (bson_iter_init_find(&list, doc, "keys") && BSON_ITER_HOLDS_ARRAY(&list) &&
        bson_iter_recurse(&list, &each)) {
        while (keys->count < GATE_JWKS_MAX && bson_iter_next(&each)) {
            const uint8_t *bytes;
            uint32_t len;
            bson_t jwk;
            if (!BSON_ITER_HOLDS_DOCUMENT(&each))
                continue;
            bson_iter_document(&each, &len, &bytes);
            if (bson_init_static(&jwk, bytes, len))
                keys->count += read_key(&jwk, &keys->keys[keys->count]);
        }
    }
    bson_destroy(doc);
    if (keys->count == 0) {
        gate_jwks_destroy(&keys);
        return vd_error_set(err, VD_ERR_CONFIG,
                            "the set of keys has none for signatures with ES256 or RS256");
    }
    *ret_keys = keys;
    return VD_OK;
}

void gate_jwks_destroy(gate_jwks_t **keys_p)
{
    gate_jwks_t *keys = *keys_p;
    *keys_p = NULL;
    for (uint32_t i = 0; keys != NULL && i < keys->count; i++)
        EVP_PKEY_free(keys->keys[i].key);
    vd_free(keys);
}

/* ---- tokens ---- */

static int bad(vd_error_t *err, const char *why)
{
    return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "token: %s", why);
}

typedef struct {
    vd_slice_t header, claims; /* decoded, in `space` */
    vd_slice_t signature;      /* the same */
    vd_slice_t signed_text;    /* of the token */
    uint8_t *space;
} parts_t;

/* Three parts, each in the one form that its bytes have. */
static bool split(vd_slice_t token, parts_t *parts)
{
    vd_slice_t *into[] = {&parts->header, &parts->claims, &parts->signature};
    vd_slice_t rest = token;
    uint8_t *space = parts->space;
    for (size_t part = 0; part < VD_COUNT_OF(into); part++) {
        bool last = part + 1 == VD_COUNT_OF(into);
        const uint8_t *dot = last || rest.len == 0 ? NULL : memchr(rest.data, '.', rest.len);
        size_t len = dot == NULL ? rest.len : (size_t)(dot - rest.data), n = 0;
        if (len == 0 || (!last && dot == NULL) ||
            !gate_base64url_decode(vd_slice(rest.data, len), space, len, &n))
            return false;
        *into[part] = vd_slice(space, n);
        space += n;
        if (last)
            parts->signed_text = vd_slice(token.data, (size_t)(rest.data - token.data) - 1);
        else
            rest = vd_slice(rest.data + len + 1, rest.len - len - 1);
    }
    return true;
}

/* JOSE has r and s one behind the other; OpenSSL wants them in DER. */
static bool verify_es256(EVP_MD_CTX *context, const parts_t *parts)
{
    ECDSA_SIG *pair = ECDSA_SIG_new();
    BIGNUM *r = NULL, *s = NULL;
    unsigned char *der = NULL;
    int len = -1;
    if (pair != NULL && parts->signature.len == 2 * COORDINATE_LEN) {
        r = BN_bin2bn(parts->signature.data, COORDINATE_LEN, NULL);
        s = BN_bin2bn(parts->signature.data + COORDINATE_LEN, COORDINATE_LEN, NULL);
        if (r != NULL && s != NULL && ECDSA_SIG_set0(pair, r, s) == 1) {
            r = s = NULL; /* taken */
            len = i2d_ECDSA_SIG(pair, &der);
        }
    }
    bool good = len > 0 && EVP_DigestVerify(context, der, (size_t)len, parts->signed_text.data,
                                            parts->signed_text.len) == 1;
    BN_free(r);
    BN_free(s);
    OPENSSL_free(der);
    ECDSA_SIG_free(pair);
    return good;
}

/* By the algorithm that the key is for, whatever else the header may say. */
static bool signature_is_good(const jwk_t *key, const parts_t *parts)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good =
        context != NULL && EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key->key) == 1;
    if (good && key->alg == ALG_ES256)
        good = verify_es256(context, parts);
    else if (good)
        good = EVP_DigestVerify(context, parts->signature.data, parts->signature.len,
                                parts->signed_text.data, parts->signed_text.len) == 1;
    EVP_MD_CTX_free(context);
    ERR_clear_error();
    return good;
}

/* The key that the header names, if it is for the algorithm that the header names. */
static const jwk_t *choose_key(const gate_jwks_t *keys, vd_slice_t text, const char *type,
                               vd_error_t *err)
{
    bson_error_t why;
    const jwk_t *found = NULL;
    bson_t *header =
        text.len > HEADER_MAX ? NULL : bson_new_from_json(text.data, (ssize_t)text.len, &why);
    if (header == NULL) {
        (void)bad(err, "its header is not JSON");
        return NULL;
    }
    if (says_twice(header)) {
        (void)bad(err, "its header says something twice");
        bson_destroy(header);
        return NULL;
    }
    alg_t alg = text_is(header, "alg", "ES256")   ? ALG_ES256
                : text_is(header, "alg", "RS256") ? ALG_RS256
                                                  : ALG_NONE;
    for (uint32_t i = 0; i < keys->count && alg != ALG_NONE && found == NULL; i++)
        if (keys->keys[i].alg == alg &&
            (text_is(header, "kid", keys->keys[i].id) || (keys->count == 1 && !has(header, "kid"))))
            found = &keys->keys[i];
    if (alg == ALG_NONE)
        (void)bad(err, "its algorithm is neither ES256 nor RS256");
    else if (has(header, "crit")) /* RFC 7515, 4.1.11: what we don't understand refuses */
        (void)bad(err, "it has critical extensions"), found = NULL;
    else if (found == NULL)
        (void)bad(err, "no key of its issuer has its kid and algorithm");
    else if (type != NULL && !text_is(header, "typ", type))
        (void)bad(err, "it is of another type"), found = NULL;
    bson_destroy(header);
    return found;
}

static bool for_audience(const bson_t *claims, const char *audience)
{
    bson_iter_t at, each;
    if (text_is(claims, "aud", audience))
        return true;
    if (!bson_iter_init_find(&at, claims, "aud") || !BSON_ITER_HOLDS_ARRAY(&at) ||
        !bson_iter_recurse(&at, &each))
        return false;
    while (bson_iter_next(&each)) {
        uint32_t len;
        const char *text = BSON_ITER_HOLDS_UTF8(&each) ? bson_iter_utf8(&each, &len) : NULL;
        if (text != NULL && len == strlen(audience) && memcmp(text, audience, len) == 0)
            return true;
    }
    return false;
}

/* Empty when it is not there, or too long. */
static void copy_claim(const bson_t *claims, const char *name, char *out, size_t max)
{
    uint32_t len = 0;
    const char *text = text_of(claims, name, &len);
    if (text != NULL && len <= max && strlen(text) == len)
        memcpy(out, text, len);
}

static int check_claims(const bson_t *claims, const gate_jwt_policy_t *policy, int64_t now_s,
                        gate_jwt_t *ret, vd_error_t *err)
{
    int64_t expires, from;
    uint32_t len, id_len = 0;
    if (!text_is(claims, "iss", policy->issuer))
        return bad(err, "it is of another issuer");
    if (!for_audience(claims, policy->audience))
        return bad(err, "it is for another audience");
    if (!number_of(claims, "exp", &expires))
        return bad(err, "it does not say when it expires");
    if (now_s >= expires)
        return bad(err, "it has expired");
    if (has(claims, "nbf") && (!number_of(claims, "nbf", &from) || now_s + GATE_JWT_SKEW_S < from))
        return bad(err, "it is not valid yet");
    if (has(claims, "iat") && (!number_of(claims, "iat", &from) || now_s + GATE_JWT_SKEW_S < from))
        return bad(err, "it was issued in the future");
    const char *principal = text_of(claims, policy->principal_claim, &len);
    if (principal == NULL || len == 0 || len > GATE_JWT_PRINCIPAL_MAX || strlen(principal) != len)
        return bad(err, "it does not say who it is about");
    const char *id = text_of(claims, "jti", &id_len);
    if (id != NULL && (id_len > GATE_JWT_ID_MAX || strlen(id) != id_len))
        return bad(err, "its jti is too long");
    *ret = (gate_jwt_t){.expires_s = expires};
    memcpy(ret->principal, principal, len);
    if (id != NULL)
        memcpy(ret->id, id, id_len);
    copy_claim(claims, "sid", ret->session, GATE_JWT_SESSION_MAX);
    copy_claim(claims, "vd_cred", ret->credential, GATE_JWT_CREDENTIAL_MAX);
    if (!number_of(claims, "vd_epoch", &ret->user_epoch))
        ret->user_epoch = 0;
    return VD_OK;
}

bool gate_jwt_claims_issuer(vd_slice_t token, const char *issuer)
{
    bson_error_t why;
    size_t len = 0;
    const uint8_t *dot =
        token.len == 0 || token.len > GATE_JWT_MAX ? NULL : memchr(token.data, '.', token.len);
    if (dot == NULL)
        return false;
    vd_slice_t rest = vd_slice(dot + 1, token.len - (size_t)(dot + 1 - token.data));
    dot = rest.len == 0 ? NULL : memchr(rest.data, '.', rest.len);
    if (dot == NULL || dot == rest.data)
        return false;
    uint8_t *text = vd_xalloc(rest.len);
    bson_t *claims = NULL;
    if (gate_base64url_decode(vd_slice(rest.data, (size_t)(dot - rest.data)), text, rest.len, &len))
        claims = bson_new_from_json(text, (ssize_t)len, &why);
    bool is = claims != NULL && text_is(claims, "iss", issuer);
    if (claims != NULL)
        bson_destroy(claims);
    vd_free(text);
    return is;
}

int gate_jwt_verify(const gate_jwks_t *keys, const gate_jwt_policy_t *policy, vd_slice_t token,
                    int64_t now_s, gate_jwt_t *ret_token, vd_error_t *err)
{
    VD_ASSERT(keys != NULL && policy != NULL && ret_token != NULL);

    if (token.len == 0 || token.len > GATE_JWT_MAX || memchr(token.data, 0, token.len) != NULL)
        return bad(err, "it is empty or too long");
    parts_t parts = {.space = vd_xalloc(token.len)};
    bson_t *claims = NULL;
    bson_error_t why;
    int rc = split(token, &parts) ? VD_OK
                                  : bad(err, "it has no header, claims and signature in base64url");
    const jwk_t *key = rc == VD_OK ? choose_key(keys, parts.header, policy->type, err) : NULL;
    if (rc == VD_OK && key == NULL)
        rc = VD_ERR_AUTHENTICATION_FAILED;
    if (rc == VD_OK && !signature_is_good(key, &parts))
        rc = bad(err, "its signature is not that of the key");
    if (rc == VD_OK) {
        claims = bson_new_from_json(parts.claims.data, (ssize_t)parts.claims.len, &why);
        rc = claims == NULL       ? bad(err, "its claims can't be read")
             : says_twice(claims) ? bad(err, "its claims say something twice")
                                  : check_claims(claims, policy, now_s, ret_token, err);
    }
    if (rc == VD_OK)
        (void)snprintf(ret_token->key_id, sizeof ret_token->key_id, "%s", key->id);
    if (claims != NULL)
        bson_destroy(claims);
    vd_wipe(parts.space, token.len);
    vd_free(parts.space);
    return rc;
}
