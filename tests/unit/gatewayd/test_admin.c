/* tests/unit/gatewayd/test_admin.c — users, roles and the rest of the administrative surface,
 * through a whole gateway; what is stored has MongoDB's form. */
#include "libcommon/base/clock.h"
#include "tests/support/gate_fixture.h"
#include "veddb-gatewayd/bootstrap.h"
#include "veddb-gatewayd/recheck.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static gate_fixture_t fixture;
static gate_client_t client;
static vd_bson_t reply;

static void setup(void)
{
    gate_fixture_init(&fixture);
}

static void teardown(void)
{
    gate_client_close(&client);
    gate_fixture_done(&fixture);
}

TestSuite(admin, .init = setup, .fini = teardown, .timeout = 300);

static void start(void)
{
    gate_fixture_start(&fixture);
    gate_client_admin(&client, &fixture);
}

static vd_bb_t *begin(const char *command, const char *name)
{
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, command, name);
    return bb;
}

static void put_roles(vd_bb_t *bb, const char *role, const char *db)
{
    vd_bb_begin_array(bb, "roles");
    if (role != NULL && db == NULL)
        vd_bb_cstr(bb, "0", role);
    if (db != NULL) {
        vd_bb_begin_document(bb, "0");
        vd_bb_cstr(bb, "role", role);
        vd_bb_cstr(bb, "db", db);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
}

static int run(const char *db)
{
    cr_assert(gate_client_run(&client, db, &reply));
    return reply_ok(reply) ? 0 : reply_code(reply);
}

static int create_user(const char *db, const char *name, const char *password, const char *role,
                       const char *role_db)
{
    vd_bb_t *bb = begin("createUser", name);
    if (password != NULL)
        vd_bb_cstr(bb, "pwd", password);
    put_roles(bb, role, role_db);
    return run(db);
}

static int create_role(const char *db, const char *name, const char *resource_db,
                       const char *action, const char *inherits)
{
    vd_bb_t *bb = begin("createRole", name);
    vd_bb_begin_array(bb, "privileges");
    if (action != NULL) {
        vd_bb_begin_document(bb, "0");
        vd_bb_begin_document(bb, "resource");
        vd_bb_cstr(bb, "db", resource_db);
        vd_bb_cstr(bb, "collection", "");
        vd_bb_close(bb);
        vd_bb_begin_array(bb, "actions");
        vd_bb_cstr(bb, "0", action);
        vd_bb_close(bb);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    put_roles(bb, inherits, NULL);
    return run(db);
}

static vd_value_t at(const char *path)
{
    return vd_bson_get_path(reply, vd_slice_str(path));
}

static bool is(const char *path, const char *text)
{
    vd_value_t v = at(path);
    return v.type == VD_BSON_STRING && vd_slice_is(vd_value_string(v), text);
}

static uint32_t count(const char *path)
{
    vd_value_t v = at(path);
    return v.type == VD_BSON_ARRAY ? vd_bson_count(vd_value_document(v)) : 9999;
}

/* What somebody gets for a find on db.x: 0, or the code. */
static int find_as(const char *user_db, const char *user, const char *password, const char *db)
{
    gate_client_t other;
    vd_bson_t answer;
    cr_assert(gate_client_open(&other, fixture.settings.port));
    int rc = gate_client_login(&other, user_db, user, password);
    if (rc == 0) {
        cr_assert(gate_client_on(&other, db, "find", "x", &answer));
        rc = reply_code(answer);
    }
    gate_client_close(&other);
    return rc;
}

Test(admin, life_of_a_user)
{
    start();
    cr_expect_eq(create_user("test", "anna", "secret", "read", NULL), 0);
    cr_expect_eq(create_user("test", "anna", "secret", "read", NULL), 51003);
    cr_expect(reply_message_is(reply, "User \"anna@test\" already exists"));
    cr_expect_eq(find_as("test", "anna", "secret", "test"), 0);
    cr_expect_eq(find_as("test", "anna", "secret", "other"), 13);
    cr_expect_eq(find_as("test", "anna", "Secret", "test"), 18);

    (void)begin("usersInfo", "anna");
    cr_expect_eq(run("test"), 0);
    cr_expect(is("users.0._id", "test.anna"));
    cr_expect(is("users.0.user", "anna"));
    cr_expect(is("users.0.db", "test"));
    cr_expect(is("users.0.roles.0.role", "read"));
    cr_expect(is("users.0.roles.0.db", "test"));
    cr_expect(is("users.0.mechanisms.0", "SCRAM-SHA-256"));
    cr_expect_eq(at("users.0.userId").type, VD_BSON_BINARY);
    cr_expect_eq(at("users.0.credentials").type, VD_BSON_MISSING);

    vd_bb_t *bb = begin("grantRolesToUser", "anna");
    put_roles(bb, "readWrite", "other");
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(find_as("test", "anna", "secret", "other"), 0);
    bb = begin("revokeRolesFromUser", "anna");
    put_roles(bb, "read", NULL);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(find_as("test", "anna", "secret", "test"), 13);

    bb = begin("updateUser", "anna");
    vd_bb_cstr(bb, "pwd", "other");
    vd_bb_begin_document(bb, "customData");
    vd_bb_int32(bb, "desk", 7);
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(find_as("test", "anna", "secret", "other"), 18);
    cr_expect_eq(find_as("test", "anna", "other", "other"), 0);
    bb = begin("usersInfo", "anna");
    vd_bb_bool(bb, "showCredentials", true);
    vd_bb_bool(bb, "showPrivileges", true);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(at("users.0.customData.desk").type, VD_BSON_INT32);
    cr_expect_eq(at("users.0.credentials.SCRAM-SHA-256.storedKey").type, VD_BSON_STRING);
    cr_expect(is("users.0.inheritedRoles.0.role", "readWrite"));
    cr_expect(is("users.0.inheritedPrivileges.0.resource.db", "other"));

    (void)begin("dropUser", "anna");
    cr_expect_eq(run("test"), 0);
    (void)begin("dropUser", "anna");
    cr_expect_eq(run("test"), 11);
    cr_expect(reply_message_is(reply, "User 'anna@test' not found"));
    cr_expect_eq(find_as("test", "anna", "other", "other"), 18);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 1);
}

Test(admin, open_connections_feel_changes_at_once)
{
    gate_client_t other;
    vd_bson_t answer;
    start();
    cr_expect_eq(create_user("test", "anna", "secret", "read", NULL), 0);
    cr_assert(gate_client_open(&other, fixture.settings.port));
    cr_assert_eq(gate_client_login(&other, "test", "anna", "secret"), 0);
    cr_assert(gate_client_on(&other, "test", "find", "x", &answer));
    cr_expect(reply_ok(answer));
    cr_assert(gate_client_on(&other, "test", "insert", "x", &answer));
    cr_expect_eq(reply_code(answer), 13);
    vd_bb_t *bb = begin("grantRolesToUser", "anna");
    put_roles(bb, "readWrite", NULL);
    cr_expect_eq(run("test"), 0);
    cr_assert(gate_client_on(&other, "test", "insert", "x", &answer));
    cr_expect(reply_ok(answer));
    (void)begin("dropUser", "anna");
    cr_expect_eq(run("test"), 0);
    cr_assert(gate_client_on(&other, "test", "find", "x", &answer));
    cr_expect_eq(reply_code(answer), 13);
    gate_client_close(&other);
}

/* ---- what is under way when rights change ---- */

typedef enum {
    CHANGE_DROP,
    CHANGE_PASSWORD,
    CHANGE_ROLES,
    CHANGE_REVOKE,
    CHANGE_INHERITED,
    CHANGE_OTHER_PRIVILEGE,
    CHANGE_MORE,
    CHANGE_CUSTOM_DATA,
    CHANGE_SOMEBODY_ELSE,
} change_t;

/* Of anna@test, who has readWrite on test and the role "looker", which reads the database far. */
static void change_rights(change_t change)
{
    vd_bb_t *bb = NULL;
    static const char *const commands[] = {
        "dropUser", "updateUser", "updateUser",       "revokeRolesFromUser",
        "dropRole", "dropRole",   "grantRolesToUser", "updateUser",
        "dropUser"};
    bool role = change == CHANGE_INHERITED || change == CHANGE_OTHER_PRIVILEGE;
    bb = begin(commands[change], role                             ? "looker"
                                 : change == CHANGE_SOMEBODY_ELSE ? "bert"
                                                                  : "anna");
    if (change == CHANGE_PASSWORD)
        vd_bb_cstr(bb, "pwd", "other");
    if (change == CHANGE_ROLES)
        put_roles(bb, "dbAdmin", NULL);
    if (change == CHANGE_REVOKE)
        put_roles(bb, "readWrite", NULL);
    if (change == CHANGE_MORE)
        put_roles(bb, "dbAdmin", NULL);
    if (change == CHANGE_CUSTOM_DATA) {
        vd_bb_begin_document(bb, "customData");
        vd_bb_close(bb);
    }
    cr_assert_eq(run(role ? "admin" : "test"), 0);
}

static void send_under_way(gate_client_t *other, const char *db, const char *command)
{
    uint32_t before = fake_storage_count(fixture.storage, command);
    fake_storage_silence(fixture.storage, command);
    vd_bb_t *bb = gate_client_begin(other);
    if (strcmp(command, "getMore") == 0) {
        vd_bb_int64(bb, "getMore", 12);
        vd_bb_cstr(bb, "collection", "x");
    } else {
        vd_bb_cstr(bb, command, "x");
    }
    cr_assert(gate_client_send(other, db, 0));
    while (fake_storage_count(fixture.storage, command) == before)
        (void)usleep(1000);
}

static void make_anna(gate_client_t *other)
{
    cr_assert_eq(create_role("admin", "looker", "far", "find", NULL), 0);
    vd_bb_t *bb = begin("createUser", "anna");
    vd_bb_cstr(bb, "pwd", "secret");
    vd_bb_begin_array(bb, "roles");
    vd_bb_cstr(bb, "0", "readWrite");
    vd_bb_begin_document(bb, "1");
    vd_bb_cstr(bb, "role", "looker");
    vd_bb_cstr(bb, "db", "admin");
    vd_bb_close(bb);
    vd_bb_close(bb);
    cr_assert_eq(run("test"), 0);
    cr_assert_eq(create_user("test", "bert", "secret", "read", NULL), 0);
    cr_assert(gate_client_open(other, fixture.settings.port));
    cr_assert_eq(gate_client_login(other, "test", "anna", "secret"), 0);
}

Test(admin, what_is_under_way_ends_with_the_right_to_it)
{
    static const struct {
        change_t change;
        const char *db, *command;
        bool ends, told; /* told: the late answer reaches the client */
    } cases[] = {
        {CHANGE_DROP, "test", "getMore", true, false},
        {CHANGE_DROP, "test", "find", true, false},
        {CHANGE_PASSWORD, "test", "getMore", true, false},
        {CHANGE_ROLES, "test", "getMore", true, false},
        {CHANGE_ROLES, "test", "find", true, false},
        {CHANGE_REVOKE, "test", "find", true, false},
        {CHANGE_INHERITED, "far", "find", true, false},
        /* its cursor may read what the role gave; a find names all that it reads */
        {CHANGE_OTHER_PRIVILEGE, "test", "getMore", true, false},
        {CHANGE_OTHER_PRIVILEGE, "test", "find", false, true},
        {CHANGE_MORE, "test", "getMore", false, true},
        {CHANGE_CUSTOM_DATA, "test", "getMore", false, true},
        {CHANGE_SOMEBODY_ELSE, "test", "getMore", false, true},
        {CHANGE_DROP, "test", "insert", true, true}, /* it was done */
    };
    start();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_client_t other;
        vd_bson_t answer;
        make_anna(&other);
        uint32_t closed = fake_storage_closed(fixture.storage);
        send_under_way(&other, cases[i].db, cases[i].command);
        change_rights(cases[i].change);
        while (cases[i].ends && fake_storage_closed(fixture.storage) == closed)
            (void)usleep(1000);
        fake_storage_answer_late(fixture.storage);
        cr_assert(gate_client_receive(&other, &answer));
        cr_expect_eq(reply_ok(answer), cases[i].told, "%zu", i);
        if (!cases[i].told)
            cr_expect_eq(reply_code(answer), 279, "%zu: %d", i, reply_code(answer));
        if (!cases[i].ends)
            cr_expect_eq(fake_storage_closed(fixture.storage), closed, "%zu", i);
        fake_storage_silence(fixture.storage, NULL);
        closed = fake_storage_closed(fixture.storage);
        gate_client_close(&other);
        while (fake_storage_closed(fixture.storage) == closed) /* the next one counts anew */
            (void)usleep(1000);
        (void)begin("dropAllUsersFromDatabase", "1");
        cr_assert_eq(run("test"), 0);
        (void)begin("dropAllRolesFromDatabase", "1");
        cr_assert_eq(run("admin"), 0);
    }
}

/* The answer is there before it is known who may have it. */
Test(admin, an_answer_waits_for_the_look_at_its_user)
{
    for (int dropped = 0; dropped < 2; dropped++) {
        gate_client_t other;
        vd_bson_t answer;
        start();
        make_anna(&other);
        send_under_way(&other, "test", "getMore");
        fake_storage_change_users(fixture.storage, dropped ? "test.anna" : NULL);
        fake_storage_answer_late(fixture.storage);
        cr_assert(gate_client_receive(&other, &answer));
        cr_expect_eq(reply_ok(answer), !dropped);
        if (dropped)
            cr_expect_eq(reply_code(answer), 279);
        gate_client_close(&other);
        if (!dropped) {
            gate_client_close(&client);
            gate_fixture_done(&fixture);
            gate_fixture_init(&fixture);
        }
    }
}

Test(admin, a_new_user_of_the_name_is_not_who_is_logged_in)
{
    gate_client_t other;
    vd_bson_t answer;
    start();
    make_anna(&other);
    (void)begin("dropUser", "anna");
    cr_assert_eq(run("test"), 0);
    cr_assert_eq(create_user("test", "anna", "secret", "read", NULL), 0);
    cr_assert(gate_client_on(&other, "test", "find", "x", &answer));
    cr_expect_eq(reply_code(answer), 13);
    gate_client_close(&other);
}

Test(admin, privileges_that_are_kept)
{
    static const struct {
        const char *before, *now; /* "collection=actions", separated by spaces */
        bool keeps;
    } cases[] = {
        {"", "", true},           {"a=12", "a=12", true},       {"a=12", "a=1", false},
        {"a=1", "a=12", true},    {"a=1 b=2", "b=2 a=1", true}, {"a=1 b=2", "a=1", false},
        {"a=1", "b=1 a=1", true}, {"a=1", "", false},           {"a=1", "b=1", false},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_arena_t *arena = vd_arena_create();
        gate_privileges_t sides[2] = {{.arena = arena}, {.arena = arena}};
        for (int side = 0; side < 2; side++) {
            const char *text = side == 0 ? cases[i].before : cases[i].now;
            for (; *text != 0; text += *text == ' ') {
                gate_resource_t resource = {GATE_RESOURCE_COLLECTION, VD_SLICE_LIT("d"),
                                            vd_slice(text, 1)};
                gate_actions_t actions = {0};
                for (text += 2; *text != 0 && *text != ' '; text++)
                    gate_actions_add(&actions, (gate_action_t)(*text - '0'));
                gate_privileges_add(&sides[side], &resource, &actions);
            }
        }
        cr_expect_eq(gate_recheck_keeps(&sides[0], &sides[1]), cases[i].keeps, "%zu", i);
        vd_arena_destroy(&arena);
    }
}

Test(admin, users_that_are_refused)
{
    static const struct {
        const char *db, *name, *password, *role, *role_db;
        int code;
    } cases[] = {
        {"test", "", "p", "read", NULL, 2},       {"local", "u", "p", "read", NULL, 2},
        {"$external", "u", "p", "read", NULL, 2}, {"test", "u", NULL, "read", NULL, 2},
        {"test", "u", "", "read", NULL, 2},       {"test", "u", "p", "nosuch", NULL, 31},
        {"test", "u", "p", "root", NULL, 31},     {"test", "u", "p", "__system", "admin", 31},
        {"test", "u", "p", NULL, NULL, 0},        {"test", "v", "p", "root", "admin", 0},
    };
    start();
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++)
        cr_expect_eq(create_user(cases[i].db, cases[i].name, cases[i].password, cases[i].role,
                                 cases[i].role_db),
                     cases[i].code, "case %zu: %d", i, reply_code(reply));
    vd_bb_t *bb = begin("createUser", "w");
    vd_bb_cstr(bb, "pwd", "p");
    cr_expect_eq(run("test"), 40414);
    bb = begin("createUser", "w");
    vd_bb_cstr(bb, "pwd", "p");
    put_roles(bb, NULL, NULL);
    vd_bb_bool(bb, "sudo", true);
    cr_expect_eq(run("test"), 40415);
    cr_expect(reply_message_is(reply, "BSON field 'createUser.sudo' is an unknown field."));
    bb = begin("createUser", "w");
    vd_bb_cstr(bb, "pwd", "p");
    put_roles(bb, NULL, NULL);
    vd_bb_begin_array(bb, "mechanisms");
    vd_bb_cstr(bb, "0", "SCRAM-SHA-1");
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 2);
    bb = begin("createUser", "w");
    vd_bb_cstr(bb, "pwd", "p");
    put_roles(bb, NULL, NULL);
    vd_bb_begin_array(bb, "authenticationRestrictions");
    vd_bb_begin_document(bb, "0");
    vd_bb_cstr(bb, "clientSource", "nowhere");
    vd_bb_close(bb);
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 12);
    (void)begin("updateUser", "u");
    cr_expect_eq(run("test"), 2);
    bb = begin("updateUser", "nobody");
    vd_bb_cstr(bb, "pwd", "p");
    cr_expect_eq(run("test"), 11);
    bb = begin("grantRolesToUser", "nobody");
    put_roles(bb, "read", NULL);
    cr_expect_eq(run("test"), 11);
    vd_bb_string(gate_client_begin(&client), "dropUser", vd_slice("a\0b", 3));
    cr_expect_eq(run("test"), 2);
}

Test(admin, users_info_in_all_its_forms)
{
    start();
    cr_expect_eq(create_user("test", "anna", "p", "read", NULL), 0);
    cr_expect_eq(create_user("test", "bert", "p", "read", NULL), 0);
    cr_expect_eq(create_user("other", "anna", "p", "read", NULL), 0);
    vd_bb_int32(gate_client_begin(&client), "usersInfo", 1);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("users"), 2);
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_begin_document(bb, "usersInfo");
    vd_bb_bool(bb, "forAllDBs", true);
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("users"), 4);
    bb = gate_client_begin(&client);
    vd_bb_begin_document(bb, "usersInfo");
    vd_bb_cstr(bb, "user", "anna");
    vd_bb_cstr(bb, "db", "other");
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("users"), 1);
    cr_expect(is("users.0._id", "other.anna"));
    bb = gate_client_begin(&client);
    vd_bb_begin_array(bb, "usersInfo");
    vd_bb_cstr(bb, "0", "anna");
    vd_bb_begin_document(bb, "1");
    vd_bb_cstr(bb, "user", "root");
    vd_bb_cstr(bb, "db", "admin");
    vd_bb_close(bb);
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("users"), 2);
    bb = gate_client_begin(&client);
    vd_bb_int32(bb, "usersInfo", 1);
    vd_bb_begin_document(bb, "filter");
    vd_bb_cstr(bb, "user", "bert");
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("users"), 1);
    (void)begin("usersInfo", "nobody");
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("users"), 0);
    vd_bb_int32(gate_client_begin(&client), "dropAllUsersFromDatabase", 1);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 2);
}

Test(admin, life_of_a_role)
{
    start();
    cr_expect_eq(create_role("admin", "finder", "shop", "find", NULL), 0);
    cr_expect_eq(create_role("admin", "finder", "shop", "find", NULL), 51002);
    cr_expect_eq(create_role("admin", "outer", "shop", NULL, "finder"), 0);
    cr_expect_eq(create_user("admin", "anna", "p", "outer", NULL), 0);
    cr_expect_eq(find_as("admin", "anna", "p", "shop"), 0);
    cr_expect_eq(find_as("admin", "anna", "p", "test"), 13);
    /* inner may not come to contain outer */
    vd_bb_t *bb = begin("grantRolesToRole", "finder");
    put_roles(bb, "outer", NULL);
    cr_expect_eq(run("admin"), 39);
    bb = begin("grantRolesToRole", "finder");
    put_roles(bb, "finder", NULL);
    cr_expect_eq(run("admin"), 39);
    bb = begin("grantPrivilegesToRole", "finder");
    vd_bb_begin_array(bb, "privileges");
    vd_bb_begin_document(bb, "0");
    vd_bb_begin_document(bb, "resource");
    vd_bb_cstr(bb, "db", "test");
    vd_bb_cstr(bb, "collection", "x");
    vd_bb_close(bb);
    vd_bb_begin_array(bb, "actions");
    vd_bb_cstr(bb, "0", "find");
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_close(bb);
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(find_as("admin", "anna", "p", "test"), 0);
    bb = begin("rolesInfo", "outer");
    vd_bb_bool(bb, "showPrivileges", true);
    cr_expect_eq(run("admin"), 0);
    cr_expect(is("roles.0.roles.0.role", "finder"));
    cr_expect(is("roles.0.inheritedRoles.0.role", "finder"));
    cr_expect_eq(count("roles.0.privileges"), 0);
    cr_expect_eq(count("roles.0.inheritedPrivileges"), 2);
    bb = begin("revokePrivilegesFromRole", "finder");
    vd_bb_begin_array(bb, "privileges");
    vd_bb_begin_document(bb, "0");
    vd_bb_begin_document(bb, "resource");
    vd_bb_cstr(bb, "db", "shop");
    vd_bb_cstr(bb, "collection", "");
    vd_bb_close(bb);
    vd_bb_begin_array(bb, "actions");
    vd_bb_cstr(bb, "0", "find");
    vd_bb_cstr(bb, "1", "insert");
    vd_bb_close(bb);
    vd_bb_close(bb);
    vd_bb_close(bb);
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(find_as("admin", "anna", "p", "shop"), 13);
    (void)begin("dropRole", "finder");
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(find_as("admin", "anna", "p", "test"), 13);
    (void)begin("rolesInfo", "outer");
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(count("roles.0.roles"), 0, "taken out of those who had it");
    (void)begin("dropRole", "finder");
    cr_expect_eq(run("admin"), 31);
    vd_bb_int32(gate_client_begin(&client), "dropAllRolesFromDatabase", 1);
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.roles"), 0);
    (void)begin("usersInfo", "anna");
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(count("users.0.roles"), 0);
}

Test(admin, roles_that_are_refused)
{
    start();
    cr_expect_eq(create_role("test", "read", "test", "find", NULL), 2);
    cr_expect_eq(create_role("local", "r", "local", "find", NULL), 2);
    cr_expect_eq(create_role("test", "r", "other", "find", NULL), 39);
    cr_expect_eq(create_role("test", "r", "test", "fly", NULL), 2);
    cr_expect_eq(create_role("test", "r", "test", "find", "nosuch"), 31);
    cr_expect_eq(create_role("test", "r", "test", "find", "read"), 0);
    vd_bb_t *bb = begin("grantRolesToRole", "r");
    put_roles(bb, "read", "other");
    cr_expect_eq(run("test"), 39);
    bb = begin("updateRole", "read");
    put_roles(bb, NULL, NULL);
    cr_expect_eq(run("test"), 24017);
    (void)begin("updateRole", "r");
    cr_expect_eq(run("test"), 2);
    bb = begin("updateRole", "r");
    put_roles(bb, "readWrite", NULL);
    cr_expect_eq(run("test"), 0);
}

Test(admin, roles_info_with_builtins)
{
    start();
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_int32(bb, "rolesInfo", 1);
    vd_bb_bool(bb, "showBuiltinRoles", true);
    cr_expect_eq(run("test"), 0);
    cr_expect_eq(count("roles"), 5);
    bb = gate_client_begin(&client);
    vd_bb_int32(bb, "rolesInfo", 1);
    vd_bb_bool(bb, "showBuiltinRoles", true);
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(count("roles"), 17);
    bb = begin("rolesInfo", "readWrite");
    vd_bb_bool(bb, "showPrivileges", true);
    cr_expect_eq(run("shop"), 0);
    cr_expect(vd_value_truthy(at("roles.0.isBuiltin")));
    cr_expect(is("roles.0.privileges.0.resource.db", "shop"));
}

Test(admin, what_mongosh_asks_at_start)
{
    start();
    cr_expect_eq((gate_client_simple(&client, "admin", "buildInfo", &reply), reply_code(reply)), 0);
    cr_expect(is("version", GATE_VERSION));
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_int32(bb, "getParameter", 1);
    vd_bb_int32(bb, "featureCompatibilityVersion", 1);
    cr_expect_eq(run("admin"), 0);
    cr_expect(is("featureCompatibilityVersion.version", "7.0"));
    (void)begin("getParameter", "foo");
    cr_expect_eq(run("admin"), 72);
    cr_expect(reply_message_is(reply, "no option found to get"));
    (void)begin("getParameter", "*");
    cr_expect_eq(run("admin"), 0);
    (void)begin("getLog", "startupWarnings");
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(count("log"), 0);
    (void)begin("getLog", "*");
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(count("names"), 2);
    (void)begin("getLog", "nosuch");
    cr_expect_eq(run("admin"), 96);
    cr_assert(gate_client_simple(&client, "admin", "atlasVersion", &reply));
    cr_expect_eq(reply_code(reply), 59);
    static const struct {
        const char *name;
        int code;
    } others[] = {{"hostInfo", 0},
                  {"getCmdLineOpts", 0},
                  {"listCommands", 0},
                  {"whatsmyuri", 0},
                  {"features", 0},
                  {"connPoolStats", 0},
                  {"replSetGetStatus", 0},
                  {"replSetGetConfig", 0},
                  {"serverStatus", 0},
                  {"connectionStatus", 0},
                  {"setParameter", 72},
                  {"shutdown", 115},
                  {"invalidateUserCache", 0},
                  {"listSearchIndexes", 115}};
    for (size_t i = 0; i < VD_COUNT_OF(others); i++) {
        cr_assert(gate_client_simple(&client, "admin", others[i].name, &reply));
        cr_expect_eq(reply_code(reply), others[i].code, "%s: %d", others[i].name,
                     reply_code(reply));
    }
    cr_expect(vd_bson_get(reply, "errmsg").type == VD_BSON_STRING &&
              strstr((const char *)vd_value_string(vd_bson_get(reply, "errmsg")).data, "Atlas") !=
                  NULL);
    cr_assert(gate_client_simple(&client, "admin", "serverStatus", &reply));
    cr_expect(is("process", "mongod"));
    cr_expect(is("echo", "serverStatus"), "storage's part is there");
    cr_expect_eq(at("connections.current").type, VD_BSON_INT32);
    cr_expect_eq(at("opcounters.insert").type, VD_BSON_INT64);
    cr_expect_eq(at("network.bytesIn").type, VD_BSON_INT64);
    cr_expect_eq(at("mem.resident").type, VD_BSON_INT32);
    cr_assert(gate_client_simple(&client, "test", "hostInfo", &reply));
    cr_expect_eq(reply_code(reply), 13);
    cr_expect(reply_message_is(reply, "hostInfo may only be run against the admin database."));
}

Test(admin, fields_of_requests_that_are_wrong)
{
    static const uint8_t session[16] = {1};
    start();
    vd_bb_t *bb = begin("find", "x");
    vd_bb_int64(bb, "txnNumber", 1);
    cr_expect_eq(run("test"), 72);
    bb = begin("find", "x");
    vd_bb_begin_document(bb, "lsid");
    vd_bb_binary(bb, "id", 0, vd_slice(session, 16));
    vd_bb_close(bb);
    cr_expect_eq(run("test"), 207);
    bb = begin("find", "x");
    vd_bb_int32(bb, "maxTimeMS", -1);
    cr_expect_eq(run("test"), 2);
    bb = begin("find", "x");
    vd_bb_cstr(bb, "apiVersion", "2");
    cr_expect_eq(run("test"), 322);
    bb = begin("find", "x");
    vd_bb_cstr(bb, "apiVersion", "1");
    vd_bb_bool(bb, "apiStrict", true);
    cr_expect_eq(run("test"), 0);
    bb = begin("distinct", "x");
    vd_bb_cstr(bb, "apiVersion", "1");
    vd_bb_bool(bb, "apiStrict", true);
    cr_expect_eq(run("test"), 323);
    bb = begin("find", "x");
    vd_bb_bool(bb, "apiStrict", true);
    cr_expect_eq(run("test"), 322);
    (void)begin("find", "x");
    cr_expect_eq(run("a.b"), 73);
    (void)begin("find", "x");
    cr_expect_eq(run(""), 73);
    (void)begin("find", "x");
    cr_expect_eq(run("0123456789012345678901234567890123456789012345678901234567890123"), 73);
    (void)begin("find", "x");
    cr_expect_eq(run("012345678901234567890123456789012345678901234567890123456789012"), 0);
}

Test(admin, lists_show_what_one_may_see)
{
    gate_client_t other;
    start();
    cr_expect_eq(create_user("test", "anna", "p", "read", NULL), 0);
    cr_assert(gate_client_open(&other, fixture.settings.port));
    cr_assert_eq(gate_client_login(&other, "test", "anna", "p"), 0);
    cr_assert(gate_client_simple(&other, "admin", "listDatabases", &reply));
    cr_assert(reply_ok(reply));
    cr_expect(is("visible.databases.0", "test"));
    cr_assert(gate_client_simple(&other, "test", "listCollections", &reply));
    cr_expect_eq(at("visible").type, VD_BSON_MISSING);
    gate_client_close(&other);
    cr_assert(gate_client_simple(&client, "admin", "listDatabases", &reply));
    cr_expect_eq(at("visible").type, VD_BSON_MISSING);
}

/* ---- fail points ---- */

static void set_fault(const char *mode, int times, const char *command, int code, const char *label)
{
    vd_bb_t *bb = gate_client_begin(&client);
    vd_bb_cstr(bb, "configureFailPoint", "failCommand");
    if (mode != NULL) {
        vd_bb_cstr(bb, "mode", mode);
    } else {
        vd_bb_begin_document(bb, "mode");
        vd_bb_int32(bb, "times", times);
        vd_bb_close(bb);
    }
    vd_bb_begin_document(bb, "data");
    vd_bb_begin_array(bb, "failCommands");
    vd_bb_cstr(bb, "0", command);
    vd_bb_close(bb);
    if (code != 0)
        vd_bb_int32(bb, "errorCode", code);
    else
        vd_bb_bool(bb, "closeConnection", true);
    if (label != NULL) {
        vd_bb_begin_array(bb, "errorLabels");
        vd_bb_cstr(bb, "0", label);
        vd_bb_close(bb);
    }
    vd_bb_close(bb);
    cr_assert_eq(run("admin"), 0);
}

Test(admin, fail_points_when_tests_are_on)
{
    fixture.settings.test_faults = true;
    start();
    set_fault(NULL, 2, "find", 91, "Mine");
    for (int i = 0; i < 4; i++) {
        (void)begin("find", "x");
        cr_expect_eq(run("test"), i < 2 ? 91 : 0);
        if (i < 2)
            cr_expect(is("errorLabels.0", "Mine"));
    }
    set_fault("alwaysOn", 0, "insert", 11600, NULL);
    (void)begin("insert", "x");
    cr_expect_eq(run("test"), 11600);
    (void)begin("find", "x");
    cr_expect_eq(run("test"), 0);
    set_fault("off", 0, "insert", 11600, NULL);
    (void)begin("insert", "x");
    cr_expect_eq(run("test"), 0);
    vd_bb_t *bb = begin("configureFailPoint", "failCommand");
    vd_bb_begin_document(bb, "mode");
    vd_bb_int32(bb, "skip", 1);
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "data");
    vd_bb_begin_array(bb, "failCommands");
    vd_bb_cstr(bb, "0", "insert");
    vd_bb_close(bb);
    vd_bb_begin_document(bb, "writeConcernError");
    vd_bb_int32(bb, "code", 64);
    vd_bb_cstr(bb, "errmsg", "waiting timed out");
    vd_bb_close(bb);
    vd_bb_bool(bb, "blockConnection", true);
    vd_bb_int32(bb, "blockTimeMS", 50);
    vd_bb_close(bb);
    cr_expect_eq(run("admin"), 0);
    for (int i = 0; i < 2; i++) {
        (void)begin("insert", "x");
        cr_expect_eq(run("test"), 0);
        cr_expect_eq(at("writeConcernError.code").type, i == 0 ? VD_BSON_MISSING : VD_BSON_INT32);
    }
    set_fault(NULL, 1, "ping", 0, NULL);
    cr_expect_not(gate_client_simple(&client, "admin", "ping", &reply));
}

/* ---- bootstrap ---- */

Test(admin, bootstrap_happens_once)
{
    start();
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 1);
    cr_expect_eq(create_user("admin", "second", "p", "root", NULL), 0);
    (void)begin("dropUser", FIXTURE_USER);
    cr_expect_eq(run("admin"), 0);
    /* A new gateway does not make the first administrator again. */
    gate_client_close(&client);
    vd_loop_stop(fixture.loop);
    (void)pthread_join(fixture.thread, NULL);
    vd_loop_destroy(&fixture.loop);
    atomic_store(&fixture.ready, false);
    fixture.settings.port = fixture.settings.http_port = 0;
    gate_fixture_start(&fixture);
    cr_expect_eq(find_as("admin", FIXTURE_USER, FIXTURE_PASSWORD, "test"), 18);
    cr_expect_eq(find_as("admin", "second", "p", "test"), 0);
    cr_expect_eq(fake_storage_documents(fixture.storage, "system.users"), 1);
}

Test(admin, bootstrap_file_must_be_private)
{
    vd_error_t err = VD_ERROR_INIT;
    start();
    cr_assert_eq(chmod(fixture.settings.bootstrap_file, 0640), 0);
    cr_expect_eq(gate_bootstrap(fixture.gate, &err), VD_ERR_CONFIG);
}

Test(admin, bootstrap_texts)
{
    static const struct {
        const char *text, *user, *password;
    } cases[] = {
        {"{\"user\":\"a\",\"password\":\"b\"}", "a", "b"},
        {" { \"password\" : \"b\\\"\\u00e4\\n\" , \"user\":\"a\" } \n", "a", "b\"\xc3\xa4\n"},
        {"{\"user\":\"\xc3\xa4\",\"password\":\"b\"}", "\xc3\xa4", "b"},
        {"", NULL, NULL},
        {"{}", NULL, NULL},
        {"{\"user\":\"a\"}", NULL, NULL},
        {"{\"user\":\"a\",\"user\":\"b\"}", NULL, NULL},
        {"{\"user\":\"\",\"password\":\"b\"}", NULL, NULL},
        {"{\"user\":\"a\",\"password\":1}", NULL, NULL},
        {"{\"user\":\"a\",\"password\":\"b\",\"x\":\"y\"}", NULL, NULL},
        {"{\"user\":\"a\",\"password\":\"b\"} x", NULL, NULL},
        {"{\"user\":\"a\",\"password\":\"b", NULL, NULL},
        {"{\"user\":\"a\",\"password\":\"\\u0000\"}", NULL, NULL},
        {"{\"user\":\"a\",\"password\":\"\\ud800\"}", NULL, NULL},
        {"{\"user\":\"a\",\"password\":\"\\", NULL, NULL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        char user[32], password[32];
        int rc = gate_bootstrap_parse(vd_slice_str(cases[i].text), user, sizeof user, password,
                                      sizeof password, NULL);
        cr_expect_eq(rc, cases[i].user == NULL ? VD_ERR_CONFIG : VD_OK, "case %zu", i);
        if (rc == VD_OK) {
            cr_expect_str_eq(user, cases[i].user);
            cr_expect_str_eq(password, cases[i].password);
        }
    }
}

/* ---- HTTPS ---- */

static void http_ask(gate_client_t *web, const char *path, const char *login)
{
    char text[600], encoded[200] = "";
    if (login != NULL)
        encoded[gate_base64_encode(vd_slice_str(login), encoded)] = 0;
    cr_assert(gate_client_open(web, fixture.settings.http_port));
    (void)snprintf(
        text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s%s\r\n", path,
        login == NULL ? "" : "Authorization: Basic ", encoded, login == NULL ? "" : "\r\n");
    cr_assert(gate_client_send_bytes(web, text, strlen(text)));
}

static int http_answer(gate_client_t *web, char *out, size_t size)
{
    int code = 0, n, total = 0;
    while (total < (int)size - 1 &&
           (n = SSL_read(web->ssl, out + total, (int)size - 1 - total)) > 0)
        total += n;
    out[total] = 0;
    gate_client_close(web);
    cr_assert_eq(sscanf(out, "HTTP/1.1 %d", &code), 1);
    return code;
}

static int http_get(const char *path, const char *login, char *out, size_t size)
{
    gate_client_t web;
    http_ask(&web, path, login);
    return http_answer(&web, out, size);
}

Test(admin, https_pages)
{
    static char out[200000];
    start();
    cr_expect_eq(http_get("/healthz", NULL, out, sizeof out), 200);
    cr_expect_eq(http_get("/readyz", NULL, out, sizeof out), 200);
    cr_expect_eq(http_get("/nosuch", NULL, out, sizeof out), 404);
    cr_expect_eq(http_get("/metrics", NULL, out, sizeof out), 401);
    cr_expect_eq(http_get("/metrics", "root:wrong", out, sizeof out), 401);
    cr_expect_eq(http_get("/metrics", "nobody:wrong", out, sizeof out), 401);
    cr_expect_eq(http_get("/metrics", FIXTURE_USER ":" FIXTURE_PASSWORD, out, sizeof out), 200);
    cr_expect_not_null(strstr(out, "\nveddb_gateway_connections 1\n"));
    cr_expect_not_null(strstr(out, "\nveddb_storage_up 1\nfake_storage 1\n"));
    cr_expect_eq(http_get("/status", FIXTURE_USER ":" FIXTURE_PASSWORD, out, sizeof out), 200);
    cr_expect_not_null(strstr(out, "\"ready\":true"));
    cr_expect_eq(create_user("admin", "anna", "p", "read", NULL), 0);
    cr_expect_eq(create_user("admin", "watch", "p", "clusterMonitor", NULL), 0);
    cr_expect_eq(http_get("/status", "anna:p", out, sizeof out), 403);
    cr_expect_eq(http_get("/status", "watch:p", out, sizeof out), 200);
    (void)begin("dropUser", "watch");
    cr_expect_eq(run("admin"), 0);
    cr_expect_eq(http_get("/status", "watch:p", out, sizeof out), 401,
                 "a login that is remembered ends with its user");
    fake_storage_kill(fixture.storage);
    cr_expect_eq(http_get("/healthz", NULL, out, sizeof out), 200);
}

Test(admin, health_is_told_while_a_login_waits_for_storage)
{
    static char out[200000];
    gate_client_t waiting[20];
    start();
    fake_storage_kill(fixture.storage);
    (void)usleep(50000);
    uint64_t begun = vd_monotonic_ms();
    for (size_t i = 0; i < VD_COUNT_OF(waiting); i++)
        http_ask(&waiting[i], i % 2 == 0 ? "/metrics" : "/status", "watch:p");
    cr_expect_eq(http_get("/healthz", NULL, out, sizeof out), 200);
    cr_expect_eq(http_get("/readyz", NULL, out, sizeof out), 200);
    cr_expect_lt(vd_monotonic_ms() - begun, 4500); /* storage is waited for longer */
    for (size_t i = 2; i < VD_COUNT_OF(waiting) - 1; i++)
        gate_client_close(&waiting[i]); /* they don't wait for their answers */
    cr_expect_eq(http_answer(&waiting[0], out, sizeof out), 503);
    cr_expect_eq(http_answer(&waiting[VD_COUNT_OF(waiting) - 1], out, sizeof out), 503,
                 "one too many");
    /* The gateway ends with the second still waiting. */
    vd_loop_stop(fixture.loop);
    (void)pthread_join(fixture.thread, NULL);
    vd_loop_destroy(&fixture.loop);
    fixture.running = false;
    gate_client_close(&waiting[1]);
}

Test(admin, status_is_json_whatever_it_is_called)
{
    vd_buf_t out;
    (void)snprintf(fixture.settings.replica_set, sizeof fixture.settings.replica_set, "%s",
                   "a\"b\\c");
    start();
    vd_buf_init(&out, 8192);
    cr_assert_eq(gate_status(fixture.gate, &out), VD_OK);
    cr_assert_eq(vd_buf_append(&out, "", 1), VD_OK);
    cr_expect_not_null(
        strstr((const char *)vd_buf_at(&out, 0), ",\"replicaSet\":\"a\\\"b\\\\c\",\"port\":"));
    vd_buf_done(&out);
}
