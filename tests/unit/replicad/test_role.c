/* tests/unit/replicad/test_role.c — the plain cases of role.c; the rest is tests/sim's. */
#include "libcommon/base/error.h"
#include "proto/replication.h"
#include "veddb-replicad/role.h"

#include <criterion/criterion.h>

static repl_role_t role;
static repl_actions_t actions;
static uint64_t now;

static repl_role_options_t options_of(uint32_t members)
{
    repl_role_options_t options = {.lease_ms = 2000,
                                   .margin_ms = 400,
                                   .heartbeat_ms = 200,
                                   .handover_ms = 1000,
                                   .self = 1,
                                   .member_count = members};
    for (uint32_t i = 0; i < members; i++)
        options.members[i] = (repl_role_member_t){.id = i + 1, .votes = true, .priority = 1};
    return options;
}

static void step(repl_event_t event)
{
    event.now_ms = now;
    actions.count = 0;
    repl_role_step(&role, &event, &actions);
}

static const repl_action_t *find(repl_action_kind_t kind)
{
    for (size_t i = 0; i < actions.count; i++)
        if (actions.list[i].kind == kind)
            return &actions.list[i];
    return NULL;
}

static void start(uint32_t members, uint64_t term, uint32_t owner, int storage_role)
{
    repl_role_options_t nobody = options_of(0), options = options_of(members);
    now = 10000;
    repl_role_init(&role, &nobody, now);
    actions.count = 0;
    repl_role_configure(&role, &options, &actions);
    step((repl_event_t){.kind = REPL_EVENT_STORAGE,
                        .term = term,
                        .leader = owner,
                        .role = storage_role,
                        .position = 100});
}

/* What storage was asked for is durable. */
static void storage_does(void)
{
    cr_assert(role.role_asked);
    step((repl_event_t){.kind = REPL_EVENT_ROLE_SET,
                        .term = role.asked_term,
                        .role = role.asked_role,
                        .position = 100});
}

static void peer(uint32_t from, uint64_t term, int state, uint64_t sent_ms)
{
    step((repl_event_t){.kind = REPL_EVENT_PEER,
                        .from = from,
                        .term = term,
                        .state = state,
                        .leader = state == REPL_LEADER ? from : 0,
                        .position = 90,
                        .sent_ms = sent_ms});
}

/* Member 1 of three, owner of term 5, fences term 6 and leads. */
static void lead(void)
{
    start(3, 5, 1, VDP_ROLE_SECONDARY);
    for (int i = 0; i < 3 && role.state == REPL_FOLLOWER; i++) {
        peer(2, 5, REPL_FOLLOWER, 0);
        now += 200;
        step((repl_event_t){.kind = REPL_EVENT_TICK});
    }
    cr_assert_eq(role.state, REPL_CANDIDATE);
    storage_does();
    step((repl_event_t){
        .kind = REPL_EVENT_FENCED, .from = 2, .term = 6, .granted = true, .position = 90});
    cr_assert_eq(role.state, REPL_CLAIMING);
    now += 2000;
    peer(2, 6, REPL_FOLLOWER, now);
    cr_assert_eq(role.asked_role, VDP_ROLE_PRIMARY);
    storage_does();
}

Test(role, alone_leads_at_once)
{
    start(1, 0, 0, VDP_ROLE_STARTING);
    storage_does();
    cr_assert_eq(role.state, REPL_CANDIDATE);
    storage_does();
    storage_does();
    cr_assert(repl_role_leads(&role, now + 1000000));
    cr_assert_eq(role.term, 1);
}

Test(role, restarted_owner_waits_for_the_lease_and_leads)
{
    lead();
    cr_assert_eq(role.state, REPL_LEADER);
    cr_assert(repl_role_leads(&role, now + 1599));
    cr_assert_not(repl_role_leads(&role, now + 1600));
}

Test(role, lease_ends_without_answers)
{
    lead();
    now += 1600;
    step((repl_event_t){.kind = REPL_EVENT_TICK});
    cr_assert_eq(role.state, REPL_FOLLOWER);
    cr_assert_eq(find(REPL_ACTION_SET_ROLE)->role, VDP_ROLE_SECONDARY);
}

Test(role, storage_that_says_primary_is_not_trusted)
{
    start(3, 5, 1, VDP_ROLE_PRIMARY);
    cr_assert_eq(role.state, REPL_FOLLOWER);
    cr_assert_eq(find(REPL_ACTION_SET_ROLE)->role, VDP_ROLE_SECONDARY);
}

Test(role, manual_only_the_owner_seeks)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    for (int i = 0; i < 100; i++) {
        now += 200;
        peer(3, 5, REPL_FOLLOWER, 0);
    }
    cr_assert_eq(role.state, REPL_FOLLOWER);
}

Test(role, fence_is_answered_when_durable_and_for_one_only)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    peer(2, 5, REPL_LEADER, 0);
    cr_assert_eq(role.following, 2);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6});
    cr_assert_null(find(REPL_ACTION_FENCED));
    cr_assert_eq(find(REPL_ACTION_FOLLOW)->member, 0);
    now += 30;
    storage_does();
    cr_assert(find(REPL_ACTION_FENCED)->granted);
    cr_assert_eq(find(REPL_ACTION_FENCED)->heard_ms, 30);
    cr_assert_eq(find(REPL_ACTION_FENCED)->position, 100);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 2, .term = 6});
    cr_assert_not(find(REPL_ACTION_FENCED)->granted);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6});
    cr_assert(find(REPL_ACTION_FENCED)->granted);
    peer(2, 5, REPL_LEADER, 0);
    cr_assert_eq(role.following, 0);
}

Test(role, candidate_in_a_term_that_is_not_its_own_is_no_primary_that_was_answered)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    peer(2, 5, REPL_LEADER, 0);
    now += 1500;
    peer(3, 5, REPL_CANDIDATE, 0); /* its storage has not agreed to term 6 yet */
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6, .position = 100});
    storage_does();
    cr_assert(find(REPL_ACTION_FENCED)->granted);
    cr_assert_eq(find(REPL_ACTION_FENCED)->heard_ms, 1500);
}

Test(role, candidate_of_our_term_is_answered_as_one_that_may_lead_it)
{
    start(3, 5, 3, VDP_ROLE_SECONDARY);
    now += 1500;
    peer(3, 5, REPL_CLAIMING, 0);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 2, .term = 6, .position = 100});
    storage_does();
    cr_assert_eq(find(REPL_ACTION_FENCED)->heard_ms, 0);
}

Test(role, loading_member_agrees_for_the_one_that_it_loads_from)
{
    start(3, 5, 2, VDP_ROLE_RECOVERING);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6});
    cr_assert_not(find(REPL_ACTION_FENCED)->granted);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 2, .term = 6});
    storage_does();
    cr_assert(find(REPL_ACTION_FENCED)->granted);
}

Test(role, loading_member_agrees_for_whoever_has_what_it_acknowledged)
{
    start(3, 5, 2, VDP_ROLE_RECOVERING);
    step((repl_event_t){.kind = REPL_EVENT_STORAGE,
                        .term = 5,
                        .leader = 2,
                        .role = VDP_ROLE_RECOVERING,
                        .floor = 5u << 24 | 100});
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6, .position = 5u << 24 | 99});
    cr_assert_not(find(REPL_ACTION_FENCED)->granted);
    step((repl_event_t){/* later, but of an older term */
                        .kind = REPL_EVENT_FENCE,
                        .from = 3,
                        .term = 6,
                        .position = 4u << 24 | 900});
    cr_assert_not(find(REPL_ACTION_FENCED)->granted);
    step(
        (repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6, .position = 5u << 24 | 100});
    cr_assert_null(find(REPL_ACTION_FENCED));
    step((repl_event_t){.kind = REPL_EVENT_ROLE_SET, .term = 6, .role = VDP_ROLE_RECOVERING});
    cr_assert(find(REPL_ACTION_FENCED)->granted);
    cr_assert_eq(find(REPL_ACTION_FENCED)->position, 0);
}

Test(role, what_is_answered_without_storage_is_remembered)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    step((repl_event_t){.kind = REPL_EVENT_STORAGE_LOST});
    now += 1500;
    peer(2, 5, REPL_LEADER, 0);
    now += 100;
    step((repl_event_t){.kind = REPL_EVENT_STORAGE,
                        .term = 5,
                        .leader = 2,
                        .role = VDP_ROLE_STARTING,
                        .position = 100});
    storage_does();
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6, .position = 100});
    storage_does();
    cr_assert_eq(find(REPL_ACTION_FENCED)->heard_ms, 100);
}

Test(role, load_that_begins_while_a_term_is_agreed_to_grants_nothing)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6});
    step((repl_event_t){.kind = REPL_EVENT_ROLE_SET, .term = 6, .role = VDP_ROLE_RECOVERING});
    cr_assert_not(find(REPL_ACTION_FENCED)->granted);
}

Test(role, primary_that_says_it_does_not_lead_is_not_waited_for)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    now += 5000;
    peer(2, 5, REPL_LEADER, 0);
    peer(2, 5, REPL_STARTING, 0);  /* its storage died */
    peer(2, 5, REPL_CANDIDATE, 0); /* of a newer term: it can't lead this one */
    step((repl_event_t){.kind = REPL_EVENT_FENCE, .from = 3, .term = 6});
    storage_does();
    cr_assert(find(REPL_ACTION_FENCED)->granted);
    cr_assert_geq(find(REPL_ACTION_FENCED)->heard_ms, 5000);
}

Test(role, forced_terms_differ_by_member)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    step((repl_event_t){.kind = REPL_EVENT_PROMOTE, .ticket = 7, .force = true});
    cr_assert_geq(role.fence_term, 5 + 16);
    cr_assert_eq(role.fence_term % 16, 1);
}

Test(role, without_a_vote_it_is_not_promoted)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    repl_role_options_t options = options_of(3);
    options.members[0].votes = false;
    actions.count = 0;
    repl_role_configure(&role, &options, &actions);
    step((repl_event_t){.kind = REPL_EVENT_PROMOTE, .ticket = 7});
    cr_assert_eq(find(REPL_ACTION_ANSWER)->code, VD_ERR_ILLEGAL_OPERATION);
}

Test(role, promote_without_majority_is_refused)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    step((repl_event_t){.kind = REPL_EVENT_PROMOTE, .ticket = 7});
    cr_assert_eq(find(REPL_ACTION_ANSWER)->ticket, 7);
    cr_assert_eq(find(REPL_ACTION_ANSWER)->code, VD_ERR_HOST_UNREACHABLE);
    cr_assert_eq(role.term, 5);
}

Test(role, forced_promote_leads_alone)
{
    start(3, 5, 2, VDP_ROLE_SECONDARY);
    step((repl_event_t){.kind = REPL_EVENT_PROMOTE, .ticket = 7, .force = true});
    storage_does();
    for (int i = 0; i < 40 && !role.role_asked; i++) {
        now += 200;
        step((repl_event_t){.kind = REPL_EVENT_TICK});
    }
    storage_does();
    cr_assert(repl_role_leads(&role, now));
    cr_assert_eq(find(REPL_ACTION_ANSWER)->code, VD_OK);
}

Test(role, step_down_hands_over)
{
    lead();
    step((repl_event_t){.kind = REPL_EVENT_STEP_DOWN, .to = 2, .ticket = 9});
    cr_assert_eq(role.state, REPL_HANDING_OVER);
    cr_assert_not(repl_role_leads(&role, now));
    storage_does();
    cr_assert_null(find(REPL_ACTION_HANDOVER));
    step((repl_event_t){
        .kind = REPL_EVENT_PEER, .from = 2, .term = 6, .state = REPL_FOLLOWER, .position = 100});
    cr_assert_eq(find(REPL_ACTION_HANDOVER)->term, 7);
    cr_assert_eq(find(REPL_ACTION_ANSWER)->code, VD_OK);
    cr_assert_eq(role.state, REPL_FOLLOWER);
}

/* Who waits for a successor that does not catch up: for so long, and no longer than ever. */
Test(role, step_down_waits_as_long_as_asked)
{
    const uint64_t handover_ms = options_of(3).handover_ms;
    const struct {
        uint64_t asked_ms, waits_ms;
    } cases[] = {
        {0, handover_ms}, {handover_ms / 2, handover_ms / 2}, {handover_ms * 5, handover_ms}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        for (int force = 0; force < 2; force++) {
            lead();
            step((repl_event_t){.kind = REPL_EVENT_STEP_DOWN,
                                .to = 2,
                                .force = force,
                                .wait_ms = 60000,
                                .catch_up_ms = cases[i].asked_ms,
                                .ticket = 9});
            storage_does();
            cr_expect_eq(role.state, REPL_HANDING_OVER);
            cr_expect_eq(role.deadline_ms, now + cases[i].waits_ms, "case %zu", i);
            now = role.deadline_ms;
            step((repl_event_t){.kind = REPL_EVENT_TICK});
            cr_assert_not_null(find(REPL_ACTION_ANSWER), "case %zu", i);
            cr_expect_eq(find(REPL_ACTION_ANSWER)->code, force ? VD_OK : VD_ERR_EXCEEDED_TIME_LIMIT,
                         "case %zu", i);
        }
    }
}

Test(role, removed_member_stops)
{
    lead();
    repl_role_options_t options = options_of(3);
    options.members[0].id = 4;
    actions.count = 0;
    repl_role_configure(&role, &options, &actions);
    cr_assert_eq(role.state, REPL_REMOVED);
    cr_assert_eq(find(REPL_ACTION_SET_ROLE)->role, VDP_ROLE_REMOVED);
}

Test(role, newer_goes_by_term_first)
{
    uint64_t late_old = 200ull << 32 | 3u << 24 | 1, early_new = 100ull << 32 | 4u << 24 | 1;
    cr_assert(repl_role_newer(early_new, late_old, 5));
    cr_assert(repl_role_newer(late_old, 0, 5));
    cr_assert_not(repl_role_newer(0, 0, 5));
    /* 255 was before 256 */
    cr_assert(repl_role_newer(1ull << 32 | 1, 9ull << 32 | 255u << 24, 256));
}
