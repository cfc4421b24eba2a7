/* veddb-storaged/envelope.c — see envelope.h. */
#include "veddb-storaged/envelope.h"
#include "libcommon/base/limits.h"

#include "veddb-storaged/engine/keycode.h"

#define FLAG_PLACE 1

static void write(uint8_t *out, uint64_t version, vd_bson_t document)
{
    VD_ASSERT(document.len >= 5);
    out[0] = 0;
    out[1] = 0;
    vd_put_u64(out + 2, version);
    memcpy(out + STOR_ENVELOPE_BYTES, document.data, document.len);
}

void stor_envelope_write(uint8_t *out, uint64_t version, vd_bson_t document)
{
    VD_ASSERT(version != STOR_VERSION_PENDING);
    write(out, version, document);
}

void stor_envelope_write_pending(uint8_t *out, vd_bson_t document)
{
    write(out, STOR_VERSION_PENDING, document);
}

size_t stor_envelope_write_placed(uint8_t *out, uint64_t version, uint64_t place,
                                  vd_bson_t document)
{
    if (place == 0 || place == version) {
        stor_envelope_write(out, version, document);
        return STOR_ENVELOPE_BYTES + (size_t)document.len;
    }
    VD_ASSERT(document.len >= 5);
    VD_ASSERT(version != STOR_VERSION_PENDING);
    out[0] = 0;
    out[1] = FLAG_PLACE;
    vd_put_u64(out + 2, version);
    vd_put_u64(out + STOR_ENVELOPE_BYTES, place);
    memcpy(out + STOR_ENVELOPE_BYTES_MAX, document.data, document.len);
    return STOR_ENVELOPE_BYTES_MAX + (size_t)document.len;
}

static size_t head_bytes(vd_slice_t value)
{
    return value.data[1] == FLAG_PLACE ? STOR_ENVELOPE_BYTES_MAX : STOR_ENVELOPE_BYTES;
}

uint64_t stor_envelope_place(vd_slice_t value)
{
    VD_ASSERT(value.len >= STOR_ENVELOPE_BYTES && value.len >= head_bytes(value));
    return vd_get_u64(value.data + (value.data[1] == FLAG_PLACE ? STOR_ENVELOPE_BYTES : 2));
}

int stor_envelope_read(vd_slice_t value, vd_bson_t *ret_document, uint64_t *ret_version,
                       vd_error_t *err)
{
    if (value.len < STOR_ENVELOPE_BYTES + 5 || (value.data[1] & ~FLAG_PLACE) != 0 ||
        value.len < head_bytes(value) + 5)
        return vd_error_set(err, VD_ERR_CORRUPT, "a stored document has an unknown envelope");
    const uint8_t *bson = value.data + head_bytes(value);
    size_t len = value.len - head_bytes(value);
    if (vd_get_u32(bson) != len || bson[len - 1] != 0)
        return vd_error_set(err, VD_ERR_CORRUPT, "a stored document has a wrong length");
    *ret_version = vd_get_u64(value.data + 2);
    *ret_document = (vd_bson_t){bson, (uint32_t)len};
    return VD_OK;
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Multiply and fold, 16 bytes a step. Not meant against an adversary who knows the documents: it
 * finds storage faults. It is stored, so it may never change. */
uint64_t stor_record_hash(uint64_t version, vd_bson_t document)
{
    static const uint64_t odd1 = 0x9e3779b97f4a7c15u, odd2 = 0xc2b2ae3d27d4eb4fu,
                          odd3 = 0x165667b19e3779f9u;
    const uint8_t *at = document.data;
    size_t left = document.len;
    uint64_t h = fold(version ^ odd1, left ^ odd2);
    for (; left >= 16; at += 16, left -= 16)
        h = fold(vd_get_u64(at) ^ odd1 ^ h, vd_get_u64(at + 8) ^ odd3) + h;
    uint8_t tail[16] = {0};
    if (left > 0)
        memcpy(tail, at, left);
    h = fold(vd_get_u64(tail) ^ odd2 ^ h, vd_get_u64(tail + 8) ^ odd3) + h;
    return fold(h ^ odd3, odd1 ^ (uint64_t)document.len);
}

stor_record_t stor_record_copy(vd_arena_t *arena, stor_record_t record)
{
    uint8_t *bytes = vd_arena_alloc(arena, (size_t)record.document.len + record.key.len);
    memcpy(bytes, record.document.data, record.document.len);
    if (record.key.len > 0)
        memcpy(bytes + record.document.len, record.key.data, record.key.len);
    return (stor_record_t){{bytes, record.document.len},
                           record.version,
                           {bytes + record.document.len, record.key.len},
                           record.place};
}

int stor_id_key(vd_arena_t *arena, vd_value_t id, vd_slice_t *ret_key, vd_error_t *err)
{
    if (id.type == VD_BSON_ARRAY || id.type == VD_BSON_REGEX || id.type == VD_BSON_UNDEFINED ||
        id.type == VD_BSON_MISSING)
        return vd_error_set(err, VD_ERR_INVALID_ID_FIELD, "The '_id' value cannot be of type %s",
                            vd_bson_type_name(id.type));
    vd_buf_t buf;
    vd_buf_init(&buf, 2 * VD_KEYCODE_MAX_BYTES);
    bool exact = true;
    int rc = stor_keycode_append(&buf, id, false, &exact, err);
    if (rc == VD_OK)
        *ret_key = vd_arena_copy_slice(arena, vd_buf_slice(&buf));
    vd_buf_done(&buf);
    return rc;
}
