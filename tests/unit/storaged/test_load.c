/* tests/unit/storaged/test_load.c — who would wait for too long; how many of something users have.
 */
#include "veddb-storaged/counts.h"
#include "veddb-storaged/load.h"

#include <criterion/criterion.h>

Test(load, who_is_refused)
{
    static const struct {
        uint64_t since, now, bound, left;
        bool refused;
        const char *why;
    } cases[] = {
        {0, 100, 0, 0, false, "nobody waits"},
        {100, 100, 0, 0, false, "it has just come"},
        {100, 50, 0, 0, false, "clocks of two threads"},
        {100, 200, 100, UINT64_MAX, false, "at the bound"},
        {100, 201, 100, UINT64_MAX, true, "over it"},
        {100, 200, 1000, 100, false, "in time"},
        {100, 201, 1000, 100, true, "too late for its client"},
        {100, 1u << 30, UINT64_MAX, UINT64_MAX, false, "no bound"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(stor_load_refuses(cases[i].since, cases[i].now, cases[i].bound, cases[i].left),
                     cases[i].refused, "%s", cases[i].why);
}

Test(load, counts)
{
    stor_counts_t *counts = stor_counts_create();
    vd_slice_t a = VD_SLICE_LIT("a@x"), b = VD_SLICE_LIT("b@x");
    cr_expect(stor_counts_add(counts, a, 2));
    cr_expect(stor_counts_add(counts, a, 2));
    cr_expect_not(stor_counts_add(counts, a, 2));
    cr_expect(stor_counts_add(counts, b, 2));
    cr_expect(stor_counts_add(counts, a, 0), "no limit");
    cr_expect_eq(stor_counts_get(counts, a), 3);
    stor_counts_remove(counts, a);
    stor_counts_remove(counts, a);
    cr_expect(stor_counts_add(counts, a, 2));
    stor_counts_remove(counts, b);
    cr_expect_eq(stor_counts_get(counts, b), 0);
    stor_counts_destroy(&counts);
    cr_expect_null(counts);
}
