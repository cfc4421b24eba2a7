/* veddb-supervisor/spawn.c — see spawn.h.
 *
 * The supervisor has threads (ZeroMQ's), so between fork and exec only async-signal-safe calls are
 * made: everything that allocates is prepared before. PDEATHSIG is set in the child before exec and
 * again by the program itself after a change of user. */
#include "veddb-supervisor/spawn.h"

#include "libcommon/base/mem.h"
#include "veddb-supervisor/folders.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LISTEN_BACKLOG  4096
#define FIRST_PASSED    3 /* configuration; others follow */
#define FIRST_FREE      64
#define PASSED_MAX      (SUP_LISTENERS_MAX + 6)
#define ENVIRONMENT_MAX 24

/* ---- listeners ---- */

static int parse_address(const char *address, uint16_t port, struct sockaddr_storage *ret,
                         socklen_t *ret_len)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    if (strcmp(address, "localhost") == 0)
        address = "127.0.0.1";
    memset(ret, 0, sizeof *ret);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET, v4->sin_port = htons(port);
        *ret_len = sizeof *v4;
        return VD_OK;
    }
    if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6, v6->sin6_port = htons(port);
        *ret_len = sizeof *v6;
        return VD_OK;
    }
    return VD_ERR_BAD_VALUE;
}

int sup_listen(const sup_listening_t *what, const vd_config_t *config, sup_listener_t *ret_listener,
               vd_error_t *err)
{
    const char *address = vd_config_string(config, what->address_option);
    uint16_t port = (uint16_t)vd_config_number(config, what->port_option);
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    if (parse_address(address, port, &at, &len) != VD_OK)
        return vd_error_set(err, VD_ERR_CONFIG, "%s: %s is not an IP address", what->address_option,
                            address);
    int fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        return vd_error_set_errno(err, "can't make a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one,
                     sizeof one); /* only a convenience at restart */
    int rc = VD_OK;
    if (bind(fd, (struct sockaddr *)&at, len) != 0 || listen(fd, LISTEN_BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        rc = vd_error_set_errno(err, "can't listen on %s port %u", address, port);
    if (rc != VD_OK) {
        (void)close(fd); /* never used */
        return rc;
    }
    uint16_t bound = at.ss_family == AF_INET ? ((struct sockaddr_in *)&at)->sin_port
                                             : ((struct sockaddr_in6 *)&at)->sin6_port;
    *ret_listener = (sup_listener_t){.what = what, .fd = fd, .port = ntohs(bound)};
    return VD_OK;
}

/* ---- spawn ---- */

static int config_file(const sup_spawn_t *spawn, int *ret_fd, vd_error_t *err)
{
    vd_buf_t blob;
    vd_buf_init(&blob, 1 << 20);
    int fd = -1;
    int rc = vd_config_pack(spawn->config, spawn->kind->letter, &blob, err);
    if (rc == VD_OK) {
        fd = memfd_create("veddb-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        vd_slice_t bytes = vd_buf_slice(&blob);
        if (fd < 0 || write(fd, bytes.data, bytes.len) != (ssize_t)bytes.len ||
            lseek(fd, 0, SEEK_SET) != 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
            rc =
                vd_error_set_errno(err, "can't hand the configuration to %s", spawn->kind->program);
    }
    vd_buf_done(&blob);
    if (rc != VD_OK && fd >= 0)
        (void)close(fd); /* useless now */
    if (rc == VD_OK)
        *ret_fd = fd;
    return rc;
}

/* The program that stands in our own folder: an installation and a build tree alike. The user that
 * runs it may be unable to come there: it is run by its descriptor. */
static int program_open(const sup_spawn_t *spawn, char path[PATH_MAX], int *ret_fd, vd_error_t *err)
{
    char self[PATH_MAX - 64];
    struct stat st;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return vd_error_set_errno(err, "can't find our own program");
    self[n] = '\0';
    *(strrchr(self, '/') + 1) = '\0';
    (void)snprintf(path, PATH_MAX, "%s%s", self, spawn->kind->program);
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || access(path, X_OK) != 0) {
        int rc = vd_error_set_errno(err, "can't run %s", path);
        if (fd >= 0)
            (void)close(fd); /* useless */
        return rc;
    }
    if (spawn->users && (st.st_mode & S_IXOTH) == 0) {
        (void)close(fd); /* useless */
        return vd_error_set(err, VD_ERR_CONFIG, "%s can't be run by other users (mode %03o)", path,
                            (unsigned)(st.st_mode & 0777));
    }
    *ret_fd = fd;
    return VD_OK;
}

typedef struct {
    char *words[ENVIRONMENT_MAX + 1];
    size_t count;
} environment_t;

static void environment_add(environment_t *environment, const char *name, const char *value)
{
    char text[PATH_MAX + 64];
    VD_ASSERT(environment->count < ENVIRONMENT_MAX);
    (void)snprintf(text, sizeof text, "%s=%s", name, value);
    environment->words[environment->count++] = vd_xstrdup(text);
}

static void environment_add_number(environment_t *environment, const char *name, uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    environment_add(environment, name, text);
}

/* The listeners of this kind; returns how many. */
static size_t own_listeners(const sup_spawn_t *spawn, const sup_listener_t *own[SUP_LISTENERS_MAX])
{
    size_t count = 0;
    VD_ASSERT(spawn->listener_count <= SUP_LISTENERS_MAX);
    for (size_t i = 0; i < spawn->listener_count; i++)
        if (&sup_kinds[spawn->listeners[i].what->kind] == spawn->kind)
            own[count++] = &spawn->listeners[i];
    return count;
}

/* A descriptor that the child finds by VEDDB_FD_<name>. */
typedef struct {
    char name[24];
    int fd;
    bool ours; /* to be closed here */
} passed_t;

typedef struct {
    passed_t at[PASSED_MAX];
    int count;
} passing_t;

static void pass(passing_t *passing, const char *name, int fd, bool ours)
{
    VD_ASSERT(passing->count < PASSED_MAX);
    passed_t *passed = &passing->at[passing->count++];
    (void)snprintf(passed->name, sizeof passed->name, "%s", name);
    passed->fd = fd;
    passed->ours = ours;
}

/* Folders that the child's user may be unable to reach by name. */
static void pass_folders(passing_t *passing, const sup_spawn_t *spawn)
{
    static const struct {
        const char *option, *name, *letters;
    } folders[] = {
        {"node.folder", "FOLDER", "rt"},
        {"node.run_folder", "RUN", "rtpg"},
        {"audit.second_place", "SECOND", "r"},
        {"backup.folder", "BACKUPS", "t"},
    };
    for (size_t i = 0; spawn->users && i < VD_COUNT_OF(folders); i++) {
        if (strchr(folders[i].letters, spawn->kind->letter) == NULL)
            continue;
        int fd = open(vd_config_string(spawn->config, folders[i].option),
                      O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
            pass(passing, folders[i].name, fd, true);
    }
}

static void environment_make(environment_t *environment, const sup_spawn_t *spawn,
                             const passing_t *passing)
{
    environment_add(environment, "PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    environment_add(environment, "VEDDB_CONTROL_SOCKET", spawn->control_path);
    environment_add_number(environment, "VEDDB_GENERATION", spawn->generation);
    environment_add_number(environment, "VEDDB_PARENT_PID", (uint64_t)getpid());
    environment_add_number(environment, "VEDDB_CONFIG_FD", FIRST_PASSED);
    for (int i = 1; i < passing->count; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "VEDDB_FD_%s", passing->at[i].name);
        environment_add_number(environment, name, FIRST_PASSED + (uint64_t)i);
    }
    /* What a person sets to look inside a program under test. */
    static const char *const passed[] = {"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS",
                                         "LSAN_OPTIONS"};
    for (size_t i = 0; i < VD_COUNT_OF(passed); i++)
        if (getenv(passed[i]) != NULL)
            environment_add(environment, passed[i], getenv(passed[i]));
    if (spawn->kind == &sup_kinds[SUP_KIND_ROTATED] && getenv("CREDENTIALS_DIRECTORY") != NULL)
        environment_add(environment, "CREDENTIALS_DIRECTORY", getenv("CREDENTIALS_DIRECTORY"));
}

/* Between fork and exec. The descriptors to pass are first moved out of the way, then to their
 * places. */
static _Noreturn void child_main(int program, char *const *argv, char *const *environment,
                                 const passing_t *passing, bool users, uid_t uid, gid_t gid,
                                 pid_t parent)
{
    sigset_t none;
    int moved[PASSED_MAX];
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 1; i < NSIG; i++)
        (void)signal(i, SIG_DFL); /* some can't be set; the rest must not be inherited */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    program = fcntl(program, F_DUPFD_CLOEXEC, FIRST_FREE);
    if (program < 0)
        _exit(126);
    for (int i = 0; i < passing->count; i++) {
        moved[i] = fcntl(passing->at[i].fd, F_DUPFD_CLOEXEC, FIRST_FREE);
        if (moved[i] < 0)
            _exit(126);
    }
    for (int i = 0; i < passing->count; i++)
        if (dup2(moved[i], FIRST_PASSED + i) < 0)
            _exit(126);
    (void)syscall(SYS_close_range, FIRST_PASSED + passing->count, ~0u,
                  CLOSE_RANGE_CLOEXEC); /* belt and braces: all are close-on-exec */
    if (users &&
        (syscall(SYS_setgroups, 0, NULL) != 0 || syscall(SYS_setresgid, gid, gid, gid) != 0 ||
         syscall(SYS_setresuid, uid, uid, uid) != 0))
        _exit(126);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    (void)syscall(SYS_execveat, program, "", argv, environment, AT_EMPTY_PATH);
    _exit(127);
}

int sup_spawn(const sup_spawn_t *spawn, pid_t *ret_pid, vd_error_t *err)
{
    char path[PATH_MAX];
    uid_t uid = 0;
    gid_t gid = 0;
    int config = -1, program = -1;
    const sup_listener_t *own[SUP_LISTENERS_MAX];
    size_t own_count = own_listeners(spawn, own);

    int rc = program_open(spawn, path, &program, err);
    if (rc == VD_OK && spawn->users)
        rc = sup_user_ids(spawn->kind->program, &uid, &gid, err);
    if (rc == VD_OK)
        rc = config_file(spawn, &config, err);
    if (rc != VD_OK) {
        if (program >= 0)
            (void)close(program); /* not run */
        return rc;
    }
    passing_t passing = {0};
    pass(&passing, "CONFIG", config, true);
    for (size_t i = 0; i < own_count; i++)
        pass(&passing, own[i]->what->name, own[i]->fd, false);
    pass(&passing, "FILES", spawn->files, false);
    pass(&passing, "LAST_WORD", spawn->last_word, false);
    pass_folders(&passing, spawn);

    environment_t environment = {0};
    environment_make(&environment, spawn, &passing);
    char *argv[] = {path, NULL};
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child_main(program, argv, environment.words, &passing, spawn->users, uid, gid, parent);
    if (pid < 0)
        rc = vd_error_set_errno(err, "can't fork %s", spawn->kind->program);
    else
        *ret_pid = pid;
    (void)close(program); /* the child has its own of all these */
    for (int i = 0; i < passing.count; i++)
        if (passing.at[i].ours)
            (void)close(passing.at[i].fd);
    for (size_t i = 0; i < environment.count; i++)
        vd_free(environment.words[i]);
    return rc;
}
