/* proto/sections.h — the sections of an OP_MSG body: one kind-0 document, any kind-1 document
 * sequences.
 *
 * Duty:    the gateway checks untrusted bytes with it (vdp_sections_parse does every bound and
 *          unique names); storage reads the same bytes again. Documents are peeked (length and
 *          final NUL), not validated deeply: storage validates what it stores or interprets. Pure.
 * Owner:   what is parsed borrows the bytes.
 * Limits:  VDP_SEQUENCES_MAX sequences, names of 1 to 64 bytes. */
#pragma once
#include "libcommon/bson/view.h"

#define VDP_SEQUENCES_MAX 4

typedef struct {
    vd_slice_t name;      /* "documents", "updates", "deletes" */
    vd_slice_t documents; /* concatenated BSON documents */
    uint32_t count;
} vdp_sequence_t;

typedef struct {
    vd_bson_t body; /* the kind-0 document */
    uint32_t sequence_count;
    vdp_sequence_t sequences[VDP_SEQUENCES_MAX];
} vdp_sections_t;

VD_MUST_CHECK int vdp_sections_parse(vd_slice_t bytes, vdp_sections_t *ret_sections,
                                     vd_error_t *err);
/* Next document of a sequence; *position starts at 0; false at the end. */
bool vdp_sequence_next(const vdp_sequence_t *sequence, size_t *position, vd_bson_t *ret_document);
/* NULL when there is no sequence of that name. */
const vdp_sequence_t *vdp_sections_sequence(const vdp_sections_t *sections, const char *name);
