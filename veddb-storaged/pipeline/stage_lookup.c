/* veddb-storaged/pipeline/stage_lookup.c — $lookup: documents of another collection, joined by
 * equal fields, by a pipeline of their own, or both.
 *
 * Equality alone: the documents that come are taken in small groups, whose values are looked for
 * by one query; groups grow from one, so that a $limit behind costs little. A pipeline that does
 * not look at the document is run once and its result kept while memory allows. Everything else
 * runs once for each document. An $unwind of the result that stands behind is done here: then no
 * array is ever made. */
#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/pipeline/sources.h"
#include "veddb-storaged/pipeline/stages.h"
#include "veddb-storaged/query/expr.h"
#include "veddb-storaged/query/match.h"

#define GROUP_DOCUMENTS_MAX 128
#define GROUP_INPUT_BYTES   (1024 * 1024)
#define GROUP_FOUND_BYTES   (16 * 1024 * 1024)
#define RESULT_BYTES_MAX    VD_QUERY_MEMORY_MAX_BYTES /* of one document's matches: 4568 */

typedef struct found {
    struct found *next;
    vd_bson_t document;
} found_t;

/* A document that came, and what belongs to it. */
typedef struct {
    vd_bson_t document;
    vd_value_t *values;
    uint32_t value_count;
    bool has_null;
    uint64_t last; /* number of the last found document that was put here */
    found_t *first, **tail;
} local_t;

/* Who looks for a value. */
typedef struct seeker {
    struct seeker *next;
    uint64_t hash;
    vd_value_t value;
    uint32_t local;
} seeker_t;

typedef enum { FROM_LIST, FROM_PIPELINE } supply_t;

typedef struct {
    stor_stage_t stage;
    stor_pipeline_context_t context;
    stor_sub_t sub;
    vd_slice_t from;
    stor_path_t as, local, foreign;
    bool equality, grouped;
    vd_bson_t stages; /* the user's; NONE: there are none */
    uint32_t let_count;
    vd_slice_t *let_names;
    stor_expr_t **let_exprs;
    stor_variables_t *variables; /* those around, and `let` behind them */
    /* $unwind done here */
    bool unwinds, keep_empty;
    vd_slice_t index_field;
    /* under way */
    vd_arena_t *group, *run, *out; /* the group's documents; the open pipeline; the result */
    vd_arena_t *scratch;
    local_t *locals;
    uint32_t local_count, local_at, group_size;
    bool inside;      /* a document is being unwound */
    bool grouped_now; /* what belongs to the group is found */
    bool source_done;
    supply_t supply;
    const found_t *next_found;
    stor_pipeline_t *pipeline;
    int64_t index;
    /* the result that is the same for every document */
    bool constant, kept;
    vd_arena_t *kept_arena;
    found_t *kept_first;
    size_t kept_bytes;
} lookup_t;

/* ---- parse ---- */

static int bad_type(const char *what, vd_value_t value, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                        "$lookup argument '%s' must be a string, found type %s", what,
                        vd_bson_type_name(value.type));
}

typedef struct {
    vd_value_t from, as, local, foreign, pipeline, let;
} lookup_args_t;

static int lookup_args(vd_bson_t spec, lookup_args_t *args, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        const struct {
            const char *name;
            vd_value_t *value;
        } strings[] = {
            {"as", &args->as}, {"localField", &args->local}, {"foreignField", &args->foreign}};
        vd_value_t *any = vd_slice_is(iter.name, "from")       ? &args->from
                          : vd_slice_is(iter.name, "pipeline") ? &args->pipeline
                          : vd_slice_is(iter.name, "let")      ? &args->let
                                                               : NULL;
        bool known = any != NULL;
        if (known) {
            int rc = stor_stage_once(!vd_value_is_missing(*any), "$lookup", iter.name, err);
            if (rc != VD_OK)
                return rc;
            *any = iter.value;
        }
        for (size_t i = 0; !known && i < VD_COUNT_OF(strings); i++) {
            if (!vd_slice_is(iter.name, strings[i].name))
                continue;
            if (iter.value.type != VD_BSON_STRING)
                return bad_type(strings[i].name, iter.value, err);
            *strings[i].value = iter.value;
            known = true;
        }
        if (!known)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "unknown argument to $lookup: %.*s",
                                VD_SLICE_FMT(iter.name));
    }
    return VD_OK;
}

static bool has_text(vd_value_t v)
{
    return v.type == VD_BSON_STRING && vd_value_string(v).len > 0;
}

static bool starts_with_documents(vd_bson_t stages)
{
    vd_slice_t name;
    vd_value_t first, spec;
    return stages.data != NULL && vd_bson_first(stages, &name, &first) &&
           first.type == VD_BSON_OBJECT && vd_bson_first(vd_value_document(first), &name, &spec) &&
           vd_slice_is(name, "$documents");
}

static int from_check(const stor_pipeline_context_t *context, const lookup_args_t *args,
                      vd_slice_t *ret_from, vd_error_t *err)
{
    *ret_from = VD_SLICE_NULL;
    if (vd_value_is_missing(args->from)) {
        if (args->pipeline.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "must specify 'pipeline' when 'from' is empty");
        if (!starts_with_documents(vd_value_document(args->pipeline)))
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                                "$lookup stage without explicit collection must have a pipeline "
                                "with $documents as first stage");
        return VD_OK;
    }
    if (args->from.type == VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$lookup with syntax {from: {db:<>, coll:<>},..} is not supported");
    if (args->from.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$lookup 'from' field must be a string, but found %s",
                            vd_bson_type_name(args->from.type));
    vd_slice_t from = vd_value_string(args->from);
    if (from.len == 0 || from.data[0] == '.' || from.data[0] == '$' ||
        memchr(from.data, '\0', from.len) != NULL)
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "invalid $lookup namespace: %.*s.%.*s",
                            VD_SLICE_FMT(context->db), VD_SLICE_FMT(from));
    *ret_from = from;
    return VD_OK;
}

static int fields_check(const lookup_args_t *args, vd_error_t *err)
{
    bool pipeline = !vd_value_is_missing(args->pipeline);
    bool local = has_text(args->local), foreign = has_text(args->foreign);
    if (pipeline && args->pipeline.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "'pipeline' option must be specified as an array");
    if (!vd_value_is_missing(args->let) && args->let.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$lookup argument 'let' must be an object, is type %s",
                            vd_bson_type_name(args->let.type));
    if (!has_text(args->as))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "must specify 'as' field for a $lookup");
    if (pipeline && local != foreign)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$lookup requires both or neither of 'localField' and 'foreignField' "
                            "to be specified");
    if (!pipeline && (!local || !foreign))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$lookup requires either 'pipeline' or both 'localField' and "
                            "'foreignField' to be specified");
    if (!pipeline && !vd_value_is_missing(args->let))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "$lookup with a 'let' argument must also specify 'pipeline'");
    return VD_OK;
}

/* A later name hides an earlier one: it takes its place. */
static int let_parse(lookup_t *lookup, vd_bson_t let, vd_error_t *err)
{
    const stor_pipeline_context_t *context = &lookup->context;
    uint32_t count = let.data == NULL ? 0 : vd_bson_count(let);
    vd_bson_iter_t iter;
    lookup->variables =
        vd_arena_copy(context->arena, context->variables, sizeof *context->variables);
    if (count == 0)
        return VD_OK;
    lookup->let_names = VD_ARENA_ARRAY(context->arena, vd_slice_t, count);
    lookup->let_exprs = VD_ARENA_ARRAY(context->arena, stor_expr_t *, count);
    vd_bson_iter_init(&iter, let);
    while (vd_bson_iter_next(&iter)) {
        stor_expr_t **expr = &lookup->let_exprs[lookup->let_count];
        int rc = stor_variables_bind(lookup->variables, iter.name, VD_VALUE_MISSING, err);
        if (rc == VD_OK)
            rc = stor_expr_parse(context->arena, iter.value, context->variables, expr, err);
        if (rc != VD_OK)
            return rc;
        lookup->let_names[lookup->let_count++] = iter.name;
    }
    return VD_OK;
}

/* "$$name" or "$$name.x" stands somewhere in it. */
static bool names_variable(vd_value_t value, vd_slice_t name)
{
    if (value.type == VD_BSON_STRING) {
        vd_slice_t text = vd_value_string(value);
        return text.len >= name.len + 2 && text.data[0] == '$' && text.data[1] == '$' &&
               memcmp(text.data + 2, name.data, name.len) == 0 &&
               (text.len == name.len + 2 || text.data[name.len + 2] == '.');
    }
    if (value.type != VD_BSON_OBJECT && value.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter))
        if (names_variable(iter.value, name))
            return true;
    return false;
}

bool stor_stage_is_random(vd_value_t value)
{
    vd_bson_iter_t iter;
    if (value.type != VD_BSON_OBJECT && value.type != VD_BSON_ARRAY)
        return false;
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter))
        if (vd_slice_is(iter.name, "$rand") || vd_slice_is(iter.name, "$sample") ||
            vd_slice_is(iter.name, "$sampleRate") || stor_stage_is_random(iter.value))
            return true;
    return false;
}

static bool is_constant(const lookup_t *lookup)
{
    if (lookup->equality || lookup->stages.data == NULL)
        return false;
    vd_value_t stages = vd_value_from_array(lookup->stages);
    for (uint32_t i = 0; i < lookup->let_count; i++)
        if (names_variable(stages, lookup->let_names[i]))
            return false;
    return !stor_stage_is_random(stages);
}

/* Numbers in a path are positions as well as names: only the matcher knows. */
static bool is_plain(const stor_path_t *path)
{
    for (uint32_t i = 0; i < path->count; i++)
        if (path->positions[i] >= 0)
            return false;
    return true;
}

static int lookup_parse(const stor_pipeline_context_t *context, vd_value_t spec,
                        stor_stage_t **ret_stage, vd_error_t *err)
{
    lookup_t *lookup = VD_ARENA_NEW(context->arena, lookup_t);
    lookup_args_t args = {VD_VALUE_MISSING, VD_VALUE_MISSING, VD_VALUE_MISSING,
                          VD_VALUE_MISSING, VD_VALUE_MISSING, VD_VALUE_MISSING};
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "the $lookup stage specification must be an object, but found %s",
                            vd_bson_type_name(spec.type));
    lookup->context = *context;
    int rc = lookup_args(vd_value_document(spec), &args, err);
    if (rc == VD_OK)
        rc = from_check(context, &args, &lookup->from, err);
    if (rc == VD_OK)
        rc = fields_check(&args, err);
    if (rc == VD_OK)
        rc = stor_stage_field_path(context->arena, vd_value_string(args.as), &lookup->as, err);
    lookup->equality = rc == VD_OK && has_text(args.local);
    if (lookup->equality) {
        rc =
            stor_stage_field_path(context->arena, vd_value_string(args.local), &lookup->local, err);
        if (rc == VD_OK)
            rc = stor_stage_field_path(context->arena, vd_value_string(args.foreign),
                                       &lookup->foreign, err);
    }
    if (rc == VD_OK)
        rc = let_parse(lookup,
                       args.let.type == VD_BSON_OBJECT ? vd_value_document(args.let) : VD_BSON_NONE,
                       err);
    if (rc != VD_OK)
        return rc;
    lookup->sub = stor_sub(context, STOR_INSIDE_LOOKUP, lookup->from);
    if (args.pipeline.type == VD_BSON_ARRAY)
        lookup->stages = vd_value_document(args.pipeline);
    lookup->grouped = lookup->equality && lookup->stages.data == NULL && is_plain(&lookup->foreign);
    lookup->group_size = 1;
    lookup->constant = is_constant(lookup);
    *ret_stage = &lookup->stage;
    return lookup->stages.data == NULL
               ? VD_OK
               : stor_sub_check(&lookup->sub, lookup->variables, lookup->stages, err);
}

bool stor_stage_lookup_fold(stor_stage_t *stage, const stor_unwind_facts_t *unwind)
{
    lookup_t *lookup = (lookup_t *)stage;
    if (lookup->unwinds || !vd_slice_equal(unwind->path, lookup->as.text))
        return false;
    lookup->unwinds = true;
    lookup->keep_empty = unwind->keep_empty;
    lookup->index_field = unwind->index_field;
    return true;
}

vd_slice_t stor_stage_lookup_as(const stor_stage_t *stage)
{
    return ((const lookup_t *)stage)->as.text;
}

/* ---- the documents that come ---- */

typedef struct {
    local_t *local;
    vd_arena_t *arena;
    uint32_t cap;
} collect_t;

static bool collect_value(vd_value_t value, void *context)
{
    collect_t *collect = context;
    local_t *local = collect->local;
    if (local->value_count == collect->cap) {
        uint32_t cap = collect->cap == 0 ? 4 : 2 * collect->cap;
        vd_value_t *values = VD_ARENA_ARRAY(collect->arena, vd_value_t, cap);
        if (local->value_count > 0)
            memcpy(values, local->values, local->value_count * sizeof *values);
        local->values = values;
        collect->cap = cap;
    }
    if (value.type == VD_BSON_UNDEFINED || value.type == VD_BSON_NULL) {
        local->has_null = true;
        value = vd_value_from_null();
    }
    local->values[local->value_count++] = value;
    return false;
}

/* A document without the field, or with an empty array there, is joined as with null. */
static void local_values(lookup_t *lookup, local_t *local)
{
    collect_t collect = {local, lookup->group, 0};
    (void)stor_stage_values(&lookup->local, local->document, collect_value, &collect);
    if (local->value_count == 0)
        (void)collect_value(vd_value_from_null(), &collect);
}

/* Copies of the next documents. */
static int take_group(lookup_t *lookup, stor_request_t *request, vd_error_t *err)
{
    uint32_t most = lookup->grouped ? lookup->group_size : 1;
    size_t bytes = 0;
    int rc = VD_OK;
    vd_arena_reset(lookup->group);
    lookup->locals = VD_ARENA_ARRAY(lookup->group, local_t, most);
    lookup->local_count = lookup->local_at = 0;
    while (lookup->local_count < most && bytes < GROUP_INPUT_BYTES) {
        vd_bson_t document;
        rc = stor_stage_pull(&lookup->stage, request, &document, err);
        if (rc != VD_OK)
            break;
        local_t *local = &lookup->locals[lookup->local_count++];
        local->document =
            (vd_bson_t){vd_arena_copy(lookup->group, document.data, document.len), document.len};
        local->tail = &local->first;
        bytes += document.len;
        if (lookup->equality)
            local_values(lookup, local);
    }
    if (rc == VD_ERR_NOT_FOUND) {
        lookup->source_done = true;
        rc = VD_OK;
    }
    if (lookup->grouped && lookup->group_size < GROUP_DOCUMENTS_MAX)
        lookup->group_size *= 2;
    return rc == VD_OK && lookup->local_count == 0 ? VD_ERR_NOT_FOUND : rc;
}

/* ---- what belongs to them ---- */

static void run_end(lookup_t *lookup)
{
    stor_pipeline_close(&lookup->pipeline);
    if (lookup->run != NULL)
        vd_arena_reset(lookup->run);
}

static int match_stage(vd_arena_t *arena, vd_bson_t filter, vd_bson_t *ret_stages, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, 2 * VD_BSON_INTERNAL_MAX_BYTES + 1024);
    vd_bb_begin_document(&bb, "0");
    vd_bb_document(&bb, "$match", filter);
    vd_bb_close(&bb);
    return vd_bb_finish(&bb, ret_stages, err);
}

/* Opens the pipeline that finds what belongs to these values; the user's stages stand behind. */
static int run_open(lookup_t *lookup, stor_request_t *request, const vd_value_t *values,
                    uint32_t count, vd_error_t *err)
{
    vd_bson_t stages = lookup->stages, filter, rest = VD_BSON_NONE;
    int rc = VD_OK;
    run_end(lookup);
    stor_stage_rest(&lookup->stage);
    if (lookup->equality) {
        rc = stor_stage_equality(lookup->run, lookup->foreign.text, values, count, &filter, err);
        if (rc == VD_OK)
            rc = match_stage(lookup->run, filter, &stages, err);
        if (starts_with_documents(lookup->stages)) { /* the match comes behind it */
            vd_bson_iter_t iter;
            vd_bb_t first, others;
            char buf[12];
            vd_bb_init_arena(&first, lookup->run, VD_BSON_INTERNAL_MAX_BYTES);
            vd_bb_init_arena(&others, lookup->run, VD_BSON_INTERNAL_MAX_BYTES);
            vd_bson_iter_init(&iter, lookup->stages);
            for (uint32_t i = 0; vd_bson_iter_next(&iter); i++)
                vd_bb_value(i == 0 ? &first : &others, vd_array_name(i == 0 ? 0 : i - 1, buf),
                            iter.value);
            vd_bson_t documents;
            if (rc == VD_OK)
                rc = vd_bb_finish(&first, &documents, err);
            if (rc == VD_OK)
                rc = vd_bb_finish(&others, &rest, err);
            if (rc == VD_OK)
                rc = stor_pipeline_join(lookup->run, documents, stages, &stages, err);
        } else {
            rest = lookup->stages;
        }
        if (rc == VD_OK && rest.data != NULL)
            rc = stor_pipeline_join(lookup->run, stages, rest, &stages, err);
    }
    if (rc == VD_OK)
        rc = stor_sub_open(&lookup->sub, lookup->run, request, lookup->variables, stages,
                           &lookup->pipeline, err);
    return rc;
}

static void found_add(vd_arena_t *arena, local_t *local, vd_bson_t document)
{
    found_t *found = VD_ARENA_NEW(arena, found_t);
    found->document = document;
    *local->tail = found;
    local->tail = &found->next;
}

/* ---- a group at once ---- */

typedef struct {
    lookup_t *lookup;
    seeker_t **buckets;
    size_t bucket_count;
    uint64_t number; /* of the found document */
    vd_bson_t document;
} deal_t;

static bool deal_value(vd_value_t value, int64_t array_position, void *context)
{
    (void)array_position;
    deal_t *deal = context;
    if (vd_value_is_nullish(value))
        return false; /* null is asked of the matcher */
    uint64_t hash = vd_value_hash(value);
    for (const seeker_t *s = deal->buckets[hash % deal->bucket_count]; s != NULL; s = s->next) {
        local_t *local = &deal->lookup->locals[s->local];
        if (s->hash != hash || local->last == deal->number || !vd_value_equal(s->value, value))
            continue;
        local->last = deal->number;
        found_add(deal->lookup->group, local, deal->document);
    }
    return false;
}

static void seekers_make(lookup_t *lookup, deal_t *deal, vd_value_t **ret_values,
                         uint32_t *ret_count)
{
    uint32_t count = 0, at = 0;
    for (uint32_t i = 0; i < lookup->local_count; i++)
        count += lookup->locals[i].value_count;
    deal->bucket_count = 2 * (size_t)count + 1;
    deal->buckets = VD_ARENA_ARRAY(lookup->group, seeker_t *, deal->bucket_count);
    *ret_values = VD_ARENA_ARRAY(lookup->group, vd_value_t, count);
    for (uint32_t i = 0; i < lookup->local_count; i++)
        for (uint32_t k = 0; k < lookup->locals[i].value_count; k++) {
            seeker_t *seeker = VD_ARENA_NEW(lookup->group, seeker_t);
            seeker->value = lookup->locals[i].values[k];
            seeker->hash = vd_value_hash(seeker->value);
            seeker->local = i;
            seeker->next = deal->buckets[seeker->hash % deal->bucket_count];
            deal->buckets[seeker->hash % deal->bucket_count] = seeker;
            (*ret_values)[at++] = seeker->value;
        }
    *ret_count = count;
}

static int null_filter(lookup_t *lookup, stor_filter_t **ret_filter, vd_error_t *err)
{
    vd_value_t null = vd_value_from_null();
    vd_bson_t filter;
    int rc = stor_stage_equality(lookup->group, lookup->foreign.text, &null, 1, &filter, err);
    return rc == VD_OK
               ? stor_filter_parse(lookup->group, filter, lookup->variables, ret_filter, err)
               : rc;
}

/* Finds what belongs to all of the group. *ret_fits false: too much, each is done alone then. */
static int find_group(lookup_t *lookup, stor_request_t *request, bool *ret_fits, vd_error_t *err)
{
    deal_t deal = {.lookup = lookup};
    vd_value_t *values;
    uint32_t count;
    vd_bson_t document;
    stor_filter_t *null;
    size_t bytes = 0;
    seekers_make(lookup, &deal, &values, &count);
    int rc = null_filter(lookup, &null, err);
    if (rc == VD_OK)
        rc = run_open(lookup, request, values, count, err);
    *ret_fits = true;
    while (rc == VD_OK &&
           (rc = stor_pipeline_next(lookup->pipeline, request, &document, err)) == VD_OK) {
        stor_match_t match = {.arena = lookup->scratch, .variables = lookup->variables};
        bool is_null = false;
        bytes += document.len + sizeof(found_t);
        if (bytes > GROUP_FOUND_BYTES) {
            *ret_fits = false;
            break;
        }
        deal.number++;
        deal.document =
            (vd_bson_t){vd_arena_copy(lookup->group, document.data, document.len), document.len};
        (void)stor_path_walk(&lookup->foreign, deal.document, true, deal_value, &deal);
        vd_arena_reset(lookup->scratch);
        rc = stor_match_document(null, deal.document, &match, &is_null, err);
        for (uint32_t i = 0; rc == VD_OK && is_null && i < lookup->local_count; i++) {
            local_t *local = &lookup->locals[i];
            if (local->has_null && local->last != deal.number) {
                local->last = deal.number;
                found_add(lookup->group, local, deal.document);
            }
        }
    }
    run_end(lookup);
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* ---- the same for all ---- */

static void kept_drop(lookup_t *lookup)
{
    vd_arena_destroy(&lookup->kept_arena);
    stor_memory_give(lookup->context.sources, lookup->kept_bytes);
    lookup->kept_bytes = 0;
    lookup->kept_first = NULL;
}

/* Runs the pipeline once and keeps what it gives. Too much: from now on it is run each time. */
static int keep_all(lookup_t *lookup, stor_request_t *request, vd_error_t *err)
{
    found_t **tail = &lookup->kept_first;
    vd_bson_t document;
    int rc = run_open(lookup, request, NULL, 0, err);
    if (lookup->kept_arena == NULL)
        lookup->kept_arena = vd_arena_create();
    while (rc == VD_OK &&
           (rc = stor_pipeline_next(lookup->pipeline, request, &document, err)) == VD_OK) {
        size_t bytes = document.len + sizeof(found_t);
        if (stor_memory_take(lookup->context.sources, bytes, "$lookup", NULL) != VD_OK) {
            kept_drop(lookup);
            lookup->constant = false;
            run_end(lookup);
            return VD_OK;
        }
        lookup->kept_bytes += bytes;
        found_t *found = VD_ARENA_NEW(lookup->kept_arena, found_t);
        found->document = (vd_bson_t){
            vd_arena_copy(lookup->kept_arena, document.data, document.len), document.len};
        *tail = found;
        tail = &found->next;
    }
    run_end(lookup);
    lookup->kept = rc == VD_ERR_NOT_FOUND;
    return rc == VD_ERR_NOT_FOUND ? VD_OK : rc;
}

/* ---- one document ---- */

static int let_evaluate(lookup_t *lookup, vd_bson_t document, vd_error_t *err)
{
    stor_expr_env_t env;
    int rc = VD_OK;
    if (lookup->let_count == 0)
        return VD_OK;
    stor_expr_env_init(&env, lookup->group, lookup->context.variables);
    stor_expr_env_document(&env, document);
    for (uint32_t i = 0; rc == VD_OK && i < lookup->let_count; i++) {
        vd_value_t value;
        rc = stor_expr_eval(lookup->let_exprs[i], &env, &value, err);
        if (rc == VD_OK)
            rc = stor_variables_bind(lookup->variables, lookup->let_names[i], value, err);
    }
    return rc;
}

/* Makes ready to give what belongs to the document. */
static int supply_begin(lookup_t *lookup, stor_request_t *request, const local_t *local,
                        bool grouped, vd_error_t *err)
{
    int rc = VD_OK;
    if (grouped) {
        lookup->supply = FROM_LIST;
        lookup->next_found = local->first;
        return VD_OK;
    }
    if (lookup->constant && !lookup->kept)
        rc = keep_all(lookup, request, err);
    if (rc == VD_OK && lookup->kept) {
        lookup->supply = FROM_LIST;
        lookup->next_found = lookup->kept_first;
        return VD_OK;
    }
    lookup->supply = FROM_PIPELINE;
    if (rc == VD_OK)
        rc = let_evaluate(lookup, local->document, err);
    return rc == VD_OK ? run_open(lookup, request, local->values, local->value_count, err) : rc;
}

static int supply_next(lookup_t *lookup, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    if (lookup->supply == FROM_PIPELINE) {
        int rc = stor_pipeline_next(lookup->pipeline, request, ret_document, err);
        if (rc == VD_ERR_NOT_FOUND) /* nothing of it is open when the stage before is pulled */
            run_end(lookup);
        return rc;
    }
    if (lookup->next_found == NULL)
        return VD_ERR_NOT_FOUND;
    *ret_document = lookup->next_found->document;
    lookup->next_found = lookup->next_found->next;
    return VD_OK;
}

static int too_large(const lookup_t *lookup, vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_LOCATION(4568),
                        "Total size of documents in %.*s matching pipeline's $lookup stage "
                        "exceeds %d bytes",
                        VD_SLICE_FMT(lookup->from), RESULT_BYTES_MAX);
}

/* All that belongs to it as an array. */
static int give_array(lookup_t *lookup, stor_request_t *request, vd_bson_t local,
                      vd_bson_t *ret_document, vd_error_t *err)
{
    vd_bb_t array, bb;
    vd_bson_t found, all;
    char buf[12];
    int rc;
    vd_bb_init_arena(&array, lookup->out, (size_t)RESULT_BYTES_MAX + VD_BSON_INTERNAL_MAX_BYTES);
    for (uint32_t i = 0; (rc = supply_next(lookup, request, &found, err)) == VD_OK; i++) {
        if (vd_bb_len(&array) > RESULT_BYTES_MAX)
            return too_large(lookup, err);
        vd_bb_value(&array, vd_array_name(i, buf), vd_value_from_document(found));
    }
    if (rc == VD_ERR_NOT_FOUND)
        rc = vd_bb_finish(&array, &all, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_init_arena(&bb, lookup->out, VD_BSON_INTERNAL_MAX_BYTES);
    stor_stage_put(&bb, &lookup->as, 0, local, vd_value_from_array(all));
    return vd_bb_finish(&bb, ret_document, err);
}

/* One of those that belong to it in the place of the array; MISSING: there is none. */
static int give_one(lookup_t *lookup, vd_bson_t local, vd_value_t found, vd_bson_t *ret_document,
                    vd_error_t *err)
{
    vd_bb_t bb;
    int rc;
    vd_bb_init_arena(&bb, lookup->out, VD_BSON_INTERNAL_MAX_BYTES);
    if (vd_value_is_missing(found))
        stor_stage_remove(&bb, &lookup->as, 0, local);
    else
        stor_stage_put(&bb, &lookup->as, 0, local, found);
    rc = vd_bb_finish(&bb, ret_document, err);
    if (rc != VD_OK || lookup->index_field.len == 0)
        return rc;
    stor_path_t path;
    stor_path_split(lookup->out, lookup->index_field, &path);
    vd_bb_init_arena(&bb, lookup->out, VD_BSON_INTERNAL_MAX_BYTES);
    stor_stage_put(&bb, &path, 0, *ret_document,
                   vd_value_is_missing(found) ? vd_value_from_null()
                                              : vd_value_from_int64(lookup->out, lookup->index));
    return vd_bb_finish(&bb, ret_document, err);
}

/* The next document that gives something: takes it, and makes ready. */
static int advance(lookup_t *lookup, stor_request_t *request, vd_error_t *err)
{
    int rc;
    while (lookup->local_at == lookup->local_count) {
        if (lookup->source_done)
            return VD_ERR_NOT_FOUND;
        rc = take_group(lookup, request, err);
        if (rc != VD_OK)
            return rc;
        lookup->grouped_now = lookup->grouped && lookup->local_count > 1;
        if (lookup->grouped_now) {
            bool fits;
            rc = find_group(lookup, request, &fits, err);
            if (rc != VD_OK)
                return rc;
            lookup->grouped_now = fits;
            if (!fits) /* large ones: smaller groups from now on */
                lookup->group_size = lookup->group_size > 4 ? lookup->group_size / 4 : 1;
        }
    }
    lookup->index = 0;
    return supply_begin(lookup, request, &lookup->locals[lookup->local_at], lookup->grouped_now,
                        err);
}

static int next_unwound(lookup_t *lookup, stor_request_t *request, vd_bson_t *ret_document,
                        vd_error_t *err)
{
    for (;;) {
        vd_bson_t found;
        int rc = stor_request_check(request, err);
        if (rc == VD_OK && !lookup->inside)
            rc = advance(lookup, request, err);
        if (rc != VD_OK)
            return rc;
        lookup->inside = true;
        vd_bson_t local = lookup->locals[lookup->local_at].document;
        rc = supply_next(lookup, request, &found, err);
        if (rc == VD_OK) {
            rc = give_one(lookup, local, vd_value_from_document(found), ret_document, err);
            lookup->index++;
            return rc;
        }
        if (rc != VD_ERR_NOT_FOUND)
            return rc;
        lookup->inside = false;
        lookup->local_at++;
        if (lookup->index == 0 && lookup->keep_empty)
            return give_one(lookup, local, VD_VALUE_MISSING, ret_document, err);
    }
}

static int lookup_next(stor_stage_t *stage, stor_request_t *request, vd_bson_t *ret_document,
                       vd_error_t *err)
{
    lookup_t *lookup = (lookup_t *)stage;
    if (lookup->group == NULL) {
        lookup->group = vd_arena_create();
        lookup->run = vd_arena_create();
        lookup->out = vd_arena_create();
        lookup->scratch = vd_arena_create();
    }
    vd_arena_reset(lookup->out);
    if (lookup->unwinds)
        return next_unwound(lookup, request, ret_document, err);
    int rc = stor_request_check(request, err);
    if (rc == VD_OK)
        rc = advance(lookup, request, err);
    if (rc == VD_OK)
        rc = give_array(lookup, request, lookup->locals[lookup->local_at++].document, ret_document,
                        err);
    return rc;
}

static void lookup_release(stor_stage_t *stage)
{
    lookup_t *lookup = (lookup_t *)stage;
    if (lookup->pipeline != NULL)
        stor_pipeline_release(lookup->pipeline);
}

static void lookup_close(stor_stage_t *stage)
{
    lookup_t *lookup = (lookup_t *)stage;
    stor_pipeline_close(&lookup->pipeline);
    kept_drop(lookup);
    vd_arena_destroy(&lookup->group);
    vd_arena_destroy(&lookup->run);
    vd_arena_destroy(&lookup->out);
    vd_arena_destroy(&lookup->scratch);
}

const stor_stage_class_t stor_stage_lookup = {.name = "$lookup",
                                              .parse = lookup_parse,
                                              .next = lookup_next,
                                              .release = lookup_release,
                                              .close = lookup_close};
