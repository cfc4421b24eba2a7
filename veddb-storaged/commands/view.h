/* veddb-storaged/commands/view.h — views: what create and collMod check, and reads of them.
 *
 * Duty:    a view is a row of the catalog with a collection (or view) and stages. A read of it is
 *          an aggregation on that collection with the view's stages in front; everything else is
 *          refused where the collection would be acquired (166).
 * Owner:   results live in the request's arena.
 * Threads: the worker's. */
#pragma once
#include "veddb-storaged/commands/read_common.h"

bool stor_view_is(stor_request_t *request, vd_slice_t name);
/* Options of a view, checked: stages that parse and do not write (167), no cycle (5), not too deep
 * (165), of the collation that the views below it have (167). pipeline may be NONE; collation:
 * whole, NONE = simple. */
VD_MUST_CHECK int stor_view_options(stor_request_t *request, vd_slice_t name, vd_slice_t on,
                                    vd_bson_t pipeline, vd_bson_t collation, vd_bson_t *ret_options,
                                    vd_error_t *err);
/* The view is there with these options. */
bool stor_view_same(stor_request_t *request, vd_slice_t name, vd_bson_t options);
/* A read as an aggregate command. batch_size < 0: not given. */
VD_MUST_CHECK int stor_view_command(stor_request_t *request, vd_slice_t name,
                                    const stor_query_parts_t *parts, int64_t batch_size,
                                    vd_bson_t *ret_command, vd_error_t *err);
/* The documents that the parts choose. */
VD_MUST_CHECK int stor_view_open(stor_request_t *request, vd_slice_t name,
                                 const stor_query_parts_t *parts, stor_pipeline_t **ret_pipeline,
                                 vd_error_t *err);
/* find and count into the reply. */
VD_MUST_CHECK int stor_view_find(stor_request_t *request, vd_slice_t name,
                                 const stor_query_parts_t *parts, int64_t batch_size,
                                 bool single_batch, vd_error_t *err);
VD_MUST_CHECK int stor_view_count(stor_request_t *request, vd_slice_t name,
                                  const stor_query_parts_t *parts, vd_error_t *err);
