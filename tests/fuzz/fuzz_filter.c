/* tests/fuzz/fuzz_filter.c — a filter and a document, one behind the other: parse, match, print;
 * the printed filter parses again and agrees with the first on the document. */
#include "libcommon/base/limits.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/query/match.h"

static bool contains(vd_slice_t bytes, const char *word)
{
    return memmem(bytes.data, bytes.len, word, strlen(word)) != NULL;
}

/* VD_OK, or the error of an expression. */
static int run_filter(vd_arena_t *arena, const stor_filter_t *filter, vd_bson_t document,
                      bool *ret_matches, int64_t *ret_position)
{
    stor_match_t match = {.arena = arena};
    int rc = stor_match_document(filter, document, &match, ret_matches, NULL);
    *ret_position = match.array_position;
    return rc;
}

static void check_filter(vd_arena_t *arena, vd_bson_t bytes, vd_bson_t document)
{
    stor_filter_t *filter = NULL, *again = NULL;
    if (stor_filter_parse(arena, bytes, NULL, &filter, NULL) != VD_OK)
        return;
    bool matches = false, matches_again = false;
    int64_t position, position_again;
    int rc = run_filter(arena, filter, document, &matches, &position);
    (void)stor_filter_id_equality(filter);

    vd_bson_t printed = stor_filter_to_bson(arena, filter);
    VD_ASSERT(vd_bson_validate(vd_slice(printed.data, printed.len), 0, 400, NULL) == VD_OK);
    vd_error_t err = VD_ERROR_INIT;
    if (stor_filter_parse(arena, printed, NULL, &again, &err) != VD_OK) {
        VD_ASSERT(contains(vd_slice_str(err.message), "maximum query tree depth"));
        return;
    }
    vd_slice_t source = vd_slice(bytes.data, bytes.len);
    bool by_chance = contains(source, "$rand") || contains(source, "$sampleRate");
    if (by_chance || vd_bson_get(printed, "$comment").type != VD_BSON_MISSING)
        return;
    int rc_again = run_filter(arena, again, document, &matches_again, &position_again);
    VD_ASSERT(rc == rc_again);
    VD_ASSERT(rc != VD_OK || (matches == matches_again && position == position_again));
}

static void check_value(vd_arena_t *arena, vd_bson_t predicate, vd_bson_t document)
{
    stor_filter_t *filter = NULL;
    if (stor_filter_parse_value(arena, predicate, NULL, &filter, NULL) != VD_OK)
        return;
    vd_bson_iter_t iter;
    for (vd_bson_iter_init(&iter, document); vd_bson_iter_next(&iter);) {
        stor_match_t match = {.arena = arena};
        bool matches;
        int rc = stor_match_value(filter, iter.value, &match, &matches, NULL);
        VD_ASSERT(rc == VD_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_bson_t filter;
    if (size > 65536 || vd_bson_peek(vd_slice(data, size), &filter, NULL) != VD_OK)
        return 0;
    vd_slice_t rest = vd_slice(data + filter.len, size - filter.len);
    vd_bson_t document = {rest.data, (uint32_t)rest.len};
    if (vd_bson_validate(vd_slice(filter.data, filter.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) != VD_OK ||
        vd_bson_validate(rest, 0, VD_BSON_DEPTH_MAX, NULL) != VD_OK)
        return 0;
    vd_arena_t *arena = vd_arena_create();
    check_filter(arena, filter, document);
    check_value(arena, filter, document);
    vd_arena_destroy(&arena);
    return 0;
}
