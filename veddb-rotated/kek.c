/* veddb-rotated/kek.c — see kek.h. */
#include "veddb-rotated/kek.h"

#include "libcommon/base/mem.h"
#include "libcommon/runtime/files.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEK_TEXT_MAX_BYTES    ROT_KEK_TEXT_MAX_BYTES
#define KEK_COMMAND_WORDS_MAX 32
#define KEK_COMMAND_WAIT_MS   30000

extern char **environ;

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = tolower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hex(vd_slice_t text, uint8_t *key)
{
    if (text.len != 2 * ROT_KEY_BYTES)
        return false;
    for (size_t i = 0; i < ROT_KEY_BYTES; i++) {
        int high = hex_digit(text.data[2 * i]), low = hex_digit(text.data[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool parse_base64(vd_slice_t text, uint8_t *key)
{
    uint8_t out[36];
    if (text.len != 44 || text.data[43] != '=' || text.data[42] == '=')
        return false;
    bool good = EVP_DecodeBlock(out, text.data, 44) == 33;
    if (good)
        memcpy(key, out, ROT_KEY_BYTES);
    vd_wipe(out, sizeof out);
    return good;
}

int rot_kek_parse(vd_slice_t text, uint8_t ret_kek[ROT_KEY_BYTES], vd_error_t *err)
{
    while (text.len > 0 && isspace(text.data[text.len - 1]))
        text.len--;
    while (text.len > 0 && isspace(text.data[0]))
        text.data++, text.len--;
    if (text.len == 0)
        return vd_error_set(err, VD_ERR_KEY_MISSING, "the key-encryption key is empty");
    if (parse_hex(text, ret_kek) || parse_base64(text, ret_kek))
        return VD_OK;
    return vd_error_set(err, VD_ERR_BAD_VALUE,
                        "the key-encryption key is not 32 bytes as 64 hex digits or 44 characters "
                        "of base64 (%zu characters found)",
                        text.len);
}

/* Reads until end of file or the limit; the deadline matters for commands only. */
static int read_all(int fd, int wait_ms, uint8_t *text, size_t *ret_len, vd_error_t *err)
{
    size_t len = 0;
    while (len < KEK_TEXT_MAX_BYTES) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = poll(&p, 1, wait_ms);
        if (ready == 0)
            return vd_error_set(err, VD_ERR_KEY_MISSING, "no key after %d ms", wait_ms);
        ssize_t n = read(fd, text + len, KEK_TEXT_MAX_BYTES - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vd_error_set_errno(err, "can't read the key");
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret_len = len;
    return VD_OK;
}

/* what: the option that names it. not_for: permission bits that it may not have. */
static int read_file(const char *file, const char *what, mode_t not_for, uint8_t *text,
                     size_t *ret_len, vd_error_t *err)
{
    int fd = vd_files_open(file);
    if (fd < 0)
        return errno == ENOENT
                   ? vd_error_set(err, VD_ERR_KEY_MISSING, "%s %s is not there", what, file)
                   : vd_error_set_errno(err, "can't open %s %s", what, file);
    struct stat st;
    int rc;
    if (fstat(fd, &st) != 0)
        rc = vd_error_set_errno(err, "can't look at %s %s", what, file);
    else if (!S_ISREG(st.st_mode) || (st.st_mode & not_for) != 0)
        rc = vd_error_set(err, VD_ERR_CONFIG,
                          "%s %s must be a file that only its owner can read "
                          "(mode is %04o, wanted 0600)",
                          what, file, (unsigned)(st.st_mode & 07777));
    else if (st.st_uid != geteuid() && st.st_uid != 0)
        rc = vd_error_set(err, VD_ERR_CONFIG, "%s %s belongs to somebody else (uid %u)", what, file,
                          (unsigned)st.st_uid);
    else
        rc = read_all(fd, -1, text, ret_len, err);
    (void)close(fd); /* only read from */
    return rc;
}

static int run_command(const char *command, bool next, uint8_t *text, size_t *ret_len,
                       vd_error_t *err)
{
    char *words[KEK_COMMAND_WORDS_MAX + 1] = {NULL};
    char *copy = vd_xstrdup(command), *rest = copy;
    size_t count = 0;
    for (char *word = strtok_r(rest, " \t", &rest); word != NULL && count < KEK_COMMAND_WORDS_MAX;
         word = strtok_r(NULL, " \t", &rest))
        words[count++] = word;

    int pipes[2] = {-1, -1}, rc;
    pid_t pid = -1;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (count == 0) {
        rc = vd_error_set(err, VD_ERR_CONFIG, "keys.kek_command is empty");
        goto cleanup;
    }
    if (pipe2(pipes, O_CLOEXEC) != 0) {
        rc = vd_error_set_errno(err, "can't run keys.kek_command");
        goto cleanup;
    }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
    if (setenv("VEDDB_KEK", next ? "next" : "present", 1) != 0) {
        rc = vd_error_set_errno(err, "can't run keys.kek_command");
        goto cleanup;
    }
    int failed = posix_spawnp(&pid, words[0], &actions, NULL, words, environ);
    (void)close(pipes[1]); /* the child has its own */
    pipes[1] = -1;
    if (failed != 0) {
        rc = vd_error_set(err, VD_ERR_KEY_MISSING, "can't run keys.kek_command %s: %s", words[0],
                          strerror(failed));
        goto cleanup;
    }
    rc = read_all(pipes[0], KEK_COMMAND_WAIT_MS, text, ret_len, err);
    if (rc != VD_OK)
        (void)kill(pid, SIGKILL); /* it may have ended by itself */
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (rc == VD_OK && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
        rc = vd_error_set(err, VD_ERR_KEY_MISSING, "keys.kek_command %s failed (%s %d)", words[0],
                          WIFEXITED(status) ? "exit code" : "signal",
                          WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
cleanup:
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 2; i++)
        if (pipes[i] >= 0)
            (void)close(pipes[i]); /* read end, or a half-made pair */
    vd_free(copy);
    return rc;
}

/* ---- the sources ---- */

/* path, or the next one's beside it. */
static int path_of(const rot_kek_source_t *source, bool next, char path[PATH_MAX], vd_error_t *err)
{
    int len;
    if (source->folder != NULL)
        len = snprintf(path, PATH_MAX, "%s/%s%s", source->folder, source->where,
                       next ? ROT_KEK_NEXT : "");
    else
        len = snprintf(path, PATH_MAX, "%s%s", source->where, next ? ROT_KEK_NEXT : "");
    return len < PATH_MAX ? VD_OK
                          : vd_error_set(err, VD_ERR_CONFIG, "%s is too long", source->what);
}

static int file_text(const rot_kek_source_t *source, bool next, uint8_t *text, size_t *ret_len,
                     vd_error_t *err)
{
    char path[PATH_MAX];
    int rc = path_of(source, next, path, err);
    return rc == VD_OK ? read_file(path, source->what, 077, text, ret_len, err) : rc;
}

static int file_adopt(const rot_kek_source_t *source, vd_error_t *err)
{
    return vd_files_adopt(source->where) == 0
               ? VD_OK
               : vd_error_set_errno(err, "can't put %s%s in its place", source->where,
                                    ROT_KEK_NEXT);
}

static int command_open(const rot_kek_source_t *source, bool next, int *ret_fd, vd_error_t *err)
{
    int fd = vd_files_run(next);
    if (fd < 0)
        return vd_error_set_errno(err, "can't run %s %s", source->what, source->where);
    *ret_fd = fd;
    return VD_OK;
}

int rot_kek_opened(const rot_kek_source_t *source, const uint8_t *text, size_t *len,
                   vd_error_t *err)
{
    if (*len < VD_FILES_TRAILER || text[*len - 2] != 0)
        return vd_error_set(err, VD_ERR_KEY_MISSING, "%s did not come to its end", source->what);
    *len -= VD_FILES_TRAILER;
    uint8_t code = text[*len + 1];
    return code == 0 ? VD_OK
                     : vd_error_set(err, VD_ERR_KEY_MISSING, "%s %s failed (%s %u)", source->what,
                                    source->where,
                                    code == 255 ? "signal, or exit code" : "exit code", code);
}

/* By the supervisor, where there is one. */
static int command_run(const rot_kek_source_t *source, bool next, uint8_t *text, size_t *ret_len,
                       vd_error_t *err)
{
    int fd = -1;
    int rc = command_open(source, next, &fd, err);
    if (rc != VD_OK)
        return rc;
    rc = read_all(fd, KEK_COMMAND_WAIT_MS, text, ret_len, err);
    (void)close(fd); /* was only read */
    return rc == VD_OK ? rot_kek_opened(source, text, ret_len, err) : rc;
}

static int command_text(const rot_kek_source_t *source, bool next, uint8_t *text, size_t *ret_len,
                        vd_error_t *err)
{
    return vd_files_can_run() ? command_run(source, next, text, ret_len, err)
                              : run_command(source->where, next, text, ret_len, err);
}

/* The service manager has put it into a folder that nobody else may enter; the mask of an access
 * list shows as the group's bits. */
static int credential_text(const rot_kek_source_t *source, bool next, uint8_t *text,
                           size_t *ret_len, vd_error_t *err)
{
    char path[PATH_MAX];
    if (source->folder == NULL || source->folder[0] != '/')
        return vd_error_set(err, VD_ERR_KEY_MISSING,
                            "keys.kek_credential %s: the service manager has given no credentials "
                            "($CREDENTIALS_DIRECTORY is not set)",
                            source->where);
    int rc = path_of(source, next, path, err);
    return rc == VD_OK ? read_file(path, source->what, 007, text, ret_len, err) : rc;
}

int rot_kek_source_choose(const char *file, const char *command, const char *credential,
                          rot_kek_source_t *ret_source, vd_error_t *err)
{
    const rot_kek_source_t all[] = {
        {.what = "keys.kek_file",
         .where = file,
         .text = file_text,
         .adopt = file_adopt,
         .at_run_time = true},
        {.what = "keys.kek_command",
         .where = command,
         .text = command_text,
         .open = vd_files_can_run() ? command_open : NULL,
         .at_run_time = vd_files_can_run()},
        {.what = "keys.kek_credential",
         .where = credential,
         .folder = getenv("CREDENTIALS_DIRECTORY"),
         .text = credential_text,
         .at_run_time = true},
    };
    size_t count = 0;
    for (size_t i = 0; i < VD_COUNT_OF(all); i++) {
        if (all[i].where != NULL && *all[i].where != '\0') {
            *ret_source = all[i];
            count++;
        }
    }
    if (count != 1)
        return vd_error_set(err, VD_ERR_CONFIG,
                            "exactly one of keys.kek_file, keys.kek_command and "
                            "keys.kek_credential must be set");
    if (ret_source->text == credential_text && strchr(credential, '/') != NULL)
        return vd_error_set(err, VD_ERR_CONFIG, "keys.kek_credential is a name, not a path");
    return VD_OK;
}

int rot_kek_read(const rot_kek_source_t *source, bool next, uint8_t ret_kek[ROT_KEY_BYTES],
                 vd_error_t *err)
{
    uint8_t text[KEK_TEXT_MAX_BYTES];
    size_t len = 0;
    int rc = source->text(source, next, text, &len, err);
    if (rc == VD_OK)
        rc = rot_kek_parse(vd_slice(text, len), ret_kek, err);
    vd_wipe(text, sizeof text);
    return rc;
}
