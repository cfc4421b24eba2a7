/* tests/unit/gatewayd/test_scram.c — SCRAM-SHA-256: the vectors of RFC 7677, whole conversations,
 * and every kind of wrong message. */
#include "libcommon/base/rand.h"
#include "tests/support/gate_fixture.h"
#include "veddb-gatewayd/auth/scram.h"

#include <criterion/criterion.h>
#include <stdio.h>

TestSuite(scram);

static void credentials_of_rfc(gate_scram_credentials_t *ret)
{
    uint8_t salt[32];
    uint32_t len;
    cr_assert(
        gate_base64_decode(VD_SLICE_LIT("W22ZaJ0SNY7soEsUEjb6gQ=="), salt, sizeof salt, &len));
    cr_assert_eq(gate_scram_derive(VD_SLICE_LIT("pencil"), salt, len, 4096, ret, NULL), VD_OK);
}

#define RFC_FIRST "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
#define RFC_NONCE "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define RFC_FINAL "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p="
#define RFC_PROOF "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="

static int begin(gate_scram_t *scram)
{
    gate_scram_credentials_t credentials;
    char out[GATE_SCRAM_MESSAGE_MAX];
    uint32_t len;
    credentials_of_rfc(&credentials);
    int rc = gate_scram_first(scram, VD_SLICE_LIT(RFC_FIRST), NULL);
    return rc != VD_OK ? rc : gate_scram_challenge(scram, &credentials, RFC_NONCE, out, &len, NULL);
}

Test(scram, vectors_of_rfc_7677)
{
    gate_scram_t scram;
    gate_scram_credentials_t credentials;
    char out[GATE_SCRAM_MESSAGE_MAX];
    uint32_t len;
    credentials_of_rfc(&credentials);
    cr_assert_eq(gate_scram_first(&scram, VD_SLICE_LIT(RFC_FIRST), NULL), VD_OK);
    cr_expect(vd_slice_is(vd_slice(scram.user, scram.user_len), "user"));
    cr_assert_eq(gate_scram_challenge(&scram, &credentials, RFC_NONCE, out, &len, NULL), VD_OK);
    cr_expect(vd_slice_is(vd_slice(out, len),
                          "r=rOprNGfwEbeRWgbNEkqO" RFC_NONCE ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
    cr_assert_eq(gate_scram_final(&scram, VD_SLICE_LIT(RFC_FINAL RFC_PROOF), out, &len, NULL),
                 VD_OK);
    cr_expect(vd_slice_is(vd_slice(out, len), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    gate_scram_wipe(&scram);
}

Test(scram, final_messages_that_are_refused)
{
    static const struct {
        const char *message;
        int rc;
    } cases[] = {
        {RFC_FINAL "eHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", VD_ERR_AUTHENTICATION_FAILED},
        {RFC_FINAL "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", VD_ERR_AUTHENTICATION_FAILED},
        {RFC_FINAL, VD_ERR_BAD_VALUE},
        {RFC_FINAL "dHzb", VD_ERR_BAD_VALUE},
        {RFC_FINAL RFC_PROOF "=", VD_ERR_BAD_VALUE},
        {"", VD_ERR_BAD_VALUE},
        {"p=" RFC_PROOF, VD_ERR_BAD_VALUE},
        {",p=" RFC_PROOF, VD_ERR_BAD_VALUE},
        {"c=biws,p=" RFC_PROOF, VD_ERR_BAD_VALUE},
        {"c=eSws,r=rOprNGfwEbeRWgbNEkqO" RFC_NONCE ",p=" RFC_PROOF, VD_ERR_BAD_VALUE},
        {"c=biws,r=rOprNGfwEbeRWgbNEkqO,p=" RFC_PROOF, VD_ERR_BAD_VALUE},
        {"c=biws,r=other,p=" RFC_PROOF, VD_ERR_BAD_VALUE},
        {"r=rOprNGfwEbeRWgbNEkqO" RFC_NONCE ",c=biws,p=" RFC_PROOF, VD_ERR_BAD_VALUE},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_scram_t scram;
        char out[GATE_SCRAM_MESSAGE_MAX];
        uint32_t len;
        cr_assert_eq(begin(&scram), VD_OK);
        cr_expect_eq(gate_scram_final(&scram, vd_slice_str(cases[i].message), out, &len, NULL),
                     cases[i].rc, "case %zu", i);
    }
}

Test(scram, first_messages)
{
    char long_nonce[700], long_name[700];
    (void)snprintf(long_nonce, sizeof long_nonce, "n,,n=u,r=%0600d", 1);
    (void)snprintf(long_name, sizeof long_name, "n,,n=%0600d,r=x", 1);
    const struct {
        const char *message, *user;
    } cases[] = {
        {"n,,n=u,r=x", "u"},
        {"y,,n=u,r=x", "u"},
        {"n,,n=a=2Cb=3Dc,r=x", "a,b=c"},
        {"n,,n=u,r=x,ext=1", "u"},
        {"n,,n=\xc3\xa4,r=x", "\xc3\xa4"},
        {"", NULL},
        {"n,,", NULL},
        {"n,,n=,r=x", NULL},
        {"n,,n=u", NULL},
        {"n,,n=u,r=", NULL},
        {"n,,r=x,n=u", NULL},
        {"n,a=other,n=u,r=x", NULL},
        {"p=tls-unique,,n=u,r=x", NULL},
        {"x,,n=u,r=x", NULL},
        {"n,,m=ext,n=u,r=x", NULL},
        {"n,,n=a=2cb,r=x", NULL},
        {"n,,n=a=,r=x", NULL},
        {"n,,n=a=4,r=x", NULL},
        {"n,,n=u,r=a b", NULL},
        {long_nonce, NULL},
        {long_name, NULL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_scram_t scram;
        int rc = gate_scram_first(&scram, vd_slice_str(cases[i].message), NULL);
        cr_expect_eq(rc, cases[i].user == NULL ? VD_ERR_BAD_VALUE : VD_OK, "case %zu", i);
        if (rc == VD_OK)
            cr_expect(vd_slice_is(vd_slice(scram.user, scram.user_len), cases[i].user), "case %zu",
                      i);
    }
}

Test(scram, whole_conversations)
{
    static const struct {
        const char *user, *password, *given;
        bool good;
    } cases[] = {{"u", "p", "p", true},
                 {"u", "p", "P", false},
                 {"anna", "p\xc3\xa4ss", "p\xc3\xa4ss", true},
                 {"u", "", "x", false}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_scram_credentials_t credentials;
        gate_scram_t scram;
        uint8_t salt[GATE_SCRAM_SALT_BYTES], server[32];
        char first[1024], out[1024], final[1024];
        uint32_t len;
        vd_rand_secret(salt, sizeof salt);
        cr_assert_eq(gate_scram_derive(vd_slice_str(cases[i].password), salt, sizeof salt,
                                       GATE_SCRAM_ITERATIONS, &credentials, NULL),
                     VD_OK);
        gate_scram_client_first(cases[i].user, "nonce", first);
        cr_assert_eq(gate_scram_first(&scram, vd_slice_str(first), NULL), VD_OK);
        cr_assert_eq(gate_scram_challenge(&scram, &credentials, NULL, out, &len, NULL), VD_OK);
        cr_assert(gate_scram_client_final(cases[i].user, "nonce", cases[i].given,
                                          vd_slice(out, len), final, server));
        int rc = gate_scram_final(&scram, vd_slice_str(final), out, &len, NULL);
        cr_expect_eq(rc, cases[i].good ? VD_OK : VD_ERR_AUTHENTICATION_FAILED, "case %zu", i);
    }
}

/* Made-up credentials refuse even the proof that would fit them. */
Test(scram, nobody_is_never_let_in)
{
    static const uint8_t secret[32] = {1, 2, 3};
    gate_scram_credentials_t one, again, other, real;
    gate_scram_fake(secret, VD_SLICE_LIT("nobody"), VD_SLICE_LIT("admin"), &one);
    gate_scram_fake(secret, VD_SLICE_LIT("nobody"), VD_SLICE_LIT("admin"), &again);
    gate_scram_fake(secret, VD_SLICE_LIT("nobody"), VD_SLICE_LIT("test"), &other);
    cr_expect_eq(one.salt_len, GATE_SCRAM_SALT_BYTES);
    cr_expect_eq(one.iterations, GATE_SCRAM_ITERATIONS);
    cr_expect_eq(memcmp(one.salt, again.salt, one.salt_len), 0);
    cr_expect_neq(memcmp(one.salt, other.salt, one.salt_len), 0);
    cr_assert_eq(
        gate_scram_derive(VD_SLICE_LIT("p"), one.salt, one.salt_len, one.iterations, &real, NULL),
        VD_OK);
    real.real = false;
    gate_scram_t scram;
    char first[1024], out[1024], final[1024];
    uint8_t server[32];
    uint32_t len;
    gate_scram_client_first("nobody", "nonce", first);
    cr_assert_eq(gate_scram_first(&scram, vd_slice_str(first), NULL), VD_OK);
    cr_assert_eq(gate_scram_challenge(&scram, &real, NULL, out, &len, NULL), VD_OK);
    cr_assert(gate_scram_client_final("nobody", "nonce", "p", vd_slice(out, len), final, server));
    cr_expect_eq(gate_scram_final(&scram, vd_slice_str(final), out, &len, NULL),
                 VD_ERR_AUTHENTICATION_FAILED);
}

Test(scram, base64)
{
    static const struct {
        const char *text, *plain;
    } cases[] = {{"", ""},
                 {"Zg==", "f"},
                 {"Zm8=", "fo"},
                 {"Zm9v", "foo"},
                 {"Zm9vYg==", "foob"},
                 {"Zm9vYmE=", "fooba"},
                 {"Zm9vYmFy", "foobar"}};
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "Zg==Zg==", "Z===", "====", "Zm9!", "Zm 9", "=Zm9"};
    uint8_t bytes[32];
    char text[64];
    uint32_t len;
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        cr_assert(gate_base64_decode(vd_slice_str(cases[i].text), bytes, sizeof bytes, &len), "%s",
                  cases[i].text);
        cr_expect(vd_slice_is(vd_slice(bytes, len), cases[i].plain));
        cr_expect(vd_slice_is(
            vd_slice(text, gate_base64_encode(vd_slice_str(cases[i].plain), text)), cases[i].text));
    }
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++)
        cr_expect_not(gate_base64_decode(vd_slice_str(bad[i]), bytes, sizeof bytes, &len), "%s",
                      bad[i]);
    cr_expect_not(gate_base64_decode(VD_SLICE_LIT("Zm9vYmFy"), bytes, 5, &len));
    cr_expect(gate_base64_decode(VD_SLICE_LIT("Zm9vYmFy"), bytes, 6, &len));
}
