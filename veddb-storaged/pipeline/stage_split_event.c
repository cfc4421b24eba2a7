/* veddb-storaged/pipeline/stage_split_event.c — $changeStreamSplitLargeEvent: an event that is too
 * large for one document is told in fragments.
 *
 * The fields go into fragments by size, the smallest first, so that whoever resumes by the token of
 * a fragment gets the same ones again. The event is kept as long as fragments of it are to come. */
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/streams/stream.h"

#include <stdlib.h>

/* As MongoDB: a reply has more in it than the event. */
#define EVENT_MAX_BYTES (VD_BSON_INTERNAL_MAX_BYTES - 8 * 1024)
#define FIELDS_MAX      100000
#define FRAGMENTS_MAX   UINT8_MAX

typedef struct {
    vd_slice_t name;
    vd_value_t value;
    size_t bytes;
} field_t;

typedef struct {
    stor_stage_t stage;
    vd_arena_t *kept;    /* the event and its fields, while fragments of it are to come */
    vd_arena_t *scratch; /* the fragment given last */
    field_t *fields;
    uint32_t field_count, at; /* the next one to be told */
    uint32_t told, of;        /* fragments */
    bool resumed;             /* the first event was seen */
} split_t;

static int split_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT || !vd_bson_is_empty(vd_value_document(spec)))
        return vd_error_set(err, VD_ERR_LOCATION(7182800),
                            "$changeStreamSplitLargeEvent spec should be an empty object");
    *ret_stage = &VD_ARENA_NEW(context->arena, split_t)->stage;
    return VD_OK;
}

/* The stream that all this comes from. */
static stor_stream_t *stream_of(const split_t *split)
{
    stor_stage_t *first = split->stage.source;
    while (first->source != NULL)
        first = first->source;
    return stor_stage_change_stream_of(first);
}

static int by_size(const void *a, const void *b)
{
    const field_t *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return vd_slice_compare(x->name, y->name);
}

static int fields_take(split_t *split, vd_bson_t event, vd_error_t *err)
{
    vd_bson_t copy = {vd_arena_copy(split->kept, event.data, event.len), event.len};
    uint32_t count = vd_bson_count(copy);
    vd_bson_iter_t iter;
    if (count > FIELDS_MAX)
        return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE,
                            "an event of %u fields can't be split", count);
    split->fields = VD_ARENA_ARRAY(split->kept, field_t, count + 1);
    split->field_count = 0;
    vd_bson_iter_init(&iter, copy);
    while (vd_bson_iter_next(&iter))
        if (!vd_slice_is(iter.name, "_id"))
            split->fields[split->field_count++] =
                (field_t){iter.name, iter.value, 2 + iter.name.len + iter.value.len};
    if (split->field_count == 0)
        return vd_error_set(err, VD_ERR_LOCATION(7182502),
                            "Cannot split an empty event or an event containing solely '_id' "
                            "field");
    qsort(split->fields, split->field_count, sizeof split->fields[0], by_size);
    return VD_OK;
}

/* What stands in every fragment. */
static void put_head(vd_bb_t *bb, const stor_token_t *token, uint32_t of)
{
    char digits[STOR_TOKEN_DIGITS + 1];
    stor_token_write(token, digits);
    vd_bb_begin_document(bb, "_id");
    vd_bb_cstr(bb, "_data", digits);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "splitEvent");
    vd_bb_int32(bb, "fragment", token->fragment);
    vd_bb_int32(bb, "of", (int32_t)of);
    vd_bb_close(bb);
}

/* What put_head makes, and the token once more in the reply. */
#define HEAD_BYTES (5 + (5 + 13 + STOR_TOKEN_DIGITS) + (12 + 5 + 14 + 8) + STOR_TOKEN_DIGITS + 20)

/* The field behind the last one of the fragment that begins at `at`. */
static uint32_t fragment_end(const split_t *split, uint32_t at, size_t *ret_bytes)
{
    size_t bytes = HEAD_BYTES;
    do
        bytes += split->fields[at++].bytes;
    while (at < split->field_count && bytes + split->fields[at].bytes <= EVENT_MAX_BYTES);
    *ret_bytes = bytes;
    return at;
}

static int fragments_count(split_t *split, vd_error_t *err)
{
    size_t bytes;
    split->of = split->told = split->at = 0;
    for (uint32_t at = 0; at < split->field_count; split->of++) {
        at = fragment_end(split, at, &bytes);
        if (bytes > EVENT_MAX_BYTES)
            return vd_error_set(err, VD_ERR_LOCATION(7182500),
                                "Splitting change event failed: fragment size %zu is greater than "
                                "maximum allowed fragment size %d",
                                bytes, EVENT_MAX_BYTES);
    }
    return split->of <= FRAGMENTS_MAX
               ? VD_OK
               : vd_error_set(err, VD_ERR_LOCATION(7182500),
                              "Splitting change event failed: %u fragments", split->of);
}

/* Resumed by the token of a fragment: those up to it were told before. */
static int skip(split_t *split, uint32_t fragments, vd_error_t *err)
{
    size_t bytes;
    if (fragments > split->of)
        return vd_error_set(err, VD_ERR_CHANGE_STREAM_FATAL_ERROR,
                            "Attempted to resume from a split event, but the resumed stream "
                            "produced a different split. Ensure that the pipeline used to resume "
                            "is the same as the original");
    for (; split->told < fragments; split->told++)
        split->at = fragment_end(split, split->at, &bytes);
    return VD_OK;
}

/* How many fragments of this event were told before. */
static int resume(split_t *split, const stor_stream_t *stream, bool large, uint32_t *ret_skip,
                  vd_error_t *err)
{
    const stor_token_t *token = stor_stream_token(stream);
    *ret_skip = 0;
    if (split->resumed || token == NULL || token->fragment == 0)
        return VD_OK;
    split->resumed = true;
    stor_token_t wanted = *token;
    wanted.fragment = 0;
    if (stor_token_compare(stor_stream_at(stream), &wanted) != 0)
        return vd_error_set(err, VD_ERR_CHANGE_STREAM_FATAL_ERROR,
                            "cannot resume stream; the resume token was not found");
    if (!large)
        return vd_error_set(err, VD_ERR_CHANGE_STREAM_FATAL_ERROR,
                            "Attempted to resume from a split event fragment, but the event in the "
                            "resumed stream was not large enough to be split");
    *ret_skip = token->fragment;
    return VD_OK;
}

static int begin(split_t *split, stor_request_t *request, vd_bson_t event, uint32_t skipped,
                 vd_error_t *err)
{
    split->kept = vd_arena_create();
    if (split->scratch == NULL)
        split->scratch = vd_arena_create();
    int rc = fields_take(split, event, err);
    if (rc == VD_OK)
        rc = fragments_count(split, err);
    if (rc == VD_OK)
        rc = skip(split, skipped, err);
    if (rc == VD_OK)
        atomic_fetch_add(&request->storage->streams.split, 1);
    return rc;
}

static int fragment_give(split_t *split, stor_stream_t *stream, vd_bson_t *ret_document,
                         vd_error_t *err)
{
    vd_bb_t bb;
    size_t bytes;
    uint32_t end = fragment_end(split, split->at, &bytes);
    stor_stream_fragment(stream, (uint8_t)++split->told);
    vd_arena_reset(split->scratch);
    vd_bb_init_arena(&bb, split->scratch, VD_BSON_INTERNAL_MAX_BYTES);
    put_head(&bb, stor_stream_at(stream), split->of);
    for (; split->at < end; split->at++)
        vd_bb_value(&bb, split->fields[split->at].name, split->fields[split->at].value);
    return vd_bb_finish(&bb, ret_document, err);
}

static int split_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    split_t *split = (split_t *)stage;
    stor_stream_t *stream = stream_of(split);
    while (split->told == split->of) {
        uint32_t skipped;
        split->told = split->of = 0;
        vd_arena_destroy(&split->kept); /* it may be large */
        int rc = stor_stage_pull(stage, request, ret_document, err);
        if (rc != VD_OK)
            return rc;
        bool large = ret_document->len > EVENT_MAX_BYTES;
        rc = resume(split, stream, large, &skipped, err);
        if (rc == VD_OK && !large)
            return VD_OK;
        if (rc == VD_OK)
            rc = begin(split, request, *ret_document, skipped, err);
        if (rc != VD_OK)
            return rc;
    }
    return fragment_give(split, stream, ret_document, err);
}

static void split_close(stor_stage_t *stage)
{
    vd_arena_destroy(&((split_t *)stage)->kept);
    vd_arena_destroy(&((split_t *)stage)->scratch);
}

const stor_stage_class_t stor_stage_split_event = {
    .name = "$changeStreamSplitLargeEvent",
    .parse = split_parse,
    .next = split_next,
    .close = split_close,
    .not_inside = STOR_INSIDE_LOOKUP | STOR_INSIDE_UNION | STOR_INSIDE_FACET};
