/* veddb-storaged/engine/sequencer.c — see the header. All atomics here are sequentially consistent
 * on purpose: the proof that `visible` has no hole needs one order of {slot bound stored, counter
 * advanced} and {counter read, slots read}. */
#include "veddb-storaged/engine/sequencer.h"
#include "libcommon/base/clock.h"

#include <stdlib.h>

#define CEILING_AHEAD_S 2
#define COUNTER_MAX     ((1u << STOR_COUNTER_BITS) - 1)

void stor_sequencer_init(stor_sequencer_t *sequencer, uint8_t term, uint32_t slots_max,
                         uint64_t start_above)
{
    VD_ASSERT(slots_max > 0);
    atomic_init(&sequencer->term, term);
    atomic_init(&sequencer->above, start_above);
    sequencer->slots_max = slots_max;
    void *slots = NULL;
    VD_ASSERT(posix_memalign(&slots, 64, sizeof(stor_slot_t) * slots_max) == 0);
    sequencer->slots = slots;
    for (uint32_t i = 0; i < slots_max; i++)
        atomic_init(&sequencer->slots[i].timestamp, STOR_SLOT_FREE);
    atomic_init(&sequencer->slots_used, 0);
    atomic_init(&sequencer->last, start_above);
    atomic_init(&sequencer->newest, start_above);
    atomic_init(&sequencer->ceiling, start_above);
    atomic_init(&sequencer->visible, start_above);
    atomic_init(&sequencer->wanted, false);
    VD_ASSERT(pthread_mutex_init(&sequencer->lock, NULL) == 0);
    VD_ASSERT(pthread_cond_init(&sequencer->raised, NULL) == 0);
}

void stor_sequencer_done(stor_sequencer_t *sequencer)
{
    if (sequencer->slots == NULL)
        return;
    free(sequencer->slots);
    sequencer->slots = NULL;
    (void)pthread_mutex_destroy(&sequencer->lock);
    (void)pthread_cond_destroy(&sequencer->raised);
}

void stor_sequencer_slot_use(stor_sequencer_t *sequencer, uint32_t slot)
{
    VD_ASSERT(slot < sequencer->slots_max);
    if (atomic_load(&sequencer->slots_used) <= slot)
        atomic_store(&sequencer->slots_used, slot + 1);
}

/* What follows `last` and `above` at the present time. Seconds never fall; a timestamp of another
 * term begins a later second. */
static uint64_t successor(const stor_sequencer_t *sequencer, uint64_t last)
{
    uint64_t above = atomic_load(&sequencer->above);
    uint8_t term = (uint8_t)atomic_load(&sequencer->term);
    if (last < above)
        last = above;
    int64_t wall_ms = vd_wall_ms();
    uint64_t now_s = wall_ms < 0 ? 0 : (uint64_t)wall_ms / 1000;
    uint64_t last_s = stor_timestamp_seconds(last);
    if (now_s > last_s)
        return stor_timestamp(now_s, term, 1);
    if (stor_timestamp_term(last) == term && stor_timestamp_counter(last) < COUNTER_MAX)
        return last + 1;
    return stor_timestamp(last_s + 1, term, 1);
}

static void wait_for_ceiling(stor_sequencer_t *sequencer, uint64_t timestamp)
{
    pthread_mutex_lock(&sequencer->lock);
    while (atomic_load(&sequencer->ceiling) < timestamp) {
        atomic_store(&sequencer->wanted, true);
        sequencer->want(sequencer->want_context);
        if (atomic_load(&sequencer->ceiling) < timestamp)
            (void)pthread_cond_wait(&sequencer->raised, &sequencer->lock);
    }
    pthread_mutex_unlock(&sequencer->lock);
}

uint64_t stor_sequencer_draw(stor_sequencer_t *sequencer, uint32_t slot)
{
    atomic_uint_fast64_t *mine = &sequencer->slots[slot].timestamp;
    uint_fast64_t last = atomic_load(&sequencer->last);
    uint64_t drawn;
    /* The bound is not above what will be drawn, and stands before the draw can be seen. */
    atomic_store(mine, last + 1);
    for (;;) {
        drawn = successor(sequencer, last);
        if (VD_UNLIKELY(drawn > atomic_load(&sequencer->ceiling))) {
            wait_for_ceiling(sequencer, drawn);
            last = atomic_load(&sequencer->last);
            continue;
        }
        if (atomic_compare_exchange_weak(&sequencer->last, &last, drawn))
            break;
    }
    atomic_store(mine, drawn);
    return drawn;
}

void stor_sequencer_committing(stor_sequencer_t *sequencer, uint64_t timestamp)
{
    uint_fast64_t newest = atomic_load(&sequencer->newest);
    while (newest < timestamp &&
           !atomic_compare_exchange_weak(&sequencer->newest, &newest, timestamp))
        continue;
}

void stor_sequencer_end(stor_sequencer_t *sequencer, uint32_t slot)
{
    atomic_store(&sequencer->slots[slot].timestamp, STOR_SLOT_FREE);
}

uint64_t stor_sequencer_newest(const stor_sequencer_t *sequencer)
{
    return atomic_load(&sequencer->newest);
}

/* A slot's bound may be stale by the time it is stored, which would make the watermark fall; what
 * was given out before stays true, since every later draw is above it. */
uint64_t stor_sequencer_visible(stor_sequencer_t *sequencer)
{
    uint64_t visible = atomic_load(&sequencer->last);
    uint32_t used = atomic_load(&sequencer->slots_used);
    for (uint32_t i = 0; i < used; i++) {
        uint64_t timestamp = atomic_load(&sequencer->slots[i].timestamp);
        if (timestamp != STOR_SLOT_FREE && timestamp - 1 < visible)
            visible = timestamp - 1;
    }
    uint_fast64_t before = atomic_load(&sequencer->visible);
    while (before < visible)
        if (atomic_compare_exchange_weak(&sequencer->visible, &before, visible))
            return visible;
    return before;
}

uint64_t stor_sequencer_ceiling_due(stor_sequencer_t *sequencer)
{
    int64_t wall_ms = vd_wall_ms();
    uint64_t now_s = wall_ms < 0 ? 0 : (uint64_t)wall_ms / 1000;
    uint64_t last_s = stor_timestamp_seconds(stor_sequencer_last(sequencer));
    if (now_s < last_s)
        now_s = last_s;
    uint64_t ceiling_s = stor_timestamp_seconds(atomic_load(&sequencer->ceiling));
    bool wanted = atomic_exchange(&sequencer->wanted, false);
    if (!wanted && ceiling_s > now_s)
        return 0;
    return stor_timestamp(now_s + CEILING_AHEAD_S, UINT8_MAX, COUNTER_MAX);
}

void stor_sequencer_raise(stor_sequencer_t *sequencer, uint64_t ceiling)
{
    pthread_mutex_lock(&sequencer->lock);
    if (ceiling > atomic_load(&sequencer->ceiling))
        atomic_store(&sequencer->ceiling, ceiling);
    pthread_cond_broadcast(&sequencer->raised);
    pthread_mutex_unlock(&sequencer->lock);
}

uint64_t stor_sequencer_last(const stor_sequencer_t *sequencer)
{
    uint64_t last = atomic_load(&sequencer->last), above = atomic_load(&sequencer->above);
    return last > above ? last : above;
}

static void raise_to(atomic_uint_fast64_t *point, uint64_t timestamp)
{
    uint_fast64_t before = atomic_load(point);
    while (before < timestamp && !atomic_compare_exchange_weak(point, &before, timestamp))
        continue;
}

void stor_sequencer_observe(stor_sequencer_t *sequencer, uint64_t timestamp)
{
    raise_to(&sequencer->newest, timestamp);
    raise_to(&sequencer->last, timestamp);
}

void stor_sequencer_position_set(stor_sequencer_t *sequencer, uint64_t position)
{
    raise_to(&sequencer->above, atomic_load(&sequencer->last));
    raise_to(&sequencer->above, position);
    atomic_store(&sequencer->newest, position);
    atomic_store(&sequencer->last, position);
    atomic_store(&sequencer->visible, position);
}

void stor_sequencer_term_set(stor_sequencer_t *sequencer, uint8_t term)
{
    /* The end of the newest second: also where two terms share their 8 bits, what follows is later
     * than all that the other one's primary can have drawn and we have seen. */
    uint64_t seconds = stor_timestamp_seconds(stor_sequencer_last(sequencer));
    raise_to(&sequencer->above, stor_timestamp(seconds, UINT8_MAX, COUNTER_MAX));
    atomic_store(&sequencer->term, term);
}
