/* veddb-supervisor/vedctl/client.c — one question to the supervisor over its control socket, and
 * what verbs do alike with its answer. */
#include "libcommon/runtime/daemon.h"
#include "libcommon/runtime/local.h"
#include "proto/control.h"
#include "veddb-supervisor/vedctl/show.h"
#include "veddb-supervisor/vedctl/verbs.h"

#include <stdio.h>

#define ANSWER_WAIT_MS 10000
#define WORKER_WAIT_MS 40000 /* the supervisor itself waits for 30 s */

static int ask_for(const vedctl_t *ctl, const char *verb, const char *argument,
                   const char *argument2, uint32_t wait_ms, vd_buf_t *body)
{
    vd_error_t err = VD_ERROR_INIT;
    vd_buf_t packet, answer;
    vd_buf_init(&packet, 16 * 1024); /* the longest arguments fit */
    vd_buf_init(&answer, VD_LOCAL_PACKET_MAX);
    vdp_envelope_t envelope = {.id = VDP_OPERATOR_REQUEST, .request_id = 1, .deadline_ms = wait_ms};
    vdp_operator_request_t request = {.verb = vd_slice_str(verb),
                                      .argument = vd_slice_str(argument),
                                      .argument2 = vd_slice_str(argument2)};
    vdp_operator_reply_t reply = {0};
    vd_slice_t rest, json = VD_SLICE_NULL;

    int rc = vdp_encode(&packet, &envelope, &vdp_operator_request, &request, VD_SLICE_NULL, &err);
    if (rc == VD_OK)
        rc = vd_local_call(ctl->socket, vd_buf_slice(&packet), wait_ms, -1, &answer, &err);
    if (rc == VD_OK)
        rc = vdp_decode_envelope(vd_buf_slice(&answer), &envelope, &rest, &err);
    if (rc == VD_OK && envelope.id != VDP_OPERATOR_REPLY)
        rc = vd_error_set(&err, VD_ERR_PROTOCOL, "%s answered with message %u", ctl->socket,
                          envelope.id);
    if (rc == VD_OK)
        rc = vdp_decode(&vdp_operator_reply, rest, &reply, &json, &err);
    if (rc == VD_OK && reply.code != VD_OK)
        rc = vd_error_set(&err, (int)reply.code, "%.*s", VD_SLICE_FMT(reply.message));
    if (rc == VD_OK && body != NULL)
        rc = vd_buf_append_slice(body, json);
    if (rc == VD_OK && body == NULL && reply.message.len > 0)
        printf("%.*s\n", VD_SLICE_FMT(reply.message));
    if (rc != VD_OK)
        fprintf(stderr, "vedctl: %s\n", err.message);
    vd_buf_done(&packet);
    vd_buf_done(&answer);
    return rc;
}

int vedctl_ask(const vedctl_t *ctl, const char *verb, const char *argument, const char *argument2,
               vd_buf_t *body)
{
    return ask_for(ctl, verb, argument, argument2, ANSWER_WAIT_MS, body);
}

int vedctl_ask_worker(const vedctl_t *ctl, const char *verb, const char *argument,
                      const char *argument2, vd_buf_t *body)
{
    return ask_for(ctl, verb, argument, argument2, WORKER_WAIT_MS, body);
}

bson_t *vedctl_ask_document(const vedctl_t *ctl, const char *verb, const char *argument,
                            const char *argument2, vd_buf_t *json)
{
    vd_buf_clear(json);
    return vedctl_ask_worker(ctl, verb, argument, argument2, json) == VD_OK ? vedctl_parse(json)
                                                                            : NULL;
}

int vedctl_ask_and_print(const vedctl_t *ctl, const char *verb, const char *argument,
                         const char *argument2, void (*print)(const bson_t *doc))
{
    vd_buf_t json;
    vd_buf_init(&json, VD_LOCAL_PACKET_MAX);
    bson_t *doc = vedctl_ask_document(ctl, verb, argument, argument2, &json);
    vd_slice_t text = vd_buf_slice(&json);
    if (doc != NULL && (ctl->json || print == NULL))
        printf("%.*s\n", VD_SLICE_FMT(text));
    else if (doc != NULL)
        print(doc);
    int exit_code = doc != NULL ? VD_EXIT_OK : VD_EXIT_FAILURE;
    if (doc != NULL)
        bson_destroy(doc);
    vd_buf_done(&json);
    return exit_code;
}

int vedctl_wrong_usage(const char *usage)
{
    fputs(usage, stderr);
    return VD_EXIT_USAGE;
}
