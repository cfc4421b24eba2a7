/* veddb-storaged/local/oplog.h — an entry of the journal in the form of MongoDB's oplog.
 *
 * Threads: any; pure but for the names that it asks for. Results live in the arena. */
#pragma once
#include "libcommon/bson/build.h"
#include "veddb-storaged/local/names.h"

/* Pieces of an entry: so many at most (an entry has at most STOR_JOURNAL_PART_MAX bytes). */
#define STOR_OPLOG_PIECES_MAX 400

typedef struct {
    uint32_t changes; /* that are shown, of all pieces together */
    uint32_t count;
    struct {
        vd_slice_t rest; /* of entry.changes, from its first change on */
        uint32_t changes;
    } pieces[STOR_OPLOG_PIECES_MAX];
} stor_oplog_cut_t;

/* Where the entry is cut. count 0: nothing of it is shown. */
VD_MUST_CHECK int stor_oplog_cut(const stor_journal_entry_t *entry, stor_oplog_cut_t *ret_cut,
                                 vd_error_t *err);
/* {op, ns, ui, o, o2, ts, t, v, wall ...} of one piece. name_of: as stor_local_name_of. */
typedef int (*stor_oplog_name_of_t)(void *context, uint64_t collection_id,
                                    const stor_local_name_t **ret_name, vd_error_t *err);
VD_MUST_CHECK int stor_oplog_entry(vd_arena_t *arena, const stor_journal_entry_t *entry,
                                   const stor_oplog_cut_t *cut, uint32_t piece, uint64_t term,
                                   stor_oplog_name_of_t name_of, void *context,
                                   vd_bson_t *ret_document, vd_error_t *err);
/* A delta (delta.h) as the `diff` of {$v: 2, diff: ...}, into the open document. False: malformed.
 */
bool stor_oplog_diff(vd_bb_t *bb, vd_bson_t delta);
