/* veddb-storaged/exec/query.h — documents of a collection that match, in order, cut and projected:
 * what find, aggregate's head, count, distinct and explain run.
 *
 * Duty:    _id ranges from the filter (plan/bounds), scan, match, sort (top-k when there is a
 *          limit), skip, limit, projection, as one pull iterator. A sort that _id order serves
 *          needs none. Between batches it holds no engine resource.
 * Owner:   open/close; everything but a sort's documents lives in the arena given (a client
 *          cursor's own, for cursors), and the spec's trees must live there too.
 * Threads: one at a time.
 * Limits:  a sort keeps what its budget allows (work.h) and writes the rest to disk. */
#pragma once
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/exec/work.h"
#include "veddb-storaged/query/filter.h"
#include "veddb-storaged/query/project.h"
#include "veddb-storaged/query/sort.h"

typedef struct {
    uint64_t collection_id; /* 0: the collection does not exist: nothing is found */
    const stor_filter_t *filter;
    const stor_sort_t *sort;       /* NULL = none */
    const stor_project_t *project; /* NULL = none */
    const stor_variables_t *variables;
    int64_t skip, limit; /* limit 0 = none */
    int8_t natural;      /* -1: backward without a sort */
    bool no_disk_use;    /* allowDiskUse: false */
    stor_work_t *work;   /* the pipeline's budget; NULL: the query has its own */
} stor_query_spec_t;

typedef struct stor_query stor_query_t;

/* request: who asks now; its collection is held. Nothing of it is kept. */
VD_MUST_CHECK int stor_query_open(vd_arena_t *arena, stor_request_t *request,
                                  const stor_query_spec_t *spec, stor_query_t **ret_query,
                                  vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. The document is valid until the next call on the query. The
 * collection must be held by the request. */
VD_MUST_CHECK int stor_query_next(stor_query_t *query, stor_request_t *request,
                                  vd_bson_t *ret_document, vd_error_t *err);
/* The document last returned did not fit: it comes again. */
void stor_query_push_back(stor_query_t *query);
/* End of a batch. */
void stor_query_release(stor_query_t *query);
void stor_query_close(stor_query_t **query_p);
/* The limit is reached: no further document will come (known without asking for one). */
bool stor_query_exhausted(const stor_query_t *query);

/* How it runs, for explain and the slow log. */
typedef enum {
    STOR_ACCESS_EOF,
    STOR_ACCESS_IDHACK,
    STOR_ACCESS_ID_RANGE,
    STOR_ACCESS_COLLSCAN
} stor_access_t;
typedef struct {
    stor_access_t access;
    bool blocking_sort;
    bool backward;
    uint64_t documents_examined, keys_examined, returned, sorted_bytes;
    uint64_t before_sort; /* documents that reached the sort */
    uint64_t skipped;
    uint64_t spills, spilled_bytes; /* of the sort, to disk */
    const stor_bounds_t *bounds;
} stor_query_facts_t;
void stor_query_facts(const stor_query_t *query, stor_query_facts_t *ret_facts);
const stor_query_spec_t *stor_query_spec(const stor_query_t *query);
const char *stor_access_name(stor_access_t access);
