/* tests/fuzz/fuzz_sasl.c — what a client says to log in: the two messages of SCRAM-SHA-256, cut at
 * the first line feed, and base64. No proof is good that was not made with the password. */
#include "tests/fuzz/fuzz.h"
#include "veddb-gatewayd/auth/scram.h"

#include "libcommon/base/assert.h"

#include <string.h>

static void conversation(vd_slice_t first, vd_slice_t final)
{
    static const uint8_t secret[32] = {1};
    gate_scram_t scram = {0};
    gate_scram_credentials_t credentials;
    char out[GATE_SCRAM_MESSAGE_MAX];
    uint32_t len = 0;
    if (gate_scram_first(&scram, first, NULL) == VD_OK) {
        VD_ASSERT(scram.user_len <= GATE_SCRAM_NAME_MAX);
        gate_scram_fake(secret, vd_slice(scram.user, scram.user_len), VD_SLICE_LIT("admin"),
                        &credentials);
        if (gate_scram_challenge(&scram, &credentials, "ournonce", out, &len, NULL) == VD_OK) {
            VD_ASSERT(len > 0 && len < sizeof out);
            VD_ASSERT(gate_scram_final(&scram, final, out, &len, NULL) != VD_OK);
        }
    }
    gate_scram_wipe(&scram);
}

static void base64(vd_slice_t text)
{
    uint8_t bytes[1024];
    char again[2048];
    uint32_t len = 0;
    if (!gate_base64_decode(text, bytes, sizeof bytes, &len))
        return;
    VD_ASSERT(len <= sizeof bytes);
    VD_ASSERT(gate_base64_encode(vd_slice(bytes, len), again) == text.len);
    VD_ASSERT(text.len == 0 || memcmp(again, text.data, text.len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size == 0 ? NULL : memchr(data, '\n', size);
    vd_slice_t whole = vd_slice(data, size);
    if (cut == NULL)
        base64(whole);
    else
        conversation(vd_slice(data, (size_t)(cut - data)),
                     vd_slice(cut + 1, size - (size_t)(cut + 1 - data)));
    return 0;
}
