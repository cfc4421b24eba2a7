/* veddb-storaged/pipeline/pipeline.h — aggregation stages: one file per stage, one table; each
 * stage pulls from the one before it.
 *
 * Duty:    parse checks the whole pipeline before anything runs; run pulls documents through it,
 * one at a time. Errors as MongoDB 7.0 (40324 "Unrecognized pipeline stage name", 40323 "A pipeline
 * stage specification object must contain exactly one field."). Owner:   parse arena = the client
 * cursor's arena (or the request's for one batch). Between batches stor_pipeline_release gives
 * engine resources back. Threads: one at a time. Limits: a blocking stage keeps at most
 * VD_QUERY_MEMORY_MAX_BYTES (292 when over). */
#pragma once
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/request.h"

#define STOR_PIPELINE_STAGES_MAX 1000

typedef struct stor_stage stor_stage_t;
typedef struct stor_pipeline stor_pipeline_t;

typedef struct {
    vd_arena_t *arena; /* of the pipeline's life */
    const stor_variables_t *
        variables; /* copied into that arena by the caller when the pipeline outlives the request */
    vd_slice_t db, collection; /* collection empty for aggregate: 1 */
} stor_pipeline_context_t;

/* A stage's functions. next: VD_ERR_NOT_FOUND at the end; the document is valid until the next call
 * of next. */
typedef struct {
    const char *name; /* "$match" */
    int (*parse)(const stor_pipeline_context_t *context, vd_value_t spec, stor_stage_t **ret_stage,
                 vd_error_t *err);
    int (*next)(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                vd_error_t *err);
    void (*release)(stor_stage_t *stage); /* end of a batch; NULL = nothing to give back */
    void (*close)(stor_stage_t *stage);   /* NULL = nothing to close */
    bool first_only;                      /* must stand first ($collStats, $currentOp ...) */
} stor_stage_class_t;

/* First member of each stage's struct. */
struct stor_stage {
    const stor_stage_class_t *class;
    stor_stage_t *source; /* NULL for the first */
};

extern const stor_stage_class_t *const stor_stage_classes[];
extern const size_t stor_stage_class_count;

/* source: the stage that stands before the first (a scan), or NULL when the first stage makes its
 * own documents. */
VD_MUST_CHECK int stor_pipeline_parse(const stor_pipeline_context_t *context, vd_bson_t stages,
                                      stor_pipeline_t **ret_pipeline, vd_error_t *err);
VD_MUST_CHECK int stor_pipeline_next(stor_pipeline_t *pipeline, stor_request_t *request,
                                     vd_bson_t *ret_document, vd_error_t *err);
void stor_pipeline_release(stor_pipeline_t *pipeline);
void stor_pipeline_close(stor_pipeline_t **pipeline_p);
