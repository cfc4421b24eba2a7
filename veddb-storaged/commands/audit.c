/* veddb-storaged/commands/audit.c — _vdAudit: events of the gateway, on disk before the answer. */
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/commands/table.h"

/* {_vdAudit: 1, events: [{atype, ts, ...}, ...]}: internal. */
int stor_command_audit_events(stor_request_t *request, vd_error_t *err)
{
    stor_audit_t *audit = request->storage->audit;
    vd_value_t events = vd_bson_get(request->body, "events");
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (!stor_request_internal(request))
        return vd_error_set(err, VD_ERR_UNAUTHORIZED, "_vdAudit is for the gateway alone");
    if (events.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "events must be an array");
    vd_bson_iter_init(&iter, vd_value_document(events));
    while (audit != NULL && rc == VD_OK && vd_bson_iter_next(&iter)) {
        rc = stor_request_check(request, err);
        if (rc == VD_OK && iter.value.type != VD_BSON_OBJECT)
            rc = vd_error_set(err, VD_ERR_TYPE_MISMATCH, "an event must be a document");
        for (rc = rc == VD_OK ? VD_ERR_WRITE_CONFLICT : rc; rc == VD_ERR_WRITE_CONFLICT;) {
            vd_error_clear(err);
            rc = stor_audit_event(audit, request->session, vd_value_document(iter.value), err);
        }
    }
    request->flush_all = true;
    return rc;
}
