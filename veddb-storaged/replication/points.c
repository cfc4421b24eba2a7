/* veddb-storaged/replication/points.c — see points.h. */
#include "veddb-storaged/replication/points.h"

#include "libcommon/base/mem.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/engine/sequencer.h"

void stor_points_init(stor_points_t *points)
{
    *points = (stor_points_t){0};
    points->member_count = 1;
    points->members[0] = (stor_point_member_t){.votes = true, .self = true, .up = true};
}

void stor_points_done(stor_points_t *points)
{
    vd_free((void *)(uintptr_t)points->config.data);
    points->config = VD_BSON_NONE;
}

/* ---- configuration ---- */

static int64_t number(vd_bson_t doc, const char *name, int64_t otherwise)
{
    int64_t n;
    return vd_value_as_int64(vd_bson_get(doc, name), &n) ? n : otherwise;
}

static vd_bson_t document(vd_bson_t doc, const char *name)
{
    vd_value_t v = vd_bson_get(doc, name);
    return v.type == VD_BSON_OBJECT || v.type == VD_BSON_ARRAY ? vd_value_document(v)
                                                               : VD_BSON_NONE;
}

static const stor_point_member_t *member_find(const stor_point_member_t *members, uint32_t count,
                                              uint32_t id)
{
    for (uint32_t i = 0; i < count; i++)
        if (members[i].id == id)
            return &members[i];
    return NULL;
}

static void members_read(stor_points_t *points, const char *self)
{
    stor_point_member_t old[STOR_POINT_MEMBERS_MAX];
    uint32_t old_count = points->member_count;
    vd_bson_iter_t iter;
    memcpy(old, points->members, sizeof old);
    points->member_count = 0;
    vd_bson_iter_init(&iter, document(points->config, "members"));
    while (vd_bson_iter_next(&iter) && points->member_count < STOR_POINT_MEMBERS_MAX) {
        if (iter.value.type != VD_BSON_OBJECT)
            continue;
        vd_bson_t row = vd_value_document(iter.value);
        vd_value_t name = vd_bson_get(row, "name");
        stor_point_member_t member = {
            .id = (uint32_t)number(row, "_id", 0),
            .votes = number(row, "votes", 1) > 0,
            .self = name.type == VD_BSON_STRING && vd_slice_is(vd_value_string(name), self),
            .tags = document(row, "tags"),
        };
        const stor_point_member_t *before = member_find(old, old_count, member.id);
        if (before != NULL && !before->self) {
            member.up = before->up;
            member.received = before->received;
            member.flushed = before->flushed;
            member.applied = before->applied;
        }
        member.up |= member.self;
        points->members[points->member_count++] = member;
    }
}

static void modes_read(stor_points_t *points)
{
    vd_bson_t modes = document(document(points->config, "settings"), "getLastErrorModes");
    vd_bson_iter_t iter;
    for (uint32_t i = 0; i < STOR_POINT_MODES_MAX; i++) {
        stor_point_mode_t *mode = &points->modes[i];
        mode->constraints = document(modes, mode->name);
        if (mode->constraints.len == 0)
            mode->name[0] = 0;
    }
    vd_bson_iter_init(&iter, modes);
    while (vd_bson_iter_next(&iter)) {
        uint32_t at;
        if (iter.value.type != VD_BSON_OBJECT || iter.name.len == 0 ||
            iter.name.len >= STOR_POINT_MODE_NAME ||
            stor_points_mode_find(points, iter.name, &at) ||
            !stor_points_mode_find(points, VD_SLICE_LIT(""), &at))
            continue;
        memcpy(points->modes[at].name, iter.name.data, iter.name.len);
        points->modes[at].name[iter.name.len] = 0;
        points->modes[at].constraints = vd_value_document(iter.value);
    }
}

void stor_points_configure(stor_points_t *points, vd_bson_t config, const char *self)
{
    uint8_t *copy = NULL;
    if (config.len > 0) {
        copy = vd_xalloc(config.len);
        memcpy(copy, config.data, config.len);
    }
    vd_bson_t before = points->config;
    points->config = (vd_bson_t){copy, config.len};
    if (config.len > 0) {
        members_read(points, self);
    } else {
        points->member_count = 1;
        points->members[0] = (stor_point_member_t){.votes = true, .self = true, .up = true};
    }
    modes_read(points);
    vd_free((void *)(uintptr_t)before.data);
}

void stor_points_term(stor_points_t *points, uint64_t first)
{
    points->first = first;
}

void stor_points_note(stor_points_t *points, const vdp_position_t *position)
{
    for (uint32_t i = 0; i < points->member_count; i++) {
        stor_point_member_t *member = &points->members[i];
        if (member->id != position->member || member->self)
            continue;
        member->up = position->up;
        member->received = position->received;
        member->flushed = position->flushed;
        member->applied = position->applied;
    }
}

/* ---- arithmetic ---- */

static uint64_t counted(const stor_points_t *points, const stor_point_member_t *member,
                        uint64_t own)
{
    uint64_t at = member->self ? own : member->flushed;
    if (at < points->first)
        return 0;
    bool present =
        points->first == 0 || stor_timestamp_term(at) == stor_timestamp_term(points->first);
    /* Our own durable point is sampled, and what we have is our own history in any case. */
    return member->self || present ? at : 0;
}

/* The n-th greatest, n from 1; 0 when there are fewer. Reorders. */
static uint64_t nth_greatest(uint64_t *at, uint32_t count, int64_t n)
{
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t k = i; k > 0 && at[k] > at[k - 1]; k--) {
            uint64_t swap = at[k];
            at[k] = at[k - 1];
            at[k - 1] = swap;
        }
    return n >= 1 && n <= (int64_t)count ? at[n - 1] : 0;
}

uint32_t stor_points_voters(const stor_points_t *points)
{
    uint32_t voters = 0;
    for (uint32_t i = 0; i < points->member_count; i++)
        voters += points->members[i].votes;
    return voters;
}

uint32_t stor_points_majority_count(const stor_points_t *points)
{
    return stor_points_voters(points) / 2 + 1;
}

uint64_t stor_points_majority(const stor_points_t *points, uint64_t own)
{
    uint64_t at[STOR_POINT_MEMBERS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < points->member_count; i++)
        if (points->members[i].votes)
            at[count++] = counted(points, &points->members[i], own);
    return nth_greatest(at, count, stor_points_majority_count(points));
}

uint64_t stor_points_count(const stor_points_t *points, uint32_t n, uint64_t own)
{
    uint64_t at[STOR_POINT_MEMBERS_MAX];
    for (uint32_t i = 0; i < points->member_count; i++)
        at[i] = counted(points, &points->members[i], own);
    return nth_greatest(at, points->member_count, n);
}

/* For each different value of one tag, how far the best of its members is. */
static uint32_t tag_points(const stor_points_t *points, vd_slice_t tag, uint64_t own,
                           uint64_t at[STOR_POINT_MEMBERS_MAX])
{
    vd_value_t values[STOR_POINT_MEMBERS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < points->member_count; i++) {
        vd_value_t value = vd_bson_get_slice(points->members[i].tags, tag);
        uint64_t mine = counted(points, &points->members[i], own);
        uint32_t k = 0;
        if (value.type == VD_BSON_MISSING)
            continue;
        while (k < count && !vd_value_equal(values[k], value))
            k++;
        if (k == count) {
            values[count] = value;
            at[count++] = mine;
        } else if (mine > at[k]) {
            at[k] = mine;
        }
    }
    return count;
}

uint64_t stor_points_mode(const stor_points_t *points, uint32_t mode, uint64_t own)
{
    uint64_t point = UINT64_MAX, at[STOR_POINT_MEMBERS_MAX];
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, points->modes[mode].constraints);
    while (vd_bson_iter_next(&iter)) {
        int64_t n = 0;
        uint32_t count = tag_points(points, iter.name, own, at);
        uint64_t reached = vd_value_as_int64(iter.value, &n) ? nth_greatest(at, count, n) : 0;
        point = reached < point ? reached : point;
    }
    return point == UINT64_MAX ? 0 : point;
}

stor_points_have_t stor_points_have(const stor_points_t *points,
                                    const bool have[STOR_POINT_MEMBERS_MAX])
{
    uint32_t voters = 0;
    stor_points_have_t ret = {.count = 0};
    for (uint32_t i = 0; i < points->member_count; i++) {
        ret.count += have[i];
        voters += have[i] && points->members[i].votes;
    }
    ret.all_voters = voters >= stor_points_voters(points);
    ret.majority = voters >= stor_points_majority_count(points);
    return ret;
}

bool stor_points_mode_have(const stor_points_t *points, uint32_t mode,
                           const bool have[STOR_POINT_MEMBERS_MAX])
{
    stor_points_t at = *points; /* borrows what the original owns */
    at.first = 0;
    for (uint32_t i = 0; i < at.member_count; i++) {
        at.members[i].self = false;
        at.members[i].flushed = have[i];
    }
    return stor_points_mode(&at, mode, 0) > 0;
}

bool stor_points_count_possible(const stor_points_t *points, int64_t n)
{
    return n <= (int64_t)points->member_count;
}

bool stor_points_mode_possible(const stor_points_t *points, uint32_t mode)
{
    uint64_t at[STOR_POINT_MEMBERS_MAX];
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, points->modes[mode].constraints);
    bool any = false;
    while (vd_bson_iter_next(&iter)) {
        int64_t n = 0;
        any = true;
        if (!vd_value_as_int64(iter.value, &n) || n < 1 ||
            n > (int64_t)tag_points(points, iter.name, 0, at))
            return false;
    }
    return any;
}

bool stor_points_mode_find(const stor_points_t *points, vd_slice_t name, uint32_t *ret_mode)
{
    for (uint32_t i = 0; i < STOR_POINT_MODES_MAX; i++)
        if (vd_slice_is(name, points->modes[i].name)) {
            *ret_mode = i;
            return true;
        }
    return false;
}
