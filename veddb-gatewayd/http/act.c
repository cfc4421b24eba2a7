/* veddb-gatewayd/http/act.c — what pages that do something have in common: who may, what is told to
 * who may not, and the audit log's event of it. On the worker. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/http/private.h"

#include <bson/bson.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_BUFFER_BYTES 4096

/* ---- libbson's memory: bodies have passwords in them, and its reader keeps copies ---- */

static void wiping_free(void *p)
{
    if (p != NULL)
        vd_wipe(p, malloc_usable_size(p));
    free(p);
}

static void *wiping_realloc(void *p, size_t size)
{
    size_t old = p == NULL ? 0 : malloc_usable_size(p);
    void *grown = malloc(size);
    if (grown != NULL && p != NULL)
        memcpy(grown, p, old < size ? old : size);
    if (grown != NULL)
        wiping_free(p);
    return grown;
}

void gate_http_json_wipes(void)
{
    static const bson_mem_vtable_t wiping = {.malloc = malloc,
                                             .calloc = calloc,
                                             .realloc = wiping_realloc,
                                             .free = wiping_free,
                                             .aligned_alloc = aligned_alloc};
    bson_mem_set_vtable(&wiping);
}

bson_t *gate_http_json(vd_slice_t body)
{
    bson_error_t why;
    size_t blanks = 0;
    while (blanks < body.len && memchr(" \t\r\n", body.data[blanks], 4) != NULL)
        blanks++;
    if (blanks == body.len || body.data[blanks] != '{') /* an array would be read, too */
        return NULL;
    bson_json_reader_t *reader = bson_json_data_reader_new(false, JSON_BUFFER_BYTES);
    bson_t *doc = bson_new(), *more = bson_new();
    bson_json_data_reader_ingest(reader, body.data, body.len);
    bool good = bson_json_reader_read(reader, doc, &why) == 1 &&
                bson_json_reader_read(reader, more, &why) == 0; /* the end */
    bson_json_reader_destroy(reader);
    bson_destroy(more);
    if (good)
        return doc;
    bson_destroy(doc);
    return NULL;
}

void gate_http_status(gate_http_job_t *job, int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{200, "OK"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {409, "Conflict"},
                   {429, "Too Many Requests"},
                   {500, "Internal Server Error"},
                   {503, "Service Unavailable"}};
    job->status = status;
    job->reason = "Error";
    for (size_t i = 0; i < VD_COUNT_OF(reasons); i++)
        if (reasons[i].status == status)
            job->reason = reasons[i].reason;
    job->challenge = status == 401;
    vd_buf_clear(&job->out);
}

void gate_http_fail(gate_http_job_t *job, int status, const char *error, const char *about)
{
    gate_http_status(job, status);
    job->rc =
        vd_buf_printf(&job->out, "{\"error\":\"%s\",\"error_description\":\"%s\"}\n", error, about);
}

void gate_http_fail_login(gate_http_job_t *job, gate_http_login_t login)
{
    switch (login) {
    case GATE_HTTP_LOGIN_THROTTLED:
        gate_http_fail(job, 429, "temporarily_unavailable", "too many failed logins");
        break;
    case GATE_HTTP_LOGIN_LATER:
        gate_http_fail(job, 503, "temporarily_unavailable",
                       "this member can't check logins at present: try again");
        break;
    case GATE_HTTP_LOGIN_FORBIDDEN:
        gate_http_fail(job, 403, "insufficient_scope", "the privilege for it is missing");
        break;
    case GATE_HTTP_LOGIN_GOOD:
    case GATE_HTTP_LOGIN_BAD:
        if (job->header != NULL)
            gate_http_fail(job, 401, "invalid_client", "Authentication failed.");
        else
            gate_http_fail(job, 400, "invalid_grant", "Authentication failed.");
        break;
    }
}

int gate_http_note(gate_http_job_t *job, const char *atype, const gate_user_t *user,
                   const char *what, const char *detail, int result, vd_error_t *err)
{
    gate_audit_note_t event = {.atype = atype,
                               .client = job->origin.client,
                               .param = what,
                               .detail = detail,
                               .result = result};
    if (user != NULL && (result == VD_OK || job->known))
        event.user = user;
    if (user != NULL)
        event.subject = user->name, event.subject_db = user->db;
    return gate_audit_outside(job->http->gate, &event, err);
}

void gate_http_forged(gate_http_job_t *job)
{
    vd_error_t ignored = VD_ERROR_INIT;
    vd_log(VD_LOG_WARN, "an order of a web page is refused", "client=%s", job->origin.client);
    (void)gate_http_note(job, "authCheck", NULL, "HTTPS order of a web page", NULL,
                         VD_ERR_UNAUTHORIZED, &ignored); /* it is refused anyway */
    gate_http_fail(job, 403, "access_denied", "orders of web pages are not taken");
}

void gate_http_refused(gate_http_job_t *job, const gate_user_t *user, const char *what,
                       gate_http_login_t login)
{
    gate_t *gate = job->http->gate;
    vd_error_t ignored = VD_ERROR_INIT;
    if (login == GATE_HTTP_LOGIN_BAD) {
        atomic_fetch_add_explicit(&gate->stats.logins_failed, 1, memory_order_relaxed);
        gate_limits_login_failed(gate->limits, &job->address);
    }
    vd_log(VD_LOG_WARN, "login refused", "client=%s over=https what=\"%s\"", job->origin.client,
           what);
    if (login != GATE_HTTP_LOGIN_LATER)
        (void)gate_http_note(job, "authenticate", user, what, NULL, VD_ERR_AUTHENTICATION_FAILED,
                             &ignored); /* it is refused anyway */
    gate_http_fail_login(job, login);
}

/* As on the wire: a secondary does it only while it knows that its users are the newest. */
static bool users_are_sure(gate_t *gate, const gate_command_t *row)
{
    gate_member_t member;
    gate_member_read(gate, NULL, &member);
    gate_storage_state_t state = {.role = member.role, .fresh_ms = atomic_load(&gate->fresh_ms)};
    if (!gate_access_is_leased(row) || gate_member_knows_users(gate, &state, vd_monotonic_ms()))
        return true;
    atomic_fetch_add_explicit(&gate->stats.users_refused_unsure, 1, memory_order_relaxed);
    return false;
}

bool gate_http_allowed(gate_http_job_t *job, const char *command, const char *db, vd_arena_t *arena,
                       gate_user_t **ret_user, const char *what)
{
    const gate_command_t *row = gate_command_find(vd_slice_str(command));
    gate_access_grant_t grant;
    vdp_sections_t sections = {0};
    vd_error_t err = VD_ERROR_INIT;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 1024);
    vd_bb_int32(&bb, command, 1);
    VD_ASSERT(row != NULL && vd_bb_finish(&bb, &sections.body, NULL) == VD_OK);
    if (gate_limits_login_wait_ms(job->http->gate->limits, &job->address) != 0) {
        gate_http_fail_login(job, GATE_HTTP_LOGIN_THROTTLED);
        return false;
    }
    gate_http_login_t login = gate_http_identify(job, arena, ret_user);
    if (login != GATE_HTTP_LOGIN_GOOD) {
        gate_http_refused(job, *ret_user, what, login);
        job->status = login == GATE_HTTP_LOGIN_BAD ? 401 : job->status;
        job->reason = login == GATE_HTTP_LOGIN_BAD ? "Unauthorized" : job->reason;
        job->challenge = login == GATE_HTTP_LOGIN_BAD;
        return false;
    }
    job->known = true;
    if (!users_are_sure(job->http->gate, row)) {
        gate_http_fail(job, 503, "temporarily_unavailable",
                       "this member can't confirm at present that its users and roles are the "
                       "newest: ask another");
        return false;
    }
    if (gate_access_check(row, vd_slice_str(db), &sections, &(*ret_user)->principal, &grant,
                          &err) == VD_OK)
        return true;
    (void)gate_http_note(job, "authCheck", *ret_user, what, NULL, VD_ERR_UNAUTHORIZED, &err);
    gate_http_fail_login(job, GATE_HTTP_LOGIN_FORBIDDEN);
    return false;
}
