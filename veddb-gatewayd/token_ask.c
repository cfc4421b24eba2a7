/* veddb-gatewayd/token_ask.c — see token_ask.h. */
#include "veddb-gatewayd/token_ask.h"

#include "libcommon/base/mem.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/auth/token_sessions.h"
#include "veddb-gatewayd/auth/token_store.h"

#include <stdio.h>

typedef struct {
    gate_t *gate;
    char *verb, *argument;
    void (*done)(void *context, int code, const char *message, vd_slice_t json);
    void *context;
    vd_error_t err;
    vd_buf_t json;
} question_t;

static bool is_session(const char *text)
{
    return strlen(text) == GATE_TOKEN_SESSION_MAX &&
           strspn(text, "0123456789abcdef") == GATE_TOKEN_SESSION_MAX;
}

/* "name@db": a name may have an @, a database has none. */
static void split(const char *text, vd_slice_t *ret_name, vd_slice_t *ret_db)
{
    const char *at = strrchr(text, '@');
    *ret_name = at == NULL ? vd_slice_str(text) : vd_slice(text, (size_t)(at - text));
    *ret_db = at == NULL ? VD_SLICE_LIT("admin") : vd_slice_str(at + 1);
}

static int act(question_t *question, gate_audit_note_t *note, vd_error_t *err)
{
    gate_t *gate = question->gate;
    const char *argument = question->argument;
    vd_slice_t name, db;
    if (strcmp(question->verb, "revoke-all") == 0) {
        note->atype = "rotateTokenKeys";
        return gate_token_rotate(gate, err);
    }
    if (strcmp(question->verb, "list") == 0) {
        note->atype = "listTokenSessions";
        if (argument[0] != 0) {
            split(argument, &name, &db);
            if (db.len == 0)
                return vd_error_set(err, VD_ERR_BAD_VALUE, "of which database?");
            note->subject = name, note->subject_db = db;
            return gate_token_sessions(gate, name, db, &question->json, err);
        }
        return gate_token_sessions(gate, VD_SLICE_NULL, VD_SLICE_NULL, &question->json, err);
    }
    if (argument[0] == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "whose, or which, is missing");
    if (strcmp(question->verb, "revoke-user") == 0) {
        split(argument, &name, &db);
        note->atype = "revokeUserTokens";
        note->subject = name, note->subject_db = db;
        return gate_token_revoke_user(gate, name, db, err);
    }
    note->atype = "revokeToken";
    if (strcmp(question->verb, "revoke") != 0)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND,
                            "verbs are list, revoke, revoke-user, revoke-all");
    if (strchr(argument, '.') != NULL)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "give the jti or sid of a token, not the token: that is a secret");
    note->detail = argument;
    if (is_session(argument))
        return gate_token_revoke_session(gate, argument, err);
    return gate_token_revoke_id(gate, vd_slice_str(argument), 0, err);
}

static void question_run(void *context)
{
    question_t *question = context;
    gate_audit_note_t note = {.atype = "revokeToken", .param = "vedctl tokens"};
    vd_error_t err = VD_ERROR_INIT;
    int rc = act(question, &note, &err);
    note.result = rc;
    if (gate_audit_outside(question->gate, &note, rc == VD_OK ? &err : NULL) != VD_OK &&
        rc == VD_OK)
        (void)vd_error_prefix(&err, "it is done, but the audit log does not have it");
    question->err = err;
}

static void question_done(void *context)
{
    question_t *question = context;
    int code = question->err.code;
    bool list = strcmp(question->verb, "list") == 0;
    question->done(question->context, code,
                   code != VD_OK ? question->err.message
                   : list        ? ""
                                 : "revoked",
                   code == VD_OK ? vd_buf_slice(&question->json) : VD_SLICE_NULL);
    vd_buf_done(&question->json);
    vd_free(question->verb);
    vd_free(question->argument);
    vd_free(question);
}

void gate_token_ask(gate_t *gate, vd_loop_t *loop, vd_slice_t verb, vd_slice_t argument,
                    void (*done)(void *context, int code, const char *message, vd_slice_t json),
                    void *context)
{
    question_t *question = vd_xalloc(sizeof *question);
    *question = (question_t){.gate = gate,
                             .verb = vd_xstrndup(verb.data, verb.len),
                             .argument = vd_xstrndup(argument.data, argument.len),
                             .done = done,
                             .context = context,
                             .err = VD_ERROR_INIT};
    vd_buf_init(&question->json, 2 * GATE_SESSIONS_BYTES);
    if (vd_worker_put(gate->worker, loop, question_run, question_done, question, &question->err) !=
        VD_OK)
        question_done(question);
}
