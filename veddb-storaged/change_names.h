/* veddb-storaged/change_names.h — what a change of the journal is called outside.
 *
 * Duty:    one table: operationType of change streams, atype of the audit log.
 * Threads: any. */
#pragma once
#include "veddb-storaged/journal.h"

typedef struct {
    const char *stream; /* NULL: no event */
    const char *audit;  /* NULL: no record */
} stor_change_names_t;

stor_change_names_t stor_change_names(stor_change_kind_t kind);

/* A change of a document, which both name alike. */
static inline bool stor_change_is_write(stor_change_kind_t kind)
{
    return kind < STOR_CHANGE_CREATE && stor_change_names(kind).audit != NULL;
}
