/* veddb-gatewayd/commands/admin.h — what the commands on users and roles share. On the worker. */
#pragma once
#include "veddb-gatewayd/commands/handlers.h"
#include "veddb-gatewayd/commands/user_document.h"

/* The first field as a name: a string, not empty, without NUL. */
VD_MUST_CHECK int gate_admin_name(const gate_request_t *request, const char *what,
                                  vd_slice_t *ret_name, vd_error_t *err);
/* Refuses fields that the command doesn't have. fields: NULL-terminated. */
VD_MUST_CHECK int gate_admin_fields(const gate_request_t *request, const char *const *fields,
                                    vd_error_t *err);
/* All custom roles. */
VD_MUST_CHECK int gate_admin_roles(gate_request_t *request, gate_role_set_t *ret_set,
                                   vd_error_t *err);
/* Reads the field "roles" and checks that each exists. required: it must be there. */
VD_MUST_CHECK int gate_admin_role_list(gate_request_t *request, bool required,
                                       const gate_role_set_t *set, gate_role_ref_t **ret_refs,
                                       uint32_t *ret_count, vd_error_t *err);
/* {update: collection, updates: [{q: {_id: id}, u: {$set: set}}]}; *ret_matched says how many there
 * were. */
VD_MUST_CHECK int gate_admin_set(gate_request_t *request, const char *collection, const char *id,
                                 vd_bson_t set, vd_bson_t unset, int64_t *ret_matched,
                                 vd_error_t *err);
VD_MUST_CHECK int gate_admin_insert(gate_request_t *request, const char *collection,
                                    vd_bson_t document, vd_error_t *err);
/* Deletes one; *ret_count says whether it was there. */
VD_MUST_CHECK int gate_admin_delete(gate_request_t *request, const char *collection, const char *id,
                                    int64_t *ret_count, vd_error_t *err);
/* Deletes those of one database; *ret_count says how many, without those that were deleted before
 * storage died on the way. */
VD_MUST_CHECK int gate_admin_delete_all(gate_request_t *request, const char *collection,
                                        vd_slice_t db, int64_t *ret_count, vd_error_t *err);
/* Takes a role (name empty: all of the database) out of every user and role. */
VD_MUST_CHECK int gate_admin_pull_role(gate_request_t *request, const char *collection,
                                       vd_slice_t role, vd_slice_t db, vd_error_t *err);
char *gate_admin_id(gate_request_t *request, vd_slice_t db, vd_slice_t name);
/* {name: value} in the request's arena. */
vd_bson_t gate_admin_filter(gate_request_t *request, const char *name, vd_slice_t value);
/* list + add, without doubles; and list - take. In place of *list. */
void gate_refs_add(vd_arena_t *arena, gate_role_ref_t **list, uint32_t *count,
                   const gate_role_ref_t *add, uint32_t add_count);
void gate_refs_take(gate_role_ref_t *list, uint32_t *count, const gate_role_ref_t *take,
                    uint32_t take_count);
