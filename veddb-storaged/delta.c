/* veddb-storaged/delta.c — both versions are walked side by side: equal names are compared, a name
 * that only the old one has was removed, what is left of the new one at the end was appended. */
#include "veddb-storaged/delta.h"

#define DELTA_DEPTH_MAX  64
#define COARSE_DEPTH_MAX 20
#define INSIDE_MIN       128 /* bytes of a sub-document below which it is replaced whole */

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

/* What is being made. A fine delta follows a scope; a coarse one goes into large sub-documents. */
typedef struct {
    vd_arena_t *arena;
    vd_bb_t *bb;
    bool fine;
} maker_t;

static bool delta_fields(maker_t *maker, vd_bson_t before_doc, vd_bson_t after_doc,
                         stor_update_scope_t scope, uint32_t depth);
static bool delta_array(maker_t *maker, vd_bson_t before, vd_bson_t after,
                        stor_update_scope_t scope, uint32_t depth);

static bool goes_inside(const maker_t *maker, vd_value_t before, vd_value_t after,
                        stor_update_scope_t scope, uint32_t depth)
{
    if (before.type != after.type || depth >= (maker->fine ? DELTA_DEPTH_MAX : COARSE_DEPTH_MAX))
        return false;
    if (!maker->fine)
        return before.type == VD_BSON_OBJECT && before.len >= INSIDE_MIN && after.len >= INSIDE_MIN;
    if (scope.kind == STOR_SCOPE_WHOLE)
        return false;
    return before.type == VD_BSON_ARRAY ||
           (before.type == VD_BSON_OBJECT && scope.kind != STOR_SCOPE_APPEND);
}

/* What changed at `name`, which both versions have. */
static void pair(maker_t *maker, vd_slice_t name, vd_value_t before, vd_value_t after,
                 stor_update_scope_t scope, uint32_t depth)
{
    vd_bb_t *bb = maker->bb;
    size_t mark = bb->len;
    uint32_t open = bb->depth;
    if (goes_inside(maker, before, after, scope, depth)) {
        bool array = before.type == VD_BSON_ARRAY;
        vd_bb_open_document(bb, op_name(maker->arena, array ? 'a' : 's', name));
        bool ok = array ? delta_array(maker, vd_value_document(before), vd_value_document(after),
                                      scope, depth + 1)
                        : delta_fields(maker, vd_value_document(before), vd_value_document(after),
                                       scope, depth + 1);
        if (bb->rc != VD_OK)
            return;
        if (ok)
            vd_bb_close(bb);
        /* Nobody has named what lies inside: then the shorter of both is told. */
        if (ok && (scope.kind != STOR_SCOPE_FREE || !maker->fine || bb->len - mark <= after.len))
            return;
        bb->len = mark, bb->depth = open;
    }
    vd_bb_value(bb, op_name(maker->arena, 'u', name), after);
}

static bool delta_fields(maker_t *maker, vd_bson_t before_doc, vd_bson_t after_doc,
                         stor_update_scope_t scope, uint32_t depth)
{
    vd_bb_t *bb = maker->bb;
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
            vd_bb_value(bb, op_name(maker->arena, 'd', before.name), vd_value_from_bool(false));
        else
            pair(maker, before.name, before.value, after.value,
                 stor_update_scope_below(scope, before.name), depth);
        if (kept)
            more = vd_bson_iter_next(&after);
        last = before;
    }
    for (; more && bb->rc == VD_OK; more = vd_bson_iter_next(&after))
        vd_bb_value(bb, op_name(maker->arena, 'i', after.name), after.value);
    return !before.bad && !after.bad && bb->rc == VD_OK;
}

/* Apply writes positions as names: an array whose names are others can't be told so. */
static bool names_are_positions(vd_bson_t array)
{
    vd_bson_iter_t iter;
    char buf[12];
    vd_bson_iter_init(&iter, array);
    for (uint32_t i = 0; vd_bson_iter_next(&iter); i++)
        if (!vd_slice_equal(iter.name, vd_array_name(i, buf)))
            return false;
    return !iter.bad;
}

static bool is_prefix(vd_bson_t of, vd_bson_t array)
{
    vd_bson_iter_t a, b;
    vd_bson_iter_init(&a, of);
    vd_bson_iter_init(&b, array);
    while (vd_bson_iter_next(&a))
        if (!vd_bson_iter_next(&b) || !same(a.value, b.value))
            return false;
    return true;
}

static bool delta_array(maker_t *maker, vd_bson_t before_array, vd_bson_t after_array,
                        stor_update_scope_t scope, uint32_t depth)
{
    vd_bb_t *bb = maker->bb;
    vd_bson_iter_t before, after;
    char buf[12];
    uint32_t count = vd_bson_count(after_array);
    if (!names_are_positions(after_array) ||
        (scope.kind == STOR_SCOPE_APPEND && !is_prefix(before_array, after_array)))
        return false;
    if (count < vd_bson_count(before_array))
        vd_bb_int32(bb, "n", (int32_t)count);
    vd_bson_iter_init(&before, before_array);
    vd_bson_iter_init(&after, after_array);
    for (uint32_t i = 0; bb->rc == VD_OK && vd_bson_iter_next(&after); i++) {
        bool has = vd_bson_iter_next(&before);
        vd_slice_t name = vd_array_name(i, buf);
        if (!has)
            vd_bb_value(bb, op_name(maker->arena, 'u', name), after.value);
        else if (!same(before.value, after.value))
            pair(maker, name, before.value, after.value, stor_update_scope_below(scope, name),
                 depth);
    }
    return bb->rc == VD_OK;
}

static bool make(vd_arena_t *arena, vd_bson_t before, vd_bson_t after, bool fine,
                 stor_update_scope_t scope, size_t max_bytes, vd_bson_t *ret_delta)
{
    maker_t maker = {arena, vd_arena_alloc(arena, sizeof(vd_bb_t)), fine};
    vd_bb_init_arena(maker.bb, arena, max_bytes);
    return delta_fields(&maker, before, after, scope, 0) &&
           vd_bb_finish(maker.bb, ret_delta, NULL) == VD_OK;
}

bool stor_delta_make_update(vd_arena_t *arena, vd_bson_t before, vd_bson_t after,
                            stor_update_scope_t scope, vd_bson_t *ret_delta)
{
    return make(arena, before, after, true, scope, VD_BSON_INTERNAL_MAX_BYTES, ret_delta);
}

bool stor_delta_make(vd_arena_t *arena, vd_bson_t before, vd_bson_t after, vd_bson_t *ret_delta)
{
    /* A larger one is not worth it: the builder stops. */
    return after.len >= 64 &&
           make(arena, before, after, false, (stor_update_scope_t){STOR_SCOPE_WHOLE, NULL},
                after.len / 4 * 3, ret_delta);
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
                        vd_error_t *err);
static int apply_array(vd_bson_t before_array, vd_bson_t delta, vd_bb_t *bb, uint32_t depth,
                       vd_error_t *err);

/* "u", "s" or "a" on a value that is there. */
static int apply_pair(char what, vd_slice_t name, vd_value_t before, vd_value_t op, vd_bb_t *bb,
                      uint32_t depth, vd_error_t *err)
{
    if (what == 'u') {
        vd_bb_value(bb, name, op);
        return VD_OK;
    }
    uint8_t type = what == 's' ? VD_BSON_OBJECT : VD_BSON_ARRAY;
    if ((what != 's' && what != 'a') || before.type != type || op.type != VD_BSON_OBJECT ||
        depth >= DELTA_DEPTH_MAX)
        return bad_delta(err);
    if (what == 's')
        vd_bb_open_document(bb, name);
    else
        vd_bb_open_array(bb, name);
    int rc =
        what == 's'
            ? apply_fields(vd_value_document(before), vd_value_document(op), bb, depth + 1, err)
            : apply_array(vd_value_document(before), vd_value_document(op), bb, depth + 1, err);
    if (rc == VD_OK)
        vd_bb_close(bb);
    return rc;
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
        int rc = what == 'd'
                     ? VD_OK
                     : apply_pair(what, before.name, before.value, op.value, bb, depth, err);
        if (rc != VD_OK)
            return rc;
        more = vd_bson_iter_next(&op);
    }
    for (; more; more = vd_bson_iter_next(&op)) {
        if (op.name.len == 0 || op.name.data[0] != 'i')
            return bad_delta(err);
        vd_bb_value(bb, op_field(&op), op.value);
    }
    return before.bad || op.bad ? bad_delta(err) : VD_OK;
}

static int apply_array(vd_bson_t before_array, vd_bson_t delta, vd_bb_t *bb, uint32_t depth,
                       vd_error_t *err)
{
    vd_bson_iter_t before, op;
    char buf[12];
    uint32_t i = 0, count = UINT32_MAX;
    vd_bson_iter_init(&before, before_array);
    vd_bson_iter_init(&op, delta);
    bool more = vd_bson_iter_next(&op);
    if (more && vd_slice_is(op.name, "n")) {
        if (op.value.type != VD_BSON_INT32 || vd_value_int32(op.value) < 0 ||
            (uint32_t)vd_value_int32(op.value) >= vd_bson_count(before_array))
            return bad_delta(err);
        count = (uint32_t)vd_value_int32(op.value);
        more = vd_bson_iter_next(&op);
    }
    for (; i < count && vd_bson_iter_next(&before); i++) {
        vd_slice_t name = vd_array_name(i, buf);
        if (!more || op.name.len == 0 || !vd_slice_equal(op_field(&op), name)) {
            vd_bb_value(bb, name, before.value);
            continue;
        }
        int rc = apply_pair((char)op.name.data[0], name, before.value, op.value, bb, depth, err);
        if (rc != VD_OK)
            return rc;
        more = vd_bson_iter_next(&op);
    }
    for (; more; more = vd_bson_iter_next(&op), i++) {
        if (count != UINT32_MAX || op.name.len == 0 || op.name.data[0] != 'u' ||
            !vd_slice_equal(op_field(&op), vd_array_name(i, buf)))
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
