/* veddb-rotated/audit/seal.c — see seal.h. */
#include "veddb-rotated/audit/seal.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOT_BYTES  4096
#define PLAIN_BYTES 256
#define BLOCK_BYTES (PLAIN_BYTES + ROT_BLOCK_EXTRA_BYTES)

/* What must be locked. */
typedef struct {
    rot_seal_state_t state;
    rot_sealer_t sealer;
    uint8_t plain[PLAIN_BYTES];
} secret_t;

struct rot_seal {
    char folder[PATH_MAX - 32];
    int fd; /* of seal */
    secret_t *secret;
    char unknown[33]; /* id of a key that a slot is under and the keyring doesn't have */
};

/* ---- files ---- */

int rot_file_write(int fd, const void *bytes, size_t len, uint64_t offset, const char *what,
                   vd_error_t *err)
{
    const uint8_t *p = bytes;
    int rc = VD_FAULT("audit.write", err);
    while (rc == VD_OK && len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vd_error_set_errno(err, "can't write to the audit log's %s", what);
        p += n, len -= (size_t)n, offset += (uint64_t)n;
    }
    return rc;
}

int rot_folder_sync(const char *folder, vd_error_t *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? VD_OK : vd_error_set_errno(err, "can't sync %s", folder);
    if (fd >= 0)
        (void)close(fd); /* nothing of ours in it */
    return rc;
}

int rot_file_put(const char *folder, const char *name, const void *bytes, size_t len,
                 vd_error_t *err)
{
    char path[PATH_MAX], made[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    (void)snprintf(made, sizeof made, "%s/%s.new", folder, name);
    int fd = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return vd_error_set_errno(err, "can't make %s", made);
    int rc = rot_file_write(fd, bytes, len, 0, name, err);
    if (rc == VD_OK && fsync(fd) != 0)
        rc = vd_error_set_errno(err, "can't sync %s", made);
    if (close(fd) != 0 && rc == VD_OK)
        rc = vd_error_set_errno(err, "can't close %s", made);
    if (rc == VD_OK && rename(made, path) != 0)
        rc = vd_error_set_errno(err, "can't rename %s", made);
    return rc == VD_OK ? rot_folder_sync(folder, err) : rc;
}

/* ---- slots ---- */

static void key_copy(uint8_t **p, rot_seal_key_t *key, bool out)
{
    if (out) {
        memcpy(*p, key->private_key, 32);
        memcpy(*p + 32, key->public_key, 32);
        vd_put_u64(*p + 64, key->first_head);
    } else {
        memcpy(key->private_key, *p, 32);
        memcpy(key->public_key, *p + 32, 32);
        key->first_head = vd_get_u64(*p + 64);
    }
    *p += 72;
}

static int save(rot_seal_t *seal, vd_error_t *err)
{
    secret_t *secret = seal->secret;
    rot_seal_state_t *state = &secret->state;
    uint8_t block[BLOCK_BYTES], *p = secret->plain;
    memset(p, 0, PLAIN_BYTES);
    memcpy(p, "VDAP\1\0\0\0", 8);
    vd_put_u64(p + 8, ++state->serial);
    memcpy(p + 16, state->log_id, ROT_LOG_ID_BYTES);
    vd_put_u32(p + 32, state->epoch);
    vd_put_u64(p + 40, state->head);
    memcpy(p + 48, &state->head_hash, ROT_HASH_BYTES);
    vd_put_u64(p + 80, state->tombstone);
    p += 96;
    key_copy(&p, &state->key, true);
    key_copy(&p, &state->next, true);
    int rc = rot_seal(&secret->sealer, vd_slice(secret->plain, PLAIN_BYTES), block, err);
    if (rc == VD_OK)
        rc = rot_file_write(seal->fd, block, sizeof block, state->serial % 2 * SLOT_BYTES, "seal",
                            err);
    if (rc == VD_OK && fdatasync(seal->fd) != 0)
        rc = vd_error_set_errno(err, "can't sync the audit log's seal");
    vd_wipe(secret->plain, PLAIN_BYTES);
    return rc;
}

/* One slot, if it is good and newer than what is there. */
static void slot_load(rot_seal_t *seal, int slot, rot_data_keys_t keys)
{
    secret_t *secret = seal->secret;
    uint8_t block[BLOCK_BYTES], *p = secret->plain;
    if (pread(seal->fd, block, sizeof block, (off_t)slot * SLOT_BYTES) != BLOCK_BYTES)
        return;
    const uint8_t *id = rot_block_key_id(vd_slice(block, sizeof block));
    const rot_data_key_t *key = id == NULL ? NULL : rot_data_keys_find(&keys, id);
    if (id != NULL && key == NULL)
        for (size_t i = 0; i < 16; i++)
            (void)snprintf(seal->unknown + 2 * i, 3, "%02x", id[i]);
    if (key == NULL || rot_unseal(key, vd_slice(block, sizeof block), p, NULL) != VD_OK ||
        memcmp(p, "VDAP\1\0\0\0", 8) != 0 || vd_get_u64(p + 8) <= secret->state.serial)
        return;
    rot_seal_state_t *state = &secret->state;
    state->serial = vd_get_u64(p + 8);
    memcpy(state->log_id, p + 16, ROT_LOG_ID_BYTES);
    state->epoch = vd_get_u32(p + 32);
    state->head = vd_get_u64(p + 40);
    memcpy(&state->head_hash, p + 48, ROT_HASH_BYTES);
    state->tombstone = vd_get_u64(p + 80);
    p += 96;
    key_copy(&p, &state->key, false);
    key_copy(&p, &state->next, false);
    vd_wipe(secret->plain, PLAIN_BYTES);
}

/* ---- keys ---- */

/* Appends an entry behind the good ones. */
static int publish(rot_seal_t *seal, const rot_publics_t *publics, uint32_t epoch,
                   const rot_seal_key_t *key, const rot_seal_key_t *signer, vd_error_t *err)
{
    char path[PATH_MAX];
    uint8_t bytes[ROT_PUBLIC_BYTES];
    rot_public_t entry = {.epoch = epoch,
                          .time_ms = vd_wall_ms(),
                          .first_head = key->first_head,
                          .before = publics->last};
    memcpy(entry.log_id, seal->secret->state.log_id, ROT_LOG_ID_BYTES);
    memcpy(entry.key, key->public_key, 32);
    int rc = rot_public_pack(&entry, signer->private_key, bytes, err);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(path, sizeof path, "%s/keys", seal->folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return vd_error_set_errno(err, "can't open %s", path);
    rc = rot_file_write(fd, bytes, sizeof bytes, publics->good_bytes, "keys", err);
    if (rc == VD_OK &&
        (ftruncate(fd, (off_t)(publics->good_bytes + sizeof bytes)) != 0 || fsync(fd) != 0))
        rc = vd_error_set_errno(err, "can't sync %s", path);
    (void)close(fd); /* synced */
    return rc == VD_OK ? rot_folder_sync(seal->folder, err) : rc;
}

/* The next key takes over; both slots lose the present one. */
static int take_over(rot_seal_t *seal, vd_error_t *err)
{
    rot_seal_state_t *state = &seal->secret->state;
    state->key = state->next;
    vd_wipe(&state->next, sizeof state->next);
    state->epoch++;
    int rc = save(seal, err);
    if (rc == VD_OK)
        rc = VD_FAULT("audit.seal_half_erased", err);
    return rc == VD_OK ? save(seal, err) : rc;
}

/* What a crash left half done. */
static int finish(rot_seal_t *seal, vd_error_t *err)
{
    rot_seal_state_t *state = &seal->secret->state;
    rot_publics_t publics = {0};
    int rc = rot_publics_load(seal->folder, false, false, &publics, err);
    if (rc == VD_ERR_NOT_FOUND && state->head == 0 && state->epoch == 0) {
        vd_error_clear(err);
        rc = VD_OK;
    }
    if (rc != VD_OK)
        return rc;
    if (publics.count == 0 && state->epoch == 0 && state->head == 0)
        rc = publish(seal, &publics, 0, &state->key, &state->key, err);
    else if (publics.count > 0 &&
             memcmp(publics.entries[0].log_id, state->log_id, ROT_LOG_ID_BYTES) != 0)
        rc = vd_error_set(err, VD_ERR_CORRUPT, "the audit log's keys and seal are of two logs");
    else if (state->next.first_head != 0 && publics.count == state->epoch + 1)
        rc = publish(seal, &publics, state->epoch + 1, &state->next, &state->key, err);
    else if (publics.count != state->epoch + 1 + (state->next.first_head != 0))
        rc = vd_error_set(err, VD_ERR_CORRUPT,
                          "the audit log has %u sealing keys in keys, and is at number %u",
                          publics.count, state->epoch + 1);
    rot_publics_done(&publics);
    if (rc == VD_OK && state->next.first_head != 0)
        rc = take_over(seal, err);
    else if (rc == VD_OK)
        rc = save(seal, err); /* a slot may still hold a key that has gone */
    return rc == VD_OK ? save(seal, err) : rc;
}

/* ---- life ---- */

static int create(rot_seal_t *seal, vd_error_t *err)
{
    rot_seal_state_t *state = &seal->secret->state;
    vd_rand_secret(state->log_id, sizeof state->log_id);
    state->key.first_head = 1;
    return rot_keypair(state->key.private_key, state->key.public_key, err);
}

int rot_seal_open(const char *folder, const rot_data_key_t *active, rot_data_keys_t keys,
                  rot_seal_t **ret_seal, vd_error_t *err)
{
    char path[PATH_MAX], keys_path[PATH_MAX];
    struct stat st;
    rot_seal_t *seal = vd_xalloc(sizeof *seal);
    void *secret = NULL;
    (void)snprintf(seal->folder, sizeof seal->folder, "%s", folder);
    (void)snprintf(path, sizeof path, "%s/seal", folder);
    (void)snprintf(keys_path, sizeof keys_path, "%s/keys", folder);
    seal->fd = -1;
    int rc = vd_secret_alloc(sizeof *seal->secret, &secret, err);
    seal->secret = secret;
    if (rc == VD_OK)
        rc = rot_sealer_init(&seal->secret->sealer, active, err);
    bool has_keys = stat(keys_path, &st) == 0;
    if (rc == VD_OK) {
        seal->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (has_keys ? 0 : O_CREAT), 0600);
        if (seal->fd < 0)
            rc = has_keys && errno == ENOENT
                     ? vd_error_set(err, VD_ERR_KEY_MISSING,
                                    "the audit log has lost %s: move %s away to begin a new log",
                                    path, folder)
                     : vd_error_set_errno(err, "can't open %s", path);
    }
    for (int slot = 0; rc == VD_OK && slot < 2; slot++)
        slot_load(seal, slot, keys);
    if (rc == VD_OK && seal->secret->state.serial == 0) {
        if (has_keys && seal->unknown[0] != '\0')
            rc = vd_error_set(err, VD_ERR_KEY_MISSING,
                              "the audit log's %s is under data key %s, which the keyring doesn't "
                              "have: an older keyring was put in its place, or the folder is older "
                              "than the keyring and that key is destroyed",
                              path, seal->unknown);
        else if (has_keys)
            rc = vd_error_set(err, VD_ERR_CORRUPT,
                              "the audit log's %s can't be read: it is damaged, or of other keys",
                              path);
        else
            rc = create(seal, err);
        if (rc == VD_OK)
            rc = save(seal, err);
        if (rc == VD_OK)
            rc = rot_folder_sync(folder, err);
    }
    if (rc == VD_OK)
        rc = finish(seal, err);
    if (rc == VD_OK)
        *ret_seal = seal;
    else
        rot_seal_close(&seal);
    return rc;
}

void rot_seal_close(rot_seal_t **seal_p)
{
    rot_seal_t *seal = *seal_p;
    if (seal == NULL)
        return;
    if (seal->fd >= 0)
        (void)close(seal->fd); /* synced */
    if (seal->secret != NULL)
        vd_secret_free(seal->secret, sizeof *seal->secret);
    vd_free(seal);
    *seal_p = NULL;
}

const rot_seal_state_t *rot_seal_state(const rot_seal_t *seal)
{
    return &seal->secret->state;
}

int rot_seal_head(rot_seal_t *seal, uint64_t number, const rot_hash_t *hash, vd_error_t *err)
{
    seal->secret->state.head = number;
    seal->secret->state.head_hash = *hash;
    return save(seal, err);
}

int rot_seal_tombstone(rot_seal_t *seal, uint64_t segment, vd_error_t *err)
{
    seal->secret->state.tombstone = segment;
    return save(seal, err);
}

int rot_seal_rekey(rot_seal_t *seal, const rot_data_key_t *active, vd_error_t *err)
{
    int rc = rot_sealer_init(&seal->secret->sealer, active, err);
    if (rc == VD_OK)
        rc = save(seal, err);
    if (rc == VD_OK)
        rc = VD_FAULT("audit.seal_half_wrapped", err);
    return rc == VD_OK ? save(seal, err) : rc;
}

int rot_seal_hand_over(rot_seal_t *seal, vd_error_t *err)
{
    rot_seal_state_t *state = &seal->secret->state;
    if (state->head < state->key.first_head)
        return VD_OK; /* it has signed nothing yet */
    rot_publics_t publics;
    int rc = rot_keypair(state->next.private_key, state->next.public_key, err);
    state->next.first_head = state->head + 1;
    if (rc == VD_OK)
        rc = save(seal, err);
    if (rc == VD_OK)
        rc = VD_FAULT("audit.next_key_durable", err);
    if (rc == VD_OK)
        rc = rot_publics_load(seal->folder, true, false, &publics, err);
    if (rc != VD_OK)
        return rc;
    rc = publish(seal, &publics, state->epoch + 1, &state->next, &state->key, err);
    rot_publics_done(&publics);
    if (rc == VD_OK)
        rc = VD_FAULT("audit.handed_over", err);
    return rc == VD_OK ? take_over(seal, err) : rc;
}
