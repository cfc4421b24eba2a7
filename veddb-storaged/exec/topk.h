/* veddb-storaged/exec/topk.h — a sort in memory: all documents, or the first k of them.
 *
 * Duty:    keeps copies of documents with their sort keys; gives them back in order. With a bound k
 *          it never holds more than 2k + 1024. Equal keys keep the order in which they came.
 * Owner:   create/destroy.
 * Threads: one.
 * Limits:  bytes_max (VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE, MongoDB's 292). */
#pragma once
#include "veddb-storaged/query/sort.h"

typedef struct stor_topk stor_topk_t;

/* k 0 = all. sort must outlive it. */
stor_topk_t *stor_topk_create(const stor_sort_t *sort, uint64_t k, size_t bytes_max);
void stor_topk_destroy(stor_topk_t **topk_p);
/* scratch: for the key of this document. tag travels with the document. */
VD_MUST_CHECK int stor_topk_add(stor_topk_t *topk, vd_arena_t *scratch, vd_bson_t document,
                                uint64_t tag, vd_error_t *err);
/* After the last add. */
void stor_topk_finish(stor_topk_t *topk);
/* False at the end. Valid until destroy. */
bool stor_topk_at(const stor_topk_t *topk, uint64_t position, vd_bson_t *ret_document,
                  uint64_t *ret_tag);
size_t stor_topk_bytes(const stor_topk_t *topk);
