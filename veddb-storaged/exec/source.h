/* veddb-storaged/exec/source.h — runs the tree of a plan: what it reads, one record at a time.
 *
 * Duty:    scans of the collection and of indexes with their check and their jumps over gaps,
 *          unions and merges; each record once where a scan may meet it twice; documents fetched,
 *          or made of entries alone, or left out. It neither matches the whole filter nor sorts:
 *          query.h does. Between batches it holds no engine resource.
 *          The plan counted on arrays not to be where an index meets one now, or the index is gone:
 *          VD_ERR_QUERY_PLAN_KILLED. After stor_source_go_on it goes on all the same, reading every
 *          document; what changed meanwhile may then be left out, never what did not.
 * Owner:   open/close; state lives in the arena given.
 * Threads: one at a time. */
#pragma once
#include "veddb-storaged/exec/index_scan.h"
#include "veddb-storaged/exec/seen.h"
#include "veddb-storaged/plan/plan.h"

typedef struct stor_source stor_source_t;

typedef struct {
    vd_slice_t key;               /* of the record */
    vd_bson_t document;           /* NONE: keys only */
    uint64_t version;             /* 0 of a covered one */
    vd_slice_t fields, type_bits; /* of the entry; empty when there was none */
    bool exact;                   /* of the entry */
    bool covered;                 /* made of the entry */
    bool unordered; /* keys were cut: from here on their order is not that of the values */
} stor_found_t;

typedef struct {
    uint64_t collection_id;
    const stor_plan_t *plan;
    const stor_sort_t *sort; /* the order of merges */
    const stor_variables_t *variables;
    bool writes;       /* what is found is changed: scan.h's `tolerant` */
    bool once;         /* give each record once even if its entry moves */
    uint64_t keys_max; /* VD_ERR_FULL behind so many entries; 0 = no limit */
} stor_source_options_t;

/* Of each node of the plan, in order of its tree (parents first). */
typedef struct {
    uint64_t keys, documents, out, duplicates, seeks, works;
} stor_source_counts_t;

VD_MUST_CHECK int stor_source_open(vd_arena_t *arena, const stor_source_options_t *options,
                                   stor_source_t **ret_source, vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. What is found is valid until the next call, and until the scratch is
 * rewound. scratch: another arena than that of open, in which scans keep their place. */
VD_MUST_CHECK int stor_source_next(stor_source_t *source, stor_request_t *request,
                                   vd_arena_t *scratch, stor_found_t *ret_found, vd_error_t *err);
/* The record last found became a result: a scan for distinct values may jump behind its like. */
void stor_source_taken(stor_source_t *source);
void stor_source_go_on(stor_source_t *source);
void stor_source_release(stor_source_t *source);
void stor_source_close(stor_source_t **source_p);
/* position: of the node in the plan's tree. */
const stor_source_counts_t *stor_source_counts(const stor_source_t *source, uint32_t position);
