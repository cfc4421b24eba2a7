/* tests/unit/engine/test_backup.c — the files of an engine that is written to, copied, put in place
 * and opened; manifests; what is refused at the first start of a copy. */
#include "libcommon/runtime/backup.h"
#include "tests/unit/engine/engine_support.h"
#include "veddb-storaged/engine/backup.h"
#include "veddb-storaged/engine/guard.h"

#include <criterion/criterion.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdatomic.h>

#define ROWS 300

typedef struct {
    place_t place, copy;
    char folder[300]; /* of the backup */
    atomic_bool stop;
    atomic_int written;
} world_t;

static int rows_put(place_t *place, int from, int to, atomic_int *written, const atomic_bool *stop)
{
    char key[32], value[3000];
    uint64_t timestamp = 0;
    stor_session_t *session = NULL;
    memset(value, 'v', sizeof value);
    value[sizeof value - 1] = '\0';
    if (stor_session_open(place->engine, &session, NULL) != VD_OK)
        return 1;
    for (int i = from; i < to && (stop == NULL || !atomic_load(stop)); i++) {
        (void)snprintf(key, sizeof key, "key-%06d", i);
        if (put_one(session, "c-1", key, value, &timestamp, NULL) != VD_OK)
            return 2;
        if (i % 50 == 0)
            wait_durable(place->engine, timestamp);
        if (written != NULL)
            atomic_store(written, i + 1);
    }
    stor_session_close(&session);
    return 0;
}

/* The keys are 0, 1, ... without a hole; how many, or -1. */
static int rows_count(place_t *place)
{
    char wanted[32];
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    vd_slice_t key, value;
    int rows = 0;
    if (stor_session_open(place->engine, &session, NULL) != VD_OK ||
        stor_cursor_open(session, "c-1", &cursor, NULL) != VD_OK ||
        stor_txn_begin(session, NULL) != VD_OK)
        return -1;
    for (; rows >= 0 && stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK; rows++) {
        (void)snprintf(wanted, sizeof wanted, "key-%06d", rows);
        if (key.len != strlen(wanted) || memcmp(key.data, wanted, key.len) != 0)
            rows = -10;
    }
    stor_txn_rollback(session);
    stor_session_close(&session);
    return rows;
}

static int file_add(world_t *world, vd_backup_manifest_t *manifest, const char *name,
                    vd_error_t *err)
{
    char from[600], to[600];
    vd_backup_file_t file = {0};
    (void)snprintf(from, sizeof from, "%s/%s", world->place.folder, name);
    (void)snprintf(to, sizeof to, "%s/%s", world->folder, name);
    (void)snprintf(file.name, sizeof file.name, "%s", name);
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vd_error_set_errno(err, "%s", from);
    int rc = vd_backup_copy(fd, (uint64_t)lseek(fd, 0, SEEK_END), to, &file, NULL, NULL, err);
    (void)close(fd);
    return rc == VD_OK ? vd_backup_file_add(manifest, &file, err) : rc;
}

static int note_add(world_t *world, vd_backup_manifest_t *manifest, const char *name, vd_buf_t *buf,
                    vd_error_t *err)
{
    vd_slice_t bytes = vd_buf_slice(buf);
    vd_backup_file_t file = {.bytes = bytes.len};
    (void)snprintf(file.name, sizeof file.name, "%s", name);
    (void)SHA256(bytes.data, bytes.len, file.sum);
    int rc = vd_backup_replace(world->folder, name, bytes, false, err);
    vd_buf_clear(buf);
    return rc == VD_OK ? vd_backup_file_add(manifest, &file, err) : rc;
}

/* As veddb-storaged/backup does it. */
static int backup_make(world_t *world, vd_error_t *err)
{
    vd_backup_manifest_t manifest = {.node = "n", .made_ms = 1};
    stor_engine_backup_t *backup = NULL, *other = NULL;
    vd_buf_t buf, text;
    uint8_t sum[32], sealed[32 + STOR_BLOCK_OVERHEAD_BYTES];
    size_t len = 0;
    vd_buf_init(&buf, 1 << 20);
    vd_buf_init(&text, 1 << 20);
    if (mkdir(world->folder, 0700) != 0)
        return VD_ERR_IO;
    int rc = stor_engine_backup_open(world->place.engine, &backup, err);
    if (rc == VD_OK &&
        stor_engine_backup_open(world->place.engine, &other, NULL) != VD_ERR_OBJECT_IS_BUSY)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "two backups at once");
    bool synced = false;
    for (size_t i = 0; rc == VD_OK && i < stor_engine_backup_count(backup); i++) {
        const char *name = stor_engine_backup_name(backup, i);
        if (stor_engine_backup_is_log(name) && !synced) {
            synced = true;
            rc = stor_engine_backup_log(backup, err);
        }
        if (rc == VD_OK)
            rc = file_add(world, &manifest, name, err);
    }
    if (rc == VD_OK)
        rc = stor_engine_backup_keys(backup, 0, &buf, manifest.versions, &manifest.version_count,
                                     err);
    if (rc == VD_OK)
        rc = note_add(world, &manifest, "VedDB.keys", &buf, err);
    if (rc == VD_OK)
        rc = stor_engine_backup_log_note(backup, &buf);
    if (rc == VD_OK)
        rc = note_add(world, &manifest, "VedDB.log", &buf, err);
    if (rc == VD_OK)
        rc = file_add(world, &manifest, "VedDB.format", err);
    stor_engine_backup_close(&backup);
    if (rc == VD_OK)
        rc = vd_backup_manifest_print(&manifest, &text);
    vd_slice_t all = vd_buf_slice(&text);
    (void)SHA256(all.data, all.len, sum);
    if (rc == VD_OK)
        rc = stor_keys_seal(world->place.keys, vd_slice(sum, 32), sealed, &len, err);
    if (rc == VD_OK)
        rc = vd_backup_replace(world->folder, VD_BACKUP_SEAL, vd_slice(sealed, len), false, err);
    if (rc == VD_OK)
        rc = vd_backup_replace(world->folder, VD_BACKUP_MANIFEST, all, false, err);
    vd_backup_manifest_done(&manifest);
    vd_buf_done(&buf);
    vd_buf_done(&text);
    return rc;
}

static void *writer(void *context)
{
    world_t *world = context;
    (void)rows_put(&world->place, ROWS, 1 << 20, &world->written, &world->stop);
    return NULL;
}

/* With a version, as the keyring gives it. */
static void keys_make(place_t *place)
{
    static const uint8_t id[STOR_KEY_ID_BYTES] = {1}, key[STOR_KEY_BYTES] = {1};
    place->keys = place->options.keys = stor_keys_create();
    cr_assert_eq(stor_keys_put_version(place->keys, id, key, STOR_KEY_ACTIVE, 3, NULL), VD_OK);
}

static void world_init(world_t *world)
{
    memset(world, 0, sizeof *world);
    place_init(&world->place);
    place_init(&world->copy);
    keys_make(&world->place);
    keys_make(&world->copy);
    (void)snprintf(world->folder, sizeof world->folder, "%s-backup", world->place.folder);
}

static void world_done(world_t *world)
{
    place_t backup = {0};
    (void)snprintf(backup.folder, sizeof backup.folder, "%.250s", world->folder);
    place_done(&backup);
    place_done(&world->copy);
    place_done(&world->place);
}

Test(backup, of_an_engine_that_is_written_to_opens_elsewhere, .timeout = 300)
{
    world_t world;
    pthread_t thread;
    vd_error_t err = VD_ERROR_INIT;
    world_init(&world);
    cr_assert_eq(place_open(&world.place, true), VD_OK);
    cr_assert_eq(stor_engine_table_create(world.place.engine, "c-1", false, NULL), VD_OK);
    cr_assert_eq(rows_put(&world.place, 0, ROWS, NULL, NULL), 0);
    cr_assert_eq(pthread_create(&thread, NULL, writer, &world), 0);
    while (atomic_load(&world.written) < ROWS + 100)
        usleep(1000);
    int before = atomic_load(&world.written);
    cr_assert_eq(backup_make(&world, &err), VD_OK, "%s", err.message);
    cr_assert_eq(access(world.place.folder, F_OK), 0);
    atomic_store(&world.stop, true);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    int after = atomic_load(&world.written);
    cr_assert_eq(vd_backup_restore(world.folder, world.copy.folder, NULL, NULL, NULL, &err), VD_OK,
                 "%s", err.message);
    cr_assert_eq(place_close(&world.place), VD_OK);
    cr_assert_eq(place_open(&world.copy, false), VD_OK, "%s", world.copy.err.message);
    int rows = rows_count(&world.copy);
    cr_assert(rows >= before && rows <= after, "%d, not %d to %d", rows, before, after);
    cr_assert_eq(rows_put(&world.copy, rows, rows + 10, NULL, NULL), 0);
    cr_assert_eq(place_close(&world.copy), VD_OK);
    cr_assert_eq(place_open(&world.copy, false), VD_OK, "%s", world.copy.err.message);
    cr_assert_eq(rows_count(&world.copy), rows + 10);
    cr_assert_eq(place_close(&world.copy), VD_OK);
    world_done(&world);
}

static void damaged(world_t *world, const char *name, long at, int code)
{
    vd_error_t err = VD_ERROR_INIT;
    place_t backup = {0};
    (void)snprintf(backup.folder, sizeof backup.folder, "%.250s", world->folder);
    cr_assert(place_flip_bit(&backup, name, at), "%s", name);
    cr_assert_eq(vd_backup_restore(world->folder, world->copy.folder, NULL, NULL, NULL, &err), code,
                 "%s: %d %s", name, err.code, err.message);
    cr_assert(place_flip_bit(&backup, name, at));
}

Test(backup, what_is_not_as_it_was_is_refused, .timeout = 300)
{
    world_t world;
    char path[512], first[128];
    vd_error_t err = VD_ERROR_INIT;
    world_init(&world);
    cr_assert_eq(place_open(&world.place, true), VD_OK);
    cr_assert_eq(stor_engine_table_create(world.place.engine, "c-1", false, NULL), VD_OK);
    cr_assert_eq(rows_put(&world.place, 0, ROWS, NULL, NULL), 0);
    cr_assert_eq(backup_make(&world, &err), VD_OK, "%s", err.message);
    cr_assert_eq(place_close(&world.place), VD_OK);
    damaged(&world, "c-1.wt", 5000, VD_ERR_BACKUP_DAMAGED);
    damaged(&world, "WiredTiger.backup", 300, VD_ERR_BACKUP_DAMAGED);
    damaged(&world, "VedDB.format", 2, VD_ERR_BACKUP_DAMAGED);
    damaged(&world, VD_BACKUP_MANIFEST, 30, VD_ERR_BACKUP_DAMAGED);
    cr_assert_eq(vd_backup_restore(world.folder, world.place.folder, NULL, NULL, NULL, &err),
                 VD_ERR_EXISTS, "never over a database");
    cr_assert_eq(
        vd_backup_restore(world.folder, world.copy.folder, world.copy.folder, NULL, NULL, NULL),
        VD_ERR_NOT_FOUND, "it has no keyring");
    vd_error_clear(&err);
    cr_assert_eq(vd_backup_restore(world.folder, world.copy.folder, NULL, NULL, NULL, &err), VD_OK,
                 "%s", err.message);
    /* WiredTiger believes its list of tables: so it must be the one that was sealed. */
    cr_assert(place_flip_bit(&world.copy, "WiredTiger.backup", 300));
    cr_assert_eq(place_open(&world.copy, false), VD_ERR_BACKUP_DAMAGED, "%s",
                 world.copy.err.message);
    cr_assert(place_flip_bit(&world.copy, "WiredTiger.backup", 300));
    place_path(&world.copy, VD_BACKUP_RESTORED, path);
    FILE *file = fopen(path, "r+");
    cr_assert_not_null(file);
    cr_assert_not_null(fgets(first, sizeof first, file));
    cr_assert_eq(fputs("node x\n", file) < 0, 0);
    (void)fclose(file);
    cr_assert_eq(place_open(&world.copy, false), VD_ERR_BACKUP_DAMAGED);
    /* Put there again it opens; a first start that did not end is told from one that did. */
    cr_assert_eq(vd_backup_restore(world.folder, world.copy.folder, NULL, NULL, NULL, &err), VD_OK,
                 "%s", err.message);
    place_path(&world.copy, "WiredTiger.turtle", path);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    (void)fclose(file);
    cr_assert_eq(place_open(&world.copy, false), VD_ERR_RESTORE_UNFINISHED);
    cr_assert_eq(vd_backup_restore(world.folder, world.copy.folder, NULL, NULL, NULL, &err), VD_OK,
                 "%s", err.message);
    cr_assert_eq(place_open(&world.copy, false), VD_OK, "%s", world.copy.err.message);
    cr_assert_eq(rows_count(&world.copy), ROWS);
    cr_assert_eq(place_close(&world.copy), VD_OK);
    cr_assert_eq(vd_backup_restore(world.folder, world.copy.folder, NULL, NULL, NULL, NULL),
                 VD_ERR_EXISTS);
    world_done(&world);
}

/* A child leaves in the middle of a backup, as a crash does. */
static int leave_in_a_backup(void *context)
{
    world_t *world = context;
    stor_keys_destroy(&world->place.keys); /* wiped in a child */
    place_keys(&world->place, 1, 1);
    stor_engine_backup_t *backup = NULL;
    if (place_open(&world->place, true) != VD_OK ||
        stor_engine_table_create(world->place.engine, "c-1", false, NULL) != VD_OK ||
        rows_put(&world->place, 0, ROWS / 2, NULL, NULL) != 0 ||
        stor_engine_backup_open(world->place.engine, &backup, NULL) != VD_OK ||
        rows_put(&world->place, ROWS / 2, ROWS, NULL, NULL) != 0 ||
        stor_engine_checkpoint(world->place.engine, NULL) != VD_OK)
        return 1;
    return 0; /* by _exit: nothing is closed */
}

Test(backup, a_crash_in_the_middle_of_one_leaves_the_database_as_it_is, .timeout = 300)
{
    world_t world;
    char path[512];
    world_init(&world);
    int status = in_child(leave_in_a_backup, &world);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    place_path(&world.place, "WiredTiger.backup", path);
    cr_assert_eq(access(path, F_OK), 0, "the engine leaves its list");
    cr_assert_eq(place_open(&world.place, false), VD_OK, "%s", world.place.err.message);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_eq(rows_count(&world.place), ROWS);
    world_done(&world);
}

/* ---- manifests ---- */

Test(backup, a_manifest_is_read_as_it_was_written_or_not_at_all)
{
    vd_backup_manifest_t manifest = {.node = "n1",
                                     .made_ms = 1234567890123,
                                     .position = UINT64_MAX,
                                     .keyring = true,
                                     .version_count = 2,
                                     .versions = {7, 3}},
                         back = {0};
    vd_backup_file_t file = {.name = "c-1.wt", .bytes = 1ull << 40, .sum = {1, 2, 255}};
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t text;
    vd_buf_init(&text, 1 << 20);
    cr_assert_eq(vd_backup_file_add(&manifest, &file, &err), VD_OK);
    (void)snprintf(file.name, sizeof file.name, "../keyring");
    cr_assert_eq(vd_backup_file_add(&manifest, &file, NULL), VD_ERR_INVALID);
    cr_assert_eq(vd_backup_manifest_print(&manifest, &text), VD_OK);
    vd_slice_t all = vd_buf_slice(&text);
    cr_assert_eq(vd_backup_manifest_parse(all, &back, &err), VD_OK, "%s", err.message);
    cr_assert_str_eq(back.node, "n1");
    cr_assert_eq(back.made_ms, manifest.made_ms);
    cr_assert_eq(back.position, UINT64_MAX);
    cr_assert(back.keyring);
    cr_assert_eq(vd_backup_oldest(&back), 3);
    cr_assert_eq(vd_backup_bytes(&back), 1ull << 40);
    cr_assert_eq(memcmp(back.files[0].sum, manifest.files[0].sum, 32), 0);
    vd_backup_manifest_done(&back);
    for (size_t i = 0; i < all.len; i++) {
        text.data[text.start + i] ^= 1;
        cr_assert_neq(vd_backup_manifest_parse(all, &back, NULL), VD_OK, "byte %zu", i);
        text.data[text.start + i] ^= 1;
        cr_assert_neq(vd_backup_manifest_parse(vd_slice(all.data, i), &back, NULL), VD_OK);
    }
    vd_backup_manifest_done(&manifest);
    vd_buf_done(&text);
}

Test(backup, names)
{
    static const struct {
        const char *name;
        bool ok;
    } rows[] = {{"monday", true},   {"2026-11-29_01.00", true},
                {"", false},        {".hidden", false},
                {"a/b", false},     {"..", false},
                {"a b", false},     {"x.partial", false},
                {".partial", false}};
    char longest[VD_BACKUP_NAME_MAX + 2];
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++)
        cr_assert_eq(vd_backup_name_ok(rows[i].name), rows[i].ok, "%s", rows[i].name);
    memset(longest, 'a', sizeof longest);
    longest[VD_BACKUP_NAME_MAX + 1] = '\0';
    cr_assert(!vd_backup_name_ok(longest));
    longest[VD_BACKUP_NAME_MAX] = '\0';
    cr_assert(vd_backup_name_ok(longest));
}
