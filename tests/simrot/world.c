/* tests/simrot/world.c — the key holder, storage, and the network between them; see README.md. */
#include "proto/rotation.h"
#include "tests/simrot/sim.h"

#include <inttypes.h>

/* ---- the network ---- */

static sim_message_t *send(sim_t *sim, sim_kind_t kind)
{
    static sim_message_t lost;
    bool is_lost = !sim->healed && sim_chance(sim, sim->loss);
    if (kind == SIM_ATTACH)
        is_lost = false; /* it is sent again until the link breaks: see link_break */
    sim_message_t *message = is_lost || sim->message_count == SIM_MESSAGES_MAX
                                 ? &lost
                                 : &sim->messages[sim->message_count++];
    memset(message, 0, sizeof *message);
    message->kind = kind;
    message->link = sim->link;
    message->at_ms = sim->now_ms + 1 + sim_below(sim, sim->healed ? 10 : 3000);
    return message;
}

static void send_twice(sim_t *sim, const sim_message_t *message)
{
    if (sim->healed || !sim_chance(sim, sim->loss) || sim->message_count == SIM_MESSAGES_MAX)
        return;
    sim_message_t *again = &sim->messages[sim->message_count++];
    *again = *message;
    again->at_ms += sim_below(sim, 20000);
}

/* ---- the key holder ---- */

uint32_t sim_active(const sim_t *sim)
{
    for (uint32_t v = 1; v <= sim->key_count; v++)
        if (sim->keys[v] == SIM_ACTIVE)
            return v;
    return 0;
}

static void copies_lose(sim_t *sim, uint32_t version)
{
    for (uint32_t i = 0; i < SIM_COPIES_MAX; i++)
        if (sim->copies[i] != 0 && sim->copies[i] <= version)
            sim->copies_lost[i] = true;
}

static bool save(sim_t *sim, const rot_action_t *action, const rot_kept_t *next)
{
    if (!sim->healed && sim_chance(sim, sim->save_fails))
        return false;
    sim_check_save(sim, action, next);
    if (action->add) {
        sim->keys[sim_active(sim)] = SIM_DECRYPT_ONLY;
        sim->keys[++sim->key_count] = SIM_ACTIVE;
        sim->made_ms = (int64_t)sim->now_ms;
        sim->begun++;
        sim->newest_number = next->number;
    }
    for (uint32_t v = 1; v <= sim->key_count; v++) {
        if (sim->keys[v] == SIM_ACTIVE || sim->keys[v] == SIM_DESTROYED)
            continue;
        if (v <= action->destroy_upto) {
            sim->keys[v] = SIM_DESTROYED;
            sim->destroyed++;
            copies_lose(sim, v);
        } else if (v <= action->retire_upto) {
            sim->keys[v] = SIM_RETIRING;
        }
    }
    bool ends = next->past_count > 0 &&
                next->past[next->past_count - 1].kind == ROT_KIND_ROTATION &&
                next->state != sim->kept.state &&
                (next->state == ROT_COMPLETED || next->state == ROT_CANCELLED) &&
                sim->kept.state != ROT_CHECKING;
    sim->ended += ends;
    sim->completed += ends && next->state == ROT_COMPLETED;
    sim->cancelled += ends && next->state == ROT_CANCELLED;
    sim->checks += sim->kept.state == ROT_CHECKING && next->state != ROT_CHECKING;
    sim->kept = *next;
    return true;
}

static void act(sim_t *sim, const rot_action_t *action)
{
    switch (action->kind) {
    case ROT_ACTION_SAVE:
        break;
    case ROT_ACTION_ORDER: {
        sim_check_effect(sim);
        sim_message_t *message = send(sim, SIM_ORDER);
        message->order = rot_machine_order(&sim->machine, sim_active(sim));
        sim_trace(sim, "order: rotation %" PRIu64 " step %u active %u old %u",
                  message->order.rotation, message->order.step, message->order.active_version,
                  message->order.old_version);
        send_twice(sim, message);
        break;
    }
    case ROT_ACTION_WRAP:
        sim_check_effect(sim);
        sim->audit_target = sim_active(sim);
        break;
    case ROT_ACTION_NOTE:
        sim_check_effect(sim);
        sim_trace(sim, "note: %s %s", action->name, action->text);
        break;
    case ROT_ACTION_ANSWER:
        sim_check_effect(sim);
        sim_trace(sim, "answer %d: %s", action->code, action->text);
        break;
    case ROT_ACTION_FATAL:
        sim_fail(sim, "fatal: %s", action->text);
    }
}

/* Backups that need a key up to that version. */
uint32_t sim_copies_count(const sim_t *sim, uint32_t version)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SIM_COPIES_MAX; i++)
        count += sim->copies[i] != 0 && sim->copies[i] <= version;
    return count;
}

static void facts_fill(const sim_t *sim, rot_facts_t *facts)
{
    bool known = sim->attached && sim->now_ms >= sim->copies_told_ms;
    *facts = (rot_facts_t){.now_ms = (int64_t)sim->now_ms,
                           .active_version = sim_active(sim),
                           .highest_version = sim->key_count,
                           .full = sim->key_count + 1 >= SIM_KEYS_MAX,
                           .active_since_ms = sim->made_ms,
                           .copies_known = known,
                           .retained_copies =
                               known ? sim_copies_count(sim, sim->machine.kept.old_version) : 0,
                           .rotate_after_ms = sim->schedule && !sim->healed ? 20000 : 0};
}

bool sim_event(sim_t *sim, rot_event_t *event)
{
    static rot_machine_t next;
    rot_actions_t actions;
    if (!sim->up)
        return false;
    facts_fill(sim, &event->facts);
    next = sim->machine;
    rot_machine_step(&next, event, &actions);
    sim->waits += next.waits_for_copies && !sim->machine.waits_for_copies;
    bool saves = actions.count > 0 && actions.list[0].kind == ROT_ACTION_SAVE;
    for (size_t i = 1; i < actions.count; i++)
        if (actions.list[i].kind == ROT_ACTION_SAVE)
            sim_fail(sim, "a save that isn't the first action");
    if (!saves && memcmp(&next.kept.state, &sim->machine.kept.state, sizeof next.kept.state) != 0)
        sim_fail(sim, "%s became %s without a save", rot_state_name(sim->machine.kept.state),
                 rot_state_name(next.kept.state));
    bool dies = !sim->healed && sim_chance(sim, sim->crash);
    if (saves && dies && sim_chance(sim, 0.5)) {
        sim_holder_crash(sim); /* before it */
        return false;
    }
    if (saves && !save(sim, &actions.list[0], &next.kept))
        return false;
    if (saves && dies && sim_chance(sim, 0.5)) {
        sim_holder_crash(sim); /* between it and its effects */
        return false;
    }
    sim->machine = next;
    for (size_t i = 0; i < actions.count; i++) {
        if (dies && i > 0 && sim_chance(sim, 0.3)) {
            sim_holder_crash(sim); /* in the middle of them */
            return false;
        }
        act(sim, &actions.list[i]);
    }
    return true;
}

void sim_holder_start(sim_t *sim)
{
    rot_event_t event = {.kind = ROT_EVENT_START};
    memset(&sim->machine, 0, sizeof sim->machine);
    sim->machine.kept = sim->kept;
    sim->audit_target = 0;
    sim->up = true;
    sim_trace(sim, "the key holder starts: %s", rot_state_name(sim->kept.state));
    (void)sim_event(sim, &event);
}

void sim_holder_crash(sim_t *sim)
{
    sim_trace(sim, "the key holder dies");
    sim->up = sim->attached = false;
    sim->crashes++;
    sim->link++; /* what is under way is lost */
    sim->restart_ms = sim->now_ms + 1 + sim_below(sim, 5000);
}

/* ---- storage ---- */

static void attach(sim_t *sim)
{
    sim->ordered = false;
    sim_message_t *message = send(sim, SIM_ATTACH);
    message->event.kind = ROT_EVENT_ATTACH;
    memcpy(message->event.boot_id, sim->boot_id, sizeof sim->boot_id);
    message->event.version = sim->active;
    message->event.rotation = sim->knows;
}

/* KEYS_OPEN: the key holder answers at once, or isn't there, or refuses. */
static bool keys_open(sim_t *sim)
{
    if (!sim->up || (!sim->healed && sim_chance(sim, sim->storage_fails)))
        return false;
    for (uint32_t v = 1; v <= sim->key_count; v++)
        sim->has_key[v] = sim->keys[v] != SIM_DESTROYED;
    sim->active = sim_active(sim);
    return true;
}

void sim_storage_start(sim_t *sim)
{
    memset(sim->has_key, 0, sizeof sim->has_key);
    if (!keys_open(sim)) {
        sim->storage_restart_ms = sim->now_ms + 1000;
        return;
    }
    sim->storage_up = true;
    sim->order = (rot_order_t){0};
    sim->ordered = false;
    sim->proven_upto = 0;
    sim->rewritten = 0;
    sim->boot_id[0] = (uint8_t)++sim->boots;
    sim->boot_id[1] = (uint8_t)(sim->boots >> 8);
    memcpy(sim->memory, sim->disk, sizeof sim->memory);
    sim->memory[sim->active] += sim_below(sim, 3); /* the log, replayed */
    sim_trace(sim, "storage starts with key %u", sim->active);
    sim->link++;
    attach(sim);
}

void sim_storage_crash(sim_t *sim)
{
    rot_event_t gone = {.kind = ROT_EVENT_DETACH};
    sim_trace(sim, "storage dies");
    sim->storage_up = sim->attached = false;
    sim->crashes++;
    sim->link++;
    memcpy(sim->memory, sim->disk, sizeof sim->memory); /* back to the checkpoint */
    sim->storage_restart_ms = sim->now_ms + 1 + sim_below(sim, 5000);
    (void)sim_event(sim, &gone);
}

void sim_link_break(sim_t *sim)
{
    rot_event_t gone = {.kind = ROT_EVENT_DETACH};
    sim->attached = false;
    sim->link++;
    (void)sim_event(sim, &gone);
    if (sim->storage_up)
        attach(sim);
}

static uint64_t old_blocks(const sim_t *sim, const uint64_t *blocks)
{
    uint64_t sum = 0;
    for (uint32_t v = 1; v <= sim->order.old_version; v++)
        sum += v == sim->active ? 0 : blocks[v];
    return sum;
}

static void rewrite_some(sim_t *sim)
{
    uint64_t budget = sim->healed ? 100000 : sim_below(sim, 60);
    for (uint32_t v = 1; v <= sim->order.old_version; v++) {
        uint64_t n = v == sim->active ? 0 : sim->memory[v] < budget ? sim->memory[v] : budget;
        sim->memory[v] -= n;
        sim->memory[sim->active] += n;
        sim->rewritten += n;
        budget -= n;
    }
}

static void report(sim_t *sim, bool done, bool failed)
{
    sim_message_t *message = send(sim, SIM_REPORT);
    bool estimates = sim->order.step != VDP_ROTATION_VERIFY || !done;
    rot_event_t *event = &message->event;
    event->kind = ROT_EVENT_REPORT;
    event->rotation = sim->order.rotation;
    event->step = sim->order.step;
    event->done = done;
    event->failed = failed;
    event->bytes_done = event->blocks_rewritten = sim->rewritten;
    for (uint32_t v = 1; v <= sim->key_count; v++)
        message->left[event->versions++] =
            (rot_left_t){v, estimates ? sim_below(sim, 3) * sim->disk[v] / 2 : sim->disk[v]};
    send_twice(sim, message);
}

static void checkpoint(sim_t *sim)
{
    memcpy(sim->disk, sim->memory, sizeof sim->disk);
}

/* It stays true: nothing is written with an old key once the new one is there. */
static void prove(sim_t *sim)
{
    if (sim->proven_upto < sim->order.old_version)
        sim->proven_upto = sim->order.old_version;
}

static void storage_tick(sim_t *sim)
{
    bool failed = !sim->healed && sim_chance(sim, sim->storage_fails / 4), done = false;
    const rot_order_t *order = &sim->order;
    sim->memory[sim->active] += sim_below(sim, 2); /* clients write */
    if (order->step == VDP_ROTATION_NONE)
        return;
    if (order->active_version != sim->active && !keys_open(sim))
        return; /* first the key */
    if (order->active_version != sim->active)
        return; /* the order is of another time; the next one comes */
    switch (order->step) {
    case VDP_ROTATION_REENCRYPT:
        rewrite_some(sim);
        if (sim_chance(sim, 0.3))
            checkpoint(sim);
        done =
            old_blocks(sim, sim->disk) == 0 || (!sim->healed && sim_chance(sim, sim->early_done));
        break;
    case VDP_ROTATION_VERIFY:
        if (sim->work > 0 && --sim->work > 0)
            break;
        checkpoint(sim);
        done = true; /* counted: what is in disk[] is what the report says */
        if (old_blocks(sim, sim->disk) == 0)
            prove(sim);
        break;
    case VDP_ROTATION_RETIRE:
        for (uint32_t v = 1; v <= order->old_version; v++)
            sim->has_key[v] = sim->has_key[v] && v == sim->active;
        done = true;
        break;
    default:
        break;
    }
    if (sim_chance(sim, 0.8) || sim->healed)
        report(sim, done && !failed, failed);
}

static void order_take(sim_t *sim, const rot_order_t *order)
{
    if (order->rotation != sim->order.rotation || order->step != sim->order.step || !sim->ordered)
        sim->work = 1 + sim_below(sim, 5);
    sim->ordered = true;
    sim->order = *order;
    if (order->step == VDP_ROTATION_RETIRE)
        prove(sim);
    if (order->rotation > sim->knows)
        sim->knows = order->rotation;
}

/* A backup that begins now, as veddb-storaged/backup does it: not while blocks are counted; behind
 * the proof it needs no old key. */
void sim_copy_make(sim_t *sim)
{
    bool counts =
        sim->order.step == VDP_ROTATION_VERIFY && sim->proven_upto < sim->order.old_version;
    uint32_t oldest = sim->active;
    if (!sim->storage_up || !sim->ordered || counts)
        return;
    for (uint32_t v = sim->active; v > 0; v--)
        if (sim->has_key[v] && v > sim->proven_upto)
            oldest = v;
    for (uint32_t i = 0; i < SIM_COPIES_MAX; i++) {
        if (sim->copies[i] != 0)
            continue;
        sim_trace(sim, "a backup is made that needs keys from %u on", oldest);
        sim->copies[i] = oldest;
        sim->copies_lost[i] = false;
        sim->copies_made++;
        return;
    }
}

/* ---- time ---- */

void sim_deliver(sim_t *sim)
{
    static sim_message_t message;
    for (uint32_t i = 0; i < sim->message_count;) {
        if (sim->messages[i].at_ms > sim->now_ms) {
            i++;
            continue;
        }
        message = sim->messages[i];
        sim->messages[i] = sim->messages[--sim->message_count];
        i = 0;
        if (message.link != sim->link)
            continue;
        if (message.kind == SIM_ORDER && sim->storage_up) {
            order_take(sim, &message.order);
        } else if (message.kind == SIM_ATTACH && sim->up) {
            sim->copies_told_ms = sim->now_ms + (sim->healed ? 0 : sim_below(sim, 8000));
            sim->attached = sim_event(sim, &message.event);
        } else if (message.kind == SIM_REPORT && sim->up && sim->attached) {
            message.event.left = message.left;
            (void)sim_event(sim, &message.event);
        }
        sim_check_step(sim);
    }
}

static void audit_tick(sim_t *sim)
{
    if (!sim->up || sim->audit_target == 0)
        return;
    sim->audit_needs[sim->audit_target] += sim_below(sim, 2); /* new segments */
    for (uint32_t v = 1; v <= sim->key_count; v++) {
        if (v == sim->audit_target || sim->audit_needs[v] == 0)
            continue;
        uint64_t some = sim->healed ? sim->audit_needs[v] : 1;
        sim->audit_needs[v] -= some;
        sim->audit_needs[sim->audit_target] += some;
        return; /* some at a time */
    }
    rot_event_t event = {.kind = ROT_EVENT_WRAPPED, .version = sim->audit_target};
    if (sim->machine.wrapped_version != sim->audit_target)
        (void)sim_event(sim, &event);
}

void sim_tick(sim_t *sim)
{
    rot_event_t event = {.kind = ROT_EVENT_TICK};
    if (!sim->up && sim->now_ms >= sim->restart_ms) {
        sim_holder_start(sim);
        if (sim->up && sim->storage_up)
            attach(sim); /* the link is there again */
    }
    if (!sim->storage_up && sim->now_ms >= sim->storage_restart_ms)
        sim_storage_start(sim);
    if (sim->storage_up)
        storage_tick(sim);
    audit_tick(sim);
    (void)sim_event(sim, &event);
    sim_check_step(sim);
}
