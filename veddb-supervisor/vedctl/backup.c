/* veddb-supervisor/vedctl/backup.c — vedctl backup: backups of this node. The supervisor passes
 * each question on to storaged, which begins the work; here it is waited for. restore needs no
 * node: it puts a backup into a data folder that has none (libcommon/runtime/backup.h). */
#include "libcommon/runtime/backup.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOK_US 250000

static const char usage[] =
    "usage: vedctl backup VERB ...\n"
    "  create [--dir NAME] [--no-wait]   a copy of the node's files, while it serves; NAME: its "
    "folder in\n"
    "                             backup.folder (by default the time)\n"
    "  list                       backups that are kept, and how far the one under way is\n"
    "  verify NAME                every file is there and is what it was; exit code 0 only then\n"
    "  remove NAME                the folder goes, and with it what needs its keys\n"
    "  restore FOLDER --into DATA [--keys KEYS]\n"
    "                             without a node: checks a backup and puts it into a data folder "
    "that has\n"
    "                             no database (<node.folder>/data); KEYS: a folder without a "
    "keyring\n"
    "                             (<node.folder>/keys) that gets the backup's\n";

/* ---- printing ---- */

static const char *condition(const bson_t *backup)
{
    if (!vedctl_flag(backup, "there"))
        return "MISSING";
    if (vedctl_number(backup, "checkedMs") == 0)
        return "-";
    return vedctl_flag(backup, "good") ? "good" : "DAMAGED";
}

static void print_job(const bson_t *job)
{
    char done[VEDCTL_TEXT_SIZE], total[VEDCTL_TEXT_SIZE];
    const char *state = vedctl_text(job, "state");
    if (strcmp(state, "none") == 0)
        return;
    printf("%s of %s: %s", vedctl_text(job, "verb"), vedctl_text(job, "name"), state);
    if (strcmp(state, "running") == 0)
        printf(", %s, %s of %s", vedctl_text(job, "step"),
               vedctl_size(vedctl_number(job, "bytesDone"), done),
               vedctl_size(vedctl_number(job, "bytesTotal"), total));
    if (*vedctl_text(job, "error") != '\0')
        printf(": %s", vedctl_text(job, "error"));
    puts("");
}

static void print_list(const bson_t *doc)
{
    char made[VEDCTL_TEXT_SIZE], size[VEDCTL_TEXT_SIZE];
    bson_t job, backups, backup;
    bson_iter_t iter;
    printf("folder %s\n", vedctl_text(doc, "folder"));
    if (vedctl_sub(doc, "job", &job))
        print_job(&job);
    printf("\n%-32s  %-19s  %9s  %10s  %-7s  %s\n", "name", "made (UTC)", "size", "oldest key",
           "keyring", "checked");
    if (!vedctl_sub(doc, "backups", &backups))
        return;
    bson_iter_init(&iter, &backups);
    while (vedctl_next(&iter, &backup))
        printf("%-32s  %-19s  %9s  %10" PRId64 "  %-7s  %s\n", vedctl_text(&backup, "name"),
               vedctl_date(vedctl_number(&backup, "madeMs"), made),
               vedctl_size(vedctl_number(&backup, "bytes"), size),
               vedctl_number(&backup, "oldestKey"), vedctl_flag(&backup, "keyring") ? "yes" : "no",
               condition(&backup));
}

/* ---- asking ---- */

/* Of the job of that number, which has ended. */
static int outcome(const bson_t *doc, int64_t number, bool json)
{
    bson_t job;
    if (!vedctl_sub(doc, "job", &job) || vedctl_number(&job, "number") != number) {
        fputs("vedctl: another job has followed: see vedctl backup list\n", stderr);
        return VD_EXIT_FAILURE;
    }
    bool good = strcmp(vedctl_text(&job, "state"), "done") == 0;
    char *text = json ? bson_as_relaxed_extended_json(&job, NULL) : NULL;
    if (text != NULL)
        puts(text);
    else if (good)
        printf("%s of %s: done\n", vedctl_text(&job, "verb"), vedctl_text(&job, "name"));
    if (!good)
        fprintf(stderr, "vedctl: %s of %s failed: %s\n", vedctl_text(&job, "verb"),
                vedctl_text(&job, "name"), vedctl_text(&job, "error"));
    bson_free(text);
    return good ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

/* Begins it, and waits for its end. */
static int run(const vedctl_t *ctl, const char *verb, const char *name, bool wait)
{
    vd_buf_t json;
    bson_t job;
    int exit_code = VD_EXIT_FAILURE;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    bson_t *doc = vedctl_ask_document(ctl, "backup", verb, name, &json);
    int64_t number =
        doc != NULL && vedctl_sub(doc, "job", &job) ? vedctl_number(&job, "number") : 0;
    while (doc != NULL && wait && vedctl_sub(doc, "job", &job) &&
           vedctl_number(&job, "number") == number &&
           strcmp(vedctl_text(&job, "state"), "running") == 0) {
        bson_destroy(doc);
        (void)usleep(LOOK_US);
        doc = vedctl_ask_document(ctl, "backup", "list", "", &json);
    }
    if (doc != NULL && wait)
        exit_code = outcome(doc, number, ctl->json);
    else if (doc != NULL)
        exit_code = VD_EXIT_OK;
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return exit_code;
}

static int create(const vedctl_t *ctl)
{
    const char *name = "";
    bool wait = true;
    for (int i = 1; i < ctl->argc; i++) {
        if (strcmp(ctl->argv[i], "--dir") == 0 && i + 1 < ctl->argc)
            name = ctl->argv[++i];
        else if (strcmp(ctl->argv[i], "--no-wait") == 0)
            wait = false;
        else
            return vedctl_wrong_usage(usage);
    }
    return run(ctl, "create", name, wait);
}

static int restore(const vedctl_t *ctl)
{
    const char *from = NULL, *into = NULL, *keys = NULL;
    vd_error_t err = VD_ERROR_INIT;
    for (int i = 1; i < ctl->argc; i++) {
        if (strcmp(ctl->argv[i], "--into") == 0 && i + 1 < ctl->argc)
            into = ctl->argv[++i];
        else if (strcmp(ctl->argv[i], "--keys") == 0 && i + 1 < ctl->argc)
            keys = ctl->argv[++i];
        else if (from == NULL && ctl->argv[i][0] != '-')
            from = ctl->argv[i];
        else
            return vedctl_wrong_usage(usage);
    }
    if (from == NULL || into == NULL)
        return vedctl_wrong_usage(usage);
    if (vd_backup_restore(from, into, keys, NULL, NULL, &err) != VD_OK) {
        fprintf(stderr, "vedctl: %s\n", err.message);
        return VD_EXIT_FAILURE;
    }
    printf("%s stands in %s: start the node\n", from, into);
    return VD_EXIT_OK;
}

int vedctl_backup(const vedctl_t *ctl)
{
    const char *verb = ctl->argc > 0 ? ctl->argv[0] : "";
    if (strcmp(verb, "create") == 0)
        return create(ctl);
    if (strcmp(verb, "restore") == 0)
        return restore(ctl);
    if (strcmp(verb, "list") == 0 && ctl->argc == 1)
        return vedctl_ask_and_print(ctl, "backup", "list", "", print_list);
    if ((strcmp(verb, "verify") == 0 || strcmp(verb, "remove") == 0) && ctl->argc == 2)
        return run(ctl, verb, ctl->argv[1], true);
    return vedctl_wrong_usage(usage);
}
