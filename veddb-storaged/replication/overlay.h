/* veddb-storaged/replication/overlay.h — what a checkpoint lacks to be the state as of one journal
 * position.
 *
 * Why:     a checkpoint holds whole transactions, but transactions end in another order than that
 * of their timestamps: it may hold the entry 105 and lack 104. The copy that a receiver gets must
 * be exactly the state as of one position P, since it checks the previous version of every entry
 * above. So what the transactions that are lacking up to P did is put over what the checkpoint has,
 * record by record, while it is read out. Proof:   let V be the visible point before the checkpoint
 * was asked for, and P the newest entry in the checkpoint's own journal (documents and entry are
 * one transaction, so an entry is in it exactly if its documents are).
 *          1. All entries <= V had ended before, so they are in it. If P <= V nothing is lacking:
 * it has every entry <= P, and there is none above it.
 *          2. Else wait until the visible point is >= P. Then the live journal has all entries in
 *             (V, P]; those that the checkpoint's journal has not are the lacking ones, M. Each of
 *             them had drawn before P was drawn and ended after the checkpoint's snapshot: so they
 *             are no more than sessions of the engine.
 *          3. A transaction that changed a document after one of M did saw that change, so it ended
 *             after it, and is not in the checkpoint either (snapshots are closed under "saw").
 *             So for a document touched by M: the checkpoint has its state just before the first
 *             change of M, and M's changes in order give the state as of P. Every change's previous
 *             version is compared on the way.
 *          4. Above P the checkpoint has nothing. So checkpoint + overlay = state as of P.
 *          A change of the schema among M is not put over: the checkpoint is made again.
 *          A secondary commits in the journal's order: M is empty there.
 * Limits:  STOR_OVERLAY_MAX bytes of documents.
 * Threads: one. */
#pragma once
#include "veddb-storaged/storaged.h"

#define STOR_OVERLAY_MAX (64 * 1024 * 1024)

typedef struct {
    uint64_t collection; /* 0 = results of retryable writes */
    vd_slice_t key, value;
    bool present; /* false: the document is not there as of P */
} stor_overlay_record_t;

typedef struct {
    stor_overlay_record_t *records; /* by collection, then key */
    uint32_t count;
    uint32_t lacking; /* transactions */
} stor_overlay_t;

/* copy: a session on the checkpoint; live: another. Neither in a transaction. Everything lives in
 * the arena. VD_ERR_CONFLICTING_OPERATION_IN_PROGRESS: make the checkpoint again (schema changes,
 * too much in flight, a wait that took too long). */
VD_MUST_CHECK int stor_overlay_make(stor_storage_t *storage, stor_session_t *copy,
                                    stor_session_t *live, uint64_t visible, uint64_t position,
                                    vd_arena_t *arena, stor_overlay_t *ret, vd_error_t *err);
/* First record of the collection with a key above `after` (empty: any). */
uint32_t stor_overlay_find(const stor_overlay_t *overlay, uint64_t collection, vd_slice_t after);
