/* tests/unit/supervisor/test_kinds.c — the table of programs: who joins, who needs whom, who gets
 * which socket. */
#include "veddb-supervisor/spawn.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

static vd_config_t *config_of(char *const *flags, int count)
{
    vd_config_t *config = NULL;
    vd_error_t err = VD_ERROR_INIT;
    cr_assert_eq(vd_config_load(NULL, flags, count, &config, &err), VD_OK, "%s", err.message);
    return config;
}

Test(kinds, replicad_joins_when_it_has_a_port)
{
    char port[] = "--replication.port=27117", certificate[] = "--replication.certificate_file=/c",
         key[] = "--replication.key_file=/k", ca[] = "--replication.ca_file=/a";
    char *const flags[] = {port, certificate, key, ca};
    vd_config_t *alone = config_of(NULL, 0), *many = config_of(flags, 4);
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        cr_expect_eq(sup_kind_joins((sup_kind_id_t)i, alone), i != SUP_KIND_REPLICAD);
        cr_expect(sup_kind_joins((sup_kind_id_t)i, many));
    }
    vd_config_destroy(&alone);
    vd_config_destroy(&many);
}

Test(kinds, what_one_needs_stands_before_it)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++) {
        cr_expect_eq(sup_kinds[i].needs >> i, 0, "%s", sup_kinds[i].name);
        cr_expect_eq(sup_kind_by_name(sup_kinds[i].name), i);
        cr_expect_eq(sup_kind_by_name(sup_kinds[i].program), i);
    }
    cr_expect_eq(sup_kinds[SUP_KIND_REPLICAD].needs, 1u << SUP_KIND_STORAGED);
    cr_expect_eq(sup_kinds[SUP_KIND_GATEWAYD].needs, 1u << SUP_KIND_STORAGED,
                 "clients are served also while replicad is down");
    cr_expect_eq(sup_kind_by_name("replica"), -1);
}

Test(kinds, no_letter_is_used_twice)
{
    for (int i = 0; i < SUP_KIND_COUNT; i++)
        for (int j = 0; j < i; j++)
            cr_expect_neq(sup_kinds[i].letter, sup_kinds[j].letter);
}

Test(kinds, the_sockets_of_a_kind_are_opened_where_it_is_configured)
{
    char address[] = "--replication.listen=127.0.0.2";
    char *const flags[] = {address};
    vd_config_t *config = config_of(flags, 1);
    size_t count = 0;
    vd_error_t err = VD_ERROR_INIT;
    for (size_t i = 0; i < SUP_LISTENERS_MAX; i++) {
        sup_listener_t listener;
        if (sup_listenings[i].kind != SUP_KIND_REPLICAD)
            continue;
        count++; /* port 0: a free one */
        cr_assert_eq(sup_listen(&sup_listenings[i], config, &listener, &err), VD_OK, "%s",
                     err.message);
        cr_expect_gt(listener.port, 0);
        cr_expect_str_eq(listener.what->name, "REPLICATION");
        (void)close(listener.fd);
    }
    cr_expect_eq(count, 1);
    vd_config_destroy(&config);
}

Test(kinds, an_address_that_is_none_is_told_with_its_option)
{
    char address[] = "--replication.listen=nowhere";
    char *const flags[] = {address};
    vd_config_t *config = config_of(flags, 1);
    vd_error_t err = VD_ERROR_INIT;
    sup_listener_t listener;
    for (size_t i = 0; i < SUP_LISTENERS_MAX; i++)
        if (sup_listenings[i].kind == SUP_KIND_REPLICAD)
            cr_expect_eq(sup_listen(&sup_listenings[i], config, &listener, &err), VD_ERR_CONFIG);
    cr_expect_not_null(strstr(err.message, "replication.listen: nowhere"), "%s", err.message);
    vd_config_destroy(&config);
}
