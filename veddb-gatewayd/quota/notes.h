/* veddb-gatewayd/quota/notes.h — refusals by limits: counted, and told in sums.
 *
 * Duty:    counts per kind and scope for the metrics; and per user or address and kind what is
 *          still to be told to the audit log: the first at once, then once a minute how many there
 *          were, so that an attack can't fill the disk.
 * Threads: any (one lock; counters are atomic).
 * Limits:  GATE_NOTES_MAX pairs of who and what in a minute; others are summed up under the name
 *          "(others)". */
#pragma once
#include "libcommon/base/slice.h"
#include "veddb-gatewayd/quota/settings.h"

#include <stdatomic.h>

#define GATE_NOTES_MAX       4096
#define GATE_NOTES_PERIOD_MS 60000

typedef enum {
    GATE_REFUSED_OPERATIONS, /* the kinds of rates, in their order */
    GATE_REFUSED_BYTES_IN,
    GATE_REFUSED_BYTES_OUT,
    GATE_REFUSED_EXAMINED,
    GATE_REFUSED_HANDSHAKES,
    GATE_REFUSED_CONNECTIONS,
    GATE_REFUSED_CURSORS,
    GATE_REFUSED_SESSIONS,
    GATE_REFUSED_RESULT,
    GATE_REFUSED_QUEUE,
    GATE_REFUSALS
} gate_refusal_t;

extern const char *const gate_refusal_names[GATE_REFUSALS];

typedef struct {
    gate_refusal_t kind;
    gate_scope_t scope;
    uint64_t count;
    int64_t since_ms;                 /* wall clock of the first of these */
    char who[GATE_LIMITED_USER_SIZE]; /* "name@db", an address, or empty: all */
} gate_note_t;

typedef struct gate_notes gate_notes_t;

gate_notes_t *gate_notes_create(void);
void gate_notes_destroy(gate_notes_t **notes_p);
void gate_notes_add(gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope, vd_slice_t who);
/* Who waited, and was not refused. */
void gate_notes_waited(gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope);
/* Up to max of those that are due; call again while it returns max. all: also those whose minute is
 * not over. */
uint32_t gate_notes_take(gate_notes_t *notes, bool all, gate_note_t *out, uint32_t max);
uint64_t gate_notes_refused(const gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope);
uint64_t gate_notes_delayed(const gate_notes_t *notes, gate_refusal_t kind, gate_scope_t scope);
