/* veddb-storaged/streams/event.c — see event.h. */
#include "veddb-storaged/streams/event.h"

#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/change_names.h"
#include "veddb-storaged/delta.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/exec/query.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/streams/describe.h"

/* ---- events ---- */

static void put_ns(vd_bb_t *bb, const char *field, vd_slice_t db, vd_slice_t name)
{
    vd_bb_begin_document(bb, field);
    vd_bb_string(bb, "db", db);
    if (name.len > 0)
        vd_bb_string(bb, "coll", name);
    vd_bb_close(bb);
}

static void put_token(vd_bb_t *bb, const stor_token_t *token)
{
    char digits[STOR_TOKEN_DIGITS + 1];
    stor_token_write(token, digits);
    vd_bb_begin_document(bb, "_id");
    vd_bb_cstr(bb, "_data", digits);
    vd_bb_close(bb);
}

/* The document as it is now; *ret_found false: it is no more. */
static int lookup(const stor_event_t *event, vd_bson_t *ret_document, bool *ret_found)
{
    stor_request_t *request = event->request;
    stor_collection_t *collection =
        stor_catalog_reference(request->storage->catalog, event->change.collection_id);
    vd_error_t step = VD_ERROR_INIT;
    stor_cursor_t *cursor;
    vd_slice_t key, value;
    uint64_t version = 0;
    *ret_found = false;
    if (collection == NULL)
        return VD_OK;
    int rc = stor_id_key(event->scratch, event->change.id, &key, &step);
    if (rc == VD_OK)
        rc = stor_cursor_open(request->session, collection->table, &cursor, &step);
    if (rc == VD_OK)
        rc = stor_cursor_search(cursor, key, &value, &step);
    if (rc == VD_OK)
        rc = stor_envelope_read(value, ret_document, &version, &step);
    if (rc == VD_OK) {
        ret_document->data = vd_arena_copy(event->scratch, ret_document->data, ret_document->len);
        *ret_found = true;
        stor_request_depends(request, version);
    }
    stor_catalog_unreference(&collection);
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (event->err != NULL)
        vd_error_copy(&step, event->err);
    return rc;
}

static int image_missing(const stor_event_t *event, const char *which)
{
    char digits[STOR_TOKEN_DIGITS + 1];
    stor_token_write(&event->token, digits);
    return vd_error_set(event->err, VD_ERR_NO_MATCHING_DOCUMENT,
                        "Change stream was configured to require a %s for all update, delete and "
                        "replace events, but the %s was not found for event: {_data: \"%s\"}",
                        which, which, digits);
}

static int put_before(vd_bb_t *bb, const stor_event_t *event)
{
    stor_image_t wanted = event->spec->before;
    if (wanted == STOR_IMAGE_NONE || event->change.kind == STOR_CHANGE_INSERT)
        return VD_OK;
    if (event->image.data != NULL)
        vd_bb_document(bb, "fullDocumentBeforeChange", event->image);
    else if (wanted == STOR_IMAGE_REQUIRED)
        return image_missing(event, "pre-image");
    else
        vd_bb_null(bb, "fullDocumentBeforeChange");
    return VD_OK;
}

static int put_after(vd_bb_t *bb, const stor_event_t *event)
{
    stor_image_t wanted = event->spec->after;
    bool update =
        event->change.kind == STOR_CHANGE_DELTA || event->change.kind == STOR_CHANGE_UPDATE_WHOLE;
    vd_bson_t document = VD_BSON_NONE;
    bool found = false;
    int rc = VD_OK;
    if (!update || wanted == STOR_IMAGE_NONE)
        return VD_OK;
    if (wanted == STOR_IMAGE_LOOKUP) {
        rc = lookup(event, &document, &found);
    } else if (event->image.data != NULL) {
        found = true;
        document = event->change.body;
        if (event->change.kind == STOR_CHANGE_DELTA)
            rc = stor_delta_apply(event->scratch, event->image, event->change.body, &document,
                                  event->err);
    } else if (wanted == STOR_IMAGE_REQUIRED) {
        return image_missing(event, "post-image");
    }
    if (rc != VD_OK)
        return rc;
    if (found)
        vd_bb_document(bb, "fullDocument", document);
    else
        vd_bb_null(bb, "fullDocument");
    return VD_OK;
}

static int put_description(vd_bb_t *bb, const stor_event_t *event)
{
    vd_bson_t description;
    int rc;
    if (event->change.kind == STOR_CHANGE_DELTA)
        rc = stor_describe_delta(event->scratch, event->change.body, event->spec->expanded,
                                 &description, event->err);
    else if (event->change.kind == STOR_CHANGE_UPDATE_WHOLE)
        rc = stor_describe_whole(event->scratch, event->change.body, event->spec->expanded,
                                 &description, event->err);
    else
        return VD_OK;
    if (rc == VD_OK)
        vd_bb_document(bb, "updateDescription", description);
    return rc;
}

static void put_id_index(vd_bb_t *bb, vd_bson_t options)
{
    vd_value_t collation = vd_bson_get(options, "collation");
    vd_bb_begin_document(bb, "idIndex");
    stor_facts_id_index(bb, collation.type == VD_BSON_OBJECT ? vd_value_document(collation)
                                                             : VD_BSON_NONE);
    vd_bb_close(bb);
}

static vd_bson_t document_of(vd_bson_t body, const char *field)
{
    vd_value_t v = vd_bson_get(body, field);
    return v.type == VD_BSON_OBJECT ? vd_value_document(v) : VD_BSON_NONE;
}

/* Options that collMod changed, and what they were. */
static void put_modify(vd_bb_t *bb, const stor_event_t *event)
{
    vd_bson_t now = document_of(event->change.body, "options");
    vd_bson_t before = document_of(event->change.body, "before");
    vd_bson_iter_t iter;
    vd_bb_begin_document(bb, "operationDescription");
    vd_bson_iter_init(&iter, now);
    while (vd_bson_iter_next(&iter)) {
        vd_value_t old = vd_bson_get_slice(before, iter.name);
        if (old.type != iter.value.type || old.len != iter.value.len ||
            memcmp(old.data, iter.value.data, old.len) != 0)
            vd_bb_value(bb, iter.name, iter.value);
    }
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "stateBeforeChange");
    vd_bb_begin_document(bb, "collectionOptions");
    vd_bb_binary(bb, "uuid", 4, vd_slice(event->uuid, 16));
    vd_bb_concat(bb, before);
    vd_bb_close(bb);
    vd_bb_close(bb);
}

/* {indexes: [specification ...]} */
static void put_indexes(vd_bb_t *bb, vd_bson_t body)
{
    vd_value_t list = vd_bson_get(body, "indexes");
    char buf[12];
    uint32_t at = 0;
    vd_bb_begin_document(bb, "operationDescription");
    vd_bb_begin_array(bb, "indexes");
    if (list.type == VD_BSON_ARRAY) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(list));
        while (vd_bson_iter_next(&iter))
            if (iter.value.type == VD_BSON_OBJECT)
                vd_bb_value(bb, vd_array_name(at++, buf),
                            vd_bson_get(vd_value_document(iter.value), "spec"));
    }
    vd_bb_close(bb);
    vd_bb_close(bb);
}

/* Of an index: {index: {name, what changed}}, and what it was. */
static void put_index_modify(vd_bb_t *bb, vd_bson_t body)
{
    static const char *const fields[] = {"expireAfterSeconds", "hidden"};
    vd_value_t list = vd_bson_get(body, "indexes");
    vd_bson_t item = VD_BSON_NONE;
    vd_value_t first;
    if (list.type == VD_BSON_ARRAY && vd_bson_first(vd_value_document(list), NULL, &first) &&
        first.type == VD_BSON_OBJECT)
        item = vd_value_document(first);
    vd_bson_t now = document_of(item, "spec"), before = document_of(item, "before");
    for (int old = 0; old < 2; old++) {
        vd_bb_begin_document(bb, old ? "stateBeforeChange" : "operationDescription");
        vd_bb_begin_document(bb, old ? "indexOptions" : "index");
        if (!old)
            vd_bb_value(bb, VD_SLICE_LIT("name"), vd_bson_get(now, "name"));
        for (size_t i = 0; i < VD_COUNT_OF(fields); i++) {
            vd_value_t a = vd_bson_get(now, fields[i]), b = vd_bson_get(before, fields[i]);
            bool same = a.type == b.type && a.len == b.len &&
                        (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
            if (!same)
                vd_bb_value(bb, vd_slice_str(fields[i]), old ? b : a);
        }
        vd_bb_close(bb);
        vd_bb_close(bb);
    }
}

static void put_schema(vd_bb_t *bb, const stor_event_t *event)
{
    vd_bson_t body = event->change.body;
    if (event->change.kind == STOR_CHANGE_RENAME) {
        vd_value_t db = vd_bson_get(body, "toDb"), name = vd_bson_get(body, "toName");
        vd_slice_t to_db = vd_value_string(db), to_name = vd_value_string(name);
        put_ns(bb, "to", to_db, to_name);
        if (event->spec->expanded) {
            vd_bb_begin_document(bb, "operationDescription");
            put_ns(bb, "to", to_db, to_name);
            vd_bb_value(bb, VD_SLICE_LIT("dropTarget"), vd_bson_get(body, "droppedUuid"));
            vd_bb_close(bb);
        }
    } else if (event->change.kind == STOR_CHANGE_CREATE) {
        vd_bb_begin_document(bb, "operationDescription");
        put_id_index(bb, document_of(body, "options"));
        vd_bb_concat(bb, document_of(body, "options"));
        vd_bb_close(bb);
    } else if (event->change.kind == STOR_CHANGE_MODIFY) {
        put_modify(bb, event);
    } else if (event->change.kind == STOR_CHANGE_CREATE_INDEXES ||
               event->change.kind == STOR_CHANGE_DROP_INDEXES) {
        put_indexes(bb, body);
    } else if (event->change.kind == STOR_CHANGE_MODIFY_INDEX) {
        put_index_modify(bb, body);
    }
}

/* Of a multi-document one: the changes of retryable writes have statement ids. */
static void put_transaction(vd_bb_t *bb, const stor_event_t *event)
{
    const stor_journal_entry_t *entry = event->entry;
    if (entry->txn_number < 0 || entry->lsid.len != 16 || event->change.statement >= 0)
        return;
    vd_bb_int64(bb, "txnNumber", entry->txn_number);
    vd_bb_begin_document(bb, "lsid");
    vd_bb_binary(bb, "id", 4, entry->lsid);
    vd_bb_binary(bb, "uid", 0, entry->lsid_user);
    vd_bb_close(bb);
}

static void put_key(vd_bb_t *bb, const stor_event_t *event)
{
    vd_bb_begin_document(bb, "documentKey");
    vd_bb_value(bb, VD_SLICE_LIT("_id"), event->change.id);
    vd_bb_close(bb);
}

/* What stands before an event's document. */
static void put_facts(vd_bb_t *bb, const stor_event_t *event)
{
    vd_bb_cstr(bb, "operationType", event->type);
    vd_bb_timestamp(bb, "clusterTime", event->entry->timestamp);
    if (event->spec->expanded && event->uuid != NULL)
        vd_bb_binary(bb, "collectionUUID", 4, vd_slice(event->uuid, 16));
    vd_bb_date(bb, "wallTime", event->entry->wall_ms);
    put_transaction(bb, event);
}

int stor_event_facts(const stor_event_t *event, vd_bson_t *ret_facts)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, event->scratch, VD_BSON_INTERNAL_MAX_BYTES + 4096);
    put_facts(&bb, event);
    put_ns(&bb, "ns", event->db, event->name);
    if (event->change.kind < STOR_CHANGE_CREATE)
        put_key(&bb, event);
    return vd_bb_finish(&bb, ret_facts, NULL);
}

int stor_event_build(const stor_event_t *event, vd_bson_t *ret_event)
{
    stor_change_kind_t kind = event->change.kind;
    bool schema = kind >= STOR_CHANGE_CREATE;
    vd_bb_t *bb = vd_arena_alloc(event->scratch, sizeof *bb);
    vd_bb_init_arena(bb, event->scratch, 3 * VD_BSON_INTERNAL_MAX_BYTES);
    put_token(bb, &event->token);
    put_facts(bb, event);
    if (kind == STOR_CHANGE_INSERT || kind == STOR_CHANGE_REPLACE)
        vd_bb_document(bb, "fullDocument", event->change.body);
    put_ns(bb, "ns", event->db, event->name);
    int rc = VD_OK;
    if (schema) {
        put_schema(bb, event);
    } else {
        put_key(bb, event);
        rc = put_description(bb, event);
        if (rc == VD_OK)
            rc = put_before(bb, event);
        if (rc == VD_OK)
            rc = put_after(bb, event);
    }
    return rc == VD_OK ? vd_bb_finish(bb, ret_event, event->err) : rc;
}

int stor_event_invalidate(vd_arena_t *scratch, const stor_token_t *token, int64_t wall_ms,
                          vd_bson_t *ret_event, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, scratch, 4096);
    put_token(&bb, token);
    vd_bb_cstr(&bb, "operationType", "invalidate");
    vd_bb_timestamp(&bb, "clusterTime", token->timestamp);
    vd_bb_date(&bb, "wallTime", wall_ms);
    return vd_bb_finish(&bb, ret_event, err);
}

/* ---- which changes are events of this stream ---- */

static bool schema_names(stor_event_t *event)
{
    vd_value_t db = vd_bson_get(event->change.body, "db");
    vd_value_t name = vd_bson_get(event->change.body, "name");
    vd_value_t uuid = vd_bson_get(event->change.body, "uuid");
    if (db.type != VD_BSON_STRING)
        return false;
    event->db = vd_value_string(db);
    event->name = name.type == VD_BSON_STRING ? vd_value_string(name) : VD_SLICE_NULL;
    if (uuid.type == VD_BSON_BINARY && vd_value_binary(uuid, NULL).len == 16)
        event->uuid = vd_value_binary(uuid, NULL).data;
    return true;
}

static bool schema_covered(stor_event_t *event)
{
    const stor_stream_spec_t *spec = event->spec;
    vd_bson_t body = event->change.body;
    if (!schema_names(event))
        return false;
    bool covered = stor_stream_covers(spec, event->db, event->name);
    event->type = stor_change_names(event->change.kind).stream;
    switch (event->change.kind) {
    case STOR_CHANGE_CREATE:
    case STOR_CHANGE_MODIFY:
    case STOR_CHANGE_CREATE_INDEXES:
    case STOR_CHANGE_DROP_INDEXES:
    case STOR_CHANGE_MODIFY_INDEX:
        return covered && spec->expanded && event->uuid != NULL;
    case STOR_CHANGE_DROP:
        return covered;
    case STOR_CHANGE_RENAME: {
        vd_value_t db = vd_bson_get(body, "toDb"), name = vd_bson_get(body, "toName");
        return db.type == VD_BSON_STRING && name.type == VD_BSON_STRING &&
               (covered || stor_stream_covers(spec, vd_value_string(db), vd_value_string(name)));
    }
    case STOR_CHANGE_DROP_DATABASE:
        return spec->kind != STOR_STREAM_COLLECTION && covered;
    default:
        return false;
    }
}

bool stor_event_covered(stor_event_t *event, const vd_map_t *names)
{
    uint64_t id = event->change.collection_id;
    if (!stor_change_is_write(event->change.kind))
        return event->change.kind >= STOR_CHANGE_CREATE && schema_covered(event);
    event->type = stor_change_names(event->change.kind).stream;
    const stor_stream_name_t *name = vd_map_get(names, vd_key_u64(&id));
    if (name == NULL)
        return false;
    event->db = name->db, event->name = name->name, event->uuid = name->uuid;
    return true;
}

bool stor_event_invalidates(const stor_event_t *event)
{
    stor_stream_kind_t kind = event->spec->kind;
    return (kind == STOR_STREAM_COLLECTION &&
            (event->change.kind == STOR_CHANGE_DROP || event->change.kind == STOR_CHANGE_RENAME)) ||
           (kind == STOR_STREAM_DATABASE && event->change.kind == STOR_CHANGE_DROP_DATABASE);
}
