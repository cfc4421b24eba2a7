/* veddb-rotated/audit/log.c — see log.h. */
#include "veddb-rotated/audit/log.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/base/rand.h"
#include "libcommon/bson/build.h"
#include "libcommon/runtime/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_FILL_BYTES (56 * 1024) /* a block is written when it has so much */
#define CLOSE_BYTES      4096        /* room for the last head of a segment */

/* What must be locked. */
typedef struct {
    rot_data_key_t key; /* of the segment */
    rot_sealer_t sealer;
} secret_t;

struct rot_log {
    rot_log_options_t options;
    char folder[PATH_MAX - 32], second_place[PATH_MAX - 64];
    rot_seal_t *seal;
    secret_t *secret;
    int fd, copy_fd;
    uint64_t copied; /* bytes in the second place */
    rot_point_t now, sealed;
    rot_positions_t reached;
    vd_buf_t plain; /* records of the block under way */
    uint8_t *frame;
    int64_t segment_ms, key_ms;   /* when they began */
    bool moved;                   /* reached has grown since the last head */
    bool tombstone;               /* a tombstone waits for its head */
    bool copy_failed;             /* told */
    bool broken;                  /* a write failed: what is in memory is not what is in the file */
    uint8_t head[ROT_HEAD_BYTES]; /* the last one */
    struct {
        uint64_t number; /* 0: none */
        rot_hash_t hash;
    } recent[ROT_HEADS_RECENT]; /* by number, the newest of each place */
    rot_log_counts_t counts;
};

/* ---- frames ---- */

/* The payload stands in log->frame behind the frame's head. */
static int frame_write(rot_log_t *log, uint8_t type, size_t payload_len, vd_error_t *err)
{
    if (log->broken)
        return vd_error_set(err, VD_ERR_CLOSED, "the audit log is to be opened again");
    log->broken = true;
    size_t body = ROT_FRAME_HEAD_BYTES + payload_len, len = body + ROT_HASH_BYTES;
    rot_hash_t chain;
    vd_put_u32(log->frame, (uint32_t)len);
    vd_put_u32(log->frame + 4, type);
    rot_hash(&chain, vd_slice(&log->now.chain, sizeof log->now.chain), vd_slice(log->frame, body));
    memcpy(log->frame + body, &chain, sizeof chain);
    int rc = rot_file_write(log->fd, log->frame, len, log->now.offset, "segment", err);
    if (rc != VD_OK)
        return rc;
    log->now.chain = chain;
    log->now.offset += len;
    log->counts.bytes_written += len;
    log->broken = false;
    return VD_OK;
}

static int block_write(rot_log_t *log, vd_error_t *err)
{
    vd_slice_t plain = vd_buf_slice(&log->plain);
    if (plain.len == 0)
        return VD_OK;
    VD_ASSERT(ROT_FRAME_EXTRA_BYTES + ROT_BLOCK_EXTRA_BYTES + plain.len <= ROT_FRAME_MAX_BYTES);
    int rc = rot_seal(&log->secret->sealer, plain, log->frame + ROT_FRAME_HEAD_BYTES, err);
    if (rc == VD_OK)
        rc = frame_write(log, ROT_FRAME_RECORDS, plain.len + ROT_BLOCK_EXTRA_BYTES, err);
    vd_buf_clear(&log->plain);
    log->broken = rc != VD_OK;
    return rc;
}

int rot_log_append(rot_log_t *log, uint8_t source, uint64_t position, uint32_t part,
                   vd_slice_t document, vd_error_t *err)
{
    VD_ASSERT(document.len >= 5 && document.len <= ROT_DOCUMENT_MAX_BYTES);
    size_t len = ROT_RECORD_HEAD_BYTES + document.len;
    uint8_t *at;
    int rc = VD_OK;
    if (vd_buf_len(&log->plain) > 0 && vd_buf_len(&log->plain) + len > BLOCK_FILL_BYTES)
        rc = block_write(log, err);
    if (rc != VD_OK)
        return rc;
    if (vd_buf_reserve(&log->plain, len, &at) != VD_OK)
        return vd_error_set(err, VD_ERR_FULL, "an audit record of %zu bytes", len);
    vd_put_u32(at, (uint32_t)len);
    memcpy(at + 4, &log->now.last_record, ROT_HASH_BYTES);
    vd_put_u64(at + 36, ++log->now.records);
    vd_put_u32(at + 44, source);
    vd_put_u32(at + 48, part);
    vd_put_u64(at + 52, position);
    memcpy(at + ROT_RECORD_HEAD_BYTES, document.data, document.len);
    vd_buf_commit(&log->plain, len);
    rot_tree_leaf(vd_slice(at, len), &log->now.last_record);
    rot_tree_add(&log->now.tree, &log->now.last_record);
    log->counts.records++;
    return VD_OK;
}

void rot_log_reached(rot_log_t *log, rot_positions_t positions)
{
    log->moved = log->moved || memcmp(&positions, &log->reached, sizeof positions) != 0;
    log->reached = positions;
}

/* ---- the second place ---- */

static int copy_open(rot_log_t *log, vd_error_t *err)
{
    char path[PATH_MAX], id[2 * ROT_LOG_ID_BYTES + 1];
    struct stat st;
    for (int i = 0; i < ROT_LOG_ID_BYTES; i++)
        (void)snprintf(id + 2 * i, 3, "%02x", rot_log_id(log)[i]);
    (void)snprintf(path, sizeof path, "%s/%s.heads", log->second_place, id);
    log->copy_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->copy_fd < 0)
        return vd_error_set_errno(err, "can't open %s", path);
    /* A torn last head is cut off. */
    if (fstat(log->copy_fd, &st) != 0 ||
        (st.st_size % ROT_HEAD_BYTES != 0 &&
         ftruncate(log->copy_fd, st.st_size - st.st_size % ROT_HEAD_BYTES) != 0))
        return vd_error_set_errno(err, "can't read %s", path);
    log->copied = (uint64_t)(st.st_size - st.st_size % ROT_HEAD_BYTES);
    return VD_OK;
}

static void copy_told(rot_log_t *log, int rc, const vd_error_t *err)
{
    if (rc != VD_OK) {
        log->counts.copies_failed++;
        if (!log->copy_failed)
            vd_log(VD_LOG_ERROR, "audit heads do not reach their second place", "error=\"%s\"",
                   err->message);
        if (log->copy_fd >= 0)
            (void)close(log->copy_fd); /* opened anew for the next head */
        log->copy_fd = -1;
    } else if (log->copy_failed) {
        vd_log(VD_LOG_INFO, "audit heads reach their second place again", "head=%" PRIu64,
               log->now.head.number);
    }
    log->copy_failed = rc != VD_OK;
}

/* What fails here is told and counted; the log itself goes on: each later head covers the lost one.
 */
static void copy_head(rot_log_t *log, const uint8_t *head)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = VD_OK;
    if (log->second_place[0] == '\0')
        return;
    if (log->copy_fd < 0)
        rc = copy_open(log, &err);
    if (rc == VD_OK && (write(log->copy_fd, head, ROT_HEAD_BYTES) != ROT_HEAD_BYTES ||
                        fdatasync(log->copy_fd) != 0))
        rc = vd_error_set_errno(&err, "can't write to %s", log->second_place);
    if (rc == VD_OK)
        log->copied += ROT_HEAD_BYTES;
    copy_told(log, rc, &err);
}

/* ---- heads ---- */

static void head_note(rot_log_t *log, uint64_t number, const rot_hash_t *hash,
                      const uint8_t bytes[ROT_HEAD_BYTES])
{
    size_t at = number % ROT_HEADS_RECENT;
    memcpy(log->head, bytes, sizeof log->head);
    log->recent[at].number = number;
    log->recent[at].hash = *hash;
}

static int head_write(rot_log_t *log, uint32_t flags, vd_error_t *err)
{
    const rot_seal_state_t *state = rot_seal_state(log->seal);
    rot_point_t *now = &log->now;
    int rc = block_write(log, err);
    if (rc != VD_OK)
        return rc;
    rot_head_t head = {
        .number = now->head.number + 1,
        .segment = now->segment,
        .offset = now->offset,
        .records = now->records,
        .segment_records = now->tree.count,
        .chain = now->chain,
        .last_record = now->last_record,
        .before = now->head_hash,
        .time_ms = vd_wall_ms(),
        .epoch = state->epoch,
        .flags = flags,
        .journal = log->reached.journal,
        .journal_part = log->reached.journal_part,
        .events = log->reached.events,
    };
    memcpy(head.log_id, state->log_id, ROT_LOG_ID_BYTES);
    rot_tree_root(&now->tree, &head.root);
    uint8_t bytes[ROT_HEAD_BYTES];
    rc = rot_head_pack(&head, state->key.private_key, bytes, err);
    memcpy(log->frame + ROT_FRAME_HEAD_BYTES, bytes, sizeof bytes);
    if (rc == VD_OK)
        rc = frame_write(log, ROT_FRAME_HEAD, ROT_HEAD_BYTES, err);
    log->broken = true;
    if (rc == VD_OK && fdatasync(log->fd) != 0)
        rc = vd_error_set_errno(err, "can't sync the audit log");
    if (rc == VD_OK)
        rc = VD_FAULT("audit.head_durable", err);
    if (rc != VD_OK)
        return rc;
    now->head = head;
    rot_hash(&now->head_hash, vd_slice(bytes, sizeof bytes), VD_SLICE_NULL);
    rc = rot_seal_head(log->seal, head.number, &now->head_hash, err);
    if (rc != VD_OK)
        return rc;
    now->closed = (flags & ROT_HEAD_CLOSES) != 0;
    head_note(log, head.number, &now->head_hash, bytes);
    log->sealed = *now;
    log->broken = false;
    log->moved = log->tombstone = false;
    log->counts.heads++;
    copy_head(log, bytes);
    return VD_OK;
}

/* ---- segments ---- */

static int segment_make(rot_log_t *log, uint64_t number, vd_error_t *err)
{
    char path[PATH_MAX], name[32];
    uint8_t plain[64], block[sizeof plain + ROT_BLOCK_EXTRA_BYTES];
    rot_sealer_t wrap;
    secret_t *secret = log->secret;
    vd_rand_secret(&secret->key, sizeof secret->key);
    memcpy(plain, "VDAG\1\0\0\0", 8);
    vd_put_u64(plain + 8, number);
    memcpy(plain + 16, secret->key.id, 16);
    memcpy(plain + 32, secret->key.key, 32);
    int rc = rot_sealer_init(&wrap, log->options.active, err);
    if (rc == VD_OK)
        rc = rot_seal(&wrap, vd_slice(plain, sizeof plain), block, err);
    vd_wipe(plain, sizeof plain);
    vd_wipe(&wrap, sizeof wrap);
    (void)snprintf(name, sizeof name, "%08" PRIu64 ".key", number);
    if (rc == VD_OK)
        rc = rot_file_put(log->folder, name, block, sizeof block, err);
    if (rc == VD_OK)
        rc = rot_sealer_init(&secret->sealer, &secret->key, err);
    if (rc != VD_OK)
        return rc;

    rot_segment_path(log->folder, number, "seg", path, sizeof path);
    if (log->fd >= 0)
        (void)close(log->fd); /* synced with its last head */
    log->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->fd < 0)
        return vd_error_set_errno(err, "can't make %s", path);
    rot_point_t *now = &log->now;
    now->segment = number;
    now->offset = 0;
    now->closed = false;
    memset(&now->tree, 0, sizeof now->tree);
    rot_start_t start = {.segment = number,
                         .records = now->records,
                         .head = now->head.number,
                         .chain = now->chain,
                         .last_record = now->last_record,
                         .head_hash = now->head_hash,
                         .time_ms = vd_wall_ms()};
    memcpy(start.log_id, rot_log_id(log), ROT_LOG_ID_BYTES);
    memcpy(start.key_id, secret->key.id, sizeof start.key_id);
    rot_start_pack(&start, log->frame + ROT_FRAME_HEAD_BYTES);
    log->segment_ms = start.time_ms;
    rc = frame_write(log, ROT_FRAME_START, ROT_START_BYTES, err);
    if (rc == VD_OK)
        rc = rot_folder_sync(log->folder, err);
    return rc == VD_OK ? head_write(log, 0, err) : rc;
}

int rot_log_cut(rot_log_t *log, vd_error_t *err)
{
    int rc = head_write(log, ROT_HEAD_CLOSES, err);
    if (rc == VD_OK)
        rc = VD_FAULT("audit.segment_closed", err);
    return rc == VD_OK ? segment_make(log, log->now.segment + 1, err) : rc;
}

/* ---- retention ---- */

static bool start_read(const rot_log_t *log, uint64_t number, rot_start_t *ret_start)
{
    char path[PATH_MAX];
    uint8_t bytes[ROT_FRAME_HEAD_BYTES + ROT_START_BYTES];
    rot_segment_path(log->folder, number, "seg", path, sizeof path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool good = fd >= 0 && pread(fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes &&
                rot_start_unpack(bytes + ROT_FRAME_HEAD_BYTES, ret_start) &&
                ret_start->segment == number;
    if (fd >= 0)
        (void)close(fd); /* only read from */
    return good;
}

static uint64_t segment_bytes(const rot_log_t *log, uint64_t number)
{
    char path[PATH_MAX];
    struct stat st;
    rot_segment_path(log->folder, number, "seg", path, sizeof path);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void segments_remove(rot_log_t *log, const uint64_t *numbers, uint32_t count, uint64_t upto)
{
    char path[PATH_MAX];
    for (uint32_t i = 0; i < count && numbers[i] <= upto; i++) {
        /* The key first: without it nobody reads what may be left of the segment. */
        rot_segment_path(log->folder, numbers[i], "key", path, sizeof path);
        (void)unlink(path); /* tried again at the next start */
        rot_segment_path(log->folder, numbers[i], "seg", path, sizeof path);
        if (unlink(path) == 0)
            log->counts.segments_dropped++;
    }
}

/* The last closed segment that retention lets go; 0: none. *ret_next: the start of the one behind.
 */
static uint64_t past_retention(const rot_log_t *log, const uint64_t *numbers, uint32_t count,
                               rot_start_t *ret_next)
{
    const rot_log_options_t *options = &log->options;
    uint64_t bytes = 0, upto = 0;
    int64_t now_ms = vd_wall_ms();
    for (uint32_t i = 0; i < count; i++)
        bytes += segment_bytes(log, numbers[i]);
    for (uint32_t i = 0; i + 1 < count; i++) {
        rot_start_t next;
        if (!start_read(log, numbers[i + 1], &next))
            break;
        bool old =
            options->retention_ms != 0 && now_ms - next.time_ms > (int64_t)options->retention_ms;
        bool many = options->retention_bytes != 0 && bytes > options->retention_bytes;
        if (!old && !many)
            break;
        bytes -= segment_bytes(log, numbers[i]);
        upto = numbers[i];
        *ret_next = next;
    }
    return upto;
}

static int tombstone_record(rot_log_t *log, const rot_tombstone_t *tombstone, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init(&bb, 4096);
    vd_bb_cstr(&bb, "atype", "auditRetention");
    vd_bb_date(&bb, "ts", tombstone->time_ms);
    vd_bb_begin_document(&bb, "param");
    vd_bb_int64(&bb, "lastSegment", (int64_t)tombstone->segment);
    vd_bb_int64(&bb, "lastRecord", (int64_t)tombstone->record);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", 0);
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK)
        rc = rot_log_append(log, ROT_SOURCE_LOG, 0, 0, vd_slice(document.data, document.len), err);
    vd_bb_done(&bb);
    return rc;
}

static int retain(rot_log_t *log, vd_error_t *err)
{
    uint64_t *numbers = NULL;
    uint32_t count = 0;
    rot_start_t next = {0};
    const rot_seal_state_t *state = rot_seal_state(log->seal);
    if (log->options.hold != NULL && atomic_load(log->options.hold))
        return VD_OK; /* at the next cut */
    int rc = rot_segments_list(log->folder, &numbers, &count, err);
    uint64_t upto = rc == VD_OK ? past_retention(log, numbers, count, &next) : 0;
    if (rc == VD_OK && upto > state->tombstone) {
        rot_tombstone_t tombstone = {.segment = upto,
                                     .record = next.records,
                                     .head = next.head,
                                     .chain = next.chain,
                                     .time_ms = vd_wall_ms(),
                                     .epoch = state->epoch};
        memcpy(tombstone.log_id, state->log_id, ROT_LOG_ID_BYTES);
        rc = tombstone_record(log, &tombstone, err);
        if (rc == VD_OK)
            rc = block_write(log, err);
        if (rc == VD_OK)
            rc = rot_tombstone_pack(&tombstone, state->key.private_key,
                                    log->frame + ROT_FRAME_HEAD_BYTES, err);
        if (rc == VD_OK)
            rc = frame_write(log, ROT_FRAME_TOMBSTONE, ROT_TOMBSTONE_BYTES, err);
        if (rc == VD_OK)
            rc = head_write(log, 0, err);
        if (rc == VD_OK)
            rc = rot_seal_tombstone(log->seal, upto, err);
        if (rc == VD_OK)
            rc = VD_FAULT("audit.tombstone_durable", err);
        if (rc == VD_OK)
            vd_log(VD_LOG_INFO, "audit segments past retention are dropped", "upto=%" PRIu64, upto);
    }
    if (rc == VD_OK)
        segments_remove(log, numbers, count, state->tombstone);
    vd_free(numbers);
    return rc;
}

int rot_log_seal(rot_log_t *log, vd_error_t *err)
{
    const rot_log_options_t *options = &log->options;
    int64_t now_ms = vd_wall_ms();
    bool full =
        log->now.offset + vd_buf_len(&log->plain) + CLOSE_BYTES > options->segment_max_bytes;
    bool old = options->segment_max_ms != 0 && log->now.tree.count > 0 &&
               now_ms - log->segment_ms > (int64_t)options->segment_max_ms;
    int rc = VD_OK;
    if (full || old)
        rc = rot_log_cut(log, err);
    else if (rot_log_is_dirty(log))
        rc = head_write(log, 0, err);
    if (rc == VD_OK && (full || old))
        rc = retain(log, err);
    if (rc == VD_OK && now_ms - log->key_ms > (int64_t)options->key_max_ms &&
        log->now.head.number >= rot_seal_state(log->seal)->key.first_head) {
        rc = rot_seal_hand_over(log->seal, err);
        if (rc == VD_OK)
            rc = head_write(log, 0, err); /* so that the loss of the new entry would be found */
        log->key_ms = now_ms;
        log->counts.hand_overs += rc == VD_OK;
    }
    return rc;
}

bool rot_log_is_dirty(const rot_log_t *log)
{
    return log->moved || log->now.records != log->sealed.records;
}

bool rot_log_has_records(const rot_log_t *log)
{
    return log->now.records != log->sealed.records;
}

int rot_log_rekey(rot_log_t *log, rot_data_keys_t keys, const rot_data_key_t *active,
                  vd_error_t *err)
{
    log->options.keys = keys;
    log->options.active = active;
    int rc = rot_seal_rekey(log->seal, active, err);
    log->broken = log->broken || rc != VD_OK;
    return rc;
}

/* ---- life ---- */

static int gone(const rot_log_t *log, const vd_error_t *torn, vd_error_t *err)
{
    const rot_seal_state_t *state = rot_seal_state(log->seal);
    return vd_error_set(err, VD_ERR_CORRUPT,
                        "the audit log in %s ends at head %" PRIu64 ", but head %" PRIu64
                        " was sealed: it was cut or changed%s%s; look with tests/audit/verify.py, "
                        "then move the folder away to begin a new log",
                        log->folder, log->now.head.number, state->head,
                        torn->code != VD_OK ? ": " : "", torn->message);
}

static void head_keep(void *context, const rot_head_t *head, const rot_hash_t *hash,
                      const uint8_t bytes[ROT_HEAD_BYTES])
{
    head_note(context, head->number, hash, bytes);
}

/* Walks one segment up to its last head. False: it has none. */
static int segment_resume(rot_log_t *log, const rot_publics_t *publics, uint64_t number,
                          bool *ret_has_head, vd_error_t *torn, vd_error_t *err)
{
    rot_walk_t walk;
    int rc = rot_walk_init(&walk, log->folder, publics, log->options.keys, err);
    walk.head = head_keep;
    walk.context = log;
    if (rc == VD_OK)
        rc = rot_walk_segment(&walk, number, UINT64_MAX, true, torn, err);
    if (rc == VD_OK && walk.sealed.segment == number) {
        *ret_has_head = true;
        log->now = log->sealed = walk.sealed;
        log->segment_ms = walk.first_start.time_ms;
        log->secret->key = *walk.data_key;
    }
    rot_walk_done(&walk);
    return rc;
}

/* What stands behind the last head goes. */
static int tail_cut(rot_log_t *log, vd_error_t *err)
{
    char path[PATH_MAX];
    struct stat st;
    rot_segment_path(log->folder, log->now.segment, "seg", path, sizeof path);
    log->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (log->fd < 0 || fstat(log->fd, &st) != 0)
        return vd_error_set_errno(err, "can't open %s", path);
    if ((uint64_t)st.st_size == log->now.offset)
        return VD_OK;
    vd_log(VD_LOG_INFO, "audit records that no head covers are taken anew",
           "segment=%" PRIu64 " bytes=%" PRIu64, log->now.segment,
           (uint64_t)st.st_size - log->now.offset);
    if (ftruncate(log->fd, (off_t)log->now.offset) != 0 || fsync(log->fd) != 0)
        return vd_error_set_errno(err, "can't cut %s", path);
    return VD_OK;
}

static void segment_forget(const rot_log_t *log, uint64_t number)
{
    char path[PATH_MAX];
    rot_segment_path(log->folder, number, "seg", path, sizeof path);
    (void)unlink(path); /* it is made anew */
}

static int resume(rot_log_t *log, const rot_publics_t *publics, vd_error_t *err)
{
    const rot_seal_state_t *state = rot_seal_state(log->seal);
    uint64_t *numbers = NULL;
    uint32_t count = 0;
    bool has_head = false;
    vd_error_t torn = VD_ERROR_INIT, first_torn = VD_ERROR_INIT;
    int rc = rot_segments_list(log->folder, &numbers, &count, err);
    /* A crash may have left one segment without a head behind one that is closed. */
    uint64_t headless = 0;
    for (uint32_t looked = 0; rc == VD_OK && !has_head && looked < 2 && count > 0; looked++) {
        uint64_t number = numbers[--count];
        rc = segment_resume(log, publics, number, &has_head, &torn, err);
        if (!has_head)
            headless = number;
        vd_error_copy(looked == 0 ? &torn : &first_torn, &first_torn);
    }
    vd_free(numbers);
    if (rc != VD_OK)
        return rc;
    if (log->now.head.number < state->head ||
        (log->now.head.number == state->head &&
         !rot_hash_equal(&log->now.head_hash, &state->head_hash)) ||
        (headless != 0 && log->now.segment + 1 != headless) ||
        (headless != 0 && has_head && !log->now.closed))
        return gone(log, &first_torn, err);
    if (headless != 0)
        segment_forget(log, headless);
    log->reached =
        (rot_positions_t){log->now.head.journal, log->now.head.journal_part, log->now.head.events};
    if (!has_head)
        return segment_make(log, 1, err);
    if (log->now.closed)
        return segment_make(log, log->now.segment + 1, err);
    rc = tail_cut(log, err);
    return rc == VD_OK ? rot_sealer_init(&log->secret->sealer, &log->secret->key, err) : rc;
}

int rot_log_open(const rot_log_options_t *options, rot_log_t **ret_log, vd_error_t *err)
{
    rot_log_t *log = vd_xalloc(sizeof *log);
    rot_publics_t publics = {0};
    void *secret = NULL;
    log->options = *options;
    log->fd = log->copy_fd = -1;
    (void)snprintf(log->folder, sizeof log->folder, "%s", options->folder);
    (void)snprintf(log->second_place, sizeof log->second_place, "%s",
                   options->second_place == NULL ? "" : options->second_place);
    log->frame = vd_xalloc(ROT_FRAME_MAX_BYTES);
    log->key_ms = vd_wall_ms();
    vd_buf_init(&log->plain, ROT_RECORD_MAX_BYTES + BLOCK_FILL_BYTES);
    int rc = vd_secret_alloc(sizeof *log->secret, &secret, err);
    log->secret = secret;
    if (rc == VD_OK && mkdir(log->folder, 0700) != 0 && errno != EEXIST)
        rc = vd_error_set_errno(err, "can't make %s", log->folder);
    if (rc == VD_OK)
        rc = rot_seal_open(log->folder, options->active, options->keys, &log->seal, err);
    if (rc == VD_OK)
        rc = rot_publics_load(log->folder, true, false, &publics, err);
    if (rc == VD_OK)
        rc = resume(log, &publics, err);
    rot_publics_done(&publics);
    if (rc == VD_OK && rot_seal_state(log->seal)->key.first_head > log->now.head.number)
        rc = head_write(log, 0, err); /* as behind a hand-over */
    if (rc == VD_OK)
        rc = retain(log, err); /* also what a crash left behind a tombstone */
    if (rc == VD_OK) {
        vd_error_t copy = VD_ERROR_INIT;
        if (log->second_place[0] != '\0' && log->copy_fd < 0)
            copy_told(log, copy_open(log, &copy), &copy); /* so that `copied` is known */
        *ret_log = log;
        return VD_OK;
    }
    log->broken = true; /* nothing to seal at the close */
    rot_log_close(&log);
    return rc;
}

void rot_log_close(rot_log_t **log_p)
{
    rot_log_t *log = *log_p;
    vd_error_t err = VD_ERROR_INIT;
    if (log == NULL)
        return;
    if (!log->broken && rot_log_is_dirty(log) && log->fd >= 0 && head_write(log, 0, &err) != VD_OK)
        vd_log(VD_LOG_WARN, "the last audit records are not sealed: they are taken anew",
               "error=\"%s\"", err.message);
    if (log->fd >= 0)
        (void)close(log->fd); /* synced */
    if (log->copy_fd >= 0)
        (void)close(log->copy_fd); /* synced */
    rot_seal_close(&log->seal);
    if (log->secret != NULL)
        vd_secret_free(log->secret, sizeof *log->secret);
    vd_buf_done(&log->plain);
    vd_free_secret(log->frame, ROT_FRAME_MAX_BYTES);
    vd_free(log);
    *log_p = NULL;
}

rot_positions_t rot_log_sealed_positions(const rot_log_t *log)
{
    const rot_head_t *head = &log->sealed.head;
    return (rot_positions_t){head->journal, head->journal_part, head->events};
}

rot_positions_t rot_log_reached_positions(const rot_log_t *log)
{
    return log->reached;
}

const rot_point_t *rot_log_sealed(const rot_log_t *log)
{
    return &log->sealed;
}

const uint8_t *rot_log_head(const rot_log_t *log)
{
    return log->head;
}

const rot_hash_t *rot_log_head_hash(const rot_log_t *log, uint64_t number)
{
    size_t at = number % ROT_HEADS_RECENT;
    return number != 0 && log->recent[at].number == number ? &log->recent[at].hash : NULL;
}

uint64_t rot_log_copied(const rot_log_t *log)
{
    return log->copied;
}

const uint8_t *rot_log_id(const rot_log_t *log)
{
    return rot_seal_state(log->seal)->log_id;
}

uint32_t rot_log_epoch(const rot_log_t *log)
{
    return rot_seal_state(log->seal)->epoch;
}

void rot_log_counts(const rot_log_t *log, rot_log_counts_t *ret_counts)
{
    *ret_counts = log->counts;
}
