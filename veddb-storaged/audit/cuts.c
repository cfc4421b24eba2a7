/* veddb-storaged/audit/cuts.c — see audit.h: links that storage has cut, as events. Whoever cuts
 * one is a thread that must not wait for the engine: it leaves a note, and the audit link's thread
 * writes it down, one a second at most: a program that comes back and does it again fills no disk.
 */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-storaged/audit/audit_private.h"

#include <stdio.h>

#define TELL_MS 1000

void stor_audit_cut(stor_audit_t *audit, const char *program, const char *why)
{
    VD_ASSERT(program != NULL && why != NULL);

    if (audit == NULL)
        return;
    (void)pthread_mutex_lock(&audit->heads_lock);
    (void)snprintf(audit->cuts.program, sizeof audit->cuts.program, "%s", program);
    (void)snprintf(audit->cuts.why, sizeof audit->cuts.why, "%s", why);
    audit->cuts.count++;
    (void)pthread_mutex_unlock(&audit->heads_lock);
}

static bool take(stor_audit_t *audit, stor_audit_cuts_t *ret_cuts)
{
    uint64_t now = vd_monotonic_ms();
    (void)pthread_mutex_lock(&audit->heads_lock);
    bool due = audit->cuts.count > 0 && now - audit->cuts.told_ms >= TELL_MS;
    if (due) {
        *ret_cuts = audit->cuts;
        audit->cuts.count = 0;
        audit->cuts.told_ms = now;
    }
    (void)pthread_mutex_unlock(&audit->heads_lock);
    return due;
}

void stor_audit_cuts_look(stor_audit_t *audit, stor_session_t *session)
{
    stor_audit_cuts_t cuts;
    vd_bb_t bb;
    vd_bson_t event;
    vd_error_t err = VD_ERROR_INIT;
    if (!take(audit, &cuts))
        return;
    vd_bb_init(&bb, 4096);
    stor_audit_begin(&bb, "linkCut", vd_wall_ms(), VD_SLICE_NULL, VD_SLICE_NULL);
    vd_bb_begin_document(&bb, "param");
    vd_bb_cstr(&bb, "program", cuts.program);
    vd_bb_cstr(&bb, "reason", cuts.why);
    vd_bb_int64(&bb, "count", (int64_t)cuts.count);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", -VD_ERR_PROTOCOL);
    int rc = vd_bb_finish(&bb, &event, &err);
    if (rc == VD_OK)
        rc = stor_audit_event(audit, session, event, &err);
    if (rc != VD_OK)
        vd_log(VD_LOG_ERROR, "a cut link is not in the audit log", "error=\"%s\"", err.message);
    vd_bb_done(&bb);
}
