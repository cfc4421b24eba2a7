/* tests/unit/supervisor/test_child.c — the table of a worker's states. */
#include "veddb-supervisor/child.h"

#include <criterion/criterion.h>

static sup_action_t step(sup_child_state_t *state, sup_event_t event)
{
    sup_step_t next = sup_child_step(*state, event);
    *state = next.next;
    return next.action;
}

Test(child, the_usual_life)
{
    sup_child_state_t state = SUP_CHILD_STOPPED;
    cr_assert_eq(step(&state, SUP_EVENT_WANT), SUP_ACTION_NONE);
    cr_assert_eq(state, SUP_CHILD_WAITING);
    cr_assert_eq(step(&state, SUP_EVENT_GO), SUP_ACTION_SPAWN);
    cr_assert_eq(step(&state, SUP_EVENT_READY), SUP_ACTION_NOTE_READY);
    cr_assert_eq(state, SUP_CHILD_RUNNING);
    cr_assert_eq(step(&state, SUP_EVENT_DRAIN), SUP_ACTION_SEND_DRAIN);
    cr_assert_eq(step(&state, SUP_EVENT_DRAINED), SUP_ACTION_SEND_STOP);
    cr_assert_eq(step(&state, SUP_EVENT_DIED_UNWANTED), SUP_ACTION_NOTE_DOWN);
    cr_assert_eq(state, SUP_CHILD_STOPPED);
}

Test(child, a_death_ends_every_living_state)
{
    static const sup_child_state_t alive[] = {SUP_CHILD_STARTING, SUP_CHILD_RUNNING,
                                              SUP_CHILD_DRAINING, SUP_CHILD_STOPPING,
                                              SUP_CHILD_KILLED};
    for (size_t i = 0; i < sizeof alive / sizeof alive[0]; i++) {
        cr_assert_eq(sup_child_step(alive[i], SUP_EVENT_DIED).next, SUP_CHILD_WAITING);
        cr_assert_eq(sup_child_step(alive[i], SUP_EVENT_DIED_FINAL).next, SUP_CHILD_FAILED);
        cr_assert_eq(sup_child_step(alive[i], SUP_EVENT_DIED_UNWANTED).next, SUP_CHILD_STOPPED);
    }
}

Test(child, a_hung_or_late_worker_is_killed)
{
    cr_assert_eq(sup_child_step(SUP_CHILD_RUNNING, SUP_EVENT_HUNG).action, SUP_ACTION_KILL);
    cr_assert_eq(sup_child_step(SUP_CHILD_DRAINING, SUP_EVENT_HUNG).action, SUP_ACTION_KILL);
    cr_assert_eq(sup_child_step(SUP_CHILD_STARTING, SUP_EVENT_TIMEOUT).action, SUP_ACTION_KILL);
    cr_assert_eq(sup_child_step(SUP_CHILD_DRAINING, SUP_EVENT_TIMEOUT).action,
                 SUP_ACTION_SEND_STOP);
    cr_assert_eq(sup_child_step(SUP_CHILD_STOPPING, SUP_EVENT_TIMEOUT).action, SUP_ACTION_KILL);
}

Test(child, crossed_messages_change_nothing)
{
    for (int state = 0; state < SUP_CHILD_STATES; state++) {
        if (state == SUP_CHILD_STARTING)
            continue;
        sup_step_t next = sup_child_step((sup_child_state_t)state, SUP_EVENT_READY);
        cr_assert_eq(next.next, (sup_child_state_t)state);
        cr_assert_eq(next.action, SUP_ACTION_NONE);
    }
}

Test(child, nothing_but_go_spawns)
{
    for (int state = 0; state < SUP_CHILD_STATES; state++)
        for (int event = 0; event < SUP_EVENTS; event++)
            if (sup_child_step((sup_child_state_t)state, (sup_event_t)event).action ==
                SUP_ACTION_SPAWN)
                cr_assert(state == SUP_CHILD_WAITING && event == SUP_EVENT_GO);
}
