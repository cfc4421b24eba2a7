/* libcommon/bson/compare.h — the order of BSON values, exactly MongoDB's.
 *
 * Duty:    types first (MinKey < missing < undefined < null < numbers < string/symbol < object <
 *          array < binary < ObjectId < bool < date < timestamp < regex < DBPointer < code < code
 *          with scope < MaxKey), then values. The four number types compare by exact value, NaN
 *          below all numbers and equal to itself; -0.0 == 0.0.
 * Threads: any; pure. */
#pragma once
#include "libcommon/bson/view.h"

/* < 0, 0, > 0. MISSING sorts below null and undefined (as $expr and $sort tie-breaking have it). */
int vd_value_compare(vd_value_t a, vd_value_t b);
/* Field by field: type, name, value; shorter first. */
int vd_bson_compare(vd_bson_t a, vd_bson_t b);
static inline bool vd_value_equal(vd_value_t a, vd_value_t b)
{
    return vd_value_compare(a, b) == 0;
}
/* Equal bytes and types (2 and 2.0 differ). */
bool vd_value_identical(vd_value_t a, vd_value_t b);
/* MongoDB's canonical type rank: values compare across types only by this. */
int vd_bson_canonical_type(uint8_t type);
/* Hash that agrees with vd_value_equal (2, 2.0 and NumberDecimal("2.00") hash alike). Fixed seed:
 * fit to be stored. */
uint64_t vd_value_hash(vd_value_t v);
