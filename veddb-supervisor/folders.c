/* veddb-supervisor/folders.c — see folders.h.
 *
 * What is given away lies in folders that a worker, perhaps a taken one, has written: nothing there
 * is followed by name. A file is opened as such (O_PATH), looked at, and given by that descriptor;
 * one with a second name somewhere else is refused. */
#include "veddb-supervisor/folders.h"

#include "libcommon/base/log.h"
#include "veddb-supervisor/kinds.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX         8
#define MEMLOCK_MIN_BYTES (64u << 20)

/* ---- users ---- */

int sup_users_choose(const vd_config_t *config, bool *ret_users, vd_error_t *err)
{
    bool users = vd_config_bool(config, "node.users");
    *ret_users = false;
    if (geteuid() != 0)
        return VD_OK;
    if (vd_config_bool(config, "node.allow_root")) {
        vd_log(VD_LOG_WARN,
               "node.allow_root: EVERY PROGRAM RUNS AS ROOT; who takes one over has the machine",
               "users=%d", 0);
        return VD_OK;
    }
    if (!users)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "a node is not run as root: node.users is off, and node.allow_root "
                            "too");
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        uid_t uid;
        gid_t gid;
        if (!sup_kind_joins((sup_kind_id_t)i, config))
            continue;
        int rc = sup_user_ids(sup_kinds[i].program, &uid, &gid, err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_users = true;
    return VD_OK;
}

int sup_user_ids(const char *program, uid_t *ret_uid, gid_t *ret_gid, vd_error_t *err)
{
    const struct passwd *user = getpwnam(program);
    if (user == NULL || user->pw_uid == 0)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "a node is not run as root, and there is no user %s: systemd-sysusers "
                            "makes it from deploy/sysusers.d/veddb.conf",
                            program);
    *ret_uid = user->pw_uid, *ret_gid = user->pw_gid;
    return VD_OK;
}

/* ---- giving ---- */

static int give_in(int folder, const char *shown, uid_t uid, gid_t gid, int depth, vd_error_t *err);

static int give(int folder, const char *name, const char *shown, uid_t uid, gid_t gid, int depth,
                vd_error_t *err)
{
    struct stat st, opened;
    int rc = VD_OK, fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return VD_OK; /* it has gone meanwhile */
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = vd_error_set_errno(err, "%s/%s", shown, name);
    } else if (st.st_uid != uid && st.st_uid != 0) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s/%s belongs to somebody else (uid %u)", shown,
                          name, (unsigned)st.st_uid);
    } else if (st.st_uid != uid && !S_ISDIR(st.st_mode) && st.st_nlink != 1) {
        rc = vd_error_set(err, VD_ERR_CONFIG,
                          "%s/%s belongs to root and has another name elsewhere: it is not given "
                          "to anybody",
                          shown, name);
    } else if (st.st_uid != uid && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) != 0) {
        rc = vd_error_set_errno(err, "can't give %s/%s to its user", shown, name);
    } else if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX) {
        char below[PATH_MAX];
        (void)snprintf(below, sizeof below, "%s/%s", shown, name);
        int inner = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0)
            rc = vd_error_set_errno(err, "%s", below);
        else if (fstat(inner, &opened) != 0 || opened.st_ino != st.st_ino)
            (void)close(inner); /* another one now: its maker owns it */
        else
            rc = give_in(inner, below, uid, gid, depth + 1, err);
    }
    if (fd >= 0)
        (void)close(fd); /* only looked at */
    return rc;
}

/* Takes the descriptor of the folder. */
static int give_in(int folder, const char *shown, uid_t uid, gid_t gid, int depth, vd_error_t *err)
{
    int rc = VD_OK;
    DIR *dir = fdopendir(folder);
    if (dir == NULL) {
        rc = vd_error_set_errno(err, "%s", shown);
        (void)close(folder); /* not taken */
        return rc;
    }
    const struct dirent *entry;
    while (rc == VD_OK && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = give(dirfd(dir), entry->d_name, shown, uid, gid, depth, err);
    (void)closedir(dir); /* only read */
    return rc;
}

static int give_all(const char *path, uid_t uid, gid_t gid, vd_error_t *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return vd_error_set_errno(err, "%s", path);
    return give_in(fd, path, uid, gid, 0, err);
}

/* ---- folders ---- */

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
        rc = sup_user_ids(binder, &uid, &gid, err);
    if (rc == VD_OK && users)
        rc = sup_user_ids(connector, &other_uid, &other_gid, err);
    if (rc != VD_OK)
        return rc;
    (void)snprintf(path, sizeof path, "%s/%s", run_folder, name);
    if (!users)
        return make_folder(path, 0700, uid, gid, err);
    /* set-group-id: sockets made in it belong to the connector's group. */
    rc = make_folder(path, 02750, uid, other_gid, err);
    return rc == VD_OK && binder != NULL ? give_all(path, uid, other_gid, err) : rc;
}

static int make_run(const vd_config_t *config, bool users, vd_error_t *err)
{
    const char *run_folder = vd_config_string(config, "node.run_folder");
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

static int make_own(const char *path, bool users, sup_kind_id_t kind, vd_error_t *err)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int rc = users ? sup_user_ids(sup_kinds[kind].program, &uid, &gid, err) : VD_OK;
    if (rc == VD_OK)
        rc = make_folder(path, 0700, uid, gid, err);
    return rc == VD_OK && users ? give_all(path, uid, gid, err) : rc;
}

static int make_kept(const vd_config_t *config, bool users, vd_error_t *err)
{
    static const struct {
        const char *name;
        sup_kind_id_t kind;
    } kept[] = {
        {"data", SUP_KIND_STORAGED}, {"keys", SUP_KIND_ROTATED}, {"audit", SUP_KIND_ROTATED}};
    const char *root = vd_config_string(config, "node.folder");
    const char *second = vd_config_string(config, "audit.second_place");
    const char *backups = vd_config_string(config, "backup.folder");
    char path[PATH_MAX];
    struct stat st;
    int rc = make_folder(root, users ? 0711 : 0700, geteuid(), getegid(), err);
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(kept); i++) {
        if (strcmp(kept[i].name, "audit") == 0 && !vd_config_bool(config, "audit.enabled"))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", root, kept[i].name) >= (int)sizeof path)
            return vd_error_set(err, VD_ERR_CONFIG, "node.folder is too long");
        rc = make_own(path, users, kept[i].kind, err);
    }
    /* A second place that is not there is told by rotated, and looked for again. */
    if (rc == VD_OK && users && second[0] != '\0' && lstat(second, &st) == 0)
        rc = make_own(second, users, SUP_KIND_ROTATED, err);
    if (rc == VD_OK && backups[0] != '\0')
        rc = make_own(backups, users, SUP_KIND_STORAGED, err);
    return rc;
}

int sup_make_folders(const vd_config_t *config, bool users, bool start, vd_error_t *err)
{
    int rc = make_run(config, users, err);
    return rc == VD_OK && start ? make_kept(config, users, err) : rc;
}

/* ---- privileges ---- */

int sup_give_up_privileges(vd_error_t *err)
{
    static const int needed[] = {CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_DAC_READ_SEARCH};
    uint64_t keep = 0;
    struct rlimit limit;
    /* Workers lock the memory of keys: they inherit the limit. What we are not given stays. */
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_max < MEMLOCK_MIN_BYTES) {
        limit.rlim_max = MEMLOCK_MIN_BYTES;
        limit.rlim_cur = MEMLOCK_MIN_BYTES;
        (void)setrlimit(RLIMIT_MEMLOCK, &limit);
    } else if (limit.rlim_cur < MEMLOCK_MIN_BYTES) {
        limit.rlim_cur = MEMLOCK_MIN_BYTES;
        (void)setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    for (size_t i = 0; i < VD_COUNT_OF(needed); i++)
        keep |= 1ull << needed[i];
    for (int i = 0; i <= CAP_LAST_CAP; i++)
        if ((keep & 1ull << i) == 0 && prctl(PR_CAPBSET_READ, i) == 1 &&
            prctl(PR_CAPBSET_DROP, i) != 0)
            return vd_error_set_errno(err, "can't give up capability %d", i);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0)
        return vd_error_set_errno(err, "can't read our capabilities");
    for (int i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(keep >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    if (syscall(SYS_capset, &header, data) != 0)
        return vd_error_set_errno(err, "can't give up capabilities");
    return VD_OK;
}
