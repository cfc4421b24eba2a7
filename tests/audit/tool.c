/* tests/audit/tool.c — makes an audit log with everything in it, and verifies one: for mutate.py.
 *
 * audit_tool make FOLDER      FOLDER/keys/keyring, FOLDER/audit, FOLDER/second
 * audit_tool verify FOLDER    reads folders from standard input, one a line, and prints for each
 * one line: "good", or what is wrong; the keyring is FOLDER's */
#include "libcommon/base/fault.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "veddb-rotated/audit/log.h"
#include "veddb-rotated/keyring.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static const uint8_t kek[ROT_KEY_BYTES] = "0123456789abcdef0123456789abcde";
static rot_data_key_t keys[ROT_KEYS_MAX];
static rot_data_keys_t all = {keys, 0};
static const rot_data_key_t *active;

static void must(int rc, const vd_error_t *err)
{
    if (rc == VD_OK)
        return;
    fprintf(stderr, "audit_tool: %s\n", err->message);
    exit(1);
}

static void keyring_load(const char *folder, bool make)
{
    char path[PATH_MAX];
    vd_error_t err = VD_ERROR_INIT;
    rot_keyring_t *ring = NULL;
    (void)snprintf(path, sizeof path, "%s/keys", folder);
    (void)mkdir(path, 0700); /* may be there */
    must(rot_keyring_open(path, kek, &ring, &err), &err);
    if (make)
        must(rot_keyring_add(ring, &err), &err);
    for (uint32_t i = 0; i < rot_keyring_count(ring); i++) {
        const rot_key_t *key = rot_keyring_at(ring, i);
        memcpy(keys[i].id, key->id, 16);
        memcpy(keys[i].key, key->key, 32);
        if (key->state == ROT_KEY_ACTIVE)
            active = &keys[i];
        all.count = i + 1;
    }
    rot_keyring_close(&ring);
}

static void append(rot_log_t *log, uint64_t n, uint32_t size)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_bb_t bb;
    vd_bson_t document;
    char *text = vd_xalloc(size + 1);
    memset(text, 'x', size);
    vd_bb_init(&bb, 1 << 20);
    vd_bb_cstr(&bb, "atype", "insert");
    vd_bb_int64(&bb, "n", (int64_t)n);
    vd_bb_cstr(&bb, "text", text);
    must(vd_bb_finish(&bb, &document, &err), &err);
    must(rot_log_append(log, n % 3 == 0 ? ROT_SOURCE_EVENTS : ROT_SOURCE_JOURNAL, n, 0,
                        vd_slice(document.data, document.len), &err),
         &err);
    rot_log_reached(log, (rot_positions_t){.journal = n, .events = n / 3});
    vd_bb_done(&bb);
    vd_free(text);
}

static void make(const char *folder)
{
    char audit[PATH_MAX], second[PATH_MAX];
    vd_error_t err = VD_ERROR_INIT;
    rot_log_t *log = NULL;
    (void)mkdir(folder, 0700); /* may be there */
    (void)snprintf(audit, sizeof audit, "%s/audit", folder);
    (void)snprintf(second, sizeof second, "%s/second", folder);
    (void)mkdir(second, 0700); /* may be there */
    keyring_load(folder, true);
    rot_log_options_t options = {.folder = audit,
                                 .second_place = second,
                                 .keys = all,
                                 .active = active,
                                 .segment_max_bytes = 9000,
                                 .retention_bytes = 30000};
    must(rot_log_open(&options, &log, &err), &err);
    for (uint64_t n = 1; n <= 160; n++) {
        append(log, n, (uint32_t)(n * 7 % 90));
        if (n % 4 == 0)
            must(rot_log_seal(log, &err), &err); /* key_max_ms 0: a hand-over each time */
        if (n == 70) {                           /* a start in between */
            rot_log_close(&log);
            must(rot_log_open(&options, &log, &err), &err);
        }
    }
    rot_log_close(&log);
}

static void verify(const char *keyring_folder)
{
    char line[PATH_MAX], audit[PATH_MAX + 16], second[PATH_MAX + 16];
    keyring_load(keyring_folder, false);
    while (fgets(line, sizeof line, stdin) != NULL) {
        vd_error_t err = VD_ERROR_INIT;
        rot_verdict_t verdict;
        struct stat st;
        line[strcspn(line, "\n")] = '\0';
        (void)snprintf(audit, sizeof audit, "%s/audit", line);
        (void)snprintf(second, sizeof second, "%s/second", line);
        rot_verify_options_t options = {
            .folder = audit, .second_place = stat(second, &st) == 0 ? second : "", .keys = all};
        int rc = rot_verify(&options, &verdict, &err);
        if (rc == VD_OK)
            printf("good: segments %llu-%llu, %llu records, %llu heads, %llu copies\n",
                   (unsigned long long)verdict.first_segment,
                   (unsigned long long)verdict.last.segment, (unsigned long long)verdict.records,
                   (unsigned long long)verdict.heads, (unsigned long long)verdict.copies);
        else
            printf("%s\n", err.message);
        (void)fflush(stdout); /* the reader waits for it */
    }
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "make") == 0)
        make(argv[2]);
    else if (argc == 3 && strcmp(argv[1], "verify") == 0)
        verify(argv[2]);
    else
        return 64;
    return 0;
}
