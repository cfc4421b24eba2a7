/* veddb-storaged/commands/metrics.h — latency and errors of every command.
 *
 * Threads: any. */
#pragma once
#include "veddb-storaged/commands/table.h"

void stor_metrics_observe(const stor_command_t *entry, uint64_t us, bool failed);
