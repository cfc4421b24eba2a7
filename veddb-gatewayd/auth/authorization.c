/* veddb-gatewayd/auth/authorization.c — see authorization.h. */
#include "veddb-gatewayd/auth/authorization.h"

#include "libcommon/base/assert.h"
#include "veddb-gatewayd/auth/scram.h"

#include <string.h>
#include <strings.h>

void gate_authorization_parse(const char *header, gate_authorization_t *ret)
{
    VD_ASSERT(header != NULL && ret != NULL);

    ret->kind = GATE_AUTHORIZATION_NONE;
    ret->token = ret->name = ret->password = VD_SLICE_NULL;
    ret->text_len = 0;
    if (strncasecmp(header, "Bearer ", 7) == 0) {
        ret->kind = GATE_AUTHORIZATION_BEARER;
        ret->token = vd_slice_str(header + 7);
        return;
    }
    if (strncasecmp(header, "Basic ", 6) != 0 ||
        !gate_base64_decode(vd_slice_str(header + 6), ret->text, sizeof ret->text, &ret->text_len))
        return;
    const uint8_t *colon = memchr(ret->text, ':', ret->text_len);
    if (colon == NULL || memchr(ret->text, 0, ret->text_len) != NULL)
        return;
    ret->kind = GATE_AUTHORIZATION_BASIC;
    ret->name = vd_slice(ret->text, (size_t)(colon - ret->text));
    ret->password = vd_slice(colon + 1, ret->text_len - ret->name.len - 1);
}
