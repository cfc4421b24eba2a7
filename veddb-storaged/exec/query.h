/* veddb-storaged/exec/query.h — documents of a collection that match, in order, cut and projected:
 * what find, aggregate's head, count, distinct and explain run.
 *
 * Duty:    plans (planner.h), runs the plan's tree (source.h), matches what its bounds don't say,
 *          sorts (top-k when there is a limit) unless the plan gives the order, skips, limits,
 *          projects, as one pull iterator. Between batches it holds no engine resource. An index
 *          that goes, or meets its first array, under a query that gave nothing yet: planned anew;
 *          later a dropped one ends it with 175. Keys that were cut have no order: from the first
 *          of them on the rest is sorted.
 * Owner:   open/close; everything but a sort's documents lives in the arena given (a client
 *          cursor's own, for cursors), and the spec's trees must live there too.
 * Threads: one at a time.
 * Limits:  a sort keeps what its budget allows (work.h) and writes the rest to disk. */
#pragma once
#include "veddb-storaged/exec/source.h"
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
    /* As they were asked, for $planCacheStats; NONE = they were not, or there are none. */
    vd_bson_t asked_filter, asked_sort, asked_projection;
    int64_t skip, limit; /* limit 0 = none */
    int8_t natural;      /* hint {$natural: d}: the collection itself; -1: backward */
    vd_value_t hint;     /* an index's name or pattern; MISSING = none */
    vd_bson_t min, max;  /* keys of the hinted index; NONE = none */
    bool return_key;     /* the entries' keys instead of documents */
    bool index_key;      /* the entries' keys beside documents: stor_query_index_key */
    bool record_id;      /* one field more, $recordId: the record's key; needs must be NULL */
    /* What whoever asked reads of the results: then they may be made of index entries alone, and
     * have just these fields. NULL = all. */
    const stor_needs_t *needs;
    bool count_only;             /* results are counted, not looked at: they may be empty */
    const stor_path_t *distinct; /* only the values there matter, each at least once */
    bool writes;                 /* the results are changed: the plan remembers what it gave */
    bool explain;                /* keep what was not chosen, and never from the plan cache */
    bool no_disk_use;            /* allowDiskUse: false */
    /* A trial: this plan (in the arena) and no other, ended by VD_ERR_FULL behind so many works. */
    const stor_plan_t *trial;
    uint64_t works_max;
    stor_work_t *work; /* the pipeline's budget; NULL: the query has its own */
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
/* Of the document last returned; 0: it was made of an index alone, or is not stored. */
uint64_t stor_query_version(const stor_query_t *query);
/* The same document's key in the index that found it, with spec.index_key; NONE: no index did.
 * Valid as long as the document. */
vd_bson_t stor_query_index_key(const stor_query_t *query);
void stor_query_push_back(stor_query_t *query);
/* End of a batch. */
void stor_query_release(stor_query_t *query);
void stor_query_close(stor_query_t **query_p);
/* The limit is reached: no further document will come (known without asking for one). */
bool stor_query_exhausted(const stor_query_t *query);

/* How it runs, for explain and the slow log. */
typedef struct {
    const stor_plan_t *plan;
    const stor_plans_t *rejected; /* with spec.explain */
    bool blocking_sort, late_sort;
    uint64_t documents_examined, keys_examined, returned, sorted_bytes;
    uint64_t before_sort; /* documents that reached the sort */
    uint64_t matched;     /* documents that the plan's tree gave and the filter let through */
    uint64_t skipped;
    uint32_t replans;
    uint64_t spills, spilled_bytes; /* of the sort, to disk */
} stor_query_facts_t;
void stor_query_facts(const stor_query_t *query, stor_query_facts_t *ret_facts);
/* Of the node at this place in the plan's tree (parents first). */
const stor_source_counts_t *stor_query_counts(const stor_query_t *query, uint32_t position);
const stor_query_spec_t *stor_query_spec(const stor_query_t *query);
/* "IXSCAN { a: 1 }"; in arena. */
const char *stor_query_summary(const stor_query_t *query, vd_arena_t *arena);
