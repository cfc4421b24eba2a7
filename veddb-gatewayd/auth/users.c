/* veddb-gatewayd/auth/users.c — see users.h.
 *
 * Loading is find on admin.system.users, then, once per epoch, find on admin.system.roles with
 * getMore until all are here. Loads of one user are joined. */
#include "veddb-gatewayd/auth/users.h"

#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/auth/restrictions.h"
#include "veddb-gatewayd/gatewayd.h"

#include <openssl/sha.h>

#include <stdio.h>

#define WAITERS_MAX     20000
#define ROLES_BYTES_MAX (64u << 20)

typedef struct {
    vd_node_t node;
    char *key; /* "db.name" */
    vd_slice_t name, db;
    void (*done)(void *context, gate_user_t *user, const vd_error_t *err);
    void *context;
    bool due; /* being ended */
} waiter_t;

struct gate_users {
    gate_thread_t *thread;
    vd_map_t *map;
    uint64_t epoch;
    vd_list_t waiters;
    uint32_t waiter_count;
    /* One load at a time: of roles (when they are not here), then of the first waiter's user. */
    enum { LOAD_NONE, LOAD_ROLES, LOAD_USER } loading;
    gate_flight_t flight;
    char *loading_key;
    uint64_t loading_epoch;
    vd_bb_t command;
    uint8_t *body;
    bool roles_known;
    vd_arena_t *roles_arena;
    gate_role_set_t roles;
    uint32_t roles_cap;
};

static void load_next(gate_users_t *users);

void gate_user_hold(gate_user_t *user)
{
    user->references++;
}

void gate_user_drop(gate_user_t **user_p)
{
    gate_user_t *user = *user_p;
    *user_p = NULL;
    if (user == NULL || --user->references != 0)
        return;
    vd_wipe(&user->credentials, sizeof user->credentials);
    vd_arena_t *arena = user->arena;
    vd_arena_destroy(&arena);
}

static bool read_key(vd_bson_t document, const char *name, uint8_t *out, uint32_t max,
                     uint32_t *ret_len)
{
    vd_value_t v = vd_bson_get(document, name);
    return v.type == VD_BSON_STRING && gate_base64_decode(vd_value_string(v), out, max, ret_len);
}

static int read_credentials(vd_bson_t document, gate_scram_credentials_t *ret, vd_error_t *err)
{
    vd_value_t scram = vd_bson_get_path(document, VD_SLICE_LIT("credentials.SCRAM-SHA-256"));
    if (scram.type != VD_BSON_OBJECT)
        return VD_OK; /* a user who can't log in with a password */
    vd_bson_t fields = vd_value_document(scram);
    gate_scram_credentials_t credentials = {0};
    int64_t iterations;
    uint32_t stored_len = 0, server_len = 0;
    if (!vd_value_as_int64(vd_bson_get(fields, "iterationCount"), &iterations) ||
        iterations < 4096 || iterations > 10000000 ||
        !read_key(fields, "salt", credentials.salt, sizeof credentials.salt,
                  &credentials.salt_len) ||
        !read_key(fields, "storedKey", credentials.stored_key, sizeof credentials.stored_key,
                  &stored_len) ||
        !read_key(fields, "serverKey", credentials.server_key, sizeof credentials.server_key,
                  &server_len) ||
        stored_len != GATE_SCRAM_KEY_BYTES || server_len != GATE_SCRAM_KEY_BYTES ||
        credentials.salt_len == 0)
        return vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT,
                            "stored credentials have a form that is not known");
    credentials.iterations = (uint32_t)iterations;
    credentials.real = true;
    *ret = credentials;
    return VD_OK;
}

/* The arrays that are not empty, copied. */
static void gather_restrictions(gate_user_t *user, vd_bson_t document, const gate_role_set_t *roles)
{
    const gate_principal_t *principal = &user->principal;
    vd_value_t own = vd_bson_get(document, "authenticationRestrictions");
    user->restrictions = VD_ARENA_ARRAY(user->arena, vd_bson_t, principal->role_count + 1);
    for (uint32_t i = 0; i <= principal->role_count; i++) {
        const gate_role_t *role =
            i == principal->role_count ? NULL : gate_role_find(roles, principal->roles[i]);
        vd_bson_t array = role != NULL ? role->restrictions : VD_BSON_NONE;
        if (i == principal->role_count && own.type == VD_BSON_ARRAY)
            array = vd_value_document(own);
        if (array.data != NULL && !vd_bson_is_empty(array))
            user->restrictions[user->restriction_count++] =
                (vd_bson_t){vd_arena_copy(user->arena, array.data, array.len), array.len};
    }
}

static void make_identity(gate_user_t *user, vd_bson_t document)
{
    uint8_t bytes[64 + GATE_SCRAM_KEY_BYTES] = {0};
    vd_value_t id = vd_bson_get(document, "userId");
    vd_slice_t unique = id.type == VD_BSON_BINARY ? vd_value_binary(id, NULL) : VD_SLICE_NULL;
    if (unique.len != 0)
        memcpy(bytes, unique.data, unique.len < 64 ? unique.len : 64);
    memcpy(user->unique, bytes, sizeof user->unique);
    if (user->credentials.real)
        memcpy(bytes + 64, user->credentials.stored_key, GATE_SCRAM_KEY_BYTES);
    (void)SHA256(bytes, sizeof bytes, user->identity);
    vd_wipe(bytes, sizeof bytes);
}

int gate_user_make(vd_slice_t name, vd_slice_t db, vd_bson_t document, const gate_role_set_t *roles,
                   const uint8_t fake_secret[32], gate_user_t **ret_user, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    gate_user_t *user = VD_ARENA_NEW(arena, gate_user_t);
    int rc = VD_OK;
    user->arena = arena;
    user->references = 1;
    user->name = vd_arena_copy_slice(arena, name);
    user->db = vd_arena_copy_slice(arena, db);
    user->name_at_db = vd_arena_printf(arena, "%.*s@%.*s", VD_SLICE_FMT(name), VD_SLICE_FMT(db));
    (void)SHA256((const uint8_t *)user->name_at_db, strlen(user->name_at_db), user->lsid_user);
    gate_scram_fake(fake_secret, name, db, &user->credentials);
    user->known = !vd_bson_is_empty(document);
    user->privileges.arena = arena;
    if (user->known) {
        vd_bson_t own = {vd_arena_copy(arena, document.data, document.len), document.len};
        vd_value_t list = vd_bson_get(own, "roles");
        rc = read_credentials(own, &user->credentials, err);
        if (rc == VD_OK && !vd_value_is_missing(list))
            rc = gate_role_refs_parse(arena, list, user->db, &user->direct, &user->direct_count,
                                      err);
        if (rc != VD_OK)
            goto cleanup;
        make_identity(user, own);
        gate_role_ref_t *all = NULL;
        uint32_t all_count = 0;
        gate_roles_resolve(roles, user->direct, user->direct_count, &user->privileges, &all,
                           &all_count);
        /* Every logged-in user may change nothing of others by this: names are the user's own. */
        user->principal =
            (gate_principal_t){user->name, user->db, &user->privileges, all, all_count};
        gather_restrictions(user, own, roles);
        /* Slices of custom roles point into the set, which may be dropped before this user: keep
         * copies. */
        for (uint32_t i = 0; i < user->privileges.count; i++) {
            gate_resource_t *resource = &user->privileges.items[i].resource;
            resource->db = vd_arena_copy_slice(arena, resource->db);
            resource->collection = vd_arena_copy_slice(arena, resource->collection);
        }
        for (uint32_t i = 0; i < all_count; i++)
            all[i] = (gate_role_ref_t){vd_arena_copy_slice(arena, all[i].role),
                                       vd_arena_copy_slice(arena, all[i].db)};
    }
    *ret_user = user;
    user = NULL;
cleanup:
    if (user != NULL)
        vd_arena_destroy(&arena);
    return rc;
}

bool gate_user_may_come(const gate_user_t *user, const char *client, const char *server)
{
    for (uint32_t i = 0; i < user->restriction_count; i++)
        if (!gate_restrictions_allow(user->restrictions[i], client, server))
            return false;
    return true;
}

gate_users_t *gate_users_create(gate_thread_t *thread)
{
    gate_users_t *users = vd_xalloc(sizeof *users);
    users->thread = thread;
    users->map = vd_map_create(GATE_USERS_CACHED_MAX);
    vd_list_init(&users->waiters);
    vd_bb_init(&users->command, 64 * 1024);
    users->roles_arena = vd_arena_create();
    return users;
}

void gate_users_invalidate(gate_users_t *users)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(users->map, &position, &key, &value)) {
        gate_user_t *user = value;
        char *name = vd_xstrndup(key.data, key.len);
        (void)vd_map_remove(users->map, vd_slice_str(name));
        vd_free(name);
        gate_user_drop(&user);
    }
    users->roles_known = false;
    users->epoch = users->thread->state.auth_epoch;
}

void gate_users_destroy(gate_users_t **users_p)
{
    gate_users_t *users = *users_p;
    if (users == NULL)
        return;
    gate_users_invalidate(users);
    while (!vd_list_empty(&users->waiters)) {
        waiter_t *waiter = VD_CONTAINER_OF(vd_list_pop_front(&users->waiters), waiter_t, node);
        vd_free(waiter->key);
        vd_free(waiter);
    }
    if (users->thread->upstream != NULL)
        gate_upstream_cancel(users->thread->upstream, &users->flight);
    vd_map_destroy(&users->map);
    vd_bb_done(&users->command);
    vd_free(users->body);
    vd_free(users->loading_key);
    vd_arena_destroy(&users->roles_arena);
    vd_free(users);
    *users_p = NULL;
}

/* ---- loading ---- */

static void waiter_end(gate_users_t *users, waiter_t *waiter, gate_user_t *user,
                       const vd_error_t *err)
{
    vd_list_remove(&waiter->node);
    users->waiter_count--;
    if (user != NULL)
        gate_user_hold(user);
    if (waiter->done != NULL)
        waiter->done(waiter->context, user, err);
    else
        gate_user_drop(&user);
    vd_free(waiter->key);
    vd_free(waiter);
}

/* Ends all that wait for this key (NULL: for any) now. One at a time, since done() may add and
 * forget waiters; those that it adds wait for a load of their own. */
static void waiters_end(gate_users_t *users, const char *key, gate_user_t *user,
                        const vd_error_t *err)
{
    VD_LIST_EACH(&users->waiters, node)
    {
        waiter_t *waiter = VD_CONTAINER_OF(node, waiter_t, node);
        waiter->due = key == NULL || strcmp(waiter->key, key) == 0;
    }
    for (;;) {
        waiter_t *found = NULL;
        VD_LIST_EACH(&users->waiters, node)
        {
            waiter_t *waiter = VD_CONTAINER_OF(node, waiter_t, node);
            if (found == NULL && waiter->due)
                found = waiter;
        }
        if (found == NULL)
            return;
        waiter_end(users, found, user, err);
    }
}

static void answered(void *context, const gate_answer_t *answer);

static int ask(gate_users_t *users, vd_bson_t command, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t first;
    vd_free(users->body);
    users->body = vd_xalloc(command.len + 1);
    memcpy(users->body + 1, command.data, command.len);
    VD_ASSERT(vd_bson_first((vd_bson_t){users->body + 1, command.len}, &name, &first));
    users->flight = (gate_flight_t){.resend = true,
                                    .body = vd_slice(users->body, command.len + 1),
                                    .done = answered,
                                    .context = users};
    users->flight.command = (vdp_operation_command_t){.name = name,
                                                      .db = VD_SLICE_LIT("admin"),
                                                      .flags = VDP_COMMAND_INTERNAL,
                                                      .user = VD_SLICE_LIT(GATE_SYSTEM_USER),
                                                      .txn_number = -1};
    return gate_upstream_send(users->thread->upstream, &users->flight, err);
}

/* Logins work on every member that serves reads. */
static void put_read_preference(vd_bb_t *command)
{
    vd_bb_begin_document(command, "$readPreference");
    vd_bb_cstr(command, "mode", "nearest");
    vd_bb_close(command);
}

static int ask_user(gate_users_t *users, const char *id, vd_error_t *err)
{
    vd_bson_t command;
    vd_bb_reset(&users->command);
    vd_bb_cstr(&users->command, "find", "system.users");
    vd_bb_begin_document(&users->command, "filter");
    vd_bb_cstr(&users->command, "_id", id);
    vd_bb_close(&users->command);
    vd_bb_int32(&users->command, "limit", 1);
    vd_bb_bool(&users->command, "singleBatch", true);
    put_read_preference(&users->command);
    vd_bb_cstr(&users->command, "$db", "admin");
    int rc = vd_bb_finish(&users->command, &command, err);
    return rc != VD_OK ? rc : ask(users, command, err);
}

static int ask_roles(gate_users_t *users, int64_t cursor, vd_error_t *err)
{
    vd_bson_t command;
    vd_bb_reset(&users->command);
    if (cursor == 0) {
        vd_bb_cstr(&users->command, "find", "system.roles");
        vd_bb_begin_document(&users->command, "filter");
        vd_bb_close(&users->command);
        put_read_preference(&users->command);
    } else {
        vd_bb_int64(&users->command, "getMore", cursor);
        vd_bb_cstr(&users->command, "collection", "system.roles");
    }
    vd_bb_int32(&users->command, "batchSize", 1000);
    vd_bb_cstr(&users->command, "$db", "admin");
    int rc = vd_bb_finish(&users->command, &command, err);
    return rc != VD_OK ? rc : ask(users, command, err);
}

static int batch_of(const gate_answer_t *answer, vd_bson_t *ret_batch, int64_t *ret_cursor,
                    vd_error_t *err)
{
    if (answer->rc != VD_OK)
        return vd_error_set(err, answer->rc, "%s", answer->err->message);
    vd_bson_t body = {answer->body.data, (uint32_t)answer->body.len};
    if (answer->reply->status != VD_OK) {
        vd_value_t message = vd_bson_get(body, "errmsg");
        vd_slice_t text =
            message.type == VD_BSON_STRING ? vd_value_string(message) : VD_SLICE_LIT("failed");
        return vd_error_set(err, (int)answer->reply->status, "%.*s", VD_SLICE_FMT(text));
    }
    vd_value_t cursor = vd_bson_get(body, "cursor");
    vd_bson_t fields = cursor.type == VD_BSON_OBJECT ? vd_value_document(cursor) : VD_BSON_NONE;
    vd_value_t batch = vd_bson_get(fields, "firstBatch");
    if (vd_value_is_missing(batch))
        batch = vd_bson_get(fields, "nextBatch");
    if (batch.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_INTERNAL, "storage sent no batch");
    *ret_batch = vd_value_document(batch);
    *ret_cursor = 0;
    (void)vd_value_as_int64(vd_bson_get(fields, "id"), ret_cursor); /* no id: no cursor */
    return VD_OK;
}

static int take_roles(gate_users_t *users, vd_bson_t batch, vd_error_t *err)
{
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, batch);
    while (vd_bson_iter_next(&each)) {
        if (each.value.type != VD_BSON_OBJECT)
            continue;
        if (users->roles.count >= GATE_ROLES_MAX ||
            vd_arena_used(users->roles_arena) > ROLES_BYTES_MAX)
            return vd_error_set(err, VD_ERR_FULL, "more than %u custom roles", GATE_ROLES_MAX);
        if (users->roles.count == users->roles_cap) {
            uint32_t cap = users->roles_cap == 0 ? 16 : users->roles_cap * 2;
            gate_role_t *items = VD_ARENA_ARRAY(users->roles_arena, gate_role_t, cap);
            if (users->roles.count != 0)
                memcpy(items, users->roles.items, users->roles.count * sizeof *items);
            users->roles.items = items, users->roles_cap = cap;
        }
        vd_bson_t document = vd_value_document(each.value);
        vd_bson_t own = {vd_arena_copy(users->roles_arena, document.data, document.len),
                         document.len};
        int rc =
            gate_role_parse(users->roles_arena, own, &users->roles.items[users->roles.count], err);
        if (rc != VD_OK)
            return rc;
        users->roles.count++;
    }
    return VD_OK;
}

static void make_room(gate_users_t *users)
{
    if (vd_map_count(users->map) >= GATE_USERS_CACHED_MAX)
        gate_users_invalidate(users);
}

static int take_user(gate_users_t *users, vd_bson_t batch, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t first = VD_VALUE_MISSING;
    bool found = vd_bson_first(batch, &name, &first) && first.type == VD_BSON_OBJECT;
    waiter_t *waiter = NULL;
    VD_LIST_EACH(&users->waiters, node)
    {
        waiter_t *candidate = VD_CONTAINER_OF(node, waiter_t, node);
        if (waiter == NULL && strcmp(candidate->key, users->loading_key) == 0)
            waiter = candidate;
    }
    if (waiter == NULL)
        return VD_OK; /* all have left */
    gate_user_t *user = NULL;
    uint8_t salts[32];
    gate_keys_salts(users->thread->gate->keys, users->thread->gate->fake_secret, salts);
    int rc =
        gate_user_make(waiter->name, waiter->db, found ? vd_value_document(first) : VD_BSON_NONE,
                       &users->roles, salts, &user, err);
    vd_wipe(salts, sizeof salts);
    if (rc != VD_OK)
        return rc;
    user->epoch = users->loading_epoch;
    bool lasts = user->known || gate_keys_known(users->thread->gate->keys); /* its salt */
    if (lasts && users->loading_epoch == users->thread->state.auth_epoch) {
        void *old = NULL;
        make_room(users);
        if (vd_map_put(users->map, vd_slice_str(users->loading_key), user, &old) == VD_OK) {
            gate_user_hold(user);
            gate_user_t *before = old;
            gate_user_drop(&before);
        }
    }
    char *key = vd_xstrdup(users->loading_key);
    waiters_end(users, key, user, NULL);
    vd_free(key);
    gate_user_drop(&user);
    return VD_OK;
}

static void answered(void *context, const gate_answer_t *answer)
{
    gate_users_t *users = context;
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t batch;
    int64_t cursor = 0;
    int rc = batch_of(answer, &batch, &cursor, &err);
    if (rc == VD_OK && users->loading == LOAD_ROLES) {
        rc = take_roles(users, batch, &err);
        if (rc == VD_OK && cursor != 0) {
            rc = ask_roles(users, cursor, &err);
            if (rc == VD_OK)
                return;
        }
        users->roles_known = rc == VD_OK && users->loading_epoch == users->thread->state.auth_epoch;
    } else if (rc == VD_OK) {
        rc = take_user(users, batch, &err);
    }
    if (rc != VD_OK) {
        char text[600];
        vd_log(VD_LOG_ERROR, "users can't be loaded", "error=%s",
               vd_log_quote(vd_slice_str(vd_error_print(&err, text, sizeof text)), (char[700]){0},
                            700));
        char *key = users->loading == LOAD_USER ? vd_xstrdup(users->loading_key) : NULL;
        waiters_end(users, key, NULL, &err);
        vd_free(key);
    }
    users->loading = LOAD_NONE; /* not before: done() may ask, and would begin a load of its own */
    load_next(users);
}

static void load_next(gate_users_t *users)
{
    vd_error_t err = VD_ERROR_INIT;
    if (users->loading != LOAD_NONE || users->flight.id != 0 || vd_list_empty(&users->waiters))
        return;
    waiter_t *waiter = VD_CONTAINER_OF(vd_list_first(&users->waiters), waiter_t, node);
    int rc;
    users->loading_epoch = users->thread->state.auth_epoch;
    if (users->epoch != users->loading_epoch)
        gate_users_invalidate(users);
    if (!users->roles_known) {
        users->loading = LOAD_ROLES;
        vd_arena_reset(users->roles_arena);
        users->roles = (gate_role_set_t){0};
        users->roles_cap = 0;
        rc = ask_roles(users, 0, &err);
    } else {
        users->loading = LOAD_USER;
        vd_free(users->loading_key);
        users->loading_key = vd_xstrdup(waiter->key);
        rc = ask_user(users, waiter->key, &err);
    }
    if (rc != VD_OK) {
        while (!vd_list_empty(&users->waiters)) /* nobody else would begin their load */
            waiters_end(users, NULL, NULL, &err);
        users->loading = LOAD_NONE;
    }
}

int gate_users_get(gate_users_t *users, vd_slice_t name, vd_slice_t db,
                   void (*done)(void *context, gate_user_t *user, const vd_error_t *err),
                   void *context, gate_user_t **ret_user, vd_error_t *err)
{
    char key[GATE_SCRAM_NAME_MAX + VD_DATABASE_NAME_MAX_BYTES + 8];
    if (name.len > GATE_SCRAM_NAME_MAX || db.len > VD_DATABASE_NAME_MAX_BYTES)
        return vd_error_set(err, VD_ERR_AUTHENTICATION_FAILED, "Authentication failed.");
    int len = snprintf(key, sizeof key, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name));
    VD_ASSERT(len > 0 && (size_t)len < sizeof key);
    if (users->epoch != users->thread->state.auth_epoch)
        gate_users_invalidate(users);
    gate_user_t *user = vd_map_get(users->map, vd_slice_str(key));
    if (user != NULL) {
        gate_user_hold(user);
        *ret_user = user;
        return VD_OK;
    }
    if (users->waiter_count >= WAITERS_MAX)
        return vd_error_set(err, VD_ERR_TEMPORARILY_UNAVAILABLE, "too many logins at once");
    waiter_t *waiter = vd_xalloc(sizeof *waiter);
    waiter->key = vd_xstrdup(key);
    waiter->db = vd_slice(waiter->key, db.len);
    waiter->name = vd_slice(waiter->key + db.len + 1, name.len);
    waiter->done = done;
    waiter->context = context;
    vd_list_push_back(&users->waiters, &waiter->node);
    users->waiter_count++;
    load_next(users);
    return GATE_LATER;
}

void gate_users_forget(gate_users_t *users, void *context)
{
    VD_LIST_EACH(&users->waiters, node)
    {
        waiter_t *waiter = VD_CONTAINER_OF(node, waiter_t, node);
        if (waiter->context == context)
            waiter->done = NULL;
    }
}
