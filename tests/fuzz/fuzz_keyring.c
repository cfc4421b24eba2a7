/* tests/fuzz/fuzz_keyring.c — the keyring's file: the bytes as they are (a zero before them), or
 * with a header whose check is right, so that what it says is looked at (any other byte). Nothing
 * is taken that the key-encryption key did not seal. */
#include "tests/fuzz/fuzz.h"
#include "veddb-rotated/keyring.h"

#include "libcommon/base/assert.h"

#include <openssl/sha.h>
#include <string.h>

#define HEADER_BYTES 96
#define AT_DIGEST    80
#define INPUT_MAX    65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t kek[ROT_KEY_BYTES] = {0x11, 0x11, 0x11, 0x11};
    static uint8_t bytes[INPUT_MAX];
    rot_keyring_t *keyring = NULL;
    vd_error_t err = VD_ERROR_INIT;
    if (size < 1 || size > sizeof bytes)
        return 0;
    memcpy(bytes, data + 1, size - 1);
    if (data[0] != 0 && size > HEADER_BYTES) {
        uint8_t digest[SHA256_DIGEST_LENGTH];
        memcpy(bytes, "VDBKRING", 8);
        (void)SHA256(bytes, AT_DIGEST, digest);
        memcpy(bytes + AT_DIGEST, digest, HEADER_BYTES - AT_DIGEST);
    }
    int rc = rot_keyring_read(bytes, size - 1, kek, &keyring, &err);
    VD_ASSERT((rc == VD_OK) == (keyring != NULL) && (rc == VD_OK) == (err.code == VD_OK));
    VD_ASSERT(rc == VD_OK || rc == VD_ERR_CORRUPT || rc == VD_ERR_KEY_WRONG ||
              rc == VD_ERR_UNSUPPORTED_FORMAT);
    VD_ASSERT(rc != VD_OK || rot_keyring_count(keyring) <= ROT_KEYS_MAX);
    rot_keyring_close(&keyring);
    return 0;
}
