/* veddb-storaged/engine/crc32c.h — the checksum (Castagnoli) that log records and our format file
 * carry. SSE4.2 where the processor has it. Pure. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* crc is 0, or the result over the bytes before. */
uint32_t stor_crc32c(uint32_t crc, const void *data, size_t len);
