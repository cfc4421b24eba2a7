/* veddb-supervisor/status.h — what operators see: the node's state as one JSON object. */
#pragma once
#include "veddb-supervisor/system.h"

VD_MUST_CHECK int sup_status_print(const sup_system_t *system, vd_buf_t *out);
