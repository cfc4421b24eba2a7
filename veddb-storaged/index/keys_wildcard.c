/* veddb-storaged/index/keys_wildcard.c — keys of a wildcard field: one for each leaf, of its path
 * (without positions of arrays) and its value. */
#include "veddb-storaged/index/keys_private.h"

#include "libcommon/base/limits.h"
#include "libcommon/bson/build.h"

#define PATH_MAX_BYTES (VD_BSON_INTERNAL_MAX_BYTES)

/* ---- projection ---- */

static int bad_projection(vd_error_t *err, const char *why)
{
    return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "wildcardProjection: %s", why);
}

typedef struct {
    index_def_t *def;
    vd_arena_t *arena;
    int kind; /* 0 = not known yet, 1 = inclusion, -1 = exclusion */
    uint32_t cap;
} projection_t;

static void path_add(projection_t *p, vd_slice_t path)
{
    index_def_t *def = p->def;
    if (def->path_count == p->cap) {
        uint32_t cap = p->cap == 0 ? 8 : p->cap * 2;
        vd_slice_t *grown = VD_ARENA_ARRAY(p->arena, vd_slice_t, cap);
        if (def->path_count > 0)
            memcpy(grown, def->paths, def->path_count * sizeof *grown);
        def->paths = grown;
        p->cap = cap;
    }
    def->paths[def->path_count++] = path;
}

static int projection_walk(projection_t *p, vd_bson_t spec, vd_slice_t prefix, uint32_t depth,
                           vd_error_t *err)
{
    vd_bson_iter_t iter;
    int rc = VD_OK;
    if (depth > VD_BSON_DEPTH_MAX)
        return bad_projection(err, "it is nested too deeply");
    vd_bson_iter_init(&iter, spec);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        vd_slice_t path = iter.name;
        if (prefix.len > 0)
            path = vd_slice_str(vd_arena_printf(p->arena, "%.*s.%.*s", VD_SLICE_FMT(prefix),
                                                VD_SLICE_FMT(iter.name)));
        if (path.len == 0 || path.data[0] == '$')
            return bad_projection(err, "a field's name is not allowed");
        if (iter.value.type == VD_BSON_OBJECT) {
            rc = projection_walk(p, vd_value_document(iter.value), path, depth + 1, err);
            continue;
        }
        if (iter.value.type != VD_BSON_BOOL && !vd_value_is_number(iter.value))
            return bad_projection(err, "it may only include and exclude fields");
        bool in = vd_value_as_flag(iter.value);
        if (vd_slice_is(path, "_id")) {
            p->def->includes_id = in;
            continue;
        }
        if (p->kind != 0 && (p->kind > 0) != in)
            return bad_projection(err, "it includes and excludes fields");
        p->kind = in ? 1 : -1;
        path_add(p, path);
    }
    return rc;
}

int wildcard_parse(vd_arena_t *arena, index_def_t *def, vd_error_t *err)
{
    projection_t p = {.def = def, .arena = arena};
    vd_slice_t prefix = def->def.fields[def->wildcard].path;
    if (prefix.len > 0) {
        path_add(&p, prefix);
        def->includes_id =
            vd_slice_is(prefix, "_id") || vd_slice_starts_with(prefix, VD_SLICE_LIT("_id."));
        return VD_OK;
    }
    int rc = projection_walk(&p, def->def.wildcard_projection, VD_SLICE_NULL, 0, err);
    def->excludes = p.kind < 0;
    /* {_id: 1} alone includes _id, and nothing else. */
    if (rc == VD_OK && p.kind == 0 && def->includes_id)
        path_add(&p, VD_SLICE_LIT("_id"));
    else if (rc == VD_OK && p.kind > 0 && def->includes_id)
        path_add(&p, VD_SLICE_LIT("_id"));
    return rc;
}

/* `path` is `prefix`, or stands below it. */
static bool is_below(vd_slice_t path, vd_slice_t prefix)
{
    return vd_slice_starts_with(path, prefix) &&
           (path.len == prefix.len || path.data[prefix.len] == '.');
}

/* Whether what stands at the path is in the index (ret_leaf), or something below it may be. */
static bool is_wanted(const index_def_t *def, vd_slice_t path, bool *ret_leaf)
{
    if (!def->includes_id && is_below(path, VD_SLICE_LIT("_id")))
        return false;
    *ret_leaf = def->excludes || def->path_count == 0;
    if (*ret_leaf && !def->excludes)
        return true;
    for (uint32_t i = 0; i < def->path_count; i++) {
        bool inside = is_below(path, def->paths[i]);
        if (def->excludes && inside)
            return false;
        if (!def->excludes && inside) {
            *ret_leaf = true;
            return true;
        }
    }
    if (def->excludes)
        return true;
    for (uint32_t i = 0; i < def->path_count; i++)
        if (is_below(def->paths[i], path))
            return true; /* on the way to one that is included */
    return false;
}

/* ---- keys ---- */

typedef struct {
    maker_t *m;
    vd_buf_t path;
    vd_value_t *fixed; /* of the other fields */
} walk_t;

static int leaf_add(walk_t *w, vd_value_t path, vd_value_t value)
{
    maker_t *m = w->m;
    const stor_index_def_t *def = &m->def->def;
    bool exact = true, whole;
    int rc = VD_OK;
    key_begin(m);
    for (uint32_t i = 0; rc == VD_OK && i < def->field_count; i++) {
        bool descending = def->fields[i].order == STOR_INDEX_DESCENDING;
        if (i != m->def->wildcard) {
            rc = key_value(m, w->fixed[i], descending, &exact);
            continue;
        }
        rc =
            stor_keycode_append(&m->key, path, false, &whole, m->err); /* names have no collation */
        exact &= whole;
        if (rc == VD_OK && exact)
            rc = stor_keycode_append_type_bits(&m->bits, path, m->err);
        if (rc == VD_OK)
            rc = key_value(m, value, false, &exact);
    }
    return rc == VD_OK ? key_end(m, exact) : rc;
}

static int leaf(walk_t *w, vd_value_t value)
{
    return leaf_add(w, vd_value_from_string(w->m->arena, vd_buf_slice(&w->path)), value);
}

static int document_walk(walk_t *w, vd_bson_t document, bool in_array, uint32_t depth);

static int element_walk(walk_t *w, vd_value_t value, bool in_array, bool wanted, uint32_t depth)
{
    static const vd_value_t undefined = {NULL, 0, VD_BSON_UNDEFINED};
    bool array = value.type == VD_BSON_ARRAY;
    if (array && in_array)
        return wanted ? leaf(w, value) : VD_OK; /* an array in an array is a value */
    if (!array && value.type != VD_BSON_OBJECT)
        return wanted ? leaf(w, value) : VD_OK;
    if (array)
        w->m->multikey |= 1u << w->m->def->wildcard;
    if (vd_bson_is_empty(vd_value_document(value)))
        return wanted ? leaf(w, array ? undefined : value) : VD_OK;
    return document_walk(w, vd_value_document(value), array, depth + 1);
}

static int document_walk(walk_t *w, vd_bson_t document, bool in_array, uint32_t depth)
{
    vd_bson_iter_t iter;
    size_t len = vd_buf_len(&w->path);
    int rc = VD_OK;
    if (depth > VD_BSON_BUILD_DEPTH_MAX)
        return vd_error_set(w->m->err, VD_ERR_OVERFLOW, "a document is nested too deeply");
    vd_bson_iter_init(&iter, document);
    while (rc == VD_OK && vd_bson_iter_next(&iter)) {
        bool wanted = true;
        if (!in_array) {
            if (memchr(iter.name.data, '.', iter.name.len + 1) != NULL)
                continue; /* no path leads to it */
            if (len > 0)
                rc = vd_buf_append_u8(&w->path, '.');
            if (rc == VD_OK)
                rc = vd_buf_append_slice(&w->path, iter.name);
            if (rc != VD_OK)
                return vd_error_set(w->m->err, rc, "a path is too long");
        }
        if (is_wanted(w->m->def, vd_buf_slice(&w->path), &wanted))
            rc = element_walk(w, iter.value, in_array, wanted, depth);
        vd_buf_truncate(&w->path, len);
    }
    return rc;
}

/* The fields beside the wildcard: no arrays. */
static int others_fix(maker_t *m, vd_bson_t document, vd_value_t *fixed, uint32_t *ret_found)
{
    const stor_index_def_t *def = &m->def->def;
    *ret_found = 0;
    for (uint32_t i = 0; i < def->field_count; i++) {
        if (i == m->def->wildcard)
            continue;
        vd_slice_t path = def->fields[i].path;
        fixed[i] = keys_extract(document, &path);
        if (fixed[i].type == VD_BSON_ARRAY)
            return vd_error_set(m->err, VD_ERR_LOCATION(7246301),
                                "a compound wildcard index does not support an array in '%.*s'",
                                VD_SLICE_FMT(def->fields[i].path));
        *ret_found += fixed[i].type != VD_BSON_MISSING;
        if (fixed[i].type == VD_BSON_MISSING)
            fixed[i] = vd_value_from_null();
    }
    return VD_OK;
}

int wildcard_keys(maker_t *m, vd_bson_t document)
{
    static const vd_value_t least = {NULL, 0, VD_BSON_MINKEY};
    vd_value_t fixed[STOR_INDEX_FIELDS_MAX];
    uint32_t found;
    int rc = others_fix(m, document, fixed, &found);
    if (rc != VD_OK)
        return rc;
    walk_t w = {.m = m, .fixed = fixed};
    vd_buf_init(&w.path, PATH_MAX_BYTES);
    rc = document_walk(&w, document, false, 0);
    vd_buf_done(&w.path);
    /* A compound one has every document, so that its other fields can be asked for alone. */
    if (rc == VD_OK && m->count == 0 && m->def->def.field_count > 1)
        rc = leaf_add(&w, least, least);
    return rc;
}
