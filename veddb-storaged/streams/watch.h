/* veddb-storaged/streams/watch.h — one look at the journal for all streams that wait.
 *
 * Duty:    streams at rest are kept by what they can see: the name of a collection, of a database,
 *          or everything. A read of new entries finds, for each change, the streams of its
 *          collection, of its database and of the cluster, asks their pushed filters, and names
 *          those that have something to read. The others are not touched, however many they are;
 *          whenever one leaves it is told how far it was looked for.
 * Owner:   whoever waits; a watcher is embedded in what waits, and its stream is used by nobody
 *          else meanwhile.
 * Limits:  STOR_WATCH_ENTRIES a read; places without a watcher are forgotten above
 *          STOR_WATCH_PLACES: then a stream that comes from before that must look itself.
 * Threads: one. */
#pragma once
#include "veddb-storaged/streams/stream.h"

#define STOR_WATCH_ENTRIES 10000
#define STOR_WATCH_PLACES  10000

typedef struct stor_watch stor_watch_t;
typedef struct stor_watch_place stor_watch_place_t;

typedef struct stor_watcher {
    stor_stream_t *stream;
    uint64_t seen; /* entries at or below were looked at by the stream itself */
    stor_watch_place_t *place;
    struct stor_watcher *next, **link;
} stor_watcher_t;

stor_watch_t *stor_watch_create(stor_storage_t *storage);
/* No watcher is left. */
void stor_watch_destroy(stor_watch_t **watch_p);
/* It reads from `from` on, unless it does so from somewhere already. In no transaction. */
VD_MUST_CHECK int stor_watch_begin(stor_watch_t *watch, stor_session_t *session, uint64_t from,
                                   vd_error_t *err);
/* Nothing is known any more; watchers are to be removed before. */
void stor_watch_end(stor_watch_t *watch);
bool stor_watch_active(const stor_watch_t *watch);
uint64_t stor_watch_position(const stor_watch_t *watch);
/* False: not taken, as there may be something for it, or it must look itself. */
bool stor_watch_add(stor_watch_t *watch, stor_watcher_t *watcher, stor_stream_t *stream,
                    uint64_t seen);
/* Its stream goes on behind what was looked at for it. */
void stor_watch_remove(stor_watch_t *watch, stor_watcher_t *watcher);
/* New entries up to `upto`, which was sampled before. Those woken are removed before they are
 * named. *ret_more: there are more than one read takes. An error: begin anew. */
VD_MUST_CHECK int stor_watch_read(stor_watch_t *watch, uint64_t upto,
                                  void (*woken)(stor_watcher_t *watcher, void *context),
                                  void *context, bool *ret_more, vd_error_t *err);
