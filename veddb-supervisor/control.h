/* veddb-supervisor/control.h — links to the workers (also to those that it did not fork); messages
 * of old generations are dropped. */
#pragma once
#include "veddb-supervisor/system.h"

/* One ROUTER per kind in the folder that only this kind can reach. */
VD_MUST_CHECK int sup_control_open(sup_worker_t *worker, vd_error_t *err);
const char *sup_control_path(const sup_system_t *system, const sup_kind_t *kind, char *buf,
                             size_t size);
/* False when the worker is not connected. */
bool sup_control_drain(sup_worker_t *worker, uint64_t grace_ms);
bool sup_control_stop(sup_worker_t *worker, uint64_t grace_ms);
bool sup_control_ask_status(sup_worker_t *worker, uint64_t request_id);
/* Passes an operator's question on; the answer goes to sup_ops_answered under the same number. */
bool sup_control_ask(sup_worker_t *worker, uint64_t request_id, uint32_t wait_ms, vd_slice_t verb,
                     vd_slice_t argument, vd_slice_t argument2);
bool sup_control_log_level(sup_worker_t *worker, vd_slice_t level);
