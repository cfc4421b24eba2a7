/* veddb-storaged/rotation/flip.h — other bytes that mean the same, for a record of any table.
 *
 * Duty:    WiredTiger keeps a block whose bytes are what they were; so a rotation changes one byte
 *          that means nothing: the epoch of envelopes and of entries of indexes and of capped
 *          order, a byte of heads, or one behind a document that is there or not. Versions, hashes
 *          and what readers see stay. Pure. */
#pragma once
#include "libcommon/base/buf.h"

/* Appends the bytes; false: of that table none are known. */
bool stor_rotation_flip(const char *table, vd_slice_t key, vd_slice_t value, vd_buf_t *out);
