/* veddb-storaged/query/path.c — dotted paths: split once, walked through objects and arrays.
 *
 * An array on the way fans out over its elements that are objects. A numeric part ("a.0.b") is
 * tried in two ways, as a field of each such element and as a position of the array; elements that
 * are arrays are entered by position alone. An array at the end gives its elements and then itself.
 */
#include "veddb-storaged/query/path_private.h"

/* A part that is tried both as field and as position doubles the work below it, which nested arrays
 * could multiply without end. Below this many doublings a number is a position only. */
#define PATH_DOUBLED_MAX 12

static int64_t part_position(vd_slice_t part)
{
    if (part.len == 0 || part.len > 10 || (part.len > 1 && part.data[0] == '0'))
        return -1;
    int64_t position = 0;
    for (size_t i = 0; i < part.len; i++) {
        if (part.data[i] < '0' || part.data[i] > '9')
            return -1;
        position = position * 10 + (part.data[i] - '0');
    }
    return position;
}

void stor_path_split(vd_arena_t *arena, vd_slice_t text, stor_path_t *ret_path)
{
    uint32_t count = 1;
    for (size_t i = 0; i < text.len; i++)
        count += text.data[i] == '.';
    vd_slice_t *parts = VD_ARENA_ARRAY(arena, vd_slice_t, count);
    int64_t *positions = VD_ARENA_ARRAY(arena, int64_t, count);
    size_t start = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t end = start;
        while (end < text.len && text.data[end] != '.')
            end++;
        parts[i] = vd_slice(text.data + start, end - start);
        positions[i] = part_position(parts[i]);
        start = end + 1;
    }
    *ret_path = (stor_path_t){text, count, parts, positions};
}

/* The leaf is an array. */
static bool walk_leaf_array(path_walk_t *walk, vd_value_t array, int64_t position)
{
    if (walk->expand_leaf_array) {
        vd_bson_iter_t iter;
        vd_bson_iter_init(&iter, vd_value_document(array));
        for (int64_t i = 0; vd_bson_iter_next(&iter); i++)
            if (walk->visit(iter.value, position >= 0 ? position : i, walk->context))
                return true;
    }
    return walk->visit(array, position, walk->context);
}

/* parts[from] names the position that holds element: go into it, past that part. */
static bool walk_position(path_walk_t *walk, uint32_t from, vd_value_t element, int64_t position)
{
    if (from + 1 == walk->path->count)
        return walk->visit(element, position, walk->context);
    if (element.type == VD_BSON_OBJECT)
        return path_walk_document(walk, from + 1, vd_value_document(element), position);
    if (element.type == VD_BSON_ARRAY)
        return path_walk_value(walk, from + 1, element, position);
    return false;
}

static bool has_position(vd_value_t array, int64_t wanted)
{
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    for (int64_t i = 0; vd_bson_iter_next(&iter); i++)
        if (i == wanted)
            return true;
    return false;
}

/* An array with parts[from..] still to go. */
static bool walk_array(path_walk_t *walk, uint32_t from, vd_value_t array, int64_t position)
{
    int64_t wanted = walk->path->positions[from];
    bool fan_out = true;
    if (wanted >= 0 && (walk->position_only || walk->doubled >= PATH_DOUBLED_MAX))
        fan_out = !has_position(array, wanted);

    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter, vd_value_document(array));
    walk->doubled += wanted >= 0 && fan_out;
    bool stopped = false;
    for (int64_t i = 0; !stopped && vd_bson_iter_next(&iter); i++) {
        if (fan_out && iter.value.type == VD_BSON_OBJECT)
            stopped = path_walk_document(walk, from, vd_value_document(iter.value),
                                         position >= 0 ? position : i);
        if (!stopped && i == wanted)
            stopped = walk_position(walk, from, iter.value, position);
    }
    walk->doubled -= wanted >= 0 && fan_out;
    return stopped;
}

bool path_walk_value(path_walk_t *walk, uint32_t from, vd_value_t value, int64_t position)
{
    bool leaf = from == walk->path->count;
    if (value.type == VD_BSON_ARRAY)
        return leaf ? walk_leaf_array(walk, value, position)
                    : walk_array(walk, from, value, position);
    if (leaf)
        return walk->visit(value, position, walk->context);
    if (value.type == VD_BSON_OBJECT)
        return path_walk_document(walk, from, vd_value_document(value), position);
    return walk->visit(VD_VALUE_MISSING, position, walk->context);
}

bool path_walk_document(path_walk_t *walk, uint32_t from, vd_bson_t document, int64_t position)
{
    const stor_path_t *path = walk->path;
    for (uint32_t i = from; i < path->count; i++) {
        vd_value_t value = vd_bson_get_slice(document, path->parts[i]);
        if (value.type != VD_BSON_OBJECT || i + 1 == path->count)
            return path_walk_value(walk, i + 1, value, position);
        document = vd_value_document(value);
    }
    return false;
}

bool stor_path_walk(const stor_path_t *path, vd_bson_t document, bool expand_leaf_array,
                    bool (*visit)(vd_value_t value, int64_t array_position, void *context),
                    void *context)
{
    path_walk_t walk = {path, expand_leaf_array, true, 0, visit, context};
    return path_walk_document(&walk, 0, document, -1);
}
