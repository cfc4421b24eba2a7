/* veddb-storaged/plan/predicates.h — a filter taken apart for the planner: what must hold all
 * together, and which of it speaks about one path.
 *
 * Duty:    conjuncts (children of a top-level $and, or the filter itself), and the leaves below
 *          them that an index on their path can serve: leaves, negated leaves, and those inside
 *          $elemMatch with the whole path. Tells also which paths a filter reads. Pure.
 * Owner:   arena; borrows the filter. */
#pragma once
#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/filter.h"

#define STOR_PREDICATE_CONTEXTS_MAX 4

/* Inside $elemMatch: leaves of one context speak about one and the same element. */
typedef struct {
    uint32_t id;
    uint32_t parts; /* of the path that leads to the array */
} stor_predicate_context_t;

typedef struct {
    vd_slice_t path;
    const stor_filter_t *leaf; /* or NOT, NOR of one */
    uint32_t conjunct;
    bool direct; /* the leaf is the conjunct */
    uint32_t context_count;
    stor_predicate_context_t contexts[STOR_PREDICATE_CONTEXTS_MAX];
} stor_predicate_t;

typedef struct {
    uint32_t conjunct_count, count;
    const stor_filter_t **conjuncts;
    stor_predicate_t *items;
} stor_predicates_t;

void stor_predicates_of(vd_arena_t *arena, const stor_filter_t *filter, stor_predicates_t *ret);
/* The number of parts that two dotted paths begin with alike. */
uint32_t stor_path_common_parts(vd_slice_t a, vd_slice_t b);
/* "a.0.b": a part that may be a position. */
bool stor_path_has_position(vd_slice_t path);
/* Calls visit for each path that the filter reads; false: it reads more than can be told ($expr,
 * $jsonSchema, $elemMatch on objects). */
bool stor_filter_paths(const stor_filter_t *filter, bool (*visit)(vd_slice_t path, void *context),
                       void *context);
/* The query's filter implies another: every document that matches it matches `other`, too. */
VD_MUST_CHECK int stor_filter_implies(vd_arena_t *arena, const vd_collation_t *collation,
                                      const stor_filter_t *filter, const stor_filter_t *other,
                                      bool *ret_implies, vd_error_t *err);
