/* veddb-storaged/backup/shelf.c — see shelf.h. */
#include "veddb-storaged/backup/shelf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <unistd.h>

#define TEXT_MAX_BYTES (STOR_BACKUPS_MAX * 200 + 200)
#define HEX_BYTES      (2 * SHA256_DIGEST_LENGTH)
#define LAST_BYTES     (sizeof "end " - 1 + HEX_BYTES + 1)

stor_backup_row_t *stor_shelf_find(stor_shelf_t *shelf, const char *name)
{
    for (uint32_t i = 0; i < shelf->count; i++)
        if (strcmp(shelf->rows[i].name, name) == 0)
            return &shelf->rows[i];
    return NULL;
}

int stor_shelf_add(stor_shelf_t *shelf, const stor_backup_row_t *row, vd_error_t *err)
{
    uint32_t at = shelf->count;
    if (stor_shelf_find(shelf, row->name) != NULL)
        return vd_error_set(err, VD_ERR_EXISTS, "there is a backup %s", row->name);
    if (shelf->count == STOR_BACKUPS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "%d backups are kept: remove one first",
                            STOR_BACKUPS_MAX);
    while (at > 0 && shelf->rows[at - 1].made_ms > row->made_ms)
        at--;
    memmove(&shelf->rows[at + 1], &shelf->rows[at], (shelf->count - at) * sizeof shelf->rows[0]);
    shelf->rows[at] = *row;
    shelf->count++;
    return VD_OK;
}

void stor_shelf_remove(stor_shelf_t *shelf, const char *name)
{
    stor_backup_row_t *row = stor_shelf_find(shelf, name);
    if (row == NULL)
        return;
    size_t behind = (size_t)(&shelf->rows[shelf->count] - (row + 1));
    memmove(row, row + 1, behind * sizeof *row);
    shelf->count--;
}

static void sum_print(vd_slice_t text, char hex[HEX_BYTES + 1])
{
    uint8_t sum[SHA256_DIGEST_LENGTH];
    (void)SHA256(text.data, text.len, sum);
    for (size_t i = 0; i < sizeof sum; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", sum[i]);
}

int stor_shelf_print(const stor_shelf_t *shelf, vd_buf_t *out)
{
    char hex[HEX_BYTES + 1];
    int rc = vd_buf_printf(out, "VedDB backups 1\n");
    for (uint32_t i = 0; rc == VD_OK && i < shelf->count; i++) {
        const stor_backup_row_t *row = &shelf->rows[i];
        rc = vd_buf_printf(out, "%s %u %" PRId64 " %" PRIu64 " %d\n", row->name,
                           row->oldest_version, row->made_ms, row->bytes, row->keyring);
    }
    if (rc != VD_OK)
        return rc;
    sum_print(vd_buf_slice(out), hex);
    return vd_buf_printf(out, "end %s\n", hex);
}

static bool row_parse(const char *line, stor_backup_row_t *row)
{
    int keyring = 0, used = 0;
    *row = (stor_backup_row_t){0};
    bool good = sscanf(line, "%64s %" SCNu32 " %" SCNd64 " %" SCNu64 " %d%n", row->name,
                       &row->oldest_version, &row->made_ms, &row->bytes, &keyring, &used) == 5 &&
                line[used] == '\0' && vd_backup_name_ok(row->name);
    row->keyring = keyring != 0;
    return good;
}

int stor_shelf_parse(vd_slice_t text, stor_shelf_t *ret_shelf, vd_error_t *err)
{
    char line[256], hex[HEX_BYTES + 1];
    stor_shelf_t *shelf = ret_shelf;
    shelf->count = 0;
    bool good = text.len > LAST_BYTES && text.data[text.len - 1] == '\n';
    size_t end = good ? text.len - LAST_BYTES : 0;
    if (good) {
        sum_print(vd_slice(text.data, end), hex);
        good = memcmp(text.data + end, "end ", 4) == 0 &&
               memcmp(text.data + end + 4, hex, HEX_BYTES) == 0;
    }
    for (size_t at = 0, number = 0; good && at < end; number++) {
        const uint8_t *stop = memchr(text.data + at, '\n', end - at);
        size_t len = stop == NULL ? sizeof line : (size_t)(stop - text.data) - at;
        stor_backup_row_t row;
        good = len < sizeof line;
        if (!good)
            break;
        memcpy(line, text.data + at, len);
        line[len] = '\0';
        at += len + 1;
        if (number == 0)
            good = strcmp(line, "VedDB backups 1") == 0;
        else
            good = row_parse(line, &row) && stor_shelf_add(shelf, &row, NULL) == VD_OK;
    }
    return good ? VD_OK
                : vd_error_set(err, VD_ERR_CORRUPT,
                               "it is damaged: which backups need which keys is not known; remove "
                               "it when the manifests of all backups are at hand");
}

int stor_shelf_load(const char *folder, stor_shelf_t *ret_shelf, vd_error_t *err)
{
    char path[PATH_MAX];
    vd_buf_t text;
    uint8_t *space = NULL;
    ret_shelf->count = 0;
    vd_buf_init(&text, TEXT_MAX_BYTES + 1);
    (void)snprintf(path, sizeof path, "%.4000s/" STOR_BACKUPS_FILE, folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? VD_OK : vd_error_set_errno(err, "%s", path);
    int rc = vd_buf_reserve(&text, TEXT_MAX_BYTES, &space);
    ssize_t n = rc == VD_OK ? pread(fd, space, TEXT_MAX_BYTES, 0) : 0;
    if (n < 0)
        rc = vd_error_set_errno(err, "reading %s", path);
    (void)close(fd); /* was only read */
    if (rc == VD_OK) {
        vd_buf_commit(&text, (size_t)n);
        rc = stor_shelf_parse(vd_buf_slice(&text), ret_shelf, err);
        if (rc != VD_OK)
            vd_error_prefix(err, "%s", path);
    }
    vd_buf_done(&text);
    return rc;
}

int stor_shelf_save(const char *folder, const stor_shelf_t *shelf, vd_error_t *err)
{
    vd_buf_t text;
    vd_buf_init(&text, TEXT_MAX_BYTES);
    int rc = stor_shelf_print(shelf, &text);
    if (rc == VD_OK)
        rc = vd_backup_replace(folder, STOR_BACKUPS_FILE, vd_buf_slice(&text), false, err);
    vd_buf_done(&text);
    return rc;
}
