/* veddb-storaged/keeper.h — the thread that keeps things tidy: expiry of cursors and sessions,
 * folding of counters, journal segments, files of dropped tables, scrub.
 *
 * Threads: two, each with its own engine session: a pass every 500 ms, each piece of work bounded;
 *          and the scrub, in its own time, so that a large collection holds up nothing.
 * Disk full: sessions and counters wait for space; journal segments and dropped tables still go. */
#pragma once
#include "veddb-storaged/storaged.h"

struct vd_daemon;
VD_MUST_CHECK int stor_keeper_start(stor_storage_t *storage, struct vd_daemon *daemon,
                                    vd_error_t *err);
void stor_keeper_stop(stor_keeper_t **keeper_p);
/* One pass, on the caller's thread (tests). */
void stor_keeper_pass(stor_storage_t *storage, stor_session_t *session);
