/* veddb-storaged/backup/backup.c — see backup.h: the thread, its jobs, what is kept. */
#include "veddb-storaged/backup/backup.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/view.h"
#include "libcommon/runtime/thread.h"
#include "proto/rotation.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/backup/make.h"
#include "veddb-storaged/rotation/rotation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAP_MS            50 /* waits are cut so short, so that a stop is heard */
#define KEYRING_BYTES_MAX (64 * 1024)
#define SPACE_BYTES       ((uint64_t)16 << 20) /* copied between two looks at the free space */

typedef enum { JOB_NONE, JOB_RUNNING, JOB_DONE, JOB_FAILED } job_state_t;

typedef struct {
    uint64_t number;
    job_state_t state;
    stor_backup_verb_t verb;
    char name[VD_BACKUP_NAME_MAX + 1];
    char step[100]; /* what it waits for or does */
    uint64_t bytes_done, bytes_total;
    int64_t began_ms, ended_ms;
    int code;
    char error[VD_ERROR_MESSAGE_SIZE];
} job_t;

struct stor_backups {
    stor_storage_t *storage;
    char folder[PATH_MAX - 400], data_folder[PATH_MAX - 400], shown[PATH_MAX], node[64];
    uint64_t rate;
    pthread_t thread;
    bool started;
    stor_session_t *session; /* the thread's: audit */
    atomic_bool stop;
    atomic_uint_fast64_t serial;
    uint64_t next_us, space_bytes; /* the thread's: the pace */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    job_t job;
    bool renew; /* the copies of the keyring */
    stor_shelf_t shelf;
    stor_backups_stats_t stats;
    /* The key holder's answer. */
    int answer_code;
    bool answered;
    vd_buf_t keyring;
};

static const char *verb_name(stor_backup_verb_t verb)
{
    static const char *const names[] = {"create", "verify", "remove"};
    return names[verb];
}

/* ---- waiting ---- */

static int nap(stor_backups_t *backups, vd_error_t *err)
{
    struct timespec pause = {.tv_nsec = NAP_MS * 1000000};
    (void)nanosleep(&pause, NULL); /* waking early is fine */
    return atomic_load(&backups->stop)
               ? vd_error_set(err, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown")
               : VD_OK;
}

static void step_put(stor_backups_t *backups, const char *step)
{
    pthread_mutex_lock(&backups->lock);
    (void)snprintf(backups->job.step, sizeof backups->job.step, "%s", step);
    pthread_mutex_unlock(&backups->lock);
}

static void total_put(uint64_t bytes, void *context)
{
    stor_backups_t *backups = context;
    pthread_mutex_lock(&backups->lock);
    backups->job.bytes_total = bytes;
    pthread_mutex_unlock(&backups->lock);
}

/* After each piece: the rate, and the disk's free space, which requests need more than we. */
static int paced(uint64_t bytes, void *context, vd_error_t *err)
{
    stor_backups_t *backups = context;
    uint64_t now_us = vd_monotonic_us();
    int rc = atomic_load(&backups->stop)
                 ? vd_error_set(err, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown")
                 : VD_OK;
    pthread_mutex_lock(&backups->lock);
    backups->job.bytes_done += bytes;
    pthread_mutex_unlock(&backups->lock);
    backups->space_bytes += bytes;
    if (rc == VD_OK && backups->space_bytes >= SPACE_BYTES) {
        backups->space_bytes = 0;
        rc = stor_engine_write_allowed(backups->storage->engine, err);
    }
    if (backups->rate == 0 || bytes == 0)
        return rc;
    if (backups->next_us < now_us)
        backups->next_us = now_us;
    backups->next_us += bytes * 1000000 / backups->rate;
    while (rc == VD_OK && vd_monotonic_us() + NAP_MS * 1000 < backups->next_us)
        rc = nap(backups, err);
    return rc;
}

/* ---- the keyring, wrapped, from the key holder ---- */

static int hex_take(vd_slice_t hex, vd_buf_t *out)
{
    int rc = hex.len % 2 == 0 ? VD_OK : VD_ERR_PROTOCOL;
    for (size_t i = 0; rc == VD_OK && i < hex.len; i += 2) {
        char pair[3] = {(char)hex.data[i], (char)hex.data[i + 1], '\0'}, *end;
        unsigned long byte = strtoul(pair, &end, 16);
        rc = end == pair + 2 ? vd_buf_append_u8(out, (uint8_t)byte) : VD_ERR_PROTOCOL;
    }
    return rc;
}

/* On the link's thread. */
static void keyring_answered(void *context, int code, vd_slice_t message, vd_slice_t body)
{
    stor_backups_t *backups = context;
    (void)message; /* the code says enough: it is asked again */
    pthread_mutex_lock(&backups->lock);
    vd_buf_clear(&backups->keyring);
    if (code == VD_OK) {
        vd_value_t hex = {0};
        vd_bson_t document;
        code = vd_bson_peek(body, &document, NULL) == VD_OK ? VD_OK : VD_ERR_PROTOCOL;
        if (code == VD_OK)
            hex = vd_bson_get(document, "keyring");
        code = code == VD_OK && hex.type == VD_BSON_STRING
                   ? hex_take(vd_value_string(hex), &backups->keyring)
                   : VD_ERR_PROTOCOL;
    }
    backups->answer_code = code;
    backups->answered = true;
    pthread_mutex_unlock(&backups->lock);
}

/* Into backups->keyring, which nobody else touches until the next question. The answer comes, if
 * only as a failure (asks.h); what a stop leaves unanswered comes before we are freed. */
static int keyring_fetch(stor_backups_t *backups, vd_error_t *err)
{
    static const vdp_replication_ask_t question = {.verb = VD_SLICE_LIT("keyring")};
    bool answered = false;
    int code = VD_OK;
    pthread_mutex_lock(&backups->lock);
    vd_buf_clear(&backups->keyring);
    backups->answered = false;
    pthread_mutex_unlock(&backups->lock);
    if (backups->storage->rotation_link == NULL)
        return VD_OK; /* unit tests: a backup without a keyring */
    int rc = stor_rotation_link_ask(backups->storage->rotation_link, &question, keyring_answered,
                                    backups, err);
    while (rc == VD_OK && !answered) {
        pthread_mutex_lock(&backups->lock);
        answered = backups->answered;
        code = backups->answer_code;
        pthread_mutex_unlock(&backups->lock);
        if (!answered)
            rc = nap(backups, err);
    }
    return rc == VD_OK && code != VD_OK
               ? vd_error_set(err, code, "the key holder gives no copy of the keyring")
               : rc;
}

static bool same_bytes(const char *path, vd_slice_t bytes)
{
    uint8_t *now = vd_xalloc(KEYRING_BYTES_MAX + 1);
    FILE *file = fopen(path, "re");
    size_t len = file == NULL ? 0 : fread(now, 1, KEYRING_BYTES_MAX + 1, file);
    bool same = file != NULL && len == bytes.len && memcmp(now, bytes.data, len) == 0;
    if (file != NULL)
        (void)fclose(file); /* was only read */
    vd_free(now);
    return same;
}

/* Beside each backup that has one: today's, so that a key which was destroyed is in none. */
static void keyrings_renew(stor_backups_t *backups)
{
    vd_error_t err = VD_ERROR_INIT;
    static stor_shelf_t rows; /* the thread's; too large for its stack */
    char folder[PATH_MAX], path[PATH_MAX + 16], quoted[VD_ERROR_MESSAGE_SIZE + 64];
    bool any = false;
    pthread_mutex_lock(&backups->lock);
    rows = backups->shelf;
    pthread_mutex_unlock(&backups->lock);
    for (uint32_t i = 0; i < rows.count; i++)
        any |= rows.rows[i].keyring;
    int rc = any ? keyring_fetch(backups, &err) : VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < rows.count; i++) {
        struct stat st;
        (void)snprintf(folder, sizeof folder, "%s/%s", backups->folder, rows.rows[i].name);
        (void)snprintf(path, sizeof path, "%s/" VD_BACKUP_KEYRING, folder);
        if (!rows.rows[i].keyring || stat(folder, &st) != 0 ||
            same_bytes(path, vd_buf_slice(&backups->keyring)))
            continue;
        if (vd_backup_replace(folder, VD_BACKUP_KEYRING, vd_buf_slice(&backups->keyring), true,
                              &err) != VD_OK) {
            vd_log(VD_LOG_WARN, "the copy of the keyring beside a backup is not today's",
                   "backup=%s error=%s", rows.rows[i].name,
                   vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
            vd_error_clear(&err);
        }
    }
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "the copies of the keyring beside backups are not renewed", "error=%s",
               vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
}

/* ---- jobs ---- */

static void audit(stor_backups_t *backups, const char *atype, const char *name, const char *error)
{
    vd_error_t err = VD_ERROR_INIT;
    if (stor_audit_backup(backups->storage->audit, backups->session, atype, vd_slice_str(name),
                          vd_slice_str(error), &err) != VD_OK)
        vd_log(VD_LOG_WARN, "a backup is not in the audit log", "event=%s error=%d", atype,
               -err.code);
}

static int kept(stor_backups_t *backups, const stor_backup_row_t *row, vd_error_t *err)
{
    pthread_mutex_lock(&backups->lock);
    int rc = stor_shelf_add(&backups->shelf, row, err);
    if (rc == VD_OK)
        rc = stor_shelf_save(backups->data_folder, &backups->shelf, err);
    pthread_mutex_unlock(&backups->lock);
    if (rc == VD_OK)
        atomic_fetch_add(&backups->serial, 1);
    return rc;
}

static stor_backup_row_t row_of(const char *name, const vd_backup_manifest_t *manifest)
{
    stor_backup_row_t row = {.oldest_version = vd_backup_oldest(manifest),
                             .made_ms = manifest->made_ms,
                             .bytes = vd_backup_bytes(manifest),
                             .keyring = manifest->keyring};
    (void)snprintf(row.name, sizeof row.name, "%s", name);
    return row;
}

static int create(stor_backups_t *backups, const char *name, vd_error_t *err)
{
    vd_backup_manifest_t manifest = {0};
    stor_make_t what = {.folder = backups->folder,
                        .name = name,
                        .data_folder = backups->data_folder,
                        .node = backups->node,
                        .total = total_put,
                        .paced = paced,
                        .context = backups};
    int rc = VD_OK;
    step_put(backups, "waits for the key holder, or for a rotation of keys that counts blocks");
    while (rc == VD_OK && !stor_rotation_backup_begin(backups->storage->rotation, &what.proven))
        rc = nap(backups, err);
    if (rc != VD_OK)
        return rc;
    step_put(backups, "fetches the keyring");
    rc = keyring_fetch(backups, err);
    if (rc == VD_OK) {
        what.keyring = vd_buf_slice(&backups->keyring);
        step_put(backups, "copies");
        rc = stor_make_backup(backups->storage, &what, &manifest, err);
    }
    if (rc == VD_OK) {
        stor_backup_row_t row = row_of(name, &manifest);
        rc = kept(backups, &row, err);
    }
    vd_backup_manifest_done(&manifest);
    stor_rotation_backup_end(backups->storage->rotation);
    pthread_mutex_lock(&backups->lock);
    backups->stats.made += rc == VD_OK;
    backups->stats.failed += rc != VD_OK;
    backups->renew |= rc == VD_OK; /* the keyring may have changed meanwhile */
    pthread_mutex_unlock(&backups->lock);
    return rc;
}

static int verify(stor_backups_t *backups, const char *name, vd_error_t *err)
{
    char folder[PATH_MAX];
    vd_backup_manifest_t manifest = {0};
    (void)snprintf(folder, sizeof folder, "%s/%s", backups->folder, name);
    step_put(backups, "reads");
    int rc = vd_backup_read(folder, VD_BACKUP_MANIFEST, &manifest, NULL, err);
    if (rc == VD_OK) {
        total_put(vd_backup_bytes(&manifest), backups);
        rc = vd_backup_check(folder, &manifest, paced, backups, err);
    }
    vd_backup_manifest_done(&manifest);
    pthread_mutex_lock(&backups->lock);
    stor_backup_row_t *row = stor_shelf_find(&backups->shelf, name);
    if (row != NULL && rc != VD_ERR_INTERRUPTED_AT_SHUTDOWN) {
        row->checked_ms = vd_wall_ms();
        row->good = rc == VD_OK;
    }
    backups->stats.verified += rc == VD_OK;
    backups->stats.verify_failed += rc != VD_OK;
    pthread_mutex_unlock(&backups->lock);
    return rc;
}

/* The row goes last: until then its keys are needed. */
static int remove_one(stor_backups_t *backups, const char *name, vd_error_t *err)
{
    step_put(backups, "removes");
    int rc = stor_make_remove(backups->folder, name, err);
    pthread_mutex_lock(&backups->lock);
    if (rc == VD_OK) {
        stor_shelf_remove(&backups->shelf, name);
        rc = stor_shelf_save(backups->data_folder, &backups->shelf, err);
        backups->stats.removed += rc == VD_OK;
    }
    pthread_mutex_unlock(&backups->lock);
    atomic_fetch_add(&backups->serial, 1);
    return rc;
}

static void job_run(stor_backups_t *backups, stor_backup_verb_t verb, const char *name)
{
    static int (*const runs[])(stor_backups_t *, const char *, vd_error_t *) = {create, verify,
                                                                                remove_one};
    static const char *const good[] = {"backupCreated", "backupVerified", "backupRemoved"};
    static const char *const bad[] = {"backupFailed", "backupVerifyFailed", "backupRemoveFailed"};
    char quoted[VD_ERROR_MESSAGE_SIZE + 64];
    vd_error_t err = VD_ERROR_INIT;
    backups->next_us = backups->space_bytes = 0;
    vd_log(VD_LOG_INFO, "backup", "verb=%s name=%s", verb_name(verb), name);
    int rc = runs[verb](backups, name, &err);
    if (rc == VD_OK)
        vd_log(VD_LOG_INFO, "backup is done", "verb=%s name=%s", verb_name(verb), name);
    else
        vd_log(VD_LOG_ERROR, "backup failed", "verb=%s name=%s error=%s", verb_name(verb), name,
               vd_log_quote(vd_slice_str(err.message), quoted, sizeof quoted));
    audit(backups, rc == VD_OK ? good[verb] : bad[verb], name, err.message);
    pthread_mutex_lock(&backups->lock);
    backups->job.state = rc == VD_OK ? JOB_DONE : JOB_FAILED;
    backups->job.code = rc;
    backups->job.ended_ms = vd_wall_ms();
    backups->job.step[0] = '\0';
    (void)snprintf(backups->job.error, sizeof backups->job.error, "%s", err.message);
    pthread_mutex_unlock(&backups->lock);
}

static void *run(void *context)
{
    stor_backups_t *backups = context;
    pthread_mutex_lock(&backups->lock);
    while (!atomic_load(&backups->stop)) {
        if (backups->job.state != JOB_RUNNING && !backups->renew) {
            (void)pthread_cond_wait(&backups->wake, &backups->lock); /* the loop looks again */
            continue;
        }
        bool works = backups->job.state == JOB_RUNNING;
        job_t job = backups->job;
        if (!works)
            backups->renew = false;
        pthread_mutex_unlock(&backups->lock);
        if (works)
            job_run(backups, job.verb, job.name);
        else
            keyrings_renew(backups);
        pthread_mutex_lock(&backups->lock);
    }
    pthread_mutex_unlock(&backups->lock);
    return NULL;
}

/* ---- what is found at the start ---- */

static int folder_take(stor_backups_t *backups, const char *name, vd_error_t *err)
{
    char folder[PATH_MAX], quoted[VD_ERROR_MESSAGE_SIZE + 64];
    vd_backup_manifest_t manifest = {0};
    vd_error_t why = VD_ERROR_INIT;
    if (!vd_backup_name_ok(name) || stor_shelf_find(&backups->shelf, name) != NULL)
        return VD_OK;
    (void)snprintf(folder, sizeof folder, "%s/%s", backups->folder, name);
    int rc = vd_backup_read(folder, VD_BACKUP_MANIFEST, &manifest, NULL, &why);
    if (rc != VD_OK) {
        if (rc != VD_ERR_NOT_FOUND) /* somebody else's */
            vd_log(VD_LOG_WARN, "a backup's manifest can't be read", "error=%s",
                   vd_log_quote(vd_slice_str(why.message), quoted, sizeof quoted));
        return VD_OK;
    }
    stor_backup_row_t row = row_of(name, &manifest);
    vd_backup_manifest_done(&manifest);
    vd_log(VD_LOG_INFO, "a backup is taken up", "name=%s", name);
    rc = stor_shelf_add(&backups->shelf, &row, err);
    return rc == VD_OK ? stor_shelf_save(backups->data_folder, &backups->shelf, err) : rc;
}

/* What a crash left goes; backups that have no row get one. */
static int folder_scan(stor_backups_t *backups, vd_error_t *err)
{
    const size_t end = sizeof VD_BACKUP_PARTIAL - 1;
    DIR *dir = opendir(backups->folder);
    if (dir == NULL)
        return vd_error_set_errno(err, "the folder of backups %s", backups->folder);
    int rc = VD_OK;
    for (struct dirent *entry; rc == VD_OK && (entry = readdir(dir)) != NULL;) {
        size_t len = strlen(entry->d_name);
        if (len > end && strcmp(entry->d_name + len - end, VD_BACKUP_PARTIAL) == 0) {
            vd_log(VD_LOG_WARN, "a backup that was not finished is removed", "name=%s",
                   entry->d_name);
            rc = stor_make_remove(backups->folder, entry->d_name, err);
        } else {
            rc = folder_take(backups, entry->d_name, err);
        }
    }
    (void)closedir(dir); /* was only read */
    return rc;
}

int stor_backups_start(stor_storage_t *storage, const stor_backups_options_t *options,
                       stor_backups_t **ret_backups, vd_error_t *err)
{
    stor_backups_t *backups = vd_xalloc(sizeof *backups);
    backups->storage = storage;
    backups->rate = options->rate;
    vd_buf_init(&backups->keyring, KEYRING_BYTES_MAX);
    (void)pthread_mutex_init(&backups->lock, NULL);
    (void)pthread_cond_init(&backups->wake, NULL);
    (void)snprintf(backups->node, sizeof backups->node, "%.63s", options->node);
    (void)snprintf(backups->shown, sizeof backups->shown, "%s", options->shown);
    int rc = VD_OK;
    if (snprintf(backups->folder, sizeof backups->folder, "%s", options->folder) >=
            (int)sizeof backups->folder ||
        snprintf(backups->data_folder, sizeof backups->data_folder, "%s", options->data_folder) >=
            (int)sizeof backups->data_folder)
        rc = vd_error_set(err, VD_ERR_CONFIG, "backup.folder is too long");
    if (rc == VD_OK && mkdir(backups->folder, 0700) != 0 && errno != EEXIST)
        rc = vd_error_set_errno(err, "can't make the folder of backups %s", backups->folder);
    if (rc == VD_OK)
        rc = stor_shelf_load(backups->data_folder, &backups->shelf, err);
    if (rc == VD_OK)
        rc = folder_scan(backups, err);
    if (rc == VD_OK)
        rc = stor_session_open(storage->engine, &backups->session, err);
    if (rc == VD_OK && vd_thread_start(&backups->thread, run, backups) != 0)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the thread of backups can't be started");
    backups->started = rc == VD_OK;
    if (rc != VD_OK) {
        stor_backups_stop(&backups);
        return rc;
    }
    (void)pthread_setname_np(backups->thread, "backup");
    *ret_backups = backups;
    return VD_OK;
}

void stor_backups_halt(stor_backups_t *backups)
{
    if (backups == NULL || !backups->started)
        return;
    pthread_mutex_lock(&backups->lock);
    atomic_store(&backups->stop, true);
    pthread_cond_signal(&backups->wake);
    pthread_mutex_unlock(&backups->lock);
    (void)pthread_join(backups->thread, NULL);
    backups->started = false;
}

void stor_backups_stop(stor_backups_t **backups_p)
{
    stor_backups_t *backups = *backups_p;
    if (backups == NULL)
        return;
    stor_backups_halt(backups);
    stor_session_close(&backups->session);
    vd_buf_done(&backups->keyring);
    (void)pthread_mutex_destroy(&backups->lock);
    (void)pthread_cond_destroy(&backups->wake);
    vd_free(backups);
    *backups_p = NULL;
}

/* ---- questions ---- */

static void name_by_time(char name[VD_BACKUP_NAME_MAX + 1])
{
    time_t now = (time_t)(vd_wall_ms() / 1000);
    struct tm tm;
    if (gmtime_r(&now, &tm) == NULL ||
        strftime(name, VD_BACKUP_NAME_MAX, "%Y-%m-%d_%H-%M-%S", &tm) == 0)
        (void)snprintf(name, VD_BACKUP_NAME_MAX, "backup");
}

/* Under the lock. */
static int job_check(stor_backups_t *backups, stor_backup_verb_t verb, const char *name,
                     vd_error_t *err)
{
    bool there = stor_shelf_find(&backups->shelf, name) != NULL;
    if (backups->job.state == JOB_RUNNING)
        return vd_error_set(err, VD_ERR_BACKUP_IN_PROGRESS,
                            "one at a time: %s of backup %s is under way",
                            verb_name(backups->job.verb), backups->job.name);
    if (verb != STOR_BACKUP_CREATE && !there)
        return vd_error_set(err, VD_ERR_NOT_FOUND, "there is no backup %s", name);
    if (verb == STOR_BACKUP_CREATE && there)
        return vd_error_set(err, VD_ERR_EXISTS, "there is a backup %s", name);
    if (verb == STOR_BACKUP_CREATE && backups->shelf.count == STOR_BACKUPS_MAX)
        return vd_error_set(err, VD_ERR_FULL, "%d backups are kept: remove one first",
                            STOR_BACKUPS_MAX);
    return VD_OK;
}

int stor_backups_begin(stor_backups_t *backups, stor_backup_verb_t verb, vd_slice_t name,
                       uint64_t *ret_number, vd_error_t *err)
{
    char text[VD_BACKUP_NAME_MAX + 1] = {0};
    if (name.len > VD_BACKUP_NAME_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "a backup's name has at most %d characters",
                            VD_BACKUP_NAME_MAX);
    if (name.len > 0)
        memcpy(text, name.data, name.len);
    else if (verb == STOR_BACKUP_CREATE)
        name_by_time(text);
    if (!vd_backup_name_ok(text))
        return vd_error_set(
            err, VD_ERR_BAD_VALUE,
            "a backup's name is of letters, digits, \"-\", \"_\" and \".\", without "
            "a dot in front: it is a name in backup.folder, not a path");
    pthread_mutex_lock(&backups->lock);
    int rc = job_check(backups, verb, text, err);
    if (rc == VD_OK) {
        backups->job = (job_t){.number = backups->job.number + 1,
                               .state = JOB_RUNNING,
                               .verb = verb,
                               .began_ms = vd_wall_ms()};
        memcpy(backups->job.name, text, sizeof text);
        *ret_number = backups->job.number;
        pthread_cond_signal(&backups->wake);
    }
    pthread_mutex_unlock(&backups->lock);
    return rc;
}

/* JSON's own quotes: messages name paths. */
static int text_print(vd_buf_t *out, const char *name, const char *text)
{
    int rc = vd_buf_printf(out, ",\"%s\":\"", name);
    for (; rc == VD_OK && *text != '\0'; text++)
        rc = (uint8_t)*text < ' ' || *text == '"' || *text == '\\'
                 ? vd_buf_printf(out, "\\u%04x", (unsigned)(uint8_t)*text)
                 : vd_buf_append_u8(out, (uint8_t)*text);
    return rc == VD_OK ? vd_buf_printf(out, "\"") : rc;
}

static int job_print(const job_t *job, vd_buf_t *out)
{
    static const char *const states[] = {"none", "running", "done", "failed"};
    int rc = vd_buf_printf(
        out,
        ",\"job\":{\"number\":%" PRIu64 ",\"verb\":\"%s\",\"state\":\"%s\",\"beganMs\":%" PRId64
        ",\"endedMs\":%" PRId64 ",\"bytesDone\":%" PRIu64 ",\"bytesTotal\":%" PRIu64 ",\"code\":%d",
        job->number, verb_name(job->verb), states[job->state], job->began_ms, job->ended_ms,
        job->bytes_done, job->bytes_total, -job->code);
    if (rc == VD_OK)
        rc = text_print(out, "name", job->name);
    if (rc == VD_OK)
        rc = text_print(out, "step", job->step);
    if (rc == VD_OK)
        rc = text_print(out, "error", job->error);
    return rc == VD_OK ? vd_buf_printf(out, "}") : rc;
}

static int row_print(const stor_backups_t *backups, const stor_backup_row_t *row, bool first,
                     vd_buf_t *out)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s/" VD_BACKUP_MANIFEST, backups->folder, row->name);
    return vd_buf_printf(
        out,
        "%s{\"name\":\"%s\",\"madeMs\":%" PRId64 ",\"bytes\":%" PRIu64
        ",\"oldestKey\":%u,\"keyring\":%s,\"there\":%s,\"checkedMs\":%" PRId64 ",\"good\":%s}",
        first ? "" : ",", row->name, row->made_ms, row->bytes, row->oldest_version,
        row->keyring ? "true" : "false", faccessat(AT_FDCWD, path, F_OK, 0) == 0 ? "true" : "false",
        row->checked_ms, row->good ? "true" : "false");
}

int stor_backups_list(stor_backups_t *backups, vd_buf_t *out)
{
    pthread_mutex_lock(&backups->lock);
    int rc = vd_buf_printf(out, "{\"rate\":%" PRIu64, backups->rate);
    if (rc == VD_OK)
        rc = text_print(out, "folder", backups->shown);
    if (rc == VD_OK)
        rc = job_print(&backups->job, out);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"backups\":[");
    for (uint32_t i = 0; rc == VD_OK && i < backups->shelf.count; i++)
        rc = row_print(backups, &backups->shelf.rows[i], i == 0, out);
    pthread_mutex_unlock(&backups->lock);
    return rc == VD_OK ? vd_buf_printf(out, "]}") : rc;
}

uint64_t stor_backups_serial(stor_backups_t *backups)
{
    return backups == NULL ? 0 : atomic_load(&backups->serial);
}

uint32_t stor_backups_needs(stor_backups_t *backups, vd_buf_t *body)
{
    uint32_t count = 0;
    if (backups == NULL)
        return 0;
    pthread_mutex_lock(&backups->lock);
    for (uint32_t i = 0; i < backups->shelf.count; i++) {
        const stor_backup_row_t *row = &backups->shelf.rows[i];
        uint8_t entry[VDP_ROTATION_BACKUP_BYTES] = {0};
        vd_put_u32(entry, row->oldest_version);
        memcpy(entry + 4, row->name, strlen(row->name)); /* at most VD_BACKUP_NAME_MAX */
        if (vd_buf_append(body, entry, sizeof entry) == VD_OK)
            count++;
    }
    pthread_mutex_unlock(&backups->lock);
    return count;
}

void stor_backups_keyring_changed(stor_backups_t *backups)
{
    if (backups == NULL)
        return;
    pthread_mutex_lock(&backups->lock);
    backups->renew = true;
    pthread_cond_signal(&backups->wake);
    pthread_mutex_unlock(&backups->lock);
}

void stor_backups_stats(stor_backups_t *backups, stor_backups_stats_t *ret_stats)
{
    pthread_mutex_lock(&backups->lock);
    stor_backups_stats_t stats = backups->stats;
    stats.kept = backups->shelf.count;
    for (uint32_t i = 0; i < backups->shelf.count; i++)
        stats.bytes += backups->shelf.rows[i].bytes;
    if (backups->shelf.count > 0)
        stats.made_ms = backups->shelf.rows[backups->shelf.count - 1].made_ms;
    stats.running = backups->job.state == JOB_RUNNING;
    pthread_mutex_unlock(&backups->lock);
    *ret_stats = stats;
}
