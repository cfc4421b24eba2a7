/* veddb-replicad/handover.c — the role is given away, and what operators ask for. See
 * role_private.h. */
#include "veddb-replicad/role_private.h"

#define FORCED_STEP 16u /* terms that a forced promote leaves out */

/* ---- handing over ---- */

static void begin_handover(repl_role_t *role, uint32_t to, uint64_t catch_up_ms,
                           repl_actions_t *actions)
{
    bool bounded = catch_up_ms != 0 && catch_up_ms < role->options.handover_ms;
    repl_role_note(actions, "hands over to member %u", to);
    role->state = REPL_HANDING_OVER;
    role->handover_to = to;
    role->stopped = false;
    role->deadline_ms = role->now_ms + (bounded ? catch_up_ms : role->options.handover_ms);
    repl_role_ask_storage(role, role->term, VDP_ROLE_SECONDARY, role->options.self, actions);
}

void repl_role_on_handover(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (repl_role_peer_of(role, event->from) == NULL || role->role_asked)
        return;
    if (role->state == REPL_LEADER && event->term == role->term &&
        repl_role_has_vote(role, event->from)) {
        role->force = false;
        role->step_down_wait_ms = 0;
        begin_handover(role, event->from, 0, actions);
    } else if (role->state == REPL_FOLLOWER && event->term > role->term && role->storage_up &&
               role->storage_role == VDP_ROLE_SECONDARY &&
               repl_role_has_vote(role, role->options.self))
        repl_role_seek(role, event->term, true, actions);
}

void repl_role_advance_handover(repl_role_t *role, repl_actions_t *actions)
{
    const repl_role_peer_t *peer = repl_role_peer(role, role->handover_to);
    if (role->handover_to == 0) { /* it failed: we take the role back */
        if (!role->role_asked && role->storage_role != VDP_ROLE_PRIMARY)
            repl_role_ask_storage(role, role->term, VDP_ROLE_PRIMARY, role->options.self, actions);
    } else if (role->stopped && peer != NULL && peer->term == role->term &&
               !repl_role_newer(role->final_position, peer->position, role->term)) {
        repl_action_t *action = repl_role_act(actions, REPL_ACTION_HANDOVER);
        action->member = role->handover_to;
        action->term = role->term + 1;
        action->position = role->final_position;
        role->frozen_until_ms =
            repl_role_later(role->frozen_until_ms, role->now_ms + role->step_down_wait_ms);
        repl_role_answer(role, VD_OK, "handed over", actions);
        repl_role_step_down(role, "handed over", actions);
        /* Should the gift be lost, we come back later than its receiver needs. */
        role->retry_at_ms = role->now_ms + 2 * role->options.lease_ms;
    } else if (role->now_ms >= role->deadline_ms && role->force) {
        role->frozen_until_ms = role->now_ms + role->step_down_wait_ms;
        repl_role_answer(role, VD_OK, "stepped down; the successor has not everything", actions);
        repl_role_step_down(role, "forced by an operator", actions);
    } else if (role->now_ms >= role->deadline_ms && !role->role_asked) {
        repl_role_answer(role, VD_ERR_EXCEEDED_TIME_LIMIT, "the successor did not catch up in time",
                         actions);
        role->handover_to = 0;
    }
}

/* ---- operators ---- */

static void refuse_promote(repl_role_t *role, repl_actions_t *actions)
{
    repl_role_answer(
        role, VD_ERR_HOST_UNREACHABLE,
        "a majority of the votes can't be reached; force would lead without it: what others "
        "have acknowledged since they were last heard would be lost",
        actions);
}

/* Others whom we can't hear may agree to the next terms among themselves, or be forced, too: some
 * terms are left out, and which one is taken goes by who takes it. The same position must never
 * name two entries. */
static uint64_t forced_term(const repl_role_t *role)
{
    uint64_t term = role->known_term + FORCED_STEP;
    return term + (role->options.self - term) % FORCED_STEP;
}

void repl_role_advance_promote(repl_role_t *role, repl_actions_t *actions)
{
    if (role->leader != 0 && role->now_ms < role->deadline_ms) {
        if (repl_role_is_due(role)) {
            repl_action_t *action = repl_role_act(actions, REPL_ACTION_HANDOVER);
            action->member = role->leader;
            action->term = role->term;
            action->position = role->position;
        }
        return;
    }
    if (role->role_asked)
        return;
    if (role->storage_role == VDP_ROLE_RECOVERING) {
        repl_role_answer(role, VD_ERR_NOT_PRIMARY_OR_SECONDARY, "this member is loading its data",
                         actions);
        return;
    }
    if (repl_votes_reachable(role) || role->force)
        repl_role_seek(role, role->force ? forced_term(role) : role->known_term + 1, false,
                       actions);
    else
        refuse_promote(role, actions);
}

void repl_role_on_promote(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    int code = VD_OK;
    const char *text = NULL;
    if (role->state == REPL_STARTING || role->state == REPL_REMOVED)
        code = VD_ERR_NOT_YET_INITIALIZED, text = "storage or the configuration is not there";
    else if (role->state == REPL_LEADER)
        text = "leads already";
    else if (!repl_role_has_vote(role, role->options.self))
        code = VD_ERR_ILLEGAL_OPERATION, text = "a member without a vote can't lead";
    else if (role->ticket != 0 || role->state == REPL_HANDING_OVER)
        code = VD_ERR_CONFLICTING_OPERATION_IN_PROGRESS, text = "another is under way";
    else if (role->now_ms < role->frozen_until_ms)
        code = VD_ERR_ILLEGAL_OPERATION, text = "this member is frozen; freeze 0 ends it";
    else if (role->storage_role == VDP_ROLE_RECOVERING)
        code = VD_ERR_NOT_PRIMARY_OR_SECONDARY, text = "this member is loading its data";
    else if (event->force && role->position == 0)
        code = VD_ERR_ILLEGAL_OPERATION, text = "this member has no data: all would be lost";
    if (text != NULL) {
        repl_role_answer_ticket(event->ticket, code, text, actions);
        return;
    }
    if (repl_role_is_seeking(role) &&
        event->force) /* the term that it seeks could be another's, too */
        repl_role_abandon(role, "it is to be forced", actions);
    role->ticket = event->ticket;
    role->force = event->force;
    if (repl_role_is_seeking(role)) {
        role->by_operator = true;
        return;
    }
    role->promoting = true;
    role->sent_ms = 0;
    role->deadline_ms = role->now_ms + role->options.handover_ms + 2 * role->options.heartbeat_ms;
}

void repl_role_on_step_down(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    const repl_role_peer_t *to = repl_role_peer_of(role, event->to);
    uint32_t successor = event->to != 0 ? event->to : repl_votes_successor(role);
    int code = VD_OK;
    const char *text = NULL;
    if (role->state != REPL_LEADER || role->role_asked)
        code = VD_ERR_NOT_WRITABLE_PRIMARY, text = "this member does not lead";
    else if (event->to != 0 && to == NULL)
        code = VD_ERR_NODE_NOT_FOUND, text = "no such other member";
    else if (event->to != 0 && !repl_role_has_vote(role, event->to))
        code = VD_ERR_ILLEGAL_OPERATION, text = "a member without a vote can't lead";
    else if (event->to != 0 && !to->up)
        code = VD_ERR_HOST_UNREACHABLE, text = "that member can't be reached";
    else if (successor == 0 && !event->force)
        code = VD_ERR_EXCEEDED_TIME_LIMIT, text = "no member that could follow can be reached";
    if (text != NULL) {
        repl_role_answer_ticket(event->ticket, code, text, actions);
        return;
    }
    role->ticket = event->ticket;
    role->force = event->force;
    role->step_down_wait_ms = event->wait_ms;
    if (successor != 0) {
        begin_handover(role, successor, event->catch_up_ms, actions);
        return;
    }
    role->frozen_until_ms = role->now_ms + event->wait_ms;
    repl_role_answer(role, VD_OK, "stepped down; nobody follows", actions);
    repl_role_step_down(role, "forced by an operator", actions);
}

void repl_role_on_freeze(repl_role_t *role, const repl_event_t *event, repl_actions_t *actions)
{
    if (repl_role_is_leading(role) || repl_role_is_seeking(role)) {
        repl_role_answer_ticket(event->ticket, VD_ERR_ILLEGAL_OPERATION, "leads, or is about to",
                                actions);
        return;
    }
    role->frozen_until_ms = event->wait_ms == 0 ? 0 : role->now_ms + event->wait_ms;
    repl_role_answer_ticket(event->ticket, VD_OK,
                            event->wait_ms == 0 ? "no longer frozen" : "frozen", actions);
}
