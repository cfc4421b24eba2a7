/* veddb-rotated/rotation/record.c — see record.h. */
#include "veddb-rotated/rotation/record.h"

#define HEAD_BYTES 8
/* 1 had no check: its verifies were counted as rotations. 2 had not what storage had told. */
#define FORMAT 3

static const char magic[5] = {'V', 'D', 'R', 'O', 'T'};

/* One walk over the fields serves both ways. */
typedef struct {
    vd_buf_t *out; /* NULL: reads */
    vd_slice_t in;
    int rc;
} walk_t;

static uint64_t number(walk_t *walk, size_t bytes, uint64_t value)
{
    uint8_t raw[8] = {0};
    if (walk->rc != VD_OK)
        return 0;
    if (walk->out != NULL) {
        vd_put_u64(raw, value);
        walk->rc = vd_buf_append(walk->out, raw, bytes);
        return value;
    }
    if (walk->in.len < bytes) {
        walk->rc = VD_ERR_CORRUPT;
        return 0;
    }
    memcpy(raw, walk->in.data, bytes);
    walk->in = vd_slice(walk->in.data + bytes, walk->in.len - bytes);
    return vd_get_u64(raw);
}

#define U64(field)        (field) = number(walk, 8, (field))
#define I64(field)        (field) = (int64_t)number(walk, 8, (uint64_t)(field))
#define U32(field)        (field) = (uint32_t)number(walk, 4, (field))
#define FLAG(field)       (field) = number(walk, 1, (field)) != 0
#define ONE_OF(field, to) (field) = one_of(walk, (field), (to))

static uint32_t one_of(walk_t *walk, uint32_t value, uint32_t last)
{
    uint32_t got = (uint32_t)number(walk, 4, value);
    if (got > last)
        walk->rc = VD_ERR_CORRUPT;
    return got > last ? 0 : got;
}

static void text(walk_t *walk, char field[ROT_TEXT_BYTES])
{
    for (size_t i = 0; i < ROT_TEXT_BYTES; i++)
        field[i] = (char)number(walk, 1, (uint8_t)field[i]);
    field[ROT_TEXT_BYTES - 1] = '\0';
}

static void past_walk(walk_t *walk, rot_past_t *past)
{
    ONE_OF(past->kind, ROT_KIND_REWRAP);
    U64(past->number);
    ONE_OF(past->outcome, ROT_CHECKING);
    ONE_OF(past->reason, ROT_BY_BLOCKS);
    U32(past->old_version);
    U32(past->target);
    I64(past->started_ms);
    I64(past->ended_ms);
    U64(past->bytes);
    U64(past->documents);
    U64(past->blocks);
}

static void check_walk(walk_t *walk, rot_check_t *check)
{
    U64(check->number);
    ONE_OF(check->outcome, ROT_CHECKING);
    U32(check->target);
    U32(check->old_version);
    I64(check->started_ms);
    I64(check->ended_ms);
    U64(check->blocks);
}

/* A verify that was under way took the fields of the rotation. */
static void first_format_take(rot_kept_t *kept)
{
    kept->order = kept->number;
    if (kept->state == ROT_CHECKING)
        kept->check = (rot_check_t){.number = 1,
                                    .outcome = ROT_CHECKING,
                                    .target = kept->target,
                                    .old_version = kept->old_version,
                                    .started_ms = kept->started_ms};
}

static void kept_walk(walk_t *walk, rot_kept_t *kept, uint8_t format)
{
    U64(kept->number);
    ONE_OF(kept->state, ROT_CHECKING);
    ONE_OF(kept->before, ROT_CHECKING);
    ONE_OF(kept->reason, ROT_BY_BLOCKS);
    U32(kept->target);
    U32(kept->old_version);
    U64(kept->rate_max_bytes);
    U32(kept->latency_rise_max);
    U32(kept->returns);
    FLAG(kept->force);
    I64(kept->started_ms);
    I64(kept->changed_ms);
    U64(kept->bytes);
    U64(kept->documents);
    U64(kept->blocks);
    text(walk, kept->note);
    U32(kept->counted_version);
    U64(kept->encrypted_blocks);
    U64(kept->failures);
    for (uint32_t i = 0; i < kept->past_count; i++)
        past_walk(walk, &kept->past[i]);
    if (format == 1) {
        first_format_take(kept);
        return;
    }
    U64(kept->order);
    U64(kept->rewraps);
    check_walk(walk, &kept->check);
    if (format == 2)
        return;
    for (size_t i = 0; i < sizeof kept->told_boot; i++)
        kept->told_boot[i] = (uint8_t)number(walk, 1, kept->told_boot[i]);
    U64(kept->told_encrypted);
    U64(kept->schedule_from);
    if (kept->schedule_from > kept->encrypted_blocks)
        walk->rc = VD_ERR_CORRUPT;
}

int rot_record_pack(const rot_kept_t *kept, vd_buf_t *out, vd_error_t *err)
{
    rot_kept_t copy = *kept;
    walk_t walk = {.out = out};
    uint8_t head[HEAD_BYTES];
    memcpy(head, magic, sizeof magic);
    head[5] = FORMAT;
    head[6] = (uint8_t)kept->past_count;
    head[7] = 0;
    vd_buf_clear(out);
    walk.rc = vd_buf_append(out, head, sizeof head);
    kept_walk(&walk, &copy, FORMAT);
    return walk.rc == VD_OK ? VD_OK
                            : vd_error_set(err, walk.rc, "the state of rotation is too long");
}

int rot_record_unpack(vd_slice_t note, rot_kept_t *ret_kept, vd_error_t *err)
{
    rot_kept_t kept = {0};
    if (note.len == 0) {
        *ret_kept = kept;
        return VD_OK;
    }
    if (note.len < HEAD_BYTES || memcmp(note.data, magic, sizeof magic) != 0 ||
        note.data[6] > ROT_HISTORY_MAX)
        return vd_error_set(err, VD_ERR_CORRUPT, "the keyring's state of rotation is none");
    if (note.data[5] < 1 || note.data[5] > FORMAT)
        return vd_error_set(
            err, VD_ERR_UNSUPPORTED_FORMAT,
            "the keyring's state of rotation has format %u; this version reads up to %u",
            note.data[5], FORMAT);
    kept.past_count = note.data[6];
    walk_t walk = {.in = vd_slice(note.data + HEAD_BYTES, note.len - HEAD_BYTES)};
    kept_walk(&walk, &kept, note.data[5]);
    if (walk.rc != VD_OK || walk.in.len != 0)
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "the keyring's state of rotation has fields that make no sense");
    *ret_kept = kept;
    return VD_OK;
}
