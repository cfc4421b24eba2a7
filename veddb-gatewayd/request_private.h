/* veddb-gatewayd/request_private.h — what the files of a request's way share: request.c (from the
 * client, and back to it) and request_storage.c (to storage, and what it answers).
 *
 * Owner, threads: as request.h. */
#pragma once
#include "veddb-gatewayd/request.h"

#define GATE_REQUEST_REPLY_MAX_BYTES VD_BSON_INTERNAL_MAX_BYTES

/* ---- request.c ---- */

/* Login, privileges, then the work; it may be called again, after a wait. */
void gate_request_authorize(gate_request_t *request);
/* The error is sent, and the request is over. */
void gate_request_fail(gate_request_t *request, const vd_error_t *err);
/* The request is over; a connection that lives goes on. */
void gate_request_finished(gate_request_t *request);
/* A reply that may be large: given up where clients leave too much unread. */
void gate_request_finish_bounded(gate_request_t *request, vd_slice_t document);
/* The labels that an error of this code gets, by what is known of the request (GATE_REPLY_*). */
unsigned gate_request_labels(const gate_request_t *request, int code, unsigned facts);

/* ---- request_storage.c ---- */

/* A reply that stands in the cache: sent, and true. Who asks may see it: that was checked. */
VD_MUST_CHECK bool gate_request_from_cache(gate_request_t *request);
