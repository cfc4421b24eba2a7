/* tests/unit/storaged/test_rotation_middle.c — a rotation in the middle of everything else: copies
 * that are read, a freeze, old snapshots, spill files, builds of indexes, loads, large values. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "tests/unit/storaged/rotation_support.h"
#include "veddb-storaged/engine/aside.h"
#include "veddb-storaged/engine/checkpoint.h"
#include "veddb-storaged/engine/engine_private.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/rotation/latency.h"

#include <dirent.h>
#include <pthread.h>

#define STATES_MS 30000 /* for what must come; a test that waits so long fails */

/* ---- orders ---- */

static void begin(node_t *node, uint64_t rate)
{
    vdp_rotation_order_t order = order_of(VDP_ROTATION_REENCRYPT);
    node->newest = 2;
    order.rate_max_bytes = rate;
    stor_rotation_order(node->rotation, &order, true);
}

typedef struct {
    vdp_rotation_report_t report;
    stor_rotation_text_t text;
} told_t;

static void told(node_t *node, told_t *ret_told)
{
    vd_buf_t body;
    vd_buf_init(&body, VDP_ROTATION_VERSION_BYTES * VDP_ROTATION_VERSIONS_MAX);
    stor_rotation_report(node->rotation, &ret_told->report, &ret_told->text, &body);
    vd_buf_done(&body);
}

/* Waits for a note that has the word, or for the end of the step; true: the note came first. */
static bool noted(node_t *node, const char *word)
{
    told_t now;
    for (uint64_t until = vd_monotonic_ms() + STATES_MS; vd_monotonic_ms() < until; usleep(2000)) {
        told(node, &now);
        if (strstr(now.text.note, word) != NULL)
            return true;
        if (now.report.done || now.report.failed)
            return false;
    }
    (void)fprintf(stderr, "step %u, pass %u, note: %s\n", now.report.step, now.report.pass,
                  now.text.note);
    return false;
}

static bool ended(node_t *node)
{
    told_t now;
    uint64_t until = vd_monotonic_ms() + STATES_MS;
    do {
        usleep(2000);
        told(node, &now);
    } while (!now.report.done && !now.report.failed && vd_monotonic_ms() < until);
    if (!now.report.done)
        (void)fprintf(stderr, "step %u, pass %u, note: %s\n", now.report.step, now.report.pass,
                      now.text.note);
    return now.report.done;
}

/* What comes behind the first step; then the new key is enough. */
static void end_and_reopen(node_t *node)
{
    vdp_rotation_report_t report;
    cr_assert(ended(node));
    cr_assert(step_do(node, VDP_ROTATION_VERIFY));
    uint64_t left = left_of(node, &report, 1);
    cr_assert(left == 0 || left == UINT64_MAX, "%llu", (unsigned long long)left);
    cr_assert(step_do(node, VDP_ROTATION_RETIRE));
    cr_assert_eq(left_of(node, &report, 1), UINT64_MAX, "it is still there");
    cr_assert(is_sound(node));
    cr_assert_eq(node_close(node), VD_OK, "%s", node->err.message);
    cr_assert_eq(node_open(node, 2, 2, false), VD_OK, "%s", node->err.message);
    cr_assert(is_sound(node));
}

static void start(node_t *node)
{
    node_make(node);
    cr_assert_eq(node_open(node, 1, 1, true), VD_OK, "%s", node->err.message);
    cr_assert_eq(fill(node), VD_OK);
    cr_assert_eq(stor_engine_checkpoint(node->storage->engine, &node->err), VD_OK);
}

static void stop(node_t *node)
{
    cr_assert_eq(node_close(node), VD_OK, "%s", node->err.message);
    node_done(node);
}

/* All of a collection's table, as that session sees it. */
static uint64_t table_hash(stor_session_t *session, const char *table)
{
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    uint64_t sum = 0;
    int rc = stor_cursor_open(session, table, &cursor, NULL);
    while (rc == VD_OK && stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK)
        sum = sum * 31 + vd_hash(key) + vd_hash(value);
    return sum;
}

static void table_of(node_t *node, const char *name, char *table, size_t size)
{
    stor_collection_t *collection;
    table[0] = '\0';
    for (uint64_t id = 0; (collection = stor_catalog_next(node->storage->catalog, id)) != NULL;) {
        id = collection->id;
        if (strcmp(collection->ns, name) == 0)
            (void)snprintf(table, size, "%s", collection->table);
        stor_catalog_unreference(&collection);
    }
    cr_assert_neq(table[0], '\0', "%s", name);
}

/* ---- copies ---- */

/* Its pages are in memory, so that nobody can count its blocks: it is known by name. */
Test(rotation_middle, a_copy_that_is_read_holds_the_old_key, .timeout = 300)
{
    node_t node;
    vdp_rotation_report_t report;
    stor_session_t *copy = NULL;
    char table[64];
    start(&node);
    table_of(&node, "d.c", table, sizeof table);
    cr_assert_eq(stor_checkpoint_make(node.storage->engine, "copy-1", &node.err), VD_OK);
    cr_assert_eq(stor_session_open_checkpoint(node.storage->engine, "copy-1", &copy, &node.err),
                 VD_OK);
    cr_assert_eq(stor_txn_begin(copy, &node.err), VD_OK);
    uint64_t before = table_hash(copy, table);
    begin(&node, 0);
    cr_assert(noted(&node, "copy-1"), "it did not wait for the copy");
    for (int i = 0; i < 2; i++) { /* counted once is not counted for ever */
        cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
        cr_assert_geq(left_of(&node, &report, 1), 1, "look %d: a false zero", i);
    }
    /* One from behind a clean pass needs no old key: nobody waits for it. */
    cr_assert_eq(stor_checkpoint_make(node.storage->engine, "copy-2", &node.err), VD_OK);
    cr_assert_eq(table_hash(copy, table), before);
    stor_txn_rollback(copy);
    stor_session_close(&copy);
    cr_assert_eq(stor_checkpoint_drop(node.storage->engine, "copy-1", &node.err), VD_OK, "%s",
                 node.err.message);
    begin(&node, 0);
    end_and_reopen(&node);
    cr_assert_eq(stor_checkpoint_drop(node.storage->engine, "copy-2", &node.err), VD_OK);
    stop(&node);
}

/* ---- a freeze ---- */

/* Names, sizes and times of the data files: logs may go on (freeze.h), as the mark of a flush does
 * that comes a while behind it. */
static uint64_t files_hash(const node_t *node)
{
    uint64_t sum = 0;
    DIR *dir = opendir(node->folder);
    cr_assert_not_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[500];
        struct stat st;
        if (strcasestr(entry->d_name, "log.") != NULL || strcmp(entry->d_name, "VedDB.log") == 0 ||
            entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", node->folder, entry->d_name);
        if (stat(path, &st) != 0)
            continue;
        sum += vd_hash(vd_slice_str(entry->d_name)) ^
               vd_hash(vd_slice(&st.st_mtim, sizeof st.st_mtim)) ^ (uint64_t)st.st_size;
    }
    (void)closedir(dir);
    return sum;
}

static void freeze(node_t *node)
{
    int64_t count = 0;
    stor_freeze_want(node->storage);
    for (uint64_t until = vd_monotonic_ms() + STATES_MS; count == 0 && vd_monotonic_ms() < until;) {
        cr_assert_eq(stor_freeze_take(node->storage, &count, &node->err), VD_OK, "%s",
                     node->err.message);
        usleep(1000);
    }
    cr_assert_eq(count, 1, "it did not let the freeze come");
}

Test(rotation_middle, rests_while_the_files_are_frozen, .timeout = 300)
{
    node_t node;
    int64_t left = 0;
    start(&node);
    freeze(&node);
    uint64_t files = files_hash(&node);
    begin(&node, 0);
    cr_assert(noted(&node, "fsyncUnlock"), "it went on");
    cr_assert_eq(files_hash(&node), files, "files changed under the lock");
    cr_assert(stor_freeze_unlock(node.storage, &left));
    end_and_reopen(&node);
    stop(&node);
}

Test(rotation_middle, a_freeze_in_the_middle_is_let_in, .timeout = 300)
{
    node_t node;
    told_t now;
    int64_t left = 0;
    start(&node);
    begin(&node, 1000); /* it would take many minutes */
    do {
        usleep(1000);
        told(&node, &now);
    } while (now.report.blocks_rewritten == 0);
    freeze(&node);
    cr_assert(noted(&node, "fsyncUnlock"), "it went on");
    uint64_t files = files_hash(&node);
    begin(&node, 0); /* an order under the lock */
    cr_assert(noted(&node, "fsyncUnlock"), "it went on");
    vdp_rotation_order_t verify = order_of(VDP_ROTATION_VERIFY);
    stor_rotation_order(node.rotation, &verify, true);
    cr_assert(noted(&node, "fsyncUnlock"), "it went on");
    cr_assert_eq(files_hash(&node), files, "files changed under the lock");
    begin(&node, 0);
    cr_assert(stor_freeze_unlock(node.storage, &left));
    end_and_reopen(&node);
    stop(&node);
}

/* ---- old snapshots ---- */

static void pile_up(node_t *node, int rounds)
{
    char text[400];
    for (int i = 0; i < rounds; i++) {
        (void)snprintf(text, sizeof text,
                       "{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'b': '%0200d'}}, "
                       "'multi': true}]}",
                       i);
        cr_assert_eq(run(node, text, NULL), VD_OK);
    }
}

static uint64_t aside(node_t *node)
{
    stor_aside_t *look = NULL;
    cr_assert_eq(stor_aside_open(node->storage->engine, &look, &node->err), VD_OK);
    uint64_t count = stor_aside_count(look);
    stor_aside_close(&look);
    return count;
}

/* What it needs was moved to disk, if at all, under the new key: nobody waits for it, and it reads
 * on behind the old one. */
Test(rotation_middle, an_old_snapshot_reads_what_it_saw, .timeout = 300)
{
    node_t node;
    stor_session_t *old = NULL;
    char table[64];
    start(&node);
    table_of(&node, "d.c", table, sizeof table);
    cr_assert_eq(stor_session_open(node.storage->engine, &old, &node.err), VD_OK);
    cr_assert_eq(stor_txn_begin(old, &node.err), VD_OK);
    uint64_t before = table_hash(old, table);
    cr_assert_neq(before, 0);
    cr_assert_eq(aside(&node), 0);
    begin(&node, 0);
    cr_assert(ended(&node));
    for (int i = 0; i < 20 && aside(&node) == 0; i++)
        pile_up(&node, 3);
    cr_assert_gt(aside(&node), 0);
    cr_assert_eq(table_hash(old, table), before);
    begin(&node, 0);
    cr_assert(ended(&node));
    cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
    cr_assert(step_do(&node, VDP_ROTATION_RETIRE));
    cr_assert_eq(table_hash(old, table), before, "behind the old key");
    stor_txn_rollback(old);
    stor_session_close(&old);
    begin(&node, 0);
    end_and_reopen(&node);
    stop(&node);
}

/* Of documents and of entries that are removed, too: those stay while their table is open. */
static void pile_up_aside(node_t *node)
{
    char text[300];
    cr_assert_eq(run(node,
                     "{'delete': 'c', 'deletes': [{'q': {'_id': {'$mod': [9, 0]}}, 'limit': 0}]}",
                     NULL),
                 VD_OK);
    for (int i = 0; i < 20 && aside(node) == 0; i++) {
        (void)snprintf(text, sizeof text,
                       "{'update': 'c', 'updates': [{'q': {}, 'u': {'$inc': {'a': 100}}, "
                       "'multi': true}]}");
        cr_assert_eq(run(node, text, NULL), VD_OK);
        pile_up(node, 3);
    }
    cr_assert_gt(aside(node), 0);
}

typedef struct {
    stor_session_t *session;
    char tables[16][32]; /* of collections and indexes */
    int count;
    atomic_bool stop;
    atomic_uint_fast64_t rounds;
    int failed;
} reader_t;

static int reader_add(const char *name, void *context)
{
    reader_t *reader = context;
    if ((name[0] == 'c' || name[0] == 'i') && name[1] == '-' && reader->count < 16)
        (void)snprintf(reader->tables[reader->count++], sizeof reader->tables[0], "%s", name);
    return VD_OK;
}

/* Requests of another worker go on meanwhile in every table, and none of them fails. */
static void *reads_on(void *context)
{
    reader_t *reader = context;
    while (!atomic_load(&reader->stop)) {
        stor_cursor_t *cursor;
        vd_slice_t key, value;
        int rc = stor_txn_begin(reader->session, NULL);
        for (int i = 0; rc == VD_OK && i < reader->count; i++) {
            rc = stor_cursor_open(reader->session, reader->tables[i], &cursor, NULL);
            if (rc == VD_OK)
                rc = stor_cursor_next(cursor, true, &key, &value, NULL);
            if (rc == VD_ERR_NOT_FOUND) /* empty */
                rc = VD_OK;
        }
        if (stor_txn_active(reader->session))
            stor_txn_rollback(reader->session);
        if (rc != VD_OK) {
            reader->failed = rc;
            break;
        }
        atomic_fetch_add(&reader->rounds, 1);
        usleep(200);
    }
    return NULL;
}

/* Moved to disk under the old key they hold it, as long as a snapshot may need them; then they are
 * removed, and the rotation ends without a restart. */
Test(rotation_middle, old_versions_of_before_hold_the_old_key_until_their_snapshots_end,
     .timeout = 300)
{
    node_t node;
    stor_session_t *old = NULL;
    reader_t reader = {.count = 0};
    char table[64];
    pthread_t thread;
    start(&node);
    table_of(&node, "d.c", table, sizeof table);
    cr_assert_eq(stor_engine_tables(node.storage->engine, reader_add, &reader, &node.err), VD_OK);
    cr_assert_geq(reader.count, 3);
    cr_assert_eq(stor_session_open(node.storage->engine, &old, &node.err), VD_OK);
    cr_assert_eq(stor_session_open(node.storage->engine, &reader.session, &node.err), VD_OK);
    cr_assert_eq(stor_txn_begin(old, &node.err), VD_OK);
    uint64_t before = table_hash(old, table);
    pile_up_aside(&node);
    begin(&node, 0);
    cr_assert(noted(&node, "moved to disk for old snapshots"), "it did not wait");
    cr_assert_eq(table_hash(old, table), before);
    cr_assert_eq(pthread_create(&thread, NULL, reads_on, &reader), 0);
    stor_txn_rollback(old);
    stor_session_close(&old);
    cr_assert(ended(&node));
    atomic_store(&reader.stop, true);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(reader.failed, VD_OK, "a request failed");
    cr_assert_gt(atomic_load(&reader.rounds), 0);
    stor_session_close(&reader.session);
    end_and_reopen(&node);
    stop(&node);
}

/* ---- queries that spill ---- */

static int64_t cursor_of(vd_bson_t reply)
{
    vd_value_t cursor = vd_bson_get(reply, "cursor");
    cr_assert_eq(cursor.type, VD_BSON_OBJECT);
    return vd_value_int64(vd_bson_get(vd_value_document(cursor), "id"));
}

Test(rotation_middle, a_query_that_spilled_is_waited_for, .timeout = 300)
{
    node_t node;
    vd_bson_t reply;
    char text[200];
    start(&node);
    stor_spill_options_t options = {.folder = node.folder,
                                    .keys = node.keys,
                                    .engine = node.storage->engine,
                                    .query_max_bytes = 64 * 1024};
    stor_spill_close(&node.storage->spill);
    cr_assert_eq(stor_spill_open(&options, &node.storage->spill, &node.err), VD_OK);
    cr_assert_eq(run(&node,
                     "{'aggregate': 'c', 'allowDiskUse': true, 'cursor': {'batchSize': 2}, "
                     "'pipeline': [{'$sort': {'pad': -1}}]}",
                     &reply),
                 VD_OK);
    int64_t id = cursor_of(reply);
    cr_assert_neq(id, 0);
    begin(&node, 0);
    cr_assert(noted(&node, "spill files"), "it did not wait for the query");
    /* One that spills now does so under the new key: nobody waits for it. */
    cr_assert_eq(run(&node,
                     "{'aggregate': 'c', 'allowDiskUse': true, 'cursor': {'batchSize': 2}, "
                     "'pipeline': [{'$group': {'_id': '$pad'}}, {'$sort': {'_id': 1}}]}",
                     &reply),
                 VD_OK);
    int64_t newer = cursor_of(reply);
    int documents = 2;
    while (id != 0) {
        (void)snprintf(text, sizeof text,
                       "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c', 'batchSize': 300}",
                       (long long)id);
        cr_assert_eq(run(&node, text, &reply), VD_OK);
        id = cursor_of(reply);
        vd_bson_iter_t iter;
        vd_bson_iter_init(
            &iter, vd_value_document(
                       vd_bson_get(vd_value_document(vd_bson_get(reply, "cursor")), "nextBatch")));
        while (vd_bson_iter_next(&iter))
            documents++;
    }
    cr_assert_eq(documents, 1450);
    cr_assert(ended(&node));
    cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
    cr_assert(step_do(&node, VDP_ROTATION_RETIRE));
    (void)snprintf(text, sizeof text, "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c'}",
                   (long long)newer);
    cr_assert_eq(run(&node, text, &reply), VD_OK, "behind the old key");
    cr_assert_eq(cursor_of(reply), 0);
    begin(&node, 0);
    end_and_reopen(&node);
    stop(&node);
}

/* ---- loads ---- */

Test(rotation_middle, a_load_of_before_is_waited_for, .timeout = 300)
{
    node_t node;
    stor_bulk_t *bulk = NULL;
    char value[300];
    start(&node);
    memset(value, 'v', sizeof value);
    cr_assert_eq(stor_engine_table_create(node.storage->engine, "i-900", false, &node.err), VD_OK);
    cr_assert_eq(stor_bulk_open(node.storage->engine, "i-900", &bulk, &node.err), VD_OK);
    for (uint32_t i = 0; i < 2000; i++) {
        if (i == 1000) {
            begin(&node, 0);
            cr_assert(noted(&node, "loads"), "it did not wait for the load");
        }
        uint8_t key[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        cr_assert_eq(
            stor_bulk_add(bulk, vd_slice(key, 4), vd_slice(value, sizeof value), &node.err), VD_OK);
    }
    cr_assert_eq(stor_bulk_close(&bulk, &node.err), VD_OK);
    end_and_reopen(&node);
    stop(&node);
}

/* ---- builds of indexes ---- */

typedef struct {
    node_t *node;
    stor_session_t *session;
    vd_arena_t *arena;
    stor_request_t request;
    pthread_t thread;
} beside_t;

static void *beside_run(void *context)
{
    beside_t *b = context;
    stor_registry_add(&b->request);
    stor_request_run(&b->request, b->session);
    stor_registry_remove(&b->request);
    return NULL;
}

static void beside_start(beside_t *b, node_t *node, const char *json)
{
    vd_slice_t name;
    vd_value_t value;
    b->node = node;
    b->arena = vd_arena_create();
    vd_bson_t body = query_json(b->arena, json);
    cr_assert(vd_bson_first(body, &name, &value));
    cr_assert_eq(stor_session_open(node->storage->engine, &b->session, &node->err), VD_OK);
    stor_request_init(&b->request, node->storage, b->arena);
    b->request.command.db = b->request.db = VD_SLICE_LIT("d");
    b->request.command.user = VD_SLICE_LIT("ann@admin");
    b->request.command.flags = VDP_COMMAND_ALL_USERS;
    b->request.entry = stor_command_find(name);
    b->request.command.name = name;
    b->request.sections.body = body;
    b->request.session = b->session;
    cr_assert_eq(pthread_create(&b->thread, NULL, beside_run, b), 0);
}

static void beside_join(beside_t *b)
{
    (void)pthread_join(b->thread, NULL);
    cr_assert_eq(b->request.status, VD_OK, "%s",
                 vd_bson_to_json(b->arena, b->request.reply_document, 500));
    stor_session_close(&b->session);
    vd_arena_destroy(&b->arena);
}

static void insert(node_t *node, int from, int count)
{
    char *text = malloc(200 + (size_t)count * 100);
    int len = sprintf(text, "{'insert': 'c', 'documents': [");
    for (int i = from; i < from + count; i++)
        len += sprintf(text + len, "%s{'_id': %d, 'a': %d, 'u': 'u%d', 'z': %d}",
                       i == from ? "" : ",", i, i % 9, i, i);
    strcpy(text + len, "]}");
    cr_assert_eq(run(node, text, NULL), VD_OK);
    free(text);
}

/* A build that stands at a point when the key changes, goes on beside the rotation, and ends
 * behind it or before: its side log, runs, load and rows. */
static void build_at(const char *point, bool writes, bool after)
{
    node_t node;
    beside_t build;
    char spec[100];
    told_t now;
    start(&node);
    for (int i = 0; i < 5; i++) /* more than are inserted as writes are: a bulk load */
        insert(&node, 10000 + i * 1000, 1000);
    (void)snprintf(spec, sizeof spec, "%s=wait", point);
    cr_assert_eq(vd_fault_arm(spec, &node.err), VD_OK);
    beside_start(&build, &node,
                 "{'createIndexes': 'c', 'indexes': [{'key': {'pad': 1, 'a': -1}, 'name': 'p'}]}");
    for (int i = 0; i < 30000 && vd_fault_count(point) == 0; i++)
        usleep(1000);
    cr_assert_gt(vd_fault_count(point), 0, "%s was not reached", point);
    if (writes)
        insert(&node, 20000, 500);
    begin(&node, after ? 0 : 1000);
    do {
        usleep(1000);
        told(&node, &now);
    } while (now.report.blocks_rewritten == 0);
    if (writes)
        insert(&node, 21000, 500);
    if (after) { /* it ends, or waits for the build */
        cr_assert(ended(&node) || noted(&node, "waits"), "%s", point);
        told(&node, &now);
        if (now.report.done) {
            cr_assert(step_do(&node, VDP_ROTATION_VERIFY));
            cr_assert(step_do(&node, VDP_ROTATION_RETIRE));
        }
    }
    if (writes)
        insert(&node, 22000, 500);
    vd_fault_disarm(NULL);
    beside_join(&build);
    begin(&node, 0);
    end_and_reopen(&node);
    vd_bson_t reply;
    cr_assert_eq(run(&node,
                     "{'aggregate': 'c', 'hint': 'p', 'pipeline': [{'$match': {'pad': null}}, "
                     "{'$count': 'n'}], 'cursor': {}}",
                     &reply),
                 VD_OK);
    const char *text = vd_bson_to_json(node.arena, reply, 500);
    cr_assert_not_null(strstr(text, writes ? "6500" : "5000"), "%s: %s", point, text);
    stop(&node);
}

Test(rotation_middle, a_build_whose_scan_begins_behind_the_key, .timeout = 300)
{
    build_at("index.begun", true, true);
}

Test(rotation_middle, a_build_that_has_sorted_before, .timeout = 300)
{
    build_at("index.scanned", true, false);
}

Test(rotation_middle, a_build_that_has_loaded_before, .timeout = 300)
{
    build_at("index.loaded", true, true);
}

Test(rotation_middle, a_build_that_has_caught_up_before, .timeout = 300)
{
    build_at("index.caught_up", true, false);
}

Test(rotation_middle, a_build_that_is_about_to_end, .timeout = 300)
{
    build_at("index.before_commit", false, true); /* its fence is closed: no writes */
}

/* ---- large values and keys ---- */

Test(rotation_middle, values_and_keys_that_do_not_fit_into_a_page, .timeout = 300)
{
    node_t node;
    vdp_rotation_report_t report;
    int entries = 0, after = 0;
    start(&node);
    size_t room = 6 << 20;
    char *text = malloc(room), *pad = malloc(4 << 20);
    memset(pad, 'p', 4 << 20);
    cr_assert_eq(run(&node,
                     "{'createIndexes': 'big', 'indexes': [{'key': {'k': 1}, 'name': 'k'}, "
                     "{'key': {'k': 1, 'a': 1}, 'name': 'ka'}]}",
                     NULL),
                 VD_OK);
    static const struct {
        int id, key, value;
    } rows[] = {{900, 1000, 4000000}, {7000, 1000, 100}, {9000, 3000, 100},
                {12, 7500, 100000},   {12000, 12, 500},  {60000, 20000, 70000}};
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++)
        for (int k = 0; k < 3; k++) {
            (void)snprintf(text, room,
                           "{'insert': 'big', 'documents': [{'_id': '%zu-%d%.*s', 'k': '%d%.*s', "
                           "'v': '%.*s'}]}",
                           i, k, rows[i].id, pad, k, rows[i].key, pad, rows[i].value, pad);
            int rc = run(&node, text, NULL);
            cr_expect(rc == VD_OK, "row %zu: %d", i, rc);
        }
    free(text);
    free(pad);
    cr_assert_eq(stor_engine_checkpoint(node.storage->engine, &node.err), VD_OK);
    uint64_t before = everything(&node, &entries);
    begin(&node, 0);
    cr_assert(ended(&node));
    (void)left_of(&node, &report, 1);
    cr_assert_eq(everything(&node, &after), before);
    end_and_reopen(&node);
    cr_assert_eq(everything(&node, &after), before);
    stop(&node);
}

/* ---- who goes first ---- */

static void requests(node_t *node, uint64_t took_us)
{
    for (int i = 0; i < 200; i++)
        stor_latency_note(node->storage->latency, took_us);
    stor_rotation_window(node->rotation);
}

static bool without_note(node_t *node)
{
    told_t now;
    for (uint64_t until = vd_monotonic_ms() + STATES_MS; vd_monotonic_ms() < until; usleep(2000)) {
        told(node, &now);
        if (now.text.note[0] == '\0')
            return true;
    }
    return false;
}

/* Requests that become slow beside it slow it down, and it says so; quick ones let it go on. */
Test(rotation_middle, it_gives_way_to_requests, .timeout = 300)
{
    node_t node;
    told_t now;
    vdp_rotation_order_t order = order_of(VDP_ROTATION_REENCRYPT);
    start(&node);
    for (int i = 0; i < 4; i++)
        requests(&node, 100); /* without it */
    node.newest = 2;
    order.rate_max_bytes = 400000; /* so that it is at work for a while */
    order.latency_rise_max = 15;
    stor_rotation_order(node.rotation, &order, true);
    do {
        usleep(1000);
        told(&node, &now);
    } while (now.report.blocks_rewritten == 0 && !now.report.done);
    requests(&node, 100);
    for (int i = 0; i < 100; i++)
        requests(&node, 110); /* that may be: it begins gently, and is soon at full speed */
    cr_assert(without_note(&node), "it waits for nobody");
    requests(&node, 5000);
    cr_assert(noted(&node, "gives way to requests: their 99th percentile is 5"), "it went on");
    for (int i = 0; i < 100; i++)
        requests(&node, 100);
    cr_assert(without_note(&node), "it is slow for ever");
    begin(&node, 0);
    end_and_reopen(&node);
    stop(&node);
}

/* Another rate counts at once, not when what the one before asks for is slept. */
Test(rotation_middle, another_rate_ends_a_long_sleep, .timeout = 300)
{
    node_t node;
    told_t now;
    vdp_rotation_order_t order = order_of(VDP_ROTATION_REENCRYPT);
    start(&node);
    begin(&node, 10); /* some hours for each block */
    do {
        usleep(1000);
        told(&node, &now);
    } while (now.report.blocks_rewritten == 0);
    stor_rotation_order(node.rotation, &order, false);
    end_and_reopen(&node);
    stop(&node);
}

Test(rotation_middle, it_waits_for_space, .timeout = 300)
{
    node_t node;
    told_t now;
    start(&node);
    stor_reserve_t *reserve = &node.storage->engine->reserve;
    uint64_t before = reserve->reserve_bytes;
    reserve->reserve_bytes = UINT64_MAX / 4;
    begin(&node, 0);
    cr_assert(noted(&node, "free space"), "it went on");
    told(&node, &now);
    cr_assert_eq(now.report.rate, 0);
    reserve->reserve_bytes = before;
    end_and_reopen(&node);
    stop(&node);
}

/* ---- what can't go on ---- */

/* Failed is told with why, nothing else is touched, and another order goes on. */
Test(rotation_middle, a_step_that_fails_says_why_and_begins_again, .timeout = 300)
{
    static const struct {
        const char *fault;
        vdp_rotation_step_t step;
    } rows[] = {{"rotation.before_keys=error", VDP_ROTATION_REENCRYPT},
                {"rewrite.before_checkpoint=error", VDP_ROTATION_REENCRYPT},
                {"rewrite.before_commit=error:skip=3", VDP_ROTATION_REENCRYPT},
                {"rotation.before_verify=error", VDP_ROTATION_VERIFY},
                {"rotation.after_verify=error", VDP_ROTATION_VERIFY},
                {"rotation.before_forget=error", VDP_ROTATION_RETIRE},
                {"rotation.before_wipe=error", VDP_ROTATION_RETIRE}};
    node_t node;
    told_t now;
    int entries = 0, after = 0;
    start(&node);
    uint64_t before = everything(&node, &entries);
    node.newest = 2;
    for (size_t i = 0; i < VD_COUNT_OF(rows); i++) {
        cr_assert_eq(vd_fault_arm(rows[i].fault, &node.err), VD_OK);
        cr_assert_not(step_do(&node, rows[i].step), "%s", rows[i].fault);
        told(&node, &now);
        cr_assert(now.report.failed && !now.report.done);
        cr_assert_neq(now.text.note[0], '\0', "%s", rows[i].fault);
        vd_fault_disarm(NULL);
        if (rows[i].step != VDP_ROTATION_RETIRE)
            cr_assert_neq(left_of(&node, &now.report, 1), UINT64_MAX);
        if (i + 1 == VD_COUNT_OF(rows) || rows[i + 1].step != rows[i].step)
            cr_assert(step_do(&node, rows[i].step), "%s", rows[i].fault);
    }
    cr_assert_eq(everything(&node, &after), before);
    cr_assert_eq(node_close(&node), VD_OK, "%s", node.err.message);
    cr_assert_eq(node_open(&node, 2, 2, false), VD_OK, "%s", node.err.message);
    stop(&node);
}
