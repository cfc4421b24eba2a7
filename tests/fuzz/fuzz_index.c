/* tests/fuzz/fuzz_index.c — an index {key, partialFilterExpression, sparse, ...} and a document,
 * one behind the other: the keys that the document gives are sorted and distinct, read back, and
 * written again they are the same bytes; each value of a plain index is in the order of its key. */
#include "libcommon/bson/build.h"
#include "libcommon/bson/compare.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/index/keys.h"

/* What commands/index_spec.c lets through, as far as keys_make relies on it. */
static bool spec_fits(vd_bson_t spec)
{
    vd_value_t key = vd_bson_get(spec, "key");
    vd_bson_iter_t iter;
    uint32_t count = 0, special = 0;
    if (key.type != VD_BSON_OBJECT)
        return false;
    for (vd_bson_iter_init(&iter, vd_value_document(key)); vd_bson_iter_next(&iter);) {
        bool hashed =
            iter.value.type == VD_BSON_STRING && vd_slice_is(vd_value_string(iter.value), "hashed");
        bool wildcard = memmem(iter.name.data, iter.name.len, "$", 1) != NULL;
        special += hashed || wildcard;
        if ((!hashed && iter.value.type != VD_BSON_INT32) || iter.name.len == 0 ||
            iter.name.len > 60 || (wildcard && !vd_slice_is(iter.name, "$**")) ||
            (!wildcard && (iter.name.data[0] == '.' || iter.name.data[iter.name.len - 1] == '.' ||
                           memmem(iter.name.data, iter.name.len, "..", 2) != NULL)) ||
            ++count > 8)
            return false;
    }
    return count > 0 && special <= 1 && (special == 0 || count == 1) &&
           vd_bson_get(spec, "wildcardProjection").type == VD_BSON_MISSING;
}

/* One key, value by value: read, passed over, written again. */
static void key_check(vd_arena_t *arena, const stor_index_def_t *def, const stor_index_key_t *key,
                      vd_value_t *ret_first)
{
    vd_slice_t rest = key->key, bits = key->type_bits;
    uint32_t count = def->field_count + (def->has_wildcard ? 1 : 0);
    for (uint32_t i = 0; i < count; i++) {
        bool descending = i < def->field_count && def->fields[i].order == STOR_INDEX_DESCENDING,
             exact = false;
        vd_slice_t before = rest, skipped = rest;
        vd_value_t value;
        int rc = stor_keycode_decode(arena, &rest, &bits, descending, &value, NULL);
        VD_ASSERT(rc == VD_OK || (rc == VD_ERR_INVALID && !key->exact));
        VD_ASSERT(stor_keycode_skip(&skipped, descending, &exact, NULL) == VD_OK);
        VD_ASSERT(skipped.len == rest.len && exact == (rc == VD_OK));
        if (rc != VD_OK)
            return; /* its type bits say nothing more */
        vd_buf_t again;
        vd_buf_init(&again, 1 << 20);
        VD_ASSERT(stor_keycode_append(&again, value, descending, &exact, NULL) == VD_OK && exact);
        vd_slice_t bytes = vd_buf_slice(&again);
        VD_ASSERT(bytes.len == before.len - rest.len &&
                  memcmp(bytes.data, before.data, bytes.len) == 0);
        vd_buf_done(&again);
        if (i == 0)
            *ret_first = value;
    }
    VD_ASSERT(rest.len == 0);
}

static void keys_check(vd_arena_t *arena, const stor_index_def_t *def, vd_bson_t document)
{
    stor_index_keys_t keys, again;
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_index_keys_make(def, arena, document, &keys, &err);
    if (rc != VD_OK) {
        VD_ASSERT(err.code != VD_OK);
        return;
    }
    VD_ASSERT(stor_index_keys_make(def, arena, document, &again, NULL) == VD_OK);
    VD_ASSERT(keys.count == again.count && keys.multikey == again.multikey);
    VD_ASSERT(keys.count <= 1 || keys.multikey != 0 || def->has_wildcard);
    vd_value_t last = VD_VALUE_MISSING;
    for (uint32_t i = 0; i < keys.count; i++) {
        const stor_index_key_t *key = &keys.keys[i];
        vd_value_t first = VD_VALUE_MISSING;
        VD_ASSERT(vd_slice_equal(key->key, again.keys[i].key));
        VD_ASSERT(vd_slice_equal(key->type_bits, again.keys[i].type_bits));
        if (i > 0)
            VD_ASSERT(vd_slice_compare(keys.keys[i - 1].key, key->key) < 0);
        key_check(arena, def, key, &first);
        if (last.type != VD_BSON_MISSING && first.type != VD_BSON_MISSING && keys.keys[i].exact &&
            keys.keys[i - 1].exact) {
            int order = vd_value_compare(last, first);
            VD_ASSERT(def->fields[0].order == STOR_INDEX_DESCENDING ? order >= 0 : order <= 0);
        }
        last = first;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vd_bson_t spec;
    if (size > 65536 || vd_bson_peek(vd_slice(data, size), &spec, NULL) != VD_OK)
        return 0;
    vd_slice_t rest = vd_slice(data + spec.len, size - spec.len);
    vd_bson_t document = {rest.data, (uint32_t)rest.len};
    if (vd_bson_validate(vd_slice(spec.data, spec.len), VD_BSON_CHECK_UTF8, VD_BSON_DEPTH_MAX,
                         NULL) != VD_OK ||
        vd_bson_validate(rest, 0, VD_BSON_DEPTH_MAX, NULL) != VD_OK || !spec_fits(spec))
        return 0;
    vd_arena_t *arena = vd_arena_create();
    const stor_index_def_t *def;
    if (stor_index_def_parse(arena, spec, &def, NULL) == VD_OK)
        keys_check(arena, def, document);
    vd_arena_destroy(&arena);
    return 0;
}
