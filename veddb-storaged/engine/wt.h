/* veddb-storaged/engine/wt.h — WiredTiger's results as ours.
 *
 * Duty:    one mapping of WiredTiger's return codes; the last message that WiredTiger gave on this
 *          thread (its codes alone say little). */
#pragma once
#include "libcommon/base/error.h"

#include <wiredtiger.h>

/* Holds the timestamp ceiling; not among the tables that stor_engine_tables() shows. */
#define STOR_OWN_TABLE     "veddb-engine"
#define STOR_OWN_TABLE_URI "file:" STOR_OWN_TABLE ".wt"

/* Found by the dynamic linker, as Debian ships it. */
#define STOR_SNAPPY_LIBRARY "libwiredtiger_snappy.so"

/* Notes an error for a WiredTiger result other than 0, with "what" as prefix. Returns the code. */
int stor_wt_error(int ret, vd_error_t *err, const char *what);
/* The handler's side: remembers the message for this thread. */
void stor_wt_message_note(const char *message);
/* The last message on this thread, "" when none; cleared by stor_wt_message_clear. */
const char *stor_wt_message(void);
void stor_wt_message_clear(void);
