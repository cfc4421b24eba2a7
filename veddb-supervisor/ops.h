/* veddb-supervisor/ops.h — the operators' control socket: requests of vedctl and their answers
 * (status.c makes the text). */
#pragma once
#include "veddb-supervisor/system.h"

typedef struct sup_ops sup_ops_t;

VD_MUST_CHECK int sup_ops_open(sup_system_t *system, sup_ops_t **ret_ops, vd_error_t *err);
void sup_ops_close(sup_ops_t **ops_p);
/* A worker's part of the status has come: JSON, checked to be one object. */
void sup_ops_status_arrived(sup_worker_t *worker, vd_slice_t json);
/* It will not come. */
void sup_ops_status_failed(sup_worker_t *worker, const char *why);
/* A worker answers, or can't answer, what an operator asked it. False when nobody waits for that
 * number: it is no question of an operator, or its time was over. */
bool sup_ops_answered(sup_worker_t *worker, uint64_t request_id, int code, const char *message,
                      vd_slice_t json);
/* Something for the audit log: kept, at most 64 of them, until rotated has sealed it. Does nothing
 * where there is no audit. */
void sup_ops_note(sup_system_t *system, const char *atype, const char *format, ...) VD_PRINTF(3, 4);
/* It is not connected any more: what it was asked will not be answered. */
void sup_ops_worker_gone(sup_worker_t *worker);
