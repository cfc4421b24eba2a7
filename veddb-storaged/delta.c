/* veddb-storaged/delta.c — both versions are walked side by side: equal names are compared, a name
 * that only the old one has was removed, what is left of the new one at the end was appended. */
#include "veddb-storaged/delta.h"

#define DELTA_DEPTH_MAX 20
#define INSIDE_MIN      128 /* bytes of a sub-document below which it is replaced whole */

static bool same(vd_value_t a, vd_value_t b)
{
    return a.type == b.type && a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static vd_slice_t op_name(vd_arena_t *arena, char op, vd_slice_t name)
{
    char *text = vd_arena_alloc(arena, name.len + 1);
    text[0] = op;
    if (name.len > 0)
        memcpy(text + 1, name.data, name.len);
    return vd_slice(text, name.len + 1);
}

/* Apply finds a field by its name from where the last change was: that must be this field, not an
 * earlier unchanged one of the same name. */
static bool findable(vd_bson_iter_t from, const vd_bson_iter_t *at)
{
    while (vd_bson_iter_next(&from) && from.value.data != at->value.data)
        if (vd_slice_equal(from.name, at->name) && from.pos < at->pos)
            return false;
    return true;
}

static bool delta_fields(vd_arena_t *arena, vd_bson_t before_doc, vd_bson_t after_doc, vd_bb_t *bb,
                         uint32_t depth);

static bool pair(vd_arena_t *arena, vd_slice_t name, vd_value_t before, vd_value_t after,
                 vd_bb_t *bb, uint32_t depth)
{
    bool inside = before.type == VD_BSON_OBJECT && after.type == VD_BSON_OBJECT &&
                  depth < DELTA_DEPTH_MAX && before.len >= INSIDE_MIN && after.len >= INSIDE_MIN;
    if (!inside) {
        vd_bb_value(bb, op_name(arena, 'u', name), after);
        return true;
    }
    vd_bb_open_document(bb, op_name(arena, 's', name));
    bool ok =
        delta_fields(arena, vd_value_document(before), vd_value_document(after), bb, depth + 1);
    vd_bb_close(bb);
    return ok;
}

static bool delta_fields(vd_arena_t *arena, vd_bson_t before_doc, vd_bson_t after_doc, vd_bb_t *bb,
                         uint32_t depth)
{
    vd_bson_iter_t before, after, last;
    vd_bson_iter_init(&before, before_doc);
    vd_bson_iter_init(&after, after_doc);
    last = before;
    bool more = vd_bson_iter_next(&after);
    while (bb->rc == VD_OK && vd_bson_iter_next(&before)) {
        bool kept = more && vd_slice_equal(before.name, after.name);
        if (kept && same(before.value, after.value)) {
            more = vd_bson_iter_next(&after);
            continue;
        }
        if (!findable(last, &before))
            return false;
        if (!kept)
            vd_bb_value(bb, op_name(arena, 'd', before.name), vd_value_from_bool(false));
        else if (!pair(arena, before.name, before.value, after.value, bb, depth))
            return false;
        if (kept)
            more = vd_bson_iter_next(&after);
        last = before;
    }
    for (; more && bb->rc == VD_OK; more = vd_bson_iter_next(&after))
        vd_bb_value(bb, op_name(arena, 'i', after.name), after.value);
    return !before.bad && !after.bad && bb->rc == VD_OK;
}

bool stor_delta_make(vd_arena_t *arena, vd_bson_t before, vd_bson_t after, vd_bson_t *ret_delta)
{
    if (after.len < 64)
        return false;
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bb_init_arena(bb, arena,
                     after.len / 4 * 3); /* a larger one is not worth it: the builder stops */
    return delta_fields(arena, before, after, bb, 0) && vd_bb_finish(bb, ret_delta, NULL) == VD_OK;
}

static int bad_delta(vd_error_t *err)
{
    return vd_error_set(err, VD_ERR_CORRUPT, "a change in the journal does not fit its document");
}

static vd_slice_t op_field(const vd_bson_iter_t *op)
{
    return vd_slice(op->name.data + 1, op->name.len - 1);
}

static int apply_fields(vd_bson_t before_doc, vd_bson_t delta, vd_bb_t *bb, uint32_t depth,
                        vd_error_t *err)
{
    vd_bson_iter_t before, op;
    vd_bson_iter_init(&before, before_doc);
    vd_bson_iter_init(&op, delta);
    bool more = vd_bson_iter_next(&op);
    while (vd_bson_iter_next(&before)) {
        char what = more && op.name.len > 0 ? (char)op.name.data[0] : 0;
        if (what == 0 || what == 'i' || !vd_slice_equal(op_field(&op), before.name)) {
            vd_bb_value(bb, before.name, before.value);
            continue;
        }
        if (what == 'u') {
            vd_bb_value(bb, before.name, op.value);
        } else if (what == 's') {
            if (before.value.type != VD_BSON_OBJECT || op.value.type != VD_BSON_OBJECT ||
                depth >= DELTA_DEPTH_MAX)
                return bad_delta(err);
            vd_bb_open_document(bb, before.name);
            int rc = apply_fields(vd_value_document(before.value), vd_value_document(op.value), bb,
                                  depth + 1, err);
            if (rc != VD_OK)
                return rc;
            vd_bb_close(bb);
        } else if (what != 'd') {
            return bad_delta(err);
        }
        more = vd_bson_iter_next(&op);
    }
    for (; more; more = vd_bson_iter_next(&op)) {
        if (op.name.len == 0 || op.name.data[0] != 'i')
            return bad_delta(err);
        vd_bb_value(bb, op_field(&op), op.value);
    }
    return before.bad || op.bad ? bad_delta(err) : VD_OK;
}

int stor_delta_apply(vd_arena_t *arena, vd_bson_t before, vd_bson_t delta, vd_bson_t *ret_after,
                     vd_error_t *err)
{
    /* It may have come from another node: what is not BSON to the bottom must not get into a
     * document, and a cut one must not pass for a shorter one. */
    if (vd_bson_validate(vd_slice(delta.data, delta.len), 0, VD_BSON_BUILD_DEPTH_MAX, NULL) !=
        VD_OK)
        return bad_delta(err);
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    int rc = apply_fields(before, delta, bb, 0, err);
    return rc != VD_OK ? rc : vd_bb_finish(bb, ret_after, err);
}
