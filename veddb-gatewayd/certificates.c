/* veddb-gatewayd/certificates.c — see certificates.h. */
#include "veddb-gatewayd/certificates.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/audit.h"
#include "veddb-gatewayd/conn.h"

#define DAY_S           86400
#define WARN_S          (30 * DAY_S)
#define AGAIN_MS        (DAY_S * 1000ull)
#define STAPLE_AGAIN_MS 3600000ull

static void check_conns(void *context)
{
    gate_thread_t *thread = context;
    VD_LIST_EACH(&thread->conns, node)
    {
        gate_conn_check_certificate(VD_CONTAINER_OF(node, gate_conn_t, node));
    }
}

int gate_certificates_reload(gate_t *gate, vd_error_t *err)
{
    int rc = vd_tls_reload(gate->tls, err);
    if (rc == VD_OK && gate->oidc != NULL)
        rc = gate_oidc_reload(gate->oidc, err);
    if (rc != VD_OK)
        return rc;
    vd_log(VD_LOG_INFO, "certificates were read again", "expires_in_days=%lld",
           (long long)(vd_tls_expires_in_s(gate->tls) / DAY_S));
    atomic_store(&gate->certificate_warned_ms, 0);
    atomic_store(&gate->staple_warned_ms, 0);
    for (uint32_t i = 0; i < gate->thread_count; i++)
        vd_loop_post(gate->threads[i]->loop, check_conns, gate->threads[i]);
    return VD_OK;
}

typedef struct {
    gate_t *gate;
    void (*done)(void *context, int code, const char *message);
    void *context;
    vd_error_t err;
} question_t;

static void question_run(void *context)
{
    question_t *question = context;
    gate_t *gate = question->gate;
    int rc = gate_certificates_reload(gate, &question->err);
    if (rc == VD_OK) {
        vd_error_clear(&question->err);
        gate_audit_note(gate, "certificateReload", VD_OK, "ends in %lld days",
                        (long long)(vd_tls_expires_in_s(gate->tls) / DAY_S));
    } else {
        gate_audit_note(gate, "certificateReload", rc, "%s", question->err.message);
    }
}

static void question_done(void *context)
{
    question_t *question = context;
    int code = question->err.code;
    question->done(question->context, code,
                   code == VD_OK ? "certificates were read again" : question->err.message);
    vd_free(question);
}

void gate_certificates_ask(gate_t *gate, vd_loop_t *loop,
                           void (*done)(void *context, int code, const char *message),
                           void *context)
{
    question_t *question = vd_xalloc(sizeof *question);
    *question = (question_t){gate, done, context, VD_ERROR_INIT};
    if (vd_worker_put(gate->worker, loop, question_run, question_done, question, &question->err) !=
        VD_OK)
        question_done(question);
}

/* Whether it is time to warn (again); then it is noted. */
static bool warning_is_due(_Atomic uint64_t *warned_ms, uint64_t again_ms)
{
    uint64_t now = vd_monotonic_ms(), warned = atomic_load(warned_ms);
    if (warned != 0 && now < warned + again_ms)
        return false;
    atomic_store(warned_ms, now);
    return true;
}

/* Whoever fetches the OCSP responses seems to have stopped. */
static void staple_tick(gate_t *gate)
{
    bool soon;
    int64_t left = vd_tls_staple_expires_in_s(gate->tls, &soon);
    if (!soon || !warning_is_due(&gate->staple_warned_ms, STAPLE_AGAIN_MS))
        return;
    gate_audit_note(gate, "certificateExpires", VD_OK, "the OCSP response ends in %lld minutes",
                    (long long)(left / 60));
    vd_log(VD_LOG_WARN,
           left > 0 ? "the OCSP response ends soon: vedctl reload certs takes a new one"
                    : "the OCSP response is out of date: clients get none",
           "ends_in_minutes=%lld", (long long)(left / 60));
}

void gate_certificates_tick(gate_t *gate)
{
    staple_tick(gate);
    int64_t left = vd_tls_expires_in_s(gate->tls);
    if (left > WARN_S || !warning_is_due(&gate->certificate_warned_ms, AGAIN_MS))
        return;
    gate_audit_note(gate, "certificateExpires", VD_OK, "the server certificate ends in %lld hours",
                    (long long)(left / 3600));
    vd_log(VD_LOG_WARN,
           left > 0 ? "the server certificate expires soon: vedctl reload certs takes a new one"
                    : "the server certificate has expired: clients will refuse it",
           "expires_in_hours=%lld", (long long)(left / 3600));
}
