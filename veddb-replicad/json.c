/* veddb-replicad/json.c — see json.h. */
#include "veddb-replicad/json.h"

typedef struct {
    const uint8_t *at, *end;
    repl_json_t *json;
    unsigned depth;
} reader_t;

static bool value(reader_t *in, vd_slice_t name);

static void blanks(reader_t *in)
{
    while (in->at < in->end &&
           (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
}

static bool take(reader_t *in, char c)
{
    if (in->at == in->end || *in->at != (uint8_t)c)
        return false;
    in->at++;
    return true;
}

static bool is_hex(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f');
}

static bool escape(reader_t *in)
{
    static const char simple[] = "\"\\/bfnrt";
    if (in->at == in->end)
        return false;
    uint8_t c = *in->at++;
    if (c != 'u')
        return c != 0 && strchr(simple, c) != NULL;
    for (int i = 0; i < 4; i++) {
        if (in->at == in->end || !is_hex(*in->at++))
            return false;
    }
    return true;
}

static bool string(reader_t *in, vd_slice_t *ret_text)
{
    if (!take(in, '"'))
        return false;
    const uint8_t *from = in->at;
    while (in->at < in->end && *in->at != '"') {
        uint8_t c = *in->at++;
        if (c < 0x20 || (c == '\\' && !escape(in)))
            return false;
    }
    *ret_text = vd_slice(from, (size_t)(in->at - from));
    return take(in, '"');
}

static bool digits(reader_t *in)
{
    const uint8_t *from = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9')
        in->at++;
    return in->at != from;
}

static bool number(reader_t *in, vd_slice_t *ret_text)
{
    const uint8_t *from = in->at;
    (void)take(in, '-');
    if (!take(in, '0') && !digits(in))
        return false;
    if (take(in, '.') && !digits(in))
        return false;
    if (take(in, 'e') || take(in, 'E')) {
        if (!take(in, '+'))
            (void)take(in, '-');
        if (!digits(in))
            return false;
    }
    *ret_text = vd_slice(from, (size_t)(in->at - from));
    return true;
}

static bool word(reader_t *in, vd_slice_t *ret_text)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < VD_COUNT_OF(words); i++) {
        size_t len = strlen(words[i]);
        if ((size_t)(in->end - in->at) >= len && memcmp(in->at, words[i], len) == 0) {
            *ret_text = vd_slice(in->at, len);
            in->at += len;
            return true;
        }
    }
    return false;
}

static bool members(reader_t *in, bool named)
{
    char last = named ? '}' : ']';
    blanks(in);
    if (take(in, last))
        return true;
    do {
        vd_slice_t name = VD_SLICE_NULL;
        blanks(in);
        if (named) {
            if (!string(in, &name))
                return false;
            blanks(in);
            if (!take(in, ':'))
                return false;
        }
        if (!value(in, name))
            return false;
        blanks(in);
    } while (take(in, ','));
    return take(in, last);
}

static bool value(reader_t *in, vd_slice_t name)
{
    repl_json_t *json = in->json;
    blanks(in);
    if (in->at == in->end || json->count == REPL_JSON_VALUES_MAX ||
        in->depth == REPL_JSON_DEPTH_MAX)
        return false;
    repl_json_value_t *v = &json->values[json->count++];
    bool good = true;
    *v = (repl_json_value_t){.name = name};
    in->depth++;
    if (take(in, '{')) {
        v->kind = REPL_JSON_OBJECT;
        good = members(in, true);
    } else if (take(in, '[')) {
        v->kind = REPL_JSON_ARRAY;
        good = members(in, false);
    } else if (*in->at == '"') {
        v->kind = REPL_JSON_STRING;
        good = string(in, &v->text);
    } else if (*in->at == '-' || (*in->at >= '0' && *in->at <= '9')) {
        v->kind = REPL_JSON_NUMBER;
        good = number(in, &v->text);
    } else {
        v->kind = REPL_JSON_WORD;
        good = word(in, &v->text);
    }
    in->depth--;
    v->next = json->count;
    return good;
}

int repl_json_parse(vd_slice_t text, repl_json_t *ret_json, vd_error_t *err)
{
    static const uint8_t nothing[1];
    const uint8_t *from = text.len == 0 ? nothing : text.data;
    reader_t in = {.at = from, .end = from + text.len, .json = ret_json};
    ret_json->count = 0;
    bool good = value(&in, VD_SLICE_NULL);
    blanks(&in);
    if (good && in.at == in.end)
        return VD_OK;
    return vd_error_set(err, VD_ERR_PROTOCOL, "not JSON, or too much of it, at byte %zu",
                        (size_t)(in.at - from));
}

const repl_json_value_t *repl_json_get(const repl_json_t *json, const repl_json_value_t *parent,
                                       const char *name)
{
    if (parent == NULL || parent->kind != REPL_JSON_OBJECT)
        return NULL;
    for (uint32_t i = (uint32_t)(parent - json->values) + 1; i < parent->next;
         i = json->values[i].next) {
        if (vd_slice_is(json->values[i].name, name))
            return &json->values[i];
    }
    return NULL;
}

const repl_json_value_t *repl_json_first(const repl_json_t *json, const repl_json_value_t *array)
{
    if (array == NULL || array->kind != REPL_JSON_ARRAY)
        return NULL;
    uint32_t first = (uint32_t)(array - json->values) + 1;
    return first < array->next ? &json->values[first] : NULL;
}

bool repl_json_u64(const repl_json_value_t *v, uint64_t *ret)
{
    uint64_t n = 0;
    if (v == NULL || (v->kind != REPL_JSON_NUMBER && v->kind != REPL_JSON_STRING) ||
        v->text.len == 0)
        return false;
    for (size_t i = 0; i < v->text.len; i++) {
        uint8_t c = v->text.data[i];
        if (c < '0' || c > '9' || n > (UINT64_MAX - (uint64_t)(c - '0')) / 10)
            return false;
        n = n * 10 + (uint64_t)(c - '0');
    }
    *ret = n;
    return true;
}
