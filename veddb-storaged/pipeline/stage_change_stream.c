/* veddb-storaged/pipeline/stage_change_stream.c — $changeStream: the stage in front of a stream.
 * "Not found" means nothing more now: the stages behind it may be pulled again later. */
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/streams/push.h"

typedef struct {
    stor_stage_t stage;
    vd_arena_t *arena;
    stor_stream_spec_t spec;
    stor_stream_t *stream;
} change_stream_t;

static int change_stream_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                               stor_stage_t **ret_stage, vd_error_t *err)
{
    change_stream_t *stage = VD_ARENA_NEW(context->arena, change_stream_t);
    stage->arena = context->arena;
    *ret_stage = &stage->stage;
    return stor_stream_parse(spec, context->db, context->collection, &stage->spec, err);
}

static int change_stream_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                              vd_error_t *err)
{
    return stor_stream_next(((change_stream_t *)stage)->stream, request, ret_document, err);
}

static void change_stream_release(stor_stage_t *stage)
{
    if (((change_stream_t *)stage)->stream != NULL)
        stor_stream_release(((change_stream_t *)stage)->stream);
}

static void change_stream_close(stor_stage_t *stage)
{
    stor_stream_close(&((change_stream_t *)stage)->stream);
}

int stor_stage_change_stream_open(stor_stage_t *stage, stor_request_t *request,
                                  const stor_filter_t *const *filters, uint32_t count,
                                  stor_stream_t **ret_stream, vd_error_t *err)
{
    change_stream_t *self = (change_stream_t *)stage;
    int rc = stor_stream_open(self->arena, request, &self->spec,
                              stor_push_make(self->arena, filters, count), &self->stream, err);
    if (rc == VD_OK)
        *ret_stream = self->stream;
    return rc;
}

stor_stream_t *stor_stage_change_stream_of(const stor_stage_t *stage)
{
    return ((const change_stream_t *)stage)->stream;
}

bool stor_stage_change_stream_in_fragments(const stor_stage_t *stage)
{
    const stor_stream_spec_t *spec = &((const change_stream_t *)stage)->spec;
    return spec->has_token && spec->token.fragment != 0;
}

const stor_stage_class_t stor_stage_change_stream = {
    .name = "$changeStream",
    .parse = change_stream_parse,
    .next = change_stream_next,
    .release = change_stream_release,
    .close = change_stream_close,
    .first_only = true,
    .not_inside = STOR_INSIDE_LOOKUP | STOR_INSIDE_UNION | STOR_INSIDE_FACET};
