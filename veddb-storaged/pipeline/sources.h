/* veddb-storaged/pipeline/sources.h — every collection that a pipeline reads, found before it runs,
 * and pipelines inside of stages.
 *
 * Duty:    gather walks the command's pipeline and those inside of it, resolves views, and notes
 *          each collection once; acquire takes hold of all of them together (each batch again);
 *          a sub-pipeline is parsed over them, as often as a stage runs it. Also keeps the one
 *          memory budget of a query's stages.
 * Owner:   the cursor's arena.
 * Threads: one at a time.
 * Limits:  STOR_SOURCES_MAX collections; STOR_SUB_DEPTH_MAX sub-pipelines in each other and views
 *          on each other; VD_QUERY_MEMORY_MAX_BYTES kept by all stages that count here.
 * Errors:  166 a view where none may be, 165 views too deep, 232 pipelines too deep, 175 a
 *          collection was dropped or made anew between batches. */
#pragma once
#include "veddb-storaged/pipeline/pipeline.h"

#define STOR_SOURCES_MAX   STOR_REQUEST_HELD_MAX
#define STOR_SUB_DEPTH_MAX 20

typedef struct {
    vd_slice_t db, name; /* as a stage names it */
    vd_slice_t base;     /* the collection under it: `name`, or what the view is on */
    vd_slice_t ns;       /* "db.base" */
    vd_bson_t view;      /* stages in front, an array; NONE when it is no view */
    uint64_t id;         /* of the collection; 0 = there is none */
} stor_origin_t;

struct stor_sources {
    vd_arena_t *arena;
    stor_origin_t items[STOR_SOURCES_MAX]; /* the first is what the command names, if anything */
    uint32_t count;
    bool own; /* items[0] is the command's collection */
    bool acquired;
    size_t memory; /* bytes kept by stages now */
};

/* collection empty: aggregate: 1. */
VD_MUST_CHECK int stor_sources_gather(stor_request_t *request, vd_arena_t *arena, vd_slice_t db,
                                      vd_slice_t collection, vd_bson_t pipeline,
                                      stor_sources_t **ret_sources, vd_error_t *err);
/* Holds them all; again in each batch. The request holds nothing else. */
VD_MUST_CHECK int stor_sources_acquire(stor_sources_t *sources, stor_request_t *request,
                                       vd_error_t *err);
/* NULL when it was not gathered: a collection that does not exist. */
const stor_origin_t *stor_sources_find(const stor_sources_t *sources, vd_slice_t db,
                                       vd_slice_t name);
/* Visits the name of each other collection that the stages name, also in pipelines inside. Sees
 * only the form; 232 too deep. */
typedef int stor_foreign_visit_t(void *context, vd_slice_t name, uint32_t depth, vd_error_t *err);
VD_MUST_CHECK int stor_pipeline_foreign(vd_bson_t pipeline, uint32_t depth,
                                        stor_foreign_visit_t *visit, void *context,
                                        vd_error_t *err);
/* `first`, then `second`: two pipelines as one; either may be NONE. */
VD_MUST_CHECK int stor_pipeline_join(vd_arena_t *arena, vd_bson_t first, vd_bson_t second,
                                     vd_bson_t *ret_stages, vd_error_t *err);

/* 292 when the stages of the query keep too much; `stage` is named. */
VD_MUST_CHECK int stor_memory_take(stor_sources_t *sources, size_t bytes, const char *stage,
                                   vd_error_t *err);
void stor_memory_give(stor_sources_t *sources, size_t bytes);

/* ---- pipelines inside of stages ---- */
typedef struct {
    stor_pipeline_context_t around; /* of the stage; a copy */
    const stor_origin_t *source;    /* NULL: it makes its own documents, or there is no such one */
    vd_slice_t name;                /* of the collection; empty = none */
    stor_inside_t inside;
} stor_sub_t;

/* name empty: no collection. */
stor_sub_t stor_sub(const stor_pipeline_context_t *context, stor_inside_t inside, vd_slice_t name);
/* Parses the user's stages in the context's arena to see whether they are good; 232 when pipelines
 * stand too deep. Does nothing when a stage around has done that. */
VD_MUST_CHECK int stor_sub_check(const stor_sub_t *sub, const stor_variables_t *variables,
                                 vd_bson_t stages, vd_error_t *err);
/* The view's stages are put in front. Everything lives in `arena`; ends by stor_pipeline_close. */
VD_MUST_CHECK int stor_sub_open(const stor_sub_t *sub, vd_arena_t *arena, stor_request_t *request,
                                const stor_variables_t *variables, vd_bson_t stages,
                                stor_pipeline_t **ret_pipeline, vd_error_t *err);

/* ---- small things that stages share ---- */
/* document with the value at the path set, as $addFields would: a parent that is no object becomes
 * one. MISSING leaves it as it is. */
void stor_stage_put(vd_bb_t *bb, const stor_path_t *path, uint32_t depth, vd_bson_t document,
                    vd_value_t value);
/* document without the field at the path; a parent that is no object is left alone. */
void stor_stage_remove(vd_bb_t *bb, const stor_path_t *path, uint32_t depth, vd_bson_t document);
/* Values at a path, arrays on the way and at its end opened once; visit returns true to stop. */
bool stor_stage_values(const stor_path_t *path, vd_bson_t document,
                       bool (*visit)(vd_value_t value, void *context), void *context);
/* 40413 when a field of a stage was said before: of two, the gateway would check one and we would
 * go by the other. */
VD_MUST_CHECK int stor_stage_once(bool before, const char *stage, vd_slice_t name, vd_error_t *err);
/* Checks "a.b" as a field path: 40353 empty, 16410 a part that begins with $. */
VD_MUST_CHECK int stor_stage_field_path(vd_arena_t *arena, vd_slice_t text, stor_path_t *ret_path,
                                        vd_error_t *err);
/* {<field>: {$in: values}}, or {$eq}, or $or where a regex is among them, in the arena. */
VD_MUST_CHECK int stor_stage_equality(vd_arena_t *arena, vd_slice_t field, const vd_value_t *values,
                                      uint32_t count, vd_bson_t *ret_filter, vd_error_t *err);
