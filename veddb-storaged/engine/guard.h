/* veddb-storaged/engine/guard.h — what is checked before WiredTiger may touch the folder.
 *
 * Duty:    WiredTiger 3.2.1 opens damaged folders silently: it drops the log behind a bad record,
 *          and makes a new empty database when its turtle is gone. So before it is called: one
 *          process per folder (lock file); the folder is what the caller says (new or not); our
 *          format file is there, authentic and not newer; turtle, metadata and log sequence are
 *          all there; no bad log record stands where the log had been flushed. A refusal names
 *          the file, and the offset where there is one.
 * States:  a folder is empty, a backup that was put in place (VedDB.restored stands: until its
 *          first start has ended), half-made (VedDB.bootstrap stands: the bootstrap did not end,
 *          nothing was ever stored; made anew), or a database.
 * Owner:   the engine.
 * Threads: one. */
#pragma once
#include "libcommon/base/buf.h"
#include "veddb-storaged/engine/keys.h"

typedef struct stor_guard stor_guard_t;

#define STOR_FORMAT_VERSION 1

/* Locks the folder and checks all of the above. bootstrap: the folder must hold nothing of a
 * database. keys opens the format file and the log's markers. */
VD_MUST_CHECK int stor_guard_enter(const char *folder, bool bootstrap, stor_keys_t *keys,
                                   stor_guard_t **ret_guard, vd_error_t *err);
/* After a bootstrap: writes the format file, takes the mark of a half-made folder away. After
 * another open: seals the format file anew when its key is no longer the active one. */
VD_MUST_CHECK int stor_guard_opened(stor_guard_t *guard, vd_error_t *err);
/* The keys that blocks may be sealed with are noted in VedDB.keys, so that a keyring which lacks
 * one (older than the data, or of another node) is refused by version before anything is read.
 * note: durably, before the key becomes active; forget: no block needs it any more. Any thread. */
VD_MUST_CHECK int stor_guard_key_note(stor_guard_t *guard, const uint8_t id[STOR_KEY_ID_BYTES],
                                      uint32_t version, vd_error_t *err);
VD_MUST_CHECK int stor_guard_key_forget(stor_guard_t *guard, const uint8_t id[STOR_KEY_ID_BYTES],
                                        vd_error_t *err);
/* The greatest version that is noted in a folder; 0: none, or not known. */
uint32_t stor_guard_keys_highest(const char *folder);
/* Seals the format file with the active key, if it is not. One thread. */
VD_MUST_CHECK int stor_guard_reseal(stor_guard_t *guard, vd_error_t *err);
/* The key that the format file is sealed with. */
void stor_guard_sealed_with(const stor_guard_t *guard, uint8_t ret_id[STOR_KEY_ID_BYTES]);
/* ---- backups ---- */
/* What a backup has of ours: VedDB.keys without those up to `proven` that are not active, and
 * VedDB.log for a log that ends with that file. ret_versions: of the keys; STOR_KEYS_MAX. */
VD_MUST_CHECK int stor_guard_keys_copy(stor_guard_t *guard, uint32_t proven, vd_buf_t *out,
                                       uint32_t *ret_versions, uint32_t *ret_count,
                                       vd_error_t *err);
VD_MUST_CHECK int stor_guard_log_copy(uint32_t last_file, vd_buf_t *out);
/* The folder is a backup that was put in place, and this is its first start. */
bool stor_guard_is_restored(const stor_guard_t *guard);
/* After WiredTiger has closed in order: notes what the turtle is, for the next open. */
VD_MUST_CHECK int stor_guard_closed(stor_guard_t *guard, vd_error_t *err);
void stor_guard_leave(stor_guard_t **guard_p);
/* A database, in full or in part (a half-made one does not count). */
bool stor_guard_exists(const char *folder);

typedef struct {
    uint32_t file; /* 0 = not known */
    uint64_t offset;
} stor_log_place_t;

/* What the scan of the log found. */
typedef struct {
    uint64_t files, records, bytes, markers;
    bool torn; /* a bad record above the last flushed mark: it and what follows is cut off */
    stor_log_place_t torn_at;
} stor_log_scan_t;
/* After each flush, on the flusher's thread: notes durably when the log has gone on to a new file
 * (one look-up otherwise). */
VD_MUST_CHECK int stor_guard_log_flushed(stor_guard_t *guard, vd_error_t *err);
