/* veddb-storaged/pipeline/pipeline.h — aggregation: one file per family of stages, one table; each
 * stage pulls from the one before it.
 *
 * Duty:    parse checks the whole pipeline before anything runs, and folds its head ($match, $sort,
 *          $skip, $limit) into the query that reads the collection; run pulls documents through,
 *          one at a time. Errors as MongoDB 7.0 (40324 "Unrecognized pipeline stage name", 40323).
 * Owner:   the parse arena = the client cursor's. Between batches stor_pipeline_release gives
 *          engine resources back; close frees what blocking stages keep.
 * Threads: one at a time.
 * Limits:  STOR_PIPELINE_STAGES_MAX stages; all blocking stages together keep what one query may
 *          (exec/work.h) and write the rest to disk, or are refused (292). */
#pragma once
#include "veddb-storaged/exec/query.h"
#include "veddb-storaged/exec/spill.h"
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/query/update.h"

#define STOR_PIPELINE_STAGES_MAX 1000

typedef struct stor_stage stor_stage_t;
typedef struct stor_pipeline stor_pipeline_t;
typedef struct stor_sources stor_sources_t; /* sources.h */

/* What a sub-pipeline stands in. */
typedef enum {
    STOR_INSIDE_NOTHING = 0, /* the command's own pipeline */
    STOR_INSIDE_LOOKUP = 1u << 0,
    STOR_INSIDE_UNION = 1u << 1,
    STOR_INSIDE_FACET = 1u << 2,
} stor_inside_t;

typedef struct {
    vd_arena_t *arena;                 /* of the pipeline's life */
    stor_request_t *request;           /* who parses; not kept */
    const stor_variables_t *variables; /* lives as long */
    vd_slice_t db, collection;         /* collection empty for aggregate: 1; live as long */
    uint64_t collection_id;            /* 0 = does not exist */
    int8_t natural;                    /* hint {$natural: -1}: the collection is read backward */
    vd_value_t hint;                   /* of another kind; MISSING = none; lives as long */
    bool explain;                      /* keeps the plans that were not chosen */
    stor_sources_t *sources;           /* every collection it touches; NULL = this one only */
    stor_inside_t inside;
    uint32_t depth;     /* of sub-pipelines; 0: the command's own */
    bool checked;       /* the pipelines inside were checked before */
    stor_stage_t *feed; /* the first stage pulls from this one, not from a collection */
    bool no_disk_use;   /* allowDiskUse: false */
    stor_work_t *work;  /* the budget of all stages; parse makes one when NULL */
    /* set for each stage while it is parsed: the pipeline that it stands in, and where */
    vd_bson_t stages;
    uint32_t position;
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
    bool first_only;                      /* makes its own documents: must stand first */
    bool no_collection;                   /* only for aggregate: 1 */
    bool last_only;                       /* writes what comes: must stand last */
    uint8_t not_inside;                   /* stor_inside_t bits: where it is refused */
    bool keeps_version; /* what it gives is made of the one document that it pulled last */
} stor_stage_class_t;

/* First member of each stage's struct. */
struct stor_stage {
    const stor_stage_class_t *class;
    stor_stage_t *source; /* NULL for the first */
    uint64_t returned;    /* documents given to the stage behind, for explain */
    uint64_t version;     /* of the stored document that the last one was made of; 0: of none */
    vd_bson_t index_key;  /* of the entry that found it, where {$meta: "indexKey"} asks; or NONE */
    vd_bson_t spec;       /* {name: specification}, for explain */
    bool may_spill;       /* spills is told by explain */
    stor_spilled_t spills;
};

/* The one table (stages.c). NULL when there is none of that name. */
const stor_stage_class_t *stor_stage_find(vd_slice_t name);

VD_MUST_CHECK int stor_pipeline_parse(const stor_pipeline_context_t *context, vd_bson_t stages,
                                      stor_pipeline_t **ret_pipeline, vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. */
VD_MUST_CHECK int stor_pipeline_next(stor_pipeline_t *pipeline, stor_request_t *request,
                                     vd_bson_t *ret_document, vd_error_t *err);
/* The document last returned did not fit: it comes again. */
void stor_pipeline_push_back(stor_pipeline_t *pipeline);
void stor_pipeline_release(stor_pipeline_t *pipeline);
void stor_pipeline_close(stor_pipeline_t **pipeline_p);
/* Its first stage is $changeStream: begins the stream. *ret_stream NULL: it is not. */
struct stor_stream;
VD_MUST_CHECK int stor_pipeline_stream_open(stor_pipeline_t *pipeline, stor_request_t *request,
                                            struct stor_stream **ret_stream, vd_error_t *err);
/* What $out or $merge at its end says; NULL: it only reads. */
typedef enum {
    STOR_MATCHED_MERGE,
    STOR_MATCHED_REPLACE,
    STOR_MATCHED_KEEP,
    STOR_MATCHED_FAIL,
    STOR_MATCHED_PIPELINE
} stor_when_matched_t;
typedef enum { STOR_MISSED_INSERT, STOR_MISSED_DISCARD, STOR_MISSED_FAIL } stor_when_missed_t;
typedef struct {
    bool merge; /* else $out */
    vd_slice_t db, collection;
    vd_bson_t timeseries; /* $out: options as given; NONE = none */
    /* $merge */
    stor_path_t *on;
    uint32_t on_count;
    stor_when_matched_t matched;
    stor_when_missed_t missed;
    vd_value_t pipeline;         /* of whenMatched */
    stor_update_t *update;       /* the same, parsed over `variables` */
    stor_variables_t *variables; /* with `new` and `let`, whose values are set for each document */
    vd_slice_t *let_names;
    stor_expr_t **let_exprs;
    uint32_t let_count;
} stor_output_t;
stor_output_t *stor_pipeline_output(const stor_pipeline_t *pipeline);
bool stor_pipeline_is_stream(const stor_pipeline_t *pipeline);
/* The query at its head; NULL when the first stage makes its own documents. */
const stor_query_t *stor_pipeline_query(const stor_pipeline_t *pipeline);
/* Names of the stages that were not folded into the head, as explain shows them. */
uint32_t stor_pipeline_stage_count(const stor_pipeline_t *pipeline);
/* The stage as {name: specification}, as explain shows it. */
vd_bson_t stor_pipeline_stage_spec(const stor_pipeline_t *pipeline, uint32_t position);
/* The $sort that the head took over, as it was given; NONE: none. */
vd_bson_t stor_pipeline_head_sort(const stor_pipeline_t *pipeline);
const char *stor_pipeline_stage_name(const stor_pipeline_t *pipeline, uint32_t position);
uint64_t stor_pipeline_stage_returned(const stor_pipeline_t *pipeline, uint32_t position);
/* What the stage wrote to disk, for explain; false: it never would. */
bool stor_pipeline_stage_spills(const stor_pipeline_t *pipeline, uint32_t position,
                                stor_spilled_t *ret_spills);
