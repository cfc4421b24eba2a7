/* veddb-storaged/pending.h — what an open transaction has changed.
 *
 * Duty:    keeps each change in order, as it will stand in the journal but for its version and
 *          hash, and knows the documents that carry the placeholder. At commit every document
 *          that is left gets the timestamp in the table, every change its previous version and
 *          hash, and all go into the journal under one timestamp, in parts. A document that was
 *          changed several times is told of as often: replicas and change streams see each
 *          change, as if they had been made one by one.
 * Placeholder: version 0 (envelope.h). Only the transaction's own snapshot ever shows it.
 * Owner:   the transaction (transactions.c).
 * Threads: one at a time.
 * Limits:  bytes_max at create: VD_ERR_TRANSACTION_TOO_LARGE. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/envelope.h"

typedef struct stor_pending stor_pending_t;

stor_pending_t *stor_pending_create(uint64_t bytes_max);
void stor_pending_destroy(stor_pending_t **pending_p);
/* The change of the record of that key; what `old_document` shows stood there before (empty: none),
 * under old_version (0: this transaction's own). Takes a reference to nothing: the collection is
 * held by the transaction. */
VD_MUST_CHECK int stor_pending_add(stor_pending_t *pending, stor_collection_t *collection,
                                   vd_slice_t key, const stor_change_t *change,
                                   vd_slice_t old_document, uint64_t old_version, vd_error_t *err);
/* Stamps the documents and appends the journal's entry, in the request's open engine transaction,
 * whose timestamp was drawn. first: changes that come before (at most STOR_OWN_BYTES_MAX); result:
 * one more at the end, NULL = none. pending may be NULL where there are some of these. */
VD_MUST_CHECK int stor_pending_stamp(stor_pending_t *pending, stor_request_t *request,
                                     uint64_t timestamp, const stor_change_t *first,
                                     uint32_t first_count, const stor_change_t *result,
                                     vd_error_t *err);
/* After the commit: counters of the collections. NULL is fine. */
void stor_pending_committed(stor_pending_t *pending);
uint64_t stor_pending_count(const stor_pending_t *pending);
uint64_t stor_pending_bytes(const stor_pending_t *pending);
/* It has changed documents of the collection. */
bool stor_pending_touches(const stor_pending_t *pending, const stor_collection_t *collection);
