/* tests/unit/base/test_paths.c — a folder is told under its real name. */
#include "libcommon/base/error.h"
#include "libcommon/base/paths.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(paths, told_under_the_real_name)
{
    static const struct {
        const char *text, *told;
        size_t size;
    } cases[] = {
        {"", "", 64},
        {"nothing here", "nothing here", 64},
        {"/proc/self/fd/7/data/f: No such file", "/var/lib/veddb/data/f: No such file", 64},
        {"a /proc/self/fd/7 b /proc/self/fd/7", "a /var/lib/veddb b /var/lib/veddb", 64},
        {"/proc/self/fd/71/x", "/proc/self/fd/71/x", 64},
        {"/proc/self/fd/7/abcdef", "/var/lib/veddb/abcdef", 22},
        {"/proc/self/fd/8/x", "/r/x", 64},
    };
    vd_error_t err = VD_ERROR_INIT;
    vd_paths_told("/proc/self/fd/7", "/var/lib/veddb");
    vd_paths_told("/proc/self/fd/8", "/r");
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "%s", cases[i].text);
        vd_paths_tell(text, cases[i].size);
        cr_expect_str_eq(text, cases[i].told);
    }
    /* At every size: never beyond it. */
    for (size_t size = 18; size < 40; size++) {
        char text[64];
        memset(text, 'x', sizeof text);
        memcpy(text, "/proc/self/fd/7/a", 18);
        vd_paths_tell(text, size);
        cr_expect(strlen(text) < size && text[size] == 'x', "%zu", size);
    }
    (void)vd_error_set(&err, VD_ERR_IO, "can't open %s", "/proc/self/fd/8/f");
    cr_expect_str_eq(err.message, "can't open /r/f");
}
