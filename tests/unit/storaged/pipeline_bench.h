/* tests/unit/storaged/pipeline_bench.h — a pipeline without a database, over what $documents makes,
 * with a node to spill to or without. */
#pragma once
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "tests/unit/storaged/spill_support.h"
#include "veddb-storaged/pipeline/pipeline.h"

typedef struct {
    vd_arena_t *arena;
    stor_storage_t storage;
    stor_request_t request;
    stor_variables_t variables;
    stor_pipeline_t *pipeline;
} bench_t;

SPILL_SUPPORT void bench_open(bench_t *bench, spill_t *spill, vd_value_t stages, bool no_disk)
{
    vd_error_t err = VD_ERROR_INIT;
    memset(bench, 0, sizeof *bench);
    bench->arena = vd_arena_create();
    bench->storage.spill = spill == NULL ? NULL : spill->node;
    bench->request.storage = &bench->storage;
    bench->request.arena = bench->arena;
    stor_pipeline_context_t context = {.arena = bench->arena,
                                       .request = &bench->request,
                                       .variables = &bench->variables,
                                       .db = VD_SLICE_LIT("db"),
                                       .no_disk_use = no_disk};
    cr_assert_eq(stor_pipeline_parse(&context, vd_value_document(stages), &bench->pipeline, &err),
                 VD_OK, "%s", err.message);
}

SPILL_SUPPORT void bench_close(bench_t *bench)
{
    stor_pipeline_close(&bench->pipeline);
    vd_arena_destroy(&bench->arena);
}

/* Parses only: the code. */
SPILL_SUPPORT int bench_refused(const char *stages, vd_error_t *err)
{
    bench_t bench = {.arena = vd_arena_create()};
    stor_pipeline_context_t context = {
        .arena = bench.arena, .variables = &bench.variables, .db = VD_SLICE_LIT("db")};
    int rc = stor_pipeline_parse(&context, vd_value_document(query_value(bench.arena, stages)),
                                 &bench.pipeline, err);
    bench_close(&bench);
    return rc;
}
