/* veddb-storaged/query/project.h — projections of find and findAndModify, and the stages that
 * reshape one document ($project, $addFields/$set, $unset, $replaceRoot/$replaceWith), shared by
 * pipelines and pipeline updates.
 *
 * Pure.
 * Owner:   arena of parse; borrows the spec.
 * Threads: immutable after parse.
 * Errors:  as MongoDB 7.0 (31249 path collision, 31253/31254 mixed inclusion/exclusion, 31325 ...,
 *          51246/51276 positional). */
#pragma once
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/query/filter.h"

typedef struct stor_project stor_project_t;

typedef enum {
    /* find's projection: positional `$`, $slice, $elemMatch, $meta allowed */
    STOR_PROJECT_FIND,
    STOR_PROJECT_AGGREGATE, /* $project */
    STOR_PROJECT_ADD,       /* $addFields, $set */
    STOR_PROJECT_UNSET,     /* spec: string or array of strings */
    STOR_PROJECT_REPLACE,   /* $replaceWith expression (for $replaceRoot give newRoot) */
} stor_project_kind_t;

/* filter: the query of a find whose projection has a positional `$` (else error 51246-ish as
 * MongoDB); may be NULL otherwise. */
VD_MUST_CHECK int stor_project_parse(vd_arena_t *arena, stor_project_kind_t kind, vd_value_t spec,
                                     const stor_filter_t *filter, const stor_variables_t *variables,
                                     stor_project_t **ret_project, vd_error_t *err);
/* array_position: from stor_match_t, for `$`. The result lives in env->arena (or is the input
 * itself when nothing changes). */
VD_MUST_CHECK int stor_project_apply(const stor_project_t *project, stor_expr_env_t *env,
                                     vd_bson_t document, int64_t array_position,
                                     vd_bson_t *ret_document, vd_error_t *err);
/* True for a projection that is the identity ({}). */
bool stor_project_is_identity(const stor_project_t *project);
