/* veddb-storaged/exec/source.c — see source.h.
 *
 * Scans that run beside each other (a merge) share one transaction, which the merge begins and
 * ends: a scan of its own would end it under the others. Their heads are copied, so that the end of
 * a stretch does not take them away. */
#include "veddb-storaged/exec/source.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/limits.h"
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/timeseries.h"

#define SEEK_AFTER  2  /* entries outside the bounds, one behind another, before a jump */
#define CLOCK_EVERY 64 /* records of a merge between looks at the clock */

typedef struct {
    bool filled, ended;
    stor_found_t found;
    vd_arena_t *arena; /* of the copy */
    vd_value_t keys[STOR_SORT_KEYS_MAX];
} head_t;

struct stor_source {
    const stor_plan_node_t *node;
    stor_source_options_t options;
    uint32_t position;
    stor_source_counts_t counts;
    stor_seen_t *seen; /* NULL: nothing can come twice */
    bool go_on;
    bool unordered;
    /* one scan */
    stor_scan_t *scan;
    stor_index_scan_t *entries;
    stor_index_t *index; /* held by the request, until release */
    bool descending[STOR_INDEX_FIELDS_MAX + 1];
    vd_buf_t seek;
    uint32_t misses;
    bool taken, ended;
    vd_buf_t nulls[2]; /* codes of null and undefined where distinct values are asked of */
    /* several */
    uint32_t child_count, child;
    stor_source_t **children;
    head_t *heads;
    stor_request_t *owns; /* the merge's own transaction is this request's */
    uint32_t since_clock;
    uint64_t stretch_ends_us;
};

/* ---- open, close ---- */

static int open_index(vd_arena_t *arena, stor_source_t *source, vd_error_t *err)
{
    const stor_source_options_t *options = &source->options;
    const stor_plan_node_t *node = source->node;
    uint32_t codes = options->plan->distinct_codes;
    stor_index_scan_options_t scan = {.collection_id = options->collection_id,
                                      .index_id = node->index->id,
                                      .bounds = &node->bounds->ranges,
                                      .backward = node->backward};
    if (node->index->multikey != 0 || options->once || node->index->def->has_wildcard)
        source->seen = stor_seen_create();
    stor_index_descending(node->index->def, source->descending);
    vd_buf_init(&source->seek, (STOR_INDEX_FIELDS_MAX + 2) * (size_t)VD_KEYCODE_MAX_BYTES);
    for (int i = 0; i < 2 && codes > 0; i++) {
        bool exact;
        vd_value_t value = {NULL, 0, i == 0 ? VD_BSON_NULL : VD_BSON_UNDEFINED};
        vd_buf_init(&source->nulls[i], VD_KEYCODE_MAX_BYTES);
        int rc = stor_keycode_append(&source->nulls[i], value, source->descending[codes - 1],
                                     &exact, err);
        if (rc != VD_OK)
            return rc;
    }
    return stor_index_scan_open(arena, &scan, &source->entries, err);
}

static int open_node(vd_arena_t *arena, const stor_source_options_t *options,
                     const stor_plan_node_t *node, uint32_t *position, stor_source_t **ret_source,
                     vd_error_t *err)
{
    stor_source_t *source = VD_ARENA_NEW(arena, stor_source_t);
    int rc = VD_OK;
    source->node = node;
    source->options = *options;
    source->position = (*position)++;
    *ret_source = source;
    if (node->kind == STOR_PLAN_EOF)
        return VD_OK;
    if (node->child_count > 0) {
        source->children = VD_ARENA_ARRAY(arena, stor_source_t *, node->child_count);
        if (node->kind == STOR_PLAN_SORT_MERGE) {
            source->heads = VD_ARENA_ARRAY(arena, head_t, node->child_count);
            for (uint32_t i = 0; i < node->child_count; i++)
                source->heads[i].arena = vd_arena_create();
        }
        source->seen = stor_seen_create();
        stor_source_options_t below = *options;
        below.once = false;
        for (uint32_t i = 0; i < node->child_count && rc == VD_OK; i++) {
            rc = open_node(arena, &below, node->children[i], position, &source->children[i], err);
            source->child_count += rc == VD_OK;
        }
        return rc;
    }
    if (node->kind == STOR_PLAN_IXSCAN)
        return open_index(arena, source, err);
    stor_scan_options_t scan = {.collection_id = options->collection_id,
                                .bounds = node->id_bounds,
                                .backward = node->backward,
                                .natural = node->kind == STOR_PLAN_COLLSCAN,
                                .tolerant = options->writes};
    return stor_scan_open(arena, &scan, &source->scan, err);
}

int stor_source_open(vd_arena_t *arena, const stor_source_options_t *options,
                     stor_source_t **ret_source, vd_error_t *err)
{
    uint32_t position = 0;
    stor_source_t *source = NULL;
    int rc = open_node(arena, options, options->plan->access, &position, &source, err);
    if (rc == VD_OK)
        *ret_source = source;
    else
        stor_source_close(&source);
    return rc;
}

void stor_source_release(stor_source_t *source)
{
    if (source == NULL)
        return;
    for (uint32_t i = 0; i < source->child_count; i++)
        stor_source_release(source->children[i]);
    if (source->scan != NULL)
        stor_scan_release(source->scan);
    if (source->entries != NULL)
        stor_index_scan_release(source->entries);
    source->index = NULL;
    if (source->owns != NULL && stor_txn_active(source->owns->session)) {
        stor_request_depends(source->owns, stor_txn_snapshot_newest(source->owns->session));
        stor_txn_rollback(source->owns->session); /* it only read */
    }
    source->owns = NULL;
}

void stor_source_close(stor_source_t **source_p)
{
    stor_source_t *source = *source_p;
    if (source == NULL)
        return;
    for (uint32_t i = 0; i < source->child_count; i++)
        stor_source_close(&source->children[i]);
    for (uint32_t i = 0; source->heads != NULL && i < source->node->child_count; i++)
        vd_arena_destroy(&source->heads[i].arena);
    if (source->scan != NULL)
        stor_scan_close(&source->scan);
    if (source->entries != NULL)
        stor_index_scan_close(&source->entries);
    stor_source_release(source);
    stor_seen_destroy(&source->seen);
    vd_buf_done(&source->seek);
    vd_buf_done(&source->nulls[0]);
    vd_buf_done(&source->nulls[1]);
    *source_p = NULL;
}

void stor_source_go_on(stor_source_t *source)
{
    source->go_on = true;
    if (source->node->kind == STOR_PLAN_IXSCAN && source->seen == NULL)
        source->seen = stor_seen_create();
    for (uint32_t i = 0; i < source->child_count; i++)
        stor_source_go_on(source->children[i]);
}

const stor_source_counts_t *stor_source_counts(const stor_source_t *source, uint32_t position)
{
    if (source == NULL)
        return NULL;
    if (source->position == position)
        return &source->counts;
    for (uint32_t i = 0; i < source->child_count; i++) {
        const stor_source_counts_t *counts = stor_source_counts(source->children[i], position);
        if (counts != NULL)
            return counts;
    }
    return NULL;
}

/* ---- the collection ---- */

/* A measurement without its place. */
static int show(const stor_source_t *source, vd_arena_t *scratch, stor_found_t *found,
                vd_error_t *err)
{
    return source->options.plan->places
               ? stor_timeseries_shown(scratch, found->document, &found->document, err)
               : VD_OK;
}

static int next_record(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                       stor_found_t *ret_found, vd_error_t *err)
{
    stor_record_t record;
    int rc = stor_scan_next(source->scan, request, &record, err);
    if (rc != VD_OK)
        return rc;
    source->counts.documents++;
    if (source->node->id_bounds != NULL) {
        source->counts.keys++;
        request->keys_examined++;
    }
    *ret_found =
        (stor_found_t){.key = record.key, .document = record.document, .version = record.version};
    return show(source, scratch, ret_found, err);
}

/* ---- an index ---- */

static stor_index_t *find_index(const stor_source_t *source, const stor_request_t *request)
{
    for (uint32_t i = 0; i < request->held_count; i++) {
        const stor_collection_t *collection = request->held[i];
        if (collection->id != source->options.collection_id || collection->indexes == NULL)
            continue;
        for (uint32_t k = 0; k < collection->indexes->count; k++)
            if (collection->indexes->items[k]->id == source->node->index->id)
                return collection->indexes->items[k];
    }
    return NULL;
}

static int killed(const stor_source_t *source, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_QUERY_PLAN_KILLED, "query plan killed :: index '%.*s' dropped",
                        VD_SLICE_FMT(source->node->index->def->name));
}

/* The next entry inside the bounds; jumps over gaps. */
static int next_inside(stor_source_t *source, stor_request_t *request, stor_index_entry_t *entry,
                       vd_error_t *err)
{
    const stor_index_bounds_t *bounds = source->node->bounds;
    bool backward = source->node->backward;
    for (;;) {
        if (source->options.keys_max > 0 && source->counts.keys >= source->options.keys_max)
            return VD_ERR_FULL;
        int rc = stor_index_scan_next(source->entries, request, entry, err);
        if (rc != VD_OK)
            return rc;
        source->counts.keys++;
        source->counts.works++;
        if (!bounds->checked)
            return VD_OK;
        switch (stor_index_bounds_check(bounds, entry->fields, source->descending, backward,
                                        &source->seek)) {
        case STOR_CHECK_INSIDE:
            source->misses = 0;
            return VD_OK;
        case STOR_CHECK_CORRUPT:
            return vd_error_set(err, VD_ERR_CORRUPT, "an entry of an index is malformed");
        case STOR_CHECK_SEEK:
            break;
        }
        if (vd_buf_len(&source->seek) == 0)
            return VD_ERR_NOT_FOUND;
        if (++source->misses >= SEEK_AFTER) {
            source->misses = 0;
            source->counts.seeks++;
            rc = stor_index_scan_seek(source->entries, vd_buf_slice(&source->seek), err);
            if (rc != VD_OK)
                return rc;
        }
    }
}

/* Behind all entries that begin as the last one found does. Not behind null: one document has it,
 * another has no such field. */
static int jump(stor_source_t *source, vd_error_t *err)
{
    vd_slice_t rest = vd_buf_slice(&source->seek), fields = rest, code = rest;
    source->taken = false;
    for (uint32_t i = 0; i < source->options.plan->distinct_codes; i++) {
        code = rest;
        int rc = stor_keycode_skip(&rest, source->descending[i], NULL, err);
        if (rc != VD_OK)
            return rc;
    }
    code.len -= rest.len;
    if (vd_slice_equal(code, vd_buf_slice(&source->nulls[0])) ||
        vd_slice_equal(code, vd_buf_slice(&source->nulls[1])))
        return VD_OK;
    vd_buf_truncate(&source->seek, fields.len - rest.len);
    /* Backward, what is in front of the prefix itself; forward, what no longer begins with it. */
    if (!source->node->backward && !stor_keycode_successor(&source->seek))
        return VD_ERR_NOT_FOUND;
    source->counts.seeks++;
    return stor_index_scan_seek(source->entries, vd_buf_slice(&source->seek), err);
}

/* Whether the entry alone refuses the document. */
static int refused_by_key(stor_source_t *source, vd_arena_t *scratch,
                          const stor_index_entry_t *entry, bool *ret_refused, vd_error_t *err)
{
    const stor_plan_node_t *node = source->node;
    vd_bson_t document;
    bool told = false, matches = true;
    *ret_refused = false;
    if (node->key_filter == NULL || source->go_on || !entry->exact)
        return VD_OK;
    int rc = stor_cover_document(node->key_cover, scratch, entry->fields, entry->type_bits,
                                 entry->id_key, &document, &told, err);
    if (rc != VD_OK || !told)
        return rc;
    stor_match_t match = {.arena = scratch, .variables = source->options.variables};
    rc = stor_match_document(node->key_filter, document, &match, &matches, err);
    *ret_refused = !matches;
    return rc;
}

/* The document of the entry, as far as the plan wants one. */
static int fill_found(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                      const stor_index_entry_t *entry, stor_found_t *found, vd_error_t *err)
{
    const stor_plan_t *plan = source->options.plan;
    bool told = false;
    *found = (stor_found_t){.key = entry->id_key,
                            .fields = entry->fields,
                            .type_bits = entry->type_bits,
                            .exact = entry->exact,
                            .unordered = source->unordered};
    if (plan->keys_only && !source->go_on)
        return VD_OK;
    if (plan->cover != NULL && entry->exact && !source->go_on) {
        int rc = stor_cover_document(plan->cover, scratch, entry->fields, entry->type_bits,
                                     entry->id_key, &found->document, &told, err);
        found->covered = told;
        if (rc != VD_OK || told)
            return rc;
    }
    stor_record_t record;
    int rc = stor_index_scan_fetch(source->entries, request, &record, err);
    if (rc != VD_OK)
        return rc;
    source->counts.documents++;
    found->key = record.key;
    found->document = record.document;
    found->version = record.version;
    return show(source, scratch, found, err);
}

static int next_entry(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                      stor_found_t *ret_found, vd_error_t *err)
{
    vd_arena_mark_t mark = vd_arena_mark(scratch);
    if (source->index == NULL) {
        source->index = find_index(source, request);
        if (source->index == NULL)
            return killed(source, err);
    }
    for (;;) {
        stor_index_entry_t entry;
        bool is_new = true, refused = false;
        vd_arena_rewind(scratch, mark);
        int rc = source->taken ? jump(source, err) : VD_OK;
        if (rc == VD_OK)
            rc = next_inside(source, request, &entry, err);
        if (rc != VD_OK)
            return rc;
        /* Looked at behind the entry: who made it so had told before. */
        if (!source->go_on &&
            (atomic_load(&source->index->multikey) & ~(uint64_t)source->node->index->multikey)) {
            stor_index_scan_push_back(source->entries);
            return vd_error_set(err, VD_ERR_QUERY_PLAN_KILLED,
                                "query plan killed :: index '%.*s' became multikey",
                                VD_SLICE_FMT(source->node->index->def->name));
        }
        source->unordered |= !entry.exact;
        if (source->seen != NULL)
            rc = stor_seen_add(source->seen, entry.id_key, &is_new, err);
        source->counts.duplicates += !is_new;
        if (rc == VD_OK && is_new)
            rc = refused_by_key(source, scratch, &entry, &refused, err);
        if (rc == VD_OK && is_new && !refused) {
            rc = fill_found(source, request, scratch, &entry, ret_found, err);
            if (rc == VD_OK && source->options.plan->distinct_codes > 0) {
                vd_buf_clear(&source->seek);
                rc = vd_buf_append_slice(&source->seek, entry.fields);
            }
            return rc;
        }
        if (rc != VD_OK)
            return rc;
    }
}

/* ---- unions ---- */

static int next_of(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                   stor_found_t *ret_found, vd_error_t *err);

static int next_union(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                      stor_found_t *ret_found, vd_error_t *err)
{
    while (source->child < source->child_count) {
        bool is_new;
        int rc = next_of(source->children[source->child], request, scratch, ret_found, err);
        if (rc == VD_ERR_NOT_FOUND) {
            stor_source_release(source->children[source->child]);
            source->child++;
            continue;
        }
        if (rc == VD_OK)
            rc = stor_seen_add(source->seen, ret_found->key, &is_new, err);
        if (rc != VD_OK || is_new)
            return rc;
        source->counts.duplicates++;
    }
    return VD_ERR_NOT_FOUND;
}

/* ---- merges ---- */

static int merge_begin(stor_source_t *source, stor_request_t *request, vd_error_t *err)
{
    if (source->owns != NULL && ++source->since_clock >= CLOCK_EVERY) {
        source->since_clock = 0;
        if (vd_monotonic_us() >= source->stretch_ends_us) {
            request->yields++;
            stor_source_release(source);
        }
    }
    if (stor_txn_active(request->session))
        return VD_OK;
    int rc = stor_txn_begin(request->session, err);
    if (rc == VD_OK) {
        source->owns = request;
        source->stretch_ends_us = vd_monotonic_us() + STOR_SCAN_STRETCH_MS * 1000;
    }
    return rc;
}

static int fill_head(stor_source_t *source, uint32_t i, stor_request_t *request,
                     vd_arena_t *scratch, vd_error_t *err)
{
    head_t *head = &source->heads[i];
    stor_found_t *found = &head->found;
    bool is_new = false;
    while (!head->ended && !is_new) {
        int rc = next_of(source->children[i], request, scratch, found, err);
        if (rc == VD_ERR_NOT_FOUND) {
            head->ended = true;
            stor_source_release(source->children[i]);
            return VD_OK;
        }
        if (rc == VD_OK)
            rc = stor_seen_add(source->seen, found->key, &is_new, err);
        if (rc != VD_OK)
            return rc;
        source->counts.duplicates += !is_new;
    }
    if (head->ended)
        return VD_OK;
    vd_arena_reset(head->arena);
    found->key = vd_arena_copy_slice(head->arena, found->key);
    found->fields = vd_arena_copy_slice(head->arena, found->fields);
    found->type_bits = vd_arena_copy_slice(head->arena, found->type_bits);
    found->document.data = vd_arena_copy(head->arena, found->document.data, found->document.len);
    source->unordered |= found->unordered;
    head->filled = true;
    return stor_sort_key(source->options.sort, head->arena, found->document, head->keys, err);
}

static int next_merged(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                       stor_found_t *ret_found, vd_error_t *err)
{
    head_t *best = NULL;
    int rc = merge_begin(source, request, err);
    for (uint32_t i = 0; i < source->child_count && rc == VD_OK; i++) {
        head_t *head = &source->heads[i];
        if (!head->filled && !head->ended)
            rc = fill_head(source, i, request, scratch, err);
        if (rc == VD_OK && head->filled &&
            (best == NULL || stor_sort_compare(source->options.sort, head->keys, best->keys) < 0))
            best = head;
    }
    if (rc != VD_OK)
        return rc;
    if (best == NULL)
        return VD_ERR_NOT_FOUND;
    best->filled = false; /* its copy stands until the next call */
    *ret_found = best->found;
    ret_found->unordered = source->unordered;
    return VD_OK;
}

/* ---- the tree ---- */

static int next_of(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                   stor_found_t *ret_found, vd_error_t *err)
{
    int rc = VD_ERR_NOT_FOUND;
    if (source->ended)
        return rc;
    switch (source->node->kind) {
    case STOR_PLAN_EOF:
        break;
    case STOR_PLAN_COLLSCAN:
    case STOR_PLAN_IDHACK:
    case STOR_PLAN_ID_RANGE:
        rc = next_record(source, request, scratch, ret_found, err);
        break;
    case STOR_PLAN_IXSCAN:
        rc = next_entry(source, request, scratch, ret_found, err);
        break;
    case STOR_PLAN_OR:
        rc = next_union(source, request, scratch, ret_found, err);
        break;
    case STOR_PLAN_SORT_MERGE:
        rc = next_merged(source, request, scratch, ret_found, err);
        break;
    }
    source->counts.out += rc == VD_OK;
    source->ended |= rc == VD_ERR_NOT_FOUND;
    return rc;
}

int stor_source_next(stor_source_t *source, stor_request_t *request, vd_arena_t *scratch,
                     stor_found_t *ret_found, vd_error_t *err)
{
    return next_of(source, request, scratch, ret_found, err);
}

void stor_source_taken(stor_source_t *source)
{
    if (source->options.plan->distinct_codes > 0 && source->node->kind == STOR_PLAN_IXSCAN)
        source->taken = true;
}
