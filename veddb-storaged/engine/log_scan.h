/* veddb-storaged/engine/log_scan.h — our own reading of WiredTiger's log files, before WiredTiger
 * reads them.
 *
 * Duty:    finds log records that fail their checksum and says whether that is damage or a torn
 *          tail; checks that no file of the sequence is missing.
 * Record:  multiple of 128 B, aligned to 128; u32 length, u32 crc32c over all of it with this field
 *          zero, u16 flags (2 = encrypted), 6 more bytes, then u32 length (of head, itself and
 *          block) and the block. A file begins with a header record; zeros follow the last record.
 * Rule:    the flusher writes numbered markers, number n only after flush n-1 has ended. A marker n
 *          behind a bad record, while marker n-1 was not seen before it, proves that the bad record
 *          had been on disk: damage. Otherwise the tail is torn, which is ordinary after a power
 *          loss. A marker 0 is a start: what stands before it was recovered and checkpointed then,
 *          and is needed by nobody.
 * Owner:   guard.c.
 * Threads: one. */
#pragma once
#include "veddb-storaged/engine/guard.h"

#define STOR_LOG_FILE_PREFIX "WiredTigerLog."

/* All of the above. needed: where the turtle's checkpoint begins (that alone does not prove that
 * the log before it was durable: making a table checkpoints the metadata without syncing the log).
 * highest_known: greatest file number that a flush has reached. 0 when not known. */
VD_MUST_CHECK int stor_log_scan(const char *folder, stor_keys_t *keys, stor_log_place_t needed,
                                uint32_t highest_known, stor_log_scan_t *ret_scan, vd_error_t *err);
