/* veddb-storaged/pipeline/setter.c — see setter.h: $addFields whose expressions are variables, so
 * many at once as there may be variables. */
#include "veddb-storaged/pipeline/setter.h"

#include "libcommon/bson/build.h"

#include <stdio.h>

#define AT_ONCE 32

typedef struct {
    stor_project_t *project;
    stor_variables_t variables;
} part_t;

struct stor_setter {
    uint32_t count;
    part_t *parts;
};

int stor_setter_create(vd_arena_t *arena, const vd_slice_t *paths, uint32_t count,
                       stor_setter_t **ret_setter, vd_error_t *err)
{
    stor_setter_t *setter = VD_ARENA_NEW(arena, stor_setter_t);
    uint32_t parts = (count + AT_ONCE - 1) / AT_ONCE;
    setter->count = count;
    setter->parts = VD_ARENA_ARRAY(arena, part_t, parts + 1);
    for (uint32_t i = 0; i < parts; i++) {
        part_t *part = &setter->parts[i];
        vd_bson_t spec;
        vd_bb_t bb;
        vd_bb_init_arena(&bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
        for (uint32_t k = 0; k < AT_ONCE && i * AT_ONCE + k < count; k++) {
            char *name = vd_arena_printf(arena, "$$v%u", k);
            part->variables.let[k].name = vd_slice_str(name + 2);
            part->variables.let[k].value = VD_VALUE_MISSING;
            part->variables.count++;
            vd_bb_value(&bb, paths[i * AT_ONCE + k],
                        vd_value_from_string(arena, vd_slice_str(name)));
        }
        int rc = vd_bb_finish(&bb, &spec, err);
        if (rc == VD_OK)
            rc = stor_project_parse(arena, STOR_PROJECT_ADD, vd_value_from_document(spec), NULL,
                                    &part->variables, &part->project, err);
        if (rc != VD_OK)
            return rc;
    }
    *ret_setter = setter;
    return VD_OK;
}

int stor_setter_apply(stor_setter_t *setter, vd_arena_t *scratch, vd_bson_t document,
                      const vd_value_t *values, vd_bson_t *ret_document, vd_error_t *err)
{
    int rc = VD_OK;
    for (uint32_t at = 0; rc == VD_OK && at < setter->count; at += AT_ONCE) {
        part_t *part = &setter->parts[at / AT_ONCE];
        stor_expr_env_t env;
        for (uint32_t k = 0; k < part->variables.count; k++)
            part->variables.let[k].value = values[at + k];
        stor_expr_env_init(&env, scratch, &part->variables);
        stor_expr_env_document(&env, document);
        rc = stor_project_apply(part->project, &env, document, -1, &document, err);
    }
    *ret_document = document;
    return rc;
}
