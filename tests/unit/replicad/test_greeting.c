/* tests/unit/replicad/test_greeting.c — what a node may say of itself. */
#include "veddb-replicad/greeting.h"

#include <criterion/criterion.h>

static vdp_peer_hello_t hello_of(vd_slice_t node)
{
    return (vdp_peer_hello_t){.protocol = VDP_PEER_PROTOCOL,
                              .node = node,
                              .set = VD_SLICE_LIT("rs0"),
                              .set_id = VD_SLICE_LIT("0123456789ab"),
                              .peer = VD_SLICE_LIT("10.0.0.1:7019"),
                              .host = VD_SLICE_LIT("10.0.0.1:27017"),
                              .config_version = 3,
                              .config_term = 4};
}

static int greet(const vdp_peer_hello_t *hello, repl_greeting_t *ret)
{
    char host[VDP_PEER_ADDRESS_MAX + 1];
    vd_error_t err = VD_ERROR_INIT;
    int rc = repl_greeting_read(hello, ret, host, &err);
    if (rc == VD_OK)
        cr_assert_str_eq(host, "10.0.0.1");
    return rc;
}

Test(greeting, is_copied)
{
    repl_greeting_t greeting;
    vdp_peer_hello_t hello = hello_of(VD_SLICE_LIT("n1"));
    memset(&greeting, 0x5a, sizeof greeting);
    cr_assert_eq(greet(&hello, &greeting), VD_OK);
    cr_assert_str_eq(greeting.node, "n1");
    cr_assert_str_eq(greeting.set, "rs0");
    cr_assert_str_eq(greeting.peer, "10.0.0.1:7019");
    cr_assert_str_eq(greeting.host, "10.0.0.1:27017");
    cr_assert(greeting.has_set_id && memcmp(greeting.set_id, "0123456789ab", 12) == 0);
    cr_assert(greeting.config_version == 3 && greeting.config_term == 4);
    hello.set_id = VD_SLICE_NULL; /* its storage is not there yet */
    cr_assert_eq(greet(&hello, &greeting), VD_OK);
    cr_assert_not(greeting.has_set_id);
}

/* It stands in log lines, which are not to be forged. */
Test(greeting, names)
{
    static const struct {
        const char *name;
        size_t len;
        int code;
    } names[] = {
        {"n1", 2, VD_OK},
        {"a-node.of_ours:7019", 19, VD_OK},
        {"n\xc3\xb6", 3, VD_OK},
        {"", 0, VD_ERR_PROTOCOL},
        {"n 1", 3, VD_ERR_PROTOCOL},
        {" n1", 3, VD_ERR_PROTOCOL},
        {"n1 ", 3, VD_ERR_PROTOCOL},
        {"n\"1", 3, VD_ERR_PROTOCOL},
        {"n1\nlevel=error", 14, VD_ERR_PROTOCOL},
        {"n\t1", 3, VD_ERR_PROTOCOL},
        {"n\r1", 3, VD_ERR_PROTOCOL},
        {"n\0001", 3, VD_ERR_PROTOCOL},
        {"n\x1b[2J", 5, VD_ERR_PROTOCOL},
        {"n\x7f", 2, VD_ERR_PROTOCOL},
    };
    for (size_t i = 0; i < VD_COUNT_OF(names); i++) {
        repl_greeting_t greeting;
        vdp_peer_hello_t hello = hello_of(vd_slice(names[i].name, names[i].len));
        cr_assert_eq(greet(&hello, &greeting), names[i].code, "%zu", i);
        cr_assert_str_eq(greeting.node, names[i].code == VD_OK ? names[i].name : "", "%zu", i);
    }
}

Test(greeting, protocol_and_address)
{
    static const char *const addresses[] = {"", "10.0.0.1", ":7019", "10.0.0.1:0", "::1:7019"};
    repl_greeting_t greeting;
    vdp_peer_hello_t hello = hello_of(VD_SLICE_LIT("n1"));
    hello.protocol++;
    cr_assert_eq(greet(&hello, &greeting), VD_ERR_PROTOCOL);
    for (size_t i = 0; i < VD_COUNT_OF(addresses); i++) {
        hello = hello_of(VD_SLICE_LIT("n1"));
        hello.peer = vd_slice_str(addresses[i]);
        cr_assert_eq(greet(&hello, &greeting), VD_ERR_PROTOCOL, "%s", addresses[i]);
    }
}
