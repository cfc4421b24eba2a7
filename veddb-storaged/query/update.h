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
