/* veddb-storaged/journal_entry.c — see journal_entry.h.
 *
 * STOR_JOURNAL_FORMAT 1, little-endian:
 *   head:   u8 format, u8 flags (1 session, 2 user, 4 client), u8 spare (rotation/flip.h), u8 zero,
 * u32 count of changes, i64 wall clock ms, [session: 16 B lsid, 32 B digest of its user, i64
 * txnNumber], [u8 length, user], [u8 length, client] change: u8 kind, u8 type of _id, u16 length of
 * _id if <= 0xfffe (else 0xffff and u32 behind), i32 statement, u64 collection, u64 previous
 * version, i64 bytes delta, u64 hash delta, u32 length of body, _id, body (INSERT, REPLACE,
 * UPDATE_WHOLE and IMAGE have no _id of their own: it is the body's first field) */
#include "veddb-storaged/journal_entry.h"

#define FORMAT       1
#define FLAG_SESSION 1
#define FLAG_USER    2
#define FLAG_CLIENT  4
#define HEAD_BYTES   16
#define CHANGE_BYTES 44

int stor_journal_begin(vd_buf_t *buf, const stor_request_t *request, int64_t wall_ms,
                       vd_error_t *err)
{
    static const vdp_operation_command_t nobody = {.txn_number = -1};
    const vdp_operation_command_t *command = request == NULL ? &nobody : &request->command;
    bool session = request != NULL && request->txn_number >= 0 && command->lsid.len == 16;
    bool user = command->user.len > 0;
    size_t user_len = command->user.len > 255 ? 255 : command->user.len;
    size_t client_len = command->client.len > 255 ? 255 : command->client.len;
    uint8_t *at;
    size_t len = HEAD_BYTES + (session ? 56 : 0) + (user ? 1 + user_len : 0) +
                 (client_len > 0 ? 1 + client_len : 0);
    if (vd_buf_reserve(buf, len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a journal entry is too large");
    memset(at, 0, len);
    at[0] = FORMAT;
    at[1] = (uint8_t)((session ? FLAG_SESSION : 0) | (user ? FLAG_USER : 0) |
                      (client_len > 0 ? FLAG_CLIENT : 0));
    vd_put_u64(at + 8, (uint64_t)wall_ms);
    uint8_t *p = at + HEAD_BYTES;
    if (session) {
        memcpy(p, command->lsid.data, 16);
        if (command->lsid_user.len == 32)
            memcpy(p + 16, command->lsid_user.data, 32);
        vd_put_u64(p + 48, (uint64_t)request->txn_number);
        p += 56;
    }
    if (user) {
        *p = (uint8_t)user_len;
        memcpy(p + 1, command->user.data, user_len);
        p += 1 + user_len;
    }
    if (client_len > 0) {
        *p = (uint8_t)client_len;
        memcpy(p + 1, command->client.data, client_len);
    }
    vd_buf_commit(buf, len);
    return VD_OK;
}

/* The body is the whole document: _id stands in it. */
static bool is_whole(stor_change_kind_t kind)
{
    return kind == STOR_CHANGE_INSERT || kind == STOR_CHANGE_REPLACE ||
           kind == STOR_CHANGE_UPDATE_WHOLE || kind == STOR_CHANGE_IMAGE;
}

int stor_journal_add(vd_buf_t *buf, const stor_change_t *change, vd_error_t *err)
{
    bool own_id = !is_whole(change->kind);
    size_t id_len = own_id ? change->id.len : 0;
    size_t wide = id_len > 0xfffe ? 4 : 0;
    size_t len = CHANGE_BYTES + wide + id_len + change->body.len;
    uint8_t *at;
    if (vd_buf_reserve(buf, len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a journal entry is too large");
    at[0] = (uint8_t)change->kind;
    at[1] = own_id ? change->id.type : 0;
    uint16_t narrow = wide != 0 ? 0xffff : (uint16_t)id_len;
    at[2] = (uint8_t)narrow, at[3] = (uint8_t)(narrow >> 8);
    vd_put_u32(at + 4, (uint32_t)change->statement);
    vd_put_u64(at + 8, change->collection_id);
    vd_put_u64(at + 16, change->previous_version);
    vd_put_u64(at + 24, (uint64_t)change->bytes_delta);
    vd_put_u64(at + 32, change->hash_delta);
    vd_put_u32(at + 40, change->body.len);
    uint8_t *p = at + CHANGE_BYTES;
    if (wide != 0)
        vd_put_u32(p, (uint32_t)id_len), p += 4;
    if (id_len > 0)
        memcpy(p, change->id.data, id_len), p += id_len;
    if (change->body.len > 0)
        memcpy(p, change->body.data, change->body.len);
    vd_buf_commit(buf, len);
    uint8_t *head = vd_buf_at(buf, 4);
    vd_put_u32(head, vd_get_u32(head) + 1);
    return VD_OK;
}

int stor_journal_malformed(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "a journal entry is malformed");
}

/* Where the parts of the change at p are; false when they don't fit into what is left. */
typedef struct {
    size_t head, id_len, body_len;
} frame_t;

static bool change_frame(const uint8_t *p, size_t left, frame_t *ret)
{
    if (left < CHANGE_BYTES)
        return false;
    frame_t frame = {.head = CHANGE_BYTES,
                     .id_len = (size_t)p[2] | (size_t)p[3] << 8,
                     .body_len = vd_get_u32(p + 40)};
    if (frame.id_len == 0xffff) {
        frame.head += 4;
        if (left < frame.head)
            return false;
        frame.id_len = vd_get_u32(p + CHANGE_BYTES);
        if (frame.id_len <= 0xfffe) /* one form for each */
            return false;
    }
    *ret = frame;
    return frame.id_len <= left - frame.head && frame.body_len <= left - frame.head - frame.id_len;
}

/* As many changes as the head says, and nothing behind them: a cut between two is found too. */
static bool changes_ok(vd_slice_t changes, uint32_t count)
{
    frame_t frame;
    for (; count > 0; count--) {
        if (!change_frame(changes.data, changes.len, &frame))
            return false;
        size_t len = frame.head + frame.id_len + frame.body_len;
        changes = vd_slice(changes.data + len, changes.len - len);
    }
    return changes.len == 0;
}

int stor_journal_decode(vd_slice_t key, vd_slice_t value, stor_journal_entry_t *ret_entry,
                        vd_error_t *err)
{
    if (key.len != STOR_JOURNAL_KEY_BYTES || value.len < HEAD_BYTES || value.data[0] != FORMAT ||
        (value.data[1] & ~(FLAG_SESSION | FLAG_USER | FLAG_CLIENT)) != 0 ||
        value.data[STOR_JOURNAL_SPARE_AT] > 1 || value.data[3] != 0)
        return stor_journal_malformed(err);
    uint8_t flags = value.data[1];
    stor_journal_entry_t entry = {
        .timestamp = vd_get_u64_be(key.data),
        .part = (uint32_t)key.data[8] << 24 | (uint32_t)key.data[9] << 16 |
                (uint32_t)key.data[10] << 8 | key.data[11],
        .wall_ms = (int64_t)vd_get_u64(value.data + 8),
        .change_count = vd_get_u32(value.data + 4),
        .txn_number = -1,
    };
    const uint8_t *p = value.data + HEAD_BYTES, *end = value.data + value.len;
    if ((flags & FLAG_SESSION) != 0) {
        if (end - p < 56)
            return stor_journal_malformed(err);
        entry.lsid = vd_slice(p, 16);
        entry.lsid_user = vd_slice(p + 16, 32);
        entry.txn_number = (int64_t)vd_get_u64(p + 48);
        p += 56;
    }
    if ((flags & FLAG_USER) != 0) {
        if (end - p < 1 || end - p < 1 + *p)
            return stor_journal_malformed(err);
        entry.user = vd_slice(p + 1, *p);
        p += 1 + *p;
    }
    if ((flags & FLAG_CLIENT) != 0) {
        if (end - p < 1 || end - p < 1 + *p)
            return stor_journal_malformed(err);
        entry.client = vd_slice(p + 1, *p);
        p += 1 + *p;
    }
    entry.changes = vd_slice(p, (size_t)(end - p));
    if (!changes_ok(entry.changes, entry.change_count))
        return stor_journal_malformed(err);
    *ret_entry = entry;
    return VD_OK;
}

static int64_t documents_delta(stor_change_kind_t kind)
{
    return kind == STOR_CHANGE_INSERT ? 1 : kind == STOR_CHANGE_DELETE ? -1 : 0;
}

static bool is_document(const uint8_t *data, size_t len)
{
    vd_bson_t document;
    return vd_bson_peek(vd_slice(data, len), &document, NULL) == VD_OK && document.len == len;
}

static bool is_string(const uint8_t *data, size_t len)
{
    return len >= 5 && vd_get_u32(data) == len - 4 && data[len - 1] == 0;
}

/* The payload has the length that its type asks for, so that those who read the value stay inside.
 * Types that can't be an _id are refused. */
static bool id_ok(vd_value_t id)
{
    switch (id.type) {
    case VD_BSON_NULL:
    case VD_BSON_MINKEY:
    case VD_BSON_MAXKEY:
        return id.len == 0;
    case VD_BSON_BOOL:
        return id.len == 1 && id.data[0] <= 1;
    case VD_BSON_INT32:
        return id.len == 4;
    case VD_BSON_DOUBLE:
    case VD_BSON_DATE:
    case VD_BSON_INT64:
    case VD_BSON_TIMESTAMP:
        return id.len == 8;
    case VD_BSON_OBJECTID:
        return id.len == 12;
    case VD_BSON_DECIMAL128:
        return id.len == 16;
    case VD_BSON_STRING:
    case VD_BSON_SYMBOL:
    case VD_BSON_CODE:
        return is_string(id.data, id.len);
    case VD_BSON_BINARY:
        return id.len >= 5 && vd_get_u32(id.data) == id.len - 5;
    case VD_BSON_OBJECT:
        return is_document(id.data, id.len);
    case VD_BSON_DBPOINTER:
        return id.len >= 17 && is_string(id.data, id.len - 12);
    case VD_BSON_CODE_WITH_SCOPE: {
        if (id.len < 14 || vd_get_u32(id.data) != id.len)
            return false;
        size_t text = 4 + (size_t)vd_get_u32(id.data + 4);
        return text < id.len - 4 && is_string(id.data + 4, text) &&
               is_document(id.data + 4 + text, id.len - 4 - text);
    }
    default:
        return false;
    }
}

/* own_type: the type of an _id that stands in the change itself; 0 = none. */
static bool change_ok(const stor_change_t *change, uint8_t own_type, size_t own_len)
{
    switch (change->kind) {
    case STOR_CHANGE_INSERT:
    case STOR_CHANGE_REPLACE:
    case STOR_CHANGE_UPDATE_WHOLE:
    case STOR_CHANGE_IMAGE:
        return own_type == 0 && own_len == 0 && is_document(change->body.data, change->body.len) &&
               change->id.type != VD_BSON_MISSING;
    case STOR_CHANGE_DELTA:
        return id_ok(change->id) && is_document(change->body.data, change->body.len);
    case STOR_CHANGE_DELETE:
        return id_ok(change->id) && change->body.len == 0;
    case STOR_CHANGE_CREATE:
    case STOR_CHANGE_DROP:
    case STOR_CHANGE_RENAME:
    case STOR_CHANGE_MODIFY:
    case STOR_CHANGE_CONFIG:
    case STOR_CHANGE_RESULT:
    case STOR_CHANGE_NOOP:
    case STOR_CHANGE_DROP_DATABASE:
    case STOR_CHANGE_CREATE_INDEXES:
    case STOR_CHANGE_DROP_INDEXES:
    case STOR_CHANGE_MODIFY_INDEX:
    case STOR_CHANGE_START_INDEXES:
    case STOR_CHANGE_ABORT_INDEXES:
        return own_type == 0 && own_len == 0 && is_document(change->body.data, change->body.len);
    }
    return false;
}

int stor_journal_change_next(vd_slice_t *changes, stor_change_t *ret_change, vd_error_t *err)
{
    const uint8_t *p = changes->data;
    frame_t frame;
    if (changes->len == 0)
        return VD_ERR_NOT_FOUND;
    if (!change_frame(p, changes->len, &frame))
        return stor_journal_malformed(err);
    const uint8_t *id = p + frame.head, *body = id + frame.id_len;
    stor_change_t change = {
        .kind = (stor_change_kind_t)p[0],
        .statement = (int32_t)vd_get_u32(p + 4),
        .collection_id = vd_get_u64(p + 8),
        .previous_version = vd_get_u64(p + 16),
        .bytes_delta = (int64_t)vd_get_u64(p + 24),
        .hash_delta = vd_get_u64(p + 32),
        .body = {body, (uint32_t)frame.body_len},
    };
    change.documents_delta = documents_delta(change.kind);
    if (is_whole(change.kind))
        change.id = vd_bson_get(change.body, "_id");
    else
        change.id = (vd_value_t){id, (uint32_t)frame.id_len, p[1]};
    if (!change_ok(&change, p[1], frame.id_len))
        return stor_journal_malformed(err);
    size_t len = frame.head + frame.id_len + frame.body_len;
    *changes = vd_slice(p + len, changes->len - len);
    *ret_change = change;
    return VD_OK;
}
