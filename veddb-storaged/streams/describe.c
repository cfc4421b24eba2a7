/* veddb-storaged/streams/describe.c — one walk over the delta; paths are joined with dots. */
#include "veddb-storaged/streams/describe.h"

#define DEPTH_MAX 80

typedef struct {
    vd_slice_t name;
    bool position; /* of an array's element */
} part_t;

typedef struct {
    vd_arena_t *arena;
    vd_bb_t *updated, *removed, *truncated, *paths;
    uint32_t removed_count, truncated_count;
    part_t parts[DEPTH_MAX];
    uint32_t depth;
    vd_error_t *err;
} walk_t;

static vd_bb_t *builder(vd_arena_t *arena)
{
    vd_bb_t *bb = vd_arena_alloc(arena, sizeof *bb);
    vd_bb_init_arena(bb, arena, VD_BSON_INTERNAL_MAX_BYTES);
    return bb;
}

static vd_slice_t path_text(const walk_t *walk)
{
    size_t len = 0;
    for (uint32_t i = 0; i < walk->depth; i++)
        len += walk->parts[i].name.len + 1;
    char *text = vd_arena_alloc(walk->arena, len);
    size_t at = 0;
    for (uint32_t i = 0; i < walk->depth; i++) {
        if (i > 0)
            text[at++] = '.';
        if (walk->parts[i].name.len > 0)
            memcpy(text + at, walk->parts[i].name.data, walk->parts[i].name.len);
        at += walk->parts[i].name.len;
    }
    return vd_slice(text, at);
}

static bool is_digits(vd_slice_t name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] < '0' || name.data[i] > '9')
            return false;
    return name.len > 0 && (name.len == 1 || name.data[0] != '0');
}

/* A field whose name has a dot, or looks like a position: the path alone does not say so. */
static void path_note(walk_t *walk, vd_slice_t text)
{
    bool ambiguous = false;
    char buf[12];
    for (uint32_t i = 0; i < walk->depth; i++)
        ambiguous |= !walk->parts[i].position &&
                     (is_digits(walk->parts[i].name) ||
                      (walk->parts[i].name.len > 0 &&
                       memchr(walk->parts[i].name.data, '.', walk->parts[i].name.len) != NULL));
    if (!ambiguous)
        return;
    vd_bb_open_array(walk->paths, text);
    for (uint32_t i = 0; i < walk->depth; i++) {
        vd_slice_t name = walk->parts[i].name;
        int32_t position = 0;
        for (size_t k = 0; walk->parts[i].position && k < name.len; k++)
            position = position * 10 + (name.data[k] - '0');
        vd_bb_value(walk->paths, vd_array_name(i, buf),
                    walk->parts[i].position ? vd_value_from_int32(walk->arena, position)
                                            : vd_value_from_string(walk->arena, name));
    }
    vd_bb_close(walk->paths);
}

static bool push(walk_t *walk, vd_slice_t name, bool position)
{
    if (walk->depth >= DEPTH_MAX)
        return false;
    walk->parts[walk->depth++] = (part_t){name, position};
    return true;
}

/* Was removed, and is put at the end again. */
static bool comes_again(vd_bson_t delta, vd_slice_t field)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, delta);
    while (vd_bson_iter_next(&iter))
        if (iter.name.len > 0 && iter.name.data[0] == 'i' &&
            vd_slice_equal(vd_slice(iter.name.data + 1, iter.name.len - 1), field))
            return true;
    return false;
}

static int walk_delta(walk_t *walk, vd_bson_t delta, bool array)
{
    vd_bson_iter_t iter;
    char buf[12];
    vd_bson_iter_init(&iter, delta);
    while (vd_bson_iter_next(&iter)) {
        if (array && vd_slice_is(iter.name, "n")) {
            vd_bb_open_document(walk->truncated, vd_array_name(walk->truncated_count++, buf));
            vd_bb_string(walk->truncated, "field", path_text(walk));
            vd_bb_value(walk->truncated, VD_SLICE_LIT("newSize"), iter.value);
            vd_bb_close(walk->truncated);
            path_note(walk, path_text(walk));
            continue;
        }
        if (iter.name.len == 0 ||
            !push(walk, vd_slice(iter.name.data + 1, iter.name.len - 1), array))
            return vd_error_set(walk->err, VD_ERR_CORRUPT, "a delta in the journal is malformed");
        char what = (char)iter.name.data[0];
        int rc = VD_OK;
        if (what == 'u' || what == 'i') {
            vd_slice_t text = path_text(walk);
            vd_bb_value(walk->updated, text, iter.value);
            path_note(walk, text);
        } else if (what == 'd') {
            vd_slice_t text = path_text(walk);
            if (!comes_again(delta, walk->parts[walk->depth - 1].name)) {
                vd_bb_value(walk->removed, vd_array_name(walk->removed_count++, buf),
                            vd_value_from_string(walk->arena, text));
                path_note(walk, text);
            }
        } else if ((what == 's' || what == 'a') && iter.value.type == VD_BSON_OBJECT) {
            rc = walk_delta(walk, vd_value_document(iter.value), what == 'a');
        } else {
            rc = vd_error_set(walk->err, VD_ERR_CORRUPT, "a delta in the journal is malformed");
        }
        walk->depth--;
        if (rc != VD_OK)
            return rc;
    }
    return VD_OK;
}

static walk_t *walk_new(vd_arena_t *arena, vd_error_t *err)
{
    walk_t *walk = VD_ARENA_NEW(arena, walk_t);
    walk->arena = arena;
    walk->err = err;
    walk->updated = builder(arena);
    walk->removed = builder(arena);
    walk->truncated = builder(arena);
    walk->paths = builder(arena);
    return walk;
}

static int walk_finish(walk_t *walk, bool disambiguated, vd_bson_t *ret, vd_error_t *err)
{
    vd_bb_t *bb = builder(walk->arena);
    vd_bson_t updated, removed, truncated, paths;
    int rc = vd_bb_finish(walk->updated, &updated, err);
    if (rc == VD_OK)
        rc = vd_bb_finish(walk->removed, &removed, err);
    if (rc == VD_OK)
        rc = vd_bb_finish(walk->truncated, &truncated, err);
    if (rc == VD_OK)
        rc = vd_bb_finish(walk->paths, &paths, err);
    if (rc != VD_OK)
        return rc;
    vd_bb_document(bb, "updatedFields", updated);
    vd_bb_array(bb, "removedFields", removed);
    vd_bb_array(bb, "truncatedArrays", truncated);
    if (disambiguated)
        vd_bb_document(bb, "disambiguatedPaths", paths);
    return vd_bb_finish(bb, ret, err);
}

int stor_describe_delta(vd_arena_t *arena, vd_bson_t delta, bool disambiguated,
                        vd_bson_t *ret_description, vd_error_t *err)
{
    walk_t *walk = walk_new(arena, err);
    int rc = walk_delta(walk, delta, false);
    return rc == VD_OK ? walk_finish(walk, disambiguated, ret_description, err) : rc;
}

int stor_describe_whole(vd_arena_t *arena, vd_bson_t document, bool disambiguated,
                        vd_bson_t *ret_description, vd_error_t *err)
{
    walk_t *walk = walk_new(arena, err);
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, document);
    while (vd_bson_iter_next(&iter)) {
        if (vd_slice_is(iter.name, "_id") || !push(walk, iter.name, false))
            continue;
        vd_bb_value(walk->updated, iter.name, iter.value);
        path_note(walk, iter.name);
        walk->depth--;
    }
    return walk_finish(walk, disambiguated, ret_description, err);
}
