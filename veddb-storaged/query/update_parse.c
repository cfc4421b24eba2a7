/* veddb-storaged/query/update_parse.c — from an update's bytes to a tree of paths, once; everything
 * that needs no document is checked here. */
#include "libcommon/base/clock.h"
#include "libcommon/base/map.h"
#include "veddb-storaged/query/update_private.h"

#define CHILDREN_LINEAR_MAX 8 /* nodes with more children find them by hash */

/* ---- nodes ---- */

stor_update_node_t *stor_node_create(vd_arena_t *arena, stor_node_kind_t kind, vd_slice_t name)
{
    stor_update_node_t *node = VD_ARENA_NEW(arena, stor_update_node_t);
    node->kind = kind;
    node->name = name;
    node->position = stor_array_position(name);
    return node;
}

static void table_put(stor_update_node_t *node, uint32_t child)
{
    uint32_t mask = node->table_size - 1;
    uint32_t slot = (uint32_t)vd_hash(node->children[child]->name) & mask;
    while (node->table[slot] != 0)
        slot = (slot + 1) & mask;
    node->table[slot] = child + 1;
}

static void table_build(vd_arena_t *arena, stor_update_node_t *node, uint32_t size)
{
    if (size != node->table_size) {
        node->table = VD_ARENA_ARRAY(arena, uint32_t, size);
        node->table_size = size;
    } else {
        memset(node->table, 0, sizeof *node->table * size);
    }
    for (uint32_t i = 0; i < node->child_count; i++)
        table_put(node, i);
}

uint32_t stor_node_index(const stor_update_node_t *node, vd_slice_t name)
{
    if (node->table_size == 0) {
        for (uint32_t i = 0; i < node->child_count; i++)
            if (vd_slice_equal(node->children[i]->name, name))
                return i;
        return UINT32_MAX;
    }
    uint32_t mask = node->table_size - 1;
    for (uint32_t slot = (uint32_t)vd_hash(name) & mask; node->table[slot] != 0;
         slot = (slot + 1) & mask)
        if (vd_slice_equal(node->children[node->table[slot] - 1]->name, name))
            return node->table[slot] - 1;
    return UINT32_MAX;
}

stor_update_node_t *stor_node_child(const stor_update_node_t *node, vd_slice_t name)
{
    uint32_t child = stor_node_index(node, name);
    return child == UINT32_MAX ? NULL : node->children[child];
}

void stor_node_add(vd_arena_t *arena, stor_update_node_t *node, stor_update_node_t *child)
{
    if (node->child_count == node->child_cap) {
        uint32_t cap = node->child_cap == 0 ? 4 : node->child_cap * 2;
        stor_update_node_t **children = VD_ARENA_ARRAY(arena, stor_update_node_t *, cap);
        if (node->child_count > 0)
            memcpy(children, node->children, sizeof *children * node->child_count);
        node->children = children;
        node->child_cap = cap;
    }
    node->children[node->child_count++] = child;
    if (node->child_count <= CHILDREN_LINEAR_MAX)
        return;
    if (node->child_count * 2 > node->table_size)
        table_build(arena, node, node->table_size == 0 ? 32 : node->table_size * 2);
    else
        table_put(node, node->child_count - 1);
}

/* Numbers by value, everything else by its bytes. */
static int compare_nodes(const stor_update_node_t *a, const stor_update_node_t *b)
{
    if (a->position >= 0 && b->position >= 0 && a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return vd_slice_compare(a->name, b->name);
}

/* Merge sort: the order of mixed numbers and names is not transitive, which qsort need not survive.
 */
static void sort_children(stor_update_node_t **children, stor_update_node_t **spare, uint32_t count)
{
    if (count < 2)
        return;
    uint32_t half = count / 2;
    sort_children(children, spare, half);
    sort_children(children + half, spare, count - half);
    if (compare_nodes(children[half - 1], children[half]) <= 0)
        return;
    memcpy(spare, children, sizeof *spare * half);
    uint32_t left = 0, right = half, out = 0;
    while (left < half && right < count)
        children[out++] =
            compare_nodes(children[right], spare[left]) < 0 ? children[right++] : spare[left++];
    while (left < half)
        children[out++] = spare[left++];
}

void stor_node_sort(vd_arena_t *arena, stor_update_node_t *node)
{
    if (node->child_count < 2)
        return;
    sort_children(node->children,
                  VD_ARENA_ARRAY(arena, stor_update_node_t *, node->child_count / 2 + 1),
                  node->child_count);
    if (node->table_size > 0)
        table_build(arena, node, node->table_size);
}

static void sort_tree(vd_arena_t *arena, stor_update_node_t *node)
{
    stor_node_sort(arena, node);
    for (uint32_t i = 0; i < node->child_count; i++)
        sort_tree(arena, node->children[i]);
    if (node->positional != NULL)
        sort_tree(arena, node->positional);
}

int64_t stor_array_position(vd_slice_t part)
{
    if (part.len == 0 || part.len > 20)
        return -1;
    int64_t position = 0;
    for (size_t i = 0; i < part.len; i++) {
        if (part.data[i] < '0' || part.data[i] > '9')
            return -1;
        position = position * 10 + (part.data[i] - '0');
        if (position > UINT32_MAX)
            return -1;
    }
    return position;
}

static uint32_t value_depth(vd_value_t v, uint32_t left)
{
    if ((v.type != VD_BSON_OBJECT && v.type != VD_BSON_ARRAY) || left == 0)
        return 0;
    uint32_t deepest = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        uint32_t depth = value_depth(iter.value, left - 1);
        deepest = depth > deepest ? depth : deepest;
    }
    return deepest + 1;
}

uint32_t stor_value_depth(vd_value_t v)
{
    return value_depth(v, VD_BSON_BUILD_DEPTH_MAX);
}

/* ---- paths ---- */

static const struct {
    const char *name;
    stor_operator_kind_t kind;
} operators[] = {
    {"$set", STOR_OP_SET},
    {"$inc", STOR_OP_INC},
    {"$unset", STOR_OP_UNSET},
    {"$push", STOR_OP_PUSH},
    {"$setOnInsert", STOR_OP_SET_ON_INSERT},
    {"$addToSet", STOR_OP_ADD_TO_SET},
    {"$pull", STOR_OP_PULL},
    {"$pullAll", STOR_OP_PULL_ALL},
    {"$pop", STOR_OP_POP},
    {"$max", STOR_OP_MAX},
    {"$min", STOR_OP_MIN},
    {"$mul", STOR_OP_MUL},
    {"$bit", STOR_OP_BIT},
    {"$rename", STOR_OP_RENAME},
    {"$currentDate", STOR_OP_CURRENT_DATE},
};

static bool is_filter_part(vd_slice_t part)
{
    return part.len >= 3 && part.data[0] == '$' && part.data[1] == '[' &&
           part.data[part.len - 1] == ']';
}

static int split_path(vd_arena_t *arena, vd_slice_t text, uint32_t *ret_count,
                      vd_slice_t **ret_parts, vd_error_t *err)
{
    if (text.len == 0)
        return vd_error_set(err, VD_ERR_EMPTY_FIELD_NAME, "An empty update path is not valid.");
    uint32_t count = 1;
    for (size_t i = 0; i < text.len; i++)
        count += text.data[i] == '.';
    if (count > STOR_UPDATE_PARTS_MAX)
        return vd_error_set(err, VD_ERR_OVERFLOW, "FieldPath is too long");
    vd_slice_t *parts = VD_ARENA_ARRAY(arena, vd_slice_t, count);
    size_t start = 0;
    uint32_t part = 0;
    for (size_t i = 0; i <= text.len; i++) {
        if (i < text.len && text.data[i] != '.')
            continue;
        if (i == start)
            return vd_error_set(
                err, VD_ERR_EMPTY_FIELD_NAME,
                "The update path '%.*s' contains an empty field name, which is not allowed.",
                VD_SLICE_FMT(text));
        parts[part++] = vd_slice(text.data + start, i - start);
        start = i + 1;
    }
    *ret_count = count;
    *ret_parts = parts;
    return VD_OK;
}

static int conflict(vd_slice_t text, const vd_slice_t *last, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CONFLICTING_UPDATE_OPERATORS,
                        "Updating the path '%.*s' would create a conflict at '%.*s'",
                        VD_SLICE_FMT(text), (int)(last->data + last->len - text.data),
                        (const char *)text.data);
}

/* The name under which the part's node is kept: of $[id] the identifier. */
static int filter_name(stor_update_t *update, vd_slice_t part, uint32_t position, vd_slice_t text,
                       vd_slice_t *ret_name, vd_error_t *err)
{
    if (position == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Cannot have array filter identifier (i.e. '$[<id>]') element in the "
                            "first position in path '%.*s'",
                            VD_SLICE_FMT(text));
    vd_slice_t name = vd_slice(part.data + 2, part.len - 3);
    if (name.len > 0) {
        stor_array_filter_t *filter = NULL;
        for (uint32_t i = 0; i < update->filter_count && filter == NULL; i++)
            if (vd_slice_equal(update->filters[i].name, name))
                filter = &update->filters[i];
        if (filter == NULL)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "No array filter found for identifier '%.*s' in path '%.*s'",
                                VD_SLICE_FMT(name), VD_SLICE_FMT(text));
        filter->used = true;
    }
    *ret_name = name;
    return VD_OK;
}

/* Puts an operator at the end of a path. `value` is the operand's BSON, for messages and for the
 * operator itself. */
static int add_path(vd_arena_t *arena, stor_update_t *update, stor_operator_kind_t kind,
                    vd_slice_t field, vd_value_t value, vd_slice_t text, vd_error_t *err)
{
    uint32_t count = 0, dollars = 0;
    vd_slice_t *parts = NULL;
    int rc = split_path(arena, text, &count, &parts, err);
    if (rc != VD_OK)
        return rc;
    for (uint32_t i = 0; i < count; i++)
        dollars += vd_slice_is(parts[i], "$");
    if (dollars > 1)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Too many positional (i.e. '$') elements found in path '%.*s'",
                            VD_SLICE_FMT(text));
    if (vd_slice_is(parts[0], "$"))
        return vd_error_set(
            err, VD_ERR_BAD_VALUE,
            "Cannot have positional (i.e. '$') element in the first position in path '%.*s'",
            VD_SLICE_FMT(text));

    stor_operator_t *op = NULL;
    rc = stor_operator_parse(arena, update, kind, field, value, &op, err);
    if (rc != VD_OK)
        return rc;
    uint32_t depth = count + 1 + stor_value_depth(value);
    update->depth = depth > update->depth ? depth : update->depth;

    stor_update_node_t *at = update->root;
    for (uint32_t i = 0; i < count; i++) {
        vd_slice_t name = parts[i];
        bool positional = vd_slice_is(name, "$");
        if (is_filter_part(name)) {
            rc = filter_name(update, parts[i], i, text, &name, err);
            if (rc != VD_OK)
                return rc;
        }
        stor_node_kind_t next = STOR_NODE_LEAF;
        if (i + 1 < count)
            next = is_filter_part(parts[i + 1]) ? STOR_NODE_FILTER : STOR_NODE_FIELDS;
        stor_update_node_t *child = positional ? at->positional : stor_node_child(at, name);
        if (child != NULL) {
            if (next == STOR_NODE_LEAF || child->kind != next)
                return conflict(text, &parts[i], err);
        } else {
            child = stor_node_create(arena, next, name);
            if (positional)
                at->positional = child;
            else
                stor_node_add(arena, at, child);
        }
        at = child;
    }
    at->op = op;
    return VD_OK;
}

static bool is_prefix(vd_slice_t path, vd_slice_t of)
{
    return of.len > path.len && of.data[path.len] == '.' && vd_slice_starts_with(of, path);
}

static bool is_dynamic(const stor_path_t *path)
{
    for (uint32_t i = 0; i < path->count; i++)
        if (vd_slice_is(path->parts[i], "$") || is_filter_part(path->parts[i]))
            return true;
    return false;
}

static int add_rename(vd_arena_t *arena, stor_update_t *update, vd_slice_t field, vd_value_t value,
                      vd_error_t *err)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    if (value.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The 'to' field for $rename must be a string: %s",
                            stor_print_element(field, value, print, sizeof print));
    vd_slice_t to = vd_value_string(value);
    if (to.len > 0 && memchr(to.data, '\0', to.len) != NULL)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The 'to' field for $rename cannot contain an embedded null byte");

    if (update->rename_count == update->rename_cap) {
        uint32_t cap = update->rename_cap == 0 ? 4 : update->rename_cap * 2;
        stor_rename_t *renames = VD_ARENA_ARRAY(arena, stor_rename_t, cap);
        if (update->rename_count > 0)
            memcpy(renames, update->renames, sizeof *renames * update->rename_count);
        update->renames = renames;
        update->rename_cap = cap;
    }
    stor_rename_t *rename = &update->renames[update->rename_count];
    int rc = add_path(arena, update, STOR_OP_RENAME_SOURCE, field, value, field, err);
    if (rc != VD_OK)
        return rc;
    if (vd_slice_equal(field, to))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The source and target field for $rename must differ: %s",
                            stor_print_element(field, value, print, sizeof print));
    if (is_prefix(field, to) || is_prefix(to, field))
        return vd_error_set(
            err, VD_ERR_BAD_VALUE,
            "The source and target field for $rename must not be on the same path: %s",
            stor_print_element(field, value, print, sizeof print));
    stor_path_split(arena, field, &rename->from);
    stor_path_split(arena, to, &rename->to);
    if (is_dynamic(&rename->from))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The source field for $rename may not be dynamic: %.*s",
                            VD_SLICE_FMT(field));
    if (is_dynamic(&rename->to))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The destination field for $rename may not be dynamic: %.*s",
                            VD_SLICE_FMT(to));
    rc = add_path(arena, update, STOR_OP_RENAME, field, value, to, err);
    update->rename_count++;
    return rc;
}

static int parse_operators(vd_arena_t *arena, stor_update_t *update, vd_bson_t spec,
                           vd_error_t *err)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    update->root = stor_node_create(arena, STOR_NODE_FIELDS, VD_SLICE_NULL);
    vd_bson_iter_t mods;
    vd_bson_iter_init(&mods, spec);
    while (vd_bson_iter_next(&mods)) {
        size_t i = 0;
        while (i < VD_COUNT_OF(operators) && !vd_slice_is(mods.name, operators[i].name))
            i++;
        if (i == VD_COUNT_OF(operators))
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "Unknown modifier: %.*s. Expected a valid update modifier or "
                                "pipeline-style update specified as an "
                                "array",
                                VD_SLICE_FMT(mods.name));
        if (mods.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "Modifiers operate on fields but we found type %s instead. For "
                                "example: {$mod: {<field>: ...}} "
                                "not {%s}",
                                vd_bson_type_name(mods.value.type),
                                stor_print_element(mods.name, mods.value, print, sizeof print));
        vd_bson_iter_t fields;
        vd_bson_iter_init(&fields, vd_value_document(mods.value));
        while (vd_bson_iter_next(&fields)) {
            int rc = operators[i].kind == STOR_OP_RENAME
                         ? add_rename(arena, update, fields.name, fields.value, err)
                         : add_path(arena, update, operators[i].kind, fields.name, fields.value,
                                    fields.name, err);
            if (rc != VD_OK)
                return rc;
        }
    }
    for (uint32_t i = 0; i < update->filter_count; i++)
        if (!update->filters[i].used)
            return vd_error_set(
                err, VD_ERR_FAILED_TO_PARSE,
                "The array filter for identifier '%.*s' was not used in the update %s",
                VD_SLICE_FMT(update->filters[i].name),
                stor_print_value(vd_value_from_document(spec), print, sizeof print));
    sort_tree(arena, update->root);
    return VD_OK;
}

/* ---- array filters ---- */

int stor_filter_refuse_special(const stor_filter_t *filter, vd_error_t *err)
{
    if (filter->kind == STOR_FILTER_EXPR)
        return vd_error_set(err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                            "$expr is not allowed in this context");
    if (filter->kind == STOR_FILTER_VERSION)
        return vd_error_set(err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                            "$version is not allowed in this context");
    if (filter->kind == STOR_FILTER_JSON_SCHEMA)
        return vd_error_set(err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                            "$jsonSchema is not allowed in this context");
    for (uint32_t i = 0; i < filter->child_count; i++) {
        int rc = stor_filter_refuse_special(filter->children[i], err);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

/* The one first part of all paths of a filter; *name stays empty when there is no path. */
static int filter_top_name(const stor_filter_t *filter, vd_slice_t *name, vd_error_t *err)
{
    switch (filter->kind) {
    case STOR_FILTER_AND:
    case STOR_FILTER_OR:
    case STOR_FILTER_NOR:
    case STOR_FILTER_NOT:
        for (uint32_t i = 0; i < filter->child_count; i++) {
            int rc = filter_top_name(filter->children[i], name, err);
            if (rc != VD_OK)
                return rc;
        }
        return VD_OK;
    case STOR_FILTER_TRUE:
    case STOR_FILTER_FALSE:
    case STOR_FILTER_EXPR:
    case STOR_FILTER_JSON_SCHEMA:
        return VD_OK;
    default:
        break;
    }
    vd_slice_t first = filter->path.count > 0 ? filter->path.parts[0] : VD_SLICE_LIT("");
    if (name->data == NULL)
        *name = first;
    else if (!vd_slice_equal(*name, first))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Expected a single top-level field name, found '%.*s' and '%.*s'",
                            VD_SLICE_FMT(*name), VD_SLICE_FMT(first));
    return VD_OK;
}

static bool is_identifier(vd_slice_t name)
{
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];
        bool lower = c >= 'a' && c <= 'z';
        if (!lower && (i == 0 || !((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))))
            return false;
    }
    return name.len > 0;
}

static int parse_filter(vd_arena_t *arena, vd_bson_t spec, stor_array_filter_t *filter,
                        vd_error_t *err)
{
    int rc = stor_filter_parse(arena, spec, NULL, &filter->filter, err);
    if (rc == VD_OK)
        rc = stor_filter_refuse_special(filter->filter, err);
    if (rc == VD_OK)
        rc = filter_top_name(filter->filter, &filter->name, err);
    if (rc == VD_OK && filter->name.data != NULL && !is_identifier(filter->name))
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "The top-level field name must be an alphanumeric string beginning with "
                          "a lowercase letter, found '%.*s'",
                          VD_SLICE_FMT(filter->name));
    return rc;
}

static int parse_filters(vd_arena_t *arena, stor_update_t *update, vd_bson_t filters,
                         vd_error_t *err)
{
    uint32_t count = vd_bson_count(filters);
    if (count > VD_ARRAY_FILTERS_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Too many array filters: %u, at most %d are allowed", count,
                            VD_ARRAY_FILTERS_MAX);
    update->filters = VD_ARENA_ARRAY(arena, stor_array_filter_t, count);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, filters);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(
                err, VD_ERR_TYPE_MISMATCH,
                "BSON field 'arrayFilters.%.*s' is the wrong type '%s', expected type 'object'",
                VD_SLICE_FMT(iter.name), vd_bson_type_name(iter.value.type));
        stor_array_filter_t *filter = &update->filters[update->filter_count];
        vd_error_t inner = VD_ERROR_INIT;
        int rc = parse_filter(arena, vd_value_document(iter.value), filter, &inner);
        if (rc != VD_OK)
            return vd_error_set(err, rc, "Error parsing array filter :: caused by :: %s",
                                inner.message);
        if (filter->name.data == NULL)
            return vd_error_set(
                err, VD_ERR_FAILED_TO_PARSE,
                "Cannot use an expression without a top-level field name in arrayFilters");
        for (uint32_t i = 0; i < update->filter_count; i++)
            if (vd_slice_equal(update->filters[i].name, filter->name))
                return vd_error_set(
                    err, VD_ERR_FAILED_TO_PARSE,
                    "Found multiple array filters with the same top-level field name %.*s",
                    VD_SLICE_FMT(filter->name));
        update->filter_count++;
    }
    return VD_OK;
}

/* ---- replacement ---- */

static bool is_empty_timestamp(vd_slice_t name, vd_value_t v)
{
    return v.type == VD_BSON_TIMESTAMP && vd_value_timestamp(v) == 0 && !vd_slice_is(name, "_id");
}

/* Empty timestamps at the top level get the time of the command. */
static int parse_replacement(vd_arena_t *arena, stor_update_t *update, vd_bson_t spec,
                             vd_error_t *err)
{
    bool fill = false;
    uint32_t ids = 0;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        ids += vd_slice_is(iter.name, "_id");
        fill |= is_empty_timestamp(iter.name, iter.value);
    }
    if (ids > 1)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "can't have multiple _id fields in one document");
    if (!fill) {
        update->replacement = spec;
        return VD_OK;
    }
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter))
        vd_bb_value(&bb, iter.name,
                    is_empty_timestamp(iter.name, iter.value)
                        ? vd_value_from_timestamp(arena, update->now_ts)
                        : iter.value);
    return vd_bb_finish(&bb, &update->replacement, err);
}

/* ---- pipelines ---- */

static int parse_stage(vd_arena_t *arena, vd_bson_t stage, const stor_variables_t *variables,
                       stor_project_t **ret_project, vd_error_t *err)
{
    static const char *const elsewhere[] = {
        "$match",        "$group",     "$sort",         "$limit",           "$skip",
        "$unwind",       "$lookup",    "$graphLookup",  "$facet",           "$bucket",
        "$bucketAuto",   "$count",     "$sortByCount",  "$sample",          "$out",
        "$merge",        "$unionWith", "$redact",       "$geoNear",         "$collStats",
        "$indexStats",   "$densify",   "$fill",         "$setWindowFields", "$documents",
        "$changeStream", "$currentOp", "$listSessions", "$search",          "$planCacheStats"};
    vd_slice_t name;
    vd_value_t spec;
    if (!vd_bson_first(stage, &name, &spec) || vd_bson_count(stage) != 1)
        return vd_error_set(
            err, VD_ERR_LOCATION(40323),
            "A pipeline stage specification object must contain exactly one field.");
    if (vd_slice_is(name, "$set") || vd_slice_is(name, "$addFields")) {
        if (spec.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_LOCATION(40272),
                                "%.*s specification stage must be an object, got %s",
                                VD_SLICE_FMT(name), vd_bson_type_name(spec.type));
        return stor_project_parse(arena, STOR_PROJECT_ADD, spec, NULL, variables, ret_project, err);
    }
    if (vd_slice_is(name, "$unset")) {
        if (spec.type != VD_BSON_STRING && spec.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_LOCATION(31002),
                                "$unset specification must be a string or an array");
        return stor_project_parse(arena, STOR_PROJECT_UNSET, spec, NULL, variables, ret_project,
                                  err);
    }
    if (vd_slice_is(name, "$project")) {
        if (spec.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_LOCATION(15969),
                                "$project specification must be an object");
        return stor_project_parse(arena, STOR_PROJECT_AGGREGATE, spec, NULL, variables, ret_project,
                                  err);
    }
    if (vd_slice_is(name, "$replaceWith"))
        return stor_project_parse(arena, STOR_PROJECT_REPLACE, spec, NULL, variables, ret_project,
                                  err);
    if (vd_slice_is(name, "$replaceRoot")) {
        if (spec.type != VD_BSON_OBJECT)
            return vd_error_set(
                err, VD_ERR_LOCATION(40229),
                "expected an object as specification for $replaceRoot stage, got %s",
                vd_bson_type_name(spec.type));
        vd_value_t root = VD_VALUE_MISSING;
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(spec));
        while (vd_bson_iter_next(&iter)) {
            if (!vd_slice_is(iter.name, "newRoot"))
                return vd_error_set(err, VD_ERR_LOCATION(40230),
                                    "unrecognized option to $replaceRoot stage: %.*s, only valid "
                                    "option is 'newRoot'.",
                                    VD_SLICE_FMT(iter.name));
            root = iter.value;
        }
        if (vd_value_is_missing(root))
            return vd_error_set(err, VD_ERR_LOCATION(40231),
                                "no newRoot specified for the $replaceRoot stage");
        return stor_project_parse(arena, STOR_PROJECT_REPLACE, root, NULL, variables, ret_project,
                                  err);
    }
    for (size_t i = 0; i < VD_COUNT_OF(elsewhere); i++)
        if (vd_slice_is(name, elsewhere[i]))
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "%.*s is not allowed to be used within an update",
                                VD_SLICE_FMT(name));
    return vd_error_set(err, VD_ERR_LOCATION(40324), "Unrecognized pipeline stage name: '%.*s'",
                        VD_SLICE_FMT(name));
}

static int parse_pipeline(vd_arena_t *arena, stor_update_t *update, vd_bson_t pipeline,
                          vd_error_t *err)
{
    uint32_t count = vd_bson_count(pipeline);
    if (count > STOR_UPDATE_STAGES_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(7749501),
                            "Pipeline length must be no longer than %d stages",
                            STOR_UPDATE_STAGES_MAX);
    update->stages = VD_ARENA_ARRAY(arena, stor_project_t *, count);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, pipeline);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "Each element of the 'pipeline' array must be an object");
        int rc = parse_stage(arena, vd_value_document(iter.value), update->variables,
                             &update->stages[update->stage_count], err);
        if (rc != VD_OK)
            return rc;
        update->stage_count++;
    }
    return VD_OK;
}

/* ---- the whole ---- */

int stor_update_parse(vd_arena_t *arena, const stor_update_options_t *options,
                      stor_update_t **ret_update, vd_error_t *err)
{
    VD_ASSERT(arena != NULL);
    VD_ASSERT(options != NULL);
    VD_ASSERT(ret_update != NULL);

    stor_update_t *update = VD_ARENA_NEW(arena, stor_update_t);
    update->variables = options->variables;
    update->now_ms = options->variables != NULL ? options->variables->now_ms : vd_wall_ms();
    uint64_t second = (uint64_t)(update->now_ms / 1000) << 32;
    update->now_ts = options->variables != NULL ? options->variables->cluster_time : 0;
    if (update->now_ts < second) /* the newest write may be long ago */
        update->now_ts = second | 1;

    bool filters = options->array_filters.data != NULL;
    int rc;
    if (options->update.type == VD_BSON_ARRAY) {
        update->kind = STOR_UPDATE_PIPELINE;
        if (filters && !vd_bson_is_empty(options->array_filters))
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "arrayFilters may not be specified for pipeline-syle updates");
        rc = parse_pipeline(arena, update, vd_value_document(options->update), err);
    } else if (options->update.type == VD_BSON_OBJECT) {
        vd_bson_t spec = vd_value_document(options->update);
        vd_slice_t first = VD_SLICE_NULL;
        vd_value_t value;
        update->kind = vd_bson_first(spec, &first, &value) && stor_slice_dollar(first)
                           ? STOR_UPDATE_OPERATORS
                           : STOR_UPDATE_REPLACE;
        if (update->kind == STOR_UPDATE_REPLACE) {
            if (options->multi)
                return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                    "multi update is not supported for replacement-style update");
            if (filters && !vd_bson_is_empty(options->array_filters))
                return vd_error_set(
                    err, VD_ERR_FAILED_TO_PARSE,
                    "arrayFilters may not be specified for replacement-style updates");
            rc = parse_replacement(arena, update, spec, err);
        } else {
            rc = filters ? parse_filters(arena, update, options->array_filters, err) : VD_OK;
            if (rc == VD_OK)
                rc = parse_operators(arena, update, spec, err);
        }
    } else {
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "Update argument must be either an object or an array");
    }
    if (rc == VD_OK)
        *ret_update = update;
    return rc;
}

stor_update_kind_t stor_update_kind(const stor_update_t *update)
{
    VD_ASSERT(update != NULL);
    return update->kind;
}
