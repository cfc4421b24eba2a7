/* veddb-storaged/defaults.c — see defaults.h. */
#include "veddb-storaged/defaults.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/exec/scan.h"

#include <stdio.h>

struct stor_defaults {
    pthread_mutex_t lock;
    stor_defaults_values_t values;
    atomic_bool any; /* something is set: most have nothing to copy */
};

stor_defaults_t *stor_defaults_create(void)
{
    stor_defaults_t *defaults = vd_xalloc(sizeof *defaults);
    (void)pthread_mutex_init(&defaults->lock, NULL);
    return defaults;
}

void stor_defaults_destroy(stor_defaults_t **defaults_p)
{
    if (*defaults_p == NULL)
        return;
    (void)pthread_mutex_destroy(&(*defaults_p)->lock);
    vd_free(*defaults_p);
    *defaults_p = NULL;
}

void stor_defaults_get(stor_storage_t *storage, stor_defaults_values_t *ret_values)
{
    stor_defaults_t *defaults = storage->defaults;
    memset(ret_values, 0, sizeof *ret_values);
    if (defaults == NULL)
        return; /* unit tests without it */
    (void)pthread_mutex_lock(&defaults->lock);
    *ret_values = defaults->values;
    (void)pthread_mutex_unlock(&defaults->lock);
}

/* What was read under another default is not what this one would read. */
static void set(stor_storage_t *storage, const stor_defaults_values_t *values)
{
    stor_defaults_t *defaults = storage->defaults;
    (void)pthread_mutex_lock(&defaults->lock);
    const stor_defaults_values_t *before = &defaults->values;
    bool reads = before->has_read != values->has_read || strcmp(before->read, values->read) != 0;
    if (reads)
        stor_versions_all_begin(storage->versions);
    defaults->values = *values;
    atomic_store_explicit(&defaults->any, values->has_read || values->has_write,
                          memory_order_release);
    if (reads)
        stor_versions_all_end(storage->versions);
    (void)pthread_mutex_unlock(&defaults->lock);
}

/* ---- the document ---- */

static int write_w(vd_value_t w, stor_defaults_values_t *values, vd_error_t *err)
{
    stor_write_concern_t *concern = &values->write;
    int64_t n = 0;
    if (w.type == VD_BSON_STRING) {
        vd_slice_t mode = vd_value_string(w);
        concern->majority = vd_slice_is(mode, "majority");
        if (mode.len > STOR_DEFAULTS_MODE_MAX)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "the name of a write concern is too long");
        if (!concern->majority)
            (void)snprintf(values->mode, sizeof values->mode, "%.*s", VD_SLICE_FMT(mode));
        return VD_OK;
    }
    if (!vd_value_as_int64(w, &n))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "w has to be a number or string");
    if (n < 0 || n > 50)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "w has to be a non-negative number and not greater than 50; found: "
                            "%lld",
                            (long long)n);
    if (n == 0)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "Unacknowledged write concern is not suitable for the default write "
                            "concern");
    concern->w = n;
    return VD_OK;
}

int stor_defaults_parse_write(vd_bson_t document, stor_defaults_values_t *values, vd_error_t *err)
{
    stor_write_concern_t *concern = &values->write;
    vd_bson_iter_t iter;
    int rc = VD_OK;
    values->has_write = false;
    values->mode[0] = '\0';
    memset(concern, 0, sizeof *concern);
    vd_bson_iter_init(&iter, document);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        double ms = vd_value_is_number(iter.value) ? vd_value_as_double(iter.value) : 0;
        if (vd_slice_is(iter.name, "w")) {
            values->has_write = true;
            rc = write_w(iter.value, values, err);
        } else if (vd_slice_is(iter.name, "j")) {
            concern->journal = vd_value_as_flag(iter.value);
        } else if (vd_slice_is(iter.name, "wtimeout")) {
            concern->timeout_ms = ms > 0 ? ms < INT32_MAX ? (uint64_t)ms : INT32_MAX : 0;
        } else {
            rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                              "'%.*s' is not suitable for the default write concern",
                              VD_SLICE_FMT(iter.name));
        }
    }
    if (rc == VD_OK && !values->has_write)
        rc = vd_error_set(err, VD_ERR_BAD_VALUE,
                          "The default write concern must name a value for 'w'");
    concern->present = concern->has_w = values->has_write;
    return rc;
}

int stor_defaults_parse_read(vd_bson_t document, stor_defaults_values_t *values, vd_error_t *err)
{
    static const char *const good[] = {"local", "available", "majority"};
    vd_bson_iter_t iter;
    values->has_read = false;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter)) {
        vd_slice_t level =
            iter.value.type == VD_BSON_STRING ? vd_value_string(iter.value) : VD_SLICE_NULL;
        if (!vd_slice_is(iter.name, "level"))
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "'%.*s' is not suitable for the default read concern",
                                VD_SLICE_FMT(iter.name));
        for (size_t i = 0; i < VD_COUNT_OF(good); i++)
            if (vd_slice_is(level, good[i])) {
                (void)snprintf(values->read, sizeof values->read, "%s", good[i]);
                values->has_read = true;
            }
        if (!values->has_read)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "level: '%.*s' is not suitable for the default read concern",
                                VD_SLICE_FMT(level));
    }
    return VD_OK;
}

void stor_defaults_put(vd_bb_t *bb, const stor_defaults_values_t *values)
{
    const stor_write_concern_t *write = &values->write;
    if (values->has_read) {
        vd_bb_begin_document(bb, "defaultReadConcern");
        vd_bb_cstr(bb, "level", values->read);
        vd_bb_close(bb);
    }
    if (values->has_write) {
        vd_bb_begin_document(bb, "defaultWriteConcern");
        if (values->mode[0] != '\0')
            vd_bb_cstr(bb, "w", values->mode);
        else if (write->majority)
            vd_bb_cstr(bb, "w", "majority");
        else
            vd_bb_int32(bb, "w", (int32_t)write->w);
        if (write->journal)
            vd_bb_bool(bb, "j", true);
        vd_bb_int32(bb, "wtimeout", (int32_t)write->timeout_ms);
        vd_bb_close(bb);
    }
    if (values->update_wall_ms != 0) {
        vd_bb_timestamp(bb, "updateOpTime", values->update_time);
        vd_bb_date(bb, "updateWallClockTime", values->update_wall_ms);
    }
}

/* One that was written around the command, and can't be read, sets nothing. */
static void values_read(vd_bson_t document, stor_defaults_values_t *values)
{
    vd_value_t read = vd_bson_get(document, "defaultReadConcern");
    vd_value_t write = vd_bson_get(document, "defaultWriteConcern");
    vd_value_t time = vd_bson_get(document, "updateOpTime");
    vd_value_t wall = vd_bson_get(document, "updateWallClockTime");
    if (read.type == VD_BSON_OBJECT &&
        stor_defaults_parse_read(vd_value_document(read), values, NULL) != VD_OK)
        values->has_read = false;
    if (write.type == VD_BSON_OBJECT &&
        stor_defaults_parse_write(vd_value_document(write), values, NULL) != VD_OK)
        values->has_write = false;
    if (time.type == VD_BSON_TIMESTAMP)
        values->update_time = vd_value_timestamp(time);
    if (wall.type == VD_BSON_DATE)
        values->update_wall_ms = (int64_t)vd_get_u64(wall.data);
}

static int document_fetch(stor_request_t *request, vd_bson_t *ret_document, vd_error_t *err)
{
    stor_collection_t *collection;
    stor_record_t record;
    vd_slice_t key;
    int rc = stor_catalog_acquire(request, VD_SLICE_LIT("config"),
                                  VD_SLICE_LIT(STOR_DEFAULTS_COLLECTION), &collection, err);
    if (rc != VD_OK)
        return rc;
    rc = stor_id_key(request->arena,
                     vd_value_from_string(request->arena, VD_SLICE_LIT(STOR_DEFAULTS_ID)), &key,
                     err);
    if (rc == VD_OK)
        rc = stor_fetch(request, collection, key, &record, err);
    if (rc == VD_OK)
        *ret_document = record.document;
    stor_catalog_release(request, collection);
    return rc;
}

int stor_defaults_load(stor_storage_t *storage, stor_session_t *session, vd_error_t *err)
{
    stor_defaults_values_t values = {.loaded_wall_ms = vd_wall_ms()};
    vd_arena_t *arena = vd_arena_create();
    stor_request_t *request = vd_xalloc(sizeof *request);
    vd_bson_t document = VD_BSON_NONE;
    vd_error_t step = VD_ERROR_INIT;
    stor_request_init(request, storage, arena);
    request->session = session;
    int rc = document_fetch(request, &document, &step);
    if (rc == VD_OK)
        values_read(document, &values);
    if (rc == VD_ERR_NAMESPACE_NOT_FOUND || rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    if (rc == VD_OK)
        set(storage, &values);
    else if (err != NULL)
        vd_error_copy(&step, err);
    vd_free(request);
    vd_arena_destroy(&arena);
    return rc;
}

/* ---- requests ---- */

void stor_defaults_apply(stor_request_t *request, bool names_level)
{
    stor_defaults_t *defaults = request->storage->defaults;
    uint32_t flags = request->entry->flags;
    stor_write_concern_t *concern = &request->write_concern;
    bool writes = request->writes && !(concern->present && concern->has_w);
    bool reads = (flags & STOR_COMMAND_READ_CONCERN) != 0 && !names_level;
    if (VD_LIKELY(defaults == NULL || (!writes && !reads) || stor_request_internal(request) ||
                  !atomic_load_explicit(&defaults->any, memory_order_acquire)))
        return;
    stor_defaults_values_t values;
    stor_defaults_get(request->storage, &values);
    if (writes && values.has_write) {
        stor_write_concern_t own = *concern;
        *concern = values.write;
        concern->custom_default = true;
        concern->journal |= own.journal;
        if (own.timeout_ms != 0)
            concern->timeout_ms = own.timeout_ms;
        if (values.mode[0] != '\0')
            concern->mode = vd_arena_copy_slice(request->arena, vd_slice_str(values.mode));
    }
    if (reads && values.has_read && strcmp(values.read, "majority") == 0)
        request->read_level = STOR_READ_MAJORITY;
}
