/* veddb-rotated/rotation/copies.h — the backups that are kept, as storage has told them, and which
 * keys they need. Pure.
 *
 * Duty:    what stands between a proven rotation and the destruction of the old keys.
 * Limits:  VDP_ROTATION_BACKUPS_MAX.
 * Threads: one. */
#pragma once
#include "proto/rotation.h"

typedef struct {
    char name[VDP_ROTATION_BACKUP_NAME_BYTES + 1];
    uint32_t oldest_version; /* of the keys that it needs */
} rot_copy_t;

typedef struct {
    bool known; /* storage, as it is attached now, has said it */
    uint32_t count;
    rot_copy_t list[VDP_ROTATION_BACKUPS_MAX];
} rot_copies_t;

/* A message's body. VD_ERR_PROTOCOL: *copies is as it was. */
VD_MUST_CHECK int rot_copies_take(rot_copies_t *copies, vd_slice_t body, vd_error_t *err);
/* How many need a key up to that version; 0 for version 0. NULL is fine. */
uint32_t rot_copies_count(const rot_copies_t *copies, uint32_t version);
/* Their names with commas, as many as fit. Returns buf. */
const char *rot_copies_names(const rot_copies_t *copies, uint32_t version, char *buf, size_t size);
