/* proto/codec.c — see codec.h. Writing goes through msgpack's packer into space that is reserved
 * once per item; reading looks at the headers by hand, so that nothing is allocated and no count is
 * believed before it is compared with the bytes that are there. */
#include "proto/codec.h"
#include "libcommon/bson/view.h"

#include <msgpack/pack.h>

#define HEAD_ELEMENTS  6u
#define HEAD_MAX_BYTES 48u /* array header, five integers of at most 9 bytes */
#define SCALAR_MAX     9u
#define BLOB_HEAD_MAX  5u

/* A reader may meet fields that are newer than it is; this bounds how many it will step over. */
#define FIELDS_MAX 64u

typedef struct {
    uint8_t *at;
} pen_t;

static int pen_write(void *context, const char *data, size_t len)
{
    pen_t *pen = context;
    if (len > 0)
        memcpy(pen->at, data, len);
    pen->at += len;
    return 0;
}

static bool is_text(vd_slice_t s)
{
    size_t i = 0;
    for (; i + 8 <= s.len; i += 8) {
        uint64_t word;
        memcpy(&word, s.data + i, 8);
        if ((word & 0x8080808080808080ull) != 0)
            return vd_utf8_valid(s);
    }
    for (; i < s.len; i++)
        if (s.data[i] >= 0x80)
            return vd_utf8_valid(s);
    return true;
}

static const void *field_at(const void *fields, const vdp_field_t *field)
{
    return (const uint8_t *)fields + field->offset;
}

static vd_slice_t slice_at(const void *fields, const vdp_field_t *field)
{
    vd_slice_t s;
    memcpy(&s, field_at(fields, field), sizeof s);
    return s;
}

/* Checks what is to be written and adds up the room that it needs at most. */
static int measure(const vdp_message_t *message, const void *fields, size_t *ret_size,
                   vd_error_t *err)
{
    size_t size = HEAD_MAX_BYTES + BLOB_HEAD_MAX;
    for (uint32_t i = 0; i < message->field_count; i++) {
        const vdp_field_t *field = &message->fields[i];
        if (field->type != VDP_STRING && field->type != VDP_BYTES) {
            size += SCALAR_MAX;
            continue;
        }
        vd_slice_t s = slice_at(fields, field);
        if (s.len > field->max_bytes)
            return vd_error_set(err, VD_ERR_INVALID_LENGTH, "%s.%s: %zu bytes, at most %u",
                                message->name, field->name, s.len, field->max_bytes);
        if (field->type == VDP_STRING && !is_text(s))
            return vd_error_set(err, VD_ERR_BAD_VALUE, "%s.%s: not valid UTF-8", message->name,
                                field->name);
        size += BLOB_HEAD_MAX + s.len;
    }
    *ret_size = size;
    return VD_OK;
}

static void pack_field(msgpack_packer *packer, const void *fields, const vdp_field_t *field)
{
    const void *at = field_at(fields, field);
    switch (field->type) {
    case VDP_U64: {
        uint64_t v;
        memcpy(&v, at, sizeof v);
        (void)msgpack_pack_uint64(packer, v); /* the pen never fails */
        break;
    }
    case VDP_I64: {
        int64_t v;
        memcpy(&v, at, sizeof v);
        (void)msgpack_pack_int64(packer, v);
        break;
    }
    case VDP_U32: {
        uint32_t v;
        memcpy(&v, at, sizeof v);
        (void)msgpack_pack_uint32(packer, v);
        break;
    }
    case VDP_BOOL: {
        bool v;
        memcpy(&v, at, sizeof v);
        (void)(v ? msgpack_pack_true(packer) : msgpack_pack_false(packer));
        break;
    }
    case VDP_STRING: {
        vd_slice_t s = slice_at(fields, field);
        (void)msgpack_pack_str(packer, s.len);
        (void)msgpack_pack_str_body(packer, s.data, s.len);
        break;
    }
    case VDP_BYTES: {
        vd_slice_t s = slice_at(fields, field);
        (void)msgpack_pack_bin(packer, s.len);
        (void)msgpack_pack_bin_body(packer, s.data, s.len);
        break;
    }
    }
}

int vdp_encode(vd_buf_t *out, const vdp_envelope_t *envelope, const vdp_message_t *message,
               const void *fields, vd_slice_t body, vd_error_t *err)
{
    VD_ASSERT(out != NULL && envelope != NULL && message != NULL && fields != NULL);
    VD_ASSERT(envelope->id == 0 || envelope->id == message->id);
    VD_ASSERT(message->field_count <= FIELDS_MAX);

    size_t size = 0;
    int rc = measure(message, fields, &size, err);
    if (rc != VD_OK)
        return rc;
    if (body.len > message->body_max_bytes)
        return vd_error_set(err, VD_ERR_INVALID_LENGTH, "%s: a body of %zu bytes, at most %u",
                            message->name, body.len, message->body_max_bytes);
    uint8_t *space = NULL;
    rc = vd_buf_reserve(out, size + body.len, &space);
    if (rc != VD_OK)
        return vd_error_set(err, rc, "%s: no room for %zu bytes", message->name, size + body.len);

    pen_t pen = {.at = space};
    msgpack_packer packer;
    msgpack_packer_init(&packer, &pen, pen_write);
    (void)msgpack_pack_array(&packer, HEAD_ELEMENTS);
    (void)msgpack_pack_uint32(&packer, VDP_VERSION);
    (void)msgpack_pack_uint32(&packer, message->id);
    (void)msgpack_pack_uint64(&packer, envelope->request_id);
    (void)msgpack_pack_uint64(&packer, envelope->generation);
    (void)msgpack_pack_uint64(&packer, envelope->deadline_ms);
    (void)msgpack_pack_array(&packer, message->field_count);
    for (uint32_t i = 0; i < message->field_count; i++)
        pack_field(&packer, fields, &message->fields[i]);
    (void)pen_write(&pen, (const char *)body.data, body.len);
    VD_ASSERT((size_t)(pen.at - space) <= size + body.len);
    vd_buf_commit(out, (size_t)(pen.at - space));
    return VD_OK;
}

/* ---- reading ---- */

typedef struct {
    const uint8_t *at, *end;
} reader_t;

static bool take(reader_t *reader, size_t len, const uint8_t **ret)
{
    if ((size_t)(reader->end - reader->at) < len)
        return false;
    *ret = reader->at;
    reader->at += len;
    return true;
}

static uint64_t get_be(const uint8_t *p, size_t width)
{
    uint64_t v = 0;
    for (size_t i = 0; i < width; i++)
        v = v << 8 | p[i];
    return v;
}

static bool take_be(reader_t *reader, size_t width, uint64_t *ret)
{
    const uint8_t *p;
    if (!take(reader, width, &p))
        return false;
    *ret = get_be(p, width);
    return true;
}

static bool read_unsigned(reader_t *reader, uint64_t *ret)
{
    const uint8_t *tag;
    if (!take(reader, 1, &tag))
        return false;
    if (*tag < 0x80) {
        *ret = *tag;
        return true;
    }
    switch (*tag) {
    case 0xcc:
        return take_be(reader, 1, ret);
    case 0xcd:
        return take_be(reader, 2, ret);
    case 0xce:
        return take_be(reader, 4, ret);
    case 0xcf:
        return take_be(reader, 8, ret);
    default:
        return false;
    }
}

static bool read_signed(reader_t *reader, int64_t *ret)
{
    if (reader->at == reader->end)
        return false;
    uint8_t tag = *reader->at;
    uint64_t raw = 0;
    if (tag < 0x80 || (tag >= 0xcc && tag <= 0xcf)) {
        if (!read_unsigned(reader, &raw) || raw > (uint64_t)INT64_MAX)
            return false;
        *ret = (int64_t)raw;
        return true;
    }
    reader->at++;
    if (tag >= 0xe0) {
        *ret = (int8_t)tag;
        return true;
    }
    if (tag < 0xd0 || tag > 0xd3)
        return false;
    size_t width = (size_t)1 << (tag - 0xd0);
    if (!take_be(reader, width, &raw))
        return false;
    unsigned shift = (unsigned)(64 - 8 * width);
    *ret = (int64_t)(raw << shift) >> shift;
    return true;
}

static bool read_bool(reader_t *reader, bool *ret)
{
    const uint8_t *tag;
    if (!take(reader, 1, &tag) || (*tag != 0xc2 && *tag != 0xc3))
        return false;
    *ret = *tag == 0xc3;
    return true;
}

/* str and bin differ in their tags alone. */
static bool read_blob(reader_t *reader, bool text, vd_slice_t *ret)
{
    const uint8_t *tag;
    uint64_t len = 0;
    if (!take(reader, 1, &tag))
        return false;
    uint8_t first = text ? 0xd9 : 0xc4;
    if (text && (*tag & 0xe0) == 0xa0)
        len = *tag & 0x1f;
    else if (*tag < first || *tag > first + 2 ||
             !take_be(reader, (size_t)1 << (*tag - first), &len))
        return false;
    const uint8_t *data;
    if (!take(reader, len, &data))
        return false;
    *ret = vd_slice(data, len);
    return true;
}

static bool read_array(reader_t *reader, uint32_t *ret_count)
{
    const uint8_t *tag;
    uint64_t count = 0;
    if (!take(reader, 1, &tag))
        return false;
    if ((*tag & 0xf0) == 0x90)
        count = *tag & 0x0f;
    else if (*tag != 0xdc || !take_be(reader, 2, &count))
        return false;
    *ret_count = (uint32_t)count;
    return true;
}

/* Steps over a field that this reader does not know: scalars, strings and bytes, never anything
 * nested. */
static bool skip_field(reader_t *reader)
{
    if (reader->at == reader->end)
        return false;
    uint8_t tag = *reader->at;
    int64_t number;
    uint64_t big;
    bool flag;
    vd_slice_t blob;
    if (tag == 0xc0) {
        reader->at++;
        return true;
    }
    if (tag == 0xc2 || tag == 0xc3)
        return read_bool(reader, &flag);
    if ((tag & 0xe0) == 0xa0 || (tag >= 0xd9 && tag <= 0xdb))
        return read_blob(reader, true, &blob);
    if (tag >= 0xc4 && tag <= 0xc6)
        return read_blob(reader, false, &blob);
    return tag == 0xcf ? read_unsigned(reader, &big) : read_signed(reader, &number);
}

static bool read_field(reader_t *reader, const vdp_field_t *field, uint8_t *fields)
{
    uint8_t *at = fields + field->offset;
    uint64_t u = 0;
    int64_t i = 0;
    bool b = false;
    vd_slice_t s = VD_SLICE_NULL;
    switch (field->type) {
    case VDP_U64:
        if (!read_unsigned(reader, &u))
            return false;
        memcpy(at, &u, sizeof u);
        return true;
    case VDP_I64:
        if (!read_signed(reader, &i))
            return false;
        memcpy(at, &i, sizeof i);
        return true;
    case VDP_U32: {
        if (!read_unsigned(reader, &u) || u > UINT32_MAX)
            return false;
        uint32_t narrow = (uint32_t)u;
        memcpy(at, &narrow, sizeof narrow);
        return true;
    }
    case VDP_BOOL:
        if (!read_bool(reader, &b))
            return false;
        memcpy(at, &b, sizeof b);
        return true;
    case VDP_STRING:
    case VDP_BYTES:
        if (!read_blob(reader, field->type == VDP_STRING, &s) || s.len > field->max_bytes ||
            (field->type == VDP_STRING && !is_text(s)))
            return false;
        memcpy(at, &s, sizeof s);
        return true;
    }
    return false;
}

int vdp_decode_envelope(vd_slice_t item, vdp_envelope_t *ret_envelope, vd_slice_t *ret_rest,
                        vd_error_t *err)
{
    VD_ASSERT(ret_envelope != NULL && ret_rest != NULL);

    reader_t reader = {item.data, item.data + item.len};
    uint32_t count = 0;
    uint64_t version = 0, id = 0;
    vdp_envelope_t envelope = {0};
    if (!read_array(&reader, &count) || count != HEAD_ELEMENTS || !read_unsigned(&reader, &version))
        return vd_error_set(err, VD_ERR_PROTOCOL, "item: no envelope");
    if (version != VDP_VERSION)
        return vd_error_set(err, VD_ERR_PROTOCOL, "item: protocol version %llu, %d is spoken here",
                            (unsigned long long)version, VDP_VERSION);
    if (!read_unsigned(&reader, &id) || id > UINT32_MAX ||
        !read_unsigned(&reader, &envelope.request_id) ||
        !read_unsigned(&reader, &envelope.generation) ||
        !read_unsigned(&reader, &envelope.deadline_ms))
        return vd_error_set(err, VD_ERR_PROTOCOL, "item: the envelope is malformed");
    envelope.id = (uint32_t)id;
    *ret_envelope = envelope;
    *ret_rest = vd_slice(reader.at, (size_t)(reader.end - reader.at));
    return VD_OK;
}

int vdp_decode(const vdp_message_t *message, vd_slice_t rest, void *ret_fields,
               vd_slice_t *ret_body, vd_error_t *err)
{
    VD_ASSERT(message != NULL && ret_fields != NULL);

    reader_t reader = {rest.data, rest.data + rest.len};
    uint32_t count = 0;
    memset(ret_fields, 0, message->size);
    if (!read_array(&reader, &count))
        return vd_error_set(err, VD_ERR_PROTOCOL, "%s: no fields", message->name);
    if (count > FIELDS_MAX || count > (size_t)(reader.end - reader.at))
        return vd_error_set(err, VD_ERR_PROTOCOL, "%s: %u fields", message->name, count);
    for (uint32_t i = 0; i < count; i++) {
        bool known = i < message->field_count;
        if (known ? !read_field(&reader, &message->fields[i], ret_fields) : !skip_field(&reader))
            return vd_error_set(err, VD_ERR_PROTOCOL, "%s.%s: malformed", message->name,
                                known ? message->fields[i].name : "(unknown)");
    }
    vd_slice_t body = vd_slice(reader.at, (size_t)(reader.end - reader.at));
    if (body.len > message->body_max_bytes)
        return vd_error_set(err, VD_ERR_PROTOCOL, "%s: a body of %zu bytes, at most %u",
                            message->name, body.len, message->body_max_bytes);
    if (ret_body != NULL)
        *ret_body = body;
    return VD_OK;
}

const char *vdp_id_name(uint32_t id)
{
    switch (id) {
#define VDP_ID(name, number)                                                                       \
    case (number):                                                                                 \
        return #name;
#include "proto/ids.def"
#undef VDP_ID
    default:
        return "unknown";
    }
}

int vdp_foreign(uint32_t id, const char *receiver, vd_error_t *err)
{
    const char *name = vdp_id_name(id);
    if (strcmp(name, "unknown") == 0)
        return vd_error_set(err, VD_ERR_COMMAND_NOT_FOUND, "message %u is not known to %s", id,
                            receiver);
    return vd_error_set(err, VD_ERR_PROTOCOL, "message %u (%s) is not for %s", id, name, receiver);
}
