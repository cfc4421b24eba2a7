/* tests/unit/storaged/test_tally.c — counting journal entries above a place: against a plain list,
 * in any order, with a floor, bounded, and learnt from below; and over a real journal. */
#include "libcommon/base/rand.h"
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/tally.h"

#define ENTRIES 3000

static uint64_t above(const uint64_t *entries, size_t count, uint64_t timestamp)
{
    uint64_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += entries[i] > timestamp;
    return n;
}

/* Growing, with holes, across seconds. */
static void draw(vd_rand_t *rand, uint64_t *ret)
{
    uint64_t at = 1000ull << 32 | 1ull << 24;
    for (size_t i = 0; i < ENTRIES; i++) {
        at = vd_rand_below(rand, 40) == 0
                 ? ((at >> 32) + 1) << 32 | 1ull << 24
                 : at + 1 + vd_rand_below(rand, 3) * vd_rand_below(rand, 300);
        ret[i] = at;
    }
}

static void check(stor_tally_t *tally, const uint64_t *entries, size_t count, uint64_t from,
                  bool exact)
{
    for (size_t i = 0; i < count; i += 7)
        for (int near = -1; near <= 1; near++) {
            uint64_t n, at = entries[i] + (uint64_t)near;
            if (at < from)
                continue;
            cr_assert_eq(stor_tally_above(tally, at, &n), exact);
            cr_assert_eq(n, above(entries, count, at));
        }
}

Test(tally, counts_what_was_noted_in_any_order)
{
    static uint64_t entries[ENTRIES];
    vd_rand_t rand;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        vd_rand_seed(&rand, seed);
        draw(&rand, entries);
        stor_tally_t *tally = stor_tally_create(entries[0] - 1, STOR_TALLY_BLOCKS);
        static uint64_t order[ENTRIES];
        memcpy(order, entries, sizeof order);
        for (size_t i = 0; i + 1 < ENTRIES; i++) { /* commits overtake one another */
            size_t k = i + vd_rand_below(&rand, i + 20 < ENTRIES ? 20 : ENTRIES - i);
            uint64_t swap = order[i];
            order[i] = order[k], order[k] = swap;
        }
        for (size_t i = 0; i < ENTRIES; i++) {
            stor_tally_note(tally, order[i]);
            if (i % 100 == 0)
                stor_tally_note(tally, order[i]); /* another part of it */
        }
        check(tally, entries, ENTRIES, entries[0] - 1, true);
        uint64_t n;
        cr_assert_not(stor_tally_above(tally, entries[0] - 2, &n));
        stor_tally_restart(tally, entries[100]);
        cr_assert(stor_tally_above(tally, entries[100], &n) && n == 0);
        stor_tally_destroy(&tally);
    }
}

Test(tally, what_is_below_is_learnt)
{
    static uint64_t entries[ENTRIES];
    vd_rand_t rand;
    vd_rand_seed(&rand, 9);
    draw(&rand, entries);
    stor_tally_t *tally = stor_tally_create(entries[2000], STOR_TALLY_BLOCKS);
    size_t next = 2001, learnt = 501;
    uint64_t n, after, upto;
    for (; next < 2200; next++)
        stor_tally_note(tally, entries[next]);
    while (stor_tally_wants(tally, entries[500], &after, &upto)) {
        cr_assert_eq(after, entries[learnt - 1]);
        cr_assert_eq(upto, entries[2000]);
        cr_assert_not(stor_tally_above(tally, entries[500], &n));
        for (int i = 0; i < 300 && entries[learnt] <= upto; i++)
            stor_tally_learn(tally, entries[learnt++]);
        for (int i = 0; i < 100 && next < ENTRIES; i++)
            stor_tally_note(tally, entries[next++]); /* it goes on meanwhile */
        if (entries[learnt] > upto)
            stor_tally_learnt(tally);
    }
    for (; next < ENTRIES; next++)
        stor_tally_note(tally, entries[next]);
    cr_assert_eq(learnt, 2001);
    check(tally, entries + 500, ENTRIES - 500, entries[500], true);
    stor_tally_destroy(&tally);
}

Test(tally, is_bounded)
{
    static uint64_t entries[ENTRIES];
    for (size_t i = 0; i < ENTRIES; i++)
        entries[i] = (1000 + i) << 32; /* each in a block of its own */
    stor_tally_t *tally = stor_tally_create(0, 100);
    for (size_t i = 0; i < ENTRIES; i++)
        stor_tally_note(tally, entries[i]);
    uint64_t n, after, upto;
    cr_assert(stor_tally_above(tally, entries[ENTRIES - 50], &n) && n == 49);
    cr_assert_not(stor_tally_above(tally, entries[10], &n));
    cr_assert(n >= 80 && n <= 100);
    cr_assert(stor_tally_wants(tally, entries[10], &after, &upto)); /* is tried once */
    stor_tally_learn(tally, entries[11]);
    cr_assert_not(stor_tally_wants(tally, entries[10], &after, &upto));
    cr_assert_not(stor_tally_above(tally, entries[10], &n));
    stor_tally_destroy(&tally);
}

/* Over a journal: the same as reading it; also what was there before the start. */
static void against_reading(reads_t *reads)
{
    vd_error_t err = VD_ERROR_INIT;
    uint64_t timestamps[600];
    uint32_t count = 0;
    stor_journal_entry_t entry;
    reads_ok(stor_txn_begin(reads->session, &err), &err);
    stor_journal_reader_t *reader =
        stor_journal_reader_open(reads->storage.journal, reads->session, 0);
    stor_journal_reader_begin(reader);
    while (stor_journal_reader_next(reader, UINT64_MAX, &entry, NULL) == VD_OK)
        if (count == 0 || timestamps[count - 1] != entry.timestamp)
            timestamps[count++] = entry.timestamp;
    stor_journal_reader_close(&reader);
    stor_txn_rollback(reads->session);
    cr_assert_gt(count, 50);
    for (uint32_t i = 0; i < count; i += 5) {
        stor_journal_count_t counts[2] = {{.above = timestamps[i]},
                                          {.above = timestamps[count - 1]}};
        for (int call = 0; call < 3 && !counts[0].exact; call++)
            reads_ok(stor_journal_count(reads->storage.journal, reads->session, counts, 2, &err),
                     &err);
        cr_assert(counts[0].exact && counts[1].exact);
        cr_assert_eq(counts[0].entries, count - 1 - i);
        cr_assert_eq(counts[1].entries, 0);
    }
}

static void writes(reads_t *reads, int from)
{
    for (int i = 0; i < 60; i++) {
        char command[200];
        snprintf(command, sizeof command,
                 "{'insert': 'c', 'documents': [{'_id': %d}, {'_id': %d}]}", from + i,
                 from + i + (i % 10 == 0 ? 0 : 1000)); /* some fail half way */
        (void)reads_run(reads, "db", command);
    }
}

Test(tally, of_a_journal)
{
    reads_t *reads = reads_open();
    writes(reads, 0);
    against_reading(reads);
    reads_crash(reads);
    against_reading(reads);
    writes(reads, 5000);
    reads_crash(reads);
    writes(reads, 10000);
    against_reading(reads);
    reads_close(reads);
}
