/* tests/support/gate_fixture.h — a whole gateway in the test's process, before a fake storage, and
 * a blocking client that speaks the wire protocol over real TLS.
 *
 * Owner: the test. The gateway runs on a thread of its own. Failures of the client are returned, so
 *        that tests can expect them; failures of the set-up end the process. */
#pragma once
#include "libcommon/bson/build.h"
#include "tests/support/fake_storage.h"
#include "veddb-gatewayd/gatewayd.h"

#define FIXTURE_USER     "root"
#define FIXTURE_PASSWORD "correct horse"

typedef struct {
    char folder[64];
    gate_settings_t settings; /* may be changed between init and start */
    fake_storage_t *storage;
    gate_t *gate;
    vd_loop_t *loop;
    pthread_t thread;
    bool running;
    _Atomic bool ready;
    _Atomic bool drained;
} gate_fixture_t;

/* Folder, certificate, bootstrap file, settings for loopback and free ports. */
void gate_fixture_init(gate_fixture_t *fixture);
/* Storage (unless it runs already) and gateway. */
void gate_fixture_start(gate_fixture_t *fixture);
void gate_fixture_start_without_storage(gate_fixture_t *fixture);
/* Waits until the gateway has said that it is ready; false after 10 s. */
bool gate_fixture_wait_ready(gate_fixture_t *fixture);
void gate_fixture_done(gate_fixture_t *fixture);

typedef struct {
    int fd;
    SSL *ssl;
    SSL_CTX *context;
    int32_t next_id;
    int32_t last_reply_id, last_response_to;
    uint32_t last_flags;
    int32_t last_op;
    vd_buf_t reply; /* the last document */
    vd_bb_t bb;
} gate_client_t;

bool gate_client_open(gate_client_t *client, uint16_t port);
void gate_client_close(gate_client_t *client);
bool gate_client_send_bytes(gate_client_t *client, const void *bytes, size_t len);
/* One message; the document is borrowed until the next. false: the connection has ended. */
bool gate_client_receive(gate_client_t *client, vd_bson_t *ret_document);
/* Starts a command in client->bb; finish with gate_client_run, which adds $db. */
vd_bb_t *gate_client_begin(gate_client_t *client);
bool gate_client_run(gate_client_t *client, const char *db, vd_bson_t *ret_reply);
bool gate_client_send(gate_client_t *client, const char *db, uint32_t flags);
/* {name: 1} */
bool gate_client_simple(gate_client_t *client, const char *db, const char *name,
                        vd_bson_t *ret_reply);
/* {name: collection} */
bool gate_client_on(gate_client_t *client, const char *db, const char *name, const char *collection,
                    vd_bson_t *ret_reply);
/* SCRAM-SHA-256 in full; 0, or the error's code. */
int gate_client_login(gate_client_t *client, const char *db, const char *user,
                      const char *password);
/* The parts of it. out: the message, NUL-terminated. */
void gate_scram_client_first(const char *user, const char *nonce, char out[1024]);
bool gate_scram_client_final(const char *user, const char *nonce, const char *password,
                             vd_slice_t challenge, char out[1024], uint8_t ret_server[32]);

/* A new client, logged in as the administrator. */
void gate_client_admin(gate_client_t *client, gate_fixture_t *fixture);
bool reply_ok(vd_bson_t reply);
int reply_code(vd_bson_t reply);
bool reply_message_is(vd_bson_t reply, const char *text);
