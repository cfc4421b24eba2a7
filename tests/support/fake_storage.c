/* tests/support/fake_storage.c — see fake_storage.h. */
#include "tests/support/fake_storage.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "libcommon/runtime/link.h"
#include "proto/failure.h"
#include "proto/operation.h"
#include "proto/replication.h"
#include "proto/sections.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define DOCUMENTS_MAX 200
#define NAMES_MAX     64

typedef struct {
    char collection[32];
    uint8_t *data;
    uint32_t len;
} document_t;

typedef struct {
    char name[48];
    uint32_t count;
} named_count_t;

struct fake_storage {
    char path[200];
    pthread_t thread;
    pthread_mutex_t lock;
    vd_loop_t *loop;
    vd_link_t *link;
    bool running, dead;
    uint64_t peers[16];
    uint32_t peer_count;
    vdp_operation_state_t state;
    uint8_t boot_id[16], set_id[12];
    document_t documents[DOCUMENTS_MAX];
    uint32_t document_count;
    named_count_t counts[NAMES_MAX];
    uint32_t resent, cancelled, closed, unanswered, mishaps;
    uint64_t silenced_peer, silenced_id;
    char silenced[48], failing[48], mishap_name[48];
    int fail_code;
    fake_storage_mishap_t mishap;
    bool put_off;
    int64_t last_txn_number;
    uint8_t last_lsid[16];
    vd_buf_t last_reply; /* to that */
    vd_buf_t topology;
    uint64_t clock;
};

/* ---- a collection of a few documents ---- */

static bool matches(vd_bson_t document, vd_bson_t filter)
{
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, filter);
    while (vd_bson_iter_next(&each)) {
        if (vd_slice_is(each.name, "$and")) {
            vd_bson_iter_t part;
            vd_bson_iter_init(&part, vd_value_document(each.value));
            while (vd_bson_iter_next(&part)) {
                if (!matches(document, vd_value_document(part.value)))
                    return false;
            }
            continue;
        }
        vd_value_t have = vd_bson_get_slice(document, each.name);
        vd_value_t in = each.value.type == VD_BSON_OBJECT
                            ? vd_bson_get(vd_value_document(each.value), "$in")
                            : VD_VALUE_MISSING;
        vd_value_t one = each.value.type == VD_BSON_OBJECT
                             ? vd_bson_get(vd_value_document(each.value), "$elemMatch")
                             : VD_VALUE_MISSING;
        bool found = false;
        if (in.type == VD_BSON_ARRAY || one.type == VD_BSON_OBJECT) {
            vd_bson_iter_t part;
            vd_bson_iter_init(&part, in.type == VD_BSON_ARRAY     ? vd_value_document(in)
                                     : have.type == VD_BSON_ARRAY ? vd_value_document(have)
                                                                  : VD_BSON_NONE);
            while (vd_bson_iter_next(&part) && !found)
                found = in.type == VD_BSON_ARRAY
                            ? vd_value_equal(part.value, have)
                            : matches(vd_value_document(part.value), vd_value_document(one));
        } else {
            found = vd_value_equal(have, each.value);
        }
        if (!found)
            return false;
    }
    return true;
}

static vd_bson_t bytes_of(const document_t *d)
{
    return (vd_bson_t){d->data, d->len};
}

static void changed(fake_storage_t *storage);

static void remove_at(fake_storage_t *storage, uint32_t i)
{
    vd_free(storage->documents[i].data);
    storage->documents[i] = storage->documents[--storage->document_count];
}

static bool add(fake_storage_t *storage, const char *collection, vd_bson_t document)
{
    for (uint32_t i = 0; i < storage->document_count; i++) {
        const document_t *d = &storage->documents[i];
        if (strcmp(d->collection, collection) == 0 &&
            vd_value_equal(vd_bson_get(bytes_of(d), "_id"), vd_bson_get(document, "_id")))
            return false;
    }
    VD_ASSERT(storage->document_count < DOCUMENTS_MAX);
    document_t *d = &storage->documents[storage->document_count++];
    (void)snprintf(d->collection, sizeof d->collection, "%s", collection);
    d->data = vd_xalloc(document.len);
    d->len = document.len;
    memcpy(d->data, document.data, document.len);
    return true;
}

static void put_array_without(vd_bb_t *bb, vd_slice_t name, vd_value_t array, vd_bson_t match)
{
    char key[12];
    uint32_t n = 0;
    vd_bson_iter_t each;
    vd_bb_open_array(bb, name);
    vd_bson_iter_init(&each, vd_value_document(array));
    while (vd_bson_iter_next(&each)) {
        if (!matches(vd_value_document(each.value), match))
            vd_bb_value(bb, vd_array_name(n++, key), each.value);
    }
    vd_bb_close(bb);
}

static void change(document_t *d, vd_bson_t update)
{
    vd_bb_t bb;
    vd_bson_t result;
    vd_value_t set = vd_bson_get(update, "$set"), pull = vd_bson_get(update, "$pull");
    vd_bson_t sets = set.type == VD_BSON_OBJECT ? vd_value_document(set) : VD_BSON_NONE;
    vd_bson_t pulls = pull.type == VD_BSON_OBJECT ? vd_value_document(pull) : VD_BSON_NONE;
    vd_bson_iter_t each;
    vd_bb_init(&bb, 1 << 20);
    vd_bson_iter_init(&each, bytes_of(d));
    while (vd_bson_iter_next(&each)) {
        vd_value_t taken = vd_bson_get_slice(pulls, each.name);
        if (taken.type == VD_BSON_OBJECT)
            put_array_without(&bb, each.name, each.value, vd_value_document(taken));
        else if (vd_value_is_missing(vd_bson_get_slice(sets, each.name)))
            vd_bb_value(&bb, each.name, each.value);
    }
    vd_bb_concat(&bb, sets);
    VD_ASSERT(vd_bb_finish(&bb, &result, NULL) == VD_OK);
    vd_free(d->data);
    d->data = vd_xalloc(result.len);
    d->len = result.len;
    memcpy(d->data, result.data, result.len);
    vd_bb_done(&bb);
}

static void collection_of(vd_bson_t command, char out[32])
{
    vd_slice_t name;
    vd_value_t v;
    VD_ASSERT(vd_bson_first(command, &name, &v) && v.type == VD_BSON_STRING);
    (void)snprintf(out, 32, "%.*s", VD_SLICE_FMT(vd_value_string(v)));
}

static void run_find(fake_storage_t *storage, vd_bson_t command, vd_bb_t *bb)
{
    char collection[32], key[12];
    uint32_t n = 0;
    vd_value_t filter = vd_bson_get(command, "filter");
    collection_of(command, collection);
    vd_bb_begin_document(bb, "cursor");
    vd_bb_begin_array(bb, "firstBatch");
    for (uint32_t i = 0; i < storage->document_count; i++) {
        const document_t *d = &storage->documents[i];
        if (strcmp(d->collection, collection) != 0 ||
            (filter.type == VD_BSON_OBJECT && !matches(bytes_of(d), vd_value_document(filter))))
            continue;
        vd_bb_open_document(bb, vd_array_name(n++, key));
        vd_bb_concat(bb, bytes_of(d));
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    vd_bb_int64(bb, "id", 0);
    vd_bb_cstr(bb, "ns", "admin.x");
    vd_bb_close(bb);
}

static uint32_t count_in(const fake_storage_t *storage, const char *collection)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < storage->document_count; i++)
        n += strcmp(storage->documents[i].collection, collection) == 0;
    return n;
}

static void run_write(fake_storage_t *storage, const char *name, vd_bson_t command, vd_bb_t *bb)
{
    char collection[32];
    int32_t n = 0;
    vd_bson_iter_t each;
    const char *list = strcmp(name, "insert") == 0   ? "documents"
                       : strcmp(name, "update") == 0 ? "updates"
                                                     : "deletes";
    collection_of(command, collection);
    vd_bson_iter_init(&each, vd_value_document(vd_bson_get(command, list)));
    while (vd_bson_iter_next(&each)) {
        vd_bson_t one = vd_value_document(each.value);
        if (strcmp(name, "insert") == 0) {
            if (add(storage, collection, one)) {
                n++;
                continue;
            }
            vd_bb_begin_array(bb, "writeErrors");
            vd_bb_begin_document(bb, "0");
            vd_bb_int32(bb, "index", 0);
            vd_bb_int32(bb, "code", 11000);
            vd_bb_cstr(bb, "errmsg", "E11000 duplicate key error");
            vd_bb_close(bb);
            vd_bb_close(bb);
            break;
        }
        for (uint32_t i = storage->document_count; i-- > 0;) {
            document_t *d = &storage->documents[i];
            if (strcmp(d->collection, collection) != 0 ||
                !matches(bytes_of(d), vd_value_document(vd_bson_get(one, "q"))))
                continue;
            n++;
            if (strcmp(name, "update") == 0)
                change(d, vd_value_document(vd_bson_get(one, "u")));
            else
                remove_at(storage, i);
        }
    }
    vd_bb_int32(bb, "n", n);
    if (strcmp(collection, "system.users") != 0 && strcmp(collection, "system.roles") != 0)
        return;
    storage->state.auth_epoch++;
    storage->state.has_users = count_in(storage, "system.users") != 0;
    changed(storage);
}

/* ---- the link ---- */

static void send_item(fake_storage_t *storage, uint64_t peer, const vdp_message_t *message,
                      uint64_t request_id, const void *fields, vd_slice_t body)
{
    vd_buf_t head;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_init(&head, 64 * 1024);
    VD_ASSERT(vdp_encode(&head, &envelope, message, fields, VD_SLICE_NULL, NULL) == VD_OK);
    (void)!vd_link_send(storage->link, peer, vd_buf_slice(&head), body, NULL); /* it may be gone */
    vd_buf_done(&head);
}

static void send_failure(fake_storage_t *storage, uint64_t peer, uint64_t request_id)
{
    vdp_failure_t failure = {.code = VD_ERR_PROTOCOL, .message = VD_SLICE_LIT("scripted")};
    send_item(storage, peer, &vdp_failure, request_id, &failure, VD_SLICE_NULL);
}

/* A REPLY that lacks its last byte. */
static void send_garbled(fake_storage_t *storage, uint64_t peer, uint64_t request_id)
{
    vd_buf_t head;
    vdp_operation_reply_t reply = {0};
    vdp_envelope_t envelope = {.id = VDP_OPERATION_REPLY, .request_id = request_id};
    vd_buf_init(&head, 64 * 1024);
    VD_ASSERT(vdp_encode(&head, &envelope, &vdp_operation_reply, &reply, VD_SLICE_NULL, NULL) ==
              VD_OK);
    vd_buf_truncate(&head, vd_buf_len(&head) - 1);
    VD_ASSERT(vd_link_send(storage->link, peer, vd_buf_slice(&head), VD_SLICE_NULL, NULL) == VD_OK);
    vd_buf_done(&head);
}

/* True: the command, which was done, has no proper answer. */
static bool mishap(fake_storage_t *storage, uint64_t peer, uint64_t id, vd_slice_t name)
{
    if (!vd_slice_is(name, storage->mishap_name))
        return false;
    storage->mishap_name[0] = 0;
    storage->mishaps++;
    if (storage->mishap == FAKE_STORAGE_GARBLE)
        send_garbled(storage, peer, id);
    else if (storage->mishap != FAKE_STORAGE_SWALLOW)
        send_failure(storage, peer, storage->mishap == FAKE_STORAGE_DENY ? 0 : id);
    return true;
}

static void changed(fake_storage_t *storage)
{
    for (uint32_t i = 0; i < storage->peer_count; i++)
        send_item(storage, storage->peers[i], &vdp_operation_state, 0, &storage->state,
                  VD_SLICE_NULL);
}

static void note(fake_storage_t *storage, const vdp_operation_command_t *command)
{
    if ((command->flags & VDP_COMMAND_RESENT) != 0)
        storage->resent++;
    if ((command->flags & VDP_COMMAND_NO_REPLY) != 0)
        storage->unanswered++;
    if ((command->flags & VDP_COMMAND_INTERNAL) != 0)
        return;
    for (uint32_t i = 0; i < NAMES_MAX; i++) {
        named_count_t *c = &storage->counts[i];
        if (c->name[0] == 0)
            (void)snprintf(c->name, sizeof c->name, "%.*s", VD_SLICE_FMT(command->name));
        if (vd_slice_is(command->name, c->name)) {
            c->count++;
            return;
        }
    }
}

static void answer_error(fake_storage_t *storage, uint64_t peer, uint64_t id, int code)
{
    vd_bb_t bb;
    vd_bson_t document;
    char name[32];
    vdp_operation_reply_t reply = {.status = code, .operation_time = storage->state.newest};
    if (code == VD_ERR_AGAIN)
        reply.flags = VDP_REPLY_RETRY;
    vd_bb_init(&bb, 4096);
    vd_bb_double(&bb, "ok", 0);
    vd_bb_cstr(&bb, "errmsg", "scripted");
    vd_bb_int32(&bb, "code", -code);
    vd_bb_cstr(&bb, "codeName", vd_error_code_name(code, name));
    VD_ASSERT(vd_bb_finish(&bb, &document, NULL) == VD_OK);
    send_item(storage, peer, &vdp_operation_reply, id, &reply,
              vd_slice(document.data, document.len));
    vd_bb_done(&bb);
}

static void put_echo(vd_bb_t *bb, const vdp_operation_command_t *command,
                     const vdp_sections_t *sections)
{
    vd_bb_string(bb, "echo", command->name);
    vd_bb_string(bb, "db", command->db);
    vd_bb_string(bb, "user", command->user);
    vd_bb_string(bb, "app", command->app);
    vd_bb_int64(bb, "txnNumber", command->txn_number);
    vd_bb_int32(bb, "maxTimeMS", (int32_t)command->max_time_ms);
    vd_bb_int32(bb, "flags", (int32_t)command->flags);
    vd_bb_int32(bb, "lsid", (int32_t)command->lsid.len);
    vd_bb_timestamp(bb, "verifiedTime", command->cluster_time);
    if (command->visible.len != 0)
        vd_bb_document(bb, "visible",
                       (vd_bson_t){command->visible.data, (uint32_t)command->visible.len});
    if (sections->sequence_count != 0)
        vd_bb_int32(bb, "sequence", (int32_t)sections->sequences[0].count);
    vd_bb_int32(bb, "bodyBytes", (int32_t)sections->body.len);
    vd_value_t size = vd_bson_get(sections->body, "replyBytes");
    int64_t bytes = 0;
    if (vd_value_as_int64(size, &bytes)) {
        uint8_t *big = vd_xalloc((size_t)bytes + 1);
        memset(big, 'x', (size_t)bytes);
        vd_bb_string(bb, "big", vd_slice(big, (size_t)bytes));
        vd_free(big);
    }
}

static bool is_again(const fake_storage_t *storage, const vdp_operation_command_t *command)
{
    return command->txn_number >= 0 && command->txn_number == storage->last_txn_number &&
           vd_slice_equal(command->lsid, vd_slice(storage->last_lsid, sizeof storage->last_lsid));
}

static void keep_answer(fake_storage_t *storage, const vdp_operation_command_t *command,
                        vd_bson_t document)
{
    if (command->txn_number < 0)
        return;
    VD_ASSERT(command->lsid.len == 16 && command->lsid_user.len == 32);
    storage->last_txn_number = command->txn_number;
    memcpy(storage->last_lsid, command->lsid.data, 16);
    vd_buf_clear(&storage->last_reply);
    VD_ASSERT(vd_buf_append(&storage->last_reply, document.data, document.len) == VD_OK);
}

static void run_internal(fake_storage_t *storage, const char *name, vd_bson_t command, vd_bb_t *bb)
{
    if (strcmp(name, "find") == 0)
        run_find(storage, command, bb);
    else if (strcmp(name, "veddbMetrics") == 0)
        vd_bb_cstr(bb, "text", "fake_storage 1\n");
    else
        run_write(storage, name, command, bb);
}

static void on_command(fake_storage_t *storage, uint64_t peer, uint64_t id,
                       const vdp_operation_command_t *command, vd_slice_t body)
{
    vdp_sections_t sections;
    vd_bb_t bb;
    vd_bson_t document;
    VD_ASSERT(vdp_sections_parse(body, &sections, NULL) == VD_OK);
    note(storage, command);
    bool internal = (command->flags & VDP_COMMAND_INTERNAL) != 0;
    if (!internal && vd_slice_is(command->name, storage->silenced)) {
        storage->silenced_peer = peer, storage->silenced_id = id;
        return;
    }
    if (!internal && vd_slice_is(command->name, storage->failing)) {
        storage->failing[0] = 0;
        answer_error(storage, peer, id, storage->fail_code);
        return;
    }
    if (command->auth_epoch < storage->state.auth_epoch && !internal) {
        answer_error(storage, peer, id, VD_ERR_AGAIN);
        return;
    }
    if (internal && storage->put_off) {
        answer_error(storage, peer, id, VD_ERR_AGAIN);
        return;
    }
    vdp_operation_reply_t reply = {.operation_time = storage->state.newest};
    if (internal && is_again(storage, command)) {
        send_item(storage, peer, &vdp_operation_reply, id, &reply,
                  vd_buf_slice(&storage->last_reply));
        return;
    }
    char name[48];
    (void)snprintf(name, sizeof name, "%.*s", VD_SLICE_FMT(command->name));
    reply.operation_time = storage->state.newest += 1;
    vd_bb_init(&bb, 40u << 20);
    if (!internal)
        put_echo(&bb, command, &sections);
    else
        run_internal(storage, name, sections.body, &bb);
    vd_bb_double(&bb, "ok", 1);
    vd_bb_timestamp(&bb, "operationTime", storage->state.newest);
    VD_ASSERT(vd_bb_finish(&bb, &document, NULL) == VD_OK);
    if (internal)
        keep_answer(storage, command, document);
    if (!mishap(storage, peer, id, command->name))
        send_item(storage, peer, &vdp_operation_reply, id, &reply,
                  (command->flags & VDP_COMMAND_NO_REPLY) != 0
                      ? VD_SLICE_NULL
                      : vd_slice(document.data, document.len));
    vd_bb_done(&bb);
}

static void item(void *context, uint64_t peer, vd_slice_t bytes)
{
    fake_storage_t *storage = context;
    vdp_envelope_t envelope;
    vd_slice_t rest, body;
    (void)pthread_mutex_lock(&storage->lock);
    VD_ASSERT(vdp_decode_envelope(bytes, &envelope, &rest, NULL) == VD_OK);
    if (envelope.id == VDP_OPERATION_ATTACH) {
        VD_ASSERT(storage->peer_count < VD_COUNT_OF(storage->peers));
        storage->peers[storage->peer_count++] = peer;
        send_item(storage, peer, &vdp_operation_attached, envelope.request_id, &storage->state,
                  VD_SLICE_NULL);
    } else if (envelope.id == VDP_OPERATION_COMMAND) {
        vdp_operation_command_t command = {0};
        VD_ASSERT(vdp_decode(&vdp_operation_command, rest, &command, &body, NULL) == VD_OK);
        on_command(storage, peer, envelope.request_id, &command, body);
    } else if (envelope.id == VDP_OPERATION_CANCEL) {
        storage->cancelled++;
    } else if (envelope.id == VDP_OPERATION_CONNECTION_CLOSED) {
        storage->closed++;
    }
    (void)pthread_mutex_unlock(&storage->lock);
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    fake_storage_t *storage = context;
    (void)pthread_mutex_lock(&storage->lock);
    for (uint32_t i = 0; i < storage->peer_count && !up; i++) {
        if (storage->peers[i] == peer)
            storage->peers[i] = storage->peers[--storage->peer_count];
    }
    (void)pthread_mutex_unlock(&storage->lock);
}

static void *thread_main(void *context)
{
    fake_storage_t *storage = context;
    vd_link_options_t options = {.path = storage->path,
                                 .bind = true,
                                 .item = item,
                                 .peer_changed = peer_changed,
                                 .context = storage};
    vd_error_t err = VD_ERROR_INIT;
    if (vd_link_open(storage->loop, &options, &storage->link, &err) != VD_OK)
        vd_assert_failed(err.message, __FILE__, __LINE__);
    VD_ASSERT(vd_loop_run(storage->loop, NULL) == VD_OK);
    vd_link_close(&storage->link);
    return NULL;
}

static void begin(fake_storage_t *storage)
{
    vd_rand_secret(storage->boot_id, sizeof storage->boot_id);
    storage->peer_count = 0;
    VD_ASSERT(vd_loop_create(&storage->loop, NULL) == VD_OK);
    VD_ASSERT(pthread_create(&storage->thread, NULL, thread_main, storage) == 0);
    storage->running = true;
}

fake_storage_t *fake_storage_start(const char *path)
{
    fake_storage_t *storage = vd_xalloc(sizeof *storage);
    (void)snprintf(storage->path, sizeof storage->path, "%s", path);
    (void)pthread_mutex_init(&storage->lock, NULL);
    memset(storage->set_id, 7, sizeof storage->set_id);
    storage->last_txn_number = -1;
    vd_buf_init(&storage->last_reply, 1 << 20);
    vd_buf_init(&storage->topology, VDP_TOPOLOGY_MAX);
    storage->state = (vdp_operation_state_t){
        .boot_id = vd_slice(storage->boot_id, 16),
        .ready = true,
        .writable = true,
        .auth_epoch = 1,
        .fresh_ms = UINT64_MAX,
        .term = 1,
        .newest = (uint64_t)1700000000 << 32 | 1,
        .durable = (uint64_t)1700000000 << 32 | 1,
        .last_write_ms = 1700000000000,
        .set_id = vd_slice(storage->set_id, 12),
    };
    begin(storage);
    return storage;
}

void fake_storage_kill(fake_storage_t *storage)
{
    if (!storage->running)
        return;
    vd_loop_stop(storage->loop);
    (void)pthread_join(storage->thread, NULL);
    vd_loop_destroy(&storage->loop);
    storage->running = false;
}

void fake_storage_revive(fake_storage_t *storage)
{
    VD_ASSERT(!storage->running);
    begin(storage);
}

void fake_storage_stop(fake_storage_t **storage_p)
{
    fake_storage_t *storage = *storage_p;
    fake_storage_kill(storage);
    while (storage->document_count != 0)
        remove_at(storage, 0);
    (void)pthread_mutex_destroy(&storage->lock);
    vd_buf_done(&storage->last_reply);
    vd_buf_done(&storage->topology);
    vd_free(storage);
    *storage_p = NULL;
}

void fake_storage_silence(fake_storage_t *storage, const char *name)
{
    (void)pthread_mutex_lock(&storage->lock);
    (void)snprintf(storage->silenced, sizeof storage->silenced, "%s", name == NULL ? "" : name);
    (void)pthread_mutex_unlock(&storage->lock);
}

static void answer_late(void *context)
{
    fake_storage_t *storage = context;
    vd_bb_t bb;
    vd_bson_t document;
    vdp_operation_reply_t reply = {.operation_time = storage->state.newest};
    (void)pthread_mutex_lock(&storage->lock);
    vd_bb_init(&bb, 1000);
    vd_bb_cstr(&bb, "echo", "late");
    vd_bb_double(&bb, "ok", 1);
    VD_ASSERT(vd_bb_finish(&bb, &document, NULL) == VD_OK);
    send_item(storage, storage->silenced_peer, &vdp_operation_reply, storage->silenced_id, &reply,
              vd_slice(document.data, document.len));
    vd_bb_done(&bb);
    (void)pthread_mutex_unlock(&storage->lock);
}

void fake_storage_answer_late(fake_storage_t *storage)
{
    vd_loop_post(storage->loop, answer_late, storage);
}

void fake_storage_fail_next(fake_storage_t *storage, const char *name, int code)
{
    (void)pthread_mutex_lock(&storage->lock);
    (void)snprintf(storage->failing, sizeof storage->failing, "%s", name);
    storage->fail_code = code;
    (void)pthread_mutex_unlock(&storage->lock);
}

void fake_storage_mishap_next(fake_storage_t *storage, const char *name,
                              fake_storage_mishap_t mishap)
{
    (void)pthread_mutex_lock(&storage->lock);
    (void)snprintf(storage->mishap_name, sizeof storage->mishap_name, "%s", name);
    storage->mishap = mishap;
    (void)pthread_mutex_unlock(&storage->lock);
}

void fake_storage_put_off(fake_storage_t *storage, bool on)
{
    (void)pthread_mutex_lock(&storage->lock);
    storage->put_off = on;
    (void)pthread_mutex_unlock(&storage->lock);
}

static void tell(void *context)
{
    fake_storage_t *storage = context;
    (void)pthread_mutex_lock(&storage->lock);
    changed(storage);
    (void)pthread_mutex_unlock(&storage->lock);
}

void fake_storage_set_ready(fake_storage_t *storage, bool ready)
{
    (void)pthread_mutex_lock(&storage->lock);
    storage->state.ready = ready;
    (void)pthread_mutex_unlock(&storage->lock);
    vd_loop_post(storage->loop, tell, storage);
}

void fake_storage_set_writable(fake_storage_t *storage, bool writable)
{
    (void)pthread_mutex_lock(&storage->lock);
    storage->state.writable = writable;
    (void)pthread_mutex_unlock(&storage->lock);
    vd_loop_post(storage->loop, tell, storage);
}

void fake_storage_set_role(fake_storage_t *storage, uint32_t role, uint64_t term,
                           vd_bson_t topology)
{
    (void)pthread_mutex_lock(&storage->lock);
    storage->state.role = role;
    storage->state.writable = role == VDP_ROLE_PRIMARY;
    storage->state.term = term;
    vd_buf_clear(&storage->topology);
    VD_ASSERT(vd_buf_append(&storage->topology, topology.data, topology.len) == VD_OK);
    storage->state.topology = vd_buf_slice(&storage->topology);
    storage->state.majority = storage->state.newest - 1;
    (void)pthread_mutex_unlock(&storage->lock);
    vd_loop_post(storage->loop, tell, storage);
}

bool fake_storage_copy(fake_storage_t *storage, const char *collection, vd_buf_t *out)
{
    bool found = false;
    (void)pthread_mutex_lock(&storage->lock);
    for (uint32_t i = 0; i < storage->document_count && !found; i++) {
        const document_t *d = &storage->documents[i];
        found =
            strcmp(d->collection, collection) == 0 && vd_buf_append(out, d->data, d->len) == VD_OK;
    }
    (void)pthread_mutex_unlock(&storage->lock);
    return found;
}

void fake_storage_put(fake_storage_t *storage, const char *collection, vd_bson_t document)
{
    (void)pthread_mutex_lock(&storage->lock);
    VD_ASSERT(add(storage, collection, document));
    (void)pthread_mutex_unlock(&storage->lock);
}

void fake_storage_change_users(fake_storage_t *storage, const char *dropped_id)
{
    (void)pthread_mutex_lock(&storage->lock);
    for (uint32_t i = storage->document_count; dropped_id != NULL && i-- > 0;) {
        document_t *d = &storage->documents[i];
        vd_value_t id = vd_bson_get(bytes_of(d), "_id");
        if (strcmp(d->collection, "system.users") == 0 && id.type == VD_BSON_STRING &&
            vd_slice_is(vd_value_string(id), dropped_id))
            remove_at(storage, i);
    }
    storage->state.auth_epoch++;
    (void)pthread_mutex_unlock(&storage->lock);
    vd_loop_post(storage->loop, tell, storage);
}

uint64_t fake_storage_newest(fake_storage_t *storage)
{
    (void)pthread_mutex_lock(&storage->lock);
    uint64_t newest = storage->state.newest;
    (void)pthread_mutex_unlock(&storage->lock);
    return newest;
}

static uint32_t read_count(fake_storage_t *storage, const uint32_t *counter)
{
    (void)pthread_mutex_lock(&storage->lock);
    uint32_t value = *counter;
    (void)pthread_mutex_unlock(&storage->lock);
    return value;
}

uint32_t fake_storage_count(fake_storage_t *storage, const char *name)
{
    uint32_t value = 0;
    (void)pthread_mutex_lock(&storage->lock);
    for (uint32_t i = 0; i < NAMES_MAX; i++) {
        if (strcmp(storage->counts[i].name, name) == 0)
            value = storage->counts[i].count;
    }
    (void)pthread_mutex_unlock(&storage->lock);
    return value;
}

uint32_t fake_storage_resent(fake_storage_t *storage)
{
    return read_count(storage, &storage->resent);
}

uint32_t fake_storage_unanswered(fake_storage_t *storage)
{
    return read_count(storage, &storage->unanswered);
}

uint32_t fake_storage_mishaps(fake_storage_t *storage)
{
    return read_count(storage, &storage->mishaps);
}

uint32_t fake_storage_cancelled(fake_storage_t *storage)
{
    return read_count(storage, &storage->cancelled);
}

uint32_t fake_storage_closed(fake_storage_t *storage)
{
    return read_count(storage, &storage->closed);
}

uint32_t fake_storage_documents(fake_storage_t *storage, const char *collection)
{
    (void)pthread_mutex_lock(&storage->lock);
    uint32_t n = count_in(storage, collection);
    (void)pthread_mutex_unlock(&storage->lock);
    return n;
}
