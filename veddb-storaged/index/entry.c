/* veddb-storaged/index/entry.c — the form of entries, and of the log of a build. */
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/index/index_private.h"

#include <stdio.h>

#define FLAG_ID      1u
#define FLAG_INEXACT 2u
#define MESSAGE_MAX  600 /* bytes of values in a message */

vd_slice_t stor_index_entry_key(vd_arena_t *arena, const stor_index_def_t *def, vd_slice_t fields,
                                vd_slice_t id_key)
{
    if (def->unique)
        return fields;
    uint8_t *bytes = vd_arena_alloc(arena, fields.len + id_key.len);
    memcpy(bytes, fields.data, fields.len);
    memcpy(bytes + fields.len, id_key.data, id_key.len);
    return vd_slice(bytes, fields.len + id_key.len);
}

vd_slice_t stor_index_entry_value(vd_arena_t *arena, const stor_index_def_t *def,
                                  const stor_index_key_t *key, vd_slice_t id_key)
{
    size_t id_len = def->unique ? 2 + id_key.len : 0;
    uint8_t *bytes = vd_arena_alloc(arena, 2 + id_len + key->type_bits.len);
    bytes[0] = 0;
    bytes[1] = (uint8_t)((def->unique ? FLAG_ID : 0) | (key->exact ? 0 : FLAG_INEXACT));
    if (def->unique) {
        bytes[2] = (uint8_t)(id_key.len >> 8);
        bytes[3] = (uint8_t)id_key.len;
        memcpy(bytes + 4, id_key.data, id_key.len);
    }
    if (key->type_bits.len > 0)
        memcpy(bytes + 2 + id_len, key->type_bits.data, key->type_bits.len);
    return vd_slice(bytes, 2 + id_len + key->type_bits.len);
}

static int damaged(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "an entry of an index is malformed");
}

int stor_index_entry_read(const stor_index_def_t *def, vd_slice_t key, vd_slice_t value,
                          stor_index_entry_t *ret_entry, vd_error_t *err)
{
    if (value.len < 2 || (value.data[1] & ~(FLAG_ID | FLAG_INEXACT)) != 0 ||
        ((value.data[1] & FLAG_ID) != 0) != def->unique)
        return damaged(err);
    stor_index_entry_t entry = {.fields = key, .exact = (value.data[1] & FLAG_INEXACT) == 0};
    size_t at = 2;
    if (def->unique) {
        size_t len = value.len < 4 ? 0 : (size_t)value.data[2] << 8 | value.data[3];
        if (len == 0 || value.len < 4 + len)
            return damaged(err);
        entry.id_key = vd_slice(value.data + 4, len);
        at = 4 + len;
    } else {
        vd_slice_t rest = key;
        for (uint32_t i = 0; i < def->field_count; i++) {
            bool twice = def->fields[i].order == STOR_INDEX_WILDCARD;
            bool descending = def->fields[i].order == STOR_INDEX_DESCENDING;
            if (stor_keycode_skip(&rest, descending, NULL, NULL) != VD_OK ||
                (twice && stor_keycode_skip(&rest, descending, NULL, NULL) != VD_OK))
                return damaged(err);
        }
        if (rest.len == 0)
            return damaged(err);
        entry.fields = vd_slice(key.data, key.len - rest.len);
        entry.id_key = rest;
    }
    entry.type_bits = vd_slice(value.data + at, value.len - at);
    *ret_entry = entry;
    return VD_OK;
}

/* Strings of a collated key are bytes that no text has: they are shown as "0x2a4c...". */
static void append_shown(vd_bb_t *bb, vd_arena_t *arena, vd_slice_t name, vd_value_t value)
{
    static const char digits[] = "0123456789abcdef";
    if (value.type == VD_BSON_STRING || value.type == VD_BSON_SYMBOL) {
        vd_slice_t bytes = vd_value_string(value);
        char *text = vd_arena_alloc(arena, 2 + 2 * bytes.len);
        text[0] = '0';
        text[1] = 'x';
        for (size_t i = 0; i < bytes.len; i++) {
            text[2 + 2 * i] = digits[bytes.data[i] >> 4];
            text[3 + 2 * i] = digits[bytes.data[i] & 15];
        }
        vd_bb_value(bb, name, vd_value_from_string(arena, vd_slice(text, 2 + 2 * bytes.len)));
        return;
    }
    if (value.type != VD_BSON_OBJECT && value.type != VD_BSON_ARRAY) {
        vd_bb_value(bb, name, value);
        return;
    }
    vd_bson_iter_t iter;
    if (value.type == VD_BSON_OBJECT)
        vd_bb_open_document(bb, name);
    else
        vd_bb_open_array(bb, name);
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter))
        append_shown(bb, arena, iter.name, iter.value);
    vd_bb_close(bb);
}

int stor_index_sort_key_shown(vd_arena_t *arena, vd_value_t value, vd_value_t *ret_shown,
                              vd_error_t *err)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t document;
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    append_shown(bb, arena, VD_SLICE_LIT("v"), value);
    int rc = vd_bb_finish(bb, &document, err);
    if (rc == VD_OK)
        *ret_shown = vd_bson_get(document, "v");
    return rc;
}

vd_bson_t stor_index_entry_values(vd_arena_t *arena, const stor_index_def_t *def, vd_slice_t fields,
                                  vd_slice_t type_bits)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bson_t values;
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    for (uint32_t i = 0; i < def->field_count; i++) {
        const stor_index_field_t *field = &def->fields[i];
        vd_value_t value, path;
        vd_slice_t name = field->path;
        bool descending = field->order == STOR_INDEX_DESCENDING;
        if (field->order == STOR_INDEX_WILDCARD) {
            if (stor_keycode_decode(arena, &fields, &type_bits, false, &path, NULL) != VD_OK)
                break;
            name = path.type == VD_BSON_STRING ? vd_value_string(path) : VD_SLICE_LIT("$**");
        }
        if (stor_keycode_decode(arena, &fields, &type_bits, descending, &value, NULL) != VD_OK)
            break; /* cut */
        if (def->collation == NULL)
            vd_bb_value(bb, name, value);
        else
            append_shown(bb, arena, name, value);
    }
    return vd_bb_finish(bb, &values, NULL) == VD_OK ? values : VD_BSON_NONE;
}

static const char *text_of(vd_arena_t *arena, vd_value_t v, size_t max)
{
    if (v.type != VD_BSON_OBJECTID)
        return vd_value_to_json(arena, v, max);
    const uint8_t *o = vd_value_objectid(v);
    char hex[25];
    for (int i = 0; i < 12; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", o[i]);
    return vd_arena_printf(arena, "ObjectId('%s')", hex);
}

int stor_index_duplicate(vd_arena_t *arena, const char *ns, const stor_index_def_t *def,
                         vd_slice_t fields, vd_slice_t type_bits, vd_error_t *err)
{
    vd_bson_t values = stor_index_entry_values(arena, def, fields, type_bits), details;
    vd_buf_t text;
    vd_bson_iter_t iter;
    vd_buf_init(&text, MESSAGE_MAX + 64);
    vd_bson_iter_init(&iter, values);
    int rc = VD_OK;
    for (bool first = true; rc == VD_OK && vd_bson_iter_next(&iter); first = false) {
        size_t left = MESSAGE_MAX - vd_buf_len(&text);
        rc = vd_buf_printf(&text, "%s%.*s: %s", first ? "" : ", ", VD_SLICE_FMT(iter.name),
                           text_of(arena, iter.value, left > 20 ? left - 20 : 0));
    }
    vd_error_clear(err);
    vd_error_set(err, VD_ERR_DUPLICATE_KEY,
                 "E11000 duplicate key error collection: %s index: %.*s%s%s dup key: { %.*s }", ns,
                 VD_SLICE_FMT(def->name), def->collation == NULL ? "" : " collation: ",
                 def->collation == NULL ? ""
                                        : vd_bson_to_json(arena, def->collation_spec, MESSAGE_MAX),
                 VD_SLICE_FMT(vd_buf_slice(&text)));
    vd_buf_done(&text);
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_document(bb, "keyPattern", def->key);
    vd_bb_document(bb, "keyValue", values.data == NULL ? def->key : values);
    if (def->collation != NULL)
        vd_bb_document(bb, "collation", def->collation_spec);
    if (vd_bb_finish(bb, &details, NULL) == VD_OK && err != NULL)
        err->details = vd_slice(details.data, details.len);
    return VD_ERR_DUPLICATE_KEY;
}

/* ---- log ---- */

/* A transaction that has entries in the log. */
typedef struct stor_index_log_writer {
    struct stor_index_log_writer *next;
    stor_index_log_t *log;
    const stor_session_t *session;
    uint64_t first; /* its least number */
} log_writer_t;

static void writer_ended(bool committed, void *context)
{
    (void)committed;
    log_writer_t *writer = context;
    stor_index_log_t *log = writer->log;
    (void)pthread_mutex_lock(&log->lock);
    log_writer_t **at = &log->writers;
    while (*at != writer)
        at = &(*at)->next;
    *at = writer->next;
    (void)pthread_mutex_unlock(&log->lock);
    vd_free(writer);
}

static uint64_t number_draw(stor_index_log_t *log, stor_session_t *session)
{
    (void)pthread_mutex_lock(&log->lock);
    uint64_t number = log->next++;
    const log_writer_t *known = log->writers;
    while (known != NULL && known->session != session)
        known = known->next;
    log_writer_t *writer = NULL;
    if (known == NULL) {
        writer = vd_xalloc(sizeof *writer);
        *writer = (log_writer_t){log->writers, log, session, number};
        log->writers = writer;
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (writer != NULL)
        stor_txn_on_end(session, writer_ended, writer);
    return number;
}

int stor_index_log_add(stor_session_t *session, vd_arena_t *arena, stor_index_log_t *log,
                       const stor_index_log_entry_t *entry, vd_error_t *err)
{
    uint8_t key[8];
    stor_cursor_t *cursor;
    size_t len = 1 + 4 + entry->fields.len + 2 + entry->id_key.len + 1 + entry->type_bits.len;
    uint8_t *value = vd_arena_alloc(arena, len), *at = value;
    *at++ = (uint8_t)entry->op;
    vd_put_u32(at, (uint32_t)entry->fields.len);
    memcpy(at + 4, entry->fields.data, entry->fields.len);
    at += 4 + entry->fields.len;
    *at++ = (uint8_t)(entry->id_key.len >> 8);
    *at++ = (uint8_t)entry->id_key.len;
    memcpy(at, entry->id_key.data, entry->id_key.len);
    at += entry->id_key.len;
    *at++ = entry->exact;
    if (entry->type_bits.len > 0)
        memcpy(at, entry->type_bits.data, entry->type_bits.len);
    vd_put_u64_be(key, number_draw(log, session));
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_cursor_open(session, log->table, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_put(cursor, vd_slice(key, sizeof key), vd_slice(value, len), &step);
    if (rc == VD_ERR_NOT_FOUND && atomic_load(&log->cancelled) != 0)
        return VD_OK; /* the build was given up: nobody reads it (applied writes know no fence) */
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%s", step.message);
}

uint64_t stor_index_log_next(stor_index_log_t *log)
{
    (void)pthread_mutex_lock(&log->lock);
    uint64_t next = log->next;
    (void)pthread_mutex_unlock(&log->lock);
    return next;
}

uint64_t stor_index_log_floor(stor_index_log_t *log)
{
    (void)pthread_mutex_lock(&log->lock);
    uint64_t least = log->next;
    for (const log_writer_t *writer = log->writers; writer != NULL; writer = writer->next)
        least = writer->first < least ? writer->first : least;
    (void)pthread_mutex_unlock(&log->lock);
    return least;
}

int stor_index_log_read(vd_slice_t value, stor_index_log_entry_t *ret_entry, vd_error_t *err)
{
    const uint8_t *at = value.data, *end = value.data + value.len;
    if (value.len < 8 || (at[0] & ~STOR_INDEX_LOG_SPARE) > STOR_INDEX_LOG_PUT)
        return damaged(err);
    stor_index_log_entry_t entry = {.op = at[0] & ~STOR_INDEX_LOG_SPARE};
    size_t len = vd_get_u32(at + 1);
    if (len > value.len - 8)
        return damaged(err);
    entry.fields = vd_slice(at + 5, len);
    at += 5 + len;
    len = (size_t)at[0] << 8 | at[1];
    if (len + 3 > (size_t)(end - at))
        return damaged(err);
    entry.id_key = vd_slice(at + 2, len);
    at += 2 + len;
    entry.exact = at[0] != 0;
    entry.type_bits = vd_slice(at + 1, (size_t)(end - at - 1));
    *ret_entry = entry;
    return VD_OK;
}
