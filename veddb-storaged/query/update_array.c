/* veddb-storaged/query/update_array.c — $push, $addToSet, $pull, $pullAll and $pop. */
#include "veddb-storaged/query/update_private.h"

#include <stdlib.h>

#define WRAP_NAME VD_SLICE_LIT("v") /* the field under which $pull's condition sees an element */

/* ---- parse ---- */

/* The elements of an array operand. */
static void read_values(vd_arena_t *arena, stor_operator_t *op, vd_bson_t array)
{
    vd_value_t *values = VD_ARENA_ARRAY(arena, vd_value_t, vd_bson_count(array));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    while (vd_bson_iter_next(&iter))
        values[op->value_count++] = iter.value;
    op->values = values;
}

static void read_value(vd_arena_t *arena, stor_operator_t *op, vd_value_t value)
{
    vd_value_t *values = VD_ARENA_ARRAY(arena, vd_value_t, 1);
    values[0] = value;
    op->values = values;
    op->value_count = 1;
}

static int compare_positions(const void *a, const void *b, void *context)
{
    const vd_value_t *values = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    int order = vd_value_compare(values[x], values[y]);
    return order != 0 ? order : (x > y) - (x < y);
}

static void sort_values(vd_arena_t *arena, stor_operator_t *op)
{
    uint32_t *sorted = VD_ARENA_ARRAY(arena, uint32_t, op->value_count);
    for (uint32_t i = 0; i < op->value_count; i++)
        sorted[i] = i;
    qsort_r(sorted, op->value_count, sizeof *sorted, compare_positions,
            (void *)(uintptr_t)op->values);
    op->sorted = sorted;
}

/* Leaves the first of equal values. */
static void drop_repeated(vd_arena_t *arena, stor_operator_t *op)
{
    sort_values(arena, op);
    bool *repeated = VD_ARENA_ARRAY(arena, bool, op->value_count);
    uint32_t kept = op->value_count;
    for (uint32_t i = 1; i < op->value_count; i++) {
        if (vd_value_compare(op->values[op->sorted[i - 1]], op->values[op->sorted[i]]) != 0)
            continue;
        repeated[op->sorted[i]] = true;
        kept--;
    }
    if (kept == op->value_count)
        return;
    vd_value_t *values = VD_ARENA_ARRAY(arena, vd_value_t, kept);
    uint32_t out = 0;
    for (uint32_t i = 0; i < op->value_count; i++)
        if (!repeated[i])
            values[out++] = op->values[i];
    op->values = values;
    op->value_count = kept;
    sort_values(arena, op);
}

/* Position in values of one that is equal, or UINT32_MAX. */
static uint32_t find_value(const stor_operator_t *op, vd_value_t v)
{
    uint32_t low = 0, high = op->value_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = vd_value_compare(op->values[op->sorted[middle]], v);
        if (order == 0)
            return op->sorted[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return UINT32_MAX;
}

static bool is_direction(vd_value_t v)
{
    return vd_value_is_number(v) && (vd_value_as_double(v) == 1.0 || vd_value_as_double(v) == -1.0);
}

static int parse_push_sort(vd_arena_t *arena, stor_operator_t *op, vd_value_t sort, vd_error_t *err)
{
    if (vd_value_is_number(sort)) {
        if (!is_direction(sort))
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The $sort element value must be either 1 or -1");
        stor_push_key_t *key = VD_ARENA_NEW(arena, stor_push_key_t);
        key->descending = vd_value_as_double(sort) < 0;
        op->keys = key;
        op->key_count = 1;
        return VD_OK;
    }
    if (sort.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The $sort is invalid: use 1/-1 to sort the whole element, or "
                            "{field:1/-1} to sort embedded fields");
    vd_bson_t spec = vd_value_document(sort);
    if (vd_bson_is_empty(spec))
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "The $sort pattern is empty when it should be a set of fields.");
    stor_push_key_t *keys = VD_ARENA_ARRAY(arena, stor_push_key_t, vd_bson_count(spec));
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, spec);
    while (vd_bson_iter_next(&iter)) {
        if (!is_direction(iter.value))
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The $sort element value must be either 1 or -1");
        if (iter.name.len == 0)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "The $sort field cannot be empty");
        for (size_t i = 0; i < iter.name.len; i++)
            if (iter.name.data[i] == '.' &&
                (i == 0 || i + 1 == iter.name.len || iter.name.data[i + 1] == '.'))
                return vd_error_set(err, VD_ERR_BAD_VALUE,
                                    "The $sort field is a dotted field but has an empty part: %.*s",
                                    VD_SLICE_FMT(iter.name));
        keys[op->key_count++] = (stor_push_key_t){iter.name, vd_value_as_double(iter.value) < 0};
    }
    op->keys = keys;
    return VD_OK;
}

static int parse_push(vd_arena_t *arena, stor_operator_t *op, vd_value_t value, vd_error_t *err)
{
    if (value.type != VD_BSON_OBJECT ||
        vd_value_is_missing(vd_bson_get(vd_value_document(value), "$each"))) {
        read_value(arena, op, value);
        return VD_OK;
    }
    enum { EACH, SLICE, SORT, POSITION, CLAUSES };
    static const char *const names[CLAUSES] = {"$each", "$slice", "$sort", "$position"};
    vd_value_t found[CLAUSES] = {0};
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter)) {
        int clause = 0;
        while (clause < CLAUSES && !vd_slice_is(iter.name, names[clause]))
            clause++;
        if (clause == CLAUSES)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "Unrecognized clause in $push: %.*s",
                                VD_SLICE_FMT(iter.name));
        if (!vd_value_is_missing(found[clause]))
            return vd_error_set(err, VD_ERR_BAD_VALUE, "Only one %s is supported.", names[clause]);
        found[clause] = iter.value;
    }
    if (found[EACH].type != VD_BSON_ARRAY)
        return vd_error_set(
            err, VD_ERR_BAD_VALUE,
            "The argument to $each in $push must be an array but it was of type: %s",
            vd_bson_type_name(found[EACH].type));
    read_values(arena, op, vd_value_document(found[EACH]));
    if (!vd_value_is_missing(found[SLICE])) {
        op->has_slice = true;
        if (stor_parse_integer(VD_SLICE_LIT("$slice"), found[SLICE], &op->slice, NULL) != VD_OK)
            return vd_error_set(
                err, VD_ERR_BAD_VALUE,
                "The value for $slice must be an integer value but was given type: %s",
                vd_bson_type_name(found[SLICE].type));
    }
    if (!vd_value_is_missing(found[SORT])) {
        int rc = parse_push_sort(arena, op, found[SORT], err);
        if (rc != VD_OK)
            return rc;
    }
    if (!vd_value_is_missing(found[POSITION])) {
        op->has_position = true;
        if (stor_parse_integer(VD_SLICE_LIT("$position"), found[POSITION], &op->position, NULL) !=
            VD_OK)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "The value for $position must be an integer value, not of type: %s",
                                vd_bson_type_name(found[POSITION].type));
    }
    return VD_OK;
}

static int parse_add_to_set(vd_arena_t *arena, stor_operator_t *op, vd_value_t value,
                            vd_error_t *err)
{
    char print[STOR_UPDATE_PRINT_SIZE];
    vd_slice_t first;
    vd_value_t each;
    if (value.type == VD_BSON_OBJECT && vd_bson_first(vd_value_document(value), &first, &each) &&
        vd_slice_is(first, "$each")) {
        if (each.type != VD_BSON_ARRAY)
            return vd_error_set(
                err, VD_ERR_TYPE_MISMATCH,
                "The argument to $each in $addToSet must be an array but it was of type %s",
                vd_bson_type_name(each.type));
        if (vd_bson_count(vd_value_document(value)) > 1)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "Found unexpected fields after $each in $addToSet: %s",
                                stor_print_value(value, print, sizeof print));
        read_values(arena, op, vd_value_document(each));
    } else {
        read_value(arena, op, value);
    }
    drop_repeated(arena, op);
    return VD_OK;
}

/* Operators that make an object a condition on the value itself. */
static bool is_condition(vd_bson_t spec)
{
    static const char *const names[] = {
        "$eq",           "$ne",         "$gt",          "$gte",           "$lt",
        "$lte",          "$in",         "$nin",         "$not",           "$all",
        "$size",         "$exists",     "$type",        "$mod",           "$regex",
        "$options",      "$elemMatch",  "$near",        "$geoIntersects", "$geoWithin",
        "$within",       "$nearSphere", "$maxDistance", "$minDistance",   "$bitsAllSet",
        "$bitsAllClear", "$bitsAnySet", "$bitsAnyClear"};
    vd_slice_t first;
    vd_value_t value;
    if (!vd_bson_first(spec, &first, &value) || !stor_slice_dollar(first))
        return false;
    for (size_t i = 0; i < VD_COUNT_OF(names); i++)
        if (vd_slice_is(first, names[i]))
            return true;
    return false;
}

vd_bson_t stor_wrap_value(vd_arena_t *arena, vd_slice_t name, vd_value_t value)
{
    uint32_t len = 4 + 1 + (uint32_t)name.len + 1 + value.len + 1;
    uint8_t *data = vd_arena_alloc(arena, len);
    vd_put_u32(data, len);
    data[4] = value.type;
    if (name.len > 0)
        memcpy(data + 5, name.data, name.len);
    data[5 + name.len] = 0;
    if (value.len > 0)
        memcpy(data + 6 + name.len, value.data, value.len);
    data[len - 1] = 0;
    return (vd_bson_t){data, len};
}

static int parse_pull(vd_arena_t *arena, stor_operator_t *op, vd_value_t value, vd_error_t *err)
{
    op->filter_wraps = value.type == VD_BSON_REGEX ||
                       (value.type == VD_BSON_OBJECT && is_condition(vd_value_document(value)));
    if (!op->filter_wraps && value.type != VD_BSON_OBJECT)
        return VD_OK;
    vd_bson_t spec =
        op->filter_wraps ? stor_wrap_value(arena, WRAP_NAME, value) : vd_value_document(value);
    int rc = stor_filter_parse(arena, spec, NULL, &op->filter, err);
    return rc != VD_OK ? rc : stor_filter_refuse_special(op->filter, err);
}

int stor_array_operator_parse(vd_arena_t *arena, stor_operator_t *op, vd_slice_t field,
                              vd_value_t value, vd_error_t *err)
{
    switch (op->kind) {
    case STOR_OP_PUSH:
        return parse_push(arena, op, value, err);
    case STOR_OP_ADD_TO_SET:
        return parse_add_to_set(arena, op, value, err);
    case STOR_OP_PULL:
        return parse_pull(arena, op, value, err);
    case STOR_OP_PULL_ALL:
        if (value.type != VD_BSON_ARRAY)
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "$pullAll requires an array argument but was given a %s",
                                vd_bson_type_name(value.type));
        read_values(arena, op, vd_value_document(value));
        sort_values(arena, op);
        return VD_OK;
    case STOR_OP_POP: {
        int64_t direction = 0;
        int rc = stor_parse_integer(field, value, &direction, err);
        if (rc != VD_OK)
            return rc;
        if (direction != 1 && direction != -1)
            return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "$pop expects 1 or -1, found: %lld",
                                (long long)direction);
        op->from_front = direction == -1;
        return VD_OK;
    }
    default:
        VD_UNREACHABLE();
    }
}

/* ---- apply ---- */

static void append(vd_bb_t *bb, uint32_t position, vd_value_t v)
{
    char name[12];
    vd_bb_value(bb, vd_array_name(position, name), v);
}

typedef struct {
    const stor_operator_t *op;
    const vd_value_t *keys; /* key_count per element */
} push_sort_t;

static int compare_keys(const void *a, const void *b, void *context)
{
    const push_sort_t *sort = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b, n = sort->op->key_count;
    for (uint32_t i = 0; i < n; i++) {
        int order = vd_value_compare(sort->keys[(size_t)x * n + i], sort->keys[(size_t)y * n + i]);
        if (order != 0)
            return sort->op->keys[i].descending ? -order : order;
    }
    return (x > y) - (x < y); /* stable */
}

static vd_value_t *sort_elements(vd_arena_t *arena, const stor_operator_t *op,
                                 const vd_value_t *elements, uint32_t count)
{
    vd_value_t *keys = VD_ARENA_ARRAY(arena, vd_value_t, (size_t)count * op->key_count);
    uint32_t *order = VD_ARENA_ARRAY(arena, uint32_t, count);
    for (uint32_t i = 0; i < count; i++) {
        order[i] = i;
        for (uint32_t k = 0; k < op->key_count; k++) {
            vd_value_t key = elements[i];
            if (op->keys[k].path.len > 0) {
                key = key.type == VD_BSON_OBJECT
                          ? vd_bson_get_path(vd_value_document(key), op->keys[k].path)
                          : VD_VALUE_MISSING;
                if (vd_value_is_missing(key))
                    key = vd_value_from_null();
            }
            keys[(size_t)i * op->key_count + k] = key;
        }
    }
    push_sort_t sort = {op, keys};
    qsort_r(order, count, sizeof *order, compare_keys, &sort);
    vd_value_t *sorted = VD_ARENA_ARRAY(arena, vd_value_t, count);
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = elements[order[i]];
    return sorted;
}

/* Writes old with the operator's values put in. *ret_changed false: nothing was written. */
static void push(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name, vd_bson_t old,
                 bool *ret_changed)
{
    vd_bb_t *bb = run->bb;
    uint32_t count = vd_bson_count(old), added = op->value_count;
    int64_t at = count;
    if (op->has_position && op->position < (int64_t)count)
        at = op->position >= 0                ? op->position
             : op->position > -(int64_t)count ? (int64_t)count + op->position
                                              : 0;

    if (op->key_count == 0 && !op->has_slice && at == count) {
        *ret_changed = added > 0;
        if (added == 0)
            return;
        vd_bb_open_array(bb, name);
        vd_bb_concat(bb, old);
        for (uint32_t i = 0; i < added; i++)
            append(bb, count + i, op->values[i]);
        vd_bb_close(bb);
        return;
    }

    uint32_t total = count + added, position = 0, out = 0;
    vd_value_t *elements = VD_ARENA_ARRAY(run->arena, vd_value_t, (size_t)total);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, old);
    for (;; position++) {
        if (position == at) {
            if (added > 0)
                memcpy(elements + out, op->values, sizeof *elements * added);
            out += added;
        }
        if (!vd_bson_iter_next(&iter))
            break;
        elements[out++] = iter.value;
    }
    bool changed = added > 0;
    if (op->key_count > 0) {
        elements = sort_elements(run->arena, op, elements, total);
        changed = true;
    }
    uint32_t first = 0, kept = total;
    if (op->has_slice) {
        uint64_t limit = op->slice < 0 ? 0 - (uint64_t)op->slice : (uint64_t)op->slice;
        if (limit < kept) {
            kept = (uint32_t)limit;
            first = op->slice > 0 ? 0 : total - kept;
            changed = true;
        }
    }
    *ret_changed = changed;
    if (!changed)
        return;
    vd_bb_open_array(bb, name);
    for (uint32_t i = 0; i < kept; i++)
        append(bb, i, elements[first + i]);
    vd_bb_close(bb);
}

static int apply_push(stor_update_run_t *run, const stor_operator_t *op,
                      const stor_update_path_t *path, vd_slice_t name, vd_value_t old,
                      bool *ret_changed)
{
    if (old.type != VD_BSON_ARRAY) {
        char print[STOR_UPDATE_PRINT_SIZE];
        vd_slice_t text = stor_path_text(run->arena, path);
        return vd_error_set(run->err, VD_ERR_BAD_VALUE,
                            "The field '%.*s' must be an array but is of type %s in document {%s}",
                            VD_SLICE_FMT(text), vd_bson_type_name(old.type),
                            stor_print_id(run->document, print, sizeof print));
    }
    push(run, op, name, vd_value_document(old), ret_changed);
    return VD_OK;
}

static int apply_add_to_set(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name,
                            vd_value_t old, bool *ret_changed)
{
    if (old.type != VD_BSON_ARRAY)
        return vd_error_set(
            run->err, VD_ERR_BAD_VALUE,
            "Cannot apply $addToSet to non-array field. Field named '%.*s' has non-array type %s",
            VD_SLICE_FMT(name), vd_bson_type_name(old.type));
    bool *present = VD_ARENA_ARRAY(run->arena, bool, op->value_count);
    uint32_t count = 0, missing = op->value_count;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(old));
    while (vd_bson_iter_next(&iter)) {
        count++;
        uint32_t found = find_value(op, iter.value);
        if (found != UINT32_MAX && !present[found]) {
            present[found] = true;
            if (--missing == 0)
                return VD_OK;
        }
    }
    if (missing == 0)
        return VD_OK;
    vd_bb_open_array(run->bb, name);
    vd_bb_concat(run->bb, vd_value_document(old));
    for (uint32_t i = 0; i < op->value_count; i++)
        if (!present[i])
            append(run->bb, count++, op->values[i]);
    vd_bb_close(run->bb);
    *ret_changed = true;
    return VD_OK;
}

static int pulls(stor_update_run_t *run, const stor_operator_t *op, vd_value_t v, bool *ret_pulls)
{
    if (op->kind == STOR_OP_PULL_ALL) {
        *ret_pulls = find_value(op, v) != UINT32_MAX;
        return VD_OK;
    }
    if (op->filter == NULL) {
        *ret_pulls = vd_value_equal(v, op->value);
        return VD_OK;
    }
    *ret_pulls = false;
    if (!op->filter_wraps && v.type != VD_BSON_OBJECT)
        return VD_OK;
    vd_arena_mark_t mark = vd_arena_mark(run->arena);
    stor_match_t match = {.arena = run->arena, .variables = NULL, .array_position = -1};
    vd_bson_t document =
        op->filter_wraps ? stor_wrap_value(run->arena, WRAP_NAME, v) : vd_value_document(v);
    int rc = stor_match_document(op->filter, document, &match, ret_pulls, run->err);
    vd_arena_rewind(run->arena, mark);
    return rc;
}

static int apply_pull(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name,
                      vd_value_t old, bool *ret_changed)
{
    if (old.type != VD_BSON_ARRAY)
        return vd_error_set(run->err, VD_ERR_BAD_VALUE, "Cannot apply $pull to a non-array value");
    vd_bson_t array = vd_value_document(old);
    bool *pulled = VD_ARENA_ARRAY(run->arena, bool, vd_bson_count(array));
    uint32_t position = 0, first = UINT32_MAX;
    const uint8_t *first_at = NULL;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, array);
    for (; vd_bson_iter_next(&iter); position++) {
        int rc = pulls(run, op, iter.value, &pulled[position]);
        if (rc != VD_OK)
            return rc;
        if (pulled[position] && first == UINT32_MAX) {
            first = position;
            first_at = iter.name.data - 1;
        }
    }
    if (first == UINT32_MAX)
        return VD_OK;
    vd_bb_open_array(run->bb, name);
    stor_bb_run(run->bb, array.data + 4, first_at);
    uint32_t out = first;
    position = 0;
    vd_bson_iter_init(&iter, array);
    for (; vd_bson_iter_next(&iter); position++)
        if (position > first && !pulled[position])
            append(run->bb, out++, iter.value);
    vd_bb_close(run->bb);
    *ret_changed = true;
    return VD_OK;
}

static int apply_pop(stor_update_run_t *run, const stor_operator_t *op,
                     const stor_update_path_t *path, vd_slice_t name, vd_value_t old,
                     bool *ret_changed)
{
    if (old.type != VD_BSON_ARRAY) {
        vd_slice_t text = stor_path_text(run->arena, path);
        return vd_error_set(run->err, VD_ERR_TYPE_MISMATCH,
                            "Path '%.*s' contains an element of non-array type '%s'",
                            VD_SLICE_FMT(text), vd_bson_type_name(old.type));
    }
    vd_bson_t array = vd_value_document(old);
    uint32_t position = 0;
    const uint8_t *last = NULL;
    vd_bson_iter_t iter;
    if (vd_bson_is_empty(array))
        return VD_OK;
    vd_bb_open_array(run->bb, name);
    vd_bson_iter_init(&iter, array);
    for (; vd_bson_iter_next(&iter); position++) {
        last = iter.name.data - 1;
        if (op->from_front && position > 0)
            append(run->bb, position - 1, iter.value);
    }
    if (!op->from_front && last != NULL)
        stor_bb_run(run->bb, array.data + 4, last);
    vd_bb_close(run->bb);
    *ret_changed = true;
    return VD_OK;
}

int stor_array_operator_apply(stor_update_run_t *run, const stor_operator_t *op,
                              const stor_update_path_t *path, vd_slice_t name, vd_value_t old,
                              stor_operator_result_t *ret_result)
{
    bool changed = false;
    int rc;
    switch (op->kind) {
    case STOR_OP_PUSH:
        rc = apply_push(run, op, path, name, old, &changed);
        break;
    case STOR_OP_ADD_TO_SET:
        rc = apply_add_to_set(run, op, name, old, &changed);
        break;
    case STOR_OP_PULL:
    case STOR_OP_PULL_ALL:
        rc = apply_pull(run, op, name, old, &changed);
        break;
    case STOR_OP_POP:
        rc = apply_pop(run, op, path, name, old, &changed);
        break;
    default:
        VD_UNREACHABLE();
    }
    *ret_result = changed ? STOR_RESULT_WRITTEN : STOR_RESULT_KEEP;
    return rc;
}

void stor_array_operator_create(stor_update_run_t *run, const stor_operator_t *op, vd_slice_t name)
{
    bool changed = false;
    if (op->kind == STOR_OP_PUSH) {
        push(run, op, name, VD_BSON_NONE, &changed);
        if (!changed) { /* nothing to push: the field is an empty array all the same */
            vd_bb_open_array(run->bb, name);
            vd_bb_close(run->bb);
        }
        return;
    }
    vd_bb_open_array(run->bb, name);
    for (uint32_t i = 0; i < op->value_count; i++)
        append(run->bb, i, op->values[i]);
    vd_bb_close(run->bb);
}
