/* veddb-storaged/engine/log_scan.c — see the header.
 *
 * A file is mapped and walked record by record. Behind a bad record every 128-byte boundary is
 * tried, since the length of a bad record can't be trusted: the markers found there decide.
 * Preallocated files are mostly holes, which are skipped. */
#include "veddb-storaged/engine/log_scan.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/mem.h"
#include "veddb-storaged/engine/crc32c.h"
#include "veddb-storaged/engine/flusher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN_BYTES          128
#define HEAD_BYTES           16
#define FLAG_ENCRYPTED       2
#define TYPE_CHECKPOINT      0
#define TYPE_MESSAGE         3
#define TYPE_SYSTEM          4
#define MARKER_DIGITS_BYTES  29
#define MARKER_TEXT_BYTES    (sizeof STOR_MARKER_PREFIX - 1 + MARKER_DIGITS_BYTES)
#define CHECKPOINT_MAX_BYTES (64 * 1024)
#define LOG_FILES_MAX        100000

typedef struct {
    const char *folder;
    stor_keys_t *keys;
    stor_log_scan_t out;
    /* The place of the first bad record since the last start, and the last marker before it. */
    bool bad;
    stor_log_place_t bad_at;
    bool any_marker;
    uint64_t start_id, number;
    bool start_seen;   /* some marker 0 */
    uint32_t end_file; /* the file before this one, and where its last valid record ended */
    uint64_t end_offset;
    uint32_t checkpoint_file; /* of the newest checkpoint record found; 0 = none */
} scan_t;

typedef struct {
    uint32_t number;
    const uint8_t *data;
    uint64_t len;
    int fd;
} file_t;

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The numbers of all log files, ascending; the caller frees. */
static int files_list(const char *folder, uint32_t **ret_numbers, size_t *ret_count,
                      vd_error_t *err)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return vd_error_set_errno(err, "reading the folder %s", folder);
    uint32_t *numbers = vd_xalloc(sizeof *numbers * LOG_FILES_MAX);
    size_t count = 0;
    const size_t prefix_len = sizeof STOR_LOG_FILE_PREFIX - 1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL && count < LOG_FILES_MAX;) {
        const char *digits = entry->d_name + prefix_len;
        if (strncmp(entry->d_name, STOR_LOG_FILE_PREFIX, prefix_len) == 0 && strlen(digits) == 10)
            numbers[count++] = (uint32_t)strtoul(digits, NULL, 10);
    }
    (void)closedir(dir); /* was only read */
    qsort(numbers, count, sizeof *numbers, compare_u32);
    *ret_numbers = numbers;
    *ret_count = count;
    return VD_OK;
}

static int file_map(const char *folder, uint32_t number, file_t *ret_file, vd_error_t *err)
{
    char path[4096];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/" STOR_LOG_FILE_PREFIX "%010u", folder, number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vd_error_set_errno(err, "%s", path);
    void *data = NULL;
    if (fstat(fd, &st) != 0 ||
        (st.st_size > 0 &&
         (data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)) {
        (void)vd_error_set_errno(err, "reading %s", path);
        (void)close(fd);
        return VD_ERR_IO;
    }
    *ret_file = (file_t){.number = number, .data = data, .len = (uint64_t)st.st_size, .fd = fd};
    return VD_OK;
}

static void file_unmap(file_t *file)
{
    if (file->data != NULL)
        (void)munmap((void *)file->data, file->len); /* was only read */
    (void)close(file->fd);
}

/* The length of the valid record at offset, or 0. */
static uint64_t record_check(const file_t *file, uint64_t offset)
{
    static const uint8_t zero[4];
    if (offset + HEAD_BYTES > file->len)
        return 0;
    const uint8_t *p = file->data + offset;
    uint64_t len = vd_get_u32(p);
    if (len < ALIGN_BYTES || len % ALIGN_BYTES != 0 || len > file->len - offset)
        return 0;
    uint32_t crc = stor_crc32c(0, p, 4);
    crc = stor_crc32c(crc, zero, 4);
    crc = stor_crc32c(crc, p + 8, len - 8);
    return crc == vd_get_u32(p + 4) ? len : 0;
}

/* The plain bytes of an encrypted record of at most max bytes; 0 when it is none, or can't be
 * opened (then it is no marker of ours). */
static size_t record_open(const scan_t *scan, const uint8_t *record, uint64_t len, uint8_t *out,
                          size_t max)
{
    if (len > max || !(record[8] & FLAG_ENCRYPTED))
        return 0;
    uint64_t stored_len =
        vd_get_u32(record + HEAD_BYTES); /* counts head and itself, but not the padding */
    size_t plain_len = 0;
    if (stored_len <= HEAD_BYTES + 4 + STOR_BLOCK_OVERHEAD_BYTES || stored_len > len)
        return 0;
    vd_slice_t block = vd_slice(record + HEAD_BYTES + 4, stored_len - HEAD_BYTES - 4);
    return stor_keys_open(scan->keys, block, out, &plain_len, NULL) == VD_OK ? plain_len : 0;
}

/* WiredTiger's packed unsigned integer. False when the bytes are none. */
static bool unpack_uint(const uint8_t **p, const uint8_t *end, uint64_t *ret_value)
{
    if (*p >= end)
        return false;
    uint8_t first = *(*p)++;
    if ((first & 0xc0) == 0x80) { /* 10xxxxxx: 0..63 */
        *ret_value = first & 0x3f;
        return true;
    }
    if ((first & 0xe0) == 0xc0) { /* 110xxxxx: two bytes, from 64 */
        if (*p >= end)
            return false;
        *ret_value = ((uint64_t)(first & 0x1f) << 8 | *(*p)++) + 64;
        return true;
    }
    if ((first & 0xf0) != 0xe0) /* 1110nnnn: n bytes follow, from 64 + 2^13 */
        return false;
    size_t n = first & 0x0f;
    if (n > 8 || (size_t)(end - *p) < n)
        return false;
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++)
        value = value << 8 | *(*p)++;
    *ret_value = value + 64 + (1u << 13);
    return true;
}

static bool marker_parse(const uint8_t *plain, size_t len, uint64_t *ret_start,
                         uint64_t *ret_number)
{
    const size_t prefix_len = sizeof STOR_MARKER_PREFIX - 1;
    uint64_t type = 0;
    const uint8_t *p = plain;
    if (!unpack_uint(&p, plain + len, &type) || type != TYPE_MESSAGE ||
        (size_t)(plain + len - p) < MARKER_TEXT_BYTES || memcmp(p, STOR_MARKER_PREFIX, prefix_len))
        return false;
    char text[MARKER_DIGITS_BYTES + 1] = {0};
    memcpy(text, p + prefix_len, MARKER_DIGITS_BYTES);
    return sscanf(text, "%12" SCNx64 " %16" SCNx64, ret_start, ret_number) == 2;
}

static int damaged(const scan_t *scan, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT,
                        "%s/" STOR_LOG_FILE_PREFIX "%010u is damaged at offset %" PRIu64
                        ": a record that had been written durably fails its check",
                        scan->folder, scan->bad_at.file, scan->bad_at.offset);
}

/* The marker before which everything is on disk, since this one (not 0) was written (flusher.h). */
static uint64_t proven_by(uint64_t number)
{
    return number % 2 == 1 ? number - 1 : number - 2;
}

/* VD_ERR_CORRUPT when the marker proves that the bad record before it had been flushed: the marker
 * that it speaks for stands behind that record. */
static int marker_seen(scan_t *scan, uint64_t start_id, uint64_t number, vd_error_t *err)
{
    scan->out.markers++;
    if (number == 0) { /* a start: recovery had dealt with all that stands before */
        scan->bad = false;
        scan->start_seen = true;
    } else if (scan->bad && !(scan->any_marker && scan->start_id == start_id &&
                              scan->number >= proven_by(number))) {
        return damaged(scan, err);
    }
    if (!scan->bad) {
        scan->any_marker = true;
        scan->start_id = start_id;
        scan->number = number;
    }
    return VD_OK;
}

static void bad_note(scan_t *scan, uint32_t file, uint64_t offset)
{
    if (scan->bad)
        return;
    scan->bad = true;
    scan->bad_at = (stor_log_place_t){file, offset};
}

/* The second record of a file says where the log ended in the file before: zeros there hide nothing
 * then. */
static void previous_end_check(scan_t *scan, const file_t *file, uint64_t offset, uint64_t len)
{
    const uint8_t *p = file->data + offset + HEAD_BYTES, *end = file->data + offset + len;
    uint64_t type, op, op_size, number, at;
    if (offset != ALIGN_BYTES || (file->data[offset + 8] & FLAG_ENCRYPTED) ||
        !unpack_uint(&p, end, &type) || type != TYPE_SYSTEM || !unpack_uint(&p, end, &op) ||
        !unpack_uint(&p, end, &op_size) || !unpack_uint(&p, end, &number) ||
        !unpack_uint(&p, end, &at))
        return;
    if (number + 1 == file->number && number == scan->end_file && at > scan->end_offset)
        bad_note(scan, scan->end_file, scan->end_offset);
}

static int record_seen(scan_t *scan, const uint8_t *record, uint64_t len, vd_error_t *err)
{
    uint8_t plain[ALIGN_BYTES];
    uint64_t start_id = 0, number = 0;
    scan->out.records++;
    scan->out.bytes += len;
    size_t plain_len = record_open(scan, record, len, plain, ALIGN_BYTES);
    if (plain_len == 0 || !marker_parse(plain, plain_len, &start_id, &number))
        return VD_OK;
    return marker_seen(scan, start_id, number, err);
}

/* The next offset at or after this one that has data, in whole records' steps; file->len when there
 * is none. */
static uint64_t skip_zeros(const file_t *file, uint64_t offset)
{
    static const uint8_t zeros[ALIGN_BYTES];
    while (offset < file->len) {
        if (offset % 4096 == 0) {
            off_t data = lseek(file->fd, (off_t)offset, SEEK_DATA);
            if (data < 0)
                return file->len;
            offset = (uint64_t)data / ALIGN_BYTES * ALIGN_BYTES;
        }
        uint64_t n = file->len - offset < ALIGN_BYTES ? file->len - offset : ALIGN_BYTES;
        if (memcmp(file->data + offset, zeros, n) != 0)
            return offset;
        offset += ALIGN_BYTES;
    }
    return file->len;
}

/* Zeros behind the last record are the end of the file, unless something follows them. */
static int file_scan(scan_t *scan, const file_t *file, vd_error_t *err)
{
    uint64_t end = 0;
    scan->out.files++;
    for (uint64_t offset = 0; offset < file->len;) {
        uint64_t len = record_check(file, offset);
        if (len != 0) {
            previous_end_check(scan, file, offset, len);
            end = offset + len;
            int rc = record_seen(scan, file->data + offset, len, err);
            if (rc != VD_OK)
                return rc;
            offset += len;
            continue;
        }
        uint64_t next = skip_zeros(file, offset);
        if (next >= file->len)
            break;
        bad_note(scan, file->number, offset);
        offset = next == offset ? offset + ALIGN_BYTES : next;
    }
    /* A header without the record behind it: recovery would fail to read that. */
    if (file->len < 2 * ALIGN_BYTES)
        bad_note(scan, file->number, end);
    scan->end_file = file->number;
    scan->end_offset = end;
    return VD_OK;
}

/* Looks for the newest checkpoint record in a file and notes which log file it needs. */
static void checkpoint_find(scan_t *scan, const file_t *file)
{
    uint8_t *plain = vd_xalloc(CHECKPOINT_MAX_BYTES);
    for (uint64_t offset = 0, len; (len = record_check(file, offset)) != 0; offset += len) {
        size_t plain_len = record_open(scan, file->data + offset, len, plain, CHECKPOINT_MAX_BYTES);
        const uint8_t *p = plain;
        uint64_t type = 0, number = 0;
        if (plain_len != 0 && unpack_uint(&p, plain + plain_len, &type) &&
            type == TYPE_CHECKPOINT && unpack_uint(&p, plain + plain_len, &number))
            scan->checkpoint_file = (uint32_t)number;
    }
    vd_free(plain);
}

static int missing(const scan_t *scan, uint32_t number, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "%s/" STOR_LOG_FILE_PREFIX "%010u is missing",
                        scan->folder, number);
}

/* Files [first, count) follow each other without a gap. Is the one before the first needed? */
static int sequence_check(scan_t *scan, const uint32_t *numbers, size_t first, size_t count,
                          stor_log_place_t needed, vd_error_t *err)
{
    uint32_t lowest = numbers[first];
    if (needed.file != 0 && needed.file < lowest)
        return missing(scan, lowest - 1, err);
    if (lowest == 1 || scan->start_seen)
        return VD_OK;
    for (size_t i = count; i > first && scan->checkpoint_file == 0; i--) {
        file_t file;
        int rc = file_map(scan->folder, numbers[i - 1], &file, err);
        if (rc != VD_OK)
            return rc;
        checkpoint_find(scan, &file);
        file_unmap(&file);
    }
    return scan->checkpoint_file >= lowest ? VD_OK : missing(scan, lowest - 1, err);
}

static int files_scan(scan_t *scan, const uint32_t *numbers, size_t count, stor_log_place_t needed,
                      uint32_t highest_known, vd_error_t *err)
{
    if (count == 0)
        return missing(scan, highest_known != 0 ? highest_known : 1, err);
    if (numbers[count - 1] < highest_known || numbers[count - 1] < needed.file)
        return missing(scan, numbers[count - 1] + 1, err);
    size_t first = count - 1;
    while (first > 0 && numbers[first - 1] + 1 == numbers[first])
        first--;
    for (size_t i = first; i < count; i++) {
        file_t file;
        int rc = file_map(scan->folder, numbers[i], &file, err);
        if (rc != VD_OK)
            return rc;
        rc = file_scan(scan, &file, err);
        file_unmap(&file);
        if (rc != VD_OK)
            return rc;
    }
    return sequence_check(scan, numbers, first, count, needed, err);
}

int stor_log_scan(const char *folder, stor_keys_t *keys, stor_log_place_t needed,
                  uint32_t highest_known, stor_log_scan_t *ret_scan, vd_error_t *err)
{
    scan_t scan = {.folder = folder, .keys = keys};
    uint32_t *numbers = NULL;
    size_t count = 0;
    int rc = files_list(folder, &numbers, &count, err);
    if (rc == VD_OK)
        rc = files_scan(&scan, numbers, count, needed, highest_known, err);
    vd_free(numbers);
    if (rc != VD_OK)
        return rc;
    scan.out.torn = scan.bad;
    scan.out.torn_at = scan.bad_at;
    *ret_scan = scan.out;
    return VD_OK;
}
