/* tests/unit/query/test_regex.c — regular expressions: options, refusals, groups, hostile patterns.
 */
#include "veddb-storaged/query/regex.h"

#include "libcommon/base/limits.h"

#include <criterion/criterion.h>
#include <pthread.h>

Test(regex, matches)
{
    static const struct {
        const char *pattern, *options, *subject;
        bool expected;
    } cases[] = {
        {"", "", "", true},
        {"", "", "abc", true},
        {"^a.c$", "", "abc", true},
        {"^a.c$", "", "abcd", false},
        {"ABC", "i", "xabcx", true},
        {"ABC", "ii", "xabcx", true},
        {"a.c", "", "a\nc", false},
        {"a.c", "s", "a\nc", true},
        {"^c", "", "a\nc", false},
        {"^c", "m", "a\nc", true},
        {"a b # c", "x", "ab", true},
        {"a b", "", "ab", false},
        {"^.$", "u", "\xc3\xbc", true},
        {"\xc3\xbc", "i", "\xc3\x9c", true},
        {"^\\p{L}+$", "",
         "stra\xc3\x9f"
         "e",
         true},
        {"a{2,3}", "", "baab", true},
        {"(a)(b)?\\1", "", "aa", true},
        {"(?i)abc", "", "ABC", true},
        {"(?<=x)a", "", "xa", true},
        {"\\bfoo\\b", "", "a foo b", true},
        {"a$", "", "a\n", true},
        /* Broken UTF-8 in what is stored is no error; the sound parts match. */
        {"abc", "",
         "\xff\xfe"
         "abc",
         true},
        {"^.$", "", "\xff", false},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_regex_t *regex = NULL;
        int rc = stor_regex_compile(arena, vd_slice_str(cases[i].pattern),
                                    vd_slice_str(cases[i].options), &regex, &err);
        cr_assert(rc == VD_OK, "/%s/: %s", cases[i].pattern, err.message);
        cr_expect(stor_regex_matches(regex, vd_slice_str(cases[i].subject)) == cases[i].expected,
                  "/%s/%s on %s", cases[i].pattern, cases[i].options, cases[i].subject);
        cr_expect(vd_slice_is(stor_regex_pattern(regex), cases[i].pattern));
        cr_expect(vd_slice_is(stor_regex_options(regex), cases[i].options));
    }
    vd_arena_destroy(&arena);
}

Test(regex, empty_slices)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_regex_t *regex = NULL;
    cr_assert_eq(stor_regex_compile(arena, VD_SLICE_NULL, VD_SLICE_NULL, &regex, &err), VD_OK);
    cr_expect(stor_regex_matches(regex, VD_SLICE_NULL));
    vd_arena_destroy(&arena);
}

Test(regex, refusals)
{
    static const struct {
        vd_slice_t pattern, options;
        int code;
        const char *message;
    } cases[] = {
        {{(const uint8_t *)"a\0b", 3}, {NULL, 0}, 2, "embedded null byte"},
        {{(const uint8_t *)"ab", 2}, {(const uint8_t *)"i\0", 2}, 2, "embedded null byte"},
        {{(const uint8_t *)"ab", 2}, {(const uint8_t *)"g", 1}, 51108, "invalid flag"},
        {{(const uint8_t *)"ab", 2}, {(const uint8_t *)"I", 1}, 51108, "invalid flag"},
        {{(const uint8_t *)"(", 1}, {NULL, 0}, 51091, "Regular expression is invalid"},
        {{(const uint8_t *)"[", 1}, {NULL, 0}, 51091, "Regular expression is invalid"},
        {{(const uint8_t *)"*", 1}, {NULL, 0}, 51091, "Regular expression is invalid"},
        {{(const uint8_t *)"\xff", 1}, {NULL, 0}, 51091, "Regular expression is invalid"},
        {{(const uint8_t *)"\\C", 2}, {NULL, 0}, 51091, "Regular expression is invalid"},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_regex_t *regex = NULL;
        int rc = stor_regex_compile(arena, cases[i].pattern, cases[i].options, &regex, &err);
        cr_expect(rc == -cases[i].code, "%zu: %d %s", i, rc, err.message);
        cr_expect(strstr(err.message, cases[i].message) != NULL, "%s", err.message);
        cr_expect(regex == NULL);
    }
    vd_arena_destroy(&arena);
}

Test(regex, pattern_length)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_regex_t *regex = NULL;
    uint8_t *pattern = vd_arena_alloc(arena, VD_REGEX_PATTERN_MAX_BYTES + 1);
    memset(pattern, 'a', VD_REGEX_PATTERN_MAX_BYTES + 1);
    cr_expect_eq(stor_regex_compile(arena, vd_slice(pattern, VD_REGEX_PATTERN_MAX_BYTES),
                                    VD_SLICE_NULL, &regex, &err),
                 VD_OK);
    cr_expect_eq(stor_regex_compile(arena, vd_slice(pattern, VD_REGEX_PATTERN_MAX_BYTES + 1),
                                    VD_SLICE_NULL, &regex, &err),
                 VD_ERR_LOCATION(51091));
    vd_arena_destroy(&arena);
}

Test(regex, groups)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_regex_t *regex = NULL;
    cr_assert_eq(
        stor_regex_compile(arena, VD_SLICE_LIT("(\\d+)-(x)?(\\d+)?"), VD_SLICE_NULL, &regex, &err),
        VD_OK);
    cr_expect_eq(stor_regex_group_count(regex), 3);
    size_t offsets[8];
    vd_slice_t subject = VD_SLICE_LIT("a 12- b 3-x4");
    cr_assert_eq(stor_regex_find(regex, subject, 0, offsets, 4), 4);
    cr_expect_eq(offsets[0], 2);
    cr_expect_eq(offsets[1], 5);
    cr_expect_eq(offsets[2], 2);
    cr_expect_eq(offsets[3], 4);
    cr_expect_eq(offsets[4], SIZE_MAX);
    cr_expect_eq(offsets[7], SIZE_MAX);
    cr_assert_eq(stor_regex_find(regex, subject, 5, offsets, 4), 4);
    cr_expect_eq(offsets[0], 8);
    cr_expect_eq(offsets[4], 10);
    cr_expect_eq(offsets[6], 11);
    cr_expect_eq(stor_regex_find(regex, subject, 12, offsets, 4), 0);
    cr_expect_eq(stor_regex_find(regex, subject, 13, offsets, 4), 0);
    cr_expect_eq(stor_regex_find(regex, subject, 0, offsets, 2), 2);
    vd_arena_destroy(&arena);
}

Test(regex, many_groups)
{
    char pattern[2001];
    for (int i = 0; i < 500; i++)
        memcpy(pattern + 4 * i, "(a)?", 4);
    pattern[2000] = 0;
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_regex_t *regex = NULL;
    cr_assert_eq(stor_regex_compile(arena, vd_slice_str(pattern), VD_SLICE_NULL, &regex, &err),
                 VD_OK);
    cr_expect_eq(stor_regex_group_count(regex), 500);
    cr_expect(stor_regex_matches(regex, VD_SLICE_LIT("aaa")));
    vd_arena_destroy(&arena);
}

/* Patterns that try every way: bounded by the match limit, so they fail and do not hang. */
Test(regex, hostile_patterns, .timeout = 300)
{
    static const char *const patterns[] = {
        "(a+)+$",     "(a|aa)+$",          "(a|a?)+$",
        "(.*a){20}$", "^(?:a?){30}a{30}$", "(?:(a)|b)*\\1\\1\\1c"};
    char subject[64];
    memset(subject, 'a', 40);
    memcpy(subject + 40, "bX", 3);
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(patterns); i++) {
        vd_error_t err = VD_ERROR_INIT;
        stor_regex_t *regex = NULL;
        int rc = stor_regex_compile(arena, vd_slice_str(patterns[i]), VD_SLICE_NULL, &regex, &err);
        cr_assert(rc == VD_OK, "%s", err.message);
        cr_expect(!stor_regex_matches(regex, vd_slice_str(subject)), "%s", patterns[i]);
    }
    vd_arena_destroy(&arena);
}

static void *match_in_thread(void *arg)
{
    return (void *)(uintptr_t)stor_regex_matches(arg, VD_SLICE_LIT("xabcx"));
}

Test(regex, threads_share_a_pattern)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_regex_t *regex = NULL;
    cr_assert_eq(stor_regex_compile(arena, VD_SLICE_LIT("a(b)c"), VD_SLICE_NULL, &regex, &err),
                 VD_OK);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, match_in_thread, regex), 0);
    for (int i = 0; i < 4; i++) {
        void *result = NULL;
        cr_assert_eq(pthread_join(threads[i], &result), 0);
        cr_expect(result != NULL);
    }
    vd_arena_destroy(&arena);
}
