/* veddb-storaged/query/collation.h — how the strings of one operation compare: ICU's collators as
 * MongoDB's `collation` documents describe them.
 *
 * Duty:    reads {locale, strength, caseLevel, caseFirst, numericOrdering, alternate, maxVariable,
 *          normalization, backwards}, with MongoDB's errors, and puts the collator in force for
 *          this thread (bson/compare.h). Keys of tables and indexes are bytes: they can't serve
 *          what a collation compares otherwise (vd_collation_matters).
 * Owner:   collators are shared and kept for the next operation, STOR_COLLATIONS_KEPT at most.
 * Threads: any; in force for the calling one. */
#pragma once
#include "libcommon/bson/compare.h"

#define STOR_COLLATIONS_KEPT 64

/* In force until the next call or stor_collation_end(). {} and {locale: "simple"}: none, bytes.
 * Location40414 (no locale), Location40415 (unknown field), TypeMismatch, BadValue; then none is.
 */
VD_MUST_CHECK int stor_collation_use(vd_bson_t spec, vd_error_t *err);
void stor_collation_end(void);
/* What is in force, whole, with defaults and ICU's version, as explain shows it; NONE: bytes. Given
 * to stor_collation_use it is the same again. Valid while it is in force. */
vd_bson_t stor_collation_spec(void);
/* Checks a collation that would be a collection's or an index's own: these are not built, but for
 * the simple one (NotImplemented). of: "a collection". */
VD_MUST_CHECK int stor_collation_simple_only(vd_bson_t spec, const char *of, vd_error_t *err);
