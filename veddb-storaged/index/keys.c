/* veddb-storaged/index/keys.c — see keys.h.
 *
 * The walk is MongoDB's: every field goes down its path to the first array or to its end. When no
 * array was met, the values are the key. Else all fields that met one must have met the same one
 * (171 otherwise), and the walk goes on from each of its elements for the fields that are not at
 * their end. A part of a path that is a position of that array ("a.0.b") is looked up in it once,
 * for all elements. */
#include "veddb-storaged/index/keys_private.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/compare.h"
#include "libcommon/bson/decimal.h"
#include "veddb-storaged/query/collation.h"
#include "veddb-storaged/query/match.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>

#define KEY_MAX_BYTES ((STOR_INDEX_FIELDS_MAX + 2) * (size_t)VD_KEYCODE_MAX_BYTES)

/* ---- definition ---- */

static int field_parse(index_def_t *def, stor_index_field_t *field, vd_slice_t name, vd_value_t v,
                       vd_error_t *err)
{
    bool whole = vd_slice_is(name, "$**");
    field->path = name;
    if (whole || (name.len > 4 && memcmp(name.data + name.len - 4, ".$**", 4) == 0)) {
        if (def->def.has_wildcard)
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "an index has one wildcard field at most");
        field->order = STOR_INDEX_WILDCARD;
        field->path = vd_slice(name.data, whole ? 0 : name.len - 4);
        def->wildcard = def->def.field_count;
        def->def.has_wildcard = true;
        return VD_OK;
    }
    if (v.type == VD_BSON_STRING && vd_slice_is(vd_value_string(v), "hashed")) {
        if (def->has_hashed)
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX,
                                "an index has one hashed field at most");
        def->has_hashed = true;
        field->order = STOR_INDEX_HASHED;
        return VD_OK;
    }
    if (!vd_value_is_number(v))
        return vd_error_set(err, VD_ERR_NOT_IMPLEMENTED, "an index of that kind is not built yet");
    field->order = vd_value_as_double(v) < 0 ? STOR_INDEX_DESCENDING : STOR_INDEX_ASCENDING;
    return VD_OK;
}

static int fields_parse(vd_arena_t *arena, index_def_t *def, vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    stor_index_field_t *fields = VD_ARENA_ARRAY(arena, stor_index_field_t, STOR_INDEX_FIELDS_MAX);
    def->def.fields = fields;
    vd_bson_iter_init(&iter, def->def.key);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        if (def->def.field_count == STOR_INDEX_FIELDS_MAX)
            return vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX, "Index key pattern too large.");
        rc = field_parse(def, &fields[def->def.field_count], iter.name, iter.value, err);
        def->def.field_count++;
    }
    if (rc == VD_OK && def->def.field_count == 0)
        rc = vd_error_set(err, VD_ERR_CANNOT_CREATE_INDEX, "Index keys cannot be an empty object.");
    return rc;
}

int stor_index_def_parse(vd_arena_t *arena, vd_bson_t spec, const stor_index_def_t **ret_def,
                         vd_error_t *err)
{
    index_def_t *def = VD_ARENA_NEW(arena, index_def_t);
    vd_bson_t own = {vd_arena_copy(arena, spec.data, spec.len), spec.len};
    vd_value_t key = vd_bson_get(own, "key"), name = vd_bson_get(own, "name"),
               partial = vd_bson_get(own, "partialFilterExpression"),
               projection = vd_bson_get(own, "wildcardProjection"),
               collation = vd_bson_get(own, "collation"),
               expire = vd_bson_get(own, "expireAfterSeconds");
    if (key.type != VD_BSON_OBJECT || name.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_CORRUPT, "the specification of an index is malformed");
    def->def.spec = own;
    def->def.key = vd_value_document(key);
    def->def.name = vd_value_string(name);
    def->def.unique =
        vd_value_as_flag(vd_bson_get(own, "unique")) || stor_index_is_of_id(&def->def);
    def->def.prepare_unique =
        !def->def.unique && vd_value_as_flag(vd_bson_get(own, "prepareUnique"));
    def->def.sparse = vd_value_as_flag(vd_bson_get(own, "sparse"));
    def->def.hidden = vd_value_as_flag(vd_bson_get(own, "hidden"));
    def->def.expire_after_seconds =
        vd_value_is_number(expire) ? (int64_t)vd_value_as_double(expire) : -1;
    def->def.wildcard_projection =
        projection.type == VD_BSON_OBJECT ? vd_value_document(projection) : VD_BSON_NONE;
    int rc = fields_parse(arena, def, err);
    if (rc == VD_OK && def->def.has_wildcard)
        rc = wildcard_parse(arena, def, err);
    if (rc == VD_OK && collation.type == VD_BSON_OBJECT)
        rc = stor_collation_hold(arena, vd_value_document(collation), &def->def.collation, err);
    def->def.collation_spec = stor_collation_of(def->def.collation);
    stor_filter_t *filter = NULL;
    if (rc == VD_OK && partial.type == VD_BSON_OBJECT) {
        const vd_collation_t *before = vd_collation_set(def->def.collation);
        rc = stor_filter_parse(arena, vd_value_document(partial), NULL, &filter, err);
        (void)vd_collation_set(before);
    }
    def->def.partial = filter;
    if (rc == VD_OK)
        *ret_def = &def->def;
    return rc;
}

/* ---- one key ---- */

void key_begin(maker_t *m)
{
    vd_buf_clear(&m->key);
    vd_buf_clear(&m->bits);
}

int key_value(maker_t *m, vd_value_t value, bool descending, bool *exact)
{
    bool whole;
    int rc = stor_keycode_append_collated(&m->key, value, descending, m->def->def.collation, &whole,
                                          m->err);
    *exact &= whole;
    return rc == VD_OK && *exact ? stor_keycode_append_type_bits(&m->bits, value, m->err) : rc;
}

int key_end(maker_t *m, bool exact)
{
    if (m->count == m->cap) {
        if (m->count >= STOR_INDEX_KEYS_MAX)
            return vd_error_set(m->err, VD_ERR_BAD_VALUE,
                                "a document has more than %d keys in the index '%.*s'",
                                STOR_INDEX_KEYS_MAX, VD_SLICE_FMT(m->def->def.name));
        uint32_t cap = m->cap == 0 ? 1 : m->cap * 4;
        stor_index_key_t *grown = vd_arena_alloc(m->arena, cap * sizeof *grown);
        if (m->count > 0)
            memcpy(grown, m->keys, m->count * sizeof *grown);
        m->keys = grown;
        m->cap = cap;
    }
    vd_slice_t bits = exact ? vd_buf_slice(&m->bits) : VD_SLICE_NULL;
    while (bits.len > 0 && bits.data[bits.len - 1] == 0)
        bits.len--;
    m->keys[m->count++] =
        (stor_index_key_t){.key = vd_arena_copy_slice(m->arena, vd_buf_slice(&m->key)),
                           .type_bits = vd_arena_copy_slice(m->arena, bits),
                           .exact = exact};
    return VD_OK;
}

static int key_compare(const void *a, const void *b)
{
    return vd_slice_compare(((const stor_index_key_t *)a)->key, ((const stor_index_key_t *)b)->key);
}

static void keys_sort(maker_t *m)
{
    if (m->count < 2)
        return;
    uint32_t kept = 1;
    qsort(m->keys, m->count, sizeof *m->keys, key_compare);
    for (uint32_t i = 1; i < m->count; i++)
        if (!vd_slice_equal(m->keys[kept - 1].key, m->keys[i].key))
            m->keys[kept++] = m->keys[i];
    m->count = kept;
}

/* ---- plain fields ---- */

vd_value_t keys_extract(vd_bson_t document, vd_slice_t *path)
{
    for (;;) {
        const uint8_t *dot = memchr(path->data, '.', path->len);
        size_t len = dot == NULL ? path->len : (size_t)(dot - path->data);
        size_t used = dot == NULL ? len : len + 1;
        vd_value_t value = vd_bson_get_slice(document, vd_slice(path->data, len));
        *path = vd_slice(path->data + used, path->len - used);
        if (value.type == VD_BSON_MISSING || value.type == VD_BSON_ARRAY || path->len == 0)
            return value;
        if (value.type != VD_BSON_OBJECT)
            return VD_VALUE_MISSING;
        document = vd_value_document(value);
    }
}

/* Where a field stands: what is left of its path (empty: its value is known), the value, and what a
 * position of the array just entered leads to. */
typedef struct {
    vd_slice_t rest;
    vd_value_t fixed;
    bool positional, position_nested; /* what stands at the position is an array itself */
    vd_slice_t position_rest;
    vd_value_t position_value;
} place_t;

static vd_slice_t first_part(vd_slice_t path)
{
    const uint8_t *dot = path.len == 0 ? NULL : memchr(path.data, '.', path.len);
    return dot == NULL ? path : vd_slice(path.data, (size_t)(dot - path.data));
}

static const vd_value_t undefined_value = {NULL, 0, VD_BSON_UNDEFINED};

static int emit(maker_t *m, const place_t *places, uint32_t not_found)
{
    const stor_index_def_t *def = &m->def->def;
    bool exact = true;
    int rc = VD_OK;
    if (def->sparse && not_found == def->field_count)
        return VD_OK;
    key_begin(m);
    for (uint32_t i = 0; rc == VD_OK && i < def->field_count; i++)
        rc = key_value(m, places[i].fixed, def->fields[i].order == STOR_INDEX_DESCENDING, &exact);
    return rc == VD_OK ? key_end(m, exact) : rc;
}

static vd_value_t place_next(maker_t *m, place_t *place, vd_bson_t document, bool *nested,
                             int *ret_rc)
{
    vd_slice_t part = first_part(place->rest);
    bool here = vd_bson_get_slice(document, part).type != VD_BSON_MISSING;
    *nested = false;
    if (here && place->positional) {
        *ret_rc = vd_error_set(m->err, VD_ERR_LOCATION(16746),
                               "Ambiguous field name found in array (do not use numeric field "
                               "names in embedded elements in an array), field: '%.*s'",
                               VD_SLICE_FMT(part));
        return VD_VALUE_MISSING;
    }
    if (here)
        return keys_extract(document, &place->rest);
    if (!place->positional)
        return VD_VALUE_MISSING;
    *nested = place->position_nested;
    place->rest = place->position_rest;
    return place->position_value;
}

static int walk(maker_t *m, const place_t *from, vd_bson_t document, uint32_t not_found);

static int element_walk(maker_t *m, const place_t *places, uint32_t arrays, vd_value_t array,
                        vd_value_t element, bool expand, uint32_t not_found)
{
    place_t below[STOR_INDEX_FIELDS_MAX];
    const stor_index_def_t *def = &m->def->def;
    memcpy(below, places, def->field_count * sizeof *below);
    for (uint32_t i = 0; i < def->field_count; i++)
        if ((arrays >> i & 1) != 0 && below[i].rest.len == 0)
            below[i].fixed = expand ? element : array;
    return walk(m, below,
                element.type == VD_BSON_OBJECT ? vd_value_document(element) : VD_BSON_NONE,
                not_found);
}

static int array_walk(maker_t *m, place_t *places, uint32_t arrays, vd_value_t array, bool expand,
                      uint32_t not_found)
{
    const stor_index_def_t *def = &m->def->def;
    vd_bson_t elements = vd_value_document(array);
    m->multikey |= arrays;
    for (uint32_t i = 0; i < def->field_count; i++) {
        place_t *place = &places[i];
        place->positional = false;
        if (place->rest.len == 0)
            continue;
        vd_value_t there = vd_bson_get_slice(elements, first_part(place->rest));
        place->positional = there.type != VD_BSON_MISSING;
        place->position_nested = there.type == VD_BSON_ARRAY;
        if (!place->positional)
            continue;
        place->position_rest = place->rest;
        place->position_value = keys_extract(elements, &place->position_rest);
    }
    if (vd_bson_is_empty(elements))
        return element_walk(m, places, arrays, array, undefined_value, true, not_found);
    vd_bson_iter_t iter;
    int rc = VD_OK;
    vd_bson_iter_init(&iter, elements);
    while (rc == VD_OK && vd_bson_iter_next(&iter))
        rc = element_walk(m, places, arrays, array, iter.value, expand, not_found);
    return rc;
}

static int parallel(maker_t *m, uint32_t first, uint32_t second)
{
    const stor_index_def_t *def = &m->def->def;
    return vd_error_set(
        m->err, VD_ERR_CANNOT_INDEX_PARALLEL_ARRAYS, "cannot index parallel arrays [%.*s] [%.*s]",
        VD_SLICE_FMT(def->fields[second].path), VD_SLICE_FMT(def->fields[first].path));
}

static int walk(maker_t *m, const place_t *from, vd_bson_t document, uint32_t not_found)
{
    const stor_index_def_t *def = &m->def->def;
    place_t places[STOR_INDEX_FIELDS_MAX];
    vd_value_t array = VD_VALUE_MISSING;
    uint32_t arrays = 0, first = 0;
    bool expand = true;
    int rc = VD_OK;
    memcpy(places, from, def->field_count * sizeof *places);
    for (uint32_t i = 0; i < def->field_count; i++) {
        place_t *place = &places[i];
        bool nested;
        if (place->rest.len == 0)
            continue;
        vd_value_t value = place_next(m, place, document, &nested, &rc);
        if (rc != VD_OK)
            return rc;
        if (value.type == VD_BSON_MISSING) {
            place->fixed = vd_value_from_null();
            place->rest = VD_SLICE_NULL;
            not_found++;
        } else if (value.type == VD_BSON_ARRAY) {
            if (arrays != 0 && value.data != array.data)
                return parallel(m, first, i);
            if (arrays == 0)
                array = value, first = i;
            arrays |= 1u << i;
            expand &= !nested;
        } else {
            place->fixed = value; /* its path is at its end */
        }
    }
    return arrays == 0 ? emit(m, places, not_found)
                       : array_walk(m, places, arrays, array, expand, not_found);
}

static int plain_keys(maker_t *m, vd_bson_t document)
{
    const stor_index_def_t *def = &m->def->def;
    place_t places[STOR_INDEX_FIELDS_MAX];
    for (uint32_t i = 0; i < def->field_count; i++)
        places[i] = (place_t){.rest = def->fields[i].path, .fixed = VD_VALUE_MISSING};
    return walk(m, places, document, 0);
}

/* ---- hashed ---- */

/* MongoDB's: MD5 over a seed (0), then type and value, numbers as whole ones of 64 bits; documents
 * and arrays element by element, with names. */
static void hash_value(EVP_MD_CTX *digest, vd_value_t v, vd_slice_t name, bool with_name);

static void hash_bytes(EVP_MD_CTX *digest, const void *data, size_t len)
{
    (void)EVP_DigestUpdate(digest, data, len); /* can't fail after a good init */
}

static int64_t whole_of(vd_value_t v)
{
    int64_t whole;
    if (vd_value_as_int64(v, &whole))
        return whole;
    double d = vd_value_as_double(v);
    if (isnan(d))
        return 0;
    return d >= 0x1p63 ? INT64_MAX : d <= -0x1p63 ? INT64_MIN : (int64_t)d;
}

static void hash_document(EVP_MD_CTX *digest, vd_bson_t document)
{
    vd_bson_iter_t iter;
    uint8_t end[5] = {0}; /* type and name of the end */
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter))
        hash_value(digest, iter.value, iter.name, true);
    hash_bytes(digest, end, sizeof end);
}

static void hash_value(EVP_MD_CTX *digest, vd_value_t v, vd_slice_t name, bool with_name)
{
    uint8_t head[4], number[8];
    vd_put_u32(head, (uint32_t)vd_bson_canonical_type(v.type));
    hash_bytes(digest, head, sizeof head);
    if (with_name)
        hash_bytes(digest, name.data, name.len + 1); /* its NUL follows it */
    if (vd_value_is_number(v)) {
        vd_put_u64(number, (uint64_t)whole_of(v));
        hash_bytes(digest, number, sizeof number);
    } else if (v.type == VD_BSON_OBJECT || v.type == VD_BSON_ARRAY) {
        hash_document(digest, vd_value_document(v));
    } else if (v.type == VD_BSON_CODE_WITH_SCOPE) {
        uint32_t code = vd_get_u32(v.data + 4);
        hash_bytes(digest, v.data + 8, code);
        hash_document(digest, (vd_bson_t){v.data + 8 + code, v.len - 8 - code});
    } else if (v.len > 0) {
        hash_bytes(digest, v.data, v.len);
    }
}

static int64_t hash_of(vd_value_t value)
{
    uint8_t seed[4] = {0}, out[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    int ok = digest != NULL && EVP_DigestInit_ex(digest, EVP_md5(), NULL) == 1;
    VD_ASSERT(ok); /* out of memory ends the process */
    hash_bytes(digest, seed, sizeof seed);
    hash_value(digest, value.type == VD_BSON_MISSING ? vd_value_from_null() : value, VD_SLICE_NULL,
               false);
    (void)EVP_DigestFinal_ex(digest, out, NULL);
    EVP_MD_CTX_free(digest);
    return (int64_t)vd_get_u64(out);
}

int stor_index_hash(vd_value_t value, const vd_collation_t *collation, int64_t *ret_hash,
                    vd_error_t *err)
{
    if (collation == NULL || !vd_value_is_collatable(value)) {
        *ret_hash = hash_of(value);
        return VD_OK;
    }
    vd_buf_t buf;
    bool exact;
    vd_buf_init(&buf, 4 * VD_KEYCODE_MAX_BYTES);
    int rc = stor_keycode_append_collated(&buf, value, false, collation, &exact, err);
    if (rc == VD_OK) { /* a cut key has a hash in it */
        vd_slice_t key = vd_buf_slice(&buf);
        *ret_hash = hash_of((vd_value_t){key.data, (uint32_t)key.len, VD_BSON_BINARY});
    }
    vd_buf_done(&buf);
    return rc;
}

static int hashed_keys(maker_t *m, vd_bson_t document)
{
    const stor_index_def_t *def = &m->def->def;
    vd_value_t values[STOR_INDEX_FIELDS_MAX];
    uint32_t found = 0;
    bool exact = true;
    int rc = VD_OK;
    for (uint32_t i = 0; i < def->field_count; i++) {
        vd_slice_t path = def->fields[i].path;
        values[i] = keys_extract(document, &path);
        if (values[i].type == VD_BSON_ARRAY)
            return vd_error_set(m->err, VD_ERR_LOCATION(16766),
                                "Error: hashed indexes do not currently support array values. "
                                "Found array at path: %.*s",
                                VD_SLICE_FMT(def->fields[i].path));
        found += values[i].type != VD_BSON_MISSING;
        if (values[i].type == VD_BSON_MISSING)
            values[i] = vd_value_from_null();
    }
    if (def->sparse && found == 0)
        return VD_OK;
    key_begin(m);
    for (uint32_t i = 0; rc == VD_OK && i < def->field_count; i++) {
        vd_value_t value = values[i];
        int64_t hash = 0;
        if (def->fields[i].order == STOR_INDEX_HASHED) {
            rc = stor_index_hash(value, def->collation, &hash, m->err);
            if (rc != VD_OK)
                break;
            value = vd_value_from_int64(m->arena, hash);
        }
        rc = key_value(m, value, def->fields[i].order == STOR_INDEX_DESCENDING, &exact);
    }
    return rc == VD_OK ? key_end(m, exact) : rc;
}

/* ---- the whole ---- */

static int is_in(const stor_index_def_t *def, vd_arena_t *arena, vd_bson_t document, bool *ret_in,
                 vd_error_t *err)
{
    *ret_in = true;
    if (VD_LIKELY(def->partial == NULL))
        return VD_OK;
    stor_match_t match = {.arena = arena};
    const vd_collation_t *collation = vd_collation_set(def->collation); /* not the writer's */
    int rc = stor_match_document(def->partial, document, &match, ret_in, err);
    (void)vd_collation_set(collation);
    return rc;
}

int stor_index_keys_make(const stor_index_def_t *def, vd_arena_t *arena, vd_bson_t document,
                         stor_index_keys_t *ret_keys, vd_error_t *err)
{
    bool in;
    *ret_keys = (stor_index_keys_t){0};
    int rc = is_in(def, arena, document, &in, err);
    if (rc != VD_OK || !in)
        return rc;
    maker_t m = {.def = (const index_def_t *)def, .arena = arena, .err = err};
    vd_buf_init(&m.key, KEY_MAX_BYTES);
    vd_buf_init(&m.bits, VD_BSON_INTERNAL_MAX_BYTES);
    if (def->has_wildcard)
        rc = wildcard_keys(&m, document);
    else if (m.def->has_hashed)
        rc = hashed_keys(&m, document);
    else
        rc = plain_keys(&m, document);
    vd_buf_done(&m.key);
    vd_buf_done(&m.bits);
    if (rc != VD_OK)
        return rc;
    keys_sort(&m);
    *ret_keys = (stor_index_keys_t){m.count, m.keys, m.multikey};
    return VD_OK;
}
