/* tests/unit/gatewayd/test_quota.c — rates and bounds: buckets with a given clock, entries and
 * accounts, what is told to the audit log. */
#include "libcommon/base/clock.h"
#include "veddb-gatewayd/quota/notes.h"
#include "veddb-gatewayd/quota/quota.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define S 1000000ull

static uint64_t now_us;

static uint64_t fake_monotonic(void)
{
    return now_us;
}

static int64_t fake_wall(void)
{
    return (int64_t)(now_us / 1000);
}

static void setup(void)
{
    static const vd_clock_t fake = {fake_monotonic, fake_wall};
    now_us = 1000 * S;
    vd_clock_replace(&fake);
}

static void teardown(void)
{
    vd_clock_replace(NULL);
}

TestSuite(quota, .init = setup, .fini = teardown);

/* ---- buckets ---- */

Test(quota, a_bucket)
{
    /* 10 a second, 20 at most; one step after the other. */
    static const struct {
        uint64_t at_ms;
        double least, more;
        uint64_t wait_max_ms;
        double got;
        uint64_t wait_ms;
    } steps[] = {
        {0, 20, 0, 0, 20, 0},         /* full */
        {0, 1, 0, 0, 0, 100},         /* empty: refused */
        {0, 1, 0, 99, 0, 100},        /* would wait for too long */
        {0, 1, 0, 101, 1, 100},       /* waits */
        {0, 1, 0, 1000, 1, 200},      /* behind that one */
        {100, 1, 0, 1000, 1, 200},    /* time has passed for all */
        {400, 1, 0, 0, 1, 0},         /* all have been served, and one was there */
        {2400, 50, 0, 0, 50, 0},      /* more than it holds: from a full one */
        {2400, 1, 0, 0, 0, 3100},     /* and the next pays */
        {2400 + 3100, 1, 5, 0, 1, 0}, /* nothing to spare */
        {10000, 1, 5, 0, 6, 0},       /* some in advance */
        {10000, 1, 100, 0, 7.5, 0},   /* at most half of what is left */
    };
    gate_bucket_rate_t rate = gate_bucket_rate(10, 2000);
    gate_bucket_t bucket;
    gate_bucket_init(&bucket, &rate, 0);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        uint64_t wait;
        double got = gate_bucket_take(&bucket, &rate, steps[i].at_ms * 1000, steps[i].least,
                                      steps[i].more, steps[i].wait_max_ms * 1000, &wait);
        cr_expect(got > steps[i].got - 0.01 && got < steps[i].got + 0.01, "%zu: %f", i, got);
        cr_expect_eq((wait + 500) / 1000, steps[i].wait_ms, "%zu: %llu", i,
                     (unsigned long long)wait);
    }
}

Test(quota, a_debt_is_bounded_and_a_bucket_is_never_more_than_full)
{
    gate_bucket_rate_t rate = gate_bucket_rate(10, 1000), tiny = gate_bucket_rate(1, 1);
    gate_bucket_t bucket;
    uint64_t wait;
    gate_bucket_init(&bucket, &rate, 0);
    gate_bucket_charge(&bucket, &rate, 0, 1e12);
    (void)gate_bucket_take(&bucket, &rate, 0, 1, 0, 0, &wait);
    cr_expect_leq(wait, (GATE_BUCKET_DEBT_S + 1) * S);
    gate_bucket_charge(&bucket, &rate, 0, -1e12);
    cr_expect_eq(bucket.level, 10);
    gate_bucket_fill(&bucket, &rate, 1000 * S);
    cr_expect_eq(bucket.level, 10);
    gate_bucket_fill(&bucket, &rate, 0); /* a clock of another thread, a little behind */
    cr_expect_eq(bucket.level, 10);
    gate_bucket_init(&bucket, &tiny, 0);
    cr_expect_eq(gate_bucket_take(&bucket, &tiny, 0, 1, 0, 0, &wait), 1, "one fits always");
}

/* ---- settings ---- */

Test(quota, names_and_values)
{
    static const struct {
        const char *name, *text;
        int64_t value; /* -1: refused */
    } cases[] = {
        {"operations_per_user", "20", 20},
        {"operations_per_user", "0", 0},
        {"operations_per_user", "", -1},
        {"operations_per_user", "20MB", -1},
        {"operations_per_user", "-1", -1},
        {"operations_per_user", "99999999999999999999", -1},
        {"bytes_in_total", "16MB", 16 << 20},
        {"bytes_in_total", "16s", -1},
        {"bytes_in_total", "999999999999999GB", -1},
        {"burst", "2s", 2000},
        {"burst", "250ms", 250},
        {"burst", "1min", 60000},
        {"burst", "1ms", -1},
        {"connections_total", "0", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gate_limit_t limit = gate_limit_by_name(vd_slice_str(cases[i].name));
        int64_t value = -1;
        cr_assert_lt(limit, GATE_LIMITS);
        int rc = gate_limit_parse(limit, vd_slice_str(cases[i].text), &value, NULL);
        if (rc == VD_OK)
            rc = gate_limit_check(limit, value, false, NULL);
        cr_expect_eq(rc == VD_OK ? value : -1, cases[i].value, "%s=%s", cases[i].name,
                     cases[i].text);
    }
    cr_expect_eq(gate_limit_by_name(VD_SLICE_LIT("operations")), GATE_LIMITS);
    cr_expect_eq(gate_limit_check(GATE_LIMIT_BURST, 1000, true, NULL), VD_ERR_INVALID_OPTIONS);
    for (unsigned scope = 0; scope < GATE_SCOPES; scope++) {
        for (unsigned rate = 0; rate < GATE_RATE_HANDSHAKES; rate++)
            cr_expect_lt(gate_limit_of_rate((gate_scope_t)scope, (gate_rate_t)rate), GATE_LIMITS);
    }
}

/* ---- accounts ---- */

static const gate_limit_values_t off = {.values = {[GATE_LIMIT_BURST] = 1000}};
static const double one[GATE_RATES] = {1, 1, 1, 1};

static int64_t take_one(gate_accounts_t *accounts, gate_account_t *account, uint64_t wait_max_us)
{
    gate_rate_t rate;
    uint64_t wait;
    return gate_account_take(accounts, account, now_us, one, wait_max_us, &rate, &wait);
}

Test(quota, nothing_is_limited_by_itself)
{
    gate_quota_t *quota = gate_quota_create(&off);
    cr_expect_eq(gate_quota_on(quota), 0);
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_NULL, GATE_LIMIT_BYTES_IN_TOTAL, 5, NULL), VD_OK);
    cr_expect_eq(gate_quota_on(quota), GATE_ON_TOTAL);
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_LIT("a@x"), GATE_LIMIT_CURSORS_PER_USER, 5, NULL),
                 VD_OK);
    cr_expect_eq(gate_quota_on(quota), GATE_ON_TOTAL | GATE_ON_USER_BOUNDS);
    gate_quota_reset(quota, VD_SLICE_LIT("a@x"));
    cr_expect_eq(gate_quota_on(quota), GATE_ON_TOTAL);
    gate_quota_reset(quota, VD_SLICE_NULL);
    cr_expect_eq(gate_quota_on(quota), 0);
    gate_quota_destroy(&quota);
    cr_expect_null(quota);
}

Test(quota, two_threads_have_one_bucket)
{
    gate_quota_t *quota = gate_quota_create(&off);
    gate_accounts_t *threads[2] = {gate_accounts_create(quota), gate_accounts_create(quota)};
    gate_account_t *accounts[2], *other;
    vd_slice_t name = VD_SLICE_LIT("anna@admin");
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_NULL, GATE_LIMIT_OPERATIONS_PER_USER, 6400, NULL),
                 VD_OK);
    for (int i = 0; i < 2; i++)
        accounts[i] = gate_accounts_open(threads[i], GATE_SCOPE_USER, name);
    cr_expect_eq(gate_accounts_open(threads[0], GATE_SCOPE_USER, name), accounts[0]);
    gate_accounts_close(threads[0], &(gate_account_t *){accounts[0]});
    int got = 0;
    for (int i = 0; i < 20000; i++)
        got += take_one(threads[i % 2], accounts[i % 2], 0) == 0;
    cr_expect(got > 6400 - 200 && got <= 6400, "%d", got); /* what the other holds in advance */
    other = gate_accounts_open(threads[0], GATE_SCOPE_USER, VD_SLICE_LIT("bert@admin"));
    cr_expect_eq(take_one(threads[0], other, 0), 0, "others notice nothing");
    now_us += S / 2;
    for (int i = got = 0; i < 20000; i++)
        got += take_one(threads[i % 2], accounts[i % 2], 0) == 0;
    cr_expect(got > 3200 - 200 && got <= 3200 + 200, "%d", got);
    /* Credit of an old rate is void. */
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_NULL, GATE_LIMIT_OPERATIONS_PER_USER, 1, NULL),
                 VD_OK);
    for (int i = got = 0; i < 100; i++)
        got += take_one(threads[i % 2], accounts[i % 2], 0) == 0;
    cr_expect_leq(got, 1, "%d", got);
    /* One user's own value. */
    cr_assert_eq(gate_quota_set(quota, name, GATE_LIMIT_OPERATIONS_PER_USER, 0, NULL), VD_OK);
    for (int i = got = 0; i < 100; i++)
        got += take_one(threads[0], accounts[0], 0) == 0;
    cr_expect_eq(got, 100);
    for (int i = 0; i < 2; i++)
        gate_accounts_close(threads[i], &accounts[i]);
    gate_accounts_close(threads[0], &other);
    for (int i = 0; i < 2; i++)
        gate_accounts_destroy(&threads[i]);
    gate_quota_destroy(&quota);
}

Test(quota, a_refusal_takes_nothing_and_what_was_used_is_charged)
{
    gate_quota_t *quota = gate_quota_create(&off);
    gate_accounts_t *accounts = gate_accounts_create(quota);
    const double cost[GATE_RATES] = {[GATE_RATE_OPERATIONS] = 1, [GATE_RATE_EXAMINED] = 1};
    gate_rate_t rate = GATE_RATE_NONE;
    uint64_t wait;
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_NULL, GATE_LIMIT_OPERATIONS_PER_ADDRESS, 5, NULL),
                 VD_OK);
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_NULL, GATE_LIMIT_EXAMINED_PER_ADDRESS, 100, NULL),
                 VD_OK);
    gate_account_t *account =
        gate_accounts_open(accounts, GATE_SCOPE_ADDRESS, VD_SLICE_LIT("0123456789abcdef"));
    cr_expect_eq(gate_account_take(accounts, account, now_us, cost, 0, &rate, &wait), 0);
    gate_account_charge(accounts, account, now_us, GATE_RATE_EXAMINED, 299);
    cr_expect_eq(gate_account_take(accounts, account, now_us, cost, 0, &rate, &wait), -1);
    cr_expect_eq(rate, GATE_RATE_EXAMINED);
    cr_expect(wait > 2 * S && wait < 3 * S, "%llu", (unsigned long long)wait);
    now_us += 4 * S;
    for (int i = 0; i < 6; i++) /* the refusal has cost no operation: his thread still has it */
        cr_expect_eq(gate_account_take(accounts, account, now_us, cost, 0, &rate, &wait), 0, "%d",
                     i);
    cr_expect_eq(gate_account_take(accounts, account, now_us, cost, 0, &rate, &wait), -1);
    cr_expect_eq(rate, GATE_RATE_OPERATIONS);
    gate_account_give(account, cost);
    cr_expect_eq(gate_account_take(accounts, account, now_us, cost, 0, &rate, &wait), 0);
    gate_accounts_close(accounts, &account);
    gate_accounts_destroy(&accounts);
    gate_quota_destroy(&quota);
}

Test(quota, connections_of_a_user)
{
    gate_quota_t *quota = gate_quota_create(&off);
    gate_accounts_t *threads[2] = {gate_accounts_create(quota), gate_accounts_create(quota)};
    gate_account_t *a[2];
    cr_assert_eq(gate_quota_set(quota, VD_SLICE_NULL, GATE_LIMIT_CONNECTIONS_PER_USER, 2, NULL),
                 VD_OK);
    for (int i = 0; i < 2; i++)
        a[i] = gate_accounts_open(threads[i], GATE_SCOPE_USER, VD_SLICE_LIT("anna@admin"));
    cr_expect(gate_account_enter(threads[0], a[0]));
    cr_expect(gate_account_enter(threads[1], a[1]));
    cr_expect_not(gate_account_enter(threads[0], a[0]));
    gate_account_leave(threads[1], a[1]);
    cr_expect(gate_account_enter(threads[0], a[0]));
    gate_account_leave(threads[0], a[0]);
    gate_account_leave(threads[0], a[0]);
    for (int i = 0; i < 2; i++) {
        gate_accounts_close(threads[i], &a[i]);
        gate_accounts_destroy(&threads[i]);
    }
    gate_quota_destroy(&quota);
}

/* ---- many addresses ---- */

static vd_slice_t address(uint32_t n, uint8_t space[16])
{
    memset(space, 0, 16);
    memcpy(space, &n, sizeof n);
    return vd_slice(space, 16);
}

static bool handshake(gate_quota_t *quota, uint32_t n)
{
    uint8_t space[16];
    gate_scope_t scope;
    return gate_quota_handshake(quota, address(n, space), now_us, &scope);
}

Test(quota, nobody_loses_his_debt_by_the_coming_of_others)
{
    gate_limit_values_t values = off;
    values.values[GATE_LIMIT_HANDSHAKES_PER_ADDRESS] = 1;
    values.values[GATE_LIMIT_BURST] = 2000;
    gate_quota_t *quota = gate_quota_create(&values);
    cr_expect(handshake(quota, 1));
    cr_expect(handshake(quota, 1));
    cr_expect_not(handshake(quota, 1));
    /* The table is filled, and more come than it holds: all of them owe something. */
    uint32_t turned_away = 0;
    for (uint32_t i = 2; i < GATE_ENTRIES_MAX + 1000; i++)
        turned_away += !handshake(quota, i);
    cr_expect_eq(turned_away, 997, "they share what one may: %u", turned_away);
    cr_expect_not(handshake(quota, 1), "his debt is there");
    /* When they owe nothing any more there is room again. */
    now_us += 3 * S;
    cr_expect(handshake(quota, GATE_ENTRIES_MAX + 5000));
    cr_expect(handshake(quota, GATE_ENTRIES_MAX + 5000));
    cr_expect_not(handshake(quota, GATE_ENTRIES_MAX + 5000));
    cr_expect(handshake(quota, GATE_ENTRIES_MAX + 5001));
    gate_quota_destroy(&quota);
}

Test(quota, total_of_handshakes)
{
    gate_limit_values_t values = off;
    gate_scope_t scope = GATE_SCOPE_USER;
    uint8_t space[16];
    values.values[GATE_LIMIT_HANDSHAKES_TOTAL] = 3;
    gate_quota_t *quota = gate_quota_create(&values);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect(handshake(quota, i));
    cr_expect_not(gate_quota_handshake(quota, address(9, space), now_us, &scope));
    cr_expect_eq(scope, GATE_SCOPE_TOTAL);
    gate_quota_destroy(&quota);
}

Test(quota, overrides_are_bounded)
{
    gate_quota_t *quota = gate_quota_create(&off);
    gate_override_t *copy = calloc(GATE_OVERRIDES_MAX, sizeof *copy);
    char name[32];
    for (int i = 0; i < GATE_OVERRIDES_MAX; i++) {
        (void)snprintf(name, sizeof name, "u%d@x", i);
        cr_assert_eq(
            gate_quota_set(quota, vd_slice_str(name), GATE_LIMIT_CURSORS_PER_USER, 1, NULL), VD_OK);
    }
    cr_expect_eq(gate_quota_set(quota, VD_SLICE_LIT("v@x"), GATE_LIMIT_CURSORS_PER_USER, 1, NULL),
                 VD_ERR_FULL);
    cr_expect_eq(gate_quota_set(quota, VD_SLICE_LIT("u3@x"), GATE_LIMIT_CURSORS_PER_USER, 7, NULL),
                 VD_OK);
    cr_expect_eq(gate_quota_overrides(quota, copy, GATE_OVERRIDES_MAX), GATE_OVERRIDES_MAX);
    cr_expect_eq(copy[3].value, 7);
    gate_quota_reset(quota, VD_SLICE_LIT("u3@x"));
    cr_expect_eq(gate_quota_overrides(quota, copy, GATE_OVERRIDES_MAX), GATE_OVERRIDES_MAX - 1);
    free(copy);
    gate_quota_destroy(&quota);
}

/* ---- what is told ---- */

Test(quota, refusals_are_told_in_sums)
{
    gate_notes_t *notes = gate_notes_create();
    gate_note_t out[4];
    vd_slice_t anna = VD_SLICE_LIT("anna@admin");
    for (int i = 0; i < 3; i++)
        gate_notes_add(notes, GATE_REFUSED_OPERATIONS, GATE_SCOPE_USER, anna);
    gate_notes_add(notes, GATE_REFUSED_QUEUE, GATE_SCOPE_TOTAL, VD_SLICE_NULL);
    cr_expect_eq(gate_notes_take(notes, false, out, 4), 2, "the first at once");
    cr_expect_eq(out[0].count + out[1].count, 4);
    for (int i = 0; i < 1000; i++)
        gate_notes_add(notes, GATE_REFUSED_OPERATIONS, GATE_SCOPE_USER, anna);
    now_us += 59 * S;
    cr_expect_eq(gate_notes_take(notes, false, out, 4), 0, "the rest of its minute");
    now_us += 2 * S;
    cr_expect_eq(gate_notes_take(notes, false, out, 4), 1);
    cr_expect_eq(out[0].count, 1000);
    cr_expect_str_eq(out[0].who, "anna@admin");
    cr_expect_eq(out[0].kind, GATE_REFUSED_OPERATIONS);
    gate_notes_add(notes, GATE_REFUSED_OPERATIONS, GATE_SCOPE_USER, anna);
    cr_expect_eq(gate_notes_take(notes, false, out, 4), 0);
    cr_expect_eq(gate_notes_take(notes, true, out, 4), 1, "asked for all");
    now_us += 200 * S;
    cr_expect_eq(gate_notes_take(notes, false, out, 4), 0);
    cr_expect_eq(gate_notes_refused(notes, GATE_REFUSED_OPERATIONS, GATE_SCOPE_USER), 1004);
    gate_notes_waited(notes, GATE_REFUSED_OPERATIONS, GATE_SCOPE_USER);
    cr_expect_eq(gate_notes_delayed(notes, GATE_REFUSED_OPERATIONS, GATE_SCOPE_USER), 1);
    gate_notes_destroy(&notes);
    cr_expect_null(notes);
}

Test(quota, a_flood_of_names_is_told_as_one)
{
    gate_notes_t *notes = gate_notes_create();
    gate_note_t out[16];
    char name[32];
    uint64_t told = 0;
    uint32_t records = 0, count;
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(name, sizeof name, "10.0.%d.%d", i / 256, i % 256);
        gate_notes_add(notes, GATE_REFUSED_HANDSHAKES, GATE_SCOPE_ADDRESS, vd_slice_str(name));
    }
    while ((count = gate_notes_take(notes, false, out, 16)) != 0) {
        records += count;
        for (uint32_t i = 0; i < count; i++)
            told += out[i].count;
    }
    cr_expect_eq(told, 10000);
    cr_expect_eq(records, GATE_NOTES_MAX + 1);
    now_us += 61 * S; /* and they are forgotten */
    cr_expect_eq(gate_notes_take(notes, false, out, 16), 0);
    gate_notes_add(notes, GATE_REFUSED_HANDSHAKES, GATE_SCOPE_ADDRESS, VD_SLICE_LIT("10.9.9.9"));
    cr_expect_eq(gate_notes_take(notes, false, out, 16), 1);
    cr_expect_str_eq(out[0].who, "10.9.9.9");
    gate_notes_destroy(&notes);
}
