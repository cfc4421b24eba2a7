#include "veddb-storaged/scrub.h"
int stor_scrub_collection(stor_storage_t *storage, stor_session_t *session, uint64_t collection_id,
                          uint32_t pause_us, const atomic_bool *stop,
                          stor_scrub_result_t *ret_result, vd_error_t *err)
{
    (void)storage, (void)session, (void)collection_id, (void)pause_us, (void)stop, (void)ret_result;
    return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "skeleton");
}
