/* veddb-replicad/readers.h — pure: which member reads which copy of our data. A member reads one at
 * a time, so any other of its copies is given up: by what it asks for, and by what its heartbeats
 * say, the source learns that it may drop them (a copy that stands holds disk, journal and keys).
 *
 * Duty:    notes copies by member; hands out those that a member has given up.
 * Owner:   embedded; init is zeroes. Threads: one.
 * Limits:  REPL_READERS_MAX; beyond, the oldest is forgotten, and storage ends it by its own time.
 * Order:   a member asks, and sends its heartbeats, on one connection: what it says holds for what
 *          it asked before. */
#pragma once
#include "libcommon/base/slice.h"

#define REPL_READERS_MAX 16
#define REPL_COPY_BYTES  16

typedef struct {
    uint32_t count; /* oldest first */
    struct {
        uint32_t member;
        uint8_t copy[REPL_COPY_BYTES];
    } list[REPL_READERS_MAX];
} repl_readers_t;

/* The member reads this copy. Known already: nothing. copy: REPL_COPY_BYTES. */
void repl_readers_note(repl_readers_t *readers, uint32_t member, vd_slice_t copy);
/* It was closed. Not known: nothing. */
void repl_readers_forget(repl_readers_t *readers, vd_slice_t copy);
/* Takes out one of the member's copies, but not `kept` (empty: none is). False: there is none. */
bool repl_readers_take(repl_readers_t *readers, uint32_t member, vd_slice_t kept,
                       uint8_t ret_copy[REPL_COPY_BYTES]);
/* Whether one that says so in its heartbeat reads no copy of ours: it has its data, or copies from
 * another. role: VDP_ROLE_*. */
bool repl_readers_done(uint32_t role, uint32_t sync_source, uint32_t self);
