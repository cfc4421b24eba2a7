/* tests/unit/query/update_cases.h — runs tables of updates. JSON is written with ' for ", and ~type
 * for $type, which libbson's reader takes for a binary. */
#pragma once
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "veddb-storaged/query/update.h"

#include <bson/bson.h>
#include <criterion/criterion.h>

/* Rows of the tables leave out what they don't need. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define SAME "same" /* expected: no change */

typedef struct {
    const char *document, *update;
    const char *expected; /* the document after it, SAME, or NULL: an error */
    int code;             /* MongoDB's number */
    const char *message;  /* part of it, or NULL */
    const char *filter;   /* run first, for `$`; NULL: {} */
    const char *array_filters;
} update_case_t;

static const stor_variables_t case_variables = {.now_ms = 1700000000123,
                                                .cluster_time = UINT64_C(1700000000) << 32 | 7};

static inline vd_bson_t case_json(vd_arena_t *arena, const char *json)
{
    char *text = vd_arena_strdup(arena, json);
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\'')
            *p = '"';
    bson_error_t error;
    bson_t *bson = bson_new_from_json((const uint8_t *)text, -1, &error);
    cr_assert(bson != NULL, "bad JSON in a test: %s in %s", error.message, text);
    uint8_t *data = vd_arena_copy(arena, bson_get_data(bson), bson->len);
    for (uint32_t i = 0; i + 6 < bson->len; i++)
        if (memcmp(data + i, "~type", 6) == 0)
            data[i] = '$';
    vd_bson_t document = {data, bson->len};
    bson_destroy(bson);
    return document;
}

/* An update is a document, or an array when it starts with '['. */
static inline vd_value_t case_update(vd_arena_t *arena, const char *json)
{
    if (json[0] != '[')
        return vd_value_from_document(case_json(arena, json));
    vd_bson_t wrapped = case_json(arena, vd_arena_printf(arena, "{'u': %s}", json));
    return vd_bson_get(wrapped, "u");
}

static inline vd_bson_t case_array(vd_arena_t *arena, const char *json)
{
    if (json == NULL)
        return VD_BSON_NONE;
    return vd_value_document(case_update(arena, json));
}

static inline bool case_bytes_equal(vd_bson_t a, vd_bson_t b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

static inline void case_expect_error(const char *what, const char *update, int rc, int code,
                                     const char *message, const vd_error_t *err)
{
    cr_expect_eq(rc, -code, "%s with %s: code %d instead of %d (%s)", what, update, -rc, code,
                 err->message);
    if (message != NULL && rc == -code)
        cr_expect(strstr(err->message, message) != NULL,
                  "%s with %s: message\n  %s\ninstead of\n  %s", what, update, err->message,
                  message);
}

static inline void case_run(const update_case_t *c)
{
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    vd_bson_t document = case_json(arena, c->document), result = VD_BSON_NONE;
    stor_update_options_t options = {.update = case_update(arena, c->update),
                                     .array_filters = case_array(arena, c->array_filters),
                                     .variables = &case_variables};
    stor_match_t match = {.arena = arena, .variables = &case_variables, .array_position = -1};
    if (c->filter != NULL) {
        stor_filter_t *filter = NULL;
        bool matches = false;
        int rc =
            stor_filter_parse(arena, case_json(arena, c->filter), &case_variables, &filter, &err);
        if (rc == VD_OK)
            rc = stor_match_document(filter, document, &match, &matches, &err);
        cr_expect(rc == VD_OK && matches, "%s does not match %s: %s", c->filter, c->document,
                  err.message);
    }
    stor_update_t *update = NULL;
    bool changed = false;
    int rc = stor_update_parse(arena, &options, &update, &err);
    if (rc == VD_OK)
        rc = stor_update_apply(update, arena, document, &match, &result, &changed, &err);
    if (c->expected == NULL) {
        case_expect_error(c->document, c->update, rc, c->code, c->message, &err);
    } else if (rc != VD_OK) {
        cr_expect(false, "%s with %s: error %d %s", c->document, c->update, -rc, err.message);
    } else {
        bool same = strcmp(c->expected, SAME) == 0;
        vd_bson_t expected = case_json(arena, same ? c->document : c->expected);
        cr_expect(changed == !same, "%s with %s: changed is %d", c->document, c->update, changed);
        cr_expect(case_bytes_equal(result, expected), "%s with %s:\n  %s\ninstead of\n  %s",
                  c->document, c->update, vd_bson_to_json(arena, result, 2000),
                  vd_bson_to_json(arena, expected, 2000));
        cr_expect(vd_bson_validate(vd_slice(result.data, result.len), VD_BSON_CHECK_UTF8,
                                   VD_BSON_DEPTH_MAX, NULL) == VD_OK,
                  "%s with %s: not BSON", c->document, c->update);
    }
    vd_arena_destroy(&arena);
}

#define CASES_RUN(cases)                                                                           \
    for (size_t case_i = 0; case_i < VD_COUNT_OF(cases); case_i++)                                 \
    case_run(&(cases)[case_i])
