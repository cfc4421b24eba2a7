/* veddb-storaged/pipeline/stage_sessions.c — $listSessions, $listLocalSessions: the logical
 * sessions that are known here. There is no copy of them elsewhere, so both show the same. */
#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/sessions.h"

#define DIGEST_BYTES 32

typedef struct row {
    struct row *next;
    stor_session_key_t key;
    uint64_t last_used_ms;
} row_t;

typedef struct {
    stor_stage_t stage;
    const char *name;
    bool all_users;
    uint32_t user_count;
    const uint8_t (*users)[DIGEST_BYTES]; /* NULL: the asker's own */
    vd_arena_t *arena, *out;
    uint8_t own[DIGEST_BYTES];
    row_t *rows;
    bool made;
} sessions_t;

static int user_add(const stor_pipeline_context_t *context, const sessions_t *stage,
                    vd_value_t value, uint8_t digest[DIGEST_BYTES], vd_error_t *err)
{
    vd_value_t user = value.type == VD_BSON_OBJECT ? vd_bson_get(vd_value_document(value), "user")
                                                   : VD_VALUE_MISSING;
    vd_value_t db = value.type == VD_BSON_OBJECT ? vd_bson_get(vd_value_document(value), "db")
                                                 : VD_VALUE_MISSING;
    if (user.type != VD_BSON_STRING || db.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.users' needs documents of the form {user, db}",
                            stage->name);
    char *name = vd_arena_printf(context->arena, "%.*s@%.*s", VD_SLICE_FMT(vd_value_string(user)),
                                 VD_SLICE_FMT(vd_value_string(db)));
    stor_session_key_t key = stor_session_key(VD_SLICE_NULL, vd_slice_str(name));
    memcpy(digest, key.bytes + sizeof key.bytes - DIGEST_BYTES, DIGEST_BYTES);
    return VD_OK;
}

static int users_parse(const stor_pipeline_context_t *context, sessions_t *stage, vd_value_t value,
                       vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (value.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.users' is the wrong type '%s', expected type 'array'",
                            stage->name, vd_bson_type_name(value.type));
    uint8_t(*users)[DIGEST_BYTES] = vd_arena_zalloc(
        context->arena, DIGEST_BYTES * ((size_t)vd_bson_count(vd_value_document(value)) + 1));
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = user_add(context, stage, iter.value, users[stage->user_count++], err);
    stage->users = (const uint8_t(*)[DIGEST_BYTES])users;
    return rc;
}

static int sessions_parse(const stor_pipeline_context_t *context, const char *name, vd_value_t spec,
                          stor_stage_t **ret_stage, vd_error_t *err)
{
    sessions_t *stage = VD_ARENA_NEW(context->arena, sessions_t);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    bool all_said = false;
    stage->name = name;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "%s options must be specified in an object, but found: %s", name,
                            vd_bson_type_name(spec.type));
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        bool users = vd_slice_is(iter.name, "users");
        rc = stor_stage_once(users ? stage->users != NULL : all_said, name, iter.name, err);
        if (rc != VD_OK)
            break;
        if (users) {
            rc = users_parse(context, stage, iter.value, err);
        } else if (!vd_slice_is(iter.name, "allUsers")) {
            rc = vd_error_set(err, VD_ERR_LOCATION(40415),
                              "BSON field '%s.%.*s' is an unknown field.", name,
                              VD_SLICE_FMT(iter.name));
        } else if (iter.value.type != VD_BSON_BOOL) {
            rc = vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                              "BSON field '%s.allUsers' is the wrong type '%s', expected type "
                              "'bool'",
                              name, vd_bson_type_name(iter.value.type));
        } else {
            stage->all_users = vd_value_bool(iter.value);
            all_said = true;
        }
    }
    if (rc == VD_OK && stage->all_users && stage->users != NULL)
        rc = vd_error_set(err, VD_ERR_LOCATION(12),
                          "%s may not specify {allUsers:true} and {users:[...]} at the same time",
                          name);
    *ret_stage = &stage->stage;
    return rc;
}

static int list_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                      stor_stage_t **ret_stage, vd_error_t *err)
{
    if (!vd_slice_is(context->db, "config") || !vd_slice_is(context->collection, "system.sessions"))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE,
                            "$listSessions may only be run against config.system.sessions");
    return sessions_parse(context, "$listSessions", spec, ret_stage, err);
}

static int list_local_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                            stor_stage_t **ret_stage, vd_error_t *err)
{
    return sessions_parse(context, "$listLocalSessions", spec, ret_stage, err);
}

/* ---- run ---- */

static bool is_asked_for(const sessions_t *stage, const uint8_t *digest)
{
    if (stage->all_users)
        return true;
    if (stage->users == NULL)
        return memcmp(digest, stage->own, DIGEST_BYTES) == 0;
    for (uint32_t i = 0; i < stage->user_count; i++)
        if (memcmp(digest, stage->users[i], DIGEST_BYTES) == 0)
            return true;
    return false;
}

static void visit(const stor_session_key_t *key, uint64_t last_used_ms, void *context)
{
    sessions_t *stage = context;
    if (!is_asked_for(stage, key->bytes + sizeof key->bytes - DIGEST_BYTES))
        return;
    row_t *row = VD_ARENA_NEW(stage->arena, row_t);
    row->key = *key;
    row->last_used_ms = last_used_ms;
    row->next = stage->rows;
    stage->rows = row;
}

/* Who may see those of others, the gateway has decided. */
static void make(sessions_t *stage, stor_request_t *request)
{
    stor_session_key_t own = stor_session_key(VD_SLICE_NULL, request->command.user);
    memcpy(stage->own, own.bytes + sizeof own.bytes - DIGEST_BYTES, DIGEST_BYTES);
    if (stage->arena == NULL) {
        stage->arena = vd_arena_create();
        stage->out = vd_arena_create();
    }
    stor_sessions_visit(request->storage->sessions, visit, stage);
    stage->made = true;
}

static int sessions_next(stor_stage_t *self, stor_request_t *request, vd_bson_t *ret_document,
                         vd_error_t *err)
{
    sessions_t *stage = (sessions_t *)self;
    int rc = stor_request_check(request, err);
    if (rc != VD_OK)
        return rc;
    if (!stage->made)
        make(stage, request);
    const row_t *row = stage->rows;
    if (row == NULL)
        return VD_ERR_NOT_FOUND;
    stage->rows = row->next;
    vd_bb_t bb;
    vd_arena_reset(stage->out);
    vd_bb_init_arena(&bb, stage->out, 1024);
    vd_bb_begin_document(&bb, "_id");
    vd_bb_binary(&bb, "id", 4, vd_slice(row->key.bytes, sizeof row->key.bytes - DIGEST_BYTES));
    vd_bb_binary(&bb, "uid", 0,
                 vd_slice(row->key.bytes + sizeof row->key.bytes - DIGEST_BYTES, DIGEST_BYTES));
    vd_bb_close(&bb);
    vd_bb_date(&bb, "lastUse", vd_wall_ms() - (int64_t)(vd_monotonic_ms() - row->last_used_ms));
    return vd_bb_finish(&bb, ret_document, err);
}

static void sessions_close(stor_stage_t *self)
{
    sessions_t *stage = (sessions_t *)self;
    vd_arena_destroy(&stage->arena);
    vd_arena_destroy(&stage->out);
}

const stor_stage_class_t stor_stage_list_sessions = {.name = "$listSessions",
                                                     .parse = list_parse,
                                                     .next = sessions_next,
                                                     .close = sessions_close,
                                                     .first_only = true,
                                                     .not_inside = STOR_INSIDE_FACET};
const stor_stage_class_t stor_stage_list_local_sessions = {.name = "$listLocalSessions",
                                                           .parse = list_local_parse,
                                                           .next = sessions_next,
                                                           .close = sessions_close,
                                                           .first_only = true,
                                                           .no_collection = true,
                                                           .not_inside = STOR_INSIDE_FACET};
