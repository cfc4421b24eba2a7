/* veddb-gatewayd/member.c — see member.h. */
#include "veddb-gatewayd/member.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "veddb-gatewayd/gatewayd.h"

/* Storage may be away this long before clients are told: their requests wait meanwhile. */
bool gate_member_others_lead(const gate_t *gate)
{
    return atomic_load(&gate->topology.automatic);
}

static uint64_t grace_ms(const gate_t *gate)
{
    return gate_member_others_lead(gate) ? 0 : gate->settings.storage_wait_ms / 3;
}

static const char *role_name(uint32_t role)
{
    static const char *const names[] = {"starting", "primary", "secondary", "recovering",
                                        "removed"};
    return role < VD_COUNT_OF(names) ? names[role] : "unknown";
}

static void changed(const gate_t *gate, gate_topology_t *topology)
{
    int64_t counter = atomic_fetch_add(&topology->counter, 1) + 1;
    vd_log(VD_LOG_INFO, "state of this member changed",
           "set=%s ready=%d role=%s term=%llu counter=%lld", gate->settings.replica_set,
           topology->ready, role_name(topology->role), (unsigned long long)topology->term,
           (long long)counter);
}

uint32_t gate_state_role(const gate_storage_state_t *state)
{
    /* One that says nothing of a role takes writes or doesn't. */
    return state->role == VDP_ROLE_STARTING && state->writable ? VDP_ROLE_PRIMARY : state->role;
}

/* True when it is another one. A storage that has just started has none until its replicad tells it
 * again: what was known stays, so that drivers don't think that the other members have gone. */
static bool take_set(gate_topology_t *topology, vd_slice_t bytes)
{
    if (bytes.len == 0 ||
        (bytes.len == topology->set_len && memcmp(bytes.data, topology->set, bytes.len) == 0))
        return false;
    if (vd_bson_validate(bytes, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) != VD_OK) {
        vd_log(VD_LOG_ERROR, "storage told a topology that is no BSON", "bytes=%zu", bytes.len);
        return false;
    }
    vd_free(topology->set);
    topology->set = vd_xalloc(bytes.len);
    topology->set_len = (uint32_t)bytes.len;
    memcpy(topology->set, bytes.data, bytes.len);
    vd_bson_t set = {topology->set, topology->set_len};
    int64_t delay_s = 0;
    if (!vd_value_as_int64(vd_bson_get(set, "secondaryDelaySecs"), &delay_s))
        delay_s = 0;
    atomic_store(&topology->delayed, delay_s > 0);
    atomic_store(&topology->automatic, vd_value_as_flag(vd_bson_get(set, "automatic")));
    return true;
}

static bool take_state(gate_topology_t *topology, const gate_storage_state_t *state)
{
    uint32_t role = gate_state_role(state);
    bool ready = !topology->draining;
    bool differs =
        topology->ready != ready || topology->role != role || topology->term != state->term;
    differs |= take_set(topology, vd_slice(state->topology, state->topology_len));
    /* A node alone is primary from the start. */
    topology->in_set |= topology->set_len != 0 || role != VDP_ROLE_PRIMARY;
    topology->lost_ms = 0;
    topology->known = true;
    topology->ready = ready;
    topology->role = role;
    topology->term = state->term;
    memcpy(topology->set_id, state->set_id, sizeof topology->set_id);
    return differs;
}

bool gate_member_note(gate_t *gate, const gate_storage_state_t *state, bool usable)
{
    gate_topology_t *topology = &gate->topology;
    bool differs = false;
    (void)pthread_mutex_lock(&topology->lock);
    if (usable) {
        differs = take_state(topology, state);
    } else if (topology->ready) {
        uint64_t now = vd_monotonic_ms();
        if (topology->lost_ms == 0)
            topology->lost_ms = now;
        differs = now - topology->lost_ms >= grace_ms(gate);
        topology->ready = !differs;
    }
    if (differs)
        changed(gate, topology);
    (void)pthread_mutex_unlock(&topology->lock);
    return differs;
}

bool gate_member_knows_users(const gate_t *gate, const gate_storage_state_t *state, uint64_t now_ms)
{
    return gate_state_role(state) != VDP_ROLE_SECONDARY ||
           gate_lease_holds(gate->settings.users_lease_ms, state->fresh_ms, now_ms) ||
           atomic_load_explicit(&gate->topology.delayed, memory_order_relaxed);
}

void gate_member_drain(gate_t *gate)
{
    gate_topology_t *topology = &gate->topology;
    (void)pthread_mutex_lock(&topology->lock);
    topology->draining = true;
    topology->ready = false;
    changed(gate, topology);
    (void)pthread_mutex_unlock(&topology->lock);
}

void gate_member_done(gate_t *gate)
{
    vd_free(gate->topology.set);
    gate->topology.set = NULL;
    (void)pthread_mutex_destroy(&gate->topology.lock);
}

void gate_member_read(gate_t *gate, vd_arena_t *arena, gate_member_t *ret_member)
{
    gate_topology_t *topology = &gate->topology;
    (void)pthread_mutex_lock(&topology->lock);
    bool ready = topology->ready && !topology->draining;
    *ret_member = (gate_member_t){.ready = ready,
                                  .primary = ready && topology->role == VDP_ROLE_PRIMARY,
                                  .secondary = ready && topology->role == VDP_ROLE_SECONDARY,
                                  .in_set = topology->in_set,
                                  .automatic = atomic_load(&topology->automatic),
                                  .role = topology->role,
                                  .term = topology->term,
                                  .counter = atomic_load(&topology->counter),
                                  .set = VD_BSON_NONE};
    memcpy(ret_member->set_id, topology->set_id, sizeof ret_member->set_id);
    if (arena != NULL && topology->set_len != 0)
        ret_member->set =
            (vd_bson_t){vd_arena_copy(arena, topology->set, topology->set_len), topology->set_len};
    (void)pthread_mutex_unlock(&topology->lock);
}

int gate_member_state(const gate_member_t *member)
{
    if (member->role == VDP_ROLE_REMOVED)
        return GATE_MEMBER_REMOVED;
    if (member->primary)
        return GATE_MEMBER_PRIMARY;
    if (member->secondary)
        return GATE_MEMBER_SECONDARY;
    return member->ready && member->role == VDP_ROLE_STARTING ? GATE_MEMBER_STARTUP
                                                              : GATE_MEMBER_RECOVERING;
}

const char *gate_member_state_name(int state)
{
    switch (state) {
    case GATE_MEMBER_STARTUP:
        return "STARTUP";
    case GATE_MEMBER_PRIMARY:
        return "PRIMARY";
    case GATE_MEMBER_SECONDARY:
        return "SECONDARY";
    case GATE_MEMBER_REMOVED:
        return "REMOVED";
    default:
        return "RECOVERING";
    }
}

bool gate_member_prefers_primary(vd_bson_t body)
{
    vd_value_t preference = vd_bson_get(body, "$readPreference");
    vd_value_t mode = preference.type == VD_BSON_OBJECT
                          ? vd_bson_get(vd_value_document(preference), "mode")
                          : VD_VALUE_MISSING;
    return mode.type != VD_BSON_STRING || vd_slice_is(vd_value_string(mode), "primary");
}

/* Drivers send it again by themselves, to the member that leads then. */
static bool sent_again(const gate_command_t *command, vd_bson_t body)
{
    if ((command->flags & GATE_RETRY_READ) != 0)
        return vd_value_is_missing(vd_bson_get(body, "autocommit"));
    return (command->flags & GATE_RETRY_WRITE) != 0 &&
           !vd_value_is_missing(vd_bson_get(body, "txnNumber")) &&
           vd_value_is_missing(vd_bson_get(body, "autocommit"));
}

int gate_member_admit(const gate_member_t *member, const gate_command_t *command, vd_bson_t body,
                      vd_error_t *err)
{
    bool writes = (command->flags & GATE_WRITES) != 0;
    if (!member->ready && member->automatic && command->where == GATE_RUN_STORAGE &&
        sent_again(command, body))
        return writes
                   ? vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY, "not primary: storage is away")
                   : vd_error_set(err, VD_ERR_NOT_PRIMARY_OR_SECONDARY,
                                  "node is not in primary or recovering state: storage is away");
    /* While storage is away its requests wait for it, whatever it will be. */
    if (command->where != GATE_RUN_WORKER || !member->ready || member->primary)
        return VD_OK;
    if (writes)
        return vd_error_set(err, VD_ERR_NOT_WRITABLE_PRIMARY, "not primary");
    if (!member->secondary)
        return vd_error_set(err, VD_ERR_NOT_PRIMARY_OR_SECONDARY,
                            "node is not in primary or recovering state");
    if (gate_member_prefers_primary(body))
        return vd_error_set(err, VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK,
                            "not primary and secondaryOk=false");
    return VD_OK;
}

void gate_topology_version(gate_t *gate, vd_bb_t *bb)
{
    vd_bb_begin_document(bb, "topologyVersion");
    vd_bb_objectid(bb, "processId", gate->topology.process_id);
    vd_bb_int64(bb, "counter", atomic_load(&gate->topology.counter));
    vd_bb_close(bb);
}
