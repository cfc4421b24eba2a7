/* veddb-gatewayd/commands/admin.c — see admin.h. */
#include "veddb-gatewayd/commands/admin.h"

static const char *const general_fields[] = {"$db",
                                             "lsid",
                                             "$clusterTime",
                                             "$readPreference",
                                             "writeConcern",
                                             "readConcern",
                                             "comment",
                                             "maxTimeMS",
                                             "apiVersion",
                                             "apiStrict",
                                             "apiDeprecationErrors",
                                             "txnNumber",
                                             "$audit",
                                             "$client",
                                             "$configServerState",
                                             NULL};

static bool listed(const char *const *list, vd_slice_t name)
{
    for (; *list != NULL; list++) {
        if (vd_slice_is(name, *list))
            return true;
    }
    return false;
}

int gate_admin_fields(const gate_request_t *request, const char *const *fields, vd_error_t *err)
{
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, gate_request_body(request));
    (void)vd_bson_iter_next(&each); /* the command itself */
    while (vd_bson_iter_next(&each)) {
        if (!listed(general_fields, each.name) && !listed(fields, each.name))
            return vd_error_set(err, VD_ERR_LOCATION(40415),
                                "BSON field '%s.%.*s' is an unknown field.", request->command->name,
                                (int)(each.name.len < 100 ? each.name.len : 100), each.name.data);
    }
    return VD_OK;
}

static bool has_nul(vd_slice_t s)
{
    return s.len != 0 && memchr(s.data, 0, s.len) != NULL;
}

int gate_admin_name(const gate_request_t *request, const char *what, vd_slice_t *ret_name,
                    vd_error_t *err)
{
    if (request->first.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s.%s' is the wrong type '%s', expected type 'string'",
                            request->command->name, request->command->name,
                            vd_bson_type_name(request->first.type));
    vd_slice_t name = vd_value_string(request->first);
    if (name.len == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s name must be non-empty", what);
    if (has_nul(name) || name.len > GATE_SCRAM_NAME_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "%s name must be shorter than %d bytes and without NUL", what,
                            GATE_SCRAM_NAME_MAX);
    *ret_name = name;
    return VD_OK;
}

char *gate_admin_id(gate_request_t *request, vd_slice_t db, vd_slice_t name)
{
    return vd_arena_printf(request->arena, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name));
}

vd_bson_t gate_admin_filter(gate_request_t *request, const char *name, vd_slice_t value)
{
    vd_bb_t bb;
    vd_bson_t filter;
    vd_bb_init_arena(&bb, request->arena, 64 * 1024);
    vd_bb_string(&bb, name, value);
    VD_ASSERT(vd_bb_finish(&bb, &filter, NULL) == VD_OK); /* names are bounded */
    return filter;
}

int gate_admin_roles(gate_request_t *request, gate_role_set_t *ret_set, vd_error_t *err)
{
    vd_bson_t *documents;
    uint32_t count;
    int rc = gate_internal_find(request->thread->gate, "system.roles", VD_BSON_NONE, request->arena,
                                &documents, &count, err);
    if (rc != VD_OK)
        return rc;
    gate_role_t *items = VD_ARENA_ARRAY(request->arena, gate_role_t, count + 1);
    for (uint32_t i = 0; i < count && rc == VD_OK; i++)
        rc = gate_role_parse(request->arena, documents[i], &items[i], err);
    *ret_set = (gate_role_set_t){items, count};
    return rc;
}

int gate_admin_role_list(gate_request_t *request, bool required, const gate_role_set_t *set,
                         gate_role_ref_t **ret_refs, uint32_t *ret_count, vd_error_t *err)
{
    vd_value_t list = vd_bson_get(gate_request_body(request), "roles");
    *ret_refs = NULL, *ret_count = 0;
    if (vd_value_is_missing(list) && !required)
        return VD_OK;
    if (vd_value_is_missing(list))
        return vd_error_set(err, VD_ERR_LOCATION(40414),
                            "BSON field '%s.roles' is missing but a required field",
                            request->command->name);
    int rc = gate_role_refs_parse(request->arena, list, request->db, ret_refs, ret_count, err);
    for (uint32_t i = 0; i < *ret_count && rc == VD_OK; i++) {
        gate_role_ref_t ref = (*ret_refs)[i];
        bool internal = vd_slice_is(ref.role, "__system");
        if (internal || (!gate_role_is_builtin(ref) && gate_role_find(set, ref) == NULL))
            rc = vd_error_set(err, VD_ERR_ROLE_NOT_FOUND, "Could not find role: %.*s@%.*s",
                              VD_SLICE_FMT(ref.role), VD_SLICE_FMT(ref.db));
    }
    return rc;
}

/* ---- writes ---- */

static int write(gate_request_t *request, gate_call_t kind, vd_bb_t *bb, int64_t *ret_n,
                 vd_error_t *err)
{
    vd_buf_t reply;
    vd_bson_t command, document;
    vd_bb_cstr(bb, "$db", "admin");
    vd_buf_init(&reply, VD_BSON_INTERNAL_MAX_BYTES);
    int rc = vd_bb_finish(bb, &command, err);
    if (rc == VD_OK)
        rc = gate_internal_write(request->thread->gate, kind, command, &reply, err);
    if (rc == VD_OK)
        rc = vd_bson_peek(vd_buf_slice(&reply), &document, err);
    if (rc == VD_OK && ret_n != NULL && !vd_value_as_int64(vd_bson_get(document, "n"), ret_n))
        *ret_n = 0;
    if (rc == VD_OK)
        gate_users_forget_all(request->thread->gate);
    vd_buf_done(&reply);
    return rc;
}

int gate_admin_insert(gate_request_t *request, const char *collection, vd_bson_t document,
                      vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_cstr(&bb, "insert", collection);
    vd_bb_begin_array(&bb, "documents");
    vd_bb_document(&bb, "0", document);
    vd_bb_close(&bb);
    return write(request, GATE_CALL_ONCE, &bb, NULL, err);
}

int gate_admin_set(gate_request_t *request, const char *collection, const char *id, vd_bson_t set,
                   vd_bson_t unset, int64_t *ret_matched, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_cstr(&bb, "update", collection);
    vd_bb_begin_array(&bb, "updates");
    vd_bb_begin_document(&bb, "0");
    vd_bb_begin_document(&bb, "q");
    vd_bb_cstr(&bb, "_id", id);
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "u");
    if (!vd_bson_is_empty(set))
        vd_bb_document(&bb, "$set", set);
    if (!vd_bson_is_empty(unset))
        vd_bb_document(&bb, "$unset", unset);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    return write(request, GATE_CALL_ONCE, &bb, ret_matched, err);
}

static int delete_from(gate_request_t *request, const char *collection, vd_bson_t filter, bool one,
                       int64_t *ret_count, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_cstr(&bb, "delete", collection);
    vd_bb_begin_array(&bb, "deletes");
    vd_bb_begin_document(&bb, "0");
    vd_bb_document(&bb, "q", filter);
    vd_bb_int32(&bb, "limit", one);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    return write(request, one ? GATE_CALL_ONCE : GATE_CALL_IDEMPOTENT, &bb, ret_count, err);
}

int gate_admin_delete(gate_request_t *request, const char *collection, const char *id,
                      int64_t *ret_count, vd_error_t *err)
{
    return delete_from(request, collection, gate_admin_filter(request, "_id", vd_slice_str(id)),
                       true, ret_count, err);
}

int gate_admin_delete_all(gate_request_t *request, const char *collection, vd_slice_t db,
                          int64_t *ret_count, vd_error_t *err)
{
    return delete_from(request, collection, gate_admin_filter(request, "db", db), false, ret_count,
                       err);
}

int gate_admin_pull_role(gate_request_t *request, const char *collection, vd_slice_t role,
                         vd_slice_t db, vd_error_t *err)
{
    vd_bb_t bb, match;
    vd_bson_t one;
    vd_bb_init_arena(&match, request->arena, 64 * 1024);
    if (role.len != 0)
        vd_bb_string(&match, "role", role);
    vd_bb_string(&match, "db", db);
    int rc = vd_bb_finish(&match, &one, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_init_arena(&bb, request->arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_cstr(&bb, "update", collection);
    vd_bb_begin_array(&bb, "updates");
    vd_bb_begin_document(&bb, "0");
    vd_bb_begin_document(&bb, "q");
    vd_bb_begin_document(&bb, "roles");
    vd_bb_document(&bb, "$elemMatch", one);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_begin_document(&bb, "u");
    vd_bb_begin_document(&bb, "$pull");
    vd_bb_document(&bb, "roles", one);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_bool(&bb, "multi", true);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    return write(request, GATE_CALL_IDEMPOTENT, &bb, NULL, err);
}

/* ---- lists of roles ---- */

void gate_refs_add(vd_arena_t *arena, gate_role_ref_t **list, uint32_t *count,
                   const gate_role_ref_t *add, uint32_t add_count)
{
    gate_role_ref_t *joined = VD_ARENA_ARRAY(arena, gate_role_ref_t, *count + add_count + 1);
    uint32_t n = 0;
    for (uint32_t i = 0; i < *count + add_count; i++) {
        gate_role_ref_t ref = i < *count ? (*list)[i] : add[i - *count];
        bool there = false;
        for (uint32_t k = 0; k < n && !there; k++)
            there = gate_role_ref_equal(joined[k], ref);
        if (!there)
            joined[n++] = ref;
    }
    *list = joined, *count = n;
}

void gate_refs_take(gate_role_ref_t *list, uint32_t *count, const gate_role_ref_t *take,
                    uint32_t take_count)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < *count; i++) {
        bool taken = false;
        for (uint32_t k = 0; k < take_count && !taken; k++)
            taken = gate_role_ref_equal(list[i], take[k]);
        if (!taken)
            list[n++] = list[i];
    }
    *count = n;
}
