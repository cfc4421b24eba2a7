/* veddb-storaged/commands/find_tail.h — tailable cursors on capped collections.
 *
 * Duty:    a cursor that stays behind the last document: a getMore goes on with what was inserted
 *          since. It reads up to what is visible (no hole below), so nothing that commits later can
 *          come in front of its place. With awaitData a getMore that finds nothing waits without a
 *          worker (streams/waits.h). Ends when the collection was empty from the start, or with
 *          VD_ERR_CAPPED_POSITION_LOST when its last document is gone.
 * Threads: as other cursors (cursors.h). */
#pragma once
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/cursors.h"

/* As MongoDB allows it: the sort, hint and place of a tailable find. collection NULL: there is
 * none.
 */
VD_MUST_CHECK int stor_tail_check(const stor_request_t *request, const stor_query_parts_t *parts,
                                  bool single_batch, const stor_collection_t *collection,
                                  vd_error_t *err);
typedef struct {
    uint64_t collection_id;
    int64_t batch_size;
    bool awaits, no_timeout;
} stor_tail_options_t;
/* The first batch; body and spec live in the arena, which is taken. */
VD_MUST_CHECK int stor_tail_open(stor_request_t *request, const stor_tail_options_t *options,
                                 const stor_query_spec_t *spec, vd_bson_t body,
                                 vd_arena_t **arena_p, vd_error_t *err);
