/* veddb-replicad/marks.c — see marks.h. A ring, ascending in both columns, searched by halving. */
#include "veddb-replicad/marks.h"

#define AT(marks, n) ((marks)->list[(n) % REPL_MARKS_MAX])

void repl_marks_note(repl_marks_t *marks, uint64_t position, uint64_t now_ms)
{
    if (marks->count > 0) {
        if (position <= AT(marks, marks->count - 1).position)
            return;
        if (now_ms - AT(marks, marks->count - 1).at_ms < REPL_MARKS_APART_MS) {
            AT(marks, marks->count - 1).position = position; /* of the same moment */
            return;
        }
    }
    AT(marks, marks->count).position = position;
    AT(marks, marks->count).at_ms = now_ms;
    marks->count++;
}

uint64_t repl_marks_behind_ms(const repl_marks_t *marks, uint64_t position, uint64_t now_ms)
{
    uint64_t low = marks->count > REPL_MARKS_MAX ? marks->count - REPL_MARKS_MAX : 0,
             high = marks->count;
    while (low < high) { /* the first above position */
        uint64_t middle = low + (high - low) / 2;
        if (AT(marks, middle).position > position)
            high = middle;
        else
            low = middle + 1;
    }
    return low == marks->count ? 0 : now_ms - AT(marks, low).at_ms;
}
