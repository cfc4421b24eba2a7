/* veddb-storaged/catalog/catalog_private.h — what catalog.c, change.c, own.c and indexes*.c share:
 * the maps, the fence, making of objects.
 *
 * Threads: see catalog.h. Order of locks: change_lock, then the fence, then lock. */
#pragma once
#include "libcommon/base/map.h"
#include "veddb-storaged/catalog/catalog.h"

#define STOR_COLLECTIONS_MAX 1000000
#define STOR_FENCE_WAIT_MS   30000

enum { STOR_FENCE_OPEN, STOR_FENCE_CLOSED, STOR_FENCE_GONE };

typedef struct stor_dropped {
    struct stor_dropped *next;
    char table[32];
    uint32_t tries;
} stor_dropped_t;

struct stor_catalog {
    stor_storage_t *storage;
    pthread_rwlock_t lock; /* the two maps */
    vd_map_t *by_ns, *by_id;
    atomic_bool has_defaults;       /* one with a collation, or a view, was ever in the maps */
    pthread_mutex_t change_lock;    /* one schema change at a time */
    atomic_uint_fast64_t next_id;   /* written under change_lock; never falls, also over restarts */
    atomic_uint_fast64_t destroyed; /* drops and renames since the start, and one */
    pthread_mutex_t fence_lock;
    pthread_cond_t fence_changed;
    atomic_uint_fast64_t counters_at; /* counters.c: journal position folded */
    atomic_int files_held;            /* files of dropped tables stay while it is not 0 */
    pthread_mutex_t dropped_lock;
    stor_dropped_t *dropped;
};

VD_MUST_CHECK int stor_collection_make(uint64_t id, vd_slice_t db, vd_slice_t name,
                                       const uint8_t uuid[16], vd_bson_t options,
                                       stor_collection_t **ret_collection, vd_error_t *err);
/* The file of a collection whose id another node chose: one that is left of an earlier try goes
 * first. */
VD_MUST_CHECK int stor_catalog_table_make(stor_catalog_t *catalog, const char *table,
                                          vd_error_t *err);
void stor_catalog_enter(stor_catalog_t *catalog, stor_collection_t *collection);
/* The same, where lock is held for writing. */
void stor_catalog_enter_locked(stor_catalog_t *catalog, stor_collection_t *collection);
void stor_catalog_leave(stor_catalog_t *catalog, stor_collection_t *collection);
/* `to` (same id) takes the place of `from`, and of `dropped` (may be NULL), in one step: nobody
 * sees a moment without either. */
void stor_catalog_swap(stor_catalog_t *catalog, stor_collection_t *from, stor_collection_t *to,
                       stor_collection_t *dropped);
/* Lets nobody in and waits until nobody holds it. On an error it is open again. */
VD_MUST_CHECK int stor_catalog_fence(stor_request_t *request, stor_collection_t *collection,
                                     vd_error_t *err);
void stor_catalog_unfence(stor_catalog_t *catalog, stor_collection_t *collection, bool gone);
/* The same without a request, and patient: false when it stayed in use for too long. */
bool stor_catalog_fence_plain(stor_catalog_t *catalog, stor_collection_t *collection);

/* ---- change.c ---- */
/* The entry of another node that a change comes from. */
typedef struct {
    uint64_t timestamp;
    vd_slice_t key, value;
} stor_given_t;

typedef struct {
    stor_change_kind_t kind;
    uint64_t collection_id;
    vd_bson_t body;
    const stor_given_t *given; /* NULL: our own, whose entry is made here */
    /* Puts and removes rows, in the transaction. */
    int (*rows)(stor_session_t *session, void *context, vd_error_t *err);
    void *context;
} stor_schema_change_t;
VD_MUST_CHECK int stor_catalog_change_commit(stor_request_t *request,
                                             const stor_schema_change_t *change, vd_error_t *err);
/* `from` is fenced, and what stands in its row now is `to`: takes its place. `from` is let go. */
void stor_catalog_replace(stor_catalog_t *catalog, stor_collection_t *from, stor_collection_t *to,
                          stor_collection_t *dropped);
/* The collection while change_lock is held: nobody else can remove it. */
stor_collection_t *stor_catalog_find(stor_catalog_t *catalog, vd_slice_t db, vd_slice_t name);
/* What it has in tables goes. */
void stor_catalog_tables_gone(stor_catalog_t *catalog, const stor_collection_t *collection);

/* ---- change.c, for own.c ---- */
/* A change that holds it may wait for a collection that a transaction has a share in: so a request
 * in one gives up soon, with VD_ERR_LOCK_TIMEOUT. */
VD_MUST_CHECK int stor_catalog_change_lock(stor_request_t *request, vd_error_t *err);
/* Another database that differs by case alone: 13297. */
VD_MUST_CHECK int stor_catalog_case_check(stor_catalog_t *catalog, vd_slice_t db, vd_error_t *err);
/* An object and its tables, which nobody knows yet: what is asked for, or what another node has
 * made. change_lock is held. */
VD_MUST_CHECK int stor_catalog_object_make(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                           const stor_create_options_t *options,
                                           stor_collection_t **ret_collection, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_object_applied(stor_request_t *request, uint64_t id, vd_bson_t body,
                                              stor_collection_t **ret_collection, vd_error_t *err);
/* The index that comes with the collection, in its entry; NULL: none. */
const struct stor_index *stor_catalog_made_with(const stor_collection_t *collection);
/* The body of its CREATE, and its rows. database_made: by an earlier CREATE of the same entry. */
VD_MUST_CHECK int stor_catalog_create_body(stor_request_t *request,
                                           const stor_collection_t *collection, bool database_made,
                                           vd_bson_t *ret_body, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_created_put(stor_session_t *session,
                                           const stor_collection_t *collection, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_next_id_put(stor_catalog_t *catalog, stor_session_t *session,
                                           vd_error_t *err);

/* ---- indexes.c, indexes_applied.c, indexes_open.c ---- */
/* Of an own collection (own.h): the body of CREATE_INDEXES (VD_BSON_NONE: there is nothing to
 * tell), the rows, and what another node's entry tells. */
VD_MUST_CHECK int stor_catalog_own_indexes_body(stor_request_t *request,
                                                const stor_collection_t *collection,
                                                vd_bson_t *ret_body, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_own_indexes_put(stor_session_t *session,
                                               const stor_collection_t *collection,
                                               vd_error_t *err);
VD_MUST_CHECK int stor_catalog_own_indexes_applied(stor_request_t *request,
                                                   stor_collection_t *collection, vd_bson_t body,
                                                   vd_error_t *err);
VD_MUST_CHECK int stor_catalog_indexes_load(stor_catalog_t *catalog, stor_session_t *session,
                                            vd_error_t *err);
/* change_lock is held, and the collection is the one that the change means. */
VD_MUST_CHECK int stor_catalog_indexes_applied(stor_request_t *request, stor_change_kind_t kind,
                                               stor_collection_t *collection, vd_bson_t body,
                                               const stor_given_t *given, vd_error_t *err);
