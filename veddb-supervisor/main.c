/* veddb-supervisor/main.c — starts, watches, restarts and stops the workers of a node. */
#include "libcommon/base/log.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/sandbox.h"
#include "veddb-supervisor/folders.h"
#include "veddb-supervisor/system.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] = "usage: veddb-supervisor [--config FILE] [--<option>=<value> ...]\n"
                            "Starts a VedDB node in the foreground and keeps its workers alive; "
                            "SIGTERM stops it in order.\n"
                            "`vedctl config show` lists the options. Exit codes: 0 stopped, 64 "
                            "usage, 125 an operator must act.\n";

static void on_signal(void *context, int signal_number)
{
    sup_system_stop(context, signal_number == SIGINT ? "interrupted" : "asked by signal",
                    VD_EXIT_OK);
}

/* Two supervisors of one node would fight over sockets and data: the second one is refused. */
static int lock_node(const vd_config_t *config, vd_error_t *err)
{
    char path[PATH_MAX];
    const char *folder = vd_config_string(config, "node.run_folder");
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "can't make node.run_folder %s", folder);
    (void)snprintf(path, sizeof path, "%s/supervisor.lock", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return vd_error_set_errno(err, "can't open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return vd_error_set(err, VD_ERR_CONFIG, "another supervisor holds %s", path);
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "%d\n", (int)getpid()) < 0)
        return vd_error_set_errno(err, "can't write %s", path);
    return VD_OK; /* held until the process ends */
}

static int run(const vd_config_t *config, int *ret_exit_code, vd_error_t *err)
{
    static const int signals[] = {SIGTERM, SIGINT};
    vd_loop_t *loop = NULL;
    sup_system_t *system = NULL;
    vd_source_t *sources[VD_COUNT_OF(signals)] = {NULL};
    int rc = lock_node(config, err);
    if (rc == VD_OK)
        rc = vd_sandbox_basic(0, err);
    if (rc == VD_OK)
        rc = vd_loop_create(&loop, err);
    if (rc == VD_OK)
        rc = sup_system_create(loop, config, &system, err);
    if (rc == VD_OK && system->users)
        rc = sup_give_up_privileges(err); /* folders are given, ports are open */
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(signals); i++)
        rc = vd_loop_add_signal(loop, signals[i], on_signal, system, &sources[i], err);
    if (rc == VD_OK)
        rc = vd_loop_run(loop, err);
    if (rc == VD_OK)
        *ret_exit_code = system->exit_code;
    for (size_t i = 0; i < VD_COUNT_OF(signals); i++)
        vd_loop_remove(&sources[i]);
    sup_system_destroy(&system);
    vd_loop_destroy(&loop);
    return rc;
}

int main(int argc, char **argv)
{
    const char *file = NULL;
    vd_error_t err = VD_ERROR_INIT;
    vd_config_t *config = NULL;
    int exit_code = VD_EXIT_OK;
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return VD_EXIT_OK;
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        puts("veddb-supervisor " VEDDB_VERSION);
        return VD_EXIT_OK;
    }
    if (argc > 2 && strcmp(argv[1], "--config") == 0) {
        file = argv[2];
        argv += 2, argc -= 2;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a log reader that goes away must not end the node */
    vd_log_setup("veddb-supervisor", VD_LOG_INFO, VD_LOG_LOGFMT);
    int rc = vd_config_load(file, argv + 1, argc - 1, &config, &err);
    if (rc == VD_OK) {
        vd_log_level_t level = VD_LOG_INFO;
        rc = vd_log_level_parse(vd_slice_str(vd_config_string(config, "log.level")), &level);
        vd_log_setup("veddb-supervisor", level,
                     strcmp(vd_config_string(config, "log.format"), "json") == 0 ? VD_LOG_JSON
                                                                                 : VD_LOG_LOGFMT);
    }
    if (rc == VD_OK)
        rc = run(config, &exit_code, &err);
    vd_config_destroy(&config);
    if (rc == VD_OK)
        return exit_code;
    vd_log(VD_LOG_FATAL, "the node can't run", "code=%d error=\"%s\"", rc, err.message);
    return rc == VD_ERR_CONFIG ? VD_EXIT_STRUCTURAL : VD_EXIT_FAILURE;
}
