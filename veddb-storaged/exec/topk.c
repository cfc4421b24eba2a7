/* veddb-storaged/exec/topk.c — see topk.h.
 *
 * With a bound, candidates gather to twice the bound before the worse half is thrown away: sorting
 * in bulk is cheaper than a heap of long keys, and once the k-th best is known most documents are
 * refused by one comparison, without being copied. */
#include "veddb-storaged/exec/topk.h"

#include "libcommon/base/mem.h"
#include "veddb-storaged/exec/runs.h"
#include "veddb-storaged/request.h"

#include <stdlib.h>

#define SLACK          1024
#define KEY_BYTES      9 /* of a key in a record: type, length, offset */
#define RECORD_BYTES   12
#define ENTRY_OVERHEAD 16 /* what the allocator adds */

typedef struct {
    uint64_t order; /* of arrival */
    uint64_t tag;
    size_t bytes;
    vd_bson_t document;
    size_t more;       /* bytes of keys behind the document */
    vd_value_t keys[]; /* borrow the copy of the document behind them, or bytes behind that */
} entry_t;

/* What a run's record is while it is merged. */
typedef struct {
    uint64_t tag;
    vd_bson_t document;
    vd_value_t keys[];
} head_t;

struct stor_topk {
    const stor_sort_t *sort;
    const char *what;
    stor_work_t *work;
    uint64_t k, arrivals, given, kept, total_bytes;
    size_t bytes, held;
    entry_t **entries;
    size_t count, capacity;
    const entry_t *worst; /* of the best k, once there were k; NULL before */
    stor_runs_t runs;
    bool spilled;
    stor_spilled_t written;
};

static int load(void *context, vd_slice_t record, void *ret_head, vd_error_t *err)
{
    const stor_topk_t *topk = context;
    head_t *head = ret_head;
    (void)err; /* sealed by us: it is what was written */
    const uint8_t *at = record.data + RECORD_BYTES;
    const uint8_t *document = at + (size_t)KEY_BYTES * topk->sort->count;
    head->tag = vd_get_u64(record.data);
    head->document = (vd_bson_t){document, vd_get_u32(record.data + 8)};
    for (uint32_t i = 0; i < topk->sort->count; i++, at += KEY_BYTES)
        head->keys[i] = (vd_value_t){document + vd_get_u32(at + 5), vd_get_u32(at + 1), at[0]};
    return VD_OK;
}

static int compare_heads(void *context, const void *a, const void *b)
{
    const stor_topk_t *topk = context;
    return stor_sort_compare(topk->sort, ((const head_t *)a)->keys, ((const head_t *)b)->keys);
}

stor_topk_t *stor_topk_create(const stor_sort_t *sort, uint64_t k, const char *what,
                              stor_work_t *work)
{
    stor_topk_t *topk = vd_xalloc(sizeof *topk);
    topk->sort = sort;
    topk->k = k;
    topk->what = what;
    topk->work = work;
    stor_runs_class_t class = {.head_bytes = sizeof(head_t) + sort->count * sizeof(vd_value_t),
                               .load = load,
                               .compare = compare_heads,
                               .context = topk};
    stor_runs_init(&topk->runs, work, &class);
    return topk;
}

static void drop_from(stor_topk_t *topk, size_t position)
{
    for (size_t i = position; i < topk->count; i++) {
        if (topk->entries[i] == NULL)
            continue; /* given already */
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
    stor_runs_done(&topk->runs);
    stor_work_release(topk->work, &topk->held);
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
    entry->bytes = bytes + ENTRY_OVERHEAD + sizeof(entry_t *);
    entry->document = (vd_bson_t){copy, document.len};
    entry->more = extra;
    for (uint32_t i = 0; i < count; i++) {
        entry->keys[i] = keys[i];
        if (keys[i].data >= document.data && keys[i].data < end) {
            entry->keys[i].data = copy + (keys[i].data - document.data);
        } else {
            if (keys[i].len > 0)
                memcpy(more, keys[i].data, keys[i].len);
            entry->keys[i].data = more;
            more += keys[i].len;
        }
    }
    return entry;
}

/* ---- to disk ---- */

static int write_entry(const stor_topk_t *topk, stor_run_t *run, const entry_t *entry,
                       vd_error_t *err)
{
    uint8_t head[RECORD_BYTES + KEY_BYTES * STOR_SORT_KEYS_MAX], *at = head + RECORD_BYTES;
    vd_put_u64(head, entry->tag);
    vd_put_u32(head + 8, entry->document.len);
    for (uint32_t i = 0; i < topk->sort->count; i++, at += KEY_BYTES) {
        at[0] = entry->keys[i].type;
        vd_put_u32(at + 1, entry->keys[i].len);
        vd_put_u32(at + 5, (uint32_t)(entry->keys[i].data - entry->document.data));
    }
    vd_slice_t parts[2] = {vd_slice(head, (size_t)(at - head)),
                           vd_slice(entry->document.data, entry->document.len + entry->more)};
    return stor_run_put(run, parts, 2, err);
}

static int write_run(stor_topk_t *topk, stor_request_t *request, vd_error_t *err)
{
    stor_run_t *run = NULL;
    if (topk->work->before_disk != NULL)
        topk->work->before_disk(topk->work->before_disk_context);
    sort_entries(topk);
    int rc = stor_run_create(topk->work, &run, err);
    for (size_t i = 0; rc == VD_OK && i < topk->count; i++) {
        rc = request == NULL ? VD_OK : stor_request_check(request, err);
        if (rc == VD_OK)
            rc = write_entry(topk, run, topk->entries[i], err);
    }
    if (rc == VD_OK)
        rc = stor_run_flush(run, NULL, err);
    if (rc != VD_OK) {
        stor_run_destroy(&run);
        return rc;
    }
    drop_from(topk, 0);
    topk->worst = NULL;
    topk->spilled = true;
    stor_work_release(topk->work, &topk->held);
    return stor_runs_add(&topk->runs, &run, request, err);
}

static int spill(stor_topk_t *topk, stor_request_t *request, vd_error_t *err)
{
    stor_spilled_t before = topk->work->spilled;
    int rc = write_run(topk, request, err);
    stor_spilled_add(&topk->written, topk->work, before);
    return rc;
}

static int check_budget(stor_topk_t *topk, stor_request_t *request, vd_error_t *err)
{
    /* Large documents: the slack goes before the budget is asked. */
    if (topk->k > 0 && topk->count / 2 >= topk->k && topk->bytes > topk->work->bytes_max / 2)
        sort_entries(topk);
    int rc = stor_work_charge(topk->work, &topk->held, topk->bytes, topk->what, err);
    return rc == VD_ERR_AGAIN ? spill(topk, request, err) : rc;
}

/* ---- in and out ---- */

int stor_topk_put(stor_topk_t *topk, stor_request_t *request, const vd_value_t *keys,
                  vd_bson_t document, uint64_t tag, vd_error_t *err)
{
    topk->arrivals++;
    topk->total_bytes += document.len;
    if (topk->worst != NULL && stor_sort_compare(topk->sort, keys, topk->worst->keys) >= 0)
        return VD_OK; /* later and not better */
    entry_t *entry = make_entry(topk, keys, document);
    if (entry == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory for the sort");
    entry->order = topk->arrivals;
    entry->tag = tag;
    if (topk->count == topk->capacity) {
        topk->capacity = topk->capacity == 0 ? 64 : topk->capacity * 2;
        topk->entries = vd_xrealloc(topk->entries, topk->capacity * sizeof *topk->entries);
    }
    topk->entries[topk->count++] = entry;
    topk->bytes += entry->bytes;
    if (topk->k > 0 && topk->count / 2 >= topk->k + SLACK)
        sort_entries(topk);
    return check_budget(topk, request, err);
}

int stor_topk_add(stor_topk_t *topk, stor_request_t *request, vd_arena_t *scratch,
                  vd_bson_t document, uint64_t tag, vd_error_t *err)
{
    vd_value_t keys[STOR_SORT_KEYS_MAX];
    int rc = stor_sort_key(topk->sort, scratch, document, keys, err);
    return rc == VD_OK ? stor_topk_put(topk, request, keys, document, tag, err) : rc;
}

int stor_topk_finish(stor_topk_t *topk, stor_request_t *request, vd_error_t *err)
{
    topk->kept = topk->k > 0 && topk->arrivals > topk->k ? topk->k : topk->arrivals;
    if (topk->spilled && topk->count > 0) {
        int rc = spill(topk, request, err);
        if (rc != VD_OK)
            return rc;
    }
    if (topk->spilled)
        return stor_runs_begin(&topk->runs, err);
    sort_entries(topk);
    return VD_OK;
}

/* The document before is no longer needed by anybody. */
static void drop_given(stor_topk_t *topk)
{
    if (topk->given == 0)
        return;
    entry_t *entry = topk->entries[topk->given - 1];
    topk->entries[topk->given - 1] = NULL;
    topk->bytes -= entry->bytes;
    vd_free(entry);
    /* falling is never refused */
    (void)!stor_work_charge(topk->work, &topk->held, topk->bytes, topk->what, NULL);
}

int stor_topk_next(stor_topk_t *topk, stor_request_t *request, vd_bson_t *ret_document,
                   uint64_t *ret_tag, const vd_value_t **ret_keys, vd_error_t *err)
{
    vd_slice_t record;
    const void *head;
    if (topk->given >= topk->kept)
        return VD_ERR_NOT_FOUND;
    if (topk->spilled) {
        int rc = stor_runs_next(&topk->runs, request, &record, &head, err);
        if (rc != VD_OK)
            return rc;
        topk->given++;
        *ret_document = ((const head_t *)head)->document;
        *ret_tag = ((const head_t *)head)->tag;
        if (ret_keys != NULL)
            *ret_keys = ((const head_t *)head)->keys;
        return VD_OK;
    }
    drop_given(topk);
    const entry_t *entry = topk->entries[topk->given++];
    *ret_document = entry->document;
    *ret_tag = entry->tag;
    if (ret_keys != NULL)
        *ret_keys = entry->keys;
    return VD_OK;
}

uint64_t stor_topk_bytes(const stor_topk_t *topk)
{
    return topk->total_bytes;
}

uint64_t stor_topk_count(const stor_topk_t *topk)
{
    return topk->kept;
}

stor_spilled_t stor_topk_spilled(const stor_topk_t *topk)
{
    return topk->written;
}
