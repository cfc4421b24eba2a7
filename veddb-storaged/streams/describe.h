/* veddb-storaged/streams/describe.h — updateDescription, from the delta of an update (delta.h).
 *
 * Threads: any; pure. The result lives in the arena. */
#pragma once
#include "libcommon/bson/build.h"

/* {updatedFields, removedFields, truncatedArrays}, and disambiguatedPaths when asked for. */
VD_MUST_CHECK int stor_describe_delta(vd_arena_t *arena, vd_bson_t delta, bool disambiguated,
                                      vd_bson_t *ret_description, vd_error_t *err);
/* The same where only the new document is known: every field but _id counts as updated. */
VD_MUST_CHECK int stor_describe_whole(vd_arena_t *arena, vd_bson_t document, bool disambiguated,
                                      vd_bson_t *ret_description, vd_error_t *err);
