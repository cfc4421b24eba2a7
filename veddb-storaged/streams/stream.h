/* veddb-storaged/streams/stream.h — one change stream: the journal's entries up to the majority
 * point, as MongoDB's events.
 *
 * Duty:    parse checks the options of $changeStream and the namespace; open finds where to begin
 *          and what the collections were called there (names.h); next gives one event after the
 *          other. It tells the events that its scope covers, applies no pipeline, and stops behind
 *          an invalidation. A place is a resume token (token.h); nothing of it is this node's.
 * Owner:   the client cursor's arena; close frees the rest. Between batches release ends the
 *          transaction: a stream at rest holds names and a place, no engine resource.
 * Errors:  ChangeStreamHistoryLost (286) where the journal was cut, ChangeStreamFatalError (280)
 *          where the token's event is not in this stream, NoMatchingDocument (47) where an image
 *          is required and not there.
 * Threads: one at a time. */
#pragma once
#include "veddb-storaged/request.h"
#include "veddb-storaged/streams/token.h"

typedef struct stor_stream stor_stream_t;
typedef struct stor_push stor_push_t; /* push.h */

typedef enum {
    STOR_STREAM_COLLECTION,
    STOR_STREAM_DATABASE,
    STOR_STREAM_CLUSTER
} stor_stream_kind_t;
typedef enum {
    STOR_IMAGE_NONE,
    STOR_IMAGE_LOOKUP,
    STOR_IMAGE_AVAILABLE,
    STOR_IMAGE_REQUIRED
} stor_image_t;

typedef struct {
    stor_stream_kind_t kind;
    vd_slice_t db, collection;
    stor_image_t after, before; /* fullDocument, fullDocumentBeforeChange */
    bool expanded;
    bool has_token, start_after;
    stor_token_t token;
    uint64_t start_time; /* 0 = none */
} stor_stream_spec_t;

/* collection empty: aggregate: 1. Slices are borrowed. */
VD_MUST_CHECK int stor_stream_parse(vd_value_t options, vd_slice_t db, vd_slice_t collection,
                                    stor_stream_spec_t *ret_spec, vd_error_t *err);
/* push: of the $match stages that follow, or NULL; lives as long. */
VD_MUST_CHECK int stor_stream_open(vd_arena_t *arena, stor_request_t *request,
                                   const stor_stream_spec_t *spec, const stor_push_t *push,
                                   stor_stream_t **ret_stream, vd_error_t *err);
/* VD_ERR_NOT_FOUND: nothing more now. The document is valid until the next call. */
VD_MUST_CHECK int stor_stream_next(stor_stream_t *stream, stor_request_t *request,
                                   vd_bson_t *ret_event, vd_error_t *err);
void stor_stream_release(stor_stream_t *stream);
void stor_stream_close(stor_stream_t **stream_p);
/* An invalidation was given: there is no more. */
bool stor_stream_ended(const stor_stream_t *stream);
/* The event last given is told in fragments, and this is the one now told. */
void stor_stream_fragment(stor_stream_t *stream, uint8_t fragment);
/* By which it was opened; NULL: by none. */
const stor_token_t *stor_stream_token(const stor_stream_t *stream);
/* Of the last event given, or a mark at what was looked through. */
const stor_token_t *stor_stream_at(const stor_stream_t *stream);
/* For those who look on its behalf while it rests (watch.h): what it can see, ... */
const stor_stream_spec_t *stor_stream_spec(const stor_stream_t *stream);
const stor_push_t *stor_stream_push(const stor_stream_t *stream);
bool stor_stream_seeking(const stor_stream_t *stream); /* its token's event is still to come */
/* ... and up to where there was nothing for it. */
void stor_stream_looked(stor_stream_t *stream, uint64_t upto);
/* Everything up to here was looked at. */
uint64_t stor_stream_scanned(const stor_stream_t *stream);
