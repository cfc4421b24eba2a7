/* tests/unit/storaged/reads_support.h — engine, catalog, journal, sessions and cursors over a
 * folder of its own, and commands run on them as a worker does: for tests of the commands that
 * read. */
#pragma once
#include "libcommon/base/clock.h"
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/catalog/counters.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/exec/planner.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/registry.h"
#include "veddb-storaged/sessions.h"
#include "veddb-storaged/write.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define READS_SUPPORT __attribute__((unused)) static

typedef struct {
    char folder[256];
    stor_storage_t storage;
    stor_session_t *session;
    vd_arena_t *arena; /* of the running command and its reply */
    vd_arena_t *texts;
    stor_request_t request;
    vd_bson_t reply;
    const char *user;
    const char *visible; /* what the gateway says the user may see; NULL = all */
    uint32_t flags;
    int64_t txn_number; /* of a retryable write in the session below; 0 = none */
    bool in_session;    /* commands carry the session below, also without a txn_number */
    uint8_t lsid[16], lsid_user[32];
    vdp_sequence_t sequence; /* goes with the next command; empty name = none */
} reads_t;

static const stor_command_t reads_table[] = {
#define STOR_READ_ROW(command, flag_bits, handler, point_look)                                     \
    {.name = command, .flags = flag_bits, .run = handler},
#include "veddb-storaged/commands/reads.def"
#undef STOR_READ_ROW
};

READS_SUPPORT uint64_t reads_cache_bytes = 32 << 20;
READS_SUPPORT bool reads_versioned; /* with a table of versions, beside the folder */

READS_SUPPORT void reads_ok(int rc, const vd_error_t *err)
{
    cr_assert_eq(rc, VD_OK, "%d: %s", -rc, err->message);
}

READS_SUPPORT void reads_start(reads_t *reads, bool bootstrap)
{
    stor_storage_t *storage = &reads->storage;
    vd_error_t err = VD_ERROR_INIT;
    stor_engine_options_t options = {.folder = reads->folder,
                                     .cache_bytes = reads_cache_bytes,
                                     .eviction_threads_max = 2,
                                     .sessions_max = 32,
                                     .bootstrap = bootstrap,
                                     .keys = storage->keys,
                                     .versions = storage->versions,
                                     .log_file_max_bytes = 1 << 20,
                                     .reserve_min_bytes = 1 << 20};
    reads_ok(stor_engine_open(&options, &storage->engine, &err), &err);
    reads_ok(stor_catalog_open(storage, &storage->catalog, &err), &err);
    reads_ok(stor_journal_open(storage, &storage->journal, &err), &err);
    reads_ok(stor_sessions_open(storage, &storage->sessions, &err), &err);
    reads_ok(stor_cursors_open(storage, &storage->cursors, &err), &err);
    reads_ok(stor_session_open(storage->engine, &reads->session, &err), &err);
    reads_ok(stor_counters_load(storage, reads->session, &err), &err);
}

/* Over a folder that is there; bootstrap: it is empty. */
READS_SUPPORT reads_t *reads_open_at(const char *folder, bool bootstrap)
{
    reads_t *reads = calloc(1, sizeof *reads);
    stor_storage_t *storage = &reads->storage;
    vd_error_t err = VD_ERROR_INIT;
    uint8_t key_id[STOR_KEY_ID_BYTES] = {1}, key[STOR_KEY_BYTES] = {1};
    snprintf(reads->folder, sizeof reads->folder, "%s", folder);
    storage->keys = stor_keys_create();
    reads_ok(stor_keys_put(storage->keys, key_id, key, STOR_KEY_ACTIVE, &err), &err);
    storage->settings = (stor_settings_t){.cursor_idle_max_ms = 600000,
                                          .session_idle_max_ms = 1800000,
                                          .journal_max_bytes = 1 << 26,
                                          .replica_set = "rs0",
                                          .address = "db.example:27018",
                                          .data_folder = reads->folder};
    storage->started_wall_ms = vd_wall_ms();
    storage->started_monotonic_ms = vd_monotonic_ms();
    pthread_mutex_init(&storage->registry_lock, NULL);
    if (reads_versioned) {
        char path[300];
        snprintf(path, sizeof path, "%s.versions", folder);
        reads_ok(stor_versions_open(path, storage->boot_id, &storage->versions, &err), &err);
        stor_versions_serve(storage->versions, true);
        unlink(path); /* the mapping is enough */
    }
    reads_start(reads, bootstrap);
    storage->planner = stor_planner_create();
    reads->arena = vd_arena_create();
    reads->texts = vd_arena_create();
    reads->user = "ann@admin";
    reads->flags = VDP_COMMAND_ALL_USERS;
    return reads;
}

/* A new folder. */
READS_SUPPORT void reads_folder(char *folder, size_t size)
{
    snprintf(folder, size, "/tmp/veddb-reads-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

READS_SUPPORT reads_t *reads_open(void)
{
    char folder[200];
    reads_folder(folder, sizeof folder);
    return reads_open_at(folder, true);
}

READS_SUPPORT int reads_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

READS_SUPPORT void reads_stop(reads_t *reads)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_storage_t *storage = &reads->storage;
    stor_builds_stop(storage->builds);
    stor_cursors_close(&storage->cursors);
    stor_sessions_close(&storage->sessions);
    stor_session_close(&reads->session);
    stor_journal_close(&storage->journal);
    stor_catalog_close(&storage->catalog);
    reads_ok(stor_engine_close(&storage->engine, &err), &err);
}

/* Goes on in a copy of the folder as it is now, as after a crash: nothing is closed before. */
READS_SUPPORT void reads_crash(reads_t *reads)
{
    char copy[300], command[1000];
    while (stor_engine_durable(reads->storage.engine) < stor_engine_newest(reads->storage.engine))
        usleep(1000);
    snprintf(copy, sizeof copy, "%s-after", reads->folder);
    /* Again when a file (of the log, of a dropped table) goes while it is copied. */
    snprintf(command, sizeof command,
             "for i in 1 2 3 4 5; do rm -rf %s; cp -r %s %s && exit 0; done; exit 1", copy,
             reads->folder, copy);
    cr_assert_eq(system(command), 0);
    reads_stop(reads);
    snprintf(command, sizeof command, "rm -r %s && mv %s %s", reads->folder, copy, reads->folder);
    cr_assert_eq(system(command), 0);
    reads_start(reads, false);
}

READS_SUPPORT void reads_close(reads_t *reads)
{
    stor_storage_t *storage = &reads->storage;
    reads_stop(reads);
    stor_planner_destroy(&storage->planner);
    stor_versions_close(&storage->versions);
    stor_keys_destroy(&storage->keys);
    vd_arena_destroy(&reads->arena);
    vd_arena_destroy(&reads->texts);
    (void)nftw(reads->folder, reads_unlink, 8, FTW_DEPTH | FTW_PHYS);
    free(reads);
}

READS_SUPPORT void reads_begin(reads_t *reads, const char *db)
{
    stor_request_t *request = &reads->request;
    vd_arena_reset(reads->arena);
    stor_request_init(request, &reads->storage, reads->arena);
    request->command.db = request->db = vd_slice_str(db);
    request->command.user = vd_slice_str(reads->user);
    request->command.client = VD_SLICE_LIT("127.0.0.1:50000");
    request->command.flags = reads->flags;
    request->command.connection_id = 7;
    request->session = reads->session;
}

/* Writes the documents of a list, all in one transaction; makes the collection. */
READS_SUPPORT void reads_insert(reads_t *reads, const char *db, const char *name, vd_bson_t list)
{
    stor_request_t *request = &reads->request;
    stor_collection_t *collection;
    stor_write_t write;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_iter_t iter;
    reads_begin(reads, db);
    reads_ok(stor_catalog_acquire_or_create(request, vd_slice_str(db), vd_slice_str(name),
                                            &collection, &err),
             &err);
    stor_write_init(&write, request, collection);
    reads_ok(stor_write_begin(&write, &err), &err);
    vd_bson_iter_init(&iter, list);
    while (vd_bson_iter_next(&iter)) {
        vd_bson_t document = vd_value_document(iter.value);
        vd_slice_t key;
        reads_ok(stor_id_key(request->arena, vd_bson_get(document, "_id"), &key, &err), &err);
        reads_ok(stor_write_insert(&write, key, document, -1, &err), &err);
    }
    reads_ok(stor_write_commit(&write, &err), &err);
    stor_write_done(&write);
    stor_catalog_release_all(request);
}

/* The next commands are of the user's session with this id (16 times the byte); 0 = of none. */
READS_SUPPORT void reads_session(reads_t *reads, const char *user, uint8_t id)
{
    memset(reads->lsid, id, sizeof reads->lsid);
    stor_session_key_t key = stor_session_key(vd_slice(reads->lsid, 16), vd_slice_str(user));
    memcpy(reads->lsid_user, key.bytes + 16, sizeof reads->lsid_user);
    reads->user = user;
    reads->in_session = id != 0;
}

/* Runs a command; the reply stands in reads->reply until the next. */
READS_SUPPORT int reads_run(reads_t *reads, const char *db, const char *json)
{
    stor_request_t *request = &reads->request;
    vd_slice_t name;
    vd_value_t value;
    vd_bson_t body = query_json(reads->texts, json);
    cr_assert(vd_bson_first(body, &name, &value));
    reads_begin(reads, db);
    for (size_t i = 0; i < VD_COUNT_OF(reads_table); i++)
        if (vd_slice_is(name, reads_table[i].name))
            request->entry = &reads_table[i];
    request->command.name = name;
    request->sections.body = body;
    if (reads->sequence.name.len > 0)
        request->sections.sequences[request->sections.sequence_count++] = reads->sequence;
    reads->sequence = (vdp_sequence_t){0};
    if (reads->txn_number != 0 || reads->in_session) {
        request->command.lsid = vd_slice(reads->lsid, sizeof reads->lsid);
        request->command.lsid_user = vd_slice(reads->lsid_user, sizeof reads->lsid_user);
    }
    if (reads->txn_number != 0)
        request->command.txn_number = reads->txn_number;
    if (reads->visible != NULL) {
        vd_bson_t visible = query_json(reads->arena, reads->visible);
        request->command.visible = vd_slice(visible.data, visible.len);
    }
    stor_registry_add(request);
    stor_request_run(request, reads->session);
    stor_registry_remove(request);
    reads->reply = request->reply_document;
    cr_assert_eq(request->held_count, 0, "%s: still holds a collection", json);
    cr_assert_not(stor_txn_active(reads->session), "%s: left a transaction open", json);
    return request->status;
}

READS_SUPPORT vd_value_t reads_at(const reads_t *reads, const char *path)
{
    return vd_bson_get_path(reads->reply, vd_slice_str(path));
}

READS_SUPPORT const char *reads_text(reads_t *reads)
{
    return vd_bson_to_json(reads->texts, reads->reply, 2000);
}

/* Every path of `expected` has that value in the reply; null: is missing. */
READS_SUPPORT void reads_expect(reads_t *reads, const char *command, const char *expected)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, query_json(reads->texts, expected));
    while (vd_bson_iter_next(&iter)) {
        vd_value_t is = vd_bson_get_path(reads->reply, iter.name), want = iter.value;
        if (want.type == VD_BSON_NULL && vd_value_is_missing(is))
            continue;
        cr_assert(vd_value_equal(is, want), "%s: %.*s is %s, not %s in %s", command,
                  VD_SLICE_FMT(iter.name), vd_value_to_json(reads->texts, is, 500),
                  vd_value_to_json(reads->texts, want, 500), reads_text(reads));
    }
}

/* A command, and what its reply must show. */
typedef struct {
    const char *db, *command, *expected; /* expected: for reads_expect, or NULL */
    int code;
    const char *message; /* of an error: the whole of it, or NULL */
} reads_step_t;

READS_SUPPORT void reads_script(reads_t *reads, const reads_step_t *steps, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const reads_step_t *step = &steps[i];
        int rc = reads_run(reads, step->db, step->command);
        cr_assert_eq(rc, step->code, "%s: %d in %s", step->command, -rc, reads_text(reads));
        if (step->expected != NULL)
            reads_expect(reads, step->command, step->expected);
        if (step->message != NULL)
            cr_assert(vd_slice_is(vd_value_string(reads_at(reads, "errmsg")), step->message),
                      "%s: the message is not \"%s\" in %s", step->command, step->message,
                      reads_text(reads));
    }
}
#define READS_SCRIPT(reads, steps) reads_script((reads), (steps), VD_COUNT_OF(steps))
