/* veddb-storaged/pipeline/stages.h — between pipeline.c and the files of the stages: classes, and
 * what the head folds away. */
#pragma once
#include "veddb-storaged/pipeline/pipeline.h"

extern const stor_stage_class_t stor_stage_match, stor_stage_sort, stor_stage_limit,
    stor_stage_skip;
extern const stor_stage_class_t stor_stage_project, stor_stage_add_fields, stor_stage_set,
    stor_stage_unset, stor_stage_replace_root, stor_stage_replace_with;
extern const stor_stage_class_t stor_stage_group, stor_stage_count, stor_stage_sort_by_count,
    stor_stage_unwind;
extern const stor_stage_class_t stor_stage_documents, stor_stage_coll_stats, stor_stage_current_op,
    stor_stage_index_stats, stor_stage_change_stream, stor_stage_split_event;
extern const stor_stage_class_t stor_stage_lookup, stor_stage_graph_lookup, stor_stage_union_with,
    stor_stage_facet, stor_stage_bucket, stor_stage_sample, stor_stage_redact;
extern const stor_stage_class_t stor_stage_list_sessions, stor_stage_list_local_sessions;
extern const stor_stage_class_t stor_stage_out, stor_stage_merge;

extern const stor_stage_class_t stor_stage_plan_cache_stats;

extern const stor_stage_class_t stor_stage_set_window_fields, stor_stage_fill, stor_stage_densify,
    stor_stage_bucket_auto;

/* What the head of a pipeline takes over from these stages. */
const stor_filter_t *stor_stage_match_filter(const stor_stage_t *stage);
const stor_sort_t *stor_stage_sort_pattern(const stor_stage_t *stage);
int64_t stor_stage_cut_count(const stor_stage_t *stage); /* of $limit and $skip */
/* No more than the first k of a $sort are asked for by the stages behind it. */
void stor_stage_sort_bound(stor_stage_t *stage, uint64_t k);

/* What $lookup does itself of an $unwind behind it. */
typedef struct {
    vd_slice_t path, index_field; /* without the '$'; empty = none */
    bool keep_empty;
} stor_unwind_facts_t;
stor_unwind_facts_t stor_stage_unwind_facts(const stor_stage_t *stage);
/* True: the $unwind is done by the $lookup now. */
bool stor_stage_lookup_fold(stor_stage_t *stage, const stor_unwind_facts_t *unwind);
vd_slice_t stor_stage_lookup_as(const stor_stage_t *stage);
bool stor_stage_graph_fold(stor_stage_t *stage, const stor_unwind_facts_t *unwind);
vd_slice_t stor_stage_graph_as(const stor_stage_t *stage);

/* $sample is the first stage and takes from all documents of this collection. */
void stor_stage_sample_from(stor_stage_t *stage, uint64_t collection_id);
/* Something in the stages gives another result each time. */
bool stor_stage_is_random(vd_value_t stages);
stor_output_t *stor_stage_output(stor_stage_t *stage); /* NULL: it does not write */

/* Puts stages into an order that is cheaper and gives the same: optimize.c. */
VD_MUST_CHECK int stor_pipeline_optimize(const stor_pipeline_context_t *context,
                                         stor_stage_t ***stages, uint32_t *count, vd_error_t *err);
/* The filter, and what equalities in its $expr say about fields: bounds can be made of these. The
 * variables must have their values, for as long as the pipeline lives. */
VD_MUST_CHECK int stor_pipeline_narrow(const stor_pipeline_context_t *context,
                                       const stor_filter_t **filter, vd_error_t *err);
stor_stage_t *stor_stage_match_new(const stor_pipeline_context_t *context, stor_filter_t *filter);
void stor_stage_cut_set(stor_stage_t *stage, int64_t count);

/* Begins the stream of a $changeStream stage. filters: of the $match stages right behind it. */
struct stor_stream;
VD_MUST_CHECK int stor_stage_change_stream_open(stor_stage_t *stage, stor_request_t *request,
                                                const stor_filter_t *const *filters, uint32_t count,
                                                struct stor_stream **ret_stream, vd_error_t *err);
struct stor_stream *stor_stage_change_stream_of(const stor_stage_t *stage); /* NULL: not begun */
/* It is to go on behind a fragment of a split event. */
bool stor_stage_change_stream_in_fragments(const stor_stage_t *stage);

/* Before a stage runs a pipeline of its own: those before it give engine resources back, so that no
 * snapshot of theirs stands open meanwhile. What they gave last must be copied. */
static inline void stor_stage_rest(stor_stage_t *stage)
{
    for (stor_stage_t *before = stage->source; before != NULL; before = before->source)
        if (before->class->release != NULL)
            before->class->release(before);
}

/* Pulls from the stage before. */
static inline int stor_stage_pull(stor_stage_t *stage, stor_request_t *request,
                                  vd_bson_t *ret_document, vd_error_t *err)
{
    int rc = stage->source->class->next(stage->source, request, ret_document, err);
    stage->source->returned += rc == VD_OK;
    if (stage->class->keeps_version) {
        stage->version = stage->source->version;
        stage->index_key = stage->source->index_key;
    }
    return rc;
}
