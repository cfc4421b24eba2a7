/* veddb-storaged/query/filter.c — the filter language: fields, $and/$or/$nor, the operators that
 * have no field, simplification.
 *
 * filter_leaf.c holds the operators of one field, filter_print.c the way back to BSON. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/query/filter_private.h"
#include "veddb-storaged/query/json_schema.h"

void filter_list_add(filter_parse_t *parse, filter_list_t *list, stor_filter_t *child)
{
    if (list->count == list->room) {
        uint32_t room = list->room == 0 ? 4 : list->room * 2;
        stor_filter_t **items = vd_arena_alloc(parse->arena, sizeof(*items) * (size_t)room);
        if (list->count > 0)
            memcpy(items, list->items, sizeof(*items) * (size_t)list->count);
        list->items = items;
        list->room = room;
    }
    list->items[list->count++] = child;
}

stor_filter_t *filter_node(filter_parse_t *parse, stor_filter_kind_t kind)
{
    stor_filter_t *node = VD_ARENA_NEW(parse->arena, stor_filter_t);
    node->kind = kind;
    return node;
}

stor_filter_t *filter_leaf(filter_parse_t *parse, stor_filter_kind_t kind, const stor_path_t *path)
{
    stor_filter_t *node = filter_node(parse, kind);
    node->path = *path;
    return node;
}

stor_filter_t *filter_not(filter_parse_t *parse, stor_filter_t *child)
{
    if (child->kind == STOR_FILTER_FALSE)
        return filter_node(parse, STOR_FILTER_TRUE);
    stor_filter_t *node = filter_node(parse, STOR_FILTER_NOT);
    node->children = VD_ARENA_NEW(parse->arena, stor_filter_t *);
    node->children[0] = child;
    node->child_count = 1;
    return node;
}

/* Slow predicates stand last, so that cheap ones decide first. */
static bool is_slow(const stor_filter_t *node)
{
    return node->kind == STOR_FILTER_EXPR || node->kind == STOR_FILTER_JSON_SCHEMA;
}

stor_filter_t *filter_join(filter_parse_t *parse, stor_filter_kind_t kind, filter_list_t *list)
{
    filter_list_t flat = {0};
    for (int slow = 0; slow < 2; slow++) {
        for (uint32_t i = 0; i < list->count; i++) {
            stor_filter_t *child = list->items[i];
            if (child->kind != kind) {
                if (is_slow(child) == (slow == 1))
                    filter_list_add(parse, &flat, child);
                continue;
            }
            for (uint32_t k = 0; k < child->child_count; k++)
                if (is_slow(child->children[k]) == (slow == 1))
                    filter_list_add(parse, &flat, child->children[k]);
        }
    }
    if (flat.count == 0)
        return filter_node(parse, kind == STOR_FILTER_OR ? STOR_FILTER_FALSE : STOR_FILTER_TRUE);
    if (flat.count == 1)
        return flat.items[0];
    stor_filter_t *node = filter_node(parse, kind);
    node->children = flat.items;
    node->child_count = flat.count;
    return node;
}

int filter_check_depth(filter_parse_t *parse, filter_level_t level)
{
    if (level.depth > VD_QUERY_DEPTH_MAX)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "exceeded maximum query tree depth of %d levels", VD_QUERY_DEPTH_MAX);
    return VD_OK;
}

static bool is_dbref(vd_bson_t document, bool incomplete)
{
    bool has_ref = false, has_id = false, has_db = false;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (!(has_ref && has_id) && vd_bson_iter_next(&iter)) {
        has_ref |= vd_slice_is(iter.name, "$ref");
        has_id |= vd_slice_is(iter.name, "$id");
        has_db |= vd_slice_is(iter.name, "$db");
    }
    return incomplete ? has_ref || has_id || has_db : has_ref && has_id;
}

bool filter_is_operators(vd_value_t v, bool incomplete_dbref)
{
    vd_slice_t name;
    vd_value_t first;
    return v.type == VD_BSON_OBJECT && vd_bson_first(vd_value_document(v), &name, &first) &&
           name.len > 0 && name.data[0] == '$' && !is_dbref(vd_value_document(v), incomplete_dbref);
}

/* ---- operators that stand in place of a field ---- */

typedef int (*pathless_fn)(filter_parse_t *parse, vd_slice_t name, vd_value_t v,
                           filter_level_t level, stor_filter_t **ret_filter);

static int parse_tree(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                      stor_filter_t **ret_filter)
{
    if (v.type != VD_BSON_ARRAY)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "%.*s must be an array",
                            VD_SLICE_FMT(name));
    if (vd_bson_is_empty(vd_value_document(v)))
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "$and/$or/$nor must be a nonempty array");
    level.depth++;
    level.in_choice |= !vd_slice_is(name, "$and");
    filter_list_t list = {0};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(v));
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT)
            return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                                "$or/$and/$nor entries need to be full objects");
        stor_filter_t *child = NULL;
        int rc = filter_parse_document(parse, vd_value_document(iter.value), level, &child);
        if (rc != VD_OK)
            return rc;
        filter_list_add(parse, &list, child);
    }
    if (vd_slice_is(name, "$nor")) {
        *ret_filter = filter_node(parse, STOR_FILTER_NOR);
        (*ret_filter)->children = list.items;
        (*ret_filter)->child_count = list.count;
    } else {
        bool is_and = vd_slice_is(name, "$and");
        *ret_filter = filter_join(parse, is_and ? STOR_FILTER_AND : STOR_FILTER_OR, &list);
    }
    return VD_OK;
}

static int parse_comment(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                         stor_filter_t **ret_filter)
{
    (void)parse, (void)name, (void)v, (void)level;
    *ret_filter = NULL;
    return VD_OK;
}

static int parse_always(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                        stor_filter_t **ret_filter)
{
    (void)level;
    int64_t number = 0;
    int rc = filter_parse_whole(name, v, &number, parse->err);
    if (rc != VD_OK)
        return rc;
    if (number != 1)
        return vd_error_set(parse->err, VD_ERR_FAILED_TO_PARSE,
                            "%.*s must be an integer value of 1", VD_SLICE_FMT(name));
    bool is_true = vd_slice_is(name, "$alwaysTrue");
    *ret_filter = filter_node(parse, is_true ? STOR_FILTER_TRUE : STOR_FILTER_FALSE);
    return VD_OK;
}

static int parse_dbref_field(filter_parse_t *parse, vd_slice_t name, vd_value_t v,
                             filter_level_t level, stor_filter_t **ret_filter)
{
    (void)level;
    if (v.type == VD_BSON_UNDEFINED)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "cannot compare to undefined");
    stor_path_t path;
    stor_path_split(parse->arena, name, &path);
    *ret_filter = filter_leaf(parse, STOR_FILTER_EQ, &path);
    (*ret_filter)->value = v;
    return VD_OK;
}

/* $expr and what becomes one. */
static int parse_expr(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                      stor_filter_t **ret_filter)
{
    if (level.in_element)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "%.*s can only be applied to the top-level document",
                            VD_SLICE_FMT(name));
    if (parse->value_only)
        return vd_error_set(parse->err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                            "%.*s is not allowed in this context", VD_SLICE_FMT(name));
    stor_filter_t *node = filter_node(parse, STOR_FILTER_EXPR);
    node->value = v;
    int rc = stor_expr_parse(parse->arena, v, parse->variables, &node->expr, parse->err);
    if (rc != VD_OK)
        return rc;
    *ret_filter = node;
    return VD_OK;
}

static int parse_sample_rate(filter_parse_t *parse, vd_slice_t name, vd_value_t v,
                             filter_level_t level, stor_filter_t **ret_filter)
{
    if (!vd_value_is_number(v))
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "argument to $sampleRate must be a numeric type");
    double rate = vd_value_as_double(v);
    if (!(rate >= 0.0 && rate <= 1.0))
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "numeric argument to $sampleRate must be in [0, 1]");
    if (rate == 0.0 || rate == 1.0) {
        *ret_filter = filter_node(parse, rate == 1.0 ? STOR_FILTER_TRUE : STOR_FILTER_FALSE);
        return VD_OK;
    }
    vd_bb_t bb;
    vd_bb_init_arena(&bb, parse->arena, 256);
    vd_bb_begin_array(&bb, "$lt");
    vd_bb_begin_document(&bb, "0");
    vd_bb_begin_document(&bb, "$rand");
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_double(&bb, "1", rate);
    vd_bb_close(&bb);
    vd_bson_t spec;
    int rc = vd_bb_finish(&bb, &spec, parse->err);
    if (rc != VD_OK)
        return rc;
    return parse_expr(parse, name, vd_value_from_document(spec), level, ret_filter);
}

static int parse_json_schema(filter_parse_t *parse, vd_slice_t name, vd_value_t v,
                             filter_level_t level, stor_filter_t **ret_filter)
{
    (void)name, (void)level;
    if (parse->value_only)
        return vd_error_set(parse->err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                            "$jsonSchema is not allowed in this context");
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH, "$jsonSchema must be an object");
    stor_filter_t *node = filter_node(parse, STOR_FILTER_JSON_SCHEMA);
    node->value = v;
    int rc = stor_json_schema_parse(parse->arena, vd_value_document(v), &node->schema, parse->err);
    if (rc != VD_OK)
        return rc;
    *ret_filter = node;
    return VD_OK;
}

/* VedDB's own: the version that the server keeps with each document. */
static int parse_version(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                         stor_filter_t **ret_filter)
{
    (void)name;
    if (parse->value_only)
        return vd_error_set(parse->err, VD_ERR_QUERY_FEATURE_NOT_ALLOWED,
                            "$version is not allowed in this context");
    if (level.in_element || level.in_choice)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "$version can only stand at the top level of a filter, or under $and");
    if (v.type != VD_BSON_INT64 && v.type != VD_BSON_INT32)
        return vd_error_set(parse->err, VD_ERR_TYPE_MISMATCH,
                            "$version must be a long, as {$meta: \"version\"} gives it, not '%s'",
                            vd_bson_type_name(v.type));
    int64_t version = 0;
    if (!vd_value_as_int64(v, &version) || version <= 0)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE, "$version must be greater than 0");
    stor_filter_t *node = filter_node(parse, STOR_FILTER_VERSION);
    node->value = v;
    node->number = version;
    *ret_filter = node;
    return VD_OK;
}

static int refuse_where(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                        stor_filter_t **ret_filter)
{
    (void)name, (void)v, (void)level, (void)ret_filter;
    return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                        "$where is not supported: VedDB does not run JavaScript; use $expr");
}

static int refuse_text(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                       stor_filter_t **ret_filter)
{
    (void)name, (void)v, (void)ret_filter;
    if (level.in_element)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "$text can only be applied to the top-level document");
    return vd_error_set(parse->err, VD_ERR_INDEX_NOT_FOUND, "text index required for $text query");
}

static const struct {
    const char *name;
    pathless_fn parse;
} pathless_operators[] = {
    {"$and", parse_tree},           {"$or", parse_tree},
    {"$nor", parse_tree},           {"$expr", parse_expr},
    {"$comment", parse_comment},    {"$jsonSchema", parse_json_schema},
    {"$version", parse_version},    {"$alwaysTrue", parse_always},
    {"$alwaysFalse", parse_always}, {"$sampleRate", parse_sample_rate},
    {"$ref", parse_dbref_field},    {"$id", parse_dbref_field},
    {"$db", parse_dbref_field},     {"$where", refuse_where},
    {"$text", refuse_text},
};

static pathless_fn find_pathless(vd_slice_t name)
{
    for (size_t i = 0; i < VD_COUNT_OF(pathless_operators); i++)
        if (vd_slice_is(name, pathless_operators[i].name))
            return pathless_operators[i].parse;
    return NULL;
}

bool filter_is_pathless(vd_slice_t name)
{
    return find_pathless(name) != NULL;
}

static int parse_pathless(filter_parse_t *parse, vd_slice_t name, vd_value_t v,
                          filter_level_t level, filter_list_t *list)
{
    pathless_fn function = find_pathless(name);
    if (function == NULL)
        return vd_error_set(parse->err, VD_ERR_BAD_VALUE,
                            "unknown top level operator: %.*s. If you have a field name that "
                            "starts with a '$' symbol, consider using $getField or $setField.",
                            VD_SLICE_FMT(name));
    stor_filter_t *child = NULL;
    int rc = function(parse, name, v, level, &child);
    if (rc == VD_OK && child != NULL)
        filter_list_add(parse, list, child);
    return rc;
}

static int parse_field(filter_parse_t *parse, vd_slice_t name, vd_value_t v, filter_level_t level,
                       filter_list_t *list)
{
    stor_path_t path;
    stor_path_split(parse->arena, name, &path);
    if (filter_is_operators(v, false))
        return filter_parse_operators(parse, &path, vd_value_document(v), level, list);
    stor_filter_t *child = NULL;
    int rc = filter_parse_literal(parse, &path, v, &child);
    if (rc == VD_OK)
        filter_list_add(parse, list, child);
    return rc;
}

int filter_parse_document(filter_parse_t *parse, vd_bson_t document, filter_level_t level,
                          stor_filter_t **ret_filter)
{
    int rc = filter_check_depth(parse, level);
    filter_list_t list = {0};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (iter.name.len > 0 && iter.name.data[0] == '$')
            rc = parse_pathless(parse, iter.name, iter.value, level, &list);
        else
            rc = parse_field(parse, iter.name, iter.value, level, &list);
    }
    if (rc == VD_OK && iter.bad)
        rc = vd_error_set(parse->err, VD_ERR_INVALID_BSON, "the filter is not valid BSON");
    if (rc == VD_OK)
        *ret_filter = filter_join(parse, STOR_FILTER_AND, &list);
    return rc;
}

int stor_filter_parse(vd_arena_t *arena, vd_bson_t filter, const stor_variables_t *variables,
                      stor_filter_t **ret_filter, vd_error_t *err)
{
    VD_ASSERT(arena != NULL);
    VD_ASSERT(ret_filter != NULL);
    filter_parse_t parse = {arena, variables, false, err};
    return filter_parse_document(&parse, filter, (filter_level_t){0}, ret_filter);
}

int stor_filter_parse_value(vd_arena_t *arena, vd_bson_t predicate,
                            const stor_variables_t *variables, stor_filter_t **ret_filter,
                            vd_error_t *err)
{
    VD_ASSERT(arena != NULL);
    VD_ASSERT(ret_filter != NULL);
    filter_parse_t parse = {arena, variables, true, err};
    filter_level_t level = {0};
    vd_slice_t name;
    vd_value_t first;
    if (!filter_is_operators(vd_value_from_document(predicate), true) ||
        !vd_bson_first(predicate, &name, &first) || filter_is_pathless(name))
        return filter_parse_document(&parse, predicate, level, ret_filter);
    stor_path_t path = {0};
    filter_list_t list = {0};
    int rc = filter_parse_operators(&parse, &path, predicate, level, &list);
    if (rc == VD_OK) {
        *ret_filter = filter_join(&parse, STOR_FILTER_AND, &list);
        (*ret_filter)->whole_value = true;
    }
    return rc;
}

vd_value_t stor_filter_id_equality(const stor_filter_t *filter)
{
    if (filter->kind == STOR_FILTER_EQ)
        return vd_slice_is(filter->path.text, "_id") && filter->value.type != VD_BSON_REGEX &&
                       !vd_collation_matters(filter->value)
                   ? filter->value
                   : VD_VALUE_MISSING;
    vd_value_t found = VD_VALUE_MISSING;
    if (filter->kind == STOR_FILTER_AND)
        for (uint32_t i = 0; i < filter->child_count && vd_value_is_missing(found); i++)
            found = stor_filter_id_equality(filter->children[i]);
    return found;
}

uint64_t stor_filter_version(const stor_filter_t *filter)
{
    uint64_t version = 0;
    if (filter->kind == STOR_FILTER_VERSION)
        return (uint64_t)filter->number;
    for (uint32_t i = 0; filter->kind == STOR_FILTER_AND && i < filter->child_count && version == 0;
         i++)
        if (filter->children[i]->kind == STOR_FILTER_VERSION)
            version = (uint64_t)filter->children[i]->number;
    return version;
}

const stor_filter_t *stor_filter_without_version(vd_arena_t *arena, const stor_filter_t *filter)
{
    if (stor_filter_version(filter) == 0)
        return filter;
    stor_filter_t *rest = vd_arena_copy(arena, filter, sizeof *filter);
    if (filter->kind == STOR_FILTER_VERSION) {
        rest->kind = STOR_FILTER_TRUE;
        return rest;
    }
    rest->children = VD_ARENA_ARRAY(arena, stor_filter_t *, filter->child_count);
    rest->child_count = 0;
    for (uint32_t i = 0; i < filter->child_count; i++)
        if (filter->children[i]->kind != STOR_FILTER_VERSION)
            rest->children[rest->child_count++] = filter->children[i];
    if (rest->child_count == 0)
        rest->kind = STOR_FILTER_TRUE;
    return rest;
}

int stor_filter_equalities(const stor_filter_t *filter,
                           int (*visit)(const stor_path_t *path, vd_value_t value, void *context),
                           void *context)
{
    if (filter->kind == STOR_FILTER_EQ)
        return visit(&filter->path, filter->value, context);
    if (filter->kind != STOR_FILTER_AND)
        return VD_OK;
    for (uint32_t i = 0; i < filter->child_count; i++) {
        int rc = stor_filter_equalities(filter->children[i], visit, context);
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}
