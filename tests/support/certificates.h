/* tests/support/certificates.h — certificates made on the spot, good ones and faulty ones.
 *
 * Owner:   the caller frees what it gets.
 * Threads: one.
 * Units:   seconds from now. */
#pragma once
#include "libcommon/base/assert.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

typedef struct {
    X509 *issuer; /* NULL: by itself */
    EVP_PKEY *issuer_key;
    int begins_s, ends_s; /* both 0: an hour ago, in ten days */
    bool sha1, authority;
    const char *names, *usage; /* subjectAltName, extendedKeyUsage; NULL: none */
} test_certificate_t;

static inline void test_certificate_extend(X509 *certificate, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    VD_ASSERT(extension != NULL && X509_add_ext(certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

static inline X509 *test_certificate(const char *name, EVP_PKEY *key, const test_certificate_t *how)
{
    static long serial = 100;
    X509 *certificate = X509_new();
    X509_NAME *subject = X509_get_subject_name(certificate);
    bool dated = how->begins_s != 0 || how->ends_s != 0;
    (void)X509_set_version(certificate, 2);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    (void)X509_gmtime_adj(X509_getm_notBefore(certificate), dated ? how->begins_s : -3600);
    (void)X509_gmtime_adj(X509_getm_notAfter(certificate), dated ? how->ends_s : 10 * 86400);
    (void)X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1,
                                     -1, 0);
    (void)X509_set_issuer_name(certificate,
                               how->issuer == NULL ? subject : X509_get_subject_name(how->issuer));
    (void)X509_set_pubkey(certificate, key);
    if (how->authority) {
        test_certificate_extend(certificate, NID_basic_constraints, "critical,CA:TRUE");
        test_certificate_extend(certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
    }
    if (how->names != NULL)
        test_certificate_extend(certificate, NID_subject_alt_name, how->names);
    if (how->usage != NULL)
        test_certificate_extend(certificate, NID_ext_key_usage, how->usage);
    VD_ASSERT(X509_sign(certificate, how->issuer == NULL ? key : how->issuer_key,
                        how->sha1 ? EVP_sha1() : EVP_sha256()) > 0);
    return certificate;
}

/* What of it is not NULL, one behind the other; for our own eyes. */
static inline void test_write_pem(const char *file, X509 *certificate, EVP_PKEY *key,
                                  X509_CRL *list)
{
    FILE *out = fopen(file, "we");
    VD_ASSERT(out != NULL);
    VD_ASSERT(certificate == NULL || PEM_write_X509(out, certificate) == 1);
    VD_ASSERT(key == NULL || PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) == 1);
    VD_ASSERT(list == NULL || PEM_write_X509_CRL(out, list) == 1);
    VD_ASSERT(fclose(out) == 0);
    VD_ASSERT(chmod(file, 0600) == 0);
}
