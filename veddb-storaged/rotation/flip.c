/* veddb-storaged/rotation/flip.c — see flip.h. */
#include "veddb-storaged/rotation/flip.h"

#include "libcommon/bson/view.h"
#include "veddb-storaged/catalog/rows.h"
#include "veddb-storaged/index/index_private.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/sessions.h"

#define COUNTERS_BYTES    24 /* rows "n" of the catalog: rows.c */
#define INDEX_STATE_BYTES 12 /* rows "k" */

/* The byte at `at` gets bits that nobody reads. */
static bool byte_change(vd_slice_t value, size_t at, uint8_t bits, vd_buf_t *out)
{
    uint8_t *to;
    if (value.len <= at || vd_buf_reserve(out, value.len, &to) != VD_OK)
        return false;
    memcpy(to, value.data, value.len);
    to[at] ^= bits;
    vd_buf_commit(out, value.len);
    return true;
}

/* A byte behind what the row says goes, or comes. */
static bool tail_change(vd_slice_t value, size_t len, vd_buf_t *out)
{
    if (value.len == len + 1)
        return vd_buf_append(out, value.data, len) == VD_OK;
    return value.len == len && vd_buf_append_slice(out, value) == VD_OK &&
           vd_buf_append_u8(out, 0) == VD_OK;
}

static bool document_change(vd_slice_t value, vd_buf_t *out)
{
    vd_bson_t document;
    return vd_bson_peek(value, &document, NULL) == VD_OK && tail_change(value, document.len, out);
}

static bool catalog_change(vd_slice_t key, vd_slice_t value, vd_buf_t *out)
{
    if (key.len > 0 && key.data[0] == 'n')
        return tail_change(value, COUNTERS_BYTES, out);
    if (key.len > 0 && key.data[0] == 'k')
        return tail_change(value, INDEX_STATE_BYTES, out);
    return document_change(value, out);
}

bool stor_rotation_flip(const char *table, vd_slice_t key, vd_slice_t value, vd_buf_t *out)
{
    if (table[0] != '\0' && table[1] == '-') {
        switch (table[0]) {
        case 'c': /* envelope.h */
        case 'i': /* index.h */
        case 'o': /* capped.h */
            return byte_change(value, 0, 1, out);
        case 'j':
            return byte_change(value, STOR_JOURNAL_SPARE_AT, 1, out);
        case 'b':
            return byte_change(value, 0, STOR_INDEX_LOG_SPARE, out);
        default:
            return false;
        }
    }
    if (strcmp(table, STOR_CATALOG_TABLE) == 0)
        return catalog_change(key, value, out);
    if (strcmp(table, STOR_SESSIONS_TABLE) == 0)
        return byte_change(value, STOR_SESSIONS_SPARE_AT, 1, out);
    if (strcmp(table, STOR_INDEX_GUARDS_TABLE) == 0)
        return byte_change(value, 0, 1, out);
    if (strcmp(table, "audit") == 0 || strcmp(table, "statistics") == 0)
        return document_change(value, out);
    return false; /* "load", runs of a sort: of a while, and of no table of theirs is much in memory
                   */
}
