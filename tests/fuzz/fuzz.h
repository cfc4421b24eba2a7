/* tests/fuzz/fuzz.h — what a fuzz target offers: one call per input, no state kept between calls.
 *
 * Threads: one. The target ends the process (VD_ASSERT) when a property does not hold. */
#pragma once
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
