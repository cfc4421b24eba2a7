/* tests/fuzz/fuzz_authorization.c — the Authorization header of an HTTPS request: whatever comes,
 * what is taken out of it lies in it, and name and password give the decoded text again. */
#include "tests/fuzz/fuzz.h"
#include "veddb-gatewayd/auth/authorization.h"

#include "libcommon/base/assert.h"

#include <string.h>

#define HEADER_MAX 8192

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char header[HEADER_MAX];
    gate_authorization_t got;
    if (size >= sizeof header)
        return 0;
    memcpy(header, data, size);
    header[size] = '\0';
    gate_authorization_parse(header, &got);
    VD_ASSERT(got.text_len <= sizeof got.text);
    if (got.kind == GATE_AUTHORIZATION_BEARER)
        VD_ASSERT((const char *)got.token.data == header + 7 &&
                  got.token.len == strlen(header) - 7);
    if (got.kind == GATE_AUTHORIZATION_BASIC) {
        VD_ASSERT(got.name.data == got.text && got.name.data[got.name.len] == ':');
        VD_ASSERT(got.password.data == got.name.data + got.name.len + 1);
        VD_ASSERT(got.name.len + 1 + got.password.len == got.text_len);
        VD_ASSERT(got.name.len == 0 || memchr(got.name.data, ':', got.name.len) == NULL);
        VD_ASSERT(memchr(got.text, 0, got.text_len) == NULL);
    }
    return 0;
}
