/* veddb-gatewayd/commands/table.h — the one table of all commands: where each runs, what it needs,
 * what may be sent again.
 *
 * A command without a row can't be reached.
 * Threads: read-only after gate_commands_init. */
#pragma once
#include "libcommon/bson/build.h"
#include "veddb-gatewayd/roles.h"

typedef struct gate_request gate_request_t;

typedef enum {
    GATE_RUN_HERE,    /* the handler answers on the loop, or later */
    GATE_RUN_WORKER,  /* the handler may block: it runs on the administration worker */
    GATE_RUN_STORAGE, /* the bytes travel on */
    GATE_RUN_REFUSED, /* known, and refused with `refusal_code` */
} gate_run_t;

/* What the privilege is checked on. CHECK_* beyond the four plain ones have a rule of their own in
 * access.c. */
typedef enum {
    GATE_CHECK_LOGIN,      /* somebody is logged in */
    GATE_CHECK_COLLECTION, /* `action` on the collection that the first field names */
    GATE_CHECK_DATABASE,
    GATE_CHECK_CLUSTER,
    GATE_CHECK_OPEN, /* nobody needs to be logged in */
    GATE_CHECK_AGGREGATE,
    GATE_CHECK_INSERT,
    GATE_CHECK_UPDATE,
    GATE_CHECK_FIND_AND_MODIFY,
    GATE_CHECK_EXPLAIN,
    GATE_CHECK_CREATE,
    GATE_CHECK_COLLMOD,
    GATE_CHECK_CLONE_CAPPED,
    GATE_CHECK_RENAME,
    GATE_CHECK_LIST_DATABASES,
    GATE_CHECK_LIST_COLLECTIONS,
    GATE_CHECK_CURSORS,
    GATE_CHECK_CURRENT_OP,
    GATE_CHECK_KILL_OP,
    GATE_CHECK_KILL_ALL_SESSIONS,
    GATE_CHECK_PROFILE,
    GATE_CHECK_CREATE_USER,
    GATE_CHECK_UPDATE_USER,
    GATE_CHECK_GRANT_ROLES,
    GATE_CHECK_REVOKE_ROLES,
    GATE_CHECK_CREATE_ROLE,
    GATE_CHECK_UPDATE_ROLE,
    GATE_CHECK_GRANT_PRIVILEGES,
    GATE_CHECK_REVOKE_PRIVILEGES,
    GATE_CHECK_USERS_INFO,
    GATE_CHECK_ROLES_INFO,
} gate_check_t;

enum {
    GATE_ADMIN_ONLY = 1u << 0, /* only on the admin database */
    GATE_RETRY_READ =
        1u << 1, /* a read without side effects: may be sent again after storage died */
    GATE_RETRY_WRITE = 1u << 2,  /* may be sent again when it carries a txnNumber */
    GATE_AUDITED = 1u << 3,      /* administration that the audit will record */
    GATE_NO_COMPRESS = 1u << 4,  /* the reply is never compressed: it shapes logins */
    GATE_TEST_ONLY = 1u << 5,    /* exists only under test.faults */
    GATE_SECONDARY_OK = 1u << 6, /* shown by listCommands */
    GATE_TRANSACTION = 1u << 7,  /* commit and abort: their failures carry labels */
    GATE_LEGACY = 1u << 8,       /* also served as OP_QUERY */
    GATE_API_V1 = 1u << 9,       /* part of API version 1 */
    GATE_WRITES = 1u << 10,
    GATE_COLLECTION_ARGUMENT = 1u << 11, /* the first field is a collection's name */
    GATE_KEPT = 1u << 12,                /* its reply may come from the cache of results */
    GATE_ENDS = 1u << 13, /* ends or frees something, or helps an operator: no limit refuses it */
};

/* A handler's third way, beside VD_OK (reply is filled in) and an error: the answer comes later
 * through gate_request_finish. */
#define GATE_LATER 1

struct gate_command {
    const char *name;
    const char *alias; /* another spelling, or NULL */
    gate_run_t where;
    gate_check_t check;
    gate_action_t action;
    uint32_t flags;
    int (*run)(gate_request_t *request, vd_bb_t *reply, vd_error_t *err);
    const char *help;
    int refusal_code; /* GATE_RUN_REFUSED: negative code; `help` is its message */
};
typedef struct gate_command gate_command_t;

extern const gate_command_t gate_commands[];
extern const uint32_t gate_command_count;

/* Builds the index of names; once, before threads start. Idempotent. */
void gate_commands_init(void);
/* NULL when there is no such command. Names are exact, but hello and isMaster come in any case. */
const gate_command_t *gate_command_find(vd_slice_t name);
uint32_t gate_command_index(const gate_command_t *command);
