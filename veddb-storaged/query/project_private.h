/* veddb-storaged/query/project_private.h — the tree of a projection, made by project_parse.c and
 * applied by project.c.
 *
 * Owner:   parse arena.
 * Threads: immutable after parse. */
#pragma once
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/query/project.h"

typedef enum {
    STOR_NODE_INCLUDE,
    STOR_NODE_EXCLUDE,
    STOR_NODE_SLICE,      /* find's $slice: kept, then cut */
    STOR_NODE_POSITIONAL, /* `a.$`: kept, then reduced to the matched element */
    STOR_NODE_EXPR,
    STOR_NODE_ELEM_MATCH,
    STOR_NODE_CHILDREN,
} stor_node_kind_t;

typedef struct stor_node stor_node_t;
struct stor_node {
    stor_node_kind_t kind;
    vd_slice_t name;
    bool computed; /* EXPR, ELEM_MATCH, or one of them below */
    uint32_t count, cap;
    stor_node_t **children; /* in the order of the spec */
    uint32_t *table;        /* children by name, when there are many; entries are position + 1 */
    uint32_t table_mask;
    stor_expr_t *expr;
    stor_filter_t *filter; /* ELEM_MATCH */
};

/* What happens after the tree was applied: $slice and `$`. */
typedef struct stor_after {
    struct stor_after *next;
    bool positional;
    bool has_skip;
    int32_t skip, limit;
    const vd_slice_t *parts;
    uint32_t count;
} stor_after_t;

struct stor_project {
    stor_project_kind_t kind;
    bool inclusion;
    stor_node_t root;
    stor_after_t *after;
    stor_expr_t *replace; /* REPLACE */
};

/* The child of that name, or NULL. */
stor_node_t *stor_node_find(const stor_node_t *node, vd_slice_t name);
