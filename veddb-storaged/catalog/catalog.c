/* veddb-storaged/catalog/catalog.c — the maps, the fence, and the sweep at open. Changes stand in
 * change.c. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog_private.h"
#include "veddb-storaged/catalog/names.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/index/builds.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/timeseries.h"
#include "veddb-storaged/transactions.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- objects ---- */

/* Copies the options, holds the collation, parses the validator under it. */
static int options_set(stor_collection_t *collection, vd_bson_t options, vd_error_t *err)
{
    vd_arena_t *arena = vd_arena_create();
    static const uint8_t empty[5] = {5, 0, 0, 0, 0};
    vd_bson_t copy = {vd_arena_copy(arena, options.len < 5 ? empty : options.data,
                                    options.len < 5 ? 5 : options.len),
                      options.len < 5 ? 5 : options.len};
    stor_filter_t *filter = NULL;
    vd_value_t validator = vd_bson_get(copy, "validator"),
               collation = vd_bson_get(copy, "collation");
    int rc = VD_OK;
    if (collation.type == VD_BSON_OBJECT)
        rc = stor_collation_hold(arena, vd_value_document(collation), &collection->collation, err);
    const vd_collation_t *before = vd_collation_set(collection->collation);
    if (rc == VD_OK && validator.type == VD_BSON_OBJECT &&
        !vd_bson_is_empty(vd_value_document(validator)))
        rc = stor_filter_parse(arena, vd_value_document(validator), NULL, &filter, err);
    (void)vd_collation_set(before);
    if (rc != VD_OK) {
        vd_arena_destroy(&arena);
        return rc;
    }
    vd_value_t level = vd_bson_get(copy, "validationLevel");
    vd_value_t action = vd_bson_get(copy, "validationAction");
    collection->validation_level = STOR_VALIDATION_STRICT;
    if (level.type == VD_BSON_STRING && vd_slice_is(vd_value_string(level), "moderate"))
        collection->validation_level = STOR_VALIDATION_MODERATE;
    else if (level.type == VD_BSON_STRING && vd_slice_is(vd_value_string(level), "off"))
        collection->validation_level = STOR_VALIDATION_OFF;
    collection->validation_action =
        action.type == VD_BSON_STRING && vd_slice_is(vd_value_string(action), "warn")
            ? STOR_VALIDATION_WARN
            : STOR_VALIDATION_ERROR;
    vd_value_t cas = vd_bson_get(copy, "cas");
    if (cas.type == VD_BSON_STRING && vd_slice_is(vd_value_string(cas), "required"))
        collection->cas = STOR_CAS_REQUIRED;
    else if (cas.type == VD_BSON_STRING && vd_slice_is(vd_value_string(cas), "off"))
        collection->cas = STOR_CAS_OFF;
    vd_value_t on = vd_bson_get(copy, "viewOn"), stages = vd_bson_get(copy, "pipeline");
    collection->view = on.type == VD_BSON_STRING;
    if (collection->view) {
        static const uint8_t empty_array[5] = {5, 0, 0, 0, 0};
        collection->view_on = vd_value_string(on);
        collection->view_pipeline = stages.type == VD_BSON_ARRAY
                                        ? vd_value_document(stages)
                                        : (vd_bson_t){empty_array, sizeof empty_array};
    }
    vd_value_t images = vd_bson_get(copy, "changeStreamPreAndPostImages");
    collection->images = images.type == VD_BSON_OBJECT &&
                         vd_value_as_flag(vd_bson_get(vd_value_document(images), "enabled"));
    collection->capped.is = vd_value_as_flag(vd_bson_get(copy, "capped"));
    (void)vd_value_as_int64(vd_bson_get(copy, "size"), &collection->capped.size);
    (void)vd_value_as_int64(vd_bson_get(copy, "max"), &collection->capped.max);
    stor_timeseries_read(copy, &collection->timeseries);
    collection->options_arena = arena;
    collection->options = copy;
    collection->validator = filter;
    return VD_OK;
}

int stor_collection_make(uint64_t id, vd_slice_t db, vd_slice_t name, const uint8_t uuid[16],
                         vd_bson_t options, stor_collection_t **ret_collection, vd_error_t *err)
{
    stor_collection_t *collection = vd_xalloc(sizeof *collection);
    collection->id = id;
    (void)snprintf(collection->table, sizeof collection->table, "c-%llu", (unsigned long long)id);
    (void)snprintf(collection->capped.table, sizeof collection->capped.table, "o-%llu",
                   (unsigned long long)id);
    (void)pthread_mutex_init(&collection->capped.lock, NULL);
    collection->ns = vd_xalloc(db.len + name.len + 2);
    memcpy(collection->ns, db.data, db.len);
    collection->ns[db.len] = '.';
    memcpy(collection->ns + db.len + 1, name.data, name.len);
    collection->db = vd_slice(collection->ns, db.len);
    collection->name = vd_slice(collection->ns + db.len + 1, name.len);
    memcpy(collection->uuid, uuid, 16);
    collection->is_auth = stor_name_is_auth(db, name);
    collection->since_wall_ms = vd_wall_ms();
    atomic_store(&collection->references, 1);
    int rc = options_set(collection, options, err);
    if (rc != VD_OK)
        stor_catalog_unreference(&collection);
    else
        *ret_collection = collection;
    return rc;
}

void stor_collection_traffic_move(stor_collection_t *to, stor_collection_t *from)
{
    for (size_t i = 0; i < STOR_TRAFFIC_COUNT; i++) {
        atomic_store(&to->traffic[i].operations, atomic_load(&from->traffic[i].operations));
        atomic_store(&to->traffic[i].us, atomic_load(&from->traffic[i].us));
    }
    atomic_store(&to->id_accesses, atomic_load(&from->id_accesses));
    to->since_wall_ms = from->since_wall_ms;
}

void stor_catalog_unreference(stor_collection_t **collection_p)
{
    stor_collection_t *collection = *collection_p;
    *collection_p = NULL;
    if (collection == NULL || atomic_fetch_sub(&collection->references, 1) != 1)
        return;
    stor_index_set_unreference(&collection->indexes);
    (void)pthread_mutex_destroy(&collection->capped.lock);
    vd_arena_destroy(&collection->options_arena);
    vd_free(collection->ns);
    vd_free(collection);
}

stor_collection_t *stor_catalog_reference(stor_catalog_t *catalog, uint64_t id)
{
    pthread_rwlock_rdlock(&catalog->lock);
    stor_collection_t *collection = vd_map_get(catalog->by_id, vd_key_u64(&id));
    if (collection != NULL)
        atomic_fetch_add(&collection->references, 1);
    pthread_rwlock_unlock(&catalog->lock);
    return collection;
}

stor_collection_t *stor_catalog_next(stor_catalog_t *catalog, uint64_t after)
{
    stor_collection_t *least = NULL;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    pthread_rwlock_rdlock(&catalog->lock);
    while (vd_map_next(catalog->by_id, &position, &key, &value)) {
        stor_collection_t *collection = value;
        if (collection->id > after && (least == NULL || collection->id < least->id))
            least = collection;
    }
    if (least != NULL)
        atomic_fetch_add(&least->references, 1);
    pthread_rwlock_unlock(&catalog->lock);
    return least;
}

/* ---- the maps ---- */

static void note_defaults(stor_catalog_t *catalog, const stor_collection_t *collection)
{
    if (collection->collation != NULL || collection->view)
        atomic_store(&catalog->has_defaults, true);
}

void stor_catalog_enter_locked(stor_catalog_t *catalog, stor_collection_t *collection)
{
    note_defaults(catalog, collection);
    void *old = NULL;
    int rc = vd_map_put(catalog->by_ns, vd_slice_str(collection->ns), collection, &old);
    VD_ASSERT(rc == VD_OK && old == NULL); /* the number was checked before */
    rc = vd_map_put(catalog->by_id, vd_key_u64(&collection->id), collection, &old);
    VD_ASSERT(rc == VD_OK && old == NULL);
}

void stor_catalog_enter(stor_catalog_t *catalog, stor_collection_t *collection)
{
    pthread_rwlock_wrlock(&catalog->lock);
    stor_catalog_enter_locked(catalog, collection);
    pthread_rwlock_unlock(&catalog->lock);
}

/* Nobody holds what leaves or is swapped: it is fenced. So who saw it has seen the versions' epoch
 * before it grows here. */
void stor_catalog_leave(stor_catalog_t *catalog, stor_collection_t *collection)
{
    stor_versions_all_begin(catalog->storage->versions);
    pthread_rwlock_wrlock(&catalog->lock);
    atomic_fetch_add(&catalog->destroyed, 1);
    (void)vd_map_remove(catalog->by_ns, vd_slice_str(collection->ns));
    (void)vd_map_remove(catalog->by_id, vd_key_u64(&collection->id));
    pthread_rwlock_unlock(&catalog->lock);
    stor_versions_all_end(catalog->storage->versions);
}

void stor_catalog_swap(stor_catalog_t *catalog, stor_collection_t *from, stor_collection_t *to,
                       stor_collection_t *dropped)
{
    VD_ASSERT(from->id == to->id);
    stor_versions_all_begin(catalog->storage->versions);
    pthread_rwlock_wrlock(&catalog->lock);
    to->moved = from->moved;
    note_defaults(catalog, to);
    /* A snapshot from before does not see what an index that was built since must have. */
    if (strcmp(from->ns, to->ns) != 0 || to->indexes != NULL || from->indexes != NULL)
        to->moved = atomic_fetch_add(&catalog->destroyed, 1) + 1;
    (void)vd_map_remove(catalog->by_ns, vd_slice_str(from->ns));
    if (dropped != NULL) {
        (void)vd_map_remove(catalog->by_ns, vd_slice_str(dropped->ns));
        (void)vd_map_remove(catalog->by_id, vd_key_u64(&dropped->id));
    }
    void *old = NULL;
    int rc = vd_map_put(catalog->by_ns, vd_slice_str(to->ns), to, &old);
    VD_ASSERT(rc == VD_OK && old == NULL);
    rc = vd_map_put(catalog->by_id, vd_key_u64(&to->id), to, &old);
    VD_ASSERT(rc == VD_OK && old == from);
    pthread_rwlock_unlock(&catalog->lock);
    stor_versions_all_end(catalog->storage->versions);
}

/* ---- the fence ---- */

static void cond_wait_ms(stor_catalog_t *catalog, uint64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += (time_t)(ms / 1000) + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&catalog->fence_changed, &catalog->fence_lock, &until);
}

static void share_give(stor_catalog_t *catalog, stor_collection_t *collection)
{
    /* Read first: after the last share is given back the object may be gone. A close in between is
     * seen by its own polling. */
    bool open = atomic_load(&collection->state) == STOR_FENCE_OPEN;
    if (atomic_fetch_sub(&collection->users, 1) != 1 || open)
        return;
    pthread_mutex_lock(&catalog->fence_lock);
    pthread_cond_broadcast(&catalog->fence_changed);
    pthread_mutex_unlock(&catalog->fence_lock);
}

/* Under the map's read lock, which keeps the object alive until the share does. False: the fence is
 * closed, and nothing is taken. The share is given back here and now: once the lock is left, a
 * dropped collection may be freed at any moment. (Who closed the fence polls.) */
static bool share_take(stor_collection_t *collection)
{
    atomic_fetch_add(&collection->users, 1);
    if (VD_LIKELY(atomic_load(&collection->state) == STOR_FENCE_OPEN))
        return true;
    atomic_fetch_sub(&collection->users, 1);
    return false;
}

void stor_catalog_share_end(stor_catalog_t *catalog, stor_collection_t *collection)
{
    share_give(catalog, collection);
}

int stor_catalog_fence(stor_request_t *request, stor_collection_t *collection, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    uint64_t begun = vd_monotonic_ms(), give_up = begun + STOR_FENCE_WAIT_MS;
    int rc = VD_OK;
    atomic_store(&collection->state, STOR_FENCE_CLOSED);
    pthread_mutex_lock(&catalog->fence_lock);
    while (rc == VD_OK && atomic_load(&collection->users) != 0) {
        cond_wait_ms(catalog, 20);
        request->checks = 0; /* each check looks at the clock */
        rc = stor_request_check(request, err);
        if (rc == VD_OK && vd_monotonic_ms() - begun > STOR_TRANSACTION_SCHEMA_WAIT_MS) {
            pthread_mutex_unlock(&catalog->fence_lock);
            stor_transactions_kill_users(request->storage, collection);
            pthread_mutex_lock(&catalog->fence_lock);
        }
        if (rc == VD_OK && vd_monotonic_ms() > give_up)
            rc =
                vd_error_set(err, VD_ERR_LOCK_TIMEOUT, "the collection stayed in use for too long");
    }
    pthread_mutex_unlock(&catalog->fence_lock);
    if (rc != VD_OK)
        stor_catalog_unfence(catalog, collection, false);
    return rc;
}

void stor_catalog_unfence(stor_catalog_t *catalog, stor_collection_t *collection, bool gone)
{
    atomic_store(&collection->state, gone ? STOR_FENCE_GONE : STOR_FENCE_OPEN);
    pthread_mutex_lock(&catalog->fence_lock);
    pthread_cond_broadcast(&catalog->fence_changed);
    pthread_mutex_unlock(&catalog->fence_lock);
}

/* A transaction does not wait for long, since what is changed may wait for it. */
static int fence_wait(stor_request_t *request, uint64_t begun_ms, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    if (request->transaction != NULL &&
        vd_monotonic_ms() - begun_ms > STOR_TRANSACTION_LOCK_WAIT_MS)
        return vd_error_set(err, VD_ERR_LOCK_TIMEOUT,
                            "Unable to acquire lock within a max lock request timeout of '%dms' "
                            "milliseconds.",
                            STOR_TRANSACTION_LOCK_WAIT_MS);
    pthread_mutex_lock(&catalog->fence_lock);
    cond_wait_ms(catalog, 5);
    pthread_mutex_unlock(&catalog->fence_lock);
    request->checks = 0; /* each check looks at the clock */
    return stor_request_check(request, err);
}

/* ---- for handlers ---- */

static int not_found(stor_request_t *request, vd_error_t *err)
{
    stor_request_depends_newest(request);
    return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND, "ns not found");
}

static int is_view(const char *ns, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_COMMAND_NOT_SUPPORTED_ON_VIEW,
                        "Namespace %s is a view, not a collection", ns);
}

static stor_collection_t *own_find(const stor_request_t *request, vd_map_t *map, vd_slice_t key)
{
    if (VD_LIKELY(request->transaction == NULL))
        return NULL;
    return map == request->storage->catalog->by_id
               ? stor_transaction_own(request, VD_SLICE_NULL, vd_get_u64(key.data))
               : stor_transaction_own(request, key, 0);
}

/* *ret: NULL when it does not exist. False when it is fenced now: then nothing is held. */
static bool try_acquire(const stor_request_t *request, vd_map_t *map, vd_slice_t key,
                        stor_collection_t **ret)
{
    stor_catalog_t *catalog = request->storage->catalog;
    *ret = own_find(request, map, key);
    if (*ret != NULL)
        return share_take(*ret); /* nobody else has it, to fence it */
    pthread_rwlock_rdlock(&catalog->lock);
    stor_collection_t *collection = vd_map_get(map, key);
    bool open = collection == NULL || share_take(collection);
    /* Who closed the fence waits for this transaction: no use to wait for him. */
    if (!open && stor_transaction_holds(request, collection)) {
        atomic_fetch_add(&collection->users, 1);
        open = true;
    }
    pthread_rwlock_unlock(&catalog->lock);
    *ret = open ? collection : NULL;
    return open;
}

stor_catalog_mark_t stor_catalog_mark(stor_catalog_t *catalog)
{
    return (stor_catalog_mark_t){atomic_load(&catalog->destroyed) + 1,
                                 atomic_load(&catalog->next_id)};
}

/* Whether the request's snapshot was taken when the name meant the same. Makings alone do no harm:
 * the collection is empty in the snapshot, as it was when it did not exist. */
static int snapshot_check(const stor_request_t *request, const stor_collection_t *collection,
                          vd_error_t *err)
{
    const stor_catalog_mark_t *mark = &request->catalog_mark;
    uint64_t now = atomic_load(&request->storage->catalog->destroyed) + 1;
    if (mark->destroyed == 0 || mark->destroyed == now ||
        (collection != NULL && collection->id < mark->next_id &&
         collection->moved + 1 <= mark->destroyed) ||
        (collection != NULL && stor_transaction_holds(request, collection)))
        return VD_OK;
    return vd_error_set(err, VD_ERR_SNAPSHOT_UNAVAILABLE,
                        "Unable to read from a snapshot due to pending collection catalog changes; "
                        "please retry the operation.");
}

/* Dropped and made anew since its default collation was taken: what was parsed is another query. */
static int collation_check(const stor_request_t *request, const stor_collection_t *collection,
                           vd_error_t *err)
{
    if (request->default_name.len == 0 ||
        (collection->collation == NULL && request->default_collation.len == 0) ||
        !vd_slice_equal(request->default_name, collection->name) ||
        !vd_slice_equal(request->default_db, collection->db))
        return VD_OK;
    vd_bson_t now = stor_collation_of(collection->collation);
    if (now.len == request->default_collation.len &&
        (now.len == 0 || memcmp(now.data, request->default_collation.data, now.len) == 0))
        return VD_OK;
    return vd_error_set(err, VD_ERR_LOCATION(175),
                        "collection dropped and made anew with another collation");
}

static int acquire(stor_request_t *request, vd_map_t *map, vd_slice_t key,
                   stor_collection_t **ret_collection, vd_error_t *err)
{
    VD_ASSERT(request->held_count < STOR_REQUEST_HELD_MAX);
    uint64_t begun_ms = request->transaction == NULL ? 0 : vd_monotonic_ms();
    for (;;) {
        stor_collection_t *collection;
        if (try_acquire(request, map, key, &collection)) {
            int rc = snapshot_check(request, collection, err);
            if (rc == VD_OK && collection != NULL)
                rc = collation_check(request, collection, err);
            if (rc != VD_OK && collection != NULL)
                share_give(request->storage->catalog, collection);
            if (rc != VD_OK)
                return rc;
            if (collection == NULL)
                return not_found(request, err);
            if (collection->view) {
                int refused = is_view(collection->ns, err);
                share_give(request->storage->catalog, collection);
                return refused;
            }
            request->held[request->held_count++] = collection;
            *ret_collection = collection;
            return VD_OK;
        }
        int rc = fence_wait(request, begun_ms, err);
        if (rc != VD_OK)
            return rc;
    }
}

static int ns_key(vd_slice_t db, vd_slice_t name, uint8_t *buf, size_t size, vd_slice_t *ret)
{
    if (db.len + name.len + 1 > size)
        return VD_ERR_NAMESPACE_NOT_FOUND; /* longer than any that exists */
    memcpy(buf, db.data, db.len);
    buf[db.len] = '.';
    memcpy(buf + db.len + 1, name.data, name.len);
    *ret = vd_slice(buf, db.len + 1 + name.len);
    return VD_OK;
}

int stor_catalog_acquire(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                         stor_collection_t **ret_collection, vd_error_t *err)
{
    uint8_t buf[VD_NAMESPACE_MAX_BYTES + 1];
    vd_slice_t key;
    if (ns_key(db, name, buf, sizeof buf, &key) != VD_OK)
        return not_found(request, err);
    return acquire(request, request->storage->catalog->by_ns, key, ret_collection, err);
}

int stor_catalog_acquire_id(stor_request_t *request, uint64_t id,
                            stor_collection_t **ret_collection, vd_error_t *err)
{
    return acquire(request, request->storage->catalog->by_id, vd_key_u64(&id), ret_collection, err);
}

int stor_catalog_acquire_or_create(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                   stor_collection_t **ret_collection, vd_error_t *err)
{
    for (;;) {
        vd_error_t step = VD_ERROR_INIT;
        int rc = stor_catalog_acquire(request, db, name, ret_collection, &step);
        if (rc == VD_ERR_NAMESPACE_NOT_FOUND) {
            vd_error_clear(&step);
            stor_create_options_t options = {VD_BSON_NONE, NULL};
            rc = request->transaction != NULL
                     ? stor_transaction_create(request, db, name, &options, &step)
                     : stor_catalog_create(request, db, name, &options, &step);
            if (rc == VD_OK || rc == VD_ERR_NAMESPACE_EXISTS)
                continue;
        }
        if (rc != VD_OK && err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
}

int stor_catalog_acquire_many(stor_request_t *request, const vd_slice_t *namespaces, uint32_t count,
                              stor_collection_t **ret_collections, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    VD_ASSERT(request->held_count + count <= STOR_REQUEST_HELD_MAX);
    uint64_t begun_ms = request->transaction == NULL ? 0 : vd_monotonic_ms();
    for (;;) {
        uint32_t taken = 0;
        bool open = true;
        for (; open && taken < count; taken++)
            open = try_acquire(request, catalog->by_ns, namespaces[taken], &ret_collections[taken]);
        if (open) {
            int rc = VD_OK;
            for (uint32_t i = 0; i < count; i++) {
                if (ret_collections[i] == NULL)
                    continue;
                request->held[request->held_count++] = ret_collections[i];
                if (rc == VD_OK && ret_collections[i]->view)
                    rc = is_view(ret_collections[i]->ns, err);
                if (rc == VD_OK)
                    rc = snapshot_check(request, ret_collections[i], err);
                if (rc == VD_OK)
                    rc = collation_check(request, ret_collections[i], err);
            }
            if (rc != VD_OK)
                for (uint32_t i = 0; i < count; i++)
                    if (ret_collections[i] != NULL)
                        stor_catalog_release(request, ret_collections[i]);
            return rc;
        }
        /* Nobody waits at a fence while he holds a share. */
        for (uint32_t i = 0; i < taken; i++)
            if (ret_collections[i] != NULL)
                share_give(catalog, ret_collections[i]);
        int rc = fence_wait(request, begun_ms, err);
        if (rc != VD_OK)
            return rc;
    }
}

/* Whole: the object may go as soon as the lock is free. */
static vd_bson_t collation_copy(vd_arena_t *arena, const stor_collection_t *collection)
{
    vd_bson_t spec = stor_collation_of(collection->collation);
    return spec.len == 0 ? VD_BSON_NONE
                         : (vd_bson_t){vd_arena_copy(arena, spec.data, spec.len), spec.len};
}

bool stor_catalog_view(stor_catalog_t *catalog, vd_arena_t *arena, vd_slice_t db, vd_slice_t name,
                       vd_slice_t *ret_on, vd_bson_t *ret_pipeline, vd_bson_t *ret_collation)
{
    uint8_t buf[VD_NAMESPACE_MAX_BYTES + 1];
    vd_slice_t key;
    if (ns_key(db, name, buf, sizeof buf, &key) != VD_OK)
        return false;
    pthread_rwlock_rdlock(&catalog->lock);
    const stor_collection_t *collection = vd_map_get(catalog->by_ns, key);
    bool view = collection != NULL && collection->view;
    if (view) {
        vd_bson_t stages = collection->view_pipeline;
        *ret_on = vd_arena_copy_slice(arena, collection->view_on);
        *ret_pipeline = (vd_bson_t){vd_arena_copy(arena, stages.data, stages.len), stages.len};
        if (ret_collation != NULL)
            *ret_collation = collation_copy(arena, collection);
    }
    pthread_rwlock_unlock(&catalog->lock);
    return view;
}

int stor_catalog_collation_use(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                               vd_bson_t given, vd_error_t *err)
{
    stor_catalog_t *catalog = request->storage->catalog;
    uint8_t buf[VD_NAMESPACE_MAX_BYTES + 2];
    vd_slice_t key;
    bool view = false;
    vd_bson_t own = VD_BSON_NONE;
    bool named = !vd_bson_is_empty(given);
    request->default_db = named ? VD_SLICE_NULL : db;
    request->default_name = named ? VD_SLICE_NULL : name;
    request->default_collation = VD_BSON_NONE;
    if (!atomic_load(&catalog->has_defaults) || ns_key(db, name, buf, sizeof buf, &key) != VD_OK)
        return stor_collation_use(given, err);
    pthread_rwlock_rdlock(&catalog->lock);
    const stor_collection_t *collection = vd_map_get(catalog->by_ns, key);
    if (collection != NULL) {
        view = collection->view;
        own = collation_copy(request->arena, collection);
    }
    pthread_rwlock_unlock(&catalog->lock);
    if (!named) {
        request->default_collation = own;
        return stor_collation_use(own, err);
    }
    int rc = stor_collation_use(given, err);
    if (rc == VD_OK && view && !stor_collation_is(own))
        rc = vd_error_set(err, VD_ERR_LOCATION(167), "Cannot override a view's default collation");
    return rc;
}

void stor_catalog_release(stor_request_t *request, stor_collection_t *collection)
{
    for (uint32_t i = request->held_count; i-- > 0;) {
        if (request->held[i] != collection)
            continue;
        request->held[i] = request->held[--request->held_count];
        share_give(request->storage->catalog, collection);
        return;
    }
    VD_UNREACHABLE();
}

void stor_catalog_release_all(stor_request_t *request)
{
    while (request->held_count > 0)
        share_give(request->storage->catalog, request->held[--request->held_count]);
}

/* ---- what exists ---- */

static int info_compare(const void *a, const void *b)
{
    const stor_collection_info_t *x = a, *y = b;
    int c = vd_slice_compare(x->db, y->db);
    return c != 0 ? c : vd_slice_compare(x->name, y->name);
}

static stor_collection_info_t info_of(const stor_collection_t *collection, vd_arena_t *arena)
{
    vd_bson_t options = {vd_arena_copy(arena, collection->options.data, collection->options.len),
                         collection->options.len};
    const stor_index_set_t *set = collection->indexes;
    uint64_t *ids = VD_ARENA_ARRAY(arena, uint64_t, set == NULL ? 1 : set->count + 1);
    uint32_t count = 0;
    for (uint32_t i = 0; set != NULL && i < set->count; i++)
        if (atomic_load(&set->items[i]->state) == STOR_INDEX_READY)
            ids[count++] = set->items[i]->table_number;
    return (stor_collection_info_t){
        .id = collection->id,
        .db = vd_arena_copy_slice(arena, collection->db),
        .name = vd_arena_copy_slice(arena, collection->name),
        .uuid = vd_arena_copy(arena, collection->uuid, 16),
        .options = options,
        .view = collection->view,
        .documents = atomic_load(&collection->documents),
        .bytes = atomic_load(&collection->bytes),
        .hash = atomic_load(&collection->hash),
        .file_bytes = -1,
        .free_bytes = -1,
        .index_count = count,
        .index_tables = ids,
    };
}

static void sizes_fill(stor_catalog_t *catalog, stor_collection_info_t *infos, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        char table[32];
        uint64_t file_bytes, free_bytes;
        (void)snprintf(table, sizeof table, "c-%llu", (unsigned long long)infos[i].id);
        if (stor_engine_table_size(catalog->storage->engine, table, &file_bytes, &free_bytes,
                                   NULL) != VD_OK)
            continue; /* dropped meanwhile */
        infos[i].file_bytes = (int64_t)file_bytes;
        infos[i].free_bytes = (int64_t)free_bytes;
        for (uint32_t j = 0; j < infos[i].index_count; j++) {
            (void)snprintf(table, sizeof table, "i-%llu",
                           (unsigned long long)infos[i].index_tables[j]);
            if (stor_engine_table_size(catalog->storage->engine, table, &file_bytes, &free_bytes,
                                       NULL) != VD_OK)
                continue;
            infos[i].index_bytes += (int64_t)file_bytes;
            infos[i].index_free_bytes += (int64_t)free_bytes;
        }
    }
}

int stor_catalog_list(stor_catalog_t *catalog, vd_arena_t *arena, vd_slice_t db, bool sizes,
                      stor_collection_info_t **ret_infos, uint32_t *ret_count, vd_error_t *err)
{
    (void)err;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    uint32_t count = 0;
    pthread_rwlock_rdlock(&catalog->lock);
    stor_collection_info_t *infos =
        VD_ARENA_ARRAY(arena, stor_collection_info_t, vd_map_count(catalog->by_ns) + 1);
    while (vd_map_next(catalog->by_ns, &position, &key, &value)) {
        stor_collection_t *collection = value;
        if (db.len == 0 || vd_slice_equal(collection->db, db))
            infos[count++] = info_of(collection, arena);
    }
    pthread_rwlock_unlock(&catalog->lock);
    qsort(infos, count, sizeof *infos, info_compare);
    if (sizes)
        sizes_fill(catalog, infos, count);
    *ret_infos = infos;
    *ret_count = count;
    return VD_OK;
}

/* ---- dropped tables ---- */

void stor_catalog_table_dropped(stor_catalog_t *catalog, const char *table)
{
    stor_dropped_t *dropped = vd_xalloc(sizeof *dropped);
    (void)snprintf(dropped->table, sizeof dropped->table, "%s", table);
    stor_engine_table_retire(catalog->storage->engine, table);
    pthread_mutex_lock(&catalog->dropped_lock);
    dropped->next = catalog->dropped;
    catalog->dropped = dropped;
    pthread_mutex_unlock(&catalog->dropped_lock);
}

void stor_catalog_tables_gone(stor_catalog_t *catalog, const stor_collection_t *collection)
{
    stor_catalog_table_dropped(catalog, collection->table);
    if (collection->capped.is)
        stor_catalog_table_dropped(catalog, collection->capped.table);
    for (uint32_t i = 0; collection->indexes != NULL && i < collection->indexes->count; i++) {
        stor_index_t *index = collection->indexes->items[i];
        if (atomic_load(&index->state) == STOR_INDEX_BUILDING) {
            atomic_store(&index->log->cancelled, VD_ERR_INDEX_BUILD_ABORTED);
            stor_catalog_table_dropped(catalog, index->log->table);
        }
        stor_catalog_table_dropped(catalog, index->table);
    }
}

/* Out of the list, if it stands there. */
static void dropped_forget(stor_catalog_t *catalog, const char *table)
{
    pthread_mutex_lock(&catalog->dropped_lock);
    for (stor_dropped_t **at = &catalog->dropped; *at != NULL;) {
        stor_dropped_t *dropped = *at;
        if (strcmp(dropped->table, table) != 0) {
            at = &dropped->next;
            continue;
        }
        *at = dropped->next;
        vd_free(dropped);
    }
    pthread_mutex_unlock(&catalog->dropped_lock);
}

int stor_catalog_table_make(stor_catalog_t *catalog, const char *table, vd_error_t *err)
{
    stor_engine_t *engine = catalog->storage->engine;
    uint64_t give_up = vd_monotonic_ms() + STOR_FENCE_WAIT_MS;
    dropped_forget(catalog, table);
    int rc;
    while ((rc = stor_engine_table_drop(engine, table, NULL)) == VD_ERR_OBJECT_IS_BUSY &&
           vd_monotonic_ms() < give_up) {
        struct timespec pause = {.tv_nsec = 5000000}; /* a checkpoint has it */
        (void)nanosleep(&pause, NULL);                /* waking early is fine */
    }
    return stor_engine_table_create(engine, table, false, err); /* says what is wrong, if it is */
}

/* One of the list: true when it is done with. */
static bool dropped_remove(stor_catalog_t *catalog, stor_dropped_t *dropped)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_engine_table_drop(catalog->storage->engine, dropped->table, &err);
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return true;
    if (rc != VD_ERR_OBJECT_IS_BUSY && dropped->tries % 100 == 0)
        vd_log(VD_LOG_WARN, "a dropped table's file can't be removed yet", "table=%s code=%d",
               dropped->table, -rc);
    dropped->tries++;
    return false;
}

void stor_catalog_remove_dropped(stor_catalog_t *catalog, stor_session_t *session)
{
    (void)session;
    if (atomic_load(&catalog->files_held) != 0)
        return;
    /* Alone in the catalog: a table may be made anew under the same name (stor_catalog_table_make).
     * Who changes something now has its own file to make; these can wait. */
    if (pthread_mutex_trylock(&catalog->change_lock) != 0)
        return;
    pthread_mutex_lock(&catalog->dropped_lock);
    stor_dropped_t *list = catalog->dropped;
    catalog->dropped = NULL;
    pthread_mutex_unlock(&catalog->dropped_lock);
    while (list != NULL) {
        stor_dropped_t *dropped = list;
        list = dropped->next;
        if (dropped_remove(catalog, dropped)) {
            vd_free(dropped);
            continue;
        }
        pthread_mutex_lock(&catalog->dropped_lock);
        dropped->next = catalog->dropped;
        catalog->dropped = dropped;
        pthread_mutex_unlock(&catalog->dropped_lock);
    }
    pthread_mutex_unlock(&catalog->change_lock);
}

/* ---- open ---- */

static int row_load(vd_bson_t row, void *context, vd_error_t *err)
{
    stor_catalog_t *catalog = context;
    int64_t id = 0;
    vd_value_t db = vd_bson_get(row, "db"), name = vd_bson_get(row, "name"),
               uuid = vd_bson_get(row, "uuid"), options = vd_bson_get(row, "options");
    if (!vd_value_as_int64(vd_bson_get(row, "id"), &id) || id <= 0 || db.type != VD_BSON_STRING ||
        name.type != VD_BSON_STRING || uuid.type != VD_BSON_BINARY ||
        vd_value_binary(uuid, NULL).len != 16 || options.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_CORRUPT, "a row of the catalog is malformed");
    stor_collection_t *collection;
    int rc = stor_collection_make((uint64_t)id, vd_value_string(db), vd_value_string(name),
                                  vd_value_binary(uuid, NULL).data, vd_value_document(options),
                                  &collection, err);
    if (rc != VD_OK)
        return vd_error_prefix(err, "loading a collection from the catalog");
    if ((uint64_t)id >= catalog->next_id)
        catalog->next_id = (uint64_t)id + 1;
    stor_catalog_enter(catalog, collection);
    return VD_OK;
}

typedef struct {
    stor_catalog_t *catalog;
    vd_map_t *named; /* tables that rows of the journal and of indexes name */
    uint32_t removed;
    bool found_catalog;
} sweep_t;

static int sweep_segment(void *context, uint64_t number, uint64_t first)
{
    (void)first;
    sweep_t *sweep = context;
    char table[32];
    (void)snprintf(table, sizeof table, "j-%llu", (unsigned long long)number);
    return vd_map_put(sweep->named, vd_slice_str(table), sweep, NULL);
}

/* A table that no row names was made, or dropped, just before the process died. */
static int sweep_table(const char *name, void *context)
{
    sweep_t *sweep = context;
    bool orphan = false;
    if (strncmp(name, "c-", 2) == 0) {
        uint64_t id = strtoull(name + 2, NULL, 10);
        orphan = vd_map_get(sweep->catalog->by_id, vd_key_u64(&id)) == NULL;
    } else if (strncmp(name, "o-", 2) == 0) {
        uint64_t id = strtoull(name + 2, NULL, 10);
        const stor_collection_t *of = vd_map_get(sweep->catalog->by_id, vd_key_u64(&id));
        orphan = of == NULL || !of->capped.is;
    } else if (strncmp(name, "r-", 2) == 0) {
        orphan = true; /* of a build that begins anew */
    } else if (strncmp(name, "j-", 2) == 0 || strncmp(name, "i-", 2) == 0 ||
               strncmp(name, "b-", 2) == 0) {
        orphan = vd_map_get(sweep->named, vd_slice_str(name)) == NULL;
    }
    if (!orphan)
        return VD_OK;
    sweep->removed++;
    vd_error_t err = VD_ERROR_INIT;
    if (stor_engine_table_drop(sweep->catalog->storage->engine, name, &err) != VD_OK)
        vd_log(VD_LOG_WARN, "an orphaned table can't be removed", "table=%s code=%d", name,
               -err.code);
    return VD_OK;
}

static int sweep_indexes(sweep_t *sweep)
{
    uint64_t id = 0;
    int rc = VD_OK;
    for (stor_collection_t *c; rc == VD_OK && (c = stor_catalog_next(sweep->catalog, id)) != NULL;
         stor_catalog_unreference(&c)) {
        id = c->id;
        for (uint32_t i = 0; rc == VD_OK && c->indexes != NULL && i < c->indexes->count; i++) {
            const stor_index_t *index = c->indexes->items[i];
            rc = vd_map_put(sweep->named, vd_slice_str(index->table), sweep, NULL);
            if (rc == VD_OK && index->log != NULL)
                rc = vd_map_put(sweep->named, vd_slice_str(index->log->table), sweep, NULL);
        }
    }
    return rc;
}

static int sweep(stor_catalog_t *catalog, stor_session_t *session, vd_error_t *err)
{
    sweep_t sweep = {.catalog = catalog, .named = vd_map_create(10000000)};
    int rc = stor_catalog_segments(session, sweep_segment, &sweep, err);
    if (rc == VD_OK && sweep_indexes(&sweep) != VD_OK)
        rc = vd_error_set(err, VD_ERR_FULL, "too many indexes");
    if (rc == VD_OK)
        rc = stor_engine_tables(catalog->storage->engine, sweep_table, &sweep, err);
    if (sweep.removed > 0)
        vd_log(VD_LOG_INFO, "orphaned tables removed", "count=%u", sweep.removed);
    vd_map_destroy(&sweep.named);
    return rc;
}

typedef struct {
    bool catalog, guards;
} found_t;

static int find_tables(const char *name, void *context)
{
    found_t *found = context;
    found->catalog |= strcmp(name, STOR_CATALOG_TABLE) == 0;
    found->guards |= strcmp(name, STOR_INDEX_GUARDS_TABLE) == 0;
    return VD_OK;
}

static int load(stor_catalog_t *catalog, vd_error_t *err)
{
    stor_engine_t *engine = catalog->storage->engine;
    stor_session_t *session = NULL;
    found_t found = {false, false};
    int rc = stor_engine_tables(engine, find_tables, &found, err);
    if (rc == VD_OK && !found.catalog)
        rc = stor_engine_table_create(engine, STOR_CATALOG_TABLE, false, err);
    if (rc == VD_OK && !found.guards)
        rc = stor_engine_table_create(engine, STOR_INDEX_GUARDS_TABLE, false, err);
    if (rc == VD_OK)
        rc = stor_session_open(engine, &session, err);
    if (rc == VD_OK)
        rc = stor_rows_collections(session, row_load, catalog, err);
    if (rc == VD_OK)
        rc = stor_catalog_indexes_load(catalog, session, err);
    vd_arena_t *arena = vd_arena_create();
    vd_value_t next;
    int64_t next_id;
    if (rc == VD_OK && stor_catalog_meta_get(session, "next_id", arena, &next, NULL) == VD_OK &&
        vd_value_as_int64(next, &next_id) && (uint64_t)next_id > catalog->next_id)
        catalog->next_id = (uint64_t)next_id;
    vd_arena_destroy(&arena);
    if (rc == VD_OK)
        rc = sweep(catalog, session, err);
    stor_session_close(&session);
    return rc;
}

int stor_catalog_open(stor_storage_t *storage, stor_catalog_t **ret_catalog, vd_error_t *err)
{
    stor_catalog_t *catalog = vd_xalloc(sizeof *catalog);
    catalog->storage = storage;
    catalog->next_id = 1;
    catalog->by_ns = vd_map_create(STOR_COLLECTIONS_MAX);
    catalog->by_id = vd_map_create(STOR_COLLECTIONS_MAX);
    pthread_rwlock_init(&catalog->lock, NULL);
    pthread_mutex_init(&catalog->change_lock, NULL);
    pthread_mutex_init(&catalog->fence_lock, NULL);
    pthread_mutex_init(&catalog->dropped_lock, NULL);
    pthread_cond_init(&catalog->fence_changed, NULL);
    storage->builds = stor_builds_create(storage);
    int rc = load(catalog, err);
    if (rc != VD_OK)
        stor_catalog_close(&catalog);
    else
        *ret_catalog = catalog;
    return rc;
}

void stor_catalog_close(stor_catalog_t **catalog_p)
{
    stor_catalog_t *catalog = *catalog_p;
    if (catalog == NULL)
        return;
    size_t position = 0;
    vd_slice_t key;
    void *value;
    stor_builds_destroy(&catalog->storage->builds);
    while (vd_map_next(catalog->by_id, &position, &key, &value)) {
        stor_collection_t *collection = value;
        stor_catalog_unreference(&collection);
    }
    while (catalog->dropped != NULL) { /* their files go at the next start */
        stor_dropped_t *dropped = catalog->dropped;
        catalog->dropped = dropped->next;
        vd_free(dropped);
    }
    vd_map_destroy(&catalog->by_ns);
    vd_map_destroy(&catalog->by_id);
    pthread_rwlock_destroy(&catalog->lock);
    pthread_mutex_destroy(&catalog->change_lock);
    pthread_mutex_destroy(&catalog->fence_lock);
    pthread_mutex_destroy(&catalog->dropped_lock);
    pthread_cond_destroy(&catalog->fence_changed);
    vd_free(catalog);
    *catalog_p = NULL;
}
