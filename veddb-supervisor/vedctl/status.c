/* veddb-supervisor/vedctl/status.c — vedctl status, vedctl keys status: tables from the
 * supervisor's JSON. */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <bson/bson.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *text_of(const bson_t *doc, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) && BSON_ITER_HOLDS_UTF8(&iter)
               ? bson_iter_utf8(&iter, NULL)
               : "";
}

static int64_t number_of(const bson_t *doc, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, doc, name) ? bson_iter_as_int64(&iter) : 0;
}

/* Static view of a sub-document or array; false when there is none. */
static bool sub_of(const bson_t *doc, const char *name, bson_t *ret)
{
    bson_iter_t iter;
    const uint8_t *data;
    uint32_t len;
    if (!bson_iter_init_find(&iter, doc, name))
        return false;
    if (BSON_ITER_HOLDS_ARRAY(&iter))
        bson_iter_array(&iter, &len, &data);
    else if (BSON_ITER_HOLDS_DOCUMENT(&iter))
        bson_iter_document(&iter, &len, &data);
    else
        return false;
    return bson_init_static(ret, data, len);
}

/* "4d 3h", "12m 5s", "340ms" */
static const char *span(int64_t ms, char buf[32])
{
    int64_t s = ms / 1000;
    if (ms < 10000)
        (void)snprintf(buf, 32, "%" PRId64 "ms", ms);
    else if (s < 3600)
        (void)snprintf(buf, 32, "%" PRId64 "m %" PRId64 "s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(buf, 32, "%" PRId64 "h %" PRId64 "m", s / 3600, s / 60 % 60);
    else
        (void)snprintf(buf, 32, "%" PRId64 "d %" PRId64 "h", s / 86400, s / 3600 % 24);
    return buf;
}

static bson_t *ask(const vedctl_t *ctl, vd_buf_t *json)
{
    vd_buf_init(json, VD_LOCAL_PACKET_MAX);
    if (vedctl_ask(ctl, "status", "", "", json) != VD_OK)
        return NULL;
    bson_error_t error;
    vd_slice_t text = vd_buf_slice(json);
    bson_t *doc = bson_new_from_json(text.data, (ssize_t)text.len, &error);
    if (doc == NULL)
        fprintf(stderr, "vedctl: the answer can't be read: %s\n", error.message);
    return doc;
}

static void print_worker(const bson_t *worker)
{
    char ready[32], beat[32];
    int64_t ready_ms = number_of(worker, "ready_ms");
    const char *last_end = text_of(worker, "last_end");
    printf("%-10s %-9s %8" PRId64 " %7" PRId64 " %10s %10s  %s%s%s\n", text_of(worker, "name"),
           text_of(worker, "state"), number_of(worker, "pid"), number_of(worker, "starts"),
           ready_ms > 0 ? span(ready_ms, ready) : "-",
           ready_ms > 0 ? span(number_of(worker, "heartbeat_age_ms"), beat) : "-",
           text_of(worker, "detail"), *last_end != '\0' ? "  last end: " : "", last_end);
}

int vedctl_status(const vedctl_t *ctl)
{
    vd_buf_t json;
    bson_t *doc = ask(ctl, &json), workers, worker;
    bool all_running = doc != NULL;
    if (doc != NULL && ctl->json) {
        vd_slice_t text = vd_buf_slice(&json);
        printf("%.*s\n", VD_SLICE_FMT(text));
    }
    if (doc != NULL && sub_of(doc, "workers", &workers)) {
        char up[32];
        if (!ctl->json)
            printf("node %s  %s  version %s  pid %" PRId64 "  up %s  mongodb port %" PRId64
                   "  https port %" PRId64 "\n\n"
                   "%-10s %-9s %8s %7s %10s %10s\n",
                   text_of(doc, "node"), text_of(doc, "state"), text_of(doc, "version"),
                   number_of(doc, "pid"), span(number_of(doc, "uptime_ms"), up),
                   number_of(doc, "mongodb_port"), number_of(doc, "https_port"), "worker", "state",
                   "pid", "starts", "ready for", "heartbeat");
        bson_iter_t iter;
        bson_iter_init(&iter, &workers);
        while (bson_iter_next(&iter)) {
            const uint8_t *data;
            uint32_t len;
            bson_iter_document(&iter, &len, &data);
            if (!bson_init_static(&worker, data, len))
                continue;
            all_running = all_running && strcmp(text_of(&worker, "state"), "running") == 0;
            if (!ctl->json)
                print_worker(&worker);
        }
    }
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return all_running ? VD_EXIT_OK : VD_EXIT_FAILURE;
}

static void print_key(const bson_t *key)
{
    char date[32] = "-";
    time_t created = (time_t)(number_of(key, "created_ms") / 1000);
    struct tm tm;
    if (gmtime_r(&created, &tm) != NULL)
        (void)strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
    printf("%7" PRId64 "  %-32s  %-12s  %s\n", number_of(key, "version"), text_of(key, "id"),
           text_of(key, "state"), date);
}

int vedctl_keys(const vedctl_t *ctl)
{
    if (ctl->argc != 1 || strcmp(ctl->argv[0], "status") != 0) {
        fputs("usage: vedctl keys status [--json]\n", stderr);
        return VD_EXIT_USAGE;
    }
    vd_buf_t json;
    bson_t *doc = ask(ctl, &json), workers, worker, status, keys;
    bool found = false,
         shown = doc != NULL && sub_of(doc, "workers", &workers) && sub_of(&workers, "0", &worker);
    const char *why = shown ? text_of(&worker, "status_error") : "";
    if (shown && sub_of(&worker, "status", &status) && sub_of(&status, "keys", &keys)) {
        found = true;
        bson_iter_t iter;
        if (ctl->json) {
            char *text = bson_as_relaxed_extended_json(&status, NULL);
            puts(text);
            bson_free(text);
        } else {
            printf("keyring generation %" PRId64 "\n\n%7s  %-32s  %-12s  %s\n",
                   number_of(&status, "keyring_generation"), "version", "key id", "state",
                   "made (UTC)");
            bson_iter_init(&iter, &keys);
            while (bson_iter_next(&iter)) {
                const uint8_t *data;
                uint32_t len;
                bson_t key;
                bson_iter_document(&iter, &len, &data);
                if (bson_init_static(&key, data, len))
                    print_key(&key);
            }
        }
    }
    if (doc != NULL && !found)
        fprintf(stderr, "vedctl: the key holder (rotated) does not answer%s%s\n",
                *why != '\0' ? ": " : "", why);
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return found ? VD_EXIT_OK : VD_EXIT_FAILURE;
}
