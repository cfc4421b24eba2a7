/* veddb-supervisor/vedctl/verbs.h — the operators' command: its verbs and what they share.
 *
 * Each verb prints its answer to standard output, errors go to standard error. Exit codes: 0 done,
 * 1 refused or failed, 64 wrong usage. */
#pragma once
#include "libcommon/base/buf.h"
#include "libcommon/base/error.h"

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

/* The same, waiting for so long. */
int vedctl_ask_for(const vedctl_t *ctl, const char *verb, const char *argument,
                   const char *argument2, uint32_t wait_ms, vd_buf_t *body);

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
