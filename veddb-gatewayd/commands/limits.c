/* veddb-gatewayd/commands/limits.c — see limits.h. */
#include "veddb-gatewayd/commands/limits.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/commands/handlers.h"
#include "veddb-gatewayd/quota/throttle.h"

#define JSON_MAX_BYTES (200 * 1024)
#define KEPT_MAX_BYTES (500 * 1024) /* every override with the longest of names */

typedef struct {
    vd_slice_t user; /* empty: everybody */
    bool reset;
    uint32_t count;
    gate_limit_t limits[GATE_LIMITS];
    int64_t values[GATE_LIMITS];
} change_t;

/* ---- a change ---- */

static int change_add(change_t *change, gate_limit_t limit, int64_t value, vd_error_t *err)
{
    for (uint32_t i = 0; i < change->count; i++) {
        if (change->limits[i] == limit)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "%s is given twice",
                                gate_limit_rows[limit].name);
    }
    change->limits[change->count] = limit;
    change->values[change->count++] = value;
    return VD_OK;
}

static int unknown(vd_slice_t name, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_BAD_VALUE, "there is no limit \"%.*s\": limits shows them all",
                        (int)(name.len < 60 ? name.len : 60), name.data);
}

static int user_check(vd_slice_t user, vd_error_t *err)
{
    if (user.len == 0 || user.len >= GATE_LIMITED_USER_SIZE || !vd_utf8_valid(user) ||
        memchr(user.data, '@', user.len) == NULL || memchr(user.data, 0, user.len) != NULL)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a user is written name@database");
    return VD_OK;
}

static void put_users(gate_t *gate, vd_bb_t *bb)
{
    gate_override_t *overrides = vd_xalloc(GATE_OVERRIDES_MAX * sizeof *overrides);
    uint32_t count = gate_quota_overrides(gate->quota, overrides, GATE_OVERRIDES_MAX);
    char key[12];
    vd_bb_begin_array(bb, "users");
    for (uint32_t i = 0; i < count; i++) {
        vd_bb_open_document(bb, vd_array_name(i, key));
        vd_bb_cstr(bb, "user", overrides[i].user);
        vd_bb_cstr(bb, "limit", gate_limit_rows[overrides[i].limit].name);
        vd_bb_int64(bb, "value", (int64_t)overrides[i].value);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    vd_free(overrides);
}

static void put_changed(gate_t *gate, vd_bb_t *bb)
{
    gate_limit_values_t now, configured;
    gate_quota_values(gate->quota, &now, &configured);
    vd_bb_begin_document(bb, "set");
    for (unsigned i = 0; i < GATE_LIMITS; i++) {
        if (now.values[i] != configured.values[i])
            vd_bb_int64(bb, gate_limit_rows[i].name, (int64_t)now.values[i]);
    }
    vd_bb_close(bb);
}

/* Thread 0. What was refused under the limits before is told; the change is kept beyond our end. */
static void changed(void *context)
{
    gate_thread_t *thread = context;
    gate_t *gate = thread->gate;
    vd_error_t err = VD_ERROR_INIT;
    vd_bb_t bb;
    vd_bson_t document;
    gate_throttle_tell(thread, true);
    if (gate->events.keep == NULL)
        return;
    vd_arena_t *arena = vd_arena_create();
    vd_bb_init_arena(&bb, arena, KEPT_MAX_BYTES);
    put_changed(gate, &bb);
    put_users(gate, &bb);
    if (vd_bb_finish(&bb, &document, &err) == VD_OK)
        gate->events.keep(gate->events.context, vd_slice(document.data, document.len));
    else
        vd_log(VD_LOG_ERROR, "limits are not kept over a restart of the gateway", "error=%d",
               -err.code);
    vd_arena_destroy(&arena);
}

/* here: on thread 0. */
static int change_apply(gate_t *gate, bool here, const change_t *change, vd_error_t *err)
{
    int rc = VD_OK;
    char user[300] = "everybody";
    for (uint32_t i = 0; i < change->count && rc == VD_OK; i++)
        rc = gate_limit_check(change->limits[i], change->values[i], change->user.len != 0, err);
    if (change->user.len != 0)
        (void)vd_log_quote(change->user, user, sizeof user);
    if (rc == VD_OK && change->reset) {
        gate_quota_reset(gate->quota, change->user);
        vd_log(VD_LOG_INFO, "limits are as configured", "user=%s", user);
    }
    for (uint32_t i = 0; i < change->count && rc == VD_OK; i++) {
        rc = gate_quota_set(gate->quota, change->user, change->limits[i],
                            (uint64_t)change->values[i], err);
        if (rc == VD_OK)
            vd_log(VD_LOG_INFO, "limit changed", "limit=%s value=%lld user=%s",
                   gate_limit_rows[change->limits[i]].name, (long long)change->values[i], user);
    }
    gate_limits_set_per_address(
        gate->limits, (uint32_t)gate_quota_value(gate->quota, GATE_LIMIT_CONNECTIONS_PER_ADDRESS));
    if (here)
        changed(gate->threads[0]);
    else
        vd_loop_post(gate->threads[0]->loop, changed, gate->threads[0]);
    return rc;
}

/* ---- what there is ---- */

static void put_counts(gate_t *gate, vd_bb_t *bb, const char *name,
                       uint64_t (*count)(const gate_notes_t *, gate_refusal_t, gate_scope_t))
{
    char key[12];
    uint32_t n = 0;
    vd_bb_begin_array(bb, name);
    for (unsigned kind = 0; kind < GATE_REFUSALS; kind++) {
        for (unsigned scope = 0; scope < GATE_SCOPES; scope++) {
            uint64_t value = count(gate->notes, (gate_refusal_t)kind, (gate_scope_t)scope);
            if (value == 0)
                continue;
            vd_bb_open_document(bb, vd_array_name(n++, key));
            vd_bb_cstr(bb, "kind", gate_refusal_names[kind]);
            vd_bb_cstr(bb, "scope", gate_scope_names[scope]);
            vd_bb_int64(bb, "count", (int64_t)value);
            vd_bb_close(bb);
        }
    }
    vd_bb_close(bb);
}

static void put_limits(gate_t *gate, vd_bb_t *bb)
{
    gate_limit_values_t now, configured;
    gate_quota_values(gate->quota, &now, &configured);
    vd_bb_begin_document(bb, "limits");
    for (unsigned i = 0; i < GATE_LIMITS; i++)
        vd_bb_int64(bb, gate_limit_rows[i].name, (int64_t)now.values[i]);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "changed"); /* from so much */
    for (unsigned i = 0; i < GATE_LIMITS; i++) {
        if (now.values[i] != configured.values[i])
            vd_bb_int64(bb, gate_limit_rows[i].name, (int64_t)configured.values[i]);
    }
    vd_bb_close(bb);
    put_users(gate, bb);
    put_counts(gate, bb, "refused", gate_notes_refused);
    put_counts(gate, bb, "delayed", gate_notes_delayed);
}

/* ---- the command ---- */

static int read_set(vd_value_t set, change_t *change, vd_error_t *err)
{
    vd_bson_iter_t each;
    if (set.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "set must be a document of limits");
    vd_bson_iter_init(&each, vd_value_document(set));
    while (vd_bson_iter_next(&each)) {
        gate_limit_t limit = gate_limit_by_name(each.name);
        int64_t value;
        if (limit == GATE_LIMITS)
            return unknown(each.name, err);
        if (!vd_value_is_number(each.value) || !vd_value_as_int64(each.value, &value))
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "%s must be a whole number",
                                gate_limit_rows[limit].name);
        int rc = change_add(change, limit, value, err);
        if (rc != VD_OK)
            return rc;
    }
    return change->count == 0 ? vd_error_set(err, VD_ERR_BAD_VALUE, "set names no limit") : VD_OK;
}

int gate_command_limits(gate_request_t *request, vd_bb_t *reply, vd_error_t *err)
{
    gate_t *gate = request->thread->gate;
    vd_bson_t body = gate_request_body(request);
    vd_value_t set = vd_bson_get(body, "set"), user = vd_bson_get(body, "user");
    change_t change = {.reset = vd_value_as_flag(vd_bson_get(body, "reset"))};
    int rc = VD_OK;
    if (!vd_value_is_missing(set))
        rc = read_set(set, &change, err);
    if (rc == VD_OK && !vd_value_is_missing(user)) {
        change.user = user.type == VD_BSON_STRING ? vd_value_string(user) : VD_SLICE_NULL;
        rc = user_check(change.user, err);
    }
    if (rc == VD_OK && change.reset && change.count != 0)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE, "set or reset, not both");
    if (rc == VD_OK && (change.reset || change.count != 0))
        rc = change_apply(gate, request->thread->index == 0, &change, err);
    if (rc == VD_OK)
        put_limits(gate, reply);
    return rc;
}

/* ---- what was kept ---- */

static void kept_apply(gate_t *gate, vd_slice_t user, vd_slice_t name, vd_value_t value)
{
    gate_limit_t limit = gate_limit_by_name(name);
    vd_error_t err = VD_ERROR_INIT;
    int64_t number;
    int rc =
        limit == GATE_LIMITS || !vd_value_is_number(value) || !vd_value_as_int64(value, &number)
            ? vd_error_set(&err, VD_ERR_BAD_VALUE, "it is no limit, or no number")
            : gate_limit_check(limit, number, user.len != 0, &err);
    if (rc == VD_OK)
        rc = gate_quota_set(gate->quota, user, limit, (uint64_t)number, &err);
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "a limit that was set is not in force any more", "error=\"%s\"",
               err.message);
}

void gate_limits_kept(gate_t *gate, vd_slice_t bytes)
{
    vd_bson_iter_t each;
    vd_bson_t document = {bytes.data, (uint32_t)bytes.len};
    vd_error_t err = VD_ERROR_INIT;
    if (bytes.len > KEPT_MAX_BYTES || vd_bson_validate(bytes, 0, 4, &err) != VD_OK) {
        vd_log(VD_LOG_WARN, "limits that were set can't be read", "bytes=%zu", bytes.len);
        return;
    }
    vd_value_t set = vd_bson_get(document, "set"), users = vd_bson_get(document, "users");
    if (set.type == VD_BSON_OBJECT) {
        vd_bson_iter_init(&each, vd_value_document(set));
        while (vd_bson_iter_next(&each))
            kept_apply(gate, VD_SLICE_NULL, each.name, each.value);
    }
    if (users.type == VD_BSON_ARRAY) {
        vd_bson_iter_init(&each, vd_value_document(users));
        while (vd_bson_iter_next(&each)) {
            vd_value_t user = VD_VALUE_MISSING, limit = VD_VALUE_MISSING;
            if (each.value.type == VD_BSON_OBJECT) {
                user = vd_bson_get(vd_value_document(each.value), "user");
                limit = vd_bson_get(vd_value_document(each.value), "limit");
            }
            if (user.type == VD_BSON_STRING && limit.type == VD_BSON_STRING &&
                user_check(vd_value_string(user), &err) == VD_OK)
                kept_apply(gate, vd_value_string(user), vd_value_string(limit),
                           vd_bson_get(vd_value_document(each.value), "value"));
        }
    }
    gate_limits_set_per_address(
        gate->limits, (uint32_t)gate_quota_value(gate->quota, GATE_LIMIT_CONNECTIONS_PER_ADDRESS));
    vd_log(VD_LOG_INFO, "limits that were set live are in force again", "bytes=%zu", bytes.len);
}

/* ---- the operator's words ---- */

static bool next_word(vd_slice_t *text, vd_slice_t *ret)
{
    size_t i = 0, n;
    while (i < text->len && text->data[i] == ' ')
        i++;
    for (n = i; n < text->len && text->data[n] != ' ';)
        n++;
    *ret = vd_slice(text->data + i, n - i);
    *text = vd_slice(text->data + n, text->len - n);
    return ret->len != 0;
}

static int read_words(vd_slice_t text, change_t *change, bool *ret_show, vd_error_t *err)
{
    vd_slice_t word;
    bool set = false;
    if (!next_word(&text, &word))
        word = VD_SLICE_NULL;
    *ret_show = vd_slice_is(word, "show");
    change->reset = vd_slice_is(word, "reset");
    set = vd_slice_is(word, "set");
    if (!*ret_show && !change->reset && !set)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "limits: show, set or reset");
    while (next_word(&text, &word)) {
        const uint8_t *sign = memchr(word.data, '=', word.len);
        vd_slice_t name = vd_slice(word.data, sign == NULL ? word.len : (size_t)(sign - word.data));
        vd_slice_t value =
            sign == NULL ? VD_SLICE_NULL : vd_slice(sign + 1, word.len - name.len - 1);
        gate_limit_t limit = gate_limit_by_name(name);
        int64_t number;
        int rc;
        if (vd_slice_is(name, "user") && !*ret_show) {
            change->user = value;
            rc = user_check(value, err);
        } else if (!set || limit == GATE_LIMITS) {
            rc = unknown(name, err);
        } else {
            rc = gate_limit_parse(limit, value, &number, err);
            if (rc == VD_OK)
                rc = change_add(change, limit, number, err);
        }
        if (rc != VD_OK)
            return rc;
    }
    return set && change->count == 0 ? vd_error_set(err, VD_ERR_BAD_VALUE, "set names no limit")
                                     : VD_OK;
}

int gate_limits_ask(gate_t *gate, vd_slice_t words, vd_buf_t *out, vd_error_t *err)
{
    change_t change = {0};
    bool show;
    vd_bb_t bb;
    vd_bson_t document;
    int rc = read_words(words, &change, &show, err);
    if (rc == VD_OK && !show)
        rc = change_apply(gate, true, &change, err);
    if (rc != VD_OK)
        return rc;
    vd_arena_t *arena = vd_arena_create();
    vd_bb_init_arena(&bb, arena, JSON_MAX_BYTES);
    put_limits(gate, &bb);
    rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK) {
        const char *json =
            vd_value_to_json(arena, vd_value_from_document(document), JSON_MAX_BYTES);
        if (json == NULL || vd_buf_append(out, json, strlen(json)) != VD_OK)
            rc = vd_error_set(err, VD_ERR_FULL, "the answer is too large");
    }
    vd_arena_destroy(&arena);
    return rc;
}
