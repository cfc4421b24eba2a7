/* veddb-storaged/backup/backup.h — backups of this node, made while it serves.
 *
 * Duty:    makes, checks, lists and removes them, one at a time, on a thread of its own; says
 *          which keys those that are kept need; keeps the copy of the keyring beside each as
 *          today's is.
 * Make:    <folder>/<name>.partial gets the engine's files (engine/backup.h), read at
 *          backup.rate, each synced; our notes, the keyring; then the manifest, and the folder
 *          its name. What a crash leaves is a folder with that end, which the next start removes.
 * Keys:    while a rotation counts blocks a backup waits to begin, and one that is being made
 *          holds up the count: so it is known which keys its blocks need (rotation/rotation.h).
 * Owner:   start, halt, stop by main.c: started behind the rotation and before its link, freed
 *          behind the link.
 * Threads: any.
 * Errors:  VD_ERR_BACKUP_IN_PROGRESS, VD_ERR_BAD_VALUE (a name), VD_ERR_EXISTS,
 *          VD_ERR_NOT_FOUND. */
#pragma once
#include "veddb-storaged/backup/shelf.h"
#include "veddb-storaged/storaged.h"

typedef struct stor_backups stor_backups_t;

typedef struct {
    const char *folder;      /* of backups; made when it is not there */
    const char *shown;       /* the same, as people know it */
    const char *data_folder; /* where the shelf stands */
    const char *node;        /* its name */
    uint64_t rate;           /* bytes per second; 0 = without limit */
} stor_backups_options_t;

VD_MUST_CHECK int stor_backups_start(stor_storage_t *storage, const stor_backups_options_t *options,
                                     stor_backups_t **ret_backups, vd_error_t *err);
/* The thread ends; before the link to the key holder does, whose last answers may come still. NULL
 * is fine. */
void stor_backups_halt(stor_backups_t *backups);
void stor_backups_stop(stor_backups_t **backups_p);

typedef enum { STOR_BACKUP_CREATE, STOR_BACKUP_VERIFY, STOR_BACKUP_REMOVE } stor_backup_verb_t;
/* Begins it; the list says how far it is. name: empty for CREATE: by the time. Returns its number.
 */
VD_MUST_CHECK int stor_backups_begin(stor_backups_t *backups, stor_backup_verb_t verb,
                                     vd_slice_t name, uint64_t *ret_number, vd_error_t *err);
/* One JSON object: the folder, the job under way or the last one, all that are kept. */
VD_MUST_CHECK int stor_backups_list(stor_backups_t *backups, vd_buf_t *out);
/* Grows when what is kept changes. NULL is fine: 0. */
uint64_t stor_backups_serial(stor_backups_t *backups);
/* The body of ROTATION_BACKUPS; returns how many. NULL is fine. */
uint32_t stor_backups_needs(stor_backups_t *backups, vd_buf_t *body);
/* The keyring has changed, or may have: its copies are made anew. NULL is fine. */
void stor_backups_keyring_changed(stor_backups_t *backups);

typedef struct {
    uint64_t kept, bytes, made, failed, verified, verify_failed, removed;
    int64_t made_ms; /* wall clock of the newest that was made; 0: none is kept */
    bool running;
} stor_backups_stats_t;
void stor_backups_stats(stor_backups_t *backups, stor_backups_stats_t *ret_stats);
