/* veddb-gatewayd/auth/restrictions.c — see restrictions.h. */
#include "veddb-gatewayd/auth/restrictions.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

/* IPv4 as IPv6 has it (::ffff:a.b.c.d); bits counts from there. */
typedef struct {
    uint8_t bytes[16];
    unsigned bits;
} range_t;

static bool read_address(const char *text, range_t *ret)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    if (inet_pton(AF_INET6, text, ret->bytes) == 1) {
        ret->bits = 128;
        return true;
    }
    memcpy(ret->bytes, mapped, sizeof mapped);
    ret->bits = 128;
    return inet_pton(AF_INET, text, ret->bytes + 12) == 1;
}

static bool read_range(vd_slice_t text, range_t *ret)
{
    char copy[64], *end;
    if (text.len == 0 || text.len >= sizeof copy || memchr(text.data, 0, text.len) != NULL)
        return false;
    memcpy(copy, text.data, text.len);
    copy[text.len] = 0;
    char *slash = strchr(copy, '/');
    if (slash != NULL)
        *slash = 0;
    if (!read_address(copy, ret))
        return false;
    if (slash == NULL)
        return true;
    unsigned width = strchr(copy, ':') != NULL ? 128 : 32;
    unsigned long bits = strtoul(slash + 1, &end, 10);
    if (slash[1] < '0' || slash[1] > '9' || *end != 0 || bits > width)
        return false;
    ret->bits = (unsigned)bits + 128 - width;
    return true;
}

static bool is_within(const uint8_t address[16], const range_t *range)
{
    unsigned whole = range->bits / 8, rest = range->bits % 8;
    if (memcmp(address, range->bytes, whole) != 0)
        return false;
    return rest == 0 || ((address[whole] ^ range->bytes[whole]) >> (8 - rest)) == 0;
}

/* ---- one field: an address or an array of them ---- */

static int check_one(vd_value_t v, vd_error_t *err)
{
    range_t range;
    if (v.type != VD_BSON_STRING)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "an address or range of authenticationRestrictions must be a string");
    vd_slice_t text = vd_value_string(v);
    return read_range(text, &range)
               ? VD_OK
               : vd_error_set(err, VD_ERR_UNSUPPORTED_FORMAT, "Invalid CIDR: %.*s",
                              (int)(text.len < 64 ? text.len : 64), text.data);
}

static int check_field(vd_value_t v, vd_error_t *err)
{
    if (v.type != VD_BSON_ARRAY)
        return check_one(v, err);
    vd_bson_iter_t each;
    int rc = VD_OK;
    vd_bson_iter_init(&each, vd_value_document(v));
    while (rc == VD_OK && vd_bson_iter_next(&each))
        rc = check_one(each.value, err);
    return rc;
}

static bool one_allows(vd_value_t v, const uint8_t address[16])
{
    range_t range;
    return v.type == VD_BSON_STRING && read_range(vd_value_string(v), &range) &&
           is_within(address, &range);
}

static bool field_allows(vd_value_t v, const char *text)
{
    range_t address;
    char copy[80];
    (void)snprintf(copy, sizeof copy, "%s", text);
    if (!read_address(copy, &address)) { /* "127.0.0.1:50000", "::1:50000" */
        char *colon = strrchr(copy, ':');
        if (colon == NULL)
            return false;
        *colon = 0;
        if (!read_address(copy, &address))
            return false;
    }
    if (v.type != VD_BSON_ARRAY)
        return one_allows(v, address.bytes);
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, vd_value_document(v));
    while (vd_bson_iter_next(&each))
        if (one_allows(each.value, address.bytes))
            return true;
    return false;
}

/* ---- the array ---- */

int gate_restrictions_check(vd_value_t array, vd_error_t *err)
{
    if (array.type != VD_BSON_ARRAY)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "authenticationRestrictions must be an array");
    vd_bson_iter_t each, field;
    int rc = VD_OK;
    vd_bson_iter_init(&each, vd_value_document(array));
    while (rc == VD_OK && vd_bson_iter_next(&each)) {
        if (each.value.type != VD_BSON_OBJECT)
            return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                "authenticationRestrictions must be an array of documents");
        vd_bson_iter_init(&field, vd_value_document(each.value));
        while (rc == VD_OK && vd_bson_iter_next(&field)) {
            if (!vd_slice_is(field.name, "clientSource") &&
                !vd_slice_is(field.name, "serverAddress"))
                return vd_error_set(
                    err, VD_ERR_BAD_VALUE, "Unrecognized authentication restriction: %.*s",
                    (int)(field.name.len < 64 ? field.name.len : 64), field.name.data);
            rc = check_field(field.value, err);
        }
    }
    return rc;
}

static bool document_allows(vd_bson_t document, const char *client, const char *server)
{
    vd_bson_iter_t field;
    vd_bson_iter_init(&field, document);
    while (vd_bson_iter_next(&field)) {
        bool of_client = vd_slice_is(field.name, "clientSource");
        if (!of_client && !vd_slice_is(field.name, "serverAddress"))
            return false;
        if (!field_allows(field.value, of_client ? client : server))
            return false;
    }
    return true;
}

bool gate_restrictions_allow(vd_bson_t array, const char *client, const char *server)
{
    if (array.data == NULL || vd_bson_is_empty(array))
        return true;
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, array);
    while (vd_bson_iter_next(&each))
        if (each.value.type == VD_BSON_OBJECT &&
            document_allows(vd_value_document(each.value), client, server))
            return true;
    return false;
}
