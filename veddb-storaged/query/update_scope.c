/* veddb-storaged/query/update_scope.c — which paths an update names, for those who tell what it
 * changed (delta.h). */
#include "veddb-storaged/query/update_private.h"

stor_update_scope_t stor_update_scope(const stor_update_t *update)
{
    switch (update->kind) {
    case STOR_UPDATE_OPERATORS:
        return (stor_update_scope_t){STOR_SCOPE_TREE, update->root};
    case STOR_UPDATE_PIPELINE:
        return (stor_update_scope_t){STOR_SCOPE_FREE, NULL};
    case STOR_UPDATE_REPLACE:
        break;
    }
    return (stor_update_scope_t){STOR_SCOPE_WHOLE, NULL};
}

static stor_update_scope_t of_node(const stor_update_node_t *node)
{
    if (node->kind != STOR_NODE_LEAF)
        return (stor_update_scope_t){STOR_SCOPE_TREE, node};
    const stor_operator_t *op = node->op;
    bool appends = op->kind == STOR_OP_PUSH && !op->has_slice && op->key_count == 0;
    return (stor_update_scope_t){appends ? STOR_SCOPE_APPEND : STOR_SCOPE_WHOLE, node};
}

stor_update_scope_t stor_update_scope_below(stor_update_scope_t scope, vd_slice_t name)
{
    stor_update_scope_t whole = {STOR_SCOPE_WHOLE, NULL};
    if (scope.kind != STOR_SCOPE_TREE)
        return scope.kind == STOR_SCOPE_FREE ? scope : whole;
    const stor_update_node_t *node = scope.node;
    if (node->kind == STOR_NODE_FILTER) {
        /* Which filters an element met is not known here: several that go on below are told apart
         * by comparing. */
        if (node->child_count == 1)
            return of_node(node->children[0]);
        for (uint32_t i = 0; i < node->child_count; i++)
            if (node->children[i]->kind != STOR_NODE_LEAF)
                return (stor_update_scope_t){STOR_SCOPE_FREE, NULL};
        return whole;
    }
    const stor_update_node_t *child = stor_node_child(node, name);
    if (child == NULL)
        child = node->positional;
    return child == NULL ? whole : of_node(child);
}
