/* veddb-replicad/marks.h — pure: when did the newest position pass a given one. Lag in time is
 * asked of it: timestamps themselves count whole seconds.
 *
 * Duty:    keeps the last REPL_MARKS_MAX {position, time}, at least REPL_MARKS_APART_MS apart.
 * Owner:   embedded; init is zeroes.
 * Units:   milliseconds of the caller's clock. Exact to REPL_MARKS_APART_MS. */
#pragma once
#include <stdint.h>

#define REPL_MARKS_MAX      2048
#define REPL_MARKS_APART_MS 5

typedef struct {
    struct {
        uint64_t position, at_ms;
    } list[REPL_MARKS_MAX];
    uint64_t count; /* noted so far; the last REPL_MARKS_MAX are there */
} repl_marks_t;

/* `position` is the newest now. Ones that are not newer than the last are nothing new. */
void repl_marks_note(repl_marks_t *marks, uint64_t position, uint64_t now_ms);
/* How long ago the newest position first was above this one; 0 when it never was. What is older
 * than all that is kept is at least as old as the oldest. */
uint64_t repl_marks_behind_ms(const repl_marks_t *marks, uint64_t position, uint64_t now_ms);
