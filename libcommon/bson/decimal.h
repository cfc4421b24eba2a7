/* libcommon/bson/decimal.h — Decimal128 arithmetic (IEEE 754-2008, BID encoding as BSON has it).
 *
 * Duty:    exact decimal numbers for comparison, $inc, $mul and expressions. libgcc does the
 *          arithmetic; clang 14 has no _Decimal128, so callers see an opaque pair of words and
 *          decimal.c alone knows how libgcc is called. Rounding is to nearest, ties to even.
 * Threads: any; pure. */
#pragma once
#include "libcommon/bson/view.h"

typedef struct {
    uint64_t lo, hi; /* BSON's 16 payload bytes, little-endian: lo first */
} vd_decimal_t;

vd_decimal_t vd_value_decimal(vd_value_t v); /* DECIMAL128 only */
/* Any number type; doubles to 15 significant digits as MongoDB converts them. */
vd_decimal_t vd_value_as_decimal(vd_value_t v);
vd_value_t vd_value_from_decimal(vd_arena_t *arena, vd_decimal_t d);

vd_decimal_t vd_decimal_from_int64(int64_t v);
vd_decimal_t vd_decimal_from_double(double v);       /* 15 significant digits */
vd_decimal_t vd_decimal_from_double_exact(double v); /* all 34 digits that fit: for comparison */
double vd_decimal_to_double(vd_decimal_t d);
/* True when d is whole and in range. */
bool vd_decimal_to_int64(vd_decimal_t d, int64_t *ret);
vd_decimal_t vd_decimal_add(vd_decimal_t a, vd_decimal_t b);
vd_decimal_t vd_decimal_sub(vd_decimal_t a, vd_decimal_t b);
vd_decimal_t vd_decimal_mul(vd_decimal_t a, vd_decimal_t b);
vd_decimal_t vd_decimal_div(vd_decimal_t a, vd_decimal_t b);
/* C's fmod: the sign of a. */
vd_decimal_t vd_decimal_mod(vd_decimal_t a, vd_decimal_t b);
typedef enum {
    VD_DECIMAL_TRUNCATE,
    VD_DECIMAL_FLOOR,
    VD_DECIMAL_CEILING,
    VD_DECIMAL_HALF_EVEN
} vd_decimal_rounding_t;
/* To `places` digits behind the point (negative: before it). */
vd_decimal_t vd_decimal_round(vd_decimal_t d, int places, vd_decimal_rounding_t rounding);
bool vd_decimal_is_nan(vd_decimal_t d);
bool vd_decimal_is_infinite(vd_decimal_t d);
bool vd_decimal_is_negative(vd_decimal_t d);
bool vd_decimal_is_zero(vd_decimal_t d);
/* < 0, 0, > 0; NaN below all, equal to NaN; cohorts (1.0, 1.00) equal. */
int vd_decimal_compare(vd_decimal_t a, vd_decimal_t b);
/* The shortest member of d's cohort (no trailing zeros; zero is +0E0, NaN one NaN): equal values,
 * equal bits. */
vd_decimal_t vd_decimal_normalize(vd_decimal_t d);
/* Exact, no rounding of either side. NaN as above. */
int vd_decimal_compare_double(vd_decimal_t a, double b);
/* The number taken apart: (-1)^negative * coefficient * 10^exponent, for whoever stores it in a
 * form of its own. False for NaN and infinities. */
typedef struct {
    bool negative;
    int exponent;                  /* -6176 .. 6111 */
    int digits;                    /* of the coefficient; 0 for zero */
    unsigned __int128 coefficient; /* < 10^34 */
} vd_decimal_parts_t;
bool vd_decimal_unpack(vd_decimal_t d, vd_decimal_parts_t *ret);
/* Puts it together again; false when a part is out of range (`digits` is not looked at). */
bool vd_decimal_pack(const vd_decimal_parts_t *parts, vd_decimal_t *ret);
/* Same value with that exponent; false when its digits do not allow it. */
bool vd_decimal_with_exponent(vd_decimal_t d, int exponent, vd_decimal_t *ret);
vd_decimal_t vd_decimal_infinity(bool negative);
vd_decimal_t vd_decimal_nan(void);
/* "1.5", "NaN", "Infinity", "1E+6144" as MongoDB prints. */
void vd_decimal_to_string(vd_decimal_t d, char buf[64]);
bool vd_decimal_from_string(vd_slice_t s, vd_decimal_t *ret);
