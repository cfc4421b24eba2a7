/* tests/unit/gatewayd/test_access.c — who may do what: the table of commands walked for every
 * built-in role against a file that is checked in, and the rules that look into the command. */
#include "veddb-gatewayd/access.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#define MATRIX "tests/unit/gatewayd/access_matrix.txt"

static vd_arena_t *arena;

static void setup(void)
{
    gate_commands_init();
    arena = vd_arena_create();
}

static void teardown(void)
{
    vd_arena_destroy(&arena);
}

TestSuite(access, .init = setup, .fini = teardown);

static gate_privileges_t privileges_of(const char *role, const char *db)
{
    gate_privileges_t privileges = {.arena = arena};
    gate_role_ref_t ref = {vd_slice_str(role), vd_slice_str(db)};
    cr_assert(gate_role_is_builtin(ref), "%s", role);
    gate_role_builtin_privileges(ref, &privileges);
    return privileges;
}

static int check(const char *role, const char *role_db, const char *name, const char *db,
                 vd_bson_t body, gate_access_grant_t *grant)
{
    gate_privileges_t privileges = privileges_of(role, role_db);
    gate_role_ref_t own = {vd_slice_str(role), vd_slice_str(role_db)};
    gate_principal_t who = {VD_SLICE_LIT("anna"), vd_slice_str(role_db), &privileges, &own, 1};
    vdp_sections_t sections = {.body = body};
    const gate_command_t *command = gate_command_find(vd_slice_str(name));
    cr_assert_not_null(command, "%s", name);
    return gate_access_check(command, vd_slice_str(db), &sections, &who, grant, NULL);
}

/* ---- the matrix ---- */

static vd_bson_t sample(const gate_command_t *command)
{
    vd_bb_t bb;
    vd_bson_t body;
    vd_bb_init_arena(&bb, arena, 4096);
    if (strcmp(command->name, "renameCollection") == 0 || strcmp(command->name, "dataSize") == 0)
        vd_bb_cstr(&bb, command->name, "test.a");
    else if ((command->flags & GATE_COLLECTION_ARGUMENT) != 0 ||
             command->check == GATE_CHECK_AGGREGATE)
        vd_bb_cstr(&bb, command->name, "c");
    else if (command->check == GATE_CHECK_UPDATE_USER || command->check == GATE_CHECK_USERS_INFO ||
             command->check == GATE_CHECK_ROLES_INFO)
        vd_bb_cstr(&bb, command->name, "somebody");
    else if (command->check == GATE_CHECK_EXPLAIN) {
        vd_bb_begin_document(&bb, command->name);
        vd_bb_cstr(&bb, "delete", "c");
        vd_bb_close(&bb);
    } else
        vd_bb_int32(&bb, command->name, 1);
    vd_bb_cstr(&bb, "to", "test.b");
    vd_bb_cstr(&bb, "pwd", "x");
    vd_bb_begin_array(&bb, "pipeline");
    vd_bb_close(&bb);
    vd_bb_begin_array(&bb, "roles");
    vd_bb_cstr(&bb, "0", "read");
    vd_bb_close(&bb);
    vd_bb_begin_array(&bb, "privileges");
    vd_bb_begin_document(&bb, "0");
    vd_bb_begin_document(&bb, "resource");
    vd_bb_cstr(&bb, "db", "test");
    vd_bb_cstr(&bb, "collection", "");
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    vd_bb_close(&bb);
    cr_assert_eq(vd_bb_finish(&bb, &body, NULL), VD_OK);
    return body;
}

static void print_row(const gate_command_t *command, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s:", command->name);
    const char *db = (command->flags & GATE_ADMIN_ONLY) != 0 ? "admin" : "test";
    for (int on_admin = 0; on_admin < 2; on_admin++) {
        const char *role_db = on_admin ? "admin" : "test", *role;
        for (uint32_t i = 0; (role = gate_role_builtin_name(vd_slice_str(role_db), i)) != NULL;
             i++) {
            gate_access_grant_t grant;
            if (check(role, role_db, command->name, db, sample(command), &grant) != VD_OK)
                continue;
            n += (size_t)snprintf(out + n, size - n, " %s@%s%s", role, role_db,
                                  grant.all_users || grant.all_visible ? "*" : "");
        }
    }
    (void)snprintf(out + n, size - n, "\n");
}

/* To see what a change does: VEDDB_WRITE_MATRIX=1 writes the file anew; then read the difference.
 */
Test(access, every_command_for_every_role)
{
    bool write = getenv("VEDDB_WRITE_MATRIX") != NULL;
    FILE *file = fopen(MATRIX, write ? "we" : "re");
    cr_assert_not_null(file, "%s (tests run in the root of the source)", MATRIX);
    for (uint32_t i = 0; i < gate_command_count; i++) {
        char row[4096], expected[4096] = "";
        print_row(&gate_commands[i], row, sizeof row);
        if (write)
            cr_assert_geq(fputs(row, file), 0);
        else if (fgets(expected, sizeof expected, file) == NULL || strcmp(row, expected) != 0)
            cr_expect(false, "is:       %sexpected: %s", row, expected);
    }
    (void)fclose(file);
}

/* ---- and for every state ---- */

#define STATES "tests/unit/gatewayd/access_states.txt"

/* UNSURE: a secondary that can't confirm who its users are. */
typedef enum { NOBODY, DROPPED, EXPIRED, REVOKED, UNSURE, TRANSACTION, STATE_COUNT } state_t;
static const char *const state_names[STATE_COUNT] = {"nobody",  "dropped", "expired",
                                                     "revoked", "unsure",  "transaction"};

/* As request.c asks; role NULL: nobody is logged in (any more). */
static int decide(const gate_command_t *command, state_t state, const char *role,
                  const char *role_db)
{
    const char *db = (command->flags & GATE_ADMIN_ONLY) != 0 ? "admin" : "test";
    vdp_sections_t sections = {.body = sample(command)};
    gate_access_grant_t grant;
    gate_login_state_t login = state == EXPIRED   ? GATE_LOGIN_EXPIRED
                               : state == REVOKED ? GATE_LOGIN_REVOKED
                                                  : GATE_LOGIN_HOLDS;
    int rc = gate_access_state(command, login, state == TRANSACTION, NULL);
    if (rc == VD_OK && state == UNSURE && gate_access_is_leased(command))
        rc = VD_ERR_NOT_PRIMARY_OR_SECONDARY;
    if (rc != VD_OK)
        return rc;
    if (state == NOBODY || state == DROPPED) /* the user's document is gone: so is the login */
        return gate_access_check(command, vd_slice_str(db), &sections, NULL, &grant, NULL);
    return check(role, role_db, command->name, db, sections.body, &grant);
}

/* "13" where it is so for every role; "roles" where the other matrix says it. */
static void print_state(const gate_command_t *command, state_t state, char *out, size_t size)
{
    int first = decide(command, state, "root", "admin");
    bool same = true, as_without = true;
    for (int on_admin = 0; on_admin < 2; on_admin++) {
        const char *role_db = on_admin ? "admin" : "test", *role;
        const char *db = (command->flags & GATE_ADMIN_ONLY) != 0 ? "admin" : "test";
        for (uint32_t i = 0; (role = gate_role_builtin_name(vd_slice_str(role_db), i)) != NULL;
             i++) {
            gate_access_grant_t grant;
            int rc = decide(command, state, role, role_db);
            same = same && rc == first;
            as_without = as_without &&
                         rc == check(role, role_db, command->name, db, sample(command), &grant);
        }
    }
    cr_assert(same || as_without, "%s in the state %s", command->name, state_names[state]);
    if (same)
        (void)snprintf(out, size, " %s=%d", state_names[state], -first);
    else
        (void)snprintf(out, size, " %s=roles", state_names[state]);
}

Test(access, every_command_for_every_role_in_every_state)
{
    bool write = getenv("VEDDB_WRITE_MATRIX") != NULL;
    FILE *file = fopen(STATES, write ? "we" : "re");
    cr_assert_not_null(file, "%s (tests run in the root of the source)", STATES);
    for (uint32_t i = 0; i < gate_command_count; i++) {
        char row[256], expected[256] = "";
        size_t n = (size_t)snprintf(row, sizeof row, "%s:", gate_commands[i].name);
        for (unsigned state = 0; state < STATE_COUNT; state++) {
            print_state(&gate_commands[i], (state_t)state, row + n, sizeof row - n);
            n += strlen(row + n);
        }
        (void)snprintf(row + n, sizeof row - n, "\n");
        if (write)
            cr_assert_geq(fputs(row, file), 0);
        else if (fgets(expected, sizeof expected, file) == NULL || strcmp(row, expected) != 0)
            cr_expect(false, "is:       %sexpected: %s", row, expected);
    }
    (void)fclose(file);
}

Test(access, the_table_is_whole)
{
    for (uint32_t i = 0; i < gate_command_count; i++) {
        const gate_command_t *command = &gate_commands[i];
        cr_expect(command->help != NULL && command->help[0] != 0, "%s", command->name);
        bool handled = command->where == GATE_RUN_HERE || command->where == GATE_RUN_WORKER;
        cr_expect_eq(command->run != NULL, handled, "%s", command->name);
        cr_expect_eq(command->refusal_code != 0, command->where == GATE_RUN_REFUSED, "%s",
                     command->name);
        bool plain = command->check == GATE_CHECK_COLLECTION ||
                     command->check == GATE_CHECK_DATABASE || command->check == GATE_CHECK_CLUSTER;
        cr_expect(!plain || command->action < GATE_ACTION_COUNT, "%s", command->name);
        cr_expect((command->flags & GATE_RETRY_READ) == 0 || (command->flags & GATE_WRITES) == 0,
                  "%s: a write is never a read", command->name);
        cr_expect((command->flags & GATE_RETRY_WRITE) == 0 || (command->flags & GATE_WRITES) != 0,
                  "%s", command->name);
        cr_expect_eq(gate_command_find(vd_slice_str(command->name)), command);
        if (command->alias != NULL)
            cr_expect_eq(gate_command_find(vd_slice_str(command->alias)), command);
        for (uint32_t k = 0; k < i; k++)
            cr_expect_str_neq(gate_commands[k].name, command->name);
        cr_expect_eq(gate_command_index(command), i);
    }
    cr_expect_null(gate_command_find(VD_SLICE_LIT("Find")));
    cr_expect_null(gate_command_find(VD_SLICE_LIT("")));
    cr_expect_not_null(gate_command_find(VD_SLICE_LIT("IsMaStEr")));
}

Test(access, nobody_may_only_what_is_open)
{
    for (uint32_t i = 0; i < gate_command_count; i++) {
        const gate_command_t *command = &gate_commands[i];
        vdp_sections_t sections = {.body = sample(command)};
        gate_access_grant_t grant;
        vd_error_t err = VD_ERROR_INIT;
        int rc = gate_access_check(command, VD_SLICE_LIT("test"), &sections, NULL, &grant, &err);
        cr_expect_eq(rc, command->check == GATE_CHECK_OPEN ? VD_OK : VD_ERR_UNAUTHORIZED, "%s",
                     command->name);
    }
}

Test(access, message_of_a_refusal)
{
    gate_privileges_t none = {.arena = arena};
    gate_principal_t who = {VD_SLICE_LIT("anna"), VD_SLICE_LIT("test"), &none, NULL, 0};
    const gate_command_t *command = gate_command_find(VD_SLICE_LIT("find"));
    vdp_sections_t sections = {.body = sample(command)};
    gate_access_grant_t grant;
    vd_error_t err = VD_ERROR_INIT;
    cr_expect_eq(gate_access_check(command, VD_SLICE_LIT("test"), &sections, &who, &grant, &err),
                 VD_ERR_UNAUTHORIZED);
    cr_expect_str_eq(
        err.message,
        "not authorized on test to execute command { find: \"c\", ..., $db: \"test\" }");
}

/* ---- rules that look into the command ---- */

/* Bodies in a small notation: one BSON document by hand is long. */
static vd_bson_t json(const char *text);

typedef struct {
    const char *text;
} parser_t;

static void skip(parser_t *p)
{
    while (*p->text == ' ')
        p->text++;
}

static void value(parser_t *p, vd_bb_t *bb, vd_slice_t name);

static vd_slice_t word(parser_t *p)
{
    const char *start = ++p->text; /* behind the quote */
    while (*p->text != '\'')
        p->text++;
    return vd_slice(start, (size_t)(p->text++ - start));
}

static void members(parser_t *p, vd_bb_t *bb, char end)
{
    char key[12];
    uint32_t n = 0;
    p->text++;
    for (skip(p); *p->text != end; skip(p)) {
        vd_slice_t name = end == '}' ? word(p) : vd_array_name(n++, key);
        skip(p);
        if (*p->text == ':')
            p->text++;
        skip(p);
        value(p, bb, name);
        skip(p);
        if (*p->text == ',')
            p->text++;
    }
    p->text++;
}

static void value(parser_t *p, vd_bb_t *bb, vd_slice_t name)
{
    if (*p->text == '\'') {
        vd_bb_value(bb, name, vd_value_from_string(arena, word(p)));
    } else if (*p->text == '{') {
        vd_bb_open_document(bb, name);
        members(p, bb, '}');
        vd_bb_close(bb);
    } else if (*p->text == '[') {
        vd_bb_open_array(bb, name);
        members(p, bb, ']');
        vd_bb_close(bb);
    } else {
        char *end;
        vd_bb_value(bb, name, vd_value_from_int32(arena, (int32_t)strtol(p->text, &end, 10)));
        cr_assert(end != p->text, "not the notation: %s", p->text);
        p->text = end;
    }
}

static vd_bson_t json(const char *text)
{
    vd_bb_t bb;
    vd_bson_t body;
    parser_t p = {text};
    vd_bb_init_arena(&bb, arena, 65536);
    members(&p, &bb, '}');
    cr_assert_eq(vd_bb_finish(&bb, &body, NULL), VD_OK);
    return body;
}

Test(access, bodies)
{
    static const struct {
        const char *role, *role_db, *command, *db, *body;
        bool yes;
    } cases[] = {
        /* pipelines */
        {"read", "test", "aggregate", "test", "{'aggregate':'c','pipeline':[{'$match':{}}]}", true},
        {"read", "test", "aggregate", "other", "{'aggregate':'c','pipeline':[{'$match':{}}]}",
         false},
        {"read", "test", "aggregate", "test", "{'aggregate':'system.users','pipeline':[]}", false},
        {"read", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$lookup':{'from':'d'}}]}", true},
        {"read", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$lookup':{'from':{'db':'secret','coll':'d'}}}]}", false},
        {"read", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$lookup':{'from':'d','pipeline':[{'$lookup':{'from':'"
         "system.js'}}]}}]}",
         true},
        {"read", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$lookup':{'from':'d','pipeline':[{'$unionWith':'system."
         "users'}]}}]}",
         false},
        {"read", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$facet':{'a':[{'$unionWith':'system.users'}]}}]}", false},
        {"read", "test", "aggregate", "test", "{'aggregate':'c','pipeline':[{'$out':'d'}]}", false},
        {"readWrite", "test", "aggregate", "test", "{'aggregate':'c','pipeline':[{'$out':'d'}]}",
         true},
        {"readWrite", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$out':{'db':'other','coll':'d'}}]}", false},
        {"readWrite", "test", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$merge':{'into':{'db':'other','coll':'d'}}}]}", false},
        {"readWrite", "test", "aggregate", "test", "{'aggregate':'c','pipeline':[{'$merge':'d'}]}",
         true},
        {"read", "test", "aggregate", "test", "{'aggregate':'c','pipeline':[{'$collStats':{}}]}",
         true},
        {"read", "test", "aggregate", "test", "{'aggregate':'c','pipeline':[{'$indexStats':{}}]}",
         false},
        {"clusterMonitor", "admin", "aggregate", "test",
         "{'aggregate':'c','pipeline':[{'$indexStats':{}}]}", true},
        {"clusterMonitor", "admin", "aggregate", "test", "{'aggregate':'c','pipeline':[]}", false},
        {"read", "test", "aggregate", "admin",
         "{'aggregate':1,'pipeline':[{'$currentOp':{'allUsers':1}}]}", false},
        {"read", "test", "aggregate", "admin", "{'aggregate':1,'pipeline':[{'$currentOp':{}}]}",
         true},
        {"clusterMonitor", "admin", "aggregate", "admin",
         "{'aggregate':1,'pipeline':[{'$currentOp':{'allUsers':1}}]}", true},
        {"read", "test", "aggregate", "other",
         "{'aggregate':1,'pipeline':[{'$documents':[]},{'$lookup':{'from':'d'}}]}", false},
        {"read", "test", "aggregate", "test",
         "{'aggregate':'c','bypassDocumentValidation':1,'pipeline':[]}", false},
        /* writes */
        {"readWrite", "test", "update", "test",
         "{'update':'c','updates':[{'q':{},'u':{},'upsert':1}]}", true},
        {"readWrite", "test", "insert", "test", "{'insert':'c','bypassDocumentValidation':1}",
         false},
        {"dbOwner", "test", "insert", "test", "{'insert':'c','bypassDocumentValidation':1}", true},
        {"readWrite", "test", "insert", "test", "{'insert':'system.users'}", false},
        {"readWrite", "test", "findAndModify", "test", "{'findAndModify':'c','remove':1}", true},
        {"read", "test", "findAndModify", "test", "{'findAndModify':'c','update':{}}", false},
        /* explain */
        {"read", "test", "explain", "test", "{'explain':{'find':'c'}}", true},
        {"read", "test", "explain", "test", "{'explain':{'delete':'c'}}", false},
        {"read", "test", "explain", "test",
         "{'explain':{'aggregate':'c','pipeline':[{'$unionWith':'system.users'}]}}", false},
        /* collections */
        {"readWrite", "test", "create", "test", "{'create':'v','viewOn':'c','pipeline':[]}", true},
        {"readWrite", "test", "create", "test",
         "{'create':'v','viewOn':'system.users','pipeline':[]}", false},
        {"readWrite", "test", "create", "test",
         "{'create':'v','viewOn':'c','pipeline':[{'$unionWith':'system.users'}]}", false},
        {"readWrite", "test", "renameCollection", "admin",
         "{'renameCollection':'test.a','to':'test.b'}", true},
        {"readWrite", "test", "renameCollection", "admin",
         "{'renameCollection':'test.a','to':'other.b'}", false},
        {"readWrite", "test", "renameCollection", "admin",
         "{'renameCollection':'test.a','to':'test.b','dropTarget':1}", true},
        {"readWriteAnyDatabase", "admin", "renameCollection", "admin",
         "{'renameCollection':'test.a','to':'other.b'}", true},
        {"read", "test", "dataSize", "test", "{'dataSize':'test.c'}", true},
        {"read", "test", "dataSize", "test", "{'dataSize':'other.c'}", false},
        {"read", "test", "profile", "test", "{'profile':-1}", false},
        {"dbAdmin", "test", "profile", "test", "{'profile':0}", true},
        /* operations */
        {"read", "test", "currentOp", "admin", "{'currentOp':1}", false},
        {"read", "test", "currentOp", "admin", "{'currentOp':1,'$ownOps':1}", true},
        {"hostManager", "admin", "killOp", "admin", "{'killOp':1,'op':1}", true},
        {"hostManager", "admin", "killAllSessions", "test", "{'killAllSessions':[]}", true},
        {"read", "test", "killAllSessions", "test", "{'killAllSessions':[]}", false},
        /* users and roles; the one who asks is anna of the role's database */
        {"userAdmin", "test", "createUser", "test", "{'createUser':'u','pwd':'p','roles':['read']}",
         true},
        {"userAdmin", "test", "createUser", "test",
         "{'createUser':'u','pwd':'p','roles':[{'role':'root','db':'admin'}]}", false},
        {"userAdmin", "test", "grantRolesToUser", "test",
         "{'grantRolesToUser':'anna','roles':[{'role':'root','db':'admin'}]}", false},
        {"userAdminAnyDatabase", "admin", "grantRolesToUser", "test",
         "{'grantRolesToUser':'u','roles':[{'role':'root','db':'admin'}]}", true},
        {"userAdmin", "test", "createRole", "test",
         "{'createRole':'r','roles':[],'privileges':[{'resource':{'cluster':1},'actions':[]}]}",
         false},
        {"userAdmin", "test", "createRole", "test",
         "{'createRole':'r','roles':[],'privileges':[{'resource':{'db':'','collection':''},'"
         "actions':[]}]}",
         false},
        {"userAdmin", "test", "createRole", "test",
         "{'createRole':'r','roles':[],'privileges':[{'resource':{'db':'test','collection':'x'},'"
         "actions':[]}]}",
         true},
        {"read", "test", "updateUser", "test", "{'updateUser':'anna','pwd':'p'}", false},
        {"read", "test", "usersInfo", "test", "{'usersInfo':'anna'}", true},
        {"read", "test", "usersInfo", "test", "{'usersInfo':'bert'}", false},
        {"read", "test", "usersInfo", "test", "{'usersInfo':[{'user':'anna','db':'test'},'bert']}",
         false},
        {"read", "test", "usersInfo", "test", "{'usersInfo':{'user':'anna','db':'other'}}", false},
        {"read", "test", "usersInfo", "test", "{'usersInfo':1}", false},
        {"userAdmin", "test", "usersInfo", "test", "{'usersInfo':1}", true},
        {"userAdmin", "test", "usersInfo", "test", "{'usersInfo':{'forAllDBs':1}}", false},
        {"userAdminAnyDatabase", "admin", "usersInfo", "test", "{'usersInfo':{'forAllDBs':1}}",
         true},
        {"read", "test", "rolesInfo", "test", "{'rolesInfo':'read'}", true},
        {"read", "test", "rolesInfo", "test", "{'rolesInfo':'readWrite'}", false},
        {"read", "test", "listCollections", "test", "{'listCollections':1}", true},
        {"read", "test", "listCollections", "other", "{'listCollections':1}", false},
        {"read", "test", "listCollections", "other",
         "{'listCollections':1,'authorizedCollections':1,'nameOnly':1}", true},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_access_grant_t grant;
        int rc = check(cases[i].role, cases[i].role_db, cases[i].command, cases[i].db,
                       json(cases[i].body), &grant);
        cr_expect_eq(rc == VD_OK, cases[i].yes, "case %zu: %s %s", i, cases[i].role, cases[i].body);
    }
}

/* Somebody who may read and write the collection c alone, and every way to name another one. */
Test(access, every_collection_that_a_pipeline_touches)
{
    static const char *const stages[] = {
        "{'$lookup':{'from':'%s','as':'r'}}",
        "{'$lookup':{'from':'%s','pipeline':[],'as':'r'}}",
        "{'$lookup':{'from':{'db':'test','coll':'%s'},'as':'r'}}",
        "{'$lookup':{'from':'c','pipeline':[{'$unionWith':'%s'}],'as':'r'}}",
        "{'$graphLookup':{'from':'%s','as':'r'}}",
        "{'$unionWith':'%s'}",
        "{'$unionWith':{'coll':'%s'}}",
        "{'$unionWith':{'coll':'c','pipeline':[{'$lookup':{'from':'%s','as':'r'}}]}}",
        "{'$unionWith':{'pipeline':[{'$documents':[]},{'$graphLookup':{'from':'%s'}}]}}",
        "{'$out':'%s'}",
        "{'$out':{'db':'test','coll':'%s'}}",
        "{'$merge':'%s'}",
        "{'$merge':{'into':'%s'}}",
        "{'$merge':{'into':{'db':'test','coll':'%s'},'whenMatched':'fail'}}",
        "{'$merge':{'into':'%s','whenNotMatched':'discard'}}",
    };
    static const struct {
        const char *command, *before, *after;
    } around[] = {
        {"aggregate", "{'aggregate':'c','pipeline':[", "]}"},
        {"aggregate", "{'aggregate':'c','pipeline':[{'$match':{}},", "]}"},
        {"aggregate", "{'aggregate':'c','pipeline':[{'$facet':{'a':[],'b':[", "]}}]}"},
        {"aggregate", "{'aggregate':'c','pipeline':[{'$lookup':{'from':'c','pipeline':[", "]}}]}"},
        {"aggregate",
         "{'aggregate':'c','pipeline':[{'$facet':{'a':[{'$unionWith':{'coll':'c',"
         "'pipeline':[",
         "]}}]}}]}"},
        {"explain", "{'explain':{'aggregate':'c','pipeline':[", "]}}"},
        {"create", "{'create':'c','viewOn':'c','pipeline':[", "]}"},
        {"collMod", "{'collMod':'c','viewOn':'c','pipeline':[", "]}"},
    };
    gate_privileges_t privileges = {.arena = arena};
    const gate_resource_t c = {GATE_RESOURCE_COLLECTION, VD_SLICE_LIT("test"), VD_SLICE_LIT("c")};
    gate_actions_t allowed = {0};
    static const gate_action_t actions[] = {
        GATE_ACTION_find,   GATE_ACTION_insert,           GATE_ACTION_update,
        GATE_ACTION_remove, GATE_ACTION_createCollection, GATE_ACTION_collMod};
    for (size_t i = 0; i < VD_COUNT_OF(actions); i++)
        gate_actions_add(&allowed, actions[i]);
    gate_privileges_add(&privileges, &c, &allowed);
    gate_principal_t who = {VD_SLICE_LIT("anna"), VD_SLICE_LIT("test"), &privileges, NULL, 0};
    for (size_t a = 0; a < VD_COUNT_OF(around); a++) {
        const gate_command_t *command = gate_command_find(vd_slice_str(around[a].command));
        for (size_t i = 0; i < VD_COUNT_OF(stages); i++) {
            for (int secret = 0; secret < 2; secret++) {
                char text[900];
                int cut = (int)(strstr(stages[i], "%s") - stages[i]);
                (void)snprintf(text, sizeof text, "%s%.*s%s%s%s", around[a].before, cut, stages[i],
                               secret ? "secret" : "c", stages[i] + cut + 2, around[a].after);
                vdp_sections_t sections = {.body = json(text)};
                gate_access_grant_t grant;
                int rc =
                    gate_access_check(command, VD_SLICE_LIT("test"), &sections, &who, &grant, NULL);
                cr_expect_eq(rc, secret ? VD_ERR_UNAUTHORIZED : VD_OK, "%s", text);
            }
        }
    }
}

/* Of two fields of one name one is checked and the other might be done: both are of no avail, not
 * even to those who may everything. */
Test(access, what_a_stage_says_twice)
{
    static const char *const stages[] = {
        "{'$lookup':{'from':'c','from':'d','as':'r'}}",
        "{'$lookup':{'from':'c','pipeline':[],'pipeline':[{'$unionWith':'d'}],'as':'r'}}",
        "{'$lookup':{'from':{'db':'test','db':'other','coll':'c'},'as':'r'}}",
        "{'$graphLookup':{'from':'c','as':'r','from':'d'}}",
        "{'$unionWith':{'coll':'c','coll':'d'}}",
        "{'$unionWith':{'coll':'c','pipeline':[],'pipeline':[{'$unionWith':'d'}]}}",
        "{'$facet':{'a':[{'$unionWith':{'coll':'c','coll':'d'}}]}}",
        "{'$out':{'db':'test','coll':'c','coll':'d'}}",
        "{'$out':{'db':'test','coll':'c','db':'other'}}",
        "{'$merge':{'into':'c','into':'d'}}",
        "{'$merge':{'into':{'db':'test','coll':'c','coll':'d'}}}",
        "{'$merge':{'into':{'db':'test','coll':'c','db':'other'}}}",
        "{'$merge':{'into':'c','whenMatched':'fail','whenMatched':'replace'}}",
        "{'$merge':{'into':'c','whenNotMatched':'discard','whenNotMatched':'insert'}}",
    };
    for (size_t i = 0; i < VD_COUNT_OF(stages); i++) {
        char text[300];
        gate_access_grant_t grant;
        (void)snprintf(text, sizeof text, "{'aggregate':'c','pipeline':[%s]}", stages[i]);
        cr_expect_eq(check("root", "admin", "aggregate", "test", json(text), &grant),
                     VD_ERR_UNAUTHORIZED, "%s", text);
    }
    static const char *const asks[] = {
        "{'aggregate':1,'pipeline':[{'$currentOp':{'allUsers':0,'allUsers':1}}]}",
        "{'aggregate':1,'pipeline':[{'$listSessions':{'allUsers':0,'allUsers':1}}]}",
        ("{'aggregate':1,'pipeline':[{'$changeStream':{'allChangesForCluster':0,"
         "'allChangesForCluster':1}}]}"),
    };
    for (size_t i = 0; i < VD_COUNT_OF(asks); i++) {
        gate_access_grant_t grant;
        cr_expect_eq(check("read", "admin", "aggregate", "admin", json(asks[i]), &grant),
                     VD_ERR_UNAUTHORIZED, "%s", asks[i]);
    }
}

Test(access, pipelines_nested_without_end_are_refused)
{
    char text[4096] = "";
    size_t n = (size_t)snprintf(text, sizeof text, "{'aggregate':'c','pipeline':");
    for (int i = 0; i < 45; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "[{'$facet':{'a':");
    n += (size_t)snprintf(text + n, sizeof text - n, "[]");
    for (int i = 0; i < 45; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "}}]");
    (void)snprintf(text + n, sizeof text - n, "}");
    gate_access_grant_t grant;
    cr_expect_eq(check("root", "admin", "aggregate", "test", json(text), &grant),
                 VD_ERR_UNAUTHORIZED);
}

/* ---- roles ---- */

Test(access, built_in_roles_exist_where_they_should)
{
    static const char *const anywhere[] = {"read", "readWrite", "dbAdmin", "userAdmin", "dbOwner"};
    static const char *const on_admin[] = {"clusterMonitor",
                                           "clusterManager",
                                           "hostManager",
                                           "clusterAdmin",
                                           "backup",
                                           "restore",
                                           "readAnyDatabase",
                                           "readWriteAnyDatabase",
                                           "userAdminAnyDatabase",
                                           "dbAdminAnyDatabase",
                                           "root",
                                           "__system"};
    for (size_t i = 0; i < VD_COUNT_OF(anywhere); i++) {
        cr_expect(gate_role_is_builtin(
            (gate_role_ref_t){vd_slice_str(anywhere[i]), VD_SLICE_LIT("test")}));
        cr_expect(gate_role_is_builtin(
            (gate_role_ref_t){vd_slice_str(anywhere[i]), VD_SLICE_LIT("admin")}));
    }
    for (size_t i = 0; i < VD_COUNT_OF(on_admin); i++) {
        cr_expect_not(gate_role_is_builtin(
            (gate_role_ref_t){vd_slice_str(on_admin[i]), VD_SLICE_LIT("test")}));
        cr_expect(gate_role_is_builtin(
                      (gate_role_ref_t){vd_slice_str(on_admin[i]), VD_SLICE_LIT("admin")}),
                  "%s", on_admin[i]);
    }
    cr_expect_not(
        gate_role_is_builtin((gate_role_ref_t){VD_SLICE_LIT("Read"), VD_SLICE_LIT("test")}));
}

static gate_role_t role_from(const char *text)
{
    gate_role_t role;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(gate_role_parse(arena, json(text), &role, &err), VD_OK, "%s", err.message);
    return role;
}

Test(access, custom_roles_inherit_and_cycles_end)
{
    gate_role_t items[] = {
        role_from("{'role':'a','db':'test','privileges':[{'resource':{'db':'test','collection':'x'}"
                  ",'actions':['find']}],'roles':['b']}"),
        role_from("{'role':'b','db':'test','privileges':[],'roles':[{'role':'c','db':'test'},{'"
                  "role':'gone','db':'test'}]}"),
        role_from("{'role':'c','db':'test','privileges':[{'resource':{'cluster':1},'actions':['"
                  "inprog']}],'roles':['a',{'role':'read','db':'other'}]}"),
    };
    gate_role_set_t set = {items, 3};
    gate_role_ref_t start = items[0].name, *all;
    uint32_t count;
    gate_privileges_t privileges = {.arena = arena};
    gate_roles_resolve(&set, &start, 1, &privileges, &all, &count);
    cr_expect_eq(count, 5);
    cr_expect(gate_privileges_allow(&privileges, GATE_ACTION_find, GATE_RESOURCE_COLLECTION,
                                    VD_SLICE_LIT("test"), VD_SLICE_LIT("x")));
    cr_expect_not(gate_privileges_allow(&privileges, GATE_ACTION_find, GATE_RESOURCE_COLLECTION,
                                        VD_SLICE_LIT("test"), VD_SLICE_LIT("y")));
    cr_expect(gate_privileges_allow(&privileges, GATE_ACTION_find, GATE_RESOURCE_COLLECTION,
                                    VD_SLICE_LIT("other"), VD_SLICE_LIT("y")));
    cr_expect(gate_privileges_allow(&privileges, GATE_ACTION_inprog, GATE_RESOURCE_CLUSTER,
                                    VD_SLICE_NULL, VD_SLICE_NULL));
    cr_expect(gate_roles_reach(&set, items[0].name, items[2].name));
    cr_expect(gate_roles_reach(&set, items[2].name, items[0].name));
    cr_expect_not(gate_roles_reach(
        &set, (gate_role_ref_t){VD_SLICE_LIT("read"), VD_SLICE_LIT("test")}, items[0].name));
}

Test(access, privileges_that_can_not_be_read)
{
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        {"{'p':[{'resource':{'db':'a','collection':'b'},'actions':['find','insert']}]}", VD_OK},
        {"{'p':[{'resource':{'cluster':1},'actions':['anyAction']}]}", VD_OK},
        {"{'p':[{'resource':{'anyResource':1},'actions':[]}]}", VD_OK},
        {"{'p':1}", VD_ERR_TYPE_MISMATCH},
        {"{'p':['x']}", VD_ERR_TYPE_MISMATCH},
        {"{'p':[{'resource':{'db':'a'},'actions':[]}]}", VD_ERR_FAILED_TO_PARSE},
        {"{'p':[{'resource':{'cluster':1,'db':'a'},'actions':[]}]}", VD_ERR_FAILED_TO_PARSE},
        {"{'p':[{'resource':{'cluster':0},'actions':[]}]}", VD_ERR_FAILED_TO_PARSE},
        {"{'p':[{'actions':[]}]}", VD_ERR_FAILED_TO_PARSE},
        {"{'p':[{'resource':{'cluster':1}}]}", VD_ERR_FAILED_TO_PARSE},
        {"{'p':[{'resource':{'cluster':1},'actions':[1]}]}", VD_ERR_FAILED_TO_PARSE},
        {"{'p':[{'resource':{'cluster':1},'actions':['fly']}]}", VD_ERR_BAD_VALUE},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        gate_privileges_t privileges;
        int rc =
            gate_privileges_parse(arena, vd_bson_get(json(cases[i].text), "p"), &privileges, NULL);
        cr_expect_eq(rc, cases[i].rc, "case %zu: %d", i, rc);
    }
}

Test(access, names_of_actions)
{
    gate_action_t action;
    for (unsigned i = 0; i < GATE_ACTION_COUNT; i++)
        cr_expect(gate_action_by_name(vd_slice_str(gate_action_name((gate_action_t)i)), &action) &&
                  action == i);
    cr_expect_not(gate_action_by_name(VD_SLICE_LIT("Find"), &action));
}
