/* veddb-storaged/audit/tail.c — see audit.h: records for rotated, from the journal and the events.
 *
 * A journal entry gives one record for each run of changes of one kind in one collection: kind,
 * namespace, the _ids, the version; never content. */
#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/audit/audit_private.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/change_names.h"

#include <openssl/sha.h>
#include <stdio.h>

#define IDS_BYTES_MAX (64 * 1024) /* of one record */
#define ID_BYTES_MAX  1024        /* longer ones stand as their hash */
#define EVENTS_SHARE  4           /* of a batch, at least */

/* ---- positions in bytes ---- */

static bool at_or_below(const stor_audit_mark_t *mark, uint64_t journal, uint32_t part)
{
    return mark->journal < journal || (mark->journal == journal && mark->part <= part);
}

void stor_audit_marks_sealed(stor_audit_t *audit, uint64_t journal, uint32_t part)
{
    uint32_t n = 0;
    while (n < audit->mark_count && at_or_below(&audit->marks[n], journal, part))
        n++;
    if (n == 0)
        return;
    atomic_store(&audit->sealed_bytes, audit->marks[n - 1].bytes);
    audit->mark_count -= n;
    memmove(audit->marks, audit->marks + n, audit->mark_count * sizeof audit->marks[0]);
}

static void mark_add(stor_audit_t *audit, uint64_t journal, uint32_t part)
{
    if (audit->mark_count == STOR_AUDIT_MARKS) /* the newest takes the place of the one before */
        audit->mark_count--;
    audit->marks[audit->mark_count++] = (stor_audit_mark_t){journal, audit->read_bytes, part};
}

/* Asked from elsewhere than where the last batch ended: rotated has begun anew. */
static void marks_follow(stor_audit_t *audit, const vdp_audit_pull_t *pull)
{
    const stor_audit_mark_t *newest =
        audit->mark_count == 0 ? NULL : &audit->marks[audit->mark_count - 1];
    if (newest == NULL || (newest->journal == pull->journal && newest->part == pull->journal_part))
        return;
    audit->mark_count = 0;
    audit->read_bytes = atomic_load(&audit->sealed_bytes);
}

/* ---- names ---- */

static void name_put(stor_audit_t *audit, uint64_t id, vd_slice_t db, vd_slice_t name)
{
    char *text = vd_xalloc(db.len + name.len + 2), *old = NULL;
    memcpy(text, db.data, db.len);
    text[db.len] = '.';
    memcpy(text + db.len + 1, name.data, name.len);
    void *before = NULL;
    if (vd_map_put(audit->names, vd_key_u64(&id), text, &before) != VD_OK) {
        vd_free(text); /* full: looked up in the catalog each time */
        return;
    }
    old = before;
    vd_free(old);
}

/* What the collection was called at this place, as far as it is known. */
static const char *name_get(stor_audit_t *audit, uint64_t id)
{
    const char *name = vd_map_get(audit->names, vd_key_u64(&id));
    if (name != NULL)
        return name;
    stor_collection_t *collection = stor_catalog_reference(audit->storage->catalog, id);
    if (collection == NULL)
        return NULL;
    name_put(audit, id, collection->db, collection->name);
    stor_catalog_unreference(&collection);
    return vd_map_get(audit->names, vd_key_u64(&id));
}

static vd_slice_t text_of(vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    return v.type == VD_BSON_STRING ? vd_value_string(v) : VD_SLICE_NULL;
}

/* ---- records ---- */

static int record_put(stor_audit_t *audit, uint8_t source, uint32_t part, uint64_t position,
                      vd_bson_t document, vd_buf_t *body, vd_error_t *err)
{
    uint8_t *at;
    if (vd_buf_reserve(body, VDP_AUDIT_RECORD_HEAD_BYTES + (size_t)document.len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a batch of audit records is too large");
    vd_put_u32(at, source);
    vd_put_u32(at + 4, part);
    vd_put_u64(at + 8, position);
    memcpy(at + VDP_AUDIT_RECORD_HEAD_BYTES, document.data, document.len);
    vd_buf_commit(body, VDP_AUDIT_RECORD_HEAD_BYTES + (size_t)document.len);
    atomic_fetch_add_explicit(&audit->records, 1, memory_order_relaxed);
    return VD_OK;
}

static int record_finish(stor_audit_t *audit, const stor_journal_entry_t *entry, vd_buf_t *body,
                         vd_error_t *err)
{
    vd_bson_t document;
    vd_bb_int32(&audit->bb, "result", 0);
    int rc = vd_bb_finish(&audit->bb, &document, err);
    if (rc != VD_OK)
        return rc;
    if (!stor_audit_takes(audit, audit->scratch, document)) {
        atomic_fetch_add_explicit(&audit->filtered, 1, memory_order_relaxed);
        return VD_OK;
    }
    return record_put(audit, 1, entry->part, entry->timestamp, document, body, err);
}

static void record_begin(stor_audit_t *audit, const stor_journal_entry_t *entry, const char *atype)
{
    vd_bb_reset(&audit->bb);
    stor_audit_begin(&audit->bb, atype, entry->wall_ms, entry->user, entry->client);
    vd_bb_begin_document(&audit->bb, "param");
}

static void id_put(vd_bb_t *bb, uint32_t n, vd_value_t id)
{
    char name[12];
    vd_slice_t position = vd_array_name(n, name);
    if (id.len <= ID_BYTES_MAX) {
        vd_bb_value(bb, position, id);
        return;
    }
    uint8_t digest[SHA256_DIGEST_LENGTH];
    (void)SHA256(id.data, id.len, digest);
    vd_bb_open_document(bb, position);
    vd_bb_binary(bb, "sha256", 0, vd_slice(digest, sizeof digest));
    vd_bb_int64(bb, "bytes", (int64_t)id.len);
    vd_bb_close(bb);
}

/* One record for the run of changes that begins with `change`, which is taken from `changes` as far
 * as the run goes. *ret_next: the change behind it; false: there is none. */
static int write_record(stor_audit_t *audit, const stor_journal_entry_t *entry, vd_slice_t *changes,
                        stor_change_t *change, bool *ret_more, vd_buf_t *body, vd_error_t *err)
{
    const char *atype = stor_change_names(change->kind).audit,
               *ns = name_get(audit, change->collection_id);
    uint64_t collection = change->collection_id;
    uint32_t n = 0;
    size_t bytes = 0;
    vd_bb_t *bb = &audit->bb;
    int rc = VD_OK;
    record_begin(audit, entry, atype);
    if (ns != NULL)
        vd_bb_cstr(bb, "ns", ns);
    vd_bb_int64(bb, "collection", (int64_t)collection);
    vd_bb_timestamp(bb, "version", entry->timestamp);
    vd_bb_begin_array(bb, "ids");
    *ret_more = true;
    do {
        id_put(bb, n++, change->id);
        bytes += change->id.len + 16;
        rc = stor_journal_change_next(changes, change, err);
        if (rc == VD_ERR_NOT_FOUND)
            *ret_more = false;
        else if (rc != VD_OK)
            return rc;
    } while (*ret_more && bytes < IDS_BYTES_MAX && change->collection_id == collection &&
             stor_change_is_write(change->kind) &&
             strcmp(stor_change_names(change->kind).audit, atype) == 0);
    vd_bb_close(bb);
    vd_bb_close(bb);
    return record_finish(audit, entry, body, err);
}

static void names_follow(stor_audit_t *audit, const stor_change_t *change)
{
    vd_slice_t db = text_of(change->body, "db"), name = text_of(change->body, "name");
    if (change->kind == STOR_CHANGE_RENAME)
        name_put(audit, change->collection_id, text_of(change->body, "toDb"),
                 text_of(change->body, "toName"));
    else if (change->kind == STOR_CHANGE_CREATE)
        name_put(audit, change->collection_id, db, name);
    else if (change->kind == STOR_CHANGE_DROP)
        vd_free(vd_map_remove(audit->names, vd_key_u64(&change->collection_id)));
}

/* A database comes with its first collection. */
static int database_record(stor_audit_t *audit, const stor_journal_entry_t *entry,
                           const stor_change_t *change, vd_buf_t *body, vd_error_t *err)
{
    record_begin(audit, entry, "createDatabase");
    vd_bb_string(&audit->bb, "ns", text_of(change->body, "db"));
    vd_bb_timestamp(&audit->bb, "version", entry->timestamp);
    vd_bb_close(&audit->bb);
    return record_finish(audit, entry, body, err);
}

static int schema_record(stor_audit_t *audit, const stor_journal_entry_t *entry,
                         const stor_change_t *change, vd_buf_t *body, vd_error_t *err)
{
    vd_bb_t *bb = &audit->bb;
    char ns[VD_NAMESPACE_MAX_BYTES + 2];
    vd_slice_t db = text_of(change->body, "db"), name = text_of(change->body, "name"),
               to_db = text_of(change->body, "toDb"), to_name = text_of(change->body, "toName");
    vd_value_t indexes = vd_bson_get(change->body, "indexes");
    names_follow(audit, change);
    record_begin(audit, entry, stor_change_names(change->kind).audit);
    (void)snprintf(ns, sizeof ns, "%.*s%s%.*s", VD_SLICE_FMT(db), name.len > 0 ? "." : "",
                   VD_SLICE_FMT(name));
    vd_bb_cstr(bb, "ns", ns);
    if (to_name.len > 0) {
        (void)snprintf(ns, sizeof ns, "%.*s.%.*s", VD_SLICE_FMT(to_db), VD_SLICE_FMT(to_name));
        vd_bb_cstr(bb, "new", ns);
    }
    vd_bb_int64(bb, "collection", (int64_t)change->collection_id);
    vd_bb_timestamp(bb, "version", entry->timestamp);
    if (indexes.type == VD_BSON_ARRAY && indexes.len < IDS_BYTES_MAX)
        vd_bb_array(bb, "indexes", vd_value_document(indexes));
    vd_bb_close(bb);
    return record_finish(audit, entry, body, err);
}

static int entry_records(stor_audit_t *audit, const stor_journal_entry_t *entry, vd_buf_t *body,
                         vd_error_t *err)
{
    vd_slice_t changes = entry->changes;
    stor_change_t change;
    int rc = stor_journal_change_next(&changes, &change, err);
    bool more = rc == VD_OK;
    vd_arena_reset(audit->scratch);
    while (rc == VD_OK && more) {
        if (stor_change_is_write(change.kind)) {
            rc = write_record(audit, entry, &changes, &change, &more, body, err);
            continue;
        }
        if (change.kind == STOR_CHANGE_CREATE &&
            vd_value_as_flag(vd_bson_get(change.body, "newDatabase")))
            rc = database_record(audit, entry, &change, body, err);
        if (rc == VD_OK && stor_change_names(change.kind).audit != NULL)
            rc = schema_record(audit, entry, &change, body, err);
        if (rc != VD_OK)
            break;
        rc = stor_journal_change_next(&changes, &change, err);
        more = rc == VD_OK;
    }
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* ---- the two sources ---- */

static int gap_record(stor_audit_t *audit, uint64_t after, uint64_t upto, vd_buf_t *body,
                      vd_error_t *err)
{
    vd_bson_t document;
    vd_bb_t *bb = &audit->bb;
    atomic_fetch_add(&audit->gaps, 1);
    vd_bb_reset(bb);
    stor_audit_begin(bb, "auditGap", vd_wall_ms(), VD_SLICE_NULL, VD_SLICE_NULL);
    vd_bb_begin_document(bb, "param");
    vd_bb_timestamp(bb, "after", after);
    vd_bb_timestamp(bb, "upto", upto);
    vd_bb_close(bb);
    vd_bb_int32(bb, "result", -VD_ERR_CHANGE_STREAM_HISTORY_LOST);
    int rc = vd_bb_finish(bb, &document, err);
    return rc == VD_OK ? record_put(audit, 1, 0, upto, document, body, err) : rc;
}

/* What comes next was dropped: a copy of the data was loaded, or it was shed. */
static int journal_gap(stor_audit_t *audit, vdp_audit_batch_t *batch, vd_buf_t *body,
                       vd_error_t *err)
{
    stor_journal_stats_t stats;
    stor_journal_stats(audit->storage->journal, &stats);
    uint64_t after = batch->journal;
    batch->journal = stats.oldest > after ? stats.oldest : after;
    batch->journal_part = UINT32_MAX;
    batch->more = true;
    return gap_record(audit, after, batch->journal, body, err);
}

static int journal_read(stor_audit_t *audit, stor_session_t *session, size_t credit,
                        vdp_audit_batch_t *batch, vd_buf_t *body, vd_error_t *err)
{
    stor_journal_t *journal = audit->storage->journal;
    stor_journal_stats_t stats;
    stor_journal_stats(journal, &stats); /* before the look: what comes in between counts later */
    uint64_t upto = stor_engine_durable(audit->storage->engine);
    vd_error_t step = VD_ERROR_INIT;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    stor_journal_reader_t *reader =
        stor_journal_reader_open_part(journal, session, batch->journal, batch->journal_part);
    stor_journal_reader_begin(reader);
    while (rc == VD_OK && vd_buf_len(body) < credit) {
        stor_journal_entry_t entry;
        vd_slice_t key, value;
        rc = stor_journal_reader_next(reader, upto, &entry, &step);
        if (rc != VD_OK)
            break;
        rc = entry_records(audit, &entry, body, &step);
        if (rc != VD_OK)
            break;
        stor_journal_reader_raw(reader, &key, &value);
        audit->read_bytes += value.len + key.len + 8;
        batch->journal = entry.timestamp;
        batch->journal_part = entry.part;
    }
    batch->more = batch->more || rc == VD_OK;
    stor_journal_reader_close(&reader);
    stor_txn_rollback(session);
    if (rc == VD_ERR_NOT_FOUND) {
        audit->read_bytes =
            stats.appended + audit->before_bytes; /* exact again: all of it was seen */
        rc = VD_OK;
    }
    if (rc == VD_ERR_CHANGE_STREAM_HISTORY_LOST)
        return journal_gap(audit, batch, body, err);
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%s", step.message);
}

/* Events up to here are on disk. */
static uint64_t events_durable(stor_audit_t *audit)
{
    stor_engine_t *engine = audit->storage->engine;
    uint64_t committed = atomic_load(&audit->committed), flushes = stor_engine_flushes(engine);
    if (audit->mark != 0 && flushes >= audit->mark_flushes + 2) {
        audit->durable = audit->mark;
        audit->mark = 0;
    }
    if (audit->mark == 0 && committed > audit->durable) {
        audit->mark = committed;
        audit->mark_flushes = flushes;
    }
    if (audit->mark != 0)
        stor_engine_flush_soon(engine);
    return audit->durable;
}

/* An event that says where the journal goes on. */
static void restart_follow(stor_audit_t *audit, vd_bson_t event, vdp_audit_batch_t *batch)
{
    vd_value_t atype = vd_bson_get(event, "atype"), param = vd_bson_get(event, "param");
    if (atype.type != VD_BSON_STRING || param.type != VD_BSON_OBJECT ||
        !vd_slice_is(vd_value_string(atype), STOR_AUDIT_RESTART))
        return;
    vd_value_t position = vd_bson_get(vd_value_document(param), "position");
    if (position.type != VD_BSON_TIMESTAMP || vd_value_timestamp(position) >= batch->journal)
        return; /* what is left out has a record of its own (journal_gap) */
    batch->journal = vd_value_timestamp(position);
    batch->journal_part = UINT32_MAX;
    audit->mark_count = 0;
}

static int events_read(stor_audit_t *audit, stor_session_t *session, size_t credit,
                       vdp_audit_batch_t *batch, vd_buf_t *body, vd_error_t *err)
{
    uint64_t upto = events_durable(audit);
    uint8_t from[8];
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    vd_error_t step = VD_ERROR_INIT;
    if (batch->events >= upto)
        return VD_OK;
    int rc = stor_txn_begin(session, err);
    if (rc != VD_OK)
        return rc;
    vd_put_u64_be(from, batch->events + 1);
    rc = stor_cursor_open(session, STOR_AUDIT_TABLE, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_seek(cursor, vd_slice(from, sizeof from), true, &key, &value, &step);
    while (rc == VD_OK && vd_buf_len(body) < credit) {
        uint64_t number = key.len == 8 ? vd_get_u64_be(key.data) : UINT64_MAX;
        if (number > upto)
            break;
        vd_bson_t event;
        rc = vd_bson_peek(value, &event, &step);
        if (rc == VD_OK)
            rc = record_put(audit, 2, 0, number, event, body, &step);
        if (rc != VD_OK)
            break;
        batch->events = number;
        restart_follow(audit, event, batch);
        rc = stor_cursor_next(cursor, true, &key, &value, &step);
    }
    batch->more = batch->more || batch->events < upto;
    stor_txn_rollback(session);
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    return rc == VD_OK ? VD_OK : vd_error_set(err, rc, "%s", step.message);
}

int stor_audit_batch(stor_audit_t *audit, stor_session_t *session, const vdp_audit_pull_t *pull,
                     vd_buf_t *body, vdp_audit_batch_t *ret_batch, vd_error_t *err)
{
    vdp_audit_batch_t batch = {
        .journal = pull->journal, .journal_part = pull->journal_part, .events = pull->events};
    size_t credit = pull->credit_bytes < 4096 ? 4096 : (size_t)pull->credit_bytes;
    marks_follow(audit, pull);
    if (batch.journal < audit->begin) { /* a new log: it begins where the audit of this data did */
        int gap = gap_record(audit, batch.journal, audit->begin, body, err);
        if (gap != VD_OK)
            return gap;
        batch.journal = audit->begin;
        batch.journal_part = UINT32_MAX;
    }
    int rc = events_read(audit, session, credit / EVENTS_SHARE, &batch, body, err);
    if (rc == VD_OK)
        rc = journal_read(audit, session, credit, &batch, body, err);
    if (rc != VD_OK)
        return rc;
    mark_add(audit, batch.journal, batch.journal_part);
    *ret_batch = batch;
    return VD_OK;
}
