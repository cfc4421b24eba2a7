/* veddb-gatewayd/auth/token_sessions.c — see token_sessions.h. */
#include "veddb-gatewayd/auth/token_sessions.h"

#include "libcommon/base/clock.h"
#include "libcommon/bson/build.h"
#include "veddb-gatewayd/gatewayd.h"

#include <stdio.h>
#include <time.h>

#define WAIT_MS   10000
#define ROW_BYTES 400 /* of JSON, beside names and address */

static int ask(gate_t *gate, vd_slice_t user, vd_slice_t db, vd_arena_t *arena, vd_buf_t *reply,
               vd_bson_t *ret_batch, vd_error_t *err)
{
    vd_bson_t command, document = VD_BSON_NONE;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 16384);
    vd_bb_cstr(&bb, "find", "system.refresh_tokens");
    vd_bb_begin_document(&bb, "filter");
    vd_bb_begin_document(&bb, "expiresAt");
    vd_bb_date(&bb, "$gt", vd_wall_ms());
    vd_bb_close(&bb);
    if (db.len != 0) {
        vd_bb_string(&bb, "user", user);
        vd_bb_string(&bb, "db", db);
    }
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "sort");
    vd_bb_int32(&bb, "used", -1);
    vd_bb_int32(&bb, "_id", 1);
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "projection"); /* the digest has no business here */
    vd_bb_int32(&bb, "hash", 0);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "limit", GATE_SESSIONS_SHOWN + 1);
    vd_bb_int32(&bb, "batchSize", GATE_SESSIONS_SHOWN + 1);
    vd_bb_bool(&bb, "singleBatch", true);
    vd_bb_cstr(&bb, "$db", "admin");
    int rc = vd_bb_finish(&bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_call(gate, GATE_CALL_IDEMPOTENT, VD_SLICE_LIT("admin"), command, WAIT_MS,
                                reply, err);
    if (rc == VD_OK)
        rc = vd_bson_peek(vd_buf_slice(reply), &document, err);
    if (rc != VD_OK)
        return rc;
    vd_value_t cursor = vd_bson_get(document, "cursor"),
               batch = cursor.type == VD_BSON_OBJECT
                           ? vd_bson_get(vd_value_document(cursor), "firstBatch")
                           : VD_VALUE_MISSING;
    if (batch.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_INTERNAL, "storage sent no cursor");
    *ret_batch = vd_value_document(batch);
    return VD_OK;
}

static vd_slice_t text_of(vd_bson_t document, const char *name)
{
    vd_value_t v = vd_bson_get(document, name);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_LIT("");
}

/* As people and machines read it; a session from before it was noted has none. */
static void put_time(vd_bb_t *bb, const char *name, vd_value_t v)
{
    char text[40] = "";
    struct tm when;
    time_t s = v.type == VD_BSON_DATE ? (time_t)(vd_value_int64(v) / 1000) : 0;
    if (v.type == VD_BSON_DATE && gmtime_r(&s, &when) != NULL)
        (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &when);
    vd_bb_cstr(bb, name, text);
}

static void put_session(vd_bb_t *bb, const char *place, vd_bson_t document)
{
    vd_bb_begin_document(bb, place);
    vd_bb_string(bb, "sid", text_of(document, "_id"));
    vd_bb_string(bb, "user", text_of(document, "user"));
    vd_bb_string(bb, "db", text_of(document, "db"));
    vd_bb_string(bb, "method", text_of(document, "method"));
    put_time(bb, "created", vd_bson_get(document, "begun"));
    put_time(bb, "lastUsed", vd_bson_get(document, "used"));
    put_time(bb, "expires", vd_bson_get(document, "expiresAt"));
    vd_bb_string(bb, "address", text_of(document, "address"));
    vd_bb_close(bb);
}

int gate_token_sessions(gate_t *gate, vd_slice_t user, vd_slice_t db, vd_buf_t *out,
                        vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    vd_bson_t batch = VD_BSON_NONE, document;
    vd_bson_iter_t each;
    vd_buf_t reply;
    vd_bb_t bb;
    char place[16];
    uint32_t count = 0;
    size_t bytes = 0;
    bool more = false;
    vd_buf_init(&reply, 4u << 20);
    vd_bb_init_arena(&bb, arena, 4u << 20);
    int rc = ask(gate, user, db, arena, &reply, &batch, err);
    vd_bb_begin_array(&bb, "sessions");
    if (rc == VD_OK)
        vd_bson_iter_init(&each, batch);
    while (rc == VD_OK && !more && vd_bson_iter_next(&each)) {
        if (each.value.type != VD_BSON_OBJECT)
            continue;
        document = vd_value_document(each.value);
        bytes += ROW_BYTES + 2 * (text_of(document, "user").len + text_of(document, "db").len +
                                  text_of(document, "address").len);
        more = count == GATE_SESSIONS_SHOWN || bytes > GATE_SESSIONS_BYTES;
        if (more)
            break;
        (void)snprintf(place, sizeof place, "%u", count++);
        put_session(&bb, place, document);
    }
    vd_bb_close(&bb);
    vd_bb_bool(&bb, "more", more);
    if (rc == VD_OK)
        rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK) {
        const char *json = vd_bson_to_json(arena, document, 2 * GATE_SESSIONS_BYTES);
        rc = vd_buf_append(out, json, strlen(json));
        if (rc != VD_OK)
            rc = vd_error_set(err, rc, "the list of sessions is too long");
    }
    vd_buf_done(&reply);
    vd_arena_destroy(&arena);
    return rc;
}
