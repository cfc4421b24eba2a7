/* veddb-gatewayd/reply.c — see reply.h. */
#include "veddb-gatewayd/reply.h"

/* Codes after which a driver may try a write with the same txnNumber again. */
static bool is_retryable(int code)
{
    switch (-code) {
    case 6:     /* HostUnreachable */
    case 7:     /* HostNotFound */
    case 89:    /* NetworkTimeout */
    case 91:    /* ShutdownInProgress */
    case 134:   /* ReadConcernMajorityNotAvailableYet */
    case 189:   /* PrimarySteppedDown */
    case 262:   /* ExceededTimeLimit */
    case 9001:  /* SocketException */
    case 10107: /* NotWritablePrimary */
    case 11600: /* InterruptedAtShutdown */
    case 11602: /* InterruptedDueToReplStateChange */
    case 13435: /* NotPrimaryNoSecondaryOk */
    case 13436: /* NotPrimaryOrSecondary */
        return true;
    default:
        return false;
    }
}

bool gate_reply_is_state_change(int code, bool draining)
{
    switch (code) {
    case VD_ERR_NOT_WRITABLE_PRIMARY:
    case VD_ERR_NOT_PRIMARY_NO_SECONDARY_OK:
    case VD_ERR_NOT_PRIMARY_OR_SECONDARY:
    case VD_ERR_PRIMARY_STEPPED_DOWN:
    case VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE:
        return true;
    case VD_ERR_SHUTDOWN_IN_PROGRESS:
    case VD_ERR_INTERRUPTED_AT_SHUTDOWN:
        return draining;
    default:
        return false;
    }
}

/* The transaction has changed nothing, and as a whole may be tried again. */
static bool is_transient(int code)
{
    switch (code) {
    case VD_ERR_WRITE_CONFLICT:
    case VD_ERR_LOCK_TIMEOUT:
    case VD_ERR_SNAPSHOT_UNAVAILABLE:
        return true;
    default:
        return -code == 239 || /* SnapshotTooOld */
               -code == 267;   /* PreparedTransactionInProgress */
    }
}

/* Of commitTransaction and abortTransaction. Who knows of no transaction may be a primary that was
 * deposed: it is believed only when its answer is on a majority. */
static unsigned end_labels(int code, unsigned facts)
{
    bool commit = (facts & GATE_REPLY_COMMIT) != 0;
    unsigned labels = 0;
    if (is_transient(code) ||
        (code == VD_ERR_NO_SUCH_TRANSACTION && (facts & GATE_REPLY_CONCERN_FAILED) == 0))
        return VD_LABEL_TRANSIENT_TRANSACTION;
    if (is_retryable(code))
        labels |= VD_LABEL_RETRYABLE_WRITE | (commit ? VD_LABEL_UNKNOWN_COMMIT : 0);
    if (commit && (code == VD_ERR_MAX_TIME_MS_EXPIRED || code == VD_ERR_WRITE_CONCERN_FAILED))
        labels |= VD_LABEL_UNKNOWN_COMMIT;
    return labels;
}

/* Nothing was done: any driver may try again, those that know the first two with back-off
 * (docs/decisions/0011). A transaction is as it was; who can't repeat a statement repeats it all.
 */
static unsigned overload_labels(unsigned facts)
{
    unsigned labels = VD_LABEL_SYSTEM_OVERLOADED | VD_LABEL_RETRYABLE;
    if ((facts & GATE_REPLY_IN_TRANSACTION) != 0)
        return labels | VD_LABEL_TRANSIENT_TRANSACTION;
    const unsigned repeated = GATE_REPLY_TXN_NUMBER | GATE_REPLY_COMMIT | GATE_REPLY_ABORT;
    return (facts & repeated) != 0 ? labels | VD_LABEL_RETRYABLE_WRITE : labels;
}

unsigned gate_reply_labels(int code, unsigned facts)
{
    if (code == VD_ERR_CHANGE_STREAM_FATAL_ERROR || code == VD_ERR_CHANGE_STREAM_HISTORY_LOST)
        return VD_LABEL_NON_RESUMABLE_CHANGE_STREAM; /* storage labels its own; fail points */
    if (code == VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED)
        return overload_labels(facts);
    if ((facts & (GATE_REPLY_COMMIT | GATE_REPLY_ABORT)) != 0)
        return end_labels(code, facts);
    if ((facts & GATE_REPLY_IN_TRANSACTION) != 0)
        return is_retryable(code) || is_transient(code) || code == VD_ERR_NO_SUCH_TRANSACTION
                   ? VD_LABEL_TRANSIENT_TRANSACTION
                   : 0;
    return (facts & GATE_REPLY_TXN_NUMBER) != 0 && is_retryable(code) ? VD_LABEL_RETRYABLE_WRITE
                                                                      : 0;
}

/* Codes of sharded clusters, and of members that serve no such read: fail points name them. */
static bool is_elsewhere(int code)
{
    switch (-code) {
    case 63:    /* StaleShardVersion */
    case 133:   /* FailedToSatisfyReadPreference */
    case 150:   /* StaleEpoch */
    case 234:   /* RetryChangeStream */
    case 13388: /* StaleConfig */
        return true;
    default:
        return false;
    }
}

unsigned gate_reply_cursor_labels(int code)
{
    return is_retryable(code) || is_elsewhere(code) ||
                   code == VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED
               ? VD_LABEL_RESUMABLE_CHANGE_STREAM
               : 0;
}

void gate_reply_label_array(vd_bb_t *bb, unsigned labels)
{
    static const struct {
        unsigned label;
        const char *name;
    } table[] = {
        {VD_LABEL_RETRYABLE_WRITE, "RetryableWriteError"},
        {VD_LABEL_TRANSIENT_TRANSACTION, "TransientTransactionError"},
        {VD_LABEL_UNKNOWN_COMMIT, "UnknownTransactionCommitResult"},
        {VD_LABEL_RESUMABLE_CHANGE_STREAM, "ResumableChangeStreamError"},
        {VD_LABEL_SYSTEM_OVERLOADED, "SystemOverloadedError"},
        {VD_LABEL_RETRYABLE, "RetryableError"},
        {VD_LABEL_NON_RESUMABLE_CHANGE_STREAM, "NonResumableChangeStreamError"},
    };
    vd_bb_begin_array(bb, "errorLabels");
    uint32_t n = 0;
    for (size_t i = 0; i < VD_COUNT_OF(table); i++) {
        char name[12];
        if ((labels & table[i].label) != 0) {
            vd_slice_t position = vd_array_name(n++, name);
            char key[12];
            memcpy(key, position.data, position.len);
            key[position.len] = 0;
            vd_bb_cstr(bb, key, table[i].name);
        }
    }
    vd_bb_close(bb);
}

void gate_reply_times(vd_bb_t *bb, const gate_reply_times_t *times)
{
    if (times == NULL || times->operation_time == 0)
        return;
    static const uint8_t no_hash[20];
    vd_bb_begin_document(bb, "$clusterTime");
    vd_bb_timestamp(bb, "clusterTime", times->cluster_time);
    vd_bb_begin_document(bb, "signature");
    vd_bb_binary(bb, "hash", 0, vd_slice(no_hash, sizeof no_hash));
    vd_bb_int64(bb, "keyId", 0);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_timestamp(bb, "operationTime", times->operation_time);
}

/* {clusterTime: Timestamp, signature: {hash: BinData 20, keyId: int64}} as we and storage write it:
 * all but times, hashes and ids stands fast. */
#define TIMES_BYTES 88
#define HASH_AT     51
#define KEY_ID_AT   78
/* Behind it as a rule: operationTime, and the document's end. */
#define TAIL_BYTES (TIMES_BYTES + 23 + 1)

static bool has_our_form(const uint8_t *value)
{
    static const uint8_t head[] = "\x58\0\0\0\x11"
                                  "clusterTime",
                         middle[] = "\x03signature\0\x33\0\0\0\x05hash\0\x14\0\0\0",
                         last[] = "\x12keyId";
    return memcmp(value, head, sizeof head) == 0 &&
           memcmp(value + sizeof head + 8, middle, sizeof middle) == 0 &&
           memcmp(value + HASH_AT + 20, last, sizeof last) == 0;
}

bool gate_reply_signature(uint8_t *document, size_t len, uint64_t *ret_time, uint8_t **ret_hash,
                          uint8_t **ret_key_id)
{
    static const uint8_t name[] = "\x03$clusterTime";
    uint8_t *value = NULL;
    if (len > sizeof name + TAIL_BYTES &&
        memcmp(document + len - TAIL_BYTES - sizeof name, name, sizeof name) == 0) {
        value = document + len - TAIL_BYTES;
    } else {
        vd_value_t v = vd_bson_get((vd_bson_t){document, (uint32_t)len}, "$clusterTime");
        if (v.type == VD_BSON_OBJECT && vd_value_document(v).len == TIMES_BYTES)
            value = document + (vd_value_document(v).data - document);
    }
    if (value == NULL || !has_our_form(value))
        return false;
    *ret_time = vd_get_u64(value + 17);
    *ret_hash = value + HASH_AT;
    *ret_key_id = value + KEY_ID_AT;
    return true;
}

bool gate_reply_renew(uint8_t *document, size_t len, const gate_reply_times_t *times)
{
    static const uint8_t name[] = "\x03$clusterTime", last[] = "\x11operationTime";
    if (len <= sizeof name + TAIL_BYTES)
        return false;
    uint8_t *value = document + len - TAIL_BYTES, *behind = value + TIMES_BYTES;
    if (memcmp(value - sizeof name, name, sizeof name) != 0 || !has_our_form(value) ||
        memcmp(behind, last, sizeof last) != 0)
        return false;
    uint8_t *cluster = value + 17, *operation = behind + sizeof last;
    if (vd_get_u64(operation) < times->operation_time)
        vd_put_u64(operation, times->operation_time);
    uint64_t least =
        vd_get_u64(operation) > times->cluster_time ? vd_get_u64(operation) : times->cluster_time;
    if (vd_get_u64(cluster) < least)
        vd_put_u64(cluster, least);
    return true;
}

void gate_reply_error(vd_bb_t *bb, const vd_error_t *err, unsigned labels,
                      const gate_reply_times_t *times)
{
    int code = err->code == VD_OK ? VD_ERR_INTERNAL : err->code;
    char name[32];
    vd_bb_double(bb, "ok", 0.0);
    vd_bb_cstr(bb, "errmsg", err->message);
    vd_bb_int32(bb, "code", -code);
    vd_bb_cstr(bb, "codeName", vd_error_code_name(code, name));
    if (err->details.len != 0)
        vd_bb_concat(bb, (vd_bson_t){err->details.data, (uint32_t)err->details.len});
    if (labels != 0)
        gate_reply_label_array(bb, labels);
    gate_reply_times(bb, times);
}

void gate_reply_ok(vd_bb_t *bb, const gate_reply_times_t *times)
{
    vd_bb_double(bb, "ok", 1.0);
    gate_reply_times(bb, times);
}
