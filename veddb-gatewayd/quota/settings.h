/* veddb-gatewayd/quota/settings.h — which limits there are, by name, and their values.
 *
 * Duty:    the table made from limits.def; values checked; overrides for single users.
 * Owner:   plain values; whoever has them locks.
 * Threads: any for the table. Pure. */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

#define GATE_OVERRIDES_MAX     256
#define GATE_LIMITED_USER_SIZE 1025 /* "name@db" and a NUL */

typedef enum { GATE_SCOPE_USER, GATE_SCOPE_ADDRESS, GATE_SCOPE_TOTAL, GATE_SCOPES } gate_scope_t;

typedef enum {
    GATE_RATE_OPERATIONS,
    GATE_RATE_BYTES_IN,
    GATE_RATE_BYTES_OUT,
    GATE_RATE_EXAMINED,
    GATE_RATE_HANDSHAKES,
    GATE_RATES,
    GATE_RATE_NONE = GATE_RATES
} gate_rate_t;

typedef enum {
#define GATE_LIMIT(ID, name, option, scope, kind, min, max, unit) GATE_LIMIT_##ID,
#include "veddb-gatewayd/quota/limits.def"
#undef GATE_LIMIT
    GATE_LIMITS
} gate_limit_t;

typedef enum { GATE_UNIT_COUNT, GATE_UNIT_BYTES, GATE_UNIT_MS } gate_unit_t;

typedef struct {
    const char *name;   /* "operations_per_user" */
    const char *option; /* of the configuration */
    gate_scope_t scope;
    gate_rate_t rate; /* GATE_RATE_NONE: no rate */
    uint64_t min, max;
    gate_unit_t unit;
} gate_limit_row_t;

extern const gate_limit_row_t gate_limit_rows[GATE_LIMITS];
extern const char *const gate_scope_names[GATE_SCOPES];

typedef struct {
    uint64_t values[GATE_LIMITS];
} gate_limit_values_t;

typedef struct {
    gate_limit_t limit;
    uint64_t value;
    char user[GATE_LIMITED_USER_SIZE];
} gate_override_t;

/* GATE_LIMITS when there is none of that name. */
gate_limit_t gate_limit_by_name(vd_slice_t name);
/* The rate of that kind and scope; GATE_LIMITS: there is no such limit. */
gate_limit_t gate_limit_of_rate(gate_scope_t scope, gate_rate_t rate);
/* A number in its limits; for a user: one that can be given to a single user. */
VD_MUST_CHECK int gate_limit_check(gate_limit_t limit, int64_t value, bool for_user,
                                   vd_error_t *err);
/* "20", "16MB", "500ms": a unit only where it fits. */
VD_MUST_CHECK int gate_limit_parse(gate_limit_t limit, vd_slice_t text, int64_t *ret_value,
                                   vd_error_t *err);
