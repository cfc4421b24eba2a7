/* veddb-storaged/plan/needs.h — which paths of a document somebody reads who stands behind a query.
 *
 * Duty:    read off the specifications, as they were given: of a find's projection, of expressions,
 *          of the stages behind a pipeline's head. What it does not know reads everything. Pure.
 * Owner:   arena; paths are borrowed from the specifications. */
#pragma once
#include "veddb-storaged/plan/cover.h"

void stor_needs_of_projection(vd_arena_t *arena, vd_bson_t projection, stor_needs_t *ret);
/* Of the stages from position `from` on, up to the first that makes new documents. */
void stor_needs_of_stages(vd_arena_t *arena, vd_bson_t stages, uint32_t from, stor_needs_t *ret);
