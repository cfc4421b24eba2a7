/* veddb-storaged/envelope.h — the form of a stored document: {epoch u8, flags u8, version u64
 * little-endian, with flag 1 also place u64} + BSON.
 *
 * Duty:    the only place that knows it. epoch is flipped by key rotation and means nothing else;
 *          flags but 1 are refused as corrupt; version = timestamp of the transaction that wrote
 *          the document; place = timestamp of the one that inserted it, where that is another and
 *          somebody asks for it (capped.h). Pure. Hash: stor_record_hash covers version and BSON
 *          (not epoch, nor place): the sum over a collection is the same on every node. */
#pragma once
#include "libcommon/bson/view.h"

#define STOR_ENVELOPE_BYTES     10
#define STOR_ENVELOPE_BYTES_MAX 18
/* Of a document whose transaction is open: no other transaction ever sees it (pending.h). */
#define STOR_VERSION_PENDING 0

typedef struct {
    vd_bson_t document; /* borrows the engine's memory, or the arena's after stor_record_copy */
    uint64_t version;
    vd_slice_t key; /* the table's key: keycode of _id */
    uint64_t place; /* where it was asked for (write.h), of documents of capped collections */
} stor_record_t;

/* Writes the value for a table into out (STOR_ENVELOPE_BYTES + document.len bytes). */
void stor_envelope_write(uint8_t *out, uint64_t version, vd_bson_t document);
/* The same with the placeholder. */
void stor_envelope_write_pending(uint8_t *out, vd_bson_t document);
/* With a place: 0, or the version itself: it takes no room. Returns the bytes written;
 * STOR_ENVELOPE_BYTES_MAX + document.len at most. */
size_t stor_envelope_write_placed(uint8_t *out, uint64_t version, uint64_t place,
                                  vd_bson_t document);
/* Of a value that stor_envelope_read takes: its version, unless it says another. */
uint64_t stor_envelope_place(vd_slice_t value);
/* VD_ERR_CORRUPT unless it is an envelope with a well-framed document. */
VD_MUST_CHECK int stor_envelope_read(vd_slice_t value, vd_bson_t *ret_document,
                                     uint64_t *ret_version, vd_error_t *err);
uint64_t stor_record_hash(uint64_t version, vd_bson_t document);
stor_record_t stor_record_copy(vd_arena_t *arena, stor_record_t record);
/* The table key of an _id value, in the arena. VD_ERR_INVALID_ID_FIELD for arrays, regexes,
 * undefined. */
VD_MUST_CHECK int stor_id_key(vd_arena_t *arena, vd_value_t id, vd_slice_t *ret_key,
                              vd_error_t *err);
