/* veddb-storaged/local/names.h — what the collections are called of which the journal's entries
 * know only the id.
 *
 * One that exists: its present name. One that was dropped: what it was called then, from the
 * entries that dropped it, which are looked for once, from the reader's place to the end. A name
 * that nothing tells any more is empty.
 * Threads: one. Limits: NAMES_MAX collections; those above have no name. */
#pragma once
#include "veddb-storaged/journal.h"

typedef struct {
    vd_slice_t ns; /* "db.c"; in the same allocation */
    bool has_uuid, secret;
    uint8_t uuid[16];
} stor_local_name_t;

typedef struct stor_local_names stor_local_names_t;

stor_local_names_t *stor_local_names_create(void);
void stor_local_names_destroy(stor_local_names_t **names_p);
/* Never NULL; valid until the next call. `after`: the reader is at this timestamp. Needs an open
 * transaction in the request's session; readers of the journal must begin anew afterwards when
 * *ret_searched. */
VD_MUST_CHECK int stor_local_name_of(stor_local_names_t *names, stor_request_t *request,
                                     uint64_t collection_id, uint64_t after, bool *ret_searched,
                                     const stor_local_name_t **ret_name, vd_error_t *err);
/* The reader came by this change. */
void stor_local_names_note(stor_local_names_t *names, const stor_change_t *change);
