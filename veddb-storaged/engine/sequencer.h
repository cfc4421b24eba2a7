/* veddb-storaged/engine/sequencer.h — timestamps, and what is in flight.
 *
 * Duty:    a timestamp is {seconds u32, term u8, counter u24}, unique and growing. A draw enters
 *          the session's slot first with a lower bound, so that the visible watermark (no hole
 *          below) never passes a transaction that has drawn but not yet ended. No timestamp above
 *          the ceiling is handed out; the ceiling is made durable by the flusher about a second
 *          ahead, and a start goes above it: no timestamp is issued twice, also after a crash. A
 *          clock that goes back does not matter: seconds never fall. A full counter moves on to the
 *          next second.
 * Replica: a secondary draws nothing. It commits under the primary's timestamps: they are observed,
 *          so `last`, `newest` and `visible` are its position, exactly, and may lie below `above`,
 *          which no later draw goes under.
 * Owner:   embedded in the engine.
 * Threads: a slot belongs to one session; the rest any. */
#pragma once
#include "libcommon/base/error.h"

#include <pthread.h>
#include <stdatomic.h>

#define STOR_COUNTER_BITS 24
#define STOR_TERM_BITS    8

static inline uint64_t stor_timestamp(uint64_t seconds, uint8_t term, uint32_t counter)
{
    return seconds << 32 | (uint64_t)term << STOR_COUNTER_BITS | counter;
}
static inline uint32_t stor_timestamp_seconds(uint64_t timestamp)
{
    return (uint32_t)(timestamp >> 32);
}
static inline uint8_t stor_timestamp_term(uint64_t timestamp)
{
    return (uint8_t)(timestamp >> STOR_COUNTER_BITS);
}
static inline uint32_t stor_timestamp_counter(uint64_t timestamp)
{
    return (uint32_t)timestamp & ((1u << STOR_COUNTER_BITS) - 1);
}

#define STOR_SLOT_FREE UINT64_MAX

typedef struct {
    _Alignas(64) atomic_uint_fast64_t
        timestamp; /* STOR_SLOT_FREE, or this and nothing below is in flight here */
} stor_slot_t;

typedef struct {
    atomic_uint term; /* 8 bits in each timestamp */
    uint32_t slots_max;
    stor_slot_t *slots;
    atomic_uint slots_used; /* slots at or above were never taken */
    /* Draws are above it, besides being above `last`; changes with the role only. */
    atomic_uint_fast64_t above;
    _Alignas(64) atomic_uint_fast64_t last;    /* newest timestamp drawn or observed */
    _Alignas(64) atomic_uint_fast64_t newest;  /* newest timestamp that was about to commit */
    _Alignas(64) atomic_uint_fast64_t ceiling; /* greatest timestamp that may be drawn */
    _Alignas(64) atomic_uint_fast64_t visible; /* greatest watermark given out */
    pthread_mutex_t lock;                      /* with raised; slow path only */
    pthread_cond_t raised;
    atomic_bool wanted;          /* a draw waits for a higher ceiling */
    void (*want)(void *context); /* wakes who raises the ceiling; set before the first draw */
    void *want_context;
} stor_sequencer_t;

/* start_above: nothing at or below is ever drawn. No ceiling yet: the first draw waits for
 * stor_sequencer_raise. */
void stor_sequencer_init(stor_sequencer_t *sequencer, uint8_t term, uint32_t slots_max,
                         uint64_t start_above);
void stor_sequencer_done(stor_sequencer_t *sequencer);
/* Slot `slot` will be used from now on (visible looks at it). Under the engine's session lock. */
void stor_sequencer_slot_use(stor_sequencer_t *sequencer, uint32_t slot);
/* Draws; the slot counts as in flight until stor_sequencer_end. */
uint64_t stor_sequencer_draw(stor_sequencer_t *sequencer, uint32_t slot);
/* Just before the commit call of a transaction that has drawn. */
void stor_sequencer_committing(stor_sequencer_t *sequencer, uint64_t timestamp);
void stor_sequencer_end(stor_sequencer_t *sequencer, uint32_t slot);
uint64_t stor_sequencer_newest(const stor_sequencer_t *sequencer);
/* Never falls. */
uint64_t stor_sequencer_visible(stor_sequencer_t *sequencer);
/* The ceiling to make durable now, or 0 when the present one is far enough. */
uint64_t stor_sequencer_ceiling_due(stor_sequencer_t *sequencer);
/* The ceiling is durable: draws may go up to it. */
void stor_sequencer_raise(stor_sequencer_t *sequencer, uint64_t ceiling);
/* A transaction that drew nothing has committed under another node's timestamp: can be seen from
 * now on. Nobody draws meanwhile. */
void stor_sequencer_observe(stor_sequencer_t *sequencer, uint64_t timestamp);
/* What is here ends at `position`, which may be lower than before: nothing is in flight, and what
 * was above is gone, or never was. Draws stay above everything seen. */
void stor_sequencer_position_set(stor_sequencer_t *sequencer, uint64_t position);
/* Draws are of this term from now on, in a later second than anything seen. Nothing is in flight.
 */
void stor_sequencer_term_set(stor_sequencer_t *sequencer, uint8_t term);
/* Nothing at or below was or will be drawn anew: for an exact ceiling at close. */
uint64_t stor_sequencer_last(const stor_sequencer_t *sequencer);
