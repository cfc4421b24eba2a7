#include "veddb-storaged/keeper.h"
int stor_keeper_start(stor_storage_t *storage, struct vd_daemon *daemon, vd_error_t *err)
{
    (void)storage, (void)daemon, (void)err;
    return VD_OK;
}
void stor_keeper_stop(stor_keeper_t **keeper_p)
{
    *keeper_p = NULL;
}
void stor_keeper_pass(stor_storage_t *storage, stor_session_t *session)
{
    (void)storage, (void)session;
}
