/* veddb-storaged/exec/topk.h — a sort: all documents, or the first k of them; in memory as long as
 * they fit, then over sorted runs on disk.
 *
 * Duty:    keeps copies of documents with their sort keys; gives them back in order. With a bound k
 *          it never holds more than 2k + 1024. Equal keys keep the order in which they came.
 * Owner:   create/destroy. work and sort outlive it.
 * Threads: one.
 * Limits:  the query's budget (work.h): what is over it is written to disk, or refused with 292. */
#pragma once
#include "veddb-storaged/exec/work.h"
#include "veddb-storaged/query/sort.h"

typedef struct stor_topk stor_topk_t;
struct stor_request;

/* k 0 = all. what: who sorts, for messages ("Sort", "$bucketAuto"). */
stor_topk_t *stor_topk_create(const stor_sort_t *sort, uint64_t k, const char *what,
                              stor_work_t *work);
void stor_topk_destroy(stor_topk_t **topk_p);
/* scratch: for the key of this document. tag travels with the document. request may be NULL in
 * unit tests. */
VD_MUST_CHECK int stor_topk_add(stor_topk_t *topk, struct stor_request *request,
                                vd_arena_t *scratch, vd_bson_t document, uint64_t tag,
                                vd_error_t *err);
/* The same with keys that the caller has computed: sort->count of them. */
VD_MUST_CHECK int stor_topk_put(stor_topk_t *topk, struct stor_request *request,
                                const vd_value_t *keys, vd_bson_t document, uint64_t tag,
                                vd_error_t *err);
/* After the last add. */
VD_MUST_CHECK int stor_topk_finish(stor_topk_t *topk, struct stor_request *request,
                                   vd_error_t *err);
/* VD_ERR_NOT_FOUND at the end. Valid until the next call. ret_keys NULL: nobody wants them. */
VD_MUST_CHECK int stor_topk_next(stor_topk_t *topk, struct stor_request *request,
                                 vd_bson_t *ret_document, uint64_t *ret_tag,
                                 const vd_value_t **ret_keys, vd_error_t *err);
/* Bytes of all documents that came. */
uint64_t stor_topk_bytes(const stor_topk_t *topk);
/* Documents kept, after finish. */
uint64_t stor_topk_count(const stor_topk_t *topk);
/* What this sort has written to disk. */
stor_spilled_t stor_topk_spilled(const stor_topk_t *topk);
