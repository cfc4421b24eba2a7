/* veddb-gatewayd/commands/user_document.c — see user_document.h. */
#include "veddb-gatewayd/commands/user_document.h"

#include "libcommon/base/rand.h"

#define DOCUMENTS_BYTES_MAX (64u << 20)
#define DOCUMENTS_MAX       200000

static void put_key(vd_bb_t *bb, const char *name, const uint8_t *bytes, uint32_t len)
{
    char text[128];
    vd_bb_string(bb, name, vd_slice(text, gate_base64_encode(vd_slice(bytes, len), text)));
}

int gate_credentials_document(vd_arena_t *arena, vd_slice_t password, vd_bson_t *ret_document,
                              vd_error_t *err)
{
    gate_scram_credentials_t credentials;
    uint8_t salt[GATE_SCRAM_SALT_BYTES];
    vd_rand_secret(salt, sizeof salt);
    int rc =
        gate_scram_derive(password, salt, sizeof salt, GATE_SCRAM_ITERATIONS, &credentials, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 4096);
    vd_bb_begin_document(&bb, "SCRAM-SHA-256");
    vd_bb_int32(&bb, "iterationCount", (int32_t)credentials.iterations);
    put_key(&bb, "salt", credentials.salt, credentials.salt_len);
    put_key(&bb, "storedKey", credentials.stored_key, sizeof credentials.stored_key);
    put_key(&bb, "serverKey", credentials.server_key, sizeof credentials.server_key);
    vd_bb_close(&bb);
    return vd_bb_finish(&bb, ret_document, err);
}

/* Of a user whose identity others vouch for. */
static int external_document(vd_arena_t *arena, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 64);
    vd_bb_bool(&bb, "external", true);
    return vd_bb_finish(&bb, ret_document, err);
}

int gate_user_document(vd_arena_t *arena, vd_slice_t user, vd_slice_t db, vd_slice_t password,
                       vd_bson_t custom_data, vd_value_t restrictions, const gate_role_ref_t *roles,
                       uint32_t role_count, vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bson_t credentials;
    uint8_t id[16];
    int rc = password.len == 0 ? external_document(arena, &credentials, err)
                               : gate_credentials_document(arena, password, &credentials, err);
    if (rc != VD_OK)
        return rc;
    vd_rand_secret(id, sizeof id);
    id[6] = (uint8_t)((id[6] & 0x0F) | 0x40), id[8] = (uint8_t)((id[8] & 0x3F) | 0x80);
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_bb_cstr(&bb, "_id",
               vd_arena_printf(arena, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(user)));
    vd_bb_binary(&bb, "userId", 4, vd_slice(id, sizeof id));
    vd_bb_string(&bb, "user", user);
    vd_bb_string(&bb, "db", db);
    vd_bb_document(&bb, "credentials", credentials);
    if (custom_data.data != NULL)
        vd_bb_document(&bb, "customData", custom_data);
    if (!vd_value_is_missing(restrictions))
        vd_bb_value(&bb, VD_SLICE_LIT("authenticationRestrictions"), restrictions);
    gate_role_refs_print(roles, role_count, "roles", &bb);
    return vd_bb_finish(&bb, ret_document, err);
}

/* The first of writeErrors, or writeConcernError, as an error. */
static int write_error(vd_bson_t reply, vd_error_t *err)
{
    vd_value_t list = vd_bson_get(reply, "writeErrors"), first = VD_VALUE_MISSING;
    vd_slice_t name;
    if (list.type == VD_BSON_ARRAY && !vd_bson_first(vd_value_document(list), &name, &first))
        return VD_OK;
    if (first.type != VD_BSON_OBJECT)
        return VD_OK;
    int64_t code = 8;
    vd_value_t message = vd_bson_get(vd_value_document(first), "errmsg");
    (void)vd_value_as_int64(vd_bson_get(vd_value_document(first), "code"), &code); /* 8: unknown */
    vd_slice_t text =
        message.type == VD_BSON_STRING ? vd_value_string(message) : VD_SLICE_LIT("write failed");
    return vd_error_set(err, -(int)code, "%.*s", (int)(text.len < 400 ? text.len : 400), text.data);
}

int gate_internal_write(gate_t *gate, gate_call_t kind, vd_bson_t command, vd_buf_t *reply,
                        vd_error_t *err)
{
    vd_bson_t document;
    vd_buf_clear(reply);
    int rc = gate_internal_call(gate, kind, VD_SLICE_LIT("admin"), command, GATE_ADMIN_WAIT_MS,
                                reply, err);
    if (rc == VD_OK)
        rc = vd_bson_peek(vd_buf_slice(reply), &document, err);
    return rc != VD_OK ? rc : write_error(document, err);
}

int gate_internal_find(gate_t *gate, const char *collection, vd_bson_t filter, vd_arena_t *arena,
                       vd_bson_t **ret_documents, uint32_t *ret_count, vd_error_t *err)
{
    return gate_internal_find_within(gate, collection, filter, GATE_ADMIN_WAIT_MS, arena,
                                     ret_documents, ret_count, err);
}

int gate_internal_find_within(gate_t *gate, const char *collection, vd_bson_t filter,
                              uint64_t timeout_ms, vd_arena_t *arena, vd_bson_t **ret_documents,
                              uint32_t *ret_count, vd_error_t *err)
{
    vd_bb_t bb;
    vd_buf_t reply;
    vd_bson_t command, document, *documents = NULL;
    uint32_t count = 0, cap = 0;
    int64_t cursor = 0;
    int rc;
    vd_bb_init(&bb, VD_BSON_DOCUMENT_MAX_BYTES);
    vd_buf_init(&reply, VD_BSON_INTERNAL_MAX_BYTES);
    do {
        vd_bb_reset(&bb);
        if (cursor == 0) {
            vd_bb_cstr(&bb, "find", collection);
            vd_bb_document(&bb, "filter", filter);
            vd_bb_begin_document(&bb, "$readPreference"); /* on a secondary, too */
            vd_bb_cstr(&bb, "mode", "nearest");
            vd_bb_close(&bb);
        } else {
            vd_bb_int64(&bb, "getMore", cursor);
            vd_bb_cstr(&bb, "collection", collection);
        }
        vd_bb_int32(&bb, "batchSize", 1000);
        vd_bb_cstr(&bb, "$db", "admin");
        vd_buf_clear(&reply);
        rc = vd_bb_finish(&bb, &command, err);
        if (rc == VD_OK)
            rc = gate_internal_call(gate, GATE_CALL_IDEMPOTENT, VD_SLICE_LIT("admin"), command,
                                    timeout_ms, &reply, err);
        if (rc == VD_OK)
            rc = vd_bson_peek(vd_buf_slice(&reply), &document, err);
        if (rc != VD_OK)
            break;
        vd_value_t about = vd_bson_get(document, "cursor");
        vd_bson_t fields = about.type == VD_BSON_OBJECT ? vd_value_document(about) : VD_BSON_NONE;
        vd_value_t batch = vd_bson_get(fields, cursor == 0 ? "firstBatch" : "nextBatch");
        if (batch.type != VD_BSON_ARRAY || !vd_value_as_int64(vd_bson_get(fields, "id"), &cursor)) {
            rc = vd_error_set(err, VD_ERR_INTERNAL, "storage sent no cursor");
            break;
        }
        vd_bson_iter_t each;
        vd_bson_iter_init(&each, vd_value_document(batch));
        while (vd_bson_iter_next(&each)) {
            if (each.value.type != VD_BSON_OBJECT)
                continue;
            if (count >= DOCUMENTS_MAX || vd_arena_used(arena) > DOCUMENTS_BYTES_MAX) {
                rc = vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT,
                                  "too many users or roles for one reply");
                break;
            }
            if (count == cap) {
                cap = cap == 0 ? 16 : cap * 2;
                vd_bson_t *grown = VD_ARENA_ARRAY(arena, vd_bson_t, cap);
                if (count != 0)
                    memcpy(grown, documents, count * sizeof *grown);
                documents = grown;
            }
            vd_bson_t found = vd_value_document(each.value);
            documents[count++] =
                (vd_bson_t){vd_arena_copy(arena, found.data, found.len), found.len};
        }
    } while (rc == VD_OK && cursor != 0);
    vd_bb_done(&bb);
    vd_buf_done(&reply);
    if (rc == VD_OK)
        *ret_documents = documents, *ret_count = count;
    return rc;
}
