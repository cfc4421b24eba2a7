/* tests/bench/ycsb.h — what both load generators share: options, YCSB's choice of keys and
 * operations, documents, latency figures.
 *
 * Workloads: A (50 % update), B (5 % update), C (reads), D (reads of the latest, 5 % insert), E
 *            (short scans, 5 % insert), F (read-modify-write), load (bulk insert), I (look-ups on
 *            the index {group: 1}: 20 documents). Documents have ten fields of 100 bytes, and
 *            `group`, of which each 20 that lie far apart have the same.
 * Threads:   a ycsb_t per thread; options are set once. */
#pragma once
#include <bson/bson.h>

#define YCSB_FIELDS            10
#define YCSB_FIELD_BYTES       100
#define YCSB_HISTOGRAM_BUCKETS 4096
#define YCSB_LOAD_BATCH        1000
#define YCSB_GROUP_DOCUMENTS   20

typedef struct {
    const char *host, *ca, *user, *password, *workload, *pids, *uri;
    const char *write_concern; /* "majority", a number, or NULL = the server's default */
    int port, clients;
    double seconds;
    int64_t records;
    bool zipfian;
} ycsb_options_t;

typedef enum {
    YCSB_READ,
    YCSB_UPDATE,
    YCSB_INSERT,
    YCSB_SCAN,
    YCSB_READ_MODIFY_WRITE,
    YCSB_LOOKUP
} ycsb_operation_t;

typedef struct {
    uint64_t random_state;
    uint64_t histogram[YCSB_HISTOGRAM_BUCKETS], operations, errors;
} ycsb_t;

extern ycsb_options_t ycsb_options;

void ycsb_parse(int argc, char **argv, const char *program);
_Noreturn void ycsb_die(const char *what);
void ycsb_init(ycsb_t *ycsb, uint64_t seed);
/* What to do next and on which key. Inserts get a key of their own. */
ycsb_operation_t ycsb_next(ycsb_t *ycsb, int64_t *ret_key);
uint32_t ycsb_below(ycsb_t *ycsb, uint32_t bound);
void ycsb_key_text(int64_t key, char out[32]);
int32_t ycsb_group(int64_t key);
void ycsb_document(ycsb_t *ycsb, bson_t *doc, int64_t key);
/* {field3: "..."}: one field's new value. */
void ycsb_change(ycsb_t *ycsb, bson_t *set);
double ycsb_now_s(void);
void ycsb_observe(ycsb_t *ycsb, double seconds);
void ycsb_add(ycsb_t *total, const ycsb_t *part);

/* Brackets the measured time; the report is one JSON object. */
void ycsb_measure_begin(void);
int ycsb_report(const ycsb_t *total);
