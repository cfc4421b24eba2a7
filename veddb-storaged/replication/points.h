/* veddb-storaged/replication/points.h — who counts, and up to where enough of them are.
 *
 * Duty:    the members of the configuration with the position that each has flushed; from these the
 *          majority point, the point of w: N and of the named modes (settings.getLastErrorModes).
 *          Pure: no clock, no lock, no engine.
 * Rule:    a member's position counts only when its newest entry was written in the present term:
 *          then its journal has everything of ours up to there. A position of an older term may be
 *          of another history, however great its number. So a term's first majority point is never
 *          below the term's first entry.
 * Limits:  STOR_POINT_MEMBERS_MAX members, STOR_POINT_MODES_MAX modes; a configuration with more is
 *          cut there (replicad refuses to make one).
 * Owner:   embedded in positions.c; init/done. */
#pragma once
#include "libcommon/bson/view.h"
#include "proto/replication.h"

#define STOR_POINT_MEMBERS_MAX 50
#define STOR_POINT_MODES_MAX   16
#define STOR_POINT_MODE_NAME   64

typedef struct {
    uint32_t id;
    bool votes, self, up;
    uint64_t received, flushed, applied;
    vd_bson_t tags; /* borrows points->config */
} stor_point_member_t;

typedef struct {
    char name[STOR_POINT_MODE_NAME]; /* "" = free */
    vd_bson_t constraints;           /* {tag: how many different values}; borrows points->config */
} stor_point_mode_t;

typedef struct {
    vd_bson_t config; /* own copy */
    uint32_t member_count;
    stor_point_member_t members[STOR_POINT_MEMBERS_MAX];
    stor_point_mode_t modes[STOR_POINT_MODES_MAX]; /* one keeps its place while it is configured */
    uint64_t first;                                /* first entry of the present term */
} stor_points_t;

void stor_points_init(stor_points_t *points);
void stor_points_done(stor_points_t *points);
/* Members that stay keep their positions. Without a configuration this node is the set. */
void stor_points_configure(stor_points_t *points, vd_bson_t config, const char *self);
/* A new term: what was flushed before counts again when it is reported again. */
void stor_points_term(stor_points_t *points, uint64_t first);
/* Unknown members and our own record are stepped over. */
void stor_points_note(stor_points_t *points, const vdp_position_t *position);

uint32_t stor_points_voters(const stor_points_t *points);
uint32_t stor_points_majority_count(const stor_points_t *points);
/* Greatest timestamp that enough members have on disk, 0 = none in this term. own: our own durable
 * point. */
uint64_t stor_points_majority(const stor_points_t *points, uint64_t own);
uint64_t stor_points_count(const stor_points_t *points, uint32_t n, uint64_t own);
uint64_t stor_points_mode(const stor_points_t *points, uint32_t mode, uint64_t own);
/* Which members have something that is not a position (an index build): member i of ours. */
typedef struct {
    bool all_voters, majority; /* of those that vote */
    uint32_t count;            /* of all */
} stor_points_have_t;
stor_points_have_t stor_points_have(const stor_points_t *points,
                                    const bool have[STOR_POINT_MEMBERS_MAX]);
bool stor_points_mode_have(const stor_points_t *points, uint32_t mode,
                           const bool have[STOR_POINT_MEMBERS_MAX]);
/* Whether all members together could ever do it. */
bool stor_points_count_possible(const stor_points_t *points, int64_t n);
bool stor_points_mode_possible(const stor_points_t *points, uint32_t mode);
/* False: no such mode. */
bool stor_points_mode_find(const stor_points_t *points, vd_slice_t name, uint32_t *ret_mode);
