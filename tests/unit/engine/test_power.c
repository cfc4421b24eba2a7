/* tests/unit/engine/test_power.c — power loss (the file-system layer) and SIGKILL: whatever was
 * acknowledged is there afterwards, no transaction is there by half, no timestamp is issued twice.
 * A forked child writes and acknowledges over a pipe; the parent opens what is left. */
#include "libcommon/base/rand.h"
#include "tests/unit/engine/engine_support.h"
#include "veddb-storaged/engine/fs_faults.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#define WRITERS     3
#define NUMBERS_MAX 200000

/* What the child says about a transaction: its number was drawn for it, or it was released by the
 * flusher. */
typedef struct {
    uint64_t number, timestamp, acknowledged;
} report_t;

typedef struct {
    stor_flush_waiter_t waiter; /* first */
    report_t report;
} ticket_t;

typedef struct {
    place_t *place;
    int pipe_fd;
    uint64_t first_number, transactions_max, seed;
    const char *faults;
} writing_t;

static atomic_uint_fast64_t next_number;
static int report_fd;

static void report_send(const report_t *report)
{
    if (write(report_fd, report, sizeof *report) != (ssize_t)sizeof *report)
        _exit(7);
}

static void acknowledge(stor_flush_waiter_t *list, void *context)
{
    (void)context;
    while (list != NULL) {
        ticket_t *ticket = (ticket_t *)(void *)list;
        list = list->next;
        ticket->report.acknowledged = 1;
        report_send(&ticket->report);
        free(ticket);
    }
}

/* Two records of one number: both or none may be there later. */
static int write_pair(stor_session_t *session, stor_cursor_t *cursor, uint64_t number, size_t len,
                      uint64_t *ret_timestamp)
{
    char key[32];
    uint8_t value[4096];
    memset(value, (int)number, sizeof value);
    if (stor_txn_begin(session, NULL) != VD_OK)
        return 2;
    report_t report = {.number = number, .timestamp = stor_txn_timestamp(session)};
    report_send(&report);
    for (int half = 0; half < 2; half++) {
        int key_len = snprintf(key, sizeof key, "%c%012" PRIu64, half == 0 ? 'a' : 'b', number);
        if (stor_cursor_put(cursor, vd_slice(key, (size_t)key_len), vd_slice(value, len), NULL) !=
            VD_OK) {
            stor_txn_rollback(session);
            return 3;
        }
    }
    *ret_timestamp = report.timestamp;
    return stor_txn_commit(session, NULL) == VD_OK ? 0 : 4;
}

static void *writer_run(void *arg)
{
    writing_t *writing = arg;
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    vd_rand_t rand;
    vd_rand_seed(&rand, writing->seed);
    if (stor_session_open(writing->place->engine, &session, NULL) != VD_OK ||
        stor_cursor_open(session, "c-1", &cursor, NULL) != VD_OK)
        _exit(8);
    for (;;) {
        uint64_t number = atomic_fetch_add(&next_number, 1);
        if (number - writing->first_number >= writing->transactions_max)
            break;
        ticket_t *ticket = calloc(1, sizeof *ticket);
        ticket->report.number = number;
        int rc = write_pair(session, cursor, number, 20 + vd_rand_below(&rand, 2000),
                            &ticket->report.timestamp);
        if (rc != 0)
            _exit(10 + rc);
        if (stor_engine_flush_wait(writing->place->engine, ticket->report.timestamp,
                                   &ticket->waiter))
            acknowledge(&ticket->waiter, NULL);
    }
    stor_session_close(&session);
    return NULL;
}

static int child_write(void *arg)
{
    writing_t *writing = arg;
    place_t *place = writing->place;
    report_fd = writing->pipe_fd;
    atomic_store(&next_number, writing->first_number);
    place->options.fs_faults = writing->faults;
    place->options.released = acknowledge;
    place->options.checkpoint_wait_s = 1;
    place_keys(place, 1, 1);
    if (place_open(place, !stor_engine_exists(place->folder)) != VD_OK) {
        (void)fprintf(stderr, "child: %s\n", place->err.message);
        return 5;
    }
    int rc = stor_engine_table_create(place->engine, "c-1", false, &place->err);
    if (rc != VD_OK && rc != VD_ERR_EXISTS)
        return 6;
    pthread_t threads[WRITERS];
    writing_t own[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        own[i] = *writing;
        own[i].seed = writing->seed * 31 + (uint64_t)i;
        if (pthread_create(&threads[i], NULL, writer_run, &own[i]) != 0)
            return 9;
    }
    char name[32];
    for (int i = 0; i < 6; i++) {
        usleep(3000);
        (void)snprintf(name, sizeof name, "t-%" PRIu64 "-%d", writing->first_number, i);
        if (i % 2 == 0)
            either(stor_engine_checkpoint(place->engine, NULL));
        else
            either(stor_engine_table_create(place->engine, name, false, NULL));
    }
    for (int i = 0; i < WRITERS; i++)
        (void)pthread_join(threads[i], NULL);
    if (writing->faults != NULL)
        stor_fs_faults_power_loss();
    return 0;
}

typedef struct {
    uint8_t *drawn, *acknowledged; /* by number */
    uint64_t timestamp_max, number_max, acknowledged_count;
} known_t;

static void reports_read(int fd, known_t *known)
{
    report_t report;
    while (read(fd, &report, sizeof report) == (ssize_t)sizeof report) {
        cr_assert_lt(report.number, NUMBERS_MAX);
        known->drawn[report.number] = 1;
        if (report.acknowledged && !known->acknowledged[report.number]) {
            known->acknowledged[report.number] = 1;
            known->acknowledged_count++;
        }
        if (report.timestamp > known->timestamp_max)
            known->timestamp_max = report.timestamp;
        if (report.number > known->number_max)
            known->number_max = report.number;
    }
}

static int round_run(place_t *place, known_t *known, uint64_t seed, uint64_t transactions,
                     const char *faults, unsigned kill_after_us)
{
    int fds[2], status = -1;
    cr_assert_eq(pipe(fds), 0);
    (void)fcntl(fds[0], F_SETPIPE_SZ, 1 << 20);
    writing_t writing = {.place = place,
                         .pipe_fd = fds[1],
                         .first_number = known->number_max + 1,
                         .transactions_max = transactions,
                         .seed = seed,
                         .faults = faults};
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fds[0]);
        _exit(child_write(&writing));
    }
    (void)close(fds[1]);
    if (kill_after_us != 0) {
        /* The pipe would fill up and hold the child: it is read while the child lives. */
        (void)fcntl(fds[0], F_SETFL, O_NONBLOCK);
        for (unsigned us = 0; us < kill_after_us; us += 2000) {
            reports_read(fds[0], known);
            usleep(2000);
        }
        (void)kill(pid, SIGKILL);
        (void)fcntl(fds[0], F_SETFL, 0);
    }
    reports_read(fds[0], known);
    (void)close(fds[0]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static void pairs_check(place_t *place, const known_t *known, uint64_t seed)
{
    stor_session_t *session = NULL;
    stor_cursor_t *cursor = NULL;
    cr_assert_eq(stor_session_open(place->engine, &session, NULL), VD_OK);
    int rc = stor_cursor_open(session, "c-1", &cursor, NULL);
    if (rc == VD_ERR_NOT_FOUND && known->acknowledged_count == 0) {
        stor_session_close(&session);
        return; /* lost power before the table was made */
    }
    cr_assert_eq(rc, VD_OK, "seed %" PRIu64 ": table gone", seed);
    cr_assert_eq(stor_txn_begin(session, NULL), VD_OK);
    for (uint64_t number = 1; number <= known->number_max; number++) {
        char key[32];
        vd_slice_t value[2];
        bool there[2];
        for (int half = 0; half < 2; half++) {
            int len = snprintf(key, sizeof key, "%c%012" PRIu64, half == 0 ? 'a' : 'b', number);
            there[half] =
                stor_cursor_search(cursor, vd_slice(key, (size_t)len), &value[half], NULL) == VD_OK;
            if (there[half])
                cr_assert_eq(value[half].data[0], (uint8_t)number);
        }
        cr_assert_eq(there[0], there[1], "seed %" PRIu64 ": half of %" PRIu64, seed, number);
        if (known->acknowledged[number])
            cr_assert(there[0], "seed %" PRIu64 ": acknowledged %" PRIu64 " is lost", seed, number);
        if (!known->drawn[number])
            cr_assert_not(there[0], "seed %" PRIu64 ": %" PRIu64 " was never written", seed,
                          number);
    }
    cr_assert_gt(stor_txn_timestamp(session), known->timestamp_max,
                 "seed %" PRIu64 ": a timestamp could be issued twice", seed);
    stor_txn_rollback(session);
    stor_session_close(&session);
}

static void what_is_left_check(place_t *place, const known_t *known, uint64_t seed)
{
    place->options.fs_faults = NULL;
    place->options.released = NULL;
    place_keys(place, 1, 1);
    if (!stor_engine_exists(place->folder)) {
        cr_assert_eq(known->acknowledged_count, 0, "seed %" PRIu64 ": database gone", seed);
        return;
    }
    cr_assert_eq(place_open(place, false), VD_OK, "seed %" PRIu64 ": %s", seed, place->err.message);
    pairs_check(place, known, seed);
    cr_assert_eq(place_close(place), VD_OK, "seed %" PRIu64 ": %s", seed, place->err.message);
}

static void known_init(known_t *known)
{
    *known = (known_t){.drawn = calloc(NUMBERS_MAX, 1), .acknowledged = calloc(NUMBERS_MAX, 1)};
}

static void known_done(known_t *known)
{
    free(known->drawn);
    free(known->acknowledged);
}

/* WiredTiger measures the processor's clock once per process; children inherit that. */
static void measure_once(void)
{
    place_t place;
    place_init(&place);
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    place_done(&place);
}

static void power_loss_seed(uint64_t seed)
{
    place_t place;
    known_t known;
    vd_rand_t rand;
    vd_rand_seed(&rand, seed);
    place_init(&place);
    known_init(&known);
    for (int round = 0; round < 3; round++) {
        char faults[96];
        (void)snprintf(faults, sizeof faults, "seed=%" PRIu64 ",after_%s=%" PRIu64,
                       vd_rand_u64(&rand) / 2 * 2 + seed % 2,
                       vd_rand_below(&rand, 3) == 0 ? "syncs" : "writes",
                       10 + vd_rand_below(&rand, 600));
        int status = round_run(&place, &known, seed, 600, faults, 0);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == STOR_EXIT_POWER_LOSS,
                  "seed %" PRIu64 " round %d (%s): status %x", seed, round, faults, status);
        what_is_left_check(&place, &known, seed);
    }
    known_done(&known);
    place_done(&place);
}

Test(power, nothing_acknowledged_is_lost_at_power_loss, .timeout = 300)
{
    const char *from = getenv("VEDDB_SEED");
    const char *count = getenv("VEDDB_SEEDS");
    uint64_t first = from == NULL ? 1 : strtoull(from, NULL, 10);
    uint64_t seeds = count == NULL ? 24 : strtoull(count, NULL, 10);
    measure_once();
    for (uint64_t seed = first; seed < first + seeds; seed++)
        power_loss_seed(seed);
}

Test(power, nothing_acknowledged_is_lost_at_sigkill, .timeout = 300)
{
    place_t place;
    known_t known;
    vd_rand_t rand;
    vd_rand_seed(&rand, 7);
    measure_once();
    place_init(&place);
    known_init(&known);
    for (int round = 0; round < 8; round++) {
        int status = round_run(&place, &known, (uint64_t)round, NUMBERS_MAX, NULL,
                               20000 + (unsigned)vd_rand_below(&rand, 150000));
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", status);
        what_is_left_check(&place, &known, (uint64_t)round);
    }
    cr_assert_gt(known.acknowledged_count, 100);
    known_done(&known);
    place_done(&place);
}
