/* veddb-storaged/query/project.c — applies a projection's tree to a document: one pass that copies,
 * drops, descends and computes, then the steps that follow it ($slice, `$`). */
#include "veddb-storaged/query/project_private.h"

typedef struct {
    const stor_project_t *project;
    stor_expr_env_t *env;
    vd_bb_t *bb;
    vd_error_t *err;
} apply_t;

static int apply_fields(apply_t *a, const stor_node_t *node, vd_bson_t doc);
static int apply_value(apply_t *a, const stor_node_t *node, vd_slice_t name, vd_value_t value,
                       bool *ret_kept);

/* {a: {$elemMatch: ...}}: the first matching element as an array of one. */
static int eval_elem_match(apply_t *a, const stor_node_t *node, vd_value_t *ret)
{
    *ret = VD_VALUE_MISSING;
    vd_value_t array = vd_bson_get_slice(a->env->root, node->name);
    if (array.type != VD_BSON_ARRAY)
        return VD_OK;
    stor_match_t match = {
        .arena = a->env->arena, .variables = a->env->variables, .array_position = -1};
    bool matches;
    int rc = stor_match_document(node->filter, a->env->root, &match, &matches, a->err);
    if (rc != VD_OK || !matches || match.array_position < 0)
        return rc;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    for (int64_t i = 0; vd_bson_iter_next(&iter); i++)
        if (i == match.array_position) {
            stor_expr_array_t one;
            stor_expr_array_begin(&one, a->env->arena);
            stor_expr_array_push(&one, iter.value);
            return stor_expr_array_end(&one, ret, a->err);
        }
    return VD_OK;
}

static int apply_computed(apply_t *a, const stor_node_t *node)
{
    if (node->kind == STOR_NODE_EXPR)
        return stor_expr_eval_into(node->expr, a->env, a->bb, node->name, a->err);
    vd_value_t v;
    int rc = eval_elem_match(a, node, &v);
    if (rc == VD_OK)
        vd_bb_value(a->bb, node->name, v);
    return rc;
}

/* Computed fields below a path that leads to nothing: a new document of them. */
static int apply_fresh(apply_t *a, const stor_node_t *node, vd_slice_t name)
{
    int rc = VD_OK;
    vd_bb_open_document(a->bb, name);
    for (uint32_t i = 0; i < node->count && rc == VD_OK; i++) {
        const stor_node_t *child = node->children[i];
        if (!child->computed)
            continue;
        rc = child->kind == STOR_NODE_CHILDREN ? apply_fresh(a, child, child->name)
                                               : apply_computed(a, child);
    }
    vd_bb_close(a->bb);
    return rc;
}

static int apply_array(apply_t *a, const stor_node_t *node, vd_slice_t name, vd_bson_t array)
{
    char buf[12];
    uint32_t kept = 0;
    int rc = VD_OK;
    vd_bb_open_array(a->bb, name);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        bool is_kept;
        rc = apply_value(a, node, vd_array_name(kept, buf), iter.value, &is_kept);
        kept += rc == VD_OK && is_kept;
    }
    vd_bb_close(a->bb);
    return rc;
}

/* A value that the spec descends into. *ret_kept: something was written. */
static int apply_value(apply_t *a, const stor_node_t *node, vd_slice_t name, vd_value_t value,
                       bool *ret_kept)
{
    *ret_kept = true;
    if (value.type == VD_BSON_OBJECT) {
        vd_bb_open_document(a->bb, name);
        int rc = apply_fields(a, node, vd_value_document(value));
        vd_bb_close(a->bb);
        return rc;
    }
    if (value.type == VD_BSON_ARRAY)
        return apply_array(a, node, name, vd_value_document(value));
    if (node->computed)
        return apply_fresh(a, node, name);
    if (a->project->inclusion)
        *ret_kept = false;
    else
        vd_bb_value(a->bb, name, value);
    return VD_OK;
}

/* One field of the document. *ret_written: a computed child was dealt with here. */
static int apply_field(apply_t *a, const stor_node_t *child, const vd_bson_iter_t *field,
                       bool *ret_written)
{
    bool inclusion = a->project->inclusion, kept;
    *ret_written = false;
    if (child == NULL) {
        if (!inclusion)
            vd_bb_value(a->bb, field->name, field->value);
        return VD_OK;
    }
    switch (child->kind) {
    case STOR_NODE_EXCLUDE:
        return VD_OK;
    case STOR_NODE_INCLUDE:
    case STOR_NODE_SLICE:
    case STOR_NODE_POSITIONAL:
        vd_bb_value(a->bb, field->name, field->value);
        return VD_OK;
    case STOR_NODE_EXPR:
    case STOR_NODE_ELEM_MATCH: /* an inclusion appends it, in the order of the spec */
        *ret_written = !inclusion;
        return inclusion ? VD_OK : apply_computed(a, child);
    case STOR_NODE_CHILDREN:
        *ret_written = true;
        return apply_value(a, child, field->name, field->value, &kept);
    }
    return VD_OK;
}

#define SEEN_INLINE 64

static int apply_fields(apply_t *a, const stor_node_t *node, vd_bson_t doc)
{
    uint8_t inline_seen[SEEN_INLINE], *seen = NULL;
    if (node->computed) {
        seen =
            node->count <= SEEN_INLINE ? inline_seen : vd_arena_alloc(a->env->arena, node->count);
        memset(seen, 0, node->count);
    }
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    while (vd_bson_iter_next(&iter)) {
        const stor_node_t *child = stor_node_find(node, iter.name);
        bool written;
        int rc = apply_field(a, child, &iter, &written);
        if (rc != VD_OK)
            return rc;
        for (uint32_t i = 0; written && seen != NULL && i < node->count; i++)
            seen[i] |= node->children[i] == child;
    }
    for (uint32_t i = 0; seen != NULL && i < node->count; i++) {
        const stor_node_t *child = node->children[i];
        if (!child->computed || seen[i])
            continue;
        int rc = child->kind == STOR_NODE_CHILDREN ? apply_fresh(a, child, child->name)
                                                   : apply_computed(a, child);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* ---- the steps after the tree ---- */

static void copy_range(vd_bb_t *bb, vd_slice_t name, vd_bson_t array, int64_t start, int64_t count)
{
    char buf[12];
    uint32_t n = 0;
    vd_bb_open_array(bb, name);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    for (int64_t i = 0; n < count && vd_bson_iter_next(&iter); i++)
        if (i >= start)
            vd_bb_value(bb, vd_array_name(n++, buf), iter.value);
    vd_bb_close(bb);
}

static void slice_array(const stor_after_t *after, vd_bb_t *bb, vd_slice_t name, vd_bson_t array)
{
    int64_t len = vd_bson_count(array), start = 0, count = after->limit;
    if (after->has_skip)
        start = after->skip < 0 ? len + after->skip : after->skip;
    else if (after->limit < 0)
        start = len + after->limit, count = len;
    start = start < 0 ? 0 : start > len ? len : start;
    copy_range(bb, name, array, start, count < len - start ? count : len - start);
}

/* Copies doc into the open document, slicing what lies at parts[at..]. */
static void slice_fields(const stor_after_t *after, uint32_t at, vd_bb_t *bb, vd_bson_t doc)
{
    bool last = at + 1 == after->count;
    vd_bson_iter_t iter, element;
    vd_bson_iter_init(&iter, doc);
    while (vd_bson_iter_next(&iter)) {
        bool hit = vd_slice_equal(iter.name, after->parts[at]);
        if (hit && last && iter.value.type == VD_BSON_ARRAY) {
            slice_array(after, bb, iter.name, vd_value_document(iter.value));
        } else if (hit && !last && iter.value.type == VD_BSON_OBJECT) {
            vd_bb_open_document(bb, iter.name);
            slice_fields(after, at + 1, bb, vd_value_document(iter.value));
            vd_bb_close(bb);
        } else if (hit && !last && iter.value.type == VD_BSON_ARRAY) {
            vd_bb_open_array(bb, iter.name);
            vd_bson_iter_init(&element, vd_value_document(iter.value));
            while (vd_bson_iter_next(&element)) {
                if (element.value.type != VD_BSON_OBJECT) {
                    vd_bb_value(bb, element.name, element.value);
                    continue;
                }
                vd_bb_open_document(bb, element.name);
                slice_fields(after, at + 1, bb, vd_value_document(element.value));
                vd_bb_close(bb);
            }
            vd_bb_close(bb);
        } else {
            vd_bb_value(bb, iter.name, iter.value);
        }
    }
}

/* Copies doc, reducing the first array on the path to the element that the query matched. */
static int positional_fields(const stor_after_t *after, uint32_t at, int64_t position, vd_bb_t *bb,
                             vd_bson_t doc, vd_error_t *err)
{
    int rc = VD_OK;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, doc);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        bool hit = at < after->count && vd_slice_equal(iter.name, after->parts[at]);
        if (hit && iter.value.type == VD_BSON_ARRAY) {
            vd_bson_t array = vd_value_document(iter.value);
            if (position < 0)
                return vd_error_set(err, VD_ERR_LOCATION(51246),
                                    "positional operator '.$' couldn't find a matching element in "
                                    "the array");
            if (position >= vd_bson_count(array))
                return vd_error_set(err, VD_ERR_LOCATION(51247),
                                    "positional operator '.$' element mismatch");
            copy_range(bb, iter.name, array, position, 1);
        } else if (hit && iter.value.type == VD_BSON_OBJECT) {
            vd_bb_open_document(bb, iter.name);
            rc = positional_fields(after, at + 1, position, bb, vd_value_document(iter.value), err);
            vd_bb_close(bb);
        } else {
            vd_bb_value(bb, iter.name, iter.value);
        }
    }
    return rc;
}

static int apply_after(const stor_after_t *after, vd_arena_t *arena, int64_t array_position,
                       vd_bson_t *document, vd_error_t *err)
{
    vd_bb_t bb;
    int rc = VD_OK;
    vd_bb_init_arena(&bb, arena, STOR_EXPR_VALUE_MAX_BYTES);
    if (after->positional)
        rc = positional_fields(after, 0, array_position, &bb, *document, err);
    else
        slice_fields(after, 0, &bb, *document);
    return rc == VD_OK ? vd_bb_finish(&bb, document, err) : rc;
}

/* ---- the public door ---- */

static int apply_replace(const stor_project_t *project, stor_expr_env_t *env,
                         vd_bson_t *ret_document, vd_error_t *err)
{
    vd_value_t v = VD_VALUE_MISSING;
    int rc = stor_expr_run(project->replace, env, &v, err);
    if (rc != VD_OK)
        return rc;
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40228),
                            "'replacement document' expression must evaluate to an object, but "
                            "resulting value was of type: '%s'",
                            stor_expr_type(v));
    *ret_document = vd_value_document(v);
    return VD_OK;
}

int stor_project_apply(const stor_project_t *project, stor_expr_env_t *env, vd_bson_t document,
                       int64_t array_position, vd_bson_t *ret_document, vd_error_t *err)
{
    VD_ASSERT(ret_document != NULL);
    if (stor_project_is_identity(project)) {
        *ret_document = document;
        return VD_OK;
    }
    stor_expr_env_document(env, document);
    if (project->kind == STOR_PROJECT_REPLACE)
        return apply_replace(project, env, ret_document, err);

    vd_bson_t result = document;
    int rc = VD_OK;
    if (project->inclusion || project->root.count > 0) {
        vd_bb_t bb;
        vd_bb_init_arena(&bb, env->arena, STOR_EXPR_VALUE_MAX_BYTES);
        apply_t a = {.project = project, .env = env, .bb = &bb, .err = err};
        rc = apply_fields(&a, &project->root, document);
        if (rc == VD_OK)
            rc = vd_bb_finish(&bb, &result, err);
    }
    for (const stor_after_t *after = project->after; after != NULL && rc == VD_OK;
         after = after->next)
        rc = apply_after(after, env->arena, array_position, &result, err);
    if (rc == VD_OK)
        *ret_document = result;
    return rc;
}

bool stor_project_is_identity(const stor_project_t *project)
{
    return project->kind != STOR_PROJECT_REPLACE && !project->inclusion &&
           project->root.count == 0 && project->after == NULL;
}
