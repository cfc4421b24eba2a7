/* tests/fuzz/fuzz_projection.c — {k: kind, p: projection, q: filter} and a document, one behind the
 * other: parse, match, apply; the result is a document, the same one each time. */
#include "libcommon/bson/build.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/query/project.h"

static const stor_variables_t variables = {.now_ms = 1700000000123,
                                           .cluster_time = UINT64_C(1700000000) << 32 | 7};

typedef struct {
    stor_project_t *project;
    stor_filter_t *filter; /* NULL: none */
    bool by_chance;
} spec_t;

static bool contains(vd_bson_t bytes, const char *word)
{
    return memmem(bytes.data, bytes.len, word, strlen(word)) != NULL;
}

static bool spec_parse(vd_arena_t *arena, vd_bson_t bytes, spec_t *ret)
{
    vd_value_t p = vd_bson_get(bytes, "p"), q = vd_bson_get(bytes, "q");
    int64_t kind = 0;
    *ret = (spec_t){.by_chance = contains(bytes, "$rand") || contains(bytes, "$sampleRate")};
    (void)vd_value_as_int64(vd_bson_get(bytes, "k"), &kind); /* anything else: find's */
    if (kind < STOR_PROJECT_FIND || kind > STOR_PROJECT_REPLACE)
        kind = STOR_PROJECT_FIND;
    if (q.type == VD_BSON_OBJECT &&
        stor_filter_parse(arena, vd_value_document(q), &variables, &ret->filter, NULL) != VD_OK)
        return false;
    return stor_project_parse(arena, (stor_project_kind_t)kind, p, ret->filter, &variables,
                              &ret->project, NULL) == VD_OK;
}

static int apply(vd_arena_t *arena, const spec_t *spec, vd_bson_t document, int64_t position,
                 vd_bson_t *ret)
{
    stor_expr_env_t env;
    stor_expr_env_init(&env, arena, &variables);
    env.version = 77;
    return stor_project_apply(spec->project, &env, document, position, ret, NULL);
}

static void check(vd_arena_t *arena, const spec_t *spec, vd_bson_t document)
{
    stor_match_t match = {.arena = arena, .variables = &variables, .array_position = -1};
    vd_bson_t result, again;
    bool matches = true;
    if (spec->filter != NULL &&
        (stor_match_document(spec->filter, document, &match, &matches, NULL) != VD_OK || !matches))
        return;
    int rc = apply(arena, spec, document, match.array_position, &result);
    if (rc == VD_OK) {
        VD_ASSERT(vd_bson_validate(vd_slice(result.data, result.len), 0, VD_BSON_BUILD_DEPTH_MAX,
                                   NULL) == VD_OK);
        VD_ASSERT(
            !stor_project_is_identity(spec->project) ||
            (result.len == document.len && memcmp(result.data, document.data, result.len) == 0));
    }
    if (spec->by_chance)
        return;
    int rc_again = apply(arena, spec, document, match.array_position, &again);
    VD_ASSERT(rc == rc_again);
    VD_ASSERT(rc != VD_OK ||
              (result.len == again.len && memcmp(result.data, again.data, again.len) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_bson_t bytes;
    if (size > 65536 || vd_bson_peek(vd_slice(data, size), &bytes, NULL) != VD_OK)
        return 0;
    vd_slice_t rest = vd_slice(data + bytes.len, size - bytes.len);
    if (vd_bson_validate(vd_slice(bytes.data, bytes.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) != VD_OK ||
        vd_bson_validate(rest, 0, VD_BSON_DEPTH_MAX, NULL) != VD_OK)
        return 0;
    vd_arena_t *arena = vd_arena_create();
    spec_t spec;
    if (spec_parse(arena, bytes, &spec))
        check(arena, &spec, (vd_bson_t){rest.data, (uint32_t)rest.len});
    vd_arena_destroy(&arena);
    return 0;
}
