/* tests/unit/supervisor/test_folders.c — whose folders are given to whom, and which files a worker
 * may be given. */
#include "veddb-supervisor/files.h"
#include "veddb-supervisor/folders.h"
#include "veddb-supervisor/kek.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static vd_config_t *load(char *const *flags, int count)
{
    vd_config_t *config = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_config_load(NULL, flags, count, &config, &err), VD_OK, "%s", err.message);
    return config;
}

Test(folders, a_start_as_root)
{
    char off[] = "--node.users=false", loud[] = "--node.allow_root=true";
    char *const flags[] = {off, loud};
    bool users = true;
    vd_error_t err = VD_ERROR_INIT;
    vd_config_t *config = load(flags, 1);
    int expected = geteuid() == 0 ? VD_ERR_CONFIG : VD_OK;
    cr_expect_eq(sup_users_choose(config, &users, &err), expected, "refused without a switch");
    cr_expect_not(users);
    vd_config_destroy(&config);
    config = load(flags, 2);
    cr_expect_eq(sup_users_choose(config, &users, NULL), VD_OK);
    cr_expect_not(users);
    vd_config_destroy(&config);
    config = load(flags, 0);
    int rc = sup_users_choose(config, &users, &err);
    if (geteuid() != 0)
        cr_expect(rc == VD_OK && !users);
    else
        cr_expect_eq(rc == VD_OK && users, getpwnam("veddb-gatewayd") != NULL, "own users");
    vd_config_destroy(&config);
    uid_t uid;
    gid_t gid;
    cr_expect_eq(sup_user_ids("no-such-user-here", &uid, &gid, NULL), VD_ERR_CONFIG);
    cr_expect_eq(sup_user_ids("root", &uid, &gid, NULL), VD_ERR_CONFIG, "root is nobody's own");
}

Test(folders, which_files_a_worker_is_given)
{
    char key[] = "--tls.key_file=/k", kek[] = "--keys.kek_file=/kek", peer[] = "--node.folder=/f",
         run[] = "--node.run_folder=/run/v";
    char *const flags[] = {key, kek, peer, run};
    vd_config_t *config = load(flags, 4);
    static const struct {
        char letter;
        const char *path;
        bool may;
    } cases[] = {
        {'g', "/k", true},
        {'r', "/kek", true},
        {'g', "/kek", false},
        {'t', "/k", false},
        {'p', "/k", false},
        {'t', "/kek", false},
        {'g', "/f", false},
        {'r', "/f", false},
        {'g', "/k/", false},
        {'g', "/etc/shadow", false},
        {'g', "/run/v/storage-gateway/versions", true},
        {'p', "/run/v/storage-gateway/versions", false},
        {'g', "/run/v/storage-gateway/operation", false},
        {'g', "/run/v/storage-gateway/versions.new", false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_expect_eq(sup_files_may(config, cases[i].letter, cases[i].path), cases[i].may, "%c %s",
                     cases[i].letter, cases[i].path);
    vd_config_destroy(&config);
}

Test(folders, who_may_have_the_command_of_the_key_run)
{
    char command[] = "--keys.kek_command=/bin/give", file[] = "--keys.kek_file=/kek";
    char *const with[] = {command}, *const without[] = {file};
    vd_config_t *config = load(with, 1), *other = load(without, 1);
    static const struct {
        char letter;
        const char *word;
        bool may;
    } cases[] = {{'r', "next", true},  {'r', "present", true}, {'r', "/bin/sh", false},
                 {'r', "", false},     {'t', "next", false},   {'g', "present", false},
                 {'p', "next", false}, {'r', "next x", false}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        cr_expect_eq(sup_kek_may(config, cases[i].letter, cases[i].word), cases[i].may, "%c %s",
                     cases[i].letter, cases[i].word);
        cr_expect(!sup_kek_may(other, cases[i].letter, cases[i].word), "there is no command");
    }
    vd_config_destroy(&config);
    vd_config_destroy(&other);
}

static char folder[64];

static void path_of(char *path, const char *name)
{
    (void)snprintf(path, 128, "%s/%s", folder, name);
}

static void touch(const char *name, mode_t mode)
{
    char path[128];
    path_of(path, name);
    int fd = open(path, O_WRONLY | O_CREAT, mode);
    cr_assert(fd >= 0);
    (void)close(fd);
}

/* Needs root and the users. */
Test(folders, what_root_left_is_given_and_nothing_else)
{
    const struct passwd *user = getpwnam("veddb-storaged");
    if (geteuid() != 0 || user == NULL || getpwnam("veddb-rotated") == NULL)
        return;
    uid_t storaged = getpwnam("veddb-storaged")->pw_uid;
    char run[96], root[96], path[128], other[128];
    struct stat st;
    vd_error_t err = VD_ERROR_INIT;
    (void)snprintf(folder, sizeof folder, "/tmp/vdfoldersXXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    (void)snprintf(run, sizeof run, "--node.run_folder=%s/run", folder);
    (void)snprintf(root, sizeof root, "--node.folder=%s/node", folder);
    char *const flags[] = {run, root};
    vd_config_t *config = load(flags, 2);
    path_of(path, "node");
    (void)mkdir(path, 0700);
    path_of(path, "node/data");
    (void)mkdir(path, 0700);
    touch("node/data/left", 0600);
    touch("secret", 0600);
    path_of(path, "node/data/link");
    path_of(other, "secret");
    cr_assert_eq(symlink(other, path), 0);
    cr_expect_eq(sup_make_folders(config, true, true, &err), VD_OK, "%s", err.message);
    path_of(path, "node/data/left");
    cr_expect(stat(path, &st) == 0 && st.st_uid == storaged, "given");
    cr_expect(stat(other, &st) == 0 && st.st_uid == 0, "a link is not followed");
    path_of(path, "node/data");
    cr_expect(stat(path, &st) == 0 && (st.st_mode & 07777) == 0700);
    path_of(path, "run/storage-gateway");
    cr_expect(stat(path, &st) == 0 && st.st_uid == storaged && (st.st_mode & 07777) == 02750,
              "uid %u mode %o", (unsigned)st.st_uid, (unsigned)st.st_mode);
    /* A second name of a file of root's. */
    path_of(path, "node/data/hard");
    cr_assert_eq(link(other, path), 0);
    cr_expect_eq(sup_make_folders(config, true, true, &err), VD_ERR_CONFIG);
    cr_expect(stat(other, &st) == 0 && st.st_uid == 0);
    (void)unlink(path);
    vd_error_clear(&err);
    touch("node/data/theirs", 0600);
    path_of(path, "node/data/theirs");
    cr_assert_eq(chown(path, 65534, 65534), 0);
    cr_expect_eq(sup_make_folders(config, true, true, &err), VD_ERR_CONFIG, "somebody else's");
    vd_config_destroy(&config);
    char command[96];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    (void)!system(command);
}
