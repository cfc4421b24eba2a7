/* veddb-storaged/query/document.c — checks of whole documents, and what an insert does to one
 * before it is stored. */
#include "veddb-storaged/query/update_private.h"

static bool deeper_than(vd_bson_t document, uint32_t left)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter)) {
        if (iter.value.type != VD_BSON_OBJECT && iter.value.type != VD_BSON_ARRAY)
            continue;
        if (left == 0 || deeper_than(vd_value_document(iter.value), left - 1))
            return true;
    }
    return false;
}

bool stor_document_too_deep(vd_bson_t document)
{
    return deeper_than(document, VD_BSON_DEPTH_MAX - 1);
}

static int check_embedded(vd_bson_t document, uint32_t left, vd_error_t *err)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    /* A DBRef's own names, in their order, at the head of an object. */
    static const char *const dbref[] = {"$ref", "$id", "$db"};
    size_t expected = 0;
    while (vd_bson_iter_next(&iter)) {
        if (stor_slice_dollar(iter.name)) {
            bool known = expected < VD_COUNT_OF(dbref) && vd_slice_is(iter.name, dbref[expected]) &&
                         (expected == 1 || iter.value.type == VD_BSON_STRING);
            if (!known)
                return vd_error_set(err, VD_ERR_DOLLAR_PREFIXED_FIELD_NAME,
                                    "%.*s is not valid for storage.", VD_SLICE_FMT(iter.name));
            expected++;
        } else {
            if (expected == 1) /* $ref without $id */
                return vd_error_set(err, VD_ERR_DOLLAR_PREFIXED_FIELD_NAME,
                                    "$ref is not valid for storage.");
            expected = VD_COUNT_OF(dbref);
        }
        if (left > 0 && (iter.value.type == VD_BSON_OBJECT || iter.value.type == VD_BSON_ARRAY)) {
            int rc = check_embedded(vd_value_document(iter.value), left - 1, err);
            if (rc != VD_OK)
                return rc;
        }
    }
    if (expected == 1)
        return vd_error_set(err, VD_ERR_DOLLAR_PREFIXED_FIELD_NAME,
                            "$ref is not valid for storage.");
    return VD_OK;
}

int stor_check_embedded(vd_bson_t document, vd_error_t *err)
{
    return check_embedded(document, VD_BSON_DEPTH_MAX, err);
}

int stor_check_id(vd_value_t id, vd_error_t *err)
{
    if (id.type == VD_BSON_REGEX || id.type == VD_BSON_ARRAY || id.type == VD_BSON_UNDEFINED)
        return vd_error_set(err, VD_ERR_INVALID_ID_FIELD, "The '_id' value cannot be of type %s",
                            vd_bson_type_name(id.type));
    if (id.type != VD_BSON_OBJECT)
        return VD_OK;
    vd_error_t inner = VD_ERROR_INIT;
    int rc = stor_check_embedded(vd_value_document(id), &inner);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "_id fields may not contain '$'-prefixed fields: %s",
                            inner.message);
    return VD_OK;
}

/* What an insert refuses in an _id; codes differ from those of an update. */
static int check_insert_id(vd_value_t id, vd_error_t *err)
{
    switch (id.type) {
    case VD_BSON_REGEX:
        return vd_error_set(err, VD_ERR_BAD_VALUE, "can't use a regex for _id");
    case VD_BSON_UNDEFINED:
        return vd_error_set(err, VD_ERR_BAD_VALUE, "can't use a undefined for _id");
    case VD_BSON_ARRAY:
        return vd_error_set(err, VD_ERR_BAD_VALUE, "can't use an array for _id");
    case VD_BSON_OBJECT:
        return stor_check_embedded(vd_value_document(id), err);
    default:
        return VD_OK;
    }
}

static bool is_empty_timestamp(vd_value_t v)
{
    return v.type == VD_BSON_TIMESTAMP && vd_value_timestamp(v) == 0;
}

int stor_document_prepare(vd_arena_t *arena, vd_bson_t document, uint64_t now_ts,
                          vd_bson_t *ret_document, vd_error_t *err)
{
    VD_ASSERT(arena != NULL);
    VD_ASSERT(ret_document != NULL);

    if (document.len > VD_BSON_DOCUMENT_MAX_BYTES)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "object to insert too large. size in bytes: %u, max size: %d",
                            document.len, VD_BSON_DOCUMENT_MAX_BYTES);
    if (stor_document_too_deep(document))
        return vd_error_set(err, VD_ERR_OVERFLOW,
                            "cannot insert document because it exceeds %d levels of nesting",
                            VD_BSON_DEPTH_MAX);

    vd_value_t id = VD_VALUE_MISSING;
    const uint8_t *id_start = NULL, *id_end = NULL, *first = NULL, *last = NULL;
    bool fill = false;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter)) {
        const uint8_t *start = iter.name.data - 1;
        if (first == NULL)
            first = start;
        last = iter.pos;
        if (!vd_slice_is(iter.name, "_id")) {
            fill |= is_empty_timestamp(iter.value);
            continue;
        }
        int rc = check_insert_id(iter.value, err);
        if (rc != VD_OK)
            return rc;
        if (!vd_value_is_missing(id))
            return vd_error_set(err, VD_ERR_BAD_VALUE,
                                "can't have multiple _id fields in one document");
        id = iter.value;
        id_start = start, id_end = iter.pos;
    }
    if (!vd_value_is_missing(id) && id_start == first && !fill) {
        *ret_document = document;
        return VD_OK;
    }

    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, VD_BSON_DOCUMENT_MAX_BYTES);
    if (vd_value_is_missing(id)) {
        uint8_t oid[12];
        vd_objectid_new(oid);
        vd_bb_objectid(&bb, "_id", oid);
    } else {
        stor_bb_run(&bb, id_start, id_end);
    }
    if (!fill) {
        if (id_start == NULL) {
            stor_bb_run(&bb, first, last);
        } else {
            stor_bb_run(&bb, first, id_start);
            stor_bb_run(&bb, id_end, last);
        }
    } else {
        vd_bson_iter_init(&iter, document);
        while (vd_bson_iter_next(&iter)) {
            if (iter.name.data - 1 == id_start)
                continue;
            if (is_empty_timestamp(iter.value))
                vd_bb_value(&bb, iter.name, vd_value_from_timestamp(arena, now_ts));
            else
                stor_bb_run(&bb, iter.name.data - 1, iter.pos);
        }
    }
    vd_error_t inner = VD_ERROR_INIT;
    int rc = vd_bb_finish(&bb, ret_document, &inner);
    if (rc == VD_ERR_BSON_OBJECT_TOO_LARGE)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "object to insert too large. size in bytes: %u, max size: %d",
                            document.len + 17, VD_BSON_DOCUMENT_MAX_BYTES);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s", inner.message);
    return VD_OK;
}
