/* veddb-replicad/seal.h — who vouches for a snapshot: its manifest is signed by the node that made
 * it.
 *
 * Duty:    the text that is signed: what names the copy (set, snapshot, position, term, sizes) and
 *          the SHA-256 of the manifest, which has every collection with its counts and the hash of
 *          its content. Signed with the key of the node's certificate, whatever kind it is: ECDSA
 *          and RSA (PSS) over SHA-256, Ed25519 and Ed448 as they are. Pure.
 * Errors:  VD_ERR_SNAPSHOT_SIGNATURE: none, of another key, of another text, malformed.
 * Threads: any. */
#pragma once
#include "libcommon/base/buf.h"
#include "proto/replication.h"

#include <openssl/evp.h>

#define REPL_SEAL_BYTES (32 + 12 + 16 + 4 * 8 + 32)

/* opened->snapshot: 16 bytes; set_id: 12. */
void repl_seal_text(const vdp_snapshot_opened_t *opened, vd_slice_t set_id, vd_slice_t manifest,
                    uint8_t ret_text[REPL_SEAL_BYTES]);
/* Appends to `out`, which must take VDP_SIGNATURE_MAX. key NULL: refused. */
VD_MUST_CHECK int repl_seal_sign(EVP_PKEY *key, vd_slice_t text, vd_buf_t *out, vd_error_t *err);
VD_MUST_CHECK int repl_seal_verify(EVP_PKEY *key, vd_slice_t text, vd_slice_t signature,
                                   vd_error_t *err);
