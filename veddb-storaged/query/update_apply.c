/* veddb-storaged/query/update_apply.c — one walk over the tree of paths and the document side by
 * side. What no path touches is copied in runs of whole elements; nothing is written for a document
 * that does not change. */
#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/update_private.h"

#include <stdlib.h>

#define FOUND_ON_STACK 32

static int apply_node(stor_update_run_t *run, const stor_update_node_t *node, vd_slice_t name,
                      vd_value_t old, const stor_update_path_t *path, bool in_array,
                      bool *ret_keep);

/* ---- what a change may not do ---- */

static int touch(stor_update_run_t *run, const stor_update_path_t *path)
{
    if (run->inside_id) {
        vd_slice_t text = stor_path_text(run->arena, path);
        return vd_error_set(
            run->err, VD_ERR_IMMUTABLE_FIELD,
            "Performing an update on the path '%.*s' would modify the immutable field '_id'",
            VD_SLICE_FMT(text));
    }
    if (path->parent == NULL && stor_slice_dollar(path->part))
        return vd_error_set(
            run->err, VD_ERR_DOLLAR_PREFIXED_FIELD_NAME,
            "The dollar ($) prefixed field '%.*s' in '%.*s' is not allowed in the context of an "
            "update's "
            "replacement document. Consider using an aggregation pipeline with $replaceWith.",
            VD_SLICE_FMT(path->part), VD_SLICE_FMT(path->part));
    run->changed = true;
    return VD_OK;
}

static int too_deep(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_OVERFLOW, "Document exceeds maximum nesting depth of %d",
                        VD_BSON_DEPTH_MAX);
}

/* Closes a result; `what` and `code` name its size limit. */
static int finish(vd_bb_t *bb, int code, const char *what, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_error_t inner = VD_ERROR_INIT;
    int rc = vd_bb_finish(bb, ret_document, &inner);
    if (rc == VD_ERR_BSON_OBJECT_TOO_LARGE)
        return vd_error_set(err, code, "%s is larger than %d", what, VD_BSON_DOCUMENT_MAX_BYTES);
    if (rc == VD_ERR_OVERFLOW)
        return too_deep(err);
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%s", inner.message);
}

/* A builder with room for a document of about that size. */
static void begin(vd_bb_t *bb, vd_arena_t *arena, size_t size)
{
    vd_bb_init_arena(bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    if (bb->rc == VD_OK && size > bb->cap) {
        uint8_t *data = vd_arena_alloc(arena, size);
        memcpy(data, bb->data, bb->len);
        bb->data = data;
        bb->cap = size;
    }
}

/* ---- nodes made while applying: `$` and several array filters that meet in one element ---- */

static int merge(stor_update_run_t *run, const stor_update_node_t *left,
                 const stor_update_node_t *right, const stor_update_path_t *path,
                 stor_update_node_t **ret_node)
{
    if (left->kind != right->kind || left->kind == STOR_NODE_LEAF) {
        vd_slice_t text = stor_path_text(run->arena, path);
        return vd_error_set(run->err, VD_ERR_CONFLICTING_UPDATE_OPERATORS,
                            "Update created a conflict at '%.*s'", VD_SLICE_FMT(text));
    }
    stor_update_node_t *node = stor_node_create(run->arena, left->kind, left->name);
    for (uint32_t i = 0; i < left->child_count; i++) {
        stor_update_node_t *child = left->children[i], *other = stor_node_child(right, child->name);
        if (other != NULL) {
            stor_update_path_t at = {path, child->name};
            int rc = merge(run, child, other, &at, &child);
            if (rc != VD_OK)
                return rc;
        }
        stor_node_add(run->arena, node, child);
    }
    for (uint32_t i = 0; i < right->child_count; i++)
        if (stor_node_child(left, right->children[i]->name) == NULL)
            stor_node_add(run->arena, node, right->children[i]);
    node->positional = left->positional != NULL ? left->positional : right->positional;
    if (left->positional != NULL && right->positional != NULL) {
        stor_update_path_t at = {path, VD_SLICE_LIT("$")};
        int rc = merge(run, left->positional, right->positional, &at, &node->positional);
        if (rc != VD_OK)
            return rc;
    }
    stor_node_sort(run->arena, node);
    *ret_node = node;
    return VD_OK;
}

/* The node with its `$` child under the position that the query matched. */
static int resolve_positional(stor_update_run_t *run, const stor_update_node_t *node,
                              const stor_update_path_t *path, const stor_update_node_t **ret_node)
{
    *ret_node = node;
    if (VD_LIKELY(node->positional == NULL))
        return VD_OK;
    if (run->array_position < 0)
        return vd_error_set(
            run->err, VD_ERR_BAD_VALUE,
            "The positional operator did not find the match needed from the query.");
    char buf[12];
    vd_slice_t name =
        vd_arena_copy_slice(run->arena, vd_array_name((uint32_t)run->array_position, buf));
    stor_update_node_t *positional = VD_ARENA_NEW(run->arena, stor_update_node_t);
    *positional = *node->positional;
    positional->name = name;
    positional->position = run->array_position;

    stor_update_node_t *resolved = stor_node_create(run->arena, node->kind, node->name);
    stor_update_node_t *same = stor_node_child(node, name);
    if (same != NULL) {
        stor_update_path_t at = {path, name};
        int rc = merge(run, positional, same, &at, &positional);
        if (rc != VD_OK)
            return rc;
    }
    for (uint32_t i = 0; i < node->child_count; i++)
        if (node->children[i] != same)
            stor_node_add(run->arena, resolved, node->children[i]);
    stor_node_add(run->arena, resolved, positional);
    stor_node_sort(run->arena, resolved);
    *ret_node = resolved;
    return VD_OK;
}

/* ---- paths that are not there ---- */

/* Would this node make something here? Errors that come even then, too. */
static int creates(stor_update_run_t *run, const stor_update_node_t *node,
                   const stor_update_path_t *path, bool *ret_creates)
{
    if (node->kind == STOR_NODE_LEAF) {
        *ret_creates = stor_operator_creates(run, node->op);
        return VD_OK;
    }
    if (node->kind == STOR_NODE_FILTER) {
        vd_slice_t text = stor_path_text(run->arena, path);
        return vd_error_set(
            run->err, VD_ERR_BAD_VALUE,
            "The path '%.*s' must exist in the document in order to apply array updates.",
            VD_SLICE_FMT(text));
    }
    int rc = resolve_positional(run, node, path, &node);
    bool any = false;
    for (uint32_t i = 0; rc == VD_OK && i < node->child_count; i++) {
        bool one = false;
        stor_update_path_t at = {path, node->children[i]->name};
        rc = creates(run, node->children[i], &at, &one);
        any |= one;
    }
    *ret_creates = any;
    return rc;
}

/* Only for nodes of which creates() said yes. */
static int create(stor_update_run_t *run, const stor_update_node_t *node, vd_slice_t name,
                  const stor_update_path_t *path)
{
    if (node->kind == STOR_NODE_LEAF) {
        stor_operator_create(run, node->op, name);
        return VD_OK;
    }
    int rc = resolve_positional(run, node, path, &node);
    if (rc != VD_OK)
        return rc;
    vd_bb_open_document(run->bb, name);
    for (uint32_t i = 0; rc == VD_OK && i < node->child_count; i++) {
        bool one = false;
        stor_update_path_t at = {path, node->children[i]->name};
        rc = creates(run, node->children[i], &at, &one);
        if (rc == VD_OK && one)
            rc = create(run, node->children[i], node->children[i]->name, &at);
    }
    vd_bb_close(run->bb);
    return rc;
}

static int apply_missing(stor_update_run_t *run, const stor_update_node_t *node,
                         const stor_update_path_t *path)
{
    bool any = false;
    int rc = creates(run, node, path, &any);
    if (rc == VD_OK && any)
        rc = touch(run, path);
    if (rc == VD_OK && any)
        rc = create(run, node, path->part, path);
    return rc;
}

/* The path goes on, but `old` (element `name`) can't hold the field `part`. */
static int check_blocked(stor_update_run_t *run, const stor_update_node_t *node, vd_slice_t part,
                         vd_slice_t name, vd_value_t old, const stor_update_path_t *path)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    if (node->kind == STOR_NODE_LEAF) {
        if (stor_operator_creates(run, node->op))
            return vd_error_set(run->err, VD_ERR_PATH_NOT_VIABLE,
                                "Cannot create field '%.*s' in element {%s}", VD_SLICE_FMT(part),
                                stor_print_element(name, old, print, sizeof print));
        if (node->op->kind != STOR_OP_PULL && node->op->kind != STOR_OP_PULL_ALL &&
            node->op->kind != STOR_OP_POP)
            return VD_OK;
        vd_slice_t text = stor_path_text(run->arena, path);
        return vd_error_set(run->err, VD_ERR_PATH_NOT_VIABLE,
                            "Cannot use the part (%.*s) of (%.*s) to traverse the element ({%s})",
                            VD_SLICE_FMT(part), VD_SLICE_FMT(text),
                            stor_print_element(name, old, print, sizeof print));
    }
    if (node->kind == STOR_NODE_FILTER) {
        bool unused = false;
        return creates(run, node, path, &unused);
    }
    int rc = resolve_positional(run, node, path, &node);
    for (uint32_t i = 0; rc == VD_OK && i < node->child_count; i++) {
        stor_update_path_t at = {path, node->children[i]->name};
        rc = check_blocked(run, node->children[i], part, name, old, &at);
    }
    return rc;
}

/* ---- objects ---- */

/* Writes the elements of `document` into the open one. path: of the document, NULL for the whole.
 */
static int apply_fields(stor_update_run_t *run, const stor_update_node_t *node, vd_bson_t document,
                        const stor_update_path_t *path)
{
    int rc = resolve_positional(run, node, path, &node);
    if (rc != VD_OK)
        return rc;
    uint32_t left = node->child_count;
    bool on_stack[FOUND_ON_STACK] = {0};
    bool *found = left <= FOUND_ON_STACK ? on_stack : VD_ARENA_ARRAY(run->arena, bool, left);
    if (document.data != NULL) {
        const uint8_t *from = document.data + 4;
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, document);
        while (left > 0 && vd_bson_iter_next(&iter)) {
            uint32_t child = stor_node_index(node, iter.name);
            if (child == UINT32_MAX || found[child])
                continue;
            found[child] = true;
            left--;
            const uint8_t *start = iter.name.data - 1;
            stor_bb_run(run->bb, from, start);
            bool keep = false, top_id = path == NULL && vd_slice_is(iter.name, "_id");
            stor_update_path_t at = {path, iter.name};
            if (top_id)
                run->inside_id = true;
            rc = apply_node(run, node->children[child], iter.name, iter.value, &at, false, &keep);
            if (rc != VD_OK)
                return rc;
            if (top_id)
                run->inside_id = false;
            from = keep ? start : iter.pos;
        }
        if (left > 0 && iter.bad)
            return vd_error_set(run->err, VD_ERR_INVALID_BSON, "the document is not valid BSON");
        stor_bb_run(run->bb, from, document.data + document.len - 1);
    }
    for (uint32_t i = 0; left > 0 && i < node->child_count; i++) {
        if (found[i])
            continue;
        left--;
        stor_update_path_t at = {path, node->children[i]->name};
        rc = apply_missing(run, node->children[i], &at);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* ---- arrays by position ---- */

static int compare_targets(const void *a, const void *b)
{
    const stor_update_node_t *x = *(stor_update_node_t *const *)a,
                             *y = *(stor_update_node_t *const *)b;
    return (x->position > y->position) - (x->position < y->position);
}

static int append_target(stor_update_run_t *run, const stor_update_node_t *node,
                         const stor_update_path_t *path, uint32_t *count)
{
    bool any = false;
    char buf[12];
    stor_update_path_t at = {path, node->name};
    int rc = creates(run, node, &at, &any);
    if (rc != VD_OK || !any)
        return rc;
    if (node->position - *count > VD_UPDATE_ARRAY_GAP_MAX)
        return vd_error_set(run->err, VD_ERR_CANNOT_BACKFILL_ARRAY,
                            "can't backfill more than %d elements", VD_UPDATE_ARRAY_GAP_MAX);
    rc = touch(run, &at);
    if (rc != VD_OK)
        return rc;
    for (; *count < node->position; (*count)++)
        vd_bb_value(run->bb, vd_array_name(*count, buf), vd_value_from_null());
    rc = create(run, node, vd_array_name(*count, buf), &at);
    (*count)++;
    return rc;
}

static int apply_positions(stor_update_run_t *run, const stor_update_node_t *node, vd_slice_t name,
                           vd_value_t old, const stor_update_path_t *path)
{
    int rc = resolve_positional(run, node, path, &node);
    if (rc != VD_OK)
        return rc;
    stor_update_node_t **targets =
        VD_ARENA_ARRAY(run->arena, stor_update_node_t *, node->child_count);
    uint32_t target_count = 0;
    for (uint32_t i = 0; i < node->child_count; i++) {
        stor_update_node_t *child = node->children[i];
        stor_update_path_t at = {path, child->name};
        if (child->position >= 0)
            targets[target_count++] = child;
        else if ((rc = check_blocked(run, child, child->name, name, old, &at)) != VD_OK)
            return rc;
    }
    qsort(targets, target_count, sizeof *targets, compare_targets);
    for (uint32_t i = 1; i < target_count; i++) {
        if (targets[i]->position != targets[i - 1]->position)
            continue;
        stor_update_path_t at = {path, targets[i]->name};
        vd_slice_t text = stor_path_text(run->arena, &at);
        return vd_error_set(run->err, VD_ERR_CONFLICTING_UPDATE_OPERATORS,
                            "Update created a conflict at '%.*s'", VD_SLICE_FMT(text));
    }

    vd_bson_t array = vd_value_document(old);
    const uint8_t *from = array.data + 4;
    uint32_t position = 0, target = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    for (; target < target_count && vd_bson_iter_next(&iter); position++) {
        if (position != targets[target]->position)
            continue;
        const uint8_t *start = iter.name.data - 1;
        stor_bb_run(run->bb, from, start);
        bool keep = false;
        stor_update_path_t at = {path, iter.name};
        rc = apply_node(run, targets[target++], iter.name, iter.value, &at, true, &keep);
        if (rc != VD_OK)
            return rc;
        from = keep ? start : iter.pos;
    }
    stor_bb_run(run->bb, from, array.data + array.len - 1);
    for (; target < target_count; target++) {
        rc = append_target(run, targets[target], path, &position);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* ---- arrays by filter ---- */

static int filter_matches(stor_update_run_t *run, const stor_array_filter_t *filter, vd_value_t v,
                          bool *ret_matches)
{
    vd_arena_mark_t mark = vd_arena_mark(run->arena);
    stor_match_t match = {.arena = run->arena, .variables = NULL, .array_position = -1};
    int rc = stor_match_document(filter->filter, stor_wrap_value(run->arena, filter->name, v),
                                 &match, ret_matches, run->err);
    vd_arena_rewind(run->arena, mark);
    return rc;
}

static int apply_filtered(stor_update_run_t *run, const stor_update_node_t *node, vd_slice_t name,
                          vd_value_t old, const stor_update_path_t *path)
{
    if (old.type != VD_BSON_ARRAY) {
        char print[STOR_UPDATE_PRINT_SIZE];
        return vd_error_set(run->err, VD_ERR_BAD_VALUE,
                            "Cannot apply array updates to non-array element %s",
                            stor_print_element(name, old, print, sizeof print));
    }
    const stor_array_filter_t **filters =
        VD_ARENA_ARRAY(run->arena, const stor_array_filter_t *, node->child_count);
    for (uint32_t i = 0; i < node->child_count; i++)
        for (uint32_t f = 0; f < run->update->filter_count; f++)
            if (vd_slice_equal(run->update->filters[f].name, node->children[i]->name))
                filters[i] = &run->update->filters[f];

    vd_bson_t array = vd_value_document(old);
    const uint8_t *from = array.data + 4;
    vd_bb_open_array(run->bb, name);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter)) {
        stor_update_path_t at = {path, iter.name};
        stor_update_node_t *merged = NULL;
        for (uint32_t i = 0; i < node->child_count; i++) {
            bool matches = filters[i] == NULL; /* $[] */
            int rc = matches ? VD_OK : filter_matches(run, filters[i], iter.value, &matches);
            if (rc == VD_OK && matches && merged != NULL)
                rc = merge(run, merged, node->children[i], &at, &merged);
            else if (matches)
                merged = node->children[i];
            if (rc != VD_OK)
                return rc;
        }
        if (merged == NULL)
            continue;
        const uint8_t *start = iter.name.data - 1;
        stor_bb_run(run->bb, from, start);
        bool keep = false;
        int rc = apply_node(run, merged, iter.name, iter.value, &at, true, &keep);
        if (rc != VD_OK)
            return rc;
        from = keep ? start : iter.pos;
    }
    stor_bb_run(run->bb, from, array.data + array.len - 1);
    vd_bb_close(run->bb);
    return VD_OK;
}

/* ---- one element that exists ---- */

/* *ret_keep: nothing was written, the caller copies the element as it is. */
static int apply_node(stor_update_run_t *run, const stor_update_node_t *node, vd_slice_t name,
                      vd_value_t old, const stor_update_path_t *path, bool in_array, bool *ret_keep)
{
    int rc = VD_OK;
    *ret_keep = false;
    if (node->kind == STOR_NODE_LEAF) {
        stor_operator_result_t result = STOR_RESULT_KEEP;
        vd_value_t value = VD_VALUE_MISSING;
        rc = stor_operator_apply(run, node->op, path, name, old, in_array, &result, &value);
        if (rc != VD_OK)
            return rc;
        *ret_keep = result == STOR_RESULT_KEEP;
        if (*ret_keep)
            return VD_OK;
        if (result == STOR_RESULT_VALUE)
            vd_bb_value(run->bb, name, value);
        return touch(run, path);
    }
    if (node->kind == STOR_NODE_FILTER)
        return apply_filtered(run, node, name, old, path);
    if (old.type == VD_BSON_OBJECT) {
        vd_bb_open_document(run->bb, name);
        rc = apply_fields(run, node, vd_value_document(old), path);
        vd_bb_close(run->bb);
        return rc;
    }
    if (old.type == VD_BSON_ARRAY) {
        vd_bb_open_array(run->bb, name);
        rc = apply_positions(run, node, name, old, path);
        vd_bb_close(run->bb);
        return rc;
    }
    *ret_keep = true;
    rc = resolve_positional(run, node, path, &node);
    for (uint32_t i = 0; rc == VD_OK && i < node->child_count; i++) {
        stor_update_path_t at = {path, node->children[i]->name};
        rc = check_blocked(run, node->children[i], node->children[i]->name, name, old, &at);
    }
    return rc;
}

/* ---- $rename: sources are read from the document as it was ---- */

static vd_value_t nth(vd_bson_t array, int64_t position)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (position >= 0 && vd_bson_iter_next(&iter))
        if (position-- == 0)
            return iter.value;
    return VD_VALUE_MISSING;
}

static int renames_through_array(stor_update_run_t *run, const char *which, const stor_path_t *path,
                                 vd_slice_t array)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    return vd_error_set(run->err, VD_ERR_BAD_VALUE,
                        "The %s field cannot be an array element, '%.*s' in doc with %s has an "
                        "array field called '%.*s'",
                        which, VD_SLICE_FMT(path->text),
                        stor_print_id(run->document, print, sizeof print), VD_SLICE_FMT(array));
}

static int read_rename(stor_update_run_t *run, const stor_rename_t *rename, vd_value_t *ret_value)
{
    vd_value_t at = vd_value_from_document(run->document);
    vd_slice_t array = VD_SLICE_NULL;
    *ret_value = VD_VALUE_MISSING;
    for (uint32_t i = 0; i < rename->from.count; i++) {
        vd_slice_t part = rename->from.parts[i];
        if (at.type == VD_BSON_OBJECT) {
            at = vd_bson_get_slice(vd_value_document(at), part);
        } else if (at.type == VD_BSON_ARRAY && stor_array_position(part) >= 0) {
            array = rename->from.parts[i - 1];
            at = nth(vd_value_document(at), stor_array_position(part));
        } else {
            char print[STOR_UPDATE_PRINT_SIZE];
            vd_slice_t before = rename->from.parts[i - 1];
            return vd_error_set(run->err, VD_ERR_PATH_NOT_VIABLE,
                                "cannot use the part (%.*s of %.*s) to traverse the element ({%s})",
                                VD_SLICE_FMT(before), VD_SLICE_FMT(rename->from.text),
                                stor_print_element(before, at, print, sizeof print));
        }
        if (vd_value_is_missing(at))
            return VD_OK;
    }
    if (array.data != NULL)
        return renames_through_array(run, "source", &rename->from, array);
    *ret_value = at;

    at = vd_value_from_document(run->document);
    for (uint32_t i = 0; i < rename->to.count && at.type == VD_BSON_OBJECT; i++) {
        at = vd_bson_get_slice(vd_value_document(at), rename->to.parts[i]);
        if (at.type == VD_BSON_ARRAY && i + 1 < rename->to.count)
            return renames_through_array(run, "destination", &rename->to, rename->to.parts[i]);
    }
    return VD_OK;
}

/* ---- operators on a whole document ---- */

static int apply_operators(const stor_update_t *update, vd_arena_t *arena, vd_bson_t document,
                           int64_t array_position, bool insert, vd_bson_t *ret_document,
                           bool *ret_changed, vd_error_t *err)
{
    vd_bb_t bb;
    stor_update_run_t run = {.update = update,
                             .arena = arena,
                             .bb = &bb,
                             .document = document,
                             .insert = insert,
                             .array_position = array_position,
                             .err = err};
    if (update->rename_count > 0) {
        run.renamed = VD_ARENA_ARRAY(arena, vd_value_t, update->rename_count);
        for (uint32_t i = 0; i < update->rename_count; i++) {
            int rc = read_rename(&run, &update->renames[i], &run.renamed[i]);
            if (rc != VD_OK)
                return rc;
        }
    }
    if (update->root->child_count == 0) { /* {$set: {}} */
        *ret_document = document;
        *ret_changed = false;
        return VD_OK;
    }
    begin(&bb, arena, document.len + 256);
    int rc = apply_fields(&run, update->root, document, NULL);
    if (rc != VD_OK)
        return rc;
    *ret_changed = run.changed;
    if (!run.changed) {
        *ret_document = document;
        return VD_OK;
    }
    vd_bson_t result;
    rc = finish(&bb, VD_ERR_LOCATION(17419), "Resulting document after update", &result, err);
    if (rc != VD_OK)
        return rc;
    if ((update->depth > VD_BSON_DEPTH_MAX || update->rename_count > 0) &&
        stor_document_too_deep(result))
        return too_deep(err);
    *ret_document = result;
    return VD_OK;
}

/* ---- replacement and pipeline ---- */

/* A `$` name at the top level of a replacement: only a DBRef's own. */
static int check_dollar(vd_slice_t before, const vd_bson_iter_t *at, vd_error_t *err)
{
    bool is_ref = vd_slice_is(at->name, "$ref"), is_id = vd_slice_is(at->name, "$id"),
         is_db = vd_slice_is(at->name, "$db");
    vd_bson_iter_t next = *at;
    if (is_db && at->value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_INVALID_DB_REF,
                            "The DBRef $db field must be a String, not a %s",
                            vd_bson_type_name(at->value.type));
    if (is_db && !vd_slice_is(before, "$id"))
        return vd_error_set(err, VD_ERR_INVALID_DB_REF,
                            "Found $db field without a $id before it, which is invalid.");
    if (is_id && !vd_slice_is(before, "$ref"))
        return vd_error_set(err, VD_ERR_INVALID_DB_REF,
                            "Found $id field without a $ref before it, which is invalid.");
    if (is_ref && at->value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_INVALID_DB_REF,
                            "The DBRef $ref field must be a String, not a %s",
                            vd_bson_type_name(at->value.type));
    if (is_ref && !(vd_bson_iter_next(&next) && vd_slice_is(next.name, "$id")))
        return vd_error_set(err, VD_ERR_INVALID_DB_REF,
                            "The DBRef $ref field must be followed by a $id field");
    if (is_ref || is_id || is_db)
        return VD_OK;
    return vd_error_set(err, VD_ERR_DOLLAR_PREFIXED_FIELD_NAME,
                        "The dollar ($) prefixed field '%.*s' in '%.*s' is not allowed in the "
                        "context of an update's replacement "
                        "document. Consider using an aggregation pipeline with $replaceWith.",
                        VD_SLICE_FMT(at->name), VD_SLICE_FMT(at->name));
}

/* Puts `whole` in the place of `document`, which keeps its _id. */
static int replace(vd_arena_t *arena, vd_bson_t document, vd_bson_t whole, bool dollars_allowed,
                   vd_bson_t *ret_document, bool *ret_changed, vd_error_t *err)
{
    if (whole.len == document.len && whole.len > 0 &&
        memcmp(whole.data, document.data, whole.len) == 0) {
        *ret_changed = false;
        *ret_document = document;
        return VD_OK;
    }
    vd_value_t old_id = vd_bson_get(document, "_id"), id = VD_VALUE_MISSING;
    const uint8_t *first = NULL, *last = NULL, *id_start = NULL, *id_end = NULL;
    vd_slice_t before = VD_SLICE_NULL;
    int rc;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, whole);
    while (vd_bson_iter_next(&iter)) {
        if (first == NULL)
            first = iter.name.data - 1;
        last = iter.pos;
        if (!dollars_allowed && stor_slice_dollar(iter.name) &&
            (rc = check_dollar(before, &iter, err)) != VD_OK)
            return rc;
        if (id_start == NULL && vd_slice_is(iter.name, "_id")) {
            id = iter.value;
            id_start = iter.name.data - 1, id_end = iter.pos;
        }
        before = iter.name;
    }
    if (iter.bad)
        return vd_error_set(err, VD_ERR_INVALID_BSON, "the document is not valid BSON");
    if (stor_document_too_deep(whole))
        return too_deep(err);
    if (!vd_value_is_missing(id)) {
        rc = stor_check_id(id, err);
        if (rc != VD_OK)
            return rc;
        const vd_collation_t *collation = vd_collation_set(NULL); /* of _id no letter changes */
        bool altered = !vd_value_is_missing(old_id) && vd_value_compare(old_id, id) != 0;
        (void)vd_collation_set(collation);
        if (altered) {
            char print[STOR_UPDATE_PRINT_SIZE];
            return vd_error_set(err, VD_ERR_IMMUTABLE_FIELD,
                                "After applying the update, the (immutable) field '_id' was found "
                                "to have been altered to %s",
                                stor_print_element(VD_SLICE_LIT("_id"), id, print, sizeof print));
        }
    }
    *ret_changed = true;
    if (id_start == first && id_start != NULL && whole.len <= VD_BSON_DOCUMENT_MAX_BYTES) {
        *ret_document = whole;
        return VD_OK;
    }
    vd_bb_t bb;
    begin(&bb, arena, (size_t)whole.len + old_id.len + 16);
    if (id_start == NULL) {
        vd_bb_value(&bb, VD_SLICE_LIT("_id"), old_id);
        stor_bb_run(&bb, first, last);
    } else {
        stor_bb_run(&bb, id_start, id_end);
        stor_bb_run(&bb, first, id_start);
        stor_bb_run(&bb, id_end, last);
    }
    return finish(&bb, VD_ERR_LOCATION(17419), "Resulting document after update", ret_document,
                  err);
}

static int apply_pipeline(const stor_update_t *update, vd_arena_t *arena, vd_bson_t document,
                          vd_bson_t *ret_document, bool *ret_changed, vd_error_t *err)
{
    stor_expr_env_t env;
    stor_expr_env_init(&env, arena, update->variables);
    vd_bson_t at = document;
    for (uint32_t i = 0; i < update->stage_count; i++) {
        stor_expr_env_document(&env, at);
        int rc = stor_project_apply(update->stages[i], &env, at, -1, &at, err);
        if (rc != VD_OK)
            return rc;
    }
    return replace(arena, document, at, true, ret_document, ret_changed, err);
}

static int apply(const stor_update_t *update, vd_arena_t *arena, vd_bson_t document,
                 int64_t array_position, bool insert, vd_bson_t *ret_document, bool *ret_changed,
                 vd_error_t *err)
{
    switch (update->kind) {
    case STOR_UPDATE_OPERATORS:
        return apply_operators(update, arena, document, array_position, insert, ret_document,
                               ret_changed, err);
    case STOR_UPDATE_REPLACE:
        return replace(arena, document, update->replacement, false, ret_document, ret_changed, err);
    case STOR_UPDATE_PIPELINE:
        return apply_pipeline(update, arena, document, ret_document, ret_changed, err);
    }
    VD_UNREACHABLE();
}

int stor_update_apply(const stor_update_t *update, vd_arena_t *arena, vd_bson_t document,
                      const stor_match_t *match, vd_bson_t *ret_document, bool *ret_changed,
                      vd_error_t *err)
{
    VD_ASSERT(update != NULL);
    VD_ASSERT(arena != NULL);
    VD_ASSERT(ret_document != NULL);
    VD_ASSERT(ret_changed != NULL);
    return apply(update, arena, document, match != NULL ? match->array_position : -1, false,
                 ret_document, ret_changed, err);
}

/* ---- upsert ---- */

typedef struct {
    vd_arena_t *arena;
    stor_update_node_t *root;
    bool id_only; /* a replacement takes nothing but _id from the filter */
    vd_error_t *err;
} upsert_t;

static int upsert_conflict(vd_slice_t path, vd_slice_t prefix, vd_error_t *err)
{
    if (path.len == prefix.len)
        return vd_error_set(err, STOR_ERR_NOT_SINGLE,
                            "cannot infer query fields to set, path '%.*s' is matched twice",
                            VD_SLICE_FMT(path));
    return vd_error_set(
        err, STOR_ERR_NOT_SINGLE,
        "cannot infer query fields to set, both paths '%.*s' and '%.*s' are matched",
        VD_SLICE_FMT(path), VD_SLICE_FMT(prefix));
}

static int upsert_visit(const stor_path_t *path, vd_value_t value, void *context)
{
    upsert_t *upsert = context;
    if (upsert->id_only) {
        if (!vd_slice_is(path->parts[0], "_id"))
            return VD_OK;
        if (path->count > 1)
            return vd_error_set(
                upsert->err, STOR_ERR_NOT_EXACT,
                "field at '_id' must be exactly specified, field at sub-path '%.*s'found",
                VD_SLICE_FMT(path->text));
    }
    stor_update_node_t *at = upsert->root;
    for (uint32_t i = 0; i < path->count; i++) {
        bool leaf = i + 1 == path->count;
        vd_slice_t prefix = vd_slice(
            path->text.data, (size_t)(path->parts[i].data + path->parts[i].len - path->text.data));
        stor_update_node_t *child = stor_node_child(at, path->parts[i]);
        if (child != NULL && (leaf || child->kind == STOR_NODE_LEAF))
            return upsert_conflict(path->text, prefix, upsert->err);
        if (child == NULL) {
            child = stor_node_create(upsert->arena, leaf ? STOR_NODE_LEAF : STOR_NODE_FIELDS,
                                     path->parts[i]);
            stor_node_add(upsert->arena, at, child);
        }
        at = child;
    }
    stor_operator_t *op = VD_ARENA_NEW(upsert->arena, stor_operator_t);
    op->kind = STOR_OP_SET;
    op->value = value;
    at->op = op;
    return VD_OK;
}

static void upsert_write(vd_arena_t *arena, vd_bb_t *bb, stor_update_node_t *node)
{
    stor_node_sort(arena, node);
    for (uint32_t i = 0; i < node->child_count; i++) {
        stor_update_node_t *child = node->children[i];
        if (child->kind == STOR_NODE_LEAF) {
            vd_bb_value(bb, child->name, child->op->value);
            continue;
        }
        vd_bb_open_document(bb, child->name);
        upsert_write(arena, bb, child);
        vd_bb_close(bb);
    }
}

int stor_update_upsert(const stor_update_t *update, vd_arena_t *arena, const stor_filter_t *filter,
                       vd_bson_t *ret_document, vd_error_t *err)
{
    VD_ASSERT(update != NULL);
    VD_ASSERT(arena != NULL);
    VD_ASSERT(filter != NULL);
    VD_ASSERT(ret_document != NULL);

    static const char too_large[] = "Document to upsert";
    upsert_t upsert = {.arena = arena,
                       .root = stor_node_create(arena, STOR_NODE_FIELDS, VD_SLICE_NULL),
                       .id_only = update->kind == STOR_UPDATE_REPLACE,
                       .err = err};
    int rc = stor_filter_equalities(filter, upsert_visit, &upsert);
    if (rc != VD_OK)
        return rc;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    upsert_write(arena, &bb, upsert.root);
    vd_bson_t document;
    rc = finish(&bb, VD_ERR_LOCATION(17420), too_large, &document, err);
    if (rc != VD_OK)
        return rc;

    bool changed = false;
    vd_error_t inner = VD_ERROR_INIT;
    rc = apply(update, arena, document, -1, true, &document, &changed, &inner);
    if (rc == VD_ERR_LOCATION(17419))
        return vd_error_set(err, VD_ERR_LOCATION(17420), "%s is larger than %d", too_large,
                            VD_BSON_DOCUMENT_MAX_BYTES);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", inner.message);
    if (stor_document_too_deep(document))
        return too_deep(err);

    vd_slice_t first = VD_SLICE_NULL;
    vd_value_t value;
    vd_value_t id = vd_bson_get(document, "_id");
    rc = stor_check_id(id, err);
    if (rc != VD_OK)
        return rc;
    if (vd_bson_first(document, &first, &value) && vd_slice_is(first, "_id")) {
        *ret_document = document;
        return VD_OK;
    }
    begin(&bb, arena, (size_t)document.len + 32);
    if (vd_value_is_missing(id)) {
        uint8_t oid[12];
        vd_objectid_new(oid);
        vd_bb_objectid(&bb, "_id", oid);
    } else {
        vd_bb_value(&bb, VD_SLICE_LIT("_id"), id);
    }
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter))
        if (iter.value.data != id.data || vd_value_is_missing(id))
            stor_bb_run(&bb, iter.name.data - 1, iter.pos);
    return finish(&bb, VD_ERR_LOCATION(17420), too_large, ret_document, err);
}
