/* veddb-supervisor/vedctl/audit.c — vedctl audit: what the sealed audit log says, and whether it is
 * whole. The supervisor passes each question on to rotated, explain to storage. */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define QUESTION_MAX 4000

static const char usage[] =
    "usage: vedctl audit VERB ...\n"
    "  status                     how far the log is sealed\n"
    "  verify                     checks all of it, and the second place\n"
    "  tail [N]                   the last records\n"
    "  search NAME=VALUE ...      atype, user (name@db), ns, result, since and until (ms since "
    "1970),\n"
    "                             text (anywhere), limit\n"
    "  prove N                    record N, with the signed head and the hashes that lead to it\n"
    "  explain                    which kinds of events audit.filter keeps\n"
    "--json prints answers as they came.\n";

static const char *date_print(int64_t ms, char buf[VEDCTL_TEXT_SIZE])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL ||
        strftime(buf, VEDCTL_TEXT_SIZE, "%Y-%m-%d %H:%M:%SZ", &tm) == 0)
        return "?";
    return buf;
}

static void print_status(const bson_t *doc)
{
    char date[VEDCTL_TEXT_SIZE];
    printf("log %s, storage %s\nsegment %" PRId64 ", head %" PRId64 " at %s, %" PRId64
           " records, sealing key %" PRId64 "\n",
           vedctl_flag(doc, "open") ? "open" : "NOT OPEN",
           vedctl_flag(doc, "attached") ? "attached" : "AWAY", vedctl_number(doc, "segment"),
           vedctl_number(doc, "head"), date_print(vedctl_number(doc, "sealed_ms"), date),
           vedctl_number(doc, "records"), vedctl_number(doc, "epoch"));
    if (*vedctl_text(doc, "alarm") != '\0')
        printf("ALARM: THE LOG WAS PUT BACK OR CHANGED: %s\n", vedctl_text(doc, "alarm"));
    if (*vedctl_text(doc, "problem") != '\0')
        printf("problem: %s\n", vedctl_text(doc, "problem"));
    if (vedctl_number(doc, "copies_failed") > 0)
        printf("%" PRId64 " heads did not reach the second place\n",
               vedctl_number(doc, "copies_failed"));
    if (vedctl_number(doc, "notes_lost") > 0)
        printf("%" PRId64 " events of keys were lost\n", vedctl_number(doc, "notes_lost"));
    bson_t heads, head;
    bson_iter_t iter;
    if (!vedctl_sub(doc, "peer_heads", &heads))
        return;
    for (bson_iter_init(&iter, &heads); vedctl_next(&iter, &head);)
        printf("node %s holds head %" PRId64 "%s\n", vedctl_text(&head, "node"),
               vedctl_number(&head, "head"),
               vedctl_flag(&head, "frozen") ? ", frozen by an alarm" : "");
}

static void print_verify(const bson_t *doc)
{
    printf("good: segments %" PRId64 " to %" PRId64 ", %" PRId64 " records, %" PRId64
           " heads up to %" PRId64 ", %" PRId64 " copies of heads, %" PRId64
           " heads that other nodes hold\nroot %s\n",
           vedctl_number(doc, "firstSegment"), vedctl_number(doc, "lastSegment"),
           vedctl_number(doc, "records"), vedctl_number(doc, "heads"),
           vedctl_number(doc, "lastHead"), vedctl_number(doc, "copies"),
           vedctl_number(doc, "peerHeads"), vedctl_text(doc, "root"));
}

static void print_records(const bson_t *doc)
{
    bson_t records, record, event;
    bson_iter_t iter;
    if (!vedctl_sub(doc, "records", &records))
        return;
    bson_iter_init(&iter, &records);
    while (vedctl_next(&iter, &record)) {
        char *text = vedctl_sub(&record, "event", &event)
                         ? bson_as_relaxed_extended_json(&event, NULL)
                         : NULL;
        printf("%" PRId64 " %s %s\n", vedctl_number(&record, "record"),
               vedctl_text(&record, "source"), text == NULL ? "" : text);
        bson_free(text);
    }
    if (vedctl_flag(doc, "more"))
        puts("... more: narrow the search, or read on with tests/audit/verify.py --print");
}

static void print_explain(const bson_t *doc)
{
    bson_t kinds, kind;
    bson_iter_t iter;
    printf("reads: %s\n", vedctl_flag(doc, "reads") ? "audited" : "not audited");
    if (!vedctl_sub(doc, "kinds", &kinds))
        return;
    bson_iter_init(&iter, &kinds);
    while (vedctl_next(&iter, &kind))
        printf("%-26s %s\n", vedctl_text(&kind, "atype"),
               vedctl_flag(&kind, "kept") ? "kept" : "left out");
}

static int search(const vedctl_t *ctl)
{
    char question[QUESTION_MAX + 1] = "";
    size_t len = 0;
    if (ctl->argc < 2)
        return vedctl_wrong_usage(usage);
    for (int i = 1; i < ctl->argc; i++) {
        int n = snprintf(question + len, sizeof question - len, "%s%s", i == 1 ? "" : "\n",
                         ctl->argv[i]);
        if (n < 0 || (size_t)n >= sizeof question - len || strchr(ctl->argv[i], '=') == NULL)
            return vedctl_wrong_usage(usage);
        len += (size_t)n;
    }
    return vedctl_ask_and_print(ctl, "audit", "search", question, print_records);
}

int vedctl_audit(const vedctl_t *ctl)
{
    const char *verb = ctl->argc > 0 ? ctl->argv[0] : "";
    if (strcmp(verb, "search") == 0)
        return search(ctl);
    if (strcmp(verb, "tail") == 0 && ctl->argc <= 2)
        return vedctl_ask_and_print(ctl, "audit", verb, ctl->argc == 2 ? ctl->argv[1] : "",
                                    print_records);
    if (strcmp(verb, "prove") == 0 && ctl->argc == 2)
        return vedctl_ask_and_print(ctl, "audit", verb, ctl->argv[1], NULL);
    if (ctl->argc != 1)
        return vedctl_wrong_usage(usage);
    if (strcmp(verb, "status") == 0)
        return vedctl_ask_and_print(ctl, "audit", verb, "", print_status);
    if (strcmp(verb, "verify") == 0)
        return vedctl_ask_and_print(ctl, "audit", verb, "", print_verify);
    if (strcmp(verb, "explain") == 0)
        return vedctl_ask_and_print(ctl, "audit", verb, "", print_explain);
    return vedctl_wrong_usage(usage);
}
