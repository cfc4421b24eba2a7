/* veddb-storaged/commands/transactions.c — commitTransaction, abortTransaction: the frame has found
 * the transaction (veddb-storaged/transactions.h). */
#include "veddb-storaged/transactions.h"

#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/table.h"

static const stor_arg_t table[] = {
    {"recoveryToken", STOR_ARG_IGNORED, 0, 0}, /* of routers */
};

static int arguments(stor_request_t *request, vd_error_t *err)
{
    char none;
    return stor_args_parse(request->body, request->entry->name, true, table, VD_COUNT_OF(table),
                           &none, err);
}

int stor_command_commit_transaction(stor_request_t *request, vd_error_t *err)
{
    int rc = arguments(request, err);
    return rc == VD_OK ? stor_transaction_commit(request, err) : rc;
}

int stor_command_abort_transaction(stor_request_t *request, vd_error_t *err)
{
    int rc = arguments(request, err);
    return rc == VD_OK ? stor_transaction_abort(request, err) : rc;
}

bool stor_point_commit(const stor_request_t *request)
{
    return stor_transaction_is_small(request);
}
