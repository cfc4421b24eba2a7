/* veddb-rotated/keyring.c — see keyring.h. */
#include "veddb-rotated/keyring.h"

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEYRING_MAGIC        "VDBKRING"
#define KEYRING_FORMAT       1
#define KEYRING_HEADER_BYTES 96
#define KEYRING_SALT_BYTES   32
#define KEYRING_CHECK_BYTES  16
#define KEYRING_TAG_BYTES    16
#define KEYRING_ENTRY_BYTES  (ROT_KEY_ID_BYTES + 4 + 4 + 8 + 8 + ROT_KEY_BYTES)
#define KEYRING_FILE_MAX                                                                           \
    (KEYRING_HEADER_BYTES + ROT_KEYS_MAX * KEYRING_ENTRY_BYTES + KEYRING_TAG_BYTES)

/* Offsets in the header. */
enum {
    AT_FORMAT = 8,
    AT_GENERATION = 12,
    AT_SALT = 20,
    AT_CHECK = 52,
    AT_LENGTH = 68,
    AT_DIGEST = 80
};

/* What must be locked: the key-encryption key, the keys, and the buffer in which files are made and
 * read. */
typedef struct {
    uint8_t kek[ROT_KEY_BYTES];
    rot_key_t keys[ROT_KEYS_MAX];
    rot_key_t undo[ROT_KEYS_MAX];
    uint8_t plain[ROT_KEYS_MAX * KEYRING_ENTRY_BYTES];
    uint8_t derived[ROT_KEY_BYTES];
} keyring_secret_t;

struct rot_keyring {
    char folder[PATH_MAX - 32];
    uint32_t count;
    uint64_t generation;
    keyring_secret_t *secret;
};

static void path_of(const rot_keyring_t *keyring, const char *name, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%s/%s", keyring->folder, name);
}

static int derive(const uint8_t *kek, const uint8_t *salt, const char *info, uint8_t *out,
                  size_t len, vd_error_t *err)
{
    char digest[] = "SHA256";
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf == NULL ? NULL : EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)kek, ROT_KEY_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, KEYRING_SALT_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    bool good = ctx != NULL && EVP_KDF_derive(ctx, out, len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return good ? VD_OK : vd_error_set(err, VD_ERR_ENCRYPTION, "key derivation failed");
}

/* One pass of AES-256-GCM with the zero nonce that a fresh salt allows. */
static bool gcm(bool encrypt, const uint8_t *key, const uint8_t *aad, const uint8_t *in,
                uint32_t len, uint8_t *out, uint8_t *tag)
{
    static const uint8_t nonce[12] = {0};
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0;
    bool good = ctx != NULL &&
                EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce, encrypt) == 1 &&
                EVP_CipherUpdate(ctx, NULL, &n, aad, KEYRING_HEADER_BYTES) == 1 &&
                EVP_CipherUpdate(ctx, out, &n, in, (int)len) == 1;
    if (good && !encrypt)
        good = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, KEYRING_TAG_BYTES, tag) == 1;
    good = good && EVP_CipherFinal_ex(ctx, out + n, &n) == 1;
    if (good && encrypt)
        good = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, KEYRING_TAG_BYTES, tag) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return good;
}

static void header_digest(const uint8_t *header, uint8_t digest[16])
{
    uint8_t full[SHA256_DIGEST_LENGTH];
    SHA256(header, AT_DIGEST, full);
    memcpy(digest, full, 16);
}

/* ---- entries <-> bytes ---- */

static void pack(const rot_keyring_t *keyring, uint8_t *out)
{
    for (uint32_t i = 0; i < keyring->count; i++, out += KEYRING_ENTRY_BYTES) {
        const rot_key_t *key = &keyring->secret->keys[i];
        memcpy(out, key->id, ROT_KEY_ID_BYTES);
        vd_put_u32(out + 16, key->version);
        vd_put_u32(out + 20, (uint32_t)key->state);
        vd_put_u64(out + 24, (uint64_t)key->created_ms);
        vd_put_u64(out + 32, (uint64_t)key->changed_ms);
        memcpy(out + 40, key->key, ROT_KEY_BYTES);
    }
}

static int unpack(rot_keyring_t *keyring, const uint8_t *in, uint32_t count, const char *path,
                  vd_error_t *err)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < count; i++, in += KEYRING_ENTRY_BYTES) {
        rot_key_t *key = &keyring->secret->keys[i];
        memcpy(key->id, in, ROT_KEY_ID_BYTES);
        key->version = vd_get_u32(in + 16);
        uint32_t state = vd_get_u32(in + 20);
        key->created_ms = (int64_t)vd_get_u64(in + 24);
        key->changed_ms = (int64_t)vd_get_u64(in + 32);
        memcpy(key->key, in + 40, ROT_KEY_BYTES);
        if (state > ROT_KEY_DESTROYED || key->version != i + 1)
            return vd_error_set(err, VD_ERR_CORRUPT, "keyring %s has an entry that makes no sense",
                                path);
        key->state = (rot_key_state_t)state;
        active += key->state == ROT_KEY_ACTIVE;
    }
    if (active != 1)
        return vd_error_set(err, VD_ERR_CORRUPT, "keyring %s has %u active keys, not one", path,
                            active);
    keyring->count = count;
    return VD_OK;
}

/* ---- load ---- */

static int read_file(const char *path, uint8_t *bytes, size_t *ret_len, vd_error_t *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? VD_ERR_NOT_FOUND
                               : vd_error_set_errno(err, "can't open keyring %s", path);
    size_t len = 0;
    int rc = VD_OK;
    for (;;) {
        ssize_t n = read(fd, bytes + len, KEYRING_FILE_MAX + 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = vd_error_set_errno(err, "can't read keyring %s", path);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    (void)close(fd); /* only read from */
    *ret_len = len;
    return rc;
}

static int parse(rot_keyring_t *keyring, const char *path, const uint8_t *bytes, size_t len,
                 vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    uint8_t digest[16], check[KEYRING_CHECK_BYTES];
    if (len < KEYRING_HEADER_BYTES + KEYRING_TAG_BYTES || memcmp(bytes, KEYRING_MAGIC, 8) != 0)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "keyring %s is damaged: it does not begin as a keyring", path);
    header_digest(bytes, digest);
    if (memcmp(digest, bytes + AT_DIGEST, sizeof digest) != 0)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "keyring %s is damaged: its header fails its check", path);
    if (vd_get_u32(bytes + AT_FORMAT) != KEYRING_FORMAT)
        return vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT,
                            "keyring %s has format %u; this version reads %u", path,
                            vd_get_u32(bytes + AT_FORMAT), KEYRING_FORMAT);
    uint32_t payload = vd_get_u32(bytes + AT_LENGTH);
    if (len != (size_t)KEYRING_HEADER_BYTES + payload + KEYRING_TAG_BYTES ||
        payload % KEYRING_ENTRY_BYTES != 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "keyring %s is damaged: it has %zu bytes, not %u",
                            path, len, KEYRING_HEADER_BYTES + payload + KEYRING_TAG_BYTES);
    int rc = derive(secret->kek, bytes + AT_SALT, "veddb keyring check", check, sizeof check, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_equal_constant_time(check, bytes + AT_CHECK, sizeof check))
        return vd_error_set(err, VD_ERR_KEY_WRONG,
                            "the key-encryption key does not open keyring %s: it is another key",
                            path);
    rc = derive(secret->kek, bytes + AT_SALT, "veddb keyring", secret->derived,
                sizeof secret->derived, err);
    if (rc != VD_OK)
        return rc;
    uint8_t tag[KEYRING_TAG_BYTES];
    memcpy(tag, bytes + len - KEYRING_TAG_BYTES, sizeof tag);
    if (!gcm(false, secret->derived, bytes, bytes + KEYRING_HEADER_BYTES, payload, secret->plain,
             tag))
        rc = vd_error_set(err, VD_ERR_CORRUPT,
                          "keyring %s is damaged: its content fails authentication", path);
    else
        rc = unpack(keyring, secret->plain, payload / KEYRING_ENTRY_BYTES, path, err);
    vd_wipe(secret->plain, sizeof secret->plain);
    vd_wipe(secret->derived, sizeof secret->derived);
    keyring->generation = vd_get_u64(bytes + AT_GENERATION);
    return rc;
}

static int load(rot_keyring_t *keyring, vd_error_t *err)
{
    uint8_t *bytes = vd_xalloc(KEYRING_FILE_MAX + 1);
    char path[PATH_MAX], previous[PATH_MAX];
    size_t len = 0;
    path_of(keyring, "keyring", path);
    path_of(keyring, "keyring.previous", previous);
    int rc = read_file(path, bytes, &len, err);
    if (rc == VD_OK) {
        rc = parse(keyring, path, bytes, len, err);
        if (rc == VD_ERR_CORRUPT && access(previous, F_OK) == 0)
            vd_error_prefix(
                err,
                "the generation before stands in %s; put it back only if no key was added since",
                previous);
    } else if (rc == VD_ERR_NOT_FOUND) {
        rc = access(previous, F_OK) != 0
                 ? VD_OK
                 : vd_error_set(err, VD_ERR_KEY_MISSING,
                                "keyring %s is gone, but its generation before (%s) is there", path,
                                previous);
    }
    vd_free(bytes);
    return rc;
}

int rot_keyring_open(const char *folder, const uint8_t kek[ROT_KEY_BYTES],
                     rot_keyring_t **ret_keyring, vd_error_t *err)
{
    VD_ASSERT(folder != NULL && kek != NULL && ret_keyring != NULL);

    rot_keyring_t *keyring = vd_xalloc(sizeof *keyring);
    void *secret = NULL;
    int rc;
    if (strlen(folder) >= sizeof keyring->folder) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "the keys folder's path is too long");
        goto cleanup;
    }
    memcpy(keyring->folder, folder, strlen(folder) + 1);
    rc = vd_secret_alloc(sizeof *keyring->secret, &secret, err);
    if (rc != VD_OK)
        goto cleanup;
    keyring->secret = secret;
    memcpy(keyring->secret->kek, kek, ROT_KEY_BYTES);
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        rc = vd_error_set_errno(err, "can't make the keys folder %s", folder);
        goto cleanup;
    }
    rc = load(keyring, err);
    if (rc != VD_OK)
        goto cleanup;
    *ret_keyring = keyring;
    keyring = NULL;
cleanup:
    rot_keyring_close(&keyring);
    return rc;
}

int rot_keyring_read(const uint8_t *bytes, size_t len, const uint8_t kek[ROT_KEY_BYTES],
                     rot_keyring_t **ret_keyring, vd_error_t *err)
{
    rot_keyring_t *keyring = vd_xalloc(sizeof *keyring);
    void *secret = NULL;
    int rc = vd_secret_alloc(sizeof *keyring->secret, &secret, err);
    if (rc == VD_OK) {
        keyring->secret = secret;
        memcpy(keyring->secret->kek, kek, ROT_KEY_BYTES);
        rc = len > KEYRING_FILE_MAX
                 ? vd_error_set(err, VD_ERR_CORRUPT, "a keyring of %zu bytes is none", len)
                 : parse(keyring, "(bytes)", bytes, len, err);
    }
    if (rc != VD_OK)
        rot_keyring_close(&keyring);
    else
        *ret_keyring = keyring;
    return rc;
}

void rot_keyring_close(rot_keyring_t **keyring_p)
{
    rot_keyring_t *keyring = *keyring_p;
    if (keyring == NULL)
        return;
    if (keyring->secret != NULL)
        vd_secret_free(keyring->secret, sizeof *keyring->secret);
    vd_free(keyring);
    *keyring_p = NULL;
}

/* ---- save ---- */

static int write_synced(const char *path, const uint8_t *bytes, size_t len, vd_error_t *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return vd_error_set_errno(err, "can't make %s", path);
    int rc = VD_OK;
    for (size_t done = 0; rc == VD_OK && done < len;) {
        ssize_t n = write(fd, bytes + done, len - done);
        if (n < 0 && errno != EINTR)
            rc = vd_error_set_errno(err, "can't write %s", path);
        else if (n > 0)
            done += (size_t)n;
    }
    if (rc == VD_OK && fsync(fd) != 0)
        rc = vd_error_set_errno(err, "can't sync %s", path);
    if (close(fd) != 0 && rc == VD_OK)
        rc = vd_error_set_errno(err, "can't close %s", path);
    return rc;
}

static int sync_folder(const char *folder, vd_error_t *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return vd_error_set_errno(err, "can't open the keys folder %s", folder);
    int rc =
        fsync(fd) == 0 ? VD_OK : vd_error_set_errno(err, "can't sync the keys folder %s", folder);
    (void)close(fd); /* nothing was written through it */
    return rc;
}

/* `keyring` exists at every instant: its present content gets a second name first, then is replaced
 * in one step. */
static int replace(const rot_keyring_t *keyring, const uint8_t *bytes, size_t len, vd_error_t *err)
{
    char path[PATH_MAX], fresh[PATH_MAX], previous[PATH_MAX], link_path[PATH_MAX];
    path_of(keyring, "keyring", path);
    path_of(keyring, "keyring.new", fresh);
    path_of(keyring, "keyring.previous", previous);
    path_of(keyring, "keyring.link", link_path);
    int rc = write_synced(fresh, bytes, len, err);
    if (rc != VD_OK)
        return rc;
    (void)unlink(link_path); /* may be left from a crash */
    if (link(path, link_path) == 0) {
        if (rename(link_path, previous) != 0)
            return vd_error_set_errno(err, "can't keep the keyring's generation before as %s",
                                      previous);
    } else if (errno != ENOENT) {
        return vd_error_set_errno(err, "can't link %s", path);
    }
    if (rename(fresh, path) != 0)
        return vd_error_set_errno(err, "can't put the new keyring in its place %s", path);
    return sync_folder(keyring->folder, err);
}

static int save(rot_keyring_t *keyring, vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    uint8_t *bytes = vd_xalloc(KEYRING_FILE_MAX);
    uint32_t payload = keyring->count * KEYRING_ENTRY_BYTES;
    memcpy(bytes, KEYRING_MAGIC, 8);
    vd_put_u32(bytes + AT_FORMAT, KEYRING_FORMAT);
    vd_put_u64(bytes + AT_GENERATION, keyring->generation + 1);
    vd_rand_secret(bytes + AT_SALT, KEYRING_SALT_BYTES);
    vd_put_u32(bytes + AT_LENGTH, payload);
    int rc = derive(secret->kek, bytes + AT_SALT, "veddb keyring check", bytes + AT_CHECK,
                    KEYRING_CHECK_BYTES, err);
    if (rc == VD_OK)
        rc = derive(secret->kek, bytes + AT_SALT, "veddb keyring", secret->derived,
                    sizeof secret->derived, err);
    if (rc == VD_OK) {
        header_digest(bytes, bytes + AT_DIGEST);
        pack(keyring, secret->plain);
        if (!gcm(true, secret->derived, bytes, secret->plain, payload, bytes + KEYRING_HEADER_BYTES,
                 bytes + KEYRING_HEADER_BYTES + payload))
            rc = vd_error_set(err, VD_ERR_ENCRYPTION, "can't wrap the keys");
    }
    if (rc == VD_OK)
        rc = replace(keyring, bytes, (size_t)KEYRING_HEADER_BYTES + payload + KEYRING_TAG_BYTES,
                     err);
    if (rc == VD_OK)
        keyring->generation++;
    vd_wipe(secret->plain, sizeof secret->plain);
    vd_wipe(secret->derived, sizeof secret->derived);
    vd_free(bytes);
    return rc;
}

/* Saves what change() made of the keys in memory, or takes it back. */
static int commit(rot_keyring_t *keyring, uint32_t count_before, vd_error_t *err)
{
    int rc = save(keyring, err);
    if (rc != VD_OK) {
        memcpy(keyring->secret->keys, keyring->secret->undo, sizeof keyring->secret->keys);
        keyring->count = count_before;
    }
    vd_wipe(keyring->secret->undo, sizeof keyring->secret->undo);
    return rc;
}

int rot_keyring_add(rot_keyring_t *keyring, vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    uint32_t count = keyring->count;
    if (count == ROT_KEYS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "the keyring holds %u keys already", count);
    memcpy(secret->undo, secret->keys, sizeof secret->keys);
    int64_t now = vd_wall_ms();
    for (uint32_t i = 0; i < count; i++) {
        if (secret->keys[i].state == ROT_KEY_ACTIVE) {
            secret->keys[i].state = ROT_KEY_DECRYPT_ONLY;
            secret->keys[i].changed_ms = now;
        }
    }
    rot_key_t *key = &secret->keys[count];
    *key = (rot_key_t){
        .version = count + 1, .state = ROT_KEY_ACTIVE, .created_ms = now, .changed_ms = now};
    vd_rand_secret(key->id, sizeof key->id);
    vd_rand_secret(key->key, sizeof key->key);
    keyring->count = count + 1;
    return commit(keyring, count, err);
}

int rot_keyring_set_state(rot_keyring_t *keyring, uint32_t version, rot_key_state_t state,
                          vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    if (version == 0 || version > keyring->count)
        return vd_error_set(err, VD_ERR_KEY_NOT_FOUND, "there is no key version %u", version);
    rot_key_t *key = &secret->keys[version - 1];
    if (key->state == ROT_KEY_ACTIVE || state <= key->state)
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "key version %u can't go from %s to %s",
                            version, rot_key_state_name(key->state), rot_key_state_name(state));
    memcpy(secret->undo, secret->keys, sizeof secret->keys);
    key->state = state;
    key->changed_ms = vd_wall_ms();
    if (state == ROT_KEY_DESTROYED)
        vd_wipe(key->key, sizeof key->key);
    int rc = commit(keyring, keyring->count, err);
    if (rc == VD_OK && state == ROT_KEY_DESTROYED)
        rc = save(keyring, err); /* the generation before still held the key */
    return rc;
}

uint32_t rot_keyring_count(const rot_keyring_t *keyring)
{
    return keyring->count;
}

uint64_t rot_keyring_generation(const rot_keyring_t *keyring)
{
    return keyring->generation;
}

const rot_key_t *rot_keyring_at(const rot_keyring_t *keyring, uint32_t position)
{
    VD_ASSERT(position < keyring->count);
    return &keyring->secret->keys[position];
}

const char *rot_key_state_name(rot_key_state_t state)
{
    static const char *const names[] = {"active", "decrypt-only", "retiring", "destroyed"};
    return names[state];
}
