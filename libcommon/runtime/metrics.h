/* libcommon/runtime/metrics.h — counters, gauges and latency histograms: real figures only, printed
 * in Prometheus' text form.
 *
 * Owner:   the registry lives as long as the process; metrics are static or created at start, never
 *          at run time.
 * Threads: add/observe from any, wait-free (sharded per thread); print sums up.
 * Names:   veddb_<room>_<what>_<unit>[_total]. */
#pragma once
#include "libcommon/base/buf.h"

typedef struct vd_metric vd_metric_t;

/* labels: "command=\"find\"" or "" ; the same (name, labels) twice returns the first. */
vd_metric_t *vd_metric_counter(const char *name, const char *labels, const char *help);
vd_metric_t *vd_metric_gauge(const char *name, const char *labels, const char *help);
/* Log-linear buckets from 1 us to 1000 s. */
vd_metric_t *vd_metric_histogram(const char *name, const char *labels, const char *help);
void vd_metric_add(vd_metric_t *metric, uint64_t n);
void vd_metric_set(vd_metric_t *metric, int64_t value);
void vd_metric_observe_us(vd_metric_t *metric, uint64_t us);
uint64_t vd_metric_value(const vd_metric_t *metric);
uint64_t vd_metric_sum_us(const vd_metric_t *metric); /* of a histogram */
/* Approximate quantile of a histogram in microseconds. */
uint64_t vd_metric_quantile_us(const vd_metric_t *metric, double q);
VD_MUST_CHECK int vd_metrics_print(vd_buf_t *out);
