/* veddb-storaged/plan/statistics.h — what is known about the entries of an index without reading
 * them: a sorted sample of their keys.
 *
 * Duty:    the sample is an equi-depth histogram of the first field, of the first two, and so on:
 *          a range of keys, with its check, holds about the share of entries that it holds of the
 *          sample. From how often prefixes repeat in it, the number of distinct ones is guessed
 *          (Guaranteed-Error estimator: what was seen once stands for sqrt(entries / sample)). Also
 *          a sample of documents, over which a whole filter is tried. Pure.
 * Owner:   the arena given.
 * Threads: immutable once made. */
#pragma once
#include "veddb-storaged/plan/index_bounds.h"

#define STOR_SAMPLE_KEYS_MAX        512
#define STOR_SAMPLE_DOCUMENTS_MAX   256
#define STOR_SAMPLE_DOCUMENTS_BYTES (256 * 1024)

typedef struct stor_key_sample {
    uint32_t count;
    vd_slice_t *keys;                           /* fields' keycodes, ascending; with repetitions */
    int64_t entries;                            /* of the index when it was taken */
    double distinct[STOR_INDEX_FIELDS_MAX + 2]; /* by number of codes; [0] is 1 */
    double duplicates;                          /* entries for each document; above 1 with arrays */
} stor_key_sample_t;

typedef struct {
    uint32_t count;
    vd_bson_t *documents;
    int64_t total; /* documents of the collection */
} stor_document_sample_t;

/* Sorts and keeps `keys` (in the arena already). */
void stor_key_sample_init(stor_key_sample_t *sample, const stor_index_def_t *def, vd_slice_t *keys,
                          uint32_t count, int64_t entries);

typedef struct {
    double ranged;   /* entries inside the ranges */
    double inside;   /* of them, those that pass the check */
    double examined; /* entries that a scan looks at: those inside and one or two for each gap */
    bool sampled;    /* from enough of a sample to trust it */
} stor_key_estimate_t;
void stor_keys_estimate(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                        stor_key_estimate_t *ret);
/* Distinct values of the first `codes` among the entries inside. */
double stor_keys_distinct(const stor_plan_index_t *index, const stor_key_estimate_t *estimate,
                          uint32_t codes);
/* The share of documents that match, at least half of one of the sample; -1 without a sample. */
double stor_documents_share(const stor_document_sample_t *sample, const stor_filter_t *filter,
                            const stor_variables_t *variables);
