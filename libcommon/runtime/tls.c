/* libcommon/runtime/tls.c — see tls.h. */
#include "libcommon/runtime/tls.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"
#include "libcommon/runtime/tls_staple.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* In the order of our preference. Those of TLS 1.3 begin with TLS_. */
static const char *const suites[] = {
    "TLS_AES_128_GCM_SHA256",       "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",  "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",  "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
};
#define PEM_FILE_MAX_BYTES (4u << 20)
static const char groups[] = "X25519:P-256:P-384";
static const unsigned char session_context[] = "veddb";

struct vd_tls {
    char *certificate_file, *key_file, *ca_file, *crl_file, *ocsp_file, *expected_name;
    char suites_12[VD_TLS_SUITES_MAX], suites_13[VD_TLS_SUITES_MAX]; /* either may be empty */
    bool server, tls13_only;
    int verify;
    pthread_mutex_t mutex; /* over the two below */
    SSL_CTX *current;
    SSL_CTX *before; /* kept for those who borrowed it, until the next reload */
};

/* OpenSSL's queue of errors as one message. */
static int tls_error(vd_error_t *err, int code, const char *what)
{
    unsigned long first = ERR_get_error(); /* the oldest is the cause */
    const char *reason = first == 0 ? NULL : ERR_reason_error_string(first);
    ERR_clear_error();
    return vd_error_set(err, code, "%s: %s", what, reason == NULL ? "no reason given" : reason);
}

static bool is_set(const char *text)
{
    return text != NULL && text[0] != '\0';
}

/* A key with a passphrase must not make the process ask at a terminal. */
static int no_passphrase(char *buf, int size, int writing, void *context)
{
    (void)buf, (void)size, (void)writing, (void)context;
    return -1;
}

static int load_key(SSL_CTX *context, const char *file, vd_error_t *err)
{
    int fd = vd_files_open(file);
    if (fd < 0)
        return vd_error_set_errno(err, "private key %s", file);
    int rc = VD_OK;
    BIO *bio = NULL;
    EVP_PKEY *key = NULL;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        rc = vd_error_set_errno(err, "private key %s", file);
        goto cleanup;
    }
    if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "private key %s is open to other users (mode %03o)",
                          file, (unsigned)(st.st_mode & 0777));
        goto cleanup;
    }
    bio = BIO_new_fd(fd, BIO_NOCLOSE);
    key = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    if (key == NULL || SSL_CTX_use_PrivateKey(context, key) != 1) {
        rc = tls_error(err, VD_ERR_CONFIG, "private key");
        (void)vd_error_prefix(err, "%s", file);
    }
cleanup:
    EVP_PKEY_free(key);
    BIO_free(bio);
    (void)close(fd);
    return rc;
}

/* Valid now, and made for what we use it for. */
static int check_own(const vd_tls_t *tls, SSL_CTX *context, vd_error_t *err)
{
    X509 *certificate = SSL_CTX_get0_certificate(context);
    const char *file = tls->certificate_file;
    if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0)
        return vd_error_set(err, VD_ERR_CONFIG, "certificate %s is not valid yet", file);
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        return vd_error_set(err, VD_ERR_CONFIG, "certificate %s has expired", file);
    int purpose = tls->server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT;
    if (X509_check_purpose(certificate, purpose, 0) != 1)
        return vd_error_set(err, VD_ERR_CONFIG, "certificate %s is not made for a TLS %s", file,
                            tls->server ? "server" : "client");
    return VD_OK;
}

/* What a PEM file has, as a BIO over bytes (the caller frees it; *text is its memory). */
static int pem_open(const char *file, const char *what, vd_buf_t *text, BIO **ret_bio,
                    vd_error_t *err)
{
    vd_buf_init(text, PEM_FILE_MAX_BYTES);
    int rc = vd_files_read(file, text, err);
    if (rc != VD_OK)
        return vd_error_prefix(err, "%s", what), VD_ERR_CONFIG;
    BIO *bio = BIO_new_mem_buf(text->data + text->start, (int)vd_buf_len(text));
    if (bio == NULL)
        return tls_error(err, VD_ERR_NO_MEMORY, what);
    *ret_bio = bio;
    return VD_OK;
}

/* The end of a list of PEM objects is OpenSSL's "no start line", and nothing else. */
static bool pem_ended(void)
{
    unsigned long last = ERR_peek_last_error();
    bool ended = ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    if (ended)
        ERR_clear_error();
    return ended;
}

static int load_chain(SSL_CTX *context, const char *file, vd_error_t *err)
{
    vd_buf_t text;
    BIO *bio = NULL;
    int rc = pem_open(file, "certificate", &text, &bio, err);
    X509 *certificate = rc == VD_OK ? PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL) : NULL;
    bool good = certificate != NULL && SSL_CTX_use_certificate(context, certificate) == 1 &&
                SSL_CTX_clear_chain_certs(context) == 1;
    X509_free(certificate);
    while (good && (certificate = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL)
        if (SSL_CTX_add0_chain_cert(context, certificate) != 1) {
            X509_free(certificate);
            good = false;
        }
    if (rc == VD_OK && (!good || !pem_ended())) {
        rc = tls_error(err, VD_ERR_CONFIG, "certificate");
        (void)vd_error_prefix(err, "%s", file);
    }
    BIO_free(bio);
    vd_buf_done(&text);
    return rc;
}

static int load_authorities(const vd_tls_t *tls, SSL_CTX *context, vd_error_t *err)
{
    vd_buf_t text;
    BIO *bio = NULL;
    X509 *certificate;
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    int count = 0, rc = pem_open(tls->ca_file, "certificate authorities", &text, &bio, err);
    bool good = rc == VD_OK;
    while (good && (certificate = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL)) != NULL) {
        good = X509_STORE_add_cert(store, certificate) == 1;
        if (good && tls->server && tls->verify > 0)
            good = SSL_CTX_add_client_CA(context, certificate) == 1; /* its name, copied */
        X509_free(certificate);
        count++;
    }
    if (rc == VD_OK && (!good || count == 0 || !pem_ended())) {
        rc = tls_error(err, VD_ERR_CONFIG, "certificate authorities");
        (void)vd_error_prefix(err, "%s", tls->ca_file);
    }
    BIO_free(bio);
    vd_buf_done(&text);
    return rc;
}

static int load_crl(const vd_tls_t *tls, SSL_CTX *context, vd_error_t *err)
{
    static const char what[] = "list of revoked certificates";
    vd_buf_t text;
    BIO *bio = NULL;
    X509_CRL *list;
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    int count = 0, rc = pem_open(tls->crl_file, what, &text, &bio, err);
    bool good = rc == VD_OK;
    while (good && (list = PEM_read_bio_X509_CRL(bio, NULL, no_passphrase, NULL)) != NULL) {
        good = X509_STORE_add_crl(store, list) == 1;
        X509_CRL_free(list);
        count++;
    }
    if (rc == VD_OK && (!good || count == 0 || !pem_ended() ||
                        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) != 1)) {
        rc = tls_error(err, VD_ERR_CONFIG, what);
        (void)vd_error_prefix(err, "%s", tls->crl_file);
    }
    BIO_free(bio);
    vd_buf_done(&text);
    return rc;
}

static int load_files(const vd_tls_t *tls, SSL_CTX *context, vd_error_t *err)
{
    int rc = VD_OK;
    if (is_set(tls->certificate_file)) {
        rc = load_chain(context, tls->certificate_file, err);
        if (rc == VD_OK)
            rc = load_key(context, tls->key_file, err);
        if (rc != VD_OK)
            return rc;
        if (SSL_CTX_check_private_key(context) != 1) {
            ERR_clear_error();
            return vd_error_set(err, VD_ERR_CONFIG,
                                "private key %s doesn't belong to certificate %s", tls->key_file,
                                tls->certificate_file);
        }
        rc = check_own(tls, context, err);
        if (rc != VD_OK)
            return rc;
    }
    if (is_set(tls->ca_file))
        rc = load_authorities(tls, context, err);
    if (rc == VD_OK && is_set(tls->crl_file))
        rc = load_crl(tls, context, err);
    return rc == VD_OK && is_set(tls->ocsp_file) ? vd_tls_staple_load(context, tls->ocsp_file, err)
                                                 : rc;
}

static void suite_add(size_t i, char text_12[VD_TLS_SUITES_MAX], char text_13[VD_TLS_SUITES_MAX])
{
    char *text = strncmp(suites[i], "TLS_", 4) == 0 ? text_13 : text_12;
    size_t len = strlen(text);
    (void)snprintf(text + len, VD_TLS_SUITES_MAX - len, "%s%s", len == 0 ? "" : ":", suites[i]);
}

void vd_tls_suites(char ret_12[VD_TLS_SUITES_MAX], char ret_13[VD_TLS_SUITES_MAX])
{
    ret_12[0] = ret_13[0] = '\0';
    for (size_t i = 0; i < VD_COUNT_OF(suites); i++)
        suite_add(i, ret_12, ret_13);
    size_t len = strlen(ret_12);
    (void)snprintf(ret_12 + len, VD_TLS_SUITES_MAX - len, ":@SECLEVEL=2");
}

/* The policy's suites, or those of them that the list names: there is no way to add a weaker one.
 */
static int choose_suites(vd_tls_t *tls, const char *list, vd_error_t *err)
{
    bool chosen[VD_COUNT_OF(suites)] = {false};
    bool all = !is_set(list);
    for (const char *at = list; !all && *at != '\0';) {
        size_t len = strcspn(at, ","), i = 0;
        while (i < VD_COUNT_OF(suites) &&
               (strlen(suites[i]) != len || strncmp(suites[i], at, len) != 0))
            i++;
        if (i == VD_COUNT_OF(suites))
            return vd_error_set(err, VD_ERR_CONFIG,
                                "tls.suites: %.*s is not one of those that are offered",
                                (int)(len < 64 ? len : 64), at);
        chosen[i] = true;
        at += len;
        at += *at == ',';
    }
    for (size_t i = 0; i < VD_COUNT_OF(suites); i++) {
        if (all || chosen[i])
            suite_add(i, tls->suites_12, tls->suites_13);
    }
    if (tls->suites_13[0] == '\0')
        return vd_error_set(err, VD_ERR_CONFIG, "tls.suites must keep one of TLS 1.3");
    return VD_OK;
}

static int set_policy(const vd_tls_t *tls, SSL_CTX *context, vd_error_t *err)
{
    SSL_CTX_set_security_level(context, 2);
    bool only_13 = tls->tls13_only || tls->suites_12[0] == '\0';
    int version = only_13 ? TLS1_3_VERSION : TLS1_2_VERSION;
    if (SSL_CTX_set_min_proto_version(context, version) != 1 ||
        SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
        (!only_13 && SSL_CTX_set_cipher_list(context, tls->suites_12) != 1) ||
        SSL_CTX_set_ciphersuites(context, tls->suites_13) != 1 ||
        SSL_CTX_set1_groups_list(context, groups) != 1)
        return tls_error(err, VD_ERR_INTERNAL, "TLS policy");
    SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    if (tls->server) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* tickets alone */
        (void)SSL_CTX_set_num_tickets(context, 1);
        if (SSL_CTX_set_session_id_context(context, session_context, sizeof session_context - 1) !=
            1)
            return tls_error(err, VD_ERR_INTERNAL, "TLS session context");
    }
    int mode = SSL_VERIFY_NONE;
    if (tls->verify > 0)
        mode = SSL_VERIFY_PEER | (tls->verify > 1 ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
    SSL_CTX_set_verify(context, mode, NULL);
    return VD_OK;
}

static int make_context(const vd_tls_t *tls, SSL_CTX **ret_context, vd_error_t *err)
{
    SSL_CTX *context = SSL_CTX_new(tls->server ? TLS_server_method() : TLS_client_method());
    if (context == NULL)
        return tls_error(err, VD_ERR_NO_MEMORY, "TLS context");
    int rc = set_policy(tls, context, err);
    if (rc == VD_OK)
        rc = load_files(tls, context, err);
    if (rc != VD_OK) {
        SSL_CTX_free(context);
        return rc;
    }
    *ret_context = context;
    return VD_OK;
}

static char *copy_text(const char *text)
{
    return vd_xstrdup(text == NULL ? "" : text);
}

int vd_tls_create(const vd_tls_options_t *options, vd_tls_t **ret_tls, vd_error_t *err)
{
    VD_ASSERT(options != NULL && ret_tls != NULL);
    VD_ASSERT(options->verify >= 0 && options->verify <= 2);

    if (options->server && !is_set(options->certificate_file))
        return vd_error_set(err, VD_ERR_CONFIG, "tls.certificate_file is needed");
    if (is_set(options->certificate_file) != is_set(options->key_file))
        return vd_error_set(err, VD_ERR_CONFIG, "a certificate and its private key go together");
    if (options->verify > 0 && !is_set(options->ca_file))
        return vd_error_set(err, VD_ERR_CONFIG, "verifying certificates needs tls.ca_file");
    if (is_set(options->crl_file) && options->verify == 0)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "tls.crl_file is of no use while no certificate is asked for");
    if (is_set(options->ocsp_file) && !options->server)
        return vd_error_set(err, VD_ERR_CONFIG, "only servers staple an OCSP response");
    vd_tls_t *tls = vd_xalloc(sizeof *tls);
    tls->certificate_file = copy_text(options->certificate_file);
    tls->key_file = copy_text(options->key_file);
    tls->ca_file = copy_text(options->ca_file);
    tls->crl_file = copy_text(options->crl_file);
    tls->ocsp_file = copy_text(options->ocsp_file);
    tls->expected_name = copy_text(options->expected_name);
    tls->server = options->server;
    tls->tls13_only = options->tls13_only;
    tls->verify = options->verify;
    (void)pthread_mutex_init(&tls->mutex, NULL);
    int rc = choose_suites(tls, options->suites, err);
    if (rc == VD_OK)
        rc = make_context(tls, &tls->current, err);
    if (rc != VD_OK) {
        vd_tls_destroy(&tls);
        return rc;
    }
    *ret_tls = tls;
    return VD_OK;
}

void vd_tls_destroy(vd_tls_t **tls_p)
{
    vd_tls_t *tls = *tls_p;
    if (tls == NULL)
        return;
    *tls_p = NULL;
    SSL_CTX_free(tls->current);
    SSL_CTX_free(tls->before);
    (void)pthread_mutex_destroy(&tls->mutex);
    vd_free(tls->certificate_file);
    vd_free(tls->key_file);
    vd_free(tls->ca_file);
    vd_free(tls->crl_file);
    vd_free(tls->ocsp_file);
    vd_free(tls->expected_name);
    vd_free(tls);
}

int vd_tls_reload(vd_tls_t *tls, vd_error_t *err)
{
    VD_ASSERT(tls != NULL);

    SSL_CTX *fresh = NULL;
    bool soon;
    int rc = make_context(tls, &fresh, err);
    if (rc == VD_OK && vd_tls_staple_left_s(fresh, &soon) <= 0) {
        SSL_CTX_free(fresh);
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s is out of date", tls->ocsp_file);
    }
    if (rc != VD_OK)
        return rc;
    (void)pthread_mutex_lock(&tls->mutex);
    SSL_CTX *oldest = tls->before;
    tls->before = tls->current;
    tls->current = fresh;
    (void)pthread_mutex_unlock(&tls->mutex);
    SSL_CTX_free(oldest);
    return VD_OK;
}

SSL_CTX *vd_tls_context(vd_tls_t *tls)
{
    (void)pthread_mutex_lock(&tls->mutex);
    SSL_CTX *context = tls->current;
    (void)pthread_mutex_unlock(&tls->mutex);
    return context;
}

static bool expect_name(SSL *ssl, const char *name)
{
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(name);
    if (address != NULL) {
        ASN1_OCTET_STRING_free(address);
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    }
    ERR_clear_error();
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

int vd_tls_ssl_new(vd_tls_t *tls, int fd, SSL **ret_ssl, vd_error_t *err)
{
    VD_ASSERT(tls != NULL && ret_ssl != NULL);

    (void)pthread_mutex_lock(&tls->mutex);
    SSL *ssl = SSL_new(tls->current); /* takes a reference */
    (void)pthread_mutex_unlock(&tls->mutex);
    if (ssl == NULL || (fd >= 0 && SSL_set_fd(ssl, fd) != 1) ||
        (!tls->server && is_set(tls->expected_name) && !expect_name(ssl, tls->expected_name))) {
        SSL_free(ssl);
        return tls_error(err, VD_ERR_NO_MEMORY, "TLS connection");
    }
    if (tls->server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    *ret_ssl = ssl;
    return VD_OK;
}

static int64_t expires_in_s(const X509 *certificate)
{
    int days = 0, seconds = 0;
    if (certificate == NULL ||
        ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(certificate)) != 1)
        return INT64_MAX; /* no certificate: nothing expires */
    return (int64_t)days * 86400 + seconds;
}

int64_t vd_tls_expires_in_s(vd_tls_t *tls)
{
    VD_ASSERT(tls != NULL);

    (void)pthread_mutex_lock(&tls->mutex);
    int64_t left = expires_in_s(SSL_CTX_get0_certificate(tls->current));
    (void)pthread_mutex_unlock(&tls->mutex);
    return left;
}

int64_t vd_tls_staple_expires_in_s(vd_tls_t *tls, bool *ret_soon)
{
    VD_ASSERT(tls != NULL && ret_soon != NULL);

    (void)pthread_mutex_lock(&tls->mutex);
    int64_t left = vd_tls_staple_left_s(tls->current, ret_soon);
    (void)pthread_mutex_unlock(&tls->mutex);
    return left;
}

int64_t vd_tls_peer_expires_in_s(SSL *ssl)
{
    return expires_in_s(SSL_get0_peer_certificate(ssl));
}

bool vd_tls_still_trusts(vd_tls_t *tls, SSL *ssl)
{
    VD_ASSERT(tls != NULL && ssl != NULL);

    X509 *certificate = SSL_get0_peer_certificate(ssl);
    if (certificate == NULL)
        return true;
    (void)pthread_mutex_lock(&tls->mutex);
    SSL_CTX *context = tls->current;
    (void)SSL_CTX_up_ref(context);
    (void)pthread_mutex_unlock(&tls->mutex);
    X509_STORE_CTX *check = X509_STORE_CTX_new();
    bool good = check != NULL &&
                X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(context), certificate,
                                    SSL_get_peer_cert_chain(ssl)) == 1 &&
                X509_STORE_CTX_set_default(check, tls->server ? "ssl_client" : "ssl_server") == 1;
    if (good)
        X509_VERIFY_PARAM_set_auth_level(X509_STORE_CTX_get0_param(check),
                                         SSL_CTX_get_security_level(context));
    good = good && X509_verify_cert(check) == 1;
    X509_STORE_CTX_free(check);
    SSL_CTX_free(context);
    ERR_clear_error();
    return good;
}

const char *vd_tls_failure(const SSL *ssl, char *buf, size_t size)
{
    unsigned long reason = ERR_peek_last_error();
    const char *text = reason == 0 ? NULL : ERR_reason_error_string(reason);
    long verified = SSL_get_verify_result(ssl);
    if (verified != X509_V_OK && ERR_GET_REASON(reason) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        (void)snprintf(buf, size, "certificate refused: %s",
                       X509_verify_cert_error_string(verified));
    else
        (void)snprintf(buf, size, "%s", text == NULL ? "the connection ended" : text);
    return buf;
}
