/* tests/unit/engine/test_versions.c — the table of versions: what the engine marks, when, and what
 * a start makes of what an earlier one left. */
#include "proto/versions.h"
#include "tests/unit/engine/engine_support.h"

#include <criterion/criterion.h>
#include <sys/mman.h>

static const uint8_t boots[2][16] = {{1}, {2}};
static place_t place;
static char path[300];
static stor_versions_t *versions;
static const vdp_versions_t *table;
static stor_session_t *session;
static stor_cursor_t *documents, *others;

static void versions_map(void)
{
    int fd = open(path, O_RDONLY);
    cr_assert(fd >= 0);
    void *mapped = mmap(NULL, sizeof *table, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert_neq(mapped, MAP_FAILED);
    close(fd);
    table = mapped;
}

static void start(void)
{
    place_init(&place);
    snprintf(path, sizeof path, "%s.versions", place.folder);
    cr_assert_eq(stor_versions_open(path, boots[0], &versions, &place.err), VD_OK, "%s",
                 place.err.message);
    versions_map();
    stor_versions_serve(versions, true);
    place.options.versions = versions;
    cr_assert_eq(place_open(&place, true), VD_OK, "%s", place.err.message);
    cr_assert_eq(stor_engine_table_create(place.engine, "c-1", false, NULL), VD_OK);
    cr_assert_eq(stor_engine_table_create(place.engine, "i-1", false, NULL), VD_OK);
    cr_assert_eq(stor_session_open(place.engine, &session, NULL), VD_OK);
    cr_assert_eq(stor_cursor_open(session, "c-1", &documents, NULL), VD_OK);
    cr_assert_eq(stor_cursor_open(session, "i-1", &others, NULL), VD_OK);
}

static void end(void)
{
    stor_session_close(&session);
    cr_assert_eq(place_close(&place), VD_OK);
    stor_versions_close(&versions);
    munmap((void *)(uintptr_t)table, sizeof *table);
    unlink(path);
    place_done(&place);
}

#define KEY(s)   vd_slice_str(s)
#define OK(call) cr_assert_eq((call), VD_OK)

static uint64_t word(const char *key)
{
    return vdp_version_read(&table->slots[stor_versions_slot("c-1", KEY(key))]);
}

typedef enum { INSERT, PUT, UPDATE, REMOVE, FAIL } op_t;

static void change(op_t op, const char *key)
{
    switch (op) {
    case INSERT:
        OK(stor_cursor_insert(documents, KEY(key), KEY("1"), NULL));
        break;
    case PUT:
        OK(stor_cursor_put(documents, KEY(key), KEY("2"), NULL));
        break;
    case UPDATE:
        OK(stor_cursor_update(documents, KEY(key), KEY("3"), NULL));
        break;
    case REMOVE:
        OK(stor_cursor_remove(documents, KEY(key), NULL));
        break;
    case FAIL:
        cr_assert_eq(stor_cursor_remove(documents, KEY("nothing"), NULL), VD_ERR_NOT_FOUND);
        break;
    }
}

Test(versions, each_kind_of_write_marks_before_and_after)
{
    start();
    static const op_t ops[] = {INSERT, PUT, UPDATE, REMOVE};
    for (int keep = 0; keep < 2; keep++) {
        for (size_t i = 0; i < 4; i++) {
            uint64_t before = word("k");
            if (!keep && ops[i] != INSERT) { /* something to change */
                OK(stor_txn_begin(session, NULL));
                change(PUT, "k");
                OK(stor_txn_commit(session, NULL));
                before = word("k");
            }
            OK(stor_txn_begin(session, NULL));
            cr_assert_eq(word("k"), before);
            change(ops[i], "k");
            cr_assert(vdp_version_is_pending(word("k")), "%zu", i);
            if (keep)
                OK(stor_txn_commit(session, NULL));
            else
                stor_txn_rollback(session);
            cr_assert_not(vdp_version_is_pending(word("k")), "%zu", i);
            cr_assert_gt(word("k"), before, "%zu", i);
        }
        OK(stor_txn_begin(session, NULL));
        either(stor_cursor_remove(documents, KEY("k"), NULL));
        OK(stor_txn_commit(session, NULL));
    }
    end();
}

Test(versions, other_tables_and_reads_mark_nothing)
{
    start();
    static uint64_t before[VDP_VERSIONS_SLOTS];
    memcpy(before, (const void *)(uintptr_t)table->slots, sizeof before);
    OK(stor_txn_begin(session, NULL));
    OK(stor_cursor_put(others, KEY("k"), KEY("1"), NULL));
    cr_assert_eq(stor_cursor_search(documents, KEY("k"), NULL, NULL), VD_ERR_NOT_FOUND);
    OK(stor_txn_commit(session, NULL));
    cr_assert_eq(memcmp(before, (const void *)(uintptr_t)table->slots, sizeof before), 0);
    end();
}

Test(versions, a_large_transaction_marks_everything)
{
    start();
    stor_version_seen_t seen = {.epoch = stor_versions_epoch(versions)};
    cr_assert_neq(seen.epoch, 0);
    OK(stor_txn_begin(session, NULL));
    for (int i = 0; i < STOR_VERSIONS_MARKS_MAX + 100; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        change(INSERT, key);
    }
    cr_assert_eq(stor_versions_epoch(versions), 0);
    OK(stor_txn_commit(session, NULL));
    cr_assert_gt(stor_versions_epoch(versions), seen.epoch);
    for (uint32_t i = 0; i < VDP_VERSIONS_SLOTS; i++)
        cr_assert_not(vdp_version_is_pending(table->slots[i]));
    end();
}

Test(versions, what_a_reader_sees)
{
    start();
    stor_version_seen_t seen = {.epoch = stor_versions_epoch(versions)};
    stor_versions_see(versions, "c-1", KEY("k"), &seen);
    cr_assert_eq(seen.slot, stor_versions_slot("c-1", KEY("k")) + 1);
    cr_assert_eq(seen.version, word("k"));
    stor_versions_see(versions, "i-1", KEY("k"), &seen);
    cr_assert_eq(seen.slot, 0, "no table of documents");
    OK(stor_txn_begin(session, NULL));
    change(PUT, "k");
    stor_versions_see(versions, "c-1", KEY("k"), &seen);
    cr_assert_eq(seen.slot, 0, "a change is under way");
    stor_txn_rollback(session);
    seen.epoch = 0;
    stor_versions_see(versions, "c-1", KEY("k"), &seen);
    cr_assert_eq(seen.slot, 0, "everything is uncertain");
    stor_versions_serve(versions, false);
    cr_assert_eq(stor_versions_epoch(versions), 0, "not primary");
    stor_versions_serve(versions, false);
    stor_versions_serve(versions, true);
    cr_assert_neq(stor_versions_epoch(versions), 0);
    end();
}

Test(versions, a_start_believes_nothing_of_an_earlier_one)
{
    start();
    OK(stor_txn_begin(session, NULL));
    change(PUT, "k");
    uint64_t epoch = stor_versions_epoch(versions);
    stor_versions_t *next = NULL;
    OK(stor_versions_open(path, boots[1], &next, NULL)); /* as after a kill */
    cr_assert(vdp_version_is_pending(table->epoch));
    cr_assert_gt(table->epoch, epoch);
    cr_assert_eq(word("k"), 0, "what was pending is not any more");
    cr_assert_eq(memcmp(table->boot_id, boots[1], 16), 0);
    cr_assert_eq(table->auth_epoch, UINT64_MAX);
    stor_versions_serve(next, true);
    cr_assert_gt(stor_versions_epoch(next), epoch);
    stor_versions_close(&next);
    cr_assert(vdp_version_is_pending(table->epoch), "nor is a stopped one believed");
    stor_txn_rollback(session);
    end();
}

Test(versions, no_file_is_an_error)
{
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_neq(stor_versions_open("/nowhere/versions", boots[0], &versions, &err), VD_OK);
    stor_version_seen_t seen = {.epoch = stor_versions_epoch(NULL)};
    stor_versions_see(NULL, "c-1", KEY("k"), &seen);
    cr_assert_eq(seen.slot, 0);
    stor_versions_all_begin(NULL);
    stor_versions_all_end(NULL);
    stor_versions_serve(NULL, true);
    stor_versions_close(&versions);
}
