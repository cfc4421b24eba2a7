/* tests/unit/gatewayd/test_jwt.c — tokens made here, good and bad in every part. */
#include "veddb-gatewayd/auth/jwt.h"

#include <criterion/criterion.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOW 1800000000

static const gate_jwt_policy_t policy = {"https://issuer.example", "veddb", "sub", NULL};

static char *url(const void *bytes, size_t len)
{
    char *text = calloc(1, 4 * ((len + 2) / 3) + 8);
    int n = EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);
    while (n > 0 && text[n - 1] == '=')
        text[--n] = 0;
    for (int i = 0; i < n; i++)
        text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
    return text;
}

static char *url_number(EVP_PKEY *key, const char *name, int width)
{
    BIGNUM *number = NULL;
    unsigned char bytes[512];
    cr_assert_eq(EVP_PKEY_get_bn_param(key, name, &number), 1);
    int len = width != 0 ? BN_bn2binpad(number, bytes, width) : BN_bn2bin(number, bytes);
    BN_free(number);
    return url(bytes, (size_t)len);
}

/* {"keys": [...]} of an EC and an RSA key. */
static char *jwks_of(EVP_PKEY *ec, EVP_PKEY *rsa)
{
    char *x = url_number(ec, OSSL_PKEY_PARAM_EC_PUB_X, 32),
         *y = url_number(ec, OSSL_PKEY_PARAM_EC_PUB_Y, 32), *json = malloc(8192);
    int n = snprintf(json, 8192,
                     "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"kid\":\"secret\"},"
                     "{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"e\",\"x\":\"%s\",\"y\":\"%s\"}",
                     x, y);
    free(x), free(y);
    if (rsa != NULL) {
        char *modulus = url_number(rsa, OSSL_PKEY_PARAM_RSA_N, 0),
             *exponent = url_number(rsa, OSSL_PKEY_PARAM_RSA_E, 0);
        n += snprintf(json + n, 8192 - (size_t)n,
                      ",{\"kty\":\"RSA\",\"use\":\"sig\",\"alg\":\"RS256\",\"kid\":\"r\","
                      "\"n\":\"%s\",\"e\":\"%s\"}",
                      modulus, exponent);
        free(modulus), free(exponent);
    }
    (void)snprintf(json + n, 8192 - (size_t)n, "]}");
    return json;
}

static char *sign(EVP_PKEY *key, const char *header, const char *claims)
{
    char *h = url(header, strlen(header)), *c = url(claims, strlen(claims)), *s = NULL;
    size_t size = strlen(h) + strlen(c) + 2048;
    char *token = malloc(size);
    (void)snprintf(token, size, "%s.%s", h, c);
    if (key == NULL) {
        s = url("", 0);
    } else {
        unsigned char der[1024], raw[64];
        size_t len = sizeof der;
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        cr_assert_eq(EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key), 1);
        cr_assert_eq(EVP_DigestSign(context, der, &len, (unsigned char *)token, strlen(token)), 1);
        EVP_MD_CTX_free(context);
        if (EVP_PKEY_get_base_id(key) == EVP_PKEY_EC) {
            const unsigned char *at = der;
            ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &at, (long)len);
            (void)BN_bn2binpad(ECDSA_SIG_get0_r(pair), raw, 32);
            (void)BN_bn2binpad(ECDSA_SIG_get0_s(pair), raw + 32, 32);
            ECDSA_SIG_free(pair);
            s = url(raw, sizeof raw);
        } else {
            s = url(der, len);
        }
    }
    (void)snprintf(token + strlen(token), size - strlen(token), ".%s", s);
    free(h), free(c), free(s);
    return token;
}

static EVP_PKEY *ec, *rsa, *other;
static gate_jwks_t *keys;

static void setup(void)
{
    vd_error_t err = VD_ERROR_INIT;
    ec = EVP_EC_gen("P-256"), other = EVP_EC_gen("P-256"), rsa = EVP_RSA_gen(2048);
    char *json = jwks_of(ec, rsa);
    cr_assert_eq(gate_jwks_parse(vd_slice_str(json), &keys, &err), VD_OK, "%s", err.message);
    free(json);
}

static void teardown(void)
{
    gate_jwks_destroy(&keys);
    EVP_PKEY_free(ec);
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(other);
}

TestSuite(jwt, .init = setup, .fini = teardown, .timeout = 300);

#define EC_HEADER    "{\"alg\":\"ES256\",\"typ\":\"JWT\",\"kid\":\"e\"}"
#define RSA_HEADER   "{\"alg\":\"RS256\",\"kid\":\"r\"}"
#define CLAIMS(rest) "{\"iss\":\"https://issuer.example\",\"sub\":\"alice\"," rest "}"
#define GOOD         CLAIMS("\"aud\":\"veddb\",\"exp\":1800000100,\"jti\":\"j1\"")

static int verify(const char *token, gate_jwt_t *ret, vd_error_t *err)
{
    return gate_jwt_verify(keys, &policy, vd_slice_str(token), NOW, ret, err);
}

Test(jwt, tokens)
{
    static const struct {
        char key;                           /* e, r, o: another; n: no signature */
        const char *header, *claims, *told; /* NULL: it is good */
    } cases[] = {
        {'e', EC_HEADER, GOOD, NULL},
        {'r', RSA_HEADER, GOOD, NULL},
        {'e', EC_HEADER, CLAIMS("\"aud\":[\"x\",\"veddb\"],\"exp\":1800000001"), NULL},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000001.5"), NULL},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000001,\"nbf\":1800000059"), NULL},
        {'o', EC_HEADER, GOOD, "signature"},
        {'n', EC_HEADER, GOOD, "signature"},
        {'e', "{\"alg\":\"none\",\"kid\":\"e\"}", GOOD, "neither ES256 nor RS256"},
        {'n', "{\"alg\":\"none\"}", GOOD, "no header, claims and signature"},
        {'e', "{\"alg\":\"HS256\",\"kid\":\"e\"}", GOOD, "neither ES256 nor RS256"},
        {'e', "{\"alg\":\"ES384\",\"kid\":\"e\"}", GOOD, "neither ES256 nor RS256"},
        {'e', "{\"alg\":\"es256\",\"kid\":\"e\"}", GOOD, "neither ES256 nor RS256"},
        {'e', "{\"kid\":\"e\"}", GOOD, "neither ES256 nor RS256"},
        {'r', "{\"alg\":\"RS256\",\"kid\":\"e\"}", GOOD, "no key"},
        {'e', "{\"alg\":\"ES256\",\"kid\":\"r\"}", GOOD, "no key"},
        {'e', "{\"alg\":\"ES256\",\"kid\":\"x\"}", GOOD, "no key"},
        {'e', "{\"alg\":\"ES256\"}", GOOD, "no key"},
        {'e', "{\"alg\":\"ES256\",\"kid\":7}", GOOD, "no key"},
        {'e', "{\"alg\":\"ES256\",\"kid\":\"secret\"}", GOOD, "no key"},
        {'e', "{\"alg\":\"ES256\",\"kid\":\"e\",\"crit\":[\"exp\"]}", GOOD, "critical"},
        {'e', "[]", GOOD, "neither"},
        {'e', "{\"alg\":\"ES256\",\"kid\":\"e\",\"kid\":\"e\"}", GOOD,
         "header says something twice"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000100,\"exp\":1900000000"),
         "claims say something twice"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000100,\"sub\":\"admin\""),
         "claims say something twice"},
        {'e', "{", GOOD, "not JSON"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000000"), "has expired"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1"), "has expired"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":-1"), "expire"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\""), "when it expires"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":\"1800000100\""), "when it expires"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1e300"), "when it expires"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000100,\"nbf\":1800000061"),
         "not valid yet"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000100,\"nbf\":\"x\""),
         "not valid yet"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb\",\"exp\":1800000100,\"iat\":1800000061"),
         "in the future"},
        {'e', EC_HEADER, CLAIMS("\"exp\":1800000100"), "audience"},
        {'e', EC_HEADER, CLAIMS("\"aud\":\"veddb2\",\"exp\":1800000100"), "audience"},
        {'e', EC_HEADER, CLAIMS("\"aud\":[],\"exp\":1800000100"), "audience"},
        {'e', EC_HEADER, CLAIMS("\"aud\":[[\"veddb\"]],\"exp\":1800000100"), "audience"},
        {'e', EC_HEADER,
         "{\"iss\":\"https://issuer.example/\",\"sub\":\"a\",\"aud\":\"veddb\","
         "\"exp\":1800000100}",
         "another issuer"},
        {'e', EC_HEADER, "{\"sub\":\"a\",\"aud\":\"veddb\",\"exp\":1800000100}", "another issuer"},
        {'e', EC_HEADER,
         "{\"iss\":\"https://issuer.example\",\"aud\":\"veddb\",\"exp\":1800000100}", "who"},
        {'e', EC_HEADER,
         "{\"iss\":\"https://issuer.example\",\"sub\":\"\",\"aud\":\"veddb\",\"exp\":1800000100}",
         "who"},
        {'e', EC_HEADER,
         "{\"iss\":\"https://issuer.example\",\"sub\":5,\"aud\":\"veddb\",\"exp\":1800000100}",
         "who"},
        {'e', EC_HEADER, "[1]", "another issuer"},
        {'e', EC_HEADER, "x", "claims can't be read"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        EVP_PKEY *key = cases[i].key == 'e'   ? ec
                        : cases[i].key == 'r' ? rsa
                        : cases[i].key == 'o' ? other
                                              : NULL;
        char *token = sign(key, cases[i].header, cases[i].claims);
        gate_jwt_t got = {0};
        vd_error_t err = VD_ERROR_INIT;
        int rc = verify(token, &got, &err);
        if (cases[i].told == NULL) {
            cr_expect_eq(rc, VD_OK, "case %zu: %s", i, err.message);
            cr_expect_str_eq(got.principal, "alice");
            cr_expect_gt(got.expires_s, NOW);
        } else {
            cr_expect_eq(rc, VD_ERR_AUTHENTICATION_FAILED, "case %zu: %d", i, rc);
            cr_expect_not_null(strstr(err.message, cases[i].told), "case %zu: %s", i, err.message);
        }
        free(token);
    }
}

/* The public key as the secret of an HMAC: by a header that says so, and by one that says both. */
Test(jwt, a_public_key_is_no_secret)
{
    static const char *const headers[] = {
        "{\"alg\":\"HS256\",\"kid\":\"e\"}",
        "{\"alg\":\"ES256\",\"kid\":\"e\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\",\"kid\":\"e\",\"alg\":\"ES256\"}",
    };
    char *pem = NULL;
    BIO *out = BIO_new(BIO_s_mem());
    cr_assert_eq(PEM_write_bio_PUBKEY(out, ec), 1);
    long pem_len = BIO_get_mem_data(out, &pem);
    for (size_t i = 0; i < VD_COUNT_OF(headers); i++) {
        char *h = url(headers[i], strlen(headers[i])), *c = url(GOOD, strlen(GOOD)), token[4096];
        unsigned char mac[32];
        unsigned len = sizeof mac;
        (void)snprintf(token, sizeof token, "%s.%s", h, c);
        cr_assert_not_null(HMAC(EVP_sha256(), pem, (int)pem_len, (unsigned char *)token,
                                strlen(token), mac, &len));
        char *s = url(mac, len);
        (void)snprintf(token + strlen(token), sizeof token - strlen(token), ".%s", s);
        gate_jwt_t got;
        cr_expect_eq(verify(token, &got, NULL), VD_ERR_AUTHENTICATION_FAILED, "case %zu", i);
        free(h), free(c), free(s);
    }
    BIO_free(out);
}

/* Each byte of a good token, changed; and each beginning of it. */
Test(jwt, a_changed_token)
{
    char *token = sign(ec, EC_HEADER, GOOD);
    size_t len = strlen(token);
    gate_jwt_t got;
    cr_assert_eq(verify(token, &got, NULL), VD_OK);
    cr_expect_str_eq(got.id, "j1");
    for (size_t i = 0; i < len; i++) {
        char was = token[i];
        token[i] = was == 'A' ? 'B' : 'A';
        cr_expect_neq(verify(token, &got, NULL), VD_OK, "byte %zu", i);
        token[i] = '.';
        if (was != '.')
            cr_expect_neq(verify(token, &got, NULL), VD_OK, "byte %zu", i);
        token[i] = was;
        cr_expect_neq(gate_jwt_verify(keys, &policy, vd_slice(token, i), NOW, &got, NULL), VD_OK,
                      "%zu", i);
    }
    free(token);
    char *large = calloc(1, GATE_JWT_MAX + 2);
    memset(large, 'A', GATE_JWT_MAX + 1);
    cr_expect_neq(verify(large, &got, NULL), VD_OK);
    free(large);
}

Test(jwt, sets_of_keys)
{
    static const char *const useless[] = {
        "",
        "[]",
        "{}",
        "{\"keys\":[]}",
        "{\"keys\":{}}",
        "{\"keys\":[1]}",
        "{\"keys\":[{}]}",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"kid\":\"k\"}]}",
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}",
        /* beside the curve */
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\","
        "\"x\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\","
        "\"y\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
    };
    for (size_t i = 0; i < VD_COUNT_OF(useless); i++) {
        gate_jwks_t *none = NULL;
        cr_expect_eq(gate_jwks_parse(vd_slice_str(useless[i]), &none, NULL), VD_ERR_CONFIG,
                     "case %zu", i);
    }
    /* One key alone needs no kid in the token. */
    char *json = jwks_of(ec, NULL), *token = sign(ec, "{\"alg\":\"ES256\"}", GOOD);
    gate_jwks_t *one = NULL;
    gate_jwt_t got;
    cr_assert_eq(gate_jwks_parse(vd_slice_str(json), &one, NULL), VD_OK);
    cr_expect_eq(gate_jwt_verify(one, &policy, vd_slice_str(token), NOW, &got, NULL), VD_OK);
    gate_jwks_destroy(&one);
    free(json), free(token);
}
