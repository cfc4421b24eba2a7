/* veddb-replicad/certificate.c — see certificate.h. */
#include "veddb-replicad/certificate.h"

#include "libcommon/base/log.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

static bool is_ip(const char *host)
{
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(host);
    ERR_clear_error();
    ASN1_OCTET_STRING_free(address);
    return address != NULL;
}

int repl_certificate_expect(SSL *ssl, const char *host, vd_error_t *err)
{
    bool done = is_ip(host)
                    ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1
                    : SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
    return done ? VD_OK
                : vd_error_set(err, VD_ERR_CONFIG, "%s is no name that a certificate may have",
                               host);
}

static bool has_unit(X509 *certificate)
{
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int at = -1;
    while ((at = X509_NAME_get_index_by_NID((X509_NAME *)subject, NID_organizationalUnitName,
                                            at)) >= 0) {
        ASN1_STRING *unit = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
        if (vd_slice_is(vd_slice(ASN1_STRING_get0_data(unit), (size_t)ASN1_STRING_length(unit)),
                        REPL_NODE_UNIT))
            return true;
    }
    return false;
}

int repl_certificate_check_node(SSL *ssl, vd_error_t *err)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    if (certificate == NULL || SSL_get_verify_result(ssl) != X509_V_OK)
        return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "it has shown no valid certificate");
    if (!has_unit(certificate))
        return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED,
                            "the certificate's organisational unit is not " REPL_NODE_UNIT);
    return VD_OK;
}

int repl_certificate_names(SSL *ssl, const char *host, vd_error_t *err)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    int named = certificate == NULL ? 0
                : is_ip(host)       ? X509_check_ip_asc(certificate, host, 0)
                                    : X509_check_host(certificate, host, 0, 0, NULL);
    if (named == 1)
        return VD_OK;
    return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED,
                        "its certificate doesn't name %s, which it says is its address", host);
}

static const struct {
    long result;
    const char *message, *reason;
} refusals[] = {
    {X509_V_ERR_CERT_HAS_EXPIRED, "certificate refused: it has expired",
     "its certificate has expired"},
    {X509_V_ERR_CERT_NOT_YET_VALID, "certificate refused: it is not valid yet",
     "its certificate is not valid yet"},
    {X509_V_ERR_HOSTNAME_MISMATCH, "certificate refused: it names another host",
     "its certificate names another host"},
    {X509_V_ERR_IP_ADDRESS_MISMATCH, "certificate refused: it names another address",
     "its certificate names another address"},
    {X509_V_ERR_INVALID_PURPOSE, "certificate refused: it is for another purpose",
     "its certificate is for another purpose"},
    {X509_V_ERR_CERT_REVOKED, "certificate refused: it was revoked", "its certificate was revoked"},
    {X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
     "certificate refused: the cluster's authority has not signed it",
     "its certificate is of another authority"},
    {X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, "certificate refused: another authority has signed it",
     "its certificate is of another authority"},
    {X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, "certificate refused: it is signed by itself",
     "its certificate is signed by itself"},
    {X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
     "certificate refused: the cluster's authority has not signed it",
     "its certificate is of another authority"},
    {X509_V_ERR_CERT_SIGNATURE_FAILURE, "certificate refused: its signature is wrong",
     "its certificate's signature is wrong"},
};

static const char *alert_reason(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return "it has expired";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return "of another authority";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
        return "wrong name or not valid";
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        return "for another purpose";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "none was shown";
    default:
        return NULL;
    }
}

static bool log_alert(const char *address)
{
    unsigned long error = ERR_peek_error();
    const char *why =
        ERR_GET_LIB(error) == ERR_LIB_SSL ? alert_reason(ERR_GET_REASON(error)) : NULL;
    if (why != NULL)
        vd_log(VD_LOG_WARN, "our certificate is refused by a node", "address=%s reason=\"%s\"",
               address, why);
    return why != NULL;
}

void repl_certificate_log_alert(const char *address)
{
    (void)log_alert(address); /* nothing of that kind is fine */
}

const char *repl_certificate_log_refusal(SSL *ssl, const char *address)
{
    long result = SSL_get_verify_result(ssl);
    unsigned long error = ERR_peek_error();
    for (size_t i = 0; i < VD_COUNT_OF(refusals); i++) {
        if (refusals[i].result != result)
            continue;
        vd_log(VD_LOG_WARN, refusals[i].message, "address=%s", address);
        return refusals[i].reason;
    }
    if (result != X509_V_OK) {
        vd_log(VD_LOG_WARN, "certificate refused: its chain is not valid",
               "address=%s reason=\"%s\"", address, X509_verify_cert_error_string(result));
        return "its certificate's chain is not valid";
    }
    if (ERR_GET_LIB(error) == ERR_LIB_SSL &&
        ERR_GET_REASON(error) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        vd_log(VD_LOG_WARN, "certificate refused: none was shown", "address=%s", address);
        return "it shows no certificate";
    }
    if (log_alert(address))
        return "it refuses our certificate";
    const char *reason = ERR_reason_error_string(error);
    vd_log(VD_LOG_WARN, "TLS handshake with a node failed", "address=%s reason=\"%s\"", address,
           reason == NULL ? "the connection broke" : reason);
    return "the TLS handshake failed";
}
