/* veddb-storaged/capped.c — see capped.h. */
#include "veddb-storaged/capped.h"

#define FILL_GROUP      1000 /* rows of a transaction */
#define ROW_HEAD_BYTES  1    /* the epoch */
#define DOCUMENTS_MAX   INT32_MAX
#define SIZE_STEP_BYTES 256

void stor_capped_key(uint64_t place, uint8_t ret_key[STOR_PLACE_BYTES])
{
    for (int i = STOR_PLACE_BYTES - 1; i >= 0; i--, place >>= 8)
        ret_key[i] = (uint8_t)place;
}

int stor_capped_row(vd_slice_t key, vd_slice_t value, uint64_t *ret_place, vd_slice_t *ret_record,
                    vd_error_t *err)
{
    if (key.len != STOR_PLACE_BYTES || value.len <= ROW_HEAD_BYTES)
        return vd_error_set(err, VD_ERR_CORRUPT, "a place of a capped collection is malformed");
    *ret_place = 0;
    for (size_t i = 0; i < STOR_PLACE_BYTES; i++)
        *ret_place = *ret_place << 8 | key.data[i];
    *ret_record = vd_slice(value.data + ROW_HEAD_BYTES, value.len - ROW_HEAD_BYTES);
    return VD_OK;
}

static int row_write(stor_session_t *session, const stor_collection_t *collection, uint64_t place,
                     vd_slice_t record, bool again, vd_error_t *err)
{
    uint8_t key[STOR_PLACE_BYTES], value[ROW_HEAD_BYTES + VD_KEYCODE_MAX_BYTES];
    stor_cursor_t *cursor;
    VD_ASSERT(place != 0);
    if (record.len > VD_KEYCODE_MAX_BYTES)
        return vd_error_set(err, VD_ERR_CORRUPT, "a stored key is too long");
    stor_capped_key(place, key);
    value[0] = 0;
    memcpy(value + ROW_HEAD_BYTES, record.data, record.len);
    int rc = stor_cursor_open(session, collection->capped.table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    vd_slice_t k = vd_slice(key, sizeof key), v = vd_slice(value, ROW_HEAD_BYTES + record.len);
    rc = again ? stor_cursor_put(cursor, k, v, err) : stor_cursor_insert(cursor, k, v, err);
    if (rc != VD_ERR_DUPLICATE_KEY)
        return rc;
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_INTERNAL, "two documents in one place of a capped collection");
}

int stor_capped_put(stor_session_t *session, const stor_collection_t *collection, uint64_t place,
                    vd_slice_t key, vd_error_t *err)
{
    return row_write(session, collection, place, key, false, err);
}

int stor_capped_remove(stor_session_t *session, const stor_collection_t *collection, uint64_t place,
                       vd_error_t *err)
{
    uint8_t key[STOR_PLACE_BYTES];
    stor_cursor_t *cursor;
    stor_capped_key(place, key);
    int rc = stor_cursor_open(session, collection->capped.table, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_remove(cursor, vd_slice(key, sizeof key), err);
    if (rc != VD_ERR_NOT_FOUND)
        return rc;
    vd_error_clear(err);
    return vd_error_set(err, VD_ERR_CORRUPT, "a document of a capped collection has no place");
}

int stor_capped_first(stor_session_t *session, const stor_collection_t *collection, uint64_t from,
                      vd_arena_t *arena, uint64_t *ret_place, vd_slice_t *ret_key, vd_error_t *err)
{
    uint8_t start[STOR_PLACE_BYTES];
    stor_cursor_t *cursor;
    vd_slice_t key, value, record;
    stor_capped_key(from, start);
    int rc = stor_cursor_open(session, collection->capped.table, &cursor, err);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(start, sizeof start), true, &key, &value, err);
    if (rc == VD_OK)
        rc = stor_capped_row(key, value, ret_place, &record, err);
    if (rc == VD_OK)
        *ret_key = vd_arena_copy_slice(arena, record);
    return rc;
}

/* ---- a load ---- */

static int fill_group(stor_request_t *request, const stor_collection_t *collection,
                      stor_cursor_t *documents, vd_buf_t *last, bool *ret_done, vd_error_t *err)
{
    vd_slice_t key, value;
    vd_error_t step = VD_ERROR_INIT;
    bool began = vd_buf_len(last) > 0;
    int rc = began ? stor_cursor_seek(documents, vd_buf_slice(last), true, &key, &value, &step)
                   : stor_cursor_next(documents, true, &key, &value, &step);
    if (rc == VD_OK && began && vd_slice_equal(key, vd_buf_slice(last)))
        rc = stor_cursor_next(documents, true, &key, &value, &step);
    for (uint32_t i = 0; rc == VD_OK; i++) {
        rc = stor_request_check(request, &step);
        if (rc == VD_OK)
            rc = row_write(request->session, collection, stor_envelope_place(value), key, true,
                           &step);
        if (rc != VD_OK)
            break;
        vd_buf_clear(last);
        rc = vd_buf_append_slice(last, key);
        if (i + 1 == FILL_GROUP)
            break;
        if (rc == VD_OK)
            rc = stor_cursor_next(documents, true, &key, &value, &step);
    }
    *ret_done = rc == VD_ERR_NOT_FOUND;
    if (rc != VD_OK && !*ret_done && err != NULL)
        vd_error_copy(&step, err);
    return *ret_done ? VD_OK : rc;
}

int stor_capped_fill(stor_request_t *request, const stor_collection_t *collection, vd_error_t *err)
{
    stor_session_t *session = request->session;
    bool done = false;
    int rc = VD_OK;
    vd_buf_t last;
    vd_buf_init(&last, VD_KEYCODE_MAX_BYTES);
    while (rc == VD_OK && !done) {
        stor_cursor_t *documents;
        rc = stor_txn_begin(session, err);
        if (rc != VD_OK)
            break;
        rc = stor_cursor_open(session, collection->table, &documents, err);
        if (rc == VD_OK)
            rc = fill_group(request, collection, documents, &last, &done, err);
        if (rc == VD_OK)
            rc = stor_txn_commit(session, err);
        else
            stor_txn_rollback(session);
    }
    vd_buf_done(&last);
    return rc;
}

/* ---- options ---- */

static int whole_number(vd_value_t given, const char *field, int64_t *ret, vd_error_t *err)
{
    if (!vd_value_is_number(given))
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field '%s' is the wrong type '%s', expected types '[long, int, "
                            "decimal, double]'",
                            field, vd_bson_type_name(given.type));
    double number = vd_value_as_double(given);
    if (!vd_value_as_int64(given, ret)) /* a fraction, or what no 64 bits hold */
        *ret = number >= 9.2e18 ? INT64_MAX : number <= -9.2e18 ? INT64_MIN : (int64_t)number;
    return VD_OK;
}

int stor_capped_size_check(vd_value_t given, const char *field, int64_t *ret_size, vd_error_t *err)
{
    int64_t size;
    int rc = whole_number(given, field, &size, err);
    if (rc != VD_OK)
        return rc;
    if (size < 1)
        return vd_error_set(err, VD_ERR_LOCATION(51024),
                            "BSON field '%s' value must be >= 1, actual value '%lld'", field,
                            (long long)size);
    if (size > STOR_CAPPED_SIZE_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(51024),
                            "BSON field '%s' value must be <= %lld, actual value '%lld'", field,
                            (long long)STOR_CAPPED_SIZE_MAX, (long long)size);
    *ret_size = (size + SIZE_STEP_BYTES - 1) / SIZE_STEP_BYTES * SIZE_STEP_BYTES;
    return VD_OK;
}

int stor_capped_max_check(vd_value_t given, const char *field, int64_t *ret_max, vd_error_t *err)
{
    int64_t max;
    int rc = whole_number(given, field, &max, err);
    if (rc != VD_OK)
        return rc;
    if (max > DOCUMENTS_MAX)
        return vd_error_set(err, VD_ERR_LOCATION(51024),
                            "BSON field '%s' value must be < 2147483648, actual value '%lld'",
                            field, (long long)max);
    *ret_max = max <= 0 ? DOCUMENTS_MAX : max;
    return VD_OK;
}
