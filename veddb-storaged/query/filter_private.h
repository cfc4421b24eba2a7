/* veddb-storaged/query/filter_private.h — what filter.c (logic, fields) and filter_leaf.c
 * (operators of one field) share. */
#pragma once
#include "veddb-storaged/query/filter.h"

typedef struct {
    vd_arena_t *arena;
    const stor_variables_t *variables;
    bool value_only; /* a predicate on one value: no $expr, no $jsonSchema */
    vd_error_t *err;
} filter_parse_t;

/* A growing list of children in the arena. */
typedef struct {
    stor_filter_t **items;
    uint32_t count, room;
} filter_list_t;

/* Where in the filter the parser stands. */
typedef struct {
    uint32_t depth;  /* nested filters so far */
    bool in_element; /* inside $elemMatch: not the top-level document */
    bool in_choice;  /* inside $or or $nor: need not hold */
} filter_level_t;

void filter_list_add(filter_parse_t *parse, filter_list_t *list, stor_filter_t *child);
stor_filter_t *filter_node(filter_parse_t *parse, stor_filter_kind_t kind);
stor_filter_t *filter_leaf(filter_parse_t *parse, stor_filter_kind_t kind, const stor_path_t *path);
stor_filter_t *filter_not(filter_parse_t *parse, stor_filter_t *child);
/* AND or OR of the list, simplified: of none TRUE (AND), of one itself, nested ones of the same
 * kind opened. */
stor_filter_t *filter_join(filter_parse_t *parse, stor_filter_kind_t kind, filter_list_t *list);
VD_MUST_CHECK int filter_check_depth(filter_parse_t *parse, filter_level_t level);

/* True for {$op: ...}, false for {}, {a: ...} and for a DBRef. */
bool filter_is_operators(vd_value_t v, bool incomplete_dbref);
/* True for the names that stand in place of a field: $and, $expr, $comment, $ref ... */
bool filter_is_pathless(vd_slice_t name);

/* A whole filter document. */
VD_MUST_CHECK int filter_parse_document(filter_parse_t *parse, vd_bson_t document,
                                        filter_level_t level, stor_filter_t **ret_filter);
/* {$gt: 1, $lt: 5} on a path: each operator's filter is added to list. */
VD_MUST_CHECK int filter_parse_operators(filter_parse_t *parse, const stor_path_t *path,
                                         vd_bson_t operators, filter_level_t level,
                                         filter_list_t *list);
/* An equality or, for a regex literal, a match. */
VD_MUST_CHECK int filter_parse_literal(filter_parse_t *parse, const stor_path_t *path, vd_value_t v,
                                       stor_filter_t **ret_filter);

/* $type's argument and $jsonSchema's bsonType: one alias or number. */
VD_MUST_CHECK int filter_parse_type(vd_value_t v, uint32_t *ret_mask, vd_error_t *err);
/* A whole number >= 0 or not, with MongoDB's sentences ("Expected an integer: $size: 1.5"); name:
 * of the field that holds it. */
VD_MUST_CHECK int filter_parse_whole(vd_slice_t name, vd_value_t v, int64_t *ret, vd_error_t *err);
VD_MUST_CHECK int filter_parse_not_negative(vd_slice_t name, vd_value_t v, int64_t *ret,
                                            vd_error_t *err);
