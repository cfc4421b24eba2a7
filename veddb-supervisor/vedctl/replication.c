/* veddb-supervisor/vedctl/replication.c — vedctl replication: what the replica set does, and the
 * verbs that change it. The supervisor passes each on to replicad (proto/operator.md). */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WATCH_S      1
#define TAGS_MAX     16
#define ARGUMENT_MAX 4096
#define BAR_WIDTH    30

static const char usage[] =
    "usage: vedctl replication VERB ...\n"
    "  status [--watch] [--json]  the members: state, term, how far behind, what is copied\n"
    "  list [--json]              the members as they are configured\n"
    "  add HOST:PORT [--name N] [--priority P] [--votes 0|1] [--hidden] [--delay SECONDS]\n"
    "      [--tag NAME=VALUE ...] a node joins; HOST:PORT is its replication.address\n"
    "  remove NAME                it is a member no more\n"
    "  promote [NAME] [--force]   it (or this node) becomes the primary; --force: also without a\n"
    "                             majority, which may lose acknowledged writes\n"
    "  step-down [SECONDS] [--to NAME]  this primary hands over, and does not lead for so long\n"
    "  freeze SECONDS             this node stands for no election for so long; 0 ends it\n"
    "  force-sync [NAME]          drops its data and loads it anew\n";

/* ---- asking ---- */

/* One verb with its two arguments; the answer's message is printed. Returns the exit code. */
static int act(const vedctl_t *ctl, const char *verb, const char *argument, const char *argument2)
{
    char both[ARGUMENT_MAX + 1];
    int len =
        snprintf(both, sizeof both, "%s%s%s", argument, *argument2 != '\0' ? "\n" : "", argument2);
    if (len < 0 || (size_t)len >= sizeof both || strchr(argument, '\n') != NULL ||
        strchr(argument2, '\n') != NULL) {
        fprintf(stderr, "vedctl: an argument is too long, or has a line feed\n");
        return VD_EXIT_FAILURE;
    }
    return vedctl_ask_worker(ctl, "replication", verb, both, NULL) == VD_OK ? VD_EXIT_OK
                                                                            : VD_EXIT_FAILURE;
}

/* ---- status and list ---- */

/* Seconds between two positions, of which the upper half is a time; "-" when one is not known. */
static const char *behind(int64_t newest, int64_t position, char buf[VEDCTL_TEXT_SIZE])
{
    if (position == 0 || newest == 0)
        return "-";
    int64_t seconds = newest > position ? (newest >> 32) - (position >> 32) : 0;
    (void)snprintf(buf, VEDCTL_TEXT_SIZE, "%" PRId64 "s", seconds);
    return buf;
}

/* The newest position that any member has. */
static int64_t newest_of(const bson_t *members)
{
    int64_t newest = 0;
    bson_iter_t iter;
    bson_t member;
    bson_iter_init(&iter, members);
    while (vedctl_next(&iter, &member)) {
        int64_t applied = vedctl_number(&member, "applied");
        newest = applied > newest ? applied : newest;
    }
    return newest;
}

/* Entries that it has yet to apply; "+": and more, which are being counted. */
static const char *entries_of(const bson_t *member, char buf[VEDCTL_TEXT_SIZE])
{
    bson_iter_t iter;
    if (!bson_iter_init_find(&iter, member, "lagEntries"))
        return "-";
    (void)snprintf(buf, VEDCTL_TEXT_SIZE, "%" PRId64 "/%" PRId64 "/%" PRId64 "%s",
                   vedctl_number(member, "lagReceivedEntries"),
                   vedctl_number(member, "lagFlushedEntries"), vedctl_number(member, "lagEntries"),
                   vedctl_flag(member, "lagEntriesAtLeast") ? "+" : "");
    return buf;
}

static void print_status_members(const bson_t *doc, const bson_t *members)
{
    bson_iter_t iter;
    bson_t member;
    int64_t newest = newest_of(members);
    printf("%-14s %-10s %-4s %9s %9s %9s %9s %10s %15s  %s\n", "member", "state", "up", "received",
           "flushed", "applied", "behind", "to apply", "entries r/f/a", "host");
    bson_iter_init(&iter, members);
    while (vedctl_next(&iter, &member)) {
        char received[VEDCTL_TEXT_SIZE], flushed[VEDCTL_TEXT_SIZE], applied[VEDCTL_TEXT_SIZE],
            size[VEDCTL_TEXT_SIZE], entries[VEDCTL_TEXT_SIZE], lag[VEDCTL_TEXT_SIZE] = "-";
        bool known = vedctl_number(&member, "applied") != 0;
        if (known)
            (void)snprintf(lag, sizeof lag, "%.1fs", vedctl_real(&member, "lagSeconds"));
        printf("%-14s %-10s %-4s %9s %9s %9s %9s %10s %15s  %s%s\n", vedctl_text(&member, "name"),
               vedctl_text(&member, "state"), vedctl_flag(&member, "up") ? "yes" : "no",
               behind(newest, vedctl_number(&member, "received"), received),
               behind(newest, vedctl_number(&member, "flushed"), flushed),
               behind(newest, vedctl_number(&member, "applied"), applied), lag,
               known ? vedctl_size(vedctl_number(&member, "lagBytes"), size) : "-",
               entries_of(&member, entries), vedctl_text(&member, "host"),
               strcmp(vedctl_text(&member, "name"), vedctl_text(doc, "node")) == 0 ? "  (asked)"
                                                                                   : "");
        if (*vedctl_text(&member, "problem") != '\0')
            printf("%-14s %s\n", "", vedctl_text(&member, "problem"));
    }
}

static void print_snapshot(const bson_t *snapshot)
{
    int64_t done = vedctl_number(snapshot, "doneBytes"),
            total = vedctl_number(snapshot, "totalBytes"),
            rate = vedctl_number(snapshot, "bytesPerSecond");
    char bar[BAR_WIDTH + 1], size[VEDCTL_TEXT_SIZE], whole[VEDCTL_TEXT_SIZE],
        speed[VEDCTL_TEXT_SIZE], eta[VEDCTL_TEXT_SIZE];
    double part = total > 0 ? (double)done / (double)total : 0;
    part = part < 0 ? 0 : part > 1 ? 1 : part;
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)(part * BAR_WIDTH));
    bar[BAR_WIDTH] = '\0';
    int64_t left_ms = vedctl_number(snapshot, "etaSeconds") * 1000;
    if (left_ms == 0 && rate > 0 && total > done)
        left_ms = (total - done) / rate * 1000;
    printf("\nsnapshot %s -> %s  [%s] %3.0f%%  %s of %s  %s/s  %s left\n",
           vedctl_text(snapshot, "from"), vedctl_text(snapshot, "to"), bar, part * 100,
           vedctl_size(done, size), vedctl_size(total, whole), vedctl_size(rate, speed),
           rate > 0 || left_ms > 0 ? vedctl_span(left_ms, eta) : "?");
}

/* The name of the member with this id. */
static const char *member_name(const bson_t *doc, int64_t id)
{
    bson_t members, member;
    bson_iter_t iter;
    if (id == 0)
        return "nobody";
    if (vedctl_sub(doc, "members", &members)) {
        bson_iter_init(&iter, &members);
        while (vedctl_next(&iter, &member))
            if (vedctl_number(&member, "id") == id)
                return vedctl_text(&member, "name");
    }
    return "one who is no member";
}

static void print_etcd(const bson_t *doc, const bson_t *etcd)
{
    char ago[VEDCTL_TEXT_SIZE];
    if (!vedctl_flag(etcd, "reachable"))
        printf("\netcd does not answer: there is no automatic failover (%s)\n",
               vedctl_text(etcd, "lastError"));
    else
        printf("\netcd: lease of %s, term %" PRId64 ", heard %s ago\n",
               member_name(doc, vedctl_number(etcd, "leader")), vedctl_number(etcd, "term"),
               vedctl_span(vedctl_number(etcd, "answeredMsAgo"), ago));
}

static void print_head(const bson_t *doc)
{
    const char *leader = vedctl_text(doc, "leader");
    time_t majority = (time_t)(vedctl_number(doc, "majority") >> 32);
    char date[32] = "not known";
    struct tm tm;
    if (majority != 0 && gmtime_r(&majority, &tm) != NULL)
        (void)strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S UTC", &tm);
    printf("set %s  node %s  %s  term %" PRId64 "  primary %s  configuration %" PRId64
           "  majority has all until %s\n\n",
           vedctl_text(doc, "set"), vedctl_text(doc, "node"), vedctl_text(doc, "state"),
           vedctl_number(doc, "term"), *leader != '\0' ? leader : "not known",
           vedctl_number(doc, "configVersion"), date);
}

static void print_status(const bson_t *doc)
{
    bson_t members, part;
    print_head(doc);
    if (vedctl_sub(doc, "members", &members))
        print_status_members(doc, &members);
    if (vedctl_sub(doc, "snapshot", &part))
        print_snapshot(&part);
    if (vedctl_sub(doc, "etcd", &part))
        print_etcd(doc, &part);
    if (vedctl_number(doc, "rollbacks") > 0)
        printf("\n%" PRId64 " rollbacks: what was taken back lies in the recovery folder\n",
               vedctl_number(doc, "rollbacks"));
}

static void print_list(const bson_t *doc)
{
    bson_t members, member, tags;
    bson_iter_t iter;
    print_head(doc);
    printf("%3s %-14s %-22s %-22s %8s %5s %-6s %6s  %s\n", "id", "name", "host", "peer", "priority",
           "votes", "hidden", "delay", "tags");
    if (!vedctl_sub(doc, "members", &members))
        return;
    bson_iter_init(&iter, &members);
    while (vedctl_next(&iter, &member)) {
        char *text =
            vedctl_sub(&member, "tags", &tags) ? bson_as_relaxed_extended_json(&tags, NULL) : NULL;
        printf("%3" PRId64 " %-14s %-22s %-22s %8" PRId64 " %5" PRId64 " %-6s %5" PRId64 "s  %s\n",
               vedctl_number(&member, "id"), vedctl_text(&member, "name"),
               vedctl_text(&member, "host"), vedctl_text(&member, "peer"),
               vedctl_number(&member, "priority"), vedctl_number(&member, "votes"),
               vedctl_flag(&member, "hidden") ? "yes" : "no",
               vedctl_number(&member, "secondaryDelaySecs"), text == NULL ? "" : text);
        bson_free(text);
    }
}

/* Until it is interrupted, or nobody reads it any more. */
static int watch(const vedctl_t *ctl)
{
    bool screen = isatty(STDOUT_FILENO) == 1 && !ctl->json;
    for (;;) {
        if (screen)
            fputs("\033[H\033[2J", stdout);
        (void)vedctl_ask_and_print(ctl, "replication", "status", "",
                                   print_status); /* a node that restarts answers again */
        if (!ctl->json && !screen)
            puts("");
        if (fflush(stdout) != 0)
            return VD_EXIT_FAILURE;
        (void)sleep(WATCH_S);
    }
}

static int verb_status(const vedctl_t *ctl)
{
    if (ctl->argc == 2 && strcmp(ctl->argv[1], "--watch") == 0)
        return watch(ctl);
    return ctl->argc == 1 ? vedctl_ask_and_print(ctl, "replication", "status", "", print_status)
                          : vedctl_wrong_usage(usage);
}

static int verb_list(const vedctl_t *ctl)
{
    return ctl->argc == 1 ? vedctl_ask_and_print(ctl, "replication", "list", "", print_list)
                          : vedctl_wrong_usage(usage);
}

/* ---- verbs that change something ---- */

static bool is_number(const char *text, int64_t max, int64_t *ret)
{
    char *end;
    errno = 0;
    long long number = isdigit((unsigned char)text[0]) ? strtoll(text, &end, 10) : -1;
    if (number < 0 || errno != 0 || *end != '\0' || number > max)
        return false;
    *ret = number;
    return true;
}

/* A word that is no option. */
static bool is_word(const char *text)
{
    return text[0] != '\0' && strncmp(text, "--", 2) != 0;
}

/* --tag NAME=VALUE */
static bool add_tag(bson_t *tags, const char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text || bson_count_keys(tags) == TAGS_MAX)
        return false;
    return bson_append_utf8(tags, text, (int)(equals - text), equals + 1, -1);
}

/* One option of add, with its value where it has one; false: not understood. */
static bool add_option(const char *name, const char *value, bson_t *options, bson_t *tags,
                       bool *ret_took_value)
{
    int64_t number = 0;
    *ret_took_value = true;
    if (strcmp(name, "--hidden") == 0) {
        *ret_took_value = false;
        return BSON_APPEND_BOOL(options, "hidden", true);
    }
    if (value == NULL)
        return false;
    if (strcmp(name, "--name") == 0)
        return is_word(value) && BSON_APPEND_UTF8(options, "name", value);
    if (strcmp(name, "--priority") == 0)
        return is_number(value, 1000, &number) &&
               BSON_APPEND_INT32(options, "priority", (int32_t)number);
    if (strcmp(name, "--votes") == 0)
        return is_number(value, 1, &number) && BSON_APPEND_INT32(options, "votes", (int32_t)number);
    if (strcmp(name, "--delay") == 0)
        return is_number(value, 365 * 86400, &number) &&
               BSON_APPEND_INT64(options, "secondaryDelaySecs", number);
    return strcmp(name, "--tag") == 0 && add_tag(tags, value);
}

static bool is_host_port(const char *text)
{
    const char *colon = strrchr(text, ':');
    int64_t port = 0;
    return is_word(text) && colon != NULL && colon != text && is_number(colon + 1, 65535, &port) &&
           port > 0;
}

static int verb_add(const vedctl_t *ctl)
{
    bson_t options = BSON_INITIALIZER, tags = BSON_INITIALIZER;
    bool good = ctl->argc >= 2 && is_host_port(ctl->argv[1]), took = false;
    for (int i = 2; good && i < ctl->argc; i++) {
        good = add_option(ctl->argv[i], i + 1 < ctl->argc ? ctl->argv[i + 1] : NULL, &options,
                          &tags, &took);
        i += took;
    }
    if (good && !bson_empty(&tags))
        good = BSON_APPEND_DOCUMENT(&options, "tags", &tags);
    int exit_code = VD_EXIT_USAGE;
    if (good) {
        char *json = bson_as_relaxed_extended_json(&options, NULL);
        exit_code = json == NULL ? vedctl_wrong_usage(usage) : act(ctl, "add", ctl->argv[1], json);
        bson_free(json);
    } else {
        (void)vedctl_wrong_usage(usage);
    }
    bson_destroy(&options);
    bson_destroy(&tags);
    return exit_code;
}

static int verb_remove(const vedctl_t *ctl)
{
    return ctl->argc == 2 && is_word(ctl->argv[1]) ? act(ctl, "remove", ctl->argv[1], "")
                                                   : vedctl_wrong_usage(usage);
}

static int verb_promote(const vedctl_t *ctl)
{
    const char *name = "", *force = "";
    for (int i = 1; i < ctl->argc; i++) {
        if (strcmp(ctl->argv[i], "--force") == 0)
            force = "force";
        else if (is_word(ctl->argv[i]) && *name == '\0')
            name = ctl->argv[i];
        else
            return vedctl_wrong_usage(usage);
    }
    return act(ctl, "promote", name, force);
}

static int verb_step_down(const vedctl_t *ctl)
{
    const char *seconds = "", *to = "";
    int64_t number = 0;
    for (int i = 1; i < ctl->argc; i++) {
        if (strcmp(ctl->argv[i], "--to") == 0 && i + 1 < ctl->argc && is_word(ctl->argv[i + 1]))
            to = ctl->argv[++i];
        else if (*seconds == '\0' && is_number(ctl->argv[i], 86400 * 365, &number))
            seconds = ctl->argv[i];
        else
            return vedctl_wrong_usage(usage);
    }
    return act(ctl, "step-down", seconds, to);
}

static int verb_freeze(const vedctl_t *ctl)
{
    int64_t number = 0;
    return ctl->argc == 2 && is_number(ctl->argv[1], 86400 * 365, &number)
               ? act(ctl, "freeze", ctl->argv[1], "")
               : vedctl_wrong_usage(usage);
}

static int verb_force_sync(const vedctl_t *ctl)
{
    if (ctl->argc > 2 || (ctl->argc == 2 && !is_word(ctl->argv[1])))
        return vedctl_wrong_usage(usage);
    return act(ctl, "force-sync", ctl->argc == 2 ? ctl->argv[1] : "", "");
}

static const struct {
    const char *name;
    int (*run)(const vedctl_t *ctl);
} verbs[] = {
    {"status", verb_status},   {"list", verb_list},
    {"add", verb_add},         {"remove", verb_remove},
    {"promote", verb_promote}, {"step-down", verb_step_down},
    {"freeze", verb_freeze},   {"force-sync", verb_force_sync},
};

int vedctl_replication(const vedctl_t *ctl)
{
    for (size_t i = 0; ctl->argc >= 1 && i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(ctl->argv[0], verbs[i].name) == 0)
            return verbs[i].run(ctl);
    return vedctl_wrong_usage(usage);
}
