/* veddb-gatewayd/auth/subject.c — see subject.h. */
#include "veddb-gatewayd/auth/subject.h"

#include "libcommon/base/error.h"

#include <string.h>

bool gate_subject_print(const X509_NAME *subject, char *buf, size_t size, vd_slice_t *ret)
{
    static const unsigned long form =
        (XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) | ASN1_STRFLGS_UTF8_CONVERT;
    VD_ASSERT(subject != NULL && buf != NULL && ret != NULL);

    BIO *text = BIO_new(BIO_s_mem());
    bool good = text != NULL && X509_NAME_print_ex(text, subject, 0, form) >= 0;
    if (good) {
        char *bytes = NULL;
        long len = BIO_get_mem_data(text, &bytes);
        good = len > 0 && (size_t)len <= size && memchr(bytes, 0, (size_t)len) == NULL;
        if (good) {
            memcpy(buf, bytes, (size_t)len);
            *ret = vd_slice((const uint8_t *)buf, (size_t)len);
        }
    }
    BIO_free(text);
    return good;
}
