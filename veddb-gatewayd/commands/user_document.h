/* veddb-gatewayd/commands/user_document.h — the stored form of users and roles, and the internal
 * reads and writes of them.
 *
 * Blocks:  on the administration worker only. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

#define GATE_ADMIN_WAIT_MS 30000

/* {_id, userId, user, db, credentials, customData?, roles}; derives the keys of the password;
 * without one the user logs in by certificate. */
VD_MUST_CHECK int gate_user_document(vd_arena_t *arena, vd_slice_t user, vd_slice_t db,
                                     vd_slice_t password, vd_bson_t custom_data,
                                     vd_value_t restrictions, const gate_role_ref_t *roles,
                                     uint32_t role_count, vd_bson_t *ret_document, vd_error_t *err);
/* {"SCRAM-SHA-256": {iterationCount, salt, storedKey, serverKey}} */
VD_MUST_CHECK int gate_credentials_document(vd_arena_t *arena, vd_slice_t password,
                                            vd_bson_t *ret_document, vd_error_t *err);

/* A write on the admin database; the first write error becomes the result. */
VD_MUST_CHECK int gate_internal_write(gate_t *gate, gate_call_t kind, vd_bson_t command,
                                      vd_buf_t *reply, vd_error_t *err);
/* All documents of admin.<collection> that match, copied into the arena. */
VD_MUST_CHECK int gate_internal_find(gate_t *gate, const char *collection, vd_bson_t filter,
                                     vd_arena_t *arena, vd_bson_t **ret_documents,
                                     uint32_t *ret_count, vd_error_t *err);
/* The same, waiting for storage at most so long. */
VD_MUST_CHECK int gate_internal_find_within(gate_t *gate, const char *collection, vd_bson_t filter,
                                            uint64_t timeout_ms, vd_arena_t *arena,
                                            vd_bson_t **ret_documents, uint32_t *ret_count,
                                            vd_error_t *err);
