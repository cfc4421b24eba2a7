/* tests/unit/storaged/test_oplog.c — an entry of the journal as entries of the oplog: where it is
 * cut, and how an update's delta is told. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/local/oplog.h"

static int name_of(void *context, uint64_t collection_id, const stor_local_name_t **ret_name,
                   vd_error_t *err)
{
    static stor_local_name_t names[2];
    (void)context;
    (void)err;
    names[0] = (stor_local_name_t){.ns = VD_SLICE_LIT("d.c")};
    names[1] = (stor_local_name_t){.ns = VD_SLICE_LIT("admin.system.keys"), .secret = true};
    *ret_name = &names[collection_id == 9];
    return VD_OK;
}

static void add(vd_buf_t *buf, stor_change_kind_t kind, uint64_t collection, int32_t id,
                size_t bytes)
{
    static uint8_t pad[1 << 20];
    vd_bb_t bb;
    vd_bson_t document;
    vd_bb_init(&bb, VD_BSON_INTERNAL_MAX_BYTES);
    vd_bb_int32(&bb, "_id", id);
    vd_bb_binary(&bb, "pad", 0, vd_slice(pad, bytes));
    cr_assert_eq(vd_bb_finish(&bb, &document, NULL), VD_OK);
    stor_change_t change = {.kind = kind,
                            .statement = -1,
                            .collection_id = collection,
                            .id = vd_bson_get(document, "_id"),
                            .body = kind == STOR_CHANGE_DELETE ? VD_BSON_NONE : document};
    cr_assert_eq(stor_journal_add(buf, &change, NULL), VD_OK);
    vd_bb_done(&bb);
}

static stor_journal_entry_t decoded(const vd_buf_t *buf)
{
    static const uint8_t key[STOR_JOURNAL_KEY_BYTES] = {0, 0, 0, 1, 2, 0, 0, 3};
    stor_journal_entry_t entry;
    cr_assert_eq(stor_journal_decode(vd_slice(key, sizeof key), vd_buf_slice(buf), &entry, NULL),
                 VD_OK);
    return entry;
}

static vd_bson_t told(vd_arena_t *arena, const stor_journal_entry_t *entry,
                      const stor_oplog_cut_t *cut, uint32_t piece)
{
    vd_bson_t document;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(stor_oplog_entry(arena, entry, cut, piece, 2, name_of, NULL, &document, &err),
                 VD_OK, "%s", err.message);
    return document;
}

/* So many changes of so many bytes become so many pieces. */
Test(oplog, cut)
{
    static const struct {
        int changes;
        size_t bytes;
        uint32_t pieces;
    } cases[] = {{1, 10, 1},    {2, 10, 1},       {1000, 10, 1},
                 {1001, 10, 2}, {12, 1 << 18, 4}, {3, 1 << 20, 3}};
    static stor_oplog_cut_t cut;
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        vd_buf_t buf;
        vd_buf_init(&buf, 64 << 20);
        cr_assert_eq(stor_journal_begin(&buf, NULL, 77, NULL), VD_OK);
        for (int n = 0; n < cases[i].changes; n++) {
            add(&buf, STOR_CHANGE_IMAGE, 1, n, 5); /* is not shown */
            add(&buf, STOR_CHANGE_INSERT, 1, n, cases[i].bytes);
        }
        stor_journal_entry_t entry = decoded(&buf);
        cr_assert_eq(stor_oplog_cut(&entry, &cut, NULL), VD_OK);
        cr_assert_eq(cut.count, cases[i].pieces, "%zu: %u", i, cut.count);
        int seen = 0;
        for (uint32_t piece = 0; piece < cut.count; piece++) {
            vd_bson_t document = told(arena, &entry, &cut, piece);
            cr_assert_eq(vd_value_timestamp(vd_bson_get(document, "ts")), entry.timestamp);
            vd_bson_t o = vd_value_document(vd_bson_get(document, "o"));
            vd_value_t operations = vd_bson_get(o, "applyOps");
            if (cases[i].changes == 1) {
                cr_assert(vd_slice_is(vd_value_string(vd_bson_get(document, "op")), "i"));
                seen++;
                continue;
            }
            cr_assert_eq(!vd_value_is_missing(vd_bson_get(o, "partialTxn")), piece + 1 < cut.count);
            vd_bson_iter_t iter;
            vd_bson_iter_init(&iter, vd_value_document(operations));
            while (vd_bson_iter_next(&iter)) {
                vd_bson_t inserted =
                    vd_value_document(vd_bson_get(vd_value_document(iter.value), "o"));
                cr_assert_eq(vd_value_int32(vd_bson_get(inserted, "_id")), seen++);
            }
        }
        cr_assert_eq(seen, cases[i].changes);
        vd_buf_done(&buf);
        vd_arena_destroy(&arena);
    }
}

Test(oplog, a_secret_shows_its_id_alone)
{
    static stor_oplog_cut_t cut;
    vd_arena_t *arena = vd_arena_create();
    vd_buf_t buf;
    vd_buf_init(&buf, 1 << 20);
    cr_assert_eq(stor_journal_begin(&buf, NULL, 77, NULL), VD_OK);
    add(&buf, STOR_CHANGE_INSERT, 9, 4, 100);
    stor_journal_entry_t entry = decoded(&buf);
    cr_assert_eq(stor_oplog_cut(&entry, &cut, NULL), VD_OK);
    vd_bson_t o = vd_value_document(vd_bson_get(told(arena, &entry, &cut, 0), "o"));
    cr_assert_eq(vd_bson_count(o), 1);
    cr_assert_eq(vd_value_int32(vd_bson_get(o, "_id")), 4);
    vd_buf_done(&buf);
    vd_arena_destroy(&arena);
}

/* {delta as the journal has it, what clients see} */
Test(oplog, diff)
{
    static const char *const cases[][2] = {
        {"{'ua': 1}", "{ \"u\": { \"a\": 1 } }"},
        {"{'da': true, 'ub': 2, 'ic': 3}",
         "{ \"d\": { \"a\": false }, \"u\": { \"b\": 2 }, \"i\": { \"c\": 3 } }"},
        {"{'sa': {'ub': 5}}", "{ \"sa\": { \"u\": { \"b\": 5 } } }"},
        {"{'al': {'n': 2, 'u0': 7, 's1': {'ux': 1}, 'a1': {'u0': 2}}}",
         "{ \"sl\": { \"a\": true, \"l\": 2, \"u0\": 7, \"s1\": { \"u\": { \"x\": 1 } }, \"s1\": { "
         "\"a\": true, \"u0\": 2 } } }"},
        {"{'al': {'x0': 1}}", NULL},
        {"{'sa': 1}", NULL},
    };
    vd_arena_t *arena = vd_arena_create();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_bb_t bb;
        vd_bson_t diff;
        vd_bb_init_arena(&bb, arena, 1 << 20);
        bool ok = stor_oplog_diff(&bb, query_json(arena, cases[i][0]));
        cr_assert_eq(ok, cases[i][1] != NULL, "%s", cases[i][0]);
        if (!ok)
            continue;
        cr_assert_eq(vd_bb_finish(&bb, &diff, NULL), VD_OK);
        cr_assert_str_eq(vd_bson_to_json(arena, diff, 2000), cases[i][1]);
    }
    vd_arena_destroy(&arena);
}
