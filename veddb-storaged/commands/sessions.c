/* veddb-storaged/commands/sessions.c — skeleton */
#include "veddb-storaged/commands/table.h"

int stor_command_start_session(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}

int stor_command_refresh_sessions(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}

int stor_command_end_sessions(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}

int stor_command_kill_sessions(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}

int stor_command_kill_all_sessions(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}

int stor_command_kill_all_sessions_by_pattern(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}

int stor_command_transactions_refused(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}
