/* veddb-gatewayd/auth/jwt.c — see jwt.h. */
#include "veddb-gatewayd/auth/jwt.h"

#include "libcommon/base/mem.h"

#include <bson/bson.h>
#include <errno.h>
#include <jwt.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_ID_MAX     GATE_JWT_KEY_ID_MAX
#define RSA_BITS_MIN   2048
#define COORDINATE_LEN 32
#define NUMBER_MAX     1024 /* bytes of a modulus: RSA of 8,192 bits */

typedef struct {
    char id[KEY_ID_MAX + 1];
    jwt_alg_t alg;
    char *pem;
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

/* ---- JSON, by libbson; the first of two fields of the same name counts ---- */

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

static char *pem_of(EVP_PKEY *key)
{
    char *bytes = NULL, *pem = NULL;
    BIO *out = BIO_new(BIO_s_mem());
    if (out != NULL && PEM_write_bio_PUBKEY(out, key) == 1) {
        long len = BIO_get_mem_data(out, &bytes);
        pem = vd_xalloc((size_t)len + 1);
        memcpy(pem, bytes, (size_t)len);
    }
    BIO_free(out);
    return pem;
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
    char *pem = key == NULL ? NULL : pem_of(key);
    EVP_PKEY_free(key);
    ERR_clear_error();
    if (pem == NULL)
        return false;
    (void)snprintf(ret->id, sizeof ret->id, "%s", id == NULL ? "" : id);
    ret->alg = ec ? JWT_ALG_ES256 : JWT_ALG_RS256;
    ret->pem = pem;
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
        vd_free(keys->keys[i].pem);
    vd_free(keys);
}

/* ---- tokens ---- */

static int bad(vd_error_t *err, const char *why)
{
    return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "token: %s", why);
}

/* Three parts, each in its one form: libjwt steps over bits that stand for nothing. */
static bool is_well_formed(vd_slice_t token)
{
    uint8_t *space = vd_xalloc(token.len + 1);
    bool good = true;
    for (int part = 0; part < 3 && good; part++) {
        const uint8_t *dot =
            part == 2 || token.len == 0 ? NULL : memchr(token.data, '.', token.len);
        size_t len = dot == NULL ? token.len : (size_t)(dot - token.data), n;
        good = len != 0 && (part == 2 || dot != NULL) &&
               gate_base64url_decode(vd_slice(token.data, len), space, len, &n);
        if (good && part < 2)
            token = vd_slice(token.data + len + 1, token.len - len - 1);
    }
    vd_free(space);
    return good;
}

/* The key that the header names, if it is for the algorithm that the header names. */
static const jwk_t *choose_key(const gate_jwks_t *keys, vd_slice_t token, const char *type,
                               vd_error_t *err)
{
    uint8_t text[2048];
    size_t len;
    bson_error_t why;
    const uint8_t *dot = memchr(token.data, '.', token.len);
    const jwk_t *found = NULL;
    if (dot == NULL || !gate_base64url_decode(vd_slice(token.data, (size_t)(dot - token.data)),
                                              text, sizeof text, &len)) {
        (void)bad(err, "it has no header");
        return NULL;
    }
    bson_t *header = bson_new_from_json(text, (ssize_t)len, &why);
    if (header == NULL) {
        (void)bad(err, "its header is not JSON");
        return NULL;
    }
    jwt_alg_t alg = text_is(header, "alg", "ES256")   ? JWT_ALG_ES256
                    : text_is(header, "alg", "RS256") ? JWT_ALG_RS256
                                                      : JWT_ALG_NONE;
    for (uint32_t i = 0; i < keys->count && alg != JWT_ALG_NONE && found == NULL; i++)
        if (keys->keys[i].alg == alg &&
            (text_is(header, "kid", keys->keys[i].id) || (keys->count == 1 && !has(header, "kid"))))
            found = &keys->keys[i];
    if (alg == JWT_ALG_NONE)
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
    const jwk_t *key = choose_key(keys, token, policy->type, err);
    if (key == NULL)
        return VD_ERR_AUTHENTICATION_FAILED;
    if (!is_well_formed(token))
        return bad(err, "its signature is not in base64url");
    char *text = vd_xalloc(token.len + 1), *json = NULL;
    jwt_t *jwt = NULL;
    bson_t *claims = NULL;
    bson_error_t why;
    int rc = VD_OK;
    memcpy(text, token.data, token.len);
    /* libjwt verifies by the algorithm of the header that it reads itself: of two, perhaps the
     * other one. So what it used must be what the key is for. */
    if (jwt_decode(&jwt, text, (const unsigned char *)key->pem, (int)strlen(key->pem)) != 0)
        rc = bad(err, "its signature is not that of the key");
    else if (jwt_get_alg(jwt) != key->alg)
        rc = bad(err, "it names two algorithms");
    if (rc == VD_OK) {
        json = jwt_get_grants_json(jwt, NULL);
        claims = json == NULL ? NULL : bson_new_from_json((const uint8_t *)json, -1, &why);
        rc = claims == NULL ? bad(err, "its claims can't be read")
                            : check_claims(claims, policy, now_s, ret_token, err);
        if (rc == VD_OK)
            (void)snprintf(ret_token->key_id, sizeof ret_token->key_id, "%s", key->id);
    }
    if (claims != NULL)
        bson_destroy(claims);
    free(json); /* libjwt takes it from malloc */
    jwt_free(jwt);
    ERR_clear_error();
    vd_wipe(text, token.len);
    vd_free(text);
    return rc;
}
