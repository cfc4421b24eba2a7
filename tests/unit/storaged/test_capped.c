/* tests/unit/storaged/test_capped.c — capped collections: places, bounds, what validate finds, and
 * the same over a crash. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/capped.h"

static void run(reads_t *reads, const char *command, int code, const char *expected)
{
    reads_step_t step = {"db", command, expected, code, NULL};
    reads_script(reads, &step, 1);
}

Test(capped, envelopes_with_a_place)
{
    static const uint8_t empty[] = {5, 0, 0, 0, 0};
    const vd_bson_t document = {empty, sizeof empty};
    const struct {
        uint64_t version, place;
        size_t len;
        uint64_t expected;
    } cases[] = {{9, 0, 15, 9}, {9, 9, 15, 9}, {9, 4, 23, 4}, {UINT64_MAX, 1, 23, 1}};
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        uint8_t bytes[STOR_ENVELOPE_BYTES_MAX + sizeof empty];
        vd_bson_t read;
        uint64_t version;
        size_t len = stor_envelope_write_placed(bytes, cases[i].version, cases[i].place, document);
        cr_assert_eq(len, cases[i].len);
        cr_assert_eq(stor_envelope_read(vd_slice(bytes, len), &read, &version, NULL), VD_OK);
        cr_assert_eq(version, cases[i].version);
        cr_assert_eq(read.len, sizeof empty);
        cr_assert_eq(stor_envelope_place(vd_slice(bytes, len)), cases[i].expected);
        for (size_t cut = 0; cut < len; cut++)
            cr_assert_eq(stor_envelope_read(vd_slice(bytes, cut), &read, &version, NULL),
                         VD_ERR_CORRUPT);
        bytes[1] |= 2;
        cr_assert_eq(stor_envelope_read(vd_slice(bytes, len), &read, &version, NULL),
                     VD_ERR_CORRUPT);
    }
}

Test(capped, rows_of_the_order)
{
    uint8_t key[STOR_PLACE_BYTES], next[STOR_PLACE_BYTES];
    static const uint8_t value[] = {0, 'k'};
    uint64_t place;
    vd_slice_t record;
    stor_capped_key(0x0102030405060708u, key);
    stor_capped_key(0x0102030405060709u, next);
    cr_assert_lt(memcmp(key, next, sizeof key), 0);
    cr_assert_eq(stor_capped_row(vd_slice(key, 8), vd_slice(value, 2), &place, &record, NULL),
                 VD_OK);
    cr_assert_eq(place, 0x0102030405060708u);
    cr_assert(vd_slice_is(record, "k"));
    cr_assert_eq(stor_capped_row(vd_slice(key, 7), vd_slice(value, 2), &place, &record, NULL),
                 VD_ERR_CORRUPT);
    cr_assert_eq(stor_capped_row(vd_slice(key, 8), vd_slice(value, 1), &place, &record, NULL),
                 VD_ERR_CORRUPT);
}

Test(capped, order_and_bounds_over_a_crash)
{
    static const char *const order =
        "{'cursor.firstBatch': [{'_id': 3, 'a': 1}, {'_id': 9, 'a': 2}, {'_id': 1}]}";
    reads_t *reads = reads_open();
    run(reads, "{'create': 'c', 'capped': true, 'size': 4096, 'max': 3}", VD_OK, NULL);
    run(reads, "{'insert': 'c', 'documents': [{'_id': 5}, {'_id': 3}, {'_id': 9}]}", VD_OK,
        "{'n': 3}");
    run(reads,
        "{'update': 'c', 'updates': [{'q': {'_id': 3}, 'u': {'$set': {'a': 1}}}, {'q': "
        "{'_id': 9}, 'u': {'_id': 9, 'a': 2}}]}",
        VD_OK, "{'nModified': 2}");
    run(reads, "{'insert': 'c', 'documents': [{'_id': 1}]}", VD_OK, "{'n': 1}");
    run(reads, "{'find': 'c'}", VD_OK, order);
    reads_crash(reads);
    run(reads, "{'find': 'c'}", VD_OK, order);
    run(reads, "{'validate': 'c'}", VD_OK, "{'valid': true, 'nrecords': 3}");
    /* A refused insert removes nothing. */
    run(reads, "{'insert': 'c', 'documents': [{'_id': 9}]}", VD_OK, "{'n': 0}");
    run(reads, "{'find': 'c'}", VD_OK, order);
    run(reads, "{'find': 'c', 'sort': {'$natural': -1}, 'limit': 1}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 1}]}");
    run(reads, "{'find': 'c', 'sort': {'_id': 1}, 'limit': 1}", VD_OK,
        "{'cursor.firstBatch': [{'_id': 1}]}");
    run(reads, "{'drop': 'c'}", VD_OK, NULL);
    reads_close(reads);
}

/* The row of the order, or the document, of _id 2 goes: each is found. */
Test(capped, validate_finds_damage)
{
    for (int i = 0; i < 2; i++) {
        reads_t *reads = reads_open();
        stor_session_t *session = NULL;
        stor_cursor_t *order, *documents;
        vd_slice_t key, value, record;
        uint64_t place;
        vd_error_t err = VD_ERROR_INIT;
        run(reads, "{'create': 'c', 'capped': true, 'size': 4096}", VD_OK, NULL);
        run(reads, "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}]}", VD_OK, "{'n': 2}");
        stor_collection_t *collection = stor_catalog_next(reads->storage.catalog, 0);
        reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
        reads_ok(stor_txn_begin(session, &err), &err);
        reads_ok(stor_cursor_open(session, collection->capped.table, &order, &err), &err);
        reads_ok(stor_cursor_open(session, collection->table, &documents, &err), &err);
        reads_ok(stor_cursor_next(order, false, &key, &value, &err), &err);
        reads_ok(stor_capped_row(key, value, &place, &record, &err), &err);
        if (i == 0)
            reads_ok(stor_cursor_remove(documents, record, &err), &err);
        else
            reads_ok(stor_capped_remove(session, collection, place, &err), &err);
        (void)stor_txn_timestamp(session);
        reads_ok(stor_txn_commit(session, &err), &err);
        run(reads, "{'validate': 'c'}", VD_OK, "{'valid': false}");
        cr_assert(strstr(reads_text(reads), i == 0 ? "1 places without their document"
                                                   : "1 documents without their place") != NULL,
                  "%s", reads_text(reads));
        if (i == 0)
            run(reads, "{'find': 'c'}", VD_ERR_CORRUPT, NULL);
        stor_session_close(&session);
        stor_catalog_unreference(&collection);
        reads_close(reads);
    }
}
