/* veddb-gatewayd/quota/settings.c — see settings.h. */
#include "veddb-gatewayd/quota/settings.h"

const gate_limit_row_t gate_limit_rows[GATE_LIMITS] = {
#define GATE_LIMIT(ID, name, option, scope, kind, min, max, unit)                                  \
    {name, option, GATE_SCOPE_##scope, GATE_RATE_##kind, min, max, GATE_UNIT_##unit},
#include "veddb-gatewayd/quota/limits.def"
#undef GATE_LIMIT
};

const char *const gate_scope_names[GATE_SCOPES] = {"user", "address", "total"};

gate_limit_t gate_limit_by_name(vd_slice_t name)
{
    for (unsigned i = 0; i < GATE_LIMITS; i++) {
        if (vd_slice_is(name, gate_limit_rows[i].name))
            return (gate_limit_t)i;
    }
    return GATE_LIMITS;
}

gate_limit_t gate_limit_of_rate(gate_scope_t scope, gate_rate_t rate)
{
    for (unsigned i = 0; i < GATE_LIMITS; i++) {
        if (gate_limit_rows[i].scope == scope && gate_limit_rows[i].rate == rate)
            return (gate_limit_t)i;
    }
    return GATE_LIMITS;
}

int gate_limit_check(gate_limit_t limit, int64_t value, bool for_user, vd_error_t *err)
{
    const gate_limit_row_t *row = &gate_limit_rows[limit];
    if (for_user && row->scope != GATE_SCOPE_USER)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS, "%s is no limit of single users",
                            row->name);
    if (value < 0 || (uint64_t)value < row->min || (uint64_t)value > row->max)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s must be between %llu and %llu", row->name,
                            (unsigned long long)row->min, (unsigned long long)row->max);
    return VD_OK;
}

static bool unit_factor(gate_unit_t unit, vd_slice_t text, int64_t *ret)
{
    static const struct {
        const char *name;
        gate_unit_t unit;
        int64_t factor;
    } units[] = {
        {"KB", GATE_UNIT_BYTES, 1 << 10}, {"MB", GATE_UNIT_BYTES, 1 << 20},
        {"GB", GATE_UNIT_BYTES, 1 << 30}, {"ms", GATE_UNIT_MS, 1},
        {"s", GATE_UNIT_MS, 1000},        {"min", GATE_UNIT_MS, 60000},
    };
    *ret = 1;
    if (text.len == 0)
        return true;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (units[i].unit == unit && vd_slice_is(text, units[i].name)) {
            *ret = units[i].factor;
            return true;
        }
    }
    return false;
}

int gate_limit_parse(gate_limit_t limit, vd_slice_t text, int64_t *ret_value, vd_error_t *err)
{
    const gate_limit_row_t *row = &gate_limit_rows[limit];
    int64_t value = 0, factor;
    size_t digits = 0;
    while (digits < text.len && digits < 15 && text.data[digits] >= '0' && text.data[digits] <= '9')
        value = value * 10 + (text.data[digits++] - '0');
    if (digits == 0 ||
        !unit_factor(row->unit, vd_slice(text.data + digits, text.len - digits), &factor) ||
        value > INT64_MAX / factor)
        return vd_error_set(err, VD_ERR_BAD_VALUE, "%s: \"%.*s\" is no %s", row->name,
                            (int)(text.len < 40 ? text.len : 40), text.data,
                            row->unit == GATE_UNIT_BYTES ? "number of bytes (20, 16MB)"
                            : row->unit == GATE_UNIT_MS  ? "time (500, 500ms, 2s)"
                                                         : "number");
    *ret_value = value * factor;
    return VD_OK;
}
