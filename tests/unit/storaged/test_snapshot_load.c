/* tests/unit/storaged/test_snapshot_load.c — a copy of one engine becomes the data of another:
 * under writers, cut at every tenth chunk, damaged, mistaken for another; and that it is exactly
 * the state as of its position, so that the entries above fit. */
#include "libcommon/base/fault.h"
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/index_support.h"
#include "veddb-storaged/delta.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/replication/load.h"
#include "veddb-storaged/replication/manifest.h"
#include "veddb-storaged/replication/snapshot.h"

#include <openssl/sha.h>
#include <pthread.h>

#define MB      (1024 * 1024)
#define WRITERS 4

typedef struct {
    uint64_t collection;
    uint32_t count;
    bool last;
    uint8_t sha256[32];
    vd_buf_t bytes, after;
} chunk_t;

/* What went over the network: everything that B gets to see of A. */
typedef struct {
    uint8_t id[16];
    uint64_t position, term;
    vd_buf_t manifest;
    chunk_t chunks[4000];
    uint32_t count;
    uint64_t bytes;
} transfer_t;

static void node_start(reads_t *node, int role)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_storage_t *storage = &node->storage;
    storage->settings.replicated = true;
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    atomic_store(&storage->replication->role, role);
    if (storage->replication->snapshots == NULL)
        storage->replication->snapshots = stor_snapshots_create(storage);
}

static void node_stop(reads_t *node)
{
    stor_builds_stop(node->storage.builds);
    stor_snapshots_destroy(&node->storage.replication->snapshots);
    stor_replication_close(&node->storage.replication);
}

static reads_t *node_open(int role)
{
    reads_t *node = reads_open();
    node_start(node, role);
    return node;
}

/* A command under a role in which it may run. */
static int run_as(reads_t *node, int role, const char *db, const char *command)
{
    int before = atomic_exchange(&node->storage.replication->role, role);
    int rc = reads_run(node, db, command);
    atomic_store(&node->storage.replication->role, before);
    return rc;
}

static void node_close(reads_t *node)
{
    node_stop(node);
    reads_close(node);
}

static transfer_t *transfer_new(void)
{
    transfer_t *transfer = calloc(1, sizeof *transfer);
    vd_buf_init(&transfer->manifest, STOR_MANIFEST_MAX);
    return transfer;
}

static void transfer_free(transfer_t *transfer)
{
    for (uint32_t i = 0; i < transfer->count; i++)
        vd_buf_done(&transfer->chunks[i].bytes), vd_buf_done(&transfer->chunks[i].after);
    vd_buf_done(&transfer->manifest);
    free(transfer);
}

static void open_copy(reads_t *a, stor_session_t *session, transfer_t *transfer)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_snapshot_opened_t opened;
    reads_ok(stor_snapshot_open(a->storage.replication->snapshots, session, &opened,
                                &transfer->manifest, &err),
             &err);
    memcpy(transfer->id, opened.snapshot.data, 16);
    transfer->position = opened.position;
    transfer->term = opened.term;
}

static void read_collection(reads_t *a, stor_session_t *session, transfer_t *transfer, uint64_t id)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t after;
    vd_buf_init(&after, 16 * 1024);
    for (bool last = false; !last;) {
        cr_assert_lt(transfer->count, VD_COUNT_OF(transfer->chunks));
        chunk_t *chunk = &transfer->chunks[transfer->count++];
        /* Now behind the key, now behind the chunk before: the same. */
        bool next = vd_buf_len(&after) > 0 && transfer->count % 2 == 0;
        vdp_snapshot_read_t read = {vd_slice(transfer->id, 16), id, next};
        vdp_snapshot_chunk_t got;
        vd_buf_init(&chunk->bytes, VDP_CHUNK_MAX);
        vd_buf_init(&chunk->after, 16 * 1024);
        reads_ok(stor_snapshot_read(a->storage.replication->snapshots, session, &read,
                                    next ? VD_SLICE_NULL : vd_buf_slice(&after), &chunk->bytes,
                                    &got, &err),
                 &err);
        cr_assert(vd_slice_equal(got.after, vd_buf_slice(&after)));
        cr_assert_eq(vd_buf_append_slice(&chunk->after, got.after), VD_OK);
        chunk->collection = id;
        chunk->count = got.count;
        last = chunk->last = got.last;
        memcpy(chunk->sha256, got.sha256.data, 32);
        transfer->bytes += vd_buf_len(&chunk->bytes);
        const uint8_t *at = chunk->bytes.data, *end = at + vd_buf_len(&chunk->bytes);
        while (at != NULL && at < end) {
            uint32_t len = vd_get_u32(at);
            vd_buf_clear(&after);
            cr_assert_eq(vd_buf_append(&after, at + 4, len), VD_OK);
            at += 4 + len;
            at += 4 + vd_get_u32(at);
        }
    }
    vd_buf_done(&after);
}

static void read_all(reads_t *a, stor_session_t *session, transfer_t *transfer)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    stor_manifest_t manifest;
    vd_slice_t bytes = vd_buf_slice(&transfer->manifest);
    reads_ok(
        stor_manifest_read((vd_bson_t){bytes.data, (uint32_t)bytes.len}, arena, &manifest, &err),
        &err);
    read_collection(a, session, transfer, 0);
    for (uint32_t i = 0; i < manifest.count; i++)
        read_collection(a, session, transfer, manifest.collections[i].what.id);
    vd_arena_destroy(&arena);
    stor_snapshot_close(a->storage.replication->snapshots, vd_slice(transfer->id, 16));
    stor_snapshots_expire(a->storage.replication->snapshots);
}

static const uint8_t set_id[12] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 3, 4};

static int load_begin(reads_t *b, const transfer_t *transfer, vdp_load_state_t *state,
                      vd_buf_t *key, vd_error_t *err)
{
    vdp_load_begin_t begin = {vd_slice(transfer->id, 16), transfer->position, transfer->term,
                              vd_slice(set_id, 12), VD_SLICE_LIT("n1")};
    vd_slice_t manifest = vd_buf_slice(&transfer->manifest);
    vd_buf_clear(key);
    return stor_load_begin(&b->storage, b->session, &begin,
                           (vd_bson_t){manifest.data, (uint32_t)manifest.len}, state, key, err);
}

static int load_chunk(reads_t *b, const transfer_t *transfer, const chunk_t *from, vd_error_t *err)
{
    vdp_snapshot_chunk_t chunk = {
        vd_slice(transfer->id, 16), from->collection,          from->count, from->last,
        vd_slice(from->sha256, 32), vd_buf_slice(&from->after)};
    uint64_t documents;
    return stor_load_chunk(&b->storage, b->session, &chunk, vd_buf_slice(&from->bytes), &documents,
                           err);
}

static int load_end(reads_t *b, const transfer_t *transfer, vd_error_t *err)
{
    vdp_load_end_t end = {vd_slice(transfer->id, 16)};
    uint64_t position = 0;
    int rc = stor_load_end(&b->storage, b->session, &end, &position, err);
    cr_assert(rc != VD_OK || position == transfer->position);
    return rc;
}

static void load_all(reads_t *b, const transfer_t *transfer)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_load_state_t state;
    vd_buf_t key;
    vd_buf_init(&key, 16 * 1024);
    reads_ok(load_begin(b, transfer, &state, &key, &err), &err);
    cr_assert(stor_load_pending(&b->storage, b->session));
    for (uint32_t i = 0; i < transfer->count; i++)
        reads_ok(load_chunk(b, transfer, &transfer->chunks[i], &err), &err);
    reads_ok(load_end(b, transfer, &err), &err);
    cr_assert_not(stor_load_pending(&b->storage, b->session));
    /* Privileges are checked anew; the commands of these tests come without. */
    cr_assert_eq(atomic_load(&b->storage.auth_epoch), transfer->position);
    atomic_store(&b->storage.auth_epoch, 0);
    vd_buf_done(&key);
}

/* ---- what is there: every record of every collection, as one text ---- */

static stor_counters_row_t sums_of(stor_storage_t *storage, stor_session_t *session, uint64_t id)
{
    char table[32];
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    vd_error_t err = VD_ERROR_INIT;
    stor_counters_row_t sums = {0};
    (void)storage;
    snprintf(table, sizeof table, "c-%llu", (unsigned long long)id);
    reads_ok(stor_txn_begin(session, &err), &err);
    reads_ok(stor_cursor_open(session, table, &cursor, &err), &err);
    while (stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK) {
        vd_bson_t document;
        uint64_t version;
        reads_ok(stor_envelope_read(value, &document, &version, &err), &err);
        sums.documents++;
        sums.bytes += document.len;
        sums.hash += stor_record_hash(version, document);
    }
    stor_txn_rollback(session);
    return sums;
}

/* Tables, kept numbers in memory and manifest agree. */
static void check_sums(reads_t *b, const transfer_t *transfer)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_arena_t *arena = vd_arena_create();
    stor_manifest_t manifest;
    vd_slice_t bytes = vd_buf_slice(&transfer->manifest);
    reads_ok(
        stor_manifest_read((vd_bson_t){bytes.data, (uint32_t)bytes.len}, arena, &manifest, &err),
        &err);
    for (uint32_t i = 0; i < manifest.count; i++) {
        const stor_manifest_collection_t *c = &manifest.collections[i];
        stor_counters_row_t is = sums_of(&b->storage, b->session, c->what.id);
        stor_collection_t *kept = stor_catalog_reference(b->storage.catalog, c->what.id);
        cr_assert_not_null(kept);
        cr_assert_eq(is.documents, c->kept.documents);
        cr_assert_eq(is.bytes, c->kept.bytes);
        cr_assert_eq(is.hash, c->kept.hash);
        cr_assert_eq(atomic_load(&kept->documents), is.documents);
        cr_assert_eq(atomic_load(&kept->bytes), is.bytes);
        cr_assert_eq(atomic_load(&kept->hash), is.hash);
        cr_assert(vd_slice_equal(kept->db, c->what.db) && vd_slice_equal(kept->name, c->what.name));
        cr_assert_eq(memcmp(kept->uuid, c->what.uuid, 16), 0);
        stor_catalog_unreference(&kept);
    }
    vd_arena_destroy(&arena);
}

/* ---- writers ---- */

typedef struct {
    reads_t *node;
    int number;
    atomic_bool *stop;
    atomic_int *writes;
    pthread_t thread;
} writer_t;

/* One document: inserted, replaced by another of another size, changed in a field, or removed; now
 * and then several in one transaction, so that it takes long. */
static int write_some(stor_request_t *request, stor_collection_t *collection, vd_rand_t *rand)
{
    stor_write_t write;
    vd_error_t err = VD_ERROR_INIT;
    int count = vd_rand_below(rand, 10) == 0 ? 30 : 1, rc = VD_OK;
    int32_t first = (int32_t)vd_rand_below(rand, 300);
    stor_write_init(&write, request, collection);
    reads_ok(stor_write_begin(&write, &err), &err);
    for (int i = 0; rc == VD_OK && i < count; i++) {
        vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
        vd_bson_t document;
        vd_slice_t key;
        stor_record_t old;
        uint8_t filler[600] = {0};
        vd_bb_init_arena(bb, request->arena, 100000);
        vd_bb_int32(bb, "_id", (first + 7 * i) % 300);
        vd_bb_int64(bb, "n", (int64_t)vd_rand_u64(rand));
        vd_bb_binary(
            bb, "filler", 0,
            vd_slice(filler, vd_rand_below(rand, 3) == 0 ? vd_rand_below(rand, 600) : 500));
        reads_ok(vd_bb_finish(bb, &document, &err), &err);
        reads_ok(stor_id_key(request->arena, vd_bson_get(document, "_id"), &key, &err), &err);
        rc = stor_write_read(&write, key, &old, NULL);
        if (rc == VD_ERR_NOT_FOUND) {
            rc = stor_write_insert(&write, key, document, -1, NULL);
        } else if (rc == VD_OK) {
            old = stor_record_copy(request->arena, old);
            rc = vd_rand_below(rand, 4) == 0 ? stor_write_remove(&write, &old, -1, NULL)
                                             : stor_write_replace(&write, &old, document, -1, NULL);
        }
        if (i % 7 == 6)
            usleep(50);
    }
    if (rc == VD_OK)
        rc = stor_write_commit(&write, NULL);
    else
        stor_write_rollback(&write);
    stor_write_done(&write);
    return rc;
}

static void *writer_run(void *context)
{
    writer_t *writer = context;
    stor_storage_t *storage = &writer->node->storage;
    stor_session_t *session = NULL;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_t rand;
    stor_request_t *request = calloc(1, sizeof *request);
    vd_arena_t *arena = vd_arena_create();
    vd_rand_seed(&rand, (uint64_t)writer->number + 77);
    reads_ok(stor_session_open(storage->engine, &session, &err), &err);
    while (!atomic_load(writer->stop)) {
        stor_collection_t *collection;
        const char *name = vd_rand_below(&rand, 3) == 0 ? "b" : "a";
        vd_arena_reset(arena);
        stor_request_init(request, storage, arena);
        request->command.db = request->db = VD_SLICE_LIT("db");
        request->command.user = VD_SLICE_LIT("ann@admin");
        request->session = session;
        reads_ok(stor_catalog_acquire(request, VD_SLICE_LIT("db"), vd_slice_str(name), &collection,
                                      &err),
                 &err);
        if (write_some(request, collection, &rand) == VD_OK)
            atomic_fetch_add(writer->writes, 1);
        stor_catalog_release_all(request);
    }
    stor_session_close(&session);
    vd_arena_destroy(&arena);
    free(request);
    return NULL;
}

/* ---- the journal above the position, and its reference ---- */

/* Key and value as in the journal, one behind the other, as a replica gets them. */
static void journal_take(reads_t *a, uint64_t after, vd_buf_t *out, uint64_t *ret_last)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_journal_entry_t entry;
    reads_ok(stor_txn_begin(a->session, &err), &err);
    stor_journal_reader_t *reader = stor_journal_reader_open(a->storage.journal, a->session, after);
    stor_journal_reader_begin(reader);
    *ret_last = after;
    while (stor_journal_reader_next(reader, UINT64_MAX, &entry, NULL) == VD_OK) {
        cr_assert_gt(entry.timestamp, after);
        cr_assert_eq(vd_buf_append_u64(out, entry.timestamp), VD_OK);
        cr_assert_eq(vd_buf_append_u32(out, (uint32_t)entry.changes.len), VD_OK);
        cr_assert_eq(vd_buf_append_slice(out, entry.changes), VD_OK);
        *ret_last = entry.timestamp;
    }
    stor_journal_reader_close(&reader);
    stor_txn_rollback(a->session);
}

static void change_apply(reads_t *b, uint64_t timestamp, const stor_change_t *change)
{
    char table[32];
    vd_error_t err = VD_ERROR_INIT;
    vd_slice_t key, value;
    stor_cursor_t *cursor;
    vd_bson_t document = VD_BSON_NONE;
    uint64_t version = 0;
    snprintf(table, sizeof table, "c-%llu", (unsigned long long)change->collection_id);
    reads_ok(stor_id_key(b->arena, change->id, &key, &err), &err);
    reads_ok(stor_cursor_open(b->session, table, &cursor, &err), &err);
    int rc = stor_cursor_search(cursor, key, &value, NULL);
    if (rc == VD_OK)
        reads_ok(stor_envelope_read(value, &document, &version, &err), &err);
    else
        cr_assert_eq(rc, VD_ERR_NOT_FOUND);
    cr_assert_eq(version, change->previous_version, "the copy is not of its position");
    if (change->kind == STOR_CHANGE_DELETE) {
        reads_ok(stor_cursor_remove(cursor, key, &err), &err);
        return;
    }
    vd_bson_t after = change->body;
    if (change->kind == STOR_CHANGE_DELTA)
        reads_ok(stor_delta_apply(b->arena, document, change->body, &after, &err), &err);
    uint8_t *bytes = vd_arena_alloc(b->arena, STOR_ENVELOPE_BYTES + (size_t)after.len);
    stor_envelope_write(bytes, timestamp, after);
    reads_ok(stor_cursor_put(cursor, key, vd_slice(bytes, STOR_ENVELOPE_BYTES + (size_t)after.len),
                             &err),
             &err);
}

static void journal_apply(reads_t *b, const vd_buf_t *entries)
{
    vd_error_t err = VD_ERROR_INIT;
    const uint8_t *at = vd_buf_slice(entries).data, *end = at + vd_buf_len(entries);
    while (at < end) {
        uint64_t timestamp = vd_get_u64(at);
        vd_slice_t changes = vd_slice(at + 12, vd_get_u32(at + 8));
        stor_change_t change;
        at += 12 + changes.len;
        vd_arena_reset(b->arena);
        reads_ok(stor_txn_begin(b->session, &err), &err);
        while (stor_journal_change_next(&changes, &change, NULL) == VD_OK)
            if (change.kind < STOR_CHANGE_CREATE)
                change_apply(b, timestamp, &change);
        reads_ok(stor_txn_commit(b->session, &err), &err);
    }
}

static int old_names(const char *name, void *context)
{
    (void)name;
    ++*(int *)context;
    return VD_OK;
}

Test(snapshot_load, under_writers, .timeout = 300)
{
    for (int round = 0; round < 4; round++) {
        vd_error_t err = VD_ERROR_INIT;
        reads_t *a = node_open(VDP_ROLE_PRIMARY);
        transfer_t *transfer = transfer_new();
        atomic_bool stop = false;
        atomic_int writes = 0;
        writer_t writers[WRITERS];
        cr_assert_eq(reads_run(a, "db", "{'create': 'a', 'validator': {'n': {'%exists': true}}}"),
                     VD_OK);
        cr_assert_eq(
            reads_run(a, "db", "{'create': 'b', 'collation': {'locale': 'en', 'strength': 2}}"),
            VD_OK);
        cr_assert_eq(reads_run(a, "db", "{'create': 'gone'}"), VD_OK);
        cr_assert_eq(reads_run(a, "db", "{'drop': 'gone'}"), VD_OK);
        cr_assert_eq(reads_run(a, "db",
                               "{'createIndexes': 'a', 'indexes': [{'key': {'n': 1}, "
                               "'name': 'n'}, {'key': {'$**': 1}, 'name': 'w'}]}"),
                     VD_OK);
        for (int i = 0; i < WRITERS; i++) {
            writers[i] = (writer_t){.node = a, .number = i, .stop = &stop, .writes = &writes};
            cr_assert_eq(pthread_create(&writers[i].thread, NULL, writer_run, &writers[i]), 0);
        }
        while (atomic_load(&writes) < 500)
            usleep(1000);
        open_copy(a, a->session, transfer);
        int before = atomic_load(&writes);
        read_all(a, a->session, transfer);
        while (atomic_load(&writes) < before + 500)
            usleep(1000);
        atomic_store(&stop, true);
        for (int i = 0; i < WRITERS; i++)
            pthread_join(writers[i].thread, NULL);
        int names = 0;
        reads_ok(stor_checkpoint_names(a->storage.engine, "catalog", old_names, &names, &err),
                 &err);
        cr_assert_eq(names, 0, "a checkpoint was left");
        vd_buf_t entries;
        uint64_t last;
        vd_buf_init(&entries, 256 * MB);
        journal_take(a, transfer->position, &entries, &last);
        cr_assert_gt(vd_buf_len(&entries), 0);
        stor_counters_row_t want[3];
        for (uint64_t id = 1; id <= 2; id++)
            want[id] = sums_of(&a->storage, a->session, id);
        node_close(a);

        reads_t *b = node_open(VDP_ROLE_RECOVERING);
        load_all(b, transfer);
        check_sums(b, transfer);
        cr_assert_eq(memcmp(b->storage.set_id, set_id, 12), 0);
        /* indexes were made of what was loaded */
        cr_assert_eq(index_sound(b, "db", "a", "n"), sums_of(&b->storage, b->session, 1).documents);
        cr_assert_gt(index_sound(b, "db", "a", "w"), 0);
        cr_assert_eq(index_sound(b, "db", "b", "_id_"),
                     sums_of(&b->storage, b->session, 2).documents);
        journal_apply(b, &entries);
        for (uint64_t id = 1; id <= 2; id++) {
            stor_counters_row_t is = sums_of(&b->storage, b->session, id);
            cr_assert_eq(is.documents, want[id].documents);
            cr_assert_eq(is.bytes, want[id].bytes);
            cr_assert_eq(is.hash, want[id].hash);
        }
        vd_buf_done(&entries);
        node_close(b);
        transfer_free(transfer);
    }
}

/* Documents of 2 KB, a few large ones, and results of retryable writes. */
static transfer_t *fixed_copy(int documents)
{
    reads_t *a = node_open(VDP_ROLE_PRIMARY);
    transfer_t *transfer = transfer_new();
    vd_bb_t bb;
    static uint8_t bytes[3 * MB];
    vd_bb_init(&bb, 48 * MB);
    for (int i = 0; i < documents;) {
        vd_bson_t list;
        vd_bb_reset(&bb);
        for (int n = 0; n < 500 && i < documents; n++, i++) {
            char name[12];
            vd_bb_open_document(&bb, vd_array_name((uint32_t)n, name));
            vd_bb_int32(&bb, "_id", i);
            vd_bb_binary(&bb, "b", 0, vd_slice(bytes, i == documents / 2 ? 3 * MB : 2000));
            vd_bb_close(&bb);
        }
        cr_assert_eq(vd_bb_finish(&bb, &list, NULL), VD_OK);
        reads_insert(a, "db", i < documents / 2 ? "first" : "second", list);
    }
    vd_bb_done(&bb);
    cr_assert_eq(reads_run(a, "db", "{'create': 'empty'}"), VD_OK);
    reads_session(a, "ann@admin", 5);
    a->txn_number = 3;
    cr_assert_eq(reads_run(a, "db", "{'insert': 'empty2', 'documents': [{'_id': 1}]}"), VD_OK);
    open_copy(a, a->session, transfer);
    read_all(a, a->session, transfer);
    node_close(a);
    return transfer;
}

/* Index of the chunk that begins at this place. */
static uint32_t chunk_at(const transfer_t *transfer, const vdp_load_state_t *state, vd_slice_t key)
{
    for (uint32_t i = 0; i < transfer->count; i++)
        if (transfer->chunks[i].collection == state->collection &&
            vd_slice_equal(vd_buf_slice(&transfer->chunks[i].after), key))
            return i;
    cr_assert(false, "no chunk begins there");
    return 0;
}

/* Killed and opened again at every tenth chunk: after a crash at the last checkpoint's place (every
 * third time one is made first), after an orderly stop just behind the last chunk. */
Test(snapshot_load, cut_and_resumed, .timeout = 300)
{
    vd_error_t err = VD_ERROR_INIT;
    transfer_t *transfer = fixed_copy(12000);
    reads_t *b = node_open(VDP_ROLE_RECOVERING);
    vdp_load_state_t state;
    vd_buf_t key;
    uint32_t next = 0, cuts = 0, checkpointed = 0, lost = 0;
    vd_buf_init(&key, 16 * 1024);
    run_as(b, VDP_ROLE_PRIMARY, "db", "{'insert': 'own', 'documents': [{'_id': 1}]}");
    uint64_t had = stor_engine_newest(b->storage.engine);
    cr_assert_eq(stor_load_floor(b->session), 0);
    reads_ok(load_begin(b, transfer, &state, &key, &err), &err);
    cr_assert_eq(run_as(b, VDP_ROLE_PRIMARY, "db", "{'count': 'own'}"), VD_OK);
    reads_expect(b, "count", "{'n': 0}");
    while (!state.all) {
        for (int n = 0; n < 10 && next < transfer->count; n++, next++)
            reads_ok(load_chunk(b, transfer, &transfer->chunks[next], &err), &err);
        bool crash = cuts++ % 2 == 0;
        if (cuts % 3 == 0) {
            reads_ok(stor_engine_checkpoint(b->storage.engine, &err), &err);
            checkpointed = next;
        }
        node_stop(b);
        if (crash) {
            reads_ok(stor_engine_log_sync(b->storage.engine, &err), &err);
            reads_crash(b);
        } else {
            checkpointed = next;
            reads_stop(b);
            reads_start(b, false);
        }
        node_start(b, VDP_ROLE_RECOVERING);
        cr_assert(stor_load_pending(&b->storage, b->session));
        cr_assert_eq(stor_load_floor(b->session), had);
        reads_ok(load_begin(b, transfer, &state, &key, &err), &err);
        cr_assert_eq(stor_load_floor(b->session), had); /* what it once acknowledged is below */
        if (state.all)
            break;
        uint32_t at = chunk_at(transfer, &state, vd_buf_slice(&key));
        cr_assert(at >= checkpointed && at <= next, "%u not in %u..%u", at, checkpointed, next);
        lost += next - at;
        next = at;
    }
    cr_assert_gt(cuts, 2);
    cr_assert_gt(lost, 0); /* so records of a table that is ahead were put once more */
    reads_ok(load_end(b, transfer, &err), &err);
    cr_assert_eq(stor_load_floor(b->session), 0);
    atomic_store(&b->storage.auth_epoch, 0);
    check_sums(b, transfer);
    for (int i = 0; i < 2; i++) { /* and after a crash */
        cr_assert_eq(run_as(b, VDP_ROLE_PRIMARY, "db", "{'count': 'first', 'query': {}}"), VD_OK,
                     "%s", reads_text(b));
        reads_expect(b, "count", "{'n': 5500}");
        cr_assert_not(stor_load_pending(&b->storage, b->session));
        check_sums(b, transfer);
        node_stop(b);
        reads_crash(b);
        node_start(b, VDP_ROLE_RECOVERING);
    }
    /* The result of the retryable write came with it: not done a second time. */
    reads_session(b, "ann@admin", 5);
    b->txn_number = 3;
    cr_assert_eq(
        run_as(b, VDP_ROLE_PRIMARY, "db", "{'insert': 'empty2', 'documents': [{'_id': 1}]}"),
        VD_OK);
    reads_expect(b, "insert", "{'n': 1, 'writeErrors': null}");
    vd_buf_done(&key);
    node_close(b);
    transfer_free(transfer);
}

/* Begins, or goes on, and comes to the end, if nothing is in its way. */
static int load_through(reads_t *b, const transfer_t *transfer, vd_error_t *err)
{
    vdp_load_state_t state;
    vd_buf_t key;
    vd_buf_init(&key, 16 * 1024);
    int rc = load_begin(b, transfer, &state, &key, err);
    uint32_t next =
        rc != VD_OK || state.all ? transfer->count : chunk_at(transfer, &state, vd_buf_slice(&key));
    for (; rc == VD_OK && next < transfer->count; next++)
        rc = load_chunk(b, transfer, &transfer->chunks[next], err);
    vd_buf_done(&key);
    return rc == VD_OK ? load_end(b, transfer, err) : rc;
}

/* Dies at each step, with and without what stood in the log unflushed, twice in a row; and is whole
 * in the end, however it was cut. */
Test(snapshot_load, dies_at_each_step, .timeout = 300)
{
    static const char *const steps[] = {"load.made=error", "load.chunk=error:skip=4",
                                        "load.checkpointed=error", "load.logged=error",
                                        "load.ended=error"};
    transfer_t *transfer = fixed_copy(3000);
    for (size_t i = 0; i < 2 * VD_COUNT_OF(steps); i++) {
        const char *step = steps[i / 2];
        vd_error_t err = VD_ERROR_INIT;
        reads_t *b = node_open(VDP_ROLE_RECOVERING);
        for (int times = 0; times < 2 && stor_load_pending(&b->storage, b->session) == (times > 0);
             times++) {
            reads_ok(vd_fault_arm(step, &err), &err);
            cr_assert_eq(load_through(b, transfer, NULL), VD_ERR_FAULT_INJECTED, "%s", step);
            vd_fault_disarm(NULL);
            cr_assert(i / 2 == 4 || stor_load_pending(&b->storage, b->session), "%s", step);
            if (i % 2 == 0)
                reads_ok(stor_engine_log_sync(b->storage.engine, &err), &err);
            node_stop(b);
            reads_crash(b);
            node_start(b, VDP_ROLE_RECOVERING);
        }
        if (stor_load_pending(&b->storage, b->session)) {
            stor_load_known_t known;
            if (i / 2 > 0) { /* else it may not know of the copy yet */
                cr_assert(stor_load_known(b->session, &known));
                cr_assert_eq(memcmp(known.snapshot, transfer->id, 16), 0);
                cr_assert_str_eq(known.source, "n1");
            }
            reads_ok(load_through(b, transfer, &err), &err);
        }
        atomic_store(&b->storage.auth_epoch, 0);
        for (int starts = 0; starts < 2; starts++) {
            cr_assert_not(stor_load_pending(&b->storage, b->session), "%s", step);
            check_sums(b, transfer);
            node_stop(b);
            reads_crash(b);
            node_start(b, VDP_ROLE_RECOVERING);
        }
        node_close(b);
    }
    transfer_free(transfer);
}

static void *build_run(void *context)
{
    cr_assert_eq(run_as(context, VDP_ROLE_PRIMARY, "db",
                        "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a', "
                        "'unique': true}, {'key': {'b': 1}, 'name': 'b'}]}"),
                 VD_OK);
    return NULL;
}

/* A copy that is taken while an index is built: the receiver builds it, too. */
Test(snapshot_load, indexes_that_are_being_built, .timeout = 300)
{
    vd_error_t err = VD_ERROR_INIT;
    pthread_t thread;
    stor_session_t *session = NULL;
    transfer_t *transfer = transfer_new();
    reads_t *a = node_open(VDP_ROLE_SECONDARY);
    cr_assert_eq(run_as(a, VDP_ROLE_PRIMARY, "db",
                        "{'insert': 'c', 'documents': [{'_id': 1, 'a': 1, 'b': [1, 2]}, {'_id': 2, "
                        "'a': 2}]}"),
                 VD_OK);
    cr_assert_eq(run_as(a, VDP_ROLE_PRIMARY, "db",
                        "{'createIndexes': 'c', 'indexes': [{'key': {'a': -1}, 'name': 'z'}]}"),
                 VD_OK);
    reads_ok(stor_session_open(a->storage.engine, &session, &err), &err);
    reads_ok(vd_fault_arm("index.scanned=wait", &err), &err);
    cr_assert_eq(pthread_create(&thread, NULL, build_run, a), 0);
    for (int i = 0; i < 30000 && vd_fault_count("index.scanned") == 0; i++)
        usleep(1000);
    open_copy(a, session, transfer);
    read_all(a, session, transfer);
    vd_fault_disarm(NULL);
    (void)pthread_join(thread, NULL);
    stor_session_close(&session);
    node_close(a);

    reads_t *b = node_open(VDP_ROLE_RECOVERING);
    load_all(b, transfer);
    stor_engine_position_set(b->storage.engine, transfer->position);
    atomic_store(&b->storage.replication->role, VDP_ROLE_PRIMARY);
    cr_assert_eq(reads_run(b, "db", "{'collStats': 'c'}"), VD_OK, "%s", reads_text(b));
    reads_expect(b, "collStats", "{'nindexes': 2, 'indexBuilds': ['a', 'b']}");
    cr_assert_eq(reads_run(b, "db", "{'insert': 'c', 'documents': [{'_id': 3, 'a': 3}]}"), VD_OK);
    stor_builds_resume(b->storage.builds);
    for (int i = 0; i < 30000 && stor_builds_count(b->storage.builds) > 0; i++)
        usleep(1000);
    cr_assert_eq(reads_run(b, "db", "{'validate': 'c'}"), VD_OK);
    reads_expect(b, "validate",
                 "{'valid': true, 'nIndexes': 4, 'keysPerIndex': {'_id_': 3, 'z': 3, 'a': 3, 'b': "
                 "4}}");
    node_close(b);
    transfer_free(transfer);
}

/* What is written once the load has ended is in the log as ever. */
Test(snapshot_load, logged_again, .timeout = 300)
{
    vd_error_t err = VD_ERROR_INIT;
    transfer_t *transfer = fixed_copy(600);
    reads_t *b = node_open(VDP_ROLE_RECOVERING);
    load_all(b, transfer);
    stor_engine_position_set(b->storage.engine, transfer->position);
    cr_assert_eq(
        run_as(b, VDP_ROLE_PRIMARY, "db", "{'insert': 'first', 'documents': [{'_id': 'x'}]}"),
        VD_OK, "%s", reads_text(b));
    reads_ok(stor_engine_log_sync(b->storage.engine, &err), &err);
    node_stop(b);
    reads_crash(b);
    node_start(b, VDP_ROLE_RECOVERING);
    cr_assert_eq(run_as(b, VDP_ROLE_PRIMARY, "db", "{'count': 'first', 'query': {'_id': 'x'}}"),
                 VD_OK, "%s", reads_text(b));
    reads_expect(b, "count", "{'n': 1}");
    node_close(b);
    transfer_free(transfer);
}

Test(snapshot_load, what_is_refused, .timeout = 300)
{
    vd_error_t err = VD_ERROR_INIT;
    transfer_t *transfer = fixed_copy(3000);
    reads_t *b = node_open(VDP_ROLE_SECONDARY);
    vdp_load_state_t state;
    vd_buf_t key;
    vd_buf_init(&key, 16 * 1024);
    cr_assert_eq(load_begin(b, transfer, &state, &key, &err), VD_ERR_BAD_VALUE);
    atomic_store(&b->storage.replication->role, VDP_ROLE_RECOVERING);
    vd_error_clear(&err);
    cr_assert_eq(load_chunk(b, transfer, &transfer->chunks[0], NULL), VD_ERR_BAD_VALUE);
    reads_ok(load_begin(b, transfer, &state, &key, &err), &err);
    cr_assert_eq(load_chunk(b, transfer, &transfer->chunks[1], NULL), VD_ERR_BAD_VALUE);
    cr_assert_eq(load_end(b, transfer, NULL), VD_ERR_BAD_VALUE);
    reads_ok(load_chunk(b, transfer, &transfer->chunks[0], &err), &err);
    /* A flipped byte; and one whose checksum was made anew: the records no longer frame. */
    chunk_t *chunk = &transfer->chunks[1];
    chunk->bytes.data[1000] ^= 1;
    cr_assert_eq(load_chunk(b, transfer, chunk, NULL), VD_ERR_CORRUPT);
    chunk->bytes.data[1000] ^= 1;
    uint8_t good[32];
    memcpy(good, chunk->sha256, 32);
    chunk->bytes.data[3] ^= 0x40;
    (void)SHA256(chunk->bytes.data, vd_buf_len(&chunk->bytes), chunk->sha256);
    cr_assert_eq(load_chunk(b, transfer, chunk, NULL), VD_ERR_CORRUPT);
    chunk->bytes.data[3] ^= 0x40;
    memcpy(chunk->sha256, good, 32);
    reads_ok(load_chunk(b, transfer, chunk, &err), &err);
    cr_assert_eq(load_chunk(b, transfer, chunk, NULL), VD_ERR_BAD_VALUE, "twice");
    cr_assert_eq(load_chunk(b, transfer, &transfer->chunks[3], NULL), VD_ERR_BAD_VALUE, "a gap");
    vd_buf_done(&key);
    node_close(b);
    transfer_free(transfer);
}

/* A document that differs though every checksum on the way is right (the source's fault): seen by
 * the sums at the end, and the same copy then starts over. Another copy in the middle starts over,
 * too. */
Test(snapshot_load, wrong_sums_and_another_copy, .timeout = 300)
{
    vd_error_t err = VD_ERROR_INIT;
    transfer_t *first = fixed_copy(1500), *second = fixed_copy(900);
    reads_t *b = node_open(VDP_ROLE_RECOVERING);
    vdp_load_state_t state;
    vd_buf_t key;
    vd_buf_init(&key, 16 * 1024);
    chunk_t *chunk = &first->chunks[1];
    chunk->bytes.data[vd_buf_len(&chunk->bytes) - 100] ^= 1; /* in the last document's filler */
    (void)SHA256(chunk->bytes.data, vd_buf_len(&chunk->bytes), chunk->sha256);
    reads_ok(load_begin(b, first, &state, &key, &err), &err);
    for (uint32_t i = 0; i < first->count; i++)
        reads_ok(load_chunk(b, first, &first->chunks[i], &err), &err);
    cr_assert_eq(load_end(b, first, NULL), VD_ERR_CORRUPT);
    cr_assert(stor_load_pending(&b->storage, b->session));
    cr_assert_eq(load_end(b, first, NULL), VD_ERR_BAD_VALUE);
    chunk->bytes.data[vd_buf_len(&chunk->bytes) - 100] ^= 1;
    (void)SHA256(chunk->bytes.data, vd_buf_len(&chunk->bytes), chunk->sha256);
    reads_ok(load_begin(b, first, &state, &key, &err), &err);
    cr_assert(!state.all && state.collection == 0 && vd_buf_len(&key) == 0);
    for (uint32_t i = 0; i < first->count - 1; i++)
        reads_ok(load_chunk(b, first, &first->chunks[i], &err), &err);
    load_all(b, second);
    check_sums(b, second);
    cr_assert_eq(run_as(b, VDP_ROLE_PRIMARY, "db", "{'count': 'first'}"), VD_OK);
    reads_expect(b, "count", "{'n': 0}");
    load_all(b, first); /* over what is complete */
    check_sums(b, first);
    vd_buf_done(&key);
    node_close(b);
    transfer_free(first);
    transfer_free(second);
}

/* Copies are told apart, bounded, and what a start leaves is dropped by the next. */
Test(snapshot_load, copies)
{
    vd_error_t err = VD_ERROR_INIT;
    reads_t *a = node_open(VDP_ROLE_PRIMARY);
    transfer_t *transfers[STOR_SNAPSHOTS_MAX + 1];
    vdp_snapshot_opened_t opened;
    vdp_snapshot_chunk_t chunk;
    vd_buf_t out;
    vd_buf_init(&out, VDP_CHUNK_MAX);
    stor_snapshots_t *snapshots = a->storage.replication->snapshots;
    cr_assert_eq(stor_snapshots_keep_above(snapshots), UINT64_MAX);
    cr_assert_eq(reads_run(a, "db", "{'insert': 'c', 'documents': [{'_id': 1}]}"), VD_OK);
    for (int i = 0; i <= STOR_SNAPSHOTS_MAX; i++)
        transfers[i] = transfer_new();
    for (int i = 0; i < STOR_SNAPSHOTS_MAX; i++)
        open_copy(a, a->session, transfers[i]);
    cr_assert_eq(stor_snapshots_keep_above(snapshots), transfers[0]->position);
    cr_assert_eq(stor_snapshot_open(snapshots, a->session, &opened,
                                    &transfers[STOR_SNAPSHOTS_MAX]->manifest, NULL),
                 VD_ERR_FULL);
    /* Dropped while copied: the file stays until the copy has ended. */
    cr_assert_eq(reads_run(a, "db", "{'drop': 'c'}"), VD_OK);
    stor_catalog_remove_dropped(a->storage.catalog, a->session);
    read_all(a, a->session, transfers[1]);
    cr_assert_eq(transfers[1]->count, 2);
    cr_assert_eq(transfers[1]->chunks[1].count, 1);
    vdp_snapshot_read_t read = {vd_slice(transfers[1]->id, 16), 1, false};
    cr_assert_eq(
        stor_snapshot_read(snapshots, a->session, &read, VD_SLICE_NULL, &out, &chunk, NULL),
        VD_ERR_SNAPSHOT_UNAVAILABLE);
    read = (vdp_snapshot_read_t){vd_slice(transfers[0]->id, 16), 99, false};
    cr_assert_eq(
        stor_snapshot_read(snapshots, a->session, &read, VD_SLICE_NULL, &out, &chunk, NULL),
        VD_ERR_BAD_VALUE);
    open_copy(a, a->session, transfers[STOR_SNAPSHOTS_MAX]);
    /* A crash leaves checkpoints behind. */
    char copy[300], command[1000];
    snprintf(copy, sizeof copy, "%s-after", a->folder);
    snprintf(command, sizeof command,
             "for i in 1 2 3 4 5; do rm -rf %s; cp -r %s %s && exit 0; done; exit 1", copy,
             a->folder, copy);
    cr_assert_eq(system(command), 0);
    node_stop(a);
    reads_stop(a);
    snprintf(command, sizeof command, "rm -r %s && mv %s %s", a->folder, copy, a->folder);
    cr_assert_eq(system(command), 0);
    reads_start(a, false);
    int names = 0;
    reads_ok(stor_checkpoint_names(a->storage.engine, "catalog", old_names, &names, &err), &err);
    cr_assert_eq(names, STOR_SNAPSHOTS_MAX);
    node_start(a, VDP_ROLE_PRIMARY);
    names = 0;
    reads_ok(stor_checkpoint_names(a->storage.engine, "catalog", old_names, &names, &err), &err);
    cr_assert_eq(names, 0);
    for (int i = 0; i <= STOR_SNAPSHOTS_MAX; i++)
        transfer_free(transfers[i]);
    vd_buf_done(&out);
    node_close(a);
}

/* The engine as a program has it: a larger cache, log files of 100 MB. */
static void roomy(reads_t *node)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_storage_t *storage = &node->storage;
    reads_stop(node);
    stor_engine_options_t options = {.folder = node->folder,
                                     .cache_bytes = 256 << 20,
                                     .eviction_threads_max = 2,
                                     .sessions_max = 32,
                                     .keys = storage->keys,
                                     .reserve_min_bytes = 1 << 20};
    reads_ok(stor_engine_open(&options, &storage->engine, &err), &err);
    reads_ok(stor_catalog_open(storage, &storage->catalog, &err), &err);
    reads_ok(stor_journal_open(storage, &storage->journal, &err), &err);
    reads_ok(stor_sessions_open(storage, &storage->sessions, &err), &err);
    reads_ok(stor_cursors_open(storage, &storage->cursors, &err), &err);
    reads_ok(stor_session_open(storage->engine, &node->session, &err), &err);
}

/* Megabytes a second; printed with VD_TEST_RATES=1, not asserted: the machine is shared. */
Test(snapshot_load, speed, .timeout = 300)
{
    uint64_t begin = vd_monotonic_us();
    const bool measure = getenv("VD_TEST_RATES") != NULL;
    transfer_t *transfer = fixed_copy(measure ? 60000 : 6000);
    uint64_t copied = vd_monotonic_us();
    reads_t *b = reads_open();
    roomy(b);
    node_start(b, VDP_ROLE_RECOVERING);
    uint64_t loading = vd_monotonic_us();
    load_all(b, transfer);
    uint64_t loaded = vd_monotonic_us();
    double mb = (double)transfer->bytes / MB;
    if (measure)
        (void)fprintf(stderr, "load: %.0f MB in %.2f s: %.0f MB/s (filling and copying: %.2f s)\n",
                      mb, (double)(loaded - loading) / 1e6, mb / ((double)(loaded - loading) / 1e6),
                      (double)(copied - begin) / 1e6);
    check_sums(b, transfer);
    node_close(b);
    transfer_free(transfer);
}
