/* veddb-supervisor/kek.c — see kek.h. */
#include "veddb-supervisor/kek.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"
#include "veddb-supervisor/folders.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct sup_kek {
    sup_system_t *system;
    vd_source_t *child, *timer;
    int write_end; /* ours: the exit code goes there */
};

bool sup_kek_may(const vd_config_t *config, char letter, const char *word)
{
    return letter == 'r' && *vd_config_string(config, "keys.kek_command") != '\0' &&
           (strcmp(word, "next") == 0 || strcmp(word, "present") == 0);
}

static void forget(struct sup_kek *kek)
{
    if (kek->system->kek == kek)
        kek->system->kek = NULL;
    vd_loop_remove(&kek->child);
    vd_loop_remove(&kek->timer);
    (void)close(kek->write_end); /* what is in the pipe stays there */
    vd_free(kek);
}

/* Never waits: whoever has filled the pipe gets no code, and that is no key. */
static void ended(void *context, pid_t pid, int how, int code)
{
    struct sup_kek *kek = context;
    (void)pid; /* reaped */
    uint8_t trailer[VD_FILES_TRAILER] = {0, how == CLD_EXITED ? (uint8_t)code : 255};
    if (fcntl(kek->write_end, F_SETFL, O_NONBLOCK) == 0)
        (void)!write(kek->write_end, trailer, sizeof trailer); /* it has gone: nobody reads */
    if (how != CLD_EXITED || code != 0)
        vd_log(VD_LOG_WARN, "keys.kek_command failed", "%s=%d",
               how == CLD_EXITED ? "exit_code" : "signal", code);
    forget(kek);
}

static void late(void *context)
{
    struct sup_kek *kek = context;
    vd_log(VD_LOG_WARN, "keys.kek_command is killed", "after_ms=%d", SUP_KEK_MS);
    (void)!vd_loop_child_signal(kek->child, SIGKILL, NULL); /* its end is told */
}

void sup_kek_end(sup_system_t *system)
{
    struct sup_kek *kek = system->kek;
    if (kek == NULL)
        return;
    (void)!vd_loop_child_signal(kek->child, SIGKILL, NULL); /* gone: as well */
    forget(kek);                                            /* init reaps it: we end, too */
}

/* An earlier start of rotated asked: nobody reads it any more. It is forgotten when it has ended.
 */
static void leave_behind(sup_system_t *system)
{
    if (system->kek != NULL)
        (void)!vd_loop_child_signal(system->kek->child, SIGKILL, NULL); /* gone: as well */
    system->kek = NULL;
}

/* Words split at blanks, without a shell; in one piece of memory, which is the caller's. */
static char *words_split(const char *command, char *words[SUP_KEK_WORDS_MAX + 1])
{
    char *copy = vd_xstrdup(command), *rest = copy;
    size_t count = 0;
    for (char *word = strtok_r(rest, " \t", &rest); word != NULL && count < SUP_KEK_WORDS_MAX;
         word = strtok_r(NULL, " \t", &rest))
        words[count++] = word;
    words[count] = NULL;
    return copy;
}

/* Between fork and exec. */
static _Noreturn void child_main(char **words, char **environment, int write_end, bool users,
                                 uid_t uid, gid_t gid, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 1; i < NSIG; i++)
        (void)signal(i, SIG_DFL); /* some can't be set; the rest must not be inherited */
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(write_end, 1) < 0)
        _exit(126);
    (void)syscall(SYS_close_range, 3, ~0u, 0);
    if (users &&
        (syscall(SYS_setgroups, 0, NULL) != 0 || syscall(SYS_setresgid, gid, gid, gid) != 0 ||
         syscall(SYS_setresuid, uid, uid, uid) != 0))
        _exit(126);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    if (getppid() != parent)
        _exit(1);
    (void)execvpe(words[0], words, environment);
    _exit(127);
}

static pid_t command_start(const sup_worker_t *worker, bool next, int write_end)
{
    char *words[SUP_KEK_WORDS_MAX + 1], credentials[VD_FILES_PATH_MAX];
    char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    char which[] = "VEDDB_KEK=present", which_next[] = "VEDDB_KEK=next";
    char *environment[] = {path, next ? which_next : which, NULL, NULL};
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    uid_t uid = 0;
    gid_t gid = 0;
    if (folder != NULL && snprintf(credentials, sizeof credentials, "CREDENTIALS_DIRECTORY=%s",
                                   folder) < (int)sizeof credentials)
        environment[2] = credentials;
    if (worker->system->users && sup_user_ids(worker->kind->program, &uid, &gid, NULL) != VD_OK) {
        errno = EPERM;
        return -1;
    }
    char *copy = words_split(vd_config_string(worker->system->config, "keys.kek_command"), words);
    pid_t parent = getpid(), pid = -1;
    if (words[0] == NULL)
        errno = EINVAL;
    else
        pid = fork();
    if (pid == 0)
        child_main(words, environment, write_end, worker->system->users, uid, gid, parent);
    int why = errno;
    vd_free(copy);
    errno = why;
    return pid;
}

int sup_kek_run(sup_worker_t *worker, bool next)
{
    sup_system_t *system = worker->system;
    vd_error_t err = VD_ERROR_INIT;
    int pipes[2];
    leave_behind(system);
    if (pipe2(pipes, O_CLOEXEC) != 0)
        return -1;
    pid_t pid = command_start(worker, next, pipes[1]);
    if (pid < 0) {
        int why = errno;
        (void)close(pipes[0]); /* nobody writes */
        (void)close(pipes[1]);
        errno = why;
        return -1;
    }
    struct sup_kek *kek = vd_xalloc(sizeof *kek);
    kek->system = system;
    kek->write_end = pipes[1];
    system->kek = kek;
    int rc = vd_loop_add_child(system->loop, pid, ended, kek, &kek->child, &err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(system->loop, SUP_KEK_MS, 0, late, kek, &kek->timer, &err);
    if (rc == VD_OK)
        return pipes[0];
    vd_log(VD_LOG_ERROR, "keys.kek_command can't be watched", "error=\"%s\"", err.message);
    (void)kill(pid, SIGKILL); /* ours, and not reaped */
    if (kek->child == NULL)
        forget(kek);
    (void)close(pipes[0]); /* nobody reads */
    errno = EIO;
    return -1;
}
