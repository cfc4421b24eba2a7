/* veddb-storaged/replication/manifest.h — what a snapshot holds: the BSON of SNAPSHOT_OPENED and
 * LOAD_BEGIN.
 *
 * Form:    {config, term: int64, nextId: int64, collections: [{id: int64, db, name, uuid: binary 4,
 *          options, documents: int64, bytes: int64, hash: int64, indexes: [{id: int64, spec,
 *          building}]}]}, ascending by id; indexes lacks when there is none (but the one on _id);
 *          building (index/index_private.h) when it is not ready there. The numbers
 *          are those kept with the writes, exactly as of the snapshot's position: what the copy
 * must come to. Limits:  STOR_MANIFEST_MAX bytes. Pure. */
#pragma once
#include "libcommon/bson/build.h"
#include "veddb-storaged/catalog/takeover.h"

#define STOR_MANIFEST_MAX (32 * 1024 * 1024)

typedef struct {
    stor_adopt_t what;
    stor_counters_row_t kept;
    uint32_t index_count;
    uint64_t *index_ids;
    vd_bson_t *index_specs, *index_building; /* the latter: NONE of one that is ready */
} stor_manifest_collection_t;

typedef struct {
    uint64_t term, next_id;
    vd_bson_t config; /* may be empty */
    uint32_t count;
    stor_manifest_collection_t *collections;
} stor_manifest_t;

VD_MUST_CHECK int stor_manifest_write(const stor_manifest_t *manifest, vd_buf_t *out,
                                      vd_error_t *err);
/* Checks every byte; what it gives lives in the arena. VD_ERR_BAD_VALUE, VD_ERR_INVALID_BSON. */
VD_MUST_CHECK int stor_manifest_read(vd_bson_t bson, vd_arena_t *arena, stor_manifest_t *ret,
                                     vd_error_t *err);
