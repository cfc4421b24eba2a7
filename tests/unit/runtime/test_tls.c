/* tests/unit/runtime/test_tls.c — handshakes in memory, with certificates made on the spot. */
#include "libcommon/runtime/tls.h"
#include "tests/support/certificates.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static char ca_file[96], cert_file[96], key_file[96], client_cert_file[96], client_key_file[96],
    other_key_file[96];

static void name_file(char *out, const char *name)
{
    (void)snprintf(out, 96, "%s/%s", folder, name);
}

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/vdtlsXXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    name_file(ca_file, "ca.pem");
    name_file(cert_file, "server.pem");
    name_file(key_file, "server.key");
    name_file(client_cert_file, "client.pem");
    name_file(client_key_file, "client.key");
    name_file(other_key_file, "other.key");
    EVP_PKEY *keys[4];
    for (int i = 0; i < 4; i++)
        keys[i] = EVP_EC_gen("P-256");
    X509 *ca = test_certificate("test ca", keys[0], &(test_certificate_t){.authority = true});
    test_certificate_t by_ca = {
        .issuer = ca, .issuer_key = keys[0], .names = "DNS:localhost,IP:127.0.0.1"};
    X509 *server = test_certificate("localhost", keys[1], &by_ca);
    X509 *client = test_certificate("client", keys[2], &by_ca);
    test_write_pem(ca_file, ca, NULL, NULL);
    test_write_pem(cert_file, server, NULL, NULL);
    test_write_pem(client_cert_file, client, NULL, NULL);
    test_write_pem(key_file, NULL, keys[1], NULL);
    test_write_pem(client_key_file, NULL, keys[2], NULL);
    test_write_pem(other_key_file, NULL, keys[3], NULL);
    X509_free(ca);
    X509_free(server);
    X509_free(client);
    for (int i = 0; i < 4; i++)
        EVP_PKEY_free(keys[i]);
}

static void teardown(void)
{
    char *files[] = {ca_file,          cert_file,       key_file,
                     client_cert_file, client_key_file, other_key_file};
    for (size_t i = 0; i < VD_COUNT_OF(files); i++)
        (void)unlink(files[i]);
    (void)rmdir(folder);
}

TestSuite(tls, .init = setup, .fini = teardown, .timeout = 300);

static vd_tls_options_t server_options(void)
{
    return (vd_tls_options_t){
        .certificate_file = cert_file, .key_file = key_file, .ca_file = ca_file, .server = true};
}

static vd_tls_options_t client_options(void)
{
    return (vd_tls_options_t){.ca_file = ca_file, .verify = 2, .expected_name = "localhost"};
}

static vd_tls_t *make(vd_tls_options_t options)
{
    vd_tls_t *tls = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_tls_create(&options, &tls, &err), VD_OK, "%s", err.message);
    return tls;
}

static void join(SSL *a, SSL *b)
{
    BIO *left = NULL, *right = NULL;
    cr_assert_eq(BIO_new_bio_pair(&left, 0, &right, 0), 1);
    SSL_set_bio(a, left, left);
    SSL_set_bio(b, right, right);
}

/* Both sides in turn until both are through or one refuses. */
static bool shake(SSL *client, SSL *server)
{
    for (int i = 0; i < 50; i++) {
        int c = SSL_do_handshake(client), s = SSL_do_handshake(server);
        if (c == 1 && s == 1)
            return true;
        int ce = c == 1 ? SSL_ERROR_NONE : SSL_get_error(client, c);
        int se = s == 1 ? SSL_ERROR_NONE : SSL_get_error(server, s);
        if (ce == SSL_ERROR_SSL || se == SSL_ERROR_SSL)
            return false;
    }
    return false;
}

static bool talk(SSL *client, SSL *server)
{
    char got[8] = {0};
    return SSL_write(client, "ping", 4) == 4 && SSL_read(server, got, 8) == 4 &&
           memcmp(got, "ping", 4) == 0 && SSL_write(server, "pong", 4) == 4 &&
           SSL_read(client, got, 8) == 4 && memcmp(got, "pong", 4) == 0;
}

static bool meet(vd_tls_t *client_tls, vd_tls_t *server_tls)
{
    SSL *client = NULL, *server = NULL;
    cr_assert_eq(vd_tls_ssl_new(client_tls, -1, &client, NULL), VD_OK);
    cr_assert_eq(vd_tls_ssl_new(server_tls, -1, &server, NULL), VD_OK);
    join(client, server);
    bool good = shake(client, server) && talk(client, server);
    SSL_free(client);
    SSL_free(server);
    return good;
}

Test(tls, client_and_server)
{
    vd_tls_t *server = make(server_options()), *client = make(client_options());
    cr_assert(meet(client, server));
    int64_t left = vd_tls_expires_in_s(server);
    cr_assert(left > 9 * 86400 && left <= 10 * 86400);
    vd_tls_options_t by_address = client_options();
    by_address.expected_name = "127.0.0.1";
    vd_tls_t *other = make(by_address);
    cr_assert(meet(other, server));
    vd_tls_destroy(&other);
    vd_tls_destroy(&client);
    vd_tls_destroy(&server);
    vd_tls_destroy(&server);
}

Test(tls, a_wrong_name_is_refused)
{
    static const char *const names[] = {"example.org", "127.0.0.2", "local"};
    vd_tls_t *server = make(server_options());
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        vd_tls_options_t options = client_options();
        options.expected_name = names[i];
        vd_tls_t *client = make(options);
        cr_assert_not(meet(client, server), "%s", names[i]);
        vd_tls_destroy(&client);
    }
    vd_tls_destroy(&server);
}

Test(tls, client_certificates)
{
    static const struct {
        int verify;
        bool shown, good;
    } cases[] = {
        {0, false, true}, {1, false, true}, {1, true, true}, {2, false, false}, {2, true, true}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_tls_options_t options = server_options(), mine = client_options();
        options.verify = cases[i].verify;
        if (cases[i].shown)
            mine.certificate_file = client_cert_file, mine.key_file = client_key_file;
        vd_tls_t *server = make(options), *client = make(mine);
        cr_assert_eq(meet(client, server), cases[i].good, "case %zu", i);
        vd_tls_destroy(&client);
        vd_tls_destroy(&server);
    }
}

Test(tls, old_versions_and_weak_suites_are_refused)
{
    static const struct {
        int version;
        const char *suites;
        bool tls13_only, good;
    } cases[] = {
        {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", false, true},
        {TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384", false, true},
        {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA256", false, false}, /* CBC */
        {TLS1_2_VERSION, "AES128-GCM-SHA256", false, false},         /* no forward secrecy */
        {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", true, false},
        {TLS1_1_VERSION, "ALL:@SECLEVEL=0", false, false},
        {TLS1_VERSION, "ALL:@SECLEVEL=0", false, false},
        {TLS1_3_VERSION, NULL, true, true},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_tls_options_t options = server_options();
        options.tls13_only = cases[i].tls13_only;
        vd_tls_t *server_tls = make(options);
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_security_level(context, 0);
        cr_assert_eq(SSL_CTX_set_min_proto_version(context, cases[i].version), 1);
        cr_assert_eq(SSL_CTX_set_max_proto_version(context, cases[i].version), 1);
        if (cases[i].suites != NULL)
            cr_assert_eq(SSL_CTX_set_cipher_list(context, cases[i].suites), 1);
        SSL *client = SSL_new(context), *server = NULL;
        SSL_set_connect_state(client);
        cr_assert_eq(vd_tls_ssl_new(server_tls, -1, &server, NULL), VD_OK);
        join(client, server);
        cr_assert_eq(shake(client, server), cases[i].good, "case %zu", i);
        SSL_free(client);
        SSL_free(server);
        SSL_CTX_free(context);
        vd_tls_destroy(&server_tls);
    }
}

Test(tls, bad_files_are_refused_by_name)
{
    vd_tls_t *tls = NULL;
    vd_error_t err = VD_ERROR_INIT;
    vd_tls_options_t options = server_options();
    static const mode_t modes[] = {0640, 0604, 0644, 0620, 0601};
    for (size_t i = 0; i < VD_COUNT_OF(modes); i++) {
        vd_error_clear(&err);
        cr_assert_eq(chmod(key_file, modes[i]), 0);
        cr_assert_eq(vd_tls_create(&options, &tls, &err), VD_ERR_CONFIG);
        cr_assert_not_null(strstr(err.message, key_file), "%s", err.message);
    }
    cr_assert_eq(chmod(key_file, 0400), 0);
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_OK);
    vd_tls_destroy(&tls);

    options.key_file = other_key_file;
    vd_error_clear(&err);
    cr_assert_eq(vd_tls_create(&options, &tls, &err), VD_ERR_CONFIG);
    options = server_options();
    options.key_file = cert_file;
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_ERR_CONFIG);
    options = server_options();
    options.certificate_file = key_file;
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_ERR_CONFIG);
    options.certificate_file = "";
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_ERR_CONFIG);
    options = server_options();
    options.key_file = "";
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_ERR_CONFIG);
    options = server_options();
    options.ca_file = "/no/such.pem";
    vd_error_clear(&err);
    cr_assert_eq(vd_tls_create(&options, &tls, &err), VD_ERR_CONFIG);
    cr_assert_not_null(strstr(err.message, "/no/such.pem"), "%s", err.message);
    options.ca_file = "";
    options.verify = 1;
    cr_assert_eq(vd_tls_create(&options, &tls, NULL), VD_ERR_CONFIG);
    cr_assert_null(tls);
}

Test(tls, reload)
{
    vd_tls_t *server = make(server_options()), *client = make(client_options());
    SSL_CTX *before = vd_tls_context(server);
    cr_assert_eq(chmod(key_file, 0644), 0);
    cr_assert_eq(vd_tls_reload(server, NULL), VD_ERR_CONFIG);
    cr_assert_eq(vd_tls_context(server), before, "the old stays in force");
    cr_assert(meet(client, server));
    cr_assert_eq(chmod(key_file, 0600), 0);
    SSL *live = NULL;
    cr_assert_eq(vd_tls_ssl_new(server, -1, &live, NULL), VD_OK);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(vd_tls_reload(server, NULL), VD_OK);
    cr_assert_eq(SSL_get_SSL_CTX(live), before, "a live connection keeps its own");
    SSL_free(live);
    cr_assert(meet(client, server));
    vd_tls_destroy(&client);
    vd_tls_destroy(&server);
}
