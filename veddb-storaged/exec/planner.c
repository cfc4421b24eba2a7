/* veddb-storaged/exec/planner.c — see planner.h. */
#include "veddb-storaged/exec/planner.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/exec/sampling.h"
#include "veddb-storaged/local/local.h"
#include "veddb-storaged/query/collation.h"

#include <stdio.h>
#include <time.h>

#define BUCKETS           256
#define SAMPLE_FROM       128 /* documents: dives tell all about fewer */
#define SAMPLE_AGE_MAX_MS (600 * 1000)
#define CACHE_WORKS_MAX   2000 /* a query that reads more can well afford to be planned */
#define CACHE_SLACK       200
#define LIMIT_WORSE       4 /* times what a plan hoped to read for a few results */
#define LIMIT_SLACK       500
#define SUMMARY_BYTES     160
#define ASKED_BYTES       512 /* of a query that $planCacheStats shows */

typedef struct {
    stor_plan_cache_entry_t entry;
    char summary[SUMMARY_BYTES];
    uint8_t asked[ASKED_BYTES];
} cached_t;

typedef struct record {
    struct record *next;
    uint64_t collection_id, set;   /* of indexes, as a hash */
    stor_statistics_t *statistics; /* NULL = none */
    bool sampling;                 /* somebody takes them now */
    uint32_t cached_count;
    cached_t *cached;
} record_t;

struct stor_planner {
    stor_plan_filters_t *filters;
    atomic_bool refreshed; /* somebody does it in the background */
    pthread_mutex_t lock;
    uint32_t count;
    record_t *buckets[BUCKETS];
};

/* ---- life ---- */

stor_planner_t *stor_planner_create(void)
{
    stor_planner_t *planner = vd_xalloc(sizeof *planner);
    (void)pthread_mutex_init(&planner->lock, NULL);
    planner->filters = stor_plan_filters_create();
    return planner;
}

static void forget_all(stor_planner_t *planner)
{
    for (uint32_t i = 0; i < BUCKETS; i++) {
        record_t *next;
        for (record_t *record = planner->buckets[i]; record != NULL; record = next) {
            next = record->next;
            stor_statistics_unreference(&record->statistics);
            vd_free(record->cached);
            vd_free(record);
        }
        planner->buckets[i] = NULL;
    }
    planner->count = 0;
}

void stor_planner_destroy(stor_planner_t **planner_p)
{
    stor_planner_t *planner = *planner_p;
    if (planner == NULL)
        return;
    forget_all(planner);
    stor_plan_filters_destroy(&planner->filters);
    (void)pthread_mutex_destroy(&planner->lock);
    vd_free(planner);
    *planner_p = NULL;
}

/* Under the lock. make: NULL only when it is not there and not wanted. */
static record_t *record_of(stor_planner_t *planner, uint64_t collection_id, bool make)
{
    record_t **bucket = &planner->buckets[collection_id % BUCKETS];
    for (record_t *record = *bucket; record != NULL; record = record->next)
        if (record->collection_id == collection_id)
            return record;
    if (!make)
        return NULL;
    if (planner->count >= STOR_PLANNER_COLLECTIONS_MAX)
        forget_all(planner);
    record_t *record = vd_xalloc(sizeof *record);
    record->collection_id = collection_id;
    record->next = *bucket;
    *bucket = record;
    planner->count++;
    return record;
}

/* ---- statistics ---- */

static bool is_stale(const stor_statistics_t *statistics, int64_t documents)
{
    if (statistics == NULL)
        return true;
    int64_t change = documents - statistics->documents;
    change = change < 0 ? -change : change;
    return change > statistics->documents / 3 + SAMPLE_FROM ||
           (change > 0 && vd_wall_ms() - statistics->taken_wall_ms > SAMPLE_AGE_MAX_MS);
}

/* Takes the place of what was known of the collection, and is given back with one reference more;
 * plans that were made by the old ones are forgotten. */
static void install(stor_planner_t *planner, uint64_t collection_id, stor_statistics_t *taken)
{
    (void)pthread_mutex_lock(&planner->lock);
    record_t *record = record_of(planner, collection_id, true);
    record->sampling = false;
    if (taken != NULL && record->set == taken->set) {
        stor_statistics_unreference(&record->statistics);
        record->statistics = taken;
        record->cached_count = 0;
        atomic_fetch_add(&taken->references, 1);
    }
    (void)pthread_mutex_unlock(&planner->lock);
}

/* What is known of this set of indexes, referenced; NULL = nothing. *ret_sampling: the caller is
 * the one to look for some now, and to install them. */
static stor_statistics_t *known(stor_planner_t *planner, const stor_collection_t *collection,
                                bool refresh, bool *ret_sampling)
{
    int64_t documents = atomic_load(&collection->documents);
    uint64_t set = stor_statistics_set(collection->indexes);
    (void)pthread_mutex_lock(&planner->lock);
    record_t *record = record_of(planner, collection->id, true);
    if (record->set != set) {
        record->set = set;
        record->cached_count = 0;
        stor_statistics_unreference(&record->statistics);
    }
    *ret_sampling =
        documents >= SAMPLE_FROM && !record->sampling &&
        (record->statistics == NULL || (refresh && is_stale(record->statistics, documents)));
    record->sampling |= *ret_sampling;
    stor_statistics_t *statistics = record->statistics;
    if (statistics != NULL)
        atomic_fetch_add(&statistics->references, 1);
    (void)pthread_mutex_unlock(&planner->lock);
    return statistics;
}

/* For a query: it takes samples itself when there are none at all, neither here nor in the table.
 * Old ones serve until the keeper has new ones. */
static stor_statistics_t *statistics_of(stor_request_t *request,
                                        const stor_collection_t *collection)
{
    stor_planner_t *planner = request->storage->planner;
    bool sampling;
    stor_statistics_t *statistics =
        known(planner, collection, !atomic_load(&planner->refreshed), &sampling);
    if (!sampling)
        return statistics;
    stor_statistics_t *taken =
        statistics == NULL ? stor_statistics_load(request->session, collection) : NULL;
    if (taken == NULL)
        taken = stor_statistics_take(request, collection);
    install(planner, collection->id, taken);
    if (taken == NULL)
        return statistics;
    stor_statistics_unreference(&statistics);
    return taken;
}

/* One collection of a round; its row is written when there is something new. */
static int refresh_one(stor_request_t *request, stor_collection_t *collection, bool *ret_worked,
                       vd_error_t *err)
{
    stor_planner_t *planner = request->storage->planner;
    bool sampling;
    stor_statistics_t *statistics = known(planner, collection, true, &sampling);
    int rc = VD_OK;
    *ret_worked = sampling;
    if (sampling) {
        stor_statistics_t *taken =
            statistics == NULL ? stor_statistics_load(request->session, collection) : NULL;
        if (taken != NULL && is_stale(taken, atomic_load(&collection->documents)))
            stor_statistics_unreference(&taken);
        if (taken == NULL)
            taken = stor_statistics_take(request, collection);
        install(planner, collection->id, taken);
        stor_statistics_unreference(&statistics);
        statistics = taken;
    }
    if (statistics != NULL && !atomic_load(&statistics->stored) &&
        stor_engine_free_allowed(request->storage->engine, NULL) == VD_OK) {
        rc = stor_statistics_store(request->session, collection->id, statistics, err);
        *ret_worked = true;
    }
    stor_statistics_unreference(&statistics);
    return rc;
}

static bool has_room(stor_planner_t *planner, uint64_t collection_id)
{
    (void)pthread_mutex_lock(&planner->lock);
    bool room = planner->count < STOR_PLANNER_COLLECTIONS_MAX ||
                record_of(planner, collection_id, false) != NULL;
    (void)pthread_mutex_unlock(&planner->lock);
    return room;
}

int stor_planner_refresh(stor_storage_t *storage, stor_session_t *session, const atomic_bool *stop,
                         vd_error_t *err)
{
    static const struct timespec pause = {.tv_nsec = 20000000};
    stor_planner_t *planner = storage->planner;
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = vd_xalloc(sizeof *request);
    uint64_t id = 0;
    int rc = VD_OK;
    atomic_store(&planner->refreshed, true);
    for (stor_collection_t *c; rc == VD_OK && !(stop != NULL && atomic_load(stop)) &&
                               (c = stor_catalog_next(storage->catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        stor_collection_t *held;
        bool worked = false;
        id = c->id;
        if (c->indexes == NULL || c->indexes->count == 0 || c->view ||
            atomic_load(&c->documents) < SAMPLE_FROM || !has_room(planner, id))
            continue;
        stor_request_init(request, storage, arena);
        request->session = session;
        /* Held as by a query, so that its tables stay; one that has gone, or is changed for long,
         * is passed over. */
        if (stor_catalog_acquire_id(request, id, &held, NULL) == VD_OK)
            rc = refresh_one(request, held, &worked, err);
        stor_catalog_release_all(request);
        vd_arena_reset(arena);
        if (worked && stop != NULL)
            (void)nanosleep(&pause, NULL); /* waking early is fine */
    }
    if (rc == VD_OK && !(stop != NULL && atomic_load(stop)) &&
        stor_engine_free_allowed(storage->engine, NULL) == VD_OK)
        rc = stor_statistics_sweep(storage->catalog, session, err);
    vd_arena_destroy(&arena);
    vd_free(request);
    return rc;
}

bool stor_planner_statistics(stor_planner_t *planner, uint64_t collection_id,
                             int64_t *ret_documents, int64_t *ret_taken_wall_ms)
{
    (void)pthread_mutex_lock(&planner->lock);
    const record_t *record = record_of(planner, collection_id, false);
    bool found = record != NULL && record->statistics != NULL;
    if (found) {
        *ret_documents = record->statistics->documents;
        *ret_taken_wall_ms = record->statistics->taken_wall_ms;
    }
    (void)pthread_mutex_unlock(&planner->lock);
    return found;
}

/* ---- a plan ---- */

typedef struct {
    stor_request_t *request;
    uint64_t collection_id;
    const stor_variables_t *variables;
} dive_t;

static bool dive(void *context, const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                 uint32_t most, uint32_t *ret_examined, uint32_t *ret_inside)
{
    dive_t *into = context;
    stor_request_t *request = into->request;
    stor_plan_node_t node = {.kind = STOR_PLAN_IXSCAN, .index = index, .bounds = bounds};
    stor_plan_t plan = {.access = &node, .keys_only = true};
    stor_source_options_t options = {.collection_id = into->collection_id,
                                     .plan = &plan,
                                     .variables = into->variables,
                                     .keys_max = most};
    vd_arena_t *arena = vd_arena_create(), *scratch = vd_arena_create();
    stor_source_t *source = NULL;
    stor_found_t found;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t keys = request->keys_examined;
    *ret_inside = 0;
    int rc = stor_source_open(arena, &options, &source, &err);
    while (rc == VD_OK && (rc = stor_source_next(source, request, scratch, &found, &err)) == VD_OK)
        (*ret_inside)++;
    const stor_source_counts_t *counts = stor_source_counts(source, 0);
    *ret_examined = counts == NULL ? 0 : (uint32_t)counts->keys;
    stor_source_close(&source);
    vd_arena_destroy(&arena);
    vd_arena_destroy(&scratch);
    request->keys_examined = keys;
    return rc == VD_ERR_NOT_FOUND;
}

static void query_of(const stor_query_spec_t *spec, stor_plan_query_t *ret)
{
    int64_t most = 0;
    if (spec->limit > 0 && __builtin_add_overflow(spec->limit, spec->skip, &most))
        most = 0;
    *ret = (stor_plan_query_t){.filter = spec->filter,
                               .sort = spec->sort,
                               .variables = spec->variables,
                               .needs = spec->needs,
                               .count_only = spec->count_only,
                               .distinct = spec->distinct,
                               .most = most,
                               .natural = spec->natural,
                               .hint = spec->hint,
                               .min = spec->min,
                               .max = spec->max,
                               .return_key = spec->return_key,
                               .writes = spec->writes};
}

uint64_t stor_planner_shape(const stor_query_spec_t *spec)
{
    stor_plan_query_t query;
    query_of(spec, &query);
    return stor_plan_shape(&query);
}

uint64_t stor_planner_filter_shape(const stor_query_spec_t *spec)
{
    stor_plan_query_t query;
    query_of(spec, &query);
    return stor_plan_filter_shape(&query);
}

stor_plan_filters_t *stor_planner_filters(stor_planner_t *planner)
{
    return planner->filters;
}

static bool is_cacheable(const stor_query_spec_t *spec)
{
    return spec->natural == 0 && (vd_value_is_nullish(spec->hint)) && spec->min.len == 0 &&
           spec->max.len == 0;
}

static bool cache_find(stor_planner_t *planner, uint64_t collection_id, uint64_t shape,
                       stor_plan_cache_entry_t *ret)
{
    bool found = false;
    (void)pthread_mutex_lock(&planner->lock);
    const record_t *record = record_of(planner, collection_id, false);
    for (uint32_t i = 0; record != NULL && i < record->cached_count && !found; i++)
        if (record->cached[i].entry.shape == shape) {
            *ret = record->cached[i].entry;
            found = true;
        }
    (void)pthread_mutex_unlock(&planner->lock);
    return found;
}

static stor_collection_t *held(const stor_request_t *request, uint64_t id)
{
    for (uint32_t i = 0; i < request->held_count; i++)
        if (request->held[i]->id == id)
            return request->held[i];
    return NULL;
}

/* The table that plan/ is given; lives in the request. */
static void facts_of(vd_arena_t *arena, const stor_collection_t *collection,
                     const stor_statistics_t *statistics, stor_plan_facts_t *ret)
{
    const stor_index_set_t *set = collection->indexes;
    stor_plan_index_t *indexes =
        VD_ARENA_ARRAY(arena, stor_plan_index_t, set == NULL ? 1 : set->count);
    uint32_t count = 0;
    for (uint32_t i = 0; set != NULL && i < set->count; i++) {
        stor_index_t *index = set->items[i];
        if (index->state != STOR_INDEX_READY)
            continue;
        stor_plan_index_t *item = &indexes[count++];
        *item =
            (stor_plan_index_t){.id = index->id,
                                .def = index->def,
                                .multikey = (stor_index_multikey_t)atomic_load(&index->multikey),
                                .entries = atomic_load(&index->entries)};
        for (uint32_t k = 0; statistics != NULL && k < statistics->index_count; k++)
            if (statistics->index_ids[k] == index->id)
                item->sample = &statistics->indexes[k];
    }
    *ret = (stor_plan_facts_t){.index_count = count,
                               .indexes = indexes,
                               .documents = atomic_load(&collection->documents),
                               .capped = collection->capped.is,
                               .time = collection->timeseries.time,
                               .sample = statistics == NULL ? NULL : &statistics->sample};
}

static void count_accesses(stor_collection_t *collection, const stor_plan_node_t *node)
{
    if (node->kind == STOR_PLAN_IDHACK || node->kind == STOR_PLAN_ID_RANGE)
        atomic_fetch_add_explicit(&collection->id_accesses, 1, memory_order_relaxed);
    if (node->index != NULL)
        for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++)
            if (collection->indexes->items[i]->id == node->index->id)
                atomic_fetch_add(&collection->indexes->items[i]->accesses, 1);
    if (node->kind == STOR_PLAN_SORT_MERGE && node->children[0]->index != NULL) {
        count_accesses(collection, node->children[0]);
        return;
    }
    for (uint32_t i = 0; i < node->child_count; i++)
        count_accesses(collection, node->children[i]);
}

int stor_planner_plan(vd_arena_t *arena, stor_request_t *request, const stor_query_spec_t *spec,
                      stor_planner_mode_t mode, const stor_plan_t **ret_plan, uint64_t *ret_budget,
                      stor_plans_t *rejected, vd_error_t *err)
{
    stor_planner_t *planner = request->storage->planner;
    stor_collection_t *collection = held(request, spec->collection_id);
    stor_collection_t *acquired = NULL;
    stor_plan_query_t query;
    stor_plan_facts_t facts;
    stor_plan_cache_entry_t cached = {0};
    if (stor_local_is(spec->collection_id)) {
        query_of(spec, &query);
        *ret_budget = 0;
        facts = (stor_plan_facts_t){.keyless = true};
        return stor_plan_make(arena, &query, &facts, ret_plan, rejected, err);
    }
    if (collection == NULL) {
        int acquire_rc = stor_catalog_acquire_id(request, spec->collection_id, &acquired, err);
        if (acquire_rc != VD_OK)
            return acquire_rc;
        collection = acquired;
    }
    query_of(spec, &query);
    *ret_budget = 0;
    bool none = collection->indexes == NULL || collection->indexes->count == 0;
    stor_statistics_t *statistics =
        planner == NULL || none ? NULL : statistics_of(request, collection);
    facts_of(arena, collection, statistics, &facts);
    if (planner != NULL &&
        stor_plan_filters_apply(planner->filters, collection->id, &query, &facts) &&
        query.natural == 0)
        query.hint = VD_VALUE_MISSING;
    dive_t into = {request, collection->id, spec->variables};
    facts.dive = dive;
    facts.dive_context = &into;
    facts.wary = mode == STOR_PLANNER_WARY;
    bool remembered = mode == STOR_PLANNER_CACHED && !none && planner != NULL &&
                      is_cacheable(spec) &&
                      cache_find(planner, collection->id, stor_plan_shape(&query), &cached);
    facts.wanted = remembered ? cached.signature : 0;
    int rc = stor_plan_make(arena, &query, &facts, ret_plan, rejected, err);
    if (rc == VD_OK && remembered && (*ret_plan)->signature != cached.signature) {
        remembered = false; /* it no longer is among the candidates */
        facts.wanted = 0;
        rc = stor_plan_make(arena, &query, &facts, ret_plan, rejected, err);
    }
    if (rc == VD_OK && remembered)
        *ret_budget = STOR_PLAN_CACHE_WORSE * cached.works + CACHE_SLACK;
    else if (rc == VD_OK && mode != STOR_PLANNER_WARY && spec->limit > 0 && !none)
        *ret_budget =
            (uint64_t)(LIMIT_WORSE * ((*ret_plan)->access->keys + (*ret_plan)->access->documents)) +
            LIMIT_SLACK;
    if (rc == VD_OK && !spec->explain)
        count_accesses(collection, (*ret_plan)->access);
    stor_statistics_unreference(&statistics);
    return rc;
}

/* ---- what was learnt ---- */

/* {query, sort, projection, collation}; NONE when it is too long. */
static vd_bson_t asked_make(vd_arena_t *arena, const stor_query_spec_t *spec)
{
    static const uint8_t none[5] = {5};
    vd_bson_t empty = {none, sizeof none}, asked, collation = stor_collation_spec();
    vd_bson_t filter = spec->asked_filter.len > 0 ? spec->asked_filter
                       : spec->filter != NULL     ? stor_filter_to_bson(arena, spec->filter)
                                                  : empty;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, ASKED_BYTES);
    vd_bb_document(&bb, "query", filter);
    vd_bb_document(&bb, "sort", spec->asked_sort.len > 0 ? spec->asked_sort : empty);
    vd_bb_document(&bb, "projection",
                   spec->asked_projection.len > 0 ? spec->asked_projection : empty);
    if (collation.len > 0)
        vd_bb_document(&bb, "collation", collation);
    return vd_bb_finish(&bb, &asked, NULL) == VD_OK ? asked : VD_BSON_NONE;
}

void stor_planner_ran(stor_request_t *request, const stor_query_spec_t *spec,
                      const stor_plan_t *plan, uint64_t works)
{
    stor_planner_t *planner = request->storage->planner;
    const stor_collection_t *collection = held(request, spec->collection_id);
    if (planner == NULL || collection == NULL || collection->indexes == NULL || !is_cacheable(spec))
        return;
    uint64_t shape = stor_planner_shape(spec);
    (void)pthread_mutex_lock(&planner->lock);
    record_t *record = record_of(planner, spec->collection_id, false);
    cached_t *cached = NULL;
    for (uint32_t i = 0; record != NULL && i < record->cached_count; i++)
        if (record->cached[i].entry.shape == shape)
            cached = &record->cached[i];
    if (cached != NULL) {
        if (cached->entry.signature != plan->signature ||
            works > STOR_PLAN_CACHE_WORSE * cached->entry.works + CACHE_SLACK)
            *cached = record->cached[--record->cached_count];
    } else if (record != NULL && works <= CACHE_WORKS_MAX &&
               record->cached_count < STOR_PLAN_CACHE_MAX) {
        if (record->cached == NULL)
            record->cached = vd_xalloc(STOR_PLAN_CACHE_MAX * sizeof *record->cached);
        cached = &record->cached[record->cached_count++];
        cached->entry = (stor_plan_cache_entry_t){.shape = shape,
                                                  .signature = plan->signature,
                                                  .works = works,
                                                  .cost = plan->cost,
                                                  .created_wall_ms = vd_wall_ms(),
                                                  .filter_shape = stor_planner_filter_shape(spec)};
        vd_bson_t asked = asked_make(request->arena, spec);
        cached->entry.created_from = (vd_bson_t){NULL, asked.len};
        if (asked.len > 0)
            memcpy(cached->asked, asked.data, asked.len);
        (void)snprintf(cached->summary, sizeof cached->summary, "%s",
                       stor_plan_summary(request->arena, plan));
    }
    (void)pthread_mutex_unlock(&planner->lock);
}

void stor_planner_clear(stor_planner_t *planner, uint64_t collection_id, uint64_t shape)
{
    if (planner == NULL)
        return;
    (void)pthread_mutex_lock(&planner->lock);
    record_t *record = record_of(planner, collection_id, false);
    for (uint32_t i = record == NULL ? 0 : record->cached_count; i-- > 0;)
        if (shape == 0 || record->cached[i].entry.shape == shape)
            record->cached[i] = record->cached[--record->cached_count];
    (void)pthread_mutex_unlock(&planner->lock);
}

void stor_planner_entries(stor_planner_t *planner, vd_arena_t *arena, uint64_t collection_id,
                          stor_plan_cache_entry_t **ret_entries, uint32_t *ret_count)
{
    *ret_entries = NULL;
    *ret_count = 0;
    if (planner == NULL)
        return;
    (void)pthread_mutex_lock(&planner->lock);
    const record_t *record = record_of(planner, collection_id, false);
    uint32_t count = record == NULL ? 0 : record->cached_count;
    stor_plan_cache_entry_t *entries = VD_ARENA_ARRAY(arena, stor_plan_cache_entry_t, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        entries[i] = record->cached[i].entry;
        entries[i].summary = vd_arena_strdup(arena, record->cached[i].summary);
        entries[i].created_from.data =
            vd_arena_copy(arena, record->cached[i].asked, entries[i].created_from.len);
    }
    (void)pthread_mutex_unlock(&planner->lock);
    *ret_entries = entries;
    *ret_count = count;
}

void stor_planner_hashes(uint64_t shape, uint64_t signature, stor_plan_hashes_t *ret)
{
    uint64_t key = (shape ^ signature) * 0x100000001b3ull;
    (void)snprintf(ret->query, sizeof ret->query, "%08X", (uint32_t)(shape ^ shape >> 32));
    (void)snprintf(ret->key, sizeof ret->key, "%08X", (uint32_t)(key ^ key >> 32));
}
