/* tests/unit/storaged/test_concern_points.c — who counts, and up to where: tables. */
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/engine/sequencer.h"
#include "veddb-storaged/replication/points.h"

#define TS(seconds, term) stor_timestamp((seconds), (term), 1)

static vd_arena_t *arena;

static void points_open(stor_points_t *points, const char *config)
{
    arena = vd_arena_create();
    stor_points_init(points);
    stor_points_configure(points, query_json(arena, config), "a");
}

static void points_close(stor_points_t *points)
{
    stor_points_done(points);
    vd_arena_destroy(&arena);
}

static void note(stor_points_t *points, uint32_t member, uint64_t flushed)
{
    vdp_position_t position = {.member = member, .up = true, .flushed = flushed};
    stor_points_note(points, &position);
}

#define FIVE                                                                                       \
    "{'members': [{'_id': 1, 'name': 'a'}, {'_id': 2, 'name': 'b'}, {'_id': 3, 'name': 'c'}, "     \
    "{'_id': 4, 'name': 'd', 'votes': 0}, {'_id': 5, 'name': 'e', 'votes': 0}]}"

Test(concern_points, majority_by_table)
{
    static const struct {
        uint64_t own, flushed[4]; /* of members 2..5; {seconds, term 7}; 0 = nothing */
        uint64_t majority, two, three, five;
    } cases[] = {
        {10, {0, 0, 0, 0}, 0, 0, 0, 0},       {10, {10, 0, 0, 0}, 10, 10, 0, 0},
        {12, {10, 11, 0, 0}, 11, 11, 10, 0},  {12, {0, 0, 12, 12}, 0, 12, 12, 0},
        {9, {12, 12, 12, 12}, 12, 12, 12, 9}, {12, {11, 0, 10, 9}, 11, 11, 10, 0},
    };
    stor_points_t points;
    points_open(&points, FIVE);
    stor_points_term(&points, TS(5, 7));
    cr_assert_eq(stor_points_voters(&points), 3);
    cr_assert_eq(stor_points_majority_count(&points), 2);
#define AT(s) ((s) == 0 ? 0 : TS((s), 7))
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        for (uint32_t m = 0; m < 4; m++)
            note(&points, m + 2, AT(cases[i].flushed[m]));
        uint64_t own = AT(cases[i].own);
        cr_assert_eq(stor_points_majority(&points, own), AT(cases[i].majority), "case %zu", i);
        cr_assert_eq(stor_points_count(&points, 2, own), AT(cases[i].two), "case %zu", i);
        cr_assert_eq(stor_points_count(&points, 3, own), AT(cases[i].three), "case %zu", i);
        cr_assert_eq(stor_points_count(&points, 5, own), AT(cases[i].five), "case %zu", i);
    }
    cr_assert(stor_points_count_possible(&points, 5));
    cr_assert_not(stor_points_count_possible(&points, 6));
    points_close(&points);
}

/* A member whose newest entry is of another term may have another history: it counts for nothing,
 * however great its number, until it has an entry of the present term. */
Test(concern_points, only_entries_of_the_present_term_count)
{
    stor_points_t points;
    points_open(&points, FIVE);
    stor_points_term(&points, TS(90, 2));
    note(&points, 2, TS(100, 1)); /* a deposed primary's tail */
    note(&points, 3, TS(80, 2));
    cr_assert_eq(stor_points_majority(&points, TS(95, 2)), 0);
    note(&points, 3, TS(90, 2)); /* the term's first entry */
    cr_assert_eq(stor_points_majority(&points, TS(95, 2)), TS(90, 2));
    note(&points, 2, TS(94, 2));
    cr_assert_eq(stor_points_majority(&points, TS(95, 2)), TS(94, 2));
    /* Our own record from outside is not believed. */
    note(&points, 1, TS(99, 2));
    cr_assert_eq(stor_points_count(&points, 1, TS(95, 2)), TS(95, 2));
    points_close(&points);
}

Test(concern_points, modes_count_different_values)
{
    uint32_t mode, other;
    stor_points_t points;
    points_open(&points, "{'members': [{'_id': 1, 'name': 'a', 'tags': {'dc': 'x', 'r': '1'}}, "
                         "{'_id': 2, 'name': 'b', 'tags': {'dc': 'x', 'r': '2'}}, "
                         "{'_id': 3, 'name': 'c', 'tags': {'dc': 'y', 'r': '3'}}], "
                         "'settings': {'getLastErrorModes': {'both': {'dc': 2}, 'more': {'dc': 3}, "
                         "'mixed': {'dc': 1, 'r': 2}}}}");
    stor_points_term(&points, TS(5, 7));
    cr_assert(stor_points_mode_find(&points, VD_SLICE_LIT("both"), &mode));
    cr_assert(stor_points_mode_possible(&points, mode));
    note(&points, 2, TS(12, 7));
    cr_assert_eq(stor_points_mode(&points, mode, TS(12, 7)), 0); /* both in x */
    note(&points, 3, TS(11, 7));
    cr_assert_eq(stor_points_mode(&points, mode, TS(12, 7)), TS(11, 7));
    cr_assert(stor_points_mode_find(&points, VD_SLICE_LIT("more"), &other));
    cr_assert_not(stor_points_mode_possible(&points, other));
    cr_assert(stor_points_mode_find(&points, VD_SLICE_LIT("mixed"), &other));
    cr_assert_eq(stor_points_mode(&points, other, TS(12, 7)), TS(12, 7));
    cr_assert_not(stor_points_mode_find(&points, VD_SLICE_LIT("none"), &other));
    /* A mode keeps its place over a new configuration; one that goes frees it. */
    stor_points_configure(&points,
                          query_json(arena, "{'members': [{'_id': 1, 'name': 'a'}], 'settings': "
                                            "{'getLastErrorModes': {'new': {'dc': 1}, 'more': "
                                            "{'dc': 1}}}}"),
                          "a");
    cr_assert_not(stor_points_mode_find(&points, VD_SLICE_LIT("both"), &other));
    cr_assert(stor_points_mode_find(&points, VD_SLICE_LIT("more"), &other));
    cr_assert_eq(other, mode + 1);
    points_close(&points);
}

Test(concern_points, without_a_configuration_we_are_the_set)
{
    stor_points_t points;
    stor_points_init(&points);
    stor_points_configure(&points, VD_BSON_NONE, "a");
    stor_points_term(&points, TS(5, 7));
    cr_assert_eq(stor_points_majority(&points, TS(9, 7)), TS(9, 7));
    stor_points_done(&points);
}
