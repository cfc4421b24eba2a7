/* veddb-storaged/streams/stream.c — see stream.h. */
#include "veddb-storaged/streams/stream.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/streams/event.h"
#include "veddb-storaged/streams/push.h"

struct stor_stream {
    stor_storage_t *storage;
    stor_stream_spec_t spec;
    const stor_push_t *push; /* NULL: no filter */
    vd_map_t *names;
    vd_arena_t *scratch; /* of the event last given */
    stor_token_t at;
    uint64_t first;   /* entries below are no events of it */
    uint64_t scanned; /* entries at or below are done with */
    bool seeking;     /* the token's event is still to come */
    bool ended;
    /* an invalidation is due behind `at` */
    bool invalidate;
    int64_t invalidate_wall_ms;

    /* while a batch is filled */
    stor_session_t *session;
    stor_journal_reader_t *reader;
    uint64_t upto;
    bool inside; /* of an entry */
    stor_journal_entry_t entry;
    vd_slice_t changes;
    uint32_t number;
    vd_bson_t image; /* of the change that comes */
};

static int lost(stor_request_t *request, vd_error_t *err)
{
    atomic_fetch_add_explicit(&request->storage->streams.expired, 1, memory_order_relaxed);
    return vd_error_set(err, VD_ERR_CHANGE_STREAM_HISTORY_LOST,
                        "Resume of change stream was not possible, as the resume point may no "
                        "longer be in the oplog.");
}

static int not_found(vd_error_t *err, const stor_token_t *token)
{
    char digits[STOR_TOKEN_DIGITS + 1];
    stor_token_write(token, digits);
    return vd_error_set(err, VD_ERR_CHANGE_STREAM_FATAL_ERROR,
                        "cannot resume stream; the resume token was not found. {_data: \"%s\"}",
                        digits);
}

int stor_stream_open(vd_arena_t *arena, stor_request_t *request, const stor_stream_spec_t *spec,
                     const stor_push_t *push, stor_stream_t **ret_stream, vd_error_t *err)
{
    stor_stream_t *stream = VD_ARENA_NEW(arena, stor_stream_t);
    stor_journal_stats_t stats;
    stream->storage = request->storage;
    stream->spec = *spec;
    stream->push = push;
    uint64_t newest = stor_engine_newest(request->storage->engine);
    uint64_t first = spec->has_token         ? spec->token.timestamp
                     : spec->start_time != 0 ? spec->start_time
                                             : newest + 1;
    stream->first = first;
    stream->scanned = first == 0 ? 0 : first - 1;
    if (stream->scanned > newest) /* until then there may be other names */
        stream->scanned = newest;
    stream->at = spec->has_token ? spec->token : stor_token_mark(first);
    stream->seeking = spec->has_token && spec->token.event;
    stor_journal_stats(request->storage->journal, &stats);
    if (stream->scanned < stats.oldest)
        return lost(request, err);
    int rc = stor_txn_begin(request->session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_names_load(&stream->spec, request, stream->scanned, &stream->names, err);
    stor_txn_rollback(request->session);
    if (rc != VD_OK)
        return rc;
    stream->scratch = vd_arena_create();
    atomic_fetch_add(&request->storage->streams.open, 1);
    *ret_stream = stream;
    return VD_OK;
}

void stor_stream_release(stor_stream_t *stream)
{
    if (stream->session == NULL)
        return;
    stor_journal_reader_close(&stream->reader);
    if (stor_txn_active(stream->session))
        stor_txn_rollback(stream->session);
    stream->session = NULL;
    stream->inside = false;
}

void stor_stream_close(stor_stream_t **stream_p)
{
    stor_stream_t *stream = *stream_p;
    if (stream == NULL)
        return;
    stor_names_free(&stream->names);
    vd_arena_destroy(&stream->scratch);
    atomic_fetch_sub(&stream->storage->streams.open, 1);
    *stream_p = NULL;
}

bool stor_stream_ended(const stor_stream_t *stream)
{
    return stream->ended;
}

void stor_stream_fragment(stor_stream_t *stream, uint8_t fragment)
{
    stream->at.fragment = fragment;
}

const stor_token_t *stor_stream_token(const stor_stream_t *stream)
{
    return stream->spec.has_token ? &stream->spec.token : NULL;
}

const stor_token_t *stor_stream_at(const stor_stream_t *stream)
{
    return &stream->at;
}

const stor_stream_spec_t *stor_stream_spec(const stor_stream_t *stream)
{
    return &stream->spec;
}

const stor_push_t *stor_stream_push(const stor_stream_t *stream)
{
    return stream->push;
}

bool stor_stream_seeking(const stor_stream_t *stream)
{
    return stream->seeking;
}

void stor_stream_looked(stor_stream_t *stream, uint64_t upto)
{
    if (!stream->seeking && upto > stream->scanned)
        stream->scanned = upto;
}

uint64_t stor_stream_scanned(const stor_stream_t *stream)
{
    return stream->scanned;
}

static int invalidate_build(stor_stream_t *stream, vd_bson_t *ret_event, vd_error_t *err)
{
    stream->at.invalidate = true;
    stream->at.fragment = 0;
    stream->invalidate = false;
    stream->ended = true;
    return stor_event_invalidate(stream->scratch, &stream->at, stream->invalidate_wall_ms,
                                 ret_event, err);
}

/* ---- reading ---- */

static int batch_begin(stor_stream_t *stream, stor_request_t *request, vd_error_t *err)
{
    /* Sampled first: the snapshot then shows all that lies below. */
    stream->upto = stor_replication_majority(request->storage);
    int rc = stor_txn_begin(request->session, err);
    if (rc != VD_OK)
        return rc;
    stream->session = request->session;
    stream->reader =
        stor_journal_reader_open(request->storage->journal, request->session, stream->scanned);
    stor_journal_reader_begin(stream->reader);
    stream->inside = false;
    return VD_OK;
}

/* Everything up to the majority point was looked at. */
static int caught_up(stor_stream_t *stream, vd_error_t *err)
{
    if (stream->upto > stream->scanned)
        stream->scanned = stream->upto;
    if (stream->seeking && stream->scanned >= stream->spec.token.timestamp)
        return not_found(err, &stream->spec.token);
    stor_token_t mark = stor_token_mark(stream->scanned);
    if (!stream->seeking && stor_token_compare(&mark, &stream->at) > 0)
        stream->at = mark;
    return VD_ERR_NOT_FOUND;
}

/* The next entry; VD_ERR_NOT_FOUND: none now. */
static int entry_next(stor_stream_t *stream, stor_request_t *request, vd_error_t *err)
{
    int rc = stor_journal_reader_next(stream->reader, stream->upto, &stream->entry, err);
    if (rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST)
        return lost(request, err);
    if (rc != VD_OK)
        return rc;
    atomic_fetch_add_explicit(&request->storage->streams.entries, 1, memory_order_relaxed);
    stream->inside = true;
    stream->changes = stream->entry.changes;
    stream->number = 0;
    stream->image = VD_BSON_NONE;
    stream->scanned = stream->entry.timestamp - 1;
    return VD_OK;
}

/* The next change: *ret_found false: none now. */
static int change_next(stor_stream_t *stream, stor_event_t *event, bool *ret_found)
{
    *ret_found = false;
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = VD_OK;
        if (!stream->inside) {
            rc = entry_next(stream, event->request, &step);
            if (rc == VD_ERR_NOT_FOUND)
                return VD_OK;
        }
        if (rc == VD_OK)
            rc = stor_request_check(event->request, &step);
        if (rc == VD_OK)
            rc = stor_journal_change_next(&stream->changes, &event->change, &step);
        if (rc == VD_ERR_NOT_FOUND) {
            stream->inside = false;
            continue;
        }
        if (rc != VD_OK) {
            if (event->err != NULL)
                vd_error_copy(&step, event->err);
            return rc;
        }
        event->token = (stor_token_t){.timestamp = stream->entry.timestamp,
                                      .event = true,
                                      .part = stream->entry.part,
                                      .number = stream->number++};
        if (event->change.kind == STOR_CHANGE_IMAGE) {
            stream->image = event->change.body;
            continue;
        }
        event->image = stream->image;
        stream->image = VD_BSON_NONE;
        *ret_found = true;
        return VD_OK;
    }
}

/* The stream is now behind this event. */
static void passed(stor_stream_t *stream, const stor_event_t *event)
{
    stream->at = event->token;
    stream->invalidate = stor_event_invalidates(event);
    stream->invalidate_wall_ms = stream->entry.wall_ms;
}

/* While the token's event is looked for. VD_OK: it is this one, or is still to come. *ret_again:
 * one of its fragments was asked for, so that it is given once more. */
static int seek(stor_stream_t *stream, const stor_event_t *event, bool *ret_again)
{
    const stor_token_t *token = &stream->spec.token;
    stor_token_t wanted = *token;
    wanted.invalidate = false;
    wanted.fragment = 0;
    int order = stor_token_compare(&event->token, &wanted);
    if (order < 0)
        return VD_OK;
    if (order > 0 || event->token.about != wanted.about ||
        (token->invalidate && !stor_event_invalidates(event)))
        return not_found(event->err, token);
    stream->seeking = false;
    *ret_again = token->fragment != 0;
    passed(stream, event);
    stream->at = *token;
    stream->invalidate = stream->invalidate && !token->invalidate;
    return VD_OK;
}

static void about(stor_event_t *event)
{
    vd_slice_t uuid = event->uuid != NULL ? vd_slice(event->uuid, 16) : event->db;
    vd_slice_t key = event->change.kind < STOR_CHANGE_CREATE
                         ? vd_slice(event->change.id.data, event->change.id.len)
                         : vd_slice_str(event->type);
    event->token.about = stor_token_about(uuid, key);
}

/* One that the stream covers and is not behind: is built, unless the filter says that it would be
 * dropped. */
static int give(stor_stream_t *stream, const stor_event_t *event, bool *ret_given,
                vd_bson_t *ret_event)
{
    if (stor_push_excludes(stream->push, event)) {
        atomic_fetch_add_explicit(&event->request->storage->streams.filtered, 1,
                                  memory_order_relaxed);
        passed(stream, event);
        return VD_OK;
    }
    int rc = stor_event_build(event, ret_event);
    if (rc == VD_OK) {
        *ret_given = true;
        passed(stream, event);
    }
    return rc;
}

/* One change: *ret_given: it became an event. */
static int step(stor_stream_t *stream, stor_event_t *event, bool *ret_given, vd_bson_t *ret_event)
{
    stor_token_t at = stream->at;
    bool again = false;
    int rc = VD_OK;
    at.invalidate = false;
    at.fragment = 0;
    *ret_given = false;
    if (stor_event_covered(event, stream->names)) {
        bool seeking = stream->seeking;
        about(event);
        if (seeking)
            rc = seek(stream, event, &again);
        if (rc == VD_OK && stream->entry.timestamp >= stream->first &&
            (again || (!seeking && (!at.event || stor_token_compare(&event->token, &at) > 0))))
            rc = give(stream, event, ret_given, ret_event);
    }
    if (rc == VD_OK && event->change.kind >= STOR_CHANGE_CREATE)
        rc = stor_names_change(&stream->spec, stream->names, &event->change, false, event->err);
    return rc;
}

int stor_stream_next(stor_stream_t *stream, stor_request_t *request, vd_bson_t *ret_event,
                     vd_error_t *err)
{
    int rc = stor_request_check(request, err);
    if (rc == VD_OK && stream->ended)
        return VD_ERR_NOT_FOUND;
    vd_arena_reset(stream->scratch);
    if (rc == VD_OK && stream->session == NULL)
        rc = batch_begin(stream, request, err);
    while (rc == VD_OK) {
        stor_event_t event = {.spec = &stream->spec,
                              .scratch = stream->scratch,
                              .request = request,
                              .entry = &stream->entry,
                              .err = err};
        bool found, given;
        if (stream->invalidate)
            return invalidate_build(stream, ret_event, err);
        rc = change_next(stream, &event, &found);
        if (rc == VD_OK && !found)
            return caught_up(stream, err);
        if (rc == VD_OK)
            rc = step(stream, &event, &given, ret_event);
        if (rc == VD_OK && given)
            return VD_OK;
    }
    return rc;
}
