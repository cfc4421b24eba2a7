/* tests/unit/replicad/test_members.c — the configuration: read, checked, changed. */
#include "veddb-replicad/members.h"

#include <bson/bson.h>
#include <criterion/criterion.h>
#include <stdlib.h>

static const char two[] =
    "{\"_id\":\"s\",\"version\":3,\"term\":2,\"members\":["
    "{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\",\"peer\":\"h:11\"},"
    "{\"_id\":2,\"name\":\"b\",\"host\":\"h:2\",\"peer\":\"h:12\",\"priority\":2.0,"
    "\"tags\":{\"dc\":\"x\"}}]}";

static int parse(const char *json, const repl_config_t *known, repl_config_t *config)
{
    bson_error_t why;
    bson_t *doc = bson_new_from_json((const uint8_t *)json, -1, &why);
    cr_assert_not_null(doc, "%s", json);
    int rc = repl_config_parse((vd_bson_t){bson_get_data(doc), doc->len}, known, config, NULL);
    bson_destroy(doc);
    return rc;
}

static repl_config_t *config_of(const char *json)
{
    repl_config_t *config = calloc(1, sizeof *config);
    cr_assert_eq(parse(json, NULL, config), VD_OK);
    return config;
}

Test(members, there_and_back)
{
    repl_config_t *config = config_of(two), *again = calloc(1, sizeof *again);
    cr_assert_eq(config->count, 2);
    cr_assert_eq(config->members[1].priority, 2);
    cr_assert(config->members[0].votes);
    vd_bb_t bb;
    vd_bson_t doc;
    vd_bb_init(&bb, VDP_SET_CONFIG_MAX);
    cr_assert_eq(repl_config_build(config, &bb, &doc, NULL), VD_OK);
    cr_assert_eq(repl_config_parse(doc, NULL, again, NULL), VD_OK);
    cr_assert_eq(memcmp(config, again, sizeof *config), 0);
    vd_bb_done(&bb);
    free(config), free(again);
}

Test(members, refused)
{
    static const char *const bad[] = {
        "{}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[]}",
        "{\"_id\":\"s\",\"version\":0,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\"}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":0,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\"}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h\","
        "\"peer\":\"h:2\"}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:70000\"}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\",\"votes\":0}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\",\"hidden\":true}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\",\"priority\":0}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\"},{\"_id\":2,\"name\":\"a\",\"host\":\"h:3\",\"peer\":\"h:4\"}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\",\"arbiterOnly\":true}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[{\"_id\":1,\"name\":\"a\",\"host\":\"h:1\","
        "\"peer\":\"h:2\",\"tags\":{\"a\":1}}]}",
        "{\"_id\":\"s\",\"version\":1,\"members\":[7]}",
    };
    repl_config_t *config = calloc(1, sizeof *config);
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++)
        cr_assert_eq(parse(bad[i], NULL, config), VD_ERR_INVALID_REPLICA_SET_CONFIG, "%s", bad[i]);
    free(config);
}

Test(members, limits)
{
    repl_config_t *config = config_of(two);
    bson_t *none = bson_new_from_json((const uint8_t *)"{\"votes\":0}", -1, NULL);
    vd_bson_t mute = {bson_get_data(none), none->len};
    char name[16], host[16], peer[16];
    for (int i = 3; i <= 51; i++) {
        (void)snprintf(name, sizeof name, "n%d", i);
        (void)snprintf(host, sizeof host, "h:%d", i);
        (void)snprintf(peer, sizeof peer, "p:%d", i);
        int rc = repl_config_add(config, name, host, peer, i <= 7 ? VD_BSON_NONE : mute, NULL);
        cr_assert_eq(rc, i <= REPL_MEMBERS_MAX ? VD_OK : VD_ERR_INVALID_REPLICA_SET_CONFIG, "%d",
                     i);
    }
    cr_assert_eq(repl_config_remove(config, VD_SLICE_LIT("n50"), NULL), VD_OK);
    cr_assert_eq(repl_config_add(config, "v8", "v:8", "w:8", VD_BSON_NONE, NULL),
                 VD_ERR_INVALID_REPLICA_SET_CONFIG, "an eighth vote");
    bson_destroy(none);
    free(config);
}

Test(members, what_may_follow)
{
    repl_config_t *now = config_of(two), *next = config_of(two);
    const int no = VD_ERR_NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE;
    cr_assert_eq(repl_config_follows(now, next, false, NULL), no, "the same version");
    next->version++;
    cr_assert_eq(repl_config_follows(now, next, false, NULL), VD_OK);
    cr_assert_eq(repl_config_add(next, "c", "h:3", "h:13", VD_BSON_NONE, NULL), VD_OK);
    cr_assert_eq(next->members[2].id, 3);
    cr_assert_eq(repl_config_follows(now, next, false, NULL), VD_OK);
    cr_assert_eq(repl_config_remove(next, VD_SLICE_LIT("h:1"), NULL), VD_OK);
    cr_assert_eq(repl_config_follows(now, next, false, NULL), no, "two votes at once");
    cr_assert_eq(repl_config_follows(now, next, true, NULL), VD_OK);
    next->members[0].id = 9;
    cr_assert_eq(repl_config_follows(now, next, true, NULL), no, "an _id changes its node");
    cr_assert_eq(repl_config_remove(next, VD_SLICE_LIT("nobody"), NULL), VD_ERR_NODE_NOT_FOUND);
    free(now), free(next);
}

Test(members, a_shell_need_not_know_peers)
{
    repl_config_t *now = config_of(two), *next = calloc(1, sizeof *next);
    cr_assert_eq(parse("{\"_id\":\"s\",\"version\":4,\"members\":[{\"_id\":1,\"host\":\"h:1\"},"
                       "{\"_id\":2,\"host\":\"h:2\",\"priority\":0}]}",
                       now, next),
                 VD_OK);
    cr_assert_str_eq(next->members[1].peer, "h:12");
    cr_assert_str_eq(next->members[1].name, "b");
    free(now), free(next);
}

Test(members, newer)
{
    repl_config_t *config = config_of(two);
    cr_assert(repl_config_newer(2, 4, config));
    cr_assert(repl_config_newer(3, 1, config));
    cr_assert(!repl_config_newer(2, 3, config));
    cr_assert(!repl_config_newer(1, 9, config));
    cr_assert(!repl_config_newer(9, 0, config));
    free(config);
}
