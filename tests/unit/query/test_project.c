/* tests/unit/query/test_project.c — projections of find, $project, $addFields, $unset,
 * $replaceWith. */
#include "libcommon/bson/compare.h"
#include "tests/unit/query/query_json.h"
#include "veddb-storaged/query/match.h"
#include "veddb-storaged/query/project.h"

typedef struct {
    const char *document;
    const char *spec;
    const char *result; /* NULL: `code` */
    int code;
    const char *filter; /* for `$` */
} project_case_t;

static int run(vd_arena_t *arena, stor_project_kind_t kind, const project_case_t *c, vd_bson_t *ret,
               vd_error_t *err)
{
    vd_bson_t document = query_json(arena, c->document);
    stor_filter_t *filter = NULL;
    stor_match_t match = {.arena = arena, .array_position = -1};
    if (c->filter != NULL) {
        bool matches;
        cr_assert_eq(stor_filter_parse(arena, query_json(arena, c->filter), NULL, &filter, err),
                     VD_OK, "%s", c->filter);
        cr_assert_eq(stor_match_document(filter, document, &match, &matches, err), VD_OK);
        cr_assert(matches, "%s", c->filter);
    }
    stor_project_t *project;
    int rc =
        stor_project_parse(arena, kind, query_value(arena, c->spec), filter, NULL, &project, err);
    if (rc != VD_OK)
        return rc;
    stor_expr_env_t env;
    stor_expr_env_init(&env, arena, NULL);
    env.version = 77;
    return stor_project_apply(project, &env, document, match.array_position, ret, err);
}

static void check(stor_project_kind_t kind, const project_case_t *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const project_case_t *c = &cases[i];
        vd_arena_t *arena = vd_arena_create();
        vd_error_t err = VD_ERROR_INIT;
        vd_bson_t got = VD_BSON_NONE;
        int rc = run(arena, kind, c, &got, &err);
        if (c->result == NULL) {
            cr_expect(rc == -c->code, "%s: got code %d, want %d (%s)", c->spec, -rc, c->code,
                      err.message);
            cr_expect(err.message[0] != 0, "%s", c->spec);
        } else if (rc != VD_OK) {
            cr_expect(false, "%s: error %d %s", c->spec, -rc, err.message);
        } else {
            vd_bson_t want = query_json(arena, c->result);
            cr_expect(got.len == want.len && memcmp(got.data, want.data, got.len) == 0,
                      "%s on %s: got %s, want %s", c->spec, c->document,
                      vd_bson_to_json(arena, got, 4000), c->result);
        }
        vd_arena_destroy(&arena);
    }
}
#define CHECK(kind, cases) check(kind, cases, VD_COUNT_OF(cases))

#define DOC                                                                                        \
    "{'_id': 1, 'a': 1, 'b': {'c': 2, 'd': 3}, 'e': [{'f': 1, 'g': 2}, {'f': 3}, 4, [{'f': 5, "    \
    "'h': 6}]], 'n': null}"

Test(project, inclusion)
{
    static const project_case_t cases[] = {
        {DOC, "{'a': 1}", "{'_id': 1, 'a': 1}", 0, NULL},
        {DOC, "{'n': 1, 'a': 1}", "{'_id': 1, 'a': 1, 'n': null}", 0, NULL},
        {DOC, "{'a': true, '_id': 0}", "{'a': 1}", 0, NULL},
        {DOC, "{'_id': 0, 'a': 1}", "{'a': 1}", 0, NULL},
        {DOC, "{'_id': 1}", "{'_id': 1}", 0, NULL},
        {DOC, "{'b.c': 1}", "{'_id': 1, 'b': {'c': 2}}", 0, NULL},
        {DOC, "{'b': {'c': 1}}", "{'_id': 1, 'b': {'c': 2}}", 0, NULL},
        {DOC, "{'b': {'d': 1, 'c': 1}}", "{'_id': 1, 'b': {'c': 2, 'd': 3}}", 0, NULL},
        {DOC, "{'b.d': 1, 'b': {'c': 1}}", "{'_id': 1, 'b': {'c': 2, 'd': 3}}", 0, NULL},
        {DOC, "{'e.f': 1}", "{'_id': 1, 'e': [{'f': 1}, {'f': 3}, [{'f': 5}]]}", 0, NULL},
        {DOC, "{'a.x': 1}", "{'_id': 1}", 0, NULL},
        {DOC, "{'b.x': 1}", "{'_id': 1, 'b': {}}", 0, NULL},
        {DOC, "{'zz': 1}", "{'_id': 1}", 0, NULL},
        {DOC, "{'a': 5, 'b.c': 2.5}", "{'_id': 1, 'a': 1, 'b': {'c': 2}}", 0, NULL},
        {"{'a': 1}", "{'_id': 1}", "{}", 0, NULL},
        {"{'_id': {'x': 1, 'y': 2}, 'a': 1}", "{'_id.x': 1}", "{'_id': {'x': 1}}", 0, NULL},
        {"{'f9': 9, 'f1': 1}",
         "{'f1': 1, 'f2': 1, 'f3': 1, 'f4': 1, 'f5': 1, 'f6': 1, 'f7': 1, 'f8': 1, 'f9': 1, 'f10': "
         "1, 'f11': 1, "
         "'f12': 1, 'f13': 1, 'f14': 1, 'f15': 1, 'f16': 1, 'f17': 1, 'f18': 1}",
         "{'f9': 9, 'f1': 1}", 0, NULL},
    };
    CHECK(STOR_PROJECT_FIND, cases);
    CHECK(STOR_PROJECT_AGGREGATE, cases);
}

Test(project, exclusion)
{
    static const project_case_t cases[] = {
        {DOC, "{'e': 0, 'b': 0, 'n': 0}", "{'_id': 1, 'a': 1}", 0, NULL},
        {DOC, "{'_id': 0, 'e': 0, 'b': 0, 'n': false}", "{'a': 1}", 0, NULL},
        {DOC, "{'e': 0, 'b.c': 0, '_id': 1}", "{'_id': 1, 'a': 1, 'b': {'d': 3}, 'n': null}", 0,
         NULL},
        {DOC, "{'e.f': 0, 'b': {'c': 0, 'd': 0}, 'a.x': 0}",
         "{'_id': 1, 'a': 1, 'b': {}, 'e': [{'g': 2}, {}, 4, [{'h': 6}]], 'n': null}", 0, NULL},
        {"{'_id': 1, 'f3': 3, 'x': 1}",
         "{'f1': 0, 'f2': 0, 'f3': 0, 'f4': 0, 'f5': 0, 'f6': 0, 'f7': 0, 'f8': 0, 'f9': 0, '_id': "
         "1}",
         "{'_id': 1, 'x': 1}", 0, NULL},
        {"{'_id': 1, 'a': 1}", "{'_id': 0}", "{'a': 1}", 0, NULL},
    };
    CHECK(STOR_PROJECT_FIND, cases);
    CHECK(STOR_PROJECT_AGGREGATE, cases);
}

Test(project, computed)
{
    static const project_case_t cases[] = {
        {DOC, "{'x': '$a'}", "{'_id': 1, 'x': 1}", 0, NULL},
        {DOC, "{'x': 'text', 'a': 1}", "{'_id': 1, 'a': 1, 'x': 'text'}", 0, NULL},
        {DOC, "{'z': {'$add': ['$a', 1]}, 'y': '$b.c', 'a': 1}",
         "{'_id': 1, 'a': 1, 'z': 2, 'y': 2}", 0, NULL},
        {DOC, "{'a': {'$add': ['$a', 1]}, 'n': 1}", "{'_id': 1, 'n': null, 'a': 2}", 0, NULL},
        {DOC, "{'b.c': 1, 'b.x': {'$literal': 5}}", "{'_id': 1, 'b': {'c': 2, 'x': 5}}", 0, NULL},
        {DOC, "{'b': {'x': '$a'}}", "{'_id': 1, 'b': {'x': 1}}", 0, NULL},
        {DOC, "{'new.x': '$a', 'new.y': '$none'}", "{'_id': 1, 'new': {'x': 1}}", 0, NULL},
        {DOC, "{'a.x': {'$literal': 1}}", "{'_id': 1, 'a': {'x': 1}}", 0, NULL},
        {DOC, "{'e.x': '$a'}", "{'_id': 1, 'e': [{'x': 1}, {'x': 1}, {'x': 1}, [{'x': 1}]]}", 0,
         NULL},
        {DOC, "{'x': '$none', 'a': 1}", "{'_id': 1, 'a': 1}", 0, NULL},
        {DOC, "{'_id': '$a', 'x': ['$a', '$none']}", "{'_id': 1, 'x': [1, null]}", 0, NULL},
        {DOC, "{'_id': 0, 'x': {'$literal': {'q': 1}}}", "{'x': {'q': 1}}", 0, NULL},
        {DOC, "{'x': {'$cond': ['$a', '$$REMOVE', 1]}}", "{'_id': 1}", 0, NULL},
        {DOC, "{'x': {'y': {'$literal': 1}, 'z': '$a'}}", "{'_id': 1, 'x': {'y': 1, 'z': 1}}", 0,
         NULL},
        {DOC, "{'x': [], 'y': null}", "{'_id': 1, 'x': [], 'y': null}", 0, NULL},
    };
    CHECK(STOR_PROJECT_FIND, cases);
    CHECK(STOR_PROJECT_AGGREGATE, cases);
}

Test(project, errors)
{
    static const project_case_t cases[] = {
        {DOC, "{'a': 1, 'b': 0}", NULL, 31254, NULL},
        {DOC, "{'a': 0, 'b': 1}", NULL, 31253, NULL},
        {DOC, "{'b': {'c': 1, 'd': 0}}", NULL, 31254, NULL},
        {DOC, "{'a': 0, 'x': {'$add': [1]}}", NULL, 31252, NULL},
        {DOC, "{'a': 0, 'x': 'text'}", NULL, 31310, NULL},
        {DOC, "{'a': 1, 'a.b': 1}", NULL, 31249, NULL},
        {DOC, "{'a.b': 1, 'a': 1}", NULL, 31250, NULL},
        {DOC, "{'a.b.c': 1, 'a.b': {'d': 1}, 'a.b.d': 1}", NULL, 31250, NULL},
        {DOC, "{'a': {}}", NULL, 51270, NULL},
        {DOC, "{'a': {'$nope': 1}}", NULL, 31325, NULL},
        {DOC, "{'a': {'$add': [1], 'b': 1}}", NULL, 16410, NULL},
        {DOC, "{'': 1}", NULL, 40352, NULL},
        {DOC, "{'a.': 1}", NULL, 40353, NULL},
        {DOC, "{'a..b': 1}", NULL, 15998, NULL},
        {DOC, "{'$a': 1}", NULL, 16410, NULL},
        {DOC, "{'x': '$'}", NULL, 16872, NULL},
        {DOC, "{'x': {'$divide': ['$a', 0]}}", NULL, 2, NULL},
        {DOC, "{'x': {'$meta': 'textScore'}}", NULL, 40218, NULL},
    };
    CHECK(STOR_PROJECT_FIND, cases);
    CHECK(STOR_PROJECT_AGGREGATE, cases);

    static const project_case_t aggregate[] = {
        {DOC, "{}", NULL, 51272, NULL},
        {DOC, "5", NULL, 15969, NULL},
        {DOC, "{'e.$': 1}", NULL, 31324, NULL},
        {DOC, "{'e': {'$elemMatch': {'f': 1}}}", NULL, 168, NULL},
        {DOC, "{'e': {'$slice': 1}}", NULL, 28667, NULL},
    };
    CHECK(STOR_PROJECT_AGGREGATE, aggregate);

    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    stor_project_t *project;
    cr_expect_eq(stor_project_parse(arena, STOR_PROJECT_AGGREGATE,
                                    query_value(arena, "{'a': 1, 'b': 0}"), NULL, NULL, &project,
                                    &err),
                 -31254);
    cr_expect_str_eq(
        err.message,
        "Invalid $project :: caused by :: Cannot do exclusion on field b in inclusion projection");
    vd_arena_destroy(&arena);
}

#define NUMBERS                                                                                    \
    "{'_id': 1, 'a': [1, 2, 3, 4], 'b': 5, 'c': {'d': [5, 6, 7]}, 'l': [{'d': [1, 2]}, 3, {'d': "  \
    "[4, 5]}]}"

Test(project, slice)
{
    static const project_case_t cases[] = {
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': 2}}",
         "{'_id': 1, 'a': [1, 2], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': -2}}",
         "{'_id': 1, 'a': [2, 3], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': [1, 1]}}",
         "{'_id': 1, 'a': [2], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': [-2, 1]}}",
         "{'_id': 1, 'a': [2], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': [-9, 2]}}",
         "{'_id': 1, 'a': [1, 2], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': [9, 2]}}",
         "{'_id': 1, 'a': [], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': 0}}",
         "{'_id': 1, 'a': [], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': 1}, 'b': 0}",
         "{'_id': 1, 'a': [1]}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5, 'c': 6}", "{'a': {'$slice': 1}, 'b': 1}",
         "{'_id': 1, 'a': [1], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': 1}, '_id': 0}",
         "{'a': [1], 'b': 5}", 0, NULL},
        {"{'_id': 1, 'a': [1, 2, 3], 'b': 5}", "{'a': {'$slice': 1}, '_id': 1}",
         "{'_id': 1, 'a': [1]}", 0, NULL},
        {NUMBERS, "{'a': 0, 'l': 0, 'c.d': {'$slice': 1}}", "{'_id': 1, 'b': 5, 'c': {'d': [5]}}",
         0, NULL},
        {NUMBERS, "{'a': 0, 'l': 0, 'c': {'d': {'$slice': 1}}}",
         "{'_id': 1, 'b': 5, 'c': {'d': [5]}}", 0, NULL},
        {NUMBERS, "{'_id': 1, 'l.d': {'$slice': 1}}", "{'_id': 1, 'l': [{'d': [1]}, {'d': [4]}]}",
         0, NULL},
        {NUMBERS, "{'a': 0, 'c': 0, 'l.d': {'$slice': 1}}",
         "{'_id': 1, 'b': 5, 'l': [{'d': [1]}, 3, {'d': [4]}]}", 0, NULL},
        {NUMBERS, "{'_id': 1, 'b': {'$slice': 1}}", "{'_id': 1, 'b': 5}", 0, NULL},
        {NUMBERS, "{'x': {'$slice': ['$a', 1, 2]}}", "{'_id': 1, 'x': [2, 3]}", 0, NULL},
        {NUMBERS, "{'a': {'$slice': 'x'}}", NULL, 28667, NULL},
        {NUMBERS, "{'a': {'$slice': [1, 0]}}", NULL, 28724, NULL},
    };
    CHECK(STOR_PROJECT_FIND, cases);
}

Test(project, elem_match)
{
    static const project_case_t cases[] = {
        {DOC, "{'e': {'$elemMatch': {'f': 3}}}", "{'_id': 1, 'e': [{'f': 3}]}", 0, NULL},
        {DOC, "{'e': {'$elemMatch': {'$gt': 3}}}", "{'_id': 1, 'e': [4]}", 0, NULL},
        {DOC, "{'e': {'$elemMatch': {'f': 99}}}", "{'_id': 1}", 0, NULL},
        {DOC, "{'a': {'$elemMatch': {'f': 3}}}", "{'_id': 1}", 0, NULL},
        {DOC, "{'zz': {'$elemMatch': {'f': 3}}}", "{'_id': 1}", 0, NULL},
        {DOC, "{'e': {'$elemMatch': {'f': 3}}, 'n': 1}", "{'_id': 1, 'n': null, 'e': [{'f': 3}]}",
         0, NULL},
        {DOC, "{'_id': 0, 'e': {'$elemMatch': {'f': 3}}}", "{'e': [{'f': 3}]}", 0, NULL},
        {DOC, "{'a': 0, 'b': 0, 'e': {'$elemMatch': {'f': 3}}}",
         "{'_id': 1, 'e': [{'f': 3}], 'n': null}", 0, NULL},
        {DOC, "{'e': {'$elemMatch': 5}}", NULL, 31274, NULL},
        {DOC, "{'b.c': {'$elemMatch': {'f': 1}}}", NULL, 31275, NULL},
        {DOC, "{'b': {'c': {'$elemMatch': {'f': 1}}}}", NULL, 31275, NULL},
        {DOC, "{'e.$': 1, 'x': {'$elemMatch': {'f': 1}}}", NULL, 31255, "{'e.f': 1}"},
        {DOC, "{'x': {'$elemMatch': {'f': 1}}, 'e.$': 1}", NULL, 31256, "{'e.f': 1}"},
    };
    CHECK(STOR_PROJECT_FIND, cases);
}

Test(project, positional)
{
    static const project_case_t cases[] = {
        {"{'_id': 1, 'a': [1, 5, 9], 'b': 2}", "{'a.$': 1}", "{'_id': 1, 'a': [5]}", 0,
         "{'a': {'$gt': 2}}"},
        {"{'_id': 1, 'a': [1, 5, 9], 'b': 2}", "{'a.$': 1, 'b': 1}", "{'_id': 1, 'a': [9], 'b': 2}",
         0, "{'a': 9}"},
        {"{'_id': 1, 'g': [{'m': 1, 'n': 2}, {'m': 5, 'n': 6}]}", "{'g.$': 1}",
         "{'_id': 1, 'g': [{'m': 5, 'n': 6}]}", 0, "{'g': {'$elemMatch': {'m': {'$gt': 2}}}}"},
        {"{'_id': 1, 'x': {'g': [1, 2, 3], 'z': 1}}", "{'x.g.$': 1}", "{'_id': 1, 'x': {'g': [2]}}",
         0, "{'x.g': 2}"},
        {"{'_id': 1, 'x': {'g': [1, 2, 3], 'z': 1}}", "{'x': {'g.$': 1}}",
         "{'_id': 1, 'x': {'g': [2]}}", 0, "{'x.g': 2}"},
        {"{'_id': 1, 'a': 5}", "{'a.$': 1}", "{'_id': 1, 'a': 5}", 0, "{'a': 5}"},
        {"{'_id': 1, 'a': [5]}", "{'a.$': 1}", NULL, 51246, "{'a': {'$size': 1}}"},
        {"{'_id': 1, 'a': [5], 'b': [1, 2]}", "{'a.$': 1}", NULL, 51247,
         "{'b': 2, 'a': {'$size': 1}}"},
        {"{'a': [1]}", "{'a.$': 1}", NULL, 51050, NULL},
        {"{'a': [1], 'b': 1}", "{'a.$': 1}", NULL, 31277, "{'b': 1}"},
        {"{'a': [1], 'b': [1]}", "{'a.$': 1, 'b.$': 1}", NULL, 31276, "{'a': 1, 'b': 1}"},
        {"{'a': [1]}", "{'a.$.b': 1}", NULL, 31394, "{'a': 1}"},
        {"{'a': [1]}", "{'a.$': 0}", NULL, 31395, "{'a': 1}"},
        {"{'a': [1]}", "{'a.$': 'x'}", NULL, 31308, "{'a': 1}"},
        {"{'a': [1]}", "{'a.$': {'b': 1}}", NULL, 31271, "{'a': 1}"},
        {"{'a': [1], 'b': 1}", "{'b': 0, 'a.$': 1}", NULL, 31253, "{'a': 1}"},
    };
    CHECK(STOR_PROJECT_FIND, cases);
}

Test(project, meta)
{
    static const project_case_t cases[] = {
        {"{'_id': 1, 'a': 2}", "{'v': {'$meta': 'version'}}",
         "{'_id': 1, 'a': 2, 'v': {'$numberLong': '77'}}", 0, NULL},
        {"{'_id': 1, 'a': 2}", "{'_id': 1, 'v': {'$meta': 'version'}}",
         "{'_id': 1, 'v': {'$numberLong': '77'}}", 0, NULL},
        {"{'_id': 1, 'a': 2}", "{'a': 0, 'v': {'$meta': 'version'}}",
         "{'_id': 1, 'v': {'$numberLong': '77'}}", 0, NULL},
        {"{'_id': 1, 'a': 2}", "{'_id': 0, 'v': {'$meta': 'version'}}",
         "{'a': 2, 'v': {'$numberLong': '77'}}", 0, NULL},
    };
    CHECK(STOR_PROJECT_FIND, cases);
    static const project_case_t aggregate[] = {
        {"{'_id': 1, 'a': 2}", "{'v': {'$meta': 'version'}}",
         "{'_id': 1, 'v': {'$numberLong': '77'}}", 0, NULL},
    };
    CHECK(STOR_PROJECT_AGGREGATE, aggregate);
}

Test(project, add_fields)
{
    static const project_case_t cases[] = {
        {"{'_id': 1, 'a': 2}", "{'b': {'$add': ['$a', 1]}}", "{'_id': 1, 'a': 2, 'b': 3}", 0, NULL},
        {"{'_id': 1, 'a': 2, 'c': 3}", "{'a': 7}", "{'_id': 1, 'a': 7, 'c': 3}", 0, NULL},
        {"{'_id': 1, 'a': 2}", "{'a': '$$REMOVE'}", "{'_id': 1}", 0, NULL},
        {"{'_id': 1, 'a': {'b': 1, 'c': 2}}", "{'a.b': 9, 'a.d': '$a.c'}",
         "{'_id': 1, 'a': {'b': 9, 'c': 2, 'd': 2}}", 0, NULL},
        {"{'_id': 1, 'a': {'b': 1}}", "{'a': {'c': 1, 'd': {'e': 1}}}",
         "{'_id': 1, 'a': {'b': 1, 'c': 1, 'd': {'e': 1}}}", 0, NULL},
        {"{'a': [1, {'b': 2}, [{'c': 1}]]}", "{'a.x': 5}",
         "{'a': [{'x': 5}, {'b': 2, 'x': 5}, [{'c': 1, 'x': 5}]]}", 0, NULL},
        {"{'a': 1}", "{'a.b': 2}", "{'a': {'b': 2}}", 0, NULL},
        {"{'_id': 1}", "{'_id': 2, 'x': [1, '$_id']}", "{'_id': 2, 'x': [1, 1]}", 0, NULL},
        {"{'a': 1}", "{'b': 0, 'c': true, 'd': null}", "{'a': 1, 'b': 0, 'c': true, 'd': null}", 0,
         NULL},
        {"{'a': 1}", "{'b': {'$literal': {}}}", "{'a': 1, 'b': {}}", 0, NULL},
        {"{'a': 1}", "{}", NULL, 40177, NULL},
        {"{'a': 1}", "5", NULL, 40272, NULL},
        {"{'a': 1}", "{'b': {}}", NULL, 40180, NULL},
        {"{'a': 1}", "{'b': {'$add': [1], 'c': 1}}", NULL, 40182, NULL},
        {"{'a': 1}", "{'b': {'c.d': 1}}", NULL, 40183, NULL},
        {"{'a': 1}", "{'b': 1, 'b.c': 1}", NULL, 40176, NULL},
        {"{'a': 1}", "{'b.c': 1, 'b': 1}", NULL, 40176, NULL},
        {"{'a': 1}", "{'b': {'$nope': 1}}", NULL, 168, NULL},
        {"{'a': 1}", "{'$b': 1}", NULL, 16410, NULL},
    };
    CHECK(STOR_PROJECT_ADD, cases);
}

Test(project, unset_and_replace)
{
    static const project_case_t unset[] = {
        {DOC, "'e'", "{'_id': 1, 'a': 1, 'b': {'c': 2, 'd': 3}, 'n': null}", 0, NULL},
        {DOC, "['e', 'b.c', '_id', 'zz']", "{'a': 1, 'b': {'d': 3}, 'n': null}", 0, NULL},
        {DOC, "5", NULL, 31002, NULL},
        {DOC, "[]", NULL, 31119, NULL},
        {DOC, "['a', 5]", NULL, 31120, NULL},
        {DOC, "['a', 'a.b']", NULL, 31249, NULL},
        {DOC, "'$a'", NULL, 16410, NULL},
        {DOC, "''", NULL, 40352, NULL},
    };
    CHECK(STOR_PROJECT_UNSET, unset);
    static const project_case_t replace[] = {
        {DOC, "'$b'", "{'c': 2, 'd': 3}", 0, NULL},
        {DOC, "{'$mergeObjects': [{'x': 0}, '$b', {'d': '$a'}]}", "{'x': 0, 'c': 2, 'd': 1}", 0,
         NULL},
        {DOC, "'$$ROOT'", DOC, 0, NULL},
        {DOC, "{'q': '$a'}", "{'q': 1}", 0, NULL},
        {DOC, "'$a'", NULL, 40228, NULL},
        {DOC, "'$none'", NULL, 40228, NULL},
    };
    CHECK(STOR_PROJECT_REPLACE, replace);
}

Test(project, questions)
{
    static const struct {
        const char *spec;
        bool identity;
    } cases[] = {
        {"{}", true},
        {"{'_id': 1}", false},
        {"{'_id': 0}", false},
        {"{'a': 1}", false},
        {"{'_id': 1, 'a': 0}", false},
        {"{'_id': 1, 'x': '$a'}", false},
        {"{'_id': {'x': 1}}", false},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_project_t *project;
        cr_assert_eq(stor_project_parse(arena, STOR_PROJECT_FIND, query_value(arena, cases[i].spec),
                                        NULL, NULL, &project, NULL),
                     VD_OK);
        cr_expect_eq(stor_project_is_identity(project), cases[i].identity, "%s", cases[i].spec);
    }
    stor_project_t *project;
    stor_expr_env_t env;
    vd_bson_t document = query_json(arena, "{'a': 1}"), got;
    cr_assert_eq(stor_project_parse(arena, STOR_PROJECT_FIND, query_value(arena, "{}"), NULL, NULL,
                                    &project, NULL),
                 VD_OK);
    stor_expr_env_init(&env, arena, NULL);
    cr_assert_eq(stor_project_apply(project, &env, document, -1, &got, NULL), VD_OK);
    cr_expect_eq(got.data, document.data, "the identity gives the input itself");
    vd_arena_destroy(&arena);
}
