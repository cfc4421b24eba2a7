/* veddb-storaged/replication/manifest.c — see manifest.h. */
#include "veddb-storaged/replication/manifest.h"

#include "veddb-storaged/catalog/indexes.h"

static void collection_write(vd_bb_t *bb, uint32_t position, const stor_manifest_collection_t *c)
{
    char name[12];
    vd_bb_open_document(bb, vd_array_name(position, name));
    vd_bb_int64(bb, "id", (int64_t)c->what.id);
    vd_bb_string(bb, "db", c->what.db);
    vd_bb_string(bb, "name", c->what.name);
    vd_bb_binary(bb, "uuid", 4, vd_slice(c->what.uuid, 16));
    vd_bb_document(bb, "options", c->what.options);
    vd_bb_int64(bb, "documents", c->kept.documents);
    vd_bb_int64(bb, "bytes", c->kept.bytes);
    vd_bb_int64(bb, "hash", (int64_t)c->kept.hash);
    if (c->index_count > 0) {
        vd_bb_begin_array(bb, "indexes");
        for (uint32_t i = 0; i < c->index_count; i++) {
            vd_bb_open_document(bb, vd_array_name(i, name));
            vd_bb_int64(bb, "id", (int64_t)c->index_ids[i]);
            vd_bb_document(bb, "spec", c->index_specs[i]);
            if (c->index_building[i].len > 0)
                vd_bb_document(bb, "building", c->index_building[i]);
            vd_bb_close(bb);
        }
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

int stor_manifest_write(const stor_manifest_t *manifest, vd_buf_t *out, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init(&bb, STOR_MANIFEST_MAX);
    if (manifest->config.len > 0)
        vd_bb_document(&bb, "config", manifest->config);
    vd_bb_int64(&bb, "term", (int64_t)manifest->term);
    vd_bb_int64(&bb, "nextId", (int64_t)manifest->next_id);
    vd_bb_begin_array(&bb, "collections");
    for (uint32_t i = 0; i < manifest->count; i++)
        collection_write(&bb, i, &manifest->collections[i]);
    vd_bb_close(&bb);
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK && vd_buf_append(out, document.data, document.len) != VD_OK)
        rc = vd_error_set(err, VD_ERR_FULL, "a snapshot's manifest is too large");
    vd_bb_done(&bb);
    return rc;
}

static int bad(vd_error_t *err, const char *what)
{
    return vd_error_set(err, VD_ERR_BAD_VALUE, "a snapshot's manifest: %s is not what it must be",
                        what);
}

static bool number(vd_bson_t from, const char *name, int64_t *ret)
{
    vd_value_t value = vd_bson_get(from, name);
    if (value.type != VD_BSON_INT64)
        return false;
    *ret = vd_value_int64(value);
    return true;
}

static int indexes_read(vd_bson_t from, vd_arena_t *arena, stor_manifest_collection_t *ret,
                        vd_error_t *err)
{
    vd_value_t list = vd_bson_get(from, "indexes");
    vd_bson_iter_t iter;
    if (list.type == VD_BSON_MISSING)
        return VD_OK;
    if (list.type != VD_BSON_ARRAY || vd_bson_count(vd_value_document(list)) >= STOR_INDEXES_MAX)
        return bad(err, "the indexes of a collection");
    ret->index_ids = VD_ARENA_ARRAY(arena, uint64_t, STOR_INDEXES_MAX);
    ret->index_specs = VD_ARENA_ARRAY(arena, vd_bson_t, STOR_INDEXES_MAX);
    ret->index_building = VD_ARENA_ARRAY(arena, vd_bson_t, STOR_INDEXES_MAX);
    vd_bson_iter_init(&iter, vd_value_document(list));
    while (vd_bson_iter_next(&iter)) {
        int64_t id;
        if (iter.value.type != VD_BSON_OBJECT)
            return bad(err, "an index");
        vd_value_t spec = vd_bson_get(vd_value_document(iter.value), "spec"),
                   building = vd_bson_get(vd_value_document(iter.value), "building");
        if (!number(vd_value_document(iter.value), "id", &id) || id <= 0 ||
            spec.type != VD_BSON_OBJECT ||
            (building.type != VD_BSON_OBJECT && building.type != VD_BSON_MISSING))
            return bad(err, "an index");
        ret->index_building[ret->index_count] =
            building.type == VD_BSON_OBJECT ? vd_value_document(building) : VD_BSON_NONE;
        ret->index_ids[ret->index_count] = (uint64_t)id;
        ret->index_specs[ret->index_count++] = vd_value_document(spec);
    }
    return VD_OK;
}

static int collection_read(vd_value_t value, uint64_t after, vd_arena_t *arena,
                           stor_manifest_collection_t *ret, vd_error_t *err)
{
    if (value.type != VD_BSON_OBJECT)
        return bad(err, "a collection");
    vd_bson_t from = vd_value_document(value);
    vd_value_t db = vd_bson_get(from, "db"), name = vd_bson_get(from, "name"),
               uuid = vd_bson_get(from, "uuid"), options = vd_bson_get(from, "options");
    int64_t id, hash;
    if (!number(from, "id", &id) || id <= 0 || (uint64_t)id <= after)
        return bad(err, "the id of a collection");
    if (!number(from, "documents", &ret->kept.documents) ||
        !number(from, "bytes", &ret->kept.bytes) || !number(from, "hash", &hash))
        return bad(err, "a count");
    if (db.type != VD_BSON_STRING || name.type != VD_BSON_STRING ||
        options.type != VD_BSON_OBJECT || uuid.type != VD_BSON_BINARY ||
        vd_value_binary(uuid, NULL).len != 16)
        return bad(err, "a collection");
    ret->kept.hash = (uint64_t)hash;
    ret->what = (stor_adopt_t){(uint64_t)id, vd_value_string(db), vd_value_string(name),
                               vd_value_binary(uuid, NULL).data, vd_value_document(options)};
    return indexes_read(from, arena, ret, err);
}

int stor_manifest_read(vd_bson_t bson, vd_arena_t *arena, stor_manifest_t *ret, vd_error_t *err)
{
    if (bson.len > STOR_MANIFEST_MAX)
        return bad(err, "the size");
    int rc = vd_bson_validate(vd_slice(bson.data, bson.len), VD_BSON_CHECK_UTF8,
                              VD_BSON_DEPTH_MAX + 4, err);
    if (rc != VD_OK)
        return rc;
    vd_bson_t own = {vd_arena_copy(arena, bson.data, bson.len), bson.len};
    vd_value_t config = vd_bson_get(own, "config"), list = vd_bson_get(own, "collections");
    stor_manifest_t manifest = {0};
    int64_t term, next_id;
    if (!number(own, "term", &term) || !number(own, "nextId", &next_id))
        return bad(err, "term or nextId");
    if (list.type != VD_BSON_ARRAY ||
        (config.type != VD_BSON_OBJECT && config.type != VD_BSON_MISSING))
        return bad(err, "collections or config");
    manifest.term = (uint64_t)term;
    manifest.next_id = (uint64_t)next_id;
    if (config.type == VD_BSON_OBJECT)
        manifest.config = vd_value_document(config);
    uint32_t count = vd_bson_count(vd_value_document(list));
    manifest.collections = VD_ARENA_ARRAY(arena, stor_manifest_collection_t, count + 1);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(list));
    uint64_t after = 0;
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        stor_manifest_collection_t *c = &manifest.collections[manifest.count++];
        rc = collection_read(iter.value, after, arena, c, err);
        after = c->what.id;
    }
    if (rc == VD_OK)
        *ret = manifest;
    return rc;
}
