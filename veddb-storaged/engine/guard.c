/* veddb-storaged/engine/guard.c — see the header. The scan of the log stands in log_scan.c. */
#include "veddb-storaged/engine/guard.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/runtime/backup.h"
#include "veddb-storaged/engine/crc32c.h"
#include "veddb-storaged/engine/log_scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_FILE      "VedDB.lock"
#define FORMAT_FILE    "VedDB.format"
#define FORMAT_NEW     "VedDB.format.new"
#define BOOTSTRAP_MARK "VedDB.bootstrap"
/* The highest log file that a flush has reached: without it a missing last file would not be
 * noticed. Magic 8 B, number u32, crc32c u32. */
#define LOG_NOTE_FILE    "VedDB.log"
#define LOG_NOTE_NEW     "VedDB.log.new"
#define LOG_NOTE_MAGIC   "VEDDBLOG"
#define LOG_NOTE_BYTES   16
#define LOG_HEADER_BYTES 128
#define FORMAT_MAGIC     "VEDDBFMT"
/* Stands while a database is closed in order: SHA-256 of the turtle, sealed. WiredTiger keeps no
 * sum of its turtle, and takes many a flipped bit in it for another value. */
#define CLOSED_FILE      "VedDB.closed"
#define CLOSED_NEW       "VedDB.closed.new"
#define CLOSED_BYTES     (SHA256_DIGEST_LENGTH + STOR_BLOCK_OVERHEAD_BYTES)
#define TURTLE_FILE      "WiredTiger.turtle"
#define BACKUP_FILE      "WiredTiger.backup"
#define TURTLE_MAX_BYTES 16384
/* Plain: magic 8 B, version u32, length u32 of the block. Then a sealed block {version u32,
 * database id 16 B, made at (ms) u64}, then crc32c u32. */
#define FORMAT_HEAD_BYTES    16
#define FORMAT_PAYLOAD_BYTES 28
#define FORMAT_BLOCK_BYTES   (FORMAT_PAYLOAD_BYTES + STOR_BLOCK_OVERHEAD_BYTES)
#define FORMAT_FILE_BYTES    (FORMAT_HEAD_BYTES + FORMAT_BLOCK_BYTES + 4)

/* The keys that blocks may need: magic 8 B, count u32, then id 16 B and version u32 each, crc32c
 * u32. Not a secret, and not sealed: it must be read without a key. */
#define KEYS_NOTE_FILE  "VedDB.keys"
#define KEYS_NOTE_NEW   "VedDB.keys.new"
#define KEYS_NOTE_MAGIC "VEDDBKEY"
#define KEYS_NOTE_ENTRY (STOR_KEY_ID_BYTES + 4)
#define KEYS_NOTE_MAX   (16 + STOR_KEYS_MAX * KEYS_NOTE_ENTRY)

typedef struct {
    uint8_t id[STOR_KEY_ID_BYTES];
    uint32_t version;
} noted_key_t;

struct stor_guard {
    int dir_fd, lock_fd;
    bool bootstrap, restored;
    stor_keys_t *keys;
    char *folder;
    uint8_t payload[FORMAT_PAYLOAD_BYTES];
    uint8_t sealed_with[STOR_KEY_ID_BYTES];
    /* As the note has it, and as seen before the flush under way; the flusher's thread alone after
     * open. */
    uint32_t log_highest, log_candidate;
    stor_log_scan_t scan;
    pthread_mutex_t noted_lock;
    noted_key_t noted[STOR_KEYS_MAX];
    uint32_t noted_count;
};

static bool is_engine_file(const char *name)
{
    size_t len = strlen(name);
    return strncmp(name, "WiredTiger", 10) == 0 ||
           (len > 3 && strcmp(name + len - 3, ".wt") == 0) || strcmp(name, FORMAT_FILE) == 0 ||
           strcmp(name, LOG_NOTE_FILE) == 0 || strcmp(name, KEYS_NOTE_FILE) == 0;
}

/* Calls visit for each engine file until one returns other than 0. Returns -1 when the folder can't
 * be read. */
static int each_engine_file(const char *folder, int (*visit)(int dir_fd, const char *name))
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return -1;
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(dir)) != NULL;)
        if (is_engine_file(entry->d_name))
            rc = visit(dirfd(dir), entry->d_name);
    (void)closedir(dir); /* was only read */
    return rc;
}

static int visit_found(int dir_fd, const char *name)
{
    (void)dir_fd;
    (void)name;
    return 1;
}

static int visit_remove(int dir_fd, const char *name)
{
    return unlinkat(dir_fd, name, 0) == 0 ? 0 : -2;
}

bool stor_guard_exists(const char *folder)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", folder, BOOTSTRAP_MARK);
    return access(path, F_OK) != 0 && each_engine_file(folder, visit_found) == 1;
}

static int folder_lock(stor_guard_t *guard, vd_error_t *err)
{
    guard->dir_fd = open(guard->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (guard->dir_fd < 0)
        return vd_error_set_errno(err, "the data folder %s", guard->folder);
    guard->lock_fd = openat(guard->dir_fd, LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (guard->lock_fd < 0)
        return vd_error_set_errno(err, "%s/%s", guard->folder, LOCK_FILE);
    if (flock(guard->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return VD_OK;
    if (errno == EWOULDBLOCK)
        return vd_error_set(err, VD_ERR_OBJECT_IS_BUSY,
                            "the data folder %s is in use by another process (%s is locked)",
                            guard->folder, LOCK_FILE);
    return vd_error_set_errno(err, "locking %s/%s", guard->folder, LOCK_FILE);
}

static int bytes_write(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        len -= (size_t)n;
    }
    return fsync(fd);
}

/* Whole or not at all, also after a power loss: new file, sync, rename, sync of the folder. */
static int file_replace(const stor_guard_t *guard, const char *name, const char *temporary,
                        const uint8_t *data, size_t len, vd_error_t *err)
{
    int fd = openat(guard->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -1 : bytes_write(fd, data, len);
    if (rc == 0)
        rc = renameat(guard->dir_fd, temporary, guard->dir_fd, name);
    if (rc == 0)
        rc = fsync(guard->dir_fd);
    if (rc != 0)
        (void)vd_error_set_errno(err, "writing %s/%s", guard->folder, name);
    if (fd >= 0)
        (void)close(fd); /* synced already */
    return rc == 0 ? VD_OK : VD_ERR_IO;
}

static int format_write(stor_guard_t *guard, vd_error_t *err)
{
    uint8_t bytes[FORMAT_FILE_BYTES];
    size_t sealed_len = 0;
    memcpy(bytes, FORMAT_MAGIC, 8);
    vd_put_u32(bytes + 8, STOR_FORMAT_VERSION);
    vd_put_u32(bytes + 12, FORMAT_BLOCK_BYTES);
    int rc = stor_keys_seal(guard->keys, vd_slice(guard->payload, sizeof guard->payload),
                            bytes + FORMAT_HEAD_BYTES, &sealed_len, err);
    if (rc != VD_OK)
        return rc;
    VD_ASSERT(sealed_len == FORMAT_BLOCK_BYTES);
    vd_put_u32(bytes + FORMAT_FILE_BYTES - 4, stor_crc32c(0, bytes, FORMAT_FILE_BYTES - 4));
    return file_replace(guard, FORMAT_FILE, FORMAT_NEW, bytes, sizeof bytes, err);
}

/* The version is looked at first, so that a newer form gets its own message; the sum tells damage
 * from a wrong key. */
static int format_parse(stor_guard_t *guard, const uint8_t *bytes, size_t len, vd_error_t *err)
{
    if (len < FORMAT_HEAD_BYTES || memcmp(bytes, FORMAT_MAGIC, 8) != 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is damaged (no magic)", guard->folder,
                            FORMAT_FILE);
    uint32_t version = vd_get_u32(bytes + 8);
    bool sum_fits = len > FORMAT_HEAD_BYTES + 4 &&
                    vd_get_u32(bytes + len - 4) == stor_crc32c(0, bytes, len - 4);
    if (!sum_fits)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is damaged (checksum)", guard->folder,
                            FORMAT_FILE);
    if (version != STOR_FORMAT_VERSION || len != FORMAT_FILE_BYTES)
        return vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT,
                            "the data in %s has format %u; this program reads and writes format %d",
                            guard->folder, version, STOR_FORMAT_VERSION);
    size_t plain_len = 0;
    vd_slice_t block = vd_slice(bytes + FORMAT_HEAD_BYTES, FORMAT_BLOCK_BYTES);
    int rc = stor_keys_block_key(block, guard->sealed_with, err);
    if (rc == VD_OK)
        rc = stor_keys_open(guard->keys, block, guard->payload, &plain_len, err);
    if (rc != VD_OK)
        return vd_error_prefix(err, "%s/%s", guard->folder, FORMAT_FILE);
    if (vd_get_u32(guard->payload) != version)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is not authentic", guard->folder,
                            FORMAT_FILE);
    return VD_OK;
}

static int format_check(stor_guard_t *guard, vd_error_t *err)
{
    uint8_t bytes[4096];
    int fd = openat(guard->dir_fd, FORMAT_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is missing", guard->folder, FORMAT_FILE);
    if (fd < 0)
        return vd_error_set_errno(err, "%s/%s", guard->folder, FORMAT_FILE);
    ssize_t len = pread(fd, bytes, sizeof bytes, 0);
    int rc = len < 0 ? vd_error_set_errno(err, "reading %s/%s", guard->folder, FORMAT_FILE)
                     : format_parse(guard, bytes, (size_t)len, err);
    (void)close(fd); /* was only read */
    return rc;
}

static int bootstrap_begin(stor_guard_t *guard, vd_error_t *err)
{
    bool half_made = faccessat(guard->dir_fd, BOOTSTRAP_MARK, F_OK, 0) == 0;
    if (!half_made && each_engine_file(guard->folder, visit_found) != 0)
        return vd_error_set(err, VD_ERR_EXISTS,
                            "%s holds a database, or remains of one: no new one is made there",
                            guard->folder);
    if (half_made && each_engine_file(guard->folder, visit_remove) != 0)
        return vd_error_set_errno(err, "clearing the half-made database in %s", guard->folder);
    const uint8_t mark[] = "a new database is being made here\n";
    int rc = file_replace(guard, BOOTSTRAP_MARK, BOOTSTRAP_MARK ".new", mark, sizeof mark - 1, err);
    if (rc != VD_OK)
        return rc;
    vd_put_u32(guard->payload, STOR_FORMAT_VERSION);
    vd_rand_secret(guard->payload + 4, 16);
    vd_put_u64(guard->payload + 20, (uint64_t)vd_wall_ms());
    return VD_OK;
}

static int must_stand(const stor_guard_t *guard, const char *name, vd_error_t *err)
{
    struct stat st;
    if (fstatat(guard->dir_fd, name, &st, 0) != 0) {
        if (errno == ENOENT)
            return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is missing", guard->folder, name);
        return vd_error_set_errno(err, "%s/%s", guard->folder, name);
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is empty or no file", guard->folder, name);
    return VD_OK;
}

static int turtle_text(const stor_guard_t *guard, char text[TURTLE_MAX_BYTES], size_t *ret_len,
                       vd_error_t *err)
{
    int fd = openat(guard->dir_fd, TURTLE_FILE, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : pread(fd, text, TURTLE_MAX_BYTES - 1, 0);
    if (len < 0)
        (void)vd_error_set_errno(err, "reading %s/" TURTLE_FILE, guard->folder);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    if (len < 0)
        return VD_ERR_IO;
    text[len] = '\0';
    *ret_len = (size_t)len;
    return VD_OK;
}

/* After a close in order the turtle is as it was left; after a crash there is nothing to compare.
 */
static int closed_check(const stor_guard_t *guard, const char *text, size_t len, vd_error_t *err)
{
    uint8_t sealed[CLOSED_BYTES + 1], sum[CLOSED_BYTES], now[SHA256_DIGEST_LENGTH];
    size_t sum_len = 0;
    int fd = openat(guard->dir_fd, CLOSED_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return VD_OK;
    ssize_t n = fd < 0 ? -1 : pread(fd, sealed, sizeof sealed, 0);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    if (n < 0)
        return vd_error_set_errno(err, "reading %s/%s", guard->folder, CLOSED_FILE);
    if (n != CLOSED_BYTES)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is damaged", guard->folder, CLOSED_FILE);
    int rc = stor_keys_open(guard->keys, vd_slice(sealed, CLOSED_BYTES), sum, &sum_len, err);
    if (rc != VD_OK)
        return vd_error_prefix(err, "%s/%s", guard->folder, CLOSED_FILE);
    (void)SHA256((const uint8_t *)text, len, now);
    if (sum_len != sizeof now || memcmp(sum, now, sizeof now) != 0)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "%s/" TURTLE_FILE " is damaged: it is not as it was left at the close",
                            guard->folder);
    return VD_OK;
}

/* Where recovery of the metadata begins in the log, from the turtle's plain text. */
static int turtle_read(const stor_guard_t *guard, stor_log_place_t *ret_needed, vd_error_t *err)
{
    char text[TURTLE_MAX_BYTES];
    size_t len;
    int rc = turtle_text(guard, text, &len, err);
    if (rc == VD_OK)
        rc = closed_check(guard, text, len, err);
    if (rc != VD_OK)
        return rc;
    const char *at = strstr(text, ",checkpoint_lsn=(");
    stor_log_place_t needed = {0};
    if (at == NULL ||
        sscanf(at, ",checkpoint_lsn=(%" SCNu32 ",%" SCNu64 ")", &needed.file, &needed.offset) != 2)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "%s/" TURTLE_FILE " is damaged: it names no checkpoint", guard->folder);
    *ret_needed = needed;
    return VD_OK;
}

static int log_note_read(const stor_guard_t *guard, uint32_t *ret_number, vd_error_t *err)
{
    uint8_t bytes[LOG_NOTE_BYTES + 1];
    int fd = openat(guard->dir_fd, LOG_NOTE_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is missing", guard->folder, LOG_NOTE_FILE);
    ssize_t len = fd < 0 ? -1 : pread(fd, bytes, sizeof bytes, 0);
    int rc = VD_OK;
    if (len < 0)
        rc = vd_error_set_errno(err, "reading %s/%s", guard->folder, LOG_NOTE_FILE);
    else if (len != LOG_NOTE_BYTES || memcmp(bytes, LOG_NOTE_MAGIC, 8) != 0 ||
             vd_get_u32(bytes + 12) != stor_crc32c(0, bytes, 12))
        rc = vd_error_set(err, VD_ERR_CORRUPT, "%s/%s is damaged", guard->folder, LOG_NOTE_FILE);
    else
        *ret_number = vd_get_u32(bytes + 8);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    return rc;
}

static void log_note_pack(uint32_t number, uint8_t bytes[LOG_NOTE_BYTES])
{
    memcpy(bytes, LOG_NOTE_MAGIC, 8);
    vd_put_u32(bytes + 8, number);
    vd_put_u32(bytes + 12, stor_crc32c(0, bytes, 12));
}

int stor_guard_log_copy(uint32_t last_file, vd_buf_t *out)
{
    uint8_t bytes[LOG_NOTE_BYTES];
    log_note_pack(last_file, bytes);
    return vd_buf_append(out, bytes, sizeof bytes);
}

static int log_note_write(stor_guard_t *guard, uint32_t number, vd_error_t *err)
{
    uint8_t bytes[LOG_NOTE_BYTES];
    log_note_pack(number, bytes);
    int rc = file_replace(guard, LOG_NOTE_FILE, LOG_NOTE_NEW, bytes, sizeof bytes, err);
    if (rc == VD_OK)
        guard->log_highest = number;
    return rc;
}

static uint32_t log_probe(const stor_guard_t *guard, uint32_t number)
{
    char name[64];
    for (;; number++) {
        (void)snprintf(name, sizeof name, STOR_LOG_FILE_PREFIX "%010u", number + 1);
        if (VD_LIKELY(faccessat(guard->dir_fd, name, F_OK, 0) != 0))
            return number;
    }
}

/* A file that is seen now may not be durable yet, not even its name. It is after the next flush,
 * which has written its marker there. */
int stor_guard_log_flushed(stor_guard_t *guard, vd_error_t *err)
{
    int rc = VD_OK;
    if (VD_UNLIKELY(guard->log_candidate > guard->log_highest))
        rc = log_note_write(guard, guard->log_candidate, err);
    guard->log_candidate = log_probe(guard, guard->log_highest);
    return rc;
}

/* WiredTiger takes some forms of a torn tail for damage. What the scan has found not to be durable
 * is cut off here, the newest file first, so that a crash in between leaves a torn tail again. */
static int log_cut(stor_guard_t *guard, vd_error_t *err)
{
    char name[64];
    uint32_t file = guard->scan.torn_at.file;
    uint64_t offset = guard->scan.torn_at.offset;
    if (offset <= LOG_HEADER_BYTES)
        offset = 0; /* WiredTiger can't read a file that has its header alone: it goes, too */
    vd_log(VD_LOG_WARN, "the log ends in records that never became durable; they are cut off",
           "file=" STOR_LOG_FILE_PREFIX "%010u offset=%" PRIu64, file, offset);
    int rc = 0;
    for (uint32_t last = log_probe(guard, file); rc == 0 && (last > file || offset == 0); last--) {
        (void)snprintf(name, sizeof name, STOR_LOG_FILE_PREFIX "%010u", last);
        rc = unlinkat(guard->dir_fd, name, 0);
        if (last == file)
            break;
    }
    (void)snprintf(name, sizeof name, STOR_LOG_FILE_PREFIX "%010u", file);
    int fd = -1;
    if (rc == 0 && offset != 0) {
        fd = openat(guard->dir_fd, name, O_WRONLY | O_CLOEXEC);
        rc = fd < 0 || ftruncate(fd, (off_t)offset) != 0 || fsync(fd) != 0 ? -1 : 0;
    }
    if (rc == 0)
        rc = fsync(guard->dir_fd);
    if (rc != 0)
        (void)vd_error_set_errno(err, "cutting %s/%s", guard->folder, name);
    if (fd >= 0)
        (void)close(fd); /* synced already */
    return rc == 0 ? VD_OK : VD_ERR_IO;
}

/* ---- which keys the data may need ---- */

static size_t keys_note_pack(const noted_key_t *noted, uint32_t count, uint8_t bytes[KEYS_NOTE_MAX])
{
    size_t len = 12;
    memcpy(bytes, KEYS_NOTE_MAGIC, 8);
    vd_put_u32(bytes + 8, count);
    for (uint32_t i = 0; i < count; i++, len += KEYS_NOTE_ENTRY) {
        memcpy(bytes + len, noted[i].id, STOR_KEY_ID_BYTES);
        vd_put_u32(bytes + len + STOR_KEY_ID_BYTES, noted[i].version);
    }
    vd_put_u32(bytes + len, stor_crc32c(0, bytes, len));
    return len + 4;
}

static int keys_note_write(stor_guard_t *guard, vd_error_t *err)
{
    uint8_t bytes[KEYS_NOTE_MAX];
    size_t len = keys_note_pack(guard->noted, guard->noted_count, bytes);
    return file_replace(guard, KEYS_NOTE_FILE, KEYS_NOTE_NEW, bytes, len, err);
}

int stor_guard_keys_copy(stor_guard_t *guard, uint32_t proven, vd_buf_t *out,
                         uint32_t *ret_versions, uint32_t *ret_count, vd_error_t *err)
{
    uint8_t bytes[KEYS_NOTE_MAX], active[STOR_KEY_ID_BYTES];
    noted_key_t needed[STOR_KEYS_MAX];
    uint32_t count = 0;
    int rc = stor_keys_active(guard->keys, active, err);
    pthread_mutex_lock(&guard->noted_lock);
    for (uint32_t i = 0; rc == VD_OK && i < guard->noted_count; i++) {
        const noted_key_t *noted = &guard->noted[i];
        if (noted->version <= proven && memcmp(noted->id, active, sizeof active) != 0)
            continue;
        ret_versions[count] = noted->version;
        needed[count++] = *noted;
    }
    pthread_mutex_unlock(&guard->noted_lock);
    *ret_count = count;
    return rc == VD_OK ? vd_buf_append(out, bytes, keys_note_pack(needed, count, bytes)) : rc;
}

static noted_key_t *noted_find(stor_guard_t *guard, const uint8_t *id)
{
    for (uint32_t i = 0; i < guard->noted_count; i++)
        if (memcmp(guard->noted[i].id, id, STOR_KEY_ID_BYTES) == 0)
            return &guard->noted[i];
    return NULL;
}

int stor_guard_key_note(stor_guard_t *guard, const uint8_t id[STOR_KEY_ID_BYTES], uint32_t version,
                        vd_error_t *err)
{
    int rc = VD_OK;
    pthread_mutex_lock(&guard->noted_lock);
    noted_key_t *noted = noted_find(guard, id);
    if (noted == NULL && guard->noted_count == STOR_KEYS_MAX)
        rc = vd_error_set(err, VD_ERR_FULL, "the data needs more than %d keys", STOR_KEYS_MAX);
    if (rc == VD_OK && noted == NULL) {
        noted = &guard->noted[guard->noted_count++];
        memcpy(noted->id, id, STOR_KEY_ID_BYTES);
        noted->version = version;
        rc = keys_note_write(guard, err);
        if (rc != VD_OK)
            guard->noted_count--;
    }
    pthread_mutex_unlock(&guard->noted_lock);
    return rc;
}

int stor_guard_key_forget(stor_guard_t *guard, const uint8_t id[STOR_KEY_ID_BYTES], vd_error_t *err)
{
    int rc = VD_OK;
    pthread_mutex_lock(&guard->noted_lock);
    noted_key_t *noted = noted_find(guard, id);
    if (noted != NULL) {
        noted_key_t gone = *noted;
        *noted = guard->noted[--guard->noted_count];
        rc = keys_note_write(guard, err);
        if (rc != VD_OK)
            guard->noted[guard->noted_count++] = gone;
    }
    pthread_mutex_unlock(&guard->noted_lock);
    return rc;
}

static int keys_note_parse(stor_guard_t *guard, const uint8_t *bytes, size_t len, vd_error_t *err)
{
    uint32_t count = len < 16 ? 0 : vd_get_u32(bytes + 8);
    if (len < 16 || memcmp(bytes, KEYS_NOTE_MAGIC, 8) != 0 || count > STOR_KEYS_MAX ||
        len != 16 + (size_t)count * KEYS_NOTE_ENTRY ||
        vd_get_u32(bytes + len - 4) != stor_crc32c(0, bytes, len - 4))
        return vd_error_set(err, VD_ERR_CORRUPT, "%s/" KEYS_NOTE_FILE " is damaged", guard->folder);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *at = bytes + 12 + (size_t)i * KEYS_NOTE_ENTRY;
        memcpy(guard->noted[i].id, at, STOR_KEY_ID_BYTES);
        guard->noted[i].version = vd_get_u32(at + STOR_KEY_ID_BYTES);
    }
    guard->noted_count = count;
    return VD_OK;
}

/* A database of before the note may need all keys that there are. */
static int keys_note_read(stor_guard_t *guard, vd_error_t *err)
{
    uint8_t bytes[KEYS_NOTE_MAX + 1];
    int fd = openat(guard->dir_fd, KEYS_NOTE_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        stor_key_info_t infos[STOR_KEYS_MAX];
        uint32_t count = stor_keys_list(guard->keys, infos);
        int rc = VD_OK;
        for (uint32_t i = 0; rc == VD_OK && i < count; i++)
            if (infos[i].state != STOR_KEY_DESTROYED)
                rc = stor_guard_key_note(guard, infos[i].id, infos[i].version, err);
        return rc;
    }
    ssize_t len = fd < 0 ? -1 : pread(fd, bytes, sizeof bytes, 0);
    int rc = len < 0 ? vd_error_set_errno(err, "reading %s/" KEYS_NOTE_FILE, guard->folder)
                     : keys_note_parse(guard, bytes, (size_t)len, err);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    return rc;
}

uint32_t stor_guard_keys_highest(const char *folder)
{
    stor_guard_t *guard = vd_xalloc(sizeof *guard);
    uint8_t bytes[KEYS_NOTE_MAX + 1];
    uint32_t highest = 0;
    guard->folder = vd_xstrdup(folder);
    guard->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = guard->dir_fd < 0 ? -1 : openat(guard->dir_fd, KEYS_NOTE_FILE, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : pread(fd, bytes, sizeof bytes, 0);
    if (len >= 0 && keys_note_parse(guard, bytes, (size_t)len, NULL) == VD_OK)
        for (uint32_t i = 0; i < guard->noted_count; i++)
            highest = guard->noted[i].version > highest ? guard->noted[i].version : highest;
    if (fd >= 0)
        (void)close(fd); /* was only read */
    if (guard->dir_fd >= 0)
        (void)close(guard->dir_fd);
    vd_free(guard->folder);
    vd_free(guard);
    return highest;
}

static int keys_note_check(stor_guard_t *guard, vd_error_t *err)
{
    char text[STOR_KEY_ID_TEXT_SIZE];
    stor_key_info_t infos[STOR_KEYS_MAX];
    int rc = keys_note_read(guard, err);
    uint32_t count = rc == VD_OK ? stor_keys_list(guard->keys, infos) : 0;
    for (uint32_t i = 0; rc == VD_OK && i < guard->noted_count; i++) {
        const noted_key_t *noted = &guard->noted[i];
        const stor_key_info_t *found = NULL;
        for (uint32_t k = 0; k < count && found == NULL; k++)
            if (memcmp(infos[k].id, noted->id, STOR_KEY_ID_BYTES) == 0)
                found = &infos[k];
        if (found == NULL)
            rc = vd_error_set(err, VD_ERR_KEY_MISSING,
                              "the data in %s needs data key version %u (id %s), which is not in "
                              "the keyring: it is older than the data, or another node's",
                              guard->folder, noted->version, stor_keys_id_print(noted->id, text));
        else if (found->state == STOR_KEY_DESTROYED)
            rc = vd_error_set(
                err, VD_ERR_KEY_DESTROYED,
                "the data in %s needs data key version %u (id %s), which was destroyed",
                guard->folder, noted->version, stor_keys_id_print(noted->id, text));
    }
    return rc;
}

/* What becomes active was noted before. */
static int active_note(stor_guard_t *guard, vd_error_t *err)
{
    stor_key_info_t infos[STOR_KEYS_MAX];
    uint32_t count = stor_keys_list(guard->keys, infos);
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < count; i++)
        if (infos[i].state == STOR_KEY_ACTIVE)
            rc = stor_guard_key_note(guard, infos[i].id, infos[i].version, err);
    return rc;
}

int stor_guard_reseal(stor_guard_t *guard, vd_error_t *err)
{
    uint8_t active[STOR_KEY_ID_BYTES];
    int rc = stor_keys_active(guard->keys, active, err);
    if (rc != VD_OK || memcmp(active, guard->sealed_with, sizeof active) == 0)
        return rc;
    rc = format_write(guard, err);
    if (rc == VD_OK)
        memcpy(guard->sealed_with, active, sizeof active);
    return rc;
}

void stor_guard_sealed_with(const stor_guard_t *guard, uint8_t ret_id[STOR_KEY_ID_BYTES])
{
    memcpy(ret_id, guard->sealed_with, STOR_KEY_ID_BYTES);
}

/* ---- a backup that was put in place ---- */

#define SEAL_BYTES (VD_BACKUP_SUM_BYTES + STOR_BLOCK_OVERHEAD_BYTES)

/* Its manifest is what the node that made it has sealed; and what WiredTiger takes without any
 * check of its own, the list of tables, is what the manifest says. */
static int restored_is_authentic(const stor_guard_t *guard, vd_error_t *err)
{
    uint8_t sealed[SEAL_BYTES + 1], opened[SEAL_BYTES], sum[SHA256_DIGEST_LENGTH];
    char path[4096];
    vd_backup_manifest_t manifest = {0};
    vd_buf_t text;
    size_t len = 0;
    vd_buf_init(&text, VD_BACKUP_MANIFEST_BYTES);
    int rc = vd_backup_read(guard->folder, VD_BACKUP_RESTORED, &manifest, &text, err);
    int fd = openat(guard->dir_fd, VD_BACKUP_RESTORED_SEAL, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, sealed, sizeof sealed, 0);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    if (rc == VD_OK && n != SEAL_BYTES)
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED, "%s/" VD_BACKUP_RESTORED_SEAL " is damaged",
                          guard->folder);
    if (rc == VD_OK) {
        vd_slice_t all = vd_buf_slice(&text);
        (void)SHA256(all.data, all.len, sum);
        rc = stor_keys_open(guard->keys, vd_slice(sealed, SEAL_BYTES), opened, &len, err);
    }
    if (rc == VD_OK && (len != sizeof sum || memcmp(opened, sum, sizeof sum) != 0))
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED,
                          "the manifest of the backup in %s is not the one that was sealed",
                          guard->folder);
    bool found = false;
    for (uint32_t i = 0; rc == VD_OK && !found && i < manifest.file_count; i++) {
        if (strcmp(manifest.files[i].name, BACKUP_FILE) != 0)
            continue;
        found = true;
        vd_backup_manifest_t one = {.file_count = 1, .files = &manifest.files[i]};
        (void)snprintf(path, sizeof path, "%s", guard->folder);
        rc = vd_backup_check_files(path, &one, NULL, NULL, err);
    }
    if (rc == VD_OK && !found)
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED, "the backup in %s has no list of tables",
                          guard->folder);
    vd_backup_manifest_done(&manifest);
    vd_buf_done(&text);
    return rc;
}

static bool stands(const stor_guard_t *guard, const char *name)
{
    return faccessat(guard->dir_fd, name, F_OK, 0) == 0;
}

bool stor_guard_is_restored(const stor_guard_t *guard)
{
    return guard->restored;
}

/* A database that was copied here and not started yet has a list of tables instead of the turtle.
 * In one that was started that list is what a crash in the middle of a backup left: WiredTiger
 * would go back to it. */
static int backup_list_check(stor_guard_t *guard, vd_error_t *err)
{
    if (stands(guard, VD_BACKUP_RESTORING))
        return vd_error_set(err, VD_ERR_RESTORE_UNFINISHED,
                            "the restore of a backup into %s did not end: restore it again",
                            guard->folder);
    guard->restored = stands(guard, VD_BACKUP_RESTORED);
    if (guard->restored && stands(guard, TURTLE_FILE))
        return vd_error_set(err, VD_ERR_RESTORE_UNFINISHED,
                            "the first start of the backup that was put into %s did not end: "
                            "restore it again",
                            guard->folder);
    if (guard->restored)
        return restored_is_authentic(guard, err);
    if (!stands(guard, BACKUP_FILE) || !stands(guard, TURTLE_FILE))
        return VD_OK;
    vd_log(VD_LOG_WARN, "a backup was being made when the process ended: its list is removed",
           "file=%s", BACKUP_FILE);
    return unlinkat(guard->dir_fd, BACKUP_FILE, 0) == 0 && fsync(guard->dir_fd) == 0
               ? VD_OK
               : vd_error_set_errno(err, "removing %s/%s", guard->folder, BACKUP_FILE);
}

/* Its first start has ended, and a checkpoint stands. */
static int restored_end(stor_guard_t *guard, vd_error_t *err)
{
    if (unlinkat(guard->dir_fd, VD_BACKUP_RESTORED, 0) != 0 || fsync(guard->dir_fd) != 0)
        return vd_error_set_errno(err, "removing %s/%s", guard->folder, VD_BACKUP_RESTORED);
    (void)unlinkat(guard->dir_fd, VD_BACKUP_RESTORED_SEAL, 0); /* of no use alone */
    guard->restored = false;
    return VD_OK;
}

static int database_check(stor_guard_t *guard, vd_error_t *err)
{
    if (!stor_guard_exists(guard->folder))
        return vd_error_set(err, VD_ERR_NOT_FOUND,
                            "%s holds no database (one is made only by a bootstrap)",
                            guard->folder);
    static const char *const usual[] = {"WiredTiger", "WiredTiger.wt", "WiredTiger.turtle"},
                             *const restored[] = {"WiredTiger", BACKUP_FILE, NULL};
    int rc = keys_note_check(guard, err);
    if (rc == VD_OK)
        rc = format_check(guard, err);
    if (rc == VD_OK)
        rc = backup_list_check(guard, err);
    const char *const *files = guard->restored ? restored : usual;
    for (size_t i = 0; i < VD_COUNT_OF(usual) && files[i] != NULL && rc == VD_OK; i++)
        rc = must_stand(guard, files[i], err);
    if (rc != VD_OK)
        return rc;
    stor_log_place_t needed = {0};
    uint32_t highest = 0;
    rc = guard->restored ? VD_OK : turtle_read(guard, &needed, err);
    if (rc == VD_OK)
        rc = log_note_read(guard, &highest, err);
    if (rc != VD_OK)
        return rc;
    guard->log_highest = guard->log_candidate = highest;
    rc = stor_log_scan(guard->folder, guard->keys, needed, highest, &guard->scan, err);
    if (rc == VD_OK && guard->scan.torn)
        rc = log_cut(guard, err);
    /* From here on WiredTiger changes the turtle. */
    if (rc == VD_OK && unlinkat(guard->dir_fd, CLOSED_FILE, 0) == 0 && fsync(guard->dir_fd) != 0)
        rc = vd_error_set_errno(err, "removing %s/%s", guard->folder, CLOSED_FILE);
    return rc;
}

int stor_guard_enter(const char *folder, bool bootstrap, stor_keys_t *keys,
                     stor_guard_t **ret_guard, vd_error_t *err)
{
    VD_ASSERT(folder != NULL);
    stor_guard_t *guard = vd_xalloc(sizeof *guard);
    guard->dir_fd = guard->lock_fd = -1;
    guard->bootstrap = bootstrap;
    guard->keys = keys;
    guard->folder = vd_xstrdup(folder);
    VD_ASSERT(pthread_mutex_init(&guard->noted_lock, NULL) == 0);
    int rc = folder_lock(guard, err);
    if (rc == VD_OK)
        rc = bootstrap ? bootstrap_begin(guard, err) : database_check(guard, err);
    if (rc == VD_OK && bootstrap) /* early: after this it is the flusher's thread that writes it */
        rc = log_note_write(guard, 1, err);
    if (rc == VD_OK) /* before its first block */
        rc = active_note(guard, err);
    if (rc != VD_OK) {
        stor_guard_leave(&guard);
        return rc;
    }
    *ret_guard = guard;
    return VD_OK;
}

int stor_guard_opened(stor_guard_t *guard, vd_error_t *err)
{
    if (!guard->bootstrap) {
        int rc = stor_guard_reseal(guard, err);
        return rc == VD_OK && guard->restored ? restored_end(guard, err) : rc;
    }
    int rc = stor_guard_reseal(guard, err); /* with none yet: written */
    if (rc != VD_OK)
        return rc;
    /* The first flush and a checkpoint are done: the log's first file, too, is durable. */
    if (unlinkat(guard->dir_fd, BOOTSTRAP_MARK, 0) != 0 || fsync(guard->dir_fd) != 0)
        return vd_error_set_errno(err, "ending the bootstrap in %s", guard->folder);
    return VD_OK;
}

int stor_guard_closed(stor_guard_t *guard, vd_error_t *err)
{
    char text[TURTLE_MAX_BYTES];
    uint8_t sum[SHA256_DIGEST_LENGTH], sealed[CLOSED_BYTES];
    size_t len, sealed_len = 0;
    int rc = turtle_text(guard, text, &len, err);
    if (rc != VD_OK)
        return rc;
    (void)SHA256((const uint8_t *)text, len, sum);
    rc = stor_keys_seal(guard->keys, vd_slice(sum, sizeof sum), sealed, &sealed_len, err);
    VD_ASSERT(rc != VD_OK || sealed_len == CLOSED_BYTES);
    return rc == VD_OK ? file_replace(guard, CLOSED_FILE, CLOSED_NEW, sealed, sealed_len, err) : rc;
}

void stor_guard_leave(stor_guard_t **guard_p)
{
    stor_guard_t *guard = *guard_p;
    if (guard == NULL)
        return;
    if (guard->lock_fd >= 0)
        (void)close(guard->lock_fd); /* lets the lock go */
    if (guard->dir_fd >= 0)
        (void)close(guard->dir_fd);
    (void)pthread_mutex_destroy(&guard->noted_lock);
    vd_free(guard->folder);
    vd_free(guard);
    *guard_p = NULL;
}
