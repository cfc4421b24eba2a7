/* veddb-storaged/plan/statistics.c — see statistics.h. */
#include "veddb-storaged/plan/statistics.h"

#include "libcommon/base/limits.h"
#include "veddb-storaged/query/match.h"

#include <math.h>
#include <stdlib.h>

#define TRUSTED_HITS 4 /* of the sample: below it, chance says more than the share */

/* Without a sample: the shares that planners have always guessed. */
#define GUESS_POINT 0.01
#define GUESS_RANGE 0.3

static int key_compare(const void *a, const void *b)
{
    return vd_slice_compare(*(const vd_slice_t *)a, *(const vd_slice_t *)b);
}

static vd_slice_t prefix_of(vd_slice_t key, uint32_t codes, const bool *descending)
{
    vd_slice_t rest = key;
    for (uint32_t i = 0; i < codes && rest.len > 0; i++)
        if (stor_keycode_skip(&rest, descending[i], NULL, NULL) != VD_OK)
            return key;
    return vd_slice(key.data, key.len - rest.len);
}

static double distinct_of(const stor_key_sample_t *sample, uint32_t codes, const bool *descending)
{
    double once = 0, more = 0;
    for (uint32_t i = 0; i < sample->count;) {
        vd_slice_t prefix = prefix_of(sample->keys[i], codes, descending);
        uint32_t run = i + 1;
        while (run < sample->count && vd_slice_starts_with(sample->keys[run], prefix))
            run++;
        once += run - i == 1;
        more += run - i > 1;
        i = run;
    }
    double scale =
        sample->count < sample->entries ? sqrt((double)sample->entries / (double)sample->count) : 1;
    if (more == 0 && scale > 1) /* nothing repeats: about all differ */
        return (double)sample->entries;
    return fmax(1, fmin(once * scale + more, (double)sample->entries));
}

void stor_key_sample_init(stor_key_sample_t *sample, const stor_index_def_t *def, vd_slice_t *keys,
                          uint32_t count, int64_t entries)
{
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
    uint32_t codes = def->field_count + def->has_wildcard;
    stor_index_descending(def, descending);
    *sample = (stor_key_sample_t){.count = count, .keys = keys, .entries = entries};
    sample->duplicates = 1;
    if (count > 0)
        qsort(keys, count, sizeof *keys, key_compare);
    sample->distinct[0] = 1;
    for (uint32_t i = 1; i <= codes; i++)
        sample->distinct[i] = count == 0 ? 1 : distinct_of(sample, i, descending);
}

static bool in_range(const stor_bounds_t *ranges, vd_slice_t key)
{
    uint32_t low = 0, high = ranges->count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        vd_slice_t end = ranges->ranges[mid].high;
        if (end.len > 0 && vd_slice_compare(key, end) >= 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low < ranges->count && vd_slice_compare(key, ranges->ranges[low].low) >= 0;
}

/* How many codes at the head are single points. */
static uint32_t point_codes(const stor_index_bounds_t *bounds)
{
    uint32_t codes = 0;
    while (codes < bounds->code_count && stor_intervals_are_points(&bounds->fields[codes]))
        codes++;
    return codes;
}

static void guess(const stor_index_bounds_t *bounds, double entries, stor_key_estimate_t *ret)
{
    double share = 1;
    for (uint32_t i = 0; i < bounds->code_count; i++) {
        if (stor_intervals_are_all(&bounds->fields[i]))
            continue;
        share *= stor_intervals_are_points(&bounds->fields[i])
                     ? fmin(1, GUESS_POINT * bounds->fields[i].count)
                     : GUESS_RANGE;
        if (i < bounds->checked_from)
            ret->ranged = entries * share;
    }
    ret->inside = entries * share;
}

/* Too few of the sample lie inside: the points' share by the number of distinct keys, bounded by
 * what the sample allows. */
static double by_distinct(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                          double entries, double hits)
{
    const stor_key_sample_t *sample = index->sample;
    uint32_t codes = point_codes(bounds);
    double most = entries * (hits + 0.5) / sample->count;
    if (codes == 0)
        return most;
    double points = 1;
    for (uint32_t i = 0; i < codes; i++)
        points *= bounds->fields[i].count;
    double each = entries / sample->distinct[codes];
    return fmin(fmax(points * each, entries * hits / sample->count), fmax(most, points * each));
}

void stor_keys_estimate(const stor_plan_index_t *index, const stor_index_bounds_t *bounds,
                        stor_key_estimate_t *ret)
{
    const stor_key_sample_t *sample = index->sample;
    double entries = index->entries > 0 ? (double)index->entries : 0;
    *ret = (stor_key_estimate_t){.ranged = entries};
    if (bounds->ranges.count == 0) {
        *ret = (stor_key_estimate_t){.sampled = true};
        return;
    }
    if (sample == NULL || sample->count == 0) {
        guess(bounds, entries, ret);
        ret->examined = ret->ranged;
        return;
    }
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
    double ranged = 0, inside = 0;
    vd_buf_t seek;
    stor_index_descending(index->def, descending);
    vd_buf_init(&seek, (STOR_INDEX_FIELDS_MAX + 2) * VD_KEYCODE_MAX_BYTES);
    for (uint32_t i = 0; i < sample->count; i++) {
        if (!in_range(&bounds->ranges, sample->keys[i]))
            continue;
        ranged++;
        inside += !bounds->checked || stor_index_bounds_check(bounds, sample->keys[i], descending,
                                                              false, &seek) == STOR_CHECK_INSIDE;
    }
    vd_buf_done(&seek);
    ret->sampled = inside >= TRUSTED_HITS || sample->count >= sample->entries;
    ret->ranged = ranged >= TRUSTED_HITS ? entries * ranged / sample->count
                                         : by_distinct(index, bounds, entries, ranged);
    ret->inside = inside >= TRUSTED_HITS
                      ? entries * inside / sample->count
                      : fmin(ret->ranged, by_distinct(index, bounds, entries, inside));
    double gaps = 0;
    if (bounds->checked) {
        double share = entries > 0 ? ret->ranged / entries : 0;
        gaps = 2 * fmax(1, sample->distinct[bounds->checked_from] * share);
    }
    ret->examined = fmin(ret->ranged, ret->inside + gaps);
}

double stor_keys_distinct(const stor_plan_index_t *index, const stor_key_estimate_t *estimate,
                          uint32_t codes)
{
    if (index->sample == NULL || index->entries <= 0)
        return estimate->inside / 10;
    double share = estimate->inside / (double)index->entries;
    return fmin(estimate->inside, fmax(1, index->sample->distinct[codes] * share));
}

double stor_documents_share(const stor_document_sample_t *sample, const stor_filter_t *filter,
                            const stor_variables_t *variables)
{
    double hits = 0;
    if (sample == NULL || sample->count == 0)
        return -1;
    vd_arena_t *scratch = vd_arena_create();
    for (uint32_t i = 0; i < sample->count; i++) {
        stor_match_t match = {.arena = scratch, .variables = variables};
        bool matches = false;
        vd_error_t err = VD_ERROR_INIT;
        if (stor_match_document(filter, sample->documents[i], &match, &matches, &err) == VD_OK)
            hits += matches;
        if (i % 32 == 31)
            vd_arena_reset(scratch);
    }
    vd_arena_destroy(&scratch);
    return fmax(hits, 0.5) / sample->count;
}
