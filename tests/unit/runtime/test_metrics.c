/* tests/unit/runtime/test_metrics.c — counters, gauges, quantiles, and the text that Prometheus
 * reads. */
#include "libcommon/runtime/metrics.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

TestSuite(metrics, .timeout = 300);

static void *add_many(void *context)
{
    for (int i = 0; i < 100000; i++)
        vd_metric_add(context, 1);
    return NULL;
}

Test(metrics, counters_from_many_threads)
{
    pthread_t threads[20];
    vd_metric_t *counter = vd_metric_counter("veddb_test_adds_total", "", "Adds.");
    cr_assert_eq(vd_metric_counter("veddb_test_adds_total", "", "Adds."), counter);
    cr_assert_neq(vd_metric_counter("veddb_test_adds_total", "a=\"b\"", "Adds."), counter);
    for (int i = 0; i < 20; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, add_many, counter), 0);
    for (int i = 0; i < 20; i++)
        (void)pthread_join(threads[i], NULL);
    cr_assert_eq(vd_metric_value(counter), 2000000);
}

Test(metrics, quantiles_are_within_a_quarter)
{
    vd_metric_t *histogram = vd_metric_histogram("veddb_test_wait_seconds", "", "Waits.");
    cr_assert_eq(vd_metric_quantile_us(histogram, 0.5), 0);
    for (uint64_t us = 1; us <= 10000; us++)
        vd_metric_observe_us(histogram, us);
    static const struct {
        double q;
        uint64_t us;
    } cases[] = {{0, 1}, {0.5, 5000}, {0.9, 9000}, {0.99, 9900}, {1, 10000}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        uint64_t got = vd_metric_quantile_us(histogram, cases[i].q);
        cr_assert(got >= cases[i].us && got <= cases[i].us + cases[i].us / 4 + 1, "%g: %llu",
                  cases[i].q, (unsigned long long)got);
    }
    cr_assert_eq(vd_metric_value(histogram), 10000);
}

Test(metrics, extremes_are_kept_in_bounds)
{
    vd_metric_t *histogram = vd_metric_histogram("veddb_test_extreme_seconds", "", "Extremes.");
    vd_metric_observe_us(histogram, 0);
    vd_metric_observe_us(histogram, UINT64_MAX);
    vd_metric_observe_us(histogram, 1000000000);
    cr_assert_eq(vd_metric_quantile_us(histogram, 0), 0);
    cr_assert_geq(vd_metric_quantile_us(histogram, 1), 1000000000);
}

Test(metrics, printed_for_prometheus)
{
    vd_buf_t out;
    vd_buf_init(&out, 1 << 20);
    vd_metric_add(vd_metric_counter("veddb_a_total", "kind=\"x\"", "Things."), 3);
    vd_metric_set(vd_metric_gauge("veddb_b_bytes", "", "Bytes."), -5);
    vd_metric_add(vd_metric_counter("veddb_a_total", "kind=\"y\"", "Things."), 4);
    vd_metric_t *histogram = vd_metric_histogram("veddb_c_seconds", "command=\"find\"", "Time.");
    vd_metric_t *plain = vd_metric_histogram("veddb_d_seconds", "", "Time.");
    vd_metric_observe_us(histogram, 9);
    vd_metric_observe_us(histogram, 1500000);
    vd_metric_observe_us(plain, 20);
    cr_assert_eq(vd_metrics_print(&out), VD_OK);
    cr_assert_eq(vd_buf_append_u8(&out, 0), VD_OK);
    static const char *const lines[] = {
        ("# HELP veddb_a_total Things.\n# TYPE veddb_a_total counter\n"
         "veddb_a_total{kind=\"x\"} 3\nveddb_a_total{kind=\"y\"} 4\n"),
        "# TYPE veddb_b_bytes gauge\nveddb_b_bytes -5\n",
        "veddb_c_seconds_bucket{command=\"find\",le=\"1e-05\"} 1\n",
        "veddb_c_seconds_bucket{command=\"find\",le=\"1\"} 1\n",
        "veddb_c_seconds_bucket{command=\"find\",le=\"2.5\"} 2\n",
        "veddb_c_seconds_bucket{command=\"find\",le=\"+Inf\"} 2\n",
        "veddb_c_seconds_sum{command=\"find\"} 1.500009\n",
        "veddb_c_seconds_count{command=\"find\"} 2\n",
        "veddb_d_seconds_bucket{le=\"2.5e-05\"} 1\n",
        "veddb_d_seconds_sum 0.000020\nveddb_d_seconds_count 1\n",
    };
    for (size_t i = 0; i < VD_COUNT_OF(lines); i++)
        cr_assert_not_null(strstr((char *)out.data, lines[i]), "%s not in\n%s", lines[i],
                           (char *)out.data);
    vd_buf_done(&out);
    vd_buf_init(&out, 100);
    cr_assert_eq(vd_metrics_print(&out), VD_ERR_FULL);
    vd_buf_done(&out);
}
