/* veddb-storaged/change_names.c — see change_names.h. */
#include "veddb-storaged/change_names.h"

static const stor_change_names_t names[] = {
    [STOR_CHANGE_INSERT] = {"insert", "insert"},
    [STOR_CHANGE_REPLACE] = {"replace", "replace"},
    [STOR_CHANGE_DELTA] = {"update", "update"},
    [STOR_CHANGE_UPDATE_WHOLE] = {"update", "update"},
    [STOR_CHANGE_DELETE] = {"delete", "delete"},
    [STOR_CHANGE_CREATE] = {"create", "createCollection"},
    [STOR_CHANGE_DROP] = {"drop", "dropCollection"},
    [STOR_CHANGE_RENAME] = {"rename", "renameCollection"},
    [STOR_CHANGE_MODIFY] = {"modify", "collMod"},
    [STOR_CHANGE_CONFIG] = {NULL, "replSetReconfig"},
    [STOR_CHANGE_DROP_DATABASE] = {"dropDatabase", "dropDatabase"},
    [STOR_CHANGE_CREATE_INDEXES] = {"createIndexes", "createIndex"},
    [STOR_CHANGE_DROP_INDEXES] = {"dropIndexes", "dropIndex"},
    [STOR_CHANGE_MODIFY_INDEX] = {"modify", "collMod"},
};

stor_change_names_t stor_change_names(stor_change_kind_t kind)
{
    return (size_t)kind < VD_COUNT_OF(names) ? names[kind] : (stor_change_names_t){NULL, NULL};
}
