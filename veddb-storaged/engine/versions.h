/* veddb-storaged/engine/versions.h — storage's hand on the table of versions that the gateway reads
 * (proto/versions.md).
 *
 * Duty:    makes the file, or takes over what an earlier start left in it; marks documents before a
 *          change can be seen and again after it. The engine does that for every table of documents
 *          ("c-..."), at its one place of writes, so that nobody can forget it: inserts, updates,
 *          deletes, TTL, what is applied or loaded or rolled back.
 * Owner:   storaged.c opens it before the engine and closes it behind. NULL: there is none (unit
 *          tests; no file could be made), and every function takes it.
 * Threads: any, but open and close. */
#pragma once
#include "libcommon/base/error.h"
#include "libcommon/base/slice.h"

/* Slots that one transaction marks; with more changes it marks everything. */
#define STOR_VERSIONS_MARKS_MAX 4096

typedef struct stor_versions stor_versions_t;

/* What a reader saw before it read. */
typedef struct {
    uint64_t epoch, version;
    uint32_t slot; /* its number, and one; 0: nothing */
} stor_version_seen_t;

/* Everything is pending afterwards: until stor_versions_serve. */
VD_MUST_CHECK int stor_versions_open(const char *path, const uint8_t boot_id[16],
                                     stor_versions_t **ret_versions, vd_error_t *err);
/* Everything stays pending. */
void stor_versions_close(stor_versions_t **versions_p);
/* Whether what is read here may be kept: a primary, or a node alone. */
void stor_versions_serve(stor_versions_t *versions, bool on);
/* Around what changes more than documents. */
void stor_versions_all_begin(stor_versions_t *versions);
void stor_versions_all_end(stor_versions_t *versions);
/* Users or roles have changed; before it is acknowledged. */
void stor_versions_auth_epoch(stor_versions_t *versions, uint64_t epoch);
/* Before a reader looks up what it reads; 0: nothing that it finds may be kept. */
uint64_t stor_versions_epoch(const stor_versions_t *versions);
/* Before its snapshot. */
void stor_versions_see(const stor_versions_t *versions, const char *table, vd_slice_t key,
                       stor_version_seen_t *seen);

/* ---- for the engine ---- */
bool stor_versions_has(const char *table);
uint32_t stor_versions_slot(const char *table, vd_slice_t key);
void stor_versions_begin(stor_versions_t *versions, uint32_t slot);
void stor_versions_end(stor_versions_t *versions, uint32_t slot);
