/* veddb-storaged/pipeline/stage_sample.c — $sample: some of the documents that come, by chance, in
 * a random order; $redact: parts of documents, as they themselves say. */
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/exec/sample.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/timeseries.h"

/* ---- $sample: few of a large collection are taken from random places of its table; else a
 * reservoir: each document that comes has the same chance to be in it ---- */

#define RANDOM_DOCUMENTS_MIN 100
#define RANDOM_PART          20 /* at most this part of the collection: 5 % */

typedef struct {
    stor_stage_t stage;
    stor_sources_t *sources;
    int64_t size;
    uint64_t collection_id; /* 0: documents come from stages */
    vd_rand_t rand;
    bool filled, series; /* series: records of a time-series collection */
    vd_bson_t *kept;     /* each on the heap */
    size_t count, cap, taken, position;
} sample_t;

static int sample_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                        stor_stage_t **ret_stage, vd_error_t *err)
{
    sample_t *sample = VD_ARENA_NEW(context->arena, sample_t);
    vd_bson_iter_t iter;
    bool given = false;
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(28745),
                            "the $sample stage specification must be an object");
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        if (!vd_slice_is(iter.name, "size"))
            return vd_error_set(err, VD_ERR_LOCATION(28748), "unrecognized option to $sample: %.*s",
                                VD_SLICE_FMT(iter.name));
        if (!vd_value_is_number(iter.value))
            return vd_error_set(err, VD_ERR_LOCATION(28746),
                                "size argument to $sample must be a number");
        double size = vd_value_as_double(iter.value); /* a fraction is cut off */
        sample->size = size >= 9.2e18 ? INT64_MAX : size > 0 ? (int64_t)size : 0;
        given = true;
    }
    if (!given)
        return vd_error_set(err, VD_ERR_LOCATION(28749), "$sample stage must specify a size");
    if (sample->size <= 0)
        return vd_error_set(err, VD_ERR_LOCATION(28747),
                            "size argument to $sample must be a positive integer");
    sample->sources = context->sources;
    *ret_stage = &sample->stage;
    return VD_OK;
}

static int keep(sample_t *sample, size_t place, vd_bson_t document, vd_error_t *err)
{
    bool replaces = place < sample->count;
    int rc = stor_memory_take(sample->sources, document.len, "$sample", err);
    if (rc != VD_OK)
        return rc;
    sample->taken += document.len;
    if (replaces) {
        stor_memory_give(sample->sources, sample->kept[place].len);
        sample->taken -= sample->kept[place].len;
        vd_free((void *)(uintptr_t)sample->kept[place].data);
    } else if (sample->count == sample->cap) {
        size_t cap = sample->cap == 0 ? 64 : 2 * sample->cap;
        vd_bson_t *kept = vd_xalloc(cap * sizeof *kept);
        if (sample->count > 0)
            memcpy(kept, sample->kept, sample->count * sizeof *kept);
        vd_free(sample->kept);
        sample->kept = kept;
        sample->cap = cap;
    }
    uint8_t *copy = vd_xalloc(document.len);
    memcpy(copy, document.data, document.len);
    sample->kept[place] = (vd_bson_t){copy, document.len};
    sample->count += !replaces;
    return VD_OK;
}

static void drop_all(sample_t *sample)
{
    for (size_t i = 0; i < sample->count; i++)
        vd_free((void *)(uintptr_t)sample->kept[i].data);
    vd_free(sample->kept);
    stor_memory_give(sample->sources, sample->taken);
    sample->kept = NULL;
    sample->count = sample->cap = sample->position = sample->taken = 0;
}

static int keep_record(const stor_record_t *record, void *context, vd_error_t *err)
{
    sample_t *sample = context;
    vd_bson_t document = record->document;
    vd_arena_t *scratch = sample->series ? vd_arena_create() : NULL;
    int rc = scratch == NULL ? VD_OK : stor_timeseries_shown(scratch, document, &document, err);
    if (rc == VD_OK)
        rc = keep(sample, sample->count, document, err);
    vd_arena_destroy(&scratch);
    return rc;
}

/* *ret_done false: it is better to look at all. */
static int sample_random(sample_t *sample, stor_request_t *request, bool *ret_done, vd_error_t *err)
{
    const stor_collection_t *collection = NULL;
    *ret_done = false;
    for (uint32_t i = 0; sample->collection_id != 0 && i < request->held_count; i++)
        if (request->held[i]->id == sample->collection_id)
            collection = request->held[i];
    if (collection == NULL)
        return VD_OK;
    sample->series = collection->timeseries.is;
    int64_t documents = atomic_load(&collection->documents);
    if (documents < RANDOM_DOCUMENTS_MIN || sample->size > documents / RANDOM_PART)
        return VD_OK;
    int rc = stor_sample(request, collection, (uint32_t)sample->size, keep_record, sample, err);
    if (rc == VD_ERR_NOT_FOUND) {
        drop_all(sample);
        return VD_OK;
    }
    *ret_done = rc == VD_OK;
    return rc;
}

static void shuffle(sample_t *sample)
{
    for (size_t i = sample->count; i > 1; i--) {
        size_t other = vd_rand_below(&sample->rand, i);
        vd_bson_t swap = sample->kept[i - 1];
        sample->kept[i - 1] = sample->kept[other];
        sample->kept[other] = swap;
    }
}

static int sample_fill(sample_t *sample, stor_request_t *request, vd_error_t *err)
{
    vd_bson_t document;
    uint64_t seen = 0, seed;
    int rc;
    bool done;
    vd_rand_secret(&seed, sizeof seed);
    vd_rand_seed(&sample->rand, seed);
    rc = sample_random(sample, request, &done, err);
    sample->filled = done;
    if (rc != VD_OK || done)
        return rc;
    while ((rc = stor_stage_pull(&sample->stage, request, &document, err)) == VD_OK) {
        seen++;
        uint64_t place = sample->count < (uint64_t)sample->size
                             ? sample->count
                             : vd_rand_below(&sample->rand, seen);
        if (place < (uint64_t)sample->size)
            rc = keep(sample, place, document, err);
        if (rc != VD_OK)
            return rc;
    }
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    shuffle(sample);
    sample->filled = true;
    return VD_OK;
}

static int sample_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    sample_t *sample = (sample_t *)stage;
    int rc = sample->filled ? VD_OK : sample_fill(sample, request, err);
    if (rc != VD_OK)
        return rc;
    if (sample->position == sample->count)
        return VD_ERR_NOT_FOUND;
    *ret_document = sample->kept[sample->position++];
    return VD_OK;
}

static void sample_close(stor_stage_t *stage)
{
    drop_all((sample_t *)stage);
}

void stor_stage_sample_from(stor_stage_t *stage, uint64_t collection_id)
{
    ((sample_t *)stage)->collection_id = collection_id;
}

const stor_stage_class_t stor_stage_sample = {
    .name = "$sample", .parse = sample_parse, .next = sample_next, .close = sample_close};

/* ---- $redact ---- */

typedef struct {
    stor_stage_t stage;
    stor_variables_t *variables; /* those around, and the three words */
    stor_expr_t *expr;
    vd_arena_t *arena;
} redact_t;

static const char *const words[] = {"KEEP", "PRUNE", "DESCEND"};
static const char *const word_values[] = {"keep", "prune", "descend"};
enum { WORD_KEEP, WORD_PRUNE, WORD_DESCEND };

static int redact_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                        stor_stage_t **ret_stage, vd_error_t *err)
{
    redact_t *redact = VD_ARENA_NEW(context->arena, redact_t);
    stor_variables_t *variables =
        vd_arena_copy(context->arena, context->variables, sizeof *context->variables);
    if (variables->count + VD_COUNT_OF(words) > STOR_VARIABLES_MAX)
        return vd_error_set(err, VD_ERR_OVERFLOW, "$redact: too many variables");
    for (size_t i = 0; i < VD_COUNT_OF(words); i++) {
        variables->let[variables->count].name = vd_slice_str(words[i]);
        variables->let[variables->count++].value =
            vd_value_from_string(context->arena, vd_slice_str(word_values[i]));
    }
    redact->variables = variables;
    *ret_stage = &redact->stage;
    return stor_expr_parse(context->arena, spec, variables, &redact->expr, err);
}

static int redact_word(redact_t *redact, stor_expr_env_t *env, vd_bson_t object, int *ret_word,
                       vd_error_t *err)
{
    vd_value_t value;
    env->current = vd_value_from_document(object);
    int rc = stor_expr_eval(redact->expr, env, &value, err);
    if (rc != VD_OK)
        return rc;
    for (size_t i = 0; value.type == VD_BSON_STRING && i < VD_COUNT_OF(words); i++)
        if (vd_slice_is(vd_value_string(value), word_values[i])) {
            *ret_word = (int)i;
            return VD_OK;
        }
    return vd_error_set(err, VD_ERR_LOCATION(17053),
                        "$redact's expression should not return anything aside from the variables "
                        "$$KEEP, $$DESCEND, and $$PRUNE, but returned %s",
                        vd_value_to_json(redact->arena, value, 100));
}

static int redact_fields(redact_t *redact, stor_expr_env_t *env, vd_bb_t *bb, vd_bson_t fields,
                         bool array, vd_error_t *err);

/* Appends what is left of it under `name`; *ret_kept false: nothing. */
static int redact_value(redact_t *redact, stor_expr_env_t *env, vd_bb_t *bb, vd_slice_t name,
                        vd_value_t value, bool *ret_kept, vd_error_t *err)
{
    int word = WORD_DESCEND, rc = VD_OK;
    *ret_kept = true;
    if (value.type == VD_BSON_OBJECT)
        rc = redact_word(redact, env, vd_value_document(value), &word, err);
    if (rc != VD_OK)
        return rc;
    if (word == WORD_KEEP || (value.type != VD_BSON_OBJECT && value.type != VD_BSON_ARRAY)) {
        vd_bb_value(bb, name, value);
    } else if (word == WORD_PRUNE) {
        *ret_kept = false;
    } else {
        bool array = value.type == VD_BSON_ARRAY;
        if (array)
            vd_bb_open_array(bb, name);
        else
            vd_bb_open_document(bb, name);
        rc = redact_fields(redact, env, bb, vd_value_document(value), array, err);
        vd_bb_close(bb);
    }
    return rc;
}

static int redact_fields(redact_t *redact, stor_expr_env_t *env, vd_bb_t *bb, vd_bson_t fields,
                         bool array, vd_error_t *err)
{
    vd_bson_iter_t iter;
    uint32_t position = 0;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, fields);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        char buf[12];
        bool kept;
        rc = redact_value(redact, env, bb, array ? vd_array_name(position, buf) : iter.name,
                          iter.value, &kept, err);
        position += rc == VD_OK && kept;
    }
    return rc;
}

static int redact_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    redact_t *redact = (redact_t *)stage;
    if (redact->arena == NULL)
        redact->arena = vd_arena_create();
    for (;;) {
        stor_expr_env_t env;
        vd_bson_t document;
        vd_bb_t bb;
        int word;
        int rc = stor_stage_pull(stage, request, &document, err);
        if (rc != VD_OK)
            return rc;
        vd_arena_reset(redact->arena);
        stor_expr_env_init(&env, redact->arena, redact->variables);
        stor_expr_env_document(&env, document);
        rc = redact_word(redact, &env, document, &word, err);
        if (rc == VD_OK && word == WORD_PRUNE)
            continue;
        if (rc == VD_OK && word == WORD_KEEP)
            *ret_document = document;
        if (rc != VD_OK || word == WORD_KEEP)
            return rc;
        vd_bb_init_arena(&bb, redact->arena, VD_BSON_INTERNAL_MAX_BYTES);
        rc = redact_fields(redact, &env, &bb, document, false, err);
        return rc == VD_OK ? vd_bb_finish(&bb, ret_document, err) : rc;
    }
}

static void redact_close(stor_stage_t *stage)
{
    vd_arena_destroy(&((redact_t *)stage)->arena);
}

const stor_stage_class_t stor_stage_redact = {
    .name = "$redact", .parse = redact_parse, .next = redact_next, .close = redact_close};
