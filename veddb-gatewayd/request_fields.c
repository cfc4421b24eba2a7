/* veddb-gatewayd/request_fields.c — what routing and login need of a command, in one walk over its
 * top level. Contract in request.h. */
#include "veddb-gatewayd/request.h"

#include <string.h>

static int read_lsid(gate_request_t *request, vd_value_t v, vd_error_t *err)
{
    if (v.type != VD_BSON_OBJECT)
        return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                            "BSON field 'lsid' is the wrong type '%s', expected type 'object'",
                            vd_bson_type_name(v.type));
    vd_value_t id = vd_bson_get(vd_value_document(v), "id");
    uint8_t subtype = 0;
    if (id.type != VD_BSON_BINARY)
        return vd_error_set(err,
                            vd_value_is_missing(id) ? VD_ERR_LOCATION(40414) : VD_ERR_TYPE_MISMATCH,
                            "BSON field 'OperationSessionInfo.lsid.id' must be a UUID");
    vd_slice_t bytes = vd_value_binary(id, &subtype);
    if (bytes.len != sizeof request->lsid || subtype != 4)
        return vd_error_set(err, VD_ERR_INVALID_UUID,
                            "BSON field 'lsid.id' must be a UUID of 16 bytes, subtype 4");
    memcpy(request->lsid, bytes.data, bytes.len);
    request->has_lsid = true;
    return VD_OK;
}

static int read_max_time(gate_request_t *request, vd_value_t v, vd_error_t *err)
{
    int64_t ms;
    if (!vd_value_is_number(v) || !vd_value_as_int64(v, &ms))
        return vd_error_set(err, VD_ERR_BAD_VALUE, "maxTimeMS must be a number");
    if (ms < 0 || ms > INT32_MAX)
        return vd_error_set(err, VD_ERR_BAD_VALUE,
                            "%lld value for maxTimeMS is out of range [0, 2147483647]",
                            (long long)ms);
    request->max_time_ms = (uint32_t)ms;
    return VD_OK;
}

typedef struct {
    bool autocommit_seen, autocommit, api_version_seen;
} field_facts_t;

static int read_field(gate_request_t *request, vd_slice_t name, vd_value_t v, field_facts_t *facts,
                      vd_error_t *err)
{
    switch (name.len) { /* cheap: most names differ in length from ours */
    case 3:
        if (vd_slice_is(name, "$db")) {
            if (v.type != VD_BSON_STRING)
                return vd_error_set(err, VD_ERR_TYPE_MISMATCH, "$db must be a string");
            request->db = vd_value_string(v);
        }
        break;
    case 4:
        if (vd_slice_is(name, "lsid"))
            return read_lsid(request, v, err);
        break;
    case 9:
        if (vd_slice_is(name, "maxTimeMS"))
            return read_max_time(request, v, err);
        if (vd_slice_is(name, "txnNumber")) {
            if (v.type != VD_BSON_INT64)
                return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                    "BSON field 'OperationSessionInfo.txnNumber' is the wrong type "
                                    "'%s', expected type 'long'",
                                    vd_bson_type_name(v.type));
            request->txn_number = vd_value_int64(v);
            if (request->txn_number < 0)
                return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                    "Transaction number cannot be negative");
            request->has_txn = true;
        } else if (vd_slice_is(name, "apiStrict")) {
            if (v.type != VD_BSON_BOOL)
                return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                    "BSON field 'apiStrict' must be a boolean");
            request->api_strict = vd_value_bool(v);
        }
        break;
    case 10:
        if (vd_slice_is(name, "autocommit")) {
            if (v.type != VD_BSON_BOOL)
                return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                    "BSON field 'autocommit' must be a boolean");
            facts->autocommit_seen = true;
            facts->autocommit = vd_value_bool(v);
        } else if (vd_slice_is(name, "apiVersion")) {
            if (v.type != VD_BSON_STRING)
                return vd_error_set(err, VD_ERR_TYPE_MISMATCH,
                                    "BSON field 'apiVersion' must be a string");
            if (!vd_slice_is(vd_value_string(v), "1"))
                return vd_error_set(err, VD_ERR_API_VERSION_ERROR, "API version must be \"1\"");
            facts->api_version_seen = true;
        }
        break;
    case 12:
        if (vd_slice_is(name, "$clusterTime"))
            request->cluster_time = v;
        break;
    default:
        break;
    }
    return VD_OK;
}

static bool database_name_valid(vd_slice_t name)
{
    if (name.len == 0 || name.len > VD_DATABASE_NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if (name.data[i] == 0 || strchr("/\\. \"", name.data[i]) != NULL)
            return false;
    }
    return true;
}

int gate_request_read_fields(gate_request_t *request, vd_error_t *err)
{
    field_facts_t facts = {0};
    vd_bson_iter_t each;
    vd_bson_iter_init(&each, gate_request_body(request));
    if (!vd_bson_iter_next(&each))
        return vd_error_set(err, VD_ERR_FAILED_TO_PARSE, "the command document is empty");
    request->name = each.name;
    request->first = each.value;
    while (vd_bson_iter_next(&each)) {
        int rc = read_field(request, each.name, each.value, &facts, err);
        if (rc != VD_OK)
            return rc;
    }
    if (each.bad)
        return vd_error_set(err, VD_ERR_INVALID_BSON, "the command document is not BSON");
    if (request->db.data == NULL)
        return vd_error_set(err, VD_ERR_LOCATION(40571), "OP_MSG requests require a $db argument");
    if (!database_name_valid(request->db))
        return vd_error_set(err, VD_ERR_INVALID_NAMESPACE, "Invalid database name: '%.*s'",
                            (int)(request->db.len < 64 ? request->db.len : 64), request->db.data);
    if (request->has_txn && !request->has_lsid)
        return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                            "Transaction number requires a session ID to also be specified");
    if (facts.autocommit_seen) {
        if (!request->has_txn)
            return vd_error_set(
                err, VD_ERR_INVALID_OPTIONS,
                "'autocommit' field requires a transaction number to also be specified");
        if (facts.autocommit)
            return vd_error_set(err, VD_ERR_INVALID_OPTIONS,
                                "Specifying autocommit=true is not allowed.");
        request->in_transaction = true;
    }
    if (request->api_strict && !facts.api_version_seen)
        return vd_error_set(err, VD_ERR_API_VERSION_ERROR,
                            "Provided values for apiStrict but did not provide apiVersion");
    return VD_OK;
}
