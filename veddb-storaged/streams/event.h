/* veddb-storaged/streams/event.h — one change of the journal as one of MongoDB's events.
 *
 * Duty:    says whether a stream's scope covers a change, and what the event is called; builds it.
 *          facts: only what stands in the entry and costs little, with the same values as the event
 *          that would be built (push.h looks at these first).
 * Owner:   what it makes lives in `scratch`; slices borrow the entry and the names.
 * Threads: one at a time. */
#pragma once
#include "veddb-storaged/journal.h"
#include "veddb-storaged/streams/names.h"
#include "veddb-storaged/streams/stream.h"

typedef struct {
    const stor_stream_spec_t *spec;
    vd_arena_t *scratch;
    stor_request_t *request; /* for what is looked up; of build */
    const stor_journal_entry_t *entry;
    stor_change_t change;
    stor_token_t token;
    vd_bson_t image; /* the document before; NONE: not kept */
    /* by stor_event_covered */
    const char *type;
    vd_slice_t db, name; /* name empty: a database's event */
    const uint8_t *uuid; /* NULL = none */
    vd_bson_t facts;     /* NONE: not made yet */
    vd_error_t *err;
} stor_event_t;

/* names: of the collections that the stream covers, or more than these. */
bool stor_event_covered(stor_event_t *event, const vd_map_t *names);
/* The stream ends behind it. */
bool stor_event_invalidates(const stor_event_t *event);
/* operationType, clusterTime, collectionUUID, wallTime, txnNumber, lsid, ns and, of a document,
 * documentKey. */
VD_MUST_CHECK int stor_event_facts(const stor_event_t *event, vd_bson_t *ret_facts);
VD_MUST_CHECK int stor_event_build(const stor_event_t *event, vd_bson_t *ret_event);
VD_MUST_CHECK int stor_event_invalidate(vd_arena_t *scratch, const stor_token_t *token,
                                        int64_t wall_ms, vd_bson_t *ret_event, vd_error_t *err);
