/* veddb-rotated/rotation/show.h — the rotation as operators and Prometheus see it; pure.
 *
 * Threads: any. Errors: VD_ERR_FULL of the buffer. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-rotated/keyring.h"
#include "veddb-rotated/rotation/copies.h"
#include "veddb-rotated/rotation/machine.h"

#define ROT_SHOWN_KEYS_MAX 100 /* the newest */

/* One JSON object. copies: NULL is fine. */
VD_MUST_CHECK int rot_show_status(const rot_machine_t *machine, const rot_copies_t *copies,
                                  int64_t now_ms, bool history, vd_buf_t *out);
/* A JSON array. */
VD_MUST_CHECK int rot_show_keys(const rot_keyring_t *keyring, vd_buf_t *out);
/* {"text": Prometheus' text form}. */
VD_MUST_CHECK int rot_show_metrics(const rot_machine_t *machine, const rot_keyring_t *keyring,
                                   const rot_copies_t *copies, int64_t now_ms, vd_buf_t *out);

typedef struct {
    bool has_rate, has_rise, force;
    uint64_t rate;
    uint32_t rise;
} rot_ask_options_t;
/* The argument of a verb: empty, or a flat JSON object of rate, maxLatencyRise (numbers) and force
 * (true, false). VD_ERR_BAD_VALUE. */
VD_MUST_CHECK int rot_ask_options_parse(vd_slice_t argument, rot_ask_options_t *ret_options,
                                        vd_error_t *err);
