/* tests/unit/runtime/test_config.c — options: file, environment and flags in order; what is refused
 * and how it is named; packing for a worker. */
#include "libcommon/runtime/config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(config, .timeout = 300);

static int load_text(const char *text, vd_config_t **ret_config, vd_error_t *err)
{
    char file[] = "/tmp/vdconfigXXXXXX";
    int fd = mkstemp(file);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    int rc = vd_config_load(file, NULL, 0, ret_config, err);
    (void)unlink(file);
    return rc;
}

Test(config, every_default_is_valid)
{
    vd_config_t *config = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_config_load(NULL, NULL, 0, &config, &err), VD_OK, "%s", err.message);
    cr_assert_eq(vd_config_number(config, "gateway.port"), 27017);
    cr_assert_eq(vd_config_number(config, "supervisor.heartbeat"), 1000);
    cr_assert_eq(vd_config_number(config, "storage.scrub"), 600000);
    cr_assert_eq(vd_config_number(config, "gateway.held_max"), 64 << 20);
    cr_assert_str_eq(vd_config_string(config, "log.level"), "info");
    cr_assert_not(vd_config_bool(config, "test.faults"));
    vd_config_destroy(&config);
    vd_config_destroy(&config);
    for (size_t i = 0; i < vd_option_count; i++) {
        cr_assert_not_null(strchr(vd_options[i].name, '.'), "%s", vd_options[i].name);
        cr_assert_gt(strlen(vd_options[i].help), 10);
        cr_assert_eq(strspn(vd_options[i].programs, "srtgp"), strlen(vd_options[i].programs));
        cr_assert_gt(strlen(vd_options[i].programs), 0);
        for (size_t j = 0; j < i; j++)
            cr_assert_str_neq(vd_options[i].name, vd_options[j].name);
    }
}

Test(config, the_file)
{
    vd_config_t *config = NULL;
    vd_error_t err = VD_ERROR_INIT;
    static const char text[] = "# a comment\n"
                               "gateway:\n"
                               "  port: 4000   # and one here\n"
                               "  held_max: 2 GB\n"
                               "  listen: \"127.0.0.1\"\n"
                               "tls:\n"
                               "  # nothing set\n"
                               "node.name: flat-names-work-too\n"
                               "storage:\n"
                               "  checkpoint: 2min\n"
                               "node:\n"
                               "  users: yes\n";
    cr_assert_eq(load_text(text, &config, &err), VD_OK, "%s", err.message);
    cr_assert_eq(vd_config_number(config, "gateway.port"), 4000);
    cr_assert_eq(vd_config_number(config, "gateway.held_max"), 2LL << 30);
    cr_assert_eq(vd_config_number(config, "storage.checkpoint"), 120000);
    cr_assert_str_eq(vd_config_string(config, "node.name"), "flat-names-work-too");
    cr_assert(vd_config_bool(config, "node.users"));
    vd_config_destroy(&config);
    static const char *const empty[] = {"", "\n", "# only this\n", "---\n", "gateway:\n"};
    for (size_t i = 0; i < VD_COUNT_OF(empty); i++) {
        cr_assert_eq(load_text(empty[i], &config, &err), VD_OK, "%zu: %s", i, err.message);
        vd_config_destroy(&config);
    }
}

Test(config, what_is_wrong_is_named)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"gateway:\n  prot: 1\n", ":2: unknown key gateway.prot"},
        {"gatewya:\n  port: 1\n", ":1: unknown key gatewya"},
        {"port: 1\n", ":1: unknown key port"},
        {"gateway: 7\n", ":1: unknown key gateway"},
        {"gateway:\n  port:\n    deep: 1\n", ":2: unknown key gateway.port"},
        {"gateway:\n  port: 1\n  port: 2\n", ":3: a second value for gateway.port"},
        {"gateway:\n  port: 1\ngateway.port: 2\n", ":3: a second value"},
        {"gateway:\n  port: 65536\n",
         ":2: gateway.port is \"65536\", expected a whole number from 0 to 65535"},
        {"gateway:\n  port: -1\n", "gateway.port is \"-1\""},
        {"gateway:\n  port: 1x\n", "gateway.port is \"1x\""},
        {"gateway:\n  port: 99999999999999999999\n", "gateway.port is"},
        {"gateway:\n  port: \"\"\n", "gateway.port is \"\""},
        {"gateway:\n  held_max: 5XB\n", "expected a size such as"},
        {"gateway:\n  held_max: 9223372036854775807TB\n", "expected a size such as"},
        {"gateway:\n  held_max: 1KB\n", "from 1048576 to"},
        {"supervisor:\n  heartbeat: 1000\n", "expected a time with its unit"},
        {"supervisor:\n  heartbeat: 99ms\n", "from 100ms to 60000ms"},
        {"supervisor:\n  heartbeat: 61s\n", "from 100ms to 60000ms"},
        {"log:\n  level: loud\n", "expected one of debug|info|warn|error|fatal"},
        {"log:\n  level: inf\n", "expected one of"},
        {"log:\n  level: debug|info\n", "expected one of"},
        {"node:\n  users: maybe\n", "expected true or false"},
        {"node:\n  folder: relative/path\n", "an absolute path"},
        {"node:\n  name: \"\"\n", "1 to 63 bytes"},
        {"node:\n  name: \"a\\nb\"\n", "node.name is"},
        {"node:\n  name: \"a\\0b\"\n", "a NUL byte"},
        {"node:\n  name: 1234567890123456789012345678901234567890123456789012345678901234\n",
         "1 to 63 bytes"},
        {"gateway:\n  port: [1, 2]\n", ":2: neither a value nor a section: gateway.port"},
        {"- a\n- b\n", ":1: a list or reference"},
        {"just words\n", ":1: not a list of keys"},
        {"gateway:\n  port: &a 1\n", "an anchor at gateway.port"},
        {"gateway:\n  port: *a\n", ":2:"},
        {"? {a: b}\n: c\n", ":1: a second document, or a mapping as a key"},
        {"gateway:\n  port: 1\n---\ngateway:\n  port: 2\n", ":4: a second document"},
        {"gateway:\n port: 1\n  bad\n", ":"},
        {"\"unclosed\n", ":"},
        {"test:\n  faults: true\ngateway:\n  listen: 0.0.0.0\n", "test.faults is refused"},
        {"test:\n  fault_points: a=kill\n", "needs test.faults"},
        {"keys:\n  kek_file: /a\n  kek_command: /b\n", "exclude each other"},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        vd_config_t *config = NULL;
        vd_error_t err = VD_ERROR_INIT;
        cr_assert_eq(load_text(cases[i].text, &config, &err), VD_ERR_CONFIG, "accepted: %s",
                     cases[i].text);
        cr_assert_not_null(strstr(err.message, cases[i].says), "%s\n  says \"%s\"\n  not \"%s\"",
                           cases[i].text, err.message, cases[i].says);
        cr_assert_null(config);
    }
    vd_config_t *config = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_config_load("/no/such/file", NULL, 0, &config, &err), VD_ERR_CONFIG);
    cr_assert_not_null(strstr(err.message, "/no/such/file"));
}

Test(config, flag_beats_environment_beats_file)
{
    char file[] = "/tmp/vdconfigXXXXXX";
    int fd = mkstemp(file);
    static const char text[] = "gateway:\n  port: 1\n  http_port: 1\n  threads: 1\n";
    cr_assert_eq(write(fd, text, sizeof text - 1), (ssize_t)(sizeof text - 1));
    (void)close(fd);
    cr_assert_eq(setenv("VEDDB_GATEWAY_HTTP_PORT", "2", 1), 0);
    cr_assert_eq(setenv("VEDDB_GATEWAY_PORT", "2", 1), 0);
    cr_assert_eq(setenv("VEDDB_CONTROL_SOCKET", "/not/an/option", 1), 0);
    cr_assert_eq(setenv("VEDDB_FD_MONGO", "7", 1), 0);
    char *argv[] = {(char[]){"veddb-gatewayd"}, (char[]){"--gateway.port=3"}};
    vd_config_t *config = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_config_load(file, argv, 2, &config, &err), VD_OK, "%s", err.message);
    cr_assert_eq(vd_config_number(config, "gateway.threads"), 1);
    cr_assert_eq(vd_config_number(config, "gateway.http_port"), 2);
    cr_assert_eq(vd_config_number(config, "gateway.port"), 3);
    vd_config_destroy(&config);
    cr_assert_eq(setenv("VEDDB_GATEWAY_PORT", "x", 1), 0);
    cr_assert_eq(vd_config_load(file, NULL, 0, &config, &err), VD_ERR_CONFIG);
    cr_assert_not_null(strstr(err.message, "VEDDB_GATEWAY_PORT: gateway.port"), "%s", err.message);
    cr_assert_eq(unsetenv("VEDDB_GATEWAY_PORT"), 0);
    cr_assert_eq(setenv("VEDDB_NO_SUCH", "x", 1), 0);
    vd_error_clear(&err);
    cr_assert_eq(vd_config_load(file, NULL, 0, &config, &err), VD_ERR_CONFIG);
    cr_assert_not_null(strstr(err.message, "VEDDB_NO_SUCH"), "%s", err.message);
    (void)unlink(file);
}

Test(config, bad_flags)
{
    static const char *const flags[] = {"--gateway.port", "--nothing=1", "gateway.port=1",
                                        "--gateway.port=x", "--=1"};
    for (size_t i = 0; i < VD_COUNT_OF(flags); i++) {
        char copy[64];
        (void)snprintf(copy, sizeof copy, "%s", flags[i]);
        char *argv[] = {(char[]){"program"}, copy};
        vd_config_t *config = NULL;
        cr_assert_eq(vd_config_load(NULL, argv, 2, &config, NULL), VD_ERR_CONFIG, "%s", flags[i]);
    }
}

Test(config, a_worker_gets_its_part)
{
    char *argv[] = {(char[]){"--gateway.port=4242"}, (char[]){"--node.name=n7"}};
    vd_config_t *config = NULL, *part = NULL;
    vd_buf_t blob, text;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&blob, 1 << 20);
    vd_buf_init(&text, 1 << 20);
    cr_assert_eq(vd_config_load(NULL, argv, 2, &config, NULL), VD_OK);
    cr_assert_eq(vd_config_pack(config, 'g', &blob, NULL), VD_OK);
    cr_assert_eq(setenv("VEDDB_GATEWAY_PORT", "1", 1), 0);
    cr_assert_eq(vd_config_unpack(vd_buf_slice(&blob), &part, &err), VD_OK, "%s", err.message);
    cr_assert_eq(vd_config_number(part, "gateway.port"), 4242, "the environment has no say here");
    cr_assert_str_eq(vd_config_string(part, "node.name"), "n7");
    cr_assert_eq(vd_config_print(part, &text, false, NULL), VD_OK);
    cr_assert_eq(vd_buf_append_u8(&text, 0), VD_OK);
    cr_assert_null(strstr((char *)text.data, "kek_file"), "another program's option");
    cr_assert_not_null(strstr((char *)text.data, "port: 4242"));
    vd_config_destroy(&part);
    /* Malformed blobs: every truncation, and a changed byte anywhere never reads outside. */
    for (size_t len = 0; len < vd_buf_len(&blob); len++) {
        uint8_t *copy = malloc(len == 0 ? 1 : len);
        memcpy(copy, vd_buf_at(&blob, 0), len);
        if (vd_config_unpack(vd_slice(copy, len), &part, NULL) == VD_OK)
            vd_config_destroy(&part);
        free(copy);
    }
    cr_assert_eq(vd_config_unpack(VD_SLICE_LIT("VDC1\4\0\0\0none\0\0\0\0"), &part, NULL),
                 VD_ERR_CONFIG);
    cr_assert_eq(vd_config_unpack(VD_SLICE_LIT("VDC1\xff\xff\xff\xff"), &part, NULL),
                 VD_ERR_CONFIG);
    cr_assert_eq(vd_config_unpack(VD_SLICE_LIT("bad"), &part, NULL), VD_ERR_CONFIG);
    vd_config_destroy(&config);
    vd_buf_done(&blob);
    vd_buf_done(&text);
}

Test(config, replication_needs_what_belongs_to_it)
{
#define FILES "replication:\n  port: 1\n  certificate_file: /c\n  key_file: /k\n  ca_file: /a\n"
    static const struct {
        const char *text, *complaint; /* NULL: good */
    } cases[] = {
        {"replication:\n  listen: 127.0.0.2\n", NULL},
        {FILES, NULL},
        {"replication:\n  port: 1\n", "needs replication.certificate_file"},
        {"replication:\n  port: 1\n  certificate_file: /c\n", "needs replication.key_file"},
        {"replication:\n  port: 1\n  certificate_file: /c\n  key_file: /k\n",
         "needs replication.ca_file"},
        {"replication:\n  failover: etcd\n", "replication.failover needs replication.port"},
        {"replication:\n  join: a:1\n", "replication.join needs replication.port"},
        {FILES "  failover: etcd\n", "needs replication.etcd_endpoints"},
        {FILES "  failover: etcd\n  etcd_endpoints: https://127.0.0.1:2379\n", NULL},
        {FILES "  etcd_key_file: /e\n", "go together"},
        {FILES "  listen: 0.0.0.0\n", "set replication.address"},
        {FILES "  listen: \"::\"\n", "set replication.address"},
        {FILES "  listen: 0.0.0.0\n  address: db1:27117\n", NULL},
        {FILES "  listen: 10.0.0.1\ntest:\n  faults: true\n", "replication.listen is on loopback"},
        {FILES "  listen: 127.0.0.3\ntest:\n  faults: true\n", NULL},
    };
#undef FILES
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        vd_config_t *config = NULL;
        vd_error_t err = VD_ERROR_INIT;
        int rc = load_text(cases[i].text, &config, &err);
        cr_expect_eq(rc, cases[i].complaint == NULL ? VD_OK : VD_ERR_CONFIG, "%zu: %s", i,
                     err.message);
        if (cases[i].complaint != NULL)
            cr_expect_not_null(strstr(err.message, cases[i].complaint), "%zu: %s", i, err.message);
        vd_config_destroy(&config);
    }
}

/* What print writes is read back the same. */
Test(config, printed_and_read_again)
{
    char *argv[] = {(char[]){"--node.name=quote\" back\\slash: #x"},
                    (char[]){"--gateway.held_max=3MB"}};
    vd_config_t *config = NULL, *again = NULL;
    vd_buf_t first, second;
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_init(&first, 1 << 20);
    vd_buf_init(&second, 1 << 20);
    cr_assert_eq(vd_config_load(NULL, argv, 2, &config, NULL), VD_OK);
    cr_assert_eq(vd_config_print(config, &first, true, NULL), VD_OK);
    cr_assert_eq(vd_buf_append_u8(&first, 0), VD_OK);
    cr_assert_eq(load_text((char *)first.data, &again, &err), VD_OK, "%s", err.message);
    cr_assert_eq(vd_config_print(again, &second, true, NULL), VD_OK);
    cr_assert_eq(vd_buf_append_u8(&second, 0), VD_OK);
    cr_assert_str_eq((char *)second.data, (char *)first.data);
    vd_config_destroy(&config);
    vd_config_destroy(&again);
    vd_buf_done(&first);
    vd_buf_done(&second);
}

/* deploy/config/veddb.yaml is what print makes of the defaults. Run with SAMPLE_WRITE=1 after a
 * change of options.def. */
Test(config, the_sample_is_up_to_date)
{
    static const char path[] = "deploy/config/veddb.yaml";
    static const char head[] = "# VedDB: every option, its meaning and its default. Later wins: "
                               "this file < environment < flag.\n\n";
    vd_config_t *config = NULL;
    vd_buf_t text;
    vd_buf_init(&text, 1 << 20);
    cr_assert_eq(vd_buf_append(&text, head, sizeof head - 1), VD_OK);
    cr_assert_eq(vd_config_load(NULL, NULL, 0, &config, NULL), VD_OK);
    cr_assert_eq(vd_config_print(config, &text, true, NULL), VD_OK);
    if (getenv("SAMPLE_WRITE") != NULL) {
        FILE *out = fopen(path, "w");
        cr_assert_not_null(out);
        cr_assert_eq(fwrite(vd_buf_at(&text, 0), 1, vd_buf_len(&text), out), vd_buf_len(&text));
        cr_assert_eq(fclose(out), 0);
    }
    char *have = malloc(1 << 20);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    size_t len = fread(have, 1, 1 << 20, file);
    (void)fclose(file);
    cr_assert(vd_slice_equal(vd_slice(have, len), vd_buf_slice(&text)),
              "%s is not what options.def says", path);
    free(have);
    vd_config_destroy(&config);
    cr_assert_eq(vd_config_load(path, NULL, 0, &config, NULL), VD_OK);
    vd_config_destroy(&config);
    vd_buf_done(&text);
}
