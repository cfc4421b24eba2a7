/* veddb-storaged/query/collation.h — how the strings of one operation compare: ICU's collators as
 * MongoDB's `collation` documents describe them.
 *
 * Duty:    reads {locale, strength, caseLevel, caseFirst, numericOrdering, alternate, maxVariable,
 *          normalization, backwards}, with MongoDB's errors, and puts the collator in force for
 *          this thread (bson/compare.h); holds those of collections and indexes. Keys of tables
 *          and of indexes without a collation are bytes: they can't serve what a collation compares
 *          otherwise (vd_collation_matters).
 * Owner:   collators are shared and kept for the next operation, STOR_COLLATIONS_KEPT at most.
 * Threads: any; in force for the calling one. */
#pragma once
#include "libcommon/base/arena.h"
#include "libcommon/bson/compare.h"

#define STOR_COLLATIONS_KEPT 64

/* In force until the next call or stor_collation_end(). {} and {locale: "simple"}: none, bytes.
 * Location40414 (no locale), Location40415 (unknown field), TypeMismatch, BadValue, 161; then none
 * is.
 */
VD_MUST_CHECK int stor_collation_use(vd_bson_t spec, vd_error_t *err);
void stor_collation_end(void);
/* What is in force, whole, with defaults and ICU's version, as explain shows it; NONE: bytes. Given
 * to stor_collation_use it is the same again. Valid while it is in force. */
vd_bson_t stor_collation_spec(void);
/* It is this one (whole; NONE: bytes) that is in force. */
bool stor_collation_is(vd_bson_t whole);

/* ---- those that collections and indexes have ---- */
/* Whole, as it is stored, in the arena; NONE for the simple one. Errors as above, and
 * IncompatibleCollationVersion (161) when it names another version than ICU's. */
VD_MUST_CHECK int stor_collation_whole(vd_arena_t *arena, vd_bson_t spec, vd_bson_t *ret_spec,
                                       vd_error_t *err);
/* Held until the arena is reset or destroyed; NULL for the simple one. Whatever version of ICU the
 * document names: the one that there is is held, and its document names it. */
VD_MUST_CHECK int stor_collation_hold(vd_arena_t *arena, vd_bson_t spec,
                                      const vd_collation_t **ret_collation, vd_error_t *err);
/* Whole; NONE for NULL. As long as it is held. */
vd_bson_t stor_collation_of(const vd_collation_t *collation);
/* Of the one that there is for the document, whichever version it names; false: it is the simple
 * one, or none. */
#define STOR_COLLATION_VERSION_SIZE 32
bool stor_collation_version(vd_bson_t spec, char ret_version[STOR_COLLATION_VERSION_SIZE]);
/* Strings compare the same; NULL is the simple one. */
bool stor_collation_same(const vd_collation_t *a, const vd_collation_t *b);
