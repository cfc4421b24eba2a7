/* tests/unit/replicad/test_etcd_tls.c — what replicad refuses of a server that says it is etcd:
 * each fault of its certificate, old versions, weak suites; and how it says so. */
#include "tests/support/certificates.h"
#include "veddb-replicad/etcd.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef enum { BY_CA, BY_ITSELF, BY_OTHER_CA } issuer_t;

typedef struct {
    const char *what;
    issuer_t issuer;
    int begins_s, ends_s; /* from now; both 0: an hour ago, in ten days */
    int rsa_bits;         /* 0: P-256 */
    bool sha1;
    const char *names, *usage; /* NULL: IP:127.0.0.1, serverAuth */
    int version;               /* the only one that it speaks; 0: whatever comes */
    const char *suites;        /* of TLS 1.2; NULL: all */
    const char *told;          /* NULL: it is believed */
} server_t;

static char folder[64], ca_file[96], cert_file[96], key_file[96];
static EVP_PKEY *ca_key, *other_key;
static X509 *ca, *other_ca;
static int listener;
static char endpoint[64];

static X509 *issue(const char *name, EVP_PKEY *key, const server_t *server)
{
    X509 *issuer = server->issuer == BY_ITSELF ? NULL : server->issuer == BY_CA ? ca : other_ca;
    return test_certificate(
        name, key,
        &(test_certificate_t){.issuer = issuer,
                              .issuer_key = issuer == ca ? ca_key : other_key,
                              .begins_s = server->begins_s,
                              .ends_s = server->ends_s,
                              .sha1 = server->sha1,
                              .names = server->names == NULL ? "IP:127.0.0.1" : server->names,
                              .usage = server->usage == NULL ? "serverAuth" : server->usage});
}

static void setup(void)
{
    static const server_t client = {.usage = "clientAuth"};
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof at;
    (void)snprintf(folder, sizeof folder, "/tmp/vdetcdtlsXXXXXX");
    (void)signal(SIGPIPE, SIG_IGN); /* as every program: what was closed may be written to */
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(ca_file, sizeof ca_file, "%s/ca.pem", folder);
    (void)snprintf(cert_file, sizeof cert_file, "%s/own.pem", folder);
    (void)snprintf(key_file, sizeof key_file, "%s/own.key", folder);
    ca_key = EVP_EC_gen("P-256"), other_key = EVP_EC_gen("P-256");
    ca = test_certificate("authority", ca_key, &(test_certificate_t){.authority = true});
    other_ca =
        test_certificate("other authority", other_key, &(test_certificate_t){.authority = true});
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *own = issue("node", key, &client);
    test_write_pem(ca_file, ca, NULL, NULL);
    test_write_pem(cert_file, own, NULL, NULL);
    test_write_pem(key_file, NULL, key, NULL);
    X509_free(own);
    EVP_PKEY_free(key);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(listener >= 0 && bind(listener, (struct sockaddr *)&at, sizeof at) == 0 &&
              listen(listener, 8) == 0 && getsockname(listener, (struct sockaddr *)&at, &len) == 0);
    (void)snprintf(endpoint, sizeof endpoint, "https://127.0.0.1:%u", ntohs(at.sin_port));
}

static void teardown(void)
{
    const char *files[] = {ca_file, cert_file, key_file};
    for (size_t i = 0; i < VD_COUNT_OF(files); i++)
        (void)unlink(files[i]);
    (void)rmdir(folder);
    (void)close(listener);
    X509_free(ca);
    X509_free(other_ca);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(other_key);
}

TestSuite(etcd_tls, .init = setup, .fini = teardown, .timeout = 300);

/* One connection to a server that minds nothing; true: somebody has asked it something. */
typedef struct {
    SSL_CTX *context;
    bool asked;
} serving_t;

static void *serve(void *context)
{
    static const char refusal[] = "HTTP/1.1 400 no\r\nContent-Length: 0\r\n\r\n";
    serving_t *serving = context;
    char text[512];
    int fd = accept(listener, NULL, NULL);
    SSL *ssl = SSL_new(serving->context);
    if (fd >= 0 && SSL_set_fd(ssl, fd) == 1 && SSL_accept(ssl) == 1)
        serving->asked = SSL_read(ssl, text, sizeof text) > 0;
    if (serving->asked)
        (void)SSL_write(ssl, refusal, sizeof refusal - 1);
    SSL_free(ssl);
    (void)close(fd);
    ERR_clear_error();
    return NULL;
}

static SSL_CTX *make_server(const server_t *server)
{
    EVP_PKEY *key =
        server->rsa_bits != 0 ? EVP_RSA_gen((unsigned)server->rsa_bits) : EVP_EC_gen("P-256");
    X509 *certificate = issue("etcd", key, server);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_security_level(context, 0);
    if (server->version != 0) {
        cr_assert_eq(SSL_CTX_set_min_proto_version(context, server->version), 1);
        cr_assert_eq(SSL_CTX_set_max_proto_version(context, server->version), 1);
    }
    cr_assert_eq(SSL_CTX_set_cipher_list(context, server->suites == NULL ? "ALL" : server->suites),
                 1);
    cr_assert_eq(SSL_CTX_use_certificate(context, certificate), 1);
    cr_assert_eq(SSL_CTX_use_PrivateKey(context, key), 1);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return context;
}

Test(etcd_tls, which_server_is_believed)
{
    static const server_t servers[] = {
        {.what = "good"},
        {.what = "good, TLS 1.2", .version = TLS1_2_VERSION},
        {.what = "expired", .begins_s = -7200, .ends_s = -3600, .told = "certificate has expired"},
        {.what = "not yet",
         .begins_s = 3600,
         .ends_s = 7200,
         .told = "certificate is not yet valid"},
        {.what = "of another address",
         .names = "IP:127.0.0.2,DNS:localhost",
         .told = "no alternative certificate subject name matches"},
        {.what = "wrong authority",
         .issuer = BY_OTHER_CA,
         .told = "unable to get local issuer certificate"},
        {.what = "self-signed", .issuer = BY_ITSELF, .told = "self-signed certificate"},
        {.what = "weak key", .rsa_bits = 1024, .told = "EE certificate key too weak"},
        {.what = "SHA-1", .sha1 = true, .told = "CA signature digest algorithm too weak"},
        {.what = "wrong usage", .usage = "clientAuth", .told = "unsuitable certificate purpose"},
        {.what = "TLS 1.0", .version = TLS1_VERSION, .told = "alert protocol version"},
        {.what = "TLS 1.1", .version = TLS1_1_VERSION, .told = "alert protocol version"},
        {.what = "CBC",
         .version = TLS1_2_VERSION,
         .suites = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384",
         .told = "handshake failure"},
        {.what = "without forward secrecy",
         .version = TLS1_2_VERSION,
         .rsa_bits = 2048,
         .suites = "AES128-GCM-SHA256:AES256-SHA",
         .told = "handshake failure"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(servers); i++) {
        repl_etcd_options_t options = {endpoint, ca_file, cert_file, key_file, "rs0", 20000};
        serving_t serving = {make_server(&servers[i]), false};
        repl_etcd_record_t record;
        repl_etcd_t *etcd = NULL;
        vd_error_t err = VD_ERROR_INIT;
        pthread_t thread;
        cr_assert_eq(repl_etcd_create(&options, &etcd, &err), VD_OK, "%s", err.message);
        cr_assert_eq(pthread_create(&thread, NULL, serve, &serving), 0);
        int rc = repl_etcd_read(etcd, &record, &err);
        (void)pthread_join(thread, NULL);
        const char *told = servers[i].told == NULL ? "(400)" : servers[i].told;
        cr_expect_eq(serving.asked, servers[i].told == NULL, "%s: %s", servers[i].what,
                     err.message);
        cr_expect_neq(rc, VD_OK);
        cr_expect_not_null(strstr(err.message, told), "%s: %s", servers[i].what, err.message);
        repl_etcd_destroy(&etcd);
        SSL_CTX_free(serving.context);
    }
}
