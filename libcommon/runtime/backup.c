/* libcommon/runtime/backup.c — see backup.h: the manifest, pure, and its files. restore.c puts one
 * in place. */
#include "libcommon/runtime/backup.h"

#include "libcommon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES  ((size_t)1 << 20)
#define SYNC_BYTES   ((uint64_t)16 << 20) /* written and not synced at most */
#define HEX_BYTES    (2 * VD_BACKUP_SUM_BYTES)
#define FIRST_LINE   "VedDB backup "
#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

/* ---- the manifest ---- */

void vd_backup_manifest_done(vd_backup_manifest_t *manifest)
{
    vd_free(manifest->files);
    *manifest = (vd_backup_manifest_t){0};
}

bool vd_backup_name_ok(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len <= VD_BACKUP_NAME_MAX && name[0] != '.' &&
           strspn(name, NAME_LETTERS) == len &&
           (len < sizeof VD_BACKUP_PARTIAL ||
            strcmp(name + len - (sizeof VD_BACKUP_PARTIAL - 1), VD_BACKUP_PARTIAL) != 0);
}

static bool file_name_ok(const char *name)
{
    return name[0] != '.' && name[0] != '\0' && strspn(name, NAME_LETTERS) == strlen(name);
}

int vd_backup_file_add(vd_backup_manifest_t *manifest, const vd_backup_file_t *file,
                       vd_error_t *err)
{
    if (!file_name_ok(file->name))
        return vd_error_set(err, VD_ERR_INVALID, "a backup has a file whose name can't be");
    if (manifest->file_count == VD_BACKUP_FILES_MAX)
        return vd_error_set(err, VD_ERR_FULL, "a backup has at most %d files", VD_BACKUP_FILES_MAX);
    if (manifest->file_count == manifest->file_room) {
        manifest->file_room = manifest->file_room == 0 ? 64 : 2 * manifest->file_room;
        manifest->files =
            vd_xrealloc(manifest->files, manifest->file_room * sizeof *manifest->files);
    }
    manifest->files[manifest->file_count++] = *file;
    return VD_OK;
}

uint64_t vd_backup_bytes(const vd_backup_manifest_t *manifest)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < manifest->file_count; i++)
        bytes += manifest->files[i].bytes;
    return bytes;
}

uint32_t vd_backup_oldest(const vd_backup_manifest_t *manifest)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < manifest->version_count; i++)
        if (oldest == 0 || manifest->versions[i] < oldest)
            oldest = manifest->versions[i];
    return oldest;
}

static void hex_print(const uint8_t *bytes, char text[HEX_BYTES + 1])
{
    for (size_t i = 0; i < VD_BACKUP_SUM_BYTES; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

static bool hex_parse(const char *text, uint8_t *bytes)
{
    if (strlen(text) != HEX_BYTES || strspn(text, "0123456789abcdef") != HEX_BYTES)
        return false;
    for (size_t i = 0; i < VD_BACKUP_SUM_BYTES; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

int vd_backup_manifest_print(const vd_backup_manifest_t *manifest, vd_buf_t *out)
{
    char hex[HEX_BYTES + 1];
    uint8_t sum[VD_BACKUP_SUM_BYTES];
    VD_ASSERT(vd_buf_len(out) == 0);
    int rc = vd_buf_printf(
        out, FIRST_LINE "%d\nnode %s\nmade %" PRId64 "\nposition %" PRIu64 "\nkeyring %s\nkeys",
        VD_BACKUP_FORMAT, manifest->node, manifest->made_ms, manifest->position,
        manifest->keyring ? "yes" : "no");
    for (uint32_t i = 0; rc == VD_OK && i < manifest->version_count; i++)
        rc = vd_buf_printf(out, " %u", manifest->versions[i]);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, "\nfiles %u\n", manifest->file_count);
    for (uint32_t i = 0; rc == VD_OK && i < manifest->file_count; i++) {
        const vd_backup_file_t *file = &manifest->files[i];
        hex_print(file->sum, hex);
        rc = vd_buf_printf(out, "%s %" PRIu64 " %s\n", hex, file->bytes, file->name);
    }
    if (rc != VD_OK)
        return rc;
    vd_slice_t text = vd_buf_slice(out);
    (void)SHA256(text.data, text.len, sum);
    hex_print(sum, hex);
    return vd_buf_printf(out, "end %s\n", hex);
}

typedef struct {
    char *at; /* of a copy that ends with a zero */
} lines_t;

/* The next line; NULL: there is none that ends. */
static char *line_take(lines_t *lines)
{
    char *line = lines->at, *end = strchr(line, '\n');
    if (end == NULL)
        return NULL;
    *end = '\0';
    lines->at = end + 1;
    return line;
}

/* What stands behind the word; NULL: another line. */
static char *fact_take(lines_t *lines, const char *word)
{
    char *line = line_take(lines);
    size_t len = strlen(word);
    return line != NULL && strncmp(line, word, len) == 0 ? line + len : NULL;
}

static bool number_take(char **at, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    if (**at < '0' || **at > '9')
        return false;
    unsigned long long number = strtoull(*at, &end, 10);
    *ret = number;
    *at = end;
    return errno == 0 && number <= max;
}

static bool versions_take(char *at, vd_backup_manifest_t *manifest)
{
    uint64_t version = 0;
    for (; *at == ' '; manifest->version_count++) {
        at++;
        if (manifest->version_count == VD_BACKUP_VERSIONS_MAX ||
            !number_take(&at, UINT32_MAX, &version) || version == 0)
            return false;
        manifest->versions[manifest->version_count] = (uint32_t)version;
    }
    return *at == '\0';
}

static bool file_take(char *line, vd_backup_manifest_t *manifest)
{
    vd_backup_file_t file = {0};
    if (line == NULL || strlen(line) < HEX_BYTES + 4 || line[HEX_BYTES] != ' ')
        return false;
    line[HEX_BYTES] = '\0';
    char *at = line + HEX_BYTES + 1;
    if (!hex_parse(line, file.sum) || !number_take(&at, INT64_MAX, &file.bytes) || *at != ' ' ||
        strlen(at + 1) > VD_BACKUP_FILE_NAME_MAX)
        return false;
    (void)snprintf(file.name, sizeof file.name, "%s", at + 1);
    return vd_backup_file_add(manifest, &file, NULL) == VD_OK;
}

static bool facts_take(lines_t *lines, vd_backup_manifest_t *manifest)
{
    uint64_t number = 0;
    char *at = fact_take(lines, "node ");
    if (at == NULL || strlen(at) >= sizeof manifest->node)
        return false;
    (void)snprintf(manifest->node, sizeof manifest->node, "%s", at);
    at = fact_take(lines, "made ");
    if (at == NULL || !number_take(&at, INT64_MAX, &number) || *at != '\0')
        return false;
    manifest->made_ms = (int64_t)number;
    at = fact_take(lines, "position ");
    if (at == NULL || !number_take(&at, UINT64_MAX, &manifest->position) || *at != '\0')
        return false;
    at = fact_take(lines, "keyring ");
    if (at == NULL || (strcmp(at, "yes") != 0 && strcmp(at, "no") != 0))
        return false;
    manifest->keyring = at[0] == 'y';
    at = fact_take(lines, "keys");
    if (at == NULL || !versions_take(at, manifest))
        return false;
    at = fact_take(lines, "files ");
    if (at == NULL || !number_take(&at, VD_BACKUP_FILES_MAX, &number) || *at != '\0')
        return false;
    for (uint64_t i = 0; i < number; i++)
        if (!file_take(line_take(lines), manifest))
            return false;
    return true;
}

/* The sum of all lines but the last is what the last one says. */
static bool sum_fits(vd_slice_t text)
{
    const size_t last = sizeof "end " - 1 + HEX_BYTES + 1;
    char hex[HEX_BYTES + 1];
    uint8_t sum[VD_BACKUP_SUM_BYTES];
    if (text.len <= last || text.data[text.len - 1] != '\n' ||
        memcmp(text.data + text.len - last, "end ", 4) != 0)
        return false;
    (void)SHA256(text.data, text.len - last, sum);
    hex_print(sum, hex);
    return memcmp(hex, text.data + text.len - HEX_BYTES - 1, HEX_BYTES) == 0;
}

int vd_backup_manifest_parse(vd_slice_t text, vd_backup_manifest_t *ret_manifest, vd_error_t *err)
{
    vd_backup_manifest_t manifest = {0};
    char *copy = vd_xstrndup(text.data, text.len);
    lines_t lines = {.at = copy};
    int rc = VD_OK;
    char *format = fact_take(&lines, FIRST_LINE);
    uint64_t number = 0;
    if (format == NULL || !number_take(&format, UINT32_MAX, &number) || *format != '\0')
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED, "it is no manifest of a backup");
    else if (number != VD_BACKUP_FORMAT)
        rc = vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT,
                          "the backup has format %" PRIu64 "; this program reads %d", number,
                          VD_BACKUP_FORMAT);
    else if (!sum_fits(text) || memchr(text.data, '\0', text.len) != NULL ||
             !facts_take(&lines, &manifest))
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED,
                          "the manifest is damaged: it is not what it was when it was written");
    vd_free(copy);
    if (rc == VD_OK)
        *ret_manifest = manifest;
    else
        vd_backup_manifest_done(&manifest);
    return rc;
}

/* ---- files ---- */

static int path_make(char path[PATH_MAX], const char *folder, const char *name, vd_error_t *err)
{
    return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX
               ? VD_OK
               : vd_error_set(err, VD_ERR_INVALID, "%s/%s is too long", folder, name);
}

int vd_backup_read(const char *folder, const char *name, vd_backup_manifest_t *ret_manifest,
                   vd_buf_t *text, vd_error_t *err)
{
    char path[PATH_MAX];
    vd_buf_t own;
    vd_buf_init(&own, VD_BACKUP_MANIFEST_BYTES);
    vd_buf_t *out = text == NULL ? &own : text;
    int rc = path_make(path, folder, name, err);
    int fd = rc == VD_OK ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (rc == VD_OK && fd < 0)
        rc = errno == ENOENT ? vd_error_set(err, VD_ERR_NOT_FOUND, "%s is not there", path)
                             : vd_error_set_errno(err, "%s", path);
    for (ssize_t n = 1; rc == VD_OK && n > 0;) {
        uint8_t *space;
        rc = vd_buf_reserve(out, 65536, &space);
        n = rc == VD_OK ? read(fd, space, 65536) : 0;
        if (n < 0 && errno != EINTR)
            rc = vd_error_set_errno(err, "reading %s", path);
        else if (n > 0)
            vd_buf_commit(out, (size_t)n);
        else if (n < 0)
            n = 1; /* interrupted */
    }
    if (fd >= 0)
        (void)close(fd); /* was only read */
    if (rc == VD_OK) {
        rc = vd_backup_manifest_parse(vd_buf_slice(out), ret_manifest, err);
        if (rc != VD_OK)
            vd_error_prefix(err, "%s", path);
    }
    vd_buf_done(&own);
    return rc;
}

/* The bytes go into the sum, and to the file `to` where that is not -1. */
static int piece_write(int to, const uint8_t *piece, size_t len, uint64_t at)
{
    static const uint8_t zeros[4096];
    bool empty = true;
    for (size_t i = 0; empty && i < len; i += sizeof zeros)
        empty = memcmp(piece + i, zeros, len - i < sizeof zeros ? len - i : sizeof zeros) == 0;
    if (empty)
        return 0; /* the file's size makes it a hole */
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(to, piece + done, len - done, (off_t)(at + done));
        if (n < 0 && errno != EINTR)
            return -1;
        done += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

typedef struct {
    int from, to; /* to: -1: sums only */
    uint64_t max;
    const char *shown;
    vd_backup_paced_t paced;
    void *context;
} stream_t;

static int stream(const stream_t *what, vd_backup_file_t *file, vd_error_t *err)
{
    uint8_t *piece = vd_xalloc(PIECE_BYTES);
    EVP_MD_CTX *sum = EVP_MD_CTX_new();
    uint64_t at = 0, unsynced = 0;
    int rc = sum != NULL && EVP_DigestInit_ex(sum, EVP_sha256(), NULL) == 1
                 ? VD_OK
                 : vd_error_set(err, VD_ERR_INTERNAL, "SHA-256 is not there");
    while (rc == VD_OK && at < what->max) {
        size_t want = what->max - at < PIECE_BYTES ? (size_t)(what->max - at) : PIECE_BYTES;
        ssize_t n = pread(what->from, piece, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = vd_error_set_errno(err, "reading %s", what->shown);
        if (n <= 0)
            break;
        (void)EVP_DigestUpdate(sum, piece, (size_t)n); /* fails only for want of memory: Final */
        int wrote = what->to < 0 ? 1 : piece_write(what->to, piece, (size_t)n, at);
        if (wrote < 0)
            rc = errno == ENOSPC ? vd_error_set(err, VD_ERR_OUT_OF_DISK_SPACE,
                                                "no space for the copy of %s", what->shown)
                                 : vd_error_set_errno(err, "copying %s", what->shown);
        at += (uint64_t)n;
        unsynced += wrote == 1 && what->to >= 0 ? (uint64_t)n : 0;
        if (rc == VD_OK && unsynced >= SYNC_BYTES) { /* so that nobody waits for much of ours */
            unsynced = 0;
            if (fdatasync(what->to) != 0)
                rc = vd_error_set_errno(err, "syncing the copy of %s", what->shown);
        }
        if (rc == VD_OK && what->paced != NULL)
            rc = what->paced(wrote == 1 ? (uint64_t)n : 0, what->context, err);
    }
    unsigned len = 0;
    if (rc == VD_OK && EVP_DigestFinal_ex(sum, file->sum, &len) != 1)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "SHA-256 failed");
    file->bytes = at;
    EVP_MD_CTX_free(sum);
    vd_free(piece);
    return rc;
}

int vd_backup_copy(int from, uint64_t bytes, const char *to, vd_backup_file_t *ret_file,
                   vd_backup_paced_t paced, void *context, vd_error_t *err)
{
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return vd_error_set_errno(err, "can't make %s", to);
    stream_t what = {
        .from = from, .to = fd, .max = bytes, .shown = to, .paced = paced, .context = context};
    int rc = stream(&what, ret_file, err);
    if (rc == VD_OK && (ftruncate(fd, (off_t)ret_file->bytes) != 0 || fsync(fd) != 0))
        rc = vd_error_set_errno(err, "syncing %s", to);
    if (close(fd) != 0 && rc == VD_OK)
        rc = vd_error_set_errno(err, "closing %s", to);
    return rc;
}

static int file_check(const char *folder, const vd_backup_file_t *file, vd_backup_paced_t paced,
                      void *context, vd_error_t *err)
{
    char path[PATH_MAX];
    vd_backup_file_t now = {0};
    struct stat st;
    int rc = path_make(path, folder, file->name, err);
    if (rc != VD_OK)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? vd_error_set(err, VD_ERR_BACKUP_DAMAGED, "%s is missing", path)
                               : vd_error_set_errno(err, "%s", path);
    if (fstat(fd, &st) != 0)
        rc = vd_error_set_errno(err, "%s", path);
    else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != file->bytes)
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED,
                          "%s has %lld bytes, not the %" PRIu64 " of the manifest", path,
                          (long long)st.st_size, file->bytes);
    stream_t what = {.from = fd,
                     .to = -1,
                     .max = file->bytes,
                     .shown = path,
                     .paced = paced,
                     .context = context};
    if (rc == VD_OK)
        rc = stream(&what, &now, err);
    if (rc == VD_OK &&
        (now.bytes != file->bytes || memcmp(now.sum, file->sum, sizeof now.sum) != 0))
        rc = vd_error_set(err, VD_ERR_BACKUP_DAMAGED,
                          "%s is damaged: its SHA-256 is not the manifest's", path);
    (void)close(fd); /* was only read */
    return rc;
}

/* Those that must be, with how they begin. */
static int head_check(const char *folder, const char *name, const char *head, vd_error_t *err)
{
    char path[PATH_MAX], bytes[16] = {0};
    int rc = path_make(path, folder, name, err);
    if (rc != VD_OK)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : pread(fd, bytes, strlen(head), 0);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    return n == (ssize_t)strlen(head) && memcmp(bytes, head, (size_t)n) == 0
               ? VD_OK
               : vd_error_set(err, VD_ERR_BACKUP_DAMAGED, "%s is missing, or not what it should be",
                              path);
}

int vd_backup_check_files(const char *folder, const vd_backup_manifest_t *manifest,
                          vd_backup_paced_t paced, void *context, vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < manifest->file_count; i++)
        rc = file_check(folder, &manifest->files[i], paced, context, err);
    return rc;
}

int vd_backup_check(const char *folder, const vd_backup_manifest_t *manifest,
                    vd_backup_paced_t paced, void *context, vd_error_t *err)
{
    int rc = head_check(folder, "VedDB.format", "VEDDBFMT", err);
    if (rc == VD_OK)
        rc = head_check(folder, "VedDB.keys", "VEDDBKEY", err);
    if (rc == VD_OK)
        rc = head_check(folder, "VedDB.log", "VEDDBLOG", err);
    if (rc == VD_OK)
        rc = head_check(folder, VD_BACKUP_SEAL, "VDB1", err);
    if (rc == VD_OK && manifest->keyring)
        rc = head_check(folder, VD_BACKUP_KEYRING, "VDBKRING", err);
    return rc == VD_OK ? vd_backup_check_files(folder, manifest, paced, context, err) : rc;
}

int vd_backup_sync_folder(const char *folder, vd_error_t *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? VD_OK : vd_error_set_errno(err, "syncing %s", folder);
    if (fd >= 0)
        (void)close(fd); /* nothing was written through it */
    return rc;
}

/* What stands there becomes zeros, durably. */
static int overwrite(const char *path, vd_error_t *err)
{
    static const uint8_t zeros[4096];
    struct stat st;
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), rc = VD_OK;
    if (fd < 0)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "%s", path);
    if (fstat(fd, &st) != 0)
        rc = vd_error_set_errno(err, "%s", path);
    for (off_t at = 0; rc == VD_OK && at < st.st_size;) {
        size_t left = (size_t)(st.st_size - at);
        ssize_t n = pwrite(fd, zeros, left < sizeof zeros ? left : sizeof zeros, at);
        if (n < 0 && errno != EINTR)
            rc = vd_error_set_errno(err, "overwriting %s", path);
        at += n > 0 ? n : 0;
    }
    if (rc == VD_OK && fsync(fd) != 0)
        rc = vd_error_set_errno(err, "syncing %s", path);
    (void)close(fd); /* synced */
    return rc;
}

int vd_backup_replace(const char *folder, const char *name, vd_slice_t bytes, bool shred,
                      vd_error_t *err)
{
    char path[PATH_MAX], fresh[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path - 8)
        return vd_error_set(err, VD_ERR_INVALID, "%s/%s is too long", folder, name);
    (void)snprintf(fresh, sizeof fresh, "%.4080s.new", path);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? vd_error_set_errno(err, "can't make %s", fresh) : VD_OK;
    for (size_t done = 0; rc == VD_OK && done < bytes.len;) {
        ssize_t n = write(fd, bytes.data + done, bytes.len - done);
        if (n < 0 && errno != EINTR)
            rc = vd_error_set_errno(err, "writing %s", fresh);
        done += n > 0 ? (size_t)n : 0;
    }
    if (rc == VD_OK && fsync(fd) != 0)
        rc = vd_error_set_errno(err, "syncing %s", fresh);
    if (fd >= 0)
        (void)close(fd); /* synced */
    if (rc == VD_OK && shred)
        rc = overwrite(path, err);
    if (rc == VD_OK && rename(fresh, path) != 0)
        rc = vd_error_set_errno(err, "can't put %s in its place", path);
    return rc == VD_OK ? vd_backup_sync_folder(folder, err) : rc;
}
