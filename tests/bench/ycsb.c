/* tests/bench/ycsb.c — see ycsb.h. */
#include "tests/bench/ycsb.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define INSERT_EPOCH_S 1767225600 /* 2026-01-01: keeps the keys short */

ycsb_options_t ycsb_options = {.host = "127.0.0.1",
                               .workload = "C",
                               .clients = 16,
                               .seconds = 10,
                               .records = 200000,
                               .zipfian = true};

static _Atomic int64_t inserted;
static int64_t insert_base; /* runs on one database one after the other insert different keys */

void ycsb_die(const char *what)
{
    fprintf(stderr, "bench: %s (%s)\n", what, strerror(errno));
    exit(1);
}

double ycsb_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- chance ---- */

static uint64_t random_u64(ycsb_t *ycsb)
{
    uint64_t r = ycsb->random_state;
    r ^= r << 13, r ^= r >> 7, r ^= r << 17;
    return ycsb->random_state = r;
}

static double random_double(ycsb_t *ycsb)
{
    return (double)(random_u64(ycsb) >> 11) / 9007199254740992.0;
}

uint32_t ycsb_below(ycsb_t *ycsb, uint32_t bound)
{
    return (uint32_t)(random_u64(ycsb) % bound);
}

/* Gray's zipfian generator as YCSB has it (theta 0.99), scattered over the key space by a hash. */
static const double zipf_theta = 0.99;
static double zipf_zetan, zipf_eta, zipf_alpha;

static void zipf_prepare(int64_t n)
{
    double zeta2 = 1 + pow(0.5, zipf_theta);
    for (int64_t i = 1; i <= n; i++)
        zipf_zetan += 1 / pow((double)i, zipf_theta);
    zipf_alpha = 1 / (1 - zipf_theta);
    zipf_eta = (1 - pow(2.0 / (double)n, 1 - zipf_theta)) / (1 - zeta2 / zipf_zetan);
}

static int64_t zipf_next(ycsb_t *ycsb, int64_t n)
{
    double u = random_double(ycsb), uz = u * zipf_zetan;
    if (uz < 1)
        return 0;
    if (uz < 1 + pow(0.5, zipf_theta))
        return 1;
    return (int64_t)((double)n * pow(zipf_eta * u - zipf_eta + 1, zipf_alpha));
}

static int64_t pick_key(ycsb_t *ycsb)
{
    if (!ycsb_options.zipfian)
        return (int64_t)(random_u64(ycsb) % (uint64_t)ycsb_options.records);
    uint64_t hash = (uint64_t)zipf_next(ycsb, ycsb_options.records) * 0x9E3779B97F4A7C15ull;
    return (int64_t)((hash ^ hash >> 29) % (uint64_t)ycsb_options.records);
}

ycsb_operation_t ycsb_next(ycsb_t *ycsb, int64_t *ret_key)
{
    double r = random_double(ycsb);
    char workload = ycsb_options.workload[0];
    if ((workload == 'D' || workload == 'E') && r < 0.05) {
        *ret_key = ycsb_options.records + insert_base + inserted++;
        return YCSB_INSERT;
    }
    *ret_key = workload == 'D' ? ycsb_options.records - 1 - zipf_next(ycsb, ycsb_options.records)
                               : pick_key(ycsb);
    if (workload == 'E')
        return YCSB_SCAN;
    if (workload == 'I')
        return YCSB_LOOKUP;
    if (workload == 'F' && r < 0.5)
        return YCSB_READ_MODIFY_WRITE;
    return r < (workload == 'A' ? 0.5 : workload == 'B' ? 0.05 : 0) ? YCSB_UPDATE : YCSB_READ;
}

/* ---- documents ---- */

static void random_text(ycsb_t *ycsb, char *out, size_t len)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 8) {
        uint64_t r = random_u64(ycsb);
        for (size_t j = 0; j < 8 && i + j < len; j++, r >>= 6)
            out[i + j] = letters[r & 63];
    }
    out[len] = '\0';
}

void ycsb_key_text(int64_t key, char out[32])
{
    snprintf(out, 32, "user%012" PRId64, key);
}

int32_t ycsb_group(int64_t key)
{
    int64_t groups = ycsb_options.records / YCSB_GROUP_DOCUMENTS;
    return (int32_t)(key % (groups == 0 ? 1 : groups));
}

void ycsb_document(ycsb_t *ycsb, bson_t *doc, int64_t key)
{
    char text[32], name[16], value[YCSB_FIELD_BYTES + 1];
    ycsb_key_text(key, text);
    BSON_APPEND_UTF8(doc, "_id", text);
    BSON_APPEND_INT32(doc, "group", ycsb_group(key));
    for (int i = 0; i < YCSB_FIELDS; i++) {
        snprintf(name, sizeof name, "field%d", i);
        random_text(ycsb, value, YCSB_FIELD_BYTES);
        BSON_APPEND_UTF8(doc, name, value);
    }
}

void ycsb_change(ycsb_t *ycsb, bson_t *set)
{
    char name[16], value[YCSB_FIELD_BYTES + 1];
    snprintf(name, sizeof name, "field%u", ycsb_below(ycsb, YCSB_FIELDS));
    random_text(ycsb, value, YCSB_FIELD_BYTES);
    BSON_APPEND_UTF8(set, name, value);
}

/* ---- figures ---- */

/* Log-linear: 64 steps per doubling from 1 us. */
void ycsb_observe(ycsb_t *ycsb, double seconds)
{
    double us = seconds * 1e6;
    int bucket = us <= 1 ? 0 : (int)(log2(us) * 64);
    ycsb->histogram[bucket >= YCSB_HISTOGRAM_BUCKETS ? YCSB_HISTOGRAM_BUCKETS - 1 : bucket]++;
}

static double quantile(const ycsb_t *ycsb, double q)
{
    uint64_t seen = 0, all = 0;
    for (int i = 0; i < YCSB_HISTOGRAM_BUCKETS; i++)
        all += ycsb->histogram[i];
    for (int i = 0; i < YCSB_HISTOGRAM_BUCKETS; i++)
        if ((seen += ycsb->histogram[i]) > (uint64_t)((double)all * q))
            return pow(2, (double)i / 64);
    return 0;
}

void ycsb_add(ycsb_t *total, const ycsb_t *part)
{
    for (int i = 0; i < YCSB_HISTOGRAM_BUCKETS; i++)
        total->histogram[i] += part->histogram[i];
    total->operations += part->operations;
    total->errors += part->errors;
}

/* User and system seconds so far of the processes in --pids. */
static double server_cpu(void)
{
    double total = 0;
    char *copy = strdup(ycsb_options.pids == NULL ? "" : ycsb_options.pids), *rest = copy;
    for (char *word; (word = strsep(&rest, ",")) != NULL;) {
        char path[64], line[1024];
        if (*word == 0)
            continue;
        snprintf(path, sizeof path, "/proc/%s/stat", word);
        FILE *f = fopen(path, "r");
        unsigned long user, sys;
        if (f != NULL && fgets(line, sizeof line, f) != NULL &&
            sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                   &user, &sys) == 2)
            total += (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
        if (f != NULL)
            fclose(f);
    }
    free(copy);
    return total;
}

static double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double begin_s, begin_server, begin_own;

void ycsb_measure_begin(void)
{
    begin_s = ycsb_now_s();
    begin_server = server_cpu();
    begin_own = own_cpu();
}

int ycsb_report(const ycsb_t *total)
{
    double took = ycsb_now_s() - begin_s, server = server_cpu() - begin_server,
           own = own_cpu() - begin_own;
    double per = total->operations == 0 ? 0 : 1e6 / (double)total->operations;
    printf("{\"workload\":\"%s\",\"clients\":%d,\"ops\":%" PRIu64 ",\"errors\":%" PRIu64
           ",\"ops_per_s\":%.0f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"server_cpu_us\":%.2f,\"client_"
           "cpu_us\":%.2f}\n",
           ycsb_options.workload, ycsb_options.clients, total->operations, total->errors,
           (double)total->operations / took, quantile(total, 0.5), quantile(total, 0.99),
           server * per, own * per);
    return total->errors == 0 ? 0 : 1;
}

/* ---- options ---- */

void ycsb_parse(int argc, char **argv, const char *program)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--host") == 0)
            ycsb_options.host = value;
        else if (strcmp(name, "--port") == 0)
            ycsb_options.port = atoi(value);
        else if (strcmp(name, "--ca") == 0)
            ycsb_options.ca = value;
        else if (strcmp(name, "--user") == 0)
            ycsb_options.user = value;
        else if (strcmp(name, "--workload") == 0)
            ycsb_options.workload = value;
        else if (strcmp(name, "--clients") == 0)
            ycsb_options.clients = atoi(value);
        else if (strcmp(name, "--seconds") == 0)
            ycsb_options.seconds = atof(value);
        else if (strcmp(name, "--records") == 0)
            ycsb_options.records = atoll(value);
        else if (strcmp(name, "--distribution") == 0)
            ycsb_options.zipfian = strcmp(value, "zipfian") == 0;
        else if (strcmp(name, "--write-concern") == 0)
            ycsb_options.write_concern = value;
        else if (strcmp(name, "--pids") == 0)
            ycsb_options.pids = value;
        else
            ycsb_die("unknown option");
    }
    ycsb_options.password = getenv("BENCH_PASSWORD"); /* never an argument: everybody sees those */
    if (ycsb_options.port == 0 || ycsb_options.ca == NULL || ycsb_options.clients < 1) {
        fprintf(stderr,
                "usage: %s --port P --ca FILE --user U [--workload A-F|load] [--clients N] "
                "[--seconds S] [--records N]\n"
                "       [--distribution zipfian|uniform] [--write-concern N|majority] [--pids "
                "a,b,c]     password in "
                "BENCH_PASSWORD\n",
                program);
        exit(64);
    }
    if (ycsb_options.workload[0] == 'l')
        ycsb_options.clients = 1;
    insert_base = ((int64_t)time(NULL) - INSERT_EPOCH_S) * 100000;
    zipf_prepare(ycsb_options.records);
}

void ycsb_init(ycsb_t *ycsb, uint64_t seed)
{
    memset(ycsb, 0, sizeof *ycsb);
    ycsb->random_state = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
}
