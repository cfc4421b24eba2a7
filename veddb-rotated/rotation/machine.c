/* veddb-rotated/rotation/machine.c — see machine.h. */
#include "veddb-rotated/rotation/machine.h"

#include "proto/rotation.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- actions ---- */

static rot_action_t *act(rot_actions_t *actions, rot_action_kind_t kind)
{
    VD_ASSERT(actions->count < ROT_ACTIONS_MAX);
    rot_action_t *action = &actions->list[actions->count++];
    *action = (rot_action_t){.kind = kind};
    return action;
}

/* The first of an event's actions, or none. */
static rot_action_t *save(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    VD_ASSERT(actions->count == 0);
    machine->saved_ms = event->facts.now_ms;
    machine->unsaved = false;
    return act(actions, ROT_ACTION_SAVE);
}

static void order(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    machine->sent_ms = event->facts.now_ms;
    if (machine->attached)
        (void)act(actions, ROT_ACTION_ORDER); /* of the machine as it is after the event */
}

static void answer(const rot_event_t *event, rot_actions_t *actions, int code, const char *text)
{
    if (event->ticket == 0)
        return;
    rot_action_t *action = act(actions, ROT_ACTION_ANSWER);
    action->ticket = event->ticket;
    action->code = code;
    (void)snprintf(action->text, sizeof action->text, "%s", text);
}

static void note(const rot_machine_t *machine, rot_actions_t *actions, const char *name,
                 const char *text)
{
    const rot_kept_t *kept = &machine->kept;
    rot_action_t *action = act(actions, ROT_ACTION_NOTE);
    action->name = name;
    (void)snprintf(action->text, sizeof action->text,
                   "number %" PRIu64 " key %u replaces keys up to %u%s%s", kept->number,
                   kept->target, kept->old_version, *text == '\0' ? "" : ": ", text);
}

/* ---- states ---- */

bool rot_state_is_busy(rot_state_t state)
{
    return state == ROT_REENCRYPTING || state == ROT_PAUSED || state == ROT_VERIFYING ||
           state == ROT_RETIRING || state == ROT_FAILED;
}

static void enter(rot_machine_t *machine, const rot_event_t *event, rot_state_t state)
{
    machine->kept.state = state;
    machine->kept.changed_ms = event->facts.now_ms;
    machine->proved = machine->waits_for_copies = false;
}

static void forget_report(rot_machine_t *machine)
{
    machine->step = machine->pass = machine->versions = 0;
    machine->left_estimated = false;
    machine->bytes_done = machine->bytes_total = machine->documents_done = 0;
    machine->blocks_rewritten = machine->rate_now = 0;
    machine->current[0] = machine->note[0] = '\0';
}

static void past_put(rot_machine_t *machine, const rot_past_t *past)
{
    rot_kept_t *kept = &machine->kept;
    if (kept->past_count == ROT_HISTORY_MAX)
        memmove(kept->past, kept->past + 1, --kept->past_count * sizeof kept->past[0]);
    kept->past[kept->past_count++] = *past;
}

static void past_add(rot_machine_t *machine, const rot_event_t *event, rot_state_t outcome)
{
    rot_kept_t *kept = &machine->kept;
    kept->schedule_from = kept->encrypted_blocks;
    past_put(machine, &(rot_past_t){
                          .kind = ROT_KIND_ROTATION,
                          .number = kept->number,
                          .outcome = outcome,
                          .reason = kept->reason,
                          .old_version = kept->old_version,
                          .target = kept->target,
                          .started_ms = kept->started_ms,
                          .ended_ms = event->facts.now_ms,
                          .bytes = kept->bytes,
                          .documents = kept->documents,
                          .blocks = kept->blocks,
                      });
}

/* ---- the steps of a rotation ---- */

static void begin(rot_machine_t *machine, const rot_event_t *event, rot_reason_t reason,
                  rot_actions_t *actions)
{
    const rot_facts_t *facts = &event->facts;
    rot_kept_t *kept = &machine->kept;
    rot_action_t *saved = save(machine, event, actions);
    saved->add = true;
    kept->order++;
    kept->number++;
    enter(machine, event, ROT_REENCRYPTING);
    kept->reason = reason;
    kept->old_version = facts->highest_version;
    kept->target = facts->highest_version + 1;
    kept->rate_max_bytes = event->has_rate ? event->rate : facts->rate_default;
    kept->latency_rise_max = event->has_rise ? event->rise : facts->latency_rise_default;
    kept->force = event->force;
    kept->returns = 0;
    kept->started_ms = facts->now_ms;
    kept->bytes = kept->documents = kept->blocks = 0;
    kept->note[0] = '\0';
    kept->counted_version = kept->target;
    kept->encrypted_blocks = kept->told_encrypted = kept->schedule_from = 0;
    forget_report(machine);
    machine->wrapped_version = 0;
    order(machine, event, actions);
    (void)act(actions, ROT_ACTION_WRAP);
    note(machine, actions, "keyRotationStarted", rot_reason_name(reason));
    answer(event, actions, VD_OK, "the rotation has begun: see vedctl keys status --watch");
}

static void fail(rot_machine_t *machine, const rot_event_t *event, const char *why,
                 rot_actions_t *actions)
{
    (void)save(machine, event, actions);
    enter(machine, event, ROT_FAILED);
    machine->kept.failures++;
    (void)snprintf(machine->kept.note, sizeof machine->kept.note, "%s", why);
    order(machine, event, actions);
    note(machine, actions, "keyRotationFailed", why);
}

/* Whether backups that are kept need an old key, and nobody has said that they may lose it. Said
 * once: it may take days. */
static bool copies_hold(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    const rot_facts_t *facts = &event->facts;
    char text[ROT_TEXT_BYTES];
    if (machine->kept.force || (facts->copies_known && facts->retained_copies == 0))
        return false;
    if (!facts->copies_known || machine->waits_for_copies)
        return true;
    machine->waits_for_copies = true;
    (void)snprintf(text, sizeof text, "%u retained backups need them: %.120s",
                   facts->retained_copies, facts->copies_names == NULL ? "" : facts->copies_names);
    note(machine, actions, "keysRetained", text);
    return true;
}

/* The proof is there: what else must be true before a key may go? */
static void retire_if_fit(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    if (kept->state != ROT_VERIFYING || !machine->proved ||
        machine->wrapped_version != kept->target || event->facts.active_version != kept->target)
        return;
    if (copies_hold(machine, event, actions))
        return;
    rot_action_t *saved = save(machine, event, actions);
    saved->retire_upto = kept->old_version;
    enter(machine, event, ROT_RETIRING);
    order(machine, event, actions);
    note(machine, actions, "keysRetiring", "no block of theirs was found");
}

static uint64_t blocks_of_old(const rot_event_t *event, uint32_t old_version, uint32_t active)
{
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < event->versions; i++)
        if (event->left[i].version <= old_version && event->left[i].version != active)
            blocks += event->left[i].blocks;
    return blocks;
}

static void verified(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    if (event->versions == 0)
        return; /* it counted nothing: no proof */
    uint64_t left = blocks_of_old(event, kept->old_version, kept->target);
    if (left == 0) {
        machine->proved = true;
        retire_if_fit(machine, event, actions);
        return;
    }
    char why[ROT_TEXT_BYTES];
    (void)snprintf(why, sizeof why,
                   "%" PRIu64 " blocks of old keys are left after %u passes: see what the last "
                   "report names, then resume or cancel",
                   left, kept->returns + 1);
    if (kept->returns + 1 >= ROT_RETURNS_MAX) {
        fail(machine, event, why, actions);
        return;
    }
    (void)save(machine, event, actions);
    kept->returns++;
    enter(machine, event, ROT_REENCRYPTING);
    order(machine, event, actions);
}

/* ---- a verify alone: what the rotation before it was stays ---- */

static void check_note(const rot_machine_t *machine, rot_actions_t *actions, const char *name,
                       const char *text)
{
    const rot_check_t *check = &machine->kept.check;
    rot_action_t *action = act(actions, ROT_ACTION_NOTE);
    action->name = name;
    (void)snprintf(action->text, sizeof action->text,
                   "verify %" PRIu64 " of keys before key %u: %s", check->number, check->target,
                   text);
}

static void check_end(rot_machine_t *machine, const rot_event_t *event, rot_state_t outcome,
                      uint64_t blocks, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    rot_check_t *check = &kept->check;
    (void)save(machine, event, actions);
    check->outcome = outcome;
    check->ended_ms = event->facts.now_ms;
    check->blocks = blocks;
    past_put(machine, &(rot_past_t){.kind = ROT_KIND_CHECK,
                                    .number = check->number,
                                    .outcome = outcome,
                                    .old_version = check->old_version,
                                    .target = check->target,
                                    .started_ms = check->started_ms,
                                    .ended_ms = check->ended_ms,
                                    .blocks = blocks});
    kept->state = kept->before;
    order(machine, event, actions);
}

static void checked(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    const rot_check_t *check = &machine->kept.check;
    uint64_t left = blocks_of_old(event, check->old_version, check->target); /* none: no old key */
    char text[64];
    check_end(machine, event, left == 0 ? ROT_COMPLETED : ROT_FAILED, left, actions);
    (void)snprintf(text, sizeof text, "%" PRIu64 " blocks of old keys", left);
    check_note(machine, actions, "keysVerified", text);
}

static void check_failed(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    check_end(machine, event, ROT_FAILED, UINT64_MAX, actions);
    check_note(machine, actions, "keysVerifyFailed", event->note);
}

static void destroy(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    rot_action_t *saved = save(machine, event, actions);
    saved->destroy_upto = kept->old_version;
    enter(machine, event, ROT_COMPLETED);
    past_add(machine, event, ROT_COMPLETED);
    order(machine, event, actions);
    (void)act(actions, ROT_ACTION_WRAP); /* it forgets them, too */
    note(machine, actions, "keysDestroyed", "");
}

/* ---- reports ---- */

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now >= before ? now - before : now; /* it began anew */
}

/* A report names each key that storage has. */
static bool report_has(const rot_event_t *event, uint32_t version)
{
    for (uint32_t i = 0; i < event->versions; i++)
        if (event->left[i].version == version)
            return true;
    return false;
}

static void count(rot_machine_t *machine, const rot_event_t *event)
{
    rot_kept_t *kept = &machine->kept;
    if (!report_has(event, event->facts.active_version))
        return; /* storage still encrypts with the key before: its count is not of this one */
    if (kept->counted_version != event->facts.active_version) {
        kept->counted_version = event->facts.active_version;
        kept->encrypted_blocks = kept->schedule_from = 0;
    }
    kept->encrypted_blocks += grown(event->blocks_encrypted, kept->told_encrypted);
    kept->told_encrypted = event->blocks_encrypted;
}

static void report(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    rot_order_t now = rot_machine_order(machine, event->facts.active_version);
    if (!machine->attached)
        return;
    machine->heard_ms = event->facts.now_ms;
    count(machine, event);
    if (event->versions > 0) {
        machine->versions = event->versions;
        memcpy(machine->left, event->left, event->versions * sizeof machine->left[0]);
        machine->left_estimated = event->left_estimated;
    }
    if (event->rotation != now.rotation || event->step != now.step)
        return; /* of another order */
    if (kept->state == ROT_REENCRYPTING) {
        /* Begun anew, it comes by what is done already. */
        kept->bytes = event->bytes_done > kept->bytes ? event->bytes_done : kept->bytes;
        kept->documents =
            event->documents_done > kept->documents ? event->documents_done : kept->documents;
        kept->blocks += grown(event->blocks_rewritten, machine->blocks_rewritten);
        machine->blocks_rewritten = event->blocks_rewritten;
        machine->unsaved = true;
        machine->bytes_done = event->bytes_done;
        machine->documents_done = event->documents_done;
    }
    machine->step = event->step;
    machine->pass = event->pass;
    machine->bytes_total = event->bytes_total;
    machine->rate_now = event->rate_now;
    memcpy(machine->current, event->current, sizeof machine->current);
    memcpy(machine->note, event->note, sizeof machine->note);
    if (event->failed && kept->state == ROT_CHECKING) {
        check_failed(machine, event, actions);
    } else if (event->failed && (kept->state == ROT_REENCRYPTING || kept->state == ROT_VERIFYING)) {
        fail(machine, event, event->note[0] != '\0' ? event->note : "storage can't go on", actions);
    } else if (event->failed || !event->done) {
        return; /* RETIRING goes on until storage has forgotten */
    } else if (kept->state == ROT_REENCRYPTING) {
        (void)save(machine, event, actions);
        enter(machine, event, ROT_VERIFYING);
        order(machine, event, actions);
    } else if (kept->state == ROT_VERIFYING) {
        verified(machine, event, actions);
    } else if (kept->state == ROT_CHECKING) {
        checked(machine, event, actions);
    } else if (kept->state == ROT_RETIRING) {
        destroy(machine, event, actions);
    }
}

/* ---- operators ---- */

static void rotate(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    char text[ROT_TEXT_BYTES];
    rot_state_t state = machine->kept.state;
    if (event->facts.active_version == 0) {
        answer(event, actions, VD_ERR_ILLEGAL_OPERATION, "there is no key yet to be rotated");
    } else if (rot_state_is_busy(state) || state == ROT_CHECKING) {
        (void)snprintf(text, sizeof text, "%s %" PRIu64 " is %s: %s",
                       state == ROT_CHECKING ? "verify" : "rotation",
                       state == ROT_CHECKING ? machine->kept.check.number : machine->kept.number,
                       rot_state_name(state),
                       state == ROT_FAILED ? "resume or cancel it first" : "one at a time");
        answer(event, actions, VD_ERR_ROTATION_IN_PROGRESS, text);
    } else if (event->facts.full) {
        answer(event, actions, VD_ERR_FULL,
               "the keyring is full of keys that are not destroyed: let a rotation complete");
    } else {
        begin(machine, event, ROT_BY_OPERATOR, actions);
    }
}

/* True, and answered, when the verb needs a rotation that can still be changed. */
static bool refused(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    if (!rot_state_is_busy(machine->kept.state))
        answer(event, actions, VD_ERR_NO_ROTATION, "no rotation of keys is under way");
    else if (machine->kept.state == ROT_RETIRING)
        answer(event, actions, VD_ERR_ILLEGAL_OPERATION,
               "the proof is done and the old keys are being destroyed: that can't be held up");
    else
        return false;
    return true;
}

static void pause(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    if (refused(machine, event, actions))
        return;
    if (machine->kept.state == ROT_PAUSED) {
        answer(event, actions, VD_OK, "it is paused already");
    } else if (machine->kept.state == ROT_FAILED) {
        answer(event, actions, VD_ERR_ILLEGAL_OPERATION,
               "it has failed and does nothing: resume or cancel it");
    } else {
        (void)save(machine, event, actions);
        enter(machine, event, ROT_PAUSED);
        order(machine, event, actions);
        note(machine, actions, "keyRotationPaused", "");
        answer(event, actions, VD_OK, "paused");
    }
}

/* It goes on anyhow; but the next tick finds that it need not wait for backups. */
static void force(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    if (event->force && !machine->kept.force) {
        (void)save(machine, event, actions);
        machine->kept.force = true;
        machine->waits_for_copies = false;
        note(machine, actions, "keyRotationForced", "backups that are kept may lose their key");
        answer(event, actions, VD_OK, "forced: backups that need the old keys will be of no use");
    } else if (machine->waits_for_copies) {
        answer(event, actions, VD_ERR_KEY_IN_USE,
               "backups that are kept need the old keys: remove them, or resume with --force");
    } else {
        answer(event, actions, VD_OK, "it is not paused");
    }
}

static void resume(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    if (refused(machine, event, actions))
        return;
    if (machine->kept.state != ROT_PAUSED && machine->kept.state != ROT_FAILED) {
        force(machine, event, actions);
        return;
    }
    (void)save(machine, event, actions);
    enter(machine, event, ROT_REENCRYPTING);
    machine->kept.note[0] = '\0';
    machine->kept.returns = 0;
    machine->kept.force = machine->kept.force || event->force;
    order(machine, event, actions);
    note(machine, actions, "keyRotationResumed", "");
    answer(event, actions, VD_OK, "resumed");
}

static void cancel(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    char text[ROT_TEXT_BYTES];
    if (refused(machine, event, actions))
        return;
    (void)save(machine, event, actions);
    enter(machine, event, ROT_CANCELLED);
    past_add(machine, event, ROT_CANCELLED);
    order(machine, event, actions);
    note(machine, actions, "keyRotationCancelled", "");
    (void)snprintf(text, sizeof text,
                   "cancelled: key %u stays active, keys up to %u stay for reading", kept->target,
                   kept->old_version);
    answer(event, actions, VD_OK, text);
}

static void throttle(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    if (refused(machine, event, actions))
        return;
    (void)save(machine, event, actions);
    if (event->has_rate)
        machine->kept.rate_max_bytes = event->rate;
    if (event->has_rise)
        machine->kept.latency_rise_max = event->rise;
    order(machine, event, actions);
    note(machine, actions, "keyRotationThrottled", "");
    answer(event, actions, VD_OK, "throttled");
}

static void check(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    if (event->facts.active_version == 0) {
        answer(event, actions, VD_ERR_ILLEGAL_OPERATION, "there is no key yet");
    } else if (rot_state_is_busy(kept->state) || kept->state == ROT_CHECKING) {
        answer(event, actions, VD_ERR_ROTATION_IN_PROGRESS,
               kept->state == ROT_CHECKING ? "a verify is under way"
                                           : "the rotation under way verifies by itself");
    } else {
        (void)save(machine, event, actions);
        kept->order++;
        kept->before = kept->state;
        kept->state = ROT_CHECKING;
        kept->check = (rot_check_t){.number = kept->check.number + 1,
                                    .outcome = ROT_CHECKING,
                                    .target = event->facts.active_version,
                                    .old_version = event->facts.active_version - 1,
                                    .started_ms = event->facts.now_ms};
        forget_report(machine);
        order(machine, event, actions);
        answer(event, actions, VD_OK, "every block is being counted");
    }
}

static void rewrap(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    rot_kept_t *kept = &machine->kept;
    rot_past_t past = {.kind = ROT_KIND_REWRAP,
                       .number = kept->rewraps + 1,
                       .outcome = ROT_COMPLETED,
                       .target = event->facts.active_version,
                       .started_ms = event->facts.now_ms,
                       .ended_ms = event->facts.now_ms};
    save(machine, event, actions)->rewrap = true;
    kept->rewraps++;
    past_put(machine, &past);
    order(machine, event, actions); /* storage renews the keyring's copies beside backups */
    rot_action_t *noted = act(actions, ROT_ACTION_NOTE);
    noted->name = "keysRewrapped";
    (void)snprintf(noted->text, sizeof noted->text, "under a new key-encryption key");
    answer(event, actions, VD_OK, "the keyring is under the new key-encryption key");
}

/* ---- the rest ---- */

static void start(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    const rot_facts_t *facts = &event->facts;
    const rot_kept_t *kept = &machine->kept;
    if (kept->state != ROT_IDLE && kept->target > facts->highest_version) {
        rot_action_t *action = act(actions, ROT_ACTION_FATAL);
        action->code = VD_ERR_KEYRING_OLD;
        (void)snprintf(action->text, sizeof action->text,
                       "rotation %" PRIu64 " is about key version %u, but the keyring ends with "
                       "version %u",
                       kept->number, kept->target, facts->highest_version);
        return;
    }
    machine->saved_ms = machine->sent_ms = facts->now_ms;
    if (rot_state_is_busy(kept->state)) {
        (void)act(actions, ROT_ACTION_WRAP);
        note(machine, actions, "keyRotationGoesOn", rot_state_name(kept->state));
    } else if (kept->state == ROT_COMPLETED || kept->state == ROT_CANCELLED) {
        (void)act(actions, ROT_ACTION_WRAP);
        if (facts->now_ms - kept->changed_ms < 60000) /* its own note may be lost */
            note(machine, actions,
                 kept->state == ROT_COMPLETED ? "keysDestroyed" : "keyRotationCancelled",
                 "told again after a start");
    }
}

static void attach(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    const rot_facts_t *facts = &event->facts;
    if (event->version > facts->highest_version || event->rotation > machine->kept.order) {
        rot_action_t *action = act(actions, ROT_ACTION_FATAL);
        action->code = VD_ERR_KEYRING_OLD;
        if (event->version > facts->highest_version)
            (void)snprintf(action->text, sizeof action->text,
                           "storage's data is of key version %u, but the keyring ends with version "
                           "%u: an older keyring was put in its place",
                           event->version, facts->highest_version);
        else
            (void)snprintf(action->text, sizeof action->text,
                           "storage knows of rotation %" PRIu64 ", the keyring (up to key version "
                           "%u) of %" PRIu64 ": an older keyring was put in its place",
                           event->rotation, facts->highest_version, machine->kept.order);
        return;
    }
    rot_kept_t *kept = &machine->kept;
    if (memcmp(kept->told_boot, event->boot_id, sizeof kept->told_boot) != 0) {
        kept->told_encrypted = 0;
        forget_report(machine);
    }
    memcpy(kept->told_boot, event->boot_id, sizeof kept->told_boot);
    machine->attached = true;
    machine->proved = false; /* it is counted anew */
    order(machine, event, actions);
}

static void tick(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    const rot_facts_t *facts = &event->facts;
    rot_kept_t *kept = &machine->kept;
    bool quiet = !rot_state_is_busy(kept->state) && kept->state != ROT_CHECKING;
    bool old = facts->rotate_after_ms != 0 &&
               facts->now_ms - facts->active_since_ms >= (int64_t)facts->rotate_after_ms;
    bool many = facts->rotate_blocks != 0 && kept->counted_version == facts->active_version &&
                kept->encrypted_blocks - kept->schedule_from >= facts->rotate_blocks;
    if (quiet && facts->active_version != 0 && (old || many) && machine->attached && !facts->full) {
        begin(machine, event, old ? ROT_BY_AGE : ROT_BY_BLOCKS, actions);
        return;
    }
    if (kept->state == ROT_VERIFYING && machine->proved) {
        retire_if_fit(machine, event, actions);
        if (actions->count > 0)
            return;
    }
    int64_t kept_ms = facts->now_ms - machine->saved_ms;
    bool counted = machine->unsaved && (!machine->attached || kept_ms >= ROT_KEEP_BUSY_MS);
    bool scheduled = facts->rotate_blocks != 0 && kept_ms >= ROT_KEEP_MS;
    if ((counted || scheduled) && facts->active_version != 0)
        (void)save(machine, event, actions);
    if (!quiet && facts->now_ms - machine->sent_ms >= ROT_RESEND_MS)
        order(machine, event, actions);
}

static void wrapped(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    machine->wrapped_version = event->version;
    retire_if_fit(machine, event, actions);
}

static void detach(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *actions)
{
    (void)event, (void)actions; /* nothing to do until it is back */
    machine->attached = machine->proved = false;
}

void rot_machine_step(rot_machine_t *machine, const rot_event_t *event, rot_actions_t *ret_actions)
{
    static void (*const steps[])(rot_machine_t *, const rot_event_t *, rot_actions_t *) = {
        [ROT_EVENT_START] = start,   [ROT_EVENT_TICK] = tick,         [ROT_EVENT_ATTACH] = attach,
        [ROT_EVENT_DETACH] = detach, [ROT_EVENT_REPORT] = report,     [ROT_EVENT_WRAPPED] = wrapped,
        [ROT_EVENT_ROTATE] = rotate, [ROT_EVENT_PAUSE] = pause,       [ROT_EVENT_RESUME] = resume,
        [ROT_EVENT_CANCEL] = cancel, [ROT_EVENT_THROTTLE] = throttle, [ROT_EVENT_CHECK] = check,
        [ROT_EVENT_REWRAP] = rewrap,
    };
    VD_ASSERT(event->versions <= ROT_VERSIONS_MAX);
    ret_actions->count = 0;
    steps[event->kind](machine, event, ret_actions);
}

rot_order_t rot_machine_order(const rot_machine_t *machine, uint32_t active_version)
{
    static const uint32_t steps[] = {
        [ROT_IDLE] = VDP_ROTATION_NONE,       [ROT_REENCRYPTING] = VDP_ROTATION_REENCRYPT,
        [ROT_PAUSED] = VDP_ROTATION_PAUSED,   [ROT_VERIFYING] = VDP_ROTATION_VERIFY,
        [ROT_RETIRING] = VDP_ROTATION_RETIRE, [ROT_COMPLETED] = VDP_ROTATION_NONE,
        [ROT_CANCELLED] = VDP_ROTATION_NONE,  [ROT_FAILED] = VDP_ROTATION_PAUSED,
        [ROT_CHECKING] = VDP_ROTATION_VERIFY,
    };
    const rot_kept_t *kept = &machine->kept;
    bool checks = kept->state == ROT_CHECKING;
    rot_order_t now = {
        .step = steps[kept->state], .active_version = active_version, .wraps = kept->rewraps};
    if (now.step == VDP_ROTATION_NONE)
        return now;
    now.rotation = kept->order;
    now.old_version = checks ? kept->check.old_version : kept->old_version;
    now.rate_max_bytes = checks ? 0 : kept->rate_max_bytes;
    now.latency_rise_max = kept->latency_rise_max;
    return now;
}

const char *rot_state_name(rot_state_t state)
{
    static const char *const names[] = {"idle",      "reencrypting", "paused",
                                        "verifying", "retiring",     "completed",
                                        "cancelled", "failed",       "checking"};
    return names[state];
}

const char *rot_reason_name(rot_reason_t reason)
{
    static const char *const names[] = {"operator", "age", "blocks"};
    return names[reason];
}

const char *rot_kind_name(rot_kind_t kind)
{
    static const char *const names[] = {"rotation", "verify", "rewrap"};
    return names[kind];
}
