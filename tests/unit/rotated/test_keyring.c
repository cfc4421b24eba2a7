/* tests/unit/rotated/test_keyring.c — the keyring's file: generations, damage, wrong keys, states.
 */
#include "veddb-rotated/keyring.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t kek[ROT_KEY_BYTES] = "0123456789abcdef0123456789abcde";
static const uint8_t other_kek[ROT_KEY_BYTES] = "another key, of thirty-two bytes";

static char folder[64];
static rot_keyring_t *ring;
static vd_error_t err;

static void set_up(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/vd-keyring-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    err = (vd_error_t)VD_ERROR_INIT;
    ring = NULL;
}

static void tear_down(void)
{
    static const char *const names[] = {"keyring", "keyring.previous", "keyring.new",
                                        "keyring.link"};
    char path[128];
    rot_keyring_close(&ring);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(folder);
}

TestSuite(keyring, .init = set_up, .fini = tear_down);

static int reopen(const uint8_t *key)
{
    rot_keyring_close(&ring);
    err = (vd_error_t)VD_ERROR_INIT;
    return rot_keyring_open(folder, key, &ring, &err);
}

static void path_of(const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", folder, name);
}

static size_t read_bytes(const char *name, uint8_t *bytes, size_t max)
{
    char path[128];
    path_of(name, path);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, bytes, max);
    if (fd >= 0)
        close(fd);
    return n < 0 ? 0 : (size_t)n;
}

static void flip(const char *name, off_t at)
{
    char path[128];
    uint8_t byte;
    path_of(name, path);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

Test(keyring, empty_at_first_then_kept)
{
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_count(ring), 0);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    rot_key_t before = *rot_keyring_at(ring, 0);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_count(ring), 1);
    cr_assert_eq(rot_keyring_generation(ring), 1);
    cr_assert_eq(memcmp(rot_keyring_at(ring, 0)->key, before.key, ROT_KEY_BYTES), 0);
    cr_assert_eq(memcmp(rot_keyring_at(ring, 0)->id, before.id, ROT_KEY_ID_BYTES), 0);
    char path[128];
    struct stat st;
    path_of("keyring", path);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
}

Test(keyring, key_bytes_are_in_no_file)
{
    uint8_t bytes[32768];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    static const char *const names[] = {"keyring", "keyring.previous"};
    for (int i = 0; i < 2; i++) {
        size_t len = read_bytes(names[i], bytes, sizeof bytes);
        cr_assert_gt(len, 100);
        cr_assert_null(memmem(bytes, len, rot_keyring_at(ring, 0)->key, 8));
        cr_assert_null(memmem(bytes, len, kek, 8));
    }
}

Test(keyring, wrong_key_is_told_from_damage)
{
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(reopen(other_kek), VD_ERR_KEY_WRONG);
    cr_assert_not_null(strstr(err.message, "keyring"));
}

Test(keyring, every_flipped_bit_is_found)
{
    uint8_t bytes[4096];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    size_t len = read_bytes("keyring", bytes, sizeof bytes);
    for (off_t at = 0; at < (off_t)len; at++) {
        flip("keyring", at);
        cr_assert_eq(reopen(kek), VD_ERR_CORRUPT, "byte %ld: %s", (long)at, err.message);
        cr_assert_not_null(strstr(err.message, "keyring"));
        flip("keyring", at);
    }
    cr_assert_eq(reopen(kek), VD_OK);
}

Test(keyring, truncation_is_found)
{
    char path[128];
    uint8_t bytes[4096];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    size_t len = read_bytes("keyring", bytes, sizeof bytes);
    path_of("keyring", path);
    for (size_t keep = 0; keep < len; keep += 7) {
        cr_assert_eq(truncate(path, (off_t)keep), 0);
        cr_assert_eq(reopen(kek), VD_ERR_CORRUPT);
    }
}

Test(keyring, a_lost_keyring_is_not_taken_for_a_new_one)
{
    char path[128];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    path_of("keyring", path);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(reopen(kek), VD_ERR_KEY_MISSING);
    cr_assert_not_null(strstr(err.message, "keyring.previous"));
}

Test(keyring, states_go_forward_only)
{
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_set_state(ring, 1, ROT_KEY_RETIRING, &err), VD_ERR_ILLEGAL_OPERATION,
                 "the active key stays");
    err = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_DECRYPT_ONLY);
    cr_assert_eq(rot_keyring_at(ring, 1)->state, ROT_KEY_ACTIVE);
    err = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_keyring_set_state(ring, 1, ROT_KEY_RETIRING, &err), VD_OK);
    cr_assert_eq(rot_keyring_set_state(ring, 1, ROT_KEY_DECRYPT_ONLY, &err),
                 VD_ERR_ILLEGAL_OPERATION);
    err = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_keyring_set_state(ring, 9, ROT_KEY_DESTROYED, &err), VD_ERR_KEY_NOT_FOUND);
}

Test(keyring, a_destroyed_key_is_gone_from_both_generations)
{
    char from[128], to[128];
    static const uint8_t zero[ROT_KEY_BYTES];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_set_state(ring, 1, ROT_KEY_DESTROYED, &err), VD_OK);
    path_of("keyring.previous", from);
    path_of("keyring", to);
    for (int generation = 0; generation < 2; generation++) {
        cr_assert_eq(reopen(kek), VD_OK, "%s", err.message);
        cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_DESTROYED);
        cr_assert_eq(memcmp(rot_keyring_at(ring, 0)->key, zero, sizeof zero), 0);
        if (generation == 0)
            cr_assert_eq(rename(from, to), 0);
    }
}

Test(keyring, a_failed_save_changes_nothing)
{
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    char path[128], blocked[128];
    path_of("keyring.new", path);
    cr_assert_eq(mkdir(path, 0700), 0); /* the new file can't be made */
    cr_assert_neq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_count(ring), 1);
    cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_ACTIVE);
    path_of("keyring.new", blocked);
    cr_assert_eq(rmdir(blocked), 0);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_count(ring), 1);
}

Test(kek, forms)
{
    uint8_t key[ROT_KEY_BYTES];
    vd_error_t e = VD_ERROR_INIT;
    cr_assert_eq(
        rot_kek_parse(
            vd_slice_str("00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n"), key,
            &e),
        VD_OK);
    cr_assert_eq(key[1], 0x11);
    cr_assert_eq(key[31], 0xff);
    cr_assert_eq(
        rot_kek_parse(vd_slice_str("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), key, &e),
        VD_OK);
    cr_assert_eq(key[31], 31);
    static const char *const bad[] = {
        "",
        "   \n",
        "0011",
        "zz112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdH==="};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        e = (vd_error_t)VD_ERROR_INIT;
        cr_assert_neq(rot_kek_parse(vd_slice_str(bad[i]), key, &e), VD_OK, "%s", bad[i]);
    }
}

Test(kek, sources)
{
    uint8_t key[ROT_KEY_BYTES];
    char path[] = "/tmp/vd-kek-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", 64),
                 64);
    close(fd);
    vd_error_t e = VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read(path, "", key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(chmod(path, 0640), 0);
    cr_assert_eq(rot_kek_read(path, "", key, &e), VD_ERR_CONFIG, "others may not read it");
    e = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read(path, "cat /x", key, &e), VD_ERR_CONFIG, "one source only");
    e = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read("", "", key, &e), VD_ERR_CONFIG);
    char command[64];
    (void)snprintf(command, sizeof command, "cat %s", path);
    e = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read("", command, key, &e), VD_OK, "%s", e.message);
    e = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read("", "false", key, &e), VD_ERR_KEY_MISSING);
    e = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read("", "/no/such/program", key, &e), VD_ERR_KEY_MISSING);
    unlink(path);
    e = (vd_error_t)VD_ERROR_INIT;
    cr_assert_eq(rot_kek_read(path, "", key, &e), VD_ERR_KEY_MISSING);
}
