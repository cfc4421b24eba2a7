/* veddb-gatewayd/http/keys.c — the data keys over HTTPS: each page stands for a command (table.c),
 * is allowed by the same function and noted in the audit log under the same name. On the worker. */
#include "libcommon/bson/build.h"
#include "veddb-gatewayd/http/private.h"

#include <bson/bson.h>
#include <stdio.h>
#include <string.h>

#define WAIT_MS     5000 /* for storage, and the key holder behind it */
#define REPLY_MAX   (4u << 20)
#define COMMAND_MAX 4096

/* What a body may say; the key holder looks at the values. */
static const char *const fields[] = {"rate", "maxLatencyRise", "force"};

/* {error, error_description, code}: the command's own. */
static void fail(gate_http_job_t *job, int status, const vd_error_t *err)
{
    char name[32];
    bson_t doc = BSON_INITIALIZER;
    size_t len = 0;
    gate_http_status(job, status);
    BSON_APPEND_UTF8(&doc, "error", vd_error_code_name(err->code, name));
    BSON_APPEND_UTF8(&doc, "error_description", err->message);
    BSON_APPEND_INT32(&doc, "code", -err->code);
    char *text = bson_as_relaxed_extended_json(&doc, &len);
    job->rc = text == NULL ? VD_ERR_INTERNAL : vd_buf_printf(&job->out, "%s\n", text);
    bson_free(text);
    bson_destroy(&doc);
}

static int status_of(int code)
{
    switch (code) {
    case VD_ERR_BAD_VALUE:
    case VD_ERR_FAILED_TO_PARSE:
    case VD_ERR_TYPE_MISMATCH:
    case VD_ERR_LOCATION(40415): /* an unknown field */
    case VD_ERR_LOCATION(51024): /* below what may be */
        return 400;
    case VD_ERR_ROTATION_IN_PROGRESS:
    case VD_ERR_NO_ROTATION:
    case VD_ERR_KEY_IN_USE:
    case VD_ERR_KEY_MISSING:
    case VD_ERR_KEY_WRONG:
    case VD_ERR_ILLEGAL_OPERATION:
        return 409;
    case VD_ERR_INTERNAL:
        return 500;
    default:
        return 503; /* somebody is away, or can't at present */
    }
}

/* Each at most once. */
static bool put_field(vd_bb_t *bb, bson_iter_t *at, uint32_t *seen)
{
    const char *name = bson_iter_key(at);
    size_t i = 0;
    while (i < VD_COUNT_OF(fields) && strcmp(name, fields[i]) != 0)
        i++;
    if (i == VD_COUNT_OF(fields) || (*seen & 1u << i) != 0)
        return false;
    *seen |= 1u << i;
    switch (bson_iter_type(at)) {
    case BSON_TYPE_INT32:
        vd_bb_int32(bb, name, bson_iter_int32(at));
        return true;
    case BSON_TYPE_INT64:
        vd_bb_int64(bb, name, bson_iter_int64(at));
        return true;
    case BSON_TYPE_DOUBLE:
        vd_bb_double(bb, name, bson_iter_double(at));
        return true;
    case BSON_TYPE_BOOL:
        vd_bb_bool(bb, name, bson_iter_bool(at));
        return true;
    default:
        return false;
    }
}

/* An empty body says nothing. */
static bool put_body(vd_bb_t *bb, vd_slice_t body)
{
    bson_iter_t at;
    uint32_t seen = 0;
    if (body.len == 0)
        return true;
    bson_t *doc = gate_http_json(body);
    bool good = doc != NULL && bson_iter_init(&at, doc);
    while (good && bson_iter_next(&at))
        good = put_field(bb, &at, &seen);
    if (doc != NULL)
        bson_destroy(doc);
    return good;
}

static void tell(gate_http_job_t *job, const vd_buf_t *reply)
{
    bson_t doc;
    size_t len = 0;
    char *text = NULL;
    vd_slice_t said = vd_buf_slice(reply);
    if (said.len > 0 && bson_init_static(&doc, said.data, said.len))
        text = bson_as_relaxed_extended_json(&doc, &len);
    gate_http_status(job, 200);
    job->rc = text == NULL ? VD_ERR_INTERNAL : vd_buf_printf(&job->out, "%s\n", text);
    bson_free(text);
}

static void run(gate_http_job_t *job, const gate_user_t *user, vd_bson_t command, const char *what)
{
    const bool asks = job->page->method == EVHTTP_REQ_GET;
    vd_error_t err = VD_ERROR_INIT, unnoted = VD_ERROR_INIT;
    vd_buf_t reply;
    vd_buf_init(&reply, REPLY_MAX);
    int rc = gate_internal_call(job->http->gate, GATE_CALL_ONE_TRY, VD_SLICE_LIT("admin"), command,
                                WAIT_MS, &reply, &err);
    int noted =
        asks ? VD_OK : gate_http_note(job, job->page->command, user, what, NULL, rc, &unnoted);
    if (rc != VD_OK)
        fail(job, status_of(rc), &err);
    else if (noted != VD_OK)
        fail(job, 503, &unnoted); /* done, and the audit log did not take it: as on the wire */
    else
        tell(job, &reply);
    vd_buf_done(&reply);
}

static void keys_act(gate_http_job_t *job)
{
    char what[64];
    vd_bb_t bb;
    vd_bson_t command;
    vd_arena_t *arena = vd_arena_create();
    gate_user_t *user = NULL;
    const bool asks = job->page->method == EVHTTP_REQ_GET;
    (void)snprintf(what, sizeof what, "HTTPS %s", job->page->command);
    vd_bb_init_arena(&bb, arena, COMMAND_MAX);
    vd_bb_int32(&bb, job->page->command, 1);
    if (!gate_http_allowed(job, job->page->command, "admin", arena, &user, what))
        goto cleanup;
    if (!asks && !put_body(&bb, vd_buf_slice(&job->body))) {
        gate_http_fail(job, 400, "BadValue",
                       "the body is JSON of rate, maxLatencyRise and force alone");
        goto cleanup;
    }
    vd_bb_cstr(&bb, "$db", "admin");
    if (vd_bb_finish(&bb, &command, NULL) == VD_OK)
        run(job, user, command, what);
    else
        gate_http_fail(job, 400, "BadValue", "the body is too large");
cleanup:
    gate_user_drop(&user);
    vd_arena_destroy(&arena);
}

#define JSON "application/json"
const gate_http_keys_page_t gate_http_keys_pages[GATE_HTTP_KEYS] = {
    {"/v1/keys", {JSON, NULL, keys_act, EVHTTP_REQ_GET, "rotationStatus"}},
    {"/v1/keys/history", {JSON, NULL, keys_act, EVHTTP_REQ_GET, "rotationHistory"}},
    {"/v1/keys/rotate", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "rotateKey"}},
    {"/v1/keys/pause", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "pauseRotation"}},
    {"/v1/keys/resume", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "resumeRotation"}},
    {"/v1/keys/cancel", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "cancelRotation"}},
    {"/v1/keys/throttle", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "throttleRotation"}},
    {"/v1/keys/verify", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "verifyKeys"}},
    {"/v1/keys/rewrap", {JSON, NULL, keys_act, EVHTTP_REQ_POST, "rewrapKeys"}},
};
