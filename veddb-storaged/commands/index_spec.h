/* veddb-storaged/commands/index_spec.h — the specification of an index, checked as MongoDB checks
 * it, for createIndexes and for create's idIndex.
 *
 * Duty:    tells malformed ones (MongoDB's codes) from the one on _id, which every collection has,
 *          and from those that are right but not built yet.
 * Threads: the worker's; nothing is kept. */
#pragma once
#include "libcommon/bson/view.h"
#include "veddb-storaged/request.h"

/* {_id: 1} */
bool stor_index_is_id_key(vd_bson_t key);
/* VD_OK: a right specification, and *ret_is_id says whether it is the one on _id. ignore_unknown:
 * fields that no index knows are passed over. collation: the collection's, whole; NONE = simple. */
VD_MUST_CHECK int stor_index_spec_check(stor_request_t *request, vd_bson_t spec,
                                        bool ignore_unknown, vd_bson_t collation, bool *ret_is_id,
                                        vd_error_t *err);
/* As it is kept and listed: {v: 2, key, name, ...}, without what is of old drivers; with the
 * collation given when it names none. */
VD_MUST_CHECK int stor_index_spec_normalise(stor_request_t *request, vd_bson_t spec,
                                            vd_bson_t collation, vd_bson_t *ret_spec,
                                            vd_error_t *err);
/* Two normalised ones: *ret_same when they are one and the same index. 85, 86 when both can't be.
 */
VD_MUST_CHECK int stor_index_spec_conflict(stor_request_t *request, vd_bson_t wanted,
                                           vd_bson_t existing, bool *ret_same, vd_error_t *err);
