/* veddb-storaged/plan/cover.c — see cover.h. */
#include "veddb-storaged/plan/cover.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"
#include "veddb-storaged/plan/predicates.h"

#include <stdlib.h>

void stor_needs_add(vd_arena_t *arena, stor_needs_t *needs, vd_slice_t path)
{
    for (uint32_t i = 0; i < needs->count; i++)
        if (vd_slice_equal(needs->paths[i], path))
            return;
    if (needs->count == needs->room) {
        uint32_t room = needs->room * 2 + 8;
        vd_slice_t *paths = VD_ARENA_ARRAY(arena, vd_slice_t, room);
        if (needs->count > 0)
            memcpy(paths, needs->paths, needs->count * sizeof *paths);
        needs->paths = paths;
        needs->room = room;
    }
    needs->paths[needs->count++] = path;
}

static bool is_parent(vd_slice_t parent, vd_slice_t path)
{
    return path.len > parent.len && vd_slice_starts_with(path, parent) &&
           path.data[parent.len] == '.';
}

static bool add_field(stor_cover_t *cover, const stor_index_def_t *def, vd_slice_t path)
{
    uint32_t field = 0;
    while (field < def->field_count && !vd_slice_equal(def->fields[field].path, path))
        field++;
    if (field == def->field_count) {
        cover->id |= vd_slice_is(path, "_id");
        return vd_slice_is(path, "_id");
    }
    if ((def->fields[field].order != STOR_INDEX_ASCENDING &&
         def->fields[field].order != STOR_INDEX_DESCENDING) ||
        stor_path_has_position(path))
        return false;
    uint32_t at = cover->count;
    for (uint32_t i = 0; i < cover->count; i++)
        if (is_parent(cover->items[i].path, path) || is_parent(path, cover->items[i].path))
            return false;
    while (at > 0 && vd_slice_compare(cover->items[at - 1].path, path) > 0) {
        cover->items[at] = cover->items[at - 1];
        at--;
    }
    cover->items[at].field = field;
    cover->items[at].path = path;
    cover->count++;
    if (field > cover->last_field)
        cover->last_field = field;
    return true;
}

const stor_cover_t *stor_cover_make(vd_arena_t *arena, const stor_index_def_t *def,
                                    stor_index_multikey_t multikey, const stor_needs_t *needs)
{
    if (needs == NULL || needs->all || multikey != 0 || def->has_wildcard ||
        def->collation != NULL || needs->count > STOR_INDEX_FIELDS_MAX)
        return NULL;
    for (uint32_t i = 0; i < def->field_count; i++) {
        if (def->fields[i].order == STOR_INDEX_HASHED)
            return NULL;
    }
    stor_cover_t *cover = VD_ARENA_NEW(arena, stor_cover_t);
    for (uint32_t i = 0; i < needs->count; i++)
        if (!add_field(cover, def, needs->paths[i]))
            return NULL;
    for (uint32_t i = 0; i < def->field_count; i++)
        cover->descending[i] = def->fields[i].order == STOR_INDEX_DESCENDING;
    return cover;
}

/* ---- the document ---- */

static size_t first_part(vd_slice_t path)
{
    const uint8_t *dot = memchr(path.data, '.', path.len);
    return dot == NULL ? path.len : (size_t)(dot - path.data);
}

/* Items [from, to) share the first `skip` bytes of their paths. */
static void append(vd_bb_t *bb, const stor_cover_t *cover, uint32_t from, uint32_t to, size_t skip,
                   const vd_value_t *values)
{
    while (from < to) {
        vd_slice_t path =
            vd_slice(cover->items[from].path.data + skip, cover->items[from].path.len - skip);
        size_t len = first_part(path);
        vd_slice_t name = vd_slice(path.data, len);
        if (len == path.len) {
            vd_bb_value(bb, name, values[cover->items[from++].field]);
            continue;
        }
        uint32_t end = from + 1;
        while (end < to &&
               vd_slice_starts_with(cover->items[end].path,
                                    vd_slice(cover->items[from].path.data, skip + len + 1)))
            end++;
        vd_bb_open_document(bb, name);
        append(bb, cover, from, end, skip + len + 1, values);
        vd_bb_close(bb);
        from = end;
    }
}

/* Types whose key gives them back without type bits. */
static bool id_of(vd_arena_t *arena, vd_slice_t key, vd_value_t *ret)
{
    vd_slice_t none = VD_SLICE_NULL;
    vd_error_t err = VD_ERROR_INIT;
    if (stor_keycode_decode(arena, &key, &none, false, ret, &err) != VD_OK)
        return false;
    return ret->type == VD_BSON_OBJECTID || ret->type == VD_BSON_DATE ||
           ret->type == VD_BSON_BOOL || ret->type == VD_BSON_TIMESTAMP ||
           ret->type == VD_BSON_BINARY;
}

int stor_cover_document(const stor_cover_t *cover, vd_arena_t *arena, vd_slice_t fields,
                        vd_slice_t type_bits, vd_slice_t id_key, vd_bson_t *ret_document,
                        bool *ret_told, vd_error_t *err)
{
    vd_value_t values[STOR_INDEX_FIELDS_MAX], id = VD_VALUE_MISSING;
    vd_error_t step = VD_ERROR_INIT;
    *ret_told = false;
    for (uint32_t i = 0; i <= cover->last_field && cover->count > 0; i++) {
        int rc = stor_keycode_decode(arena, &fields, &type_bits, cover->descending[i], &values[i],
                                     &step);
        if (rc == VD_ERR_INVALID)
            return VD_OK; /* cut */
        if (rc != VD_OK) {
            vd_error_copy(&step, err);
            return rc;
        }
    }
    for (uint32_t i = 0; i < cover->count; i++)
        if (vd_value_is_nullish(values[cover->items[i].field]))
            return VD_OK; /* null, missing or an empty array */
    if (cover->id && !id_of(arena, id_key, &id))
        return VD_OK;
    vd_bb_t bb;
    vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    if (cover->id)
        vd_bb_value(&bb, VD_SLICE_LIT("_id"), id);
    append(&bb, cover, 0, cover->count, 0, values);
    int rc = vd_bb_finish(&bb, ret_document, err);
    *ret_told = rc == VD_OK;
    return rc;
}
