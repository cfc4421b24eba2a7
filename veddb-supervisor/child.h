/* veddb-supervisor/child.h — the state of one worker as a table: state x event -> state and action.
 * Pure: acts through the returned action only. */
#pragma once
#include <stdint.h>

typedef enum {
    SUP_CHILD_STOPPED,  /* not running, not wanted */
    SUP_CHILD_WAITING,  /* wanted: waits for what it needs, or for its pause to end */
    SUP_CHILD_STARTING, /* process runs, not ready */
    SUP_CHILD_RUNNING,  /* said that it is ready */
    SUP_CHILD_DRAINING, /* finishes what is in flight */
    SUP_CHILD_STOPPING, /* told to stop */
    SUP_CHILD_KILLED,   /* got SIGKILL, not yet reaped */
    SUP_CHILD_FAILED,   /* given up: an operator must act */
    SUP_CHILD_STATES,
} sup_child_state_t;

typedef enum {
    SUP_EVENT_WANT,          /* shall run */
    SUP_EVENT_GO,            /* what it needs is ready and its pause is over */
    SUP_EVENT_READY,         /* said so */
    SUP_EVENT_DRAIN,         /* shall drain, then stop */
    SUP_EVENT_DRAINED,       /* said so */
    SUP_EVENT_TIMEOUT,       /* the time of the present state is over */
    SUP_EVENT_HUNG,          /* no heartbeat */
    SUP_EVENT_DIED,          /* reaped; a restart is due */
    SUP_EVENT_DIED_FINAL,    /* reaped; policy gave up */
    SUP_EVENT_DIED_UNWANTED, /* reaped; nobody wants it back */
    SUP_EVENTS,
} sup_event_t;

typedef enum {
    SUP_ACTION_NONE,
    SUP_ACTION_SPAWN,
    SUP_ACTION_SEND_DRAIN,
    SUP_ACTION_SEND_STOP,
    SUP_ACTION_KILL,
    SUP_ACTION_NOTE_READY,
    SUP_ACTION_NOTE_DOWN,
} sup_action_t;

typedef struct {
    sup_child_state_t next;
    sup_action_t action;
} sup_step_t;

/* An event that makes no sense in a state leaves it as it is (messages may cross). */
sup_step_t sup_child_step(sup_child_state_t state, sup_event_t event);
const char *sup_child_state_name(sup_child_state_t state);
