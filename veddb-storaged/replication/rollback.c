/* veddb-storaged/replication/rollback.c — what a diverged node wrote is saved before it goes; see
 * load.h (stor_rollback_save).
 *
 * One pass over the journal above `to`, without a list of what was touched: a document is written
 * at the entry that left it as it is now (its version is that entry's timestamp), a removed _id at
 * the last deletion that is still true. What a transaction touched twice is told apart by a map of
 * that one timestamp; removed _ids by a map of all (bounded: above it an _id may stand twice). */
#include "veddb-storaged/replication/load.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/map.h"
#include "libcommon/base/paths.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FOLDER_NAME       "recovery"
#define NAME_MAX_BYTES    200 /* of a file, before ".bson" */
#define BUFFERED_MAX      (8 * 1024 * 1024)
#define REMOVED_KEYS_MAX  1000000
#define TOUCHED_KEYS_MAX  10000000
#define ENTRIES_PER_TXN   1000
#define BYTES_PER_TXN     (16 * 1024 * 1024)
#define FILES_MAX         1000000
#define METADATA_MAX      (64 * 1024)
#define DOCUMENT_TEXT_MAX (VD_BSON_INTERNAL_MAX_BYTES + METADATA_MAX)

/* A file that grows: opened, appended to, synced and closed each time, so that their number is not
 * bounded by descriptors. */
typedef struct {
    char name[NAME_MAX_BYTES + 64];
    vd_buf_t waiting;
    bool made;
} file_t;

typedef struct {
    stor_storage_t *storage;
    stor_session_t *session;
    int folder; /* descriptor */
    vd_arena_t *arena, *entry_arena;
    vd_map_t *files;   /* u64 collection -> file_t */
    vd_map_t *removed; /* u64 collection, key */
    vd_map_t *touched; /* the same, of one timestamp */
    uint64_t touched_at;
    file_t removed_file, journal_file;
    size_t buffered;
    uint64_t documents;
} save_t;

static int os_error(vd_error_t *err, const char *what)
{
    int code = errno == ENOSPC || errno == EDQUOT ? VD_ERR_OUT_OF_DISK_SPACE : VD_ERR_IO;
    return vd_error_set(err, code, "saving what is rolled back: %s: %s", what, strerror(errno));
}

/* ---- files ---- */

static int bytes_write(int fd, vd_slice_t bytes)
{
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.data, bytes.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes = vd_slice(bytes.data + n, bytes.len - (size_t)n);
    }
    return 0;
}

static int file_flush(save_t *save, file_t *file, vd_error_t *err)
{
    if (vd_buf_len(&file->waiting) == 0)
        return VD_OK;
    int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW | (file->made ? 0 : O_CREAT | O_EXCL);
    int fd = openat(save->folder, file->name, flags, 0600);
    if (fd < 0)
        return os_error(err, file->name);
    file->made = true;
    int failed = bytes_write(fd, vd_buf_slice(&file->waiting));
    if (failed == 0)
        failed = fsync(fd);
    int rc = failed == 0 ? VD_OK : os_error(err, file->name);
    (void)close(fd); /* synced, or failed already */
    save->buffered -= vd_buf_len(&file->waiting);
    vd_buf_clear(&file->waiting);
    vd_buf_shrink(&file->waiting, 0);
    return rc;
}

static int files_flush(save_t *save, vd_error_t *err)
{
    size_t at = 0;
    vd_slice_t key;
    void *value;
    int rc = file_flush(save, &save->removed_file, err);
    if (rc == VD_OK)
        rc = file_flush(save, &save->journal_file, err);
    while (rc == VD_OK && vd_map_next(save->files, &at, &key, &value))
        rc = file_flush(save, value, err);
    return rc;
}

static int file_add(save_t *save, file_t *file, vd_bson_t document, vd_error_t *err)
{
    if (vd_buf_append(&file->waiting, document.data, document.len) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a document does not fit into %s", file->name);
    save->buffered += document.len;
    return save->buffered > BUFFERED_MAX ? files_flush(save, err) : VD_OK;
}

/* A name of users as one of files: letters, digits, '_', '-' and inner dots stay, the rest becomes
 * %XX. One that is too long is cut, and the collection's id tells it apart. */
static void name_make(char *out, size_t size, vd_slice_t db, vd_slice_t name, uint64_t id)
{
    size_t len = 0;
    bool cut = false;
    const vd_slice_t parts[3] = {db, VD_SLICE_LIT("."), name};
    for (int i = 0; i < 3; i++) {
        for (size_t n = 0; n < parts[i].len && !cut; n++) {
            uint8_t c = parts[i].data[n];
            bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '_' || c == '-' || (c == '.' && len > 0);
            cut = len + 3 > NAME_MAX_BYTES;
            if (!cut)
                len += (size_t)snprintf(out + len, size - len, plain ? "%c" : "%%%02X", c);
        }
    }
    if (cut)
        len += (size_t)snprintf(out + len, size - len, "~%" PRIu64, id);
    (void)snprintf(out + len, size - len, ".bson");
}

static int file_of(save_t *save, const stor_collection_t *collection, file_t **ret, vd_error_t *err)
{
    file_t *file = vd_map_get(save->files, vd_key_u64(&collection->id));
    if (file == NULL) {
        file = VD_ARENA_NEW(save->arena, file_t);
        vd_buf_init(&file->waiting, BUFFERED_MAX + DOCUMENT_TEXT_MAX);
        name_make(file->name, sizeof file->name, collection->db, collection->name, collection->id);
        if (vd_map_put(save->files, vd_key_u64(&collection->id), file, NULL) != VD_OK)
            return vd_error_set(err, VD_ERR_FULL, "too many collections");
    }
    *ret = file;
    return VD_OK;
}

/* ---- what was changed ---- */

static vd_slice_t place_of(vd_arena_t *arena, uint64_t collection, vd_slice_t key)
{
    uint8_t *bytes = vd_arena_alloc(arena, 8 + key.len);
    vd_put_u64_be(bytes, collection);
    memcpy(bytes + 8, key.data, key.len);
    return vd_slice(bytes, 8 + key.len);
}

static int removed_add(save_t *save, const stor_collection_t *collection, vd_slice_t place,
                       vd_value_t id, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    if (vd_map_get(save->removed, place) != NULL)
        return VD_OK;
    if (vd_map_count(save->removed) < REMOVED_KEYS_MAX) {
        int rc = vd_map_put(save->removed, place, save, NULL);
        VD_ASSERT(rc == VD_OK); /* counted */
    }
    vd_bb_init_arena(&bb, save->entry_arena, DOCUMENT_TEXT_MAX);
    vd_bb_cstr(&bb, "ns", collection->ns);
    vd_bb_value(&bb, VD_SLICE_LIT("_id"), id);
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK)
        rc = file_add(save, &save->removed_file, document, err);
    save->documents += rc == VD_OK;
    return rc;
}

static int document_add(save_t *save, const stor_collection_t *collection, vd_slice_t place,
                        vd_bson_t document, uint64_t timestamp, vd_error_t *err)
{
    file_t *file = NULL;
    if (save->touched_at != timestamp) {
        vd_map_destroy(&save->touched);
        save->touched = vd_map_create(TOUCHED_KEYS_MAX);
        save->touched_at = timestamp;
    }
    if (vd_map_get(save->touched, place) != NULL)
        return VD_OK;
    if (vd_map_put(save->touched, place, save, NULL) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "a transaction touched too many documents");
    int rc = file_of(save, collection, &file, err);
    if (rc == VD_OK)
        rc = file_add(save, file, document, err);
    save->documents += rc == VD_OK;
    return rc;
}

static int change_save(save_t *save, const stor_change_t *change, uint64_t timestamp,
                       const stor_collection_t *collection, vd_error_t *err)
{
    vd_slice_t key, value;
    stor_cursor_t *cursor;
    vd_error_t step = VD_ERROR_INIT;
    vd_bson_t document;
    uint64_t version;
    int rc = stor_id_key(save->entry_arena, change->id, &key, err);
    if (rc == VD_OK)
        rc = stor_cursor_open(save->session, collection->table, &cursor, err);
    if (rc != VD_OK)
        return rc;
    vd_slice_t place = place_of(save->entry_arena, collection->id, key);
    rc = stor_cursor_search(cursor, key, &value, &step);
    if (rc == VD_ERR_NOT_FOUND)
        return change->kind == STOR_CHANGE_DELETE
                   ? removed_add(save, collection, place, change->id, err)
                   : VD_OK; /* a deletion comes */
    if (rc == VD_OK)
        rc = stor_envelope_read(value, &document, &version, &step);
    if (rc != VD_OK) {
        if (err != NULL)
            vd_error_copy(&step, err);
        return rc;
    }
    return version == timestamp ? document_add(save, collection, place, document, timestamp, err)
                                : VD_OK; /* a later entry changed it again */
}

static const char *kind_name(stor_change_kind_t kind)
{
    switch (kind) {
    case STOR_CHANGE_INSERT:
        return "insert";
    case STOR_CHANGE_REPLACE:
    case STOR_CHANGE_UPDATE_WHOLE:
    case STOR_CHANGE_DELTA:
        return "update";
    case STOR_CHANGE_DELETE:
        return "delete";
    case STOR_CHANGE_CREATE:
        return "create";
    case STOR_CHANGE_DROP:
        return "drop";
    case STOR_CHANGE_RENAME:
        return "rename";
    case STOR_CHANGE_MODIFY:
        return "modify";
    case STOR_CHANGE_CREATE_INDEXES:
        return "createIndexes";
    case STOR_CHANGE_DROP_INDEXES:
        return "dropIndexes";
    case STOR_CHANGE_MODIFY_INDEX:
        return "modifyIndex";
    case STOR_CHANGE_START_INDEXES:
        return "startIndexes";
    case STOR_CHANGE_ABORT_INDEXES:
        return "abortIndexes";
    default:
        return "other";
    }
}

/* {ts, wall, user, kind, ns or collection, _id or body}: bodies of documents stand in their files.
 */
static int metadata_save(save_t *save, const stor_journal_entry_t *entry,
                         const stor_change_t *change, const stor_collection_t *collection,
                         vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init_arena(&bb, save->entry_arena, DOCUMENT_TEXT_MAX);
    vd_bb_timestamp(&bb, "ts", entry->timestamp);
    vd_bb_date(&bb, "wall", entry->wall_ms);
    vd_bb_string(&bb, "user", entry->user);
    vd_bb_cstr(&bb, "kind", kind_name(change->kind));
    vd_bb_int32(&bb, "kindNumber", (int32_t)change->kind);
    vd_bb_int64(&bb, "collection", (int64_t)change->collection_id);
    if (collection != NULL)
        vd_bb_cstr(&bb, "ns", collection->ns);
    if (change->kind < STOR_CHANGE_CREATE)
        vd_bb_value(&bb, VD_SLICE_LIT("_id"), change->id);
    else if (change->kind != STOR_CHANGE_RESULT) /* rows of sessions may hold documents */
        vd_bb_document(&bb, "body", change->body);
    int rc = vd_bb_finish(&bb, &document, err);
    return rc == VD_OK ? file_add(save, &save->journal_file, document, err) : rc;
}

/* Passwords' verifiers and the set's signing keys are no matter for a readable file: that they were
 * changed stands in journal.bson, as what does not. */
static bool is_secret(const stor_collection_t *collection)
{
    return vd_slice_is(collection->db, "admin") && collection->name.len > 7 &&
           memcmp(collection->name.data, "system.", 7) == 0;
}

static int entry_save(save_t *save, const stor_journal_entry_t *entry, vd_error_t *err)
{
    vd_slice_t changes = entry->changes;
    stor_change_t change;
    int rc;
    while ((rc = stor_journal_change_next(&changes, &change, err)) == VD_OK) {
        stor_collection_t *collection =
            stor_catalog_reference(save->storage->catalog, change.collection_id);
        rc = metadata_save(save, entry, &change, collection, err);
        if (rc == VD_OK && collection != NULL && change.kind < STOR_CHANGE_CREATE &&
            !is_secret(collection))
            rc = change_save(save, &change, entry->timestamp, collection, err);
        stor_catalog_unreference(&collection);
        vd_arena_reset(save->entry_arena);
        if (rc != VD_OK)
            return rc;
    }
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* Some entries in a transaction of their own: none is held for long. *ret_more: go on. */
static int stretch_save(save_t *save, stor_journal_reader_t *reader, bool *ret_more,
                        vd_error_t *err)
{
    stor_journal_entry_t entry;
    vd_error_t step = VD_ERROR_INIT;
    size_t bytes = 0;
    int rc = stor_txn_begin(save->session, err);
    if (rc != VD_OK)
        return rc;
    stor_journal_reader_begin(reader);
    for (int n = 0; rc == VD_OK && n < ENTRIES_PER_TXN && bytes < BYTES_PER_TXN; n++) {
        rc = stor_journal_reader_next(reader, UINT64_MAX, &entry, &step);
        if (rc != VD_OK)
            break;
        bytes += entry.changes.len;
        rc = entry_save(save, &entry, &step);
        if (rc == VD_ERR_NOT_FOUND) /* not the end of the journal */
            rc = VD_ERR_INTERNAL;
    }
    stor_txn_rollback(save->session);
    *ret_more = rc == VD_OK;
    if (rc == VD_OK || rc == VD_ERR_NOT_FOUND)
        return VD_OK;
    if (err != NULL)
        vd_error_copy(&step, err);
    return rc;
}

static int journal_save(save_t *save, uint64_t to, vd_error_t *err)
{
    bool more = true;
    int rc = VD_OK;
    stor_journal_stats_t stats;
    stor_journal_stats(save->storage->journal, &stats);
    /* What was cut off, or stood before a copy, can't be saved, and must not keep us from going on:
     * all that the journal has is. */
    if (to < stats.oldest)
        to = stats.oldest;
    stor_journal_reader_t *reader =
        stor_journal_reader_open(save->storage->journal, save->session, to);
    while (rc == VD_OK && more)
        rc = stretch_save(save, reader, &more, err);
    stor_journal_reader_close(&reader);
    return rc == VD_OK ? files_flush(save, err) : rc;
}

/* ---- the folder ---- */

static int folder_sync(const char *path, vd_error_t *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return os_error(err, path);
    int rc = fsync(fd) == 0 ? VD_OK : os_error(err, path);
    (void)close(fd); /* read only */
    return rc;
}

static int folder_make(save_t *save, vd_buf_t *path, vd_error_t *err)
{
    const char *data = save->storage->settings.data_folder;
    char parent[4096], name[4200], when[32];
    time_t now = (time_t)(vd_wall_ms() / 1000);
    struct tm utc;
    uint64_t term = save->storage->replication != NULL
                        ? (uint64_t)atomic_load(&save->storage->replication->term)
                        : save->storage->term;
    (void)gmtime_r(&now, &utc);
    (void)strftime(when, sizeof when, "%Y-%m-%dT%H-%M-%SZ", &utc);
    int len = snprintf(parent, sizeof parent, "%s/" FOLDER_NAME, data);
    if (len < 0 || (size_t)len >= sizeof parent)
        return vd_error_set(err, VD_ERR_CONFIG, "the data folder's name is too long");
    if (mkdir(parent, 0700) != 0 && errno != EEXIST)
        return os_error(err, parent);
    for (int n = 0; n < 1000; n++) {
        char again[16] = "";
        if (n > 0)
            (void)snprintf(again, sizeof again, "-%d", n);
        (void)snprintf(name, sizeof name, "%s/%s-term%" PRIu64 "%s", parent, when, term, again);
        if (mkdir(name, 0700) == 0)
            break;
        if (errno != EEXIST || n == 999)
            return os_error(err, name);
    }
    save->folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (save->folder < 0)
        return os_error(err, name);
    int rc = folder_sync(parent, err);
    if (rc == VD_OK)
        rc = folder_sync(data, err);
    vd_paths_tell(name, sizeof name); /* for a person */
    if (rc == VD_OK && vd_buf_append(path, name, strlen(name)) != VD_OK)
        rc = vd_error_set(err, VD_ERR_FULL, "the recovery folder's name is too long");
    return rc;
}

static void save_init(save_t *save)
{
    save->folder = -1;
    save->arena = vd_arena_create();
    save->entry_arena = vd_arena_create();
    save->files = vd_map_create(FILES_MAX);
    save->removed = vd_map_create(REMOVED_KEYS_MAX);
    save->touched = vd_map_create(TOUCHED_KEYS_MAX);
    vd_buf_init(&save->removed_file.waiting, BUFFERED_MAX + DOCUMENT_TEXT_MAX);
    vd_buf_init(&save->journal_file.waiting, BUFFERED_MAX + DOCUMENT_TEXT_MAX);
    (void)snprintf(save->removed_file.name, sizeof save->removed_file.name, "removed.bson");
    (void)snprintf(save->journal_file.name, sizeof save->journal_file.name, "journal.bson");
}

static void save_done(save_t *save)
{
    size_t at = 0;
    vd_slice_t key;
    void *value;
    while (vd_map_next(save->files, &at, &key, &value))
        vd_buf_done(&((file_t *)value)->waiting);
    vd_buf_done(&save->removed_file.waiting);
    vd_buf_done(&save->journal_file.waiting);
    vd_map_destroy(&save->files);
    vd_map_destroy(&save->removed);
    vd_map_destroy(&save->touched);
    vd_arena_destroy(&save->arena);
    vd_arena_destroy(&save->entry_arena);
    if (save->folder >= 0)
        (void)close(save->folder); /* read only */
}

int stor_rollback_save(stor_storage_t *storage, stor_session_t *session, uint64_t to,
                       uint64_t *ret_documents, vd_buf_t *ret_folder, vd_error_t *err)
{
    VD_ASSERT(!stor_txn_active(session));
    if (storage->replication != NULL && stor_replication_role(storage) == VDP_ROLE_PRIMARY)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a primary rolls nothing back");
    save_t save = {.storage = storage, .session = session};
    save_init(&save);
    size_t before = vd_buf_len(ret_folder);
    int rc = folder_make(&save, ret_folder, err);
    if (rc == VD_OK)
        rc = journal_save(&save, to, err);
    if (rc == VD_OK && fsync(save.folder) != 0)
        rc = os_error(err, "the folder");
    if (rc == VD_OK) {
        *ret_documents = save.documents;
        vd_log(VD_LOG_WARN, "what is rolled back was saved, in plain BSON",
               "folder=\"%.*s\" documents=%" PRIu64, VD_SLICE_FMT(vd_buf_slice(ret_folder)),
               save.documents);
    } else {
        vd_buf_truncate(ret_folder, before);
    }
    save_done(&save);
    return rc;
}
