/* veddb-storaged/engine/fs_faults.c — see the header. */
#include "veddb-storaged/engine/fs_faults.h"

int stor_fs_faults_configure(const char *folder, const char *spec, vd_error_t *err)
{
    (void)folder;
    (void)spec;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "the losing file system is not built");
}
