/* veddb-storaged/commands/validate_capped.c — see validate_capped.h. */
#include "veddb-storaged/commands/validate_capped.h"

#include "veddb-storaged/capped.h"

#define STRETCH_ROWS 1000 /* of a transaction */

typedef struct {
    stor_request_t *request;
    const stor_collection_t *collection;
    stor_cursor_t *places, *documents;
    stor_validate_capped_t *found;
} look_t;

/* A row of the table that is walked: its partner is looked for in the other one. */
typedef int look_row_t(look_t *look, vd_slice_t key, vd_slice_t value, vd_error_t *err);

static int place_look(look_t *look, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    vd_slice_t record, stored;
    uint64_t place, version;
    vd_bson_t document;
    look->found->places++;
    int rc = stor_capped_row(key, value, &place, &record, NULL);
    if (rc == VD_OK)
        rc = stor_cursor_search(look->documents, record, &stored, err);
    if (rc == VD_OK)
        rc = stor_envelope_read(stored, &document, &version, NULL);
    bool good = rc == VD_OK && stor_envelope_place(stored) == place;
    bool told = rc == VD_ERR_NOT_FOUND || rc == VD_ERR_CORRUPT;
    look->found->empty += !good && (rc == VD_OK || told);
    if (told)
        vd_error_clear(err);
    return told ? VD_OK : rc;
}

static int document_look(look_t *look, vd_slice_t key, vd_slice_t value, vd_error_t *err)
{
    uint8_t place[STOR_PLACE_BYTES];
    vd_slice_t row, record;
    uint64_t version, of;
    vd_bson_t document;
    if (stor_envelope_read(value, &document, &version, NULL) != VD_OK)
        return VD_OK; /* told by those who look at the documents */
    stor_capped_key(stor_envelope_place(value), place);
    int rc = stor_cursor_search(look->places, vd_slice(place, sizeof place), &row, err);
    bool good = rc == VD_OK &&
                stor_capped_row(vd_slice(place, sizeof place), row, &of, &record, NULL) == VD_OK &&
                vd_slice_equal(record, key);
    look->found->missing += !good && (rc == VD_OK || rc == VD_ERR_NOT_FOUND);
    if (rc == VD_ERR_NOT_FOUND) {
        vd_error_clear(err);
        rc = VD_OK;
    }
    return rc;
}

static int stretch(look_t *look, stor_cursor_t *walked, look_row_t *row, vd_buf_t *last,
                   bool *ret_done, vd_error_t *err)
{
    vd_slice_t key, value;
    vd_error_t step = VD_ERROR_INIT;
    bool began = vd_buf_len(last) > 0;
    int rc = began ? stor_cursor_seek(walked, vd_buf_slice(last), true, &key, &value, &step)
                   : stor_cursor_next(walked, true, &key, &value, &step);
    if (rc == VD_OK && began && vd_slice_equal(key, vd_buf_slice(last)))
        rc = stor_cursor_next(walked, true, &key, &value, &step);
    for (uint32_t i = 0; rc == VD_OK; i++) {
        rc = stor_request_check(look->request, &step);
        vd_buf_clear(last);
        if (rc == VD_OK)
            rc = vd_buf_append_slice(last, key);
        if (rc == VD_OK)
            rc = row(look, key, value, &step);
        if (rc != VD_OK || i + 1 == STRETCH_ROWS)
            break;
        rc = stor_cursor_next(walked, true, &key, &value, &step);
    }
    *ret_done = rc == VD_ERR_NOT_FOUND;
    if (rc != VD_OK && !*ret_done && err != NULL)
        vd_error_copy(&step, err);
    return *ret_done ? VD_OK : rc;
}

static int walk(look_t *look, bool places, vd_error_t *err)
{
    stor_session_t *session = look->request->session;
    bool done = false;
    int rc = VD_OK;
    vd_buf_t last;
    vd_buf_init(&last, VD_KEYCODE_MAX_BYTES);
    while (rc == VD_OK && !done) {
        rc = stor_txn_begin(session, err);
        if (rc != VD_OK)
            break;
        rc = stor_cursor_open(session, look->collection->capped.table, &look->places, err);
        if (rc == VD_OK)
            rc = stor_cursor_open(session, look->collection->table, &look->documents, err);
        if (rc == VD_OK)
            rc = stretch(look, places ? look->places : look->documents,
                         places ? place_look : document_look, &last, &done, err);
        stor_txn_rollback(session); /* it only read */
    }
    vd_buf_done(&last);
    return rc;
}

int stor_validate_capped(stor_request_t *request, const stor_collection_t *collection,
                         stor_validate_capped_t *ret, vd_error_t *err)
{
    look_t look = {.request = request, .collection = collection, .found = ret};
    int rc = walk(&look, true, err);
    return rc == VD_OK ? walk(&look, false, err) : rc;
}
