/* tests/unit/storaged/test_transactions_threads.c — many threads move money between accounts, each
 * in its own session; others look at all accounts at once, or end what is open. */
#include "tests/unit/storaged/reads_support.h"
#include "veddb-storaged/transactions.h"

#define THREADS  4
#define ACCOUNTS 8
#define ROUNDS   120

typedef struct {
    reads_t *reads;
    uint8_t id;
    uint32_t committed, looked, failed;
} mover_t;

typedef struct {
    mover_t *mover;
    stor_session_t *session;
    vd_arena_t *arena;
    stor_request_t request;
    vd_arena_t *texts;
    int64_t number;
} client_t;

static int command(client_t *client, const char *db, const char *text)
{
    stor_request_t *request = &client->request;
    vd_slice_t name;
    vd_value_t value;
    static const uint8_t user[32];
    uint8_t lsid[16];
    vd_arena_reset(client->arena);
    stor_request_init(request, &client->mover->reads->storage, client->arena);
    vd_bson_t body = query_json(client->texts, text);
    cr_assert(vd_bson_first(body, &name, &value));
    memset(lsid, client->mover->id, sizeof lsid);
    request->command.db = request->db = vd_slice_str(db);
    request->command.user = VD_SLICE_LIT("ann@admin");
    request->command.flags = VDP_COMMAND_ALL_USERS;
    request->command.name = name;
    request->command.lsid = vd_slice(lsid, sizeof lsid);
    request->command.lsid_user = vd_slice(user, sizeof user);
    request->command.txn_number = client->number;
    request->sections.body = body;
    stor_registry_add(request);
    stor_request_run(request, client->session);
    stor_registry_remove(request);
    cr_assert_eq(request->held_count, 0);
    cr_assert_not(stor_txn_active(client->session));
    return request->status;
}

static bool is_again(int rc)
{
    return rc == VD_ERR_WRITE_CONFLICT || rc == VD_ERR_NO_SUCH_TRANSACTION ||
           rc == VD_ERR_INTERRUPTED; /* never of age */
}

static int64_t sum_of(const client_t *client)
{
    int64_t sum = 0, n;
    vd_bson_iter_t iter;
    vd_bson_iter_init(&iter,
                      vd_value_document(vd_bson_get_path(client->request.reply_document,
                                                         VD_SLICE_LIT("cursor.firstBatch"))));
    while (vd_bson_iter_next(&iter)) {
        cr_assert(vd_value_as_int64(vd_bson_get(vd_value_document(iter.value), "a"), &n));
        sum += n;
    }
    return sum;
}

/* From one account to another, then all are looked at: in this snapshot the sum holds. */
static int transfer(client_t *client, uint32_t round)
{
    char text[300];
    uint32_t from = (round * 7 + client->mover->id) % ACCOUNTS,
             to = (from + 1 + round % 3) % ACCOUNTS;
    client->number++;
    snprintf(text, sizeof text,
             "{'update': 'c', 'updates': [{'q': {'_id': %u}, 'u': {'$inc': {'a': -3}}}], "
             "'startTransaction': true, 'autocommit': false}",
             from);
    int rc = command(client, "db", text);
    snprintf(text, sizeof text,
             "{'update': 'c', 'updates': [{'q': {'_id': %u}, 'u': {'$inc': {'a': 3}}}], "
             "'autocommit': false}",
             to);
    if (rc == VD_OK)
        rc = command(client, "db", text);
    if (rc == VD_OK)
        rc = command(client, "db", "{'find': 'c', 'autocommit': false}");
    if (rc == VD_OK)
        cr_assert_eq(sum_of(client), ACCOUNTS * 100);
    client->mover->looked += rc == VD_OK;
    return rc == VD_OK ? command(client, "admin", "{'commitTransaction': 1, 'autocommit': false}")
                       : rc;
}

static void *mover_run(void *context)
{
    mover_t *mover = context;
    client_t client = {.mover = mover, .arena = vd_arena_create(), .texts = vd_arena_create()};
    vd_error_t err = VD_ERROR_INIT;
    reads_ok(stor_session_open(mover->reads->storage.engine, &client.session, &err), &err);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        int rc = transfer(&client, round);
        cr_assert(rc == VD_OK || is_again(rc), "%d", rc);
        mover->committed += rc == VD_OK;
        mover->failed += rc != VD_OK;
        vd_arena_reset(client.texts);
    }
    stor_session_close(&client.session);
    vd_arena_destroy(&client.arena);
    vd_arena_destroy(&client.texts);
    return NULL;
}

static atomic_bool over;

/* Ends them now and then, also in the middle of a statement. */
static void *killer_run(void *context)
{
    reads_t *reads = context;
    while (!atomic_load(&over)) {
        (void)stor_transactions_kill(&reads->storage, VD_ERR_INTERRUPTED, NULL, NULL);
        stor_transactions_expire(&reads->storage);
        usleep(3000);
    }
    return NULL;
}

Test(transactions_threads, money_is_neither_made_nor_lost)
{
    pthread_t threads[THREADS], killer;
    mover_t movers[THREADS];
    reads_t *reads = reads_open();
    uint32_t committed = 0;
    stor_transactions_stats_t stats;
    reads_insert(reads, "db", "c",
                 query_json(reads->texts,
                            "[{'_id': 0, 'a': 100}, {'_id': 1, 'a': 100}, {'_id': 2, 'a': 100}, "
                            "{'_id': 3, 'a': 100}, {'_id': 4, 'a': 100}, {'_id': 5, 'a': 100}, "
                            "{'_id': 6, 'a': 100}, {'_id': 7, 'a': 100}]"));
    for (int i = 0; i < THREADS; i++) {
        movers[i] = (mover_t){.reads = reads, .id = (uint8_t)(i + 1)};
        cr_assert_eq(pthread_create(&threads[i], NULL, mover_run, &movers[i]), 0);
    }
    cr_assert_eq(pthread_create(&killer, NULL, killer_run, reads), 0);
    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        committed += movers[i].committed;
    }
    atomic_store(&over, true);
    cr_assert_eq(pthread_join(killer, NULL), 0);
    (void)stor_transactions_kill(&reads->storage, VD_ERR_INTERRUPTED, NULL, NULL);
    stor_transactions_stats(&reads->storage, &stats);
    cr_assert_eq(stats.open + stats.active + stats.bytes, 0);
    cr_assert_eq(stats.committed, committed);
    cr_assert_gt(committed, 0);
    cr_assert_eq(reads_run(reads, "db", "{'validate': 'c', 'full': true}"), VD_OK);
    reads_expect(reads, "validate", "{'valid': true, 'nrecords': 8}");
    cr_assert_eq(reads_run(reads, "db",
                           "{'aggregate': 'c', 'pipeline': [{'$group': {'_id': null, "
                           "'sum': {'$sum': '$a'}}}], 'cursor': {}}"),
                 VD_OK);
    reads_expect(reads, "sum", "{'cursor.firstBatch': [{'_id': null, 'sum': 800}]}");
    reads_close(reads);
}
