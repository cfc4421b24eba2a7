/* tests/fuzz/fuzz_backup.c — a backup's manifest: what is read prints as it was, and no other text
 * is read as the same. The sum is made good here, so that a change gets past it. */
#include "libcommon/runtime/backup.h"
#include "tests/fuzz/fuzz.h"

#include <openssl/sha.h>
#include <stdio.h>

#define LAST_BYTES 69 /* "end ", 64 digits, a line feed */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_backup_manifest_t manifest = {0};
    vd_error_t err = VD_ERROR_INIT;
    uint8_t sum[SHA256_DIGEST_LENGTH];
    vd_buf_t text, again;
    vd_buf_init(&text, (1u << 20) + LAST_BYTES);
    vd_buf_init(&again, 4u << 20);
    if (size > 1u << 20 || vd_backup_manifest_parse(vd_slice(data, size), &manifest, &err) == VD_OK)
        size = size > LAST_BYTES ? size - LAST_BYTES : 0;
    vd_backup_manifest_done(&manifest);
    if (size > 1u << 20)
        size = 1u << 20;
    int rc = vd_buf_append(&text, data, size);
    (void)SHA256(data, size, sum);
    if (rc == VD_OK)
        rc = vd_buf_printf(&text, "end ");
    for (size_t i = 0; rc == VD_OK && i < sizeof sum; i++)
        rc = vd_buf_printf(&text, "%02x", sum[i]);
    if (rc == VD_OK)
        rc = vd_buf_printf(&text, "\n");
    VD_ASSERT(rc == VD_OK);
    if (vd_backup_manifest_parse(vd_buf_slice(&text), &manifest, &err) == VD_OK) {
        vd_backup_manifest_t back = {0};
        for (uint32_t i = 0; i < manifest.file_count; i++)
            VD_ASSERT(strchr(manifest.files[i].name, '/') == NULL &&
                      manifest.files[i].name[0] != '.');
        rc = vd_backup_manifest_print(&manifest, &again);
        VD_ASSERT(rc == VD_OK);
        rc = vd_backup_manifest_parse(vd_buf_slice(&again), &back, &err);
        VD_ASSERT(rc == VD_OK);
        VD_ASSERT(back.file_count == manifest.file_count && back.position == manifest.position &&
                  back.made_ms == manifest.made_ms && back.keyring == manifest.keyring &&
                  vd_backup_oldest(&back) == vd_backup_oldest(&manifest) &&
                  vd_backup_bytes(&back) == vd_backup_bytes(&manifest));
        vd_backup_manifest_done(&back);
    } else {
        VD_ASSERT(err.message[0] != '\0');
    }
    vd_backup_manifest_done(&manifest);
    vd_buf_done(&text);
    vd_buf_done(&again);
    return 0;
}
