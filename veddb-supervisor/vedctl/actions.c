/* veddb-supervisor/vedctl/actions.c — vedctl stop, restart, drain, log-level, config. */
#include "libcommon/base/clock.h"
#include "libcommon/runtime/config.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <bson/bson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define DONE_WAIT_MS  90000
#define DONE_CHECK_MS 50

static void pause_ms(long ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    (void)nanosleep(&t, NULL); /* shorter is fine */
}

static int usage(const char *text)
{
    fprintf(stderr, "usage: vedctl %s\n", text);
    return VD_EXIT_USAGE;
}

int vedctl_stop(const vedctl_t *ctl)
{
    struct stat st;
    if (ctl->argc != 0)
        return usage("stop");
    if (vedctl_ask(ctl, "stop", "", "", NULL) != VD_OK)
        return VD_EXIT_FAILURE;
    uint64_t end = vd_monotonic_ms() + DONE_WAIT_MS;
    while (stat(ctl->socket, &st) == 0 &&
           vd_monotonic_ms() < end) /* the supervisor removes it last */
        pause_ms(DONE_CHECK_MS);
    if (stat(ctl->socket, &st) != 0)
        return VD_EXIT_OK;
    fputs("vedctl: the node still stops\n", stderr);
    return VD_EXIT_FAILURE;
}

/* Starts so far and whether it runs, from the status; false when there is no answer. */
static bool worker_state(const vedctl_t *ctl, const char *name, int64_t *ret_starts,
                         bool *ret_running)
{
    vd_buf_t json;
    bool found = false;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    if (vedctl_ask(ctl, "status", "", "", &json) == VD_OK) {
        vd_slice_t text = vd_buf_slice(&json);
        bson_t *doc = bson_new_from_json(text.data, (ssize_t)text.len, NULL);
        for (int i = 0; doc != NULL && !found && i < 8; i++) {
            char path[32];
            bson_iter_t iter, field;
            (void)snprintf(path, sizeof path, "workers.%d.name", i);
            if (!bson_iter_init(&iter, doc) || !bson_iter_find_descendant(&iter, path, &field))
                break;
            if (strcmp(bson_iter_utf8(&field, NULL), name) != 0)
                continue;
            found = true;
            (void)snprintf(path, sizeof path, "workers.%d.starts", i);
            if (bson_iter_init(&iter, doc) && bson_iter_find_descendant(&iter, path, &field))
                *ret_starts = bson_iter_as_int64(&field);
            (void)snprintf(path, sizeof path, "workers.%d.state", i);
            if (bson_iter_init(&iter, doc) && bson_iter_find_descendant(&iter, path, &field))
                *ret_running = strcmp(bson_iter_utf8(&field, NULL), "running") == 0;
        }
        if (doc != NULL)
            bson_destroy(doc);
    }
    vd_buf_done(&json);
    return found;
}

int vedctl_restart(const vedctl_t *ctl)
{
    if (ctl->argc != 1)
        return usage("restart WORKER   (rotated, storaged, replicad, gatewayd)");
    const char *name = strncmp(ctl->argv[0], "veddb-", 6) == 0 ? ctl->argv[0] + 6 : ctl->argv[0];
    int64_t before = 0, starts = 0;
    bool running = false;
    (void)worker_state(ctl, name, &before, &running); /* an unknown name is refused below */
    if (vedctl_ask(ctl, "restart", name, "", NULL) != VD_OK)
        return VD_EXIT_FAILURE;
    for (uint64_t end = vd_monotonic_ms() + DONE_WAIT_MS; vd_monotonic_ms() < end;
         pause_ms(DONE_CHECK_MS)) {
        if (!worker_state(ctl, name, &starts, &running))
            return VD_EXIT_FAILURE;
        if (starts > before && running) {
            printf("%s is running\n", name);
            return VD_EXIT_OK;
        }
    }
    fprintf(stderr, "vedctl: %s is not running yet: see vedctl status\n", name);
    return VD_EXIT_FAILURE;
}

int vedctl_reload(const vedctl_t *ctl)
{
    if (ctl->argc != 1 || strcmp(ctl->argv[0], "certs") != 0)
        return usage("reload certs");
    int64_t starts = 0;
    bool running = false;
    int rc = vedctl_ask(ctl, "reload", "gatewayd", "", NULL);
    if (rc == VD_OK &&
        worker_state(ctl, "replicad", &starts, &running)) /* it is none of a node alone */
        rc = vedctl_ask(ctl, "reload", "replicad", "", NULL);
    return rc == VD_OK ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

int vedctl_misbehave(const vedctl_t *ctl)
{
    char what[1024];
    if (ctl->argc < 2 || ctl->argc > 3)
        return usage("misbehave WORKER WHAT [PATH]");
    (void)snprintf(what, sizeof what, "%s%s%s", ctl->argv[1], ctl->argc == 3 ? "\n" : "",
                   ctl->argc == 3 ? ctl->argv[2] : "");
    return vedctl_ask(ctl, "misbehave", ctl->argv[0], what, NULL) == VD_OK ? VD_EXIT_OK
                                                                           : VD_EXIT_FAILURE;
}

static void print_sessions(const bson_t *doc)
{
    bson_t sessions, session;
    bson_iter_t iter;
    char who[300];
    if (!vedctl_sub(doc, "sessions", &sessions) || !bson_iter_init(&iter, &sessions))
        return;
    printf("%-32s  %-24s  %-20s  %-20s  %-20s  %s\n", "SID", "USER", "CREATED", "LAST USED",
           "EXPIRES", "ADDRESS");
    while (vedctl_next(&iter, &session)) {
        (void)snprintf(who, sizeof who, "%s@%s", vedctl_text(&session, "user"),
                       vedctl_text(&session, "db"));
        printf("%-32s  %-24s  %-20s  %-20s  %-20s  %s\n", vedctl_text(&session, "sid"), who,
               vedctl_text(&session, "created"), vedctl_text(&session, "lastUsed"),
               vedctl_text(&session, "expires"), vedctl_text(&session, "address"));
    }
    if (vedctl_flag(doc, "more"))
        fputs("vedctl: there are more: these are the ones that were used last\n", stderr);
}

static int list_sessions(const vedctl_t *ctl)
{
    char both[1200];
    vd_buf_t json;
    int len = snprintf(both, sizeof both, "list\n%s", ctl->argc == 2 ? ctl->argv[1] : "");
    bson_t *doc = NULL;
    if (len < 0 || (size_t)len >= sizeof both)
        return usage("tokens list [USER[@DATABASE]]");
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    if (vedctl_ask(ctl, "tokens", "", both, &json) == VD_OK)
        doc = vedctl_parse(&json);
    if (doc != NULL && ctl->json)
        printf("%.*s\n", VD_SLICE_FMT(vd_buf_slice(&json)));
    else if (doc != NULL)
        print_sessions(doc);
    int exit_code = doc != NULL ? VD_EXIT_OK : VD_EXIT_FAILURE;
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return exit_code;
}

int vedctl_tokens(const vedctl_t *ctl)
{
    static const char words[] =
        "tokens list [USER[@DATABASE]] | revoke JTI | revoke-user USER[@DATABASE] | revoke-all";
    char both[1200];
    const char *verb = ctl->argc > 0 ? ctl->argv[0] : "";
    bool all = strcmp(verb, "revoke-all") == 0;
    if (strcmp(verb, "list") == 0)
        return ctl->argc > 2 ? usage(words) : list_sessions(ctl);
    if ((!all && strcmp(verb, "revoke") != 0 && strcmp(verb, "revoke-user") != 0) ||
        ctl->argc != (all ? 1 : 2))
        return usage(words);
    int len = snprintf(both, sizeof both, "%s\n%s", verb, all ? "" : ctl->argv[1]);
    if (len < 0 || (size_t)len >= sizeof both)
        return usage(words);
    return vedctl_ask(ctl, "tokens", "", both, NULL) == VD_OK ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

int vedctl_drain(const vedctl_t *ctl)
{
    if (ctl->argc != 0)
        return usage("drain");
    return vedctl_ask(ctl, "drain", "", "", NULL) == VD_OK ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

int vedctl_log_level(const vedctl_t *ctl)
{
    if (ctl->argc < 1 || ctl->argc > 2)
        return usage("log-level [WORKER] debug|info|warn|error|fatal");
    const char *worker = ctl->argc == 2 ? ctl->argv[0] : "", *level = ctl->argv[ctl->argc - 1];
    return vedctl_ask(ctl, "log-level", worker, level, NULL) == VD_OK ? VD_EXIT_OK
                                                                      : VD_EXIT_FAILURE;
}

int vedctl_config(const vedctl_t *ctl)
{
    bool show = ctl->argc >= 1 && strcmp(ctl->argv[0], "show") == 0;
    if (ctl->argc < 1 || (!show && strcmp(ctl->argv[0], "check") != 0))
        return usage("[--config FILE] config check|show [--<option>=<value> ...]");
    vd_error_t err = VD_ERROR_INIT;
    vd_config_t *config = NULL;
    vd_buf_t text;
    vd_buf_init(&text, 1 << 20);
    int rc = vd_config_load(ctl->config, ctl->argv + 1, ctl->argc - 1, &config, &err);
    if (rc == VD_OK)
        rc = vd_config_print(config, &text, show, &err);
    if (rc == VD_OK && show) {
        vd_slice_t shown = vd_buf_slice(&text);
        printf("%.*s", VD_SLICE_FMT(shown));
    } else if (rc == VD_OK) {
        puts("the configuration is good");
    } else {
        fprintf(stderr, "vedctl: %s\n", err.message);
    }
    vd_buf_done(&text);
    vd_config_destroy(&config);
    return rc == VD_OK ? VD_EXIT_OK : VD_EXIT_FAILURE;
}
