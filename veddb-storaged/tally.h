/* veddb-storaged/tally.h — how many entries the journal has above a timestamp, without reading it.
 *
 * Duty:    one bit for each timestamp that an entry was committed under (parts of one transaction
 *          are one entry). It knows everything above its floor, which is where the journal ended
 *          when this was made; what is below can be learnt once, in order, and joins when it has
 *          come up to the floor. Pure: knows no journal.
 * Owner:   the journal.
 * Limits:  STOR_TALLY_BLOCKS of 512 timestamps (of 2 ms to 1 s of writes each); the oldest go
 *          first.
 * Threads: any. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STOR_TALLY_BLOCKS 131072

typedef struct stor_tally stor_tally_t;

/* blocks_max: STOR_TALLY_BLOCKS, or less in tests. */
stor_tally_t *stor_tally_create(uint64_t floor, size_t blocks_max);
void stor_tally_destroy(stor_tally_t **tally_p);
/* An entry was committed; the same one twice is one. Not below the floor. */
void stor_tally_note(stor_tally_t *tally, uint64_t timestamp);
/* Nothing is known, and nothing is there above `floor`. */
void stor_tally_restart(stor_tally_t *tally, uint64_t floor);
/* Entries above `timestamp`. False: it is below the floor: there are at least so many. */
bool stor_tally_above(stor_tally_t *tally, uint64_t timestamp, uint64_t *ret_entries);

/* ---- learning what is below: one at a time ---- */
/* Where to go on, to know everything above `timestamp` in the end: entries above *ret_after up to
 * *ret_upto are to be learnt in order. False: it is known, or is more than can be kept. */
bool stor_tally_wants(stor_tally_t *tally, uint64_t timestamp, uint64_t *ret_after,
                      uint64_t *ret_upto);
void stor_tally_learn(stor_tally_t *tally, uint64_t timestamp);
/* All up to what was wanted is learnt. */
void stor_tally_learnt(stor_tally_t *tally);
