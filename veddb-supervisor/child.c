/* veddb-supervisor/child.c — see child.h. */
#include "veddb-supervisor/child.h"

#include <stdbool.h>

typedef struct {
    bool set;
    sup_child_state_t next;
    sup_action_t action;
} cell_t;

#define TO(state, what)                                                                            \
    {                                                                                              \
        true, SUP_CHILD_##state, SUP_ACTION_##what                                                 \
    }

/* Every death leads to one of three ends, whatever the state was; the rest is the way up and the
 * way down. */
static const cell_t table[SUP_CHILD_STATES][SUP_EVENTS] = {
    [SUP_CHILD_STOPPED] = {[SUP_EVENT_WANT] = TO(WAITING, NONE)},
    [SUP_CHILD_WAITING] = {[SUP_EVENT_GO] = TO(STARTING, SPAWN),
                           [SUP_EVENT_DRAIN] = TO(STOPPED, NOTE_DOWN),
                           [SUP_EVENT_DIED] = TO(WAITING, NONE), /* could not be spawned */
                           [SUP_EVENT_DIED_FINAL] = TO(FAILED, NOTE_DOWN)},
    [SUP_CHILD_STARTING] = {[SUP_EVENT_READY] = TO(RUNNING, NOTE_READY),
                            [SUP_EVENT_DRAIN] = TO(STOPPING, SEND_STOP),
                            [SUP_EVENT_TIMEOUT] = TO(KILLED, KILL),
                            [SUP_EVENT_HUNG] = TO(KILLED, KILL),
                            [SUP_EVENT_DIED] = TO(WAITING, NONE),
                            [SUP_EVENT_DIED_FINAL] = TO(FAILED, NOTE_DOWN),
                            [SUP_EVENT_DIED_UNWANTED] = TO(STOPPED, NOTE_DOWN)},
    [SUP_CHILD_RUNNING] = {[SUP_EVENT_DRAIN] = TO(DRAINING, SEND_DRAIN),
                           [SUP_EVENT_HUNG] = TO(KILLED, KILL),
                           [SUP_EVENT_DIED] = TO(WAITING, NOTE_DOWN),
                           [SUP_EVENT_DIED_FINAL] = TO(FAILED, NOTE_DOWN),
                           [SUP_EVENT_DIED_UNWANTED] = TO(STOPPED, NOTE_DOWN)},
    [SUP_CHILD_DRAINING] = {[SUP_EVENT_DRAINED] = TO(STOPPING, SEND_STOP),
                            [SUP_EVENT_TIMEOUT] = TO(STOPPING, SEND_STOP),
                            [SUP_EVENT_HUNG] = TO(KILLED, KILL),
                            [SUP_EVENT_DIED] = TO(WAITING, NOTE_DOWN),
                            [SUP_EVENT_DIED_FINAL] = TO(FAILED, NOTE_DOWN),
                            [SUP_EVENT_DIED_UNWANTED] = TO(STOPPED, NOTE_DOWN)},
    [SUP_CHILD_STOPPING] = {[SUP_EVENT_TIMEOUT] = TO(KILLED, KILL),
                            [SUP_EVENT_DIED] = TO(WAITING, NOTE_DOWN),
                            [SUP_EVENT_DIED_FINAL] = TO(FAILED, NOTE_DOWN),
                            [SUP_EVENT_DIED_UNWANTED] = TO(STOPPED, NOTE_DOWN)},
    [SUP_CHILD_KILLED] = {[SUP_EVENT_DIED] = TO(WAITING, NOTE_DOWN),
                          [SUP_EVENT_DIED_FINAL] = TO(FAILED, NOTE_DOWN),
                          [SUP_EVENT_DIED_UNWANTED] = TO(STOPPED, NOTE_DOWN)},
    [SUP_CHILD_FAILED] =
        {[SUP_EVENT_WANT] = TO(WAITING, NONE), [SUP_EVENT_DRAIN] = TO(STOPPED, NOTE_DOWN)},
};

sup_step_t sup_child_step(sup_child_state_t state, sup_event_t event)
{
    const cell_t *cell = &table[state][event];
    if (!cell->set)
        return (sup_step_t){state, SUP_ACTION_NONE};
    return (sup_step_t){cell->next, cell->action};
}

const char *sup_child_state_name(sup_child_state_t state)
{
    static const char *const names[SUP_CHILD_STATES] = {
        "stopped", "waiting", "starting", "running", "draining", "stopping", "killed", "failed"};
    return names[state];
}
