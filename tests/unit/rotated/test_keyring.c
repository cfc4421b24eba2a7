/* tests/unit/rotated/test_keyring.c — the keyring's file: generations, damage, wrong keys, states.
 */
#include "libcommon/base/assert.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/fault.h"
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

static int kek_of(const char *file, const char *command, const char *credential, bool next,
                  uint8_t key[ROT_KEY_BYTES], vd_error_t *e)
{
    rot_kek_source_t source;
    vd_error_clear(e);
    int rc = rot_kek_source_choose(file, command, credential, &source, e);
    return rc == VD_OK ? rot_kek_read(&source, next, key, e) : rc;
}

#define HEX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

Test(kek, sources)
{
    uint8_t key[ROT_KEY_BYTES];
    char path[] = "/tmp/vd-kek-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, HEX, 64), 64);
    close(fd);
    vd_error_t e = VD_ERROR_INIT;
    cr_assert_eq(kek_of(path, "", "", false, key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(kek_of(path, NULL, "", true, key, &e), VD_ERR_KEY_MISSING, "no next one");
    cr_assert_not_null(strstr(e.message, ".new"));
    cr_assert_eq(chmod(path, 0640), 0);
    cr_assert_eq(kek_of(path, "", "", false, key, &e), VD_ERR_CONFIG, "others may not read it");
    cr_assert_eq(kek_of(path, "cat /x", "", false, key, &e), VD_ERR_CONFIG, "one source only");
    cr_assert_eq(kek_of(path, "", "kek", false, key, &e), VD_ERR_CONFIG, "one source only");
    cr_assert_eq(kek_of("", "", "", false, key, &e), VD_ERR_CONFIG);
    char command[64];
    (void)snprintf(command, sizeof command, "cat %s", path);
    cr_assert_eq(kek_of("", command, "", false, key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(kek_of("", "false", "", false, key, &e), VD_ERR_KEY_MISSING);
    cr_assert_eq(kek_of("", "/no/such/program", "", false, key, &e), VD_ERR_KEY_MISSING);
    unlink(path);
    cr_assert_eq(kek_of(path, "", "", false, key, &e), VD_ERR_KEY_MISSING);
}

Test(kek, a_command_is_told_which_key_is_wanted)
{
    uint8_t key[ROT_KEY_BYTES];
    char path[] = "/tmp/vd-kek-XXXXXX";
    static const char script[] = "#!/bin/sh\ntest $VEDDB_KEK = next && echo aa$1 || echo bb$1\n";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, script, sizeof script - 1), (ssize_t)sizeof script - 1);
    cr_assert_eq(fchmod(fd, 0700), 0);
    close(fd);
    char command[128];
    (void)snprintf(command, sizeof command, "sh %s %s", path, &HEX[2]);
    vd_error_t e = VD_ERROR_INIT;
    cr_assert_eq(kek_of("", command, "", true, key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(key[0], 0xaa);
    cr_assert_eq(kek_of("", command, "", false, key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(key[0], 0xbb);
    unlink(path);
}

Test(kek, credentials_are_in_the_folder_of_the_service_manager)
{
    uint8_t key[ROT_KEY_BYTES];
    char top[] = "/tmp/vd-kek-XXXXXX", path[64];
    vd_error_t e = VD_ERROR_INIT;
    cr_assert_not_null(mkdtemp(top));
    (void)snprintf(path, sizeof path, "%s/kek.new", top);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(HEX, file);
    fclose(file);
    cr_assert_eq(chmod(path, 0440), 0); /* as an access list's mask shows */
    cr_assert_eq(unsetenv("CREDENTIALS_DIRECTORY"), 0);
    cr_assert_eq(kek_of("", "", "kek", false, key, &e), VD_ERR_KEY_MISSING);
    cr_assert_eq(setenv("CREDENTIALS_DIRECTORY", top, 1), 0);
    cr_assert_eq(kek_of("", "", "kek", false, key, &e), VD_ERR_KEY_MISSING);
    cr_assert_eq(kek_of("", "", "kek", true, key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(key[1], 0x11);
    cr_assert_eq(kek_of("", "", "../kek", true, key, &e), VD_ERR_CONFIG);
    cr_assert_eq(chmod(path, 0444), 0);
    cr_assert_eq(kek_of("", "", "kek", true, key, &e), VD_ERR_CONFIG, "others may read it");
    unlink(path);
    rmdir(top);
}

Test(kek, a_file_is_replaced_by_the_next_one)
{
    uint8_t key[ROT_KEY_BYTES];
    char path[] = "/tmp/vd-kek-XXXXXX", next[64];
    vd_error_t e = VD_ERROR_INIT;
    rot_kek_source_t source;
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, "ff" HEX, 64), 64);
    close(fd);
    (void)snprintf(next, sizeof next, "%s.new", path);
    fd = open(next, O_WRONLY | O_CREAT, 0600);
    cr_assert_eq(write(fd, HEX, 64), 64);
    close(fd);
    cr_assert_eq(rot_kek_source_choose(path, "", "", &source, &e), VD_OK);
    cr_assert_eq(source.adopt(&source, &e), VD_OK, "%s", e.message);
    cr_assert_eq(rot_kek_read(&source, false, key, &e), VD_OK, "%s", e.message);
    cr_assert_eq(key[1], 0x11);
    cr_assert_neq(access(next, F_OK), 0);
    unlink(path);
}

/* ---- rotation's part of it ---- */

/* Two keys, as version 1 of the format had them: no count, no note. */
static const char format_1[] = "5644424b52494e47010000000200000000000000af0437a77a02f0ef2a3a5225"
                               "37c2297ad804213b74868aad7306069ad3b1f0d61d7de86b69dd9de6398529c9"
                               "38a2ddc0900000000000000000000000cde507237629995ca4d21585470bdb7c"
                               "54da6c10287c35bc70b55fa4973d2d3ca021d9bd6774f6fb8ce851babad89178"
                               "0d0ac89ba28cf69b247a581055ecba734568e14b4a2cbe4a3edc06113bdf55cd"
                               "fd53cd9d398f00aae862e5753e27cf6fe44f4ac194eef7e86a59e9835a87d28a"
                               "d2a830c1a89b6ed94069076855ecd74093450393d27b158c9e81bd95b38ef604"
                               "0dd486b07efdfc32e065c9f55afb85e25aa06962d76fa50af5bca700270b00df";

Test(keyring, reads_the_format_before)
{
    char path[128];
    cr_assert_eq(reopen(kek), VD_OK);
    path_of("keyring", path);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    for (size_t i = 0; i + 1 < sizeof format_1; i += 2) {
        char digits[3] = {format_1[i], format_1[i + 1], '\0'};
        fputc((int)strtol(digits, NULL, 16), file);
    }
    fclose(file);
    cr_assert_eq(reopen(kek), VD_OK, "%s", err.message);
    cr_assert_eq(rot_keyring_count(ring), 2);
    cr_assert_eq(rot_keyring_active(ring)->version, 2);
    cr_assert_eq(rot_keyring_note(ring).len, 0);
    rot_key_t first = *rot_keyring_at(ring, 0);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_count(ring), 3);
    cr_assert_eq(memcmp(rot_keyring_at(ring, 0)->key, first.key, ROT_KEY_BYTES), 0);
}

Test(keyring, key_state_and_note_change_in_one_step)
{
    rot_keyring_change_t change = {.add = true, .note = VD_SLICE_LIT("first")};
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    change.note = VD_SLICE_LIT("second one");
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    change = (rot_keyring_change_t){.retire_upto = 2};
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert(vd_slice_is(rot_keyring_note(ring), "second one"), "kept where none was given");
    cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_RETIRING);
    cr_assert_eq(rot_keyring_active(ring)->version, 2, "the active one stays");
    change = (rot_keyring_change_t){.destroy_upto = 1, .note = VD_SLICE_LIT("")};
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_DESTROYED);
    cr_assert_eq(rot_keyring_note(ring).len, 0);
}

/* A save that dies at each of its points: the next open has the old state or the new one, whole. */
Test(keyring, a_fault_at_every_point_of_a_save)
{
    static const char *const points[] = {"keyring.new_synced", "keyring.previous_shredded",
                                         "keyring.previous_kept"};
    rot_keyring_change_t change = {.destroy_upto = 1, .note = VD_SLICE_LIT("done")};
    char spec[64];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(points); i++) {
        (void)snprintf(spec, sizeof spec, "%s=error:times=1", points[i]);
        cr_assert_eq(vd_fault_arm(spec, &err), VD_OK);
        cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_ERR_FAULT_INJECTED);
        vd_fault_disarm(NULL);
        cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_DECRYPT_ONLY, "%s", points[i]);
        cr_assert_eq(reopen(kek), VD_OK, "%s: %s", points[i], err.message);
        cr_assert_eq(rot_keyring_at(ring, 0)->state, ROT_KEY_DECRYPT_ONLY, "%s", points[i]);
    }
    /* Between the two saves of a destruction: it is done, and the next open does the rest. */
    rot_key_t before = *rot_keyring_at(ring, 0);
    cr_assert_eq(vd_fault_arm("keyring.half_shredded=error:times=1", &err), VD_OK);
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    vd_fault_disarm(NULL);
    uint64_t generation = rot_keyring_generation(ring);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_generation(ring), generation + 1, "the generation before is alike");
    cr_assert(vd_slice_is(rot_keyring_note(ring), "done"));
    char from[128], to[128];
    path_of("keyring.previous", from);
    path_of("keyring", to);
    cr_assert_eq(rename(from, to), 0);
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_neq(memcmp(rot_keyring_at(ring, 0)->key, before.key, ROT_KEY_BYTES), 0);
}

/* keyring.previous may be a second name of `keyring` after a crash: it must not be overwritten. */
Test(keyring, a_second_name_is_not_shredded)
{
    char path[128], previous[128];
    rot_keyring_change_t change = {.destroy_upto = 1};
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    path_of("keyring", path);
    path_of("keyring.previous", previous);
    cr_assert_eq(unlink(previous), 0);
    cr_assert_eq(link(path, previous), 0);
    cr_assert_eq(vd_fault_arm("keyring.previous_shredded=error:times=1", &err), VD_OK);
    cr_assert_neq(rot_keyring_change(ring, &change, &err), VD_OK);
    vd_fault_disarm(NULL);
    cr_assert_eq(reopen(kek), VD_OK, "%s", err.message);
    cr_assert_eq(rot_keyring_count(ring), 2);
}

/* The bytes of the generation that goes are overwritten, not only unlinked. */
Test(keyring, what_goes_is_overwritten)
{
    char previous[128], kept[160];
    uint8_t bytes[4096];
    rot_keyring_change_t change = {.destroy_upto = 1};
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    path_of("keyring.previous", previous);
    (void)snprintf(kept, sizeof kept, "%s/keyring.new.look", folder);
    cr_assert_eq(link(previous, kept), 0); /* so that we can see it afterwards */
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    size_t len = read_bytes("keyring.new.look", bytes, sizeof bytes);
    cr_assert_gt(len, 100);
    for (size_t i = 0; i < len; i++)
        cr_assert_eq(bytes[i], 0, "byte %zu", i);
    unlink(kept);
}

Test(keyring, rewrap_goes_over_to_another_key_at_once)
{
    char from[128], to[128];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_rewrap(ring, other_kek, VD_SLICE_NULL, &err), VD_ERR_ILLEGAL_OPERATION,
                 "there is nothing yet");
    vd_error_clear(&err);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_rewrap(ring, kek, VD_SLICE_NULL, &err), VD_ERR_ILLEGAL_OPERATION,
                 "the same key");
    vd_error_clear(&err);
    uint8_t key[ROT_KEY_BYTES];
    memcpy(key, rot_keyring_at(ring, 0)->key, sizeof key);
    cr_assert_eq(rot_keyring_rewrap(ring, other_kek, VD_SLICE_LIT("note"), &err), VD_OK);
    cr_assert_eq(reopen(kek), VD_ERR_KEY_WRONG);
    cr_assert_eq(reopen(other_kek), VD_OK);
    cr_assert_eq(memcmp(rot_keyring_at(ring, 0)->key, key, sizeof key), 0, "no data key changes");
    path_of("keyring.previous", from);
    path_of("keyring", to);
    cr_assert_eq(rename(from, to), 0);
    cr_assert_eq(reopen(kek), VD_ERR_KEY_WRONG, "the generation before, too");
    cr_assert_eq(reopen(other_kek), VD_OK);
}

Test(keyring, a_rewrap_that_dies_is_one_or_the_other)
{
    static const char *const points[] = {"keyring.new_synced", "keyring.previous_shredded",
                                         "keyring.previous_kept"};
    char spec[64];
    cr_assert_eq(reopen(kek), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    for (size_t i = 0; i < VD_COUNT_OF(points); i++) {
        (void)snprintf(spec, sizeof spec, "%s=error:times=1", points[i]);
        cr_assert_eq(vd_fault_arm(spec, &err), VD_OK);
        cr_assert_neq(rot_keyring_rewrap(ring, other_kek, VD_SLICE_NULL, &err), VD_OK);
        vd_fault_disarm(NULL);
        vd_error_clear(&err);
        cr_assert_eq(rot_keyring_add(ring, &err), VD_OK, "it goes on with the old one");
        cr_assert_eq(reopen(kek), VD_OK, "%s: %s", points[i], err.message);
    }
    cr_assert_eq(vd_fault_arm("keyring.half_shredded=error:times=1", &err), VD_OK);
    cr_assert_eq(rot_keyring_rewrap(ring, other_kek, VD_SLICE_NULL, &err), VD_OK);
    vd_fault_disarm(NULL);
    cr_assert_eq(reopen(other_kek), VD_OK, "%s", err.message);
    char from[128], to[128];
    path_of("keyring.previous", from);
    path_of("keyring", to);
    cr_assert_eq(rename(from, to), 0);
    cr_assert_eq(reopen(other_kek), VD_OK, "made alike by the open before: %s", err.message);
}

Test(keyring, is_never_full_of_destroyed_keys, .timeout = 300)
{
    cr_assert_eq(reopen(kek), VD_OK);
    for (uint32_t i = 0; i < ROT_KEYS_MAX; i++)
        cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert(rot_keyring_is_full(ring));
    cr_assert_eq(rot_keyring_add(ring, &err), VD_ERR_FULL);
    vd_error_clear(&err);
    rot_keyring_change_t change = {.destroy_upto = 3, .add = false};
    cr_assert_eq(rot_keyring_change(ring, &change, &err), VD_OK);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(rot_keyring_add(ring, &err), VD_OK);
    cr_assert_eq(rot_keyring_add(ring, &err), VD_ERR_FULL);
    cr_assert_eq(reopen(kek), VD_OK, "%s", err.message);
    cr_assert_eq(rot_keyring_count(ring), ROT_KEYS_MAX);
    cr_assert_eq(rot_keyring_at(ring, 0)->version, 4);
    cr_assert_eq(rot_keyring_active(ring)->version, ROT_KEYS_MAX + 3);
    cr_assert_eq(rot_keyring_set_state(ring, 3, ROT_KEY_DESTROYED, &err), VD_ERR_KEY_NOT_FOUND);
}
