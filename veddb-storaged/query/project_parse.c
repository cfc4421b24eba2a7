/* veddb-storaged/query/project_parse.c — reads a projection's spec into a tree, with MongoDB's
 * checks and codes.
 *
 * A spec is an inclusion or an exclusion; the first field that tells decides, and ambiguous ones
 * ({_id: 0}, {a: {$slice: 1}}) follow MongoDB's table of defaults. */
#include "veddb-storaged/query/project_private.h"

#include "libcommon/base/map.h"

#define NODE_TABLE_FROM 9 /* children; fewer are searched one by one */

typedef enum { TYPE_UNKNOWN, TYPE_INCLUSION, TYPE_EXCLUSION } projection_type_t;

typedef struct {
    vd_arena_t *arena;
    stor_project_t *project;
    const stor_filter_t *query;
    const stor_variables_t *variables;
    bool find;
    projection_type_t type;
    bool id_specified, id_included, id_excluded;
    bool has_positional, has_elem_match, has_slice, has_meta;
    stor_after_t **after_tail;
    uint32_t depth;
    /* The path of the node that is being read, for $slice and `$` in sub-objects. */
    const vd_slice_t *prefix;
    uint32_t prefix_count;
} context_t;

/* ---- the tree ---- */

stor_node_t *stor_node_find(const stor_node_t *node, vd_slice_t name)
{
    if (node->table != NULL) {
        for (uint64_t h = vd_hash(name);; h++) {
            uint32_t at = node->table[h & node->table_mask];
            if (at == 0)
                return NULL;
            if (vd_slice_equal(node->children[at - 1]->name, name))
                return node->children[at - 1];
        }
    }
    for (uint32_t i = 0; i < node->count; i++)
        if (vd_slice_equal(node->children[i]->name, name))
            return node->children[i];
    return NULL;
}

static void table_put(stor_node_t *node, uint32_t position)
{
    uint64_t h = vd_hash(node->children[position]->name);
    while (node->table[h & node->table_mask] != 0)
        h++;
    node->table[h & node->table_mask] = position + 1;
}

static void add_child(vd_arena_t *arena, stor_node_t *node, stor_node_t *child)
{
    if (node->count == node->cap) {
        uint32_t cap = node->cap == 0 ? 4 : node->cap * 2;
        stor_node_t **children = VD_ARENA_ARRAY(arena, stor_node_t *, cap);
        if (node->count > 0)
            memcpy(children, node->children, node->count * sizeof *children);
        node->children = children;
        node->cap = cap;
        node->table = NULL;
    }
    node->children[node->count++] = child;
    if (node->count < NODE_TABLE_FROM)
        return;
    if (node->table != NULL) {
        table_put(node, node->count - 1);
        return;
    }
    uint32_t size = 16;
    while (size < node->cap * 2)
        size *= 2;
    node->table = VD_ARENA_ARRAY(arena, uint32_t, size);
    node->table_mask = size - 1;
    for (uint32_t i = 0; i < node->count; i++)
        table_put(node, i);
}

static void remove_child(stor_node_t *node, const char *name)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < node->count; i++)
        if (!vd_slice_is(node->children[i]->name, name))
            node->children[kept++] = node->children[i];
    node->count = kept;
    if (node->table == NULL)
        return;
    memset(node->table, 0, sizeof *node->table * ((size_t)node->table_mask + 1));
    for (uint32_t i = 0; i < kept; i++)
        table_put(node, i);
}

static stor_node_t *new_node(vd_arena_t *arena, stor_node_kind_t kind, vd_slice_t name)
{
    stor_node_t *node = VD_ARENA_NEW(arena, stor_node_t);
    node->kind = kind;
    node->name = name;
    node->computed = kind == STOR_NODE_EXPR || kind == STOR_NODE_ELEM_MATCH;
    return node;
}

static vd_slice_t join(vd_arena_t *arena, const vd_slice_t *parts, uint32_t from, uint32_t count)
{
    size_t len = 0;
    for (uint32_t i = from; i < count; i++)
        len += parts[i].len + 1;
    char *text = vd_arena_alloc(arena, len + 1), *p = text;
    for (uint32_t i = from; i < count; i++) {
        if (i > from)
            *p++ = '.';
        memcpy(p, parts[i].data, parts[i].len);
        p += parts[i].len;
    }
    return vd_slice(text, (size_t)(p - text));
}

/* Puts a leaf at the path below parent, making what lies between. */
static int add_leaf(context_t *ctx, stor_node_t *parent, const vd_slice_t *parts, uint32_t count,
                    stor_node_kind_t kind, stor_node_t **ret_leaf, vd_error_t *err)
{
    bool add = ctx->project->kind == STOR_PROJECT_ADD;
    for (uint32_t i = 0;; i++) {
        stor_node_t *child = stor_node_find(parent, parts[i]);
        bool last = i + 1 == count;
        if (child != NULL && (last || child->kind != STOR_NODE_CHILDREN)) {
            vd_slice_t path = join(ctx->arena, parts, 0, count);
            if (add)
                return vd_error_set(err, VD_ERR_LOCATION(40176),
                                    "specification contains two conflicting paths. Cannot specify "
                                    "both '%.*s' and a path that starts with or leads to it",
                                    VD_SLICE_FMT(path));
            if (last)
                return vd_error_set(err, VD_ERR_LOCATION(31250), "Path collision at %.*s",
                                    VD_SLICE_FMT(path));
            vd_slice_t tail = join(ctx->arena, parts, 1, count);
            return vd_error_set(err, VD_ERR_LOCATION(31249),
                                "Path collision at %.*s remaining portion %.*s", VD_SLICE_FMT(path),
                                VD_SLICE_FMT(tail));
        }
        if (child == NULL) {
            child = new_node(ctx->arena, last ? kind : STOR_NODE_CHILDREN, parts[i]);
            add_child(ctx->arena, parent, child);
        }
        if (last) {
            *ret_leaf = child;
            return VD_OK;
        }
        parent = child;
    }
}

static int add_path(context_t *ctx, stor_node_t *parent, vd_slice_t path, stor_node_kind_t kind,
                    stor_node_t **ret_leaf, vd_error_t *err)
{
    const vd_slice_t *parts;
    uint32_t count;
    int rc = stor_field_path_split(ctx->arena, path, &parts, &count, err);
    return rc == VD_OK ? add_leaf(ctx, parent, parts, count, kind, ret_leaf, err) : rc;
}

static int add_expr(context_t *ctx, stor_node_t *parent, vd_slice_t path, vd_value_t spec,
                    vd_error_t *err)
{
    stor_expr_t *expr;
    int rc = stor_expr_parse(ctx->arena, spec, ctx->variables, &expr, err);
    stor_node_t *leaf;
    if (rc == VD_OK)
        rc = add_path(ctx, parent, path, STOR_NODE_EXPR, &leaf, err);
    if (rc == VD_OK)
        leaf->expr = expr;
    return rc;
}

static bool mark_computed(stor_node_t *node)
{
    for (uint32_t i = 0; i < node->count; i++)
        node->computed |= mark_computed(node->children[i]);
    return node->computed;
}

/* ---- steps that follow the tree: $slice and `$` ---- */

static int add_after(context_t *ctx, vd_slice_t path, stor_after_t **ret_after, vd_error_t *err)
{
    const vd_slice_t *parts;
    uint32_t count;
    int rc = stor_field_path_split(ctx->arena, path, &parts, &count, err);
    if (rc != VD_OK)
        return rc;
    stor_after_t *after = VD_ARENA_NEW(ctx->arena, stor_after_t);
    vd_slice_t *all = VD_ARENA_ARRAY(ctx->arena, vd_slice_t, ctx->prefix_count + count);
    if (ctx->prefix_count > 0)
        memcpy(all, ctx->prefix, ctx->prefix_count * sizeof *all);
    memcpy(all + ctx->prefix_count, parts, count * sizeof *all);
    after->parts = all;
    after->count = ctx->prefix_count + count;
    *ctx->after_tail = after;
    ctx->after_tail = &after->next;
    *ret_after = after;
    return VD_OK;
}

static int32_t clamp_int(vd_value_t v)
{
    double d = vd_value_as_double(v);
    if (!(d > INT32_MIN))
        return d <= INT32_MIN ? INT32_MIN : 0; /* NaN is 0 */
    return d >= INT32_MAX ? INT32_MAX : (int32_t)d;
}

/* The arguments of find's $slice: n, or [skip, n]. */
static int read_slice(vd_value_t spec, stor_after_t *slice, vd_error_t *err)
{
    if (vd_value_is_number(spec)) {
        slice->limit = clamp_int(spec);
        return VD_OK;
    }
    if (spec.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(31273),
                            "$slice only supports numbers and [skip, limit] arrays");
    vd_value_t v[2] = {VD_VALUE_MISSING, VD_VALUE_MISSING};
    uint32_t count = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    for (; vd_bson_iter_next(&iter); count++)
        if (count < 2)
            v[count] = iter.value;
    if (count != 2)
        return vd_error_set(err, VD_ERR_LOCATION(31272),
                            "$slice array argument should be of form [skip, limit]");
    if (!vd_value_is_number(v[0]))
        return vd_error_set(err, VD_ERR_LOCATION(31257),
                            "$slice expects the skip argument to be a number, got %s",
                            stor_expr_type(v[0]));
    if (!vd_value_is_number(v[1]))
        return vd_error_set(err, VD_ERR_LOCATION(31258),
                            "$slice expects the limit argument to be a number, got %s",
                            stor_expr_type(v[1]));
    if (clamp_int(v[1]) <= 0)
        return vd_error_set(err, VD_ERR_LOCATION(31259), "$slice limit must be positive, got %d",
                            clamp_int(v[1]));
    slice->has_skip = true;
    slice->skip = clamp_int(v[0]);
    slice->limit = clamp_int(v[1]);
    return VD_OK;
}

static int parse_find_slice(context_t *ctx, stor_node_t *parent, vd_slice_t name,
                            const stor_after_t *slice, vd_error_t *err)
{
    stor_node_t *leaf;
    stor_after_t *after;
    int rc = add_path(ctx, parent, name, STOR_NODE_SLICE, &leaf, err);
    if (rc == VD_OK)
        rc = add_after(ctx, name, &after, err);
    if (rc != VD_OK)
        return rc;
    after->has_skip = slice->has_skip;
    after->skip = slice->skip;
    after->limit = slice->limit;
    ctx->has_slice = true;
    return VD_OK;
}

static int parse_elem_match(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_bson_t object,
                            vd_error_t *err)
{
    vd_slice_t ignored;
    vd_value_t spec;
    (void)vd_bson_first(object, &ignored, &spec); /* the caller saw one field */
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(31274),
                            "elemMatch: Invalid argument, object required, but got %s",
                            stor_expr_type(spec));
    if (ctx->has_positional)
        return vd_error_set(err, VD_ERR_LOCATION(31255),
                            "Cannot specify positional operator and $elemMatch.");
    if (parent != &ctx->project->root || memchr(name.data, '.', name.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(31275),
                            "Cannot use $elemMatch projection on a nested field.");
    vd_bb_t bb;
    vd_bson_t filter_spec;
    stor_filter_t *filter;
    vd_bb_init_arena(&bb, ctx->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_value(&bb, name, vd_value_from_document(object));
    int rc = vd_bb_finish(&bb, &filter_spec, err);
    if (rc == VD_OK)
        rc = stor_filter_parse(ctx->arena, filter_spec, ctx->variables, &filter, err);
    stor_node_t *leaf;
    if (rc == VD_OK)
        rc = add_path(ctx, parent, name, STOR_NODE_ELEM_MATCH, &leaf, err);
    if (rc != VD_OK)
        return rc;
    leaf->filter = filter;
    ctx->has_elem_match = true;
    return VD_OK;
}

/* ---- positional ---- */

/* Where ".$" stands in the name: at its end, or before a '.'. */
static bool find_positional(vd_slice_t name, size_t *ret_at)
{
    for (size_t i = 0; i + 1 < name.len; i++)
        if (name.data[i] == '.' && name.data[i + 1] == '$' &&
            (i + 2 == name.len || name.data[i + 2] == '.')) {
            *ret_at = i;
            return true;
        }
    *ret_at = 0;
    return name.len == 1 && name.data[0] == '$';
}

static bool query_names(const stor_filter_t *filter, vd_slice_t field)
{
    for (uint32_t i = 0; i < filter->child_count; i++)
        if ((filter->kind == STOR_FILTER_AND || filter->kind == STOR_FILTER_OR ||
             filter->kind == STOR_FILTER_NOR || filter->kind == STOR_FILTER_NOT) &&
            query_names(filter->children[i], field))
            return true;
    return filter->path.count > 0 && vd_slice_equal(filter->path.parts[0], field);
}

static int parse_positional(context_t *ctx, stor_node_t *parent, vd_slice_t name, size_t at,
                            vd_error_t *err)
{
    if (ctx->has_positional)
        return vd_error_set(err, VD_ERR_LOCATION(31276),
                            "Cannot specify more than one positional projection per query.");
    if (ctx->has_elem_match)
        return vd_error_set(err, VD_ERR_LOCATION(31256),
                            "Cannot specify positional operator and $elemMatch.");
    if (at + 2 < name.len)
        return vd_error_set(err, VD_ERR_LOCATION(31394),
                            "As of 4.4, it's illegal to specify positional operator in the middle "
                            "of a path.Positional projection may only be used at the end, for "
                            "example: a.b.$. If the query previously used a form like a.b.$.d, "
                            "remove the parts following the '$' and the results will be "
                            "equivalent.");
    vd_slice_t path = vd_slice(name.data, at);
    const uint8_t *dot = at == 0 ? NULL : memchr(name.data, '.', at);
    vd_slice_t first = ctx->prefix_count > 0 ? ctx->prefix[0]
                       : dot == NULL         ? path
                                             : vd_slice(name.data, (size_t)(dot - name.data));
    if (ctx->query == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(51050),
                            "Projections with a positional operator require a matcher");
    if (!query_names(ctx->query, first))
        return vd_error_set(err, VD_ERR_LOCATION(31277),
                            "Positional projection '%.*s' does not match the query document.",
                            VD_SLICE_FMT(name));
    stor_node_t *leaf;
    stor_after_t *after;
    int rc = add_path(ctx, parent, path, STOR_NODE_POSITIONAL, &leaf, err);
    if (rc == VD_OK)
        rc = add_after(ctx, path, &after, err);
    if (rc != VD_OK)
        return rc;
    after->positional = true;
    ctx->has_positional = true;
    return VD_OK;
}

/* ---- elements of a spec ---- */

static int parse_inclusion(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_error_t *err)
{
    bool id = parent == &ctx->project->root && vd_slice_is(name, "_id");
    size_t at;
    stor_node_t *leaf;
    int rc = find_positional(name, &at)
                 ? parse_positional(ctx, parent, name, at, err)
                 : add_path(ctx, parent, name, STOR_NODE_INCLUDE, &leaf, err);
    if (rc != VD_OK)
        return rc;
    if (id) {
        ctx->id_included = true;
        return VD_OK;
    }
    if (ctx->type == TYPE_EXCLUSION)
        return vd_error_set(err, VD_ERR_LOCATION(31253),
                            "Cannot do inclusion on field %.*s in exclusion projection",
                            VD_SLICE_FMT(name));
    ctx->type = TYPE_INCLUSION;
    return VD_OK;
}

static int parse_exclusion(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_error_t *err)
{
    size_t at;
    if (find_positional(name, &at))
        return vd_error_set(err, VD_ERR_LOCATION(31395),
                            "positional projection cannot be used with exclusion");
    stor_node_t *leaf;
    int rc = add_path(ctx, parent, name, STOR_NODE_EXCLUDE, &leaf, err);
    if (rc != VD_OK)
        return rc;
    if (parent == &ctx->project->root && vd_slice_is(name, "_id")) {
        ctx->id_excluded = true;
        return VD_OK;
    }
    if (ctx->type == TYPE_INCLUSION)
        return vd_error_set(err, VD_ERR_LOCATION(31254),
                            "Cannot do exclusion on field %.*s in inclusion projection",
                            VD_SLICE_FMT(name));
    ctx->type = TYPE_EXCLUSION;
    return VD_OK;
}

static int parse_literal(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_value_t spec,
                         vd_error_t *err)
{
    int rc = add_expr(ctx, parent, name, spec, err);
    if (rc != VD_OK)
        return rc;
    if (ctx->type == TYPE_EXCLUSION)
        return vd_error_set(err, VD_ERR_LOCATION(31310),
                            "Cannot use an expression %.*s: %s in an exclusion projection",
                            VD_SLICE_FMT(name), vd_value_to_json(ctx->arena, spec, 200));
    ctx->type = TYPE_INCLUSION;
    return VD_OK;
}

static int parse_expression(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_bson_t object,
                            bool meta, vd_error_t *err)
{
    if (ctx->type == TYPE_EXCLUSION && !meta)
        return vd_error_set(err, VD_ERR_LOCATION(31252),
                            "Cannot use expression other than $meta in exclusion projection");
    if (!meta)
        ctx->type = TYPE_INCLUSION;
    ctx->has_meta |= meta;
    return add_expr(ctx, parent, name, vd_value_from_document(object), err);
}

/* {$op: argument}: *ret_done when it was one. */
static int parse_operator(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_bson_t object,
                          bool *ret_done, vd_error_t *err)
{
    vd_slice_t op;
    vd_value_t argument;
    *ret_done = false;
    if (vd_bson_count(object) != 1 || !vd_bson_first(object, &op, &argument) || op.len == 0 ||
        op.data[0] != '$')
        return VD_OK;
    *ret_done = true;
    if (ctx->find && vd_slice_is(op, "$slice")) {
        stor_after_t slice = {0};
        if (read_slice(argument, &slice, NULL) == VD_OK)
            return parse_find_slice(ctx, parent, name, &slice, err);
        int rc = parse_expression(ctx, parent, name, object, false, err);
        if (rc != VD_OK)
            (void)vd_error_prefix(err, "Invalid $slice syntax. The given syntax did not match the "
                                       "find() syntax and did not match the expression $slice "
                                       "syntax :: caused by :");
        return rc;
    }
    if (vd_slice_is(op, "$elemMatch")) {
        if (!ctx->find)
            return vd_error_set(err, VD_ERR_LOCATION(168), "Cannot use $elemMatch in this context");
        return parse_elem_match(ctx, parent, name, object, err);
    }
    if (stor_expr_is_operator(op))
        return parse_expression(ctx, parent, name, object, vd_slice_is(op, "$meta"), err);
    return vd_error_set(err, VD_ERR_LOCATION(31325), "Unknown expression %.*s", VD_SLICE_FMT(op));
}

static int parse_element(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_value_t spec,
                         vd_error_t *err);

static int parse_sub_object(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_bson_t object,
                            vd_error_t *err)
{
    bool done;
    int rc = parse_operator(ctx, parent, name, object, &done, err);
    if (rc != VD_OK || done)
        return rc;
    if (vd_bson_is_empty(object))
        return vd_error_set(err, VD_ERR_LOCATION(51270),
                            "An empty sub-projection is not a valid value. Found empty object at "
                            "path");
    const vd_slice_t *parts, *outer = ctx->prefix;
    uint32_t count, outer_count = ctx->prefix_count;
    rc = stor_field_path_split(ctx->arena, name, &parts, &count, err);
    if (rc != VD_OK)
        return rc;
    stor_node_t *node = parent;
    for (uint32_t i = 0; i < count; i++) { /* joins a node that is there: {"a.b": 1, a: {c: 1}} */
        stor_node_t *child = stor_node_find(node, parts[i]);
        if (child == NULL) {
            rc = add_leaf(ctx, node, &parts[i], 1, STOR_NODE_CHILDREN, &child, err);
            if (rc != VD_OK)
                return rc;
        } else if (child->kind != STOR_NODE_CHILDREN) {
            return add_leaf(ctx, parent, parts, count, STOR_NODE_CHILDREN, &child, err);
        }
        node = child;
    }
    vd_slice_t *prefix = VD_ARENA_ARRAY(ctx->arena, vd_slice_t, outer_count + count);
    if (outer_count > 0)
        memcpy(prefix, outer, outer_count * sizeof *prefix);
    memcpy(prefix + outer_count, parts, count * sizeof *prefix);
    ctx->prefix = prefix;
    ctx->prefix_count = outer_count + count;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, object);
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = parse_element(ctx, node, iter.name, iter.value, err);
    ctx->prefix = outer;
    ctx->prefix_count = outer_count;
    return rc;
}

static int parse_element(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_value_t spec,
                         vd_error_t *err)
{
    size_t at;
    bool positional = find_positional(name, &at);
    if (positional && !ctx->find)
        return vd_error_set(err, VD_ERR_LOCATION(31324),
                            "Cannot use positional projection in aggregation projection");
    if (spec.type == VD_BSON_OBJECT) {
        if (positional)
            return vd_error_set(err, VD_ERR_LOCATION(31271),
                                "positional projection cannot be used with an expression or sub "
                                "object");
        if (ctx->depth >= VD_QUERY_DEPTH_MAX)
            return vd_error_set(err, VD_ERR_OVERFLOW, "projections may be nested at most %d deep",
                                VD_QUERY_DEPTH_MAX);
        ctx->depth++;
        int rc = parse_sub_object(ctx, parent, name, vd_value_document(spec), err);
        ctx->depth--;
        return rc;
    }
    if (vd_value_is_number(spec) || spec.type == VD_BSON_BOOL)
        return vd_value_truthy(spec) ? parse_inclusion(ctx, parent, name, err)
                                     : parse_exclusion(ctx, parent, name, err);
    if (positional)
        return vd_error_set(err, VD_ERR_LOCATION(31308),
                            "positional projection cannot be used with a literal");
    return parse_literal(ctx, parent, name, spec, err);
}

/* What a spec that names no kind is. */
static projection_type_t default_type(const context_t *ctx)
{
    if (ctx->has_slice)
        return ctx->id_included ? TYPE_INCLUSION : TYPE_EXCLUSION;
    if (ctx->has_elem_match)
        return TYPE_INCLUSION;
    if (ctx->has_meta && !ctx->find)
        return TYPE_INCLUSION;
    return ctx->id_included && !(ctx->has_meta && ctx->id_excluded) ? TYPE_INCLUSION
                                                                    : TYPE_EXCLUSION;
}

static int parse_projection(context_t *ctx, vd_bson_t spec, vd_error_t *err)
{
    stor_node_t *root = &ctx->project->root;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        ctx->id_specified |=
            vd_slice_is(iter.name, "_id") || vd_slice_starts_with(iter.name, VD_SLICE_LIT("_id."));
        int rc = parse_element(ctx, root, iter.name, iter.value, err);
        if (rc != VD_OK)
            return rc;
    }
    if (ctx->type == TYPE_UNKNOWN)
        ctx->type = default_type(ctx);
    ctx->project->inclusion = ctx->type == TYPE_INCLUSION;
    stor_node_t *leaf;
    if (ctx->type == TYPE_INCLUSION && !ctx->id_specified)
        return add_path(ctx, root, VD_SLICE_LIT("_id"), STOR_NODE_INCLUDE, &leaf, err);
    if (ctx->type == TYPE_EXCLUSION && ctx->id_included)
        remove_child(root, "_id");
    return VD_OK;
}

/* ---- $addFields ---- */

static int parse_add_object(context_t *ctx, stor_node_t *parent, vd_slice_t name, vd_bson_t object,
                            vd_error_t *err)
{
    if (vd_bson_is_empty(object))
        return vd_error_set(err, VD_ERR_LOCATION(40180),
                            "an empty object is not a valid value. Found empty object at path %.*s",
                            VD_SLICE_FMT(name));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, object);
    for (uint32_t i = 0; vd_bson_iter_next(&iter); i++)
        if (iter.name.len > 0 && iter.name.data[0] == '$') {
            if (vd_bson_count(object) != 1)
                return vd_error_set(err, VD_ERR_LOCATION(40182),
                                    "an expression specification must contain exactly one field, "
                                    "the name of the expression. Found %u fields at path %.*s",
                                    vd_bson_count(object), VD_SLICE_FMT(name));
            return add_expr(ctx, parent, name, vd_value_from_document(object), err);
        } else if (memchr(iter.name.data, '.', iter.name.len) != NULL) {
            return vd_error_set(err, VD_ERR_LOCATION(40183),
                                "cannot use dotted field name '%.*s' in a sub object",
                                VD_SLICE_FMT(iter.name));
        }
    if (ctx->depth >= VD_QUERY_DEPTH_MAX)
        return vd_error_set(err, VD_ERR_OVERFLOW, "fields may be nested at most %d deep",
                            VD_QUERY_DEPTH_MAX);
    ctx->depth++;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, object);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        vd_slice_t both[2] = {name, iter.name};
        vd_slice_t path = join(ctx->arena, both, 0, 2);
        rc = iter.value.type == VD_BSON_OBJECT
                 ? parse_add_object(ctx, parent, path, vd_value_document(iter.value), err)
                 : add_expr(ctx, parent, path, iter.value, err);
    }
    ctx->depth--;
    return rc;
}

static int parse_add(context_t *ctx, vd_bson_t spec, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        stor_node_t *root = &ctx->project->root;
        int rc = iter.value.type == VD_BSON_OBJECT
                     ? parse_add_object(ctx, root, iter.name, vd_value_document(iter.value), err)
                     : add_expr(ctx, root, iter.name, iter.value, err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* ---- $unset ---- */

static int parse_unset(context_t *ctx, vd_value_t spec, vd_error_t *err)
{
    stor_node_t *leaf;
    if (spec.type == VD_BSON_STRING)
        return add_path(ctx, &ctx->project->root, vd_value_string(spec), STOR_NODE_EXCLUDE, &leaf,
                        err);
    if (spec.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(31002),
                            "$unset specification must be a string or an array");
    if (vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_LOCATION(31119),
                            "$unset specification must be a string or an array with at least one "
                            "field");
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, VD_ERR_LOCATION(31120),
                                "$unset specification must be a string or an array containing only "
                                "string values");
        int rc = add_path(ctx, &ctx->project->root, vd_value_string(iter.value), STOR_NODE_EXCLUDE,
                          &leaf, err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* ---- the public door ---- */

static int parse_kind(context_t *ctx, vd_value_t spec, vd_error_t *err)
{
    switch (ctx->project->kind) {
    case STOR_PROJECT_UNSET:
        return parse_unset(ctx, spec, err);
    case STOR_PROJECT_REPLACE:
        return stor_expr_parse(ctx->arena, spec, ctx->variables, &ctx->project->replace, err);
    case STOR_PROJECT_ADD:
        if (spec.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_LOCATION(40272),
                                "$addFields specification stage must be an object, got %s",
                                stor_expr_type(spec));
        if (vd_bson_is_empty(vd_value_document(spec)))
            return vd_error_set(err, VD_ERR_LOCATION(40177),
                                "specification must have at least one field");
        return parse_add(ctx, vd_value_document(spec), err);
    case STOR_PROJECT_AGGREGATE:
        if (spec.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_LOCATION(15969),
                                "$project specification must be an object");
        if (vd_bson_is_empty(vd_value_document(spec)))
            return vd_error_set(err, VD_ERR_LOCATION(51272),
                                "projection specification must have at least one field");
        break;
    case STOR_PROJECT_FIND:
        if (spec.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "projection must be an object, not %s",
                                stor_expr_type(spec));
        break;
    }
    return parse_projection(ctx, vd_value_document(spec), err);
}

int stor_project_parse(vd_arena_t *arena, stor_project_kind_t kind, vd_value_t spec,
                       const stor_filter_t *filter, const stor_variables_t *variables,
                       stor_project_t **ret_project, vd_error_t *err)
{
    VD_ASSERT(ret_project != NULL);
    stor_project_t *project = VD_ARENA_NEW(arena, stor_project_t);
    project->kind = kind;
    project->root.kind = STOR_NODE_CHILDREN;
    context_t ctx = {.arena = arena,
                     .project = project,
                     .query = filter,
                     .variables = variables,
                     .find = kind == STOR_PROJECT_FIND,
                     .after_tail = &project->after};
    int rc = parse_kind(&ctx, spec, err);
    if (rc != VD_OK) {
        if (kind == STOR_PROJECT_AGGREGATE && rc != VD_ERR_LOCATION(15969))
            (void)vd_error_prefix(err, "Invalid $project :: caused by :");
        else if (kind == STOR_PROJECT_ADD && rc != VD_ERR_LOCATION(40272))
            (void)vd_error_prefix(err, "Invalid $addFields :: caused by :");
        return rc;
    }
    (void)mark_computed(&project->root);
    *ret_project = project;
    return VD_OK;
}
