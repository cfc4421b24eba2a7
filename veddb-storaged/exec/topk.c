/* veddb-storaged/exec/topk.c — see topk.h.
 *
 * With a bound, candidates gather to twice the bound before the worse half is thrown away: sorting
 * in bulk is cheaper than a heap of long keys, and once the k-th best is known most documents are
 * refused by one comparison, without being copied. */
#include "veddb-storaged/exec/topk.h"

#include "libcommon/base/mem.h"

#include <stdlib.h>

#define SLACK 1024

typedef struct {
    uint64_t order; /* of arrival */
    uint64_t tag;
    size_t bytes;
    vd_bson_t document;
    vd_value_t keys[]; /* borrow the copy of the document behind them, or bytes behind that */
} entry_t;

struct stor_topk {
    const stor_sort_t *sort;
    uint64_t k, arrivals;
    size_t bytes, bytes_max;
    entry_t **entries;
    size_t count, capacity;
    const entry_t *worst; /* of the best k, once there were k; NULL before */
};

stor_topk_t *stor_topk_create(const stor_sort_t *sort, uint64_t k, size_t bytes_max)
{
    stor_topk_t *topk = vd_xalloc(sizeof *topk);
    topk->sort = sort;
    topk->k = k;
    topk->bytes_max = bytes_max;
    return topk;
}

static void drop_from(stor_topk_t *topk, size_t position)
{
    for (size_t i = position; i < topk->count; i++) {
        topk->bytes -= topk->entries[i]->bytes;
        vd_free(topk->entries[i]);
    }
    if (position < topk->count)
        topk->count = position;
}

void stor_topk_destroy(stor_topk_t **topk_p)
{
    stor_topk_t *topk = *topk_p;
    if (topk == NULL)
        return;
    drop_from(topk, 0);
    vd_free(topk->entries);
    vd_free(topk);
    *topk_p = NULL;
}

static int compare_entries(const void *a, const void *b, void *context)
{
    const entry_t *x = *(entry_t *const *)a, *y = *(entry_t *const *)b;
    int c = stor_sort_compare(context, x->keys, y->keys);
    return c != 0 ? c : (x->order > y->order) - (x->order < y->order);
}

static void sort_entries(stor_topk_t *topk)
{
    if (topk->count > 1)
        qsort_r(topk->entries, topk->count, sizeof *topk->entries, compare_entries,
                (void *)topk->sort);
    if (topk->k > 0 && topk->count > topk->k)
        drop_from(topk, topk->k);
    topk->worst = topk->k > 0 && topk->count == topk->k ? topk->entries[topk->count - 1] : NULL;
}

/* Keys that point into the document move with its copy; others (of computed values) are copied
 * behind it. */
static entry_t *make_entry(const stor_topk_t *topk, const vd_value_t *keys, vd_bson_t document)
{
    uint32_t count = topk->sort->count;
    size_t extra = 0;
    const uint8_t *end = document.data + document.len;
    for (uint32_t i = 0; i < count; i++)
        if (keys[i].data < document.data || keys[i].data >= end)
            extra += keys[i].len;
    size_t head = sizeof(entry_t) + count * sizeof(vd_value_t), bytes = head + document.len + extra;
    entry_t *entry = vd_try_alloc(bytes);
    if (entry == NULL)
        return NULL;
    uint8_t *copy = (uint8_t *)entry + head, *more = copy + document.len;
    memcpy(copy, document.data, document.len);
    entry->bytes = bytes;
    entry->document = (vd_bson_t){copy, document.len};
    for (uint32_t i = 0; i < count; i++) {
        entry->keys[i] = keys[i];
        if (keys[i].data >= document.data && keys[i].data < end) {
            entry->keys[i].data = copy + (keys[i].data - document.data);
        } else if (keys[i].len > 0) {
            memcpy(more, keys[i].data, keys[i].len);
            entry->keys[i].data = more;
            more += keys[i].len;
        }
    }
    return entry;
}

int stor_topk_add(stor_topk_t *topk, vd_arena_t *scratch, vd_bson_t document, uint64_t tag,
                  vd_error_t *err)
{
    vd_value_t keys[STOR_SORT_KEYS_MAX];
    int rc = stor_sort_key(topk->sort, scratch, document, keys, err);
    if (rc != VD_OK)
        return rc;
    topk->arrivals++;
    if (topk->worst != NULL && stor_sort_compare(topk->sort, keys, topk->worst->keys) >= 0)
        return VD_OK; /* later and not better */
    entry_t *entry = make_entry(topk, keys, document);
    if (entry == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory for the sort");
    entry->order = topk->arrivals;
    entry->tag = tag;
    if (topk->bytes + entry->bytes > topk->bytes_max) {
        vd_free(entry);
        return vd_error_set(
            err, VD_ERR_QUERY_EXCEEDED_MEMORY_LIMIT_NO_DISK_USE,
            "Sort exceeded memory limit of %zu bytes, but did not opt in to external sorting.",
            topk->bytes_max);
    }
    if (topk->count == topk->capacity) {
        topk->capacity = topk->capacity == 0 ? 64 : topk->capacity * 2;
        topk->entries = vd_xrealloc(topk->entries, topk->capacity * sizeof *topk->entries);
    }
    topk->entries[topk->count++] = entry;
    topk->bytes += entry->bytes;
    if (topk->k > 0 && topk->count / 2 >= topk->k + SLACK)
        sort_entries(topk);
    return VD_OK;
}

void stor_topk_finish(stor_topk_t *topk)
{
    sort_entries(topk);
}

bool stor_topk_at(const stor_topk_t *topk, uint64_t position, vd_bson_t *ret_document,
                  uint64_t *ret_tag)
{
    if (position >= topk->count)
        return false;
    *ret_document = topk->entries[position]->document;
    *ret_tag = topk->entries[position]->tag;
    return true;
}

size_t stor_topk_bytes(const stor_topk_t *topk)
{
    return topk->bytes;
}
