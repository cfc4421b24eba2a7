/* libcommon/runtime/metrics.c — see metrics.h.
 *
 * A counter is SHARDS cells, each on a cache line of its own; a thread always adds to the same one.
 * A histogram has 4 buckets per power of two; each shard holds all of them. Registering takes a
 * lock, adding and observing don't. */
#include "libcommon/runtime/metrics.h"
#include "libcommon/base/mem.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SHARDS         16
#define LINE_BYTES     64
#define METRICS_MAX    2048
#define SUB_BITS       2 /* 4 buckets per power of two */
#define POWERS         31
#define BUCKETS        (POWERS << SUB_BITS)
#define OBSERVE_MAX_US 1000000000u /* 1000 s */

typedef enum { COUNTER, GAUGE, HISTOGRAM } kind_t;

typedef struct {
    _Alignas(LINE_BYTES) _Atomic uint64_t count;
    _Atomic uint64_t sum_us;
} cell_t;

typedef struct {
    _Alignas(LINE_BYTES) _Atomic uint64_t counts[BUCKETS];
} row_t;

struct vd_metric {
    char *name, *labels, *help;
    kind_t kind;
    _Atomic int64_t gauge;
    cell_t *cells; /* SHARDS */
    row_t *rows;   /* SHARDS, histograms */
};

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static vd_metric_t *registry[METRICS_MAX];
static atomic_uint registry_count;

static unsigned shard(void)
{
    static atomic_uint next;
    static _Thread_local unsigned mine; /* 0 = none yet */
    if (VD_UNLIKELY(mine == 0))
        mine = atomic_fetch_add(&next, 1) % SHARDS + 1;
    return mine - 1;
}

static void *aligned_zero(size_t size)
{
    void *p = aligned_alloc(LINE_BYTES, size); /* sizes here are whole lines */
    VD_ASSERT(p != NULL);                      /* start-up allocation */
    memset(p, 0, size);
    return p;
}

static vd_metric_t *get(kind_t kind, const char *name, const char *labels, const char *help)
{
    VD_ASSERT(name != NULL && labels != NULL && help != NULL);

    (void)pthread_mutex_lock(&registry_mutex);
    unsigned count = atomic_load(&registry_count);
    vd_metric_t *metric = NULL;
    for (unsigned i = 0; i < count && metric == NULL; i++)
        if (strcmp(registry[i]->name, name) == 0 && strcmp(registry[i]->labels, labels) == 0)
            metric = registry[i];
    if (metric == NULL) {
        VD_ASSERT(count < METRICS_MAX);
        metric = vd_xalloc(sizeof *metric);
        metric->name = vd_xstrdup(name);
        metric->labels = vd_xstrdup(labels);
        metric->help = vd_xstrdup(help);
        metric->kind = kind;
        if (kind != GAUGE)
            metric->cells = aligned_zero(SHARDS * sizeof *metric->cells);
        if (kind == HISTOGRAM)
            metric->rows = aligned_zero(SHARDS * sizeof *metric->rows);
        registry[count] = metric;
        atomic_store(&registry_count, count + 1);
    }
    VD_ASSERT(metric->kind == kind);
    (void)pthread_mutex_unlock(&registry_mutex);
    return metric;
}

vd_metric_t *vd_metric_counter(const char *name, const char *labels, const char *help)
{
    return get(COUNTER, name, labels, help);
}

vd_metric_t *vd_metric_gauge(const char *name, const char *labels, const char *help)
{
    return get(GAUGE, name, labels, help);
}

vd_metric_t *vd_metric_histogram(const char *name, const char *labels, const char *help)
{
    return get(HISTOGRAM, name, labels, help);
}

/* 0..3 have buckets of their own; above, the top SUB_BITS bits behind the leading one choose. */
static unsigned bucket_of(uint64_t us)
{
    if (us > OBSERVE_MAX_US)
        us = OBSERVE_MAX_US;
    if (us < (1u << SUB_BITS))
        return (unsigned)us;
    unsigned power = 63u - (unsigned)__builtin_clzll(us);
    unsigned sub = (unsigned)(us >> (power - SUB_BITS)) & ((1u << SUB_BITS) - 1);
    return ((power - SUB_BITS + 1) << SUB_BITS) + sub;
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    if (bucket < (1u << SUB_BITS))
        return bucket;
    unsigned power = (bucket >> SUB_BITS) + SUB_BITS - 1;
    uint64_t sub = bucket & ((1u << SUB_BITS) - 1);
    uint64_t width = 1ull << (power - SUB_BITS);
    return (1ull << power) + (sub + 1) * width - 1;
}

void vd_metric_add(vd_metric_t *metric, uint64_t n)
{
    VD_ASSERT_SLOW(metric->kind == COUNTER);
    atomic_fetch_add_explicit(&metric->cells[shard()].count, n, memory_order_relaxed);
}

void vd_metric_set(vd_metric_t *metric, int64_t value)
{
    VD_ASSERT_SLOW(metric->kind == GAUGE);
    atomic_store_explicit(&metric->gauge, value, memory_order_relaxed);
}

void vd_metric_observe_us(vd_metric_t *metric, uint64_t us)
{
    VD_ASSERT_SLOW(metric->kind == HISTOGRAM);
    unsigned mine = shard();
    atomic_fetch_add_explicit(&metric->rows[mine].counts[bucket_of(us)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->cells[mine].count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->cells[mine].sum_us, us, memory_order_relaxed);
}

uint64_t vd_metric_value(const vd_metric_t *metric)
{
    if (metric->kind == GAUGE)
        return (uint64_t)atomic_load_explicit(&metric->gauge, memory_order_relaxed);
    uint64_t total = 0;
    for (unsigned i = 0; i < SHARDS; i++)
        total += atomic_load_explicit(&metric->cells[i].count, memory_order_relaxed);
    return total;
}

uint64_t vd_metric_sum_us(const vd_metric_t *metric)
{
    VD_ASSERT_SLOW(metric->kind == HISTOGRAM);
    uint64_t total = 0;
    for (unsigned i = 0; i < SHARDS; i++)
        total += atomic_load_explicit(&metric->cells[i].sum_us, memory_order_relaxed);
    return total;
}

static uint64_t sum_buckets(const vd_metric_t *metric, uint64_t counts[BUCKETS])
{
    uint64_t total = 0;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        counts[bucket] = 0;
        for (unsigned i = 0; i < SHARDS; i++)
            counts[bucket] +=
                atomic_load_explicit(&metric->rows[i].counts[bucket], memory_order_relaxed);
        total += counts[bucket];
    }
    return total;
}

uint64_t vd_metric_quantile_us(const vd_metric_t *metric, double q)
{
    VD_ASSERT(metric->kind == HISTOGRAM && q >= 0 && q <= 1);

    uint64_t counts[BUCKETS];
    uint64_t total = sum_buckets(metric, counts), seen = 0;
    if (total == 0)
        return 0;
    uint64_t rank = (uint64_t)(q * (double)total);
    if (rank >= total)
        rank = total - 1;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += counts[bucket];
        if (seen > rank)
            return bucket_top(bucket);
    }
    return OBSERVE_MAX_US;
}

static const uint64_t boundaries_us[] = {
    10,    25,     50,     100,    250,     500,     1000,    2500,     5000,     10000,     25000,
    50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 100000000,
};

static int print_histogram(const vd_metric_t *metric, vd_buf_t *out)
{
    uint64_t counts[BUCKETS], below = 0, sum_us = 0;
    uint64_t total = sum_buckets(metric, counts);
    unsigned bucket = 0;
    const char *comma = metric->labels[0] == '\0' ? "" : ",";
    int rc = VD_OK;
    for (size_t i = 0; i < VD_COUNT_OF(boundaries_us) && rc == VD_OK; i++) {
        while (bucket < BUCKETS && bucket_top(bucket) <= boundaries_us[i])
            below += counts[bucket++];
        rc = vd_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", metric->name,
                           metric->labels, comma, (double)boundaries_us[i] / 1e6, below);
    }
    for (unsigned i = 0; i < SHARDS; i++)
        sum_us += atomic_load_explicit(&metric->cells[i].sum_us, memory_order_relaxed);
    const char *open = comma[0] == '\0' ? "" : "{", *close = comma[0] == '\0' ? "" : "}";
    if (rc == VD_OK)
        rc = vd_buf_printf(out,
                           "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n%s_sum%s%s%s %" PRIu64
                           ".%06" PRIu64 "\n%s_count%s%s%s %" PRIu64 "\n",
                           metric->name, metric->labels, comma, total, metric->name, open,
                           metric->labels, close, sum_us / 1000000, sum_us % 1000000, metric->name,
                           open, metric->labels, close, total);
    return rc;
}

static int print_metric(const vd_metric_t *metric, vd_buf_t *out)
{
    if (metric->kind == HISTOGRAM)
        return print_histogram(metric, out);
    const char *open = metric->labels[0] == '\0' ? "" : "{";
    const char *close = metric->labels[0] == '\0' ? "" : "}";
    if (metric->kind == GAUGE)
        return vd_buf_printf(out, "%s%s%s%s %" PRId64 "\n", metric->name, open, metric->labels,
                             close, (int64_t)vd_metric_value(metric));
    return vd_buf_printf(out, "%s%s%s%s %" PRIu64 "\n", metric->name, open, metric->labels, close,
                         vd_metric_value(metric));
}

int vd_metrics_print(vd_buf_t *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    unsigned count = atomic_load(&registry_count);
    int rc = VD_OK;
    /* All lines of one name must stand together, whatever the order of registration. */
    for (unsigned i = 0; i < count && rc == VD_OK; i++) {
        bool first = true;
        for (unsigned j = 0; j < i && first; j++)
            first = strcmp(registry[i]->name, registry[j]->name) != 0;
        if (!first)
            continue;
        rc = vd_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", registry[i]->name,
                           registry[i]->help, registry[i]->name, types[registry[i]->kind]);
        for (unsigned j = i; j < count && rc == VD_OK; j++)
            if (strcmp(registry[i]->name, registry[j]->name) == 0)
                rc = print_metric(registry[j], out);
    }
    return rc;
}
