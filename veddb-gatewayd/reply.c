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

unsigned gate_reply_labels(int code, unsigned facts)
{
    unsigned labels = 0;
    if ((facts & GATE_REPLY_COMMIT) != 0) {
        if (is_retryable(code))
            labels |= VD_LABEL_RETRYABLE_WRITE | VD_LABEL_UNKNOWN_COMMIT;
        if (code == VD_ERR_MAX_TIME_MS_EXPIRED)
            labels |= VD_LABEL_UNKNOWN_COMMIT;
    } else if ((facts & GATE_REPLY_IN_TRANSACTION) != 0) {
        if (is_retryable(code) || code == VD_ERR_WRITE_CONFLICT ||
            code == VD_ERR_NO_SUCH_TRANSACTION || code == VD_ERR_SNAPSHOT_UNAVAILABLE ||
            code == VD_ERR_LOCK_TIMEOUT)
            labels |= VD_LABEL_TRANSIENT_TRANSACTION;
    } else if ((facts & GATE_REPLY_TXN_NUMBER) != 0 && is_retryable(code)) {
        labels |= VD_LABEL_RETRYABLE_WRITE;
    }
    return labels;
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
    vd_bb_timestamp(bb, "clusterTime", times->operation_time);
    vd_bb_begin_document(bb, "signature");
    vd_bb_binary(bb, "hash", 0, vd_slice(no_hash, sizeof no_hash));
    vd_bb_int64(bb, "keyId", 0);
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_timestamp(bb, "operationTime", times->operation_time);
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
