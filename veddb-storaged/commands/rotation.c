/* veddb-storaged/commands/rotation.c — the commands about keys: rotated decides; no worker waits
 * for its answer. */
#include "veddb-storaged/rotation/rotation.h"
#include "veddb-storaged/args.h"
#include "veddb-storaged/commands/table.h"
#include "veddb-storaged/replication/positions.h"

#include <stdio.h>

static int to_rotated(stor_storage_t *storage, const vdp_replication_ask_t *question,
                      vd_slice_t body, stor_ask_answered_t answered, void *context, vd_error_t *err)
{
    (void)body; /* all is in the argument */
    if (storage->rotation_link == NULL)
        return vd_error_set(err, VD_ERR_HOST_UNREACHABLE, "the key holder can't be asked");
    return stor_rotation_link_ask(storage->rotation_link, question, answered, context, err);
}

static int ask(stor_request_t *request, const char *verb, const char *argument, vd_error_t *err)
{
    vdp_replication_ask_t question = {.verb = vd_slice_str(verb),
                                      .argument = vd_slice_str(argument)};
    return stor_positions_ask_by(request, to_rotated, &question, VD_SLICE_NULL, err);
}

typedef struct {
    int64_t rate, rise;
    bool force;
} rotate_t;

/* The command's fields as rotated reads them; the last one is of rotateKey alone. */
static int ask_with(stor_request_t *request, const char *verb, bool forces, vd_error_t *err)
{
    static const stor_arg_t table[] = {
        STOR_ARG("rate", STOR_ARG_COUNT, rotate_t, rate, 0),
        STOR_ARG("maxLatencyRise", STOR_ARG_COUNT, rotate_t, rise, 0),
        STOR_ARG("force", STOR_ARG_BOOL, rotate_t, force, 0),
    };
    rotate_t args = {.rate = -1, .rise = -1};
    char json[128];
    int len = 1;
    int rc = stor_args_parse(request->body, request->entry->name, true, table,
                             VD_COUNT_OF(table) - !forces, &args, err);
    if (rc != VD_OK)
        return rc;
    json[0] = '{';
    if (args.rate >= 0)
        len +=
            snprintf(json + len, sizeof json - (size_t)len, "\"rate\":%lld,", (long long)args.rate);
    if (args.rise >= 0)
        len += snprintf(json + len, sizeof json - (size_t)len, "\"maxLatencyRise\":%lld,",
                        (long long)args.rise);
    (void)snprintf(json + len, sizeof json - (size_t)len, "\"force\":%s}",
                   args.force ? "true" : "false");
    return ask(request, verb, json, err);
}

int stor_command_rotate_key(stor_request_t *request, vd_error_t *err)
{
    return ask_with(request, "rotate", true, err);
}

static int ask_plain(stor_request_t *request, const char *verb, vd_error_t *err)
{
    int rc = stor_args_parse(request->body, request->entry->name, true, NULL, 0, NULL, err);
    return rc == VD_OK ? ask(request, verb, "", err) : rc;
}

int stor_command_rotation_status(stor_request_t *request, vd_error_t *err)
{
    return ask_plain(request, "status", err);
}

int stor_command_pause_rotation(stor_request_t *request, vd_error_t *err)
{
    return ask_plain(request, "pause", err);
}

int stor_command_resume_rotation(stor_request_t *request, vd_error_t *err)
{
    static const stor_arg_t table[] = {STOR_ARG("force", STOR_ARG_BOOL, rotate_t, force, 0)};
    rotate_t args = {0};
    int rc = stor_args_parse(request->body, "resumeRotation", true, table, VD_COUNT_OF(table),
                             &args, err);
    return rc == VD_OK ? ask(request, "resume", args.force ? "{\"force\":true}" : "", err) : rc;
}

int stor_command_cancel_rotation(stor_request_t *request, vd_error_t *err)
{
    return ask_plain(request, "cancel", err);
}

int stor_command_throttle_rotation(stor_request_t *request, vd_error_t *err)
{
    return ask_with(request, "throttle", false, err);
}

int stor_command_rotation_history(stor_request_t *request, vd_error_t *err)
{
    return ask_plain(request, "history", err);
}

int stor_command_verify_keys(stor_request_t *request, vd_error_t *err)
{
    return ask_plain(request, "verify", err);
}

int stor_command_rewrap_keys(stor_request_t *request, vd_error_t *err)
{
    return ask_plain(request, "rewrap", err);
}
