/* veddb-storaged/plan/index_bounds.h — which entries of one index a filter allows.
 *
 * Duty:    gives each field of an index the intervals that the filter's predicates allow, under
 *          MongoDB's rules for arrays (two ranges on a path through an array are not intersected;
 *          two fields below the same array are bounded together only inside one $elemMatch), and
 *          makes of them ranges of entry keys for a scan and a check for what ranges can't say: an
 *          entry that lies in a gap names the place where the scan goes on. Ranges and check may
 *          allow more than the filter, never less. Pure.
 * Owner:   arena.
 * Threads: immutable once made.
 * Limits:  STOR_INDEX_RANGES_MAX ranges. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-storaged/index/keys.h"
#include "veddb-storaged/plan/interval.h"
#include "veddb-storaged/plan/predicates.h"

#define STOR_INDEX_RANGES_MAX 20000

struct stor_key_sample;

/* An index as the planner sees it. */
typedef struct {
    uint64_t id;
    const stor_index_def_t *def;
    stor_index_multikey_t multikey;
    int64_t entries;
    const struct stor_key_sample *sample; /* statistics.h; NULL = none */
} stor_plan_index_t;

typedef struct {
    uint32_t code_count; /* keycodes in an entry's key: fields, one more for a wildcard */
    stor_intervals_t *fields;
    stor_intervals_t wildcard_paths;
    bool first_bounded; /* the filter says something about the first field */
    bool exact;         /* an entry inside means that its document matches the whole filter */
    bool *consumed;     /* by conjunct: implied by the entry */
    bool in_sparse;     /* every document that matches has a field of the index */
    uint32_t choices;   /* alternatives for the first field, when it leads through an array */
    stor_bounds_t ranges;
    uint32_t checked_from; /* codes from here on need the check */
    bool checked;
    struct {
        uint32_t count;
        stor_range_t *items; /* of this code alone, in entry order */
    } * checks;
} stor_index_bounds_t;

/* choice: which of the predicates on the first field is used when only one can be; 0 ..
 * choices - 1. wildcard_path: the path that a wildcard index is asked for. */
VD_MUST_CHECK int stor_index_bounds_make(vd_arena_t *arena, const stor_plan_index_t *index,
                                         const stor_predicates_t *predicates, uint32_t choice,
                                         vd_slice_t wildcard_path, stor_index_bounds_t *ret,
                                         vd_error_t *err);
/* Everything, or what lies between two keys of the whole index (min, max; either may be NONE). */
VD_MUST_CHECK int stor_index_bounds_between(vd_arena_t *arena, const stor_plan_index_t *index,
                                            vd_bson_t min, vd_bson_t max, stor_index_bounds_t *ret,
                                            vd_error_t *err);
/* The same with the first codes pinned to one of their points each: positions[i] is its place. */
void stor_index_bounds_pin(vd_arena_t *arena, const stor_plan_index_t *index,
                           const stor_index_bounds_t *bounds, const uint32_t *positions,
                           uint32_t codes, stor_index_bounds_t *ret);
/* The path may be asked of a wildcard index. */
bool stor_index_wildcard_has(const stor_index_def_t *def, vd_slice_t path);

typedef enum { STOR_CHECK_INSIDE, STOR_CHECK_SEEK, STOR_CHECK_CORRUPT } stor_check_t;
/* Only for entries inside a range, with bounds->checked. SEEK: the scan may go on at *seek (at or
 * behind it in its direction). */
stor_check_t stor_index_bounds_check(const stor_index_bounds_t *bounds, vd_slice_t fields,
                                     bool descending_codes[], bool backward, vd_buf_t *seek);
/* Which codes stand complemented; of code_count. */
void stor_index_descending(const stor_index_def_t *def, bool ret[STOR_INDEX_FIELDS_MAX + 1]);
