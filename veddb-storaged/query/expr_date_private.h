/* veddb-storaged/query/expr_date_private.h — what expr_date.c and expr_datemath.c share. */
#pragma once
#include "veddb-storaged/query/expr_private.h"
#include "veddb-storaged/query/timezone.h"

/* The value of a `timezone` argument (NULL: UTC); code when it is no string. */
VD_MUST_CHECK int stor_expr_zone(const stor_expr_t *zone_expr, stor_expr_env_t *env, int code,
                                 stor_zone_t *ret_zone, bool *ret_null, vd_error_t *err);
