/* veddb-storaged/write.h — one write transaction: documents, journal entry, results of a retryable
 * write, counters; all or nothing.
 *
 * Duty:    begin -> insert/replace/remove ... -> commit. Draws the timestamp at the first change
 *          (after begin), asserts that it is greater than each version replaced, appends the
 *          journal entry at commit, adds to the collection's counters after it, and notes what
 *          the reply depends on. A write without a collection (NULL) has only results. In a
 *          transaction (request->transaction): a write is one statement of it. begin, commit and
 *          rollback begin and end nothing; what is changed stands under a placeholder version,
 *          and a rollback dooms the transaction (transactions.h). Conflicts are not tried again.
 *          Capped collections (capped.h): a write holds the collection's lock from begin to its
 *          end, inserts one document at most, and removes the oldest ones behind it; none is part
 *          of a transaction of many statements.
 * Retry:   any call may give VD_ERR_WRITE_CONFLICT: roll back, stor_write_backoff, start over
 *          (the whole statement, with a new begin).
 * Owner:   embedded in the command's frame; lives in the request's arena. One at a time per
 *          worker. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/query/update.h"
#include "veddb-storaged/sessions.h"

typedef struct {
    stor_request_t *request;
    stor_collection_t *collection;
    stor_cursor_t *table;
    vd_buf_t entry; /* the journal entry under way */
    vd_buf_t value; /* the table's value under way */
    uint32_t part;
    uint64_t timestamp; /* 0 until the first change */
    uint32_t changes;
    bool result; /* the entry holds a result, perhaps nothing else */
    int64_t documents_delta, bytes_delta;
    uint64_t hash_delta;
    uint32_t attempts;
    bool locked;           /* holds the capped collection's lock */
    uint64_t capped_first; /* what its `first` is once this is committed; 0 = as it was */
} stor_write_t;

void stor_write_init(stor_write_t *write, stor_request_t *request, stor_collection_t *collection);
void stor_write_done(stor_write_t *write);
VD_MUST_CHECK int stor_write_begin(stor_write_t *write, vd_error_t *err);
/* The document was prepared (_id first). VD_ERR_DUPLICATE_KEY with MongoDB's message and
 * keyPattern/keyValue in err->details. */
VD_MUST_CHECK int stor_write_insert(stor_write_t *write, vd_slice_t key, vd_bson_t document,
                                    int32_t statement, vd_error_t *err);
/* The client gave the whole document. */
VD_MUST_CHECK int stor_write_replace(stor_write_t *write, const stor_record_t *old,
                                     vd_bson_t document, int32_t statement, vd_error_t *err);
/* An update made it of the old one; scope: how finely it is told. */
VD_MUST_CHECK int stor_write_update(stor_write_t *write, const stor_record_t *old,
                                    vd_bson_t document, stor_update_scope_t scope,
                                    int32_t statement, vd_error_t *err);
VD_MUST_CHECK int stor_write_remove(stor_write_t *write, const stor_record_t *old,
                                    int32_t statement, vd_error_t *err);
/* The version that what it changes gets: drawn now, if it was not yet. Inside a transaction of many
 * statements it is not known before its commit: 0. */
uint64_t stor_write_version(stor_write_t *write);
/* The record in this transaction's snapshot; borrows the engine's memory until the next call on the
 * write. */
VD_MUST_CHECK int stor_write_read(stor_write_t *write, vd_slice_t key, stor_record_t *ret_record,
                                  vd_error_t *err);
/* The result of a retryable write, in the same transaction; where others replicate from here it
 * also stands in the journal entry, so that they can answer when it is asked for again. */
VD_MUST_CHECK int stor_write_result(stor_write_t *write, const stor_statement_result_t *result,
                                    vd_error_t *err);
/* Commits; with no change it just ends the transaction. The transaction is over in every case. */
VD_MUST_CHECK int stor_write_commit(stor_write_t *write, vd_error_t *err);
void stor_write_rollback(stor_write_t *write);
/* After VD_ERR_WRITE_CONFLICT and a rollback: a short wait with jitter. VD_OK: try again; an error:
 * the deadline is over or the operation was killed. */
VD_MUST_CHECK int stor_write_backoff(stor_write_t *write, vd_error_t *err);
/* The collection's validator. old: NULL for inserts. VD_ERR_DOCUMENT_VALIDATION_FAILURE with
 * errInfo in err->details; VD_OK when it passes, only warns, or is bypassed. */
VD_MUST_CHECK int stor_write_validate(stor_write_t *write, vd_bson_t document, const vd_bson_t *old,
                                      bool bypass, vd_error_t *err);
