/* veddb-storaged/query/accumulate.c — the accumulators of $group as one table: how the spec is
 * read, what one value adds, what comes out.
 *
 * A state keeps copies in its own arena. What is replaced is overwritten in place when it fits, so
 * that a minimum that falls with every document does not fill the arena. */
#include "veddb-storaged/query/accumulate_private.h"

/* ---- parse ---- */

static const struct {
    const char *name;
    stor_accumulator_kind_t kind;
    uint8_t form; /* 0: one operand, 1: {}, 2: {n, input}, 3: {sortBy, output}, 4: {n, sortBy,
                     output}, 5: {input, method, p} */
} table[] = {
    {"$sum", ACC_SUM, 0},           {"$avg", ACC_AVG, 0},
    {"$min", ACC_MIN, 0},           {"$max", ACC_MAX, 0},
    {"$first", ACC_FIRST, 0},       {"$last", ACC_LAST, 0},
    {"$push", ACC_PUSH, 0},         {"$addToSet", ACC_ADD_TO_SET, 0},
    {"$count", ACC_COUNT, 1},       {"$mergeObjects", ACC_MERGE, 0},
    {"$stdDevPop", ACC_STD_POP, 0}, {"$stdDevSamp", ACC_STD_SAMP, 0},
    {"$top", ACC_TOP, 3},           {"$topN", ACC_TOP, 4},
    {"$bottom", ACC_BOTTOM, 3},     {"$bottomN", ACC_BOTTOM, 4},
    {"$firstN", ACC_FIRST_N, 2},    {"$lastN", ACC_LAST_N, 2},
    {"$minN", ACC_MIN_N, 2},        {"$maxN", ACC_MAX_N, 2},
    {"$median", ACC_MEDIAN, 5},     {"$percentile", ACC_PERCENTILE, 5},
};

static int parse_named(vd_arena_t *arena, stor_accumulator_t *acc, int form, vd_value_t spec,
                       const stor_variables_t *variables, vd_error_t *err)
{
    bool sorted = form >= 3;
    const char *operand = sorted ? "output" : "input";
    if (spec.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_LOCATION(sorted ? 5788001 : 5787900),
                            "specification must be an object; found %s: %s", acc->name,
                            stor_expr_type(spec));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(spec));
    while (vd_bson_iter_next(&iter)) {
        int rc;
        if (vd_slice_is(iter.name, operand)) {
            rc = stor_expr_parse(arena, iter.value, variables, &acc->argument, err);
        } else if (form != 3 && vd_slice_is(iter.name, "n")) {
            rc = stor_expr_parse(arena, iter.value, variables, &acc->n, err);
            if (rc == VD_OK && stor_expr_reads_document(acc->n))
                rc = vd_error_set(err, VD_ERR_LOCATION(5787902),
                                  "%s: 'n' must not depend on the documents of the group",
                                  acc->name);
        } else if (sorted && vd_slice_is(iter.name, "sortBy")) {
            if (iter.value.type != VD_BSON_OBJECT)
                return vd_error_set(err, VD_ERR_LOCATION(5788604),
                                    "expected 'sortBy' to already be an object in the arguments to "
                                    "%s",
                                    acc->name);
            rc = stor_sort_parse(arena, vd_value_document(iter.value), &acc->sort, err);
        } else {
            rc = vd_error_set(err, VD_ERR_LOCATION(sorted ? 5788002 : 5787901),
                              "Unknown argument to %s '%.*s'", acc->name, VD_SLICE_FMT(iter.name));
        }
        if (rc != VD_OK)
            return rc;
    }
    if (form != 3 && acc->n == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(sorted ? 5788003 : 5787906),
                            "Missing value for 'n' in %s", acc->name);
    if (acc->argument == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(sorted ? 5788004 : 5787907),
                            "Missing value for '%s' in %s", operand, acc->name);
    if (sorted && acc->sort == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(5788005), "Missing value for 'sortBy' in %s",
                            acc->name);
    return VD_OK;
}

static int parse_one(vd_arena_t *arena, stor_accumulator_t *acc, int form, vd_value_t spec,
                     const stor_variables_t *variables, vd_error_t *err)
{
    if (form == 1) {
        if (spec.type != VD_BSON_OBJECT || !vd_bson_is_empty(vd_value_document(spec)))
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "$count takes no arguments, i.e. $count:{}");
        return VD_OK;
    }
    if (form == 5)
        return stor_percentile_parse(arena, acc->kind == ACC_MEDIAN, false, spec, variables,
                                     &acc->percentile, &acc->argument, err);
    if (form > 1)
        return parse_named(arena, acc, form, spec, variables, err);
    if (spec.type == VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_LOCATION(40237), "The %s accumulator is a unary operator",
                            acc->name);
    return stor_expr_parse(arena, spec, variables, &acc->argument, err);
}

int stor_accumulator_parse(vd_arena_t *arena, vd_slice_t field, vd_value_t spec,
                           const stor_variables_t *variables, stor_accumulator_t **ret_accumulator,
                           vd_error_t *err)
{
    VD_ASSERT(ret_accumulator != NULL);
    vd_slice_t op;
    vd_value_t argument;
    if (memchr(field.data, '.', field.len) != NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40235), "The field name '%.*s' cannot contain '.'",
                            VD_SLICE_FMT(field));
    if (field.len > 0 && field.data[0] == '$')
        return vd_error_set(err, VD_ERR_LOCATION(40236),
                            "The field name '%.*s' cannot be an operator name",
                            VD_SLICE_FMT(field));
    if (spec.type != VD_BSON_OBJECT || !vd_bson_first(vd_value_document(spec), &op, &argument))
        return vd_error_set(err, VD_ERR_LOCATION(40234),
                            "The field '%.*s' must be an accumulator object", VD_SLICE_FMT(field));
    if (vd_bson_count(vd_value_document(spec)) != 1)
        return vd_error_set(err, VD_ERR_LOCATION(40238),
                            "The field '%.*s' must specify one accumulator", VD_SLICE_FMT(field));
    if (op.len == 0 || op.data[0] != '$')
        return vd_error_set(err, VD_ERR_LOCATION(40234),
                            "The field '%.*s' must be an accumulator object", VD_SLICE_FMT(field));
    for (size_t i = 0; i < VD_COUNT_OF(table); i++) {
        if (!vd_slice_is(op, table[i].name))
            continue;
        stor_accumulator_t *acc = VD_ARENA_NEW(arena, stor_accumulator_t);
        acc->kind = table[i].kind;
        acc->name = table[i].name;
        int rc = parse_one(arena, acc, table[i].form, argument, variables, err);
        if (rc == VD_OK)
            *ret_accumulator = acc;
        return rc;
    }
    if (vd_slice_is(op, "$accumulator"))
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED,
                            "$accumulator is not supported: VedDB does not run JavaScript");
    return vd_error_set(err, VD_ERR_LOCATION(15952), "unknown group operator '%.*s'",
                        VD_SLICE_FMT(op));
}

/* ---- memory of a state ---- */

static void *state_alloc(stor_accumulator_state_t *state, size_t size)
{
    state->bytes += size;
    return vd_arena_alloc(state->arena, size);
}

static void keep(stor_accumulator_state_t *state, stor_kept_t *kept, vd_value_t v)
{
    if (v.len > kept->cap) {
        uint32_t cap = 16;
        while (cap < v.len && cap < UINT32_MAX / 2)
            cap *= 2;
        if (cap < v.len)
            cap = v.len;
        kept->memory = state_alloc(state, cap);
        kept->cap = cap;
    }
    if (v.len > 0)
        memcpy(kept->memory, v.data, v.len);
    kept->value = (vd_value_t){kept->memory, v.len, v.type};
}

static void *grow(stor_accumulator_state_t *state, void *old, uint32_t count, uint32_t *cap,
                  size_t size)
{
    if (count < *cap)
        return old;
    *cap = *cap == 0 ? 8 : *cap * 2;
    void *memory = state_alloc(state, *cap * size);
    if (count > 0)
        memcpy(memory, old, count * size);
    return memory;
}

static vd_value_t copy_into(stor_accumulator_state_t *state, vd_value_t v)
{
    uint8_t *memory = state_alloc(state, (size_t)v.len + 1);
    if (v.len > 0)
        memcpy(memory, v.data, v.len);
    return (vd_value_t){memory, v.len, v.type};
}

static void push(stor_accumulator_state_t *state, vd_value_t v)
{
    state->values = grow(state, state->values, state->count, &state->cap, sizeof *state->values);
    state->values[state->count++] = copy_into(state, v);
}

/* ---- $addToSet ---- */

static void set_put(stor_accumulator_state_t *state, uint32_t position)
{
    uint64_t h = vd_value_hash(state->values[position]);
    while (state->table[h & state->table_mask] != 0)
        h++;
    state->table[h & state->table_mask] = position + 1;
}

static void set_add(stor_accumulator_state_t *state, vd_value_t v)
{
    for (uint64_t h = state->table == NULL ? 0 : vd_value_hash(v); state->table != NULL; h++) {
        uint32_t at = state->table[h & state->table_mask];
        if (at == 0)
            break;
        if (vd_value_equal(state->values[at - 1], v))
            return;
    }
    push(state, v);
    if (state->table != NULL && state->count * 2 <= state->table_mask) {
        set_put(state, state->count - 1);
        return;
    }
    uint32_t size = state->table == NULL ? 16 : (state->table_mask + 1) * 2;
    state->table = state_alloc(state, size * sizeof *state->table);
    memset(state->table, 0, size * sizeof *state->table);
    state->table_mask = size - 1;
    for (uint32_t i = 0; i < state->count; i++)
        set_put(state, i);
}

/* ---- the N kinds ---- */

/* Where the entry belongs: < 0 before the other. */
static int compare_entries(const stor_accumulator_t *acc, const stor_entry_t *a,
                           const stor_entry_t *b)
{
    int c = 0;
    if (acc->sort != NULL) {
        vd_value_t left[STOR_SORT_KEYS_MAX], right[STOR_SORT_KEYS_MAX];
        vd_bson_iter_t iter;
        const stor_entry_t *both[2] = {a, b};
        for (int side = 0; side < 2; side++) {
            uint32_t i = 0;
            vd_bson_iter_init(&iter, vd_value_document(both[side]->keys.value));
            while (i < acc->sort->count && vd_bson_iter_next(&iter))
                (side == 0 ? left : right)[i++] = iter.value;
        }
        c = stor_sort_compare(acc->sort, left, right);
    } else if (acc->kind == ACC_MIN_N || acc->kind == ACC_MAX_N) {
        c = vd_value_compare(a->value.value, b->value.value);
        if (acc->kind == ACC_MAX_N)
            c = -c;
    }
    return c != 0 ? c : a->order < b->order ? -1 : a->order > b->order;
}

/* Kinds that lose their first entry when full, instead of the last. */
static bool drops_first(const stor_accumulator_t *acc)
{
    return acc->kind == ACC_BOTTOM || acc->kind == ACC_LAST_N;
}

static uint32_t place_of(const stor_accumulator_state_t *state, const stor_entry_t *entry)
{
    uint32_t low = 0, high = state->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (compare_entries(state->accumulator, state->entries[middle], entry) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void insert_entry(stor_accumulator_state_t *state, const stor_entry_t *fresh)
{
    const stor_accumulator_t *acc = state->accumulator;
    uint32_t place = place_of(state, fresh);
    stor_entry_t *entry;
    if (state->count < state->n) {
        state->entries =
            grow(state, state->entries, state->count, &state->cap, sizeof(stor_entry_t *));
        entry = state_alloc(state, sizeof *entry);
        memset(entry, 0, sizeof *entry);
        memmove(state->entries + place + 1, state->entries + place,
                (state->count - place) * sizeof(stor_entry_t *));
        state->count++;
    } else if (drops_first(acc)) {
        if (place == 0)
            return;
        entry = state->entries[0];
        memmove(state->entries, state->entries + 1, (place - 1) * sizeof(stor_entry_t *));
        place--;
    } else {
        if (place == state->count)
            return;
        entry = state->entries[state->count - 1];
        memmove(state->entries + place + 1, state->entries + place,
                (state->count - 1 - place) * sizeof(stor_entry_t *));
    }
    state->entries[place] = entry;
    keep(state, &entry->value, fresh->value.value);
    if (acc->sort != NULL)
        keep(state, &entry->keys, fresh->keys.value);
    entry->order = fresh->order;
}

static int read_n(stor_accumulator_state_t *state, stor_expr_env_t *env, vd_error_t *err)
{
    const stor_accumulator_t *acc = state->accumulator;
    if (acc->n == NULL) {
        state->n = 1;
        return VD_OK;
    }
    vd_value_t v;
    int64_t n;
    int rc = stor_expr_run(acc->n, env, &v, err);
    if (rc == VD_OK)
        rc = stor_expr_read_n(v, acc->name, &n, err);
    if (rc == VD_OK)
        state->n = n > UINT32_MAX / 2 ? UINT32_MAX / 2 : n;
    return rc;
}

void stor_accumulator_add_entry(stor_accumulator_state_t *state, vd_value_t value, vd_value_t keys)
{
    stor_entry_t fresh = {.order = state->seen++};
    fresh.value.value = vd_value_is_missing(value) ? vd_value_from_null() : value;
    fresh.keys.value = keys;
    insert_entry(state, &fresh);
}

static int add_entry(stor_accumulator_state_t *state, stor_expr_env_t *env, vd_value_t v,
                     vd_error_t *err)
{
    const stor_accumulator_t *acc = state->accumulator;
    int rc = state->n == 0 ? read_n(state, env, err) : VD_OK;
    if (rc != VD_OK)
        return rc;
    if ((acc->kind == ACC_MIN_N || acc->kind == ACC_MAX_N) && vd_value_is_nullish(v))
        return VD_OK;
    vd_value_t all_keys = VD_VALUE_MISSING;
    if (acc->sort != NULL) {
        vd_value_t keys[STOR_SORT_KEYS_MAX];
        stor_expr_array_t array;
        rc = stor_sort_key(acc->sort, env->arena, env->root, keys, err);
        if (rc != VD_OK)
            return rc;
        stor_expr_array_begin(&array, env->arena);
        for (uint32_t i = 0; i < acc->sort->count; i++)
            stor_expr_array_push(&array, keys[i]);
        rc = stor_expr_array_end(&array, &all_keys, err);
        if (rc != VD_OK)
            return rc;
    }
    stor_accumulator_add_entry(state, v, all_keys);
    return VD_OK;
}

void stor_accumulator_add_numbers(stor_accumulator_state_t *state, const uint8_t *doubles,
                                  uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        state->numbers = grow(state, state->numbers, state->count, &state->cap, sizeof(double));
        memcpy(&state->numbers[state->count++], doubles + i * sizeof(double), sizeof(double));
    }
}

/* ---- adding ---- */

static int add_merge(stor_accumulator_state_t *state, vd_arena_t *arena, vd_value_t v,
                     vd_error_t *err)
{
    vd_value_t both[2] = {state->any ? state->kept.value : VD_VALUE_MISSING, v}, merged;
    int rc = stor_expr_merge(arena, both, 2, &merged, err);
    if (rc == VD_OK) {
        keep(state, &state->kept, merged);
        state->any = true;
    }
    return rc;
}

int stor_accumulator_add_value(stor_accumulator_state_t *state, vd_arena_t *scratch, vd_value_t v,
                               vd_error_t *err)
{
    switch (state->accumulator->kind) {
    case ACC_SUM:
    case ACC_AVG:
        stor_total_add(&state->total, v);
        return VD_OK;
    case ACC_STD_POP:
    case ACC_STD_SAMP:
        stor_spread_add(&state->spread, v);
        return VD_OK;
    case ACC_COUNT:
        state->seen++;
        return VD_OK;
    case ACC_MIN:
    case ACC_MAX: {
        if (vd_value_is_nullish(v))
            return VD_OK;
        int c = state->any ? vd_value_compare(v, state->kept.value) : 0;
        if (!state->any || (state->accumulator->kind == ACC_MIN ? c < 0 : c > 0))
            keep(state, &state->kept, v);
        state->any = true;
        return VD_OK;
    }
    case ACC_FIRST:
        if (!state->any)
            keep(state, &state->kept, v);
        state->any = true;
        return VD_OK;
    case ACC_LAST:
        keep(state, &state->kept, v);
        state->any = true;
        return VD_OK;
    case ACC_PUSH:
        if (!vd_value_is_missing(v))
            push(state, v);
        return VD_OK;
    case ACC_ADD_TO_SET:
        if (!vd_value_is_missing(v))
            set_add(state, v);
        return VD_OK;
    case ACC_MERGE:
        return add_merge(state, scratch, v, err);
    case ACC_MEDIAN:
    case ACC_PERCENTILE: {
        if (!vd_value_is_number(v))
            return VD_OK;
        double d = vd_value_as_double(v);
        if (d == d) /* NaN has no place in an order */
            stor_accumulator_add_numbers(state, (const uint8_t *)&d, 1);
        return VD_OK;
    }
    default:
        VD_UNREACHABLE();
    }
}

static bool is_n_kind(stor_accumulator_kind_t kind)
{
    return kind >= ACC_TOP && kind <= ACC_MAX_N;
}

stor_accumulator_state_t *stor_accumulator_begin(const stor_accumulator_t *accumulator,
                                                 vd_arena_t *arena)
{
    stor_accumulator_state_t *state = VD_ARENA_NEW(arena, stor_accumulator_state_t);
    state->accumulator = accumulator;
    state->arena = arena;
    return state;
}

bool stor_accumulator_field_path(const stor_accumulator_t *accumulator, vd_slice_t *ret_path)
{
    return !is_n_kind(accumulator->kind) && accumulator->argument != NULL &&
           stor_expr_field_path(accumulator->argument, ret_path);
}

int stor_accumulator_add(stor_accumulator_state_t *state, stor_expr_env_t *env, vd_error_t *err)
{
    vd_value_t v = VD_VALUE_MISSING;
    int rc = VD_OK;
    if (state->accumulator->argument != NULL)
        rc = stor_expr_run(state->accumulator->argument, env, &v, err);
    if (rc != VD_OK)
        return rc;
    return is_n_kind(state->accumulator->kind)
               ? add_entry(state, env, v, err)
               : stor_accumulator_add_value(state, env->arena, v, err);
}

/* ---- results ---- */

static int finish_array(const stor_accumulator_state_t *state, vd_arena_t *arena, vd_value_t *ret,
                        vd_error_t *err)
{
    stor_expr_array_t out;
    stor_expr_array_begin(&out, arena);
    for (uint32_t i = 0; i < state->count; i++)
        stor_expr_array_push(&out, state->entries != NULL ? state->entries[i]->value.value
                                                          : state->values[i]);
    return stor_expr_array_end(&out, ret, err);
}

int stor_accumulator_finish(stor_accumulator_state_t *state, vd_arena_t *arena,
                            vd_value_t *ret_value, vd_error_t *err)
{
    switch (state->accumulator->kind) {
    case ACC_SUM:
        *ret_value = stor_total_sum(&state->total, arena);
        return VD_OK;
    case ACC_AVG:
        *ret_value = stor_total_average(&state->total, arena);
        return VD_OK;
    case ACC_STD_POP:
    case ACC_STD_SAMP:
        *ret_value =
            stor_spread_deviation(&state->spread, state->accumulator->kind == ACC_STD_SAMP, arena);
        return VD_OK;
    case ACC_COUNT:
        *ret_value = stor_expr_int_or_long(arena, (int64_t)state->seen);
        return VD_OK;
    case ACC_MIN:
    case ACC_MAX:
    case ACC_FIRST:
    case ACC_LAST:
        *ret_value = state->any && !vd_value_is_missing(state->kept.value)
                         ? vd_value_copy(arena, state->kept.value)
                         : vd_value_from_null();
        return VD_OK;
    case ACC_MERGE:
        if (!state->any)
            return stor_expr_merge(arena, NULL, 0, ret_value, err);
        *ret_value = vd_value_copy(arena, state->kept.value);
        return VD_OK;
    case ACC_MEDIAN:
    case ACC_PERCENTILE:
        return stor_percentile_of(&state->accumulator->percentile, state->numbers, state->count,
                                  arena, ret_value, err);
    case ACC_TOP:
    case ACC_BOTTOM:
        if (state->accumulator->n != NULL)
            break;
        *ret_value = state->count > 0 ? vd_value_copy(arena, state->entries[0]->value.value)
                                      : vd_value_from_null();
        return VD_OK;
    default:
        break;
    }
    return finish_array(state, arena, ret_value, err);
}

size_t stor_accumulator_bytes(const stor_accumulator_state_t *state)
{
    return state->bytes;
}
