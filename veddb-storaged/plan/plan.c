/* veddb-storaged/plan/plan.c — see plan.h.
 *
 * Candidates are made for the whole filter and, below an $or, for each branch together with what
 * stands beside it. A branch takes the cheapest way of its own; a union in order takes the cheapest
 * that comes in order. */
#include "veddb-storaged/plan/plan.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/engine/keycode.h"
#include "veddb-storaged/query/collation.h"

#include <math.h>

#define CANDIDATES_MAX   128
#define CHOICES_MAX      4  /* alternatives on one path through an array that are tried */
#define DIVES_MAX        24 /* in one planning */
#define OR_DEPTH_MAX     2
#define WRITES_MANY      1000000 /* documents that a write remembers at most by choice */
#define SKIP_SCAN_FACTOR 20 /* entries for each distinct prefix that a scan over gaps is worth */

typedef struct {
    const stor_plan_node_t *node;
    bool ordered; /* comes as the sort wants it */
    uint32_t choice;
} candidate_t;

typedef struct {
    vd_arena_t *arena;
    const stor_plan_query_t *query;
    const stor_plan_facts_t *facts;
    const stor_plan_index_t *hinted; /* only this index */
    bool id_only;                    /* hint on _id, $natural */
    uint32_t dives;
    double documents;
} planner_t;

typedef struct {
    planner_t *planner;
    const stor_filter_t *filter;
    stor_predicates_t predicates;
    uint32_t depth;
    uint32_t count;
    candidate_t items[CANDIDATES_MAX];
} candidates_t;

static void put(candidates_t *list, const stor_plan_node_t *node, bool ordered, uint32_t choice)
{
    if (list->count < CANDIDATES_MAX)
        list->items[list->count++] = (candidate_t){node, ordered, choice};
}

static bool wants_order(const planner_t *planner)
{
    const stor_sort_t *sort = planner->query->sort;
    return sort != NULL && sort->count > 0;
}

/* ---- the collection itself, and ranges of _id ---- */

static double id_share(const planner_t *planner, const stor_bounds_t *bounds)
{
    const stor_document_sample_t *sample = planner->facts->sample;
    double hits = 0;
    vd_buf_t buf;
    if (sample == NULL || sample->count == 0)
        return 0.3;
    vd_buf_init(&buf, 4 * VD_KEYCODE_MAX_BYTES);
    for (uint32_t i = 0; i < sample->count; i++) {
        bool exact;
        vd_buf_clear(&buf);
        if (stor_keycode_append(&buf, vd_bson_get(sample->documents[i], "_id"), false, &exact,
                                NULL) != VD_OK)
            continue;
        for (uint32_t k = 0; k < bounds->count; k++) {
            const stor_range_t *range = &bounds->ranges[k];
            if (vd_slice_compare(vd_buf_slice(&buf), range->low) >= 0 &&
                (range->high.len == 0 || vd_slice_compare(vd_buf_slice(&buf), range->high) <= 0)) {
                hits++;
                break;
            }
        }
    }
    vd_buf_done(&buf);
    return fmax(hits, 0.5) / sample->count;
}

static int add_collection(candidates_t *list, vd_error_t *err)
{
    planner_t *planner = list->planner;
    const stor_plan_query_t *query = planner->query;
    stor_bounds_t *bounds = NULL;
    stor_plan_node_t *node = VD_ARENA_NEW(planner->arena, stor_plan_node_t);
    int direction = query->natural != 0 ? query->natural : 1;
    bool ordered = true;
    bool keyless = planner->facts->keyless;
    /* In the order of insertion a range of _id is no range. */
    bool whole = keyless || (planner->facts->capped && query->natural != 0);
    vd_slice_t time = planner->facts->time;
    int rc = VD_OK;
    if (time.data != NULL && query->natural == 0)
        rc = stor_bounds_of_times(planner->arena, list->filter, time, &bounds, err);
    else if (time.data == NULL && !whole)
        rc = stor_bounds_of_filter(planner->arena, list->filter, &bounds, err);
    if (rc != VD_OK)
        return rc;
    if (wants_order(planner)) {
        int by_id = 1;
        ordered = stor_sort_is_id(query->sort, &by_id) && vd_collation_get() == NULL && !keyless &&
                  (bounds != NULL || !planner->facts->capped);
        if (time.data != NULL) {
            ordered = query->sort->count == 1 && vd_slice_equal(query->sort->paths[0].text, time);
            by_id = query->sort->directions[0];
        }
        if (ordered)
            direction = by_id;
    }
    node->id_bounds = bounds;
    node->backward = direction < 0;
    node->documents = planner->documents;
    node->kind = STOR_PLAN_COLLSCAN;
    if (bounds != NULL) {
        node->kind =
            bounds->all_points && bounds->count == 1 ? STOR_PLAN_IDHACK : STOR_PLAN_ID_RANGE;
        node->documents = fmin(planner->documents,
                               bounds->all_points ? bounds->count
                                                  : planner->documents * id_share(planner, bounds));
        node->keys = node->documents;
    }
    node->out = node->documents;
    put(list, node, ordered, 0);
    return VD_OK;
}

/* ---- indexes ---- */

static int index_serves(const candidates_t *list, const stor_plan_index_t *index, bool *ret_serves,
                        vd_error_t *err)
{
    *ret_serves = !index->def->hidden;
    if (!*ret_serves || index->def->partial == NULL)
        return VD_OK;
    return stor_filter_implies(list->planner->arena, index->def->collation, list->filter,
                               index->def->partial, ret_serves, err);
}

static bool note_path(vd_slice_t path, void *context)
{
    struct {
        vd_arena_t *arena;
        stor_needs_t *needs;
    } *note = context;
    stor_needs_add(note->arena, note->needs, path);
    return true;
}

static bool add_paths(vd_arena_t *arena, stor_needs_t *needs, const stor_filter_t *filter)
{
    struct {
        vd_arena_t *arena;
        stor_needs_t *needs;
    } note = {arena, needs};
    return stor_filter_paths(filter, note_path, &note);
}

/* What the entry alone can say about the conjuncts that the bounds don't. */
static void set_key_filter(candidates_t *list, stor_plan_node_t *node)
{
    vd_arena_t *arena = list->planner->arena;
    const stor_predicates_t *all = &list->predicates;
    stor_filter_t *filter = VD_ARENA_NEW(arena, stor_filter_t);
    stor_needs_t needs = {0};
    filter->kind = STOR_FILTER_AND;
    filter->children = VD_ARENA_ARRAY(arena, stor_filter_t *, all->conjunct_count + 1);
    for (uint32_t i = 0; i < all->conjunct_count; i++) {
        stor_needs_t own = {0};
        if (node->bounds->consumed != NULL && node->bounds->consumed[i])
            continue;
        if (!add_paths(arena, &own, all->conjuncts[i]) || own.count == 0 ||
            stor_cover_make(arena, node->index->def, node->index->multikey, &own) == NULL)
            continue;
        bool id = false;
        for (uint32_t k = 0; k < own.count; k++)
            id |= vd_slice_is(own.paths[k], "_id");
        if (id)
            continue; /* not always told by an entry */
        for (uint32_t k = 0; k < own.count; k++)
            stor_needs_add(arena, &needs, own.paths[k]);
        filter->children[filter->child_count++] = (stor_filter_t *)all->conjuncts[i];
    }
    if (filter->child_count == 0)
        return;
    node->key_cover = stor_cover_make(arena, node->index->def, node->index->multikey, &needs);
    if (node->key_cover != NULL)
        node->key_filter = filter->child_count == 1 ? filter->children[0] : filter;
}

static void set_estimates(candidates_t *list, stor_plan_node_t *node)
{
    planner_t *planner = list->planner;
    const stor_plan_facts_t *facts = planner->facts;
    stor_key_estimate_t estimate;
    uint32_t examined, inside;
    if (facts->wanted != 0 && list->depth == 0) { /* known already; only branches are compared */
        node->keys = node->documents = node->out = 1;
        return;
    }
    stor_keys_estimate(node->index, node->bounds, &estimate);
    bool unsure = !estimate.sampled || estimate.inside < STOR_PLAN_DIVE_MAX;
    if (facts->dive != NULL && facts->wanted == 0 && unsure && planner->dives < DIVES_MAX &&
        node->bounds->ranges.count > 0) {
        planner->dives++;
        if (facts->dive(facts->dive_context, node->index, node->bounds, STOR_PLAN_DIVE_MAX,
                        &examined, &inside)) {
            estimate.inside = inside;
            estimate.examined = examined;
        } else {
            estimate.inside = fmax(estimate.inside, inside);
            estimate.examined = fmax(estimate.examined, examined);
        }
    }
    double each = node->index->sample != NULL ? node->index->sample->duplicates : 1;
    node->keys = estimate.examined;
    node->documents = fmin(estimate.inside / fmax(1, each), planner->documents);
    node->out = node->documents;
}

static stor_plan_node_t *index_node(candidates_t *list, const stor_plan_index_t *index,
                                    const stor_index_bounds_t *bounds, bool backward)
{
    stor_plan_node_t *node = VD_ARENA_NEW(list->planner->arena, stor_plan_node_t);
    node->kind = STOR_PLAN_IXSCAN;
    node->index = index;
    node->bounds = bounds;
    node->backward = backward;
    node->exact = bounds->exact;
    set_key_filter(list, node);
    return node;
}

/* One scan for each combination of the first codes' points, merged in the order of the sort. */
static void add_exploded(candidates_t *list, const stor_plan_index_t *index,
                         const stor_index_bounds_t *bounds, uint32_t codes, int direction,
                         uint32_t choice)
{
    vd_arena_t *arena = list->planner->arena;
    uint32_t positions[STOR_INDEX_FIELDS_MAX] = {0};
    uint64_t count = 1;
    for (uint32_t i = 0; i < codes; i++) {
        count *= bounds->fields[i].count;
        if (count > STOR_PLAN_EXPLODE_MAX)
            return;
    }
    stor_plan_node_t *merge = VD_ARENA_NEW(arena, stor_plan_node_t);
    merge->kind = STOR_PLAN_SORT_MERGE;
    merge->exact = bounds->exact;
    merge->children = VD_ARENA_ARRAY(arena, const stor_plan_node_t *, count + 1);
    while (merge->child_count < count) {
        stor_index_bounds_t *pinned = VD_ARENA_NEW(arena, stor_index_bounds_t);
        stor_index_bounds_pin(arena, index, bounds, positions, codes, pinned);
        stor_plan_node_t *child = index_node(list, index, pinned, direction < 0);
        set_estimates(list, child);
        merge->keys += child->keys;
        merge->documents += child->documents;
        merge->children[merge->child_count++] = child;
        for (uint32_t i = codes; i-- > 0;) {
            if (++positions[i] < bounds->fields[i].count)
                break;
            positions[i] = 0;
        }
    }
    merge->out = merge->documents;
    put(list, merge, true, choice);
}

/* An entry of a time-series collection tells a place, not the measurement's _id. */
static const stor_cover_t *cover_of(const planner_t *planner, const stor_plan_index_t *index,
                                    const stor_needs_t *needs)
{
    const stor_cover_t *cover = stor_cover_make(planner->arena, index->def, index->multikey, needs);
    return cover != NULL && cover->id && planner->facts->time.data != NULL ? NULL : cover;
}

static bool covers(const candidates_t *list, const stor_plan_index_t *index,
                   const stor_index_bounds_t *bounds)
{
    const stor_plan_query_t *query = list->planner->query;
    vd_arena_t *arena = list->planner->arena;
    stor_needs_t needs = {0};
    if (list->depth > 0 || (query->needs == NULL && !query->count_only) ||
        (query->needs != NULL && query->needs->all))
        return false;
    if (query->count_only && bounds->exact)
        return true;
    for (uint32_t i = 0; !query->count_only && i < query->needs->count; i++)
        stor_needs_add(arena, &needs, query->needs->paths[i]);
    return (bounds->exact || add_paths(arena, &needs, list->filter)) &&
           cover_of(list->planner, index, &needs) != NULL;
}

/* The number of codes up to the path that distinct values are asked of, or 0. */
static uint32_t distinct_codes(const candidates_t *list, const stor_plan_index_t *index)
{
    const stor_plan_query_t *query = list->planner->query;
    if (query->distinct == NULL || list->depth > 0 || index->def->has_wildcard ||
        !stor_collation_same(index->def->collation, vd_collation_get()))
        return 0;
    for (uint32_t i = 0; i < index->def->field_count; i++)
        if (vd_slice_equal(index->def->fields[i].path, query->distinct->text) &&
            index->def->fields[i].order != STOR_INDEX_HASHED && (index->multikey >> i & 1) == 0 &&
            !stor_path_has_position(query->distinct->text))
            return i + 1;
    return 0;
}

/* Few distinct values stand before a field that is bounded. */
static bool worth_skipping(const stor_plan_index_t *index, const stor_index_bounds_t *bounds)
{
    const stor_key_sample_t *sample = index->sample;
    return bounds->checked && sample != NULL &&
           sample->distinct[bounds->checked_from] * SKIP_SCAN_FACTOR < (double)index->entries;
}

static int add_index(candidates_t *list, const stor_plan_index_t *index, uint32_t choice,
                     vd_slice_t wildcard_path, uint32_t *ret_choices, vd_error_t *err)
{
    planner_t *planner = list->planner;
    stor_index_bounds_t *bounds = VD_ARENA_NEW(planner->arena, stor_index_bounds_t);
    bool hinted = planner->hinted == index;
    uint32_t explode = 0;
    int direction = 0;
    int rc = stor_index_bounds_make(planner->arena, index, &list->predicates, choice, wildcard_path,
                                    bounds, err);
    if (rc != VD_OK)
        return rc;
    *ret_choices = bounds->choices;
    if (wants_order(planner))
        direction = stor_plan_order(index, bounds, planner->query->sort, &explode);
    bool distinct = distinct_codes(list, index) > 0;
    if ((index->def->sparse || index->def->has_wildcard) && !bounds->in_sparse &&
        !(distinct && index->def->sparse) && !(hinted && index->def->sparse))
        return VD_OK;
    if (!bounds->first_bounded && direction == 0 && !distinct && !covers(list, index, bounds) &&
        !worth_skipping(index, bounds) && !(hinted && list->depth == 0))
        return VD_OK;
    if (direction != 0 && explode > 0) {
        add_exploded(list, index, bounds, explode, direction, choice);
        direction = 0;
    }
    bool backward = direction < 0 || (direction == 0 && planner->query->natural < 0);
    stor_plan_node_t *node = index_node(list, index, bounds, backward);
    set_estimates(list, node);
    put(list, node, direction != 0 || !wants_order(planner), choice);
    return VD_OK;
}

static int add_wildcard(candidates_t *list, const stor_plan_index_t *index, vd_error_t *err)
{
    const stor_predicates_t *all = &list->predicates;
    for (uint32_t i = 0; i < all->count; i++) {
        uint32_t choices;
        bool before = false;
        for (uint32_t k = 0; k < i; k++)
            before |= vd_slice_equal(all->items[k].path, all->items[i].path);
        if (before || !stor_index_wildcard_has(index->def, all->items[i].path))
            continue;
        int rc = add_index(list, index, 0, all->items[i].path, &choices, err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static int add_indexes(candidates_t *list, vd_error_t *err)
{
    planner_t *planner = list->planner;
    int rc = VD_OK;
    for (uint32_t i = 0; i < planner->facts->index_count && rc == VD_OK; i++) {
        const stor_plan_index_t *index = &planner->facts->indexes[i];
        bool serves;
        uint32_t choices = 1;
        if ((planner->hinted != NULL && planner->hinted != index) ||
            (planner->id_only && !stor_index_is_of_id(index->def)))
            continue;
        rc = index_serves(list, index, &serves, err);
        if (rc != VD_OK || !serves)
            continue;
        if (index->def->has_wildcard) {
            if (index->def->field_count == 1)
                rc = add_wildcard(list, index, err);
            continue;
        }
        for (uint32_t choice = 0; choice < choices && choice < CHOICES_MAX && rc == VD_OK; choice++)
            rc = add_index(list, index, choice, VD_SLICE_NULL, &choices, err);
    }
    return rc;
}

/* ---- $or ---- */

static int collect(candidates_t *list, vd_error_t *err);

/* What stands beside the $or, and one of its branches. */
static const stor_filter_t *branch_filter(const candidates_t *list, uint32_t conjunct,
                                          const stor_filter_t *branch)
{
    vd_arena_t *arena = list->planner->arena;
    const stor_predicates_t *all = &list->predicates;
    stor_filter_t *filter = VD_ARENA_NEW(arena, stor_filter_t);
    filter->kind = STOR_FILTER_AND;
    filter->children = VD_ARENA_ARRAY(arena, stor_filter_t *, all->conjunct_count + 1);
    for (uint32_t i = 0; i < all->conjunct_count; i++)
        if (i != conjunct)
            filter->children[filter->child_count++] = (stor_filter_t *)all->conjuncts[i];
    filter->children[filter->child_count++] = (stor_filter_t *)branch;
    return filter->child_count == 1 ? branch : filter;
}

static int add_or(candidates_t *list, uint32_t conjunct, vd_error_t *err)
{
    planner_t *planner = list->planner;
    const stor_filter_t *either = list->predicates.conjuncts[conjunct];
    stor_plan_node_t *plain = VD_ARENA_NEW(planner->arena, stor_plan_node_t);
    plain->kind = STOR_PLAN_OR;
    plain->exact = true;
    plain->children =
        VD_ARENA_ARRAY(planner->arena, const stor_plan_node_t *, either->child_count + 1);
    stor_plan_node_t *merge = vd_arena_copy(planner->arena, plain, sizeof *plain);
    merge->kind = STOR_PLAN_SORT_MERGE;
    merge->children =
        VD_ARENA_ARRAY(planner->arena, const stor_plan_node_t *, either->child_count + 1);
    bool any = true, any_ordered = wants_order(planner);
    for (uint32_t i = 0; i < either->child_count && any; i++) {
        candidates_t *sub = VD_ARENA_NEW(planner->arena, candidates_t);
        const stor_plan_node_t *best = NULL, *ordered = NULL;
        sub->planner = planner;
        sub->filter = branch_filter(list, conjunct, either->children[i]);
        sub->depth = list->depth + 1;
        int rc = collect(sub, err);
        if (rc != VD_OK)
            return rc;
        for (uint32_t k = 0; k < sub->count; k++) {
            const stor_plan_node_t *node = sub->items[k].node;
            if (node->kind == STOR_PLAN_COLLSCAN)
                continue;
            double cost = stor_plan_cost(node, false, 0, 0);
            if (best == NULL || cost < stor_plan_cost(best, false, 0, 0))
                best = node;
            if (sub->items[k].ordered &&
                (ordered == NULL || cost < stor_plan_cost(ordered, false, 0, 0)))
                ordered = node;
        }
        any = best != NULL;
        any_ordered &= ordered != NULL;
        stor_plan_node_t *const nodes[] = {plain, merge};
        const stor_plan_node_t *const chosen[] = {best, ordered};
        for (int k = 0; k < 2; k++) {
            if (chosen[k] == NULL)
                continue;
            nodes[k]->children[nodes[k]->child_count++] = chosen[k];
            nodes[k]->exact &= chosen[k]->exact;
            nodes[k]->keys += chosen[k]->keys;
            nodes[k]->documents += chosen[k]->documents;
            nodes[k]->out = fmin(nodes[k]->documents, planner->documents);
        }
    }
    if (any)
        put(list, plain, !wants_order(planner), conjunct);
    if (any && any_ordered)
        put(list, merge, true, conjunct);
    return VD_OK;
}

static int collect(candidates_t *list, vd_error_t *err)
{
    planner_t *planner = list->planner;
    const stor_plan_query_t *query = planner->query;
    int rc = VD_OK;
    stor_predicates_of(planner->arena, list->filter, &list->predicates);
    if (planner->hinted == NULL)
        rc = add_collection(list, err);
    if (rc == VD_OK && query->natural == 0)
        rc = add_indexes(list, err);
    for (uint32_t i = 0; i < list->predicates.conjunct_count && rc == VD_OK; i++) {
        const stor_filter_t *conjunct = list->predicates.conjuncts[i];
        if (conjunct->kind == STOR_FILTER_OR && list->depth < OR_DEPTH_MAX &&
            conjunct->child_count <= STOR_PLAN_BRANCHES_MAX && query->natural == 0)
            rc = add_or(list, i, err);
    }
    return rc;
}

/* ---- hints ---- */

static bool same_pattern(vd_bson_t a, vd_bson_t b)
{
    return vd_bson_count(a) == vd_bson_count(b) && vd_bson_compare(a, b) == 0;
}

static int bad_hint(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "error processing query: planner returned error: bad hint: hint provided "
                        "does not correspond to an existing index");
}

static int read_hint(planner_t *planner, vd_error_t *err)
{
    const stor_plan_facts_t *facts = planner->facts;
    vd_value_t hint = planner->query->hint;
    vd_slice_t name;
    vd_value_t first;
    if (planner->query->natural != 0)
        planner->id_only = true;
    if (hint.type != VD_BSON_STRING && hint.type != VD_BSON_OBJECT)
        return VD_OK;
    if (hint.type == VD_BSON_OBJECT) {
        if (!vd_bson_first(vd_value_document(hint), &name, &first))
            return VD_OK;
        int64_t one = 0;
        bool alone = vd_bson_count(vd_value_document(hint)) == 1;
        if (vd_slice_is(name, "$natural") ||
            (alone && vd_slice_is(name, "_id") && vd_value_as_int64(first, &one) && one == 1 &&
             facts->time.data == NULL))
            planner->id_only = true;
    } else if (vd_slice_is(vd_value_string(hint), "_id_") && facts->time.data == NULL) {
        planner->id_only = true;
    }
    for (uint32_t i = 0; i < facts->index_count && !planner->id_only; i++) {
        const stor_index_def_t *def = facts->indexes[i].def;
        if (!def->hidden &&
            (hint.type == VD_BSON_STRING ? vd_slice_equal(def->name, vd_value_string(hint))
                                         : same_pattern(def->key, vd_value_document(hint)))) {
            if (planner->hinted != NULL)
                return vd_error_set(err, VD_ERR_INDEX_NOT_FOUND,
                                    "Hint matched multiple indexes, must hint by index name. "
                                    "Matched: %.*s and %.*s",
                                    VD_SLICE_FMT(planner->hinted->def->name),
                                    VD_SLICE_FMT(def->name));
            planner->hinted = &facts->indexes[i];
        }
    }
    return planner->id_only || planner->hinted != NULL ? VD_OK : bad_hint(err);
}

/* ---- min and max ---- */

static bool names_match(const stor_index_def_t *def, vd_bson_t document)
{
    vd_bson_iter_t iter;
    uint32_t at = 0;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter))
        if (at == def->field_count || !vd_slice_equal(iter.name, def->fields[at++].path))
            return false;
    return at == def->field_count;
}

static bool has_strings(vd_bson_t document)
{
    bool strings = false;
    vd_bson_iter_t iter;
    if (document.len == 0)
        return false;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter))
        strings |= vd_value_is_collatable(iter.value);
    return strings;
}

static int not_between(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_LOCATION(51174),
                        "The index chosen is not compatible with min/max");
}

static int not_before(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_LOCATION(51175),
                        "The value provided for min() does not come before the value provided "
                        "for max()");
}

/* The key of {_id: value}; empty for an empty document. */
static int id_key(vd_arena_t *arena, vd_bson_t document, vd_slice_t *ret_key, vd_error_t *err)
{
    vd_slice_t name;
    vd_value_t value;
    vd_buf_t buf;
    bool exact;
    if (document.len == 0)
        return VD_OK;
    if (vd_bson_count(document) != 1 || !vd_bson_first(document, &name, &value) ||
        !vd_slice_is(name, "_id"))
        return not_between(err);
    vd_buf_init(&buf, 4 * VD_KEYCODE_MAX_BYTES);
    int rc = stor_keycode_append(&buf, value, false, &exact, err);
    if (rc == VD_OK)
        *ret_key = vd_arena_copy_slice(arena, vd_buf_slice(&buf));
    vd_buf_done(&buf);
    return rc;
}

/* min and max with a hint of _id: a range of the collection itself. */
static int add_between_ids(candidates_t *list, vd_error_t *err)
{
    planner_t *planner = list->planner;
    const stor_plan_query_t *query = planner->query;
    int by_id = 1;
    stor_bounds_t *bounds = VD_ARENA_NEW(planner->arena, stor_bounds_t);
    stor_range_t *range = VD_ARENA_NEW(planner->arena, stor_range_t);
    int rc = id_key(planner->arena, query->min, &range->low, err);
    if (rc == VD_OK)
        rc = id_key(planner->arena, query->max, &range->high, err);
    if (rc != VD_OK)
        return rc;
    if ((has_strings(query->min) || has_strings(query->max)) && vd_collation_get() != NULL)
        return not_between(err);
    if (range->high.len > 0 && vd_slice_compare(range->low, range->high) >= 0)
        return not_before(err);
    range->high_exclusive = true;
    bounds->ranges = range;
    bounds->count = 1;
    bool ordered = !wants_order(planner) ||
                   (stor_sort_is_id(query->sort, &by_id) && vd_collation_get() == NULL);
    stor_plan_node_t *node = VD_ARENA_NEW(planner->arena, stor_plan_node_t);
    node->kind = STOR_PLAN_ID_RANGE;
    node->id_bounds = bounds;
    node->backward = ordered && by_id < 0;
    node->documents = planner->documents * id_share(planner, bounds);
    node->keys = node->out = node->documents;
    put(list, node, ordered, 0);
    return VD_OK;
}

static int add_between(candidates_t *list, vd_error_t *err)
{
    planner_t *planner = list->planner;
    const stor_plan_query_t *query = planner->query;
    const stor_plan_index_t *index = planner->hinted;
    uint32_t explode;
    if (index == NULL && planner->id_only && query->natural == 0) {
        /* Where the table's key is no _id, nothing is ordered by it. */
        if (!planner->facts->keyless && planner->facts->time.data == NULL)
            return add_between_ids(list, err);
        return not_between(err);
    }
    if (index == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(51173),
                            "When using min()/max() a hint of which index to use must be "
                            "provided");
    if (index->def->has_wildcard || (query->min.len > 0 && !names_match(index->def, query->min)) ||
        (query->max.len > 0 && !names_match(index->def, query->max)))
        return not_between(err);
    if ((has_strings(query->min) || has_strings(query->max)) &&
        !stor_collation_same(index->def->collation, vd_collation_get()))
        return vd_error_set(err, VD_ERR_LOCATION(51174),
                            "The index chosen is not compatible with min/max: it has another "
                            "collation");
    stor_predicates_of(planner->arena, list->filter, &list->predicates);
    stor_index_bounds_t *bounds = VD_ARENA_NEW(planner->arena, stor_index_bounds_t);
    int rc = stor_index_bounds_between(planner->arena, index, query->min, query->max, bounds, err);
    if (rc != VD_OK)
        return rc;
    const stor_range_t *range = &bounds->ranges.ranges[0];
    if (range->high.len > 0 && vd_slice_compare(range->low, range->high) >= 0)
        return not_before(err);
    int direction =
        wants_order(planner) ? stor_plan_order(index, bounds, query->sort, &explode) : 1;
    stor_plan_node_t *node = index_node(list, index, bounds, direction < 0);
    set_estimates(list, node);
    put(list, node, direction != 0, 0);
    return VD_OK;
}

/* ---- the choice ---- */

static uint64_t mix(uint64_t hash, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        hash = (hash ^ (v >> (8 * i) & 0xFF)) * 0x100000001b3ull;
    return hash;
}

static uint64_t node_signature(const stor_plan_node_t *node, uint64_t hash)
{
    hash = mix(hash, (uint64_t)node->kind << 1 | node->backward);
    if (node->index != NULL)
        hash = mix(hash, node->index->id);
    if (node->kind == STOR_PLAN_SORT_MERGE && node->children[0]->index != NULL)
        return node_signature(node->children[0], hash); /* $in may have more or fewer values */
    for (uint32_t i = 0; i < node->child_count; i++)
        hash = node_signature(node->children[i], hash);
    return hash;
}

/* The planner's table goes with the request; a cursor lives on. */
static const stor_plan_index_t *index_copy(vd_arena_t *arena, const stor_plan_index_t *index)
{
    stor_plan_index_t *copy = vd_arena_copy(arena, index, sizeof *index);
    stor_index_def_t *def = vd_arena_copy(arena, index->def, sizeof *def);
    stor_index_field_t *fields =
        vd_arena_copy(arena, def->fields, def->field_count * sizeof *fields);
    for (uint32_t i = 0; i < def->field_count; i++)
        fields[i].path = vd_arena_copy_slice(arena, fields[i].path);
    def->fields = fields;
    def->name = vd_arena_copy_slice(arena, def->name);
    def->key = (vd_bson_t){vd_arena_copy(arena, def->key.data, def->key.len), def->key.len};
    def->spec = def->wildcard_projection = VD_BSON_NONE;
    def->collation = NULL; /* the index holds it */
    def->collation_spec =
        (vd_bson_t){vd_arena_copy(arena, def->collation_spec.data, def->collation_spec.len),
                    def->collation_spec.len};
    def->partial = def->partial == NULL ? NULL : (const stor_filter_t *)copy; /* only whether */
    copy->def = def;
    copy->sample = NULL;
    return copy;
}

static const stor_plan_node_t *own_node(vd_arena_t *arena, const stor_plan_node_t *node)
{
    stor_plan_node_t *own = vd_arena_copy(arena, node, sizeof *node);
    if (own->index != NULL)
        own->index = index_copy(arena, own->index);
    for (uint32_t i = 0; i < own->child_count; i++)
        own->children[i] = own_node(arena, own->children[i]);
    return own;
}

static const stor_cover_t *plan_cover(const planner_t *planner, const candidate_t *candidate,
                                      bool blocking)
{
    const stor_plan_query_t *query = planner->query;
    const stor_plan_node_t *node = candidate->node;
    vd_arena_t *arena = planner->arena;
    stor_needs_t needs = {0};
    if (node->kind != STOR_PLAN_IXSCAN || query->return_key ||
        (!query->count_only && (query->needs == NULL || query->needs->all)))
        return NULL;
    for (uint32_t i = 0; query->needs != NULL && i < query->needs->count; i++)
        stor_needs_add(arena, &needs, query->needs->paths[i]);
    if (blocking)
        for (uint32_t i = 0; i < query->sort->count; i++)
            stor_needs_add(arena, &needs, query->sort->paths[i].text);
    if (!node->exact && !add_paths(arena, &needs, query->filter))
        return NULL;
    return cover_of(planner, node->index, &needs);
}

/* Entries and documents that are read before the results are enough. */
static double cut_share(const planner_t *planner, double matching, bool blocking)
{
    const stor_plan_query_t *query = planner->query;
    if (blocking || planner->facts->wary || query->most <= 0 || matching <= (double)query->most)
        return 1;
    return (double)query->most / matching;
}

static stor_plan_t *plan_of(const planner_t *planner, const candidate_t *candidate, double matching)
{
    const stor_plan_query_t *query = planner->query;
    stor_plan_t *plan = VD_ARENA_NEW(planner->arena, stor_plan_t);
    stor_plan_node_t *node = vd_arena_copy(planner->arena, candidate->node, sizeof *node);
    plan->access = node;
    plan->return_key = query->return_key;
    plan->places = planner->facts->time.data != NULL;
    plan->blocking_sort = wants_order(planner) && !candidate->ordered;
    plan->keys_only = query->count_only && node->exact && !query->return_key &&
                      node->kind != STOR_PLAN_COLLSCAN && !plan->blocking_sort;
    if (!plan->keys_only)
        plan->cover = plan_cover(planner, candidate, plan->blocking_sort);
    node->out = fmin(node->out, matching);
    if (query->distinct != NULL && node->kind == STOR_PLAN_IXSCAN && !plan->blocking_sort) {
        candidates_t top = {.planner = (planner_t *)planner};
        plan->distinct_codes = distinct_codes(&top, node->index);
        if (plan->distinct_codes > 0) {
            stor_key_estimate_t estimate = {.inside = node->keys};
            double distinct = stor_keys_distinct(node->index, &estimate, plan->distinct_codes);
            /* Each jump looks at an entry behind the ones it skips. */
            node->keys =
                fmin(node->keys, distinct * (matching > 0 ? node->documents / matching : 1));
            node->documents = fmin(node->documents, node->keys);
        }
    }
    double share = cut_share(planner, fmin(matching, node->out), plan->blocking_sort);
    node->keys *= share;
    node->documents *= share;
    plan->returned = query->most > 0 ? fmin(node->out, (double)query->most) : node->out;
    if (plan->keys_only)
        node->documents = 0;
    plan->cost = stor_plan_cost(node, plan->cover != NULL || plan->keys_only,
                                plan->blocking_sort ? node->out : 0, (double)query->most);
    if (node->kind == STOR_PLAN_OR || node->kind == STOR_PLAN_SORT_MERGE)
        plan->cost *= share;
    if (plan->cover != NULL || plan->keys_only)
        node->documents = 0;
    plan->signature = mix(node_signature(node, 0xcbf29ce484222325ull),
                          (uint64_t)candidate->choice << 3 | (uint64_t)(plan->cover != NULL) << 2 |
                              (uint64_t)plan->blocking_sort << 1 | plan->keys_only);
    return plan;
}

/* Documents that match: not more than any index says, and about what the sample says. */
static double matching_of(const planner_t *planner, const candidates_t *list)
{
    double least = planner->documents;
    for (uint32_t i = 0; i < list->count; i++)
        least = fmin(least, list->items[i].node->out);
    if (least <= STOR_PLAN_DIVE_MAX / 2.0)
        return least;
    double share = stor_documents_share(planner->facts->sample, planner->query->filter,
                                        planner->query->variables);
    return share < 0 ? least : fmin(least, share * planner->documents);
}

static void note_rejected(stor_plans_t *rejected, const stor_plan_t *plan)
{
    if (rejected != NULL && plan != NULL && rejected->count < STOR_PLAN_REJECTED_MAX)
        rejected->items[rejected->count++] = plan;
}

static int choose(planner_t *planner, candidates_t *list, const stor_plan_t **ret_plan,
                  stor_plans_t *rejected, vd_error_t *err)
{
    const stor_plan_facts_t *facts = planner->facts;
    const stor_plan_t *best = NULL;
    if (list->count == 0)
        return vd_error_set(err, VD_ERR_LOCATION(291), /* NoQueryExecutionPlans */
                            "error processing query: planner returned error: No query solutions");
    double matching = list->count == 1 || facts->wanted != 0 ? list->items[0].node->out
                                                             : matching_of(planner, list);
    for (uint32_t i = 0; i < list->count; i++) {
        const candidate_t *candidate = &list->items[i];
        const stor_plan_t *plan = plan_of(planner, candidate, matching);
        bool many = planner->query->writes && candidate->node->kind != STOR_PLAN_COLLSCAN &&
                    candidate->node->kind != STOR_PLAN_ID_RANGE && planner->hinted == NULL &&
                    candidate->node->documents > WRITES_MANY && list->count > 1;
        if (many)
            continue;
        if (facts->wanted != 0 && plan->signature == facts->wanted) {
            note_rejected(rejected, best);
            best = plan;
            break;
        }
        if (best == NULL || plan->cost < best->cost) {
            note_rejected(rejected, best);
            best = plan;
        } else {
            note_rejected(rejected, plan);
        }
    }
    stor_plan_t *own = vd_arena_copy(planner->arena, best, sizeof *best);
    own->access = own_node(planner->arena, best->access);
    *ret_plan = own;
    return VD_OK;
}

int stor_plan_make(vd_arena_t *arena, const stor_plan_query_t *query,
                   const stor_plan_facts_t *facts, const stor_plan_t **ret_plan,
                   stor_plans_t *rejected, vd_error_t *err)
{
    planner_t planner = {.arena = arena, .query = query, .facts = facts};
    candidates_t *list = VD_ARENA_NEW(arena, candidates_t);
    planner.documents = facts->documents > 0 ? (double)facts->documents : 0;
    list->planner = &planner;
    list->filter = query->filter;
    int rc = read_hint(&planner, err);
    if (rc == VD_OK && (query->min.len > 0 || query->max.len > 0))
        rc = add_between(list, err);
    else if (rc == VD_OK && query->filter->kind == STOR_FILTER_FALSE) {
        stor_plan_node_t *node = VD_ARENA_NEW(arena, stor_plan_node_t);
        node->kind = STOR_PLAN_EOF;
        node->exact = true;
        put(list, node, true, 0);
    } else if (rc == VD_OK) {
        rc = collect(list, err);
    }
    return rc == VD_OK ? choose(&planner, list, ret_plan, rejected, err) : rc;
}

/* ---- names ---- */

const char *stor_plan_kind_name(stor_plan_kind_t kind)
{
    static const char *const names[] = {"EOF",    "COLLSCAN", "IDHACK",    "CLUSTERED_IXSCAN",
                                        "IXSCAN", "OR",       "SORT_MERGE"};
    return names[kind];
}

static const char *pattern_text(vd_arena_t *arena, vd_bson_t key)
{
    const char *text = "{";
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, key);
    while (vd_bson_iter_next(&iter))
        text = vd_arena_printf(arena, "%s%s %.*s: %s", text, text[1] == 0 ? "" : ",",
                               VD_SLICE_FMT(iter.name), vd_value_to_json(arena, iter.value, 50));
    return vd_arena_printf(arena, "%s }", text);
}

static const char *node_summary(vd_arena_t *arena, const stor_plan_t *plan,
                                const stor_plan_node_t *node)
{
    const char *text = "";
    if (node->kind == STOR_PLAN_IXSCAN)
        return vd_arena_printf(arena, "%s %s",
                               plan->keys_only            ? "COUNT_SCAN"
                               : plan->distinct_codes > 0 ? "DISTINCT_SCAN"
                                                          : "IXSCAN",
                               pattern_text(arena, node->index->def->key));
    if (node->child_count == 0)
        return stor_plan_kind_name(node->kind);
    for (uint32_t i = 0; i < node->child_count && i < 4; i++)
        text = vd_arena_printf(arena, "%s%s%s", text, i == 0 ? "" : ", ",
                               node_summary(arena, plan, node->children[i]));
    return text;
}

const char *stor_plan_summary(vd_arena_t *arena, const stor_plan_t *plan)
{
    return node_summary(arena, plan, plan->access);
}

/* ---- the shape of a query ---- */

static uint64_t mix_bytes(uint64_t hash, vd_slice_t bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        hash = (hash ^ bytes.data[i]) * 0x100000001b3ull;
    return mix(hash, bytes.len);
}

static uint64_t filter_shape(const stor_filter_t *filter, bool values, uint64_t hash)
{
    hash = mix(hash, filter->kind);
    hash = mix_bytes(hash, filter->path.text);
    if (values && (filter->kind == STOR_FILTER_EQ || filter->kind == STOR_FILTER_IN))
        /* other bounds */
        hash = mix(hash, filter->value.type == VD_BSON_NULL ||
                             filter->value.type == VD_BSON_ARRAY || filter->has_null);
    for (uint32_t i = 0; i < filter->child_count; i++)
        hash = filter_shape(filter->children[i], values, hash);
    return mix(hash, 0xFF);
}

static uint64_t query_shape(const stor_plan_query_t *query, bool values)
{
    uint64_t hash = filter_shape(query->filter, values, 0xcbf29ce484222325ull);
    if (query->sort != NULL)
        for (uint32_t i = 0; i < query->sort->count; i++)
            hash = mix(mix_bytes(hash, query->sort->paths[i].text),
                       (uint64_t)(query->sort->directions[i] + 2));
    return mix_bytes(hash, vd_slice(stor_collation_spec().data, stor_collation_spec().len));
}

static uint64_t needs_shape(const stor_needs_t *needs, uint64_t hash)
{
    if (needs != NULL && !needs->all)
        for (uint32_t i = 0; i < needs->count; i++)
            hash = mix_bytes(hash, needs->paths[i]);
    return hash;
}

uint64_t stor_plan_shape(const stor_plan_query_t *query)
{
    uint64_t hash = needs_shape(query->needs, query_shape(query, true));
    if (query->distinct != NULL)
        hash = mix_bytes(hash, query->distinct->text);
    return mix(hash, (uint64_t)query->count_only | (uint64_t)(query->needs != NULL) << 1 |
                         (uint64_t)(query->most > 0) << 2);
}

uint64_t stor_plan_filter_shape(const stor_plan_query_t *query)
{
    uint64_t hash = query_shape(query, false);
    if (query->distinct == NULL && !query->count_only)
        hash = needs_shape(query->needs, hash);
    return hash == 0 ? 1 : hash;
}
