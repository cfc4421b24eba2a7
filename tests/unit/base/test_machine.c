/* tests/unit/base/test_machine.c — what we may use is between nothing and all that there is. */
#include "libcommon/base/machine.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <unistd.h>

Test(machine, memory)
{
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t ours = vd_machine_memory_bytes();
    cr_assert_gt(ours, 1 << 20);
    cr_assert_leq(ours, all);
}

Test(machine, cores_follow_the_affinity)
{
    cpu_set_t all, one;
    cr_assert_eq(sched_getaffinity(0, sizeof all, &all), 0);
    cr_assert_eq(vd_machine_cores(), (uint32_t)CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
    cr_assert_eq(vd_machine_cores(), 1);
}
