/* veddb-rotated/rotation/rotation.c — see rotation.h. */
#include "veddb-rotated/rotation/rotation.h"

#include "libcommon/base/clock.h"
#include "libcommon/base/fault.h"
#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/link.h"
#include "libcommon/runtime/sandbox.h"
#include "proto/rotation.h"
#include "veddb-rotated/audit/rewrap.h"
#include "veddb-rotated/rotation/copies.h"
#include "veddb-rotated/rotation/record.h"
#include "veddb-rotated/rotation/show.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#define TICK_MS     1000
#define ASK_BYTES   (150 * 1024)
#define KEK_WAIT_MS 25000 /* an operator waits for 30 s */

/* Who is to be answered by the event under way. */
typedef struct {
    bool operator_waits;
    uint64_t ticket; /* of the operator, or of storage's question */
    uint64_t peer;
} asker_t;

struct rot_rotation {
    rot_rotation_options_t options;
    rot_machine_t machine, next; /* next: the copy that an event changes */
    rot_event_t event;
    rot_left_t left[ROT_VERSIONS_MAX]; /* of the event */
    rot_actions_t actions;
    vd_link_t *link;
    vd_source_t *timer;
    uint64_t peer; /* storage, attached; 0: away */
    asker_t asker;
    uint8_t *kek; /* locked: the next one, while it is being taken over */
    /* What a source that takes its time has given of it. */
    uint8_t *kek_text; /* locked */
    size_t kek_len;
    int kek_fd; /* -1: nothing is awaited */
    vd_source_t *kek_source, *kek_timer;
    asker_t kek_asker;
    bool save_failed; /* told */
    vd_error_t save_error;
    vd_buf_t note, item, json;
    rot_copies_t copies;
    char copies_names[ROT_TEXT_BYTES];
};

/* ---- messages ---- */

static void message_send(rot_rotation_t *rotation, uint64_t peer, uint64_t request_id,
                         const vdp_message_t *message, const void *fields, vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {.id = message->id, .request_id = request_id};
    vd_buf_clear(&rotation->item);
    int rc = vdp_encode(&rotation->item, &envelope, message, fields, body, &err);
    if (rc == VD_OK)
        rc = vd_link_send_ordered(rotation->link, peer, vd_buf_slice(&rotation->item),
                                  VD_SLICE_NULL, &err);
    if (rc != VD_OK && rc != VD_ERR_CLOSED)
        vd_log(VD_LOG_WARN, "message to storage was not sent", "message=%s error=%d", message->name,
               -rc);
}

static uint32_t active_version(const rot_rotation_t *rotation)
{
    const rot_key_t *active = rot_keyring_active(rotation->options.keyring);
    return active == NULL ? 0 : active->version;
}

static void order_send(rot_rotation_t *rotation)
{
    rot_order_t now = rot_machine_order(&rotation->machine, active_version(rotation));
    vdp_rotation_order_t fields = {.rotation = now.rotation,
                                   .step = now.step,
                                   .active_version = now.active_version,
                                   .old_version = now.old_version,
                                   .rate_max_bytes = now.rate_max_bytes,
                                   .latency_rise_max = now.latency_rise_max,
                                   .wraps = now.wraps};
    if (rotation->peer != 0)
        message_send(rotation, rotation->peer, 0, &vdp_rotation_order, &fields, VD_SLICE_NULL);
}

/* ---- answers ---- */

static void answer(rot_rotation_t *rotation, int code, const char *text)
{
    asker_t *asker = &rotation->asker;
    vd_slice_t json = code == VD_OK ? vd_buf_slice(&rotation->json) : VD_SLICE_NULL;
    if (asker->operator_waits) {
        vd_daemon_answer(rotation->options.daemon, asker->ticket, code, text, json);
    } else if (asker->peer != 0) {
        vdp_rotation_answer_t fields = {.code = code, .message = vd_slice_str(text)};
        message_send(rotation, asker->peer, asker->ticket, &vdp_rotation_answer, &fields, json);
    }
    *asker = (asker_t){0};
}

int rot_rotation_status(const rot_rotation_t *rotation, bool history, vd_buf_t *out)
{
    return rot_show_status(&rotation->machine, &rotation->copies, vd_wall_ms(), history, out);
}

/* ---- events ---- */

static void facts_fill(rot_rotation_t *rotation, rot_facts_t *facts)
{
    const rot_keyring_t *keyring = rotation->options.keyring;
    const vd_config_t *config = vd_daemon_config(rotation->options.daemon);
    const rot_key_t *active = rot_keyring_active(keyring);
    uint32_t count = rot_keyring_count(keyring), old = rotation->machine.kept.old_version;
    *facts = (rot_facts_t){
        .now_ms = vd_wall_ms(),
        .active_version = active == NULL ? 0 : active->version,
        .highest_version = count == 0 ? 0 : rot_keyring_at(keyring, count - 1)->version,
        .full = rot_keyring_is_full(keyring),
        .active_since_ms = active == NULL ? 0 : active->created_ms,
        .copies_known = rotation->copies.known,
        .retained_copies = rot_copies_count(&rotation->copies, old),
        .copies_names = rot_copies_names(&rotation->copies, old, rotation->copies_names,
                                         sizeof rotation->copies_names),
        .rotate_after_ms = (uint64_t)vd_config_number(config, "keys.rotate_after"),
        .rotate_blocks = (uint64_t)vd_config_number(config, "keys.rotate_blocks"),
        .rate_default = (uint64_t)vd_config_number(config, "keys.rotate_rate"),
        .latency_rise_default = (uint32_t)vd_config_number(config, "keys.rotate_latency_rise"),
    };
}

static int save(rot_rotation_t *rotation, const rot_action_t *action, vd_error_t *err)
{
    rot_keyring_change_t change = {.add = action->add,
                                   .retire_upto = action->retire_upto,
                                   .destroy_upto = action->destroy_upto};
    int rc = rot_record_pack(&rotation->next.kept, &rotation->note, err);
    change.note = vd_buf_slice(&rotation->note);
    if (rc == VD_OK)
        rc = VD_FAULT("rotation.before_save", err);
    if (rc == VD_OK && action->rewrap)
        rc = rot_keyring_rewrap(rotation->options.keyring, rotation->kek, change.note, err);
    else if (rc == VD_OK)
        rc = rot_keyring_change(rotation->options.keyring, &change, err);
    if (rc != VD_OK)
        return rc;
    vd_error_t after = VD_ERROR_INIT;
    (void)VD_FAULT("rotation.saved", &after); /* only a kill means something here: it is done */
    return VD_OK;
}

/* An audit log that is not kept at present has keys all the same. */
static void wrap(rot_rotation_t *rotation)
{
    vd_error_t err = VD_ERROR_INIT;
    const char *root = vd_config_string(vd_daemon_config(rotation->options.daemon), "node.folder");
    char folder[PATH_MAX];
    if (rotation->options.audit != NULL) {
        rot_audit_rekey(rotation->options.audit, rotation->options.keyring);
        return;
    }
    (void)snprintf(folder, sizeof folder, "%.4000s/audit", root);
    if (rot_rewrap_folder(folder, rotation->options.keyring, &err) != VD_OK)
        vd_log(VD_LOG_ERROR, "the audit log's keys are not wrapped anew: the rotation waits",
               "error=\"%s\"", err.message);
    else
        rotation->machine.wrapped_version = active_version(rotation);
}

static void act(rot_rotation_t *rotation, const rot_action_t *action)
{
    vd_error_t err = VD_ERROR_INIT;
    char quoted[sizeof action->text + 16];
    switch (action->kind) {
    case ROT_ACTION_SAVE:
        break; /* done before */
    case ROT_ACTION_ORDER:
        order_send(rotation);
        break;
    case ROT_ACTION_WRAP:
        wrap(rotation);
        break;
    case ROT_ACTION_NOTE:
        vd_log(VD_LOG_INFO, "rotation of keys", "event=%s detail=%s", action->name,
               vd_log_quote(vd_slice_str(action->text), quoted, sizeof quoted));
        if (rotation->options.audit != NULL)
            rot_audit_note(rotation->options.audit, action->name, "%s", action->text);
        break;
    case ROT_ACTION_ANSWER:
        vd_buf_clear(&rotation->json);
        if (rot_rotation_status(rotation, false, &rotation->json) != VD_OK)
            vd_buf_clear(&rotation->json); /* the answer itself matters */
        answer(rotation, action->code, action->text);
        break;
    case ROT_ACTION_FATAL:
        (void)vd_error_set(&err, action->code, "%s", action->text);
        vd_daemon_fatal(rotation->options.daemon, true, &err);
    }
}

/* What storage repeats, or the clock, comes again by itself when the keyring can't be written. */
static void save_broke(rot_rotation_t *rotation, const vd_error_t *err)
{
    char quoted[VD_ERROR_MESSAGE_SIZE + 64];
    if (!rotation->save_failed)
        vd_log(VD_LOG_ERROR, "the keyring can't be written: the rotation stays where it is",
               "error=%s", vd_log_quote(vd_slice_str(err->message), quoted, sizeof quoted));
    rotation->save_failed = true;
    vd_error_clear(&rotation->save_error);
    vd_error_copy(err, &rotation->save_error);
    answer(rotation, err->code, err->message);
}

/* rotation->event is filled, but for the facts. */
static void step(rot_rotation_t *rotation)
{
    vd_error_t err = VD_ERROR_INIT;
    facts_fill(rotation, &rotation->event.facts);
    rotation->event.ticket = rotation->asker.operator_waits || rotation->asker.peer != 0;
    rotation->next = rotation->machine;
    rot_machine_step(&rotation->next, &rotation->event, &rotation->actions);
    const rot_action_t *first = &rotation->actions.list[0];
    if (rotation->actions.count > 0 && first->kind == ROT_ACTION_SAVE) {
        if (save(rotation, first, &err) != VD_OK) {
            save_broke(rotation, &err);
            return;
        }
        rotation->save_failed = false;
    }
    rotation->machine = rotation->next;
    for (size_t i = 0; i < rotation->actions.count; i++)
        act(rotation, &rotation->actions.list[i]);
}

static void event_begin(rot_rotation_t *rotation, rot_event_kind_t kind)
{
    memset(&rotation->event, 0, sizeof rotation->event);
    rotation->event.kind = kind;
}

/* ---- what storage says ---- */

static int attach(rot_rotation_t *rotation, uint64_t peer, vd_slice_t rest, vd_error_t *err)
{
    vdp_rotation_attach_t fields = {0};
    vd_slice_t none;
    int rc = vdp_decode(&vdp_rotation_attach, rest, &fields, &none, err);
    if (rc == VD_OK && fields.boot_id.len != sizeof rotation->event.boot_id)
        rc = vd_error_set(err, VD_ERR_PROTOCOL, "a boot id of %zu bytes", fields.boot_id.len);
    if (rc != VD_OK)
        return rc;
    event_begin(rotation, ROT_EVENT_ATTACH);
    memcpy(rotation->event.boot_id, fields.boot_id.data, sizeof rotation->event.boot_id);
    rotation->event.version = fields.highest_key_version;
    rotation->event.rotation = fields.rotation;
    rotation->peer = peer;
    rotation->copies.known = false; /* it says it anew */
    step(rotation);
    return VD_OK;
}

/* Cut between characters. */
static void text_take(char *to, size_t size, vd_slice_t from)
{
    size_t len = from.len < size ? from.len : size - 1;
    while (len < from.len && len > 0 && (from.data[len] & 0xC0) == 0x80)
        len--;
    if (len > 0)
        memcpy(to, from.data, len);
    to[len] = '\0';
}

static int report(rot_rotation_t *rotation, vd_slice_t rest, vd_error_t *err)
{
    vdp_rotation_report_t fields = {0};
    vd_slice_t body;
    int rc = vdp_decode(&vdp_rotation_report, rest, &fields, &body, err);
    if (rc == VD_OK && body.len % VDP_ROTATION_VERSION_BYTES != 0)
        rc = vd_error_set(err, VD_ERR_PROTOCOL, "a report's body of %zu bytes", body.len);
    if (rc != VD_OK)
        return rc;
    rot_event_t *event = &rotation->event;
    event_begin(rotation, ROT_EVENT_REPORT);
    event->rotation = fields.rotation;
    event->step = fields.step;
    event->done = fields.done;
    event->failed = fields.failed;
    event->pass = fields.pass;
    event->bytes_done = fields.bytes_done;
    event->bytes_total = fields.bytes_total;
    event->documents_done = fields.documents_done;
    event->blocks_rewritten = fields.blocks_rewritten;
    event->rate_now = fields.rate;
    event->blocks_encrypted = fields.blocks_encrypted;
    text_take(event->current, sizeof event->current, fields.current);
    text_take(event->note, sizeof event->note, fields.note);
    event->versions = (uint32_t)(body.len / VDP_ROTATION_VERSION_BYTES); /* bounded by its row */
    event->left = rotation->left;
    event->left_estimated = fields.left_estimated;
    for (uint32_t i = 0; i < event->versions; i++) {
        const uint8_t *at = body.data + (size_t)i * VDP_ROTATION_VERSION_BYTES;
        rotation->left[i] = (rot_left_t){vd_get_u32(at), vd_get_u64(at + 4)};
    }
    step(rotation);
    return VD_OK;
}

static int backups(rot_rotation_t *rotation, vd_slice_t rest, vd_error_t *err)
{
    vdp_rotation_backups_t fields = {0};
    vd_slice_t body;
    int rc = vdp_decode(&vdp_rotation_backups, rest, &fields, &body, err);
    if (rc == VD_OK)
        rc = rot_copies_take(&rotation->copies, body, err);
    if (rc != VD_OK)
        return rc;
    event_begin(rotation, ROT_EVENT_TICK); /* it may be what was waited for */
    step(rotation);
    return VD_OK;
}

/* ---- what operators ask ---- */

static void rewrap_with(rot_rotation_t *rotation, int rc, const char *why)
{
    const rot_kek_source_t *source = &rotation->options.source;
    vd_error_t err = VD_ERROR_INIT, early = VD_ERROR_INIT;
    /* What can be asked now was: a next key of before may have been taken away since. */
    if (rc != VD_OK && !source->at_run_time && rotation->options.next_kek != NULL) {
        memcpy(rotation->kek, rotation->options.next_kek, ROT_KEY_BYTES);
        rc = VD_OK;
    }
    if (rc != VD_OK) {
        (void)vd_error_set(&err, rc,
                           "%s gives no next key%s%s; put it beside the present one (%s), "
                           "see docs/security.md",
                           source->what, *why != '\0' ? ": " : "", why,
                           source->open != NULL  ? "run with VEDDB_KEK=next it prints it"
                           : source->at_run_time ? ROT_KEK_NEXT " behind its name"
                                                 : "VEDDB_KEK=next, then restart rotated");
        answer(rotation, rc, err.message);
        return;
    }
    event_begin(rotation, ROT_EVENT_REWRAP);
    uint64_t generation = rot_keyring_generation(rotation->options.keyring);
    asker_t asker = rotation->asker;
    rotation->asker = (asker_t){0};
    step(rotation);
    bool done = rot_keyring_generation(rotation->options.keyring) != generation;
    vd_wipe(rotation->kek, ROT_KEY_BYTES);
    rotation->asker = asker;
    if (!done) {
        answer(rotation, rotation->save_error.code, rotation->save_error.message);
        return;
    }
    vd_error_clear(&early);
    rc = source->adopt == NULL ? VD_ERR_ILLEGAL_OPERATION : source->adopt(source, &early);
    vd_buf_clear(&rotation->json);
    if (rot_rotation_status(rotation, false, &rotation->json) != VD_OK)
        vd_buf_clear(&rotation->json); /* the answer itself matters */
    answer(rotation, VD_OK,
           rc == VD_OK
               ? "the keyring is under the new key-encryption key"
               : "the keyring is under the new key-encryption key: let its source give that "
                 "one as the present key from now on (until then it is found as the next)");
}

/* ---- the next key that takes its time ---- */

static void kek_close(rot_rotation_t *rotation)
{
    vd_loop_remove(&rotation->kek_source);
    vd_loop_remove(&rotation->kek_timer);
    if (rotation->kek_fd >= 0)
        (void)close(rotation->kek_fd); /* was only read */
    rotation->kek_fd = -1;
}

/* The text is there, or it is known why not. */
static void kek_come(rot_rotation_t *rotation, int rc, vd_error_t *err)
{
    asker_t asker = rotation->asker;
    kek_close(rotation);
    if (rc == VD_OK)
        rc = rot_kek_opened(&rotation->options.source, rotation->kek_text, &rotation->kek_len, err);
    if (rc == VD_OK)
        rc = rot_kek_parse(vd_slice(rotation->kek_text, rotation->kek_len), rotation->kek, err);
    vd_wipe(rotation->kek_text, ROT_KEK_TEXT_MAX_BYTES);
    rotation->asker = rotation->kek_asker;
    rewrap_with(rotation, rc, err->message);
    rotation->asker = asker;
}

static void kek_readable(void *context, int fd, unsigned events)
{
    rot_rotation_t *rotation = context;
    vd_error_t err = VD_ERROR_INIT;
    size_t room = ROT_KEK_TEXT_MAX_BYTES - rotation->kek_len;
    (void)events; /* reading tells */
    ssize_t n = read(fd, rotation->kek_text + rotation->kek_len, room);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n > 0) {
        rotation->kek_len += (size_t)n;
        if (rotation->kek_len < ROT_KEK_TEXT_MAX_BYTES)
            return;
    }
    int rc = n < 0   ? vd_error_set_errno(&err, "can't read the key")
             : n > 0 ? vd_error_set(&err, VD_ERR_BAD_VALUE, "more than a key came")
                     : VD_OK;
    kek_come(rotation, rc, &err);
}

static void kek_late(void *context)
{
    vd_error_t err = VD_ERROR_INIT;
    int rc = vd_error_set(&err, VD_ERR_KEY_MISSING, "no key after %d ms", KEK_WAIT_MS);
    kek_come(context, rc, &err);
}

/* The command runs anew; nobody waits for it but who asked. */
static int kek_begin(rot_rotation_t *rotation, vd_error_t *err)
{
    const rot_kek_source_t *source = &rotation->options.source;
    vd_loop_t *loop = vd_daemon_loop(rotation->options.daemon);
    if (rotation->kek_fd >= 0)
        return vd_error_set(err, VD_ERR_OBJECT_IS_BUSY, "a rewrap is under way");
    int rc = source->open(source, true, &rotation->kek_fd, err);
    rotation->kek_len = 0;
    if (rc == VD_OK)
        rc = vd_loop_add_fd(loop, rotation->kek_fd, VD_LOOP_READ, kek_readable, rotation,
                            &rotation->kek_source, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(loop, KEK_WAIT_MS, 0, kek_late, rotation, &rotation->kek_timer, err);
    if (rc != VD_OK)
        kek_close(rotation);
    return rc;
}

static void rewrap(rot_rotation_t *rotation)
{
    const rot_kek_source_t *source = &rotation->options.source;
    vd_error_t err = VD_ERROR_INIT;
    if (source->open == NULL) {
        int rc = source->at_run_time ? rot_kek_read(source, true, rotation->kek, &err)
                                     : VD_ERR_KEY_MISSING;
        rewrap_with(rotation, rc, err.message);
        return;
    }
    bool busy = rotation->kek_fd >= 0;
    int rc = kek_begin(rotation, &err);
    if (rc == VD_OK) {
        rotation->kek_asker = rotation->asker;
        rotation->asker = (asker_t){0}; /* answered when it has come */
    } else if (busy) {
        answer(rotation, rc, err.message);
    } else {
        rewrap_with(rotation, rc, err.message);
    }
}

/* The file as it stands: wrapped. */
static int keyring_print(const rot_rotation_t *rotation, vd_buf_t *out)
{
    vd_buf_t bytes;
    vd_buf_init(&bytes, VDP_ROTATION_JSON_MAX_BYTES / 2);
    int rc = rot_keyring_file(rotation->options.keyring, &bytes, NULL);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, "{\"keyring\":\"");
    vd_slice_t file = vd_buf_slice(&bytes);
    for (size_t i = 0; rc == VD_OK && i < file.len; i++)
        rc = vd_buf_printf(out, "%02x", file.data[i]);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, "\"}");
    vd_buf_done(&bytes);
    return rc;
}

/* Verbs that change nothing. */
static bool looked(rot_rotation_t *rotation, vd_slice_t verb)
{
    int rc;
    vd_buf_clear(&rotation->json);
    if (vd_slice_is(verb, "status"))
        rc = rot_rotation_status(rotation, false, &rotation->json);
    else if (vd_slice_is(verb, "history"))
        rc = rot_rotation_status(rotation, true, &rotation->json);
    else if (vd_slice_is(verb, "metrics"))
        rc = rot_show_metrics(&rotation->machine, rotation->options.keyring, &rotation->copies,
                              vd_wall_ms(), &rotation->json);
    else if (vd_slice_is(verb, "keyring") && rotation->asker.peer != 0) /* storage's alone */
        rc = keyring_print(rotation, &rotation->json);
    else
        return false;
    answer(rotation, rc, rc == VD_OK ? "" : "the answer is too large");
    return true;
}

static void ask(rot_rotation_t *rotation, vd_slice_t verb, vd_slice_t argument)
{
    static const struct {
        const char *verb;
        rot_event_kind_t kind;
    } verbs[] = {{"rotate", ROT_EVENT_ROTATE}, {"pause", ROT_EVENT_PAUSE},
                 {"resume", ROT_EVENT_RESUME}, {"cancel", ROT_EVENT_CANCEL},
                 {"verify", ROT_EVENT_CHECK},  {"throttle", ROT_EVENT_THROTTLE}};
    vd_error_t err = VD_ERROR_INIT;
    rot_ask_options_t options;
    if (looked(rotation, verb))
        return;
    if (rot_ask_options_parse(argument, &options, &err) != VD_OK) {
        answer(rotation, err.code, err.message);
        return;
    }
    if (vd_slice_is(verb, "rewrap")) {
        rewrap(rotation);
        return;
    }
    for (size_t i = 0; i < VD_COUNT_OF(verbs); i++) {
        if (!vd_slice_is(verb, verbs[i].verb))
            continue;
        event_begin(rotation, verbs[i].kind);
        rotation->event.has_rate = options.has_rate;
        rotation->event.has_rise = options.has_rise;
        rotation->event.rate = options.rate;
        rotation->event.rise = options.rise;
        rotation->event.force = options.force;
        step(rotation);
        return;
    }
    answer(
        rotation, VD_ERR_COMMAND_NOT_FOUND,
        "keys are asked for rotate, status, pause, resume, cancel, throttle, history, verify and "
        "rewrap");
}

void rot_rotation_ask(rot_rotation_t *rotation, uint64_t ticket, vd_slice_t verb,
                      vd_slice_t argument)
{
    rotation->asker = (asker_t){.operator_waits = true, .ticket = ticket};
    ask(rotation, verb, argument);
}

static int asked_by_storage(rot_rotation_t *rotation, uint64_t peer, uint64_t request_id,
                            vd_slice_t rest, vd_error_t *err)
{
    vdp_rotation_ask_t fields = {0};
    vd_slice_t none;
    rotation->asker = (asker_t){.ticket = request_id, .peer = peer};
    vd_buf_clear(&rotation->json);
    int rc = vdp_decode(&vdp_rotation_ask, rest, &fields, &none, err);
    if (rc == VD_OK)
        ask(rotation, fields.verb, fields.argument);
    return rc;
}

/* ---- the link ---- */

static void item_arrived(void *context, uint64_t peer, vd_slice_t item)
{
    rot_rotation_t *rotation = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest;
    int rc = vdp_decode_envelope(item, &envelope, &rest, &err);
    if (rc == VD_OK && envelope.id == VDP_ROTATION_ATTACH)
        rc = attach(rotation, peer, rest, &err);
    else if (rc == VD_OK && envelope.id == VDP_ROTATION_ASK)
        rc = asked_by_storage(rotation, peer, envelope.request_id, rest, &err);
    else if (rc == VD_OK && envelope.id == VDP_ROTATION_REPORT && peer == rotation->peer)
        rc = report(rotation, rest, &err);
    else if (rc == VD_OK && envelope.id == VDP_ROTATION_BACKUPS && peer == rotation->peer)
        rc = backups(rotation, rest, &err);
    else if (rc == VD_OK && envelope.id != VDP_ROTATION_REPORT &&
             envelope.id != VDP_ROTATION_BACKUPS)
        rc = vdp_foreign(envelope.id, "the rotation of keys", &err);
    if (rc == VD_ERR_PROTOCOL) {
        vd_link_cut(rotation->link, peer, err.message);
        if (rotation->options.audit != NULL)
            rot_audit_note(rotation->options.audit, "linkCut", "veddb-storaged: %s", err.message);
    } else if (rc != VD_OK)
        vd_log(VD_LOG_ERROR, "message of storage refused", "error=\"%s\"", err.message);
}

static void peer_changed(void *context, uint64_t peer, bool up)
{
    rot_rotation_t *rotation = context;
    if (up || peer != rotation->peer)
        return;
    rotation->peer = 0;
    rotation->copies.known = false;
    event_begin(rotation, ROT_EVENT_DETACH);
    step(rotation);
    event_begin(rotation, ROT_EVENT_TICK); /* what was counted is saved */
    step(rotation);
}

static void cut_off(void *context)
{
    rot_rotation_t *rotation = context;
    vd_daemon_cut_off(rotation->options.daemon);
}

static void tick(void *context)
{
    rot_rotation_t *rotation = context;
    if (rotation->options.audit != NULL) {
        uint32_t wrapped = rot_audit_wrapped(rotation->options.audit);
        if (wrapped != 0 && wrapped != rotation->machine.wrapped_version) {
            event_begin(rotation, ROT_EVENT_WRAPPED);
            rotation->event.version = wrapped;
            step(rotation);
        }
    } else if (rot_state_is_busy(rotation->machine.kept.state) &&
               rotation->machine.wrapped_version != active_version(rotation)) {
        wrap(rotation); /* it failed before */
    }
    event_begin(rotation, ROT_EVENT_TICK);
    step(rotation);
}

/* ---- life ---- */

int rot_rotation_create(const rot_rotation_options_t *options, rot_rotation_t **ret_rotation,
                        vd_error_t *err)
{
    char path[PATH_MAX];
    rot_rotation_t *rotation = vd_xalloc(sizeof *rotation);
    void *kek = NULL, *kek_text = NULL;
    rotation->options = *options;
    rotation->kek_fd = -1;
    vd_buf_init(&rotation->note, ROT_KEYRING_NOTE_MAX);
    vd_buf_init(&rotation->item, ASK_BYTES + 8192);
    vd_buf_init(&rotation->json, VDP_ROTATION_JSON_MAX_BYTES);
    vd_loop_t *loop = vd_daemon_loop(options->daemon);
    vd_link_options_t link = {
        .path = vd_daemon_socket_path(options->daemon, "storage-rotated", "rotation", path,
                                      sizeof path),
        .bind = true,
        .socket_mode = 0660, /* the folder lets in only ourselves and storage's group */
        .item = item_arrived,
        .peer_changed = peer_changed,
        .cut = cut_off,
        .context = rotation,
    };
    int rc = vd_secret_alloc(ROT_KEY_BYTES, &kek, err);
    rotation->kek = kek;
    if (rc == VD_OK)
        rc = vd_secret_alloc(ROT_KEK_TEXT_MAX_BYTES, &kek_text, err);
    rotation->kek_text = kek_text;
    if (rc == VD_OK)
        rc = rot_record_unpack(rot_keyring_note(options->keyring), &rotation->machine.kept, err);
    if (rc == VD_OK)
        rc = vd_link_open(loop, &link, &rotation->link, err);
    if (rc == VD_OK)
        rc = vd_loop_add_timer(loop, TICK_MS, TICK_MS, tick, rotation, &rotation->timer, err);
    if (rc != VD_OK) {
        rot_rotation_destroy(&rotation);
        return rc;
    }
    event_begin(rotation, ROT_EVENT_START);
    step(rotation);
    *ret_rotation = rotation;
    return VD_OK;
}

void rot_rotation_destroy(rot_rotation_t **rotation_p)
{
    rot_rotation_t *rotation = *rotation_p;
    if (rotation == NULL)
        return;
    vd_loop_remove(&rotation->timer);
    if (rotation->peer != 0)
        peer_changed(rotation, rotation->peer, false);
    vd_link_close(&rotation->link);
    kek_close(rotation);
    if (rotation->kek != NULL)
        vd_secret_free(rotation->kek, ROT_KEY_BYTES);
    if (rotation->kek_text != NULL)
        vd_secret_free(rotation->kek_text, ROT_KEK_TEXT_MAX_BYTES);
    vd_buf_done(&rotation->note);
    vd_buf_done(&rotation->item);
    vd_buf_done(&rotation->json);
    vd_free(rotation);
    *rotation_p = NULL;
}
