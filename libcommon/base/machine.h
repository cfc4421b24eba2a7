/* libcommon/base/machine.h — what this process may use of the machine that it runs on.
 *
 * Threads: any. */
#pragma once
#include <stdint.h>

/* Bytes of memory: the least limit of the control groups that we are in, or the machine's memory
 * when there is none. */
uint64_t vd_machine_memory_bytes(void);
/* Processors that we may run on (affinity counts), at least 1. */
uint32_t vd_machine_cores(void);
