/* veddb-storaged/cursors.c — see cursors.h. */
#include "veddb-storaged/cursors.h"

#include "veddb-storaged/sessions.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/counts.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/registry.h"
#include "veddb-storaged/streams/stream.h"
#include "veddb-storaged/transactions.h"

#define CURSOR_IN_USE    12051
#define AWAIT_DEFAULT_MS 1000
#define USER_MAX         320
#define GONE_MAX         1024

struct stor_client_cursor {
    int64_t id;
    const stor_cursor_class_t *class;
    void *state;
    vd_arena_t *arena;
    vd_slice_t ns, user; /* in the arena */
    vd_bson_t originating, collation;
    stor_session_key_t session; /* when has_lsid */
    int64_t transaction;        /* number of the one that it was opened in; -1 */
    uint64_t pinned_at;         /* time of the snapshot that it reads; 0 */
    uint64_t bytes, bytes_max;  /* returned, and at most; 0 = no limit */
    bool has_lsid, no_timeout, pinned, killed, counted;
    uint64_t collection_id, left_us; /* left_us: of maxTimeMS; 0 = none */
    uint64_t opened_ms, last_used_ms, batches, documents;
    uint64_t pinned_by;           /* opid */
    uint64_t auth_epoch;          /* as of which its user may have what it reads */
    stor_read_level_t read_level; /* of the command that made it: each batch keeps to it */
};

struct stor_cursors {
    stor_storage_t *storage;
    pthread_mutex_t lock;
    vd_map_t *by_id;
    stor_counts_t *counts; /* by user */
    uint64_t total_opened, timed_out, killed;
    /* Those that ended with their collection, for whoever asks for more: the latest ones. */
    int64_t gone[GONE_MAX];
    uint32_t gone_next;
};

/* ---- batches ---- */

void stor_batch_begin(stor_batch_t *batch, stor_request_t *request, bool first,
                      uint32_t documents_max)
{
    *batch = (stor_batch_t){.request = request,
                            .documents_max = documents_max,
                            .bytes_max = VD_BSON_DOCUMENT_MAX_BYTES};
    uint32_t limit = request->command.batch_max; /* of the user */
    if (limit != 0 && limit < batch->bytes_max)
        batch->bytes_max = limit;
    vd_bb_begin_document(&request->reply, "cursor");
    vd_bb_begin_array(&request->reply, first ? "firstBatch" : "nextBatch");
}

bool stor_batch_full(const stor_batch_t *batch)
{
    return (batch->documents_max != 0 && batch->count >= batch->documents_max) ||
           batch->bytes >= batch->bytes_max;
}

bool stor_batch_add(stor_batch_t *batch, vd_bson_t document)
{
    char name[12];
    if (stor_batch_full(batch) ||
        (batch->count > 0 && batch->bytes + document.len + 16 > batch->bytes_max))
        return false;
    vd_bb_value(&batch->request->reply, vd_array_name(batch->count, name),
                vd_value_from_document(document));
    batch->count++;
    batch->bytes += document.len + 16;
    batch->request->documents_returned++;
    return true;
}

void stor_batch_close(stor_batch_t *batch)
{
    if (!batch->closed)
        vd_bb_close(&batch->request->reply);
    batch->closed = true;
}

void stor_batch_end(stor_batch_t *batch, int64_t cursor_id, vd_slice_t ns)
{
    vd_bb_t *bb = &batch->request->reply;
    stor_batch_close(batch);
    vd_bb_int64(bb, "id", cursor_id);
    vd_bb_string(bb, "ns", ns);
    if (batch->request->pinned_at != 0)
        vd_bb_timestamp(bb, "atClusterTime", batch->request->pinned_at);
    vd_bb_close(bb);
    batch->request->cursor_id = cursor_id;
    batch->request->cursor_ns = vd_arena_copy_slice(batch->request->arena, ns);
}

/* While nobody else can end the cursor. */
static void batch_tail(stor_batch_t *batch, const stor_cursor_class_t *class, void *state)
{
    stor_batch_close(batch);
    if (class->tail != NULL)
        class->tail(state, &batch->request->reply);
}

/* ---- the table of cursors ---- */

int stor_cursors_open(stor_storage_t *storage, stor_cursors_t **ret_cursors, vd_error_t *err)
{
    (void)err;
    stor_cursors_t *cursors = vd_xalloc(sizeof *cursors);
    cursors->storage = storage;
    cursors->by_id = vd_map_create(VD_CURSORS_OPEN_MAX);
    cursors->counts = stor_counts_create();
    pthread_mutex_init(&cursors->lock, NULL);
    *ret_cursors = cursors;
    return VD_OK;
}

static void cursor_free(stor_cursors_t *cursors, stor_client_cursor_t *cursor)
{
    if (cursor->counted)
        stor_counts_remove(cursors->counts, cursor->user);
    if (cursor->class->close != NULL)
        cursor->class->close(cursor->state);
    vd_arena_t *arena = cursor->arena; /* the cursor itself stands in it */
    vd_arena_destroy(&arena);
}

void stor_cursors_close(stor_cursors_t **cursors_p)
{
    stor_cursors_t *cursors = *cursors_p;
    if (cursors == NULL)
        return;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(cursors->by_id, &position, &key, &value))
        cursor_free(cursors, value);
    vd_map_destroy(&cursors->by_id);
    stor_counts_destroy(&cursors->counts);
    pthread_mutex_destroy(&cursors->lock);
    vd_free(cursors);
    *cursors_p = NULL;
}

static vd_slice_t key_of(const int64_t *id)
{
    return vd_slice(id, sizeof *id);
}

int stor_cursors_create(stor_request_t *request, const stor_client_cursor_options_t *options,
                        vd_arena_t **arena_p, void *state, int64_t *ret_id, vd_error_t *err)
{
    stor_cursors_t *cursors = request->storage->cursors;
    vd_arena_t *arena = *arena_p;
    *arena_p = NULL;
    stor_client_cursor_t *cursor = VD_ARENA_NEW(arena, stor_client_cursor_t);
    *cursor = (stor_client_cursor_t){
        .class = options->class,
        .state = state,
        .arena = arena,
        .ns = vd_arena_copy_slice(arena, options->ns),
        .user = vd_arena_copy_slice(arena, request->command.user),
        .no_timeout = options->no_timeout,
        .collection_id = options->collection_id,
        .left_us = options->max_time_ms * 1000,
        .opened_ms = vd_monotonic_ms(),
    };
    cursor->last_used_ms = cursor->opened_ms;
    cursor->bytes = options->bytes;
    cursor->bytes_max = request->command.result_max;
    cursor->read_level = request->read_level;
    cursor->auth_epoch = request->command.auth_epoch;
    cursor->transaction = request->transaction_number;
    cursor->pinned_at = request->pinned_at;
    stor_transaction_cursor_opened(request);
    vd_bson_t collation = stor_collation_spec();
    if (collation.data != NULL)
        cursor->collation =
            (vd_bson_t){vd_arena_copy(arena, collation.data, collation.len), collation.len};
    if (options->originating.len >= 5)
        cursor->originating =
            (vd_bson_t){vd_arena_copy(arena, options->originating.data, options->originating.len),
                        options->originating.len};
    if (request->command.lsid.len == 16) {
        cursor->has_lsid = true;
        cursor->session = stor_session_key_of(&request->command);
    }
    cursor->counted = stor_counts_add(cursors->counts, cursor->user, request->command.cursors_max);
    if (!cursor->counted) {
        cursor_free(cursors, cursor);
        return vd_error_set(err, VD_ERR_TOO_MANY_CURSORS,
                            "too many open cursors of this user (limit %u)",
                            request->command.cursors_max);
    }
    pthread_mutex_lock(&cursors->lock);
    do {
        vd_rand_secret(&cursor->id, sizeof cursor->id);
        cursor->id &= INT64_MAX;
    } while (cursor->id == 0 || vd_map_get(cursors->by_id, key_of(&cursor->id)) != NULL);
    int64_t id = cursor->id;
    int rc = vd_map_put(cursors->by_id, key_of(&id), cursor, NULL);
    cursors->total_opened += rc == VD_OK;
    pthread_mutex_unlock(&cursors->lock);
    if (rc != VD_OK) {
        cursor_free(cursors, cursor);
        return vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "too many open cursors (limit %d)",
                            VD_CURSORS_OPEN_MAX);
    }
    *ret_id = id;
    return VD_OK;
}

static int result_check(uint64_t bytes, uint64_t bytes_max, vd_error_t *err)
{
    if (bytes_max == 0 || bytes <= bytes_max)
        return VD_OK;
    return vd_error_set(err, VD_ERR_RESULT_TOO_LARGE,
                        "the query returns more than its user may have (limit %llu bytes)",
                        (unsigned long long)bytes_max);
}

int stor_cursors_first(stor_request_t *request, const stor_client_cursor_options_t *options,
                       vd_arena_t **arena_p, void *state, uint32_t batch_size, bool single_batch,
                       vd_error_t *err)
{
    stor_batch_t batch;
    bool done = false;
    int64_t id = 0;
    int rc = VD_OK;
    stor_batch_begin(&batch, request, true, batch_size);
    if (batch_size > 0)
        rc = options->class->fill(state, request, &batch, &done, err);
    if (rc == VD_OK)
        batch_tail(&batch, options->class, state);
    if (rc == VD_OK)
        rc = result_check(batch.bytes, request->command.result_max, err);
    if (rc == VD_OK && !done && !single_batch) {
        stor_client_cursor_options_t copy = *options;
        copy.bytes = batch.bytes;
        if (options->max_time_ms != 0) {
            uint64_t used_ms = (vd_monotonic_us() - request->started_us) / 1000;
            copy.max_time_ms = used_ms < options->max_time_ms ? options->max_time_ms - used_ms : 1;
        }
        rc = stor_cursors_create(request, &copy, arena_p, state, &id, err);
    } else {
        if (options->class->close != NULL)
            options->class->close(state);
        /* The reply holds copies; but ns may stand in the arena: it is ended below. */
    }
    if (rc == VD_OK)
        stor_batch_end(&batch, id, options->ns);
    vd_arena_destroy(arena_p);
    return rc;
}

static bool owned_by(const stor_client_cursor_t *cursor, const stor_request_t *request)
{
    return vd_slice_equal(cursor->user, request->command.user) || stor_request_all_users(request);
}

static int transaction_check(const stor_client_cursor_t *cursor, const stor_request_t *request,
                             int64_t id, vd_error_t *err)
{
    long long number = request->transaction_number, made_in = cursor->transaction;
    if (number == made_in)
        return VD_OK;
    if (made_in < 0)
        return vd_error_set(err, VD_ERR_LOCATION(50739),
                            "Cannot run getMore on cursor %lld, which was not created in a "
                            "transaction, in transaction %lld",
                            (long long)id, number);
    return number < 0 ? vd_error_set(err, VD_ERR_LOCATION(50740),
                                     "Cannot run getMore on cursor %lld, which was created in "
                                     "transaction %lld, without a txnNumber",
                                     (long long)id, made_in)
                      : vd_error_set(err, VD_ERR_LOCATION(50741),
                                     "Cannot run getMore on cursor %lld, which was created in "
                                     "transaction %lld, in transaction %lld",
                                     (long long)id, made_in, number);
}

static int pin_check(const stor_client_cursor_t *cursor, const stor_request_t *request, int64_t id,
                     vd_slice_t ns, vd_error_t *err)
{
    if (cursor == NULL || cursor->killed)
        return vd_error_set(err, VD_ERR_CURSOR_NOT_FOUND, "cursor id %lld not found",
                            (long long)id);
    if (cursor->pinned)
        return vd_error_set(err, VD_ERR_LOCATION(CURSOR_IN_USE), "cursor id %lld is already in use",
                            (long long)id);
    if (!vd_slice_equal(cursor->ns, ns))
        return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                            "Requested getMore on namespace '%.*s', but cursor belongs to a "
                            "different namespace %.*s",
                            VD_SLICE_FMT(ns), VD_SLICE_FMT(cursor->ns));
    if (!owned_by(cursor, request))
        return vd_error_set(err, VD_ERR_UNAUTHORIZED,
                            "cursor id %lld was not created by the authenticated user",
                            (long long)id);
    bool same_session = cursor->has_lsid
                            ? request->command.lsid.len == 16 &&
                                  memcmp(cursor->session.bytes, request->command.lsid.data, 16) == 0
                            : request->command.lsid.len == 0;
    if (!same_session)
        return vd_error_set(err, VD_ERR_LOCATION(50738),
                            "Cannot run getMore on cursor %lld, which was not created in this "
                            "session",
                            (long long)id);
    return transaction_check(cursor, request, id, err);
}

/* Users have changed since its command was allowed: it reads more than its own collection, perhaps,
 * and only the gateway knows who may what. */
static bool is_to_be_allowed(const stor_client_cursor_t *cursor, const stor_request_t *request)
{
    const vdp_operation_command_t *command = &request->command;
    return cursor->auth_epoch != command->auth_epoch && cursor->originating.len > 0 &&
           (command->flags & (VDP_COMMAND_INTERNAL | VDP_COMMAND_AUTHORIZED)) == 0;
}

/* Under the lock: it ended with its collection; told once. */
static bool gone_take(stor_cursors_t *cursors, int64_t id)
{
    for (uint32_t i = 0; i < GONE_MAX; i++) {
        if (id != 0 && cursors->gone[i] == id) {
            cursors->gone[i] = 0;
            return true;
        }
    }
    return false;
}

/* VD_ERR_AGAIN, without a text: it is to be allowed first; *ret_originating is in the request's
 * arena. */
static int pin(stor_request_t *request, int64_t id, vd_slice_t ns, stor_client_cursor_t **ret,
               vd_bson_t *ret_originating, vd_error_t *err)
{
    stor_cursors_t *cursors = request->storage->cursors;
    pthread_mutex_lock(&cursors->lock);
    stor_client_cursor_t *cursor = vd_map_get(cursors->by_id, key_of(&id));
    int rc = cursor == NULL && gone_take(cursors, id)
                 ? vd_error_set(err, VD_ERR_QUERY_PLAN_KILLED, "collection dropped or renamed")
                 : pin_check(cursor, request, id, ns, err);
    if (rc == VD_OK && is_to_be_allowed(cursor, request)) {
        *ret_originating = (vd_bson_t){
            vd_arena_copy(request->arena, cursor->originating.data, cursor->originating.len),
            cursor->originating.len};
        rc = VD_ERR_AGAIN;
    }
    if (rc == VD_OK) {
        cursor->auth_epoch = request->command.auth_epoch;
        cursor->pinned = true;
        cursor->pinned_by = request->number;
        request->read_level = cursor->read_level;
        *ret = cursor;
    }
    pthread_mutex_unlock(&cursors->lock);
    if (rc == VD_ERR_CURSOR_NOT_FOUND)
        stor_request_depends_newest(request);
    return rc;
}

/* Keeps or ends the cursor; true when it stays open. *ret_killed: somebody killed it meanwhile
 * (only known under the lock). */
static bool unpin(stor_cursors_t *cursors, stor_client_cursor_t *cursor, bool end, bool *ret_killed)
{
    pthread_mutex_lock(&cursors->lock);
    cursor->pinned = false;
    cursor->last_used_ms = vd_monotonic_ms();
    *ret_killed = cursor->killed;
    end = end || cursor->killed;
    if (end)
        (void)vd_map_remove(cursors->by_id, key_of(&cursor->id));
    pthread_mutex_unlock(&cursors->lock);
    if (end)
        cursor_free(cursors, cursor);
    return !end;
}

static void deadline_of(stor_request_t *request, const stor_client_cursor_t *cursor)
{
    if (cursor->left_us == 0)
        return;
    request->checks = 0; /* the next check looks at the time */
    uint64_t until = request->started_us + cursor->left_us;
    if (request->deadline_us == 0 || until < request->deadline_us) {
        request->deadline_us = until;
        request->deadline_is_max_time = true;
    }
}

static bool may_wait(const stor_cursor_class_t *class)
{
    return class->awaits != NULL || class->awaits_visible != NULL;
}

/* maxTimeMS of a getMore says how long to wait for data, not how long it may run. */
static int await_begin(stor_request_t *request, const stor_client_cursor_t *cursor, vd_error_t *err)
{
    uint64_t wait_ms = request->command.max_time_ms;
    if (!may_wait(cursor->class)) {
        if (wait_ms > 0)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "cannot set maxTimeMS on getMore command for a non-awaitData "
                                "cursor");
        deadline_of(request, cursor);
        return VD_OK;
    }
    request->deadline_us = 0;
    request->await_until_us =
        request->arrived_us + (wait_ms == 0 ? AWAIT_DEFAULT_MS : wait_ms) * 1000;
    return VD_OK;
}

/* Nothing has come, and there is time left: the request waits, and the cursor stays pinned. */
static bool await_more(stor_request_t *request, stor_client_cursor_t *cursor)
{
    const stor_cursor_class_t *class = cursor->class;
    if (!request->may_await || !may_wait(class) || vd_monotonic_us() >= request->await_until_us)
        return false;
    request->await_stream = class->awaits == NULL ? NULL : class->awaits(cursor->state);
    request->await_seen = class->awaits == NULL ? class->awaits_visible(cursor->state)
                                                : stor_stream_scanned(request->await_stream);
    request->await_cursor = cursor;
    request->awaiting = true;
    return true;
}

static int fill_more(stor_request_t *request, stor_client_cursor_t *cursor, uint32_t batch_size,
                     vd_error_t *err)
{
    stor_cursors_t *cursors = request->storage->cursors;
    stor_batch_t batch;
    bool done = false;
    int64_t id = cursor->id;
    vd_slice_t ns = vd_arena_copy_slice(request->arena, cursor->ns);
    request->change_stream = cursor->class->change_stream;
    stor_batch_begin(&batch, request, false, batch_size);
    int rc = stor_collation_use(cursor->collation, err);
    if (rc == VD_OK)
        rc = cursor->class->fill(cursor->state, request, &batch, &done, err);
    if (rc == VD_OK && !done && batch.count == 0 && await_more(request, cursor))
        return VD_OK;
    if (rc == VD_OK)
        batch_tail(&batch, cursor->class, cursor->state);
    cursor->bytes += batch.bytes;
    if (rc == VD_OK && !may_wait(cursor->class)) /* what is waited for has no end */
        rc = result_check(cursor->bytes, cursor->bytes_max, err);
    request->await_cursor = NULL;
    cursor->batches++;
    cursor->documents += batch.count;
    if (cursor->left_us != 0) {
        uint64_t used_us = vd_monotonic_us() - request->started_us;
        cursor->left_us = used_us < cursor->left_us ? cursor->left_us - used_us : 1;
    }
    bool killed;
    bool open = unpin(cursors, cursor, rc != VD_OK || done, &killed);
    if (rc != VD_OK)
        return rc;
    if (killed && !open && !done)
        return vd_error_set(err, VD_ERR_LOCATION(237), "cursor id %lld was killed", (long long)id);
    stor_batch_end(&batch, open ? id : 0, ns);
    return VD_OK;
}

int stor_cursors_more(stor_request_t *request, int64_t id, vd_slice_t ns, uint32_t batch_size,
                      vd_error_t *err)
{
    stor_client_cursor_t *cursor;
    vd_bson_t originating;
    bool killed;
    int rc = pin(request, id, ns, &cursor, &originating, err);
    if (rc == VD_ERR_AGAIN) {
        vd_bb_document(&request->reply, "originating", originating);
        request->reply_flags |= VDP_REPLY_AUTHORIZE;
        return VD_OK;
    }
    if (rc != VD_OK)
        return rc;
    rc = stor_pin_again(request, cursor->pinned_at, err);
    if (rc != VD_OK) {
        (void)unpin(request->storage->cursors, cursor, true, &killed);
        return rc;
    }
    rc = await_begin(request, cursor, err);
    if (rc != VD_OK) {
        (void)unpin(request->storage->cursors, cursor, false, &killed);
        return rc;
    }
    request->await_size = batch_size;
    return fill_more(request, cursor, batch_size, err);
}

int stor_cursors_again(stor_request_t *request, vd_error_t *err)
{
    return fill_more(request, request->await_cursor, request->await_size, err);
}

/* ---- killing ---- */

/* Under the lock. A pinned cursor is only marked; its operation is told afterwards. */
static void kill_locked(stor_cursors_t *cursors, stor_client_cursor_t *cursor,
                        stor_client_cursor_t **ret_free, uint64_t *ret_operation)
{
    *ret_free = NULL;
    *ret_operation = 0;
    cursors->killed++;
    if (cursor->pinned) {
        cursor->killed = true;
        *ret_operation = cursor->pinned_by;
        return;
    }
    (void)vd_map_remove(cursors->by_id, key_of(&cursor->id));
    *ret_free = cursor;
}

stor_kill_t stor_cursors_kill(stor_request_t *request, int64_t id, vd_slice_t ns)
{
    stor_cursors_t *cursors = request->storage->cursors;
    stor_client_cursor_t *dead = NULL;
    uint64_t operation = 0;
    stor_kill_t result = STOR_KILL_KILLED;
    pthread_mutex_lock(&cursors->lock);
    stor_client_cursor_t *cursor = vd_map_get(cursors->by_id, key_of(&id));
    if (cursor == NULL || cursor->killed || !vd_slice_equal(cursor->ns, ns))
        result = STOR_KILL_NOT_FOUND;
    else if (!owned_by(cursor, request))
        result = STOR_KILL_ALIVE;
    else
        kill_locked(cursors, cursor, &dead, &operation);
    pthread_mutex_unlock(&cursors->lock);
    if (dead != NULL)
        cursor_free(cursors, dead);
    if (operation != 0)
        (void)stor_registry_kill(request->storage, operation, VD_SLICE_NULL, true);
    return result;
}

typedef bool (*select_fn)(const stor_client_cursor_t *cursor, const void *context);

static uint32_t kill_selected(stor_cursors_t *cursors, select_fn select, const void *context)
{
    uint32_t killed = 0;
    for (;;) {
        stor_client_cursor_t *dead = NULL;
        uint64_t operation = 0;
        bool found = false;
        size_t position = 0;
        vd_slice_t key;
        void *value;
        pthread_mutex_lock(&cursors->lock);
        while (!found && vd_map_next(cursors->by_id, &position, &key, &value)) {
            stor_client_cursor_t *cursor = value;
            if (cursor->killed || !select(cursor, context))
                continue;
            kill_locked(cursors, cursor, &dead, &operation);
            found = true;
        }
        pthread_mutex_unlock(&cursors->lock);
        if (!found)
            return killed;
        killed++;
        if (dead != NULL)
            cursor_free(cursors, dead);
        if (operation != 0)
            (void)stor_registry_kill(cursors->storage, operation, VD_SLICE_NULL, true);
    }
}

typedef struct {
    bool (*matches)(const stor_session_key_t *key, const void *context);
    const void *context;
} sessions_t;

static bool of_sessions(const stor_client_cursor_t *cursor, const void *context)
{
    const sessions_t *sessions = context;
    return cursor->has_lsid && sessions->matches(&cursor->session, sessions->context);
}

uint32_t stor_cursors_kill_sessions(stor_cursors_t *cursors,
                                    bool (*matches)(const stor_session_key_t *key,
                                                    const void *context),
                                    const void *context)
{
    return kill_selected(cursors, of_sessions, &(sessions_t){matches, context});
}

typedef struct {
    const stor_session_key_t *session;
    int64_t number;
} transaction_t;

static bool of_transaction(const stor_client_cursor_t *cursor, const void *context)
{
    const transaction_t *transaction = context;
    return cursor->transaction == transaction->number && cursor->has_lsid &&
           memcmp(cursor->session.bytes, transaction->session->bytes,
                  sizeof cursor->session.bytes) == 0;
}

uint32_t stor_cursors_kill_transaction(stor_cursors_t *cursors, const stor_session_key_t *session,
                                       int64_t number)
{
    return kill_selected(cursors, of_transaction, &(transaction_t){session, number});
}

static bool of_collection(const stor_client_cursor_t *cursor, const void *context)
{
    return cursor->collection_id == *(const uint64_t *)context;
}

uint32_t stor_cursors_kill_collection(stor_cursors_t *cursors, uint64_t collection_id)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    pthread_mutex_lock(&cursors->lock);
    while (collection_id != 0 && vd_map_next(cursors->by_id, &position, &key, &value)) {
        const stor_client_cursor_t *cursor = value;
        if (cursor->collection_id == collection_id && !cursor->pinned && !cursor->killed)
            cursors->gone[cursors->gone_next++ % GONE_MAX] = cursor->id;
    }
    pthread_mutex_unlock(&cursors->lock);
    return collection_id == 0 ? 0 : kill_selected(cursors, of_collection, &collection_id);
}

static bool is_idle(const stor_client_cursor_t *cursor, const void *context)
{
    return !cursor->pinned && !cursor->no_timeout &&
           cursor->last_used_ms < *(const uint64_t *)context;
}

uint32_t stor_cursors_expire(stor_cursors_t *cursors)
{
    uint64_t now = vd_monotonic_ms(), idle = cursors->storage->settings.cursor_idle_max_ms;
    if (now <= idle)
        return 0;
    uint64_t before = now - idle;
    uint32_t expired = kill_selected(cursors, is_idle, &before);
    pthread_mutex_lock(&cursors->lock);
    cursors->timed_out += expired;
    pthread_mutex_unlock(&cursors->lock);
    return expired;
}

void stor_cursors_stats(stor_cursors_t *cursors, stor_cursors_stats_t *ret_stats)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    memset(ret_stats, 0, sizeof *ret_stats);
    pthread_mutex_lock(&cursors->lock);
    ret_stats->open = vd_map_count(cursors->by_id);
    while (vd_map_next(cursors->by_id, &position, &key, &value)) {
        const stor_client_cursor_t *cursor = value;
        ret_stats->open_no_timeout += cursor->no_timeout;
        ret_stats->pinned += cursor->pinned;
    }
    ret_stats->total_opened = cursors->total_opened;
    ret_stats->timed_out = cursors->timed_out;
    ret_stats->killed = cursors->killed;
    pthread_mutex_unlock(&cursors->lock);
}

void stor_cursors_visit(stor_cursors_t *cursors,
                        void (*visit)(const stor_client_cursor_info_t *info, void *context),
                        void *context)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    pthread_mutex_lock(&cursors->lock);
    while (vd_map_next(cursors->by_id, &position, &key, &value)) {
        const stor_client_cursor_t *cursor = value;
        if (cursor->pinned)
            continue; /* shown with its operation */
        stor_client_cursor_info_t info = {
            .id = cursor->id,
            .ns = cursor->ns,
            .user = cursor->user,
            .lsid = cursor->has_lsid ? vd_slice(cursor->session.bytes, 16) : VD_SLICE_NULL,
            .originating = cursor->originating,
            .opened_ms = cursor->opened_ms,
            .last_used_ms = cursor->last_used_ms,
            .batches = cursor->batches,
            .documents = cursor->documents,
            .no_timeout = cursor->no_timeout,
            .tailable = cursor->class->tailable,
            .awaits = may_wait(cursor->class),
        };
        visit(&info, context);
    }
    pthread_mutex_unlock(&cursors->lock);
}
