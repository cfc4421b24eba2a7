/* tests/unit/storaged/test_snapshot_rollback.c — what a diverged node wrote above the common point
 * is saved: the right documents, once each, in files that parse, with the right modes. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/replication/load.h"

#include <fcntl.h>

typedef struct {
    uint8_t *bytes;
    size_t len, at;
} bson_file_t;

static bson_file_t file_read(const char *folder, const char *name)
{
    char path[600];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(stat(path, &st), 0, "%s", path);
    cr_assert_eq(st.st_mode & 0777, 0600);
    bson_file_t file = {.bytes = malloc((size_t)st.st_size + 1), .len = (size_t)st.st_size};
    FILE *f = fopen(path, "rb");
    cr_assert_eq(fread(file.bytes, 1, file.len, f), file.len);
    fclose(f);
    return file;
}

static bool file_next(bson_file_t *file, vd_bson_t *ret)
{
    vd_error_t err = VD_ERROR_INIT;
    if (file->at == file->len)
        return false;
    reads_ok(vd_bson_peek(vd_slice(file->bytes + file->at, file->len - file->at), ret, &err), &err);
    reads_ok(vd_bson_validate(vd_slice(ret->data, ret->len), VD_BSON_CHECK_UTF8, 200, &err), &err);
    file->at += ret->len;
    return true;
}

/* The documents of a file, as text, in order. */
static void check_file(const char *folder, const char *name, const char *const *expected,
                       size_t count)
{
    vd_arena_t *arena = vd_arena_create();
    bson_file_t file = file_read(folder, name);
    vd_bson_t document;
    size_t n = 0;
    for (; file_next(&file, &document); n++) {
        const char *text = vd_bson_to_json(arena, document, 2000);
        cr_assert_lt(n, count, "%s has too much: %s", name, text);
        cr_assert_str_eq(text, expected[n]);
    }
    cr_assert_eq(n, count, "%s", name);
    free(file.bytes);
    vd_arena_destroy(&arena);
}

static void run(reads_t *reads, const char *db, const char *command)
{
    cr_assert_eq(reads_run(reads, db, command), VD_OK, "%s: %s", command, reads_text(reads));
}

Test(snapshot_rollback, files)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_t *reads = reads_open();
    stor_storage_t *storage = &reads->storage;
    run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1}, {'_id': 2}, {'_id': 3}]}");
    run(reads, "db", "{'insert': 'd', 'documents': [{'_id': 1}]}");
    uint64_t to = stor_engine_newest(storage->engine);
    run(reads, "db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 2}}}]}");
    run(reads, "db", "{'update': 'c', 'updates': [{'q': {'_id': 1}, 'u': {'$set': {'a': 3}}}]}");
    run(reads, "db", "{'delete': 'c', 'deletes': [{'q': {'_id': 2}, 'limit': 1}]}");
    run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 2}]}");
    run(reads, "db", "{'delete': 'c', 'deletes': [{'q': {'_id': 2}, 'limit': 1}]}");
    run(reads, "db", "{'delete': 'c', 'deletes': [{'q': {'_id': 3}, 'limit': 1}]}");
    run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 3, 'again': true}]}");
    run(reads, "db", "{'insert': 'x/../y z', 'documents': [{'_id': 'z'}]}");
    run(reads, "db", "{'insert': 'dropped', 'documents': [{'_id': 1}]}");
    run(reads, "db", "{'drop': 'dropped'}");
    reads->flags |= VDP_COMMAND_INTERNAL;
    run(reads, "admin", "{'insert': 'system.keys', 'documents': [{'_id': 1, 'key': 'secret'}]}");
    reads->flags &= ~(uint32_t)VDP_COMMAND_INTERNAL;
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    uint64_t documents = 0;
    vd_buf_t folder;
    vd_buf_init(&folder, 4096);
    atomic_store(&storage->replication->role, VDP_ROLE_PRIMARY);
    cr_assert_eq(stor_rollback_save(storage, reads->session, to, &documents, &folder, NULL),
                 VD_ERR_BAD_VALUE);
    atomic_store(&storage->replication->role, VDP_ROLE_RECOVERING);
    reads_ok(stor_rollback_save(storage, reads->session, to, &documents, &folder, &err), &err);
    char path[500];
    snprintf(path, sizeof path, "%.*s", VD_SLICE_FMT(vd_buf_slice(&folder)));
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
    cr_assert_eq(documents, 4);
    static const char *const c[] = {"{ \"_id\": 1, \"a\": 3 }", "{ \"_id\": 3, \"again\": true }"};
    static const char *const x[] = {"{ \"_id\": \"z\" }"};
    static const char *const removed[] = {"{ \"ns\": \"db.c\", \"_id\": 2 }"};
    check_file(path, "db.c.bson", c, 2);
    check_file(path, "db.x%2F..%2Fy%20z.bson", x, 1);
    check_file(path, "removed.bson", removed, 1);
    /* That a signing key was made stands in journal.bson alone, without the key. */
    char keys[600];
    snprintf(keys, sizeof keys, "%s/admin.system.keys.bson", path);
    cr_assert_eq(stat(keys, &st), -1);
    bson_file_t journal = file_read(path, "journal.bson");
    vd_bson_t entry;
    static const char *const kinds[] = {"update", "update", "delete", "insert", "delete",
                                        "delete", "insert", "create", "insert", "create",
                                        "insert", "drop",   "create", "insert"};
    size_t n = 0;
    uint64_t last = to;
    for (; file_next(&journal, &entry); n++) {
        cr_assert_lt(n, VD_COUNT_OF(kinds));
        cr_assert(vd_slice_is(vd_value_string(vd_bson_get(entry, "kind")), kinds[n]), "%zu", n);
        cr_assert(vd_slice_is(vd_value_string(vd_bson_get(entry, "user")), "ann@admin"));
        cr_assert_gt(vd_value_timestamp(vd_bson_get(entry, "ts")), last);
        cr_assert(vd_value_is_missing(vd_bson_get(entry, "key")));
        last = vd_value_timestamp(vd_bson_get(entry, "ts"));
    }
    cr_assert_eq(n, VD_COUNT_OF(kinds));
    free(journal.bytes);
    /* Again in the same second: another folder; above the end: nothing. */
    vd_buf_clear(&folder);
    reads_ok(stor_rollback_save(storage, reads->session, last, &documents, &folder, &err), &err);
    cr_assert_eq(documents, 0);
    cr_assert_neq(strncmp(path, (const char *)vd_buf_slice(&folder).data, vd_buf_len(&folder)), 0);
    vd_buf_done(&folder);
    stor_replication_close(&storage->replication);
    reads_close(reads);
}

/* The journal begins above the common point (this node was copied not long ago): what it has is
 * saved, and nothing is asked of it for ever. */
Test(snapshot_rollback, journal_begins_later)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_t *reads = reads_open();
    stor_storage_t *storage = &reads->storage;
    run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 1}]}");
    uint64_t position = stor_engine_newest(storage->engine);
    reads_ok(stor_journal_restart(storage->journal, reads->session, position, &err), &err);
    run(reads, "db", "{'insert': 'c', 'documents': [{'_id': 2}]}");
    uint64_t documents = 0;
    vd_buf_t folder;
    vd_buf_init(&folder, 4096);
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    atomic_store(&storage->replication->role, VDP_ROLE_RECOVERING);
    reads_ok(stor_rollback_save(storage, reads->session, 0, &documents, &folder, &err), &err);
    cr_assert_eq(documents, 1);
    char path[500];
    static const char *const c[] = {"{ \"_id\": 2 }"};
    snprintf(path, sizeof path, "%.*s", VD_SLICE_FMT(vd_buf_slice(&folder)));
    check_file(path, "db.c.bson", c, 1);
    vd_buf_done(&folder);
    stor_replication_close(&storage->replication);
    reads_close(reads);
}

/* Many collections and documents: more than is buffered; names longer than a file's may be. */
Test(snapshot_rollback, much)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_t *reads = reads_open();
    stor_storage_t *storage = &reads->storage;
    vd_bb_t bb;
    static uint8_t bytes[20000];
    vd_bb_init(&bb, 48 << 20);
    for (int c = 0; c < 3; c++) {
        char name[200];
        vd_bson_t list;
        memset(name, '%', sizeof name);
        snprintf(name + 150, 20, "%d", c);
        vd_bb_reset(&bb);
        for (int i = 0; i < 400; i++) {
            char number[12];
            vd_bb_open_document(&bb, vd_array_name((uint32_t)i, number));
            vd_bb_int32(&bb, "_id", i);
            vd_bb_binary(&bb, "b", 0, vd_slice(bytes, sizeof bytes));
            vd_bb_close(&bb);
        }
        cr_assert_eq(vd_bb_finish(&bb, &list, NULL), VD_OK);
        reads_insert(reads, "db", name, list);
    }
    vd_bb_done(&bb);
    uint64_t documents = 0;
    vd_buf_t folder;
    vd_buf_init(&folder, 4096);
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    atomic_store(&storage->replication->role, VDP_ROLE_RECOVERING);
    reads_ok(stor_rollback_save(storage, reads->session, 0, &documents, &folder, &err), &err);
    cr_assert_eq(documents, 1200);
    for (uint64_t id = 1; id <= 3; id++) {
        char path[500], name[260], cut[32];
        snprintf(path, sizeof path, "%.*s", VD_SLICE_FMT(vd_buf_slice(&folder)));
        snprintf(cut, sizeof cut, "~%llu.bson", (unsigned long long)id);
        size_t len = (size_t)snprintf(name, sizeof name, "db.");
        while (len + 3 <= 200)
            len += (size_t)snprintf(name + len, sizeof name - len, "%%25");
        snprintf(name + len, sizeof name - len, "%s", cut);
        bson_file_t file = file_read(path, name);
        vd_bson_t document;
        int n = 0;
        while (file_next(&file, &document))
            cr_assert_eq(vd_value_int32(vd_bson_get(document, "_id")), n++);
        cr_assert_eq(n, 400);
        free(file.bytes);
    }
    vd_buf_done(&folder);
    stor_replication_close(&storage->replication);
    reads_close(reads);
}
