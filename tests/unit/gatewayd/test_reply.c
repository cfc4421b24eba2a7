/* tests/unit/gatewayd/test_reply.c — which labels are true for which code. */
#include "veddb-gatewayd/reply.h"

#include <criterion/criterion.h>

#define RETRY     VD_LABEL_RETRYABLE_WRITE
#define TRANSIENT VD_LABEL_TRANSIENT_TRANSACTION
#define UNKNOWN   VD_LABEL_UNKNOWN_COMMIT
#define LOST      VD_LABEL_NON_RESUMABLE_CHANGE_STREAM
#define OVER      (VD_LABEL_SYSTEM_OVERLOADED | VD_LABEL_RETRYABLE)

Test(reply, labels)
{
    static const struct {
        int code;
        unsigned plain, write, statement, commit, abort;
    } cases[] = {
        {VD_ERR_HOST_UNREACHABLE, 0, RETRY, TRANSIENT, RETRY | UNKNOWN, RETRY},
        {VD_ERR_NOT_WRITABLE_PRIMARY, 0, RETRY, TRANSIENT, RETRY | UNKNOWN, RETRY},
        {VD_ERR_INTERRUPTED_DUE_TO_REPL_STATE_CHANGE, 0, RETRY, TRANSIENT, RETRY | UNKNOWN, RETRY},
        {VD_ERR_WRITE_CONFLICT, 0, 0, TRANSIENT, TRANSIENT, TRANSIENT},
        {VD_ERR_LOCK_TIMEOUT, 0, 0, TRANSIENT, TRANSIENT, TRANSIENT},
        {VD_ERR_SNAPSHOT_UNAVAILABLE, 0, 0, TRANSIENT, TRANSIENT, TRANSIENT},
        {-267 /* PreparedTransactionInProgress */, 0, 0, TRANSIENT, TRANSIENT, TRANSIENT},
        {VD_ERR_NO_SUCH_TRANSACTION, 0, 0, TRANSIENT, TRANSIENT, TRANSIENT},
        {VD_ERR_MAX_TIME_MS_EXPIRED, 0, 0, 0, UNKNOWN, 0},
        {VD_ERR_WRITE_CONCERN_FAILED, 0, 0, 0, UNKNOWN, 0},
        {VD_ERR_DUPLICATE_KEY, 0, 0, 0, 0, 0},
        {VD_ERR_INGRESS_REQUEST_RATE_LIMIT_EXCEEDED, OVER, OVER | RETRY, OVER | TRANSIENT,
         OVER | RETRY, OVER | RETRY},
        {VD_ERR_TRANSACTION_COMMITTED, 0, 0, 0, 0, 0},
        {VD_ERR_TRANSACTION_TOO_OLD, 0, 0, 0, 0, 0},
        {VD_ERR_CHANGE_STREAM_FATAL_ERROR, LOST, LOST, LOST, LOST, LOST},
        {VD_ERR_CHANGE_STREAM_HISTORY_LOST, LOST, LOST, LOST, LOST, LOST},
        {VD_ERR_OPERATION_NOT_SUPPORTED_IN_TRANSACTION, 0, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code = cases[i].code;
        cr_expect_eq(gate_reply_labels(code, 0), cases[i].plain, "%d", code);
        cr_expect_eq(gate_reply_labels(code, GATE_REPLY_TXN_NUMBER), cases[i].write, "%d", code);
        cr_expect_eq(gate_reply_labels(code, GATE_REPLY_IN_TRANSACTION), cases[i].statement, "%d",
                     code);
        cr_expect_eq(gate_reply_labels(code, GATE_REPLY_COMMIT), cases[i].commit, "%d", code);
        cr_expect_eq(gate_reply_labels(code, GATE_REPLY_ABORT), cases[i].abort, "%d", code);
    }
    cr_expect_eq(gate_reply_cursor_labels(VD_ERR_NOT_PRIMARY_OR_SECONDARY),
                 VD_LABEL_RESUMABLE_CHANGE_STREAM);
    cr_expect_eq(gate_reply_cursor_labels(VD_ERR_UNAUTHORIZED), 0);
    for (int draining = 0; draining < 2; draining++) {
        cr_expect(gate_reply_is_state_change(VD_ERR_NOT_WRITABLE_PRIMARY, draining));
        cr_expect_eq(gate_reply_is_state_change(VD_ERR_SHUTDOWN_IN_PROGRESS, draining), draining);
        cr_expect_eq(gate_reply_is_state_change(VD_ERR_INTERRUPTED_AT_SHUTDOWN, draining),
                     draining);
        cr_expect_not(gate_reply_is_state_change(VD_ERR_HOST_UNREACHABLE, draining));
    }
    static const int elsewhere[] = {63, 133, 150, 234, 13388};
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        cr_expect_eq(gate_reply_cursor_labels(-elsewhere[i]), VD_LABEL_RESUMABLE_CHANGE_STREAM);
    cr_expect_eq(gate_reply_labels(VD_ERR_NO_SUCH_TRANSACTION,
                                   GATE_REPLY_COMMIT | GATE_REPLY_CONCERN_FAILED),
                 0, "a deposed primary may say so");
}
