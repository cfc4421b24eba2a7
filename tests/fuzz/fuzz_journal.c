/* tests/fuzz/fuzz_journal.c — a journal entry (a zero, 12 bytes of key, value), or a document and a
 * delta (any other byte, both behind it): what is decoded is written again the same; a delta that
 * applies makes a document, and the delta between both applies again. */
#include "libcommon/base/limits.h"
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/delta.h"
#include "veddb-storaged/envelope.h"
#include "veddb-storaged/journal.h"

#define INPUT_MAX_BYTES 65536
#define HEAD_BYTES      16

static bool is_valid(vd_bson_t doc)
{
    return vd_bson_validate(vd_slice(doc.data, doc.len), 0, VD_BSON_DEPTH_MAX, NULL) == VD_OK;
}

static void check_delta(vd_arena_t *arena, vd_bson_t before, vd_bson_t delta)
{
    vd_bson_t after, again, made;
    if (!is_valid(before) || stor_delta_apply(arena, before, delta, &after, NULL) != VD_OK)
        return;
    VD_ASSERT(vd_bson_validate(vd_slice(after.data, after.len), 0, VD_BSON_BUILD_DEPTH_MAX, NULL) ==
              VD_OK);
    if (!stor_delta_make(arena, before, after, &made))
        return;
    VD_ASSERT(made.len < after.len);
    int rc = stor_delta_apply(arena, before, made, &again, NULL);
    VD_ASSERT(rc == VD_OK && again.len == after.len);
    VD_ASSERT(memcmp(again.data, after.data, after.len) == 0);
}

/* Changes that are read and written again are the same bytes. */
static void check_changes(vd_arena_t *arena, const stor_journal_entry_t *entry)
{
    vd_slice_t changes = entry->changes, key;
    vd_buf_t buf;
    uint8_t head[HEAD_BYTES] = {0};
    stor_change_t change;
    uint32_t count = 0;
    vd_bson_t whole = VD_BSON_NONE;
    vd_buf_init(&buf, INPUT_MAX_BYTES + HEAD_BYTES);
    int rc = vd_buf_append(&buf, head, sizeof head);
    VD_ASSERT(rc == VD_OK);
    while ((rc = stor_journal_change_next(&changes, &change, NULL)) == VD_OK) {
        count++;
        if (change.kind < STOR_CHANGE_CREATE && stor_id_key(arena, change.id, &key, NULL) == VD_OK)
            VD_ASSERT(key.len > 0);
        if (change.kind == STOR_CHANGE_DELTA)
            check_delta(arena, whole, change.body);
        else
            whole = change.body;
        int added = stor_journal_add(&buf, &change, NULL);
        VD_ASSERT(added == VD_OK);
    }
    if (rc == VD_ERR_NOT_FOUND) {
        VD_ASSERT(count == entry->change_count);
        VD_ASSERT(vd_get_u32(vd_buf_at(&buf, 4)) == count);
        VD_ASSERT(vd_buf_len(&buf) - HEAD_BYTES == entry->changes.len);
        VD_ASSERT(count == 0 || memcmp(vd_buf_at(&buf, HEAD_BYTES), entry->changes.data,
                                       entry->changes.len) == 0);
    } else {
        VD_ASSERT(rc == VD_ERR_CORRUPT);
    }
    vd_buf_done(&buf);
}

static void check_entry(vd_arena_t *arena, vd_slice_t bytes)
{
    stor_journal_entry_t entry;
    if (bytes.len < 12)
        return;
    int rc = stor_journal_decode(vd_slice(bytes.data, 12),
                                 vd_slice(bytes.data + 12, bytes.len - 12), &entry, NULL);
    VD_ASSERT(rc == VD_OK || rc == VD_ERR_CORRUPT);
    if (rc == VD_OK)
        check_changes(arena, &entry);
}

static void check_pair(vd_arena_t *arena, vd_slice_t bytes)
{
    vd_bson_t before;
    if (vd_bson_peek(bytes, &before, NULL) != VD_OK)
        return;
    check_delta(arena, before,
                (vd_bson_t){bytes.data + before.len, (uint32_t)(bytes.len - before.len)});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > INPUT_MAX_BYTES)
        return 0;
    vd_arena_t *arena = vd_arena_create();
    if (data[0] == 0)
        check_entry(arena, vd_slice(data + 1, size - 1));
    else
        check_pair(arena, vd_slice(data + 1, size - 1));
    vd_arena_destroy(&arena);
    return 0;
}
