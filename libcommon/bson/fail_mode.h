/* libcommon/bson/fail_mode.h — when a fail point acts: the `mode` of configureFailPoint, and the
 * count of what it acted on.
 *
 * Owner:   the caller, who also locks. Pure. */
#pragma once
#include "libcommon/bson/view.h"

typedef struct {
    bool armed;
    int64_t times, skip; /* left; times -1: for ever */
    uint64_t hits;       /* how often it acted */
} vd_fail_mode_t;

/* "off", "alwaysOn", {times: n} or {skip: n}; hits are 0. VD_ERR_BAD_VALUE. */
VD_MUST_CHECK int vd_fail_mode_parse(vd_value_t value, vd_fail_mode_t *ret_mode, vd_error_t *err);
/* What the fail point is for has happened: true when it acts. */
bool vd_fail_mode_hit(vd_fail_mode_t *mode);
