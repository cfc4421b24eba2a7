/* veddb-storaged/engine/engine_private.h — what engine.c, tables.c, session.c and cursor.c share;
 * no one else includes it. */
#pragma once
#include "libcommon/base/list.h"
#include "libcommon/base/map.h"
#include "veddb-storaged/engine/flusher.h"
#include "veddb-storaged/engine/guard.h"
#include "veddb-storaged/engine/reserve.h"
#include "veddb-storaged/engine/session.h"
#include "veddb-storaged/engine/wt.h"

#define STOR_TABLE_NAME_MAX_BYTES 64

typedef struct {
    atomic_uint_fast64_t begins, commits, rollbacks, conflicts;
} stor_txn_counts_t;

/* Tables that somebody needs alone, and the one that is being walked: rewrite.h. */
#define STOR_EXCLUSIONS_MAX 32
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char names[STOR_EXCLUSIONS_MAX][STOR_TABLE_NAME_MAX_BYTES + 1]; /* empty: free */
    char walking[STOR_TABLE_NAME_MAX_BYTES + 1];
    atomic_bool yield;
    vd_list_t bulks; /* of stor_bulk_mark_t */
} stor_exclusion_t;

/* A table that is closed for a moment (aside.h): who wants to open it waits for the end. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool begins, held;                 /* begins: transactions wait with their begin, too */
    atomic_uint_fast32_t opening;             /* cursors that are being opened */
    char name[STOR_TABLE_NAME_MAX_BYTES + 1]; /* under the lock; empty: none */
} stor_hold_t;

typedef struct {
    vd_node_t node;      /* first */
    uint64_t generation; /* of the keys when it began */
} stor_bulk_mark_t;

struct stor_engine {
    WT_EVENT_HANDLER handler; /* first: the handler's callbacks get its address */
    stor_engine_options_t options;
    char *folder;
    stor_guard_t *guard;
    bool bound; /* stor_encryptor_bind */
    WT_CONNECTION *conn;
    stor_sequencer_t sequencer;
    stor_flusher_t *flusher;
    stor_reserve_t reserve;
    /* Messages at open. */
    atomic_bool opening;
    pthread_mutex_t message_lock;
    char open_fault[VD_ERROR_MESSAGE_SIZE]; /* first message that speaks of corruption or salvage */
    char open_message[VD_ERROR_MESSAGE_SIZE]; /* first error message */
    /* Tables, checkpoints, statistics: one session under a lock. */
    pthread_mutex_t admin_lock;
    WT_SESSION *admin;
    /* Sessions. */
    pthread_mutex_t sessions_lock;
    stor_session_t **slots; /* by sequencer slot; NULL = free */
    stor_txn_counts_t closed_counts;
    stor_exclusion_t exclusion;
    stor_hold_t hold;
};

struct stor_cursor {
    vd_node_t node; /* in the session's cursors */
    stor_session_t *session;
    WT_CURSOR *wt;     /* overwrite=false; NULL until first used, and after the table was retired */
    WT_CURSOR *wt_put; /* overwrite=true; opened by the first put */
    bool used;         /* stands in the session's used list: reset at the end of the transaction */
    bool retired;
    bool versioned;   /* its writes are marked: versions.h */
    bool private_one; /* from stor_cursor_acquire; not in the map */
    uint64_t touched; /* transaction number */
    stor_cursor_t *next_used;
    char uri[STOR_TABLE_NAME_MAX_BYTES + 16];
    char name[STOR_TABLE_NAME_MAX_BYTES + 1];
};

/* A table that a session shall let go of, noted while it was in a transaction. */
typedef enum {
    STOR_LET_GO_CLOSE,  /* its WT_CURSORs are closed, and opened again when they are needed */
    STOR_LET_GO_RETIRE, /* closed, and not opened again */
    STOR_LET_GO_FORGET, /* dropped */
} stor_let_go_t;

typedef struct stor_notice {
    struct stor_notice *next;
    stor_let_go_t how;
    char name[STOR_TABLE_NAME_MAX_BYTES + 1];
} stor_notice_t;

typedef struct stor_ending {
    struct stor_ending *next;
    void (*ended)(bool committed, void *context);
    void *context;
} stor_ending_t;

struct stor_session {
    stor_engine_t *engine;
    WT_SESSION *wt;
    uint32_t slot;
    atomic_int busy;     /* held from begin to end of a transaction, and inside other calls; retire
                            takes it between */
    atomic_bool noticed; /* notices is not empty */
    char checkpoint[STOR_TABLE_NAME_MAX_BYTES + 1]; /* what its cursors read; empty: what is now */
    stor_notice_t *notices;                         /* under the engine's sessions_lock */
    bool active, failed, wrote, drawn, given;
    uint64_t timestamp, snapshot_newest, transactions, bytes_written;
    /* What the open transaction has marked (versions.h). */
    uint32_t *marks, mark_count, mark_space;
    bool marked_all;
    vd_map_t *by_table; /* name -> stor_cursor_t */
    vd_list_t cursors;  /* all of them, private ones too */
    stor_cursor_t *used;
    struct stor_ending *endings; /* who wants to know that the transaction has ended */
    uint32_t open_count;         /* WT_CURSORs open */
    stor_txn_counts_t counts;
};

/* node is the first member; the detour over void tells the compiler that the alignment is right. */
static inline stor_cursor_t *stor_cursor_of(vd_node_t *node)
{
    return (stor_cursor_t *)(void *)node;
}

/* Checks a table's name and writes its uri. */
VD_MUST_CHECK int stor_table_uri(const char *name, char uri[STOR_TABLE_NAME_MAX_BYTES + 16],
                                 vd_error_t *err);
/* A process that dies in the middle of making a table may leave its file and nothing that names it.
 * WiredTiger moves such a file aside ("c-30.wt.1") when the name is used again; those go here. */
void stor_tables_moved_remove(const char *folder);
/* Each session closes its WT_CURSORs on the table, and what else `how` says: at once when it is
 * between transactions, else at the end of its transaction. */
void stor_sessions_notify(stor_engine_t *engine, const char *name, stor_let_go_t how);
/* A cursor on the table is about to be opened: waits while the table is held. */
void stor_hold_open_begin(stor_engine_t *engine, const char *name);
void stor_hold_open_end(stor_engine_t *engine);
/* A transaction is about to begin; waits while they are held up. */
void stor_hold_begin_wait(stor_engine_t *engine);
/* Marks what the open transaction is about to change. */
void stor_session_mark(stor_session_t *session, const stor_cursor_t *cursor, vd_slice_t key);
/* Caller holds the session busy. */
void stor_session_table_retire(stor_session_t *session, const char *name);
void stor_session_table_forget(stor_session_t *session, const char *name);
void stor_session_table_close(stor_session_t *session, const char *name);
void stor_session_hold(stor_session_t *session);
void stor_session_let_go(stor_session_t *session);
/* Resets every cursor used in the transaction. */
void stor_session_cursors_reset(stor_session_t *session);
void stor_cursor_free(stor_cursor_t *cursor);
