/* tests/fuzz/fuzz_pipeline.c — a pipeline (an array of stages) and an array of documents, one
 * behind the other: parse, run over $documents, and run again: whole documents, the same ones.
 *
 * Only stages that need nothing but what comes to them; $densify, which may make half a million
 * documents, stands at the end alone. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/pipeline/pipeline.h"

#include <stdio.h>

#define DOCUMENTS_MAX 32
#define RESULTS_MAX   500

static const char *const stages_known[] = {
    "$match",       "$project", "$addFields",      "$set",    "$unset",      "$replaceRoot",
    "$replaceWith", "$unwind",  "$group",          "$sort",   "$limit",      "$skip",
    "$count",       "$bucket",  "$facet",          "$redact", "$bucketAuto", "$sortByCount",
    "$fill",        "$densify", "$setWindowFields"};

static bool contains(vd_bson_t bytes, const char *word)
{
    return memmem(bytes.data, bytes.len, word, strlen(word)) != NULL;
}

static bool stages_fit(vd_bson_t stages)
{
    vd_bson_iter_t iter;
    bool last = false;
    for (vd_bson_iter_init(&iter, stages); vd_bson_iter_next(&iter);) {
        vd_slice_t name;
        vd_value_t spec;
        bool known = false;
        if (last || iter.value.type != VD_BSON_OBJECT ||
            !vd_bson_first(vd_value_document(iter.value), &name, &spec))
            return false;
        for (size_t i = 0; i < VD_COUNT_OF(stages_known); i++)
            known |= vd_slice_is(name, stages_known[i]);
        if (!known)
            return false;
        last = vd_slice_is(name, "$densify");
        if (vd_slice_is(name, "$facet") && contains(stages, "$densify"))
            return false;
    }
    return true;
}

static bool documents_fit(vd_bson_t documents)
{
    vd_bson_iter_t iter;
    uint32_t count = 0;
    for (vd_bson_iter_init(&iter, documents); vd_bson_iter_next(&iter);)
        if (iter.value.type != VD_BSON_OBJECT || ++count > DOCUMENTS_MAX)
            return false;
    return true;
}

/* [{$documents: [...]}, the stages...] */
static bool joined(vd_arena_t *arena, vd_bson_t stages, vd_bson_t documents, vd_bson_t *ret)
{
    vd_bb_t bb;
    vd_bson_iter_t iter;
    char name[16];
    uint32_t position = 1;
    vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_begin_document(&bb, "0");
    vd_bb_begin_array(&bb, "$documents");
    vd_bb_concat(&bb, documents);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    for (vd_bson_iter_init(&iter, stages); vd_bson_iter_next(&iter);) {
        (void)snprintf(name, sizeof name, "%u", position++);
        vd_bb_value(&bb, vd_slice_str(name), iter.value);
    }
    return vd_bb_finish(&bb, ret, NULL) == VD_OK;
}

typedef struct {
    int parsed, ended; /* VD_OK, or why not */
    uint32_t count;
    vd_bson_t results[RESULTS_MAX];
} outcome_t;

static void run(vd_arena_t *arena, vd_bson_t stages, outcome_t *ret)
{
    stor_storage_t *storage = VD_ARENA_NEW(arena, stor_storage_t);
    stor_request_t *request = VD_ARENA_NEW(arena, stor_request_t);
    stor_variables_t *variables = VD_ARENA_NEW(arena, stor_variables_t);
    stor_pipeline_t *pipeline = NULL;
    vd_bson_t document;
    vd_error_t err = VD_ERROR_INIT;
    variables->now_ms = 1700000000123;
    variables->cluster_time = UINT64_C(1700000000) << 32 | 7;
    request->storage = storage;
    request->arena = arena;
    stor_pipeline_context_t context = {.arena = arena,
                                       .variables = variables,
                                       .db = VD_SLICE_LIT("fuzz"),
                                       .collection = VD_SLICE_LIT("")};
    ret->count = 0;
    ret->parsed = stor_pipeline_parse(&context, stages, &pipeline, &err);
    VD_ASSERT(ret->parsed == VD_OK || err.code != VD_OK);
    if (ret->parsed != VD_OK)
        return;
    for (;;) {
        ret->ended = stor_pipeline_next(pipeline, request, &document, &err);
        if (ret->ended != VD_OK || ret->count == RESULTS_MAX)
            break;
        VD_ASSERT(vd_bson_validate(vd_slice(document.data, document.len), 0, 400, NULL) == VD_OK);
        uint8_t *copy = vd_arena_alloc(arena, document.len);
        memcpy(copy, document.data, document.len);
        ret->results[ret->count++] = (vd_bson_t){copy, document.len};
    }
    stor_pipeline_release(pipeline);
    stor_pipeline_close(&pipeline);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_bson_t stages, all;
    if (size > 32768 || vd_bson_peek(vd_slice(data, size), &stages, NULL) != VD_OK)
        return 0;
    vd_slice_t rest = vd_slice(data + stages.len, size - stages.len);
    vd_bson_t documents = {rest.data, (uint32_t)rest.len};
    if (vd_bson_validate(vd_slice(stages.data, stages.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) != VD_OK ||
        vd_bson_validate(rest, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) != VD_OK ||
        !stages_fit(stages) || !documents_fit(documents) || contains(stages, "$range"))
        return 0;
    vd_arena_t *arena = vd_arena_create();
    if (joined(arena, stages, documents, &all)) {
        outcome_t *first = VD_ARENA_NEW(arena, outcome_t), *again = VD_ARENA_NEW(arena, outcome_t);
        run(arena, all, first);
        run(arena, all, again);
        VD_ASSERT(first->parsed == again->parsed);
        bool by_chance = contains(stages, "$rand") || contains(stages, "$sampleRate");
        VD_ASSERT(by_chance || (first->count == again->count && first->ended == again->ended));
        for (uint32_t i = 0; !by_chance && i < first->count; i++)
            VD_ASSERT(
                first->results[i].len == again->results[i].len &&
                memcmp(first->results[i].data, again->results[i].data, first->results[i].len) == 0);
    }
    vd_arena_destroy(&arena);
    return 0;
}
