/* tests/unit/query/expr_cases.h — tables of expressions: a document, an expression, what comes out.
 */
#pragma once
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/query/expr.h"

typedef struct {
    const char *document; /* NULL: {} */
    const char *expr;     /* JSON of the expression */
    const char *result;   /* JSON of the value, "MISSING", or NULL when `code` is expected */
    int code;             /* MongoDB's number */
} expr_case_t;

#define EXPR_NOW_MS INT64_C(1700000000123)

static inline void expr_test_variables(stor_variables_t *variables)
{
    memset(variables, 0, sizeof *variables);
    variables->now_ms = EXPR_NOW_MS;
    variables->cluster_time = UINT64_C(7) << 32 | 9;
}

static inline int expr_run_case(vd_arena_t *arena, const expr_case_t *c, vd_value_t *ret,
                                vd_error_t *err)
{
    stor_variables_t *variables = VD_ARENA_NEW(arena, stor_variables_t);
    expr_test_variables(variables);
    stor_expr_t *expr;
    int rc = stor_expr_parse(arena, query_value(arena, c->expr), variables, &expr, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_env_t env;
    stor_expr_env_init(&env, arena, variables);
    stor_expr_env_document(&env, query_json(arena, c->document == NULL ? "{}" : c->document));
    return stor_expr_eval(expr, &env, ret, err);
}

static inline bool expr_both_nan(vd_value_t a, vd_value_t b)
{
    return a.type == VD_BSON_DOUBLE && vd_value_double(a) != vd_value_double(a) &&
           vd_value_double(b) != vd_value_double(b);
}

static inline void expr_check(const expr_case_t *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const expr_case_t *c = &cases[i];
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        vd_value_t got = VD_VALUE_MISSING;
        int rc = expr_run_case(arena, c, &got, &err);
        if (c->result == NULL) {
            cr_expect(rc == -c->code, "%s: got code %d, want %d (%s)", c->expr, -rc, c->code,
                      err.message);
            cr_expect(rc != VD_OK && err.message[0] != 0, "%s: no message", c->expr);
            cr_expect(expr_run_case(arena, c, &got, NULL) == rc, "%s: without an error to fill",
                      c->expr);
        } else {
            cr_expect(rc == VD_OK, "%s: error %d %s", c->expr, -rc, err.message);
            vd_value_t want = strcmp(c->result, "MISSING") == 0 ? VD_VALUE_MISSING
                                                                : query_value(arena, c->result);
            if (rc == VD_OK)
                cr_expect(got.type == want.type &&
                              (got.type == 0 || vd_value_identical(got, want) ||
                               expr_both_nan(got, want)),
                          "%s on %s: got %s (%s), want %s (%s)", c->expr,
                          c->document == NULL ? "{}" : c->document,
                          got.type == 0 ? "missing" : vd_value_to_json(arena, got, 4000),
                          vd_bson_type_name(got.type), c->result, vd_bson_type_name(want.type));
        }
        vd_arena_destroy(&arena);
    }
}
#define EXPR_CHECK(cases) expr_check(cases, VD_COUNT_OF(cases))
