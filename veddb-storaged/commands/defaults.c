/* veddb-storaged/commands/defaults.c — setDefaultRWConcern, getDefaultRWConcern. */
#include "veddb-storaged/defaults.h"

#include "libcommon/base/clock.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/write.h"

typedef struct {
    vd_value_t read, write;
    bool in_memory;
} defaults_args_t;

static void put_reply(stor_request_t *request, const stor_defaults_values_t *values)
{
    vd_bb_t *bb = &request->reply;
    if (!values->has_read) {
        vd_bb_begin_document(bb, "defaultReadConcern");
        vd_bb_cstr(bb, "level", "local");
        vd_bb_close(bb);
    }
    if (!values->has_write) {
        vd_bb_begin_document(bb, "defaultWriteConcern");
        vd_bb_cstr(bb, "w", "majority");
        vd_bb_int32(bb, "wtimeout", 0);
        vd_bb_close(bb);
    }
    stor_defaults_put(bb, values);
    vd_bb_cstr(bb, "defaultWriteConcernSource", values->has_write ? "global" : "implicit");
    vd_bb_cstr(bb, "defaultReadConcernSource", values->has_read ? "global" : "implicit");
    vd_bb_date(bb, "localUpdateWallClockTime",
               values->loaded_wall_ms != 0 ? values->loaded_wall_ms
                                           : request->storage->started_wall_ms);
}

int stor_command_get_default_rw_concern(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("inMemory", STOR_ARG_BOOL, defaults_args_t, in_memory, 0),
    };
    defaults_args_t args = {.in_memory = false};
    stor_defaults_values_t values;
    int rc = stor_args_parse(request->body, "getDefaultRWConcern", true, table, VD_COUNT_OF(table),
                             &args, err);
    if (rc == VD_OK && !args.in_memory)
        rc = stor_defaults_load(request->storage, request->session, err);
    if (rc != VD_OK)
        return rc;
    stor_defaults_get(request->storage, &values);
    put_reply(request, &values);
    return VD_OK;
}

static int document_of(vd_value_t v, const char *name, vd_bson_t *ret, vd_error_t *err)
{
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'setDefaultRWConcern.%s' is the wrong type '%s', expected "
                            "type 'object'",
                            name, vd_bson_type_name(v.type));
    *ret = vd_value_document(v);
    return VD_OK;
}

/* What is asked for over what is set; {} takes a read concern back. */
static int values_change(const defaults_args_t *args, stor_defaults_values_t *values,
                         vd_error_t *err)
{
    vd_bson_t document;
    int rc = VD_OK;
    if (vd_value_is_nullish(args->read) && vd_value_is_nullish(args->write))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "At least one of the \"defaultReadConcern\" or "
                            "\"defaultWriteConcern\" fields must be present");
    if (!vd_value_is_nullish(args->read)) {
        rc = document_of(args->read, "defaultReadConcern", &document, err);
        if (rc == VD_OK)
            rc = stor_defaults_parse_read(document, values, err);
    }
    if (rc != VD_OK || vd_value_is_nullish(args->write))
        return rc;
    rc = document_of(args->write, "defaultWriteConcern", &document, err);
    if (rc == VD_OK && vd_bson_is_empty(document))
        return !values->has_write
                   ? VD_OK
                   : vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                                  "The global default write concern cannot be unset once it is "
                                  "set.");
    return rc == VD_OK ? stor_defaults_parse_write(document, values, err) : rc;
}

static int document_make(stor_request_t *request, const stor_defaults_values_t *values,
                         vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(request->arena, sizeof *bb);
    vd_bb_init_arena(bb, request->arena, 4096);
    vd_bb_cstr(bb, "_id", STOR_DEFAULTS_ID);
    stor_defaults_put(bb, values);
    return vd_bb_finish(bb, ret_document, err);
}

static int write_try(stor_write_t *write, vd_slice_t key, vd_bson_t document, vd_error_t *err)
{
    stor_record_t old;
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_write_begin(write, &step);
    if (rc == VD_OK) {
        rc = stor_write_read(write, key, &old, &step);
        if (rc == VD_OK)
            rc = stor_write_replace(write, &old, document, -1, &step);
        else if (rc == VD_ERR_NOT_FOUND)
            rc = stor_write_insert(write, key, document, -1, &step);
        if (rc == VD_OK)
            rc = stor_write_commit(write, &step);
        else
            stor_write_rollback(write);
    }
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int document_write(stor_request_t *request, vd_bson_t document, vd_error_t *err)
{
    stor_collection_t *collection;
    stor_write_t write;
    vd_slice_t key;
    int rc = stor_id_key(request->arena, vd_bson_get(document, "_id"), &key, err);
    if (rc == VD_OK)
        rc = stor_catalog_acquire_or_create(request, VD_SLICE_LIT("config"),
                                            VD_SLICE_LIT(STOR_DEFAULTS_COLLECTION), &collection,
                                            err);
    if (rc != VD_OK)
        return rc;
    stor_write_init(&write, request, collection);
    for (;;) {
        rc = write_try(&write, key, document, err);
        if (rc != VD_ERR_WRITE_CONFLICT)
            break;
        vd_error_clear(err);
        rc = stor_write_backoff(&write, err);
        if (rc != VD_OK)
            break;
    }
    stor_write_done(&write);
    stor_catalog_release(request, collection);
    return rc;
}

int stor_command_set_default_rw_concern(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("defaultReadConcern", STOR_ARG_VALUE, defaults_args_t, read, 0),
        STOR_ARG("defaultWriteConcern", STOR_ARG_VALUE, defaults_args_t, write, 0),
    };
    defaults_args_t args = {.read = VD_VALUE_MISSING, .write = VD_VALUE_MISSING};
    stor_defaults_values_t values;
    vd_bson_t document;
    int rc = stor_args_parse(request->body, "setDefaultRWConcern", true, table, VD_COUNT_OF(table),
                             &args, err);
    if (rc == VD_OK)
        rc = stor_defaults_load(request->storage, request->session, err);
    if (rc != VD_OK)
        return rc;
    stor_defaults_get(request->storage, &values);
    rc = values_change(&args, &values, err);
    values.update_time = stor_engine_newest(request->storage->engine);
    values.update_wall_ms = vd_wall_ms();
    if (rc == VD_OK)
        rc = document_make(request, &values, &document, err);
    if (rc == VD_OK)
        rc = document_write(request, document, err);
    if (rc == VD_OK)
        rc = stor_defaults_load(request->storage, request->session, err);
    if (rc != VD_OK)
        return rc;
    stor_defaults_get(request->storage, &values);
    put_reply(request, &values);
    return VD_OK;
}
