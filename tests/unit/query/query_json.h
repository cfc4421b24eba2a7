/* tests/unit/query/query_json.h — documents written as text in test tables.
 *
 * Extended JSON with ' for ", read by libbson. Names that libbson takes for itself inside a filter
 * are written with %: '%regex' '%options' '%type' '%ref' '%id' '%db' become $regex and so on. */
#pragma once
#include "libcommon/bson/view.h"

#include <bson/bson.h>
#include <criterion/criterion.h>

static inline void query_json_unescape(uint8_t *data)
{
    uint32_t len = vd_get_u32(data);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, (vd_bson_t){data, len});
    while (vd_bson_iter_next(&iter)) {
        if (iter.name.len > 0 && iter.name.data[0] == '%')
            data[iter.name.data - data] = '$';
        if (iter.value.type == VD_BSON_OBJECT || iter.value.type == VD_BSON_ARRAY)
            query_json_unescape(data + (iter.value.data - data));
    }
}

static inline vd_bson_t query_json(vd_arena_t *arena, const char *text)
{
    char *json = vd_arena_strdup(arena, text);
    for (char *p = json; *p != 0; p++)
        if (*p == '\'')
            *p = '"';
    bson_error_t error;
    bson_t *parsed = bson_new_from_json((const uint8_t *)json, -1, &error);
    cr_assert(parsed != NULL, "%s: %s", text, error.message);
    uint8_t *data = vd_arena_copy(arena, bson_get_data(parsed), parsed->len);
    vd_bson_t document = {data, parsed->len};
    bson_destroy(parsed);
    query_json_unescape(data);
    return document;
}

/* The value of the field v in {'v': ...}. */
static inline vd_value_t query_value(vd_arena_t *arena, const char *text)
{
    return vd_bson_get(query_json(arena, vd_arena_printf(arena, "{'v': %s}", text)), "v");
}
