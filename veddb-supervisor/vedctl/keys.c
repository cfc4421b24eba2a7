/* veddb-supervisor/vedctl/keys.c — vedctl keys: the data keys and their rotation. The supervisor
 * passes each question on to rotated (proto/rotation.md). */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCH_US  1000000
#define BAR_CELLS 40

static const char usage[] =
    "usage: vedctl keys VERB ...\n"
    "  status [--watch]           versions and states of the keys, and how far a rotation is\n"
    "  rotate [--rate 100MB/s] [--max-latency-rise 10%] [--force]\n"
    "                             a new key; everything is re-encrypted, proven, the old keys "
    "destroyed\n"
    "  throttle [--rate 100MB/s] [--max-latency-rise 10%]     0 = without limit\n"
    "  pause | resume [--force] | cancel\n"
    "  history                    rotations, verifies and rewraps that have ended\n"
    "  verify                     counts the blocks of every key; exit code 0 only when old keys "
    "have none\n"
    "  rewrap                     another key-encryption key takes over, at once\n"
    "--force: backups that are kept may lose their key (vedctl backup). --json prints answers as "
    "they came.\n";

/* ---- printing ---- */

static void print_keys(const bson_t *doc)
{
    char made[VEDCTL_TEXT_SIZE];
    bson_t keys, key;
    bson_iter_t iter;
    printf("keyring generation %" PRId64 "\n\n%7s  %-32s  %-12s  %s\n",
           vedctl_number(doc, "keyring_generation"), "version", "key id", "state", "made (UTC)");
    if (!vedctl_sub(doc, "keys", &keys))
        return;
    bson_iter_init(&iter, &keys);
    while (vedctl_next(&iter, &key))
        printf("%7" PRId64 "  %-32s  %-12s  %s\n", vedctl_number(&key, "version"),
               vedctl_text(&key, "id"), vedctl_text(&key, "state"),
               vedctl_date(vedctl_number(&key, "created_ms"), made));
}

static void print_bar(int64_t done, int64_t total)
{
    double share = total > 0 ? (double)done / (double)total : 0;
    int cells = (int)(share * BAR_CELLS);
    cells = cells < 0 ? 0 : cells > BAR_CELLS ? BAR_CELLS : cells;
    printf("[%.*s%*s] %5.1f %%\n", cells, "########################################",
           BAR_CELLS - cells, "", (share > 1 ? 1 : share) * 100);
}

static void print_left(const bson_t *rotation)
{
    bson_t left, version;
    bson_iter_t iter;
    bool first = true, estimated = vedctl_flag(rotation, "blocksLeftEstimated");
    if (!vedctl_sub(rotation, "blocksLeft", &left))
        return;
    bson_iter_init(&iter, &left);
    while (vedctl_next(&iter, &version)) {
        const char *about = estimated && vedctl_number(&version, "blocks") > 0 ? "about " : "";
        printf("%s%" PRId64 ": %s%" PRId64, first ? "blocks by key version  " : ", ",
               vedctl_number(&version, "version"), about, vedctl_number(&version, "blocks"));
        first = false;
    }
    if (!first)
        puts("");
}

/* Backups that need the keys that go. */
static void print_backups(const bson_t *rotation)
{
    bson_t backups, backup;
    bson_iter_t iter;
    bool first = true;
    if (!vedctl_sub(rotation, "backups", &backups))
        return;
    bson_iter_init(&iter, &backups);
    while (vedctl_next(&iter, &backup)) {
        printf("%s%s", first ? "backups that need an old key: " : ", ",
               vedctl_text(&backup, "name"));
        first = false;
    }
    if (!first)
        puts("");
    if (vedctl_flag(rotation, "waitsForBackups"))
        puts("proven, and WAITS for an operator: vedctl backup remove NAME, or vedctl keys resume "
             "--force (then they can never be opened again)");
}

static void print_verify(const bson_t *rotation)
{
    char at[VEDCTL_TEXT_SIZE];
    bson_t verify;
    if (!vedctl_sub(rotation, "verify", &verify) || vedctl_number(&verify, "number") == 0)
        return;
    const char *state = vedctl_text(&verify, "state");
    int64_t blocks = vedctl_number(&verify, "blocks");
    printf("\nverify %" PRId64 "  ", vedctl_number(&verify, "number"));
    if (strcmp(state, "checking") == 0)
        printf("every block is being counted");
    else if (blocks < 0)
        printf("it could not be counted: see the log");
    else
        printf("%" PRId64 " blocks of keys before version %" PRId64, blocks,
               vedctl_number(&verify, "target"));
    printf(", begun %s UTC\n", vedctl_date(vedctl_number(&verify, "startedMs"), at));
}

static void print_rotation(const bson_t *rotation)
{
    char a[VEDCTL_TEXT_SIZE], b[VEDCTL_TEXT_SIZE], c[VEDCTL_TEXT_SIZE];
    const char *state = vedctl_text(rotation, "state");
    if (vedctl_number(rotation, "number") == 0) {
        puts("\nno rotation so far");
        return;
    }
    printf("\nrotation %" PRId64 "  %s (%s), key %" PRId64 " replaces keys up to %" PRId64 "%s\n",
           vedctl_number(rotation, "number"), state, vedctl_text(rotation, "reason"),
           vedctl_number(rotation, "target"), vedctl_number(rotation, "oldVersion"),
           vedctl_flag(rotation, "attached") ? "" : ", STORAGE IS AWAY");
    if (vedctl_flag(rotation, "busy")) {
        int64_t done = vedctl_number(rotation, "bytesDone"),
                total = vedctl_number(rotation, "bytesTotal"),
                eta = vedctl_number(rotation, "etaSeconds"),
                rate_max = vedctl_number(rotation, "rateMax");
        print_bar(done, total);
        printf("pass %" PRId64 ": %s of %s, %s/s", vedctl_number(rotation, "pass"),
               vedctl_size(done, a), vedctl_size(total, b),
               vedctl_size(vedctl_number(rotation, "rate"), c));
        printf(" (at most %s%s, p99 may rise by %" PRId64 " %%)",
               rate_max == 0 ? "without limit" : vedctl_size(rate_max, a),
               rate_max == 0 ? "" : "/s", vedctl_number(rotation, "maxLatencyRise"));
        printf(", %s\n", eta < 0 ? "no estimate" : vedctl_span(eta * 1000, b));
        if (*vedctl_text(rotation, "current") != '\0')
            printf("current: %s\n", vedctl_text(rotation, "current"));
    }
    printf("since %s UTC: %s, %" PRId64 " documents, %" PRId64 " blocks\n",
           vedctl_date(vedctl_number(rotation, "startedMs"), a),
           vedctl_size(vedctl_number(rotation, "bytes"), b), vedctl_number(rotation, "documents"),
           vedctl_number(rotation, "blocks"));
    print_left(rotation);
    print_backups(rotation);
    if (*vedctl_text(rotation, "note") != '\0')
        printf("%s: %s\n", strcmp(state, "failed") == 0 ? "FAILED" : "note",
               vedctl_text(rotation, "note"));
}

static void print_history(const bson_t *doc)
{
    char started[VEDCTL_TEXT_SIZE], took[VEDCTL_TEXT_SIZE], size[VEDCTL_TEXT_SIZE];
    bson_t history, past;
    bson_iter_t iter;
    printf("%6s  %-8s  %-9s  %-8s  %-19s  %9s  %9s  %s\n", "number", "what", "outcome", "by",
           "began (UTC)", "took", "bytes", "keys");
    if (!vedctl_sub(doc, "history", &history))
        return;
    bson_iter_init(&iter, &history);
    while (vedctl_next(&iter, &past)) {
        int64_t began = vedctl_number(&past, "startedMs");
        printf("%6" PRId64 "  %-8s  %-9s  %-8s  %-19s  %9s  %9s  ", vedctl_number(&past, "number"),
               vedctl_text(&past, "kind"), vedctl_text(&past, "outcome"),
               vedctl_text(&past, "reason"), vedctl_date(began, started),
               vedctl_span(vedctl_number(&past, "endedMs") - began, took),
               vedctl_size(vedctl_number(&past, "bytes"), size));
        if (strcmp(vedctl_text(&past, "kind"), "verify") == 0)
            printf("%" PRId64 " blocks of keys before %" PRId64 "\n",
                   vedctl_number(&past, "blocks"), vedctl_number(&past, "target"));
        else
            printf("%" PRId64 " -> %" PRId64 "\n", vedctl_number(&past, "oldVersion"),
                   vedctl_number(&past, "target"));
    }
}

/* ---- asking ---- */

static void print_status(const bson_t *doc)
{
    bson_t rotation;
    print_keys(doc);
    if (!vedctl_sub(doc, "rotation", &rotation))
        return;
    print_rotation(&rotation);
    print_verify(&rotation);
}

static void print_done(const bson_t *doc)
{
    printf("rotation %" PRId64 ": %s\n", vedctl_number(doc, "number"), vedctl_text(doc, "state"));
}

/* Until nothing is under way. */
static int watch(const vedctl_t *ctl)
{
    vd_buf_t json;
    bool busy = true, failed = false, answered = true;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    while (busy && answered) {
        bson_t *doc = vedctl_ask_document(ctl, "keys", "status", "", &json), rotation;
        answered = doc != NULL && vedctl_sub(doc, "rotation", &rotation);
        if (answered) {
            if (isatty(STDOUT_FILENO))
                fputs("\033[H\033[2J", stdout);
            print_status(doc);
            (void)fflush(stdout);
            failed = strcmp(vedctl_text(&rotation, "state"), "failed") == 0;
            busy = vedctl_flag(&rotation, "busy") && !failed;
        }
        if (doc != NULL)
            bson_destroy(doc);
        if (busy && answered)
            (void)usleep(WATCH_US);
    }
    vd_buf_done(&json);
    return answered && !failed ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

/* Exit code of the verify of that number, which has ended. */
static int verdict(const bson_t *doc, int64_t number, bool json)
{
    bson_t history, past;
    bson_iter_t iter;
    int exit_code = VD_EXIT_FAILURE;
    if (!vedctl_sub(doc, "history", &history))
        return exit_code;
    bson_iter_init(&iter, &history);
    while (vedctl_next(&iter, &past)) {
        if (vedctl_number(&past, "number") != number ||
            strcmp(vedctl_text(&past, "kind"), "verify") != 0)
            continue;
        int64_t blocks = vedctl_number(&past, "blocks");
        char *text = json ? bson_as_relaxed_extended_json(&past, NULL) : NULL;
        if (text != NULL)
            puts(text);
        else if (blocks < 0)
            puts("it could not be counted: see the log");
        else
            printf("%" PRId64 " blocks of keys before version %" PRId64 "\n", blocks,
                   vedctl_number(&past, "target"));
        bson_free(text);
        exit_code = blocks == 0 ? VD_EXIT_OK : VD_EXIT_FAILURE;
    }
    return exit_code;
}

static int verify(const vedctl_t *ctl)
{
    vd_buf_t json;
    int exit_code = VD_EXIT_FAILURE;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    bson_t *doc = vedctl_ask_document(ctl, "keys", "verify", "", &json);
    bson_t now;
    int64_t number =
        doc != NULL && vedctl_sub(doc, "verify", &now) ? vedctl_number(&now, "number") : 0;
    while (doc != NULL) {
        bson_destroy(doc);
        (void)usleep(WATCH_US / 4);
        doc = vedctl_ask_document(ctl, "keys", "history", "", &json);
        if (doc != NULL &&
            (!vedctl_sub(doc, "verify", &now) || vedctl_number(&now, "number") != number ||
             strcmp(vedctl_text(&now, "state"), "checking") != 0)) {
            exit_code = verdict(doc, number, ctl->json);
            break;
        }
    }
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return exit_code;
}

/* ---- words ---- */

/* "100MB/s", "5 GB", "1048576": bytes. */
static bool rate_parse(const char *text, int64_t *ret)
{
    static const struct {
        const char *unit;
        int64_t bytes;
    } units[] = {{"", 1},         {"B", 1},       {"KB", 1 << 10}, {"MB", 1 << 20},
                 {"GB", 1 << 30}, {"K", 1 << 10}, {"M", 1 << 20},  {"G", 1 << 30}};
    char *end;
    double number = strtod(text, &end);
    char unit[8];
    while (*end == ' ')
        end++;
    size_t len = strcspn(end, "/");
    if (text[0] < '0' || text[0] > '9' || len >= sizeof unit ||
        (end[len] != '\0' && strcmp(end + len, "/s") != 0))
        return false;
    memcpy(unit, end, len);
    unit[len] = '\0';
    for (size_t i = 0; i < VD_COUNT_OF(units); i++) {
        if (strcasecmp(unit, units[i].unit) == 0 && number * (double)units[i].bytes < 1e15) {
            *ret = (int64_t)(number * (double)units[i].bytes);
            return true;
        }
    }
    return false;
}

static bool percent_parse(const char *text, int64_t *ret)
{
    char *end;
    *ret = strtoll(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *ret <= 10000 &&
           (*end == '\0' || strcmp(end, "%") == 0);
}

/* The words behind the verb as the JSON object that rotated takes. */
static bool options_parse(const vedctl_t *ctl, bool limits, bool force, char *json, size_t size,
                          int *ret_count)
{
    size_t len = (size_t)snprintf(json, size, "{");
    int count = 0;
    if (ctl->argc > 8)
        return false;
    for (int i = 1; i < ctl->argc; i++, count++) {
        const char *word = ctl->argv[i], *name = NULL;
        int64_t value = 0;
        if (force && strcmp(word, "--force") == 0) {
            len +=
                (size_t)snprintf(json + len, size - len, "%s\"force\":true", count == 0 ? "" : ",");
            continue;
        }
        if (!limits || i + 1 >= ctl->argc)
            return false;
        if (strcmp(word, "--rate") == 0 && rate_parse(ctl->argv[i + 1], &value))
            name = "rate";
        else if (strcmp(word, "--max-latency-rise") == 0 && percent_parse(ctl->argv[i + 1], &value))
            name = "maxLatencyRise";
        if (name == NULL)
            return false;
        len += (size_t)snprintf(json + len, size - len, "%s\"%s\":%" PRId64, count == 0 ? "" : ",",
                                name, value);
        i++;
    }
    (void)snprintf(json + len, size - len, "}");
    *ret_count = count;
    return true;
}

int vedctl_keys(const vedctl_t *ctl)
{
    static const struct {
        const char *verb;
        bool limits, force;
        int at_least;
    } orders[] = {{"rotate", true, true, 0},
                  {"throttle", true, false, 1},
                  {"pause", false, false, 0},
                  {"resume", false, true, 0},
                  {"cancel", false, false, 0}};
    const char *verb = ctl->argc > 0 ? ctl->argv[0] : "";
    char json[512];
    int count = 0;
    for (size_t i = 0; i < VD_COUNT_OF(orders); i++) {
        if (strcmp(verb, orders[i].verb) != 0)
            continue;
        if (!options_parse(ctl, orders[i].limits, orders[i].force, json, sizeof json, &count) ||
            count < orders[i].at_least)
            return vedctl_wrong_usage(usage);
        return vedctl_ask_and_print(ctl, "keys", verb, json, print_done);
    }
    if (strcmp(verb, "status") == 0 && ctl->argc == 2 && strcmp(ctl->argv[1], "--watch") == 0)
        return watch(ctl);
    if (ctl->argc != 1)
        return vedctl_wrong_usage(usage);
    if (strcmp(verb, "status") == 0)
        return vedctl_ask_and_print(ctl, "keys", verb, "", print_status);
    if (strcmp(verb, "history") == 0)
        return vedctl_ask_and_print(ctl, "keys", verb, "", print_history);
    if (strcmp(verb, "rewrap") == 0)
        return vedctl_ask_worker(ctl, "keys", verb, "", NULL) == VD_OK
                   ? VD_EXIT_OK
                   : VD_EXIT_FAILURE; /* what it answers is for a person */
    if (strcmp(verb, "verify") == 0)
        return verify(ctl);
    return vedctl_wrong_usage(usage);
}
