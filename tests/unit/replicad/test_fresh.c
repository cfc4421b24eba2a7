/* tests/unit/replicad/test_fresh.c — until when a node knows of all that the set has acknowledged.
 */
#include "veddb-replicad/node.h"

#include <criterion/criterion.h>

#define TERM 3

static repl_node_t *node;

static void setup(void)
{
    node = vd_xalloc(sizeof *node);
    node->lease_ms = 2500;
    node->role.term = TERM;
    node->role.state = REPL_FOLLOWER;
    node->pull.applied = 100;
}

static void teardown(void)
{
    vd_free(node);
}

TestSuite(fresh, .init = setup, .fini = teardown, .timeout = 300);

static void hear(uint64_t sent_ms, uint64_t position, uint64_t age_ms, uint64_t term)
{
    vdp_peer_status_t said = {
        .sent_ms = sent_ms, .applied = position, .newest_age_ms = age_ms, .term = term};
    repl_fresh_hear(node, &said);
}

Test(fresh, what_is_applied_already_counts_from_when_it_was_asked)
{
    hear(5000, 100, 51, TERM);
    cr_expect_eq(node->fresh.fresh_ms, 4949);
    hear(5100, 99, 1, TERM);
    cr_expect_eq(node->fresh.fresh_ms, 5099);
}

Test(fresh, what_is_not_applied_counts_when_it_is)
{
    hear(5000, 101, 1, TERM);
    hear(5100, 105, 1, TERM);
    cr_expect_eq(node->fresh.fresh_ms, 0);
    node->pull.applied = 104;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 4999);
    node->pull.applied = 105;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 5099);
    cr_expect_eq(node->fresh.count, 0);
}

Test(fresh, who_does_not_lead_says_nothing)
{
    hear(5000, 100, 0, TERM);
    hear(5000, 100, 1, TERM - 1);
    hear(5000, 100, 1, TERM + 1);
    hear(5, 100, 10, TERM); /* older than the clock */
    cr_expect_eq(node->fresh.fresh_ms, 0);
}

Test(fresh, what_was_heard_in_another_term_is_forgotten)
{
    hear(5000, 101, 1, TERM);
    node->role.term = TERM + 1;
    node->pull.applied = 200;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 0);
    hear(6000, 150, 1, TERM + 1);
    cr_expect_eq(node->fresh.fresh_ms, 5999);
}

Test(fresh, while_a_copy_is_loaded_nothing_is_known)
{
    node->resync.state = REPL_RESYNC_COPY;
    hear(5000, 100, 1, TERM);
    cr_expect_eq(node->fresh.fresh_ms, 0);
}

static void hear_auth(uint64_t sent_ms, uint64_t position, uint64_t auth)
{
    vdp_peer_status_t said = {.sent_ms = sent_ms,
                              .applied = position,
                              .newest_age_ms = 1,
                              .term = node->role.term,
                              .auth_position = auth + 1};
    repl_fresh_hear(node, &said);
}

Test(fresh, who_has_caught_up_once_needs_the_users_alone)
{
    hear_auth(5000, 150, 20);
    cr_expect_eq(node->fresh.fresh_ms, 0, "what it has may be another history's");
    node->pull.applied = 150;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 4999);
    hear_auth(6000, 900, 20);
    cr_expect_eq(node->fresh.fresh_ms, 5999, "it lags, but not with users");
    hear_auth(7000, 1000, 160);
    cr_expect_eq(node->fresh.fresh_ms, 5999, "a change of users that is not applied");
    node->pull.applied = 160;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 6999);
    node->role.term = TERM + 1;
    hear_auth(8000, 1000, 160);
    cr_expect_eq(node->fresh.fresh_ms, 6999, "another term: it has to catch up again");
    node->pull.applied = 1000;
    repl_fresh_look(node);
    hear_auth(9000, 2000, 160);
    cr_expect_eq(node->fresh.fresh_ms, 8999);
    node->resync.state = REPL_RESYNC_COPY;
    repl_fresh_look(node);
    node->resync.state = REPL_RESYNC_NONE;
    hear_auth(9500, 2000, 160);
    cr_expect_eq(node->fresh.fresh_ms, 8999, "a copy was loaded over it");
}

Test(fresh, it_never_goes_back_and_is_bounded)
{
    hear(5000, 100, 1, TERM);
    hear(4000, 100, 1, TERM);
    cr_expect_eq(node->fresh.fresh_ms, 4999);
    for (uint64_t i = 0; i < 2 * REPL_FRESH_MAX; i++)
        hear(6000 + i, 1000 + i, 1, TERM);
    cr_expect_eq(node->fresh.count, REPL_FRESH_MAX);
    node->pull.applied = 10000;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 6000 + REPL_FRESH_MAX - 2);
}

Test(fresh, a_leader_by_the_answers_of_a_majority)
{
    node->role.state = REPL_LEADER;
    node->role.lease_until_ms = 10000;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 8000, "%llu", (unsigned long long)node->fresh.fresh_ms);
    node->role.lease_until_ms = 9000;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 8000);
    node->role.lease_until_ms = 0;
    repl_fresh_look(node);
    cr_expect_eq(node->fresh.fresh_ms, 8000);
}
