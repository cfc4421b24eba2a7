/* veddb-storaged/commands/validate.c — validate, dbHash: is what is stored what should be?
 *
 * validate reads every document (which decrypts and authenticates its block), checks its bytes, its
 * key and the collection's validator, and then has the scrub compare count and hash with the kept
 * ones. Entries of indexes are compared with documents both ways (validate_indexes.c); `repair`
 * fills those anew that are wrong. */
#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/catalog/indexes.h"
#include "veddb-storaged/commands/read_common.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/commands/validate_capped.h"
#include "veddb-storaged/commands/validate_indexes.h"
#include "veddb-storaged/exec/scan.h"
#include "veddb-storaged/facts.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/replication/replication.h"
#include "veddb-storaged/scrub.h"

#include <openssl/evp.h>
#include <stdio.h>

#define MESSAGES_MAX 10

typedef struct {
    bool full, repair, metadata, conformance, background, fix_multikey;
} validate_args_t;

static const stor_arg_t validate_table[] = {
    STOR_ARG("full", STOR_ARG_BOOL, validate_args_t, full, 0),
    STOR_ARG("repair", STOR_ARG_BOOL, validate_args_t, repair, 0),
    STOR_ARG("metadata", STOR_ARG_BOOL, validate_args_t, metadata, 0),
    STOR_ARG("checkBSONConformance", STOR_ARG_BOOL, validate_args_t, conformance, 0),
    STOR_ARG("background", STOR_ARG_BOOL, validate_args_t, background, 0),
    {"scandata", STOR_ARG_IGNORED, 0, 0}, /* pymongo 3 sends it; MongoDB 7.0 ignores it */
    STOR_ARG("fixMultikey", STOR_ARG_BOOL, validate_args_t, fix_multikey, 0),
    {"enforceFastCount", STOR_ARG_IGNORED, 0, 0}, /* counts are always compared */
};

typedef struct {
    stor_request_t *request;
    const stor_collection_t *collection;
    validate_args_t args;
    int64_t records, invalid, not_conforming;
    bool valid, index_valid, repaired;
    int64_t inserted, removed; /* entries, by a repair */
    stor_validate_indexes_t indexes;
    const char *errors[MESSAGES_MAX], *warnings[MESSAGES_MAX];
    uint32_t error_count, warning_count;
} validate_t;

static void note_error(validate_t *validate, const char *message)
{
    validate->valid = false;
    if (validate->error_count < MESSAGES_MAX)
        validate->errors[validate->error_count++] = message;
}

static void note_warning(validate_t *validate, const char *message)
{
    if (validate->warning_count < MESSAGES_MAX)
        validate->warnings[validate->warning_count++] = message;
}

/* ---- every document ---- */

static int check_record(validate_t *validate, const stor_record_t *record, vd_arena_t *scratch,
                        vd_error_t *err)
{
    const stor_filter_t *validator = validate->collection->validator;
    vd_slice_t bytes = vd_slice(record->document.data, record->document.len), key;
    validate->records++;
    if (vd_bson_validate(bytes, 0, VD_BSON_BUILD_DEPTH_MAX, NULL) != VD_OK) {
        if (validate->invalid++ == 0)
            note_error(validate, "Detected one or more invalid documents.");
        return VD_OK;
    }
    if (validate->args.conformance &&
        vd_bson_validate(bytes, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) != VD_OK &&
        validate->not_conforming++ == 0)
        note_warning(validate, "Detected one or more documents in this collection not conformant "
                               "to BSON specifications.");
    if (stor_id_key(scratch, vd_bson_get(record->document, "_id"), &key, NULL) != VD_OK ||
        !vd_slice_equal(key, record->key)) {
        if (validate->index_valid)
            note_error(validate,
                       "One or more documents stand under a key that is not their _id's.");
        validate->index_valid = false;
    }
    if (validator == NULL)
        return VD_OK;
    stor_match_t match = {.arena = scratch, .variables = &validate->request->variables};
    bool matches = false;
    int rc = stor_match_document(validator, record->document, &match, &matches, err);
    if (rc == VD_OK && !matches && validate->not_conforming++ == 0)
        note_warning(validate, "Detected one or more documents not compliant with the collection's "
                               "schema.");
    return rc;
}

/* What stands behind a damaged block can't be reached by a walk: it ends there and says so. */
static int check_records(validate_t *validate, vd_error_t *err)
{
    stor_request_t *request = validate->request;
    stor_scan_options_t options = {.collection_id = validate->collection->id};
    stor_scan_t *scan = NULL;
    stor_record_t record;
    vd_error_t failure = VD_ERROR_INIT;
    int rc = stor_scan_open(request->arena, &options, &scan, err);
    if (rc != VD_OK)
        return rc;
    vd_arena_t *scratch = vd_arena_create();
    while (rc == VD_OK && (rc = stor_scan_next(scan, request, &record, &failure)) == VD_OK) {
        vd_arena_reset(scratch);
        rc = check_record(validate, &record, scratch, &failure);
    }
    stor_scan_close(&scan);
    vd_arena_destroy(&scratch);
    if (rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (rc == VD_ERR_CORRUPT || rc == VD_ERR_ENCRYPTION || rc == VD_ERR_IO ||
        rc == VD_ERR_KEY_MISSING || rc == VD_ERR_KEY_WRONG || rc == VD_ERR_NOT_ENCRYPTED) {
        note_error(validate, vd_arena_strdup(request->arena, failure.message));
        return VD_OK;
    }
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&failure, err);
    return rc;
}

/* ---- the whole ---- */

static int check_counters(validate_t *validate, vd_error_t *err)
{
    stor_request_t *request = validate->request;
    stor_scrub_result_t result;
    int rc = stor_scrub_collection(request->storage, request->session, validate->collection->id, 0,
                                   NULL, &result, err);
    if (rc != VD_OK)
        return rc;
    if (result.inconclusive)
        note_warning(validate, "The kept count and hash could not be compared: the journal was cut "
                               "meanwhile.");
    else if (!result.equal)
        note_error(validate,
                   vd_arena_printf(request->arena,
                                   "kept count, size or hash differ from what is stored: %lld "
                                   "documents kept, %lld found",
                                   (long long)result.documents_kept, (long long)result.documents));
    return VD_OK;
}

static int check_indexes(validate_t *validate, vd_error_t *err)
{
    vd_arena_t *arena = validate->request->arena;
    int rc =
        stor_validate_indexes(validate->request, validate->collection, &validate->indexes, err);
    for (uint32_t i = 0; rc == VD_OK && i < validate->indexes.count; i++) {
        const stor_validate_index_t *item = &validate->indexes.items[i];
        if (item->error != NULL)
            note_error(validate, vd_arena_printf(arena, "index '%.*s': %s",
                                                 VD_SLICE_FMT(item->name), item->error));
        if (item->missing > 0)
            note_error(validate,
                       vd_arena_printf(arena, "Detected %lld missing entries in index '%.*s'.",
                                       (long long)item->missing, VD_SLICE_FMT(item->name)));
        if (item->extra > 0)
            note_error(validate,
                       vd_arena_printf(arena, "Detected %lld extra entries in index '%.*s'.",
                                       (long long)item->extra, VD_SLICE_FMT(item->name)));
    }
    return rc;
}

static int check_order(validate_t *validate, vd_error_t *err)
{
    stor_validate_capped_t found = {0};
    if (!validate->collection->capped.is)
        return VD_OK;
    int rc = stor_validate_capped(validate->request, validate->collection, &found, err);
    if (found.empty > 0)
        note_error(validate, vd_arena_printf(validate->request->arena,
                                             "Detected %lld places without their document in the "
                                             "order of a capped collection.",
                                             (long long)found.empty));
    if (found.missing > 0)
        note_error(validate, vd_arena_printf(validate->request->arena,
                                             "Detected %lld documents without their place in the "
                                             "order of a capped collection.",
                                             (long long)found.missing));
    return rc;
}

static bool indexes_valid(const validate_t *validate)
{
    for (uint32_t i = 0; i < validate->indexes.count; i++)
        if (!validate->indexes.items[i].valid)
            return false;
    return true;
}

/* Those that are wrong are filled anew, and looked at again. */
static int repair_indexes(validate_t *validate, vd_slice_t name, vd_error_t *err)
{
    stor_request_t *request = validate->request;
    stor_collection_t *collection = NULL;
    uint64_t id = validate->collection->id, found;
    int rc = VD_OK;
    if (indexes_valid(validate))
        return VD_OK;
    if (!stor_replication_alone(request->storage) &&
        stor_replication_role(request->storage) != VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_ILLEGAL_OPERATION,
                            "validate: a member that is no primary repairs nothing: resync it");
    stor_catalog_release_all(request); /* validate->collection may go */
    for (uint32_t i = 0; rc == VD_OK && i < validate->indexes.count; i++) {
        const stor_validate_index_t *item = &validate->indexes.items[i];
        if (item->valid)
            continue;
        validate->inserted += item->missing;
        validate->removed += item->extra;
        rc = stor_catalog_index_refill(request, id, item->id, err);
    }
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &found, &collection, err);
    if (rc != VD_OK)
        return rc;
    if (collection == NULL || found != id)
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND,
                            "the collection was dropped meanwhile");
    validate->collection = collection;
    validate->repaired = true;
    validate->valid = true;
    validate->error_count = 0;
    note_warning(validate, "Indexes that were not what they should be were built anew.");
    return check_indexes(validate, err);
}

static int check_table(validate_t *validate, vd_error_t *err)
{
    stor_request_t *request = validate->request;
    vd_error_t failure = VD_ERROR_INIT;
    int rc =
        stor_engine_table_verify(request->storage->engine, validate->collection->table, &failure);
    if (rc == VD_ERR_OBJECT_IS_BUSY) {
        note_warning(validate, "Could not complete verification of the table's file. This is a "
                               "transient issue as the collection was actively in use by other "
                               "operations.");
        return VD_OK;
    }
    if (rc == VD_ERR_CORRUPT) {
        note_error(validate, vd_arena_strdup(request->arena, failure.message));
        return VD_OK;
    }
    if (rc != VD_OK && err != NULL)
        vd_error_copy(&failure, err);
    return rc;
}

static void append_messages(vd_bb_t *bb, const char *name, const char *const *messages,
                            uint32_t count)
{
    char buf[12];
    vd_bb_begin_array(bb, name);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(buf, sizeof buf, "%u", i);
        vd_bb_cstr(bb, buf, messages[i]);
    }
    vd_bb_close(bb);
}

static void append_entries(vd_bb_t *bb, const char *name, const vd_bson_t *entries, uint32_t count)
{
    char buf[12];
    vd_bb_begin_array(bb, name);
    for (uint32_t i = 0; i < count; i++)
        vd_bb_value(bb, vd_array_name(i, buf), vd_value_from_document(entries[i]));
    vd_bb_close(bb);
}

static void append_validate(const validate_t *validate)
{
    vd_bb_t *bb = &validate->request->reply;
    vd_bb_string(bb, "ns", validate->request->ns);
    vd_bb_binary(bb, "uuid", 4, vd_slice(validate->collection->uuid, 16));
    if (!validate->args.metadata) {
        stor_facts_number(bb, "nInvalidDocuments", validate->invalid);
        stor_facts_number(bb, "nNonCompliantDocuments", validate->not_conforming);
        stor_facts_number(bb, "nrecords", validate->records);
    }
    const stor_validate_indexes_t *indexes = &validate->indexes;
    const stor_index_set_t *set = validate->collection->indexes;
    bool plain =
        stor_index_plain_id(validate->collection); /* the table itself is the index on _id */
    int32_t ready = plain;
    for (uint32_t i = 0; set != NULL && i < set->count; i++)
        ready += atomic_load(&set->items[i]->state) == STOR_INDEX_READY;
    vd_bb_int32(bb, "nIndexes", ready);
    vd_bb_begin_document(bb, "keysPerIndex");
    if (!validate->args.metadata && plain)
        stor_facts_number(bb, "_id_", validate->records);
    for (uint32_t i = 0; !validate->args.metadata && i < indexes->count; i++)
        vd_bb_value(bb, indexes->items[i].name,
                    vd_value_from_int64(validate->request->arena, indexes->items[i].entries));
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "indexDetails");
    if (plain) {
        vd_bb_begin_document(bb, "_id_");
        vd_bb_bool(bb, "valid", validate->index_valid);
        vd_bb_close(bb);
    }
    for (uint32_t i = 0; i < indexes->count; i++) {
        bool of_id = i == 0 && !plain;
        vd_bb_open_document(bb, indexes->items[i].name);
        vd_bb_bool(bb, "valid", indexes->items[i].valid && (!of_id || validate->index_valid));
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    vd_bb_bool(bb, "valid", validate->valid);
    vd_bb_bool(bb, "repaired", validate->repaired);
    if (validate->repaired) {
        stor_facts_number(bb, "numRemovedExtraIndexEntries", validate->removed);
        stor_facts_number(bb, "numInsertedMissingIndexEntries", validate->inserted);
    }
    append_messages(bb, "warnings", validate->warnings, validate->warning_count);
    append_messages(bb, "errors", validate->errors, validate->error_count);
    append_entries(bb, "extraIndexEntries", indexes->extra, indexes->extra_count);
    append_entries(bb, "missingIndexEntries", indexes->missing, indexes->missing_count);
    append_messages(bb, "corruptRecords", NULL, 0);
}

static int validate_args(stor_request_t *request, validate_args_t *args, vd_error_t *err)
{
    int rc = stor_args_parse(request->body, "validate", true, validate_table,
                             VD_COUNT_OF(validate_table), args, err);
    if (rc == VD_OK && args->fix_multikey)
        rc = vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "validate: fixMultikey is not built");
    if (rc == VD_OK && args->repair && (args->background || args->metadata))
        rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                          "Running the validate command with { repair: true } and { %s: true } is "
                          "not supported.",
                          args->background ? "background" : "metadata");
    if (rc == VD_OK && args->background && (args->full || args->metadata || args->conformance))
        rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                          "Running the validate command with { background: true } and { %s: true } "
                          "is not supported.",
                          args->full       ? "full"
                          : args->metadata ? "metadata"
                                           : "checkBSONConformance");
    if (rc == VD_OK && args->metadata && (args->full || args->conformance))
        rc = vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                          "Running the validate command with { metadata: true } is not supported "
                          "with any other options");
    return rc;
}

int stor_run_validate(stor_request_t *request, vd_error_t *err)
{
    validate_t validate = {.request = request, .valid = true, .index_valid = true};
    stor_collection_t *collection = NULL;
    vd_slice_t name;
    uint64_t id;
    int rc = validate_args(request, &validate.args, err);
    if (rc == VD_OK)
        rc = stor_request_collection_name(request, &name, err);
    if (rc == VD_OK)
        rc = stor_read_collection(request, name, &id, &collection, err);
    if (rc != VD_OK)
        return rc;
    if (collection == NULL)
        return vd_error_set(err, VD_ERR_NAMESPACE_NOT_FOUND,
                            "Collection '%.*s' does not exist to validate.",
                            VD_SLICE_FMT(request->ns));
    validate.collection = collection;
    if (!validate.args.metadata) {
        rc = check_records(&validate, err);
        if (rc == VD_OK && validate.error_count == 0)
            rc = check_counters(&validate, err);
        if (rc == VD_OK)
            rc = check_indexes(&validate, err);
        if (rc == VD_OK)
            rc = check_order(&validate, err);
        if (rc == VD_OK && validate.args.repair)
            rc = repair_indexes(&validate, name, err);
    }
    if (rc == VD_OK && validate.args.full)
        rc = check_table(&validate, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    append_validate(&validate);
    return VD_OK;
}

/* ---- dbHash: the additive hash that is kept per collection, and MD5 over all of them ---- */

static void hex(char *out, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static bool wanted(vd_bson_t only, vd_slice_t name)
{
    vd_bson_iter_t iter;
    if (vd_bson_is_empty(only))
        return true;
    vd_bson_iter_init(&iter, only);
    while (vd_bson_iter_next(&iter))
        if (iter.value.type == VD_BSON_STRING && vd_slice_equal(vd_value_string(iter.value), name))
            return true;
    return false;
}

typedef struct {
    vd_bson_t collections;
} hash_args_t;

int stor_run_db_hash(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("collections", STOR_ARG_ARRAY, hash_args_t, collections, 0)};
    hash_args_t args = {0};
    stor_collection_info_t *infos;
    uint32_t count;
    char host[STOR_FACTS_HOST_SIZE], text[2 * EVP_MAX_MD_SIZE + 1];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    uint64_t started = vd_monotonic_ms();
    int rc = stor_args_parse(request->body, "dbHash", true, table, VD_COUNT_OF(table), &args, err);
    if (rc == VD_OK)
        rc = stor_catalog_list(request->storage->catalog, request->arena, request->db, false,
                               &infos, &count, err);
    if (rc != VD_OK)
        return rc;
    stor_request_depends_newest(request);
    EVP_MD_CTX *all = EVP_MD_CTX_new();
    if (all == NULL || EVP_DigestInit_ex(all, EVP_md5(), NULL) != 1) {
        EVP_MD_CTX_free(all);
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no digest for dbHash");
    }
    vd_bb_t *bb = &request->reply;
    vd_bb_string(bb, "host", stor_facts_host(request->storage, host));
    vd_bb_begin_document(bb, "collections");
    for (uint32_t i = 0; i < count; i++) {
        if (infos[i].view || !wanted(args.collections, infos[i].name))
            continue;
        snprintf(text, sizeof text, "%016llx%016llx", (unsigned long long)infos[i].hash,
                 (unsigned long long)infos[i].documents);
        vd_bb_value(bb, infos[i].name, vd_value_from_string(request->arena, vd_slice_str(text)));
        (void)EVP_DigestUpdate(all, infos[i].name.data, infos[i].name.len);
        (void)EVP_DigestUpdate(all, text, strlen(text)); /* can't fail after a good init */
    }
    vd_bb_close(bb);
    vd_bb_begin_array(bb, "capped");
    for (uint32_t i = 0, n = 0; i < count; i++) {
        char name[12];
        if (!infos[i].view && wanted(args.collections, infos[i].name) &&
            vd_value_as_flag(vd_bson_get(infos[i].options, "capped")))
            vd_bb_value(bb, vd_array_name(n++, name),
                        vd_value_from_string(request->arena, infos[i].name));
    }
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "uuids");
    for (uint32_t i = 0; i < count; i++) {
        if (infos[i].view || !wanted(args.collections, infos[i].name))
            continue;
        vd_bb_binary(bb, vd_arena_strndup(request->arena, infos[i].name.data, infos[i].name.len), 4,
                     vd_slice(infos[i].uuid, 16));
    }
    vd_bb_close(bb);
    (void)EVP_DigestFinal_ex(all, digest, &digest_len);
    EVP_MD_CTX_free(all);
    hex(text, digest, digest_len);
    vd_bb_cstr(bb, "md5", text);
    stor_facts_number(bb, "timeMillis", (int64_t)(vd_monotonic_ms() - started));
    return VD_OK;
}
