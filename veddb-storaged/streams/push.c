/* veddb-storaged/streams/push.c — see push.h.
 *
 * The filter becomes a tree whose answers are no, yes, open, or "open, and may fail". A leaf is run
 * by match.h over the part of the event that its path's first name stands for: the facts, or the
 * document with that name cut off the path (which is the same, as a document is never an array). */
#include "veddb-storaged/streams/push.h"

#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/match.h"

typedef enum { NO, YES, OPEN, FAILS } answer_t;

typedef enum {
    ON_FACTS,    /* what stands in the entry, or in no event */
    ON_SCHEMA,   /* only events of collections have it */
    ON_DOCUMENT, /* fullDocument.x */
    ON_AFTER,    /* fullDocument itself */
    ON_BEFORE,   /* fullDocumentBeforeChange */
    ON_UPDATE,   /* updateDescription */
    ON_NOTHING,  /* never decided here */
} place_t;

typedef struct push_node {
    stor_filter_kind_t kind; /* AND, OR, NOR, TRUE, FALSE; any other: a leaf */
    place_t place;
    bool fails;
    const stor_filter_t *leaf;
    struct push_node **children;
    uint32_t count;
} node_t;

struct stor_push {
    node_t *root;
    bool collated;
};

/* ---- making it ---- */

static place_t place_of(const stor_path_t *path)
{
    static const struct {
        const char *name;
        place_t place;
    } places[] = {
        {"_id", ON_NOTHING},
        {"fullDocumentBeforeChange", ON_BEFORE},
        {"to", ON_SCHEMA},
        {"operationDescription", ON_SCHEMA},
        {"stateBeforeChange", ON_SCHEMA},
        {"updateDescription", ON_UPDATE},
    };
    if (path->count == 0)
        return ON_NOTHING;
    if (vd_slice_is(path->parts[0], "fullDocument"))
        return path->count == 1 ? ON_AFTER : ON_DOCUMENT;
    for (size_t i = 0; i < VD_COUNT_OF(places); i++)
        if (vd_slice_is(path->parts[0], places[i].name))
            return places[i].place;
    return ON_FACTS;
}

/* The same without the first name of its path. */
static const stor_filter_t *inner(vd_arena_t *arena, const stor_filter_t *filter)
{
    stor_filter_t *copy = vd_arena_copy(arena, filter, sizeof *filter);
    size_t cut = filter->path.parts[0].len + 1;
    copy->path.text = vd_slice(filter->path.text.data + cut, filter->path.text.len - cut);
    copy->path.count--;
    copy->path.parts++;
    copy->path.positions++;
    return copy;
}

static node_t *node_make(vd_arena_t *arena, const stor_filter_t *filter)
{
    node_t *node = VD_ARENA_NEW(arena, node_t);
    node->kind = filter->kind == STOR_FILTER_NOT ? STOR_FILTER_NOR : filter->kind; /* of one */
    switch (filter->kind) {
    case STOR_FILTER_NOT:
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
    case STOR_FILTER_NOR:
        node->count = filter->child_count;
        node->children = VD_ARENA_ARRAY(arena, node_t *, filter->child_count + 1);
        for (uint32_t i = 0; i < node->count; i++)
            node->children[i] = node_make(arena, filter->children[i]);
        return node;
    case STOR_FILTER_TRUE:
    case STOR_FILTER_FALSE:
        return node;
    case STOR_FILTER_EXPR:
    case STOR_FILTER_JSON_SCHEMA:
    case STOR_FILTER_VERSION:
        node->place = ON_NOTHING;
        node->fails = true;
        return node;
    default:
        node->place = filter->whole_value ? ON_NOTHING : place_of(&filter->path);
        node->leaf = node->place == ON_DOCUMENT ? inner(arena, filter) : filter;
        return node;
    }
}

/* Some answer of it may be "no". */
static bool decides(const node_t *node)
{
    if (node->kind != STOR_FILTER_AND && node->kind != STOR_FILTER_OR &&
        node->kind != STOR_FILTER_NOR)
        return node->kind != STOR_FILTER_TRUE && node->place != ON_NOTHING;
    for (uint32_t i = 0; i < node->count && !node->children[i]->fails; i++)
        if (decides(node->children[i]))
            return true;
    return false;
}

stor_push_t *stor_push_make(vd_arena_t *arena, const stor_filter_t *const *filters, uint32_t count)
{
    node_t *root = VD_ARENA_NEW(arena, node_t);
    root->kind = STOR_FILTER_AND;
    root->count = count;
    root->children = VD_ARENA_ARRAY(arena, node_t *, count + 1);
    for (uint32_t i = 0; i < count; i++)
        root->children[i] = node_make(arena, filters[i]);
    if (!decides(root))
        return NULL;
    stor_push_t *push = VD_ARENA_NEW(arena, stor_push_t);
    push->root = root;
    push->collated = stor_collation_spec().len > 0;
    return push;
}

/* ---- asking it ---- */

typedef struct {
    const stor_event_t *event;
    vd_bson_t facts; /* made when first needed */
} ask_t;

/* An event without this has nothing there, whatever is asked. */
static vd_bson_t none(void)
{
    static const uint8_t empty[5] = {5};
    return (vd_bson_t){empty, sizeof empty};
}

/* Where the leaf is to be run; false: that is open. */
static bool part_of(place_t place, ask_t *ask, vd_bson_t *ret_part)
{
    const stor_event_t *event = ask->event;
    stor_change_kind_t kind = event->change.kind;
    bool schema = kind >= STOR_CHANGE_CREATE;
    bool whole = kind == STOR_CHANGE_INSERT || kind == STOR_CHANGE_REPLACE;
    bool update = kind == STOR_CHANGE_DELTA || kind == STOR_CHANGE_UPDATE_WHOLE;
    *ret_part = none();
    switch (place) {
    case ON_FACTS:
        if (ask->facts.data == NULL && stor_event_facts(event, &ask->facts) != VD_OK)
            return false;
        *ret_part = ask->facts;
        return true;
    case ON_SCHEMA:
        return !schema;
    case ON_DOCUMENT:
        if (whole)
            *ret_part = event->change.body;
        return !update || event->spec->after == STOR_IMAGE_NONE;
    case ON_AFTER:
        return !whole && (!update || event->spec->after == STOR_IMAGE_NONE);
    case ON_BEFORE:
        return schema || kind == STOR_CHANGE_INSERT || event->spec->before == STOR_IMAGE_NONE;
    case ON_UPDATE:
        return !update;
    case ON_NOTHING:
        break;
    }
    return false;
}

static answer_t leaf(const node_t *node, ask_t *ask)
{
    vd_bson_t part;
    bool matches = false;
    if (node->fails)
        return FAILS;
    if (!part_of(node->place, ask, &part))
        return OPEN;
    stor_match_t state = {.arena = ask->event->scratch};
    if (stor_match_document(node->leaf, part, &state, &matches, NULL) != VD_OK)
        return FAILS;
    return matches ? YES : NO;
}

static answer_t answer(const node_t *node, ask_t *ask);

/* AND, and NOR as the AND of the opposites. */
static answer_t all_of(const node_t *node, ask_t *ask)
{
    answer_t never = node->kind == STOR_FILTER_AND ? NO : YES, sum = YES;
    for (uint32_t i = 0; i < node->count; i++) {
        answer_t one = answer(node->children[i], ask);
        if (one == FAILS)
            return FAILS;
        if (one == never)
            return NO;
        if (one == OPEN)
            sum = OPEN;
    }
    return sum;
}

static answer_t any_of(const node_t *node, ask_t *ask)
{
    answer_t sum = NO;
    for (uint32_t i = 0; i < node->count; i++) {
        answer_t one = answer(node->children[i], ask);
        if (one == FAILS || one == YES)
            return one;
        if (one == OPEN)
            sum = OPEN;
    }
    return sum;
}

static answer_t answer(const node_t *node, ask_t *ask)
{
    switch (node->kind) {
    case STOR_FILTER_AND:
    case STOR_FILTER_NOR:
        return all_of(node, ask);
    case STOR_FILTER_OR:
        return any_of(node, ask);
    case STOR_FILTER_TRUE:
        return YES;
    case STOR_FILTER_FALSE:
        return NO;
    default:
        return leaf(node, ask);
    }
}

bool stor_push_collated(const stor_push_t *push)
{
    return push->collated;
}

bool stor_push_excludes(const stor_push_t *push, const stor_event_t *event)
{
    if (push == NULL)
        return false;
    vd_arena_mark_t mark = vd_arena_mark(event->scratch);
    ask_t ask = {event, event->facts};
    bool excludes = answer(push->root, &ask) == NO;
    vd_arena_rewind(event->scratch, mark);
    return excludes;
}
