/* veddb-storaged/local/config.c — the set's configuration in MongoDB's form. */
#include "veddb-storaged/local/local.h"

static void put_or(vd_bb_t *bb, const char *name, vd_bson_t row, int32_t otherwise)
{
    vd_value_t v = vd_bson_get(row, name);
    if (v.type == VD_BSON_MISSING)
        vd_bb_int32(bb, name, otherwise);
    else
        vd_bb_value(bb, vd_slice_str(name), v);
}

/* Our member in MongoDB's form: its fields, in its order. */
static void put_member(vd_bb_t *bb, vd_bson_t row)
{
    vd_value_t hidden = vd_bson_get(row, "hidden"), tags = vd_bson_get(row, "tags");
    vd_bb_value(bb, VD_SLICE_LIT("_id"), vd_bson_get(row, "_id"));
    vd_bb_value(bb, VD_SLICE_LIT("host"), vd_bson_get(row, "host"));
    vd_bb_bool(bb, "arbiterOnly", false);
    vd_bb_bool(bb, "buildIndexes", true);
    vd_bb_bool(bb, "hidden", vd_value_as_flag(hidden));
    put_or(bb, "priority", row, 1);
    vd_bb_begin_document(bb, "tags");
    if (tags.type == VD_BSON_OBJECT)
        vd_bb_concat(bb, vd_value_document(tags));
    vd_bb_close(bb);
    int64_t delay = 0;
    (void)vd_value_as_int64(vd_bson_get(row, "secondaryDelaySecs"), &delay); /* else 0 */
    vd_bb_int64(bb, "secondaryDelaySecs", delay);
    put_or(bb, "votes", row, 1);
}

static void put_members(vd_bb_t *bb, vd_bson_t config)
{
    vd_value_t members = vd_bson_get(config, "members");
    vd_bson_iter_t iter;
    uint32_t n = 0;
    char buf[12];
    vd_bb_begin_array(bb, "members");
    if (members.type == VD_BSON_ARRAY) {
        vd_bson_iter_init(&iter, vd_value_document(members));
        while (vd_bson_iter_next(&iter)) {
            if (iter.value.type != VD_BSON_OBJECT)
                continue;
            vd_bb_open_document(bb, vd_array_name(n++, buf));
            put_member(bb, vd_value_document(iter.value));
            vd_bb_close(bb);
        }
    }
    vd_bb_close(bb);
}

void stor_local_config(vd_bb_t *bb, stor_storage_t *storage, vd_bson_t config)
{
    uint8_t set_id[12];
    stor_storage_set_id(storage, set_id);
    vd_value_t settings = vd_bson_get(config, "settings");
    vd_bb_cstr(bb, "_id", storage->settings.replica_set);
    put_or(bb, "version", config, 1);
    vd_bb_value(bb, VD_SLICE_LIT("term"), vd_bson_get(config, "term"));
    put_members(bb, config);
    vd_bb_int64(bb, "protocolVersion", 1);
    vd_bb_bool(bb, "writeConcernMajorityJournalDefault", true);
    vd_bb_begin_document(bb, "settings");
    if (settings.type == VD_BSON_OBJECT)
        vd_bb_concat(bb, vd_value_document(settings));
    if (settings.type != VD_BSON_OBJECT ||
        vd_bson_get(vd_value_document(settings), "replicaSetId").type == VD_BSON_MISSING)
        vd_bb_objectid(bb, "replicaSetId", set_id);
    vd_bb_close(bb);
}
