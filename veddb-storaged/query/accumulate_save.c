/* veddb-storaged/query/accumulate_save.c — a group's state as bytes, and such bytes added to
 * another state: for groups that are written to disk in parts.
 *
 * The form is of this process only: it is never read by another version. */
#include "veddb-storaged/query/accumulate_private.h"

/* ---- writing ---- */

static int put_value(vd_buf_t *buf, vd_value_t v)
{
    int rc = vd_buf_append_u8(buf, v.type);
    if (rc == VD_OK)
        rc = vd_buf_append_u32(buf, v.len);
    return rc == VD_OK && v.len > 0 ? vd_buf_append(buf, v.data, v.len) : rc;
}

static int put_values(const stor_accumulator_state_t *state, vd_buf_t *buf)
{
    int rc = vd_buf_append_u32(buf, state->count);
    for (uint32_t i = 0; rc == VD_OK && i < state->count; i++)
        rc = put_value(buf, state->values[i]);
    return rc;
}

static int put_entries(const stor_accumulator_state_t *state, vd_buf_t *buf)
{
    int rc = vd_buf_append_u64(buf, (uint64_t)state->n);
    if (rc == VD_OK)
        rc = vd_buf_append_u32(buf, state->count);
    for (uint32_t i = 0; rc == VD_OK && i < state->count; i++) {
        rc = put_value(buf, state->entries[i]->value.value);
        if (rc == VD_OK && state->accumulator->sort != NULL)
            rc = put_value(buf, state->entries[i]->keys.value);
    }
    return rc;
}

int stor_accumulator_save(const stor_accumulator_state_t *state, vd_buf_t *buf)
{
    switch (state->accumulator->kind) {
    case ACC_SUM:
    case ACC_AVG:
        return vd_buf_append(buf, &state->total, sizeof state->total);
    case ACC_STD_POP:
    case ACC_STD_SAMP:
        return vd_buf_append(buf, &state->spread, sizeof state->spread);
    case ACC_COUNT:
        return vd_buf_append_u64(buf, state->seen);
    case ACC_MIN:
    case ACC_MAX:
    case ACC_FIRST:
    case ACC_LAST:
    case ACC_MERGE: {
        int rc = vd_buf_append_u8(buf, state->any);
        return rc == VD_OK && state->any ? put_value(buf, state->kept.value) : rc;
    }
    case ACC_PUSH:
    case ACC_ADD_TO_SET:
        return put_values(state, buf);
    case ACC_MEDIAN:
    case ACC_PERCENTILE: {
        int rc = vd_buf_append_u32(buf, state->count);
        return rc == VD_OK && state->count > 0
                   ? vd_buf_append(buf, state->numbers, state->count * sizeof(double))
                   : rc;
    }
    default:
        return put_entries(state, buf);
    }
}

/* ---- adding ---- */

static const uint8_t *take(vd_slice_t *saved, size_t len)
{
    VD_ASSERT(len <= saved->len); /* our own bytes, sealed meanwhile */
    const uint8_t *at = saved->data;
    saved->data += len;
    saved->len -= len;
    return at;
}

static vd_value_t take_value(vd_slice_t *saved)
{
    const uint8_t *head = take(saved, 5);
    uint32_t len = vd_get_u32(head + 1);
    return (vd_value_t){take(saved, len), len, head[0]};
}

static int merge_entries(stor_accumulator_state_t *state, vd_slice_t *saved)
{
    state->n = (int64_t)vd_get_u64(take(saved, 8));
    uint32_t count = vd_get_u32(take(saved, 4));
    for (uint32_t i = 0; i < count; i++) {
        vd_value_t value = take_value(saved), keys = VD_VALUE_MISSING;
        if (state->accumulator->sort != NULL)
            keys = take_value(saved);
        stor_accumulator_add_entry(state, value, keys);
    }
    return VD_OK;
}

int stor_accumulator_merge(stor_accumulator_state_t *state, vd_slice_t *saved, vd_arena_t *scratch,
                           vd_error_t *err)
{
    stor_total_t total;
    stor_spread_t spread;
    uint32_t count;
    int rc = VD_OK;
    switch (state->accumulator->kind) {
    case ACC_SUM:
    case ACC_AVG:
        memcpy(&total, take(saved, sizeof total), sizeof total);
        stor_total_merge(&state->total, &total);
        return VD_OK;
    case ACC_STD_POP:
    case ACC_STD_SAMP:
        memcpy(&spread, take(saved, sizeof spread), sizeof spread);
        stor_spread_merge(&state->spread, &spread);
        return VD_OK;
    case ACC_COUNT:
        state->seen += vd_get_u64(take(saved, 8));
        return VD_OK;
    case ACC_MIN:
    case ACC_MAX:
    case ACC_FIRST:
    case ACC_LAST:
    case ACC_MERGE:
        return *take(saved, 1) == 0
                   ? VD_OK
                   : stor_accumulator_add_value(state, scratch, take_value(saved), err);
    case ACC_PUSH:
    case ACC_ADD_TO_SET:
        count = vd_get_u32(take(saved, 4));
        for (uint32_t i = 0; rc == VD_OK && i < count; i++)
            rc = stor_accumulator_add_value(state, scratch, take_value(saved), err);
        return rc;
    case ACC_MEDIAN:
    case ACC_PERCENTILE:
        count = vd_get_u32(take(saved, 4));
        stor_accumulator_add_numbers(state, take(saved, count * sizeof(double)), count);
        return VD_OK;
    default:
        return merge_entries(state, saved);
    }
}
