/* veddb-gatewayd/bootstrap.h — the first administrator, made once from a file while there are no
 * users.
 *
 * Duty:    reads {"user": .., "password": ..} from a file that only its owner can read, and inserts
 *          that user with the role root on admin. There is no other way in without a login.
 * Blocks:  runs on the administration worker. */
#pragma once
#include "veddb-gatewayd/gatewayd.h"

#define GATE_BOOTSTRAP_BYTES_MAX 4096

/* VD_ERR_CONFIG when the file is not as it must be. A user of that name who exists already is fine.
 */
VD_MUST_CHECK int gate_bootstrap(gate_t *gate, vd_error_t *err);
/* The file's text into name and password (NUL-terminated). Pure. */
VD_MUST_CHECK int gate_bootstrap_parse(vd_slice_t text, char *ret_user, size_t user_size,
                                       char *ret_password, size_t password_size, vd_error_t *err);
