/* libcommon/base/paths.c — see paths.h. */
#include "libcommon/base/paths.h"

#include "libcommon/base/error.h"

#include <string.h>

static struct {
    const char *used, *told;
} folders[VD_PATHS_MAX];
static size_t folder_count;

void vd_paths_told(const char *used, const char *told)
{
    VD_ASSERT(used != NULL && used[0] != '\0' && told != NULL && folder_count < VD_PATHS_MAX);
    folders[folder_count].used = used;
    folders[folder_count++].told = told;
}

static void replace(char *text, size_t size, const char *used, const char *told)
{
    size_t used_len = strlen(used), told_len = strlen(told);
    for (char *at = strstr(text, used); at != NULL; at = strstr(at, used)) {
        size_t before = (size_t)(at - text), room = size - before;
        if (at[used_len] >= '0' && at[used_len] <= '9') { /* another number */
            at += used_len;
            continue;
        }
        size_t put = told_len < room - 1 ? told_len : room - 1, rest = strlen(at + used_len);
        if (rest > room - 1 - put)
            rest = room - 1 - put;
        memmove(at + put, at + used_len, rest);
        memcpy(at, told, put);
        at[put + rest] = '\0';
        at += put;
    }
}

void vd_paths_tell(char *text, size_t size)
{
    VD_ASSERT(text != NULL && size > 0);
    for (size_t i = 0; i < folder_count; i++)
        replace(text, size, folders[i].used, folders[i].told);
}
