/* tests/unit/gatewayd/test_limits.c — bounds per address: connections, failed logins, how many
 * addresses are remembered. */
#include "libcommon/base/assert.h"
#include "libcommon/base/clock.h"
#include "veddb-gatewayd/limits.h"

#include <criterion/criterion.h>
#include <netinet/in.h>

static uint64_t now_us;

static uint64_t fake_monotonic(void)
{
    return now_us;
}

static int64_t fake_wall(void)
{
    return 0;
}

static void setup(void)
{
    static const vd_clock_t fake = {fake_monotonic, fake_wall};
    now_us = 1000000;
    vd_clock_replace(&fake);
}

static void teardown(void)
{
    vd_clock_replace(NULL);
}

TestSuite(limits, .init = setup, .fini = teardown);

static gate_address_t address(uint32_t n)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    v4.sin_addr.s_addr = htonl(n);
    return gate_address_from((const struct sockaddr *)&v4);
}

Test(limits, connections_per_address)
{
    gate_limits_t *limits = gate_limits_create(2, 10);
    gate_address_t a = address(1), b = address(2);
    cr_expect(gate_limits_enter(limits, &a));
    cr_expect(gate_limits_enter(limits, &a));
    cr_expect_not(gate_limits_enter(limits, &a));
    cr_expect(gate_limits_enter(limits, &b));
    gate_limits_leave(limits, &a);
    cr_expect(gate_limits_enter(limits, &a));
    gate_limits_destroy(&limits);
    cr_expect_null(limits);
}

Test(limits, failed_logins_wait_then_are_refused)
{
    gate_limits_t *limits = gate_limits_create(100, 60);
    gate_address_t a = address(1), b = address(2);
    for (int i = 0; i < 60; i++) {
        cr_expect_eq(gate_limits_login_wait_ms(limits, &a), 0, "%d", i);
        gate_limits_login_failed(limits, &a);
    }
    int64_t wait = gate_limits_login_wait_ms(limits, &a);
    cr_expect(wait > 900 && wait <= 1001, "%lld", (long long)wait);
    cr_expect_eq(gate_limits_login_wait_ms(limits, &b), 0);
    gate_limits_login_failed(limits, &a);
    gate_limits_login_failed(limits, &a);
    gate_limits_login_failed(limits, &a);
    cr_expect_eq(gate_limits_login_wait_ms(limits, &a), -1);
    now_us += 4001000;
    cr_expect_eq(gate_limits_login_wait_ms(limits, &a), 0);
    /* However long it goes on, a minute and a half later one may try again. */
    for (int i = 0; i < 10000; i++)
        gate_limits_login_failed(limits, &a);
    cr_expect_eq(gate_limits_login_wait_ms(limits, &a), -1);
    now_us += 63u * 1000000;
    cr_expect_eq(gate_limits_login_wait_ms(limits, &a), 0);
    gate_limits_destroy(&limits);
}

Test(limits, the_table_of_addresses_is_bounded)
{
    gate_limits_t *limits = gate_limits_create(2, 10);
    for (uint32_t i = 0; i < GATE_ADDRESSES_MAX; i++) {
        gate_address_t a = address(i + 1);
        cr_assert(gate_limits_enter(limits, &a));
    }
    gate_address_t one_more = address(GATE_ADDRESSES_MAX + 1), first = address(1);
    cr_expect_not(gate_limits_enter(limits, &one_more));
    cr_expect_eq(gate_limits_login_wait_ms(limits, &one_more), -1);
    gate_limits_leave(limits, &first);
    cr_expect(gate_limits_enter(limits, &one_more));
    gate_limits_destroy(&limits);
}

Test(limits, addresses)
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    gate_address_t four = address(0x7F000001), mapped, one, same_net;
    v6.sin6_addr.s6_addr[10] = v6.sin6_addr.s6_addr[11] = 0xFF;
    v6.sin6_addr.s6_addr[12] = 127, v6.sin6_addr.s6_addr[15] = 1;
    mapped = gate_address_from((const struct sockaddr *)&v6);
    cr_expect_eq(memcmp(&four, &mapped, sizeof four), 0);
    memset(&v6.sin6_addr, 0, sizeof v6.sin6_addr);
    v6.sin6_addr.s6_addr[0] = 0x20, v6.sin6_addr.s6_addr[15] = 1;
    one = gate_address_from((const struct sockaddr *)&v6);
    v6.sin6_addr.s6_addr[15] = 2;
    same_net = gate_address_from((const struct sockaddr *)&v6);
    cr_expect_eq(memcmp(&one, &same_net, sizeof one), 0, "one host may own a whole /64");
    v6.sin6_addr.s6_addr[1] = 9;
    same_net = gate_address_from((const struct sockaddr *)&v6);
    cr_expect_neq(memcmp(&one, &same_net, sizeof one), 0);
}
