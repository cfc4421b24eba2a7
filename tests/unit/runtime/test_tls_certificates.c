/* tests/unit/runtime/test_tls_certificates.c — every fault that a certificate can have, shown to us
 * by a client and by a server, and in our own file: each is refused, and named. */
#include "libcommon/runtime/tls.h"
#include "tests/support/certificates.h"

#include <criterion/criterion.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum { BY_CA, BY_ITSELF, BY_OTHER_CA } issuer_t;

typedef struct {
    const char *what;
    issuer_t issuer;
    int begins_s, ends_s; /* from now; both 0: an hour ago, in ten days */
    int rsa_bits;         /* 0: P-256 */
    bool sha1, revoked;
    const char *usage; /* extendedKeyUsage; NULL: none */
    const char *told;  /* what vd_tls_failure says; NULL: it is accepted */
} fault_t;

static char folder[64], ca_file[96], crl_file[96], cert_file[96], key_file[96];
static EVP_PKEY *ca_key, *other_key;
static X509 *ca, *other_ca;
static X509_CRL *crl;

static X509 *issue(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
                   const fault_t *fault)
{
    return test_certificate(name, key,
                            &(test_certificate_t){.issuer = issuer,
                                                  .issuer_key = issuer_key,
                                                  .begins_s = fault->begins_s,
                                                  .ends_s = fault->ends_s,
                                                  .sha1 = fault->sha1,
                                                  .names = "DNS:localhost,IP:127.0.0.1",
                                                  .usage = fault->usage});
}

/* Signed anew, with what is on it. */
static void write_crl(int ends_s)
{
    ASN1_TIME *now = X509_gmtime_adj(NULL, -2 * 86400), *until = X509_gmtime_adj(NULL, ends_s);
    (void)X509_CRL_set_version(crl, 1);
    (void)X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca));
    (void)X509_CRL_set1_lastUpdate(crl, now);
    (void)X509_CRL_set1_nextUpdate(crl, until);
    ASN1_TIME_free(now);
    ASN1_TIME_free(until);
    cr_assert_gt(X509_CRL_sign(crl, ca_key, EVP_sha256()), 0);
    test_write_pem(crl_file, NULL, NULL, crl);
}

static void put_on_list(X509 *certificate)
{
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_TIME *when = X509_gmtime_adj(NULL, -60);
    (void)X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(certificate));
    (void)X509_REVOKED_set_revocationDate(entry, when);
    ASN1_TIME_free(when);
    cr_assert_eq(X509_CRL_add0_revoked(crl, entry), 1);
    write_crl(86400);
}

static void setup(void)
{
    static const fault_t none = {.what = ""};
    (void)snprintf(folder, sizeof folder, "/tmp/vdcertXXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(ca_file, sizeof ca_file, "%s/ca.pem", folder);
    (void)snprintf(crl_file, sizeof crl_file, "%s/crl.pem", folder);
    (void)snprintf(cert_file, sizeof cert_file, "%s/own.pem", folder);
    (void)snprintf(key_file, sizeof key_file, "%s/own.key", folder);
    ca_key = EVP_EC_gen("P-256"), other_key = EVP_EC_gen("P-256");
    ca = test_certificate("authority", ca_key, &(test_certificate_t){.authority = true});
    other_ca =
        test_certificate("other authority", other_key, &(test_certificate_t){.authority = true});
    crl = X509_CRL_new();
    test_write_pem(ca_file, ca, NULL, NULL);
    write_crl(86400);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *own = issue("localhost", key, ca, ca_key, &none);
    test_write_pem(cert_file, own, NULL, NULL);
    test_write_pem(key_file, NULL, key, NULL);
    X509_free(own);
    EVP_PKEY_free(key);
}

static void teardown(void)
{
    const char *files[] = {ca_file, crl_file, cert_file, key_file};
    for (size_t i = 0; i < VD_COUNT_OF(files); i++)
        (void)unlink(files[i]);
    (void)rmdir(folder);
    X509_free(ca);
    X509_free(other_ca);
    X509_CRL_free(crl);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(other_key);
}

TestSuite(tls_certificates, .init = setup, .fini = teardown, .timeout = 300);

static void make_faulty(const fault_t *fault, X509 **ret_certificate, EVP_PKEY **ret_key)
{
    *ret_key = fault->rsa_bits != 0 ? EVP_RSA_gen((unsigned)fault->rsa_bits) : EVP_EC_gen("P-256");
    X509 *issuer = fault->issuer == BY_CA ? ca : fault->issuer == BY_OTHER_CA ? other_ca : NULL;
    EVP_PKEY *issuer_key = fault->issuer == BY_CA         ? ca_key
                           : fault->issuer == BY_OTHER_CA ? other_key
                                                          : *ret_key;
    *ret_certificate = issue("peer", *ret_key, issuer, issuer_key, fault);
    if (fault->revoked)
        put_on_list(*ret_certificate);
}

/* Somebody who checks nothing and shows what we would not load. */
static SSL *careless(bool server, X509 *certificate, EVP_PKEY *key, SSL_CTX **ret_context)
{
    SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    SSL_CTX_set_security_level(context, 0);
    cr_assert_eq(SSL_CTX_use_certificate(context, certificate), 1);
    cr_assert_eq(SSL_CTX_use_PrivateKey(context, key), 1);
    SSL *ssl = SSL_new(context);
    if (server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    *ret_context = context;
    return ssl;
}

static vd_tls_t *make(bool server)
{
    vd_tls_t *tls = NULL;
    vd_error_t err = VD_ERROR_INIT;
    vd_tls_options_t options = {.certificate_file = cert_file,
                                .key_file = key_file,
                                .ca_file = ca_file,
                                .crl_file = crl_file,
                                .server = server,
                                .verify = 2,
                                .expected_name = server ? NULL : "localhost"};
    cr_assert_eq(vd_tls_create(&options, &tls, &err), VD_OK, "%s", err.message);
    return tls;
}

/* True: both are through. Else `why` is what ours says. */
static bool meet(SSL *ours, SSL *theirs, char *why, size_t size)
{
    BIO *left = NULL, *right = NULL;
    cr_assert_eq(BIO_new_bio_pair(&left, 0, &right, 0), 1);
    SSL_set_bio(ours, left, left);
    SSL_set_bio(theirs, right, right);
    for (int i = 0; i < 50; i++) {
        int t = SSL_do_handshake(theirs);
        ERR_clear_error();
        int o = SSL_do_handshake(ours);
        if (o != 1 && SSL_get_error(ours, o) == SSL_ERROR_SSL) {
            (void)vd_tls_failure(ours, why, size);
            return false;
        }
        if (t == 1 && o == 1)
            return true;
    }
    (void)snprintf(why, size, "no end");
    return false;
}

static const fault_t faults[] = {
    {.what = "good"},
    {.what = "good, both usages", .usage = "serverAuth,clientAuth"},
    {.what = "expired", .begins_s = -7200, .ends_s = -3600, .told = "certificate has expired"},
    {.what = "not yet", .begins_s = 3600, .ends_s = 7200, .told = "certificate is not yet valid"},
    {.what = "self-signed", .issuer = BY_ITSELF, .told = "self-signed certificate"},
    {.what = "wrong authority",
     .issuer = BY_OTHER_CA,
     .told = "unable to get local issuer certificate"},
    {.what = "revoked", .revoked = true, .told = "certificate revoked"},
    {.what = "weak key", .rsa_bits = 1024, .told = "EE certificate key too weak"},
    {.what = "strong RSA", .rsa_bits = 2048},
    {.what = "SHA-1", .sha1 = true, .told = "CA signature digest algorithm too weak"},
    {.what = "wrong usage", .usage = "codeSigning", .told = "unsuitable certificate purpose"},
};

static void show_all(bool by_server)
{
    char why[256];
    for (size_t i = 0; i < VD_COUNT_OF(faults); i++) {
        X509 *certificate;
        EVP_PKEY *key;
        SSL_CTX *context;
        SSL *ours = NULL;
        make_faulty(&faults[i], &certificate, &key);
        vd_tls_t *tls = make(!by_server);
        SSL *theirs = careless(by_server, certificate, key, &context);
        cr_assert_eq(vd_tls_ssl_new(tls, -1, &ours, NULL), VD_OK);
        bool good = meet(ours, theirs, why, sizeof why);
        cr_assert_eq(good, faults[i].told == NULL, "%s: %s", faults[i].what, good ? "let in" : why);
        if (!good)
            cr_assert_not_null(strstr(why, faults[i].told), "%s: %s", faults[i].what, why);
        SSL_free(ours);
        SSL_free(theirs);
        SSL_CTX_free(context);
        vd_tls_destroy(&tls);
        X509_free(certificate);
        EVP_PKEY_free(key);
    }
}

Test(tls_certificates, shown_by_a_client)
{
    show_all(false);
}

Test(tls_certificates, shown_by_a_server)
{
    show_all(true);
}

Test(tls_certificates, a_usage_is_for_one_side)
{
    static const struct {
        bool by_server;
        const char *usage;
    } cases[] = {{true, "clientAuth"}, {false, "serverAuth"}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        fault_t fault = {.what = "", .usage = cases[i].usage};
        char why[256];
        X509 *certificate;
        EVP_PKEY *key;
        SSL_CTX *context;
        SSL *ours = NULL;
        make_faulty(&fault, &certificate, &key);
        vd_tls_t *tls = make(!cases[i].by_server);
        SSL *theirs = careless(cases[i].by_server, certificate, key, &context);
        cr_assert_eq(vd_tls_ssl_new(tls, -1, &ours, NULL), VD_OK);
        cr_assert_not(meet(ours, theirs, why, sizeof why));
        cr_assert_not_null(strstr(why, "unsuitable certificate purpose"), "%s", why);
        SSL_free(ours);
        SSL_free(theirs);
        SSL_CTX_free(context);
        vd_tls_destroy(&tls);
        X509_free(certificate);
        EVP_PKEY_free(key);
    }
}

/* A list that is out of date may lack the newest revocation: it refuses everybody. */
Test(tls_certificates, revocation_on_open_connections)
{
    static const fault_t none = {.what = ""};
    char why[256];
    X509 *certificate;
    EVP_PKEY *key;
    SSL_CTX *context;
    SSL *ours = NULL;
    make_faulty(&none, &certificate, &key);
    vd_tls_t *tls = make(true);
    SSL *theirs = careless(false, certificate, key, &context);
    cr_assert_eq(vd_tls_ssl_new(tls, -1, &ours, NULL), VD_OK);
    cr_assert(meet(ours, theirs, why, sizeof why), "%s", why);
    cr_assert(vd_tls_still_trusts(tls, ours));
    int64_t left = vd_tls_peer_expires_in_s(ours);
    cr_assert(left > 9 * 86400 && left <= 10 * 86400);
    put_on_list(certificate);
    cr_assert(vd_tls_still_trusts(tls, ours), "the list is read with a reload");
    cr_assert_eq(vd_tls_reload(tls, NULL), VD_OK);
    cr_assert_not(vd_tls_still_trusts(tls, ours));
    SSL_free(ours);
    SSL_free(theirs);

    write_crl(-3600);
    cr_assert_eq(vd_tls_reload(tls, NULL), VD_OK);
    theirs = SSL_new(context);
    SSL_set_connect_state(theirs);
    cr_assert_eq(vd_tls_ssl_new(tls, -1, &ours, NULL), VD_OK);
    cr_assert_not(meet(ours, theirs, why, sizeof why));
    cr_assert_not_null(strstr(why, "CRL has expired"), "%s", why);
    SSL_free(ours);
    SSL_free(theirs);
    SSL_CTX_free(context);
    vd_tls_destroy(&tls);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

Test(tls_certificates, our_own)
{
    static const struct {
        fault_t fault;
        const char *told;
    } cases[] = {
        {{.begins_s = -7200, .ends_s = -3600}, "has expired"},
        {{.begins_s = 3600, .ends_s = 7200}, "is not valid yet"},
        {{.usage = "clientAuth"}, "is not made for a TLS server"},
        {{.rsa_bits = 1024}, "ee key too small"},
        {{.sha1 = true}, "ca md too weak"},
        {{.usage = "serverAuth"}, NULL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        X509 *certificate;
        EVP_PKEY *key;
        vd_tls_t *tls = NULL;
        vd_error_t err = VD_ERROR_INIT;
        make_faulty(&cases[i].fault, &certificate, &key);
        test_write_pem(cert_file, certificate, NULL, NULL);
        test_write_pem(key_file, NULL, key, NULL);
        vd_tls_options_t options = {
            .certificate_file = cert_file, .key_file = key_file, .server = true};
        int rc = vd_tls_create(&options, &tls, &err);
        cr_assert_eq(rc, cases[i].told == NULL ? VD_OK : VD_ERR_CONFIG, "%zu: %s", i, err.message);
        if (rc != VD_OK) {
            cr_assert_not_null(strstr(err.message, cases[i].told), "%zu: %s", i, err.message);
            cr_assert_not_null(strstr(err.message, cert_file), "%zu: %s", i, err.message);
        }
        vd_tls_destroy(&tls);
        X509_free(certificate);
        EVP_PKEY_free(key);
    }
}

Test(tls_certificates, lists_and_suites_of_the_configuration)
{
    vd_tls_options_t good = {.certificate_file = cert_file,
                             .key_file = key_file,
                             .ca_file = ca_file,
                             .server = true,
                             .verify = 1};
    static const struct {
        const char *crl, *suites, *told;
        int verify;
    } cases[] = {
        {"/no/such.pem", "", "/no/such.pem", 1},
        {NULL, "", "of no use", 0},
        {"", "AES128-SHA", "AES128-SHA is not one", 1},
        {"", "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", "is not one", 1},
        {"", "ALL", "ALL is not one", 1},
        {"", "ECDHE-ECDSA-AES128-GCM-SHA256", "must keep one of TLS 1.3", 1},
        {"", "TLS_AES_128_GCM_SHA256", NULL, 1},
        {"", "TLS_AES_256_GCM_SHA384,ECDHE-ECDSA-AES256-GCM-SHA384", NULL, 1},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_tls_t *tls = NULL;
        vd_error_t err = VD_ERROR_INIT;
        vd_tls_options_t options = good;
        options.crl_file = cases[i].crl == NULL ? crl_file : cases[i].crl;
        options.suites = cases[i].suites;
        options.verify = cases[i].verify;
        int rc = vd_tls_create(&options, &tls, &err);
        cr_assert_eq(rc, cases[i].told == NULL ? VD_OK : VD_ERR_CONFIG, "%zu: %s", i, err.message);
        if (rc != VD_OK)
            cr_assert_not_null(strstr(err.message, cases[i].told), "%zu: %s", i, err.message);
        vd_tls_destroy(&tls);
    }
}
