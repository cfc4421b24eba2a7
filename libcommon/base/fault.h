/* libcommon/base/fault.h — named fault points: compiled in, armed only under --test-faults.
 *
 * Duty:    a point costs one load when nothing is armed; one that acts says so in the log.
 * Names:   "<room>.<what>", for example "flusher.before_sync".
 * Spec:    "name=action[:times=N][:skip=N]" joined by commas. Actions: error (the call returns
 *          VD_ERR_FAULT_INJECTED), kill (SIGKILL to self), wait (until released), sleep_ms=N.
 * Threads: any. */
#pragma once
#include "libcommon/base/error.h"

extern int vd_fault_armed_count;
VD_MUST_CHECK int vd_fault_arm(const char *spec, vd_error_t *err);
void vd_fault_disarm(const char *name); /* also releases waiters; NULL = all */
VD_MUST_CHECK int vd_fault_hit(const char *name, vd_error_t *err);
/* How often a point was reached while armed. */
uint64_t vd_fault_count(const char *name);

/* VD_OK unless the point is armed with an action that says otherwise. */
#define VD_FAULT(name, err)                                                                        \
    (VD_UNLIKELY(__atomic_load_n(&vd_fault_armed_count, __ATOMIC_RELAXED) != 0)                    \
         ? vd_fault_hit((name), (err))                                                             \
         : VD_OK)
