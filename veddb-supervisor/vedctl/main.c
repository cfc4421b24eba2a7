/* veddb-supervisor/vedctl/main.c — the operators' command. */
#include "libcommon/runtime/daemon.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: vedctl [--socket PATH] [--config FILE] VERB ...\n"
    "  status [--json]           the node and its workers; exit code 0 only when all run\n"
    "  keys VERB ...             status, rotate, pause, resume, cancel, throttle, history, verify, "
    "rewrap\n"
    "  replication VERB ...      status, list, add, remove, promote, step-down, freeze, "
    "force-sync\n"
    "  backup VERB ...           create, list, verify, remove; restore (without a node)\n"
    "  audit VERB ...            status, verify, tail, search, prove, explain\n"
    "  limits VERB ...           show, set, reset what users and addresses may have\n"
    "  reload certs              certificates, keys and lists of revoked ones are read again; "
    "clients stay connected\n"
    "  restart WORKER            drain, stop and start rotated, storaged, replicad or gatewayd; "
    "waits until it runs\n"
    "  tokens list [USER]        logins that a refresh token may renew: of a user "
    "(USER@DATABASE), or all\n"
    "  tokens revoke JTI         revoke an access token, or a login by its session (sid)\n"
    "  tokens revoke-user USER   revoke all tokens of a user (USER@DATABASE; admin without)\n"
    "  tokens revoke-all         revoke all tokens: their key is replaced\n"
    "  drain                     finish what clients have in flight, then close the gateway\n"
    "  stop                      stop the node in order; waits until it has\n"
    "  log-level [WORKER] LEVEL  debug, info, warn, error or fatal, until the next start\n"
    "  config check|show         check a configuration; show every option with its value\n"
    "  version\n"
    "The socket is --socket, else $VEDCTL_SOCKET, else the one of --config, else "
    "/run/veddb/control.\n";

static int version(const vedctl_t *ctl)
{
    (void)ctl; /* nothing to ask */
    puts("vedctl " VEDDB_VERSION);
    return VD_EXIT_OK;
}

static const struct {
    const char *name;
    int (*run)(const vedctl_t *ctl);
} verbs[] = {
    {"status", vedctl_status},       {"keys", vedctl_keys},     {"restart", vedctl_restart},
    {"drain", vedctl_drain},         {"stop", vedctl_stop},     {"log-level", vedctl_log_level},
    {"config", vedctl_config},       {"version", version},      {"replication", vedctl_replication},
    {"audit", vedctl_audit},         {"reload", vedctl_reload}, {"limits", vedctl_limits},
    {"misbehave", vedctl_misbehave}, {"tokens", vedctl_tokens}, {"backup", vedctl_backup},
};

/* The control socket that a configuration names. */
static char *configured_socket(const char *file)
{
    static char path[512];
    vd_error_t err = VD_ERROR_INIT;
    vd_config_t *config = NULL;
    if (vd_config_load(file, NULL, 0, &config, &err) != VD_OK) {
        fprintf(stderr, "vedctl: %s\n", err.message);
        exit(VD_EXIT_FAILURE);
    }
    const char *socket = vd_config_string(config, "supervisor.control_socket");
    (void)snprintf(path, sizeof path, "%s%s",
                   *socket != '\0' ? socket : vd_config_string(config, "node.run_folder"),
                   *socket != '\0' ? "" : "/control");
    vd_config_destroy(&config);
    return path;
}

int main(int argc, char **argv)
{
    vedctl_t ctl = {.socket = getenv("VEDCTL_SOCKET")};
    bool is_config = false;
    const char *verb = NULL;
    char **words = calloc((size_t)argc + 1, sizeof *words);
    if (words == NULL)
        return VD_EXIT_FAILURE;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--socket") == 0 && i + 1 < argc)
            ctl.socket = argv[++i];
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            ctl.config = argv[++i];
        else if (strcmp(argv[i], "--json") == 0)
            ctl.json = true;
        else if (strcmp(argv[i], "--help") == 0)
            verb = "";
        else if (verb == NULL)
            verb = argv[i];
        else
            words[ctl.argc++] = argv[i];
    }
    ctl.argv = words;
    is_config = verb != NULL && strcmp(verb, "config") == 0;
    if (ctl.socket == NULL && !is_config)
        ctl.socket = ctl.config != NULL ? configured_socket(ctl.config) : "/run/veddb/control";
    int exit_code = VD_EXIT_USAGE;
    bool known = false;
    for (size_t i = 0; verb != NULL && i < VD_COUNT_OF(verbs); i++) {
        if (strcmp(verb, verbs[i].name) == 0) {
            exit_code = verbs[i].run(&ctl);
            known = true;
            break;
        }
    }
    if (!known) {
        fputs(usage, verb != NULL && *verb == '\0' ? stdout : stderr);
        exit_code = verb != NULL && *verb == '\0' ? VD_EXIT_OK : VD_EXIT_USAGE;
    }
    free(words);
    return exit_code;
}
