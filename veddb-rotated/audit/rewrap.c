/* veddb-rotated/audit/rewrap.c — see rewrap.h. */
#include "veddb-rotated/audit/rewrap.h"

#include "libcommon/base/fault.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/sandbox.h"
#include "veddb-rotated/audit/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#define PLAIN_BYTES 64
#define BLOCK_BYTES (PLAIN_BYTES + ROT_BLOCK_EXTRA_BYTES)

uint32_t rot_data_keys_copy(const rot_keyring_t *keyring, rot_data_key_t *keys,
                            uint32_t *ret_active)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < rot_keyring_count(keyring); i++) {
        const rot_key_t *key = rot_keyring_at(keyring, i);
        if (key->state == ROT_KEY_DESTROYED)
            continue;
        memcpy(keys[count].id, key->id, sizeof keys[count].id);
        memcpy(keys[count].key, key->key, sizeof keys[count].key);
        if (key->state == ROT_KEY_ACTIVE)
            *ret_active = count;
        count++;
    }
    return count;
}

/* *ret_old: the file is there and under another key. */
static int key_file_read(const char *path, const rot_data_key_t *active, uint8_t block[BLOCK_BYTES],
                         bool *ret_old, vd_error_t *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "can't open %s", path);
    ssize_t n = pread(fd, block, BLOCK_BYTES, 0);
    (void)close(fd); /* only read from */
    const uint8_t *id = n == BLOCK_BYTES ? rot_block_key_id(vd_slice(block, BLOCK_BYTES)) : NULL;
    if (id == NULL)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s is damaged: it is no key file", path);
    *ret_old = memcmp(id, active->id, sizeof active->id) != 0;
    return VD_OK;
}

static int segment_rewrap(const char *folder, uint64_t number, rot_data_keys_t keys,
                          const rot_data_key_t *active, rot_sealer_t *sealer, uint32_t *done,
                          vd_error_t *err)
{
    char path[PATH_MAX], name[32];
    uint8_t block[BLOCK_BYTES], plain[PLAIN_BYTES];
    bool old = false;
    rot_segment_path(folder, number, "key", path, sizeof path);
    int rc = key_file_read(path, active, block, &old, err);
    if (rc != VD_OK || !old)
        return rc;
    const rot_data_key_t *key =
        rot_data_keys_find(&keys, rot_block_key_id(vd_slice(block, BLOCK_BYTES)));
    if (key == NULL)
        return vd_error_set(err, VD_ERR_KEY_MISSING,
                            "%s is under a key that the keyring doesn't have", path);
    rc = rot_unseal(key, vd_slice(block, BLOCK_BYTES), plain, err);
    if (rc == VD_OK)
        rc = rot_seal(sealer, vd_slice(plain, PLAIN_BYTES), block, err);
    vd_wipe(plain, sizeof plain);
    if (rc != VD_OK) {
        vd_error_prefix(err, "%s", path);
        return rc;
    }
    (void)snprintf(name, sizeof name, "%08" PRIu64 ".key", number);
    rc = rot_file_put(folder, name, block, BLOCK_BYTES, err);
    (*done)++;
    return rc == VD_OK ? VD_FAULT("audit.segment_rewrapped", err) : rc;
}

int rot_rewrap_segments(const char *folder, rot_data_keys_t keys, const rot_data_key_t *active,
                        uint32_t max, bool *ret_more, vd_error_t *err)
{
    uint64_t *numbers = NULL;
    uint32_t count = 0, done = 0, i = 0;
    void *secret = NULL;
    int rc = rot_segments_list(folder, &numbers, &count, err);
    if (rc == VD_OK)
        rc = vd_secret_alloc(sizeof(rot_sealer_t), &secret, err);
    if (rc == VD_OK)
        rc = rot_sealer_init(secret, active, err);
    for (; rc == VD_OK && i < count && done < max; i++)
        rc = segment_rewrap(folder, numbers[i], keys, active, secret, &done, err);
    *ret_more = i < count;
    if (secret != NULL)
        vd_secret_free(secret, sizeof(rot_sealer_t));
    vd_free(numbers);
    return rc;
}

int rot_rewrap_folder(const char *folder, const rot_keyring_t *keyring, vd_error_t *err)
{
    char path[PATH_MAX];
    void *secret = NULL;
    uint32_t active = 0;
    rot_seal_t *seal = NULL;
    (void)snprintf(path, sizeof path, "%s/seal", folder);
    if (access(path, F_OK) != 0)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "can't look at %s", path);
    int rc = vd_secret_alloc(ROT_KEYS_MAX * sizeof(rot_data_key_t), &secret, err);
    if (rc != VD_OK)
        return rc;
    rot_data_keys_t keys = {secret, rot_data_keys_copy(keyring, secret, &active)};
    /* To open it is to write both slots under the active key. */
    rc = rot_seal_open(folder, &keys.keys[active], keys, &seal, err);
    rot_seal_close(&seal);
    bool more = false;
    if (rc == VD_OK)
        rc = rot_rewrap_segments(folder, keys, &keys.keys[active], UINT32_MAX, &more, err);
    vd_secret_free(secret, ROT_KEYS_MAX * sizeof(rot_data_key_t));
    return rc;
}
