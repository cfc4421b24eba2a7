/* veddb-storaged/audit/link.c — see audit.h: the thread that answers rotated.
 *
 * A pull waits for the next look, every LOOK_MS, so that what came meanwhile goes in one batch;
 * when the last batch said that there is more, it is answered at once. */
#include "libcommon/runtime/link.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/thread.h"
#include "proto/failure.h"
#include "veddb-storaged/audit/audit_private.h"
#include "veddb-storaged/inbox.h"

#include <stdio.h>

#define LOOK_MS 50

struct stor_audit_link {
    stor_storage_t *storage;
    char path[300];
    vd_loop_t *loop;
    vd_link_t *link;
    vd_source_t *timer;
    stor_session_t *session;
    pthread_t thread;
    bool started, up, parked, more, failed;
    uint64_t request_id, until_ms;
    vdp_audit_pull_t pull;
    vd_buf_t item, body;
};

static void message_send(stor_audit_link_t *link, const vdp_message_t *message, const void *fields,
                         uint64_t request_id, vd_slice_t body)
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

static void told(stor_audit_link_t *link, int rc, const vd_error_t *err)
{
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    if (rc != VD_OK && !link->failed && rc != VD_ERR_WRITE_CONFLICT)
        vd_log(VD_LOG_ERROR, "audit records can't be read", "error=%s",
               vd_log_quote(vd_slice_str(err->message), text, sizeof text));
    link->failed = rc != VD_OK && rc != VD_ERR_WRITE_CONFLICT;
}

/* Answers the parked pull, if there is something, or it has waited long enough. */
static void look(stor_audit_link_t *link)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_audit_batch_t batch;
    if (!link->parked)
        return;
    vd_buf_clear(&link->body);
    int rc = stor_audit_batch(link->storage->audit, link->session, &link->pull, &link->body, &batch,
                              &err);
    told(link, rc, &err);
    if (rc != VD_OK) /* again at the next look */
        return;
    bool moved = batch.journal != link->pull.journal ||
                 batch.journal_part != link->pull.journal_part || batch.events != link->pull.events;
    if (!moved && vd_buf_len(&link->body) == 0 && vd_monotonic_ms() < link->until_ms)
        return;
    link->parked = false;
    link->more = batch.more;
    message_send(link, &vdp_audit_batch, &batch, link->request_id, vd_buf_slice(&link->body));
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    stor_audit_link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vdp_audit_sealed_t sealed = {0};
    vd_slice_t rest, body;
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    if (rc == VD_OK && envelope.id == VDP_AUDIT_PULL) {
        rc = vdp_decode(&vdp_audit_pull, rest, &link->pull, &body, &err);
        link->parked = rc == VD_OK;
        link->request_id = envelope.request_id;
        link->until_ms = vd_monotonic_ms() + link->pull.wait_ms;
        if (link->parked && link->more)
            look(link);
    } else if (rc == VD_OK && envelope.id == VDP_AUDIT_SEALED) {
        rc = vdp_decode(&vdp_audit_sealed, rest, &sealed, &body, &err);
        if (rc == VD_OK)
            rc = stor_audit_sealed(link->storage->audit, link->session, &sealed, &err);
        told(link, rc, &err);
        rc = rc == VD_ERR_PROTOCOL ? rc : VD_OK; /* the next head says more */
    } else if (rc == VD_OK) {
        rc = vdp_foreign(envelope.id, "the audit of storage", &err);
    }
    if (rc == VD_OK)
        return;
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(link->link, peer, err.message);
        stor_audit_cut(link->storage->audit, "veddb-rotated", err.message);
        return;
    }
    vd_log(VD_LOG_WARN, "message of rotated refused", "error=\"%s\"", err.message);
    if (envelope.request_id != 0) {
        vdp_failure_t failure = vdp_failure_from(&err);
        message_send(link, &vdp_failure, &failure, envelope.request_id, VD_SLICE_NULL);
    }
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    stor_audit_link_t *link = context;
    (void)peer; /* a DEALER has one */
    link->up = up;
    link->parked = link->more = false;
    stor_audit_attached(link->storage->audit, up);
    if (!up)
        return;
    vdp_audit_attach_t attach = {
        .boot_id = vd_slice(link->storage->boot_id, sizeof link->storage->boot_id)};
    message_send(link, &vdp_audit_attach, &attach, 0, VD_SLICE_NULL);
}

static void cut_off(void *context)
{
    stor_audit_link_t *link = context;
    stor_inbox_cut_off(link->storage);
}

static void look_due(void *context)
{
    stor_audit_link_t *link = context;
    stor_audit_held_t held;
    while (link->up && stor_audit_held_next(link->storage->audit, &held)) {
        vdp_audit_held_t fields = {
            .node = vd_slice_str(held.node),
            .head = held.has_head ? vd_slice(held.head, sizeof held.head) : VD_SLICE_NULL,
            .frozen = held.frozen,
            .other = held.has_other ? vd_slice(held.other, sizeof held.other) : VD_SLICE_NULL};
        message_send(link, &vdp_audit_held, &fields, 0, VD_SLICE_NULL);
    }
    stor_audit_cuts_look(link->storage->audit, link->session);
    look(link);
}

/* ---- life ---- */

static int life_event(stor_audit_link_t *link, const char *atype, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t event;
    vd_bb_init(&bb, 4096);
    stor_audit_begin(&bb, atype, vd_wall_ms(), VD_SLICE_NULL, VD_SLICE_NULL);
    vd_bb_begin_document(&bb, "param");
    vd_bb_cstr(&bb, "program", "veddb-storaged");
    vd_bb_cstr(&bb, "version", VEDDB_VERSION);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", 0);
    int rc = vd_bb_finish(&bb, &event, err);
    if (rc == VD_OK)
        rc = stor_audit_event(link->storage->audit, link->session, event, err);
    vd_bb_done(&bb);
    return rc;
}

static void *run(void *context)
{
    stor_audit_link_t *link = context;
    vd_error_t err = VD_ERROR_INIT;
    vd_link_options_t options = {
        .path = link->path,
        .item_max_bytes = VDP_AUDIT_BODY_MAX_BYTES + 4096,
        .item = item_arrived,
        .peer_changed = peer_changed,
        .cut = cut_off,
        .context = link,
    };
    int rc = vd_link_open(link->loop, &options, &link->link, &err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(link->loop, LOOK_MS, LOOK_MS, look_due, link, &link->timer, &err);
    if (rc == VD_OK)
        rc = vd_loop_run(link->loop, &err);
    if (rc != VD_OK)
        stor_inbox_failed(&err, link->storage);
    vd_loop_remove(&link->timer);
    if (link->link != NULL)
        vd_link_close(&link->link);
    return NULL;
}

int stor_audit_link_start(stor_storage_t *storage, struct vd_daemon *daemon,
                          const char *socket_path, stor_audit_link_t **ret_link, vd_error_t *err)
{
    stor_audit_link_t *link = vd_xalloc(sizeof *link);
    (void)daemon; /* it may wait for storage's disk: no slot that is watched */
    link->storage = storage;
    (void)snprintf(link->path, sizeof link->path, "%s", socket_path);
    vd_buf_init(&link->item, 4096);
    vd_buf_init(&link->body, VDP_AUDIT_BODY_MAX_BYTES);
    int rc = stor_session_open(storage->engine, &link->session, err);
    if (rc == VD_OK)
        rc = life_event(link, "startup", err);
    if (rc == VD_OK)
        rc = vd_loop_create(&link->loop, err);
    if (rc == VD_OK && vd_thread_start(&link->thread, run, link) != 0)
        rc = vd_error_set(err, VD_ERR_INTERNAL, "the audit thread can't be started");
    link->started = rc == VD_OK;
    if (rc != VD_OK) {
        stor_audit_link_stop(&link);
        return rc;
    }
    (void)pthread_setname_np(link->thread, "audit");
    *ret_link = link;
    return VD_OK;
}

void stor_audit_link_stop(stor_audit_link_t **link_p)
{
    stor_audit_link_t *link = *link_p;
    vd_error_t err = VD_ERROR_INIT;
    if (link == NULL)
        return;
    if (link->started) {
        vd_loop_stop(link->loop);
        (void)pthread_join(link->thread, NULL);
        if (life_event(link, "shutdown", &err) != VD_OK)
            vd_log(VD_LOG_WARN, "the end is not in the audit log", "error=\"%s\"", err.message);
    }
    vd_loop_destroy(&link->loop);
    stor_session_close(&link->session);
    vd_buf_done(&link->item);
    vd_buf_done(&link->body);
    vd_free(link);
    *link_p = NULL;
}
