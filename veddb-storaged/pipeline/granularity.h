/* veddb-storaged/pipeline/granularity.h — series of preferred numbers, to which $bucketAuto rounds
 * its boundaries.
 *
 * Pure. Threads: any. */
#pragma once
#include "libcommon/bson/view.h"

typedef struct stor_granularity stor_granularity_t;

/* NULL: no series of that name (R5 ... E192, 1-2-5, POWERSOF2). */
const stor_granularity_t *stor_granularity_find(vd_slice_t name);
/* The next number of the series above (up) or below v: strictly, except for zero, which stays. v is
 * a number, not NaN, not negative. */
vd_value_t stor_granularity_round(const stor_granularity_t *series, vd_arena_t *arena, vd_value_t v,
                                  bool up);
