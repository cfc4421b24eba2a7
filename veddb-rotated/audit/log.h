/* veddb-rotated/audit/log.h — the audit log as it is written.
 *
 * Duty:    appends records, signs heads, cuts segments by size and age, hands sealing keys over,
 *          drops what is past retention behind a signed tombstone, copies heads to a second place.
 *          Only what a head covers counts: its positions are what storage may forget. A start cuts
 *          off what stands behind the last head, and refuses a log that ends before it.
 * Owner:   open/close. After any error of a write the log is unusable: close, wait, open again, and
 *          take records anew from the positions of the last head.
 * Threads: one. It blocks on the disk: not a thread that answers others.
 * Limits:  a record's document <= ROT_DOCUMENT_MAX_BYTES.
 * Errors:  VD_ERR_IO, VD_ERR_OUT_OF_DISK_SPACE (try again); VD_ERR_CORRUPT, VD_ERR_KEY_MISSING (an
 *          operator must act). */
#pragma once
#include "veddb-rotated/audit/seal.h"

#include <stdatomic.h>

#define ROT_HEADS_RECENT       1024 /* heads that are remembered: some minutes */
#define ROT_DOCUMENT_MAX_BYTES (ROT_RECORD_MAX_BYTES - ROT_RECORD_HEAD_BYTES)

typedef struct {
    const char *folder;       /* made when it is not there */
    const char *second_place; /* folder; empty: none */
    rot_data_keys_t keys;     /* borrowed */
    const rot_data_key_t *active;
    uint64_t segment_max_bytes;
    uint64_t segment_max_ms;  /* 0 = no limit */
    uint64_t retention_ms;    /* 0 = for ever */
    uint64_t retention_bytes; /* 0 = without limit */
    uint64_t key_max_ms;      /* a sealing key signs for so long */
    const atomic_bool *hold;  /* while true nothing is dropped: somebody reads; or NULL */
} rot_log_options_t;

typedef struct {
    uint64_t journal;
    uint32_t journal_part;
    uint64_t events;
} rot_positions_t;

typedef struct {
    uint64_t records, heads, segments_dropped, copies_failed, bytes_written, hand_overs;
} rot_log_counts_t;

typedef struct rot_log rot_log_t;
VD_MUST_CHECK int rot_log_open(const rot_log_options_t *options, rot_log_t **ret_log,
                               vd_error_t *err);
/* Seals what was appended, if it can. */
void rot_log_close(rot_log_t **log_p);
VD_MUST_CHECK int rot_log_append(rot_log_t *log, uint8_t source, uint64_t position, uint32_t part,
                                 vd_slice_t document, vd_error_t *err);
/* What was appended, or left out by a filter, reaches up to here. */
void rot_log_reached(rot_log_t *log, rot_positions_t positions);
/* Signs a head over all that was appended: durable when it returns VD_OK. Then cuts, drops and
 * hands over what is due. */
VD_MUST_CHECK int rot_log_seal(rot_log_t *log, vd_error_t *err);
/* Whether there is anything that no head covers. */
bool rot_log_is_dirty(const rot_log_t *log);
/* Whether there are records that no head covers. */
bool rot_log_has_records(const rot_log_t *log);
/* The keyring's keys have changed: the seal is wrapped under `active`, and so will be the keys of
 * new segments; those that are there are rewrap.h's. keys and active are borrowed as those of
 * rot_log_open. */
VD_MUST_CHECK int rot_log_rekey(rot_log_t *log, rot_data_keys_t keys, const rot_data_key_t *active,
                                vd_error_t *err);
/* Closes the segment now. */
VD_MUST_CHECK int rot_log_cut(rot_log_t *log, vd_error_t *err);

rot_positions_t rot_log_sealed_positions(const rot_log_t *log);
rot_positions_t rot_log_reached_positions(const rot_log_t *log);
/* Borrowed; as of the last head. */
const rot_point_t *rot_log_sealed(const rot_log_t *log);
/* The bytes of the last head, ROT_HEAD_BYTES. */
const uint8_t *rot_log_head(const rot_log_t *log);
/* The hash of a head of the last segment, or of this run; NULL: not known (any more). */
const rot_hash_t *rot_log_head_hash(const rot_log_t *log, uint64_t number);
/* Bytes in the second place, with the last head. */
uint64_t rot_log_copied(const rot_log_t *log);
const uint8_t *rot_log_id(const rot_log_t *log);
uint32_t rot_log_epoch(const rot_log_t *log);
void rot_log_counts(const rot_log_t *log, rot_log_counts_t *ret_counts);
