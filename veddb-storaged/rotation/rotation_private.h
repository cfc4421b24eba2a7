/* veddb-storaged/rotation/rotation_private.h — what the files of the rotation's worker share.
 *
 * rotation.c: the thread; orders come in, reports go out, backups begin and end. steps.c: what an
 * order asks for: passes over all tables, the log, the proof, forgetting keys. progress.c: how the
 * worker waits (for the pace, a freeze, space), and what it tells while it does.
 *
 * Threads: what the struct says is the worker's belongs to its thread alone; the rest is atomic or
 * under the lock. */
#pragma once
#include "veddb-storaged/engine/aside.h"
#include "veddb-storaged/engine/rewrite.h"
#include "veddb-storaged/rotation/pace.h"
#include "veddb-storaged/rotation/rotation.h"

#define STOR_ROTATION_CHECKPOINTS_MAX 64
#define STOR_ROTATION_NAP_US          10000 /* sleeps are cut so short: an order is heard */

/* Of named checkpoints. */
typedef struct {
    char names[STOR_ROTATION_CHECKPOINTS_MAX][64];
    uint32_t count;
    bool more; /* than have room: not all are known */
} stor_rotation_names_t;

struct stor_rotation {
    stor_storage_t *storage;
    stor_rotation_options_t options;
    pthread_t thread;
    bool started;
    stor_rewrite_t *rewrite;       /* the worker's */
    stor_rewrite_counts_t *counts; /* of the pass under way: the worker's */
    char **tables;
    size_t table_count, table_room;
    uint64_t rewritten_told, records_told;             /* of counts: the worker's */
    bool of_documents;                                 /* the table that is walked: the worker's */
    uint64_t rested_us, space_us, rate_us, rate_bytes; /* the worker's */
    bool gives_way;                                    /* told: the worker's */
    bool walked_all; /* a pass came to its end: progress is whole; the worker's */
    uint64_t walked_bytes, walked_documents; /* by the pass under way: the worker's */
    bool writes;                             /* counted as a writer (freeze.h): the worker's */
    stor_rotation_names_t named;             /* checkpoints that may need old keys: the worker's */
    uint64_t named_generation;               /* of keys, of which `named` speaks; 0: of none */
    stor_aside_t *aside;                     /* the worker's */
    uint64_t aside_generation,
        aside_mark;                       /* of keys; what stood aside when the key became active */
    bool aside_stuck;                     /* some of it needs a restart */
    atomic_uint_fast64_t serial;          /* of the order: grows when what is done must end */
    atomic_uint_fast64_t changes, limits; /* limits: grows when other ones are told */
    atomic_bool resting, working, stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    vdp_rotation_order_t order;
    stor_pace_t pace;
    vdp_rotation_report_t report;
    stor_rotation_text_t text;
    uint64_t left[STOR_KEYS_MAX]; /* by place in stor_keys_list */
    bool left_known, finished;    /* finished: the order is done, or has failed */
    uint64_t working_serial;
    bool window_rested;
    bool ordered; /* since the start */
    bool backing_up;
    uint32_t backup_proven; /* of the backup: what was proven when it began */
    /* No block needs a key up to that version that is not active: so a proof of this start, or
     * rotated, has found, and it stays so. */
    uint32_t proven;
};

/* ---- steps.c: on the worker's thread ---- */

/* Does what the order asks for. VD_ERR_INTERRUPTED: another came. */
VD_MUST_CHECK int stor_rotation_step(stor_rotation_t *rotation, const vdp_rotation_order_t *order,
                                     vd_error_t *err);
void stor_rotation_tables_free(stor_rotation_t *rotation);

/* ---- progress.c: on the worker's thread, without the lock ---- */

/* The report's note; told at once when it is another. */
void stor_rotation_note(stor_rotation_t *rotation, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The name of the collection that the table is of, or the table's own. "": none. */
void stor_rotation_current(stor_rotation_t *rotation, const char *table);
/* What a whole pass has counted is what is left. */
void stor_rotation_left(stor_rotation_t *rotation);
/* With the lock: bytes walked over, and of them those of old keys. */
void stor_rotation_progress(stor_rotation_t *rotation, uint64_t walked, uint64_t old,
                            uint64_t now_us);

bool stor_rotation_is_interrupted(const stor_rotation_t *rotation);
/* VD_ERR_INTERRUPTED, with its text. */
VD_MUST_CHECK int stor_rotation_interrupted(vd_error_t *err);
/* A freeze of the files (freeze.h): the worker is a writer, but while it waits. begin: waits for
 * the end of a freeze. */
VD_MUST_CHECK int stor_rotation_writing_begin(stor_rotation_t *rotation, vd_error_t *err);
void stor_rotation_writing_end(stor_rotation_t *rotation);
/* Not counted as a writer meanwhile. */
VD_MUST_CHECK int stor_rotation_wait(stor_rotation_t *rotation, uint64_t ms, vd_error_t *err);
bool stor_rotation_space_is_short(stor_rotation_t *rotation);
/* stor_rewrite_options_t.pace; context is the rotation. */
VD_MUST_CHECK int stor_rotation_pace(uint64_t walked, uint64_t old, void *context, vd_error_t *err);
