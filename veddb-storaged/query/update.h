/* veddb-storaged/query/update.h — MongoDB's update language: operators, replacement, pipeline.
 *
 * Duty:    parse checks everything that does not depend on a document (unknown operator 9,
 *          conflicts 40, bad paths 56/57, arrayFilters 9); apply makes the new document from the
 *          old one, or says "no change". Pure.
 * Owner:   the tree lives in the parse arena and borrows the spec. Results live in the apply arena,
 *          or are the old document or the replacement itself when nothing had to be written.
 * Threads: immutable after parse.
 * Errors:  codes and messages as MongoDB 7.0. */
#pragma once
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/query/filter.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/query/project.h"

typedef struct stor_update stor_update_t;

typedef enum {
    STOR_UPDATE_OPERATORS,
    STOR_UPDATE_REPLACE,
    STOR_UPDATE_PIPELINE
} stor_update_kind_t;

typedef struct {
    vd_value_t update;       /* document or array (pipeline) */
    vd_bson_t array_filters; /* array, or NONE */
    /* replacement with multi is refused (9: "multi update is not supported for replacement-style
     * update") */
    bool multi;
    bool upsert;
    const stor_variables_t *variables; /* NOW, let, `c` constants of pipeline updates */
} stor_update_options_t;

VD_MUST_CHECK int stor_update_parse(vd_arena_t *arena, const stor_update_options_t *options,
                                    stor_update_t **ret_update, vd_error_t *err);
stor_update_kind_t stor_update_kind(const stor_update_t *update);

/* ---- how finely the result is told (update_scope.c) ----
 * An update by operators is told by the paths that it names: what $set puts at `a` is told as `a`,
 * although only `a.b` differs. A pipeline names none: there the two versions are compared. */
typedef enum {
    STOR_SCOPE_WHOLE,  /* told as one value */
    STOR_SCOPE_APPEND, /* as one value, or as what was put at the array's end ($push) */
    STOR_SCOPE_TREE,   /* what lies below is told by itself, as far as the operators name it */
    STOR_SCOPE_FREE,   /* to the bottom */
} stor_scope_kind_t;
typedef struct {
    stor_scope_kind_t kind;
    const void *node;
} stor_update_scope_t;
stor_update_scope_t stor_update_scope(const stor_update_t *update);
/* Of a field, or of an array's element by its position. */
stor_update_scope_t stor_update_scope_below(stor_update_scope_t scope, vd_slice_t name);

/* Applies to an existing document. match: the state left by stor_match_document for the
 * positional `$` (array_position -1: error 2
 * when `$` is used). *ret_changed false: ret_document is the old one (a no-op, no write needed).
 * _id may not change (66). The result is checked: size ≤ 16 MiB, depth, no
 * bad $-names where MongoDB refuses them; _id stays first. now_ms / cluster time come from
 * options->variables at parse. */
VD_MUST_CHECK int stor_update_apply(const stor_update_t *update, vd_arena_t *arena,
                                    vd_bson_t document, const stor_match_t *match,
                                    vd_bson_t *ret_document, bool *ret_changed, vd_error_t *err);
/* Builds the document that an upsert inserts: equalities of the filter, then the update with
 * $setOnInsert; an _id is generated when there is none. */
VD_MUST_CHECK int stor_update_upsert(const stor_update_t *update, vd_arena_t *arena,
                                     const stor_filter_t *filter, vd_bson_t *ret_document,
                                     vd_error_t *err);

/* For inserts and replacements: _id moved to the front (generated ObjectId when absent), size and
 * depth checked, _id type checked (no array, regex,
 * undefined: 2 / 53), {t: Timestamp(0,0)} at top level filled with the current time as MongoDB
 * does. */
VD_MUST_CHECK int stor_document_prepare(vd_arena_t *arena, vd_bson_t document, uint64_t now_ts,
                                        vd_bson_t *ret_document, vd_error_t *err);
