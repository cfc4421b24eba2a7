/* tests/unit/runtime/test_tls_staple.c — OCSP responses: which are taken, and what clients that ask
 * are given, until when. */
#include "libcommon/base/clock.h"
#include "libcommon/runtime/tls.h"
#include "tests/support/certificates.h"

#include <criterion/criterion.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAY_S 86400

typedef struct {
    X509 *certificate;
    EVP_PKEY *key;
} identity_t;

static char folder[64], cert_file[96], key_file[96], ca_file[96], ocsp_file[96];
static identity_t ca, other_ca, own, stranger, responder, impostor;
static int64_t ahead_s; /* of the fake clock */

static int64_t wall_ms(void)
{
    return vd_clock_system.wall_ms() + ahead_s * 1000;
}

/* issuer NULL: an authority. */
static identity_t issue(const char *name, const identity_t *issuer, const char *usage)
{
    identity_t identity = {.key = EVP_EC_gen("P-256")};
    identity.certificate = test_certificate(
        name, identity.key,
        &(test_certificate_t){.issuer = issuer == NULL ? NULL : issuer->certificate,
                              .issuer_key = issuer == NULL ? NULL : issuer->key,
                              .begins_s = -DAY_S,
                              .ends_s = 10 * DAY_S,
                              .authority = issuer == NULL,
                              .usage = usage});
    return identity;
}

static void identity_free(identity_t *identity)
{
    X509_free(identity->certificate);
    EVP_PKEY_free(identity->key);
}

typedef struct {
    const char *what;
    const identity_t *about, *signer, *issuer; /* issuer: of `about`; NULL: the defaults */
    int status;                                /* V_OCSP_CERTSTATUS_GOOD is 0 */
    int from_s, until_s;                       /* from now; until 0: a day, -1: none */
    bool sha256;                               /* how the certificate is named */
    const char *told;                          /* NULL: it is taken */
} answer_t;

static void write_answer(const answer_t *answer)
{
    const identity_t *about = answer->about == NULL ? &own : answer->about,
                     *issuer = answer->issuer == NULL ? &ca : answer->issuer,
                     *signer = answer->signer == NULL ? &ca : answer->signer;
    OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
    OCSP_CERTID *id = OCSP_cert_to_id(answer->sha256 ? EVP_sha256() : EVP_sha1(),
                                      about->certificate, issuer->certificate);
    ASN1_TIME *from = X509_gmtime_adj(NULL, answer->from_s == 0 ? -60 : answer->from_s),
              *until = X509_gmtime_adj(NULL, answer->until_s == 0 ? DAY_S : answer->until_s),
              *revoked = X509_gmtime_adj(NULL, -3600);
    cr_assert_not_null(OCSP_basic_add1_status(
        basic, id, answer->status, 0, answer->status == V_OCSP_CERTSTATUS_REVOKED ? revoked : NULL,
        from, answer->until_s == -1 ? NULL : until));
    cr_assert_eq(OCSP_basic_sign(basic, signer->certificate, signer->key, EVP_sha256(), NULL, 0),
                 1);
    OCSP_RESPONSE *response = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
    FILE *out = fopen(ocsp_file, "w");
    cr_assert_not_null(out);
    unsigned char *bytes = NULL;
    int len = i2d_OCSP_RESPONSE(response, &bytes);
    cr_assert_gt(len, 0);
    cr_assert_eq(fwrite(bytes, 1, (size_t)len, out), (size_t)len);
    OPENSSL_free(bytes);
    (void)fclose(out);
    OCSP_RESPONSE_free(response);
    OCSP_BASICRESP_free(basic);
    OCSP_CERTID_free(id);
    ASN1_TIME_free(from);
    ASN1_TIME_free(until);
    ASN1_TIME_free(revoked);
}

static void setup(void)
{
    static const vd_clock_t *system = &vd_clock_system;
    static vd_clock_t clock;
    clock = *system;
    clock.wall_ms = wall_ms;
    ahead_s = 0;
    vd_clock_replace(&clock);
    (void)snprintf(folder, sizeof folder, "/tmp/vdstapleXXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(cert_file, sizeof cert_file, "%s/own.pem", folder);
    (void)snprintf(key_file, sizeof key_file, "%s/own.key", folder);
    (void)snprintf(ca_file, sizeof ca_file, "%s/ca.pem", folder);
    (void)snprintf(ocsp_file, sizeof ocsp_file, "%s/ocsp.der", folder);
    ca = issue("authority", NULL, NULL);
    other_ca = issue("other", NULL, NULL);
    own = issue("own", &ca, "serverAuth");
    stranger = issue("stranger", &ca, "serverAuth");
    responder = issue("responder", &ca, "OCSPSigning");
    impostor = issue("impostor", &ca, "clientAuth");
    test_write_pem(cert_file, own.certificate, NULL, NULL);
    test_write_pem(key_file, NULL, own.key, NULL);
    test_write_pem(ca_file, ca.certificate, NULL, NULL);
}

static void teardown(void)
{
    const char *files[] = {cert_file, key_file, ca_file, ocsp_file};
    identity_t *identities[] = {&ca, &other_ca, &own, &stranger, &responder, &impostor};
    for (size_t i = 0; i < VD_COUNT_OF(files); i++)
        (void)unlink(files[i]);
    (void)rmdir(folder);
    for (size_t i = 0; i < VD_COUNT_OF(identities); i++)
        identity_free(identities[i]);
    vd_clock_replace(NULL);
}

TestSuite(tls_staple, .init = setup, .fini = teardown, .timeout = 300);

static int make(const char *authorities, vd_tls_t **ret_tls, vd_error_t *err)
{
    vd_tls_options_t options = {.certificate_file = cert_file,
                                .key_file = key_file,
                                .ca_file = authorities,
                                .ocsp_file = ocsp_file,
                                .server = true};
    return vd_tls_create(&options, ret_tls, err);
}

/* The length of what a client that asks is given; 0: nothing. */
static long given_to_client(vd_tls_t *tls)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *client = SSL_new(context), *server = NULL;
    BIO *left = NULL, *right = NULL;
    const unsigned char *bytes = NULL;
    bool done = false;
    cr_assert_eq(BIO_new_bio_pair(&left, 0, &right, 0), 1);
    cr_assert_eq(vd_tls_ssl_new(tls, -1, &server, NULL), VD_OK);
    SSL_set_connect_state(client);
    (void)SSL_set_tlsext_status_type(client, TLSEXT_STATUSTYPE_ocsp);
    SSL_set_bio(client, left, left);
    SSL_set_bio(server, right, right);
    for (int i = 0; i < 50 && !done; i++) {
        int c = SSL_do_handshake(client), s = SSL_do_handshake(server);
        done = c == 1 && s == 1;
    }
    cr_assert(done);
    long len = SSL_get_tlsext_status_ocsp_resp(client, &bytes);
    SSL_free(client);
    SSL_free(server);
    SSL_CTX_free(context);
    ERR_clear_error();
    return bytes == NULL || len < 0 ? 0 : len;
}

Test(tls_staple, which_are_taken)
{
    static const answer_t answers[] = {
        {.what = "good"},
        {.what = "named by SHA-256", .sha256 = true},
        {.what = "by an appointed responder", .signer = &responder},
        {.what = "of another certificate", .about = &stranger, .told = "is not about our"},
        {.what = "of another authority's", .issuer = &other_ca, .told = "is not about our"},
        {.what = "by another authority",
         .signer = &other_ca,
         .told = "is not signed by the issuer"},
        {.what = "by nobody appointed", .signer = &impostor, .told = "is not signed by the issuer"},
        {.what = "revoked",
         .status = V_OCSP_CERTSTATUS_REVOKED,
         .told = "says that our certificate is revoked"},
        {.what = "unknown",
         .status = V_OCSP_CERTSTATUS_UNKNOWN,
         .told = "says that our certificate is unknown"},
        {.what = "without an end", .until_s = -1, .told = "until when it holds"},
        {.what = "of tomorrow", .from_s = DAY_S, .until_s = 2 * DAY_S, .told = "is not valid yet"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(answers); i++) {
        vd_tls_t *tls = NULL;
        vd_error_t err = VD_ERROR_INIT;
        write_answer(&answers[i]);
        int rc = make(ca_file, &tls, &err);
        cr_assert_eq(rc, answers[i].told == NULL ? VD_OK : VD_ERR_CONFIG, "%s: %s", answers[i].what,
                     err.message);
        if (rc == VD_OK)
            cr_assert_gt(given_to_client(tls), 0, "%s", answers[i].what);
        else
            cr_assert(strstr(err.message, answers[i].told) != NULL &&
                          strstr(err.message, ocsp_file) != NULL,
                      "%s: %s", answers[i].what, err.message);
        vd_tls_destroy(&tls);
    }
}

Test(tls_staple, what_is_none)
{
    static const char *const texts[] = {"", "no response", "0\x03\n\x01\x06" /* unauthorized */};
    vd_tls_t *tls = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(make(ca_file, &tls, &err), VD_ERR_CONFIG);
    cr_assert_not_null(strstr(err.message, ocsp_file));
    for (size_t i = 0; i < VD_COUNT_OF(texts); i++) {
        FILE *out = fopen(ocsp_file, "w");
        cr_assert_not_null(out);
        (void)fwrite(texts[i], 1, strlen(texts[i]), out);
        (void)fclose(out);
        vd_error_clear(&err);
        cr_assert_eq(make(ca_file, &tls, &err), VD_ERR_CONFIG, "%zu", i);
    }
    /* Whose issuer is not known can't be checked; it may stand behind the certificate. */
    answer_t good = {.what = "good"};
    write_answer(&good);
    vd_error_clear(&err);
    cr_assert_eq(make("", &tls, &err), VD_ERR_CONFIG);
    cr_assert_not_null(strstr(err.message, "can't be checked"), "%s", err.message);
    FILE *out = fopen(cert_file, "a");
    cr_assert_not_null(out);
    cr_assert_eq(PEM_write_X509(out, ca.certificate), 1);
    (void)fclose(out);
    cr_assert_eq(make("", &tls, &err), VD_OK, "%s", err.message);
    cr_assert_gt(given_to_client(tls), 0);
    vd_tls_destroy(&tls);
}

Test(tls_staple, never_after_its_end)
{
    vd_tls_t *tls = NULL;
    vd_error_t err = VD_ERROR_INIT;
    answer_t day = {.from_s = -60, .until_s = DAY_S - 60};
    bool soon;
    write_answer(&day);
    cr_assert_eq(make(ca_file, &tls, &err), VD_OK, "%s", err.message);
    cr_assert_gt(vd_tls_staple_expires_in_s(tls, &soon), DAY_S - 200);
    cr_assert_not(soon);
    ahead_s = DAY_S * 3 / 4 + 60;
    cr_assert_gt(vd_tls_staple_expires_in_s(tls, &soon), 0);
    cr_assert(soon);
    cr_assert_gt(given_to_client(tls), 0);
    ahead_s = DAY_S;
    cr_assert_lt(vd_tls_staple_expires_in_s(tls, &soon), 0);
    cr_assert(soon);
    cr_assert_eq(given_to_client(tls), 0);
    /* Read again it is refused by name, a new one is given out. */
    cr_assert_eq(vd_tls_reload(tls, &err), VD_ERR_CONFIG);
    cr_assert(strstr(err.message, "out of date") != NULL && strstr(err.message, ocsp_file) != NULL);
    day.until_s = 2 * DAY_S;
    write_answer(&day);
    cr_assert_eq(vd_tls_reload(tls, &err), VD_OK, "%s", err.message);
    cr_assert_gt(given_to_client(tls), 0);
    vd_tls_destroy(&tls);
    /* A start does without. */
    ahead_s = 3 * DAY_S;
    cr_assert_eq(make(ca_file, &tls, &err), VD_OK, "%s", err.message);
    cr_assert_eq(given_to_client(tls), 0);
    vd_tls_destroy(&tls);
}

Test(tls_staple, none_is_configured)
{
    vd_tls_t *tls = NULL;
    bool soon = true;
    vd_tls_options_t options = {
        .certificate_file = cert_file, .key_file = key_file, .server = true};
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_OK);
    cr_assert_eq(vd_tls_staple_expires_in_s(tls, &soon), INT64_MAX);
    cr_assert_not(soon);
    cr_assert_eq(given_to_client(tls), 0);
    vd_tls_destroy(&tls);
}
