/* veddb-replicad/members.c — see members.h. */
#include "veddb-replicad/members.h"

#include <stdio.h>

#define INVALID VD_ERR_INVALID_REPLICA_SET_CONFIG

static int read_text(vd_bson_t doc, const char *name, char *out, size_t size, vd_error_t *err)
{
    vd_value_t value = vd_bson_get(doc, name);
    if (vd_value_is_missing(value))
        return VD_OK;
    if (value.type != VD_BSON_STRING || vd_value_string(value).len >= size ||
        (vd_value_string(value).len > 0 &&
         memchr(vd_value_string(value).data, 0, vd_value_string(value).len) != NULL))
        return vd_error_set(err, INVALID, "%s must be a string of at most %zu bytes", name,
                            size - 1);
    (void)snprintf(out, size, "%.*s", VD_SLICE_FMT(vd_value_string(value)));
    return VD_OK;
}

static int read_number(vd_bson_t doc, const char *name, int64_t min, int64_t max, int64_t *ret,
                       vd_error_t *err)
{
    vd_value_t value = vd_bson_get(doc, name);
    int64_t number;
    if (vd_value_is_missing(value))
        return VD_OK;
    if (!vd_value_as_int64(value, &number) || number < min || number > max)
        return vd_error_set(err, INVALID, "%s must be a whole number from %lld to %lld", name,
                            (long long)min, (long long)max);
    *ret = number;
    return VD_OK;
}

static int read_tags(vd_bson_t doc, repl_member_config_t *member, vd_error_t *err)
{
    vd_value_t value = vd_bson_get(doc, "tags");
    if (vd_value_is_missing(value))
        return VD_OK;
    if (value.type != VD_BSON_OBJECT || value.len > sizeof member->tags)
        return vd_error_set(err, INVALID, "tags must be an object of at most %zu bytes",
                            sizeof member->tags);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(value));
    while (vd_bson_iter_next(&iter))
        if (iter.value.type != VD_BSON_STRING)
            return vd_error_set(err, INVALID, "a tag must be a string");
    memcpy(member->tags, value.data, value.len);
    member->tags_len = vd_bson_is_empty(vd_value_document(value)) ? 0 : value.len;
    if (member->tags_len == 0)
        memset(member->tags, 0, sizeof member->tags);
    return VD_OK;
}

/* Fields that the document has; others stay as they are. */
static int read_member(vd_bson_t doc, repl_member_config_t *member, vd_error_t *err)
{
    int64_t priority = member->priority, votes = member->votes, delay = member->delay_secs;
    vd_value_t hidden = vd_bson_get(doc, "hidden");
    int rc = read_text(doc, "name", member->name, sizeof member->name, err);
    if (rc == VD_OK)
        rc = read_text(doc, "host", member->host, sizeof member->host, err);
    if (rc == VD_OK)
        rc = read_text(doc, "peer", member->peer, sizeof member->peer, err);
    if (rc == VD_OK)
        rc = read_number(doc, "priority", 0, REPL_PRIORITY_MAX, &priority, err);
    if (rc == VD_OK)
        rc = read_number(doc, "votes", 0, 1, &votes, err);
    if (rc == VD_OK)
        rc = read_number(doc, "secondaryDelaySecs", 0, 366 * 86400, &delay, err);
    if (rc == VD_OK)
        rc = read_tags(doc, member, err);
    if (rc == VD_OK && vd_value_as_flag(vd_bson_get(doc, "arbiterOnly")))
        rc = vd_error_set(err, INVALID, "arbiters are not offered");
    if (rc == VD_OK && !vd_value_is_missing(hidden) && hidden.type != VD_BSON_BOOL)
        rc = vd_error_set(err, INVALID, "hidden must be true or false");
    member->priority = (uint32_t)priority;
    member->votes = votes != 0;
    member->delay_secs = delay;
    if (rc == VD_OK && hidden.type == VD_BSON_BOOL)
        member->hidden = vd_value_bool(hidden);
    return rc;
}

static int read_listed(vd_value_t value, const repl_config_t *known, repl_member_config_t *member,
                       vd_error_t *err)
{
    int64_t id = 0;
    *member = (repl_member_config_t){.priority = 1, .votes = true};
    if (value.type != VD_BSON_OBJECT)
        return vd_error_set(err, INVALID, "each of members must be an object");
    vd_bson_t doc = vd_value_document(value);
    int rc = read_number(doc, "_id", 1, 255, &id, err);
    if (rc == VD_OK && id == 0)
        rc = vd_error_set(err, INVALID, "each member needs an _id from 1 to 255");
    if (rc == VD_OK)
        rc = read_member(doc, member, err);
    member->id = (uint32_t)id;
    if (rc != VD_OK || known == NULL)
        return rc;
    const repl_member_config_t *old = repl_config_by_id(known, member->id);
    if (old == NULL)
        old = repl_config_find(known, vd_slice_str(member->host));
    if (old != NULL && member->name[0] == '\0')
        memcpy(member->name, old->name, sizeof member->name);
    if (old != NULL && member->peer[0] == '\0')
        memcpy(member->peer, old->peer, sizeof member->peer);
    return VD_OK;
}

int repl_config_parse(vd_bson_t doc, const repl_config_t *known, repl_config_t *ret,
                      vd_error_t *err)
{
    VD_ASSERT(ret != NULL && ret != known);

    memset(ret, 0, sizeof *ret);
    vd_value_t list = vd_bson_get(doc, "members");
    int rc = read_text(doc, "_id", ret->set, sizeof ret->set, err);
    if (rc == VD_OK)
        rc = read_number(doc, "version", 1, INT32_MAX, &ret->version, err);
    if (rc == VD_OK)
        rc = read_number(doc, "term", 0, INT64_MAX, &ret->term, err);
    if (rc == VD_OK && list.type != VD_BSON_ARRAY)
        rc = vd_error_set(err, INVALID, "members must be an array");
    if (rc != VD_OK)
        return rc;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(list));
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (ret->count == REPL_MEMBERS_MAX)
            return vd_error_set(err, INVALID, "at most %d members", REPL_MEMBERS_MAX);
        rc = read_listed(iter.value, known, &ret->members[ret->count++], err);
    }
    return rc == VD_OK ? repl_config_check(ret, err) : rc;
}

static int check_address(const char *what, const char *address, vd_error_t *err)
{
    const char *colon = strrchr(address, ':');
    int port = 0;
    char rest;
    if (colon == NULL || colon == address || sscanf(colon + 1, "%d%c", &port, &rest) != 1 ||
        port < 1 || port > 65535)
        return vd_error_set(err, INVALID, "%s of a member must be host:port, not \"%s\"", what,
                            address);
    return VD_OK;
}

static int check_member(const repl_config_t *config, uint32_t i, vd_error_t *err)
{
    const repl_member_config_t *member = &config->members[i];
    if (member->id == 0 || member->id > 255 || member->name[0] == '\0')
        return vd_error_set(err, INVALID, "member %u needs an _id and the name of its node",
                            member->id);
    int rc = check_address("host", member->host, err);
    if (rc == VD_OK)
        rc = check_address("peer", member->peer, err);
    if (rc == VD_OK && !member->votes && member->priority != 0)
        rc = vd_error_set(err, INVALID, "%s: without a vote its priority must be 0", member->name);
    if (rc == VD_OK && member->hidden && member->priority != 0)
        rc = vd_error_set(err, INVALID, "%s: hidden members need priority 0", member->name);
    if (rc == VD_OK && member->delay_secs != 0 && member->priority != 0)
        rc = vd_error_set(err, INVALID, "%s: delayed members need priority 0", member->name);
    for (uint32_t j = 0; rc == VD_OK && j < i; j++) {
        const repl_member_config_t *other = &config->members[j];
        if (other->id == member->id || strcmp(other->name, member->name) == 0 ||
            strcmp(other->host, member->host) == 0 || strcmp(other->peer, member->peer) == 0)
            rc = vd_error_set(err, INVALID, "members %u and %u share _id, name, host or peer",
                              other->id, member->id);
    }
    return rc;
}

int repl_config_check(const repl_config_t *config, vd_error_t *err)
{
    uint32_t voters = 0, electable = 0;
    if (config->set[0] == '\0' || config->version < 1)
        return vd_error_set(err, INVALID, "_id (the set's name) and version (from 1) are needed");
    if (config->count == 0)
        return vd_error_set(err, INVALID, "a replica set needs a member");
    for (uint32_t i = 0; i < config->count; i++) {
        int rc = check_member(config, i, err);
        if (rc != VD_OK)
            return rc;
        voters += config->members[i].votes;
        electable += config->members[i].priority > 0;
    }
    if (voters > REPL_VOTERS_MAX)
        return vd_error_set(err, INVALID, "at most %d members may vote", REPL_VOTERS_MAX);
    if (electable == 0)
        return vd_error_set(err, INVALID, "one member at least must have a vote and a priority");
    return VD_OK;
}

int repl_config_build(const repl_config_t *config, vd_bb_t *bb, vd_bson_t *ret, vd_error_t *err)
{
    vd_bb_cstr(bb, "_id", config->set);
    vd_bb_int32(bb, "version", (int32_t)config->version);
    vd_bb_int64(bb, "term", config->term);
    vd_bb_begin_array(bb, "members");
    for (uint32_t i = 0; i < config->count; i++) {
        const repl_member_config_t *member = &config->members[i];
        char position[12];
        vd_bb_open_document(bb, vd_array_name(i, position));
        vd_bb_int32(bb, "_id", (int32_t)member->id);
        vd_bb_cstr(bb, "name", member->name);
        vd_bb_cstr(bb, "host", member->host);
        vd_bb_cstr(bb, "peer", member->peer);
        vd_bb_int32(bb, "priority", (int32_t)member->priority);
        vd_bb_int32(bb, "votes", member->votes);
        vd_bb_bool(bb, "hidden", member->hidden);
        vd_bb_int64(bb, "secondaryDelaySecs", member->delay_secs);
        if (member->tags_len != 0) {
            vd_bb_document(bb, "tags", (vd_bson_t){member->tags, member->tags_len});
        } else {
            vd_bb_begin_document(bb, "tags");
            vd_bb_close(bb);
        }
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "settings");
    vd_bb_close(bb);
    return vd_bb_finish(bb, ret, err);
}

int repl_config_follows(const repl_config_t *now, const repl_config_t *next, bool force,
                        vd_error_t *err)
{
    const int code = VD_ERR_NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE;
    uint32_t changed = 0;
    if (strcmp(now->set, next->set) != 0)
        return vd_error_set(err, code, "the set is %s, not %s", now->set, next->set);
    if (next->version != now->version + 1)
        return vd_error_set(err, code, "version %lld must follow version %lld",
                            (long long)next->version, (long long)now->version);
    for (uint32_t i = 0; i < next->count; i++) {
        const repl_member_config_t *member = &next->members[i];
        const repl_member_config_t *same = repl_config_by_id(now, member->id);
        const repl_member_config_t *named = repl_config_find(now, vd_slice_str(member->name));
        if ((same != NULL && strcmp(same->name, member->name) != 0) ||
            (named != NULL && named->id != member->id))
            return vd_error_set(err, code, "_id %u can't become another node's", member->id);
        changed += member->votes != (same != NULL && same->votes);
    }
    for (uint32_t i = 0; i < now->count; i++)
        changed += now->members[i].votes && repl_config_by_id(next, now->members[i].id) == NULL;
    if (changed > 1 && !force)
        return vd_error_set(err, code,
                            "%u votes would change at once; one at a time, so that any two "
                            "majorities meet",
                            changed);
    return VD_OK;
}

const repl_member_config_t *repl_config_find(const repl_config_t *config, vd_slice_t what)
{
    for (uint32_t i = 0; i < config->count; i++) {
        const repl_member_config_t *member = &config->members[i];
        if (vd_slice_is(what, member->name) || vd_slice_is(what, member->host) ||
            vd_slice_is(what, member->peer))
            return member;
    }
    return NULL;
}

const repl_member_config_t *repl_config_by_id(const repl_config_t *config, uint32_t id)
{
    for (uint32_t i = 0; i < config->count; i++)
        if (config->members[i].id == id)
            return &config->members[i];
    return NULL;
}

bool repl_config_newer(int64_t term, int64_t version, const repl_config_t *than)
{
    if (version == 0 || than->version == 0)
        return version != 0;
    return term != than->term ? term > than->term : version > than->version;
}

int repl_config_add(repl_config_t *config, const char *name, const char *host, const char *peer,
                    vd_bson_t options, vd_error_t *err)
{
    if (config->count == REPL_MEMBERS_MAX)
        return vd_error_set(err, INVALID, "at most %d members", REPL_MEMBERS_MAX);
    repl_member_config_t *member = &config->members[config->count];
    *member = (repl_member_config_t){.priority = 1, .votes = true};
    for (member->id = 1; repl_config_by_id(config, member->id) != NULL;)
        member->id++;
    (void)snprintf(member->name, sizeof member->name, "%s", name);
    (void)snprintf(member->host, sizeof member->host, "%s", host);
    (void)snprintf(member->peer, sizeof member->peer, "%s", peer);
    /* Those for which a priority makes no sense need none said. */
    if (vd_value_as_flag(vd_bson_get(options, "hidden")) ||
        vd_value_as_flag(vd_bson_get(options, "secondaryDelaySecs")) ||
        (!vd_value_is_missing(vd_bson_get(options, "votes")) &&
         !vd_value_as_flag(vd_bson_get(options, "votes"))))
        member->priority = 0;
    int rc = read_member(options, member, err);
    if (rc != VD_OK)
        return rc;
    if (strcmp(member->name, name) != 0)
        return vd_error_set(err, INVALID, "the node there is called %s, not %s", name,
                            member->name);
    config->count++;
    return repl_config_check(config, err);
}

int repl_config_remove(repl_config_t *config, vd_slice_t what, vd_error_t *err)
{
    const repl_member_config_t *member = repl_config_find(config, what);
    if (member == NULL)
        return vd_error_set(err, VD_ERR_NODE_NOT_FOUND, "no member %.*s", VD_SLICE_FMT(what));
    size_t at = (size_t)(member - config->members);
    memmove(&config->members[at], &config->members[at + 1],
            (config->count - at - 1) * sizeof config->members[0]);
    config->count--;
    return repl_config_check(config, err);
}
