/* veddb-rotated/rotation/copies.c — see copies.h. */
#include "veddb-rotated/rotation/copies.h"

#include <stdio.h>

/* A name is what storage lets operators give: nothing that JSON would have to quote. */
static bool name_take(const uint8_t *from, char to[VDP_ROTATION_BACKUP_NAME_BYTES + 1])
{
    memcpy(to, from, VDP_ROTATION_BACKUP_NAME_BYTES);
    to[VDP_ROTATION_BACKUP_NAME_BYTES] = '\0';
    return *to != '\0' && to[strspn(to, VDP_ROTATION_BACKUP_NAME_CHARACTERS)] == '\0';
}

int rot_copies_take(rot_copies_t *copies, vd_slice_t body, vd_error_t *err)
{
    static rot_copies_t fresh; /* too large for a stack */
    uint32_t count = (uint32_t)(body.len / VDP_ROTATION_BACKUP_BYTES);
    if (body.len % VDP_ROTATION_BACKUP_BYTES != 0 || count > VDP_ROTATION_BACKUPS_MAX)
        return vd_error_set(err, VD_ERR_PROTOCOL, "a list of backups of %zu bytes", body.len);
    fresh = (rot_copies_t){.known = true, .count = count};
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *at = body.data + (size_t)i * VDP_ROTATION_BACKUP_BYTES;
        fresh.list[i].oldest_version = vd_get_u32(at);
        if (!name_take(at + 4, fresh.list[i].name))
            return vd_error_set(err, VD_ERR_PROTOCOL, "backup %u has a name that can't be", i);
    }
    *copies = fresh;
    return VD_OK;
}

uint32_t rot_copies_count(const rot_copies_t *copies, uint32_t version)
{
    uint32_t count = 0;
    for (uint32_t i = 0; copies != NULL && i < copies->count; i++)
        count += copies->list[i].oldest_version <= version;
    return version == 0 ? 0 : count;
}

const char *rot_copies_names(const rot_copies_t *copies, uint32_t version, char *buf, size_t size)
{
    size_t len = 0;
    buf[0] = '\0';
    for (uint32_t i = 0; copies != NULL && i < copies->count; i++) {
        const rot_copy_t *copy = &copies->list[i];
        if (copy->oldest_version > version)
            continue;
        bool fits = len + strlen(copy->name) + 8 < size;
        len += (size_t)snprintf(buf + len, size - len, "%s%s", len == 0 ? "" : ", ",
                                fits ? copy->name : "...");
        if (!fits)
            break;
    }
    return buf;
}
