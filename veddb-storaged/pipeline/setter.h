/* veddb-storaged/pipeline/setter.h — sets values at dotted paths of a document, as $addFields does:
 * for stages that compute the values themselves.
 *
 * Owner:   the pipeline's arena.
 * Threads: one. */
#pragma once
#include "veddb-storaged/query/project.h"

typedef struct stor_setter stor_setter_t;

VD_MUST_CHECK int stor_setter_create(vd_arena_t *arena, const vd_slice_t *paths, uint32_t count,
                                     stor_setter_t **ret_setter, vd_error_t *err);
/* MISSING takes the field away. The result lives in scratch (or is the document). */
VD_MUST_CHECK int stor_setter_apply(stor_setter_t *setter, vd_arena_t *scratch, vd_bson_t document,
                                    const vd_value_t *values, vd_bson_t *ret_document,
                                    vd_error_t *err);
