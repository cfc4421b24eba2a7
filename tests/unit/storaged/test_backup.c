/* tests/unit/storaged/test_backup.c — which backups are kept (backup/shelf.h): bounds, order, the
 * file, and every byte of it. */
#include "veddb-storaged/backup/shelf.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static stor_shelf_t shelf, back;
static vd_error_t err;

static void set_up(void)
{
    memset(&shelf, 0, sizeof shelf);
    memset(&back, 0, sizeof back);
    err = (vd_error_t)VD_ERROR_INIT;
}

TestSuite(shelf, .init = set_up);

static int put(const char *name, int64_t made_ms, uint32_t oldest)
{
    stor_backup_row_t row = {.made_ms = made_ms,
                             .oldest_version = oldest,
                             .bytes = 1ull << 40,
                             .keyring = oldest % 2 == 1};
    (void)snprintf(row.name, sizeof row.name, "%s", name);
    vd_error_clear(&err);
    return stor_shelf_add(&shelf, &row, &err);
}

Test(shelf, keeps_order_names_and_bounds)
{
    char name[32];
    cr_assert_eq(put("b", 20, 1), VD_OK);
    cr_assert_eq(put("c", 30, 2), VD_OK);
    cr_assert_eq(put("a", 10, 3), VD_OK);
    cr_assert_eq(put("b", 40, 4), VD_ERR_EXISTS);
    cr_assert_str_eq(shelf.rows[0].name, "a");
    cr_assert_str_eq(shelf.rows[2].name, "c");
    stor_shelf_remove(&shelf, "b");
    stor_shelf_remove(&shelf, "none");
    cr_assert_eq(shelf.count, 2);
    cr_assert_null(stor_shelf_find(&shelf, "b"));
    cr_assert_eq(stor_shelf_find(&shelf, "c")->oldest_version, 2);
    for (int i = 2; i < STOR_BACKUPS_MAX; i++) {
        (void)snprintf(name, sizeof name, "n%d", i);
        cr_assert_eq(put(name, i, 1), VD_OK);
    }
    cr_assert_eq(put("one-more", 1, 1), VD_ERR_FULL);
}

Test(shelf, text_is_read_as_it_was_written_or_not_at_all)
{
    vd_buf_t text;
    vd_buf_init(&text, 1 << 20);
    cr_assert_eq(put("monday", 1795916419410, 1), VD_OK);
    cr_assert_eq(put("2026-11-29_01-40-45", 1795916445000, 2), VD_OK);
    cr_assert_eq(stor_shelf_print(&shelf, &text), VD_OK);
    vd_slice_t all = vd_buf_slice(&text);
    cr_assert_eq(stor_shelf_parse(all, &back, &err), VD_OK, "%s", err.message);
    cr_assert_eq(back.count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_str_eq(back.rows[i].name, shelf.rows[i].name);
        cr_assert_eq(back.rows[i].oldest_version, shelf.rows[i].oldest_version);
        cr_assert_eq(back.rows[i].made_ms, shelf.rows[i].made_ms);
        cr_assert_eq(back.rows[i].bytes, shelf.rows[i].bytes);
        cr_assert_eq(back.rows[i].keyring, shelf.rows[i].keyring);
    }
    for (size_t i = 0; i < all.len; i++) {
        text.data[text.start + i] ^= 1;
        cr_assert_eq(stor_shelf_parse(all, &back, NULL), VD_ERR_CORRUPT, "byte %zu", i);
        text.data[text.start + i] ^= 1;
        cr_assert_eq(stor_shelf_parse(vd_slice(all.data, i), &back, NULL), VD_ERR_CORRUPT);
    }
    vd_buf_done(&text);
}

Test(shelf, stands_in_a_file)
{
    char folder[] = "/tmp/veddb-shelf-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(stor_shelf_load(folder, &back, &err), VD_OK, "none yet");
    cr_assert_eq(back.count, 0);
    cr_assert_eq(put("monday", 5, 1), VD_OK);
    cr_assert_eq(stor_shelf_save(folder, &shelf, &err), VD_OK, "%s", err.message);
    cr_assert_eq(stor_shelf_load(folder, &back, &err), VD_OK, "%s", err.message);
    cr_assert_str_eq(back.rows[0].name, "monday");
    (void)snprintf(path, sizeof path, "%s/" STOR_BACKUPS_FILE, folder);
    cr_assert_eq(truncate(path, 10), 0);
    cr_assert_eq(stor_shelf_load(folder, &back, &err), VD_ERR_CORRUPT);
    cr_assert_not_null(strstr(err.message, STOR_BACKUPS_FILE), "%s", err.message);
    (void)unlink(path);
    (void)rmdir(folder);
}
