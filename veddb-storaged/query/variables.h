/* veddb-storaged/query/variables.h — variables that expressions may name: $$NOW, $$CLUSTER_TIME,
 * $$ROOT and `let`.
 *
 * Owner:   the request; values are borrowed. Parse resolves names to slots, so evaluation never
 *          looks a name up.
 * Threads: one. */
#pragma once
#include "libcommon/bson/view.h"

#define STOR_VARIABLES_MAX 64

typedef struct {
    int64_t now_ms;        /* $$NOW, the same for the whole command */
    uint64_t cluster_time; /* $$CLUSTER_TIME; 0 = unknown */
    vd_bson_t user_roles;  /* $$USER_ROLES: array; empty = none */
    uint32_t count;        /* `let` of the command */
    struct {
        vd_slice_t name;
        vd_value_t value; /* already evaluated constants */
    } let[STOR_VARIABLES_MAX];
} stor_variables_t;

/* A copy that lives as long as the arena, as far as the request owns what it names. (expr.c) */
stor_variables_t *stor_variables_copy(vd_arena_t *arena, const stor_variables_t *from);
/* Gives a name a value, in the place of one that has it already. Names checked as MongoDB does; 15
 * when there are too many. (expr.c) */
VD_MUST_CHECK int stor_variables_bind(stor_variables_t *variables, vd_slice_t name,
                                      vd_value_t value, vd_error_t *err);
/* Reads a command's `let` document: evaluates each value as a constant expression. Names checked
 * as MongoDB does. (expr.c) */
VD_MUST_CHECK int stor_variables_parse_let(vd_arena_t *arena, vd_bson_t let,
                                           stor_variables_t *variables, vd_error_t *err);
