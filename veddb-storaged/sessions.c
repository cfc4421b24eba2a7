/* veddb-storaged/sessions.c — sessions in memory (sharded) and results of retryable writes in the
 * table "sessions".
 *
 * Key: 48 B session + u32 BE first statement. Value, little-endian: u8 format, u8 kind, u8 flags,
 * u8 spare, i64 txnNumber, u64 timestamp, i64 wall clock ms, u32 count, i32 n, i32 nModified,
 * [upserted: u8 type, u32 length, payload], [value: BSON to the end]. */
#include "veddb-storaged/sessions.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/sessions_private.h"

#include <openssl/sha.h>
#include <time.h>

#define TABLE              STOR_SESSIONS_TABLE
#define SHARDS             STOR_SESSION_SHARDS
#define FORMAT             1
#define ROW_KEY_BYTES      (STOR_SESSION_KEY_BYTES + 4)
#define ROW_HEAD_BYTES     40
#define FLAG_UPSERTED      1
#define FLAG_UPDATED       2
#define FLAG_HAS_VALUE     4
#define SWEEP_ROWS_MAX     2000
#define ENDED_PER_PASS_MAX 200

static int find_table(const char *name, void *context)
{
    *(bool *)context |= strcmp(name, TABLE) == 0;
    return VD_OK;
}

int stor_sessions_open(stor_storage_t *storage, stor_sessions_t **ret_sessions, vd_error_t *err)
{
    bool found = false;
    int rc = stor_engine_tables(storage->engine, find_table, &found, err);
    if (rc == VD_OK && !found)
        rc = stor_engine_table_create(storage->engine, TABLE, false, err);
    if (rc != VD_OK)
        return rc;
    stor_sessions_t *sessions = vd_xalloc(sizeof *sessions);
    sessions->storage = storage;
    sessions->counts = stor_counts_create();
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&sessions->shards[i].lock, NULL);
        pthread_cond_init(&sessions->shards[i].ended, NULL);
        sessions->shards[i].by_key = vd_map_create(VD_SESSIONS_MAX);
    }
    stor_transactions_init(sessions);
    *ret_sessions = sessions;
    return VD_OK;
}

void stor_sessions_close(stor_sessions_t **sessions_p)
{
    stor_sessions_t *sessions = *sessions_p;
    if (sessions == NULL)
        return;
    stor_transactions_done(sessions);
    for (int i = 0; i < SHARDS; i++) {
        shard_t *shard = &sessions->shards[i];
        size_t position = 0;
        vd_slice_t key;
        void *value;
        while (vd_map_next(shard->by_key, &position, &key, &value))
            vd_free(value);
        vd_map_destroy(&shard->by_key);
        pthread_mutex_destroy(&shard->lock);
        pthread_cond_destroy(&shard->ended);
    }
    stor_counts_destroy(&sessions->counts);
    vd_free(sessions);
    *sessions_p = NULL;
}

void stor_sessions_visit(stor_sessions_t *sessions,
                         void (*visit)(const stor_session_key_t *key, uint64_t last_used_ms,
                                       void *context),
                         void *context)
{
    for (int i = 0; i < SHARDS; i++) {
        shard_t *shard = &sessions->shards[i];
        size_t position = 0;
        vd_slice_t key;
        void *value;
        pthread_mutex_lock(&shard->lock);
        while (vd_map_next(shard->by_key, &position, &key, &value)) {
            const session_t *session = value;
            visit(&session->key, session->last_used_ms, context);
        }
        pthread_mutex_unlock(&shard->lock);
    }
}

uint64_t stor_sessions_count(stor_sessions_t *sessions)
{
    return atomic_load(&sessions->count);
}

stor_session_key_t stor_session_key(vd_slice_t id, vd_slice_t user)
{
    stor_session_key_t key = {{0}};
    if (id.len == 16)
        memcpy(key.bytes, id.data, 16);
    (void)SHA256(user.len == 0 ? (const uint8_t *)"" : user.data, user.len, key.bytes + 16);
    return key;
}

stor_session_key_t stor_session_key_of(const vdp_operation_command_t *command)
{
    stor_session_key_t key = {{0}};
    if (command->lsid.len == 16)
        memcpy(key.bytes, command->lsid.data, 16);
    if (command->lsid_user.len == 32)
        memcpy(key.bytes + 16, command->lsid_user.data, 32);
    return key;
}

static stor_session_key_t key_of(const stor_request_t *request)
{
    return stor_session_key_of(&request->command);
}

static vd_slice_t user_of(const stor_session_key_t *key)
{
    return vd_slice(key->bytes + 16, sizeof key->bytes - 16);
}

/* Under the shard's lock. */
static int session_get(stor_request_t *request, shard_t *shard, const stor_session_key_t *key,
                       session_t **ret, vd_error_t *err)
{
    stor_sessions_t *sessions = request->storage->sessions;
    uint32_t user_max = request->command.sessions_max;
    vd_slice_t bytes = vd_slice(key->bytes, sizeof key->bytes);
    session_t *session = vd_map_get(shard->by_key, bytes);
    if (session == NULL) {
        if (atomic_load(&sessions->count) >= VD_SESSIONS_MAX)
            return vd_error_set(err, VD_ERR_TOO_MANY_LOGICAL_SESSIONS,
                                "cannot add session: there are too many (limit %d)",
                                VD_SESSIONS_MAX);
        if (!stor_counts_add(sessions->counts, user_of(key), user_max))
            return vd_error_set(err, VD_ERR_TOO_MANY_LOGICAL_SESSIONS,
                                "cannot add session: this user has too many (limit %u)", user_max);
        session = vd_xalloc(sizeof *session);
        session->key = *key;
        session->txn_number = -1;
        int rc = vd_map_put(shard->by_key, bytes, session, NULL);
        VD_ASSERT(rc == VD_OK); /* counted above */
        atomic_fetch_add(&sessions->count, 1);
    }
    session->last_used_ms = vd_monotonic_ms();
    *ret = session;
    return VD_OK;
}

int stor_sessions_touch(stor_request_t *request, vd_error_t *err)
{
    if (request->command.lsid.len == 0)
        return VD_OK;
    if (request->command.lsid.len != 16)
        return vd_error_set(err, VD_ERR_INVALID_UUID, "lsid.id must be a 16-byte value");
    stor_session_key_t key = key_of(request);
    return stor_sessions_use(request, &key, err);
}

int stor_sessions_use(stor_request_t *request, const stor_session_key_t *key, vd_error_t *err)
{
    shard_t *shard = stor_sessions_shard(request->storage->sessions, key);
    session_t *session;
    pthread_mutex_lock(&shard->lock);
    int rc = session_get(request, shard, key, &session, err);
    pthread_mutex_unlock(&shard->lock);
    return rc;
}

/* ---- rows ---- */

static void row_key(const stor_session_key_t *key, uint32_t statement, uint8_t out[ROW_KEY_BYTES])
{
    memcpy(out, key->bytes, STOR_SESSION_KEY_BYTES);
    out[48] = (uint8_t)(statement >> 24), out[49] = (uint8_t)(statement >> 16);
    out[50] = (uint8_t)(statement >> 8), out[51] = (uint8_t)statement;
}

static uint32_t row_statement(const uint8_t key[ROW_KEY_BYTES])
{
    return (uint32_t)key[48] << 24 | (uint32_t)key[49] << 16 | (uint32_t)key[50] << 8 | key[51];
}

static int64_t row_txn_number(vd_slice_t value)
{
    return (int64_t)vd_get_u64(value.data + 4);
}

/* The timestamp of a transaction's commit; 0: the row is of a retryable write. */
static uint64_t row_committed(vd_slice_t value)
{
    return value.data[1] == STOR_KIND_TRANSACTION ? vd_get_u64(value.data + 12) : 0;
}

static bool row_ok(vd_slice_t key, vd_slice_t value)
{
    return key.len == ROW_KEY_BYTES && value.len >= ROW_HEAD_BYTES && value.data[0] == FORMAT;
}

static int row_bad(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "a row of the session table is malformed");
}

static bool of_session(vd_slice_t key, const stor_session_key_t *session)
{
    return vd_slice_starts_with(key, vd_slice(session->bytes, STOR_SESSION_KEY_BYTES));
}

/* The newest txnNumber of a session's rows, -1 when there are none; and the timestamp of its commit
 * when it was a transaction's. */
static int newest_read(stor_session_t *engine, const stor_session_key_t *session, int64_t *ret,
                       uint64_t *ret_committed, vd_error_t *err)
{
    uint8_t key[ROW_KEY_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    vd_error_t step = VD_ERROR_INIT;
    *ret = -1;
    *ret_committed = 0;
    row_key(session, 0, key);
    int rc = stor_txn_begin(engine, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_cursor_open(engine, TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(key, sizeof key), true, &k, &v, &step);
    while (rc == VD_OK && of_session(k, session)) {
        if (!row_ok(k, v)) {
            rc = row_bad(&step);
            break;
        }
        if (row_txn_number(v) > *ret) {
            *ret = row_txn_number(v);
            *ret_committed = row_committed(v);
        }
        rc = stor_cursor_next(cursor, true, &k, &v, &step);
    }
    stor_txn_rollback(engine);
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static void wait_ended(shard_t *shard)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += STOR_SESSION_WAIT_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&shard->ended, &shard->lock, &until);
}

/* Under the shard's lock; alone in the session when it returns VD_OK. */
static int write_enter(stor_request_t *request, shard_t *shard, session_t **ret, vd_error_t *err)
{
    stor_session_key_t key = key_of(request);
    for (;;) {
        session_t *session; /* looked up anew: it may have been ended meanwhile */
        int rc = session_get(request, shard, &key, &session, err);
        if (rc != VD_OK)
            return rc;
        if (!session->executing) {
            session->executing = true;
            session->executor = request;
            request->executing = session;
            *ret = session;
            return VD_OK;
        }
        wait_ended(shard);
        rc = stor_request_check(request, err);
        if (rc != VD_OK)
            return rc;
    }
}

int stor_sessions_enter(stor_request_t *request, session_t **ret_session, vd_error_t *err)
{
    stor_session_key_t key = key_of(request);
    shard_t *shard = stor_sessions_shard(request->storage->sessions, &key);
    session_t *session;
    pthread_mutex_lock(&shard->lock);
    int rc = write_enter(request, shard, &session, err);
    pthread_mutex_unlock(&shard->lock);
    if (rc != VD_OK)
        return rc;
    /* Alone in it now: the fields below are ours. */
    if (!session->loaded) {
        int64_t newest;
        uint64_t committed;
        rc = newest_read(request->session, &key, &newest, &committed, err);
        if (rc != VD_OK)
            return rc;
        if (newest > session->txn_number) {
            session->txn_number = newest;
            session->committed = committed;
            session->use = committed != 0 ? STOR_NUMBER_COMMITTED : STOR_NUMBER_WRITES;
        }
        session->loaded = true;
    }
    *ret_session = session;
    return VD_OK;
}

int stor_sessions_write_begin(stor_request_t *request, bool *ret_replay, vd_error_t *err)
{
    session_t *session;
    *ret_replay = false;
    if (request->txn_number < 0)
        return VD_OK;
    int rc = stor_sessions_enter(request, &session, err);
    if (rc != VD_OK)
        return rc;
    if (request->txn_number < session->txn_number)
        return vd_error_set(err, VD_ERR_TRANSACTION_TOO_OLD,
                            "Retryable write with txnNumber %lld is prohibited on this session "
                            "because a newer %s with txnNumber %lld has already started on this "
                            "session.",
                            (long long)request->txn_number,
                            session->use == STOR_NUMBER_WRITES ? "retryable write" : "transaction",
                            (long long)session->txn_number);
    *ret_replay = request->txn_number == session->txn_number;
    if (*ret_replay && session->use != STOR_NUMBER_WRITES)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Must specify autocommit=false on all operations of a multi-statement "
                            "transaction.");
    stor_transaction_replace(request->storage, session, request->txn_number, STOR_NUMBER_WRITES);
    return VD_OK;
}

void stor_sessions_write_end(stor_request_t *request)
{
    session_t *session = request->executing;
    if (session == NULL)
        return;
    shard_t *shard = stor_sessions_shard(request->storage->sessions, &session->key);
    stor_transaction_t *doomed = NULL;
    pthread_mutex_lock(&shard->lock);
    if (session->doom != 0) {
        doomed = session->transaction;
        session->transaction = NULL;
        session->doom = 0;
    }
    if (doomed != NULL)
        session->use = STOR_NUMBER_ABORTED;
    session->executing = doomed != NULL; /* until it has ended */
    session->executor = NULL;
    request->executing = NULL;
    if (doomed == NULL)
        pthread_cond_broadcast(&shard->ended);
    pthread_mutex_unlock(&shard->lock);
    if (doomed == NULL)
        return;
    stor_transaction_end(request->storage, &doomed, false);
    pthread_mutex_lock(&shard->lock);
    session->executing = false;
    session->doom = 0; /* of a transaction that is over */
    pthread_cond_broadcast(&shard->ended);
    pthread_mutex_unlock(&shard->lock);
}

/* ---- copies ---- */

int stor_sessions_rows(stor_session_t *engine, const stor_session_key_t *session, uint64_t upto,
                       int (*visit)(vd_slice_t key, vd_slice_t value, void *context), void *context,
                       vd_error_t *err)
{
    uint8_t key[ROW_KEY_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    vd_error_t step = VD_ERROR_INIT;
    VD_ASSERT(stor_txn_active(engine));
    row_key(session, 0, key);
    int rc = stor_cursor_open(engine, TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(key, sizeof key), true, &k, &v, &step);
    while (rc == VD_OK && of_session(k, session)) {
        if (!row_ok(k, v))
            rc = row_bad(&step);
        else if (vd_get_u64(v.data + 12) <= upto)
            rc = visit(k, v, context);
        if (rc == VD_OK)
            rc = stor_cursor_next(cursor, true, &k, &v, &step);
    }
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

bool stor_sessions_row_ok(vd_slice_t key, vd_slice_t value)
{
    return row_ok(key, value);
}

void stor_sessions_forget(stor_sessions_t *sessions)
{
    for (int i = 0; i < SHARDS; i++) {
        shard_t *shard = &sessions->shards[i];
        size_t position = 0;
        vd_slice_t key;
        void *value;
        pthread_mutex_lock(&shard->lock);
        while (vd_map_next(shard->by_key, &position, &key, &value)) {
            session_t *session = value;
            if (session->executing || session->transaction != NULL)
                continue;
            stor_counts_remove(sessions->counts, user_of(&session->key));
            (void)vd_map_remove(shard->by_key, key);
            vd_free(session);
            atomic_fetch_sub(&sessions->count, 1);
        }
        pthread_mutex_unlock(&shard->lock);
    }
}

/* ---- results ---- */

static int row_decode(vd_slice_t key, vd_slice_t value, vd_arena_t *arena,
                      stor_statement_result_t *ret, vd_error_t *err)
{
    const uint8_t *p = value.data;
    uint8_t flags = p[2];
    stor_statement_result_t result = {
        .statement = (int32_t)row_statement(key.data),
        .timestamp = vd_get_u64(p + 12),
        .count = vd_get_u32(p + 28),
        .n = (int32_t)vd_get_u32(p + 32),
        .n_modified = (int32_t)vd_get_u32(p + 36),
        .upserted = VD_VALUE_MISSING,
        .updated_existing = (flags & FLAG_UPDATED) != 0,
        .has_value = (flags & FLAG_HAS_VALUE) != 0,
        .kind = p[1],
    };
    size_t at = ROW_HEAD_BYTES;
    if ((flags & FLAG_UPSERTED) != 0) {
        if (value.len < at + 5 || vd_get_u32(p + at + 1) > value.len - at - 5)
            return row_bad(err);
        uint32_t len = vd_get_u32(p + at + 1);
        result.upserted = vd_value_copy(arena, (vd_value_t){p + at + 5, len, p[at]});
        at += 5 + len;
    }
    if (result.has_value) {
        vd_bson_t doc;
        int rc = vd_bson_peek(vd_slice(p + at, value.len - at), &doc, err);
        if (rc != VD_OK)
            return rc;
        result.value = (vd_bson_t){vd_arena_copy(arena, doc.data, doc.len), doc.len};
    }
    *ret = result;
    return VD_OK;
}

int stor_sessions_lookup(stor_request_t *request, int32_t statement,
                         stor_statement_result_t *ret_result, vd_error_t *err)
{
    stor_session_t *engine = request->session;
    stor_session_key_t session = key_of(request);
    uint8_t key[ROW_KEY_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    bool own = !stor_txn_active(engine);
    int rc = own ? stor_txn_begin(engine, err) : VD_OK;
    if (rc != VD_OK)
        return rc;
    vd_error_t step = VD_ERROR_INIT;
    stor_statement_result_t result;
    bool found = false;
    row_key(&session, (uint32_t)statement, key);
    rc = stor_cursor_open(engine, TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(key, sizeof key), false, &k, &v, &step);
    /* Backwards: rows of older numbers may stand between. */
    while (rc == VD_OK && of_session(k, &session)) {
        if (!row_ok(k, v)) {
            rc = row_bad(&step);
            break;
        }
        if (row_txn_number(v) == request->txn_number) {
            rc = row_decode(k, v, request->arena, &result, &step);
            found = rc == VD_OK && statement - result.statement < (int32_t)result.count;
            break;
        }
        rc = stor_cursor_next(cursor, false, &k, &v, &step);
    }
    if (found)
        stor_request_depends(request, result.timestamp);
    else
        stor_request_depends(request, stor_txn_snapshot_newest(engine));
    if (own)
        stor_txn_rollback(engine);
    if (rc != VD_OK && rc != VD_ERR_NOT_FOUND) {
        if (err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
    if (!found)
        return VD_ERR_NOT_FOUND;
    *ret_result = result;
    return VD_OK;
}

void stor_sessions_row(stor_request_t *request, const stor_statement_result_t *result,
                       vd_slice_t *ret_key, vd_slice_t *ret_value)
{
    stor_session_key_t session = key_of(request);
    bool upserted = result->upserted.type != VD_BSON_MISSING;
    size_t len = ROW_HEAD_BYTES + (upserted ? 5 + result->upserted.len : 0) +
                 (result->has_value ? result->value.len : 0);
    uint8_t *value = vd_arena_alloc(request->arena, len);
    memset(value, 0, ROW_HEAD_BYTES);
    value[0] = FORMAT;
    value[1] = result->kind;
    value[2] =
        (uint8_t)((upserted ? FLAG_UPSERTED : 0) | (result->updated_existing ? FLAG_UPDATED : 0) |
                  (result->has_value ? FLAG_HAS_VALUE : 0));
    vd_put_u64(value + 4, (uint64_t)request->txn_number);
    vd_put_u64(value + 12, result->timestamp);
    vd_put_u64(value + 20, (uint64_t)request->variables.now_ms);
    vd_put_u32(value + 28, result->count);
    vd_put_u32(value + 32, (uint32_t)result->n);
    vd_put_u32(value + 36, (uint32_t)result->n_modified);
    uint8_t *p = value + ROW_HEAD_BYTES;
    if (upserted) {
        p[0] = result->upserted.type;
        vd_put_u32(p + 1, result->upserted.len);
        if (result->upserted.len > 0)
            memcpy(p + 5, result->upserted.data, result->upserted.len);
        p += 5 + result->upserted.len;
    }
    if (result->has_value)
        memcpy(p, result->value.data, result->value.len);
    uint8_t *key = vd_arena_alloc(request->arena, ROW_KEY_BYTES);
    row_key(&session, (uint32_t)result->statement, key);
    *ret_key = vd_slice(key, ROW_KEY_BYTES);
    *ret_value = vd_slice(value, len);
}

void stor_sessions_transaction_row(stor_request_t *request, uint64_t timestamp, vd_slice_t *ret_key,
                                   vd_slice_t *ret_value)
{
    stor_statement_result_t result = {.statement = (int32_t)STOR_TRANSACTION_STMT,
                                      .count = 1,
                                      .timestamp = timestamp,
                                      .upserted = VD_VALUE_MISSING,
                                      .kind = STOR_KIND_TRANSACTION};
    stor_sessions_row(request, &result, ret_key, ret_value);
}

static int put(stor_session_t *session, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    stor_cursor_t *cursor;
    int rc = stor_cursor_open(session, TABLE, &cursor, err);
    return rc == VD_OK ? stor_cursor_put(cursor, key, value, err) : rc;
}

int stor_sessions_record(stor_request_t *request, const stor_statement_result_t *result,
                         vd_error_t *err)
{
    vd_slice_t key, value;
    stor_sessions_row(request, result, &key, &value);
    return put(request->session, key, value, err);
}

int stor_sessions_row_put(stor_session_t *session, vd_slice_t key, vd_slice_t value,
                          vd_error_t *err)
{
    return row_ok(key, value) ? put(session, key, value, err) : row_bad(err);
}

void stor_sessions_row_applied(stor_sessions_t *sessions, vd_slice_t key, vd_slice_t value)
{
    VD_ASSERT(row_ok(key, value)); /* it was put */
    stor_session_key_t session_key;
    memcpy(session_key.bytes, key.data, sizeof session_key.bytes);
    shard_t *shard = stor_sessions_shard(sessions, &session_key);
    pthread_mutex_lock(&shard->lock);
    session_t *session =
        vd_map_get(shard->by_key, vd_slice(session_key.bytes, sizeof session_key.bytes));
    /* One that is not there, or not loaded, looks at the rows when it is used. */
    if (session != NULL && session->loaded && row_txn_number(value) > session->txn_number) {
        session->txn_number = row_txn_number(value);
        session->committed = row_committed(value);
        session->use = session->committed != 0 ? STOR_NUMBER_COMMITTED : STOR_NUMBER_WRITES;
    }
    pthread_mutex_unlock(&shard->lock);
}

/* ---- the end of sessions ---- */

static int64_t row_wall_ms(vd_slice_t value)
{
    return (int64_t)vd_get_u64(value.data + 20);
}

/* Removes those of a session's rows that were written before that wall clock, in small
 * transactions; what can't be removed now is left to the sweep. Newer ones stay: the session may be
 * in use again by now, and its last write may still be asked for. */
static void rows_remove(stor_session_t *engine, const stor_session_key_t *session,
                        int64_t before_ms)
{
    uint8_t key[ROW_KEY_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    uint32_t statement = 0;
    for (bool more = true; more;) {
        if (stor_txn_begin(engine, NULL) != VD_OK)
            return;
        int rc = stor_cursor_open(engine, TABLE, &cursor, NULL);
        int looked = 0;
        more = false;
        while (rc == VD_OK && looked < 100) {
            row_key(session, statement, key);
            rc = stor_cursor_seek(cursor, vd_slice(key, sizeof key), true, &k, &v, NULL);
            if (rc != VD_OK || !of_session(k, session) || k.len != ROW_KEY_BYTES)
                break;
            memcpy(key, k.data, sizeof key);
            if (!row_ok(k, v) || row_wall_ms(v) < before_ms)
                rc = stor_cursor_remove(cursor, vd_slice(key, sizeof key), NULL);
            statement = row_statement(key);
            if (statement++ == UINT32_MAX)
                break;
            more = ++looked == 100;
        }
        if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
            rc = stor_txn_commit(engine, NULL);
        else
            stor_txn_rollback(engine);
        if (rc != VD_OK)
            return;
    }
}

/* False while a write or a transaction is in it. */
static bool session_remove(stor_sessions_t *sessions, const stor_session_key_t *key)
{
    shard_t *shard = stor_sessions_shard(sessions, key);
    vd_slice_t bytes = vd_slice(key->bytes, sizeof key->bytes);
    pthread_mutex_lock(&shard->lock);
    session_t *session = vd_map_get(shard->by_key, bytes);
    bool busy = session != NULL && (session->executing || session->transaction != NULL);
    if (session != NULL && !busy) {
        stor_counts_remove(sessions->counts, user_of(key));
        (void)vd_map_remove(shard->by_key, bytes);
        vd_free(session);
        atomic_fetch_sub(&sessions->count, 1);
    }
    pthread_mutex_unlock(&shard->lock);
    return !busy;
}

static bool is_session(const stor_session_key_t *key, const void *context)
{
    return memcmp(key->bytes, ((const stor_session_key_t *)context)->bytes, sizeof key->bytes) == 0;
}

static void session_end(stor_storage_t *storage, const stor_session_key_t *key,
                        stor_session_t *session, int64_t before_ms)
{
    (void)stor_transactions_kill(storage, VD_ERR_INTERRUPTED, is_session, key);
    stor_pins_end(storage, is_session, key);
    (void)stor_cursors_kill_sessions(storage->cursors, is_session, key);
    if (session_remove(storage->sessions, key))
        rows_remove(session, key, before_ms);
}

void stor_sessions_end(stor_storage_t *storage, const stor_session_key_t *key,
                       stor_session_t *session)
{
    session_end(storage, key, session, INT64_MAX);
}

static uint32_t collect_idle(stor_sessions_t *sessions, stor_session_key_t *ret, uint32_t max)
{
    uint64_t now = vd_monotonic_ms(), idle = sessions->storage->settings.session_idle_max_ms;
    uint32_t count = 0;
    for (int i = 0; i < SHARDS && count < max; i++) {
        shard_t *shard = &sessions->shards[i];
        size_t position = 0;
        vd_slice_t key;
        void *value;
        pthread_mutex_lock(&shard->lock);
        while (count < max && vd_map_next(shard->by_key, &position, &key, &value)) {
            const session_t *session = value;
            if (!session->executing && vd_elapsed(session->last_used_ms, now) > idle)
                ret[count++] = session->key;
        }
        pthread_mutex_unlock(&shard->lock);
    }
    return count;
}

/* One stretch of the table: finds a session that has a row from before that wall clock. */
static bool sweep_find(stor_sessions_t *sessions, stor_session_t *engine, int64_t before_ms,
                       stor_session_key_t *ret)
{
    uint8_t from[ROW_KEY_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t k, v;
    bool found = false;
    row_key(&sessions->sweep_at, UINT32_MAX, from);
    if (stor_txn_begin(engine, NULL) != VD_OK)
        return false;
    int rc = stor_cursor_open(engine, TABLE, &cursor, NULL);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(from, sizeof from), true, &k, &v, NULL);
    for (int i = 0; rc == VD_OK && i < SWEEP_ROWS_MAX && !found; i++) {
        if (row_ok(k, v)) {
            memcpy(sessions->sweep_at.bytes, k.data, STOR_SESSION_KEY_BYTES);
            found = row_wall_ms(v) < before_ms;
        }
        if (!found)
            rc = stor_cursor_next(cursor, true, &k, &v, NULL);
    }
    if (rc == VD_ERR_NOT_FOUND)
        memset(&sessions->sweep_at, 0, sizeof sessions->sweep_at);
    stor_txn_rollback(engine);
    *ret = sessions->sweep_at;
    return found;
}

static bool in_memory(stor_sessions_t *sessions, const stor_session_key_t *key)
{
    shard_t *shard = stor_sessions_shard(sessions, key);
    pthread_mutex_lock(&shard->lock);
    bool found = vd_map_get(shard->by_key, vd_slice(key->bytes, sizeof key->bytes)) != NULL;
    pthread_mutex_unlock(&shard->lock);
    return found;
}

void stor_sessions_expire(stor_storage_t *storage, stor_session_t *session)
{
    stor_sessions_t *sessions = storage->sessions;
    stor_session_key_t idle[ENDED_PER_PASS_MAX];
    int64_t before_ms = vd_wall_ms() - (int64_t)storage->settings.session_idle_max_ms;
    uint32_t count = collect_idle(sessions, idle, ENDED_PER_PASS_MAX);
    for (uint32_t i = 0; i < count; i++)
        session_end(storage, &idle[i], session, before_ms);
    /* Sessions of an earlier start. Only their old rows: behind one of them may stand the result of
     * a write from just before the restart, whose retry is on its way. */
    stor_session_key_t old;
    for (int i = 0; i < 100 && sweep_find(sessions, session, before_ms, &old); i++)
        if (!in_memory(sessions, &old))
            rows_remove(session, &old, before_ms);
}
