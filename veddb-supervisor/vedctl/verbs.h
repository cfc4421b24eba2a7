/* veddb-supervisor/vedctl/verbs.h — the operators' command: its verbs and what they share.
 *
 * Each verb prints its answer to standard output, errors go to standard error. Exit codes: 0 done,
 * 1 refused or failed, 64 wrong usage. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

#include <bson/bson.h>

typedef struct {
    const char *socket; /* control socket */
    const char *config; /* configuration file, or NULL */
    bool json;
    int argc; /* words behind the verb */
    char **argv;
} vedctl_t;

/* client.c: asks the supervisor. The JSON body of the answer is put into body. Returns the
 * supervisor's code (message printed when it refuses). */
int vedctl_ask(const vedctl_t *ctl, const char *verb, const char *argument, const char *argument2,
               vd_buf_t *body);

/* The same for what the supervisor passes on to a worker, and waits for itself. */
int vedctl_ask_worker(const vedctl_t *ctl, const char *verb, const char *argument,
                      const char *argument2, vd_buf_t *body);

/* client.c: such an answer, read; its text is put into json. NULL: refused or not to be read, and
 * said. The caller destroys it. */
bson_t *vedctl_ask_document(const vedctl_t *ctl, const char *verb, const char *argument,
                            const char *argument2, vd_buf_t *json);

/* client.c: such an answer, printed: as it came under --json or where print is NULL, else by print.
 * Returns the exit code. */
int vedctl_ask_and_print(const vedctl_t *ctl, const char *verb, const char *argument,
                         const char *argument2, void (*print)(const bson_t *doc));

/* client.c: the usage goes to standard error. Returns the exit code. */
int vedctl_wrong_usage(const char *usage);

int vedctl_status(const vedctl_t *ctl);
int vedctl_keys(const vedctl_t *ctl);
int vedctl_stop(const vedctl_t *ctl);
int vedctl_restart(const vedctl_t *ctl);
int vedctl_misbehave(const vedctl_t *ctl); /* for tests; needs test.faults */
int vedctl_reload(const vedctl_t *ctl);
int vedctl_limits(const vedctl_t *ctl);
int vedctl_tokens(const vedctl_t *ctl);
int vedctl_drain(const vedctl_t *ctl);
int vedctl_log_level(const vedctl_t *ctl);
int vedctl_audit(const vedctl_t *ctl);
int vedctl_replication(const vedctl_t *ctl);
int vedctl_config(const vedctl_t *ctl);
int vedctl_backup(const vedctl_t *ctl);
