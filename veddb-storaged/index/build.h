/* veddb-storaged/index/build.h — an index is built while writers go on: the work itself. Who does
 * it, and when it is committed: builds.h.
 *
 * Duty:    one scan for all indexes of a command, in stretches of a snapshot each; entries sorted
 *          (entry_sort.h) and written in one go; then what writers logged meanwhile
 *          (index_private.h has the proof), in passes until little is left; the rest behind the
 *          fence, where they become ready.
 * Writers: those that are as fast as the passes are slowed down (at most 20 ms before each
 *          write), so that every build ends. A replica's applied writes are not.
 * Unique:  while it is built a key may be two documents' for a time. Keys that were ever claimed
 *          twice are remembered, and behind the fence their documents are looked at.
 * Owner:   builds.c.
 * Limits:  STOR_INDEX_SORT_BYTES in memory for each index, STOR_INDEX_CONTESTED_MAX keys claimed
 *          twice.
 * Threads: one at a time. */
#pragma once
#include "veddb-storaged/index/index.h"

#define STOR_INDEX_SORT_BYTES    (64u << 20)
#define STOR_INDEX_CONTESTED_MAX 100000

#define STOR_INDEX_DRAIN_LITTLE 2000  /* entries that may be left for the fence */
#define STOR_INDEX_PAUSE_MAX_US 20000 /* of writers that are as fast as the build */

typedef struct stor_index_build stor_index_build_t;

/* They are in the set, BUILDING (catalog/indexes.h). request: carries storage, session, arena.
 * again: the tables hold what an earlier try has put there; all of the log is still there. */
stor_index_build_t *stor_index_build_create(stor_request_t *request, uint64_t collection_id,
                                            stor_index_t *const *indexes, uint32_t count,
                                            bool again);
void stor_index_build_destroy(stor_index_build_t **build_p);
/* Scan and load. VD_ERR_INDEX_BUILD_ABORTED: cancelled, or the collection is gone; VD_ERR_FULL: too
 * many keys are claimed twice (explain); VD_ERR_INTERRUPTED ... */
VD_MUST_CHECK int stor_index_build_run(stor_index_build_t *build, vd_error_t *err);
/* What was logged meanwhile; again and again. judge: VD_ERR_DUPLICATE_KEY, with MongoDB's message,
 * when documents have the same key now. Writers that were slowed down stay so until let_go. */
VD_MUST_CHECK int stor_index_build_catch_up(stor_index_build_t *build, bool judge, vd_error_t *err);
void stor_index_build_let_go(stor_index_build_t *build);
/* context: the build. Behind the fence: the rest of the log, and unique keys are judged. After an
 * error it may go on with catch_up. */
VD_MUST_CHECK int stor_index_build_last(void *context, vd_error_t *err);
/* The one that carries session and arena from now on; returns the one before. */
stor_request_t *stor_index_build_lend(stor_index_build_t *build, stor_request_t *request);
uint64_t stor_index_build_scanned(const stor_index_build_t *build);
/* Makes VD_ERR_FULL of run or catch_up VD_ERR_DUPLICATE_KEY when there is one now. */
int stor_index_build_explain(stor_index_build_t *build, int rc, vd_error_t *err);

/* Fills empty tables where nobody writes (a load, a repair): no log, no fence. */
VD_MUST_CHECK int stor_index_fill_alone(stor_request_t *request,
                                        const stor_collection_t *collection,
                                        stor_index_t *const *indexes, uint32_t count,
                                        vd_error_t *err);
