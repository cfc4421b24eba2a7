/* tests/unit/engine/test_guard.c — every guard at open, tried: what WiredTiger would pass over in
 * silence is refused, and the message names the thing. */
#include "libcommon/base/rand.h"
#include "tests/unit/engine/engine_support.h"
#include "veddb-storaged/engine/crc32c.h"
#include "veddb-storaged/engine/guard.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <inttypes.h>

#define ROWS 400

static int fill(place_t *place, int from, int to)
{
    char key[32], value[13000];
    uint64_t timestamp = 0;
    stor_session_t *session = NULL;
    memset(value, 'v', sizeof value);
    value[sizeof value - 1] = '\0';
    if (stor_session_open(place->engine, &session, NULL) != VD_OK)
        return 1;
    for (int i = from; i < to; i++) {
        (void)snprintf(key, sizeof key, "key-%06d", i);
        if (put_one(session, "c-1", key, value, &timestamp, NULL) != VD_OK)
            return 2;
        if (i % 20 == 0)
            wait_durable(place->engine, timestamp);
    }
    wait_durable(place->engine, timestamp);
    stor_session_close(&session);
    return 0;
}

/* Leaves a database as a crash does: a checkpoint with half of the rows, the other half in the log
 * alone. */
static int make_crashed(void *arg)
{
    place_t *place = arg;
    place->options.checkpoint_wait_s = 1000;
    place_keys(place, 1, 1);
    if (place_open(place, true) != VD_OK ||
        stor_engine_table_create(place->engine, "c-1", false, NULL) != VD_OK ||
        fill(place, 0, ROWS / 2) != 0 || stor_engine_checkpoint(place->engine, NULL) != VD_OK ||
        fill(place, ROWS / 2, ROWS) != 0)
        return 1;
    usleep(500000); /* the flusher goes to sleep: what it has flushed is proven by a last marker */
    return 0;       /* by _exit: nothing is closed */
}

static int rows_count(place_t *place)
{
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    vd_slice_t key, value;
    int rows = 0;
    if (stor_session_open(place->engine, &session, NULL) != VD_OK ||
        stor_cursor_open(session, "c-1", &cursor, NULL) != VD_OK ||
        stor_txn_begin(session, NULL) != VD_OK)
        return -1;
    while (stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK)
        rows++;
    stor_txn_rollback(session);
    stor_session_close(&session);
    return rows;
}

static void crashed_init(place_t *place)
{
    place_init(place);
    int status = in_child(make_crashed, place);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}

static void refused(place_t *place, int code, const char *part)
{
    int rc = place_open(place, false);
    cr_assert_eq(rc, code, "%d, not %d: %s", rc, code, place->err.message);
    cr_assert_not_null(strstr(place->err.message, part), "'%s' lacks '%s'", place->err.message,
                       part);
    cr_assert_null(place->engine);
}

static void opens_whole(place_t *place, const char *what)
{
    cr_assert_eq(place_open(place, false), VD_OK, "%s: %s", what, place->err.message);
    cr_assert_eq(rows_count(place), ROWS, "%s: rows", what);
    cr_assert_eq(place_close(place), VD_OK, "%s: %s", what, place->err.message);
}

/* The numbers of the log files, ascending. */
static int log_files(const place_t *place, uint32_t numbers[64])
{
    int count = 0;
    DIR *dir = opendir(place->folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL && count < 64;) {
        unsigned number;
        if (sscanf(entry->d_name, "WiredTigerLog.%u", &number) == 1)
            numbers[count++] = number;
    }
    (void)closedir(dir);
    for (int i = 0; i < count; i++)
        for (int j = i + 1; j < count; j++)
            if (numbers[j] < numbers[i]) {
                uint32_t n = numbers[i];
                numbers[i] = numbers[j], numbers[j] = n;
            }
    return count;
}

static void log_name(uint32_t number, char name[64])
{
    (void)snprintf(name, 64, "WiredTigerLog.%010u", number);
}

Test(guard, crash_is_recovered)
{
    place_t place;
    crashed_init(&place);
    opens_whole(&place, "after a crash");
    opens_whole(&place, "again");
    place_done(&place);
}

Test(guard, bootstrap_and_existence)
{
    place_t place;
    place_init(&place);
    cr_assert_not(stor_engine_exists(place.folder));
    refused(&place, VD_ERR_NOT_FOUND, "holds no database");
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    /* Two on one folder, even in one process. */
    place_t second = place;
    second.engine = NULL;
    vd_error_clear(&second.err);
    cr_assert_eq(place_open(&second, false), VD_ERR_OBJECT_IS_BUSY);
    cr_assert_not_null(strstr(second.err.message, "in use"));
    cr_assert(stor_engine_exists(place.folder));
    cr_assert_eq(place_close(&place), VD_OK);
    place_done(&place);
}

Test(guard, bootstrap_refuses_what_is_there)
{
    place_t place, remains;
    place_init(&place);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(place_close(&place), VD_OK);
    cr_assert_eq(place_open(&place, true), VD_ERR_EXISTS);
    place_done(&place);
    /* One left-over file is enough. */
    place_init(&remains);
    char path[512];
    place_path(&remains, "c-7.wt", path);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    (void)fclose(file);
    cr_assert(stor_engine_exists(remains.folder));
    cr_assert_eq(place_open(&remains, true), VD_ERR_EXISTS);
    refused(&remains, VD_ERR_CORRUPT, "VedDB.format is missing");
    /* A bootstrap that did not end is made anew. */
    place_path(&remains, "VedDB.bootstrap", path);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    (void)fclose(file);
    cr_assert_not(stor_engine_exists(remains.folder));
    cr_assert_eq(place_open(&remains, true), VD_OK, "%s", remains.err.message);
    cr_assert_eq(place_close(&remains), VD_OK);
    place_done(&remains);
}

Test(guard, keys_missing_wrong_destroyed)
{
    place_t place;
    crashed_init(&place);
    place_keys(&place, 2, 1);
    refused(&place, VD_ERR_KEY_MISSING, "needs data key version 0 (id 01000000");
    place_keys(&place, 1, 2);
    refused(&place, VD_ERR_KEY_WRONG, "not the one");
    uint8_t id[STOR_KEY_ID_BYTES] = {1};
    place_keys(&place, 2, 1);
    cr_assert_eq(stor_keys_put(place.keys, id, NULL, STOR_KEY_DESTROYED, NULL), VD_OK);
    refused(&place, VD_ERR_KEY_DESTROYED, "was destroyed");
    stor_keys_destroy(&place.keys);
    place.keys = stor_keys_create();
    place.options.keys = place.keys;
    refused(&place, VD_ERR_KEY_MISSING, "no active data key");
    place_keys(&place, 1, 1);
    opens_whole(&place, "right key");
    /* Rotation: a new active key; the format file follows, and the old key opens old blocks. */
    uint8_t new_id[STOR_KEY_ID_BYTES] = {9}, new_key[STOR_KEY_BYTES] = {9};
    place_keys(&place, 1, 1);
    cr_assert_eq(stor_keys_put(place.keys, new_id, new_key, STOR_KEY_ACTIVE, NULL), VD_OK);
    opens_whole(&place, "rotated");
    opens_whole(&place, "rotated, again");
    place_done(&place);
}

Test(guard, missing_and_damaged_files)
{
    static const char *const needed[] = {"WiredTiger", "WiredTiger.wt", "WiredTiger.turtle",
                                         "VedDB.format", "VedDB.log"};
    place_t crashed;
    char path[512];
    crashed_init(&crashed);
    for (size_t i = 0; i < VD_COUNT_OF(needed); i++) {
        place_t place;
        place_copy(&crashed, &place);
        place_path(&place, needed[i], path);
        cr_assert_eq(unlink(path), 0);
        refused(&place, VD_ERR_CORRUPT, needed[i]);
        place_done(&place);
        place_copy(&crashed, &place);
        place_path(&place, needed[i], path);
        cr_assert_eq(truncate(path, 0), 0);
        refused(&place, VD_ERR_CORRUPT, needed[i]);
        place_done(&place);
    }
    for (off_t at = 0; at < place_file_size(&crashed, "VedDB.format"); at += 5) {
        place_t place;
        place_copy(&crashed, &place);
        cr_assert(place_flip_bit(&place, "VedDB.format", at));
        refused(&place, VD_ERR_CORRUPT, "VedDB.format is damaged");
        place_done(&place);
    }
    place_done(&crashed);
}

Test(guard, newer_format_is_refused)
{
    place_t place;
    char path[512];
    uint8_t bytes[256];
    crashed_init(&place);
    place_path(&place, "VedDB.format", path);
    int fd = open(path, O_RDWR);
    ssize_t len = pread(fd, bytes, sizeof bytes, 0);
    cr_assert_gt(len, 20);
    bytes[8] = 2;
    uint32_t crc = stor_crc32c(0, bytes, (size_t)len - 4);
    memcpy(bytes + len - 4, &crc, 4);
    cr_assert_eq(pwrite(fd, bytes, (size_t)len, 0), len);
    (void)close(fd);
    refused(&place, VD_ERR_UNSUPPORTED_FORMAT, "format 2");
    place_done(&place);
}

Test(guard, missing_log_files)
{
    place_t crashed;
    uint32_t numbers[64];
    char name[64], path[512];
    crashed_init(&crashed);
    int count = log_files(&crashed, numbers), refusals = 0;
    cr_assert_geq(count, 3);
    for (int i = 0; i < count; i++) {
        place_t place;
        place_copy(&crashed, &place);
        log_name(numbers[i], name);
        place_path(&place, name, path);
        cr_assert_eq(unlink(path), 0);
        if (i == 0 && place_open(&place, false) == VD_OK) {
            /* Older than the checkpoint: nobody needs it. */
            cr_assert_eq(rows_count(&place), ROWS);
        } else {
            refused(&place, VD_ERR_CORRUPT, name);
            refusals++;
        }
        place_done(&place);
    }
    cr_assert_geq(refusals, count - 1);
    place_done(&crashed);
}

/* One flipped bit anywhere in what had been flushed: refused with file and offset, or nothing is
 * lost (padding). */
Test(guard, flipped_bits_in_the_log, .timeout = 300)
{
    place_t crashed;
    uint32_t numbers[64];
    char name[64];
    vd_rand_t rand;
    vd_rand_seed(&rand, 3);
    crashed_init(&crashed);
    int count = log_files(&crashed, numbers), refusals = 0;
    for (int i = 0; i < 30; i++) {
        place_t place;
        log_name(numbers[vd_rand_below(&rand, (uint64_t)count)], name);
        off_t at = (off_t)vd_rand_below(&rand, (uint64_t)place_file_size(&crashed, name));
        place_copy(&crashed, &place);
        cr_assert(place_flip_bit(&place, name, at));
        int rc = place_open(&place, false);
        if (rc == VD_OK) {
            cr_assert_eq(rows_count(&place), ROWS, "%s %ld: rows lost", name, (long)at);
        } else {
            cr_assert_eq(rc, VD_ERR_CORRUPT, "%s", place.err.message);
            cr_assert_not_null(strstr(place.err.message, name), "%s", place.err.message);
            cr_assert_not_null(strstr(place.err.message, "offset"), "%s", place.err.message);
            refusals++;
        }
        place_done(&place);
    }
    cr_assert_gt(refusals, 10);
    place_done(&crashed);
}

/* Bytes that were written but never flushed are a torn tail: cut off, no refusal, nothing
 * acknowledged lost. */
Test(guard, torn_tail_is_cut)
{
    place_t crashed;
    uint32_t numbers[64];
    char name[64], path[512];
    crashed_init(&crashed);
    int count = log_files(&crashed, numbers);
    log_name(numbers[count - 1], name);
    place_path(&crashed, name, path);
    /* Where the records end: the last byte that is not zero, up to the next boundary. */
    off_t size = place_file_size(&crashed, name), end = 0;
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    for (off_t at = 0; at < size; at++)
        if (fgetc(file) != 0)
            end = (at / 128 + 1) * 128;
    (void)fclose(file);
    for (int kind = 0; kind < 4; kind++) {
        place_t place;
        place_copy(&crashed, &place);
        place_path(&place, name, path);
        int fd = open(path, O_RDWR);
        uint8_t junk[700];
        memset(junk, 0xa5, sizeof junk);
        if (kind == 1) { /* a plausible length, wrong sum */
            junk[0] = 0x80, junk[1] = 2, junk[2] = junk[3] = 0;
        }
        if (kind == 2) /* a hole, then junk */
            cr_assert_eq(pwrite(fd, junk, 100, end + 4096), 100);
        else
            cr_assert_eq(pwrite(fd, junk, sizeof junk, end + (kind == 3 ? 128 : 0)),
                         (ssize_t)sizeof junk);
        (void)close(fd);
        opens_whole(&place, "torn tail");
        place_done(&place);
    }
    place_done(&crashed);
}

/* WiredTiger's own files: any one flipped bit is refused, or does no harm. All pages damaged:
 * refused. */
Test(guard, flipped_bits_in_metadata, .timeout = 300)
{
    static const char *const files[] = {"WiredTiger.turtle", "WiredTiger.wt"};
    place_t crashed;
    vd_rand_t rand;
    vd_rand_seed(&rand, 5);
    crashed_init(&crashed);
    for (int i = 0; i < 30; i++) {
        place_t place;
        const char *name = files[i % 2];
        off_t at = (off_t)vd_rand_below(&rand, (uint64_t)place_file_size(&crashed, name));
        place_copy(&crashed, &place);
        cr_assert(place_flip_bit(&place, name, at));
        if (place_open(&place, false) == VD_OK) {
            cr_assert_eq(rows_count(&place), ROWS, "%s %ld: rows lost", name, (long)at);
            cr_assert_eq(place_close(&place), VD_OK);
        }
        place_done(&place);
    }
    place_t place;
    place_copy(&crashed, &place);
    for (off_t at = 100; at < place_file_size(&place, "WiredTiger.wt"); at += 512)
        cr_assert(place_flip_bit(&place, "WiredTiger.wt", at));
    cr_assert_eq(place_open(&place, false), VD_ERR_CORRUPT);
    place_done(&place);
    place_done(&crashed);
}

/* After a close in order the turtle is known byte for byte; the note of it is gone once it is open.
 */
Test(guard, every_flipped_bit_of_the_turtle_after_a_close)
{
    place_t crashed, closed;
    char path[512];
    crashed_init(&crashed);
    cr_assert_eq(place_open(&crashed, false), VD_OK, "%s", crashed.err.message);
    place_path(&crashed, "VedDB.closed", path);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_eq(place_close(&crashed), VD_OK);
    cr_assert_eq(access(path, F_OK), 0);
    place_copy(&crashed, &closed);
    opens_whole(&closed, "closed");
    place_done(&closed);
    for (off_t at = 0; at < place_file_size(&crashed, "WiredTiger.turtle"); at += 7) {
        place_copy(&crashed, &closed);
        cr_assert(place_flip_bit(&closed, "WiredTiger.turtle", at));
        refused(&closed, VD_ERR_CORRUPT, "WiredTiger.turtle is damaged");
        place_done(&closed);
    }
    for (off_t at = 0; at < place_file_size(&crashed, "VedDB.closed"); at += 11) {
        place_copy(&crashed, &closed);
        cr_assert(place_flip_bit(&closed, "VedDB.closed", at));
        cr_assert_neq(place_open(&closed, false), VD_OK);
        cr_assert(strstr(closed.err.message, "VedDB.closed") != NULL, "%s", closed.err.message);
        place_done(&closed);
    }
    place_done(&crashed);
}

/* A damaged block of a table: a read ends the process with its own exit code (never a wrong
 * answer); verify says so and the process lives. */
static int read_all(void *arg)
{
    place_t *place = arg;
    if (freopen("/dev/null", "w", stderr) == NULL)
        return 99;
    place_keys(place, 1, 1);
    if (place_open(place, false) != VD_OK)
        return 1;
    return rows_count(place) == ROWS ? 0 : 2;
}

static int verify_all(void *arg)
{
    place_t *place = arg;
    if (freopen("/dev/null", "w", stderr) == NULL)
        return 99;
    place_keys(place, 1, 1);
    if (place_open(place, false) != VD_OK)
        return 1;
    int rc = stor_engine_table_verify(place->engine, "c-1", &place->err);
    return rc == VD_ERR_CORRUPT && strstr(place->err.message, "c-1") != NULL ? 0 : 2;
}

static char words_wanted;

static _Noreturn void last_words(const vd_error_t *err, void *context)
{
    _exit(context == &words_wanted && strstr(err->message, "block") != NULL ? 77 : 78);
}

static int read_all_with_words(void *arg)
{
    stor_engine_last_words(last_words, &words_wanted);
    return read_all(arg);
}

Test(guard, flipped_bit_in_a_table)
{
    place_t crashed;
    crashed_init(&crashed);
    opens_whole(&crashed, "closed in order");
    int status = in_child(read_all, &crashed);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    off_t size = place_file_size(&crashed, "c-1.wt");
    cr_assert_gt(size, 100000);
    for (off_t at = 8192 + 1000; at < size; at += 4096)
        cr_assert(place_flip_bit(&crashed, "c-1.wt", at));
    place_t place;
    place_copy(&crashed, &place);
    status = in_child(read_all, &place);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == STOR_EXIT_PANIC, "status %x", status);
    place_done(&place);
    place_copy(&crashed, &place);
    status = in_child(read_all_with_words, &place);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 77, "status %x", status);
    place_done(&place);
    place_copy(&crashed, &place);
    status = in_child(verify_all, &place);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    place_done(&place);
    place_done(&crashed);
}

/* No name and no content in any file. */
Test(guard, nothing_is_readable_on_disk)
{
    static const char marker[] = "PLAINTEXT-MARKER-7c1f";
    place_t place;
    place_init(&place);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    for (int snappy = 0; snappy < 2; snappy++) {
        char table[8], key[64], value[3000];
        (void)snprintf(table, sizeof table, "c-%d", snappy);
        cr_assert_eq(stor_engine_table_create(place.engine, table, snappy == 1, &place.err), VD_OK,
                     "%s", place.err.message);
        stor_session_t *session = NULL;
        cr_assert_eq(stor_session_open(place.engine, &session, NULL), VD_OK);
        memset(value, 'm', sizeof value);
        (void)memcpy(value + 1000, marker, sizeof marker - 1);
        value[sizeof value - 1] = '\0';
        uint64_t timestamp = 0;
        for (int i = 0; i < 50; i++) {
            (void)snprintf(key, sizeof key, "%s-%d", marker, i);
            cr_assert_eq(put_one(session, table, key, value, &timestamp, NULL), VD_OK);
        }
        wait_durable(place.engine, timestamp);
        stor_session_close(&session);
    }
    cr_assert_eq(stor_engine_checkpoint(place.engine, NULL), VD_OK);
    char command[600];
    (void)snprintf(command, sizeof command, "grep -r -a -q -e %s %s", marker, place.folder);
    cr_assert_neq(system(command), 0);
    /* The search itself works. */
    char path[512];
    place_path(&place, "seen", path);
    FILE *file = fopen(path, "w");
    (void)fputs(marker, file);
    (void)fclose(file);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(place_close(&place), VD_OK);
    place_done(&place);
}

Test(guard, crc32c_known_answers)
{
    cr_assert_eq(stor_crc32c(0, "123456789", 9), 0xE3069283u);
    cr_assert_eq(stor_crc32c(0, "", 0), 0u);
    uint8_t zeros[32] = {0};
    cr_assert_eq(stor_crc32c(0, zeros, 32), 0x8A9136AAu);
    for (size_t cut = 0; cut <= 9; cut++)
        cr_assert_eq(stor_crc32c(stor_crc32c(0, "123456789", cut), &"123456789"[cut], 9 - cut),
                     0xE3069283u);
}
