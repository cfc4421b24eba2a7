/* tests/unit/replicad/test_marks.c — lag in time. */
#include "veddb-replicad/marks.h"

#include <criterion/criterion.h>

Test(marks, how_long_ago_it_was_passed)
{
    static repl_marks_t marks;
    cr_assert_eq(repl_marks_behind_ms(&marks, 5, 100), 0);
    repl_marks_note(&marks, 10, 100);
    repl_marks_note(&marks, 20, 200);
    repl_marks_note(&marks, 20, 250); /* nothing new */
    repl_marks_note(&marks, 30, 300);
    cr_assert_eq(repl_marks_behind_ms(&marks, 30, 1000), 0);
    cr_assert_eq(repl_marks_behind_ms(&marks, 29, 1000), 700);
    cr_assert_eq(repl_marks_behind_ms(&marks, 20, 1000), 700);
    cr_assert_eq(repl_marks_behind_ms(&marks, 19, 1000), 800);
    cr_assert_eq(repl_marks_behind_ms(&marks, 3, 1000), 900);
    repl_marks_note(&marks, 31, 302); /* of the same moment as 30 */
    cr_assert_eq(repl_marks_behind_ms(&marks, 30, 1000), 700);
}

Test(marks, the_oldest_are_forgotten)
{
    static repl_marks_t marks;
    for (uint64_t i = 1; i <= 3 * REPL_MARKS_MAX; i++)
        repl_marks_note(&marks, i, 10 * i);
    uint64_t now = 30 * REPL_MARKS_MAX;
    cr_assert_eq(repl_marks_behind_ms(&marks, 3 * REPL_MARKS_MAX, now), 0);
    cr_assert_eq(repl_marks_behind_ms(&marks, 3 * REPL_MARKS_MAX - 1, now), 0);
    cr_assert_eq(repl_marks_behind_ms(&marks, 3 * REPL_MARKS_MAX - 2, now), 10);
    cr_assert_eq(repl_marks_behind_ms(&marks, 1, now), 10 * (REPL_MARKS_MAX - 1));
}
