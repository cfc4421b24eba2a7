/* veddb-gatewayd/auth/subject.h — the user that a certificate names: its subject as RFC 2253 writes
 * it. Pure. */
#pragma once
#include "libcommon/base/slice.h"

#include <openssl/x509.h>

/* Into buf; false: it is empty, longer than size, or has a zero byte: then it names nobody. */
bool gate_subject_print(const X509_NAME *subject, char *buf, size_t size, vd_slice_t *ret);
