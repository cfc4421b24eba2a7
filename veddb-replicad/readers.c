/* veddb-replicad/readers.c — see readers.h. */
#include "veddb-replicad/readers.h"

#include "proto/replication.h"

#include <string.h>

static void remove_at(repl_readers_t *readers, uint32_t i)
{
    readers->count--;
    memmove(&readers->list[i], &readers->list[i + 1],
            (readers->count - i) * sizeof readers->list[0]);
}

static bool is_copy(const repl_readers_t *readers, uint32_t i, vd_slice_t copy)
{
    return vd_slice_equal(copy, vd_slice(readers->list[i].copy, REPL_COPY_BYTES));
}

void repl_readers_note(repl_readers_t *readers, uint32_t member, vd_slice_t copy)
{
    if (copy.len != REPL_COPY_BYTES)
        return;
    for (uint32_t i = 0; i < readers->count; i++)
        if (readers->list[i].member == member && is_copy(readers, i, copy))
            return;
    if (readers->count == REPL_READERS_MAX)
        remove_at(readers, 0);
    readers->list[readers->count].member = member;
    memcpy(readers->list[readers->count++].copy, copy.data, REPL_COPY_BYTES);
}

void repl_readers_forget(repl_readers_t *readers, vd_slice_t copy)
{
    for (uint32_t i = readers->count; i-- > 0;)
        if (is_copy(readers, i, copy))
            remove_at(readers, i);
}

bool repl_readers_take(repl_readers_t *readers, uint32_t member, vd_slice_t kept,
                       uint8_t ret_copy[REPL_COPY_BYTES])
{
    for (uint32_t i = 0; i < readers->count; i++) {
        if (readers->list[i].member != member || is_copy(readers, i, kept))
            continue;
        memcpy(ret_copy, readers->list[i].copy, REPL_COPY_BYTES);
        remove_at(readers, i);
        return true;
    }
    return false;
}

bool repl_readers_done(uint32_t role, uint32_t sync_source, uint32_t self)
{
    if (role == VDP_ROLE_PRIMARY || role == VDP_ROLE_SECONDARY)
        return true;
    return role == VDP_ROLE_RECOVERING && sync_source != 0 && sync_source != self;
}
