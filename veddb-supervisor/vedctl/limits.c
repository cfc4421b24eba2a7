/* veddb-supervisor/vedctl/limits.c — vedctl limits: what users, addresses and all together may
 * have. The supervisor passes the words on to gatewayd. */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WORDS_MAX 120 /* all of it stands in the audit log */

static const char usage[] =
    "usage: vedctl limits VERB ...\n"
    "  show                       limits in force, and how often they refused and delayed\n"
    "  set [user=NAME@DB] NAME=VALUE ...\n"
    "                             until the node stops; 0 = no limit\n"
    "  reset [user=NAME@DB]       as in the configuration\n"
    "--json prints answers as they came.\n";

static void print_limits(const bson_t *doc)
{
    bson_t limits, changed;
    bson_iter_t iter, from;
    bool any = vedctl_sub(doc, "changed", &changed);
    if (!vedctl_sub(doc, "limits", &limits) || !bson_iter_init(&iter, &limits))
        return;
    while (bson_iter_next(&iter)) {
        const char *name = bson_iter_key(&iter);
        int64_t value = bson_iter_as_int64(&iter);
        if (value == 0)
            printf("%-26s no limit", name);
        else
            printf("%-26s %" PRId64, name, value);
        if (any && bson_iter_init_find(&from, &changed, name))
            printf("   (configured: %" PRId64 ")", bson_iter_as_int64(&from));
        putchar('\n');
    }
}

static void print_users(const bson_t *doc)
{
    bson_t users, user;
    bson_iter_t iter;
    if (!vedctl_sub(doc, "users", &users) || !bson_iter_init(&iter, &users))
        return;
    while (vedctl_next(&iter, &user))
        printf("%s: %s %" PRId64 "\n", vedctl_text(&user, "user"), vedctl_text(&user, "limit"),
               vedctl_number(&user, "value"));
}

static void print_counts(const bson_t *doc, const char *what)
{
    bson_t counts, count;
    bson_iter_t iter;
    if (!vedctl_sub(doc, what, &counts) || !bson_iter_init(&iter, &counts))
        return;
    while (vedctl_next(&iter, &count))
        printf("%s: %s per %s: %" PRId64 "\n", what, vedctl_text(&count, "kind"),
               vedctl_text(&count, "scope"), vedctl_number(&count, "count"));
}

int vedctl_limits(const vedctl_t *ctl)
{
    char words[WORDS_MAX + 1] = "";
    size_t len = 0;
    vd_buf_t json;
    bson_t part;
    int exit_code = VD_EXIT_FAILURE;
    for (int i = 0; i < ctl->argc; i++) {
        int n = snprintf(words + len, sizeof words - len, "%s%s", i == 0 ? "" : " ", ctl->argv[i]);
        if (n < 0 || (size_t)n >= sizeof words - len) {
            fputs("vedctl: that is too long for one call: set them one by one\n", stderr);
            return VD_EXIT_USAGE;
        }
        len += (size_t)n;
    }
    if (ctl->argc == 0) {
        fputs(usage, stderr);
        return VD_EXIT_USAGE;
    }
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    if (vedctl_ask(ctl, "limits", words, words, &json) == VD_OK) {
        bson_t *doc = vedctl_parse(&json);
        vd_slice_t text = vd_buf_slice(&json);
        if (doc != NULL && ctl->json) {
            printf("%.*s\n", VD_SLICE_FMT(text));
        } else if (doc != NULL) {
            print_limits(doc);
            print_users(doc);
            if ((vedctl_sub(doc, "changed", &part) && bson_count_keys(&part) > 0) ||
                (vedctl_sub(doc, "users", &part) && bson_count_keys(&part) > 0))
                puts("(what was set live outlives the gateway, not the node: what shall last "
                     "belongs in the configuration)");
            print_counts(doc, "refused");
            print_counts(doc, "delayed");
        }
        exit_code = doc != NULL ? VD_EXIT_OK : VD_EXIT_FAILURE;
        if (doc != NULL)
            bson_destroy(doc);
    }
    vd_buf_done(&json);
    return exit_code;
}
