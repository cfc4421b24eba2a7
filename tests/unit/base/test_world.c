/* tests/unit/base/test_world.c — clock, chance, log lines, fault points. */
#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/rand.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t fixed_us(void)
{
    return 5000000;
}

static int64_t fixed_ms(void)
{
    return 1700000000123;
}

static const vd_clock_t fixed = {fixed_us, fixed_ms};

Test(clock, replaced_and_put_back)
{
    vd_clock_replace(&fixed);
    cr_assert_eq(vd_monotonic_ms(), 5000);
    cr_assert_eq(vd_wall_ms(), 1700000000123);
    vd_clock_replace(NULL);
    uint64_t before = vd_monotonic_us();
    cr_assert_geq(vd_monotonic_us(), before);
    cr_assert_gt(vd_wall_ms(), 1700000000123);
    cr_assert_eq(vd_elapsed(3, 10), 7);
    cr_assert_eq(vd_elapsed(11, 10), 0, "noted by another thread, a moment later");
}

Test(rand, repeats_and_is_bounded)
{
    vd_rand_t a, b;
    vd_rand_seed(&a, 1);
    vd_rand_seed(&b, 1);
    uint64_t counts[7] = {0};
    for (int i = 0; i < 70000; i++) {
        uint64_t v = vd_rand_below(&a, 7);
        cr_assert_eq(v, vd_rand_below(&b, 7));
        cr_assert_lt(v, 7);
        counts[v]++;
        double d = vd_rand_double(&a);
        cr_assert(d >= 0 && d < 1);
        cr_assert_eq(vd_rand_double(&b), d);
    }
    for (int i = 0; i < 7; i++)
        cr_assert(counts[i] > 9000 && counts[i] < 11000);
    cr_assert_eq(vd_rand_below(&a, 1), 0);
    uint8_t secret[300] = {0}, zero[300] = {0};
    vd_rand_secret(secret, sizeof secret);
    cr_assert_neq(memcmp(secret, zero, sizeof secret), 0);
}

/* What vd_log writes to standard error while `write` runs. */
static size_t captured(void (*write_lines)(void), char *out, size_t size)
{
    char path[] = "/tmp/vd-log-XXXXXX";
    int file = mkstemp(path), saved = dup(STDERR_FILENO);
    cr_assert_geq(file, 0);
    (void)unlink(path);
    (void)dup2(file, STDERR_FILENO);
    write_lines();
    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
    ssize_t n = pread(file, out, size - 1, 0);
    (void)close(file);
    cr_assert_geq(n, 0);
    out[n] = '\0';
    return (size_t)n;
}

static void write_plain(void)
{
    char quoted[64];
    vd_log_setup("test", VD_LOG_INFO, VD_LOG_LOGFMT);
    vd_log_set_generation(4);
    vd_log(VD_LOG_DEBUG, "not seen", "a=%d", 1);
    VD_DEBUG("not seen", "a=%d", 1);
    vd_log(VD_LOG_WARN, "worker \"gone\"", "worker=%s n=%d",
           vd_log_quote(VD_SLICE_LIT("a b\n\"c\""), quoted, sizeof quoted), 5);
    vd_log(VD_LOG_INFO, "no fields", "%s", "");
}

Test(log, logfmt)
{
    char out[4096], want[512];
    vd_clock_replace(&fixed);
    (void)captured(write_plain, out, sizeof out);
    (void)snprintf(want, sizeof want,
                   "ts=2023-11-14T22:13:20.123Z level=warn prog=test pid=%ld gen=4 "
                   "msg=\"worker \\\"gone\\\"\" worker=\"a b\\n\\\"c\\\"\" n=5\n"
                   "ts=2023-11-14T22:13:20.123Z level=info prog=test pid=%ld gen=4 "
                   "msg=\"no fields\"\n",
                   (long)getpid(), (long)getpid());
    cr_assert_str_eq(out, want);
}

static void write_json(void)
{
    char quoted[64];
    vd_log_setup("test", VD_LOG_INFO, VD_LOG_JSON);
    vd_log(VD_LOG_ERROR, "m", "a=%d b=%s c=%s d= e=007", -5, "x\"y",
           vd_log_quote(VD_SLICE_LIT("q \xC3\xA9 \xFF"), quoted, sizeof quoted));
}

Test(log, json)
{
    char out[4096];
    vd_clock_replace(&fixed);
    (void)captured(write_json, out, sizeof out);
    const char *fields = strstr(out, "\"msg\"");
    cr_assert_not_null(fields);
    cr_assert_str_eq(fields, "\"msg\":\"m\",\"a\":-5,\"b\":\"x\\\"y\",\"c\":\"q \xC3\xA9 \\ufffd\","
                             "\"d\":\"\",\"e\":\"007\"}\n");
}

static void write_long(void)
{
    char text[2 * VD_LOG_LINE_MAX];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    vd_log_setup("test", VD_LOG_INFO, VD_LOG_LOGFMT);
    vd_log(VD_LOG_INFO, "long", "a=%s", text);
    vd_log(VD_LOG_INFO, "two\nlines", "a=%s", "b\nc");
}

Test(log, long_lines_are_cut_and_stay_lines)
{
    char out[8192];
    size_t n = captured(write_long, out, sizeof out);
    const char *end = strchr(out, '\n');
    cr_assert_not_null(end);
    cr_assert_leq(end - out, VD_LOG_LINE_MAX);
    cr_assert_gt(end - out, VD_LOG_LINE_MAX - 8);
    cr_assert_eq(strchr(end + 1, '\n'), out + n - 1);
}

static void write_ring(void)
{
    vd_log_setup("test", VD_LOG_INFO, VD_LOG_LOGFMT);
    for (int i = 0; i < VD_LOG_RING_LINES + 10; i++)
        vd_log(VD_LOG_INFO, "line", "i=%d", i);
}

static int ring_seen;

static void read_ring(vd_slice_t line, void *context)
{
    char want[32];
    int n = snprintf(want, sizeof want, " i=%d", *(int *)context + ring_seen++);
    cr_assert(line.len > (size_t)n);
    cr_assert_eq(memcmp(line.data + line.len - n, want, (size_t)n), 0);
}

Test(log, ring_keeps_the_last_lines)
{
    static char out[400000];
    (void)captured(write_ring, out, sizeof out);
    int first = 10;
    vd_log_ring_read(read_ring, &first);
    cr_assert_eq(ring_seen, VD_LOG_RING_LINES);
}

Test(log, levels)
{
    vd_log_level_t level = VD_LOG_INFO;
    cr_assert_eq(vd_log_level_parse(VD_SLICE_LIT("error"), &level), VD_OK);
    cr_assert_eq(level, VD_LOG_ERROR);
    cr_assert_eq(vd_log_level_parse(VD_SLICE_LIT("loud"), &level), VD_ERR_BAD_VALUE);
    cr_assert_str_eq(vd_log_level_name(VD_LOG_FATAL), "fatal");
    char small[8];
    cr_assert_str_eq(vd_log_quote(VD_SLICE_LIT("plain"), small, sizeof small), "plain");
    cr_assert_str_eq(vd_log_quote(VD_SLICE_LIT("much too long"), small, sizeof small), "\"much \"");
    cr_assert_str_eq(vd_log_quote(VD_SLICE_NULL, small, sizeof small), "\"\"");
}

Test(fault, error_times_and_skip)
{
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(VD_FAULT("a.b", &err), VD_OK);
    cr_assert_eq(vd_fault_arm("a.b=error:times=2:skip=1,c.d=sleep_ms=1", &err), VD_OK);
    cr_assert_eq(VD_FAULT("a.b", &err), VD_OK);
    cr_assert_eq(VD_FAULT("a.b", &err), VD_ERR_FAULT_INJECTED);
    cr_assert_eq(VD_FAULT("a.b", &err), VD_ERR_FAULT_INJECTED);
    cr_assert_eq(VD_FAULT("a.b", &err), VD_OK);
    cr_assert_eq(VD_FAULT("c.d", &err), VD_OK);
    cr_assert_eq(VD_FAULT("other", &err), VD_OK);
    cr_assert_eq(vd_fault_count("a.b"), 4);
    vd_fault_disarm(NULL);
    cr_assert_eq(vd_fault_armed_count, 0);
    cr_assert_eq(VD_FAULT("a.b", &err), VD_OK);
    cr_assert_eq(vd_fault_count("a.b"), 4);
    cr_assert_eq(vd_fault_count("never"), 0);
}

Test(fault, malformed)
{
    static const char *const cases[] = {"",
                                        "a",
                                        "a=",
                                        "=error",
                                        "a=explode",
                                        "a=error:x=1",
                                        "a=sleep_ms=",
                                        "a=error:times=z",
                                        "a=sleep_ms=1z"};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_assert_eq(vd_fault_arm(cases[i], NULL), VD_ERR_CONFIG, "%s", cases[i]);
    cr_assert_eq(vd_fault_armed_count, 0);
}

static void *wait_at_fault(void *arg)
{
    int rc = VD_FAULT("w", NULL);
    __atomic_store_n((int *)arg, rc == VD_OK ? 1 : 2, __ATOMIC_RELEASE);
    return NULL;
}

Test(fault, wait_until_released, .timeout = 300)
{
    int passed = 0;
    pthread_t thread;
    cr_assert_eq(vd_fault_arm("w=wait", NULL), VD_OK);
    cr_assert_eq(pthread_create(&thread, NULL, wait_at_fault, &passed), 0);
    while (vd_fault_count("w") == 0)
        (void)usleep(1000);
    cr_assert_eq(__atomic_load_n(&passed, __ATOMIC_ACQUIRE), 0);
    vd_fault_disarm("w");
    (void)pthread_join(thread, NULL);
    cr_assert_eq(passed, 1);
}

Test(fault, kill_ends_the_process)
{
    pid_t child = fork();
    if (child == 0) {
        if (vd_fault_arm("k=kill", NULL) == VD_OK)
            (void)!VD_FAULT("k", NULL);
        _exit(0);
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}
