/* veddb-gatewayd/auth/authorization.h — the Authorization header of the administrative HTTPS, taken
 * apart. Pure; it decides nothing. */
#pragma once
#include "libcommon/base/slice.h"

#define GATE_AUTHORIZATION_TEXT_MAX 1200

typedef enum {
    GATE_AUTHORIZATION_NONE,
    GATE_AUTHORIZATION_BASIC,
    GATE_AUTHORIZATION_BEARER
} gate_authorization_kind_t;

typedef struct {
    gate_authorization_kind_t kind;            /* NONE: another scheme, or malformed */
    vd_slice_t token;                          /* of BEARER: borrowed of the header */
    vd_slice_t name, password;                 /* of BASIC: within text */
    uint8_t text[GATE_AUTHORIZATION_TEXT_MAX]; /* name:password; the caller wipes it */
    uint32_t text_len;
} gate_authorization_t;

void gate_authorization_parse(const char *header, gate_authorization_t *ret);
