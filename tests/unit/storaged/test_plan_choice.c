/* tests/unit/storaged/test_plan_choice.c — is the plan that is chosen a good one? A corpus of
 * generated queries over skewed, correlated and clustered data: what the chosen plan examines (keys
 * and documents) against the best of all candidates, each run by its hint.
 *
 * The seed is fixed: a change that makes choices worse fails here. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"

#define DOCUMENTS 6000
#ifdef __SANITIZE_ADDRESS__
#define QUERIES 100 /* the first; what is chosen is the same with and without sanitizers */
#else
#define QUERIES 300
#endif
#define WITHIN 1.5
#define SLACK  20 /* examined: below it nobody notices */
#define SHARE  0.95

static vd_rand_t chance;

static uint32_t below(uint32_t n)
{
    return (uint32_t)vd_rand_below(&chance, n);
}

/* Small numbers often. */
static uint32_t skewed(uint32_t n)
{
    double r = vd_rand_double(&chance);
    return (uint32_t)(r * r * r * n);
}

static void fill(reads_t *reads)
{
    enum { BATCH = 500 };
    for (uint32_t at = 0; at < DOCUMENTS; at += BATCH) {
        size_t room = BATCH * 300, len = 0;
        char *text = malloc(room);
        len += (size_t)snprintf(text, room, "{'insert': 'c', 'documents': [");
        for (uint32_t i = at; i < at + BATCH; i++) {
            uint32_t city = skewed(200), user = below(3000);
            len += (size_t)snprintf(
                text + len, room - len,
                "%s{'_id': %u, 'user': %u, 'city': %u, 'country': %u, 'status': '%s', 'at': %u, "
                "'score': %u, 'tags': [%u, %u], 'flag': %s, 'deep': {'n': %u}}",
                i == at ? "" : ", ", i, user, city, city / 20,
                skewed(10) < 8   ? "done"
                : below(10) == 0 ? "failed"
                                 : "open",
                i + below(50), below(100000), skewed(50), below(500),
                below(50) == 0 ? "true" : "false", below(100));
        }
        (void)snprintf(text + len, room - len, "]}");
        cr_assert_eq(reads_run(reads, "db", text), VD_OK, "%s", reads_text(reads));
        free(text);
        vd_arena_reset(reads->texts);
    }
}

static const char *const indexes[] = {
    "{'key': {'user': 1}, 'name': 'user'}",
    "{'key': {'city': 1, 'at': -1}, 'name': 'city_at'}",
    "{'key': {'country': 1, 'status': 1, 'score': 1}, 'name': 'css'}",
    "{'key': {'status': 1, 'at': 1}, 'name': 'status_at'}",
    "{'key': {'at': 1}, 'name': 'at'}",
    "{'key': {'score': -1}, 'name': 'score'}",
    "{'key': {'tags': 1}, 'name': 'tags'}",
    "{'key': {'deep.n': 1, 'user': 1}, 'name': 'deep'}",
};
static const char *const names[] = {"user", "city_at", "css",  "status_at",
                                    "at",   "score",   "tags", "deep"};

static size_t condition(char *text, size_t room)
{
    uint32_t at = below(DOCUMENTS);
    switch (below(14)) {
    case 0:
        return (size_t)snprintf(text, room, "'user': %u", below(3000));
    case 1:
        return (size_t)snprintf(text, room, "'city': %u", skewed(200));
    case 2:
        return (size_t)snprintf(text, room, "'country': %u", below(10));
    case 3:
        return (size_t)snprintf(text, room, "'status': '%s'", below(2) ? "failed" : "open");
    case 4:
        return (size_t)snprintf(text, room, "'at': {'$gte': %u, '$lt': %u}", at,
                                at + 1 + below(300));
    case 5:
        return (size_t)snprintf(text, room, "'score': {'$gt': %u}", 90000 + below(10000));
    case 6:
        return (size_t)snprintf(text, room, "'tags': %u", below(500));
    case 7:
        return (size_t)snprintf(text, room, "'deep.n': %u", below(100));
    case 8:
        return (size_t)snprintf(text, room, "'flag': true");
    case 9:
        return (size_t)snprintf(text, room, "'user': {'$in': [%u, %u, %u]}", below(3000),
                                below(3000), below(3000));
    case 10:
        return (size_t)snprintf(text, room, "'status': 'done'");
    case 11:
        return (size_t)snprintf(text, room, "'city': {'$lt': %u}", 1 + below(200));
    case 12:
        return (size_t)snprintf(text, room, "'score': {'$lt': %u}", below(30000));
    default:
        return (size_t)snprintf(text, room, "'_id': {'$gte': %u}", at);
    }
}

static size_t conditions(char *text, size_t room)
{
    char seen[4][16];
    size_t len = 0;
    uint32_t count = 1 + below(3), taken = 0;
    while (taken < count) {
        char one[200];
        bool again = false;
        (void)condition(one, sizeof one);
        for (uint32_t k = 0; k < taken; k++)
            again |= strncmp(seen[k], one, 6) == 0;
        if (again)
            continue;
        (void)snprintf(seen[taken], sizeof seen[0], "%.15s", one);
        len += (size_t)snprintf(text + len, room - len, "%s%s", taken == 0 ? "" : ", ", one);
        taken++;
    }
    return len;
}

static void make_query(char *text, size_t room)
{
    static const char *const sorts[] = {"{'at': -1}", "{'score': 1}", "{'at': 1}", "{'_id': -1}",
                                        "{'city': 1, 'at': -1}"};
    char filter[1000];
    size_t len = 0;
    if (below(6) == 0) {
        char a[400], b[400];
        (void)conditions(a, sizeof a);
        (void)conditions(b, sizeof b);
        (void)snprintf(filter, sizeof filter, "'$or': [{%s}, {%s}]", a, b);
    } else {
        (void)conditions(filter, sizeof filter);
    }
    len += (size_t)snprintf(text, room, "'find': 'c', 'filter': {%s}", filter);
    uint32_t kind = below(3);
    if (kind == 0)
        len += (size_t)snprintf(text + len, room - len, ", 'limit': %u", 1 + below(50));
    else if (kind == 1)
        len += (size_t)snprintf(text + len, room - len, ", 'sort': %s, 'limit': %u",
                                sorts[below(VD_COUNT_OF(sorts))], 1 + below(30));
}

static int64_t number(vd_value_t v)
{
    int64_t n = 0;
    cr_assert(vd_value_as_int64(v, &n));
    return n;
}

/* What the plan examines; -1: the hint can't answer. */
static int64_t examined(reads_t *reads, const char *query, const char *hint)
{
    char command[3000];
    (void)snprintf(command, sizeof command, "{'explain': {%s%s}, 'verbosity': 'executionStats'}",
                   query, hint);
    int rc = reads_run(reads, "db", command);
    if (rc == VD_ERR_LOCATION(291))
        return -1;
    cr_assert_eq(rc, VD_OK, "%s: %s", command, reads_text(reads));
    return number(reads_at(reads, "executionStats.totalKeysExamined")) +
           number(reads_at(reads, "executionStats.totalDocsExamined"));
}

Test(plan_choice, nearly_always_close_to_the_best)
{
    reads_t *reads = reads_open();
    uint32_t good = 0, told = 0;
    bool loud = getenv("VEDDB_CHOICES") != NULL;
    vd_rand_seed(&chance, 20);
    fill(reads);
    for (size_t i = 0; i < VD_COUNT_OF(indexes); i++) {
        char command[300];
        (void)snprintf(command, sizeof command, "{'createIndexes': 'c', 'indexes': [%s]}",
                       indexes[i]);
        cr_assert_eq(reads_run(reads, "db", command), VD_OK, "%s", reads_text(reads));
    }
    for (int q = 0; q < QUERIES; q++) {
        char query[2000], best_name[64] = "$natural", summary[200];
        make_query(query, sizeof query);
        vd_arena_reset(reads->texts);
        int64_t chosen = examined(reads, query, "");
        (void)snprintf(
            summary, sizeof summary, "%s",
            vd_value_to_json(reads->texts, reads_at(reads, "queryPlanner.estimates"), 190));
        int64_t best = examined(reads, query, ", 'hint': {'$natural': 1}");
        for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
            char hint[64];
            (void)snprintf(hint, sizeof hint, ", 'hint': '%s'", names[i]);
            int64_t n = examined(reads, query, hint);
            if (n >= 0 && n < best) {
                best = n;
                (void)snprintf(best_name, sizeof best_name, "%s", names[i]);
            }
        }
        bool ok = (double)chosen <= WITHIN * (double)best + SLACK;
        good += ok;
        if (!ok && (loud || told++ < 5))
            fprintf(stderr, "examined %lld, %s %lld: %s; %s\n", (long long)chosen, best_name,
                    (long long)best, query, summary);
    }
    reads_close(reads);
    if (loud)
        fprintf(stderr, "%u of %d\n", good, QUERIES);
    cr_assert_geq(good, (uint32_t)(SHARE * QUERIES), "only %u of %d choices are good", good,
                  QUERIES);
}

/* ---- where the constants of plan/cost.c come from ---- */

static double took_us(reads_t *reads, const char *command)
{
    double best = 1e18;
    for (int i = 0; i < 3; i++) {
        uint64_t started = vd_monotonic_us();
        cr_assert_eq(reads_run(reads, "db", command), VD_OK, "%s: %s", command, reads_text(reads));
        double us = (double)(vd_monotonic_us() - started);
        best = us < best ? us : best;
    }
    return best;
}

/* Asserts nothing: with VEDDB_COSTS set it prints what the constants were rounded from. */
Test(plan_choice, costs)
{
    enum { COUNT = 30000, POINTS = 3000 };
    if (getenv("VEDDB_COSTS") == NULL)
        cr_skip_test("VEDDB_COSTS is not set");
    reads_t *reads = reads_open();
    vd_rand_seed(&chance, 7);
    for (uint32_t at = 0; at < COUNT; at += 500) {
        size_t room = 500 * 1000, len = 0;
        char *text = malloc(room);
        len += (size_t)snprintf(text, room, "{'insert': 'm', 'documents': [");
        for (uint32_t i = at; i < at + 500; i++)
            len +=
                (size_t)snprintf(text + len, room - len,
                                 "%s{'_id': %u, 'a': %u, 'b': %u, 'text': '%0400u', 'more': "
                                 "{'x': 1, 'y': 'z'}, 'tags': ['k', 'l', 'm'], 'name': "
                                 "'nobody', 'at': 12345, 'n': %u}",
                                 i == at ? "" : ", ", i, below(COUNT), below(1000), i, below(10));
        (void)snprintf(text + len, room - len, "]}");
        cr_assert_eq(reads_run(reads, "db", text), VD_OK);
        free(text);
    }
    cr_assert_eq(reads_run(reads, "db",
                           "{'createIndexes': 'm', 'indexes': [{'key': {'a': 1, 'b': 1}, 'name': "
                           "'ab'}]}"),
                 VD_OK);
    double unit = took_us(reads, "{'count': 'm', 'query': {'n': 99, 'at': {'$gt': 5}}}") / COUNT;
    double key = took_us(reads, "{'count': 'm', 'query': {'a': {'$gte': 0}}, 'hint': 'ab'}");
    double fetch = took_us(reads, "{'count': 'm', 'query': {'a': {'$gte': 0}, 'n': 99}, 'hint': "
                                  "'ab'}");
    double cover = took_us(reads, "{'count': 'm', 'query': {'a': {'$gte': 0}, 'b': {'$mod': [7, "
                                  "9]}}, 'hint': 'ab'}");
    double sort = took_us(reads, "{'aggregate': 'm', 'pipeline': [{'$sort': {'b': 1}}, {'$group': "
                                 "{'_id': null, 'n': {'$sum': 1}}}], 'cursor': {}}");
    double all = took_us(reads, "{'aggregate': 'm', 'pipeline': [{'$match': {'n': {'$gte': 0}}}, "
                                "{'$group': {'_id': null, 'n': {'$sum': 1}}}], 'cursor': {}, "
                                "'hint': {'$natural': 1}}");
    char *in = malloc(POINTS * 8 + 200);
    size_t len = (size_t)sprintf(in, "{'count': 'm', 'hint': 'ab', 'query': {'a': {'$in': [");
    for (int i = 0; i < POINTS; i++)
        len += (size_t)sprintf(in + len, "%s%u", i == 0 ? "" : ", ", below(COUNT));
    (void)sprintf(in + len, "]}}}");
    double seeks = took_us(reads, in);
    free(in);
    fprintf(stderr,
            "a record scanned and matched %.3f us; in units of it: key %.2f, fetch %.2f, cover "
            "%.2f, sort (per document and level) %.3f, seek %.2f\n",
            unit, key / COUNT / unit, (fetch - key) / COUNT / unit, (cover - key) / COUNT / unit,
            (sort - all) / COUNT / 14.9 / unit, (seeks - key * POINTS / COUNT) / POINTS / unit);
    reads_close(reads);
}
