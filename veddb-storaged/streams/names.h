/* veddb-storaged/streams/names.h — which collections a stream covers, and what they are called, at
 * its place in the journal.
 *
 * The journal names collections by id. What they are called now stands in the catalog's rows; what
 * they were called at an earlier place follows by undoing the schema changes between there and now,
 * read in one snapshot with the rows. From there on the stream's own reading keeps it right.
 * Threads: one at a time. */
#pragma once
#include "libcommon/base/map.h"
#include "veddb-storaged/journal.h"
#include "veddb-storaged/streams/stream.h"

typedef struct {
    uint64_t id;
    vd_slice_t db, name; /* in the same allocation */
    uint8_t uuid[16];
} stor_stream_name_t;

bool stor_stream_covers(const stor_stream_spec_t *spec, vd_slice_t db, vd_slice_t name);
/* As of `after`, in the session's open transaction. */
VD_MUST_CHECK int stor_names_load(const stor_stream_spec_t *spec, stor_request_t *request,
                                  uint64_t after, vd_map_t **ret_names, vd_error_t *err);
void stor_names_free(vd_map_t **names_p);
/* A schema change happened (undo: is taken back). */
VD_MUST_CHECK int stor_names_change(const stor_stream_spec_t *spec, vd_map_t *names,
                                    const stor_change_t *change, bool undo, vd_error_t *err);
