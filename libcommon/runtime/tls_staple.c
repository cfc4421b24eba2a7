/* libcommon/runtime/tls_staple.c — see tls_staple.h. */
#include "libcommon/runtime/tls_staple.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <time.h>

#define CLOCKS_APART_S 300 /* ours and the responder's */
#define SOON_PART      4

typedef struct {
    int64_t from_s, until_s; /* thisUpdate, nextUpdate; since 1970 */
    size_t len;
    uint8_t bytes[];
} staple_t;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int staple_index = -1;

static void staple_free(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long number,
                        void *context)
{
    (void)parent, (void)all, (void)index, (void)number, (void)context;
    vd_free(data);
}

static void make_index(void)
{
    staple_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, staple_free);
}

static const staple_t *staple_of(const SSL_CTX *context)
{
    return staple_index < 0 ? NULL : SSL_CTX_get_ex_data(context, staple_index);
}

/* ---- checks ---- */

static bool time_of(const ASN1_GENERALIZEDTIME *when, int64_t *ret_s)
{
    struct tm tm;
    if (when == NULL || ASN1_TIME_to_tm(when, &tm) != 1)
        return false;
    *ret_s = (int64_t)timegm(&tm);
    return true;
}

/* The caller frees it; NULL: it is not known. */
static X509 *issuer_of(SSL_CTX *context, X509 *certificate)
{
    STACK_OF(X509) *chain = NULL;
    (void)SSL_CTX_get0_chain_certs(context, &chain);
    for (int i = 0; i < sk_X509_num(chain); i++) {
        X509 *one = sk_X509_value(chain, i);
        if (X509_check_issued(one, certificate) == X509_V_OK && X509_up_ref(one) == 1)
            return one;
    }
    X509 *issuer = NULL;
    X509_STORE_CTX *look = X509_STORE_CTX_new();
    if (look != NULL &&
        X509_STORE_CTX_init(look, SSL_CTX_get_cert_store(context), certificate, NULL) == 1 &&
        X509_STORE_CTX_get1_issuer(&issuer, look, certificate) != 1)
        issuer = NULL;
    X509_STORE_CTX_free(look);
    return issuer;
}

static bool is_signed_for(OCSP_BASICRESP *response, X509 *issuer)
{
    X509_STORE *trusted = X509_STORE_new();
    STACK_OF(X509) *known = sk_X509_new_null();
    bool good = trusted != NULL && known != NULL && sk_X509_push(known, issuer) > 0 &&
                X509_STORE_add_cert(trusted, issuer) == 1 &&
                X509_STORE_set_flags(trusted, X509_V_FLAG_PARTIAL_CHAIN) == 1 &&
                OCSP_basic_verify(response, known, trusted, 0) == 1;
    sk_X509_free(known);
    X509_STORE_free(trusted);
    return good;
}

/* What it says about that certificate, whichever digest it names it by. */
static OCSP_SINGLERESP *single_of(OCSP_BASICRESP *response, X509 *certificate, X509 *issuer)
{
    for (int i = 0; i < OCSP_resp_count(response); i++) {
        OCSP_SINGLERESP *single = OCSP_resp_get0(response, i);
        const OCSP_CERTID *theirs = OCSP_SINGLERESP_get0_id(single);
        ASN1_OBJECT *digest = NULL;
        (void)OCSP_id_get0_info(NULL, &digest, NULL, NULL, (OCSP_CERTID *)(uintptr_t)theirs);
        const EVP_MD *md = EVP_get_digestbyobj(digest);
        OCSP_CERTID *ours = md == NULL ? NULL : OCSP_cert_to_id(md, certificate, issuer);
        bool same = ours != NULL && OCSP_id_cmp(ours, theirs) == 0;
        OCSP_CERTID_free(ours);
        if (same)
            return single;
    }
    return NULL;
}

static int check(SSL_CTX *context, OCSP_BASICRESP *response, const char *file, int64_t *ret_from_s,
                 int64_t *ret_until_s, vd_error_t *err)
{
    X509 *certificate = SSL_CTX_get0_certificate(context);
    X509 *issuer = issuer_of(context, certificate);
    ASN1_GENERALIZEDTIME *from = NULL, *until = NULL;
    OCSP_SINGLERESP *single = NULL;
    int rc = VD_OK;
    if (issuer == NULL)
        rc = vd_error_set(err, VD_ERR_CONFIG,
                          "%s can't be checked: the issuer of our certificate is neither in its "
                          "file nor among the authorities",
                          file);
    else if ((single = single_of(response, certificate, issuer)) == NULL)
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s is not about our certificate", file);
    else if (!is_signed_for(response, issuer))
        rc = vd_error_set(err, VD_ERR_CONFIG,
                          "%s is not signed by the issuer of our certificate, or for it", file);
    X509_free(issuer);
    if (rc != VD_OK)
        return rc;
    int status = OCSP_single_get0_status(single, NULL, NULL, &from, &until);
    if (status != V_OCSP_CERTSTATUS_GOOD)
        return vd_error_set(err, VD_ERR_CONFIG, "%s says that our certificate is %s", file,
                            OCSP_cert_status_str(status));
    if (!time_of(from, ret_from_s) || !time_of(until, ret_until_s))
        return vd_error_set(err, VD_ERR_CONFIG, "%s doesn't say until when it holds", file);
    if (*ret_from_s > vd_wall_ms() / 1000 + CLOCKS_APART_S)
        return vd_error_set(err, VD_ERR_CONFIG, "%s is not valid yet", file);
    return VD_OK;
}

static int parse(const char *file, vd_slice_t bytes, OCSP_BASICRESP **ret_basic, vd_error_t *err)
{
    const uint8_t *at = bytes.data;
    OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &at, (long)bytes.len);
    int rc = VD_OK, status = response == NULL ? -1 : OCSP_response_status(response);
    if (response == NULL || at != bytes.data + bytes.len)
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s is no OCSP response (DER)", file);
    else if (status != OCSP_RESPONSE_STATUS_SUCCESSFUL)
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s: the responder answered %s", file,
                          OCSP_response_status_str(status));
    else if ((*ret_basic = OCSP_response_get1_basic(response)) == NULL)
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s is no basic OCSP response", file);
    OCSP_RESPONSE_free(response);
    return rc;
}

/* ---- in a handshake ---- */

static int asked(SSL *ssl, void *context)
{
    (void)context;
    const staple_t *staple = staple_of(SSL_get_SSL_CTX(ssl));
    if (staple == NULL || vd_wall_ms() / 1000 >= staple->until_s)
        return SSL_TLSEXT_ERR_NOACK;
    uint8_t *copy = OPENSSL_memdup(staple->bytes, staple->len);
    if (copy == NULL || SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)staple->len) != 1) {
        OPENSSL_free(copy);
        return SSL_TLSEXT_ERR_NOACK; /* out of memory: the client does without */
    }
    return SSL_TLSEXT_ERR_OK;
}

int vd_tls_staple_load(SSL_CTX *context, const char *file, vd_error_t *err)
{
    vd_buf_t text;
    OCSP_BASICRESP *basic = NULL;
    int64_t from_s = 0, until_s = 0;
    VD_ASSERT(context != NULL && file != NULL);
    (void)pthread_once(&once, make_index);
    vd_buf_init(&text, VD_TLS_STAPLE_MAX_BYTES);
    int rc = vd_files_read(file, &text, err);
    if (rc != VD_OK) {
        (void)vd_error_prefix(err, "OCSP response");
        rc = VD_ERR_CONFIG;
    }
    if (rc == VD_OK)
        rc = parse(file, vd_buf_slice(&text), &basic, err);
    if (rc == VD_OK)
        rc = check(context, basic, file, &from_s, &until_s, err);
    if (rc == VD_OK) {
        vd_slice_t bytes = vd_buf_slice(&text);
        staple_t *staple = vd_xalloc(sizeof *staple + bytes.len);
        staple->from_s = from_s;
        staple->until_s = until_s;
        staple->len = bytes.len;
        memcpy(staple->bytes, bytes.data, bytes.len);
        if (staple_index < 0 || SSL_CTX_set_ex_data(context, staple_index, staple) != 1) {
            vd_free(staple);
            rc = vd_error_set(err, VD_ERR_NO_MEMORY, "an OCSP response can't be kept");
        }
        (void)SSL_CTX_set_tlsext_status_cb(context, asked); /* can't fail */
    }
    OCSP_BASICRESP_free(basic);
    vd_buf_done(&text);
    ERR_clear_error();
    return rc;
}

int64_t vd_tls_staple_left_s(const SSL_CTX *context, bool *ret_soon)
{
    const staple_t *staple = staple_of(context);
    *ret_soon = false;
    if (staple == NULL)
        return INT64_MAX;
    int64_t left = staple->until_s - vd_wall_ms() / 1000;
    *ret_soon = left < (staple->until_s - staple->from_s) / SOON_PART;
    return left;
}
