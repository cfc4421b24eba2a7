/* tests/unit/replicad/test_elect.c — elections against a real etcd over TLS, one per test, with
 * certificates made on the spot. Without /usr/bin/etcd (Debian's etcd-server) these tests fail. */
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "veddb-replicad/elect.h"
#include "veddb-replicad/etcd.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ETCD     "/usr/bin/etcd"
#define WAIT_MS  30000  /* at most, for what comes at once on a machine that has time */
#define LONG_MS  120000 /* a lease of which all that is waited for is far longer than any test */
#define LEASE_MS 2000   /* etcd rounds up to seconds, and adds some of its own */
#define SEEN_MAX 4000

typedef struct {
    repl_elect_t *elect;
    repl_event_t seen[SEEN_MAX];
    uint32_t count, looked; /* looked: events before have been looked at */
} node_t;

static char folder[64], endpoint[100];
static uint16_t client_port, peer_port;
static pid_t etcd_pid;
static vd_loop_t *loop;
static node_t a, b;

/* ---- etcd ---- */

static uint16_t free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
              getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    (void)close(fd);
    return ntohs(at.sin_port);
}

VD_PRINTF(1, 2) static void shell(const char *format, ...)
{
    char command[3000];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(command, sizeof command, format, args);
    va_end(args);
    cr_assert_eq(system(command), 0, "%s", command);
}

static void make_authority(const char *name)
{
    shell("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out %s.key 2>/dev/null && "
          "openssl req -x509 -new -key %s.key -sha256 -days 2 -subj /CN=%s -out %s.pem 2>/dev/null",
          folder, name, name, name, name);
}

static void make_certificate(const char *name, const char *authority)
{
    shell("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out %s.key 2>/dev/null && "
          "openssl req -new -key %s.key -subj /CN=%s -out %s.csr 2>/dev/null && "
          "printf 'subjectAltName=IP:127.0.0.1,DNS:localhost' >%s.ext && "
          "openssl x509 -req -in %s.csr -CA %s.pem -CAkey %s.key -CAcreateserial -days 2 -sha256 "
          "-extfile %s.ext -out %s.pem 2>/dev/null",
          folder, name, name, name, name, name, name, authority, authority, name, name);
}

static void etcd_exec(void)
{
    char client_url[100], peer_url[100], cluster[120], ca[100], certificate[100], key[100];
    char data[100], log[100];
    (void)snprintf(client_url, sizeof client_url, "https://127.0.0.1:%u", client_port);
    (void)snprintf(peer_url, sizeof peer_url, "http://127.0.0.1:%u", peer_port);
    (void)snprintf(cluster, sizeof cluster, "t=%s", peer_url);
    (void)snprintf(ca, sizeof ca, "%s/ca.pem", folder);
    (void)snprintf(certificate, sizeof certificate, "%s/server.pem", folder);
    (void)snprintf(key, sizeof key, "%s/server.key", folder);
    (void)snprintf(data, sizeof data, "%s/data", folder);
    (void)snprintf(log, sizeof log, "%s/log", folder);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)dup2(fd, 1);
    (void)dup2(fd, 2);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* none is left behind by a test that crashes */
    (void)execl(ETCD, ETCD, "--name", "t", "--data-dir", data, "--listen-client-urls", client_url,
                "--advertise-client-urls", client_url, "--listen-peer-urls", peer_url,
                "--initial-advertise-peer-urls", peer_url, "--initial-cluster", cluster,
                "--cert-file", certificate, "--key-file", key, "--trusted-ca-file", ca,
                "--client-cert-auth", "--heartbeat-interval", "50", "--election-timeout", "250",
                "--logger", "zap", NULL);
    _exit(127);
}

static void etcd_start(void)
{
    etcd_pid = fork();
    cr_assert_geq(etcd_pid, 0);
    if (etcd_pid == 0)
        etcd_exec();
}

static void etcd_stop(void)
{
    if (etcd_pid <= 0)
        return;
    (void)kill(etcd_pid, SIGKILL);
    (void)waitpid(etcd_pid, NULL, 0);
    etcd_pid = 0;
}

/* ---- nodes ---- */

static void seen(void *context, const repl_event_t *event)
{
    node_t *node = context;
    cr_assert_lt(node->count, SEEN_MAX);
    node->seen[node->count++] = *event;
}

static repl_elect_options_t options_of(uint32_t self, const char *name)
{
    static char ca[100], certificate[100], key[100];
    (void)snprintf(ca, sizeof ca, "%s/ca.pem", folder);
    (void)snprintf(certificate, sizeof certificate, "%s/client.pem", folder);
    (void)snprintf(key, sizeof key, "%s/client.key", folder);
    return (repl_elect_options_t){.endpoints = endpoint,
                                  .ca_file = ca,
                                  .certificate_file = certificate,
                                  .key_file = key,
                                  .set_name = "rs0",
                                  .node_name = name,
                                  .self = self,
                                  .lease_ms = LEASE_MS,
                                  .event = seen};
}

static void node_start(node_t *node, repl_elect_options_t options)
{
    vd_error_t err = VD_ERROR_INIT;
    node->count = node->looked = 0;
    options.context = node;
    cr_assert_eq(repl_elect_create(loop, &options, &node->elect, &err), VD_OK, "%s", err.message);
}

static void turn(void)
{
    cr_assert_eq(vd_loop_turn(loop, 20, NULL), VD_OK);
}

/* The next event of that kind, from what was not looked at yet; NULL when it does not come. */
static const repl_event_t *next(node_t *node, repl_event_kind_t kind)
{
    uint64_t until = vd_monotonic_ms() + WAIT_MS;
    while (vd_monotonic_ms() < until) {
        while (node->looked < node->count) {
            const repl_event_t *event = &node->seen[node->looked++];
            if (event->kind == kind)
                return event;
        }
        turn();
    }
    return NULL;
}

/* The next LEASE that says so; NULL when it does not come. */
static const repl_event_t *next_lease(node_t *node, uint32_t leader, uint64_t term)
{
    const repl_event_t *event;
    uint64_t until = vd_monotonic_ms() + WAIT_MS;
    while (vd_monotonic_ms() < until && (event = next(node, REPL_EVENT_LEASE)) != NULL) {
        if (event->leader == leader && event->term == term)
            return event;
    }
    return NULL;
}

static void setup(void)
{
    cr_assert_eq(access(ETCD, X_OK), 0,
                 ETCD " is missing: install Debian's package etcd-server (./dev test does)");
    vd_log_setup("unit_replicad", VD_LOG_FATAL, VD_LOG_LOGFMT);
    /* In memory: a busy disk makes etcd wait for it, for seconds. */
    (void)snprintf(folder, sizeof folder, "%s/vdelectXXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
    make_authority("ca");
    make_certificate("server", "ca");
    make_certificate("client", "ca");
    client_port = free_port();
    peer_port = free_port();
    (void)snprintf(endpoint, sizeof endpoint, "https://127.0.0.1:%u", client_port);
    cr_assert_eq(vd_loop_create(&loop, NULL), VD_OK);
    etcd_start();
    node_start(&a, options_of(1, "n1"));
    cr_assert_not_null(next(&a, REPL_EVENT_LEASE), "etcd does not answer: see %s/log", folder);
}

static void teardown(void)
{
    repl_elect_destroy(&a.elect);
    repl_elect_destroy(&b.elect);
    vd_loop_destroy(&loop);
    etcd_stop();
    shell("rm -rf %s", folder);
}

TestSuite(elect, .init = setup, .fini = teardown, .timeout = 240);

Test(elect, claimed_by_one_and_lost_by_the_other)
{
    repl_elect_options_t options = options_of(2, "n2");
    options.lease_ms = LONG_MS;
    node_start(&b, options);
    cr_assert_not_null(next_lease(&b, 0, 0));
    uint64_t before = vd_monotonic_ms();
    repl_elect_claim(a.elect, 5);
    const repl_event_t *event = next(&a, REPL_EVENT_CLAIMED);
    cr_assert_not_null(event);
    cr_expect_eq(event->term, 5);
    cr_expect_geq(event->sent_ms, before);
    cr_expect_leq(event->sent_ms, event->now_ms);
    event = next_lease(&b, 1, 5);
    cr_assert_not_null(event, "the watch tells it: the next look is a minute off");
    cr_expect_gt(event->left_ms, 0);
    static const uint64_t terms[] = {4, 5};
    for (size_t i = 0; i < VD_COUNT_OF(terms); i++) {
        repl_elect_claim(b.elect, terms[i]);
        event = next(&b, REPL_EVENT_CLAIM_LOST);
        cr_assert_not_null(event);
        cr_expect_eq(event->leader, 1);
        cr_expect_eq(event->term, 5);
    }
    /* Who claims a newer one has fenced the other: its lease, which is left, holds nobody up. */
    repl_elect_claim(b.elect, 6);
    event = next(&b, REPL_EVENT_CLAIMED);
    cr_assert_not_null(event);
    cr_expect_eq(event->term, 6);
    cr_assert_not_null(next_lease(&a, 2, 6));
    repl_elect_release(a.elect); /* the key is the other's: it stays */
    repl_elect_claim(a.elect, 5);
    event = next(&a, REPL_EVENT_CLAIM_LOST);
    cr_assert_not_null(event);
    cr_expect_eq(event->leader, 2);
    cr_expect_eq(event->term, 6);
}

Test(elect, a_restarted_process_releases_what_it_held_before)
{
    repl_elect_claim(a.elect, 3);
    cr_assert_not_null(next(&a, REPL_EVENT_CLAIMED));
    node_start(&b, options_of(1, "n1"));
    cr_assert_not_null(next_lease(&b, 1, 3));
    repl_elect_release(b.elect);
    cr_assert_not_null(next_lease(&b, 0, 3));
}

Test(elect, renewed_it_stays_and_released_it_goes)
{
    node_start(&b, options_of(2, "n2"));
    repl_elect_claim(a.elect, 1);
    cr_assert_not_null(next(&a, REPL_EVENT_CLAIMED));
    cr_assert_not_null(next_lease(&b, 1, 1));
    uint64_t until = vd_monotonic_ms() + 3 * LEASE_MS;
    while (vd_monotonic_ms() < until) {
        uint64_t before = vd_monotonic_ms();
        repl_elect_renew(a.elect);
        const repl_event_t *event = next(&a, REPL_EVENT_RENEWED);
        cr_assert_not_null(event);
        cr_expect_geq(event->sent_ms, before);
        (void)usleep(LEASE_MS * 1000 / 5);
        turn();
    }
    for (uint32_t i = 0; i < b.count; i++) /* never nobody, once it was there */
        cr_expect(b.seen[i].kind != REPL_EVENT_LEASE || b.seen[i].leader == 1 ||
                  b.seen[i].term == 0);
    b.looked = b.count;
    repl_elect_release(a.elect);
    cr_assert_not_null(next_lease(&b, 0, 1)); /* the term outlives the lease */
    repl_elect_claim(b.elect, 1);             /* not the other's term */
    const repl_event_t *event = next(&b, REPL_EVENT_CLAIM_LOST);
    cr_assert_not_null(event);
    cr_expect_eq(event->leader, 0);
    cr_expect_eq(event->term, 1);
    repl_elect_claim(b.elect, 2);
    event = next(&b, REPL_EVENT_CLAIMED);
    cr_assert_not_null(event);
    cr_expect_eq(event->term, 2);
}

Test(elect, not_renewed_it_ends_and_the_own_term_is_claimed_again)
{
    node_start(&b, options_of(2, "n2"));
    repl_elect_claim(a.elect, 7);
    const repl_event_t *event = next(&a, REPL_EVENT_CLAIMED);
    cr_assert_not_null(event);
    uint64_t sent = event->sent_ms;
    cr_assert_not_null(next_lease(&b, 1, 7));
    cr_assert_not_null(next_lease(&b, 0, 7));
    cr_expect_geq(vd_monotonic_ms() - sent, LEASE_MS); /* never before we had given up */
    repl_elect_renew(a.elect);                         /* too late: it is told who holds it */
    a.looked = a.count;
    cr_assert_not_null(next_lease(&a, 0, 7));
    repl_elect_claim(a.elect, 7);
    event = next(&a, REPL_EVENT_CLAIMED);
    cr_assert_not_null(event);
    cr_expect_eq(event->term, 7);
    repl_elect_renew(a.elect);
    cr_assert_not_null(next(&a, REPL_EVENT_RENEWED));
}

Test(elect, two_claim_the_same_term_and_exactly_one_gets_it)
{
    node_start(&b, options_of(2, "n2"));
    cr_assert_not_null(next(&b, REPL_EVENT_LEASE));
    for (uint64_t term = 1; term <= 20; term++) {
        uint32_t won_a = 0, won_b = 0, lost = 0, from_a = a.count, from_b = b.count;
        repl_elect_claim(a.elect, term);
        repl_elect_claim(b.elect, term);
        uint64_t until = vd_monotonic_ms() + WAIT_MS;
        while (won_a + won_b + lost < 2 && vd_monotonic_ms() < until) {
            turn();
            won_a = won_b = lost = 0;
            for (uint32_t i = from_a; i < a.count; i++) {
                won_a += a.seen[i].kind == REPL_EVENT_CLAIMED;
                lost += a.seen[i].kind == REPL_EVENT_CLAIM_LOST;
            }
            for (uint32_t i = from_b; i < b.count; i++) {
                won_b += b.seen[i].kind == REPL_EVENT_CLAIMED;
                lost += b.seen[i].kind == REPL_EVENT_CLAIM_LOST;
            }
        }
        cr_assert_eq(won_a + won_b, 1, "term %llu", (unsigned long long)term);
        cr_assert_eq(lost, 1);
        node_t *winner = won_a ? &a : &b, *other = won_a ? &b : &a;
        winner->looked = winner->count, other->looked = other->count;
        repl_elect_release(winner->elect);
        cr_assert_not_null(next_lease(winner, 0, term));
    }
}

Test(elect, etcd_goes_away_and_comes_back)
{
    repl_elect_claim(a.elect, 3);
    cr_assert_not_null(next(&a, REPL_EVENT_CLAIMED));
    etcd_stop();
    a.looked = a.count;
    uint64_t from = vd_monotonic_ms();
    repl_elect_renew(a.elect);
    cr_assert_not_null(next(&a, REPL_EVENT_ETCD_AWAY));
    cr_expect_lt(vd_monotonic_ms() - from, LEASE_MS); /* in time to step down */
    repl_elect_claim(a.elect, 4);
    cr_assert_not_null(next(&a, REPL_EVENT_ETCD_AWAY));
    vd_buf_t out;
    vd_buf_init(&out, 4096);
    cr_assert_eq(repl_elect_status(a.elect, &out), VD_OK);
    cr_assert_eq(vd_buf_append(&out, "", 1), VD_OK);
    cr_expect_not_null(strstr((const char *)vd_buf_at(&out, 0), "\"reachable\":false"));
    etcd_start();
    a.looked = a.count;
    const repl_event_t *event = next(&a, REPL_EVENT_LEASE);
    cr_assert_not_null(event);
    cr_expect_eq(event->term, 3); /* it kept what it had */
    /* The lease lives on, or ends: then the term can be claimed by its owner. */
    repl_elect_release(a.elect);
    cr_assert_not_null(next_lease(&a, 0, 3));
    repl_elect_claim(a.elect, 3);
    cr_assert_not_null(next(&a, REPL_EVENT_CLAIMED));
    vd_buf_clear(&out);
    cr_assert_eq(repl_elect_status(a.elect, &out), VD_OK);
    cr_assert_eq(vd_buf_append(&out, "", 1), VD_OK);
    cr_expect_not_null(strstr((const char *)vd_buf_at(&out, 0), "\"reachable\":true"));
    cr_expect_not_null(strstr((const char *)vd_buf_at(&out, 0), "\"leader\":1,\"term\":3"));
    vd_buf_done(&out);
}

Test(elect, the_next_endpoint_is_asked_when_one_is_down)
{
    char both[300];
    (void)snprintf(both, sizeof both, "https://127.0.0.1:%u, %s/", free_port(), endpoint);
    repl_elect_options_t options = options_of(2, "n\"2\\");
    options.endpoints = both;
    node_start(&b, options);
    cr_assert_not_null(next(&b, REPL_EVENT_LEASE));
    repl_elect_claim(b.elect, 1);
    cr_assert_not_null(next(&b, REPL_EVENT_CLAIMED));
    for (uint32_t i = 0; i < b.count; i++)
        cr_expect_neq(b.seen[i].kind, REPL_EVENT_ETCD_AWAY);
    cr_assert_not_null(next_lease(&a, 2, 1));
}

Test(elect, the_wrong_authority_is_refused_on_both_sides)
{
    char path[3][100];
    make_authority("other");
    make_certificate("stranger", "other");
    (void)snprintf(path[0], sizeof path[0], "%s/other.pem", folder);
    (void)snprintf(path[1], sizeof path[1], "%s/stranger.pem", folder);
    (void)snprintf(path[2], sizeof path[2], "%s/stranger.key", folder);
    /* We don't believe a server of another authority ... */
    repl_elect_options_t options = options_of(2, "n2");
    options.ca_file = path[0];
    node_start(&b, options);
    cr_assert_not_null(next(&b, REPL_EVENT_ETCD_AWAY));
    repl_elect_claim(b.elect, 9);
    cr_assert_not_null(next(&b, REPL_EVENT_ETCD_AWAY));
    for (uint32_t i = 0; i < b.count; i++)
        cr_expect_eq(b.seen[i].kind, REPL_EVENT_ETCD_AWAY);
    repl_elect_destroy(&b.elect);
    /* ... and etcd no client of one. */
    options = options_of(2, "n2");
    options.certificate_file = path[1];
    options.key_file = path[2];
    node_start(&b, options);
    cr_assert_not_null(next(&b, REPL_EVENT_ETCD_AWAY));
    for (uint32_t i = 0; i < b.count; i++)
        cr_expect_eq(b.seen[i].kind, REPL_EVENT_ETCD_AWAY);
    a.looked = a.count;
    cr_expect_not_null(next_lease(&a, 0, 0));
}

Test(elect, what_somebody_else_wrote_is_not_believed)
{
    /* {"key": "/veddb/rs0/term", "value": "garbage"} */
    shell("curl -s --cacert %s/ca.pem --cert %s/client.pem --key %s/client.key "
          "-d '{\"key\":\"L3ZlZGRiL3JzMC90ZXJt\",\"value\":\"Z2FyYmFnZQ==\"}' %s/v3/kv/put "
          ">/dev/null",
          folder, folder, folder, endpoint);
    a.looked = a.count;
    cr_assert_not_null(next(&a, REPL_EVENT_ETCD_AWAY));
    repl_elect_claim(a.elect, 1);
    a.looked = a.count;
    cr_assert_not_null(next(&a, REPL_EVENT_ETCD_AWAY));
    for (uint32_t i = 0; i < a.count; i++)
        cr_expect_neq(a.seen[i].kind, REPL_EVENT_CLAIMED);
}

Test(elect, stopping_does_not_wait_for_etcd)
{
    repl_elect_options_t options = options_of(2, "n2");
    options.lease_ms = LONG_MS;
    node_start(&b, options);
    cr_assert_not_null(next_lease(&b, 0, 0));
    (void)kill(etcd_pid, SIGSTOP); /* takes connections, answers nothing */
    repl_elect_renew(b.elect);
    repl_elect_claim(b.elect, 1);
    (void)usleep(50000);
    uint64_t from = vd_monotonic_ms();
    repl_elect_destroy(&b.elect);
    cr_expect_lt(vd_monotonic_ms() - from, LONG_MS / 6); /* it waits a third of it for an answer */
    (void)kill(etcd_pid, SIGCONT);
}

/* ---- without etcd ---- */

Test(elect_options, only_https_is_taken)
{
    static const char *const cases[] = {"",
                                        "http://127.0.0.1:2379",
                                        "127.0.0.1:2379",
                                        "https://",
                                        "https://127.0.0.1:1,http://127.0.0.1:2",
                                        "https://127.0.0.1:1,,https://127.0.0.1:2"};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        repl_etcd_t *etcd = NULL;
        repl_etcd_options_t options = {cases[i], "x", "x", "x", "rs0", 100};
        cr_expect_eq(repl_etcd_create(&options, &etcd, NULL), VD_ERR_CONFIG, "%s", cases[i]);
        cr_expect_null(etcd);
    }
}
