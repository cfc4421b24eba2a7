/* veddb-storaged/rotation/link.c — the link to rotated: orders in, reports out, operators'
 * commands. */
#include "libcommon/runtime/link.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/thread.h"
#include "proto/failure.h"
#include "veddb-storaged/audit/audit.h"
#include "veddb-storaged/backup/backup.h"
#include "veddb-storaged/inbox.h"
#include "veddb-storaged/rotation/figures.h"
#include "veddb-storaged/rotation/rotation.h"

#include <bson/bson.h>
#include <limits.h>
#include <stdio.h>

#define LOOK_MS        100
#define REPORT_WORK_MS 1000
#define REPORT_IDLE_MS 10000

_Static_assert(VDP_ROTATION_BACKUP_BYTES *VDP_ROTATION_BACKUPS_MAX >=
                   VDP_ROTATION_VERSION_BYTES * VDP_ROTATION_VERSIONS_MAX,
               "a body holds either");

struct stor_rotation_link {
    stor_storage_t *storage;
    stor_rotation_t *rotation;
    char path[300];
    vd_loop_t *loop;
    vd_link_t *link;
    vd_source_t *timer, *step_out;
    pthread_t thread;
    bool started, up, ordered; /* ordered: on this link */
    uint64_t rotation_known, reported_ms, window_ms, changes;
    uint32_t step;
    uint64_t figures_ms; /* asked for */
    uint64_t backups_serial, wraps;
    uint32_t active_version;
    bool backups_told; /* on this link */
    stor_asks_t asks;
    vd_buf_t item, body;
};

static void message_send(stor_rotation_link_t *link, const vdp_message_t *message,
                         const void *fields, uint64_t request_id, vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&link->item);
    int rc = vdp_encode(&link->item, &envelope, message, fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc = vd_link_send(link->link, 0, vd_buf_slice(&link->item), body, &err);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to rotated was not sent", "message=%s error=%d", message->name,
               -rc);
}

static void report_send(stor_rotation_link_t *link)
{
    vdp_rotation_report_t report;
    stor_rotation_text_t text;
    vd_buf_clear(&link->body);
    link->changes = stor_rotation_changes(link->rotation);
    stor_rotation_report(link->rotation, &report, &text, &link->body);
    link->step = report.step;
    link->reported_ms = vd_monotonic_ms();
    message_send(link, &vdp_rotation_report, &report, 0, vd_buf_slice(&link->body));
}

/* Before any report: a proof must not come before what it would take the keys from. */
static void backups_send(stor_rotation_link_t *link)
{
    struct stor_backups *backups = link->storage->backups;
    uint64_t serial = stor_backups_serial(backups);
    if (link->backups_told && serial == link->backups_serial)
        return;
    vd_buf_clear(&link->body);
    vdp_rotation_backups_t fields = {.count = stor_backups_needs(backups, &link->body)};
    message_send(link, &vdp_rotation_backups, &fields, 0, vd_buf_slice(&link->body));
    link->backups_serial = serial;
    link->backups_told = true;
}

static void ask_send(void *context, uint64_t request_id, const vdp_replication_ask_t *question,
                     vd_slice_t body)
{
    stor_rotation_link_t *link = context;
    (void)body;
    vdp_rotation_ask_t ask = {question->verb, question->argument};
    message_send(link, &vdp_rotation_ask, &ask, request_id, VD_SLICE_NULL);
}

static void look(void *context)
{
    stor_rotation_link_t *link = context;
    uint64_t now = vd_monotonic_ms();
    if (now - link->window_ms >= STOR_ROTATION_WINDOW_MS) {
        link->window_ms = now;
        stor_rotation_window(link->rotation);
    }
    if (link->up && now - link->figures_ms >= STOR_FIGURES_ASK_MS) {
        link->figures_ms = now;
        static const vdp_replication_ask_t metrics = {.verb = VD_SLICE_LIT("metrics")};
        if (stor_rotation_link_ask(link, &metrics, stor_figures_take, NULL, NULL) != VD_OK)
            VD_DEBUG("rotated's figures are not asked for", "at=%llu", (unsigned long long)now);
    }
    stor_asks_look(&link->asks, link->up, ask_send, link);
    if (!link->up)
        return;
    backups_send(link);
    if (!link->ordered)
        return;
    bool works = link->step != VDP_ROTATION_NONE && link->step != VDP_ROTATION_PAUSED;
    if (stor_rotation_changes(link->rotation) != link->changes ||
        now - link->reported_ms >= (works ? REPORT_WORK_MS : REPORT_IDLE_MS))
        report_send(link);
}

static bool asks_step(void *context)
{
    stor_rotation_link_t *link = context;
    if (link->up)
        stor_asks_look(&link->asks, true, ask_send, link);
    return false;
}

/* JSON of rotated's becomes the reply's document. */
static void answer_take(stor_rotation_link_t *link, uint64_t request_id,
                        const vdp_rotation_answer_t *answer, vd_slice_t json)
{
    bson_error_t why;
    bson_t *document =
        json.len == 0 ? NULL : bson_new_from_json(json.data, (ssize_t)json.len, &why);
    int code = answer->code >= INT_MIN && answer->code <= 0 ? (int)answer->code : VD_ERR_PROTOCOL;
    vd_slice_t body = VD_SLICE_NULL;
    if (document != NULL)
        body = vd_slice(bson_get_data(document), document->len);
    if (!stor_asks_answer(&link->asks, request_id, code, answer->message, body))
        VD_DEBUG("an answer of rotated that nobody waits for", "request=%llu",
                 (unsigned long long)request_id);
    bson_destroy(document);
}

static int order_take(stor_rotation_link_t *link, const vdp_rotation_order_t *order,
                      vd_error_t *err)
{
    if (order->step > VDP_ROTATION_RETIRE)
        return vd_error_set(err, VD_ERR_PROTOCOL, "an order of unknown step %u", order->step);
    if (!link->ordered || link->step != order->step || link->wraps != order->wraps ||
        link->active_version != order->active_version)
        stor_backups_keyring_changed(link->storage->backups);
    link->wraps = order->wraps;
    link->active_version = order->active_version;
    /* The first one of a link begins anew: rotated takes nothing that was done under another. */
    stor_rotation_order(link->rotation, order, !link->ordered);
    link->ordered = true;
    link->rotation_known = order->rotation;
    link->step = order->step;
    return VD_OK;
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    stor_rotation_link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest, body;
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    if (rc == VD_OK && envelope.id == VDP_ROTATION_ORDER) {
        vdp_rotation_order_t order = {0};
        rc = vdp_decode(&vdp_rotation_order, rest, &order, &body, &err);
        if (rc == VD_OK)
            rc = order_take(link, &order, &err);
    } else if (rc == VD_OK && envelope.id == VDP_ROTATION_ANSWER) {
        vdp_rotation_answer_t answer = {0};
        rc = vdp_decode(&vdp_rotation_answer, rest, &answer, &body, &err);
        if (rc == VD_OK)
            answer_take(link, envelope.request_id, &answer, body);
    } else if (rc == VD_OK && envelope.id == VDP_FAILURE) {
        vdp_failure_t failure = {0};
        rc = vdp_decode(&vdp_failure, rest, &failure, &body, &err);
        if (rc == VD_OK) {
            vdp_rotation_answer_t answer = {.code = vdp_failure_to(&failure, &err)};
            answer.message = vd_slice_str(err.message);
            answer_take(link, envelope.request_id, &answer, VD_SLICE_NULL);
        }
    } else if (rc == VD_OK) {
        rc = vdp_foreign(envelope.id, "storage", &err);
    }
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(link->link, peer, err.message);
        stor_audit_cut(link->storage->audit, "veddb-rotated", err.message);
    } else if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "message of rotated refused", "error=\"%s\"", err.message);
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    stor_rotation_link_t *link = context;
    (void)peer; /* a DEALER has one */
    link->up = up;
    link->ordered = link->backups_told = false;
    if (!up) {
        stor_asks_fail(&link->asks, VD_ERR_HOST_UNREACHABLE, "the key holder is gone");
        return;
    }
    vdp_rotation_attach_t attach = {
        .boot_id = vd_slice(link->storage->boot_id, sizeof link->storage->boot_id),
        .highest_key_version = stor_rotation_highest_key(link->storage),
        .rotation = link->rotation_known,
    };
    message_send(link, &vdp_rotation_attach, &attach, 0, VD_SLICE_NULL);
    backups_send(link);
}

static void cut_off(void *context)
{
    stor_rotation_link_t *link = context;
    stor_inbox_cut_off(link->storage);
}

static void *run(void *context)
{
    stor_rotation_link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    vd_link_options_t options = {
        .path = link->path,
        .item_max_bytes = VDP_ROTATION_JSON_MAX_BYTES + 8192,
        .item = item_arrived,
        .peer_changed = peer_changed,
        .cut = cut_off,
        .context = link,
    };
    int rc = vd_link_open(link->loop, &options, &link->link, &err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(link->loop, LOOK_MS, LOOK_MS, look, link, &link->timer, &err);
    if (rc == VD_OK)
        rc = vd_loop_run(link->loop, &err);
    if (rc != VD_OK)
        stor_inbox_failed(&err, link->storage);
    vd_loop_remove(&link->timer);
    if (link->link != NULL)
        vd_link_close(&link->link);
    return NULL;
}

int stor_rotation_link_start(stor_storage_t *storage, stor_rotation_t *rotation,
                             const char *socket_path, stor_rotation_link_t **ret_link,
                             vd_error_t *err)
{
    stor_rotation_link_t *link = vd_xalloc(sizeof *link);
    link->storage = storage;
    link->rotation = rotation;
    (void)snprintf(link->path, sizeof link->path, "%s", socket_path);
    vd_buf_init(&link->item, VDP_ROTATION_JSON_MAX_BYTES + 8192);
    vd_buf_init(&link->body, VDP_ROTATION_BACKUP_BYTES * VDP_ROTATION_BACKUPS_MAX);
    stor_asks_init(&link->asks);
    int rc = vd_loop_create(&link->loop, err);
    if (rc == VD_OK) /* before the link's own step: what is asked leaves in this turn */
        rc = vd_loop_add_end_of_turn(link->loop, VD_LINK_STEP_ORDER - 1, asks_step, link,
                                     &link->step_out, err);
    if (rc == VD_OK && vd_thread_start(&link->thread, run, link) != 0)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the thread of the link can't be started");
    link->started = rc == VD_OK;
    if (rc != VD_OK) {
        stor_rotation_link_stop(&link);
        return rc;
    }
    (void)pthread_setname_np(link->thread, "rotation-link");
    *ret_link = link;
    return VD_OK;
}

void stor_rotation_link_stop(stor_rotation_link_t **link_p)
{
    stor_rotation_link_t *link = *link_p;
    if (link == NULL)
        return;
    stor_asks_stop(&link->asks);
    if (link->started) {
        vd_loop_stop(link->loop);
        (void)pthread_join(link->thread, NULL);
    }
    stor_asks_fail(&link->asks, VD_ERR_INTERRUPTED_AT_SHUTDOWN, "interrupted at shutdown");
    vd_loop_remove(&link->step_out);
    vd_loop_destroy(&link->loop);
    stor_asks_done(&link->asks);
    vd_buf_done(&link->item);
    vd_buf_done(&link->body);
    vd_free(link);
    *link_p = NULL;
}

int stor_rotation_link_ask(stor_rotation_link_t *link, const vdp_replication_ask_t *question,
                           stor_ask_answered_t answered, void *context, vd_error_t *err)
{
    int rc = stor_asks_add(&link->asks, question, VD_SLICE_NULL, answered, context, err);
    if (rc == VD_OK)
        vd_loop_wake(link->loop);
    return rc;
}
