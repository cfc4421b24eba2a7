/* veddb-storaged/ttl.h — documents whose time is over, by indexes with expireAfterSeconds.
 *
 * Duty:    once a minute, on a primary: walks each such index over the dates that are past, and
 *          deletes by ordinary journaled deletes, in pieces of at most STOR_TTL_BATCH documents and
 *          STOR_TTL_PASS_MAX an index and pass (a pass that leaves some is followed by the next at
 *          once). An array expires by its earliest date; what is no date never expires; a hidden
 *          index expires as others do; one on _id or of several fields is no TTL index.
 * Owner:   the keeper's ttl thread, with a session of its own. */
#pragma once
#include "veddb-storaged/storaged.h"

#define STOR_TTL_PERIOD_MS 60000
#define STOR_TTL_BATCH     100
#define STOR_TTL_PASS_MAX  50000

/* One pass over all collections; *ret_more: it left some. stop: may be NULL. */
VD_MUST_CHECK int stor_ttl_pass(stor_storage_t *storage, stor_session_t *session,
                                const atomic_bool *stop, bool *ret_more, vd_error_t *err);
