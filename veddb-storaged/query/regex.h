/* veddb-storaged/query/regex.h — MongoDB's regular expressions on PCRE2: JIT, UTF-8, match limits.
 *
 * Owner:   compiled objects are freed by the arena's clean-up hook.
 * Threads: a compiled regex is immutable; match data is per thread. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/base/error.h"

typedef struct stor_regex stor_regex_t;

/* options: letters of "imsxu"; others are BadValue 51108. Pattern of at most
 * VD_REGEX_PATTERN_MAX_BYTES; with a NUL: BadValue. */
VD_MUST_CHECK int stor_regex_compile(vd_arena_t *arena, vd_slice_t pattern, vd_slice_t options,
                                     stor_regex_t **ret_regex, vd_error_t *err);
bool stor_regex_matches(const stor_regex_t *regex, vd_slice_t subject);
/* Capture groups of the first match at or after start: pairs of byte offsets (SIZE_MAX = not set).
 * Returns the number of groups incl. the whole (0 = no match), at most max. */
uint32_t stor_regex_find(const stor_regex_t *regex, vd_slice_t subject, size_t start,
                         size_t *ret_offsets, uint32_t max);
uint32_t stor_regex_group_count(const stor_regex_t *regex); /* without the whole */
vd_slice_t stor_regex_pattern(const stor_regex_t *regex);
vd_slice_t stor_regex_options(const stor_regex_t *regex);
