/* tests/unit/storaged/test_session_commands.c — startSession ... killAllSessionsByPattern, and the
 * refusal of transactions: replies, malformed sessions, and who may end whose. */
#include "tests/unit/storaged/reads_support.h"

#include <openssl/evp.h>

static const char *binary(reads_t *reads, const uint8_t *bytes, size_t len, const char *subtype)
{
    unsigned char text[100];
    cr_assert_lt(len, 60);
    (void)EVP_EncodeBlock(text, bytes, (int)len);
    return vd_arena_printf(reads->texts, "{'$binary': {'base64': '%s', 'subType': '%s'}}", text,
                           subtype);
}

/* The id of the session of that number: 16 times the byte. */
static const char *id_of(reads_t *reads, uint8_t number)
{
    uint8_t id[16];
    memset(id, number, sizeof id);
    return binary(reads, id, sizeof id, "04");
}

static const char *uid_of(reads_t *reads, const char *user)
{
    stor_session_key_t key = stor_session_key(VD_SLICE_NULL, vd_slice_str(user));
    return binary(reads, key.bytes + 16, 32, "00");
}

static stor_session_key_t key_of(const char *user, uint8_t number)
{
    uint8_t id[16];
    memset(id, number, sizeof id);
    return stor_session_key(vd_slice(id, sizeof id), vd_slice_str(user));
}

/* The next commands come from this user, in the session of that number (0 = in none). */
static void as(reads_t *reads, const char *user, uint8_t number, bool all_users)
{
    stor_session_key_t key = key_of(user, number);
    memcpy(reads->lsid, key.bytes, 16);
    memcpy(reads->lsid_user, key.bytes + 16, 32);
    reads->user = user;
    reads->in_session = number != 0;
    reads->flags = all_users ? VDP_COMMAND_ALL_USERS : 0;
}

static int run(reads_t *reads, const char *command)
{
    return reads_run(reads, "admin", command);
}
#define RUN(reads, ...) run((reads), vd_arena_printf((reads)->texts, __VA_ARGS__))

static void fill(reads_t *reads)
{
    cr_assert_eq(reads_run(reads, "db",
                           "{'insert': 'c', 'documents': [{'_id': 1}, {'_id': 2}, {'_id': 3}]}"),
                 VD_OK);
}

/* An open cursor of that user's session. */
static int64_t open_cursor(reads_t *reads, const char *user, uint8_t number)
{
    as(reads, user, number, false);
    cr_assert_eq(reads_run(reads, "db", "{'find': 'c', 'batchSize': 1}"), VD_OK);
    int64_t id = vd_value_int64(reads_at(reads, "cursor.id"));
    cr_assert_neq(id, 0);
    return id;
}

static bool is_open(reads_t *reads, const char *user, uint8_t number, int64_t id)
{
    as(reads, user, number, false);
    int rc = reads_run(reads, "db",
                       vd_arena_printf(reads->texts,
                                       "{'getMore': {'$numberLong': '%lld'}, 'collection': 'c', "
                                       "'batchSize': 1}",
                                       (long long)id));
    cr_assert(rc == VD_OK || rc == VD_ERR_CURSOR_NOT_FOUND, "%s", reads_text(reads));
    return rc == VD_OK;
}

/* ---- start, refresh, end ---- */

Test(session_commands, start)
{
    reads_t *reads = reads_open();
    uint8_t first[16], subtype = 0;
    cr_assert_eq(RUN(reads, "{'startSession': 1}"), VD_OK);
    reads_expect(reads, "startSession", "{'timeoutMinutes': 30, 'ok': 1}");
    vd_slice_t id = vd_value_binary(reads_at(reads, "id.id"), &subtype);
    cr_assert_eq(id.len, 16);
    cr_assert_eq(subtype, 4);
    cr_assert_eq(id.data[6] >> 4, 4, "a random UUID");
    cr_assert_eq(id.data[8] >> 6, 2);
    memcpy(first, id.data, sizeof first);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    cr_assert_eq(reads_run(reads, "db", "{'startSession': 1, 'comment': 'x'}"), VD_OK);
    id = vd_value_binary(reads_at(reads, "id.id"), NULL);
    cr_assert_neq(memcmp(first, id.data, sizeof first), 0);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 2);
    cr_assert_eq(RUN(reads, "{'startSession': 1, 'foo': 1}"), VD_ERR_LOCATION(40415));
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 2);
    /* what was started is the asker's own */
    cr_assert_eq(RUN(reads, "{'endSessions': [{'id': %s}]}", binary(reads, first, 16, "04")),
                 VD_OK);
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 1);
    reads_close(reads);
}

Test(session_commands, refresh_and_end)
{
    reads_t *reads = reads_open();
    stor_sessions_t *sessions = reads->storage.sessions;
    as(reads, "ann@admin", 0, false);
    cr_assert_eq(RUN(reads, "{'refreshSessions': [{'id': %s}, {'id': %s}]}", id_of(reads, 1),
                     id_of(reads, 2)),
                 VD_OK);
    cr_assert_eq(stor_sessions_count(sessions), 2, "made when they are not known");
    cr_assert_eq(RUN(reads, "{'refreshSessions': [{'id': %s}]}", id_of(reads, 1)), VD_OK);
    cr_assert_eq(stor_sessions_count(sessions), 2);
    cr_assert_eq(RUN(reads, "{'refreshSessions': []}"), VD_OK);
    cr_assert_eq(RUN(reads, "{'endSessions': []}"), VD_OK);
    cr_assert_eq(stor_sessions_count(sessions), 2);
    cr_assert_eq(
        RUN(reads, "{'endSessions': [{'id': %s}, {'id': %s}]}", id_of(reads, 9), id_of(reads, 2)),
        VD_OK, "one that is not known is no error");
    cr_assert_eq(stor_sessions_count(sessions), 1);
    cr_assert_eq(
        RUN(reads, "{'endSessions': [{'id': %s}], 'lsid': {'id': 1}, '$db': 'x'}", id_of(reads, 1)),
        VD_OK);
    cr_assert_eq(stor_sessions_count(sessions), 0);
    reads_close(reads);
}

Test(session_commands, the_end_ends_cursors_and_results)
{
    static const char insert[] = "{'insert': 'c', 'documents': [{'_id': 'retried'}]}";
    reads_t *reads = reads_open();
    fill(reads);
    int64_t ended = open_cursor(reads, "ann@admin", 1), other = open_cursor(reads, "ann@admin", 2),
            of_bob = open_cursor(reads, "bob@admin", 1);
    as(reads, "ann@admin", 1, false);
    reads->txn_number = 5;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(reads_run(reads, "db", insert), VD_OK);
        reads_expect(reads, insert, "{'n': 1, 'writeErrors': null}");
    }
    reads->txn_number = 0;
    as(reads, "ann@admin", 0, false);
    cr_assert_eq(RUN(reads, "{'endSessions': [{'id': %s}]}", id_of(reads, 1)), VD_OK);
    cr_assert_not(is_open(reads, "ann@admin", 1, ended));
    cr_assert(is_open(reads, "ann@admin", 2, other));
    cr_assert(is_open(reads, "bob@admin", 1, of_bob), "the same id of another user");
    /* the result is forgotten: the same number is a new write now */
    as(reads, "ann@admin", 1, false);
    reads->txn_number = 5;
    cr_assert_eq(reads_run(reads, "db", insert), VD_OK);
    reads_expect(reads, insert, "{'n': 0, 'writeErrors.0.code': 11000}");
    reads_close(reads);
}

/* ---- malformed ---- */

Test(session_commands, malformed)
{
    static const char *const commands[] = {"refreshSessions", "endSessions", "killSessions"};
    static const struct {
        const char *session;
        int code;
    } cases[] = {
        {"1", VD_ERR_TYPE_MISMATCH},
        {"{}", VD_ERR_LOCATION(40414)},
        {"{'id': null}", VD_ERR_TYPE_MISMATCH},
        {"{'id': 'x'}", VD_ERR_TYPE_MISMATCH},
        {"{'id': {'$binary': {'base64': 'AAAAAAAAAAAAAAAAAAAAAA==', 'subType': '00'}}}",
         VD_ERR_TYPE_MISMATCH},
        {"{'id': {'$binary': {'base64': 'AAAAAAAAAAAAAAAAAAAAAA==', 'subType': '03'}}}",
         VD_ERR_TYPE_MISMATCH},
        {"{'id': {'$binary': {'base64': 'AAAA', 'subType': '04'}}}", VD_ERR_INVALID_UUID},
        {"{'id': {'$binary': {'base64': '', 'subType': '04'}}}", VD_ERR_INVALID_UUID},
        {"{'id': {'$binary': {'base64': 'AAAAAAAAAAAAAAAAAAAAAA==', 'subType': '04'}}, 'foo': 1}",
         VD_ERR_LOCATION(40415)},
        {"{'id': {'$binary': {'base64': 'AAAAAAAAAAAAAAAAAAAAAA==', 'subType': '04'}}, 'uid': 1}",
         VD_ERR_TYPE_MISMATCH},
        {"{'id': {'$binary': {'base64': 'AAAAAAAAAAAAAAAAAAAAAA==', 'subType': '04'}}, 'uid': "
         "{'$binary': {'base64': 'AAAA', 'subType': '00'}}}",
         VD_ERR_TYPE_MISMATCH},
    };
    reads_t *reads = reads_open();
    fill(reads);
    int64_t id = open_cursor(reads, "ann@admin", 1);
    as(reads, "ann@admin", 0, true);
    uint64_t known = stor_sessions_count(reads->storage.sessions);
    for (size_t i = 0; i < VD_COUNT_OF(commands); i++) {
        for (size_t k = 0; k < VD_COUNT_OF(cases); k++)
            cr_assert_eq(RUN(reads, "{'%s': [{'id': %s}, %s]}", commands[i], id_of(reads, 1),
                             cases[k].session),
                         cases[k].code, "%s %s: %s", commands[i], cases[k].session,
                         reads_text(reads));
        cr_assert_eq(RUN(reads, "{'%s': 1}", commands[i]), VD_ERR_TYPE_MISMATCH);
        cr_assert_eq(RUN(reads, "{'%s': {'id': 1}}", commands[i]), VD_ERR_TYPE_MISMATCH);
        cr_assert_eq(RUN(reads, "{'%s': [], 'foo': 1}", commands[i]), VD_ERR_LOCATION(40415));
        cr_assert_eq(RUN(reads, "{'%s': [], 'unused': 1}", commands[i]), VD_ERR_LOCATION(40415));
    }
    /* all are looked at before any is touched */
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), known);
    cr_assert(is_open(reads, "ann@admin", 1, id));
    reads_close(reads);
}

Test(session_commands, too_many_at_once)
{
    reads_t *reads = reads_open();
    vd_bb_t bb;
    vd_bson_t body;
    char name[12];
    for (uint32_t count = 10000; count <= 10001; count++) {
        vd_bb_init(&bb, 16 << 20);
        vd_bb_begin_array(&bb, "refreshSessions");
        for (uint32_t i = 0; i < count; i++) {
            uint8_t id[16] = {1};
            memcpy(id + 4, &i, sizeof i);
            vd_bb_open_document(&bb, vd_array_name(i, name));
            vd_bb_binary(&bb, "id", 4, vd_slice(id, sizeof id));
            vd_bb_close(&bb);
        }
        vd_bb_close(&bb);
        cr_assert_eq(vd_bb_finish(&bb, &body, NULL), VD_OK);
        reads_begin(reads, "admin");
        reads->request.command.name = VD_SLICE_LIT("refreshSessions");
        reads->request.sections.body = body;
        stor_request_run(&reads->request, reads->session);
        cr_assert_eq(reads->request.status, count <= 10000 ? VD_OK : VD_ERR_BAD_VALUE);
        vd_bb_done(&bb);
    }
    cr_assert_eq(stor_sessions_count(reads->storage.sessions), 10000);
    reads_close(reads);
}

/* ---- who may end whose ---- */

Test(session_commands, those_of_others)
{
    static const char *const commands[] = {"refreshSessions", "endSessions", "killSessions"};
    reads_t *reads = reads_open();
    fill(reads);
    for (size_t i = 0; i < VD_COUNT_OF(commands); i++) {
        int64_t id = open_cursor(reads, "bob@admin", 1);
        const char *command =
            vd_arena_printf(reads->texts, "{'%s': [{'id': %s, 'uid': %s}]}", commands[i],
                            id_of(reads, 1), uid_of(reads, "bob@admin"));
        as(reads, "ann@admin", 0, false);
        cr_assert_eq(run(reads, command), VD_ERR_UNAUTHORIZED, "%s", command);
        cr_assert(is_open(reads, "bob@admin", 1, id));
        as(reads, "ann@admin", 0, true);
        cr_assert_eq(run(reads, command), VD_OK);
        if (i > 0)
            cr_assert_not(is_open(reads, "bob@admin", 1, id), "%s", command);
        as(reads, "bob@admin", 0, false);
        cr_assert_eq(run(reads, command), VD_OK, "one's own, by digest");
    }
    reads_close(reads);
}

/* ---- kill ---- */

enum { ANN1, ANN2, BOB1, BOB3, NOBODY, ALL_COUNT };

typedef struct {
    reads_t *reads;
    int64_t cursors[ALL_COUNT];
    stor_request_t *running[ALL_COUNT];
} many_t;

static const struct {
    const char *user;
    uint8_t session;
} owners[ALL_COUNT] = {
    {"ann@admin", 1}, {"ann@admin", 2}, {"bob@admin", 1}, {"bob@admin", 3}, {"ann@admin", 0},
};

/* A cursor and an operation in flight for each owner. */
static void many_start(many_t *many)
{
    stor_storage_t *storage = &many->reads->storage;
    for (int i = 0; i < ALL_COUNT; i++) {
        many->cursors[i] = open_cursor(many->reads, owners[i].user, owners[i].session);
        stor_request_t *request = many->running[i] = calloc(1, sizeof *request);
        stor_request_init(request, storage, NULL);
        request->command.user = vd_slice_str(owners[i].user);
        stor_session_key_t *key = vd_arena_alloc(many->reads->texts, sizeof *key);
        *key = key_of(owners[i].user, owners[i].session);
        if (owners[i].session != 0) {
            request->command.lsid = vd_slice(key->bytes, 16);
            request->command.lsid_user = vd_slice(key->bytes + 16, 32);
        }
        stor_registry_add(request);
    }
}

/* Ends them, and says which had been killed, as bits. The two kinds must agree. */
static unsigned many_end(many_t *many)
{
    unsigned killed = 0;
    for (int i = 0; i < ALL_COUNT; i++) {
        bool open = is_open(many->reads, owners[i].user, owners[i].session, many->cursors[i]);
        bool stopped = atomic_load(&many->running[i]->killed) == VD_ERR_INTERRUPTED;
        cr_assert_eq(open, !stopped, "%s %d: the cursor is %s", owners[i].user, owners[i].session,
                     open ? "open" : "gone");
        killed |= (unsigned)stopped << i;
        stor_registry_remove(many->running[i]);
        free(many->running[i]);
        if (open) {
            cr_assert_eq(reads_run(many->reads, "db",
                                   vd_arena_printf(many->reads->texts,
                                                   "{'killCursors': 'c', 'cursors': "
                                                   "[{'$numberLong': '%lld'}]}",
                                                   (long long)many->cursors[i])),
                         VD_OK);
        }
    }
    return killed;
}

Test(session_commands, kill)
{
    reads_t *reads = reads_open();
    many_t many = {.reads = reads};
    const char *bob = uid_of(reads, "bob@admin");
    fill(reads);
#define BIT(who) (1u << (who))
#define ALL_ANN  (BIT(ANN1) | BIT(ANN2))
#define ALL_BOB  (BIT(BOB1) | BIT(BOB3))
#define KILLS(all, command, expected)                                                              \
    {                                                                                              \
        (all), (command), (expected)                                                               \
    }
    const struct {
        bool all_users;
        const char *command;
        unsigned expected;
    } cases[] = {
        KILLS(false,
              vd_arena_printf(reads->texts, "{'killSessions': [{'id': %s}]}", id_of(reads, 1)),
              BIT(ANN1)),
        KILLS(false,
              vd_arena_printf(reads->texts,
                              "{'killSessions': [{'id': %s}, {'id': %s}, {'id': %s}]}",
                              id_of(reads, 1), id_of(reads, 2), id_of(reads, 3)),
              ALL_ANN),
        KILLS(false, "{'killSessions': []}", ALL_ANN),
        KILLS(true, "{'killSessions': []}", ALL_ANN),
        KILLS(true,
              vd_arena_printf(reads->texts, "{'killSessions': [{'id': %s, 'uid': %s}]}",
                              id_of(reads, 1), bob),
              BIT(BOB1)),
        KILLS(true, "{'killAllSessions': []}", ALL_ANN | ALL_BOB),
        KILLS(true, "{'killAllSessions': [{'user': 'bob', 'db': 'admin'}]}", ALL_BOB),
        KILLS(true, "{'killAllSessions': [{'user': 'bob', 'db': 'test'}]}", 0),
        KILLS(true,
              "{'killAllSessions': [{'user': 'bob', 'db': 'admin'}, {'user': 'ann', 'db': "
              "'admin'}]}",
              ALL_ANN | ALL_BOB),
        KILLS(true, "{'killAllSessionsByPattern': []}", ALL_ANN | ALL_BOB),
        KILLS(true, "{'killAllSessionsByPattern': [{}]}", ALL_ANN | ALL_BOB),
        KILLS(true,
              vd_arena_printf(reads->texts, "{'killAllSessionsByPattern': [{'uid': %s}]}", bob),
              ALL_BOB),
        KILLS(true,
              vd_arena_printf(reads->texts,
                              "{'killAllSessionsByPattern': [{'lsid': {'id': %s, 'uid': %s}}]}",
                              id_of(reads, 3), bob),
              BIT(BOB3)),
        KILLS(true, "{'killAllSessionsByPattern': [{'users': [{'user': 'ann', 'db': 'admin'}]}]}",
              ALL_ANN),
        KILLS(true, "{'killAllSessionsByPattern': [{'users': []}]}", 0),
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        many_start(&many);
        as(reads, "ann@admin", 0, cases[i].all_users);
        cr_assert_eq(run(reads, cases[i].command), VD_OK, "%s: %s", cases[i].command,
                     reads_text(reads));
        unsigned killed = many_end(&many);
        cr_assert_eq(killed, cases[i].expected, "%s: %x, not %x", cases[i].command, killed,
                     cases[i].expected);
    }
    reads_close(reads);
}

Test(session_commands, kill_refusals)
{
    reads_t *reads = reads_open();
    many_t many = {.reads = reads};
    fill(reads);
    const struct {
        bool all_users;
        const char *command;
        int code;
    } cases[] = {
        {false, "{'killAllSessions': []}", VD_ERR_UNAUTHORIZED},
        {false, "{'killAllSessions': [{'user': 'ann', 'db': 'admin'}]}", VD_ERR_UNAUTHORIZED},
        {false, "{'killAllSessionsByPattern': []}", VD_ERR_UNAUTHORIZED},
        {true, "{'killAllSessions': 1}", VD_ERR_TYPE_MISMATCH},
        {true, "{'killAllSessions': ['ann']}", VD_ERR_TYPE_MISMATCH},
        {true, "{'killAllSessions': [{'user': 'ann', 'db': 'admin'}, {'user': 'bob'}]}",
         VD_ERR_LOCATION(40414)},
        {true, "{'killAllSessions': [{'user': 'ann', 'db': 'admin', 'x': 1}]}",
         VD_ERR_LOCATION(40415)},
        {true, "{'killAllSessions': [{'user': 1, 'db': 'admin'}]}", VD_ERR_TYPE_MISMATCH},
        {true, "{'killAllSessions': [], 'x': 1}", VD_ERR_LOCATION(40415)},
        {true, "{'killAllSessionsByPattern': [{}, 1]}", VD_ERR_TYPE_MISMATCH},
        {true, "{'killAllSessionsByPattern': [{'foo': 1}]}", VD_ERR_LOCATION(40415)},
        {true, "{'killAllSessionsByPattern': [{'uid': 1}]}", VD_ERR_TYPE_MISMATCH},
        {true, "{'killAllSessionsByPattern': [{'lsid': {'foo': 1}}]}", VD_ERR_LOCATION(40415)},
        {true, "{'killAllSessionsByPattern': [{'lsid': 1}]}", VD_ERR_TYPE_MISMATCH},
        {true, "{'killAllSessionsByPattern': [{'users': [{'user': 'ann'}]}]}",
         VD_ERR_LOCATION(40414)},
        {true, "{'killAllSessionsByPattern': [{'roles': [{'role': 'root', 'db': 'admin'}]}]}",
         VD_ERR_NOT_IMPLEMENTED},
        {true,
         vd_arena_printf(reads->texts,
                         "{'killAllSessionsByPattern': [{'lsid': {'id': %s}, 'uid': %s}]}",
                         id_of(reads, 1), uid_of(reads, "bob@admin")),
         VD_ERR_BAD_VALUE},
    };
    many_start(&many);
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        as(reads, "ann@admin", 0, cases[i].all_users);
        cr_assert_eq(run(reads, cases[i].command), cases[i].code, "%s: %s", cases[i].command,
                     reads_text(reads));
    }
    cr_assert_eq(many_end(&many), 0, "a refused command kills nobody");
    reads_close(reads);
}

/* Who kills his own session is answered. */
Test(session_commands, the_killer_survives)
{
    reads_t *reads = reads_open();
    as(reads, "ann@admin", 1, true);
    cr_assert_eq(RUN(reads, "{'killSessions': [{'id': %s}]}", id_of(reads, 1)), VD_OK);
    cr_assert_eq(RUN(reads, "{'killAllSessions': []}"), VD_OK);
    cr_assert_eq(RUN(reads, "{'endSessions': [{'id': %s}]}", id_of(reads, 1)), VD_OK);
    reads_close(reads);
}
