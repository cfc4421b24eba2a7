/* veddb-storaged/commands/rename.c — skeleton */
#include "veddb-storaged/commands/table.h"

int stor_command_rename_collection(stor_request_t *request, vd_error_t *err)
{
    (void)request;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}
