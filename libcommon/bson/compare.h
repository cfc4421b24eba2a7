/* libcommon/bson/compare.h — the order of BSON values, exactly MongoDB's.
 *
 * Duty:    types first (MinKey < missing < undefined < null < numbers < string/symbol < object <
 *          array < binary < ObjectId < bool < date < timestamp < regex < DBPointer < code < code
 *          with scope < MaxKey), then values. The four number types compare by exact value, NaN
 *          below all numbers and equal to itself; -0.0 == 0.0.
 * Threads: any; pure. */
#pragma once
#include "libcommon/bson/view.h"

/* How strings compare and hash: byte by byte unless an operation has a collation. It is set for the
 * thread that runs the operation, so that filters, sorts, groups and expressions agree without each
 * being told; whoever sets one sets it back. First member of the setter's own struct. */
typedef struct vd_collation vd_collation_t;
struct vd_collation {
    int (*compare)(const vd_collation_t *collation, vd_slice_t a, vd_slice_t b);
    /* Equal strings hash alike. */
    uint64_t (*hash)(const vd_collation_t *collation, uint64_t seed, vd_slice_t string);
    /* Gives out, in pieces, bytes that sort (memcmp) as the strings do and are the same for equal
     * ones; none is NUL. VD_ERR_NO_MEMORY. */
    int (*sort_key)(const vd_collation_t *collation, vd_slice_t string,
                    void (*put)(void *context, const void *data, size_t len), void *context);
};
/* NULL: bytes. Returns the one before. */
const vd_collation_t *vd_collation_set(const vd_collation_t *collation);
const vd_collation_t *vd_collation_get(void);
/* The value compares otherwise than its bytes do: a collation is set, and it is a string or may
 * hold one. So keys of indexes say nothing about it. */
bool vd_collation_matters(vd_value_t value);
/* It is a string or may hold one: some collation could make a difference. */
bool vd_value_is_collatable(vd_value_t value);

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
