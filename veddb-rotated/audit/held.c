/* veddb-rotated/audit/held.c — see held.h. */
#include "veddb-rotated/audit/held.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static rot_held_head_t *entry_of(rot_held_t *held, vd_slice_t node)
{
    for (uint32_t i = 0; i < held->count; i++)
        if (vd_slice_is(node, held->heads[i].node))
            return &held->heads[i];
    if (held->count == ROT_HELD_MAX)
        return NULL;
    rot_held_head_t *entry = &held->heads[held->count++];
    *entry = (rot_held_head_t){0};
    (void)snprintf(entry->node, sizeof entry->node, "%.*s", VD_SLICE_FMT(node));
    return entry;
}

/* What is to be said of its signature. A log that was put back makes the keys of later epochs anew:
 * what the earlier ones have signed is not to be told from a node's lie, and no less an alarm. */
static const char *signature_note(const char *folder, const uint8_t *bytes, const rot_head_t *head)
{
    rot_publics_t publics;
    const char *note = " of a key that is not in keys";
    if (rot_publics_load(folder, true, false, &publics, NULL) != VD_OK)
        return ""; /* nothing to hold against it */
    if (head->epoch < publics.count)
        note = rot_signed(bytes, ROT_HEAD_BYTES, publics.entries[head->epoch].key)
                   ? ""
                   : " of another key for its epoch";
    rot_publics_done(&publics);
    return note;
}

rot_held_verdict_t rot_held_take(rot_held_t *held, const char *folder, const rot_log_t *log,
                                 vd_slice_t node, vd_slice_t bytes, bool frozen,
                                 char why[ROT_HELD_WHY_MAX])
{
    const rot_point_t *sealed = rot_log_sealed(log);
    rot_head_t head;
    rot_hash_t hash;
    why[0] = '\0';
    if (bytes.len == 0)
        return ROT_HELD_GOOD; /* it has seen none before */
    if (bytes.len != ROT_HEAD_BYTES || !rot_head_unpack(bytes.data, &head) ||
        memcmp(head.log_id, sealed->head.log_id, sizeof head.log_id) != 0) {
        (void)snprintf(why, ROT_HELD_WHY_MAX, "%.*s holds what is no head of this log",
                       VD_SLICE_FMT(node));
        return ROT_HELD_IGNORED;
    }
    rot_hash(&hash, bytes, VD_SLICE_NULL);
    bool above = head.number > sealed->head.number;
    const rot_hash_t *own = above ? NULL : rot_log_head_hash(log, head.number);
    bool differs = own != NULL && !rot_hash_equal(&hash, own);
    rot_held_head_t *entry = entry_of(held, node);
    bool told = entry != NULL && entry->number != 0 && entry->frozen;
    bool alarm = above || differs || frozen;
    if (entry != NULL && !told) {
        held->serial += memcmp(entry->head, bytes.data, ROT_HEAD_BYTES) != 0 || alarm;
        entry->number = head.number;
        entry->frozen = alarm; /* from now on it is evidence */
        memcpy(entry->head, bytes.data, ROT_HEAD_BYTES);
    }
    if (!alarm)
        return ROT_HELD_GOOD;
    if (told)
        return ROT_HELD_KNOWN;
    (void)snprintf(why, ROT_HELD_WHY_MAX, "%.*s holds head %" PRIu64 "%s, this log %s %" PRIu64,
                   VD_SLICE_FMT(node), head.number, signature_note(folder, bytes.data, &head),
                   above     ? "ends at head"
                   : differs ? "has another one of that number, and is at head"
                             : "was put back before, and is at head",
                   sealed->head.number);
    if (!held->alarm)
        (void)snprintf(held->why, sizeof held->why, "%s", why);
    held->alarm = true;
    return ROT_HELD_ALARM;
}

vd_slice_t rot_held_checked(const rot_held_t *held,
                            uint8_t room[ROT_HELD_MAX * VDP_AUDIT_CHECKED_BYTES])
{
    size_t len = 0;
    rot_hash_t hash;
    for (uint32_t i = 0; i < held->count; i++) {
        const rot_held_head_t *entry = &held->heads[i];
        if (entry->number == 0 || entry->frozen)
            continue;
        rot_hash(&hash, vd_slice(entry->head, ROT_HEAD_BYTES), VD_SLICE_NULL);
        memcpy(room + len, &hash, VDP_AUDIT_CHECKED_BYTES);
        len += VDP_AUDIT_CHECKED_BYTES;
    }
    return vd_slice(room, len);
}
