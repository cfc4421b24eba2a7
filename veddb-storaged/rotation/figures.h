/* veddb-storaged/rotation/figures.h — rotated's figures of the keys, for the gateway's page:
 * rotated itself serves nobody over a network.
 *
 * Duty:    keeps what rotated said last, and forgets it when rotated is away for
 *          STOR_FIGURES_OLD_MS.
 * Owner:   the process.
 * Threads: any.
 * Limits:  STOR_FIGURES_MAX_BYTES; more is not kept. */
#pragma once
#include "libcommon/base/buf.h"

#define STOR_FIGURES_MAX_BYTES (128 * 1024)
#define STOR_FIGURES_OLD_MS    60000
#define STOR_FIGURES_LATE_MS   10000 /* the key holder does not answer any more */
#define STOR_FIGURES_ASK_MS    2000

/* As answered to the question `metrics`: BSON with `text`; a failed one changes nothing. */
void stor_figures_take(void *context, int code, vd_slice_t message, vd_slice_t body);
VD_MUST_CHECK int stor_figures_print(vd_buf_t *out);
