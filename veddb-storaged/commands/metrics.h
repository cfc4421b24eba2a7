/* veddb-storaged/commands/metrics.h — latency and errors of every command.
 *
 * Threads: any. */
#pragma once
#include "veddb-storaged/catalog/catalog.h"
#include "veddb-storaged/commands/table.h"

typedef struct {
    uint64_t operations, us;
} stor_latency_t;

/* serverStatus.opLatencies: of all commands since the process began. */
typedef struct {
    stor_latency_t reads, writes, commands, transactions;
} stor_latencies_t;

void stor_metrics_observe(const stor_command_t *entry, uint64_t us, bool failed);
/* $collStats and top: what a command did in one collection. */
void stor_metrics_traffic(const stor_command_t *entry, stor_collection_t *collection, uint64_t us);
void stor_metrics_latencies(stor_latencies_t *ret);
