/* veddb-storaged/pipeline/stage_group.c — $group, $count, $sortByCount. */
#include "libcommon/base/limits.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/exec/runs.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/accumulate.h"
#include "veddb-storaged/request.h"

#include <stdlib.h>

#define FIRST_BUCKETS  256
#define PLAIN_MAX      8 /* fields that are looked up in one walk over the document */
#define PART_MAX_BYTES ((size_t)1 << 30) /* of one group's state on disk */

typedef struct group_entry {
    struct group_entry *next_in_bucket, *next; /* next: order of arrival */
    uint64_t hash;
    vd_value_t id;
    stor_accumulator_state_t *states[];
} group_entry_t;

typedef struct {
    stor_stage_t stage;
    const stor_variables_t *variables;
    stor_work_t *work;
    stor_expr_t *id;
    uint32_t field_count;
    vd_slice_t *fields;
    stor_accumulator_t **accumulators;
    vd_arena_t *groups, *scratch; /* groups: everything kept; while merging: the group in work */
    group_entry_t **buckets, *first, **tail, *output;
    stor_expr_env_t env;
    /* Plain fields of the top level, each looked up once: PLAIN_NONE where it is more than that. */
    uint32_t plain_count;
    vd_slice_t plain[PLAIN_MAX];
    uint8_t id_plain, *field_plain;
    size_t bucket_count, group_count, held;
    bool done;
    /* when it did not fit: sorted runs of groups in parts */
    bool spilled, have_part;
    stor_runs_t runs;
    vd_buf_t part; /* a record under construction */
    struct part {
        uint64_t hash;
        vd_value_t id;
        vd_slice_t states;
    } waiting; /* the first part of the next group */
} group_t;

#define PLAIN_NONE UINT8_MAX

/* The place of a plain field among those that are looked up. */
static uint8_t plain_field(group_t *group, bool is_path, vd_slice_t path)
{
    if (!is_path || memchr(path.data, '.', path.len) != NULL)
        return PLAIN_NONE;
    for (uint32_t i = 0; i < group->plain_count; i++)
        if (vd_slice_equal(group->plain[i], path))
            return (uint8_t)i;
    if (group->plain_count == PLAIN_MAX)
        return PLAIN_NONE;
    group->plain[group->plain_count] = path;
    return (uint8_t)group->plain_count++;
}

static void plain_fields(group_t *group)
{
    vd_slice_t path = VD_SLICE_NULL;
    bool is_path = stor_expr_field_path(group->id, &path);
    group->id_plain = plain_field(group, is_path, path);
    for (uint32_t i = 0; i < group->field_count; i++) {
        is_path = stor_accumulator_field_path(group->accumulators[i], &path);
        group->field_plain[i] = plain_field(group, is_path, path);
    }
}

static int group_field(const stor_pipeline_context_t *context, group_t *group, vd_slice_t name,
                       vd_value_t spec, vd_error_t *err)
{
    if (memchr(name.data, '.', name.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40235), "The field name '%.*s' cannot contain '.'",
                            VD_SLICE_FMT(name));
    if (name.len > 0 && name.data[0] == '$')
        return vd_error_set(err, VD_ERR_LOCATION(40236),
                            "The field name '%.*s' cannot be an operator name", VD_SLICE_FMT(name));
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(40234),
                            "The field '%.*s' must be an accumulator object", VD_SLICE_FMT(name));
    if (vd_bson_count(vd_value_document(spec)) != 1)
        return vd_error_set(err, VD_ERR_LOCATION(40238),
                            "The field '%.*s' must specify one accumulator", VD_SLICE_FMT(name));
    group->fields[group->field_count] = name;
    int rc = stor_accumulator_parse(context->arena, name, spec, context->variables,
                                    &group->accumulators[group->field_count], err);
    if (rc == VD_OK)
        group->field_count++;
    return rc;
}

static group_t *group_new(const stor_pipeline_context_t *context, uint32_t fields_max)
{
    group_t *group = VD_ARENA_NEW(context->arena, group_t);
    group->variables = context->variables;
    group->work = context->work;
    group->stage.may_spill = true;
    group->fields = VD_ARENA_ARRAY(context->arena, vd_slice_t, fields_max + 1);
    group->accumulators = VD_ARENA_ARRAY(context->arena, stor_accumulator_t *, fields_max + 1);
    group->field_plain = VD_ARENA_ARRAY(context->arena, uint8_t, fields_max + 1);
    return group;
}

static int group_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(15947),
                            "a group's fields must be specified in an object");
    group_t *group = group_new(context, vd_bson_count(vd_value_document(spec)));
    vd_bson_iter_t iter;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (!vd_slice_is(iter.name, "_id"))
            rc = group_field(context, group, iter.name, iter.value, err);
        else if (group->id != NULL)
            rc = vd_error_set(err, VD_ERR_LOCATION(15948),
                              "a group's _id may only be specified once");
        else
            rc = stor_expr_parse(context->arena, iter.value, context->variables, &group->id, err);
    }
    if (rc == VD_OK && group->id == NULL)
        rc = vd_error_set(err, VD_ERR_LOCATION(15955), "a group specification must include an _id");
    *ret_stage = &group->stage;
    return rc;
}

static void group_grow(group_t *group)
{
    size_t count = group->bucket_count == 0 ? FIRST_BUCKETS : group->bucket_count * 4;
    group_entry_t **buckets = VD_ARENA_ARRAY(group->groups, group_entry_t *, count);
    for (group_entry_t *entry = group->first; entry != NULL; entry = entry->next) {
        entry->next_in_bucket = buckets[entry->hash & (count - 1)];
        buckets[entry->hash & (count - 1)] = entry;
    }
    group->buckets = buckets;
    group->bucket_count = count;
}

static inline bool same_id(vd_value_t a, vd_value_t b)
{
    if (a.type == VD_BSON_INT32 && b.type == VD_BSON_INT32)
        return vd_get_u32(a.data) == vd_get_u32(b.data);
    return vd_value_identical(a, b) || vd_value_equal(a, b);
}

static group_entry_t *group_of(group_t *group, vd_value_t id)
{
    uint64_t hash = vd_value_hash(id);
    for (group_entry_t *entry = group->buckets[hash & (group->bucket_count - 1)]; entry != NULL;
         entry = entry->next_in_bucket)
        if (entry->hash == hash && same_id(entry->id, id))
            return entry;
    if (group->group_count++ >= group->bucket_count)
        group_grow(group);
    group_entry_t *entry = vd_arena_zalloc(
        group->groups, sizeof *entry + group->field_count * sizeof entry->states[0]);
    entry->hash = hash;
    entry->id = vd_value_copy(group->groups, id);
    for (uint32_t i = 0; i < group->field_count; i++)
        entry->states[i] = stor_accumulator_begin(group->accumulators[i], group->groups);
    entry->next_in_bucket = group->buckets[hash & (group->bucket_count - 1)];
    group->buckets[hash & (group->bucket_count - 1)] = entry;
    *group->tail = entry;
    group->tail = &entry->next;
    return entry;
}

/* ---- groups that do not fit: sorted runs of parts ----
 *
 * A run holds every group that was in memory, ordered by hash and id, each with the states of its
 * accumulators. The same group may have a part in every run; the merge brings them together, the
 * oldest first, so that what depends on the order of documents stays right. */

static int compare_ids(uint64_t hash_a, vd_value_t a, uint64_t hash_b, vd_value_t b)
{
    return hash_a != hash_b ? (hash_a < hash_b ? -1 : 1) : vd_value_compare(a, b);
}

static int compare_entries(const void *a, const void *b)
{
    const group_entry_t *x = *(group_entry_t *const *)a, *y = *(group_entry_t *const *)b;
    return compare_ids(x->hash, x->id, y->hash, y->id);
}

static int load_part(void *context, vd_slice_t record, void *ret_head, vd_error_t *err)
{
    struct part *part = ret_head;
    (void)context, (void)err; /* sealed by us: it is what was written */
    uint32_t len = vd_get_u32(record.data + 9);
    part->hash = vd_get_u64(record.data);
    part->id = (vd_value_t){record.data + 13, len, record.data[8]};
    part->states = vd_slice(record.data + 13 + len, record.len - 13 - len);
    return VD_OK;
}

static int compare_parts(void *context, const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    (void)context;
    return compare_ids(x->hash, x->id, y->hash, y->id);
}

static int write_part(group_t *group, stor_run_t *run, const group_entry_t *entry, vd_error_t *err)
{
    uint8_t head[13];
    vd_put_u64(head, entry->hash);
    head[8] = entry->id.type;
    vd_put_u32(head + 9, entry->id.len);
    vd_buf_clear(&group->part);
    int rc = VD_OK;
    for (uint32_t i = 0; rc == VD_OK && i < group->field_count; i++)
        rc = stor_accumulator_save(entry->states[i], &group->part);
    if (rc != VD_OK)
        return vd_error_set(err, VD_ERR_EXCEEDED_MEMORY_LIMIT,
                            "$group: one group is too large to be written to disk");
    vd_slice_t parts[3] = {vd_slice(head, sizeof head), vd_slice(entry->id.data, entry->id.len),
                           vd_buf_slice(&group->part)};
    return stor_run_put(run, parts, 3, err);
}

static void group_start(group_t *group)
{
    vd_arena_reset(group->groups);
    group->first = group->output = NULL;
    group->tail = &group->first;
    group->group_count = group->bucket_count = 0;
}

static int write_run(group_t *group, stor_request_t *request, vd_error_t *err)
{
    stor_run_t *run = NULL;
    if (group->work->before_disk != NULL)
        group->work->before_disk(group->work->before_disk_context);
    if (!group->spilled) {
        static const stor_runs_class_t class = {
            .head_bytes = sizeof(struct part), .load = load_part, .compare = compare_parts};
        stor_runs_init(&group->runs, group->work, &class);
        vd_buf_init(&group->part, PART_MAX_BYTES);
        group->spilled = true;
    }
    group_entry_t **order = vd_try_alloc((group->group_count + 1) * sizeof *order);
    if (order == NULL)
        return vd_error_set(err, VD_ERR_NO_MEMORY, "no memory to sort groups");
    size_t count = 0;
    for (group_entry_t *entry = group->first; entry != NULL; entry = entry->next)
        order[count++] = entry;
    if (count > 1)
        qsort(order, count, sizeof *order, compare_entries);
    int rc = stor_run_create(group->work, &run, err);
    for (size_t i = 0; rc == VD_OK && i < count; i++) {
        rc = stor_request_check(request, err);
        if (rc == VD_OK)
            rc = write_part(group, run, order[i], err);
    }
    vd_free(order);
    if (rc == VD_OK)
        rc = stor_run_flush(run, NULL, err);
    if (rc != VD_OK) {
        stor_run_destroy(&run);
        return rc;
    }
    group_start(group);
    stor_work_release(group->work, &group->held);
    return stor_runs_add(&group->runs, &run, request, err);
}

static int group_spill(group_t *group, stor_request_t *request, vd_error_t *err)
{
    stor_spilled_t before = group->work->spilled;
    int rc = write_run(group, request, err);
    stor_spilled_add(&group->stage.spills, group->work, before);
    return rc;
}

/* ---- taking in ---- */

/* Most names are short and differ at an end. */
static inline bool same_name(vd_slice_t a, vd_slice_t b)
{
    return a.len == b.len &&
           (a.len == 0 || (a.data[0] == b.data[0] && a.data[a.len - 1] == b.data[a.len - 1] &&
                           (a.len < 3 || memcmp(a.data, b.data, a.len) == 0)));
}

/* One walk over the document for all plain fields. */
static void look_up(const group_t *group, vd_bson_t document, vd_value_t values[PLAIN_MAX])
{
    uint32_t left = group->plain_count;
    vd_bson_iter_t iter;
    for (uint32_t i = 0; i < group->plain_count; i++)
        values[i] = VD_VALUE_MISSING;
    vd_bson_iter_init(&iter, document);
    while (left > 0 && vd_bson_iter_next(&iter))
        for (uint32_t i = 0; i < group->plain_count; i++)
            if (same_name(iter.name, group->plain[i]) && vd_value_is_missing(values[i])) {
                values[i] = iter.value;
                left--;
                break;
            }
}

static int group_add(group_t *group, stor_request_t *request, vd_bson_t document, vd_error_t *err)
{
    stor_expr_env_t *env = &group->env;
    vd_value_t id, values[PLAIN_MAX];
    int rc = VD_OK;
    vd_arena_reset(group->scratch);
    stor_expr_env_document(env, document);
    look_up(group, document, values);
    if (group->id_plain != PLAIN_NONE)
        id = values[group->id_plain];
    else
        rc = stor_expr_eval(group->id, env, &id, err);
    if (rc != VD_OK)
        return rc;
    if (vd_value_is_missing(id)) /* a missing _id groups with null */
        id = vd_value_from_null();
    group_entry_t *entry = group_of(group, id);
    for (uint32_t i = 0; rc == VD_OK && i < group->field_count; i++) {
        uint8_t plain = group->field_plain[i];
        rc = plain == PLAIN_NONE
                 ? stor_accumulator_add(entry->states[i], env, err)
                 : stor_accumulator_add_value(entry->states[i], group->scratch, values[plain], err);
    }
    if (rc == VD_OK)
        rc = stor_work_charge(group->work, &group->held, vd_arena_used(group->groups), "$group",
                              err);
    return rc == VD_ERR_AGAIN ? group_spill(group, request, err) : rc;
}

static int group_collect(group_t *group, stor_request_t *request, vd_error_t *err)
{
    vd_bson_t document;
    int rc;
    if (group->groups == NULL) {
        group->groups = vd_arena_create();
        group->scratch = vd_arena_create();
        stor_expr_env_init(&group->env, group->scratch, group->variables);
        plain_fields(group);
    }
    group_start(group);
    group_grow(group);
    while ((rc = stor_stage_pull(&group->stage, request, &document, err)) == VD_OK) {
        if (group->bucket_count == 0) /* all went to disk */
            group_grow(group);
        if ((rc = group_add(group, request, document, err)) != VD_OK)
            break;
    }
    if (rc == VD_ERR_NOT_FOUND)
        rc = VD_OK;
    if (rc == VD_OK && group->spilled && group->first != NULL)
        rc = group_spill(group, request, err);
    if (rc == VD_OK && group->spilled)
        rc = stor_runs_begin(&group->runs, err);
    if (rc != VD_OK)
        return rc;
    group->output = group->first;
    group->done = true;
    return VD_OK;
}

/* ---- giving out ---- */

static int next_part(group_t *group, stor_request_t *request, vd_error_t *err)
{
    vd_slice_t record;
    const void *head;
    int rc = stor_runs_next(&group->runs, request, &record, &head, err);
    group->have_part = rc == VD_OK;
    if (rc == VD_OK)
        group->waiting = *(const struct part *)head;
    return rc;
}

/* All parts of the next group, as one entry in the arena. */
static int merge_group(group_t *group, stor_request_t *request, vd_error_t *err)
{
    int rc = group->have_part ? VD_OK : next_part(group, request, err);
    if (rc != VD_OK)
        return rc;
    group_start(group);
    group_entry_t *entry = vd_arena_zalloc(
        group->groups, sizeof *entry + group->field_count * sizeof entry->states[0]);
    entry->hash = group->waiting.hash;
    entry->id = vd_value_copy(group->groups, group->waiting.id);
    for (uint32_t i = 0; i < group->field_count; i++)
        entry->states[i] = stor_accumulator_begin(group->accumulators[i], group->groups);
    while (rc == VD_OK &&
           compare_ids(entry->hash, entry->id, group->waiting.hash, group->waiting.id) == 0) {
        vd_slice_t states = group->waiting.states;
        vd_arena_reset(group->scratch);
        for (uint32_t i = 0; rc == VD_OK && i < group->field_count; i++)
            rc = stor_accumulator_merge(entry->states[i], &states, group->scratch, err);
        if (rc == VD_OK)
            rc = stor_work_pin(group->work, &group->held, vd_arena_used(group->groups), "$group",
                               err);
        if (rc == VD_OK)
            rc = next_part(group, request, err);
    }
    group->output = entry;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

static int group_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    group_t *group = (group_t *)stage;
    int rc = group->done ? VD_OK : group_collect(group, request, err);
    if (rc == VD_OK && group->spilled)
        rc = merge_group(group, request, err);
    if (rc != VD_OK)
        return rc;
    group_entry_t *entry = group->output;
    if (entry == NULL) {
        stor_work_release(group->work, &group->held);
        return VD_ERR_NOT_FOUND;
    }
    group->output = entry->next;
    vd_bb_t bb;
    vd_arena_reset(group->scratch);
    vd_bb_init_arena(&bb, group->scratch, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_value(&bb, VD_SLICE_LIT("_id"), entry->id);
    for (uint32_t i = 0; rc == VD_OK && i < group->field_count; i++) {
        vd_value_t value;
        rc = stor_accumulator_finish(entry->states[i], group->scratch, &value, err);
        if (rc == VD_OK)
            vd_bb_value(&bb, group->fields[i],
                        vd_value_is_missing(value) ? vd_value_from_null() : value);
    }
    return rc == VD_OK ? vd_bb_finish(&bb, ret_document, err) : rc;
}

static void group_close(stor_stage_t *stage)
{
    group_t *group = (group_t *)stage;
    if (group->spilled) {
        stor_runs_done(&group->runs);
        vd_buf_done(&group->part);
    }
    stor_work_release(group->work, &group->held);
    vd_arena_destroy(&group->groups);
    vd_arena_destroy(&group->scratch);
}

const stor_stage_class_t stor_stage_group = {
    .name = "$group", .parse = group_parse, .next = group_next, .close = group_close};

/* ---- $count ---- */

typedef struct {
    stor_stage_t stage;
    vd_slice_t field;
    vd_arena_t *arena;
    bool done;
} count_t;

static int count_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                       stor_stage_t **ret_stage, vd_error_t *err)
{
    count_t *count = VD_ARENA_NEW(context->arena, count_t);
    if (spec.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(40156),
                            "the count field must be a non-empty string");
    count->field = vd_value_string(spec);
    count->arena = context->arena;
    if (count->field.len == 0)
        return vd_error_set(err, VD_ERR_LOCATION(40157),
                            "the count field must be a non-empty string");
    if (count->field.data[0] == '$')
        return vd_error_set(err, VD_ERR_LOCATION(40158),
                            "the count field cannot be a $-prefixed path");
    if (memchr(count->field.data, '\0', count->field.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40159),
                            "the count field cannot contain a null byte");
    if (memchr(count->field.data, '.', count->field.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40160), "the count field cannot contain '.'");
    *ret_stage = &count->stage;
    return VD_OK;
}

static int count_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                      vd_error_t *err)
{
    count_t *count = (count_t *)stage;
    int64_t n = 0;
    int rc;
    if (count->done)
        return VD_ERR_NOT_FOUND;
    while ((rc = stor_stage_pull(stage, request, ret_document, err)) == VD_OK)
        n++;
    if (rc != VD_ERR_NOT_FOUND || n == 0)
        return rc;
    count->done = true;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, count->arena, 1024 + count->field.len);
    vd_bb_value(&bb, count->field,
                n <= INT32_MAX ? vd_value_from_int32(count->arena, (int32_t)n)
                               : vd_value_from_int64(count->arena, n));
    return vd_bb_finish(&bb, ret_document, err);
}

const stor_stage_class_t stor_stage_count = {
    .name = "$count", .parse = count_parse, .next = count_next};

/* ---- $sortByCount: $group {_id: expr, count: {$sum: 1}} and $sort {count: -1} in one ---- */

typedef struct {
    stor_stage_t stage;
    group_t *group;
    stor_stage_t *sort;
} sort_by_count_t;

static int sort_by_count_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                               stor_stage_t **ret_stage, vd_error_t *err)
{
    sort_by_count_t *by = VD_ARENA_NEW(context->arena, sort_by_count_t);
    bool expression = spec.type == VD_BSON_OBJECT;
    vd_slice_t name;
    vd_value_t value;
    if (expression && (!vd_bson_first(vd_value_document(spec), &name, &value) || name.len == 0 ||
                       name.data[0] != '$'))
        return vd_error_set(err, VD_ERR_LOCATION(40147),
                            "the sortByCount field must be defined as a $-prefixed path or an "
                            "expression inside an object");
    if (!expression && (spec.type != VD_BSON_STRING || vd_value_string(spec).len == 0 ||
                        vd_value_string(spec).data[0] != '$'))
        return vd_error_set(
            err, spec.type == VD_BSON_STRING ? VD_ERR_LOCATION(40148) : VD_ERR_LOCATION(40149),
            "the sortByCount field must be defined as a $-prefixed path or an expression inside an "
            "object");
    vd_bb_t bb;
    vd_bson_t accumulator, order;
    vd_bb_init_arena(&bb, context->arena, 256);
    vd_bb_int32(&bb, "$sum", 1);
    int rc = vd_bb_finish(&bb, &accumulator, err);
    vd_bb_init_arena(&bb, context->arena, 256);
    vd_bb_int32(&bb, "count", -1);
    if (rc == VD_OK)
        rc = vd_bb_finish(&bb, &order, err);
    by->group = group_new(context, 1);
    by->group->stage.class = &stor_stage_group;
    if (rc == VD_OK)
        rc = stor_expr_parse(context->arena, spec, context->variables, &by->group->id, err);
    if (rc == VD_OK)
        rc = group_field(context, by->group, VD_SLICE_LIT("count"),
                         vd_value_from_document(accumulator), err);
    if (rc == VD_OK)
        rc = stor_stage_sort.parse(context, vd_value_from_document(order), &by->sort, err);
    if (rc == VD_OK) {
        by->sort->class = &stor_stage_sort;
        by->sort->source = &by->group->stage;
    }
    by->stage.may_spill = true;
    *ret_stage = &by->stage;
    return rc;
}

static int sort_by_count_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                              vd_error_t *err)
{
    sort_by_count_t *by = (sort_by_count_t *)stage;
    by->group->stage.source = stage->source;
    int rc = stor_stage_sort.next(by->sort, request, ret_document, err);
    stage->spills = by->group->stage.spills;
    stage->spills.spills += by->sort->spills.spills;
    stage->spills.bytes += by->sort->spills.bytes;
    stage->spills.records += by->sort->spills.records;
    return rc;
}

static void sort_by_count_close(stor_stage_t *stage)
{
    sort_by_count_t *by = (sort_by_count_t *)stage;
    stor_stage_sort.close(by->sort);
    group_close(&by->group->stage);
}

const stor_stage_class_t stor_stage_sort_by_count = {.name = "$sortByCount",
                                                     .parse = sort_by_count_parse,
                                                     .next = sort_by_count_next,
                                                     .close = sort_by_count_close};
