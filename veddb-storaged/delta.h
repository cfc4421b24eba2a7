/* veddb-storaged/delta.h — the difference between two versions of a document, field by field.
 *
 * Duty:    {d: {field: false}, u: {field: value}, i: {field: value}, s: {field: {delta}}}: removed;
 * replaced in place; appended; changed inside a sub-document. make gives a delta only if applying
 * it to `before` yields exactly `after`, byte for byte, and it is smaller than the document; else
 * false (the whole is journaled). Pure. */
#pragma once
#include "libcommon/bson/build.h"

bool stor_delta_make(vd_arena_t *arena, vd_bson_t before, vd_bson_t after, vd_bson_t *ret_delta);
VD_MUST_CHECK int stor_delta_apply(vd_arena_t *arena, vd_bson_t before, vd_bson_t delta,
                                   vd_bson_t *ret_after, vd_error_t *err);
