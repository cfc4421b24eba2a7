/* veddb-storaged/index/set.c — objects and sets; see index_private.h. */
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/index/index_private.h"

#include <inttypes.h>
#include <stdio.h>

int stor_index_make(uint64_t id, uint64_t table, vd_bson_t spec, stor_index_state_t state,
                    stor_index_t **ret_index, vd_error_t *err)
{
    stor_index_t *index = vd_xalloc(sizeof *index);
    index->id = id;
    index->table_number = table;
    (void)snprintf(index->table, sizeof index->table, "i-%" PRIu64, table);
    index->arena = vd_arena_create();
    index->since_wall_ms = vd_wall_ms();
    atomic_init(&index->state, state);
    atomic_init(&index->references, 1);
    if (state == STOR_INDEX_BUILDING) {
        index->log = VD_ARENA_NEW(index->arena, stor_index_log_t);
        (void)pthread_mutex_init(&index->log->lock, NULL);
        (void)snprintf(index->log->table, sizeof index->log->table, "b-%" PRIu64, table);
    }
    int rc = stor_index_def_parse(index->arena, spec, &index->def, err);
    if (rc != VD_OK)
        stor_index_unreference(&index);
    else
        *ret_index = index;
    return rc;
}

int stor_index_make_building(uint64_t id, uint64_t table, vd_bson_t spec, vd_bson_t building,
                             stor_index_t **ret_index, vd_error_t *err)
{
    int64_t build = 0;
    if (!vd_value_as_int64(vd_bson_get(building, "build"), &build) || build <= 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "what is kept of an index's build is malformed");
    int rc = stor_index_make(id, table, spec, STOR_INDEX_BUILDING, ret_index, err);
    if (rc != VD_OK)
        return rc;
    stor_index_t *index = *ret_index;
    index->log->build = (uint64_t)build;
    index->log->building =
        (vd_bson_t){vd_arena_copy(index->arena, building.data, building.len), building.len};
    return VD_OK;
}

stor_index_t *stor_index_reference(stor_index_t *index)
{
    atomic_fetch_add(&index->references, 1);
    return index;
}

void stor_index_unreference(stor_index_t **index_p)
{
    stor_index_t *index = *index_p;
    *index_p = NULL;
    if (index == NULL || atomic_fetch_sub(&index->references, 1) != 1)
        return;
    if (index->log != NULL)
        (void)pthread_mutex_destroy(&index->log->lock);
    vd_arena_destroy(&index->arena);
    vd_free(index);
}

/* ---- sets ---- */

static stor_index_set_t *set_make(uint32_t room)
{
    stor_index_set_t *set = vd_xalloc(sizeof *set + room * sizeof set->items[0]);
    atomic_init(&set->references, 1);
    return set;
}

static void set_add(stor_index_set_t *set, stor_index_t *item)
{
    set->items[set->count++] = stor_index_reference(item);
}

stor_index_set_t *stor_index_set_reference(stor_index_set_t *set)
{
    if (set != NULL)
        atomic_fetch_add(&set->references, 1);
    return set;
}

void stor_index_set_unreference(stor_index_set_t **set_p)
{
    stor_index_set_t *set = *set_p;
    *set_p = NULL;
    if (set == NULL || atomic_fetch_sub(&set->references, 1) != 1)
        return;
    for (uint32_t i = 0; i < set->count; i++)
        stor_index_unreference(&set->items[i]);
    vd_free(set);
}

static uint32_t count_of(const stor_index_set_t *set)
{
    return set == NULL ? 0 : set->count;
}

stor_index_set_t *stor_index_set_with(const stor_index_set_t *set, stor_index_t *const *items,
                                      uint32_t count)
{
    stor_index_set_t *to = set_make(count_of(set) + count);
    for (uint32_t i = 0; i < count_of(set); i++)
        set_add(to, set->items[i]);
    for (uint32_t i = 0; i < count; i++)
        set_add(to, items[i]);
    return to;
}

stor_index_set_t *stor_index_set_without(const stor_index_set_t *set, stor_index_t *const *items,
                                         uint32_t count)
{
    stor_index_set_t *to = set_make(count_of(set));
    for (uint32_t i = 0; i < count_of(set); i++) {
        bool goes = false;
        for (uint32_t j = 0; j < count; j++)
            goes |= items[j]->id == set->items[i]->id;
        if (!goes)
            set_add(to, set->items[i]);
    }
    if (to->count == 0)
        stor_index_set_unreference(&to);
    return to;
}

stor_index_set_t *stor_index_set_replaced(const stor_index_set_t *set, stor_index_t *item)
{
    stor_index_set_t *to = set_make(count_of(set));
    for (uint32_t i = 0; i < count_of(set); i++)
        set_add(to, set->items[i]->id == item->id ? item : set->items[i]);
    return to;
}

stor_index_t *stor_index_set_find(const stor_index_set_t *set, uint64_t id)
{
    for (uint32_t i = 0; i < count_of(set); i++)
        if (set->items[i]->id == id)
            return set->items[i];
    return NULL;
}

stor_index_t *stor_index_set_named(const stor_index_set_t *set, vd_slice_t name)
{
    for (uint32_t i = 0; i < count_of(set); i++)
        if (vd_slice_equal(set->items[i]->def->name, name))
            return set->items[i];
    return NULL;
}

stor_index_t *stor_index_by_name(const stor_collection_t *collection, vd_slice_t name)
{
    stor_index_t *index = stor_index_set_named(collection->indexes, name);
    return index != NULL && atomic_load(&index->state) == STOR_INDEX_READY ? index : NULL;
}

bool stor_index_same_key(vd_bson_t a, vd_bson_t b)
{
    vd_bson_iter_t x, y;
    vd_bson_iter_init(&x, a);
    vd_bson_iter_init(&y, b);
    while (vd_bson_iter_next(&x)) {
        if (!vd_bson_iter_next(&y) || !vd_slice_equal(x.name, y.name))
            return false;
        bool numbers = vd_value_is_number(x.value) && vd_value_is_number(y.value);
        if (numbers ? vd_value_as_double(x.value) != vd_value_as_double(y.value)
                    : x.value.type != y.value.type || x.value.len != y.value.len ||
                          memcmp(x.value.data, y.value.data, x.value.len) != 0)
            return false;
    }
    return !vd_bson_iter_next(&y);
}

stor_index_t *stor_index_by_key(const stor_collection_t *collection, vd_bson_t key)
{
    const stor_index_set_t *set = collection->indexes;
    for (uint32_t i = 0; i < count_of(set); i++)
        if (atomic_load(&set->items[i]->state) == STOR_INDEX_READY &&
            stor_index_same_key(set->items[i]->def->key, key))
            return set->items[i];
    return NULL;
}
