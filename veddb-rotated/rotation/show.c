/* veddb-rotated/rotation/show.c — see show.h. */
#include "veddb-rotated/rotation/show.h"

#include "proto/rotation.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- JSON ---- */

/* A JSON string; what storage sends is UTF-8. */
static const char *quote(const char *text, char *buf, size_t size)
{
    size_t len = 0;
    buf[len++] = '"';
    for (const char *c = text; *c != '\0' && len + 8 < size; c++) {
        if (*c == '"' || *c == '\\')
            buf[len++] = '\\';
        if ((uint8_t)*c < ' ')
            len += (size_t)snprintf(buf + len, size - len, "\\u%04x", (unsigned)*c);
        else
            buf[len++] = *c;
    }
    buf[len++] = '"';
    buf[len] = '\0';
    return buf;
}

static int print_left(const rot_machine_t *machine, vd_buf_t *out)
{
    int rc = vd_buf_printf(out, ",\"blocksLeft\":[");
    for (uint32_t i = 0; rc == VD_OK && i < machine->versions; i++)
        rc = vd_buf_printf(out, "%s{\"version\":%u,\"blocks\":%" PRIu64 "}", i == 0 ? "" : ",",
                           machine->left[i].version, machine->left[i].blocks);
    return rc == VD_OK ? vd_buf_printf(out, "],\"blocksLeftEstimated\":%s",
                                       machine->left_estimated ? "true" : "false")
                       : rc;
}

static int print_past(const rot_kept_t *kept, vd_buf_t *out)
{
    int rc = vd_buf_printf(out, ",\"history\":[");
    for (uint32_t i = 0; rc == VD_OK && i < kept->past_count; i++) {
        const rot_past_t *past = &kept->past[i];
        rc = vd_buf_printf(
            out,
            "%s{\"kind\":\"%s\",\"number\":%" PRIu64 ",\"outcome\":\"%s\",\"reason\":\"%s\""
            ",\"oldVersion\":%u,\"target\":%u,\"startedMs\":%" PRId64 ",\"endedMs\":%" PRId64
            ",\"bytes\":%" PRIu64 ",\"documents\":%" PRIu64 ",\"blocks\":%" PRId64 "}",
            i == 0 ? "" : ",", rot_kind_name(past->kind), past->number,
            rot_state_name(past->outcome), rot_reason_name(past->reason), past->old_version,
            past->target, past->started_ms, past->ended_ms, past->bytes, past->documents,
            (int64_t)past->blocks); /* -1: it could not be counted */
    }
    return rc == VD_OK ? vd_buf_printf(out, "]") : rc;
}

static int print_check(const rot_check_t *check, vd_buf_t *out)
{
    return vd_buf_printf(
        out,
        ",\"verify\":{\"number\":%" PRIu64 ",\"state\":\"%s\",\"target\":%u,\"oldVersion\":%u"
        ",\"startedMs\":%" PRId64 ",\"endedMs\":%" PRId64 ",\"blocks\":%" PRId64 "}",
        check->number, check->number == 0 ? "none" : rot_state_name(check->outcome), check->target,
        check->old_version, check->started_ms, check->ended_ms, (int64_t)check->blocks);
}

/* Backups that need one of the keys that the newest rotation is about. */
static int print_copies(const rot_machine_t *machine, const rot_copies_t *copies, vd_buf_t *out)
{
    bool waits = machine->waits_for_copies, first = true;
    int rc = vd_buf_printf(out, ",\"force\":%s,\"waitsForBackups\":%s,\"backups\":[",
                           machine->kept.force ? "true" : "false", waits ? "true" : "false");
    for (uint32_t i = 0; rc == VD_OK && copies != NULL && i < copies->count; i++) {
        const rot_copy_t *copy = &copies->list[i];
        if (copy->oldest_version > machine->kept.old_version)
            continue;
        rc = vd_buf_printf(out, "%s{\"name\":\"%s\",\"oldestVersion\":%u}", first ? "" : ",",
                           copy->name, copy->oldest_version);
        first = false;
    }
    return rc == VD_OK ? vd_buf_printf(out, "]") : rc;
}

int rot_show_status(const rot_machine_t *machine, const rot_copies_t *copies, int64_t now_ms,
                    bool history, vd_buf_t *out)
{
    const rot_kept_t *kept = &machine->kept;
    char current[6 * ROT_CURRENT_BYTES + 16], note[6 * ROT_TEXT_BYTES + 16];
    bool checks = kept->state == ROT_CHECKING;
    bool busy = rot_state_is_busy(kept->state) || checks;
    uint64_t left =
        machine->bytes_total > machine->bytes_done ? machine->bytes_total - machine->bytes_done : 0;
    int64_t eta = -1;
    if (kept->state == ROT_REENCRYPTING && machine->rate_now > 0)
        eta = (int64_t)(left / machine->rate_now);
    int rc = vd_buf_printf(
        out,
        "{\"number\":%" PRIu64 ",\"state\":\"%s\",\"busy\":%s,\"reason\":\"%s\",\"target\":%u"
        ",\"oldVersion\":%u,\"rateMax\":%" PRIu64 ",\"maxLatencyRise\":%u,\"startedMs\":%" PRId64
        ",\"changedMs\":%" PRId64 ",\"nowMs\":%" PRId64 ",\"attached\":%s,\"pass\":%u"
        ",\"returns\":%u,\"bytesDone\":%" PRIu64 ",\"bytesTotal\":%" PRIu64 ",\"rate\":%" PRIu64
        ",\"etaSeconds\":%" PRId64 ",\"bytes\":%" PRIu64 ",\"documents\":%" PRIu64
        ",\"blocks\":%" PRIu64 ",\"auditWrapped\":%s,\"failures\":%" PRIu64
        ",\"encryptedBlocks\":%" PRIu64 ",\"current\":%s",
        kept->number, rot_state_name(checks ? kept->before : kept->state), busy ? "true" : "false",
        rot_reason_name(kept->reason), kept->target, kept->old_version, kept->rate_max_bytes,
        kept->latency_rise_max, kept->started_ms, kept->changed_ms, now_ms,
        machine->attached ? "true" : "false", machine->pass, kept->returns, machine->bytes_done,
        machine->bytes_total, machine->rate_now, eta, kept->bytes, kept->documents, kept->blocks,
        machine->wrapped_version == kept->target ? "true" : "false", kept->failures,
        kept->encrypted_blocks, quote(busy ? machine->current : "", current, sizeof current));
    if (rc == VD_OK)
        rc = vd_buf_printf(
            out, ",\"note\":%s",
            quote(kept->note[0] != '\0' ? kept->note : machine->note, note, sizeof note));
    if (rc == VD_OK)
        rc = print_left(machine, out);
    if (rc == VD_OK)
        rc = print_check(&kept->check, out);
    if (rc == VD_OK)
        rc = print_copies(machine, copies, out);
    if (rc == VD_OK && history)
        rc = print_past(kept, out);
    return rc == VD_OK ? vd_buf_printf(out, "}") : rc;
}

int rot_show_keys(const rot_keyring_t *keyring, vd_buf_t *out)
{
    uint32_t count = rot_keyring_count(keyring);
    uint32_t first = count > ROT_SHOWN_KEYS_MAX ? count - ROT_SHOWN_KEYS_MAX : 0;
    int rc = vd_buf_printf(out, "[");
    for (uint32_t i = first; rc == VD_OK && i < count; i++) {
        const rot_key_t *key = rot_keyring_at(keyring, i);
        char id[2 * ROT_KEY_ID_BYTES + 1];
        for (size_t b = 0; b < ROT_KEY_ID_BYTES; b++)
            (void)snprintf(id + 2 * b, 3, "%02x", key->id[b]);
        rc = vd_buf_printf(out,
                           "%s{\"version\":%u,\"id\":\"%s\",\"state\":\"%s\",\"created_ms\":%lld,"
                           "\"changed_ms\":%lld}",
                           i == first ? "" : ",", key->version, id, rot_key_state_name(key->state),
                           (long long)key->created_ms, (long long)key->changed_ms);
    }
    return rc == VD_OK ? vd_buf_printf(out, "]") : rc;
}

/* ---- Prometheus: line feeds and quotes are written as JSON wants them ---- */

static int metric(vd_buf_t *out, const char *name, const char *type, const char *help, double value)
{
    return vd_buf_printf(out, "# HELP %s %s\\n# TYPE %s %s\\n%s %.17g\\n", name, help, name, type,
                         name, value);
}

static int print_states(rot_state_t now, vd_buf_t *out)
{
    int rc = vd_buf_printf(out, "# HELP veddb_keys_rotation_state 1 for the state that it is in\\n"
                                "# TYPE veddb_keys_rotation_state gauge\\n");
    for (rot_state_t state = ROT_IDLE; rc == VD_OK && state <= ROT_CHECKING; state++)
        rc = vd_buf_printf(out, "veddb_keys_rotation_state{state=\\\"%s\\\"} %d\\n",
                           rot_state_name(state), state == now);
    return rc;
}

static int print_versions(const rot_machine_t *machine, const rot_keyring_t *keyring,
                          int64_t now_ms, vd_buf_t *out)
{
    int rc = vd_buf_printf(
        out, "# HELP veddb_keys_blocks_left blocks by key version: counted by the last pass, "
             "before the first one estimated\\n# TYPE veddb_keys_blocks_left gauge\\n");
    for (uint32_t i = 0; rc == VD_OK && i < machine->versions; i++)
        rc = vd_buf_printf(out, "veddb_keys_blocks_left{version=\\\"%u\\\"} %" PRIu64 "\\n",
                           machine->left[i].version, machine->left[i].blocks);
    if (rc == VD_OK)
        rc = vd_buf_printf(out, "# HELP veddb_keys_age_seconds since the key was made, by version "
                                "and state; destroyed ones are left out\\n"
                                "# TYPE veddb_keys_age_seconds gauge\\n");
    for (uint32_t i = 0; rc == VD_OK && i < rot_keyring_count(keyring); i++) {
        const rot_key_t *key = rot_keyring_at(keyring, i);
        if (key->state != ROT_KEY_DESTROYED)
            rc = vd_buf_printf(
                out, "veddb_keys_age_seconds{version=\\\"%u\\\",state=\\\"%s\\\"} %.3f\\n",
                key->version, rot_key_state_name(key->state),
                (double)(now_ms - key->created_ms) / 1000);
    }
    return rc;
}

int rot_show_metrics(const rot_machine_t *machine, const rot_keyring_t *keyring,
                     const rot_copies_t *copies, int64_t now_ms, vd_buf_t *out)
{
    const rot_kept_t *kept = &machine->kept;
    bool busy = rot_state_is_busy(kept->state);
    int64_t until_ms = busy ? now_ms : kept->changed_ms;
    const struct {
        const char *name, *type, *help;
        double value;
    } all[] = {
        {"veddb_keys_rotation_number", "counter", "rotations so far", (double)kept->number},
        {"veddb_keys_rotation_failures_total", "counter", "rotations that needed an operator",
         (double)kept->failures},
        {"veddb_keys_rotation_bytes", "gauge", "bytes re-encrypted by the newest rotation",
         (double)kept->bytes},
        {"veddb_keys_rotation_documents", "gauge", "documents re-encrypted by the newest rotation",
         (double)kept->documents},
        {"veddb_keys_rotation_blocks", "gauge", "blocks rewritten by the newest rotation",
         (double)kept->blocks},
        {"veddb_keys_rotation_bytes_per_second", "gauge", "present pace",
         (double)machine->rate_now},
        {"veddb_keys_rotation_seconds", "gauge", "how long the newest rotation has taken",
         (double)(until_ms - kept->started_ms) / 1000},
        {"veddb_keys_verifies", "counter", "verifies so far, those of rotations left out",
         (double)kept->check.number},
        {"veddb_keys_rotation_backups", "gauge",
         "backups that need an old key of the newest rotation",
         rot_copies_count(copies, kept->old_version)},
        {"veddb_keys_rotation_waits_for_backups", "gauge",
         "1: proven, and an operator must say what becomes of them", machine->waits_for_copies},
        {"veddb_keys_encrypted_blocks", "gauge", "blocks encrypted under the active key",
         (double)kept->encrypted_blocks},
    };
    int rc = vd_buf_printf(out, "{\"text\":\"");
    if (rc == VD_OK)
        rc = print_states(kept->state, out);
    for (size_t i = 0; rc == VD_OK && i < VD_COUNT_OF(all); i++)
        rc = metric(out, all[i].name, all[i].type, all[i].help, all[i].value);
    if (rc == VD_OK)
        rc = print_versions(machine, keyring, now_ms, out);
    return rc == VD_OK ? vd_buf_printf(out, "\"}") : rc;
}

/* ---- what is asked ---- */

typedef struct {
    vd_slice_t in;
} reader_t;

static void blanks(reader_t *reader)
{
    while (reader->in.len > 0 && isspace(reader->in.data[0]))
        reader->in.data++, reader->in.len--;
}

static bool take(reader_t *reader, const char *literal)
{
    size_t len = strlen(literal);
    blanks(reader);
    if (reader->in.len < len || memcmp(reader->in.data, literal, len) != 0)
        return false;
    reader->in = vd_slice(reader->in.data + len, reader->in.len - len);
    return true;
}

/* A whole number, not negative; a fraction of zeros is fine (as some clients write doubles). */
static bool take_number(reader_t *reader, uint64_t *ret)
{
    char digits[32];
    size_t len = 0;
    char *end;
    blanks(reader);
    while (len < reader->in.len && len < sizeof digits - 1 &&
           (isdigit(reader->in.data[len]) || reader->in.data[len] == '.'))
        len++;
    memcpy(digits, reader->in.data, len);
    digits[len] = '\0';
    if (len == 0 || len > 19 || !isdigit((uint8_t)digits[0]))
        return false;
    *ret = strtoull(digits, &end, 10);
    if (*end == '.')
        for (end++; *end == '0';)
            end++;
    reader->in = vd_slice(reader->in.data + len, reader->in.len - len);
    return *end == '\0';
}

static bool take_field(reader_t *reader, rot_ask_options_t *options)
{
    uint64_t number = 0;
    if (take(reader, "\"rate\"")) {
        options->has_rate = true;
        return take(reader, ":") && take_number(reader, &options->rate);
    }
    if (take(reader, "\"maxLatencyRise\"")) {
        bool good = take(reader, ":") && take_number(reader, &number) && number <= 10000;
        options->has_rise = true;
        options->rise = (uint32_t)number;
        return good;
    }
    if (!take(reader, "\"force\"") || !take(reader, ":"))
        return false;
    options->force = take(reader, "true");
    return options->force || take(reader, "false");
}

int rot_ask_options_parse(vd_slice_t argument, rot_ask_options_t *ret_options, vd_error_t *err)
{
    reader_t reader = {.in = argument};
    rot_ask_options_t options = {0};
    blanks(&reader);
    bool good = reader.in.len == 0 || take(&reader, "{");
    if (good && reader.in.len > 0 && !take(&reader, "}")) {
        do
            good = take_field(&reader, &options);
        while (good && take(&reader, ","));
        good = good && take(&reader, "}");
    }
    blanks(&reader);
    if (!good || reader.in.len > 0)
        return vd_error_set(
            err, VD_ERR_BAD_VALUE,
            "expected an object of rate (bytes per second), maxLatencyRise (percent, "
            "at most 10000) and force (true or false)");
    *ret_options = options;
    return VD_OK;
}
