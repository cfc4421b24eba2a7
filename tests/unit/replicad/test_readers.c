/* tests/unit/replicad/test_readers.c — which member reads which copy, and which are given up. */
#include "proto/replication.h"
#include "veddb-replicad/readers.h"

#include <criterion/criterion.h>
#include <string.h>

static repl_readers_t readers;

static void set_up(void)
{
    memset(&readers, 0, sizeof readers);
}

TestSuite(readers, .init = set_up);

/* The copy of that name; 0: none. */
static vd_slice_t copy(uint8_t name)
{
    static uint8_t ids[256][REPL_COPY_BYTES];
    memset(ids[name], name, REPL_COPY_BYTES);
    return name == 0 ? VD_SLICE_NULL : vd_slice(ids[name], REPL_COPY_BYTES);
}

/* Its first byte names it; 0: none was taken. */
static uint8_t take(uint32_t member, uint8_t kept)
{
    uint8_t id[REPL_COPY_BYTES] = {0};
    return repl_readers_take(&readers, member, copy(kept), id) ? id[REPL_COPY_BYTES - 1] : 0;
}

Test(readers, one_that_asks_for_another_has_given_up_what_it_had)
{
    repl_readers_note(&readers, 1, copy(10));
    repl_readers_note(&readers, 2, copy(20));
    repl_readers_note(&readers, 1, copy(11));
    repl_readers_note(&readers, 1, copy(11)); /* read: known already */
    cr_assert_eq(readers.count, 3);
    cr_assert_eq(take(1, 11), 10, "goes on with 11");
    cr_assert_eq(take(1, 11), 0);
    cr_assert_eq(take(1, 0), 11, "begins anew");
    cr_assert_eq(take(1, 0), 0);
    cr_assert_eq(take(3, 0), 0, "never had one");
    cr_assert_eq(take(2, 20), 0, "another's stays");
    cr_assert_eq(take(2, 0), 20);
}

Test(readers, one_that_is_closed_is_not_handed_out)
{
    repl_readers_note(&readers, 1, copy(10));
    repl_readers_note(&readers, 1, copy(11));
    repl_readers_forget(&readers, copy(10));
    repl_readers_forget(&readers, copy(99));
    repl_readers_forget(&readers, VD_SLICE_NULL);
    cr_assert_eq(readers.count, 1);
    cr_assert_eq(take(1, 0), 11);
}

Test(readers, malformed_names_are_nothing_and_the_oldest_is_forgotten)
{
    repl_readers_note(&readers, 1, vd_slice("short", 5));
    repl_readers_note(&readers, 1, VD_SLICE_NULL);
    cr_assert_eq(readers.count, 0);
    for (uint8_t i = 1; i <= REPL_READERS_MAX + 2; i++)
        repl_readers_note(&readers, i % 2, copy(i));
    cr_assert_eq(readers.count, REPL_READERS_MAX);
    cr_assert_eq(take(1, 0), 3);
    cr_assert_eq(take(0, 0), 4);
}

Test(readers, what_a_heartbeat_says)
{
    static const struct {
        uint32_t role, source;
        bool done;
    } rows[] = {
        {VDP_ROLE_PRIMARY, 0, true},
        {VDP_ROLE_SECONDARY, 0, true},
        {VDP_ROLE_SECONDARY, 7, true},
        {VDP_ROLE_RECOVERING, 7, false},
        {VDP_ROLE_RECOVERING, 0, false}, /* has not said of whom */
        {VDP_ROLE_RECOVERING, 8, true},
        {0, 0, false}, /* without storage */
        {0, 8, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        cr_assert_eq(repl_readers_done(rows[i].role, rows[i].source, 7), rows[i].done, "row %zu",
                     i);
}
