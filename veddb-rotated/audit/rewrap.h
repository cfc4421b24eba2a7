/* veddb-rotated/audit/rewrap.h — the keys of segments, wrapped again under another key of the
 * keyring.
 *
 * Duty:    a rotation of keys touches no segment: only N.key is unwrapped and wrapped again, each
 *          in one durable step; those that are under the active key already are left alone, so
 *          that a crash at any instant is finished by another run.
 * Owner:   nothing is kept.
 * Threads: one at a time, and not while segments are made or dropped by another. It blocks on the
 *          disk.
 * Errors:  VD_ERR_KEY_MISSING, VD_ERR_CORRUPT (names the file), VD_ERR_IO. */
#pragma once
#include "veddb-rotated/audit/walk.h"
#include "veddb-rotated/keyring.h"

/* At most max of them; *ret_more: others are left. */
VD_MUST_CHECK int rot_rewrap_segments(const char *folder, rot_data_keys_t keys,
                                      const rot_data_key_t *active, uint32_t max, bool *ret_more,
                                      vd_error_t *err);
/* Segments and seal of a log that nobody has open; none there is fine. */
VD_MUST_CHECK int rot_rewrap_folder(const char *folder, const rot_keyring_t *keyring,
                                    vd_error_t *err);
/* Copies the keyring's keys but the destroyed ones into keys (locked, room for ROT_KEYS_MAX);
 * returns how many. */
uint32_t rot_data_keys_copy(const rot_keyring_t *keyring, rot_data_key_t *keys,
                            uint32_t *ret_active);
