/* proto/sections.c — see sections.h. */
#include "proto/sections.h"

enum { KIND_BODY = 0, KIND_SEQUENCE = 1 };

/* bytes: after the kind byte. Sets *ret_size to what the section takes. */
static int parse_sequence(vd_slice_t bytes, vdp_sequence_t *ret_sequence, size_t *ret_size,
                          vd_error_t *err)
{
    if (bytes.len < 4)
        return vd_error_set(err, VD_ERR_PROTOCOL, "document sequence: no size");
    uint32_t size = vd_get_u32(bytes.data);
    if (size < 5 || size > bytes.len)
        return vd_error_set(err, VD_ERR_PROTOCOL, "document sequence: size %u of %zu bytes", size,
                            bytes.len);
    const uint8_t *name = bytes.data + 4;
    const uint8_t *nul = memchr(name, 0, size - 4);
    if (nul == NULL || nul == name || nul - name > 64)
        return vd_error_set(err, VD_ERR_PROTOCOL, "document sequence: bad name");

    vdp_sequence_t sequence = {.name = vd_slice(name, (size_t)(nul - name))};
    sequence.documents = vd_slice(nul + 1, size - 4 - sequence.name.len - 1);
    vd_slice_t left = sequence.documents;
    while (left.len > 0) {
        vd_bson_t document;
        int rc = vd_bson_peek(left, &document, err);
        if (rc != VD_OK) {
            (void)vd_error_prefix(err, "document %u of a sequence", sequence.count);
            return rc;
        }
        left = vd_slice(left.data + document.len, left.len - document.len);
        sequence.count++;
    }
    *ret_sequence = sequence;
    *ret_size = size;
    return VD_OK;
}

static int check_names(const vdp_sections_t *sections, vd_error_t *err)
{
    for (uint32_t i = 0; i < sections->sequence_count; i++) {
        vd_slice_t name = sections->sequences[i].name;
        for (uint32_t j = 0; j < i; j++)
            if (vd_slice_equal(name, sections->sequences[j].name))
                return vd_error_set(err, VD_ERR_PROTOCOL, "two document sequences have one name");
        if (!vd_value_is_missing(vd_bson_get_slice(sections->body, name)))
            return vd_error_set(err, VD_ERR_PROTOCOL,
                                "a document sequence has the name of a field in the body");
    }
    return VD_OK;
}

int vdp_sections_parse(vd_slice_t bytes, vdp_sections_t *ret_sections, vd_error_t *err)
{
    VD_ASSERT(ret_sections != NULL);

    vdp_sections_t sections = {.body = VD_BSON_NONE};
    while (bytes.len > 0) {
        uint8_t kind = bytes.data[0];
        vd_slice_t after = vd_slice(bytes.data + 1, bytes.len - 1);
        size_t size = 0;
        int rc;
        if (kind == KIND_BODY) {
            if (sections.body.data != NULL)
                return vd_error_set(err, VD_ERR_PROTOCOL, "two bodies in one message");
            rc = vd_bson_peek(after, &sections.body, err);
            size = sections.body.len;
        } else if (kind == KIND_SEQUENCE) {
            if (sections.sequence_count == VDP_SEQUENCES_MAX)
                return vd_error_set(err, VD_ERR_PROTOCOL, "more than %d document sequences",
                                    VDP_SEQUENCES_MAX);
            rc = parse_sequence(after, &sections.sequences[sections.sequence_count++], &size, err);
        } else {
            return vd_error_set(err, VD_ERR_PROTOCOL, "a section of unknown kind %u", kind);
        }
        if (rc != VD_OK)
            return rc;
        bytes = vd_slice(after.data + size, after.len - size);
    }
    if (sections.body.data == NULL)
        return vd_error_set(err, VD_ERR_PROTOCOL, "a message without a body");
    int rc = check_names(&sections, err);
    if (rc != VD_OK)
        return rc;
    *ret_sections = sections;
    return VD_OK;
}

bool vdp_sequence_next(const vdp_sequence_t *sequence, size_t *position, vd_bson_t *ret_document)
{
    VD_ASSERT(sequence != NULL && position != NULL && ret_document != NULL);

    if (*position >= sequence->documents.len)
        return false;
    vd_slice_t left =
        vd_slice(sequence->documents.data + *position, sequence->documents.len - *position);
    if (vd_bson_peek(left, ret_document, NULL) != VD_OK)
        return false; /* can't be after a good parse; never read on */
    *position += ret_document->len;
    return true;
}

const vdp_sequence_t *vdp_sections_sequence(const vdp_sections_t *sections, const char *name)
{
    for (uint32_t i = 0; i < sections->sequence_count; i++)
        if (vd_slice_is(sections->sequences[i].name, name))
            return &sections->sequences[i];
    return NULL;
}
