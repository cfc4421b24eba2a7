/* veddb-storaged/facts.h — what storage knows about itself, as BSON: sizes and traffic of
 * collections, operations in flight, idle cursors. Commands and aggregation stages show the same.
 *
 * Duty:    only figures that are really measured; a field of MongoDB's that has no counterpart here
 *          is left out.
 * Owner:   nothing is kept; documents live in the arena given.
 * Threads: any worker. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"

#define STOR_FACTS_VERSION   "7.0.14" /* of MongoDB, whose replies these are */
#define STOR_FACTS_HOST_SIZE 300

/* "host:port" as drivers see it. */
vd_slice_t stor_facts_host(const stor_storage_t *storage, char buf[STOR_FACTS_HOST_SIZE]);
/* An int32 when it fits, else an int64, as MongoDB appends numbers. */
void stor_facts_number(vd_bb_t *bb, const char *name, int64_t n);

/* collStats and $collStats.storageStats: size, count ... scaleFactor. NULL: zeros, for what does
 * not exist. */
void stor_facts_storage(vd_bb_t *bb, const stor_storage_t *storage,
                        const stor_collection_t *collection, int64_t scale);
/* Of an index's table; zeroes when it is gone. */
void stor_facts_index_size(const stor_storage_t *storage, const char *table, int64_t *ret_bytes,
                           int64_t *ret_free);
/* {reads: {latency, ops}, ...} into the open document; zeros for NULL. */
void stor_facts_latency(vd_bb_t *bb, const stor_collection_t *collection);
/* {v: 2, key: {_id: 1}, name: "_id_"} into the open document; collation: NONE = simple. */
void stor_facts_id_index(vd_bb_t *bb, vd_bson_t collation);
/* Into the open document: "name@db" as {user, db}. */
void stor_facts_user(vd_bb_t *bb, const char *name, vd_slice_t user);

/* ---- what happens now ---- */
typedef struct {
    bool all_users;     /* else only the asker's */
    bool idle_cursors;  /* open cursors that no operation uses */
    bool idle_sessions; /* open transactions without a statement */
    bool truncate;      /* commands above 1 KB are cut */
} stor_operations_options_t;
/* Documents as $currentOp gives them, in the arena. */
VD_MUST_CHECK int stor_facts_operations(stor_request_t *request,
                                        const stor_operations_options_t *options, vd_arena_t *arena,
                                        vd_bson_t **ret_documents, uint32_t *ret_count,
                                        vd_error_t *err);
