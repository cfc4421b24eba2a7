/* veddb-rotated/audit/walk.c — see walk.h. */
#include "veddb-rotated/audit/walk.h"

#include "libcommon/base/mem.h"
#include "libcommon/runtime/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PUBLICS_MAX  (1u << 20)
#define SEGMENTS_MAX (1u << 20)
#define READ_BYTES   (64u * 1024)

const rot_data_key_t *rot_data_keys_find(const rot_data_keys_t *keys, const uint8_t id[16])
{
    for (uint32_t i = 0; i < keys->count; i++)
        if (memcmp(keys->keys[i].id, id, 16) == 0)
            return &keys->keys[i];
    return NULL;
}

void rot_segment_path(const char *folder, uint64_t number, const char *ending, char *path,
                      size_t size)
{
    (void)snprintf(path, size, "%s/%08" PRIu64 ".%s", folder, number, ending);
}

/* The whole of a small file; VD_ERR_NOT_FOUND when it is not there. */
static int file_read(const char *path, size_t max, vd_buf_t *out, vd_error_t *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return vd_error_set(err, VD_ERR_NOT_FOUND, "%s is not there", path);
    if (fd < 0)
        return vd_error_set_errno(err, "can't open %s", path);
    int rc = VD_OK;
    vd_buf_init(out, max + READ_BYTES);
    for (;;) {
        uint8_t *space;
        if (vd_buf_reserve(out, READ_BYTES, &space) != VD_OK) {
            rc = vd_error_set(err, VD_ERR_CORRUPT, "%s is larger than it can be", path);
            break;
        }
        ssize_t n = read(fd, space, READ_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = vd_error_set_errno(err, "can't read %s", path);
        if (n <= 0)
            break;
        vd_buf_commit(out, (size_t)n);
    }
    (void)close(fd); /* only read from */
    if (rc != VD_OK)
        vd_buf_done(out);
    return rc;
}

/* ---- keys ---- */

static const char *public_check(const rot_publics_t *publics, const rot_public_t *entry,
                                const uint8_t *bytes, bool signature)
{
    uint32_t n = publics->count;
    const rot_public_t *before = n == 0 ? NULL : &publics->entries[n - 1];
    if (entry->epoch != n)
        return "the epoch is out of order";
    if (memcmp(&entry->before, &publics->last, sizeof publics->last) != 0)
        return "it does not follow from the entry before";
    if (before != NULL && memcmp(before->log_id, entry->log_id, ROT_LOG_ID_BYTES) != 0)
        return "it is of another log";
    if (before != NULL ? entry->first_head <= before->first_head : entry->first_head != 1)
        return "its first head is out of order";
    if (signature &&
        !rot_signed(bytes, ROT_PUBLIC_BYTES, before == NULL ? entry->key : before->key))
        return "it is not signed by the key before";
    return NULL;
}

int rot_publics_load(const char *folder, bool strict, bool every, rot_publics_t *ret_publics,
                     vd_error_t *err)
{
    char path[PATH_MAX];
    vd_buf_t bytes;
    (void)snprintf(path, sizeof path, "%s/keys", folder);
    memset(ret_publics, 0, sizeof *ret_publics);
    int rc = file_read(path, (size_t)PUBLICS_MAX * ROT_PUBLIC_BYTES, &bytes, err);
    if (rc != VD_OK)
        return rc;
    size_t len = vd_buf_len(&bytes);
    ret_publics->entries = vd_xalloc((len / ROT_PUBLIC_BYTES + 1) * sizeof(rot_public_t));
    for (size_t at = 0; rc == VD_OK && at < len; at += ROT_PUBLIC_BYTES) {
        const uint8_t *entry_bytes = vd_buf_at(&bytes, at);
        rot_public_t *entry = &ret_publics->entries[ret_publics->count];
        const char *wrong = NULL;
        if (len - at < ROT_PUBLIC_BYTES && !strict)
            break;
        if (len - at < ROT_PUBLIC_BYTES)
            wrong = "it is cut";
        else if (!rot_public_unpack(entry_bytes, entry))
            wrong = "it is no entry of a key";
        else
            wrong = public_check(ret_publics, entry, entry_bytes,
                                 every || len - at <= ROT_PUBLICS_QUICK * ROT_PUBLIC_BYTES);
        if (wrong != NULL) {
            rc = vd_error_set(err, VD_ERR_CORRUPT, "keys, byte %zu, entry %u: %s", at,
                              ret_publics->count, wrong);
            break;
        }
        rot_hash(&ret_publics->last, vd_slice(entry_bytes, ROT_PUBLIC_BYTES), VD_SLICE_NULL);
        if (ret_publics->count++ == 0)
            ret_publics->root = ret_publics->last;
        ret_publics->good_bytes = at + ROT_PUBLIC_BYTES;
    }
    if (rc == VD_OK && ret_publics->count == 0 && strict)
        rc = vd_error_set(err, VD_ERR_CORRUPT, "keys, byte 0: it is empty");
    vd_buf_done(&bytes);
    if (rc != VD_OK)
        rot_publics_done(ret_publics);
    return rc;
}

void rot_publics_done(rot_publics_t *publics)
{
    vd_free(publics->entries);
    publics->entries = NULL;
}

const uint8_t *rot_publics_key(const rot_publics_t *publics, uint32_t epoch, uint64_t head)
{
    if (epoch >= publics->count || head < publics->entries[epoch].first_head)
        return NULL;
    if (epoch + 1 < publics->count && head >= publics->entries[epoch + 1].first_head)
        return NULL;
    return publics->entries[epoch].key;
}

/* ---- one segment ---- */

int rot_segment_key_read(const char *folder, uint64_t number, rot_data_keys_t keys,
                         rot_data_key_t *ret_key, vd_error_t *err)
{
    char path[PATH_MAX];
    vd_buf_t bytes;
    uint8_t plain[64];
    rot_segment_path(folder, number, "key", path, sizeof path);
    int rc = file_read(path, 64 * 1024, &bytes, err);
    if (rc != VD_OK)
        return rc == VD_ERR_NOT_FOUND && err != NULL ? (err->code = VD_ERR_CORRUPT) : rc;
    const uint8_t *id = rot_block_key_id(vd_buf_slice(&bytes));
    const rot_data_key_t *wrap = id == NULL ? NULL : rot_data_keys_find(&keys, id);
    if (id == NULL || vd_buf_len(&bytes) != sizeof plain + ROT_BLOCK_EXTRA_BYTES)
        rc =
            vd_error_set(err, VD_ERR_CORRUPT, "%08" PRIu64 ".key: it is not a wrapped key", number);
    else if (wrap == NULL)
        rc = vd_error_set(err, VD_ERR_KEY_MISSING,
                          "%08" PRIu64 ".key: the keyring has no key of its id", number);
    else
        rc = rot_unseal(wrap, vd_buf_slice(&bytes), plain, err);
    if (rc == VD_OK && (memcmp(plain, "VDAG\1\0\0\0", 8) != 0 || vd_get_u64(plain + 8) != number))
        rc = vd_error_set(err, VD_ERR_CORRUPT, "it is of another segment");
    if (rc == VD_OK) {
        memcpy(ret_key->id, plain + 16, 16);
        memcpy(ret_key->key, plain + 32, 32);
    } else if (rc == VD_ERR_CORRUPT && err != NULL && strstr(err->message, ".key") == NULL) {
        (void)vd_error_prefix(err, "%08" PRIu64 ".key", number); /* tells the place */
    }
    vd_wipe(plain, sizeof plain);
    vd_buf_done(&bytes);
    return rc;
}

int rot_walk_init(rot_walk_t *walk, const char *folder, const rot_publics_t *publics,
                  rot_data_keys_t keys, vd_error_t *err)
{
    void *secret = NULL;
    memset(walk, 0, sizeof *walk);
    walk->folder = folder;
    walk->publics = publics;
    walk->keys = keys;
    int rc = vd_secret_alloc(sizeof *walk->data_key, &secret, err);
    walk->data_key = secret;
    return rc;
}

void rot_walk_done(rot_walk_t *walk)
{
    if (walk->data_key != NULL)
        vd_secret_free(walk->data_key, sizeof *walk->data_key);
    walk->data_key = NULL;
}

static int wrong(const rot_walk_t *walk, vd_error_t *err, const char *what)
{
    return vd_error_set(
        err, VD_ERR_CORRUPT,
        "segment %" PRIu64 ", byte %" PRIu64 ", behind record %" PRIu64 " and head %" PRIu64 ": %s",
        walk->now.segment, walk->now.offset, walk->now.records, walk->now.head.number, what);
}

static int frame_start(rot_walk_t *walk, vd_slice_t payload, vd_error_t *err)
{
    rot_start_t start;
    rot_point_t *now = &walk->now;
    if (payload.len != ROT_START_BYTES || !rot_start_unpack(payload.data, &start))
        return wrong(walk, err, "the start of the segment is malformed");
    if (memcmp(start.log_id, walk->publics->entries[0].log_id, ROT_LOG_ID_BYTES) != 0)
        return wrong(walk, err, "the segment is of another log");
    if (start.segment != now->segment)
        return wrong(walk, err, "the segment has another number than its file");
    if (!walk->began) { /* the oldest there is: rot_verify holds it against the tombstone */
        walk->began = true;
        walk->first_segment = start.segment;
        walk->first_start = start;
        now->records = start.records;
        now->last_record = start.last_record;
        now->head.number = start.head;
        now->head_hash = start.head_hash;
        rot_hash_t zero = {{0}};
        if (start.segment == 1 &&
            (start.records != 0 || start.head != 0 || !rot_hash_equal(&start.chain, &zero) ||
             !rot_hash_equal(&start.last_record, &zero) ||
             !rot_hash_equal(&start.head_hash, &zero)))
            return wrong(walk, err, "the first segment does not begin with nothing");
    }
    if (start.records != now->records || start.head != now->head.number ||
        !rot_hash_equal(&start.last_record, &now->last_record) ||
        !rot_hash_equal(&start.head_hash, &now->head_hash))
        return wrong(walk, err, "the segment does not follow from the one before");
    if (walk->folder == NULL)
        return VD_OK; /* frames alone: the key was given */
    int rc = rot_segment_key_read(walk->folder, now->segment, walk->keys, walk->data_key, err);
    if (rc == VD_OK && memcmp(walk->data_key->id, start.key_id, 16) != 0)
        rc = wrong(walk, err, "its .key file is of another segment");
    return rc;
}

static int one_record(rot_walk_t *walk, vd_slice_t bytes, vd_error_t *err)
{
    rot_point_t *now = &walk->now;
    rot_record_t record = {
        .number = vd_get_u64(bytes.data + 36),
        .source = bytes.data[44],
        .part = vd_get_u32(bytes.data + 48),
        .position = vd_get_u64(bytes.data + 52),
        .segment = now->segment,
        .bytes = bytes,
        .document = vd_slice(bytes.data + ROT_RECORD_HEAD_BYTES, bytes.len - ROT_RECORD_HEAD_BYTES),
    };
    if (memcmp(bytes.data + 4, &now->last_record, ROT_HASH_BYTES) != 0)
        return wrong(walk, err, "a record does not follow from the one before");
    if (record.number != now->records + 1)
        return wrong(walk, err, "the number of a record is out of order");
    if (record.source < ROT_SOURCE_JOURNAL || record.source > ROT_SOURCE_LOG ||
        bytes.data[45] != 0 || bytes.data[46] != 0 || bytes.data[47] != 0 ||
        vd_get_u32(record.document.data) != record.document.len)
        return wrong(walk, err, "a record is malformed");
    rot_tree_leaf(bytes, &record.hash);
    rot_tree_add(&now->tree, &record.hash);
    now->last_record = record.hash;
    now->records++;
    return walk->record == NULL ? VD_OK : walk->record(walk->context, &record, err);
}

static int frame_records(rot_walk_t *walk, vd_slice_t payload, vd_error_t *err)
{
    if (payload.len < ROT_BLOCK_EXTRA_BYTES)
        return wrong(walk, err, "a block is too short");
    size_t len = payload.len - ROT_BLOCK_EXTRA_BYTES;
    uint8_t *plain = vd_xalloc(len + 1);
    vd_error_t opened = VD_ERROR_INIT;
    int rc = rot_unseal(walk->data_key, payload, plain, &opened);
    if (rc != VD_OK)
        rc = wrong(walk, err, opened.message);
    for (size_t at = 0; rc == VD_OK && at < len;) {
        size_t left = len - at;
        uint32_t size = left < 4 ? 0 : vd_get_u32(plain + at);
        if (size < ROT_RECORD_HEAD_BYTES + 5 || size > left)
            rc = wrong(walk, err, "a record is cut");
        else
            rc = one_record(walk, vd_slice(plain + at, size), err);
        at += size;
    }
    vd_free_secret(plain, len + 1);
    return rc;
}

static int frame_head(rot_walk_t *walk, vd_slice_t payload, vd_error_t *err)
{
    rot_head_t head;
    rot_hash_t root;
    rot_point_t *now = &walk->now;
    if (payload.len != ROT_HEAD_BYTES || !rot_head_unpack(payload.data, &head))
        return wrong(walk, err, "a head is malformed");
    rot_tree_root(&now->tree, &root);
    if (memcmp(head.log_id, walk->publics->entries[0].log_id, ROT_LOG_ID_BYTES) != 0 ||
        head.segment != now->segment || head.offset != now->offset)
        return wrong(walk, err, "a head is of another place");
    if (head.number != now->head.number + 1)
        return wrong(walk, err, "the number of a head is out of order");
    if (!rot_hash_equal(&head.before, &now->head_hash))
        return wrong(walk, err, "a head does not follow from the one before");
    if (!rot_hash_equal(&head.chain, &now->chain) || head.records != now->records ||
        head.segment_records != now->tree.count || !rot_hash_equal(&head.root, &root) ||
        !rot_hash_equal(&head.last_record, &now->last_record))
        return wrong(walk, err, "a head is not of what stands before it");
    const uint8_t *key = rot_publics_key(walk->publics, head.epoch, head.number);
    if (key == NULL)
        return wrong(walk, err, "a head is of a key that may not sign it");
    if (!rot_signed(payload.data, payload.len, key))
        return wrong(walk, err, "the signature of a head is wrong");
    if (walk->unsealed_tombstone.segment != 0) {
        if (walk->unsealed_tombstone.epoch != head.epoch)
            return wrong(walk, err, "a tombstone is of another key than the head behind it");
        walk->tombstone = walk->unsealed_tombstone;
        walk->unsealed_tombstone.segment = 0;
    }
    now->head = head;
    now->closed = (head.flags & ROT_HEAD_CLOSES) != 0;
    rot_hash(&now->head_hash, payload, VD_SLICE_NULL);
    walk->head_count++;
    if (walk->head != NULL)
        walk->head(walk->context, &head, &now->head_hash, payload.data);
    return VD_OK;
}

static int frame_tombstone(rot_walk_t *walk, vd_slice_t payload, vd_error_t *err)
{
    rot_tombstone_t tombstone;
    if (payload.len != ROT_TOMBSTONE_BYTES || !rot_tombstone_unpack(payload.data, &tombstone) ||
        memcmp(tombstone.log_id, walk->publics->entries[0].log_id, ROT_LOG_ID_BYTES) != 0 ||
        tombstone.segment >= walk->now.segment || tombstone.segment <= walk->tombstone.segment)
        return wrong(walk, err, "a tombstone is malformed");
    const uint8_t *key = rot_publics_key(walk->publics, tombstone.epoch, walk->now.head.number + 1);
    if (key == NULL || !rot_signed(payload.data, payload.len, key))
        return wrong(walk, err, "the signature of a tombstone is wrong");
    walk->unsealed_tombstone = tombstone;
    return VD_OK;
}

void rot_walk_begin(rot_walk_t *walk, uint64_t number)
{
    walk->now.segment = number;
    walk->now.offset = 0;
    walk->now.closed = false;
    memset(&walk->now.tree, 0, sizeof walk->now.tree);
}

/* The chain is checked before anything else in it is looked at. */
int rot_walk_frame(rot_walk_t *walk, vd_slice_t frame, vd_error_t *err)
{
    rot_point_t *now = &walk->now;
    if (frame.len <= ROT_FRAME_EXTRA_BYTES || vd_get_u32(frame.data) != frame.len)
        return wrong(walk, err, "a frame is cut, or its length is wrong");
    vd_slice_t body = vd_slice(frame.data, frame.len - ROT_HASH_BYTES);
    vd_slice_t payload =
        vd_slice(body.data + ROT_FRAME_HEAD_BYTES, body.len - ROT_FRAME_HEAD_BYTES);
    uint8_t type = body.data[4];
    rot_hash_t chain;
    if (!walk->began && type == ROT_FRAME_START && payload.len == ROT_START_BYTES)
        memcpy(&now->chain, payload.data + 40, sizeof now->chain); /* of what was dropped */
    rot_hash(&chain, vd_slice(&now->chain, sizeof now->chain), body);
    if (memcmp(&chain, frame.data + body.len, sizeof chain) != 0)
        return wrong(walk, err, "a frame does not follow from the one before, or was changed");
    if (body.data[5] != 0 || body.data[6] != 0 || body.data[7] != 0 ||
        (type == ROT_FRAME_START) != (now->offset == 0))
        return wrong(walk, err, "a frame is out of place");
    if (now->closed)
        return wrong(walk, err, "something stands behind the end of the segment");
    int rc;
    switch (type) {
    case ROT_FRAME_START:
        if (walk->began && memcmp(payload.data + 40, &now->chain, sizeof now->chain) != 0)
            return wrong(walk, err, "the segment does not follow from the one before");
        rc = frame_start(walk, payload, err);
        break;
    case ROT_FRAME_RECORDS:
        rc = frame_records(walk, payload, err);
        break;
    case ROT_FRAME_HEAD:
        rc = frame_head(walk, payload, err);
        break;
    case ROT_FRAME_TOMBSTONE:
        rc = frame_tombstone(walk, payload, err);
        break;
    default:
        return wrong(walk, err, "a frame of no known type");
    }
    if (rc == VD_OK) {
        now->chain = chain;
        now->offset += frame.len;
        if (type == ROT_FRAME_HEAD)
            walk->sealed = *now;
    }
    return rc;
}

static bool read_all(int fd, uint8_t *out, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pread(fd, out, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        out += n, len -= (size_t)n, offset += (uint64_t)n;
    }
    return true;
}

static int frames(rot_walk_t *walk, int fd, uint64_t size, vd_error_t *err)
{
    uint8_t *buf = vd_xalloc(ROT_FRAME_MAX_BYTES);
    int rc = VD_OK;
    while (rc == VD_OK && walk->now.offset < size) {
        uint64_t at = walk->now.offset, left = size - at;
        uint32_t len = 0;
        if (left >= ROT_FRAME_EXTRA_BYTES && read_all(fd, buf, 4, at))
            len = vd_get_u32(buf);
        if (len <= ROT_FRAME_EXTRA_BYTES || len > ROT_FRAME_MAX_BYTES || len > left)
            rc = wrong(walk, err, "a frame is cut, or its length is wrong");
        else if (!read_all(fd, buf, len, at))
            rc = vd_error_set_errno(err, "can't read segment %" PRIu64, walk->now.segment);
        else
            rc = rot_walk_frame(walk, vd_slice(buf, len), err);
    }
    vd_free_secret(buf, ROT_FRAME_MAX_BYTES);
    return rc;
}

int rot_walk_segment(rot_walk_t *walk, uint64_t number, uint64_t limit, bool torn,
                     vd_error_t *ret_torn, vd_error_t *err)
{
    char path[PATH_MAX];
    struct stat st;
    rot_segment_path(walk->folder, number, "seg", path, sizeof path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int rc = vd_error_set_errno(err, "can't open %s", path);
        if (fd >= 0)
            (void)close(fd); /* only read from */
        return rc;
    }
    if (walk->began && !walk->now.closed) {
        (void)close(fd); /* only read from */
        return wrong(walk, err, "the segment has no end, but another one follows");
    }
    rot_walk_begin(walk, number);
    uint64_t size = (uint64_t)st.st_size < limit ? (uint64_t)st.st_size : limit;
    int rc;
    if (torn) {
        vd_error_clear(ret_torn);
        rc = frames(walk, fd, size, ret_torn);
        if (rc == VD_ERR_CORRUPT)
            rc = VD_OK;
        else if (rc != VD_OK)
            vd_error_copy(ret_torn, err);
    } else {
        rc = frames(walk, fd, size, err);
        if (rc == VD_OK && (size == 0 || walk->sealed.segment != number ||
                            walk->sealed.offset != walk->now.offset))
            rc = wrong(walk, err, "the segment ends without a head");
    }
    (void)close(fd); /* only read from */
    return rc;
}

/* ---- all of it ---- */

static int number_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int rot_segments_list(const char *folder, uint64_t **ret_numbers, uint32_t *ret_count,
                      vd_error_t *err)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return vd_error_set_errno(err, "can't list %s", folder);
    uint32_t count = 0, max = 64;
    uint64_t *numbers = vd_xalloc(max * sizeof *numbers);
    for (struct dirent *entry; count < SEGMENTS_MAX && (entry = readdir(dir)) != NULL;) {
        char *end;
        uint64_t number = strtoull(entry->d_name, &end, 10);
        if (end == entry->d_name || strcmp(end, ".seg") != 0 || number == 0)
            continue;
        if (count == max)
            numbers = vd_xrealloc(numbers, (max *= 2) * sizeof *numbers);
        numbers[count++] = number;
    }
    (void)closedir(dir); /* only read from */
    qsort(numbers, count, sizeof *numbers, number_compare);
    *ret_numbers = numbers;
    *ret_count = count;
    return VD_OK;
}

typedef struct {
    rot_hash_t *hashes; /* of the heads of the log from number `first` on */
    uint64_t first, count, max;
    const rot_verify_options_t *options;
} heads_t;

static void head_note(void *context, const rot_head_t *head, const rot_hash_t *hash,
                      const uint8_t *bytes)
{
    heads_t *heads = context;
    if (heads->options->head != NULL)
        heads->options->head(heads->options->context, head, hash, bytes);
    if (heads->count == heads->max)
        heads->hashes =
            vd_xrealloc(heads->hashes, (heads->max = heads->max * 2 + 256) * sizeof *heads->hashes);
    if (heads->count == 0)
        heads->first = head->number;
    heads->hashes[heads->count++] = *hash;
}

static int record_pass(void *context, const rot_record_t *record, vd_error_t *err)
{
    const heads_t *heads = context;
    const rot_verify_options_t *options = heads->options;
    return options->record == NULL ? VD_OK : options->record(options->context, record, err);
}

static int copies_check(const rot_publics_t *publics, const char *place, const heads_t *heads,
                        uint64_t last, uint64_t dropped, uint64_t *ret_copies, vd_error_t *err)
{
    char path[PATH_MAX], id[2 * ROT_LOG_ID_BYTES + 1];
    vd_buf_t bytes;
    for (int i = 0; i < ROT_LOG_ID_BYTES; i++)
        (void)snprintf(id + 2 * i, 3, "%02x", publics->entries[0].log_id[i]);
    (void)snprintf(path, sizeof path, "%s/%s.heads", place, id);
    int rc = file_read(path, SIZE_MAX / 4, &bytes, err);
    if (rc != VD_OK)
        return rc;
    size_t len = vd_buf_len(&bytes);
    if (heads->options->limit_segment != 0 && len > heads->options->limit_copy)
        len = (size_t)heads->options->limit_copy; /* what came meanwhile */
    uint64_t newest = 0;
    for (size_t at = 0; rc == VD_OK && at < len; at += ROT_HEAD_BYTES) {
        const uint8_t *p = vd_buf_at(&bytes, at);
        const char *what = NULL;
        rot_head_t head = {0};
        rot_hash_t hash;
        const uint8_t *key = NULL;
        if (len - at < ROT_HEAD_BYTES || !rot_head_unpack(p, &head))
            what = "it is cut or malformed";
        else if ((key = rot_publics_key(publics, head.epoch, head.number)) == NULL ||
                 !rot_signed(p, ROT_HEAD_BYTES, key))
            what = "its signature is wrong, or its key is not in keys";
        else if (head.number > last)
            what = "the log ends before it: the log was cut or put back";
        else if (head.number > dropped && head.number < heads->first)
            what = "the log begins behind it, and no tombstone says so";
        rot_hash(&hash, vd_slice(p, len - at < ROT_HEAD_BYTES ? len - at : ROT_HEAD_BYTES),
                 VD_SLICE_NULL);
        if (what == NULL && head.number >= heads->first &&
            !rot_hash_equal(&hash, &heads->hashes[head.number - heads->first]))
            what = "the log has another head of that number";
        if (what != NULL)
            rc = vd_error_set(err, VD_ERR_CORRUPT, "second place, byte %zu, head %" PRIu64 ": %s",
                              at, head.number, what);
        else
            (*ret_copies)++;
        newest = head.number > newest ? head.number : newest;
    }
    if (rc == VD_OK && newest < last)
        rc =
            vd_error_set(err, VD_ERR_CORRUPT,
                         "second place, byte %zu: it ends at head %" PRIu64 ", the log at %" PRIu64,
                         len, newest, last);
    vd_buf_done(&bytes);
    return rc;
}

/* What other nodes hold is in the log, or was dropped. */
static int held_check(const heads_t *heads, const rot_head_t *last, uint64_t dropped,
                      uint64_t *ret_held, vd_error_t *err)
{
    const rot_verify_options_t *options = heads->options;
    for (uint32_t i = 0; i < options->held_count; i++) {
        const rot_held_head_t *held = &options->held[i];
        const char *what = NULL;
        rot_head_t head;
        rot_hash_t hash;
        if (!rot_head_unpack(held->head, &head) ||
            memcmp(head.log_id, last->log_id, sizeof head.log_id) != 0)
            continue; /* of another log */
        rot_hash(&hash, vd_slice(held->head, ROT_HEAD_BYTES), VD_SLICE_NULL);
        if (head.number > last->number)
            what = "the log ends before it: it was cut or put back";
        else if (head.number > dropped && head.number < heads->first)
            what = "the log begins behind it, and no tombstone says so";
        else if (head.number >= heads->first &&
                 !rot_hash_equal(&hash, &heads->hashes[head.number - heads->first]))
            what = "the log has another head of that number: it was put back and went on";
        else if (held->frozen)
            what = "an alarm was raised for it";
        if (what != NULL)
            return vd_error_set(err, VD_ERR_AUDIT_ROLLED_BACK,
                                "node %s holds head %" PRIu64 ", the log ends at %" PRIu64 ": %s",
                                held->node, head.number, last->number, what);
        (*ret_held)++;
    }
    return VD_OK;
}

static int segments_walk(rot_walk_t *walk, const rot_verify_options_t *options,
                         rot_verdict_t *verdict, vd_error_t *err)
{
    uint64_t *numbers = NULL;
    uint32_t count = 0;
    int rc = rot_segments_list(options->folder, &numbers, &count, err);
    for (uint32_t i = 0; rc == VD_OK && i < count; i++) {
        uint64_t limit = UINT64_MAX;
        if (options->limit_segment != 0 && numbers[i] > options->limit_segment)
            break;
        if (numbers[i] == options->limit_segment)
            limit = options->limit_offset;
        if (i > 0 && numbers[i] != numbers[i - 1] + 1)
            rc = vd_error_set(err, VD_ERR_CORRUPT, "segment %" PRIu64 " is not there",
                              numbers[i - 1] + 1);
        if (rc == VD_OK)
            rc = rot_walk_segment(walk, numbers[i], limit, false, NULL, err);
        verdict->segments++;
    }
    if (rc == VD_OK && verdict->segments == 0)
        rc = vd_error_set(err, VD_ERR_CORRUPT, "there is no segment");
    vd_free(numbers);
    return rc;
}

/* The oldest segment follows from what the newest tombstone says was there. */
static int beginning_check(const rot_walk_t *walk, vd_error_t *err)
{
    const rot_tombstone_t *tombstone = &walk->tombstone;
    uint64_t first = walk->first_segment;
    if (first == 1 || (tombstone->segment != 0 && first <= tombstone->segment))
        return VD_OK; /* all there, or not yet removed */
    if (tombstone->segment != first - 1 || tombstone->record != walk->first_start.records ||
        tombstone->head != walk->first_start.head ||
        !rot_hash_equal(&tombstone->chain, &walk->first_start.chain))
        return vd_error_set(err, VD_ERR_CORRUPT,
                            "segment %" PRIu64
                            ", byte 0: what came before is gone, and no tombstone says so",
                            first);
    return VD_OK;
}

int rot_verify(const rot_verify_options_t *options, rot_verdict_t *ret_verdict, vd_error_t *err)
{
    rot_publics_t publics;
    rot_walk_t walk = {0};
    heads_t heads = {.options = options};
    rot_verdict_t verdict = {0};
    int rc = rot_publics_load(options->folder, true, true, &publics, err);
    if (rc != VD_OK)
        return rc;
    rc = rot_walk_init(&walk, options->folder, &publics, options->keys, err);
    walk.record = record_pass;
    walk.head = head_note;
    walk.context = &heads;
    if (rc == VD_OK)
        rc = segments_walk(&walk, options, &verdict, err);
    if (rc == VD_OK)
        rc = beginning_check(&walk, err);
    if (rc == VD_OK && options->limit_segment == 0 && walk.now.head.epoch + 1 != publics.count)
        rc = vd_error_set(err, VD_ERR_CORRUPT, "keys, entry %u: it has signed nothing",
                          publics.count - 1);
    if (rc == VD_OK && options->second_place != NULL && *options->second_place != '\0')
        rc = copies_check(&publics, options->second_place, &heads, walk.now.head.number,
                          walk.tombstone.head, &verdict.copies, err);
    if (rc == VD_OK)
        rc = held_check(&heads, &walk.now.head, walk.tombstone.head, &verdict.held, err);
    verdict.first_segment = walk.first_segment;
    verdict.records = walk.now.records - walk.first_start.records;
    verdict.heads = walk.head_count;
    verdict.last = walk.now.head;
    verdict.root = publics.root;
    if (rc == VD_OK)
        *ret_verdict = verdict;
    vd_free(heads.hashes);
    rot_walk_done(&walk);
    rot_publics_done(&publics);
    return rc;
}
