/* veddb-replicad/votes.h — pure: counts votes and times for role.c; changes nothing.
 *
 * Threads: one. Times in milliseconds. */
#pragma once
#include "veddb-replicad/role.h"

/* Index in members and peers, or -1. */
int repl_votes_index(const repl_role_t *role, uint32_t id);
const repl_role_member_t *repl_votes_self(const repl_role_t *role); /* NULL: not a member */
/* Nobody else has a vote. */
bool repl_votes_alone(const repl_role_t *role);
/* A majority of the votes, ours among them, was heard of within lease_ms. */
bool repl_votes_reachable(const repl_role_t *role);
/* A majority of the votes, ours among them, has agreed to fence_term for us. */
bool repl_votes_fenced(const repl_role_t *role);
/* Too many have agreed to fence_term for another: those that are left are no majority. */
bool repl_votes_split(const repl_role_t *role);
/* Until when nobody else can have been given the majority's answers: the sending of the oldest
 * heartbeat among the newest answers of a majority, plus lease_ms, less margin_ms. */
uint64_t repl_votes_heard_until(const repl_role_t *role);
/* When all who agreed to the fence have not answered an older primary for lease_ms. */
uint64_t repl_votes_fence_until(const repl_role_t *role);
/* Who of them has the newest position, if it is newer than ours; else 0. */
uint32_t repl_votes_ahead(const repl_role_t *role);
/* A member that we hear says that somebody leads, or wants to, in our term or a newer one. */
bool repl_votes_led(const repl_role_t *role);
/* How many of those who may lead and are heard go before us: position, priority, id. */
uint32_t repl_votes_rank(const repl_role_t *role);
/* The best of the others that may lead and are heard; 0 = none. */
uint32_t repl_votes_successor(const repl_role_t *role);
