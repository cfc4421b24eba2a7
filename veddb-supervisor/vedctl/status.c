/* veddb-supervisor/vedctl/status.c — vedctl status: tables from the
 * supervisor's JSON. */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bson_t *ask(const vedctl_t *ctl, vd_buf_t *json)
{
    vd_buf_init(json, VD_LOCAL_PACKET_MAX);
    if (vedctl_ask(ctl, "status", "", "", json) != VD_OK)
        return NULL;
    return vedctl_parse(json);
}

/* What replicad says of this node's place in the set. */
static void print_role(const bson_t *worker)
{
    bson_t status;
    if (strcmp(vedctl_text(worker, "name"), "replicad") != 0)
        return;
    if (!vedctl_sub(worker, "status", &status)) {
        const char *why = vedctl_text(worker, "status_error");
        printf("%10s role not known%s%s\n", "", *why != '\0' ? ": " : "", why);
        return;
    }
    const char *leader = vedctl_text(&status, "leader");
    printf("%10s role %s in set %s, term %" PRId64 ", primary %s\n", "",
           vedctl_text(&status, "state"), vedctl_text(&status, "set"),
           vedctl_number(&status, "term"), *leader != '\0' ? leader : "not known");
}

static void print_worker(const bson_t *worker)
{
    char ready[32], beat[32];
    int64_t ready_ms = vedctl_number(worker, "ready_ms");
    const char *last_end = vedctl_text(worker, "last_end");
    printf("%-10s %-9s %8" PRId64 " %7" PRId64 " %10s %10s  %s%s%s\n", vedctl_text(worker, "name"),
           vedctl_text(worker, "state"), vedctl_number(worker, "pid"),
           vedctl_number(worker, "starts"), ready_ms > 0 ? vedctl_span(ready_ms, ready) : "-",
           ready_ms > 0 ? vedctl_span(vedctl_number(worker, "heartbeat_age_ms"), beat) : "-",
           vedctl_text(worker, "detail"), *last_end != '\0' ? "  last end: " : "", last_end);
    print_role(worker);
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
    if (doc != NULL && vedctl_sub(doc, "workers", &workers)) {
        char up[32];
        if (!ctl->json)
            printf("node %s  %s  version %s  pid %" PRId64 "  up %s  mongodb port %" PRId64
                   "  https port %" PRId64 "\n\n"
                   "%-10s %-9s %8s %7s %10s %10s\n",
                   vedctl_text(doc, "node"), vedctl_text(doc, "state"), vedctl_text(doc, "version"),
                   vedctl_number(doc, "pid"), vedctl_span(vedctl_number(doc, "uptime_ms"), up),
                   vedctl_number(doc, "mongodb_port"), vedctl_number(doc, "https_port"), "worker",
                   "state", "pid", "starts", "ready for", "heartbeat");
        bson_iter_t iter;
        bson_iter_init(&iter, &workers);
        while (bson_iter_next(&iter)) {
            const uint8_t *data;
            uint32_t len;
            bson_iter_document(&iter, &len, &data);
            if (!bson_init_static(&worker, data, len))
                continue;
            all_running = all_running && strcmp(vedctl_text(&worker, "state"), "running") == 0;
            if (!ctl->json)
                print_worker(&worker);
        }
    }
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return all_running ? VD_EXIT_OK : VD_EXIT_FAILURE;
}
