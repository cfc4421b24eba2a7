/* veddb-storaged/catalog/catalog.h — what exists: databases, collections, their options. The
 * encrypted table "catalog" is the only truth.
 *
 * Duty:    loads at open, sweeps orphaned tables, creates, drops, renames, modifies; hands
 *          collections out behind a fence: acquiring takes a share in the collection; a schema
 *          change first waits (bounded) until nobody holds one and lets nobody in meanwhile. Names
 *          of tables are ids ("c-12"), never names of users.
 * Changes: create: file first, then row and journal entry in one transaction. drop: row and
 *          journal entry, then the file, when nobody uses it. One change at a time.
 * Locks:   hold several collections only by stor_catalog_acquire_many (fixed order); never change
 *          the schema while holding one. Transactions (transactions.h) hold many, and wait for a
 *          fence only briefly (VD_ERR_LOCK_TIMEOUT); a change that waits for long ends them.
 * Rows:    key "c" + id u64 BE -> BSON {id, db, name, uuid, options, created}; "m" + name -> BSON
 *          {v: ...} (meta: set id, term, auth epoch, segments of the journal "s" + number); "n" +
 *          id -> counters folded up to a journal position (counters.h); "x" + collection + id ->
 *          an index; "k" + id -> what is kept of it (rows.h).
 * Threads: any. */
#pragma once
#include "libcommon/bson/compare.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/query/filter.h"
#include "veddb-storaged/request.h"

typedef enum {
    STOR_VALIDATION_STRICT,
    STOR_VALIDATION_MODERATE,
    STOR_VALIDATION_OFF
} stor_validation_level_t;
typedef enum { STOR_VALIDATION_ERROR, STOR_VALIDATION_WARN } stor_validation_action_t;

/* What a write has to say about the version of the document that it changes. */
typedef enum {
    STOR_CAS_OPTIONAL, /* $version is checked where it is given */
    STOR_CAS_OFF,      /* it is refused */
    STOR_CAS_REQUIRED, /* an update or replacement without it is refused */
} stor_cas_t;

/* Of a capped collection (capped.h). */
typedef struct {
    bool is;
    int64_t size, max;    /* bytes and documents; max 0: any number */
    char table[32];       /* "o-12": the order of its documents */
    pthread_mutex_t lock; /* of its writers, from begin to commit */
    uint64_t first;       /* under the lock: no place below it is taken */
} stor_collection_capped_t;

/* Of a time-series collection (timeseries.h). */
typedef struct {
    bool is;
    vd_slice_t time, meta;        /* top-level fields; meta NULL: none. In options */
    int64_t expire_after_seconds; /* -1: measurements stay */
    atomic_uint_fast32_t next;    /* number of the next place */
} stor_collection_timeseries_t;

/* What an operation is to $collStats and top; the first three read. */
typedef enum {
    STOR_TRAFFIC_QUERY,
    STOR_TRAFFIC_GETMORE,
    STOR_TRAFFIC_READ_COMMAND,
    STOR_TRAFFIC_INSERT,
    STOR_TRAFFIC_UPDATE,
    STOR_TRAFFIC_REMOVE,
    STOR_TRAFFIC_WRITE_COMMAND,
    STOR_TRAFFIC_COUNT,
} stor_traffic_kind_t;
typedef struct {
    atomic_uint_fast64_t operations, us;
} stor_traffic_t;

struct stor_collection {
    /* Never change while the object lives (renaming and modifying make a new one). */
    uint64_t id;
    char table[32];      /* "c-12" */
    char *ns;            /* "db.name" */
    vd_slice_t db, name; /* into ns */
    uint8_t uuid[16];
    bool is_auth;             /* admin.system.users, .roles, .tokens */
    uint64_t moved;           /* renamed: at which count of destructions; 0 */
    bool images;              /* changeStreamPreAndPostImages: writes journal what was before */
    bool view;                /* its table stays empty; only stor_catalog_view tells of it */
    vd_slice_t view_on;       /* a collection or view of the same database; in options */
    vd_bson_t view_pipeline;  /* array; in options */
    vd_bson_t options;        /* as given to create, normalised: what listCollections shows */
    stor_filter_t *validator; /* NULL = none; borrowed from options_arena */
    stor_validation_level_t validation_level;
    stor_validation_action_t validation_action;
    stor_cas_t cas;
    /* The default of operations and indexes that name none; NULL = simple. In options as it was
     * when it was made, maybe by another version of ICU. */
    const vd_collation_t *collation;
    vd_arena_t *options_arena;
    stor_collection_capped_t capped;
    stor_collection_timeseries_t timeseries;
    struct stor_index_set *indexes; /* index/index.h; NULL = only the one on _id */
    /* Exact as of the commits that have happened; see counters.c. */
    atomic_int_fast64_t documents, bytes;
    atomic_uint_fast64_t hash;
    stor_traffic_t traffic[STOR_TRAFFIC_COUNT]; /* latency, for $collStats and top */
    atomic_uint_fast64_t id_accesses;           /* $indexStats: plans that used _id */
    int64_t since_wall_ms;                      /* $indexStats: counting since */
    atomic_uint_fast64_t scrubs, scrub_failures;
    atomic_int_fast64_t scrubbed_wall_ms;
    /* The fence (catalog.c). */
    atomic_int users;
    atomic_int state;
    atomic_int references;
};

/* ---- for handlers ---- */
/* The functions that acquire refuse a view (166): who can do with one asks stor_catalog_view
 * before. The collection, or VD_ERR_NAMESPACE_NOT_FOUND (quiet: reads of a missing collection find
 * nothing). It is held until the handler returns (or stor_catalog_release). */
VD_MUST_CHECK int stor_catalog_acquire(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                       stor_collection_t **ret_collection, vd_error_t *err);
/* By id, for cursors that go on: VD_ERR_NAMESPACE_NOT_FOUND when it was dropped. */
VD_MUST_CHECK int stor_catalog_acquire_id(stor_request_t *request, uint64_t id,
                                          stor_collection_t **ret_collection, vd_error_t *err);
/* Found or made with default options. */
VD_MUST_CHECK int stor_catalog_acquire_or_create(stor_request_t *request, vd_slice_t db,
                                                 vd_slice_t name,
                                                 stor_collection_t **ret_collection,
                                                 vd_error_t *err);
/* All or none; ret[i] NULL for those that don't exist. */
VD_MUST_CHECK int stor_catalog_acquire_many(stor_request_t *request, const vd_slice_t *namespaces,
                                            uint32_t count, stor_collection_t **ret_collections,
                                            vd_error_t *err);
void stor_catalog_release(stor_request_t *request, stor_collection_t *collection);
/* The default collation of a collection or view, put in force when `given` is NONE; else the one
 * that is given. A view takes only its own (167). VD_OK also when there is no such collection. */
VD_MUST_CHECK int stor_catalog_collation_use(stor_request_t *request, vd_slice_t db,
                                             vd_slice_t name, vd_bson_t given, vd_error_t *err);
/* What a view stands on, its stages and its collation (whole; NONE = simple; may be NULL), copied
 * into the arena; false: there is no such view. */
bool stor_catalog_view(stor_catalog_t *catalog, vd_arena_t *arena, vd_slice_t db, vd_slice_t name,
                       vd_slice_t *ret_on, vd_bson_t *ret_pipeline, vd_bson_t *ret_collation);
void stor_catalog_release_all(stor_request_t *request);
/* A new object of the same collection goes on counting. */
void stor_collection_traffic_move(stor_collection_t *to, stor_collection_t *from);
/* Gives one share back: of those that transactions keep between requests. */
void stor_catalog_share_end(stor_catalog_t *catalog, stor_collection_t *collection);

/* ---- what exists: visits a consistent copy; ascending by name ---- */
typedef struct {
    uint64_t id;
    vd_slice_t db, name;
    const uint8_t *uuid;
    vd_bson_t options;
    bool view;
    int64_t documents, bytes;
    uint64_t hash;
    int64_t file_bytes, free_bytes; /* of the table; -1 when it can't be told */
    uint32_t index_count;           /* those that are ready, without the one on _id */
    const uint64_t *index_tables;   /* numbers */
    int64_t index_bytes, index_free_bytes;
} stor_collection_info_t;
/* Copies everything into the arena. db empty = all databases. sizes: ask the engine for file sizes
 * (slower). */
VD_MUST_CHECK int stor_catalog_list(stor_catalog_t *catalog, vd_arena_t *arena, vd_slice_t db,
                                    bool sizes, stor_collection_info_t **ret_infos,
                                    uint32_t *ret_count, vd_error_t *err);

/* What exists now, for a snapshot that is about to be taken: a collection that was made, dropped or
 * renamed since can't be read in it (VD_ERR_SNAPSHOT_UNAVAILABLE; request->catalog_mark). */
stor_catalog_mark_t stor_catalog_mark(stor_catalog_t *catalog);

/* ---- changes: each is durable when the reply's dependency is ---- */
typedef struct stor_create_options {
    vd_bson_t
        options; /* checked by the command: validator, validationLevel, validationAction, ... */
    const uint8_t *uuid; /* NULL = new */
} stor_create_options_t;
/* VD_ERR_NAMESPACE_EXISTS, whatever its options are. */
VD_MUST_CHECK int stor_catalog_create(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                      const stor_create_options_t *options, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_drop(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                    vd_error_t *err);
VD_MUST_CHECK int stor_catalog_drop_database(stor_request_t *request, vd_slice_t db,
                                             uint32_t *ret_dropped, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_rename(stor_request_t *request, vd_slice_t from_db,
                                      vd_slice_t from_name, vd_slice_t to_db, vd_slice_t to_name,
                                      bool drop_target, vd_error_t *err);
/* What is in a collection, as far as a change of it can be told. */
typedef struct {
    int64_t documents;
    uint64_t hash, writes;
} stor_catalog_state_t;
stor_catalog_state_t stor_catalog_state(const stor_collection_t *collection);
/* A rename within the database that drops the target, if that is the one of this id and nobody has
 * changed it since: else VD_ERR_AGAIN. */
VD_MUST_CHECK int stor_catalog_rename_over(stor_request_t *request, vd_slice_t db, vd_slice_t from,
                                           vd_slice_t target, uint64_t target_id,
                                           const stor_catalog_state_t *state, vd_error_t *err);
/* Replaces the options by what `change` makes of the present ones, alone in the catalog. (Validator
 * and its level and action are parsed from them.) */
VD_MUST_CHECK int stor_catalog_modify(stor_request_t *request, vd_slice_t db, vd_slice_t name,
                                      int (*change)(void *context, vd_bson_t old,
                                                    vd_bson_t *ret_options, vd_error_t *err),
                                      void *context, vd_error_t *err);

/* A change that another node's journal holds: under the same id and uuid, in one transaction with
 * that entry (key and value as they came) at its timestamp. Nobody else changes the catalog.
 * request: carries session, storage, arena. VD_ERR_DIVERGED: what it changes is not as it was
 * there; nothing was done. */
VD_MUST_CHECK int stor_catalog_apply(stor_request_t *request, stor_change_kind_t kind, uint64_t id,
                                     vd_bson_t body, uint64_t timestamp, vd_slice_t entry_key,
                                     vd_slice_t entry_value, vd_error_t *err);

/* ---- the program ---- */
VD_MUST_CHECK int stor_catalog_open(stor_storage_t *storage, stor_catalog_t **ret_catalog,
                                    vd_error_t *err);
void stor_catalog_close(stor_catalog_t **catalog_p);
/* Tables of dropped collections and journal segments that are no longer in use: tries to remove
 * their files (keeper). */
void stor_catalog_remove_dropped(stor_catalog_t *catalog, stor_session_t *session);
/* Meta rows; get: VD_ERR_NOT_FOUND. put joins the session's open transaction, or makes its own. */
VD_MUST_CHECK int stor_catalog_meta_get(stor_session_t *session, const char *name,
                                        vd_arena_t *arena, vd_value_t *ret_value, vd_error_t *err);
VD_MUST_CHECK int stor_catalog_meta_put(stor_session_t *session, const char *name, vd_value_t value,
                                        vd_error_t *err);
/* Visits the journal's segments: number and first timestamp. */
VD_MUST_CHECK int stor_catalog_segments(stor_session_t *session,
                                        int (*visit)(void *context, uint64_t number,
                                                     uint64_t first),
                                        void *context, vd_error_t *err);
/* A table that no row names any more: its file goes when nobody has it open. */
void stor_catalog_table_dropped(stor_catalog_t *catalog, const char *table);
/* By id, without the fence (keeper: counters, scrub): a reference that keeps the object alive; NULL
 * when there is none. */
stor_collection_t *stor_catalog_reference(stor_catalog_t *catalog, uint64_t id);
void stor_catalog_unreference(stor_collection_t **collection_p);
/* The collection with the smallest id above `after`, referenced; NULL at the end. */
stor_collection_t *stor_catalog_next(stor_catalog_t *catalog, uint64_t after);
