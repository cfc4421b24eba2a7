/* veddb-storaged/journal.h — the oplog: one entry per transaction, appended in the writer's own
 * transaction.
 *
 * Duty:    appends entries (journal_entry.h), cuts the journal into segment tables ("j-<n>"),
 *          drops the oldest whole, and reads it in order.
 * Order:   an append takes whatever segment is current; so near a cut two neighbouring segments
 *          overlap, and the reader merges them. A segment is cut at most every few seconds and
 *          never while a transaction from before the last cut is under way.
 * Threads: append: workers; cut and drop: keeper; readers: each its own. */
#pragma once
#include "veddb-storaged/journal_entry.h"

VD_MUST_CHECK int stor_journal_open(stor_storage_t *storage, stor_journal_t **ret_journal,
                                    vd_error_t *err);
void stor_journal_close(stor_journal_t **journal_p);
/* In the session's open transaction. */
VD_MUST_CHECK int stor_journal_append(stor_journal_t *journal, stor_session_t *session,
                                      uint64_t timestamp, uint32_t part, vd_slice_t entry,
                                      vd_error_t *err);
/* Bytes as they came from another node's journal. */
VD_MUST_CHECK int stor_journal_append_raw(stor_journal_t *journal, stor_session_t *session,
                                          vd_slice_t key, vd_slice_t value, vd_error_t *err);
/* A transaction of its own with one change. `also` (may be NULL) joins it. */
VD_MUST_CHECK int stor_journal_note(stor_storage_t *storage, stor_session_t *session,
                                    stor_change_kind_t kind, vd_bson_t body,
                                    int (*also)(stor_session_t *session, uint64_t timestamp,
                                                void *context, vd_error_t *err),
                                    void *context, uint64_t *ret_timestamp, vd_error_t *err);
/* The greatest timestamp <= upto that an entry has; 0 when there is none any more. In the session's
 * open transaction, or in one of its own. */
VD_MUST_CHECK int stor_journal_before(stor_journal_t *journal, stor_session_t *session,
                                      uint64_t upto, uint64_t *ret_timestamp, vd_error_t *err);
/* Bytes of the segments that may hold entries above; more than there are, by up to one segment. */
uint64_t stor_journal_bytes_above(stor_journal_t *journal, uint64_t timestamp);
/* Cuts a new segment and drops old ones when due; never one that holds entries above keep_above
 * (what a reader of kind `must` still needs). */
VD_MUST_CHECK int stor_journal_maintain(stor_journal_t *journal, stor_session_t *session,
                                        uint64_t keep_above, vd_error_t *err);

/* Begins anew, empty, at `position`: nothing at or below is in it, and readers go on above. What
 * was there is dropped. Not while anyone appends. */
VD_MUST_CHECK int stor_journal_restart(stor_journal_t *journal, stor_session_t *session,
                                       uint64_t position, vd_error_t *err);
/* Timestamp of the newest entry that the session can see, in its open transaction; 0 = none. (Of a
 * session on a checkpoint: the newest that is in it.) */
VD_MUST_CHECK int stor_journal_newest(stor_session_t *session, uint64_t *ret_timestamp,
                                      vd_error_t *err);
/* Whether the entry of that timestamp is there for the session, in its open transaction. */
VD_MUST_CHECK int stor_journal_holds(stor_session_t *session, uint64_t timestamp, bool *ret_holds,
                                     vd_error_t *err);

/* How many entries there are above a timestamp (parts of one are one). What was committed since the
 * start is known; what is older is read once, a piece with each call, and until then (or for a
 * place that the journal no longer holds) there are at least so many. In no transaction. */
typedef struct {
    uint64_t above;
    uint64_t entries;
    bool exact;
} stor_journal_count_t;
VD_MUST_CHECK int stor_journal_count(stor_journal_t *journal, stor_session_t *session,
                                     stor_journal_count_t *counts, uint32_t count, vd_error_t *err);

typedef struct stor_journal_reader stor_journal_reader_t;
/* From the first entry above `after`. */
stor_journal_reader_t *stor_journal_reader_open(stor_journal_t *journal, stor_session_t *session,
                                                uint64_t after);
/* The same, but behind this part of `after`. */
stor_journal_reader_t *stor_journal_reader_open_part(stor_journal_t *journal,
                                                     stor_session_t *session, uint64_t after,
                                                     uint32_t after_part);
/* First in each transaction of the session. */
void stor_journal_reader_begin(stor_journal_reader_t *reader);
void stor_journal_reader_close(stor_journal_reader_t **reader_p);
/* The next entry with a timestamp <= upto (give stor_engine_visible(): no hole below).
 * VD_ERR_NOT_FOUND when there is none yet; VD_ERR_CHANGE_STREAM_HISTORY_LOST when what comes next
 * was dropped. Needs an open transaction in the session; the entry is valid until the next call or
 * its end. */
VD_MUST_CHECK int stor_journal_reader_next(stor_journal_reader_t *reader, uint64_t upto,
                                           stor_journal_entry_t *ret_entry, vd_error_t *err);

/* The entry that was given last, as it stands in the journal; valid as long as it is. */
void stor_journal_reader_raw(const stor_journal_reader_t *reader, vd_slice_t *ret_key,
                             vd_slice_t *ret_value);

typedef struct {
    uint64_t segments, bytes, entries, oldest, newest_segment;
    uint64_t appended; /* bytes, since the start */
} stor_journal_stats_t;
void stor_journal_stats(stor_journal_t *journal, stor_journal_stats_t *ret_stats);
