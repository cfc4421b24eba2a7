/* tests/unit/storaged/test_transactions_role.c — transactions and snapshots in a replica set: they
 * end with the role; commits wait for the majority; who knows of no commit makes sure first. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/pins.h"
#include "veddb-storaged/replication/positions.h"
#include "veddb-storaged/transactions.h"

#define FIRST  ", 'startTransaction': true, 'autocommit': false}"
#define NEXT   ", 'autocommit': false}"
#define COMMIT "{'commitTransaction': 1" NEXT

static reads_t *set_open(void)
{
    reads_t *reads = reads_open();
    stor_storage_t *storage = &reads->storage;
    vd_error_t err = VD_ERROR_INIT;
    storage->settings.replicated = true;
    storage->settings.node_name = "a";
    reads_ok(stor_replication_open(storage, false, &storage->replication, &err), &err);
    return reads;
}

static void set_close(reads_t *reads)
{
    stor_pins_end(&reads->storage, NULL, NULL);
    stor_replication_close(&reads->storage.replication);
    reads_close(reads);
}

static void role(reads_t *reads, uint64_t term, int role_, const char *leader)
{
    stor_session_t *session;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t newest;
    reads_ok(stor_session_open(reads->storage.engine, &session, &err), &err);
    reads_ok(stor_replication_role_set(&reads->storage, session, term, role_, vd_slice_str(leader),
                                       &newest, &err),
             &err);
    stor_session_close(&session);
}

static void run(reads_t *reads, int64_t number, const char *command, int code, int wait)
{
    reads->txn_number = number;
    int rc = reads_run(reads, strstr(command, "Transaction': 1") != NULL ? "admin" : "db", command);
    reads->txn_number = 0;
    cr_assert_eq(rc, code, "%s: %s", command, reads_text(reads));
    cr_assert_eq(reads->request.wait.kind, wait, "%s waits for %d", command,
                 reads->request.wait.kind);
}

Test(transactions_role, they_end_with_it)
{
    reads_t *reads = set_open();
    role(reads, 3, VDP_ROLE_PRIMARY, "a");
    reads_session(reads, "ann@admin", 1);
    run(reads, 1, "{'insert': 'c', 'documents': [{'_id': 1}]" FIRST, VD_OK, STOR_WAIT_NOTHING);
    run(reads, 0, "{'find': 'c', 'readConcern': {'level': 'snapshot'}}", VD_OK, STOR_WAIT_MAJORITY);
    cr_assert_eq(stor_pins_count(&reads->storage), 1);
    role(reads, 4, VDP_ROLE_SECONDARY, "b");
    cr_assert_eq(stor_transactions_open(&reads->storage), 0);
    cr_assert_eq(stor_pins_count(&reads->storage), 0);
    run(reads, 1, "{'find': 'c'" NEXT, VD_ERR_NOT_WRITABLE_PRIMARY, STOR_WAIT_NOTHING);
    run(reads, 1, COMMIT, VD_ERR_NOT_WRITABLE_PRIMARY, STOR_WAIT_NOTHING);
    role(reads, 5, VDP_ROLE_PRIMARY, "a");
    /* The answer is an entry of this term on a majority. */
    uint64_t before = stor_engine_newest(reads->storage.engine);
    run(reads, 1, COMMIT, VD_ERR_NO_SUCH_TRANSACTION, STOR_WAIT_WRITE);
    cr_assert_gt(reads->request.operation_time, before);
    cr_assert_eq(reads->request.depends_on, reads->request.operation_time);
    run(reads, 1, "{'find': 'c'" NEXT, VD_ERR_NO_SUCH_TRANSACTION, STOR_WAIT_NOTHING);
    set_close(reads);
}

Test(transactions_role, a_commit_waits_for_the_majority)
{
    reads_t *reads = set_open();
    role(reads, 3, VDP_ROLE_PRIMARY, "a");
    reads_session(reads, "ann@admin", 1);
    run(reads, 1,
        "{'insert': 'c', 'documents': [{'_id': 1}], 'readConcern': {'level': 'majority'}" FIRST,
        VD_OK, STOR_WAIT_NOTHING);
    run(reads, 1, COMMIT, VD_OK, STOR_WAIT_WRITE);
    uint64_t committed = reads->request.depends_on;
    cr_assert_eq(committed, reads->request.operation_time);
    run(reads, 1, COMMIT, VD_OK, STOR_WAIT_WRITE); /* asked again: for the same */
    cr_assert_eq(reads->request.depends_on, committed);
    run(reads, 1, "{'commitTransaction': 1, 'writeConcern': {'w': 1}" NEXT, VD_OK,
        STOR_WAIT_NOTHING);
    /* What was only read is on a majority too. */
    run(reads, 2, "{'find': 'c'" FIRST, VD_OK, STOR_WAIT_NOTHING);
    run(reads, 2, COMMIT, VD_OK, STOR_WAIT_WRITE);
    cr_assert_geq(reads->request.depends_on, committed);
    reads_crash(reads); /* a new start knows of the commit by its row */
    vd_error_t err = VD_ERROR_INIT;
    stor_replication_close(&reads->storage.replication);
    reads_ok(stor_replication_open(&reads->storage, false, &reads->storage.replication, &err),
             &err);
    role(reads, 4, VDP_ROLE_PRIMARY, "a");
    run(reads, 1, COMMIT, VD_OK, STOR_WAIT_WRITE);
    cr_assert_eq(reads->request.depends_on, committed);
    set_close(reads);
}
