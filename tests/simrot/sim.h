/* tests/simrot/sim.h — a key holder and its storage in one thread with virtual time; see README.md.
 *
 * Threads: one. Units: milliseconds. */
#pragma once
#include "libcommon/base/rand.h"
#include "veddb-rotated/rotation/machine.h"

#define SIM_KEYS_MAX     40
#define SIM_MESSAGES_MAX 64
#define SIM_STEP_MS      1000
#define SIM_COPIES_MAX   8

typedef enum { SIM_NO_KEY, SIM_ACTIVE, SIM_DECRYPT_ONLY, SIM_RETIRING, SIM_DESTROYED } sim_key_t;

typedef enum { SIM_ORDER, SIM_REPORT, SIM_ATTACH } sim_kind_t;

typedef struct {
    sim_kind_t kind;
    uint64_t at_ms, link; /* link: of which it is; those of an older one are lost */
    rot_order_t order;
    rot_event_t event; /* to the key holder */
    rot_left_t left[SIM_KEYS_MAX];
} sim_message_t;

typedef struct {
    uint64_t seed, now_ms, link, boots, steps;
    vd_rand_t rand;
    bool trace, healed, failed;
    char failure[256];
    double loss, save_fails, storage_fails, early_done, crash;
    bool schedule;
    sim_message_t messages[SIM_MESSAGES_MAX];
    uint32_t message_count;
    /* the key holder: what is durable */
    sim_key_t keys[SIM_KEYS_MAX]; /* by version, from 1 on */
    uint32_t key_count;
    int64_t made_ms;
    rot_kept_t kept;
    uint64_t audit_needs[SIM_KEYS_MAX]; /* key files under that key */
    /* the key holder: what a crash loses */
    bool up, attached;
    uint64_t restart_ms;
    rot_machine_t machine;
    uint32_t audit_target; /* key files go under it; 0: nothing to do */
    /* storage */
    bool storage_up;
    uint64_t storage_restart_ms;
    uint64_t disk[SIM_KEYS_MAX], memory[SIM_KEYS_MAX]; /* blocks by version */
    bool has_key[SIM_KEYS_MAX];
    uint32_t active;
    rot_order_t order; /* in force; rotation and step 0: none */
    uint64_t work;     /* ticks left of a verify */
    uint64_t rewritten;
    uint8_t boot_id[16];
    uint64_t knows;       /* newest rotation that it has heard of; durable */
    bool ordered;         /* on this link */
    uint32_t proven_upto; /* no block of a key up to here that isn't active; of this start */
    /* Backups that are kept: the oldest key that each needs; 0: none. Durable. */
    uint32_t copies[SIM_COPIES_MAX];
    bool copies_lost[SIM_COPIES_MAX]; /* their key was destroyed, and an operator said so */
    uint64_t copies_told_ms;          /* the key holder knows of them from then on */
    bool force_said;                  /* by the operator's event under way */
    /* checks */
    uint64_t begun, ended, completed, cancelled, checks, destroyed, crashes, newest_number,
        copies_made, waits, forced;
} sim_t;

uint64_t sim_below(sim_t *sim, uint64_t bound);
bool sim_chance(sim_t *sim, double probability);
__attribute__((format(printf, 2, 3))) void sim_trace(sim_t *sim, const char *format, ...);
__attribute__((format(printf, 2, 3))) void sim_fail(sim_t *sim, const char *format, ...);

/* ---- world.c ---- */
uint32_t sim_active(const sim_t *sim);
/* An event at the key holder; false: it isn't up, or has crashed in it, or the save failed. */
bool sim_event(sim_t *sim, rot_event_t *event);
void sim_holder_start(sim_t *sim);
void sim_holder_crash(sim_t *sim);
void sim_storage_start(sim_t *sim);
void sim_storage_crash(sim_t *sim);
void sim_link_break(sim_t *sim);
void sim_copy_make(sim_t *sim);
uint32_t sim_copies_count(const sim_t *sim, uint32_t version);
/* What is due of the network; one tick of storage, audit log and key holder. */
void sim_deliver(sim_t *sim);
void sim_tick(sim_t *sim);

/* ---- check.c ---- */
void sim_check_save(sim_t *sim, const rot_action_t *save, const rot_kept_t *next);
void sim_check_effect(sim_t *sim);
void sim_check_step(sim_t *sim);
void sim_check_settled(sim_t *sim);
