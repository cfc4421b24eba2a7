/* veddb-supervisor/spawn.c — see spawn.h.
 *
 * The supervisor has threads (ZeroMQ's), so between fork and exec only async-signal-safe calls are
 * made: everything that allocates is prepared before. PDEATHSIG is set in the child before exec and
 * again by the program itself after a change of user. */
#include "veddb-supervisor/spawn.h"

#include "libcommon/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <pwd.h>
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
#define FIRST_PASSED    3 /* configuration; listeners follow */
#define ENVIRONMENT_MAX 16

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

/* ---- folders ---- */

static int user_ids(const char *program, uid_t *ret_uid, gid_t *ret_gid, vd_error_t *err)
{
    const struct passwd *user = getpwnam(program);
    if (user == NULL)
        return vd_error_set(err, VD_ERR_CONFIG, "node.users is set, but there is no user %s",
                            program);
    *ret_uid = user->pw_uid, *ret_gid = user->pw_gid;
    return VD_OK;
}

static int make_folder(const char *path, mode_t mode, uid_t uid, gid_t gid, vd_error_t *err)
{
    struct stat st;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "can't make folder %s", path);
    if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return vd_error_set(err, VD_ERR_CONFIG, "%s is not a folder", path);
    if (st.st_uid != geteuid() && geteuid() != 0)
        return vd_error_set(err, VD_ERR_CONFIG, "folder %s belongs to somebody else (uid %u)", path,
                            (unsigned)st.st_uid);
    if ((st.st_uid != uid || st.st_gid != gid) && chown(path, uid, gid) != 0)
        return vd_error_set_errno(err, "can't give folder %s to its user", path);
    return chmod(path, mode) == 0
               ? VD_OK
               : vd_error_set_errno(err, "can't set the mode of folder %s", path);
}

static int make_pair(const char *run_folder, const char *name, bool users, const char *binder,
                     const char *connector, vd_error_t *err)
{
    char path[PATH_MAX];
    uid_t uid = geteuid(), other_uid = 0;
    gid_t gid = getegid(), other_gid = 0;
    int rc = VD_OK;
    if (users && binder != NULL)
        rc = user_ids(binder, &uid, &gid, err);
    if (rc == VD_OK && users)
        rc = user_ids(connector, &other_uid, &other_gid, err);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(path, sizeof path, "%s/%s", run_folder, name);
    /* set-group-id: sockets made in it belong to the connector's group. */
    return users ? make_folder(path, 02750, uid, other_gid, err)
                 : make_folder(path, 0700, uid, gid, err);
}

int sup_make_folders(const vd_config_t *config, vd_error_t *err)
{
    const char *run_folder = vd_config_string(config, "node.run_folder");
    bool users = vd_config_bool(config, "node.users");
    int rc = make_folder(run_folder, users ? 0711 : 0700, geteuid(), getegid(), err);
    for (size_t i = 0; rc == VD_OK && i < sup_pair_count; i++)
        if (sup_kind_joins(sup_pairs[i].binder, config) &&
            sup_kind_joins(sup_pairs[i].connector, config))
            rc = make_pair(run_folder, sup_pairs[i].folder, users,
                           sup_kinds[sup_pairs[i].binder].program,
                           sup_kinds[sup_pairs[i].connector].program, err);
    for (int i = 0; rc == VD_OK && i < SUP_KIND_COUNT; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "supervisor-%s", sup_kinds[i].name);
        if (sup_kind_joins((sup_kind_id_t)i, config))
            rc = make_pair(run_folder, name, users, NULL, sup_kinds[i].program, err);
    }
    return rc;
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

/* The program that stands in our own folder: an installation and a build tree alike. */
static int program_path(const char *program, char path[PATH_MAX], vd_error_t *err)
{
    char self[PATH_MAX - 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return vd_error_set_errno(err, "can't find our own program");
    self[n] = '\0';
    *(strrchr(self, '/') + 1) = '\0';
    (void)snprintf(path, PATH_MAX, "%s%s", self, program);
    return access(path, X_OK) == 0 ? VD_OK : vd_error_set_errno(err, "can't run %s", path);
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

static void environment_make(environment_t *environment, const sup_spawn_t *spawn,
                             const sup_listener_t *const *own, size_t own_count)
{
    environment_add(environment, "PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    environment_add(environment, "VEDDB_CONTROL_SOCKET", spawn->control_path);
    environment_add_number(environment, "VEDDB_GENERATION", spawn->generation);
    environment_add_number(environment, "VEDDB_PARENT_PID", (uint64_t)getpid());
    environment_add_number(environment, "VEDDB_CONFIG_FD", FIRST_PASSED);
    for (size_t i = 0; i < own_count; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "VEDDB_FD_%s", own[i]->what->name);
        environment_add_number(environment, name, FIRST_PASSED + 1 + i);
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
static _Noreturn void child_main(const char *path, char *const *argv, char *const *environment,
                                 const int *fds, int fd_count, bool users, uid_t uid, gid_t gid,
                                 pid_t parent)
{
    sigset_t none;
    int moved[1 + SUP_LISTENERS_MAX];
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 1; i < NSIG; i++)
        (void)signal(i, SIG_DFL); /* some can't be set; the rest must not be inherited */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    for (int i = 0; i < fd_count; i++) {
        moved[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64);
        if (moved[i] < 0)
            _exit(126);
    }
    for (int i = 0; i < fd_count; i++)
        if (dup2(moved[i], FIRST_PASSED + i) < 0)
            _exit(126);
    (void)syscall(SYS_close_range, FIRST_PASSED + fd_count, ~0u,
                  0); /* belt and braces: all are close-on-exec */
    if (users &&
        (syscall(SYS_setgroups, 0, NULL) != 0 || syscall(SYS_setresgid, gid, gid, gid) != 0 ||
         syscall(SYS_setresuid, uid, uid, uid) != 0))
        _exit(126);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    execve(path, argv, environment);
    _exit(127);
}

int sup_spawn(const sup_spawn_t *spawn, pid_t *ret_pid, vd_error_t *err)
{
    char path[PATH_MAX];
    uid_t uid = 0;
    gid_t gid = 0;
    int fds[1 + SUP_LISTENERS_MAX], fd_count = 1;
    const sup_listener_t *own[SUP_LISTENERS_MAX];
    size_t own_count = own_listeners(spawn, own);

    int rc = program_path(spawn->kind->program, path, err);
    if (rc == VD_OK && spawn->users)
        rc = user_ids(spawn->kind->program, &uid, &gid, err);
    if (rc == VD_OK)
        rc = config_file(spawn, &fds[0], err);
    if (rc != VD_OK)
        return rc;
    for (size_t i = 0; i < own_count; i++)
        fds[fd_count++] = own[i]->fd;

    environment_t environment = {0};
    environment_make(&environment, spawn, own, own_count);
    char *argv[] = {path, NULL};
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child_main(path, argv, environment.words, fds, fd_count, spawn->users, uid, gid, parent);
    if (pid < 0)
        rc = vd_error_set_errno(err, "can't fork %s", spawn->kind->program);
    else
        *ret_pid = pid;
    (void)close(fds[0]); /* the child has its own */
    for (size_t i = 0; i < environment.count; i++)
        vd_free(environment.words[i]);
    return rc;
}
