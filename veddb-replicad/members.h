/* veddb-replicad/members.h — the replica set's configuration: read, checked, changed, written.
 *
 * Duty:    the document of proto/replication.md as a struct and back; what a configuration must
 *          fulfil; whether one may follow another. Pure.
 * Limits:  REPL_MEMBERS_MAX members, 7 of them vote; tags of 512 bytes.
 * Errors:  VD_ERR_INVALID_REPLICA_SET_CONFIG, VD_ERR_NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
 *          VD_ERR_NODE_NOT_FOUND. */
#pragma once
#include "libcommon/bson/build.h"
#include "proto/peer.h"
#include "veddb-replicad/role.h"

#define REPL_VOTERS_MAX   7
#define REPL_TAGS_MAX     512
#define REPL_PRIORITY_MAX 1000

typedef struct {
    uint32_t id; /* 1.. */
    char name[VDP_NODE_NAME_MAX + 1];
    char host[VDP_PEER_ADDRESS_MAX + 1], peer[VDP_PEER_ADDRESS_MAX + 1];
    uint32_t priority;
    bool votes, hidden;
    int64_t delay_secs;
    uint8_t tags[REPL_TAGS_MAX]; /* BSON; tags_len 0 = none */
    uint32_t tags_len;
} repl_member_config_t;

typedef struct {
    char set[VDP_NODE_NAME_MAX + 1];
    int64_t version, term; /* version 0: there is none */
    uint32_t count;
    repl_member_config_t members[REPL_MEMBERS_MAX];
} repl_config_t;

/* Reads and checks. Numbers may be of any type, as a shell sends them; a member without name or
 * peer takes them from `known` (may be NULL), where a member has the same _id or host. */
VD_MUST_CHECK int repl_config_parse(vd_bson_t doc, const repl_config_t *known, repl_config_t *ret,
                                    vd_error_t *err);
VD_MUST_CHECK int repl_config_check(const repl_config_t *config, vd_error_t *err);
/* Into `bb`, which the caller has made; finishes the document. */
VD_MUST_CHECK int repl_config_build(const repl_config_t *config, vd_bb_t *bb, vd_bson_t *ret,
                                    vd_error_t *err);
/* May `next` follow `now`: same set, version + 1, ids keep their node, and without force at most
 * one voter comes or goes, since two majorities might not meet else. */
VD_MUST_CHECK int repl_config_follows(const repl_config_t *now, const repl_config_t *next,
                                      bool force, vd_error_t *err);
/* By node name, host or peer address; NULL: not there. */
const repl_member_config_t *repl_config_find(const repl_config_t *config, vd_slice_t what);
const repl_member_config_t *repl_config_by_id(const repl_config_t *config, uint32_t id);
/* Newer by term, then version. */
bool repl_config_newer(int64_t term, int64_t version, const repl_config_t *than);
/* A member with these options {name, host, priority, votes, hidden, secondaryDelaySecs, tags} is
 * appended under a free id; name, host and peer are as given unless options say otherwise. */
VD_MUST_CHECK int repl_config_add(repl_config_t *config, const char *name, const char *host,
                                  const char *peer, vd_bson_t options, vd_error_t *err);
VD_MUST_CHECK int repl_config_remove(repl_config_t *config, vd_slice_t what, vd_error_t *err);
