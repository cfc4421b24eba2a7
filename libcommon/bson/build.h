/* libcommon/bson/build.h — makes BSON into a bounded buffer.
 *
 * Duty:    appends elements; sub-documents and arrays are opened and closed in place. The first
 *          failure (limit, depth) sticks: later calls do nothing, vd_bb_finish reports it. So
 *          callers append freely and check once. Names are slices without NUL bytes (checked: an
 *          inner NUL sticks VD_ERR_INVALID_BSON).
 * Owner:   embedded; init/done (or init_arena: bytes are given back with the arena).
 * Threads: one. */
#pragma once
#include "libcommon/base/limits.h"
#include "libcommon/bson/view.h"

#define VD_BSON_BUILD_DEPTH_MAX (VD_BSON_DEPTH_MAX + 20)

typedef struct {
    uint8_t *data;
    size_t len, cap, max;
    vd_arena_t *arena; /* NULL: heap */
    int rc;            /* first failure */
    uint32_t depth;
    uint32_t open[VD_BSON_BUILD_DEPTH_MAX]; /* offset of each open document's length */
} vd_bb_t;

/* Starts a document. max_bytes: hard limit. */
void vd_bb_init(vd_bb_t *bb, size_t max_bytes);
void vd_bb_init_arena(vd_bb_t *bb, vd_arena_t *arena, size_t max_bytes);
void vd_bb_done(vd_bb_t *bb);
/* Empties and starts a new document in the same memory. */
void vd_bb_reset(vd_bb_t *bb);
/* Closes the outermost document. The bytes are borrowed until done/reset (or live in the arena).
 * VD_ERR_BSON_OBJECT_TOO_LARGE over the limit, VD_ERR_OVERFLOW too deep. */
VD_MUST_CHECK int vd_bb_finish(vd_bb_t *bb, vd_bson_t *ret_doc, vd_error_t *err);
size_t vd_bb_len(const vd_bb_t *bb);

void vd_bb_value(vd_bb_t *bb, vd_slice_t name, vd_value_t v); /* MISSING appends nothing */
void vd_bb_open_document(vd_bb_t *bb, vd_slice_t name);
void vd_bb_open_array(vd_bb_t *bb, vd_slice_t name);
void vd_bb_close(vd_bb_t *bb); /* the innermost open one */
/* Copies every element of doc into the open document. */
void vd_bb_concat(vd_bb_t *bb, vd_bson_t doc);
/* Next array position as a name: keeps "0","1",... ; buf of 12 bytes. */
vd_slice_t vd_array_name(uint32_t position, char buf[12]);

void vd_bb_double(vd_bb_t *bb, const char *name, double v);
void vd_bb_string(vd_bb_t *bb, const char *name, vd_slice_t s);
void vd_bb_cstr(vd_bb_t *bb, const char *name, const char *s);
void vd_bb_document(vd_bb_t *bb, const char *name, vd_bson_t doc);
void vd_bb_array(vd_bb_t *bb, const char *name, vd_bson_t array);
void vd_bb_binary(vd_bb_t *bb, const char *name, uint8_t subtype, vd_slice_t bytes);
void vd_bb_objectid(vd_bb_t *bb, const char *name, const uint8_t oid[12]);
void vd_bb_bool(vd_bb_t *bb, const char *name, bool v);
void vd_bb_date(vd_bb_t *bb, const char *name, int64_t ms);
void vd_bb_null(vd_bb_t *bb, const char *name);
void vd_bb_int32(vd_bb_t *bb, const char *name, int32_t v);
void vd_bb_int64(vd_bb_t *bb, const char *name, int64_t v);
void vd_bb_timestamp(vd_bb_t *bb, const char *name, uint64_t ts);
void vd_bb_begin_document(vd_bb_t *bb, const char *name); /* open_document with a C string */
void vd_bb_begin_array(vd_bb_t *bb, const char *name);

/* A new ObjectId (4 bytes seconds, 5 bytes random per process, 3 bytes counter). Threads: any. */
void vd_objectid_new(uint8_t out[12]);
