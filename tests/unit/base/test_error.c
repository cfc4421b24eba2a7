/* tests/unit/base/test_error.c — the first error wins; messages are cut, names are found. */
#include "libcommon/base/error.h"

#include <criterion/criterion.h>
#include <errno.h>

Test(error, first_wins_and_prefix)
{
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_error_set(&err, VD_ERR_BAD_VALUE, "field %s", "a"), VD_ERR_BAD_VALUE);
    cr_assert_eq(vd_error_set(&err, VD_ERR_IO, "later"), VD_ERR_IO);
    cr_assert_eq(err.code, -2);
    cr_assert_str_eq(err.message, "field a");
    cr_assert_eq(vd_error_prefix(&err, "command %s", "find"), VD_ERR_BAD_VALUE);
    cr_assert_str_eq(err.message, "command find: field a");
    char line[64];
    cr_assert_str_eq(vd_error_print(&err, line, sizeof line),
                     "BadValue (2): command find: field a");
    vd_error_t copy = VD_ERROR_INIT;
    vd_error_copy(&err, &copy);
    vd_error_clear(&err);
    cr_assert_eq(err.code, VD_OK);
    cr_assert_eq(copy.code, -2);
    cr_assert_str_eq(vd_error_print(&err, line, sizeof line), "OK");
}

Test(error, null_is_allowed)
{
    cr_assert_eq(vd_error_set(NULL, VD_ERR_IO, "x"), VD_ERR_IO);
    vd_error_clear(NULL);
    errno = ENOENT;
    cr_assert_eq(vd_error_set_errno(NULL, "open"), VD_ERR_NOT_FOUND);
}

Test(error, long_messages_are_cut)
{
    char text[2000];
    memset(text, 'm', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    vd_error_t err = VD_ERROR_INIT;
    (void)vd_error_set(&err, VD_ERR_IO, "%s", text);
    cr_assert_eq(strlen(err.message), VD_ERROR_MESSAGE_SIZE - 1);
    (void)vd_error_prefix(&err, "p");
    cr_assert_eq(strlen(err.message), VD_ERROR_MESSAGE_SIZE - 1);
    cr_assert_eq(strncmp(err.message, "p: mm", 5), 0);
    (void)vd_error_prefix(&err, "%s", text);
    cr_assert_eq(strlen(err.message), VD_ERROR_MESSAGE_SIZE - 1);
}

Test(error, errno_maps_to_codes)
{
    static const struct {
        int number, code;
    } cases[] = {{ENOSPC, VD_ERR_OUT_OF_DISK_SPACE},
                 {ENOMEM, VD_ERR_NO_MEMORY},
                 {EEXIST, VD_ERR_EXISTS},
                 {EPIPE, VD_ERR_CLOSED},
                 {EIO, VD_ERR_IO},
                 {EBADF, VD_ERR_IO}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        errno = cases[i].number;
        cr_assert_eq(vd_error_set_errno(&err, "open %s", "f"), cases[i].code);
        cr_assert_eq(strncmp(err.message, "open f: ", 8), 0);
    }
}

Test(error, names)
{
    char buf[32];
    cr_assert_str_eq(vd_error_code_name(VD_ERR_DUPLICATE_KEY, buf), "DuplicateKey");
    cr_assert_str_eq(vd_error_code_name(VD_ERR_LOCATION(40353), buf), "Location40353");
    cr_assert_eq(vd_error_code_by_name(VD_SLICE_LIT("NotWritablePrimary")), -10107);
    cr_assert_eq(vd_error_code_by_name(VD_SLICE_LIT("nothing")), 0);
}
