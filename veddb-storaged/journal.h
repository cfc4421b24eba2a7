/* veddb-storaged/journal.h — the oplog: one entry per transaction, appended in the writer's own
 * transaction.
 *
 * Duty:    encodes and decodes entries, appends, cuts the journal into segment tables ("j-<n>"),
 *          drops the oldest whole, and reads it in order.
 * Key:     timestamp u64 BE + part u32 BE (parts: a transaction whose changes pass
 *          STOR_JOURNAL_PART_MAX).
 * Value:   see STOR_JOURNAL_FORMAT in journal.c: head {format, flags, wall clock, session, who}
 *          and changes {kind, statement, collection id, previous version, deltas of bytes and
 *          hash, _id, body}.
 * Body:    a document (insert, replace), a field-wise delta (delta.h), nothing (delete), options
 *          (schema).
 * Order:   an append takes whatever segment is current; so near a cut two neighbouring segments
 *          overlap, and the reader merges them. A segment is cut at most every few seconds and
 *          never while a transaction from before the last cut is under way.
 * Threads: append: workers; cut and drop: keeper; readers: each its own. */
#pragma once
#include "veddb-storaged/request.h"

#define STOR_JOURNAL_PART_MAX  (15 * 1024 * 1024)
#define STOR_JOURNAL_KEY_BYTES 12
#define STOR_JOURNAL_SPARE_AT  2 /* a byte of an entry that means nothing: rotation/flip.h */

typedef enum {
    STOR_CHANGE_INSERT = 1,  /* body: document */
    STOR_CHANGE_REPLACE = 2, /* body: the whole new document, which the client gave */
    STOR_CHANGE_DELTA = 3,   /* an update; body: delta against the previous version */
    STOR_CHANGE_DELETE = 4,  /* body: none */
    /* An update whose delta can't be told (a document that has a name twice); body: the whole new
     * document. Applied as REPLACE is. */
    STOR_CHANGE_UPDATE_WHOLE = 5,
    /* Where change streams want images: the document before the change that follows in this entry;
     * body: that document. Changes nothing. */
    STOR_CHANGE_IMAGE = 7,
    /* body: {db, name, uuid, options}. Schema changes stand alone in their entry; but that of a
     * transaction begins with CREATE and CREATE_INDEXES of what it has made (catalog/own.h). */
    STOR_CHANGE_CREATE = 16,
    STOR_CHANGE_DROP = 17, /* body: {db, name, uuid} */
    /* body: {db, name, uuid, toDb, toName} and, where there was one under that name, {dropped: its
     * id, droppedUuid} */
    STOR_CHANGE_RENAME = 18,
    STOR_CHANGE_MODIFY = 19, /* body: {db, name, uuid, options, before: options} */
    STOR_CHANGE_CONFIG = 20, /* body: the replica set's configuration */
    /* body: {db}. Behind the DROPs of its collections, so nothing is left to be done. */
    STOR_CHANGE_DROP_DATABASE = 21,
    /* Indexes of a collection; one entry for all that became ready, or went, in one step.
     * body: {db, name, uuid, indexes: [{id, spec}]} */
    STOR_CHANGE_CREATE_INDEXES = 22,
    STOR_CHANGE_DROP_INDEXES = 23,
    STOR_CHANGE_MODIFY_INDEX = 24, /* the new spec; and before: spec */
    /* A build begins; body: as CREATE_INDEXES, and building: {build: id, quorum, user}
     * (index/index_private.h). It ends with CREATE_INDEXES or ABORT_INDEXES of the same ids. A
     * CREATE_INDEXES without it is of an empty collection. */
    STOR_CHANGE_START_INDEXES = 25,
    STOR_CHANGE_ABORT_INDEXES = 26,
    /* Not in the journal of a node alone. */
    STOR_CHANGE_RESULT = 32, /* body: {key, value}: a row of the table "sessions" */
    STOR_CHANGE_NOOP = 33,   /* body: {msg}: carries time */
} stor_change_kind_t;

/* Of a collection as such, not of a document in it. */
static inline bool stor_change_is_schema(stor_change_kind_t kind)
{
    return (kind >= STOR_CHANGE_CREATE && kind <= STOR_CHANGE_MODIFY) ||
           (kind >= STOR_CHANGE_CREATE_INDEXES && kind <= STOR_CHANGE_ABORT_INDEXES);
}

typedef struct {
    stor_change_kind_t kind;
    int32_t statement; /* stmtId of a retryable write, -1 */
    uint64_t collection_id;
    uint64_t previous_version; /* 0: there was none */
    int64_t documents_delta;   /* from kind */
    int64_t bytes_delta;       /* of BSON */
    uint64_t hash_delta;       /* stor_record_hash(new) - stor_record_hash(old), wrapping */
    vd_value_t id;             /* _id */
    vd_bson_t body;
} stor_change_t;

typedef struct {
    uint64_t timestamp;
    uint32_t part;
    int64_t wall_ms;
    vd_slice_t user;            /* "name@db" or empty */
    vd_slice_t client;          /* "address:port" or empty */
    vd_slice_t lsid, lsid_user; /* empty without a session */
    int64_t txn_number;         /* -1 */
    uint32_t change_count;
    vd_slice_t changes; /* walk with stor_journal_change_next */
} stor_journal_entry_t;

/* ---- entries (pure) ---- */
/* Head into an empty buffer; then changes, each of which raises the head's count. request: NULL for
 * what nobody asked for (no session, no user). */
VD_MUST_CHECK int stor_journal_begin(vd_buf_t *buf, const stor_request_t *request, int64_t wall_ms,
                                     vd_error_t *err);
VD_MUST_CHECK int stor_journal_add(vd_buf_t *buf, const stor_change_t *change, vd_error_t *err);
/* VD_ERR_CORRUPT unless the changes are as many as the head says and fill the value: a cut anywhere
 * is found. Flipped payload is not: that is for the seals of the blocks (or of the link). */
VD_MUST_CHECK int stor_journal_decode(vd_slice_t key, vd_slice_t value,
                                      stor_journal_entry_t *ret_entry, vd_error_t *err);
/* Next change of entry->changes (advanced). VD_ERR_NOT_FOUND at the end, VD_ERR_CORRUPT: an unknown
 * kind, a body that is not framed as a document, an _id that its type does not allow. */
VD_MUST_CHECK int stor_journal_change_next(vd_slice_t *changes, stor_change_t *ret_change,
                                           vd_error_t *err);

/* ---- the journal ---- */
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
