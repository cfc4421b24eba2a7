/* veddb-storaged/journal_entry.h — one entry of the journal as bytes: made, checked, taken apart.
 *
 * Duty:    encodes and decodes the key and the value of an entry, and the changes in it. Pure.
 * Key:     timestamp u64 BE + part u32 BE (parts: a transaction whose changes pass
 *          STOR_JOURNAL_PART_MAX).
 * Value:   see STOR_JOURNAL_FORMAT in journal_entry.c: head {format, flags, wall clock, session,
 *          who} and changes {kind, statement, collection id, previous version, deltas of bytes and
 *          hash, _id, body}.
 * Body:    a document (insert, replace), a field-wise delta (delta.h), nothing (delete), options
 *          (schema).
 * Owner:   what is decoded borrows the bytes.
 * Threads: any. */
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
/* VD_ERR_CORRUPT, and says so. */
VD_MUST_CHECK int stor_journal_malformed(vd_error_t *err);
