/* tests/unit/gatewayd/test_lockout.c — who is locked out, from where, and who is not. */
#include "libcommon/base/assert.h"
#include "veddb-gatewayd/auth/lockout.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define LOCK_MS 60000

static gate_lockout_t *lockout;

static void setup(void)
{
    lockout = gate_lockout_create(3, LOCK_MS);
}

static void teardown(void)
{
    gate_lockout_destroy(&lockout);
}

TestSuite(lockout, .init = setup, .fini = teardown, .timeout = 300);

static gate_lockout_who_t who(const char *user, uint32_t address)
{
    gate_lockout_who_t result = {vd_slice_str(user), VD_SLICE_LIT("admin"), {{0}}};
    memcpy(result.address.bytes, &address, sizeof address);
    return result;
}

static bool failed(const char *user, uint32_t address, uint64_t now_ms)
{
    gate_lockout_who_t about = who(user, address);
    return gate_lockout_failed(lockout, &about, now_ms);
}

static int64_t wait(const char *user, uint32_t address, uint64_t now_ms)
{
    gate_lockout_who_t about = who(user, address);
    return gate_lockout_wait_ms(lockout, &about, now_ms);
}

static void good(const char *user, uint32_t address, uint64_t now_ms)
{
    gate_lockout_who_t about = who(user, address);
    gate_lockout_good(lockout, &about, now_ms);
}

Test(lockout, a_user_from_an_address)
{
    cr_expect_eq(wait("admin", 1, 0), 0);
    cr_expect_not(failed("admin", 1, 1));
    cr_expect_not(failed("admin", 1, 2));
    cr_expect_eq(wait("admin", 1, 3), 0);
    cr_expect(failed("admin", 1, 4));
    cr_expect_eq(wait("admin", 1, 5), -1);
    cr_expect_eq(wait("admin", 2, 5), 0, "nowhere else");
    cr_expect_eq(wait("other", 1, 5), 0, "nobody else");
    cr_expect_eq(wait("admin", 1, 3 + LOCK_MS), -1);
    cr_expect_eq(wait("admin", 1, 5 + LOCK_MS), 0);
    cr_expect_not(failed("admin", 1, 6 + LOCK_MS), "it begins anew");
}

/* Threads read their clocks before they have the lock. */
Test(lockout, clocks_in_another_order_forget_nothing)
{
    cr_expect_not(failed("admin", 1, 100));
    cr_expect_not(failed("admin", 1, 99));
    cr_expect(failed("admin", 1, 98));
    cr_expect_eq(wait("admin", 1, 99), -1);
    for (uint32_t address = 100; address < 200; address++)
        (void)failed("bob", address, address % 2 == 0 ? 1000 : 999);
    cr_expect_gt(wait("bob", 8, 998), 0);
}

Test(lockout, a_good_login_forgets_failures)
{
    for (uint64_t round = 0; round < 10; round++) {
        cr_expect_not(failed("admin", 1, round * 10));
        cr_expect_not(failed("admin", 1, round * 10 + 1));
        good("admin", 1, round * 10 + 2);
    }
    cr_expect_eq(wait("admin", 1, 200), 0);
}

Test(lockout, a_name_in_another_database_is_another_user)
{
    gate_lockout_who_t other = {VD_SLICE_LIT("admin"), VD_SLICE_LIT("test"), {{0}}};
    for (int i = 0; i < 3; i++)
        (void)gate_lockout_failed(lockout, &other, 1);
    cr_expect_eq(gate_lockout_wait_ms(lockout, &other, 2), -1);
    cr_expect_eq(wait("admin", 0, 2), 0);
}

/* From a thousand addresses: new ones wait, nobody is refused, and who was here before waits not.
 */
Test(lockout, an_attack_on_one_user_from_everywhere)
{
    good("admin", 7, 1);
    for (uint32_t address = 100; address < 1100; address++)
        (void)failed("admin", address, 10);
    cr_expect_eq(wait("admin", 7, 11), 0);
    int64_t slow = wait("admin", 8, 11);
    cr_expect_gt(slow, 0);
    cr_expect_leq(slow, GATE_LOCKOUT_SLOW_MS);
    cr_expect_eq(wait("other", 8, 11), 0);
    cr_expect_eq(wait("admin", 8, 11 + 3600000), 0, "it passes");
}

Test(lockout, tables_are_bounded)
{
    gate_lockout_who_t about = who("", 0);
    char name[32];
    good("admin", 7, 1);
    for (uint32_t i = 0; i < GATE_LOCKOUT_PAIRS_MAX + 5000; i++) {
        (void)snprintf(name, sizeof name, "user%u", i);
        about.user = vd_slice_str(name);
        (void)gate_lockout_failed(lockout, &about, 2);
    }
    cr_expect_eq(gate_lockout_pairs(lockout), GATE_LOCKOUT_PAIRS_MAX);
}

/* What locks somebody stays when the table is full of others. */
Test(lockout, locks_outlive_a_flood)
{
    gate_lockout_who_t about = who("", 0);
    char name[32];
    for (int i = 0; i < 3; i++)
        (void)failed("victim", 9, 1);
    for (uint32_t i = 0; i < GATE_LOCKOUT_PAIRS_MAX + 100; i++) {
        (void)snprintf(name, sizeof name, "user%u", i);
        about.user = vd_slice_str(name);
        (void)gate_lockout_failed(lockout, &about, 2);
    }
    cr_expect_eq(wait("victim", 9, 3), -1);
}
