/* veddb-rotated/audit/audit.c — see audit.h.
 *
 * The thread's states: no log (a write failed, or it is not open yet); a log and no storage; a pull
 * under way. One pull at a time; its batch is appended at once, and a head follows by the clock. */
#include "veddb-rotated/audit/audit.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/bson/build.h"
#include "libcommon/runtime/link.h"
#include "libcommon/runtime/sandbox.h"
#include "libcommon/runtime/thread.h"
#include "proto/audit.h"
#include "proto/failure.h"
#include "veddb-rotated/audit/ask.h"
#include "veddb-rotated/audit/rewrap.h"

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define TICK_MS        100
#define REOPEN_MS      1000
#define CREDIT_BYTES   (512u * 1024)
#define PULL_WAIT_MS   2000
#define WRAPS_PER_TURN 64   /* keys of segments */
#define IDLE_HEAD_MS   5000 /* positions that moved without records get a head after so long */

typedef struct {
    uint64_t ticket; /* 0: nobody waits */
    char text[1024]; /* "name\tdetail" */
} note_t;

struct rot_audit {
    vd_daemon_t *daemon;
    char folder[PATH_MAX - 64], second_place[PATH_MAX - 64], socket[PATH_MAX];
    rot_log_options_t options;
    rot_data_key_t *keys;             /* locked */
    uint32_t key_count, wrap_version; /* wrap_version: key files are to go under it; 0: all are */
    bool started;
    pthread_t thread;
    vd_loop_t *loop;
    vd_daemon_slot_t *slot;
    /* the thread's */
    vd_link_t *link;
    vd_source_t *timer, *step;
    rot_log_t *log;
    uint64_t peer, pull_id, pulled; /* pulled: id of the one under way, 0 = none */
    uint64_t sealed_ms, reopen_ms, moved_ms;
    rot_positions_t told;
    uint64_t told_head, told_held, broken_head; /* broken: sealed last before it broke */
    bool told_alarm;
    bool was_open;
    bool began; /* the log is a new one */
    bool held_moved;
    rot_held_t held;
    vd_buf_t item;
    /* shared */
    pthread_mutex_t lock;
    struct {
        rot_data_key_t *keys; /* locked */
        uint32_t count, active, version;
        bool waits; /* the thread is to take them */
    } fresh;
    uint32_t wrapped_version;
    note_t notes[ROT_NOTES_MAX];
    uint32_t note_count;
    struct {
        uint64_t segment, offset, copied, head, records, journal, events, failures, batches,
            pulled_bytes;
        int64_t sealed_wall_ms;
        uint32_t epoch;
        bool open, attached;
        uint64_t notes_lost;
        rot_held_t held;
        char problem[256];
        rot_log_counts_t counts;
    } shown;
    pthread_t asker;
    atomic_bool asking, ask_done;
    bool asker_started;
    rot_ask_t ask;
    uint64_t ask_ticket;
    vd_buf_t ask_out;
    vd_error_t ask_error;
    int ask_rc;
};

/* ---- what others see ---- */

static void show(rot_audit_t *audit)
{
    (void)pthread_mutex_lock(&audit->lock);
    audit->shown.open = audit->log != NULL;
    audit->shown.attached = audit->peer != 0;
    if (audit->log != NULL) {
        const rot_point_t *sealed = rot_log_sealed(audit->log);
        audit->shown.segment = sealed->segment;
        audit->shown.offset = sealed->offset;
        audit->shown.copied = rot_log_copied(audit->log);
        audit->shown.head = sealed->head.number;
        audit->shown.records = sealed->records;
        audit->shown.journal = sealed->head.journal;
        audit->shown.events = sealed->head.events;
        audit->shown.sealed_wall_ms = sealed->head.time_ms;
        audit->shown.epoch = rot_log_epoch(audit->log);
        if (sealed->head.number > audit->broken_head)
            audit->shown.problem[0] = '\0';
        rot_log_counts(audit->log, &audit->shown.counts);
        if (audit->held_moved)
            audit->shown.held = audit->held;
        audit->held_moved = false;
    }
    (void)pthread_mutex_unlock(&audit->lock);
}

/* ---- the log ---- */

static bool is_final(int rc)
{
    return rc == VD_ERR_CORRUPT || rc == VD_ERR_KEY_MISSING || rc == VD_ERR_KEY_WRONG ||
           rc == VD_ERR_UNSUPPORTED_FORMAT;
}

static void log_broke(rot_audit_t *audit, const vd_error_t *err)
{
    char text[VD_ERROR_MESSAGE_SIZE + 64];
    (void)pthread_mutex_lock(&audit->lock);
    bool told = audit->shown.problem[0] != '\0';
    if (audit->log != NULL)
        audit->broken_head = rot_log_sealed(audit->log)->head.number;
    (void)snprintf(audit->shown.problem, sizeof audit->shown.problem, "%.250s", err->message);
    audit->shown.failures++;
    (void)pthread_mutex_unlock(&audit->lock);
    if (!told)
        vd_log(VD_LOG_ERROR, "the audit log can't be written", "error=%s",
               vd_log_quote(vd_slice_str(err->message), text, sizeof text));
    rot_log_close(&audit->log);
    audit->pulled = 0; /* its batch is pulled again */
    audit->reopen_ms = vd_monotonic_ms() + REOPEN_MS;
    show(audit);
}

static void log_open(rot_audit_t *audit)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = rot_log_open(&audit->options, &audit->log, &err);
    if (rc == VD_OK) {
        const rot_point_t *sealed = rot_log_sealed(audit->log);
        vd_log(VD_LOG_INFO, audit->was_open ? "the audit log is open again" : "audit log open",
               "segment=%" PRIu64 " head=%" PRIu64 " records=%" PRIu64, sealed->segment,
               sealed->head.number, sealed->records);
        audit->began = !audit->was_open && sealed->head.number <= 1;
        audit->was_open = true;
        audit->sealed_ms = vd_monotonic_ms();
        show(audit);
    } else if (is_final(rc)) {
        vd_daemon_fatal(audit->daemon, true, &err);
    } else {
        log_broke(audit, &err);
    }
}

/* ---- messages ---- */

static void message_send(rot_audit_t *audit, const vdp_message_t *message, const void *fields,
                         uint64_t request_id)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&audit->item);
    int rc = vdp_encode(&audit->item, &envelope, message, fields, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc =
            vd_link_send(audit->link, audit->peer, vd_buf_slice(&audit->item), VD_SLICE_NULL, &err);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to storage was not sent", "message=%s error=%d", message->name,
               -rc);
}

static void pull(rot_audit_t *audit)
{
    if (audit->peer == 0 || audit->log == NULL || audit->pulled != 0)
        return;
    rot_positions_t at = rot_log_reached_positions(audit->log);
    vdp_audit_pull_t fields = {.journal = at.journal,
                               .journal_part = at.journal_part,
                               .events = at.events,
                               .credit_bytes = CREDIT_BYTES,
                               .wait_ms = PULL_WAIT_MS};
    audit->pulled = ++audit->pull_id;
    message_send(audit, &vdp_audit_pull, &fields, audit->pulled);
}

static void sealed_tell(rot_audit_t *audit)
{
    if (audit->peer == 0 || audit->log == NULL)
        return;
    rot_positions_t at = rot_log_sealed_positions(audit->log);
    uint64_t head = rot_log_sealed(audit->log)->head.number;
    if (memcmp(&at, &audit->told, sizeof at) == 0 && head == audit->told_head &&
        audit->held.serial == audit->told_held && audit->held.alarm == audit->told_alarm)
        return;
    uint8_t checked[ROT_HELD_MAX * VDP_AUDIT_CHECKED_BYTES];
    audit->told = at;
    audit->told_head = head;
    audit->told_held = audit->held.serial;
    audit->told_alarm = audit->held.alarm;
    vdp_audit_sealed_t fields = {.journal = at.journal,
                                 .journal_part = at.journal_part,
                                 .events = at.events,
                                 .head = head,
                                 .signed_head = vd_slice(rot_log_head(audit->log), ROT_HEAD_BYTES),
                                 .alarm = audit->held.alarm,
                                 .checked = rot_held_checked(&audit->held, checked)};
    message_send(audit, &vdp_audit_sealed, &fields, 0);
}

static int records_append(rot_audit_t *audit, vd_slice_t body, vd_error_t *err)
{
    int rc = VD_OK;
    while (rc == VD_OK && body.len > 0) {
        uint32_t len = 0;
        if (body.len >= VDP_AUDIT_RECORD_HEAD_BYTES + 5)
            len = vd_get_u32(body.data + VDP_AUDIT_RECORD_HEAD_BYTES);
        if (len < 5 || len > body.len - VDP_AUDIT_RECORD_HEAD_BYTES ||
            len > ROT_DOCUMENT_MAX_BYTES || body.data[0] < ROT_SOURCE_JOURNAL ||
            body.data[0] > ROT_SOURCE_EVENTS)
            return vd_error_set(err, VD_ERR_BAD_VALUE, "a malformed audit record");
        rc = rot_log_append(audit->log, body.data[0], vd_get_u64(body.data + 8),
                            vd_get_u32(body.data + 4),
                            vd_slice(body.data + VDP_AUDIT_RECORD_HEAD_BYTES, len), err);
        size_t all = VDP_AUDIT_RECORD_HEAD_BYTES + (size_t)len;
        body = vd_slice(body.data + all, body.len - all);
    }
    return rc;
}

static int batch_take(rot_audit_t *audit, vd_slice_t rest, vd_error_t *err)
{
    vdp_audit_batch_t batch = {0};
    vd_slice_t body;
    int rc = vdp_decode(&vdp_audit_batch, rest, &batch, &body, err);
    if (rc != VD_OK || audit->log == NULL)
        return rc;
    rot_positions_t reached = {batch.journal, batch.journal_part, batch.events};
    rc = records_append(audit, body, err);
    if (rc != VD_OK)
        return rc;
    if (!rot_log_is_dirty(audit->log))
        audit->moved_ms = vd_monotonic_ms();
    rot_log_reached(audit->log, reached);
    (void)pthread_mutex_lock(&audit->lock);
    audit->shown.batches++;
    audit->shown.pulled_bytes += body.len;
    (void)pthread_mutex_unlock(&audit->lock);
    return VD_OK;
}

/* A node has said what it holds of this log. */
static int held_take(rot_audit_t *audit, vd_slice_t rest, vd_error_t *err)
{
    vdp_audit_held_t said = {0};
    char why[ROT_HELD_WHY_MAX], quoted[ROT_HELD_WHY_MAX + 64];
    rot_head_t other;
    int rc = vdp_decode(&vdp_audit_held, rest, &said, NULL, err);
    if (rc != VD_OK || audit->log == NULL)
        return rc;
    rot_held_verdict_t verdict = rot_held_take(&audit->held, audit->folder, audit->log, said.node,
                                               said.head, said.frozen, why);
    audit->held_moved = true;
    if (verdict == ROT_HELD_IGNORED) {
        vd_log(VD_LOG_WARN, "what a node holds of the audit log is not believed", "error=%s",
               vd_log_quote(vd_slice_str(why), quoted, sizeof quoted));
    } else if (verdict == ROT_HELD_ALARM) {
        vd_log(VD_LOG_ERROR,
               "THE AUDIT LOG WAS PUT BACK OR CHANGED: other nodes hold heads that it does not "
               "have; look with vedctl audit verify",
               "error=%s", vd_log_quote(vd_slice_str(why), quoted, sizeof quoted));
        rot_audit_note(audit, "auditRollback", "%s", why);
    }
    if (audit->began && said.other.len == ROT_HEAD_BYTES &&
        rot_head_unpack(said.other.data, &other)) {
        audit->began = false; /* said once */
        vd_log(VD_LOG_WARN, "this audit log is a new one, other nodes hold heads of an earlier one",
               "node=%.*s head=%" PRIu64, VD_SLICE_FMT(said.node), other.number);
        rot_audit_note(audit, "auditLogReplaced", "%.*s holds head %" PRIu64 " of an earlier log",
                       VD_SLICE_FMT(said.node), other.number);
    }
    return VD_OK;
}

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    rot_audit_t *audit = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest;
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    if (rc == VD_OK && envelope.id == VDP_AUDIT_ATTACH) {
        audit->peer = peer;
        audit->pulled = 0;
        memset(&audit->told, 0xff, sizeof audit->told);
        sealed_tell(audit);
    } else if (rc == VD_OK && peer == audit->peer && envelope.id == VDP_AUDIT_HELD) {
        rc = held_take(audit, rest, &err);
    } else if (rc == VD_OK && peer == audit->peer && envelope.request_id == audit->pulled &&
               audit->pulled != 0) {
        audit->pulled = 0;
        if (envelope.id == VDP_AUDIT_BATCH)
            rc = batch_take(audit, rest, &err);
        else if (envelope.id == VDP_FAILURE)
            vd_log(VD_LOG_ERROR, "storage can't answer a pull of audit records", "peer=%" PRIu64,
                   peer);
        else
            rc = vdp_foreign(envelope.id, "the audit of rotated", &err);
    } else if (rc == VD_OK && envelope.id != VDP_AUDIT_HELD && envelope.id != VDP_AUDIT_BATCH &&
               envelope.id != VDP_FAILURE) {
        rc = vdp_foreign(envelope.id, "the audit of rotated", &err);
    } /* else: of a storage that was, or an answer that comes too late */
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(audit->link, peer, err.message);
        rot_audit_note(audit, "linkCut", "veddb-storaged: %s", err.message);
    } else if (rc == VD_ERR_COMMAND_NOT_FOUND || rc == VD_ERR_BAD_VALUE) {
        /* A record in the journal: storage would end for it again and again. */
        vd_log(VD_LOG_WARN, "message of storage refused", "error=\"%s\"", err.message);
    } else if (rc != VD_OK) {
        log_broke(audit, &err);
    }
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    rot_audit_t *audit = context;
    if (up || peer != audit->peer)
        return;
    audit->peer = 0;
    audit->pulled = 0;
}

/* ---- notes of the supervisor ---- */

static int note_append(rot_audit_t *audit, const note_t *note, vd_error_t *err)
{
    vd_bb_t bb;
    vd_bson_t document;
    const char *tab = strchr(note->text, '\t');
    size_t name = tab == NULL ? strlen(note->text) : (size_t)(tab - note->text);
    vd_bb_init(&bb, 8192);
    vd_bb_string(&bb, "atype", vd_slice(note->text, name));
    vd_bb_date(&bb, "ts", vd_wall_ms());
    vd_bb_begin_document(&bb, "param");
    vd_bb_cstr(&bb, "detail", tab == NULL ? "" : tab + 1);
    vd_bb_close(&bb);
    vd_bb_int32(&bb, "result", 0);
    int rc = vd_bb_finish(&bb, &document, err);
    if (rc == VD_OK)
        rc = rot_log_append(audit->log, ROT_SOURCE_LOG, 0, 0, vd_slice(document.data, document.len),
                            err);
    vd_bb_done(&bb);
    return rc;
}

typedef struct {
    rot_audit_t *audit;
    uint64_t ticket;
} answered_t;

static void note_answer(void *context)
{
    answered_t *answered = context;
    vd_daemon_answer(answered->audit->daemon, answered->ticket, VD_OK, "", VD_SLICE_NULL);
    vd_free(answered);
}

/* Those that came are appended, sealed and answered. */
static int notes_take(rot_audit_t *audit, vd_error_t *err)
{
    note_t taken[8];
    int rc = VD_OK;
    for (uint32_t n = 1; rc == VD_OK && n > 0;) {
        (void)pthread_mutex_lock(&audit->lock);
        n = audit->note_count < VD_COUNT_OF(taken) ? audit->note_count : VD_COUNT_OF(taken);
        memcpy(taken, audit->notes, n * sizeof taken[0]);
        (void)pthread_mutex_unlock(&audit->lock);
        for (uint32_t i = 0; rc == VD_OK && i < n; i++)
            rc = note_append(audit, &taken[i], err);
        if (rc == VD_OK && n > 0)
            rc = rot_log_seal(audit->log, err);
        if (rc != VD_OK)
            break;
        (void)pthread_mutex_lock(&audit->lock);
        audit->note_count -= n;
        memmove(audit->notes, audit->notes + n, audit->note_count * sizeof audit->notes[0]);
        (void)pthread_mutex_unlock(&audit->lock);
        for (uint32_t i = 0; i < n; i++) {
            if (taken[i].ticket == 0)
                continue;
            answered_t *answered = vd_xalloc(sizeof *answered);
            *answered = (answered_t){audit, taken[i].ticket};
            vd_loop_post(vd_daemon_loop(audit->daemon), note_answer, answered);
        }
    }
    return rc;
}

/* ---- another key of the keyring ---- */

/* Whoever is answered at present reads the old ones: then it is done later. */
static int keys_take(rot_audit_t *audit, vd_error_t *err)
{
    rot_log_options_t *options = &audit->options;
    (void)pthread_mutex_lock(&audit->lock);
    bool takes = audit->fresh.waits && !atomic_load(&audit->asking);
    if (takes) {
        audit->fresh.waits = false;
        memcpy(audit->keys, audit->fresh.keys, ROT_KEYS_MAX * sizeof(rot_data_key_t));
        vd_wipe(audit->fresh.keys, ROT_KEYS_MAX * sizeof(rot_data_key_t));
        audit->key_count = audit->fresh.count;
        audit->wrap_version = audit->fresh.version;
        audit->wrapped_version = 0;
        options->keys = (rot_data_keys_t){audit->keys, audit->key_count};
        options->active = &audit->keys[audit->fresh.active];
    }
    (void)pthread_mutex_unlock(&audit->lock);
    /* A log that is not open wraps its seal when it is opened. */
    return takes && audit->log != NULL
               ? rot_log_rekey(audit->log, options->keys, options->active, err)
               : VD_OK;
}

/* Some of the segments' keys. The log is open: its seal is wrapped. */
static int wrap_some(rot_audit_t *audit, vd_error_t *err)
{
    bool more = false;
    if (audit->wrap_version == 0)
        return VD_OK;
    int rc = rot_rewrap_segments(audit->folder, audit->options.keys, audit->options.active,
                                 WRAPS_PER_TURN, &more, err);
    if (rc == VD_OK && more) {
        vd_loop_wake(audit->loop);
    } else if (rc == VD_OK) {
        vd_log(VD_LOG_INFO, "the audit log is wrapped under another key", "version=%u",
               audit->wrap_version);
        (void)pthread_mutex_lock(&audit->lock);
        audit->wrapped_version = audit->wrap_version;
        (void)pthread_mutex_unlock(&audit->lock);
        audit->wrap_version = 0;
    }
    return rc;
}

void rot_audit_rekey(rot_audit_t *audit, const rot_keyring_t *keyring)
{
    (void)pthread_mutex_lock(&audit->lock);
    audit->fresh.count = rot_data_keys_copy(keyring, audit->fresh.keys, &audit->fresh.active);
    audit->fresh.version = rot_keyring_active(keyring)->version;
    audit->fresh.waits = true;
    (void)pthread_mutex_unlock(&audit->lock);
    if (audit->started)
        vd_loop_wake(audit->loop);
}

uint32_t rot_audit_wrapped(rot_audit_t *audit)
{
    (void)pthread_mutex_lock(&audit->lock);
    uint32_t version = audit->fresh.waits ? 0 : audit->wrapped_version;
    (void)pthread_mutex_unlock(&audit->lock);
    return version;
}

/* ---- the thread ---- */

static bool seal_due(const rot_audit_t *audit, uint64_t now_ms)
{
    if (!rot_log_is_dirty(audit->log))
        return false;
    return rot_log_has_records(audit->log) ? now_ms - audit->sealed_ms >= ROT_SEAL_MS
                                           : now_ms - audit->moved_ms >= IDLE_HEAD_MS;
}

static bool turn(void *context)
{
    rot_audit_t *audit = context;
    vd_error_t err = VD_ERROR_INIT;
    uint64_t now_ms = vd_monotonic_ms();
    vd_daemon_beat(audit->slot, true);
    if (keys_take(audit, &err) != VD_OK) {
        log_broke(audit, &err);
        vd_error_clear(&err);
    }
    if (audit->log == NULL && now_ms >= audit->reopen_ms)
        log_open(audit);
    if (audit->log != NULL) {
        int rc = notes_take(audit, &err);
        if (rc == VD_OK)
            rc = wrap_some(audit, &err);
        if (rc == VD_OK && seal_due(audit, now_ms)) {
            rc = rot_log_seal(audit->log, &err);
            audit->sealed_ms = now_ms;
        }
        if (rc != VD_OK) {
            log_broke(audit, &err);
        } else {
            sealed_tell(audit);
            pull(audit);
            show(audit);
        }
    }
    vd_daemon_beat(audit->slot, false);
    return false;
}

static void tick(void *context)
{
    (void)context; /* the turn that this begins does it */
}

static void cut_off(void *context)
{
    rot_audit_t *audit = context;
    vd_daemon_cut_off(audit->daemon);
}

static void *run(void *context)
{
    rot_audit_t *audit = context;
    vd_error_t err = VD_ERROR_INIT;
    vd_link_options_t options = {
        .path = audit->socket,
        .bind = true,
        .socket_mode = 0660, /* the folder lets in only ourselves and storage's group */
        .item_max_bytes = VDP_AUDIT_BODY_MAX_BYTES + 4096,
        .item = item_arrived,
        .peer_changed = peer_changed,
        .cut = cut_off,
        .context = audit,
    };
    int rc = vd_link_open(audit->loop, &options, &audit->link, &err);
    if (rc == VD_OK)
        rc = vd_loop_add_end_of_turn(audit->loop, VD_LINK_STEP_ORDER + 50, turn, audit,
                                     &audit->step, &err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(audit->loop, 1, TICK_MS, tick, audit, &audit->timer, &err);
    if (rc == VD_OK)
        rc = vd_loop_run(audit->loop, &err);
    if (rc != VD_OK)
        vd_daemon_fatal(audit->daemon, false, &err);
    rot_log_close(&audit->log); /* seals */
    vd_loop_remove(&audit->step);
    vd_loop_remove(&audit->timer);
    vd_link_close(&audit->link);
    return NULL;
}

/* ---- life ---- */

int rot_audit_create(vd_daemon_t *daemon, rot_audit_t **ret_audit, vd_error_t *err)
{
    const vd_config_t *config = vd_daemon_config(daemon);
    rot_audit_t *audit = vd_xalloc(sizeof *audit);
    void *keys = NULL, *fresh = NULL;
    audit->daemon = daemon;
    (void)snprintf(audit->folder, sizeof audit->folder, "%.4000s/audit",
                   vd_daemon_folder(daemon, "node.folder"));
    (void)snprintf(audit->second_place, sizeof audit->second_place, "%s",
                   vd_daemon_folder(daemon, "audit.second_place"));
    (void)pthread_mutex_init(&audit->lock, NULL);
    vd_buf_init(&audit->item, 64 * 1024);
    vd_buf_init(&audit->ask_out, ROT_ASK_BYTES_MAX);
    audit->options = (rot_log_options_t){
        .folder = audit->folder,
        .second_place = audit->second_place,
        .segment_max_bytes = (uint64_t)vd_config_number(config, "audit.segment_size"),
        .segment_max_ms = (uint64_t)vd_config_number(config, "audit.segment_age"),
        .retention_ms = (uint64_t)vd_config_number(config, "audit.retention"),
        .retention_bytes = (uint64_t)vd_config_number(config, "audit.retention_size"),
        .key_max_ms = (uint64_t)vd_config_number(config, "audit.key_age"),
        .hold = &audit->asking,
    };
    int rc = vd_secret_alloc(ROT_KEYS_MAX * sizeof(rot_data_key_t), &keys, err);
    audit->keys = keys;
    if (rc == VD_OK)
        rc = vd_secret_alloc(ROT_KEYS_MAX * sizeof(rot_data_key_t), &fresh, err);
    audit->fresh.keys = fresh;
    if (rc != VD_OK)
        rot_audit_destroy(&audit);
    else
        *ret_audit = audit;
    return rc;
}

int rot_audit_start(rot_audit_t *audit, const rot_keyring_t *keyring, vd_error_t *err)
{
    if (audit->started || rot_keyring_count(keyring) == 0)
        return VD_OK;
    uint32_t active = 0;
    audit->key_count = rot_data_keys_copy(keyring, audit->keys, &active);
    audit->options.active = &audit->keys[active];
    audit->options.keys = (rot_data_keys_t){audit->keys, audit->key_count};
    (void)vd_daemon_socket_path(audit->daemon, "storage-rotated", "audit", audit->socket,
                                sizeof audit->socket);
    audit->slot = vd_daemon_slot(audit->daemon, "audit");
    int rc = vd_loop_create(&audit->loop, err);
    if (rc != VD_OK)
        return rc;
    if (vd_thread_start(&audit->thread, run, audit) != 0)
        return vd_error_set(err, VD_ERR_INTERNAL, "the audit thread can't be started");
    (void)pthread_setname_np(audit->thread, "audit");
    audit->started = true;
    return VD_OK;
}

void rot_audit_destroy(rot_audit_t **audit_p)
{
    rot_audit_t *audit = *audit_p;
    if (audit == NULL)
        return;
    if (audit->asker_started)
        (void)pthread_join(audit->asker, NULL);
    if (audit->started) {
        vd_loop_stop(audit->loop);
        (void)pthread_join(audit->thread, NULL);
    }
    vd_loop_destroy(&audit->loop);
    if (audit->keys != NULL)
        vd_secret_free(audit->keys, ROT_KEYS_MAX * sizeof(rot_data_key_t));
    if (audit->fresh.keys != NULL)
        vd_secret_free(audit->fresh.keys, ROT_KEYS_MAX * sizeof(rot_data_key_t));
    vd_buf_done(&audit->item);
    vd_buf_done(&audit->ask_out);
    (void)pthread_mutex_destroy(&audit->lock);
    vd_free(audit);
    *audit_p = NULL;
}

/* ---- questions ---- */

static void ask_answer(void *context)
{
    rot_audit_t *audit = context;
    (void)pthread_join(audit->asker, NULL);
    audit->asker_started = false;
    atomic_store(&audit->asking, false);
    vd_daemon_answer(audit->daemon, audit->ask_ticket, audit->ask_rc, audit->ask_error.message,
                     audit->ask_rc == VD_OK ? vd_buf_slice(&audit->ask_out) : VD_SLICE_NULL);
}

static void *ask_run(void *context)
{
    rot_audit_t *audit = context;
    vd_error_clear(&audit->ask_error);
    audit->ask_rc = rot_ask_run(&audit->ask, &audit->ask_out, &audit->ask_error);
    vd_loop_post(vd_daemon_loop(audit->daemon), ask_answer, audit);
    return NULL;
}

static void refuse(rot_audit_t *audit, uint64_t ticket, int code, const char *message)
{
    vd_daemon_answer(audit->daemon, ticket, code, message, VD_SLICE_NULL);
}

static bool note_put(rot_audit_t *audit, uint64_t ticket, vd_slice_t text)
{
    bool full;
    (void)pthread_mutex_lock(&audit->lock);
    full = audit->note_count == ROT_NOTES_MAX;
    audit->shown.notes_lost += full && ticket == 0;
    if (!full) {
        note_t *note = &audit->notes[audit->note_count++];
        note->ticket = ticket;
        (void)snprintf(note->text, sizeof note->text, "%.*s", VD_SLICE_FMT(text));
    }
    (void)pthread_mutex_unlock(&audit->lock);
    if (!full && audit->loop != NULL)
        vd_loop_wake(audit->loop);
    return !full;
}

void rot_audit_note(rot_audit_t *audit, const char *atype, const char *format, ...)
{
    char text[sizeof audit->notes[0].text];
    va_list args;
    if (audit == NULL)
        return;
    int len = snprintf(text, sizeof text, "%s\t", atype);
    va_start(args, format);
    (void)vsnprintf(text + len, sizeof text - (size_t)len, format, args);
    va_end(args);
    if (!note_put(audit, 0, vd_slice_str(text)))
        vd_log(VD_LOG_ERROR, "an event is not in the audit log: too many wait", "atype=%s", atype);
}

static void note_add(rot_audit_t *audit, uint64_t ticket, vd_slice_t text)
{
    if (!note_put(audit, ticket, text))
        refuse(audit, ticket, VD_ERR_FULL, "too many notes wait for the audit log");
}

void rot_audit_ask(rot_audit_t *audit, uint64_t ticket, vd_slice_t verb, vd_slice_t argument)
{
    rot_ask_t *ask = &audit->ask;
    if (vd_slice_is(verb, "note")) {
        note_add(audit, ticket, argument);
        return;
    }
    if (vd_slice_is(verb, "status")) {
        vd_buf_t json;
        vd_buf_init(&json, 32 * 1024);
        int rc = rot_audit_status(audit, &json);
        vd_daemon_answer(audit->daemon, ticket, rc, "", vd_buf_slice(&json));
        vd_buf_done(&json);
        return;
    }
    if (atomic_load(&audit->asking)) {
        refuse(audit, ticket, VD_ERR_OBJECT_IS_BUSY, "another question is being answered");
        return;
    }
    (void)snprintf(ask->verb, sizeof ask->verb, "%.*s", (int)(verb.len < 15 ? verb.len : 15),
                   (const char *)verb.data);
    (void)snprintf(ask->argument, sizeof ask->argument, "%.*s", VD_SLICE_FMT(argument));
    ask->folder = audit->folder;
    ask->second_place = audit->second_place;
    (void)pthread_mutex_lock(&audit->lock);
    atomic_store(&audit->asking, true); /* from here on the keys stay as they are */
    ask->keys = audit->options.keys;
    ask->limit_segment = audit->shown.segment;
    ask->limit_offset = audit->shown.offset;
    ask->limit_copy = audit->shown.copied;
    ask->held_count = audit->shown.held.count;
    memcpy(ask->held, audit->shown.held.heads, sizeof ask->held);
    (void)pthread_mutex_unlock(&audit->lock);
    audit->ask_ticket = ticket;
    vd_buf_clear(&audit->ask_out);
    if (vd_thread_start(&audit->asker, ask_run, audit) != 0) {
        atomic_store(&audit->asking, false);
        refuse(audit, ticket, VD_ERR_INTERNAL, "a thread can't be started");
        return;
    }
    audit->asker_started = true;
}

/* vd_log_quote leaves a plain word without quotes. */
static int json_text(vd_buf_t *out, const char *name, const char *text)
{
    char quoted[600];
    const char *value = vd_log_quote(vd_slice_str(text), quoted, sizeof quoted);
    const char *quote = value[0] == '"' ? "" : "\"";
    return vd_buf_printf(out, "\"%s\":%s%s%s", name, quote, value, quote);
}

static int held_status(const rot_held_t *held, vd_buf_t *out)
{
    int rc = vd_buf_printf(out, ",");
    if (rc == VD_OK)
        rc = json_text(out, "alarm", held->alarm ? held->why : "");
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"peer_heads\":[");
    for (uint32_t i = 0; rc == VD_OK && i < held->count; i++) {
        const rot_held_head_t *head = &held->heads[i];
        rc = vd_buf_printf(out, "%s{\"head\":%" PRIu64 ",\"frozen\":%s,", i == 0 ? "" : ",",
                           head->number, head->frozen ? "true" : "false");
        if (rc == VD_OK)
            rc = json_text(out, "node", head->node);
        if (rc == VD_OK)
            rc = vd_buf_printf(out, "}");
    }
    return rc == VD_OK ? vd_buf_printf(out, "]") : rc;
}

int rot_audit_status(rot_audit_t *audit, vd_buf_t *out)
{
    (void)pthread_mutex_lock(&audit->lock);
    int rc = vd_buf_printf(
        out,
        "{\"open\":%s,\"attached\":%s,\"segment\":%" PRIu64 ",\"offset\":%" PRIu64
        ",\"head\":%" PRIu64 ",\"records\":%" PRIu64 ",\"journal\":%" PRIu64 ",\"events\":%" PRIu64
        ",\"sealed_ms\":%" PRId64 ",\"epoch\":%u,\"failures\":%" PRIu64 ",\"batches\":%" PRIu64
        ",\"dropped_segments\":%" PRIu64 ",\"copies_failed\":%" PRIu64 ",\"notes_lost\":%" PRIu64
        ",",
        audit->shown.open ? "true" : "false", audit->shown.attached ? "true" : "false",
        audit->shown.segment, audit->shown.offset, audit->shown.head, audit->shown.records,
        audit->shown.journal, audit->shown.events, audit->shown.sealed_wall_ms, audit->shown.epoch,
        audit->shown.failures, audit->shown.batches, audit->shown.counts.segments_dropped,
        audit->shown.counts.copies_failed, audit->shown.notes_lost);
    if (rc == VD_OK)
        rc = json_text(out, "problem", audit->shown.problem);
    if (rc == VD_OK)
        rc = held_status(&audit->shown.held, out);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, "}");
    (void)pthread_mutex_unlock(&audit->lock);
    return rc;
}
