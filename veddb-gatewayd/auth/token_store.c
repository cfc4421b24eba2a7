/* veddb-gatewayd/auth/token_store.c — see token_store.h.
 *
 * All writes bear to be done twice, so that they may be sent again when storage dies: inserts are
 * of random ids, a refresh token is used up by a compare-and-set whose outcome can be read. */
#include "veddb-gatewayd/auth/token_store.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/commands/user_document.h"

#include <openssl/sha.h>
#include <stdio.h>

#define TOKENS         "system.tokens"
#define REFRESH        "system.refresh_tokens"
#define WAIT_MS        10000
#define MAJORITY_MS    8000
#define ANY_LIFE_MS    (25ll * 60 * 60 * 1000) /* no access token lives longer: a day */
#define CLEAN_MS       600000
#define STATUS_MS      2000
#define MEMBERS_MAX    60 /* whose data keys are remembered, beside our own */
#define COMMAND_MAX    65536
#define REFRESH_DOMAIN "refresh token"

void gate_token_pair_done(gate_token_pair_t *pair)
{
    if (pair->access.cap != 0) {
        vd_wipe(vd_buf_at(&pair->access, 0), vd_buf_len(&pair->access));
        vd_buf_done(&pair->access);
    }
    vd_wipe(pair->refresh, sizeof pair->refresh);
}

/* ---- reading ---- */

static int load(gate_t *gate, vd_error_t *err)
{
    uint64_t epoch = atomic_load(&gate->auth_epoch); /* what follows is of then, or newer */
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t *documents = NULL;
    uint32_t count = 0;
    int rc = gate_internal_find_within(gate, TOKENS, VD_BSON_NONE, WAIT_MS, arena, &documents,
                                       &count, err);
    if (rc == VD_OK)
        rc = gate_tokens_set(gate->tokens, epoch, documents, count, vd_wall_ms(), err);
    for (uint32_t i = 0; i < count; i++) /* one of them is the key */
        vd_wipe((void *)(uintptr_t)documents[i].data, documents[i].len);
    vd_arena_destroy(&arena);
    if (rc == VD_OK)
        gate_tokens_changed(gate);
    return rc;
}

int gate_token_store_current(gate_t *gate, vd_error_t *err)
{
    if (gate_tokens_generation(gate->tokens) != 0 &&
        gate_tokens_epoch(gate->tokens) >= atomic_load(&gate->auth_epoch))
        return VD_OK;
    return load(gate, err);
}

static void want_run(void *context)
{
    gate_t *gate = context;
    vd_error_t err = VD_ERROR_INIT;
    char text[600], quoted[700];
    atomic_store(&gate->tokens_wanted, false);
    if (gate_token_store_current(gate, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "revoked tokens can't be read: no token is taken", "error=%s",
               vd_log_quote(vd_slice_str(vd_error_print(&err, text, sizeof text)), quoted,
                            sizeof quoted));
}

void gate_token_store_want(gate_t *gate)
{
    if (atomic_exchange(&gate->tokens_wanted, true))
        return;
    if (vd_worker_put(gate->token_worker, NULL, want_run, NULL, gate, NULL) != VD_OK)
        atomic_store(&gate->tokens_wanted, false); /* who waits asks again */
}

static bool find_one(gate_t *gate, const char *collection, const char *id, vd_arena_t *arena,
                     vd_bson_t *ret_document, int *ret_rc, vd_error_t *err)
{
    vd_bson_t filter, *documents = NULL;
    uint32_t count = 0;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_cstr(&bb, "_id", id);
    *ret_rc = vd_bb_finish(&bb, &filter, err);
    if (*ret_rc == VD_OK)
        *ret_rc = gate_internal_find_within(gate, collection, filter, WAIT_MS, arena, &documents,
                                            &count, err);
    if (*ret_rc == VD_OK && count != 0)
        *ret_document = documents[0];
    return *ret_rc == VD_OK && count != 0;
}

static char *user_key(vd_arena_t *arena, vd_slice_t name, vd_slice_t db)
{
    return vd_arena_printf(arena, "user:%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name));
}

/* Tokens of an older epoch are revoked. 0: none of this user ever were, or long ago. */
static int epoch_of(gate_t *gate, vd_slice_t name, vd_slice_t db, vd_arena_t *arena,
                    int64_t *ret_epoch, vd_error_t *err)
{
    vd_bson_t document = VD_BSON_NONE;
    int rc;
    *ret_epoch = 0;
    if (find_one(gate, TOKENS, user_key(arena, name, db), arena, &document, &rc, err) &&
        !vd_value_as_int64(vd_bson_get(document, "epoch"), ret_epoch))
        *ret_epoch = 0;
    return rc;
}

/* ---- writing ---- */

static void begin(vd_bb_t *bb, vd_arena_t *arena, const char *command, const char *collection,
                  const char *list)
{
    vd_bb_init_arena(bb, arena, COMMAND_MAX);
    vd_bb_cstr(bb, command, collection);
    vd_bb_begin_array(bb, list);
    vd_bb_begin_document(bb, "0");
}

/* Ends the one statement, and runs it; majority: until it can't be lost any more. */
static int end(gate_t *gate, vd_bb_t *bb, bool majority, int64_t *ret_n, vd_error_t *err)
{
    vd_buf_t reply;
    vd_bson_t command, document = VD_BSON_NONE;
    int64_t n = 0, code = 0;
    vd_bb_close(bb);
    vd_bb_close(bb);
    if (majority) {
        vd_bb_begin_document(bb, "writeConcern");
        vd_bb_cstr(bb, "w", "majority");
        vd_bb_int32(bb, "wtimeout", MAJORITY_MS);
        vd_bb_close(bb);
    }
    vd_bb_cstr(bb, "$db", "admin");
    vd_buf_init(&reply, 64 * 1024);
    int rc = vd_bb_finish(bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_write(gate, GATE_CALL_IDEMPOTENT, command, &reply, err);
    if (rc == VD_OK)
        rc = vd_bson_peek(vd_buf_slice(&reply), &document, err);
    if (rc == VD_OK) {
        vd_value_t concern = vd_bson_get(document, "writeConcernError");
        if (concern.type == VD_BSON_OBJECT &&
            (!vd_value_as_int64(vd_bson_get(vd_value_document(concern), "code"), &code) ||
             code != 0))
            rc = vd_error_set(err, VD_ERR_WRITE_CONCERN_FAILED,
                              "it is in force here, but not on a majority of the members yet: a "
                              "change of the primary may lose it");
        if (!vd_value_as_int64(vd_bson_get(document, "n"), &n))
            n = 0;
    }
    if (ret_n != NULL)
        *ret_n = n;
    vd_buf_done(&reply);
    return rc;
}

static void put_id(vd_bb_t *bb, const char *id)
{
    vd_bb_begin_document(bb, "q");
    vd_bb_cstr(bb, "_id", id);
    vd_bb_close(bb);
}

/* ---- the data keys: as of which of them the signing key is ---- */

/* Of the last rotation of this node's data keys that has completed; 0: there was none, or something
 * is under way. */
static int data_key_of(gate_t *gate, int64_t *ret_version, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t command, document;
    vd_buf_t reply;
    vd_bb_t bb;
    vd_buf_init(&reply, 64 * 1024);
    vd_bb_init_arena(&bb, arena, 1024);
    vd_bb_int32(&bb, "rotationStatus", 1);
    vd_bb_cstr(&bb, "$db", "admin");
    int rc = vd_bb_finish(&bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_call(gate, GATE_CALL_IDEMPOTENT, VD_SLICE_LIT("admin"), command,
                                STATUS_MS, &reply, err);
    if (rc == VD_OK)
        rc = vd_bson_peek(vd_buf_slice(&reply), &document, err);
    if (rc == VD_OK) {
        vd_value_t state = vd_bson_get(document, "state");
        *ret_version = 0;
        if (state.type == VD_BSON_STRING && vd_slice_is(vd_value_string(state), "completed") &&
            !vd_value_as_int64(vd_bson_get(document, "target"), ret_version))
            *ret_version = 0;
    }
    vd_buf_done(&reply);
    vd_arena_destroy(&arena);
    return rc;
}

static vd_slice_t member_name(const gate_t *gate)
{
    return vd_slice_str(gate->settings.address[0] != 0 ? gate->settings.address
                                                       : gate->settings.node_name);
}

static bool is_of(vd_value_t entry, vd_slice_t name)
{
    vd_value_t member = entry.type == VD_BSON_OBJECT
                            ? vd_bson_get(vd_value_document(entry), "member")
                            : VD_VALUE_MISSING;
    return member.type == VD_BSON_STRING && vd_slice_equal(vd_value_string(member), name);
}

/* What the key's document says of this member; 0: nothing. */
static int64_t data_key_noted(gate_t *gate, vd_bson_t document)
{
    vd_value_t list = vd_bson_get(document, "dataKeys");
    vd_bson_iter_t each;
    int64_t version = 0;
    if (list.type != VD_BSON_ARRAY)
        return 0;
    vd_bson_iter_init(&each, vd_value_document(list));
    while (vd_bson_iter_next(&each))
        if (is_of(each.value, member_name(gate)) &&
            !vd_value_as_int64(vd_bson_get(vd_value_document(each.value), "version"), &version))
            version = 0;
    return version;
}

/* The list of the document, with what is true of this member now: in the same write as the key, so
 * that a rotation replaces it once. data_key NULL: it is asked for. Not known: the list stays as it
 * is. */
static void put_data_keys(gate_t *gate, vd_bb_t *bb, const int64_t *data_key, vd_arena_t *arena)
{
    vd_bson_t document = VD_BSON_NONE;
    vd_bson_iter_t each;
    int64_t version = data_key == NULL ? 0 : *data_key;
    int rc;
    if (data_key == NULL && data_key_of(gate, &version, NULL) != VD_OK)
        return;
    if (!find_one(gate, TOKENS, "key", arena, &document, &rc, NULL) && rc != VD_OK)
        return;
    vd_value_t list = vd_bson_get(document, "dataKeys");
    char place[16];
    uint32_t count = 0;
    if (version == 0)
        version = data_key_noted(gate, document); /* what is under way is followed when it ends */
    vd_bb_begin_array(bb, "dataKeys");
    vd_bb_begin_document(bb, "0");
    vd_bb_string(bb, "member", member_name(gate));
    vd_bb_int64(bb, "version", version);
    vd_bb_close(bb);
    if (list.type == VD_BSON_ARRAY) {
        vd_bson_iter_init(&each, vd_value_document(list));
        while (vd_bson_iter_next(&each) && count < MEMBERS_MAX) {
            if (each.value.type != VD_BSON_OBJECT || is_of(each.value, member_name(gate)))
                continue;
            (void)snprintf(place, sizeof place, "%u", ++count);
            vd_bb_document(bb, place, vd_value_document(each.value));
        }
    }
    vd_bb_close(bb);
}

/* {$setOnInsert or $set: a new key}. */
static int put_key(gate_t *gate, const char *operator, const int64_t * data_key, vd_error_t *err)
{
    uint8_t der[GATE_SIGNER_DER_MAX];
    uint32_t len = 0;
    vd_bb_t bb;
    int rc = gate_signer_make(der, &len, err);
    if (rc != VD_OK)
        return rc;
    vd_arena_t *arena = vd_arena_create();
    begin(&bb, arena, "update", TOKENS, "updates");
    put_id(&bb, "key");
    vd_bb_begin_document(&bb, "u");
    vd_bb_begin_document(&bb, operator);
    vd_bb_binary(&bb, "key", 0, vd_slice(der, len));
    vd_bb_date(&bb, "made", vd_wall_ms());
    put_data_keys(gate, &bb, data_key, arena);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_bool(&bb, "upsert", true);
    rc = end(gate, &bb, true, NULL, err);
    vd_wipe(der, sizeof der);
    vd_arena_destroy(&arena);
    return rc;
}

static int need_key(gate_t *gate, vd_error_t *err)
{
    int rc = gate_token_store_current(gate, err);
    if (rc != VD_OK || gate_tokens_have_key(gate->tokens))
        return rc;
    rc = put_key(gate, "$setOnInsert", NULL, err);
    if (rc == VD_OK) {
        vd_log(VD_LOG_INFO, "a key for tokens was made", "set=%s", gate->settings.replica_set);
        rc = load(gate, err);
    }
    return rc;
}

static int delete_where(gate_t *gate, const char *field, vd_slice_t value, const char *field2,
                        vd_slice_t value2, bool one, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    begin(&bb, arena, "delete", REFRESH, "deletes");
    vd_bb_begin_document(&bb, "q");
    if (field != NULL)
        vd_bb_string(&bb, field, value);
    if (field2 != NULL)
        vd_bb_string(&bb, field2, value2);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "limit", one);
    int rc = end(gate, &bb, false, NULL, err);
    vd_arena_destroy(&arena);
    return rc;
}

/* ---- pairs ---- */

static void session_new(char out[GATE_TOKEN_SESSION_MAX + 1])
{
    uint8_t id[16];
    vd_rand_secret(id, sizeof id);
    for (size_t i = 0; i < sizeof id; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", id[i]);
}

static bool session_bytes(const char *session, uint8_t out[16])
{
    for (size_t i = 0; i < 16; i++) {
        unsigned byte;
        if (sscanf(session + 2 * i, "%2x", &byte) != 1)
            return false;
        out[i] = (uint8_t)byte;
    }
    return true;
}

/* The n-th of its session. Its MAC says later that it was ours, without that we keep it. */
static int refresh_make(gate_t *gate, const char *session, uint32_t n, char *out, uint8_t hash[32],
                        vd_error_t *err)
{
    uint8_t bytes[GATE_REFRESH_BYTES];
    if (!session_bytes(session, bytes))
        return vd_error_set(err, VD_ERR_INTERNAL, "a session has no such name");
    vd_put_u32(bytes + 16, n);
    vd_rand_secret(bytes + 20, 16);
    if (!gate_tokens_mac(gate->tokens, REFRESH_DOMAIN, vd_slice(bytes, 36), bytes + 36))
        return vd_error_set(err, VD_ERR_NOT_FOUND, "there is no signing key");
    (void)SHA256(bytes, sizeof bytes, hash);
    (void)gate_base64url_encode(vd_slice(bytes, sizeof bytes), out);
    vd_wipe(bytes, sizeof bytes);
    return VD_OK;
}

static int access_make(gate_t *gate, const gate_user_t *user, vd_slice_t method, int64_t epoch,
                       gate_token_pair_t *pair, vd_error_t *err)
{
    gate_token_claims_t claims = {.user = user->name,
                                  .db = user->db,
                                  .method = method,
                                  .session = pair->session,
                                  .user_epoch = epoch,
                                  .now_s = vd_wall_ms() / 1000};
    vd_buf_init(&pair->access, GATE_JWT_MAX);
    pair->expires_in_s = (int64_t)((gate_tokens_settings(gate->tokens)->access_ms + 999) / 1000);
    return gate_tokens_make(gate->tokens, &claims, user, &pair->access, err);
}

static int session_insert(gate_t *gate, const gate_user_t *user, const char *method,
                          const char *client, int64_t epoch, const gate_token_pair_t *pair,
                          const uint8_t hash[32], vd_arena_t *arena, vd_error_t *err)
{
    vd_bb_t bb;
    int64_t now_ms = vd_wall_ms();
    char credential[GATE_TOKEN_CREDENTIAL + 1];
    if (!gate_tokens_credential(gate->tokens, user, credential))
        return vd_error_set(err, VD_ERR_NOT_FOUND, "there is no signing key");
    begin(&bb, arena, "insert", REFRESH, "documents");
    vd_bb_cstr(&bb, "_id", pair->session);
    vd_bb_string(&bb, "user", user->name);
    vd_bb_string(&bb, "db", user->db);
    vd_bb_cstr(&bb, "method", method);
    vd_bb_int32(&bb, "n", 1);
    vd_bb_binary(&bb, "hash", 0, vd_slice(hash, 32));
    vd_bb_int64(&bb, "epoch", epoch);
    vd_bb_cstr(&bb, "credential", credential);
    vd_bb_date(&bb, "begun", now_ms);
    vd_bb_date(&bb, "used", now_ms);
    vd_bb_cstr(&bb, "address", client);
    vd_bb_date(&bb, "expiresAt", now_ms + (int64_t)gate_tokens_settings(gate->tokens)->refresh_ms);
    int rc = end(gate, &bb, false, NULL, err);
    if (rc == VD_ERR_DUPLICATE_KEY) { /* ours: it was sent twice */
        vd_error_clear(err);
        rc = VD_OK;
    }
    return rc;
}

int gate_token_issue(gate_t *gate, const gate_user_t *user, const char *method, const char *client,
                     gate_token_pair_t *ret_pair, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    uint8_t hash[32];
    int64_t epoch = 0;
    *ret_pair = (gate_token_pair_t){0};
    int rc = need_key(gate, err);
    if (rc == VD_OK) /* read before anything is made: what is revoked from now on, this is, too */
        rc = epoch_of(gate, user->name, user->db, arena, &epoch, err);
    if (rc == VD_OK) {
        session_new(ret_pair->session);
        rc = refresh_make(gate, ret_pair->session, 1, ret_pair->refresh, hash, err);
    }
    if (rc == VD_OK)
        rc = access_make(gate, user, vd_slice_str(method), epoch, ret_pair, err);
    if (rc == VD_OK)
        rc = session_insert(gate, user, method, client, epoch, ret_pair, hash, arena, err);
    vd_arena_destroy(&arena);
    return rc;
}

/* ---- refresh tokens ---- */

static int bad(vd_error_t *err, const char *why)
{
    return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "refresh token: %s", why);
}

static int family_read(vd_bson_t document, vd_arena_t *arena, gate_refresh_t *ret, uint32_t *ret_n,
                       uint8_t ret_hash[32], vd_error_t *err)
{
    vd_value_t user = vd_bson_get(document, "user"), db = vd_bson_get(document, "db"),
               method = vd_bson_get(document, "method"), hash = vd_bson_get(document, "hash"),
               until = vd_bson_get(document, "expiresAt"),
               credential = vd_bson_get(document, "credential");
    int64_t n = 0;
    if (user.type != VD_BSON_STRING || db.type != VD_BSON_STRING || method.type != VD_BSON_STRING ||
        hash.type != VD_BSON_BINARY || until.type != VD_BSON_DATE ||
        credential.type != VD_BSON_STRING ||
        vd_value_string(credential).len != GATE_TOKEN_CREDENTIAL ||
        vd_value_binary(hash, NULL).len != 32 ||
        !vd_value_as_int64(vd_bson_get(document, "n"), &n) || n < 1 || n > UINT32_MAX ||
        !vd_value_as_int64(vd_bson_get(document, "epoch"), &ret->user_epoch))
        return bad(err, "its session has another form");
    ret->user = vd_arena_copy_slice(arena, vd_value_string(user));
    ret->db = vd_arena_copy_slice(arena, vd_value_string(db));
    ret->method = vd_arena_copy_slice(arena, vd_value_string(method));
    *ret_n = (uint32_t)n;
    memcpy(ret->credential, vd_value_string(credential).data, GATE_TOKEN_CREDENTIAL);
    memcpy(ret_hash, vd_value_binary(hash, NULL).data, 32);
    return vd_value_int64(until) <= vd_wall_ms() ? bad(err, "its session is over") : VD_OK;
}

/* True: one that we made. */
static bool decode(gate_t *gate, vd_slice_t text, uint8_t bytes[GATE_REFRESH_BYTES],
                   gate_refresh_t *ret)
{
    uint8_t mac[GATE_SIGNER_MAC_BYTES];
    size_t len = 0;
    if (text.len != GATE_REFRESH_TEXT ||
        !gate_base64url_decode(text, bytes, GATE_REFRESH_BYTES, &len) ||
        len != GATE_REFRESH_BYTES ||
        !gate_tokens_mac(gate->tokens, REFRESH_DOMAIN, vd_slice(bytes, 36), mac) ||
        !vd_equal_constant_time(mac, bytes + 36, sizeof mac))
        return false;
    for (size_t i = 0; i < 16; i++)
        (void)snprintf(ret->session + 2 * i, 3, "%02x", bytes[i]);
    ret->n = vd_get_u32(bytes + 16);
    (void)SHA256(bytes, GATE_REFRESH_BYTES, ret->hash);
    return true;
}

/* Whoever has it had it from somebody else, or somebody else has it from them. */
static int reuse(gate_t *gate, gate_refresh_t *refresh, vd_error_t *err)
{
    refresh->reused = true;
    int rc = gate_token_revoke_session(gate, refresh->session, err);
    return rc == VD_OK ? bad(err, "it was used before: its session is revoked") : rc;
}

int gate_refresh_find(gate_t *gate, vd_slice_t text, vd_arena_t *arena, gate_refresh_t *ret_refresh,
                      vd_error_t *err)
{
    uint8_t bytes[GATE_REFRESH_BYTES], hash[32];
    uint32_t n = 0;
    int64_t epoch = 0;
    vd_bson_t document = VD_BSON_NONE;
    *ret_refresh = (gate_refresh_t){0};
    int rc = gate_token_store_current(gate, err);
    if (rc != VD_OK)
        return rc;
    bool ours = decode(gate, text, bytes, ret_refresh);
    vd_wipe(bytes, sizeof bytes);
    if (!ours)
        return bad(err, "it is none of ours");
    if (!find_one(gate, REFRESH, ret_refresh->session, arena, &document, &rc, err))
        return rc != VD_OK ? rc : bad(err, "its session is gone");
    rc = family_read(document, arena, ret_refresh, &n, hash, err);
    if (rc == VD_OK && ret_refresh->n < n)
        return reuse(gate, ret_refresh, err);
    if (rc == VD_OK &&
        (ret_refresh->n != n || !vd_equal_constant_time(hash, ret_refresh->hash, sizeof hash)))
        return bad(err, "it is not the one that is good");
    if (rc == VD_OK)
        rc = epoch_of(gate, ret_refresh->user, ret_refresh->db, arena, &epoch, err);
    if (rc == VD_OK && epoch > ret_refresh->user_epoch)
        rc = bad(err, "the tokens of its user were revoked");
    return rc;
}

static int swap(gate_t *gate, const gate_refresh_t *refresh, const char *client,
                const uint8_t hash[32], vd_arena_t *arena, bool *ret_done, vd_error_t *err)
{
    vd_bb_t bb;
    int64_t n = 0;
    begin(&bb, arena, "update", REFRESH, "updates");
    vd_bb_begin_document(&bb, "q");
    vd_bb_cstr(&bb, "_id", refresh->session);
    vd_bb_int32(&bb, "n", (int32_t)refresh->n);
    vd_bb_binary(&bb, "hash", 0, vd_slice(refresh->hash, sizeof refresh->hash));
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "u");
    vd_bb_begin_document(&bb, "$set");
    vd_bb_int32(&bb, "n", (int32_t)(refresh->n + 1));
    vd_bb_binary(&bb, "hash", 0, vd_slice(hash, 32));
    vd_bb_date(&bb, "used", vd_wall_ms());
    vd_bb_cstr(&bb, "address", client);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    int rc = end(gate, &bb, false, &n, err);
    *ret_done = n == 1;
    return rc;
}

int gate_refresh_use(gate_t *gate, gate_refresh_t *refresh, const gate_user_t *user,
                     const char *client, gate_token_pair_t *ret_pair, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    uint8_t hash[32], there[32];
    uint32_t n = 0;
    bool done = false;
    gate_refresh_t now = {0};
    vd_bson_t document = VD_BSON_NONE;
    char credential[GATE_TOKEN_CREDENTIAL + 1];
    *ret_pair = (gate_token_pair_t){0};
    if (!gate_tokens_credential(gate->tokens, user, credential) ||
        !vd_equal_constant_time(credential, refresh->credential, GATE_TOKEN_CREDENTIAL)) {
        vd_arena_destroy(&arena);
        (void)delete_where(gate, "_id", vd_slice_str(refresh->session), NULL, VD_SLICE_NULL, true,
                           NULL); /* it is of no use any more; else it expires */
        return bad(err, "its user has another password, or is another");
    }
    memcpy(ret_pair->session, refresh->session, sizeof ret_pair->session);
    int rc = refresh->n >= INT32_MAX ? bad(err, "its session was renewed too often")
                                     : refresh_make(gate, refresh->session, refresh->n + 1,
                                                    ret_pair->refresh, hash, err);
    if (rc == VD_OK)
        rc = access_make(gate, user, refresh->method, refresh->user_epoch, ret_pair, err);
    if (rc == VD_OK)
        rc = swap(gate, refresh, client, hash, arena, &done, err);
    if (rc != VD_OK || done)
        goto cleanup;
    /* Sent twice, and done the first time; or somebody else used it at the same moment. */
    if (!find_one(gate, REFRESH, refresh->session, arena, &document, &rc, err))
        rc = rc != VD_OK ? rc : bad(err, "its session is gone");
    else
        rc = family_read(document, arena, &now, &n, there, err);
    if (rc == VD_OK && (n != refresh->n + 1 || memcmp(there, hash, sizeof hash) != 0))
        rc = reuse(gate, refresh, err);
cleanup:
    vd_arena_destroy(&arena);
    return rc;
}

/* ---- revocation ---- */

/* What was written is in force here, also when it is not on a majority yet. */
static int in_force(gate_t *gate, int rc, vd_error_t *err)
{
    vd_error_t why = VD_ERROR_INIT;
    if (rc != VD_OK && rc != VD_ERR_WRITE_CONCERN_FAILED)
        return rc;
    int loaded = load(gate, &why);
    if (loaded != VD_OK) {
        vd_error_clear(err);
        return vd_error_set(err, loaded, "it is stored; %s", why.message);
    }
    return rc;
}

static int revoke(gate_t *gate, const char *id, int64_t until_ms, int64_t epoch, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    begin(&bb, arena, "update", TOKENS, "updates");
    put_id(&bb, id);
    vd_bb_begin_document(&bb, "u");
    vd_bb_begin_document(&bb, "$max"); /* of two, the one that lasts */
    if (epoch != 0)
        vd_bb_int64(&bb, "epoch", epoch);
    vd_bb_date(&bb, "expiresAt", until_ms);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_bool(&bb, "upsert", true);
    int rc = in_force(gate, end(gate, &bb, true, NULL, err), err);
    vd_arena_destroy(&arena);
    return rc;
}

static int check_room(gate_t *gate, vd_error_t *err)
{
    return gate_tokens_revoked(gate->tokens) < GATE_REVOKED_MAX - 1000
               ? VD_OK
               : vd_error_set(err, VD_ERR_FULL,
                              "%u tokens are revoked already: revoke those of users, or all",
                              GATE_REVOKED_MAX - 1000);
}

int gate_token_revoke_id(gate_t *gate, vd_slice_t id, int64_t expires_s, vd_error_t *err)
{
    int64_t now_ms = vd_wall_ms(), until_ms = now_ms + ANY_LIFE_MS;
    if (expires_s != 0)
        until_ms = (expires_s + GATE_JWT_SKEW_S) * 1000;
    if (id.len == 0 || id.len > GATE_JWT_ID_MAX || memchr(id.data, 0, id.len) != NULL)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a jti has 1 to %d bytes", GATE_JWT_ID_MAX);
    int rc = gate_token_store_current(gate, err);
    if (rc == VD_OK)
        rc = check_room(gate, err);
    if (rc != VD_OK || until_ms <= now_ms)
        return rc;
    char key[8 + GATE_JWT_ID_MAX];
    (void)snprintf(key, sizeof key, "jti:%.*s", VD_SLICE_FMT(id));
    return revoke(gate, key, until_ms, 0, err);
}

/* The access tokens first: without a session's document there is no new one. */
int gate_token_revoke_session(gate_t *gate, const char *session, vd_error_t *err)
{
    char key[16 + GATE_TOKEN_SESSION_MAX];
    (void)snprintf(key, sizeof key, "session:%s", session);
    int rc = check_room(gate, err);
    if (rc == VD_OK)
        rc = revoke(gate, key, vd_wall_ms() + ANY_LIFE_MS, 0, err);
    int deleted = delete_where(gate, "_id", vd_slice_str(session), NULL, VD_SLICE_NULL, true,
                               rc == VD_OK ? err : NULL);
    return rc != VD_OK ? rc : deleted;
}

int gate_token_revoke_user(gate_t *gate, vd_slice_t name, vd_slice_t db, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    int64_t epoch = 0, now_ms = vd_wall_ms();
    if (name.len + db.len + 1 > GATE_TOKEN_PRINCIPAL) {
        vd_arena_destroy(&arena);
        return vd_error_set(err, VD_ERR_BAD_VALUE, "no user with so long a name has tokens");
    }
    (void)pthread_mutex_lock(&gate->token_lock); /* of two, each makes a new epoch */
    int rc = epoch_of(gate, name, db, arena, &epoch, err);
    epoch = epoch + 1 > now_ms ? epoch + 1 : now_ms; /* grows, also when it was forgotten */
    if (rc == VD_OK)
        rc = revoke(gate, user_key(arena, name, db), now_ms + ANY_LIFE_MS, epoch, err);
    (void)pthread_mutex_unlock(&gate->token_lock);
    if (rc == VD_OK || rc == VD_ERR_WRITE_CONCERN_FAILED) {
        int deleted = delete_where(gate, "user", name, "db", db, false, rc == VD_OK ? err : NULL);
        rc = rc != VD_OK ? rc : deleted;
    }
    vd_arena_destroy(&arena);
    return rc;
}

static int rotate(gate_t *gate, const int64_t *data_key, vd_error_t *err)
{
    int rc = in_force(gate, put_key(gate, "$set", data_key, err), err);
    if (rc == VD_OK) {
        vd_log(VD_LOG_INFO, "the key of tokens was replaced: all tokens are void", "set=%s",
               gate->settings.replica_set);
        rc = delete_where(gate, NULL, VD_SLICE_NULL, NULL, VD_SLICE_NULL, false, err);
    }
    return rc;
}

int gate_token_rotate(gate_t *gate, vd_error_t *err)
{
    return rotate(gate, NULL, err);
}

/* ---- what has expired ---- */

static int clean(gate_t *gate, const char *collection, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bb_t bb;
    begin(&bb, arena, "delete", collection, "deletes");
    vd_bb_begin_document(&bb, "q");
    vd_bb_begin_document(&bb, "expiresAt");
    vd_bb_date(&bb, "$lt", vd_wall_ms());
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "limit", 0);
    int rc = end(gate, &bb, false, NULL, err);
    vd_arena_destroy(&arena);
    return rc;
}

/* A rotation of this node's data keys has completed since the key was made: whoever can read what
 * an old data key had encrypted must not be able to sign. Once for each, also over crashes: the
 * key's document says as of which it is. */
static int follow_data_keys(gate_t *gate, vd_error_t *err)
{
    vd_error_t away = VD_ERROR_INIT;
    vd_bson_t document = VD_BSON_NONE;
    int64_t version = 0;
    int rc = VD_OK;
    if (!gate_tokens_settings(gate->tokens)->with_data_keys ||
        data_key_of(gate, &version, &away) != VD_OK || version == 0 ||
        version == gate->tokens_data_key)
        return VD_OK; /* what can't be asked now is asked again */
    vd_arena_t *arena = vd_arena_create();
    if (find_one(gate, TOKENS, "key", arena, &document, &rc, err) &&
        data_key_noted(gate, document) != version) {
        rc = rotate(gate, &version, err);
        (void)gate_audit_outside(gate,
                                 &(gate_audit_note_t){.atype = "rotateTokenKeys",
                                                      .param = "rotation of data keys",
                                                      .result = rc},
                                 NULL);
    }
    if (rc == VD_OK)
        gate->tokens_data_key = version;
    vd_arena_destroy(&arena);
    return rc;
}

void gate_token_store_maintain(void *context)
{
    gate_t *gate = context;
    vd_error_t err = VD_ERROR_INIT;
    gate_member_t member;
    uint64_t key_ms = gate_tokens_settings(gate->tokens)->key_ms, now = vd_monotonic_ms();
    gate_member_read(gate, NULL, &member);
    if (!member.ready || !member.primary) {
        gate->tokens_data_key = 0; /* another may replace the key meanwhile */
        return;
    }
    int rc = gate_token_store_current(gate, &err);
    int64_t made_ms = gate_tokens_key_made_ms(gate->tokens);
    if (rc != VD_OK || made_ms == 0)
        return; /* nobody uses tokens, or storage is away: the next time */
    if (key_ms != 0 && vd_wall_ms() >= made_ms + (int64_t)key_ms) {
        rc = gate_token_rotate(gate, &err);
        (void)gate_audit_outside(
            gate,
            &(gate_audit_note_t){.atype = "rotateTokenKeys", .param = "schedule", .result = rc},
            NULL);
    }
    if (rc == VD_OK)
        rc = follow_data_keys(gate, &err);
    if (rc == VD_OK && now >= gate->tokens_clean_ms) {
        gate->tokens_clean_ms = now + CLEAN_MS;
        rc = clean(gate, TOKENS, &err);
        if (rc == VD_OK)
            rc = clean(gate, REFRESH, &err);
    }
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "tokens could not be tidied up", "error=%d", -rc);
}
