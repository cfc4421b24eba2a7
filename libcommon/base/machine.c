/* libcommon/base/machine.c — see machine.h. Control groups: Linux's admin-guide/cgroup-v2 and
 * cgroup-v1/memory. */
#include "libcommon/base/machine.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t limit_read(const char *folder, const char *name)
{
    char path[PATH_MAX + 64], text[64] = "";
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    char *line = fgets(text, sizeof text, file);
    (void)fclose(file);
    if (line == NULL || text[0] < '0' || text[0] > '9') /* "max": no limit */
        return UINT64_MAX;
    errno = 0;
    uint64_t limit = strtoull(text, NULL, 10);
    return errno != 0 || limit == 0 ? UINT64_MAX : limit;
}

/* A group's limit also binds the groups below it: from our own up to the root. */
static uint64_t group_limit(const char *root, const char *group, const char *name)
{
    char folder[PATH_MAX];
    uint64_t least = UINT64_MAX;
    if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder)
        return least;
    for (;;) {
        uint64_t limit = limit_read(folder, name);
        least = limit < least ? limit : least;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= strlen(root) || slash == NULL)
            return least;
        *slash = 0;
    }
}

static uint64_t groups_limit(void)
{
    char line[PATH_MAX];
    uint64_t least = UINT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return least;
    while (fgets(line, sizeof line, file) != NULL) { /* hierarchy:controllers:group */
        char *controllers = strchr(line, ':');
        char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (group == NULL)
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        uint64_t limit = UINT64_MAX;
        if (controllers[1] == 0)
            limit = group_limit("/sys/fs/cgroup", group, "memory.max");
        else if (strstr(controllers + 1, "memory") != NULL)
            limit = group_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
        least = limit < least ? limit : least;
    }
    (void)fclose(file);
    return least;
}

uint64_t vd_machine_memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t machine = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 1ull << 30;
    uint64_t group = groups_limit();
    return group < machine ? group : machine;
}

uint32_t vd_machine_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return (uint32_t)CPU_COUNT(&set);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 ? (uint32_t)cores : 1;
}
