/* veddb-storaged/exec/plan_filters.c — see plan_filters.h. */
#include "veddb-storaged/exec/plan_filters.h"

#include "libcommon/base/mem.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct plan_filter {
    struct plan_filter *next; /* in the order in which they were set */
    uint64_t collection_id, shape;
    vd_arena_t *arena;
    vd_bson_t document;
} plan_filter_t;

struct stor_plan_filters {
    pthread_mutex_t lock;
    atomic_uint_fast32_t count; /* 0: nobody needs the lock */
    plan_filter_t *first;
};

stor_plan_filters_t *stor_plan_filters_create(void)
{
    stor_plan_filters_t *filters = vd_xalloc(sizeof *filters);
    (void)pthread_mutex_init(&filters->lock, NULL);
    return filters;
}

static void filter_free(plan_filter_t *filter)
{
    vd_arena_destroy(&filter->arena);
    vd_free(filter);
}

void stor_plan_filters_destroy(stor_plan_filters_t **filters_p)
{
    stor_plan_filters_t *filters = *filters_p;
    *filters_p = NULL;
    if (filters == NULL)
        return;
    for (plan_filter_t *filter = filters->first, *next; filter != NULL; filter = next) {
        next = filter->next;
        filter_free(filter);
    }
    (void)pthread_mutex_destroy(&filters->lock);
    vd_free(filters);
}

/* Under the lock. */
static const plan_filter_t *find(const stor_plan_filters_t *filters, uint64_t collection_id,
                                 uint64_t shape)
{
    const plan_filter_t *filter = filters->first;
    while (filter != NULL && (filter->collection_id != collection_id || filter->shape != shape))
        filter = filter->next;
    return filter;
}

/* Under the lock. shape 0: all of the collection. */
static void remove_some(stor_plan_filters_t *filters, uint64_t collection_id, uint64_t shape)
{
    for (plan_filter_t **at = &filters->first; *at != NULL;) {
        plan_filter_t *filter = *at;
        if (filter->collection_id != collection_id || (shape != 0 && filter->shape != shape)) {
            at = &filter->next;
            continue;
        }
        *at = filter->next;
        filter_free(filter);
        atomic_fetch_sub(&filters->count, 1);
    }
}

int stor_plan_filters_set(stor_plan_filters_t *filters, uint64_t collection_id, uint64_t shape,
                          vd_bson_t document, vd_error_t *err)
{
    plan_filter_t *filter = vd_xalloc(sizeof *filter);
    filter->collection_id = collection_id;
    filter->shape = shape;
    filter->arena = vd_arena_create();
    filter->document =
        (vd_bson_t){vd_arena_copy(filter->arena, document.data, document.len), document.len};
    (void)pthread_mutex_lock(&filters->lock);
    remove_some(filters, collection_id, shape);
    bool room = atomic_load(&filters->count) < STOR_PLAN_FILTERS_MAX;
    if (room) {
        plan_filter_t **at = &filters->first;
        while (*at != NULL)
            at = &(*at)->next;
        *at = filter;
        atomic_fetch_add(&filters->count, 1);
    }
    (void)pthread_mutex_unlock(&filters->lock);
    if (room)
        return VD_OK;
    filter_free(filter);
    return vd_error_set(err, VD_ERR_FULL, "the limit of %d index filters is reached",
                        STOR_PLAN_FILTERS_MAX);
}

void stor_plan_filters_clear(stor_plan_filters_t *filters, uint64_t collection_id, uint64_t shape)
{
    (void)pthread_mutex_lock(&filters->lock);
    remove_some(filters, collection_id, shape);
    (void)pthread_mutex_unlock(&filters->lock);
}

void stor_plan_filters_list(stor_plan_filters_t *filters, vd_arena_t *arena, uint64_t collection_id,
                            vd_bson_t **ret_documents, uint32_t *ret_count)
{
    uint32_t count = 0;
    (void)pthread_mutex_lock(&filters->lock);
    vd_bson_t *documents = VD_ARENA_ARRAY(arena, vd_bson_t, atomic_load(&filters->count) + 1);
    for (const plan_filter_t *filter = filters->first; filter != NULL; filter = filter->next)
        if (filter->collection_id == collection_id)
            documents[count++] =
                (vd_bson_t){vd_arena_copy(arena, filter->document.data, filter->document.len),
                            filter->document.len};
    (void)pthread_mutex_unlock(&filters->lock);
    *ret_documents = documents;
    *ret_count = count;
}

static bool is_named(vd_bson_t document, const stor_index_def_t *def)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(vd_bson_get(document, "indexes")));
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type == VD_BSON_STRING) {
            if (vd_slice_equal(vd_value_string(iter.value), def->name))
                return true;
        } else if (vd_bson_compare(vd_value_document(iter.value), def->key) == 0) {
            return true;
        }
    }
    return false;
}

bool stor_plan_filters_apply(stor_plan_filters_t *filters, uint64_t collection_id,
                             const stor_plan_query_t *query, stor_plan_facts_t *facts)
{
    if (VD_LIKELY(atomic_load(&filters->count) == 0))
        return false;
    uint64_t shape = stor_plan_filter_shape(query);
    stor_plan_index_t *indexes = (stor_plan_index_t *)facts->indexes; /* the caller's own */
    uint32_t kept = 0;
    (void)pthread_mutex_lock(&filters->lock);
    const plan_filter_t *filter = find(filters, collection_id, shape);
    for (uint32_t i = 0; filter != NULL && i < facts->index_count; i++)
        if (is_named(filter->document, indexes[i].def))
            indexes[kept++] = indexes[i];
    (void)pthread_mutex_unlock(&filters->lock);
    if (filter == NULL)
        return false;
    facts->index_count = kept;
    return true;
}

bool stor_plan_filters_has(stor_plan_filters_t *filters, uint64_t collection_id, uint64_t shape)
{
    if (atomic_load(&filters->count) == 0)
        return false;
    (void)pthread_mutex_lock(&filters->lock);
    bool has = find(filters, collection_id, shape) != NULL;
    (void)pthread_mutex_unlock(&filters->lock);
    return has;
}
