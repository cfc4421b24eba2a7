/* veddb-storaged/engine/encryptor.h — WiredTiger's encryptor: every block and log record sealed
 * with stor_keys.
 *
 * Duty:    registers the extension "veddb" when WiredTiger calls stor_encryptor_entry during open
 *          (the symbol is exported; the program links with -rdynamic), and keeps the first error of
 *          an open block, since WiredTiger hands on only a number.
 * Threads: bind and unbind by the one that opens and closes the engine; the rest any. */
#pragma once
#include "veddb-storaged/engine/keys.h"

/* The keys that the extension uses from now on; one engine per process. */
void stor_encryptor_bind(stor_keys_t *keys);
void stor_encryptor_unbind(void);
/* Copies the first error since bind (or since the last take) and forgets it. False when there was
 * none. */
bool stor_encryptor_error_take(vd_error_t *ret_err);
