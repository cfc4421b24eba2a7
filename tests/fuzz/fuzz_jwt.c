/* tests/fuzz/fuzz_jwt.c — tokens and sets of keys, as clients and files bring them. The first byte
 * says which. What is taken was signed by our key: no input is. */
#include "tests/fuzz/fuzz.h"
#include "veddb-gatewayd/auth/jwt.h"
#include "veddb-gatewayd/auth/signer.h"

#include "libcommon/base/assert.h"

#include <stdlib.h>
#include <string.h>

#define NOW_S 1800000000

static gate_jwks_t *own_keys(void)
{
    static gate_jwks_t *keys;
    uint8_t der[GATE_SIGNER_DER_MAX];
    uint32_t len = 0;
    gate_signer_t *signer = NULL;
    if (keys != NULL)
        return keys;
    VD_ASSERT(gate_signer_make(der, &len, NULL) == VD_OK);
    VD_ASSERT(gate_signer_create(vd_slice(der, len), &signer, NULL) == VD_OK);
    VD_ASSERT(gate_jwks_parse(vd_slice_str(gate_signer_jwks(signer)), &keys, NULL) == VD_OK);
    gate_signer_destroy(&signer);
    return keys;
}

static void token(vd_slice_t text)
{
    static const gate_jwt_policy_t policies[] = {{"veddb", "veddb", "sub", "at+jwt"},
                                                 {"https://issuer.example", "veddb", "sub", NULL}};
    gate_jwt_t got;
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        VD_ASSERT(gate_jwt_verify(own_keys(), &policies[i], text, NOW_S, &got, NULL) ==
                  VD_ERR_AUTHENTICATION_FAILED);
    (void)gate_jwt_claims_issuer(text, "veddb");
}

static void key_set(vd_slice_t json)
{
    static const gate_jwt_policy_t policy = {"https://issuer.example", "veddb", "sub", NULL};
    static const char some[] =
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIn0."
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    gate_jwks_t *keys = NULL;
    gate_jwt_t got;
    if (gate_jwks_parse(json, &keys, NULL) != VD_OK)
        return;
    VD_ASSERT(gate_jwt_verify(keys, &policy, vd_slice_str(some), NOW_S, &got, NULL) != VD_OK);
    gate_jwks_destroy(&keys);
}

static void text(vd_slice_t bytes)
{
    uint8_t out[4096];
    char again[8192];
    size_t len = 0;
    if (bytes.len > sizeof out || !gate_base64url_decode(bytes, out, sizeof out, &len))
        return;
    VD_ASSERT(len <= sizeof out);
    /* One form for each: what was decoded is written the same. */
    VD_ASSERT(gate_base64url_encode(vd_slice(out, len), again) == bytes.len);
    VD_ASSERT(bytes.len == 0 || memcmp(again, bytes.data, bytes.len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    vd_slice_t rest = vd_slice(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        token(rest);
        break;
    case 1:
        key_set(rest);
        break;
    default:
        text(rest);
        break;
    }
    return 0;
}
