/* veddb-storaged/index/builds.h — builds of indexes that are under way: each on a thread of its
 * own, on every member.
 *
 * Life:    begun (rows say that they are built, an entry of the journal says so; that is where it
 *          begins on replicas) -> scan, load, catch up (build.h) -> ready; the others are told ->
 *          committed by the primary (an entry), when enough members have it ready; on replicas that
 *          entry commits it, and waits until the build here is ready, while other jobs of the
 *          applier go on. Or given up by the primary (an entry), by a drop of the collection.
 * Quorum:  what createIndexes asked for is waited for without an end. Nothing asked for: all
 * members that vote, for as long as the build took here and STOR_BUILDS_ALL_MS; then a majority,
 *          for ten times as long and STOR_BUILDS_MAJORITY_MS; then it is committed, and members
 *          that are behind finish their builds where they meet that entry.
 * Role:    looked at whenever something is to be decided, so a build goes on through every change.
 *          Only a primary gives up for a reason of its own (duplicates, disk); a replica tries
 * anew. Restart: the rows say what was built; tables are made anew, and the build begins from the
 * start. Owner:   storage; made with the catalog. Limits: VDP_BUILDS_MAX at once are begun by a
 * primary. Threads: any; each build one, with an engine session. */
#pragma once
#include "proto/replication.h"
#include "veddb-storaged/index/index.h"

#define STOR_BUILDS_ALL_MS      1000
#define STOR_BUILDS_MAJORITY_MS 60000

/* Whether one that is ready may be committed (pure). asked: for a quorum, which is met or not; else
 * who has it ready decides, and for how long we have waited, measured by what the build took here.
 * *ret_alone: no majority has it, and it is committed all the same. */
bool stor_builds_enough(bool asked, bool met, bool majority, uint64_t took_ms, uint64_t waited_ms,
                        bool *ret_alone);

typedef struct stor_builds stor_builds_t;
typedef struct stor_build stor_build_t;

stor_builds_t *stor_builds_create(stor_storage_t *storage);
/* Threads end at their next look; what was begun goes on after the next start. NULL is fine. */
void stor_builds_stop(stor_builds_t *builds);
void stor_builds_destroy(stor_builds_t **builds_p);

/* Those in the sets that nobody works on get a thread (after a start, a copy; keeper). Cheap when
 * there are none, which is so unless unattended was called since. */
void stor_builds_resume(stor_builds_t *builds);
void stor_builds_unattended(stor_builds_t *builds);
uint32_t stor_builds_count(stor_builds_t *builds);
/* Ids of those that are ready here, at most `max`: told to the primary. */
uint32_t stor_builds_ready(stor_builds_t *builds, uint64_t *ret_ids, uint32_t max);

/* They are in the set. *ret_build (may be NULL): for stor_builds_wait, which gives it back. */
VD_MUST_CHECK int stor_builds_begin(stor_builds_t *builds, uint64_t collection_id,
                                    stor_index_t *const *indexes, uint32_t count,
                                    stor_build_t **ret_build, vd_error_t *err);
/* Until it has ended; its error, if it was given up. A request that is killed, or whose time is
 * over, gives the build up; at a change of role, or a client that goes, it goes on alone. Takes
 * *build_p, but when *ret_parked: then the handler returns, and runs again (stor_request_wait) once
 * ready() is true, which looks at stor_build_has_ended; ready NULL: on this thread. */
VD_MUST_CHECK int stor_builds_wait(stor_request_t *request, stor_build_t **build_p,
                                   bool (*ready)(const stor_request_t *request), bool *ret_parked,
                                   vd_error_t *err);
bool stor_build_has_ended(const stor_build_t *build);
/* Who waited will not come again. NULL is fine. */
void stor_build_leave(stor_build_t **build_p);

/* Another quorum for the build that has all of these indexes, while this member leads; a later
 * primary has what createIndexes asked for. VD_ERR_NOT_FOUND: there is no such build. */
VD_MUST_CHECK int stor_builds_quorum_set(stor_builds_t *builds, uint64_t collection_id,
                                         const vd_slice_t *names, uint32_t count, vd_value_t quorum,
                                         vd_error_t *err);

/* A replica commits: the build of that id when it is ready and rests, which it does until
 * release. VD_ERR_AGAIN: not yet; it hurries. VD_ERR_NOT_FOUND: nobody builds it. */
VD_MUST_CHECK int stor_builds_claim(stor_builds_t *builds, uint64_t id, stor_build_t **ret_build,
                                    vd_error_t *err);
/* What is left, behind the fence, with this request's session. */
VD_MUST_CHECK int stor_builds_last(stor_build_t *build, stor_request_t *request, vd_error_t *err);
void stor_builds_release(stor_build_t *build, bool committed);
