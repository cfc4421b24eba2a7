/* tests/simrot/check.c — what must hold at each step; see README.md. */
#include "tests/simrot/sim.h"

#include <inttypes.h>

static bool is_busy(rot_state_t state)
{
    return state == ROT_REENCRYPTING || state == ROT_PAUSED || state == ROT_VERIFYING ||
           state == ROT_RETIRING || state == ROT_FAILED;
}

/* Anything that only this key opens, anywhere. */
static uint64_t needs(const sim_t *sim, uint32_t version)
{
    return sim->disk[version] + sim->memory[version] + sim->audit_needs[version];
}

/* Before it is durable. */
void sim_check_save(sim_t *sim, const rot_action_t *save, const rot_kept_t *next)
{
    rot_state_t before = sim->kept.state;
    if (save->add) {
        if (is_busy(before))
            sim_fail(sim, "a rotation begins while one is %s", rot_state_name(before));
        if (next->number <= sim->newest_number)
            sim_fail(sim, "number %" PRIu64 " is used twice", next->number);
        if (next->target != sim->key_count + 1 || next->old_version != sim->key_count)
            sim_fail(sim, "the new rotation is about keys %u and %u", next->target,
                     next->old_version);
    }
    if (next->force && (!sim->kept.force || save->add) && !sim->force_said)
        sim_fail(sim, "backups may lose their key, and no operator said so");
    if (save->destroy_upto != 0 && !next->force)
        for (uint32_t i = 0; i < SIM_COPIES_MAX; i++)
            if (sim->copies[i] != 0 && !sim->copies_lost[i] && sim->copies[i] <= save->destroy_upto)
                sim_fail(sim, "key %u is destroyed, and a backup needs it", sim->copies[i]);
    if (save->destroy_upto != 0 && before != ROT_RETIRING)
        sim_fail(sim, "keys are destroyed while %s", rot_state_name(before));
    if (next->state == ROT_RETIRING && before != ROT_VERIFYING && before != ROT_RETIRING)
        sim_fail(sim, "retiring follows %s", rot_state_name(before));
    if (next->state == ROT_COMPLETED && before != ROT_COMPLETED && before != ROT_RETIRING &&
        before != ROT_CHECKING)
        sim_fail(sim, "completed follows %s", rot_state_name(before));
    if (before == ROT_RETIRING && next->state != ROT_RETIRING && next->state != ROT_COMPLETED)
        sim_fail(sim, "retiring is left for %s", rot_state_name(next->state));
    if (before == ROT_CHECKING && next->state != ROT_CHECKING && next->state != sim->kept.before)
        sim_fail(sim, "a verify out of %s ends as %s", rot_state_name(sim->kept.before),
                 rot_state_name(next->state));
    if (sim->healed && next->state == ROT_FAILED && before != ROT_FAILED)
        sim_fail(sim, "it fails while nothing is wrong: %s", next->note);
    if (next->state == ROT_RETIRING && before == ROT_VERIFYING)
        for (uint32_t v = 1; v <= next->old_version; v++)
            if (needs(sim, v) > 0)
                sim_fail(sim, "key %u retires while %" PRIu64 " need it", v, needs(sim, v));
}

/* An action that others see is about to be done: the disk must say so already. */
void sim_check_effect(sim_t *sim)
{
    if (sim->kept.number != sim->machine.kept.number || sim->kept.state != sim->machine.kept.state)
        sim_fail(sim, "an effect of %s shows while the disk says %s",
                 rot_state_name(sim->machine.kept.state), rot_state_name(sim->kept.state));
}

void sim_check_step(sim_t *sim)
{
    uint32_t active = 0;
    sim->steps++;
    for (uint32_t v = 1; v <= sim->key_count; v++) {
        active += sim->keys[v] == SIM_ACTIVE;
        if (sim->keys[v] == SIM_DESTROYED && needs(sim, v) > 0)
            sim_fail(sim, "key %u is destroyed, and %" PRIu64 " blocks need it", v, needs(sim, v));
    }
    for (uint32_t i = 0; i < SIM_COPIES_MAX; i++)
        if (sim->copies[i] != 0 && !sim->copies_lost[i] &&
            sim->keys[sim->copies[i]] == SIM_DESTROYED)
            sim_fail(sim, "a backup needs key %u, which is destroyed", sim->copies[i]);
    if (active != 1)
        sim_fail(sim, "%u keys are active", active);
    if (sim->begun - sim->ended > 1)
        sim_fail(sim, "%" PRIu64 " rotations at once", sim->begun - sim->ended);
    if (is_busy(sim->kept.state) && sim->keys[sim->kept.target] != SIM_ACTIVE)
        sim_fail(sim, "key %u of the rotation is not active", sim->kept.target);
    if (sim->kept.state == ROT_CANCELLED && (sim->keys[sim->kept.target] != SIM_ACTIVE ||
                                             sim->keys[sim->kept.old_version] != SIM_DECRYPT_ONLY))
        sim_fail(sim, "a cancelled rotation has changed its keys");
}

/* After the faults: a last rotation has run to its end. */
void sim_check_settled(sim_t *sim)
{
    if (sim->kept.state != ROT_COMPLETED) {
        sim_fail(sim, "it ends as %s, not completed", rot_state_name(sim->kept.state));
        return;
    }
    for (uint32_t v = 1; v < sim->key_count; v++)
        if (sim->keys[v] != SIM_DESTROYED)
            sim_fail(sim, "completed, and key %u is there", v);
    for (uint32_t v = 1; v < sim->key_count; v++)
        if (sim->has_key[v])
            sim_fail(sim, "completed, and storage has key %u in memory", v);
}
