/* veddb-gatewayd/cache_key.c — see cache_key.h. */
#include "veddb-gatewayd/cache_key.h"

#include <string.h>

typedef enum {
    FIELD_KEPT,    /* part of the key as it stands */
    FIELD_DROPPED, /* of no consequence for the answer */
    FIELD_FILTER,  /* {_id: <scalar>} */
    FIELD_PROJECT, /* names in or out, nothing computed */
    FIELD_CONCERN, /* level into the key, the time beside it */
} field_kind_t;

static const struct {
    const char *name;
    field_kind_t kind;
} fields[] = {
    {"filter", FIELD_FILTER},
    {"limit", FIELD_KEPT},
    {"singleBatch", FIELD_KEPT},
    {"batchSize", FIELD_KEPT},
    {"$db", FIELD_KEPT},
    {"lsid", FIELD_DROPPED},
    {"$clusterTime", FIELD_DROPPED},
    {"projection", FIELD_PROJECT},
    {"readConcern", FIELD_CONCERN},
    {"$readPreference", FIELD_KEPT},
    {"maxTimeMS", FIELD_DROPPED},
    {"apiVersion", FIELD_KEPT},
    {"apiStrict", FIELD_KEPT},
    {"apiDeprecationErrors", FIELD_KEPT},
};

static bool put(gate_cache_key_t *key, const void *data, size_t len)
{
    if (len > sizeof key->bytes - key->len)
        return false;
    memcpy(key->bytes + key->len, data, len);
    key->len += (uint32_t)len;
    return true;
}

/* The whole element: type, name, value. */
static bool put_element(gate_cache_key_t *key, vd_slice_t name, vd_value_t v)
{
    uint8_t type = (uint8_t)v.type;
    return put(key, &type, 1) && put(key, name.data, name.len) && put(key, "", 1) &&
           put(key, v.data, v.len);
}

/* Types whose equality finds one key and is no operator. */
static bool is_plain_id(vd_value_t v)
{
    switch (v.type) {
    case VD_BSON_DOUBLE:
    case VD_BSON_STRING:
    case VD_BSON_BINARY:
    case VD_BSON_OBJECTID:
    case VD_BSON_BOOL:
    case VD_BSON_DATE:
    case VD_BSON_INT32:
    case VD_BSON_TIMESTAMP:
    case VD_BSON_INT64:
        return true;
    default:
        return false;
    }
}

static bool is_by_id(vd_value_t v)
{
    vd_bson_iter_t each;
    if (v.type != VD_BSON_OBJECT)
        return false;
    vd_bson_iter_init(&each, vd_value_document(v));
    return vd_bson_iter_next(&each) && vd_slice_is(each.name, "_id") && is_plain_id(each.value) &&
           !vd_bson_iter_next(&each) && !each.bad;
}

static bool is_plain_projection(vd_value_t v)
{
    vd_bson_iter_t each;
    if (v.type != VD_BSON_OBJECT)
        return false;
    vd_bson_iter_init(&each, vd_value_document(v));
    while (vd_bson_iter_next(&each)) {
        if (!vd_value_is_number(each.value) && each.value.type != VD_BSON_BOOL)
            return false;
        if (each.name.len == 0 || each.name.data[0] == '$')
            return false;
    }
    return !each.bad;
}

static bool put_concern(gate_cache_key_t *key, vd_value_t v)
{
    vd_bson_iter_t each;
    if (v.type != VD_BSON_OBJECT)
        return false;
    vd_bson_iter_init(&each, vd_value_document(v));
    while (vd_bson_iter_next(&each)) {
        if (vd_slice_is(each.name, "level") && each.value.type == VD_BSON_STRING) {
            vd_slice_t level = vd_value_string(each.value);
            if (!vd_slice_is(level, "local") && !vd_slice_is(level, "available") &&
                !vd_slice_is(level, "majority"))
                return false;
            if (!put_element(key, each.name, each.value))
                return false;
        } else if (vd_slice_is(each.name, "afterClusterTime") &&
                   each.value.type == VD_BSON_TIMESTAMP && key->after_cluster_time == 0) {
            key->after_cluster_time = vd_value_timestamp(each.value);
            if (key->after_cluster_time == 0)
                return false; /* an error, which storage tells */
        } else {
            return false;
        }
    }
    return !each.bad;
}

static bool put_field(gate_cache_key_t *key, vd_slice_t name, vd_value_t v, bool *by_id)
{
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!vd_slice_is(name, fields[i].name))
            continue;
        switch (fields[i].kind) {
        case FIELD_DROPPED:
            return true;
        case FIELD_CONCERN:
            return put(key, "\x03readConcern", sizeof "\x03readConcern") && put_concern(key, v);
        case FIELD_FILTER:
            *by_id = is_by_id(v);
            return *by_id && put_element(key, name, v);
        case FIELD_PROJECT:
            return is_plain_projection(v) && put_element(key, name, v);
        case FIELD_KEPT:
            return put_element(key, name, v);
        }
    }
    return false;
}

bool gate_cache_key(vd_bson_t body, gate_cache_key_t *ret_key)
{
    vd_bson_iter_t each;
    bool by_id = false;
    ret_key->len = 0;
    ret_key->after_cluster_time = 0;
    vd_bson_iter_init(&each, body);
    if (!vd_bson_iter_next(&each) || !vd_slice_is(each.name, "find") ||
        each.value.type != VD_BSON_STRING || !put_element(ret_key, each.name, each.value))
        return false;
    while (vd_bson_iter_next(&each))
        if (!put_field(ret_key, each.name, each.value, &by_id))
            return false;
    return !each.bad && by_id;
}
