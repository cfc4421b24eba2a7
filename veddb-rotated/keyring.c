/* veddb-rotated/keyring.c — see keyring.h. */
#include "veddb-rotated/keyring.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
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
#define KEYRING_FORMAT       2
#define KEYRING_FORMAT_FIRST 1 /* read, too: no count, no note */
#define KEYRING_HEADER_BYTES 96
#define KEYRING_SALT_BYTES   32
#define KEYRING_CHECK_BYTES  16
#define KEYRING_TAG_BYTES    16
#define KEYRING_ENTRY_BYTES  (ROT_KEY_ID_BYTES + 4 + 4 + 8 + 8 + ROT_KEY_BYTES)
#define KEYRING_PAYLOAD_MAX  (ROT_KEYS_MAX * KEYRING_ENTRY_BYTES + ROT_KEYRING_NOTE_MAX)
#define KEYRING_FILE_MAX     (KEYRING_HEADER_BYTES + KEYRING_PAYLOAD_MAX + KEYRING_TAG_BYTES)

/* Offsets in the header. */
enum {
    AT_FORMAT = 8,
    AT_GENERATION = 12,
    AT_SALT = 20,
    AT_CHECK = 52,
    AT_LENGTH = 68,
    AT_COUNT = 72,
    AT_DIGEST = 80
};

typedef struct {
    uint32_t count, note_len;
    rot_key_t keys[ROT_KEYS_MAX]; /* versions without holes */
    uint8_t note[ROT_KEYRING_NOTE_MAX];
} content_t;

/* What must be locked: the key-encryption key, the keys, and the buffer in which files are made and
 * read. */
typedef struct {
    uint8_t kek[ROT_KEY_BYTES];
    uint8_t kek_undo[ROT_KEY_BYTES];
    content_t now, undo;
    uint8_t plain[KEYRING_PAYLOAD_MAX];
    uint8_t derived[ROT_KEY_BYTES];
} keyring_secret_t;

struct rot_keyring {
    char folder[PATH_MAX - 32];
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

static uint32_t pack(const content_t *content, uint8_t *out)
{
    const uint8_t *begin = out;
    for (uint32_t i = 0; i < content->count; i++, out += KEYRING_ENTRY_BYTES) {
        const rot_key_t *key = &content->keys[i];
        memcpy(out, key->id, ROT_KEY_ID_BYTES);
        vd_put_u32(out + 16, key->version);
        vd_put_u32(out + 20, (uint32_t)key->state);
        vd_put_u64(out + 24, (uint64_t)key->created_ms);
        vd_put_u64(out + 32, (uint64_t)key->changed_ms);
        memcpy(out + 40, key->key, ROT_KEY_BYTES);
    }
    memcpy(out, content->note, content->note_len);
    return (uint32_t)(out - begin) + content->note_len;
}

static int unpack(content_t *content, const uint8_t *in, uint32_t count, uint32_t note_len,
                  const char *path, vd_error_t *err)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < count; i++, in += KEYRING_ENTRY_BYTES) {
        rot_key_t *key = &content->keys[i];
        memcpy(key->id, in, ROT_KEY_ID_BYTES);
        key->version = vd_get_u32(in + 16);
        uint32_t state = vd_get_u32(in + 20);
        key->created_ms = (int64_t)vd_get_u64(in + 24);
        key->changed_ms = (int64_t)vd_get_u64(in + 32);
        memcpy(key->key, in + 40, ROT_KEY_BYTES);
        if (state > ROT_KEY_DESTROYED || key->version == 0 ||
            key->version != content->keys[0].version + i)
            return vd_error_set(err, VD_ERR_CORRUPT, "keyring %s has an entry that makes no sense",
                                path);
        key->state = (rot_key_state_t)state;
        active += key->state == ROT_KEY_ACTIVE;
    }
    if (active != 1)
        return vd_error_set(err, VD_ERR_CORRUPT, "keyring %s has %u active keys, not one", path,
                            active);
    content->count = count;
    content->note_len = note_len;
    memcpy(content->note, in, note_len);
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
                 content_t *ret_content, uint64_t *ret_generation, vd_error_t *err)
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
    uint32_t format = vd_get_u32(bytes + AT_FORMAT);
    if (format < KEYRING_FORMAT_FIRST || format > KEYRING_FORMAT)
        return vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT,
                            "keyring %s has format %u; this version reads up to %u", path, format,
                            KEYRING_FORMAT);
    uint32_t payload = vd_get_u32(bytes + AT_LENGTH);
    uint32_t count = format == KEYRING_FORMAT_FIRST ? payload / KEYRING_ENTRY_BYTES
                                                    : vd_get_u32(bytes + AT_COUNT);
    if (len != (size_t)KEYRING_HEADER_BYTES + payload + KEYRING_TAG_BYTES || count > ROT_KEYS_MAX ||
        count * KEYRING_ENTRY_BYTES > payload ||
        payload - count * KEYRING_ENTRY_BYTES >
            (format == KEYRING_FORMAT_FIRST ? 0 : ROT_KEYRING_NOTE_MAX))
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
        rc = unpack(ret_content, secret->plain, count, payload - count * KEYRING_ENTRY_BYTES, path,
                    err);
    vd_wipe(secret->plain, sizeof secret->plain);
    vd_wipe(secret->derived, sizeof secret->derived);
    *ret_generation = vd_get_u64(bytes + AT_GENERATION);
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
        rc = parse(keyring, path, bytes, len, &keyring->secret->now, &keyring->generation, err);
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

/* Overwrites what stands there, durable. */
static int shred(const char *path, vd_error_t *err)
{
    static const uint8_t zeros[4096];
    struct stat st;
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), rc = VD_OK;
    if (fd < 0)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "can't overwrite %s", path);
    if (fstat(fd, &st) != 0)
        rc = vd_error_set_errno(err, "can't look at %s", path);
    for (off_t at = 0; rc == VD_OK && at < st.st_size;) {
        size_t left = (size_t)(st.st_size - at);
        ssize_t n = pwrite(fd, zeros, left < sizeof zeros ? left : sizeof zeros, at);
        if (n < 0 && errno != EINTR)
            rc = vd_error_set_errno(err, "can't overwrite %s", path);
        else if (n > 0)
            at += n;
    }
    if (rc == VD_OK && fsync(fd) != 0)
        rc = vd_error_set_errno(err, "can't sync %s", path);
    (void)close(fd); /* synced */
    return rc;
}

/* A crash may have left it as a second name of `keyring`, which must stay. */
static int previous_shred(const char *path, const char *previous, vd_error_t *err)
{
    struct stat now, before;
    if (lstat(path, &now) != 0 || lstat(previous, &before) != 0 || now.st_ino != before.st_ino)
        return shred(previous, err);
    return unlink(previous) == 0 ? VD_OK : vd_error_set_errno(err, "can't remove %s", previous);
}

/* `keyring` exists at every instant: its present content gets a second name first, then is replaced
 * in one step. shreds: the generation before holds what may be nowhere any more. */
static int replace(const rot_keyring_t *keyring, const uint8_t *bytes, size_t len, bool shreds,
                   vd_error_t *err)
{
    char path[PATH_MAX], fresh[PATH_MAX], previous[PATH_MAX], link_path[PATH_MAX];
    path_of(keyring, "keyring", path);
    path_of(keyring, "keyring.new", fresh);
    path_of(keyring, "keyring.previous", previous);
    path_of(keyring, "keyring.link", link_path);
    int rc = write_synced(fresh, bytes, len, err);
    if (rc != VD_OK)
        return rc;
    rc = VD_FAULT("keyring.new_synced", err);
    if (rc == VD_OK && shreds)
        rc = previous_shred(path, previous, err);
    if (rc == VD_OK)
        rc = VD_FAULT("keyring.previous_shredded", err);
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
    rc = VD_FAULT("keyring.previous_kept", err);
    if (rc == VD_OK && rename(fresh, path) != 0)
        rc = vd_error_set_errno(err, "can't put the new keyring in its place %s", path);
    return rc == VD_OK ? sync_folder(keyring->folder, err) : rc;
}

static int save(rot_keyring_t *keyring, bool shreds, vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    uint8_t *bytes = vd_xalloc(KEYRING_FILE_MAX);
    uint32_t payload = pack(&secret->now, secret->plain);
    memcpy(bytes, KEYRING_MAGIC, 8);
    vd_put_u32(bytes + AT_FORMAT, KEYRING_FORMAT);
    vd_put_u64(bytes + AT_GENERATION, keyring->generation + 1);
    vd_rand_secret(bytes + AT_SALT, KEYRING_SALT_BYTES);
    vd_put_u32(bytes + AT_LENGTH, payload);
    vd_put_u32(bytes + AT_COUNT, secret->now.count);
    int rc = derive(secret->kek, bytes + AT_SALT, "veddb keyring check", bytes + AT_CHECK,
                    KEYRING_CHECK_BYTES, err);
    if (rc == VD_OK)
        rc = derive(secret->kek, bytes + AT_SALT, "veddb keyring", secret->derived,
                    sizeof secret->derived, err);
    if (rc == VD_OK) {
        header_digest(bytes, bytes + AT_DIGEST);
        if (!gcm(true, secret->derived, bytes, secret->plain, payload, bytes + KEYRING_HEADER_BYTES,
                 bytes + KEYRING_HEADER_BYTES + payload))
            rc = vd_error_set(err, VD_ERR_ENCRYPTION, "can't wrap the keys");
    }
    if (rc == VD_OK)
        rc = replace(keyring, bytes, (size_t)KEYRING_HEADER_BYTES + payload + KEYRING_TAG_BYTES,
                     shreds, err);
    if (rc == VD_OK)
        keyring->generation++;
    vd_wipe(secret->plain, sizeof secret->plain);
    vd_wipe(secret->derived, sizeof secret->derived);
    vd_free(bytes);
    return rc;
}

/* Whether keyring.previous is of this key-encryption key and holds no key that is destroyed. A
 * crash between the two saves of rewrap or of a destruction leaves one that isn't so. */
static bool previous_is_fit(rot_keyring_t *keyring)
{
    uint8_t *bytes = vd_xalloc(KEYRING_FILE_MAX + 1);
    char path[PATH_MAX];
    size_t len = 0;
    uint64_t generation = 0;
    vd_error_t err = VD_ERROR_INIT;
    content_t *before = &keyring->secret->undo;
    const content_t *now = &keyring->secret->now;
    path_of(keyring, "keyring.previous", path);
    int rc = read_file(path, bytes, &len, &err);
    bool fit = rc == VD_ERR_NOT_FOUND;
    if (rc == VD_OK && parse(keyring, path, bytes, len, before, &generation, &err) == VD_OK) {
        fit = true;
        for (uint32_t i = 0; i < before->count; i++) {
            const rot_key_t *key = &before->keys[i];
            bool kept = false;
            for (uint32_t j = 0; j < now->count; j++)
                kept = kept || (now->keys[j].version == key->version &&
                                now->keys[j].state != ROT_KEY_DESTROYED);
            fit = fit && (kept || key->state == ROT_KEY_DESTROYED);
        }
    }
    vd_wipe(before, sizeof *before);
    vd_free(bytes);
    return fit;
}

/* What a crash may have left holds wrapped keys, too. */
static void leftovers_shred(const rot_keyring_t *keyring)
{
    static const char *const names[] = {"keyring.new"};
    char path[PATH_MAX];
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        path_of(keyring, names[i], path);
        if (shred(path, NULL) == VD_OK)
            (void)unlink(path); /* overwritten; made anew by the next save */
    }
    path_of(keyring, "keyring.link", path);
    (void)unlink(path); /* a second name of a file that is there */
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
    if (rc == VD_OK && keyring->secret->now.count > 0) {
        leftovers_shred(keyring);
        if (!previous_is_fit(keyring))
            rc = save(keyring, true, err);
    }
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
                 : parse(keyring, "(bytes)", bytes, len, &keyring->secret->now,
                         &keyring->generation, err);
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

/* ---- changes ---- */

static void change_begin(rot_keyring_t *keyring)
{
    memcpy(&keyring->secret->undo, &keyring->secret->now, sizeof keyring->secret->now);
}

/* Saves what was made of the content in memory, or takes it back. shreds: neither generation may
 * hold what was before. */
static int commit(rot_keyring_t *keyring, bool shreds, vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    int rc = save(keyring, shreds, err);
    if (rc != VD_OK)
        memcpy(&secret->now, &secret->undo, sizeof secret->now);
    vd_wipe(&secret->undo, sizeof secret->undo);
    if (rc != VD_OK || !shreds)
        return rc;
    /* It is done: what fails here is done again at the next open. */
    vd_error_t again = VD_ERROR_INIT;
    int again_rc = VD_FAULT("keyring.half_shredded", &again);
    if (again_rc == VD_OK)
        again_rc = save(keyring, true, &again);
    if (again_rc != VD_OK)
        vd_log(VD_LOG_WARN, "the keyring's generation before is not overwritten yet",
               "error=\"%s\"", again.message);
    return VD_OK;
}

static void add(content_t *content, int64_t now)
{
    uint32_t version = content->count == 0 ? 1 : content->keys[content->count - 1].version + 1;
    for (uint32_t i = 0; i < content->count; i++) {
        if (content->keys[i].state == ROT_KEY_ACTIVE) {
            content->keys[i].state = ROT_KEY_DECRYPT_ONLY;
            content->keys[i].changed_ms = now;
        }
    }
    if (content->count == ROT_KEYS_MAX) { /* the oldest is a destroyed one */
        content->count--;
        memmove(content->keys, content->keys + 1, content->count * sizeof content->keys[0]);
    }
    rot_key_t *key = &content->keys[content->count++];
    *key = (rot_key_t){
        .version = version, .state = ROT_KEY_ACTIVE, .created_ms = now, .changed_ms = now};
    vd_rand_secret(key->id, sizeof key->id);
    vd_rand_secret(key->key, sizeof key->key);
}

bool rot_keyring_is_full(const rot_keyring_t *keyring)
{
    const content_t *now = &keyring->secret->now;
    return now->count == ROT_KEYS_MAX && now->keys[0].state != ROT_KEY_DESTROYED;
}

int rot_keyring_change(rot_keyring_t *keyring, const rot_keyring_change_t *change, vd_error_t *err)
{
    content_t *content = &keyring->secret->now;
    int64_t now = vd_wall_ms();
    bool shreds = false;
    VD_ASSERT(change->note.len <= ROT_KEYRING_NOTE_MAX);
    if (change->add && rot_keyring_is_full(keyring))
        return vd_error_set(err, VD_ERR_FULL, "the keyring holds %u keys already", content->count);
    change_begin(keyring);
    for (uint32_t i = 0; i < content->count; i++) {
        rot_key_t *key = &content->keys[i];
        if (key->state == ROT_KEY_ACTIVE || key->state == ROT_KEY_DESTROYED)
            continue;
        if (key->version <= change->destroy_upto) {
            key->state = ROT_KEY_DESTROYED;
            key->changed_ms = now;
            vd_wipe(key->key, sizeof key->key);
            shreds = true;
        } else if (key->version <= change->retire_upto && key->state != ROT_KEY_RETIRING) {
            key->state = ROT_KEY_RETIRING;
            key->changed_ms = now;
        }
    }
    if (change->add)
        add(content, now);
    if (change->note.data != NULL) {
        memcpy(content->note, change->note.data, change->note.len);
        content->note_len = (uint32_t)change->note.len;
    }
    return commit(keyring, shreds, err);
}

int rot_keyring_add(rot_keyring_t *keyring, vd_error_t *err)
{
    rot_keyring_change_t change = {.add = true};
    return rot_keyring_change(keyring, &change, err);
}

int rot_keyring_set_state(rot_keyring_t *keyring, uint32_t version, rot_key_state_t state,
                          vd_error_t *err)
{
    content_t *content = &keyring->secret->now;
    uint32_t first = content->count == 0 ? 1 : content->keys[0].version;
    if (version < first || version >= first + content->count)
        return vd_error_set(err, VD_ERR_KEY_NOT_FOUND, "there is no key version %u", version);
    rot_key_t *key = &content->keys[version - first];
    if (key->state == ROT_KEY_ACTIVE || state <= key->state)
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "key version %u can't go from %s to %s",
                            version, rot_key_state_name(key->state), rot_key_state_name(state));
    change_begin(keyring);
    key->state = state;
    key->changed_ms = vd_wall_ms();
    if (state == ROT_KEY_DESTROYED)
        vd_wipe(key->key, sizeof key->key);
    return commit(keyring, state == ROT_KEY_DESTROYED, err);
}

int rot_keyring_rewrap(rot_keyring_t *keyring, const uint8_t kek[ROT_KEY_BYTES], vd_slice_t note,
                       vd_error_t *err)
{
    keyring_secret_t *secret = keyring->secret;
    VD_ASSERT(note.len <= ROT_KEYRING_NOTE_MAX);
    if (secret->now.count == 0)
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION, "there is no keyring yet");
    if (vd_equal_constant_time(secret->kek, kek, ROT_KEY_BYTES))
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                            "that is the key-encryption key in force already");
    change_begin(keyring);
    memcpy(secret->kek_undo, secret->kek, ROT_KEY_BYTES);
    memcpy(secret->kek, kek, ROT_KEY_BYTES);
    if (note.len > 0)
        memcpy(secret->now.note, note.data, note.len);
    secret->now.note_len = (uint32_t)note.len;
    uint64_t generation = keyring->generation;
    int rc = commit(keyring, true, err);
    if (rc != VD_OK && keyring->generation == generation)
        memcpy(secret->kek, secret->kek_undo, ROT_KEY_BYTES);
    vd_wipe(secret->kek_undo, sizeof secret->kek_undo);
    return rc;
}

int rot_keyring_file(const rot_keyring_t *keyring, vd_buf_t *out, vd_error_t *err)
{
    uint8_t *bytes = vd_xalloc(KEYRING_FILE_MAX + 1);
    char path[PATH_MAX];
    size_t len = 0;
    path_of(keyring, "keyring", path);
    int rc = read_file(path, bytes, &len, err);
    if (rc == VD_ERR_NOT_FOUND)
        rc = vd_error_set(err, rc, "there is no keyring %s", path);
    if (rc == VD_OK)
        rc = vd_buf_append(out, bytes, len);
    vd_free(bytes);
    return rc;
}

vd_slice_t rot_keyring_note(const rot_keyring_t *keyring)
{
    return vd_slice(keyring->secret->now.note, keyring->secret->now.note_len);
}

uint32_t rot_keyring_count(const rot_keyring_t *keyring)
{
    return keyring->secret->now.count;
}

uint64_t rot_keyring_generation(const rot_keyring_t *keyring)
{
    return keyring->generation;
}

const rot_key_t *rot_keyring_at(const rot_keyring_t *keyring, uint32_t position)
{
    VD_ASSERT(position < keyring->secret->now.count);
    return &keyring->secret->now.keys[position];
}

const rot_key_t *rot_keyring_active(const rot_keyring_t *keyring)
{
    for (uint32_t i = 0; i < rot_keyring_count(keyring); i++)
        if (rot_keyring_at(keyring, i)->state == ROT_KEY_ACTIVE)
            return rot_keyring_at(keyring, i);
    return NULL;
}

const char *rot_key_state_name(rot_key_state_t state)
{
    static const char *const names[] = {"active", "decrypt-only", "retiring", "destroyed"};
    return names[state];
}
