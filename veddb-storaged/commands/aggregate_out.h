/* veddb-storaged/commands/aggregate_out.h — what an aggregate with $out or $merge does instead of
 * giving documents.
 *
 * Owner:   nothing is kept. Threads: the worker's.
 * Errors:  $out leaves its target as it was; what $merge wrote before an error stays. */
#pragma once
#include "veddb-storaged/pipeline/sources.h"

/* Runs the pipeline to its end and writes what comes. The request may hold the sources: they are
 * let go. bypass: validators are not asked. */
VD_MUST_CHECK int stor_aggregate_output(stor_request_t *request, stor_sources_t *sources,
                                        stor_pipeline_t *pipeline, bool bypass, vd_error_t *err);
