/* veddb-storaged/catalog/names.h — which database and collection names are allowed: MongoDB's rules
 * and its code 73.
 *
 * Pure. */
#pragma once
#include "libcommon/base/error.h"

VD_MUST_CHECK int stor_name_check_database(vd_slice_t db, vd_error_t *err);
/* For reading: form only. */
VD_MUST_CHECK int stor_name_check_collection(vd_slice_t db, vd_slice_t collection, vd_error_t *err);
/* For creating and writing: also "system." names, length of the whole. internal: the gateway itself
 * (admin.system.users, .roles). */
VD_MUST_CHECK int stor_name_check_writable(vd_slice_t db, vd_slice_t collection, bool internal,
                                           vd_error_t *err);
/* admin.system.users and admin.system.roles: their changes move the auth epoch. */
bool stor_name_is_auth(vd_slice_t db, vd_slice_t collection);
/* "db.c" -> both parts; false when there is no dot or a part is empty. */
bool stor_name_split(vd_slice_t ns, vd_slice_t *ret_db, vd_slice_t *ret_collection);
