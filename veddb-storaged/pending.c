/* veddb-storaged/pending.c — see pending.h.
 *
 * The hash of a record covers its version, which is known at commit only. So a change keeps what
 * its hash is made of: the hash of what was there before the transaction; the document that it left
 * behind, where a later change of the same transaction replaced it; and what is left at the end is
 * read from the table, where it must be written again anyway. */
#include "veddb-storaged/pending.h"

#include "libcommon/base/map.h"
#include "libcommon/base/mem.h"

#define CHANGE_OVERHEAD 256 /* bytes that a change takes besides its content */
#define TOUCHED_MAX     50000000
#define ENTRY_MAX_BYTES (STOR_JOURNAL_PART_MAX + 2 * VD_BSON_INTERNAL_MAX_BYTES + 64 * 1024)
#define VALUE_MAX_BYTES (VD_BSON_INTERNAL_MAX_BYTES + STOR_ENVELOPE_BYTES)

typedef struct {
    stor_collection_t *collection;
    int64_t documents, bytes;
    uint64_t hash;
} total_t;

/* A record that the transaction has changed. */
typedef struct touched {
    struct touched *next;
    uint32_t total;
    vd_slice_t key;
    struct pending_change *last;
    uint64_t hash; /* of what is left, as stamped; 0: nothing */
} touched_t;

typedef struct pending_change {
    struct pending_change *next, *before; /* before: of the same record, in this transaction */
    touched_t *touched;
    stor_change_t change;
    bool own_previous;    /* what was there before has the placeholder */
    uint64_t before_hash; /* of what was there before the transaction */
    vd_bson_t after;      /* superseded: what it left behind */
    bool superseded;
    uint64_t after_hash; /* at commit */
} pending_change_t;

struct stor_pending {
    vd_arena_t *arena;
    vd_map_t *by_key; /* collection id + key -> touched_t */
    vd_buf_t name;
    touched_t *first_touched, **last_touched;
    pending_change_t *first, **last;
    uint64_t count, bytes, bytes_max;
    total_t *totals;
    uint32_t total_count, total_cap;
};

stor_pending_t *stor_pending_create(uint64_t bytes_max)
{
    stor_pending_t *pending = vd_xalloc(sizeof *pending);
    pending->arena = vd_arena_create();
    pending->by_key = vd_map_create(TOUCHED_MAX);
    pending->bytes_max = bytes_max;
    pending->last_touched = &pending->first_touched;
    pending->last = &pending->first;
    vd_buf_init(&pending->name, sizeof(uint64_t) + VD_KEYCODE_MAX_BYTES);
    return pending;
}

void stor_pending_destroy(stor_pending_t **pending_p)
{
    stor_pending_t *pending = *pending_p;
    if (pending == NULL)
        return;
    vd_map_destroy(&pending->by_key);
    vd_arena_destroy(&pending->arena);
    vd_buf_done(&pending->name);
    vd_free(pending->totals);
    vd_free(pending);
    *pending_p = NULL;
}

uint64_t stor_pending_count(const stor_pending_t *pending)
{
    return pending == NULL ? 0 : pending->count;
}

uint64_t stor_pending_bytes(const stor_pending_t *pending)
{
    return pending == NULL ? 0 : pending->bytes;
}

bool stor_pending_touches(const stor_pending_t *pending, const stor_collection_t *collection)
{
    for (uint32_t i = 0; pending != NULL && i < pending->total_count; i++)
        if (pending->totals[i].collection == collection)
            return true;
    return false;
}

/* ---- changes ---- */

static uint32_t total_of(stor_pending_t *pending, stor_collection_t *collection)
{
    for (uint32_t i = pending->total_count; i-- > 0;)
        if (pending->totals[i].collection == collection)
            return i;
    if (pending->total_count == pending->total_cap) {
        pending->total_cap = pending->total_cap == 0 ? 8 : 2 * pending->total_cap;
        pending->totals =
            vd_xrealloc(pending->totals, pending->total_cap * sizeof *pending->totals);
    }
    pending->totals[pending->total_count] = (total_t){.collection = collection};
    return pending->total_count++;
}

static int touched_get(stor_pending_t *pending, stor_collection_t *collection, vd_slice_t key,
                       touched_t **ret, vd_error_t *err)
{
    vd_buf_clear(&pending->name);
    int rc = vd_buf_append_u64(&pending->name, collection->id);
    if (rc == VD_OK)
        rc = vd_buf_append_slice(&pending->name, key);
    if (rc != VD_OK)
        return vd_error_set(err, VD_ERR_INTERNAL, "a record's key is too long");
    vd_slice_t name = vd_buf_slice(&pending->name);
    touched_t *touched = vd_map_get(pending->by_key, name);
    if (touched == NULL) {
        touched = VD_ARENA_NEW(pending->arena, touched_t);
        touched->total = total_of(pending, collection);
        touched->key = vd_arena_copy_slice(pending->arena, key);
        if (vd_map_put(pending->by_key, name, touched, NULL) != VD_OK)
            return vd_error_set(err, VD_ERR_TRANSACTION_TOO_LARGE,
                                "the transaction changes too many documents");
        *pending->last_touched = touched;
        pending->last_touched = &touched->next;
    }
    *ret = touched;
    return VD_OK;
}

static bool is_whole(stor_change_kind_t kind)
{
    return kind == STOR_CHANGE_INSERT || kind == STOR_CHANGE_REPLACE ||
           kind == STOR_CHANGE_UPDATE_WHOLE;
}

/* A document that this transaction made is changed again: what the change before left behind. */
static void supersede(stor_pending_t *pending, pending_change_t *before, vd_slice_t document)
{
    if (before->superseded)
        return;
    before->superseded = true;
    if (is_whole(before->change.kind)) {
        before->after = before->change.body;
        return;
    }
    before->after = (vd_bson_t){vd_arena_copy(pending->arena, document.data, document.len),
                                (uint32_t)document.len};
    pending->bytes += document.len;
}

static int room_check(const stor_pending_t *pending, const stor_change_t *change,
                      vd_slice_t old_document, vd_slice_t key, vd_error_t *err)
{
    uint64_t more = change->body.len + change->id.len + old_document.len + key.len;
    if (pending->bytes + more + CHANGE_OVERHEAD <= pending->bytes_max)
        return VD_OK;
    return vd_error_set(err, VD_ERR_TRANSACTION_TOO_LARGE,
                        "the changes of a transaction take more than the %llu bytes that it may "
                        "hold in memory",
                        (unsigned long long)pending->bytes_max);
}

int stor_pending_add(stor_pending_t *pending, stor_collection_t *collection, vd_slice_t key,
                     const stor_change_t *change, vd_slice_t old_document, uint64_t old_version,
                     vd_error_t *err)
{
    touched_t *touched = NULL;
    bool had = old_document.len > 0;
    int rc = room_check(pending, change, old_document, key, err);
    if (rc == VD_OK)
        rc = touched_get(pending, collection, key, &touched, err);
    if (rc != VD_OK)
        return rc;
    pending_change_t *add = VD_ARENA_NEW(pending->arena, pending_change_t);
    add->touched = touched;
    add->change = *change;
    add->change.body = (vd_bson_t){
        change->body.len == 0 ? NULL
                              : vd_arena_copy(pending->arena, change->body.data, change->body.len),
        change->body.len};
    add->change.id = vd_value_copy(pending->arena, change->id);
    add->own_previous = had && old_version == 0;
    *pending->last = add;
    pending->last = &add->next;
    pending->count++;
    pending->bytes += change->body.len + change->id.len + key.len + CHANGE_OVERHEAD;
    if (change->kind == STOR_CHANGE_IMAGE)
        return VD_OK; /* tells of the change that follows */
    if (add->own_previous) {
        VD_ASSERT(touched->last != NULL);
        add->before = touched->last;
        supersede(pending, touched->last, old_document);
    } else if (had) {
        add->before_hash = stor_record_hash(
            old_version, (vd_bson_t){old_document.data, (uint32_t)old_document.len});
    }
    touched->last = add;
    total_t *total = &pending->totals[touched->total];
    total->documents += change->kind == STOR_CHANGE_INSERT   ? 1
                        : change->kind == STOR_CHANGE_DELETE ? -1
                                                             : 0;
    total->bytes += change->bytes_delta;
    return VD_OK;
}

/* ---- at commit ---- */

/* The record's last form under the timestamp, in the table; its hash is noted. */
static int touched_stamp(touched_t *touched, stor_cursor_t *table, uint64_t timestamp,
                         vd_buf_t *value, vd_error_t *err)
{
    vd_slice_t stored;
    stor_record_t record;
    uint8_t *at;
    touched->hash = 0;
    if (touched->last == NULL || touched->last->change.kind == STOR_CHANGE_DELETE)
        return VD_OK;
    int rc = stor_cursor_search(table, touched->key, &stored, err);
    if (rc == VD_OK)
        rc = stor_envelope_read(stored, &record.document, &record.version, err);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "a document that the transaction wrote is not there");
    VD_ASSERT(record.version == STOR_VERSION_PENDING);
    vd_buf_clear(value);
    if (vd_buf_reserve(value, stored.len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_BSON_OBJECT_TOO_LARGE, "the document is too large");
    stor_envelope_write(at, timestamp, record.document);
    vd_buf_commit(value, stored.len);
    touched->hash = stor_record_hash(timestamp, record.document);
    return stor_cursor_update(table, touched->key, vd_buf_slice(value), err);
}

static int documents_stamp(stor_pending_t *pending, stor_request_t *request, uint64_t timestamp,
                           vd_error_t *err)
{
    uint32_t of = UINT32_MAX;
    stor_cursor_t *table = NULL;
    vd_buf_t value;
    int rc = VD_OK;
    vd_buf_init(&value, VALUE_MAX_BYTES);
    for (touched_t *t = pending->first_touched; rc == VD_OK && t != NULL; t = t->next) {
        rc = stor_request_check(request, err);
        if (rc == VD_OK && t->total != of)
            rc = stor_cursor_open(request->session, pending->totals[t->total].collection->table,
                                  &table, err);
        of = t->total;
        if (rc == VD_OK)
            rc = touched_stamp(t, table, timestamp, &value, err);
    }
    vd_buf_done(&value);
    return rc;
}

/* In order: what came before is stamped already. */
static void change_stamp(pending_change_t *change, uint64_t timestamp)
{
    if (change->own_previous)
        change->change.previous_version = timestamp;
    VD_ASSERT(timestamp >= change->change.previous_version);
    if (change->change.kind == STOR_CHANGE_IMAGE)
        return;
    uint64_t before = change->before != NULL ? change->before->after_hash : change->before_hash;
    if (change->change.kind == STOR_CHANGE_DELETE)
        change->after_hash = 0;
    else if (change->superseded)
        change->after_hash = stor_record_hash(timestamp, change->after);
    else
        change->after_hash = change->touched->hash;
    change->change.hash_delta = change->after_hash - before;
}

static int entry_append(stor_request_t *request, uint64_t timestamp, uint32_t part, vd_buf_t *entry,
                        vd_error_t *err)
{
    int rc = stor_journal_append(request->storage->journal, request->session, timestamp, part,
                                 vd_buf_slice(entry), err);
    vd_buf_clear(entry);
    return rc;
}

static int change_journal(stor_request_t *request, const stor_change_t *change, uint64_t timestamp,
                          uint32_t *part, vd_buf_t *entry, vd_error_t *err)
{
    int rc = VD_OK;
    if (vd_buf_len(entry) >= STOR_JOURNAL_PART_MAX)
        rc = entry_append(request, timestamp, (*part)++, entry, err);
    if (rc == VD_OK && vd_buf_len(entry) == 0)
        rc = stor_journal_begin(entry, request, request->variables.now_ms, err);
    return rc == VD_OK ? stor_journal_add(entry, change, err) : rc;
}

static int changes_journal(stor_pending_t *pending, stor_request_t *request, uint64_t timestamp,
                           uint32_t *part, vd_buf_t *entry, vd_error_t *err)
{
    int rc = VD_OK;
    for (pending_change_t *c = pending->first; rc == VD_OK && c != NULL; c = c->next) {
        rc = stor_request_check(request, err);
        change_stamp(c, timestamp);
        if (c->change.kind != STOR_CHANGE_IMAGE)
            pending->totals[c->touched->total].hash += c->change.hash_delta;
        if (rc == VD_OK)
            rc = change_journal(request, &c->change, timestamp, part, entry, err);
    }
    return rc;
}

int stor_pending_stamp(stor_pending_t *pending, stor_request_t *request, uint64_t timestamp,
                       const stor_change_t *first, uint32_t first_count,
                       const stor_change_t *result, vd_error_t *err)
{
    uint32_t part = 0;
    vd_buf_t entry;
    VD_ASSERT(stor_pending_count(pending) + first_count > 0);
    int rc = pending == NULL ? VD_OK : documents_stamp(pending, request, timestamp, err);
    vd_buf_init(&entry, ENTRY_MAX_BYTES);
    for (uint32_t i = 0; rc == VD_OK && i < first_count; i++)
        rc = change_journal(request, &first[i], timestamp, &part, &entry, err);
    VD_ASSERT(part == 0);
    if (rc == VD_OK && pending != NULL)
        rc = changes_journal(pending, request, timestamp, &part, &entry, err);
    if (rc == VD_OK && result != NULL)
        rc = change_journal(request, result, timestamp, &part, &entry, err);
    if (rc == VD_OK)
        rc = entry_append(request, timestamp, part, &entry, err);
    vd_buf_done(&entry);
    return rc;
}

void stor_pending_committed(stor_pending_t *pending)
{
    for (uint32_t i = 0; pending != NULL && i < pending->total_count; i++) {
        const total_t *total = &pending->totals[i];
        atomic_fetch_add_explicit(&total->collection->documents, total->documents,
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&total->collection->bytes, total->bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&total->collection->hash, total->hash, memory_order_relaxed);
    }
}
