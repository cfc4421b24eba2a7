/* veddb-gatewayd/auth/restrictions.h — from where a user may log in (authenticationRestrictions).
 *
 * An array of documents {clientSource?, serverAddress?}, each an address, a range (CIDR) or an
 * array of them. One document must be met as a whole; an empty array restricts nothing. The user's
 * array and that of each role, inherited ones too, must be met. Pure. */
#pragma once
#include "libcommon/bson/view.h"

/* What a command gives. MongoDB's codes: 14 type, 2 field, 12 no address. */
VD_MUST_CHECK int gate_restrictions_check(vd_value_t array, vd_error_t *err);
/* Addresses as text, with ":port" behind them or without. A stored array that can't be read allows
 * nothing. */
bool gate_restrictions_allow(vd_bson_t array, const char *client, const char *server);
