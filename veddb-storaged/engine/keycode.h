/* veddb-storaged/engine/keycode.h — BSON values as byte keys that sort (memcmp) as the values do.
 *
 * Duty:    vd_value_compare(a, b) == 0 <=> equal keys, and order agrees, across all types;
 *          numbers across int, long, double and decimal compare by exact value. Decodes back the
 *          exact value (the number's original type travels behind the key in type bits).
 * Limits:  VD_KEYCODE_MAX_BYTES; a longer key is its prefix + SHA-256, flagged inexact (the caller
 *          refetches and compares).
 * Threads: any; pure. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/bson/compare.h"

/* Appends the key of one value. descending: all bytes complemented. *ret_exact false when it was
 * cut. Self-delimiting, so keys of several values can be joined. Refuses nothing: which types may
 * be a key is the caller's matter (arrays and regexes have keys too: they sort). */
VD_MUST_CHECK int stor_keycode_append(vd_buf_t *buf, vd_value_t value, bool descending,
                                      bool *ret_exact, vd_error_t *err);
/* The same under a collation (NULL: bytes): strings, also inside objects and arrays, stand as its
 * sort keys, so that keys are equal and sort as the values do under it. The strings can't be had
 * back: decoding gives the sort keys. Names of fields stay as they are. */
VD_MUST_CHECK int stor_keycode_append_collated(vd_buf_t *buf, vd_value_t value, bool descending,
                                               const vd_collation_t *collation, bool *ret_exact,
                                               vd_error_t *err);
/* Appends what is needed beside the key to restore the value exactly (number types, -0.0, decimal
 * exponents, NaN payload is normalised): "type bits". */
VD_MUST_CHECK int stor_keycode_append_type_bits(vd_buf_t *buf, vd_value_t value, vd_error_t *err);
/* Reads one value off the front of key (advanced) with its type bits (advanced). VD_ERR_CORRUPT on
 * bytes that are no key, VD_ERR_INVALID for a cut key (passed over in key; type_bits are undefined
 * then). Type bits that have run out count as zeroes, so trailing zeroes need not be stored. */
VD_MUST_CHECK int stor_keycode_decode(vd_arena_t *arena, vd_slice_t *key, vd_slice_t *type_bits,
                                      bool descending, vd_value_t *ret_value, vd_error_t *err);
/* Passes over one value at the front of key without decoding it. A cut key is passed, too
 * (*ret_exact false; may be NULL). VD_ERR_CORRUPT. */
VD_MUST_CHECK int stor_keycode_skip(vd_slice_t *key, bool descending, bool *ret_exact,
                                    vd_error_t *err);
/* The smallest key greater than every key that starts with these bytes: for upper bounds. False
 * when there is none. */
bool stor_keycode_successor(vd_buf_t *key);
