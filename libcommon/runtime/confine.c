/* libcommon/runtime/confine.c — see confine.h. The tables of who sees what are here, those of who
 * calls what in syscalls.def. */
#include "libcommon/runtime/confine.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/sandbox.h"

#include <stdio.h>
#include <string.h>

/* What every program reads: its libraries, the machine, names and addresses, itself. */
static const vd_view_t common_view[] = {
    {"/usr", false},
    {"/lib", false},
    {"/lib64", false},
    {"/proc", false},
    {"/sys/devices/system/cpu", false},
    {"/sys/fs/cgroup", false},
    {"/dev/null", true},
    {"/dev/urandom", false},
    {"/etc/passwd", false},
    {"/etc/group", false},
    {"/etc/nsswitch.conf", false},
    {"/etc/hosts", false},
    {"/etc/host.conf", false},
    {"/etc/resolv.conf", false},
    {"/etc/gai.conf", false},
    {"/etc/services", false},
    {"/etc/localtime", false},
    {"/etc/ld.so.cache", false},
    {"/etc/ssl/openssl.cnf", false},
};

/* What only one sees. Sockets between two: the other's folder, too, to connect. */
static const struct {
    char letter;
    const char *option, *below;
    bool write;
} own_view[] = {
    {'r', "node.folder", "keys", true},
    {'r', "node.folder", "audit", true},
    {'r', "audit.second_place", "", true},
    {'r', "node.run_folder", "storage-rotated", true},
    {'r', "node.run_folder", "supervisor-rotated", false},
    {'t', "node.folder", "data", true},
    {'t', "backup.folder", "", true},
    {'t', "node.run_folder", "storage-rotated", true},
    {'t', "node.run_folder", "storage-replicad", true},
    {'t', "node.run_folder", "storage-gateway", true},
    {'t', "node.run_folder", "supervisor-storaged", false},
    {'p', "node.run_folder", "storage-replicad", false},
    {'p', "node.run_folder", "supervisor-replicad", false},
    {'g', "node.run_folder", "storage-gateway", false},
    {'g', "node.run_folder", "supervisor-gatewayd", false},
};

#define VIEW_MAX 64

/* Alone nobody opens files for us (files.h), and they may be replaced: their folders are seen. */
static size_t add_files(const vd_daemon_t *daemon, const vd_program_t *program, vd_view_t *view,
                        char (*paths)[512], size_t count)
{
    for (size_t i = 0; i < vd_option_count && count < VIEW_MAX; i++) {
        const vd_option_t *option = &vd_options[i];
        size_t len = strlen(option->name);
        if (option->type != VD_OPTION_PATH || len < 5 ||
            strcmp(option->name + len - 5, "_file") != 0 ||
            strchr(option->programs, program->letter) == NULL)
            continue;
        (void)snprintf(paths[count], sizeof paths[count], "%s",
                       vd_config_string(vd_daemon_config(daemon), option->name));
        char *slash = strrchr(paths[count], '/');
        if (slash == NULL)
            continue;
        slash[slash == paths[count]] = '\0';
        view[count] = (vd_view_t){paths[count], false};
        count++;
    }
    return count;
}

int vd_confine_view(const vd_daemon_t *daemon, const vd_program_t *program, vd_error_t *err)
{
    if (VD_SANITIZED) {
        vd_log(VD_LOG_WARN, "A BUILD WITH SANITIZERS: the view of the file system is not limited",
               "program=%s", program->program);
        return VD_OK; /* they write reports where they are told to */
    }
    vd_view_t view[VIEW_MAX];
    char(*paths)[512] = vd_xalloc(sizeof *paths * VIEW_MAX);
    size_t count = VD_COUNT_OF(common_view);
    bool in_force = false;
    memcpy(view, common_view, sizeof common_view);
    for (size_t i = 0; i < VD_COUNT_OF(own_view); i++) {
        if (own_view[i].letter != program->letter)
            continue;
        const char *folder = vd_daemon_folder(daemon, own_view[i].option);
        if (folder[0] == '\0')
            continue;
        (void)snprintf(paths[count], sizeof paths[count], "%s/%s", folder, own_view[i].below);
        view[count] = (vd_view_t){paths[count], own_view[i].write};
        count++;
    }
    if (vd_daemon_passed_fd(daemon, "FILES") < 0)
        count = add_files(daemon, program, view, paths, count);
    int rc = vd_sandbox_view(view, count, &in_force, err);
    vd_free(paths);
    if (rc == VD_OK && !in_force)
        vd_log(VD_LOG_WARN,
               "THIS KERNEL HAS NO LANDLOCK: the view of the file system is limited "
               "by users and modes only",
               "program=%s", program->program);
    return rc;
}

int vd_confine_calls(const vd_daemon_t *daemon, const vd_program_t *program, vd_error_t *err)
{
    const char *mode = vd_config_string(vd_daemon_config(daemon), "test.syscalls");
    vd_calls_t calls = {
        .program = program->program,
        .letter = program->letter,
        .network = program->network,
        .alone = vd_daemon_passed_fd(daemon, "FILES") < 0,
        .mode = strcmp(mode, "note") == 0       ? VD_CALLS_NOTE
                : strcmp(mode, "note_all") == 0 ? VD_CALLS_NOTE_ALL
                                                : VD_CALLS_ENFORCE,
        .last_word = vd_last_word_map(vd_daemon_passed_fd(daemon, "LAST_WORD")),
    };
    return vd_sandbox_calls(&calls, err);
}
