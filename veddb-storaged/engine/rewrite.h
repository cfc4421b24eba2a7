/* veddb-storaged/engine/rewrite.h — blocks that are sealed with old data keys: found, written anew,
 * counted.
 *
 * Duty:    walks the newest checkpoint of a table; the thread's counter of old blocks (keys.h)
 *          tells which record stood in one. Of each such block one record is changed in the live
 *          table, in a small transaction of its own, so that the next checkpoint writes the block
 *          under the active key. Nothing else about the record changes: no timestamp is drawn, no
 *          journal entry written, no version marked. Whoever changes the record meanwhile wins;
 *          his change writes the block, too.
 * Bytes:   must differ, or WiredTiger keeps a block of a page that it splits: options.flip knows
 *          how. Where it does not, the record is written as it is, which fails only for pages in
 *          memory that are larger than a block.
 * Fresh:   pages of a checkpoint stay in memory, where they cost no block: so a second walk of
 *          the same checkpoint would count a false zero. Each walk needs a checkpoint that was
 *          not walked before (stor_rewrite_checkpoint), and says VD_ERR_AGAIN otherwise.
 * Others:  who needs a table alone (drop, alter, bulk load) calls stor_rewrite_keep_out: the walk
 *          lets go of it at the next record and comes back in a later pass.
 * Growth:  behind each slice_bytes of old blocks an ordinary checkpoint is made, and the walk
 *          goes on in it; so files grow by a few slices, not to twice their size.
 * Owner:   open/close.
 * Threads: one. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-storaged/engine/session.h"

#define STOR_REWRITE_SLICE_BYTES (64ull << 20)

typedef struct stor_rewrite stor_rewrite_t;

typedef struct {
    /* Appends bytes that differ from the value's and mean the same; false: not known. */
    bool (*flip)(const char *table, vd_slice_t key, vd_slice_t value, vd_buf_t *out);
    /* Called at each old block and now and then: bytes walked, and bytes of old blocks, since the
     * last call. Anything but VD_OK ends the walk with that code. */
    int (*pace)(uint64_t walked_bytes, uint64_t old_bytes, void *context, vd_error_t *err);
    void *context;
    uint64_t slice_bytes; /* 0 = STOR_REWRITE_SLICE_BYTES */
} stor_rewrite_options_t;

typedef struct {
    uint64_t records, old_blocks, rewritten, conflicts;
    uint64_t by_key[STOR_KEYS_MAX]; /* old blocks, by place in stor_keys_list */
    bool busy;                      /* not walked to the end: somebody needs the table alone */
} stor_rewrite_counts_t;

VD_MUST_CHECK int stor_rewrite_open(stor_engine_t *engine, const stor_rewrite_options_t *options,
                                    stor_rewrite_t **ret_rewrite, vd_error_t *err);
void stor_rewrite_close(stor_rewrite_t **rewrite_p);
/* Every table gets a checkpoint that nobody has walked. */
VD_MUST_CHECK int stor_rewrite_checkpoint(stor_rewrite_t *rewrite, vd_error_t *err);
/* Adds to *counts. write false: counts only. A table that is gone: VD_OK. */
VD_MUST_CHECK int stor_rewrite_table(stor_rewrite_t *rewrite, const char *table, bool write,
                                     stor_rewrite_counts_t *counts, vd_error_t *err);
/* Counts in the engine's own table and in its metadata, which the checkpoint has written anew. */
VD_MUST_CHECK int stor_rewrite_own(stor_rewrite_t *rewrite, stor_rewrite_counts_t *counts,
                                   vd_error_t *err);
/* Blocks of old keys in the log's files. */
VD_MUST_CHECK int stor_rewrite_log_count(stor_rewrite_t *rewrite, stor_rewrite_counts_t *counts,
                                         vd_error_t *err);
/* Fills the present log file up, so that the log goes on in a new one, and makes a checkpoint,
 * behind which WiredTiger removes the older ones. */
VD_MUST_CHECK int stor_rewrite_log_renew(stor_rewrite_t *rewrite, vd_error_t *err);
/* The timestamp ceiling's row and VedDB.format are written anew. */
VD_MUST_CHECK int stor_rewrite_small(stor_rewrite_t *rewrite, vd_error_t *err);
/* 1 when VedDB.format is not sealed with the active key. */
void stor_rewrite_small_count(stor_rewrite_t *rewrite, stor_rewrite_counts_t *counts);
/* Bulk loads under way that began before the active key was. */
uint32_t stor_rewrite_old_bulks(stor_rewrite_t *rewrite);

/* ---- keys ---- */
/* Before a key becomes active: durably noted that blocks may need it (guard.h). */
VD_MUST_CHECK int stor_engine_key_note(stor_engine_t *engine, const uint8_t id[STOR_KEY_ID_BYTES],
                                       uint32_t version, vd_error_t *err);
/* No block needs it: it may be missing at the next start. */
VD_MUST_CHECK int stor_engine_key_forget(stor_engine_t *engine, const uint8_t id[STOR_KEY_ID_BYTES],
                                         vd_error_t *err);

/* ---- who needs a table alone: any thread ---- */
void stor_rewrite_keep_out(stor_engine_t *engine, const char *table);
void stor_rewrite_let_in(stor_engine_t *engine, const char *table);
/* Somebody waits for the walk to let go: whoever paces it must not sleep on. */
bool stor_rewrite_is_wanted(const stor_engine_t *engine);
