/* veddb-storaged/plan/plan.h — how a query reads its collection: one immutable tree, chosen among
 * all that the indexes allow.
 *
 * Duty:    candidates: the collection as a whole or by ranges of _id, each index whose first field
 *          the filter bounds or whose order is the sort's or that covers what is needed, a union of
 *          them for $or, a merge where the union must be in order; the estimate and cost of each;
 *          the cheapest. Hints, min and max. Whatever comes is matched against the whole filter
 *          unless the bounds say all of it. Pure: indexes, statistics and the catalog's numbers are
 *          given as a table.
 * Owner:   arena; nothing of the indexes' objects is kept, so that a cursor outlives them. The
 *          filter and the sort are borrowed.
 * Threads: immutable once made.
 * Limits:  STOR_PLAN_BRANCHES_MAX branches of $or, STOR_PLAN_EXPLODE_MAX scans in a merge.
 * Errors:  2 for a hint that names no index, 291 for one that can't answer the query. */
#pragma once
#include "veddb-storaged/plan/cover.h"
#include "veddb-storaged/plan/statistics.h"
#include "veddb-storaged/query/sort.h"

#define STOR_PLAN_BRANCHES_MAX 100
#define STOR_PLAN_EXPLODE_MAX  200
#define STOR_PLAN_REJECTED_MAX 12 /* shown by explain */

typedef enum {
    STOR_PLAN_EOF,
    STOR_PLAN_COLLSCAN,
    STOR_PLAN_IDHACK,
    STOR_PLAN_ID_RANGE,
    STOR_PLAN_IXSCAN,
    STOR_PLAN_OR,
    STOR_PLAN_SORT_MERGE,
} stor_plan_kind_t;

typedef struct stor_plan_node stor_plan_node_t;
struct stor_plan_node {
    stor_plan_kind_t kind;
    const stor_bounds_t *id_bounds; /* of _id; NULL = everything */
    const stor_plan_index_t *index; /* IXSCAN: a copy of its own */
    const stor_index_bounds_t *bounds;
    const stor_filter_t
        *key_filter;               /* what of the filter the entry alone can refuse; NULL = none */
    const stor_cover_t *key_cover; /* its fields */
    bool backward;
    bool exact; /* what it gives matches the whole filter */
    uint32_t child_count;
    const stor_plan_node_t **children;
    double keys, documents, out; /* estimates: entries looked at, documents read, given out */
};

typedef struct {
    const stor_plan_node_t *access;
    const stor_cover_t *cover; /* documents are made of entries alone; NULL = not */
    bool keys_only;            /* nobody looks at documents, and none is read (COUNT_SCAN) */
    uint32_t distinct_codes;   /* behind each result the scan skips what begins with so many */
    bool blocking_sort;
    bool return_key;
    bool places; /* of a time-series collection: documents come with their place in front */
    double cost, returned;
    uint64_t signature; /* of the shape of the tree and its indexes */
} stor_plan_t;

typedef struct {
    uint32_t count;
    const stor_plan_t *items[STOR_PLAN_REJECTED_MAX];
} stor_plans_t;

/* What is asked. */
typedef struct {
    const stor_filter_t *filter;
    const stor_sort_t *sort; /* NULL = none */
    const stor_variables_t *variables;
    const stor_needs_t *needs; /* of the results; NULL = all */
    bool count_only;
    const stor_path_t *distinct; /* results matter only for their values there */
    int64_t most;                /* skip and limit together; 0 = all */
    int8_t natural;              /* $natural, by hint or sort */
    vd_value_t hint;             /* name or pattern; MISSING = none */
    vd_bson_t min, max;
    bool return_key;
    bool writes; /* remembers what it changed: not for millions of documents */
} stor_plan_query_t;

/* What there is. */
typedef struct {
    uint32_t index_count;
    const stor_plan_index_t *indexes; /* ready ones; hidden ones only serve no query */
    int64_t documents;
    const stor_document_sample_t *sample; /* NULL = none */
    /* Counts entries inside the bounds, at most `most` looked at; false: there are more. NULL = not
     * to be asked. */
    bool (*dive)(void *context, const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                 uint32_t most, uint32_t *ret_examined, uint32_t *ret_inside);
    void *dive_context;
    bool keyless;    /* of the database `local`: neither keys nor an order by _id */
    bool capped;     /* its order is that of insertion, not of _id (exec/scan.h) */
    vd_slice_t time; /* of a time-series collection: its order is by the date there; NULL = none */
    bool wary;       /* a limit was counted on, and did not come soon: costs are of reading all */
    uint64_t wanted; /* signature of the plan that a cache remembers; 0 = none */
} stor_plan_facts_t;

#define STOR_PLAN_DIVE_MAX 100

/* rejected: may be NULL. */
VD_MUST_CHECK int stor_plan_make(vd_arena_t *arena, const stor_plan_query_t *query,
                                 const stor_plan_facts_t *facts, const stor_plan_t **ret_plan,
                                 stor_plans_t *rejected, vd_error_t *err);
const char *stor_plan_kind_name(stor_plan_kind_t kind);
/* "IXSCAN { a: 1 }, IXSCAN { b: 1 }", "COLLSCAN": as logs and currentOp show a plan. */
const char *stor_plan_summary(vd_arena_t *arena, const stor_plan_t *plan);
/* What stays of a query when its values change: for the plan cache and explain's queryHash. */
uint64_t stor_plan_shape(const stor_plan_query_t *query);
/* The same for index filters: what is asked, whatever is made of the results and whichever values
 * are null. Never 0. */
uint64_t stor_plan_filter_shape(const stor_plan_query_t *query);

/* ---- between the files of the room ---- */
/* In which direction a scan of the index gives the order asked for: 1, -1, or 0: it does not.
 * *ret_explode: that many codes at the head must be walked point by point and merged. */
int stor_plan_order(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                    const stor_sort_t *sort, uint32_t *ret_explode);
/* Costs in units of one record read in a scan of the collection and matched. */
double stor_plan_cost(const stor_plan_node_t *node, bool covered, double sorted, double kept);
