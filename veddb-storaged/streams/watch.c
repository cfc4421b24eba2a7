/* veddb-storaged/streams/watch.c — see watch.h. */
#include "veddb-storaged/streams/watch.h"

#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/streams/event.h"
#include "veddb-storaged/streams/push.h"

#define PLACES_MAX 1000000

struct stor_watch_place {
    uint64_t touched; /* newest entry read that concerns it */
    stor_watcher_t *first;
};

struct stor_watch {
    stor_storage_t *storage;
    stor_session_t *session;
    stor_request_t *request; /* for what asks for one; of nobody */
    vd_arena_t *arena, *scratch;
    vd_map_t *names;  /* NULL: not begun */
    vd_map_t *places; /* "db\0collection", "db", "" -> stor_watch_place_t */
    uint64_t position, floor;
};

/* What any stream covers. */
static const stor_stream_spec_t everything = {.kind = STOR_STREAM_CLUSTER};

stor_watch_t *stor_watch_create(stor_storage_t *storage)
{
    stor_watch_t *watch = vd_xalloc(sizeof *watch);
    watch->storage = storage;
    watch->arena = vd_arena_create();
    watch->scratch = vd_arena_create();
    watch->request = vd_xalloc(sizeof *watch->request);
    stor_request_init(watch->request, storage, watch->arena);
    return watch;
}

void stor_watch_destroy(stor_watch_t **watch_p)
{
    stor_watch_t *watch = *watch_p;
    if (watch == NULL)
        return;
    stor_watch_end(watch);
    vd_arena_destroy(&watch->arena);
    vd_arena_destroy(&watch->scratch);
    vd_free(watch->request);
    vd_free(watch);
    *watch_p = NULL;
}

int stor_watch_begin(stor_watch_t *watch, stor_session_t *session, uint64_t from, vd_error_t *err)
{
    if (watch->names != NULL)
        return VD_OK;
    watch->session = watch->request->session = session;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_names_load(&everything, watch->request, from, &watch->names, err);
    stor_txn_rollback(session);
    if (rc != VD_OK)
        return rc;
    watch->places = vd_map_create(PLACES_MAX);
    watch->position = watch->floor = from;
    return VD_OK;
}

/* all: also those where streams wait. */
static void places_free(stor_watch_t *watch, bool all)
{
    size_t position = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(watch->places, &position, &key, &value)) {
        const stor_watch_place_t *place = value;
        VD_ASSERT(!all || place->first == NULL);
        if (place->first == NULL)
            vd_free(vd_map_remove(watch->places, key));
    }
}

void stor_watch_end(stor_watch_t *watch)
{
    if (watch->names == NULL)
        return;
    stor_names_free(&watch->names);
    places_free(watch, true);
    vd_map_destroy(&watch->places);
}

bool stor_watch_active(const stor_watch_t *watch)
{
    return watch->names != NULL;
}

uint64_t stor_watch_position(const stor_watch_t *watch)
{
    return watch->position;
}

/* ---- places ---- */

typedef struct {
    uint8_t bytes[VD_NAMESPACE_MAX_BYTES + 1];
    size_t len;
} place_key_t;

/* collection empty: the database; both: everything. False: no such name can be. */
static bool key_make(vd_slice_t db, vd_slice_t collection, place_key_t *ret)
{
    if (db.len + collection.len + 1 > sizeof ret->bytes)
        return false;
    if (db.len > 0)
        memcpy(ret->bytes, db.data, db.len);
    ret->len = db.len;
    if (collection.len > 0) {
        ret->bytes[ret->len++] = 0;
        memcpy(ret->bytes + ret->len, collection.data, collection.len);
        ret->len += collection.len;
    }
    return true;
}

/* NULL: there can't be one. */
static stor_watch_place_t *place_of(stor_watch_t *watch, vd_slice_t db, vd_slice_t collection)
{
    place_key_t key;
    if (!key_make(db, collection, &key))
        return NULL;
    stor_watch_place_t *place = vd_map_get(watch->places, vd_slice(key.bytes, key.len));
    if (place != NULL)
        return place;
    place = vd_xalloc(sizeof *place);
    if (vd_map_put(watch->places, vd_slice(key.bytes, key.len), place, NULL) == VD_OK)
        return place;
    vd_free(place);
    return NULL;
}

static stor_watch_place_t *place_of_stream(stor_watch_t *watch, const stor_stream_t *stream)
{
    const stor_stream_spec_t *spec = stor_stream_spec(stream);
    return place_of(watch, spec->kind == STOR_STREAM_CLUSTER ? VD_SLICE_NULL : spec->db,
                    spec->kind == STOR_STREAM_COLLECTION ? spec->collection : VD_SLICE_NULL);
}

bool stor_watch_add(stor_watch_t *watch, stor_watcher_t *watcher, stor_stream_t *stream,
                    uint64_t seen)
{
    if (watch->names == NULL || seen < watch->floor || stor_stream_seeking(stream))
        return false;
    stor_watch_place_t *place = place_of_stream(watch, stream);
    if (place == NULL || place->touched > seen)
        return false;
    *watcher = (stor_watcher_t){.stream = stream, .seen = seen, .place = place};
    watcher->next = place->first;
    watcher->link = &place->first;
    if (watcher->next != NULL)
        watcher->next->link = &watcher->next;
    place->first = watcher;
    return true;
}

static void leave(stor_watcher_t *watcher, uint64_t looked)
{
    *watcher->link = watcher->next;
    if (watcher->next != NULL)
        watcher->next->link = watcher->link;
    watcher->place = NULL;
    stor_stream_looked(watcher->stream, looked);
}

void stor_watch_remove(stor_watch_t *watch, stor_watcher_t *watcher)
{
    leave(watcher, watch->position);
}

/* ---- reading ---- */

typedef struct {
    stor_watch_t *watch;
    const stor_journal_entry_t *entry;
    void (*woken)(stor_watcher_t *watcher, void *context);
    void *context;
    stor_event_t event; /* of a document's change */
    vd_bson_t facts[2]; /* by showExpandedEvents; made when asked for */
    bool schema;        /* wakes whatever is filtered */
} change_t;

static bool is_dropped(change_t *change, const stor_stream_t *stream)
{
    const stor_push_t *push = stor_stream_push(stream);
    if (change->schema || push == NULL || stor_push_collated(push))
        return false;
    stor_event_t *event = &change->event;
    event->spec = stor_stream_spec(stream);
    vd_bson_t *facts = &change->facts[event->spec->expanded];
    if (facts->data == NULL && stor_event_facts(event, facts) != VD_OK)
        return false;
    event->facts = *facts;
    return stor_push_excludes(push, event);
}

static void place_touch(change_t *change, vd_slice_t db, vd_slice_t collection)
{
    stor_watch_place_t *place = place_of(change->watch, db, collection);
    if (place == NULL)
        return;
    uint64_t timestamp = change->entry->timestamp;
    place->touched = timestamp;
    for (stor_watcher_t *at = place->first, *next; at != NULL; at = next) {
        next = at->next;
        if (timestamp <= at->seen || is_dropped(change, at->stream))
            continue;
        leave(at, timestamp - 1);
        change->woken(at, change->context);
    }
}

static void touch(change_t *change, vd_slice_t db, vd_slice_t collection)
{
    if (db.len == 0)
        return;
    if (collection.len > 0)
        place_touch(change, db, collection);
    place_touch(change, db, VD_SLICE_NULL);
    place_touch(change, VD_SLICE_NULL, VD_SLICE_NULL);
}

static vd_slice_t text_of(vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_NULL;
}

static int change_take(change_t *change, vd_error_t *err)
{
    stor_watch_t *watch = change->watch;
    stor_event_t *event = &change->event;
    const stor_change_t *what = &event->change;
    change->schema = what->kind >= STOR_CHANGE_CREATE;
    change->facts[0] = change->facts[1] = VD_BSON_NONE;
    vd_arena_reset(watch->scratch);
    if (change->schema) {
        touch(change, text_of(what->body, "db"), text_of(what->body, "name"));
        if (what->kind == STOR_CHANGE_RENAME)
            touch(change, text_of(what->body, "toDb"), text_of(what->body, "toName"));
        return stor_names_change(&everything, watch->names, what, false, err);
    }
    if (what->kind != STOR_CHANGE_IMAGE && stor_event_covered(event, watch->names))
        touch(change, event->db, event->name);
    return VD_OK;
}

static int entry_take(change_t *change, vd_error_t *err)
{
    vd_slice_t changes = change->entry->changes;
    vd_error_t step = VD_ERROR_INIT;
    int rc;
    while ((rc = stor_journal_change_next(&changes, &change->event.change, &step)) == VD_OK) {
        rc = change_take(change, &step);
        if (rc != VD_OK)
            break;
    }
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int entries_take(stor_watch_t *watch, uint64_t upto, change_t *change, bool *ret_more,
                        vd_error_t *err)
{
    stor_journal_entry_t entry = {0};
    uint32_t count = 0;
    int rc = VD_OK;
    stor_journal_reader_t *reader =
        stor_journal_reader_open(watch->storage->journal, watch->session, watch->position);
    stor_journal_reader_begin(reader);
    change->entry = change->event.entry = &entry;
    while (rc == VD_OK && count < STOR_WATCH_ENTRIES) {
        rc = stor_journal_reader_next(reader, upto, &entry, err);
        if (rc == VD_OK)
            rc = entry_take(change, err);
        count += rc == VD_OK;
    }
    /* More parts of the last one may follow: it is taken again. */
    if (rc == VD_OK)
        watch->position = entry.timestamp - 1;
    stor_journal_reader_close(&reader);
    atomic_fetch_add_explicit(&watch->storage->streams.watched, count, memory_order_relaxed);
    *ret_more = rc == VD_OK;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

int stor_watch_read(stor_watch_t *watch, uint64_t upto,
                    void (*woken)(stor_watcher_t *watcher, void *context), void *context,
                    bool *ret_more, vd_error_t *err)
{
    VD_ASSERT(watch->names != NULL);
    change_t change = {.watch = watch,
                       .woken = woken,
                       .context = context,
                       .event = {.scratch = watch->scratch, .request = watch->request}};
    change.event.spec = &everything;
    *ret_more = false;
    if (upto <= watch->position)
        return VD_OK;
    int rc = stor_txn_begin(watch->session, err);
    if (rc != VD_OK)
        return rc;
    rc = entries_take(watch, upto, &change, ret_more, err);
    stor_txn_rollback(watch->session);
    if (rc == VD_OK && !*ret_more)
        watch->position = upto;
    if (vd_map_count(watch->places) > STOR_WATCH_PLACES) {
        places_free(watch, false);
        watch->floor = watch->position;
    }
    return rc;
}
