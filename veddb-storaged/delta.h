/* veddb-storaged/delta.h — the difference between two versions of a document, field by field.
 *
 * Duty:    one document whose field names are a letter and the field's name, in the order of the
 *          old document: "d" removed, "u" replaced in place, "s" a sub-document with its own
 *          delta; then "i" appended. make gives a delta only if applying it to `before` yields
 *          exactly `after`, byte for byte, and it is clearly smaller than the document; else false
 *          (the whole is journaled). Pure. */
#pragma once
#include "libcommon/bson/build.h"

bool stor_delta_make(vd_arena_t *arena, vd_bson_t before, vd_bson_t after, vd_bson_t *ret_delta);
/* VD_ERR_CORRUPT: the delta is not BSON to the bottom, or does not fit the document. */
VD_MUST_CHECK int stor_delta_apply(vd_arena_t *arena, vd_bson_t before, vd_bson_t delta,
                                   vd_bson_t *ret_after, vd_error_t *err);
