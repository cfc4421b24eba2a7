/* proto/failure.h — how an error travels from program to program: the answer to a request that
 * can't be served. See failure.md. */
#pragma once
#include "proto/codec.h"

typedef struct {
    int64_t code; /* negative */
    vd_slice_t message;
} vdp_failure_t;
extern const vdp_message_t vdp_failure;

/* err -> message fields (borrows err). */
vdp_failure_t vdp_failure_from(const vd_error_t *err);
/* Sets err from a failure; returns its code. */
int vdp_failure_to(const vdp_failure_t *failure, vd_error_t *err);
