/* veddb-storaged/commands/sessions.c — startSession, refreshSessions, endSessions, the commands
 * that kill sessions.
 *
 * Who kills: everybody their own sessions; those of others with VDP_COMMAND_ALL_USERS, which the
 * gateway gives with the privilege killAnySession. */
#include "veddb-storaged/sessions.h"

#include "libcommon/base/rand.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/cursors.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/registry.h"
#include "veddb-storaged/transactions.h"

#include <stdio.h>

#define SESSIONS_PER_COMMAND_MAX 10000
#define USER_TEXT_MAX            400

/* ---- what a session is named by ---- */

static int id_read(vd_value_t v, const char *command, stor_session_key_t *key, vd_error_t *err)
{
    uint8_t subtype = 0;
    if (v.type != VD_BSON_BINARY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.id' is the wrong type '%s', expected type 'binData'",
                            command, vd_bson_type_name(v.type));
    vd_slice_t bytes = vd_value_binary(v, &subtype);
    if (subtype != 4)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.id' is the wrong binData type, expected type 'UUID'",
                            command);
    if (bytes.len != 16)
        return vd_error_set(err, VD_ERR_INVALID_UUID,
                            "uuid must be a 16-byte binary field with UUID (4) subtype");
    memcpy(key->bytes, bytes.data, bytes.len);
    return VD_OK;
}

static int uid_read(vd_value_t v, const char *command, stor_session_key_t *key, vd_error_t *err)
{
    uint8_t subtype = 0;
    vd_slice_t bytes = v.type == VD_BSON_BINARY ? vd_value_binary(v, &subtype) : VD_SLICE_NULL;
    if (bytes.len != 32 || subtype != 0)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.uid' is no digest (binary of 32 bytes)", command);
    memcpy(key->bytes + 16, bytes.data, bytes.len);
    return VD_OK;
}

typedef struct {
    vd_value_t id, uid;
} session_args_t;

/* {id: UUID, uid: digest}; without uid it is the asker's own. */
static int session_read(stor_request_t *request, vd_value_t v, const char *command,
                        stor_session_key_t *ret_key, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("id", STOR_ARG_VALUE, session_args_t, id, STOR_ARG_REQUIRED),
        STOR_ARG("uid", STOR_ARG_VALUE, session_args_t, uid, 0),
    };
    session_args_t args = {0};
    stor_session_key_t key = stor_session_key(VD_SLICE_NULL, request->command.user);
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s' holds a session of the wrong type '%s', expected type "
                            "'object'",
                            command, vd_bson_type_name(v.type));
    int rc = stor_args_parse(vd_value_document(v), command, false, table, VD_COUNT_OF(table), &args,
                             err);
    if (rc == VD_OK)
        rc = id_read(args.id, command, &key, err);
    if (rc == VD_OK && !vd_value_is_nullish(args.uid))
        rc = uid_read(args.uid, command, &key, err);
    if (rc == VD_OK)
        *ret_key = key;
    return rc;
}

static bool is_own(const stor_request_t *request, const stor_session_key_t *key)
{
    stor_session_key_t own = stor_session_key(VD_SLICE_NULL, request->command.user);
    return memcmp(key->bytes + 16, own.bytes + 16, 32) == 0;
}

static int array_read(stor_request_t *request, vd_bson_t *ret_array, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t v;
    if (!vd_bson_first(request->body, &name, &v) || v.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.%s' is the wrong type '%s', expected type 'array'",
                            request->entry->name, request->entry->name, vd_bson_type_name(v.type));
    if (vd_bson_count(vd_value_document(v)) > SESSIONS_PER_COMMAND_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s: at most %d sessions at once",
                            request->entry->name, SESSIONS_PER_COMMAND_MAX);
    *ret_array = vd_value_document(v);
    return stor_args_parse(request->body, request->entry->name, true, NULL, 0, NULL, err);
}

/* Calls each() for every session of the command's array. */
static int sessions_each(stor_request_t *request,
                         int (*each)(stor_request_t *request, const stor_session_key_t *key,
                                     vd_error_t *err),
                         vd_error_t *err)
{
    vd_bson_t array;
    vd_bson_iter_t iter;
    stor_session_key_t key;
    int rc = array_read(request, &array, err);
    if (rc != VD_OK)
        return rc;
    for (int pass = 0; rc == VD_OK && pass < 2;
         pass++) { /* all are checked before any is touched */
        vd_bson_iter_init(&iter, array);
        while (rc == VD_OK && vd_bson_iter_next(&iter)) {
            rc = session_read(request, iter.value, request->entry->name, &key, err);
            if (rc == VD_OK && !is_own(request, &key) && !stor_request_all_users(request))
                rc = vd_error_set(err, VD_ERR_UNAUTHORIZED,
                                  "not authorized on sessions of other users");
            if (rc == VD_OK && pass == 1)
                rc = each(request, &key, err);
        }
    }
    return rc;
}

/* ---- start, refresh, end ---- */

int stor_command_start_session(stor_request_t *request, vd_error_t *err)
{
    uint8_t id[16];
    int rc = stor_args_parse(request->body, "startSession", true, NULL, 0, NULL, err);
    if (rc != VD_OK)
        return rc;
    vd_rand_secret(id, sizeof id);
    id[6] = (uint8_t)((id[6] & 0x0f) | 0x40), id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
    stor_session_key_t key = stor_session_key(vd_slice(id, sizeof id), request->command.user);
    rc = stor_sessions_use(request, &key, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_begin_document(&request->reply, "id");
    vd_bb_binary(&request->reply, "id", 4, vd_slice(id, sizeof id));
    vd_bb_close(&request->reply);
    vd_bb_int32(&request->reply, "timeoutMinutes",
                (int32_t)(request->storage->settings.session_idle_max_ms / 60000));
    return VD_OK;
}

static int refresh(stor_request_t *request, const stor_session_key_t *key, vd_error_t *err)
{
    return stor_sessions_use(request, key, err);
}

int stor_command_refresh_sessions(stor_request_t *request, vd_error_t *err)
{
    return sessions_each(request, refresh, err);
}

static int end(stor_request_t *request, const stor_session_key_t *key, vd_error_t *err)
{
    stor_sessions_end(request->storage, key, request->session);
    return stor_request_check(request, err);
}

int stor_command_end_sessions(stor_request_t *request, vd_error_t *err)
{
    return sessions_each(request, end, err);
}

/* ---- kill ---- */

typedef struct {
    bool any_id, any_user; /* else key's id, key's user */
    stor_session_key_t key;
} pattern_t;

static bool pattern_matches(const stor_session_key_t *key, const void *context)
{
    const pattern_t *pattern = context;
    return (pattern->any_id || memcmp(key->bytes, pattern->key.bytes, 16) == 0) &&
           (pattern->any_user || memcmp(key->bytes + 16, pattern->key.bytes + 16, 32) == 0);
}

static void kill_matching(stor_request_t *request, const pattern_t *pattern)
{
    (void)stor_registry_kill_sessions(request->storage, pattern_matches, pattern, request);
    (void)stor_transactions_kill(request->storage, VD_ERR_INTERRUPTED, pattern_matches, pattern);
    stor_pins_end(request->storage, pattern_matches, pattern);
    (void)stor_cursors_kill_sessions(request->storage->cursors, pattern_matches, pattern);
}

static int kill_one(stor_request_t *request, const stor_session_key_t *key, vd_error_t *err)
{
    kill_matching(request, &(pattern_t){.key = *key});
    return stor_request_check(request, err);
}

int stor_command_kill_sessions(stor_request_t *request, vd_error_t *err)
{
    vd_bson_t array;
    int rc = array_read(request, &array, err);
    if (rc == VD_OK && vd_bson_is_empty(array)) { /* all of the asker's */
        kill_matching(request,
                      &(pattern_t){.any_id = true,
                                   .key = stor_session_key(VD_SLICE_NULL, request->command.user)});
        return VD_OK;
    }
    return rc == VD_OK ? sessions_each(request, kill_one, err) : rc;
}

typedef struct {
    vd_slice_t user, db;
} user_args_t;

/* {user, db}: every session of that user */
static int user_read(vd_value_t v, const char *command, pattern_t *ret_pattern, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("user", STOR_ARG_STRING, user_args_t, user, STOR_ARG_REQUIRED),
        STOR_ARG("db", STOR_ARG_STRING, user_args_t, db, STOR_ARG_REQUIRED),
    };
    user_args_t args = {0};
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s' holds a user of the wrong type '%s', expected type "
                            "'object'",
                            command, vd_bson_type_name(v.type));
    int rc = stor_args_parse(vd_value_document(v), command, false, table, VD_COUNT_OF(table), &args,
                             err);
    if (rc != VD_OK)
        return rc;
    char text[USER_TEXT_MAX];
    int len =
        snprintf(text, sizeof text, "%.*s@%.*s", VD_SLICE_FMT(args.user), VD_SLICE_FMT(args.db));
    if (len < 0 || len >= (int)sizeof text)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s: a user's name is too long", command);
    *ret_pattern = (pattern_t){.any_id = true,
                               .key = stor_session_key(VD_SLICE_NULL, vd_slice(text, (size_t)len))};
    return VD_OK;
}

/* [{user, db}, ...] */
static int users_kill(stor_request_t *request, vd_bson_t users, const char *command, bool act,
                      vd_error_t *err)
{
    vd_bson_iter_t iter;
    pattern_t pattern;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, users);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        rc = user_read(iter.value, command, &pattern, err);
        if (rc == VD_OK && act)
            kill_matching(request, &pattern);
        if (rc == VD_OK)
            rc = stor_request_check(request, err);
    }
    return rc;
}

typedef struct {
    vd_value_t lsid, uid;
    vd_bson_t users;
} pattern_args_t;

static const stor_arg_t pattern_table[] = {
    STOR_ARG("lsid", STOR_ARG_VALUE, pattern_args_t, lsid, 0),
    STOR_ARG("uid", STOR_ARG_VALUE, pattern_args_t, uid, 0),
    STOR_ARG("users", STOR_ARG_ARRAY, pattern_args_t, users, 0),
    {"roles", STOR_ARG_REFUSED, 0, 0}, /* storage knows no roles */
};

/* {lsid: {id, uid}}, {uid}, {users: [{user, db}, ...]}; {} is everything. */
static int pattern_kill(stor_request_t *request, vd_value_t v, bool act, vd_error_t *err)
{
    static const char name[] = "killAllSessionsByPattern";
    pattern_args_t args = {0};
    pattern_t pattern = {.any_id = true, .any_user = true};
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s' holds a pattern of the wrong type '%s', expected type "
                            "'object'",
                            name, vd_bson_type_name(v.type));
    int rc = stor_args_parse(vd_value_document(v), name, false, pattern_table,
                             VD_COUNT_OF(pattern_table), &args, err);
    int given = !vd_value_is_nullish(args.lsid) + !vd_value_is_nullish(args.uid) +
                (args.users.data != NULL);
    if (rc == VD_OK && given > 1)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "%s: a pattern has one of 'lsid', 'uid' and 'users'", name);
    if (rc != VD_OK)
        return rc;
    if (args.users.data != NULL)
        return users_kill(request, args.users, name, act, err);
    if (!vd_value_is_nullish(args.lsid)) {
        rc = session_read(request, args.lsid, name, &pattern.key, err);
        pattern.any_id = pattern.any_user = false;
    } else if (!vd_value_is_nullish(args.uid)) {
        rc = uid_read(args.uid, name, &pattern.key, err);
        pattern.any_user = false;
    }
    if (rc == VD_OK && act)
        kill_matching(request, &pattern);
    return rc;
}

static int user_kill(stor_request_t *request, vd_value_t v, bool act, vd_error_t *err)
{
    pattern_t pattern;
    int rc = user_read(v, "killAllSessions", &pattern, err);
    if (rc == VD_OK && act)
        kill_matching(request, &pattern);
    return rc;
}

static int kill_each(stor_request_t *request,
                     int (*each)(stor_request_t *request, vd_value_t v, bool act, vd_error_t *err),
                     vd_error_t *err)
{
    vd_bson_t array;
    vd_bson_iter_t iter;
    int rc = array_read(request, &array, err);
    if (rc == VD_OK && !stor_request_all_users(request)) /* the gateway has looked before */
        rc = vd_error_set(err, VD_ERR_UNAUTHORIZED, "not authorized on sessions of other users");
    if (rc == VD_OK && vd_bson_is_empty(array))
        kill_matching(request, &(pattern_t){.any_id = true, .any_user = true});
    for (int act = 0; rc == VD_OK && act < 2; act++) { /* all are checked before any is killed */
        vd_bson_iter_init(&iter, array);
        while (rc == VD_OK && vd_bson_iter_next(&iter))
            rc = each(request, iter.value, act == 1, err);
    }
    return rc;
}

int stor_command_kill_all_sessions(stor_request_t *request, vd_error_t *err)
{
    return kill_each(request, user_kill, err);
}

int stor_command_kill_all_sessions_by_pattern(stor_request_t *request, vd_error_t *err)
{
    return kill_each(request, pattern_kill, err);
}
