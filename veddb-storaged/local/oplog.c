/* veddb-storaged/local/oplog.c — see oplog.h. */
#include "veddb-storaged/local/oplog.h"
#include "veddb-storaged/facts.h"

#define PIECE_CHANGES 1000
#define PIECE_BYTES   (1u << 20)
#define DEPTH_MAX     200

static bool is_shown(stor_change_kind_t kind)
{
    return kind != STOR_CHANGE_IMAGE && kind != STOR_CHANGE_RESULT;
}

int stor_oplog_cut(const stor_journal_entry_t *entry, stor_oplog_cut_t *ret_cut, vd_error_t *err)
{
    vd_slice_t changes = entry->changes, at = changes;
    stor_change_t change;
    size_t bytes = 0;
    int rc;
    ret_cut->changes = ret_cut->count = 0;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK) {
        size_t len = at.len - changes.len;
        uint32_t n = ret_cut->count;
        if (is_shown(change.kind)) {
            if (n == 0 ||
                ((ret_cut->pieces[n - 1].changes >= PIECE_CHANGES || bytes + len > PIECE_BYTES) &&
                 n < STOR_OPLOG_PIECES_MAX)) {
                ret_cut->pieces[n].rest = at;
                ret_cut->pieces[n].changes = 0;
                ret_cut->count++;
                bytes = 0;
            }
            ret_cut->pieces[ret_cut->count - 1].changes++;
            ret_cut->changes++;
            bytes += len;
        }
        at = changes;
    }
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* ---- an update ---- */

static bool is_field(vd_slice_t name, char what)
{
    return name.len > 0 && name.data[0] == (uint8_t)what;
}

static vd_slice_t field_of(vd_slice_t name)
{
    return vd_slice(name.data + 1, name.len - 1);
}

/* All of a kind under one name: {u: {...}}; removed ones are `false`. */
static void put_kind(vd_bb_t *bb, vd_bson_t delta, char what, const char *as)
{
    vd_bson_iter_t iter;
    bool open = false;
    vd_bson_iter_init(&iter, delta);
    while (vd_bson_iter_next(&iter)) {
        if (!is_field(iter.name, what))
            continue;
        if (!open)
            vd_bb_begin_document(bb, as);
        open = true;
        static const uint8_t no = 0;
        vd_bb_value(bb, field_of(iter.name),
                    what == 'd' ? (vd_value_t){&no, 1, VD_BSON_BOOL} : iter.value);
    }
    if (open)
        vd_bb_close(bb);
}

static bool put_diff(vd_bb_t *bb, vd_bson_t delta, bool array, int depth);

/* "s" or "u" and the position or the name. */
static void put_name(vd_slice_t name, char what, uint8_t *buf, vd_slice_t *ret)
{
    memcpy(buf, name.data, name.len);
    buf[0] = (uint8_t)what;
    *ret = vd_slice(buf, name.len);
}

static bool put_below(vd_bb_t *bb, vd_bson_iter_t *iter, int depth)
{
    uint8_t small[128], *buf = small;
    vd_slice_t name;
    vd_arena_t *arena = NULL;
    if (iter->value.type != VD_BSON_OBJECT)
        return false;
    if (iter->name.len > sizeof small) {
        arena = vd_arena_create();
        buf = vd_arena_alloc(arena, iter->name.len);
    }
    put_name(iter->name, 's', buf, &name);
    vd_bb_open_document(bb, name);
    bool ok = put_diff(bb, vd_value_document(iter->value), is_field(iter->name, 'a'), depth + 1);
    vd_bb_close(bb);
    vd_arena_destroy(&arena);
    return ok;
}

static bool put_array(vd_bb_t *bb, vd_bson_t delta, int depth)
{
    vd_bson_iter_t iter;
    vd_bb_bool(bb, "a", true);
    vd_bson_iter_init(&iter, delta);
    while (vd_bson_iter_next(&iter)) {
        bool ok = true;
        if (vd_slice_is(iter.name, "n"))
            vd_bb_value(bb, VD_SLICE_LIT("l"), iter.value);
        else if (is_field(iter.name, 'u'))
            vd_bb_value(bb, iter.name, iter.value);
        else if (is_field(iter.name, 's') || is_field(iter.name, 'a'))
            ok = put_below(bb, &iter, depth);
        else
            ok = false;
        if (!ok)
            return false;
    }
    return true;
}

static bool put_diff(vd_bb_t *bb, vd_bson_t delta, bool array, int depth)
{
    vd_bson_iter_t iter;
    if (depth > DEPTH_MAX)
        return false;
    if (array)
        return put_array(bb, delta, depth);
    put_kind(bb, delta, 'd', "d");
    put_kind(bb, delta, 'u', "u");
    put_kind(bb, delta, 'i', "i");
    vd_bson_iter_init(&iter, delta);
    while (vd_bson_iter_next(&iter)) {
        if (iter.name.len == 0)
            return false;
        if ((is_field(iter.name, 's') || is_field(iter.name, 'a')) && !put_below(bb, &iter, depth))
            return false;
    }
    return true;
}

bool stor_oplog_diff(vd_bb_t *bb, vd_bson_t delta)
{
    return put_diff(bb, delta, false, 0);
}

/* ---- one change ---- */

static vd_slice_t text_of(vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_NULL;
}

static vd_bson_t document_of(vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    return v.type == VD_BSON_OBJECT ? vd_value_document(v) : VD_BSON_NONE;
}

static void put_text(vd_bb_t *bb, const char *field, vd_arena_t *arena, vd_slice_t db,
                     vd_slice_t name)
{
    vd_bb_cstr(bb, field,
               vd_arena_printf(arena, "%.*s.%.*s", VD_SLICE_FMT(db), VD_SLICE_FMT(name)));
}

static void put_id(vd_bb_t *bb, const char *field, vd_value_t id)
{
    vd_bb_begin_document(bb, field);
    vd_bb_value(bb, VD_SLICE_LIT("_id"), id);
    vd_bb_close(bb);
}

static int put_document_change(vd_bb_t *bb, const stor_change_t *change,
                               const stor_local_name_t *name, vd_error_t *err)
{
    stor_change_kind_t kind = change->kind;
    bool ok = true;
    vd_bb_cstr(bb, "op", kind == STOR_CHANGE_INSERT ? "i" : kind == STOR_CHANGE_DELETE ? "d" : "u");
    vd_bb_string(bb, "ns", name->ns);
    if (name->has_uuid)
        vd_bb_binary(bb, "ui", 4, vd_slice(name->uuid, 16));
    if (kind == STOR_CHANGE_DELETE || name->secret) {
        put_id(bb, "o", change->id);
    } else if (kind == STOR_CHANGE_DELTA) {
        vd_bb_begin_document(bb, "o");
        vd_bb_int32(bb, "$v", 2);
        vd_bb_begin_document(bb, "diff");
        ok = stor_oplog_diff(bb, change->body);
        vd_bb_close(bb);
        vd_bb_close(bb);
    } else {
        vd_bb_document(bb, "o", change->body);
    }
    if (kind != STOR_CHANGE_DELETE)
        put_id(bb, "o2", change->id);
    return ok ? VD_OK : vd_error_set(err, VD_ERR_CORRUPT, "a delta in the journal is malformed");
}

static void put_id_index(vd_bb_t *bb, vd_bson_t options)
{
    vd_value_t collation = vd_bson_get(options, "collation");
    vd_bb_begin_document(bb, "idIndex");
    stor_facts_id_index(bb, collation.type == VD_BSON_OBJECT ? vd_value_document(collation)
                                                             : VD_BSON_NONE);
    vd_bb_close(bb);
}

/* One command a change, also of several indexes. */
static void put_indexes(vd_bb_t *bb, stor_change_kind_t kind, vd_slice_t name, vd_bson_t body)
{
    vd_bson_t list = document_of(body, "indexes");
    char buf[12];
    vd_bb_string(bb,
                 kind == STOR_CHANGE_START_INDEXES    ? "startIndexBuild"
                 : kind == STOR_CHANGE_CREATE_INDEXES ? "commitIndexBuild"
                 : kind == STOR_CHANGE_ABORT_INDEXES  ? "abortIndexBuild"
                 : kind == STOR_CHANGE_DROP_INDEXES   ? "dropIndexes"
                                                      : "collMod",
                 name);
    if (kind == STOR_CHANGE_MODIFY_INDEX) {
        vd_bb_document(bb, "index", document_of(document_of(list, "0"), "spec"));
        return;
    }
    vd_bb_begin_array(bb, kind == STOR_CHANGE_DROP_INDEXES ? "index" : "indexes");
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, list);
    for (uint32_t i = 0; vd_bson_iter_next(&iter) && iter.value.type == VD_BSON_OBJECT; i++) {
        vd_bson_t spec = document_of(vd_value_document(iter.value), "spec");
        if (kind == STOR_CHANGE_DROP_INDEXES)
            vd_bb_value(bb, vd_array_name(i, buf), vd_bson_get(spec, "name"));
        else
            vd_bb_value(bb, vd_array_name(i, buf), vd_value_from_document(spec));
    }
    vd_bb_close(bb);
}

static void put_command(vd_bb_t *bb, vd_arena_t *arena, const stor_change_t *change)
{
    vd_bson_t body = change->body;
    vd_slice_t db = text_of(body, "db"), name = text_of(body, "name");
    vd_value_t uuid = vd_bson_get(body, "uuid");
    vd_bb_cstr(bb, "op", "c");
    put_text(bb, "ns", arena, db, VD_SLICE_LIT("$cmd"));
    if (uuid.type == VD_BSON_BINARY)
        vd_bb_value(bb, VD_SLICE_LIT("ui"), uuid);
    vd_bb_begin_document(bb, "o");
    switch (change->kind) {
    case STOR_CHANGE_CREATE:
        vd_bb_string(bb, "create", name);
        vd_bb_concat(bb, document_of(body, "options"));
        put_id_index(bb, document_of(body, "options"));
        break;
    case STOR_CHANGE_DROP:
        vd_bb_string(bb, "drop", name);
        break;
    case STOR_CHANGE_RENAME:
        put_text(bb, "renameCollection", arena, db, name);
        put_text(bb, "to", arena, text_of(body, "toDb"), text_of(body, "toName"));
        vd_bb_bool(bb, "stayTemp", false);
        vd_bb_value(bb, VD_SLICE_LIT("dropTarget"), vd_bson_get(body, "droppedUuid"));
        break;
    case STOR_CHANGE_MODIFY:
        vd_bb_string(bb, "collMod", name);
        vd_bb_concat(bb, document_of(body, "options"));
        break;
    case STOR_CHANGE_START_INDEXES:
    case STOR_CHANGE_CREATE_INDEXES:
    case STOR_CHANGE_ABORT_INDEXES:
    case STOR_CHANGE_DROP_INDEXES:
    case STOR_CHANGE_MODIFY_INDEX:
        put_indexes(bb, change->kind, name, body);
        break;
    default:
        vd_bb_int32(bb, "dropDatabase", 1);
        break;
    }
    vd_bb_close(bb);
    if (change->kind == STOR_CHANGE_MODIFY) {
        vd_bb_begin_document(bb, "o2");
        vd_bb_document(bb, "collectionOptions_old", document_of(body, "before"));
        vd_bb_close(bb);
    }
}

static void put_noop(vd_bb_t *bb, const stor_change_t *change)
{
    vd_bb_cstr(bb, "op", "n");
    vd_bb_cstr(bb, "ns", "");
    if (change->kind == STOR_CHANGE_NOOP) {
        vd_bb_document(bb, "o", change->body);
        return;
    }
    vd_bb_begin_document(bb, "o");
    vd_bb_cstr(bb, "msg", "Reconfig set");
    vd_bb_value(bb, VD_SLICE_LIT("version"), vd_bson_get(change->body, "version"));
    vd_bb_close(bb);
}

typedef struct {
    vd_arena_t *arena;
    stor_oplog_name_of_t name_of;
    void *context;
    vd_error_t *err;
} writer_t;

static int put_change(const writer_t *writer, vd_bb_t *bb, const stor_change_t *change)
{
    const stor_local_name_t *name;
    if (change->kind == STOR_CHANGE_NOOP || change->kind == STOR_CHANGE_CONFIG) {
        put_noop(bb, change);
        return VD_OK;
    }
    if (change->kind >= STOR_CHANGE_CREATE) {
        put_command(bb, writer->arena, change);
        return VD_OK;
    }
    int rc = writer->name_of(writer->context, change->collection_id, &name, writer->err);
    return rc == VD_OK ? put_document_change(bb, change, name, writer->err) : rc;
}

/* ---- an entry ---- */

static int put_apply_ops(const writer_t *writer, vd_bb_t *bb, const stor_oplog_cut_t *cut,
                         uint32_t piece)
{
    vd_slice_t rest = cut->pieces[piece].rest;
    stor_change_t change;
    char position[12];
    uint32_t n = 0;
    int rc = VD_OK;
    vd_bb_cstr(bb, "op", "c");
    vd_bb_cstr(bb, "ns", "admin.$cmd");
    vd_bb_begin_document(bb, "o");
    vd_bb_begin_array(bb, "applyOps");
    while (rc == VD_OK && n < cut->pieces[piece].changes) {
        rc = stor_journal_change_next(&rest, &change, writer->err);
        if (rc != VD_OK || !is_shown(change.kind))
            continue;
        vd_bb_open_document(bb, vd_array_name(n++, position));
        rc = put_change(writer, bb, &change);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    if (piece + 1 < cut->count)
        vd_bb_bool(bb, "partialTxn", true);
    vd_bb_close(bb);
    return rc;
}

int stor_oplog_entry(vd_arena_t *arena, const stor_journal_entry_t *entry,
                     const stor_oplog_cut_t *cut, uint32_t piece, uint64_t term,
                     stor_oplog_name_of_t name_of, void *context, vd_bson_t *ret_document,
                     vd_error_t *err)
{
    VD_ASSERT(piece < cut->count);
    writer_t writer = {arena, name_of, context, err};
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    int32_t statement = -1;
    int rc;
    vd_bb_init_arena(bb, arena, 3 * VD_BSON_INTERNAL_MAX_BYTES);
    if (entry->lsid.len > 0) {
        vd_bb_begin_document(bb, "lsid");
        vd_bb_binary(bb, "id", 4, entry->lsid);
        vd_bb_binary(bb, "uid", 0, entry->lsid_user);
        vd_bb_close(bb);
        vd_bb_int64(bb, "txnNumber", entry->txn_number);
    }
    if (cut->changes == 1) {
        vd_slice_t rest = cut->pieces[0].rest;
        stor_change_t change;
        rc = stor_journal_change_next(&rest, &change, err);
        if (rc == VD_OK)
            rc = put_change(&writer, bb, &change);
        statement = rc == VD_OK ? change.statement : -1;
    } else {
        rc = put_apply_ops(&writer, bb, cut, piece);
    }
    if (rc != VD_OK)
        return rc;
    if (entry->lsid.len > 0 && statement >= 0)
        vd_bb_int32(bb, "stmtId", statement);
    vd_bb_timestamp(bb, "ts", entry->timestamp);
    vd_bb_int64(bb, "t", (int64_t)term);
    vd_bb_int64(bb, "v", 2);
    vd_bb_date(bb, "wall", entry->wall_ms);
    return vd_bb_finish(bb, ret_document, err);
}
