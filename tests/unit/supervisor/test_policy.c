/* tests/unit/supervisor/test_policy.c — restarts, pauses, giving up. */
#include "veddb-supervisor/policy.h"

#include <criterion/criterion.h>

static uint64_t judge(sup_history_t *history, bool was_ready, uint64_t ready_ms,
                      sup_verdict_t expected)
{
    uint64_t wait = 99999;
    sup_death_t death = {.was_ready = was_ready, .ready_ms = ready_ms};
    cr_assert_eq(sup_policy_judge(history, &death, &wait), expected);
    return wait;
}

Test(policy, first_death_of_a_serving_worker_is_restarted_at_once)
{
    sup_history_t history = {0};
    cr_assert_eq(judge(&history, true, 50, SUP_VERDICT_RESTART), 0);
    cr_assert_eq(judge(&history, true, 50, SUP_VERDICT_RESTART), 0);
}

Test(policy, short_lives_in_a_row_grow_the_pause_up_to_a_cap)
{
    sup_history_t history = {0};
    uint64_t last = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t wait = judge(&history, true, 100, SUP_VERDICT_RESTART);
        cr_assert_geq(wait, last);
        last = wait;
    }
    cr_assert_eq(last, 2000);
    cr_assert_eq(judge(&history, true, SUP_LIVED_LONG_MS, SUP_VERDICT_RESTART), 0,
                 "a long life forgives");
    cr_assert_eq(judge(&history, true, 100, SUP_VERDICT_RESTART), 0);
}

Test(policy, deaths_before_ready_wait_and_are_given_up)
{
    sup_history_t history = {0};
    uint64_t last = 0;
    for (int i = 1; i < SUP_STARTS_FAILED_MAX; i++) {
        uint64_t wait = judge(&history, false, 0, SUP_VERDICT_RESTART);
        cr_assert(wait > last || wait == SUP_WAIT_MAX_MS);
        last = wait;
    }
    (void)judge(&history, false, 0, SUP_VERDICT_GIVE_UP);
}

Test(policy, one_success_resets_failed_starts)
{
    sup_history_t history = {0};
    for (int i = 0; i < 50; i++) {
        (void)judge(&history, false, 0, SUP_VERDICT_RESTART);
        (void)judge(&history, true, SUP_LIVED_LONG_MS, SUP_VERDICT_RESTART);
    }
}

Test(policy, structural_is_given_up_at_once)
{
    sup_history_t history = {0};
    uint64_t wait = 7;
    sup_death_t death = {.structural = true, .was_ready = true, .ready_ms = 100000};
    cr_assert_eq(sup_policy_judge(&history, &death, &wait), SUP_VERDICT_GIVE_UP);
}

Test(policy, a_wanted_end_is_no_failure)
{
    sup_history_t history = {.deaths_before_ready = 5, .short_lives = 9};
    uint64_t wait = 7;
    sup_death_t death = {.wanted = true, .structural = true};
    cr_assert_eq(sup_policy_judge(&history, &death, &wait), SUP_VERDICT_RESTART);
    cr_assert_eq(wait, 0);
    cr_assert_eq(history.short_lives, 0);
}
