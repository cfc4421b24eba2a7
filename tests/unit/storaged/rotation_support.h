/* tests/unit/storaged/rotation_support.h — a whole storage with keys of its own, a rotation that is
 * ordered step by step, and what it must not change. */
#pragma once
#include "libcommon/base/map.h"
#include "proto/rotation.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/engine/rewrite.h"
#include "veddb-storaged/rotation/rotation.h"
#include "veddb-storaged/storaged.h"

#define ROTATION_SUPPORT __attribute__((unused)) static

typedef struct {
    char folder[200];
    stor_keys_t *keys;
    stor_storage_t *storage;
    stor_session_t *session;
    stor_rotation_t *rotation;
    vd_arena_t *arena, *texts;
    uint8_t newest; /* key that the key holder would hand out */
    vd_error_t err;
} node_t;

ROTATION_SUPPORT int key_put(node_t *node, uint8_t number, stor_key_state_t state)
{
    uint8_t id[STOR_KEY_ID_BYTES] = {number}, key[STOR_KEY_BYTES] = {number};
    int rc = VD_OK;
    if (node->storage != NULL && state == STOR_KEY_ACTIVE)
        rc = stor_engine_key_note(node->storage->engine, id, number, &node->err);
    return rc == VD_OK ? stor_keys_put_version(node->keys, id, key, state, number, &node->err) : rc;
}

ROTATION_SUPPORT int keys_fetch(void *context, vd_error_t *err)
{
    node_t *node = context;
    (void)err;
    return key_put(node, node->newest, STOR_KEY_ACTIVE);
}

ROTATION_SUPPORT int node_open(node_t *node, uint8_t first, uint8_t last, bool bootstrap)
{
    stor_settings_t settings = {.threads = 1,
                                .cursor_idle_max_ms = 600000,
                                .session_idle_max_ms = 1800000,
                                .journal_max_bytes = 1 << 26,
                                .replica_set = "rs0",
                                .address = "db.example:27018",
                                .audit = true,
                                .audit_filter = "",
                                .audit_backlog_max_bytes = 1 << 26,
                                .data_folder = node->folder};
    stor_storage_options_t options = {.folder = node->folder,
                                      .cache_bytes = 32 << 20,
                                      .reserve_min_bytes = 1 << 20,
                                      .log_file_max_bytes = 2 << 20,
                                      .bootstrap = bootstrap};
    stor_rotation_options_t rotation = {.keys_fetch = keys_fetch, .context = node};
    node->keys = stor_keys_create();
    node->newest = last;
    for (uint8_t i = first; i <= last; i++)
        if (key_put(node, i, i == last ? STOR_KEY_ACTIVE : STOR_KEY_DECRYPT_ONLY) != VD_OK)
            return VD_ERR_INTERNAL;
    int rc = stor_storage_open(&options, &settings, node->keys, &node->storage, &node->err);
    if (rc == VD_OK)
        rc = stor_session_open(node->storage->engine, &node->session, &node->err);
    if (rc == VD_OK)
        rc = stor_rotation_start(node->storage, &rotation, &node->rotation, &node->err);
    node->storage->rotation = node->rotation;
    node->arena = vd_arena_create();
    node->texts = vd_arena_create();
    return rc;
}

ROTATION_SUPPORT int node_close(node_t *node)
{
    node->storage->rotation = NULL;
    stor_rotation_stop(&node->rotation);
    stor_session_close(&node->session);
    int rc = stor_storage_close(&node->storage, &node->err);
    stor_keys_destroy(&node->keys);
    vd_arena_destroy(&node->arena);
    vd_arena_destroy(&node->texts);
    return rc;
}

ROTATION_SUPPORT void node_make(node_t *node)
{
    memset(node, 0, sizeof *node);
    reads_folder(node->folder, sizeof node->folder);
}

ROTATION_SUPPORT void node_done(node_t *node)
{
    (void)nftw(node->folder, reads_unlink, 8, FTW_DEPTH | FTW_PHYS);
}

ROTATION_SUPPORT int run(node_t *node, const char *json, vd_bson_t *ret_reply)
{
    static stor_request_t request;
    vd_slice_t name;
    vd_value_t value;
    vd_arena_reset(node->arena);
    vd_bson_t body = query_json(node->texts, json);
    if (!vd_bson_first(body, &name, &value))
        return VD_ERR_INTERNAL;
    stor_request_init(&request, node->storage, node->arena);
    request.command.db = request.db = VD_SLICE_LIT("d");
    request.command.user = VD_SLICE_LIT("ann@admin");
    request.command.flags = VDP_COMMAND_ALL_USERS;
    request.entry = stor_command_find(name);
    request.command.name = name;
    request.sections.body = body;
    request.session = node->session;
    stor_registry_add(&request);
    stor_request_run(&request, node->session);
    stor_registry_remove(&request);
    if (ret_reply != NULL)
        *ret_reply = request.reply_document;
    return request.status;
}

#define DOCUMENTS 1500

/* Names in quotes: a text that can't be read ends a child without a word. */
ROTATION_SUPPORT const char *const made[] = {
    "{'create': 'capped', 'capped': true, 'size': 100000}",
    "{'createIndexes': 'c', 'indexes': [{'key': {'a': 1}, 'name': 'a'}]}",
    "{'createIndexes': 'c', 'indexes': [{'key': {'u': 1}, 'name': 'u', 'unique': true}]}",
    "{'insert': 'capped', 'documents': [{'_id': 1, 'a': 'x'}, {'_id': 2, 'a': 'y'}]}",
    "{'create': 'empty'}",
    "{'insert': 'gone', 'documents': [{'_id': 1}]}",
    "{'drop': 'gone'}",
    "{'update': 'c', 'updates': [{'q': {}, 'u': {'$set': {'b': 1}}, 'multi': true}]}",
    "{'delete': 'c', 'deletes': [{'q': {'_id': {'$gte': 1450}}, 'limit': 0}]}",
};

ROTATION_SUPPORT int fill(node_t *node)
{
    char *text = malloc(200000);
    int rc = run(node, made[1], NULL);
    for (int i = 0; rc == VD_OK && i < DOCUMENTS;) {
        int len = sprintf(text, "{'insert': 'c', 'documents': [");
        for (int k = 0; k < 250; k++, i++)
            len += sprintf(text + len, "%s{'_id': %d, 'a': %d, 'u': 'u%d', 'pad': '%0300d'}",
                           k == 0 ? "" : ",", i, i % 7, i, i);
        strcpy(text + len, "]}");
        rc = run(node, text, NULL);
    }
    free(text);
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(made); i++)
        if (i != 1)
            rc = run(node, made[i], NULL);
    return rc;
}

/* Everything that a rotation must not change, in one number: documents, versions, entries of
 * indexes and the whole journal. */
ROTATION_SUPPORT uint64_t everything(node_t *node, int *ret_entries)
{
    uint64_t sum = 0;
    stor_collection_t *collection = NULL;
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    for (uint64_t id = 0; (collection = stor_catalog_next(node->storage->catalog, id)) != NULL;) {
        id = collection->id;
        if (stor_txn_begin(node->session, &node->err) != VD_OK)
            return 0;
        int rc = stor_cursor_open(node->session, collection->table, &cursor, NULL);
        while (rc == VD_OK && stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK) {
            vd_bson_t document;
            uint64_t version;
            if (stor_envelope_read(value, &document, &version, &node->err) != VD_OK)
                return 0;
            sum += stor_record_hash(version, document) + vd_hash(key);
        }
        stor_txn_rollback(node->session);
        stor_catalog_unreference(&collection);
    }
    *ret_entries = 0;
    char tables[32][32];
    int count = 0;
    for (uint64_t number = 1; number < 32; number++)
        (void)snprintf(tables[count++], 32, "j-%llu", (unsigned long long)number);
    for (int i = 0; i < count; i++) {
        if (stor_txn_begin(node->session, &node->err) != VD_OK)
            return 0;
        int rc = stor_cursor_open(node->session, tables[i], &cursor, NULL);
        while (rc == VD_OK && stor_cursor_next(cursor, true, &key, &value, NULL) == VD_OK) {
            stor_journal_entry_t entry;
            if (stor_journal_decode(key, value, &entry, &node->err) != VD_OK)
                return 0;
            sum += vd_hash(key) + vd_hash(entry.changes);
            ++*ret_entries;
        }
        stor_txn_rollback(node->session);
    }
    return sum;
}

ROTATION_SUPPORT bool is_sound(node_t *node)
{
    vd_bson_t reply;
    static const char *const validated[] = {"{'validate': 'c', 'full': true}",
                                            "{'validate': 'capped', 'full': true}"};
    for (size_t i = 0; i < VD_COUNT_OF(validated); i++)
        if (run(node, validated[i], &reply) != VD_OK ||
            vd_bson_get(reply, "valid").type != VD_BSON_BOOL ||
            !vd_value_bool(vd_bson_get(reply, "valid")))
            return false;
    return true;
}

/* ---- orders ---- */

ROTATION_SUPPORT uint64_t left_of(node_t *node, vdp_rotation_report_t *report, uint32_t version)
{
    stor_rotation_text_t text;
    vd_buf_t body;
    uint64_t left = UINT64_MAX; /* not told */
    vd_buf_init(&body, VDP_ROTATION_VERSION_BYTES * VDP_ROTATION_VERSIONS_MAX);
    stor_rotation_report(node->rotation, report, &text, &body);
    vd_slice_t bytes = vd_buf_slice(&body);
    for (size_t at = 0; at + VDP_ROTATION_VERSION_BYTES <= bytes.len;
         at += VDP_ROTATION_VERSION_BYTES)
        if (vd_get_u32(bytes.data + at) == version)
            left = vd_get_u64(bytes.data + at + 4);
    vd_buf_done(&body);
    return left;
}

ROTATION_SUPPORT vdp_rotation_order_t order_of(vdp_rotation_step_t step)
{
    return (vdp_rotation_order_t){
        .rotation = 5, .step = step, .active_version = 2, .old_version = 1};
}

/* Waits for done or failed. */
ROTATION_SUPPORT bool step_do(node_t *node, vdp_rotation_step_t step)
{
    vdp_rotation_report_t report;
    vdp_rotation_order_t order = order_of(step);
    stor_rotation_order(node->rotation, &order, true);
    do {
        usleep(2000);
        (void)left_of(node, &report, 1);
    } while (!report.done && !report.failed);
    return report.done && report.step == (uint32_t)step;
}
