/* tests/fuzz/fuzz_update.c — {q, u, arrayFilters} and a document, one behind the other: parse,
 * match, apply, upsert; results are documents, "no change" means the same bytes, the _id stays. */
#include "libcommon/bson/build.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/query/update.h"

static const stor_variables_t variables = {.now_ms = 1700000000123,
                                           .cluster_time = UINT64_C(1700000000) << 32 | 7};

typedef struct {
    stor_update_t *update;
    stor_filter_t *filter; /* NULL: q did not parse */
} spec_t;

static bool contains(vd_bson_t bytes, const char *word)
{
    return memmem(bytes.data, bytes.len, word, strlen(word)) != NULL;
}

static bool spec_parse(vd_arena_t *arena, vd_bson_t bytes, spec_t *ret)
{
    vd_value_t u = vd_bson_get(bytes, "u"), q = vd_bson_get(bytes, "q"),
               filters = vd_bson_get(bytes, "arrayFilters");
    stor_update_options_t options = {.update = u, .variables = &variables};
    if (u.type != VD_BSON_OBJECT && u.type != VD_BSON_ARRAY)
        return false;
    if (filters.type == VD_BSON_ARRAY)
        options.array_filters = vd_value_document(filters);
    if (stor_update_parse(arena, &options, &ret->update, NULL) != VD_OK)
        return false;
    vd_bson_t filter = q.type == VD_BSON_OBJECT ? vd_value_document(q) : VD_BSON_NONE;
    ret->filter = NULL;
    if (stor_filter_parse(arena, filter, &variables, &ret->filter, NULL) != VD_OK)
        ret->filter = NULL;
    return true;
}

static void check_result(vd_bson_t result)
{
    VD_ASSERT(result.len <= VD_BSON_DOCUMENT_MAX_BYTES);
    VD_ASSERT(vd_bson_validate(vd_slice(result.data, result.len), 0, VD_BSON_BUILD_DEPTH_MAX,
                               NULL) == VD_OK);
}

static void check_apply(vd_arena_t *arena, const spec_t *spec, vd_bson_t document, bool by_chance)
{
    stor_match_t match = {.arena = arena, .variables = &variables, .array_position = -1};
    vd_bson_t result, again;
    bool matches = false, changed = false, changed_again = false;
    if (spec->filter != NULL &&
        stor_match_document(spec->filter, document, &match, &matches, NULL) != VD_OK)
        return;
    int rc = stor_update_apply(spec->update, arena, document, &match, &result, &changed, NULL);
    if (rc == VD_OK) {
        check_result(result);
        VD_ASSERT(changed || (result.len == document.len &&
                              memcmp(result.data, document.data, result.len) == 0));
        vd_value_t before = vd_bson_get(document, "_id"), after = vd_bson_get(result, "_id");
        VD_ASSERT(before.type == after.type && before.len == after.len);
        VD_ASSERT(before.len == 0 || memcmp(before.data, after.data, before.len) == 0);
    }
    if (by_chance)
        return;
    int rc_again =
        stor_update_apply(spec->update, arena, document, &match, &again, &changed_again, NULL);
    VD_ASSERT(rc == rc_again);
    VD_ASSERT(rc != VD_OK || (changed == changed_again && result.len == again.len &&
                              memcmp(result.data, again.data, again.len) == 0));
}

static void check_upsert(vd_arena_t *arena, const spec_t *spec)
{
    vd_bson_t result;
    vd_slice_t name;
    vd_value_t value;
    if (spec->filter == NULL ||
        stor_update_upsert(spec->update, arena, spec->filter, &result, NULL) != VD_OK)
        return;
    check_result(result);
    bool first = vd_bson_first(result, &name, &value);
    VD_ASSERT(first && vd_slice_is(name, "_id"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_bson_t bytes, document;
    if (size > 65536 || vd_bson_peek(vd_slice(data, size), &bytes, NULL) != VD_OK)
        return 0;
    vd_slice_t rest = vd_slice(data + bytes.len, size - bytes.len);
    if (vd_bson_validate(vd_slice(bytes.data, bytes.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) != VD_OK ||
        vd_bson_validate(rest, VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX, NULL) != VD_OK)
        return 0;
    vd_arena_t *arena = vd_arena_create();
    spec_t spec;
    vd_bson_t raw = {rest.data, (uint32_t)rest.len};
    bool by_chance = contains(bytes, "$rand") || contains(bytes, "$sampleRate");
    if (spec_parse(arena, bytes, &spec)) {
        check_upsert(arena, &spec);
        /* What is stored was prepared: its _id is there and stands first. */
        if (stor_document_prepare(arena, raw, 7, &document, NULL) == VD_OK)
            check_apply(arena, &spec, document, by_chance);
    }
    vd_arena_destroy(&arena);
    return 0;
}
