/* veddb-storaged/streams/token.c — see token.h.
 *
 * Bytes, big-endian: u8 version, u64 timestamp, u8 kind (0 mark, 0x80 event), u32 part, u32 number,
 * u8 invalidate, u8 fragment, u64 about, u32 crc32c of all before. */
#include "veddb-storaged/streams/token.h"

#include "veddb-storaged/engine/crc32c.h"

#define VERSION    1
#define KIND_MARK  0
#define KIND_EVENT 0x80

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

uint64_t stor_token_about(vd_slice_t uuid, vd_slice_t key)
{
    uint32_t a = stor_crc32c(0, uuid.data, uuid.len), b = stor_crc32c(a, key.data, key.len);
    return (uint64_t)a << 32 | b;
}

static void bytes_make(const stor_token_t *token, uint8_t bytes[STOR_TOKEN_BYTES])
{
    memset(bytes, 0, STOR_TOKEN_BYTES);
    bytes[0] = VERSION;
    vd_put_u64_be(bytes + 1, token->timestamp);
    bytes[9] = token->event ? KIND_EVENT : KIND_MARK;
    put_u32(bytes + 10, token->part);
    put_u32(bytes + 14, token->number);
    bytes[18] = token->invalidate;
    bytes[19] = token->fragment;
    vd_put_u64_be(bytes + 20, token->about);
    put_u32(bytes + 28, stor_crc32c(0, bytes, 28));
}

void stor_token_write(const stor_token_t *token, char digits[STOR_TOKEN_DIGITS + 1])
{
    static const char hex[] = "0123456789ABCDEF";
    uint8_t bytes[STOR_TOKEN_BYTES];
    bytes_make(token, bytes);
    for (size_t i = 0; i < STOR_TOKEN_BYTES; i++) {
        digits[2 * i] = hex[bytes[i] >> 4];
        digits[2 * i + 1] = hex[bytes[i] & 15];
    }
    digits[STOR_TOKEN_DIGITS] = 0;
}

static int digit(uint8_t c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int stor_token_read(vd_bson_t document, stor_token_t *ret_token, vd_error_t *err)
{
    vd_value_t data = vd_bson_get(document, "_data");
    uint8_t bytes[STOR_TOKEN_BYTES];
    if (data.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_LOCATION(40647),
                            "Bad resume token: _data of missing or of wrong type: %s",
                            vd_bson_type_name(data.type));
    vd_slice_t text = vd_value_string(data);
    bool hex = text.len % 2 == 0 && text.len > 0;
    for (size_t i = 0; hex && i < text.len; i++)
        hex = digit(text.data[i]) >= 0;
    if (!hex)
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE,
                            "resume token string was not a valid hex string");
    if (text.len != STOR_TOKEN_DIGITS)
        return vd_error_set(err, VD_ERR_INVALID_RESUME_TOKEN,
                            "the resume token is not one of ours");
    for (size_t i = 0; i < STOR_TOKEN_BYTES; i++)
        bytes[i] = (uint8_t)(digit(text.data[2 * i]) << 4 | digit(text.data[2 * i + 1]));
    stor_token_t token = {.timestamp = vd_get_u64_be(bytes + 1),
                          .event = bytes[9] == KIND_EVENT,
                          .invalidate = bytes[18] != 0,
                          .fragment = bytes[19],
                          .part = get_u32(bytes + 10),
                          .number = get_u32(bytes + 14),
                          .about = vd_get_u64_be(bytes + 20)};
    uint8_t again[STOR_TOKEN_BYTES];
    bytes_make(&token, again);
    if (memcmp(bytes, again, sizeof bytes) != 0)
        return vd_error_set(err, VD_ERR_INVALID_RESUME_TOKEN,
                            "the resume token is damaged, or of another version");
    *ret_token = token;
    return VD_OK;
}

int stor_token_compare(const stor_token_t *a, const stor_token_t *b)
{
    char x[STOR_TOKEN_DIGITS + 1], y[STOR_TOKEN_DIGITS + 1];
    stor_token_t left = *a, right = *b;
    left.about = right.about = 0;
    stor_token_write(&left, x);
    stor_token_write(&right, y);
    return memcmp(x, y, STOR_TOKEN_DIGITS - 8);
}
