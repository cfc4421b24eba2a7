/* veddb-storaged/commands/explain_plan.h — a plan, and how it ran, as explain's documents show them
 * (MongoDB 7.0's form, classic engine).
 *
 * Owner:   on the handler's stack; borrows the query, which must be open while it is written.
 * Threads: the worker's. */
#pragma once
#include "veddb-storaged/commands/read_common.h"

#define STOR_TRIAL_WORKS_MAX   10000 /* as MongoDB's */
#define STOR_TRIAL_RESULTS_MAX 101

typedef struct {
    stor_request_t *request;
    stor_verbosity_t verbosity;
    vd_bson_t command;
    vd_slice_t collection;
    const stor_query_spec_t *spec;
    const stor_query_t *query; /* open */
    stor_query_facts_t facts;
    vd_bson_t sort, projection; /* as given */
    const char *top;            /* "COUNT", "UPDATE", "DELETE", or NULL */
    bool fast_count;
    bool executed;
    uint64_t ms, delivered;
    const struct stor_trial *trials; /* of each plan that was thought of, the chosen one first */
    uint32_t trial_count;
} stor_explain_t;

/* queryPlanner: {...} */
void stor_explain_planner(vd_bb_t *bb, const stor_explain_t *explain);
/* Each plan by itself, as far as STOR_TRIAL_WORKS_MAX entries and documents, or
 * STOR_TRIAL_RESULTS_MAX results: for allPlansExecution. Nothing when there is only one. Ended by
 * stor_explain_trials_end, on errors too. */
VD_MUST_CHECK int stor_explain_trials(stor_explain_t *explain, vd_error_t *err);
void stor_explain_trials_end(stor_explain_t *explain);
/* executionStats: {...}; nothing when it was not run. */
void stor_explain_execution(vd_bb_t *bb, const stor_explain_t *explain);
