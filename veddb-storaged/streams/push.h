/* veddb-storaged/streams/push.h — the $match behind $changeStream, asked before an event is built.
 *
 * Duty:    says of a change that the filters would surely drop its event. What they ask of
 *          operationType, ns, documentKey, wallTime, clusterTime and of the document of an insert
 *          or a replacement is decided by the journal's entry alone; what needs more is left
 *          open, and then the event is built and the $match decides. So the results are the same
 *          with it and without it, errors of the filter included: nothing behind a part that may
 *          fail counts.
 * Owner:   the pipeline's arena; immutable.
 * Threads: any. A collation that the filter was made for must be in force. */
#pragma once
#include "veddb-storaged/query/filter.h"
#include "veddb-storaged/streams/event.h"

/* The filters in order; all must match. NULL: nothing can be decided. */
stor_push_t *stor_push_make(vd_arena_t *arena, const stor_filter_t *const *filters, uint32_t count);
/* A collation was in force when it was made, and must be again. */
bool stor_push_collated(const stor_push_t *push);
/* False for NULL. Uses event->scratch, and gives it back. */
bool stor_push_excludes(const stor_push_t *push, const stor_event_t *event);
