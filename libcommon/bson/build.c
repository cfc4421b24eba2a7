/* libcommon/bson/build.c — BSON into a bounded buffer; see build.h. */
#include "libcommon/bson/build.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"

#include <pthread.h>
#include <stdlib.h>

#define FIRST_BYTES 256

static void start(vd_bb_t *bb)
{
    bb->len = 0;
    bb->rc = VD_OK;
    bb->depth = 0;
}

/* Room for len more bytes, NULL after a failure. */
static uint8_t *extend(vd_bb_t *bb, size_t len)
{
    if (bb->rc != VD_OK)
        return NULL;
    if (len > bb->max || bb->len > bb->max - len) {
        bb->rc = VD_ERR_BSON_OBJECT_TOO_LARGE;
        return NULL;
    }
    if (VD_UNLIKELY(bb->len + len > bb->cap)) {
        size_t cap = bb->cap == 0 ? FIRST_BYTES : bb->cap * 2;
        while (cap < bb->len + len)
            cap *= 2;
        uint8_t *data;
        if (bb->arena != NULL) {
            data = vd_arena_alloc(bb->arena, cap);
            if (bb->len != 0)
                memcpy(data, bb->data, bb->len);
        } else {
            data = realloc(bb->data, cap);
        }
        if (data == NULL) {
            bb->rc = VD_ERR_NO_MEMORY;
            return NULL;
        }
        bb->data = data;
        bb->cap = cap;
    }
    uint8_t *space = bb->data + bb->len;
    bb->len += len;
    return space;
}

/* Opens a document whose four length bytes come next. */
static void open_here(vd_bb_t *bb)
{
    if (bb->rc == VD_OK && bb->depth == VD_BSON_BUILD_DEPTH_MAX)
        bb->rc = VD_ERR_OVERFLOW;
    uint8_t *space = extend(bb, 4);
    if (space == NULL)
        return;
    bb->open[bb->depth++] = (uint32_t)(bb->len - 4);
}

static void close_here(vd_bb_t *bb)
{
    uint8_t *space = extend(bb, 1);
    if (space == NULL)
        return;
    *space = 0;
    uint32_t at = bb->open[--bb->depth];
    vd_put_u32(bb->data + at, (uint32_t)(bb->len - at));
}

void vd_bb_init(vd_bb_t *bb, size_t max_bytes)
{
    vd_bb_init_arena(bb, NULL, max_bytes);
}

void vd_bb_init_arena(vd_bb_t *bb, vd_arena_t *arena, size_t max_bytes)
{
    VD_ASSERT(bb != NULL);
    VD_ASSERT(max_bytes <= INT32_MAX);
    /* not `*bb = {0}`: the table of open documents is large and needs no zeroes */
    bb->data = NULL;
    bb->cap = 0;
    bb->max = max_bytes;
    bb->arena = arena;
    start(bb);
    open_here(bb);
}

void vd_bb_done(vd_bb_t *bb)
{
    if (bb == NULL)
        return;
    if (bb->arena == NULL)
        vd_free(bb->data);
    bb->data = NULL;
    bb->cap = 0;
    start(bb);
}

void vd_bb_reset(vd_bb_t *bb)
{
    start(bb);
    open_here(bb);
}

int vd_bb_finish(vd_bb_t *bb, vd_bson_t *ret_doc, vd_error_t *err)
{
    if (bb->rc == VD_OK) {
        VD_ASSERT(bb->depth == 1); /* every opened document was closed, and finish is called once */
        close_here(bb);
    }
    switch (bb->rc) {
    case VD_OK:
        *ret_doc = (vd_bson_t){bb->data, (uint32_t)bb->len};
        return VD_OK;
    case VD_ERR_BSON_OBJECT_TOO_LARGE:
        return vd_error_set(err, bb->rc, "BSON document would be larger than %zu bytes", bb->max);
    case VD_ERR_OVERFLOW:
        return vd_error_set(err, bb->rc, "BSON document would be nested deeper than %d levels",
                            VD_BSON_BUILD_DEPTH_MAX);
    case VD_ERR_NO_MEMORY:
        return vd_error_set(err, bb->rc, "no memory for a BSON document");
    default:
        return vd_error_set(err, bb->rc, "BSON field name has a NUL byte");
    }
}

size_t vd_bb_len(const vd_bb_t *bb)
{
    return bb->len;
}

/* Type and name; returns room for the payload, NULL after a failure. */
static uint8_t *element(vd_bb_t *bb, uint8_t type, vd_slice_t name, size_t payload)
{
    VD_ASSERT_SLOW(bb->rc != VD_OK || bb->depth > 0);
    if (bb->rc == VD_OK && name.len != 0 && memchr(name.data, 0, name.len) != NULL)
        bb->rc = VD_ERR_INVALID_BSON;
    if (name.len > bb->max || payload > bb->max) {
        if (bb->rc == VD_OK)
            bb->rc = VD_ERR_BSON_OBJECT_TOO_LARGE;
        return NULL;
    }
    uint8_t *space = extend(bb, name.len + 2 + payload);
    if (space == NULL)
        return NULL;
    *space++ = type;
    if (name.len != 0)
        memcpy(space, name.data, name.len);
    space[name.len] = 0;
    return space + name.len + 1;
}

void vd_bb_value(vd_bb_t *bb, vd_slice_t name, vd_value_t v)
{
    if (v.type == VD_BSON_MISSING)
        return;
    uint8_t *space = element(bb, v.type, name, v.len);
    if (space != NULL && v.len != 0)
        memcpy(space, v.data, v.len);
}

void vd_bb_open_document(vd_bb_t *bb, vd_slice_t name)
{
    (void)element(bb, VD_BSON_OBJECT, name, 0); /* a failure sticks */
    open_here(bb);
}

void vd_bb_open_array(vd_bb_t *bb, vd_slice_t name)
{
    (void)element(bb, VD_BSON_ARRAY, name, 0);
    open_here(bb);
}

void vd_bb_close(vd_bb_t *bb)
{
    VD_ASSERT(bb->rc != VD_OK || bb->depth > 1); /* the outermost is closed by finish */
    close_here(bb);
}

void vd_bb_concat(vd_bb_t *bb, vd_bson_t doc)
{
    if (vd_bson_is_empty(doc))
        return;
    uint8_t *space = extend(bb, doc.len - 5);
    if (space != NULL)
        memcpy(space, doc.data + 4, doc.len - 5);
}

vd_slice_t vd_array_name(uint32_t position, char buf[12])
{
    char *p = buf + 12;
    do {
        *--p = (char)('0' + position % 10);
        position /= 10;
    } while (position != 0);
    return vd_slice(p, (size_t)(buf + 12 - p));
}

static void append_u64(vd_bb_t *bb, uint8_t type, const char *name, uint64_t v)
{
    uint8_t *space = element(bb, type, vd_slice_str(name), 8);
    if (space != NULL)
        vd_put_u64(space, v);
}

void vd_bb_double(vd_bb_t *bb, const char *name, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    append_u64(bb, VD_BSON_DOUBLE, name, bits);
}

void vd_bb_string(vd_bb_t *bb, const char *name, vd_slice_t s)
{
    if (s.len > bb->max) {
        if (bb->rc == VD_OK)
            bb->rc = VD_ERR_BSON_OBJECT_TOO_LARGE;
        return;
    }
    uint8_t *space = element(bb, VD_BSON_STRING, vd_slice_str(name), s.len + 5);
    if (space == NULL)
        return;
    vd_put_u32(space, (uint32_t)s.len + 1);
    if (s.len != 0)
        memcpy(space + 4, s.data, s.len);
    space[4 + s.len] = 0;
}

void vd_bb_cstr(vd_bb_t *bb, const char *name, const char *s)
{
    vd_bb_string(bb, name, vd_slice_str(s));
}

void vd_bb_document(vd_bb_t *bb, const char *name, vd_bson_t doc)
{
    vd_bb_value(bb, vd_slice_str(name), vd_value_from_document(doc));
}

void vd_bb_array(vd_bb_t *bb, const char *name, vd_bson_t array)
{
    vd_bb_value(bb, vd_slice_str(name), vd_value_from_array(array));
}

void vd_bb_binary(vd_bb_t *bb, const char *name, uint8_t subtype, vd_slice_t bytes)
{
    if (bytes.len > bb->max) {
        if (bb->rc == VD_OK)
            bb->rc = VD_ERR_BSON_OBJECT_TOO_LARGE;
        return;
    }
    uint8_t *space = element(bb, VD_BSON_BINARY, vd_slice_str(name), bytes.len + 5);
    if (space == NULL)
        return;
    vd_put_u32(space, (uint32_t)bytes.len);
    space[4] = subtype;
    if (bytes.len != 0)
        memcpy(space + 5, bytes.data, bytes.len);
}

void vd_bb_objectid(vd_bb_t *bb, const char *name, const uint8_t oid[12])
{
    uint8_t *space = element(bb, VD_BSON_OBJECTID, vd_slice_str(name), 12);
    if (space != NULL)
        memcpy(space, oid, 12);
}

void vd_bb_bool(vd_bb_t *bb, const char *name, bool v)
{
    uint8_t *space = element(bb, VD_BSON_BOOL, vd_slice_str(name), 1);
    if (space != NULL)
        *space = v;
}

void vd_bb_date(vd_bb_t *bb, const char *name, int64_t ms)
{
    append_u64(bb, VD_BSON_DATE, name, (uint64_t)ms);
}

void vd_bb_null(vd_bb_t *bb, const char *name)
{
    (void)element(bb, VD_BSON_NULL, vd_slice_str(name), 0);
}

void vd_bb_int32(vd_bb_t *bb, const char *name, int32_t v)
{
    uint8_t *space = element(bb, VD_BSON_INT32, vd_slice_str(name), 4);
    if (space != NULL)
        vd_put_u32(space, (uint32_t)v);
}

void vd_bb_int64(vd_bb_t *bb, const char *name, int64_t v)
{
    append_u64(bb, VD_BSON_INT64, name, (uint64_t)v);
}

void vd_bb_timestamp(vd_bb_t *bb, const char *name, uint64_t ts)
{
    append_u64(bb, VD_BSON_TIMESTAMP, name, ts);
}

void vd_bb_begin_document(vd_bb_t *bb, const char *name)
{
    vd_bb_open_document(bb, vd_slice_str(name));
}

void vd_bb_begin_array(vd_bb_t *bb, const char *name)
{
    vd_bb_open_array(bb, vd_slice_str(name));
}

static pthread_once_t oid_once = PTHREAD_ONCE_INIT;
static uint8_t oid_random[5];
static uint32_t oid_counter;

static void oid_draw(void)
{
    vd_rand_secret(oid_random, sizeof oid_random);
    vd_rand_secret(&oid_counter, sizeof oid_counter);
}

void vd_objectid_new(uint8_t out[12])
{
    (void)pthread_once(&oid_once, oid_draw); /* fails only on misuse */
    uint32_t seconds = (uint32_t)(vd_wall_ms() / 1000);
    uint32_t counter = __atomic_fetch_add(&oid_counter, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(seconds >> (24 - 8 * i));
    memcpy(out + 4, oid_random, sizeof oid_random);
    for (int i = 0; i < 3; i++)
        out[9 + i] = (uint8_t)(counter >> (16 - 8 * i));
}
