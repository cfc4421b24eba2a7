/* veddb-rotated/rotated.c — see rotated.h. */
#include "veddb-rotated/rotated.h"

#include "libcommon/base/log.h"
#include "libcommon/base/mem.h"
#include "libcommon/runtime/local.h"
#include "libcommon/runtime/sandbox.h"
#include "proto/failure.h"
#include "proto/keys.h"
#include "veddb-rotated/audit/audit.h"
#include "veddb-rotated/keyring.h"
#include "veddb-rotated/rotation/rotation.h"
#include "veddb-rotated/rotation/show.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#define KEYS_OPENED_ENTRY_BYTES (ROT_KEY_ID_BYTES + ROT_KEY_BYTES + 1 + 4)

typedef struct {
    vd_daemon_t *daemon;
    rot_keyring_t *keyring;
    vd_local_t *local;
    rot_audit_t *audit; /* NULL: audit.enabled is false */
    rot_rotation_t *rotation;
    rot_kek_source_t source;
    uint8_t *next_kek;   /* locked; NULL: the source has no next key */
    uint64_t handed_out; /* KEYS_OPEN answered */
} rotated_t;

/* ---- answers ---- */

static void reply(vd_local_client_t *client, const vdp_envelope_t *asked,
                  const vdp_message_t *message, const void *fields, vd_slice_t body)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t buf;
    vd_buf_init(&buf, VD_LOCAL_PACKET_MAX);
    vdp_envelope_t envelope = {.id = message->id, .request_id = asked->request_id};
    int rc = vdp_encode(&buf, &envelope, message, fields, body, &err);
    if (rc == VD_OK)
        rc = vd_local_reply(client, vd_buf_slice(&buf), &err);
    if (rc != VD_OK)
        vd_log(VD_LOG_WARN, "answer to storage was not sent", "error=%d", rc);
    vd_wipe(buf.data, buf.cap);
    vd_buf_done(&buf);
}

static void reply_failure(vd_local_client_t *client, const vdp_envelope_t *asked,
                          const vd_error_t *err)
{
    vdp_failure_t failure = vdp_failure_from(err);
    reply(client, asked, &vdp_failure, &failure, VD_SLICE_NULL);
}

/* The first data key is made when storage says that it has no data yet; an empty keyring is
 * otherwise a loss to be told. */
static int first_key(rotated_t *rotated, bool bootstrap, vd_error_t *err)
{
    if (rot_keyring_count(rotated->keyring) > 0)
        return VD_OK;
    if (!bootstrap)
        return vd_error_set(
            err, VD_ERR_KEY_MISSING,
            "the keyring is empty, but storage holds data: the keyring file is lost");
    int rc = rot_keyring_add(rotated->keyring, err);
    if (rc == VD_OK) {
        vd_log(VD_LOG_INFO, "first data key made", "version=1");
        rot_audit_note(rotated->audit, "keyCreate", "data key 1, the first");
    }
    return rc;
}

/* Said before storage opens anything: blocks of a key that isn't here would look damaged. */
static int keyring_is_new_enough(const rotated_t *rotated, uint32_t highest, vd_error_t *err)
{
    uint32_t count = rot_keyring_count(rotated->keyring);
    uint32_t last = rot_keyring_at(rotated->keyring, count - 1)->version;
    return highest <= last
               ? VD_OK
               : vd_error_set(err, VD_ERR_KEYRING_OLD,
                              "the data was written with key version %u, but the keyring ends with "
                              "version %u: an older keyring was put in its place",
                              highest, last);
}

static void keys_open(rotated_t *rotated, vd_local_client_t *client, const vdp_envelope_t *asked,
                      vd_slice_t rest)
{
    vd_error_t err = VD_ERROR_INIT;
    vdp_keys_open_t open = {0};
    vd_slice_t none;
    void *secret = NULL;
    size_t size = ROT_KEYS_MAX * KEYS_OPENED_ENTRY_BYTES, len = 0;
    int rc = vdp_decode(&vdp_keys_open, rest, &open, &none, &err);
    if (rc == VD_OK)
        rc = first_key(rotated, open.bootstrap, &err);
    if (rc == VD_OK)
        rc = keyring_is_new_enough(rotated, open.highest_version, &err);
    if (rc == VD_OK && rotated->audit != NULL)
        rc = rot_audit_start(rotated->audit, rotated->keyring, &err);
    if (rc == VD_OK)
        rc = vd_secret_alloc(size, &secret, &err);
    if (rc != VD_OK) {
        vd_log(VD_LOG_ERROR, "keys were not handed out", "error=\"%s\"", err.message);
        rot_audit_note(rotated->audit, "keysRefused", "uid %u: %s",
                       (unsigned)vd_local_client_uid(client), err.message);
        reply_failure(client, asked, &err);
        return;
    }
    vdp_keys_opened_t opened = {0};
    for (uint32_t i = 0; i < rot_keyring_count(rotated->keyring); i++) {
        const rot_key_t *key = rot_keyring_at(rotated->keyring, i);
        uint8_t *out = (uint8_t *)secret + len;
        if (key->state == ROT_KEY_DESTROYED)
            continue;
        memcpy(out, key->id, ROT_KEY_ID_BYTES);
        memcpy(out + 16, key->key, ROT_KEY_BYTES);
        out[48] = (uint8_t)key->state;
        vd_put_u32(out + 49, key->version);
        len += KEYS_OPENED_ENTRY_BYTES;
        opened.count++;
    }
    rotated->handed_out++;
    reply(client, asked, &vdp_keys_opened, &opened, vd_slice(secret, len));
    vd_secret_free(secret, size);
    vd_log(VD_LOG_INFO, "keys handed to storage", "keys=%u uid=%u", opened.count,
           (unsigned)vd_local_client_uid(client));
    rot_audit_note(rotated->audit, "keysHandedOut", "%u keys, generation %llu, uid %u",
                   opened.count, (unsigned long long)rot_keyring_generation(rotated->keyring),
                   (unsigned)vd_local_client_uid(client));
}

static int print_status(const rotated_t *rotated, vd_buf_t *out)
{
    int rc = vd_buf_printf(out, "{\"keyring_generation\":%llu,\"handed_out\":%llu,\"keys\":",
                           (unsigned long long)rot_keyring_generation(rotated->keyring),
                           (unsigned long long)rotated->handed_out);
    if (rc == VD_OK)
        rc = rot_show_keys(rotated->keyring, out);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"rotation\":");
    if (rc == VD_OK)
        rc = rot_rotation_status(rotated->rotation, false, out);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, ",\"audit\":");
    if (rc == VD_OK)
        rc = rotated->audit == NULL ? vd_buf_printf(out, "null")
                                    : rot_audit_status(rotated->audit, out);
    return rc == VD_OK ? vd_buf_printf(out, "}") : rc;
}

static void keys_status(rotated_t *rotated, vd_local_client_t *client, const vdp_envelope_t *asked)
{
    vd_buf_t json;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX / 2);
    vdp_keys_status_t fields = {0};
    vd_error_t err = VD_ERROR_INIT;
    int rc = print_status(rotated, &json);
    if (rc == VD_OK) {
        reply(client, asked, &vdp_keys_status_reply, &fields, vd_buf_slice(&json));
    } else {
        (void)vd_error_set(&err, rc, "the status of the keys can't be made"); /* for the asker */
        reply_failure(client, asked, &err);
    }
    vd_buf_done(&json);
}

static void keys_request(void *context, vd_local_client_t *client, vd_slice_t packet)
{
    rotated_t *rotated = context;
    vd_error_t err = VD_ERROR_INIT;
    vdp_envelope_t envelope = {0};
    vd_slice_t rest;
    if (vdp_decode_envelope(packet, &envelope, &rest, &err) != VD_OK) {
        reply_failure(client, &envelope, &err);
    } else if (envelope.id == VDP_KEYS_OPEN) {
        keys_open(rotated, client, &envelope, rest);
    } else if (envelope.id == VDP_KEYS_STATUS) {
        keys_status(rotated, client, &envelope);
    } else {
        (void)vd_error_set(&err, VD_ERR_PROTOCOL, "message %u is not for the key holder",
                           envelope.id);
        reply_failure(client, &envelope, &err);
    }
}

/* ---- life ---- */

/* While there are privileges: later it is written as our own user. */
static int folders_make(vd_daemon_t *daemon, char *keys, size_t size, vd_error_t *err)
{
    char audit[PATH_MAX];
    const char *root = vd_daemon_folder(daemon, "node.folder");
    if (snprintf(keys, size, "%s/keys", root) >= (int)size ||
        snprintf(audit, sizeof audit, "%s/audit", root) >= (int)sizeof audit)
        return vd_error_set(err, VD_ERR_CONFIG, "node.folder is too long");
    if (mkdir(root, 0711) != 0 && errno != EEXIST)
        return vd_error_set_errno(err, "can't make node.folder %s", root);
    int rc = vd_daemon_make_folder(daemon, keys, err);
    if (rc == VD_OK && vd_config_bool(vd_daemon_config(daemon), "audit.enabled"))
        rc = vd_daemon_make_folder(daemon, audit, err);
    return rc;
}

/* With the source's present key; else, as after a crash in the middle of a rewrap, with its next
 * one. */
static int keyring_open(rotated_t *rotated, const vd_config_t *config, const char *folder,
                        uint8_t *kek, vd_error_t *err)
{
    rot_kek_source_t *source = &rotated->source;
    vd_error_t early = VD_ERROR_INIT, other = VD_ERROR_INIT;
    void *next = NULL;
    int rc = rot_kek_source_choose(vd_config_string(config, "keys.kek_file"),
                                   vd_config_string(config, "keys.kek_command"),
                                   vd_config_string(config, "keys.kek_credential"), source, err);
    if (rc == VD_OK)
        rc = vd_secret_alloc(ROT_KEY_BYTES, &next, err);
    if (rc != VD_OK)
        return rc;
    rotated->next_kek = next;
    bool has_next = rot_kek_read(source, true, rotated->next_kek, &early) == VD_OK;
    rc = rot_kek_read(source, false, kek, err);
    if (rc == VD_OK)
        rc = rot_keyring_open(folder, kek, &rotated->keyring, err);
    if ((rc == VD_ERR_KEY_WRONG || rc == VD_ERR_KEY_MISSING) && has_next &&
        rot_keyring_open(folder, rotated->next_kek, &rotated->keyring, &other) == VD_OK) {
        if (rot_keyring_count(rotated->keyring) == 0) {
            rot_keyring_close(&rotated->keyring); /* that tells nothing of the key */
        } else {
            vd_error_clear(err);
            rc = VD_OK;
            bool adopted = source->adopt != NULL && source->adopt(source, &other) == VD_OK;
            vd_log(VD_LOG_WARN, "the keyring is opened by the next key-encryption key",
                   "source=%s adopted=%s", source->what, adopted ? "true" : "false");
            has_next = false;
        }
    }
    if (!has_next) {
        vd_secret_free(rotated->next_kek, ROT_KEY_BYTES);
        rotated->next_kek = NULL;
    }
    return rc;
}

static int rotated_prepare(vd_daemon_t *daemon, void **state_p, vd_error_t *err)
{
    const vd_config_t *config = vd_daemon_config(daemon);
    rotated_t *rotated = vd_xalloc(sizeof *rotated);
    *state_p = rotated;
    rotated->daemon = daemon;
    void *kek = NULL;
    int rc = vd_secret_alloc(ROT_KEY_BYTES, &kek, err);
    if (rc != VD_OK)
        return rc;
    char folder[PATH_MAX];
    rc = folders_make(daemon, folder, sizeof folder, err);
    if (rc == VD_OK)
        rc = keyring_open(rotated, config, folder, kek, err);
    vd_secret_free(kek, ROT_KEY_BYTES);
    return rc;
}

static int rotated_start(vd_daemon_t *daemon, void *state, vd_error_t *err)
{
    rotated_t *rotated = state;
    char path[PATH_MAX];
    vd_local_options_t options = {
        .path = vd_daemon_socket_path(daemon, "storage-rotated", "keys", path, sizeof path),
        .socket_mode = 0660, /* the folder lets in only ourselves and storage's group */
        .listen_fd = -1,
        .allowed_uid = (uid_t)-1,
        .request = keys_request,
        .context = rotated,
    };
    int64_t storage = vd_daemon_uid_of(daemon, "veddb-storaged");
    if (storage >= 0)
        options.allowed_uid = (uid_t)storage;
    int rc = VD_OK;
    if (vd_config_bool(vd_daemon_config(daemon), "audit.enabled")) {
        rc = rot_audit_create(daemon, &rotated->audit, err);
        if (rc == VD_OK)
            rc = rot_audit_start(rotated->audit, rotated->keyring, err);
    }
    rot_rotation_options_t rotation = {.daemon = daemon,
                                       .keyring = rotated->keyring,
                                       .audit = rotated->audit,
                                       .source = rotated->source,
                                       .next_kek = rotated->next_kek};
    if (rc == VD_OK)
        rc = rot_rotation_create(&rotation, &rotated->rotation, err);
    if (rc == VD_OK)
        rc = vd_local_listen(vd_daemon_loop(daemon), &options, &rotated->local, err);
    if (rc == VD_OK) {
        char detail[64];
        uint32_t keys = rot_keyring_count(rotated->keyring);
        if (keys == 0)
            (void)snprintf(detail, sizeof detail, "a new keyring");
        else
            (void)snprintf(detail, sizeof detail, "%u keys", keys);
        vd_daemon_ready(daemon, detail);
    }
    return rc;
}

static void rotated_drain(vd_daemon_t *daemon, void *state)
{
    (void)state; /* nothing is ever in flight between two turns */
    vd_daemon_drained(daemon);
}

static void rotated_stop(vd_daemon_t *daemon, void *state)
{
    (void)daemon; /* its parts go with it */
    rotated_t *rotated = state;
    vd_local_close(&rotated->local);
    rot_rotation_destroy(&rotated->rotation);
    rot_audit_destroy(&rotated->audit);
    rot_keyring_close(&rotated->keyring);
    if (rotated->next_kek != NULL)
        vd_secret_free(rotated->next_kek, ROT_KEY_BYTES);
    vd_free(rotated);
}

static int rotated_status(vd_daemon_t *daemon, void *state, vd_buf_t *out)
{
    (void)daemon; /* state has all */
    return print_status(state, out);
}

/* The status of keys is that of the whole process. */
static void keys_ask(rotated_t *rotated, uint64_t ticket, vd_slice_t verb, vd_slice_t argument)
{
    if (!vd_slice_is(verb, "status")) {
        rot_rotation_ask(rotated->rotation, ticket, verb, argument);
        return;
    }
    vd_buf_t json;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX / 2);
    int rc = print_status(rotated, &json);
    vd_daemon_answer(rotated->daemon, ticket, rc, rc == VD_OK ? "" : "the status is too large",
                     rc == VD_OK ? vd_buf_slice(&json) : VD_SLICE_NULL);
    vd_buf_done(&json);
}

static void rotated_ask(vd_daemon_t *daemon, void *state, uint64_t ticket, vd_slice_t verb,
                        vd_slice_t argument, vd_slice_t argument2)
{
    rotated_t *rotated = state;
    char both[4096]; /* lines: the supervisor cuts at the first line feed */
    int len = snprintf(both, sizeof both, "%.*s%s%.*s", VD_SLICE_FMT(argument),
                       argument2.len > 0 ? "\n" : "", VD_SLICE_FMT(argument2));
    argument = vd_slice(both, len < (int)sizeof both ? (size_t)len : sizeof both - 1);
    if (verb.len > 5 && memcmp(verb.data, "keys.", 5) == 0)
        keys_ask(rotated, ticket, vd_slice(verb.data + 5, verb.len - 5), argument);
    else if (rotated->audit == NULL)
        vd_daemon_answer(daemon, ticket, VD_ERR_ILLEGAL_OPERATION,
                         "there is no audit log: audit.enabled is false", VD_SLICE_NULL);
    else
        rot_audit_ask(rotated->audit, ticket, verb, argument);
}

const vd_program_t rot_program = {
    .program = "veddb-rotated",
    .letter = 'r',
    .summary = "holds the key-encryption key and the keyring; hands data keys to storage",
    .network = false,
    .openssl_memory = VD_OPENSSL_ALL,
    .prepare = rotated_prepare,
    .start = rotated_start,
    .drain = rotated_drain,
    .stop = rotated_stop,
    .status = rotated_status,
    .ask = rotated_ask,
};
