/* tests/unit/storaged/test_streams.c — change streams over random histories: a filter that is
 * pushed into the stream gives what the same filter behind it gives; every token resumes exactly
 * behind its event; a stream that the watch does not wake has nothing to read. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/streams/push.h"
#include "veddb-storaged/streams/watch.h"

#define EVENTS_MAX 4000

static const char *const databases[] = {"x", "y"};
static const char *const names[] = {"c0", "c1", "c2"};

/* ---- a history ---- */

static const char *document(reads_t *reads, vd_rand_t *rand)
{
    int id = (int)vd_rand_below(rand, 8), n = (int)vd_rand_below(rand, 3);
    switch (vd_rand_below(rand, 4)) {
    case 0:
        return vd_arena_printf(reads->texts, "{'_id': %d, 'a': %d, 's': 'abc'}", id, n);
    case 1:
        return vd_arena_printf(reads->texts, "{'_id': %d, 'a': %d, 'l': [1, 2, {'b': 3}]}", id, n);
    case 2:
        return vd_arena_printf(reads->texts, "{'_id': %d, 'l': [%d], 'o': {'a': 1}}", id, n);
    default:
        return vd_arena_printf(reads->texts, "{'_id': %d, 'a': null, 'n': %d}", id, n);
    }
}

static const char *update(reads_t *reads, vd_rand_t *rand)
{
    int n = (int)vd_rand_below(rand, 3);
    switch (vd_rand_below(rand, 4)) {
    case 0:
        return vd_arena_printf(reads->texts, "{'$set': {'a': %d}}", n);
    case 1:
        return vd_arena_printf(reads->texts, "{'$unset': {'a': ''}, '$inc': {'n': %d}}", n);
    case 2:
        return vd_arena_printf(reads->texts, "{'$push': {'l': %d}}", n);
    default:
        return vd_arena_printf(reads->texts, "[{'$set': {'o': {'a': '$a', 'd': %d}}}]", n);
    }
}

static const char *change_command(reads_t *reads, vd_rand_t *rand, const char *name)
{
    int id = (int)vd_rand_below(rand, 8);
    switch (vd_rand_below(rand, 5)) {
    case 0:
    case 1:
        return vd_arena_printf(reads->texts,
                               "{'insert': '%s', 'ordered': false, 'documents': [%s, %s]}", name,
                               document(reads, rand), document(reads, rand));
    case 2:
        return vd_arena_printf(reads->texts,
                               "{'update': '%s', 'updates': [{'q': {'_id': %d}, 'u': {'r': 1}}]}",
                               name, id);
    case 3:
        return vd_arena_printf(reads->texts,
                               "{'delete': '%s', 'deletes': [{'q': {'_id': %d}, 'limit': 1}]}",
                               name, id);
    default: {
        const char *how = update(reads, rand);
        bool multi = how[0] == '{';
        return vd_arena_printf(
            reads->texts,
            "{'update': '%s', 'updates': [{'q': {'_id': {'$gte': %d}}, 'u': %s, 'multi': %s}]}",
            name, id, how, multi ? "true" : "false");
    }
    }
}

static const char *schema_command(reads_t *reads, vd_rand_t *rand, const char *db, const char *name)
{
    const char *to = names[vd_rand_below(rand, VD_COUNT_OF(names))];
    switch (vd_rand_below(rand, 5)) {
    case 0:
        return vd_arena_printf(reads->texts, "{'drop': '%s'}", name);
    case 1:
        return vd_arena_printf(reads->texts,
                               "{'renameCollection': '%s.%s', 'to': '%s.%s', 'dropTarget': %s}", db,
                               name, db, to, vd_rand_below(rand, 2) == 0 ? "true" : "false");
    case 2:
        return "{'dropDatabase': 1}";
    case 3:
        return vd_arena_printf(
            reads->texts, "{'createIndexes': '%s', 'indexes': [{'key': {'a': 1}, 'name': 'a'}]}",
            name);
    default:
        return vd_arena_printf(
            reads->texts, "{'create': '%s', 'changeStreamPreAndPostImages': {'enabled': true}}",
            name);
    }
}

/* Commands that fail (a name that is taken, an _id that is there) are part of it. */
static void history(reads_t *reads, vd_rand_t *rand, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const char *db = databases[vd_rand_below(rand, VD_COUNT_OF(databases))];
        const char *name = names[vd_rand_below(rand, VD_COUNT_OF(names))];
        bool schema = vd_rand_below(rand, 12) == 0;
        const char *command =
            schema ? schema_command(reads, rand, db, name) : change_command(reads, rand, name);
        (void)reads_run(reads, strstr(command, "renameCollection") != NULL ? "admin" : db, command);
    }
    while (stor_engine_durable(reads->storage.engine) < stor_engine_newest(reads->storage.engine))
        usleep(500);
}

/* ---- streams ---- */

typedef struct {
    vd_bson_t events[EVENTS_MAX];
    uint32_t count;
    int rc; /* that ended it: VD_ERR_NOT_FOUND, or an error */
    stor_token_t at;
} told_t;

static stor_stream_spec_t random_spec(vd_rand_t *rand, uint64_t start)
{
    static const stor_image_t after[] = {STOR_IMAGE_NONE, STOR_IMAGE_LOOKUP, STOR_IMAGE_AVAILABLE};
    return (stor_stream_spec_t){
        .kind = (stor_stream_kind_t)vd_rand_below(rand, 3),
        .db = vd_slice_str(databases[vd_rand_below(rand, VD_COUNT_OF(databases))]),
        .collection = vd_slice_str(names[vd_rand_below(rand, VD_COUNT_OF(names))]),
        .after = after[vd_rand_below(rand, VD_COUNT_OF(after))],
        .before = vd_rand_below(rand, 2) == 0 ? STOR_IMAGE_NONE : STOR_IMAGE_AVAILABLE,
        .expanded = vd_rand_below(rand, 2) == 0,
        .start_time = start,
    };
}

static stor_stream_t *stream_open(reads_t *reads, vd_arena_t *arena, const stor_stream_spec_t *spec,
                                  const stor_push_t *push)
{
    vd_error_t err = VD_ERROR_INIT;
    stor_stream_t *stream;
    reads_begin(reads, "x");
    reads_ok(stor_stream_open(arena, &reads->request, spec, push, &stream, &err), &err);
    return stream;
}

/* What there is now, through the filters (NULL: all of it). */
static void stream_read(reads_t *reads, vd_arena_t *arena, stor_stream_t *stream,
                        const stor_filter_t *const *filters, uint32_t filter_count, told_t *told)
{
    static const stor_variables_t variables;
    vd_arena_t *scratch = vd_arena_create();
    int rc;
    reads_begin(reads, "x");
    for (;;) {
        vd_bson_t event;
        bool matches = true;
        rc = stor_stream_next(stream, &reads->request, &event, NULL);
        vd_arena_reset(scratch);
        for (uint32_t i = 0; rc == VD_OK && matches && i < filter_count; i++) {
            stor_match_t state = {.arena = scratch, .variables = &variables};
            rc = stor_match_document(filters[i], event, &state, &matches, NULL);
        }
        if (rc != VD_OK)
            break;
        if (!matches)
            continue;
        cr_assert_lt(told->count, EVENTS_MAX);
        told->events[told->count++] =
            (vd_bson_t){vd_arena_copy(arena, event.data, event.len), event.len};
    }
    told->rc = rc;
    told->at = *stor_stream_at(stream);
    stor_stream_release(stream);
    vd_arena_destroy(&scratch);
}

static told_t *told_by(reads_t *reads, vd_arena_t *arena, const stor_stream_spec_t *spec,
                       const stor_push_t *push, const stor_filter_t *const *filters,
                       uint32_t filter_count)
{
    told_t *told = VD_ARENA_NEW(arena, told_t);
    stor_stream_t *stream = stream_open(reads, arena, spec, push);
    stream_read(reads, arena, stream, filters, filter_count, told);
    stor_stream_close(&stream);
    return told;
}

static void same(const told_t *a, uint32_t a_from, const told_t *b, vd_arena_t *arena,
                 const char *what)
{
    cr_assert_eq(a->count - a_from, b->count, "%s: %u events, not %u", what, b->count,
                 a->count - a_from);
    for (uint32_t i = 0; i < b->count; i++) {
        vd_bson_t x = a->events[a_from + i], y = b->events[i];
        cr_assert(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, "%s: %s, not %s", what,
                  vd_bson_to_json(arena, y, 2000), vd_bson_to_json(arena, x, 2000));
    }
    cr_assert_eq(a->rc, b->rc, "%s: ends with %d, not %d", what, -b->rc, -a->rc);
}

/* ---- filters ---- */

static const char *const leaves[] = {
    "{'operationType': 'insert'}",
    "{'operationType': {'$in': ['update', 'delete']}}",
    "{'operationType': {'$ne': 'replace'}}",
    "{'operationType': {'$not': {'%regex': '^dr'}}}",
    "{'ns.coll': 'c1'}",
    "{'ns': {'db': 'x', 'coll': 'c0'}}",
    "{'ns.db': {'$gt': 'x'}}",
    "{'documentKey._id': {'$lt': 4}}",
    "{'documentKey': {'_id': 3}}",
    "{'documentKey._id': {'$exists': false}}",
    "{'fullDocument.a': 1}",
    "{'fullDocument.a': {'$exists': false}}",
    "{'fullDocument.a': null}",
    "{'fullDocument.l.0': 1}",
    "{'fullDocument.l': {'$elemMatch': {'$gt': 1}}}",
    "{'fullDocument.l.b': 3}",
    "{'fullDocument.s': {'%regex': '^a'}}",
    "{'fullDocument': null}",
    "{'fullDocument': {'$exists': true}}",
    "{'fullDocumentBeforeChange.a': {'$gte': 1}}",
    "{'fullDocumentBeforeChange': {'$exists': true}}",
    "{'updateDescription.updatedFields.a': 1}",
    "{'updateDescription.removedFields': 'a'}",
    "{'updateDescription': {'$exists': false}}",
    "{'wallTime': {'%type': 'date'}}",
    "{'wallTime': {'$lt': {'$date': '2001-01-01T00:00:00Z'}}}",
    "{'clusterTime': {'%type': 'timestamp'}}",
    "{'to.coll': 'c2'}",
    "{'to': {'$exists': false}}",
    "{'collectionUUID': {'$exists': true}}",
    "{'operationDescription': {'$exists': true}}",
    "{'nothing': {'$ne': 1}}",
    "{'_id._data': {'%type': 'string'}}",
    "{'$expr': {'$eq': ['$operationType', 'insert']}}",
    "{'$expr': {'$gt': [{'$divide': [1, '$fullDocument.a']}, 0]}}", /* fails for 0 */
    "{}",
};

static const char *random_filter(reads_t *reads, vd_rand_t *rand, uint32_t depth)
{
    static const char *const joins[] = {"$and", "$and", "$or", "$nor"};
    uint64_t what = vd_rand_below(rand, 6);
    if (depth == 0 || what < 2)
        return leaves[vd_rand_below(rand, VD_COUNT_OF(leaves))];
    const char *a = random_filter(reads, rand, depth - 1);
    const char *b = random_filter(reads, rand, depth - 1);
    return vd_arena_printf(reads->texts, "{'%s': [%s, %s]}", joins[what - 2], a, b);
}

static uint32_t random_filters(reads_t *reads, vd_rand_t *rand, vd_arena_t *arena,
                               const stor_filter_t **ret, char *text, size_t size)
{
    uint32_t count = 1 + (uint32_t)vd_rand_below(rand, 2);
    text[0] = '\0';
    for (uint32_t i = 0; i < count; i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_filter_t *filter;
        const char *one = random_filter(reads, rand, 3);
        strncat(text, one, size - strlen(text) - 1);
        reads_ok(stor_filter_parse(arena, query_json(arena, one), NULL, &filter, &err), &err);
        ret[i] = filter;
    }
    return count;
}

/* ---- the tests ---- */

Test(streams, pushed_is_unpushed)
{
    uint64_t some = 0, failed = 0;
    reads_t *reads = reads_open();
    vd_rand_t rand;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        vd_rand_seed(&rand, seed);
        uint64_t start = stor_engine_newest(reads->storage.engine) + 1;
        history(reads, &rand, 150);
        for (int i = 0; i < 250; i++) {
            char text[4000];
            const stor_filter_t *filters[2];
            vd_arena_t *arena = vd_arena_create();
            stor_stream_spec_t spec = random_spec(&rand, start);
            uint32_t count = random_filters(reads, &rand, arena, filters, text, sizeof text);
            const stor_push_t *push = stor_push_make(arena, filters, count);
            const told_t *plain = told_by(reads, arena, &spec, NULL, filters, count);
            const told_t *pushed = told_by(reads, arena, &spec, push, filters, count);
            same(plain, 0, pushed, arena, text);
            cr_assert(plain->rc != VD_ERR_NOT_FOUND ||
                          stor_token_compare(&plain->at, &pushed->at) == 0,
                      "%s: another token", text);
            some += plain->count > 0;
            failed += plain->rc != VD_ERR_NOT_FOUND;
            vd_arena_destroy(&arena);
        }
    }
    /* It would also be true of a filter that decides nothing. */
    cr_assert_gt(atomic_load(&reads->storage.streams.filtered), 10000);
    cr_assert_gt(some, 300);
    cr_assert_gt(failed, 20);
    reads_close(reads);
}

static vd_slice_t token_of(vd_bson_t event)
{
    return vd_value_string(vd_bson_get_path(event, VD_SLICE_LIT("_id._data")));
}

static stor_stream_spec_t resumed(const stor_stream_spec_t *spec, vd_bson_t event)
{
    stor_stream_spec_t again = *spec;
    vd_error_t err = VD_ERROR_INIT;
    again.start_time = 0;
    again.has_token = again.start_after = true;
    reads_ok(stor_token_read(vd_value_document(vd_bson_get(event, "_id")), &again.token, &err),
             &err);
    return again;
}

Test(streams, every_token_resumes)
{
    reads_t *reads = reads_open();
    vd_rand_t rand;
    uint64_t resumes = 0, foreign = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        vd_rand_seed(&rand, 100 + seed);
        vd_arena_t *arena = vd_arena_create();
        stor_stream_spec_t spec = random_spec(&rand, stor_engine_newest(reads->storage.engine) + 1);
        history(reads, &rand, 120);
        const told_t *all = told_by(reads, arena, &spec, NULL, NULL, 0);
        for (uint32_t i = 0; i < all->count; i++) {
            bool ends = i + 1 == all->count;
            cr_assert(i == 0 ||
                      vd_slice_compare(token_of(all->events[i - 1]), token_of(all->events[i])) < 0);
            stor_stream_spec_t from = resumed(&spec, all->events[i]);
            const told_t *rest = told_by(reads, arena, &from, NULL, NULL, 0);
            if (ends && from.token.invalidate)
                continue; /* goes on behind the end, which the first one did not */
            same(all, i + 1, rest, arena, "resumed");
            resumes++;
            /* Another stream knows the token only of events that are its own. */
            stor_stream_spec_t other = random_spec(&rand, 0);
            other.kind = STOR_STREAM_COLLECTION;
            stor_stream_spec_t elsewhere = resumed(&other, all->events[i]);
            vd_value_t db = vd_bson_get_path(all->events[i], VD_SLICE_LIT("ns.db"));
            vd_value_t name = vd_bson_get_path(all->events[i], VD_SLICE_LIT("ns.coll"));
            if (name.type != VD_BSON_STRING ||
                vd_bson_get(all->events[i], "to").type != VD_BSON_MISSING)
                continue;
            bool mine = stor_stream_covers(&other, vd_value_string(db), vd_value_string(name));
            if (!mine) {
                rest = told_by(reads, arena, &elsewhere, NULL, NULL, 0);
                cr_assert_eq(rest->rc, VD_ERR_CHANGE_STREAM_FATAL_ERROR);
                cr_assert_eq(rest->count, 0);
                foreign++;
            }
        }
        vd_arena_destroy(&arena);
    }
    cr_assert_gt(resumes, 100);
    cr_assert_gt(foreign, 10);
    reads_close(reads);
}

Test(streams, tokens_as_text)
{
    vd_rand_t rand;
    vd_rand_seed(&rand, 5);
    vd_arena_t *arena = vd_arena_create();
    stor_token_t last = {0};
    for (int i = 0; i < 2000; i++) {
        char digits[STOR_TOKEN_DIGITS + 1], before[STOR_TOKEN_DIGITS + 1];
        vd_error_t err = VD_ERROR_INIT;
        stor_token_t token = {.timestamp = vd_rand_below(&rand, 4) << 32 | vd_rand_below(&rand, 3),
                              .event = vd_rand_below(&rand, 4) > 0},
                     again;
        if (token.event) {
            token.part = (uint32_t)vd_rand_below(&rand, 2);
            token.number = (uint32_t)vd_rand_below(&rand, 3);
            token.invalidate = vd_rand_below(&rand, 2) == 0;
            token.fragment = token.invalidate ? 0 : (uint8_t)vd_rand_below(&rand, 3);
            token.about = vd_rand_u64(&rand);
        }
        stor_token_write(&token, digits);
        stor_token_write(&last, before);
        vd_bson_t document = query_json(arena, vd_arena_printf(arena, "{'_data': '%s'}", digits));
        reads_ok(stor_token_read(document, &again, &err), &err);
        cr_assert(stor_token_compare(&token, &again) == 0 && again.about == token.about &&
                  again.fragment == token.fragment && again.invalidate == token.invalidate);
        int order = stor_token_compare(&last, &token);
        if (order != 0)
            cr_assert_eq(order < 0, strcmp(before, digits) < 0);
        digits[vd_rand_below(&rand, STOR_TOKEN_DIGITS)] ^= 1; /* is a digit still, or none */
        document = query_json(arena, vd_arena_printf(arena, "{'_data': '%s'}", digits));
        cr_assert_neq(stor_token_read(document, &again, NULL), VD_OK);
        last = token;
    }
    vd_arena_destroy(&arena);
}

/* ---- the watch ---- */

#define STREAMS 12

typedef struct {
    stor_stream_spec_t spec;
    const stor_filter_t *filters[2];
    uint32_t filter_count;
    const stor_push_t *push;
    stor_stream_t *stream;
    stor_watcher_t watcher;
    bool watched, woken;
    told_t *told;
    char text[4000];
} one_t;

static void one_woken(stor_watcher_t *watcher, void *context)
{
    (void)context;
    one_t *one = VD_CONTAINER_OF(watcher, one_t, watcher);
    cr_assert(one->watched);
    one->woken = true;
    one->watched = false;
}

static void one_reads(reads_t *reads, vd_arena_t *arena, stor_watch_t *watch, one_t *one)
{
    stream_read(reads, arena, one->stream, one->filters, one->filter_count, one->told);
    one->woken = false;
    if (!stor_stream_ended(one->stream) && one->told->rc == VD_ERR_NOT_FOUND)
        one->watched =
            stor_watch_add(watch, &one->watcher, one->stream, stor_stream_scanned(one->stream));
}

Test(streams, watch_wakes_whom_it_concerns)
{
    uint64_t woken = 0, slept = 0, empty = 0;
    reads_t *reads = reads_open();
    stor_session_t *session;
    vd_error_t err = VD_ERROR_INIT;
    vd_rand_t rand;
    reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
    for (uint64_t seed = 1; seed <= 10; seed++) {
        vd_rand_seed(&rand, 200 + seed);
        history(reads, &rand, 20);
        vd_arena_t *arena = vd_arena_create();
        stor_watch_t *watch = stor_watch_create(&reads->storage);
        one_t *ones = VD_ARENA_ARRAY(arena, one_t, STREAMS);
        uint64_t start = stor_engine_newest(reads->storage.engine) + 1;
        reads_ok(stor_watch_begin(watch, session, stor_replication_majority(&reads->storage), &err),
                 &err);
        for (int i = 0; i < STREAMS; i++) {
            one_t *one = &ones[i];
            one->spec = random_spec(&rand, start);
            one->spec.after = STOR_IMAGE_NONE; /* what is looked up is not the same later */
            one->filter_count = vd_rand_below(&rand, 2) == 0
                                    ? 0
                                    : random_filters(reads, &rand, arena, one->filters, one->text,
                                                     sizeof one->text);
            one->push = stor_push_make(arena, one->filters, one->filter_count);
            one->stream = stream_open(reads, arena, &one->spec, one->push);
            one->told = VD_ARENA_NEW(arena, told_t);
            one_reads(reads, arena, watch, one);
        }
        for (int round = 0; round < 60; round++) {
            bool more = true;
            history(reads, &rand, (uint32_t)vd_rand_below(&rand, 4));
            while (more)
                reads_ok(stor_watch_read(watch, stor_replication_majority(&reads->storage),
                                         one_woken, NULL, &more, &err),
                         &err);
            for (int i = 0; i < STREAMS; i++) {
                one_t *one = &ones[i];
                uint32_t before = one->told->count;
                if (one->woken || (!one->watched && one->told->rc == VD_ERR_NOT_FOUND)) {
                    bool plain = one->woken && one->filter_count == 0;
                    one_reads(reads, arena, watch, one);
                    woken += plain;
                    empty += plain && one->told->count == before;
                } else if (one->watched && vd_rand_below(&rand, 4) == 0) { /* its time is over */
                    uint64_t entries = atomic_load(&reads->storage.streams.entries);
                    stor_watch_remove(watch, &one->watcher);
                    one->watched = false;
                    cr_assert_geq(stor_stream_scanned(one->stream), stor_watch_position(watch));
                    one_reads(reads, arena, watch, one);
                    cr_assert_eq(one->told->count, before, "slept over an event: %s", one->text);
                    cr_assert_eq(atomic_load(&reads->storage.streams.entries), entries,
                                 "reads again what was looked at for it");
                    slept++;
                }
            }
        }
        for (int i = 0; i < STREAMS; i++) {
            one_t *one = &ones[i];
            if (one->watched)
                stor_watch_remove(watch, &one->watcher);
            if (one->told->rc == VD_ERR_NOT_FOUND)
                stream_read(reads, arena, one->stream, one->filters, one->filter_count, one->told);
            same(told_by(reads, arena, &one->spec, NULL, one->filters, one->filter_count), 0,
                 one->told, arena, one->text);
            stor_stream_close(&one->stream);
        }
        stor_watch_destroy(&watch);
        vd_arena_destroy(&arena);
    }
    cr_assert_eq(atomic_load(&reads->storage.streams.open), 0);
    cr_assert_gt(woken, 200);
    cr_assert_gt(slept, 200);
    cr_assert_lt(empty, woken / 3, "%d of %d wakes are for nothing", (int)empty, (int)woken);
    stor_session_close(&session);
    reads_close(reads);
}
